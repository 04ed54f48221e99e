/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/log.h"
#include "cache/internal.h"

struct fixture {
	struct world world;
	uint32_t binding, big;
};

static struct fixture disk_fixture;

static void disk_clients(struct fixture *f)
{
	for (uint32_t client = 1; client <= 3; client++)
		assert_int_equal(kvci_cache_client_open(f->world.cache, client, ""), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 0, 0, &f->binding), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 0, 1, &f->big), KVC_OK);
}

static int disk_setup_mode(void **state, enum kvci_write_mode mode)
{
	struct world_options options = world_defaults();

	options.disk = true;
	options.segment_4k = 256;
	options.write_mode = mode;
	assert_int_equal(world_init(&disk_fixture.world, &options), KVC_OK);
	world_run(&disk_fixture.world);
	disk_clients(&disk_fixture);
	*state = &disk_fixture;
	return 0;
}

static int disk_setup(void **state)
{
	return disk_setup_mode(state, KVCI_WRITE_THROUGH);
}

static int disk_setup_on_evict(void **state)
{
	return disk_setup_mode(state, KVCI_WRITE_ON_EVICT);
}

static int disk_setup_after_hits(void **state)
{
	return disk_setup_mode(state, KVCI_WRITE_AFTER_HITS);
}

static int disk_teardown(void **state)
{
	struct fixture *f = *state;

	world_check(&f->world);
	world_check_misses(&f->world);
	world_fini(&f->world, NULL);
	return 0;
}

static struct kvci_cache_totals disk_totals(const struct fixture *f)
{
	struct kvci_cache_totals totals;

	kvci_cache_totals(f->world.cache, &totals);
	return totals;
}

/* Stores keys [0, count) and pushes them out of memory. */
static void disk_fill(struct fixture *f, uint32_t count)
{
	for (uint64_t key = 0; key < count; key++) {
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
		world_run(&f->world);
	}
	for (uint64_t key = 0; key < 60; key++) {
		assert_int_equal(world_store(&f->world, 1, f->big, 5000 + key, key), KVC_OK);
		world_run(&f->world);
	}
}

static struct kvci_match disk_match(struct fixture *f, uint32_t client, uint64_t first, uint32_t count, uint32_t flags, uint64_t request)
{
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&f->world, client, f->binding, first, count, flags, request, &match), KVC_OK);
	return match;
}

static void disk_check_loaded(struct fixture *f, const struct world_load *load, uint32_t count)
{
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(load->statuses[i], KVC_OK);
		world_hash(i, hash);
		assert_int_equal(world_read(&f->world, &load->extents[i], hash, &tag), KVC_OK);
		assert_int_equal(tag, 100 + i);
	}
}

static void test_disk__evicted__loaded_back(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	disk_fill(f, 10);
	struct kvci_match match = disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	assert_int_equal(match.matched, 10);
	assert_int_equal(match.on_disk, 10);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	assert_int_equal(load.answered, 0);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
	match = disk_match(f, 1, 0, 10, 0, 0);
	assert_int_equal(match.in_memory, 10);
}

static void test_disk__two_clients_wait__one_read(void **state)
{
	struct fixture *f = *state;
	struct world_load a, b;

	disk_fill(f, 10);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	disk_match(f, 2, 0, 10, KVCI_MATCH_LEASE, 1);
	assert_int_equal(world_load(&f->world, &a, 1, 1, 0, 10), KVC_OK);
	assert_int_equal(world_load(&f->world, &b, 2, 1, 0, 10), KVC_OK);
	uint64_t reads = world_stat(&f->world, KVCI_STAT_DISK_READ_BLOCKS);
	world_run(&f->world);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_READ_BLOCKS) - reads, 10);
	disk_check_loaded(f, &a, 10);
	disk_check_loaded(f, &b, 10);
	assert_int_equal(a.extents[3].offset_bytes, b.extents[3].offset_bytes);
}

