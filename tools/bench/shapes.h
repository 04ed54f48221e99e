/* SPDX-License-Identifier: Apache-2.0
 * The blocks that are measured, and an engine's memory full of them. */
#ifndef BENCH_SHAPES_H
#define BENCH_SHAPES_H

#include <kvcask/form.h>

#include "tools/bench/bench.h"

struct bench_shape {
	char name[16]; /* "32MiB" */
	struct kvc_form form;
	struct kvc_form_sizes sizes;
};

/* 256 tokens of an 8B model (Llama 3.1: 32 layers, 8 KV heads of 128, bf16, 64 KiB a page): 32 MiB. */
void bench_shape_large(struct bench_shape *ret_shape);
/* 256 tokens of SmolLM2-135M (30 layers, 3 KV heads of 64, bf16, 12 KiB a page): 5.6 MiB. */
void bench_shape_small(struct bench_shape *ret_shape);
/* Blocks of 1 to 32 MiB, a power of two. */
void bench_shape_mib(uint32_t mib, struct bench_shape *ret_shape);
/* Blocks of 64 to 512 KiB, a power of two. */
void bench_shape_kib(uint32_t kib, struct bench_shape *ret_shape);
/* One layer of one page: the record is exactly 4 KiB. */
void bench_shape_tiny(struct bench_shape *ret_shape);

/* An engine's KV memory of one form: for each layer `page_count` pages, populated, filled with bytes that no codec of a page or kernel makes
 * cheap. Blocks take their pages in an order that is random once and then fixed, as in an engine that has run for a while. */
struct bench_engine {
	struct kvc_form_sizes sizes;
	uint32_t layer_count;
	uint32_t page_count;  /* a layer */
	uint32_t block_count; /* page_count / pages_per_section */
	uint8_t *memory;
	uint64_t memory_bytes;
	uint32_t *pages; /* page ids of block b: pages[b * pages_per_section ...] */
	struct kvc_layer_memory *layers;
};

/* About total_bytes of it, at least two blocks. */
kvc_status_t bench_engine_init(struct bench_engine *engine, const struct bench_shape *shape, uint64_t total_bytes);
void bench_engine_fini(struct bench_engine *engine);
static inline const uint32_t *bench_engine_pages(const struct bench_engine *engine, uint32_t block)
{
	return engine->pages + (size_t)block * engine->sizes.pages_per_section;
}

/* The reference: the same pages of a block moved by `copy`, one call a page, to or from `flat` (the sections of a record). */
typedef void (*bench_copy_fn)(void *dst, const void *src, size_t bytes);
void bench_engine_gather(const struct bench_engine *engine, uint32_t block, uint8_t *flat, bench_copy_fn copy);
void bench_engine_scatter(const struct bench_engine *engine, uint32_t block, const uint8_t *flat, bench_copy_fn copy);
void bench_copy_memcpy(void *dst, const void *src, size_t bytes);

/* Populated shared memory, of huge pages where the kernel makes them; NULL when there is none. */
uint8_t *bench_shared_map(uint64_t bytes);
void bench_shared_unmap(uint8_t *memory, uint64_t bytes);

#endif
