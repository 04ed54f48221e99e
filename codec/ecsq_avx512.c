/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq for CPUs with AVX-512: nothing here may run elsewhere (codec/ecsq_model.c).
 */
#if defined(__x86_64__)

#define AVX512_DOT(sums, elements, both) _mm512_add_epi32(sums, _mm512_madd_epi16(elements, both))
#include "codec/ecsq_avx512_multiply.h"
#include "codec/ecsq_body.h"

const struct ecsq_kernel kvci_ecsq_kernel_avx512 = { ECSQ_SLOTS("avx512") };

#endif
