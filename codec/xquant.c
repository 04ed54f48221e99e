/* SPDX-License-Identifier: Apache-2.0
 *
 * xquant: the inputs of the layers instead of K and V, which a reader that has the weights computes from them. A part has KVC_KV_LATENT rows, one
 * of `hidden` elements a token; others are not coded. Groups of a row's elements have a lowest value and a scale each (f16).
 *
 *   variant 0  X as it is (XQuant), bits_k bits, a layer a unit
 *   variant 1  the residual stream (XQuant-CL), all layers a unit: the first three at bits_k + 1 bits, the others as the difference from what
 *              the layer before decodes to, bits_k bits
 *
 * Stream, little-endian:
 *   0   1  version: 1
 *   1   1  variant
 *   2   1  bits
 *   3   1  0
 *   4   2  group, 8 or more
 *   6   2  sinks: how many of the part's tokens
 *   raw rows of the sinks: [layers][tokens]
 *   for each layer and token that is no sink: lowest of all groups, then scales, f16
 *   bytes of codes (4) and codes (codec/codes.h) of the first layers, all in variant 0; in variant 1 with more layers than three, the same of the others
 *
 *   value = lowest + code * scale     the error is at most half a scale, what f16 loses, and the element's own rounding
 */
#include <string.h>

#include "codec/codecs.h"
#include "codec/codes.h"
#include "codec/layout.h"
#include "codec/quant.h"

enum {
	XQUANT_VERSION = 1,
	XQUANT_CL = 1,
	XQUANT_FIRST_LAYERS = 3,
	XQUANT_GROUP_MIN = 8,
	XQUANT_GROUP_MAX = 4096,
	XQUANT_HEAD_BYTES = 8,
	XQUANT_ALIGN_BYTES = 64,
};

/* A part and how it is coded. */
struct xquant_plan {
	struct kvci_layout layout;
	const struct quant_kernel *kernel;
	uint32_t variant, bits, group, sinks;
	uint32_t tokens, dims, first_layers; /* tokens that are no sinks; layers that stand for themselves */
};

/* Scratch. */
struct xquant_work {
	struct kvci_codes_writer writer;
	struct kvci_codes_reader reader;
	uint8_t codes[];
};

static uint32_t xquant_span(const struct kvc_codec_part *part)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_xquant_ops.defaults;

	return params->variant == XQUANT_CL && part->layer < part->form->layer_count ? part->form->layer_count - part->layer : 1;
}

static bool xquant_plan(const struct kvc_codec_part *part, size_t raw_bytes, struct xquant_plan *ret_plan)
{
	return part->form->arrangement == KVC_KV_LATENT && kvci_layout_of(part, raw_bytes, &ret_plan->layout) &&
	       ret_plan->layout.planes[0].dims <= QUANT_DIMS_MAX;
}

/* The rest of it, of encode's params or a stream's head. */
static bool xquant_plan_coding(struct xquant_plan *plan, uint32_t variant, uint32_t bits, uint32_t group, uint32_t sinks)
{
	plan->kernel = kvci_quant_kernel();
	plan->variant = variant;
	plan->bits = bits;
	plan->group = group;
	plan->sinks = sinks;
	if (variant > XQUANT_CL || bits < 2 || bits + variant > 8 || group < XQUANT_GROUP_MIN || group > XQUANT_GROUP_MAX || sinks >= plan->layout.tokens)
		return false;
	plan->tokens = plan->layout.tokens - sinks;
	plan->dims = plan->layout.planes[0].dims;
	plan->first_layers = variant == XQUANT_CL && plan->layout.layers > XQUANT_FIRST_LAYERS ? XQUANT_FIRST_LAYERS : plan->layout.layers;
	return true;
}

static uint32_t xquant_bits(const struct xquant_plan *plan, uint32_t layer)
{
	return layer < plan->first_layers ? plan->bits + plan->variant : plan->bits;
}

