/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"

enum { SCHEDULER = 1, WORKER = 2, WORKER_2 = 3, STRANGER = 4, STORER = 5 };

struct fixture {
	struct world world;
	uint32_t binding, big;
};

static const uint8_t lease_session[KVCI_SESSION_ID_BYTES] = "engine 1";

static int lease_setup(void **state)
{
	static struct fixture fixture;
	struct world_options options = world_defaults();
	struct fixture *f = &fixture;

	options.client_share_percent = 25;
	assert_int_equal(world_init(&f->world, &options), KVC_OK);
	for (uint32_t client = SCHEDULER; client <= STORER; client++)
		assert_int_equal(kvci_cache_client_open(f->world.cache, client, NULL), KVC_OK);
	for (uint32_t client = SCHEDULER; client <= WORKER_2; client++)
		assert_int_equal(kvci_cache_session_join(f->world.cache, client, lease_session, client == SCHEDULER), KVC_OK);
	assert_int_equal(world_bind(&f->world, STORER, "", 0, 0, &f->binding), KVC_OK);
	assert_int_equal(world_bind(&f->world, STORER, "", 0, 1, &f->big), KVC_OK);
	for (uint64_t key = 0; key < 20; key++)
		assert_int_equal(world_store(&f->world, STORER, f->binding, key, key), KVC_OK);
	*state = f;
	return 0;
}

static int lease_teardown(void **state)
{
	struct fixture *f = *state;

	world_run(&f->world);
	world_check(&f->world);
	world_check_misses(&f->world);
	world_fini(&f->world, NULL);
	return 0;
}

static uint64_t lease_held(const struct fixture *f)
{
	struct kvci_cache_totals totals;

	kvci_cache_totals(f->world.cache, &totals);
	return totals.leased_bytes;
}

static void lease_release(struct fixture *f, uint32_t client, uint64_t request)
{
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	world_request_id(request, id);
	kvci_cache_release(f->world.cache, client, id);
}

static void test_lease__worker_attaches__outlives_scheduler_release(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 8);
	assert_int_equal(lease_held(f), 8 * 4096);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_OK);
	assert_int_equal(load.answered, 8);
	lease_release(f, SCHEDULER, 1);
	assert_int_equal(lease_held(f), 8 * 4096);
	assert_int_equal(world_load(&f->world, &load, WORKER_2, 1, 4, 4), KVC_OK);
	lease_release(f, WORKER, 1);
	assert_int_equal(lease_held(f), 8 * 4096);
	lease_release(f, WORKER_2, 1);
	assert_int_equal(lease_held(f), 0);
}

/* A match made in pieces is the match made at once: figures, lease, statistics, and the order in which blocks leave. */
static void test_lease__matched_in_pieces__as_at_once(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 }, whole = { 0 };
	uint8_t hashes[12][KVCI_HASH_BYTES]; /* the first 8 are stored */
	uint32_t matched = 0, in_memory = 0;

	for (uint32_t i = 0; i < 12; i++)
		world_hash(12 + i, hashes[i]);
	whole.binding = f->binding;
	whole.count = 12;
	whole.hashes = (const uint8_t(*)[KVCI_HASH_BYTES])hashes;
	whole.flags = KVCI_MATCH_LEASE;
	world_request_id(1, whole.request_id);
	match = whole;
	world_request_id(2, match.request_id);
	assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &whole), KVC_OK);
	match.flags |= KVCI_MATCH_NO_TOUCH;
	for (uint32_t round = 0; round < 2; round++) { /* the second finds its own lease */
		matched = in_memory = 0;
		for (match.first = 0; match.first < 12; match.first += 3) {
			match.until = match.first + 3;
			assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &match), KVC_OK);
			assert_int_equal(match.until, match.first + 3);
			matched += match.matched;
			in_memory += match.in_memory;
			if (match.end != KVCI_MISS_NONE)
				break;
		}
		assert_int_equal(matched, whole.matched);
		assert_int_equal(in_memory, whole.in_memory);
		assert_int_equal(match.end, whole.end);
		assert_int_equal(match.first, 6);
	}
	kvci_cache_match_touch(f->world.cache, SCHEDULER, match.request_id, 3, 5);
	kvci_cache_match_touch(f->world.cache, SCHEDULER, match.request_id, 0, 3);
	kvci_cache_match_touch(f->world.cache, SCHEDULER, match.request_id, 6, UINT32_MAX); /* nonsense: nothing */
	world_check(&f->world);
	world_check_misses(&f->world);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MATCH_CALLS), 3);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MATCH_KEYS), 3 * 12);
	/* A later piece without what came before, or with other keys. */
	world_request_id(3, match.request_id);
	assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &match), KVC_NOT_FOUND);
	world_request_id(2, match.request_id);
	match.first = 4;
	match.until = 8;
	world_hash(99, hashes[5]);
	assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &match), KVC_NOT_FOUND);
	match.first = 9;
	assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &match), KVC_INVALID);
	/* Each key by itself. */
	uint8_t exists[12] = { 0 };
	match.exists = exists;
	match.flags = KVCI_MATCH_EXISTS;
	for (match.first = 0; match.first < 12; match.first += 4) {
		match.until = match.first + 4;
		assert_int_equal(kvci_cache_match(f->world.cache, SCHEDULER, &match), KVC_OK);
	}
	for (uint32_t i = 0; i < 12; i++)
		assert_int_equal(exists[i], i < 8 && i != 5);
	world_check_misses(&f->world);
	lease_release(f, SCHEDULER, 1);
	lease_release(f, SCHEDULER, 2);
	assert_int_equal(lease_held(f), 0);
}

