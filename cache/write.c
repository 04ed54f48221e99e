/* SPDX-License-Identifier: Apache-2.0
 *
 * Write-behind: a bounded queue from memory to the disk. What does not fit is dropped and counted, never waited for. A block that waits
 * may still be evicted (dropped and counted); one under write is pinned. And flush.
 */
#include "cache/internal.h"

#include "base/clock.h"
#include "base/log.h"

enum {
	WRITE_QUEUE_MAX = 65536, /* blocks */
	WRITE_TAIL = 32,         /* of the coldest blocks, to be on the disk before they leave */
};
#define WRITE_RETRY_NS (1 * KVCI_MS)

struct kvci_disk_request *kvci_disk_request_take(struct kvci_cache *cache)
{
	uint32_t number = kvci_pool_take(&cache->disk.requests);

	if (number == KVCI_POOL_NONE)
		return NULL;
	struct kvci_disk_request *request = kvci_pool_at(&cache->disk.requests, number);
	memset(request, 0, sizeof(*request));
	request->number = number;
	request->cache = cache;
	request->tier.context = request;
	return request;
}

void kvci_disk_request_give(struct kvci_cache *cache, struct kvci_disk_request *request)
{
	kvci_pool_give(&cache->disk.requests, request->number);
}

bool kvci_write_queue(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_disk *disk = &cache->disk;
	struct kvci_block *block = kvci_block_at(cache, number);
	uint64_t bytes = kvci_block_binding(cache, block)->record_bytes;

	if ((block->flags & (KVCI_BLOCK_QUEUED | KVCI_BLOCK_WRITING)) != 0)
		return true;
	if (!kvci_cache_has_disk(cache) || cache->config.write_mode == KVCI_WRITE_OFF ||
	    disk->write_circuit.state == KVCI_CIRCUIT_OPEN || (block->flags & KVCI_BLOCK_MEMORY) == 0)
		return false;
	if ((disk->write_bytes != 0 && disk->write_bytes + bytes > cache->config.write_queue_bytes) ||
	    disk->writes.used >= WRITE_QUEUE_MAX)
		return false;
	uint32_t w = kvci_pool_take(&disk->writes);
	if (w == KVCI_POOL_NONE)
		return false;
	struct kvci_write *write = kvci_pool_at(&disk->writes, w);
	*write = (struct kvci_write){
		.number = w, .block = number, .ticket = ++disk->ticket, .bytes = bytes, .request = KVCI_NONE
	};
	kvci_list_append(&disk->write_waiting, &write->in_queue);
	disk->write_bytes += bytes;
	block->io = w;
	block->flags |= KVCI_BLOCK_QUEUED;
	return true;
}

static void write_finish(struct kvci_cache *cache, struct kvci_write *write)
{
	kvci_list_remove(&write->in_queue);
	cache->disk.write_bytes -= write->bytes;
	kvci_block_at(cache, write->block)->io = KVCI_NONE;
	kvci_pool_give(&cache->disk.writes, write->number);
}

void kvci_write_cancel(struct kvci_cache *cache, uint32_t number, bool dropped)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	write_finish(cache, kvci_pool_at(&cache->disk.writes, block->io));
	block->flags &= (uint16_t)~KVCI_BLOCK_QUEUED;
	if (dropped)
		kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_DROPPED, 1);
}

void kvci_write_sealed(struct kvci_cache *cache, uint32_t number)
{
	if (!kvci_cache_has_disk(cache))
		return;
	if (cache->config.write_mode == KVCI_WRITE_THROUGH) {
		if (!kvci_write_queue(cache, number))
			kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_DROPPED, 1);
		kvci_write_pump(cache);
	} else if (cache->config.write_mode == KVCI_WRITE_ON_EVICT &&
	           cache->memory_used_bytes > cache->config.memory_bytes / 8 * 7) {
		kvci_write_tail(cache, cache->slabs[kvci_block_at(cache, number)->spot.slot]->arena);
	}
}

void kvci_write_touched(struct kvci_cache *cache, uint32_t number)
{
	const struct kvci_block *block = kvci_block_at(cache, number);

	if (cache->config.write_mode == KVCI_WRITE_THROUGH || /* dropped before: a block in use gets another chance */
	    (cache->config.write_mode == KVCI_WRITE_AFTER_HITS && block->hits >= cache->config.write_after_hits))
		kvci_write_queue(cache, number);
}