static void test_disk__load_canceled_or_lease_released__no_more_answers(void **state)
{
	struct fixture *f = *state;
	struct world_load a, b;
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	disk_fill(f, 10);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	disk_match(f, 2, 0, 10, KVCI_MATCH_LEASE, 1);
	assert_int_equal(world_load(&f->world, &a, 1, 1, 0, 10), KVC_OK);
	assert_int_equal(world_load(&f->world, &b, 2, 1, 0, 10), KVC_OK);
	kvci_cache_load_cancel(f->world.cache, &a.load);
	kvci_cache_load_cancel(f->world.cache, &a.load);
	world_request_id(1, id);
	kvci_cache_release(f->world.cache, 2, id);
	assert_int_equal(b.answered, 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(b.statuses[i], KVC_CANCELED);
	world_run(&f->world);
	assert_int_equal(a.answered, 0);
	assert_int_equal(disk_totals(f).loads_under_way, 0);
}

static void test_disk__nobody_wants_it_any_more__not_read(void **state)
{
	struct fixture *f = *state;
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	disk_fill(f, 10);
	uint64_t submits = ram_tier_submits(f->world.disk);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1); /* four are given to the disk at a time */
	world_request_id(1, id);
	kvci_cache_release(f->world.cache, 1, id);
	world_run(&f->world);
	assert_int_equal(ram_tier_submits(f->world.disk) - submits, 4);
}

/* Each read has its deadline from when the device gets it: large ones are not given all at once. */
static void test_disk__large_blocks__few_bytes_under_way(void **state)
{
	struct fixture *f = *state;
	struct world_load load;
	uint64_t submits, record_bytes;

	disk_fill(f, 10);
	record_bytes = kvci_binding_get(f->world.cache, f->binding)->record_bytes;
	f->world.cache->config.read_active_bytes_max = 4 * record_bytes - 1; /* one less than the depth */
	submits = ram_tier_submits(f->world.disk);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	assert_int_equal(ram_tier_submits(f->world.disk) - submits, 3);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
	world_check(&f->world);
}

static void test_disk__blocks_larger_than_may_be_under_way__two_at_a_time(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	disk_fill(f, 10);
	f->world.cache->config.read_active_bytes_max = 1;
	uint64_t submits = ram_tier_submits(f->world.disk);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	assert_int_equal(ram_tier_submits(f->world.disk) - submits, 2);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
}

/* A read that hangs: its waiters get TIMED_OUT, the disk is left alone, its extent stays its own, and a probe in the background ends
 * the pause. */
