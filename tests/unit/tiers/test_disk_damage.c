/* SPDX-License-Identifier: Apache-2.0
 *
 * Damage to what lies on the disk: every damaged block a miss, every undamaged one still a hit, and never wrong bytes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/record.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/disk/db.h"
#include "tiers/disk/verify.h"

enum { COUNT = 60, PAGES = 40 }; /* 9.4 MiB in segments of 4 MiB */

static struct disk_store *store;
static struct kvc_tier_entry entries[COUNT];

static int setup(void **state)
{
	store = kvci_alloc_zero(1, sizeof(*store));
	disk_store_init(store, "damage", "64MiB", "4MiB");
	disk_store_open(store);
	for (uint64_t seed = 0; seed < COUNT; seed++)
		assert_int_equal(rig_store(&store->rig, seed, PAGES, &entries[seed]), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
	disk_store_close(store);
	return 0;
}

static int teardown(void **state)
{
	disk_store_fini(store);
	kvci_free(store);
	return 0;
}

static void expect(uint64_t hits, uint64_t missing, uint64_t refused)
{
	uint64_t got[3];

	disk_store_open(store);
	disk_store_check(store, COUNT, PAGES, NULL, &got[0], &got[1], &got[2]);
	disk_store_close(store);
	if (got[0] != hits || got[1] != missing || got[2] != refused)
		fail_msg("hits %llu (expected %llu), missing %llu (%llu), refused %llu (%llu)", (unsigned long long)got[0],
		         (unsigned long long)hits, (unsigned long long)got[1], (unsigned long long)missing,
		         (unsigned long long)got[2], (unsigned long long)refused);
}

static uint64_t at(uint64_t seed, uint64_t offset)
{
	return (uint64_t)entries[seed].place.offset_4k * 4096 + offset;
}

/* A place in each region of a record, and whether a rebuild can still name the record. */
static const struct {
	const char *region;
	uint64_t offset;
	bool named; /* the header is whole */
} regions[] = {
	{"magic", 0, false}, {"flags", 6, false}, {"record bytes", 9, false}, {"space", 20, false}, {"epoch", 33, false},
	{"hash", 50, false}, {"section count", 124, false}, {"reserved", 160, false}, {"header checksum", 185, false},
	{"place seal", 193, false}, {"table", 256 + 40, false}, {"last table entry", 256 + 32 * 31 + 8, false},
	{"first section", 256 + 32 * 32 + 3, true}, {"middle", 20 * 4096 + 77, true},
	{"last section", 256 + 32 * 32 + 32 * 5056 - 1, true},
};

static void test_disk__bit_flipped_in_each_region__that_record_only_is_refused(void **state)
{
	enum { FLIPS = sizeof(regions) / sizeof(regions[0]) };

	for (size_t i = 0; i < FLIPS; i++)
		disk_store_flip(store, entries[2 * i].place.segment, at(2 * i, regions[i].offset), i % 8);
	expect(COUNT - FLIPS, 0, FLIPS);
}

static void test_disk__bit_flipped_and_index_deleted__the_others_are_hits(void **state)
{
	enum { FLIPS = sizeof(regions) / sizeof(regions[0]) };
	uint64_t named = 0;

	for (size_t i = 0; i < FLIPS; i++) {
		disk_store_flip(store, entries[2 * i].place.segment, at(2 * i, regions[i].offset), i % 8);
		named += regions[i].named;
	}
	disk_store_remove(store, "index");
	expect(COUNT - FLIPS, FLIPS - named, named);
}

static void test_disk__padding_flipped__still_a_hit(void **state)
{
	/* Behind the last section: nobody's bytes. */
	disk_store_flip(store, entries[0].place.segment, at(0, (uint64_t)PAGES * 4096 - 1), 3);
	expect(COUNT, 0, 0);
}

static void test_disk__every_byte_of_the_head_flipped_in_turn__never_ok(void **state)
{
	void *buffer = rig_buffer((uint64_t)PAGES * 4096);

	disk_store_open(store);
	for (uint64_t offset = 0; offset < 256 + 32 * 32; offset++) {
		kvc_status_t status;
		bool free_bytes = offset >= 200 && offset < 256; /* reserved, in no checksum */

		disk_store_flip(store, entries[7].place.segment, at(7, offset), offset % 8);
		status = rig_read(&store->rig, buffer, &entries[7], KVC_TIER_NO_VERIFY);
		if (free_bytes ? status != KVC_OK : status != KVC_CORRUPT && status != KVC_MISS)
			fail_msg("byte %llu: %s", (unsigned long long)offset, kvc_status_name(status));
		disk_store_flip(store, entries[7].place.segment, at(7, offset), offset % 8);
	}
	assert_int_equal(rig_load(&store->rig, 7, &entries[7]), KVC_OK);
	kvci_free(buffer);
}

static void test_disk__file_truncated__what_is_behind_is_refused(void **state)
{
	char path[600];
	uint64_t behind = 0;

	disk_store_path(store, entries[30].place.segment, path);
	assert_int_equal(truncate(path, (off_t)at(30, 5000)), 0);
	for (uint64_t seed = 0; seed < COUNT; seed++)
		behind += entries[seed].place.segment == entries[30].place.segment && seed >= 30;
	expect(COUNT - behind, 0, behind);
	/* The same without the index; and the file is whole again when it is written next. */
	disk_store_remove(store, "index");
	expect(COUNT - behind, behind, 0);
}

static void test_disk__truncated_to_nothing__only_that_segment_is_lost(void **state)
{
	char path[600];
	uint64_t inside = 0;

	disk_store_path(store, entries[30].place.segment, path);
	assert_int_equal(truncate(path, 0), 0);
	for (uint64_t seed = 0; seed < COUNT; seed++)
		inside += entries[seed].place.segment == entries[30].place.segment;
	expect(COUNT - inside, 0, inside);
}

static void swap_records(uint64_t a, uint64_t b)
{
	size_t bytes = (size_t)PAGES * 4096;
	uint8_t *first = rig_buffer(bytes), *second = rig_buffer(bytes);

	disk_store_peek(store, entries[a].place.segment, at(a, 0), first, bytes);
	disk_store_peek(store, entries[b].place.segment, at(b, 0), second, bytes);
	disk_store_poke(store, entries[a].place.segment, at(a, 0), second, bytes);
	disk_store_poke(store, entries[b].place.segment, at(b, 0), first, bytes);
	kvci_free(first);
	kvci_free(second);
}

static void test_disk__records_swapped__both_refused(void **state)
{
	swap_records(3, 4);              /* in one segment */
	swap_records(10, COUNT - 1);     /* across segments */
	assert_int_not_equal(entries[10].place.segment, entries[COUNT - 1].place.segment);
	expect(COUNT - 4, 0, 4);
	disk_store_remove(store, "index");
	expect(COUNT - 4, 4, 0);
}

static void test_disk__bodies_swapped_under_their_headers__both_refused(void **state)
{
	size_t bytes = (size_t)(PAGES - 1) * 4096;
	uint8_t *first = rig_buffer(bytes), *second = rig_buffer(bytes);

	disk_store_peek(store, entries[3].place.segment, at(3, 4096), first, bytes);
	disk_store_peek(store, entries[4].place.segment, at(4, 4096), second, bytes);
	disk_store_poke(store, entries[3].place.segment, at(3, 4096), second, bytes);
	disk_store_poke(store, entries[4].place.segment, at(4, 4096), first, bytes);
	kvci_free(first);
	kvci_free(second);
	expect(COUNT - 2, 0, 2);
}

static void test_disk__index_deleted__all_hits(void **state)
{
	disk_store_remove(store, "index");
	expect(COUNT, 0, 0);
	expect(COUNT, 0, 0); /* and the rebuilt one holds */
}

static void test_disk__index_files_damaged__all_hits(void **state)
{
	static const char *const damage[] = {
		"rm '%s'/index/MANIFEST*", "rm '%s'/index/CURRENT", "rm -f '%s'/index/*.log '%s'/index/*.sst",
		"for f in '%s'/index/*; do printf 'damaged' | dd of=$f bs=1 seek=20 conv=notrunc 2>/dev/null; done",
		"for f in '%s'/index/*; do : > $f; done", "rm -rf '%s'/index; echo no folder > '%s'/index",
	};

	for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		char command[2048];
		const char *from = damage[i];
		size_t length = 0;

		for (; *from != '\0' && length < sizeof(command) - sizeof(store->folder); from++) {
			if (from[0] == '%' && from[1] == 's') {
				length += (size_t)snprintf(command + length, sizeof(command) - length, "%s", store->folder);
				from++;
			} else {
				command[length++] = *from;
			}
		}
		command[length] = '\0';
		assert_int_equal(system(command), 0);
		expect(COUNT, 0, 0);
	}
}

