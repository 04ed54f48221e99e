/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the brain share. Nothing outside cache/ and its unit tests includes this.
 *
 *   space_table.c  spaces, bindings, epochs        client.c  clients, sessions
 *   block.c        blocks and what they count      lease.c   leases, holds, caps, mass release
 *   arena.c        slabs, allocation, eviction     match.c   look-up, leasing, causes of misses
 *   store.c        reserve, commit, quarantine     load.c    loads and their waiters
 *   read.c         reads from the disk             write.c   write queue, flush
 *   circuit.c      when the disk is left alone     events.c  what the disk tells: index, lost, moved, health
 *   sweep.c        bounded clean-up of what went stale        damage.c  checks on workers
 *   shard.c        blocks of several ranks
 *   inspect.c      walk, find, info                check.c   invariants
 */
#ifndef KVCI_CACHE_INTERNAL_H
#define KVCI_CACHE_INTERNAL_H

#include <string.h>

#include "base/extents.h"
#include "cache/cache.h"
#include "cache/ghost.h"
#include "cache/index.h"
#include "cache/list.h"
#include "cache/pool.h"

#define KVCI_NONE UINT32_MAX

enum {
	KVCI_PAGE_SHIFT = 12,
	KVCI_TIME_SHIFT = 24,           /* block times are kept in steps of 2^24 ns (17 ms) since start */
	KVCI_SPACES_MAX = 65536,
	KVCI_BINDINGS_MAX = 262144,
	KVCI_SHARDS_MAX = 256,          /* of one block: binding one makes the bindings of all */
	KVCI_CLIENT_BUCKETS = 256,
	KVCI_LEASE_BUCKETS = 4096,
	KVCI_LEASES_MAX = 16384,        /* of one session: its end is one step */
	KVCI_SEGMENTS_MAX = 1 << 24,
	KVCI_GHOST_ENTRIES = 1 << 18,   /* 2 MiB, taken when the first block goes */
	KVCI_STEP_BLOCKS = 1024,        /* that one step of background work touches */
	KVCI_MATCH_KEYS_MAX = 1 << 20,
};

/* ---- blocks ---- */

/* Where in memory. slot KVCI_NONE: nowhere. */
struct kvci_spot {
	uint32_t slot;
	uint32_t node; /* of the slab's extents */
	uint32_t offset_4k;
	uint32_t generation;
};

enum {
	KVCI_BLOCK_MEMORY = 1 << 0,    /* sealed in memory, and in its arena's policy */
	KVCI_BLOCK_RESERVED = 1 << 1,  /* being stored; io: its reservation */
	KVCI_BLOCK_LOADING = 1 << 2,   /* waits for or is under a read; io: the read */
	KVCI_BLOCK_WRITING = 1 << 3,   /* the device reads its extent; io: the write */
	KVCI_BLOCK_QUEUED = 1 << 4,    /* waits for its write; io: the write */
	KVCI_BLOCK_VERIFYING = 1 << 5, /* a worker reads its extent */
	KVCI_BLOCK_DEAD = 1 << 6,      /* no key leads here any more; freed when nobody holds it */
	KVCI_BLOCK_LATE = 1 << 7,      /* its read is past the deadline: nobody waits for it */
	KVCI_BLOCK_SUSPECT = 1 << 8,   /* the device failed on its place once */
	KVCI_BLOCK_LOSSY = 1 << 9,     /* the record at its place, or what came from there, lost bits */
	KVCI_BLOCK_ORPHANS = 1 << 10,  /* DEAD, and in the list of those whose other shards are still to be forgotten */
	KVCI_BLOCK_CAUSE_SHIFT = 12,   /* DEAD: enum kvci_miss */
	/* what pins an extent, besides holds */
	KVCI_BLOCK_BUSY = KVCI_BLOCK_RESERVED | KVCI_BLOCK_LOADING | KVCI_BLOCK_WRITING | KVCI_BLOCK_VERIFYING,
};

struct kvci_block {
	struct kvci_index_key key;
	uint16_t flags;
	uint16_t hits;
	uint64_t record_checksum;
	uint64_t epoch;
	uint32_t holds; /* first hold, KVCI_NONE: not held */
	uint32_t io;
	/* second cache line */
	struct kvc_place place; /* generation 0: not on disk */
	struct kvci_spot spot;
	uint8_t policy[16];
	uint32_t last_used, stored;
	uint32_t position_tokens; /* as far as 32 bits go */
	uint32_t token_count;
};
_Static_assert(sizeof(struct kvci_block) == 128, "a block costs two cache lines");