static size_t xquant_row_meta_bytes(const struct xquant_plan *plan)
{
	return (size_t)4 * ((plan->dims + plan->group - 1) / plan->group);
}

static size_t xquant_meta_bytes(const struct xquant_plan *plan)
{
	return plan->layout.layers * plan->tokens * xquant_row_meta_bytes(plan);
}

/* Of the first layers, or of the others. */
static struct kvci_codes_shape xquant_shape(const struct xquant_plan *plan, bool first)
{
	return (struct kvci_codes_shape){
		.layers = first ? plan->first_layers : plan->layout.layers - plan->first_layers, .heads = 1, .rows = plan->tokens, .dims = plan->dims,
		.bits = xquant_bits(plan, first ? 0 : plan->first_layers),
	};
}

static size_t xquant_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	struct xquant_plan plan;

	return !xquant_plan(part, raw_bytes, &plan) ? 1 :
	       sizeof(struct xquant_work) + kvci_layout_elements(&plan.layout, 0) + (size_t)3 * XQUANT_ALIGN_BYTES;
}

static struct xquant_work *xquant_aligned(void *scratch)
{
	return (struct xquant_work *)(((uintptr_t)scratch + XQUANT_ALIGN_BYTES - 1) & ~(uintptr_t)(XQUANT_ALIGN_BYTES - 1));
}

/* As if every row were a sink and coded in the smallest groups, too. */
static size_t xquant_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	struct kvci_codes_shape shape = { .layers = 1, .heads = 1, .dims = 1, .bits = 8 };
	struct xquant_plan plan;

	if (!xquant_plan(part, raw_bytes, &plan) || !xquant_plan_coding(&plan, 0, 8, XQUANT_GROUP_MIN, 0))
		return raw_bytes;
	return XQUANT_HEAD_BYTES + raw_bytes + xquant_meta_bytes(&plan) + kvci_layout_elements(&plan.layout, 0) +
	       2 * (4 + kvci_codes_bound(&shape) + XQUANT_ALIGN_BYTES);
}

static size_t xquant_sinks(const struct xquant_plan *plan, uint8_t *raw, uint8_t *stream, bool to_stream)
{
	size_t bytes = (size_t)plan->dims * plan->layout.element_bytes, at = 0;

	for (uint32_t layer = 0; layer < plan->layout.layers; layer++)
		for (uint32_t token = 0; token < plan->sinks; token++, at += bytes) {
			uint8_t *row = raw + kvci_layout_offset(&plan->layout, 0, layer, 0, token);

			memcpy(to_stream ? stream + at : row, to_stream ? row : stream + at, bytes);
		}
	return at;
}

/* A row of floats as the kernels take rows. */
static struct quant_rows xquant_row(const struct xquant_plan *plan, uint32_t dtype)
{
	return (struct quant_rows){
		.dtype = dtype, .count = 1, .dims = plan->dims,
		.row_bytes = (size_t)plan->dims * (dtype == KVC_DTYPE_F32 ? sizeof(float) : plan->layout.element_bytes),
	};
}

static void xquant_load(const struct xquant_plan *plan, const uint8_t *raw, float *floats)
{
	plan->kernel->load(plan->layout.dtype, raw, xquant_row(plan, plan->layout.dtype).row_bytes, 1, plan->dims, floats, plan->dims);
}

/* ---- encode --------------------------------------------------------------------------------------------------------- */

