/* SPDX-License-Identifier: Apache-2.0
 *
 * The conformance suite of tiers: what include/kvcask/plugin/tier.h promises, run unchanged over every tier and filter.
 *
 *     test_tier NAME        null, disk-threads, disk-uring, fault, delay, coded-threads, coded-uring
 *
 * A tier that keeps nothing says so by caps.capacity_bytes = 0: its reads then have to miss. One more tier: a line in `subjects`.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/record.h"
#include "tests/conform/rig.h"
#include "tiers/coded/coded.h"
#include "tiers/disk/disk.h"
#include "tiers/filter/filter.h"
#include "tiers/null/null.h"

struct subject {
	const char *name;
	const struct kvc_tier_ops *ops;
	const char *io;     /* of the disk tier */
	const char *filter; /* text of the filters around it; NULL: none */
	bool coded;         /* the coded tier on top, as the daemon has it */
};

static const struct subject subjects[] = {
	{"null", &kvc_tier_null_ops, NULL, NULL, false},
	{"disk-threads", &kvc_tier_disk_ops, "threads", NULL, false},
	{"disk-uring", &kvc_tier_disk_ops, "uring", NULL, false},
	{"fault", &kvc_tier_disk_ops, "threads", "", false},
	{"delay", &kvc_tier_disk_ops, "threads", "any:delay=1ms,every=3", false},
	{"coded-threads", &kvc_tier_disk_ops, "threads", "", true},
	{"coded-uring", &kvc_tier_disk_ops, "uring", "", true},
};
static const struct subject *subject;
static const char *folder;

/* The suite's records are of bytes, which split leaves alone. */
static void subject_describe(void *context, const struct kvc_tier_entry *entry, bool write, struct kvci_coded_target *ret_target)
{
	struct kvc_form form = rig_form(entry->raw_length_4k);

	if (kvc_form_id(&form) == entry->form_id)
		ret_target->form = form;
}

static struct kvc_tier *subject_open(const char *capacity, const char *segment)
{
	struct kvc_tier_option options[] = {
		{"folder", folder}, {"capacity", capacity}, {"segment", segment}, {"io", subject->io != NULL ? subject->io : "auto"},
		{"queue_depth", "8"}, {NULL, NULL},
	};
	struct kvci_coded_env env = {.mode = KVCI_CODED_AUTO, .describe = subject_describe};
	struct kvc_tier *tier, *filter, *coded;
	char *error = NULL;

	if (kvci_tier_open(subject->ops, options, &tier, &error) != KVC_OK)
		fail_msg("open: %s", error);
	if (subject->filter == NULL)
		return tier;
	if (kvci_filter_wrap(tier, subject->filter, &filter, &error) != KVC_OK)
		fail_msg("wrap: %s", error);
	if (!subject->coded)
		return filter;
	assert_int_equal(kvci_coded_wrap(filter, &env, &coded), KVC_OK);
	return coded;
}

static int setup(void **state)
{
	struct rig *rig = kvci_alloc_zero(1, sizeof(*rig));

	folder = rig_folder(subject->name);
	rig_open(rig, subject_open("64MiB", "4MiB"), true);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	if (rig->tier != NULL)
		rig_close(rig);
	kvci_free(rig);
	rig_folder_remove(folder);
	return 0;
}

static bool keeps(const struct rig *rig)
{
	return rig->caps.capacity_bytes != 0;
}

static void test_tier__fresh__index_is_complete_and_empty(void **state)
{
	struct rig *rig = *state;

	assert_int_equal(rig->index_complete_calls, 1);
	assert_int_equal(rig->index_delivered, 0);
	assert_int_equal(rig->caps.align_bytes, 4096);
	assert_true(rig->caps.best_queue_depth >= 1);
}

static void test_tier__attached_twice__refused(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_events events = {0};

	assert_int_equal(kvci_tier_attach(rig->tier, &events), KVC_INVALID);
}

static void test_tier__written__reads_back_the_same(void **state)
{
	static const uint32_t sizes[] = {1, 2, 3, 16, 17, 100, 256, 1023};
	struct rig *rig = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct kvc_tier_entry entry;

		assert_int_equal(rig_store(rig, i, sizes[i], &entry), KVC_OK);
		assert_int_equal(entry.place.length_4k, sizes[i]);
		assert_int_not_equal(entry.place.generation, 0);
		assert_int_equal(rig_load(rig, i, &entry), keeps(rig) ? KVC_OK : KVC_MISS);
	}
}