static void test_disk__read_hangs__deadline_circuit_probe(void **state)
{
	struct fixture *f = *state;
	struct world_load load, other;
	struct ram_tier_faults *faults = ram_tier_faults(f->world.disk);

	disk_fill(f, 10);
	faults->hang_reads = true;
	disk_match(f, 1, 0, 1, KVCI_MATCH_LEASE, 1);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 1), KVC_OK);
	uint64_t used_bytes = disk_totals(f).memory_used_bytes;
	world_advance(&f->world, f->world.config.read_deadline_ns - KVCI_MS);
	assert_int_equal(load.answered, 0);
	world_advance(&f->world, 2 * KVCI_MS);
	assert_int_equal(load.statuses[0], KVC_TIMED_OUT);
	assert_int_equal(disk_totals(f).disk_health, KVC_TIMED_OUT);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_READ_TIMEOUTS), 1);
	world_check(&f->world);

	struct kvci_match match = disk_match(f, 2, 0, 10, KVCI_MATCH_LEASE, 9);
	assert_int_equal(match.matched, 0);
	assert_int_equal(match.end, KVCI_MISS_DISK_CIRCUIT);
	assert_int_equal(world_load(&f->world, &other, 1, 1, 0, 1), KVC_OK);
	assert_int_equal(other.statuses[0], KVC_CIRCUIT_OPEN);
	assert_true(disk_totals(f).memory_used_bytes >= used_bytes); /* the device may still write there */

	uint64_t submits = ram_tier_submits(f->world.disk);
	world_advance(&f->world, f->world.config.circuit_open_ns);
	assert_int_equal(ram_tier_submits(f->world.disk) - submits, 1); /* one probe, and it hangs too */
	kvci_cache_load_cancel(f->world.cache, &other.load);
	for (uint32_t request = 20; request < 30; request++) { /* nobody is made to wait for it */
		assert_int_equal(world_match(&f->world, 2, f->binding, request - 20, 1, KVCI_MATCH_LEASE, request, &match), KVC_OK);
		assert_int_equal(match.matched, 0);
	}
	world_advance(&f->world, f->world.config.read_deadline_ns);
	assert_int_equal(disk_match(f, 2, 0, 10, 0, 0).end, KVCI_MISS_DISK_CIRCUIT);
	world_advance(&f->world, f->world.config.circuit_open_ns); /* the pause has doubled */
	assert_int_equal(ram_tier_submits(f->world.disk) - submits, 1);

	faults->hang_reads = false; /* late ones complete now: in memory, but that ends no pause */
	world_run(&f->world);
	assert_int_equal(disk_match(f, 2, 5, 5, 0, 0).end, KVCI_MISS_DISK_CIRCUIT);
	assert_true(disk_match(f, 2, 0, 10, 0, 0).matched >= 1);
	world_advance(&f->world, 2 * f->world.config.circuit_open_ns);
	match = disk_match(f, 2, 0, 10, KVCI_MATCH_LEASE, 9);
	assert_int_equal(match.matched, 10);
	assert_int_equal(disk_totals(f).disk_health, KVC_OK);
	assert_int_equal(world_load(&f->world, &load, 2, 9, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
}

static void test_disk__io_error__circuit__twice_on_one_place__damaged(void **state)
{
	struct fixture *f = *state;
	struct world_load load;
	struct ram_tier_faults *faults = ram_tier_faults(f->world.disk);

	disk_fill(f, 3);
	for (int round = 0; round < 2; round++) {
		disk_match(f, 1, 0, 1, KVCI_MATCH_LEASE, 10 + round);
		faults->read_fail_percent = 100;
		assert_int_equal(world_load(&f->world, &load, 1, 10 + round, 0, 1), KVC_OK);
		world_run(&f->world);
		assert_int_equal(load.statuses[0], KVC_IO);
		assert_int_equal(disk_match(f, 1, 1, 1, 0, 0).end, KVCI_MISS_DISK_CIRCUIT);
		faults->read_fail_percent = 0;
		uint8_t id[KVCI_REQUEST_ID_BYTES];
		world_request_id(10 + round, id);
		kvci_cache_release(f->world.cache, 1, id);
		world_advance(&f->world, 2 * KVCI_SECOND);
		if (round == 0 && disk_match(f, 1, 0, 1, 0, 0).in_memory == 1)
			return; /* the probe happened to choose it: it was the device then */
	}
	assert_int_equal(disk_match(f, 1, 0, 1, 0, 0).end, KVCI_MISS_DAMAGED);
	assert_int_equal(disk_match(f, 1, 1, 2, 0, 0).matched, 2);
}

static void test_disk__bits_flipped__damaged_and_only_that(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	disk_fill(f, 10);
	disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1);
	ram_tier_faults(f->world.disk)->read_flip_percent = 40;
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	assert_int_equal(load.answered, 10);
	unsigned damaged = 0;
	for (unsigned i = 0; i < 10; i++) {
		assert_true(load.statuses[i] == KVC_OK || load.statuses[i] == KVC_CORRUPT);
		damaged += load.statuses[i] == KVC_CORRUPT;
	}
	assert_true(damaged > 0 && damaged < 10);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGED_BLOCKS), damaged);
	uint8_t exists[10];
	struct kvci_match match = { .exists = exists };
	assert_int_equal(world_match(&f->world, 2, f->binding, 0, 10, KVCI_MATCH_EXISTS, 0, &match), KVC_OK);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(exists[i], load.statuses[i] == KVC_OK);
	assert_int_equal(match.end, KVCI_MISS_DAMAGED);
	assert_int_equal(disk_totals(f).disk_health, KVC_OK); /* wrong bytes are no slow disk */
}