static void test_lease__released_before_worker_attached__not_found(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	lease_release(f, SCHEDULER, 1);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_NOT_FOUND);
	assert_int_equal(load.answered, 0);
}

static void test_lease__other_session_or_tenant__not_found(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, STRANGER, 1, 0, 8), KVC_NOT_FOUND);
	assert_int_equal(kvci_cache_client_open(f->world.cache, 9, "other"), KVC_OK);
	assert_int_equal(kvci_cache_session_join(f->world.cache, 9, lease_session, false), KVC_OK); /* the same id, another session */
	assert_int_equal(world_load(&f->world, &load, 9, 1, 0, 8), KVC_NOT_FOUND);
	assert_int_equal(world_match(&f->world, 9, f->binding, 0, 8, 0, 1, &match), KVC_DENIED);
	struct kvci_reserve block;
	assert_int_equal(world_reserve(&f->world, 9, f->binding, 100, &block), KVC_DENIED);
}

static void test_lease__matched_again__same_lease_longer(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 4, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 4);
	assert_int_equal(lease_held(f), 8 * 4096);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 24, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 20);
	assert_int_equal(match.end, KVCI_MISS_NEVER_STORED);
	assert_int_equal(lease_held(f), 20 * 4096);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 20), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 21), KVC_INVALID);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, UINT32_MAX, 2), KVC_INVALID);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 0), KVC_INVALID);
}

static void test_lease__other_keys_under_same_id__replaced_or_in_use(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 2, 3, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 3);
	assert_int_equal(lease_held(f), 3 * 4096);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 3), KVC_OK);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 5, 3, KVCI_MATCH_LEASE, 1, &match), KVC_IN_USE);
	assert_int_equal(lease_held(f), 3 * 4096);
}

static void test_lease__shared_blocks__counted_once(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };

	for (uint64_t request = 0; request < 50; request++) { /* 50 times 20 blocks would be far over the cap */
		assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 20, KVCI_MATCH_LEASE, request, &match), KVC_OK);
		assert_int_equal(match.matched, 20);
	}
	assert_int_equal(world_match(&f->world, STRANGER, f->binding, 0, 20, KVCI_MATCH_LEASE, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 20);
	assert_int_equal(lease_held(f), 20 * 4096);
	for (uint64_t request = 0; request < 50; request++)
		lease_release(f, SCHEDULER, request);
	assert_int_equal(lease_held(f), 20 * 4096); /* the stranger's */
	lease_release(f, STRANGER, 0);
	assert_int_equal(lease_held(f), 0);
}

