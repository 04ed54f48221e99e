/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of ecsq and ecsq+pca, for codec/ecsq*.c only.
 */
#ifndef KVCI_ECSQ_H
#define KVCI_ECSQ_H

#include "codec/ecsq_kernel.h"
#include "codec/layout.h"
#include "codec/profile.h"
#include "codec/rans.h"

enum {
	ECSQ_CLASSES_MAX = KVCI_RANS_WIDE_MAX,
	ECSQ_ALIGN = 64,          /* of what is carved out of the scratch */
	ECSQ_PIECE = 16,          /* tokens done at a time; a multiple of ECSQ_TOKENS_STEP */
	ECSQ_ROW_MAX = 32768,     /* symbols of a token */
	ECSQ_WHOLE_ONE = 256,     /* what is 1 in what goes into a basis */
};

/* A class: values of one shape, a step so many standard deviations wide. */
struct ecsq_class {
	uint32_t shape;
	double ratio;
	uint32_t limit; /* codes beyond it are escapes; at most 127 */
	uint16_t frequencies[256];
};

struct ecsq_classes {
	uint32_t count;
	struct ecsq_class classes[ECSQ_CLASSES_MAX];
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

/* ecsq_model.c: the class of a shape and ratio, made when it is new; the nearest one when there is no room. Whole numbers and IEEE
 * operations only: every machine makes the same. */
uint32_t ecsq_classes_find(struct ecsq_classes *classes, const struct kvc_profile *profile, uint32_t shape, double ratio);
/* A class with one symbol, which costs nothing: for places that hold nothing. */
uint32_t ecsq_classes_pad(struct ecsq_classes *classes);
/* A ratio on the grid of half octaves that classes are on: a finer one gains a quarter of a percent of bytes and costs a sixth of the speed.
 * Components with a ratio above ECSQ_RATIO_DEAD are not coded. */
double ecsq_ratio_grid(double ratio);
#define ECSQ_RATIO_DEAD 3.6

#endif
