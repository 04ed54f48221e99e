/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes and id of a form. Every product is checked: the fields come from clients.
 */
#include <kvcask/form.h>

#include <stdbool.h>

#include "base/copy.h"
#include "base/record.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records, ids and messages are little-endian images");

/* What the form id covers: every field after struct_bytes, in declaration order. */
enum { FORM_ID_BYTES = sizeof(struct kvc_form) - offsetof(struct kvc_form, layer_count) };
_Static_assert(sizeof(struct kvc_form) == 64 && FORM_ID_BYTES == 60, "the form id covers 15 fields of 4 bytes");

static uint32_t form_element_bytes(uint32_t dtype)
{
	switch (dtype) {
	case KVC_DTYPE_F32:
		return 4;
	case KVC_DTYPE_BF16:
	case KVC_DTYPE_F16:
		return 2;
	case KVC_DTYPE_F8_E4M3:
	case KVC_DTYPE_F8_E5M2:
	case KVC_DTYPE_I8:
	case KVC_DTYPE_OPAQUE8:
		return 1;
	default:
		return 0;
	}
}

/* NULL, or the first field that is wrong by itself. */
static const char *form_wrong_field(const struct kvc_form *form)
{
	bool latent = form->arrangement == KVC_KV_LATENT;

	if (form->struct_bytes != sizeof(*form))
		return "struct_bytes";
	if (form->layer_count == 0)
		return "layer_count";
	if (form->engine_block_tokens == 0)
		return "engine_block_tokens";
	if (form->block_tokens == 0 || form->block_tokens % form->engine_block_tokens != 0)
		return "block_tokens";
	if (form->kv_heads == 0 || (latent && form->kv_heads != 1))
		return "kv_heads";
	if (form->head_dim_k == 0)
		return "head_dim_k";
	if (form_element_bytes(form->dtype) == 0)
		return "dtype";
	if (form->arrangement != KVC_KV_FUSED && form->arrangement != KVC_KV_SPLIT && !latent)
		return "arrangement";
	if ((form->head_dim_v == 0) != latent)
		return "head_dim_v";
	if (latent ? form->order != 0 : form->order != KVC_ORDER_HN && form->order != KVC_ORDER_NH)
		return "order";
	if (form->group_rule < KVC_GROUP_FULL || form->group_rule > KVC_GROUP_STATE)
		return "group_rule";
	if ((form->window_tokens != 0) != (form->group_rule == KVC_GROUP_WINDOW))
		return "window_tokens";
	if (form->shard_count == 0)
		return "shard_count";
	if (form->shard_index >= form->shard_count)
		return "shard_index";
	return NULL;
}

/* False when the bytes of one page or block pass KVC_BLOCK_BYTES_MAX. */
static bool form_multiply(const struct kvc_form *form, struct kvc_form_sizes *sizes)
{
	uint64_t dims = (uint64_t)form->head_dim_k + form->head_dim_v;
	uint64_t page, section, block;

	if (__builtin_mul_overflow(dims, (uint64_t)form->kv_heads, &page) ||
	    __builtin_mul_overflow(page, (uint64_t)form_element_bytes(form->dtype), &page) ||
	    __builtin_mul_overflow(page, (uint64_t)form->engine_block_tokens, &page) ||
	    __builtin_add_overflow(page, (uint64_t)form->page_extra_bytes, &page) || page > KVC_BLOCK_BYTES_MAX)
		return false;
	sizes->pages_per_section = form->block_tokens / form->engine_block_tokens;
	section = page * sizes->pages_per_section; /* at most 2^30 * 2^16, and 2^10 of them */
	block = section * form->layer_count;
	if (block > KVC_BLOCK_BYTES_MAX)
		return false;
	sizes->page_bytes = page;
	sizes->section_bytes = section;
	sizes->block_bytes = block;
	return true;
}

static uint64_t form_align(uint64_t bytes, uint64_t step)
{
	return (bytes + step - 1) / step * step;
}

kvc_status_t kvc_form_sizes(const struct kvc_form *form, struct kvc_form_sizes *ret_sizes, const char **ret_field)
{
	struct kvc_form_sizes sizes = {0};
	const char *field = form_wrong_field(form);
	kvc_status_t status = KVC_INVALID;

	if (field != NULL)
		goto fail;
	status = KVC_TOO_BIG;
	if (form->layer_count > KVC_FORM_LAYERS_MAX) {
		field = "layer_count";
		goto fail;
	}
	if (form->block_tokens > KVC_FORM_BLOCK_TOKENS_MAX) {
		field = "block_tokens";
		goto fail;
	}
	if (!form_multiply(form, &sizes)) {
		field = "block bytes";
		goto fail;
	}
	sizes.section_stride_bytes = form_align(sizes.section_bytes, KVCI_SECTION_ALIGN_BYTES);
	sizes.sections_offset_bytes = form_align(sizeof(struct kvci_record_header) +
	                                         (uint64_t)form->layer_count * sizeof(struct kvci_section_entry),
	                                         KVCI_SECTION_ALIGN_BYTES);
	sizes.record_bytes = form_align(sizes.sections_offset_bytes + form->layer_count * sizes.section_stride_bytes,
	                                KVCI_RECORD_ALIGN_BYTES);
	*ret_sizes = sizes;
	return KVC_OK;
fail:
	if (ret_field != NULL)
		*ret_field = field;
	return status;
}

uint64_t kvc_form_id(const struct kvc_form *form)
{
	return kvci_checksum(&form->layer_count, FORM_ID_BYTES, 0);
}
