/* SPDX-License-Identifier: Apache-2.0
 *
 * Key chain of a long prompt (vLLM's sha256_cbor) against the bare hashing of the same bytes with the same cuts: SHA-256 of each
 * block's bytes, one after the other, nothing encoded and nothing chained. Then: a session that has grown hashes only what is new.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "tools/bench/bench.h"

enum {
	KEYS_TOKENS = 128 * 1024,
	KEYS_BLOCK_TOKENS = 16,
	KEYS_BLOCKS = KEYS_TOKENS / KEYS_BLOCK_TOKENS,
	KEYS_NEW_TOKENS = 512,
	KEYS_BYTES_MAX = 512, /* encoded, of one block */
};

struct keys {
	uint32_t tokens[KEYS_TOKENS + KEYS_NEW_TOKENS];
	uint8_t hashes[KEYS_BLOCKS][32];
	uint8_t encoded[KEYS_BLOCKS][KEYS_BYTES_MAX];
	uint32_t encoded_bytes[KEYS_BLOCKS];
	uint8_t bare[KEYS_BLOCKS][32];
};

/* CBOR head of an unsigned number or of a length, major type in the upper bits of `major`. */
static size_t keys_head(uint8_t *out, uint8_t major, uint32_t value)
{
	if (value < 24) {
		out[0] = (uint8_t)(major | value);
		return 1;
	}
	unsigned bytes = value < 256 ? 1 : value < 65536 ? 2 : 4;
	out[0] = (uint8_t)(major | (bytes == 1 ? 24 : bytes == 2 ? 25 : 26));
	for (unsigned i = 0; i < bytes; i++)
		out[1 + i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
	return 1 + bytes;
}

/* The bytes that the chain hashes for block i, written as vLLM encodes them. */
static void keys_encode(struct keys *keys, uint32_t block, const uint8_t parent[32])
{
	uint8_t *out = keys->encoded[block];
	size_t at = 0;

	at += keys_head(out + at, 0x80, 3);
	at += keys_head(out + at, 0x40, 32);
	memcpy(out + at, parent, 32);
	at += 32;
	at += keys_head(out + at, 0x80, KEYS_BLOCK_TOKENS);
	for (uint32_t i = 0; i < KEYS_BLOCK_TOKENS; i++)
		at += keys_head(out + at, 0x00, keys->tokens[block * KEYS_BLOCK_TOKENS + i]);
	out[at++] = 0xf6;
	keys->encoded_bytes[block] = (uint32_t)at;
}

static kvc_status_t keys_chain(struct keys *keys, struct kvci_hash_chain **ret_chain)
{
	size_t made;
	kvc_status_t status = kvci_hash_chain_create(KEYS_BLOCK_TOKENS, NULL, ret_chain);

	if (status != KVC_OK)
		return status;
	status = kvci_hash_chain_append(*ret_chain, keys->tokens, KEYS_TOKENS, NULL, 0, keys->hashes, KEYS_BLOCKS, &made);
	return status != KVC_OK ? status : made == KEYS_BLOCKS ? KVC_OK : KVC_INTERNAL;
}

static kvc_status_t keys_bare(struct keys *keys)
{
	return kvci_sha256_many(keys->encoded, KEYS_BYTES_MAX, keys->encoded_bytes, KEYS_BLOCKS, keys->bare);
}

/* The reference hashes the very bytes of the chain: that they are the same is checked. */
static kvc_status_t keys_prepare(struct keys *keys)
{
	struct kvci_hash_chain *chain = NULL;
	uint64_t random = 77;
	uint8_t root[32];

	for (uint32_t i = 0; i < KEYS_TOKENS + KEYS_NEW_TOKENS; i++)
		keys->tokens[i] = (uint32_t)(bench_random(&random) % 128256); /* Llama 3's vocabulary */
	kvc_status_t status = keys_chain(keys, &chain);
	kvci_hash_chain_destroy(chain);
	if (status == KVC_OK)
		status = kvci_sha256("\x6evllm-none-hash", 15, root); /* CBOR text of 14 characters */
	if (status != KVC_OK)
		return status;
	for (uint32_t block = 0; block < KEYS_BLOCKS; block++)
		keys_encode(keys, block, block == 0 ? root : keys->hashes[block - 1]);
	status = keys_bare(keys);
	if (status == KVC_OK && memcmp(keys->bare, keys->hashes, sizeof(keys->bare)) != 0)
		status = KVC_INTERNAL;
	return status;
}

static kvc_status_t keys_pair(struct keys *keys, bool reference_first, struct bench_pairs *pairs)
{
	double ours_ns = 0, reference_ns = 0;

	for (unsigned leg = 0; leg < 2; leg++) {
		bool is_reference = (leg == 0) == reference_first;
		struct kvci_hash_chain *chain = NULL;
		uint64_t begin_ns = bench_now_ns();
		kvc_status_t status = is_reference ? keys_bare(keys) : keys_chain(keys, &chain);
		double ns = (double)(bench_now_ns() - begin_ns);
		kvci_hash_chain_destroy(chain);
		if (status != KVC_OK)
			return status;
		*(is_reference ? &reference_ns : &ours_ns) = ns;
	}
	return bench_pairs_add(pairs, ours_ns, reference_ns);
}

static kvc_status_t keys_whole(const struct bench_options *options, struct keys *keys, struct bench_report *report)
{
	struct bench_pairs pairs = { 0 };
	struct bench_result result = {
		.bench = "keys", .name = "chain_128K_tokens", .reference_name = "bare SHA-256", .bar_kind = BENCH_BAR_RATIO_MIN,
		.bar = 0.75,
	};
	uint32_t count = bench_pair_count(options, 101, 21);
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < count && status == KVC_OK; i++)
		status = keys_pair(keys, bench_reference_first(i), &pairs);
	if (status == KVC_OK) {
		bench_pairs_into(&pairs, 0, &result);
		result.p50_us = bench_samples_at(&pairs.ours, 0.5) / 1e3;
		result.p99_us = bench_samples_at(&pairs.ours, 0.99) / 1e3;
		bench_result_count(&result, "hashes", KEYS_BLOCKS);
		bench_report_add(report, &result);
	}
	bench_pairs_fini(&pairs);
	return status;
}

