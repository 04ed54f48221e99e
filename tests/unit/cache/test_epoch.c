/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/log.h"

struct fixture {
	struct world world;
	uint32_t binding;
};

static struct fixture epoch_fixture;

static void epoch_begin(struct fixture *f, const struct world_options *options)
{
	assert_int_equal(world_init(&f->world, options), KVC_OK);
	assert_int_equal(kvci_cache_client_open(f->world.cache, 1, ""), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 0, 0, &f->binding), KVC_OK);
	world_run(&f->world);
}

static int epoch_setup(void **state)
{
	struct world_options options = world_defaults();

	options.disk = true;
	options.save_later = true;
	options.first_epoch = 77;
	epoch_begin(&epoch_fixture, &options);
	*state = &epoch_fixture;
	return 0;
}

static int epoch_teardown(void **state)
{
	struct fixture *f = *state;

	world_check(&f->world);
	world_fini(&f->world, NULL);
	return 0;
}

struct epoch_answer {
	struct kvci_epoch_wait wait;
	unsigned calls;
	kvc_status_t status;
};

static void epoch_done(struct kvci_epoch_wait *wait, kvc_status_t status, uint64_t epoch)
{
	struct epoch_answer *answer = (struct epoch_answer *)(void *)wait;

	assert_int_equal(epoch, wait->epoch);
	answer->calls++;
	answer->status = status;
}

static uint32_t epoch_matched(struct fixture *f, uint32_t count, enum kvci_miss *ret_end)
{
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&f->world, 1, f->binding, 0, count, 0, 0, &match), KVC_OK);
	*ret_end = match.end;
	return match.matched;
}

static void test_epoch__raised__misses_at_once_durable_before_done(void **state)
{
	struct fixture *f = *state;
	struct epoch_answer a = { .wait.done = epoch_done }, b = { .wait.done = epoch_done }, c = { .wait.done = epoch_done };
	struct kvci_space_info info;
	enum kvci_miss end;

	assert_int_equal(kvci_cache_space_info(f->world.cache, 0, &info), KVC_OK);
	assert_int_equal(info.epoch, 77);
	for (uint64_t key = 0; key < 10; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, key), KVC_OK);
	world_run(&f->world);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &a.wait), KVC_OK);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &b.wait), KVC_OK);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &c.wait), KVC_OK);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 5, &c.wait), KVC_NOT_FOUND);
	kvci_cache_epoch_cancel(f->world.cache, &c.wait);
	assert_int_equal(a.calls + b.calls, 0);
	assert_int_equal(epoch_matched(f, 10, &end), 0); /* before any sweep */
	assert_int_equal(end, KVCI_MISS_EPOCH);
	kvci_cache_space_saved(f->world.cache, 0, 78, KVC_OK);
	assert_int_equal(a.calls, 1);
	assert_int_equal(a.status, KVC_OK);
	assert_int_equal(b.calls, 0);
	kvci_cache_space_saved(f->world.cache, 0, 80, KVC_OK); /* covers all before */
	assert_int_equal(b.calls, 1);
	assert_int_equal(c.calls, 0);
	world_run(&f->world);
	assert_int_equal(kvci_cache_space_info(f->world.cache, 0, &info), KVC_OK);
	assert_int_equal(info.blocks, 0);
	assert_int_equal(info.epoch, 80);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_EPOCH_BLOCKS), 10);
	assert_int_equal(world_store(&f->world, 1, f->binding, 0, 1), KVC_OK);
	assert_int_equal(epoch_matched(f, 10, &end), 1);
	assert_int_equal(end, KVCI_MISS_EPOCH); /* remembered */
}

