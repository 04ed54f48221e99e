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

QUANT_INLINE size_t body_element_bytes(uint32_t dtype)
{
	return dtype == KVC_DTYPE_F32 ? 4 : 2;
}

/* What a float's exponent is; of infinity and NaN the most. */
QUANT_INLINE uint32_t body_exponent(float value)
{
	return body_bits(value) & 0x7f800000u;
}

/* ---- a function for each type and length of rows ------------------------------------------------------------------------- */

/* call(dtype, dims) with both known to the compiler where they are usual ones. */
#ifdef KVC_CODEC_ONE_LENGTH /* builds with sanitizers: each copy costs them seconds */
#define BODY_EACH_LENGTH(call, dtype, dims) call(dtype, dims)
#else
#define BODY_EACH_LENGTH(call, dtype, dims) ((dims) == 64 ? call(dtype, 64) : (dims) == 128 ? call(dtype, 128) : call(dtype, dims))
#endif
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

/* ---- codes ------------------------------------------------------------------------------------------------------------------ */

enum { BODY_COLUMN = 64, BODY_SUM_ROWS = 256 };

QUANT_INLINE uint8_t body_fold(uint8_t code, uint8_t mask, bool fold)
{
	uint8_t below = (uint8_t)(code < 128 ? 0x7f : 0x80);

	return (fold ? code ^ below : code) & mask;
}

QUANT_INLINE void body_sums(const uint8_t *codes, uint32_t rows, uint32_t dims, uint8_t mask, bool fold, uint32_t *sums)
{
	for (uint32_t column = 0; column < dims; column += BODY_COLUMN) {
		uint32_t width = dims - column < BODY_COLUMN ? dims - column : BODY_COLUMN;

		for (uint32_t row = 0; row < rows; row += BODY_SUM_ROWS) {
			uint16_t short_sums[BODY_COLUMN] = { 0 }; /* 256 times 255 at most */
			const uint8_t *restrict from = codes + (size_t)row * dims + column;

			for (uint32_t i = row; i < rows && i < row + BODY_SUM_ROWS; i++, from += dims) {
				if (width == BODY_COLUMN)
					for (uint32_t at = 0; at < BODY_COLUMN; at++)
						short_sums[at] = (uint16_t)(short_sums[at] + body_fold(from[at], mask, fold));
				else
					for (uint32_t at = 0; at < width; at++)
						short_sums[at] = (uint16_t)(short_sums[at] + body_fold(from[at], mask, fold));
			}
			for (uint32_t at = 0; at < width; at++)
				sums[column + at] += short_sums[at];
		}
	}
}

static void quant_sums(const uint8_t *codes, uint32_t rows, uint32_t dims, uint8_t mask, bool fold, uint32_t *sums)
{
	if (fold)
		body_sums(codes, rows, dims, mask, true, sums);
	else
		body_sums(codes, rows, dims, mask, false, sums);
}

static void quant_take_off(uint8_t *restrict codes, uint32_t rows, uint32_t dims, const uint8_t *restrict offsets)
{
	for (uint32_t row = 0; row < rows; row++, codes += dims)
		for (uint32_t i = 0; i < dims; i++)
			codes[i] = (uint8_t)(codes[i] - offsets[i]);
}

static void quant_put_on(uint8_t *restrict codes, uint32_t rows, uint32_t dims, const uint8_t *restrict offsets)
{
	for (uint32_t row = 0; row < rows; row++, codes += dims)
		for (uint32_t i = 0; i < dims; i++)
			codes[i] = (uint8_t)(codes[i] + offsets[i]);
}

