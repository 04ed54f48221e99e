/* SPDX-License-Identifier: Apache-2.0
 * Prompts and their KV, from a seed. */
#include "tools/kvcask/loadgen.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { LOADGEN_PAGE_ALIGN = 4096, LOADGEN_VOCABULARY = 49152, LOADGEN_ENGINE_BLOCK_TOKENS = 32, LOADGEN_MISSING = 0xa5 };

static uint64_t loadgen_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* A step that visits all of `count` pages before it comes back. */
static uint32_t loadgen_step(uint32_t count)
{
	uint32_t step = count / 3 + 1;

	for (;; step++) {
		uint32_t a = count, b = step;

		while (b != 0) {
			uint32_t rest = a % b;

			a = b;
			b = rest;
		}
		if (a == 1)
			return step;
	}
}

static kvc_status_t loadgen_form(struct loadgen_world *world, const char *shape, const char *dtype, const char **ret_wrong)
{
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .engine_block_tokens = LOADGEN_ENGINE_BLOCK_TOKENS, .arrangement = KVC_KV_SPLIT,
		.order = KVC_ORDER_HN,        .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	bool large = strcmp(shape, "large") == 0, wide = strcmp(dtype, "float32") == 0;

	*ret_wrong = shape;
	if (!large && strcmp(shape, "small") != 0)
		return KVC_INVALID;
	*ret_wrong = dtype;
	if (!wide && strcmp(dtype, "bfloat16") != 0)
		return KVC_INVALID;
	form.layer_count = large ? 32 : 30;
	form.kv_heads = large ? 8 : 3;
	form.head_dim_k = form.head_dim_v = large ? 128 : 64;
	form.dtype = wide ? KVC_DTYPE_F32 : KVC_DTYPE_BF16;
	/* Blocks of 1 to 4 MiB, as kvcask.vllm chooses them. */
	form.block_tokens = large || wide ? 32 : 64;
	world->form = form;
	world->kv_dtype = wide ? "float32" : "bfloat16";
	snprintf(world->model, sizeof(world->model), "loadgen-%s-%llu", shape, (unsigned long long)world->seed);
	return kvc_form_sizes(&form, &world->sizes, ret_wrong);
}

kvc_status_t loadgen_world_init(struct loadgen_world *world, const char *shape, const char *dtype, uint32_t prompt_tokens,
                                uint32_t shared_tokens, uint64_t seed, const char **ret_wrong)
{
	uint32_t pages;
	kvc_status_t status;

	*world = (struct loadgen_world){ .prompt_tokens = prompt_tokens, .shared_tokens = shared_tokens, .seed = seed };
	status = loadgen_form(world, shape, dtype, ret_wrong);
	if (status != KVC_OK)
		return status;
	world->prompt_blocks = prompt_tokens / world->form.block_tokens;
	pages = world->prompt_blocks * world->sizes.pages_per_section;
	world->layer_bytes = pages * world->sizes.page_bytes;
	world->pages_bytes = world->layer_bytes * world->form.layer_count;
	world->pages = kvci_alloc_aligned(LOADGEN_PAGE_ALIGN, world->pages_bytes);
	world->engine_blocks = kvci_alloc_zero(pages, sizeof(world->engine_blocks[0]));
	world->hashes = kvci_alloc_zero(world->prompt_blocks, sizeof(world->hashes[0]));
	world->store_blocks = kvci_alloc_zero(world->prompt_blocks, sizeof(world->store_blocks[0]));
	if (world->pages == NULL || world->engine_blocks == NULL || world->hashes == NULL || world->store_blocks == NULL) {
		loadgen_world_fini(world);
		return KVC_NO_MEMORY;
	}
	/* As in an engine that has run for a while: neighbours in the prompt are not neighbours in memory. */
	for (uint32_t i = 0; i < pages; i++)
		world->engine_blocks[i] = (uint32_t)((uint64_t)i * loadgen_step(pages) % pages);
	memset(world->pages, LOADGEN_MISSING, world->pages_bytes);
	return KVC_OK;
}

void loadgen_world_fini(struct loadgen_world *world)
{
	kvci_free(world->pages);
	kvci_free(world->engine_blocks);
	kvci_free(world->hashes);
	kvci_free(world->store_blocks);
	*world = (struct loadgen_world){ 0 };
}

kvc_status_t loadgen_world_open(const struct loadgen_world *world, struct kvc_client *client, struct kvc_space **ret_space)
{
	const struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = world->model, .model_name = "kvcask loadgen", .kv_dtype = world->kv_dtype,
		.hash_algorithm = "sha256_cbor",
	};
	struct kvc_layer_memory *layers = kvci_alloc_zero(world->form.layer_count, sizeof(layers[0]));
	struct kvc_space *space;
	kvc_status_t status;

	if (layers == NULL)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < world->form.layer_count; i++)
		layers[i] = (struct kvc_layer_memory){
			.base = world->pages + i * world->layer_bytes,
			.block_stride_bytes = world->sizes.page_bytes,
			.block_count = (uint64_t)world->prompt_blocks * world->sizes.pages_per_section,
			.run_count = { 1, 1 },
			.run_bytes = world->sizes.page_bytes,
		};
	status = kvc_space_open(client, &desc, &world->form, &space);
	if (status == KVC_OK) {
		status = kvc_space_set_memory(space, layers, world->form.layer_count);
		if (status == KVC_OK)
			*ret_space = space;
		else
			kvc_space_close(space);
	}
	kvci_free(layers);
	return status;
}

