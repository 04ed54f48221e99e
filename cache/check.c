/* SPDX-License-Identifier: Apache-2.0
 *
 * All invariants of the brain, counted anew from the blocks: for tests and debug builds. Slow.
 */
#include "cache/internal.h"

#include "base/alloc.h"

/* What is counted anew. */
struct check_sums {
	uint64_t stored, memory, disk, disk_raw_bytes, disk_stored_bytes, used_bytes, held_bytes, reserved_bytes, quarantined_bytes;
	uint64_t *space_blocks, *space_bytes; /* by space */
	uint64_t *session_held, *session_holds; /* by session: bytes, blocks */
	uint64_t held_blocks, reserved_blocks;
	uint32_t *slab_busy, *slab_used;      /* by slot */
	uint32_t *hold_counts;                /* by hold */
	uint32_t reads, writes;
};

static const char *check_block_state(const struct kvci_cache *cache, uint32_t number, const struct kvci_block *block)
{
	uint32_t flags = block->flags;
	bool found = kvci_index_find(cache->index, block->key.binding, block->key.hash) == number;

	if (((flags & KVCI_BLOCK_DEAD) != 0) == found)
		return "block: found by its key though dead, or not found though alive";
	if ((flags & KVCI_BLOCK_ORPHANS) != 0 && (flags & KVCI_BLOCK_DEAD) == 0)
		return "block: its other shards are to be forgotten though it is alive";
	if ((flags & KVCI_BLOCK_DEAD) != 0 && !kvci_block_busy(block) && (flags & KVCI_BLOCK_ORPHANS) == 0)
		return "block: dead, and kept though nobody holds it";
	if (__builtin_popcount(flags & (KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING | KVCI_BLOCK_QUEUED | KVCI_BLOCK_WRITING)) > 1)
		return "block: in two states that exclude each other";
	if ((flags & KVCI_BLOCK_MEMORY) != 0 && (flags & (KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING)) != 0)
		return "block: sealed in memory and being stored or loaded";
	if ((flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_RESERVED)) != 0 && block->spot.slot == KVCI_NONE)
		return "block: in memory, but nowhere";
	if ((flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING)) == 0 && block->spot.slot != KVCI_NONE)
		return "block: not in memory, but has an extent";
	if ((flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING | KVCI_BLOCK_DEAD)) == 0 &&
	    block->place.generation == 0 && block->holds == KVCI_NONE)
		return "block: kept nowhere, and not forgotten";
	if ((flags & KVCI_BLOCK_DEAD) != 0 && block->place.generation != 0)
		return "block: dead, but has a place on disk";
	if ((flags & KVCI_BLOCK_RESERVED) != 0 && block->holds != KVCI_NONE)
		return "block: held before it was committed";
	return NULL;
}

static const char *check_block_io(const struct kvci_cache *cache, struct check_sums *sums, uint32_t number,
                                  const struct kvci_block *block)
{
	const struct kvci_disk *disk = &cache->disk;

	if ((block->flags & KVCI_BLOCK_RESERVED) != 0) {
		const struct kvci_reservation *reservation = kvci_pool_at(&cache->reservations, block->io);
		if (reservation->block != number || reservation->spot.slot != block->spot.slot ||
		    reservation->spot.node != block->spot.node)
			return "block: its reservation is another's";
	}
	if ((block->flags & KVCI_BLOCK_LOADING) != 0) {
		const struct kvci_read *read = kvci_pool_at(&disk->reads, block->io);
		sums->reads++;
		if (read->block != number)
			return "block: its read is another's";
		if ((read->request == KVCI_NONE) != (block->spot.slot == KVCI_NONE))
			return "block: a read waits and has an extent, or is under way without";
	}
	if ((block->flags & (KVCI_BLOCK_QUEUED | KVCI_BLOCK_WRITING)) != 0) {
		const struct kvci_write *write = kvci_pool_at(&disk->writes, block->io);
		sums->writes++;
		if (write->block != number || (write->request == KVCI_NONE) != ((block->flags & KVCI_BLOCK_QUEUED) != 0))
			return "block: its write is another's, or in another state";
		if ((block->flags & KVCI_BLOCK_MEMORY) == 0)
			return "block: to be written, but not in memory";
	}
	return NULL;
}

