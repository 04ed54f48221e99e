/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to `split` and its entropy coder: every bit pattern and size by every kernel, the same stream from each, the ratio on
 * real KV, damage in each part of a stream, and the stream of tests/golden/split-v1.bin.
 *
 *   test_split            tests
 *   test_split --write    rewrites the golden file: only together with a new format version
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/rans.h"
#include "tests/support/random.h"

#define SAMPLE KVC_SOURCE_DIR "/tests/data/kv-"
#define GOLDEN KVC_SOURCE_DIR "/tests/golden/split-v1.bin"

enum { SAMPLE_BYTES = 128 * 3 * 64 * 2, GOLDEN_RAW_BYTES = 88 * 3 * 64 * 2, GUARD = 0xa5, GUARD_BYTES = 64 };

static const char *const kernels[] = { "scalar", "avx2", "avx512" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static struct kvc_form form_of(uint32_t dtype)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = 1, .block_tokens = 128, .engine_block_tokens = 16,
		.kv_heads = 3, .head_dim_k = 64, .head_dim_v = 64, .dtype = dtype, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
}

/* Buffers of one part, with guards behind them. */
struct bench {
	struct kvc_form form;
	struct kvc_codec_part part;
	size_t raw_bytes, bound, scratch_bytes, coded_bytes;
	uint8_t *raw, *coded, *back, *scratch;
};

static uint8_t *guarded(size_t bytes)
{
	uint8_t *memory = kvci_alloc(bytes + GUARD_BYTES);

	assert_non_null(memory);
	memset(memory, GUARD, bytes + GUARD_BYTES);
	return memory;
}

static void assert_guarded(const uint8_t *memory, size_t bytes)
{
	for (size_t i = 0; i < GUARD_BYTES; i++)
		assert_int_equal(memory[bytes + i], GUARD);
}

static void bench_begin(struct bench *bench, const struct kvc_form *form, bool is_k, size_t raw_bytes)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_id(KVC_CODEC_SPLIT);

	*bench = (struct bench){ .form = *form, .raw_bytes = raw_bytes };
	bench->part = (struct kvc_codec_part){ .form = &bench->form, .is_k = is_k };
	bench->bound = ops->bound_bytes(&bench->part, raw_bytes);
	bench->scratch_bytes = ops->scratch_bytes(&bench->part, raw_bytes);
	bench->raw = guarded(raw_bytes);
	bench->coded = guarded(bench->bound);
	bench->back = guarded(raw_bytes);
	bench->scratch = guarded(bench->scratch_bytes);
}

static void bench_end(struct bench *bench)
{
	kvci_free(bench->raw);
	kvci_free(bench->coded);
	kvci_free(bench->back);
	kvci_free(bench->scratch);
}

static void bench_encode(struct bench *bench)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_id(KVC_CODEC_SPLIT);

	assert_int_equal(ops->encode(&bench->part, bench->raw, bench->raw_bytes, bench->coded, bench->bound, bench->scratch,
	                             &bench->coded_bytes), KVC_OK);
	assert_guarded(bench->coded, bench->bound);
	assert_guarded(bench->scratch, bench->scratch_bytes);
	assert_true(bench->coded_bytes <= bench->raw_bytes - bench->raw_bytes / 32);
}

/* Exact copies, so that a sanitizer sees a byte read past the end. */
static kvc_status_t bench_decode(struct bench *bench, const uint8_t *coded, size_t coded_bytes)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_id(KVC_CODEC_SPLIT);
	uint8_t *exact = kvci_alloc(coded_bytes == 0 ? 1 : coded_bytes);
	kvc_status_t status;

	assert_non_null(exact);
	memcpy(exact, coded, coded_bytes);
	memset(bench->scratch, GUARD, bench->scratch_bytes); /* nothing is handed on in it */
	memset(bench->back, 0x55, bench->raw_bytes);
	status = ops->decode(&bench->part, exact, coded_bytes, bench->back, bench->raw_bytes, bench->scratch);
	assert_guarded(bench->back, bench->raw_bytes);
	assert_guarded(bench->scratch, bench->scratch_bytes);
	kvci_free(exact);
	return status;
}

