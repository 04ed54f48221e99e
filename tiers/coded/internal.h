/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the coded tier share.
 *
 *   coded.c   the table: submit, poll, close; jobs     nodes.c  nodes, queues, buffers
 *   pack.c    records to coded ones and back           choose.c what auto chooses, and why
 *   try.c     codecs tried, so that their speeds are known
 *   pick.c    the codec of a record
 *   regions.c memory that the tier below is told of, or not
 */
#ifndef KVCI_CODED_INTERNAL_H
#define KVCI_CODED_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/record.h"
#include "base/workers.h"
#include "tiers/coded/coded.h"
#include "tiers/coded/pack.h"

enum {
	CODED_THREADS_MAX = 8,
	CODED_BUFFERS_MAX = 32, /* I/O buffers in use at a time */
	CODED_WAIT_MAX = 256,   /* requests that wait for a buffer, or for a thread to encode them */
	CODED_KEEP_BYTES = 16 << 20, /* larger buffers are not kept for the next one */
};

/* ---- choose.c ---- */

enum { CODED_CODECS = 16 }; /* numbers that are judged; codecs beyond are not */

/* What was measured of a codec. Raw bytes a second of one thread; 0: not known. */
struct coded_rates {
	double encode_rate, decode_rate;
	double stored_share;  /* stored over raw; 0: not known */
	bool judged;          /* it was there to be chosen: whether it is may change */
	bool refused;         /* a load would take too long by it */
	bool tried;
	uint32_t passed_over; /* records that it was not chosen for since it was tried */
};

/* What auto decides by. Owner thread. */
struct coded_choice {
	enum kvci_coded_mode mode;
	unsigned thread_count;
	double read_rate, write_rate; /* of the device, bytes a second; 0: not known */
	struct coded_rates codecs[CODED_CODECS];
	/* The device is busy with reads (and writes): since when, and what came. */
	uint32_t in_flight[2];
	uint64_t busy_since_ns[2], busy_bytes[2];
};

/* What trying a codec gave. */
struct coded_try {
	uint64_t encode_raw_bytes, stored_bytes, encode_ns;
	uint64_t decode_raw_bytes, decode_ns; /* 0: nothing came of it */
};

void coded_choice_init(struct coded_choice *choice, enum kvci_coded_mode mode, unsigned thread_count);
/* A request of the device begins and ends. */
void coded_choice_begin(struct coded_choice *choice, bool write, uint64_t now_ns);
void coded_choice_end(struct coded_choice *choice, bool write, uint64_t bytes, bool worked, uint64_t now_ns);
/* A thread coded or decoded raw_bytes in ns. */
void coded_choice_encoded(struct coded_choice *choice, uint16_t codec, uint64_t raw_bytes, uint64_t stored_bytes, uint64_t ns);
void coded_choice_decoded(struct coded_choice *choice, uint16_t codec, uint64_t raw_bytes, uint64_t ns);
void coded_choice_tried(struct coded_choice *choice, uint16_t codec, const struct coded_try *result);
/* May a record be written by it? One that is not known yet may. *ret_try (may be NULL): it should be tried with this record first, because its speed is not
 * known, or was too low for long. */
bool coded_choice_offer(struct coded_choice *choice, uint16_t codec, bool *ret_try);
/* Decides anew. What changed: a codec's number; KVC_CODEC_RAW: nothing. */
uint16_t coded_choice_decide(struct coded_choice *choice);
double coded_choice_device(const struct coded_choice *choice);
/* Time of a load of records by this codec, in that of raw ones; 0: not known. */
double coded_choice_relative(const struct coded_choice *choice, uint16_t codec);
/* Was any codec there to be chosen? */
bool coded_choice_judges(const struct coded_choice *choice);
/* The numbers behind it, one line. */
void coded_choice_why(const struct coded_choice *choice, char *text, size_t room);

/* ---- try.c ---- */

/* split, with a little that is made up, so that its speeds are known before there is work. */
void coded_try_made(struct coded_try *ret_result);
/* A codec with a record; `room` has kvci_pack_room bytes, what is in it then is of no use. */
void coded_try_record(const struct kvci_pack *pack, const void *record, void *room, struct kvci_pack_scratch *scratch,
                      struct coded_try *ret_result);

/* ---- the tier, and requests in it ---- */

struct coded_tier;

struct coded_job {
	struct kvci_job job; /* first */
	struct coded_node *node;
};

