/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/shapes.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map.h"

static void shape_make(struct bench_shape *shape, uint32_t layers, uint32_t pages, uint32_t heads, uint32_t dims)
{
	shape->form = (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = layers, .block_tokens = 16 * pages, .engine_block_tokens = 16,
		.kv_heads = heads, .head_dim_k = dims, .head_dim_v = dims, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT,
		.order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	if (kvc_form_sizes(&shape->form, &shape->sizes, NULL) != KVC_OK)
		__builtin_trap(); /* the shapes are constants of this file */
}

void bench_shape_large(struct bench_shape *ret_shape)
{
	shape_make(ret_shape, 32, 16, 8, 128);
	snprintf(ret_shape->name, sizeof(ret_shape->name), "32MiB");
}

void bench_shape_small(struct bench_shape *ret_shape)
{
	shape_make(ret_shape, 30, 16, 3, 64);
	snprintf(ret_shape->name, sizeof(ret_shape->name), "5.6MiB");
}

void bench_shape_mib(uint32_t mib, struct bench_shape *ret_shape)
{
	/* A head of 64 + 64 dims takes 4 KiB of a page. */
	shape_make(ret_shape, mib < 8 ? 8 : 32, 16, mib < 8 ? 2 * mib : mib / 2, 64);
	snprintf(ret_shape->name, sizeof(ret_shape->name), "%uMiB", mib);
}

void bench_shape_kib(uint32_t kib, struct bench_shape *ret_shape)
{
	shape_make(ret_shape, kib / 64, 16, 1, 64);
	snprintf(ret_shape->name, sizeof(ret_shape->name), "%uKiB", kib);
}

void bench_shape_tiny(struct bench_shape *ret_shape)
{
	shape_make(ret_shape, 1, 1, 1, 58);
	snprintf(ret_shape->name, sizeof(ret_shape->name), "4KiB");
}

kvc_status_t bench_engine_init(struct bench_engine *engine, const struct bench_shape *shape, uint64_t total_bytes)
{
	uint32_t pages = shape->sizes.pages_per_section;
	uint64_t random = UINT64_C(0x9e3779b97f4a7c15);

	*engine = (struct bench_engine){ .sizes = shape->sizes, .layer_count = shape->form.layer_count };
	engine->block_count = (uint32_t)(total_bytes / shape->sizes.block_bytes);
	engine->block_count = engine->block_count < 2 ? 2 : engine->block_count;
	engine->page_count = engine->block_count * pages;
	engine->memory_bytes = engine->block_count * shape->sizes.block_bytes;
	void *memory = mmap(NULL, engine->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	engine->pages = kvci_alloc_zero(engine->page_count, sizeof(*engine->pages));
	engine->layers = kvci_alloc_zero(engine->layer_count, sizeof(*engine->layers));
	if (memory == MAP_FAILED || engine->pages == NULL || engine->layers == NULL) {
		if (memory != MAP_FAILED)
			munmap(memory, engine->memory_bytes);
		bench_engine_fini(engine);
		return KVC_NO_MEMORY;
	}
	engine->memory = memory;
	/* A fork would share it with the child until each page is written again: a fault a page in the next leg that loads into it. */
	madvise(memory, engine->memory_bytes, MADV_DONTFORK);
	for (uint64_t i = 0; i < engine->memory_bytes / 8; i++)
		((uint64_t *)memory)[i] = bench_random(&random);
	for (uint32_t i = 0; i < engine->page_count; i++) {
		uint32_t j = (uint32_t)(bench_random(&random) % (i + 1));
		engine->pages[i] = engine->pages[j];
		engine->pages[j] = i;
	}
	for (uint32_t i = 0; i < engine->layer_count; i++)
		engine->layers[i] = (struct kvc_layer_memory){
			.base = engine->memory + (uint64_t)i * engine->page_count * shape->sizes.page_bytes,
			.block_stride_bytes = shape->sizes.page_bytes, .block_count = engine->page_count,
			.run_count = { 1, 1 }, .run_bytes = shape->sizes.page_bytes,
		};
	return KVC_OK;
}

void bench_engine_fini(struct bench_engine *engine)
{
	if (engine->memory != NULL)
		munmap(engine->memory, engine->memory_bytes);
	kvci_free(engine->pages);
	kvci_free(engine->layers);
	*engine = (struct bench_engine){ 0 };
}

void bench_engine_gather(const struct bench_engine *engine, uint32_t block, uint8_t *flat, bench_copy_fn copy)
{
	const uint32_t *pages = bench_engine_pages(engine, block);
	uint64_t page_bytes = engine->sizes.page_bytes;

	for (uint32_t layer = 0; layer < engine->layer_count; layer++) {
		const uint8_t *base = engine->layers[layer].base;
		uint8_t *section = flat + layer * engine->sizes.section_stride_bytes;
		for (uint32_t i = 0; i < engine->sizes.pages_per_section; i++)
			copy(section + i * page_bytes, base + pages[i] * page_bytes, page_bytes);
	}
}

void bench_engine_scatter(const struct bench_engine *engine, uint32_t block, const uint8_t *flat, bench_copy_fn copy)
{
	const uint32_t *pages = bench_engine_pages(engine, block);
	uint64_t page_bytes = engine->sizes.page_bytes;

	for (uint32_t layer = 0; layer < engine->layer_count; layer++) {
		uint8_t *base = engine->layers[layer].base;
		const uint8_t *section = flat + layer * engine->sizes.section_stride_bytes;
		for (uint32_t i = 0; i < engine->sizes.pages_per_section; i++)
			copy(base + pages[i] * page_bytes, section + i * page_bytes, page_bytes);
	}
}

void bench_copy_memcpy(void *dst, const void *src, size_t bytes)
{
	memcpy(dst, src, bytes);
}

uint8_t *bench_shared_map(uint64_t bytes)
{
	int fd = memfd_create("kvcask-bench", MFD_CLOEXEC);
	struct kvci_map_budget budget;
	void *memory = NULL;

	if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 && kvci_map_shared(fd, bytes, PROT_READ | PROT_WRITE, &memory) == KVC_OK) {
		kvci_map_budget_init(&budget, KVCI_MAP_HUGE_ON);
		kvci_map_make_huge(&budget, memory, bytes);
		madvise(memory, bytes, MADV_POPULATE_WRITE);
	}
	if (fd >= 0)
		close(fd);
	return memory;
}

void bench_shared_unmap(uint8_t *memory, uint64_t bytes)
{
	if (memory != NULL)
		munmap(memory, bytes);
}
