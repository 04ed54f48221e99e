/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks: what state one is in, and everything that is counted when that changes. Other files change flags only through
 * here, so that the sums (of spaces, slabs and the whole) cannot drift.
 */
#include "cache/internal.h"

enum { BLOCK_TOUCH_AHEAD = 16 /* blocks whose lines are on their way */ };

/* Nobody could drop it by its key any more, yet it would be back at the next start: the disk forgets it, too. */
static void block_forget_all(struct kvci_cache *cache, uint32_t number)
{
	const struct kvci_block *block = kvci_block_at(cache, number);
	struct kvc_tier_entry entry;

	if (kvci_block_on_disk(cache, block)) {
		kvci_read_entry(cache, block, &entry);
		kvci_tier_drop(cache->disk.tier, &entry);
	}
	kvci_cache_count(cache, KVCI_STAT_INDEX_FULL_BLOCKS, 1);
	kvci_block_forget(cache, number, KVCI_MISS_EVICTED);
}

/* A full index: a block of nobody's interest goes, sooner one that is only on disk. */
static bool block_make_room(struct kvci_cache *cache)
{
	uint32_t high = kvci_index_high(cache->index), second = KVCI_NONE;

	for (unsigned step = 0; step < 256 && high != 0; step++) {
		if (cache->room_cursor >= high)
			cache->room_cursor = 0;
		uint32_t number = cache->room_cursor++;
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		if (block == NULL || kvci_block_busy(block) || (block->flags & KVCI_BLOCK_DEAD) != 0)
			continue;
		if ((block->flags & KVCI_BLOCK_MEMORY) == 0) {
			block_forget_all(cache, number);
			return true;
		}
		second = second == KVCI_NONE ? number : second;
	}
	if (second == KVCI_NONE)
		return false;
	block_forget_all(cache, second);
	return true;
}

kvc_status_t kvci_block_create(struct kvci_cache *cache, uint32_t binding, const uint8_t *hash, uint32_t *ret_number)
{
	uint32_t number;
	kvc_status_t status = kvci_index_add(cache->index, binding, hash, &number);

	if (status == KVC_NO_SPACE && block_make_room(cache)) {
		kvci_shard_step(cache); /* a block keeps its number until its other shards are forgotten */
		status = kvci_index_add(cache->index, binding, hash, &number);
	}
	if (status != KVC_OK)
		return status;
	struct kvci_block *block = kvci_block_at(cache, number);
	block->epoch = cache->bindings[binding]->space->epoch;
	block->holds = KVCI_NONE;
	block->io = KVCI_NONE;
	block->spot.slot = KVCI_NONE;
	block->stored = kvci_cache_time(cache);
	block->last_used = block->stored;
	*ret_number = number;
	return KVC_OK;
}

/* Adds (sign 1) or takes back (sign -1) what the block counts in its present state. Dead ones count nowhere. */
static void block_count(struct kvci_cache *cache, const struct kvci_block *block, int sign)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	struct kvci_space_entry *space = binding->space;
	bool memory = (block->flags & KVCI_BLOCK_MEMORY) != 0;
	bool disk = block->place.generation != 0;
	uint64_t n = (uint64_t)(int64_t)sign;

	if ((block->flags & KVCI_BLOCK_DEAD) != 0 || (!memory && !disk))
		return;
	space->blocks += n;
	cache->stored_blocks += n;
	space->bytes += n * binding->record_bytes;
	space->memory_blocks += memory ? n : 0;
	space->disk_blocks += disk ? n : 0;
	cache->memory_blocks += memory ? n : 0;
	cache->disk_blocks += disk ? n : 0;
	cache->disk_raw_bytes += disk ? n * binding->record_bytes : 0;
	cache->disk_stored_bytes += disk ? n * ((uint64_t)block->place.length_4k << KVCI_PAGE_SHIFT) : 0;
}

void kvci_block_busy_begin(struct kvci_cache *cache, uint32_t number, uint32_t flag)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	block->flags |= (uint16_t)flag;
	if (block->spot.slot != KVCI_NONE)
		cache->slabs[block->spot.slot]->busy++;
}

void kvci_block_busy_end(struct kvci_cache *cache, uint32_t number, uint32_t flag)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	block->flags &= (uint16_t)~flag;
	if (block->spot.slot != KVCI_NONE)
		cache->slabs[block->spot.slot]->busy--;
	kvci_block_settle(cache, number);
}

void kvci_block_settle(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if ((block->flags & KVCI_BLOCK_DEAD) == 0 || kvci_block_busy(block))
		return;
	if ((block->flags & KVCI_BLOCK_MEMORY) != 0)
		kvci_block_memory_leave(cache, number);
	if ((block->flags & KVCI_BLOCK_ORPHANS) == 0)
		kvci_index_free(cache->index, number);
}

