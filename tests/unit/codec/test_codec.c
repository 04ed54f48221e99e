/* SPDX-License-Identifier: Apache-2.0
 * What every codec of the table must do: the suite walks the table and knows none by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "tests/support/random.h"

enum { GUARD = 0xa5, GUARD_BYTES = 64 };

static const uint32_t dtypes[] = {KVC_DTYPE_F32, KVC_DTYPE_BF16, KVC_DTYPE_F16, KVC_DTYPE_F8_E4M3,
                                  KVC_DTYPE_F8_E5M2, KVC_DTYPE_I8, KVC_DTYPE_OPAQUE8};

static struct kvc_form form_of(uint32_t dtype, uint32_t heads)
{
	struct kvc_form form = {
		.struct_bytes = sizeof(struct kvc_form), .layer_count = 2, .block_tokens = 32, .engine_block_tokens = 16,
		.kv_heads = heads, .head_dim_k = 64, .head_dim_v = 64, .dtype = dtype, .arrangement = KVC_KV_FUSED,
		.order = KVC_ORDER_HN, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	struct kvc_form_sizes sizes;

	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	return form;
}

/* Kinds of contents: what compresses, what does not, and the odd bit patterns. */
enum fill { FILL_ZEROS, FILL_RANDOM, FILL_FLOATS, FILL_ONES, FILL_COUNT };

static void fill_bytes(uint8_t *bytes, size_t count, enum fill fill)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t random = random_next();

		bytes[i] = fill == FILL_ZEROS ? 0 :
		           fill == FILL_ONES ? 0xff :
		           fill == FILL_FLOATS && i % 2 == 1 ? (uint8_t)(0x3c + (random & 3)) : (uint8_t)(random >> 32);
	}
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

/* Encodes and decodes one part; *ret_coded (kvci_free it) is NULL when it did not shrink. */
static void round_trip(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *raw,
                       size_t raw_bytes, uint8_t **ret_coded, size_t *ret_bytes)
{
	size_t bound = ops->bound_bytes(part, raw_bytes), bytes = SIZE_MAX;
	size_t scratch_bytes = ops->scratch_bytes(part, raw_bytes);
	uint8_t *coded = guarded(bound), *back = guarded(raw_bytes), *scratch = guarded(scratch_bytes);

	*ret_coded = NULL;
	assert_int_equal(ops->encode(part, raw, raw_bytes, coded, bound, scratch, &bytes), KVC_OK);
	assert_true(bytes <= bound);
	assert_guarded(coded, bound);
	assert_guarded(scratch, scratch_bytes);
	if (bytes != 0) {
		memset(scratch, GUARD, scratch_bytes + GUARD_BYTES); /* nothing is handed on in it */
		assert_int_equal(ops->decode(part, coded, bytes, back, raw_bytes, scratch), KVC_OK);
		assert_guarded(back, raw_bytes);
		assert_guarded(scratch, scratch_bytes);
		if (ops->lossless)
			assert_memory_equal(back, raw, raw_bytes);
		*ret_coded = coded;
		*ret_bytes = bytes;
	} else {
		kvci_free(coded);
	}
	kvci_free(back);
	kvci_free(scratch);
}

static void each_part(void (*check)(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part,
                                    const uint8_t *raw, size_t raw_bytes))
{
	const struct kvc_codec_ops *ops;

	for (size_t index = 0; (ops = kvc_codec_at(index)) != NULL; index++) {
		for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
			for (uint32_t heads = 1; heads <= 3; heads += 2) {
				struct kvc_form form = form_of(dtypes[i], heads);
				struct kvc_form_sizes sizes;
				struct kvc_codec_part part = {.form = &form, .layer = heads / 2, .is_k = true};
				uint8_t *raw;

				assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
				raw = kvci_alloc(sizes.section_bytes);
				assert_non_null(raw);
				for (int fill = 0; fill < FILL_COUNT; fill++) {
					fill_bytes(raw, sizes.section_bytes, (enum fill)fill);
					check(ops, &part, raw, sizes.section_bytes);
				}
				kvci_free(raw);
			}
		}
	}
}

static void check_round_trip(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *raw,
                             size_t raw_bytes)
{
	uint8_t *coded;
	size_t bytes;

	round_trip(ops, part, raw, raw_bytes, &coded, &bytes);
	kvci_free(coded);
}

static void test_codec__any_contents__come_back(void **context)
{
	(void)context;
	each_part(check_round_trip);
}

/* Cut short, flipped, or random: an answer, never a byte outside the buffers (the guards, and the sanitizers). */
static void check_damaged(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *raw,
                          size_t raw_bytes)
{
	uint8_t *coded, *back = guarded(raw_bytes), *scratch = guarded(ops->scratch_bytes(part, raw_bytes));
	size_t bytes;

	round_trip(ops, part, raw, raw_bytes, &coded, &bytes);
	for (int round = 0; coded != NULL && round < 40; round++) {
		size_t now = round % 2 == 0 ? bytes : random_next() % bytes;
		uint8_t *exact = kvci_alloc(now == 0 ? 1 : now);
		kvc_status_t status;

		assert_non_null(exact);
		memcpy(exact, coded, now);
		if (now != 0)
			exact[random_next() % now] ^= (uint8_t)(1u << random_next() % 8);
		status = ops->decode(part, exact, now, back, raw_bytes, scratch);
		assert_true(status == KVC_OK || status == KVC_CORRUPT);
		assert_guarded(back, raw_bytes);
		kvci_free(exact);
	}
	kvci_free(coded);
	kvci_free(back);
	kvci_free(scratch);
}