static void test_tier__read_unverified__right_bytes_all_the_same(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry;
	void *buffer = rig_buffer(40 * 4096);

	assert_int_equal(rig_store(rig, 5, 40, &entry), KVC_OK);
	assert_int_equal(rig_read(rig, buffer, &entry, KVC_TIER_NO_VERIFY), keeps(rig) ? KVC_OK : KVC_MISS);
	if (keeps(rig))
		assert_true(rig_record_is(buffer, 5, 40));
	kvci_free(buffer);
}

static void test_tier__read_as_another__never_ok(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry, other;
	void *buffer = rig_buffer(4 * 4096);

	assert_int_equal(rig_store(rig, 1, 4, &entry), KVC_OK);
	for (int field = 0; field < 6; field++) {
		kvc_status_t status;

		other = entry;
		switch (field) {
		case 0: other.hash[31] ^= 1; break;
		case 1: other.space[0] ^= 1; break;
		case 2: other.epoch++; break;
		case 3: other.form_id ^= 1; break;
		case 4: other.shard_index++; break;
		case 5: other.record_checksum ^= 1; break;
		}
		status = rig_read(rig, buffer, &other, field % 2 == 0 ? KVC_TIER_NO_VERIFY : 0);
		assert_true(status == KVC_CORRUPT || status == KVC_MISS);
	}
	assert_int_equal(rig_load(rig, 1, &entry), keeps(rig) ? KVC_OK : KVC_MISS);
	kvci_free(buffer);
}

static void test_tier__places_out_of_reason__miss(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry, other;
	void *buffer = rig_buffer(8 * 4096);

	assert_int_equal(rig_store(rig, 1, 4, &entry), KVC_OK);
	for (int field = 0; field < 8; field++) {
		kvc_status_t status;

		other = entry;
		switch (field) {
		case 0: other.place.generation++; break;
		case 1: other.place.generation = 0; break;
		case 2: other.place.segment = UINT32_MAX; break;
		case 3: other.place.segment++; break;
		case 4: other.place.offset_4k = UINT32_MAX; break;
		case 5: other.place.offset_4k = 0; break;
		case 6: other.place.length_4k = 8; break;
		case 7: other.place.length_4k = 1; break;
		}
		status = rig_read(rig, buffer, &other, 0);
		assert_true(status == KVC_MISS || status == KVC_CORRUPT);
	}
	kvci_free(buffer);
}

static void test_tier__bad_requests__refused_by_the_wrapper(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry;
	uint8_t *buffer = rig_buffer(2 * 4096);

	rig_record(buffer, 1, 1, &entry);
	assert_int_equal(rig_write(rig, buffer + 64, &entry), KVC_INVALID);
	assert_int_equal(rig_write(rig, NULL, &entry), KVC_INVALID);
	entry.raw_length_4k = 0;
	assert_int_equal(rig_write(rig, buffer, &entry), KVC_INVALID);
	entry.raw_length_4k = UINT32_MAX;
	assert_int_equal(rig_write(rig, buffer, &entry), KVC_INVALID);
	assert_int_equal(rig_read(rig, buffer, &entry, 0), KVC_INVALID); /* length 0 */
	kvci_free(buffer);
}

static void test_tier__flush__completes(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry;

	assert_int_equal(rig_flush(rig), KVC_OK);
	for (uint64_t i = 0; i < 5; i++)
		assert_int_equal(rig_store(rig, i, 3, &entry), KVC_OK);
	assert_int_equal(rig_flush(rig), KVC_OK);
	assert_int_equal(rig_flush(rig), KVC_OK);
}

static void test_tier__dropped__is_gone(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry gone, stays;
	kvc_status_t status;

	assert_int_equal(rig_store(rig, 1, 4, &gone), KVC_OK);
	assert_int_equal(rig_store(rig, 2, 4, &stays), KVC_OK);
	status = kvci_tier_drop(rig->tier, &gone);
	assert_true(status == KVC_OK || (!keeps(rig) && status == KVC_UNSUPPORTED));
	assert_int_equal(rig_flush(rig), KVC_OK);
	assert_int_equal(rig_load(rig, 1, &gone), KVC_MISS);
	assert_int_equal(rig_load(rig, 2, &stays), keeps(rig) ? KVC_OK : KVC_MISS);
	assert_int_equal(kvci_tier_drop(rig->tier, &gone), status); /* once more harms nobody */
	assert_int_equal(rig_flush(rig), KVC_OK);
}

struct many {
	struct kvc_tier_request request;
	struct rig *rig;
	size_t *completed;
	unsigned *in_this_poll;
	unsigned calls;
	kvc_status_t status;
};

