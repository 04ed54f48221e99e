/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases and holds.
 *
 * A lease is a list of block numbers under (session, request id); its holders are the clients that matched or attached. What pins a
 * block is a *hold*: one a (session, block), counting the leases that have it. So the caps count a block once for a session however
 * many of its requests share it, and once in all.
 *
 * Caps: what is leased and what is reserved have one cap together, and each has a part of it that the other cannot take: leases
 * that queued requests hold do not keep stores out, nor stores leases.
 *
 * A lease that ends is taken out of the table at once; its blocks are let go at once when they are few, else in steps.
 */
#include "cache/internal.h"

#include "base/alloc.h"
#include "base/copy.h"

enum { LEASE_RELEASE_NOW = 256, LEASE_RELEASE_STEP = 2048 };

static bool cap_admits(uint64_t own_bytes, uint64_t other_bytes, uint64_t bytes, uint64_t cap_bytes)
{
	uint64_t left_bytes = cap_bytes - kvci_cap_part(cap_bytes);

	if (own_bytes + other_bytes + bytes > cap_bytes)
		return false;
	left_bytes = left_bytes > bytes ? left_bytes : bytes;                /* for the other kind: one block like this at least */
	return own_bytes == 0 || own_bytes + bytes + left_bytes <= cap_bytes; /* however big a block is, one may */
}

bool kvci_cap_lease(const struct kvci_cache *cache, const struct kvci_session *session, uint64_t bytes, bool first)
{
	if (!cap_admits(session->held_bytes, session->reserved_bytes, bytes, cache->client_cap_bytes))
		return false;
	return !first || cap_admits(cache->held_bytes, cache->reserved_bytes, bytes, cache->lease_cap_bytes);
}

bool kvci_cap_reserve(const struct kvci_cache *cache, const struct kvci_session *session, uint64_t bytes)
{
	return cap_admits(session->reserved_bytes, session->held_bytes, bytes, cache->client_cap_bytes) &&
	       cap_admits(cache->reserved_bytes, cache->held_bytes, bytes, cache->lease_cap_bytes);
}

kvc_status_t kvci_hold_add(struct kvci_cache *cache, struct kvci_session *session, uint32_t number, uint64_t bytes)
{
	struct kvci_block *block = kvci_block_at(cache, number);

	for (uint32_t h = block->holds; h != KVCI_NONE;) {
		struct kvci_hold *hold = kvci_pool_at(&cache->holds, h);
		if (hold->session == session->number) {
			hold->count++;
			return KVC_OK;
		}
		h = hold->next;
	}
	bool first = block->holds == KVCI_NONE; /* in all */
	if (!kvci_cap_lease(cache, session, bytes, first))
		return KVC_OVER_CAP;
	uint32_t h = kvci_pool_take(&cache->holds);
	if (h == KVCI_POOL_NONE)
		return KVC_NO_MEMORY;
	*(struct kvci_hold *)kvci_pool_at(&cache->holds, h) =
		(struct kvci_hold){ .session = session->number, .count = 1, .next = block->holds };
	block->holds = h;
	session->held_bytes += bytes;
	if (first) {
		cache->held_bytes += bytes;
		if (block->spot.slot != KVCI_NONE)
			cache->slabs[block->spot.slot]->busy++;
	}
	return KVC_OK;
}

void kvci_hold_remove(struct kvci_cache *cache, struct kvci_session *session, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	uint64_t bytes = kvci_block_binding(cache, block)->record_bytes;
	uint32_t *link = &block->holds;
	struct kvci_hold *hold = kvci_pool_at(&cache->holds, *link);

	while (hold->session != session->number) {
		link = &hold->next;
		hold = kvci_pool_at(&cache->holds, *link);
	}
	if (--hold->count != 0)
		return;
	uint32_t h = *link;
	*link = hold->next;
	kvci_pool_give(&cache->holds, h);
	session->held_bytes -= bytes;
	if (block->holds != KVCI_NONE)
		return;
	cache->held_bytes -= bytes;
	if (block->spot.slot != KVCI_NONE)
		cache->slabs[block->spot.slot]->busy--;
	if ((block->flags & (KVCI_BLOCK_DEAD | KVCI_BLOCK_LOADING)) == 0 && block->place.generation == 0 &&
	    (block->flags & KVCI_BLOCK_MEMORY) == 0)
		kvci_block_forget(cache, number, KVCI_MISS_EVICTED); /* its place was lost while it was held */
	else
		kvci_block_settle(cache, number);
}

