/* SPDX-License-Identifier: Apache-2.0
 *
 * split: what an element is taken apart into, and which loops do it: those of the entropy coder's CPU, so that tests and benches choose both at once.
 */
#include <string.h>

#include "codec/split.h"

struct split_type split_type_of(uint32_t dtype)
{
	switch (dtype) {
	case KVC_DTYPE_BF16:
		return (struct split_type){ SPLIT_BF16, 2, 1, 0xff };
	case KVC_DTYPE_F16:
		return (struct split_type){ SPLIT_F16, 2, 1, 0x7f };
	case KVC_DTYPE_F32:
		return (struct split_type){ SPLIT_F32, 4, 3, 0xff };
	case KVC_DTYPE_F8_E4M3:
	case KVC_DTYPE_F8_E5M2:
		return (struct split_type){ SPLIT_F8, 1, 0, 0x7f };
	default:
		return (struct split_type){ SPLIT_NONE, 1, 0, 0 };
	}
}

const struct split_kernel *split_kernel(void)
{
#if defined(__x86_64__)
	const char *name = kvci_rans_kernel();

	if (strcmp(name, kvci_split_kernel_avx512.name) == 0)
		return &kvci_split_kernel_avx512;
	if (strcmp(name, kvci_split_kernel_avx2.name) == 0)
		return &kvci_split_kernel_avx2;
#endif
	return &kvci_split_kernel_scalar;
}
