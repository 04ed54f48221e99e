/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

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
		cmocka_unit_test(test_alloc__aligned__has_the_alignment),
		cmocka_unit_test(test_alloc__strings__are_cut_where_they_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
