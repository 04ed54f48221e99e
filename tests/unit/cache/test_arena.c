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
	uint32_t binding, big;
};

static int arena_setup(void **state)
{
	static struct fixture fixture;
	struct world_options options = world_defaults();
	struct fixture *f = &fixture;

	assert_int_equal(world_init(&f->world, &options), KVC_OK);
	for (uint32_t client = 1; client <= 3; client++)
		assert_int_equal(kvci_cache_client_open(f->world.cache, client, ""), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 0, 0, &f->binding), KVC_OK);
	assert_int_equal(world_bind(&f->world, 1, "", 0, 1, &f->big), KVC_OK);
	*state = f;
	return 0;
}

static int arena_teardown(void **state)
{
	struct fixture *f = *state;

	world_run(&f->world);
	world_check(&f->world);
	world_fini(&f->world, NULL);
	return 0;
}

static uint32_t arena_matched(struct fixture *f, uint32_t binding, uint64_t first, uint32_t count)
{
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&f->world, 1, binding, first, count, KVCI_MATCH_EXISTS, 0, &match), KVC_OK);
	return match.matched;
}

static uint64_t arena_slab_bytes(const struct fixture *f, uint32_t client)
{
	struct kvci_client_info info;

	assert_int_equal(kvci_cache_client_info(f->world.cache, client, &info), KVC_OK);
	return info.slab_bytes;
}

static void test_arena__first_reserve__slab_to_map_first(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve blocks[3];
	uint32_t slab = 0, again = 0;

	memset(blocks, 0, sizeof(blocks));
	for (unsigned i = 0; i < 3; i++) {
		world_hash(i, blocks[i].hash);
		blocks[i].token_count = 16;
	}
	assert_int_equal(kvci_cache_reserve(f->world.cache, 1, f->binding, blocks, 3, &slab), KVC_PENDING);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(blocks[i].status, KVC_PENDING);
	assert_int_equal(kvci_cache_reserve(f->world.cache, 1, f->binding, blocks, 3, &again), KVC_PENDING);
	assert_int_equal(slab, again);
	assert_int_equal(f->world.slab_count, 1);
	assert_int_equal(f->world.slabs[0].owner, 1);
	assert_false(kvci_cache_slab_visible(f->world.cache, 1, slab)); /* not sealed yet */
	kvci_cache_slab_ready(f->world.cache, 2, slab);                 /* another's word */
	assert_int_equal(kvci_cache_reserve(f->world.cache, 1, f->binding, blocks, 3, &again), KVC_PENDING);
	kvci_cache_slab_ready(f->world.cache, 1, slab + 1);
	kvci_cache_slab_ready(f->world.cache, 1, slab);
	assert_true(kvci_cache_slab_visible(f->world.cache, 2, slab));
	assert_false(kvci_cache_slab_visible(f->world.cache, 2, slab + 1));
	assert_int_equal(kvci_cache_reserve(f->world.cache, 1, f->binding, blocks, 3, &again), KVC_OK);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(blocks[i].status, KVC_OK);
		assert_int_equal(blocks[i].extent.slab, slab);
	}
}

static void test_arena__reserve__status_of_each(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve blocks[60];
	uint32_t slab;

	assert_int_equal(world_store(&f->world, 1, f->big, 1, 1), KVC_OK);
	memset(blocks, 0, sizeof(blocks));
	for (unsigned i = 0; i < 60; i++) {
		world_hash(i, blocks[i].hash);
		blocks[i].token_count = i == 2 ? 17 : 16;
	}
	kvc_status_t status;
	while ((status = kvci_cache_reserve(f->world.cache, 1, f->big, blocks, 60, &slab)) == KVC_PENDING)
		kvci_cache_slab_ready(f->world.cache, 1, slab);
	assert_int_equal(status, KVC_OK);
	assert_int_equal(blocks[1].status, KVC_EXISTS);
	assert_int_equal(blocks[2].status, KVC_INVALID);
	assert_int_equal(blocks[59].status, KVC_OVER_CAP);
	assert_int_equal(kvci_cache_reserve(f->world.cache, 9, f->big, blocks, 1, &slab), KVC_NOT_FOUND);
	assert_int_equal(kvci_cache_reserve(f->world.cache, 1, 9, blocks, 1, &slab), KVC_NOT_FOUND);
}

