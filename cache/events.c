/* SPDX-License-Identifier: Apache-2.0
 *
 * What the disk tells: what it holds (at start), what it lost, what it moved, and how it feels.
 *
 * A place is stale when its segment's generation is not above the newest lost one. So a loss is one store into a table; places are
 * compared whenever they are met, and a sweep frees the rest later.
 */
#include "cache/internal.h"

#include "base/alloc.h"
#include "base/log.h"

kvc_status_t kvci_segment_know(struct kvci_cache *cache, uint32_t segment)
{
	struct kvci_disk *disk = &cache->disk;
	uint32_t room = disk->lost_room;

	if (segment < room)
		return KVC_OK;
	if (segment >= KVCI_SEGMENTS_MAX)
		return KVC_TOO_BIG;
	while (room <= segment)
		room = room == 0 ? 64 : room * 2;
	uint32_t *lost = kvci_realloc(disk->lost, room * sizeof(*lost));
	if (lost == NULL)
		return KVC_NO_MEMORY;
	memset(lost + disk->lost_room, 0, (room - disk->lost_room) * sizeof(*lost));
	disk->lost = lost;
	disk->lost_room = room;
	return KVC_OK;
}

static bool events_newer(const struct kvc_place *a, const struct kvc_place *b)
{
	return a->generation != b->generation ? a->generation > b->generation : a->offset_4k > b->offset_4k;
}

static bool events_same(const struct kvc_place *a, const struct kvc_place *b)
{
	return a->segment == b->segment && a->generation == b->generation && a->offset_4k == b->offset_4k;
}

/* The record under a key of ours is found on the disk. A key keeps one place: what is superseded is dropped, or it would come
 * back at a later start, even after its block was dropped by a user. */
static bool events_adopt(struct kvci_cache *cache, uint32_t number, const struct kvc_tier_entry *entry)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	bool other = block->record_checksum != entry->record_checksum;
	bool on_disk = kvci_block_on_disk(cache, block);

	if (on_disk && events_same(&entry->place, &block->place))
		return false; /* written by us while the index was loading */
	if ((block->flags & KVCI_BLOCK_RESERVED) != 0 || /* being stored again, or stored again since, or about to be read */
	    (other && (block->flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_LOADING)) != 0) ||
	    (on_disk && !events_newer(&entry->place, &block->place))) {
		kvci_tier_drop(cache->disk.tier, entry);
		return false;
	}
	if (on_disk) {
		struct kvc_tier_entry old;
		kvci_read_entry(cache, block, &old);
		kvci_tier_drop(cache->disk.tier, &old);
	}
	if ((block->flags & KVCI_BLOCK_QUEUED) != 0)
		kvci_write_cancel(cache, number, false);
	block->record_checksum = entry->record_checksum;
	kvci_block_place_entry(cache, number, entry);
	return true;
}

static bool events_index_one(struct kvci_cache *cache, const struct kvc_tier_entry *entry)
{
	struct kvci_binding *binding;
	uint32_t number;

	if ((entry->flags & KVCI_RECORD_TOMBSTONE) != 0 || entry->place.generation == 0 ||
	    kvci_binding_of_entry(cache, entry, &binding) != KVC_OK ||
	    kvci_segment_know(cache, entry->place.segment) != KVC_OK ||
	    entry->place.generation <= cache->disk.lost[entry->place.segment])
		return false;
	number = kvci_index_find(cache->index, binding->number, entry->hash);
	if (number != KVCI_INDEX_NONE && !kvci_block_reap(cache, number))
		return events_adopt(cache, number, entry);
	if (kvci_block_create(cache, binding->number, entry->hash, &number) != KVC_OK) {
		kvci_tier_drop(cache->disk.tier, entry); /* as in events_adopt: what we do not know we could not drop later */
		return false;
	}
	struct kvci_block *block = kvci_block_at(cache, number);
	block->record_checksum = entry->record_checksum;
	block->position_tokens = entry->position_tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)entry->position_tokens;
	block->token_count = entry->token_count;
	kvci_ghost_forget(cache->ghost, binding->number, entry->hash);
	kvci_block_place_entry(cache, number, entry);
	return true;
}

