/* SPDX-License-Identifier: Apache-2.0
 *
 * What `kvcask bench codec` codes: K and V in bf16, [layers][tokens][heads][dims], from .npy files or made. For tools/bench/codec*.c only.
 */
#ifndef BENCH_CODEC_SAMPLE_H
#define BENCH_CODEC_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

struct kvc_profile;

struct codec_sample {
	uint32_t layers, tokens, heads, dims;
	uint16_t *values; /* kvci_free */
	uint32_t first_token; /* what is before it is not measured */
};

/* A .npy file of uint16 with four dimensions, in C order. What is wrong is said on stderr; INVALID then. */
kvc_status_t codec_sample_read(const char *path, struct codec_sample *ret_sample);
/* Values whose exponents are spread as those of real K (is_k) or V: see the file. */
kvc_status_t codec_sample_make(int is_k, struct codec_sample *ret_sample);
/* A profile from its file; what is wrong is said. kvci_profile_free it. */
kvc_status_t codec_profile_read(const char *path, struct kvc_profile **ret_profile);
/* One that codec_id can use, of the first half of K and V (0, 1), whose second half alone is measured from then on. rope_theta: K is rotated by
 * theta^(-2i/dims) a position, in halves; 0: not at all. */
kvc_status_t codec_profile_make(struct codec_sample samples[2], double rope_theta, uint16_t codec_id, struct kvc_profile **ret_profile);
/* The same as bytes of its file (kvci_free). */
kvc_status_t codec_profile_bytes(struct codec_sample samples[2], double rope_theta, uint16_t codec_id, uint8_t **ret_bytes, size_t *ret_length);
uint64_t codec_sample_bytes(const struct codec_sample *sample);
void codec_sample_fini(struct codec_sample *sample);

#endif
