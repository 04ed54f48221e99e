/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq for CPUs with AVX2: nothing here may run elsewhere (codec/ecsq_model.c).
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define ECSQ_OWN_MULTIPLY
#define ECSQ_OWN_QUANTISE
#include "codec/ecsq_kernel.h"

enum {
	AVX2_LANES = 8,
	AVX2_VECTORS = ECSQ_PANEL / AVX2_LANES,
	AVX2_CHUNK = 64,  /* pairs, a bit each; with a panel's elements half of the smallest first cache */
	AVX2_STRIP = 256, /* tokens whose bits are known at a time */
};

/* Which pairs are not both 0. */
static uint64_t avx2_mask(const int16_t *in, uint32_t pairs)
{
	uint64_t mask = 0;
	uint32_t at = 0;

	for (; at + AVX2_LANES <= pairs; at += AVX2_LANES) {
		__m256i zero = _mm256_cmpeq_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(in + 2 * (size_t)at)), _mm256_setzero_si256());

		mask |= (uint64_t)(uint8_t)~_mm256_movemask_ps(_mm256_castsi256_ps(zero)) << at;
	}
	for (; at < pairs; at++)
		mask |= (uint64_t)((in[2 * (size_t)at] | in[2 * (size_t)at + 1]) != 0) << at;
	return mask;
}

/* Adds the products of one token's pairs in the mask to a panel's sums. */
static inline void avx2_row(const int16_t *in, uint64_t mask, const int16_t *matrix, int32_t *out, bool first)
{
	__m256i sums[AVX2_VECTORS];

#pragma GCC unroll 8
	for (int v = 0; v < AVX2_VECTORS; v++)
		sums[v] = first ? _mm256_setzero_si256() : _mm256_loadu_si256((const __m256i *)(const void *)(out + v * AVX2_LANES));
	while (mask != 0) {
		size_t pair = (size_t)__builtin_ctzll(mask);
		const int16_t *elements = matrix + pair * (2 * ECSQ_PANEL);
		int32_t both;

		__builtin_memcpy(&both, in + 2 * pair, sizeof(both));
		mask &= mask - 1;
#pragma GCC unroll 8
		for (int v = 0; v < AVX2_VECTORS; v++) {
			__m256i vector = _mm256_loadu_si256((const __m256i *)(const void *)(elements + v * 2 * AVX2_LANES));

			sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(vector, _mm256_set1_epi32(both)));
		}
	}
#pragma GCC unroll 8
	for (int v = 0; v < AVX2_VECTORS; v++)
		_mm256_storeu_si256((__m256i *)(void *)(out + v * AVX2_LANES), sums[v]);
}

/* All panels' sums of up to AVX2_STRIP tokens: a chunk of pairs after another, and of it a panel's elements for all tokens while they are near.
 * A quarter of all pairs of codes is 0. */
static void avx2_strip(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, size_t panel_elements,
                       uint32_t outputs, int32_t *out, size_t out_stride)
{
	uint64_t masks[AVX2_STRIP];
	uint32_t pair = 0;

	do {
		uint32_t chunk = pairs - pair < AVX2_CHUNK ? pairs - pair : AVX2_CHUNK;

		for (uint32_t token = 0; token < tokens; token++)
			masks[token] = avx2_mask(in + token * in_stride + 2 * (size_t)pair, chunk);
		for (uint32_t at = 0; at < outputs; at += ECSQ_PANEL) {
			const int16_t *panel = matrix + at / ECSQ_PANEL * panel_elements + pair * (size_t)(2 * ECSQ_PANEL);

			for (uint32_t token = 0; token < tokens; token++)
				avx2_row(in + token * in_stride + 2 * (size_t)pair, masks[token], panel, out + token * out_stride + at, pair == 0);
		}
		pair += chunk;
	} while (pair < pairs);
}

static void body_multiply(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, uint32_t rows,
                          uint32_t outputs, int32_t *out, size_t out_stride)
{
	size_t panel_elements = ((size_t)rows + 1) / 2 * 2 * ECSQ_PANEL;

	for (uint32_t token = 0; token < tokens; token += AVX2_STRIP)
		avx2_strip(in + token * in_stride, in_stride, tokens - token < AVX2_STRIP ? tokens - token : AVX2_STRIP, pairs, matrix,
		           panel_elements, outputs, out + token * out_stride, out_stride);
}

/* The codes of eight values: as kvci_ecsq_code, whose sum with a large number rounds as this conversion does. */
static inline __m256i avx2_codes(const float *value, const float *mean, const float *inverse)
{
	__m256 code = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(value), _mm256_loadu_ps(mean)), _mm256_loadu_ps(inverse));

	code = _mm256_min_ps(code, _mm256_set1_ps(ECSQ_CODE_MAX));
	return _mm256_cvtps_epi32(_mm256_max_ps(code, _mm256_set1_ps(-ECSQ_CODE_MAX)));
}

/* Sixteen symbols at a time; returns how many. */
static inline uint32_t body_quantise_most(const float *values, const float *mean, const float *inverse, const uint8_t *limit, uint32_t count,
                                          uint8_t *symbols)
{
	uint32_t at;

	for (at = 0; at + 16 <= count; at += 16) {
		/* What is beyond 16 bits is beyond every limit. */
		__m256i code = _mm256_permute4x64_epi64(_mm256_packs_epi32(avx2_codes(values + at, mean + at, inverse + at),
		                                                           avx2_codes(values + at + 8, mean + at + 8, inverse + at + 8)), 0xd8);
		__m256i most = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(limit + at)));
		__m256i beyond = _mm256_or_si256(_mm256_cmpgt_epi16(code, most),
		                                 _mm256_cmpgt_epi16(_mm256_sub_epi16(_mm256_setzero_si256(), most), code));
		__m256i symbol = _mm256_andnot_si256(beyond, _mm256_add_epi16(code, _mm256_set1_epi16(ECSQ_SYMBOL_ZERO)));

		_mm_storeu_si128((__m128i *)(void *)(symbols + at),
		                 _mm_packus_epi16(_mm256_castsi256_si128(symbol), _mm256_extracti128_si256(symbol, 1)));
	}
	return at;
}

#include "codec/ecsq_body.h"

const struct ecsq_kernel kvci_ecsq_kernel_avx2 = { ECSQ_SLOTS("avx2") };

#endif