/* Eight bytes' lower bits moved together in three steps: pairs, fours, eights. */
QUANT_INLINE void body_pack(uint32_t bits, const uint8_t *restrict codes, size_t eights, uint8_t *restrict packed)
{
	/* Of the usual widths each byte is made alone, which makes better vectors; the bytes are the same. */
	for (size_t i = 0; bits == 4 && i < 4 * eights; i++) {
		uint16_t two;

		memcpy(&two, codes + 2 * i, sizeof(two));
		packed[i] = (uint8_t)(two | two >> 4);
	}
	for (size_t i = 0; bits == 2 && i < 2 * eights; i++) {
		uint32_t four;

		memcpy(&four, codes + 4 * i, sizeof(four));
		packed[i] = (uint8_t)(four | four >> 6 | four >> 12 | four >> 18);
	}
	if (bits == 4 || bits == 2)
		return;
	for (size_t i = 0; i < eights; i++) {
		uint64_t eight;

		memcpy(&eight, codes + 8 * i, sizeof(eight));
		eight = (eight & 0x00ff00ff00ff00ffu) | (eight & 0xff00ff00ff00ff00u) >> (8 - bits);
		eight = (eight & 0x0000ffff0000ffffu) | (eight & 0xffff0000ffff0000u) >> 2 * (8 - bits);
		eight = (eight & 0x00000000ffffffffu) | (eight & 0xffffffff00000000u) >> 4 * (8 - bits);
		memcpy(packed + bits * i, &eight, bits);
	}
}

QUANT_INLINE void body_unpack(uint32_t bits, const uint8_t *restrict packed, size_t eights, uint8_t *restrict codes)
{
	const uint64_t fours = ((uint64_t)1 << 4 * bits) - 1, pairs = (((uint64_t)1 << 2 * bits) - 1) * 0x0000000100000001u;
	const uint64_t ones = (((uint64_t)1 << bits) - 1) * 0x0001000100010001u;

	for (size_t i = 0; bits == 4 && i < 4 * eights; i++) {
		uint16_t two = packed[i];

		two = (uint16_t)((two | two << 4) & 0x0f0f);
		memcpy(codes + 2 * i, &two, sizeof(two));
	}
	for (size_t i = 0; bits == 2 && i < 2 * eights; i++) {
		uint32_t four = packed[i];

		four = (four | four << 6 | four << 12 | four << 18) & 0x03030303;
		memcpy(codes + 4 * i, &four, sizeof(four));
	}
	if (bits == 4 || bits == 2)
		return;
	for (size_t i = 0; i < eights; i++) {
		uint64_t eight = 0;

		memcpy(&eight, packed + bits * i, bits);
		eight = (eight & fours) | (eight & ~fours) << 4 * (8 - bits);
		eight = (eight & pairs) | (eight & ~pairs) << 2 * (8 - bits);
		eight = (eight & ones) | (eight & ~ones) << (8 - bits);
		memcpy(codes + 8 * i, &eight, sizeof(eight));
	}
}

#define BODY_EACH_BITS(call, bits) \
	switch (bits) { \
	case 2: call(2); break; \
	case 3: call(3); break; \
	case 4: call(4); break; \
	case 5: call(5); break; \
	case 6: call(6); break; \
	case 7: call(7); break; \
	default: call(8); break; \
	}

static void quant_pack(uint32_t bits, const uint8_t *codes, size_t eights, uint8_t *packed)
{
#define PACK(known) body_pack(known, codes, eights, packed)
	BODY_EACH_BITS(PACK, bits)
#undef PACK
}

static void quant_unpack(uint32_t bits, const uint8_t *packed, size_t eights, uint8_t *codes)
{
#define UNPACK(known) body_unpack(known, packed, eights, codes)
	BODY_EACH_BITS(UNPACK, bits)
#undef UNPACK
}

/* ---- small things of quantisers ----------------------------------------------------------------------------------------------- */

/* To the nearest whole number, ties to even, from -2^22 to 2^22: in the lower bits. */
QUANT_INLINE uint32_t body_whole(float value)
{
	return body_bits(value + 0x1.8p23f);
}

