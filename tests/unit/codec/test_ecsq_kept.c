/* SPDX-License-Identifier: Apache-2.0
 * Quiet rows, which ecsq keeps, and the weights of a profile. */
#include "tests/unit/codec/ecsq_rig.h"

/* ---- quiet rows ---- */

static double row_length(const uint8_t *raw, const uint8_t *other, uint32_t token)
{
	double sum = 0;

	for (uint32_t i = token * HEADS * DIMS; i < (token + 1) * HEADS * DIMS; i++) {
		double off = (double)from_bf16(((const uint16_t *)(const void *)raw)[i]);

		if (other != NULL)
			off -= (double)from_bf16(((const uint16_t *)(const void *)other)[i]);
		sum += off * off;
	}
	return sqrt(sum);
}

static void hush(struct coded *coded, uint32_t token)
{
	uint16_t *row = (uint16_t *)(void *)coded->raw + (size_t)token * HEADS * DIMS;

	for (uint32_t i = 0; i < HEADS * DIMS; i++)
		row[i] = to_bf16(from_bf16(row[i]) * 0.1f);
}

/* What attention rests on is short, and must be exact in proportion to itself; what is around it is as it was. */
static void test_ecsq__quiet_rows__kept_within_a_hundredth(void **context)
{
	static const char *const specs[] = { "ecsq:step=0.5", "ecsq+pca:step=0.5" };
	static const uint32_t quiet[] = { 9, 30, 63 };
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);

	(void)context;
	for (int at = 0; at < 4; at++) {
		struct coded coded;

		coded_init(&coded, specs[at / 2], &form, at % 2 != 0);
		coded_fill(&coded);
		for (size_t i = 0; i < sizeof(quiet) / sizeof(quiet[0]); i++)
			hush(&coded, quiet[i]);
		coded_encode(&coded);
		assert_true(coded.bytes != 0 && coded.bytes < coded.raw_bytes / 2);
		assert_int_equal(coded_decode(&coded), KVC_OK);
		for (size_t i = 0; i < sizeof(quiet) / sizeof(quiet[0]); i++)
			assert_true(row_length(coded.raw, coded.back, quiet[i]) < 0.02 * row_length(coded.raw, NULL, quiet[i]));
		assert_true(row_length(coded.raw, coded.back, 31) > 0.02 * row_length(coded.raw, NULL, 31));
		coded_fini(&coded);
	}
}

/* A text of nothing but short rows is coded like any other. */
static void test_ecsq__many_quiet_rows__none_is_kept(void **context)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH);
	struct coded coded;

	(void)context;
	coded_init(&coded, "ecsq:step=0.5", &form, false);
	coded_fill(&coded);
	for (uint32_t token = 0; token < TOKENS; token += 2)
		hush(&coded, token);
	coded_encode(&coded);
	assert_true(coded.bytes != 0 && coded.bytes < coded.raw_bytes / 4);
	assert_int_equal(coded_decode(&coded), KVC_OK);
	assert_true(row_length(coded.raw, coded.back, 30) > 0.02 * row_length(coded.raw, NULL, 30));
	coded_fini(&coded);
}

/* ---- weights ---- */

static void test_profile__weights__heavier_channels_have_smaller_steps(void **context)
{
	static float weights[2][LAYERS * HEADS * DIMS];
	struct kvci_profile_sample one = { sample[0], sample[1], TOKENS, 0 };
	struct kvci_profile_order order = { .name = "weighed", .form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH), .rope = &rope, .samples = &one,
		                            .sample_count = 1, .sinks = 4, .weights = { weights[0], weights[1] } };
	struct kvc_profile *weighed;
	uint8_t *bytes;
	size_t length;

	(void)context;
	for (int plane = 0; plane < 2; plane++)
		for (int i = 0; i < LAYERS * HEADS * DIMS; i++)
			weights[plane][i] = i % 2 == 0 ? 1.0f : 4.0f;
	weights[1][5] = 0; /* no errors matter: as wide as it may be */
	weighed = make_profile(&order);
	for (int plane = 0; plane < 2; plane++)
		for (int i = 0; i < LAYERS * HEADS * DIMS; i++) {
			const struct kvci_profile_plane *stats = &weighed->planes[plane];

			assert_true(stats->scale[i] >= 0.12f * stats->sigma[i] && stats->scale[i] <= 8.01f * stats->sigma[i]);
			if (i % 2 == 0 && stats->scale[i] < 7.9f * stats->sigma[i] && stats->scale[i + 1] > 0.13f * stats->sigma[i + 1] && plane == 0)
				assert_float_equal(stats->scale[i] / stats->scale[i + 1], powf(4, 0.375f), 1e-3);
		}
	assert_float_equal(weighed->planes[1].scale[5], 8 * weighed->planes[1].sigma[5], 1e-3);
	assert_true(kvci_profile_id(weighed) != kvci_profile_id(profile));
	kvci_profile_free(weighed);
	weights[0][7] = -1;
	assert_int_equal(kvci_profile_make(&order, &bytes, &length), KVC_INVALID);
	weights[0][7] = NAN;
	assert_int_equal(kvci_profile_make(&order, &bytes, &length), KVC_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ecsq__quiet_rows__kept_within_a_hundredth),
		cmocka_unit_test(test_ecsq__many_quiet_rows__none_is_kept),
		cmocka_unit_test(test_profile__weights__heavier_channels_have_smaller_steps),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
