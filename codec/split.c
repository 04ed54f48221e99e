/* SPDX-License-Identifier: Apache-2.0
 *
 * split: floating-point elements without loss. The rests of all elements as they are, at the part's start; then what is not a whole element; then
 * the model and the entropy-coded bytes (docs/format-split.md). Parts that would not shrink by 3 % are left to be stored raw.
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/split.h"

enum {
	SPLIT_ALIGN_BYTES = 64,
	SPLIT_SLACK_BYTES = 256, /* so that a kernel's last round has room */
	SPLIT_FEW = 32768,      /* elements */
	SPLIT_PIECE = 1024,     /* elements: a piece and what it becomes stay in the first cache */
};

/* Scratch of both directions; the symbols follow. */
struct split_encode_work {
	struct split_model model;
	struct split_counts counts;
	struct kvci_rans_encoder encoder;
};
struct split_decode_work {
	struct split_model model;
	struct kvci_rans_decoder decoder;
};
#define SPLIT_WORK_BYTES \
	(sizeof(struct split_encode_work) > sizeof(struct split_decode_work) ? sizeof(struct split_encode_work) : \
	                                                                        sizeof(struct split_decode_work))

static void *split_aligned(void *scratch)
{
	return (void *)(((uintptr_t)scratch + SPLIT_ALIGN_BYTES - 1) & ~(uintptr_t)(SPLIT_ALIGN_BYTES - 1));
}

static uint8_t *split_symbols(void *work)
{
	return (uint8_t *)work + (SPLIT_WORK_BYTES + SPLIT_ALIGN_BYTES - 1) / SPLIT_ALIGN_BYTES * SPLIT_ALIGN_BYTES;
}

static size_t split_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return SPLIT_WORK_BYTES + (size_t)3 * SPLIT_ALIGN_BYTES + raw_bytes / split_type_of(part->form->dtype).element_bytes;
}

static size_t split_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + SPLIT_SLACK_BYTES;
}

static bool split_is_worth(size_t coded_bytes, size_t raw_bytes)
{
	return coded_bytes <= raw_bytes - raw_bytes / 32;
}

/* Model, states and words of `count` symbols to `out`, which ends at `end`. 0: no room. *ret_words: how many bytes of these are words. */
static size_t split_code(struct split_encode_work *work, const uint8_t *symbols, size_t count, uint8_t *out, uint8_t *end, size_t *ret_words)
{
	uint32_t states[KVCI_RANS_STATES];
	uint8_t *at, *words;

	if ((size_t)(end - out) < split_model_bytes_max(&work->model) + KVCI_RANS_STATES_BYTES)
		return 0;
	at = out + split_model_write(&work->model, out);
	for (uint32_t class = 0; class < work->model.classes; class++)
		kvci_rans_encoder_set(&work->encoder, class, work->model.frequencies[class]);
	words = kvci_rans_encode(&work->encoder, &work->model.map, symbols, count, at + KVCI_RANS_STATES_BYTES, end, states);
	if (words == NULL)
		return 0;
	kvci_rans_states_write(states, at);
	at += KVCI_RANS_STATES_BYTES;
	*ret_words = (size_t)(end - words);
	memmove(at, words, *ret_words);
	return (size_t)(at - out) + *ret_words;
}

/* The same with a model made for it; 0 also when it would not be worth it. `plain` bytes go before it. A model of a sample of the tokens
 * is as good as one of all of them, unless the others are different: then it is made of all. */
static size_t split_code_fitted(struct split_encode_work *work, const struct split_type *type, const uint8_t *symbols, size_t count,
                                size_t plain, size_t raw_bytes, uint8_t *out, uint8_t *end)
{
	for (bool sample = true;; sample = false) {
		bool sampled = split_model_fit(&work->model, &work->counts, symbols, count, type->magnitude, sample);
		size_t predicted = split_model_predict(&work->model, &work->counts, count), coded, words;
		size_t slack = predicted / (count < SPLIT_FEW ? 32 : 64); /* chance does more where few are counted */

		if (!split_is_worth(plain + KVCI_RANS_STATES_BYTES + predicted, raw_bytes))
			return 0;
		coded = split_code(work, symbols, count, out, end, &words);
		if (!sampled || (coded != 0 && words <= predicted + slack))
			return coded;
	}
}

