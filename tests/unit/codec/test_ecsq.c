/* SPDX-License-Identifier: Apache-2.0
 * Profiles, and the codecs ecsq and ecsq+pca that need one: on the real sample of tests/data, and on a small made one for the golden files
 * (test_ecsq --write makes them: only together with a new format version). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "codec/ecsq_kernel.h"
#include "codec/layout.h"
#include "codec/pca.h"
#include "codec/profile_make.h"
#include "codec/rans.h"
#include "tests/unit/codec/ecsq_rig.h"

/* ---- errors ---- */

/* V is not rotated: no value is farther off than half a step and what bf16 rounds off. */
static void test_ecsq__v__each_error_within_half_a_step(void **context)
{
	static const char *const specs[] = { "ecsq:step=0.05", "ecsq:step=0.25", "ecsq:step=1", "ecsq:step=0.7,step_v=0.1" };
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);

	(void)context;
	for (size_t at = 0; at < sizeof(specs) / sizeof(specs[0]); at++) {
		struct coded coded;
		float step;

		coded_init(&coded, specs[at], &form, false);
		coded_fill(&coded);
		coded.part.position_tokens = 256;
		coded_encode(&coded);
		assert_true(coded.bytes != 0);
		assert_int_equal(coded_decode(&coded), KVC_OK);
		step = coded.params.step_v != 0 ? coded.params.step_v : coded.params.step;
		for (size_t i = 0; i < LAYER_VALUES; i++) {
			float raw = from_bf16(((uint16_t *)(void *)coded.raw)[i]), back = from_bf16(((uint16_t *)(void *)coded.back)[i]);

			assert_true(fabsf(raw - back) <= 0.5001f * step * scale_of(false, 0) + 0.004f * fabsf(back));
		}
		coded_fini(&coded);
	}
}

static double mean_square_error(const struct coded *coded)
{
	double sum = 0;
	size_t count = coded->raw_bytes / 2;

	for (size_t i = 0; i < count; i++) {
		double off = (double)from_bf16(((uint16_t *)(void *)coded->raw)[i]) - (double)from_bf16(((uint16_t *)(void *)coded->back)[i]);

		sum += off * off;
	}
	return sum / (double)count;
}

/* A uniform step's mean square error is step^2 / 12: rotated or behind a basis, it is not more. */
static void test_ecsq__k_and_bases__mean_error_is_that_of_the_step(void **context)
{
	static const char *const specs[] = { "ecsq:step=0.25", "ecsq:step=0.5", "ecsq+pca:step=0.25", "ecsq+pca:step=0.5" };
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);

	(void)context;
	for (size_t at = 0; at < sizeof(specs) / sizeof(specs[0]); at++)
		for (int is_k = 0; is_k < 2; is_k++) {
			struct coded coded;
			double most;

			coded_init(&coded, specs[at], &form, is_k);
			coded_fill(&coded);
			coded_encode(&coded);
			assert_true(coded.bytes != 0 && coded.bytes < coded.raw_bytes / 2);
			assert_int_equal(coded_decode(&coded), KVC_OK);
			most = (double)(coded.params.step * fmaxf(scale_of(is_k, 0), scale_of(is_k, LAYERS - 1)));
			most = 1.2 * most * most / 12 + 1e-4;
			assert_true(mean_square_error(&coded) <= most);
			coded_fini(&coded);
		}
}

static void test_ecsq__sinks__come_back_bit_for_bit(void **context)
{
	static const struct {
		uint64_t position;
		uint32_t exact;
	} cases[] = { { 0, 4 }, { 3, 1 }, { 4, 0 } };
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);
	size_t row = (size_t)2 * HEADS * DIMS;

	(void)context;
	for (size_t at = 0; at < 3; at++)
		for (int pca = 0; pca < 2; pca++) {
			struct coded coded;

			coded_init(&coded, pca ? "ecsq+pca:step=1" : "ecsq:step=1", &form, true);
			coded_fill(&coded);
			coded.part.position_tokens = cases[at].position;
			coded_encode(&coded);
			assert_int_equal(coded_decode(&coded), KVC_OK);
			for (uint32_t layer = 0; layer < coded.part.layer_count; layer++) {
				uint8_t *raw = coded.raw + layer * row * TOKENS, *back = coded.back + layer * row * TOKENS;

				assert_memory_equal(raw, back, cases[at].exact * row);
				assert_memory_not_equal(raw + cases[at].exact * row, back + cases[at].exact * row, row);
			}
			coded_fini(&coded);
		}
}

