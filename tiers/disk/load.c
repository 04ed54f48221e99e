/* SPDX-License-Identifier: Apache-2.0
 *
 * Start-up, on a thread of its own, so that the daemon answers meanwhile:
 *
 *   1. the newest segment is looked through from where the index ends; the owner may write from then on
 *   2. segment by segment, the oldest first: it is looked through where the index does not cover it, what is found goes
 *      into the index, and what the index has of it is handed to the owner in batches
 *
 * An index that turns out broken is made anew from the segments, once.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "tiers/disk/internal.h"
#include "tiers/disk/scan.h"

enum { LOAD_PUTS_MAX = 512 };

/* What was found out about a segment, for the owner. */
struct load_note {
	struct kvci_job job; /* first */
	struct kvci_disk_tier *tier;
	uint32_t segment;
	uint32_t use;        /* HEAD, READY or FULL */
	uint32_t end_4k;
	bool whole;          /* it was looked through as far as it had to be */
};

struct load_segment {
	uint32_t number, generation, length_4k;
	uint32_t from_4k, to_4k, next_4k;
	int fd;
	bool verify;
	uint32_t records;
	struct load_note note;
	struct load_note count_note;
};

struct kvci_loader {
	struct kvci_disk_tier *tier;
	pthread_t thread;
	bool started;
	atomic_bool stop;
	sem_t batches_free;
	struct kvci_load_batch batches[KVCI_LOAD_BATCHES];
	struct kvci_load_batch *filling;
	uint32_t batch_next;
	struct kvci_job end_job;
	kvc_status_t status;
	uint64_t records, healed, torn, start_ns, scan_ns;
	struct kvci_disk_batch *puts;
	uint32_t put_count;
	bool rebuilt;
	size_t segment_count;
	struct load_segment segments[]; /* oldest first */
};

/* ---- owner's side ---- */

static void load_head_opened(struct kvci_job *job)
{
	struct kvci_keeper_op *op = (struct kvci_keeper_op *)job;
	struct kvci_disk_tier *tier = op->tier;

	if (op->status == KVC_OK && tier->head < 0) {
		tier->head = (int32_t)op->segment;
		tier->segments[op->segment].use = KVCI_DISK_HEAD;
	} else {
		tier->segments[op->segment].close_owed = true; /* left behind by a ready one */
		kvci_disk_segment_settle(tier, op->segment);
	}
	kvci_keeper_op_destroy(op);
	if (!tier->closing)
		kvci_disk_prepare_kick(tier);
}

/* The header says OPEN before the first record behind its end is written. */
static void load_take_head(struct kvci_disk_tier *tier, uint32_t number)
{
	struct kvci_keeper_op *op = kvci_keeper_op_create(tier, KVCI_KEEPER_HEADER);

	if (op == NULL)
		return; /* then a ready one becomes head */
	op->job.done = load_head_opened;
	kvci_disk_header_order(tier, op, number, KVCI_DISK_OPEN);
}

static void load_noted(struct kvci_job *job)
{
	struct load_note *note = (struct load_note *)job;
	struct kvci_disk_tier *tier = note->tier;
	struct kvci_disk_segment *segment = &tier->segments[note->segment];

	if (tier->closing)
		return;
	if (note->end_4k > segment->next_4k)
		segment->next_4k = note->end_4k;
	if (!note->whole) {
		/* What it holds is not all known: it is neither written on nor closed, and the next start looks again. */
		segment->close_owed = false;
		return;
	}
	if (note->use == KVCI_DISK_READY) {
		segment->use = KVCI_DISK_READY;
		segment->close_owed = false;
		tier->ready = (int32_t)note->segment;
	} else if (note->use == KVCI_DISK_HEAD) {
		segment->close_owed = false;
		load_take_head(tier, note->segment);
	} else {
		kvci_disk_segment_settle(tier, note->segment);
	}
}

static void load_counted(struct kvci_job *job)
{
	struct load_note *note = (struct load_note *)job;

	note->tier->segments[note->segment].records += note->end_4k;
}

static void load_deliver(struct kvci_job *job)
{
	struct kvci_load_batch *batch = (struct kvci_load_batch *)job;
	struct kvci_disk_tier *tier = batch->tier;

	if (!tier->closing)
		tier->events.index(tier->events.context, batch->entries, batch->count, true);
	sem_post(&tier->loader->batches_free);
}

