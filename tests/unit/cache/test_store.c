/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"

struct fixture {
	struct world world;
	uint32_t binding, big;
};

static int store_setup_with(void **state, const struct world_options *options)
{
	static struct fixture fixture;

	assert_int_equal(world_init(&fixture.world, options), KVC_OK);
	for (uint32_t client = 1; client <= 3; client++)
		assert_int_equal(kvci_cache_client_open(fixture.world.cache, client, ""), KVC_OK);
	assert_int_equal(world_bind(&fixture.world, 1, "", 0, 0, &fixture.binding), KVC_OK);
	assert_int_equal(world_bind(&fixture.world, 1, "", 0, 1, &fixture.big), KVC_OK);
	*state = &fixture;
	return 0;
}

static int store_setup(void **state)
{
	struct world_options options = world_defaults();

	return store_setup_with(state, &options);
}

static int store_teardown(void **state)
{
	struct fixture *f = *state;

	world_check(&f->world);
	world_check_misses(&f->world);
	world_fini(&f->world, NULL);
	return 0;
}

static void test_store__committed__matches_and_loads(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	for (uint64_t key = 0; key < 10; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	assert_int_equal(world_match(&f->world, 2, f->binding, 0, 12, KVCI_MATCH_LEASE, 7, &match), KVC_OK);
	assert_int_equal(match.matched, 10);
	assert_int_equal(match.in_memory, 10);
	assert_int_equal(match.end, KVCI_MISS_NEVER_STORED);
	assert_int_equal(match.load_bytes, 10 * 4096);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MISS_AFTER_MISS), 1);
	assert_int_equal(world_load(&f->world, &load, 2, 7, 0, 10), KVC_OK);
	assert_int_equal(load.answered, 10);
	for (uint32_t i = 0; i < 10; i++) {
		world_hash(i, hash);
		assert_int_equal(load.statuses[i], KVC_OK);
		assert_int_equal(world_read(&f->world, &load.extents[i], hash, &tag), KVC_OK);
		assert_int_equal(tag, 100 + i);
	}
	world_check(&f->world);
	kvci_cache_release(f->world.cache, 2, match.request_id);
	kvci_cache_release(f->world.cache, 2, match.request_id);
}

static void test_store__not_committed__not_seen(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve block, other;
	struct kvci_match match = { 0 };

	assert_int_equal(world_reserve(&f->world, 1, f->binding, 5, &block), KVC_OK);
	assert_int_equal(world_match(&f->world, 2, f->binding, 5, 1, 0, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 0);
	assert_int_equal(match.end, KVCI_MISS_IN_FLIGHT);
	assert_int_equal(world_reserve(&f->world, 2, f->binding, 5, &other), KVC_IN_FLIGHT);
	assert_int_equal(kvci_cache_abort(f->world.cache, 2, block.reservation), KVC_NOT_FOUND); /* another's */
	assert_int_equal(kvci_cache_abort(f->world.cache, 1, block.reservation), KVC_OK);
	assert_int_equal(kvci_cache_abort(f->world.cache, 1, block.reservation), KVC_NOT_FOUND);
	assert_int_equal(world_match(&f->world, 2, f->binding, 5, 1, 0, 0, &match), KVC_OK);
	assert_int_equal(match.end, KVCI_MISS_NEVER_STORED);
	assert_int_equal(world_store(&f->world, 2, f->binding, 5, 1), KVC_OK);
	assert_int_equal(world_reserve(&f->world, 1, f->binding, 5, &block), KVC_EXISTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_store__committed__matches_and_loads, store_setup, store_teardown),
		cmocka_unit_test_setup_teardown(test_store__not_committed__not_seen, store_setup, store_teardown),
	};

	return cmocka_run_group_tests_name("cache/store", tests, NULL, NULL);
}