static void test_disk__segment_lost__places_are_stale_at_once(void **state)
{
	struct fixture *f = *state;

	disk_fill(f, 10);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).on_disk, 10);
	for (uint64_t key = 0; key < 600; key++) { /* the disk holds 8 MiB: it laps */
		assert_int_equal(world_store(&f->world, 2, f->big, 10000 + key, key), KVC_OK);
		kvci_tier_poll(f->world.disk, 64); /* no tick: no sweep */
	}
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).end, KVCI_MISS_EVICTED);
	assert_true(world_stat(&f->world, KVCI_STAT_DISK_RECLAIMED_BLOCKS) > 0);
	world_run(&f->world);
	world_check(&f->world);
}

static void test_disk__kept_and_moved__still_hits(void **state)
{
	struct fixture *f = *state;
	struct world_load load;
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	disk_fill(f, 3);
	ram_tier_faults(f->world.disk)->keep_all = true;
	for (uint64_t key = 0; key < 800; key++) {
		if (key % 100 == 0)
			disk_match(f, 1, 0, 3, 0, 0); /* in use */
		assert_int_equal(world_store(&f->world, 2, f->big, 10000 + key, key), KVC_OK);
		world_run(&f->world);
	}
	assert_int_equal(disk_match(f, 1, 0, 3, KVCI_MATCH_LEASE, 1).on_disk, 3);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 3), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 3);
	world_request_id(1, id);
	kvci_cache_release(f->world.cache, 1, id);
}

static void disk_reopen(struct fixture *f, uint64_t epoch, bool restore)
{
	struct world_options options = world_defaults();
	struct kvci_space fields;
	char storage[32];

	options.disk = true;
	world_fini(&f->world, &options.tier);
	assert_int_equal(world_init(&f->world, &options), KVC_OK);
	world_space("", 0, &storage, &fields);
	if (restore)
		assert_int_equal(kvci_cache_space_restore(f->world.cache, &fields, epoch), KVC_OK);
}

static void test_disk__restart__all_hit_before_and_after_binding(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	disk_fill(f, 10);
	disk_reopen(f, 1, true);
	ram_tier_index_rate(f->world.disk, 0);
	disk_clients(f);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).end, KVCI_MISS_INDEX_LOADING);
	assert_true(disk_totals(f).index_loading);
	ram_tier_index_rate(f->world.disk, 5);
	world_run(&f->world);
	assert_false(disk_totals(f).index_loading);
	assert_int_equal(disk_match(f, 1, 0, 12, 0, 0).end, KVCI_MISS_NEVER_STORED);
	assert_int_equal(disk_match(f, 1, 0, 12, KVCI_MATCH_LEASE, 1).matched, 10);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_INDEX_SKIPPED_BLOCKS), 0);
}

static void test_disk__restart__index_first_forms_later(void **state)
{
	struct fixture *f = *state;

	disk_fill(f, 10);
	disk_reopen(f, 1, true);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_blocks, 70);
	disk_clients(f);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).on_disk, 10);
}

static void test_disk__restart_with_old_epoch_or_no_ledger__nothing(void **state)
{
	struct fixture *f = *state;

	disk_fill(f, 10);
	disk_reopen(f, 2, true);
	world_run(&f->world);
	disk_clients(f);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).matched, 0);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_INDEX_SKIPPED_BLOCKS), 70);
	disk_reopen(f, 0, false);
	world_run(&f->world);
	disk_clients(f);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).matched, 0);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_INDEX_SKIPPED_BLOCKS), 70);
}

static void disk_flushed(struct kvci_flush_wait *wait, kvc_status_t status)
{
	*(kvc_status_t *)wait->context = status;
}

