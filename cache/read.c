/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads from the disk: one a block, waited for by whoever wants it. Waiting reads have no memory yet; those under way have an
 * extent that is the device's until the tier completes them, however late.
 */
#include "cache/internal.h"

#include "base/clock.h"

#define READ_RETRY_NS (2 * KVCI_MS)

enum { READ_ACTIVE_MIN = 2 }; /* however large: one is checked while the other is read */

void kvci_read_entry(const struct kvci_cache *cache, const struct kvci_block *block, struct kvc_tier_entry *ret_entry)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);

	*ret_entry = (struct kvc_tier_entry){ .epoch = block->epoch,
		                              .form_id = binding->form_id,
		                              .record_checksum = block->record_checksum,
		                              .position_tokens = block->position_tokens,
		                              .token_count = block->token_count,
		                              .group = binding->group,
		                              .shard_index = binding->shard_index,
		                              .shard_count = binding->shard_count,
		                              .flags = (block->flags & KVCI_BLOCK_LOSSY) != 0 ? KVCI_RECORD_LOSSY : 0,
		                              .raw_length_4k = (uint32_t)(binding->record_bytes >> KVCI_PAGE_SHIFT),
		                              .place = block->place };
	memcpy(ret_entry->space, binding->space->fingerprint, sizeof(ret_entry->space));
	memcpy(ret_entry->hash, block->key.hash, sizeof(ret_entry->hash));
}

kvc_status_t kvci_read_start(struct kvci_cache *cache, uint32_t number, bool probe)
{
	struct kvci_disk *disk = &cache->disk;

	if (!probe && disk->read_circuit.state != KVCI_CIRCUIT_CLOSED)
		return KVC_CIRCUIT_OPEN;
	uint32_t r = kvci_pool_take(&disk->reads);
	if (r == KVCI_POOL_NONE)
		return KVC_BUSY;
	struct kvci_read *read = kvci_pool_at(&disk->reads, r);
	*read = (struct kvci_read){ .number = r, .block = number, .request = KVCI_NONE, .probe = probe };
	kvci_list_init(&read->waiters);
	kvci_list_append(&disk->read_waiting, &read->in_queue);
	kvci_block_at(cache, number)->io = r;
	kvci_block_busy_begin(cache, number, KVCI_BLOCK_LOADING);
	return KVC_OK;
}

static void read_answer(struct kvci_cache *cache, struct kvci_read *read, kvc_status_t status,
                        const struct kvci_extent *extent)
{
	while (!kvci_list_empty(&read->waiters))
		kvci_waiter_answer(cache, KVCI_LIST_OF(read->waiters.next, struct kvci_waiter, in_read), status, extent);
}

/* The read is over: the block is not loading any more (and may be gone). */
static void read_finish(struct kvci_cache *cache, struct kvci_read *read)
{
	uint32_t number = read->block;
	struct kvci_block *block = kvci_block_at(cache, number);
	bool lost = (block->flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_DEAD)) == 0 && block->place.generation == 0;

	kvci_list_remove(&read->in_queue);
	kvci_pool_give(&cache->disk.reads, read->number);
	block->io = KVCI_NONE;
	block->flags &= (uint16_t)~KVCI_BLOCK_LATE;
	kvci_block_busy_end(cache, number, KVCI_BLOCK_LOADING);
	if (lost) { /* its place was reclaimed under the read */
		kvci_cache_count(cache, KVCI_STAT_DISK_RECLAIMED_BLOCKS, 1);
		kvci_block_forget(cache, number, KVCI_MISS_EVICTED);
	}
}

void kvci_read_cancel_waiting(struct kvci_cache *cache, struct kvci_read *read, kvc_status_t status)
{
	struct kvci_circuit *circuit = &cache->disk.read_circuit;

	if (read->probe && circuit->state == KVCI_CIRCUIT_PROBING) { /* another block will do */
		circuit->state = KVCI_CIRCUIT_OPEN;
		circuit->until_ns = cache->now_ns;
	}
	read_answer(cache, read, status, NULL);
	read_finish(cache, read);
}

static void read_active_end(struct kvci_cache *cache, const struct kvci_read *read)
{
	cache->disk.read_active_count--;
	cache->disk.read_active_bytes -= read->bytes;
}

/* ---- completion ---- */

