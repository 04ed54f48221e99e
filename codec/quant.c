/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kernel the lossy codecs run: the one of the entropy coder's CPU, so that tests and benches choose both at once.
 */
#include "codec/quant.h"

#include <string.h>

#include "codec/rans.h"

const struct quant_kernel *kvci_quant_kernel(void)
{
#if defined(__x86_64__)
	const char *name = kvci_rans_kernel();

	if (strcmp(name, kvci_quant_kernel_avx512.name) == 0)
		return &kvci_quant_kernel_avx512;
	if (strcmp(name, kvci_quant_kernel_avx2.name) == 0)
		return &kvci_quant_kernel_avx2;
#endif
	return &kvci_quant_kernel_scalar;
}
