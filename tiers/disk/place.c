/* SPDX-License-Identifier: Apache-2.0
 *
 * Places: one head segment is written front to back; before it is full the keeper has made the next one ready. A segment's way is
 * spare -> preparing -> ready -> head -> full -> reclaiming -> spare, and its generation is raised when it becomes spare.
 * Generations are numbered through the whole store, so that of two places the greater generation is the newer.
 */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

enum { PLACE_RETRY_MS = 1000, PLACE_MAKE_RETRY_S = 30, PLACE_RESERVE_BYTES_MAX = 64 << 20 };

struct kvci_disk_segment *kvci_disk_place_segment(struct kvci_disk_tier *tier, const struct kvc_place *place)
{
	struct kvci_disk_segment *segment;

	if (place->segment >= tier->segment_count || place->generation == 0 || place->length_4k == 0)
		return NULL;
	segment = &tier->segments[place->segment];
	if (segment->generation != place->generation || segment->use < KVCI_DISK_HEAD ||
	    segment->use == KVCI_DISK_FOREIGN || place->offset_4k < KVCI_DISK_HEADER_PAGES ||
	    place->offset_4k >= segment->length_4k || place->length_4k > segment->length_4k - place->offset_4k)
		return NULL;
	return segment;
}

void kvci_disk_segment_header(struct kvci_disk_tier *tier, uint32_t number, enum kvci_disk_state state,
                              struct kvci_disk_header *ret_header)
{
	struct kvci_disk_segment *segment = &tier->segments[number];

	*ret_header = (struct kvci_disk_header){
		.segment = number,
		.generation = segment->generation,
		.length_4k = segment->length_4k,
		.state = state,
		.end_4k = state == KVCI_DISK_CLOSED ? segment->next_4k : 0,
		.writes = ++segment->header_writes,
	};
	memcpy(ret_header->uuid, tier->uuid, sizeof(ret_header->uuid));
}

void kvci_disk_header_order(struct kvci_disk_tier *tier, struct kvci_keeper_op *op, uint32_t number,
                            enum kvci_disk_state state)
{
	op->segment = number;
	op->generation = tier->segments[number].generation;
	op->fd = tier->segments[number].fd;
	kvci_disk_segment_header(tier, number, state, &op->header);
	kvci_keeper_order(tier, op);
}

void kvci_disk_segment_settle(struct kvci_disk_tier *tier, uint32_t number)
{
	struct kvci_disk_segment *segment = &tier->segments[number];
	struct kvci_keeper_op *op;

	if (segment->use != KVCI_DISK_FULL || !segment->close_owed || segment->in_flight != 0)
		return;
	op = kvci_keeper_op_create(tier, KVCI_KEEPER_HEADER);
	if (op == NULL)
		return; /* the next start looks through it */
	segment->close_owed = false;
	kvci_disk_header_order(tier, op, number, KVCI_DISK_CLOSED);
}

uint64_t kvci_disk_reserve_bytes(const struct kvci_disk_tier *tier)
{
	uint64_t share = tier->options.capacity_bytes / 16;

	return share < PLACE_RESERVE_BYTES_MAX ? share : PLACE_RESERVE_BYTES_MAX;
}

static uint64_t place_creatable(const struct kvci_disk_tier *tier)
{
	if (tier->files_bytes >= tier->options.capacity_bytes ||
	    (tier->make_retry_ns != 0 && kvci_clock_ns() < tier->make_retry_ns))
		return 0;
	return (tier->options.capacity_bytes - tier->files_bytes) / tier->options.segment_bytes;
}

uint32_t kvci_disk_free_segments(const struct kvci_disk_tier *tier)
{
	uint32_t count = (tier->ready >= 0 || tier->preparing) ? 1 : 0;

	for (uint32_t i = 0; i < tier->segment_count; i++)
		count += tier->segments[i].use == KVCI_DISK_SPARE;
	return count + (uint32_t)place_creatable(tier);
}

/* The next to be written: the spare one that waits longest, else one that is not there yet. */
static struct kvci_disk_segment *place_next(struct kvci_disk_tier *tier)
{
	struct kvci_disk_segment *next = NULL, *absent = NULL;

	for (uint32_t i = 0; i < tier->segment_count; i++) {
		struct kvci_disk_segment *segment = &tier->segments[i];

		if (segment->use == KVCI_DISK_SPARE && (next == NULL || segment->generation < next->generation))
			next = segment;
		if (segment->use == KVCI_DISK_ABSENT && absent == NULL)
			absent = segment;
	}
	if (next != NULL)
		return next;
	return place_creatable(tier) != 0 ? absent : NULL;
}

/* Is there a segment that reclaim can empty? */
static bool place_reclaimable(const struct kvci_disk_tier *tier)
{
	for (uint32_t i = 0; i < tier->segment_count; i++) {
		if (tier->segments[i].use == KVCI_DISK_FULL || tier->segments[i].use == KVCI_DISK_RECLAIMING)
			return true;
	}
	return false;
}

