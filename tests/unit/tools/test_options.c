/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/kvcask/tool.h"

static const struct tool_option options[] = {
	{ "watch", 'w', NULL, "text" }, { "limit", 'L', "N", "text" }, { "every", 0, "TIME", "text" }, { 0 },
};
static const struct tool_command command = { "try", "KEY", 0, 2, options, NULL, NULL, "text", NULL };

struct capture {
	FILE *file;
	int kept;
};

/* What goes to stderr from here on is caught. */
static void capture_begin(struct capture *capture)
{
	capture->file = tmpfile();
	assert_non_null(capture->file);
	fflush(stderr);
	capture->kept = dup(STDERR_FILENO);
	assert_true(capture->kept >= 0 && dup2(fileno(capture->file), STDERR_FILENO) >= 0);
}

static void capture_end(struct capture *capture, char *said, size_t room)
{
	size_t got;

	fflush(stderr);
	assert_true(dup2(capture->kept, STDERR_FILENO) >= 0);
	close(capture->kept);
	rewind(capture->file);
	got = fread(said, 1, room - 1, capture->file);
	said[got] = '\0';
	fclose(capture->file);
}

static int parse(struct tool *tool, char *said, size_t room, int argc, char **argv)
{
	struct capture capture;
	int result;

	capture_begin(&capture);
	result = tool_parse(tool, &command, argc, argv);
	capture_end(&capture, said, room);
	return result;
}

#define PARSE(...)                                                                                 \
	char *argv_[] = { "try", __VA_ARGS__, NULL };                                              \
	char said[512];                                                                            \
	struct tool tool;                                                                          \
	int result = parse(&tool, said, sizeof(said), (int)(sizeof(argv_) / sizeof(argv_[0])) - 1, argv_)

static void test_parse__every_way_to_write_an_option__is_understood(void **state)
{
	PARSE("-w", "--limit", "5", "a", "--every=2s", "--json", "--", "--b");

	assert_int_equal(result, TOOL_OK);
	assert_true(tool_flag(&tool, "watch"));
	assert_string_equal(tool_value(&tool, "limit"), "5");
	assert_string_equal(tool_value(&tool, "every"), "2s");
	assert_true(tool.json);
	assert_int_equal(tool.argument_count, 2);
	assert_string_equal(tool.arguments[0], "a");
	assert_string_equal(tool.arguments[1], "--b");
	tool_fini(&tool);
}

static void test_parse__letters_together__last_takes_the_value(void **state)
{
	PARSE("-wL7", "-s", "/x");

	assert_int_equal(result, TOOL_OK);
	assert_true(tool_flag(&tool, "watch"));
	assert_string_equal(tool_value(&tool, "limit"), "7");
	assert_string_equal(tool.socket, "/x");
	assert_false(tool_flag(&tool, "every"));
	tool_fini(&tool);
}

static void test_parse__a_typo__names_the_nearest_option(void **state)
{
	PARSE("--wathc");

	assert_int_equal(result, TOOL_USAGE);
	assert_non_null(strstr(said, "--wathc"));
	assert_non_null(strstr(said, "did you mean --watch?"));
	tool_fini(&tool);
}

static void test_parse__a_value_is_missing__usage(void **state)
{
	PARSE("--limit");

	assert_int_equal(result, TOOL_USAGE);
	assert_non_null(strstr(said, "--limit N"));
	tool_fini(&tool);
}

static void test_parse__a_value_for_a_flag__usage(void **state)
{
	PARSE("--watch=5");

	assert_int_equal(result, TOOL_USAGE);
	tool_fini(&tool);
}

static void test_parse__one_argument_too_many__is_named(void **state)
{
	PARSE("a", "b", "surplus");

	assert_int_equal(result, TOOL_USAGE);
	assert_non_null(strstr(said, "surplus"));
	tool_fini(&tool);
}

