/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the published codecs (pq, cachegen, xquant) share: parts made of tests/data, buffers with guards, streams pinned in
 * tests/golden. One part at a time; everything aborts the test when it fails.
 */
#ifndef KVC_TEST_PUBLISHED_H
#define KVC_TEST_PUBLISHED_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/rans.h"

enum { PUBLISHED_TOKENS = 128, PUBLISHED_HEADS = 3, PUBLISHED_DIMS = 64, PUBLISHED_GUARD = 0xa5, PUBLISHED_GUARD_BYTES = 64 };

static const char *const published_kernels[] = { "scalar", "avx2", "avx512" };
enum { PUBLISHED_KERNELS = sizeof(published_kernels) / sizeof(published_kernels[0]) };

struct published {
	const struct kvc_codec_ops *ops;
	struct kvc_codec_params params;
	struct kvc_form form;
	struct kvc_codec_part part;
	size_t raw_bytes, bound_bytes, scratch_bytes, coded_bytes;
	uint8_t *raw, *coded, *back, *scratch;
};

static inline uint8_t *published_guarded(size_t bytes)
{
	uint8_t *memory = kvci_alloc(bytes + PUBLISHED_GUARD_BYTES);

	assert_non_null(memory);
	memset(memory, PUBLISHED_GUARD, bytes + PUBLISHED_GUARD_BYTES);
	return memory;
}

static inline void published_check(const uint8_t *memory, size_t bytes)
{
	for (size_t i = 0; i < PUBLISHED_GUARD_BYTES; i++)
		assert_int_equal(memory[bytes + i], PUBLISHED_GUARD);
}

static inline float published_bf16(const uint8_t *at)
{
	uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline void published_to_bf16(float value, uint8_t *at)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	bits += 0x7fff + (bits >> 16 & 1);
	at[0] = (uint8_t)(bits >> 16);
	at[1] = (uint8_t)(bits >> 24);
}

/* `heads` and `dims` of the sample's K or V: the first tokens of one layer, bf16, [tokens][heads][dims]. */
static inline void published_sample(bool is_k, uint32_t tokens, uint32_t heads, uint32_t dims, uint8_t *raw)
{
	FILE *file = fopen(is_k ? KVC_SOURCE_DIR "/tests/data/kv-k.bf16" : KVC_SOURCE_DIR "/tests/data/kv-v.bf16", "rb");
	uint8_t row[PUBLISHED_HEADS * PUBLISHED_DIMS * 2];

	assert_non_null(file);
	for (uint32_t token = 0; token < tokens; token++) {
		assert_int_equal(fread(row, 1, sizeof(row), file), sizeof(row));
		for (uint32_t head = 0; head < heads; head++)
			memcpy(raw + ((size_t)token * heads + head) * dims * 2, row + (size_t)head * PUBLISHED_DIMS * 2, (size_t)dims * 2);
	}
	fclose(file);
}

