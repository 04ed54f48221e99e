/* SPDX-License-Identifier: Apache-2.0
 *
 * hevc (the idea of LLM.265, also VcLLM): tensors as frames of a video. Each plane of each layer is a gray picture of 10 bits: a token a row, a
 * channel (head and dimension) a column, filled up to whole coding units by repeating the last. Built as a loadable module where x265 and
 * libde265 are: its place is beside other codecs in a table, not in a hot path.
 *
 *   sample = 512 + (value - mean of the channel) / unit, rounded
 *   unit   = 1/32 of the root of the mean square of all that is left in the frame, or what the largest needs to fit
 *
 * All frames are intra-coded: from layer to layer nothing can be predicted, and inter frames lose (docs/codecs.md). At constant `qp` the step is
 * 2^((qp - 4) / 6) / 8 of that root. variant 0 searches little (x265's preset ultrafast), 1 much (medium).
 *
 * Stream, little-endian:
 *   0   1  version: 1
 *   1   1  0
 *   2   2  sinks: how many of the part's tokens
 *   4   4  bytes of the video
 *   raw rows of the sinks: [planes][layers][heads][tokens]
 *   for each frame, [planes][layers]: unit (f32), means (f16) [heads][dims]
 *   the video (codec/hevc_video.h): frames [planes][layers]
 *
 * A part is not coded (0 bytes: "did not shrink") when its elements are no floats, a value that is no sink's is not finite or a channel's mean is beyond
 * f16, the engine has bytes of its own in it, a frame would have a side over 8,192, or the stream would be longer than 31/32 of it.
 */
#include <math.h>
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "codec/hevc_video.h"
#include "codec/layout.h"
#include "codec/quant.h"

enum {
	HEVC_VERSION = 1,
	HEVC_HEAD_BYTES = 8,
	HEVC_UNIT_BYTES = 4,
	HEVC_ALIGN_BYTES = 64,
	HEVC_SPAN = 8, /* layers a unit: opening an encoder costs as much as a frame */
	HEVC_MIDDLE = 1 << (HEVC_SAMPLE_BITS - 1),
	HEVC_SIGMA_UNITS = 32,
};

extern const struct kvc_codec_ops kvc_codec_hevc_ops;

struct hevc_work {
	struct kvci_layout layout;
	struct kvci_hevc_frames frames;
	uint32_t sinks, tokens; /* tokens that are no sinks */
	uint32_t channels;      /* most of a plane: floats from row to row */
	float *values;          /* of a frame */
	float *means;           /* of its channels */
	uint16_t *samples;
	uint8_t *raw;
	uint8_t *meta; /* of the first frame */
	bool wrong;    /* encode: a value that has no sample */
};

static uint32_t hevc_u32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void hevc_put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t hevc_side(uint32_t length)
{
	return (length + HEVC_UNIT - 1) / HEVC_UNIT * HEVC_UNIT;
}

/* ---- plan --------------------------------------------------------------------------------------------------------------------- */

/* False: no frames can be made of it. Sinks are not yet known: frames have all tokens. */
static bool hevc_plan(const struct kvc_codec_part *part, size_t raw_bytes, struct hevc_work *ret_work)
{
	struct hevc_work work = { .wrong = false };
	const struct kvci_layout *layout = &work.layout;

	if (!kvci_layout_of(part, raw_bytes, &work.layout))
		return false;
	for (uint32_t i = 0; i < layout->plane_count; i++) {
		uint64_t channels = (uint64_t)layout->heads * layout->planes[i].dims;

		if (channels > HEVC_SIDE_MAX)
			return false;
		work.channels = channels > work.channels ? (uint32_t)channels : work.channels;
	}
	if (layout->tokens > HEVC_SIDE_MAX)
		return false;
	work.frames = (struct kvci_hevc_frames){ .width = hevc_side(work.channels), .height = hevc_side(layout->tokens),
		                                 .count = layout->plane_count * layout->layers };
	*ret_work = work;
	return true;
}

