/* SPDX-License-Identifier: Apache-2.0
 *
 * Reclaim: when fewer than KVCI_DISK_FREE_SEGMENTS segments are free, the oldest full one is emptied. Its entries come from the index
 * in batches; the owner is asked about each; what it keeps is read, checked and written again at the head, up to a quarter of the
 * segment. Then the segment's generation is raised (every old place is stale from that moment), the owner is told, and the keeper
 * forgets the entries and writes the new generation before the segment can be used again.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

static void reclaim_go_on(struct kvci_disk_tier *tier);

/* The oldest segment that nothing is being written to. */
static int32_t reclaim_oldest(const struct kvci_disk_tier *tier)
{
	int32_t oldest = -1;

	for (uint32_t i = 0; i < tier->segment_count; i++) {
		const struct kvci_disk_segment *segment = &tier->segments[i];

		if (segment->use == KVCI_DISK_FULL && segment->in_flight == 0 &&
		    (oldest < 0 || segment->generation < tier->segments[oldest].generation))
			oldest = (int32_t)i;
	}
	return oldest;
}

static void reclaim_finish(struct kvci_disk_tier *tier)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;
	struct kvci_disk_segment *segment = &tier->segments[reclaim->segment];
	struct kvci_keeper_op *forget = kvci_keeper_op_create(tier, KVCI_KEEPER_HEADER);
	uint32_t generation = segment->generation;

	reclaim->active = false;
	if (forget == NULL) {
		/* No memory to order it: not now. The records are still there. */
		segment->use = KVCI_DISK_FULL;
		return;
	}
	segment->use = KVCI_DISK_SPARE;
	segment->generation = ++tier->generation_last;
	segment->next_4k = KVCI_DISK_HEADER_PAGES;
	segment->records = 0;
	segment->dirty = false;
	segment->close_owed = false;
	tier->stats.reclaimed_segments++;
	tier->events.lost(tier->events.context, reclaim->segment, generation);
	kvci_disk_header_order(tier, forget, reclaim->segment, KVCI_DISK_FREE);
	kvci_disk_prepare_kick(tier);
	kvci_reclaim_kick(tier);
}

static void reclaim_collected(struct kvci_job *job)
{
	struct kvci_keeper_op *op = (struct kvci_keeper_op *)job;
	struct kvci_disk_tier *tier = op->tier;
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;

	reclaim->collecting = false;
	reclaim->count = op->count;
	reclaim->at = 0;
	reclaim->next_from_4k = op->from_4k;
	/* An index that cannot be read keeps nothing. */
	reclaim->last_batch = !op->more || op->status != KVC_OK;
	kvci_keeper_op_destroy(op);
	reclaim_go_on(tier);
}

static bool reclaim_collect(struct kvci_disk_tier *tier)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;
	struct kvci_keeper_op *op = kvci_keeper_op_create(tier, KVCI_KEEPER_COLLECT);

	if (op == NULL)
		return false;
	op->segment = reclaim->segment;
	op->generation = tier->segments[reclaim->segment].generation;
	op->from_4k = reclaim->next_from_4k;
	op->entries = reclaim->entries;
	op->room = KVCI_RECLAIM_BATCH;
	op->job.done = reclaim_collected;
	reclaim->collecting = true;
	kvci_keeper_order(tier, op);
	return true;
}

/* ---- movers ---- */

static void reclaim_mover_end(struct kvci_disk_mover *mover)
{
	struct kvci_disk_tier *tier = mover->tier;

	mover->active = false;
	tier->reclaim.movers_active--;
	if (!tier->closing)
		reclaim_go_on(tier);
}

static void reclaim_written(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_disk_mover *mover = request->context;
	struct kvci_disk_tier *tier = mover->tier;

	if (status == KVC_OK && mover->unwanted)
		kvci_disk_drop(tier, &request->entry);
	else if (status == KVC_OK && !tier->closing)
		tier->events.moved(tier->events.context, &request->entry, &mover->from);
	reclaim_mover_end(mover);
}

static void reclaim_read(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_disk_mover *mover = request->context;
	struct kvci_disk_tier *tier = mover->tier;
	uint32_t length_4k = mover->from.length_4k;

	if (status == KVC_OK && !mover->unwanted && !tier->closing) {
		request->op = KVC_TIER_WRITE;
		request->done = reclaim_written;
		status = kvci_disk_write(tier, request, length_4k, true);
		if (status == KVC_OK)
			return;
		/* No place for it: then for no other either. What is left goes with the segment. */
		tier->reclaim.full = true;
	}
	reclaim_mover_end(mover);
}

