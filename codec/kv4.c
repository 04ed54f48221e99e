/* SPDX-License-Identifier: Apache-2.0
 *
 * kv4 (the KIVI family): K, and latents, by channel over groups of tokens; V by token over groups of dimensions; 2 to 8 bits, asymmetric. Kept rows
 * are int8. The stream is that of codec/rows.h; what the quantiser needs besides the codes, in f16:
 *
 *   K   for each layer, head and group of tokens (counted from the first that is no sink; the last may be shorter): lowest of all
 *       dimensions, then scales of all dimensions
 *   V   for each row: lowest of all its groups of dimensions, then their scales
 *
 *   value = lowest + code * scale     the error is at most half a scale, and what f16 loses of lowest and scale
 *
 * Parts with values beyond f16's are not coded.
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/rows.h"

enum { KV4_GROUP_MIN = 8, KV4_GROUP_MAX = 4096 };

static bool kv4_is_by_channel(const struct kvci_rows *rows)
{
	return rows->layout->planes[rows->plane].is_k;
}

static bool kv4_right(const struct kvci_rows *rows)
{
	return rows->group >= KV4_GROUP_MIN && rows->group <= KV4_GROUP_MAX;
}

static size_t kv4_channel_meta_bytes(const struct kvci_rows *rows)
{
	return (size_t)4 * rows->layout->planes[rows->plane].dims;
}

static size_t kv4_row_meta_bytes(const struct kvci_rows *rows)
{
	return (size_t)4 * ((rows->layout->planes[rows->plane].dims + rows->group - 1) / rows->group);
}

static size_t kv4_meta_bytes(const struct kvci_rows *rows)
{
	const struct kvci_layout *layout = rows->layout;
	size_t tokens = layout->tokens - rows->first, heads = (size_t)layout->layers * layout->heads;

	if (kv4_is_by_channel(rows))
		return heads * ((tokens + rows->group - 1) / rows->group) * kv4_channel_meta_bytes(rows);
	return heads * tokens * kv4_row_meta_bytes(rows);
}

/* ---- K: one group of tokens of one head --------------------------------------------------------------------------------------- */

struct kv4_group {
	uint32_t layer, head, token, count;
};

static struct kvci_rows_run kv4_group_run(const struct kvci_rows *rows, const struct kv4_group *group, uint32_t done)
{
	return kvci_rows_run(rows, group->layer, group->head, group->token + done, group->count - done);
}

static bool kv4_group_encode(const struct kvci_rows *rows, const struct kv4_group *group, const uint8_t *raw, uint8_t *meta, uint8_t *codes)
{
	uint32_t dims = rows->layout->planes[rows->plane].dims, levels = (1u << rows->bits) - 1;
	int32_t lowest[QUANT_DIMS_MAX], highest[QUANT_DIMS_MAX];
	struct kvci_rows_run run;

	for (uint32_t i = 0; i < dims; i++) {
		lowest[i] = INT32_MAX;
		highest[i] = INT32_MIN;
	}
	for (uint32_t done = 0; done < group->count; done += run.rows.count) {
		run = kv4_group_run(rows, group, done);
		rows->kernel->range(&run.rows, raw + run.offset_bytes, lowest, highest);
	}
	if (!rows->kernel->channel_meta(dims, lowest, highest, levels, meta))
		return false;
	for (uint32_t done = 0; done < group->count; done += run.rows.count) {
		run = kv4_group_run(rows, group, done);
		rows->kernel->channel_encode(&run.rows, raw + run.offset_bytes, levels, meta, codes + (size_t)done * dims);
	}
	return true;
}

static bool kv4_group_decode(const struct kvci_rows *rows, const struct kv4_group *group, const uint8_t *meta, struct kvci_codes_reader *reader,
                             uint8_t *raw)
{
	struct kvci_rows_run run;

	for (uint32_t done = 0; done < group->count; done += run.rows.count) {
		const uint8_t *codes;

		run = kv4_group_run(rows, group, done);
		codes = kvci_codes_read(reader, group->head, run.rows.count);
		if (codes == NULL)
			return false;
		rows->kernel->channel_decode(&run.rows, raw + run.offset_bytes, meta, codes);
	}
	return true;
}

