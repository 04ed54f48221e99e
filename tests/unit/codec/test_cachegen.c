/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to `cachegen`: both variants within their bounds on real KV, sinks, the coder, damage, and pinned streams.
 *
 *   test_cachegen            tests
 *   test_cachegen --write    rewrites the golden files (only together with a new format version) and the fuzzer's seeds
 */
#include "tests/unit/codec/published.h"

#include "codec/cachegen_coder.h"

#define GOLDEN "cachegen-lmcache-v1.bin"
#define GOLDEN_PAPER "cachegen-paper-v1.bin"

static size_t at_of(const struct published *run, uint32_t token, uint32_t head, uint32_t dim)
{
	return (((size_t)token * run->form.kv_heads + head) * run->form.head_dim_k + dim) * 2;
}

/* Variant 0: half a step of the token's largest magnitude, and the rounding to bf16. */
static void test_cachegen__as_lmcache__within_half_a_step(void **context)
{
	static const uint32_t layers[] = { 0, 2, 10 };

	(void)context;
	for (int i = 0; i < 6; i++) {
		uint32_t layer = layers[i / 2], steps = layer < (i % 2 == 0 ? 10u : 2u) ? 15 : 7;
		struct published run;

		published_begin(&run, "cachegen", i % 2 == 0, 128, 3, 64);
		run.form.layer_count = 12;
		run.part.layer = layer;
		assert_true(published_round_trip(&run) < (steps == 15 ? 0.2 : 0.4));
		for (uint32_t token = 0; token < 128; token++) {
			float most = 0;

			for (uint32_t j = 0; j < 3 * 64; j++)
				most = fmaxf(most, fabsf(published_bf16(run.raw + at_of(&run, token, 0, 0) + 2 * j)));
			for (uint32_t j = 0; j < 3 * 64; j++) {
				size_t at = at_of(&run, token, 0, 0) + 2 * j;

				assert_true(fabsf(published_bf16(run.raw + at) - published_bf16(run.back + at)) <= most * (0.5f / (float)steps + 0.005f));
			}
		}
		published_end(&run);
	}
}

/* Variant 1: anchors by 127 steps, the others by half a step of their channel, both and the rounding. */
static void test_cachegen__as_in_the_paper__within_half_a_step(void **context)
{
	(void)context;
	for (int i = 0; i < 2; i++) {
		struct published run;

		published_begin(&run, "cachegen:variant=1,step=0.25", i == 0, 128, 3, 64);
		assert_true(published_round_trip(&run) < 0.11);
		for (uint32_t j = 0; j < 3 * 64; j++) {
			double sum = 0, squares = 0, sigma;

			for (uint32_t token = 0; token < 128; token++) {
				double value = (double)published_bf16(run.raw + at_of(&run, token, 0, 0) + 2 * j);

				sum += value;
				squares += value * value;
			}
			sigma = sqrt((squares - sum * sum / 128) / 128);
			for (uint32_t token = 0; token < 128; token++) {
				size_t at = at_of(&run, token, 0, 0) + 2 * j;
				double value = (double)published_bf16(run.raw + at), error = fabs(value - (double)published_bf16(run.back + at));

				if (token % 10 != 0)
					assert_true(error <= 0.127 * sigma + 0.005 * fabs(value));
				else
					assert_true(error <= 0.15);
			}
		}
		published_end(&run);
	}
}

static void test_cachegen__sinks__raw(void **context)
{
	static const struct {
		uint64_t position;
		uint32_t raw_tokens;
	} cases[] = { { 0, 4 }, { 3, 1 }, { 4, 0 }, { UINT64_MAX - 200, 0 } };

	(void)context;
	for (int variant = 0; variant < 2; variant++)
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			struct published run;

			published_begin(&run, variant == 0 ? "cachegen:sinks=4" : "cachegen:sinks=4,variant=1", true, 128, 3, 64);
			run.part.position_tokens = cases[i].position;
			published_round_trip(&run);
			assert_memory_equal(run.raw, run.back, at_of(&run, cases[i].raw_tokens, 0, 0));
			assert_memory_not_equal(run.raw + at_of(&run, cases[i].raw_tokens, 0, 0), run.back + at_of(&run, cases[i].raw_tokens, 0, 0),
			                        3 * 64 * 2);
			published_end(&run);
		}
}

