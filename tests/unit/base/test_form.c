/* SPDX-License-Identifier: Apache-2.0
 * Forms: sizes, ids, and every field refused by name when it is out of range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include <kvcask/form.h>

/* SmolLM2-135M in bfloat16, 256 tokens of engine blocks of 16. */
static struct kvc_form small_form(void)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form),
		.layer_count = 30,
		.block_tokens = 256,
		.engine_block_tokens = 16,
		.kv_heads = 3,
		.head_dim_k = 64,
		.head_dim_v = 64,
		.dtype = KVC_DTYPE_BF16,
		.arrangement = KVC_KV_FUSED,
		.order = KVC_ORDER_HN,
		.group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
}

static void test_form_sizes__small_model__as_computed_by_hand(void **context)
{
	struct kvc_form form = small_form();
	struct kvc_form_sizes sizes;

	(void)context;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	assert_int_equal(sizes.page_bytes, 3 * 128 * 16 * 2);
	assert_int_equal(sizes.pages_per_section, 16);
	assert_int_equal(sizes.section_bytes, 16 * 12288);
	assert_int_equal(sizes.block_bytes, 30 * 16 * 12288);
	assert_int_equal(sizes.sections_offset_bytes, 256 + 30 * 32); /* 1,216: a multiple of 64 */
	assert_int_equal(sizes.section_stride_bytes, 16 * 12288);
	assert_int_equal(sizes.record_bytes, 5898240 + 4096);
}

static void test_form_sizes__odd_page__sections_at_64_byte_steps(void **context)
{
	struct kvc_form form = small_form();
	struct kvc_form_sizes sizes;

	(void)context;
	form.layer_count = 3;
	form.arrangement = KVC_KV_LATENT;
	form.order = 0;
	form.kv_heads = 1;
	form.head_dim_k = 5;
	form.head_dim_v = 0;
	form.dtype = KVC_DTYPE_OPAQUE8;
	form.page_extra_bytes = 3;
	form.block_tokens = form.engine_block_tokens = 1;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	assert_int_equal(sizes.page_bytes, 8);
	assert_int_equal(sizes.section_bytes, 8);
	assert_int_equal(sizes.section_stride_bytes, 64);
	assert_int_equal(sizes.sections_offset_bytes, 384); /* 256 + 96, up to 64 */
	assert_int_equal(sizes.record_bytes, 4096);
}

struct form_case {
	const char *field;
	size_t offset;
	uint32_t value;
	kvc_status_t status;
};

static void test_form_sizes__field_out_of_range__named(void **context)
{
#define CASE(field, value, status) {#field, offsetof(struct kvc_form, field), value, status}
	static const struct form_case cases[] = {
		CASE(struct_bytes, 0, KVC_INVALID), CASE(struct_bytes, 60, KVC_INVALID),
		CASE(layer_count, 0, KVC_INVALID), CASE(layer_count, 1025, KVC_TOO_BIG),
		CASE(layer_count, UINT32_MAX, KVC_TOO_BIG),
		CASE(block_tokens, 0, KVC_INVALID), CASE(block_tokens, 250, KVC_INVALID),
		CASE(block_tokens, 65552, KVC_TOO_BIG),
		CASE(engine_block_tokens, 0, KVC_INVALID),
		CASE(kv_heads, 0, KVC_INVALID),
		CASE(head_dim_k, 0, KVC_INVALID),
		CASE(head_dim_v, 0, KVC_INVALID),
		CASE(dtype, 0, KVC_INVALID), CASE(dtype, 8, KVC_INVALID),
		CASE(arrangement, 0, KVC_INVALID), CASE(arrangement, 4, KVC_INVALID),
		CASE(order, 0, KVC_INVALID), CASE(order, 3, KVC_INVALID),
		CASE(group_rule, 0, KVC_INVALID), CASE(group_rule, 4, KVC_INVALID),
		CASE(window_tokens, 1, KVC_INVALID),
		CASE(shard_index, 1, KVC_INVALID), CASE(shard_count, 0, KVC_INVALID),
	};
	struct kvc_form_sizes sizes = {.page_bytes = 77};

	(void)context;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvc_form form = small_form();
		const char *field = NULL;

		memcpy((char *)&form + cases[i].offset, &cases[i].value, sizeof(uint32_t));
		assert_int_equal(kvc_form_sizes(&form, &sizes, &field), cases[i].status);
		assert_non_null(field);
		assert_string_equal(field, cases[i].field);
		assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), cases[i].status);
		assert_int_equal(sizes.page_bytes, 77);
	}
}

