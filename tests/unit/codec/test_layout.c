/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of every form where kvcask/form.h says they are; elements to floats and back by every kernel. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "codec/layout.h"
#include "codec/rans.h"
#include "tests/support/random.h"

static const char *const kernels[] = { "scalar", "avx2", "avx512" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static struct kvc_form form_random(void)
{
	static const uint32_t dims[] = { 1, 16, 64, 72, 128 };
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = 3, .engine_block_tokens = 1 + random_next() % 9,
		.kv_heads = 1 + random_next() % 3, .head_dim_k = dims[random_next() % 5], .head_dim_v = dims[random_next() % 5],
		.dtype = 1 + random_next() % 3, .arrangement = 1 + random_next() % 3, .order = 1 + random_next() % 2,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	struct kvc_form_sizes sizes;

	form.block_tokens = form.engine_block_tokens * (1 + random_next() % 4);
	if (form.arrangement == KVC_KV_LATENT) {
		form.kv_heads = 1;
		form.head_dim_v = form.order = 0;
	}
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	return form;
}

/* Bytes of one layer's part. */
static size_t layer_bytes(const struct kvc_form *form, bool is_k)
{
	size_t element = form->dtype == KVC_DTYPE_F32 ? 4 : 2, dims = form->head_dim_k + form->head_dim_v;

	if (form->arrangement == KVC_KV_SPLIT)
		dims = is_k ? form->head_dim_k : form->head_dim_v;
	return form->block_tokens * form->kv_heads * dims * element;
}

/* The place of one element by the words of kvcask/form.h, in elements. */
static size_t place(const struct kvc_form *form, bool is_k, size_t token, size_t head, bool of_k, size_t dim)
{
	size_t page = token / form->engine_block_tokens, in_page = token % form->engine_block_tokens, tokens = form->engine_block_tokens;
	size_t row = form->arrangement == KVC_KV_FUSED ? form->head_dim_k + form->head_dim_v :
	             form->arrangement == KVC_KV_LATENT || is_k ? form->head_dim_k : form->head_dim_v;
	size_t index = form->order == KVC_ORDER_HN ? head * tokens + in_page : in_page * form->kv_heads + head;

	if (form->arrangement == KVC_KV_FUSED && !of_k)
		dim += form->head_dim_k;
	return (page * tokens * form->kv_heads + index) * row + dim;
}

static void test_layout__any_form__rows_where_the_form_says(void **context)
{
	(void)context;
	for (int round = 0; round < 200; round++) {
		struct kvc_form form = form_random();
		struct kvc_codec_part part = { .form = &form, .layer_count = random_next() % 4, .is_k = random_next() % 2 };
		uint32_t layers = part.layer_count == 0 ? 1 : part.layer_count;
		size_t one_bytes, bytes, element = form.dtype == KVC_DTYPE_F32 ? 4 : 2;
		struct kvci_layout layout;

		part.is_k = part.is_k || form.arrangement != KVC_KV_SPLIT;
		one_bytes = layer_bytes(&form, part.is_k);
		bytes = one_bytes * layers;
		assert_true(kvci_layout_of(&part, bytes, &layout));
		assert_int_equal(layout.layers, layers);
		assert_int_equal(layout.tokens, form.block_tokens);
		assert_int_equal(layout.plane_count, form.arrangement == KVC_KV_FUSED ? 2 : 1);
		for (int i = 0; i < 50; i++) {
			uint32_t plane = random_next() % layout.plane_count, layer = random_next() % layers, head = random_next() % form.kv_heads;
			uint32_t token = random_next() % form.block_tokens;
			size_t at = kvci_layout_offset(&layout, plane, layer, head, token);

			assert_int_equal(at, layer * one_bytes + element * place(&form, part.is_k, token, head, plane == 0, 0));
		}
		assert_false(kvci_layout_of(&part, bytes + 1, &layout));
		assert_false(kvci_layout_of(&part, 0, &layout));
		form.page_extra_bytes = 4;
		assert_false(kvci_layout_of(&part, bytes, &layout));
		form.page_extra_bytes = 0;
		form.dtype = KVC_DTYPE_I8;
		assert_false(kvci_layout_of(&part, bytes, &layout));
	}
}

static void test_layout__sinks__counted_from_the_position(void **context)
{
	struct kvci_layout layout = { .tokens = 10 };

	(void)context;
	assert_int_equal(kvci_layout_sinks(&layout, 0, 4), 4);
	assert_int_equal(kvci_layout_sinks(&layout, 3, 4), 1);
	assert_int_equal(kvci_layout_sinks(&layout, 4, 4), 0);
	assert_int_equal(kvci_layout_sinks(&layout, UINT64_MAX, 4), 0);
	assert_int_equal(kvci_layout_sinks(&layout, 0, 64), 10);
	assert_int_equal(kvci_layout_sinks(&layout, 0, 0), 0);
}

/* All finite elements of every form come back bit for bit; rows that are not finite are told. */
static void test_layout__load_and_store__exact(void **context)
{
	(void)context;
	for (int round = 0; round < 100; round++) {
		struct kvc_form form = form_random();
		struct kvc_codec_part part = { .form = &form, .layer_count = 2, .is_k = true };
		size_t bytes = 2 * layer_bytes(&form, true);
		struct kvci_layout layout;
		uint8_t *raw = kvci_alloc(bytes), *back = kvci_alloc(bytes);
		float *floats = kvci_alloc(form.block_tokens * 130 * sizeof(float));

		assert_true(raw != NULL && back != NULL && floats != NULL && kvci_layout_of(&part, bytes, &layout));
		assert_true(kvci_rans_select("scalar"));
		kvci_rans_select(kernels[round % KERNELS]);
		for (size_t i = 0; i < bytes; i++) /* the upper exponent bit is 0: finite, denormals among them */
			raw[i] = (uint8_t)(i % layout.element_bytes == layout.element_bytes - 1u ? random_next() & 0xbf : random_next());
		memset(back, 0xee, bytes);
		for (uint32_t plane = 0; plane < layout.plane_count; plane++)
			for (uint32_t layer = 0; layer < 2; layer++)
				for (uint32_t head = 0; head < form.kv_heads; head++) {
					struct kvci_layout_rows rows = { plane, layer, head, 0, form.block_tokens };
					uint32_t first = random_next() % form.block_tokens;

					assert_true(kvci_layout_load(&layout, raw, &rows, floats, 130));
					kvci_layout_store(&layout, back, &rows, floats, 130);
					rows.token = first;
					rows.count = form.block_tokens - first;
					assert_true(kvci_layout_load(&layout, raw, &rows, floats, 129));
					kvci_layout_store(&layout, back, &rows, floats, 129);
				}
		assert_memory_equal(raw, back, bytes);
		kvci_free(raw);
		kvci_free(back);
		kvci_free(floats);
	}
}

/* Each f16 to a float as it should be; floats near the steps of a type to the nearest, ties to even. */
static void check_types(const char *kernel)
{
	struct kvc_form form = { .struct_bytes = sizeof(form), .layer_count = 1, .block_tokens = 1, .engine_block_tokens = 1, .kv_heads = 1,
		                 .head_dim_k = 64, .dtype = KVC_DTYPE_F16, .arrangement = KVC_KV_LATENT, .group_rule = KVC_GROUP_FULL, .shard_count = 1 };
	struct kvc_codec_part part = { .form = &form, .is_k = true };
	struct kvci_layout_rows rows = { .count = 1 };
	struct kvci_layout layout;
	uint16_t elements[64];
	float floats[64];

	if (!kvci_rans_select(kernel))
		return;
	assert_true(kvci_layout_of(&part, sizeof(elements), &layout));
	for (uint32_t first = 0; first < 1 << 16; first += 64) {
		bool finite = (first & 0x7c00) != 0x7c00;

		for (uint32_t i = 0; i < 64; i++)
			elements[i] = (uint16_t)(first + i);
		assert_int_equal(kvci_layout_load(&layout, elements, &rows, floats, 64), finite);
		for (uint32_t i = 0; i < 64; i++) {
			uint32_t exponent = elements[i] >> 10 & 31, mantissa = elements[i] & 0x3ff;
			double is = exponent == 0 ? mantissa * 0x1p-24 : ldexp(1024 + mantissa, (int)exponent - 25);

			if (finite)
				assert_true(floats[i] == (elements[i] >> 15 != 0 ? -is : is) && !signbit(floats[i]) == !(elements[i] >> 15));
			else
				assert_true(!isfinite(floats[i]));
		}
		if (!finite)
			continue;
		for (uint32_t i = 0; i < 63; i++) { /* half way to the next: to the even one; a little more or less: to the nearer one */
			float here = floats[i], next = floats[i + 1], middle = here + (next - here) / 2;
			float three[3] = { nextafterf(middle, here), middle, nextafterf(middle, next) }, row[64] = { three[0], three[1], three[2] };
			uint16_t got[64], want[3] = { elements[i], (uint16_t)(elements[i] + (elements[i] & 1)), (uint16_t)(elements[i] + 1) };

			kvci_layout_store(&layout, got, &rows, row, 64);
			for (int j = 0; j < 3; j++)
				assert_int_equal(got[j], want[j]);
		}
	}
}

static void test_layout__each_f16__exact_and_rounded_to_even(void **context)
{
	(void)context;
	for (int i = 0; i < KERNELS; i++)
		check_types(kernels[i]);
}

/* Any floats, not finite ones too: every kernel stores the same bits, all of them finite. */
static void test_layout__any_float__finite_and_the_same_by_every_kernel(void **context)
{
	(void)context;
	for (uint32_t round = 0; round < 300; round++) {
		struct kvc_form form = form_random();
		struct kvc_codec_part part = { .form = &form, .is_k = true };
		struct kvci_layout_rows rows = { .count = 1 };
		size_t bytes = layer_bytes(&form, true);
		uint8_t *want = kvci_alloc(bytes), *got = kvci_alloc(bytes);
		struct kvci_layout layout;
		float floats[130];

		assert_true(want != NULL && got != NULL && kvci_layout_of(&part, bytes, &layout));
		memset(want, 0, bytes);
		memset(got, 0, bytes);
		for (int i = 0; i < 130; i++) {
			uint32_t bits = (uint32_t)random_next();

			bits = i % 7 == 0 ? bits | 0x7f800000u : i % 7 == 1 ? bits & 0xffffe000u : i % 7 == 2 ? bits | 0x7ffu : bits;
			memcpy(&floats[i], &bits, sizeof(bits));
		}
		assert_true(kvci_rans_select("scalar"));
		kvci_layout_store(&layout, want, &rows, floats, 130);
		assert_true(kvci_layout_load(&layout, want, &rows, floats, 130));
		for (int kernel = 0; kernel < KERNELS; kernel++) {
			if (!kvci_rans_select(kernels[kernel]))
				continue;
			kvci_layout_store(&layout, got, &rows, floats, 130);
			assert_memory_equal(got, want, bytes);
		}
		kvci_free(want);
		kvci_free(got);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout__any_form__rows_where_the_form_says),
		cmocka_unit_test(test_layout__sinks__counted_from_the_position),
		cmocka_unit_test(test_layout__load_and_store__exact),
		cmocka_unit_test(test_layout__each_f16__exact_and_rounded_to_even),
		cmocka_unit_test(test_layout__any_float__finite_and_the_same_by_every_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
