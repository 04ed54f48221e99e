/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/ecsq_kept.h"

#include <math.h>
#include <string.h>

enum { KEPT_ONE_OF = 8, KEPT_INDEX_BYTES = 4, KEPT_SCALE_BYTES = 4, KEPT_CODE_MAX = 127 };
/* Shares of the usual length, squared. Measured on real KV: rows between 0.25 and 0.6 of it are rare, so these need not be exact. */
#define KEPT_SQUARE_K 0.25f
#define KEPT_SQUARE_V 0.1225f

uint32_t ecsq_kept_most(const struct kvci_layout *layout)
{
	return layout->plane_count * layout->layers * layout->tokens / KEPT_ONE_OF;
}

float ecsq_kept_limit(bool is_k, const float *mean, const float *sigma, uint32_t channels)
{
	double square = 0;

	for (uint32_t i = 0; i < channels; i++)
		square += (double)mean[i] * (double)mean[i] + (double)sigma[i] * (double)sigma[i];
	return (float)square * (is_k ? KEPT_SQUARE_K : KEPT_SQUARE_V);
}

bool ecsq_kept_add(struct ecsq_kept *kept, const struct kvci_layout *layout, uint32_t plane, uint32_t layer, uint32_t token)
{
	if (kept->count == ecsq_kept_most(layout)) {
		kept->full = true;
		return false;
	}
	kept->rows[kept->count++] = (plane * layout->layers + layer) * layout->tokens + token;
	return true;
}

static size_t kept_row_bytes(const struct kvci_layout *layout, uint32_t plane)
{
	return KEPT_INDEX_BYTES + (size_t)layout->heads * (KEPT_SCALE_BYTES + layout->planes[plane].dims);
}

/* Planes of different rows: the longer is counted, so that a count alone says how many bytes there are. */
static size_t kept_stride(const struct kvci_layout *layout)
{
	size_t first = kept_row_bytes(layout, 0), last = kept_row_bytes(layout, layout->plane_count - 1);

	return first > last ? first : last;
}

size_t ecsq_kept_bytes(const struct ecsq_kept *kept, const struct kvci_layout *layout)
{
	return kept->count * kept_stride(layout);
}

static struct kvci_layout_rows kept_row(const struct kvci_layout *layout, uint32_t index)
{
	return (struct kvci_layout_rows){
		.plane = index / layout->tokens / layout->layers,
		.layer = index / layout->tokens % layout->layers,
		.token = index % layout->tokens,
		.count = 1,
	};
}

static void kept_write_head(const float *values, uint32_t dims, uint8_t *out)
{
	float largest = 0, scale;

	for (uint32_t i = 0; i < dims; i++)
		largest = fabsf(values[i]) > largest ? fabsf(values[i]) : largest;
	scale = largest / KEPT_CODE_MAX;
	ecsq_put_f32(out, scale);
	for (uint32_t i = 0; i < dims; i++) {
		/* Of a scale that rounds to 0 nothing is left. */
		float code = scale > 0 ? nearbyintf(fmaxf(-KEPT_CODE_MAX, fminf(KEPT_CODE_MAX, values[i] / scale))) : 0;

		out[KEPT_SCALE_BYTES + i] = (uint8_t)(int8_t)code;
	}
}

uint8_t *ecsq_kept_write(const struct ecsq_kept *kept, const struct kvci_layout *layout, const uint8_t *raw, float *values, uint8_t *out)
{
	size_t stride = kept_stride(layout);

	memset(out, 0, kept->count * stride);
	for (uint32_t i = 0; i < kept->count; i++, out += stride) {
		struct kvci_layout_rows rows = kept_row(layout, kept->rows[i]);
		uint32_t dims = layout->planes[rows.plane].dims;

		ecsq_put_u32(out, kept->rows[i]);
		for (; rows.head < layout->heads; rows.head++) {
			kvci_layout_load(layout, raw, &rows, values, dims);
			kept_write_head(values, dims, out + KEPT_INDEX_BYTES + (size_t)rows.head * (KEPT_SCALE_BYTES + dims));
		}
	}
	return out;
}

bool ecsq_kept_read(const struct ecsq_kept *kept, const struct kvci_layout *layout, const uint8_t *at, float *values, uint8_t *raw)
{
	size_t stride = kept_stride(layout);

	for (uint32_t i = 0; i < kept->count; i++, at += stride) {
		uint32_t index = ecsq_get_u32(at), dims;
		struct kvci_layout_rows rows;

		if (index >= layout->plane_count * layout->layers * layout->tokens)
			return false;
		rows = kept_row(layout, index);
		dims = layout->planes[rows.plane].dims;
		for (; rows.head < layout->heads; rows.head++) {
			const uint8_t *head = at + KEPT_INDEX_BYTES + (size_t)rows.head * (KEPT_SCALE_BYTES + dims);
			float scale = ecsq_get_f32(head);

			if (!(scale >= 0) || !isfinite(scale))
				return false;
			for (uint32_t j = 0; j < dims; j++)
				values[j] = (float)(int8_t)head[KEPT_SCALE_BYTES + j] * scale;
			kvci_layout_store(layout, raw, &rows, values, dims);
		}
	}
	return true;
}
