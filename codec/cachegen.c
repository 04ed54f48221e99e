/* SPDX-License-Identifier: Apache-2.0
 *
 * cachegen: CacheGen (SIGCOMM 2024) for comparison, and for those who come from LMCache. Size and error are as published; speed is not.
 *
 *   variant 0  as LMCache ships it: no deltas; a token's values over all heads are divided by their largest magnitude into 31 steps (layers 0 to 9
 *              of K, 0 and 1 of V) or 15; one table of 33 shares (2 bytes each) and one stream a channel, both in the chunk
 *   variant 1  as the paper has it: every tenth token is an anchor of 8 bits, the others are differences from theirs in steps of 1, 1.4 and 2
 *              times `step` standard deviations of their channel by third of the layers. The paper's tables are made offline and known to both
 *              sides; here each channel's model begins with the part's histogram and learns
 *
 * Stream, little-endian:
 *   0   1  version: 1
 *   1   1  variant
 *   2   2  sinks: how many of the part's tokens
 *   raw rows of the sinks: [planes][heads][tokens]
 *   for each plane (K then V, or the only one), channels in the order [heads][dims], n tokens that are no sinks:
 *     variant 0: steps to each side (1: 7 or 15); the tokens' largest magnitudes, elements [n]; then for each channel 33 shares (2 each, of 2^16,
 *                rising, the last one 2^16 written as 0), bytes of its stream (4) and these
 *     variant 1: the anchors' largest magnitudes, elements [(n + 9) / 10]; a table (codec/rans.h) of the anchors' codes and one of the others';
 *                each channel's step (bf16); bytes of the stream (4) and these: channel by channel, token by token
 *
 *   value = code / steps * magnitude    (8-bit anchors: 127 steps)        value = anchor + code * step
 * A code is kept as code + 128, or code + steps. Differences beyond 127 steps are cut off there.
 */
#include <math.h>
#include <string.h>

#include "codec/cachegen_coder.h"
#include "codec/codecs.h"
#include "codec/layout.h"
#include "codec/quant.h"
#include "codec/rans.h"

enum {
	CACHEGEN_VERSION = 1,
	CACHEGEN_LMCACHE = 0,
	CACHEGEN_PAPER = 1,
	CACHEGEN_SHARES = 33,
	CACHEGEN_ANCHOR_EVERY = 10,
	CACHEGEN_ANCHOR_STEPS = 127,
	CACHEGEN_ZERO = 128, /* the code of 0 in variant 1 */
	CACHEGEN_HEAD_BYTES = 4,
	CACHEGEN_ALIGN_BYTES = 64,
	CACHEGEN_SLACK_BYTES = 256,
};

/* One plane on its way: values and codes lie [heads][tokens][dims], the tokens those that are no sinks. */
struct cachegen_plane {
	const struct kvci_layout *layout;
	uint32_t index, first, tokens, heads, dims;
	float *values, *magnitudes;
	uint8_t *codes;
};

/* Bytes being written, and being read. */
struct cachegen_out {
	uint8_t *at, *end;
	bool full;
};

static void cachegen_put(struct cachegen_out *out, const void *bytes, size_t count)
{
	if ((size_t)(out->end - out->at) < count) {
		out->full = true;
		return;
	}
	memcpy(out->at, bytes, count);
	out->at += count;
}

static void cachegen_put_whole(struct cachegen_out *out, uint32_t value, size_t bytes)
{
	uint8_t little[4] = { (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24) };

	cachegen_put(out, little, bytes);
}

static uint32_t cachegen_whole(const uint8_t *at, size_t bytes)
{
	uint32_t value = 0;

	for (size_t i = bytes; i > 0; i--)
		value = value << 8 | at[i - 1];
	return value;
}

/* NULL: not so many bytes are left. */
static const uint8_t *cachegen_get(const uint8_t **at, const uint8_t *end, size_t count)
{
	const uint8_t *begin = *at;

	if ((size_t)(end - begin) < count)
		return NULL;
	*at += count;
	return begin;
}

/* ---- a part's planes ---------------------------------------------------------------------------------------------- */

static void *cachegen_aligned(void *scratch)
{
	return (void *)(((uintptr_t)scratch + CACHEGEN_ALIGN_BYTES - 1) & ~(uintptr_t)(CACHEGEN_ALIGN_BYTES - 1));
}