QUANT_INLINE uint16_t body_get16(const uint8_t *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

QUANT_INLINE void body_put16(uint8_t *bytes, uint16_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

/* `most` / levels as bf16, rounded up; 0 where it would be no normal number. */
QUANT_INLINE uint16_t body_scale_up(float most, float levels)
{
	uint32_t bits = (body_bits(most / levels) + 0xffff) >> 16;

	return bits < 0x80 ? 0 : (uint16_t)bits;
}

QUANT_INLINE float body_bf16(uint16_t element)
{
	return body_value((uint32_t)element << 16);
}

QUANT_INLINE float body_inverse(float scale)
{
	return scale == 0 ? 0 : 1 / scale;
}

/* Of a row's elements the largest magnitude, as bits. */
QUANT_INLINE uint32_t body_row_most(uint32_t dtype, uint32_t dims, const uint8_t *restrict row)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < dims; i++) {
		uint32_t bits = body_bits(body_load(dtype, row, i)) & 0x7fffffff;

		most = most > bits ? most : bits;
	}
	return most;
}

/* ---- int8: a scale a row ------------------------------------------------------------------------------------------------------ */

QUANT_INLINE bool body_row_encode(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, const uint8_t *restrict raw,
                                  uint8_t *restrict scales, uint8_t *restrict codes)
{
	uint32_t worst = 0;

	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += dims) {
		uint32_t most = body_row_most(dtype, dims, raw);
		uint16_t scale = body_scale_up(body_value(most), 127);
		float inverse = body_inverse(body_bf16(scale));

		worst = worst > most ? worst : most;
		body_put16(scales + (size_t)2 * row, scale);
		for (uint32_t i = 0; i < dims; i++)
			codes[i] = (uint8_t)(body_whole(body_load(dtype, raw, i) * inverse) + 128);
	}
	return worst < QUANT_INFINITE;
}

static bool quant_row_encode(const struct quant_rows *rows, const uint8_t *raw, uint8_t *scales, uint8_t *codes)
{
#define ENCODE(type, length) body_row_encode(type, length, rows, raw, scales, codes)
	return BODY_EACH(ENCODE, rows->dtype, rows->dims);
#undef ENCODE
}

QUANT_INLINE void body_row_decode(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, uint8_t *restrict raw,
                                  const uint8_t *restrict scales, const uint8_t *restrict codes)
{
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += dims) {
		float scale = body_bf16(body_get16(scales + (size_t)2 * row));

		for (uint32_t i = 0; i < dims; i++)
			body_store(dtype, raw, i, (float)(codes[i] - 128) * scale);
	}
}

static void quant_row_decode(const struct quant_rows *rows, uint8_t *raw, const uint8_t *scales, const uint8_t *codes)
{
#define DECODE(type, length) body_row_decode(type, length, rows, raw, scales, codes)
	BODY_EACH(DECODE, rows->dtype, rows->dims);
#undef DECODE
}

/* ---- kv4: groups ---------------------------------------------------------------------------------------------------------------- */

QUANT_INLINE float body_unordered(int32_t ordered)
{
	return body_value((uint32_t)quant_ordered((uint32_t)ordered)); /* its own inverse */
}

/* Lowest and scale in f16 of a range; false: not finite, or beyond f16. */
QUANT_INLINE bool body_meta(int32_t lowest, int32_t highest, float levels, uint16_t *ret_lowest, uint16_t *ret_scale)
{
	float low = body_unordered(lowest), high = body_unordered(highest);

	*ret_lowest = body_to_f16(low);
	*ret_scale = body_to_f16((high - body_from_f16(*ret_lowest)) / levels);
	return low >= -65504 && high <= 65504;
}

QUANT_INLINE uint8_t body_code(float value, float low, float inverse, float levels)
{
	float code = (value - low) * inverse;

	code = code < 0 ? 0 : code;
	code = code > levels ? levels : code;
	return (uint8_t)body_whole(code);
}

/* Rows whose scales are made at once: one after another they would be a chain of scalar steps longer than all the rest. */
enum { BODY_BATCH = 16 };

struct body_batch {
	int32_t lowest[BODY_BATCH], highest[BODY_BATCH];
	uint16_t low16[BODY_BATCH], scale16[BODY_BATCH];
	float low[BODY_BATCH], inverse[BODY_BATCH];
};

