/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks whose every byte follows from their key, so that a reader can tell right bytes from wrong ones without
 * having seen the store: chain c of seed s has blocks 0, 1, 2, ...; word w of page p of layer l of a block is a mix
 * of its hash and (l, p, w).
 */
#ifndef KVC_TESTS_CRASH_LOADGEN_H
#define KVC_TESTS_CRASH_LOADGEN_H

#include <stdint.h>

#include <kvcask/kvcask.h>

struct loadgen_shape {
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	uint32_t pages;  /* engine blocks in our memory */
	struct kvc_layer_memory layers[KVC_FORM_LAYERS_MAX];
};

/* A form of about block_bytes a block, and engine memory for `blocks` of them. 0: no memory. */
int loadgen_shape_init(struct loadgen_shape *shape, uint64_t block_bytes, uint32_t blocks);
void loadgen_shape_fini(struct loadgen_shape *shape);

void loadgen_hash(uint64_t seed, uint64_t chain, uint32_t index, uint8_t hash[KVC_HASH_BYTES]);
/* Block slot `slot` of the engine memory <- the bytes of this hash. */
void loadgen_fill(const struct loadgen_shape *shape, uint32_t slot, const uint8_t hash[KVC_HASH_BYTES]);
/* 0: all bytes are this hash's. 1: wrong. 2: wrong, and not one word is right (another block, or nothing was written). */
int loadgen_check(const struct loadgen_shape *shape, uint32_t slot, const uint8_t hash[KVC_HASH_BYTES]);
/* Overwrites the slot, so that what a load did not write is seen. */
void loadgen_wipe(const struct loadgen_shape *shape, uint32_t slot);
/* The engine blocks of `count` slots from `slot` on. */
void loadgen_engine_blocks(const struct loadgen_shape *shape, uint32_t slot, uint32_t count, uint32_t *engine_blocks);

#endif
