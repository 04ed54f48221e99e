/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk tier's own state, for its own files. Who touches what:
 *
 *   owner thread   everything here that is not marked otherwise; it takes no locks but the short ones of queue and mailbox
 *   keeper thread  the index and the segments' header pages, in the order in which the owner asked (keeper.c)
 *   loader thread  start-up only: reads segments and index, hands over in messages (load.c)
 *   I/O and check threads: the operation they were given, nothing else (read.c, request.c)
 */
#ifndef KVCI_DISK_INTERNAL_H
#define KVCI_DISK_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

#include "base/workers.h"
#include "tiers/disk/db.h"
#include "tiers/disk/disk_io.h"
#include "tiers/disk/folder.h"
#include "tiers/disk/format.h"

struct kvci_disk_tier;

/* ---- segments (place.c) ---- */

enum kvci_disk_use {
	KVCI_DISK_ABSENT = 0, /* no file */
	KVCI_DISK_SPARE,      /* holds nothing; its header says FREE */
	KVCI_DISK_PREPARING,  /* the keeper makes it ready */
	KVCI_DISK_READY,      /* the next head */
	KVCI_DISK_HEAD,       /* is being written */
	KVCI_DISK_FULL,       /* readable */
	KVCI_DISK_RECLAIMING, /* readable; its entries are being asked about */
	KVCI_DISK_FOREIGN,    /* not ours: left alone */
};

struct kvci_disk_segment {
	int fd;               /* -1: no file */
	uint32_t use;         /* enum kvci_disk_use */
	uint32_t generation;  /* of the places in it; 0: it has none */
	uint32_t length_4k;
	uint32_t next_4k;     /* behind the last place that was given out */
	uint32_t in_flight;   /* writes */
	uint32_t records;     /* live, as far as the index knows */
	bool dirty;           /* written since the last flush */
	bool close_owed;      /* full, and its header does not say so yet */
	uint64_t header_writes;
	/* From open to the end of loading: */
	uint32_t scan_from_4k, scan_to_4k; /* pages that the index does not cover */
	bool scan_verify;                  /* few of them: read the records whole, a kill may have torn the last */
};

/* ---- the keeper (keeper.c) ---- */

enum kvci_keeper_kind {
	KVCI_KEEPER_PUT,     /* entry into the index; indexed_4k with it */
	KVCI_KEEPER_DROP,    /* tombstone into the record at entry.place, entry out of the index */
	KVCI_KEEPER_HEADER,  /* header page of a segment as given; of a FREE one the entries are forgotten first */
	KVCI_KEEPER_PREPARE, /* file made (fd -1) or made whole, header OPEN */
	KVCI_KEEPER_COLLECT, /* up to `room` entries of a segment from from_4k on */
	KVCI_KEEPER_FLUSH,   /* fdatasync of fds, then the index's log */
};

/* An order. With job.done it comes back to the owner when it is carried out, else it is freed. */
struct kvci_keeper_op {
	struct kvci_job job; /* first */
	struct kvci_keeper_op *next;
	uint32_t kind;
	uint32_t segment, generation, indexed_4k, from_4k;
	int fd;
	struct kvci_disk_header header;
	struct kvc_tier_entry entry;
	struct kvc_tier_entry *entries; /* COLLECT */
	uint32_t room, count;
	bool more;
	int *fds;                       /* FLUSH; kvci_free with the op */
	uint32_t *fd_segments;          /* FLUSH: whose they are, in the same memory */
	uint32_t fd_count;
	kvc_status_t status;            /* out */
	struct kvci_disk_tier *tier;
	struct kvc_tier_request *request;
};

enum { KVCI_KEEPER_BACKLOG_MAX = 4096 };

struct kvci_keeper {
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct kvci_keeper_op *first, **end; /* under lock */
	bool stopping, urgent, gathering;    /* under lock; urgent: something other than a put waits */
	uint32_t waiting;                    /* under lock: orders */
	_Atomic uint32_t backlog;
	_Atomic int32_t status;              /* of the last index write */
	struct kvci_disk_batch *batch;       /* the thread's */
	/* The thread's: what the batch still has to say of the segment of its puts. Generation 0: nothing. */
	uint32_t put_segment, put_generation, put_indexed_4k;
	void *page;                          /* the thread's: a record's head */
};

kvc_status_t kvci_keeper_start(struct kvci_disk_tier *tier);
/* Carries out what was ordered, then ends the thread. */
void kvci_keeper_stop(struct kvci_disk_tier *tier);
struct kvci_keeper_op *kvci_keeper_op_create(struct kvci_disk_tier *tier, enum kvci_keeper_kind kind); /* NULL: no memory */
void kvci_keeper_op_destroy(struct kvci_keeper_op *op);
void kvci_keeper_order(struct kvci_disk_tier *tier, struct kvci_keeper_op *op);