static void test_codec__damaged_stream__answered_inside_the_buffers(void **context)
{
	(void)context;
	each_part(check_damaged);
}

static void check_cut(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *raw,
                      size_t raw_bytes)
{
	uint8_t *coded, *back = guarded(raw_bytes), *scratch = guarded(ops->scratch_bytes(part, raw_bytes));
	size_t bytes;

	round_trip(ops, part, raw, raw_bytes, &coded, &bytes);
	if (coded != NULL) {
		assert_int_equal(ops->decode(part, coded, 0, back, raw_bytes, scratch), KVC_CORRUPT);
		assert_int_equal(ops->decode(part, coded, bytes - 1, back, raw_bytes, scratch), KVC_CORRUPT);
	}
	kvci_free(coded);
	kvci_free(back);
	kvci_free(scratch);
}

static void test_codec__stream_cut_short__corrupt(void **context)
{
	(void)context;
	each_part(check_cut);
}

static void test_codec_table__each_entry__complete_and_found(void **context)
{
	const struct kvc_codec_ops *ops;
	size_t count, falls = 0;

	(void)context;
	for (count = 0; (ops = kvc_codec_at(count)) != NULL; count++) {
		assert_int_equal(ops->struct_bytes, sizeof(*ops));
		assert_int_equal(ops->abi_version, KVC_CODEC_ABI);
		assert_true(ops->scratch_bytes != NULL && ops->bound_bytes != NULL && ops->encode != NULL && ops->decode != NULL);
		assert_ptr_equal(kvc_codec_by_id(ops->id), ops);
		assert_ptr_equal(kvc_codec_by_name(ops->name), ops);
		falls += count != 0 && kvc_codec_at(count - 1)->id > ops->id;
	}
	assert_true(falls <= 1); /* where the modules begin */
	assert_true(count >= 1);
	assert_ptr_equal(kvc_codec_by_id(KVC_CODEC_RAW), kvc_codec_at(0));
	assert_null(kvc_codec_by_id(UINT16_MAX));
	assert_null(kvc_codec_by_name(""));
	assert_null(kvc_codec_by_name("no such codec"));
}

static void test_codec_raw__out_too_small__invalid_and_untouched(void **context)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_name("raw");
	struct kvc_form form = form_of(KVC_DTYPE_BF16, 1);
	struct kvc_codec_part part = {.form = &form, .is_k = true};
	uint8_t raw[64] = {1}, out[64] = {GUARD};
	size_t bytes = 77;

	(void)context;
	assert_int_equal(ops->encode(&part, raw, sizeof(raw), out, 63, NULL, &bytes), KVC_INVALID);
	assert_int_equal(bytes, 77);
	assert_int_equal(out[0], GUARD);
}

/* A spec names a codec and what it is asked for; every wrong word is named. */
static void test_codec_spec__right_and_wrong(void **context)
{
	static const struct {
		const char *text;
		kvc_status_t status;
		const char *wrong;
	} cases[] = {
		{"raw", KVC_OK, NULL},          {"split", KVC_OK, NULL},
		{"", KVC_INVALID, ""},          {"no-such-codec", KVC_NOT_FOUND, "no-such-codec"},
		{":step=1", KVC_INVALID, ":step=1"}, {"raw:step=0.5", KVC_INVALID, "step=0.5"},
		{"raw:", KVC_INVALID, ""},      {"a-name-that-is-far-too-long-for-a-codec", KVC_INVALID, "a-name-that-is-far-too-long-for-a-codec"},
	};

	(void)context;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct kvc_codec_ops *ops = NULL;
		struct kvc_codec_params params;
		const char *wrong = NULL;

		assert_int_equal(kvc_codec_spec_parse(cases[i].text, &ops, &params, &wrong), cases[i].status);
		if (cases[i].wrong == NULL)
			assert_true(wrong == NULL && strcmp(ops->name, cases[i].text) == 0);
		else
			assert_string_equal(wrong, cases[i].wrong);
	}
	/* Every lossy codec takes what it says it takes, and its defaults are within the bounds. */
	for (size_t i = 0; kvc_codec_at(i) != NULL; i++) {
		const struct kvc_codec_ops *ops = kvc_codec_at(i), *found;
		struct kvc_codec_params params;
		const char *wrong;
		char text[64];

		snprintf(text, sizeof(text), "%s:sinks=4", ops->name);
		assert_int_equal(kvc_codec_spec_parse(text, &found, &params, &wrong),
		                 (ops->params & KVC_CODEC_PARAM_SINKS) != 0 ? KVC_OK : KVC_INVALID);
		snprintf(text, sizeof(text), "%s:sinks=65", ops->name);
		assert_int_equal(kvc_codec_spec_parse(text, &found, &params, &wrong), KVC_INVALID);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_codec_table__each_entry__complete_and_found),
		cmocka_unit_test(test_codec_spec__right_and_wrong),
		cmocka_unit_test(test_codec__any_contents__come_back),
		cmocka_unit_test(test_codec__damaged_stream__answered_inside_the_buffers),
		cmocka_unit_test(test_codec__stream_cut_short__corrupt),
		cmocka_unit_test(test_codec_raw__out_too_small__invalid_and_untouched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
