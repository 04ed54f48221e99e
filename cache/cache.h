/* SPDX-License-Identifier: Apache-2.0
 *
 * The brain: which blocks exist, where they are, who holds them, what goes next. A pure state machine: no I/O, no
 * threads, no locks, no clock of its own. It sees time through env.now_ns, memory through env.slab_*, the disk through a
 * tier, other threads through env.run_job (a synchronous stand-in in tests). It never touches the raw bytes of a block; it writes the
 * record header and section table of an extent at commit.
 *
 * Life of a block (one shard of one block of one binding):
 *
 *   (absent) --reserve--> RESERVED --commit--> SEALED in memory --write done--> in memory + on disk
 *                            |  overdue                |   ^ evicted, was on disk         |  evicted
 *                            v                         v   | load                         v
 *                        QUARANTINED             evicted (counted, with its cause)   on disk only
 *
 * When commit answers OK every later match sees the block until it is evicted; nobody sees it earlier. A quarantined
 * extent is not freed before its writer commits, aborts or dies; its key is free again at once (single flight ends).
 *
 * Memory is cut into slabs (one memfd each), a slab belongs to an *arena*: one store arena a client that stores, one load arena for
 * blocks read from the disk, and the slabs of dead clients, which join the load arena. Each arena has its own policy order. When the slabs
 * are all given out, an arena evicts its own; an arena with less than its fair share takes over the slab
 * whose newest use is the oldest, after all in it is evicted and nothing in it is held. A slab that is taken over is destroyed and a
 * new one made: no slab ever holds blocks of two tenants, so there is one load arena a tenant, and clients may map slabs of their own tenant only.
 * An arena of which everything is held may pass its fair share in the same way.
 *
 * Shards: a form names one of the shards that the ranks of a parallel engine hold. A block is there for a reader of one when all its shards are stored;
 * a lease pins them all, and each rank loads its own. When one is nowhere any more the others are forgotten. Ranks with equal bytes bind one form
 * with a shard_count of 1, and so store and load the same block.
 *
 * Leases: a match with KVCI_MATCH_LEASE pins what it matched under (session, request id). Pinned and reserved bytes are capped
 * (lease_share, client_share) together, and each kind leaves the other an eighth of that, and one block at least; a single block always
 * may. Over the cap a match reports fewer blocks, and a reservation is refused. A lease ends when no client holds it: the
 * one that matched, and each that attached to it.
 *
 * Threads: one owner thread; every function here is for it only. Callbacks come from inside these functions, those of the disk tier and
 * of jobs included; a callback must not call back into the brain, but may free the object that it ends.
 */
#ifndef KVCI_CACHE_H
#define KVCI_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/plugin/policy.h>
#include <kvcask/plugin/tier.h>
#include <kvcask/status.h>

#include "base/record.h"
#include "base/stats.h"
#include "base/workers.h"
#include "cache/space.h"

struct kvci_cache;

enum { KVCI_REQUEST_ID_BYTES = 16, KVCI_SESSION_ID_BYTES = 16 };

/* When a sealed block is written to the disk tier. */
enum kvci_write_mode {
	KVCI_WRITE_OFF = 0,
	KVCI_WRITE_THROUGH = 1,   /* at commit */
	KVCI_WRITE_ON_EVICT = 2,  /* when it would leave memory */
	KVCI_WRITE_AFTER_HITS = 3 /* at its n-th use */
};