/* What is far off the profile is escaped; what is beyond all reason or not finite is left to be stored raw. */
static void test_ecsq__outliers__escaped_or_left_raw(void **context)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);

	(void)context;
	for (int pca = 0; pca < 2; pca++) {
		struct coded coded;
		uint16_t *raw;

		coded_init(&coded, pca ? "ecsq+pca:step=0.25,sinks=0" : "ecsq:step=0.25,sinks=0", &form, false);
		coded_fill(&coded);
		raw = (uint16_t *)(void *)coded.raw;
		raw[777] = to_bf16(100 * scale_of(false, 0));
		raw[5000] = to_bf16(-90 * scale_of(false, 0));
		coded_encode(&coded);
		assert_true(coded.bytes != 0);
		assert_int_equal(coded_decode(&coded), KVC_OK);
		assert_true(fabsf(from_bf16(((uint16_t *)(void *)coded.back)[777]) / scale_of(false, 0) - 100) < 1.5f);
		assert_true(fabsf(from_bf16(((uint16_t *)(void *)coded.back)[5000]) / scale_of(false, 0) + 90) < 1.5f);
		raw[777] = 0x7fc0; /* NaN */
		coded_encode(&coded);
		assert_int_equal(coded.bytes, 0);
		raw[777] = to_bf16(1e30f);
		coded_encode(&coded);
		assert_int_equal(coded.bytes, 0);
		coded_fini(&coded);
	}
}

/* ---- everywhere the same ---- */

/* The sample's rows where this form has them. */
static void fill_form(struct coded *coded)
{
	struct kvci_layout layout;

	assert_true(kvci_layout_of(&coded->part, coded->raw_bytes, &layout));
	for (uint32_t plane = 0; plane < layout.plane_count; plane++)
		for (uint32_t layer = 0; layer < layout.layers; layer++)
			for (uint32_t head = 0; head < HEADS; head++)
				for (uint32_t token = 0; token < TOKENS; token++) {
					const uint16_t *row = sample[layout.planes[plane].is_k ? 0 : 1] +
					                      (((size_t)layer * TOKENS + token) * HEADS + head) * DIMS;
					uint8_t *to = coded->raw + kvci_layout_offset(&layout, plane, layer, head, token);

					for (int i = 0; i < DIMS; i++) {
						float value = from_bf16(row[i]);

						memcpy(to + (size_t)layout.element_bytes * i, layout.element_bytes == 4 ? (const void *)&value : &row[i],
						       layout.element_bytes);
					}
				}
}

static void test_ecsq__each_kernel_and_form__same_stream_and_bits(void **context)
{
	static const char *const kernels[] = { "scalar", "avx2", "avx512" };
	const char *usual = kvci_rans_kernel();

	(void)context;
	for (int at = 0; at < 16; at++) {
		struct kvc_form form = form_of(at & 1 ? KVC_KV_FUSED : KVC_KV_SPLIT, at & 2 ? KVC_ORDER_HN : KVC_ORDER_NH);
		struct coded first = { 0 };

		form.dtype = at & 4 ? KVC_DTYPE_F32 : KVC_DTYPE_BF16;
		for (int i = 0; i < 3; i++) {
			struct coded coded;

			if (!kvci_rans_select(kernels[i]))
				continue;
			coded_init(&coded, at & 8 ? "ecsq+pca:step=0.3" : "ecsq:step=0.3", &form, true);
			fill_form(&coded);
			coded_encode(&coded);
			assert_true(coded.bytes != 0);
			assert_int_equal(coded_decode(&coded), KVC_OK);
			if (i == 0) {
				first = coded;
				continue;
			}
			assert_int_equal(coded.bytes, first.bytes);
			assert_memory_equal(coded.stream, first.stream, first.bytes);
			assert_memory_equal(coded.back, first.back, first.raw_bytes);
			coded_fini(&coded);
		}
		coded_fini(&first);
	}
	assert_true(kvci_rans_select(usual));
}

