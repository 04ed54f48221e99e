/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of two parallel ranks: there when both shards are, leased and gone together. And the order in which plain matches touch.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/log.h"

struct shard_fixture {
	struct world world;
	uint32_t rank[2]; /* bindings; clients are 1 and 2, of one session */
};

static void fixture_bind(struct shard_fixture *f)
{
	static const uint8_t session[KVCI_SESSION_ID_BYTES] = "engine";

	for (uint32_t client = 1; client <= 2; client++) {
		assert_int_equal(kvci_cache_client_open(f->world.cache, client, ""), KVC_OK);
		assert_int_equal(kvci_cache_session_join(f->world.cache, client, session, client == 1), KVC_OK);
		assert_int_equal(world_bind(&f->world, client, "", 1, 2 + client, &f->rank[client - 1]), KVC_OK);
	}
	assert_int_not_equal(f->rank[0], f->rank[1]);
}

static struct shard_fixture *fixture_make(const struct world_options *options)
{
	struct shard_fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(world_init(&f->world, options), KVC_OK);
	fixture_bind(f);
	return f;
}

static void fixture_end(struct shard_fixture *f)
{
	world_check(&f->world);
	world_check_misses(&f->world);
	world_fini(&f->world, NULL);
	free(f);
}

/* Rank `rank` stores keys [first, first + count), each with its own bytes. */
static void fixture_store(struct shard_fixture *f, uint32_t rank, uint64_t first, uint32_t count)
{
	for (uint64_t key = first; key < first + count; key++)
		assert_int_equal(world_store(&f->world, rank + 1, f->rank[rank], key, key * 10 + rank), KVC_OK);
}

static struct kvci_match fixture_match(struct shard_fixture *f, uint32_t rank, uint64_t first, uint32_t count, uint32_t flags)
{
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&f->world, rank + 1, f->rank[rank], first, count, flags, 7, &match), KVC_OK);
	return match;
}

static void test_shard__one_of_two_stored__is_no_hit(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	uint8_t exists[4], hash[KVCI_HASH_BYTES];
	enum kvci_miss miss;

	fixture_store(f, 0, 1000, 4);
	assert_int_equal(fixture_match(f, 0, 1000, 4, 0).matched, 0);
	assert_int_equal(fixture_match(f, 0, 1000, 4, 0).end, KVCI_MISS_OTHER_SHARD);
	assert_int_equal(fixture_match(f, 1, 1000, 4, 0).end, KVCI_MISS_NEVER_STORED);
	fixture_store(f, 1, 1000, 3);
	for (uint32_t rank = 0; rank < 2; rank++) {
		struct kvci_match match = { .exists = exists };
		assert_int_equal(fixture_match(f, rank, 1000, 4, 0).matched, 3);
		assert_int_equal(world_match(&f->world, rank + 1, f->rank[rank], 1000, 4, KVCI_MATCH_EXISTS, 0, &match), KVC_OK);
		assert_int_equal(match.matched, 3);
		assert_memory_equal(exists, ((uint8_t[]){ 1, 1, 1, 0 }), 4);
	}
	world_hash(1003, hash);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->rank[0], hash, &miss, NULL), KVC_OK);
	assert_int_equal(miss, KVCI_MISS_OTHER_SHARD);
	world_hash(1002, hash);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->rank[1], hash, &miss, NULL), KVC_OK);
	assert_int_equal(miss, KVCI_MISS_NONE);
	fixture_end(f);
}

static void test_shard__other_is_being_stored__in_flight(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	struct kvci_reserve block;

	fixture_store(f, 0, 1000, 1);
	assert_int_equal(world_reserve(&f->world, 2, f->rank[1], 1000, &block), KVC_OK);
	assert_int_equal(fixture_match(f, 0, 1000, 1, 0).end, KVCI_MISS_IN_FLIGHT);
	assert_int_equal(kvci_cache_abort(f->world.cache, 2, block.reservation), KVC_OK);
	assert_int_equal(fixture_match(f, 0, 1000, 1, 0).end, KVCI_MISS_OTHER_SHARD);
	fixture_end(f);
}