void kvci_write_tail(struct kvci_cache *cache, struct kvci_arena *arena)
{
	uint32_t number = KVC_POLICY_NO_NODE;

	if (!kvci_cache_has_disk(cache))
		return;
	for (unsigned i = 0; i < WRITE_TAIL; i++) {
		number = cache->config.policy->victim(arena->policy, number);
		if (number == KVC_POLICY_NO_NODE)
			break;
		const struct kvci_block *block = kvci_block_at(cache, number);
		if ((block->flags & KVCI_BLOCK_DEAD) == 0 && !kvci_block_on_disk(cache, block) &&
		    !kvci_write_queue(cache, number))
			break;
	}
	kvci_write_pump(cache);
}

/* ---- submission ---- */

/* Reads header and table of a record in memory into the scratch and makes the disk's entry of it. CORRUPT: they are not what was
 * sealed (the slab's client can write there). */
static kvc_status_t write_entry(struct kvci_cache *cache, const struct kvci_block *block, struct kvc_tier_entry *ret_entry)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	const uint8_t *record = cache->slabs[block->spot.slot]->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT);
	const struct kvci_record_header *header = (const void *)cache->head_scratch;
	const struct kvci_section_entry *sections = (const void *)(header + 1);
	uint64_t head_bytes = KVCI_RECORD_HEAD_BYTES_MAX < binding->record_bytes ? KVCI_RECORD_HEAD_BYTES_MAX
	                                                                         : binding->record_bytes;

	if (binding->form_known)
		head_bytes = sizeof(*header) + binding->form.layer_count * sizeof(struct kvci_section_entry);
	memcpy(cache->head_scratch, record, head_bytes);
	if (sizeof(*header) + header->section_count * (uint64_t)sizeof(struct kvci_section_entry) > head_bytes ||
	    kvci_record_checksum(header) != block->record_checksum ||
	    (binding->form_known && !kvci_record_is_image(header, sections, &binding->sizes)))
		return KVC_CORRUPT;
	kvci_read_entry(cache, block, ret_entry);
	ret_entry->place = (struct kvc_place){ 0 };
	memcpy(ret_entry->parent_hash, header->parent_hash, sizeof(ret_entry->parent_hash));
	ret_entry->position_tokens = header->position_tokens;
	ret_entry->token_count = header->token_count;
	ret_entry->flags = header->flags;
	return KVC_OK;
}

/* The record is on the disk now, or it is not. */
static void write_settle(struct kvci_cache *cache, uint32_t number, const struct kvc_tier_entry *entry, kvc_status_t status)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if (status == KVC_CANCELED)
		return;
	if (status == KVC_CORRUPT) { /* the slab's client wrote there after we looked */
		kvci_block_damaged(cache, number, false);
		return;
	}
	if (status != KVC_OK) {
		kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_ERRORS, 1);
		kvci_circuit_open(cache, &cache->disk.write_circuit, "write", status);
		return;
	}
	kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_BLOCKS, 1);
	kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_BYTES, (uint64_t)entry->place.length_4k << KVCI_PAGE_SHIFT);
	kvci_circuit_close(cache, &cache->disk.write_circuit, "write");
	if ((block->flags & KVCI_BLOCK_DEAD) != 0) {
		/* What we do not know we could not drop later; of an old epoch it is nobody's anyway. */
		if (block->flags >> KVCI_BLOCK_CAUSE_SHIFT != KVCI_MISS_EPOCH)
			kvci_tier_drop(cache->disk.tier, entry);
		return;
	}
	if (entry->place.length_4k <= entry->raw_length_4k && kvci_segment_know(cache, entry->place.segment) == KVC_OK)
		kvci_block_place_entry(cache, number, entry);
}

