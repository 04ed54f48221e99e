/* SPDX-License-Identifier: Apache-2.0
 *
 * Index: from a key (binding, 32-byte hash) to a block number, and the blocks themselves.
 *
 *   directory[fingerprint & mask] -> segment of 320 groups of 8 slots; a slot is 8 bytes: fingerprint, block number + 1
 *   chunks[number / 512]          -> 512 blocks of block_bytes each, which never move; a block begins with its key
 *
 * Open addressing, linear probing by groups of one cache line; a look-up reads one line of slots and one of the block. A
 * segment that fills up is split in two (extendible hashing): the only step of growth, some tens of microseconds, whatever the
 * size of the whole. Removal moves later slots of the probe chain back: nothing piles up.
 * Clients choose hashes; so that none can choose probe chains, the fingerprint is mixed with a secret of the process.
 *
 * Memory: 9 to 18 bytes of slots a key (10.5 at a million), plus block_bytes, plus a few MiB made ahead where there is a worker.
 * Threads: owner thread only.
 */
#ifndef KVCI_INDEX_H
#define KVCI_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "base/record.h"
#include "base/workers.h"

#define KVCI_INDEX_NONE UINT32_MAX /* no block */

enum {
	KVCI_INDEX_CHUNK_SHIFT = 9, /* 512 blocks a chunk */
};

/* A block of the caller begins with this. The index sets it and nobody else. */
struct kvci_index_key {
	uint8_t hash[KVCI_HASH_BYTES];
	uint32_t binding; /* KVCI_INDEX_NONE: the block number is not in use */
};

/* The first member is for kvci_index_block; the rest is private to index.c. */
struct kvci_index {
	uint8_t **chunks;
	size_t block_bytes;
};

/* Secret that is mixed into fingerprints. */
struct kvci_key_seed {
	uint64_t word[4];
};
/* From the kernel. */
void kvci_key_seed_make(struct kvci_key_seed *ret_seed);
uint64_t kvci_key_mix(const struct kvci_key_seed *seed, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES]);

/* block_bytes: of one block, a multiple of 8, at least sizeof(struct kvci_index_key). Blocks are aligned to 64 when it is a
 * multiple of 64. max_blocks: hard limit, 0: none but the block numbers. seed: NULL: made here. */
kvc_status_t kvci_index_create(size_t block_bytes, uint32_t max_blocks, const struct kvci_key_seed *seed,
                               struct kvci_index **ret_index);
/* No job is under way. */
void kvci_index_destroy(struct kvci_index *index);
/* Its memory is made ahead of need by jobs (cache/supply.h); run_job as of struct kvci_cache_env. Without it memory comes from the heap. */
void kvci_index_set_worker(struct kvci_index *index, void (*run_job)(void *context, struct kvci_job *job), void *context);

/* A new block under a key, zeroed behind its key. The caller made sure (find) that the key is absent: two blocks under one key are a bug
 * that kvci_index_check tells. binding: not KVCI_INDEX_NONE. NO_SPACE: max_blocks; NO_MEMORY. */
kvc_status_t kvci_index_add(struct kvci_index *index, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES],
                            uint32_t *ret_number);
/* The block under a key, or KVCI_INDEX_NONE. */
uint32_t kvci_index_find(const struct kvci_index *index, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES]);
/* The same for `count` keys of one binding, several times faster each: numbers[i] as find would answer. Leaves the first line of each
 * block found in the cache when count is at most a few hundred. */
void kvci_index_find_many(const struct kvci_index *index, uint32_t binding, const uint8_t (*hashes)[KVCI_HASH_BYTES],
                          uint32_t count, uint32_t *numbers);
/* Keys lead no longer to the block; the block itself stays until kvci_index_free (somebody holds it). Idempotent; false: it was not linked. */
bool kvci_index_unlink(struct kvci_index *index, uint32_t number);
/* Unlinks the block if it is linked and gives its number back. */
void kvci_index_free(struct kvci_index *index, uint32_t number);

/* The block. Valid until kvci_index_free; never moves. */
static inline void *kvci_index_block(const struct kvci_index *index, uint32_t number)
{
	return index->chunks[number >> KVCI_INDEX_CHUNK_SHIFT] +
	       (size_t)(number & ((1u << KVCI_INDEX_CHUNK_SHIFT) - 1)) * index->block_bytes;
}
/* The block, or NULL when the number is not in use: for walks over [0, kvci_index_high). */
void *kvci_index_block_used(const struct kvci_index *index, uint32_t number);

uint32_t kvci_index_linked(const struct kvci_index *index); /* keys that are found */
uint32_t kvci_index_used(const struct kvci_index *index);   /* blocks, linked or not */
uint32_t kvci_index_high(const struct kvci_index *index);   /* all numbers ever given are below */
uint64_t kvci_index_memory_bytes(const struct kvci_index *index);
/* Walks all invariants; a line for people when one is broken, else NULL. */
const char *kvci_index_check(const struct kvci_index *index);

#endif