/* A layer of the sample, as it were `position` tokens later. */
static void fill_moved(const uint16_t *layer, bool is_k, uint64_t position, uint16_t *out)
{
	float table[DIMS], row[DIMS];

	kvci_rope_table_move(&rope, 0, position, table);
	for (size_t at = 0; at < LAYER_VALUES; at += DIMS) {
		for (int i = 0; i < DIMS; i++)
			row[i] = from_bf16(layer[at + i]);
		if (is_k)
			kvci_rope_apply(&rope, table, 0, row, 1, DIMS);
		for (int i = 0; i < DIMS; i++)
			out[at + i] = to_bf16(row[i]);
	}
}

/* What is made of a token does not depend on how many others its part has. */
static void test_ecsq__long_part__as_its_pieces(void **context)
{
	enum { PIECES = 5, LONG = PIECES * TOKENS }; /* more than are done at a time, with turns and with bases */

	(void)context;
	for (int at = 0; at < 4; at++) {
		const char *spec = at & 2 ? "ecsq+pca:step=0.3,sinks=0" : "ecsq:step=0.3,sinks=0";
		struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH), whole_form = form;
		struct coded whole, piece;
		size_t layer_bytes;

		whole_form.block_tokens = LONG;
		coded_init(&whole, spec, &whole_form, at & 1);
		coded_init(&piece, spec, &form, at & 1);
		layer_bytes = piece.raw_bytes / piece.part.layer_count;
		for (uint32_t layer = 0; layer < piece.part.layer_count; layer++)
			for (uint32_t i = 0; i < PIECES; i++)
				fill_moved(sample[whole.part.is_k ? 0 : 1] + (size_t)layer * LAYER_VALUES, whole.part.is_k, i * TOKENS,
				           (uint16_t *)(void *)(whole.raw + (layer * PIECES + i) * layer_bytes));
		coded_encode(&whole);
		assert_true(whole.bytes != 0);
		assert_int_equal(coded_decode(&whole), KVC_OK);
		for (uint32_t i = 0; i < PIECES; i++) {
			piece.part.position_tokens = (uint64_t)i * TOKENS;
			for (uint32_t layer = 0; layer < piece.part.layer_count; layer++)
				memcpy(piece.raw + layer * layer_bytes, whole.raw + (layer * PIECES + i) * layer_bytes, layer_bytes);
			coded_encode(&piece);
			assert_true(piece.bytes != 0);
			assert_int_equal(coded_decode(&piece), KVC_OK);
			for (uint32_t layer = 0; layer < piece.part.layer_count; layer++)
				assert_memory_equal(whole.back + (layer * PIECES + i) * layer_bytes, piece.back + layer * layer_bytes, layer_bytes);
		}
		coded_fini(&whole);
		coded_fini(&piece);
	}
}