/* One rank leases; both load, each its own bytes, and neither can be evicted meanwhile. */
static void test_shard__lease__pins_all_and_each_rank_loads_its_own(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	uint32_t other;

	fixture_store(f, 0, 1000, 5);
	fixture_store(f, 1, 1000, 5);
	assert_int_equal(fixture_match(f, 0, 1000, 5, KVCI_MATCH_LEASE).matched, 5);
	struct kvci_cache_totals totals;
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.leased_bytes, 2 * 5 * 4096);
	assert_int_equal(fixture_match(f, 1, 1000, 5, KVCI_MATCH_LEASE).matched, 5); /* the same lease */
	for (uint32_t rank = 0; rank < 2; rank++) {
		struct world_load load;
		assert_int_equal(world_load_shard(&f->world, &load, rank + 1, f->rank[rank], 7, 1, 4), KVC_OK);
		for (uint32_t i = 0; i < 4; i++) {
			uint8_t hash[KVCI_HASH_BYTES];
			uint64_t tag;
			assert_int_equal(load.statuses[i], KVC_OK);
			world_hash(1001 + i, hash);
			assert_int_equal(world_read(&f->world, &load.extents[i], hash, &tag), KVC_OK);
			assert_int_equal(tag, (1001 + i) * 10 + rank);
		}
	}
	struct world_load load;
	assert_int_equal(world_bind(&f->world, 1, "", 1, 0, &other), KVC_OK);
	assert_int_equal(world_load_shard(&f->world, &load, 1, other, 7, 0, 1), KVC_INVALID);
	world_check(&f->world);
	uint8_t id[KVCI_REQUEST_ID_BYTES];
	world_request_id(7, id);
	for (uint32_t client = 1; client <= 2; client++)
		kvci_cache_release(f->world.cache, client, id);
	world_run(&f->world);
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.leased_bytes, 0);
	fixture_end(f);
}

/* Room for three blocks of two shards under the cap: a fourth is pinned in no shard. */
static void test_shard__over_the_cap__whole_blocks_are_pinned(void **state)
{
	struct world_options options = world_defaults();

	options.memory_bytes = 896 << 10;
	options.slab_bytes = 64 << 10;
	options.lease_share_percent = 50;
	options.client_share_percent = 4; /* leases: seven eighths of it, 7 blocks of 4 KiB */
	struct shard_fixture *f = fixture_make(&options);
	fixture_store(f, 0, 1000, 5);
	fixture_store(f, 1, 1000, 5);
	struct kvci_match match = fixture_match(f, 1, 1000, 5, KVCI_MATCH_LEASE);
	assert_int_equal(match.matched, 3);
	assert_int_equal(match.end, KVCI_MISS_OVER_CAP);
	fixture_end(f);
}

static void test_shard__one_is_evicted__the_other_goes_in_a_step(void **state)
{
	struct world_options options = world_defaults();

	options.memory_bytes = 128 << 10;
	options.slab_bytes = 64 << 10; /* 16 blocks a rank */
	struct shard_fixture *f = fixture_make(&options);
	fixture_store(f, 0, 1000, 8);
	fixture_store(f, 1, 1000, 8);
	fixture_store(f, 0, 2000, 12); /* four of the first go */
	uint64_t evicted = world_stat(&f->world, KVCI_STAT_EVICT_LOST_BLOCKS);
	assert_true(evicted >= 4 && evicted <= 8);
	assert_int_equal(fixture_match(f, 1, 1000, 1, 0).matched, 0); /* at once, before any step */
	world_check(&f->world);
	kvci_cache_tick(f->world.cache);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_SHARD_ORPHAN_BLOCKS), evicted);
	for (uint32_t rank = 0; rank < 2; rank++) {
		struct kvci_match match = fixture_match(f, rank, 1000, 1, 0);
		assert_int_equal(match.matched, 0);
		assert_int_equal(match.end, KVCI_MISS_EVICTED);
	}
	struct kvci_cache_totals totals;
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.blocks, 8 + 8 + 12 - 2 * evicted);
	fixture_end(f);
}

