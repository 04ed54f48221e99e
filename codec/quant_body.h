/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of the kernels of the lossy codecs (codec/quant.h), for codec/quant_<kernel>.c only. Plain loops that the compiler makes vectors of;
 * rows of 64 and 128 elements have copies of their own, so that short loops need no ends.
 */
#ifndef KVCI_QUANT_BODY_H
#define KVCI_QUANT_BODY_H

#include <string.h>

#include <kvcask/form.h>

#include "codec/quant.h"

#define QUANT_INLINE static inline __attribute__((always_inline))

QUANT_INLINE uint32_t body_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

QUANT_INLINE float body_value(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* ---- elements and floats ---------------------------------------------------------------------------------------------- */

QUANT_INLINE float body_from_f16(uint16_t element)
{
	/* The exponent's bias is put right by a product, which is exact for denormals, too. */
	float value = body_value((uint32_t)(element & 0x7fff) << 13) * 0x1p112f;
	uint32_t bits = body_bits(value);

	bits = (element & 0x7c00) == 0x7c00 ? bits | 0x7f800000u : bits;
	return body_value(bits | (uint32_t)(element & 0x8000) << 16);
}

/* Finite, as codec/layout.h says. NaN fails the first comparison. */
QUANT_INLINE float body_clamp(float value, float most)
{
	value = value < most ? value : most;
	return value > -most ? value : -most;
}

QUANT_INLINE uint16_t body_to_f16(float value)
{
	float clamped = body_clamp(value, 65504.0f), magnitude;
	uint32_t sign = body_bits(clamped) & 0x80000000u, bits = body_bits(clamped) ^ sign, small, normal;

	/* Below 2^-14 the sum's last bit is 2^-24: it rounds as the denormal must. */
	magnitude = body_value(bits) + 0.5f;
	small = body_bits(magnitude) - 0x3f000000u;
	normal = (bits - 0x38000000u + 0xfff + (bits >> 13 & 1)) >> 13;
	return (uint16_t)((bits < 0x38800000u ? small : normal) | sign >> 16);
}

QUANT_INLINE uint16_t body_to_bf16(float value)
{
	uint32_t bits = body_bits(body_clamp(value, 0x1.fep127f));

	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

QUANT_INLINE float body_load(uint32_t dtype, const uint8_t *row, uint32_t at)
{
	uint16_t element;
	float value;

	if (dtype == KVC_DTYPE_F32) {
		memcpy(&value, row + (size_t)4 * at, sizeof(value));
		return value;
	}
	memcpy(&element, row + (size_t)2 * at, sizeof(element));
	return dtype == KVC_DTYPE_BF16 ? body_value((uint32_t)element << 16) : body_from_f16(element);
}

QUANT_INLINE void body_store(uint32_t dtype, uint8_t *row, uint32_t at, float value)
{
	uint16_t element;

	if (dtype == KVC_DTYPE_F32) {
		value = body_clamp(value, 0x1.fffffep127f);
		memcpy(row + (size_t)4 * at, &value, sizeof(value));
		return;
	}
	element = dtype == KVC_DTYPE_BF16 ? body_to_bf16(value) : body_to_f16(value);
	memcpy(row + (size_t)2 * at, &element, sizeof(element));
}

/* What a float's exponent is; of infinity and NaN the most. */
QUANT_INLINE uint32_t body_exponent(float value)
{
	return body_bits(value) & 0x7f800000u;
}

/* ---- a function for each type and length of rows ------------------------------------------------------------------------- */

/* call(dtype, dims) with both known to the compiler where they are usual ones. */
#define BODY_EACH_LENGTH(call, dtype, dims) ((dims) == 64 ? call(dtype, 64) : (dims) == 128 ? call(dtype, 128) : call(dtype, dims))
#define BODY_EACH(call, dtype, dims) \
	((dtype) == KVC_DTYPE_BF16 ? BODY_EACH_LENGTH(call, KVC_DTYPE_BF16, dims) : \
	 (dtype) == KVC_DTYPE_F16  ? BODY_EACH_LENGTH(call, KVC_DTYPE_F16, dims) : \
	                             BODY_EACH_LENGTH(call, KVC_DTYPE_F32, dims))

/* ---- rows as floats ------------------------------------------------------------------------------------------------------- */

QUANT_INLINE bool body_load_rows(uint32_t dtype, uint32_t dims, const uint8_t *restrict rows, size_t row_bytes, uint32_t count,
                                 float *restrict floats, size_t stride)
{
	uint32_t most = 0;

	for (uint32_t row = 0; row < count; row++, rows += row_bytes, floats += stride)
		for (uint32_t i = 0; i < dims; i++) {
			float value = body_load(dtype, rows, i);
			uint32_t exponent = body_exponent(value);

			floats[i] = value;
			most = most > exponent ? most : exponent;
		}
	return most != 0x7f800000u;
}

static bool quant_load(uint32_t dtype, const uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, float *floats, size_t stride)
{
#define LOAD(type, length) body_load_rows(type, length, rows, row_bytes, count, floats, stride)
	return BODY_EACH(LOAD, dtype, dims);
#undef LOAD
}

QUANT_INLINE void body_store_rows(uint32_t dtype, uint32_t dims, uint8_t *restrict rows, size_t row_bytes, uint32_t count,
                                  const float *restrict floats, size_t stride)
{
	for (uint32_t row = 0; row < count; row++, rows += row_bytes, floats += stride)
		for (uint32_t i = 0; i < dims; i++)
			body_store(dtype, rows, i, floats[i]);
}

static void quant_store(uint32_t dtype, uint8_t *rows, size_t row_bytes, uint32_t count, uint32_t dims, const float *floats, size_t stride)
{
#define STORE(type, length) body_store_rows(type, length, rows, row_bytes, count, floats, stride)
	BODY_EACH(STORE, dtype, dims);
#undef STORE
}

#define QUANT_SLOTS(kernel_name) .name = kernel_name, .load = quant_load, .store = quant_store

#endif
