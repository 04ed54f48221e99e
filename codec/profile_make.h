/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a profile from KV (`kvcask calibrate`, and tests). Not for coding: it allocates, takes its time and uses the math library.
 */
#ifndef KVCI_PROFILE_MAKE_H
#define KVCI_PROFILE_MAKE_H

#include "codec/profile.h"

/* One run of tokens: K and V as [layers][tokens][heads][dims]. */
struct kvci_profile_sample {
	const void *k, *v;
	uint32_t tokens;
	uint64_t position; /* of the first token; K is rotated accordingly */
};

struct kvci_profile_order {
	const char *name;     /* at most KVCI_PROFILE_NAME_BYTES_MAX */
	const char *model;    /* identity of the model, at most KVCI_PROFILE_MODEL_BYTES_MAX; NULL or "": not said */
	struct kvc_form form; /* layer_count, kv_heads, dims, dtype (BF16, F16, F32), group and shard are looked at */
	const struct kvci_rope *rope; /* NULL: K is not rotated */
	const struct kvci_profile_sample *samples;
	uint32_t sample_count;
	uint32_t sinks;      /* positions 0 to sinks - 1 are left out */
	uint32_t pca_layers; /* of a group; 0: no bases */
	/* K, V: mean square of the loss's gradient by an element, [layer][head][dim], K before its rotation; any common unit. NULL: not known. */
	const float *weights[2];
	void (*progress)(void *context, uint64_t done, uint64_t total); /* NULL: nobody looks */
	void *context;
};

/* The bytes of a profile; kvci_free them. INVALID: no tokens, not finite, or a form that profiles cannot have. */
kvc_status_t kvci_profile_make(const struct kvci_profile_order *order, uint8_t **ret_bytes, size_t *ret_length);

/* profile_exponents_make.c: a section of exponents, counted in the samples as they are; none where the form is of no use for it. False: no memory. */
bool kvci_profile_exponents_write(const struct kvci_profile_order *order, struct kvci_profile_writer *writer);

#endif
