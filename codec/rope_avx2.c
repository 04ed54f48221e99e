/* SPDX-License-Identifier: Apache-2.0
 *
 * The rope kernel for x86-64 with AVX2.
 */
#if defined(__x86_64__)
#define ROPE_KERNEL_NAME avx2
#include "codec/rope_kernel.h"

#include "base/cpu.h"

static int rope_kernel_usable(void)
{
	return (kvci_cpu_features() & KVCI_CPU_AVX2) != 0;
}
#endif
