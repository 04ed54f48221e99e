/* SPDX-License-Identifier: Apache-2.0
 * Loads by section: what has come of a block is in the pages while the rest of it is not there yet. The daemon's side waits for the test at every point;
 * nothing here waits for time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "world.h"

enum { BLOCKS = 3, LAYERS = 4 };

static struct world world;
static struct kvci_message held; /* the LOAD; under the server's lock */
static uint8_t *kept;            /* the slab as it was when the LOAD came */

static struct fake_block *sections_block(uint32_t index)
{
	return &world.server.blocks[world.server.leases[0].blocks[index]];
}

static uint8_t *sections_at(uint8_t *slab, uint32_t block, uint32_t section)
{
	const struct kvc_form_sizes *sizes = &world.server.sizes;

	return slab + sections_block(block)->offset_bytes + sizes->sections_offset_bytes + section * sizes->section_stride_bytes;
}

static void sections_head(uint32_t block, uint32_t count, bool whole)
{
	uint64_t at = sections_block(block)->offset_bytes;

	memcpy(world.server.slab + at, kept + at, whole ? sizeof(struct kvci_record_header) : (size_t)KVCI_RECORD_SEALED_BYTES);
	memcpy(world.server.slab + at + sizeof(struct kvci_record_header), kept + at + sizeof(struct kvci_record_header),
	       count * sizeof(struct kvci_section_entry));
}

/* No section is there, of any block, nor its head. */
static bool script_hold(struct fake_server *server, const struct kvci_message *message)
{
	if (message->type != KVCI_MESSAGE_LOAD)
		return false;
	held = *message;
	memcpy(kept, server->slab, server->slab_used);
	for (uint32_t block = 0; block < BLOCKS; block++) {
		memset(server->slab + sections_block(block)->offset_bytes, 0xee, server->sizes.sections_offset_bytes);
		for (uint32_t section = 0; section < LAYERS; section++)
			memset(sections_at(server->slab, block, section), 0xee, server->sizes.section_bytes);
	}
	return true;
}

/* Sections [0, count) of a block are there now, with as much of the head as says what they are; told, unless silent: then with all of it. */
static void sections_give(uint32_t block, uint32_t count, bool silent)
{
	struct fake_server *server = &world.server;
	struct kvci_message event = {
		.magic = KVCI_PROTO_MAGIC, .type = KVCI_MESSAGE_LOAD_SECTIONS, .first = block, .count = count, .c = server->slab_id,
	};

	pthread_mutex_lock(&server->lock);
	for (uint32_t section = 0; section < count; section++)
		memcpy(sections_at(server->slab, block, section), sections_at(kept, block, section), server->sizes.section_bytes);
	sections_head(block, count, silent);
	event.tag = held.tag;
	event.binding = sections_block(block)->generation;
	event.a = sections_block(block)->offset_bytes;
	event.b = kvci_record_checksum_leading(kept + sections_block(block)->offset_bytes, count);
	event.d = sections_block(block)->record_bytes;
	if (!silent)
		fake_send(server, &event, -1);
	pthread_mutex_unlock(&server->lock);
}

/* The daemon's last word: status of block 0; the others are whole. */
static void sections_end(kvc_status_t status)
{
	struct fake_server *server = &world.server;

	for (uint32_t block = status == KVC_OK ? 0 : 1; block < BLOCKS; block++)
		sections_give(block, LAYERS, true);
	pthread_mutex_lock(&server->lock);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		const struct fake_block *block = sections_block(i);
		struct kvci_wire_extent extent = {.status = i == 0 ? status : KVC_OK};

		if (extent.status == KVC_OK)
			extent = (struct kvci_wire_extent){
				.slab = server->slab_id, .generation = block->generation, .offset_bytes = block->offset_bytes,
				.record_bytes = block->record_bytes, .record_checksum = block->record_checksum,
			};
		memcpy(server->window + held.reply_offset + i * sizeof(extent), &extent, sizeof(extent));
	}
	fake_answer(server, &held, KVC_OK);
	pthread_mutex_unlock(&server->lock);
}

/* The pages of the block's leading sections are right. */
static bool sections_loaded(uint32_t block, uint32_t sections)
{
	struct engine engine = world.fixture.engine;

	engine.form.layer_count = sections;
	return engine_holds(&engine, fixture_back(&world.fixture, block), 1000 + block);
}