/* By each kernel: the same stream as the first one's, and all decode it. Returns whether it shrank. */
static bool bench_check(struct bench *bench)
{
	uint8_t *first = guarded(bench->bound);
	size_t first_bytes = 0;

	for (int i = 0; i < KERNELS; i++) {
		if (!kvci_rans_select(kernels[i]))
			continue;
		bench_encode(bench);
		if (i == 0) {
			first_bytes = bench->coded_bytes;
			memcpy(first, bench->coded, first_bytes);
		}
		assert_int_equal(bench->coded_bytes, first_bytes);
		assert_memory_equal(bench->coded, first, first_bytes);
		if (first_bytes != 0) {
			assert_int_equal(bench_decode(bench, first, first_bytes), KVC_OK);
			assert_memory_equal(bench->back, bench->raw, bench->raw_bytes);
		}
	}
	kvci_free(first);
	return first_bytes != 0;
}

static void read_file(const char *path, uint8_t *bytes, size_t length)
{
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	assert_int_equal(fread(bytes, 1, length, file), length);
	fclose(file);
}

/* ---- every bit pattern ------------------------------------------------------------------------------------------------ */

enum fill { FILL_CONSTANT, FILL_TWO, FILL_NARROW, FILL_SPECIAL, FILL_RAMP, FILL_RANDOM, FILL_COUNT };

/* Upper bytes as the fill says, the others random; SPECIAL: of bf16 and f32 infinities, NaNs with any payload, denormals, zeros of both
 * signs; of the others much the same. */
static void fill_raw(uint8_t *raw, size_t bytes, size_t element_bytes, enum fill fill)
{
	static const uint8_t upper[] = { 0x7f, 0xff, 0x00, 0x80, 0x7f, 0x7c, 0xfc, 0x01 };

	for (size_t i = 0; i < bytes; i++) {
		uint64_t random = random_next();
		bool top = i % element_bytes == element_bytes - 1;

		raw[i] = (uint8_t)(random >> 32);
		if (fill == FILL_CONSTANT)
			raw[i] = top ? 0x3f : 0x80;
		else if (fill == FILL_RAMP)
			raw[i] = (uint8_t)(i / element_bytes / 7);
		else if (top && fill == FILL_TWO)
			raw[i] = random % 50 == 0 ? 0xff : 0x00;
		else if (top && fill == FILL_NARROW)
			raw[i] = (uint8_t)((random & 0x80) | (0x3b + __builtin_ctzll(random >> 8 | 1u << 5)));
		else if (top && fill == FILL_SPECIAL)
			raw[i] = upper[random % 8];
	}
}

static const struct {
	uint32_t dtype;
	size_t bytes;
} types[] = {
	{ KVC_DTYPE_BF16, 2 }, { KVC_DTYPE_F16, 2 }, { KVC_DTYPE_F32, 4 }, { KVC_DTYPE_F8_E4M3, 1 }, { KVC_DTYPE_F8_E5M2, 1 },
};
enum { TYPES = sizeof(types) / sizeof(types[0]) };

static void test_split__any_pattern_and_size__comes_back_from_every_kernel(void **context)
{
	static const size_t sizes[] = { 0, 1, 2, 3, 63, 64, 65, 127, 1000, 1023, 1024, 2047, 2048, 2049, 4095, 8192, 8197, 12289,
	                                32768, 32771, 49153, 98304, 131073 };
	uint32_t shrank = 0;

	(void)context;
	for (int type = 0; type < TYPES; type++)
		for (size_t size = 0; size < sizeof(sizes) / sizeof(sizes[0]); size++)
			for (int fill = 0; fill < FILL_COUNT; fill++) {
				struct kvc_form form = form_of(types[type].dtype);
				struct bench bench;

				bench_begin(&bench, &form, fill % 2 == 0, sizes[size]);
				fill_raw(bench.raw, sizes[size], types[type].bytes, (enum fill)fill);
				shrank += bench_check(&bench);
				bench_end(&bench);
			}
	assert_true(shrank > TYPES * 10 * 4); /* not all were given up */
}