static void load_ended(struct kvci_job *job)
{
	struct kvci_loader *loader = (struct kvci_loader *)((char *)job - offsetof(struct kvci_loader, end_job));
	struct kvci_disk_tier *tier = loader->tier;

	if (tier->closing)
		return;
	if (loader->segment_count != 0)
		kvci_log(KVCI_LOG_INFO, "disk", "%s: %llu records in %zu segments known after %.3f s (%llu of them found by looking "
		         "through segments, %llu torn)%s", tier->folder.path, (unsigned long long)loader->records,
		         loader->segment_count, (double)(kvci_clock_ns() - loader->start_ns) / 1e9,
		         (unsigned long long)loader->healed, (unsigned long long)loader->torn,
		         loader->status == KVC_OK ? "" : "; not all could be read");
	tier->loading = false;
	tier->events.index(tier->events.context, NULL, 0, false);
	if (loader->status != KVC_OK)
		kvci_disk_health(tier, false, loader->status, "the index cannot be read");
	kvci_loader_stop(tier);
	kvci_loader_free(tier);
	kvci_disk_prepare_kick(tier);
	kvci_reclaim_kick(tier);
}

/* ---- loader's side ---- */

static bool load_stopped(const struct kvci_loader *loader)
{
	return atomic_load_explicit(&loader->stop, memory_order_relaxed);
}

static kvc_status_t load_write(struct kvci_loader *loader)
{
	struct kvci_disk_tier *tier = loader->tier;
	kvc_status_t status;

	pthread_mutex_lock(&tier->db_lock);
	status = kvci_disk_db_write(tier->db, loader->puts);
	if (status != KVC_OK)
		tier->db_partial = true;
	pthread_mutex_unlock(&tier->db_lock);
	loader->put_count = 0;
	return status;
}

struct load_scan {
	struct kvci_loader *loader;
	struct load_segment *segment;
	uint32_t records;
};

static bool load_found(void *context, const struct kvc_tier_entry *entry, kvc_status_t status)
{
	struct load_scan *found = context;
	struct kvci_loader *loader = found->loader;

	found->records++;
	if (status == KVC_CORRUPT)
		loader->torn++;
	if (status != KVC_OK)
		return true;
	kvci_disk_batch_put(loader->puts, entry);
	loader->healed++;
	if (++loader->put_count >= LOAD_PUTS_MAX)
		load_write(loader);
	return true;
}

/* Puts what the index does not know of a segment into it. *ret_records: how many there were, of any kind. */
static kvc_status_t load_heal(struct kvci_loader *loader, struct load_segment *segment, uint32_t *ret_records)
{
	struct load_scan found = {.loader = loader, .segment = segment};
	struct kvci_disk_scan scan = {
		.fd = segment->fd,
		.uuid = loader->tier->uuid,
		.segment = segment->number,
		.generation = segment->generation,
		.from_4k = segment->from_4k,
		.to_4k = segment->to_4k,
		.verify = segment->verify,
		.stop = &loader->stop,
		.context = &found,
		.record = load_found,
	};
	uint32_t end_4k = segment->next_4k;
	kvc_status_t status = KVC_OK;

	*ret_records = 0;
	if (segment->from_4k >= segment->to_4k)
		return KVC_OK;
	status = kvci_disk_scan_run(&scan, &end_4k);
	if (status != KVC_OK) {
		load_write(loader);
		return status;
	}
	if (end_4k > segment->next_4k)
		segment->next_4k = end_4k;
	/* In a rebuild it is not said: writes go on beside it. The next start looks once more. */
	if (!loader->rebuilt)
		kvci_disk_batch_segment(loader->puts, segment->number, segment->generation, segment->next_4k);
	*ret_records = found.records;
	return load_write(loader);
}

static void load_post(struct kvci_loader *loader, struct load_segment *segment, enum kvci_disk_use use, bool whole)
{
	segment->note = (struct load_note){
		.job = {.done = load_noted}, .tier = loader->tier, .segment = segment->number, .use = use,
		.end_4k = segment->next_4k, .whole = whole,
	};
	kvci_mailbox_post(loader->tier->mailbox, &segment->note.job);
}

