/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/kvcask/print.h"

static void test_bytes__around_the_units__one_digit_and_no_1024(void **state)
{
	assert_string_equal(print_bytes(0), "0 B");
	assert_string_equal(print_bytes(1023), "1023 B");
	assert_string_equal(print_bytes(1024), "1.0 KiB");
	assert_string_equal(print_bytes(1536), "1.5 KiB");
	assert_string_equal(print_bytes((1 << 20) - 1), "1.0 MiB"); /* not "1024 KiB" */
	assert_string_equal(print_bytes(UINT64_C(100) << 20), "100 MiB");
	assert_string_equal(print_bytes(UINT64_MAX), "16.0 EiB");
}

static void test_count__small_and_large__commas_then_units(void **state)
{
	assert_string_equal(print_count(0), "0");
	assert_string_equal(print_count(999), "999");
	assert_string_equal(print_count(1000), "1,000");
	assert_string_equal(print_count(9999999), "9,999,999");
	assert_string_equal(print_count(10000000), "10.0 M");
	assert_string_equal(print_count(999960000), "1.0 G");
}

static void test_duration__each_unit__is_readable(void **state)
{
	assert_string_equal(print_duration(0), "0 s");
	assert_string_equal(print_duration(12e-9), "12 ns");
	assert_string_equal(print_duration(4.2e-6), "4.2 us");
	assert_string_equal(print_duration(0.0123), "12 ms");
	assert_string_equal(print_duration(1.5), "1.5 s");
	assert_string_equal(print_duration(59.97), "1 min 0 s"); /* not "60.0 s" */
	assert_string_equal(print_duration(3599.7), "1 h 0 min"); /* not "59 min 59 s" for long, nor "60 min" */
	assert_string_equal(print_duration(200), "3 min 20 s");
	assert_string_equal(print_duration(3660), "1 h 1 min");
	assert_string_equal(print_duration(90000), "1 d 1 h");
}

static void test_percent__nearly_all__is_never_100(void **state)
{
	assert_string_equal(print_percent(0, 0), "-");
	assert_string_equal(print_percent(0, 5), "0 %");
	assert_string_equal(print_percent(5, 5), "100 %");
	assert_string_equal(print_percent(999999, 1000000), "99.9 %");
	assert_string_equal(print_percent(1, 1000000), "0.1 %");
	assert_string_equal(print_percent(1, 4), "25 %");
}

/* What the table prints. */
static void print_capture(struct print_table *table, const char *empty, char *text, size_t room)
{
	FILE *file = tmpfile();
	size_t got;

	assert_non_null(file);
	print_table_end(table, file, empty);
	rewind(file);
	got = fread(text, 1, room - 1, file);
	text[got] = '\0';
	fclose(file);
}

static const struct print_column columns[] = { { "name", false, true }, { "size", true, false }, { "", false, false } };

static void test_table__numbers_and_text__are_aligned_without_trailing_blanks(void **state)
{
	struct print_table *table = print_table_begin(columns, 3);
	char text[256];

	print_cell(table, "a");
	print_cell(table, "%d", 5);
	print_cell(table, "%s", "");
	print_cell(table, "longer");
	print_cell(table, "%d", 12345);
	print_cell(table, "x");
	print_capture(table, NULL, text, sizeof(text));
	assert_string_equal(text, "name     size\n"
	                          "a           5\n"
	                          "longer  12345  x\n");
}

static void test_table__no_rows__says_so(void **state)
{
	char text[256];

	print_capture(print_table_begin(columns, 3), "nothing there", text, sizeof(text));
	assert_string_equal(text, "nothing there\n");
}

static void test_table__letters_of_two_bytes__count_once(void **state)
{
	struct print_table *table = print_table_begin(columns, 2);
	char text[256];

	print_cell(table, "\xc3\xa4\xc3\xb6");
	print_cell(table, "1");
	print_cell(table, "abc");
	print_cell(table, "2");
	print_capture(table, NULL, text, sizeof(text));
	assert_string_equal(text, "name  size\n"
	                          "\xc3\xa4\xc3\xb6       1\n"
	                          "abc      2\n");
}

static void test_cell__control_characters_of_others__never_reach_the_terminal(void **state)
{
	struct print_table *table = print_table_begin(columns, 1);
	char text[256];

	print_cell(table, "a\033[2Jb\rc\nd\x7f\xc2\x9b" "e");
	print_capture(table, NULL, text, sizeof(text));
	assert_string_equal(text, "name\na?[2Jb?c?d???e\n");
}

static void test_cell__without_a_table__does_nothing(void **state)
{
	print_cell(NULL, "x");
	print_table_end(NULL, stdout, "x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes__around_the_units__one_digit_and_no_1024),
		cmocka_unit_test(test_count__small_and_large__commas_then_units),
		cmocka_unit_test(test_duration__each_unit__is_readable),
		cmocka_unit_test(test_percent__nearly_all__is_never_100),
		cmocka_unit_test(test_table__numbers_and_text__are_aligned_without_trailing_blanks),
		cmocka_unit_test(test_table__no_rows__says_so),
		cmocka_unit_test(test_table__letters_of_two_bytes__count_once),
		cmocka_unit_test(test_cell__control_characters_of_others__never_reach_the_terminal),
		cmocka_unit_test(test_cell__without_a_table__does_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