/* Each of the 65,536 bf16 and f16 patterns, often enough to be coded. */
static void test_split__all_patterns__come_back(void **context)
{
	(void)context;
	for (int type = 0; type < 2; type++) {
		struct kvc_form form = form_of(types[type].dtype);
		struct bench bench;
		size_t count = 65536 + 5 * 65536;

		bench_begin(&bench, &form, true, 2 * count);
		for (size_t i = 0; i < count; i++) {
			uint16_t pattern = i % 6 == 0 ? (uint16_t)(i / 6) : 0x3f80;

			memcpy(bench.raw + 2 * i, &pattern, sizeof(pattern));
		}
		assert_true(bench_check(&bench));
		bench_end(&bench);
	}
}

static void test_split__any_form__comes_back(void **context)
{
	static const uint32_t dims[][2] = { { 64, 64 }, { 128, 128 }, { 80, 80 }, { 192, 128 }, { 40, 40 }, { 576, 0 }, { 7, 9 } };
	static const uint32_t heads[] = { 1, 2, 5, 300 };

	(void)context;
	for (size_t dim = 0; dim < sizeof(dims) / sizeof(dims[0]); dim++)
		for (size_t head = 0; head < sizeof(heads) / sizeof(heads[0]); head++)
			for (uint32_t way = 0; way < 8; way++) {
				struct kvc_form form = form_of(KVC_DTYPE_BF16);
				struct bench bench;

				form.head_dim_k = dims[dim][0];
				form.head_dim_v = dims[dim][1];
				form.kv_heads = heads[head];
				form.arrangement = way < 3 ? KVC_KV_FUSED : way < 6 ? KVC_KV_SPLIT : KVC_KV_LATENT;
				form.order = way % 2 == 0 ? KVC_ORDER_HN : KVC_ORDER_NH;
				form.page_extra_bytes = way == 5 ? 48 : 0;
				bench_begin(&bench, &form, way != 4, 70000 + way);
				fill_raw(bench.raw, bench.raw_bytes, 2, FILL_NARROW);
				assert_true(bench_check(&bench));
				bench_end(&bench);
			}
}

static void test_split__bytes_that_are_no_floats__left_raw(void **context)
{
	static const uint32_t dtypes[] = { KVC_DTYPE_I8, KVC_DTYPE_OPAQUE8 };

	(void)context;
	for (int i = 0; i < 2; i++) {
		struct kvc_form form = form_of(dtypes[i]);
		struct bench bench;

		bench_begin(&bench, &form, true, 5000);
		memset(bench.raw, 0, bench.raw_bytes);
		bench_encode(&bench);
		assert_int_equal(bench.coded_bytes, 0);
		assert_int_equal(bench_decode(&bench, bench.raw, 100), KVC_CORRUPT);
		bench_end(&bench);
	}
}

/* ---- ratio ------------------------------------------------------------------------------------------------------------ */

static double limit_of(const uint8_t *raw)
{
	double bits = 0, elements = SAMPLE_BYTES / 2.0;
	uint32_t counts[256] = { 0 };

	for (size_t i = 0; i < SAMPLE_BYTES; i += 2)
		counts[(raw[i] >> 7 | raw[i + 1] << 1) & 0xff]++;
	for (int i = 0; i < 256; i++)
		if (counts[i] != 0)
			bits += counts[i] * log2(elements / counts[i]);
	return 16 * elements / (bits + 8 * elements);
}

/* As one part a tensor, and as rows K|V in one part. */
static void test_split__real_kv__within_1_percent_of_the_order_0_limit(void **context)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16), fused = form_of(KVC_DTYPE_BF16);
	struct bench bench[2], both;
	double limits[2];

	(void)context;
	for (int i = 0; i < 2; i++) {
		bench_begin(&bench[i], &form, i == 0, SAMPLE_BYTES);
		read_file(i == 0 ? SAMPLE "k.bf16" : SAMPLE "v.bf16", bench[i].raw, SAMPLE_BYTES);
		assert_true(bench_check(&bench[i]));
		limits[i] = limit_of(bench[i].raw);
		assert_true((double)SAMPLE_BYTES / (double)bench[i].coded_bytes >= 0.99 * limits[i]);
	}
	assert_true((double)SAMPLE_BYTES / (double)bench[0].coded_bytes >= 1.50); /* K's channels differ: their classes pay */
	fused.arrangement = KVC_KV_FUSED;
	bench_begin(&both, &fused, true, (size_t)2 * SAMPLE_BYTES);
	for (size_t row = 0; row < SAMPLE_BYTES / 128; row++) {
		memcpy(both.raw + row * 256, bench[0].raw + row * 128, 128);
		memcpy(both.raw + row * 256 + 128, bench[1].raw + row * 128, 128);
	}
	assert_true(bench_check(&both));
	assert_true(both.coded_bytes <= (bench[0].coded_bytes + bench[1].coded_bytes) * 101 / 100);
	bench_end(&both);
	bench_end(&bench[0]);
	bench_end(&bench[1]);
}