/* The segment that was being written last, and the one made ready behind it. Returns how many of the newest are dealt with. */
static size_t load_heads(struct kvci_loader *loader)
{
	size_t dealt = 0;
	uint32_t records;

	while (dealt < 2 && dealt < loader->segment_count) {
		struct load_segment *segment = &loader->segments[loader->segment_count - 1 - dealt];
		kvc_status_t status = load_heal(loader, segment, &records);
		bool empty = records == 0 && segment->next_4k == KVCI_DISK_HEADER_PAGES;
		bool behind = dealt == 0 && status == KVC_OK && empty && loader->segment_count > 1;

		if (load_stopped(loader))
			return dealt;
		dealt++;
		load_post(loader, segment, behind ? KVCI_DISK_READY : KVCI_DISK_HEAD, status == KVC_OK);
		if (!behind)
			break;
	}
	return dealt;
}

static void load_hand_over(struct kvci_loader *loader)
{
	struct kvci_load_batch *batch = loader->filling;

	if (batch == NULL || batch->count == 0)
		return;
	loader->filling = NULL;
	batch->job = (struct kvci_job){.done = load_deliver};
	kvci_mailbox_post(loader->tier->mailbox, &batch->job);
}

static bool load_add(struct kvci_loader *loader, const struct kvc_tier_entry *entry)
{
	if (loader->filling == NULL) {
		while (sem_wait(&loader->batches_free) != 0)
			;
		if (load_stopped(loader))
			return false;
		/* The owner gives batches back in the order in which it got them. */
		loader->filling = &loader->batches[loader->batch_next++ % KVCI_LOAD_BATCHES];
		loader->filling->count = 0;
	}
	loader->filling->entries[loader->filling->count++] = *entry;
	loader->records++;
	if (loader->filling->count == KVCI_LOAD_BATCH)
		load_hand_over(loader);
	return true;
}

static void load_count(struct kvci_loader *loader, struct load_segment *segment)
{
	/* Once: the index may be read twice. */
	if (segment->count_note.tier != NULL)
		return;
	segment->count_note = (struct load_note){
		.job = {.done = load_counted}, .tier = loader->tier, .segment = segment->number, .end_4k = segment->records,
	};
	kvci_mailbox_post(loader->tier->mailbox, &segment->count_note.job);
}

/* Hands over what the index has of a segment. */
static kvc_status_t load_entries(struct kvci_loader *loader, struct load_segment *segment)
{
	struct kvci_disk_cursor *cursor = NULL;
	struct kvc_tier_entry entry;
	uint64_t skipped = 0;
	kvc_status_t status = kvci_disk_cursor_create(loader->tier->db, &cursor);

	if (status != KVC_OK)
		return status;
	segment->records = 0;
	kvci_disk_cursor_seek(cursor, segment->number, 0);
	while (kvci_disk_cursor_next(cursor, &entry, &skipped)) {
		/* What was written since the start lies behind, and its owner knows it. */
		if (entry.place.generation != segment->generation || entry.place.offset_4k >= segment->next_4k)
			continue;
		segment->records++;
		if (!load_add(loader, &entry))
			break;
	}
	status = kvci_disk_cursor_status(cursor);
	kvci_disk_cursor_destroy(cursor);
	/* An entry that fails its own checksum: RocksDB did not see what is broken. */
	if (skipped != 0)
		kvci_log(KVCI_LOG_WARN, "disk", "index: %llu entries are damaged", (unsigned long long)skipped);
	if (status == KVC_OK)
		load_count(loader, segment);
	return skipped != 0 && status == KVC_OK ? KVC_CORRUPT : status;
}

/* From the oldest segment to the newest, of which the last `healed` are looked through already. */
static kvc_status_t load_segments(struct kvci_loader *loader, size_t healed)
{
	kvc_status_t status = KVC_OK;
	uint32_t records;

	for (size_t i = 0; i < loader->segment_count && status == KVC_OK && !load_stopped(loader); i++) {
		struct load_segment *segment = &loader->segments[i];

		if (i + healed < loader->segment_count) {
			status = load_heal(loader, segment, &records);
			if (load_stopped(loader))
				break;
			if (!loader->rebuilt)
				load_post(loader, segment, KVCI_DISK_FULL, status == KVC_OK);
		}
		/* A segment that cannot be looked through still gives what the index knows of it. */
		status = load_entries(loader, segment);
	}
	load_hand_over(loader);
	return load_stopped(loader) ? KVC_CANCELED : status;
}

/* Throws the index away and makes it anew. What is written meanwhile is found by the scan or put into the new one; but how far segments
 * that came later are covered is not known any more, and so not said (db_partial). */
