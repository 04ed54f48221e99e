/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to `xquant`: both variants within their bounds, units over all layers, sinks, forms it refuses, damage, pinned streams.
 *
 *   test_xquant            tests
 *   test_xquant --write    rewrites the golden files (only together with a new format version) and the fuzzer's seeds
 */
#include "tests/unit/codec/published.h"

#define GOLDEN "xquant-v1.bin"
#define GOLDEN_CL "xquant-cl-v1.bin"

enum { HIDDEN = PUBLISHED_HEADS * PUBLISHED_DIMS, LAYERS = 6 };

/* A stream that grows from layer to layer as a model's does: K's rows, then each time a fifth of V's, shifted. */
static void begin(struct published *run, const char *spec, uint32_t tokens, uint32_t layers, uint32_t hidden)
{
	static uint8_t v[PUBLISHED_TOKENS * HIDDEN * 2];
	struct published first;

	published_begin(run, spec, true, tokens, 1, hidden < PUBLISHED_DIMS ? hidden : PUBLISHED_DIMS);
	published_begin(&first, spec, true, tokens, hidden == HIDDEN ? 3 : 1, hidden == HIDDEN ? PUBLISHED_DIMS : hidden);
	published_sample(false, tokens, hidden == HIDDEN ? 3 : 1, hidden == HIDDEN ? PUBLISHED_DIMS : hidden, v);
	run->form.arrangement = KVC_KV_LATENT;
	run->form.order = 0;
	run->form.kv_heads = 1;
	run->form.head_dim_k = hidden;
	run->form.head_dim_v = 0;
	run->form.layer_count = layers;
	run->part.layer_count = run->ops->span(&run->part);
	run->raw_bytes = first.raw_bytes * run->part.layer_count;
	kvci_free(run->raw);
	run->raw = kvci_alloc(run->raw_bytes);
	assert_non_null(run->raw);
	memcpy(run->raw, first.raw, first.raw_bytes);
	for (size_t i = first.raw_bytes; i < run->raw_bytes; i += 2) {
		size_t shifted = (i + i / first.raw_bytes * 22) % first.raw_bytes;

		published_to_bf16(published_bf16(run->raw + i - first.raw_bytes) + 0.2f * published_bf16(v + shifted), run->raw + i);
	}
	published_end(&first);
}

static void test_xquant__bits_and_groups__within_half_a_step(void **context)
{
	static const char *const specs[] = { "xquant:bits_k=8,sinks=0", "xquant:bits_k=4,sinks=0", "xquant:bits_k=3,group=32,sinks=0",
	                                     "xquant:bits_k=4,group=50,entropy=0,sinks=0" };
	static const uint32_t bits[] = { 8, 4, 3, 4 }, groups[] = { 64, 64, 32, 50 };

	(void)context;
	for (int s = 0; s < 4; s++) {
		struct published run;

		begin(&run, specs[s], 128, 3, HIDDEN);
		assert_int_equal(run.part.layer_count, 1);
		published_round_trip(&run);
		for (uint32_t token = 0; token < 128; token++)
			for (uint32_t group = 0; group < HIDDEN; group += groups[s]) {
				const uint8_t *raw = run.raw + ((size_t)token * HIDDEN + group) * 2, *back = run.back + (raw - run.raw);
				uint32_t count = HIDDEN - group < groups[s] ? HIDDEN - group : groups[s];
				float lowest = INFINITY, highest = -INFINITY, step;

				for (uint32_t i = 0; i < count; i++) {
					lowest = fminf(lowest, published_bf16(raw + 2 * i));
					highest = fmaxf(highest, published_bf16(raw + 2 * i));
				}
				step = (highest - lowest) / (float)((1u << bits[s]) - 1);
				for (uint32_t i = 0; i < count; i++) {
					float value = published_bf16(raw + 2 * i);

					assert_true(fabsf(value - published_bf16(back + 2 * i)) <= 0.51f * step + 0.005f * fmaxf(fabsf(lowest), fabsf(highest)));
				}
			}
		published_end(&run);
	}
}