/* Sums of products and of squares by the kernel in use, against the plain one. */
static void check_products(const struct ecsq_kernel *kernel, uint32_t tokens, uint32_t pairs, uint32_t rows, uint32_t outputs, uint64_t zeros)
{
	size_t stride = (outputs + ECSQ_PANEL - 1) / ECSQ_PANEL * ECSQ_PANEL, elements = kvci_ecsq_matrix_bytes(rows, outputs) / sizeof(int16_t);
	int16_t *in = kvci_alloc_zero((size_t)tokens * pairs * 2 + 1, sizeof(*in)), *matrix = kvci_alloc(elements * sizeof(*matrix));
	int32_t *out = kvci_alloc(tokens * stride * sizeof(*out)), *right = kvci_alloc(tokens * stride * sizeof(*right));

	assert_true(in != NULL && matrix != NULL && out != NULL && right != NULL);
	for (size_t i = 0; i < (size_t)tokens * pairs * 2; i++)
		in[i] = random_next() % 8 < zeros ? 0 : (int16_t)random_next();
	for (size_t i = 0; i < elements; i++)
		matrix[i] = (int16_t)random_next();
	kvci_ecsq_kernel_scalar.multiply(in, (size_t)pairs * 2, tokens, pairs, matrix, rows, outputs, right, stride);
	kernel->multiply(in, (size_t)pairs * 2, tokens, pairs, matrix, rows, outputs, out, stride);
	for (uint32_t token = 0; token < tokens; token++)
		assert_memory_equal(out + token * stride, right + token * stride, outputs * sizeof(*out));
	assert_true(kernel->length(in, pairs * 2) == kvci_ecsq_kernel_scalar.length(in, pairs * 2));
	assert_true(kernel->length_wide(right, outputs) == kvci_ecsq_kernel_scalar.length_wide(right, outputs));
	kvci_free(in);
	kvci_free(matrix);
	kvci_free(out);
	kvci_free(right);
}

/* Symbols by the kernel against what one code is, near every limit, halfway between codes and beyond all of them. */
static void check_symbols(const struct ecsq_kernel *kernel)
{
	enum { COUNT = 77, ROWS = 16 };
	static const float odd[] = { 0.5f, -0.5f, 1.5f, 127.5f, -127.5f, 32767.5f, -32768.5f, 65664, -65408, 1e6f, -1e7f, 3e38f, -3e38f };
	float values[ROWS * COUNT], mean[COUNT], inverse[COUNT];
	uint8_t limit[COUNT], symbols[ROWS * COUNT];

	for (int i = 0; i < COUNT; i++) {
		mean[i] = i % 2 == 0 ? 0 : (float)(random_next() % 64);
		inverse[i] = i % 3 == 0 ? 1 : 0.25f * (float)(1 + random_next() % 8);
		limit[i] = (uint8_t)(random_next() % 128);
	}
	for (int i = 0; i < ROWS * COUNT; i++)
		values[i] = i % 5 == 0 ? odd[random_next() % (sizeof(odd) / sizeof(odd[0]))] : (float)(random_next() % 4096) / 8 - 256;
	kernel->quantise(values, COUNT, mean, inverse, limit, COUNT, ROWS, symbols, COUNT);
	for (int i = 0; i < ROWS * COUNT; i++) {
		int32_t code = kvci_ecsq_code(values[i], mean[i % COUNT], inverse[i % COUNT]), most = limit[i % COUNT];

		assert_int_equal(symbols[i], code > most || code < -most ? 0 : code + ECSQ_SYMBOL_ZERO);
	}
}

static void test_ecsq__products_of_each_kernel__same_sums(void **context)
{
	static const char *const names[] = { "avx2", "avx512" };
	const char *usual = kvci_rans_kernel();

	(void)context;
	for (int i = 0; i < 2; i++) {
		if (!kvci_rans_select(names[i]))
			continue;
		for (uint64_t zeros = 0; zeros <= 8; zeros += 4) {
			check_products(kvci_ecsq_kernel(), 4, 0, 9, 64, zeros);
			check_products(kvci_ecsq_kernel(), 4, 1, 1, 1, zeros);
			check_products(kvci_ecsq_kernel(), 16, 64, 200, 192, zeros);
			check_products(kvci_ecsq_kernel(), 12, 77, 153, 100, zeros);
			check_products(kvci_ecsq_kernel(), 260, 131, 300, 65, zeros);
		}
	}
	assert_true(kvci_rans_select(usual));
#if defined(__x86_64__)
	if (kvci_rans_select("avx512")) /* where the product of pairs is one instruction, the other kernel is not picked */
		check_products(&kvci_ecsq_kernel_avx512, 12, 77, 153, 100, 4);
	assert_true(kvci_rans_select(usual));
#endif
}

