/* SPDX-License-Identifier: Apache-2.0
 *
 * The codecs as a shared library for tests in Python (codecs.py): a whole array [layers][tokens][heads][dims] through encode and decode in
 * blocks and units as the store cuts them. Plain C types only; statuses are kvc_status_t as int. For tests: nothing of it is installed.
 */
#ifndef KVC_TEST_CODEC_SHARED_H
#define KVC_TEST_CODEC_SHARED_H

#include <stdint.h>

#define KVCQ_EXPORT __attribute__((visibility("default")))

/* K and V of a run of tokens; what is coded is one of them. */
struct kvcq_array {
	const void *values;      /* of the part that is_k says, in the form's element type */
	void *back;              /* as much: what the decoder made of it; may be values */
	uint32_t layers, tokens, heads;
	uint32_t dims_k, dims_v;
	uint32_t dtype;          /* enum kvc_dtype */
	uint32_t arrangement;    /* KVC_KV_SPLIT, or KVC_KV_LATENT: heads is 1, dims_k the row, is_k */
	uint32_t block_tokens;   /* tokens behind the last whole block are copied */
	uint32_t page_tokens;    /* divides block_tokens */
	uint32_t is_k;
	uint64_t position_tokens; /* of the first token */
	const void *profile;     /* what kvcq_profile_open gave; NULL: none */
	const uint8_t *scores;   /* retention scores [tokens][heads]; NULL: none */
};

struct kvcq_result {
	uint64_t raw_bytes, stored_bytes; /* of the whole blocks */
	uint64_t units, raw_units;        /* units in all; those that did not shrink */
	uint32_t span;                    /* layers in a unit, at most */
	uint32_t failed_layer, failed_token; /* where a status that is no OK came from */
	uint64_t encode_ns, decode_ns;    /* of this thread */
};

/* Name, and whether it loses and needs a profile, of the codec at an index of the table; -1 behind the last. */
KVCQ_EXPORT int kvcq_codec_at(uint32_t index, const char **ret_name, uint32_t *ret_lossless, uint32_t *ret_needs_profile);
/* OK, or why this build cannot code so; *ret_wrong is the word that is wrong, else NULL. */
KVCQ_EXPORT int kvcq_spec_check(const char *spec, uint32_t *ret_lossless, uint32_t *ret_needs_profile, const char **ret_wrong);
KVCQ_EXPORT int kvcq_round_trip(const char *spec, const struct kvcq_array *array, struct kvcq_result *ret_result);
/* A profile file, for kvcq_array.profile; kept until the process ends. NULL: it cannot be read, or is none. */
KVCQ_EXPORT const void *kvcq_profile_open(const char *path);
KVCQ_EXPORT const char *kvcq_status_name(int status);

#endif