static void write_done(struct kvc_tier_request *tier_request, kvc_status_t status)
{
	struct kvci_disk_request *request = tier_request->context;
	struct kvci_cache *cache = request->cache;
	struct kvci_write *write = kvci_pool_at(&cache->disk.writes, request->io);
	uint32_t number = write->block;

	kvci_cache_enter(cache);
	cache->disk.write_active_count--;
	write_finish(cache, write);
	write_settle(cache, number, &tier_request->entry, status);
	kvci_disk_request_give(cache, request);
	kvci_block_busy_end(cache, number, KVCI_BLOCK_WRITING);
	kvci_write_pump(cache);
}

/* OK: under way. BUSY: later. CORRUPT: it was no good, and is gone. Else the device refused. */
static kvc_status_t write_submit(struct kvci_cache *cache, struct kvci_write *write)
{
	struct kvci_block *block = kvci_block_at(cache, write->block);
	struct kvci_disk_request *request = kvci_disk_request_take(cache);
	kvc_status_t status;

	if (request == NULL)
		return KVC_BUSY;
	status = write_entry(cache, block, &request->tier.entry);
	if (status != KVC_OK) {
		kvci_disk_request_give(cache, request);
		kvci_block_damaged(cache, write->block, false);
		return status;
	}
	request->io = write->number;
	request->tier.op = KVC_TIER_WRITE;
	request->tier.buffer =
		cache->slabs[block->spot.slot]->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT);
	request->tier.done = write_done;
	status = kvci_tier_submit(cache->disk.tier, &request->tier);
	if (status != KVC_OK) {
		kvci_disk_request_give(cache, request);
		if (status == KVC_CORRUPT) /* the slab's client wrote there after we looked */
			kvci_block_damaged(cache, write->block, false);
		return status;
	}
	write->request = request->number;
	kvci_list_remove(&write->in_queue);
	kvci_list_append(&cache->disk.write_active, &write->in_queue);
	cache->disk.write_active_count++;
	block->flags &= (uint16_t)~KVCI_BLOCK_QUEUED;
	kvci_block_busy_begin(cache, write->block, KVCI_BLOCK_WRITING);
	return KVC_OK;
}

void kvci_write_pump(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint32_t steps = KVCI_STEP_BLOCKS;

	while (!kvci_list_empty(&disk->write_waiting) && steps-- > 0) {
		struct kvci_write *write = KVCI_LIST_OF(disk->write_waiting.next, struct kvci_write, in_queue);
		if (disk->write_circuit.state == KVCI_CIRCUIT_OPEN) {
			kvci_write_cancel(cache, write->block, true);
			continue;
		}
		if (kvci_block_reap(cache, write->block)) /* stale: that ended its write */
			continue;
		uint32_t depth = disk->write_circuit.state == KVCI_CIRCUIT_PROBING ? 1 : disk->depth;
		if (disk->write_active_count >= depth)
			return;
		kvc_status_t status = write_submit(cache, write);
		if (status == KVC_OK || status == KVC_CORRUPT)
			continue;
		if (status == KVC_BUSY) {
			disk->retry_ns = cache->now_ns + WRITE_RETRY_NS;
			return;
		}
		kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_ERRORS, 1);
		kvci_circuit_open(cache, &disk->write_circuit, "write", status);
	}
}

/* ---- flush ---- */

/* All writes up to this ticket are over. */
static uint64_t write_over_ticket(const struct kvci_disk *disk)
{
	uint64_t oldest = disk->ticket + 1;

	for (const struct kvci_list *l = disk->write_active.next; l != &disk->write_active; l = l->next) {
		uint64_t ticket = KVCI_LIST_OF(l, struct kvci_write, in_queue)->ticket;
		oldest = ticket < oldest ? ticket : oldest;
	}
	if (!kvci_list_empty(&disk->write_waiting)) {
		uint64_t ticket = KVCI_LIST_OF(disk->write_waiting.next, struct kvci_write, in_queue)->ticket;
		oldest = ticket < oldest ? ticket : oldest;
	}
	return oldest - 1;
}

static void flush_answer(struct kvci_cache *cache, uint64_t ticket, kvc_status_t status)
{
	for (struct kvci_flush_wait **w = &cache->disk.flush_waits; *w != NULL;) {
		struct kvci_flush_wait *wait = *w;
		if (wait->ticket > ticket) {
			w = &wait->next;
			continue;
		}
		*w = wait->next;
		wait->done(wait, status);
	}
}