static void test_disk__flush__waits_for_all_before(void **state)
{
	struct fixture *f = *state;
	kvc_status_t status = KVC_PENDING;
	struct kvci_flush_wait wait = { .done = disk_flushed, .context = &status };

	ram_tier_faults(f->world.disk)->hang_writes = true;
	for (uint64_t key = 0; key < 10; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	assert_int_equal(kvci_cache_flush(f->world.cache, &wait), KVC_OK);
	world_advance(&f->world, KVCI_SECOND);
	assert_int_equal(status, KVC_PENDING);
	kvci_cache_flush_cancel(f->world.cache, &wait);
	assert_int_equal(kvci_cache_flush(f->world.cache, &wait), KVC_OK);
	ram_tier_faults(f->world.disk)->hang_writes = false;
	world_run(&f->world);
	assert_int_equal(status, KVC_OK);
	assert_int_equal(disk_totals(f).disk_blocks, 10);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_FLUSHES), 1);
	disk_reopen(f, 1, true);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_blocks, 10);
	disk_clients(f);
}

static void disk_count_alone(void *context, const struct kvci_block_info *info)
{
	*(unsigned *)context += info->in_memory && !info->on_disk;
}

/* Blocks that are in memory alone. */
static unsigned disk_memory_alone(struct fixture *f)
{
	unsigned count = 0;
	uint64_t cursor = 0;

	do {
		kvci_cache_walk(f->world.cache, &cursor, 7, disk_count_alone, &count);
	} while (cursor != 0);
	return count;
}

static void test_disk__write_queue_full__dropped_and_counted(void **state)
{
	struct fixture *f = *state;

	ram_tier_faults(f->world.disk)->hang_writes = true;
	for (uint64_t key = 0; key < 80; key++) /* the queue has room for 64 */
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_WRITE_DROPPED), 16);
	assert_int_equal(disk_totals(f).write_queue_bytes, 64 * 4096);
	for (uint64_t key = 0; key < 60; key++) /* a queued one may be evicted, one under write not */
		assert_int_equal(world_store(&f->world, 1, f->big, 5000 + key, key), KVC_OK);
	world_check(&f->world);
	assert_true(world_stat(&f->world, KVCI_STAT_DISK_WRITE_DROPPED) > 16 + 60);
	assert_int_equal(disk_match(f, 1, 0, 80, 0, 0).matched, 4); /* pinned by the device */
	ram_tier_faults(f->world.disk)->hang_writes = false;
	world_run(&f->world);
	unsigned before = disk_memory_alone(f);
	assert_true(before > 0);
	for (uint64_t key = 0; key < 60; key++) { /* in use: another chance to be written */
		struct kvci_match match = { 0 };
		assert_int_equal(world_match(&f->world, 1, f->big, 5000 + key, 1, 0, 0, &match), KVC_OK);
		world_run(&f->world);
	}
	assert_int_equal(disk_memory_alone(f), 0);
}

static void test_disk__full__writes_pause_reads_go_on(void **state)
{
	struct fixture *f = *state;
	struct ram_tier_faults *faults = ram_tier_faults(f->world.disk);
	struct world_load load;
	kvc_status_t flushed = KVC_PENDING;
	struct kvci_flush_wait wait = { .done = disk_flushed, .context = &flushed };

	disk_fill(f, 10);
	faults->write_fail_percent = 100;
	faults->write_failure = KVC_DISK_FULL;
	assert_int_equal(world_store(&f->world, 3, f->binding, 50, 1), KVC_OK);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_health, KVC_DISK_FULL);
	uint64_t submits = ram_tier_submits(f->world.disk);
	for (uint64_t key = 51; key < 60; key++)
		assert_int_equal(world_store(&f->world, 3, f->binding, key, 1), KVC_OK);
	world_run(&f->world);
	assert_int_equal(ram_tier_submits(f->world.disk), submits);
	assert_int_equal(kvci_cache_flush(f->world.cache, &wait), KVC_OK);
	assert_int_equal(flushed, KVC_CIRCUIT_OPEN);
	assert_int_equal(disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1).on_disk, 10);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
	world_advance(&f->world, f->world.config.circuit_open_ns);
	assert_int_equal(world_store(&f->world, 3, f->binding, 60, 1), KVC_OK); /* the next write is the probe */
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_health, KVC_DISK_FULL);
	faults->write_fail_percent = 0;
	world_advance(&f->world, 2 * f->world.config.circuit_open_ns);
	assert_int_equal(world_store(&f->world, 3, f->binding, 61, 1), KVC_OK);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_health, KVC_OK);
}

