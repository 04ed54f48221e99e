/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of the kernels of ecsq (codec/ecsq_kernel.h), for codec/ecsq_<kernel>.c only: plain loops that the compiler makes vectors of.
 */
#ifndef KVCI_ECSQ_BODY_H
#define KVCI_ECSQ_BODY_H

#include <string.h>

#include "codec/ecsq_kernel.h"

static void body_dequantise(const uint8_t *symbols, size_t symbol_stride, const float *restrict mean, const float *restrict scale,
                            uint32_t count, uint32_t rows, float *restrict values, size_t stride)
{
	for (uint32_t row = 0; row < rows; row++, symbols += symbol_stride, values += stride)
		for (uint32_t i = 0; i < count; i++)
			values[i] = mean[i] + (float)((int32_t)symbols[i] - ECSQ_SYMBOL_ZERO) * scale[i];
}

/* The symbols of a row from `begin` on. */
static inline void body_quantise_row(const float *restrict values, const float *restrict mean, const float *restrict inverse,
                                     const uint8_t *restrict limit, uint32_t begin, uint32_t count, uint8_t *restrict symbols)
{
	for (uint32_t i = begin; i < count; i++) {
		int32_t code = kvci_ecsq_code(values[i], mean[i], inverse[i]);
		int32_t magnitude = code < 0 ? -code : code;

		symbols[i] = (uint8_t)(magnitude <= limit[i] ? code + ECSQ_SYMBOL_ZERO : 0);
	}
}

static void body_quantise(const float *values, size_t stride, const float *mean, const float *inverse, const uint8_t *limit, uint32_t count,
                          uint32_t rows, uint8_t *symbols, size_t symbol_stride)
{
	for (uint32_t row = 0; row < rows; row++, symbols += symbol_stride, values += stride) {
		uint32_t done = 0;

#if defined(ECSQ_OWN_QUANTISE)
		done = body_quantise_most(values, mean, inverse, limit, count, symbols);
#endif
		body_quantise_row(values, mean, inverse, limit, done, count, symbols);
	}
}

static void body_codes(const uint8_t *restrict symbols, size_t symbol_stride, uint32_t count, uint32_t rows, int16_t *restrict out,
                       size_t out_stride)
{
	for (uint32_t row = 0; row < rows; row++, symbols += symbol_stride, out += out_stride)
		for (uint32_t i = 0; i < count; i++)
			out[i] = (int16_t)(symbols[i] - ECSQ_SYMBOL_ZERO);
}

static bool body_whole(const float *restrict values, size_t stride, const float *restrict mean, const float *restrict inverse, uint32_t count,
                       uint32_t rows, int16_t *restrict out, size_t out_stride)
{
	uint32_t beyond = 0;

	for (uint32_t row = 0; row < rows; row++, values += stride, out += out_stride)
		for (uint32_t i = 0; i < count; i++) {
			int32_t code = kvci_ecsq_code(values[i], mean[i], inverse[i]);

			beyond |= (uint32_t)(code > INT16_MAX) | (uint32_t)(code < -INT16_MAX);
			out[i] = (int16_t)code;
		}
	return beyond == 0;
}

static uint64_t body_length(const int16_t *whole, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += (uint32_t)(whole[i] * whole[i]);
	return sum;
}

static float body_square(const float *row, uint32_t count)
{
	float lanes[16] = { 0 };
	uint32_t i;

	for (i = 0; i + 16 <= count; i += 16)
		for (uint32_t lane = 0; lane < 16; lane++)
			lanes[lane] += row[i + lane] * row[i + lane];
	for (; i < count; i++)
		lanes[0] += row[i] * row[i];
	for (uint32_t lane = 1; lane < 16; lane++)
		lanes[0] += lanes[lane];
	return lanes[0];
}

static double body_length_wide(const int32_t *sums, uint32_t count)
{
	double lanes[8] = { 0 };
	uint32_t i;

	for (i = 0; i + 8 <= count; i += 8)
		for (int lane = 0; lane < 8; lane++)
			lanes[lane] += (double)sums[i + lane] * (double)sums[i + lane];
	for (; i < count; i++)
		lanes[0] += (double)sums[i] * (double)sums[i];
	return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

static void body_restore(const int32_t *restrict sums, size_t sum_stride, const float *restrict mean, const float *restrict scale,
                         uint32_t count, uint32_t rows, float *restrict values, size_t stride)
{
	for (uint32_t row = 0; row < rows; row++, sums += sum_stride, values += stride)
		for (uint32_t i = 0; i < count; i++)
			values[i] = mean[i] + (float)sums[i] * scale[i];
}

#if !defined(ECSQ_OWN_MULTIPLY)
static void body_multiply(const int16_t *in, size_t in_stride, uint32_t tokens, uint32_t pairs, const int16_t *matrix, uint32_t rows,
                          uint32_t outputs, int32_t *out, size_t out_stride)
{
	size_t panel_elements = ((size_t)rows + 1) / 2 * 2 * ECSQ_PANEL;

	for (uint32_t panel = 0; panel * ECSQ_PANEL < outputs; panel++)
		for (uint32_t token = 0; token < tokens; token++) {
			uint32_t sums[ECSQ_PANEL] = { 0 };

			for (uint32_t pair = 0; pair < pairs; pair++) {
				const int16_t *restrict elements = matrix + panel * panel_elements + pair * (size_t)(2 * ECSQ_PANEL);
				int32_t even = in[token * in_stride + 2 * pair], odd = in[token * in_stride + 2 * pair + 1];

				if (even == 0 && odd == 0)
					continue;
				for (uint32_t i = 0; i < ECSQ_PANEL; i++)
					sums[i] += (uint32_t)(even * elements[2 * i]) + (uint32_t)(odd * elements[2 * i + 1]);
			}
			memcpy(out + token * out_stride + panel * ECSQ_PANEL, sums, sizeof(sums));
		}
}
#endif

#define ECSQ_SLOTS(kernel_name) \
	.name = kernel_name, .dequantise = body_dequantise, .quantise = body_quantise, .codes = body_codes, \
	.whole = body_whole, .length = body_length, .square = body_square, .length_wide = body_length_wide, .restore = body_restore, .multiply = body_multiply

#endif