static kvc_status_t split_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
                                 size_t out_bytes, void *scratch, size_t *ret_bytes)
{
	struct split_type type = split_type_of(part->form->dtype);
	struct split_encode_work *work = split_aligned(scratch);
	size_t count = raw_bytes / type.element_bytes, tail = raw_bytes % type.element_bytes;
	size_t plain = count * type.rest_bytes + tail, coded;
	uint8_t *symbols = split_symbols(work), *bytes = out;

	if (out_bytes < split_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (type.kind == SPLIT_NONE || count == 0)
		return KVC_OK;
	split_kernel()->apart(type.kind, raw, count, symbols, bytes, bytes + count);
	memcpy(bytes + plain - tail, (const uint8_t *)raw + raw_bytes - tail, tail);
	split_model_shape(&work->model, part->form, part->is_k);
	coded = split_code_fitted(work, &type, symbols, count, plain, raw_bytes, bytes + plain, bytes + out_bytes);
	if (coded != 0 && split_is_worth(plain + coded, raw_bytes))
		*ret_bytes = plain + coded;
	return KVC_OK;
}

/* Lines that the pieces' end will want, while the entropy decoder is busy. */
static void split_prefetch(const uint8_t *rests, size_t rest_bytes, const uint8_t *raw, size_t raw_bytes)
{
	for (size_t at = 0; at < rest_bytes; at += SPLIT_ALIGN_BYTES)
		__builtin_prefetch(rests + at);
	for (size_t at = 0; at < raw_bytes; at += SPLIT_ALIGN_BYTES)
		__builtin_prefetch(raw + at, 1);
}

static kvc_status_t split_decode_pieces(struct split_type type, struct kvci_rans_reader *reader, const uint8_t *rests, size_t count,
                                        uint8_t *raw)
{
	uint8_t symbols[SPLIT_PIECE];
	kvc_status_t status = KVC_OK;

	for (size_t at = 0; at < count && status == KVC_OK; at += SPLIT_PIECE) {
		size_t piece = count - at < SPLIT_PIECE ? count - at : SPLIT_PIECE;

		split_prefetch(rests + at, type.rest_bytes == 0 ? 0 : piece, raw + at * type.element_bytes, piece * type.element_bytes);
		status = kvci_rans_read(reader, symbols, piece);
		if (status == KVC_OK)
			split_kernel()->join(type.kind, symbols, rests + at * (type.rest_bytes != 0), rests + count + 2 * at, piece,
			                     raw + at * type.element_bytes);
	}
	return status == KVC_OK ? kvci_rans_read_end(reader) : status;
}

static kvc_status_t split_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
                                 size_t raw_bytes, void *scratch)
{
	struct split_type type = split_type_of(part->form->dtype);
	struct split_decode_work *work = split_aligned(scratch);
	size_t count = raw_bytes / type.element_bytes, tail = raw_bytes % type.element_bytes;
	size_t plain = count * type.rest_bytes + tail;
	const uint8_t *rests = coded, *at, *end = rests + coded_bytes;
	struct kvci_rans_reader reader;
	kvc_status_t status;

	if (type.kind == SPLIT_NONE || count == 0 || coded_bytes < plain)
		return KVC_CORRUPT;
	at = rests + plain;
	status = split_model_read(&work->model, &at, end);
	if (status != KVC_OK)
		return status;
	for (uint32_t class = 0; class < work->model.classes; class++)
		kvci_rans_decoder_set(&work->decoder, class, work->model.frequencies[class]);
	status = kvci_rans_read_begin(&reader, &work->decoder, &work->model.map, at, end);
	if (status == KVC_OK)
		status = split_decode_pieces(type, &reader, rests, count, raw);
	if (status == KVC_OK)
		memcpy((uint8_t *)raw + raw_bytes - tail, rests + plain - tail, tail);
	return status;
}

const struct kvc_codec_ops kvc_codec_split_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_SPLIT,
	.name = "split",
	.lossless = true,
	.scratch_bytes = split_scratch_bytes,
	.bound_bytes = split_bound_bytes,
	.encode = split_encode,
	.decode = split_decode,
};