/* One session's hold on a block, however many of its leases have it. */
struct kvci_hold {
	uint32_t session;
	uint32_t count;
	uint32_t next;
};

/* ---- spaces ---- */

struct kvci_space_entry {
	struct kvci_space fields;
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	uint64_t epoch, saved_epoch;
	uint64_t resave_ns; /* not 0: saving it failed, and is tried again then */
	uint64_t blocks, memory_blocks, disk_blocks, bytes;
	uint32_t number;
	uint32_t tenant;
	uint32_t next;          /* of its fingerprint's bucket */
	uint32_t first_binding; /* list by next_of_space */
	struct kvci_epoch_wait *waits;
};

struct kvci_binding {
	struct kvci_space_entry *space;
	uint32_t number;
	uint32_t next;          /* of its bucket */
	uint32_t next_of_space;
	uint64_t form_id;
	uint64_t record_bytes;
	uint32_t group, shard_index, shard_count;
	struct kvci_binding **shards; /* those of all shards, by index; NULL: there is one, or its form is not known */
	bool form_known; /* else only the disk has told of it */
	bool void_;      /* what was told of it was wrong: its blocks go */
	struct kvc_form form;
	struct kvc_form_sizes sizes;
};

/* ---- memory ---- */

enum kvci_slab_state { KVCI_SLAB_WAITING, KVCI_SLAB_READY, KVCI_SLAB_DRAINING };

/* Owners of extents, by first page. */
#define KVCI_OWNER_NONE 0
#define KVCI_OWNER_OTHER UINT32_MAX /* no block: a detached reservation */

struct kvci_slab {
	uint32_t slot, id;
	enum kvci_slab_state state;
	uint32_t busy; /* reasons why something in it must stay */
	uint32_t generation;
	uint8_t *base;
	struct kvci_extents *extents;
	uint32_t *owners; /* a page: block number + 1 */
	struct kvci_arena *arena;
	struct kvci_list in_arena;
	uint64_t newest_use_ns;
};

struct kvci_arena {
	struct kvci_group *group;
	struct kvci_list in_group;
	struct kvci_list slabs;
	struct kvc_policy *policy;
	uint32_t slab_count;
	uint32_t block_count; /* in the policy */
};

/* One that allocates: a storing client with its arena, or a tenant's loads with theirs and those of dead clients. */
struct kvci_group {
	uint32_t tenant;
	struct kvci_client *client; /* NULL: loads */
	struct kvci_list arenas;
	struct kvci_list in_cache;
	struct kvci_slab *hint;    /* allocated in last */
	struct kvci_slab *waiting; /* not mapped by its client yet */
	uint32_t slab_count;
};

struct kvci_tenant {
	char *name;
	struct kvci_group loads;
};

/* ---- clients ---- */

struct kvci_session {
	uint32_t number;
	uint32_t refs; /* clients and leases */
	uint32_t tenant;
	bool joined; /* has an id; else of one client alone */
	uint8_t id[KVCI_SESSION_ID_BYTES];
	struct kvci_client *owner;
	struct kvci_list leases;
	uint32_t lease_count;
	uint64_t held_bytes;     /* blocks that it holds, each once */
	uint64_t reserved_bytes; /* of its clients */
};

struct kvci_client {
	uint32_t id;
	uint32_t tenant;
	bool gone;
	struct kvci_client *next; /* of its bucket */
	struct kvci_list in_gone;
	struct kvci_session *session;
	struct kvci_group store;
	struct kvci_list reservations;
	struct kvci_list holders;
	struct kvci_load *loads;
	uint64_t reserved_bytes, reservations_count, quarantined_count, lease_count;
};

/* A client's share in a lease. */
struct kvci_holder {
	uint32_t number;
	struct kvci_client *client;
	struct kvci_lease *lease;
	struct kvci_list in_client, in_lease;
};

