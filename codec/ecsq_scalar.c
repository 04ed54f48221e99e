/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of ecsq for every CPU, and the definition of what the others must do.
 */
#include "codec/ecsq_body.h"

const struct ecsq_kernel kvci_ecsq_kernel_scalar = { ECSQ_SLOTS("scalar") };
