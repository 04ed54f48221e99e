/* SPDX-License-Identifier: Apache-2.0
 * Fused copy and checksum against the xxHash library: every kernel of this CPU, lengths, cuts, alignments, seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "tests/support/random.h"

enum {
	ROOM_BYTES = 1 << 17,
	EXHAUSTIVE_BYTES = 5000,
	GUARD = 0xa5,
};

static const char *const kernels[] = {"scalar", "avx2", "avx512"};
static const uint64_t seeds[] = {0, 1, UINT64_C(0x9e3779b97f4a7c15), UINT64_MAX};

static uint8_t *source, *target;
static int setup(void **context)
{
	(void)context;
	source = kvci_alloc_aligned(4096, ROOM_BYTES);
	target = kvci_alloc_aligned(4096, ROOM_BYTES);
	if (source == NULL || target == NULL)
		return -1;
	for (size_t i = 0; i < ROOM_BYTES; i++)
		source[i] = (uint8_t)(random_next() >> 32);
	return 0;
}

static int teardown(void **context)
{
	(void)context;
	kvci_free(source);
	kvci_free(target);
	return 0;
}

/* Runs `test` once a kernel that this CPU has; the scalar one always. */
static void each_kernel(void (*test)(void))
{
	const char *before = kvci_copy_kernel();
	int ran = 0;

	for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
		if (!kvci_copy_select(kernels[i]))
			continue;
		assert_string_equal(kvci_copy_kernel(), kernels[i]);
		test();
		ran++;
	}
	assert_true(ran >= 1);
	assert_true(kvci_copy_select(before));
}

static void check_lengths(void)
{
	for (size_t seed = 0; seed < sizeof(seeds) / sizeof(seeds[0]); seed++) {
		for (size_t length = 0; length <= EXHAUSTIVE_BYTES; length++) {
			const uint8_t *from = source + length % 64;

			assert_int_equal(kvci_checksum(from, length, seeds[seed]),
			                 XXH3_64bits_withSeed(from, length, seeds[seed]));
		}
	}
}

static void test_checksum__lengths_0_to_5000__equals_the_library(void **context)
{
	(void)context;
	each_kernel(check_lengths);
}

/* One copy of `length` bytes in random runs: bytes, digest and surroundings. */
static void check_one_cut(size_t length, size_t from_at, size_t to_at, size_t run_max, enum kvci_copy_hint hint,
                          int with_target)
{
	struct kvci_copy_state state;
	uint64_t seed = random_next();
	const uint8_t *from = source + from_at;
	size_t done = 0;

	memset(target, GUARD, to_at + length + 128);
	kvci_copy_begin(&state, seed);
	while (done < length) {
		size_t run = random_next() % (run_max + 1);

		if (run > length - done)
			run = length - done;
		kvci_copy_run(&state, with_target ? target + to_at + done : NULL, from + done, run, hint);
		done += run;
	}
	assert_int_equal(kvci_copy_end(&state), XXH3_64bits_withSeed(from, length, seed));
	if (with_target)
		assert_memory_equal(target + to_at, from, length);
	for (size_t i = 0; i < to_at; i++)
		assert_int_equal(target[i], GUARD);
	for (size_t i = 0; i < 128; i++)
		assert_int_equal(target[to_at + (with_target ? length : 0) + i], GUARD);
}

static void check_cuts(void)
{
	static const size_t run_max[] = {1, 63, 64, 65, 300, 1500, 20000, 100000};

	for (int round = 0; round < 3000; round++) {
		size_t runs = run_max[random_next() % (sizeof(run_max) / sizeof(run_max[0]))];
		size_t length = random_next() % (runs < 64 ? 1200 : round % 8 == 0 ? 100000 : 6000);
		size_t aligned = random_next() % 4 == 0;

		check_one_cut(length, aligned ? 0 : random_next() % 200, aligned ? 64 : random_next() % 200, runs,
		              random_next() % 2 ? KVCI_COPY_STREAM : KVCI_COPY_CACHED, random_next() % 4 != 0);
	}
}

static void test_copy_run__random_cuts_and_alignments__same_bytes_and_digest(void **context)
{
	(void)context;
	each_kernel(check_cuts);
}

/* The edges of XXH3's own steps, each with one more cut at every place near them. */
static void check_edges(void)
{
	static const size_t edges[] = {16, 128, 240, 256, 1024, 2048, 4096};

	for (size_t edge = 0; edge < sizeof(edges) / sizeof(edges[0]); edge++) {
		for (size_t length = edges[edge] - 3; length <= edges[edge] + 66; length++) {
			for (size_t cut = 0; cut <= length; cut += cut < 70 || length - cut < 70 ? 1 : 61) {
				struct kvci_copy_state state;

				kvci_copy_begin(&state, 7);
				kvci_copy_run(&state, target, source, cut, KVCI_COPY_STREAM);
				kvci_copy_run(&state, target + cut, source + cut, length - cut, KVCI_COPY_STREAM);
				assert_int_equal(kvci_copy_end(&state), XXH3_64bits_withSeed(source, length, 7));
				assert_memory_equal(target, source, length);
			}
		}
	}
}

static void test_copy_run__cut_at_each_place_near_an_edge__same_digest(void **context)
{
	(void)context;
	each_kernel(check_edges);
}

static void check_bare(void)
{
	for (int round = 0; round < 500; round++) {
		size_t length = random_next() % (round % 4 == 0 ? 60000 : 5000);
		size_t from_at = random_next() % 130, to_at = random_next() % 130;

		memset(target, GUARD, to_at + length + 64);
		kvci_copy_bare(target + to_at, source + from_at, length);
		assert_memory_equal(target + to_at, source + from_at, length);
		for (size_t i = 0; i < to_at; i++)
			assert_int_equal(target[i], GUARD);
		for (size_t i = 0; i < 64; i++)
			assert_int_equal(target[to_at + length + i], GUARD);
	}
}

static void test_copy_bare__any_alignment__same_bytes(void **context)
{
	(void)context;
	each_kernel(check_bare);
}

static void test_copy_select__unknown_name__refused_and_unchanged(void **context)
{
	const char *before = kvci_copy_kernel();

	(void)context;
	assert_false(kvci_copy_select("neon"));
	assert_false(kvci_copy_select(""));
	assert_string_equal(kvci_copy_kernel(), before);
}

static void test_copy__one_bit_flipped__other_digest(void **context)
{
	static const size_t lengths[] = {1, 17, 200, 256, 4096, 65536};

	(void)context;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint64_t right = kvci_checksum(source, lengths[i], 3);

		for (int round = 0; round < 200; round++) {
			size_t at = random_next() % lengths[i];
			uint8_t bit = (uint8_t)(1u << random_next() % 8);

			source[at] ^= bit;
			assert_int_not_equal(kvci_checksum(source, lengths[i], 3), right);
			source[at] ^= bit;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_checksum__lengths_0_to_5000__equals_the_library),
		cmocka_unit_test(test_copy_run__random_cuts_and_alignments__same_bytes_and_digest),
		cmocka_unit_test(test_copy_run__cut_at_each_place_near_an_edge__same_digest),
		cmocka_unit_test(test_copy_bare__any_alignment__same_bytes),
		cmocka_unit_test(test_copy_select__unknown_name__refused_and_unchanged),
		cmocka_unit_test(test_copy__one_bit_flipped__other_digest),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