static void test_ecsq__symbols_of_each_kernel__of_the_same_codes(void **context)
{
	static const char *const names[] = { "scalar", "avx2", "avx512" };
	const char *usual = kvci_rans_kernel();

	(void)context;
	for (int i = 0; i < 3; i++)
		if (kvci_rans_select(names[i]))
			check_symbols(kvci_ecsq_kernel());
	assert_true(kvci_rans_select(usual));
}

/* ---- what is wrong ---- */

static void test_ecsq__damaged_stream__answered_inside_the_buffers(void **context)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH);

	(void)context;
	for (int round = 0; round < 300; round++) {
		struct coded coded;
		kvc_status_t status;

		coded_init(&coded, round % 2 ? "ecsq+pca" : "ecsq", &form, true);
		fill_form(&coded);
		coded_encode(&coded);
		if (round % 3 == 0)
			coded.bytes = random_next() % coded.bytes;
		else
			coded.stream[random_next() % (round % 3 == 1 ? 24 : coded.bytes)] ^= (uint8_t)(1u << random_next() % 8);
		status = coded_decode(&coded);
		assert_true(round % 3 == 0 ? status == KVC_CORRUPT : status == KVC_OK || status == KVC_CORRUPT);
		coded_fini(&coded);
	}
}

static void test_ecsq__no_profile_or_another__not_coded_and_corrupt(void **context)
{
	struct kvci_profile_sample one = { sample[0], sample[1], TOKENS, 0 };
	struct kvci_profile_order order = { .name = "another", .form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH), .rope = &rope, .samples = &one,
		                            .sample_count = 1, .sinks = 4 };
	struct kvc_profile *other = make_profile(&order);
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);
	struct coded coded;

	(void)context;
	coded_init(&coded, "ecsq", &form, true);
	coded_fill(&coded);
	coded_encode(&coded);
	assert_true(coded.bytes != 0);
	coded.part.profile = other;
	assert_int_equal(coded_decode(&coded), KVC_CORRUPT);
	coded.part.profile = NULL;
	assert_int_equal(coded_decode(&coded), KVC_CORRUPT);
	coded_encode(&coded);
	assert_int_equal(coded.bytes, 0);
	/* Of another form; and a unit that is no group of the bases. */
	coded.part.profile = profile;
	coded.form.layer_count = LAYERS + 1;
	coded_encode(&coded);
	assert_int_equal(coded.bytes, 0);
	coded_fini(&coded);
	coded_init(&coded, "ecsq+pca", &form, true);
	assert_int_equal(coded.part.layer_count, LAYERS);
	coded_fill(&coded);
	coded.part.profile = other;
	assert_int_equal(coded.ops->span(&coded.part), 1);
	coded_encode(&coded);
	assert_int_equal(coded.bytes, 0);
	coded_fini(&coded);
	kvci_profile_free(other);
}

/* ---- profiles ---- */

static void test_profile__damaged_file__refused_or_read(void **context)
{
	(void)context;
	for (int round = 0; round < 400; round++) {
		struct kvc_profile *read = NULL;
		size_t length = profile->file_bytes;
		uint8_t *bytes;
		kvc_status_t status;

		if (round % 2 == 0)
			length = random_next() % (round % 4 == 0 ? 4096 : length);
		bytes = kvci_alloc(length + 1);
		assert_non_null(bytes);
		memcpy(bytes, profile->file, length);
		if (round % 2 == 1)
			bytes[random_next() % (round % 4 == 1 ? 200 : length)] ^= (uint8_t)(1u << random_next() % 8);
		status = kvci_profile_read(bytes, length, &read);
		if (round % 2 == 0)
			assert_int_equal(status, KVC_CORRUPT);
		else
			assert_true(status == KVC_OK || status == KVC_CORRUPT || status == KVC_UNSUPPORTED);
		if (status == KVC_OK)
			kvci_profile_free(read);
		kvci_free(bytes);
	}
}