/* ---- operations (request.c; reads: read.c) ---- */

/* How much of a record is read by itself (its last piece: up to twice as much). Large enough that what a transfer costs does not matter, short enough that
 * checking it is soon done. Virtual disks commonly take 254 pages a request: a multiple of that leaves no crumbs. */
enum { KVCI_DISK_PIECE_BYTES = 2 * 254 * 4096 };

struct kvci_disk_piece {
	struct kvci_disk_task task; /* first */
	struct kvci_disk_op *op;
	_Atomic bool arrived;       /* all of it, or it never will */
};

struct kvci_disk_op {
	struct kvci_job job; /* first */
	struct kvci_disk_task task; /* WRITE */
	struct kvci_disk_piece *pieces; /* READ */
	uint32_t piece_room, piece_count;
	_Atomic uint32_t arrivals;  /* READ: pieces that have arrived, and whether somebody checks them */
	_Atomic uint32_t error;     /* READ: errno of the first piece that failed */
	uint32_t pieces_seen, sections_seen; /* READ, the checker's: all before these are there; are checked */
	struct kvci_disk_tier *tier;
	struct kvc_tier_request *request;
	struct kvci_keeper_op *put; /* WRITE: ready to go when it succeeds */
	struct kvc_place place;     /* WRITE */
	uint8_t *head;              /* WRITE: header and table as written */
	uint32_t head_pages;        /* that `head` has room for */
	bool internal;              /* the tier's own: not in the figures of its users */
	kvc_status_t status;
	struct kvci_disk_op *next;
};

/* Reads, or writes, that have ended and that the owner is not told of yet (request.c). */
struct kvci_disk_ended {
	pthread_mutex_t lock;
	struct kvci_job *first, **end; /* under lock */
	uint32_t count, active;        /* under lock; active: those that have not ended */
	uint64_t bytes;                /* under lock: read and held back */
};

kvc_status_t kvci_disk_ops_create(struct kvci_disk_tier *tier);
void kvci_disk_ops_destroy(struct kvci_disk_tier *tier);
/* NULL: all are in use, or the tier is closing. */
struct kvci_disk_op *kvci_disk_op_get(struct kvci_disk_tier *tier, struct kvc_tier_request *request, bool internal);
void kvci_disk_op_put(struct kvci_disk_op *op);
/* Owner: a transfer begins. Any thread: it has ended; read_bytes: 0 of a write. */
void kvci_disk_op_begun(struct kvci_disk_ended *ended);
void kvci_disk_op_ended(struct kvci_disk_tier *tier, struct kvci_disk_ended *ended, struct kvci_job *job, uint64_t read_bytes);
kvc_status_t kvci_disk_read(struct kvci_disk_tier *tier, struct kvc_tier_request *request, bool internal);
kvc_status_t kvci_disk_write(struct kvci_disk_tier *tier, struct kvc_tier_request *request, uint32_t length_4k, bool internal);
kvc_status_t kvci_disk_flush(struct kvci_disk_tier *tier, struct kvc_tier_request *request);
kvc_status_t kvci_disk_drop(struct kvci_disk_tier *tier, const struct kvc_tier_entry *entry);
/* Tells the owner when the device's state changes. */
void kvci_disk_health(struct kvci_disk_tier *tier, bool write, kvc_status_t status, const char *what);

/* ---- reclaim (reclaim.c) ---- */

enum { KVCI_RECLAIM_BATCH = 256, KVCI_RECLAIM_MOVERS = 4, KVCI_RECLAIM_SHARE_PERCENT = 25, KVCI_DISK_FREE_SEGMENTS = 2 };

struct kvci_disk_mover {
	struct kvc_tier_request request;
	struct kvci_disk_tier *tier;
	struct kvc_place from;
	void *buffer;
	uint64_t buffer_bytes;
	bool active, unwanted; /* unwanted: dropped while it moved */
};

struct kvci_disk_reclaim {
	bool active, collecting, last_batch, full; /* full: moves no more */
	uint32_t segment;
	uint32_t count, at;    /* of entries */
	uint32_t next_from_4k;
	uint32_t moved_4k, limit_4k;
	uint32_t movers_active;
	struct kvci_disk_mover movers[KVCI_RECLAIM_MOVERS];
	struct kvc_tier_entry *entries; /* KVCI_RECLAIM_BATCH, while active */
};

/* Starts one when it is needed and possible; called whenever something changed. */
void kvci_reclaim_kick(struct kvci_disk_tier *tier);
void kvci_reclaim_dropped(struct kvci_disk_tier *tier, const struct kvc_place *place);
void kvci_reclaim_fini(struct kvci_disk_tier *tier);