static void test_arena__full__coldest_goes_first(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };

	for (uint64_t key = 0; key < 48; key++) /* 6 in a slab, 8 slabs */
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(world_match(&f->world, 1, f->big, 0, 6, 0, 0, &match), KVC_OK);
	for (uint64_t key = 100; key < 110; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(arena_matched(f, f->big, 0, 6), 6);
	assert_int_equal(arena_matched(f, f->big, 6, 10), 0);
	assert_int_equal(arena_matched(f, f->big, 16, 32), 32);
	/* the used chain leaves from its end */
	for (uint64_t key = 110; key < 110 + 32 + 3; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(arena_matched(f, f->big, 0, 6), 3);
	assert_int_equal(arena_matched(f, f->big, 0, 3), 3);
}

static void test_arena__small_blocks_make_room_for_big_ones(void **state)
{
	struct fixture *f = *state;

	for (uint64_t key = 0; key < 256; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, key), KVC_OK);
	assert_int_equal(arena_matched(f, f->binding, 0, 256), 256);
	for (uint64_t key = 0; key < 10; key++) {
		f->world.now_ns += KVCI_SECOND;
		assert_int_equal(world_store(&f->world, 1, f->big, 1000 + key, key), KVC_OK);
	}
	assert_int_equal(arena_matched(f, f->big, 1000, 10), 10);
	assert_true(arena_matched(f, f->binding, 0, 256) >= 256 - 55); /* five small ones a big one */
}

static void test_arena__pinned_all_over__no_space(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct kvci_reserve block;

	for (uint64_t key = 0; key < 256; key++)
		assert_int_equal(world_store(&f->world, 1, f->binding, key, key), KVC_OK);
	for (uint64_t key = 0; key < 64; key++) /* each fourth: no run of five is free */
		assert_int_equal(world_match(&f->world, 1, f->binding, key * 4, 1, KVCI_MATCH_LEASE, key, &match), KVC_OK);
	assert_int_equal(world_reserve(&f->world, 1, f->big, 1000, &block), KVC_NO_SPACE);
	assert_int_equal(arena_matched(f, f->binding, 0, 256), 256); /* and none was evicted in vain */
	assert_int_equal(world_store(&f->world, 1, f->binding, 500, 1), KVC_OK);
}