/* A part of K or V in bf16, the sample in it. */
static inline void published_begin(struct published *run, const char *spec, bool is_k, uint32_t tokens, uint32_t heads, uint32_t dims)
{
	const char *wrong;

	memset(run, 0, sizeof(*run));
	assert_int_equal(kvc_codec_spec_parse(spec, &run->ops, &run->params, &wrong), KVC_OK);
	run->form = (struct kvc_form){
		.struct_bytes = sizeof(run->form), .layer_count = 1, .block_tokens = tokens, .engine_block_tokens = 16, .kv_heads = heads,
		.head_dim_k = dims, .head_dim_v = dims, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	run->part = (struct kvc_codec_part){ .form = &run->form, .is_k = is_k, .params = &run->params };
	run->raw_bytes = (size_t)tokens * heads * dims * 2;
	run->raw = kvci_alloc(run->raw_bytes);
	assert_non_null(run->raw);
	published_sample(is_k, tokens, heads, dims, run->raw);
}

static inline void published_end(struct published *run)
{
	kvci_free(run->raw);
	kvci_free(run->coded);
	kvci_free(run->back);
	kvci_free(run->scratch);
}

static inline void published_room(struct published *run)
{
	kvci_free(run->coded);
	kvci_free(run->back);
	kvci_free(run->scratch);
	run->bound_bytes = run->ops->bound_bytes(&run->part, run->raw_bytes);
	run->scratch_bytes = run->ops->scratch_bytes(&run->part, run->raw_bytes);
	run->coded = published_guarded(run->bound_bytes);
	run->back = published_guarded(run->raw_bytes);
	run->scratch = published_guarded(run->scratch_bytes);
}

static inline void published_encode(struct published *run)
{
	published_room(run);
	assert_int_equal(run->ops->encode(&run->part, run->raw, run->raw_bytes, run->coded, run->bound_bytes, run->scratch, &run->coded_bytes),
	                 KVC_OK);
	assert_true(run->coded_bytes <= run->bound_bytes);
	published_check(run->coded, run->bound_bytes);
	published_check(run->scratch, run->scratch_bytes);
}

/* A copy of exactly that size, so that a sanitizer sees what reads behind it. */
static inline kvc_status_t published_decode(struct published *run, const uint8_t *coded, size_t bytes)
{
	uint8_t *exact = kvci_alloc(bytes == 0 ? 1 : bytes);
	kvc_status_t status;

	assert_non_null(exact);
	memcpy(exact, coded, bytes);
	memset(run->scratch, PUBLISHED_GUARD, run->scratch_bytes);
	status = run->ops->decode(&run->part, exact, bytes, run->back, run->raw_bytes, run->scratch);
	kvci_free(exact);
	published_check(run->back, run->raw_bytes);
	published_check(run->scratch, run->scratch_bytes);
	return status;
}

/* Encodes and decodes with every kernel, all to the same bytes; returns the relative error, in the root of squares. */
static inline double published_round_trip(struct published *run)
{
	const char *before = kvci_rans_kernel();
	uint8_t *first = kvci_alloc(run->raw_bytes), *stream = NULL;
	double error = 0, size = 0;
	size_t stream_bytes = 0;

	assert_non_null(first);
	for (int i = 0; i < PUBLISHED_KERNELS; i++) {
		if (!kvci_rans_select(published_kernels[i]))
			continue;
		published_encode(run);
		assert_true(run->coded_bytes != 0);
		assert_int_equal(published_decode(run, run->coded, run->coded_bytes), KVC_OK);
		if (stream == NULL) {
			stream = kvci_alloc(run->coded_bytes);
			assert_non_null(stream);
			memcpy(stream, run->coded, stream_bytes = run->coded_bytes);
			memcpy(first, run->back, run->raw_bytes);
		}
		assert_int_equal(run->coded_bytes, stream_bytes);
		assert_memory_equal(run->coded, stream, stream_bytes);
		assert_memory_equal(run->back, first, run->raw_bytes);
	}
	assert_true(kvci_rans_select(before));
	kvci_free(first);
	kvci_free(stream);
	for (size_t i = 0; i < run->raw_bytes; i += 2) {
		double value = (double)published_bf16(run->raw + i), back = (double)published_bf16(run->back + i);

		error += (value - back) * (value - back);
		size += value * value;
	}
	return sqrt(error / size);
}

/* Every byte of a stream flipped once, and every length: an answer, and CORRUPT for what is too short or too long. */
static inline void published_damage(struct published *run)
{
	uint8_t *bytes = kvci_alloc(run->coded_bytes + 1);

	assert_non_null(bytes);
	for (size_t i = 0; i < run->coded_bytes; i++) {
		kvc_status_t status;

		memcpy(bytes, run->coded, run->coded_bytes);
		bytes[i] ^= (uint8_t)(1u << i % 8);
		status = published_decode(run, bytes, run->coded_bytes);
		assert_true(status == KVC_OK || status == KVC_CORRUPT);
	}
	memcpy(bytes, run->coded, run->coded_bytes);
	bytes[run->coded_bytes] = 0;
	for (size_t length = 0; length < run->coded_bytes; length += 1 + length / 64)
		assert_int_equal(published_decode(run, bytes, length), KVC_CORRUPT);
	assert_int_equal(published_decode(run, bytes, run->coded_bytes - 1), KVC_CORRUPT);
	assert_int_equal(published_decode(run, bytes, run->coded_bytes + 1), KVC_CORRUPT);
	kvci_free(bytes);
}

/* FNV-1a. */
static inline uint64_t published_hash(const uint8_t *bytes, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return hash;
}

/* The stream in tests/golden/NAME decodes to bytes with this hash. What is on disks must be read for ever, to the same bits. */
static inline void published_golden(struct published *run, const char *name, uint64_t hash)
{
	static uint8_t stream[1 << 16];
	char path[512];
	size_t length;
	FILE *file;

	snprintf(path, sizeof(path), KVC_SOURCE_DIR "/tests/golden/%s", name);
	file = fopen(path, "rb");
	assert_non_null(file);
	length = fread(stream, 1, sizeof(stream), file);
	fclose(file);
	published_room(run);
	for (int i = 0; i < PUBLISHED_KERNELS; i++)
		if (kvci_rans_select(published_kernels[i])) {
			assert_int_equal(published_decode(run, stream, length), KVC_OK);
			if (published_hash(run->back, run->raw_bytes) != hash)
				print_error("%s: decodes to %016llx\n", name, (unsigned long long)published_hash(run->back, run->raw_bytes));
			assert_true(published_hash(run->back, run->raw_bytes) == hash);
		}
}

/* Encodes and writes the stream to `path`, behind `head_bytes` of `head`. */
static inline int published_write(struct published *run, const char *path, const uint8_t *head, size_t head_bytes)
{
	FILE *file = fopen(path, "wb");
	int failed;

	published_encode(run);
	failed = file == NULL || run->coded_bytes == 0 || (head_bytes != 0 && fwrite(head, 1, head_bytes, file) != head_bytes) ||
	         fwrite(run->coded, 1, run->coded_bytes, file) != run->coded_bytes;
	if (file != NULL)
		failed |= fclose(file) != 0;
	return failed;
}

/* A seed of the fuzzer: K of 64 tokens in the form of tests/fuzz/fuzz_codec.c (two heads of 16, pages of 16 tokens). */
static inline int published_seed(const char *spec, const char *path)
{
	struct published run;
	uint8_t head[6] = { 0, KVC_DTYPE_BF16 - 1, 7, 0 };
	int failed;

	published_begin(&run, spec, true, 64, 2, 16);
	head[0] = (uint8_t)run.ops->id;
	head[4] = (uint8_t)run.raw_bytes;
	head[5] = (uint8_t)(run.raw_bytes >> 8);
	failed = published_write(&run, path, head, sizeof(head));
	published_end(&run);
	return failed;
}

#endif