static void test_epoch__not_saved__said_so_and_tried_again(void **state)
{
	struct fixture *f = *state;
	struct epoch_answer a = { .wait.done = epoch_done };
	enum kvci_miss end;

	assert_int_equal(world_store(&f->world, 1, f->binding, 0, 1), KVC_OK);
	f->world.save_failure = KVC_IO;
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &a.wait), KVC_OK);
	world_run(&f->world);
	assert_int_equal(a.calls, 1);
	assert_int_equal(a.status, KVC_IO);
	assert_int_equal(epoch_matched(f, 1, &end), 0); /* raised nevertheless */
	uint64_t saves = f->world.saved_epochs;
	f->world.save_failure = KVC_OK;
	world_advance(&f->world, 2 * KVCI_SECOND);
	assert_int_equal(f->world.saved_epochs, saves + 1);
	world_advance(&f->world, 2 * KVCI_SECOND);
	assert_int_equal(f->world.saved_epochs, saves + 1);
}

static void test_epoch__raised_while_storing__commit_is_stale(void **state)
{
	struct fixture *f = *state;
	struct epoch_answer a = { .wait.done = epoch_done };
	struct kvci_reserve block, other;
	uint64_t checksums[WORLD_LAYERS];
	enum kvci_miss end;

	assert_int_equal(world_reserve(&f->world, 1, f->binding, 0, &block), KVC_OK);
	world_fill(&f->world, f->binding, block.hash, &block.extent, 1, checksums);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &a.wait), KVC_OK);
	assert_int_equal(world_reserve(&f->world, 1, f->binding, 0, &other), KVC_OK); /* of the new weights: its own flight */
	assert_int_equal(kvci_cache_commit(f->world.cache, 1, block.reservation, checksums, WORLD_LAYERS), KVC_STALE_EPOCH);
	assert_int_equal(epoch_matched(f, 1, &end), 0);
	assert_int_equal(end, KVCI_MISS_IN_FLIGHT);
	assert_int_equal(kvci_cache_abort(f->world.cache, 1, other.reservation), KVC_OK);
	world_run(&f->world);
}

static void test_epoch__raised_while_held__no_load_gives_it(void **state)
{
	struct fixture *f = *state;
	struct epoch_answer a = { .wait.done = epoch_done };
	struct kvci_match match = { 0 };
	struct world_load load;

	for (uint64_t key = 0; key < 4; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, key), KVC_OK);
	assert_int_equal(world_match(&f->world, 1, f->binding, 0, 4, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(kvci_cache_epoch_raise(f->world.cache, 0, &a.wait), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 4), KVC_OK);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(load.statuses[i], KVC_STALE_EPOCH);
	assert_int_equal(world_match(&f->world, 1, f->binding, 0, 4, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 0);
	assert_int_equal(match.end, KVCI_MISS_EPOCH);
	world_run(&f->world);
}

static void test_epoch__restored_twice__the_higher(void **state)
{
	struct fixture *f = *state;
	struct kvci_space fields;
	struct kvci_space_info info;
	char storage[32];

	world_space("", 0, &storage, &fields);
	assert_int_equal(kvci_cache_space_restore(f->world.cache, &fields, 500), KVC_OK);
	assert_int_equal(kvci_cache_space_restore(f->world.cache, &fields, 400), KVC_OK);
	assert_int_equal(kvci_cache_space_count(f->world.cache), 1);
	assert_int_equal(kvci_cache_space_info(f->world.cache, 0, &info), KVC_OK);
	assert_int_equal(info.epoch, 500);
	assert_int_equal(kvci_cache_space_info(f->world.cache, 1, &info), KVC_NOT_FOUND);
}

int main(void)
{
#define EPOCH_TEST(name) cmocka_unit_test_setup_teardown(name, epoch_setup, epoch_teardown)
	const struct CMUnitTest tests[] = {
		EPOCH_TEST(test_epoch__raised__misses_at_once_durable_before_done),
		EPOCH_TEST(test_epoch__not_saved__said_so_and_tried_again),
		EPOCH_TEST(test_epoch__raised_while_storing__commit_is_stale),
		EPOCH_TEST(test_epoch__raised_while_held__no_load_gives_it),
		EPOCH_TEST(test_epoch__restored_twice__the_higher),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	kvci_log_set_sink(NULL, NULL);
	return cmocka_run_group_tests_name("cache/epoch", tests, NULL, NULL);
}
