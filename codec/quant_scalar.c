/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of the lossy codecs for every CPU.
 */
#include "codec/quant_body.h"

const struct quant_kernel kvci_quant_kernel_scalar = { QUANT_SLOTS("scalar") };