/* ---- the table ---- */

static struct kvci_list *lease_bucket(const struct kvci_cache *cache, const struct kvci_session *session,
                                      const uint8_t *request_id)
{
	uint64_t hash = kvci_checksum(request_id, KVCI_REQUEST_ID_BYTES, cache->lease_seed + session->number);

	return &cache->leases[hash % KVCI_LEASE_BUCKETS];
}

struct kvci_lease *kvci_lease_find(const struct kvci_cache *cache, const struct kvci_session *session,
                                   const uint8_t *request_id)
{
	struct kvci_list *bucket = lease_bucket(cache, session, request_id);

	for (struct kvci_list *l = bucket->next; l != bucket; l = l->next) {
		struct kvci_lease *lease = KVCI_LIST_OF(l, struct kvci_lease, in_bucket);
		if (lease->session == session && memcmp(lease->request_id, request_id, KVCI_REQUEST_ID_BYTES) == 0)
			return lease;
	}
	return NULL;
}

kvc_status_t kvci_lease_create(struct kvci_cache *cache, struct kvci_session *session, struct kvci_binding *binding,
                               const uint8_t *request_id, struct kvci_lease **ret_lease)
{
	if (session->lease_count >= KVCI_LEASES_MAX)
		return KVC_OVER_CAP;
	struct kvci_lease *lease = kvci_alloc_zero(1, sizeof(*lease));
	if (lease == NULL)
		return KVC_NO_MEMORY;
	lease->session = session;
	lease->binding = binding;
	memcpy(lease->request_id, request_id, KVCI_REQUEST_ID_BYTES);
	kvci_list_init(&lease->holders);
	kvci_list_append(lease_bucket(cache, session, request_id), &lease->in_bucket);
	kvci_list_append(&session->leases, &lease->in_session);
	session->lease_count++;
	session->refs++;
	*ret_lease = lease;
	return KVC_OK;
}

kvc_status_t kvci_lease_room(struct kvci_lease *lease, uint32_t count)
{
	if (count <= lease->room)
		return KVC_OK;
	uint32_t *blocks = kvci_realloc(lease->blocks, (size_t)count * kvci_lease_width(lease) * sizeof(*blocks));
	if (blocks == NULL)
		return KVC_NO_MEMORY;
	lease->blocks = blocks;
	lease->room = count;
	return KVC_OK;
}

kvc_status_t kvci_lease_attach(struct kvci_cache *cache, struct kvci_lease *lease, struct kvci_client *client)
{
	for (struct kvci_list *l = lease->holders.next; l != &lease->holders; l = l->next)
		if (KVCI_LIST_OF(l, struct kvci_holder, in_lease)->client == client)
			return KVC_OK;
	uint32_t number = kvci_pool_take(&cache->holders);
	if (number == KVCI_POOL_NONE)
		return KVC_NO_MEMORY;
	struct kvci_holder *holder = kvci_pool_at(&cache->holders, number);
	holder->number = number;
	holder->client = client;
	holder->lease = lease;
	kvci_list_append(&client->holders, &holder->in_client);
	kvci_list_append(&lease->holders, &holder->in_lease);
	client->lease_count++;
	return KVC_OK;
}