/* One token through all layers; `base` follows what the decoder will have. */
static bool xquant_encode_token(const struct xquant_plan *plan, const uint8_t *raw, uint32_t token, uint8_t *meta, uint8_t *first, uint8_t *others)
{
	float row[QUANT_DIMS_MAX], base[QUANT_DIMS_MAX], coded[QUANT_DIMS_MAX];
	struct quant_rows floats = xquant_row(plan, KVC_DTYPE_F32);
	size_t row_meta = xquant_row_meta_bytes(plan);
	uint8_t element[4 * QUANT_DIMS_MAX];

	for (uint32_t layer = 0; layer < plan->layout.layers; layer++) {
		uint32_t levels = (1u << xquant_bits(plan, layer)) - 1;
		bool alone = layer < plan->first_layers;
		uint8_t *codes = (alone ? first : others) + ((size_t)(alone ? layer : layer - plan->first_layers) * plan->tokens + token) * plan->dims;
		uint8_t *row_at = meta + ((size_t)layer * plan->tokens + token) * row_meta;

		xquant_load(plan, raw + kvci_layout_offset(&plan->layout, 0, layer, 0, plan->sinks + token), row);
		for (uint32_t i = 0; i < plan->dims && !alone; i++)
			row[i] -= base[i];
		if (!plan->kernel->group_encode(&floats, (const uint8_t *)row, plan->group, levels, row_at, codes))
			return false;
		if (plan->variant != XQUANT_CL)
			continue;
		plan->kernel->group_decode(&floats, (uint8_t *)coded, plan->group, row_at, codes);
		for (uint32_t i = 0; i < plan->dims && !alone; i++)
			coded[i] += base[i];
		plan->kernel->store(plan->layout.dtype, element, 0, 1, plan->dims, coded, plan->dims);
		xquant_load(plan, element, base);
	}
	return true;
}

static size_t xquant_put_codes(const struct xquant_plan *plan, bool first, bool entropy, struct xquant_work *work, uint8_t *codes, uint8_t *out)
{
	struct kvci_codes_choice choice = { .entropy = entropy, .classes = KVCI_RANS_CLASSES_MAX, .magnitude = 0xff };
	struct kvci_codes_shape shape = xquant_shape(plan, first);
	size_t bytes = kvci_codes_write(&work->writer, &shape, &choice, codes, out + 4);

	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(bytes >> 8 * i);
	return 4 + bytes;
}

static kvc_status_t xquant_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                  void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_xquant_ops.defaults;
	struct xquant_work *work = xquant_aligned(scratch);
	uint8_t *head = out, *at = head + XQUANT_HEAD_BYTES, *meta, *others;
	struct xquant_plan plan;

	if (out_bytes < xquant_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (!xquant_plan(part, raw_bytes, &plan) ||
	    !xquant_plan_coding(&plan, params->variant, params->bits_k, params->group, kvci_layout_sinks(&plan.layout, part->position_tokens, params->sinks)))
		return KVC_OK;
	memcpy(head, (uint8_t[]){ XQUANT_VERSION, (uint8_t)plan.variant, (uint8_t)plan.bits, 0, (uint8_t)plan.group, (uint8_t)(plan.group >> 8),
	                          (uint8_t)plan.sinks, (uint8_t)(plan.sinks >> 8) }, XQUANT_HEAD_BYTES);
	at += xquant_sinks(&plan, (uint8_t *)(uintptr_t)raw, at, true);
	meta = at;
	at += xquant_meta_bytes(&plan);
	others = work->codes + (size_t)plan.first_layers * plan.tokens * plan.dims + XQUANT_ALIGN_BYTES;
	for (uint32_t token = 0; token < plan.tokens; token++)
		if (!xquant_encode_token(&plan, raw, token, meta, work->codes, others))
			return KVC_OK;
	at += xquant_put_codes(&plan, true, params->entropy != 0, work, work->codes, at);
	if (plan.first_layers < plan.layout.layers)
		at += xquant_put_codes(&plan, false, params->entropy != 0, work, others, at);
	if ((size_t)(at - head) <= raw_bytes - raw_bytes / 32)
		*ret_bytes = (size_t)(at - head);
	return KVC_OK;
}

/* ---- decode --------------------------------------------------------------------------------------------------------- */

