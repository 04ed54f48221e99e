/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine's memory for tests: pages whose bytes follow from (seed, layer, block, byte), a form, and the checks. Include after cmocka.h.
 */
#ifndef KVC_TESTS_CONNECTOR_FIXTURE_H
#define KVC_TESTS_CONNECTOR_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvcask/kvcask.h>

#define FIXTURE_SECOND UINT64_C(1000000000)
#define FIXTURE_MS UINT64_C(1000000)

struct engine {
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	struct kvc_layer_memory *layers;
	uint8_t *memory;
	uint64_t memory_bytes, layer_bytes;
	uint32_t blocks;
};

static inline struct kvc_form fixture_form(uint32_t layers, uint32_t block_tokens)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form),
		.layer_count = layers,
		.block_tokens = block_tokens,
		.engine_block_tokens = 16,
		.kv_heads = 2,
		.head_dim_k = 32,
		.head_dim_v = 32,
		.dtype = KVC_DTYPE_BF16,
		.arrangement = KVC_KV_SPLIT,
		.order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
}

static inline struct kvc_space_desc fixture_desc(void)
{
	return (struct kvc_space_desc){
		.struct_bytes = sizeof(struct kvc_space_desc),
		.model = "0123456789abcdef",
		.model_name = "test",
		.kv_dtype = "bfloat16",
		.hash_algorithm = "sha256_cbor",
	};
}

static inline void engine_init(struct engine *engine, const struct kvc_form *form, uint32_t blocks)
{
	memset(engine, 0, sizeof(*engine));
	engine->form = *form;
	engine->blocks = blocks;
	assert_int_equal(kvc_form_sizes(form, &engine->sizes, NULL), KVC_OK);
	engine->layer_bytes = engine->sizes.page_bytes * blocks;
	engine->memory_bytes = engine->layer_bytes * form->layer_count;
	engine->memory = calloc(1, engine->memory_bytes);
	engine->layers = calloc(form->layer_count, sizeof(*engine->layers));
	assert_non_null(engine->memory);
	for (uint32_t i = 0; i < form->layer_count; i++)
		engine->layers[i] = (struct kvc_layer_memory){
			.base = engine->memory + i * engine->layer_bytes,
			.block_stride_bytes = engine->sizes.page_bytes,
			.block_count = blocks,
			.run_count = {1, 1},
			.run_bytes = engine->sizes.page_bytes,
		};
}

static inline void engine_fini(struct engine *engine)
{
	free(engine->memory);
	free(engine->layers);
}

static inline uint64_t engine_word(uint64_t seed, uint64_t layer, uint64_t at)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + layer * UINT64_C(0xbf58476d1ce4e5b9) + at;

	x ^= x >> 31;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 29;
}

/* The pages of kvcask block `block`, whose engine blocks are `pages`, filled from seed. */
static inline void engine_fill(struct engine *engine, const uint32_t *pages, uint64_t seed)
{
	for (uint32_t layer = 0; layer < engine->form.layer_count; layer++)
		for (uint32_t i = 0; i < engine->sizes.pages_per_section; i++) {
			uint8_t *page = engine->memory + layer * engine->layer_bytes + pages[i] * engine->sizes.page_bytes;

			for (uint64_t at = 0; at + 8 <= engine->sizes.page_bytes; at += 8) {
				uint64_t word = engine_word(seed, layer, i * engine->sizes.page_bytes + at);

				memcpy(page + at, &word, 8);
			}
		}
}

static inline int engine_holds(const struct engine *engine, const uint32_t *pages, uint64_t seed)
{
	for (uint32_t layer = 0; layer < engine->form.layer_count; layer++)
		for (uint32_t i = 0; i < engine->sizes.pages_per_section; i++) {
			const uint8_t *page = engine->memory + layer * engine->layer_bytes + pages[i] * engine->sizes.page_bytes;

			for (uint64_t at = 0; at + 8 <= engine->sizes.page_bytes; at += 8) {
				uint64_t word = engine_word(seed, layer, i * engine->sizes.page_bytes + at);

				if (memcmp(page + at, &word, 8) != 0)
					return 0;
			}
		}
	return 1;
}