QUANT_INLINE void body_batch_meta(struct body_batch *restrict batch, float levels)
{
	for (uint32_t i = 0; i < BODY_BATCH; i++) {
		body_meta(batch->lowest[i], batch->highest[i], levels, &batch->low16[i], &batch->scale16[i]);
		batch->low[i] = body_from_f16(batch->low16[i]);
		batch->inverse[i] = body_inverse(body_from_f16(batch->scale16[i]));
	}
}

/* `length` elements of up to BODY_BATCH rows; false: not finite, or beyond f16. */
QUANT_INLINE bool body_batch_encode(uint32_t dtype, uint32_t length, const struct quant_rows *rows, uint32_t count, const uint8_t *restrict raw,
                                    float levels, uint8_t *restrict meta, uint32_t groups, uint8_t *restrict codes)
{
	struct body_batch batch = { .lowest = { 0 } };
	const uint8_t *restrict row = raw;
	uint32_t wrong = 0;

	for (uint32_t at = 0; at < count; at++, row += rows->row_bytes) {
		int32_t lowest = INT32_MAX, highest = INT32_MIN;

		for (uint32_t i = 0; i < length; i++) {
			int32_t ordered = quant_ordered(body_bits(body_load(dtype, row, i)));

			lowest = lowest < ordered ? lowest : ordered;
			highest = highest > ordered ? highest : ordered;
		}
		wrong |= (uint32_t)(lowest < quant_ordered(body_bits(-65504.0f))) | (uint32_t)(highest > quant_ordered(body_bits(65504.0f)));
		batch.lowest[at] = lowest;
		batch.highest[at] = highest;
	}
	body_batch_meta(&batch, levels);
	for (uint32_t at = 0; at < count; at++, raw += rows->row_bytes, codes += rows->dims, meta += (size_t)4 * groups) {
		body_put16(meta, batch.low16[at]);
		body_put16(meta + (size_t)2 * groups, batch.scale16[at]);
		for (uint32_t i = 0; i < length; i++)
			codes[i] = body_code(body_load(dtype, raw, i), batch.low[at], batch.inverse[at], levels);
	}
	return wrong == 0;
}

QUANT_INLINE bool body_group_encode(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, const uint8_t *raw, uint32_t group,
                                    float levels, uint8_t *meta, uint8_t *codes)
{
	uint32_t groups = (dims + group - 1) / group;
	bool right = true;

	for (uint32_t begin = 0; begin < dims; begin += group) {
		uint32_t length = dims - begin < group ? dims - begin : group;

		for (uint32_t done = 0; done < rows->count; done += BODY_BATCH)
			right &= body_batch_encode(dtype, length, rows, rows->count - done < BODY_BATCH ? rows->count - done : BODY_BATCH,
			                           raw + done * rows->row_bytes + begin * body_element_bytes(dtype), levels,
			                           meta + (size_t)4 * groups * done + (size_t)2 * (begin / group), groups,
			                           codes + (size_t)done * dims + begin);
	}
	return right;
}

static bool quant_group_encode(const struct quant_rows *rows, const uint8_t *raw, uint32_t group, uint32_t levels, uint8_t *meta,
                               uint8_t *codes)
{
	const struct quant_rows here = *rows;

#define ENCODE(type, length) \
	(group == 64 ? body_group_encode(type, length, &here, raw, 64, (float)levels, meta, codes) : \
	               body_group_encode(type, length, &here, raw, group, (float)levels, meta, codes))
	return BODY_EACH(ENCODE, here.dtype, here.dims);
#undef ENCODE
}

QUANT_INLINE void body_group_decode(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, uint8_t *restrict raw, uint32_t group,
                                    const uint8_t *restrict meta, const uint8_t *restrict codes)
{
	uint32_t groups = (dims + group - 1) / group;

	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += dims, meta += (size_t)4 * groups)
		for (uint32_t begin = 0; begin < dims; begin += group) {
			float low = body_from_f16(body_get16(meta + (size_t)2 * (begin / group)));
			float scale = body_from_f16(body_get16(meta + (size_t)2 * (groups + begin / group)));
			uint32_t length = dims - begin < group ? dims - begin : group;

			for (uint32_t i = 0; i < length; i++)
				body_store(dtype, raw, begin + i, low + (float)codes[begin + i] * scale);
		}
}