static void many_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct many *one = request->context;

	one->rig->done_outside_poll += !one->rig->in_poll;
	one->calls++;
	one->status = status;
	++*one->completed;
	++*one->in_this_poll;
}

/* Submits until the queue is full or all are in; returns how many were taken. */
static size_t many_submit(struct rig *rig, struct many *all, size_t count, size_t *completed, unsigned *in_this_poll,
                          const struct kvc_tier_entry *entry, uint8_t *buffers, uint32_t op)
{
	size_t taken = 0;

	for (; taken < count; taken++) {
		struct many *one = &all[taken];
		kvc_status_t status;

		*one = (struct many){.rig = rig, .completed = completed, .in_this_poll = in_this_poll};
		one->request = (struct kvc_tier_request){
			.op = op, .entry = *entry, .buffer = buffers + taken * 4096, .done = many_done, .context = one,
		};
		status = kvci_tier_submit(rig->tier, &one->request);
		if (status == KVC_BUSY)
			break;
		assert_int_equal(status, KVC_OK);
	}
	return taken;
}

static void test_tier__more_than_it_takes__busy_and_each_taken_completes_once(void **state)
{
	enum { COUNT = 5000 };
	struct rig *rig = *state;
	struct many *all = kvci_alloc_zero(COUNT, sizeof(*all));
	uint8_t *buffers = rig_buffer((uint64_t)COUNT * 4096);
	struct kvc_tier_entry entry;
	size_t completed = 0, taken;
	unsigned in_this_poll = 0;
	uint64_t end_ns = kvci_clock_ns() + 60 * KVCI_SECOND;

	assert_int_equal(rig_store(rig, 9, 1, &entry), KVC_OK);
	taken = many_submit(rig, all, COUNT, &completed, &in_this_poll, &entry, buffers, KVC_TIER_READ);
	assert_in_range(taken, 1, COUNT - 1); /* the queue is bounded */
	assert_int_equal(completed, 0);
	while (completed < taken && kvci_clock_ns() < end_ns) {
		struct pollfd waiting = {.fd = kvci_tier_fd(rig->tier), .events = POLLIN};

		/* The fd says when there is something; a poll gives no more than it was asked for. */
		assert_int_equal(poll(&waiting, 1, 10000), 1);
		in_this_poll = 0;
		rig->in_poll = true;
		kvci_tier_poll(rig->tier, 3);
		rig->in_poll = false;
		assert_true(in_this_poll <= 3);
	}
	assert_int_equal(completed, taken);
	assert_int_equal(rig->done_outside_poll, 0);
	for (size_t i = 0; i < taken; i++) {
		assert_int_equal(all[i].calls, 1);
		assert_int_equal(all[i].status, keeps(rig) ? KVC_OK : KVC_MISS);
	}
	kvci_free(all);
	kvci_free(buffers);
}

