/* SPDX-License-Identifier: Apache-2.0
 * Rotation against libm, against itself, and the same bits by every kernel. tests/quality has it against the models' own code. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "codec/rope.h"

enum { TOKENS = 19, ROW = 96, STRIDE = 101, HALF_MAX = 48 };

static const char *const kernels[] = { "scalar", "avx2" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

/* Positions around every change of the arithmetic: small, common, long contexts, the end of exactness, and absurd ones. */
static const uint64_t positions[] = { 0, 1, 255, 131072, 99999990, 100000001, (uint64_t)1 << 40, UINT64_MAX - TOKENS };
enum { POSITIONS = sizeof(positions) / sizeof(positions[0]), EXACT_POSITIONS = 5 };

static uint64_t random_state;

static float random_float(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (float)(int32_t)(random_state >> 32) * 0x1p-29f;
}

static struct kvci_rope rope_of(uint32_t style, uint32_t first, uint32_t dims, float factor, float *inv_freq)
{
	struct kvci_rope rope = { .style = style, .first_dim = first, .dims = dims, .factor = factor, .inv_freq = inv_freq };

	for (uint32_t i = 0; i < dims / 2; i++)
		inv_freq[i] = (float)pow(1e5, -2.0 * i / dims);
	assert_int_equal(kvci_rope_check(&rope, ROW), KVC_OK);
	return rope;
}

static void fill(float *rows)
{
	for (size_t i = 0; i < (size_t)TOKENS * STRIDE; i++)
		rows[i] = random_float();
}

static void assert_close(const float *a, const float *b, double bound)
{
	for (size_t i = 0; i < (size_t)TOKENS * STRIDE; i++)
		assert_true(fabs((double)a[i] - (double)b[i]) <= bound);
}

static void test_rope_table__against_libm__a_float_exact(void **context)
{
	float inv_freq[HALF_MAX], table[TOKENS * ROW];
	struct kvci_rope rope = rope_of(KVCI_ROPE_NEOX, 0, 64, 1.25f, inv_freq);

	(void)context;
	for (int p = 0; p < EXACT_POSITIONS; p++) {
		kvci_rope_table(&rope, KVCI_ROPE_FORWARD, positions[p], TOKENS, table);
		for (uint32_t t = 0; t < TOKENS; t++) {
			for (uint32_t i = 0; i < 32; i++) {
				double angle = (double)(positions[p] + t) * (double)inv_freq[i];

				assert_true(fabs((double)table[t * 64 + i] - 1.25 * cos(angle)) < 1e-7);
				assert_true(fabs((double)table[t * 64 + 32 + i] - 1.25 * sin(angle)) < 1e-7);
			}
		}
		kvci_rope_table(&rope, KVCI_ROPE_BACK, positions[p], TOKENS, table);
		assert_true(fabs((double)table[0] - cos((double)positions[p]) / 1.25) < 1e-7);
		assert_true(fabs((double)table[32] + sin((double)positions[p]) / 1.25) < 1e-7);
	}
}

/* One pair, by hand: position 1, frequency 1. */
static void test_rope_apply__one_pair_by_hand(void **context)
{
	float inv_freq[2] = { 1, 0.5f }, table[4];
	float neox[4] = { 1, 2, 3, 4 }, gptj[4] = { 1, 3, 2, 4 };
	struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .dims = 4, .factor = 1, .inv_freq = inv_freq };

	(void)context;
	kvci_rope_table(&rope, KVCI_ROPE_FORWARD, 1, 1, table);
	kvci_rope_apply(&rope, table, 4, neox, 1, 4);
	assert_true(fabs(neox[0] - (cos(1) - 3 * sin(1))) < 1e-6 && fabs(neox[2] - (3 * cos(1) + sin(1))) < 1e-6);
	assert_true(fabs(neox[1] - (2 * cos(0.5) - 4 * sin(0.5))) < 1e-6 && fabs(neox[3] - (4 * cos(0.5) + 2 * sin(0.5))) < 1e-6);
	rope.style = KVCI_ROPE_GPTJ;
	kvci_rope_apply(&rope, table, 4, gptj, 1, 4);
	assert_true(gptj[0] == neox[0] && gptj[1] == neox[2] && gptj[2] == neox[1] && gptj[3] == neox[3]);
}