/* Values (4 bytes), codes and a magnitude a token for as many elements as a part may have at 2 bytes each. */
static size_t cachegen_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes / 2 * (2 * sizeof(float) + 1) + (size_t)4 * CACHEGEN_ALIGN_BYTES;
}

static size_t cachegen_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + CACHEGEN_SLACK_BYTES;
}

static struct cachegen_plane cachegen_plane_of(const struct kvci_layout *layout, uint32_t index, uint32_t first, size_t raw_bytes, void *scratch)
{
	struct cachegen_plane plane = {
		.layout = layout, .index = index, .first = first, .tokens = layout->tokens - first, .heads = layout->heads,
		.dims = layout->planes[index].dims, .values = cachegen_aligned(scratch),
	};

	plane.magnitudes = plane.values + raw_bytes / 2;
	plane.codes = (uint8_t *)(plane.magnitudes + raw_bytes / 2);
	return plane;
}

static struct kvci_layout_rows cachegen_rows(const struct cachegen_plane *plane, uint32_t head)
{
	return (struct kvci_layout_rows){ .plane = plane->index, .head = head, .token = plane->first, .count = plane->tokens };
}

static float *cachegen_head(const struct cachegen_plane *plane, uint32_t head)
{
	return plane->values + (size_t)head * plane->tokens * plane->dims;
}

static size_t cachegen_at(const struct cachegen_plane *plane, uint32_t head, uint32_t token, uint32_t dim)
{
	return ((size_t)head * plane->tokens + token) * plane->dims + dim;
}

static bool cachegen_load(const struct cachegen_plane *plane, const void *raw)
{
	bool finite = true;

	for (uint32_t head = 0; head < plane->heads; head++) {
		struct kvci_layout_rows rows = cachegen_rows(plane, head);

		finite &= kvci_layout_load(plane->layout, raw, &rows, cachegen_head(plane, head), plane->dims);
	}
	return finite;
}

static void cachegen_store(const struct cachegen_plane *plane, void *raw)
{
	for (uint32_t head = 0; head < plane->heads; head++) {
		struct kvci_layout_rows rows = cachegen_rows(plane, head);

		kvci_layout_store(plane->layout, raw, &rows, cachegen_head(plane, head), plane->dims);
	}
}

/* The largest magnitude of a token over all heads: an element's own, so that its type holds it exactly. */
static float cachegen_magnitude(const struct cachegen_plane *plane, uint32_t token)
{
	float most = 0;

	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++)
			most = fmaxf(most, fabsf(plane->values[cachegen_at(plane, head, token, dim)]));
	return most;
}

static void cachegen_put_magnitudes(const struct cachegen_plane *plane, uint32_t count, struct cachegen_out *out)
{
	size_t bytes = (size_t)count * plane->layout->element_bytes;

	if ((size_t)(out->end - out->at) < bytes) {
		out->full = true;
		return;
	}
	kvci_quant_kernel()->store(plane->layout->dtype, out->at, plane->layout->element_bytes, count, 1, plane->magnitudes, 1);
	out->at += bytes;
}

static bool cachegen_get_magnitudes(const struct cachegen_plane *plane, uint32_t count, const uint8_t **at, const uint8_t *end)
{
	const uint8_t *bytes = cachegen_get(at, end, (size_t)count * plane->layout->element_bytes);

	return bytes != NULL &&
	       kvci_quant_kernel()->load(plane->layout->dtype, bytes, plane->layout->element_bytes, count, 1, plane->magnitudes, 1);
}

/* Sinks of all planes, one after another; `raw` to `out` or the other way. */
static void cachegen_sinks_put(const struct kvci_layout *layout, uint32_t sinks, const uint8_t *raw, struct cachegen_out *out)
{
	for (uint32_t plane = 0; plane < layout->plane_count; plane++)
		for (uint32_t head = 0; head < layout->heads; head++)
			for (uint32_t token = 0; token < sinks; token++)
				cachegen_put(out, raw + kvci_layout_offset(layout, plane, 0, head, token),
				             (size_t)layout->planes[plane].dims * layout->element_bytes);
}