void kvci_block_spot_set(struct kvci_cache *cache, uint32_t number, const struct kvci_spot *spot)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	struct kvci_slab *slab = cache->slabs[spot->slot];

	block->spot = *spot;
	slab->owners[spot->offset_4k] = number + 1;
	slab->busy += kvci_block_reasons(block);
}

void kvci_block_spot_free(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	cache->slabs[block->spot.slot]->busy -= kvci_block_reasons(block);
	kvci_arena_free(cache, &block->spot, kvci_block_binding(cache, block)->record_bytes);
	block->spot.slot = KVCI_NONE;
}

void kvci_block_memory_enter(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	struct kvci_slab *slab = cache->slabs[block->spot.slot];
	struct kvci_arena *arena = slab->arena;

	block_count(cache, block, -1);
	block->flags |= KVCI_BLOCK_MEMORY;
	block_count(cache, block, 1);
	block->last_used = kvci_cache_time(cache);
	slab->newest_use_ns = cache->now_ns;
	memset(block->policy, 0, sizeof(block->policy));
	cache->config.policy->insert(arena->policy, number, kvci_block_binding(cache, block)->record_bytes, cache->now_ns);
	arena->block_count++;
}

void kvci_block_memory_leave(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	struct kvci_arena *arena = cache->slabs[block->spot.slot]->arena;

	cache->leaves++;
	cache->config.policy->remove(arena->policy, number);
	arena->block_count--;
	block_count(cache, block, -1);
	block->flags &= (uint16_t)~KVCI_BLOCK_MEMORY;
	block_count(cache, block, 1);
	kvci_block_spot_free(cache, number);
}

void kvci_block_place_set(struct kvci_cache *cache, uint32_t number, const struct kvc_place *place)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	block_count(cache, block, -1);
	block->place = *place;
	block->flags &= (uint16_t)~KVCI_BLOCK_SUSPECT;
	block_count(cache, block, 1);
}

void kvci_block_place_entry(struct kvci_cache *cache, uint32_t number, const struct kvc_tier_entry *entry)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	kvci_block_place_set(cache, number, &entry->place);
	if ((entry->flags & KVCI_RECORD_LOSSY) != 0)
		block->flags |= KVCI_BLOCK_LOSSY;
	else
		block->flags &= (uint16_t)~KVCI_BLOCK_LOSSY;
}

void kvci_block_forget(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause)
{
	if ((kvci_block_at(cache, number)->flags & KVCI_BLOCK_DEAD) != 0)
		return;
	kvci_shard_orphan(cache, number, cause);
	kvci_block_forget_one(cache, number, cause);
}

void kvci_block_forget_one(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if ((block->flags & KVCI_BLOCK_DEAD) != 0)
		return;
	if ((block->flags & KVCI_BLOCK_QUEUED) != 0)
		kvci_write_cancel(cache, number, false);
	cache->leaves++;
	block_count(cache, block, -1);
	block->place = (struct kvc_place){ 0 };
	block->flags |= (uint16_t)(KVCI_BLOCK_DEAD | (unsigned)cause << KVCI_BLOCK_CAUSE_SHIFT);
	kvci_index_unlink(cache->index, number);
	kvci_ghost_put(cache->ghost, block->key.binding, block->key.hash, cause);
	if ((block->flags & KVCI_BLOCK_LOADING) != 0) {
		struct kvci_read *read = kvci_pool_at(&cache->disk.reads, block->io);
		if (read->request == KVCI_NONE) {
			kvci_read_cancel_waiting(cache, read, kvci_miss_status(cause)); /* settles it */
			return;
		}
	}
	kvci_block_settle(cache, number);
}

void kvci_block_evict(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if ((block->flags & KVCI_BLOCK_QUEUED) != 0)
		kvci_write_cancel(cache, number, true);
	if (kvci_block_on_disk(cache, block)) {
		kvci_cache_count(cache, KVCI_STAT_EVICT_DISK_BLOCKS, 1);
		kvci_block_memory_leave(cache, number);
	} else if ((block->flags & KVCI_BLOCK_DEAD) == 0) {
		kvci_cache_count(cache, KVCI_STAT_EVICT_LOST_BLOCKS, 1);
		kvci_block_forget(cache, number, KVCI_MISS_EVICTED);
	}
}

bool kvci_block_reap(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if ((block->flags & KVCI_BLOCK_DEAD) != 0)
		return false;
	if (kvci_block_stale(cache, block)) {
		kvci_cache_count(cache, KVCI_STAT_EPOCH_BLOCKS, 1);
		if ((block->flags & KVCI_BLOCK_RESERVED) != 0)
			kvci_reservation_detach(cache, number, KVC_STALE_EPOCH);
		else
			kvci_block_forget(cache, number, KVCI_MISS_EPOCH);
		return true;
	}
	if (block->place.generation == 0 || kvci_block_on_disk(cache, block))
		return false;
	kvci_block_place_set(cache, number, &(struct kvc_place){ 0 });
	if ((block->flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_LOADING)) != 0)
		return false;
	kvci_cache_count(cache, KVCI_STAT_DISK_RECLAIMED_BLOCKS, 1);
	kvci_block_forget(cache, number, KVCI_MISS_EVICTED);
	return true;
}

