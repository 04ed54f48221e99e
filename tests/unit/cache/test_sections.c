/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads that take the sections of a block while it is being read. The disk stands still at every point until the test says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/cache/ram_tier.h"
#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/copy.h"
#include "base/log.h"

enum { KEYS = 6, OWNER = 1, READER = 2, OTHER = 3 };

struct sections_load {
	struct world_load load; /* first */
	uint32_t calls, sections[KEYS];
	struct kvci_extent extents[KEYS];
};

static struct world world;
static uint32_t binding, space;

static int setup(void **state)
{
	struct world_options options = world_defaults();

	options.disk = true;
	options.segment_4k = 256;
	assert_int_equal(world_init(&world, &options), KVC_OK);
	world_run(&world);
	for (uint32_t client = OWNER; client <= OTHER; client++)
		assert_int_equal(kvci_cache_client_open(world.cache, client, ""), KVC_OK);
	assert_int_equal(world_bind(&world, OWNER, "", 0, 0, &binding), KVC_OK);
	space = kvci_cache_binding_space(world.cache, binding);
	uint32_t big;
	assert_int_equal(world_bind(&world, OWNER, "", 0, 1, &big), KVC_OK);
	for (uint64_t key = 0; key < KEYS; key++)
		assert_int_equal(world_store(&world, OWNER, binding, key, 100 + key), KVC_OK);
	world_run(&world);
	for (uint64_t key = 0; key < 60; key++) { /* out of memory with them */
		assert_int_equal(world_store(&world, OWNER, big, 5000 + key, key), KVC_OK);
		world_run(&world);
	}
	ram_tier_faults(world.disk)->hang_reads = true;
	return 0;
}

static int teardown(void **state)
{
	world_run(&world);
	world_check(&world);
	world_check_misses(&world);
	world_fini(&world, NULL);
	return 0;
}

static void sections_came(struct kvci_load *load, uint32_t index, uint32_t sections, const struct kvci_extent *extent)
{
	struct sections_load *self = (struct sections_load *)(void *)load;

	assert_true(index < KEYS);
	assert_int_equal(self->load.statuses[index], KVC_PENDING); /* never behind the answer */
	assert_true(sections > self->sections[index]);
	self->sections[index] = sections;
	self->extents[index] = *extent;
	self->calls++;
}

static void sections_begin(struct sections_load *self, uint32_t client, uint64_t request)
{
	uint8_t id[KVCI_REQUEST_ID_BYTES];
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&world, client, binding, 0, KEYS, KVCI_MATCH_LEASE, request, &match), KVC_OK);
	assert_int_equal(match.matched, KEYS);
	world_run(&world); /* its reads are under way already when the load comes */
	memset(self, 0, sizeof(*self));
	for (uint32_t i = 0; i < 256; i++)
		self->load.statuses[i] = KVC_PENDING;
	self->load.load = (struct kvci_load){ .client = client, .count = KEYS, .ready = world_load_ready, .sections = sections_came };
	world_request_id(request, id);
	assert_int_equal(kvci_cache_load(world.cache, &self->load.load, id), KVC_OK);
	world_run(&world);
	assert_int_equal(self->load.answered, 0);
}

/* What is at the extent so far: the head that the index names, and sections, of which the others are not there. */
static void sections_check(const struct sections_load *self, uint32_t index, uint32_t sections)
{
	const uint8_t *record = world_extent(&world, &self->extents[index]);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *entries;
	struct kvci_block_id id = { 0 };

	assert_non_null(record);
	assert_int_equal(kvci_record_parse(record, self->extents[index].record_bytes, &header, &entries), KVC_OK);
	assert_int_equal(kvci_record_checksum_leading(header, sections), self->extents[index].record_checksum);
	memcpy(id.space, header->space, sizeof(id.space));
	memcpy(id.hash, header->hash, sizeof(id.hash));
	for (uint32_t i = 0; i < header->section_count; i++)
		assert_int_equal(kvci_checksum(record + entries[i].offset_64 * 64, entries[i].stored_bytes,
		                               kvci_section_seed(kvci_block_seed(&id), i)) == entries[i].raw_checksum,
		                 i < sections);
}

static void sections_let_go(void)
{
	ram_tier_faults(world.disk)->hang_reads = false;
	world_run(&world);
}

