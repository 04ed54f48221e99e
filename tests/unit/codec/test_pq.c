/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to `pq`: codebooks, codes that are the nearest, outliers, sinks, damage, the profile, and a pinned stream.
 *
 *   test_pq            tests
 *   test_pq --write    rewrites the golden files: only together with a new format version
 */
#include "tests/unit/codec/published.h"

#include "codec/pq.h"

#define GOLDEN "pq-v1.bin"
#define GOLDEN_PROFILE "pq-profile-v1.bin"

enum { POSITION = 256 }; /* of the sample */

/* A profile with codebooks of both lengths, of the sample's first tokens. */
static void make_profile(uint32_t tokens, uint32_t heads, uint32_t dims, uint8_t **ret_bytes, size_t *ret_length)
{
	static uint8_t k[PUBLISHED_TOKENS * PUBLISHED_HEADS * PUBLISHED_DIMS * 2], v[sizeof(k)];
	float inv_freq[PUBLISHED_DIMS / 2];
	struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .dims = dims, .factor = 1, .inv_freq = inv_freq };
	struct kvci_profile_sample sample = { .k = k, .v = v, .tokens = tokens, .position = POSITION };
	struct kvci_profile_order order = {
		.name = "test", .rope = &rope, .samples = &sample, .sample_count = 1, .sinks = 4,
		.form = { .struct_bytes = sizeof(order.form), .layer_count = 1, .kv_heads = heads, .head_dim_k = dims, .head_dim_v = dims,
		          .dtype = KVC_DTYPE_BF16, .shard_count = 1, .block_tokens = 128, .engine_block_tokens = 16,
		          .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL },
	};
	uint8_t *plain;
	size_t plain_bytes;

	for (uint32_t i = 0; i < dims / 2; i++)
		inv_freq[i] = (float)pow(1e5, -2.0 * i / PUBLISHED_DIMS);
	published_sample(true, tokens, heads, dims, k);
	published_sample(false, tokens, heads, dims, v);
	assert_int_equal(kvci_profile_make(&order, &plain, &plain_bytes), KVC_OK);
	assert_int_equal(kvci_pq_train(&order, 0, plain, plain_bytes, ret_bytes, ret_length), KVC_OK);
	assert_int_equal(kvci_pq_train(&order, 3, plain, plain_bytes, ret_bytes, ret_length), KVC_INVALID);
	kvci_free(plain);
}

static struct kvc_profile *profile_of(uint32_t tokens, uint32_t heads, uint32_t dims)
{
	struct kvc_profile *profile;
	uint8_t *bytes;
	size_t length;

	make_profile(tokens, heads, dims, &bytes, &length);
	assert_int_equal(kvci_profile_read(bytes, length, &profile), KVC_OK);
	kvci_free(bytes);
	return profile;
}

static void begin(struct published *run, const char *spec, bool is_k, const struct kvc_profile *profile, uint32_t heads, uint32_t dims)
{
	published_begin(run, spec, is_k, PUBLISHED_TOKENS, heads, dims);
	run->part.profile = profile;
	run->part.position_tokens = POSITION;
}

/* What it was trained on comes back as it is (every row is a centroid's, but for f16 and bf16); what it was not, within a bound. */
static void test_pq__real_kv__within_bounds(void **context)
{
	static const double bounds[2][2] = { { 0.15, 0.33 }, { 0.32, 0.62 } };
	struct kvc_profile *all = profile_of(128, 3, 64), *half = profile_of(64, 3, 64);

	(void)context;
	for (int variant = 0; variant < 2; variant++)
		for (int v = 0; v < 2; v++) {
			struct published run;

			begin(&run, variant == 0 ? "pq:variant=0" : "pq:variant=1", v == 0, all, 3, 64);
			assert_true(published_round_trip(&run) < 0.006);
			assert_in_range(run.coded_bytes, run.raw_bytes / (variant == 0 ? 4 : 8), run.raw_bytes / (variant == 0 ? 4 : 8) * 105 / 100);
			run.part.profile = half;
			assert_true(published_round_trip(&run) < bounds[variant][v]);
			published_end(&run);
		}
	kvci_profile_free(all);
	kvci_profile_free(half);
}

static void test_pq__sinks_and_outliers__apart(void **context)
{
	struct kvc_profile *profile = profile_of(128, 3, 64);

	(void)context;
	for (int i = 0; i < 2; i++) {
		struct published run;
		size_t spike = ((size_t)60 * 3 + 1) * 64 * 2 + 2 * 7;

		begin(&run, "pq", false, profile, 3, 64);
		run.part.position_tokens = i == 0 ? 0 : 2;
		published_to_bf16(-512, run.raw + spike); /* beyond every centroid */
		published_to_bf16(NAN, run.raw);
		published_encode(&run);
		assert_true(run.coded_bytes != 0);
		assert_int_equal(published_decode(&run, run.coded, run.coded_bytes), KVC_OK);
		assert_memory_equal(run.raw, run.back, (i == 0 ? 4 : 2) * 3 * 64 * 2);
		assert_memory_equal(run.raw + spike, run.back + spike, 2);
		published_to_bf16(NAN, run.raw + spike);
		published_encode(&run);
		assert_int_equal(run.coded_bytes, 0);
		published_end(&run);
	}
	kvci_profile_free(profile);
}

