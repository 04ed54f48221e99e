/* SPDX-License-Identifier: Apache-2.0
 *
 * codec/rope.h for rope_check.py, in the library of codec_shared.h. Plain C types only.
 */
#ifndef KVC_TEST_ROPE_SHARED_H
#define KVC_TEST_ROPE_SHARED_H

#include <stdint.h>

/* Turns `tokens` rows of row_dims floats in place. direction: 1 forward, 2 back, both from position `from` on; 3: all rows by what lies between
 * the positions `from` and `to`. Returns a kvc_status_t. */
__attribute__((visibility("default"))) int kvcq_rope(uint32_t style, uint32_t first_dim, uint32_t dims, float factor,
                                                     const float *inv_freq, uint32_t direction, uint64_t from, uint64_t to,
                                                     uint32_t tokens, uint32_t row_dims, float *rows);

#endif
