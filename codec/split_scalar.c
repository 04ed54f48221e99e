/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of split for every CPU.
 */
#include "codec/split_body.h"

const struct split_kernel kvci_split_kernel_scalar = { SPLIT_SLOTS("scalar") };