/* Tables come from every so many-th token of a large part; here those have other exponents than the rest. */
static void test_split__tokens_that_take_turns__still_near_the_limit(void **context)
{
	enum { TOKENS = 512, ROW = 192, BYTES = 2 * TOKENS * ROW };
	struct kvc_form form = form_of(KVC_DTYPE_BF16);

	(void)context;
	for (size_t every = 2; every <= 6; every++) {
		struct bench bench;

		bench_begin(&bench, &form, true, BYTES);
		for (size_t i = 0; i < BYTES / 2; i++) {
			uint32_t exponent = (uint32_t)(random_next() >> 32) % 8 + (i / ROW % every == 0 ? 100 : 120);
			uint16_t element = (uint16_t)(exponent << 7 | (random_next() >> 20 & 0x807f));

			memcpy(bench.raw + 2 * i, &element, sizeof(element));
		}
		assert_true(bench_check(&bench));
		/* 8 bits of sign and mantissa, 3 of the exponent, and which of the two: below 4 bits in all */
		assert_true((double)bench.coded_bytes <= 12.0 / 16 * BYTES + 1024);
		bench_end(&bench);
	}
}

/* Tables of a part of a few thousand elements come from a quarter of each row; here what is counted has other exponents than the rest, and every
 * eighth element one that is nowhere else. */
static void test_split__small_part_that_is_otherwise_where_not_counted__still_near_the_limit(void **context)
{
	enum { COUNT = 12288, BYTES = 2 * COUNT };
	struct kvc_form form = form_of(KVC_DTYPE_BF16);

	(void)context;
	form.arrangement = KVC_KV_FUSED;
	form.order = KVC_ORDER_HN;
	for (size_t turn = 0; turn < 4; turn++) {
		struct bench bench;

		bench_begin(&bench, &form, true, BYTES);
		for (size_t i = 0; i < COUNT; i++) {
			bool counted = i % 16 / 4 == (i / 128 + turn) % 4;
			uint32_t exponent = (uint32_t)(random_next() >> 32) % 8 + (counted ? 100 : i % 8 == 1 ? 90 : 120);
			uint16_t element = (uint16_t)(exponent << 7 | (random_next() >> 20 & 0x807f));

			memcpy(bench.raw + 2 * i, &element, sizeof(element));
		}
		assert_true(bench_check(&bench));
		/* 8 bits of sign and mantissa, 3 of the exponent, and which of the three: 1.3 bits; tables and states are 450 bytes */
		assert_true((double)bench.coded_bytes <= 12.4 / 16 * BYTES + 600);
		bench_end(&bench);
	}
}

/* The same values with the channels where the form says, and all mixed: one table does as well there, and is no larger than the limit and its own bytes. */
static void test_split__small_part_without_channels__as_good_as_one_table(void **context)
{
	enum { COUNT = 12288, BYTES = 2 * COUNT };
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	size_t coded[2];

	(void)context;
	form.arrangement = KVC_KV_FUSED;
	form.order = KVC_ORDER_HN;
	form.engine_block_tokens = form.block_tokens = 32;
	for (int mixed = 0; mixed < 2; mixed++) {
		struct bench bench;
		double bits = 0;
		uint32_t counts[256] = { 0 };

		bench_begin(&bench, &form, true, BYTES);
		for (size_t i = 0; i < COUNT; i++) {
			uint32_t channel = mixed ? (uint32_t)(random_next() >> 40) : (uint32_t)i;
			uint32_t a = (uint32_t)(random_next() >> 32), exponent = 120 + channel % 4 + a % 3 + (a >> 8) % 3;
			uint16_t element = (uint16_t)(exponent << 7 | (a >> 16 & 0x807f));

			counts[exponent]++;
			memcpy(bench.raw + 2 * i, &element, sizeof(element));
		}
		for (int i = 0; i < 256; i++)
			if (counts[i] != 0)
				bits += counts[i] * log2((double)COUNT / counts[i]);
		assert_true(bench_check(&bench));
		coded[mixed] = bench.coded_bytes;
		if (mixed) {
			assert_true((double)coded[1] <= COUNT + bits / 8 + 270); /* states and a table; classes of channels would be 96 bytes more */
			assert_true(coded[0] < coded[1]);
		}
		bench_end(&bench);
	}
}