static void flush_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_cache *cache = request->context;

	kvci_cache_enter(cache);
	cache->disk.flush_active = false;
	kvci_cache_count(cache, KVCI_STAT_DISK_FLUSHES, 1);
	flush_answer(cache, cache->disk.flush_ticket, status);
}

/* Gives the tier a FLUSH when the writes that somebody waits for are over. */
static void flush_pump(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint64_t over, first = UINT64_MAX;

	if (disk->flush_waits == NULL || disk->flush_active)
		return;
	for (const struct kvci_flush_wait *wait = disk->flush_waits; wait != NULL; wait = wait->next)
		first = wait->ticket < first ? wait->ticket : first;
	over = write_over_ticket(disk);
	if (first > over)
		return;
	if (disk->write_circuit.state == KVCI_CIRCUIT_OPEN) {
		flush_answer(cache, over, KVC_CIRCUIT_OPEN);
		return;
	}
	disk->flush_ticket = over;
	disk->flush_request = (struct kvc_tier_request){ .op = KVC_TIER_FLUSH, .done = flush_done, .context = cache };
	kvc_status_t status = kvci_tier_submit(disk->tier, &disk->flush_request);
	if (status == KVC_OK)
		disk->flush_active = true;
	else if (status == KVC_BUSY)
		disk->retry_ns = cache->now_ns + WRITE_RETRY_NS;
	else
		flush_answer(cache, over, status);
}

/* In the modes that do not write at commit: queues what is in memory alone, as far as the queue has room. True: call again. */
static bool flush_walk(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint32_t high = kvci_index_high(cache->index);

	if (!disk->flush_walking)
		return false;
	for (uint32_t steps = 0; disk->flush_cursor < high; disk->flush_cursor++, steps++) {
		const struct kvci_block *block = kvci_index_block_used(cache->index, disk->flush_cursor);
		if (steps == KVCI_STEP_BLOCKS)
			return true;
		if (block == NULL || (block->flags & KVCI_BLOCK_MEMORY) == 0 || (block->flags & KVCI_BLOCK_DEAD) != 0 ||
		    kvci_block_stale(cache, block) || kvci_block_on_disk(cache, block))
			continue;
		if (kvci_write_queue(cache, disk->flush_cursor))
			continue;
		if (disk->write_circuit.state != KVCI_CIRCUIT_OPEN && disk->write_bytes != 0)
			return false; /* a write that ends makes room */
		kvci_cache_count(cache, KVCI_STAT_DISK_WRITE_DROPPED, 1);
	}
	disk->flush_walking = false;
	for (struct kvci_flush_wait *wait = disk->flush_waits; wait != NULL; wait = wait->next)
		wait->ticket = wait->ticket == UINT64_MAX ? disk->ticket : wait->ticket;
	return false;
}

uint64_t kvci_write_tick(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	bool again = flush_walk(cache);

	kvci_write_pump(cache);
	flush_pump(cache);
	if (disk->write_circuit.state == KVCI_CIRCUIT_OPEN && !kvci_list_empty(&disk->write_waiting))
		again = true; /* more to drop */
	return again ? cache->now_ns : UINT64_MAX;
}

kvc_status_t kvci_cache_flush(struct kvci_cache *cache, struct kvci_flush_wait *wait)
{
	struct kvci_disk *disk = &cache->disk;

	kvci_cache_enter(cache);
	if (!kvci_cache_has_disk(cache)) {
		wait->done(wait, KVC_OK);
		return KVC_OK;
	}
	wait->ticket = disk->ticket;
	if (cache->config.write_mode == KVCI_WRITE_ON_EVICT || cache->config.write_mode == KVCI_WRITE_AFTER_HITS) {
		wait->ticket = UINT64_MAX;
		disk->flush_walking = true;
		disk->flush_cursor = 0;
	}
	wait->next = disk->flush_waits;
	disk->flush_waits = wait;
	flush_pump(cache);
	return KVC_OK;
}

void kvci_cache_flush_cancel(struct kvci_cache *cache, struct kvci_flush_wait *wait)
{
	for (struct kvci_flush_wait **w = &cache->disk.flush_waits; *w != NULL; w = &(*w)->next) {
		if (*w == wait) {
			*w = wait->next;
			return;
		}
	}
}
