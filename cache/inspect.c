/* SPDX-License-Identifier: Apache-2.0
 *
 * To look at it: blocks one by one, spaces, clients, totals. Reads only.
 */
#include "cache/internal.h"

/* What the policy's time steps mean in ns of the injected clock. */
static uint64_t inspect_time_ns(const struct kvci_cache *cache, uint32_t steps)
{
	return cache->start_ns + ((uint64_t)steps << KVCI_TIME_SHIFT);
}

static uint32_t inspect_hold_count(const struct kvci_cache *cache, const struct kvci_block *block)
{
	uint32_t count = 0;

	for (uint32_t number = block->holds; number != KVCI_NONE;) {
		const struct kvci_hold *hold = kvci_pool_at(&cache->holds, number);
		count += hold->count;
		number = hold->next;
	}
	return count;
}

/* The parent is in the record alone: known while that is in memory. The extent may be its client's to write, so this is for people. */
static void inspect_parent(const struct kvci_cache *cache, const struct kvci_block *block, uint8_t ret_parent[KVCI_HASH_BYTES])
{
	const struct kvci_slab *slab = cache->slabs[block->spot.slot];
	const struct kvci_record_header *header =
		(const void *)(slab->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT));

	memcpy(ret_parent, header->parent_hash, KVCI_HASH_BYTES);
}

static void inspect_block(const struct kvci_cache *cache, const struct kvci_block *block, struct kvci_block_info *ret_info)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);

	memset(ret_info, 0, sizeof(*ret_info));
	kvci_binding_id(binding, block->key.hash, &ret_info->id);
	ret_info->space = binding->space->number;
	ret_info->binding = binding->number;
	ret_info->epoch = block->epoch;
	ret_info->form_id = binding->form_id;
	ret_info->position_tokens = block->position_tokens;
	ret_info->token_count = block->token_count;
	ret_info->shard_count = binding->shard_count;
	ret_info->record_bytes = binding->record_bytes;
	ret_info->record_checksum = block->record_checksum;
	ret_info->lossy = (block->flags & KVCI_BLOCK_LOSSY) != 0;
	ret_info->in_memory = (block->flags & KVCI_BLOCK_MEMORY) != 0;
	ret_info->on_disk = kvci_block_on_disk(cache, block);
	ret_info->writing = (block->flags & (KVCI_BLOCK_WRITING | KVCI_BLOCK_QUEUED)) != 0;
	ret_info->loading = (block->flags & KVCI_BLOCK_LOADING) != 0;
	ret_info->reserved = (block->flags & KVCI_BLOCK_RESERVED) != 0;
	ret_info->holds = inspect_hold_count(cache, block);
	ret_info->hits = block->hits;
	ret_info->last_used_ns = inspect_time_ns(cache, block->last_used);
	ret_info->stored_ns = inspect_time_ns(cache, block->stored);
	if (ret_info->in_memory) {
		kvci_block_extent(cache, block, &ret_info->extent);
		inspect_parent(cache, block, ret_info->parent_hash);
	}
	if (ret_info->on_disk)
		ret_info->place = block->place;
}

/* Blocks that a user may see: a key leads to them. */
static const struct kvci_block *inspect_at(const struct kvci_cache *cache, uint32_t number)
{
	const struct kvci_block *block = kvci_index_block_used(cache->index, number);

	if (block == NULL || (block->flags & KVCI_BLOCK_DEAD) != 0 || kvci_block_stale(cache, block))
		return NULL;
	return block;
}

void kvci_cache_walk(struct kvci_cache *cache, uint64_t *cursor, uint32_t steps,
                     void (*visit)(void *context, const struct kvci_block_info *info), void *context)
{
	uint32_t high = kvci_index_high(cache->index);
	uint64_t number = *cursor;

	kvci_cache_enter(cache);
	for (; steps != 0 && number < high; steps--, number++) {
		const struct kvci_block *block = inspect_at(cache, (uint32_t)number);
		struct kvci_block_info info;

		if (block == NULL)
			continue;
		inspect_block(cache, block, &info);
		visit(context, &info);
	}
	*cursor = number < high ? number : 0;
}

static bool inspect_has_prefix(const uint8_t *hash, const uint8_t *prefix, uint32_t nibbles)
{
	if (memcmp(hash, prefix, nibbles / 2) != 0)
		return false;
	return nibbles % 2 == 0 || (hash[nibbles / 2] >> 4) == (prefix[nibbles / 2] >> 4);
}

