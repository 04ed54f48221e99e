/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores: reserve, commit, abort; single flight; quarantine.
 *
 * A reservation owns its extent until its writer is done with it. It may lose its block before (overdue, or of an old epoch): then it is
 * detached, and the key is free for others.
 */
#include "cache/internal.h"

/* The extent is free again; the block (if it still has one) goes without a trace: it was never stored. */
void kvci_reservation_end(struct kvci_cache *cache, struct kvci_reservation *reservation)
{
	uint64_t bytes = reservation->binding->record_bytes;
	struct kvci_client *client = reservation->client;

	if (reservation->block != KVCI_NONE) {
		struct kvci_block *block = kvci_block_at(cache, reservation->block);
		kvci_block_spot_free(cache, reservation->block);
		block->flags &= (uint16_t)~KVCI_BLOCK_RESERVED;
		kvci_index_free(cache->index, reservation->block);
	} else {
		cache->slabs[reservation->spot.slot]->busy--;
		kvci_arena_free(cache, &reservation->spot, bytes);
		if (reservation->why == KVC_TIMED_OUT) {
			client->quarantined_count--;
			cache->quarantined_bytes -= bytes;
		}
	}
	cache->reserved_bytes -= bytes;
	client->session->reserved_bytes -= bytes;
	client->reserved_bytes -= bytes;
	client->reservations_count--;
	kvci_list_remove(&reservation->in_client);
	kvci_list_remove(&reservation->in_order);
	kvci_pool_give(&cache->reservations, (uint32_t)reservation->id);
}

void kvci_reservation_detach(struct kvci_cache *cache, uint32_t number, kvc_status_t why)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	struct kvci_reservation *reservation = kvci_pool_at(&cache->reservations, block->io);
	struct kvci_slab *slab = cache->slabs[reservation->spot.slot];

	slab->owners[reservation->spot.offset_4k] = KVCI_OWNER_OTHER; /* busy as before, by the reservation alone */
	reservation->block = KVCI_NONE;
	reservation->why = why;
	kvci_list_remove(&reservation->in_order);
	if (why == KVC_TIMED_OUT) {
		reservation->client->quarantined_count++;
		cache->quarantined_bytes += reservation->binding->record_bytes;
		kvci_cache_count(cache, KVCI_STAT_QUARANTINED_BLOCKS, 1);
	}
	block->flags &= (uint16_t)~KVCI_BLOCK_RESERVED;
	block->spot.slot = KVCI_NONE;
	kvci_index_free(cache->index, number);
}

uint64_t kvci_store_tick(struct kvci_cache *cache)
{
	uint32_t steps = KVCI_STEP_BLOCKS;

	while (!kvci_list_empty(&cache->reservation_order)) {
		struct kvci_reservation *oldest =
			KVCI_LIST_OF(cache->reservation_order.next, struct kvci_reservation, in_order);
		uint64_t due_ns = oldest->begun_ns + cache->config.reserve_deadline_ns;
		if (due_ns > cache->now_ns || steps-- == 0)
			return due_ns > cache->now_ns ? due_ns : cache->now_ns;
		kvci_reservation_detach(cache, oldest->block, KVC_TIMED_OUT);
	}
	return UINT64_MAX;
}

/* ---- reserve ---- */

/* What a key that is known answers; OK: it is unknown (or was stale, and is forgotten now). */
static kvc_status_t store_lookup(struct kvci_cache *cache, const struct kvci_binding *binding, const uint8_t *hash)
{
	uint32_t number = kvci_index_find(cache->index, binding->number, hash);

	if (number == KVCI_INDEX_NONE || kvci_block_reap(cache, number))
		return KVC_OK;
	if ((kvci_block_at(cache, number)->flags & KVCI_BLOCK_RESERVED) != 0) {
		kvci_cache_count(cache, KVCI_STAT_RESERVE_IN_FLIGHT, 1);
		return KVC_IN_FLIGHT;
	}
	kvci_cache_count(cache, KVCI_STAT_RESERVE_EXISTS, 1);
	return KVC_EXISTS;
}