/* ---- damage ----------------------------------------------------------------------------------------------------------- */

static void test_split__damage_behind_the_plane__inside_the_buffers_and_mostly_seen(void **context)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct bench bench;
	uint32_t tried = 0, unseen = 0;
	uint8_t *coded;
	size_t plane;

	(void)context;
	bench_begin(&bench, &form, true, 40001);
	fill_raw(bench.raw, bench.raw_bytes, 2, FILL_NARROW);
	assert_true(bench_check(&bench));
	coded = bench.coded;
	plane = bench.raw_bytes / 2 + 1;
	for (int i = 0; i < KERNELS; i++) {
		if (!kvci_rans_select(kernels[i]))
			continue;
		for (size_t at = plane; at < bench.coded_bytes; at += at < plane + 500 ? 1 : 37)
			for (int bit = 0; bit < 8; bit++) {
				kvc_status_t status;

				coded[at] ^= (uint8_t)(1u << bit);
				status = bench_decode(&bench, coded, bench.coded_bytes);
				/* Other symbols can make a stream that differs by one bit: the record's checksum is what finds damage. */
				assert_true(status == KVC_OK || status == KVC_CORRUPT);
				unseen += status == KVC_OK && memcmp(bench.back, bench.raw, bench.raw_bytes) != 0;
				tried++;
				coded[at] ^= (uint8_t)(1u << bit);
			}
		for (size_t cut = plane - 2; cut < bench.coded_bytes; cut += 1 + random_next() % 97)
			assert_int_equal(bench_decode(&bench, coded, cut), KVC_CORRUPT);
	}
	assert_true(tried > 5000 && unseen * 100 < tried);
	bench_end(&bench);
}

static void test_split__wrong_length_asked__corrupt(void **context)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct bench bench, other;

	(void)context;
	bench_begin(&bench, &form, true, 20000);
	fill_raw(bench.raw, bench.raw_bytes, 2, FILL_NARROW);
	assert_true(bench_check(&bench));
	for (int difference = -130; difference <= 130; difference += 13) {
		if (difference == 0)
			continue;
		bench_begin(&other, &form, true, (size_t)(20000 + difference));
		assert_int_equal(bench_decode(&other, bench.coded, bench.coded_bytes), KVC_CORRUPT);
		bench_end(&other);
	}
	bench_end(&bench);
}

/* ---- the entropy coder's tables ---------------------------------------------------------------------------------------- */

static void test_rans_normalise__any_counts__sum_and_no_symbol_lost(void **context)
{
	(void)context;
	for (int round = 0; round < 3000; round++) {
		uint32_t counts[256] = { 0 }, total = 0, live = round % 257;
		uint16_t frequencies[256], back[256];
		uint8_t bytes[KVCI_RANS_TABLE_BYTES_MAX + 2] = { 0 };
		const uint8_t *at = bytes;
		size_t length;

		for (uint32_t i = 0; i < live; i++)
			counts[live == 256 ? i : random_next() % 256] += (uint32_t)(random_next() >> (32 + random_next() % 32));
		kvci_rans_normalise(counts, frequencies);
		for (int symbol = 0; symbol < 256; symbol++) {
			total += frequencies[symbol];
			assert_true(counts[symbol] == 0 || frequencies[symbol] != 0);
		}
		assert_int_equal(total, KVCI_RANS_TOTAL);
		length = kvci_rans_table_write(frequencies, bytes);
		assert_true(length <= KVCI_RANS_TABLE_BYTES_MAX);
		assert_int_equal(kvci_rans_table_read(&at, bytes + sizeof(bytes), back), KVC_OK);
		assert_ptr_equal(at, bytes + length);
		assert_memory_equal(back, frequencies, sizeof(back));
	}
}

