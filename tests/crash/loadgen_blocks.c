/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/crash/loadgen.h"

#include <stdlib.h>
#include <string.h>

enum { LOADGEN_LAYERS = 4, LOADGEN_ENGINE_BLOCK_TOKENS = 16, LOADGEN_PAGES = 2 };

static uint64_t loadgen_mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

int loadgen_shape_init(struct loadgen_shape *shape, uint64_t block_bytes, uint32_t blocks)
{
	uint64_t token_bytes = block_bytes / LOADGEN_LAYERS / (LOADGEN_PAGES * LOADGEN_ENGINE_BLOCK_TOKENS);
	uint32_t head_dim = (uint32_t)(token_bytes / 2 / 2); /* K and V of one head, two bytes an element */

	memset(shape, 0, sizeof(*shape));
	shape->form = (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form),
		.layer_count = LOADGEN_LAYERS,
		.block_tokens = LOADGEN_PAGES * LOADGEN_ENGINE_BLOCK_TOKENS,
		.engine_block_tokens = LOADGEN_ENGINE_BLOCK_TOKENS,
		.kv_heads = 1,
		.head_dim_k = head_dim < 4 ? 4 : head_dim,
		.head_dim_v = head_dim < 4 ? 4 : head_dim,
		.dtype = KVC_DTYPE_BF16,
		.arrangement = KVC_KV_FUSED,
		.order = KVC_ORDER_HN,
		.group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
	if (kvc_form_sizes(&shape->form, &shape->sizes, NULL) != KVC_OK)
		return 0;
	shape->pages = blocks * LOADGEN_PAGES;
	for (uint32_t layer = 0; layer < LOADGEN_LAYERS; layer++) {
		void *base = malloc((size_t)shape->pages * shape->sizes.page_bytes);
		if (base == NULL) {
			loadgen_shape_fini(shape);
			return 0;
		}
		shape->layers[layer] = (struct kvc_layer_memory){
			.base = base,
			.block_stride_bytes = shape->sizes.page_bytes,
			.block_count = shape->pages,
			.run_count = { 1, 1 },
			.run_bytes = shape->sizes.page_bytes,
		};
	}
	return 1;
}

void loadgen_shape_fini(struct loadgen_shape *shape)
{
	for (uint32_t layer = 0; layer < LOADGEN_LAYERS; layer++)
		free(shape->layers[layer].base);
	memset(shape, 0, sizeof(*shape));
}

void loadgen_hash(uint64_t seed, uint64_t chain, uint32_t index, uint8_t hash[KVC_HASH_BYTES])
{
	uint64_t state = loadgen_mix(loadgen_mix(seed) ^ loadgen_mix(chain * 2 + 1) ^ ((uint64_t)index << 32));

	for (unsigned i = 0; i < KVC_HASH_BYTES / 8; i++) {
		state = loadgen_mix(state + i);
		memcpy(hash + 8 * i, &state, 8);
	}
}

static uint64_t *loadgen_page(const struct loadgen_shape *shape, uint32_t slot, uint32_t layer, uint32_t page)
{
	size_t number = (size_t)slot * LOADGEN_PAGES + page;

	return (uint64_t *)(void *)((char *)shape->layers[layer].base + number * shape->sizes.page_bytes);
}

static uint64_t loadgen_page_seed(const uint8_t hash[KVC_HASH_BYTES], uint32_t layer, uint32_t page)
{
	uint64_t word;

	memcpy(&word, hash + 8, sizeof(word));
	return loadgen_mix(word ^ ((uint64_t)layer << 8) ^ page);
}

/* Cheap a word, yet no two words or pages alike. */
static inline uint64_t loadgen_word(uint64_t page_seed, uint64_t index)
{
	return (page_seed + index) * UINT64_C(0x9fb21c651e98df25);
}

void loadgen_fill(const struct loadgen_shape *shape, uint32_t slot, const uint8_t hash[KVC_HASH_BYTES])
{
	for (uint32_t layer = 0; layer < LOADGEN_LAYERS; layer++)
		for (uint32_t page = 0; page < LOADGEN_PAGES; page++) {
			uint64_t *words = loadgen_page(shape, slot, layer, page);
			uint64_t seed = loadgen_page_seed(hash, layer, page);
			for (uint64_t i = 0; i < shape->sizes.page_bytes / 8; i++)
				words[i] = loadgen_word(seed, i);
		}
}

int loadgen_check(const struct loadgen_shape *shape, uint32_t slot, const uint8_t hash[KVC_HASH_BYTES])
{
	uint64_t wrong = 0, right = 0;

	for (uint32_t layer = 0; layer < LOADGEN_LAYERS; layer++)
		for (uint32_t page = 0; page < LOADGEN_PAGES; page++) {
			const uint64_t *words = loadgen_page(shape, slot, layer, page);
			uint64_t seed = loadgen_page_seed(hash, layer, page);
			for (uint64_t i = 0; i < shape->sizes.page_bytes / 8; i++) {
				if (words[i] == loadgen_word(seed, i))
					right++;
				else
					wrong++;
			}
		}
	if (wrong == 0)
		return 0;
	return right == 0 ? 2 : 1;
}

void loadgen_wipe(const struct loadgen_shape *shape, uint32_t slot)
{
	for (uint32_t layer = 0; layer < LOADGEN_LAYERS; layer++)
		memset(loadgen_page(shape, slot, layer, 0), 0xa5, LOADGEN_PAGES * shape->sizes.page_bytes);
}

void loadgen_engine_blocks(const struct loadgen_shape *shape, uint32_t slot, uint32_t count, uint32_t *engine_blocks)
{
	for (uint32_t i = 0; i < count * LOADGEN_PAGES; i++)
		engine_blocks[i] = slot * LOADGEN_PAGES + i;
}