static void test_cachegen__what_it_cannot_code__did_not_shrink(void **context)
{
	static const uint8_t nan[2] = { 0xc0, 0x7f }, infinite[2] = { 0x80, 0x7f };

	(void)context;
	for (int i = 0; i < 5; i++) {
		struct published run;

		published_begin(&run, i % 2 == 0 ? "cachegen:sinks=4" : "cachegen:sinks=4,variant=1", true, 128, 3, 64);
		if (i < 2)
			memcpy(run.raw + at_of(&run, 5, 0, 0), i == 0 ? nan : infinite, 2);
		run.form.page_extra_bytes = i == 2 ? 64 : 0;
		run.form.dtype = i == 3 ? KVC_DTYPE_I8 : KVC_DTYPE_BF16;
		run.params.variant = i == 4 ? 2 : run.params.variant;
		published_encode(&run);
		assert_int_equal(run.coded_bytes, 0);
		run.form.page_extra_bytes = 0;
		run.form.dtype = KVC_DTYPE_BF16;
		run.params.variant = 0;
		/* Among the sinks it does no harm. */
		memcpy(run.raw + at_of(&run, 5, 0, 0), run.raw + at_of(&run, 6, 0, 0), 2);
		memcpy(run.raw + at_of(&run, 3, 0, 0), nan, 2);
		published_encode(&run);
		assert_true(run.coded_bytes != 0);
		assert_int_equal(published_decode(&run, run.coded, run.coded_bytes), KVC_OK);
		assert_memory_equal(run.raw, run.back, at_of(&run, 4, 0, 0));
		published_end(&run);
	}
}

static void test_cachegen__damaged__answered(void **context)
{
	(void)context;
	for (int variant = 0; variant < 2; variant++) {
		struct published run;

		published_begin(&run, variant == 0 ? "cachegen:sinks=4" : "cachegen:sinks=4,variant=1", true, 64, 1, 16);
		published_encode(&run);
		assert_true(run.coded_bytes != 0);
		published_damage(&run);
		published_end(&run);
	}
}

/* Shares of every width, with many carries, in a room of exactly the stream and in none. */
static void test_cachegen_coder__any_shares__come_back(void **context)
{
	static uint32_t starts[5000], widths[5000];
	static uint8_t bytes[5000 * 3];
	uint64_t random = 1;

	(void)context;
	for (int round = 0; round < 60; round++) {
		size_t count = round < 10 ? (size_t)round : 5000, length;
		struct cachegen_encoder encoder;
		struct cachegen_decoder decoder;

		kvci_cachegen_encode_begin(&encoder, bytes, bytes + sizeof(bytes));
		for (size_t i = 0; i < count; i++) {
			random = random * 6364136223846793005u + 1442695040888963407u;
			widths[i] = 1 + (uint32_t)(random >> 33) % (1u << (1 + round % 16));
			starts[i] = round % 3 == 0 ? 65536 - widths[i] : (uint32_t)(random >> 20) % (65537 - widths[i]);
			kvci_cachegen_encode(&encoder, starts[i], widths[i]);
		}
		length = kvci_cachegen_encode_end(&encoder);
		assert_false(encoder.full);
		kvci_cachegen_decode_begin(&decoder, bytes, bytes + length);
		for (size_t i = 0; i < count; i++) {
			uint32_t at = kvci_cachegen_decode_at(&decoder);

			assert_true(at >= starts[i] && at < starts[i] + widths[i]);
			kvci_cachegen_decode_take(&decoder, starts[i], widths[i]);
		}
		if (length > 2) {
			kvci_cachegen_encode_begin(&encoder, bytes, bytes + length - 2);
			for (size_t i = 0; i < count; i++)
				kvci_cachegen_encode(&encoder, starts[i], widths[i]);
			kvci_cachegen_encode_end(&encoder);
			assert_true(encoder.full);
		}
	}
}

static void golden_begin(struct published *run, bool paper)
{
	published_begin(run, paper ? "cachegen:sinks=4,variant=1" : "cachegen:sinks=4", true, 128, 1, 16);
}

static void test_cachegen__golden_streams__decode_to_the_same_bits(void **context)
{
	struct published run;

	(void)context;
	golden_begin(&run, false);
	published_golden(&run, GOLDEN, 0xa0b6ecb7486c5d9au);
	published_end(&run);
	golden_begin(&run, true);
	published_golden(&run, GOLDEN_PAPER, 0x2c4415414fb5baafu);
	published_end(&run);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cachegen_coder__any_shares__come_back),
		cmocka_unit_test(test_cachegen__as_lmcache__within_half_a_step),
		cmocka_unit_test(test_cachegen__as_in_the_paper__within_half_a_step),
		cmocka_unit_test(test_cachegen__sinks__raw),
		cmocka_unit_test(test_cachegen__what_it_cannot_code__did_not_shrink),
		cmocka_unit_test(test_cachegen__damaged__answered),
		cmocka_unit_test(test_cachegen__golden_streams__decode_to_the_same_bits),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0) {
		struct published run;
		int failed;

		golden_begin(&run, false);
		failed = published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN, NULL, 0);
		published_end(&run);
		golden_begin(&run, true);
		failed |= published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN_PAPER, NULL, 0);
		published_end(&run);
		failed |= published_seed("cachegen:sinks=4", KVC_SOURCE_DIR "/tests/fuzz/corpus/codec/cachegen_lmcache");
		failed |= published_seed("cachegen:sinks=4,variant=1", KVC_SOURCE_DIR "/tests/fuzz/corpus/codec/cachegen_paper");
		return failed;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
