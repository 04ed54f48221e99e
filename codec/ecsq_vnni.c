/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq for CPUs with AVX-512 and VNNI: nothing here may run elsewhere (codec/ecsq_model.c). The product of pairs and their sum is
 * one instruction; it wraps as the two do.
 */
#if defined(__x86_64__)

#define AVX512_DOT(sums, elements, both) _mm512_dpwssd_epi32(sums, elements, both)
#include "codec/ecsq_avx512_multiply.h"
#include "codec/ecsq_body.h"

const struct ecsq_kernel kvci_ecsq_kernel_vnni = { ECSQ_SLOTS("avx512") };

#endif