static bool cachegen_sinks_get(const struct kvci_layout *layout, uint32_t sinks, uint8_t *raw, const uint8_t **at, const uint8_t *end)
{
	for (uint32_t plane = 0; plane < layout->plane_count; plane++) {
		size_t row_bytes = (size_t)layout->planes[plane].dims * layout->element_bytes;

		for (uint32_t head = 0; head < layout->heads; head++)
			for (uint32_t token = 0; token < sinks; token++) {
				const uint8_t *row = cachegen_get(at, end, row_bytes);

				if (row == NULL)
					return false;
				memcpy(raw + kvci_layout_offset(layout, plane, 0, head, token), row, row_bytes);
			}
	}
	return true;
}

/* ---- variant 0 ---------------------------------------------------------------------------------------------------- */

static uint32_t cachegen_steps(bool is_k, uint32_t layer)
{
	uint32_t bins = layer < (is_k ? 10u : 2u) ? 32 : 16;

	return bins / 2 - 1;
}

/* One channel: its shares, as LMCache rounds them, and its stream. */
static void cachegen_channel_put(const struct cachegen_plane *plane, uint32_t head, uint32_t dim, struct cachegen_out *out)
{
	uint32_t counts[CACHEGEN_SHARES - 1] = { 0 }, shares[CACHEGEN_SHARES] = { 0 }, sum = 0;
	struct cachegen_encoder encoder;
	uint8_t *length;

	for (uint32_t token = 0; token < plane->tokens; token++)
		counts[plane->codes[cachegen_at(plane, head, token, dim)]]++;
	for (uint32_t i = 0; i < CACHEGEN_SHARES; i++) {
		shares[i] = (uint32_t)(((uint64_t)sum * ((1 << CACHEGEN_SHARE_BITS) - (CACHEGEN_SHARES - 1)) + plane->tokens / 2) / plane->tokens) + i;
		sum += i < CACHEGEN_SHARES - 1 ? counts[i] : 0;
		cachegen_put_whole(out, shares[i], 2);
	}
	length = out->at;
	cachegen_put_whole(out, 0, 4);
	if (out->full)
		return;
	kvci_cachegen_encode_begin(&encoder, out->at, out->end);
	for (uint32_t token = 0; token < plane->tokens; token++) {
		uint8_t code = plane->codes[cachegen_at(plane, head, token, dim)];

		kvci_cachegen_encode(&encoder, shares[code], shares[code + 1] - shares[code]);
	}
	out->at += kvci_cachegen_encode_end(&encoder);
	out->full |= encoder.full;
	cachegen_put_whole(&(struct cachegen_out){ .at = length, .end = length + 4 }, (uint32_t)(out->at - length - 4), 4);
}

static void cachegen_lmcache_put(const struct cachegen_plane *plane, uint32_t steps, struct cachegen_out *out)
{
	cachegen_put_whole(out, steps, 1);
	for (uint32_t token = 0; token < plane->tokens; token++) {
		float most = plane->magnitudes[token] = cachegen_magnitude(plane, token);

		for (uint32_t head = 0; head < plane->heads; head++)
			for (uint32_t dim = 0; dim < plane->dims; dim++) {
				size_t at = cachegen_at(plane, head, token, dim);
				float code = most == 0 ? 0 : rintf(plane->values[at] / most * (float)steps);

				plane->codes[at] = (uint8_t)((int)code + (int)steps);
			}
	}
	cachegen_put_magnitudes(plane, plane->tokens, out);
	for (uint32_t head = 0; head < plane->heads && !out->full; head++)
		for (uint32_t dim = 0; dim < plane->dims && !out->full; dim++)
			cachegen_channel_put(plane, head, dim, out);
}

