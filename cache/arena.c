/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory: slabs, the arenas they belong to, allocation, eviction, and the taking over of slabs.
 *
 * Eviction goes by victim: the policy names the coldest block; when its own extent is too short, the neighbours that nothing
 * holds go with it, so that one victim makes one free range long enough.
 */
#include "cache/internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

enum {
	ARENA_SCAN_MAX = 512,      /* victims looked at for one allocation */
	ARENA_TAKE_OVER_NOW = 512, /* blocks that are evicted at once when a slab is taken over; more: in steps */
	ARENA_DRAIN_STEP = 256,
	ARENA_PASS_MAX = 32, /* victims among warm neighbours that are passed over */
};
#define ARENA_DRAIN_WAIT_NS (5 * KVCI_MS)

void kvci_group_init(struct kvci_cache *cache, struct kvci_group *group, uint32_t tenant, struct kvci_client *client)
{
	*group = (struct kvci_group){ .tenant = tenant, .client = client };
	kvci_list_init(&group->arenas);
	kvci_list_append(&cache->groups, &group->in_cache);
}

static void arena_destroy(struct kvci_cache *cache, struct kvci_arena *arena)
{
	kvci_list_remove(&arena->in_group);
	if (arena->policy != NULL)
		cache->config.policy->destroy(arena->policy);
	kvci_free(arena);
}

/* The arena that new slabs of the group join. */
static kvc_status_t arena_home(struct kvci_cache *cache, struct kvci_group *group, struct kvci_arena **ret_arena)
{
	if (!kvci_list_empty(&group->arenas)) {
		*ret_arena = KVCI_LIST_OF(group->arenas.next, struct kvci_arena, in_group);
		return KVC_OK;
	}
	struct kvci_arena *arena = kvci_alloc_zero(1, sizeof(*arena));
	if (arena == NULL)
		return KVC_NO_MEMORY;
	arena->group = group;
	kvci_list_init(&arena->slabs);
	kvci_list_append(&group->arenas, &arena->in_group);
	kvc_status_t status = cache->config.policy->create(&cache->policy_env, &arena->policy);
	if (status != KVC_OK) {
		arena->policy = NULL;
		arena_destroy(cache, arena);
		return status;
	}
	*ret_arena = arena;
	return KVC_OK;
}

struct kvci_slab *kvci_slab_by_id(const struct kvci_cache *cache, uint32_t id)
{
	struct kvci_slab *slab = cache->slabs[id % cache->slot_count];

	return slab != NULL && slab->id == id ? slab : NULL;
}

static void slab_free(const struct kvci_cache *cache, struct kvci_slab *slab)
{
	kvci_extents_destroy(slab->extents);
	kvci_free_lazy(slab->owners, cache->config.slab_bytes >> KVCI_PAGE_SHIFT, sizeof(*slab->owners));
	kvci_free(slab);
}

/* Nothing is in it. An arena that is left empty goes with its last slab. */
static void slab_destroy(struct kvci_cache *cache, struct kvci_slab *slab)
{
	struct kvci_arena *arena = slab->arena;
	struct kvci_group *group = arena->group;

	cache->env.slab_destroy(cache->env.context, slab->id);
	if (cache->draining == slab)
		cache->draining = NULL;
	if (group->hint == slab)
		group->hint = NULL;
	if (group->waiting == slab)
		group->waiting = NULL;
	kvci_list_remove(&slab->in_arena);
	arena->slab_count--;
	group->slab_count--;
	cache->slabs[slab->slot] = NULL;
	cache->slabs_used--;
	slab_free(cache, slab);
	if (arena->slab_count == 0)
		arena_destroy(cache, arena);
}

static kvc_status_t slab_make(struct kvci_cache *cache, uint32_t slot, struct kvci_slab **ret_slab)
{
	uint64_t bytes = cache->config.slab_bytes;
	struct kvci_slab *slab = kvci_alloc_zero(1, sizeof(*slab));

	if (slab == NULL)
		return KVC_NO_MEMORY;
	slab->slot = slot;
	slab->id = (cache->slot_turns[slot] + 1) * cache->slot_count + slot;
	kvci_list_init(&slab->in_arena);
	slab->owners = kvci_alloc_lazy(bytes >> KVCI_PAGE_SHIFT, sizeof(*slab->owners));
	kvc_status_t status = slab->owners == NULL ? KVC_NO_MEMORY
	                                           : kvci_extents_create(bytes, 1u << KVCI_PAGE_SHIFT, &slab->extents);
	if (status != KVC_OK) {
		slab_free(cache, slab);
		return status;
	}
	*ret_slab = slab;
	return KVC_OK;
}

