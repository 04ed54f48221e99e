/* SPDX-License-Identifier: Apache-2.0
 *
 * split+profile: bf16 and fp32 without loss, by tables that are in the profile and not in the stream. What is coded is the sign, too: in many channels one is the
 * usual one. What the profile cannot be used for, or not well, is a stream of `split` behind the head.
 *
 * Stream: (little-endian; n elements)
 *   0   u8   version, 1
 *   1   u8   1: coded by the profile; 0: what follows is a stream of `split` (docs/format-split.md)
 *   2   u16  0
 *   4   u32  the profile's id, low half; 0 with a stream of split
 *   8   u32  escapes; 0 with a stream of split
 *   12       mantissas' upper 7 bits, in blocks of 512 elements (the last one has fewer, filled up to a multiple of 8 with 0): seven eighths of a block's elements,
 *            a byte each, whose bits 7 are the last eighth's elements: bit i of its k-th is bit 7 of the k-th element of eighth i
 *            fp32: the lower 16 bits of all elements
 *            what is not a whole element
 *            escapes: a byte each, the exponent
 *            states and words of codec/rans.h. A symbol is the sign (bit 7) and how far the exponent is above the profile's base (bits 0 to 6; 127:
 *            its exponent is the next escape), coded by the table of its channel's class
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/profile.h"
#include "codec/split.h"

enum {
	STREAM_VERSION = 1,
	STREAM_HEAD_BYTES = 12,
	STREAM_SLACK_BYTES = 512, /* so that a kernel's last round has room */
	STREAM_ALIGN_BYTES = 64,
	STREAM_PIECE = 2 * SPLIT_BLOCK, /* elements */
	STREAM_ESCAPES_MAX = 64,  /* more than one of so many: the profile is none for this part */
	STREAM_LEAST = 1024,      /* elements; fewer are for split */
};

struct stream_work {
	struct split_model model; /* its map and channels */
	uint8_t first[SPLIT_CHANNELS_MAX], span[SPLIT_CHANNELS_MAX]; /* of each channel's class */
};

static struct stream_work *stream_aligned(void *scratch)
{
	return (void *)(((uintptr_t)scratch + STREAM_ALIGN_BYTES - 1) & ~(uintptr_t)(STREAM_ALIGN_BYTES - 1));
}

static size_t stream_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	size_t mine = sizeof(struct stream_work) + (size_t)4 * STREAM_ALIGN_BYTES + 3 * (raw_bytes / 2 + STREAM_ALIGN_BYTES);
	size_t split = kvc_codec_split_ops.scratch_bytes(part, raw_bytes);

	return mine > split ? mine : split;
}

static size_t stream_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return kvc_codec_split_ops.bound_bytes(part, raw_bytes) + STREAM_HEAD_BYTES + STREAM_SLACK_BYTES;
}

