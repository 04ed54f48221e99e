/* SPDX-License-Identifier: Apache-2.0
 * The statistics table, the clocks and what is known of the processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/stats.h"

static void test_stats__every_line__has_a_unique_lower_case_name(void **state)
{
	for (int i = 0; i < KVCI_STAT_COUNT; i++) {
		const struct kvci_stat_info *info = kvci_stat_info((enum kvci_stat)i);

		assert_int_equal(strspn(info->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(info->name));
		assert_true(strlen(info->text) > 3 && strlen(info->unit) > 0);
		assert_true(info->kind == KVCI_STAT_COUNTER || info->kind == KVCI_STAT_GAUGE);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(info->name, kvci_stat_info((enum kvci_stat)j)->name);
	}
	assert_string_equal(kvci_stat_info(KVCI_STAT_MATCH_CALLS)->name, "match_calls");
	assert_null(kvci_stat_info(KVCI_STAT_COUNT));
}

static void *add_many(void *context)
{
	for (unsigned i = 0; i < 10000; i++)
		kvci_stat_add(context, KVCI_STAT_MATCH_CALLS, 1);
	return NULL;
}

static void test_stats__added_by_threads__nothing_is_lost(void **state)
{
	struct kvci_stats stats = {0};
	pthread_t threads[4];

	for (unsigned t = 0; t < 4; t++)
		assert_int_equal(pthread_create(&threads[t], NULL, add_many, &stats), 0);
	for (unsigned t = 0; t < 4; t++)
		pthread_join(threads[t], NULL);
	assert_int_equal(kvci_stat_get(&stats, KVCI_STAT_MATCH_CALLS), 40000);
	assert_int_equal(kvci_stat_get(&stats, KVCI_STAT_MATCH_KEYS), 0);
	kvci_stat_set(&stats, KVCI_STAT_MATCH_KEYS, 7);
	assert_int_equal(kvci_stat_get(&stats, KVCI_STAT_MATCH_KEYS), 7);
}

static void test_clock__two_readings__go_forward(void **state)
{
	uint64_t first_ns = kvci_clock_ns(), wall_ns = kvci_clock_wall_ns(), passed_ns;

	usleep(2000);
	passed_ns = kvci_clock_ns() - first_ns;
	assert_true(passed_ns >= 2 * KVCI_MS && passed_ns < 60 * KVCI_SECOND);
	assert_true(wall_ns > UINT64_C(1700000000) * KVCI_SECOND);
}

static void test_cpu__cores__at_least_one_and_no_more_than_there_are(void **state)
{
	assert_true(kvci_cpu_count() >= 1);
	assert_true(kvci_cpu_count() <= (unsigned)sysconf(_SC_NPROCESSORS_CONF));
	assert_int_equal(kvci_cpu_features(), kvci_cpu_features());
	assert_int_equal(kvci_cpu_features() & ~(unsigned)(KVCI_CPU_AVX2 | KVCI_CPU_AVX512), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stats__every_line__has_a_unique_lower_case_name),
		cmocka_unit_test(test_stats__added_by_threads__nothing_is_lost),
		cmocka_unit_test(test_clock__two_readings__go_forward),
		cmocka_unit_test(test_cpu__cores__at_least_one_and_no_more_than_there_are),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
