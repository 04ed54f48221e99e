/* SPDX-License-Identifier: Apache-2.0
 *
 * fp8: eight-bit floats with scales. Kept rows are raw. The stream is that of codec/rows.h; variant:
 *
 *   0   e4m3 (up to 448, no infinities), one scale a part's K and one its V
 *   1   e5m2 (up to 57,344), the same
 *   2   e4m3, K a scale for each channel (over the tokens of the part and layer), V a scale for each row
 *   3   e5m2, the same
 *
 * What the quantiser needs besides the codes, bf16, rounded up: variants 0 and 1 the scale; 2 and 3 of K scales of [layers][heads][dims], of V
 * scales of all rows.
 *
 *   value = the code as a float * scale      codes are rounded to nearest even; a code of infinity or NaN, which an encoder never
 *                                            makes, counts as the number that its bits would be
 *
 * Rows or channels whose scale would be below 2^-126 become 0. Sinks are not kept raw by default: a small value is as exact as a large one here.
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/rows.h"

enum { FP8_E5M2 = 1, FP8_FINE = 2 };

static bool fp8_right(const struct kvci_rows *rows)
{
	return rows->bits == 8 && rows->variant <= (FP8_E5M2 | FP8_FINE);
}

static bool fp8_is_e5m2(const struct kvci_rows *rows)
{
	return (rows->variant & FP8_E5M2) != 0;
}

static float fp8_most(const struct kvci_rows *rows)
{
	return fp8_is_e5m2(rows) ? 57344.0f : 448.0f;
}

static bool fp8_is_by_row(const struct kvci_rows *rows)
{
	return (rows->variant & FP8_FINE) != 0 && !rows->layout->planes[rows->plane].is_k;
}

static size_t fp8_meta_bytes(const struct kvci_rows *rows)
{
	const struct kvci_layout *layout = rows->layout;
	size_t heads = (size_t)layout->layers * layout->heads;

	if ((rows->variant & FP8_FINE) == 0)
		return 2;
	return 2 * heads * (fp8_is_by_row(rows) ? layout->tokens - rows->first : layout->planes[rows->plane].dims);
}

/* The scale that takes a magnitude (a float's bits) to the format's largest value. */
static uint16_t fp8_scale(const struct kvci_rows *rows, uint32_t magnitude)
{
	float most;
	uint32_t bits;

	memcpy(&most, &magnitude, sizeof(most));
	most /= fp8_most(rows);
	memcpy(&bits, &most, sizeof(bits));
	bits = (bits + 0xffff) >> 16;
	return bits < 0x80 ? 0 : (uint16_t)bits;
}

/* Ranges of a head's channels, as magnitudes' bits. */
static void fp8_magnitudes(const struct kvci_rows *rows, uint32_t layer, uint32_t head, const uint8_t *raw, uint32_t *ret_magnitudes)
{
	int32_t lowest[QUANT_DIMS_MAX] = { 0 }, highest[QUANT_DIMS_MAX] = { 0 };
	const struct kvci_layout *layout = rows->layout;
	uint32_t dims = layout->planes[rows->plane].dims;

	for (uint32_t token = rows->first; token < layout->tokens;) {
		struct kvci_rows_run run = kvci_rows_run(rows, layer, head, token, layout->tokens - token);

		rows->kernel->range(&run.rows, raw + run.offset_bytes, lowest, highest);
		token += run.rows.count;
	}
	for (uint32_t i = 0; i < dims; i++) {
		uint32_t below = ~(uint32_t)lowest[i], above = (uint32_t)highest[i]; /* an ordered negative's magnitude */

		below = lowest[i] < 0 ? below : 0;
		ret_magnitudes[i] = below > above ? below : above;
	}
}

/* Scales of K's channels, or of all. False: not finite. */
static bool fp8_scales(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta)
{
	const struct kvci_layout *layout = rows->layout;
	uint32_t dims = layout->planes[rows->plane].dims, magnitudes[QUANT_DIMS_MAX], worst = 0;
	bool fine = (rows->variant & FP8_FINE) != 0;
	uint16_t scale;

	for (uint32_t layer = 0; layer < layout->layers; layer++)
		for (uint32_t head = 0; head < layout->heads; head++) {
			fp8_magnitudes(rows, layer, head, raw, magnitudes);
			for (uint32_t i = 0; i < dims; i++) {
				worst = magnitudes[i] > worst ? magnitudes[i] : worst;
				scale = fp8_scale(rows, magnitudes[i]);
				if (fine)
					memcpy(meta + 2 * (((size_t)layer * layout->heads + head) * dims + i), &scale, sizeof(scale));
			}
		}
	scale = fp8_scale(rows, worst);
	if (!fine)
		memcpy(meta, &scale, sizeof(scale));
	return worst < QUANT_INFINITE;
}