static void test_lease__over_cap__fewer_blocks(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct kvci_reserve block;
	uint32_t stored = 0;

	while (stored < 40 && world_store(&f->world, STORER, f->big, 1000 + stored, 0) == KVC_OK)
		stored++;
	assert_int_equal(stored, 40); /* 800 KiB of 1 MiB */
	assert_int_equal(world_match(&f->world, SCHEDULER, f->big, 1000, 40, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 11); /* 220 KiB of 224: seven eighths of a quarter of memory */
	assert_int_equal(match.end, KVCI_MISS_OVER_CAP);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MISS_OVER_CAP), 1);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MISS_AFTER_MISS), 28);
	assert_int_equal(world_match(&f->world, STRANGER, f->big, 1020, 20, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 11);
	/* what is reserved counts with what is leased: 440 KiB are held of 512 */
	for (uint64_t key = 2000; key < 2003; key++)
		assert_int_equal(world_reserve(&f->world, STORER, f->big, key, &block), KVC_OK);
	assert_int_equal(world_reserve(&f->world, STORER, f->big, 2003, &block), KVC_OVER_CAP);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_RESERVE_OVER_CAP), 1);
	lease_release(f, STRANGER, 1);
	for (uint64_t key = 2003; key < 2011; key++)
		assert_int_equal(world_reserve(&f->world, STORER, f->big, key, &block), KVC_OK);
	assert_int_equal(world_reserve(&f->world, STORER, f->big, 2011, &block), KVC_OVER_CAP); /* 220 KiB of 224 */
}

/* Queued requests hold leases as long as they wait: an engine goes on storing. */
static void test_lease__leases_fill_their_part__stores_go_on(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	uint64_t leased = 0;
	uint32_t scheduler_binding;

	assert_int_equal(world_bind(&f->world, SCHEDULER, "", 0, 1, &scheduler_binding), KVC_OK);
	for (uint64_t key = 1000; key < 1020; key++)
		assert_int_equal(world_store(&f->world, STORER, f->big, key, 0), KVC_OK);
	for (uint64_t request = 0; request < 20; request++) {
		assert_int_equal(world_match(&f->world, SCHEDULER, f->big, 1000 + request, 1, KVCI_MATCH_LEASE, request, &match), KVC_OK);
		leased += match.matched;
	}
	assert_int_equal(leased, 11);
	assert_int_equal(match.end, KVCI_MISS_OVER_CAP);
	for (uint64_t key = 2000; key < 2020; key++)
		assert_int_equal(world_store(&f->world, WORKER, scheduler_binding, key, 0), KVC_OK);
}

/* And the other way round: stores that are slow leave room for leases. */
static void test_lease__stores_fill_their_part__leases_go_on(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct kvci_reserve block;
	uint64_t reserved = 0;

	while (reserved < 20 && world_reserve(&f->world, WORKER, f->big, 2000 + reserved, &block) == KVC_OK)
		reserved++;
	assert_int_equal(reserved, 11);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 20, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 9); /* 36 KiB, and 220 reserved, of 256 */
	assert_int_equal(match.end, KVCI_MISS_OVER_CAP);
}

/* A share of two blocks and a half: a lease has one of them, and a store the other. */
static void test_lease__share_of_few_blocks__one_stays_for_stores(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };

	lease_teardown(state);
	struct world_options options = world_defaults();
	options.client_share_percent = 5;
	assert_int_equal(world_init(&f->world, &options), KVC_OK);
	assert_int_equal(kvci_cache_client_open(f->world.cache, STORER, NULL), KVC_OK);
	assert_int_equal(world_bind(&f->world, STORER, "", 0, 1, &f->big), KVC_OK);
	for (uint64_t key = 0; key < 2; key++)
		assert_int_equal(world_store(&f->world, STORER, f->big, key, 0), KVC_OK);
	assert_int_equal(world_match(&f->world, STORER, f->big, 0, 2, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 1);
	assert_int_equal(match.end, KVCI_MISS_OVER_CAP);
	assert_int_equal(world_store(&f->world, STORER, f->big, 2, 0), KVC_OK);
}

static void test_lease__worker_dies__only_its_hold_ends(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_OK);
	kvci_cache_client_gone(f->world.cache, WORKER);
	assert_int_equal(lease_held(f), 8 * 4096);
	lease_release(f, SCHEDULER, 1);
	assert_int_equal(lease_held(f), 0);
	kvci_cache_client_gone(f->world.cache, WORKER); /* known no more */
}