struct kvci_cache_config {
	uint64_t memory_bytes;           /* hard limit of all slabs together */
	uint64_t slab_bytes;             /* of one slab */
	uint32_t lease_share_percent;    /* of memory_bytes that may be pinned or reserved */
	uint32_t client_share_percent;   /* the same, one session or client */
	uint64_t reserve_deadline_ns;    /* a reservation older is quarantined */
	enum kvci_write_mode write_mode;
	uint32_t write_after_hits;
	uint64_t write_queue_bytes;      /* waiting for or under write; beyond it writes are dropped and counted */
	uint64_t read_deadline_ns;       /* a disk read older fails its waiters; its extent stays until the device is done */
	/* Under way at a time: with a deep queue of large blocks the last one would wait for all the others on the device, and its deadline pass. 0: no
	 * limit; two reads are always allowed. */
	uint64_t read_active_bytes_max;
	uint64_t circuit_open_ns;        /* first pause after a failed disk; doubles up to circuit_open_max_ns */
	uint64_t circuit_open_max_ns;
	uint64_t max_blocks;             /* of the index, 0: as memory lasts */
	uint64_t first_epoch;            /* of a space that was not restored: above any epoch it may have had in a ledger that was lost; 0: 1 */
	const struct kvc_policy_ops *policy;
};

/* What the brain is given. All pointers stay valid for its life. */
struct kvci_cache_env {
	void *context;
	uint64_t (*now_ns)(void *context);
	/* Makes slab `slab` of `bytes`, mapped read-write for the daemon at *ret_base. owner: the client whose store slab it will be, 0 for a
	 * load slab. A store slab is usable only after kvci_cache_slab_ready. Whoever makes it registers it with the disk, if at all. NO_MEMORY, IO. */
	kvc_status_t (*slab_create)(void *context, uint32_t slab, uint64_t bytes, uint32_t owner, void **ret_base);
	/* Nothing in it is held, and no request of the disk is under way in it. Clients may still map it; its bytes never come back into use. */
	void (*slab_destroy)(void *context, uint32_t slab);
	/* Runs job->run elsewhere and job->done later on the owner thread. */
	void (*run_job)(void *context, struct kvci_job *job);
	/* Makes a space's fields and epoch durable; calls kvci_cache_space_saved(cache, space, status) later (or inside). */
	void (*space_save)(void *context, uint32_t space, const struct kvci_space *fields, uint64_t epoch);
	struct kvci_stats *stats;
	struct kvc_tier *disk; /* NULL: memory only */
};

kvc_status_t kvci_cache_create(const struct kvci_cache_config *config, const struct kvci_cache_env *env,
                               struct kvci_cache **ret_cache);
/* The tier was closed before (its last completions came then) and no job is under way. Destroys the slabs; calls no waits. */
void kvci_cache_destroy(struct kvci_cache *cache);
/* Called at least when due, and after other calls (they may make something due): deadlines, the queues of the disk, mass release,
 * sweeps, circuits. Does a bounded piece of work; returns when it wants to be called again (monotonic ns; UINT64_MAX: never). */
uint64_t kvci_cache_tick(struct kvci_cache *cache);

/* ---- spaces and bindings ---------------------------------------------------------------------------------------- */

/* A space known from the ledger, before anything else. */
kvc_status_t kvci_cache_space_restore(struct kvci_cache *cache, const struct kvci_space *fields, uint64_t epoch);
/* Binds a client to (space, form): every later call names the binding. The same pair gives the same binding.
 * FORM_MISMATCH: the form contradicts the space (dtype, group). TOO_BIG: one block does not fit in a slab. */
kvc_status_t kvci_cache_bind(struct kvci_cache *cache, uint32_t client, const struct kvci_space *fields,
                             const struct kvc_form *form, uint32_t *ret_binding, uint64_t *ret_epoch);
/* Raises the epoch of the binding's space: in memory at once, durably before done() (called later or inside). */
struct kvci_epoch_wait {
	void (*done)(struct kvci_epoch_wait *wait, kvc_status_t status, uint64_t epoch);
	void *context;
	struct kvci_epoch_wait *next;
	uint64_t epoch;
};
kvc_status_t kvci_cache_epoch_raise(struct kvci_cache *cache, uint32_t space, struct kvci_epoch_wait *wait);
void kvci_cache_epoch_cancel(struct kvci_cache *cache, struct kvci_epoch_wait *wait);
void kvci_cache_space_saved(struct kvci_cache *cache, uint32_t space, uint64_t epoch, kvc_status_t status);

/* ---- clients and sessions ---------------------------------------------------------------------------------------- */

