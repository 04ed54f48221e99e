/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to int8, kv4 and fp8: the error of every element of random forms within what the quantiser promises, sinks and rows of high
 * scores better than that, the same stream and the same values from every kernel, the streams of tests/golden, damage in heads.
 *
 *   test_quant            tests
 *   test_quant --write    rewrites the golden files: only together with a new format version
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
#include "codec/codes.h"
#include "codec/layout.h"
#include "codec/quant.h"
#include "codec/rans.h"
#include "tests/support/random.h"

#define SAMPLE KVC_SOURCE_DIR "/tests/data/kv-"
#define GOLDEN KVC_SOURCE_DIR "/tests/golden/"

enum { SAMPLE_TOKENS = 128, SAMPLE_BYTES = SAMPLE_TOKENS * 3 * 64 * 2, GUARD = 0xa5, GUARD_BYTES = 64 };

static const char *const kernels[] = { "scalar", "avx2", "avx512" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static float random_normal(void)
{
	float sum = -6;

	for (int i = 0; i < 12; i++)
		sum += (float)(random_next() % 65536) / 65536;
	return sum;
}

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

/* ---- loops ------------------------------------------------------------------------------------------------------------------- */

static void test_quant__codes_of_each_width__packed_and_back_by_every_kernel(void **context)
{
	uint8_t codes[8 * 37], packed[8 * 37], first[8 * 37], back[8 * 37];

	(void)context;
	for (uint32_t bits = 2; bits <= 8; bits++) {
		for (size_t i = 0; i < sizeof(codes); i++)
			codes[i] = (uint8_t)(random_next() & ((1u << bits) - 1));
		for (int i = 0; i < KERNELS; i++) {
			if (!kvci_rans_select(kernels[i]))
				continue;
			memset(packed, GUARD, sizeof(packed));
			kvci_quant_kernel()->pack(bits, codes, 37, packed);
			if (i == 0)
				memcpy(first, packed, sizeof(packed));
			assert_memory_equal(packed, first, sizeof(packed));
			assert_int_equal(packed[0] & ((1u << bits) - 1), codes[0]);
			for (size_t at = (size_t)37 * bits; at < sizeof(packed); at++)
				assert_int_equal(packed[at], GUARD);
			kvci_quant_kernel()->unpack(bits, packed, 37, back);
			assert_memory_equal(back, codes, sizeof(codes));
		}
	}
}

/* A table of a sample codes rows that it has not seen; where they are of another kind all are counted. */
static void test_quant__sampled_codes__come_back_and_are_entropy_coded(void **context)
{
	enum { ROWS = 1024, DIMS = 64, CODES = ROWS * DIMS }; /* every fourth row is counted */
	const struct kvci_codes_shape shape = { .layers = 1, .heads = 1, .rows = ROWS, .dims = DIMS, .bits = 4 };
	const struct kvci_codes_choice choice = { .entropy = true, .classes = KVCI_RANS_CLASSES_MAX, .magnitude = 0xff };
	struct kvci_codes_writer *writer = kvci_alloc(sizeof(*writer));
	struct kvci_codes_reader *reader = kvci_alloc(sizeof(*reader));
	uint8_t *codes = kvci_alloc(CODES + 8), *out = kvci_alloc(kvci_codes_bound(&shape));

	(void)context;
	for (uint32_t other = 0; other < 2; other++) {
		size_t bytes;

		for (uint32_t i = 0; i < CODES; i++)
			codes[i] = i / DIMS % 4 == 0 ? (uint8_t)(3 + random_next() % 2) : other == 0 ? (uint8_t)(3 + random_next() % 3) : (uint8_t)(random_next() % 8);
		bytes = kvci_codes_write(writer, &shape, &choice, codes, out);
		assert_int_not_equal(out[0], 0); /* not packed */
		assert_true(bytes < (other == 0 ? CODES / 4 : CODES / 8 * 3));
		assert_int_equal(kvci_codes_read_begin(reader, &shape, out, bytes), KVC_OK);
		for (uint32_t row = 0; row < ROWS; row += 64) {
			const uint8_t *back = kvci_codes_read(reader, 0, 64);

			assert_non_null(back);
			assert_memory_equal(back, codes + (size_t)row * DIMS, (size_t)64 * DIMS);
		}
		assert_int_equal(kvci_codes_read_end(reader), KVC_OK);
	}
	kvci_free(writer);
	kvci_free(reader);
	kvci_free(codes);
	kvci_free(out);
}

/* What a code of an eight-bit float is. */
static double f8_value(bool e5m2, uint32_t code)
{
	int shift = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, exponent = (int)(code & 0x7f) >> shift, mantissa = (int)code & ((1 << shift) - 1);
	double value = exponent == 0 ? ldexp(mantissa, 1 - bias - shift) : ldexp((1 << shift) + mantissa, exponent - bias - shift);

	return (code & 0x80) != 0 ? -value : value;
}

static void check_f8(bool e5m2)
{
	uint32_t most = e5m2 ? 0x7b : 0x7e;
	struct quant_rows rows = { .dtype = KVC_DTYPE_F32, .count = 1, .dims = 4 };
	uint16_t one = 0x3f80;
	uint8_t codes[4], back[16];

	for (uint32_t code = 0; code < most; code++) {
		float here = (float)f8_value(e5m2, code), next = (float)f8_value(e5m2, code + 1), middle = here + (next - here) / 2;
		float four[4] = { here, nextafterf(middle, here), middle, -nextafterf(middle, next) };
		float got[4];

		kvci_quant_kernel()->f8_encode(&rows, (const uint8_t *)four, e5m2, true, (const uint8_t *)&one, codes);
		assert_int_equal(codes[0], code);
		assert_int_equal(codes[1], code);
		assert_int_equal(codes[2], code + (code & 1));
		assert_int_equal(codes[3], (code + 1) | 0x80);
		kvci_quant_kernel()->f8_decode(&rows, back, e5m2, true, (const uint8_t *)&one, codes);
		memcpy(got, back, sizeof(got));
		for (int i = 0; i < 4; i++)
			assert_true(got[i] == (float)f8_value(e5m2, codes[i]) && !signbit(got[i]) == (i != 3));
	}
}

static void test_quant__each_f8__exact_and_rounded_to_even(void **context)
{
	(void)context;
	for (int i = 0; i < KERNELS; i++)
		if (kvci_rans_select(kernels[i])) {
			check_f8(false);
			check_f8(true);
		}
}

/* ---- parts ------------------------------------------------------------------------------------------------------------------- */

static struct kvc_form form_random(void)
{
	static const uint32_t dims[] = { 16, 64, 72, 128, 200 };
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = 3, .engine_block_tokens = 1 + random_next() % 17,
		.kv_heads = 1 + random_next() % 3, .head_dim_k = dims[random_next() % 5], .head_dim_v = dims[random_next() % 5],
		.dtype = 1 + random_next() % 3, .arrangement = 1 + random_next() % 3, .order = 1 + random_next() % 2,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	struct kvc_form_sizes sizes;

	form.block_tokens = form.engine_block_tokens * (1 + random_next() % 9);
	if (form.arrangement == KVC_KV_LATENT) {
		form.kv_heads = 1;
		form.head_dim_v = form.order = 0;
	}
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	return form;
}

/* One part, what it is coded with, and its buffers. */
struct bench {
	const struct kvc_codec_ops *ops;
	struct kvc_form form;
	struct kvc_codec_params params;
	struct kvc_codec_part part;
	struct kvci_layout layout;
	size_t raw_bytes, coded_bytes;
	uint8_t *raw, *coded, *back, *scores;
};

static void bench_begin(struct bench *bench, const char *spec, const struct kvc_form *form, bool is_k)
{
	size_t dims = form->arrangement == KVC_KV_FUSED ? form->head_dim_k + form->head_dim_v :
	              form->arrangement == KVC_KV_LATENT || is_k ? form->head_dim_k : form->head_dim_v;
	const char *wrong;

	*bench = (struct bench){ .form = *form };
	assert_int_equal(kvc_codec_spec_parse(spec, &bench->ops, &bench->params, &wrong), KVC_OK);
	bench->part = (struct kvc_codec_part){ .form = &bench->form, .is_k = is_k || form->arrangement != KVC_KV_SPLIT, .params = &bench->params };
	bench->raw_bytes = form->block_tokens * form->kv_heads * dims * (form->dtype == KVC_DTYPE_F32 ? 4 : 2);
	assert_true(kvci_layout_of(&bench->part, bench->raw_bytes, &bench->layout));
	bench->raw = guarded(bench->raw_bytes);
	bench->back = guarded(bench->raw_bytes);
	bench->coded = guarded(bench->ops->bound_bytes(&bench->part, bench->raw_bytes));
	bench->scores = guarded((size_t)bench->layout.tokens * bench->layout.heads);
}

static void bench_end(struct bench *bench)
{
	kvci_free(bench->raw);
	kvci_free(bench->back);
	kvci_free(bench->coded);
	kvci_free(bench->scores);
}

/* Values as KV has them: channels of different scale and offset; some rows of zeros, some loud. */
static void bench_fill(struct bench *bench)
{
	float scale[256], offset[256], row[256];

	for (uint32_t plane = 0; plane < bench->layout.plane_count; plane++)
		for (uint32_t head = 0; head < bench->layout.heads; head++) {
			for (int i = 0; i < 256; i++) {
				scale[i] = exp2f(random_normal());
				offset[i] = random_next() % 8 == 0 ? 6 * random_normal() : 0;
			}
			for (uint32_t token = 0; token < bench->layout.tokens; token++) {
				struct kvci_layout_rows rows = { .plane = plane, .head = head, .token = token, .count = 1 };
				float loud = random_next() % 16 == 0 ? 0 : random_next() % 16 == 0 ? 100 : 1;

				for (uint32_t i = 0; i < bench->layout.planes[plane].dims; i++)
					row[i] = loud * (offset[i] + scale[i] * random_normal());
				kvci_layout_store(&bench->layout, bench->raw, &rows, row, 256);
			}
		}
}

/* Encodes and decodes by each kernel: the same bytes; `false`: did not shrink. */
static bool bench_round_trip(struct bench *bench)
{
	size_t bound = bench->ops->bound_bytes(&bench->part, bench->raw_bytes), scratch_bytes = bench->ops->scratch_bytes(&bench->part, bench->raw_bytes);
	uint8_t *first = guarded(bound), *first_back = guarded(bench->raw_bytes), *scratch = guarded(scratch_bytes + 1);
	size_t first_bytes = 0;

	for (int i = 0; i < KERNELS; i++) {
		bench->coded_bytes = SIZE_MAX;
		if (!kvci_rans_select(kernels[i]))
			continue;
		memset(scratch, GUARD, scratch_bytes);
		assert_int_equal(bench->ops->encode(&bench->part, bench->raw, bench->raw_bytes, bench->coded, bound, scratch + 1, &bench->coded_bytes),
		                 KVC_OK);
		assert_guarded(bench->coded, bound);
		assert_guarded(scratch, scratch_bytes + 1);
		if (i == 0)
			first_bytes = bench->coded_bytes;
		assert_int_equal(bench->coded_bytes, first_bytes);
		if (first_bytes == 0)
			continue;
		if (i == 0)
			memcpy(first, bench->coded, first_bytes);
		assert_memory_equal(bench->coded, first, first_bytes);
		memset(bench->back, GUARD, bench->raw_bytes);
		memset(scratch, 0, scratch_bytes);
		assert_int_equal(bench->ops->decode(&bench->part, bench->coded, first_bytes, bench->back, bench->raw_bytes, scratch + 1), KVC_OK);
		assert_guarded(bench->back, bench->raw_bytes);
		assert_guarded(scratch, scratch_bytes + 1);
		if (i == 0)
			memcpy(first_back, bench->back, bench->raw_bytes);
		assert_memory_equal(bench->back, first_back, bench->raw_bytes);
	}
	kvci_free(first);
	kvci_free(first_back);
	kvci_free(scratch);
	return first_bytes != 0;
}

/* All elements of a plane of the part, or of what came back, as [heads][tokens][dims]. */
static float *bench_floats(const struct bench *bench, const uint8_t *bytes, uint32_t plane)
{
	uint32_t dims = bench->layout.planes[plane].dims, tokens = bench->layout.tokens;
	float *floats = kvci_alloc((size_t)bench->layout.heads * tokens * dims * sizeof(float));

	assert_non_null(floats);
	for (uint32_t head = 0; head < bench->layout.heads; head++) {
		struct kvci_layout_rows rows = { .plane = plane, .head = head, .count = tokens };

		assert_true(kvci_layout_load(&bench->layout, bytes, &rows, floats + (size_t)head * tokens * dims, dims));
	}
	return floats;
}

/* How far an element may be off, by the quantiser's own words, but for the rounding to the element's type. */
struct range {
	float low, high;
};

static struct range range_of(const float *floats, size_t count, size_t step)
{
	struct range range = { floats[0], floats[0] };

	for (size_t i = 1; i < count; i++) {
		range.low = fminf(range.low, floats[i * step]);
		range.high = fmaxf(range.high, floats[i * step]);
	}
	return range;
}

static double allowed(const struct bench *bench, uint32_t plane, const float *head_floats, uint32_t token, uint32_t dim, uint32_t sinks)
{
	uint32_t dims = bench->layout.planes[plane].dims, group = bench->params.group, tokens = bench->layout.tokens;
	bool is_k = bench->layout.planes[plane].is_k;
	const float *row = head_floats + (size_t)token * dims;
	struct range range;
	double most;

	if (bench->ops->id == KVC_CODEC_KV4) {
		double levels = (1 << (is_k ? bench->params.bits_k : bench->params.bits_v)) - 1;
		uint32_t begin = is_k ? sinks + (token - sinks) / group * group : dim / group * group;
		uint32_t count = (is_k ? tokens : dims) - begin < group ? (is_k ? tokens : dims) - begin : group;

		range = is_k ? range_of(head_floats + (size_t)begin * dims + dim, count, dims) : range_of(row + begin, count, 1);
		most = fmax(fabsf(range.low), fabsf(range.high));
		return 0.501 * ((double)range.high - range.low) / levels + most * 0x1p-9 + 0x1p-15;
	}
	range = range_of(row, dims, 1);
	most = fmax(fabsf(range.low), fabsf(range.high));
	if (bench->ops->id == KVC_CODEC_INT8)
		return most / 127 * 0.505;
	if (bench->params.variant < 2) {
		struct range all = range_of(head_floats, (size_t)tokens * dims, 1);

		most = fmax(fabsf(all.low), fabsf(all.high)) * 1e3; /* of all heads: the fill's scales differ by less */
	} else if (is_k) {
		range = range_of(head_floats + (size_t)sinks * dims + dim, tokens - sinks, dims);
		most = fmax(fabsf(range.low), fabsf(range.high));
	}
	if ((bench->params.variant & 1) != 0)
		return fabsf(row[dim]) * 0.1255 + most / 57344 * 0x1p-16;
	return fabsf(row[dim]) * 0.0628 + most / 448 * 0x1p-9;
}

/* Error of each element against what is allowed; sinks exactly. */
static void check_errors(const struct bench *bench)
{
	uint32_t sinks = kvci_layout_sinks(&bench->layout, bench->part.position_tokens, bench->params.sinks);
	double step = bench->form.dtype == KVC_DTYPE_BF16 ? 0x1p-8 : bench->form.dtype == KVC_DTYPE_F16 ? 0x1p-11 : 0x1p-23;

	for (uint32_t plane = 0; plane < bench->layout.plane_count; plane++) {
		uint32_t dims = bench->layout.planes[plane].dims;
		float *is = bench_floats(bench, bench->raw, plane), *got = bench_floats(bench, bench->back, plane);

		for (uint32_t head = 0; head < bench->layout.heads; head++)
			for (uint32_t token = 0; token < bench->layout.tokens; token++)
				for (uint32_t dim = 0; dim < dims; dim++) {
					size_t at = ((size_t)head * bench->layout.tokens + token) * dims + dim;
					double error = fabs((double)got[at] - is[at]), most;

					if (token < sinks) {
						assert_true(error == 0);
						continue;
					}
					if (error <= step * fabsf(is[at]))
						continue; /* before the ranges are looked for */
					most = allowed(bench, plane, is + (size_t)head * bench->layout.tokens * dims, token, dim, sinks);
					most += step * fmax(fabsf(is[at]), fabsf(got[at])) + 0x1p-24;
					if (error > most)
						fail_msg("%s: %g came back as %g: off by %g of %g", bench->ops->name, is[at], got[at], error, most);
				}
		kvci_free(is);
		kvci_free(got);
	}
}

static const char *const specs[] = {
	"int8", "int8:entropy=0", "int8:sinks=0", "kv4", "kv4:entropy=0", "kv4:bits=2,group=32", "kv4:bits_k=3,bits_v=2,group=128",
	"kv4:bits=3,group=33,entropy=0", "kv4:bits=8,sinks=9", "fp8", "fp8:variant=1", "fp8:variant=2", "fp8:variant=3,entropy=0",
};
enum { SPECS = sizeof(specs) / sizeof(specs[0]) };

static void test_quant__any_form__errors_within_the_promise(void **context)
{
	uint32_t shrank = 0;

	(void)context;
	for (int round = 0; round < 78; round++) {
		struct kvc_form form = form_random();
		struct bench bench;

		bench_begin(&bench, specs[round % SPECS], &form, random_next() % 2 != 0);
		bench.part.position_tokens = random_next() % 3 == 0 ? 0 : random_next() % 6;
		bench_fill(&bench);
		if (bench_round_trip(&bench)) {
			check_errors(&bench);
			shrank++;
		}
		bench_end(&bench);
	}
	assert_true(shrank > 50); /* the others are a few tokens */
}

/* Rows whose score is high come back better: exactly, or as int8; no more than an eighth of them, and the others as ever. */
static void test_quant__scores__kept_rows_are_better(void **context)
{
	static const char *const kept_specs[] = { "int8", "fp8", "kv4:bits=2", "kv4:bits=4,entropy=0" };

	(void)context;
	for (int round = 0; round < 12; round++) {
		struct kvc_form form = form_random();
		struct bench bench;
		size_t plain, rows, kept = 0;

		form.engine_block_tokens = 16;
		form.block_tokens = 256;
		bench_begin(&bench, kept_specs[round % 4], &form, round % 3 == 0);
		bench_fill(&bench);
		assert_true(bench_round_trip(&bench));
		plain = bench.coded_bytes;
		rows = (size_t)bench.layout.tokens * bench.layout.heads;
		for (size_t i = 0; i < rows; i++)
			bench.scores[i] = round % 5 == 0 ? 255 : i % 16 == 5 ? (uint8_t)(200 + i % 50) : (uint8_t)(random_next() % 192);
		bench.part.scores = bench.scores;
		assert_true(bench_round_trip(&bench));
		for (uint32_t plane = 0; plane < bench.layout.plane_count; plane++) {
			uint32_t dims = bench.layout.planes[plane].dims;
			float *is = bench_floats(&bench, bench.raw, plane), *got = bench_floats(&bench, bench.back, plane);

			for (size_t row = 0; row < rows; row++) { /* [heads][tokens] */
				size_t token = row % bench.layout.tokens, head = row / bench.layout.tokens;
				struct range range = range_of(is + row * dims, dims, 1);
				double most = fmax(fabsf(range.low), fabsf(range.high)), worst = 0;

				for (uint32_t i = 0; i < dims; i++)
					worst = fmax(worst, fabs((double)got[row * dims + i] - is[row * dims + i]) - 0x1p-8 * fabsf(is[row * dims + i]));
				if (round % 5 == 0 || (token * bench.layout.heads + head) % 16 != 5 || token < 4)
					continue;
				kept++;
				assert_true(bench.ops->id == KVC_CODEC_KV4 ? worst <= most / 127 * 0.505 : worst <= 0);
			}
			kvci_free(is);
			kvci_free(got);
		}
		if (round % 5 == 0) /* all are: then none is */
			assert_int_equal(bench.coded_bytes, plain);
		else
			assert_true(kept > 0 && bench.coded_bytes > plain && bench.coded_bytes < plain + bench.raw_bytes / 6);
		bench_end(&bench);
	}
}

/* What is not finite is not coded, unless it is a sink's. */
static void test_quant__nan_or_infinity__did_not_shrink(void **context)
{
	static const uint16_t odd[] = { 0x7f80, 0xff80, 0x7fc0, 0xffff };

	(void)context;
	for (int i = 0; i < SPECS; i++) {
		struct kvc_form form = { .struct_bytes = sizeof(form), .layer_count = 1, .block_tokens = 256, .engine_block_tokens = 16, .kv_heads = 2,
			                 .head_dim_k = 64, .head_dim_v = 64, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
			                 .group_rule = KVC_GROUP_FULL, .shard_count = 1 };
		struct bench bench;

		bench_begin(&bench, specs[i], &form, i % 2 != 0);
		bench_fill(&bench);
		assert_true(bench_round_trip(&bench));
		for (int j = 0; j < 4; j++) {
			size_t at = 200 * 2 * 64 + random_next() % (50 * 2 * 64);
			uint16_t was;

			memcpy(&was, bench.raw + 2 * at, 2);
			memcpy(bench.raw + 2 * at, &odd[j], 2);
			assert_false(bench_round_trip(&bench));
			memcpy(bench.raw + 2 * at, &was, 2);
		}
		memcpy(bench.raw, &odd[2], 2);
		assert_int_equal(bench_round_trip(&bench), bench.params.sinks != 0);
		if (bench.params.sinks != 0)
			assert_memory_equal(bench.back, bench.raw, 4 * 2 * 64 * 2);
		bench_end(&bench);
	}
}

/* ---- real KV, the golden streams, damage --------------------------------------------------------------------------------------- */

static void file_read(const char *path, uint8_t *bytes, size_t room, size_t *ret_bytes)
{
	FILE *file = fopen(path, "re");

	if (file == NULL)
		fail_msg("cannot open %s", path);
	*ret_bytes = fread(bytes, 1, room, file);
	fclose(file);
}

static void bench_real(struct bench *bench, const char *spec, bool is_k)
{
	struct kvc_form form = { .struct_bytes = sizeof(form), .layer_count = 1, .block_tokens = SAMPLE_TOKENS, .engine_block_tokens = 16, .kv_heads = 3,
		                 .head_dim_k = 64, .head_dim_v = 64, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		                 .group_rule = KVC_GROUP_FULL, .shard_count = 1 };
	size_t bytes;

	bench_begin(bench, spec, &form, is_k);
	assert_int_equal(bench->raw_bytes, SAMPLE_BYTES);
	file_read(is_k ? SAMPLE "k.bf16" : SAMPLE "v.bf16", bench->raw, SAMPLE_BYTES, &bytes);
	assert_int_equal(bytes, SAMPLE_BYTES);
}

static const struct golden {
	const char *name, *spec;
	bool is_k, scores;
	double ratio, rel_l2; /* at least, at most */
} goldens[] = {
	{ "int8-v1.bin", "int8", true, false, 2.2, 0.0125 },
	{ "int8-fixed-v1.bin", "int8:entropy=0", false, true, 1.5, 0.008 },
	{ "kv4-v1.bin", "kv4", true, false, 3.3, 0.06 },
	{ "kv4-fixed-v1.bin", "kv4:bits=3,group=32,entropy=0", false, true, 2.9, 0.2 },
	{ "fp8-v1.bin", "fp8", false, false, 2.2, 0.03 },
	{ "fp8-fine-v1.bin", "fp8:variant=3", true, false, 2.6, 0.06 },
};
enum { GOLDENS = sizeof(goldens) / sizeof(goldens[0]) };

static void bench_golden(struct bench *bench, const struct golden *golden)
{
	bench_real(bench, golden->spec, golden->is_k);
	for (uint32_t i = 0; i < SAMPLE_TOKENS * 3; i++)
		bench->scores[i] = (uint8_t)(i * 37);
	bench->part.scores = golden->scores ? bench->scores : NULL;
	assert_true(bench_round_trip(bench));
}

static void test_quant__real_kv__ratio_error_and_the_golden_streams(void **context)
{
	(void)context;
	for (int i = 0; i < GOLDENS; i++) {
		const struct golden *golden = &goldens[i];
		double error = 0, norm = 0;
		struct bench bench;
		float *is, *got;
		uint8_t *want;
		char path[512];
		size_t bytes;

		bench_golden(&bench, golden);
		is = bench_floats(&bench, bench.raw, 0);
		got = bench_floats(&bench, bench.back, 0);
		for (size_t at = 0; at < SAMPLE_BYTES / 2; at++) {
			error += ((double)is[at] - got[at]) * ((double)is[at] - got[at]);
			norm += (double)is[at] * is[at];
		}
		if (SAMPLE_BYTES / (double)bench.coded_bytes < golden->ratio || sqrt(error / norm) > golden->rel_l2)
			fail_msg("%s: ratio %f, rel_l2 %f", golden->spec, SAMPLE_BYTES / (double)bench.coded_bytes, sqrt(error / norm));
		want = guarded(SAMPLE_BYTES);
		snprintf(path, sizeof(path), GOLDEN "%s", golden->name);
		file_read(path, want, SAMPLE_BYTES, &bytes);
		assert_int_equal(bytes, bench.coded_bytes);
		assert_memory_equal(want, bench.coded, bytes);
		kvci_free(is);
		kvci_free(got);
		kvci_free(want);
		bench_end(&bench);
	}
}

static void golden_write(void)
{
	for (int i = 0; i < GOLDENS; i++) {
		struct bench bench;
		char path[512];
		FILE *file;

		bench_golden(&bench, &goldens[i]);
		snprintf(path, sizeof(path), GOLDEN "%s", goldens[i].name);
		file = fopen(path, "we");
		if (file == NULL || fwrite(bench.coded, 1, bench.coded_bytes, file) != bench.coded_bytes || fclose(file) != 0)
			fail_msg("cannot write %s", path);
		bench_end(&bench);
	}
}

/* Each byte of the head and of what follows wrong, streams cut or longer: an answer, the same by every kernel, inside the buffers. */
static void test_quant__damage__refused_or_decoded_inside_the_buffers(void **context)
{
	(void)context;
	for (int i = 0; i < GOLDENS; i++) {
		struct bench bench;
		uint8_t *scratch;
		size_t scratch_bytes;

		bench_golden(&bench, &goldens[i]);
		scratch_bytes = bench.ops->scratch_bytes(&bench.part, bench.raw_bytes);
		scratch = guarded(scratch_bytes);
		for (int round = 0; round < 200; round++) {
			size_t bytes = round % 5 == 4 ? random_next() % bench.coded_bytes : bench.coded_bytes;
			size_t at = round < 160 ? (size_t)round / 2 : random_next() % bench.coded_bytes;
			uint8_t *exact = kvci_alloc(bytes + 1);
			kvc_status_t status, first = KVC_OK;

			assert_non_null(exact);
			memcpy(exact, bench.coded, bytes);
			if (at < bytes)
				exact[at] ^= round % 2 == 0 ? (uint8_t)(1 + random_next() % 255) : (uint8_t)(1u << random_next() % 8);
			for (int kernel = 0; kernel < KERNELS; kernel++) {
				if (!kvci_rans_select(kernels[kernel]))
					continue;
				status = bench.ops->decode(&bench.part, exact, bytes, bench.back, bench.raw_bytes, scratch);
				if (kernel == 0)
					first = status;
				assert_true(status == first && (status == KVC_OK || status == KVC_CORRUPT));
				assert_guarded(bench.back, bench.raw_bytes);
				assert_guarded(scratch, scratch_bytes);
			}
			if (bytes < bench.coded_bytes)
				assert_int_equal(first, KVC_CORRUPT);
			kvci_free(exact);
		}
		kvci_free(scratch);
		bench_end(&bench);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quant__codes_of_each_width__packed_and_back_by_every_kernel),
		cmocka_unit_test(test_quant__sampled_codes__come_back_and_are_entropy_coded),
		cmocka_unit_test(test_quant__each_f8__exact_and_rounded_to_even),
		cmocka_unit_test(test_quant__any_form__errors_within_the_promise),
		cmocka_unit_test(test_quant__scores__kept_rows_are_better),
		cmocka_unit_test(test_quant__nan_or_infinity__did_not_shrink),
		cmocka_unit_test(test_quant__real_kv__ratio_error_and_the_golden_streams),
		cmocka_unit_test(test_quant__damage__refused_or_decoded_inside_the_buffers),
	};

	if (argc > 1 && strcmp(argv[1], "--write") == 0) {
		golden_write();
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
