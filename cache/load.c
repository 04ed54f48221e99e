/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads: a client wants blocks of a lease in memory. What is there is answered at once; for the rest it waits on the block's one
 * read, whoever started that.
 *
 * cache_private of a load: [0] its lease, [1] its client, [2] and [3] the list of its waiters.
 */
#include "cache/internal.h"

static struct kvci_list *load_waiters(struct kvci_load *load)
{
	return (struct kvci_list *)(void *)&load->cache_private[2];
}

static void load_unlink(struct kvci_load *load)
{
	struct kvci_client *client = load->cache_private[1];

	if (load->prev != NULL)
		load->prev->next = load->next;
	else
		client->loads = load->next;
	if (load->next != NULL)
		load->next->prev = load->prev;
	load->next = load->prev = NULL;
	load->cache_private[0] = load->cache_private[1] = NULL;
}

/* The shards of a key are used together, whoever's load it is. */
static void load_touch(struct kvci_cache *cache, const struct kvci_lease *lease, uint32_t first, uint32_t count)
{
	uint32_t width = kvci_lease_width(lease);

	kvci_block_touch_chain(cache, lease->blocks + (size_t)first * width, count * width, false);
}

/* One block has its status. With the last one the load is over, and may be gone when this returns. */
static void load_answer(struct kvci_cache *cache, struct kvci_load *load, uint32_t index, kvc_status_t status,
                        const struct kvci_extent *extent, bool waited)
{
	kvci_cache_count(cache, status == KVC_OK ? KVCI_STAT_LOAD_BLOCKS : KVCI_STAT_LOAD_FAILED_BLOCKS, 1);
	if (--load->waiting == 0) {
		const struct kvci_lease *lease = load->cache_private[0];
		if (waited) /* reads came in any order: the chain is put in its own again */
			load_touch(cache, lease, load->first, load->count);
		load_unlink(load);
	}
	load->ready(load, index, status, extent);
}

void kvci_waiter_answer(struct kvci_cache *cache, struct kvci_waiter *waiter, kvc_status_t status,
                        const struct kvci_extent *extent)
{
	struct kvci_load *load = waiter->load;
	uint32_t index = waiter->index;

	kvci_list_remove(&waiter->in_read);
	kvci_list_remove(&waiter->in_load);
	kvci_pool_give(&cache->disk.waiters, waiter->number);
	load_answer(cache, load, index, status, extent, true);
}

void kvci_load_end(struct kvci_cache *cache, struct kvci_load *load, bool notify)
{
	struct kvci_list *waiters = load_waiters(load);

	if (!notify)
		load_unlink(load);
	while (!kvci_list_empty(waiters)) {
		struct kvci_waiter *waiter = KVCI_LIST_OF(waiters->next, struct kvci_waiter, in_load);
		if (notify) {
			bool last = load->waiting == 1;
			kvci_waiter_answer(cache, waiter, KVC_CANCELED, NULL);
			if (last)
				return;
			continue;
		}
		kvci_list_remove(&waiter->in_read);
		kvci_list_remove(&waiter->in_load);
		kvci_pool_give(&cache->disk.waiters, waiter->number);
	}
}

void kvci_cache_load_cancel(struct kvci_cache *cache, struct kvci_load *load)
{
	if (load->cache_private[0] != NULL) /* else it is over */
		kvci_load_end(cache, load, false);
}

/* OK: it is in memory; PENDING: it waits for a read now; else why it will not come. */
static kvc_status_t load_block(struct kvci_cache *cache, struct kvci_load *load, uint32_t index, uint32_t number,
                               struct kvci_extent *ret_extent)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	if ((block->flags & KVCI_BLOCK_DEAD) == 0)
		kvci_block_reap(cache, number); /* it is held: dead at most, not gone */
	if ((block->flags & KVCI_BLOCK_DEAD) != 0)
		return kvci_miss_status((enum kvci_miss)(block->flags >> KVCI_BLOCK_CAUSE_SHIFT));
	if ((block->flags & KVCI_BLOCK_MEMORY) != 0) {
		kvci_block_extent(cache, block, ret_extent);
		return KVC_OK;
	}
	if (cache->disk.read_circuit.state != KVCI_CIRCUIT_CLOSED || (block->flags & KVCI_BLOCK_LATE) != 0)
		return KVC_CIRCUIT_OPEN; /* also for what is being read: nobody joins a wait on a disk that failed */
	if ((block->flags & KVCI_BLOCK_LOADING) == 0) {
		if (!kvci_block_on_disk(cache, block))
			return KVC_DROPPED;
		kvc_status_t status = kvci_read_start(cache, number, false);
		if (status != KVC_OK)
			return status;
	}
	uint32_t w = kvci_pool_take(&cache->disk.waiters);
	if (w == KVCI_POOL_NONE)
		return KVC_BUSY;
	struct kvci_read *read = kvci_pool_at(&cache->disk.reads, block->io);
	struct kvci_waiter *waiter = kvci_pool_at(&cache->disk.waiters, w);
	waiter->number = w;
	waiter->index = index;
	waiter->load = load;
	kvci_list_append(&read->waiters, &waiter->in_read);
	kvci_list_append(load_waiters(load), &waiter->in_load);
	if (load->sections != NULL)
		kvci_read_sections(cache, read, waiter);
	return KVC_PENDING;
}

/* Which of the lease's shards a binding is; KVCI_NONE: of other blocks. */
static uint32_t load_shard(const struct kvci_cache *cache, const struct kvci_lease *lease, uint32_t number)
{
	const struct kvci_binding *binding = kvci_binding_get(cache, number);

	if (kvci_lease_width(lease) == 1)
		return 0;
	return binding != NULL && binding->shards == lease->binding->shards ? binding->shard_index : KVCI_NONE;
}

kvc_status_t kvci_cache_load(struct kvci_cache *cache, struct kvci_load *load,
                             const uint8_t request_id[KVCI_REQUEST_ID_BYTES])
{
	struct kvci_client *client = kvci_client_get(cache, load->client);
	struct kvci_lease *lease;
	struct kvci_extent extent;

	kvci_cache_enter(cache);
	if (client == NULL)
		return KVC_NOT_FOUND;
	lease = kvci_lease_find(cache, client->session, request_id);
	if (lease == NULL)
		return KVC_NOT_FOUND;
	if (load->count == 0 || load->first > lease->count || load->count > lease->count - load->first)
		return KVC_INVALID;
	uint32_t shard = load_shard(cache, lease, load->binding);
	if (shard == KVCI_NONE)
		return KVC_INVALID;
	kvc_status_t status = kvci_lease_attach(cache, lease, client);
	if (status != KVC_OK)
		return status;
	load->waiting = load->count;
	load->cache_private[0] = lease;
	load->cache_private[1] = client;
	kvci_list_init(load_waiters(load));
	load->prev = NULL;
	load->next = client->loads;
	if (client->loads != NULL)
		client->loads->prev = load;
	client->loads = load;

	uint32_t first = load->first, count = load->count, width = kvci_lease_width(lease);
	load_touch(cache, lease, first, count);
	for (uint32_t i = 0; i < count; i++) {
		status = load_block(cache, load, i, lease->blocks[(size_t)(first + i) * width + shard], &extent);
		if (status == KVC_PENDING)
			continue;
		load_answer(cache, load, i, status, status == KVC_OK ? &extent : NULL, false); /* with the last, the load is gone */
	}
	kvci_read_pump(cache);
	return KVC_OK;
}
