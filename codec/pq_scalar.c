/* SPDX-License-Identifier: Apache-2.0
 *
 * The search of pq for any CPU.
 */
#include "codec/pq_kernel.h"

#include <math.h>

void kvci_pq_search_scalar(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes)
{
	float best[PQ_BATCH], rest[PQ_BATCH];

	for (int i = 0; i < PQ_BATCH; i++) {
		best[i] = INFINITY;
		ret_codes[i] = 0;
	}
	for (int32_t c = 0; c < PQ_CENTROIDS; c++, centroids += sub_dims) {
		for (int i = 0; i < PQ_BATCH; i++)
			rest[i] = half_norms[c] - vectors[0][i] * centroids[0];
		for (uint32_t k = 1; k < sub_dims; k++)
			for (int i = 0; i < PQ_BATCH; i++)
				rest[i] -= vectors[k][i] * centroids[k];
		for (int i = 0; i < PQ_BATCH; i++) {
			ret_codes[i] = rest[i] < best[i] ? c : ret_codes[i];
			best[i] = rest[i] < best[i] ? rest[i] : best[i];
		}
	}
}
