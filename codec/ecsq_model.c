/* SPDX-License-Identifier: Apache-2.0
 *
 * ecsq: tables of frequencies from the shapes of a profile, and the choice of a kernel.
 *
 * A class follows from a shape of the profile and how many of its standard deviations a step is wide, on a grid: few enough for all tables to be
 * made when the profile is read. No stream holds any. They must come out the same on every machine, so there is no math library in here.
 */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "codec/ecsq.h"

enum {
	MODEL_LIMIT_MAX = 127,
	MODEL_LEAST = KVCI_PROFILE_ONE / 6144,  /* share of a code below which it is an escape */
	MODEL_ESCAPE = KVCI_PROFILE_ONE / 2048, /* least share of the escape */
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

/* The class's limit and frequencies. */
static uint32_t model_make(const struct kvci_profile_shape *shape, double ratio, uint16_t frequencies[256])
{
	uint32_t counts[256] = { 0 }, inside = model_within(shape, 0.5 * ratio), limit = 0;

	counts[ECSQ_SYMBOL_ZERO] = inside == 0 ? 1 : inside;
	for (uint32_t code = 1; code <= MODEL_LIMIT_MAX; code++) {
		uint32_t next = model_within(shape, (code + 0.5) * ratio), share = (next - inside) / 2;

		if (share < MODEL_LEAST)
			break;
		counts[ECSQ_SYMBOL_ZERO + code] = share;
		counts[ECSQ_SYMBOL_ZERO - code] = share;
		limit = code;
		inside = next;
	}
	counts[0] = KVCI_PROFILE_ONE - inside < MODEL_ESCAPE ? MODEL_ESCAPE : KVCI_PROFILE_ONE - inside;
	model_normalise(counts, limit, frequencies);
	return limit;
}

static void model_table(struct ecsq_tables *tables, uint32_t class, uint32_t limit, const uint16_t frequencies[256])
{
	tables->limits[class] = (uint8_t)limit;
	kvci_rans_encoder_entries(frequencies, tables->encoder + (size_t)class * 256);
	kvci_rans_decoder_entries(frequencies, tables->decoder + (size_t)class * KVCI_RANS_TOTAL);
}

struct ecsq_tables *ecsq_tables_make(const struct kvci_profile_shape *shapes, uint32_t shape_count)
{
	uint32_t count = shape_count * ECSQ_RATIOS + 1;
	struct ecsq_tables *tables = kvci_alloc(sizeof(*tables) + (size_t)count * (256 + KVCI_RANS_TOTAL) * sizeof(uint32_t));
	uint16_t pad[256] = { [ECSQ_SYMBOL_ZERO] = KVCI_RANS_TOTAL };

	if (tables == NULL)
		return NULL;
	tables->pad = count - 1;
	tables->decoder = tables->entries;
	tables->encoder = tables->entries + (size_t)count * KVCI_RANS_TOTAL;
	for (uint32_t class = 0; class < tables->pad; class++) {
		uint16_t frequencies[256];
		uint32_t limit = model_make(&shapes[class / ECSQ_RATIOS], ecsq_ratio_of(class % ECSQ_RATIOS), frequencies);

		model_table(tables, class, limit, frequencies);
	}
	model_table(tables, tables->pad, MODEL_LIMIT_MAX, pad);
	return tables;
}

/* ---- the classes of a part ----------------------------------------------------------------------------------------------------- */

static double model_distance(double a, double b)
{
	return a > b ? a / b : b / a;
}

static uint32_t model_nearest(const struct ecsq_classes *classes, uint32_t ratio)
{
	double distance = INFINITY;
	uint32_t nearest = 0;

	for (uint32_t i = 0; i < classes->count; i++) {
		double here = model_distance(ecsq_ratio_of(classes->used[i] % ECSQ_RATIOS), ecsq_ratio_of(ratio));

		if (here < distance) {
			distance = here;
			nearest = classes->used[i];
		}
	}
	return nearest;
}

void ecsq_classes_begin(struct ecsq_classes *classes)
{
	memset(classes, 0, sizeof(*classes));
}

uint32_t ecsq_classes_find(struct ecsq_classes *classes, uint32_t shape, uint32_t ratio)
{
	uint32_t class = shape * ECSQ_RATIOS + ratio;

	if (classes->is_used[class])
		return class;
	if (classes->count == ECSQ_CLASSES_MAX)
		return model_nearest(classes, ratio);
	classes->is_used[class] = true;
	classes->used[classes->count++] = (uint8_t)class;
	return class;
}

uint32_t ecsq_ratio_grid(double ratio)
{
	int exponent, grid;
	double part = 2 * frexp(ratio, &exponent); /* exact; 1 to 2 */

	/* Where a half octave ends and the next begins. */
	grid = 2 * (exponent - 1) + (part >= 1.189207115002721) + (part >= 1.681792830507429) - ECSQ_RATIO_LOW;
	if (grid < 0)
		grid = 0;
	return grid < ECSQ_RATIOS ? (uint32_t)grid : ECSQ_RATIOS - 1;
}

double ecsq_ratio_of(uint32_t grid)
{
	/* 2^-6 is the first. */
	return (grid % 2 == 0 ? 1.0 : 1.4142135623730951) * (double)(1u << grid / 2) / 64;
}
