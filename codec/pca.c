/* SPDX-License-Identifier: Apache-2.0
 *
 * Eigenvectors by Householder's tridiagonal form and QL with implicit shifts. The matrix of vectors is kept turned (a vector a row), so that
 * every inner loop runs along a row.
 */
#include "codec/pca.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PCA_ROUNDS_MAX = 60 };

static double pca_dot(const double *a, const double *b, uint32_t count)
{
	double sums[4] = { 0 };
	uint32_t i;

	for (i = 0; i + 4 <= count; i += 4)
		for (int lane = 0; lane < 4; lane++)
			sums[lane] += a[i + lane] * b[i + lane];
	for (; i < count; i++)
		sums[0] += a[i] * b[i];
	return sums[0] + sums[1] + sums[2] + sums[3];
}

static void pca_add(double *restrict a, double factor, const double *restrict b, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		a[i] += factor * b[i];
}

/* Row i becomes a reflection that leaves of it only its last element before the diagonal (off[i]); what is before row i is reflected. */
static void pca_reflect(double *matrix, uint32_t count, uint32_t i, double *off, double *weight)
{
	double *row = matrix + (size_t)i * count, scale = 0, h = 0, f, g, half;

	*weight = 0;
	for (uint32_t k = 0; k < i; k++)
		scale += fabs(row[k]);
	if (i == 1 || scale == 0) {
		off[i] = row[i - 1];
		return;
	}
	for (uint32_t k = 0; k < i; k++)
		row[k] /= scale;
	h = pca_dot(row, row, i);
	f = row[i - 1];
	g = f >= 0 ? -sqrt(h) : sqrt(h);
	off[i] = scale * g;
	h -= f * g;
	row[i - 1] = f - g;
	/* off[0..i) = matrix * row / h: the whole symmetric part is kept, so it goes by rows. */
	for (uint32_t j = 0; j < i; j++)
		off[j] = pca_dot(matrix + (size_t)j * count, row, i) / h;
	half = pca_dot(off, row, i) / (h + h);
	for (uint32_t j = 0; j < i; j++)
		off[j] -= half * row[j];
	for (uint32_t j = 0; j < i; j++) {
		double *other = matrix + (size_t)j * count;

		pca_add(other, -row[j], off, i);
		pca_add(other, -off[j], row, i);
	}
	*weight = h;
}

/* The matrix becomes the product of the reflections (turned), `diagonal` and `off` the tridiagonal form. */
static void pca_tridiagonal(double *matrix, uint32_t count, double *diagonal, double *off)
{
	for (uint32_t i = count - 1; i > 0; i--)
		pca_reflect(matrix, count, i, off, &diagonal[i]);
	diagonal[0] = 0;
	off[0] = 0;
	for (uint32_t i = 0; i < count; i++) {
		double *row = matrix + (size_t)i * count, weight = diagonal[i];

		/* Rows before i hold the product so far, turned: row j is what becomes of vector j. */
		if (weight != 0)
			for (uint32_t j = 0; j < i; j++) {
				double *other = matrix + (size_t)j * count;

				pca_add(other, -pca_dot(other, row, i) / weight, row, i);
			}
		diagonal[i] = row[i];
		memset(row, 0, i * sizeof(*row));
		row[i] = 1;
		for (uint32_t j = 0; j < i; j++)
			matrix[(size_t)j * count + i] = 0;
	}
}

static void pca_rotate(double *restrict a, double *restrict b, double c, double s, uint32_t count)
{
	for (uint32_t k = 0; k < count; k++) {
		double f = b[k];

		b[k] = s * a[k] + c * f;
		a[k] = c * a[k] - s * f;
	}
}

/* One implicit QL step on the rows first to last. */
static void pca_step(double *matrix, uint32_t count, double *diagonal, double *off, uint32_t first, uint32_t last)
{
	double g = (diagonal[first + 1] - diagonal[first]) / (2 * off[first]), r = hypot(g, 1), s = 1, c = 1, p = 0;

	g = diagonal[last] - diagonal[first] + off[first] / (g + (g >= 0 ? r : -r));
	for (uint32_t i = last; i-- > first;) {
		double f = s * off[i], b = c * off[i];

		r = hypot(f, g);
		off[i + 1] = r;
		if (r == 0) {
			diagonal[i + 1] -= p;
			off[last] = 0;
			return;
		}
		s = f / r;
		c = g / r;
		g = diagonal[i + 1] - p;
		r = (diagonal[i] - g) * s + 2 * c * b;
		p = s * r;
		diagonal[i + 1] = g + p;
		g = c * r - b;
		pca_rotate(matrix + (size_t)i * count, matrix + (size_t)(i + 1) * count, c, s, count);
	}
	diagonal[first] -= p;
	off[first] = g;
	off[last] = 0;
}

static bool pca_ql(double *matrix, uint32_t count, double *diagonal, double *off)
{
	for (uint32_t i = 1; i < count; i++)
		off[i - 1] = off[i];
	off[count - 1] = 0;
	for (uint32_t first = 0; first < count; first++) {
		for (int round = 0;; round++) {
			uint32_t last = first;

			while (last + 1 < count && fabs(off[last]) > DBL_EPSILON * (fabs(diagonal[last]) + fabs(diagonal[last + 1])))
				last++;
			if (last == first)
				break;
			if (round == PCA_ROUNDS_MAX)
				return false;
			pca_step(matrix, count, diagonal, off, first, last);
		}
	}
	return true;
}

static void pca_sort(double *matrix, uint32_t count, double *values)
{
	for (uint32_t i = 0; i + 1 < count; i++) {
		uint32_t most = i;
		double value;

		for (uint32_t j = i + 1; j < count; j++)
			if (values[j] > values[most])
				most = j;
		if (most == i)
			continue;
		value = values[i];
		values[i] = values[most];
		values[most] = value;
		for (uint32_t k = 0; k < count; k++) {
			value = matrix[(size_t)i * count + k];
			matrix[(size_t)i * count + k] = matrix[(size_t)most * count + k];
			matrix[(size_t)most * count + k] = value;
		}
	}
}

bool kvci_pca_eigen(double *matrix, uint32_t count, double *ret_values, double *scratch)
{
	for (size_t i = 0; i < (size_t)count * count; i++)
		if (!isfinite(matrix[i]))
			return false;
	pca_tridiagonal(matrix, count, ret_values, scratch);
	if (!pca_ql(matrix, count, ret_values, scratch))
		return false;
	pca_sort(matrix, count, ret_values);
	return true;
}