static kvc_status_t store_reserve_one(struct kvci_cache *cache, struct kvci_client *client, struct kvci_binding *binding,
                                      struct kvci_reserve *wanted, uint32_t *ret_new_slab)
{
	uint64_t bytes = binding->record_bytes;
	struct kvci_spot spot;
	uint32_t number, io;
	kvc_status_t status = store_lookup(cache, binding, wanted->hash);

	if (status != KVC_OK)
		return status;
	if (!kvci_cap_reserve(cache, client->session, bytes))
		return KVC_OVER_CAP;
	io = kvci_pool_take(&cache->reservations);
	if (io == KVCI_POOL_NONE)
		return KVC_NO_MEMORY;
	status = kvci_arena_alloc(cache, &client->store, bytes, &spot, ret_new_slab);
	if (status != KVC_OK) {
		kvci_pool_give(&cache->reservations, io);
		return status;
	}
	status = kvci_block_create(cache, binding->number, wanted->hash, &number);
	if (status != KVC_OK) {
		kvci_arena_free(cache, &spot, bytes);
		kvci_pool_give(&cache->reservations, io);
		return status;
	}
	struct kvci_block *block = kvci_block_at(cache, number);
	block->io = io;
	block->flags = KVCI_BLOCK_RESERVED;
	block->position_tokens = wanted->position_tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)wanted->position_tokens;
	block->token_count = wanted->token_count;
	kvci_block_spot_set(cache, number, &spot);

	struct kvci_reservation *reservation = kvci_pool_at(&cache->reservations, io);
	*reservation = (struct kvci_reservation){ .id = io | (uint64_t)++cache->reservation_turn << 32,
		                                  .block = number,
		                                  .binding = binding,
		                                  .client = client,
		                                  .begun_ns = cache->now_ns,
		                                  .spot = spot,
		                                  .position_tokens = wanted->position_tokens,
		                                  .token_count = wanted->token_count };
	memcpy(reservation->parent_hash, wanted->parent_hash, KVCI_HASH_BYTES);
	kvci_list_append(&client->reservations, &reservation->in_client);
	kvci_list_append(&cache->reservation_order, &reservation->in_order);
	client->reservations_count++;
	client->reserved_bytes += bytes;
	client->session->reserved_bytes += bytes;
	cache->reserved_bytes += bytes;
	wanted->reservation = reservation->id;
	kvci_block_extent(cache, block, &wanted->extent);
	kvci_cache_count(cache, KVCI_STAT_RESERVE_BLOCKS, 1);
	return KVC_OK;
}

kvc_status_t kvci_cache_reserve(struct kvci_cache *cache, uint32_t client_id, uint32_t binding_number,
                                struct kvci_reserve *blocks, uint32_t count, uint32_t *ret_new_slab)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvci_binding *binding = kvci_binding_get(cache, binding_number);
	uint32_t at;

	kvci_cache_enter(cache);
	if (client == NULL || binding == NULL || !binding->form_known)
		return KVC_NOT_FOUND;
	if (client->tenant != binding->space->tenant)
		return KVC_DENIED;
	for (at = 0; at < count; at++) {
		/* a record with no tokens, or more than its form says, is refused by whoever reads it */
		if (blocks[at].token_count == 0 || blocks[at].token_count > binding->form.block_tokens) {
			blocks[at].status = KVC_INVALID;
			continue;
		}
		kvc_status_t status = store_reserve_one(cache, client, binding, &blocks[at], ret_new_slab);
		blocks[at].status = status;
		if (status != KVC_OK && status != KVC_EXISTS && status != KVC_IN_FLIGHT)
			break;
	}
	if (at == count)
		return KVC_OK;
	kvc_status_t status = blocks[at].status;
	if (status == KVC_NO_SPACE)
		kvci_cache_count(cache, KVCI_STAT_RESERVE_NO_SPACE, count - at);
	if (status == KVC_OVER_CAP)
		kvci_cache_count(cache, KVCI_STAT_RESERVE_OVER_CAP, count - at);
	for (uint32_t rest = at + 1; rest < count; rest++)
		blocks[rest].status = status;
	return status == KVC_PENDING || status == KVC_NO_MEMORY ? status : KVC_OK;
}

