/* SPDX-License-Identifier: Apache-2.0
 * The bench's own arithmetic and its output: a wrong median would make every figure of docs/performance.md wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <jansson.h>

#include "tools/bench/bench.h"
#include "tools/bench/shapes.h"

static void test_samples__percentiles__of_what_was_added(void **state)
{
	struct bench_samples samples = { 0 };

	assert_true(bench_samples_at(&samples, 0.5) == 0);
	for (unsigned i = 0; i < 101; i++)
		assert_int_equal(bench_samples_add(&samples, (i * 37) % 101), KVC_OK);
	assert_true(bench_samples_at(&samples, 0) == 0);
	assert_true(bench_samples_at(&samples, 0.5) == 50);
	assert_true(bench_samples_at(&samples, 0.99) == 99);
	assert_true(bench_samples_at(&samples, 1) == 100);
	bench_samples_fini(&samples);
}

/* The median of the ratios, not the ratio of the medians: both sides drift together. */
static void test_pairs__drifting_machine__median_of_ratios(void **state)
{
	struct bench_pairs pairs = { 0 };
	struct bench_result result = { 0 };

	for (unsigned i = 1; i <= 9; i++)
		assert_int_equal(bench_pairs_add(&pairs, 1000.0 * i, 900.0 * i), KVC_OK);
	assert_int_equal(bench_pairs_add(&pairs, 1000.0, 100000.0), KVC_OK); /* one wild pair */
	bench_pairs_into(&pairs, 10000, &result);
	assert_true(result.ratio > 0.899 && result.ratio < 0.901);
	assert_true(result.spread < 1e-9);
	assert_int_equal(result.n, 10);
	assert_string_equal(result.unit, "GB/s");
	assert_true(result.ours > 1.6 && result.ours < 2.6); /* 10,000 bytes in 4 to 6 us */
	bench_pairs_into(&pairs, 0, &result);
	assert_string_equal(result.unit, "us");
	assert_true(result.ours >= 4 && result.ours <= 6);
	bench_pairs_fini(&pairs);
}

static void test_pair_count__asked_for_few__never_under_nine(void **state)
{
	struct bench_options options = { .pairs = 2 };

	assert_int_equal(bench_pair_count(&options, 21, 9), BENCH_PAIRS_MIN);
	options.pairs = 30;
	assert_int_equal(bench_pair_count(&options, 21, 9), 30);
	options = (struct bench_options){ .quick = true };
	assert_int_equal(bench_pair_count(&options, 21, 9), 9);
	options.quick = false;
	assert_int_equal(bench_pair_count(&options, 21, 9), 21);
}

static void test_result__bars__met_or_missed(void **state)
{
	struct bench_result result = { .ratio = 0.8, .ours = 5, .p50_us = 15 };

	assert_true(bench_result_met(&result));
	result.bar_kind = BENCH_BAR_RATIO_MIN;
	result.bar = 0.8;
	assert_true(bench_result_met(&result));
	result.bar = 0.81;
	assert_false(bench_result_met(&result));
	result.bar_kind = BENCH_BAR_OURS_MAX;
	assert_false(bench_result_met(&result));
	result.bar = 5;
	assert_true(bench_result_met(&result));
	result.bar_kind = BENCH_BAR_P50_US_MAX;
	assert_false(bench_result_met(&result));
}

/* Runs the bench with its standard output in a file; the exit status. */
static int run_into(char *text, size_t room, int argc, char **argv)
{
	int saved = dup(STDOUT_FILENO);
	FILE *file = tmpfile();

	assert_true(saved >= 0 && file != NULL);
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	int status = kvci_bench_main(argc, argv);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	rewind(file);
	text[fread(text, 1, room - 1, file)] = '\0';
	fclose(file);
	return status;
}

static void test_main__json__one_object_a_measurement_with_all_fields(void **state)
{
	static const char *const fields[] = { "ours", "reference", "ratio", "spread", "p50_us", "p99_us", "n" };
	static char text[65536];
	char *argv[] = { "bench", "allocator", "--json", "--quick", NULL };
	unsigned lines = 0;

	assert_int_equal(run_into(text, sizeof(text), 4, argv), 0); /* the allocator's bars are far off its figures */
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++) {
		json_t *root = json_loads(line, 0, NULL);
		assert_non_null(root);
		assert_string_equal(json_string_value(json_object_get(root, "bench")), "allocator");
		assert_true(json_is_string(json_object_get(root, "case")));
		assert_true(json_is_string(json_object_get(root, "reference_name")));
		assert_true(json_is_string(json_object_get(root, "unit")));
		for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
			assert_true(json_is_number(json_object_get(root, fields[i])));
		json_decref(root);
	}
	assert_int_equal(lines, 10); /* five cases: what is unusable, and the time */
}

static void test_main__wrong_usage__status_two(void **state)
{
	static char text[4096];
	char *unknown[] = { "bench", "nothing", NULL };
	char *option[] = { "bench", "--nothing", NULL };

	assert_int_equal(run_into(text, sizeof(text), 2, unknown), 2);
	assert_int_equal(run_into(text, sizeof(text), 2, option), 2);
	assert_string_equal(text, "");
}

static void test_shapes__sizes__as_their_names_say(void **state)
{
	struct bench_shape shape;

	bench_shape_large(&shape);
	assert_int_equal(shape.sizes.block_bytes, 32 << 20);
	assert_int_equal(shape.form.block_tokens, 256);
	bench_shape_small(&shape);
	assert_int_equal(shape.sizes.block_bytes, 5898240);
	assert_int_equal(shape.form.block_tokens, 256);
	bench_shape_tiny(&shape);
	assert_int_equal(shape.sizes.record_bytes, 4096);
	for (uint32_t mib = 1; mib <= 32; mib *= 2) {
		bench_shape_mib(mib, &shape);
		assert_int_equal(shape.sizes.block_bytes, mib << 20);
	}
}

/* The reference copies move exactly a block's bytes, and back again to other pages. */
static void test_engine__gather_and_scatter__whole_block(void **state)
{
	struct bench_shape shape;
	struct bench_engine engine;

	bench_shape_mib(1, &shape);
	assert_int_equal(bench_engine_init(&engine, &shape, 4 << 20), KVC_OK);
	assert_int_equal(engine.block_count, 4);
	uint8_t *flat = bench_shared_map(2 * shape.sizes.record_bytes);
	assert_non_null(flat);
	uint8_t *again = flat + shape.sizes.record_bytes;
	bench_engine_gather(&engine, 0, flat, bench_copy_memcpy);
	bench_engine_gather(&engine, 1, again, bench_copy_memcpy);
	assert_memory_not_equal(flat, again, shape.sizes.block_bytes);
	bench_engine_scatter(&engine, 1, flat, bench_copy_memcpy);
	bench_engine_gather(&engine, 1, again, bench_copy_memcpy);
	assert_memory_equal(flat, again, shape.sizes.block_bytes);
	bench_shared_unmap(flat, 2 * shape.sizes.record_bytes);
	bench_engine_fini(&engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_samples__percentiles__of_what_was_added),
		cmocka_unit_test(test_pairs__drifting_machine__median_of_ratios),
		cmocka_unit_test(test_pair_count__asked_for_few__never_under_nine),
		cmocka_unit_test(test_result__bars__met_or_missed),
		cmocka_unit_test(test_shapes__sizes__as_their_names_say),
		cmocka_unit_test(test_engine__gather_and_scatter__whole_block),
		cmocka_unit_test(test_main__json__one_object_a_measurement_with_all_fields),
		cmocka_unit_test(test_main__wrong_usage__status_two),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