/* client ids are the caller's, never 0, never reused while it lives. tenant: whose blocks it may see (of its socket; NULL: ""): spaces of
 * another tenant answer DENIED. EXISTS, NO_MEMORY. */
kvc_status_t kvci_cache_client_open(struct kvci_cache *cache, uint32_t client, const char *tenant);
/* An engine session groups the processes of one engine (of one tenant). owner: the scheduler; its death ends all leases of the session.
 * A client that never joins has a session of its own. EXISTS: it is in another session, or holds something already. IN_USE: the session has
 * an owner. */
kvc_status_t kvci_cache_session_join(struct kvci_cache *cache, uint32_t client,
                                     const uint8_t session_id[KVCI_SESSION_ID_BYTES], bool owner);
/* The client is dead (no thread of it runs any more): frees reservations and holds, its slabs become load slabs. What is left to do
 * (thousands of holds) goes on in ticks; its loads get no more calls. */
void kvci_cache_client_gone(struct kvci_cache *cache, uint32_t client);
/* May this client map this slab read-only? False for unknown slabs, those of other tenants, and those that are not ready. */
bool kvci_cache_slab_visible(const struct kvci_cache *cache, uint32_t client, uint32_t slab);

/* ---- match, lease, load ------------------------------------------------------------------------------------------ */

enum {
	KVCI_MATCH_LEASE = 1 << 0,    /* pin what is matched under the request id; start disk loads */
	KVCI_MATCH_EXISTS = 1 << 1,   /* check every key, do not stop at the first miss; no lease, no touch */
	KVCI_MATCH_NO_TOUCH = 1 << 2, /* with LEASE: kvci_cache_match_touch follows */
};

/* Why a key missed. One table for counters, `kvcask match` and explain: X(name, text). */
#define KVCI_MISS_TABLE(X)                                                                                                  \
	X(NEVER_STORED, "never stored, as far as is remembered")                                                           \
	X(EVICTED, "evicted")                                                                                              \
	X(DROPPED, "dropped by a user")                                                                                    \
	X(EPOCH, "stored before the epoch was raised")                                                                     \
	X(IN_FLIGHT, "being stored")                                                                                       \
	X(OTHER_FORM, "stored in another form")                                                                            \
	X(DAMAGED, "found damaged")                                                                                        \
	X(INDEX_LOADING, "index loading")                                                                                  \
	X(DISK_CIRCUIT, "on a disk that does not answer")                                                                  \
	X(OVER_CAP, "over the cap of leased memory")                                                                       \
	X(AFTER_MISS, "behind a missing block")                                                                            \
	X(OTHER_SHARD, "stored by some of its parallel ranks, not by all")

enum kvci_miss {
	KVCI_MISS_NONE = 0,
#define KVCI_MISS_ENUM(name, text) KVCI_MISS_##name,
	KVCI_MISS_TABLE(KVCI_MISS_ENUM)
#undef KVCI_MISS_ENUM
	KVCI_MISS_COUNT
};
const char *kvci_miss_name(enum kvci_miss miss); /* "never_stored" */
const char *kvci_miss_text(enum kvci_miss miss);

struct kvci_match {
	uint32_t binding;
	uint32_t flags;
	const uint8_t (*hashes)[KVCI_HASH_BYTES];
	uint32_t count;
	uint8_t request_id[KVCI_REQUEST_ID_BYTES]; /* with LEASE; the client's session is implied */
	/* A long match is made in pieces, each a call, so that none takes long: keys [first, until), until 0: all. Those before `first` were
	 * matched, all of them, by the calls before. The figures below are the piece's. */
	uint32_t first, until;
	/* out */
	uint32_t matched;         /* leading blocks that hit (EXISTS: how many of all) */
	uint32_t in_memory;
	uint32_t on_disk;         /* only there: a load will read them */
	uint64_t load_bytes;      /* record bytes of what matched */
	enum kvci_miss end;       /* why it ended; NONE: all matched */
	uint8_t *exists;          /* in: NULL or count bytes, out: with EXISTS 1 or 0 each */
	/* in: NULL, or (neither EXISTS nor LEASE) room for the numbers of all shards' blocks of count keys; out: of what matched. They are not
	 * touched then, only their hits counted: kvci_cache_match_touch_blocks follows. */
	uint32_t *numbers;
	uint64_t as_of; /* with numbers, kept from piece to piece: for kvci_cache_match_touch_blocks */
};
/* OK (also when nothing matched), RETRY or CALLER classes. Repeating a leased match under the same request id returns the same lease
 * (its blocks; new ones are added when the key list is longer). NOT_FOUND for a later piece: the lease has not what came before, or has other keys here;
 * then all keys in one call. */