static void quant_group_decode(const struct quant_rows *rows, uint8_t *raw, uint32_t group, const uint8_t *meta, const uint8_t *codes)
{
#define DECODE(type, length) \
	(group == 64 ? body_group_decode(type, length, rows, raw, 64, meta, codes) : body_group_decode(type, length, rows, raw, group, meta, codes))
	BODY_EACH(DECODE, rows->dtype, rows->dims);
#undef DECODE
}

QUANT_INLINE void body_range(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, const uint8_t *restrict raw,
                             int32_t *restrict lowest, int32_t *restrict highest)
{
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes)
		for (uint32_t i = 0; i < dims; i++) {
			int32_t ordered = quant_ordered(body_bits(body_load(dtype, raw, i)));

			lowest[i] = lowest[i] < ordered ? lowest[i] : ordered;
			highest[i] = highest[i] > ordered ? highest[i] : ordered;
		}
}

static void quant_range(const struct quant_rows *rows, const uint8_t *raw, int32_t *lowest, int32_t *highest)
{
#define RANGE(type, length) body_range(type, length, rows, raw, lowest, highest)
	BODY_EACH(RANGE, rows->dtype, rows->dims);
#undef RANGE
}

static bool quant_channel_meta(uint32_t dims, const int32_t *restrict lowest, const int32_t *restrict highest, uint32_t levels,
                               uint8_t *restrict meta)
{
	uint8_t *restrict scales = meta + (size_t)2 * dims;
	uint32_t wrong = 0;

	for (uint32_t i = 0; i < dims; i++) {
		uint16_t low16, scale16;

		body_meta(lowest[i], highest[i], (float)levels, &low16, &scale16);
		body_put16(meta + (size_t)2 * i, low16);
		body_put16(scales + (size_t)2 * i, scale16);
	}
	/* What is not finite is beyond these, too, in the order of the integers. */
	for (uint32_t i = 0; i < dims; i++)
		wrong |= (uint32_t)(lowest[i] < quant_ordered(body_bits(-65504.0f))) | (uint32_t)(highest[i] > quant_ordered(body_bits(65504.0f)));
	return wrong == 0;
}

/* Channels that are done at once: what belongs to them stays in registers or the first cache. Pointers are moved to a stretch's begin, as a sum of
 * 32 bits in an index, which could wrap, would keep the compiler from making vectors. */
enum { BODY_STRETCH = 128 };

QUANT_INLINE void body_channel_encode(uint32_t dtype, uint32_t width, const struct quant_rows *rows, const uint8_t *restrict raw,
                                      float levels, const uint8_t *restrict meta, uint8_t *restrict codes)
{
	const uint8_t *restrict scales = meta + (size_t)2 * rows->dims;
	float low[BODY_STRETCH], inverse[BODY_STRETCH];

	for (uint32_t i = 0; i < width; i++) {
		low[i] = body_from_f16(body_get16(meta + (size_t)2 * i));
		inverse[i] = body_inverse(body_from_f16(body_get16(scales + (size_t)2 * i)));
	}
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += rows->dims)
		for (uint32_t i = 0; i < width; i++)
			codes[i] = body_code(body_load(dtype, raw, i), low[i], inverse[i], levels);
}

static void quant_channel_encode(const struct quant_rows *rows, const uint8_t *raw, uint32_t levels, const uint8_t *meta, uint8_t *codes)
{
	const struct quant_rows here = *rows;

	for (uint32_t begin = 0; begin < here.dims; begin += BODY_STRETCH) {
		uint32_t width = here.dims - begin < BODY_STRETCH ? here.dims - begin : BODY_STRETCH;

#define ENCODE(type, length) body_channel_encode(type, length, &here, raw, (float)levels, meta, codes)
		BODY_EACH(ENCODE, here.dtype, width);
#undef ENCODE
		raw += BODY_STRETCH * body_element_bytes(here.dtype);
		codes += BODY_STRETCH;
		meta += 2 * BODY_STRETCH;
	}
}