static struct kvc_op *sections_begin(uint32_t flags)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("s");
	struct kvc_match_result result;
	struct kvc_op *op;

	world_begin(&world, flags, BLOCKS);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, BLOCKS, fixture->pages, 20 * FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_match(fixture->space, (const uint8_t(*)[32])fixture->hashes, BLOCKS, &request, KVC_MATCH_LEASE,
	                           20 * FIXTURE_SECOND, &result),
	                 KVC_OK);
	assert_int_equal(result.matched_blocks, BLOCKS);
	pthread_mutex_lock(&world.server.lock);
	kept = malloc(world.server.slab_used);
	pthread_mutex_unlock(&world.server.lock);
	assert_non_null(kept);
	fake_set_script(&world.server, script_hold, NULL);
	assert_int_equal(kvc_load_sections_begin(fixture->space, &request, 0, BLOCKS, fixture->pages_back, 0, &op), KVC_OK);
	for (bool came = false; !came;) { /* the daemon has it */
		assert_int_equal(kvc_load_wait_sections(op, 1, FIXTURE_MS), KVC_PENDING);
		pthread_mutex_lock(&world.server.lock);
		came = held.tag != 0;
		pthread_mutex_unlock(&world.server.lock);
	}
	return op;
}

static void sections_over(struct kvc_op *op)
{
	kvc_op_destroy(op);
	fake_set_script(&world.server, NULL, NULL);
	world_end(&world);
	memset(&held, 0, sizeof(held));
	free(kept);
}

static void sections_expect(struct kvc_op *op, uint32_t first, uint32_t second, uint32_t third)
{
	uint32_t sections[BLOCKS];

	assert_int_equal(kvc_load_block_sections(op, sections, BLOCKS), KVC_OK);
	assert_int_equal(sections[0], first);
	assert_int_equal(sections[1], second);
	assert_int_equal(sections[2], third);
}

static void check_first_usable(uint32_t flags)
{
	struct kvc_op *op = sections_begin(flags);

	sections_give(0, 1, false);
	sections_give(1, 2, false);
	sections_give(2, 1, false);
	assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_true(sections_loaded(block, 1)); /* while no last section is there */
	assert_int_equal(kvc_load_wait_sections(op, 2, 0), KVC_PENDING);
	assert_int_equal(kvc_op_status(op), KVC_PENDING);
	assert_false(kvc_op_pages_free(op));
	for (uint32_t section = 2; section <= LAYERS; section++) {
		for (uint32_t block = 0; block < BLOCKS; block++)
			sections_give(block, section, false);
		assert_int_equal(kvc_load_wait_sections(op, section, 60 * FIXTURE_SECOND), KVC_OK);
		for (uint32_t block = 0; block < BLOCKS; block++)
			assert_true(sections_loaded(block, section));
	}
	assert_int_equal(kvc_op_wait(op, 0), KVC_PENDING); /* the daemon has not said that they are whole */
	sections_end(KVC_OK);
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_OK);
	sections_expect(op, LAYERS, LAYERS, LAYERS);
	assert_int_equal(kvc_load_wait_sections(op, 1000, 0), KVC_OK);
	assert_int_equal(world.server.damages, 0);
	sections_over(op);
}

static void test_sections__first_is_usable__last_is_not_there_yet(void **state)
{
	check_first_usable(0);
}

static void test_sections__with_mover__first_is_usable_too(void **state)
{
	check_first_usable(KVC_OPEN_MOVER);
}

static void test_sections__late_section_is_damaged__earlier_ones_hold_and_load_fails(void **state)
{
	struct kvc_op *op = sections_begin(0);
	kvc_status_t statuses[BLOCKS];

	for (uint32_t block = 0; block < BLOCKS; block++)
		sections_give(block, 2, false);
	assert_int_equal(kvc_load_wait_sections(op, 2, 60 * FIXTURE_SECOND), KVC_OK);
	sections_end(KVC_CORRUPT);
	assert_int_equal(kvc_load_wait_sections(op, 3, 60 * FIXTURE_SECOND), KVC_CORRUPT);
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_CORRUPT);
	assert_int_equal(kvc_load_wait_sections(op, 2, 0), KVC_OK);
	assert_int_equal(kvc_op_block_statuses(op, statuses, BLOCKS), KVC_OK);
	assert_int_equal(statuses[0], KVC_CORRUPT);
	assert_int_equal(statuses[1], KVC_OK);
	sections_expect(op, 2, LAYERS, LAYERS);
	assert_true(sections_loaded(0, 2));
	assert_true(fixture_loaded(&world.fixture, 1) && fixture_loaded(&world.fixture, 2));
	sections_over(op);
}

