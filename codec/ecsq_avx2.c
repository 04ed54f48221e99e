/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq for CPUs with AVX2: nothing here may run elsewhere (codec/ecsq_model.c).
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>

#define ECSQ_OWN_MULTIPLY
#include "codec/ecsq_kernel.h"

enum { AVX2_VECTORS = 2, AVX2_LANES = 8 };

static inline __m256i avx2_pair(const int16_t *in)
{
	int32_t pair;

	__builtin_memcpy(&pair, in, sizeof(pair));
	return _mm256_set1_epi32(pair);
}

/* Four tokens by sixteen outputs. */
static void avx2_block(const int16_t *in, size_t in_stride, uint32_t pairs, const int16_t *matrix, int32_t *out, size_t out_stride)
{
	__m256i sums[ECSQ_TOKENS_STEP][AVX2_VECTORS];

	for (int t = 0; t < ECSQ_TOKENS_STEP; t++)
		for (int v = 0; v < AVX2_VECTORS; v++)
			sums[t][v] = _mm256_setzero_si256();
	for (uint32_t pair = 0; pair < pairs; pair++, matrix += 2 * ECSQ_PANEL) {
		__m256i elements[AVX2_VECTORS];

#pragma GCC unroll 2
		for (int v = 0; v < AVX2_VECTORS; v++)
			elements[v] = _mm256_loadu_si256((const __m256i *)(const void *)(matrix + v * 2 * AVX2_LANES));
#pragma GCC unroll 4
		for (int t = 0; t < ECSQ_TOKENS_STEP; t++) {
			__m256i both = avx2_pair(in + (size_t)t * in_stride + 2 * (size_t)pair);

#pragma GCC unroll 2
			for (int v = 0; v < AVX2_VECTORS; v++)
				sums[t][v] = _mm256_add_epi32(sums[t][v], _mm256_madd_epi16(elements[v], both));
		}
	}
	for (int t = 0; t < ECSQ_TOKENS_STEP; t++)
		for (int v = 0; v < AVX2_VECTORS; v++)
			_mm256_storeu_si256((__m256i *)(void *)(out + (size_t)t * out_stride + v * AVX2_LANES), sums[t][v]);
}

static void body_multiply(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, uint32_t rows,
                          uint32_t outputs, int32_t *out, size_t out_stride)
{
	size_t panel_elements = ((size_t)rows + 1) / 2 * 2 * ECSQ_PANEL;

	for (uint32_t at = 0; at < outputs; at += AVX2_VECTORS * AVX2_LANES) {
		const int16_t *panel = matrix + at / ECSQ_PANEL * panel_elements + at % ECSQ_PANEL * (size_t)2;

		for (uint32_t token = 0; token < tokens; token += ECSQ_TOKENS_STEP)
			avx2_block(in + token * in_stride, in_stride, pairs, panel, out + token * out_stride + at, out_stride);
	}
}

#include "codec/ecsq_body.h"

const struct ecsq_kernel kvci_ecsq_kernel_avx2 = { ECSQ_SLOTS("avx2") };

#endif