/* A session of 128 K tokens that grows by 512: ours against hashing all of it again; 1/256 of the work is new. */
static kvc_status_t keys_grown(const struct bench_options *options, struct keys *keys, struct bench_report *report)
{
	struct bench_pairs pairs = { 0 };
	struct bench_result result = {
		.bench = "keys", .name = "session_grows_512_tokens", .reference_name = "from token 0",
		.bar_kind = BENCH_BAR_RATIO_MIN, .bar = 100,
	};
	uint32_t count = bench_pair_count(options, 51, 11);
	uint8_t hashes[KEYS_NEW_TOKENS / KEYS_BLOCK_TOKENS][32];
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < count && status == KVC_OK; i++) {
		struct kvci_hash_chain *chain = NULL;
		size_t made = 0;
		uint64_t begin_ns = bench_now_ns();
		status = keys_chain(keys, &chain);
		uint64_t middle_ns = bench_now_ns();
		if (status == KVC_OK)
			status = kvci_hash_chain_append(chain, keys->tokens + KEYS_TOKENS, KEYS_NEW_TOKENS, NULL, 0, hashes,
			                                KEYS_NEW_TOKENS / KEYS_BLOCK_TOKENS, &made);
		uint64_t end_ns = bench_now_ns();
		kvci_hash_chain_destroy(chain);
		if (status == KVC_OK && made != KEYS_NEW_TOKENS / KEYS_BLOCK_TOKENS)
			status = KVC_INTERNAL;
		if (status == KVC_OK)
			status = bench_pairs_add(&pairs, (double)(end_ns - middle_ns), (double)(middle_ns - begin_ns));
	}
	if (status == KVC_OK) {
		bench_pairs_into(&pairs, 0, &result);
		bench_result_count(&result, "hashes", KEYS_NEW_TOKENS / KEYS_BLOCK_TOKENS);
		bench_report_add(report, &result);
	}
	bench_pairs_fini(&pairs);
	return status;
}

kvc_status_t bench_keys(const struct bench_options *options, struct bench_report *report)
{
	struct keys *keys = kvci_alloc(sizeof(*keys));

	if (keys == NULL)
		return KVC_NO_MEMORY;
	kvc_status_t status = keys_prepare(keys);
	if (status == KVC_OK && bench_wanted(options, "keys", "chain_128K_tokens"))
		status = keys_whole(options, keys, report);
	if (status == KVC_OK && bench_wanted(options, "keys", "session_grows_512_tokens"))
		status = keys_grown(options, keys, report);
	kvci_free(keys);
	return status;
}