kvc_status_t kvci_cache_match(struct kvci_cache *cache, uint32_t client, struct kvci_match *match);
/* Blocks [first, first + count) of the lease were used. Pieces of a chain are touched from its last to its first. */
void kvci_cache_match_touch(struct kvci_cache *cache, uint32_t client, const uint8_t request_id[KVCI_REQUEST_ID_BYTES],
                            uint32_t first, uint32_t count);
/* The same for keys [first, first + count) of a match without a lease, whose block numbers it gave; blocks that are gone by now are passed over. */
void kvci_cache_match_touch_blocks(struct kvci_cache *cache, const struct kvci_match *match, uint32_t first, uint32_t count);

/* Where a block's record is in memory. */
struct kvci_extent {
	uint32_t slab;
	uint32_t generation; /* of the extent's place in the slab: stale ones are told apart */
	uint64_t offset_bytes;
	uint64_t record_bytes;
	uint64_t record_checksum;
};

/* A client's load of blocks [first, first + count) of a lease. Embedded in the caller's object. */
struct kvci_load {
	uint32_t client;
	uint32_t binding; /* which shard of the lease's blocks it wants; where they have one, this says nothing */
	uint32_t first, count;
	/* Block first + index is in memory (OK) and pinned until the lease is released, or will not come (MISS or DEGRADE: counted and,
	 * if damaged, dropped; NO_SPACE: no memory came free for it; CANCELED: the lease ended). Called once for each block, in any order,
	 * possibly inside kvci_cache_load; `waiting` is how many are still to come, at 0 the load is over and may be freed in the call. */
	void (*ready)(struct kvci_load *load, uint32_t index, kvc_status_t status, const struct kvci_extent *extent);
	/* May be NULL. Of block first + index, which is still being read, the head and the first `sections` sections are at *extent already, as they will be
	 * when ready() says OK; more from call to call. extent->record_checksum is the seal of the head and these sections alone
	 * (kvci_record_checksum_leading); of the head's table the rest may not be there, nor header_checksum. It promises nothing of ready(): when that is not OK, the extent may be used for something else by
	 * then, so that whoever reads must check what was read. Never for a block that is whole, nor for one of which no part can be had before. */
	void (*sections)(struct kvci_load *load, uint32_t index, uint32_t sections, const struct kvci_extent *extent);
	void *context;
	uint32_t waiting;
	struct kvci_load *next, *prev;
	void *cache_private[4];
};
/* Attaches the client to the lease of its session and loads. NOT_FOUND: no such lease. INVALID: blocks that it has not. */
kvc_status_t kvci_cache_load(struct kvci_cache *cache, struct kvci_load *load,
                             const uint8_t request_id[KVCI_REQUEST_ID_BYTES]);
/* No more ready() calls; the hold stays until release. */
void kvci_cache_load_cancel(struct kvci_cache *cache, struct kvci_load *load);
/* This client lets go of the lease; idempotent. */
void kvci_cache_release(struct kvci_cache *cache, uint32_t client, const uint8_t request_id[KVCI_REQUEST_ID_BYTES]);

/* A reader found the extent's bytes wrong. The brain has them checked on a worker and drops the block if they are. */
void kvci_cache_report_damage(struct kvci_cache *cache, uint32_t client, const struct kvci_extent *extent);

