/* SPDX-License-Identifier: Apache-2.0
 *
 * Layout: strides of each form, and runs of rows handed to the kernel page by page.
 */
#include "codec/layout.h"

#include "codec/quant.h"

static uint32_t layout_element_bytes(uint32_t dtype)
{
	return dtype == KVC_DTYPE_F32 ? 4 : dtype == KVC_DTYPE_BF16 || dtype == KVC_DTYPE_F16 ? 2 : 0;
}

/* Planes, and the bytes that one token of one head has in the part. */
static size_t layout_planes(struct kvci_layout *layout, const struct kvc_form *form, bool is_k)
{
	bool fused = form->arrangement == KVC_KV_FUSED;
	size_t bytes = 0;

	layout->plane_count = fused ? 2 : 1;
	for (uint32_t plane = 0; plane < layout->plane_count; plane++) {
		bool k = fused ? plane == 0 : is_k || form->arrangement == KVC_KV_LATENT;
		uint32_t dims = k ? form->head_dim_k : form->head_dim_v;

		layout->planes[plane] = (struct kvci_layout_plane){ .is_k = k, .dims = dims, .offset_bytes = bytes };
		bytes += (size_t)dims * layout->element_bytes;
	}
	return bytes;
}

bool kvci_layout_of(const struct kvc_codec_part *part, size_t raw_bytes, struct kvci_layout *ret_layout)
{
	const struct kvc_form *form = part->form;
	struct kvci_layout layout = { .dtype = form->dtype, .element_bytes = layout_element_bytes(form->dtype), .heads = form->kv_heads,
		                      .page_tokens = form->engine_block_tokens, .layers = part->layer_count == 0 ? 1 : part->layer_count };
	size_t bytes;

	if (layout.element_bytes == 0 || form->page_extra_bytes != 0)
		return false;
	bytes = layout_planes(&layout, form, part->is_k);
	layout.page_bytes = bytes * layout.heads * layout.page_tokens;
	if (raw_bytes == 0 || raw_bytes > KVC_BLOCK_BYTES_MAX || raw_bytes % layout.layers != 0)
		return false;
	layout.layer_bytes = raw_bytes / layout.layers;
	if (layout.page_bytes == 0 || layout.layer_bytes % layout.page_bytes != 0)
		return false;
	layout.tokens = (uint32_t)(layout.layer_bytes / layout.page_bytes * layout.page_tokens);
	if (form->order == KVC_ORDER_HN) {
		layout.token_bytes = bytes;
		layout.head_bytes = bytes * layout.page_tokens;
	} else {
		layout.token_bytes = bytes * layout.heads;
		layout.head_bytes = bytes;
	}
	*ret_layout = layout;
	return true;
}

uint32_t kvci_layout_sinks(const struct kvci_layout *layout, uint64_t position_tokens, uint32_t sinks)
{
	uint64_t left = position_tokens < sinks ? sinks - position_tokens : 0;

	return left < layout->tokens ? (uint32_t)left : layout->tokens;
}

bool kvci_layout_load(const struct kvci_layout *layout, const void *raw, const struct kvci_layout_rows *rows, float *floats, size_t stride)
{
	const struct quant_kernel *kernel = kvci_quant_kernel();
	uint32_t dims = layout->planes[rows->plane].dims;
	bool finite = true;

	for (uint32_t done = 0, run; done < rows->count; done += run) {
		const uint8_t *from = raw;

		run = kvci_layout_run(layout, rows->token + done, rows->count - done);
		from += kvci_layout_offset(layout, rows->plane, rows->layer, rows->head, rows->token + done);
		finite &= kernel->load(layout->dtype, from, layout->token_bytes, run, dims, floats + done * stride, stride);
	}
	return finite;
}

void kvci_layout_store(const struct kvci_layout *layout, void *raw, const struct kvci_layout_rows *rows, const float *floats, size_t stride)
{
	const struct quant_kernel *kernel = kvci_quant_kernel();
	uint32_t dims = layout->planes[rows->plane].dims;

	for (uint32_t done = 0, run; done < rows->count; done += run) {
		uint8_t *to = raw;

		run = kvci_layout_run(layout, rows->token + done, rows->count - done);
		to += kvci_layout_offset(layout, rows->plane, rows->layer, rows->head, rows->token + done);
		kernel->store(layout->dtype, to, layout->token_bytes, run, dims, floats + done * stride, stride);
	}
}
