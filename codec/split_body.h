/* SPDX-License-Identifier: Apache-2.0
 *
 * split: elements to planes of bytes and back. Plain loops that compilers make vectors of, compiled once for each kind of CPU by the files that
 * include this one (codec/split_<kernel>.c).
 *
 *   bf16   coded: the exponent                       rest: sign | mantissa
 *   f32    coded: the exponent                       rests: sign | upper 7 bits of the mantissa, all of them; then the lower 16
 *   f16    coded: sign, exponent, 2 bits of mantissa rest: the lower byte
 *   f8     coded: the byte                           no rest
 *
 * f16's exponent alone leaves 11 bits, which is no plane of bytes; its upper byte as a whole costs no more.
 */
#ifndef KVCI_SPLIT_BODY_H
#define KVCI_SPLIT_BODY_H

#include <string.h>

#include "codec/split.h"

static void planes_apart_bf16(const uint8_t *restrict raw, size_t count, uint8_t *restrict symbols, uint8_t *restrict rests)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t element;

		memcpy(&element, raw + 2 * i, sizeof(element));
		symbols[i] = (uint8_t)(element >> 7);
		rests[i] = (uint8_t)((element >> 8 & 0x80) | (element & 0x7f));
	}
}

static void planes_join_bf16(const uint8_t *restrict symbols, const uint8_t *restrict rests, size_t count, uint8_t *restrict raw)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t symbol = symbols[i], rest = rests[i];
		uint16_t element = (uint16_t)((rest & 0x80) << 8 | symbol << 7 | (rest & 0x7f));

		memcpy(raw + 2 * i, &element, sizeof(element));
	}
}

static void planes_apart_f16(const uint8_t *restrict raw, size_t count, uint8_t *restrict symbols, uint8_t *restrict rests)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t element;

		memcpy(&element, raw + 2 * i, sizeof(element));
		symbols[i] = (uint8_t)(element >> 8);
		rests[i] = (uint8_t)element;
	}
}

static void planes_join_f16(const uint8_t *restrict symbols, const uint8_t *restrict rests, size_t count, uint8_t *restrict raw)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t element = (uint16_t)(symbols[i] << 8 | rests[i]);

		memcpy(raw + 2 * i, &element, sizeof(element));
	}
}

static void planes_apart_f32(const uint8_t *restrict raw, size_t count, uint8_t *restrict symbols, uint8_t *restrict rests,
                             uint8_t *restrict lower)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t element;
		uint16_t low;

		memcpy(&element, raw + 4 * i, sizeof(element));
		symbols[i] = (uint8_t)(element >> 23);
		rests[i] = (uint8_t)((element >> 24 & 0x80) | (element >> 16 & 0x7f));
		low = (uint16_t)element;
		memcpy(lower + 2 * i, &low, sizeof(low));
	}
}

static void planes_join_f32(const uint8_t *restrict symbols, const uint8_t *restrict rests, const uint8_t *restrict lower,
                            size_t count, uint8_t *restrict raw)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t symbol = symbols[i], rest = rests[i], element;
		uint16_t low;

		memcpy(&low, lower + 2 * i, sizeof(low));
		element = (rest & 0x80) << 24 | symbol << 23 | (rest & 0x7f) << 16 | low;
		memcpy(raw + 4 * i, &element, sizeof(element));
	}
}

static void planes_apart(enum split_kind kind, const uint8_t *raw, size_t count, uint8_t *symbols, uint8_t *rests, uint8_t *lower)
{
	switch (kind) {
	case SPLIT_BF16:
		planes_apart_bf16(raw, count, symbols, rests);
		break;
	case SPLIT_F16:
		planes_apart_f16(raw, count, symbols, rests);
		break;
	case SPLIT_F32:
		planes_apart_f32(raw, count, symbols, rests, lower);
		break;
	case SPLIT_F8:
		memcpy(symbols, raw, count);
		break;
	case SPLIT_NONE:
		break;
	}
}

static void planes_join(enum split_kind kind, const uint8_t *symbols, const uint8_t *rests, const uint8_t *lower, size_t count, uint8_t *raw)
{
	switch (kind) {
	case SPLIT_BF16:
		planes_join_bf16(symbols, rests, count, raw);
		break;
	case SPLIT_F16:
		planes_join_f16(symbols, rests, count, raw);
		break;
	case SPLIT_F32:
		planes_join_f32(symbols, rests, lower, count, raw);
		break;
	case SPLIT_F8:
		memcpy(raw, symbols, count);
		break;
	case SPLIT_NONE:
		break;
	}
}