struct kvci_lease {
	struct kvci_list in_bucket, in_session; /* in_session also links those that are being released */
	struct kvci_session *session;
	struct kvci_binding *binding;
	uint8_t request_id[KVCI_REQUEST_ID_BYTES];
	struct kvci_list holders;
	uint32_t *blocks; /* those of all shards of the first key, then of the second... */
	uint32_t count;   /* keys */
	uint32_t held;    /* blocks: count times shard_count */
	uint32_t room;
};

/* ---- stores ---- */

struct kvci_reservation {
	uint64_t id; /* number | turn << 32 */
	uint32_t block; /* KVCI_NONE: detached, `why` */
	kvc_status_t why;
	struct kvci_binding *binding;
	struct kvci_client *client;
	struct kvci_list in_client, in_order; /* order of age; detached ones are in no order */
	uint64_t begun_ns;
	struct kvci_spot spot;
	uint8_t parent_hash[KVCI_HASH_BYTES];
	uint64_t position_tokens;
	uint32_t token_count;
};

/* ---- disk ---- */

/* A request with the tier; taken from a pool when there is one to submit. */
struct kvci_disk_request {
	struct kvc_tier_request tier;
	struct kvci_cache *cache;
	uint32_t number; /* of itself */
	uint32_t io;     /* read or write it serves */
	uint32_t progress_wanted; /* read: a load takes sections as they come; the tier's threads look */
};

struct kvci_read {
	uint32_t number;
	uint32_t block;
	struct kvci_list in_queue; /* waiting, under way or late */
	struct kvci_list waiters;
	uint64_t since_ns; /* submitted, or first found no memory */
	uint64_t bytes;    /* of its extent, once submitted */
	uint32_t request;  /* KVCI_NONE: waits */
	uint32_t sections; /* leading ones that can be read already */
	bool probe;
};

struct kvci_waiter {
	uint32_t number;
	uint32_t index;
	struct kvci_load *load;
	struct kvci_list in_read, in_load;
};

struct kvci_write {
	uint32_t number;
	uint32_t block;
	struct kvci_list in_queue; /* waiting or under way */
	uint64_t ticket;
	uint64_t bytes;
	uint32_t request; /* KVCI_NONE: waits */
};

struct kvci_circuit {
	enum { KVCI_CIRCUIT_CLOSED, KVCI_CIRCUIT_OPEN, KVCI_CIRCUIT_PROBING } state;
	kvc_status_t why;
	uint64_t until_ns;
	uint64_t pause_ns; /* the next one */
};

struct kvci_disk {
	struct kvc_tier *tier;
	struct kvc_tier_caps caps;
	struct kvc_tier_events events;
	uint32_t depth;
	bool loading; /* the index has not come whole */
	kvc_status_t health;
	struct kvci_pool requests;
	/* reads */
	struct kvci_pool reads, waiters;
	struct kvci_list read_waiting, read_active, read_late;
	uint32_t read_active_count, read_late_count;
	uint64_t read_active_bytes;
	struct kvci_circuit read_circuit;
	uint32_t probe_cursor, probe_left; /* search for a block to probe with */
	/* writes */
	struct kvci_pool writes;
	struct kvci_list write_waiting, write_active;
	uint32_t write_active_count;
	uint64_t write_bytes; /* waiting and under way */
	uint64_t ticket;      /* of the newest write */
	struct kvci_circuit write_circuit;
	struct kvci_flush_wait *flush_waits;
	struct kvc_tier_request flush_request;
	uint64_t flush_ticket; /* the request under way covers writes up to it */
	bool flush_active;
	uint32_t flush_cursor; /* modes that do not write at commit: how far the walk for a flush is */
	bool flush_walking;
	uint64_t retry_ns; /* a bounded queue was full, or memory was short; 0: nothing to retry */
	/* segment -> newest generation that is lost */
	uint32_t *lost;
	uint32_t lost_room;
};

/* ---- all of it ---- */

enum { KVCI_VERIFY_MAX = 4 };

struct kvci_verify {
	struct kvci_job job;
	struct kvci_cache *cache;
	uint32_t block; /* KVCI_NONE: not in use */
	const uint8_t *record;
	uint8_t *head; /* private copy of header and table */
	uint64_t head_bytes, record_checksum;
	struct kvc_form_sizes sizes; /* of its form: where sections lie */
	uint32_t section_count;
	kvc_status_t status;
};