/* What each shape of rotation must do, at any position. */
static void check_shape(uint32_t style, uint32_t first, uint32_t dims, float factor)
{
	static float rows[TOKENS * STRIDE], turned[TOKENS * STRIDE], moved[TOKENS * STRIDE];
	float inv_freq[HALF_MAX], table[TOKENS * ROW];
	struct kvci_rope rope = rope_of(style, first, dims, factor, inv_freq);

	for (int p = 0; p < POSITIONS; p++) {
		fill(rows);
		memcpy(turned, rows, sizeof(rows));
		kvci_rope_table(&rope, KVCI_ROPE_FORWARD, positions[p], TOKENS, table);
		kvci_rope_apply(&rope, table, dims, turned, TOKENS, STRIDE);
		for (size_t i = 0; i < (size_t)TOKENS * STRIDE; i++) {
			bool rotated = i % STRIDE >= first && i % STRIDE < first + dims;

			assert_true(isfinite(turned[i]) && (rotated || turned[i] == rows[i]));
		}
		if (positions[p] != 0)
			assert_true(memcmp(turned + first, rows + first, dims * sizeof(float)) != 0);
		memcpy(moved, turned, sizeof(rows));
		kvci_rope_table(&rope, KVCI_ROPE_BACK, positions[p], TOKENS, table);
		kvci_rope_apply(&rope, table, dims, moved, TOKENS, STRIDE);
		assert_close(moved, rows, 4e-6);
		if (p >= EXACT_POSITIONS)
			continue;
		/* From there to 1,000, in one step, as if it had been computed there. */
		kvci_rope_table_move(&rope, positions[p], 1000, table);
		kvci_rope_apply(&rope, table, 0, turned, TOKENS, STRIDE);
		kvci_rope_table(&rope, KVCI_ROPE_FORWARD, 1000, TOKENS, table);
		kvci_rope_apply(&rope, table, dims, rows, TOKENS, STRIDE);
		assert_close(turned, rows, 8e-6);
	}
}

static void test_rope__there_and_back_and_moved(void **context)
{
	(void)context;
	random_state = 1;
	for (uint32_t style = KVCI_ROPE_NEOX; style <= KVCI_ROPE_GPTJ; style++) {
		check_shape(style, 0, 96, 1);
		check_shape(style, 0, 64, 1.1386f);
		check_shape(style, 32, 64, 1);
		check_shape(style, 0, 26, 1);
		check_shape(style, 7, 2, 0.5f);
	}
}

static void test_rope__every_kernel__the_same_bits(void **context)
{
	static float rows[TOKENS * STRIDE], first[TOKENS * STRIDE];
	float inv_freq[HALF_MAX], table[TOKENS * ROW], first_table[TOKENS * ROW];
	const char *before = kvci_rope_kernel();

	(void)context;
	for (uint32_t shape = 0; shape < 2 * POSITIONS * HALF_MAX; shape++) {
		uint32_t style = 1 + shape % 2, dims = 2 + shape / 2 % HALF_MAX * 2;
		uint64_t position = positions[shape / 2 / HALF_MAX];
		struct kvci_rope rope = rope_of(style, 0, dims, 1.5f, inv_freq);

		for (int k = 0; k < KERNELS; k++) {
			if (!kvci_rope_select(kernels[k]))
				continue;
			random_state = shape;
			fill(rows);
			kvci_rope_table(&rope, shape % 3 == 0 ? KVCI_ROPE_BACK : KVCI_ROPE_FORWARD, position, TOKENS, table);
			kvci_rope_apply(&rope, table, dims, rows, TOKENS, STRIDE);
			if (k == 0) {
				memcpy(first, rows, sizeof(rows));
				memcpy(first_table, table, sizeof(float) * TOKENS * dims);
			}
			assert_memory_equal(table, first_table, sizeof(float) * TOKENS * dims);
			assert_memory_equal(rows, first, sizeof(rows));
		}
	}
	assert_true(kvci_rope_select(before));
	assert_false(kvci_rope_select("no such kernel"));
	assert_string_equal(kvci_rope_kernel(), before);
}

/* Bits that decoders on other machines rely on: not only close, but these. */
static void test_rope_table__pinned_bits(void **context)
{
	static const uint32_t expected[] = { 0xbf028731u, 0x3f121554u, 0x3f5c393bu, 0x3f523a47u };
	float inv_freq[2] = { 1, 0.01f }, table[4];
	struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .dims = 4, .factor = 1, .inv_freq = inv_freq };
	uint32_t bits[4];

	(void)context;
	kvci_rope_table(&rope, KVCI_ROPE_FORWARD, 99999, 1, table);
	memcpy(bits, table, sizeof(bits));
	for (int i = 0; i < 4; i++)
		assert_int_equal(bits[i], expected[i]);
}

static void test_rope_check__what_is_none__refused(void **context)
{
	float inv_freq[HALF_MAX], bad[HALF_MAX] = { 1, NAN };
	const struct kvci_rope good = rope_of(KVCI_ROPE_GPTJ, 32, 64, 1, inv_freq);
	struct kvci_rope wrong[] = { good, good, good, good, good, good, good, good, good };

	(void)context;
	wrong[0].style = 0;
	wrong[1].style = 3;
	wrong[2].dims = 63;
	wrong[3].dims = 0;
	wrong[4].first_dim = 33;
	wrong[5].first_dim = UINT32_MAX;
	wrong[6].factor = 0;
	wrong[7].factor = INFINITY;
	wrong[8].inv_freq = bad;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(kvci_rope_check(&wrong[i], ROW), KVC_INVALID);
	assert_int_equal(kvci_rope_check(&good, ROW - 1), KVC_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rope_table__against_libm__a_float_exact),
		cmocka_unit_test(test_rope_table__pinned_bits),
		cmocka_unit_test(test_rope_apply__one_pair_by_hand),
		cmocka_unit_test(test_rope__there_and_back_and_moved),
		cmocka_unit_test(test_rope__every_kernel__the_same_bits),
		cmocka_unit_test(test_rope_check__what_is_none__refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