/* A file system that turned read-only reads as well as a full one; a device with errors is left alone. */
static void test_disk__says_how_it_is__reads_go_on_unless_it_fails(void **state)
{
	static const kvc_status_t said[] = { KVC_DISK_FULL, KVC_DENIED, KVC_IO };
	struct fixture *f = *state;

	disk_fill(f, 10);
	for (uint32_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
		uint32_t hits = said[i] == KVC_IO ? 0 : 10;

		ram_tier_say_health(f->world.disk, said[i]);
		assert_int_equal(disk_totals(f).disk_health, said[i]);
		assert_int_equal(disk_match(f, 1, 0, 10, 0, 1).matched, hits);
		ram_tier_say_health(f->world.disk, KVC_OK);
	}
}

static void test_disk__owner_rewrites_header__not_written(void **state)
{
	struct fixture *f = *state;
	struct kvci_block_info info;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t cursor = 0;
	uint32_t count;

	ram_tier_faults(f->world.disk)->hang_writes = true;
	for (uint64_t key = 0; key < 6; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	world_hash(5, hash); /* the sixth waits behind four that hang */
	assert_int_equal(kvci_cache_find(f->world.cache, hash, 64, &cursor, 1, &info, 1, &count), KVC_OK);
	memset(world_extent(&f->world, &info.extent), 0xff, 300); /* with a section count of four thousand millions */
	world_hash(4, hash);
	assert_int_equal(kvci_cache_find(f->world.cache, hash, 64, &cursor, 1, &info, 1, &count), KVC_OK);
	world_extent(&f->world, &info.extent)[100] ^= 1; /* another parent */
	ram_tier_faults(f->world.disk)->hang_writes = false;
	world_run(&f->world);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_WRITE_BLOCKS), 4);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGED_BLOCKS), 2);
	assert_int_equal(disk_match(f, 1, 5, 1, 0, 0).end, KVCI_MISS_DAMAGED);
	assert_int_equal(disk_match(f, 1, 4, 1, 0, 0).end, KVCI_MISS_DAMAGED);
}

static void test_disk__on_evict__written_before_it_leaves(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	for (uint64_t key = 0; key < 10; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	world_run(&f->world);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_WRITE_BLOCKS), 0);
	for (uint64_t key = 0; key < 60; key++) {
		assert_int_equal(world_store(&f->world, 1, f->big, 5000 + key, key), KVC_OK);
		world_run(&f->world);
	}
	assert_int_equal(disk_match(f, 1, 0, 10, KVCI_MATCH_LEASE, 1).on_disk, 10);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_WRITE_DROPPED), 0);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 10), KVC_OK);
	world_run(&f->world);
	disk_check_loaded(f, &load, 10);
}

static void test_disk__on_evict__flush_writes_all(void **state)
{
	struct fixture *f = *state;
	kvc_status_t status = KVC_PENDING;
	struct kvci_flush_wait wait = { .done = disk_flushed, .context = &status };

	for (uint64_t key = 0; key < 100; key++) /* more than the write queue holds */
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	assert_int_equal(kvci_cache_flush(f->world.cache, &wait), KVC_OK);
	world_run(&f->world);
	assert_int_equal(status, KVC_OK);
	assert_int_equal(disk_totals(f).disk_blocks, 100);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DISK_WRITE_DROPPED), 0);
}