/* The least that is not 0 is found by what is one less of it, modulo 256. */
static void planes_range(const uint8_t *restrict symbols, size_t count, uint8_t magnitude, struct split_range *ret_range)
{
	uint8_t least = 0xff, least_but_0 = 0xff, most = 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t here = symbols[i] & magnitude, less = (uint8_t)(here - 1);

		least = here < least ? here : least;
		least_but_0 = less < least_but_0 ? less : least_but_0;
		most = here > most ? here : most;
	}
	*ret_range = (struct split_range){ .has_0 = least == 0, .least = (uint8_t)(least_but_0 + 1), .most = most };
}

static void planes_sums(const uint8_t *restrict symbols, size_t groups, uint8_t magnitude, uint32_t *restrict sums)
{
	for (size_t i = 0; i < groups * KVCI_RANS_GROUP; i++)
		sums[i] += symbols[i] & magnitude;
}

/* Exponents to symbols, and signs away from the rests: a symbol is the sign and how far the exponent is above `base`, SPLIT_ESCAPE where its channel has not
 * that. Returns whether there are such. */
static bool planes_fold(const uint8_t *restrict exponents, uint8_t *restrict rests, const uint8_t *restrict first, const uint8_t *restrict span,
                        size_t count, uint8_t base, uint8_t *restrict symbols)
{
	uint8_t escaped = 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t above = (uint8_t)(exponents[i] - base), beyond = (uint8_t)(above - first[i]) > span[i] ? SPLIT_ESCAPE : 0;

		symbols[i] = (uint8_t)((rests[i] & 0x80) | ((above & 0x7f) | beyond));
		rests[i] &= 0x7f;
		escaped |= beyond;
	}
	return escaped != 0;
}

/* And back, in place; what is escaped has some exponent. */
static bool planes_unfold(uint8_t *restrict symbols, uint8_t *restrict rests, size_t count, uint8_t base)
{
	uint8_t escaped = 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t above = symbols[i] & 0x7f;

		rests[i] |= symbols[i] & 0x80;
		symbols[i] = (uint8_t)(above + base);
		escaped |= above == SPLIT_ESCAPE;
	}
	return escaped != 0;
}

/* One block: `eighth` is an eighth of its elements. */
static inline __attribute__((always_inline)) void planes_pack_block(const uint8_t *restrict sevens, size_t eighth, uint8_t *restrict packed)
{
	for (size_t i = 0; i < eighth; i++) {
		uint8_t last = sevens[7 * eighth + i];

		for (uint32_t bit = 0; bit < 7; bit++)
			packed[bit * eighth + i] = (uint8_t)(sevens[bit * eighth + i] | (last >> bit & 1) << 7);
	}
}

static inline __attribute__((always_inline)) void planes_unpack_block(const uint8_t *restrict packed, size_t eighth, uint8_t *restrict sevens)
{
	for (size_t i = 0; i < eighth; i++) {
		uint8_t last = 0;

		for (uint32_t bit = 0; bit < 7; bit++) {
			uint8_t byte = packed[bit * eighth + i];

			sevens[bit * eighth + i] = byte & 0x7f;
			last |= (uint8_t)((byte & 0x80) >> (7 - bit));
		}
		sevens[7 * eighth + i] = last;
	}
}

static void planes_pack(const uint8_t *sevens, size_t count, uint8_t *packed)
{
	for (; count >= SPLIT_BLOCK; count -= SPLIT_BLOCK, sevens += SPLIT_BLOCK, packed += SPLIT_BLOCK / 8 * 7)
		planes_pack_block(sevens, SPLIT_BLOCK / 8, packed);
	planes_pack_block(sevens, (count + 7) / 8, packed);
}

static void planes_unpack(const uint8_t *packed, size_t count, uint8_t *sevens)
{
	for (; count >= SPLIT_BLOCK; count -= SPLIT_BLOCK, sevens += SPLIT_BLOCK, packed += SPLIT_BLOCK / 8 * 7)
		planes_unpack_block(packed, SPLIT_BLOCK / 8, sevens);
	planes_unpack_block(packed, (count + 7) / 8, sevens);
}

#define SPLIT_SLOTS(kernel_name) \
	.name = kernel_name, .apart = planes_apart, .join = planes_join, .range = planes_range, .sums = planes_sums, \
	.fold = planes_fold, .unfold = planes_unfold, .pack = planes_pack, .unpack = planes_unpack

#endif