static void test_pq__without_its_profile__refused(void **context)
{
	struct kvc_profile *profile = profile_of(128, 1, 16), *other = profile_of(96, 1, 16), *wide = profile_of(64, 1, 32);
	struct published run;

	(void)context;
	begin(&run, "pq", true, profile, 1, 16);
	published_encode(&run);
	assert_true(run.coded_bytes != 0);
	assert_int_equal(published_decode(&run, run.coded, run.coded_bytes), KVC_OK);
	for (int i = 0; i < 3; i++) {
		run.part.profile = i == 0 ? NULL : i == 1 ? other : wide;
		assert_int_equal(run.ops->decode(&run.part, run.coded, run.coded_bytes, run.back, run.raw_bytes, run.scratch), KVC_CORRUPT);
	}
	for (int i = 0; i < 2; i++) {
		size_t coded = run.coded_bytes;

		run.part.profile = i == 0 ? NULL : wide;
		published_encode(&run);
		assert_int_equal(run.coded_bytes, 0);
		run.coded_bytes = coded;
	}
	published_end(&run);
	kvci_profile_free(profile);
	kvci_profile_free(other);
	kvci_profile_free(wide);
}

static void test_pq__damaged__answered(void **context)
{
	struct kvc_profile *profile = profile_of(64, 1, 16);

	(void)context;
	for (int i = 0; i < 2; i++) {
		struct published run;

		begin(&run, i == 0 ? "pq" : "pq:variant=1", true, profile, 1, 16);
		published_encode(&run);
		assert_true(run.coded_bytes != 0);
		published_damage(&run);
		published_end(&run);
	}
	kvci_profile_free(profile);
}

/* None is nearer by more than what floats lose of values up to 32. */
static void check_nearest(const float vectors[][PQ_BATCH], uint32_t i, uint32_t sub, const float *centroids, double found)
{
	for (uint32_t c = 0; c < PQ_CENTROIDS; c++) {
		double distance = 0;

		for (uint32_t k = 0; k < sub; k++)
			distance += pow((double)vectors[k][i] - (double)centroids[c * sub + k], 2);
		assert_true(found <= distance * (1 + 1e-5) + 1e-3);
	}
}

static void test_pq_nearest__against_all(void **context)
{
	static float centroids[PQ_CENTROIDS * 4], vectors[4][PQ_BATCH];
	const char *before = kvci_rans_kernel();
	uint64_t random = 9;

	(void)context;
	for (uint32_t sub = 2; sub <= 4; sub += 2) {
		float distances[PQ_BATCH], half_norms[PQ_CENTROIDS];
		uint8_t codes[PQ_BATCH], first[PQ_BATCH];

		for (size_t i = 0; i < PQ_CENTROIDS * 4 + 4 * PQ_BATCH; i++) {
			float *at = i < PQ_CENTROIDS * 4 ? &centroids[i] : &vectors[(i - PQ_CENTROIDS * 4) / PQ_BATCH][i % PQ_BATCH];

			random = random * 6364136223846793005u + 1442695040888963407u;
			*at = (float)(int32_t)(random >> 34) * 0x1p-28f;
		}
		memcpy(centroids + 200 * sub, centroids + 20 * sub, sub * sizeof(float)); /* the first of equals wins */
		for (uint32_t k = 0; k < sub; k++)
			vectors[k][5] = centroids[20 * sub + k];
		kvci_pq_half_norms(centroids, sub, half_norms);
		for (int kernel = 0; kernel < PUBLISHED_KERNELS; kernel++) {
			if (!kvci_rans_select(published_kernels[kernel]))
				continue;
			kvci_pq_nearest((const float(*)[PQ_BATCH])vectors, 50, sub, centroids, half_norms, codes, distances);
			assert_true(codes[5] == 20 && distances[5] == 0);
			if (kernel == 0)
				memcpy(first, codes, sizeof(codes));
			assert_memory_equal(codes, first, 50);
			for (uint32_t i = 0; i < 50; i++)
				check_nearest((const float(*)[PQ_BATCH])vectors, i, sub, centroids, (double)distances[i]);
		}
	}
	assert_true(kvci_rans_select(before));
}

static struct kvc_profile *golden_profile(void)
{
	static uint8_t bytes[1 << 17];
	FILE *file = fopen(KVC_SOURCE_DIR "/tests/golden/" GOLDEN_PROFILE, "rb");
	struct kvc_profile *profile;
	size_t length;

	assert_non_null(file);
	length = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	assert_int_equal(kvci_profile_read(bytes, length, &profile), KVC_OK);
	return profile;
}

static void test_pq__golden_stream__decodes_to_the_same_bits(void **context)
{
	struct kvc_profile *profile = golden_profile();
	struct published run;

	(void)context;
	begin(&run, "pq", true, profile, 1, 16);
	published_golden(&run, GOLDEN, 0x7269a2c8da359498u);
	published_end(&run);
	kvci_profile_free(profile);
}

static int write_golden(void)
{
	FILE *file = fopen(KVC_SOURCE_DIR "/tests/golden/" GOLDEN_PROFILE, "wb");
	struct kvc_profile *profile;
	struct published run;
	uint8_t *bytes;
	size_t length;
	int failed;

	make_profile(96, 1, 16, &bytes, &length);
	failed = file == NULL || fwrite(bytes, 1, length, file) != length;
	kvci_free(bytes);
	if (file == NULL || fclose(file) != 0 || failed)
		return 1;
	profile = golden_profile();
	begin(&run, "pq", true, profile, 1, 16);
	failed = published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN, NULL, 0);
	published_end(&run);
	kvci_profile_free(profile);
	return failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pq_nearest__against_all),
		cmocka_unit_test(test_pq__real_kv__within_bounds),
		cmocka_unit_test(test_pq__sinks_and_outliers__apart),
		cmocka_unit_test(test_pq__without_its_profile__refused),
		cmocka_unit_test(test_pq__damaged__answered),
		cmocka_unit_test(test_pq__golden_stream__decodes_to_the_same_bits),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
