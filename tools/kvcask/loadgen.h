/* SPDX-License-Identifier: Apache-2.0
 * The world of kvcask loadgen: an engine's pages, prompts, and the KV that each token of a prompt must have. All of it follows from a
 * seed, so that any process knows what any block must hold. */
#ifndef TOOL_LOADGEN_H
#define TOOL_LOADGEN_H

#include <kvcask/kvcask.h>

struct loadgen_world {
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	char model[64];
	const char *kv_dtype;
	uint32_t prompt_tokens, shared_tokens, prompt_blocks; /* full blocks of a prompt */
	uint64_t seed;

	uint8_t *pages; /* for one prompt: layers one after another */
	uint64_t pages_bytes, layer_bytes;
	uint32_t *engine_blocks; /* of block b: from b * pages_per_section on */

	/* of the prompt that was made last */
	uint8_t (*hashes)[KVC_HASH_BYTES];    /* prompt_blocks of them */
	struct kvc_store_block *store_blocks; /* the same, with parents and positions */
};

/* shape: "small" or "large". INVALID: a word that is none, with *ret_wrong naming it. */
kvc_status_t loadgen_world_init(struct loadgen_world *world, const char *shape, const char *dtype, uint32_t prompt_tokens,
                                uint32_t shared_tokens, uint64_t seed, const char **ret_wrong);
void loadgen_world_fini(struct loadgen_world *world);
kvc_status_t loadgen_world_open(const struct loadgen_world *world, struct kvc_client *client, struct kvc_space **ret_space);

/* Makes prompt number `request`: its tokens and the hashes of its blocks. */
kvc_status_t loadgen_prompt(struct loadgen_world *world, uint32_t request);
/* Writes the KV of blocks [first, first + count) of the prompt into their pages, as computing it would. */
void loadgen_compute(struct loadgen_world *world, uint32_t first, uint32_t count);
/* Overwrites their pages, so that bytes from before cannot pass for loaded ones. */
void loadgen_forget(struct loadgen_world *world, uint32_t first, uint32_t count);
/* How many bytes of the block's pages are not what computing it would have written. */
uint64_t loadgen_wrong_bytes(const struct loadgen_world *world, uint32_t block);

#endif