static void place_prepared(struct kvci_job *job)
{
	struct kvci_keeper_op *op = (struct kvci_keeper_op *)job;
	struct kvci_disk_tier *tier = op->tier;
	struct kvci_disk_segment *segment = &tier->segments[op->segment];
	bool made = segment->fd < 0;

	tier->preparing = false;
	if (made)
		tier->make_retry_ns = op->status == KVC_DISK_FULL ? kvci_clock_ns() + PLACE_MAKE_RETRY_S * KVCI_SECOND : 0;
	/* A disk that is smaller than the capacity is no failure as long as there is something to write over. */
	tier->prepare_status = made && op->status == KVC_DISK_FULL && place_reclaimable(tier) ? KVC_OK : op->status;
	if (op->status == KVC_OK) {
		segment->fd = op->fd;
		segment->use = KVCI_DISK_READY;
		segment->next_4k = KVCI_DISK_HEADER_PAGES;
		segment->records = 0;
		tier->ready = (int32_t)op->segment;
	} else {
		segment->use = made ? KVCI_DISK_ABSENT : KVCI_DISK_SPARE;
		if (made)
			tier->files_bytes -= (uint64_t)segment->length_4k * KVCI_DISK_PAGE_BYTES;
		tier->prepare_retry_ns = kvci_clock_ns() + PLACE_RETRY_MS * KVCI_MS;
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "disk", "segment %08x cannot be made ready: %s", op->segment,
		                 kvc_status_text(op->status));
	}
	if (!tier->closing)
		kvci_disk_health(tier, true, tier->prepare_status, "a segment cannot be made ready");
	kvci_keeper_op_destroy(op);
	kvci_reclaim_kick(tier);
}

/* The loader has still to say which segment goes on as head. */
static bool place_head_awaited(const struct kvci_disk_tier *tier)
{
	return tier->head < 0 && tier->loading;
}

void kvci_disk_prepare_kick(struct kvci_disk_tier *tier)
{
	struct kvci_disk_segment *segment;
	struct kvci_keeper_op *op;
	uint32_t head_generation = tier->head >= 0 ? tier->segments[tier->head].generation : 0;

	if (tier->ready >= 0 || tier->preparing || tier->closing || !tier->attached || place_head_awaited(tier))
		return;
	segment = place_next(tier);
	if (segment == NULL)
		return;
	/* After a failure not at once again. */
	if (tier->prepare_status != KVC_OK && kvci_clock_ns() < tier->prepare_retry_ns)
		return;
	op = kvci_keeper_op_create(tier, KVCI_KEEPER_PREPARE);
	if (op == NULL)
		return; /* asked again with the next write */
	if (segment->use == KVCI_DISK_ABSENT) {
		segment->length_4k = (uint32_t)(tier->options.segment_bytes / KVCI_DISK_PAGE_BYTES);
		tier->files_bytes += tier->options.segment_bytes;
	}
	/* Newer than the head it follows, whatever it was before. */
	if (segment->generation <= head_generation || segment->use == KVCI_DISK_ABSENT)
		segment->generation = ++tier->generation_last;
	segment->use = KVCI_DISK_PREPARING;
	op->segment = (uint32_t)(segment - tier->segments);
	op->fd = segment->fd;
	op->job.done = place_prepared;
	kvci_disk_segment_header(tier, op->segment, KVCI_DISK_OPEN, &op->header);
	tier->preparing = true;
	kvci_keeper_order(tier, op);
}

/* The ready segment becomes the head. */
static void place_advance(struct kvci_disk_tier *tier)
{
	int32_t before = tier->head;

	tier->head = tier->ready;
	tier->ready = -1;
	tier->segments[tier->head].use = KVCI_DISK_HEAD;
	if (before >= 0) {
		tier->segments[before].use = KVCI_DISK_FULL;
		tier->segments[before].close_owed = true;
		kvci_disk_segment_settle(tier, (uint32_t)before);
	}
	kvci_disk_prepare_kick(tier);
	kvci_reclaim_kick(tier);
}

static bool place_fits(const struct kvci_disk_tier *tier, int32_t number, uint32_t length_4k)
{
	return number >= 0 && tier->segments[number].length_4k - tier->segments[number].next_4k >= length_4k;
}

kvc_status_t kvci_disk_place_take(struct kvci_disk_tier *tier, uint32_t length_4k, struct kvc_place *ret_place)
{
	struct kvci_disk_segment *segment;

	if (length_4k > tier->options.segment_bytes / KVCI_DISK_PAGE_BYTES - KVCI_DISK_HEADER_PAGES)
		return KVC_TOO_BIG;
	if (place_head_awaited(tier))
		return KVC_BUSY;
	if (tier->ready >= 0 && tier->segments[tier->ready].length_4k - KVCI_DISK_HEADER_PAGES < length_4k)
		return KVC_TOO_BIG; /* a segment of a time when they were smaller */
	if (!place_fits(tier, tier->head, length_4k) && place_fits(tier, tier->ready, length_4k))
		place_advance(tier);
	if (!place_fits(tier, tier->head, length_4k)) {
		kvci_disk_prepare_kick(tier);
		kvci_reclaim_kick(tier);
		/* While something may still come of it: ask again. Else the reason why not. */
		return tier->preparing || tier->loading || tier->reclaim.active || tier->prepare_status == KVC_OK ?
			KVC_BUSY : tier->prepare_status;
	}
	segment = &tier->segments[tier->head];
	*ret_place = (struct kvc_place){
		.segment = (uint32_t)tier->head,
		.generation = segment->generation,
		.offset_4k = segment->next_4k,
		.length_4k = length_4k,
	};
	segment->next_4k += length_4k;
	segment->in_flight++;
	segment->dirty = true;
	return KVC_OK;
}

void kvci_disk_place_written(struct kvci_disk_tier *tier, uint32_t number)
{
	tier->segments[number].in_flight--;
	kvci_disk_segment_settle(tier, number);
	if (tier->segments[number].in_flight == 0)
		kvci_reclaim_kick(tier);
}

uint32_t kvci_disk_place_settled(const struct kvci_disk_tier *tier, uint32_t number)
{
	uint32_t settled_4k = tier->segments[number].next_4k;

	for (uint32_t i = 0; i < tier->op_count; i++) {
		const struct kvci_disk_op *op = &tier->ops[i];

		if (op->put != NULL && op->place.segment == number && op->place.offset_4k < settled_4k)
			settled_4k = op->place.offset_4k;
	}
	return settled_4k;
}
