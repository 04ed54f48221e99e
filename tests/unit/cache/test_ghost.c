/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cache/ghost.h"

static void key_hash(uint32_t key, uint8_t hash[32])
{
	memset(hash, 0, 32);
	memcpy(hash, &key, sizeof(key));
}

static void test_ghost__put__cause_is_remembered_until_forgotten(void **state)
{
	struct kvci_ghost *ghost;
	uint8_t hash[32];

	key_hash(1, hash);
	assert_int_equal(kvci_ghost_create(1024, NULL, &ghost), KVC_OK);
	assert_true(kvci_ghost_memory_bytes(ghost) < 256); /* nothing is taken before the first put */
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 0);
	kvci_ghost_forget(ghost, 0, hash);
	kvci_ghost_put(ghost, 0, hash, 2);
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 2);
	assert_int_equal(kvci_ghost_get(ghost, 1, hash), 0); /* another binding is another key */
	kvci_ghost_put(ghost, 0, hash, 15);
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 15);
	kvci_ghost_forget(ghost, 0, hash);
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 0);
	kvci_ghost_destroy(ghost);
	kvci_ghost_destroy(NULL);
}

/* n keys ago: nearly all of the last half table are known, nearly none of four tables ago. */
static void test_ghost__overfull__oldest_are_forgotten(void **state)
{
	enum { ENTRIES = 16384, PUTS = 100000 };
	struct kvci_ghost *ghost;
	uint8_t hash[32];
	uint32_t recent = 0, old = 0;

	assert_int_equal(kvci_ghost_create(ENTRIES - 100, NULL, &ghost), KVC_OK);
	for (uint32_t key = 0; key < PUTS; key++) {
		key_hash(key, hash);
		kvci_ghost_put(ghost, 0, hash, key % 15 + 1);
	}
	assert_in_range(kvci_ghost_memory_bytes(ghost), ENTRIES * 8, ENTRIES * 8 + 256);
	for (uint32_t key = 0; key < PUTS; key++) {
		key_hash(key, hash);
		uint32_t cause = kvci_ghost_get(ghost, 0, hash);
		assert_true(cause == 0 || cause == key % 15 + 1);
		if (key >= PUTS - ENTRIES / 2)
			recent += cause != 0;
		if (key < PUTS - 4 * ENTRIES)
			old += cause != 0;
	}
	assert_true(recent > ENTRIES / 2 * 95 / 100);
	assert_true(old < 100);
	kvci_ghost_destroy(ghost);
}

static int allow_countdown(void *context, size_t bytes)
{
	unsigned *left = context;
	if (*left == 0)
		return 0;
	(*left)--;
	return 1;
}

static void test_ghost__no_memory__remembers_nothing(void **state)
{
	struct kvci_ghost *ghost = NULL;
	uint8_t hash[32];
	unsigned left = 0;

	key_hash(1, hash);
	kvci_alloc_set_hook(allow_countdown, &left);
	assert_int_equal(kvci_ghost_create(1024, NULL, &ghost), KVC_NO_MEMORY);
	left = 1;
	assert_int_equal(kvci_ghost_create(1024, NULL, &ghost), KVC_OK);
	kvci_ghost_put(ghost, 0, hash, 3);
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 0);
	kvci_alloc_set_hook(NULL, NULL);
	kvci_ghost_put(ghost, 0, hash, 3);
	assert_int_equal(kvci_ghost_get(ghost, 0, hash), 3);
	kvci_ghost_destroy(ghost);
	assert_int_equal(kvci_ghost_create(UINT32_MAX, NULL, &ghost), KVC_TOO_BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ghost__put__cause_is_remembered_until_forgotten),
		cmocka_unit_test(test_ghost__overfull__oldest_are_forgotten),
		cmocka_unit_test(test_ghost__no_memory__remembers_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