static void check_block_sums(const struct kvci_cache *cache, struct check_sums *sums, const struct kvci_block *block)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	bool memory = (block->flags & KVCI_BLOCK_MEMORY) != 0, disk = block->place.generation != 0;

	if ((block->flags & KVCI_BLOCK_DEAD) == 0 && (memory || disk)) {
		sums->stored++;
		sums->memory += memory;
		sums->disk += disk;
		sums->disk_raw_bytes += disk ? binding->record_bytes : 0;
		sums->disk_stored_bytes += disk ? (uint64_t)block->place.length_4k << KVCI_PAGE_SHIFT : 0;
		sums->space_blocks[binding->space->number]++;
		sums->space_bytes[binding->space->number] += binding->record_bytes;
	}
	if (block->spot.slot != KVCI_NONE) {
		sums->used_bytes += binding->record_bytes;
		sums->slab_busy[block->spot.slot] += kvci_block_reasons(block);
		sums->slab_used[block->spot.slot]++;
	}
	if (block->holds != KVCI_NONE) {
		sums->held_bytes += binding->record_bytes;
		sums->held_blocks++;
	}
	for (uint32_t h = block->holds; h != KVCI_NONE;) {
		const struct kvci_hold *hold = kvci_pool_at(&cache->holds, h);
		sums->session_held[hold->session] += binding->record_bytes;
		sums->session_holds[hold->session]++;
		h = hold->next;
	}
}

static const char *check_blocks(const struct kvci_cache *cache, struct check_sums *sums)
{
	uint32_t high = kvci_index_high(cache->index);

	for (uint32_t number = 0; number < high; number++) {
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		if (block == NULL)
			continue;
		const char *broken = check_block_state(cache, number, block);
		if (broken == NULL)
			broken = check_block_io(cache, sums, number, block);
		if (broken != NULL)
			return broken;
		if (block->spot.slot != KVCI_NONE) {
			const struct kvci_slab *slab = cache->slabs[block->spot.slot];
			if (slab == NULL || slab->owners[block->spot.offset_4k] != number + 1)
				return "block: its extent is another's";
			if (slab->state == KVCI_SLAB_WAITING)
				return "block: placed in a slab that its client has not mapped";
			if (slab->arena->group->tenant != kvci_block_binding(cache, block)->space->tenant)
				return "block: in another tenant's slab";
		}
		check_block_sums(cache, sums, block);
	}
	return NULL;
}

static const char *check_reservations(const struct kvci_cache *cache, struct check_sums *sums)
{
	for (uint32_t bucket = 0; bucket < KVCI_CLIENT_BUCKETS; bucket++) {
		for (const struct kvci_client *client = cache->clients[bucket]; client != NULL; client = client->next) {
			uint64_t bytes = 0, count = 0, quarantined = 0;
			for (const struct kvci_list *l = client->reservations.next; l != &client->reservations; l = l->next) {
				const struct kvci_reservation *r = KVCI_LIST_OF(l, struct kvci_reservation, in_client);
				bytes += r->binding->record_bytes;
				count++;
				quarantined += r->block == KVCI_NONE && r->why == KVC_TIMED_OUT;
			}
			if (bytes != client->reserved_bytes || count != client->reservations_count ||
			    quarantined != client->quarantined_count)
				return "client: what it reserved is miscounted";
		}
	}
	for (uint32_t slot = 0; slot < cache->slot_count; slot++) { /* detached ones of all clients, also dead ones, are in slabs */
		const struct kvci_slab *slab = cache->slabs[slot];
		uint32_t pages = (uint32_t)(cache->config.slab_bytes >> KVCI_PAGE_SHIFT);
		for (uint32_t page = 0; slab != NULL && page < pages; page++) {
			if (slab->owners[page] != KVCI_OWNER_OTHER)
				continue;
			sums->slab_busy[slot]++;
			sums->slab_used[slot]++;
		}
	}
	return NULL;
}