static void test_sections__given_as_they_come__then_the_whole(void **state)
{
	struct sections_load load;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	sections_begin(&load, READER, 1);
	uint32_t told = ram_tier_progress(world.disk, 1);
	assert_true(told > 0);
	assert_int_equal(load.calls, told);
	for (uint32_t i = 0; i < KEYS; i++)
		if (load.sections[i] != 0)
			sections_check(&load, i, 1);
	world_check(&world);
	sections_let_go();
	assert_int_equal(load.load.answered, KEYS);
	for (uint32_t i = 0; i < KEYS; i++) {
		assert_int_equal(load.load.statuses[i], KVC_OK);
		world_hash(i, hash);
		assert_int_equal(world_read(&world, &load.load.extents[i], hash, &tag), KVC_OK);
		assert_int_equal(tag, 100 + i);
		if (load.sections[i] != 0)
			assert_true(load.extents[i].slab == load.load.extents[i].slab && load.extents[i].generation == load.load.extents[i].generation &&
			            load.extents[i].offset_bytes == load.load.extents[i].offset_bytes &&
			            load.extents[i].record_bytes == load.load.extents[i].record_bytes);
	}
}

static void test_sections__not_asked_for__not_given(void **state)
{
	struct world_load plain;
	struct kvci_match match = { 0 };

	assert_int_equal(world_match(&world, READER, binding, 0, KEYS, KVCI_MATCH_LEASE, 1, &match), KVC_OK);
	assert_int_equal(world_load(&world, &plain, READER, 1, 0, KEYS), KVC_OK);
	world_run(&world);
	assert_int_equal(ram_tier_progress(world.disk, 1), 0);
	sections_let_go();
	assert_int_equal(plain.answered, KEYS);
}

static void test_sections__second_load_joins__given_what_is_there(void **state)
{
	struct sections_load first, second;

	sections_begin(&first, READER, 1);
	uint32_t told = ram_tier_progress(world.disk, 1);
	sections_begin(&second, OTHER, 2);
	assert_int_equal(second.calls, told);
	sections_let_go();
	assert_int_equal(first.load.answered, KEYS);
	assert_int_equal(second.load.answered, KEYS);
}

static void test_sections__late_damage__load_hears_of_it(void **state)
{
	struct sections_load load;
	uint32_t damaged = 0;

	sections_begin(&load, READER, 1);
	assert_true(ram_tier_progress(world.disk, 1) > 0);
	ram_tier_faults(world.disk)->read_flip_percent = 100;
	sections_let_go();
	assert_int_equal(load.load.answered, KEYS);
	for (uint32_t i = 0; i < KEYS; i++)
		damaged += load.load.statuses[i] == KVC_CORRUPT;
	assert_int_equal(damaged, KEYS);
}

static void test_sections__client_dies_or_cancels_in_between__told_no_more(void **state)
{
	struct sections_load dead, canceled, released;
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	sections_begin(&released, OWNER, 1);
	sections_begin(&canceled, OTHER, 2);
	sections_begin(&dead, READER, 3);
	assert_true(ram_tier_progress(world.disk, 1) > 0);
	uint32_t calls = dead.calls + canceled.calls + released.calls;
	kvci_cache_client_gone(world.cache, READER);
	kvci_cache_load_cancel(world.cache, &canceled.load.load);
	world_request_id(1, id);
	kvci_cache_release(world.cache, OWNER, id);
	assert_int_equal(released.load.answered, KEYS);
	assert_int_equal(released.load.statuses[0], KVC_CANCELED);
	world_check(&world);
	assert_true(ram_tier_progress(world.disk, 2) > 0); /* the reads go on: the memory is the device's */
	assert_int_equal(dead.calls + canceled.calls + released.calls, calls);
	sections_let_go();
	assert_int_equal(dead.load.answered + canceled.load.answered, 0);
}

static void test_sections__dropped_or_late__no_more_is_given(void **state)
{
	struct sections_load load;
	uint8_t hash[KVCI_HASH_BYTES];

	sections_begin(&load, READER, 1);
	assert_true(ram_tier_progress(world.disk, 1) > 0);
	uint32_t calls = load.calls;
	world_hash(0, hash);
	assert_int_equal(kvci_cache_drop(world.cache, space, 0, hash), KVC_OK);
	assert_true(ram_tier_progress(world.disk, 2) > 0);
	assert_true(load.sections[0] < 2);
	assert_true(load.calls > calls);
	calls = load.calls;
	world_advance(&world, 3 * KVCI_SECOND); /* past the deadline: all waiters are told */
	assert_int_equal(load.load.answered, KEYS);
	assert_int_equal(load.load.statuses[1], KVC_TIMED_OUT);
	ram_tier_progress(world.disk, 1);
	assert_int_equal(load.calls, calls);
	sections_let_go();
}

int main(void)
{
#define SECTIONS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		SECTIONS_TEST(test_sections__given_as_they_come__then_the_whole),
		SECTIONS_TEST(test_sections__not_asked_for__not_given),
		SECTIONS_TEST(test_sections__second_load_joins__given_what_is_there),
		SECTIONS_TEST(test_sections__late_damage__load_hears_of_it),
		SECTIONS_TEST(test_sections__client_dies_or_cancels_in_between__told_no_more),
		SECTIONS_TEST(test_sections__dropped_or_late__no_more_is_given),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	return cmocka_run_group_tests_name("cache/sections", tests, NULL, NULL);
}
