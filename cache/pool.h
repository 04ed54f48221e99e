/* SPDX-License-Identifier: Apache-2.0
 *
 * Pool: objects of one size in chunks that never move, named by 32-bit numbers. Taking one allocates only when a chunk is full;
 * chunks are kept until the pool ends.
 * Threads: owner thread only.
 */
#ifndef KVCI_POOL_H
#define KVCI_POOL_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#define KVCI_POOL_NONE UINT32_MAX

struct kvci_pool {
	uint8_t **chunks;
	size_t object_bytes; /* at least 4 */
	uint32_t chunk_shift;
	uint32_t chunk_count;
	uint32_t chunk_room;
	uint32_t free_head;
	uint32_t used;
};

/* Nothing is allocated yet. chunk_shift: log2 of the objects in a chunk. */
void kvci_pool_init(struct kvci_pool *pool, size_t object_bytes, uint32_t chunk_shift);
void kvci_pool_fini(struct kvci_pool *pool);
/* The object's bytes are undefined. KVCI_POOL_NONE: no memory. */
uint32_t kvci_pool_take(struct kvci_pool *pool);
void kvci_pool_give(struct kvci_pool *pool, uint32_t number);

static inline void *kvci_pool_at(const struct kvci_pool *pool, uint32_t number)
{
	return pool->chunks[number >> pool->chunk_shift] +
	       (size_t)(number & ((1u << pool->chunk_shift) - 1)) * pool->object_bytes;
}

#endif