static uint32_t slab_free_slot(const struct kvci_cache *cache)
{
	if (cache->slabs_used == cache->slot_count)
		return KVCI_NONE;
	for (uint32_t slot = 0; slot < cache->slot_count; slot++)
		if (cache->slabs[slot] == NULL)
			return slot;
	return KVCI_NONE;
}

/* One more slab for the group. OK; PENDING: its client must map it first; else no slab is to be had. */
static kvc_status_t arena_grow(struct kvci_cache *cache, struct kvci_group *group)
{
	struct kvci_arena *arena;
	struct kvci_slab *slab;
	void *base;
	uint32_t slot = slab_free_slot(cache);

	if (slot == KVCI_NONE || cache->now_ns < cache->slab_retry_ns)
		return KVC_NO_SPACE;
	kvc_status_t status = slab_make(cache, slot, &slab);
	if (status != KVC_OK)
		return status;
	status = arena_home(cache, group, &arena);
	if (status != KVC_OK) {
		slab_free(cache, slab);
		return status;
	}
	status = cache->env.slab_create(cache->env.context, slab->id, cache->config.slab_bytes,
	                                group->client != NULL ? group->client->id : 0, &base);
	if (status != KVC_OK) {
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "cache", "no new slab of %llu bytes: %s",
		                 (unsigned long long)cache->config.slab_bytes, kvc_status_text(status));
		cache->slab_retry_ns = cache->now_ns + KVCI_SECOND;
		slab_free(cache, slab);
		if (arena->slab_count == 0)
			arena_destroy(cache, arena);
		return status;
	}
	slab->base = base;
	slab->state = group->client != NULL ? KVCI_SLAB_WAITING : KVCI_SLAB_READY;
	slab->arena = arena;
	slab->newest_use_ns = cache->now_ns;
	kvci_list_append(&arena->slabs, &slab->in_arena);
	arena->slab_count++;
	group->slab_count++;
	cache->slabs[slot] = slab;
	cache->slot_turns[slot]++;
	cache->slabs_used++;
	if (slab->state == KVCI_SLAB_READY)
		return KVC_OK;
	group->waiting = slab;
	return KVC_PENDING;
}

void kvci_cache_slab_ready(struct kvci_cache *cache, uint32_t client_id, uint32_t slab_id)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvci_slab *slab = kvci_slab_by_id(cache, slab_id);

	if (client == NULL || slab == NULL || slab->state != KVCI_SLAB_WAITING || client->store.waiting != slab)
		return;
	slab->state = KVCI_SLAB_READY;
	client->store.waiting = NULL;
}

bool kvci_cache_slab_visible(const struct kvci_cache *cache, uint32_t client_id, uint32_t slab_id)
{
	const struct kvci_client *client = kvci_client_get(cache, client_id);
	const struct kvci_slab *slab = kvci_slab_by_id(cache, slab_id);

	return client != NULL && slab != NULL && slab->state != KVCI_SLAB_WAITING &&
	       slab->arena->group->tenant == client->tenant;
}

static bool slab_alloc(struct kvci_cache *cache, struct kvci_slab *slab, uint64_t bytes, struct kvci_spot *ret_spot)
{
	uint64_t offset_bytes;
	uint32_t node;

	if (slab->state != KVCI_SLAB_READY || kvci_extents_free_bytes(slab->extents) < bytes ||
	    kvci_extents_alloc(slab->extents, bytes, &offset_bytes, &node) != KVC_OK)
		return false;
	if (++slab->generation == 0)
		slab->generation = 1;
	*ret_spot = (struct kvci_spot){ .slot = slab->slot,
		                        .node = node,
		                        .offset_4k = (uint32_t)(offset_bytes >> KVCI_PAGE_SHIFT),
		                        .generation = slab->generation };
	slab->owners[ret_spot->offset_4k] = KVCI_OWNER_OTHER;
	cache->memory_used_bytes += bytes;
	slab->arena->group->hint = slab;
	return true;
}