struct kvci_cache {
	struct kvci_cache_config config;
	struct kvci_cache_env env;
	uint64_t now_ns, start_ns; /* now: as this call began */
	struct kvci_key_seed seed;
	struct kvci_index *index;
	struct kvci_ghost *ghost;
	struct kvc_policy_env policy_env;

	struct kvci_space_entry **spaces;
	uint32_t space_count, space_room;
	struct kvci_binding **bindings;
	uint32_t binding_count, binding_room;
	uint32_t *space_buckets, *binding_buckets; /* 1,024 each */
	uint64_t resave_ns; /* when failed saves are tried again; 0: none failed */
	struct kvci_tenant **tenants;
	uint32_t tenant_count, tenant_room;

	struct kvci_slab **slabs; /* by slot */
	uint32_t slot_count, slabs_used;
	uint32_t *slot_turns; /* how often each slot was used: slab id = turn * slot_count + slot */
	uint64_t slab_retry_ns;   /* no new slab before: making one failed */
	struct kvci_slab *draining;
	uint32_t drain_page;
	struct kvci_list groups;

	struct kvci_client *clients[KVCI_CLIENT_BUCKETS];
	struct kvci_list gone; /* clients with something left to free */
	uint64_t gone_since_ns; /* when the first of those whose things are not all free yet was seen gone; 0: none */
	struct kvci_session **sessions;
	uint32_t session_count, session_room;
	struct kvci_list *leases; /* buckets */
	struct kvci_list released; /* leases whose blocks are still to be let go */
	struct kvci_pool holds, holders;
	uint64_t lease_seed;

	struct kvci_pool reservations;
	struct kvci_list reservation_order;
	uint32_t reservation_turn;

	struct kvci_disk disk;
	uint8_t *head_scratch; /* KVCI_RECORD_HEAD_BYTES_MAX, aligned */
	uint32_t *match_scratch;
	uint32_t match_room;
	uint64_t leaves; /* how often a block left memory or lost its key, and 1 */

	uint32_t sweep_cursor;
	uint32_t sweep_left; /* blocks still to look at */
	uint32_t orphans; /* first block of the list */
	uint32_t orphan_count;
	uint32_t room_cursor; /* max_blocks: where to look for one to forget */

	struct kvci_verify verifies[KVCI_VERIFY_MAX];

	uint64_t lease_cap_bytes, client_cap_bytes; /* of leases and reservations together; each at most kvci_cap_part of it */
	uint64_t memory_used_bytes;
	uint64_t held_bytes, reserved_bytes, quarantined_bytes;
	uint64_t stored_blocks, memory_blocks, disk_blocks;
	uint64_t disk_raw_bytes, disk_stored_bytes; /* of what is on the disk: decoded, and as it lies there */
};

static inline struct kvci_block *kvci_block_at(const struct kvci_cache *cache, uint32_t number)
{
	return kvci_index_block(cache->index, number);
}
static inline struct kvci_binding *kvci_block_binding(const struct kvci_cache *cache, const struct kvci_block *block)
{
	return cache->bindings[block->key.binding];
}
static inline void kvci_cache_count(const struct kvci_cache *cache, enum kvci_stat stat, uint64_t n)
{
	kvci_stat_add(cache->env.stats, stat, n);
}
static inline void kvci_cache_enter(struct kvci_cache *cache)
{
	cache->now_ns = cache->env.now_ns(cache->env.context);
}
static inline uint32_t kvci_cache_time(const struct kvci_cache *cache)
{
	return (uint32_t)((cache->now_ns - cache->start_ns) >> KVCI_TIME_SHIFT);
}
static inline bool kvci_cache_has_disk(const struct kvci_cache *cache)
{
	return cache->disk.tier != NULL;
}

/* ---- block.c ---- */

