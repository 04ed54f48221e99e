/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcask: client and embedded API.
 *
 * An engine (or a tool) opens the store, binds a space (whose values these are) with a form (how they lie), names blocks by hash,
 * and asks for three things: what is stored (match), load it into my pages, store these pages.
 *
 *   struct kvc_client *client;
 *   kvc_open("unix:/run/kvcask.sock", NULL, &client);
 *   kvc_space_open(client, &desc, &form, &space);
 *   kvc_space_set_memory(space, layers, layer_count);
 *   kvc_match(space, hashes, count, &request, KVC_MATCH_LEASE, timeout_ns, &result);
 *   kvc_load(space, &request, 0, result.matched_blocks, engine_blocks, timeout_ns, statuses);
 *   kvc_release(client, &request);
 *
 * Promises
 *   - A load gives exactly the bytes that were stored under that hash in that space and form, or a status that is not OK. Every load is
 *     checked in the pass that copies it. After a status other than OK the destination pages hold undefined bytes.
 *   - No call waits longer than its timeout (plus one block's copy). While the daemon is away or slow, calls answer GONE, TIMED_OUT
 *     or CIRCUIT_OPEN at once; the client reconnects, joins and binds again by itself, in the background of later calls: 1 s after the first
 *     failure, doubling to 30 s.
 *
 * Threads: all functions may be called from any thread; an op belongs to one thread at a time. Calls on one client are serialised by a
 * lock that is not held while blocks are copied. With KVC_OPEN_MOVER a thread of the client moves data in the background; without it,
 * data moves inside the calls that wait or poll.
 * Fork: a child must not use a client of its parent; its memory is not inherited.
 * Ownership: what a function returns through ret_x is the caller's; arrays handed in are copied before the call returns unless said otherwise.
 * Errors: kvcask/status.h. Outputs are written only on success unless said otherwise.
 */
#ifndef KVCASK_KVCASK_H
#define KVCASK_KVCASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define KVC_VERSION_MAJOR 0
#define KVC_VERSION_MINOR 1
#define KVC_VERSION_PATCH 0
const char *kvc_version(void); /* "0.1.0" */

enum {
	KVC_HASH_BYTES = 32,
	KVC_BLOCKS_MAX = 65536, /* in one call; more is TOO_BIG */
};

struct kvc_client;
struct kvc_space; /* a binding: space and form */
struct kvc_op;    /* something under way */

/* ---- open ----------------------------------------------------------------------------------------------------- */

enum {
	KVC_OPEN_MOVER = 1 << 0,         /* a background thread moves data */
	KVC_OPEN_SESSION_OWNER = 1 << 1, /* the scheduler of its session: leases end with it */
	KVC_OPEN_LAZY = 1 << 2,          /* do not fail when the daemon is away: connect later */
};

struct kvc_open_options {
	uint32_t struct_bytes;
	uint32_t flags;
	const char *name;            /* for `kvcask clients`; NULL: the program's name */
	const char *session;         /* any text that all processes of one engine share; NULL: a session of one's own */
	uint64_t connect_timeout_ns; /* 0: 1 s */
};

/* target: "unix:PATH" (a running daemon) or "embedded:DIR" (a store in this process; DIR as data_dir, "embedded:" alone: memory
 * only; ?key=value&... after it sets options of the config table). options may be NULL.
 * GONE: nobody listens. TOO_BIG: the path is longer than a socket address. DENIED. VERSION. */
kvc_status_t kvc_open(const char *target, const struct kvc_open_options *options, struct kvc_client **ret_client);
/* Cancels what is under way, waits for copies that run, frees, with all spaces and ops of the client: their handles end with it. NULL is
 * fine. No other thread may be in a call. */
void kvc_close(struct kvc_client *client);
/* One line about the last failure of this client, for people; valid until the next call on this thread. */
const char *kvc_last_error(void);
/* Readable when an op may have made progress: then call kvc_poll. The same fd for the client's life. */
int kvc_fd(struct kvc_client *client);
/* Lets ops progress without waiting. */
kvc_status_t kvc_poll(struct kvc_client *client);
/* OK: connected and answering; CIRCUIT_OPEN or GONE: not at present. Does not block. */
kvc_status_t kvc_health(struct kvc_client *client);

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

/* What the KV values depend on; text, NULL: not applicable. The tenant is not here: the socket says it. */
struct kvc_space_desc {
	uint32_t struct_bytes;
	const char *model;          /* identity: kvc_model_identity() or a revision hash; required */
	const char *model_name;     /* for people; does not count */
	const char *kv_dtype;       /* required: "bfloat16", "float32", ... */
	const char *kv_quant;
	const char *rope;
	const char *adapter;        /* by content */
	const char *hash_algorithm; /* required: "sha256_cbor", ... */
	const char *hash_root;
	const char *extra;
	/* What loss the space allows to blocks that leave memory: a codec by name ("int8", "kv4:bits=4,group=64"), or "max_kl=0.002". NULL:
	 * none, bytes come back as they were stored. A space that allows loss shares no block with one that does not. */
	const char *codec;
};

kvc_status_t kvc_space_open(struct kvc_client *client, const struct kvc_space_desc *desc, const struct kvc_form *form,
                            struct kvc_space **ret_space);
void kvc_space_close(struct kvc_space *space);
/* The engine's pages, one entry a layer, copied. The memory stays the caller's and must outlive all ops. INVALID: does not fit the form. */
kvc_status_t kvc_space_set_memory(struct kvc_space *space, const struct kvc_layer_memory *layers, uint32_t layer_count);
/* Everything stored in this space so far becomes a miss for ever, durably before OK (weights changed). */
kvc_status_t kvc_space_raise_epoch(struct kvc_space *space, uint64_t timeout_ns);
/* Sizes of the bound form. */
void kvc_space_sizes(const struct kvc_space *space, struct kvc_form_sizes *ret_sizes);

/* Identity of a model folder: hex digest over config, quantisation config, and each weight file's name, size, header and
 * samples. Cached in `cache_file` (NULL: not) by path, size and mtime. *ret_text: kvc_free. */
kvc_status_t kvc_model_identity(const char *folder, const char *cache_file, char **ret_text);
/* The same digest over any file or folder (an adapter). */
kvc_status_t kvc_content_identity(const char *path, char **ret_text);

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* vLLM's sha256_cbor chain (see base/hash.h): for tools, routers, and engines without hashes of their own. */
struct kvc_chain;
kvc_status_t kvc_chain_create(uint32_t engine_block_tokens, const uint8_t *root, struct kvc_chain **ret_chain);
kvc_status_t kvc_chain_append(struct kvc_chain *chain, const uint32_t *tokens, size_t token_count, uint8_t (*out)[32],
                              size_t room, size_t *ret_count);
void kvc_chain_destroy(struct kvc_chain *chain);

/* ---- requests ----------------------------------------------------------------------------------------------------- */

/* The engine's request id, any bytes: what a lease is held under, in the client's session. */
struct kvc_request {
	const void *id;
	size_t id_bytes;
};

/* ---- match ---------------------------------------------------------------------------------------------------------- */

enum {
	KVC_MATCH_LEASE = 1 << 0, /* hold what matched under the request id, and start bringing it into memory */
};

struct kvc_match_result {
	uint32_t matched_blocks;  /* leading blocks that are stored and may be held */
	uint32_t in_memory_blocks;
	uint32_t on_disk_blocks;
	uint32_t miss;            /* why it ended: see kvc_miss_name; 0: all matched */
	uint64_t load_bytes;
};
const char *kvc_miss_name(uint32_t miss);

/* hashes: `count` block hashes in token order (0: OK, nothing matched). request may be NULL without LEASE. */
kvc_status_t kvc_match_begin(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                             const struct kvc_request *request, uint32_t flags, struct kvc_op **ret_op);
kvc_status_t kvc_op_match_result(struct kvc_op *op, struct kvc_match_result *ret_result);
kvc_status_t kvc_match(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                       const struct kvc_request *request, uint32_t flags, uint64_t timeout_ns,
                       struct kvc_match_result *ret_result);
/* Each key on its own; no lease. out[i] is 1 or 0. */
kvc_status_t kvc_exists(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count, uint8_t *out,
                        uint64_t timeout_ns);

/* ---- load and store --------------------------------------------------------------------------------------------------- */

/* Loads blocks [first, first + count) of a lease into the engine's pages. engine_blocks: the engine's block ids in token order,
 * block_tokens / engine_block_tokens of them a block. The op is done when every block has its status. deadline_ns (from now, 0: none): what is missing then
 * is TIMED_OUT and will not be written any more. */
kvc_status_t kvc_load_begin(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                            const uint32_t *engine_blocks, uint64_t deadline_ns, struct kvc_op **ret_op);
/* The same, section by section (a section: one layer of a block): of a block that lies packed on the disk the first layers are put into the pages
 * while later ones are still being unpacked, and all blocks' first layers before the next ones. A section counts as there when its own checksum was
 * found right: of a lossless record that made at store, of a lossy one that of what its codec gave, as the daemon told it. Layers that a codec codes together
 * (PCA) come together; blocks that lie raw on the disk come whole. When a block fails later on, its earlier sections in the pages are right, and all
 * others of it are void: kvc_load_block_sections tells. The block is OK only with the op's, or its own, last status. */
kvc_status_t kvc_load_sections_begin(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                                     const uint32_t *engine_blocks, uint64_t deadline_ns, struct kvc_op **ret_op);
/* Until sections [0, sections) of every block are in the pages (OK), or one of them will not come (the first failed block's status), or timeout_ns
 * from now (PENDING). sections beyond the form's layers: all. Without a mover the waiting thread moves the data. Of kvc_load_begin's ops too, whose
 * sections come block by block. */
kvc_status_t kvc_load_wait_sections(struct kvc_op *op, uint32_t sections, uint64_t timeout_ns);
/* How many leading sections of each block are in the pages, and right: all that a block gets when the op is done. room: entries in ret_sections. */
kvc_status_t kvc_load_block_sections(struct kvc_op *op, uint32_t *ret_sections, uint32_t room);
/* statuses: count entries, or NULL. OK only when every block is OK; else the first status that is not. */
kvc_status_t kvc_load(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                      const uint32_t *engine_blocks, uint64_t timeout_ns, kvc_status_t *statuses);
/* This process lets go of the lease. */
kvc_status_t kvc_release(struct kvc_client *client, const struct kvc_request *request);

struct kvc_store_block {
	uint8_t hash[KVC_HASH_BYTES];
	uint8_t parent_hash[KVC_HASH_BYTES]; /* zeros: the root */
	uint64_t position_tokens;
};

/* Stores blocks out of the engine's pages: reserve, gather with checksum, commit. What is stored already is not copied. The pages
 * must not change until kvc_op_pages_free(op) says so or kvc_op_cancel returned.
 * Status of a block: OK; EXISTS, it was stored already; IN_FLIGHT, another client is storing it; NO_SPACE, OVER_CAP, ... The op is OK when
 * each block is OK or EXISTS, else it has the first status that is neither. */
kvc_status_t kvc_store_begin(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                             const uint32_t *engine_blocks, struct kvc_op **ret_op);
kvc_status_t kvc_store(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                       const uint32_t *engine_blocks, uint64_t timeout_ns, kvc_status_t *statuses);

/* Retention scores: how much each token is worth to its heads (by attention, or by a model that predicts it), 255 the most. They decide where bits go when
 * a block is packed with loss (of rows of 192 and more, an eighth of all at most, int8 and fp8 keep every bit, and kv4 eight a value), stay with the record on the disk, and are no part of what the
 * block is: a load gives the same bytes with or without them when nothing is lost. Call it before the store: a block may be on the disk right after it; scores
 * that come later count when it is written next. A store keeps them for a while only (64 MiB for all clients, oldest first), until the block is written.
 * scores: [count][block_tokens][kv_heads] bytes; those of blocks that are never stored do no harm. */
kvc_status_t kvc_set_scores(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count, const uint8_t *scores,
                            uint64_t timeout_ns);

/* ---- ops ------------------------------------------------------------------------------------------------------------------ */

/* The op's status: PENDING while under way. Does not block. */
kvc_status_t kvc_op_status(struct kvc_op *op);
/* Until done or timeout_ns from now: PENDING then; the op goes on. Without a mover the waiting thread moves the data. */
kvc_status_t kvc_op_wait(struct kvc_op *op, uint64_t timeout_ns);
/* Load and store: the status of each block (PENDING: not yet). room: entries in statuses. Also while under way. */
kvc_status_t kvc_op_block_statuses(struct kvc_op *op, kvc_status_t *statuses, uint32_t room);
/* Load and store: no engine page of this op will be read or written any more. */
bool kvc_op_pages_free(struct kvc_op *op);
/* Ends it: when this returns, no engine page will be touched (waits for at most one block's copy). */
void kvc_op_cancel(struct kvc_op *op);
/* Cancels when under way, then frees. NULL is fine. */
void kvc_op_destroy(struct kvc_op *op);

/* Figures of an op, for the engine's own metrics. */
struct kvc_op_figures {
	uint64_t bytes;       /* copied */
	uint64_t blocks;      /* OK */
	uint64_t elapsed_ns;  /* begin to done */
	uint64_t copy_ns;
};
void kvc_op_get_figures(struct kvc_op *op, struct kvc_op_figures *ret_figures);

/* ---- extents: for callers that make or use the bytes themselves ------------------------------------------------------------ */

/* A reserved extent: write sections[i] (section_bytes each, section_stride_bytes apart), then commit with checksums or NULL (computed here). Memory that the
 * daemon shares with this client alone. */
struct kvc_reservation {
	uint64_t id;
	void *sections;
	kvc_status_t status;
};
kvc_status_t kvc_reserve(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                         uint64_t timeout_ns, struct kvc_reservation *ret_reservations);
kvc_status_t kvc_commit(struct kvc_space *space, const struct kvc_store_block *block, const struct kvc_reservation *reservation,
                        const uint64_t *checksums, uint64_t timeout_ns);
kvc_status_t kvc_abort(struct kvc_space *space, const struct kvc_reservation *reservation, uint64_t timeout_ns);

/* ---- upkeep ------------------------------------------------------------------------------------------------------------------ */

/* Everything committed before is on the disk, or counted as dropped. */
kvc_status_t kvc_flush(struct kvc_client *client, uint64_t timeout_ns);
/* Drops one block everywhere. NOT_FOUND. */
kvc_status_t kvc_drop(struct kvc_space *space, const uint8_t hash[KVC_HASH_BYTES], uint64_t timeout_ns);
/* An admin question ("stat", "spaces", "ls", "show", "clients", "config", "verify", ...; docs/admin.md) with JSON arguments or NULL; the answer is
 * JSON text, kvc_free it. */
kvc_status_t kvc_admin(struct kvc_client *client, const char *question, const char *arguments_json, uint64_t timeout_ns,
                       char **ret_json);
/* Figures of this client as JSON, without asking the daemon: loads, stores, bytes, misses by cause, circuit. kvc_free. */
kvc_status_t kvc_client_stats(struct kvc_client *client, char **ret_json);
void kvc_free(void *memory);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