static void check_one_reservation(const struct kvci_list *list, struct check_sums *sums)
{
	for (const struct kvci_list *l = list->next; l != list; l = l->next) {
		const struct kvci_reservation *r = KVCI_LIST_OF(l, struct kvci_reservation, in_client);
		sums->reserved_bytes += r->binding->record_bytes;
		sums->reserved_blocks++;
		if (r->block != KVCI_NONE)
			continue;
		sums->used_bytes += r->binding->record_bytes;
		sums->quarantined_bytes += r->why == KVC_TIMED_OUT ? r->binding->record_bytes : 0;
	}
}

static const char *check_slabs(const struct kvci_cache *cache, const struct check_sums *sums)
{
	uint32_t used = 0;

	for (uint32_t slot = 0; slot < cache->slot_count; slot++) {
		const struct kvci_slab *slab = cache->slabs[slot];
		if (slab == NULL)
			continue;
		used++;
		if (slab->busy != sums->slab_busy[slot])
			return "slab: what is held in it is miscounted";
		if (kvci_extents_used_count(slab->extents) != sums->slab_used[slot])
			return "slab: extents that nobody owns, or owners without an extent";
		const char *broken = kvci_extents_check(slab->extents);
		if (broken != NULL)
			return broken;
	}
	if (used != cache->slabs_used || used > cache->slot_count)
		return "slabs: miscounted";
	for (const struct kvci_list *g = cache->groups.next; g != &cache->groups; g = g->next) {
		const struct kvci_group *group = KVCI_LIST_OF(g, struct kvci_group, in_cache);
		uint32_t slabs = 0;
		for (const struct kvci_list *a = group->arenas.next; a != &group->arenas; a = a->next) {
			const struct kvci_arena *arena = KVCI_LIST_OF(a, struct kvci_arena, in_group);
			uint32_t victims = 0;
			slabs += arena->slab_count;
			if (arena->group != group || arena->slab_count == 0)
				return "arena: of another group, or empty";
			for (uint32_t v = cache->config.policy->victim(arena->policy, KVC_POLICY_NO_NODE); v != KVC_POLICY_NO_NODE;
			     v = cache->config.policy->victim(arena->policy, v)) {
				const struct kvci_block *block = kvci_block_at(cache, v);
				if ((block->flags & KVCI_BLOCK_MEMORY) == 0 || cache->slabs[block->spot.slot]->arena != arena)
					return "arena: its policy has a block that is not in it";
				victims++;
			}
			if (victims != arena->block_count)
				return "arena: its policy lost a block";
			used -= arena->slab_count;
		}
		if (slabs != group->slab_count)
			return "group: its slabs are miscounted";
	}
	return used == 0 ? NULL : "slabs: some are of no group";
}

static const char *check_leases(const struct kvci_cache *cache, struct check_sums *sums)
{
	const struct kvci_list *lists[2] = { NULL, &cache->released };

	for (uint32_t i = 0; i <= cache->session_count; i++) {
		const struct kvci_session *session = i < cache->session_count ? cache->sessions[i] : NULL;
		const struct kvci_list *list = i == cache->session_count ? lists[1] : session != NULL ? &session->leases : NULL;
		for (const struct kvci_list *l = list != NULL ? list->next : NULL; l != list; l = l->next) {
			const struct kvci_lease *lease = KVCI_LIST_OF(l, struct kvci_lease, in_session);
			if (session != NULL && kvci_list_empty(&lease->holders))
				return "lease: held by nobody";
			if (list != lists[1] && lease->held != lease->count * kvci_lease_width(lease))
				return "lease: it has not all shards of its blocks";
			for (uint32_t b = 0; b < lease->held; b++) {
				uint32_t h = kvci_block_at(cache, lease->blocks[b])->holds;
				while (h != KVCI_NONE &&
				       ((struct kvci_hold *)kvci_pool_at(&cache->holds, h))->session != lease->session->number)
					h = ((struct kvci_hold *)kvci_pool_at(&cache->holds, h))->next;
				if (h == KVCI_NONE)
					return "lease: a block of it is not held";
				sums->hold_counts[h]++;
			}
		}
	}
	for (uint32_t number = 0; number < kvci_index_high(cache->index); number++) {
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		for (uint32_t h = block != NULL ? block->holds : KVCI_NONE; h != KVCI_NONE;) {
			const struct kvci_hold *hold = kvci_pool_at(&cache->holds, h);
			if (hold->count != sums->hold_counts[h])
				return "hold: not as many leases as it counts";
			h = hold->next;
		}
	}
	return NULL;
}