static size_t hevc_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	struct hevc_work work;

	if (!hevc_plan(part, raw_bytes, &work))
		return 1;
	return (size_t)work.layout.tokens * work.channels * sizeof(float) + work.channels * sizeof(float) +
	       (size_t)work.frames.width * work.frames.height * sizeof(uint16_t) + (size_t)4 * HEVC_ALIGN_BYTES;
}

static void *hevc_aligned(void *at)
{
	return (void *)(((uintptr_t)at + HEVC_ALIGN_BYTES - 1) & ~(uintptr_t)(HEVC_ALIGN_BYTES - 1));
}

static void hevc_plan_sinks(struct hevc_work *work, uint32_t sinks, void *scratch)
{
	work->sinks = sinks;
	work->tokens = work->layout.tokens - sinks;
	work->frames.height = hevc_side(work->tokens);
	work->values = hevc_aligned(scratch);
	work->means = hevc_aligned(work->values + (size_t)work->layout.tokens * work->channels);
	work->samples = hevc_aligned(work->means + work->channels);
}

static uint32_t hevc_frame_channels(const struct hevc_work *work, uint32_t frame)
{
	return work->layout.heads * work->layout.planes[frame / work->layout.layers].dims;
}

/* What stands for the frames before this one. */
static size_t hevc_meta_bytes(const struct hevc_work *work, uint32_t frame)
{
	size_t bytes = 0;

	for (uint32_t i = 0; i < frame; i++)
		bytes += HEVC_UNIT_BYTES + (size_t)2 * hevc_frame_channels(work, i);
	return bytes;
}

/* Sinks from the part to the stream or back; returns their bytes. With raw NULL only that. */
static size_t hevc_sinks(const struct hevc_work *work, uint8_t *raw, uint8_t *stream, bool to_stream)
{
	const struct kvci_layout *layout = &work->layout;
	size_t at = 0;

	for (uint32_t plane = 0; plane < layout->plane_count; plane++) {
		size_t bytes = (size_t)layout->planes[plane].dims * layout->element_bytes;

		for (uint32_t row = 0; raw != NULL && row < layout->layers * layout->heads * work->sinks; row++) {
			uint32_t token = row % work->sinks, head = row / work->sinks % layout->heads;
			uint8_t *in_part = raw + kvci_layout_offset(layout, plane, row / work->sinks / layout->heads, head, token);
			uint8_t *in_stream = stream + at + row * bytes;

			memcpy(to_stream ? in_stream : in_part, to_stream ? in_part : in_stream, bytes);
		}
		at += bytes * layout->layers * layout->heads * work->sinks;
	}
	return at;
}

static struct kvci_layout_rows hevc_rows(const struct hevc_work *work, uint32_t frame, uint32_t head)
{
	return (struct kvci_layout_rows){ .plane = frame / work->layout.layers, .layer = frame % work->layout.layers, .head = head,
		                          .token = work->sinks, .count = work->tokens };
}

/* The means as stored, as floats. */
static bool hevc_means_load(const struct hevc_work *work, const uint8_t *meta, uint32_t channels)
{
	return kvci_quant_kernel()->load(KVC_DTYPE_F16, meta + HEVC_UNIT_BYTES, 0, 1, channels, work->means, channels);
}

/* ---- encode ------------------------------------------------------------------------------------------------------------------- */

