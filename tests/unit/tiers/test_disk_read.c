/* SPDX-License-Identifier: Apache-2.0
 *
 * Records that are read in one piece and in several: whatever their length, all of each is there, and damage in any part of it is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/disk/internal.h"

enum { PAGE = 4096, PIECE_PAGES = KVCI_DISK_PIECE_BYTES / PAGE };

static const uint32_t lengths[] = {
	1, PIECE_PAGES - 1, PIECE_PAGES, PIECE_PAGES + 1, 2 * PIECE_PAGES - 1, 2 * PIECE_PAGES, 2 * PIECE_PAGES + 1, 5 * PIECE_PAGES + 17,
};

enum { COUNT = sizeof(lengths) / sizeof(lengths[0]) };

static const char *engine;
static struct disk_store *store;
static struct kvc_tier_entry entries[COUNT];

static int setup(void **state)
{
	store = kvci_alloc_zero(1, sizeof(*store));
	disk_store_init(store, "read", "256MiB", "32MiB");
	store->io = engine;
	disk_store_open(store);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(rig_store(&store->rig, i, lengths[i], &entries[i]), KVC_OK);
	return 0;
}

static int teardown(void **state)
{
	disk_store_close(store);
	disk_store_fini(store);
	kvci_free(store);
	return 0;
}

static void test_disk_read__of_any_length__all_of_it(void **state)
{
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(rig_load(&store->rig, i, &entries[i]), KVC_OK);
}

static void test_disk_read__not_to_be_verified__comes_damaged_or_not(void **state)
{
	const struct kvc_tier_entry *entry = &entries[COUNT - 1];
	uint64_t at = ((uint64_t)entry->place.offset_4k + entry->place.length_4k / 2) * PAGE;
	void *buffer = rig_buffer((uint64_t)entry->place.length_4k * PAGE);

	disk_store_flip(store, entry->place.segment, at, 3);
	assert_int_equal(rig_read(&store->rig, buffer, entry, KVC_TIER_NO_VERIFY), KVC_OK);
	assert_false(rig_record_is(buffer, COUNT - 1, entry->place.length_4k));
	assert_int_equal(rig_read(&store->rig, buffer, entry, 0), KVC_CORRUPT);
	disk_store_flip(store, entry->place.segment, at, 3);
	kvci_free(buffer);
}

/* In the last page of a piece, in the first of the next, and so on. */
static void test_disk_read__bit_flipped_in_any_piece__corrupt(void **state)
{
	for (uint32_t i = 1; i < COUNT; i++) {
		const struct kvc_tier_entry *entry = &entries[i];

		for (uint32_t page = PIECE_PAGES - 1; page < lengths[i]; page += page % PIECE_PAGES == 0 ? PIECE_PAGES - 1 : 1) {
			uint64_t at = ((uint64_t)entry->place.offset_4k + page) * PAGE;

			disk_store_flip(store, entry->place.segment, at, 5);
			assert_int_equal(rig_load(&store->rig, i, entry), KVC_CORRUPT);
			disk_store_flip(store, entry->place.segment, at, 5);
			assert_int_equal(rig_load(&store->rig, i, entry), KVC_OK);
		}
	}
}

static void test_disk_read__file_cut_within_the_record__corrupt(void **state)
{
	const struct kvc_tier_entry *entry = &entries[COUNT - 1];
	char path[600];
	off_t cut = (off_t)(entry->place.offset_4k + entry->place.length_4k / 2) * PAGE;

	disk_store_path(store, entry->place.segment, path);
	assert_int_equal(truncate(path, cut), 0);
	assert_int_equal(rig_load(&store->rig, COUNT - 1, entry), KVC_CORRUPT);
	assert_int_equal(rig_load(&store->rig, COUNT - 2, &entries[COUNT - 2]), KVC_OK);
}

/* ---- many at once ---- */

struct reading {
	struct kvc_tier_request request;
	kvc_status_t status;
	unsigned completions;
	size_t *left;
};

static bool all_over;

static void reading_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct reading *reading = request->context;

	reading->status = status;
	reading->completions++;
	all_over = --*reading->left == 0;
}

static void test_disk_read__all_at_once_one_damaged__each_completes_once(void **state)
{
	enum { TURNS = 3, DAMAGED = 5 };
	struct reading readings[TURNS * COUNT];
	size_t left = TURNS * COUNT;
	uint64_t damaged_bytes = ((uint64_t)entries[DAMAGED].place.offset_4k + PIECE_PAGES) * PAGE;

	all_over = false;
	disk_store_flip(store, entries[DAMAGED].place.segment, damaged_bytes, 1);
	for (uint32_t i = 0; i < TURNS * COUNT; i++) {
		uint32_t record = i % COUNT;

		readings[i] = (struct reading){ .left = &left };
		readings[i].request = (struct kvc_tier_request){
			.op = KVC_TIER_READ, .entry = entries[record], .buffer = rig_buffer((uint64_t)lengths[record] * PAGE),
			.done = reading_done, .context = &readings[i],
		};
		assert_int_equal(kvci_tier_submit(store->rig.tier, &readings[i].request), KVC_OK);
	}
	rig_wait(&store->rig, &all_over);
	for (uint32_t i = 0; i < TURNS * COUNT; i++) {
		uint32_t record = i % COUNT;

		assert_int_equal(readings[i].completions, 1);
		assert_int_equal(readings[i].status, record == DAMAGED ? KVC_CORRUPT : KVC_OK);
		if (record != DAMAGED)
			assert_true(rig_record_is(readings[i].request.buffer, record, lengths[record]));
		kvci_free(readings[i].request.buffer);
	}
	disk_store_flip(store, entries[DAMAGED].place.segment, damaged_bytes, 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_read__of_any_length__all_of_it),
		cmocka_unit_test(test_disk_read__not_to_be_verified__comes_damaged_or_not),
		cmocka_unit_test(test_disk_read__bit_flipped_in_any_piece__corrupt),
		cmocka_unit_test(test_disk_read__all_at_once_one_damaged__each_completes_once),
		cmocka_unit_test(test_disk_read__file_cut_within_the_record__corrupt), /* last: it stays cut */
	};
	int failed;

	(void)argc;
	(void)argv;
	engine = "threads";
	failed = cmocka_run_group_tests_name("threads", tests, setup, teardown);
	engine = "auto";
	return failed + cmocka_run_group_tests_name("auto", tests, setup, teardown);
}