/* A new block, in no state, under a key that is absent. */
kvc_status_t kvci_block_create(struct kvci_cache *cache, uint32_t binding, const uint8_t *hash, uint32_t *ret_number);
/* On disk, at a place that is not lost. */
static inline bool kvci_block_on_disk(const struct kvci_cache *cache, const struct kvci_block *block)
{
	return block->place.generation != 0 && block->place.generation > cache->disk.lost[block->place.segment];
}
static inline bool kvci_block_stale(const struct kvci_cache *cache, const struct kvci_block *block)
{
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	return block->epoch != binding->space->epoch || binding->void_;
}
static inline bool kvci_block_busy(const struct kvci_block *block)
{
	return block->holds != KVCI_NONE || (block->flags & KVCI_BLOCK_BUSY) != 0;
}
/* How many reasons keep its extent where it is. */
static inline uint32_t kvci_block_reasons(const struct kvci_block *block)
{
	return (block->holds != KVCI_NONE) + (uint32_t)__builtin_popcount(block->flags & KVCI_BLOCK_BUSY);
}
/* Sets or clears one of the BUSY flags. What is dead and busy no more is freed by end. */
void kvci_block_busy_begin(struct kvci_cache *cache, uint32_t number, uint32_t flag);
void kvci_block_busy_end(struct kvci_cache *cache, uint32_t number, uint32_t flag);
/* Frees a dead block that nobody holds; call it after whatever let go of a block. */
void kvci_block_settle(struct kvci_cache *cache, uint32_t number);
void kvci_block_spot_set(struct kvci_cache *cache, uint32_t number, const struct kvci_spot *spot);
/* Frees its extent. */
void kvci_block_spot_free(struct kvci_cache *cache, uint32_t number);
/* Its extent holds a sealed record from now on. */
void kvci_block_memory_enter(struct kvci_cache *cache, uint32_t number);
/* Out of the policy, and its extent freed. */
void kvci_block_memory_leave(struct kvci_cache *cache, uint32_t number);
void kvci_block_place_set(struct kvci_cache *cache, uint32_t number, const struct kvc_place *place);
/* The same for a record that the disk has. */
void kvci_block_place_entry(struct kvci_cache *cache, uint32_t number, const struct kvc_tier_entry *entry);
/* Keys lead no longer to it; it is freed when nobody holds it. The cause is remembered. Its other shards follow in steps. */
void kvci_block_forget(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause);
/* The same for this shard alone. */
void kvci_block_forget_one(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause);
/* Makes it leave memory for want of room; not busy. Gone altogether unless it is on disk. */
void kvci_block_evict(struct kvci_cache *cache, uint32_t number);
/* Forgets it when it is stale, or kept nowhere any more; true when it did. */
bool kvci_block_reap(struct kvci_cache *cache, uint32_t number);
/* They are in use: from last to first, so that the end of a chain leaves memory before its beginning. hit: each gains one. */
void kvci_block_touch_chain(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count, bool hit);
/* The same for blocks that are all in memory; hits are not counted. */
void kvci_block_touch_memory(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count);
static inline void kvci_block_hit(struct kvci_cache *cache, uint32_t number)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	block->hits = (uint16_t)(block->hits + (block->hits != UINT16_MAX));
}
void kvci_block_extent(const struct kvci_cache *cache, const struct kvci_block *block, struct kvci_extent *ret_extent);
/* What a dead or unreachable block answers to a load. */
kvc_status_t kvci_miss_status(enum kvci_miss miss);

/* ---- arena.c ---- */

void kvci_group_init(struct kvci_cache *cache, struct kvci_group *group, uint32_t tenant, struct kvci_client *client);
/* The slabs of a dead client go on as load slabs of its tenant. */
void kvci_group_bequeath(struct kvci_cache *cache, struct kvci_group *group);
/* OK; PENDING: the client must map *ret_new_slab first; NO_SPACE: all is held at present. */
kvc_status_t kvci_arena_alloc(struct kvci_cache *cache, struct kvci_group *group, uint64_t bytes, struct kvci_spot *ret_spot,
                              uint32_t *ret_new_slab);
void kvci_arena_free(struct kvci_cache *cache, const struct kvci_spot *spot, uint64_t bytes);
void kvci_arena_destroy_all(struct kvci_cache *cache);
struct kvci_slab *kvci_slab_by_id(const struct kvci_cache *cache, uint32_t id);
/* A bounded step of emptying the slab that is being taken over; returns when the next is due. */
uint64_t kvci_arena_drain_step(struct kvci_cache *cache);

/* ---- space_table.c ---- */

