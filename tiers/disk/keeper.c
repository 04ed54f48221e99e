/* SPDX-License-Identifier: Apache-2.0
 *
 * The keeper: one thread that writes the index and the segments' header pages in the order in which the owner asked. That order is
 * what makes places safe: a tombstone for an old generation is on the disk before the header that raises it, and a segment is
 * forgotten by the index before it is written again. Puts and drops that wait together go into one batch.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

enum { KEEPER_BATCH_MAX = 256, KEEPER_GATHER_NS = 20000000 };

struct kvci_keeper_op *kvci_keeper_op_create(struct kvci_disk_tier *tier, enum kvci_keeper_kind kind)
{
	struct kvci_keeper_op *op = kvci_alloc_zero(1, sizeof(*op));

	if (op != NULL) {
		op->kind = kind;
		op->tier = tier;
		op->fd = -1;
	}
	return op;
}

void kvci_keeper_op_destroy(struct kvci_keeper_op *op)
{
	if (op == NULL)
		return;
	kvci_free(op->fds);
	kvci_free(op);
}

static void keeper_finish(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	atomic_fetch_sub_explicit(&tier->keeper.backlog, 1, memory_order_relaxed);
	if (op->job.done != NULL)
		kvci_mailbox_post(tier->mailbox, &op->job);
	else
		kvci_keeper_op_destroy(op);
}

void kvci_keeper_order(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	struct kvci_keeper *keeper = &tier->keeper;

	op->next = NULL;
	atomic_fetch_add_explicit(&keeper->backlog, 1, memory_order_relaxed);
	/* What the last completions of a close still order comes too late: the next start finds it out by itself. */
	if (!keeper->started) {
		op->status = KVC_CANCELED;
		keeper_finish(tier, op);
		return;
	}
	pthread_mutex_lock(&keeper->lock);
	*keeper->end = op;
	keeper->end = &op->next;
	keeper->urgent |= op->kind != KVCI_KEEPER_PUT;
	/* While it gathers, another put is no reason to wake up. */
	if (++keeper->waiting == KEEPER_BATCH_MAX || keeper->urgent || !keeper->gathering)
		pthread_cond_signal(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
}

/* Into the batch: how far the segment of its puts is indexed. Once for all of them, since it is the last that counts, and among keys that grow
 * each one that lies elsewhere costs the index more than the key itself. */
static void keeper_indexed(struct kvci_disk_tier *tier)
{
	struct kvci_keeper *keeper = &tier->keeper;

	if (keeper->put_generation != 0)
		kvci_disk_batch_segment(keeper->batch, keeper->put_segment, keeper->put_generation, keeper->put_indexed_4k);
	keeper->put_generation = 0;
}

/* Writes what is in the batch. An index that misses a write no longer says how far segments are indexed: the next start scans
 * them. */
static kvc_status_t keeper_commit(struct kvci_disk_tier *tier)
{
	kvc_status_t status;

	keeper_indexed(tier);
	pthread_mutex_lock(&tier->db_lock);
	status = kvci_disk_db_write(tier->db, tier->keeper.batch);
	if (status != KVC_OK)
		tier->db_partial = true;
	pthread_mutex_unlock(&tier->db_lock);
	atomic_store_explicit(&tier->keeper.status, status, memory_order_relaxed);
	return status;
}

static void keeper_put(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	const struct kvc_place *place = &op->entry.place;
	struct kvci_keeper *keeper = &tier->keeper;
	bool partial;

	pthread_mutex_lock(&tier->db_lock);
	partial = tier->db_partial;
	pthread_mutex_unlock(&tier->db_lock);
	if (keeper->put_segment != place->segment || keeper->put_generation != place->generation)
		keeper_indexed(tier);
	kvci_disk_batch_put(keeper->batch, &op->entry);
	if (partial)
		return;
	keeper->put_segment = place->segment;
	keeper->put_generation = place->generation;
	keeper->put_indexed_4k = op->indexed_4k;
}

