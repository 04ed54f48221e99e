/* SPDX-License-Identifier: Apache-2.0
 * Pool of equal objects; a free one holds the number of the next free one. */
#include "cache/pool.h"

#include <string.h>

#include "base/alloc.h"

void kvci_pool_init(struct kvci_pool *pool, size_t object_bytes, uint32_t chunk_shift)
{
	*pool = (struct kvci_pool){
		.object_bytes = object_bytes, .chunk_shift = chunk_shift, .free_head = KVCI_POOL_NONE
	};
}

void kvci_pool_fini(struct kvci_pool *pool)
{
	for (uint32_t i = 0; i < pool->chunk_count; i++)
		kvci_free(pool->chunks[i]);
	kvci_free(pool->chunks);
	pool->chunks = NULL;
	pool->chunk_count = 0;
	pool->chunk_room = 0;
	pool->free_head = KVCI_POOL_NONE;
	pool->used = 0;
}

static kvc_status_t pool_grow(struct kvci_pool *pool)
{
	uint32_t count = 1u << pool->chunk_shift;

	if (pool->chunk_count == pool->chunk_room) {
		uint32_t room = pool->chunk_room == 0 ? 8 : pool->chunk_room * 2;
		if ((uint64_t)room << pool->chunk_shift >= KVCI_POOL_NONE)
			return KVC_NO_MEMORY;
		uint8_t **chunks = kvci_realloc(pool->chunks, room * sizeof(*chunks));
		if (chunks == NULL)
			return KVC_NO_MEMORY;
		pool->chunks = chunks;
		pool->chunk_room = room;
	}
	uint8_t *chunk = kvci_alloc_zero(count, pool->object_bytes);
	if (chunk == NULL)
		return KVC_NO_MEMORY;
	uint32_t first = pool->chunk_count << pool->chunk_shift;
	pool->chunks[pool->chunk_count++] = chunk;
	for (uint32_t i = count; i-- > 0;) {
		memcpy(chunk + (size_t)i * pool->object_bytes, &pool->free_head, sizeof(pool->free_head));
		pool->free_head = first + i;
	}
	return KVC_OK;
}

uint32_t kvci_pool_take(struct kvci_pool *pool)
{
	if (pool->free_head == KVCI_POOL_NONE && pool_grow(pool) != KVC_OK)
		return KVCI_POOL_NONE;
	uint32_t number = pool->free_head;
	memcpy(&pool->free_head, kvci_pool_at(pool, number), sizeof(pool->free_head));
	pool->used++;
	return number;
}

void kvci_pool_give(struct kvci_pool *pool, uint32_t number)
{
	memcpy(kvci_pool_at(pool, number), &pool->free_head, sizeof(pool->free_head));
	pool->free_head = number;
	pool->used--;
}