static void test_lease__scheduler_dies__all_of_the_session_end(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_OK);
	assert_int_equal(world_match(&f->world, WORKER, f->binding, 8, 8, KVCI_MATCH_LEASE, 2, &match), KVC_OK);
	kvci_cache_client_gone(f->world.cache, SCHEDULER);
	world_run(&f->world);
	assert_int_equal(lease_held(f), 0);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_NOT_FOUND);
	assert_int_equal(kvci_cache_client_open(f->world.cache, 77, ""), KVC_OK); /* the next scheduler of the same engine */
	assert_int_equal(kvci_cache_session_join(f->world.cache, 77, lease_session, true), KVC_OK);
	assert_int_equal(kvci_cache_session_join(f->world.cache, STRANGER, lease_session, true), KVC_IN_USE);
}

static void test_lease__block_dropped_while_held__bytes_stay(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, WORKER, 1, 0, 8), KVC_OK);
	world_hash(3, hash);
	assert_int_equal(kvci_cache_drop(f->world.cache, 0, 0, hash), KVC_OK);
	assert_int_equal(kvci_cache_drop(f->world.cache, 0, 0, hash), KVC_NOT_FOUND);
	assert_int_equal(kvci_cache_drop(f->world.cache, 7, 0, hash), KVC_NOT_FOUND);
	assert_int_equal(world_read(&f->world, &load.extents[3], hash, &tag), KVC_OK);
	assert_int_equal(world_match(&f->world, STRANGER, f->binding, 0, 8, 0, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 3);
	assert_int_equal(match.end, KVCI_MISS_DROPPED);
	assert_int_equal(world_match(&f->world, SCHEDULER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 3); /* the lease has it, but nobody shall be sent for it again */
	assert_int_equal(world_load(&f->world, &load, WORKER_2, 1, 0, 8), KVC_OK);
	assert_int_equal(load.statuses[3], KVC_DROPPED);
	assert_int_equal(load.statuses[4], KVC_OK);
	assert_int_equal(world_store(&f->world, STORER, f->binding, 3, 333), KVC_OK); /* its key is free */
	lease_release(f, SCHEDULER, 1);
	lease_release(f, WORKER, 1);
	assert_int_equal(world_read(&f->world, &load.extents[4], hash, &tag), KVC_CORRUPT); /* the hash is 3's */
	lease_release(f, WORKER_2, 1);
	assert_int_equal(lease_held(f), 0);
}

static void test_session__joined_late__keeps_what_it_has_or_refuses(void **state)
{
	struct fixture *f = *state;
	static const uint8_t mine[KVCI_SESSION_ID_BYTES] = "mine";
	struct kvci_match match = { 0 };
	struct kvci_client_info info;

	assert_int_equal(world_match(&f->world, STRANGER, f->binding, 0, 8, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(kvci_cache_session_join(f->world.cache, STRANGER, lease_session, false), KVC_EXISTS);
	assert_int_equal(kvci_cache_session_join(f->world.cache, STRANGER, mine, true), KVC_OK);
	assert_int_equal(kvci_cache_session_join(f->world.cache, STRANGER, mine, true), KVC_OK);
	assert_int_equal(kvci_cache_client_info(f->world.cache, STRANGER, &info), KVC_OK);
	assert_true(info.has_session && info.session_owner);
	assert_memory_equal(info.session_id, mine, sizeof(mine));
	assert_int_equal(info.leases, 1);
	assert_int_equal(info.leased_bytes, 8 * 4096);
	assert_int_equal(kvci_cache_session_join(f->world.cache, STRANGER, lease_session, false), KVC_EXISTS);
	assert_int_equal(kvci_cache_session_join(f->world.cache, 99, mine, true), KVC_NOT_FOUND);
	assert_int_equal(kvci_cache_client_open(f->world.cache, STRANGER, ""), KVC_EXISTS);
	assert_int_equal(kvci_cache_client_open(f->world.cache, 0, ""), KVC_INVALID);
	assert_int_equal(kvci_cache_client_info(f->world.cache, 99, &info), KVC_NOT_FOUND);
}

static void test_match__odd_arguments__refused(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&f->world, 99, f->binding, 0, 1, 0, 0, &match), KVC_NOT_FOUND);
	assert_int_equal(world_match(&f->world, STORER, 12345, 0, 1, 0, 0, &match), KVC_NOT_FOUND);
	assert_int_equal(world_match(&f->world, STORER, f->binding, 0, 1, KVCI_MATCH_EXISTS | KVCI_MATCH_LEASE, 0, &match), KVC_INVALID);
	assert_int_equal(world_match(&f->world, STORER, f->binding, 0, 0, 0, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 0);
	assert_int_equal(match.end, KVCI_MISS_NONE);
	match.count = UINT32_MAX;
	match.hashes = NULL;
	assert_int_equal(kvci_cache_match(f->world.cache, STORER, &match), KVC_TOO_BIG);
}

static void test_exists__each_key_alone__no_touch(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	uint8_t hash[KVCI_HASH_BYTES], exists[8];
	struct kvci_block_info info;
	uint64_t cursor = 0;
	uint32_t count;

	world_hash(2, hash);
	assert_int_equal(kvci_cache_drop(f->world.cache, 0, 0, hash), KVC_OK);
	match.exists = exists;
	assert_int_equal(world_match(&f->world, STORER, f->binding, 0, 8, KVCI_MATCH_EXISTS, 0, &match), KVC_OK);
	assert_int_equal(match.matched, 7);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(exists[i], i != 2);
	assert_int_equal(match.end, KVCI_MISS_DROPPED);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_MISS_DROPPED), 1);
	world_hash(3, hash);
	assert_int_equal(kvci_cache_find(f->world.cache, hash, 64, &cursor, 1, &info, 1, &count), KVC_OK);
	assert_int_equal(count, 1);
	assert_int_equal(info.hits, 0);
	assert_true(info.in_memory);
	world_hash(2, hash);
	assert_memory_equal(info.parent_hash, hash, KVCI_HASH_BYTES);
}