/* The device failed on a place: once may be the device, twice is the place. */
static void read_failed(struct kvci_cache *cache, uint32_t number, kvc_status_t status)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	kvci_cache_count(cache, KVCI_STAT_DISK_READ_ERRORS, 1);
	kvci_circuit_open(cache, &cache->disk.read_circuit, "read", status);
	if ((block->flags & KVCI_BLOCK_SUSPECT) != 0)
		kvci_block_damaged(cache, number, true);
	else
		block->flags |= KVCI_BLOCK_SUSPECT;
}

/* What was read is not for use: the extent is free again. Answers what the waiters are told. */
static kvc_status_t read_refused(struct kvci_cache *cache, uint32_t number, kvc_status_t status)
{
	kvci_block_spot_free(cache, number);
	switch (status) {
	case KVC_OK: { /* nobody wants it any more */
		const struct kvci_block *block = kvci_block_at(cache, number);
		return (block->flags & KVCI_BLOCK_DEAD) != 0
		               ? kvci_miss_status((enum kvci_miss)(block->flags >> KVCI_BLOCK_CAUSE_SHIFT))
		               : KVC_STALE_EPOCH;
	}
	case KVC_CORRUPT:
		kvci_cache_count(cache, KVCI_STAT_DISK_READ_CORRUPT, 1);
		kvci_block_damaged(cache, number, true);
		return KVC_CORRUPT;
	case KVC_MISS: /* reclaimed under the read */
		kvci_cache_count(cache, KVCI_STAT_DISK_RECLAIMED_BLOCKS, 1);
		kvci_block_forget(cache, number, KVCI_MISS_EVICTED);
		return KVC_DROPPED;
	case KVC_CANCELED:
		return KVC_CANCELED;
	default:
		read_failed(cache, number, status);
		return status;
	}
}

static void read_done(struct kvc_tier_request *tier_request, kvc_status_t status)
{
	struct kvci_disk_request *request = tier_request->context;
	struct kvci_cache *cache = request->cache;
	struct kvci_read *read = kvci_pool_at(&cache->disk.reads, request->io);
	uint32_t number = read->block;
	struct kvci_block *block = kvci_block_at(cache, number);
	bool late = (block->flags & KVCI_BLOCK_LATE) != 0, probe = read->probe;
	struct kvci_extent extent;

	kvci_cache_enter(cache);
	kvci_disk_request_give(cache, request);
	if (late)
		cache->disk.read_late_count--;
	else
		read_active_end(cache, read);
	bool answered = status == KVC_OK || status == KVC_CORRUPT || status == KVC_MISS;
	if (answered && probe && !late && cache->disk.read_circuit.state == KVCI_CIRCUIT_PROBING)
		kvci_circuit_close(cache, &cache->disk.read_circuit, "read");
	if (status == KVC_OK && (block->flags & KVCI_BLOCK_DEAD) == 0 && !kvci_block_stale(cache, block)) {
		kvci_cache_count(cache, KVCI_STAT_DISK_READ_BLOCKS, 1);
		kvci_cache_count(cache, KVCI_STAT_DISK_READ_BYTES, (uint64_t)tier_request->entry.place.length_4k << KVCI_PAGE_SHIFT);
		block->flags &= (uint16_t)~KVCI_BLOCK_SUSPECT;
		if ((tier_request->entry.flags & KVCI_RECORD_LOSSY) != 0) { /* the seal of what came out */
			block->flags |= KVCI_BLOCK_LOSSY;
			block->record_checksum = tier_request->entry.record_checksum;
		}
		kvci_block_memory_enter(cache, number);
		kvci_block_extent(cache, block, &extent);
		read_answer(cache, read, KVC_OK, &extent);
	} else {
		status = read_refused(cache, number, status);
		read_answer(cache, read, status, NULL);
	}
	read_finish(cache, read);
	kvci_read_pump(cache);
}

/* ---- sections of what is under way ---- */

static bool read_gives_sections(const struct kvci_cache *cache, const struct kvci_block *block)
{
	return (block->flags & (KVCI_BLOCK_DEAD | KVCI_BLOCK_LATE)) == 0 && !kvci_block_stale(cache, block);
}

