/* SPDX-License-Identifier: Apache-2.0
 * What "auto" becomes, and the contradictions that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/sizes.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct kvci_config config;

static void configure(const char *const *sets)
{
	char *error = NULL;

	assert_int_equal(kvci_config_init(&config), KVC_OK);
	for (; *sets != NULL; sets++)
		assert_int_equal(kvci_config_set(&config, *sets, "test", &error), KVC_OK);
}

static struct kvci_sizes resolve(const char *const *sets, const char *folder)
{
	struct kvci_sizes sizes;
	char *error = NULL;

	configure(sets);
	if (kvci_sizes_resolve(&config, folder, &sizes, &error) != KVC_OK)
		fail_msg("%s", error);
	kvci_config_fini(&config);
	return sizes;
}

static void test_sizes__auto__follows_what_is_free(void **state)
{
	const char *const none[] = {NULL};
	struct kvci_sizes sizes = resolve(none, ".");
	uint64_t available = sizes.memory_available_bytes;

	assert_true(available > 0);
	assert_true(sizes.memory_bytes <= 64 * GIB && sizes.memory_bytes % MIB == 0);
	if (available / 4 > 16 * MIB && available / 4 < 64 * GIB)
		assert_true(sizes.memory_bytes <= available / 4 && sizes.memory_bytes > available / 4 - MIB);
	assert_true(sizes.slab_bytes <= sizes.memory_bytes / 4 && sizes.slab_bytes <= GIB);
	assert_true(sizes.disk_bytes > 0 && sizes.disk_bytes <= 256 * GIB && sizes.disk_bytes <= sizes.disk_free_bytes);
	assert_true(sizes.segment_bytes <= sizes.disk_bytes / 4);
	assert_true(sizes.workers >= 1 && sizes.workers <= 8);
	assert_int_equal(sizes.write_queue_bytes, sizes.memory_bytes / 4);
}

static void test_sizes__given_ones__are_kept(void **state)
{
	static const struct {
		const char *capacity;
		uint64_t slab_bytes;
	} cases[] = {
		{"memory.capacity=8MiB", 2 * MIB},    {"memory.capacity=1MiB", MIB},        {"memory.capacity=64MiB", 16 * MIB},
		{"memory.capacity=256MiB", 64 * MIB}, {"memory.capacity=4GiB", 512 * MIB}, {"memory.capacity=64GiB", GIB},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const sets[] = {cases[i].capacity, "workers=3", "disk.write_queue=5MiB", NULL};
		struct kvci_sizes sizes = resolve(sets, NULL);

		assert_int_equal(sizes.slab_bytes, cases[i].slab_bytes);
		assert_int_equal(sizes.workers, 3);
		assert_int_equal(sizes.write_queue_bytes, 5 * MIB);
		assert_int_equal(sizes.disk_bytes, 0);
	}
}

static void test_sizes__segments__leave_room_for_reclaim(void **state)
{
	static const struct {
		const char *capacity;
		uint64_t segment_bytes;
	} cases[] = {
		{"disk.capacity=16MiB", 4 * MIB}, {"disk.capacity=64MiB", 8 * MIB}, {"disk.capacity=1GiB", 64 * MIB},
		{"disk.capacity=16GiB", 256 * MIB}, {"disk.capacity=1TiB", GIB},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const sets[] = {cases[i].capacity, NULL};

		if (resolve(sets, ".").segment_bytes != cases[i].segment_bytes)
			fail_msg("%s: %llu", cases[i].capacity, (unsigned long long)resolve(sets, ".").segment_bytes);
	}
}

static void test_sizes__contradictions__are_refused_by_name(void **state)
{
	static const char *const cases[][4] = {
		{"memory.capacity=8MiB", "memory.slab=16MiB", NULL, "memory.slab"},
		{"disk.capacity=64MiB", "disk.segment=32MiB", NULL, "disk.segment"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvci_sizes sizes;
		char *error = NULL;

		configure(cases[i]);
		assert_int_equal(kvci_sizes_resolve(&config, ".", &sizes, &error), KVC_CONFIG);
		assert_non_null(strstr(error, cases[i][3]));
		kvci_free(error);
		kvci_config_fini(&config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes__auto__follows_what_is_free),
		cmocka_unit_test(test_sizes__given_ones__are_kept),
		cmocka_unit_test(test_sizes__segments__leave_room_for_reclaim),
		cmocka_unit_test(test_sizes__contradictions__are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