/* The scales of a run, as the kernel wants them: a row's or a channel's each. `common` holds as many of the one scale. */
static const uint8_t *fp8_scales_at(const struct kvci_rows *rows, const uint8_t *meta, const uint8_t *common,
                                    const struct kvci_rows_walk *at)
{
	const struct kvci_layout *layout = rows->layout;
	size_t index = (size_t)at->layer * layout->heads + at->head;

	if ((rows->variant & FP8_FINE) == 0)
		return common;
	if (fp8_is_by_row(rows))
		return meta + 2 * (index * (layout->tokens - rows->first) + at->token - rows->first);
	return meta + 2 * index * layout->planes[rows->plane].dims;
}

static void fp8_common(const struct kvci_rows *rows, const uint8_t *meta, uint8_t ret_common[2 * QUANT_DIMS_MAX])
{
	for (uint32_t i = 0; i < rows->layout->planes[rows->plane].dims; i++)
		memcpy(ret_common + (size_t)2 * i, meta, 2);
}

static bool fp8_encode_plane(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta, uint8_t *codes)
{
	struct kvci_rows_walk walk = { .begun = false };
	uint8_t common[2 * QUANT_DIMS_MAX], *scales = meta;
	bool by_row = fp8_is_by_row(rows), right = true;

	if (!by_row && !fp8_scales(rows, raw, meta))
		return false;
	fp8_common(rows, meta, common);
	while (kvci_rows_next(rows, &walk)) {
		if (by_row) {
			right &= rows->kernel->row_scales(&walk.run.rows, raw + walk.run.offset_bytes, fp8_most(rows), scales);
			scales += (size_t)2 * walk.run.rows.count;
		}
		rows->kernel->f8_encode(&walk.run.rows, raw + walk.run.offset_bytes, fp8_is_e5m2(rows), by_row,
		                        fp8_scales_at(rows, meta, common, &walk), codes);
		codes += (size_t)walk.run.rows.count * walk.run.rows.dims;
	}
	return right;
}

static kvc_status_t fp8_decode_plane(const struct kvci_rows *rows, const uint8_t *meta, struct kvci_codes_reader *reader, uint8_t *raw)
{
	struct kvci_rows_walk walk = { .begun = false };
	uint8_t common[2 * QUANT_DIMS_MAX];

	fp8_common(rows, meta, common);
	while (kvci_rows_next(rows, &walk)) {
		const uint8_t *codes = kvci_codes_read(reader, walk.head, walk.run.rows.count);

		if (codes == NULL)
			return KVC_CORRUPT;
		rows->kernel->f8_decode(&walk.run.rows, raw + walk.run.offset_bytes, fp8_is_e5m2(rows), fp8_is_by_row(rows),
		                        fp8_scales_at(rows, meta, common, &walk), codes);
	}
	return KVC_OK;
}

static const struct kvci_rows_quantiser fp8_quantiser = {
	.right = fp8_right,
	.meta_bytes = fp8_meta_bytes,
	.encode = fp8_encode_plane,
	.decode = fp8_decode_plane,
	.choice = { .classes = KVCI_RANS_CLASSES_MAX, .magnitude = 0x7f },
	.keeps_raw = true,
};

static kvc_status_t fp8_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                               void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_fp8_ops.defaults;
	struct kvc_codec_params mine = { .bits_k = 8, .bits_v = 8, .group = 1, .sinks = params->sinks, .entropy = params->entropy,
		                         .variant = params->variant };

	return kvci_rows_encode(&fp8_quantiser, part, &mine, raw, raw_bytes, out, out_bytes, scratch, ret_bytes);
}

static kvc_status_t fp8_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                               void *scratch)
{
	return kvci_rows_decode(&fp8_quantiser, part, coded, coded_bytes, raw, raw_bytes, scratch);
}

const struct kvc_codec_ops kvc_codec_fp8_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_FP8,
	.name = "fp8",
	.params = KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_ENTROPY | KVC_CODEC_PARAM_VARIANT,
	.defaults = { .bits_k = 8, .bits_v = 8, .entropy = 1 },
	.scratch_bytes = kvci_rows_scratch_bytes,
	.bound_bytes = kvci_rows_bound_bytes,
	.encode = fp8_encode,
	.decode = fp8_decode,
};