/* Where the block lies, with the seal of what is there of it: the seal of all may not be known yet. */
static void read_extent(const struct kvci_cache *cache, const struct kvci_block *block, uint32_t sections, struct kvci_extent *ret_extent)
{
	const uint8_t *record = cache->slabs[block->spot.slot]->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT);

	kvci_block_extent(cache, block, ret_extent);
	ret_extent->record_checksum = kvci_record_checksum_leading(record, sections);
}

void kvci_read_sections(struct kvci_cache *cache, struct kvci_read *read, const struct kvci_waiter *waiter)
{
	const struct kvci_block *block = kvci_block_at(cache, read->block);
	struct kvci_extent extent;

	if (read->request == KVCI_NONE)
		return; /* asked for when it is submitted */
	struct kvci_disk_request *request = kvci_pool_at(&cache->disk.requests, read->request);
	__atomic_store_n(&request->progress_wanted, 1, __ATOMIC_RELAXED);
	if (read->sections == 0 || !read_gives_sections(cache, block))
		return;
	read_extent(cache, block, read->sections, &extent);
	waiter->load->sections(waiter->load, waiter->index, read->sections, &extent);
}

static void read_progress(struct kvc_tier_request *tier_request, uint32_t sections)
{
	struct kvci_disk_request *request = tier_request->context;
	struct kvci_cache *cache = request->cache;
	struct kvci_read *read = kvci_pool_at(&cache->disk.reads, request->io);
	const struct kvci_block *block = kvci_block_at(cache, read->block);
	struct kvci_extent extent;

	kvci_cache_enter(cache);
	read->sections = sections;
	if (!read_gives_sections(cache, block))
		return;
	read_extent(cache, block, sections, &extent);
	for (struct kvci_list *l = read->waiters.next; l != &read->waiters; l = l->next) {
		struct kvci_waiter *waiter = KVCI_LIST_OF(l, struct kvci_waiter, in_read);
		if (waiter->load->sections != NULL)
			waiter->load->sections(waiter->load, waiter->index, sections, &extent);
	}
}

/* ---- submission ---- */

/* Whether a waiting read is still to be done; if not, it is ended here. */
static bool read_wanted(struct kvci_cache *cache, struct kvci_read *read)
{
	const struct kvci_block *block = kvci_block_at(cache, read->block);

	if (!read->probe && cache->disk.read_circuit.state != KVCI_CIRCUIT_CLOSED) {
		kvci_read_cancel_waiting(cache, read, KVC_CIRCUIT_OPEN);
		return false;
	}
	if (!read->probe && block->holds == KVCI_NONE && kvci_list_empty(&read->waiters)) {
		kvci_read_cancel_waiting(cache, read, KVC_CANCELED);
		return false;
	}
	if (kvci_block_reap(cache, read->block)) /* went stale: that ended the read too */
		return false;
	if (!kvci_block_on_disk(cache, block)) {
		kvci_cache_count(cache, KVCI_STAT_DISK_RECLAIMED_BLOCKS, 1);
		kvci_block_forget(cache, read->block, KVCI_MISS_EVICTED); /* ends the read */
		return false;
	}
	return true;
}

/* No memory for it at present. After a deadline's time nobody is made to wait longer. */
static void read_starved(struct kvci_cache *cache, struct kvci_read *read)
{
	if (read->since_ns == 0)
		read->since_ns = cache->now_ns;
	if (cache->now_ns - read->since_ns >= cache->config.read_deadline_ns)
		kvci_read_cancel_waiting(cache, read, KVC_NO_SPACE);
	cache->disk.retry_ns = cache->now_ns + READ_RETRY_NS;
}