static void stream_put32(uint8_t *out, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t stream_get32(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* The classes of `count` channels of one plane and head, and what they hold. */
static void stream_plan_channels(struct stream_work *work, uint32_t at, const struct kvci_profile_exponents *exponents, const uint8_t *classes,
                                 uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint8_t class = classes[i];

		work->model.channels[at + i] = (uint16_t)(class << KVCI_RANS_CLASS_SHIFT);
		work->first[at + i] = exponents->first[class];
		work->span[at + i] = (uint8_t)(exponents->last[class] - exponents->first[class]);
	}
}

/* False: this part cannot be coded by its profile. */
static bool stream_plan(struct stream_work *work, const struct kvc_codec_part *part)
{
	const struct kvc_profile *profile = part->profile;
	const struct kvc_form *form = part->form;
	bool has_k = form->arrangement != KVC_KV_SPLIT || part->is_k, has_v = form->arrangement == KVC_KV_FUSED || !has_k;
	const uint8_t *k, *v;
	uint32_t dims_k = has_k ? form->head_dim_k : 0, dims_v = has_v ? form->head_dim_v : 0, at = 0;

	if (profile == NULL || profile->exponents == NULL || !kvci_profile_fits(profile, form) || part->layer >= profile->layers ||
	    form->page_extra_bytes != 0)
		return false;
	split_model_shape(&work->model, form, part->is_k);
	if ((uint64_t)work->model.map.row * work->model.map.heads != (uint64_t)form->kv_heads * (dims_k + dims_v))
		return false;
	k = profile->exponents->channels[0] + (size_t)part->layer * profile->planes[0].channels;
	v = profile->exponents->channels[1] + (size_t)part->layer * profile->planes[1].channels;
	for (uint32_t head = 0; head < form->kv_heads; head++) {
		stream_plan_channels(work, at, profile->exponents, k + (size_t)head * dims_k, dims_k);
		stream_plan_channels(work, at + dims_k, profile->exponents, v + (size_t)head * dims_v, dims_v);
		at += dims_k + dims_v;
	}
	return true;
}

/* ---- encode ----------------------------------------------------------------------------------------------------------------- */

/* Exponents to symbols, row by row; escapes to `escapes`, at most `most` of them. Returns how many there are, or most + 1. */
static size_t stream_fold(const struct stream_work *work, const struct kvc_profile *profile, const uint8_t *exponents, uint8_t *rests, size_t count,
                          uint8_t *symbols, uint8_t *escapes, size_t most)
{
	const struct kvci_rans_map *map = &work->model.map;
	const struct split_kernel *kernel = split_kernel();
	size_t found = 0;
	uint32_t head = 0, turn = 0;

	for (size_t at = 0; at < count; at += map->row) {
		size_t length = count - at < map->row ? count - at : map->row, channel = (size_t)head * map->row;

		if (kernel->fold(exponents + at, rests + at, work->first + channel, work->span + channel, length, profile->exponents->base,
		                 symbols + at))
			for (size_t i = at; i < at + length; i++) {
				if ((symbols[i] & 0x7f) != SPLIT_ESCAPE)
					continue;
				if (found == most)
					return most + 1;
				escapes[found++] = exponents[i];
			}
		if (++turn == map->repeat) {
			turn = 0;
			head = head + 1 == map->heads ? 0 : head + 1;
		}
	}
	return found;
}

/* The part by its profile to `out`, which ends at `end`; 0: it cannot be, or would not be worth it. */
static size_t stream_encode_profile(struct stream_work *work, const struct kvc_codec_part *part, struct split_type type, const uint8_t *raw,
                                    size_t raw_bytes, uint8_t *out, uint8_t *end)
{
	size_t count = raw_bytes / type.element_bytes, tail = raw_bytes % type.element_bytes, eights = (count + 7) / 8, escapes;
	size_t room = (count / STREAM_ALIGN_BYTES + 2) * STREAM_ALIGN_BYTES;
	uint8_t *exponents = (uint8_t *)(work + 1), *rests = exponents + room, *symbols = rests + room;
	uint8_t *lower = out + STREAM_HEAD_BYTES + 7 * eights, *at = lower + (type.kind == SPLIT_F32 ? 2 * count : 0), *words;
	uint32_t states[KVCI_RANS_STATES];

	split_kernel()->apart(type.kind, raw, count, exponents, rests, lower);
	memcpy(at, raw + raw_bytes - tail, tail);
	at += tail;
	escapes = stream_fold(work, part->profile, exponents, rests, count, symbols, at, count / STREAM_ESCAPES_MAX);
	if (escapes > count / STREAM_ESCAPES_MAX)
		return 0;
	at += escapes;
	memset(rests + count, 0, 8);
	split_kernel()->pack(rests, count, out + STREAM_HEAD_BYTES);
	if ((size_t)(end - at) < KVCI_RANS_STATES_BYTES)
		return 0;
	words = kvci_rans_encode_wide(part->profile->exponents->encoder, &work->model.map, symbols, count, at + KVCI_RANS_STATES_BYTES, end, states);
	if (words == NULL)
		return 0;
	kvci_rans_states_write(states, at);
	at += KVCI_RANS_STATES_BYTES;
	memmove(at, words, (size_t)(end - words));
	stream_put32(out, STREAM_VERSION | 1 << 8);
	stream_put32(out + 4, (uint32_t)part->profile->id);
	stream_put32(out + 8, (uint32_t)escapes);
	return (size_t)(at - out) + (size_t)(end - words);
}

static bool stream_is_worth(size_t coded_bytes, size_t raw_bytes)
{
	return coded_bytes != 0 && coded_bytes <= raw_bytes - raw_bytes / 32;
}

static kvc_status_t stream_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                  void *scratch, size_t *ret_bytes)
{
	struct split_type type = split_type_of(part->form->dtype);
	struct stream_work *work = stream_aligned(scratch);
	size_t coded = 0;
	uint8_t *bytes = out;
	kvc_status_t status;

	if (out_bytes < stream_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	if ((type.kind == SPLIT_BF16 || type.kind == SPLIT_F32) && raw_bytes / type.element_bytes >= STREAM_LEAST && stream_plan(work, part))
		coded = stream_encode_profile(work, part, type, raw, raw_bytes, bytes, bytes + out_bytes);
	*ret_bytes = coded;
	if (stream_is_worth(coded, raw_bytes))
		return KVC_OK;
	status = kvc_codec_split_ops.encode(part, raw, raw_bytes, bytes + STREAM_HEAD_BYTES, out_bytes - STREAM_HEAD_BYTES, scratch, &coded);
	if (status != KVC_OK)
		return status;
	memset(bytes, 0, STREAM_HEAD_BYTES);
	bytes[0] = STREAM_VERSION;
	*ret_bytes = stream_is_worth(coded, raw_bytes) ? coded + STREAM_HEAD_BYTES : 0;
	return KVC_OK;
}

/* ---- decode ----------------------------------------------------------------------------------------------------------------- */

/* Where the parts of a stream lie. */
struct stream_parts {
	struct split_type type;
	size_t count;
	const uint8_t *rests, *lower, *escapes, *escapes_end;
	uint8_t base;
};

/* The exponents of a piece's escapes, which are symbols of `escaped`; false: there are fewer. */
static bool stream_patch(struct stream_parts *parts, uint8_t *exponents, size_t count)
{
	uint8_t *end = exponents + count;

	while ((exponents = memchr(exponents, (uint8_t)(parts->base + SPLIT_ESCAPE), (size_t)(end - exponents))) != NULL) {
		if (parts->escapes == parts->escapes_end)
			return false;
		*exponents++ = *parts->escapes++;
	}
	return true;
}

/* Lines that the piece's end will want, while the entropy decoder is busy. */
static void stream_prefetch(const struct stream_parts *parts, size_t first, size_t count, const uint8_t *raw)
{
	const uint8_t *rests = parts->rests + first / 8 * 7, *lower = parts->lower + 2 * first;

	raw += first * parts->type.element_bytes;
	for (size_t at = 0; at < count / 8 * 7; at += STREAM_ALIGN_BYTES)
		__builtin_prefetch(rests + at);
	for (size_t at = 0; parts->type.kind == SPLIT_F32 && at < 2 * count; at += STREAM_ALIGN_BYTES)
		__builtin_prefetch(lower + at);
	for (size_t at = 0; at < count * parts->type.element_bytes; at += STREAM_ALIGN_BYTES)
		__builtin_prefetch(raw + at, 1);
}

static kvc_status_t stream_decode_pieces(struct stream_parts *parts, struct kvci_rans_reader *reader, uint8_t *raw)
{
	uint8_t symbols[STREAM_PIECE], rests[STREAM_PIECE + 8];
	const struct split_kernel *kernel = split_kernel();

	for (size_t at = 0; at < parts->count; at += STREAM_PIECE) {
		size_t piece = parts->count - at < STREAM_PIECE ? parts->count - at : STREAM_PIECE;
		kvc_status_t status;

		stream_prefetch(parts, at, piece, raw);
		status = kvci_rans_read(reader, symbols, piece);
		if (status != KVC_OK)
			return status;
		kernel->unpack(parts->rests + at / 8 * 7, piece, rests);
		if (kernel->unfold(symbols, rests, piece, parts->base) && !stream_patch(parts, symbols, piece))
			return KVC_CORRUPT;
		kernel->join(parts->type.kind, symbols, rests, parts->lower + 2 * at, piece, raw + at * parts->type.element_bytes);
	}
	return parts->escapes == parts->escapes_end ? kvci_rans_read_end(reader) : KVC_CORRUPT;
}

static kvc_status_t stream_decode_profile(struct stream_work *work, const struct kvc_codec_part *part, const uint8_t *coded, size_t coded_bytes,
                                          uint8_t *raw, size_t raw_bytes)
{
	struct stream_parts parts = { .type = split_type_of(part->form->dtype) };
	size_t count = parts.count = raw_bytes / parts.type.element_bytes, tail = raw_bytes % parts.type.element_bytes;
	size_t lower = parts.type.kind == SPLIT_F32 ? 2 * count : 0, plain = (count + 7) / 8 * 7 + lower + tail;
	uint32_t escapes = stream_get32(coded + 8);
	struct kvci_rans_reader reader;
	kvc_status_t status;

	if ((parts.type.kind != SPLIT_BF16 && parts.type.kind != SPLIT_F32) || !stream_plan(work, part) ||
	    stream_get32(coded + 4) != (uint32_t)part->profile->id || coded_bytes - STREAM_HEAD_BYTES < plain ||
	    coded_bytes - STREAM_HEAD_BYTES - plain < escapes)
		return KVC_CORRUPT;
	parts.base = part->profile->exponents->base;
	parts.rests = coded + STREAM_HEAD_BYTES;
	parts.lower = parts.rests + plain - tail - lower;
	parts.escapes = parts.rests + plain;
	parts.escapes_end = parts.escapes + escapes;
	status = kvci_rans_read_begin_wide(&reader, part->profile->exponents->decoder, &work->model.map, parts.escapes_end, coded + coded_bytes);
	if (status == KVC_OK)
		status = stream_decode_pieces(&parts, &reader, raw);
	if (status == KVC_OK)
		memcpy(raw + raw_bytes - tail, parts.rests + plain - tail, tail);
	return status;
}

static kvc_status_t stream_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                  void *scratch)
{
	const uint8_t *bytes = coded;

	if (coded_bytes < STREAM_HEAD_BYTES || bytes[0] != STREAM_VERSION || bytes[1] > 1 || bytes[2] != 0 || bytes[3] != 0)
		return KVC_CORRUPT;
	if (bytes[1] == 1)
		return stream_decode_profile(stream_aligned(scratch), part, bytes, coded_bytes, raw, raw_bytes);
	if (stream_get32(bytes + 4) != 0 || stream_get32(bytes + 8) != 0)
		return KVC_CORRUPT;
	return kvc_codec_split_ops.decode(part, bytes + STREAM_HEAD_BYTES, coded_bytes - STREAM_HEAD_BYTES, raw, raw_bytes, scratch);
}

const struct kvc_codec_ops kvc_codec_split_profile_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_SPLIT_PROFILE,
	.name = "split+profile",
	.lossless = true,
	.needs_profile = true,
	.scratch_bytes = stream_scratch_bytes,
	.bound_bytes = stream_bound_bytes,
	.encode = stream_encode,
	.decode = stream_decode,
};