/* Block i of a sequence named by `name`: its hash and its parent's. */
static inline void fixture_key(struct kvc_store_block *block, uint32_t name, uint32_t i, uint32_t block_tokens)
{
	memset(block, 0, sizeof(*block));
	memcpy(block->hash, &name, sizeof(name));
	memcpy(block->hash + 8, &i, sizeof(i));
	block->hash[31] = 1;
	if (i > 0) {
		uint32_t before = i - 1;

		memcpy(block->parent_hash, &name, sizeof(name));
		memcpy(block->parent_hash + 8, &before, sizeof(before));
		block->parent_hash[31] = 1;
	}
	block->position_tokens = (uint64_t)i * block_tokens;
}

/* A client with a space and an engine. */
struct fixture {
	struct kvc_client *client;
	struct kvc_space *space;
	struct engine engine;
	uint32_t count;                /* kvcask blocks in keys, hashes; pages has count * pages_per_section */
	struct kvc_store_block *keys;
	uint8_t (*hashes)[KVC_HASH_BYTES];
	uint32_t *pages, *pages_back;  /* the second half of the engine's memory: loads go there */
};

static inline void fixture_open(struct fixture *fixture, const char *target, uint32_t flags, const struct kvc_form *form,
                                uint32_t count)
{
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .flags = flags, .name = "test"};
	struct kvc_space_desc desc = fixture_desc();
	uint32_t per_block = form->block_tokens / form->engine_block_tokens;
	uint32_t total = count * per_block;

	memset(fixture, 0, sizeof(*fixture));
	fixture->count = count;
	engine_init(&fixture->engine, form, total * 2);
	fixture->keys = calloc(count, sizeof(*fixture->keys));
	fixture->hashes = calloc(count, KVC_HASH_BYTES);
	fixture->pages = calloc(total, sizeof(uint32_t));
	fixture->pages_back = calloc(total, sizeof(uint32_t));
	for (uint32_t i = 0; i < count; i++) {
		fixture_key(&fixture->keys[i], 1, i, form->block_tokens);
		memcpy(fixture->hashes[i], fixture->keys[i].hash, KVC_HASH_BYTES);
	}
	for (uint32_t i = 0; i < total; i++) { /* scattered, but each once */
		fixture->pages[i] = (uint32_t)((uint64_t)i * 7919 % total);
		fixture->pages_back[i] = total + total - 1 - i;
	}
	if (total % 7919 == 0)
		for (uint32_t i = 0; i < total; i++)
			fixture->pages[i] = i;
	for (uint32_t i = 0; i < count; i++)
		engine_fill(&fixture->engine, fixture->pages + i * per_block, 1000 + i);
	assert_int_equal(kvc_open(target, &options, &fixture->client), KVC_OK);
	assert_int_equal(kvc_space_open(fixture->client, &desc, form, &fixture->space), KVC_OK);
	assert_int_equal(kvc_space_set_memory(fixture->space, fixture->engine.layers, form->layer_count), KVC_OK);
}

static inline void fixture_close(struct fixture *fixture)
{
	kvc_space_close(fixture->space);
	kvc_close(fixture->client);
	engine_fini(&fixture->engine);
	free(fixture->keys);
	free(fixture->hashes);
	free(fixture->pages);
	free(fixture->pages_back);
}

static inline const uint32_t *fixture_back(const struct fixture *fixture, uint32_t block)
{
	return fixture->pages_back + block * fixture->engine.sizes.pages_per_section;
}

/* The block's pages of the second half hold what was stored. */
static inline int fixture_loaded(const struct fixture *fixture, uint32_t block)
{
	return engine_holds(&fixture->engine, fixture_back(fixture, block), 1000 + block);
}

static inline struct kvc_request fixture_request(const char *id)
{
	return (struct kvc_request){.id = id, .id_bytes = strlen(id)};
}

#endif