/* ---- store ------------------------------------------------------------------------------------------------------- */

struct kvci_reserve {
	uint8_t hash[KVCI_HASH_BYTES];
	uint8_t parent_hash[KVCI_HASH_BYTES];
	uint64_t position_tokens;
	uint32_t token_count;
	/* out */
	kvc_status_t status; /* OK: gather; EXISTS, IN_FLIGHT, NO_SPACE, OVER_CAP, ... : do not */
	uint64_t reservation;
	struct kvci_extent extent;
};
/* Reserves in order until one does not fit; those behind it get its status. PENDING: the client first needs slab *ret_new_slab: map it,
 * tell kvci_cache_slab_ready, ask again for those with status PENDING (what was reserved by this call so far stays reserved). */
kvc_status_t kvci_cache_reserve(struct kvci_cache *cache, uint32_t client, uint32_t binding, struct kvci_reserve *blocks,
                                uint32_t count, uint32_t *ret_new_slab);
void kvci_cache_slab_ready(struct kvci_cache *cache, uint32_t client, uint32_t slab);
/* checksums: one raw checksum a section. OK: sealed, seen by every later match. NOT_FOUND: no such reservation of this client. INVALID: not as many
 * checksums as sections; it stays reserved. TIMED_OUT: it was overdue; STALE_EPOCH: the epoch was raised meanwhile; then the extent is free
 * now and nothing was stored. */
kvc_status_t kvci_cache_commit(struct kvci_cache *cache, uint32_t client, uint64_t reservation, const uint64_t *checksums,
                               uint32_t checksum_count);
kvc_status_t kvci_cache_abort(struct kvci_cache *cache, uint32_t client, uint64_t reservation);

/* ---- upkeep and inspection ----------------------------------------------------------------------------------------- */

/* done() when everything committed so far is durable or counted as dropped (possibly inside the call). Status: that of the disk's flush;
 * CIRCUIT_OPEN when the disk is left alone at present; OK at once without a disk. */
struct kvci_flush_wait {
	void (*done)(struct kvci_flush_wait *wait, kvc_status_t status);
	void *context;
	struct kvci_flush_wait *next;
	uint64_t ticket;
	void *cache_private;
};
kvc_status_t kvci_cache_flush(struct kvci_cache *cache, struct kvci_flush_wait *wait);
void kvci_cache_flush_cancel(struct kvci_cache *cache, struct kvci_flush_wait *wait);

/* Drops one block everywhere (all its shards and forms). NOT_FOUND; LOADING: the disk's index has not come whole. A held block leaves the index at once and memory when let go. */
kvc_status_t kvci_cache_drop(struct kvci_cache *cache, uint32_t space, uint32_t group, const uint8_t hash[KVCI_HASH_BYTES]);

/* Events of the disk tier come in through these (wired by kvci_cache_create through tier.attach). */

struct kvci_block_info {
	struct kvci_block_id id;
	uint32_t space, binding;
	uint64_t epoch, form_id;
	uint8_t parent_hash[KVCI_HASH_BYTES]; /* zeros when only the record knows it */
	uint64_t position_tokens;
	uint32_t token_count, shard_count;
	uint64_t record_bytes;
	uint64_t record_checksum; /* 0 while it is reserved */
	bool in_memory, on_disk, writing, loading, reserved;
	bool lossy; /* its record on the disk, or what came from there, lost bits */
	uint32_t holds, hits;
	uint64_t last_used_ns, stored_ns;
	struct kvci_extent extent; /* in memory */
	struct kvc_place place;    /* on disk */
};
/* Walks at most `steps` blocks from *cursor (0: from the start); the walk is over when *cursor is 0 again. Blocks that come or go
 * meanwhile may be seen or not; none is seen twice. */
void kvci_cache_walk(struct kvci_cache *cache, uint64_t *cursor, uint32_t steps,
                     void (*visit)(void *context, const struct kvci_block_info *info), void *context);