/* Takes the means, as they are stored, off the values; returns the unit, or a negative number when one has no place in f16. */
static float hevc_centre(const struct hevc_work *work, uint8_t *meta, uint32_t channels)
{
	double squares = 0;
	float most = 0, unit, room;

	for (uint32_t channel = 0; channel < channels; channel++) {
		double sum = 0;

		for (uint32_t token = 0; token < work->tokens; token++)
			sum += (double)work->values[(size_t)token * channels + channel];
		work->means[channel] = (float)(sum / work->tokens);
		if (!(fabsf(work->means[channel]) < 65504.0f))
			return -1;
	}
	kvci_quant_kernel()->store(KVC_DTYPE_F16, meta + HEVC_UNIT_BYTES, 0, 1, channels, work->means, channels);
	if (!hevc_means_load(work, meta, channels))
		return -1;
	for (uint32_t token = 0; token < work->tokens; token++)
		for (uint32_t channel = 0; channel < channels; channel++) {
			float *value = &work->values[(size_t)token * channels + channel];

			*value -= work->means[channel];
			squares += (double)*value * (double)*value;
			most = fabsf(*value) > most ? fabsf(*value) : most;
		}
	unit = (float)(sqrt(squares / ((double)work->tokens * channels)) / HEVC_SIGMA_UNITS);
	room = most / (HEVC_MIDDLE - 1);
	unit = unit > room ? unit : room;
	return isfinite(unit) ? unit : -1;
}

static void hevc_fill(void *context, uint32_t frame, uint16_t *samples, size_t stride)
{
	struct hevc_work *work = context;
	uint32_t channels = hevc_frame_channels(work, frame), dims = channels / work->layout.heads, bits;
	uint8_t *meta = work->meta + hevc_meta_bytes(work, frame);
	float unit, per_unit;

	memset(samples, 0, stride * work->frames.height * sizeof(*samples));
	for (uint32_t head = 0; head < work->layout.heads; head++) {
		struct kvci_layout_rows rows = hevc_rows(work, frame, head);

		work->wrong |= !kvci_layout_load(&work->layout, work->raw, &rows, work->values + (size_t)head * dims, channels);
	}
	unit = work->wrong ? -1 : hevc_centre(work, meta, channels);
	per_unit = 1 / unit;
	work->wrong |= unit < 0 || (unit != 0 && !isfinite(per_unit));
	if (work->wrong)
		return;
	memcpy(&bits, &unit, sizeof(bits));
	hevc_put_u32(meta, bits);
	for (uint32_t row = 0; row < work->frames.height; row++) {
		const float *values = work->values + (size_t)(row < work->tokens ? row : work->tokens - 1) * channels;

		for (uint32_t column = 0; column < work->frames.width; column++) {
			float value = unit == 0 ? 0 : values[column < channels ? column : channels - 1] * per_unit;
			int32_t sample = HEVC_MIDDLE + (int32_t)lrintf(value);

			samples[row * stride + column] = (uint16_t)(sample < 0 ? 0 : sample > 2 * HEVC_MIDDLE - 1 ? 2 * HEVC_MIDDLE - 1 : sample);
		}
	}
}

static size_t hevc_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + HEVC_HEAD_BYTES;
}

static kvc_status_t hevc_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes, void *scratch,
                                size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_hevc_ops.defaults;
	size_t most = raw_bytes - raw_bytes / 32, at, video;
	uint8_t *bytes = out;
	struct hevc_work work;
	uint32_t sinks;

	if (out_bytes < hevc_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (params->qp > HEVC_QP_MAX || params->variant > 1 || !hevc_plan(part, raw_bytes, &work))
		return KVC_OK;
	sinks = kvci_layout_sinks(&work.layout, part->position_tokens, params->sinks);
	if (sinks == work.layout.tokens)
		return KVC_OK;
	hevc_plan_sinks(&work, sinks, scratch);
	at = HEVC_HEAD_BYTES + hevc_sinks(&work, NULL, NULL, true) + hevc_meta_bytes(&work, work.frames.count);
	if (at >= most)
		return KVC_OK;
	work.raw = (uint8_t *)(uintptr_t)raw; /* read only */
	work.meta = bytes + at - hevc_meta_bytes(&work, work.frames.count);
	hevc_sinks(&work, work.raw, bytes + HEVC_HEAD_BYTES, true);
	video = kvci_hevc_video_encode(&work.frames, params->qp, params->variant == 1, hevc_fill, &work, work.samples, bytes + at, most - at);
	if (video == 0 || work.wrong)
		return KVC_OK;
	bytes[0] = HEVC_VERSION;
	bytes[1] = 0;
	bytes[2] = (uint8_t)sinks;
	bytes[3] = (uint8_t)(sinks >> 8);
	hevc_put_u32(bytes + 4, (uint32_t)video);
	*ret_bytes = at + video;
	return KVC_OK;
}

