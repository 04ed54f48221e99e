/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic coder of cachegen, and models that learn. Simple rather than fast.
 */
#include "codec/cachegen_coder.h"

enum {
	CODER_BOTTOM_BITS = 48,
	MODEL_PRIOR_SHIFT = 4,   /* what is known beforehand weighs as much as so many symbols: 2048 / 16 / MODEL_STEP */
	MODEL_STEP = 12,
	MODEL_TOTAL_MAX = 1 << 15,
};

void kvci_cachegen_encode_begin(struct cachegen_encoder *encoder, uint8_t *begin, uint8_t *end)
{
	*encoder = (struct cachegen_encoder){ .range = UINT64_MAX, .begin = begin, .at = begin, .end = end };
}

static void coder_carry(struct cachegen_encoder *encoder)
{
	uint8_t *at = encoder->at;

	while (at > encoder->begin && ++*--at == 0)
		;
}

static void coder_shift(struct cachegen_encoder *encoder)
{
	if (encoder->at < encoder->end)
		*encoder->at++ = (uint8_t)(encoder->low >> 56);
	else
		encoder->full = true;
	encoder->low <<= 8;
	encoder->range <<= 8;
}

void kvci_cachegen_encode(struct cachegen_encoder *encoder, uint32_t start, uint32_t width)
{
	uint64_t unit = encoder->range >> CACHEGEN_SHARE_BITS, low = encoder->low + unit * start;

	if (low < encoder->low)
		coder_carry(encoder);
	encoder->low = low;
	encoder->range = unit * width;
	while (encoder->range >> CODER_BOTTOM_BITS == 0)
		coder_shift(encoder);
}

/* Three bytes always suffice; those that are 0 need not be written. */
size_t kvci_cachegen_encode_end(struct cachegen_encoder *encoder)
{
	uint64_t rest = ((uint64_t)1 << 40) - 1, last = (encoder->low + rest) & ~rest;

	if (last < encoder->low)
		coder_carry(encoder);
	encoder->low = last;
	for (int i = 0; i < 3; i++)
		coder_shift(encoder);
	if (encoder->full)
		return 0;
	while (encoder->at > encoder->begin && encoder->at[-1] == 0)
		encoder->at--;
	return (size_t)(encoder->at - encoder->begin);
}

static uint8_t coder_next(struct cachegen_decoder *decoder)
{
	return decoder->at < decoder->end ? *decoder->at++ : 0;
}

void kvci_cachegen_decode_begin(struct cachegen_decoder *decoder, const uint8_t *begin, const uint8_t *end)
{
	*decoder = (struct cachegen_decoder){ .range = UINT64_MAX, .at = begin, .end = end };
	for (int i = 0; i < 8; i++)
		decoder->code = decoder->code << 8 | coder_next(decoder);
}

uint32_t kvci_cachegen_decode_at(const struct cachegen_decoder *decoder)
{
	uint64_t at = decoder->code / (decoder->range >> CACHEGEN_SHARE_BITS);

	return at >> CACHEGEN_SHARE_BITS != 0 ? (1u << CACHEGEN_SHARE_BITS) - 1 : (uint32_t)at;
}

void kvci_cachegen_decode_take(struct cachegen_decoder *decoder, uint32_t start, uint32_t width)
{
	uint64_t unit = decoder->range >> CACHEGEN_SHARE_BITS;

	decoder->code -= unit * start;
	decoder->range = unit * width;
	while (decoder->range >> CODER_BOTTOM_BITS == 0) {
		decoder->code = decoder->code << 8 | coder_next(decoder);
		decoder->range <<= 8;
	}
}

/* ---- models that learn ------------------------------------------------------------------------------------------- */

void kvci_cachegen_model_set(struct cachegen_model *model, const uint16_t frequencies[CACHEGEN_SYMBOLS])
{
	model->total = 0;
	for (int i = 0; i < CACHEGEN_SYMBOLS; i++) {
		model->weights[i] = frequencies[i] == 0 ? 0 : (uint16_t)(1 + (frequencies[i] >> MODEL_PRIOR_SHIFT));
		model->total += model->weights[i];
	}
}

/* In shares of 2^16: the bounds of a sum of weights. Those of different symbols never meet, as total <= 2^15. */
static uint32_t model_share(const struct cachegen_model *model, uint32_t sum)
{
	return (sum << CACHEGEN_SHARE_BITS) / model->total;
}

static void model_count(struct cachegen_model *model, uint8_t symbol)
{
	model->weights[symbol] = (uint16_t)(model->weights[symbol] + MODEL_STEP);
	model->total += MODEL_STEP;
	if (model->total <= MODEL_TOTAL_MAX - MODEL_STEP)
		return;
	model->total = 0;
	for (int i = 0; i < CACHEGEN_SYMBOLS; i++) {
		model->weights[i] = (uint16_t)((model->weights[i] + 1) / 2);
		model->total += model->weights[i];
	}
}

void kvci_cachegen_model_encode(struct cachegen_model *model, struct cachegen_encoder *encoder, uint8_t symbol)
{
	uint32_t sum = 0, start;

	for (int i = 0; i < symbol; i++)
		sum += model->weights[i];
	start = model_share(model, sum);
	kvci_cachegen_encode(encoder, start, model_share(model, sum + model->weights[symbol]) - start);
	model_count(model, symbol);
}

uint8_t kvci_cachegen_model_decode(struct cachegen_model *model, struct cachegen_decoder *decoder)
{
	uint32_t at = kvci_cachegen_decode_at(decoder), sum = 0, start = 0, next;
	int symbol = 0;

	for (;; symbol++) {
		next = model_share(model, sum + model->weights[symbol]);
		if (at < next) /* at the last one it is: the shares fill 2^16 */
			break;
		sum += model->weights[symbol];
		start = next;
	}
	kvci_cachegen_decode_take(decoder, start, next - start);
	model_count(model, (uint8_t)symbol);
	return (uint8_t)symbol;
}