QUANT_INLINE void body_channel_decode(uint32_t dtype, uint32_t width, const struct quant_rows *rows, uint8_t *restrict raw,
                                      const uint8_t *restrict meta, const uint8_t *restrict codes)
{
	const uint8_t *restrict scales = meta + (size_t)2 * rows->dims;
	float low[BODY_STRETCH], scale[BODY_STRETCH];

	for (uint32_t i = 0; i < width; i++) {
		low[i] = body_from_f16(body_get16(meta + (size_t)2 * i));
		scale[i] = body_from_f16(body_get16(scales + (size_t)2 * i));
	}
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += rows->dims)
		for (uint32_t i = 0; i < width; i++)
			body_store(dtype, raw, i, low[i] + (float)codes[i] * scale[i]);
}

static void quant_channel_decode(const struct quant_rows *rows, uint8_t *raw, const uint8_t *meta, const uint8_t *codes)
{
	const struct quant_rows here = *rows;

	for (uint32_t begin = 0; begin < here.dims; begin += BODY_STRETCH) {
		uint32_t width = here.dims - begin < BODY_STRETCH ? here.dims - begin : BODY_STRETCH;

#define DECODE(type, length) body_channel_decode(type, length, &here, raw, meta, codes)
		BODY_EACH(DECODE, here.dtype, width);
#undef DECODE
		raw += BODY_STRETCH * body_element_bytes(here.dtype);
		codes += BODY_STRETCH;
		meta += 2 * BODY_STRETCH;
	}
}

/* ---- fp8 ------------------------------------------------------------------------------------------------------------------------ */

/* Both forms are a float's upper bits with another bias, rounded to even; below the least normal number a sum does the rounding. */
QUANT_INLINE uint8_t body_to_f8(bool e5m2, float value)
{
	float most = e5m2 ? 57344 : 448, clamped = body_clamp(value, most), lifted;
	uint32_t shift = e5m2 ? 21 : 20, bias = e5m2 ? 112 : 120, least = (bias + 1) << 23;
	uint32_t sign = body_bits(clamped) & 0x80000000u, bits = body_bits(clamped) ^ sign, small, normal;

	/* One step of a denormal is the last bit of this sum. */
	lifted = body_value(bits) + body_value((bias + 1 + shift) << 23);
	small = body_bits(lifted) - ((bias + 1 + shift) << 23);
	normal = (bits - (bias << 23) + ((uint32_t)1 << (shift - 1)) - 1 + (bits >> shift & 1)) >> shift;
	return (uint8_t)((bits < least ? small : normal) | sign >> 24);
}

QUANT_INLINE float body_from_f8(bool e5m2, uint8_t code)
{
	float value = body_value((uint32_t)(code & 0x7f) << (e5m2 ? 21 : 20)) * (e5m2 ? 0x1p112f : 0x1p120f);

	return body_value(body_bits(value) | (uint32_t)(code & 0x80) << 24);
}

QUANT_INLINE bool body_row_scales(uint32_t dtype, uint32_t dims, const struct quant_rows *rows, const uint8_t *restrict raw, float most,
                                  uint8_t *restrict scales)
{
	uint32_t worst = 0;

	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes) {
		uint32_t bits = body_row_most(dtype, dims, raw);

		worst = worst > bits ? worst : bits;
		body_put16(scales + (size_t)2 * row, body_scale_up(body_value(bits), most));
	}
	return worst < QUANT_INFINITE;
}

static bool quant_row_scales(const struct quant_rows *rows, const uint8_t *raw, float most, uint8_t *scales)
{
#define SCALES(type, length) body_row_scales(type, length, rows, raw, most, scales)
	return BODY_EACH(SCALES, rows->dtype, rows->dims);
#undef SCALES
}

