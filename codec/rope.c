/* SPDX-License-Identifier: Apache-2.0
 *
 * RoPE: tables, rows, and the choice of a kernel.
 */
#include "codec/rope.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "codec/rope_kernel.h"

/* A position is a multiple of ROPE_RUN and what is left of it. Turns of both are computed, and put together for each token: the table of a run of
 * tokens costs a fifth, and its rows still follow from their positions alone. */
enum { ROPE_RUN = 16 };

static const struct rope_kernel *const rope_kernels[] = {
#if defined(__x86_64__)
	&kvci_rope_kernel_avx2,
#endif
	&kvci_rope_kernel_scalar,
};

static _Atomic(const struct rope_kernel *) rope_selected;

static const struct rope_kernel *rope_kernel(void)
{
	const struct rope_kernel *kernel = atomic_load_explicit(&rope_selected, memory_order_relaxed);

	if (kernel != NULL)
		return kernel;
	/* Two threads may both come here: they find the same. The last one is usable everywhere. */
	for (size_t i = 0; i < sizeof(rope_kernels) / sizeof(rope_kernels[0]); i++) {
		kernel = rope_kernels[i];
		if (kernel->usable())
			break;
	}
	atomic_store_explicit(&rope_selected, kernel, memory_order_relaxed);
	return kernel;
}

const char *kvci_rope_kernel(void)
{
	return rope_kernel()->name;
}

int kvci_rope_select(const char *name)
{
	for (size_t i = 0; i < sizeof(rope_kernels) / sizeof(rope_kernels[0]); i++) {
		if (strcmp(rope_kernels[i]->name, name) == 0 && rope_kernels[i]->usable()) {
			atomic_store_explicit(&rope_selected, rope_kernels[i], memory_order_relaxed);
			return 1;
		}
	}
	return 0;
}

kvc_status_t kvci_rope_check(const struct kvci_rope *rope, uint32_t row_dims)
{
	if (rope->style != KVCI_ROPE_NEOX && rope->style != KVCI_ROPE_GPTJ)
		return KVC_INVALID;
	if (rope->dims == 0 || rope->dims % 2 != 0 || rope->dims > row_dims || rope->first_dim > row_dims - rope->dims)
		return KVC_INVALID;
	if (!isfinite(rope->factor) || rope->factor <= 0 || rope->inv_freq == NULL)
		return KVC_INVALID;
	for (uint32_t i = 0; i < rope->dims / 2; i++) {
		if (!isfinite(rope->inv_freq[i]))
			return KVC_INVALID;
	}
	return KVC_OK;
}

/* Turns of the frequencies from `first` on at a position. fmod is exact, hence the same everywhere. */
static void rope_exact(const struct kvci_rope *rope, uint32_t first, uint32_t count, double position, struct rope_turns *ret_turns)
{
	double angle[ROPE_PIECE];

	for (uint32_t i = 0; i < count; i++) {
		angle[i] = position * (double)rope->inv_freq[first + i];
		if (fabs(angle[i]) > ROPE_ANGLE_MAX)
			angle[i] = fmod(angle[i], 0x1.921fb54442d18p+2);
	}
	rope_kernel()->exact(angle, count, ret_turns);
}

/* `count` columns of a table's cosines, and of its sines, from `first` on. */
static void rope_columns(const struct kvci_rope *rope, uint32_t first, uint32_t count, enum kvci_rope_direction direction, uint64_t position,
                         size_t tokens, float *ret_table)
{
	double factor = (double)rope->factor, scale = direction == KVCI_ROPE_FORWARD ? factor : 1 / factor;
	double sin_scale = direction == KVCI_ROPE_FORWARD ? scale : -scale;
	const struct rope_kernel *kernel = rope_kernel();
	struct rope_turns run, steps[ROPE_RUN];
	uint32_t known = 0; /* of the steps */

	for (size_t t = 0; t < tokens; t++, ret_table += rope->dims) {
		uint32_t step = (uint32_t)((position + t) % ROPE_RUN);

		if (t == 0 || step == 0)
			rope_exact(rope, first, count, (double)(position + t - step), &run);
		if ((known >> step & 1) == 0)
			rope_exact(rope, first, count, step, &steps[step]);
		known |= 1u << step;
		kernel->both(&run, &steps[step], count, scale, sin_scale, ret_table + first, ret_table + rope->dims / 2 + first);
	}
}

void kvci_rope_table(const struct kvci_rope *rope, enum kvci_rope_direction direction, uint64_t position, size_t tokens,
                     float *ret_table)
{
	uint32_t half = rope->dims / 2;

	for (uint32_t at = 0; at < half; at += ROPE_PIECE)
		rope_columns(rope, at, half - at < ROPE_PIECE ? half - at : ROPE_PIECE, direction, position, tokens, ret_table);
}

void kvci_rope_table_move(const struct kvci_rope *rope, uint64_t from, uint64_t to, float *ret_table)
{
	uint32_t half = rope->dims / 2;
	struct rope_turns turns;

	for (uint32_t at = 0; at < half; at += ROPE_PIECE) {
		uint32_t count = half - at < ROPE_PIECE ? half - at : ROPE_PIECE;

		rope_exact(rope, at, count, from < to ? (double)(to - from) : -(double)(from - to), &turns);
		for (uint32_t i = 0; i < count; i++) {
			ret_table[at + i] = (float)turns.cosines[i];
			ret_table[half + at + i] = (float)turns.sines[i];
		}
	}
}

void kvci_rope_apply(const struct kvci_rope *rope, const float *table, size_t table_stride, float *rows, size_t tokens,
                     size_t row_stride)
{
	const struct rope_kernel *kernel = rope_kernel();
	void (*turn)(const float *row, size_t half, float *values) = rope->style == KVCI_ROPE_NEOX ? kernel->neox : kernel->gptj;

	for (size_t t = 0; t < tokens; t++)
		turn(table + t * table_stride, rope->dims / 2, rows + t * row_stride + rope->first_dim);
}
