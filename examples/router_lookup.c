/* SPDX-License-Identifier: Apache-2.0
 *
 * What a router asks: how much of this prompt does each engine's store hold? The prompt is hashed once; a conversation that grows is
 * hashed on from where it was, and each store is asked for what it has of the whole.
 *
 *   router_lookup MODEL unix:PATH [unix:PATH ...] < token ids, one turn of the conversation a line
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvcask/kvcask.h>

enum {
	ENGINE_BLOCK_TOKENS = 16,
	BLOCK_TOKENS = 64,
	STORES_MAX = 16,
	BLOCKS_MAX = 4096,
	LINE_BYTES = 1 << 16,
};
#define TIMEOUT_NS UINT64_C(20000000) /* a router does not wait */

struct store {
	const char *target;
	struct kvc_client *client;
	struct kvc_space *space;
};

static int failed(const char *what, kvc_status_t status)
{
	fprintf(stderr, "%s: %s: %s\n", what, kvc_status_name(status), kvc_last_error());
	return 1;
}

/* The same space and form as the engine's, or nothing will be found. A store that is away now is asked again later. */
static kvc_status_t open_store(struct store *store, const char *model)
{
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .flags = KVC_OPEN_LAZY, .name = "router"};
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc),
		.model = model,
		.kv_dtype = "bfloat16",
		.hash_algorithm = "sha256_cbor",
	};
	struct kvc_form form = {
		.struct_bytes = sizeof(form),
		.layer_count = 4,
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
	kvc_status_t status = kvc_open(store->target, &options, &store->client);

	return status == KVC_OK ? kvc_space_open(store->client, &desc, &form, &store->space) : status;
}

static void look_up(struct store *stores, unsigned store_count, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count)
{
	for (unsigned i = 0; i < store_count; i++) {
		struct kvc_match_result match;
		kvc_status_t status = kvc_match(stores[i].space, hashes, count, NULL, 0, TIMEOUT_NS, &match);

		if (status != KVC_OK)
			printf("  %-40s %s\n", stores[i].target, kvc_status_name(status));
		else
			printf("  %-40s %5u of %u tokens%s%s\n", stores[i].target, match.matched_blocks * BLOCK_TOKENS,
			       count * BLOCK_TOKENS, match.miss != 0 ? ", then: " : "",
			       match.miss != 0 ? kvc_miss_name(match.miss) : "");
	}
}

static size_t parse_tokens(const char *line, uint32_t *tokens, size_t room)
{
	size_t count = 0;
	char *end;

	while (count < room) {
		unsigned long token = strtoul(line, &end, 10);

		if (end == line)
			break;
		tokens[count++] = (uint32_t)token;
		line = end;
	}
	return count;
}

/* Each line adds to the conversation; only what is new is hashed. */
static int converse(struct store *stores, unsigned store_count)
{
	static char line[LINE_BYTES];
	static uint32_t tokens[LINE_BYTES / 2];
	static uint8_t engine_hashes[BLOCKS_MAX * (BLOCK_TOKENS / ENGINE_BLOCK_TOKENS)][KVC_HASH_BYTES];
	static uint8_t hashes[BLOCKS_MAX][KVC_HASH_BYTES];
	const size_t pages = BLOCK_TOKENS / ENGINE_BLOCK_TOKENS, room = sizeof(engine_hashes) / sizeof(engine_hashes[0]);
	size_t engine_count = 0;
	struct kvc_chain *chain;
	kvc_status_t status = kvc_chain_create(ENGINE_BLOCK_TOKENS, NULL, &chain);

	if (status != KVC_OK)
		return failed("chain", status);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		size_t count = parse_tokens(line, tokens, sizeof(tokens) / sizeof(tokens[0])), added;
		uint32_t blocks;

		status = kvc_chain_append(chain, tokens, count, engine_hashes + engine_count, room - engine_count, &added);
		if (status != KVC_OK)
			break;
		engine_count += added;
		blocks = (uint32_t)(engine_count / pages);
		for (uint32_t i = 0; i < blocks; i++)
			memcpy(hashes[i], engine_hashes[(i + 1) * pages - 1], KVC_HASH_BYTES);
		printf("%zu tokens more, %u blocks\n", count, blocks);
		look_up(stores, store_count, (const uint8_t(*)[KVC_HASH_BYTES])hashes, blocks);
	}
	kvc_chain_destroy(chain);
	return status == KVC_OK ? 0 : failed("hash", status);
}

int main(int argc, char **argv)
{
	struct store stores[STORES_MAX];
	unsigned count = 0;
	int result = 0;

	if (argc < 3 || argc - 2 > STORES_MAX) {
		fprintf(stderr, "usage: router_lookup MODEL unix:PATH [unix:PATH ...] < token ids, a turn a line\n");
		return 2;
	}
	memset(stores, 0, sizeof(stores));
	for (; (int)count < argc - 2 && result == 0; count++) {
		kvc_status_t status;

		stores[count].target = argv[count + 2];
		status = open_store(&stores[count], argv[1]);
		if (status != KVC_OK)
			result = failed(stores[count].target, status);
	}
	if (result == 0)
		result = converse(stores, count);
	for (unsigned i = 0; i < count; i++)
		kvc_close(stores[i].client);
	return result;
}
