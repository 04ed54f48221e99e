/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the client library. One lock a client; whatever is not said to be otherwise is under it. It is not held while blocks are copied
 * or while a thread waits.
 *
 *   kvc_client   connection (connect.c), calls under way, ops, spaces, slabs
 *   call         one request without an answer: a slot of the client, with the window range the daemon may still write
 *   kvc_op       what the caller started; lives until the caller lets go AND the daemon owes it no answer AND no thread copies for it
 *   slab         a mapping of the daemon's shared memory, in use while a block of it is copied
 *
 * Who reads the socket: the thread that waits longest is the reader and polls it, others wait on the condition variable until the reader has
 * handed out what came. With KVC_OPEN_MOVER the mover is one more such thread while ops are under way.
 *
 * The daemon is not trusted to be sane: a message that breaks the protocol ends the connection, and no offset or length of it is used unchecked.
 */
#ifndef KVCI_CONNECTOR_INTERNAL_H
#define KVCI_CONNECTOR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <kvcask/kvcask.h>

#include "base/clock.h"
#include "base/copy.h"
#include "base/map.h"
#include "base/patience.h"
#include "base/record.h"
#include "rpc/local/channel.h"
#include "rpc/local/window.h"

enum {
	CLIENT_MAGIC = 0x6b634c31,
	CLIENT_SPACE_MAGIC = 0x6b635331,
	CLIENT_OP_MAGIC = 0x6b634f31,
	CLIENT_CALLS = 1024,           /* requests without an answer; a power of two */
	CLIENT_OP_SMALL_BYTES = 640,   /* ops up to this size are kept for reuse */
	CLIENT_OP_SPARES = 16,
	CLIENT_MISSES = 16,
	CLIENT_SPIN_TURNS = 64,        /* one of so many waits sleeps, to learn what that costs */
	CLIENT_ID_BYTES = 16,
};
#define CLIENT_SPIN_NS_MAX (KVCI_MS)      /* whatever the daemon says */
#define CLIENT_SPIN_KEY_NS 50             /* a match of many keys takes so much longer, each */
#define CLIENT_CONNECT_NS KVCI_SECOND
#define CLIENT_BACKOFF_FIRST_NS KVCI_SECOND
#define CLIENT_BACKOFF_MAX_NS (30 * KVCI_SECOND)
#define CLIENT_SILENCE_NS (20 * KVCI_MS)      /* given up on, and nothing heard for so long: the daemon does not answer */
#define CLIENT_BATCH_BYTES (UINT64_C(32) << 20) /* of one reservation request of a store */

struct call;
struct slab;

typedef void (*call_answered)(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd);

/* A request without an answer. */
struct call {
	uint32_t tag;            /* 0: the slot is free */
	uint16_t type;
	bool quick;              /* a sane daemon answers at once */
	struct kvc_op *op;       /* that counts it; NULL: nobody's */
	struct kvc_space *space; /* BIND */
	call_answered answered;
	uint64_t context;
	uint64_t range_offset, range_bytes;
	uint32_t next_free;
};

enum connection_state {
	CONNECTION_CLOSED, /* until retry_ns */
	CONNECTION_HELLO,  /* until hello_ns */
	CONNECTION_UP,
};

struct client_stats {
	uint64_t calls, round_trips, messages_sent, messages_received, syscalls, locks, allocations;
	uint64_t match_calls, match_keys, match_hit_keys, misses[CLIENT_MISSES];
	uint64_t load_blocks, load_bytes, load_ns, load_failed_blocks, load_corrupt_blocks, load_late_blocks;
	uint64_t store_blocks, store_bytes, store_ns, store_existing_blocks, store_refused_blocks;
	uint64_t connects, disconnects, circuit_opened, circuit_refused, protocol_errors, timed_out;
	uint64_t spins, spins_answered; /* waits that looked before they slept, and those that did not have to sleep */
};

/* A reservation that the caller fills himself (kvc_reserve). */
struct client_reservation {
	uint64_t id;
	uint64_t generation; /* of the connection that gave it */
	struct slab *slab;
	void *sections;
	struct client_reservation *next;
};

struct kvc_client {
	uint32_t magic;
	pid_t pid;
	uint32_t flags;
	uint64_t connect_timeout_ns;
	char *path; /* NULL: embedded */
	char name[KVCI_MESSAGE_TEXT_BYTES];
	uint8_t session[CLIENT_ID_BYTES];
	struct embedded *embedded;

	pthread_mutex_t lock;
	pthread_cond_t moved; /* something happened that a waiting thread may wait for */
	bool closing;

