/* SPDX-License-Identifier: Apache-2.0
 *
 * The brain as a whole: made, ended, driven by its tick; drop.
 */
#include "cache/internal.h"

#include "base/alloc.h"

static void *cache_policy_node(void *context, uint32_t node)
{
	return kvci_block_at(context, node)->policy;
}

static bool cache_config_sane(const struct kvci_cache_config *config)
{
	uint64_t page = UINT64_C(1) << KVCI_PAGE_SHIFT;

	return config->slab_bytes >= page && config->slab_bytes % page == 0 && config->memory_bytes >= config->slab_bytes &&
	       config->memory_bytes / config->slab_bytes <= UINT32_MAX / 1024 && config->lease_share_percent >= 1 &&
	       config->lease_share_percent <= 100 && config->client_share_percent >= 1 &&
	       config->client_share_percent <= 100 && config->policy != NULL && config->max_blocks < KVCI_INDEX_NONE &&
	       config->policy->node_bytes <= sizeof(((struct kvci_block *)NULL)->policy);
}

static uint64_t cache_share(uint64_t bytes, uint32_t percent)
{
	return bytes / 100 * percent + bytes % 100 * percent / 100;
}

static kvc_status_t cache_make_tables(struct kvci_cache *cache)
{
	enum { BUCKETS = 1024 };
	kvc_status_t status;

	cache->slot_count = (uint32_t)(cache->config.memory_bytes / cache->config.slab_bytes);
	cache->slabs = kvci_alloc_zero(cache->slot_count, sizeof(struct kvci_slab *));
	cache->slot_turns = kvci_alloc_zero(cache->slot_count, sizeof(*cache->slot_turns));
	cache->leases = kvci_alloc(KVCI_LEASE_BUCKETS * sizeof(*cache->leases));
	cache->space_buckets = kvci_alloc(BUCKETS * sizeof(*cache->space_buckets));
	cache->binding_buckets = kvci_alloc(BUCKETS * sizeof(*cache->binding_buckets));
	cache->head_scratch = kvci_alloc_aligned(64, KVCI_RECORD_HEAD_BYTES_MAX);
	if (cache->slabs == NULL || cache->slot_turns == NULL || cache->leases == NULL || cache->space_buckets == NULL ||
	    cache->binding_buckets == NULL || cache->head_scratch == NULL)
		return KVC_NO_MEMORY;
	memset(cache->space_buckets, 0xff, BUCKETS * sizeof(*cache->space_buckets));
	memset(cache->binding_buckets, 0xff, BUCKETS * sizeof(*cache->binding_buckets));
	for (uint32_t i = 0; i < KVCI_LEASE_BUCKETS; i++)
		kvci_list_init(&cache->leases[i]);
	status = kvci_index_create(sizeof(struct kvci_block), (uint32_t)cache->config.max_blocks, &cache->seed, &cache->index);
	if (status != KVC_OK)
		return status;
	kvci_index_set_worker(cache->index, cache->env.run_job, cache->env.context);
	cache->policy_env.chunks = &cache->index->chunks; /* a block's number is its node's */
	cache->policy_env.chunk_shift = KVCI_INDEX_CHUNK_SHIFT;
	cache->policy_env.stride_bytes = sizeof(struct kvci_block);
	cache->policy_env.offset_bytes = offsetof(struct kvci_block, policy);
	return kvci_ghost_create(KVCI_GHOST_ENTRIES, &cache->seed, &cache->ghost);
}

static void cache_init_lists(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;

	kvci_list_init(&cache->groups);
	kvci_list_init(&cache->gone);
	kvci_list_init(&cache->released);
	kvci_list_init(&cache->reservation_order);
	kvci_list_init(&disk->read_waiting);
	kvci_list_init(&disk->read_active);
	kvci_list_init(&disk->read_late);
	kvci_list_init(&disk->write_waiting);
	kvci_list_init(&disk->write_active);
	kvci_pool_init(&cache->holds, sizeof(struct kvci_hold), 12);
	kvci_pool_init(&cache->holders, sizeof(struct kvci_holder), 8);
	kvci_pool_init(&cache->reservations, sizeof(struct kvci_reservation), 7);
	kvci_pool_init(&disk->requests, sizeof(struct kvci_disk_request), 4);
	kvci_pool_init(&disk->reads, sizeof(struct kvci_read), 8);
	kvci_pool_init(&disk->waiters, sizeof(struct kvci_waiter), 8);
	kvci_pool_init(&disk->writes, sizeof(struct kvci_write), 8);
	for (uint32_t i = 0; i < KVCI_VERIFY_MAX; i++)
		cache->verifies[i].block = KVCI_NONE;
}

static kvc_status_t cache_attach_disk(struct kvci_cache *cache, struct kvc_tier *tier)
{
	struct kvci_disk *disk = &cache->disk;

	kvci_circuit_init(cache, &disk->read_circuit);
	kvci_circuit_init(cache, &disk->write_circuit);
	if (tier == NULL)
		return KVC_OK;
	kvci_tier_caps(tier, &disk->caps);
	if (disk->caps.align_bytes > 1u << KVCI_PAGE_SHIFT)
		return KVC_UNSUPPORTED;
	disk->depth = disk->caps.best_queue_depth != 0 ? disk->caps.best_queue_depth : 1;
	disk->tier = tier;
	disk->loading = true;
	kvci_events_init(cache);
	return kvci_tier_attach(tier, &disk->events);
}

