/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows that ecsq and ecsq+pca keep: those of a token that attention rests on. Their values and keys are short in the layers where it does (a fifth and a
 * half of the others'), so an error of the others' size would be as large as they are, and most queries look at them. For codec/ecsq*.c only.
 *
 * In a stream, one after another: u32 (plane * layers + layer) * tokens + token; then for each head f32 scale and a signed byte for each element.
 */
#ifndef KVCI_ECSQ_KEPT_H
#define KVCI_ECSQ_KEPT_H

#include <string.h>

#include "codec/layout.h"

/* Numbers in a stream: little-endian. */
static inline void ecsq_put_u32(uint8_t *out, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(value >> 8 * i);
}

static inline uint32_t ecsq_get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline void ecsq_put_f32(uint8_t *out, float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	ecsq_put_u32(out, bits);
}

static inline float ecsq_get_f32(const uint8_t *at)
{
	uint32_t bits = ecsq_get_u32(at);
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

struct ecsq_kept {
	uint32_t *rows; /* encode: as they stand in the stream */
	uint32_t count;
	bool full; /* there were more than ecsq_kept_most */
	bool off;  /* so none is kept */
};

/* Where more rows are quiet than this, they are a text's nature and no sinks. */
uint32_t ecsq_kept_most(const struct kvci_layout *layout);
/* The square below which a layer's row is quiet, by the layer's means and sigmas. */
float ecsq_kept_limit(bool is_k, const float *mean, const float *sigma, uint32_t channels);
/* False: it is full. */
bool ecsq_kept_add(struct ecsq_kept *kept, const struct kvci_layout *layout, uint32_t plane, uint32_t layer, uint32_t token);
size_t ecsq_kept_bytes(const struct ecsq_kept *kept, const struct kvci_layout *layout);
/* Writes the rows and returns behind them. `values` has room for a row. */
uint8_t *ecsq_kept_write(const struct ecsq_kept *kept, const struct kvci_layout *layout, const uint8_t *raw, float *values, uint8_t *out);
/* Puts kept.count rows to their places in `raw`; there are ecsq_kept_bytes at `at`. False: no encoder writes this. */
bool ecsq_kept_read(const struct ecsq_kept *kept, const struct kvci_layout *layout, const uint8_t *at, float *values, uint8_t *raw);

#endif
