/* SPDX-License-Identifier: Apache-2.0
 *
 * The search of codec/pq.c for each kind of CPU, for codec/pq*.c only. All choose the same centroids: what they compute is the same, without
 * contraction to fused multiply-adds.
 */
#ifndef KVCI_PQ_KERNEL_H
#define KVCI_PQ_KERNEL_H

#include "codec/pq.h"

/* For each of PQ_BATCH sub-vectors x the first centroid c of the lowest half_norm[c] - x[0] c[0] - x[1] c[1] ..., summed in this order:
 * half its distance's square, but for what all have in common. 0 where none is a number. */
typedef void (*kvci_pq_search_fn)(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms,
                                  int32_t *ret_codes);

void kvci_pq_search_scalar(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes);
#if defined(__x86_64__)
void kvci_pq_search_avx2(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes);
void kvci_pq_search_avx512(const float vectors[][PQ_BATCH], uint32_t sub_dims, const float *centroids, const float *half_norms, int32_t *ret_codes);
#endif

#endif
