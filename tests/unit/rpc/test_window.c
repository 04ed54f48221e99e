/* SPDX-License-Identifier: Apache-2.0
 * Ranges of the window: none overlaps another, against a byte map kept beside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rpc/local/window.h"

static void test_window__sizes_at_the_edges__fit_or_say_why(void **state)
{
	static struct kvci_window_ranges ranges;
	uint64_t offset = 1, second;

	kvci_window_init(&ranges, KVCI_WINDOW_BYTES);
	assert_int_equal(kvci_window_take(&ranges, 0, &offset), KVC_OK);
	assert_int_equal(offset, 0);
	assert_int_equal(kvci_window_take(&ranges, (uint64_t)KVCI_WINDOW_BYTES + 1, &offset), KVC_TOO_BIG);
	assert_int_equal(kvci_window_take(&ranges, UINT64_MAX, &offset), KVC_TOO_BIG);
	assert_int_equal(kvci_window_take(&ranges, KVCI_WINDOW_BYTES, &offset), KVC_OK);
	assert_int_equal(kvci_window_take(&ranges, 1, &second), KVC_BUSY);
	kvci_window_give(&ranges, offset, KVCI_WINDOW_BYTES);
	assert_int_equal(kvci_window_take(&ranges, 1, &second), KVC_OK);
	assert_int_equal(second, 0);
	kvci_window_init(&ranges, UINT64_MAX);
	assert_int_equal(ranges.unit_count, KVCI_WINDOW_UNITS);
	kvci_window_init(&ranges, 100);
	assert_int_equal(kvci_window_take(&ranges, 1, &second), KVC_TOO_BIG);
}

static void test_window__random_takes_and_gives__never_overlap(void **state)
{
	enum { HELD = 200 };
	static struct kvci_window_ranges ranges;
	static uint8_t map[KVCI_WINDOW_UNITS];
	struct {
		uint64_t offset, bytes;
	} held[HELD] = {{0, 0}};
	uint64_t random = 12345, busy = 0;

	memset(map, 0, sizeof(map));
	kvci_window_init(&ranges, KVCI_WINDOW_BYTES);
	for (unsigned round = 0; round < 200000; round++) {
		unsigned i;
		uint64_t units;

		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		i = (unsigned)(random >> 33) % HELD;
		if (held[i].bytes != 0) {
			memset(map + held[i].offset / KVCI_WINDOW_UNIT_BYTES, 0,
			       (held[i].bytes + KVCI_WINDOW_UNIT_BYTES - 1) / KVCI_WINDOW_UNIT_BYTES);
			kvci_window_give(&ranges, held[i].offset, held[i].bytes);
			held[i].bytes = 0;
			continue;
		}
		held[i].bytes = 1 + (random >> 40) % ((random & 1) == 0 ? 600000 : 3000);
		if (kvci_window_take(&ranges, held[i].bytes, &held[i].offset) != KVC_OK) {
			/* Busy must be true: no free run of that length anywhere. */
			uint64_t run = 0;

			units = (held[i].bytes + KVCI_WINDOW_UNIT_BYTES - 1) / KVCI_WINDOW_UNIT_BYTES;
			for (unsigned unit = 0; unit < KVCI_WINDOW_UNITS; unit++) {
				run = map[unit] ? 0 : run + 1;
				assert_true(run < units);
			}
			held[i].bytes = 0;
			busy++;
			continue;
		}
		units = (held[i].bytes + KVCI_WINDOW_UNIT_BYTES - 1) / KVCI_WINDOW_UNIT_BYTES;
		assert_true(held[i].offset / KVCI_WINDOW_UNIT_BYTES + units <= KVCI_WINDOW_UNITS);
		for (uint64_t unit = 0; unit < units; unit++) {
			assert_int_equal(map[held[i].offset / KVCI_WINDOW_UNIT_BYTES + unit], 0);
			map[held[i].offset / KVCI_WINDOW_UNIT_BYTES + unit] = 1;
		}
	}
	assert_true(busy > 0);
	for (unsigned i = 0; i < HELD; i++)
		kvci_window_give(&ranges, held[i].offset, held[i].bytes);
	assert_int_equal(ranges.used_units, 0);
	for (unsigned i = 0; i < KVCI_WINDOW_UNITS / 64; i++)
		assert_int_equal(ranges.used[i], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_window__sizes_at_the_edges__fit_or_say_why),
		cmocka_unit_test(test_window__random_takes_and_gives__never_overlap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
