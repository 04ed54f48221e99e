/* SPDX-License-Identifier: Apache-2.0
 *
 * The rope kernel for every CPU.
 */
#define ROPE_KERNEL_NAME scalar
#include "codec/rope_kernel.h"

static int rope_kernel_usable(void)
{
	return 1;
}