/* A whole hash: one look-up in each binding. */
static uint32_t inspect_find_whole(const struct kvci_cache *cache, const uint8_t *hash, struct kvci_block_info *out, uint32_t room)
{
	uint32_t found = 0;

	for (uint32_t binding = 0; binding < cache->binding_count && found < room; binding++) {
		uint32_t number = kvci_index_find(cache->index, binding, hash);
		const struct kvci_block *block = number == KVCI_INDEX_NONE ? NULL : inspect_at(cache, number);

		if (block != NULL)
			inspect_block(cache, block, &out[found++]);
	}
	return found;
}

kvc_status_t kvci_cache_find(struct kvci_cache *cache, const uint8_t *prefix, uint32_t prefix_nibbles, uint64_t *cursor,
                             uint32_t steps, struct kvci_block_info *out, uint32_t room, uint32_t *ret_count)
{
	uint32_t high = kvci_index_high(cache->index);
	uint64_t number = *cursor;
	uint32_t found = 0;

	if (prefix_nibbles > 2 * KVCI_HASH_BYTES || room == 0 || steps == 0)
		return KVC_INVALID;
	kvci_cache_enter(cache);
	if (prefix_nibbles == 2 * KVCI_HASH_BYTES) {
		*ret_count = inspect_find_whole(cache, prefix, out, room);
		*cursor = 0;
		return KVC_OK;
	}
	for (; steps != 0 && number < high && found < room; steps--, number++) {
		const struct kvci_block *block = inspect_at(cache, (uint32_t)number);

		if (block != NULL && inspect_has_prefix(block->key.hash, prefix, prefix_nibbles))
			inspect_block(cache, block, &out[found++]);
	}
	*ret_count = found;
	*cursor = number < high ? number : 0;
	return KVC_OK;
}

uint32_t kvci_cache_space_count(const struct kvci_cache *cache)
{
	return cache->space_count;
}

kvc_status_t kvci_cache_space_info(const struct kvci_cache *cache, uint32_t space, struct kvci_space_info *ret_info)
{
	if (space >= cache->space_count)
		return KVC_NOT_FOUND;
	const struct kvci_space_entry *entry = cache->spaces[space];
	ret_info->fields = &entry->fields;
	memcpy(ret_info->fingerprint, entry->fingerprint, KVCI_SPACE_BYTES);
	ret_info->epoch = entry->epoch;
	ret_info->blocks = entry->blocks;
	ret_info->memory_blocks = entry->memory_blocks;
	ret_info->disk_blocks = entry->disk_blocks;
	ret_info->bytes = entry->bytes;
	return KVC_OK;
}

static enum kvci_miss inspect_miss(const struct kvci_cache *cache, const struct kvci_block *block)
{
	if (kvci_block_stale(cache, block))
		return KVCI_MISS_EPOCH;
	if ((block->flags & KVCI_BLOCK_MEMORY) != 0)
		return KVCI_MISS_NONE;
	if ((block->flags & KVCI_BLOCK_RESERVED) != 0)
		return KVCI_MISS_IN_FLIGHT;
	if (!kvci_block_on_disk(cache, block))
		return KVCI_MISS_EVICTED;
	if (cache->disk.read_circuit.state != KVCI_CIRCUIT_CLOSED || (block->flags & KVCI_BLOCK_LATE) != 0)
		return KVCI_MISS_DISK_CIRCUIT;
	return KVCI_MISS_NONE;
}

/* The same for the first of the other shards that does not hit. */
static enum kvci_miss inspect_other_shards(struct kvci_cache *cache, const struct kvci_binding *binding, const uint8_t *hash)
{
	enum kvci_miss miss = binding->shards != NULL ? KVCI_MISS_NONE : KVCI_MISS_OTHER_SHARD;

	for (uint32_t i = 0; i < binding->shard_count && miss == KVCI_MISS_NONE; i++) {
		uint32_t number = kvci_index_find(cache->index, binding->shards[i]->number, hash);
		miss = number == KVCI_INDEX_NONE ? kvci_shard_cause(cache, binding->shards[i], hash)
		                                 : inspect_miss(cache, kvci_block_at(cache, number));
	}
	return miss;
}

kvc_status_t kvci_cache_explain(struct kvci_cache *cache, uint32_t binding_number, const uint8_t hash[KVCI_HASH_BYTES],
                                enum kvci_miss *ret_miss, struct kvci_block_info *ret_info)
{
	const struct kvci_binding *binding = kvci_binding_get(cache, binding_number);
	uint32_t number;
	const struct kvci_block *block;

