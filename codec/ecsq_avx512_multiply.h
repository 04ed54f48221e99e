/* SPDX-License-Identifier: Apache-2.0
 *
 * The product of whole numbers for AVX-512, for codec/ecsq_avx512.c and ecsq_vnni.c only; AVX512_DOT(sums, elements, both) adds the products
 * of 16-bit pairs.
 */
#ifndef KVCI_ECSQ_AVX512_MULTIPLY_H
#define KVCI_ECSQ_AVX512_MULTIPLY_H

#if defined(__AVX512BW__)

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define ECSQ_OWN_MULTIPLY
#include "codec/ecsq_kernel.h"

enum {
	AVX512_VECTORS = 4,
	AVX512_LANES = 16,
	AVX512_CHUNK = 64, /* pairs: with a panel's elements half of the smallest first cache */
};

static inline __attribute__((always_inline)) __m512i avx512_pair(const int16_t *in)
{
	int32_t pair;

	__builtin_memcpy(&pair, in, sizeof(pair));
	return _mm512_set1_epi32(pair);
}

/* Four tokens by a panel: adds the products of their pairs to its sums, or begins these. */
static inline void avx512_block(const int16_t *in, size_t in_stride, uint32_t pairs, const int16_t *matrix, int32_t *out, size_t out_stride,
                                bool first)
{
	__m512i sums[ECSQ_TOKENS_STEP][AVX512_VECTORS];

#pragma GCC unroll 4
	for (int t = 0; t < ECSQ_TOKENS_STEP; t++)
#pragma GCC unroll 4
		for (int v = 0; v < AVX512_VECTORS; v++)
			sums[t][v] = first ? _mm512_setzero_si512() : _mm512_loadu_si512(out + (size_t)t * out_stride + v * AVX512_LANES);
	for (uint32_t pair = 0; pair < pairs; pair++, matrix += 2 * ECSQ_PANEL) {
		__m512i elements[AVX512_VECTORS];

#pragma GCC unroll 4
		for (int v = 0; v < AVX512_VECTORS; v++)
			elements[v] = _mm512_loadu_si512(matrix + v * 2 * AVX512_LANES);
#pragma GCC unroll 4
		for (int t = 0; t < ECSQ_TOKENS_STEP; t++) {
			__m512i both = avx512_pair(in + (size_t)t * in_stride + 2 * (size_t)pair);

#pragma GCC unroll 4
			for (int v = 0; v < AVX512_VECTORS; v++)
				sums[t][v] = AVX512_DOT(sums[t][v], elements[v], both);
		}
	}
#pragma GCC unroll 4
	for (int t = 0; t < ECSQ_TOKENS_STEP; t++)
#pragma GCC unroll 4
		for (int v = 0; v < AVX512_VECTORS; v++)
			_mm512_storeu_si512(out + (size_t)t * out_stride + v * AVX512_LANES, sums[t][v]);
}

static void body_multiply(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, uint32_t rows,
                          uint32_t outputs, int32_t *out, size_t out_stride)
{
	size_t panel_elements = ((size_t)rows + 1) / 2 * 2 * ECSQ_PANEL;
	uint32_t pair = 0;

	/* A chunk of pairs after another, and of it a panel's elements for all tokens while they are near. */
	do {
		uint32_t chunk = pairs - pair < AVX512_CHUNK ? pairs - pair : AVX512_CHUNK;

		for (uint32_t at = 0; at < outputs; at += ECSQ_PANEL) {
			const int16_t *panel = matrix + at / ECSQ_PANEL * panel_elements + pair * (size_t)(2 * ECSQ_PANEL);

			for (uint32_t token = 0; token < tokens; token += ECSQ_TOKENS_STEP)
				avx512_block(in + token * in_stride + 2 * (size_t)pair, in_stride, chunk, panel, out + token * out_stride + at,
				             out_stride, pair == 0);
		}
		pair += chunk;
	} while (pair < pairs);
}

#endif
#endif