static void test_profile__unknown_section__skipped_and_found_by_its_tag(void **context)
{
	const uint32_t tag = KVCI_PROFILE_TAG('N', 'O', 'N', 'E');
	size_t length = profile->file_bytes, found_bytes;
	uint8_t *bytes = kvci_alloc_zero(1, length + 24);
	struct kvc_profile *read;
	const uint8_t *found;

	(void)context;
	assert_non_null(bytes);
	memcpy(bytes, profile->file, length);
	memcpy(bytes + length, "NONE\0\0\0\0\5\0\0\0\0\0\0\0hello", 21);
	assert_int_equal(kvci_profile_read(bytes, length + 24, &read), KVC_OK);
	assert_true(kvci_profile_section(read, tag, &found, &found_bytes));
	assert_int_equal(found_bytes, 5);
	assert_memory_equal(found, "hello", 5);
	assert_false(kvci_profile_section(profile, tag, &found, &found_bytes));
	assert_true(kvci_profile_id(read) != kvci_profile_id(profile));
	kvci_profile_free(read);
	kvci_free(bytes);
}

/* Every allocation of reading fails once. */
static int allocations_left;

static int allow(void *context, size_t bytes)
{
	return allocations_left-- > 0;
}

static void test_profile__no_memory__said_and_nothing_kept(void **context)
{
	struct kvc_profile *read = NULL;
	kvc_status_t status = KVC_NO_MEMORY;

	(void)context;
	for (int allowed = 0; status != KVC_OK; allowed++) {
		assert_true(allowed < 100);
		allocations_left = allowed;
		kvci_alloc_set_hook(allow, NULL);
		status = kvci_profile_read(profile->file, profile->file_bytes, &read);
		kvci_alloc_set_hook(NULL, NULL);
		assert_true(status == KVC_OK || status == KVC_NO_MEMORY);
	}
	kvci_profile_free(read);
}

static void test_pca__symmetric_matrix__vectors_and_values(void **context)
{
	enum { N = 37 };
	static double matrix[N * N], vectors[N * N], values[N], scratch[N];

	(void)context;
	for (int i = 0; i < N; i++)
		for (int j = 0; j <= i; j++)
			matrix[i * N + j] = matrix[j * N + i] = i == 5 || j == 5 ? 0 : (double)(random_next() % 2001) / 1000 - 1;
	memcpy(vectors, matrix, sizeof(matrix));
	assert_true(kvci_pca_eigen(vectors, N, values, scratch));
	for (int i = 0; i < N; i++) {
		assert_true(i == 0 || values[i] <= values[i - 1]);
		for (int j = 0; j < N; j++) {
			double dot = 0, product = 0;

			for (int k = 0; k < N; k++) {
				dot += vectors[i * N + k] * vectors[j * N + k];
				product += matrix[j * N + k] * vectors[i * N + k];
			}
			assert_true(fabs(dot - (i == j)) < 1e-10);
			assert_true(fabs(product - values[i] * vectors[i * N + j]) < 1e-10);
		}
	}
	matrix[3] = NAN;
	assert_false(kvci_pca_eigen(matrix, N, values, scratch));
}

/* ---- golden files ---- */

static bool golden_writes;

enum { GOLDEN_LAYERS = 2, GOLDEN_TOKENS = 32, GOLDEN_HEADS = 2, GOLDEN_DIMS = 16, GOLDEN_COUNT = GOLDEN_LAYERS * GOLDEN_TOKENS * GOLDEN_HEADS * GOLDEN_DIMS };

static const struct kvc_form golden_form = {
	.struct_bytes = sizeof(struct kvc_form), .layer_count = GOLDEN_LAYERS, .block_tokens = GOLDEN_TOKENS, .engine_block_tokens = 16,
	.kv_heads = GOLDEN_HEADS, .head_dim_k = GOLDEN_DIMS, .head_dim_v = GOLDEN_DIMS, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT,
	.order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
};

