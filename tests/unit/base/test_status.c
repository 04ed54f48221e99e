/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#include <kvcask/status.h>

static void test_status__every_line_of_the_table__has_name_text_and_class(void **state)
{
#define CHECK(name, number, class_, text_)                                                         \
	assert_string_equal(kvc_status_name(number), #name);                                       \
	assert_string_equal(kvc_status_text(KVC_##name), text_);                                   \
	assert_int_equal(kvc_status_class(number), KVC_CLASS_##class_);                            \
	assert_true(text_[sizeof(text_) - 2] != '.');
	KVC_STATUS_TABLE(CHECK)
#undef CHECK
}

static void test_status__unknown_number__is_fatal_and_named(void **state)
{
	for (int number = -3; number < 1000; number++) {
		if (strcmp(kvc_status_name(number), "UNKNOWN") != 0)
			continue;
		assert_int_equal(kvc_status_class(number), KVC_CLASS_FATAL);
		assert_string_equal(kvc_status_text(number), "unknown status");
	}
	assert_string_equal(kvc_status_name(INT32_MIN), "UNKNOWN");
	assert_string_equal(kvc_status_name(99), "UNKNOWN");
}

static void test_status__errno__means_what_the_caller_does_next(void **state)
{
	assert_int_equal(kvc_status_from_errno(0), KVC_OK);
	assert_int_equal(kvc_status_from_errno(ENOMEM), KVC_NO_MEMORY);
	assert_int_equal(kvc_status_from_errno(ENOSPC), KVC_DISK_FULL);
	assert_int_equal(kvc_status_from_errno(EACCES), KVC_DENIED);
	assert_int_equal(kvc_status_from_errno(EROFS), KVC_DENIED);
	assert_int_equal(kvc_status_from_errno(ENOENT), KVC_NOT_FOUND);
	assert_int_equal(kvc_status_from_errno(ECONNREFUSED), KVC_GONE);
	assert_int_equal(kvc_status_from_errno(EPIPE), KVC_GONE);
	assert_int_equal(kvc_status_from_errno(ETIMEDOUT), KVC_TIMED_OUT);
	assert_int_equal(kvc_status_from_errno(EIO), KVC_IO);
	assert_int_equal(kvc_status_from_errno(123456), KVC_IO);
	for (int error = 1; error < 200; error++)
		assert_int_not_equal(kvc_status_from_errno(error), KVC_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status__every_line_of_the_table__has_name_text_and_class),
		cmocka_unit_test(test_status__unknown_number__is_fatal_and_named),
		cmocka_unit_test(test_status__errno__means_what_the_caller_does_next),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