static bool cachegen_channel_get(const struct cachegen_plane *plane, uint32_t head, uint32_t dim, uint32_t steps, const uint8_t **at,
                                 const uint8_t *end)
{
	const uint8_t *shares_bytes = cachegen_get(at, end, 2 * CACHEGEN_SHARES), *length = cachegen_get(at, end, 4), *stream;
	uint32_t shares[CACHEGEN_SHARES];
	struct cachegen_decoder decoder;

	if (shares_bytes == NULL || length == NULL)
		return false;
	for (uint32_t i = 0; i < CACHEGEN_SHARES; i++) {
		shares[i] = i == CACHEGEN_SHARES - 1 ? 1 << CACHEGEN_SHARE_BITS : cachegen_whole(shares_bytes + 2 * i, 2);
		if (i == 0 ? shares[0] != 0 : shares[i] <= shares[i - 1])
			return false;
	}
	stream = cachegen_get(at, end, cachegen_whole(length, 4));
	if (cachegen_whole(shares_bytes + 2 * (CACHEGEN_SHARES - 1), 2) != 0 || stream == NULL)
		return false;
	kvci_cachegen_decode_begin(&decoder, stream, *at);
	for (uint32_t token = 0; token < plane->tokens; token++) {
		uint32_t where = kvci_cachegen_decode_at(&decoder), code = 0;

		while (where >= shares[code + 1])
			code++;
		kvci_cachegen_decode_take(&decoder, shares[code], shares[code + 1] - shares[code]);
		plane->values[cachegen_at(plane, head, token, dim)] =
			(float)((int)code - (int)steps) / (float)steps * plane->magnitudes[token];
	}
	return true;
}

static bool cachegen_lmcache_get(const struct cachegen_plane *plane, const uint8_t **at, const uint8_t *end)
{
	const uint8_t *steps = cachegen_get(at, end, 1);

	if (steps == NULL || (*steps != 7 && *steps != 15) || !cachegen_get_magnitudes(plane, plane->tokens, at, end))
		return false;
	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++)
			if (!cachegen_channel_get(plane, head, dim, *steps, at, end))
				return false;
	return true;
}

/* ---- variant 1 ---------------------------------------------------------------------------------------------------- */

static uint32_t cachegen_anchors(const struct cachegen_plane *plane)
{
	return (plane->tokens + CACHEGEN_ANCHOR_EVERY - 1) / CACHEGEN_ANCHOR_EVERY;
}

static float cachegen_anchor(uint8_t code, float magnitude)
{
	return (float)((int)code - CACHEGEN_ZERO) / (float)CACHEGEN_ANCHOR_STEPS * magnitude;
}

static uint16_t cachegen_bf16_up(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return (uint16_t)((bits + 0xffff) >> 16);
}

static float cachegen_bf16(uint16_t half)
{
	uint32_t bits = (uint32_t)half << 16;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* `step` standard deviations of a channel, never 0; rounded up to bf16. */
static uint16_t cachegen_channel_step(const struct cachegen_plane *plane, uint32_t head, uint32_t dim, double step)
{
	double sum = 0, squares = 0, variance, wanted;

	for (uint32_t token = 0; token < plane->tokens; token++) {
		double value = (double)plane->values[cachegen_at(plane, head, token, dim)];

		sum += value;
		squares += value * value;
	}
	variance = (squares - sum * sum / plane->tokens) / plane->tokens;
	wanted = variance > 0 ? sqrt(variance) * step : 0;
	return cachegen_bf16_up((float)(wanted < 0x1p-100 ? 0x1p-100 : wanted > 0x1p120 ? 0x1p120 : wanted));
}

static uint8_t cachegen_code(float value)
{
	float code = rintf(value);

	return (uint8_t)((int)(code < -127 ? -127 : code > 127 ? 127 : code) + CACHEGEN_ZERO);
}

/* Codes of one channel. */
static void cachegen_channel_code(const struct cachegen_plane *plane, uint32_t head, uint32_t dim, float step)
{
	float anchor = 0;

	for (uint32_t token = 0; token < plane->tokens; token++) {
		size_t at = cachegen_at(plane, head, token, dim);
		float value = plane->values[at];

		if (token % CACHEGEN_ANCHOR_EVERY == 0) {
			float most = plane->magnitudes[token / CACHEGEN_ANCHOR_EVERY];

			plane->codes[at] = cachegen_code(most == 0 ? 0 : value / most * (float)CACHEGEN_ANCHOR_STEPS);
			anchor = cachegen_anchor(plane->codes[at], most);
		} else {
			plane->codes[at] = cachegen_code((value - anchor) / step);
		}
	}
}

/* What each channel's models begin with: histograms of the whole part, [0] of anchors, [1] of the others. */
static void cachegen_tables_put(const struct cachegen_plane *plane, uint16_t frequencies[2][256], struct cachegen_out *out)
{
	uint32_t counts[2][256] = { 0 };

	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t token = 0; token < plane->tokens; token++)
			for (uint32_t dim = 0; dim < plane->dims; dim++)
				counts[token % CACHEGEN_ANCHOR_EVERY != 0][plane->codes[cachegen_at(plane, head, token, dim)]]++;
	if (plane->tokens == 1)
		counts[1][CACHEGEN_ZERO] = 1;
	for (int i = 0; i < 2; i++) {
		uint8_t table[KVCI_RANS_TABLE_BYTES_MAX];

		kvci_rans_normalise(counts[i], frequencies[i]);
		cachegen_put(out, table, kvci_rans_table_write(frequencies[i], table));
	}
}