struct coded_node {
	struct kvc_tier_request request; /* what the tier below sees */
	struct kvc_tier_request *outer;
	struct coded_tier *tier;
	struct coded_node *next;
	struct kvci_job tell; /* ends the request from the mailbox, with tell_status */
	kvc_status_t tell_status;
	void *buffer; /* NULL: it passes, or waits */
	size_t buffer_bytes;
	struct kvci_pack pack;
	size_t coded_bytes;
	bool lossy;
	bool scored; /* WRITE: the buffer holds the raw record with its scores */
	struct kvci_pack try_pack; /* codec not NULL: to be tried with this record first; scores are pack's */
	struct coded_try try_result;
	uint16_t codec_id;         /* decode: of the first section that is coded */
	/* decode */
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint64_t *checksums;
	uint8_t *decoded;       /* a flag each section: its bytes are there; by __atomic builtins; in one piece with the checksums */
	uint32_t checksum_room; /* sections */
	uint64_t seal;
	uint32_t leading;       /* sections that were handed out; owner */
	struct kvci_job progress;
	atomic_bool progress_posted;
	atomic_uint section, running;
	_Atomic int status;
	_Atomic uint64_t ns; /* of its jobs */
	uint32_t jobs_left;
	struct coded_job jobs[CODED_THREADS_MAX];
};

struct coded_queue {
	struct coded_node *first, **last;
	uint32_t count;
};

struct coded_buffer {
	struct coded_buffer *next;
	size_t bytes;
};

/* Memory of the owner's. */
struct coded_region {
	void *base;
	size_t length_bytes;
	uint64_t passed_bytes; /* of raw records read into it and written out of it */
	bool told;             /* the tier below knows it */
};

struct coded_tier {
	struct kvc_tier tier; /* first */
	struct kvc_tier *below;
	void (*below_done)(struct kvc_tier_request *request, kvc_status_t status); /* of nodes */
	struct kvci_coded_env env;
	struct kvci_coded_figures figures;
	struct coded_choice choice;
	struct kvci_workers *workers;
	struct kvci_mailbox *mailbox;
	int epoll_fd, timer_fd;
	bool closing, retry_armed;
	struct coded_node *idle;
	struct coded_queue reads, writes, coded; /* reads and writes that wait; coded ones to be written */
	uint32_t encoding, decoding, buffers_used, write_buffers;
	uint32_t jobs_out; /* given to workers, not back yet */
	struct coded_buffer *buffers; /* to be used again */
	uint32_t buffers_kept;
	pthread_mutex_t scratch_lock;
	struct kvci_pack_scratch scratches[CODED_THREADS_MAX];
	bool scratch_used[CODED_THREADS_MAX];
	struct coded_region *regions;
	uint32_t region_count, region_room;
	struct kvci_job try_job;
	struct coded_try try_result;
	bool trying; /* a record's node does, too: one at a time */
};

/* ---- pick.c ---- */

/* Sets codec, params and profile of node->pack (codec NULL: raw), and try_pack if a codec should be tried. */
void coded_pick(struct coded_node *node, const struct kvci_coded_target *target);

/* ---- regions.c ---- */

kvc_status_t coded_region_add(struct coded_tier *tier, void *base, size_t length_bytes);
/* All regions that begin in it. */
void coded_region_remove(struct coded_tier *tier, void *base, size_t length_bytes);
/* A record passes raw: where that has happened often enough, the tier below is told of the region. */
void coded_region_passed(struct coded_tier *tier, const void *buffer, size_t length_bytes);

/* ---- nodes.c ---- */

void coded_queue_init(struct coded_queue *queue);
void coded_queue_put(struct coded_queue *queue, struct coded_node *node);
struct coded_node *coded_queue_take(struct coded_queue *queue);
/* A node with a copy of the request; NULL: no memory. */
struct coded_node *coded_node_get(struct coded_tier *tier, struct kvc_tier_request *outer);
/* NULL: none may be used at present, or there is no memory. *ret_bytes: how large it is. */
void *coded_buffer_get(struct coded_tier *tier, size_t bytes, size_t *ret_bytes);
/* Gives its buffer back. */
void coded_node_release(struct coded_node *node);
void coded_node_put(struct coded_node *node);
/* Inside poll or close. */
void coded_node_end(struct coded_node *node, kvc_status_t status);
/* From anywhere: it ends in the next poll. */
void coded_node_tell(struct coded_node *node, kvc_status_t status);
/* On a worker: which of tier->scratches. */
unsigned coded_scratch_take(struct coded_tier *tier);
void coded_scratch_give(struct coded_tier *tier, unsigned i);

#endif