static void test_shard__stored_again_before_the_step__the_other_stays(void **state)
{
	struct world_options options = world_defaults();

	options.memory_bytes = 128 << 10;
	options.slab_bytes = 64 << 10;
	struct shard_fixture *f = fixture_make(&options);
	fixture_store(f, 1, 1000, 1);
	fixture_store(f, 0, 1000, 1);
	fixture_store(f, 0, 2000, 16);
	assert_int_equal(fixture_match(f, 1, 1000, 1, 0).matched, 0);
	fixture_store(f, 0, 1000, 1);
	kvci_cache_tick(f->world.cache);
	assert_int_equal(fixture_match(f, 1, 1000, 1, 0).matched, 1);
	fixture_end(f);
}

static void test_shard__one_is_damaged__both_are_gone(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	struct world_load load;

	fixture_store(f, 0, 1000, 2);
	fixture_store(f, 1, 1000, 2);
	assert_int_equal(fixture_match(f, 0, 1000, 2, KVCI_MATCH_LEASE).matched, 2);
	assert_int_equal(world_load_shard(&f->world, &load, 2, f->rank[1], 7, 0, 2), KVC_OK);
	world_extent(&f->world, &load.extents[1])[600] ^= 1;
	kvci_cache_report_damage(f->world.cache, 2, &load.extents[1]);
	world_run(&f->world);
	struct world_load again; /* the lease holds what was the other shard; it is dead */
	assert_int_equal(world_load_shard(&f->world, &again, 1, f->rank[0], 7, 0, 2), KVC_OK);
	assert_int_equal(again.statuses[0], KVC_OK);
	assert_int_equal(again.statuses[1], KVC_CORRUPT);
	assert_int_equal(fixture_match(f, 0, 1001, 1, 0).end, KVCI_MISS_DAMAGED);
	assert_int_equal(fixture_match(f, 1, 1001, 1, 0).end, KVCI_MISS_DAMAGED);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_SHARD_ORPHAN_BLOCKS), 1);
	fixture_end(f);
}

static void test_shard__drop__drops_all(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	uint8_t hash[KVCI_HASH_BYTES];

	fixture_store(f, 0, 1000, 1);
	fixture_store(f, 1, 1000, 1);
	world_hash(1000, hash);
	assert_int_equal(kvci_cache_drop(f->world.cache, kvci_cache_binding_space(f->world.cache, f->rank[0]), 0, hash), KVC_OK);
	assert_int_equal(fixture_match(f, 0, 1000, 1, 0).end, KVCI_MISS_DROPPED);
	assert_int_equal(fixture_match(f, 1, 1000, 1, 0).end, KVCI_MISS_DROPPED);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DROP_BLOCKS), 2);
	fixture_end(f);
}

/* After a restart one rank alone binds: the disk's blocks of the other count for it. */
static void test_shard__restart__one_rank_binds_and_all_hit(void **state)
{
	struct world_options options = world_defaults();
	struct kvci_space fields;
	struct kvci_match match = { 0 };
	char storage[32];

	options.disk = true;
	struct shard_fixture *f = fixture_make(&options);
	fixture_store(f, 0, 1000, 3);
	fixture_store(f, 1, 1000, 2);
	world_run(&f->world);
	world_fini(&f->world, &options.tier);
	memset(&f->world, 0, sizeof(f->world));
	assert_int_equal(world_init(&f->world, &options), KVC_OK);
	world_space("", 1, &storage, &fields);
	assert_int_equal(kvci_cache_space_restore(f->world.cache, &fields, 1), KVC_OK);
	world_run(&f->world);
	assert_int_equal(kvci_cache_client_open(f->world.cache, 1, ""), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 1, 3, &f->rank[0]), KVC_OK);
	assert_int_equal(world_match(&f->world, 1, f->rank[0], 1000, 3, 0, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 2);
	assert_int_equal(match.on_disk, 2);
	fixture_end(f);
}