/* The first block of the largest files of the index. */
static void damage_index_blocks(int files)
{
	char command[2048];

	snprintf(command, sizeof(command), "n=0; for f in $(ls -S '%s'/index/*.sst | head -%d); do n=1; printf 'XXXXXXXX' | "
	         "dd of=$f bs=1 seek=300 conv=notrunc 2>/dev/null; done; test $n = 1", store->folder, files);
	assert_int_equal(system(command), 0);
}

static void test_disk__index_of_one_block_damaged__made_anew_at_open(void **state)
{
	/* Two openings turn the log into files with blocks. */
	expect(COUNT, 0, 0);
	expect(COUNT, 0, 0);
	damage_index_blocks(100);
	expect(COUNT, 0, 0);
	expect(COUNT, 0, 0);
}

/* Opening reads only the last block: the damage comes out while entries are handed over. */
static void test_disk__index_block_damaged__made_anew_while_running(void **state)
{
	enum { MORE = 600, BESIDE = 50 };
	struct kvc_tier_entry entry;
	uint64_t hits, missing, refused;

	disk_store_open(store);
	for (uint64_t seed = 1000; seed < 1000 + MORE; seed++)
		assert_int_equal(rig_store(&store->rig, seed, 1, &entry), KVC_OK);
	disk_store_close(store);
	disk_store_open(store);
	disk_store_close(store);
	disk_store_open(store);
	disk_store_close(store);
	damage_index_blocks(1);
	/* Written beside the rebuild, as soon as it goes. */
	{
		struct kvc_tier *tier;
		char *error = NULL;

		assert_int_equal(disk_store_try(store, &tier, &error), KVC_OK);
		rig_open(&store->rig, tier, false);
	}
	for (uint64_t seed = COUNT; seed < COUNT + BESIDE; seed++)
		assert_int_equal(rig_store(&store->rig, seed, PAGES, &entry), KVC_OK);
	rig_wait(&store->rig, &store->rig.index_complete);
	disk_store_close(store);
	disk_store_open(store);
	assert_int_equal(store->rig.index.count, COUNT + MORE + BESIDE);
	disk_store_check(store, COUNT + BESIDE, PAGES, NULL, &hits, &missing, &refused);
	assert_int_equal(hits, COUNT + BESIDE);
}