/* Leases and reservations together, and each for itself. A single block may be bigger than the part. */
static bool check_cap(uint64_t held_bytes, uint64_t held_blocks, uint64_t reserved_bytes, uint64_t reserved_blocks, uint64_t cap_bytes)
{
	return held_bytes + reserved_bytes <= cap_bytes && (held_blocks <= 1 || held_bytes <= kvci_cap_part(cap_bytes)) &&
	       (reserved_blocks <= 1 || reserved_bytes <= kvci_cap_part(cap_bytes));
}

static uint64_t check_session_reserved(const struct kvci_cache *cache, const struct kvci_session *session)
{
	uint64_t count = 0;

	for (uint32_t bucket = 0; bucket < KVCI_CLIENT_BUCKETS; bucket++)
		for (const struct kvci_client *client = cache->clients[bucket]; client != NULL; client = client->next)
			count += client->session == session ? client->reservations_count : 0;
	return count;
}

static const char *check_totals(const struct kvci_cache *cache, const struct check_sums *sums)
{
	if (sums->stored != cache->stored_blocks || sums->memory != cache->memory_blocks || sums->disk != cache->disk_blocks)
		return "blocks: miscounted";
	if (sums->disk_raw_bytes != cache->disk_raw_bytes || sums->disk_stored_bytes != cache->disk_stored_bytes)
		return "disk: bytes are miscounted";
	if (sums->used_bytes != cache->memory_used_bytes)
		return "memory: used bytes are miscounted";
	if (sums->held_bytes != cache->held_bytes)
		return "leases: held bytes are miscounted";
	if (sums->reserved_bytes != cache->reserved_bytes || sums->quarantined_bytes != cache->quarantined_bytes)
		return "reservations: bytes are miscounted";
	if (!check_cap(cache->held_bytes, sums->held_blocks, cache->reserved_bytes, sums->reserved_blocks, cache->lease_cap_bytes))
		return "caps: more is held or reserved than lease_share allows";
	for (uint32_t i = 0; i < cache->space_count; i++)
		if (sums->space_blocks[i] != cache->spaces[i]->blocks || sums->space_bytes[i] != cache->spaces[i]->bytes)
			return "space: its blocks are miscounted";
	for (uint32_t i = 0; i < cache->session_count; i++) {
		const struct kvci_session *session = cache->sessions[i];
		if (session == NULL)
			continue;
		if (sums->session_held[i] != session->held_bytes)
			return "session: held bytes are miscounted";
		if (!check_cap(session->held_bytes, sums->session_holds[i], session->reserved_bytes, check_session_reserved(cache, session),
		               cache->client_cap_bytes))
			return "caps: a session has more than client_share allows";
	}
	return NULL;
}

static const char *check_orphans(const struct kvci_cache *cache)
{
	uint32_t listed = 0, flagged = 0;

	for (uint32_t number = cache->orphans; number != KVCI_NONE && listed <= cache->orphan_count; listed++) {
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		if (block == NULL || (block->flags & KVCI_BLOCK_ORPHANS) == 0)
			return "orphans: one is listed that is none";
		number = block->token_count;
	}
	for (uint32_t number = 0; number < kvci_index_high(cache->index); number++) {
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		flagged += block != NULL && (block->flags & KVCI_BLOCK_ORPHANS) != 0;
	}
	return listed == cache->orphan_count && flagged == listed ? NULL : "orphans: miscounted";
}