static void test_disk__after_hits__written_at_the_nth(void **state)
{
	struct fixture *f = *state;

	for (uint64_t key = 0; key < 10; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, 100 + key), KVC_OK);
	disk_match(f, 1, 0, 10, 0, 0);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_blocks, 0);
	disk_match(f, 1, 0, 5, 0, 0);
	world_run(&f->world);
	assert_int_equal(disk_totals(f).disk_blocks, 5);
}

static void test_disk__dropped__gone_for_ever(void **state)
{
	struct fixture *f = *state;
	uint8_t hash[KVCI_HASH_BYTES];

	disk_fill(f, 10);
	world_hash(4, hash);
	assert_int_equal(kvci_cache_drop(f->world.cache, 0, 0, hash), KVC_OK);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).end, KVCI_MISS_DROPPED);
	disk_reopen(f, 1, true);
	ram_tier_index_rate(f->world.disk, 0);
	assert_int_equal(kvci_cache_drop(f->world.cache, 0, 0, hash), KVC_LOADING);
	ram_tier_index_rate(f->world.disk, 64);
	world_run(&f->world);
	disk_clients(f);
	assert_int_equal(disk_match(f, 1, 0, 10, 0, 0).matched, 4);
}

static void test_disk__no_memory_for_the_load__no_space_and_no_circuit(void **state)
{
	struct fixture *f = *state;
	struct world_load load;

	disk_fill(f, 3);
	f->world.slab_failure = KVC_NO_MEMORY;
	disk_match(f, 1, 0, 3, KVCI_MATCH_LEASE, 1);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 3), KVC_OK);
	for (unsigned i = 0; i < 30; i++)
		world_advance(&f->world, 100 * KVCI_MS);
	assert_int_equal(load.statuses[0], KVC_NO_SPACE);
	assert_int_equal(disk_totals(f).disk_health, KVC_OK);
	world_check(&f->world);
	f->world.slab_failure = KVC_OK;
	world_advance(&f->world, 2 * KVCI_SECOND);
	assert_int_equal(world_load(&f->world, &load, 1, 1, 0, 3), KVC_OK);
	world_advance(&f->world, KVCI_SECOND);
	disk_check_loaded(f, &load, 3);
}

/* What the disk says of a place that is not the block's (any more) changes nothing. */
static void test_disk__told_of_another_place__block_stays(void **state)
{
	struct fixture *f = *state;
	const struct kvc_tier_events *events = &f->world.cache->disk.events;
	struct kvci_block_info before, after;
	struct kvc_tier_entry entry;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t cursor = 0;
	uint32_t count;

	disk_fill(f, 3);
	world_hash(1, hash);
	assert_int_equal(kvci_cache_find(f->world.cache, hash, 64, &cursor, 1, &before, 1, &count), KVC_OK);
	kvci_read_entry(f->world.cache, kvci_block_at(f->world.cache, kvci_index_find(f->world.cache->index, f->binding, hash)), &entry);
	struct kvc_place other = before.place;
	other.offset_4k += 1;
	entry.place.offset_4k += 7;
	events->moved(f->world.cache, &entry, &other);
	assert_false(events->keep(f->world.cache, &entry));
	entry.place = before.place;
	entry.place.offset_4k--; /* an older record of the same key, found late */
	events->index(f->world.cache, &entry, 1, true);
	events->lost(f->world.cache, before.place.segment, before.place.generation - 1);
	events->lost(f->world.cache, UINT32_MAX, UINT32_MAX);
	entry.place = (struct kvc_place){ .segment = UINT32_MAX, .generation = 5, .length_4k = 1 };
	entry.hash[0] ^= 1;
	events->index(f->world.cache, &entry, 1, true);
	assert_int_equal(kvci_cache_find(f->world.cache, hash, 64, &cursor, 1, &after, 1, &count), KVC_OK);
	assert_int_equal(count, 1);
	assert_memory_equal(&after.place, &before.place, sizeof(after.place));
	events->lost(f->world.cache, before.place.segment, before.place.generation);
	assert_int_equal(disk_match(f, 1, 1, 1, 0, 0).end, KVCI_MISS_EVICTED);
}