static void test_disk__index_replaced_by_an_older_one__all_hits(void **state)
{
	uint64_t hits, missing, refused;

	disk_store_save(store, "index", "old");
	disk_store_open(store);
	for (uint64_t seed = COUNT; seed < 2 * COUNT; seed++) {
		struct kvc_tier_entry entry;

		assert_int_equal(rig_store(&store->rig, seed, PAGES, &entry), KVC_OK);
	}
	disk_store_close(store);
	disk_store_restore(store, "index", "old");
	disk_store_open(store);
	disk_store_check(store, 2 * COUNT, PAGES, NULL, &hits, &missing, &refused);
	assert_int_equal(hits, 2 * COUNT);
}

/* Fills the store until segment 0 was written again. */
static void wrap_around(uint32_t generation)
{
	static uint64_t seed = 1000;
	struct kvc_tier_entry entry;

	do {
		assert_int_equal(rig_store(&store->rig, seed++, PAGES, &entry), KVC_OK);
	} while (entry.place.segment != 0 || entry.place.generation <= generation);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
}

static uint64_t count_segment(uint32_t segment, uint64_t *ret_ok)
{
	uint64_t found = 0;

	*ret_ok = 0;
	for (size_t i = 0; i < store->rig.index.count; i++) {
		const struct kvc_tier_entry *entry = &store->rig.index.entries[i];

		if (entry->place.segment != segment)
			continue;
		found++;
		*ret_ok += rig_load(&store->rig, entry->position_tokens / 16, entry) == KVC_OK;
	}
	return found;
}

static void test_disk__segment_replaced_by_an_older_generation__all_in_it_a_miss(void **state)
{
	uint64_t total, ok;

	disk_store_save(store, "seg-00000000.kvs", "old");
	disk_store_open(store);
	wrap_around(entries[0].place.generation);
	disk_store_close(store);
	disk_store_open(store);
	total = store->rig.index.count;
	assert_true(count_segment(0, &ok) > 0);
	disk_store_close(store);

	disk_store_restore(store, "seg-00000000.kvs", "old");
	disk_store_open(store);
	assert_int_equal(count_segment(0, &ok), 0);
	assert_true(store->rig.index.count > total / 2);
	for (size_t i = 0; i < store->rig.index.count; i++)
		assert_int_equal(rig_load(&store->rig, store->rig.index.entries[i].position_tokens / 16,
		                          &store->rig.index.entries[i]), KVC_OK);
	/* It is written anew, with a generation that none of the old places has. */
	wrap_around(entries[0].place.generation);
	disk_store_close(store);
	disk_store_remove(store, "index");
	disk_store_open(store);
	assert_true(store->rig.index.count > total / 2);
	for (size_t i = 0; i < store->rig.index.count; i++)
		assert_int_equal(rig_load(&store->rig, store->rig.index.entries[i].position_tokens / 16,
		                          &store->rig.index.entries[i]), KVC_OK);
}

