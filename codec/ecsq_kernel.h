/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq and ecsq+pca, for codec/ecsq*.c and what makes their matrices. One body (ecsq_body.h) is compiled for each kind of CPU:
 * IEEE operations in a fixed order, without contraction, and whole numbers that wrap: every kernel gives the same bits.
 */
#ifndef KVCI_ECSQ_KERNEL_H
#define KVCI_ECSQ_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ECSQ_PANEL = 64,       /* outputs that a matrix keeps together */
	ECSQ_SYMBOL_ZERO = 128, /* the symbol of 0; symbol 0 is the escape */
	ECSQ_CODE_MAX = 1 << 20, /* codes beyond are cut to it */
	ECSQ_TOKENS_STEP = 4, /* multiply takes tokens by so many */
};

struct ecsq_kernel {
	const char *name; /* as of the rANS kernel that goes with it */
	/* value = mean + code * scale, for `rows` rows of `count`. */
	void (*dequantise)(const uint8_t *symbols, size_t symbol_stride, const float *mean, const float *scale, uint32_t count, uint32_t rows,
	                   float *values, size_t stride);
	/* code = (value - mean) * inverse, rounded to the nearest; its symbol, or the escape where it is beyond the limit (at most 127). */
	void (*quantise)(const float *values, size_t stride, const float *mean, const float *inverse, const uint8_t *limit, uint32_t count,
	                 uint32_t rows, uint8_t *symbols, size_t symbol_stride);
	/* Symbols to codes, `out_stride` apart; escapes are any. */
	void (*codes)(const uint8_t *symbols, size_t symbol_stride, uint32_t count, uint32_t rows, int16_t *out, size_t out_stride);
	/* (value - mean) * inverse, rounded to the nearest, as 16 bits; false: one is beyond them. */
	bool (*whole)(const float *values, size_t stride, const float *mean, const float *inverse, uint32_t count, uint32_t rows, int16_t *out,
	              size_t out_stride);
	/* Sums of squares: of floats in a fixed order; exact; of 32-bit numbers in a fixed order. */
	float (*square)(const float *row, uint32_t count);
	uint64_t (*length)(const int16_t *whole, uint32_t count);
	double (*length_wide)(const int32_t *sums, uint32_t count);
	/* value = mean + sum * scale. */
	void (*restore)(const int32_t *sums, size_t sum_stride, const float *mean, const float *scale, uint32_t count, uint32_t rows,
	                float *values, size_t stride);
	/* out[token][output] = sum of in[token][row] * matrix[row][output], wrapping; tokens: a multiple of ECSQ_TOKENS_STEP; in_stride: at least
	 * 2 * pairs, even; out_stride: the outputs filled up to a multiple of ECSQ_PANEL. `pairs` may be less than the matrix has, which has `rows`. */
	void (*multiply)(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, uint32_t rows,
	                 uint32_t outputs, int32_t *out, size_t out_stride);
};

extern const struct ecsq_kernel kvci_ecsq_kernel_scalar;
#if defined(__x86_64__)
extern const struct ecsq_kernel kvci_ecsq_kernel_avx2;
extern const struct ecsq_kernel kvci_ecsq_kernel_avx512;
extern const struct ecsq_kernel kvci_ecsq_kernel_vnni; /* avx512, with its product of 16-bit pairs */
#endif

/* The one that goes with kvci_rans_kernel(). */
const struct ecsq_kernel *kvci_ecsq_kernel(void);

/* The code of one value, as quantise has it. */
static inline int32_t kvci_ecsq_code(float value, float mean, float inverse)
{
	const float magic = 12582912.0f; /* 1.5 * 2^23: the sum's last bit is 1 */
	float code = (value - mean) * inverse;

	code = code < ECSQ_CODE_MAX ? code : ECSQ_CODE_MAX;
	code = code > -ECSQ_CODE_MAX ? code : -ECSQ_CODE_MAX;
	code = (code + magic) - magic;
	return (int32_t)code;
}

/* A matrix of rows and outputs as multiply reads it: a panel of outputs after another, in it two rows after another, in them each output's two
 * elements together. What fills rows and outputs up is 0. */
static inline size_t kvci_ecsq_matrix_bytes(uint32_t rows, uint32_t outputs)
{
	return ((size_t)rows + 1) / 2 * 2 * (((size_t)outputs + ECSQ_PANEL - 1) / ECSQ_PANEL * ECSQ_PANEL) * sizeof(int16_t);
}

static inline size_t kvci_ecsq_matrix_at(uint32_t rows, uint32_t row, uint32_t output)
{
	size_t panel_elements = ((size_t)rows + 1) / 2 * 2 * ECSQ_PANEL;

	return output / ECSQ_PANEL * panel_elements + row / 2 * (size_t)(2 * ECSQ_PANEL) + output % ECSQ_PANEL * (size_t)2 + row % 2;
}

#endif
