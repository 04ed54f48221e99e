/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients and their sessions. A client that joined none has a session of its own: what is held and reserved is always counted on a
 * session.
 */
#include "cache/internal.h"

#include "base/alloc.h"

enum { CLIENT_SESSIONS_MAX = 65536 };

struct kvci_client *kvci_client_get(const struct kvci_cache *cache, uint32_t id)
{
	struct kvci_client *client = cache->clients[id % KVCI_CLIENT_BUCKETS];

	while (client != NULL && client->id != id)
		client = client->next;
	return client;
}

static kvc_status_t session_create(struct kvci_cache *cache, uint32_t tenant, struct kvci_session **ret_session)
{
	uint32_t number = 0;

	while (number < cache->session_count && cache->sessions[number] != NULL)
		number++;
	if (number == cache->session_room) {
		uint32_t room = cache->session_room == 0 ? 16 : cache->session_room * 2;
		if (room > CLIENT_SESSIONS_MAX)
			return KVC_OVER_CAP;
		struct kvci_session **sessions = kvci_realloc(cache->sessions, room * sizeof(struct kvci_session *));
		if (sessions == NULL)
			return KVC_NO_MEMORY;
		cache->sessions = sessions;
		cache->session_room = room;
	}
	struct kvci_session *session = kvci_alloc_zero(1, sizeof(*session));
	if (session == NULL)
		return KVC_NO_MEMORY;
	session->number = number;
	session->tenant = tenant;
	session->refs = 1;
	kvci_list_init(&session->leases);
	cache->sessions[number] = session;
	if (number == cache->session_count)
		cache->session_count++;
	*ret_session = session;
	return KVC_OK;
}

void kvci_session_put(struct kvci_cache *cache, struct kvci_session *session)
{
	if (session == NULL || --session->refs != 0)
		return;
	cache->sessions[session->number] = NULL;
	while (cache->session_count > 0 && cache->sessions[cache->session_count - 1] == NULL)
		cache->session_count--;
	kvci_free(session);
}

kvc_status_t kvci_cache_client_open(struct kvci_cache *cache, uint32_t id, const char *tenant_name)
{
	struct kvci_client *client;
	uint32_t tenant;
	kvc_status_t status;

	kvci_cache_enter(cache);
	if (id == 0)
		return KVC_INVALID;
	if (kvci_client_get(cache, id) != NULL)
		return KVC_EXISTS;
	status = kvci_tenant_get(cache, tenant_name, &tenant);
	if (status != KVC_OK)
		return status;
	client = kvci_alloc_zero(1, sizeof(*client));
	if (client == NULL)
		return KVC_NO_MEMORY;
	status = session_create(cache, tenant, &client->session);
	if (status != KVC_OK) {
		kvci_free(client);
		return status;
	}
	client->id = id;
	client->tenant = tenant;
	kvci_list_init(&client->in_gone);
	kvci_list_init(&client->reservations);
	kvci_list_init(&client->holders);
	kvci_group_init(cache, &client->store, tenant, client);
	client->next = cache->clients[id % KVCI_CLIENT_BUCKETS];
	cache->clients[id % KVCI_CLIENT_BUCKETS] = client;
	return KVC_OK;
}

static struct kvci_session *session_by_id(const struct kvci_cache *cache, uint32_t tenant, const uint8_t *id)
{
	for (uint32_t i = 0; i < cache->session_count; i++) {
		struct kvci_session *session = cache->sessions[i];
		if (session != NULL && session->joined && session->tenant == tenant &&
		    memcmp(session->id, id, KVCI_SESSION_ID_BYTES) == 0)
			return session;
	}
	return NULL;
}

kvc_status_t kvci_cache_session_join(struct kvci_cache *cache, uint32_t client_id,
                                     const uint8_t session_id[KVCI_SESSION_ID_BYTES], bool owner)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvci_session *session;

	kvci_cache_enter(cache);
	if (client == NULL)
		return KVC_NOT_FOUND;
	session = session_by_id(cache, client->tenant, session_id);
	if (session == NULL && !client->session->joined) { /* its own one gets the id; what it holds stays */
		session = client->session;
		session->joined = true;
		memcpy(session->id, session_id, KVCI_SESSION_ID_BYTES);
	}
	if (session != client->session) {
		if (session == NULL || client->session->joined || client->lease_count != 0 || client->reserved_bytes != 0)
			return KVC_EXISTS;
		if (owner && session->owner != NULL)
			return KVC_IN_USE;
		kvci_session_put(cache, client->session);
		session->refs++;
		client->session = session;
	}
	if (owner && session->owner != NULL && session->owner != client)
		return KVC_IN_USE;
	if (owner)
		session->owner = client;
	return KVC_OK;
}