/* Reclaiming takes the old entries out of the index, which would grow for ever else. */
static void test_disk__segments_reused__index_holds_no_entry_of_an_older_generation(void **state)
{
	struct kvci_disk_cursor *cursor;
	struct kvci_disk_db *db;
	struct kvc_tier_entry entry;
	char path[600], *error = NULL;
	uint64_t found = 0, written = 0;

	disk_store_open(store);
	/* Records of other lengths lie on other pages than those before. */
	do {
		assert_int_equal(rig_store(&store->rig, 3000 + written++, 53, &entry), KVC_OK);
	} while (entry.place.segment != 1 || entry.place.generation < 20);
	disk_store_close(store);
	snprintf(path, sizeof(path), "%s/index", store->folder);
	assert_int_equal(kvci_disk_db_open(path, &db, &error), KVC_OK);
	assert_int_equal(kvci_disk_cursor_create(db, &cursor), KVC_OK);
	for (uint32_t segment = 0; segment < 16; segment++) {
		struct kvci_disk_header header;

		disk_store_header(store, segment, &header);
		kvci_disk_cursor_seek(cursor, segment, 0);
		while (kvci_disk_cursor_next(cursor, &entry, NULL)) {
			assert_int_equal(entry.place.generation, header.generation);
			found++;
		}
	}
	assert_true(found > 100 && found <= written);
	kvci_disk_cursor_destroy(cursor);
	kvci_disk_db_close(db);
}

static void test_disk__segment_replaced_by_an_older_copy_of_its_generation__what_came_later_is_refused(void **state)
{
	uint32_t head = entries[COUNT - 1].place.segment;
	struct kvc_tier_entry entry;
	char name[32];
	uint64_t hits, missing, refused, behind = 0;
	enum { MORE = 5 };

	snprintf(name, sizeof(name), "seg-%08x.kvs", head);
	disk_store_save(store, name, "old");
	disk_store_open(store);
	for (uint64_t seed = COUNT; seed < COUNT + MORE; seed++) {
		assert_int_equal(rig_store(&store->rig, seed, PAGES, &entry), KVC_OK);
		behind += entry.place.segment == head;
	}
	assert_true(behind > 0);
	disk_store_close(store);
	disk_store_restore(store, name, "old");
	disk_store_open(store);
	disk_store_check(store, COUNT + MORE, PAGES, NULL, &hits, &missing, &refused);
	assert_int_equal(hits, COUNT + MORE - behind);
	assert_int_equal(missing + refused, behind);
	/* New records do not come to lie where the index still has old ones. */
	assert_int_equal(rig_store(&store->rig, 5000, PAGES, &entry), KVC_OK);
	assert_int_equal(rig_load(&store->rig, 5000, &entry), KVC_OK);
}

static void test_disk__one_header_copy_damaged__nothing_is_lost(void **state)
{
	disk_store_flip(store, 0, 30, 2);
	disk_store_flip(store, 1, KVCI_DISK_HEADER_COPY_BYTES + 9, 5);
	disk_store_remove(store, "index");
	expect(COUNT, 0, 0);
}

static void test_disk__header_page_overwritten__the_index_still_knows(void **state)
{
	uint8_t page[4096];

	memset(page, 0x77, sizeof(page));
	disk_store_poke(store, 0, 0, page, sizeof(page));
	disk_store_poke(store, entries[COUNT - 1].place.segment, 0, page, sizeof(page));
	expect(COUNT, 0, 0);
	disk_store_remove(store, "index"); /* the headers were mended */
	expect(COUNT, 0, 0);
}

static void test_disk__segment_deleted__only_its_records_are_gone(void **state)
{
	uint64_t inside = 0;

	disk_store_remove(store, "seg-00000001.kvs");
	for (uint64_t seed = 0; seed < COUNT; seed++)
		inside += entries[seed].place.segment == 1;
	assert_true(inside > 0);
	expect(COUNT - inside, inside, 0);
}