void kvci_arena_free(struct kvci_cache *cache, const struct kvci_spot *spot, uint64_t bytes)
{
	struct kvci_slab *slab = cache->slabs[spot->slot];

	slab->owners[spot->offset_4k] = KVCI_OWNER_NONE;
	kvci_extents_free(slab->extents, spot->node);
	cache->memory_used_bytes -= bytes;
}

static bool arena_try(struct kvci_cache *cache, struct kvci_group *group, uint64_t bytes, struct kvci_spot *ret_spot)
{
	if (group->hint != NULL && slab_alloc(cache, group->hint, bytes, ret_spot))
		return true;
	for (struct kvci_list *a = group->arenas.next; a != &group->arenas; a = a->next) {
		struct kvci_arena *arena = KVCI_LIST_OF(a, struct kvci_arena, in_group);
		for (struct kvci_list *s = arena->slabs.next; s != &arena->slabs; s = s->next)
			if (slab_alloc(cache, KVCI_LIST_OF(s, struct kvci_slab, in_arena), bytes, ret_spot))
				return true;
	}
	return false;
}

/* ---- eviction ---- */

static uint32_t block_pages(const struct kvci_cache *cache, const struct kvci_block *block)
{
	return (uint32_t)(kvci_block_binding(cache, block)->record_bytes >> KVCI_PAGE_SHIFT);
}

/* The block whose extent begins at a page, when it may be evicted (and was used last at `newest` or before), else KVCI_NONE. */
static uint32_t slab_evictable(const struct kvci_cache *cache, const struct kvci_slab *slab, uint32_t page, uint32_t newest)
{
	uint32_t owner = slab->owners[page];

	if (owner == KVCI_OWNER_NONE || owner == KVCI_OWNER_OTHER)
		return KVCI_NONE;
	const struct kvci_block *block = kvci_block_at(cache, owner - 1);
	if (kvci_block_busy(block) || (block->flags & KVCI_BLOCK_MEMORY) == 0 || block->last_used > newest)
		return KVCI_NONE;
	return owner - 1;
}

/* Widens [*first, *end), which begins and ends at bounds of extents, upwards over what is free or evictable. */
static void slab_widen_up(const struct kvci_cache *cache, const struct kvci_slab *slab, uint32_t pages, uint32_t newest,
                          uint32_t first, uint32_t *end)
{
	uint32_t slab_pages = (uint32_t)(cache->config.slab_bytes >> KVCI_PAGE_SHIFT);

	while (*end - first < pages && *end < slab_pages) {
		if (slab->owners[*end] == KVCI_OWNER_NONE) {
			++*end;
			continue;
		}
		uint32_t number = slab_evictable(cache, slab, *end, newest);
		if (number == KVCI_NONE)
			return;
		*end += block_pages(cache, kvci_block_at(cache, number));
	}
}

static void slab_widen_down(const struct kvci_cache *cache, const struct kvci_slab *slab, uint32_t pages, uint32_t newest,
                            uint32_t *first, uint32_t end)
{
	while (end - *first < pages && *first > 0) {
		uint32_t page = *first - 1;
		uint32_t lowest = end > pages ? end - pages : 0; /* no need to look further down for free pages */
		while (page > 0 && slab->owners[page] == KVCI_OWNER_NONE)
			page--;
		uint32_t owner = slab->owners[page];
		if (owner == KVCI_OWNER_NONE) { /* free down to the slab's start */
			*first = lowest;
			return;
		}
		if (owner == KVCI_OWNER_OTHER)
			return; /* its length is not known here */
		uint32_t owner_end = page + block_pages(cache, kvci_block_at(cache, owner - 1));
		if (owner_end <= lowest) {
			*first = lowest;
			return;
		}
		*first = owner_end;
		if (end - *first >= pages || slab_evictable(cache, slab, page, newest) == KVCI_NONE)
			return;
		*first = page;
	}
}

/* Evicts the victim and as many neighbours as it takes, of those that were used last at `newest` or before; false (and nothing is
 * evicted): that leaves too little room. */