static void test_arena__second_client__takes_over_its_share(void **state)
{
	struct fixture *f = *state;

	for (uint64_t key = 0; key < 48; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(arena_slab_bytes(f, 1), 1 << 20);
	for (uint64_t key = 100; key < 148; key++) {
		f->world.now_ns += KVCI_MS;
		assert_int_equal(world_store(&f->world, 2, f->big, key, key), KVC_OK);
	}
	assert_int_equal(arena_slab_bytes(f, 1), 512 << 10);
	assert_int_equal(arena_slab_bytes(f, 2), 512 << 10);
	assert_int_equal(arena_matched(f, f->big, 24, 24), 24); /* the slabs used last stayed */
	assert_int_equal(world_stat(&f->world, KVCI_STAT_SLAB_TAKE_OVERS), 4);
	world_check(&f->world);
	for (uint32_t i = 0; i < f->world.slab_count; i++) /* no id twice */
		for (uint32_t j = 0; j < i; j++)
			assert_int_not_equal(f->world.slabs[i].id, f->world.slabs[j].id);
}

static void test_arena__held_slab__not_taken_over(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };

	for (uint64_t key = 0; key < 48; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	f->world.now_ns += KVCI_SECOND;
	assert_int_equal(world_match(&f->world, 1, f->big, 0, 1, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	for (uint64_t key = 100; key < 148; key++) {
		f->world.now_ns += KVCI_SECOND;
		assert_int_equal(world_store(&f->world, 2, f->big, key, key), KVC_OK);
	}
	assert_int_equal(arena_matched(f, f->big, 0, 1), 1);
	assert_int_equal(arena_slab_bytes(f, 2), 512 << 10);
}

static void test_arena__client_dies__its_blocks_stay_for_others(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct kvci_reserve block;
	struct world_load load;

	for (uint64_t key = 0; key < 12; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(world_reserve(&f->world, 1, f->big, 50, &block), KVC_OK);
	kvci_cache_client_gone(f->world.cache, 1);
	world_run(&f->world);
	world_check(&f->world);
	assert_int_equal(world_match(&f->world, 2, f->big, 0, 12, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(match.matched, 12);
	assert_int_equal(world_load(&f->world, &load, 2, 1, 0, 12), KVC_OK);
	assert_true(kvci_cache_slab_visible(f->world.cache, 2, load.extents[0].slab));
	assert_int_equal(world_store(&f->world, 2, f->big, 50, 1), KVC_OK); /* its key is free */
	for (uint64_t key = 100; key < 148; key++) /* and its memory is used for others in the end */
		assert_int_equal(world_store(&f->world, 2, f->big, key, key), KVC_OK);
	struct kvci_cache_totals totals;
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.reserved_bytes, 0);
	assert_true(totals.memory_slab_bytes <= 1 << 20);
}

static void test_arena__no_slab_to_be_had__no_space_then_again(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve block;

	f->world.slab_failure = KVC_NO_MEMORY;
	assert_int_equal(world_reserve(&f->world, 1, f->big, 1, &block), KVC_NO_SPACE);
	f->world.slab_failure = KVC_OK;
	assert_int_equal(world_reserve(&f->world, 1, f->big, 1, &block), KVC_NO_SPACE); /* not tried again at once */
	f->world.now_ns += KVCI_SECOND;
	assert_int_equal(world_reserve(&f->world, 1, f->big, 1, &block), KVC_OK);
}

static void test_arena__slab_never_mapped__taken_over_in_time(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve block;
	uint32_t slab;

	for (uint32_t client = 10; client < 18; client++) { /* eight that take a slab each, and are not heard of again */
		assert_int_equal(kvci_cache_client_open(f->world.cache, client, ""), KVC_OK);
		memset(&block, 0, sizeof(block));
		block.token_count = 16;
		world_hash(client, block.hash);
		assert_int_equal(kvci_cache_reserve(f->world.cache, client, f->binding, &block, 1, &slab), KVC_PENDING);
	}
	assert_int_equal(world_reserve(&f->world, 1, f->binding, 1, &block), KVC_NO_SPACE);
	f->world.now_ns += f->world.config.reserve_deadline_ns;
	assert_int_equal(world_reserve(&f->world, 1, f->binding, 1, &block), KVC_OK);
	kvci_cache_slab_ready(f->world.cache, 10, slab); /* too late, or another's */
	world_check(&f->world);
	assert_int_equal(world_store(&f->world, 10, f->binding, 10, 1), KVC_OK);
}

static void test_bind__block_too_big_or_form_wrong__refused(void **state)
{
	struct fixture *f = *state;
	struct kvci_space fields;
	struct kvc_form form;
	char storage[32];
	uint32_t binding;
	uint64_t epoch;

	world_space("", 0, &storage, &fields);
	world_form(0, &form);
	form.layer_count = 200;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_TOO_BIG);
	form.layer_count = 0;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_INVALID);
	world_form(0, &form);
	form.dtype = KVC_DTYPE_BF16;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_FORM_MISMATCH);
	world_form(0, &form);
	form.group_rule = KVC_GROUP_WINDOW;
	form.window_tokens = 64;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_FORM_MISMATCH);
	form.group = 1;
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_OK);
	assert_int_equal(kvci_cache_bind(f->world.cache, 9, &fields, &form, &binding, &epoch), KVC_NOT_FOUND);
	fields.tenant = (char *)"other";
	assert_int_equal(kvci_cache_bind(f->world.cache, 1, &fields, &form, &binding, &epoch), KVC_DENIED);
	assert_null(kvci_cache_binding_form(f->world.cache, 99));
	assert_non_null(kvci_cache_binding_form(f->world.cache, binding));
}

static void test_quarantine__overdue__memory_stays_key_is_free(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve block, other;
	struct kvci_cache_totals totals;
	uint64_t checksums[WORLD_LAYERS];

	assert_int_equal(world_reserve(&f->world, 1, f->big, 1, &block), KVC_OK);
	world_advance(&f->world, f->world.config.reserve_deadline_ns - 1);
	assert_int_equal(world_reserve(&f->world, 2, f->big, 1, &other), KVC_IN_FLIGHT);
	world_advance(&f->world, 1);
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.quarantined_bytes, block.extent.record_bytes);
	assert_int_equal(totals.reserved_bytes, block.extent.record_bytes);
	assert_int_equal(world_store(&f->world, 2, f->big, 1, 42), KVC_OK);
	for (uint64_t key = 100; key < 160; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	world_fill(&f->world, f->big, block.hash, &block.extent, 7, checksums); /* late, and into its own memory alone */
	world_check(&f->world);
	assert_int_equal(kvci_cache_commit(f->world.cache, 1, block.reservation, checksums, WORLD_LAYERS), KVC_TIMED_OUT);
	assert_int_equal(kvci_cache_commit(f->world.cache, 1, block.reservation, checksums, WORLD_LAYERS), KVC_NOT_FOUND);
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.quarantined_bytes, 0);
	assert_int_equal(totals.reserved_bytes, 0);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_QUARANTINED_BLOCKS), 1);
}