/* Marks the record on the disk, so that a rebuild does not bring it back. MISS: it is not (or no longer) there. */
static kvc_status_t keeper_bury(struct kvci_disk_tier *tier, const struct kvci_keeper_op *op)
{
	const struct kvc_place *place = &op->entry.place;
	uint64_t offset_bytes = (uint64_t)place->offset_4k * KVCI_DISK_PAGE_BYTES;
	uint32_t pages = place->length_4k < KVCI_DISK_HEAD_PAGES_MAX ? place->length_4k : KVCI_DISK_HEAD_PAGES_MAX;
	struct kvci_record_header *header = tier->keeper.page;
	const struct kvci_record_header *parsed;
	const struct kvci_section_entry *sections;
	size_t bytes = 0;
	kvc_status_t status = kvci_disk_pread(op->fd, header, (size_t)pages * KVCI_DISK_PAGE_BYTES, offset_bytes, &bytes);

	if (status != KVC_OK)
		return status;
	if (kvci_record_parse(header, bytes, &parsed, &sections) != KVC_OK ||
	    header->place_seal != kvci_disk_seal(tier->uuid, place->segment, place->generation, place->offset_4k,
	                                         header->header_checksum) ||
	    kvci_disk_entry_check(header, &op->entry) != KVC_OK)
		return KVC_MISS;
	header->flags |= KVCI_RECORD_TOMBSTONE;
	header->header_checksum = kvci_record_header_checksum(header);
	header->place_seal = kvci_disk_seal(tier->uuid, place->segment, place->generation, place->offset_4k,
	                                    header->header_checksum);
	return kvci_disk_pwrite(op->fd, header, KVCI_DISK_PAGE_BYTES, offset_bytes);
}

static void keeper_drop(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	op->status = keeper_bury(tier, op);
	if (op->status != KVC_OK && op->status != KVC_MISS)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "disk", "segment %08x: the dropped record at page %u cannot be marked: %s",
		                 op->entry.place.segment, op->entry.place.offset_4k, kvc_status_text(op->status));
	kvci_disk_batch_delete(tier->keeper.batch, op->entry.place.segment, op->entry.place.offset_4k);
}

static void keeper_header(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	if (op->header.state == KVCI_DISK_FREE) {
		kvci_disk_batch_delete_segment(tier->keeper.batch, op->segment);
		kvci_disk_batch_segment(tier->keeper.batch, op->segment, op->generation, KVCI_DISK_HEADER_PAGES);
		keeper_commit(tier);
	}
	op->status = kvci_disk_header_store(op->fd, &op->header);
	if (op->status != KVC_OK)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "disk", "segment %08x: its header cannot be written: %s", op->segment,
		                 kvc_status_text(op->status));
}

static void keeper_prepare(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	uint64_t length_bytes = (uint64_t)op->header.length_4k * KVCI_DISK_PAGE_BYTES;
	bool made = op->fd < 0;
	int fd = op->fd;

	op->status = made ? kvci_disk_segment_make(&tier->folder, op->segment, length_bytes,
	                                           kvci_disk_reserve_bytes(tier), &fd) :
	                    kvci_disk_segment_allocate(fd, length_bytes);
	if (op->status != KVC_OK)
		return;
	op->status = kvci_disk_header_store(fd, &op->header);
	if (op->status == KVC_OK && made && fsync(tier->folder.dir_fd) != 0)
		op->status = kvci_disk_status_of_errno((uint32_t)errno);
	if (op->status != KVC_OK && made) {
		close(fd);
		kvci_disk_segment_remove(&tier->folder, op->segment);
	} else {
		op->fd = fd;
	}
}

static void keeper_collect(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	struct kvci_disk_cursor *cursor;

	pthread_mutex_lock(&tier->db_lock);
	op->status = kvci_disk_cursor_create(tier->db, &cursor);
	if (op->status == KVC_OK) {
		kvci_disk_cursor_seek(cursor, op->segment, op->from_4k);
		while (op->count < op->room && kvci_disk_cursor_next(cursor, &op->entries[op->count], NULL)) {
			op->from_4k = op->entries[op->count].place.offset_4k + 1;
			if (op->entries[op->count].place.generation == op->generation)
				op->count++;
		}
		op->more = op->count == op->room;
		op->status = kvci_disk_cursor_status(cursor);
		kvci_disk_cursor_destroy(cursor);
	}
	pthread_mutex_unlock(&tier->db_lock);
}

