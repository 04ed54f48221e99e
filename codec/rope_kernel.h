/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of codec/rope.c, for codec/rope*.c only: each file includes this one and is compiled for its CPU, without contraction to fused
 * multiply-adds, so that all make the same bits.
 */
#ifndef KVCI_ROPE_KERNEL_H
#define KVCI_ROPE_KERNEL_H

#include <string.h>

#include "codec/rope.h"

enum { ROPE_PIECE = 64 }; /* angles done at a time */

struct rope_turns {
	double cosines[ROPE_PIECE], sines[ROPE_PIECE];
};

struct rope_kernel {
	const char *name;
	int (*usable)(void);
	/* Cosines and sines of angle[i] (at most ROPE_ANGLE_MAX). */
	void (*exact)(const double *angle, size_t count, struct rope_turns *ret_turns);
	/* Both turns one after the other, as floats: cosines times cos_scale, sines times sin_scale. */
	void (*both)(const struct rope_turns *first, const struct rope_turns *second, size_t count, double cos_scale, double sin_scale,
	             float *ret_cosines, float *ret_sines);
	void (*neox)(const float *row, size_t half, float *values);
	void (*gptj)(const float *row, size_t half, float *values);
};

extern const struct rope_kernel kvci_rope_kernel_scalar;
#if defined(__x86_64__)
extern const struct rope_kernel kvci_rope_kernel_avx2;
#endif

/* Quarter turns of an angle up to this are below 2^27, so that they times ROPE_PIO2_A and _B are exact. */
#define ROPE_ANGLE_MAX 1e8

#ifdef ROPE_KERNEL_NAME

/* pi / 2 in three parts, the first two of 26 bits. */
#define ROPE_PIO2_A 0x1.921fb5p+0
#define ROPE_PIO2_B 0x1.110b46p-26
#define ROPE_PIO2_C 0x1.1a62633145c07p-54
#define ROPE_TWO_OVER_PI 0x1.45f306dc9c883p-1
#define ROPE_ROUND 0x1.8p+52 /* added and taken off again: the nearest integer, which its low bits hold meanwhile */

/* Taylor's series to the 13th and 14th power: exact to 2^-48 on [-pi / 4, pi / 4], and a float wants 2^-25. */
static void rope_kernel_exact(const double *restrict angle, size_t count, struct rope_turns *restrict ret_turns)
{
	for (size_t i = 0; i < count; i++) {
		double shifted = angle[i] * ROPE_TWO_OVER_PI + ROPE_ROUND, turns = shifted - ROPE_ROUND;
		double r = ((angle[i] - turns * ROPE_PIO2_A) - turns * ROPE_PIO2_B) - turns * ROPE_PIO2_C, z = r * r, s, c, swap;
		uint64_t quarter;

		memcpy(&quarter, &shifted, sizeof(quarter));
		s = r + r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 +
		    z * (-1.0 / 39916800 + z * (1.0 / 6227020800.0))))));
		c = 1 - z * (0.5 - z * (1.0 / 24 - z * (1.0 / 720 - z * (1.0 / 40320 - z * (1.0 / 3628800 -
		    z * (1.0 / 479001600 - z * (1.0 / 87178291200.0)))))));
		swap = s;
		s = (quarter & 1) != 0 ? c : s;
		c = (quarter & 1) != 0 ? swap : c;
		s = (quarter & 2) != 0 ? -s : s;
		c = ((quarter + 1) & 2) != 0 ? -c : c;
		ret_turns->cosines[i] = c;
		ret_turns->sines[i] = s;
	}
}

static void rope_kernel_both(const struct rope_turns *first, const struct rope_turns *second, size_t count, double cos_scale, double sin_scale,
                             float *restrict ret_cosines, float *restrict ret_sines)
{
	for (size_t i = 0; i < count; i++) {
		double c = first->cosines[i], s = first->sines[i], d = second->cosines[i], t = second->sines[i];

		ret_cosines[i] = (float)((c * d - s * t) * cos_scale);
		ret_sines[i] = (float)((s * d + c * t) * sin_scale);
	}
}

static void rope_kernel_neox(const float *restrict row, size_t half, float *restrict values)
{
	const float *restrict cosines = row, *restrict sines = row + half;
	float *restrict above = values + half;

	for (size_t i = 0; i < half; i++) {
		float a = values[i], b = above[i], c = cosines[i], s = sines[i];

		values[i] = a * c - b * s;
		above[i] = b * c + a * s;
	}
}

static void rope_kernel_gptj(const float *restrict row, size_t half, float *restrict values)
{
	const float *restrict cosines = row, *restrict sines = row + half;

	for (size_t i = 0; i < half; i++) {
		float a = values[2 * i], b = values[2 * i + 1], c = cosines[i], s = sines[i];

		values[2 * i] = a * c - b * s;
		values[2 * i + 1] = b * c + a * s;
	}
}

static int rope_kernel_usable(void);

#define ROPE_STRING_OF(text) #text
#define ROPE_STRING(text) ROPE_STRING_OF(text)
#define ROPE_JOIN_OF(a, b) a##b
#define ROPE_JOIN(a, b) ROPE_JOIN_OF(a, b)

const struct rope_kernel ROPE_JOIN(kvci_rope_kernel_, ROPE_KERNEL_NAME) = {
	.name = ROPE_STRING(ROPE_KERNEL_NAME),
	.usable = rope_kernel_usable,
	.exact = rope_kernel_exact,
	.both = rope_kernel_both,
	.neox = rope_kernel_neox,
	.gptj = rope_kernel_gptj,
};

#endif
#endif