static void test_match__causes__other_form_and_evicted(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	uint32_t other;

	assert_int_equal(world_bind(&f->world, STORER, "", 0, 2, &other), KVC_OK);
	assert_int_equal(world_match(&f->world, STORER, other, 0, 4, 0, 0, &match), KVC_OK);
	assert_int_equal(match.end, KVCI_MISS_OTHER_FORM);
	for (uint64_t key = 0; key < 100; key++)
		assert_int_equal(world_store(&f->world, STORER, f->big, 1000 + key, key), KVC_OK);
	assert_int_equal(world_match(&f->world, STORER, f->binding, 0, 4, 0, 0, &match), KVC_OK);
	assert_int_equal(match.end, KVCI_MISS_EVICTED);
	assert_string_equal(kvci_miss_name(match.end), "evicted");
	assert_string_equal(kvci_miss_text(match.end), "evicted");
}

int main(void)
{
#define LEASE_TEST(name) cmocka_unit_test_setup_teardown(name, lease_setup, lease_teardown)
	const struct CMUnitTest tests[] = {
		LEASE_TEST(test_lease__worker_attaches__outlives_scheduler_release),
		LEASE_TEST(test_lease__matched_in_pieces__as_at_once),
		LEASE_TEST(test_lease__released_before_worker_attached__not_found),
		LEASE_TEST(test_lease__other_session_or_tenant__not_found),
		LEASE_TEST(test_lease__matched_again__same_lease_longer),
		LEASE_TEST(test_lease__other_keys_under_same_id__replaced_or_in_use),
		LEASE_TEST(test_lease__shared_blocks__counted_once),
		LEASE_TEST(test_lease__over_cap__fewer_blocks),
		LEASE_TEST(test_lease__leases_fill_their_part__stores_go_on),
		LEASE_TEST(test_lease__stores_fill_their_part__leases_go_on),
		LEASE_TEST(test_lease__share_of_few_blocks__one_stays_for_stores),
		LEASE_TEST(test_lease__worker_dies__only_its_hold_ends),
		LEASE_TEST(test_lease__scheduler_dies__all_of_the_session_end),
		LEASE_TEST(test_lease__block_dropped_while_held__bytes_stay),
		LEASE_TEST(test_session__joined_late__keeps_what_it_has_or_refuses),
		LEASE_TEST(test_match__odd_arguments__refused),
		LEASE_TEST(test_exists__each_key_alone__no_touch),
		LEASE_TEST(test_match__causes__other_form_and_evicted),
	};

	return cmocka_run_group_tests_name("cache/lease", tests, NULL, NULL);
}