static void events_index(void *context, const struct kvc_tier_entry *entries, size_t count, bool more)
{
	struct kvci_cache *cache = context;
	uint64_t taken = 0;

	kvci_cache_enter(cache);
	for (size_t i = 0; i < count; i++)
		taken += events_index_one(cache, &entries[i]);
	kvci_cache_count(cache, KVCI_STAT_INDEX_LOADED_BLOCKS, taken);
	kvci_cache_count(cache, KVCI_STAT_INDEX_SKIPPED_BLOCKS, count - taken);
	if (!more)
		cache->disk.loading = false;
}

static void events_lost(void *context, uint32_t segment, uint32_t generation)
{
	struct kvci_cache *cache = context;

	kvci_cache_enter(cache);
	if (segment >= cache->disk.lost_room || cache->disk.lost[segment] >= generation)
		return; /* none of our places is there */
	cache->disk.lost[segment] = generation;
	kvci_sweep_start(cache);
}

/* The block whose place this is, or KVCI_NONE. */
static uint32_t events_block_at(struct kvci_cache *cache, const struct kvc_tier_entry *entry, const struct kvc_place *place)
{
	const struct kvci_space_entry *space = kvci_space_by_fingerprint(cache, entry->space);
	struct kvci_binding *binding;

	if (space == NULL || entry->epoch != space->epoch || kvci_binding_of_entry(cache, entry, &binding) != KVC_OK)
		return KVCI_NONE;
	uint32_t number = kvci_index_find(cache->index, binding->number, entry->hash);
	if (number == KVCI_INDEX_NONE)
		return KVCI_NONE;
	const struct kvci_block *block = kvci_block_at(cache, number);
	return events_same(&block->place, place) && kvci_block_on_disk(cache, block) && !kvci_block_stale(cache, block) ? number : KVCI_NONE;
}

/* Worth keeping: used since it was written or kept last. */
static bool events_keep(void *context, const struct kvc_tier_entry *entry)
{
	struct kvci_cache *cache = context;
	uint32_t number = events_block_at(cache, entry, &entry->place);

	if (number == KVCI_NONE)
		return false;
	struct kvci_block *block = kvci_block_at(cache, number);
	bool keep = block->hits != 0;
	block->hits /= 2; /* what nobody asks for again goes at one of the next turns */
	return keep;
}

static void events_moved(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place)
{
	struct kvci_cache *cache = context;

	kvci_cache_enter(cache);
	uint32_t number = events_block_at(cache, entry, old_place);
	if (number == KVCI_NONE || kvci_segment_know(cache, entry->place.segment) != KVC_OK) {
		kvci_tier_drop(cache->disk.tier, entry);
		return;
	}
	kvci_block_place_entry(cache, number, entry);
}

static void events_health(void *context, kvc_status_t status, const char *text)
{
	struct kvci_cache *cache = context;

	kvci_cache_enter(cache);
	if (status != cache->disk.health)
		kvci_log(status == KVC_OK ? KVCI_LOG_INFO : KVCI_LOG_WARN, "cache", "disk: %s", text != NULL ? text : "");
	cache->disk.health = status;
	if (status == KVC_OK) {
		kvci_circuit_close(cache, &cache->disk.write_circuit, "write");
		return; /* reads begin again when a probe came back in time */
	}
	kvci_circuit_open(cache, &cache->disk.write_circuit, "write", status);
	if (status != KVC_DISK_FULL && status != KVC_DENIED)
		kvci_circuit_open(cache, &cache->disk.read_circuit, "read", status);
}

void kvci_events_init(struct kvci_cache *cache)
{
	cache->disk.events = (struct kvc_tier_events){ .context = cache,
		                                       .index = events_index,
		                                       .lost = events_lost,
		                                       .keep = events_keep,
		                                       .moved = events_moved,
		                                       .health = events_health };
}