	if (binding == NULL || !binding->form_known)
		return KVC_NOT_FOUND;
	kvci_cache_enter(cache);
	number = kvci_index_find(cache->index, binding_number, hash);
	if (number == KVCI_INDEX_NONE) {
		*ret_miss = kvci_match_cause(cache, binding, hash);
		return KVC_OK;
	}
	block = kvci_block_at(cache, number);
	*ret_miss = inspect_miss(cache, block);
	if (*ret_miss == KVCI_MISS_NONE && binding->shard_count > 1)
		*ret_miss = inspect_other_shards(cache, binding, hash);
	if (ret_info != NULL)
		inspect_block(cache, block, ret_info);
	return KVC_OK;
}

uint32_t kvci_cache_binding_count(const struct kvci_cache *cache)
{
	return cache->binding_count;
}

const struct kvc_form *kvci_cache_binding_form(const struct kvci_cache *cache, uint32_t binding)
{
	if (binding >= cache->binding_count || !cache->bindings[binding]->form_known)
		return NULL;
	return &cache->bindings[binding]->form;
}

uint64_t kvci_cache_binding_form_id(const struct kvci_cache *cache, uint32_t binding)
{
	return binding < cache->binding_count ? cache->bindings[binding]->form_id : 0;
}

uint32_t kvci_cache_binding_shards(const struct kvci_cache *cache, uint32_t binding)
{
	return binding < cache->binding_count ? cache->bindings[binding]->shard_count : 0;
}

uint32_t kvci_cache_binding_space(const struct kvci_cache *cache, uint32_t binding)
{
	return binding < cache->binding_count ? cache->bindings[binding]->space->number : KVCI_NONE;
}

kvc_status_t kvci_cache_client_info(const struct kvci_cache *cache, uint32_t client, struct kvci_client_info *ret_info)
{
	const struct kvci_client *entry = kvci_client_get(cache, client);

	if (entry == NULL)
		return KVC_NOT_FOUND;
	memset(ret_info, 0, sizeof(*ret_info));
	ret_info->client = client;
	ret_info->slab_bytes = (uint64_t)entry->store.slab_count * cache->config.slab_bytes;
	ret_info->reserved_bytes = entry->reserved_bytes;
	ret_info->reservations = entry->reservations_count;
	ret_info->quarantined = entry->quarantined_count;
	ret_info->leases = entry->lease_count;
	if (entry->session != NULL) {
		ret_info->leased_bytes = entry->session->held_bytes;
		ret_info->has_session = entry->session->joined;
		ret_info->session_owner = entry->session->owner == entry;
		memcpy(ret_info->session_id, entry->session->id, KVCI_SESSION_ID_BYTES);
	}
	return KVC_OK;
}

void kvci_cache_totals(const struct kvci_cache *cache, struct kvci_cache_totals *ret_totals)
{
	memset(ret_totals, 0, sizeof(*ret_totals));
	ret_totals->blocks = cache->stored_blocks;
	ret_totals->memory_blocks = cache->memory_blocks;
	ret_totals->disk_blocks = cache->disk_blocks;
	ret_totals->disk_raw_bytes = cache->disk_raw_bytes;
	ret_totals->disk_stored_bytes = cache->disk_stored_bytes;
	ret_totals->memory_used_bytes = cache->memory_used_bytes;
	ret_totals->memory_slab_bytes = (uint64_t)cache->slabs_used * cache->config.slab_bytes;
	ret_totals->memory_capacity_bytes = cache->config.memory_bytes;
	ret_totals->leased_bytes = cache->held_bytes;
	ret_totals->reserved_bytes = cache->reserved_bytes;
	ret_totals->quarantined_bytes = cache->quarantined_bytes;
	ret_totals->write_queue_bytes = cache->disk.write_bytes;
	ret_totals->loads_under_way = cache->disk.reads.used;
	ret_totals->index_loading = cache->disk.loading;
	ret_totals->disk_health = cache->disk.health;
	if (ret_totals->disk_health == KVC_OK && cache->disk.read_circuit.state != KVCI_CIRCUIT_CLOSED)
		ret_totals->disk_health = cache->disk.read_circuit.why;
	else if (ret_totals->disk_health == KVC_OK && cache->disk.write_circuit.state != KVCI_CIRCUIT_CLOSED)
		ret_totals->disk_health = cache->disk.write_circuit.why;
}
