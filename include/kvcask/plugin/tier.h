/* SPDX-License-Identifier: Apache-2.0
 *
 * Tier: a place where records live. This header and tiers/null/ are all you need to write one.
 *
 * A tier stores whole records (base/record.h) under *places* that it chooses, and gives them back by place. It knows no keys'
 * meaning, no eviction and no clients: the brain (cache/) decides what goes where; the tier says what it lost.
 *
 * Life:    ops->open -> attach -> (submit | drop | poll)* -> ops->close.
 * Thread:  every slot is called on the owner thread only, and returns at once (well under 200 us): device work happens
 *          in the tier's own threads or in the kernel. Completions, index batches and losses are handed out inside
 *          poll(), again on the owner thread; the owner calls poll() when fd() is readable.
 * Errors:  submit() answers OK (the request will complete, once, in a later poll) or a status at once (BUSY: the
 *          bounded queue is full; the request was not taken). A request's own status comes with its completion.
 *          Nothing read from the device is trusted: a READ completes with CORRUPT when what is there is not the record
 *          asked for.
 * Slots:   none may be NULL. What a tier cannot do it fills with the kvc_tier_unsupported_* functions and says so in its caps.
 * Filters: fault and delay have this same interface and forward to the tier below them.
 * The conformance suite tests/conform/ must pass unchanged for every tier.
 */
#ifndef KVCASK_PLUGIN_TIER_H
#define KVCASK_PLUGIN_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KVC_TIER_ABI = 3 };

/* Where a record is, in the tier's own terms. 16 bytes, opaque to all but the tier, except length_4k. A place goes stale
 * safely: reading one whose space was reclaimed since is a MISS. */
struct kvc_place {
	uint32_t segment;
	uint32_t generation; /* of the segment; 0: no place */
	uint32_t offset_4k;
	uint32_t length_4k;
};

/* What names a record, and what the tier must remember of it. Fixed size, stored durably by durable tiers. */
struct kvc_tier_entry {
	uint8_t space[16];
	uint8_t hash[32];
	uint8_t parent_hash[32];
	uint64_t epoch;
	uint64_t form_id;
	uint64_t record_checksum; /* the content seal, the same however the record is packed; see base/record.h */
	uint64_t position_tokens;
	uint32_t token_count;
	uint32_t group;
	uint32_t shard_index;
	uint32_t shard_count;
	uint32_t flags;           /* KVCI_RECORD_* */
	uint32_t raw_length_4k;   /* of the record when decoded into an extent */
	struct kvc_place place;   /* set by the tier */
};

enum kvc_tier_op {
	KVC_TIER_READ = 1,  /* place -> buffer; the tier checks that header and checksums are those of `entry` */
	KVC_TIER_WRITE = 2, /* buffer -> a new place, given back in entry.place; durable after the next FLUSH */
	KVC_TIER_FLUSH = 3, /* completes when all writes that completed before are durable */
};

/* Flags of a request. */
enum {
	KVC_TIER_NO_VERIFY = 1 << 0, /* READ: do not check section checksums (the reader will) */
	KVC_TIER_CODED = 1 << 1,     /* WRITE: the buffer holds a coded record of entry.place.length_4k pages */
	KVC_TIER_STORED = 1 << 2,    /* READ: the record as it is stored; a filter that decodes leaves it alone */
};

/* A request: embedded in its owner's object, untouched by the owner until done() has run. */
struct kvc_tier_request {
	uint32_t op; /* enum kvc_tier_op */
	uint32_t flags;
	struct kvc_tier_entry entry;  /* READ: what is expected, with its place. WRITE: what is written */
	/* Aligned to caps.align_bytes. WRITE: kvc_tier_request_pages() long. READ: entry.place.length_4k pages, but raw_length_4k, if that is
	 * more and not KVC_TIER_STORED: a coded record comes out as the raw one, and of a lossy one entry.record_checksum is then what came out. */
	void *buffer;
	uint64_t deadline_ns;         /* monotonic; 0: none. A late READ still completes: the buffer is the device's until then */
	void (*done)(struct kvc_tier_request *request, kvc_status_t status); /* owner thread, inside poll() */
	void *context;                /* the submitter's */
	/* READ, NULL: not wanted. The buffer has the first `sections` sections of a record whose form lays them out, checked against what is stored, with their
	 * entries of the section table, and the header's first 184 bytes: they may be read from now on, and are not written again. The rest comes by done().
	 * Owner thread, inside poll(), before done(); greater from call to call. It promises nothing of done(). A tier need not call it; it does not while
	 * *progress_wanted (the submitter's, valid until done(), set by __atomic_store_n) is 0. */
	void (*progress)(struct kvc_tier_request *request, uint32_t sections);
	const uint32_t *progress_wanted;
	void *tier_private[8];        /* the tier's, while it has the request; a filter uses the last two */
};

/* Pages that a WRITE takes from the buffer, or that a READ takes from the device. */
static inline uint32_t kvc_tier_request_pages(const struct kvc_tier_request *request)
{
	return request->op == KVC_TIER_WRITE && (request->flags & KVC_TIER_CODED) == 0 ? request->entry.raw_length_4k
	                                                                              : request->entry.place.length_4k;
}