static void test_form_sizes__products_that_overflow__too_big(void **context)
{
	static const struct form_case cases[] = {
		CASE(kv_heads, UINT32_MAX, KVC_TOO_BIG), CASE(head_dim_k, UINT32_MAX, KVC_TOO_BIG),
		CASE(head_dim_v, UINT32_MAX, KVC_TOO_BIG), CASE(page_extra_bytes, UINT32_MAX, KVC_TOO_BIG),
		CASE(page_extra_bytes, 1 << 30, KVC_TOO_BIG), CASE(kv_heads, 3 * 183, KVC_TOO_BIG),
	};

	(void)context;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvc_form form = small_form();
		struct kvc_form_sizes sizes;

		memcpy((char *)&form + cases[i].offset, &cases[i].value, sizeof(uint32_t));
		assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_TOO_BIG);
	}
	for (uint32_t bits = 0; bits < 32; bits++) { /* all products at once, each wrapping at another place */
		struct kvc_form form = small_form();
		struct kvc_form_sizes sizes;
		kvc_status_t status;

		form.kv_heads = form.head_dim_k = form.head_dim_v = UINT32_C(1) << bits;
		form.dtype = KVC_DTYPE_F32;
		status = kvc_form_sizes(&form, &sizes, NULL);
		assert_int_equal(status, bits <= 7 ? KVC_OK : KVC_TOO_BIG);
	}
}

static void test_form_sizes__largest_block__fits(void **context)
{
	struct kvc_form form = small_form();
	struct kvc_form_sizes sizes;

	(void)context;
	form.layer_count = 1024;
	form.kv_heads = 8;
	form.head_dim_k = form.head_dim_v = 128;
	form.block_tokens = 256;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	assert_int_equal(sizes.block_bytes, KVC_BLOCK_BYTES_MAX);
	assert_int_equal(sizes.record_bytes, KVC_BLOCK_BYTES_MAX + 36864);
	form.page_extra_bytes = 1;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_TOO_BIG);
}

static void test_form_id__each_field__counts(void **context)
{
	struct kvc_form form = small_form();
	uint64_t id = kvc_form_id(&form);

	(void)context;
	assert_int_equal(id, XXH3_64bits_withSeed((const char *)&form + 4, 60, 0));
	for (size_t offset = 4; offset < sizeof(form); offset += 4) {
		struct kvc_form other = small_form();
		uint32_t value;

		memcpy(&value, (char *)&other + offset, sizeof(value));
		value ^= 1;
		memcpy((char *)&other + offset, &value, sizeof(value));
		assert_int_not_equal(kvc_form_id(&other), id);
	}
	form.struct_bytes = 0;
	assert_int_equal(kvc_form_id(&form), id);
}

static void test_form_sizes__window_and_state_groups__accepted(void **context)
{
	struct kvc_form form = small_form();
	struct kvc_form_sizes sizes;
	const char *field = NULL;

	(void)context;
	form.group = 1;
	form.group_rule = KVC_GROUP_WINDOW;
	assert_int_equal(kvc_form_sizes(&form, &sizes, &field), KVC_INVALID);
	assert_string_equal(field, "window_tokens");
	form.window_tokens = 512;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	form.group_rule = KVC_GROUP_STATE;
	form.window_tokens = 0;
	form.shard_count = 8;
	form.shard_index = 7;
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_form_sizes__small_model__as_computed_by_hand),
		cmocka_unit_test(test_form_sizes__odd_page__sections_at_64_byte_steps),
		cmocka_unit_test(test_form_sizes__field_out_of_range__named),
		cmocka_unit_test(test_form_sizes__products_that_overflow__too_big),
		cmocka_unit_test(test_form_sizes__largest_block__fits),
		cmocka_unit_test(test_form_id__each_field__counts),
		cmocka_unit_test(test_form_sizes__window_and_state_groups__accepted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