static void cachegen_paper_put(const struct cachegen_plane *plane, double step, struct cachegen_out *out)
{
	uint16_t frequencies[2][256];
	struct cachegen_encoder encoder;
	struct cachegen_model models[2];
	uint8_t steps[2], *length;

	for (uint32_t i = 0; i < cachegen_anchors(plane); i++)
		plane->magnitudes[i] = cachegen_magnitude(plane, i * CACHEGEN_ANCHOR_EVERY);
	cachegen_put_magnitudes(plane, cachegen_anchors(plane), out);
	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++)
			cachegen_channel_code(plane, head, dim, cachegen_bf16(cachegen_channel_step(plane, head, dim, step)));
	cachegen_tables_put(plane, frequencies, out);
	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++) {
			uint16_t half = cachegen_channel_step(plane, head, dim, step);

			steps[0] = (uint8_t)half;
			steps[1] = (uint8_t)(half >> 8);
			cachegen_put(out, steps, sizeof(steps));
		}
	length = out->at;
	cachegen_put_whole(out, 0, 4);
	if (out->full)
		return;
	kvci_cachegen_encode_begin(&encoder, out->at, out->end);
	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++) {
			kvci_cachegen_model_set(&models[0], frequencies[0]);
			kvci_cachegen_model_set(&models[1], frequencies[1]);
			for (uint32_t token = 0; token < plane->tokens; token++)
				kvci_cachegen_model_encode(&models[token % CACHEGEN_ANCHOR_EVERY != 0], &encoder,
				                           plane->codes[cachegen_at(plane, head, token, dim)]);
		}
	out->at += kvci_cachegen_encode_end(&encoder);
	out->full |= encoder.full;
	cachegen_put_whole(&(struct cachegen_out){ .at = length, .end = length + 4 }, (uint32_t)(out->at - length - 4), 4);
}

static bool cachegen_paper_get(const struct cachegen_plane *plane, const uint8_t **at, const uint8_t *end)
{
	uint16_t frequencies[2][256];
	const uint8_t *steps, *length, *stream;
	struct cachegen_decoder decoder;
	struct cachegen_model models[2];

	if (!cachegen_get_magnitudes(plane, cachegen_anchors(plane), at, end) || kvci_rans_table_read(at, end, frequencies[0]) != KVC_OK ||
	    kvci_rans_table_read(at, end, frequencies[1]) != KVC_OK)
		return false;
	steps = cachegen_get(at, end, (size_t)2 * plane->heads * plane->dims);
	length = cachegen_get(at, end, 4);
	if (steps == NULL || length == NULL || (stream = cachegen_get(at, end, cachegen_whole(length, 4))) == NULL)
		return false;
	kvci_cachegen_decode_begin(&decoder, stream, *at);
	for (uint32_t head = 0; head < plane->heads; head++)
		for (uint32_t dim = 0; dim < plane->dims; dim++, steps += 2) {
			float step = cachegen_bf16((uint16_t)cachegen_whole(steps, 2)), anchor = 0;

			if (!isfinite(step))
				return false;
			kvci_cachegen_model_set(&models[0], frequencies[0]);
			kvci_cachegen_model_set(&models[1], frequencies[1]);
			for (uint32_t token = 0; token < plane->tokens; token++) {
				uint32_t kind = token % CACHEGEN_ANCHOR_EVERY != 0;
				uint8_t code = kvci_cachegen_model_decode(&models[kind], &decoder);

				if (kind == 0)
					anchor = cachegen_anchor(code, plane->magnitudes[token / CACHEGEN_ANCHOR_EVERY]);
				plane->values[cachegen_at(plane, head, token, dim)] =
					kind == 0 ? anchor : anchor + (float)((int)code - CACHEGEN_ZERO) * step;
			}
		}
	return true;
}