static bool slab_evict_around(struct kvci_cache *cache, struct kvci_slab *slab, uint32_t victim, uint64_t bytes, uint32_t newest)
{
	const struct kvci_block *block = kvci_block_at(cache, victim);
	uint32_t pages = (uint32_t)(bytes >> KVCI_PAGE_SHIFT);
	uint32_t first = block->spot.offset_4k;
	uint32_t end = first + block_pages(cache, block);

	slab_widen_up(cache, slab, pages, newest, first, &end);
	slab_widen_down(cache, slab, pages, newest, &first, end);
	if (end - first < pages)
		return false;
	for (uint32_t page = first; page < end;) {
		uint32_t number = slab_evictable(cache, slab, page, UINT32_MAX);
		if (number == KVCI_NONE) {
			page++;
			continue;
		}
		page += block_pages(cache, kvci_block_at(cache, number));
		kvci_block_evict(cache, number);
	}
	return true;
}

/* Neighbours that go with a victim should be cold, too: idle for at least half its time. */
static uint32_t arena_cold(const struct kvci_cache *cache, uint32_t victim)
{
	uint32_t used = kvci_block_at(cache, victim)->last_used;

	return used + (kvci_cache_time(cache) - used) / 2;
}

/* The next victim of an arena that nothing holds; held ones are in use and go to the warm end. *steps bounds the search. */
static uint32_t arena_victim(struct kvci_cache *cache, struct kvci_arena *arena, uint32_t after, uint32_t *steps)
{
	const struct kvc_policy_ops *policy = cache->config.policy;

	for (;;) {
		uint32_t number = policy->victim(arena->policy, after);
		if (number == KVC_POLICY_NO_NODE || *steps == 0)
			return KVCI_NONE;
		--*steps;
		if (!kvci_block_busy(kvci_block_at(cache, number)))
			return number;
		policy->touch(arena->policy, number, cache->now_ns);
	}
}

/* Evicts the coldest of one arena until `bytes` fit; *steps bounds the work. Some victims lie among warm neighbours: a few of the
 * next ones are looked at before such a neighbour is sacrificed. */
static bool arena_evict_in(struct kvci_cache *cache, struct kvci_arena *arena, uint64_t bytes, uint32_t *steps,
                           struct kvci_spot *ret_spot)
{
	uint32_t after = KVC_POLICY_NO_NODE, passed = 0;
	bool warm = false;

	if (*steps > 2 * arena->block_count) /* each at most twice */
		*steps = 2 * arena->block_count;
	while (*steps > 0) {
		uint32_t victim = passed == ARENA_PASS_MAX && !warm ? KVCI_NONE : arena_victim(cache, arena, after, steps);
		if (victim == KVCI_NONE && warm)
			return false;
		if (victim == KVCI_NONE) { /* once more from the coldest, and be less choosy */
			warm = true;
			after = KVC_POLICY_NO_NODE;
			continue;
		}
		struct kvci_slab *slab = cache->slabs[kvci_block_at(cache, victim)->spot.slot];
		if (slab->state == KVCI_SLAB_DRAINING) {
			kvci_block_evict(cache, victim);
			continue;
		}
		if (!slab_evict_around(cache, slab, victim, bytes, warm ? UINT32_MAX : arena_cold(cache, victim))) {
			after = victim;
			passed++;
			continue;
		}
		after = KVC_POLICY_NO_NODE; /* it may have gone with its neighbours */
		if (slab_alloc(cache, slab, bytes, ret_spot)) {
			if (cache->config.write_mode == KVCI_WRITE_ON_EVICT)
				kvci_write_tail(cache, arena);
			return true;
		}
	}
	return false;
}

