/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops over rows that the lossy codecs share, for codec/ only. One body (quant_body.h) is compiled for each kind of CPU; as it is made of IEEE
 * operations in a fixed order, without contraction, every kernel gives the same bits.
 */
#ifndef KVCI_QUANT_H
#define KVCI_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct quant_kernel {
	const char *name; /* as of the rANS kernel that goes with it */
	/* `count` rows of `dims` elements, row_bytes apart, to floats, `stride` apart; false: not all are finite. And back (codec/layout.h). */
	bool (*load)(uint32_t dtype, const uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, float *floats, size_t stride);
	void (*store)(uint32_t dtype, uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, const float *floats, size_t stride);
};

extern const struct quant_kernel kvci_quant_kernel_scalar;
#if defined(__x86_64__)
extern const struct quant_kernel kvci_quant_kernel_avx2;
extern const struct quant_kernel kvci_quant_kernel_avx512;
#endif

/* The one that goes with kvci_rans_kernel(). */
const struct quant_kernel *kvci_quant_kernel(void);

#endif