static void test_quarantine__writer_dies__memory_is_free(void **state)
{
	struct fixture *f = *state;
	struct kvci_reserve block;
	struct kvci_cache_totals totals;

	assert_int_equal(world_reserve(&f->world, 1, f->big, 1, &block), KVC_OK);
	world_advance(&f->world, f->world.config.reserve_deadline_ns);
	kvci_cache_client_gone(f->world.cache, 1);
	world_run(&f->world);
	kvci_cache_totals(f->world.cache, &totals);
	assert_int_equal(totals.quarantined_bytes + totals.reserved_bytes + totals.memory_used_bytes, 0);
}

static void test_damage__reported__checked_and_dropped_only_if_so(void **state)
{
	struct fixture *f = *state;
	struct kvci_match match = { 0 };
	struct world_load load;

	assert_int_equal(kvci_cache_client_open(f->world.cache, 9, "other"), KVC_OK);
	for (uint64_t key = 0; key < 4; key++)
		assert_int_equal(world_store(&f->world, 1, f->big, key, key), KVC_OK);
	assert_int_equal(world_match(&f->world, 2, f->big, 0, 4, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&f->world, &load, 2, 1, 0, 4), KVC_OK);
	kvci_cache_report_damage(f->world.cache, 2, &load.extents[1]); /* a lie */
	world_run(&f->world);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGE_REPORTS_FALSE), 1);
	world_extent(&f->world, &load.extents[2])[1000] ^= 4;
	kvci_cache_report_damage(f->world.cache, 9, &load.extents[2]); /* not its business */
	struct kvci_extent stale = load.extents[2];
	stale.generation--;
	kvci_cache_report_damage(f->world.cache, 2, &stale);
	stale = load.extents[2];
	stale.offset_bytes = UINT64_MAX;
	kvci_cache_report_damage(f->world.cache, 2, &stale);
	stale.slab = UINT32_MAX;
	kvci_cache_report_damage(f->world.cache, 2, &stale);
	world_run(&f->world);
	assert_int_equal(arena_matched(f, f->big, 0, 4), 4);
	kvci_cache_report_damage(f->world.cache, 2, &load.extents[2]);
	kvci_cache_report_damage(f->world.cache, 2, &load.extents[2]);
	world_run(&f->world);
	assert_int_equal(arena_matched(f, f->big, 0, 4), 3);
	assert_int_equal(world_stat(&f->world, KVCI_STAT_DAMAGED_BLOCKS), 1);
	assert_int_equal(world_store(&f->world, 1, f->big, 2, 2), KVC_OK);
}

int main(void)
{
#define ARENA_TEST(name) cmocka_unit_test_setup_teardown(name, arena_setup, arena_teardown)
	const struct CMUnitTest tests[] = {
		ARENA_TEST(test_arena__first_reserve__slab_to_map_first),
		ARENA_TEST(test_arena__reserve__status_of_each),
		ARENA_TEST(test_arena__full__coldest_goes_first),
		ARENA_TEST(test_arena__small_blocks_make_room_for_big_ones),
		ARENA_TEST(test_arena__pinned_all_over__no_space),
		ARENA_TEST(test_arena__second_client__takes_over_its_share),
		ARENA_TEST(test_arena__held_slab__not_taken_over),
		ARENA_TEST(test_arena__client_dies__its_blocks_stay_for_others),
		ARENA_TEST(test_arena__no_slab_to_be_had__no_space_then_again),
		ARENA_TEST(test_arena__slab_never_mapped__taken_over_in_time),
		ARENA_TEST(test_bind__block_too_big_or_form_wrong__refused),
		ARENA_TEST(test_quarantine__overdue__memory_stays_key_is_free),
		ARENA_TEST(test_quarantine__writer_dies__memory_is_free),
		ARENA_TEST(test_damage__reported__checked_and_dropped_only_if_so),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	return cmocka_run_group_tests_name("cache/arena", tests, NULL, NULL);
}
