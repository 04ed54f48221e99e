/* SPDX-License-Identifier: Apache-2.0
 *
 * The stream that int8, kv4 and fp8 share.
 */
#include "codec/rows.h"

#include <string.h>

enum {
	ROWS_VERSION = 1,
	ROWS_HEAD_BYTES = 16,
	ROWS_ALIGN_BYTES = 64,
	ROWS_SLACK_BYTES = 1 << 16, /* over raw_bytes: models of two planes and a little */
	ROWS_KEEP_FROM = 192,
	ROWS_KEEP_PART = 8, /* at most one of so many rows */
	ROWS_INT8_SCALE_BYTES = 2,
};

union rows_work {
	struct kvci_codes_writer writer;
	struct kvci_codes_reader reader;
};

/* What the head of a stream says, or will. */
struct rows_plan {
	struct kvci_layout layout;
	struct kvci_rows planes[2];
	uint32_t sinks, group, variant;
	const uint8_t *kept; /* NULL: none */
};

static union rows_work *rows_aligned(void *scratch)
{
	return (void *)(((uintptr_t)scratch + ROWS_ALIGN_BYTES - 1) & ~(uintptr_t)(ROWS_ALIGN_BYTES - 1));
}

size_t kvci_rows_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return sizeof(union rows_work) + ROWS_ALIGN_BYTES + raw_bytes / 2 + 8;
}

size_t kvci_rows_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + ROWS_SLACK_BYTES;
}

struct kvci_rows_run kvci_rows_run(const struct kvci_rows *rows, uint32_t layer, uint32_t head, uint32_t token, uint32_t limit)
{
	const struct kvci_layout *layout = rows->layout;
	uint32_t dims = layout->planes[rows->plane].dims, count = kvci_layout_run(layout, token, limit);

	return (struct kvci_rows_run){
		.rows = { .dtype = layout->dtype, .count = count < KVCI_CODES_PIECE / dims ? count : KVCI_CODES_PIECE / dims, .dims = dims,
		          .row_bytes = layout->token_bytes },
		.offset_bytes = kvci_layout_offset(layout, rows->plane, layer, head, token),
	};
}

bool kvci_rows_next(const struct kvci_rows *rows, struct kvci_rows_walk *walk)
{
	const struct kvci_layout *layout = rows->layout;

	walk->token = walk->begun ? walk->token + walk->run.rows.count : rows->first;
	walk->begun = true;
	if (rows->first >= layout->tokens)
		return false;
	if (walk->token == layout->tokens) {
		walk->token = rows->first;
		if (++walk->head == layout->heads) {
			walk->head = 0;
			walk->layer++;
		}
	}
	if (walk->layer == layout->layers)
		return false;
	walk->run = kvci_rows_run(rows, walk->layer, walk->head, walk->token, layout->tokens - walk->token);
	return true;
}

static struct kvci_codes_shape rows_shape(const struct kvci_rows *rows)
{
	const struct kvci_layout *layout = rows->layout;

	return (struct kvci_codes_shape){ .layers = layout->layers, .heads = layout->heads, .rows = layout->tokens - rows->first,
		                          .dims = layout->planes[rows->plane].dims, .bits = rows->bits };
}

/* The planes, with sinks and group set. False: the quantiser does not take them. */
static bool rows_plan_planes(const struct kvci_rows_quantiser *quantiser, struct rows_plan *plan, const uint32_t bits[2])
{
	bool right = true;

	for (uint32_t plane = 0; plane < plan->layout.plane_count; plane++) {
		plan->planes[plane] = (struct kvci_rows){ .layout = &plan->layout, .kernel = kvci_quant_kernel(), .plane = plane,
			                                  .first = plan->sinks, .bits = bits[plane], .group = plan->group,
			                                  .variant = plan->variant };
		right = right && bits[plane] >= 2 && bits[plane] <= 8 && plan->layout.planes[plane].dims <= QUANT_DIMS_MAX &&
		        quantiser->right(&plan->planes[plane]);
	}
	return right;
}

/* ---- sinks and kept rows --------------------------------------------------------------------------------------------------- */

/* What becomes of rows outside the codes: the same walk for both directions. */
struct rows_copy {
	const struct rows_plan *plan;
	const uint8_t *from_raw; /* encoding, else NULL */
	uint8_t *to_raw;
	uint8_t *to;         /* encoding: the stream */
	const uint8_t *from; /* decoding: the stream */
};