/* OK: it is the device's now. NO_SPACE, BUSY: later. Else the device refused. */
static kvc_status_t read_submit(struct kvci_cache *cache, struct kvci_read *read)
{
	struct kvci_block *block = kvci_block_at(cache, read->block);
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	struct kvci_group *loads = &cache->tenants[binding->space->tenant]->loads;
	struct kvci_disk_request *request = kvci_disk_request_take(cache);
	struct kvci_spot spot;
	uint32_t unused;

	if (request == NULL)
		return KVC_BUSY;
	kvc_status_t status = kvci_arena_alloc(cache, loads, binding->record_bytes, &spot, &unused);
	if (status != KVC_OK) {
		kvci_disk_request_give(cache, request);
		return KVC_NO_SPACE;
	}
	kvci_block_spot_set(cache, read->block, &spot);
	request->io = read->number;
	request->tier.op = KVC_TIER_READ;
	request->tier.flags = 0;
	kvci_read_entry(cache, block, &request->tier.entry);
	request->tier.buffer = cache->slabs[spot.slot]->base + ((uint64_t)spot.offset_4k << KVCI_PAGE_SHIFT);
	request->tier.deadline_ns = cache->now_ns + cache->config.read_deadline_ns;
	request->tier.done = read_done;
	request->tier.progress = read_progress;
	request->tier.progress_wanted = &request->progress_wanted;
	for (struct kvci_list *l = read->waiters.next; l != &read->waiters; l = l->next)
		request->progress_wanted |= KVCI_LIST_OF(l, struct kvci_waiter, in_read)->load->sections != NULL;
	status = kvci_tier_submit(cache->disk.tier, &request->tier);
	if (status != KVC_OK) {
		kvci_block_spot_free(cache, read->block);
		kvci_disk_request_give(cache, request);
		return status;
	}
	read->request = request->number;
	read->since_ns = cache->now_ns;
	kvci_list_remove(&read->in_queue);
	kvci_list_append(&cache->disk.read_active, &read->in_queue);
	read->bytes = binding->record_bytes;
	cache->disk.read_active_count++;
	cache->disk.read_active_bytes += read->bytes;
	return KVC_OK;
}

/* Whether the device takes one more now. */
static bool read_may_start(const struct kvci_cache *cache, const struct kvci_read *read)
{
	const struct kvci_disk *disk = &cache->disk;
	uint64_t max_bytes = cache->config.read_active_bytes_max;
	uint64_t bytes = kvci_block_binding(cache, kvci_block_at(cache, read->block))->record_bytes;

	if (disk->read_active_count >= disk->depth)
		return false;
	return max_bytes == 0 || disk->read_active_count < READ_ACTIVE_MIN || disk->read_active_bytes + bytes <= max_bytes;
}

void kvci_read_pump(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint32_t steps = KVCI_STEP_BLOCKS;

	while (!kvci_list_empty(&disk->read_waiting) && steps-- > 0) {
		struct kvci_read *read = KVCI_LIST_OF(disk->read_waiting.next, struct kvci_read, in_queue);
		if (!read_wanted(cache, read))
			continue;
		if (!read_may_start(cache, read))
			return;
		kvc_status_t status = read_submit(cache, read);
		if (status == KVC_OK)
			continue;
		if (status == KVC_NO_SPACE) {
			read_starved(cache, read);
			return;
		}
		disk->retry_ns = cache->now_ns + READ_RETRY_NS;
		if (status == KVC_BUSY)
			return;
		kvci_circuit_open(cache, &disk->read_circuit, "read", status);
		kvci_read_cancel_waiting(cache, read, status);
	}
}

/* Past the deadline: nobody waits any longer, and the disk is left alone. The extent stays the device's. */
static void read_late(struct kvci_cache *cache, struct kvci_read *read)
{
	struct kvci_disk *disk = &cache->disk;

	kvci_list_remove(&read->in_queue);
	kvci_list_append(&disk->read_late, &read->in_queue);
	read_active_end(cache, read);
	disk->read_late_count++;
	kvci_block_at(cache, read->block)->flags |= KVCI_BLOCK_LATE;
	kvci_cache_count(cache, KVCI_STAT_DISK_READ_TIMEOUTS, 1);
	kvci_circuit_open(cache, &disk->read_circuit, "read", KVC_TIMED_OUT);
	read_answer(cache, read, KVC_TIMED_OUT, NULL);
}

uint64_t kvci_read_tick(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint64_t due_ns = UINT64_MAX;

	while (!kvci_list_empty(&disk->read_active)) {
		struct kvci_read *oldest = KVCI_LIST_OF(disk->read_active.next, struct kvci_read, in_queue);
		due_ns = oldest->since_ns + cache->config.read_deadline_ns;
		if (due_ns > cache->now_ns)
			break;
		read_late(cache, oldest);
		due_ns = UINT64_MAX;
	}
	kvci_read_pump(cache);
	if (!kvci_list_empty(&disk->read_waiting) && disk->read_circuit.state != KVCI_CIRCUIT_CLOSED &&
	    !KVCI_LIST_OF(disk->read_waiting.next, struct kvci_read, in_queue)->probe)
		return cache->now_ns; /* more to refuse */
	return due_ns;
}