/* The next group of tokens in the order of the stream; false behind the last. Begins with {0, 0, first, 0}. */
static bool kv4_group_next(const struct kvci_rows *rows, struct kv4_group *group)
{
	const struct kvci_layout *layout = rows->layout;

	group->token += group->count;
	if (group->token == layout->tokens) {
		group->token = rows->first;
		if (++group->head == layout->heads) {
			group->head = 0;
			group->layer++;
		}
	}
	group->count = layout->tokens - group->token < rows->group ? layout->tokens - group->token : rows->group;
	return group->layer < layout->layers && group->count != 0;
}

/* ---- planes -------------------------------------------------------------------------------------------------------------------- */

static bool kv4_encode_rows(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta, uint8_t *codes)
{
	struct kvci_rows_walk walk = { .begun = false };
	bool right = true;

	while (kvci_rows_next(rows, &walk)) {
		right &= rows->kernel->group_encode(&walk.run.rows, raw + walk.run.offset_bytes, rows->group, (1u << rows->bits) - 1, meta, codes);
		meta += walk.run.rows.count * kv4_row_meta_bytes(rows);
		codes += (size_t)walk.run.rows.count * walk.run.rows.dims;
	}
	return right;
}

static kvc_status_t kv4_decode_rows(const struct kvci_rows *rows, const uint8_t *meta, struct kvci_codes_reader *reader, uint8_t *raw)
{
	struct kvci_rows_walk walk = { .begun = false };

	while (kvci_rows_next(rows, &walk)) {
		const uint8_t *codes = kvci_codes_read(reader, walk.head, walk.run.rows.count);

		if (codes == NULL)
			return KVC_CORRUPT;
		rows->kernel->group_decode(&walk.run.rows, raw + walk.run.offset_bytes, rows->group, meta, codes);
		meta += walk.run.rows.count * kv4_row_meta_bytes(rows);
	}
	return KVC_OK;
}

static bool kv4_encode_plane(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta, uint8_t *codes)
{
	struct kv4_group group = { .token = rows->first };
	bool right = true;

	if (!kv4_is_by_channel(rows))
		return kv4_encode_rows(rows, raw, meta, codes);
	while (right && kv4_group_next(rows, &group)) {
		right = kv4_group_encode(rows, &group, raw, meta, codes);
		meta += kv4_channel_meta_bytes(rows);
		codes += (size_t)group.count * rows->layout->planes[rows->plane].dims;
	}
	return right;
}

static kvc_status_t kv4_decode_plane(const struct kvci_rows *rows, const uint8_t *meta, struct kvci_codes_reader *reader, uint8_t *raw)
{
	struct kv4_group group = { .token = rows->first };

	if (!kv4_is_by_channel(rows))
		return kv4_decode_rows(rows, meta, reader, raw);
	while (kv4_group_next(rows, &group)) {
		if (!kv4_group_decode(rows, &group, meta, reader, raw))
			return KVC_CORRUPT;
		meta += kv4_channel_meta_bytes(rows);
	}
	return KVC_OK;
}

static const struct kvci_rows_quantiser kv4_quantiser = {
	.right = kv4_right,
	.meta_bytes = kv4_meta_bytes,
	.encode = kv4_encode_plane,
	.decode = kv4_decode_plane,
	.choice = { .classes = KVCI_RANS_CLASSES_MAX, .magnitude = 0xff },
};

static kvc_status_t kv4_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                               void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_kv4_ops.defaults;
	struct kvc_codec_params mine = *params;

	mine.variant = 0;
	return kvci_rows_encode(&kv4_quantiser, part, &mine, raw, raw_bytes, out, out_bytes, scratch, ret_bytes);
}

static kvc_status_t kv4_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                               void *scratch)
{
	return kvci_rows_decode(&kv4_quantiser, part, coded, coded_bytes, raw, raw_bytes, scratch);
}

const struct kvc_codec_ops kvc_codec_kv4_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_KV4,
	.name = "kv4",
	.params = KVC_CODEC_PARAM_BITS_K | KVC_CODEC_PARAM_BITS_V | KVC_CODEC_PARAM_GROUP | KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_ENTROPY,
	.defaults = { .bits_k = 4, .bits_v = 4, .group = 64, .sinks = 4, .entropy = 1 },
	.scratch_bytes = kvci_rows_scratch_bytes,
	.bound_bytes = kvci_rows_bound_bytes,
	.encode = kv4_encode,
	.decode = kv4_decode,
};
