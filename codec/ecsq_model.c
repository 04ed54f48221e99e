/* SPDX-License-Identifier: Apache-2.0
 *
 * ecsq: tables of frequencies from the shapes of a profile, and the choice of a kernel.
 *
 * Encoder and decoder make the tables anew for each stream, from the step alone: no stream holds any. They must come out the same on every
 * machine, so there is no math library in here.
 */
#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "codec/ecsq.h"

enum {
	MODEL_LIMIT_MAX = 127,
	MODEL_LEAST = KVCI_PROFILE_ONE / 6144,  /* share of a code below which it is an escape */
	MODEL_ESCAPE = KVCI_PROFILE_ONE / 2048, /* least share of the escape */
	MODEL_GRID_LOW = -12, /* of half octaves */
	MODEL_GRID_HIGH = 8,
};

/* ---- kernels -------------------------------------------------------------------------------------------------------------- */

static bool model_has_vnni(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("avx512vnni") != 0;
#else
	return false;
#endif
}

const struct ecsq_kernel *kvci_ecsq_kernel(void)
{
#if defined(__x86_64__)
	const char *name = kvci_rans_kernel();

	if (strcmp(name, "avx512") == 0)
		return model_has_vnni() ? &kvci_ecsq_kernel_vnni : &kvci_ecsq_kernel_avx512;
	if (strcmp(name, "avx2") == 0)
		return &kvci_ecsq_kernel_avx2;
#endif
	return &kvci_ecsq_kernel_scalar;
}

/* ---- tables ----------------------------------------------------------------------------------------------------------------- */

/* The share not farther off than `sigmas`, between two points by a straight line. */
static uint32_t model_within(const struct kvci_profile_shape *shape, double sigmas)
{
	double place = sigmas * KVCI_PROFILE_GRID, whole;
	uint32_t at;

	if (place >= KVCI_PROFILE_POINTS - 1)
		return shape->within[KVCI_PROFILE_POINTS - 1];
	at = (uint32_t)place;
	whole = (double)(shape->within[at + 1] - shape->within[at]) * (place - (double)at);
	return shape->within[at] + (uint32_t)whole;
}

/* Shares to frequencies: one slot for each symbol that there is, the others by share; what is left over one each from the middle outwards,
 * where it costs least. */
static void model_normalise(const uint32_t counts[256], uint32_t limit, uint16_t frequencies[256])
{
	uint32_t symbols = 2 * limit + 2, left = KVCI_RANS_TOTAL;
	uint64_t total = 0;

	for (uint32_t symbol = 0; symbol < 256; symbol++)
		total += counts[symbol];
	for (uint32_t symbol = 0; symbol < 256; symbol++) {
		frequencies[symbol] = counts[symbol] == 0 ? 0 : (uint16_t)(1 + counts[symbol] * (uint64_t)(KVCI_RANS_TOTAL - symbols) / total);
		left -= frequencies[symbol];
	}
	/* At most one a symbol is left, and the escape's. */
	for (uint32_t code = 0; left != 0; code = code == limit ? 0 : code + 1) {
		frequencies[ECSQ_SYMBOL_ZERO + code]++;
		if (--left != 0 && code != 0) {
			frequencies[ECSQ_SYMBOL_ZERO - code]++;
			left--;
		}
	}
}

static void model_make(const struct kvci_profile_shape *shape, struct ecsq_class *class)
{
	uint32_t counts[256] = { 0 }, inside = model_within(shape, 0.5 * class->ratio);

	counts[ECSQ_SYMBOL_ZERO] = inside == 0 ? 1 : inside;
	class->limit = 0;
	for (uint32_t code = 1; code <= MODEL_LIMIT_MAX; code++) {
		uint32_t next = model_within(shape, (code + 0.5) * class->ratio), share = (next - inside) / 2;

		if (share < MODEL_LEAST)
			break;
		counts[ECSQ_SYMBOL_ZERO + code] = share;
		counts[ECSQ_SYMBOL_ZERO - code] = share;
		class->limit = code;
		inside = next;
	}
	counts[0] = KVCI_PROFILE_ONE - inside < MODEL_ESCAPE ? MODEL_ESCAPE : KVCI_PROFILE_ONE - inside;
	model_normalise(counts, class->limit, class->frequencies);
}

static double model_distance(double a, double b)
{
	return a > b ? a / b : b / a;
}

uint32_t ecsq_classes_find(struct ecsq_classes *classes, const struct kvc_profile *profile, uint32_t shape, double ratio)
{
	struct ecsq_class *class;
	uint32_t nearest = 0;
	double distance = INFINITY;

	for (uint32_t i = 0; i < classes->count; i++)
		if (classes->classes[i].ratio == ratio && classes->classes[i].shape == shape && classes->classes[i].limit <= MODEL_LIMIT_MAX)
			return i;
	for (uint32_t i = 0; i < classes->count && classes->count == ECSQ_CLASSES_MAX; i++) {
		double here = model_distance(classes->classes[i].ratio, ratio);

		if (classes->classes[i].limit <= MODEL_LIMIT_MAX && here < distance) { /* not the pad */
			distance = here;
			nearest = i;
		}
	}
	if (classes->count == ECSQ_CLASSES_MAX)
		return nearest;
	class = &classes->classes[classes->count];
	class->shape = shape;
	class->ratio = ratio;
	model_make(&profile->shapes[shape], class);
	return classes->count++;
}

uint32_t ecsq_classes_pad(struct ecsq_classes *classes)
{
	struct ecsq_class *class = &classes->classes[classes->count];

	memset(class, 0, sizeof(*class));
	class->limit = MODEL_LIMIT_MAX + 1;
	class->frequencies[ECSQ_SYMBOL_ZERO] = KVCI_RANS_TOTAL;
	return classes->count++;
}

double ecsq_ratio_grid(double ratio)
{
	int exponent, grid;
	double part = 2 * frexp(ratio, &exponent); /* exact; 1 to 2 */

	/* Where a half octave ends and the next begins. */
	grid = 2 * (exponent - 1) + (part >= 1.189207115002721) + (part >= 1.681792830507429);
	if (grid < MODEL_GRID_LOW)
		grid = MODEL_GRID_LOW;
	if (grid > MODEL_GRID_HIGH)
		grid = MODEL_GRID_HIGH;
	/* grid + 32 is not negative. */
	return ldexp((grid + 32) % 2 == 0 ? 1.0 : 1.4142135623730951, (grid + 32) / 2 - 16);
}
