/* SPDX-License-Identifier: Apache-2.0
 * When it is worth to look for a message instead of sleeping until it comes: what vain looks may cost, and what counts as late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/patience.h"

static unsigned tries_of(struct kvci_patience *patience, unsigned occasions, bool found)
{
	unsigned tries = 0;

	for (unsigned i = 0; i < occasions; i++) {
		if (!kvci_patience_try(patience))
			continue;
		tries++;
		kvci_patience_learn(patience, found);
	}
	return tries;
}

static void test_patience__always_in_vain__once_in_a_thousand_occasions(void **state)
{
	struct kvci_patience patience = {0};

	assert_int_equal(tries_of(&patience, 2048, false), 11); /* at 0, 2, 6, 14, ... */
	assert_true(tries_of(&patience, 1024 * 1000, false) <= 1000);
}

static void test_patience__found__looks_every_time_again(void **state)
{
	struct kvci_patience patience = {0};

	assert_int_equal(tries_of(&patience, 100, true), 100);
	tries_of(&patience, 5000, false);
	while (!kvci_patience_try(&patience))
		continue;
	kvci_patience_learn(&patience, true);
	assert_int_equal(tries_of(&patience, 100, true), 100);
}

static void test_lateness__answers_that_are_always_late__matter_soon(void **state)
{
	struct kvci_lateness lateness = {0};

	assert_false(kvci_lateness_matters(&lateness));
	for (unsigned i = 0; i < 3; i++)
		kvci_lateness_learn(&lateness, 100 * 1000);
	assert_true(kvci_lateness_matters(&lateness));
}

/* A busy machine: most come at once, and now and then one is put aside for milliseconds. */
static void test_lateness__some_that_are_very_late__do_not_matter(void **state)
{
	struct kvci_lateness lateness = {0};

	for (unsigned i = 0; i < 1000; i++) {
		kvci_lateness_learn(&lateness, 8 * 1000);
		kvci_lateness_learn(&lateness, i % 3 == 0 ? 20 * 1000 * 1000 : 8 * 1000);
	}
	kvci_lateness_learn(&lateness, 8 * 1000);
	assert_false(kvci_lateness_matters(&lateness));
	for (unsigned i = 0; i < 100; i++)
		kvci_lateness_learn(&lateness, UINT64_MAX);
	assert_true(kvci_lateness_matters(&lateness));
	kvci_lateness_learn(&lateness, 0);
	assert_false(kvci_lateness_matters(&lateness));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_patience__always_in_vain__once_in_a_thousand_occasions),
		cmocka_unit_test(test_patience__found__looks_every_time_again),
		cmocka_unit_test(test_lateness__answers_that_are_always_late__matter_soon),
		cmocka_unit_test(test_lateness__some_that_are_very_late__do_not_matter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
