/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of the lossy codecs for CPUs with AVX-512: nothing here may run elsewhere (codec/quant.c).
 */
#include "codec/quant_body.h"

#if defined(__x86_64__)
const struct quant_kernel kvci_quant_kernel_avx512 = { QUANT_SLOTS("avx512") };
#endif