/* Asked once after open. */
struct kvc_tier_caps {
	uint32_t align_bytes;       /* of buffers and lengths: 4096 */
	uint32_t best_queue_depth;
	uint64_t best_io_bytes;
	uint64_t capacity_bytes;    /* hard limit by construction */
	bool durable;               /* survives a restart; load_index delivers what is there */
	bool drops_places;          /* drop() frees; else only reclaim does */
};

/* What the tier tells its owner; called on the owner thread, inside poll() or attach(). */
struct kvc_tier_events {
	void *context;
	/* A batch of what the tier holds, found at start. `more` false: the index is complete; that call comes once, also from
	 * tiers that hold nothing, and may carry no entries. One key may come with several places (it was stored or moved again):
	 * the greatest generation, then offset_4k, is the newest. They come oldest first, but what is written meanwhile is newer. */
	void (*index)(void *context, const struct kvc_tier_entry *entries, size_t count, bool more);
	/* All records of one segment generation are about to be overwritten: after this call their places are stale. */
	void (*lost)(void *context, uint32_t segment, uint32_t generation);
	/* The tier is about to reclaim a segment: is this entry (at this very place) still worth keeping? It is asked for each, and
	 * re-appends (and reports through moved, with the new place in the entry) at most a bounded share; what was not moved goes
	 * with lost. A moved entry that is not wanted any more is to be dropped. */
	bool (*keep)(void *context, const struct kvc_tier_entry *entry);
	void (*moved)(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place);
	/* The device works again / no longer: for readiness and the circuits. text: one line for people. DISK_FULL, DENIED (read-only): it
	 * takes no writes, and reads go on; any other status: it is left alone for both. */
	void (*health)(void *context, kvc_status_t status, const char *text);
};

/* Figures a tier keeps; plain counters since open. */
struct kvc_tier_stats {
	uint64_t reads, read_bytes, read_errors, read_corrupt;
	uint64_t writes, write_bytes, write_errors, write_dropped;
	uint64_t used_bytes, records, queue_bytes, reclaimed_segments, reappended_bytes, flushes;
};

/* A tier's configuration as text pairs, already checked against the config table by the daemon. */
struct kvc_tier_option {
	const char *key;
	const char *value;
};

struct kvc_tier; /* each tier's struct begins with this */

struct kvc_tier_ops {
	uint32_t struct_bytes; /* sizeof(struct kvc_tier_ops) */
	uint32_t abi_version;  /* KVC_TIER_ABI */
	const char *name;
	/* NULL-terminated options (key NULL ends). On error *ret_error (kvci_free) is a line for people. */
	kvc_status_t (*open)(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error);
	void (*caps)(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps);
	/* Starts delivering: index batches come by poll(). Once. */
	kvc_status_t (*attach)(struct kvc_tier *tier, const struct kvc_tier_events *events);
	int (*fd)(struct kvc_tier *tier);
	/* Delivers at most max_completions; the fd stays readable when more waits. */
	void (*poll)(struct kvc_tier *tier, unsigned max_completions);
	kvc_status_t (*submit)(struct kvc_tier *tier, struct kvc_tier_request *request);
	/* Forgets a record (durably, in the background). */
	kvc_status_t (*drop)(struct kvc_tier *tier, const struct kvc_tier_entry *entry);
	/* Memory that requests will use; lets the tier register it with the device. unregister waits for nothing: the owner
	 * has no request under way in it. */
	kvc_status_t (*register_memory)(struct kvc_tier *tier, void *base, size_t length_bytes);
	void (*unregister_memory)(struct kvc_tier *tier, void *base, size_t length_bytes);
	void (*stats)(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats);
	/* Completes or fails what is under way, flushes, frees. Outstanding requests get CANCELED. May take long. */
	void (*close)(struct kvc_tier *tier);
};

#define KVC_TIER_MAGIC UINT32_C(0x5254564b) /* "KVTR" */

/* open() fills both; close() wipes magic. */
struct kvc_tier {
	const struct kvc_tier_ops *ops;
	uint32_t magic;
};

kvc_status_t kvc_tier_unsupported_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry);
kvc_status_t kvc_tier_unsupported_register(struct kvc_tier *tier, void *base, size_t length_bytes);
void kvc_tier_unsupported_unregister(struct kvc_tier *tier, void *base, size_t length_bytes);

/* For the owner of a tier: the only way to call a slot. They check magic, bounds and alignment once, so that no tier has to:
 * INVALID for what is the caller's bug (the tier never sees it). Same thread rule as the slots. */
kvc_status_t kvci_tier_open(const struct kvc_tier_ops *ops, const struct kvc_tier_option *options,
                            struct kvc_tier **ret_tier, char **ret_error);
void kvci_tier_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps);
kvc_status_t kvci_tier_attach(struct kvc_tier *tier, const struct kvc_tier_events *events);
int kvci_tier_fd(struct kvc_tier *tier);
void kvci_tier_poll(struct kvc_tier *tier, unsigned max_completions);
kvc_status_t kvci_tier_submit(struct kvc_tier *tier, struct kvc_tier_request *request);
kvc_status_t kvci_tier_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry);
kvc_status_t kvci_tier_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes);
void kvci_tier_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes);
void kvci_tier_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats);
void kvci_tier_close(struct kvc_tier *tier); /* NULL is fine */

#ifdef __cplusplus
}
#endif

#endif
