/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "base/alloc.h"

struct denier {
	unsigned asked;
	size_t last_bytes;
	int answer;
};

static int denier_hook(void *context, size_t bytes)
{
	struct denier *denier = context;

	denier->asked++;
	denier->last_bytes = bytes;
	return denier->answer;
}

static void test_alloc__hook_says_no__every_function_returns_null(void **state)
{
	struct denier denier = {0};
	char *text = kvci_strdup("kept");

	assert_non_null(text);
	kvci_alloc_set_hook(denier_hook, &denier);
	assert_null(kvci_alloc(10));
	assert_int_equal(denier.last_bytes, 10);
	assert_null(kvci_alloc_zero(3, 7));
	assert_int_equal(denier.last_bytes, 21);
	assert_null(kvci_alloc_aligned(4096, 4096));
	assert_null(kvci_strdup("text"));
	assert_null(kvci_strndup("text", 2));
	assert_null(kvci_asprintf("%d", 5));
	assert_null(kvci_realloc(text, 1000));
	kvci_alloc_set_hook(NULL, NULL);
	assert_int_equal(denier.asked, 7);
	assert_string_equal(text, "kept");
	kvci_free(text);
}

static void test_alloc__everything_freed__live_bytes_are_as_before(void **state)
{
	uint64_t before = kvci_alloc_live_bytes();
	void *pieces[] = {
		kvci_alloc(0), kvci_alloc(100), kvci_alloc_zero(0, 8), kvci_alloc_zero(10, 10),
		kvci_alloc_aligned(4096, 10000), kvci_strdup("x"), kvci_strndup("abcdef", 3), kvci_asprintf("%s", "formatted"),
		kvci_realloc(NULL, 5),
	};
	enum { PIECES = sizeof(pieces) / sizeof(pieces[0]) };

	assert_true(kvci_alloc_live_bytes() >= before + 10000 + 200);
	pieces[1] = kvci_realloc(pieces[1], 5000);
	assert_true(kvci_alloc_live_bytes() >= before + 15000);
	for (unsigned i = 0; i < PIECES; i++) {
		assert_non_null(pieces[i]);
		kvci_free(pieces[i]);
	}
	kvci_free(NULL);
	assert_int_equal(kvci_alloc_live_bytes(), before);
}

static void test_alloc__zero__is_zero_and_refuses_overflow(void **state)
{
	uint8_t *zeros = kvci_alloc_zero(100, 10);

	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(zeros[i], 0);
	kvci_free(zeros);
	assert_null(kvci_alloc_zero(SIZE_MAX / 2, 3));
	assert_null(kvci_alloc_zero(3, SIZE_MAX / 2));
}

/* Short and long ones, of which the long cost no memory before they are used. */
static void test_alloc__lazy__is_zero_counted_and_untouched(void **state)
{
	const size_t counts[] = {10, 1 << 20};
	uint64_t before = kvci_alloc_live_bytes();
	struct denier denier = {0};
	unsigned char resident[(8 << 20) / 4096];
	uint64_t *words;

	for (unsigned i = 0; i < 2; i++) {
		words = kvci_alloc_lazy(counts[i], sizeof(*words));
		assert_non_null(words);
		assert_true(kvci_alloc_live_bytes() >= before + counts[i] * sizeof(*words));
		if (i == 1) {
			assert_int_equal(mincore(words, sizeof(resident) * 4096, resident), 0);
			for (size_t page = 0; page < sizeof(resident); page++)
				assert_int_equal(resident[page] & 1, 0);
		}
		for (size_t at = 0; at < counts[i]; at++)
			assert_int_equal(words[at], 0);
		words[counts[i] - 1] = 1;
		kvci_free_lazy(words, counts[i], sizeof(*words));
		assert_int_equal(kvci_alloc_live_bytes(), before);
	}
	assert_null(kvci_alloc_lazy(SIZE_MAX / 2, 3));
	kvci_free_lazy(NULL, 10, 8);
	kvci_free_lazy(NULL, 1 << 20, 8);
	kvci_alloc_set_hook(denier_hook, &denier);
	for (unsigned i = 0; i < 2; i++)
		assert_null(kvci_alloc_lazy(counts[i], sizeof(*words)));
	kvci_alloc_set_hook(NULL, NULL);
	assert_int_equal(denier.asked, 2);
	assert_int_equal(kvci_alloc_live_bytes(), before);
}

static void test_alloc__huge__is_aligned_zero_and_counted(void **state)
{
	enum { HUGE_BYTES = 2 << 20 };
	uint64_t before = kvci_alloc_live_bytes();
	struct denier denier = {0};

	for (size_t bytes = HUGE_BYTES; bytes <= 3 * (size_t)HUGE_BYTES; bytes += HUGE_BYTES) {
		uint8_t *memory = kvci_alloc_huge(bytes);

		assert_non_null(memory);
		assert_int_equal((uintptr_t)memory % HUGE_BYTES, 0);
		assert_int_equal(kvci_alloc_live_bytes(), before + bytes);
		for (size_t at = 0; at < bytes; at += 512)
			assert_int_equal(memory[at], 0);
		memory[0] = memory[bytes - 1] = 1;
		kvci_free_huge(memory, bytes);
		assert_int_equal(kvci_alloc_live_bytes(), before);
	}
	assert_null(kvci_alloc_huge(0));
	assert_null(kvci_alloc_huge(4096));
	assert_null(kvci_alloc_huge(SIZE_MAX / HUGE_BYTES * HUGE_BYTES));
	kvci_free_huge(NULL, HUGE_BYTES);
	kvci_alloc_set_hook(denier_hook, &denier);
	assert_null(kvci_alloc_huge(HUGE_BYTES));
	kvci_alloc_set_hook(NULL, NULL);
	assert_int_equal(denier.asked, 1);
}

static void test_alloc__aligned__has_the_alignment(void **state)
{
	for (size_t align = sizeof(void *); align <= 1 << 16; align *= 2) {
		void *memory = kvci_alloc_aligned(align, 3);

		assert_int_equal((uintptr_t)memory % align, 0);
		kvci_free(memory);
	}
	assert_null(kvci_alloc_aligned(3, 3));
}

static void test_alloc__strings__are_cut_where_they_end(void **state)
{
	char *text = kvci_strndup("abcdef", 3), *whole = kvci_strndup("ab\0def", 6);

	assert_string_equal(text, "abc");
	assert_string_equal(whole, "ab");
	kvci_free(text);
	kvci_free(whole);
	text = kvci_asprintf("%s-%0300d", "n", 7);
	assert_int_equal(strlen(text), 302);
	kvci_free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alloc__hook_says_no__every_function_returns_null),
		cmocka_unit_test(test_alloc__everything_freed__live_bytes_are_as_before),
		cmocka_unit_test(test_alloc__zero__is_zero_and_refuses_overflow),
		cmocka_unit_test(test_alloc__lazy__is_zero_counted_and_untouched),
		cmocka_unit_test(test_alloc__huge__is_aligned_zero_and_counted),
		cmocka_unit_test(test_alloc__aligned__has_the_alignment),
		cmocka_unit_test(test_alloc__strings__are_cut_where_they_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