static kvc_status_t load_rebuild(struct kvci_loader *loader)
{
	struct kvci_disk_tier *tier = loader->tier;
	char *error = NULL;
	kvc_status_t status;

	kvci_log(KVCI_LOG_WARN, "disk", "%s is damaged; it is made anew from the segments", tier->db_path);
	loader->rebuilt = true;
	pthread_mutex_lock(&tier->db_lock);
	tier->db_partial = true;
	kvci_disk_db_close(tier->db);
	tier->db = NULL;
	kvci_disk_db_remove(tier->db_path);
	status = kvci_disk_db_open(tier->db_path, &tier->db, &error);
	pthread_mutex_unlock(&tier->db_lock);
	if (status != KVC_OK) {
		kvci_log(KVCI_LOG_ERROR, "disk", "%s", error != NULL ? error : "the index cannot be made");
		kvci_free(error);
		return status;
	}
	kvci_disk_batch_uuid(loader->puts, tier->uuid);
	for (size_t i = 0; i < loader->segment_count; i++) {
		struct load_segment *segment = &loader->segments[i];

		segment->from_4k = KVCI_DISK_HEADER_PAGES;
		segment->to_4k = segment->length_4k;
		segment->verify = false;
	}
	return load_segments(loader, 0);
}

static void *load_main(void *context)
{
	struct kvci_loader *loader = context;
	size_t healed = load_heads(loader);

	loader->status = load_segments(loader, healed);
	if (loader->status == KVC_CORRUPT || loader->status == KVC_IO)
		loader->status = load_rebuild(loader);
	loader->end_job.done = load_ended;
	kvci_mailbox_post(loader->tier->mailbox, &loader->end_job);
	return NULL;
}

static int load_compare(const void *a, const void *b)
{
	const struct load_segment *left = a, *right = b;

	return left->generation < right->generation ? -1 : left->generation > right->generation;
}

static void load_plan(struct kvci_loader *loader)
{
	struct kvci_disk_tier *tier = loader->tier;

	for (uint32_t i = 0; i < tier->segment_count; i++) {
		struct kvci_disk_segment *segment = &tier->segments[i];

		if (segment->use != KVCI_DISK_FULL)
			continue;
		loader->segments[loader->segment_count++] = (struct load_segment){
			.number = i,
			.generation = segment->generation,
			.length_4k = segment->length_4k,
			.from_4k = segment->scan_from_4k,
			.to_4k = segment->scan_to_4k,
			.next_4k = segment->next_4k,
			.fd = segment->fd,
			.verify = segment->scan_verify,
		};
	}
	if (loader->segment_count != 0)
		qsort(loader->segments, loader->segment_count, sizeof(loader->segments[0]), load_compare);
}

kvc_status_t kvci_loader_start(struct kvci_disk_tier *tier)
{
	struct kvci_loader *loader = kvci_alloc_zero(1, sizeof(*loader) +
	                                             (size_t)tier->segment_count * sizeof(loader->segments[0]));
	sigset_t all, before;

	if (loader == NULL)
		return KVC_NO_MEMORY;
	loader->tier = tier;
	loader->start_ns = kvci_clock_ns();
	loader->puts = kvci_disk_batch_create();
	if (loader->puts == NULL) {
		kvci_free(loader);
		return KVC_NO_MEMORY;
	}
	sem_init(&loader->batches_free, 0, KVCI_LOAD_BATCHES);
	for (int i = 0; i < KVCI_LOAD_BATCHES; i++)
		loader->batches[i].tier = tier;
	load_plan(loader);
	tier->loader = loader;
	tier->loading = true;
	sigfillset(&all); /* signals are the owner's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	loader->started = pthread_create(&loader->thread, NULL, load_main, loader) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!loader->started) {
		kvci_loader_free(tier);
		tier->loading = false;
		return KVC_NO_MEMORY;
	}
	pthread_setname_np(loader->thread, "disk-load");
	return KVC_OK;
}

void kvci_loader_stop(struct kvci_disk_tier *tier)
{
	struct kvci_loader *loader = tier->loader;

	if (loader == NULL)
		return;
	atomic_store(&loader->stop, true);
	sem_post(&loader->batches_free);
	if (loader->started)
		pthread_join(loader->thread, NULL);
	loader->started = false;
}

void kvci_loader_free(struct kvci_disk_tier *tier)
{
	struct kvci_loader *loader = tier->loader;

	if (loader == NULL)
		return;
	kvci_disk_batch_destroy(loader->puts);
	sem_destroy(&loader->batches_free);
	kvci_free(loader);
	tier->loader = NULL;
}
