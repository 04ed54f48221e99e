/* SPDX-License-Identifier: Apache-2.0
 *
 * The search of pq for x86-64 with AVX-512: 64 sub-vectors at a time.
 */
#if defined(__x86_64__)
#include "codec/pq_kernel.h"

#include <immintrin.h>
#include <math.h>

enum { PQ_LANES = 16, PQ_REGISTERS = PQ_BATCH / PQ_LANES };

/* One centroid for one register of each dimension. */
#define PQ_REST(dims, x, c, norm) \
	({ \
		__m512 rest_ = _mm512_sub_ps(norm, _mm512_mul_ps((x)[0], (c)[0])); \
		for (uint32_t k_ = 1; k_ < (dims); k_++) \
			rest_ = _mm512_sub_ps(rest_, _mm512_mul_ps((x)[k_], (c)[k_])); \
		rest_; \
	})

__attribute__((always_inline)) static inline void pq_search(const float vectors[][PQ_BATCH], uint32_t dims, const float *centroids,
                                                            const float *half_norms, int32_t *ret_codes)
{
	__m512 x[PQ_REGISTERS][4], best[PQ_REGISTERS];
	__m512i codes[PQ_REGISTERS];

	for (uint32_t j = 0; j < PQ_REGISTERS; j++) {
		for (uint32_t k = 0; k < dims; k++)
			x[j][k] = _mm512_loadu_ps(vectors[k] + j * PQ_LANES);
		best[j] = _mm512_set1_ps(INFINITY);
		codes[j] = _mm512_setzero_si512();
	}
	for (int32_t c = 0; c < PQ_CENTROIDS; c++) {
		__m512 norm = _mm512_set1_ps(half_norms[c]), at[4];
		__m512i code = _mm512_set1_epi32(c);

		for (uint32_t k = 0; k < dims; k++)
			at[k] = _mm512_set1_ps(centroids[(uint32_t)c * dims + k]);
		for (uint32_t j = 0; j < PQ_REGISTERS; j++) {
			__m512 rest = PQ_REST(dims, x[j], at, norm);
			__mmask16 less = _mm512_cmp_ps_mask(rest, best[j], _CMP_LT_OQ);

			best[j] = _mm512_mask_mov_ps(best[j], less, rest);
			codes[j] = _mm512_mask_mov_epi32(codes[j], less, code);
		}
	}
	for (uint32_t j = 0; j < PQ_REGISTERS; j++)
		_mm512_storeu_si512(ret_codes + j * PQ_LANES, codes[j]);
}

void kvci_pq_search_avx512(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes)
{
	if (sub_dims == 2)
		pq_search(vectors, 2, centroids, half_norms, ret_codes);
	else
		pq_search(vectors, 4, centroids, half_norms, ret_codes);
}
#endif