static void rows_copy_raw(struct rows_copy *copy, size_t offset_bytes, size_t row_bytes)
{
	if (copy->from_raw != NULL) {
		memcpy(copy->to, copy->from_raw + offset_bytes, row_bytes);
		copy->to += row_bytes;
	} else {
		memcpy(copy->to_raw + offset_bytes, copy->from, row_bytes);
		copy->from += row_bytes;
	}
}

static void rows_copy_int8(struct rows_copy *copy, const struct kvci_rows *rows, size_t offset_bytes, uint32_t dims)
{
	struct quant_rows one = { .dtype = rows->layout->dtype, .count = 1, .dims = dims };

	if (copy->from_raw != NULL) {
		rows->kernel->row_encode(&one, copy->from_raw + offset_bytes, copy->to, copy->to + ROWS_INT8_SCALE_BYTES);
		copy->to += ROWS_INT8_SCALE_BYTES + dims;
	} else {
		rows->kernel->row_decode(&one, copy->to_raw + offset_bytes, copy->from, copy->from + ROWS_INT8_SCALE_BYTES);
		copy->from += ROWS_INT8_SCALE_BYTES + dims;
	}
}

static bool rows_is_kept(const struct rows_plan *plan, uint32_t token, uint32_t head)
{
	size_t bit = (size_t)token * plan->layout.heads + head;

	return (plan->kept[bit / 8] >> bit % 8 & 1) != 0;
}

static void rows_copy_all(struct rows_copy *copy, bool sinks, bool raw)
{
	const struct rows_plan *plan = copy->plan;
	const struct kvci_layout *layout = &plan->layout;
	uint32_t begin = sinks ? 0 : plan->sinks, end = sinks ? plan->sinks : plan->kept == NULL ? 0 : layout->tokens;

	for (uint32_t plane = 0; plane < layout->plane_count; plane++)
		for (uint32_t layer = 0; layer < layout->layers; layer++)
			for (uint32_t head = 0; head < layout->heads; head++)
				for (uint32_t token = begin; token < end; token++) {
					size_t offset_bytes = kvci_layout_offset(layout, plane, layer, head, token);
					uint32_t dims = layout->planes[plane].dims;

					if (!sinks && !rows_is_kept(plan, token, head))
						continue;
					if (sinks || raw)
						rows_copy_raw(copy, offset_bytes, (size_t)dims * layout->element_bytes);
					else
						rows_copy_int8(copy, &plan->planes[plane], offset_bytes, dims);
				}
}

static size_t rows_kept_count(const struct rows_plan *plan, bool *ret_right)
{
	size_t sinks = (size_t)plan->sinks * plan->layout.heads, all = (size_t)plan->layout.tokens * plan->layout.heads, count = 0;

	*ret_right = true;
	for (size_t bit = 0; plan->kept != NULL && bit < (all + 7) / 8 * 8; bit++) {
		bool set = (plan->kept[bit / 8] >> bit % 8 & 1) != 0;

		*ret_right = *ret_right && (!set || (bit >= sinks && bit < all));
		count += set;
	}
	return count;
}

/* Bytes of sinks and kept rows. */
static size_t rows_copy_bytes(const struct rows_plan *plan, size_t kept, bool raw)
{
	const struct kvci_layout *layout = &plan->layout;
	size_t bytes = 0;

	for (uint32_t plane = 0; plane < layout->plane_count; plane++) {
		size_t row_bytes = (size_t)layout->planes[plane].dims * layout->element_bytes;

		bytes += layout->layers * plan->sinks * layout->heads * row_bytes;
		bytes += layout->layers * kept * (raw ? row_bytes : ROWS_INT8_SCALE_BYTES + layout->planes[plane].dims);
	}
	return bytes;
}

static size_t rows_map_bytes(const struct kvci_layout *layout)
{
	return ((size_t)layout->tokens * layout->heads + 7) / 8;
}

/* The kept rows of these scores to `map`. False: none. */
static bool rows_keep(const struct rows_plan *plan, const uint8_t *scores, uint8_t *map)
{
	size_t first = (size_t)plan->sinks * plan->layout.heads, all = (size_t)plan->layout.tokens * plan->layout.heads, kept = 0;
	size_t counts[256] = { 0 };
	uint32_t from = 256;

	for (size_t i = first; i < all; i++)
		counts[scores[i]]++;
	while (from > ROWS_KEEP_FROM && (kept + counts[from - 1]) * ROWS_KEEP_PART <= all)
		kept += counts[--from];
	if (kept == 0)
		return false;
	memset(map, 0, rows_map_bytes(&plan->layout));
	for (size_t i = first; i < all; i++)
		map[i / 8] = (uint8_t)(map[i / 8] | (scores[i] >= from) << i % 8);
	return true;
}

