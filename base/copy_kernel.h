/* SPDX-License-Identifier: Apache-2.0
 *
 * What a copy kernel is, for base/copy*.c only. A kernel takes whole 64-byte stripes into the long-input loop of XXH3
 * (accumulate; scramble after 16 stripes), and copies them on the way.
 *
 * A kernel reads each source byte once: what it hashes and what it stores come from the same load, so that a source
 * which someone changes meanwhile can not prove bytes that were not delivered.
 */
#ifndef KVCI_COPY_KERNEL_H
#define KVCI_COPY_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/copy.h"

enum {
	COPY_STRIPE_BYTES = 64,
	COPY_BLOCK_STRIPES = 16, /* (192 - 64) / 8 */
	COPY_SCRAMBLE_SECRET = 128,
};

struct copy_kernel {
	const char *name;
	int (*usable)(void); /* on this CPU */
	/* At least one stripe. Also keeps the last stripe in state->last. */
	void (*hash)(struct kvci_copy_state *state, const uint8_t *src, size_t stripes);
	void (*copy)(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes);
	/* Non-temporal stores; dst is aligned to 64 bytes. */
	void (*copy_stream)(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes);
	/* Non-temporal, without any hash; dst is aligned to 64 bytes. */
	void (*bare)(uint8_t *dst, const uint8_t *src, size_t stripes);
};

extern const struct copy_kernel kvci_copy_kernel_scalar;
#if defined(__x86_64__)
extern const struct copy_kernel kvci_copy_kernel_avx2;
extern const struct copy_kernel kvci_copy_kernel_avx512;
#endif

#endif