/* The daemon took the extent away and used it for something else, under the client's hands. */
static void test_sections__extent_is_used_again__void_and_not_reported_as_damage(void **state)
{
	struct kvc_op *op = sections_begin(0);

	for (uint32_t block = 0; block < BLOCKS; block++)
		sections_give(block, 1, false);
	assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
	memset(sections_at(kept, 0, 1), 0x77, world.server.sizes.section_bytes);
	for (uint32_t block = 0; block < BLOCKS; block++)
		sections_give(block, LAYERS, false);
	assert_int_equal(kvc_load_wait_sections(op, 2, 60 * FIXTURE_SECOND), KVC_CORRUPT);
	sections_end(KVC_DROPPED);
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_CORRUPT);
	sections_expect(op, 1, LAYERS, LAYERS);
	assert_int_equal(world.server.damages, 0);
	sections_over(op);
}

/* The table, the head or the section is not what the daemon told of; it has told of the first section before. */
static void test_sections__not_what_was_told__void(void **state)
{
	static const uint32_t offsets[] = {
		offsetof(struct kvci_record_header, hash), offsetof(struct kvci_record_header, record_bytes), offsetof(struct kvci_record_header, epoch),
		sizeof(struct kvci_record_header) + offsetof(struct kvci_section_entry, raw_checksum),
		sizeof(struct kvci_record_header) + offsetof(struct kvci_section_entry, offset_64),
	};

	for (uint32_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]) + 1; i++) {
		struct kvc_op *op = sections_begin(0);

		for (uint32_t block = 0; block < BLOCKS; block++)
			sections_give(block, 1, false);
		assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
		for (uint32_t block = 0; block < BLOCKS; block++)
			sections_give(block, 2, false);
		pthread_mutex_lock(&world.server.lock);
		if (i < sizeof(offsets) / sizeof(offsets[0]))
			world.server.slab[sections_block(1)->offset_bytes + offsets[i]] ^= 1;
		else
			sections_at(world.server.slab, 1, 1)[77] ^= 1;
		pthread_mutex_unlock(&world.server.lock);
		assert_int_equal(kvc_load_wait_sections(op, 2, 60 * FIXTURE_SECOND), KVC_CORRUPT);
		sections_end(KVC_OK);
		assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_CORRUPT);
		sections_expect(op, LAYERS, 1, LAYERS);
		assert_int_equal(world.server.damages, 0);
		sections_over(op);
	}
}

static void test_sections__canceled_in_between__no_page_is_touched_any_more(void **state)
{
	struct kvc_op *op = sections_begin(0);
	struct fixture *fixture = &world.fixture;
	uint8_t *before = malloc(fixture->engine.memory_bytes);

	for (uint32_t block = 0; block < BLOCKS; block++)
		sections_give(block, 1, false);
	assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
	kvc_op_cancel(op);
	assert_int_equal(kvc_op_status(op), KVC_CANCELED);
	assert_true(kvc_op_pages_free(op));
	memcpy(before, fixture->engine.memory, fixture->engine.memory_bytes);
	for (uint32_t block = 0; block < BLOCKS; block++)
		sections_give(block, LAYERS, false);
	sections_end(KVC_OK);
	assert_int_equal(kvc_load_wait_sections(op, 1, 0), KVC_OK);
	assert_int_equal(kvc_load_wait_sections(op, 2, 0), KVC_CANCELED);
	assert_memory_equal(before, fixture->engine.memory, fixture->engine.memory_bytes);
	sections_expect(op, 1, 1, 1);
	free(before);
	sections_over(op);
}

static void test_sections__daemon_dies_in_between__what_came_is_right(void **state)
{
	struct kvc_op *op = sections_begin(0);

	sections_give(0, 3, false);
	sections_give(1, 1, false);
	sections_give(2, 1, false);
	assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
	fake_hang_up(&world.server, true);
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_GONE);
	assert_int_equal(kvc_load_wait_sections(op, 4, 0), KVC_GONE);
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_true(sections_loaded(block, 1));
	sections_over(op);
}