/* Groups have one arena, but for loads after clients have died: then the arena with the coldest victim gives first. */
static bool arena_evict_for(struct kvci_cache *cache, struct kvci_group *group, uint64_t bytes, struct kvci_spot *ret_spot)
{
	uint32_t steps = ARENA_SCAN_MAX;

	if (kvci_list_empty(&group->arenas))
		return false;
	if (group->arenas.next == group->arenas.prev)
		return arena_evict_in(cache, KVCI_LIST_OF(group->arenas.next, struct kvci_arena, in_group), bytes, &steps,
		                      ret_spot);
	struct kvci_arena *coldest = NULL;
	uint32_t oldest = 0;
	for (struct kvci_list *a = group->arenas.next; a != &group->arenas; a = a->next) {
		struct kvci_arena *arena = KVCI_LIST_OF(a, struct kvci_arena, in_group);
		uint32_t scan = arena->block_count < ARENA_SCAN_MAX ? arena->block_count : ARENA_SCAN_MAX;
		uint32_t victim = arena_victim(cache, arena, KVC_POLICY_NO_NODE, &scan);
		if (victim == KVCI_NONE)
			continue;
		uint32_t used = kvci_block_at(cache, victim)->last_used;
		if (coldest == NULL || used < oldest) {
			coldest = arena;
			oldest = used;
		}
	}
	if (coldest != NULL && arena_evict_in(cache, coldest, bytes, &steps, ret_spot))
		return true;
	for (struct kvci_list *a = group->arenas.next; a != &group->arenas; a = a->next) {
		struct kvci_arena *arena = KVCI_LIST_OF(a, struct kvci_arena, in_group);
		steps = ARENA_SCAN_MAX;
		if (arena != coldest && arena_evict_in(cache, arena, bytes, &steps, ret_spot))
			return true;
	}
	return false;
}

/* ---- taking over ---- */

/* How many slabs each of those that allocate may count on. */
static uint32_t arena_fair_share(const struct kvci_cache *cache, const struct kvci_group *asking)
{
	uint32_t count = 0;

	for (const struct kvci_list *g = cache->groups.next; g != &cache->groups; g = g->next) {
		const struct kvci_group *group = KVCI_LIST_OF(g, struct kvci_group, in_cache);
		count += group->slab_count != 0 || group == asking;
	}
	return count == 0 || cache->slot_count / count == 0 ? 1 : cache->slot_count / count;
}

/* The slab of others whose newest use is the oldest and in which nothing is held. `stuck`: also of those that have no more
 * than the group that asks. */
static struct kvci_slab *arena_coldest_slab(const struct kvci_cache *cache, const struct kvci_group *asking, bool stuck)
{
	struct kvci_slab *coldest = NULL;

	for (uint32_t slot = 0; slot < cache->slot_count; slot++) {
		struct kvci_slab *slab = cache->slabs[slot];
		if (slab == NULL || slab->state == KVCI_SLAB_DRAINING || slab->busy != 0)
			continue;
		/* one that its client does not map is no slab for ever */
		if (slab->state == KVCI_SLAB_WAITING && slab->newest_use_ns + cache->config.reserve_deadline_ns > cache->now_ns)
			continue;
		const struct kvci_group *group = slab->arena->group;
		if (group == asking || (!stuck && group->slab_count <= asking->slab_count))
			continue;
		if (coldest == NULL || slab->newest_use_ns < coldest->newest_use_ns)
			coldest = slab;
	}
	return coldest;
}

/* Blocks of the draining slab that may go, at most `limit`. In the mode that writes on eviction they are written first, as far as the
 * queue has room. */
static void arena_drain(struct kvci_cache *cache, struct kvci_slab *slab, uint32_t limit)
{
	uint32_t pages = (uint32_t)(cache->config.slab_bytes >> KVCI_PAGE_SHIFT);
	uint32_t walked = 0;

	while (limit > 0 && walked < pages && kvci_extents_used_count(slab->extents) != 0) {
		if (cache->drain_page >= pages)
			cache->drain_page = 0;
		uint32_t number = slab_evictable(cache, slab, cache->drain_page, UINT32_MAX);
		if (number == KVCI_NONE) {
			cache->drain_page++;
			walked++;
			continue;
		}
		struct kvci_block *block = kvci_block_at(cache, number);
		uint32_t step = block_pages(cache, block);
		cache->drain_page += step;
		walked += step;
		limit--;
		if (cache->config.write_mode == KVCI_WRITE_ON_EVICT && !kvci_block_on_disk(cache, block) &&
		    ((block->flags & KVCI_BLOCK_QUEUED) != 0 || kvci_write_queue(cache, number)))
			continue; /* it goes when it is written */
		kvci_block_evict(cache, number);
	}
}

/* Takes one slab away from the others; true: a slot is free now. */
static bool arena_take_over(struct kvci_cache *cache, struct kvci_group *group, bool stuck)
{
	struct kvci_slab *slab;

	if (cache->draining != NULL || cache->now_ns < cache->slab_retry_ns)
		return false;
	slab = arena_coldest_slab(cache, group, stuck);
	if (slab == NULL)
		return false;
	kvci_cache_count(cache, KVCI_STAT_SLAB_TAKE_OVERS, 1);
	slab->state = KVCI_SLAB_DRAINING;
	cache->draining = slab;
	cache->drain_page = 0;
	arena_drain(cache, slab, ARENA_TAKE_OVER_NOW);
	if (kvci_extents_used_count(slab->extents) != 0)
		return false;
	slab_destroy(cache, slab);
	return true;
}