/* ---- commit, abort ---- */

static struct kvci_reservation *store_find(const struct kvci_cache *cache, const struct kvci_client *client, uint64_t id)
{
	uint32_t io = (uint32_t)id;

	if (client == NULL || io >= cache->reservations.chunk_count << cache->reservations.chunk_shift)
		return NULL;
	/* a free pool entry keeps its id but for the low half, which is overwritten: look whether the client has it */
	struct kvci_reservation *reservation = kvci_pool_at(&cache->reservations, io);
	return reservation->id == id && reservation->client == client ? reservation : NULL;
}

/* Seals the record: header and table go into the extent. */
static void store_seal(struct kvci_cache *cache, struct kvci_reservation *reservation, const uint64_t *checksums)
{
	struct kvci_block *block = kvci_block_at(cache, reservation->block);
	const struct kvci_binding *binding = reservation->binding;
	uint8_t *record = cache->slabs[block->spot.slot]->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT);
	struct kvci_record_meta meta = { .epoch = block->epoch,
		                         .position_tokens = reservation->position_tokens,
		                         .token_count = reservation->token_count,
		                         .shard_count = binding->shard_count };

	kvci_binding_id(binding, block->key.hash, &meta.id);
	memcpy(meta.parent_hash, reservation->parent_hash, KVCI_HASH_BYTES);
	block->record_checksum = kvci_record_write_raw(record, &meta, &binding->form, &binding->sizes, checksums);
}

kvc_status_t kvci_cache_commit(struct kvci_cache *cache, uint32_t client_id, uint64_t id, const uint64_t *checksums,
                               uint32_t checksum_count)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvci_reservation *reservation = store_find(cache, client, id);

	kvci_cache_enter(cache);
	if (reservation == NULL)
		return KVC_NOT_FOUND;
	const struct kvci_binding *binding = reservation->binding;
	if (checksum_count != binding->form.layer_count)
		return KVC_INVALID;
	uint32_t number = reservation->block;
	if (number != KVCI_NONE && kvci_block_reap(cache, number)) /* stale: detaches it */
		number = KVCI_NONE;
	if (number == KVCI_NONE) {
		kvc_status_t why = reservation->why;
		kvci_reservation_end(cache, reservation);
		kvci_cache_count(cache, KVCI_STAT_COMMIT_LATE, 1);
		return why;
	}
	store_seal(cache, reservation, checksums);

	struct kvci_block *block = kvci_block_at(cache, number);
	uint64_t bytes = binding->record_bytes;
	cache->reserved_bytes -= bytes;
	client->session->reserved_bytes -= bytes;
	client->reserved_bytes -= bytes;
	client->reservations_count--;
	kvci_list_remove(&reservation->in_client);
	kvci_list_remove(&reservation->in_order);
	kvci_pool_give(&cache->reservations, block->io);
	block->io = KVCI_NONE;
	block->stored = kvci_cache_time(cache);
	kvci_ghost_forget(cache->ghost, block->key.binding, block->key.hash);
	kvci_block_memory_enter(cache, number);
	kvci_block_busy_end(cache, number, KVCI_BLOCK_RESERVED);
	kvci_cache_count(cache, KVCI_STAT_COMMIT_BLOCKS, 1);
	kvci_cache_count(cache, KVCI_STAT_COMMIT_BYTES, bytes);
	kvci_write_sealed(cache, number);
	return KVC_OK;
}

kvc_status_t kvci_cache_abort(struct kvci_cache *cache, uint32_t client_id, uint64_t id)
{
	struct kvci_reservation *reservation = store_find(cache, kvci_client_get(cache, client_id), id);

	kvci_cache_enter(cache);
	if (reservation == NULL)
		return KVC_NOT_FOUND;
	kvci_reservation_end(cache, reservation);
	kvci_cache_count(cache, KVCI_STAT_ABORT_BLOCKS, 1);
	return KVC_OK;
}