static bool xquant_get_codes(const struct xquant_plan *plan, bool first, struct xquant_work *work, const uint8_t **at, const uint8_t *end)
{
	struct kvci_codes_shape shape = xquant_shape(plan, first);
	const uint8_t *codes = *at + 4;
	size_t bytes;

	if (end - *at < 4)
		return false;
	bytes = codes[-4] | (size_t)codes[-3] << 8 | (size_t)codes[-2] << 16 | (size_t)codes[-1] << 24;
	if ((size_t)(end - codes) < bytes)
		return false;
	*at = codes + bytes;
	return kvci_codes_read_begin(&work->reader, &shape, codes, bytes) == KVC_OK;
}

static bool xquant_decode_layer(const struct xquant_plan *plan, uint32_t layer, const uint8_t *meta, struct kvci_codes_reader *reader, uint8_t *raw)
{
	float coded[QUANT_DIMS_MAX], base[QUANT_DIMS_MAX];
	struct quant_rows floats = xquant_row(plan, KVC_DTYPE_F32);
	size_t row_meta = xquant_row_meta_bytes(plan);

	for (uint32_t token = 0; token < plan->tokens; token++) {
		const uint8_t *codes = kvci_codes_read(reader, 0, 1);
		uint8_t *row = raw + kvci_layout_offset(&plan->layout, 0, layer, 0, plan->sinks + token);

		if (codes == NULL)
			return false;
		plan->kernel->group_decode(&floats, (uint8_t *)coded, plan->group, meta + ((size_t)layer * plan->tokens + token) * row_meta, codes);
		if (layer >= plan->first_layers) {
			xquant_load(plan, raw + kvci_layout_offset(&plan->layout, 0, layer - 1, 0, plan->sinks + token), base);
			for (uint32_t i = 0; i < plan->dims; i++)
				coded[i] += base[i];
		}
		plan->kernel->store(plan->layout.dtype, row, 0, 1, plan->dims, coded, plan->dims);
	}
	return true;
}

static kvc_status_t xquant_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                  void *scratch)
{
	const uint8_t *at = coded, *end = at + coded_bytes, *meta;
	struct xquant_work *work = xquant_aligned(scratch);
	struct xquant_plan plan;

	if (coded_bytes < XQUANT_HEAD_BYTES || at[0] != XQUANT_VERSION || at[3] != 0 || !xquant_plan(part, raw_bytes, &plan) ||
	    !xquant_plan_coding(&plan, at[1], at[2], at[4] | (uint32_t)at[5] << 8, at[6] | (uint32_t)at[7] << 8))
		return KVC_CORRUPT;
	at += XQUANT_HEAD_BYTES;
	if ((size_t)(end - at) < (size_t)plan.layout.layers * plan.sinks * plan.dims * plan.layout.element_bytes + xquant_meta_bytes(&plan))
		return KVC_CORRUPT;
	at += xquant_sinks(&plan, raw, (uint8_t *)(uintptr_t)at, false);
	meta = at;
	at += xquant_meta_bytes(&plan);
	for (uint32_t layer = 0; layer < plan.layout.layers; layer++) {
		if ((layer == 0 || layer == plan.first_layers) && !xquant_get_codes(&plan, layer == 0, work, &at, end))
			return KVC_CORRUPT;
		if (!xquant_decode_layer(&plan, layer, meta, &work->reader, raw))
			return KVC_CORRUPT;
		if ((layer + 1 == plan.first_layers || layer + 1 == plan.layout.layers) && kvci_codes_read_end(&work->reader) != KVC_OK)
			return KVC_CORRUPT;
	}
	return at == end ? KVC_OK : KVC_CORRUPT;
}

const struct kvc_codec_ops kvc_codec_xquant_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_XQUANT,
	.name = "xquant",
	.params = KVC_CODEC_PARAM_BITS_K | KVC_CODEC_PARAM_GROUP | KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_ENTROPY | KVC_CODEC_PARAM_VARIANT,
	.defaults = { .bits_k = 4, .group = 64, .sinks = 4, .entropy = 1 },
	.span = xquant_span,
	.scratch_bytes = xquant_scratch_bytes,
	.bound_bytes = xquant_bound_bytes,
	.encode = xquant_encode,
	.decode = xquant_decode,
};