/* Sums of whole numbers, the same everywhere; layers and channels have something in common. */
static void golden_values(uint16_t *values, uint64_t seed)
{
	uint64_t state = seed;

	for (int token = 0; token < GOLDEN_TOKENS; token++) {
		int common = 0;

		for (int at = 0; at < GOLDEN_COUNT / GOLDEN_TOKENS; at++) {
			int layer = at / (GOLDEN_HEADS * GOLDEN_DIMS), channel = at % (GOLDEN_HEADS * GOLDEN_DIMS), sum = 0;

			for (int i = 0; i < 4; i++) {
				state ^= state << 13;
				state ^= state >> 7;
				state ^= state << 17;
				sum += (int)(state >> 20 & 255) - 128;
			}
			common = channel % 8 == 0 ? sum : common;
			values[(layer * GOLDEN_TOKENS + token) * GOLDEN_HEADS * GOLDEN_DIMS + channel] =
				to_bf16((float)(sum + 2 * common) / (float)(64 << channel % 4) + (float)(channel % 5));
		}
	}
}

static size_t golden_read(const char *name, uint8_t *bytes, size_t room)
{
	char path[512];
	FILE *file;
	size_t length;

	snprintf(path, sizeof(path), "%s/tests/golden/%s", KVC_SOURCE_DIR, name);
	file = fopen(path, "re");
	assert_non_null(file);
	length = fread(bytes, 1, room, file);
	fclose(file);
	return length;
}

static void golden_write(const char *name, const void *bytes, size_t length)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/tests/golden/%s", KVC_SOURCE_DIR, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, length, file), length);
	fclose(file);
}

static void golden_make_profile(void)
{
	static uint16_t k[GOLDEN_COUNT], v[GOLDEN_COUNT];
	struct kvci_rope small = { .style = KVCI_ROPE_GPTJ, .dims = 8, .first_dim = 8, .factor = 1, .inv_freq = inv_freq };
	struct kvci_profile_sample one = { k, v, GOLDEN_TOKENS, 0 };
	struct kvci_profile_order order = { .name = "golden", .form = golden_form, .rope = &small, .samples = &one, .sample_count = 1, .sinks = 4,
		                            .pca_layers = 2 };
	uint8_t *bytes;
	size_t length;

	golden_values(k, 1);
	golden_values(v, 2);
	assert_int_equal(kvci_profile_make(&order, &bytes, &length), KVC_OK);
	golden_write("profile-v1.kvp", bytes, length);
	kvci_free(bytes);
}

static void test_ecsq__golden_streams__as_they_were(void **context)
{
	static const struct {
		const char *name, *spec;
		uint64_t checksum; /* of what is decoded */
	} cases[] = {
		{ "ecsq-v2.bin", "ecsq:step=0.2", 0x5a0e9bbc55c3ef94 },
		{ "ecsq-pca-v2.bin", "ecsq+pca:step=0.2", 0xad9bac141bdc70dc },
	};
	static uint8_t file[65536], stream[65536], raw[2 * GOLDEN_COUNT], back[2 * GOLDEN_COUNT];
	struct kvc_profile *golden;

	(void)context;
	if (golden_writes)
		golden_make_profile();
	assert_int_equal(kvci_profile_read(file, golden_read("profile-v1.kvp", file, sizeof(file)), &golden), KVC_OK);
	golden_values((uint16_t *)(void *)raw, 3);
	for (int i = 0; i < GOLDEN_HEADS * GOLDEN_DIMS; i++) { /* a quiet row: layer 0, token 9 */
		uint16_t *value = (uint16_t *)(void *)raw + (size_t)9 * GOLDEN_HEADS * GOLDEN_DIMS + i;

		*value = to_bf16(from_bf16(*value) * 0.1f);
	}
	for (size_t i = 0; i < 2; i++) {
		struct kvc_codec_params params;
		const struct kvc_codec_ops *ops;
		const char *wrong;
		struct kvc_codec_part part = { .form = &golden_form, .is_k = true, .profile = golden, .params = &params, .position_tokens = 2 };
		size_t raw_bytes, bytes, length;
		uint8_t *scratch;

		assert_int_equal(kvc_codec_spec_parse(cases[i].spec, &ops, &params, &wrong), KVC_OK);
		part.layer_count = ops->span != NULL ? ops->span(&part) : 1;
		raw_bytes = sizeof(raw) / GOLDEN_LAYERS * part.layer_count;
		scratch = kvci_alloc(ops->scratch_bytes(&part, raw_bytes));
		assert_non_null(scratch);
		assert_int_equal(ops->encode(&part, raw, raw_bytes, stream, sizeof(stream), scratch, &bytes), KVC_OK);
		assert_true(bytes != 0);
		if (golden_writes)
			golden_write(cases[i].name, stream, bytes);
		length = golden_read(cases[i].name, file, sizeof(file));
		assert_int_equal(length, bytes);
		assert_memory_equal(file, stream, bytes);
		assert_int_equal(ops->decode(&part, file, length, back, raw_bytes, scratch), KVC_OK);
		if (kvci_checksum(back, raw_bytes, 0) != cases[i].checksum)
			print_error("%s: %#llx\n", cases[i].name, (unsigned long long)kvci_checksum(back, raw_bytes, 0));
		assert_true(kvci_checksum(back, raw_bytes, 0) == cases[i].checksum);
		kvci_free(scratch);
	}
	kvci_profile_free(golden);
}