static void test_disk__verify_found_it_damaged__place_goes_memory_stays(void **state)
{
	struct fixture *f = *state;
	struct kvci_block_info info;
	enum kvci_miss miss;
	uint8_t hash[KVCI_HASH_BYTES];

	for (uint64_t key = 0; key < 2; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, key), KVC_OK);
	world_run(&f->world);
	world_hash(0, hash);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->binding, hash, &miss, &info), KVC_OK);
	assert_int_equal(miss, KVCI_MISS_NONE);
	assert_true(info.in_memory && info.on_disk);
	kvci_cache_disk_damaged(f->world.cache, f->binding, hash, &info.place);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->binding, hash, &miss, &info), KVC_OK);
	assert_true(info.in_memory && !info.on_disk);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGED_BLOCKS), 1);
	world_check(&f->world);
	disk_fill(f, 0);
	world_hash(1, hash);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->binding, hash, &miss, &info), KVC_OK);
	assert_true(!info.in_memory && info.on_disk);
	kvci_cache_disk_damaged(f->world.cache, f->binding, hash, &info.place);
	kvci_cache_disk_damaged(f->world.cache, f->binding, hash, &info.place);
	assert_int_equal(kvci_cache_explain(f->world.cache, f->binding, hash, &miss, &info), KVC_OK);
	assert_int_equal(miss, KVCI_MISS_DAMAGED);
	assert_int_equal(kvci_cache_explain(f->world.cache, 99, hash, &miss, &info), KVC_NOT_FOUND);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGED_BLOCKS), 2);
}

int main(void)
{
#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, disk_setup, disk_teardown)
	const struct CMUnitTest tests[] = {
		DISK_TEST(test_disk__evicted__loaded_back),
		DISK_TEST(test_disk__two_clients_wait__one_read),
		DISK_TEST(test_disk__load_canceled_or_lease_released__no_more_answers),
		DISK_TEST(test_disk__nobody_wants_it_any_more__not_read),
		DISK_TEST(test_disk__large_blocks__few_bytes_under_way),
		DISK_TEST(test_disk__blocks_larger_than_may_be_under_way__two_at_a_time),
		DISK_TEST(test_disk__read_hangs__deadline_circuit_probe),
		DISK_TEST(test_disk__io_error__circuit__twice_on_one_place__damaged),
		DISK_TEST(test_disk__bits_flipped__damaged_and_only_that),
		DISK_TEST(test_disk__segment_lost__places_are_stale_at_once),
		DISK_TEST(test_disk__kept_and_moved__still_hits),
		DISK_TEST(test_disk__restart__all_hit_before_and_after_binding),
		DISK_TEST(test_disk__restart__index_first_forms_later),
		DISK_TEST(test_disk__restart_with_old_epoch_or_no_ledger__nothing),
		DISK_TEST(test_disk__flush__waits_for_all_before),
		DISK_TEST(test_disk__write_queue_full__dropped_and_counted),
		DISK_TEST(test_disk__full__writes_pause_reads_go_on),
		DISK_TEST(test_disk__says_how_it_is__reads_go_on_unless_it_fails),
		DISK_TEST(test_disk__owner_rewrites_header__not_written),
		cmocka_unit_test_setup_teardown(test_disk__on_evict__written_before_it_leaves, disk_setup_on_evict, disk_teardown),
		cmocka_unit_test_setup_teardown(test_disk__on_evict__flush_writes_all, disk_setup_on_evict, disk_teardown),
		cmocka_unit_test_setup_teardown(test_disk__after_hits__written_at_the_nth, disk_setup_after_hits, disk_teardown),
		DISK_TEST(test_disk__dropped__gone_for_ever),
		DISK_TEST(test_disk__told_of_another_place__block_stays),
		DISK_TEST(test_disk__verify_found_it_damaged__place_goes_memory_stays),
		DISK_TEST(test_disk__no_memory_for_the_load__no_space_and_no_circuit),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	return cmocka_run_group_tests_name("cache/disk", tests, NULL, NULL);
}