static struct kvci_disk_mover *reclaim_mover(struct kvci_disk_tier *tier, uint64_t bytes)
{
	for (uint32_t i = 0; i < KVCI_RECLAIM_MOVERS; i++) {
		struct kvci_disk_mover *mover = &tier->reclaim.movers[i];

		if (mover->active)
			continue;
		if (mover->buffer_bytes < bytes) {
			kvci_free(mover->buffer);
			mover->buffer_bytes = 0;
			mover->buffer = kvci_alloc_aligned(KVCI_DISK_PAGE_BYTES, bytes);
			if (mover->buffer == NULL)
				return NULL;
			mover->buffer_bytes = bytes;
		}
		return mover;
	}
	return NULL;
}

/* Reads the record that is to be moved. False: not now, or (full) not at all. */
static bool reclaim_move(struct kvci_disk_tier *tier, const struct kvc_tier_entry *entry)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;
	struct kvci_disk_mover *mover = reclaim_mover(tier, (uint64_t)entry->place.length_4k * KVCI_DISK_PAGE_BYTES);

	if (mover == NULL) {
		reclaim->full = true;
		return false;
	}
	mover->tier = tier;
	mover->from = entry->place;
	mover->unwanted = false;
	mover->request = (struct kvc_tier_request){
		.op = KVC_TIER_READ,
		.entry = *entry,
		.buffer = mover->buffer,
		.done = reclaim_read,
		.context = mover,
	};
	if (kvci_disk_read(tier, &mover->request, true) != KVC_OK) {
		reclaim->full = true;
		return false;
	}
	mover->active = true;
	reclaim->movers_active++;
	reclaim->moved_4k += entry->place.length_4k;
	return true;
}

/* Asks about what the last batch holds, as long as a mover is free for what is kept. */
static void reclaim_ask(struct kvci_disk_tier *tier)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;

	while (reclaim->at < reclaim->count && !reclaim->full) {
		const struct kvc_tier_entry *entry = &reclaim->entries[reclaim->at];

		if (reclaim->movers_active == KVCI_RECLAIM_MOVERS)
			return;
		reclaim->at++;
		if (entry->place.length_4k > reclaim->limit_4k - reclaim->moved_4k)
			continue;
		if (tier->events.keep(tier->events.context, entry))
			reclaim_move(tier, entry);
	}
}

static void reclaim_go_on(struct kvci_disk_tier *tier)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;

	if (!reclaim->active || reclaim->collecting || tier->closing)
		return;
	reclaim_ask(tier);
	if (reclaim->at < reclaim->count && !reclaim->full)
		return; /* a mover will call again */
	if (!reclaim->last_batch && !reclaim->full && reclaim->moved_4k < reclaim->limit_4k && reclaim_collect(tier))
		return;
	if (reclaim->movers_active == 0)
		reclaim_finish(tier);
	else
		reclaim->full = true; /* only the movers are waited for */
}

void kvci_reclaim_kick(struct kvci_disk_tier *tier)
{
	struct kvci_disk_reclaim *reclaim = &tier->reclaim;
	int32_t oldest;

	if (reclaim->active || tier->loading || tier->closing || !tier->attached ||
	    kvci_disk_free_segments(tier) >= KVCI_DISK_FREE_SEGMENTS)
		return;
	oldest = reclaim_oldest(tier);
	if (oldest < 0)
		return;
	if (reclaim->entries == NULL)
		reclaim->entries = kvci_alloc(KVCI_RECLAIM_BATCH * sizeof(reclaim->entries[0]));
	if (reclaim->entries == NULL)
		return; /* asked again with the next write */
	reclaim->active = true;
	reclaim->segment = (uint32_t)oldest;
	reclaim->count = reclaim->at = 0;
	reclaim->next_from_4k = 0;
	reclaim->last_batch = false;
	reclaim->full = false;
	reclaim->moved_4k = 0;
	reclaim->limit_4k = tier->segments[oldest].length_4k / 100 * KVCI_RECLAIM_SHARE_PERCENT;
	tier->segments[oldest].use = KVCI_DISK_RECLAIMING;
	if (!reclaim_collect(tier)) {
		tier->segments[oldest].use = KVCI_DISK_FULL;
		reclaim->active = false;
	}
}

void kvci_reclaim_dropped(struct kvci_disk_tier *tier, const struct kvc_place *place)
{
	for (uint32_t i = 0; i < KVCI_RECLAIM_MOVERS; i++) {
		struct kvci_disk_mover *mover = &tier->reclaim.movers[i];

		if (mover->active && memcmp(&mover->from, place, sizeof(*place)) == 0)
			mover->unwanted = true;
	}
}

void kvci_reclaim_fini(struct kvci_disk_tier *tier)
{
	for (uint32_t i = 0; i < KVCI_RECLAIM_MOVERS; i++)
		kvci_free(tier->reclaim.movers[i].buffer);
	kvci_free(tier->reclaim.entries);
}