static void test_disk__segment_files_swapped__their_records_are_gone(void **state)
{
	uint64_t inside = 0;

	disk_store_save(store, "seg-00000000.kvs", "zero");
	disk_store_save(store, "seg-00000001.kvs", "one");
	disk_store_restore(store, "seg-00000000.kvs", "one");
	disk_store_restore(store, "seg-00000001.kvs", "zero");
	for (uint64_t seed = 0; seed < COUNT; seed++)
		inside += entries[seed].place.segment <= 1;
	expect(COUNT - inside, inside, 0);
}

static void test_disk__segment_of_another_store__left_alone(void **state)
{
	struct disk_store other;
	struct kvc_tier_entry entry;
	struct kvci_disk_header header;
	char command[2048];

	disk_store_init(&other, "other", "64MiB", "4MiB");
	disk_store_open(&other);
	for (uint64_t seed = 500; seed < 520; seed++)
		assert_int_equal(rig_store(&other.rig, seed, PAGES, &entry), KVC_OK);
	disk_store_close(&other);
	snprintf(command, sizeof(command), "cp '%s'/seg-00000000.kvs '%s'/seg-00000009.kvs", other.folder, store->folder);
	assert_int_equal(system(command), 0);
	expect(COUNT, 0, 0);
	disk_store_header(store, 9, &header);
	assert_int_equal(header.segment, 0); /* untouched */
	/* An index of another store is none of ours. */
	snprintf(command, sizeof(command), "rm -rf '%s'/index && cp -r '%s'/index '%s'/index", store->folder, other.folder,
	         store->folder);
	assert_int_equal(system(command), 0);
	expect(COUNT, 0, 0);
	disk_store_fini(&other);
}

static void test_disk__dropped__does_not_come_back_with_a_rebuild(void **state)
{
	static const uint64_t gone[] = {0, 1, 29, 59};
	bool skip[COUNT] = {false};
	uint64_t hits, missing, refused;

	disk_store_save(store, "index", "before");
	disk_store_open(store);
	for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++) {
		assert_int_equal(kvci_tier_drop(store->rig.tier, &entries[gone[i]]), KVC_OK);
		skip[gone[i]] = true;
	}
	disk_store_close(store);
	disk_store_remove(store, "index");
	disk_store_open(store);
	disk_store_check(store, COUNT, PAGES, skip, &hits, &missing, &refused);
	assert_int_equal(hits, COUNT - 4);
	for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++)
		assert_null(rig_find(&store->rig.index, &entries[gone[i]]));
	disk_store_close(store);
	/* An older index still names them; the records say no. */
	disk_store_restore(store, "index", "before");
	disk_store_open(store);
	for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++)
		assert_int_equal(rig_load(&store->rig, gone[i], &entries[gone[i]]), KVC_MISS);
	disk_store_check(store, COUNT, PAGES, skip, &hits, &missing, &refused);
	assert_int_equal(hits, COUNT - 4);
}

static void test_disk__stored_twice__the_newest_place_comes_last(void **state)
{
	struct kvc_tier_entry again;

	disk_store_open(store);
	assert_int_equal(rig_store(&store->rig, 5, PAGES, &again), KVC_OK);
	disk_store_close(store);
	for (int rebuilt = 0; rebuilt < 2; rebuilt++) {
		disk_store_open(store);
		assert_int_equal(store->rig.index.count, COUNT + 1);
		assert_memory_equal(&rig_find(&store->rig.index, &again)->place, &again.place, sizeof(again.place));
		disk_store_close(store);
		disk_store_remove(store, "index");
	}
}

static void test_disk__capacity_lowered__the_newest_stay(void **state)
{
	uint64_t hits, missing, refused;

	store->capacity = "16MiB";
	disk_store_open(store);
	assert_int_equal(store->rig.caps.capacity_bytes, 16 << 20);
	disk_store_check(store, COUNT, PAGES, NULL, &hits, &missing, &refused);
	/* Of four segments two are kept free. */
	assert_true(hits >= COUNT - 50);
	assert_true(refused == 0 || store->rig.lost_count > 0);
	assert_non_null(rig_find(&store->rig.index, &entries[COUNT - 1]));
}

/* ---- the offline check ---- */

struct verify_count {
	uint64_t damage, records, progress;
	uint64_t last_done, total;
};

static void verify_damage(void *context, const struct kvci_disk_damage *damage)
{
	assert_non_null(damage->text);
	((struct verify_count *)context)->damage++;
}