uint64_t kvci_arena_drain_step(struct kvci_cache *cache)
{
	struct kvci_slab *slab = cache->draining;

	if (slab == NULL)
		return UINT64_MAX;
	uint32_t used = kvci_extents_used_count(slab->extents);
	arena_drain(cache, slab, ARENA_DRAIN_STEP);
	if (kvci_extents_used_count(slab->extents) == 0) {
		slab_destroy(cache, slab);
		return UINT64_MAX;
	}
	uint32_t pages = slab->busy == 0 ? 0 : (uint32_t)(cache->config.slab_bytes >> KVCI_PAGE_SHIFT);
	for (uint32_t page = 0; page < pages; page++) {
		uint32_t owner = slab->owners[page];
		if (owner == KVCI_OWNER_NONE)
			continue;
		if (owner == KVCI_OWNER_OTHER || kvci_block_at(cache, owner - 1)->holds != KVCI_NONE ||
		    (kvci_block_at(cache, owner - 1)->flags & (KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING)) != 0) {
			slab->state = KVCI_SLAB_READY; /* it is wanted again */
			cache->draining = NULL;
			return UINT64_MAX;
		}
		page += block_pages(cache, kvci_block_at(cache, owner - 1)) - 1;
	}
	/* what is left may wait for its write */
	return kvci_extents_used_count(slab->extents) < used ? cache->now_ns : cache->now_ns + ARENA_DRAIN_WAIT_NS;
}

kvc_status_t kvci_arena_alloc(struct kvci_cache *cache, struct kvci_group *group, uint64_t bytes, struct kvci_spot *ret_spot,
                              uint32_t *ret_new_slab)
{
	if (arena_try(cache, group, bytes, ret_spot))
		return KVC_OK;
	kvc_status_t status = group->waiting != NULL ? KVC_PENDING : arena_grow(cache, group);
	if (status != KVC_OK && status != KVC_PENDING) {
		bool below = group->slab_count < arena_fair_share(cache, group);
		if (below && arena_take_over(cache, group, false))
			status = arena_grow(cache, group);
		else if (arena_evict_for(cache, group, bytes, ret_spot))
			return KVC_OK;
		else if (arena_take_over(cache, group, true))
			status = arena_grow(cache, group);
	}
	if (status == KVC_PENDING) {
		*ret_new_slab = group->waiting->id;
		return KVC_PENDING;
	}
	return status == KVC_OK && arena_try(cache, group, bytes, ret_spot) ? KVC_OK : KVC_NO_SPACE;
}

/* ---- the end of a client, and of all ---- */

void kvci_group_bequeath(struct kvci_cache *cache, struct kvci_group *group)
{
	struct kvci_group *loads = &cache->tenants[group->tenant]->loads;

	if (group->waiting != NULL)
		slab_destroy(cache, group->waiting); /* may end its arena */
	while (!kvci_list_empty(&group->arenas)) {
		struct kvci_arena *arena = KVCI_LIST_OF(group->arenas.next, struct kvci_arena, in_group);
		kvci_list_remove(&arena->in_group);
		kvci_list_append(&loads->arenas, &arena->in_group);
		arena->group = loads;
		loads->slab_count += arena->slab_count;
	}
	group->slab_count = 0;
	group->hint = NULL;
	kvci_list_remove(&group->in_cache);
}

void kvci_arena_destroy_all(struct kvci_cache *cache)
{
	for (uint32_t slot = 0; cache->slabs != NULL && slot < cache->slot_count; slot++) {
		struct kvci_slab *slab = cache->slabs[slot];
		if (slab == NULL)
			continue;
		struct kvci_arena *arena = slab->arena;
		cache->env.slab_destroy(cache->env.context, slab->id);
		kvci_list_remove(&slab->in_arena);
		slab_free(cache, slab);
		if (--arena->slab_count == 0)
			arena_destroy(cache, arena);
	}
}