/* ---- decode ------------------------------------------------------------------------------------------------------------------- */

static void hevc_take(void *context, uint32_t frame, uint16_t *samples, size_t stride)
{
	struct hevc_work *work = context;
	uint32_t channels = hevc_frame_channels(work, frame), dims = channels / work->layout.heads, bits;
	const uint8_t *meta = work->meta + hevc_meta_bytes(work, frame);
	float unit;

	bits = hevc_u32(meta);
	memcpy(&unit, &bits, sizeof(unit));
	if (!isfinite(unit) || !hevc_means_load(work, meta, channels)) {
		work->wrong = true;
		return;
	}
	for (uint32_t token = 0; token < work->tokens; token++)
		for (uint32_t channel = 0; channel < channels; channel++)
			work->values[(size_t)token * channels + channel] =
				work->means[channel] + (float)(samples[token * stride + channel] - HEVC_MIDDLE) * unit;
	for (uint32_t head = 0; head < work->layout.heads; head++) {
		struct kvci_layout_rows rows = hevc_rows(work, frame, head);

		kvci_layout_store(&work->layout, work->raw, &rows, work->values + (size_t)head * dims, channels);
	}
}

static kvc_status_t hevc_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes, void *scratch)
{
	const uint8_t *bytes = coded;
	size_t at, video;
	struct hevc_work work;
	kvc_status_t status;
	uint32_t sinks;

	if (coded_bytes < HEVC_HEAD_BYTES || bytes[0] != HEVC_VERSION || bytes[1] != 0 || !hevc_plan(part, raw_bytes, &work))
		return KVC_CORRUPT;
	sinks = bytes[2] | (uint32_t)bytes[3] << 8;
	video = hevc_u32(bytes + 4);
	if (sinks >= work.layout.tokens)
		return KVC_CORRUPT;
	hevc_plan_sinks(&work, sinks, scratch);
	at = HEVC_HEAD_BYTES + hevc_sinks(&work, NULL, NULL, false) + hevc_meta_bytes(&work, work.frames.count);
	if (coded_bytes < at || coded_bytes - at != video)
		return KVC_CORRUPT;
	work.raw = raw;
	work.meta = (uint8_t *)(uintptr_t)bytes + at - hevc_meta_bytes(&work, work.frames.count); /* read only */
	hevc_sinks(&work, raw, (uint8_t *)(uintptr_t)bytes + HEVC_HEAD_BYTES, false);
	status = kvci_hevc_video_decode(&work.frames, bytes + at, video, hevc_take, &work);
	return status == KVC_OK && work.wrong ? KVC_CORRUPT : status;
}

static uint32_t hevc_span(const struct kvc_codec_part *part)
{
	uint32_t left = part->form->layer_count > part->layer ? part->form->layer_count - part->layer : 1;

	return left < HEVC_SPAN ? left : HEVC_SPAN;
}

const struct kvc_codec_ops kvc_codec_hevc_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_HEVC,
	.name = "hevc",
	.params = KVC_CODEC_PARAM_QP | KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_VARIANT,
	.defaults = { .sinks = 4, .qp = 10 },
	.span = hevc_span,
	.scratch_bytes = hevc_scratch_bytes,
	.bound_bytes = hevc_bound_bytes,
	.encode = hevc_encode,
	.decode = hevc_decode,
};

KVC_CODEC_MODULE(kvc_codec_hevc_ops)