kvc_status_t kvci_cache_create(const struct kvci_cache_config *config, const struct kvci_cache_env *env,
                               struct kvci_cache **ret_cache)
{
	struct kvci_cache *cache;
	kvc_status_t status;

	if (!cache_config_sane(config))
		return KVC_INVALID;
	cache = kvci_alloc_zero(1, sizeof(*cache));
	if (cache == NULL)
		return KVC_NO_MEMORY;
	cache->config = *config;
	cache->env = *env;
	cache->policy_env = (struct kvc_policy_env){ .context = cache, .node = cache_policy_node };
	cache->lease_cap_bytes = cache_share(config->memory_bytes, config->lease_share_percent);
	cache->client_cap_bytes = cache_share(config->memory_bytes, config->client_share_percent);
	if (cache->client_cap_bytes > cache->lease_cap_bytes)
		cache->client_cap_bytes = cache->lease_cap_bytes;
	kvci_cache_enter(cache);
	cache->start_ns = cache->now_ns;
	cache->orphans = KVCI_NONE;
	cache->leaves = 1;
	cache_init_lists(cache);
	kvci_key_seed_make(&cache->seed);
	cache->lease_seed = cache->seed.word[1] ^ cache->seed.word[3];
	status = cache_make_tables(cache);
	if (status == KVC_OK)
		status = cache_attach_disk(cache, env->disk);
	if (status != KVC_OK)
		goto fail;
	*ret_cache = cache;
	return KVC_OK;
fail:
	kvci_cache_destroy(cache);
	return status;
}

void kvci_cache_destroy(struct kvci_cache *cache)
{
	struct kvci_disk *disk;

	if (cache == NULL)
		return;
	disk = &cache->disk;
	kvci_arena_destroy_all(cache);
	kvci_lease_destroy_all(cache);
	kvci_client_destroy_all(cache);
	kvci_space_table_destroy(cache);
	kvci_damage_destroy(cache);
	kvci_pool_fini(&cache->reservations);
	kvci_pool_fini(&disk->requests);
	kvci_pool_fini(&disk->reads);
	kvci_pool_fini(&disk->waiters);
	kvci_pool_fini(&disk->writes);
	kvci_free(disk->lost);
	kvci_ghost_destroy(cache->ghost);
	kvci_index_destroy(cache->index);
	kvci_free(cache->match_scratch);
	kvci_free(cache->head_scratch);
	kvci_free(cache->slot_turns);
	kvci_free(cache->slabs);
	kvci_free(cache);
}

static void cache_sooner(uint64_t *next_ns, uint64_t due_ns)
{
	*next_ns = due_ns < *next_ns ? due_ns : *next_ns;
}

uint64_t kvci_cache_tick(struct kvci_cache *cache)
{
	uint64_t next_ns = UINT64_MAX;

	kvci_cache_enter(cache);
	cache_sooner(&next_ns, kvci_store_tick(cache));
	cache_sooner(&next_ns, kvci_space_tick(cache));
	if (kvci_client_gone_step(cache))
		next_ns = cache->now_ns;
	if (kvci_lease_release_step(cache))
		next_ns = cache->now_ns;
	cache_sooner(&next_ns, kvci_arena_drain_step(cache));
	if (kvci_sweep_step(cache))
		next_ns = cache->now_ns;
	if (kvci_shard_step(cache))
		next_ns = cache->now_ns;
	if (!kvci_cache_has_disk(cache))
		return next_ns;
	if (cache->disk.retry_ns <= cache->now_ns)
		cache->disk.retry_ns = 0;
	cache_sooner(&next_ns, kvci_read_tick(cache));
	cache_sooner(&next_ns, kvci_write_tick(cache));
	cache_sooner(&next_ns, kvci_circuit_tick(cache));
	if (cache->disk.retry_ns != 0)
		cache_sooner(&next_ns, cache->disk.retry_ns);
	return next_ns;
}

kvc_status_t kvci_cache_drop(struct kvci_cache *cache, uint32_t space_number, uint32_t group,
                             const uint8_t hash[KVCI_HASH_BYTES])
{
	bool found = false;

	kvci_cache_enter(cache);
	if (space_number >= cache->space_count)
		return KVC_NOT_FOUND;
	if (cache->disk.loading) /* what the index has still to bring would outlive the drop */
		return KVC_LOADING;
	for (uint32_t b = cache->spaces[space_number]->first_binding; b != KVCI_NONE; b = cache->bindings[b]->next_of_space) {
		uint32_t number = cache->bindings[b]->group == group ? kvci_index_find(cache->index, b, hash) : KVCI_INDEX_NONE;
		if (number == KVCI_INDEX_NONE || kvci_block_reap(cache, number))
			continue;
		struct kvci_block *block = kvci_block_at(cache, number);
		if ((block->flags & KVCI_BLOCK_RESERVED) != 0)
			continue; /* not stored yet */
		if (kvci_block_on_disk(cache, block)) {
			struct kvc_tier_entry entry;
			kvci_read_entry(cache, block, &entry);
			kvc_status_t status = kvci_tier_drop(cache->disk.tier, &entry);
			if (status != KVC_OK && status != KVC_UNSUPPORTED)
				kvci_cache_count(cache, KVCI_STAT_DROP_DISK_ERRORS, 1);
		}
		kvci_block_forget(cache, number, KVCI_MISS_DROPPED);
		kvci_cache_count(cache, KVCI_STAT_DROP_BLOCKS, 1);
		found = true;
	}
	return found ? KVC_OK : KVC_NOT_FOUND;
}