struct kvci_space_entry *kvci_space_by_fingerprint(const struct kvci_cache *cache, const uint8_t *fingerprint);
/* The binding that a disk entry belongs to, made when it is new. NOT_FOUND: its space is unknown; STALE_EPOCH; CORRUPT: it contradicts
 * what is known. */
kvc_status_t kvci_binding_of_entry(struct kvci_cache *cache, const struct kvc_tier_entry *entry,
                                   struct kvci_binding **ret_binding);
struct kvci_binding *kvci_binding_get(const struct kvci_cache *cache, uint32_t binding);
void kvci_binding_id(const struct kvci_binding *binding, const uint8_t *hash, struct kvci_block_id *ret_id);
kvc_status_t kvci_tenant_get(struct kvci_cache *cache, const char *name, uint32_t *ret_tenant);
/* Tries failed saves again; returns when next. */
uint64_t kvci_space_tick(struct kvci_cache *cache);
void kvci_space_table_destroy(struct kvci_cache *cache);

/* ---- client.c ---- */

struct kvci_client *kvci_client_get(const struct kvci_cache *cache, uint32_t client); /* NULL: unknown or gone */
void kvci_session_put(struct kvci_cache *cache, struct kvci_session *session);
/* A bounded step of freeing what dead clients left; true: call again soon. */
bool kvci_client_gone_step(struct kvci_cache *cache);
void kvci_client_destroy_all(struct kvci_cache *cache);

/* ---- lease.c ---- */

/* At most so much of a cap is for leases, and so much for reservations: what is left is for the other. */
static inline uint64_t kvci_cap_part(uint64_t cap_bytes)
{
	return cap_bytes - cap_bytes / 8;
}
/* May the session have `bytes` more? first: nobody has them in all so far. */
bool kvci_cap_lease(const struct kvci_cache *cache, const struct kvci_session *session, uint64_t bytes, bool first);
bool kvci_cap_reserve(const struct kvci_cache *cache, const struct kvci_session *session, uint64_t bytes);
/* One more hold of the session on a block of `bytes`. OVER_CAP, NO_MEMORY. */
kvc_status_t kvci_hold_add(struct kvci_cache *cache, struct kvci_session *session, uint32_t number, uint64_t bytes);
void kvci_hold_remove(struct kvci_cache *cache, struct kvci_session *session, uint32_t number);
struct kvci_lease *kvci_lease_find(const struct kvci_cache *cache, const struct kvci_session *session,
                                   const uint8_t *request_id);
/* How many blocks a key of it stands for: its shards. */
static inline uint32_t kvci_lease_width(const struct kvci_lease *lease)
{
	return lease->binding->shard_count;
}
/* A lease without blocks, held by nobody yet. */
kvc_status_t kvci_lease_create(struct kvci_cache *cache, struct kvci_session *session, struct kvci_binding *binding,
                               const uint8_t *request_id, struct kvci_lease **ret_lease);
/* Room for the blocks of this many keys. */
kvc_status_t kvci_lease_room(struct kvci_lease *lease, uint32_t count);
/* The client holds the lease from now on; fine when it did. */
kvc_status_t kvci_lease_attach(struct kvci_cache *cache, struct kvci_lease *lease, struct kvci_client *client);
/* The client lets go; ends the lease when it was the last. notify: its waiting loads are told CANCELED; not for the dead, whose
 * leases are released in steps. */
void kvci_holder_drop(struct kvci_cache *cache, struct kvci_holder *holder, bool notify);
/* Out of the table, without holders. now: its blocks are let go now when they are few, else in steps. */
void kvci_lease_end(struct kvci_cache *cache, struct kvci_lease *lease, bool now);
/* A bounded step of mass release; true: call again soon. */
bool kvci_lease_release_step(struct kvci_cache *cache);
void kvci_lease_destroy_all(struct kvci_cache *cache);

/* ---- store.c ---- */

/* The reservation of a block loses its key: its extent stays until the writer commits, aborts or dies. */
void kvci_reservation_detach(struct kvci_cache *cache, uint32_t block, kvc_status_t why);
void kvci_reservation_end(struct kvci_cache *cache, struct kvci_reservation *reservation);
/* Quarantines what is overdue; returns when the next will be. */
uint64_t kvci_store_tick(struct kvci_cache *cache);

/* ---- load.c ---- */