/* ---- start-up (load.c) ---- */

enum { KVCI_LOAD_BATCH = 256, KVCI_LOAD_BATCHES = 4 };

struct kvci_load_batch {
	struct kvci_job job; /* first */
	struct kvci_disk_tier *tier;
	uint32_t count;
	struct kvc_tier_entry entries[KVCI_LOAD_BATCH];
};

struct kvci_loader;
kvc_status_t kvci_loader_start(struct kvci_disk_tier *tier);
/* Ends the thread, early if it still runs. Its messages may still wait in the mailbox: free comes after they are out. */
void kvci_loader_stop(struct kvci_disk_tier *tier);
void kvci_loader_free(struct kvci_disk_tier *tier);

/* ---- the tier (disk.c) ---- */

struct kvci_disk_tier {
	struct kvc_tier tier; /* first */
	struct kvci_disk_options options;
	struct kvci_disk_folder folder;
	uint8_t uuid[KVCI_DISK_UUID_BYTES];
	char *db_path;
	pthread_mutex_t db_lock;        /* the loader may put a new index in the place of a broken one */
	struct kvci_disk_db *db;        /* under db_lock, once threads run */
	bool db_partial;                /* under db_lock: some entries are not in it; do not say how far segments are indexed */
	struct kvci_disk_io *io;
	struct kvci_workers *check;     /* NULL: I/O threads check */
	struct kvci_mailbox *mailbox;
	struct kvc_tier_events events;
	bool attached, loading, closing;

	struct kvci_disk_segment *segments;
	uint32_t segment_count;         /* of the array; a segment's number is its index */
	uint64_t files_bytes;           /* of the segment files that exist */
	uint32_t generation_last;
	int32_t head, ready;            /* -1: none */
	bool preparing;
	kvc_status_t prepare_status;    /* of the last try to make a segment ready */
	uint64_t prepare_retry_ns;
	uint64_t make_retry_ns;         /* the disk is full: until then no file is made */

	struct kvci_disk_op *ops, *idle; /* all; those that are free */
	uint32_t op_count, op_idle;
	uint64_t op_bytes;              /* under way */
	struct kvci_disk_ended ended[2]; /* reads, writes */
	struct kvci_keeper keeper;
	struct kvci_disk_reclaim reclaim;
	struct kvci_loader *loader;
	struct kvc_tier_stats stats;
	kvc_status_t health[2];         /* of reads, of writes */
};

static inline struct kvci_disk_tier *kvci_disk_of(struct kvc_tier *tier)
{
	return (struct kvci_disk_tier *)tier;
}

/* ---- segments (segments.c, place.c) ---- */

/* Reads what is in the folder, opens the index, and decides for each segment what of it is to be believed. */
kvc_status_t kvci_disk_segments_load(struct kvci_disk_tier *tier, char **ret_error);
void kvci_disk_segments_close(struct kvci_disk_tier *tier);
/* A place for a record in the head segment. BUSY: none just now; DISK_FULL, IO: none, and why. */
kvc_status_t kvci_disk_place_take(struct kvci_disk_tier *tier, uint32_t length_4k, struct kvc_place *ret_place);
/* The segment of a place that is not stale, or NULL. */
struct kvci_disk_segment *kvci_disk_place_segment(struct kvci_disk_tier *tier, const struct kvc_place *place);
/* A write in this segment ended. */
void kvci_disk_place_written(struct kvci_disk_tier *tier, uint32_t segment);
/* Up to where all of the segment's writes have ended. */
uint32_t kvci_disk_place_settled(const struct kvci_disk_tier *tier, uint32_t segment);
/* Orders the next head, when there is none. */
void kvci_disk_prepare_kick(struct kvci_disk_tier *tier);
/* What the disk keeps free beside the segments, for the index. */
uint64_t kvci_disk_reserve_bytes(const struct kvci_disk_tier *tier);
/* Segments that could become head, the ready one included. */
uint32_t kvci_disk_free_segments(const struct kvci_disk_tier *tier);
/* The header page for the segment's state as the owner sees it; counts it as written. */
void kvci_disk_segment_header(struct kvci_disk_tier *tier, uint32_t segment, enum kvci_disk_state state,
                              struct kvci_disk_header *ret_header);
/* Orders the header page of a segment, by an op made before (KVCI_KEEPER_HEADER). FREE: the index forgets its entries first. */
void kvci_disk_header_order(struct kvci_disk_tier *tier, struct kvci_keeper_op *op, uint32_t segment,
                            enum kvci_disk_state state);
/* The header says CLOSED, if that is owed and can be said now. */
void kvci_disk_segment_settle(struct kvci_disk_tier *tier, uint32_t segment);

#endif