/* The blocks whose hash begins with prefix_nibbles half bytes of `prefix` (64 of them: found by the index, else by walking). Looks at no more than
 * `steps` blocks from *cursor (0: from the start) and finds at most `room`; the search is over when *cursor is 0 again. */
kvc_status_t kvci_cache_find(struct kvci_cache *cache, const uint8_t *prefix, uint32_t prefix_nibbles, uint64_t *cursor,
                             uint32_t steps, struct kvci_block_info *out, uint32_t room, uint32_t *ret_count);

/* Whether a key would hit now, and if not, why: as a match would, but nothing is counted, touched or started. NONE: a hit, and *ret_info
 * (may be NULL) is the block. NOT_FOUND as status: no such binding, or its form is not known. */
kvc_status_t kvci_cache_explain(struct kvci_cache *cache, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES],
                                enum kvci_miss *ret_miss, struct kvci_block_info *ret_info);
/* Someone outside (verify) read a block at this place and found it damaged: it goes off the disk, is counted and remembered. Nothing
 * happens when the block is not at that place any more. */
void kvci_cache_disk_damaged(struct kvci_cache *cache, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES],
                             const struct kvc_place *place);

/* Someone outside (recode) read the block's record at `old` and wrote it anew: the new one is its record from now on, and the old one goes. IN_USE, MISS:
 * the block is being loaded, or is not at that place any more; then the new one goes. */
kvc_status_t kvci_cache_recoded(struct kvci_cache *cache, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES], const struct kvc_place *old,
                                const struct kvc_tier_entry *entry);

struct kvci_space_info {
	const struct kvci_space *fields;
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	uint64_t epoch;
	uint64_t blocks, memory_blocks, disk_blocks, bytes;
};
uint32_t kvci_cache_space_count(const struct kvci_cache *cache);
kvc_status_t kvci_cache_space_info(const struct kvci_cache *cache, uint32_t space, struct kvci_space_info *ret_info);
uint32_t kvci_cache_binding_count(const struct kvci_cache *cache); /* bindings are numbered from 0 */
/* The form of records in a space, and the space's fields; NULL: nobody has bound it. */
const struct kvc_form *kvci_cache_form_of(const struct kvci_cache *cache, const uint8_t fingerprint[KVCI_SPACE_BYTES], uint64_t form_id,
                                          const struct kvci_space **ret_fields);
uint64_t kvci_cache_binding_form_id(const struct kvci_cache *cache, uint32_t binding); /* 0: no such binding */
const struct kvc_form *kvci_cache_binding_form(const struct kvci_cache *cache, uint32_t binding);
uint32_t kvci_cache_binding_space(const struct kvci_cache *cache, uint32_t binding);
uint32_t kvci_cache_binding_shards(const struct kvci_cache *cache, uint32_t binding); /* its shard_count; 0: no such binding */

struct kvci_client_info {
	uint32_t client;
	uint64_t slab_bytes, reserved_bytes, reservations, quarantined, leases;
	uint64_t leased_bytes; /* of its session */
	bool has_session, session_owner;
	uint8_t session_id[KVCI_SESSION_ID_BYTES];
};
kvc_status_t kvci_cache_client_info(const struct kvci_cache *cache, uint32_t client, struct kvci_client_info *ret_info);

struct kvci_cache_totals {
	uint64_t blocks, memory_blocks, disk_blocks, memory_used_bytes, memory_slab_bytes, memory_capacity_bytes;
	uint64_t disk_raw_bytes, disk_stored_bytes; /* of the blocks on disk: decoded, and as they lie there */
	uint64_t leased_bytes, reserved_bytes, quarantined_bytes, write_queue_bytes, loads_under_way;
	bool index_loading;
	kvc_status_t disk_health;
};
void kvci_cache_totals(const struct kvci_cache *cache, struct kvci_cache_totals *ret_totals);
/* Walks all invariants (tests, `--debug-checks`): a line for people when one is broken, else NULL. */
const char *kvci_cache_check(struct kvci_cache *cache);

#endif