static void verify_record(void *context, const struct kvc_tier_entry *entry)
{
	((struct verify_count *)context)->records++;
}

static void verify_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct verify_count *count = context;

	assert_true(done_bytes >= count->last_done && done_bytes <= total_bytes);
	count->last_done = done_bytes;
	count->total = total_bytes;
	count->progress++;
}

static kvc_status_t verify(struct verify_count *count, struct kvci_disk_verify_summary *summary)
{
	struct kvci_disk_verify_events events = {count, verify_progress, verify_damage, verify_record};
	char *error = NULL;
	kvc_status_t status;

	*count = (struct verify_count){0};
	status = kvci_disk_verify(store->folder, true, NULL, &events, summary, &error);
	kvci_free(error);
	return status;
}

static void test_verify__whole_store__finds_all_records_and_no_damage(void **state)
{
	struct verify_count count;
	struct kvci_disk_verify_summary summary;

	assert_int_equal(verify(&count, &summary), KVC_OK);
	assert_int_equal(summary.records, COUNT);
	assert_int_equal(count.records, COUNT);
	assert_int_equal(count.damage, 0);
	assert_int_equal(summary.damaged + summary.unknown_bytes + summary.unreadable_bytes, 0);
	assert_int_equal(summary.record_bytes, (uint64_t)COUNT * PAGES * 4096);
	assert_int_equal(count.last_done, count.total);
	assert_true(count.progress > 1);
}

static void test_verify__damaged_store__says_what_is_damaged(void **state)
{
	struct verify_count count;
	struct kvci_disk_verify_summary summary;

	disk_store_flip(store, entries[3].place.segment, at(3, 60000), 1); /* a section */
	disk_store_flip(store, entries[9].place.segment, at(9, 50), 1);    /* a header */
	assert_int_equal(verify(&count, &summary), KVC_OK);
	assert_int_equal(summary.records, COUNT - 2);
	assert_int_equal(summary.damaged, 1);
	assert_int_equal(summary.unknown_bytes, PAGES * 4096);
	assert_int_equal(count.damage, 2);
}

static void test_verify__store_in_use__refused(void **state)
{
	struct verify_count count;
	struct kvci_disk_verify_summary summary;

	disk_store_open(store);
	assert_int_equal(verify(&count, &summary), KVC_IN_USE);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_disk__padding_flipped__still_a_hit),
		CASE(test_disk__bit_flipped_in_each_region__that_record_only_is_refused),
		CASE(test_disk__bit_flipped_and_index_deleted__the_others_are_hits),
		CASE(test_disk__every_byte_of_the_head_flipped_in_turn__never_ok),
		CASE(test_disk__file_truncated__what_is_behind_is_refused),
		CASE(test_disk__truncated_to_nothing__only_that_segment_is_lost),
		CASE(test_disk__records_swapped__both_refused),
		CASE(test_disk__bodies_swapped_under_their_headers__both_refused),
		CASE(test_disk__index_deleted__all_hits),
		CASE(test_disk__index_files_damaged__all_hits),
		CASE(test_disk__index_of_one_block_damaged__made_anew_at_open),
		CASE(test_disk__index_block_damaged__made_anew_while_running),
		CASE(test_disk__index_replaced_by_an_older_one__all_hits),
		CASE(test_disk__segment_replaced_by_an_older_generation__all_in_it_a_miss),
		CASE(test_disk__segments_reused__index_holds_no_entry_of_an_older_generation),
		CASE(test_disk__segment_replaced_by_an_older_copy_of_its_generation__what_came_later_is_refused),
		CASE(test_disk__one_header_copy_damaged__nothing_is_lost),
		CASE(test_disk__header_page_overwritten__the_index_still_knows),
		CASE(test_disk__segment_deleted__only_its_records_are_gone),
		CASE(test_disk__segment_files_swapped__their_records_are_gone),
		CASE(test_disk__segment_of_another_store__left_alone),
		CASE(test_disk__dropped__does_not_come_back_with_a_rebuild),
		CASE(test_disk__stored_twice__the_newest_place_comes_last),
		CASE(test_disk__capacity_lowered__the_newest_stay),
		CASE(test_verify__whole_store__finds_all_records_and_no_damage),
		CASE(test_verify__damaged_store__says_what_is_damaged),
		CASE(test_verify__store_in_use__refused),
	};

	return cmocka_run_group_tests_name("disk damage", tests, NULL, NULL);
}