	/* connection */
	enum connection_state state;
	int socket_fd;
	bool broken;            /* noticed while an op was being worked on: closed at the next turn */
	kvc_status_t hello_status; /* of the last HELLO */
	uint64_t generation;    /* of the connection, from 1 */
	uint64_t retry_ns, backoff_ns, hello_ns;
	uint8_t *window;
	uint64_t window_bytes;
	struct kvci_window_ranges ranges;
	struct kvci_message *unsent; /* ring: what the socket did not take */
	uint32_t unsent_room, unsent_first, unsent_count;
	uint64_t quiet_since_ns;     /* first quick request since something was heard; 0: none */
	uint32_t quick_calls;
	bool gave_up;                /* on a quick request, since something was heard */
	bool silent;                 /* the circuit is open though the connection is up */
	bool ping_sent;
	uint64_t heard_ns;
	struct call calls[CLIENT_CALLS];
	uint32_t free_call, call_round;

	/* waiting */
	uint64_t spin_ns;              /* as the daemon says; 0: never */
	struct kvci_patience patience; /* with it */
	struct kvci_lateness lateness; /* of answers slept for */
	uint32_t spin_turn;
	bool reader;        /* a thread polls the socket */
	uint32_t waiters;   /* on `moved` */
	int wake_fd;        /* eventfd: ends the reader's poll */
	int user_fd;        /* epoll for kvc_fd, -1 until asked for */
	int user_wake_fd, user_timer_fd;
	uint64_t user_timer_ns;
	bool user_woken;
	pthread_t mover;
	bool mover_runs;
	pthread_cond_t mover_wake;

	struct kvc_op *ops;    /* all, oldest first */
	struct kvc_op *ops_end;
	struct kvc_op *spares;
	uint32_t spare_count;
	struct kvc_op *reserver; /* the op whose RESERVE (or the mapping it asked for) is under way */
	bool starved;            /* an op waits for a free range or call */
	struct kvc_space *spaces;
	struct slab *slabs;
	struct client_reservation *reservations;

	/* the thread that populates and unmaps */
	pthread_t pager;
	bool pager_runs;
	pthread_cond_t pager_wake;

	struct client_stats stats;
};

/* How the pages of a layer lie, with runs joined where they touch. */
struct layer_plan {
	uint8_t *base;
	uint64_t block_stride_bytes;
	uint64_t block_count;
	uint32_t run_count[2];
	uint64_t run_stride_bytes[2];
	uint64_t run_bytes;
};

enum bind_state { SPACE_UNBOUND, SPACE_BINDING, SPACE_BOUND };

struct kvc_space {
	uint32_t magic;
	struct kvc_client *client;
	struct kvc_space *next;
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	uint64_t form_id;
	void *fields; /* BIND's array */
	size_t fields_bytes;
	struct layer_plan *layers; /* layer_count of them, NULL until set */
	uint64_t block_count;      /* least of the layers */
	enum bind_state bind_state;
	uint32_t binding;
	uint64_t epoch;
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	uint32_t ops;              /* that use it, also those nobody waits for */
	bool closed;
};

struct op_kind {
	const char *name;
	bool quick;  /* giving up on it may mean that the daemon does not answer */
	bool moves;  /* copies blocks: the mover cares */
	/* The connection is up and the space bound: sends the first request. */
	void (*start)(struct kvc_op *op);
	/* Claims one block and copies it, with the lock let go meanwhile. False: nothing to copy at present. NULL: !moves. */
	bool (*move)(struct kvc_op *op);
	/* Settles what is not settled with `status` and tells the daemon what it must know. The connection may be gone. */
	void (*stop)(struct kvc_op *op, kvc_status_t status);
	/* No page of it will be touched any more, though it is under way. NULL: as long as it is under way, some may be. */
	bool (*pages_free)(const struct kvc_op *op);
	/* Status of each block; TOO_BIG when there are more than `room`. NULL: it has no blocks. */
	kvc_status_t (*statuses)(const struct kvc_op *op, kvc_status_t *statuses, uint32_t room);
	/* Frees what is beside the op. May be NULL. */
	void (*fini)(struct kvc_op *op);
};

struct kvc_op {
	uint32_t magic;
	uint32_t allocated_bytes;
	const struct op_kind *kind;
	struct kvc_client *client;
	struct kvc_space *space; /* NULL: none */
	struct kvc_op *next, *prev;
	kvc_status_t status;     /* PENDING: under way */
	bool started, detached;
	uint64_t spin_ns;        /* worth looking for its answer for so long before sleeping; 0: not */
	uint64_t sent_ns;        /* its request, where lateness is learned from the answer */
	bool slept;              /* for its answer */
	bool background;         /* begun by a call that returned: kvc_fd reports it */
	uint32_t calls;          /* without an answer */
	uint32_t moving;         /* threads that copy a block of it */
	_Atomic bool stopped;    /* read without the lock between sections */
	uint64_t begin_ns, deadline_ns; /* absolute; 0: none */
	uint64_t elapsed_ns;
	struct kvc_op_figures figures;
};

