/* SPDX-License-Identifier: Apache-2.0
 *
 * The n-th allocation fails, for every n: a clean status or none at all, no invariant broken, nothing leaked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"
#include "tests/unit/sweep.h"

#include "base/clock.h"
#include "base/log.h"

static void alloc_check(struct world *world)
{
	const char *broken = kvci_cache_check(world->cache);

	if (broken != NULL && strcmp(broken, "out of memory while checking") != 0)
		fail_msg("invariant: %s", broken);
}

/* A status that a client may be told when memory is short, without harm. */
static bool alloc_benign(kvc_status_t status)
{
	enum kvc_status_class class = kvc_status_class(status);

	return class == KVC_CLASS_OK || class == KVC_CLASS_RETRY || class == KVC_CLASS_DEGRADE || class == KVC_CLASS_MISS;
}

static void alloc_flushed(struct kvci_flush_wait *wait, kvc_status_t status)
{
}

static void alloc_raised(struct kvci_epoch_wait *wait, kvc_status_t status, uint64_t epoch)
{
}

static kvc_status_t alloc_clients(struct world *world, uint32_t *binding, uint32_t *big)
{
	static const uint8_t session[KVCI_SESSION_ID_BYTES] = "engine";
	kvc_status_t status = KVC_OK;

	for (uint32_t client = 1; client <= 3 && status == KVC_OK; client++) {
		status = kvci_cache_client_open(world->cache, client, "");
		if (status == KVC_OK)
			status = kvci_cache_session_join(world->cache, client, session, client == 1);
	}
	if (status == KVC_OK)
		status = world_bind(world, 1, "", 0, 0, binding);
	if (status == KVC_OK)
		status = world_bind(world, 1, "", 0, 1, big);
	return status;
}

static kvc_status_t alloc_use(struct world *world)
{
	struct kvci_epoch_wait raise = { .done = alloc_raised };
	struct kvci_flush_wait flush = { .done = alloc_flushed };
	struct kvci_match match = { 0 };
	struct world_load load;
	uint8_t hash[KVCI_HASH_BYTES];
	uint32_t binding, big;
	kvc_status_t status = alloc_clients(world, &binding, &big);

	for (uint64_t key = 0; key < 12 && alloc_benign(status); key++) {
		status = world_store(world, 1, binding, key, key);
		world_run(world);
	}
	for (uint64_t key = 100; key < 130 && alloc_benign(status); key++)
		status = world_store(world, 2, big, key, key);
	if (!alloc_benign(status))
		return status;
	world_run(world);
	for (uint32_t worker = 2; worker <= 3 && alloc_benign(status); worker++) {
		status = world_match(world, 1, binding, 0, 12, KVCI_MATCH_LEASE, worker, &match);
		if (status == KVC_OK && match.matched != 0)
			status = world_load(world, &load, worker, worker, 0, match.matched);
		world_run(world);
		world_advance(world, 3 * KVCI_SECOND);
		if (status == KVC_OK && match.matched != 0)
			kvci_cache_load_cancel(world->cache, &load.load);
		if (status == KVC_OK && match.matched != 0 && load.statuses[0] == KVC_OK)
			kvci_cache_report_damage(world->cache, worker, &load.extents[0]);
	}
	alloc_check(world);
	if (!alloc_benign(status))
		return status;
	status = kvci_cache_flush(world->cache, &flush);
	world_advance(world, 10 * KVCI_SECOND);
	kvci_cache_flush_cancel(world->cache, &flush);
	world_hash(5, hash);
	if (alloc_benign(status))
		status = kvci_cache_drop(world->cache, 0, 0, hash);
	status = status == KVC_NOT_FOUND ? KVC_OK : status;
	if (alloc_benign(status))
		status = kvci_cache_epoch_raise(world->cache, 0, &raise);
	kvci_cache_client_gone(world->cache, 1);
	world_run(world);
	return alloc_benign(status) ? KVC_OK : status;
}

static kvc_status_t alloc_scenario(void *context)
{
	static struct world world;
	struct world_options options = world_defaults();
	kvc_status_t status;

	options.disk = true;
	options.memory_bytes = 512 << 10;
	options.slab_bytes = 64 << 10;
	options.client_share_percent = 40;
	options.write_mode = *(const enum kvci_write_mode *)context;
	status = world_init(&world, &options);
	if (status != KVC_OK)
		return status;
	status = alloc_use(&world);
	alloc_check(&world);
	world_fini(&world, NULL);
	return status;
}

static void test_alloc__each_fails__clean(void **state)
{
	for (enum kvci_write_mode mode = KVCI_WRITE_OFF; mode <= KVCI_WRITE_AFTER_HITS; mode++) {
		struct sweep_result result = sweep_run("cache", alloc_scenario, &mode);
		assert_true(result.allocations > 50);
		assert_true(result.benign > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alloc__each_fails__clean),
	};

	kvci_log_set_level(-1);
	return cmocka_run_group_tests_name("cache/alloc", tests, NULL, NULL);
}
