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

/* Rows of `dims` elements, row_bytes apart. */
struct quant_rows {
	uint32_t dtype, count, dims;
	size_t row_bytes;
};

enum { QUANT_DIMS_MAX = 8192 };

/* A float's bits as an integer in the order of the floats, and back. Those from QUANT_INFINITE on, and up to -QUANT_INFINITE - 1, are not finite. */
enum { QUANT_INFINITE = 0x7f800000 };
static inline int32_t quant_ordered(uint32_t bits)
{
	int32_t sign = (int32_t)bits >> 31;

	return (int32_t)(bits ^ ((uint32_t)sign & 0x7fffffffu));
}

struct quant_kernel {
	const char *name; /* as of the rANS kernel that goes with it */
	/* `count` rows of `dims` elements, row_bytes apart, to floats, `stride` apart; false: not all are finite. And back (codec/layout.h). */
	bool (*load)(uint32_t dtype, const uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, float *floats, size_t stride);
	void (*store)(uint32_t dtype, uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, const float *floats, size_t stride);

	/* Codes, `rows` rows of `dims` (codec/codes.c): adds up those bits of each channel's codes (`fold`: of how far they are
	 * from 128, or from 127 below that) that `mask` names; takes a byte a channel off or puts
	 * it on (modulo 256); eights of codes to and from `bits` bytes each. */
	void (*sums)(const uint8_t *codes, uint32_t rows, uint32_t dims, uint8_t mask, bool fold, uint32_t *sums);
	void (*take_off)(uint8_t *codes, uint32_t rows, uint32_t dims, const uint8_t *offsets);
	void (*put_on)(uint8_t *codes, uint32_t rows, uint32_t dims, const uint8_t *offsets);
	void (*pack)(uint32_t bits, const uint8_t *codes, size_t eights, uint8_t *packed);
	void (*unpack)(uint32_t bits, const uint8_t *packed, size_t eights, uint8_t *codes);

	/* Quantisers, on rows as above; codes lie without gaps. False: a value is not finite, or beyond what the scales can say.
	 *
	 * A row: code = 128 + value / scale, from 1 to 255; scales are bf16, rounded up. */
	bool (*row_encode)(const struct quant_rows *rows, const uint8_t *raw, uint8_t *scales, uint8_t *codes);
	void (*row_decode)(const struct quant_rows *rows, uint8_t *raw, const uint8_t *scales, const uint8_t *codes);
	/* `group` elements of a row: code = (value - lowest) / scale, from 0 to levels; `meta` has for each row all groups' lowest, then scales, in f16. */
	bool (*group_encode)(const struct quant_rows *rows, const uint8_t *raw, uint32_t group, uint32_t levels, uint8_t *meta, uint8_t *codes);
	void (*group_decode)(const struct quant_rows *rows, uint8_t *raw, uint32_t group, const uint8_t *meta, const uint8_t *codes);
	/* A channel over several rows: the range, widened by these rows, as integers that are in the order of the floats; then as above. `meta` has
	 * lowest, then scales of all channels. */
	void (*range)(const struct quant_rows *rows, const uint8_t *raw, int32_t *lowest, int32_t *highest);
	bool (*channel_meta)(uint32_t dims, const int32_t *lowest, const int32_t *highest, uint32_t levels, uint8_t *meta);
	void (*channel_encode)(const struct quant_rows *rows, const uint8_t *raw, uint32_t levels, const uint8_t *meta, uint8_t *codes);
	void (*channel_decode)(const struct quant_rows *rows, uint8_t *raw, const uint8_t *meta, const uint8_t *codes);
	/* Eight-bit floats, value / scale, with a scale (bf16, rounded up) for each channel or each row. */
	bool (*row_scales)(const struct quant_rows *rows, const uint8_t *raw, float most, uint8_t *scales);
	void (*f8_encode)(const struct quant_rows *rows, const uint8_t *raw, bool e5m2, bool by_row, const uint8_t *scales, uint8_t *codes);
	void (*f8_decode)(const struct quant_rows *rows, uint8_t *raw, bool e5m2, bool by_row, const uint8_t *scales, const uint8_t *codes);
};

extern const struct quant_kernel kvci_quant_kernel_scalar;
#if defined(__x86_64__)
extern const struct quant_kernel kvci_quant_kernel_avx2;
extern const struct quant_kernel kvci_quant_kernel_avx512;
#endif

/* The one that goes with kvci_rans_kernel(). */
const struct quant_kernel *kvci_quant_kernel(void);

#endif
