/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of ecsq and ecsq+pca, for codec/ecsq*.c only.
 */
#ifndef KVCI_ECSQ_H
#define KVCI_ECSQ_H

#include <stdbool.h>

#include "codec/ecsq_kernel.h"
#include "codec/layout.h"
#include "codec/profile.h"
#include "codec/rans.h"

enum {
	ECSQ_CLASSES_MAX = 31,
	ECSQ_RATIO_LOW = -12, /* the first one of the grid, in half octaves */
	ECSQ_RATIOS = 21,
	ECSQ_TABLES_MAX = KVCI_PROFILE_SHAPES_MAX * ECSQ_RATIOS + 1,
	ECSQ_ALIGN = 64,          /* of what is carved out of the scratch */
	ECSQ_PIECE = 16,          /* tokens done at a time; a multiple of ECSQ_TOKENS_STEP */
	ECSQ_ROW_MAX = 32768,     /* symbols of a token */
	ECSQ_WHOLE_ONE = 256,     /* what is 1 in what goes into a basis */
};

/* Tables of all classes: values of one shape, a step so many standard deviations wide. Class shape * ECSQ_RATIOS + ratio of the grid; the last one
 * is the pad, with one symbol, which costs nothing: for places that hold nothing. */
struct ecsq_tables {
	uint32_t pad;
	uint8_t limits[ECSQ_TABLES_MAX]; /* codes beyond are escapes; at most 127 */
	uint32_t *encoder, *decoder;     /* entries of codec/rans.h, class behind class */
	uint32_t entries[];
};

/* The classes that a part uses: at most ECSQ_CLASSES_MAX, the pad apart. */
struct ecsq_classes {
	uint32_t count;
	uint8_t used[ECSQ_CLASSES_MAX]; /* in the order in which they came */
	bool is_used[ECSQ_TABLES_MAX];
};

/* ---- scratch ---- */

static inline size_t ecsq_round(size_t count, size_t step)
{
	return (count + step - 1) / step * step;
}

/* Hands out a piece of the scratch; with NULL in it, only counts. */
struct ecsq_carve {
	uint8_t *base;
	size_t used;
};

static inline void *ecsq_carve(struct ecsq_carve *carve, size_t bytes)
{
	size_t at = carve->used;

	carve->used += ecsq_round(bytes, ECSQ_ALIGN);
	return carve->base == NULL ? NULL : carve->base + at;
}

/* ecsq_model.c. Whole numbers and IEEE operations only: every machine makes the same. NULL: no memory; else kvci_free. */
struct ecsq_tables *ecsq_tables_make(const struct kvci_profile_shape *shapes, uint32_t shape_count);
void ecsq_classes_begin(struct ecsq_classes *classes);
/* The class of a shape and ratio; of those in use the nearest one when there is no room for another. */
uint32_t ecsq_classes_find(struct ecsq_classes *classes, uint32_t shape, uint32_t ratio);
/* Where a ratio is on the grid of half octaves that classes are on (a finer one gains a quarter of a percent of bytes and costs a sixth of the
 * speed), and the ratio there. Components with a ratio above ECSQ_RATIO_DEAD are not coded. */
uint32_t ecsq_ratio_grid(double ratio);
double ecsq_ratio_of(uint32_t grid);
#define ECSQ_RATIO_DEAD 3.6

#endif