/* ---- client.c ---- */

/* Sets the text of kvc_last_error and returns status. */
kvc_status_t client_fail(kvc_status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Begin of a public call: takes the lock, hands out what has come, reconnects when it is time. Not OK: the lock is not held. */
kvc_status_t client_enter(struct kvc_client *client);
/* The same, but refused while the daemon is away: OK only when a request can be sent. */
kvc_status_t client_enter_up(struct kvc_client *client);
void client_leave(struct kvc_client *client);
void client_lock(struct kvc_client *client);
void client_unlock(struct kvc_client *client);
/* Something happened that others may wait for. */
void client_moved(struct kvc_client *client);
/* The socket, a timer or another thread: until something may have happened or until_ns. Lets the lock go meanwhile. */
void client_wait(struct kvc_client *client, uint64_t until_ns);
/* The same; looks for up to spin_ns first, where that is better than sleeping. Returns whether it slept. */
bool client_wait_awake(struct kvc_client *client, uint64_t until_ns, uint64_t spin_ns);
/* SHA-256 of bytes, cut to 16. */
kvc_status_t client_id(const void *bytes, size_t length_bytes, uint8_t ret_id[CLIENT_ID_BYTES]);

/* ---- connect.c ---- */

/* Connects and says HELLO; the answer comes later. */
kvc_status_t connect_begin(struct kvc_client *client);
/* Hands out all messages that have come; closes a broken connection. */
void connect_drain(struct kvc_client *client);
/* Reconnects when it is time. OK: a request can be sent. */
kvc_status_t connect_ready(struct kvc_client *client);
/* Ends the connection: ops under way end with GONE. */
void connect_close(struct kvc_client *client);
/* The daemon broke the protocol. */
void connect_protest(struct kvc_client *client, const char *what);
/* Finds a free slot and a window range for array and reply together. BUSY: none at present. The op (may be NULL) counts the call. */
kvc_status_t connect_call(struct kvc_client *client, struct kvc_op *op, uint16_t type, uint64_t range_bytes,
                          call_answered answered, struct call **ret_call, struct kvci_message *ret_message);
/* Sends or queues; never fails (a broken connection is noticed at the next turn). */
void connect_send(struct kvc_client *client, const struct kvci_message *message);
/* A request whose answer nobody wants. */
void connect_tell(struct kvc_client *client, const struct kvci_message *message);
/* The call's op gave up on it. */
void connect_gave_up(struct kvc_client *client, const struct kvc_op *op);
struct call *connect_find(struct kvc_client *client, uint32_t tag);
/* A number of the status table. */
bool connect_is_status(int32_t status);
/* Asks for a sign of life, to be missed by the next call. */
void connect_ping(struct kvc_client *client);

/* ---- ops.c ---- */

/* A zeroed op of `bytes` (a struct that begins with struct kvc_op), in the client's list. */
kvc_status_t op_create(struct kvc_client *client, struct kvc_space *space, const struct op_kind *kind, size_t bytes,
                       struct kvc_op **ret_op);
/* Starts it now, or when its space is bound. An op that failed at once has its status. */
void op_launch(struct kvc_op *op);
void op_done(struct kvc_op *op, kvc_status_t status);
/* Ends an op that is under way. */
void op_stop(struct kvc_op *op, kvc_status_t status);
/* The caller lets go; frees it now or when the last answer has come and the last copy ended. */
void op_detach(struct kvc_op *op);
/* Frees it when nobody and nothing needs it any more. */
void op_settle(struct kvc_op *op);
/* Begin of a public call on an op: client_enter, or INVALID when it is none. */
kvc_status_t op_enter(struct kvc_op *op);
/* Waits until it is done or the time comes; moves its data meanwhile. */
void op_wait(struct kvc_op *op, uint64_t until_ns);
/* Waits, then ends it: what is not done is TIMED_OUT. Returns its status; no page is touched any more. */
kvc_status_t op_finish(struct kvc_op *op, uint64_t until_ns);
/* Ops whose deadline has come end. Returns the next deadline, UINT64_MAX for none. */
uint64_t ops_expire(struct kvc_client *client);
/* Starts all ops that waited for this space, or fails them. */
void ops_bound(struct kvc_client *client, struct kvc_space *space, kvc_status_t status);
/* The connection is gone. */
void ops_gone(struct kvc_client *client);
/* Space for requests came free. */
void ops_resume(struct kvc_client *client);
/* Copies one block of any op. */
bool ops_move_any(struct kvc_client *client);
void *ops_mover(void *client);
/* now + timeout, at most UINT64_MAX. */
uint64_t op_until(uint64_t timeout_ns);

/* A request with one array each way, its caller waiting: ask.c. */
struct ask {
	uint16_t type;
	uint32_t flags, binding_of_space, count;
	uint64_t a;
	const uint8_t *id;          /* 16 bytes or NULL */
	const char *text;
	const void *arrays[2];      /* one after the other */
	size_t array_bytes[2];
	void *reply;                /* gets the reply when the answer is OK */
	size_t reply_bytes;
	bool slow;                  /* an answer may take long without meaning anything */
};
/* Asks and waits. *ret_answer and *ret_fd (both may be NULL; fd -1 when none) on success. */
kvc_status_t ask_and_wait(struct kvc_client *client, struct kvc_space *space, const struct ask *ask, uint64_t timeout_ns,
                          struct kvci_message *ret_answer, int *ret_fd);

/* ---- load.c, store.c ---- */

void load_progress(struct kvc_client *client, struct call *call, const struct kvci_message *event);
void load_sections(struct kvc_client *client, struct call *call, const struct kvci_message *event);
void load_slab(struct kvc_op *op, uint32_t slab, kvc_status_t status);
/* Sends what is due: commits, reservations. */
void store_pump(struct kvc_op *op);
extern const struct op_kind load_kind, store_kind;

/* ---- space.c ---- */

/* Sends BIND when it is due. */
kvc_status_t space_bind(struct kvc_space *space);
bool space_is_valid(const struct kvc_space *space);
/* The engine's blocks of `count` kvcask blocks lie inside the memory. INVALID with a text. */
kvc_status_t space_check_blocks(const struct kvc_space *space, const uint32_t *engine_blocks, uint32_t count);
void space_destroy(struct kvc_space *space);

/* ---- slabs.c ---- */

enum { SLAB_PIECE_NEW, SLAB_PIECE_MAKING, SLAB_PIECE_MADE };

struct slab {
	struct slab *next;
	uint32_t id;
	bool writable;
	bool dead;      /* its daemon or itself is gone: unmapped with the last user */
	bool asked;     /* SLAB_GET is under way, base is NULL */
	bool populated; /* or being populated */
	_Atomic uint8_t *pieces; /* its pages are to be made huge, by us: SLAB_PIECE_* of each 2 MiB; NULL: they are not */
	struct kvci_map_budget budget; /* for them */
	uint8_t *base;
	uint64_t bytes;
	uint32_t users;
};

struct slab *slabs_find(struct kvc_client *client, uint32_t id);
/* Maps the fd of a slab (stays the caller's). The mapping is checked against the fd's size and seals. */
kvc_status_t slabs_map(struct kvc_client *client, uint32_t id, uint64_t bytes, int fd, bool writable, struct slab **ret_slab);
/* Asks the daemon for a slab; load_slab is called for every load when the answer has come. */
kvc_status_t slabs_ask(struct kvc_client *client, uint32_t id);
/* The range is inside the slab, at a record's alignment. */
bool slabs_holds(const struct slab *slab, uint64_t offset_bytes, uint64_t length_bytes);
/* How its pages are to be made huge: by the pager ahead of need, and by slabs_make for what is written sooner. Before anybody else sees it. */
void slabs_huge(struct slab *slab, enum kvci_map_huge how);
/* Makes the pages of that range, unless they are there or the pager is at them. No lock is held here. */
void slabs_make(struct slab *slab, uint64_t offset_bytes, uint64_t length_bytes);
void slabs_put(struct kvc_client *client, struct slab *slab);
void slabs_gone(struct kvc_client *client, uint32_t id);
/* All of a connection that ended. */
void slabs_kill_all(struct kvc_client *client);
void slabs_stop(struct kvc_client *client);

/* ---- gather.c: no lock is held here ---- */

kvc_status_t gather_plan(const struct kvc_layer_memory *memory, const struct kvc_form_sizes *sizes, struct layer_plan *ret_plan);
/* Copies a block's pages into its sections and gives their checksums. False: stopped on the way. */
bool gather_block(const struct kvc_space *space, const uint32_t *engine_blocks, void *sections, uint64_t seed,
                  uint64_t *ret_checksums, const _Atomic bool *stop);
/* A record in a slab, as the daemon told of it. */
struct scatter_record {
	const uint8_t *bytes;
	uint64_t record_bytes;
	uint64_t checksum; /* kvci_record_checksum; of one that is not whole kvci_record_checksum_leading of `sections` */
	uint32_t sections; /* leading ones that are there, with their entries of the table */
	bool whole;
};
/* Checks the record's head, then copies its sections [first, end) to the pages and checks each. */
kvc_status_t scatter_block(const struct kvc_space *space, const uint32_t *engine_blocks, const struct scatter_record *record,
                           uint32_t first, uint32_t end, const _Atomic bool *stop, uint64_t deadline_ns);

/* ---- embedded.c ---- */

kvc_status_t embedded_start(const char *target, struct embedded **ret_embedded, int *ret_fd);
void embedded_stop(struct embedded *embedded);

#endif
