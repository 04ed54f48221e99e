/* SPDX-License-Identifier: Apache-2.0
 * Shared by serve.c (connection, dispatch), serve_match.c, serve_store.c and serve_upkeep.c. */
#ifndef KVCI_DAEMON_SERVE_INTERNAL_H
#define KVCI_DAEMON_SERVE_INTERNAL_H

#include "cache/cache.h"
#include "daemon/core.h"
#include "daemon/serve.h"

enum {
	SERVE_BINDINGS_MAX = 256, /* of one client */
	SERVE_OPS_MAX = 1024,     /* under way, of one client */
	SERVE_ADMIN_MAX = 4,
	/* Entries a step: what is done with them takes well under 200 us. */
	SERVE_MATCH_STEP = 1024,
	SERVE_RESERVE_STEP = 32,
	SERVE_COMMIT_STEP = 16,
	SERVE_SCORES_STEP = 32,
	SERVE_LOAD_STEP = 512,
	SERVE_STEP_NS = 80 * 1000,    /* short steps are taken together, until so long has passed */
	SERVE_COPY_STEP_BYTES = 64 << 10, /* of an array: its pages may all be new on both sides */
	SERVE_CHECK_STEP = 4096,
	SERVE_KEEP_BYTES = 1 << 20, /* of the copy of an array, between messages: 8,192 blocks to be stored */
};

/* Something of the client that has not been answered: a load, a flush, an epoch raise, an admin question. */
struct serve_op {
	struct serve_op *next, *prev;
	struct kvci_conn *conn;
	struct kvci_message message; /* its request */
	bool dirty;                  /* in need of finish */
	/* Sends what there is to say; true: it is answered and over, to be freed. */
	bool (*finish)(struct serve_op *op);
	/* Takes it back from whoever works on it, and frees it. */
	void (*cancel)(struct serve_op *op);
};

/* The message that is being worked on. */
struct serve_work {
	bool (*step)(struct kvci_conn *conn); /* true: done. NULL: no work */
	struct kvci_message message;
	char *array; /* a private copy */
	uint64_t array_room_bytes;
	const char *copy_from; /* what is still to be copied there before the first step */
	uint64_t copy_at, copy_bytes;
	uint32_t done;    /* entries so far */
	uint64_t at;      /* bytes so far, where entries differ in length */
	struct serve_op *op;
	uint64_t begin_ns;
	/* MATCH */
	struct kvci_match match; /* the piece at hand */
	struct kvci_message answer;
	uint32_t *numbers; /* of the blocks that matched without a lease, to be touched */
	uint64_t numbers_room_bytes;
	uint32_t left;  /* blocks that are still to be touched, or whose extents are still to be given */
	uint32_t touch; /* blocks to be touched when it is answered */
};

struct kvci_conn {
	struct kvci_core *core;
	struct kvci_conn_out out;
	struct kvci_conn_peer peer;
	char *tenant;
	char name[KVCI_MESSAGE_TEXT_BYTES];
	uint32_t client; /* 0 before HELLO */
	bool muted;
	uint64_t since_ns, messages;
	int window_fd;
	char *window;
	uint64_t window_bytes;
	uint32_t bindings[SERVE_BINDINGS_MAX];
	uint32_t binding_count;
	uint32_t *slabs; /* whose fds it got */
	uint32_t slab_count, slab_room;
	struct serve_op *ops;
	uint32_t op_count, admin_count;
	struct serve_work work;
};

/* ---- serve.c: for the handlers ---- */

/* The same tag and type, zeroed otherwise. */
void serve_answer(struct kvci_conn *conn, const struct kvci_message *request, kvc_status_t status);
void serve_answer_full(struct kvci_conn *conn, const struct kvci_message *request, struct kvci_message *answer,
                       kvc_status_t status, int fd);
/* offset + bytes inside the window; *ret_at leads to it. INVALID otherwise. */
kvc_status_t serve_range(const struct kvci_conn *conn, uint64_t offset, uint64_t bytes, void **ret_at);
/* The message's reply array: room for count entries of entry_bytes at 8-byte steps. */
kvc_status_t serve_reply_range(const struct kvci_conn *conn, const struct kvci_message *message, uint64_t count,
                               uint64_t entry_bytes, void **ret_at);
/* Copies the message's array to work->array: now, for short ones; or in steps, so that it is there when the first step of the work that
 * serve_work_begin begins is run. */
kvc_status_t serve_copy_array(struct kvci_conn *conn, const struct kvci_message *message, uint64_t bytes);
kvc_status_t serve_copy_array_in_steps(struct kvci_conn *conn, const struct kvci_message *message, uint64_t bytes);
bool serve_bound(const struct kvci_conn *conn, uint32_t binding);
kvc_status_t serve_slab_note(struct kvci_conn *conn, uint32_t slab);
/* Makes the message the conn's work and runs its first step. */
void serve_work_begin(struct kvci_conn *conn, const struct kvci_message *message, bool (*step)(struct kvci_conn *conn),
                      struct serve_op *op);

/* bytes >= sizeof(struct serve_op), zeroed behind it. BUSY: too many are under way. */
kvc_status_t serve_op_create(struct kvci_conn *conn, const struct kvci_message *message, size_t bytes,
                             bool (*finish)(struct serve_op *op), void (*cancel)(struct serve_op *op),
                             struct serve_op **ret_op);
/* It has something to say. */
void serve_op_wake(struct serve_op *op);
/* Takes it out of the connection and frees it. */
void serve_op_free(struct serve_op *op);

/* ---- handlers: false ends the connection ---- */
bool serve_match(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_load(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_load_cancel(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_release(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_damage(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_reserve(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_slab_mapped(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_slab_get(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_commit(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_abort(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_scores(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_epoch_raise(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_drop(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_flush(struct kvci_conn *conn, const struct kvci_message *message);
bool serve_admin(struct kvci_conn *conn, const struct kvci_message *message);

#endif