/* ---- the slots ---------------------------------------------------------------------------------------------------- */

static bool cachegen_layout(const struct kvc_codec_part *part, size_t raw_bytes, struct kvci_layout *ret_layout)
{
	return kvci_layout_of(part, raw_bytes, ret_layout) && ret_layout->layers == 1;
}

static kvc_status_t cachegen_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                    void *scratch, size_t *ret_bytes)
{
	static const double thirds[3] = { 1, 1.4, 2 };
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_cachegen_ops.defaults;
	struct cachegen_out bytes = { .at = out, .end = (uint8_t *)out + out_bytes };
	struct kvci_layout layout;
	uint32_t sinks, third = (uint32_t)((uint64_t)3 * part->layer / part->form->layer_count);

	if (out_bytes < cachegen_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (params->variant > CACHEGEN_PAPER || !cachegen_layout(part, raw_bytes, &layout))
		return KVC_OK;
	sinks = kvci_layout_sinks(&layout, part->position_tokens, params->sinks);
	if (sinks == layout.tokens)
		return KVC_OK;
	cachegen_put_whole(&bytes, CACHEGEN_VERSION, 1);
	cachegen_put_whole(&bytes, params->variant, 1);
	cachegen_put_whole(&bytes, sinks, 2);
	cachegen_sinks_put(&layout, sinks, raw, &bytes);
	for (uint32_t i = 0; i < layout.plane_count && !bytes.full; i++) {
		struct cachegen_plane plane = cachegen_plane_of(&layout, i, sinks, raw_bytes, scratch);

		if (!cachegen_load(&plane, raw))
			return KVC_OK;
		if (params->variant == CACHEGEN_LMCACHE)
			cachegen_lmcache_put(&plane, cachegen_steps(layout.planes[i].is_k, part->layer), &bytes);
		else
			cachegen_paper_put(&plane, (double)params->step * thirds[third < 2 ? third : 2], &bytes);
	}
	if (!bytes.full && (size_t)(bytes.at - (uint8_t *)out) <= raw_bytes - raw_bytes / 32)
		*ret_bytes = (size_t)(bytes.at - (uint8_t *)out);
	return KVC_OK;
}

static kvc_status_t cachegen_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                    void *scratch)
{
	const uint8_t *at = coded, *end = at + coded_bytes, *head = cachegen_get(&at, end, CACHEGEN_HEAD_BYTES);
	struct kvci_layout layout;
	uint32_t sinks;

	if (head == NULL || head[0] != CACHEGEN_VERSION || head[1] > CACHEGEN_PAPER || !cachegen_layout(part, raw_bytes, &layout))
		return KVC_CORRUPT;
	sinks = cachegen_whole(head + 2, 2);
	if (sinks >= layout.tokens || !cachegen_sinks_get(&layout, sinks, raw, &at, end))
		return KVC_CORRUPT;
	for (uint32_t i = 0; i < layout.plane_count; i++) {
		struct cachegen_plane plane = cachegen_plane_of(&layout, i, sinks, raw_bytes, scratch);

		if (head[1] == CACHEGEN_LMCACHE ? !cachegen_lmcache_get(&plane, &at, end) : !cachegen_paper_get(&plane, &at, end))
			return KVC_CORRUPT;
		cachegen_store(&plane, raw);
	}
	return at == end ? KVC_OK : KVC_CORRUPT;
}

const struct kvc_codec_ops kvc_codec_cachegen_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_CACHEGEN,
	.name = "cachegen",
	.params = KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_VARIANT | KVC_CODEC_PARAM_STEP,
	.defaults = { .variant = CACHEGEN_LMCACHE, .step = 0.25f },
	.scratch_bytes = cachegen_scratch_bytes,
	.bound_bytes = cachegen_bound_bytes,
	.encode = cachegen_encode,
	.decode = cachegen_decode,
};
