/* SPDX-License-Identifier: Apache-2.0
 *
 * The search of pq for x86-64 with AVX2: 16 sub-vectors at a time.
 */
#if defined(__x86_64__)
#include "codec/pq_kernel.h"

#include <immintrin.h>
#include <math.h>

enum { PQ_LANES = 8 };

/* One centroid for one register of each dimension. */
#define PQ_REST(dims, x, c, norm) \
	({ \
		__m256 rest_ = _mm256_sub_ps(norm, _mm256_mul_ps((x)[0], (c)[0])); \
		for (uint32_t k_ = 1; k_ < (dims); k_++) \
			rest_ = _mm256_sub_ps(rest_, _mm256_mul_ps((x)[k_], (c)[k_])); \
		rest_; \
	})

__attribute__((always_inline)) static inline void pq_search(const float vectors[][PQ_BATCH], uint32_t dims, const float *centroids,
                                                            const float *half_norms, int32_t *ret_codes)
{
	for (uint32_t i = 0; i < PQ_BATCH; i += 2 * PQ_LANES) {
		__m256 x[2][4], best[2], codes[2];

		for (uint32_t j = 0; j < 2; j++) {
			for (uint32_t k = 0; k < dims; k++)
				x[j][k] = _mm256_loadu_ps(vectors[k] + i + j * PQ_LANES);
			best[j] = _mm256_set1_ps(INFINITY);
			codes[j] = _mm256_setzero_ps();
		}
		for (int32_t c = 0; c < PQ_CENTROIDS; c++) {
			__m256 norm = _mm256_set1_ps(half_norms[c]), code = _mm256_castsi256_ps(_mm256_set1_epi32(c)), at[4];

			for (uint32_t k = 0; k < dims; k++)
				at[k] = _mm256_set1_ps(centroids[(uint32_t)c * dims + k]);
			for (uint32_t j = 0; j < 2; j++) {
				__m256 rest = PQ_REST(dims, x[j], at, norm), less = _mm256_cmp_ps(rest, best[j], _CMP_LT_OQ);

				best[j] = _mm256_blendv_ps(best[j], rest, less);
				codes[j] = _mm256_blendv_ps(codes[j], code, less);
			}
		}
		for (uint32_t j = 0; j < 2; j++)
			_mm256_storeu_ps((float *)(void *)(ret_codes + i + j * PQ_LANES), codes[j]);
	}
}

void kvci_pq_search_avx2(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes)
{
	if (sub_dims == 2)
		pq_search(vectors, 2, centroids, half_norms, ret_codes);
	else
		pq_search(vectors, 4, centroids, half_norms, ret_codes);
}
#endif
