/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards: a block of N parallel ranks is N records, one a rank, each under a binding of its own. It is there only when all of them are, and
 * they go together: when one is nowhere any more, a bounded step of the tick forgets the others.
 *
 * Binding one rank's form makes the bindings of all its ranks, as their forms differ in the shard's index alone: `shards` of a binding leads
 * to all of them. A block that died with others to forget is in the list `orphans`, through its token_count, and keeps its number until then.
 */
#include "cache/internal.h"

#include "base/alloc.h"

void kvci_shard_orphan(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	/* What a user drops, and what is of an old epoch, goes in all shards anyway. What is not bound is not known to have others. */
	if (kvci_block_binding(cache, block)->shards == NULL || cause == KVCI_MISS_DROPPED || cause == KVCI_MISS_EPOCH)
		return;
	block->flags |= KVCI_BLOCK_ORPHANS;
	block->token_count = cache->orphans;
	cache->orphans = number;
	cache->orphan_count++;
}

/* The same block of another shard goes, from the disk as well: else it would be back at the next start. */
static void shard_forget(struct kvci_cache *cache, const struct kvci_binding *shard, const uint8_t *hash, enum kvci_miss cause)
{
	uint32_t number = kvci_index_find(cache->index, shard->number, hash);

	if (number == KVCI_INDEX_NONE || kvci_block_reap(cache, number))
		return;
	const struct kvci_block *block = kvci_block_at(cache, number);
	if ((block->flags & KVCI_BLOCK_RESERVED) != 0)
		return; /* it is being stored anew */
	if (kvci_block_on_disk(cache, block)) {
		struct kvc_tier_entry entry;
		kvci_read_entry(cache, block, &entry);
		kvci_tier_drop(cache->disk.tier, &entry);
	}
	kvci_cache_count(cache, KVCI_STAT_SHARD_ORPHAN_BLOCKS, 1);
	kvci_block_forget_one(cache, number, cause);
}

bool kvci_shard_step(struct kvci_cache *cache)
{
	uint32_t steps = KVCI_STEP_BLOCKS;

	while (cache->orphans != KVCI_NONE && steps > 0) {
		uint32_t number = cache->orphans;
		struct kvci_block *block = kvci_block_at(cache, number);
		const struct kvci_binding *binding = kvci_block_binding(cache, block);
		enum kvci_miss cause = (enum kvci_miss)(block->flags >> KVCI_BLOCK_CAUSE_SHIFT);
		uint8_t hash[KVCI_HASH_BYTES];

		cache->orphans = block->token_count;
		cache->orphan_count--;
		block->flags &= (uint16_t)~KVCI_BLOCK_ORPHANS;
		memcpy(hash, block->key.hash, sizeof(hash));
		kvci_block_settle(cache, number);
		/* Stored again, or on its way: the others are whole with it. */
		bool again = kvci_index_find(cache->index, binding->number, hash) != KVCI_INDEX_NONE;
		for (uint32_t i = 0; i < binding->shard_count && !again; i++)
			if (binding->shards[i] != binding)
				shard_forget(cache, binding->shards[i], hash, cause);
		steps -= steps < binding->shard_count ? steps : binding->shard_count;
	}
	return cache->orphans != KVCI_NONE;
}

enum kvci_miss kvci_shard_cause(struct kvci_cache *cache, const struct kvci_binding *shard, const uint8_t *hash)
{
	enum kvci_miss miss = kvci_match_cause(cache, shard, hash);

	return miss == KVCI_MISS_NEVER_STORED ? KVCI_MISS_OTHER_SHARD : miss;
}