QUANT_INLINE void body_f8_encode(uint32_t dtype, uint32_t width, const struct quant_rows *rows, const uint8_t *restrict raw,
                                 bool e5m2, bool by_row, const uint8_t *restrict scales, uint8_t *restrict codes)
{
	float inverse[BODY_STRETCH];

	for (uint32_t i = 0; !by_row && i < width; i++)
		inverse[i] = body_inverse(body_bf16(body_get16(scales + (size_t)2 * i)));
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += rows->dims) {
		float factor = by_row ? body_inverse(body_bf16(body_get16(scales + (size_t)2 * row))) : 0;

		for (uint32_t i = 0; i < width; i++)
			codes[i] = body_to_f8(e5m2, body_load(dtype, raw, i) * (by_row ? factor : inverse[i]));
	}
}

static void quant_f8_encode(const struct quant_rows *rows, const uint8_t *raw, bool e5m2, bool by_row, const uint8_t *scales, uint8_t *codes)
{
	const struct quant_rows here = *rows;

	for (uint32_t begin = 0; begin < here.dims; begin += BODY_STRETCH) {
		uint32_t width = here.dims - begin < BODY_STRETCH ? here.dims - begin : BODY_STRETCH;

#define ENCODE(type, length) \
	(by_row ? body_f8_encode(type, length, &here, raw, e5m2, true, scales, codes) : \
	          body_f8_encode(type, length, &here, raw, e5m2, false, scales, codes))
		BODY_EACH(ENCODE, here.dtype, width);
#undef ENCODE
		raw += BODY_STRETCH * body_element_bytes(here.dtype);
		codes += BODY_STRETCH;
		scales += by_row ? 0 : 2 * BODY_STRETCH;
	}
}

QUANT_INLINE void body_f8_decode(uint32_t dtype, uint32_t width, const struct quant_rows *rows, uint8_t *restrict raw, bool e5m2,
                                 bool by_row, const uint8_t *restrict scales, const uint8_t *restrict codes)
{
	float scale[BODY_STRETCH];

	for (uint32_t i = 0; !by_row && i < width; i++)
		scale[i] = body_bf16(body_get16(scales + (size_t)2 * i));
	for (uint32_t row = 0; row < rows->count; row++, raw += rows->row_bytes, codes += rows->dims) {
		float factor = by_row ? body_bf16(body_get16(scales + (size_t)2 * row)) : 0;

		for (uint32_t i = 0; i < width; i++)
			body_store(dtype, raw, i, body_from_f8(e5m2, codes[i]) * (by_row ? factor : scale[i]));
	}
}

static void quant_f8_decode(const struct quant_rows *rows, uint8_t *raw, bool e5m2, bool by_row, const uint8_t *scales, const uint8_t *codes)
{
	const struct quant_rows here = *rows;

	for (uint32_t begin = 0; begin < here.dims; begin += BODY_STRETCH) {
		uint32_t width = here.dims - begin < BODY_STRETCH ? here.dims - begin : BODY_STRETCH;

#define DECODE(type, length) \
	(by_row ? body_f8_decode(type, length, &here, raw, e5m2, true, scales, codes) : \
	          body_f8_decode(type, length, &here, raw, e5m2, false, scales, codes))
		BODY_EACH(DECODE, here.dtype, width);
#undef DECODE
		raw += BODY_STRETCH * body_element_bytes(here.dtype);
		codes += BODY_STRETCH;
		scales += by_row ? 0 : 2 * BODY_STRETCH;
	}
}

#define QUANT_SLOTS(kernel_name) \
	.name = kernel_name, .load = quant_load, .store = quant_store, .sums = quant_sums, .take_off = quant_take_off, \
	.put_on = quant_put_on, .pack = quant_pack, .unpack = quant_unpack, .row_encode = quant_row_encode, \
	.row_decode = quant_row_decode, .group_encode = quant_group_encode, .group_decode = quant_group_decode, .range = quant_range, \
	.channel_meta = quant_channel_meta, .channel_encode = quant_channel_encode, .channel_decode = quant_channel_decode, \
	.row_scales = quant_row_scales, .f8_encode = quant_f8_encode, .f8_decode = quant_f8_decode

#endif