static void test_tier__closed_with_requests_under_way__each_completes_once(void **state)
{
	enum { COUNT = 200 };
	struct rig *rig = *state;
	struct many *all = kvci_alloc_zero(COUNT, sizeof(*all));
	uint8_t *buffers = rig_buffer((uint64_t)COUNT * 4096);
	struct kvc_tier_entry entry;
	size_t completed = 0, taken;
	unsigned in_this_poll = 0;

	assert_int_equal(rig_store(rig, 9, 1, &entry), KVC_OK);
	taken = many_submit(rig, all, COUNT, &completed, &in_this_poll, &entry, buffers, KVC_TIER_READ);
	rig_close(rig);
	assert_int_equal(completed, taken);
	for (size_t i = 0; i < taken; i++) {
		assert_int_equal(all[i].calls, 1);
		assert_true(all[i].status == KVC_OK || all[i].status == KVC_CANCELED || all[i].status == KVC_MISS);
	}
	kvci_free(all);
	kvci_free(buffers);
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

/* CPU time, so that busy neighbours do not count; the median, so that one page fault does not. */
static void test_tier__submit_of_a_large_record__returns_at_once(void **state)
{
	enum { ROUNDS = 9, PAGES = 1000 };
	struct rig *rig = *state;
	uint8_t *buffer = rig_buffer((uint64_t)PAGES * 4096);
	uint64_t spent_ns[ROUNDS];
	struct kvc_tier_entry entry;

	for (int i = 0; i < ROUNDS; i++) {
		struct many one = {0};
		size_t completed = 0;
		unsigned in_this_poll = 0;
		uint64_t start_ns;

		rig_record(buffer, (uint64_t)i, PAGES, &entry);
		assert_int_equal(rig_write(rig, buffer, &entry), KVC_OK);
		start_ns = thread_cpu_ns();
		assert_int_equal(many_submit(rig, &one, 1, &completed, &in_this_poll, &entry, buffer, KVC_TIER_READ), 1);
		spent_ns[i] = thread_cpu_ns() - start_ns;
		while (completed == 0)
			rig_poll(rig, 100);
	}
	qsort(spent_ns, ROUNDS, sizeof(spent_ns[0]), compare_u64);
	assert_true(spent_ns[ROUNDS / 2] < 200000);
	kvci_free(buffer);
}

static void test_tier__registered_memory__works_like_any_other(void **state)
{
	struct rig *rig = *state;
	uint8_t *slab = rig_buffer(4 << 20);
	struct kvc_tier_entry entry;
	kvc_status_t status = kvci_tier_register_memory(rig->tier, slab, 4 << 20);

	assert_true(status == KVC_OK || status == KVC_UNSUPPORTED);
	for (uint64_t i = 0; i < 50; i++) {
		uint8_t *at = slab + i % 4 * (1 << 20);
		uint32_t pages = i % 3 == 0 ? 200 : 20; /* long ones and short ones may go different ways */

		rig_record(at, i, pages, &entry);
		assert_int_equal(rig_write(rig, at, &entry), KVC_OK);
		memset(at, 0, pages * 4096);
		assert_int_equal(rig_read(rig, at, &entry, 0), keeps(rig) ? KVC_OK : KVC_MISS);
		if (keeps(rig))
			assert_true(rig_record_is(at, i, pages));
	}
	kvci_tier_unregister_memory(rig->tier, slab, 4 << 20);
	kvci_free(slab);
	slab = rig_buffer(4 << 20); /* likely at the same address, and not registered */
	assert_int_equal(rig_read(rig, slab, &entry, 0), keeps(rig) ? KVC_OK : KVC_MISS);
	if (keeps(rig))
		assert_true(rig_record_is(slab, 49, 20));
	kvci_free(slab);
}

static void test_tier__filled_many_times_over__within_capacity_and_right_or_lost(void **state)
{
	enum { COUNT = 700, PAGES = 64 }; /* 175 MiB through 64 MiB */
	struct rig *rig = *state;
	struct kvc_tier_entry *entries = kvci_alloc_zero(COUNT, sizeof(*entries));
	struct kvc_tier_stats stats;
	size_t hits = 0;

	rig->keep_percent = 20;
	for (uint64_t i = 0; i < COUNT; i++) {
		assert_int_equal(rig_store(rig, i, PAGES, &entries[i]), KVC_OK);
		kvci_tier_stats(rig->tier, &stats);
		assert_true(stats.used_bytes <= rig->caps.capacity_bytes);
	}
	for (uint64_t i = 0; i < COUNT; i++) {
		kvc_status_t status = rig_load(rig, i, &entries[i]);
		const struct kvc_tier_entry *moved = rig_find(&rig->moved, &entries[i]);

		assert_true(status == KVC_OK || status == KVC_MISS);
		if (keeps(rig))
			assert_int_equal(status == KVC_MISS, rig_was_lost(rig, &entries[i].place));
		if (moved != NULL && !rig_was_lost(rig, &moved->place)) {
			assert_int_equal(rig_load(rig, i, moved), KVC_OK);
			hits++;
		}
		hits += status == KVC_OK;
	}
	if (keeps(rig)) {
		assert_true(rig->lost_count > 0);
		assert_true(rig->keep_asked > 0);
		assert_true(rig->moved_count > 0);
		/* Two of sixteen segments are free, one is being written, and moved ones take their share. */
		assert_true(hits > 64 * 256 / PAGES / 2);
		kvci_tier_stats(rig->tier, &stats);
		assert_true(stats.reclaimed_segments == rig->lost_count);
		assert_true(stats.reappended_bytes <= stats.reclaimed_segments * (4 << 20) / 4);
	}
	kvci_free(entries);
}

static void test_tier__reopened__index_has_what_was_stored(void **state)
{
	enum { COUNT = 300 };
	struct rig *rig = *state;
	struct kvc_tier_entry *entries = kvci_alloc_zero(COUNT, sizeof(*entries));

	for (uint64_t i = 0; i < COUNT; i++)
		assert_int_equal(rig_store(rig, i, (uint32_t)(i % 30) + 1, &entries[i]), KVC_OK);
	if (!rig->caps.durable) {
		kvci_free(entries);
		return;
	}
	for (uint64_t i = 0; i < COUNT; i += 10)
		assert_int_equal(kvci_tier_drop(rig->tier, &entries[i]), KVC_OK);
	rig_close(rig);
	rig_open(rig, subject_open("64MiB", "4MiB"), true);
	assert_int_equal(rig->index_delivered, COUNT - COUNT / 10);
	assert_int_equal(rig->index_complete_calls, 1);
	for (uint64_t i = 0; i < COUNT; i++) {
		const struct kvc_tier_entry *found = rig_find(&rig->index, &entries[i]);

		if (i % 10 == 0) {
			assert_null(found);
			assert_int_equal(rig_load(rig, i, &entries[i]), KVC_MISS);
			continue;
		}
		assert_non_null(found);
		assert_memory_equal(found, &entries[i], sizeof(*found));
		assert_int_equal(rig_load(rig, i, found), KVC_OK);
	}
	/* And it goes on. */
	assert_int_equal(rig_store(rig, COUNT, 5, &entries[0]), KVC_OK);
	assert_int_equal(rig_load(rig, COUNT, &entries[0]), KVC_OK);
	kvci_free(entries);
}

static void test_tier__figures__count_what_was_done(void **state)
{
	struct rig *rig = *state;
	struct kvc_tier_entry entry;
	struct kvc_tier_stats before, after;

	kvci_tier_stats(rig->tier, &before);
	assert_int_equal(rig_store(rig, 1, 10, &entry), KVC_OK);
	rig_load(rig, 1, &entry);
	rig_load(rig, 1, &entry);
	rig_flush(rig);
	kvci_tier_stats(rig->tier, &after);
	assert_int_equal(after.writes - before.writes, 1);
	assert_int_equal(after.write_bytes - before.write_bytes, 10 * 4096);
	assert_int_equal(after.reads - before.reads, 2);
	assert_int_equal(after.flushes - before.flushes, 1);
	assert_int_equal(after.queue_bytes, 0);
	assert_int_equal(after.read_errors, 0);
	if (keeps(rig)) {
		assert_int_equal(after.read_bytes - before.read_bytes, 2 * 10 * 4096);
		assert_int_equal(after.records - before.records, 1);
	}
}

static void test_tier__table__is_whole(void **state)
{
	struct rig *rig = *state;
	const struct kvc_tier_ops *ops = rig->tier->ops;
	const void *const *slots = (const void *const *)&ops->open;

	assert_int_equal(ops->struct_bytes, sizeof(*ops));
	assert_int_equal(ops->abi_version, KVC_TIER_ABI);
	for (size_t i = 0; i < (sizeof(*ops) - offsetof(struct kvc_tier_ops, open)) / sizeof(void *); i++)
		assert_non_null(slots[i]);
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_tier__table__is_whole),
		CASE(test_tier__fresh__index_is_complete_and_empty),
		CASE(test_tier__attached_twice__refused),
		CASE(test_tier__written__reads_back_the_same),
		CASE(test_tier__read_unverified__right_bytes_all_the_same),
		CASE(test_tier__read_as_another__never_ok),
		CASE(test_tier__places_out_of_reason__miss),
		CASE(test_tier__bad_requests__refused_by_the_wrapper),
		CASE(test_tier__flush__completes),
		CASE(test_tier__figures__count_what_was_done),
		CASE(test_tier__dropped__is_gone),
		CASE(test_tier__submit_of_a_large_record__returns_at_once),
		CASE(test_tier__registered_memory__works_like_any_other),
		CASE(test_tier__more_than_it_takes__busy_and_each_taken_completes_once),
		CASE(test_tier__closed_with_requests_under_way__each_completes_once),
		CASE(test_tier__reopened__index_has_what_was_stored),
		CASE(test_tier__filled_many_times_over__within_capacity_and_right_or_lost),
	};

	for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++) {
		if (argc == 2 && strcmp(argv[1], subjects[i].name) == 0)
			subject = &subjects[i];
	}
	if (subject == NULL) {
		fprintf(stderr, "usage: %s NAME (see the table of subjects)\n", argv[0]);
		return 2;
	}
	if (subject->io != NULL && strcmp(subject->io, "uring") == 0) {
		struct kvc_tier *tier;
		char *error = NULL;
		kvc_status_t status;
		struct kvc_tier_option options[] = {{"folder", rig_folder("probe")}, {"capacity", "16MiB"}, {"segment", "4MiB"},
		                                    {"io", "uring"}, {NULL, NULL}};

		status = kvci_tier_open(subject->ops, options, &tier, &error);
		kvci_free(error);
		if (status == KVC_OK)
			kvci_tier_close(tier);
		rig_folder_remove(rig_folder("probe"));
		if (status == KVC_UNSUPPORTED)
			return 77; /* this kernel or container has no io_uring */
	}
	return cmocka_run_group_tests_name(subject->name, tests, NULL, NULL);
}
