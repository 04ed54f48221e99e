/* SPDX-License-Identifier: Apache-2.0
 *
 * What is particular to the codec hevc, a module: found where it is built, how near it comes, what stays raw, streams that are not of these frames.
 *
 *   test_hevc --write    rewrites the golden file (only together with a new format version) and the fuzzer's seeds
 */
#include "tests/unit/codec/published.h"

#define GOLDEN "hevc-v1.bin"

enum { HEAD_BYTES = 8 };

/* `layers` times the same tokens. */
static void begin(struct published *run, const char *spec, bool is_k, uint32_t tokens, uint32_t layers)
{
	size_t layer_bytes;

	published_begin(run, spec, is_k, tokens, PUBLISHED_HEADS, PUBLISHED_DIMS);
	layer_bytes = run->raw_bytes;
	run->raw_bytes *= layers;
	kvci_free(run->raw);
	run->raw = kvci_alloc(run->raw_bytes);
	assert_non_null(run->raw);
	for (uint32_t i = 0; i < layers; i++)
		published_sample(is_k, tokens, PUBLISHED_HEADS, PUBLISHED_DIMS, run->raw + i * layer_bytes);
	run->form.layer_count = run->part.layer_count = layers;
}

static double error_of(const char *spec, bool is_k, size_t *ret_bytes)
{
	struct published run;
	double error;

	begin(&run, spec, is_k, 128, 1);
	error = published_round_trip(&run);
	*ret_bytes = run.coded_bytes;
	published_end(&run);
	return error;
}

static void test_hevc__qp__is_the_rate(void **context)
{
	size_t fine, middle, coarse, thorough;

	(void)context;
	for (int is_k = 0; is_k < 2; is_k++) {
		double fine_error = error_of("hevc:qp=4", is_k != 0, &fine), error = error_of("hevc", is_k != 0, &middle);
		double coarse_error = error_of("hevc:qp=22", is_k != 0, &coarse), thorough_error = error_of("hevc:variant=1", is_k != 0, &thorough);

		print_message("hevc %s: %.3f in %zu bytes, %.3f in %zu (%.3f in %zu), %.3f in %zu\n", is_k ? "K" : "V", fine_error, fine, error, middle,
		              thorough_error, thorough, coarse_error, coarse);
		assert_true(fine > middle && middle > coarse && fine_error < error && error < coarse_error);
		assert_true(error < 0.1 && middle < 128 * PUBLISHED_HEADS * PUBLISHED_DIMS * 2 / 3);
		assert_true(thorough_error < error);
	}
}

static void test_hevc__unit_of_layers__each_as_alone(void **context)
{
	struct published one, three;
	size_t layer_bytes;

	(void)context;
	begin(&one, "hevc", true, 64, 1);
	begin(&three, "hevc", true, 64, 3);
	layer_bytes = one.raw_bytes;
	assert_int_equal(three.ops->span(&three.part), 3);
	published_encode(&one);
	assert_int_equal(published_decode(&one, one.coded, one.coded_bytes), KVC_OK);
	published_encode(&three);
	assert_true(three.coded_bytes != 0 && three.coded_bytes < 3 * one.coded_bytes);
	assert_int_equal(published_decode(&three, three.coded, three.coded_bytes), KVC_OK);
	for (int i = 0; i < 3; i++)
		assert_memory_equal(three.back + (size_t)i * layer_bytes, one.back, layer_bytes);
	published_end(&one);
	published_end(&three);
}

static void test_hevc__sinks_raw_and_odd_parts_refused(void **context)
{
	struct published run;
	size_t row_bytes = (size_t)PUBLISHED_HEADS * PUBLISHED_DIMS * 2;

	(void)context;
	begin(&run, "hevc:sinks=3", true, 64, 1);
	run.part.position_tokens = 1;
	memset(run.raw, 0xff, 2 * row_bytes); /* NaN is in no way if it is a sink's */
	published_encode(&run);
	assert_true(run.coded_bytes != 0);
	assert_int_equal(published_decode(&run, run.coded, run.coded_bytes), KVC_OK);
	assert_memory_equal(run.back, run.raw, 2 * row_bytes);
	memset(run.raw + 5 * row_bytes, 0xff, 2);
	published_encode(&run);
	assert_int_equal(run.coded_bytes, 0);
	run.form.dtype = KVC_DTYPE_I8;
	published_encode(&run);
	assert_int_equal(run.coded_bytes, 0);
	published_end(&run);
}

/* The video says how large its frames are: of another size, of other number or kind, they never come to the decoder. */
static void test_hevc__video_of_other_frames__corrupt(void **context)
{
	struct published small, large;
	size_t head = HEAD_BYTES + 4 + (size_t)2 * PUBLISHED_HEADS * PUBLISHED_DIMS, bytes;
	uint8_t *mixed = kvci_alloc(1 << 16);

	(void)context;
	assert_non_null(mixed);
	begin(&small, "hevc:sinks=0", true, 64, 1);
	begin(&large, "hevc:sinks=0", true, 128, 1);
	published_encode(&small);
	published_encode(&large);
	memcpy(mixed, large.coded, head);
	bytes = small.coded_bytes;
	memcpy(mixed + head, small.coded + head, bytes - head);
	memcpy(mixed + 4, small.coded + 4, 4);
	assert_int_equal(published_decode(&large, mixed, bytes), KVC_CORRUPT);
	/* The right one, once more: a frame too many. */
	memcpy(mixed, small.coded, bytes);
	memcpy(mixed + bytes, small.coded + head, bytes - head);
	mixed[4] = (uint8_t)(2 * (bytes - head));
	mixed[5] = (uint8_t)(2 * (bytes - head) >> 8);
	mixed[6] = (uint8_t)(2 * (bytes - head) >> 16);
	assert_int_equal(published_decode(&small, mixed, 2 * bytes - head), KVC_CORRUPT);
	assert_int_equal(published_decode(&small, small.coded, bytes), KVC_OK);
	published_end(&small);
	published_end(&large);
	kvci_free(mixed);
}

static void test_hevc__damaged__answered(void **context)
{
	struct published run;

	(void)context;
	published_begin(&run, "hevc:qp=22", true, 48, 1, 32);
	published_encode(&run);
	assert_true(run.coded_bytes != 0);
	published_damage(&run);
	published_end(&run);
}

static void test_hevc__golden_stream__decodes_to_the_same_bits(void **context)
{
	struct published run;

	(void)context;
	published_begin(&run, "hevc", true, 64, 1, 32);
	published_golden(&run, GOLDEN, 0xbd11b9ec7632f590u);
	published_end(&run);
}

static int write_golden(void)
{
	struct published run;
	int failed;

	published_begin(&run, "hevc", true, 64, 1, 32);
	failed = published_write(&run, KVC_SOURCE_DIR "/tests/golden/" GOLDEN, NULL, 0);
	published_end(&run);
	failed |= published_seed("hevc:qp=22", KVC_SOURCE_DIR "/tests/fuzz/corpus/codec/hevc");
	return failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hevc__qp__is_the_rate),
		cmocka_unit_test(test_hevc__unit_of_layers__each_as_alone),
		cmocka_unit_test(test_hevc__sinks_raw_and_odd_parts_refused),
		cmocka_unit_test(test_hevc__video_of_other_frames__corrupt),
		cmocka_unit_test(test_hevc__damaged__answered),
		cmocka_unit_test(test_hevc__golden_stream__decodes_to_the_same_bits),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
