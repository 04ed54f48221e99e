/* SPDX-License-Identifier: Apache-2.0
 *
 * Principal components: the eigenvectors of a symmetric matrix. For making profiles, not for coding.
 */
#ifndef KVCI_PCA_H
#define KVCI_PCA_H

#include <stdbool.h>
#include <stdint.h>

/* matrix: count * count, symmetric; becomes the eigenvectors, one a row, of length 1, the largest eigenvalue's first. ret_values: count of them, falling.
 * scratch: count numbers. False: it did not converge (not finite). About 10 * count^3 operations. */
bool kvci_pca_eigen(double *matrix, uint32_t count, double *ret_values, double *scratch);

#endif