static void test_rans_table_read__sum_off__corrupt(void **context)
{
	/* symbols 5 to 6: 1,024 each; then 1,023 and 1,025 in their place */
	uint8_t good[] = { 5, 6, 0x84, 0x00, 0x84, 0x00, 0, 0 }, less[] = { 5, 6, 0x84, 0x00, 0x83, 0xff, 0, 0 },
		more[] = { 5, 6, 0x84, 0x00, 0x84, 0x01, 0, 0 }, behind[] = { 5, 6, 0x88, 0x00, 0, 9, 0, 0 };
	uint16_t frequencies[256];
	const uint8_t *at = good;

	(void)context;
	assert_int_equal(kvci_rans_table_read(&at, good + sizeof(good), frequencies), KVC_OK);
	assert_int_equal(frequencies[5], 1024);
	at = less;
	assert_int_equal(kvci_rans_table_read(&at, less + sizeof(less), frequencies), KVC_CORRUPT);
	at = more;
	assert_int_equal(kvci_rans_table_read(&at, more + sizeof(more), frequencies), KVC_CORRUPT);
	at = behind;
	assert_int_equal(kvci_rans_table_read(&at, behind + sizeof(behind), frequencies), KVC_CORRUPT);
}

/* ---- golden ----------------------------------------------------------------------------------------------------------- */

/* Decoding is pinned: an encoder may choose other tables, and what is on disks must still be read. */
static void test_split__golden_stream__decodes_to_the_sample(void **context)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct bench bench;
	uint8_t golden[GOLDEN_RAW_BYTES];
	FILE *file = fopen(GOLDEN, "rb");
	size_t length;

	(void)context;
	assert_non_null(file);
	length = fread(golden, 1, sizeof(golden), file);
	fclose(file);
	bench_begin(&bench, &form, true, GOLDEN_RAW_BYTES);
	read_file(SAMPLE "k.bf16", bench.raw, GOLDEN_RAW_BYTES);
	for (int i = 0; i < KERNELS; i++)
		if (kvci_rans_select(kernels[i])) {
			assert_int_equal(bench_decode(&bench, golden, length), KVC_OK);
			assert_memory_equal(bench.back, bench.raw, GOLDEN_RAW_BYTES);
		}
	bench_end(&bench);
}

static int write_golden(void)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct bench bench;
	FILE *file = fopen(GOLDEN, "wb");
	int failed;

	if (file == NULL)
		return 1;
	bench_begin(&bench, &form, true, GOLDEN_RAW_BYTES);
	read_file(SAMPLE "k.bf16", bench.raw, GOLDEN_RAW_BYTES);
	bench_encode(&bench);
	failed = fwrite(bench.coded, 1, bench.coded_bytes, file) != bench.coded_bytes;
	bench_end(&bench);
	return fclose(file) != 0 || failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rans_normalise__any_counts__sum_and_no_symbol_lost),
		cmocka_unit_test(test_rans_table_read__sum_off__corrupt),
		cmocka_unit_test(test_split__any_pattern_and_size__comes_back_from_every_kernel),
		cmocka_unit_test(test_split__all_patterns__come_back),
		cmocka_unit_test(test_split__any_form__comes_back),
		cmocka_unit_test(test_split__bytes_that_are_no_floats__left_raw),
		cmocka_unit_test(test_split__real_kv__within_1_percent_of_the_order_0_limit),
		cmocka_unit_test(test_split__tokens_that_take_turns__still_near_the_limit),
		cmocka_unit_test(test_split__small_part_without_channels__as_good_as_one_table),
		cmocka_unit_test(test_split__small_part_that_is_otherwise_where_not_counted__still_near_the_limit),
		cmocka_unit_test(test_split__damage_behind_the_plane__inside_the_buffers_and_mostly_seen),
		cmocka_unit_test(test_split__wrong_length_asked__corrupt),
		cmocka_unit_test(test_split__golden_stream__decodes_to_the_sample),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