static void test_sections__whole_blocks__the_same_bytes(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("w");
	struct kvc_match_result result;
	struct kvc_op *op;
	uint32_t sections[200];

	world_begin(&world, 0, 200);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 200, fixture->pages, 20 * FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_match(fixture->space, (const uint8_t(*)[32])fixture->hashes, 200, &request, KVC_MATCH_LEASE,
	                           20 * FIXTURE_SECOND, &result),
	                 KVC_OK);
	assert_int_equal(kvc_load_sections_begin(fixture->space, &request, 0, 200, fixture->pages_back, 0, &op), KVC_OK);
	for (uint32_t section = 1; section <= LAYERS; section++)
		assert_int_equal(kvc_load_wait_sections(op, section, 60 * FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_load_block_sections(op, sections, 199), KVC_TOO_BIG);
	assert_int_equal(kvc_load_block_sections(op, NULL, 200), KVC_INVALID);
	assert_int_equal(kvc_load_block_sections(op, sections, 200), KVC_OK);
	for (uint32_t i = 0; i < 200; i++) {
		assert_int_equal(sections[i], LAYERS);
		assert_true(fixture_loaded(fixture, i));
	}
	kvc_op_destroy(op);
	assert_int_equal(kvc_load_begin(fixture->space, &request, 0, 200, fixture->pages_back, 0, &op), KVC_OK);
	assert_int_equal(kvc_load_wait_sections(op, 1, 60 * FIXTURE_SECOND), KVC_OK);
	kvc_op_destroy(op);
	assert_int_equal(kvc_match_begin(fixture->space, (const uint8_t(*)[32])fixture->hashes, 200, NULL, 0, &op), KVC_OK);
	assert_int_equal(kvc_load_wait_sections(op, 1, 0), KVC_INVALID);
	assert_int_equal(kvc_load_block_sections(op, sections, 200), KVC_INVALID);
	kvc_op_destroy(op);
	world_end(&world);
}

/* Of a block that the load has not, more sections than there are, and sections of a load that did not ask. */
static void test_sections__nonsense__ends_the_connection(void **state)
{
	for (unsigned which = 0; which < 2; which++) {
		struct kvc_op *op = sections_begin(0);
		struct kvci_message event = {.magic = KVCI_PROTO_MAGIC, .type = KVCI_MESSAGE_LOAD_SECTIONS, .tag = held.tag, .count = 1};

		if (which == 0)
			event.first = BLOCKS;
		else
			event.count = LAYERS + 1;
		pthread_mutex_lock(&world.server.lock);
		fake_send(&world.server, &event, -1);
		pthread_mutex_unlock(&world.server.lock);
		assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_GONE);
		sections_expect(op, 0, 0, 0);
		sections_over(op);
	}
	struct kvc_op *op = sections_begin(0), *plain;
	struct kvc_request request = fixture_request("s");

	pthread_mutex_lock(&world.server.lock);
	held.tag = 0;
	pthread_mutex_unlock(&world.server.lock);
	assert_int_equal(kvc_load_begin(world.fixture.space, &request, 0, 1, world.fixture.pages_back, 0, &plain), KVC_OK);
	for (bool came = false; !came;) {
		assert_int_equal(kvc_op_wait(plain, FIXTURE_MS), KVC_PENDING);
		pthread_mutex_lock(&world.server.lock);
		came = held.tag != 0;
		pthread_mutex_unlock(&world.server.lock);
	}
	sections_give(0, 1, false);
	assert_int_equal(kvc_op_wait(plain, 60 * FIXTURE_SECOND), KVC_GONE);
	kvc_op_destroy(plain);
	sections_over(op);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sections__first_is_usable__last_is_not_there_yet),
		cmocka_unit_test(test_sections__with_mover__first_is_usable_too),
		cmocka_unit_test(test_sections__late_section_is_damaged__earlier_ones_hold_and_load_fails),
		cmocka_unit_test(test_sections__extent_is_used_again__void_and_not_reported_as_damage),
		cmocka_unit_test(test_sections__not_what_was_told__void),
		cmocka_unit_test(test_sections__canceled_in_between__no_page_is_touched_any_more),
		cmocka_unit_test(test_sections__daemon_dies_in_between__what_came_is_right),
		cmocka_unit_test(test_sections__whole_blocks__the_same_bytes),
		cmocka_unit_test(test_sections__nonsense__ends_the_connection),
	};

	return cmocka_run_group_tests_name("connector/sections", tests, NULL, NULL);
}