static void client_unlink(struct kvci_cache *cache, struct kvci_client *client)
{
	struct kvci_client **link = &cache->clients[client->id % KVCI_CLIENT_BUCKETS];

	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
}

/* Frees at most *steps things of a dead client; true: nothing is left. */
static bool client_free_some(struct kvci_cache *cache, struct kvci_client *client, uint32_t *steps)
{
	while (!kvci_list_empty(&client->holders)) {
		if (*steps == 0)
			return false;
		--*steps;
		kvci_holder_drop(cache, KVCI_LIST_OF(client->holders.next, struct kvci_holder, in_client), false);
	}
	while (!kvci_list_empty(&client->reservations)) {
		if (*steps == 0)
			return false;
		--*steps;
		kvci_reservation_end(cache, KVCI_LIST_OF(client->reservations.next, struct kvci_reservation, in_client));
	}
	return true;
}

/* All that dead clients held is free: how long did it take since the first of them was seen gone? */
static void client_gone_measure(struct kvci_cache *cache)
{
	if (cache->gone_since_ns == 0 || !kvci_list_empty(&cache->gone) || !kvci_list_empty(&cache->released))
		return;
	uint64_t took_ns = cache->env.now_ns(cache->env.context) - cache->gone_since_ns;
	if (took_ns > kvci_stat_get(cache->env.stats, KVCI_STAT_CLIENT_GONE_LONGEST_NS))
		kvci_stat_set(cache->env.stats, KVCI_STAT_CLIENT_GONE_LONGEST_NS, took_ns);
	cache->gone_since_ns = 0;
}

bool kvci_client_gone_step(struct kvci_cache *cache)
{
	uint32_t steps = KVCI_STEP_BLOCKS;

	client_gone_measure(cache);
	while (!kvci_list_empty(&cache->gone)) {
		struct kvci_client *client = KVCI_LIST_OF(cache->gone.next, struct kvci_client, in_gone);
		if (!client_free_some(cache, client, &steps))
			return true;
		kvci_list_remove(&client->in_gone);
		kvci_session_put(cache, client->session);
		kvci_free(client);
	}
	return false;
}

void kvci_cache_client_gone(struct kvci_cache *cache, uint32_t id)
{
	struct kvci_client *client = kvci_client_get(cache, id);

	kvci_cache_enter(cache);
	if (client == NULL)
		return;
	client->gone = true;
	if (cache->gone_since_ns == 0)
		cache->gone_since_ns = cache->now_ns;
	kvci_stat_set(cache->env.stats, KVCI_STAT_CLIENT_GONE_AT_NS, cache->now_ns);
	client_unlink(cache, client);
	while (client->loads != NULL)
		kvci_load_end(cache, client->loads, false);
	struct kvci_session *session = client->session;
	if (session->owner == client) {
		session->owner = NULL;
		for (struct kvci_list *l = session->leases.next; l != &session->leases;) {
			struct kvci_lease *lease = KVCI_LIST_OF(l, struct kvci_lease, in_session);
			l = l->next;
			kvci_lease_end(cache, lease, false);
		}
	}
	kvci_group_bequeath(cache, &client->store);
	kvci_list_append(&cache->gone, &client->in_gone);
	kvci_client_gone_step(cache);
	kvci_lease_release_step(cache);
	client_gone_measure(cache);
}

void kvci_client_destroy_all(struct kvci_cache *cache)
{
	for (uint32_t bucket = 0; bucket < KVCI_CLIENT_BUCKETS; bucket++) {
		while (cache->clients[bucket] != NULL) {
			struct kvci_client *client = cache->clients[bucket];
			cache->clients[bucket] = client->next;
			kvci_free(client);
		}
	}
	while (!kvci_list_empty(&cache->gone)) {
		struct kvci_client *client = KVCI_LIST_OF(cache->gone.next, struct kvci_client, in_gone);
		kvci_list_remove(&client->in_gone);
		kvci_free(client);
	}
	for (uint32_t i = 0; i < cache->session_count; i++)
		kvci_free(cache->sessions[i]);
	kvci_free(cache->sessions);
}
