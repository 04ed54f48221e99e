/* SPDX-License-Identifier: Apache-2.0
 *
 * Codebooks of the codec pq (codec/pq.c), for codec/ and for what makes profiles. One set for each length of a sub-vector, 2 or 4 dimensions; in a
 * set a codebook for each layer, head and sub-vector of a row, of 256 centroids.
 *
 * Section KVCI_PROFILE_CODEBOOKS of a profile, little-endian:
 *   u32 version, 1; u32 sets; for each set: u32 dimensions of a sub-vector (2 or 4), u32 0, then f16 centroids of K
 *   [layers][heads][head_dim_k / dimensions][256][dimensions], before rotation, and of V likewise
 */
#ifndef KVCI_PQ_H
#define KVCI_PQ_H

#include "codec/profile.h"
#include "codec/profile_make.h"

enum { PQ_CENTROIDS = 256, PQ_BATCH = 64 };

/* Half the square of each centroid's length; centroids [256][sub_dims]. */
void kvci_pq_half_norms(const float *centroids, uint32_t sub_dims, float *ret_half_norms);

/* The centroid next to each of `count` (at most PQ_BATCH) sub-vectors of 2 or 4 dimensions, vectors[dim][PQ_BATCH], and the square of its distance. Nearer
 * by less than what floats lose of a squared length may be taken for equal; of equals it is the first. The same on every kernel. */
void kvci_pq_nearest(const float vectors[][PQ_BATCH], uint32_t count, uint32_t sub_dims, const float *centroids, const float *half_norms,
                     uint8_t *ret_codes, float *ret_distances);

/* A profile's file with codebooks behind it, of the same samples: sub_dims 2, 4 or 0 (a set of each). kvci_free the bytes. Takes a minute of one
 * core for the KV of a small model. INVALID: a form or samples that do not go with it. */
kvc_status_t kvci_pq_train(const struct kvci_profile_order *order, uint32_t sub_dims, const uint8_t *profile, size_t profile_bytes,
                           uint8_t **ret_bytes, size_t *ret_length);

#endif