/* Ends a load's waits; notify: with CANCELED, else silently. */
void kvci_load_end(struct kvci_cache *cache, struct kvci_load *load, bool notify);
/* Answers one waiter and forgets it. */
void kvci_waiter_answer(struct kvci_cache *cache, struct kvci_waiter *waiter, kvc_status_t status,
                        const struct kvci_extent *extent);

/* ---- read.c ---- */

/* Starts bringing a block that is only on disk into memory, if that is not under way. CIRCUIT_OPEN, NO_MEMORY. */
kvc_status_t kvci_read_start(struct kvci_cache *cache, uint32_t number, bool probe);
/* A load that takes sections as they come waits for this read: what is there already is given at once. */
void kvci_read_sections(struct kvci_cache *cache, struct kvci_read *read, const struct kvci_waiter *waiter);
/* Submits what waits, as far as device and memory allow. */
void kvci_read_pump(struct kvci_cache *cache);
/* A read that waits and that nobody wants any more. */
void kvci_read_cancel_waiting(struct kvci_cache *cache, struct kvci_read *read, kvc_status_t status);
/* Deadlines; returns when it wants to be called again. */
uint64_t kvci_read_tick(struct kvci_cache *cache);
void kvci_read_entry(const struct kvci_cache *cache, const struct kvci_block *block, struct kvc_tier_entry *ret_entry);

/* ---- circuit.c ---- */

void kvci_circuit_init(struct kvci_cache *cache, struct kvci_circuit *circuit);
void kvci_circuit_open(struct kvci_cache *cache, struct kvci_circuit *circuit, const char *what, kvc_status_t why);
void kvci_circuit_close(struct kvci_cache *cache, struct kvci_circuit *circuit, const char *what);
/* Probes the disk when a pause is over; returns when it wants to be called again. */
uint64_t kvci_circuit_tick(struct kvci_cache *cache);

/* ---- write.c ---- */

/* A block was sealed, used, or would leave memory next: queues its write when the mode says so. */
void kvci_write_sealed(struct kvci_cache *cache, uint32_t number);
void kvci_write_touched(struct kvci_cache *cache, uint32_t number);
void kvci_write_tail(struct kvci_cache *cache, struct kvci_arena *arena);
/* Queues it; false: no room (not counted), or the disk is left alone. */
bool kvci_write_queue(struct kvci_cache *cache, uint32_t number);
/* A queued block leaves memory or is forgotten. dropped: count it as a write that was dropped. */
void kvci_write_cancel(struct kvci_cache *cache, uint32_t number, bool dropped);
void kvci_write_pump(struct kvci_cache *cache);
uint64_t kvci_write_tick(struct kvci_cache *cache);
struct kvci_disk_request *kvci_disk_request_take(struct kvci_cache *cache);
void kvci_disk_request_give(struct kvci_cache *cache, struct kvci_disk_request *request);

/* ---- events.c ---- */

void kvci_events_init(struct kvci_cache *cache);
/* Room in the table of lost generations for this segment. */
kvc_status_t kvci_segment_know(struct kvci_cache *cache, uint32_t segment);

/* ---- shard.c ---- */

/* The block is about to die of this cause: its other shards will be forgotten, if it has any. */
void kvci_shard_orphan(struct kvci_cache *cache, uint32_t number, enum kvci_miss cause);
/* A bounded step of that; true: call again soon. */
bool kvci_shard_step(struct kvci_cache *cache);
/* Why a key missed of which another shard is there. */
enum kvci_miss kvci_shard_cause(struct kvci_cache *cache, const struct kvci_binding *shard, const uint8_t *hash);

/* ---- sweep.c ---- */

/* Something went stale: all blocks will be looked at once. */
void kvci_sweep_start(struct kvci_cache *cache);
bool kvci_sweep_step(struct kvci_cache *cache);

/* ---- match.c ---- */

/* Why a key that no block answers missed. */
enum kvci_miss kvci_match_cause(struct kvci_cache *cache, const struct kvci_binding *binding, const uint8_t *hash);

/* ---- damage.c ---- */

/* The bytes of a block are wrong: out of memory (and off the disk when `disk`), counted and remembered. */
void kvci_block_damaged(struct kvci_cache *cache, uint32_t number, bool disk);
void kvci_damage_destroy(struct kvci_cache *cache);

#endif