kvc_status_t loadgen_prompt(struct loadgen_world *world, uint32_t request)
{
	uint32_t *tokens = kvci_alloc_zero(world->prompt_tokens, sizeof(tokens[0]));
	uint32_t per_block = world->form.block_tokens / world->form.engine_block_tokens;
	size_t room = world->prompt_tokens / world->form.engine_block_tokens, count = 0;
	uint8_t(*chain_hashes)[KVC_HASH_BYTES] = kvci_alloc_zero(room, sizeof(chain_hashes[0]));
	struct kvc_chain *chain = NULL;
	kvc_status_t status = tokens != NULL && chain_hashes != NULL ? KVC_OK : KVC_NO_MEMORY;

	/* Two families of prompts: requests with the same parity begin with the same tokens. */
	for (uint32_t i = 0; status == KVC_OK && i < world->prompt_tokens; i++) {
		uint64_t who = i < world->shared_tokens ? request % 2 : 2 + (uint64_t)request;

		tokens[i] = (uint32_t)(loadgen_mix(world->seed * UINT64_C(0x9e3779b97f4a7c15) + (who << 32) + i) % LOADGEN_VOCABULARY);
	}
	if (status == KVC_OK)
		status = kvc_chain_create(world->form.engine_block_tokens, NULL, &chain);
	if (status == KVC_OK)
		status = kvc_chain_append(chain, tokens, world->prompt_tokens, chain_hashes, room, &count);
	for (uint32_t i = 0; status == KVC_OK && i < world->prompt_blocks; i++) {
		struct kvc_store_block *block = &world->store_blocks[i];

		memcpy(world->hashes[i], chain_hashes[(i + 1) * per_block - 1], KVC_HASH_BYTES);
		*block = (struct kvc_store_block){ .position_tokens = (uint64_t)i * world->form.block_tokens };
		memcpy(block->hash, world->hashes[i], KVC_HASH_BYTES);
		if (i != 0)
			memcpy(block->parent_hash, world->hashes[i - 1], KVC_HASH_BYTES);
	}
	kvc_chain_destroy(chain);
	kvci_free(tokens);
	kvci_free(chain_hashes);
	return status;
}

/* ---- contents: numbers like those of a real cache, most between 1/128 and 2 ---- */

static uint64_t loadgen_word(uint64_t seed, uint64_t at, bool wide)
{
	uint64_t random = loadgen_mix(seed + (at + 1) * UINT64_C(0x9e3779b97f4a7c15)), word = 0;

	for (unsigned bits = wide ? 32 : 16, shift = 0; shift < 64; shift += bits) {
		uint64_t number = (random >> shift) & ((UINT64_C(1) << bits) - 1), mantissa_bits = bits - 9;
		uint64_t exponent = 120 + (uint64_t)__builtin_popcountll((number >> mantissa_bits) & 0xff);

		number = (number & ~(UINT64_C(0xff) << mantissa_bits)) | exponent << mantissa_bits;
		word |= number << shift;
	}
	return word;
}

static uint64_t loadgen_page_seed(const struct loadgen_world *world, uint32_t block, uint32_t layer, uint32_t page)
{
	uint64_t seed;

	memcpy(&seed, world->hashes[block], sizeof(seed));
	return loadgen_mix(seed + layer * UINT64_C(0x100000001b3) + page);
}

static uint8_t *loadgen_page(const struct loadgen_world *world, uint32_t block, uint32_t layer, uint32_t page)
{
	uint32_t id = world->engine_blocks[block * world->sizes.pages_per_section + page];

	return world->pages + layer * world->layer_bytes + id * world->sizes.page_bytes;
}

void loadgen_compute(struct loadgen_world *world, uint32_t first, uint32_t count)
{
	bool wide = world->form.dtype == KVC_DTYPE_F32;

	for (uint32_t b = first; b < first + count; b++)
		for (uint32_t l = 0; l < world->form.layer_count; l++)
			for (uint32_t p = 0; p < world->sizes.pages_per_section; p++) {
				uint8_t *page = loadgen_page(world, b, l, p);
				uint64_t seed = loadgen_page_seed(world, b, l, p);

				for (uint64_t i = 0; i < world->sizes.page_bytes / 8; i++) {
					uint64_t word = loadgen_word(seed, i, wide);

					memcpy(page + 8 * i, &word, sizeof(word));
				}
			}
}

void loadgen_forget(struct loadgen_world *world, uint32_t first, uint32_t count)
{
	for (uint32_t b = first; b < first + count; b++)
		for (uint32_t l = 0; l < world->form.layer_count; l++)
			for (uint32_t p = 0; p < world->sizes.pages_per_section; p++)
				memset(loadgen_page(world, b, l, p), LOADGEN_MISSING, world->sizes.page_bytes);
}

uint64_t loadgen_wrong_bytes(const struct loadgen_world *world, uint32_t block)
{
	bool wide = world->form.dtype == KVC_DTYPE_F32;
	uint64_t wrong = 0;

	for (uint32_t l = 0; l < world->form.layer_count; l++)
		for (uint32_t p = 0; p < world->sizes.pages_per_section; p++) {
			const uint8_t *page = loadgen_page(world, block, l, p);
			uint64_t seed = loadgen_page_seed(world, block, l, p);

			for (uint64_t i = 0; i < world->sizes.page_bytes / 8; i++) {
				uint64_t found, word = loadgen_word(seed, i, wide);

				memcpy(&found, page + 8 * i, sizeof(found));
				for (found ^= word; found != 0; found >>= 8)
					wrong += (found & 0xff) != 0;
			}
		}
	return wrong;
}