/* Differences need fewer bits than what they are differences of: at 3 bits as good as X at 4. */
static void test_xquant__over_layers__errors_do_not_add_up(void **context)
{
	struct published run, alone;
	double error, error_alone, last = 0, size = 0;

	(void)context;
	begin(&run, "xquant:variant=1,bits_k=3,sinks=0", 128, LAYERS, HIDDEN);
	assert_int_equal(run.part.layer_count, LAYERS);
	error = published_round_trip(&run);
	begin(&alone, "xquant:bits_k=3,sinks=0", 128, 1, HIDDEN);
	error_alone = published_round_trip(&alone);
	assert_true(error < 0.7 * error_alone);
	for (size_t i = run.raw_bytes / LAYERS * (LAYERS - 1); i < run.raw_bytes; i += 2) {
		double value = (double)published_bf16(run.raw + i);

		last += pow(value - (double)published_bf16(run.back + i), 2);
		size += value * value;
	}
	assert_true(sqrt(last / size) < error_alone);
	published_end(&run);
	published_end(&alone);
}

static void test_xquant__sinks_raw_and_wrong_forms_refused(void **context)
{
	struct published run;
	size_t layer_bytes;

	(void)context;
	begin(&run, "xquant:variant=1,bits_k=3,sinks=4", 64, LAYERS, HIDDEN);
	layer_bytes = run.raw_bytes / LAYERS;
	published_to_bf16(NAN, run.raw + 2 * layer_bytes);
	run.part.position_tokens = 2; /* two of them */
	published_encode(&run);
	assert_true(run.coded_bytes != 0);
	assert_int_equal(published_decode(&run, run.coded, run.coded_bytes), KVC_OK);
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		assert_memory_equal(run.raw + layer * layer_bytes, run.back + layer * layer_bytes, 2 * HIDDEN * 2);
		assert_memory_not_equal(run.raw + layer * layer_bytes, run.back + layer * layer_bytes, 3 * HIDDEN * 2);
	}
	run.part.position_tokens = 4; /* no sink: not finite */
	published_encode(&run);
	assert_int_equal(run.coded_bytes, 0);
	published_end(&run);
	/* K and V are no inputs of layers. */
	published_begin(&run, "xquant", true, 128, 3, 64);
	published_encode(&run);
	assert_int_equal(run.coded_bytes, 0);
	assert_int_equal(run.ops->span(&run.part), 1);
	published_end(&run);
}

static void test_xquant__damaged__answered(void **context)
{
	(void)context;
	for (int i = 0; i < 3; i++) {
		struct published run;

		begin(&run, i == 0 ? "xquant:group=8" : i == 1 ? "xquant:variant=1,bits_k=3,group=16" : "xquant:variant=1,bits_k=2,entropy=0", 16, 5, 16);
		published_encode(&run);
		assert_true(run.coded_bytes != 0);
		published_damage(&run);
		published_end(&run);
	}
}

static void test_xquant__golden_streams__decode_to_the_same_bits(void **context)
{
	struct published run;

	(void)context;
	begin(&run, "xquant", 48, 1, 64);
	published_golden(&run, GOLDEN, 0x3191baa8f144cb34u);
	published_end(&run);
	begin(&run, "xquant:variant=1,bits_k=3", 32, 5, 64);
	published_golden(&run, GOLDEN_CL, 0xfefd1d9a67d89672u);
	published_end(&run);
}

static int write_golden(void)
{
	struct published run;
	int failed;

	begin(&run, "xquant", 48, 1, 64);
	failed = published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN, NULL, 0);
	published_end(&run);
	begin(&run, "xquant:variant=1,bits_k=3", 32, 5, 64);
	failed |= published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN_CL, NULL, 0);
	published_end(&run);
	/* Forms of tests/fuzz/fuzz_codec.c: two layers of 64 tokens of 16 elements. */
	for (int cl = 0; cl < 2; cl++) {
		uint8_t head[6] = { KVC_CODEC_XQUANT, KVC_DTYPE_BF16 - 1, cl == 0 ? 0x08 : 0x18, 0 };

		begin(&run, cl == 0 ? "xquant:group=8" : "xquant:variant=1,bits_k=3,group=16", 64, 2, 16);
		head[4] = (uint8_t)run.raw_bytes;
		head[5] = (uint8_t)(run.raw_bytes >> 8);
		failed |= published_write(&run, cl == 0 ? KVC_SOURCE_DIR "/tests/fuzz/corpus/codec/xquant" : KVC_SOURCE_DIR "/tests/fuzz/corpus/codec/xquant_cl",
		                          head, sizeof(head));
		published_end(&run);
	}
	return failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_xquant__bits_and_groups__within_half_a_step),
		cmocka_unit_test(test_xquant__over_layers__errors_do_not_add_up),
		cmocka_unit_test(test_xquant__sinks_raw_and_wrong_forms_refused),
		cmocka_unit_test(test_xquant__damaged__answered),
		cmocka_unit_test(test_xquant__golden_streams__decode_to_the_same_bits),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
