/* SPDX-License-Identifier: Apache-2.0
 *
 * int8: each row (K or V of one token and head) by a scale of its own, symmetric. Kept rows are raw. The stream is that of codec/rows.h; what
 * the quantiser needs besides the codes: scales of all rows, bf16, rounded up, 2 bytes each.
 *
 *   value = (code - 128) * scale      codes 1 to 255; the error is at most half a scale (and the element's own rounding)
 *
 * Rows whose scale would be below 2^-126 become 0.
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/rows.h"

static bool int8_right(const struct kvci_rows *rows)
{
	return rows->bits == 8;
}

static size_t int8_meta_bytes(const struct kvci_rows *rows)
{
	const struct kvci_layout *layout = rows->layout;

	return (size_t)2 * layout->layers * layout->heads * (layout->tokens - rows->first);
}

static bool int8_encode_plane(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta, uint8_t *codes)
{
	struct kvci_rows_walk walk = { .begun = false };
	bool right = true;

	while (kvci_rows_next(rows, &walk)) {
		right &= rows->kernel->row_encode(&walk.run.rows, raw + walk.run.offset_bytes, meta, codes);
		meta += (size_t)2 * walk.run.rows.count;
		codes += (size_t)walk.run.rows.count * walk.run.rows.dims;
	}
	return right;
}

static kvc_status_t int8_decode_plane(const struct kvci_rows *rows, const uint8_t *meta, struct kvci_codes_reader *reader, uint8_t *raw)
{
	struct kvci_rows_walk walk = { .begun = false };

	while (kvci_rows_next(rows, &walk)) {
		const uint8_t *codes = kvci_codes_read(reader, walk.head, walk.run.rows.count);

		if (codes == NULL)
			return KVC_CORRUPT;
		rows->kernel->row_decode(&walk.run.rows, raw + walk.run.offset_bytes, meta, codes);
		meta += (size_t)2 * walk.run.rows.count;
	}
	return KVC_OK;
}

static const struct kvci_rows_quantiser int8_quantiser = {
	.right = int8_right,
	.meta_bytes = int8_meta_bytes,
	.encode = int8_encode_plane,
	.decode = int8_decode_plane,
	.choice = { .centre = true, .classes = KVCI_RANS_CLASSES_MAX, .fold = true, .magnitude = 0xff },
	.keeps_raw = true,
};

static kvc_status_t int8_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_int8_ops.defaults;
	struct kvc_codec_params mine = { .bits_k = 8, .bits_v = 8, .group = 1, .sinks = params->sinks, .entropy = params->entropy };

	return kvci_rows_encode(&int8_quantiser, part, &mine, raw, raw_bytes, out, out_bytes, scratch, ret_bytes);
}

static kvc_status_t int8_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                void *scratch)
{
	return kvci_rows_decode(&int8_quantiser, part, coded, coded_bytes, raw, raw_bytes, scratch);
}

const struct kvc_codec_ops kvc_codec_int8_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_INT8,
	.name = "int8",
	.params = KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_ENTROPY,
	.defaults = { .bits_k = 8, .bits_v = 8, .sinks = 4, .entropy = 1 },
	.scratch_bytes = kvci_rows_scratch_bytes,
	.bound_bytes = kvci_rows_bound_bytes,
	.encode = int8_encode,
	.decode = int8_decode,
};
