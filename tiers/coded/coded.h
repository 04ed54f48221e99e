/* SPDX-License-Identifier: Apache-2.0
 *
 * The coded tier: a filter that packs records on their way to the tier below and unpacks them on their way back. Above it all records
 * are raw images of their forms; below it lies what a codec made of them, or the raw record where that is no shorter or not wanted.
 *
 * A record that stays raw passes with its own buffer: no copy, no memory. One that is coded rides in one of a bounded number of I/O
 * buffers; what finds none waits, in bounded queues, reads before writes. Codecs run on threads of the tier's own.
 *
 * Threads: the owner, as every tier. The callbacks of kvci_coded_env run there, too.
 */
#ifndef KVCI_TIER_CODED_H
#define KVCI_TIER_CODED_H

#include <kvcask/form.h>
#include <kvcask/plugin/codec.h>
#include <kvcask/plugin/tier.h>

/* What is done without a wish of the space's. */
enum kvci_coded_mode {
	KVCI_CODED_AUTO, /* split+profile, else split, unless that would make a load slower than 1.1 of raw on this device and machine */
	KVCI_CODED_RAW,
	KVCI_CODED_SPLIT,
	KVCI_CODED_ZSTD,
	KVCI_CODED_LZ4,
};
const char *kvci_coded_mode_name(enum kvci_coded_mode mode);

enum { KVCI_CODED_OPTIONS_MAX = 16 };

struct kvci_coded_option {
	const struct kvc_codec_ops *codec;
	struct kvc_codec_params params;
};

/* What the owner knows of a record. */
struct kvci_coded_target {
	struct kvc_form form; /* struct_bytes 0: not known. It is stored raw then, and if coded it cannot be read: MISS */
	/* WRITE: the codec that the space (or recode) asks for; NULL: as the mode says. */
	const struct kvc_codec_ops *codec;
	struct kvc_codec_params params;
	const struct kvc_profile *profile; /* what the codec needs; stays until close */
	uint64_t profile_id;
	/* WRITE: what the space allows besides, best packing first: of these the first, with auto the first that makes no load
	 * slower than 1.1 of raw. Codec is NULL then. */
	struct kvci_coded_option options[KVCI_CODED_OPTIONS_MAX];
	uint32_t option_count;
	/* WRITE: what auto may use for split+profile; NULL: none. */
	const struct kvc_profile *tables;
	uint64_t tables_id;
	const uint8_t *scores; /* WRITE: retention scores, [tokens][kv_heads] of the form, copied at once; NULL: none */
	bool hurry; /* WRITE: the queue above is long: no time for codecs */
};

struct kvci_coded_env {
	void *context;
	/* May be NULL: no form is known. */
	void (*describe)(void *context, const struct kvc_tier_entry *entry, bool write, struct kvci_coded_target *ret_target);
	/* The profile that a record names; NULL: it is not here (the read is a MISS). */
	const struct kvc_profile *(*profile)(void *context, uint64_t profile_id);
	/* Whether this codec may be chosen has changed; text: why, one line. */
	void (*chosen)(void *context, const char *codec, bool used, const char *text);
	enum kvci_coded_mode mode;
	unsigned thread_count;  /* 0: as many as there are cores, at most 8 */
	bool register_always;   /* tell the tier below of registered memory also while records are packed and it never gets to see that memory */
	uint64_t buffer_bytes;  /* limit of the I/O buffers together, but one is always given; 0: 256 MiB */
};

/* Puts the tier over `below`, which belongs to it from then on (also close). On error `below` stays the caller's. */
kvc_status_t kvci_coded_wrap(struct kvc_tier *below, const struct kvci_coded_env *env, struct kvc_tier **ret_tier);

/* What is known of a codec. relative: the time of a load of its records in that of raw ones. 0: not known. */
struct kvci_coded_codec {
	const char *name;
	uint64_t encode_bytes_per_s, decode_bytes_per_s;
	double stored_share, relative;
	bool judged;  /* whether it is used is decided by that; others are used where they were asked for by name */
	bool refused; /* for now */
};

/* Since the start. Speeds are of one thread, in raw bytes a second, and recent; 0: not known yet. */
struct kvci_coded_figures {
	uint64_t coded_writes, coded_write_raw_bytes, coded_write_bytes; /* what was packed, before and after */
	uint64_t raw_writes, hurried_writes;                             /* hurried: among the raw ones */
	uint64_t lossy_writes;
	uint64_t coded_reads, coded_read_raw_bytes, coded_read_bytes, raw_reads;
	uint64_t profile_missing;                                        /* reads that missed for want of a profile */
	uint64_t encode_ns, decode_ns;                                   /* of all threads */
	uint64_t waiting, buffer_bytes;                                  /* at present */
	uint64_t encode_bytes_per_s, decode_bytes_per_s; /* of split */
	uint64_t device_bytes_per_s;
	bool device_measured;   /* device_bytes_per_s is of reads; else of writes, or a guess */
	struct kvci_coded_codec codecs[KVCI_CODED_OPTIONS_MAX];
	uint32_t codec_count;
	uint32_t thread_count;
	enum kvci_coded_mode mode;
	const char *choice;          /* the codec for lossless records at present */
	const char *choice_profiled; /* the same where there is a profile for them; "": none was yet */
	char why[512];
};
void kvci_coded_figures(const struct kvc_tier *tier, struct kvci_coded_figures *ret_figures);

extern const struct kvc_tier_ops kvc_tier_coded_ops;

#endif
