/* SPDX-License-Identifier: Apache-2.0
 *
 * The brain against a naive model, by random operations of several clients over a disk that fails in all its ways.
 *
 * The model knows what was committed, dropped, overdue or of an old epoch, and so what may be hit, what must not, and what must (as
 * long as the brain counted no loss since). Every delivered extent is read as a client would, right away and as long as it is pinned.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/random.h"
#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/log.h"

enum {
	MODEL_CLIENTS = 5,
	MODEL_BINDINGS = 7,
	MODEL_SPACES = 3,
	MODEL_KEYS = 48,
	MODEL_LEASES = 48,
	MODEL_LOADS = 16,
	MODEL_RESERVATIONS = 64,
	MODEL_REQUESTS = 6, /* request ids a session */
};

struct model_binding {
	const char *tenant;
	uint32_t space, form;
};

static const struct model_binding model_bindings[MODEL_BINDINGS] = {
	{ "", 0, 0 }, { "", 0, 1 }, { "", 0, 2 }, { "", 1, 0 }, { "other", 2, 0 }, { "", 1, 3 }, { "", 1, 4 },
};
enum { MODEL_SHARD = 5, MODEL_SHARDS = 2 }; /* the last two are the shards of one block */

struct model_key {
	bool committed; /* and neither dropped nor of an old epoch */
	bool ever;
	bool restarted; /* since the commit: an older record of it may have been all that the disk had */
	uint64_t tag, losses;
	uint64_t old_tags[8]; /* of the same epoch, and since it was dropped last */
	uint64_t epoch;
};

struct model_reservation {
	bool used, overdue, stale;
	uint32_t client, binding, key;
	uint64_t id, tag, begun_ns;
	struct kvci_extent extent;
	uint64_t checksums[WORLD_LAYERS];
};

struct model_lease {
	bool used;
	uint32_t session, binding, first, count, holders;
	uint64_t request;
	struct kvci_extent extents[MODEL_SHARDS][MODEL_KEYS];
	uint64_t tags[MODEL_SHARDS][MODEL_KEYS];
	bool pinned[MODEL_SHARDS][MODEL_KEYS]; /* an extent was delivered, and nobody spoiled it */
};

struct model;
struct model_load {
	struct kvci_load load; /* first */
	struct model *model;
	struct model_lease *lease;
	uint32_t shard;
	bool used;
	uint64_t answered;
};

struct model {
	struct world world;
	uint64_t random, turn, next_tag;
	uint32_t next_client;
	uint32_t clients[MODEL_CLIENTS]; /* their ids */
	uint32_t bindings[MODEL_BINDINGS];
	uint32_t space_numbers[MODEL_SPACES];
	uint64_t epochs[MODEL_SPACES];
	struct model_key keys[MODEL_BINDINGS][MODEL_KEYS];
	struct model_reservation reservations[MODEL_RESERVATIONS];
	struct model_lease leases[MODEL_LEASES];
	struct model_load loads[MODEL_LOADS];
	uint32_t shard_key; /* of a shard that was reserved lately: its other shard is likely to be wanted */
	uint64_t loads_ok, hits, whole_hits, over_caps;
};

static struct model *model_now; /* for messages */

