/* SPDX-License-Identifier: Apache-2.0
 *
 * The copy kernel of any CPU: XXH3's accumulate loop in plain C over a bounce block in the first-level cache, so that each source byte is
 * read once.
 */
#include <string.h>

#include "base/copy_kernel.h"

static uint64_t scalar_read64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static void scalar_accumulate(uint64_t acc[8], const uint8_t *stripe, const uint8_t *secret)
{
	for (int lane = 0; lane < 8; lane++) {
		uint64_t value = scalar_read64(stripe + 8 * lane);
		uint64_t keyed = value ^ scalar_read64(secret + 8 * lane);

		acc[lane ^ 1] += value;
		acc[lane] += (keyed & UINT32_MAX) * (keyed >> 32);
	}
}

static void scalar_scramble(uint64_t acc[8], const uint8_t *secret)
{
	for (int lane = 0; lane < 8; lane++) {
		uint64_t value = acc[lane] ^ (acc[lane] >> 47);

		acc[lane] = (value ^ scalar_read64(secret + 8 * lane)) * UINT32_C(0x9E3779B1);
	}
}

/* Up to the next scramble: the stripes that are left of this block. */
static size_t scalar_hash_some(struct kvci_copy_state *state, const uint8_t *stripes, size_t count)
{
	size_t room = COPY_BLOCK_STRIPES - state->stripes_in_block;

	if (count > room)
		count = room;
	for (size_t i = 0; i < count; i++)
		scalar_accumulate(state->acc, stripes + i * COPY_STRIPE_BYTES, state->secret + 8 * (state->stripes_in_block + i));
	state->stripes_in_block += (uint32_t)count;
	if (state->stripes_in_block == COPY_BLOCK_STRIPES) {
		scalar_scramble(state->acc, state->secret + COPY_SCRAMBLE_SECRET);
		state->stripes_in_block = 0;
	}
	return count;
}

static void scalar_copy(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes)
{
	_Alignas(64) uint8_t bounce[COPY_BLOCK_STRIPES * COPY_STRIPE_BYTES];

	while (stripes != 0) {
		size_t count = stripes < COPY_BLOCK_STRIPES ? stripes : COPY_BLOCK_STRIPES;
		size_t bytes;

		memcpy(bounce, src, count * COPY_STRIPE_BYTES);
		count = scalar_hash_some(state, bounce, count);
		bytes = count * COPY_STRIPE_BYTES;
		if (dst != NULL) {
			memcpy(dst, bounce, bytes);
			dst += bytes;
		}
		memcpy(state->last, bounce + bytes - COPY_STRIPE_BYTES, COPY_STRIPE_BYTES);
		src += bytes;
		stripes -= count;
	}
}

static void scalar_hash(struct kvci_copy_state *state, const uint8_t *src, size_t stripes)
{
	scalar_copy(state, NULL, src, stripes);
}

static void scalar_bare(uint8_t *dst, const uint8_t *src, size_t stripes)
{
	memcpy(dst, src, stripes * COPY_STRIPE_BYTES);
}

static int scalar_usable(void)
{
	return 1;
}

const struct copy_kernel kvci_copy_kernel_scalar = {
	.name = "scalar",
	.usable = scalar_usable,
	.hash = scalar_hash,
	.copy = scalar_copy,
	.copy_stream = scalar_copy,
	.bare = scalar_bare,
};