/* A head of four bytes less, and no kept rows. */
static void test_ecsq__streams_of_version_1__refused(void **context)
{
	static const char *const names[] = { "ecsq-v1.bin", "ecsq-pca-v1.bin" };
	static const char *const specs[] = { "ecsq", "ecsq+pca" };
	static uint8_t file[65536], back[2 * GOLDEN_COUNT];
	struct kvc_profile *golden;

	(void)context;
	assert_int_equal(kvci_profile_read(file, golden_read("profile-v1.kvp", file, sizeof(file)), &golden), KVC_OK);
	for (size_t i = 0; i < 2; i++) {
		struct kvc_codec_params params;
		const struct kvc_codec_ops *ops;
		const char *wrong;
		struct kvc_codec_part part = { .form = &golden_form, .is_k = true, .profile = golden, .params = &params, .position_tokens = 2 };
		size_t raw_bytes;
		void *scratch;

		assert_int_equal(kvc_codec_spec_parse(specs[i], &ops, &params, &wrong), KVC_OK);
		part.layer_count = ops->span != NULL ? ops->span(&part) : 1;
		raw_bytes = sizeof(back) / GOLDEN_LAYERS * part.layer_count;
		scratch = kvci_alloc(ops->scratch_bytes(&part, raw_bytes));
		assert_non_null(scratch);
		assert_int_equal(ops->decode(&part, file, golden_read(names[i], file, sizeof(file)), back, raw_bytes, scratch), KVC_CORRUPT);
		kvci_free(scratch);
	}
	kvci_profile_free(golden);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pca__symmetric_matrix__vectors_and_values),
		cmocka_unit_test(test_profile__damaged_file__refused_or_read),
		cmocka_unit_test(test_profile__unknown_section__skipped_and_found_by_its_tag),
		cmocka_unit_test(test_profile__no_memory__said_and_nothing_kept),
		cmocka_unit_test(test_ecsq__v__each_error_within_half_a_step),
		cmocka_unit_test(test_ecsq__k_and_bases__mean_error_is_that_of_the_step),
		cmocka_unit_test(test_ecsq__sinks__come_back_bit_for_bit),
		cmocka_unit_test(test_ecsq__outliers__escaped_or_left_raw),
		cmocka_unit_test(test_ecsq__each_kernel_and_form__same_stream_and_bits),
		cmocka_unit_test(test_ecsq__long_part__as_its_pieces),
		cmocka_unit_test(test_ecsq__symbols_of_each_kernel__of_the_same_codes),
		cmocka_unit_test(test_ecsq__products_of_each_kernel__same_sums),
		cmocka_unit_test(test_ecsq__damaged_stream__answered_inside_the_buffers),
		cmocka_unit_test(test_ecsq__no_profile_or_another__not_coded_and_corrupt),
		cmocka_unit_test(test_ecsq__streams_of_version_1__refused),
		cmocka_unit_test(test_ecsq__golden_streams__as_they_were),
	};

	golden_writes = argc > 1 && strcmp(argv[1], "--write") == 0;
	return cmocka_run_group_tests(tests, setup, teardown);
}