/* The codes of kept rows say nothing: the middle is cheap. */
static void rows_mask_kept(const struct rows_plan *plan, const struct kvci_rows *rows, uint8_t *codes)
{
	const struct kvci_layout *layout = &plan->layout;
	uint32_t dims = layout->planes[rows->plane].dims;

	for (uint32_t layer = 0; layer < layout->layers; layer++)
		for (uint32_t head = 0; head < layout->heads; head++)
			for (uint32_t token = plan->sinks; token < layout->tokens; token++, codes += dims)
				if (rows_is_kept(plan, token, head))
					memset(codes, 1 << (rows->bits - 1), dims);
}

/* ---- encoding ---------------------------------------------------------------------------------------------------------------- */

static void rows_put32(uint8_t *out, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t rows_get32(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static uint8_t *rows_head_write(const struct rows_plan *plan, uint8_t *out)
{
	memset(out, 0, ROWS_HEAD_BYTES);
	out[0] = ROWS_VERSION;
	out[1] = plan->kept != NULL;
	out[2] = (uint8_t)plan->planes[0].bits;
	out[3] = plan->layout.plane_count > 1 ? (uint8_t)plan->planes[1].bits : 0;
	rows_put32(out + 4, plan->group);
	out[8] = (uint8_t)plan->sinks;
	out[9] = (uint8_t)(plan->sinks >> 8);
	out[10] = (uint8_t)plan->variant;
	return out + ROWS_HEAD_BYTES;
}

/* Most bytes of a plane. */
static size_t rows_plane_bound(const struct kvci_rows_quantiser *quantiser, const struct kvci_rows *rows)
{
	struct kvci_codes_shape shape = rows_shape(rows);

	return 4 + quantiser->meta_bytes(rows) + kvci_codes_bound(&shape);
}

/* One plane to `out`, which has room for it; NULL: it cannot be coded. */
static uint8_t *rows_plane_encode(const struct kvci_rows_quantiser *quantiser, const struct rows_plan *plan, uint32_t plane, bool entropy,
                                  const uint8_t *raw, union rows_work *work, uint8_t *out)
{
	const struct kvci_rows *rows = &plan->planes[plane];
	size_t meta_bytes = quantiser->meta_bytes(rows), bytes;
	struct kvci_codes_choice choice = quantiser->choice;
	struct kvci_codes_shape shape = rows_shape(rows);
	uint8_t *codes = (uint8_t *)(work + 1);

	choice.entropy = entropy;
	if (!quantiser->encode(rows, raw, out + 4, codes))
		return NULL;
	if (plan->kept != NULL)
		rows_mask_kept(plan, rows, codes);
	bytes = kvci_codes_write(&work->writer, &shape, &choice, codes, out + 4 + meta_bytes);
	rows_put32(out, (uint32_t)bytes);
	return out + 4 + meta_bytes + bytes;
}

kvc_status_t kvci_rows_encode(const struct kvci_rows_quantiser *quantiser, const struct kvc_codec_part *part,
                              const struct kvc_codec_params *params, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                              void *scratch, size_t *ret_bytes)
{
	struct rows_plan plan = { .group = params->group, .variant = params->variant };
	uint32_t bits[2] = { params->bits_k, params->bits_v };
	union rows_work *work = rows_aligned(scratch);
	struct rows_copy copy = { .plan = &plan, .from_raw = raw };
	uint8_t *begin = out, *at;
	size_t bound, kept = 0;
	bool right = true;

	if (out_bytes < kvci_rows_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (!kvci_layout_of(part, raw_bytes, &plan.layout))
		return KVC_OK;
	plan.sinks = kvci_layout_sinks(&plan.layout, part->position_tokens, params->sinks);
	if (!plan.layout.planes[0].is_k)
		bits[0] = bits[1];
	if (!rows_plan_planes(quantiser, &plan, bits))
		return KVC_OK;
	bound = ROWS_HEAD_BYTES + rows_map_bytes(&plan.layout);
	if (part->scores != NULL && bound <= out_bytes && rows_keep(&plan, part->scores, begin + ROWS_HEAD_BYTES))
		plan.kept = begin + ROWS_HEAD_BYTES;
	kept = rows_kept_count(&plan, &right);
	bound += rows_copy_bytes(&plan, kept, quantiser->keeps_raw);
	for (uint32_t plane = 0; plane < plan.layout.plane_count; plane++)
		bound += rows_plane_bound(quantiser, &plan.planes[plane]);
	if (bound > out_bytes) /* groups of a few elements: nothing would be gained */
		return KVC_OK;
	at = rows_head_write(&plan, begin);
	copy.to = at + (plan.kept == NULL ? 0 : rows_map_bytes(&plan.layout));
	rows_copy_all(&copy, true, true);
	rows_copy_all(&copy, false, quantiser->keeps_raw);
	at = copy.to;
	for (uint32_t plane = 0; plane < plan.layout.plane_count && at != NULL; plane++)
		at = rows_plane_encode(quantiser, &plan, plane, params->entropy != 0, raw, work, at);
	if (at != NULL && (size_t)(at - begin) <= raw_bytes - raw_bytes / 32)
		*ret_bytes = (size_t)(at - begin);
	return KVC_OK;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------------------- */

/* The head of untrusted bytes; moves *bytes on to what follows the map of kept rows. */
static kvc_status_t rows_head_read(const struct kvci_rows_quantiser *quantiser, const struct kvc_codec_part *part, size_t raw_bytes,
                                   const uint8_t **bytes, const uint8_t *end, struct rows_plan *plan)
{
	const uint8_t *head = *bytes;
	uint32_t bits[2];

	if (end - head < ROWS_HEAD_BYTES || head[0] != ROWS_VERSION || head[1] > 1 || !kvci_layout_of(part, raw_bytes, &plan->layout))
		return KVC_CORRUPT;
	for (int i = 11; i < ROWS_HEAD_BYTES; i++)
		if (head[i] != 0)
			return KVC_CORRUPT;
	bits[0] = head[2];
	bits[1] = head[3];
	plan->group = rows_get32(head + 4);
	plan->sinks = head[8] | (uint32_t)head[9] << 8;
	plan->variant = head[10];
	if (plan->sinks > plan->layout.tokens || (plan->layout.plane_count == 1 && bits[1] != 0) || !rows_plan_planes(quantiser, plan, bits))
		return KVC_CORRUPT;
	*bytes = head + ROWS_HEAD_BYTES;
	if (head[1] == 0)
		return KVC_OK;
	if ((size_t)(end - *bytes) < rows_map_bytes(&plan->layout))
		return KVC_CORRUPT;
	plan->kept = *bytes;
	*bytes += rows_map_bytes(&plan->layout);
	return KVC_OK;
}

static kvc_status_t rows_plane_decode(const struct kvci_rows_quantiser *quantiser, const struct kvci_rows *rows, struct kvci_codes_reader *reader,
                                      const uint8_t **bytes, const uint8_t *end, uint8_t *raw)
{
	size_t meta_bytes = quantiser->meta_bytes(rows), code_bytes;
	struct kvci_codes_shape shape = rows_shape(rows);
	const uint8_t *meta = *bytes + 4;
	kvc_status_t status;

	if ((size_t)(end - *bytes) < 4 + meta_bytes)
		return KVC_CORRUPT;
	code_bytes = rows_get32(*bytes);
	if ((size_t)(end - meta) - meta_bytes < code_bytes)
		return KVC_CORRUPT;
	status = kvci_codes_read_begin(reader, &shape, meta + meta_bytes, code_bytes);
	if (status == KVC_OK)
		status = quantiser->decode(rows, meta, reader, raw);
	*bytes = meta + meta_bytes + code_bytes;
	return status == KVC_OK ? kvci_codes_read_end(reader) : status;
}

kvc_status_t kvci_rows_decode(const struct kvci_rows_quantiser *quantiser, const struct kvc_codec_part *part, const void *coded,
                              size_t coded_bytes, void *raw, size_t raw_bytes, void *scratch)
{
	const uint8_t *at = coded, *end = at + coded_bytes;
	struct rows_plan plan = { .kept = NULL };
	struct rows_copy copy = { .plan = &plan, .to_raw = raw };
	union rows_work *work = rows_aligned(scratch);
	kvc_status_t status = rows_head_read(quantiser, part, raw_bytes, &at, end, &plan);
	size_t kept;
	bool right;

	if (status != KVC_OK)
		return status;
	kept = rows_kept_count(&plan, &right);
	copy.from = at;
	if (!right || (size_t)(end - at) < rows_copy_bytes(&plan, kept, quantiser->keeps_raw))
		return KVC_CORRUPT;
	at += rows_copy_bytes(&plan, kept, quantiser->keeps_raw);
	for (uint32_t plane = 0; plane < plan.layout.plane_count && status == KVC_OK; plane++)
		status = rows_plane_decode(quantiser, &plan.planes[plane], &work->reader, &at, end, raw);
	if (status != KVC_OK || at != end)
		return KVC_CORRUPT;
	rows_copy_all(&copy, true, true); /* over what the codes of kept rows gave */
	rows_copy_all(&copy, false, quantiser->keeps_raw);
	return KVC_OK;
}
