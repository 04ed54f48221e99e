/* SPDX-License-Identifier: Apache-2.0
 *
 * Form: how the bytes of a block lie, and where an engine keeps them.
 *
 * A *block* holds the KV of `block_tokens` consecutive tokens of one group of layers, as one parallel rank
 * (shard) holds it. It has one *section* a layer; a section's raw bytes are the engine's own pages of that
 * layer, one after another in token order, each page in the order that `order` and `arrangement` name:
 *
 *   section = page(engine block 0) page(engine block 1) ... page(n-1),   n = block_tokens / engine_block_tokens
 *
 *   KVC_KV_FUSED   page = [heads][tokens][K dims | V dims]   (order HN)  or  [tokens][heads][K | V]  (order NH)
 *   KVC_KV_SPLIT   page = K part then V part, each [heads][tokens][dims] (HN) or [tokens][heads][dims] (NH)
 *   KVC_KV_LATENT  page = [tokens][head_dim_k]: one latent row a token (MLA); kv_heads = 1, head_dim_v = 0
 *
 * Two stores are interchangeable only when their form ids are equal; forms are crossed by a conversion only.
 */
#ifndef KVCASK_FORM_H
#define KVCASK_FORM_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum kvc_dtype {
	KVC_DTYPE_F32 = 1,
	KVC_DTYPE_BF16 = 2,
	KVC_DTYPE_F16 = 3,
	KVC_DTYPE_F8_E4M3 = 4,
	KVC_DTYPE_F8_E5M2 = 5,
	KVC_DTYPE_I8 = 6,
	KVC_DTYPE_OPAQUE8 = 7, /* bytes in the engine's own quantised format */
};

enum kvc_arrangement {
	KVC_KV_FUSED = 1,
	KVC_KV_SPLIT = 2,
	KVC_KV_LATENT = 3,
};

enum kvc_order {
	KVC_ORDER_HN = 1,
	KVC_ORDER_NH = 2,
};

/* Layers with one rule of reuse. Only full attention is stored today; the format refuses none. */
enum kvc_group_rule {
	KVC_GROUP_FULL = 1,   /* the whole prefix is needed */
	KVC_GROUP_WINDOW = 2, /* the last window_tokens tokens are needed */
	KVC_GROUP_STATE = 3,  /* the last block is needed */
};

/* All fields count in the form id, except struct_bytes. Zero what is not used. */
struct kvc_form {
	uint32_t struct_bytes;        /* sizeof(struct kvc_form) of the caller */
	uint32_t layer_count;         /* sections in a block, 1 to 1,024 */
	uint32_t block_tokens;        /* tokens in a kvcask block; a multiple of engine_block_tokens */
	uint32_t engine_block_tokens; /* tokens in one page of the engine */
	uint32_t kv_heads;            /* heads held by this shard */
	uint32_t head_dim_k;          /* elements */
	uint32_t head_dim_v;          /* elements; may differ from K's */
	uint32_t dtype;               /* enum kvc_dtype */
	uint32_t arrangement;         /* enum kvc_arrangement */
	uint32_t order;               /* enum kvc_order; 0 with KVC_KV_LATENT */
	uint32_t group;               /* index of the group in its space, from 0 */
	uint32_t group_rule;          /* enum kvc_group_rule */
	uint32_t window_tokens;       /* KVC_GROUP_WINDOW only, and then at least 1 */
	uint32_t shard_index;         /* which part of the KV this rank holds */
	uint32_t shard_count;         /* at least 1 */
	uint32_t page_extra_bytes;    /* engine bytes at the end of each page that are no K or V (scales) */
};

enum {
	KVC_FORM_LAYERS_MAX = 1024,
	KVC_FORM_BLOCK_TOKENS_MAX = 65536,
};
/* No block's raw bytes may be more. */
#define KVC_BLOCK_BYTES_MAX ((uint64_t)1 << 30)

/* Sizes that follow from a form. */
struct kvc_form_sizes {
	uint64_t page_bytes;    /* one engine block of one layer */
	uint64_t section_bytes; /* one layer of a block: pages_per_section * page_bytes */
	uint64_t block_bytes;   /* all sections, without header and padding */
	uint64_t record_bytes;  /* header, section table, sections at 64-byte steps, padded to 4 KiB */
	uint64_t sections_offset_bytes; /* of section 0 from the record's start */
	uint64_t section_stride_bytes;  /* from one section's start to the next's */
	uint32_t pages_per_section;
};

/* Checks every field and computes the sizes. INVALID or TOO_BIG when a field or their product is out of range;
 * then *ret_sizes is untouched and, when ret_field is not NULL, *ret_field names the field (static storage). */
kvc_status_t kvc_form_sizes(const struct kvc_form *form, struct kvc_form_sizes *ret_sizes, const char **ret_field);

/* 64-bit id: XXH3 over the little-endian fields in declaration order. Equal forms have equal ids everywhere. */
uint64_t kvc_form_id(const struct kvc_form *form);

/* Where an engine keeps one layer's pages of one group: the page of engine block b starts at base + b * stride.
 * Inside a page the bytes may lie in runs: runs[0] outer, runs[1] inner, each with a count and a stride; the
 * innermost run is run_bytes long, and run_count[0] * run_count[1] * run_bytes = page_bytes.
 * A contiguous page has run_count {1, 1} and run_bytes = page_bytes. The order of the runs is the page order. */
struct kvc_layer_memory {
	void *base;
	uint64_t block_stride_bytes;
	uint64_t block_count;
	uint32_t run_count[2];
	uint64_t run_stride_bytes[2];
	uint64_t run_bytes;
};

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