static void block_touch_run(struct kvci_cache *cache, struct kvci_arena *arena, const uint32_t *numbers, uint32_t count)
{
	if (arena != NULL && count != 0)
		cache->config.policy->touch_chain(arena->policy, numbers, count, cache->now_ns);
}

/* in_memory: all of them are, and hits are not counted. Then of each block the second line is all there is to it, which nobody has fetched yet. */
static inline void block_touch(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count, bool in_memory, bool hit)
{
	uint32_t now = kvci_cache_time(cache), end = count; /* [i, end): a run in one arena */
	struct kvci_arena *run = NULL;

	for (uint32_t i = count; i-- > 0;) {
		struct kvci_block *block = kvci_block_at(cache, numbers[i]);
		struct kvci_arena *arena = NULL;
		if (in_memory && i >= BLOCK_TOUCH_AHEAD)
			__builtin_prefetch(&kvci_block_at(cache, numbers[i - BLOCK_TOUCH_AHEAD])->last_used, 1);
		block->last_used = now;
		if (hit)
			kvci_block_hit(cache, numbers[i]);
		if (in_memory || (block->flags & KVCI_BLOCK_MEMORY) != 0) {
			struct kvci_slab *slab = cache->slabs[block->spot.slot];
			slab->newest_use_ns = cache->now_ns;
			arena = slab->arena;
		}
		if (arena != run) {
			block_touch_run(cache, run, numbers + i + 1, end - i - 1);
			run = arena;
			end = i + 1;
		}
	}
	block_touch_run(cache, run, numbers, end);
}

void kvci_block_touch_chain(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count, bool hit)
{
	block_touch(cache, numbers, count, false, hit);
}

void kvci_block_touch_memory(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count)
{
	block_touch(cache, numbers, count, true, false);
}

void kvci_block_extent(const struct kvci_cache *cache, const struct kvci_block *block, struct kvci_extent *ret_extent)
{
	*ret_extent = (struct kvci_extent){
		.slab = cache->slabs[block->spot.slot]->id,
		.generation = block->spot.generation,
		.offset_bytes = (uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT,
		.record_bytes = kvci_block_binding(cache, block)->record_bytes,
		.record_checksum = block->record_checksum,
	};
}

kvc_status_t kvci_miss_status(enum kvci_miss miss)
{
	switch (miss) {
	case KVCI_MISS_EVICTED:
	case KVCI_MISS_DROPPED:
		return KVC_DROPPED;
	case KVCI_MISS_EPOCH:
		return KVC_STALE_EPOCH;
	case KVCI_MISS_DAMAGED:
		return KVC_CORRUPT;
	case KVCI_MISS_DISK_CIRCUIT:
		return KVC_CIRCUIT_OPEN;
	default:
		return KVC_MISS;
	}
}

const char *kvci_miss_name(enum kvci_miss miss)
{
	static const char *const names[] = {
		[KVCI_MISS_NONE] = "none",
		[KVCI_MISS_NEVER_STORED] = "never_stored",
		[KVCI_MISS_EVICTED] = "evicted",
		[KVCI_MISS_DROPPED] = "dropped",
		[KVCI_MISS_EPOCH] = "epoch",
		[KVCI_MISS_IN_FLIGHT] = "in_flight",
		[KVCI_MISS_OTHER_FORM] = "other_form",
		[KVCI_MISS_DAMAGED] = "damaged",
		[KVCI_MISS_INDEX_LOADING] = "index_loading",
		[KVCI_MISS_DISK_CIRCUIT] = "disk_circuit",
		[KVCI_MISS_OVER_CAP] = "over_cap",
		[KVCI_MISS_AFTER_MISS] = "after_miss",
		[KVCI_MISS_OTHER_SHARD] = "other_shard",
	};
	_Static_assert(sizeof(names) / sizeof(names[0]) == KVCI_MISS_COUNT, "each miss has a name");
	return (unsigned)miss < KVCI_MISS_COUNT ? names[miss] : "unknown";
}

const char *kvci_miss_text(enum kvci_miss miss)
{
	static const char *const texts[] = {
		"nothing missed",
#define BLOCK_MISS_TEXT(name, text) text,
		KVCI_MISS_TABLE(BLOCK_MISS_TEXT)
#undef BLOCK_MISS_TEXT
	};
	return (unsigned)miss < KVCI_MISS_COUNT ? texts[miss] : "unknown";
}
