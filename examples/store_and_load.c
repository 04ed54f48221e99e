/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores the KV of a sequence and loads it back, as an engine would: bind a space with a form, hand over where the pages are, store, match with a
 * lease, load into other pages, compare, release.
 *
 *   store_and_load unix:/run/kvcask.sock
 *   store_and_load embedded:
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvcask/kvcask.h>

enum {
	LAYERS = 4,
	ENGINE_BLOCK_TOKENS = 16,
	BLOCK_TOKENS = 64,       /* a kvcask block: 4 pages of the engine a layer */
	BLOCKS = 8,              /* kvcask blocks in our sequence */
	PAGES = BLOCKS * BLOCK_TOKENS / ENGINE_BLOCK_TOKENS,
};
#define TIMEOUT_NS UINT64_C(5000000000)

static int failed(const char *what, kvc_status_t status)
{
	fprintf(stderr, "%s: %s: %s\n", what, kvc_status_name(status), kvc_last_error());
	return 1;
}

/* How the bytes of a block lie, and the engine's memory: one array of pages a layer; pages [0, PAGES) are stored from, [PAGES, 2 * PAGES) loaded to. */
static kvc_status_t bind(struct kvc_client *client, uint8_t **ret_memory, uint64_t *ret_page_bytes, struct kvc_space **ret_space)
{
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc),
		.model = "example-model-revision-1", /* an engine: kvc_model_identity(folder, ...) */
		.model_name = "example",
		.kv_dtype = "bfloat16",
		.hash_algorithm = "sha256_cbor",
	};
	struct kvc_form form = {
		.struct_bytes = sizeof(form),
		.layer_count = LAYERS,
		.block_tokens = BLOCK_TOKENS,
		.engine_block_tokens = ENGINE_BLOCK_TOKENS,
		.kv_heads = 2,
		.head_dim_k = 64,
		.head_dim_v = 64,
		.dtype = KVC_DTYPE_BF16,
		.arrangement = KVC_KV_SPLIT,
		.order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
	struct kvc_layer_memory layers[LAYERS];
	struct kvc_form_sizes sizes;
	struct kvc_space *space;
	uint8_t *memory;
	kvc_status_t status = kvc_space_open(client, &desc, &form, &space);

	if (status != KVC_OK)
		return status;
	kvc_space_sizes(space, &sizes);
	memory = calloc(LAYERS * 2 * PAGES, sizes.page_bytes);
	if (memory == NULL)
		return KVC_NO_MEMORY;
	for (unsigned i = 0; i < LAYERS; i++)
		layers[i] = (struct kvc_layer_memory){
			.base = memory + i * 2 * PAGES * sizes.page_bytes,
			.block_stride_bytes = sizes.page_bytes,
			.block_count = 2 * PAGES,
			.run_count = {1, 1},
			.run_bytes = sizes.page_bytes,
		};
	*ret_memory = memory;
	*ret_page_bytes = sizes.page_bytes;
	*ret_space = space;
	return kvc_space_set_memory(space, layers, LAYERS);
}

/* Names of the blocks: the hashes of the sequence's prefixes, of every fourth engine block. */
static kvc_status_t name_blocks(struct kvc_store_block blocks[BLOCKS], uint8_t hashes[BLOCKS][KVC_HASH_BYTES])
{
	uint32_t tokens[BLOCKS * BLOCK_TOKENS];
	uint8_t engine_hashes[PAGES][KVC_HASH_BYTES];
	struct kvc_chain *chain;
	size_t count = 0;
	kvc_status_t status = kvc_chain_create(ENGINE_BLOCK_TOKENS, NULL, &chain);

	if (status != KVC_OK)
		return status;
	for (unsigned i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
		tokens[i] = i * 7 % 32000;
	status = kvc_chain_append(chain, tokens, BLOCKS * BLOCK_TOKENS, engine_hashes, PAGES, &count);
	kvc_chain_destroy(chain);
	memset(blocks, 0, BLOCKS * sizeof(blocks[0]));
	for (unsigned i = 0; i < BLOCKS && status == KVC_OK; i++) {
		memcpy(hashes[i], engine_hashes[(i + 1) * (BLOCK_TOKENS / ENGINE_BLOCK_TOKENS) - 1], KVC_HASH_BYTES);
		memcpy(blocks[i].hash, hashes[i], KVC_HASH_BYTES);
		if (i > 0)
			memcpy(blocks[i].parent_hash, hashes[i - 1], KVC_HASH_BYTES);
		blocks[i].position_tokens = i * BLOCK_TOKENS;
	}
	return status;
}

static int store_and_load(struct kvc_client *client)
{
	struct kvc_request request = {.id = "request-1", .id_bytes = 9};
	struct kvc_store_block blocks[BLOCKS];
	uint8_t hashes[BLOCKS][KVC_HASH_BYTES];
	uint32_t from[PAGES], to[PAGES];
	struct kvc_match_result match;
	struct kvc_space *space = NULL;
	uint8_t *memory = NULL;
	uint64_t page_bytes = 0;
	int result = 0;
	kvc_status_t status = bind(client, &memory, &page_bytes, &space);

	if (status != KVC_OK || (status = name_blocks(blocks, hashes)) != KVC_OK)
		return failed("bind", status);
	for (unsigned i = 0; i < PAGES; i++) {
		from[i] = i;
		to[i] = 2 * PAGES - 1 - i;
	}
	for (unsigned layer = 0; layer < LAYERS; layer++) /* what the model computed */
		for (uint64_t i = 0; i < PAGES * page_bytes; i++)
			memory[layer * 2 * PAGES * page_bytes + i] = (uint8_t)(layer + i * 31 + (i >> 8));

	status = kvc_store(space, blocks, BLOCKS, from, TIMEOUT_NS, NULL);
	if (status != KVC_OK)
		return failed("store", status);
	status = kvc_match(space, (const uint8_t(*)[KVC_HASH_BYTES])hashes, BLOCKS, &request, KVC_MATCH_LEASE, TIMEOUT_NS, &match);
	if (status != KVC_OK)
		return failed("match", status);
	printf("matched %u of %u blocks, %u in memory, %llu bytes to load\n", match.matched_blocks, (unsigned)BLOCKS,
	       match.in_memory_blocks, (unsigned long long)match.load_bytes);
	status = kvc_load(space, &request, 0, match.matched_blocks, to, TIMEOUT_NS, NULL);
	if (status != KVC_OK)
		return failed("load", status);
	kvc_release(client, &request);

	for (unsigned layer = 0; layer < LAYERS; layer++)
		for (unsigned i = 0; i < PAGES; i++) {
			const uint8_t *base = memory + layer * 2 * PAGES * page_bytes;

			if (memcmp(base + from[i] * page_bytes, base + to[i] * page_bytes, page_bytes) != 0)
				result = 1;
		}
	printf("%s\n", result == 0 && match.matched_blocks == BLOCKS ? "all bytes are the same" : "BYTES DIFFER");
	kvc_space_close(space);
	free(memory);
	return result != 0 || match.matched_blocks != BLOCKS;
}

int main(int argc, char **argv)
{
	struct kvc_client *client;
	kvc_status_t status;
	int result;

	if (argc != 2) {
		fprintf(stderr, "usage: store_and_load unix:PATH | embedded:DIR\n");
		return 2;
	}
	status = kvc_open(argv[1], NULL, &client);
	if (status != KVC_OK)
		return failed("open", status);
	result = store_and_load(client);
	kvc_close(client);
	return result;
}