static const char *check_disk(const struct kvci_cache *cache, const struct check_sums *sums)
{
	const struct kvci_disk *disk = &cache->disk;
	uint32_t active = 0, late = 0, waiters = 0;
	uint64_t bytes = 0, read_bytes = 0;

	for (const struct kvci_list *l = disk->read_active.next; l != &disk->read_active; l = l->next) {
		active++;
		read_bytes += KVCI_LIST_OF(l, struct kvci_read, in_queue)->bytes;
	}
	for (const struct kvci_list *l = disk->read_late.next; l != &disk->read_late; l = l->next)
		late++;
	if (active != disk->read_active_count || late != disk->read_late_count || sums->reads != disk->reads.used ||
	    read_bytes != disk->read_active_bytes)
		return "disk: reads are miscounted";
	for (const struct kvci_list *l = disk->write_waiting.next; l != &disk->write_waiting; l = l->next)
		bytes += KVCI_LIST_OF(l, struct kvci_write, in_queue)->bytes;
	for (const struct kvci_list *l = disk->write_active.next; l != &disk->write_active; l = l->next)
		bytes += KVCI_LIST_OF(l, struct kvci_write, in_queue)->bytes;
	if (bytes != disk->write_bytes || sums->writes != disk->writes.used)
		return "disk: writes are miscounted";
	for (uint32_t bucket = 0; bucket < KVCI_CLIENT_BUCKETS; bucket++)
		for (const struct kvci_client *client = cache->clients[bucket]; client != NULL; client = client->next)
			for (const struct kvci_load *load = client->loads; load != NULL; load = load->next)
				waiters += load->waiting;
	return waiters == disk->waiters.used ? NULL : "loads: waiters are miscounted";
}

static const char *check_all(const struct kvci_cache *cache, struct check_sums *sums)
{
	const char *broken = kvci_index_check(cache->index);

	for (uint32_t bucket = 0; bucket < KVCI_CLIENT_BUCKETS; bucket++)
		for (const struct kvci_client *client = cache->clients[bucket]; client != NULL; client = client->next)
			check_one_reservation(&client->reservations, sums);
	for (const struct kvci_list *l = cache->gone.next; l != &cache->gone; l = l->next)
		check_one_reservation(&KVCI_LIST_OF(l, struct kvci_client, in_gone)->reservations, sums);
	if (broken == NULL)
		broken = check_blocks(cache, sums);
	if (broken == NULL)
		broken = check_orphans(cache);
	if (broken == NULL)
		broken = check_reservations(cache, sums);
	if (broken == NULL)
		broken = check_slabs(cache, sums);
	if (broken == NULL)
		broken = check_leases(cache, sums);
	if (broken == NULL)
		broken = check_totals(cache, sums);
	return broken != NULL ? broken : check_disk(cache, sums);
}

const char *kvci_cache_check(struct kvci_cache *cache)
{
	struct check_sums sums = { 0 };
	const char *broken = "out of memory while checking";

	sums.space_blocks = kvci_alloc_zero(cache->space_count + 1, sizeof(uint64_t));
	sums.space_bytes = kvci_alloc_zero(cache->space_count + 1, sizeof(uint64_t));
	sums.session_held = kvci_alloc_zero(cache->session_count + 1, sizeof(uint64_t));
	sums.session_holds = kvci_alloc_zero(cache->session_count + 1, sizeof(uint64_t));
	sums.slab_busy = kvci_alloc_zero(cache->slot_count, sizeof(uint32_t));
	sums.slab_used = kvci_alloc_zero(cache->slot_count, sizeof(uint32_t));
	sums.hold_counts = kvci_alloc_zero(((size_t)cache->holds.chunk_count << cache->holds.chunk_shift) + 1, sizeof(uint32_t));
	if (sums.space_blocks != NULL && sums.space_bytes != NULL && sums.session_held != NULL && sums.session_holds != NULL &&
	    sums.slab_busy != NULL && sums.slab_used != NULL && sums.hold_counts != NULL)
		broken = check_all(cache, &sums);
	kvci_free(sums.space_blocks);
	kvci_free(sums.space_bytes);
	kvci_free(sums.session_held);
	kvci_free(sums.session_holds);
	kvci_free(sums.slab_busy);
	kvci_free(sums.slab_used);
	kvci_free(sums.hold_counts);
	return broken;
}