#define MODEL_ASSERT(condition)                                                                       \
	do {                                                                                          \
		if (!(condition))                                                                     \
			fail_msg("turn %llu: %s", (unsigned long long)model_now->turn, #condition);   \
	} while (0)

static uint64_t model_random(struct model *m, uint64_t below)
{
	return (random_step(&m->random) >> 11) % below;
}

static uint32_t model_session(uint32_t client)
{
	return client < 3 ? 0 : client - 2;
}

static const char *model_tenant(uint32_t client)
{
	return client == 4 ? "other" : "";
}

/* A binding that the client may use. */
static uint32_t model_pick_binding(struct model *m, uint32_t client)
{
	uint32_t binding = (uint32_t)model_random(m, 6);

	return client == 4 ? 4 : binding < 4 ? binding : binding + 1;
}

/* The first binding of all shards of this one's blocks. */
static uint32_t model_family(uint32_t binding)
{
	return binding > MODEL_SHARD ? MODEL_SHARD : binding;
}

static uint32_t model_shards(uint32_t binding)
{
	return binding < MODEL_SHARD ? 1 : MODEL_SHARDS;
}

static uint64_t model_losses(const struct model *m)
{
	return world_stat(&m->world, KVCI_STAT_EVICT_LOST_BLOCKS) + world_stat(&m->world, KVCI_STAT_DISK_RECLAIMED_BLOCKS) +
	       world_stat(&m->world, KVCI_STAT_DAMAGED_BLOCKS) + world_stat(&m->world, KVCI_STAT_INDEX_FULL_BLOCKS) +
	       world_stat(&m->world, KVCI_STAT_SHARD_ORPHAN_BLOCKS);
}

static bool model_valid(const struct model *m, uint32_t binding, uint32_t key)
{
	const struct model_key *k = &m->keys[binding][key];

	return k->committed && k->epoch == m->epochs[model_bindings[binding].space];
}

/* In all its shards. */
static bool model_whole(const struct model *m, uint32_t binding, uint32_t key)
{
	bool whole = true;

	for (uint32_t i = 0; i < model_shards(binding); i++)
		whole &= model_valid(m, model_family(binding) + i, key);
	return whole;
}

static uint64_t model_key_number(uint32_t binding, uint32_t key)
{
	return model_bindings[binding].space == 2 ? 5000 + key : 1000 + key; /* forms of one space share keys */
}

static bool model_tag_right(const struct model_key *key, uint64_t tag)
{
	bool old = false;

	for (unsigned i = 0; i < 8; i++)
		old |= key->old_tags[i] == tag;
	return tag == key->tag || (key->restarted && old);
}

/* ---- clients ---- */

static void model_client_open(struct model *m, uint32_t client)
{
	static const uint8_t session[KVCI_SESSION_ID_BYTES] = "engine";
	uint32_t id = ++m->next_client, binding;

	m->clients[client] = id;
	MODEL_ASSERT(kvci_cache_client_open(m->world.cache, id, model_tenant(client)) == KVC_OK);
	if (client < 3)
		MODEL_ASSERT(kvci_cache_session_join(m->world.cache, id, session, client == 0) == KVC_OK);
	for (uint32_t b = 0; b < MODEL_BINDINGS; b++) {
		kvc_status_t status = world_bind(&m->world, id, model_bindings[b].tenant, model_bindings[b].space,
		                                 model_bindings[b].form, &binding);
		if ((client == 4) != (b == 4)) {
			MODEL_ASSERT(status == KVC_DENIED);
			continue;
		}
		MODEL_ASSERT(status == KVC_OK);
		m->bindings[b] = binding;
		m->space_numbers[model_bindings[b].space] = kvci_cache_binding_space(m->world.cache, binding);
	}
}

static void model_lease_end(struct model_lease *lease)
{
	lease->used = false;
}

static void model_client_die(struct model *m, uint32_t client)
{
	for (uint32_t i = 0; i < MODEL_LOADS; i++) /* whom the daemon tells no more */
		if (m->loads[i].used && m->loads[i].load.client == m->clients[client])
			m->loads[i].used = false;
	kvci_cache_client_gone(m->world.cache, m->clients[client]);
	for (uint32_t i = 0; i < MODEL_RESERVATIONS; i++)
		if (m->reservations[i].used && m->reservations[i].client == client)
			m->reservations[i].used = false;
	for (uint32_t i = 0; i < MODEL_LEASES; i++) {
		struct model_lease *lease = &m->leases[i];
		if (!lease->used || lease->session != model_session(client))
			continue;
		lease->holders &= ~(1u << client);
		if (lease->holders == 0 || client == 0)
			model_lease_end(lease);
	}
	model_client_open(m, client);
}

/* ---- stores ---- */

static struct model_reservation *model_flight(struct model *m, uint32_t binding, uint32_t key)
{
	for (uint32_t i = 0; i < MODEL_RESERVATIONS; i++) {
		struct model_reservation *r = &m->reservations[i];
		if (r->used && !r->overdue && !r->stale && r->binding == binding && r->key == key)
			return r;
	}
	return NULL;
}

static void model_reserve(struct model *m)
{
	struct model_reservation *free = NULL;
	struct kvci_reserve block;
	uint32_t client = (uint32_t)model_random(m, MODEL_CLIENTS), binding = model_pick_binding(m, client);
	uint32_t key = (uint32_t)model_random(m, MODEL_KEYS);

	if (model_shards(binding) > 1 && model_random(m, 4) != 0)
		key = m->shard_key;
	if (model_shards(binding) > 1 && model_random(m, 8) == 0)
		m->shard_key = key = (key + 1) % MODEL_KEYS;
	for (uint32_t i = 0; i < MODEL_RESERVATIONS && free == NULL; i++)
		free = m->reservations[i].used ? NULL : &m->reservations[i];
	if (free == NULL)
		return;
	kvc_status_t status =
		world_reserve(&m->world, m->clients[client], m->bindings[binding], model_key_number(binding, key), &block);
	MODEL_ASSERT((status == KVC_IN_FLIGHT) == (model_flight(m, binding, key) != NULL));
	MODEL_ASSERT(status != KVC_EXISTS || model_valid(m, binding, key));
	if (status == KVC_OVER_CAP) {
		uint32_t others[MODEL_CLIENTS], count = 0;
		for (uint32_t other = 0; other < MODEL_CLIENTS; other++)
			if (model_session(other) != model_session(client))
				others[count++] = m->clients[other];
		MODEL_ASSERT(world_reserve_over_cap(&m->world, others, count, model_bindings[binding].form));
		m->over_caps++;
	}
	if (status == KVC_IN_FLIGHT || status == KVC_EXISTS || status == KVC_NO_SPACE || status == KVC_OVER_CAP)
		return;
	MODEL_ASSERT(status == KVC_OK);
	*free = (struct model_reservation){ .used = true,
		                            .client = client,
		                            .binding = binding,
		                            .key = key,
		                            .id = block.reservation,
		                            .tag = ++m->next_tag,
		                            .begun_ns = m->world.now_ns,
		                            .extent = block.extent };
	world_fill(&m->world, m->bindings[binding], block.hash, &block.extent, free->tag, free->checksums);
	struct kvci_client_info info;
	MODEL_ASSERT(kvci_cache_client_info(m->world.cache, m->clients[client], &info) == KVC_OK && info.reservations > 0);
}

/* What the writer wrote is still there: nobody else was given this memory. */
static void model_check_reservation(struct model *m, struct model_reservation *r)
{
	uint64_t word;
	const uint8_t *record = world_extent(&m->world, &r->extent);

	MODEL_ASSERT(record != NULL);
	memcpy(&word, record + 512, sizeof(word));
	MODEL_ASSERT(word == r->tag);
}

static void model_commit(struct model *m)
{
	struct model_reservation *r = &m->reservations[model_random(m, MODEL_RESERVATIONS)];

	if (!r->used)
		return;
	model_check_reservation(m, r);
	if (model_random(m, 8) == 0) {
		MODEL_ASSERT(kvci_cache_commit(m->world.cache, m->clients[r->client], r->id, r->checksums, 1) == KVC_INVALID);
		MODEL_ASSERT(kvci_cache_abort(m->world.cache, m->clients[r->client], r->id) == KVC_OK);
		r->used = false;
		return;
	}
	kvc_status_t status = kvci_cache_commit(m->world.cache, m->clients[r->client], r->id, r->checksums, WORLD_LAYERS);
	r->used = false;
	if (r->overdue || r->stale) {
		MODEL_ASSERT(status == KVC_TIMED_OUT || status == KVC_STALE_EPOCH);
		return;
	}
	MODEL_ASSERT(status == KVC_OK);
	struct model_key *key = &m->keys[r->binding][r->key], old = *key;
	*key = (struct model_key){ .committed = true,
		                   .ever = true,
		                   .tag = r->tag,
		                   .losses = model_losses(m),
		                   .epoch = m->epochs[model_bindings[r->binding].space] };
	struct kvci_cache_totals totals;
	kvci_cache_totals(m->world.cache, &totals);
	key->restarted = totals.index_loading; /* an older record may still turn up, when this one is evicted */
	if (old.committed && old.epoch == key->epoch) {
		memcpy(&key->old_tags[1], old.old_tags, sizeof(old.old_tags) - sizeof(old.old_tags[0]));
		key->old_tags[0] = old.tag;
	}
}

/* ---- match, load ---- */

static struct model_lease *model_lease_find(struct model *m, uint32_t session, uint64_t request)
{
	for (uint32_t i = 0; i < MODEL_LEASES; i++)
		if (m->leases[i].used && m->leases[i].session == session && m->leases[i].request == request)
			return &m->leases[i];
	return NULL;
}

static struct model_lease *model_lease_free(struct model *m)
{
	for (uint32_t i = 0; i < MODEL_LEASES; i++)
		if (!m->leases[i].used)
			return &m->leases[i];
	return NULL;
}

/* What a match may answer for one key. */
static void model_check_hit(struct model *m, uint32_t binding, uint32_t key, bool hit, enum kvci_miss miss)
{
	const struct model_key *k = &m->keys[binding][key];
	uint32_t first = model_family(binding), shards = model_shards(binding);
	bool flight = false, all_ever = true, kept = true;

	if (hit) {
		MODEL_ASSERT(model_whole(m, binding, key));
		m->hits++;
		m->whole_hits += shards > 1;
		return;
	}
	for (uint32_t b = first; b < first + shards; b++) {
		flight |= model_flight(m, b, key) != NULL;
		all_ever &= m->keys[b][key].ever;
		kept &= m->keys[b][key].losses == model_losses(m);
	}
	MODEL_ASSERT(miss != KVCI_MISS_NONE);
	MODEL_ASSERT(miss == KVCI_MISS_IN_FLIGHT || miss == KVCI_MISS_OVER_CAP || model_flight(m, binding, key) == NULL);
	MODEL_ASSERT(miss != KVCI_MISS_IN_FLIGHT || flight);
	MODEL_ASSERT(miss != KVCI_MISS_NEVER_STORED || !k->ever);
	MODEL_ASSERT(miss != KVCI_MISS_OTHER_SHARD || (shards > 1 && !all_ever));
	MODEL_ASSERT(miss != KVCI_MISS_OVER_CAP || model_whole(m, binding, key));
	if (model_whole(m, binding, key) && kept)
		MODEL_ASSERT(miss == KVCI_MISS_DISK_CIRCUIT || miss == KVCI_MISS_OVER_CAP);
}

static bool model_loads_of(const struct model *m, uint32_t client)
{
	for (uint32_t i = 0; i < MODEL_LOADS; i++)
		if (m->loads[i].used && m->loads[i].load.client == m->clients[client])
			return true;
	return false;
}

/* A leased match came back: the model's lease of it is made or extended. */
static void model_leased(struct model *m, uint32_t client, uint32_t binding, uint32_t first, const struct kvci_match *match,
                         uint64_t request, struct model_lease *lease)
{
	bool same = lease != NULL && lease->binding == model_family(binding) && lease->first == first;

	if (lease != NULL && !same) {
		model_lease_end(lease); /* its only holder asked for other keys: a new one */
		lease = NULL;
	}
	if (match->matched == 0 && lease == NULL)
		return;
	if (lease == NULL) {
		lease = model_lease_free(m);
		MODEL_ASSERT(lease != NULL);
		memset(lease, 0, sizeof(*lease));
		lease->used = true;
		lease->session = model_session(client);
		lease->binding = model_family(binding);
		lease->first = first;
		lease->request = request;
	}
	if (match->matched != 0)
		lease->holders |= 1u << client;
	if (match->matched > lease->count)
		lease->count = match->matched;
}

static void model_match(struct model *m)
{
	uint32_t client = (uint32_t)model_random(m, MODEL_CLIENTS), binding = model_pick_binding(m, client);
	uint32_t first = (uint32_t)model_random(m, 8) * 6, count = 1 + (uint32_t)model_random(m, MODEL_KEYS - first);
	uint32_t kind = (uint32_t)model_random(m, 4);

	if (model_shards(binding) > 1 && model_random(m, 2) == 0) {
		first = m->shard_key - m->shard_key % 4;
		count = 1 + (uint32_t)model_random(m, MODEL_KEYS - first);
	}
	uint64_t request = model_random(m, MODEL_REQUESTS);
	struct kvci_match match = { 0 };
	uint8_t exists[MODEL_KEYS];
	uint32_t flags = kind < 2 ? KVCI_MATCH_LEASE : kind == 2 ? 0 : KVCI_MATCH_EXISTS;
	struct model_lease *lease = flags == KVCI_MATCH_LEASE ? model_lease_find(m, model_session(client), request) : NULL;

	if (flags == KVCI_MATCH_LEASE && lease == NULL && model_lease_free(m) == NULL)
		return;
	match.exists = exists;
	uint32_t numbers[MODEL_KEYS * MODEL_SHARDS];
	match.numbers = flags == 0 && model_random(m, 2) == 0 ? numbers : NULL;
	bool busy = lease != NULL && (lease->holders != 1u << client || model_loads_of(m, client));
	kvc_status_t status = world_match(&m->world, m->clients[client], m->bindings[binding], model_key_number(binding, first), count,
	                                  flags, request, &match);
	if (lease != NULL && busy && (lease->binding != model_family(binding) || lease->first != first)) {
		MODEL_ASSERT(status == KVC_IN_USE);
		return;
	}
	MODEL_ASSERT(status == KVC_OK);
	if (flags == KVCI_MATCH_EXISTS) {
		uint32_t sum = 0;
		for (uint32_t i = 0; i < count; i++) {
			MODEL_ASSERT(!exists[i] || model_whole(m, binding, first + i));
			sum += exists[i];
		}
		MODEL_ASSERT(sum == match.matched);
		return;
	}
	if (match.numbers != NULL && model_random(m, 4) == 0)
		world_run(&m->world); /* some of them may be gone by then */
	if (match.numbers != NULL) {
		uint8_t hashes[MODEL_KEYS][KVCI_HASH_BYTES];
		for (uint32_t i = 0; i < match.matched; i++)
			world_hash(model_key_number(binding, first + i), hashes[i]);
		match.hashes = (const uint8_t(*)[KVCI_HASH_BYTES])hashes;
		kvci_cache_match_touch_blocks(m->world.cache, &match, 0, match.matched);
	}
	for (uint32_t i = 0; i < match.matched; i++)
		model_check_hit(m, binding, first + i, true, KVCI_MISS_NONE);
	if (match.matched < count && (lease == NULL || match.matched >= lease->count))
		model_check_hit(m, binding, first + match.matched, false, match.end);
	MODEL_ASSERT(match.end != KVCI_MISS_OVER_CAP ||
	             world_lease_over_cap(&m->world, m->clients[client], model_bindings[binding].form, model_shards(binding)));
	MODEL_ASSERT((match.end == KVCI_MISS_NONE) == (match.matched == count));
	MODEL_ASSERT(match.in_memory + match.on_disk == match.matched);
	if (flags == KVCI_MATCH_LEASE)
		model_leased(m, client, binding, first, &match, request, lease);
}

static void model_ready(struct kvci_load *kvci_load, uint32_t index, kvc_status_t status, const struct kvci_extent *extent)
{
	struct model_load *load = (struct model_load *)(void *)kvci_load;
	struct model *m = load->model;
	struct model_lease *lease = load->lease;
	uint32_t at = kvci_load->first + index, key = lease->first + at;
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	MODEL_ASSERT(load->used && index < kvci_load->count);
	MODEL_ASSERT((load->answered >> index & 1) == 0); /* once */
	load->answered |= UINT64_C(1) << index;
	if (kvci_load->waiting == 0) {
		load->used = false;
		MODEL_ASSERT(load->answered == (kvci_load->count == 64 ? UINT64_MAX : (UINT64_C(1) << kvci_load->count) - 1));
	}
	if (status != KVC_OK) {
		MODEL_ASSERT(extent == NULL);
		enum kvc_status_class class = kvc_status_class(status);
		MODEL_ASSERT(class == KVC_CLASS_MISS || class == KVC_CLASS_RETRY || class == KVC_CLASS_DEGRADE);
		return;
	}
	m->loads_ok++;
	uint32_t binding = lease->binding + load->shard;
	MODEL_ASSERT(model_valid(m, binding, key));
	MODEL_ASSERT(kvci_cache_slab_visible(m->world.cache, kvci_load->client, extent->slab));
	MODEL_ASSERT(!kvci_cache_slab_visible(m->world.cache, m->clients[kvci_load->client == m->clients[4] ? 3 : 4], extent->slab));
	world_hash(model_key_number(lease->binding, key), hash);
	MODEL_ASSERT(world_read(&m->world, extent, hash, &tag) == KVC_OK); /* what was spoiled was reported, and is gone */
	MODEL_ASSERT(model_tag_right(&m->keys[binding][key], tag));
	lease->extents[load->shard][at] = *extent;
	lease->tags[load->shard][at] = tag;
	lease->pinned[load->shard][at] = true;
}

static void model_load(struct model *m)
{
	struct model_load *free = NULL;
	uint32_t client = (uint32_t)model_random(m, MODEL_CLIENTS);
	uint64_t request = model_random(m, MODEL_REQUESTS);
	struct model_lease *lease = model_lease_find(m, model_session(client), request);
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	for (uint32_t i = 0; i < MODEL_LOADS && free == NULL; i++)
		free = m->loads[i].used ? NULL : &m->loads[i];
	if (free == NULL)
		return;
	memset(free, 0, sizeof(*free));
	world_request_id(request, id);
	free->load.client = m->clients[client];
	free->load.ready = model_ready;
	free->model = m;
	free->lease = lease;
	free->used = true;
	if (lease == NULL) {
		free->load.count = 1;
		MODEL_ASSERT(kvci_cache_load(m->world.cache, &free->load, id) == KVC_NOT_FOUND);
		free->used = false;
		return;
	}
	free->load.first = (uint32_t)model_random(m, lease->count);
	free->load.count = 1 + (uint32_t)model_random(m, lease->count - free->load.first);
	free->shard = (uint32_t)model_random(m, model_shards(lease->binding));
	free->load.binding = m->bindings[lease->binding + free->shard];
	if (model_shards(lease->binding) > 1 && model_random(m, 20) == 0) {
		free->load.binding = m->bindings[model_random(m, 2) * 3]; /* of other blocks */
		MODEL_ASSERT(kvci_cache_load(m->world.cache, &free->load, id) == KVC_INVALID);
		free->used = false;
		return;
	}
	if (model_random(m, 20) == 0) {
		free->load.count = lease->count - free->load.first + 1;
		MODEL_ASSERT(kvci_cache_load(m->world.cache, &free->load, id) == KVC_INVALID);
		free->used = false;
		return;
	}
	MODEL_ASSERT(kvci_cache_load(m->world.cache, &free->load, id) == KVC_OK);
	lease->holders |= 1u << client;
}

static void model_release(struct model *m)
{
	uint32_t client = (uint32_t)model_random(m, MODEL_CLIENTS);
	uint64_t request = model_random(m, MODEL_REQUESTS);
	struct model_lease *lease = model_lease_find(m, model_session(client), request);
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	world_request_id(request, id);
	kvci_cache_release(m->world.cache, m->clients[client], id);
	for (uint32_t i = 0; i < MODEL_LOADS && lease != NULL; i++)
		MODEL_ASSERT(!m->loads[i].used || m->loads[i].lease != lease || m->loads[i].load.client != m->clients[client]);
	if (lease == NULL)
		return;
	lease->holders &= ~(1u << client);
	if (lease->holders == 0)
		model_lease_end(lease);
}

static void model_cancel(struct model *m)
{
	struct model_load *load = &m->loads[model_random(m, MODEL_LOADS)];

	if (!load->used)
		return;
	kvci_cache_load_cancel(m->world.cache, &load->load);
	load->used = false;
}

/* A pinned extent is read again; now and then its memory is spoiled and reported, or reported without reason. */
static void model_read_pinned(struct model *m, struct model_lease *lease, uint32_t at)
{
	uint8_t hash[KVCI_HASH_BYTES];
	uint64_t tag;

	for (uint32_t shard = 0; shard < MODEL_SHARDS; shard++) {
		if (!lease->used || at >= lease->count || !lease->pinned[shard][at])
			continue;
		world_hash(model_key_number(lease->binding, lease->first + at), hash);
		MODEL_ASSERT(world_read(&m->world, &lease->extents[shard][at], hash, &tag) == KVC_OK);
		MODEL_ASSERT(tag == lease->tags[shard][at]);
	}
}

/* Whoever has this extent must not trust it. */
static void model_distrust(struct model *m, const struct kvci_extent *extent)
{
	for (uint32_t i = 0; i < MODEL_LEASES; i++)
		for (uint32_t shard = 0; shard < MODEL_SHARDS; shard++)
			for (uint32_t k = 0; k < MODEL_KEYS && m->leases[i].used; k++)
				if (m->leases[i].pinned[shard][k] && m->leases[i].extents[shard][k].slab == extent->slab &&
				    m->leases[i].extents[shard][k].generation == extent->generation)
					m->leases[i].pinned[shard][k] = false;
}

static void model_report(struct model *m)
{
	struct model_lease *lease = &m->leases[model_random(m, MODEL_LEASES)];
	uint32_t at = (uint32_t)model_random(m, MODEL_KEYS), client = lease->session == 0 ? 0 : lease->session + 2;
	uint32_t shard = (uint32_t)model_random(m, model_shards(lease->binding));

	if (!lease->used || at >= lease->count || !lease->pinned[shard][at])
		return;
	struct kvci_extent extent = lease->extents[shard][at];
	bool spoil = model_random(m, 2) == 0;
	uint64_t before = world_stat(&m->world, KVCI_STAT_DAMAGED_BLOCKS);
	if (spoil) {
		world_extent(&m->world, &extent)[model_random(m, 2) ? 600 : 40] ^= 1;
		model_distrust(m, &extent);
	}
	kvci_cache_report_damage(m->world.cache, m->clients[client], &extent);
	world_run(&m->world);
	if (!spoil) /* as long as nothing else went wrong meanwhile */
		MODEL_ASSERT(world_stat(&m->world, KVCI_STAT_DAMAGE_REPORTS) > 0 && before <= world_stat(&m->world, KVCI_STAT_DAMAGED_BLOCKS));
	kvci_cache_report_damage(m->world.cache, m->clients[client == 4 ? 3 : 4], &extent); /* another tenant's word */
}

/* ---- drops, epochs, time, faults, restart ---- */

static void model_drop(struct model *m)
{
	uint32_t binding = (uint32_t)model_random(m, MODEL_BINDINGS), key = (uint32_t)model_random(m, MODEL_KEYS);
	uint8_t hash[KVCI_HASH_BYTES];
	bool valid = false;

	world_hash(model_key_number(binding, key), hash);
	kvc_status_t status = kvci_cache_drop(m->world.cache, m->space_numbers[model_bindings[binding].space], 0, hash);
	struct kvci_cache_totals totals;
	kvci_cache_totals(m->world.cache, &totals);
	MODEL_ASSERT((status == KVC_LOADING) == totals.index_loading);
	if (status == KVC_LOADING)
		return;
	for (uint32_t b = 0; b < MODEL_BINDINGS; b++) {
		if (model_bindings[b].space != model_bindings[binding].space)
			continue;
		valid |= model_valid(m, b, key);
		m->keys[b][key].committed = false;
	}
	MODEL_ASSERT(status == KVC_OK || status == KVC_NOT_FOUND);
	MODEL_ASSERT(status != KVC_OK || valid);
}

static void model_epoch_done(struct kvci_epoch_wait *wait, kvc_status_t status, uint64_t epoch)
{
	MODEL_ASSERT(status == KVC_OK && epoch == wait->epoch);
	*(bool *)wait->context = true;
}

static void model_raise(struct model *m)
{
	uint32_t space = (uint32_t)model_random(m, MODEL_SPACES);
	bool done = false;
	struct kvci_epoch_wait wait = { .done = model_epoch_done, .context = &done };

	MODEL_ASSERT(kvci_cache_epoch_raise(m->world.cache, m->space_numbers[space], &wait) == KVC_OK);
	MODEL_ASSERT(done);
	m->epochs[space] = wait.epoch;
	for (uint32_t i = 0; i < MODEL_RESERVATIONS; i++)
		if (m->reservations[i].used && model_bindings[m->reservations[i].binding].space == space)
			m->reservations[i].stale = true;
	if (m->world.disk != NULL) /* what was under way for the old epoch completes before any sweep */
		kvci_tier_poll(m->world.disk, 8);
}

static void model_time(struct model *m)
{
	static const uint64_t steps[] = { KVCI_MS, 5 * KVCI_MS, 20 * KVCI_MS, 20 * KVCI_MS, 300 * KVCI_MS, 2100 * KVCI_MS };
	uint64_t step = model_random(m, 200) == 0 ? 11 * KVCI_SECOND : steps[model_random(m, 6)];

	world_advance(&m->world, step);
	for (uint32_t i = 0; i < MODEL_RESERVATIONS; i++) {
		struct model_reservation *r = &m->reservations[i];
		if (r->used && r->begun_ns + m->world.config.reserve_deadline_ns <= m->world.now_ns)
			r->overdue = true;
	}
}

static void model_flush_done(struct kvci_flush_wait *wait, kvc_status_t status)
{
	enum kvc_status_class class = kvc_status_class(status);

	MODEL_ASSERT(class == KVC_CLASS_OK || class == KVC_CLASS_DEGRADE);
	*(bool *)wait->context = true;
}

static void model_flush(struct model *m)
{
	bool done = false;
	struct kvci_flush_wait wait = { .done = model_flush_done, .context = &done };

	MODEL_ASSERT(kvci_cache_flush(m->world.cache, &wait) == KVC_OK);
	world_run(&m->world);
	if (!done)
		kvci_cache_flush_cancel(m->world.cache, &wait);
}

static void model_restart(struct model *m, struct world_options *options)
{
	uint64_t now_ns = m->world.now_ns;
	struct kvci_stats stats = m->world.stats;

	for (uint32_t i = 0; i < MODEL_LOADS; i++)
		if (m->loads[i].used)
			kvci_cache_load_cancel(m->world.cache, &m->loads[i].load);
	world_fini(&m->world, &options->tier);
	memset(m->loads, 0, sizeof(m->loads));
	memset(m->leases, 0, sizeof(m->leases));
	memset(m->reservations, 0, sizeof(m->reservations));
	MODEL_ASSERT(world_init(&m->world, options) == KVC_OK);
	options->tier = NULL;
	m->world.now_ns = now_ns;
	m->world.stats = stats;
	for (uint32_t space = 0; space < MODEL_SPACES; space++) {
		struct kvci_space fields;
		char storage[32];
		world_space(space == 2 ? "other" : "", space, &storage, &fields);
		MODEL_ASSERT(kvci_cache_space_restore(m->world.cache, &fields, m->epochs[space]) == KVC_OK);
	}
	if (model_random(m, 2) == 0) /* its forms are not bound yet */
		world_run(&m->world);
	else
		ram_tier_index_rate(m->world.disk, 3);
	for (uint32_t client = 0; client < MODEL_CLIENTS; client++)
		model_client_open(m, client);
	for (uint32_t b = 0; b < MODEL_BINDINGS; b++) {
		for (uint32_t k = 0; k < MODEL_KEYS; k++) {
			struct model_key *key = &m->keys[b][k];
			key->losses = UINT64_MAX; /* what was in memory alone is lost */
			key->ever = false; /* and so is what was remembered */
			key->restarted = true;
		}
	}
}

static void model_step(struct model *m, struct world_options *options)
{
	uint64_t dice = model_random(m, 1000);

	if (dice < 250)
		model_reserve(m);
	else if (dice < 480)
		model_commit(m);
	else if (dice < 680)
		model_match(m);
	else if (dice < 800)
		model_load(m);
	else if (dice < 870)
		model_release(m);
	else if (dice < 885)
		model_cancel(m);
	else if (dice < 965)
		model_time(m);
	else if (dice < 972)
		model_drop(m);
	else if (dice < 974)
		model_raise(m);
	else if (dice < 980)
		model_client_die(m, (uint32_t)model_random(m, MODEL_CLIENTS));
	else if (dice < 986)
		model_report(m);
	else if (dice < 990 && options->disk)
		world_faults(&m->world, model_random(m, UINT64_C(1) << 20));
	else if (dice < 992)
		model_flush(m);
	else if (dice < 996 && options->disk)
		kvci_tier_poll(m->world.disk, 8); /* completions before any tick */
	else if (dice == 996 && options->disk && model_random(m, 4) == 0)
		model_restart(m, options);
}

static void model_check(struct model *m)
{
	world_check(&m->world);
	world_check_misses(&m->world);
	for (uint32_t i = 0; i < MODEL_LEASES; i++)
		for (uint32_t at = 0; at < MODEL_KEYS; at++)
			model_read_pinned(m, &m->leases[i], at);
	for (uint32_t i = 0; i < MODEL_RESERVATIONS; i++)
		if (m->reservations[i].used)
			model_check_reservation(m, &m->reservations[i]);
}

static void model_run(const struct world_options *given, uint64_t seed, uint64_t turns)
{
	struct world_options options = *given;
	options.client_share_percent = 30;
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	model_now = m;
	m->random = seed * UINT64_C(0x9e3779b97f4a7c15) + 7;
	options.seed = seed;
	assert_int_equal(world_init(&m->world, &options), KVC_OK);
	for (uint32_t client = 0; client < MODEL_CLIENTS; client++)
		model_client_open(m, client);
	for (uint32_t space = 0; space < MODEL_SPACES; space++) {
		struct kvci_space_info info;
		assert_int_equal(kvci_cache_space_info(m->world.cache, m->space_numbers[space], &info), KVC_OK);
		m->epochs[space] = info.epoch;
	}
	for (m->turn = 0; m->turn < turns; m->turn++) {
		model_step(m, &options);
		model_read_pinned(m, &m->leases[model_random(m, MODEL_LEASES)], (uint32_t)model_random(m, MODEL_KEYS));
		if (m->turn % 64 == 0)
			model_check(m);
		if (m->turn % 16 == 0)
			kvci_cache_tick(m->world.cache);
	}
	model_check(m);
	if (m->hits < turns / 500 || m->loads_ok < turns / 500) /* else the model saw too little */
		fail_msg("%llu hits, %llu loads", (unsigned long long)m->hits, (unsigned long long)m->loads_ok);
	if (m->whole_hits < turns / 5000 || world_stat(&m->world, KVCI_STAT_SHARD_ORPHAN_BLOCKS) < turns / 20000)
		fail_msg("%llu hits of two shards, %llu orphans", (unsigned long long)m->whole_hits,
		         (unsigned long long)world_stat(&m->world, KVCI_STAT_SHARD_ORPHAN_BLOCKS));
	assert_true(m->over_caps > 0);
	if (options.disk && options.write_mode != KVCI_WRITE_OFF)
		assert_true(world_stat(&m->world, KVCI_STAT_DISK_READ_BLOCKS) > 0);
	world_fini(&m->world, NULL);
	free(m);
}

static uint64_t model_turns(void)
{
	const char *text = getenv("KVC_TEST_TURNS");

	return text != NULL ? strtoull(text, NULL, 10) : 100000;
}

static uint64_t model_seed(void)
{
	const char *text = getenv("KVC_TEST_SEED");

	return text != NULL ? strtoull(text, NULL, 10) : 1;
}

static void test_model__memory_only(void **state)
{
	struct world_options options = world_defaults();

	model_run(&options, model_seed(), model_turns());
}

static void test_model__tiny_memory(void **state)
{
	struct world_options options = world_defaults();

	options.memory_bytes = 256 << 10;
	options.slab_bytes = 64 << 10;
	model_run(&options, model_seed() + 1, model_turns());
}

static void test_model__disk_write_through(void **state)
{
	struct world_options options = world_defaults();

	options.disk = true;
	model_run(&options, model_seed() + 2, model_turns());
}

static void test_model__disk_on_evict__tiny_memory(void **state)
{
	struct world_options options = world_defaults();

	options.disk = true;
	options.memory_bytes = 384 << 10;
	options.slab_bytes = 64 << 10;
	options.write_mode = KVCI_WRITE_ON_EVICT;
	model_run(&options, model_seed() + 3, model_turns());
}

static void test_model__disk_after_hits__index_small(void **state)
{
	struct world_options options = world_defaults();

	options.disk = true;
	options.max_blocks = 100;
	options.write_mode = KVCI_WRITE_AFTER_HITS;
	model_run(&options, model_seed() + 4, model_turns());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model__memory_only),
		cmocka_unit_test(test_model__tiny_memory),
		cmocka_unit_test(test_model__disk_write_through),
		cmocka_unit_test(test_model__disk_on_evict__tiny_memory),
		cmocka_unit_test(test_model__disk_after_hits__index_small),
	};

	kvci_log_set_level(KVCI_LOG_ERROR);
	return cmocka_run_group_tests_name("cache/model", tests, NULL, NULL);
}