static void keeper_flush(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	kvc_status_t status;

	op->status = atomic_load_explicit(&tier->keeper.status, memory_order_relaxed);
	for (uint32_t i = 0; i < op->fd_count; i++) {
		if (fdatasync(op->fds[i]) != 0 && op->status == KVC_OK)
			op->status = kvci_disk_status_of_errno((uint32_t)errno);
	}
	pthread_mutex_lock(&tier->db_lock);
	status = kvci_disk_db_sync(tier->db);
	pthread_mutex_unlock(&tier->db_lock);
	if (op->status == KVC_OK)
		op->status = status;
}

static void keeper_carry_out(struct kvci_disk_tier *tier, struct kvci_keeper_op *op)
{
	switch (op->kind) {
	case KVCI_KEEPER_PUT:
		keeper_put(tier, op);
		break;
	case KVCI_KEEPER_DROP:
		keeper_drop(tier, op);
		break;
	case KVCI_KEEPER_HEADER:
		keeper_header(tier, op);
		break;
	case KVCI_KEEPER_PREPARE:
		keeper_prepare(tier, op);
		break;
	case KVCI_KEEPER_COLLECT:
		keeper_collect(tier, op);
		break;
	case KVCI_KEEPER_FLUSH:
		keeper_flush(tier, op);
		break;
	}
}

/* All that waits. Puts wait a little for others, since a batch of many costs hardly more than one; what a kill takes of them is found
 * again in the segments. NULL: stopping, and nothing is left. */
static struct kvci_keeper_op *keeper_take(struct kvci_keeper *keeper)
{
	struct kvci_keeper_op *list;
	struct timespec until;

	pthread_mutex_lock(&keeper->lock);
	while (keeper->first == NULL && !keeper->stopping)
		pthread_cond_wait(&keeper->wake, &keeper->lock);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += KEEPER_GATHER_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	keeper->gathering = true;
	while (!keeper->urgent && !keeper->stopping && keeper->waiting < KEEPER_BATCH_MAX &&
	       pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until) == 0)
		;
	keeper->gathering = keeper->urgent = false;
	keeper->waiting = 0;
	list = keeper->first;
	keeper->first = NULL;
	keeper->end = &keeper->first;
	pthread_mutex_unlock(&keeper->lock);
	return list;
}

static void *keeper_main(void *context)
{
	struct kvci_disk_tier *tier = context;
	struct kvci_keeper_op *op, *next;

	while ((op = keeper_take(&tier->keeper)) != NULL) {
		uint32_t in_batch = 0;

		for (; op != NULL; op = next) {
			bool batched = op->kind == KVCI_KEEPER_PUT || op->kind == KVCI_KEEPER_DROP;

			next = op->next;
			if (in_batch != 0 && (!batched || in_batch == KEEPER_BATCH_MAX)) {
				keeper_commit(tier);
				in_batch = 0;
			}
			keeper_carry_out(tier, op);
			in_batch += batched;
			keeper_finish(tier, op);
		}
		if (in_batch != 0)
			keeper_commit(tier);
	}
	return NULL;
}

kvc_status_t kvci_keeper_start(struct kvci_disk_tier *tier)
{
	struct kvci_keeper *keeper = &tier->keeper;
	sigset_t all, before;

	keeper->batch = kvci_disk_batch_create();
	keeper->page = kvci_alloc_aligned(KVCI_DISK_PAGE_BYTES, KVCI_RECORD_HEAD_BYTES_MAX);
	if (keeper->batch == NULL || keeper->page == NULL)
		return KVC_NO_MEMORY;
	sigfillset(&all); /* signals are the owner's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	keeper->started = pthread_create(&keeper->thread, NULL, keeper_main, tier) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!keeper->started)
		return KVC_NO_MEMORY;
	pthread_setname_np(keeper->thread, "disk-keeper");
	return KVC_OK;
}

void kvci_keeper_stop(struct kvci_disk_tier *tier)
{
	struct kvci_keeper *keeper = &tier->keeper;

	if (keeper->started) {
		pthread_mutex_lock(&keeper->lock);
		keeper->stopping = true;
		pthread_cond_signal(&keeper->wake);
		pthread_mutex_unlock(&keeper->lock);
		pthread_join(keeper->thread, NULL);
		keeper->started = false;
	}
	kvci_disk_batch_destroy(keeper->batch);
	kvci_free(keeper->page);
	keeper->batch = NULL;
	keeper->page = NULL;
}
