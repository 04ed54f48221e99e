/* SPDX-License-Identifier: Apache-2.0
 *
 * Layout: where the rows of a part lie, and rows as floats, for codec/ and `kvcask calibrate`. A *row* is what one token of one head has in one *plane*: its K or
 * its V elements. A part of KVC_KV_SPLIT has one plane (K or V); of KVC_KV_FUSED two, K then V; of KVC_KV_LATENT one, that counts as K.
 *
 * Floats: loading is exact. Storing rounds to nearest, ties to even; what is beyond the largest finite value of the type becomes that value,
 * NaN becomes the positive one: nothing but finite values is ever stored. Every kernel stores the same bits.
 *
 * Threads: any; no state. The kernel is the one that kvci_rans_kernel() names.
 */
#ifndef KVCI_LAYOUT_H
#define KVCI_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/plugin/codec.h>

struct kvci_layout_plane {
	bool is_k;
	uint32_t dims;       /* elements of a row */
	size_t offset_bytes; /* of a row in what its token and head have */
};

struct kvci_layout {
	uint32_t dtype; /* F32, BF16 or F16 */
	uint32_t element_bytes;
	uint32_t layers;
	uint32_t tokens; /* of a layer, in whole pages */
	uint32_t heads;
	uint32_t page_tokens;
	uint32_t plane_count;
	struct kvci_layout_plane planes[2];
	/* From one layer, page, token of a page, head to the next. */
	size_t layer_bytes, page_bytes, token_bytes, head_bytes;
};

/* Rows of one head that follow one another in token order; they may lie in several pages. */
struct kvci_layout_rows {
	uint32_t plane, layer, head;
	uint32_t token; /* the first, counted from the part's */
	uint32_t count;
};

/* False: no floats, bytes of the engine's own behind pages, or not whole pages. The form was checked (kvc_form_sizes). */
bool kvci_layout_of(const struct kvc_codec_part *part, size_t raw_bytes, struct kvci_layout *ret_layout);

/* Elements of a plane in all layers. */
static inline size_t kvci_layout_elements(const struct kvci_layout *layout, uint32_t plane)
{
	return (size_t)layout->layers * layout->heads * layout->tokens * layout->planes[plane].dims;
}

/* Of a row from the part's first byte. */
static inline size_t kvci_layout_offset(const struct kvci_layout *layout, uint32_t plane, uint32_t layer, uint32_t head, uint32_t token)
{
	return layer * layout->layer_bytes + token / layout->page_tokens * layout->page_bytes +
	       token % layout->page_tokens * layout->token_bytes + head * layout->head_bytes + layout->planes[plane].offset_bytes;
}

/* How many of `count` rows from `token` on lie token_bytes apart: those in the same page, and all where pages follow as tokens do. */
static inline uint32_t kvci_layout_run(const struct kvci_layout *layout, uint32_t token, uint32_t count)
{
	uint32_t left = layout->page_tokens - token % layout->page_tokens;

	return count < left || layout->page_bytes == layout->page_tokens * layout->token_bytes ? count : left;
}

/* How many of the part's first tokens are sinks: at the positions 0 to sinks - 1 of their sequence. */
uint32_t kvci_layout_sinks(const struct kvci_layout *layout, uint64_t position_tokens, uint32_t sinks);

/* Rows as floats: row i at floats + i * stride (stride >= dims). False: one of them is not finite (all are loaded all the same). */
bool kvci_layout_load(const struct kvci_layout *layout, const void *raw, const struct kvci_layout_rows *rows, float *floats, size_t stride);
/* And back. */
void kvci_layout_store(const struct kvci_layout *layout, void *raw, const struct kvci_layout_rows *rows, const float *floats, size_t stride);

#endif