static void test_parse__timeouts__only_times(void **state)
{
	PARSE("--timeout", "soon");

	assert_int_equal(result, TOOL_USAGE);
	tool_fini(&tool);
}

static void test_number__out_of_range_or_no_number__usage(void **state)
{
	struct capture capture;
	static const char *const wrong[] = { "0", "11", "-1", "5x", "", " 5", "99999999999999999999" };
	uint64_t value;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		PARSE("--limit", (char *)(uintptr_t)wrong[i]);

		assert_int_equal(result, TOOL_OK);
		capture_begin(&capture);
		result = tool_number(&tool, "limit", 1, 10, 3, &value);
		capture_end(&capture, said, sizeof(said));
		assert_int_equal(result, TOOL_USAGE);
		assert_non_null(strstr(said, "from 1 to 10"));
		tool_fini(&tool);
	}
}

static void test_number__absent__is_the_default(void **state)
{
	uint64_t value;
	PARSE("-w");

	assert_int_equal(result, TOOL_OK);
	assert_int_equal(tool_number(&tool, "limit", 1, 10, 3, &value), TOOL_OK);
	assert_int_equal(value, 3);
	tool_fini(&tool);
}

static void test_duration__units__and_nothing_else(void **state)
{
	uint64_t ns;

	assert_true(tool_parse_duration("1.5s", &ns));
	assert_int_equal(ns, 1500000000);
	assert_true(tool_parse_duration("200ms", &ns));
	assert_int_equal(ns, 200000000);
	assert_true(tool_parse_duration("3", &ns));
	assert_int_equal(ns, UINT64_C(3000000000));
	assert_true(tool_parse_duration("2min", &ns));
	assert_false(tool_parse_duration("", &ns));
	assert_false(tool_parse_duration("-1s", &ns));
	assert_false(tool_parse_duration("nan", &ns));
	assert_false(tool_parse_duration("1 s", &ns));
	assert_false(tool_parse_duration("1e30h", &ns));
}

static void test_bytes__units__and_nothing_else(void **state)
{
	uint64_t bytes;

	assert_true(tool_parse_bytes("1.5GiB", &bytes));
	assert_int_equal(bytes, UINT64_C(3) << 29);
	assert_true(tool_parse_bytes("7", &bytes));
	assert_int_equal(bytes, 7);
	assert_false(tool_parse_bytes("1GB", &bytes));
	assert_false(tool_parse_bytes("-1", &bytes));
	assert_false(tool_parse_bytes("99999999999TiB", &bytes));
}

static const char *name_at(const void *list, uint32_t index)
{
	return ((const char *const *)list)[index];
}

static void test_nearest__typos_swaps_and_beginnings__but_not_anything(void **state)
{
	static const char *const names[] = { "stat", "spaces", "loadgen", "ls" };

	assert_string_equal(tool_nearest("sta", 4, name_at, names), "stat");
	assert_string_equal(tool_nearest("sapces", 4, name_at, names), "spaces");
	assert_string_equal(tool_nearest("load", 4, name_at, names), "loadgen");
	assert_null(tool_nearest("completely-different", 4, name_at, names));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse__every_way_to_write_an_option__is_understood),
		cmocka_unit_test(test_parse__letters_together__last_takes_the_value),
		cmocka_unit_test(test_parse__a_typo__names_the_nearest_option),
		cmocka_unit_test(test_parse__a_value_is_missing__usage),
		cmocka_unit_test(test_parse__a_value_for_a_flag__usage),
		cmocka_unit_test(test_parse__one_argument_too_many__is_named),
		cmocka_unit_test(test_parse__timeouts__only_times),
		cmocka_unit_test(test_number__out_of_range_or_no_number__usage),
		cmocka_unit_test(test_number__absent__is_the_default),
		cmocka_unit_test(test_duration__units__and_nothing_else),
		cmocka_unit_test(test_bytes__units__and_nothing_else),
		cmocka_unit_test(test_nearest__typos_swaps_and_beginnings__but_not_anything),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