static void test_shard__too_many__refused(void **state)
{
	struct world_options options = world_defaults();
	struct shard_fixture *f = fixture_make(&options);
	struct kvci_space fields;
	struct kvc_form form;
	uint64_t epoch;
	char storage[32];

	world_space("", 1, &storage, &fields);
	world_form(3, &form);
	form.shard_count = 256;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &f->rank[0], &epoch), KVC_OK);
	assert_int_equal(kvci_cache_binding_shards(f->world.cache, f->rank[0]), 256);
	form.shard_count = 257;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &f->rank[0], &epoch), KVC_TOO_BIG);
	fixture_end(f);
}

/* A plain match in pieces is touched from its last piece to its first: eviction takes the chain's end, and leaves a prefix. */
static void test_touch__plain_match_in_pieces__the_end_goes_first(void **state)
{
	enum { COUNT = 24, PIECE = 8 };
	struct world_options options = world_defaults();
	uint8_t hashes[COUNT][KVCI_HASH_BYTES];
	uint32_t numbers[COUNT], binding;
	struct kvci_match match = { 0 };

	options.memory_bytes = options.slab_bytes = 128 << 10; /* 32 blocks */
	struct shard_fixture *f = fixture_make(&options);
	assert_int_equal(world_bind(&f->world, 1, "", 1, 0, &binding), KVC_OK);
	for (uint32_t i = 0; i < COUNT; i++) {
		assert_int_equal(world_store(&f->world, 1, binding, 1000 + i, i), KVC_OK);
		world_hash(1000 + i, hashes[i]);
	}
	world_advance(&f->world, 100 * KVCI_MS);
	match.binding = binding;
	match.hashes = (const uint8_t(*)[KVCI_HASH_BYTES])hashes;
	match.count = COUNT;
	match.numbers = numbers;
	for (match.first = 0; match.first < COUNT; match.first += PIECE) {
		match.until = match.first + PIECE;
		assert_int_equal(kvci_cache_match(f->world.cache, 1, &match), KVC_OK);
		assert_int_equal(match.matched, PIECE);
	}
	for (uint32_t left = COUNT; left > 0; left -= PIECE)
		kvci_cache_match_touch_blocks(f->world.cache, &match, left - PIECE, PIECE);
	for (uint32_t i = 0; i < 18; i++)
		assert_int_equal(world_store(&f->world, 1, binding, 2000 + i, i), KVC_OK);
	uint8_t exists[COUNT];
	match = (struct kvci_match){ .exists = exists };
	assert_int_equal(world_match(&f->world, 1, binding, 1000, COUNT, KVCI_MATCH_EXISTS, 0, &match), KVC_OK);
	assert_true(match.matched > 0 && match.matched < COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(exists[i], i < match.matched);
	fixture_end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shard__one_of_two_stored__is_no_hit),
		cmocka_unit_test(test_shard__other_is_being_stored__in_flight),
		cmocka_unit_test(test_shard__lease__pins_all_and_each_rank_loads_its_own),
		cmocka_unit_test(test_shard__over_the_cap__whole_blocks_are_pinned),
		cmocka_unit_test(test_shard__one_is_evicted__the_other_goes_in_a_step),
		cmocka_unit_test(test_shard__stored_again_before_the_step__the_other_stays),
		cmocka_unit_test(test_shard__one_is_damaged__both_are_gone),
		cmocka_unit_test(test_shard__drop__drops_all),
		cmocka_unit_test(test_shard__restart__one_rank_binds_and_all_hit),
		cmocka_unit_test(test_shard__too_many__refused),
		cmocka_unit_test(test_touch__plain_match_in_pieces__the_end_goes_first),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	return cmocka_run_group_tests_name("cache/shard", tests, NULL, NULL);
}