static void holder_unlink(struct kvci_cache *cache, struct kvci_holder *holder, bool notify)
{
	struct kvci_client *client = holder->client;
	struct kvci_lease *lease = holder->lease;

	for (struct kvci_load *load = client->loads; load != NULL;) {
		struct kvci_load *next = load->next;
		if (load->cache_private[0] == lease)
			kvci_load_end(cache, load, notify);
		load = next;
	}
	kvci_list_remove(&holder->in_client);
	kvci_list_remove(&holder->in_lease);
	client->lease_count--;
	kvci_pool_give(&cache->holders, holder->number);
}

/* ---- the end of leases ---- */

/* Lets at most *steps blocks go, last ones first; true: the lease is no more. */
static bool lease_release_some(struct kvci_cache *cache, struct kvci_lease *lease, uint32_t *steps)
{
	while (lease->held > 0) {
		if (*steps == 0)
			return false;
		--*steps;
		kvci_hold_remove(cache, lease->session, lease->blocks[--lease->held]);
	}
	kvci_list_remove(&lease->in_session);
	kvci_session_put(cache, lease->session);
	kvci_free(lease->blocks);
	kvci_free(lease);
	return true;
}

void kvci_lease_end(struct kvci_cache *cache, struct kvci_lease *lease, bool now)
{
	uint32_t steps = LEASE_RELEASE_NOW;

	while (!kvci_list_empty(&lease->holders))
		holder_unlink(cache, KVCI_LIST_OF(lease->holders.next, struct kvci_holder, in_lease), true);
	kvci_list_remove(&lease->in_bucket);
	lease->session->lease_count--;
	if (now && lease->held <= LEASE_RELEASE_NOW && lease_release_some(cache, lease, &steps))
		return;
	kvci_list_remove(&lease->in_session);
	kvci_list_append(&cache->released, &lease->in_session);
}

bool kvci_lease_release_step(struct kvci_cache *cache)
{
	uint32_t steps = LEASE_RELEASE_STEP;

	while (!kvci_list_empty(&cache->released))
		if (!lease_release_some(cache, KVCI_LIST_OF(cache->released.next, struct kvci_lease, in_session), &steps))
			return true;
	return false;
}

void kvci_holder_drop(struct kvci_cache *cache, struct kvci_holder *holder, bool notify)
{
	struct kvci_lease *lease = holder->lease;

	holder_unlink(cache, holder, notify);
	if (kvci_list_empty(&lease->holders))
		kvci_lease_end(cache, lease, notify);
}

void kvci_cache_release(struct kvci_cache *cache, uint32_t client_id, const uint8_t request_id[KVCI_REQUEST_ID_BYTES])
{
	struct kvci_client *client = kvci_client_get(cache, client_id);

	kvci_cache_enter(cache);
	struct kvci_lease *lease = client == NULL ? NULL : kvci_lease_find(cache, client->session, request_id);
	if (lease == NULL)
		return;
	for (struct kvci_list *l = lease->holders.next; l != &lease->holders; l = l->next) {
		struct kvci_holder *holder = KVCI_LIST_OF(l, struct kvci_holder, in_lease);
		if (holder->client == client) {
			kvci_holder_drop(cache, holder, true);
			return;
		}
	}
}

static void lease_free_list(struct kvci_list *list)
{
	while (!kvci_list_empty(list)) {
		struct kvci_lease *lease = KVCI_LIST_OF(list->next, struct kvci_lease, in_session);
		kvci_list_remove(&lease->in_session);
		kvci_free(lease->blocks);
		kvci_free(lease);
	}
}

void kvci_lease_destroy_all(struct kvci_cache *cache)
{
	for (uint32_t i = 0; i < cache->session_count; i++)
		if (cache->sessions[i] != NULL)
			lease_free_list(&cache->sessions[i]->leases);
	if (cache->released.next != NULL)
		lease_free_list(&cache->released);
	kvci_free(cache->leases);
	kvci_pool_fini(&cache->holds);
	kvci_pool_fini(&cache->holders);
}
