/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of split for CPUs with AVX-512 (F, BW, DQ, VL): nothing here may run elsewhere (codec/split_planes.c).
 */
#include "codec/split_body.h"

#if defined(__x86_64__)
const struct split_kernel kvci_split_kernel_avx512 = { SPLIT_SLOTS("avx512") };
#endif
