/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gather and the scatter could reach at best: the pages of a block moved and checksummed in one pass, without daemon, index or
 * messages, against memcpy and against the bare non-temporal copy of the same pages. The floor under `kvcask bench local`.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "tools/bench/bench.h"
#include "tools/bench/shapes.h"

enum { COPY_LEG_MIB = 128 };

struct copy_run {
	struct bench_engine engine;
	uint8_t *flat;
	uint32_t flat_blocks;
	uint32_t at; /* next block: every leg takes other ones, so that no side is in a cache */
	uint32_t leg_blocks;
	uint64_t sum; /* of the checksums, so that nothing is optimised away */
};

enum copy_way { COPY_OURS, COPY_MEMCPY, COPY_BARE, COPY_WAYS };

static void copy_ours_block(struct copy_run *run, uint32_t block, uint8_t *flat, bool gather)
{
	const struct bench_engine *engine = &run->engine;
	const uint32_t *pages = bench_engine_pages(engine, block);
	uint64_t page_bytes = engine->sizes.page_bytes;

	for (uint32_t layer = 0; layer < engine->layer_count; layer++) {
		struct kvci_copy_state state;
		uint8_t *base = engine->layers[layer].base;
		uint8_t *section = flat + layer * engine->sizes.section_stride_bytes;
		kvci_copy_begin(&state, layer);
		for (uint32_t i = 0; i < engine->sizes.pages_per_section; i++)
			if (gather)
				kvci_copy_run(&state, section + i * page_bytes, base + pages[i] * page_bytes, page_bytes,
				              KVCI_COPY_STREAM);
			else
				kvci_copy_run(&state, base + pages[i] * page_bytes, section + i * page_bytes, page_bytes,
				              KVCI_COPY_STREAM);
		run->sum += kvci_copy_end(&state);
	}
}

static double copy_leg(struct copy_run *run, enum copy_way way, bool gather)
{
	bench_copy_fn copy = way == COPY_MEMCPY ? bench_copy_memcpy : kvci_copy_bare;
	uint64_t begin_ns = bench_now_ns();

	for (uint32_t i = 0; i < run->leg_blocks; i++, run->at++) {
		uint32_t block = run->at % run->engine.block_count;
		uint8_t *flat = run->flat + (run->at % run->flat_blocks) * run->engine.sizes.record_bytes;
		if (way == COPY_OURS)
			copy_ours_block(run, block, flat, gather);
		else if (gather)
			bench_engine_gather(&run->engine, block, flat, copy);
		else
			bench_engine_scatter(&run->engine, block, flat, copy);
	}
	return (double)(bench_now_ns() - begin_ns);
}

static kvc_status_t copy_measure(const struct bench_options *options, struct copy_run *run, const char *shape, bool gather,
                                 struct bench_report *report)
{
	struct bench_pairs plain = { 0 }, bare = { 0 };
	struct bench_result result = { .bench = "copy", .reference_name = "memcpy", .bar_kind = BENCH_BAR_RATIO_MIN, .bar = 0.9 };
	uint32_t pairs = bench_pair_count(options, 21, 9);
	kvc_status_t status = KVC_OK;

	for (uint32_t pair = 0; pair < pairs && status == KVC_OK; pair++) {
		double ns[COPY_WAYS];
		for (uint32_t leg = 0; leg < COPY_WAYS; leg++) { /* each way is first, second and last in turn */
			enum copy_way way = (enum copy_way)((leg + pair) % COPY_WAYS);
			ns[way] = copy_leg(run, way, gather);
		}
		status = bench_pairs_add(&plain, ns[COPY_OURS], ns[COPY_MEMCPY]);
		if (status == KVC_OK)
			status = bench_pairs_add(&bare, ns[COPY_OURS], ns[COPY_BARE]);
	}
	if (status == KVC_OK) {
		uint64_t bytes = run->leg_blocks * run->engine.sizes.block_bytes;
		snprintf(result.name, sizeof(result.name), "%s_%s", gather ? "gather" : "scatter", shape);
		bench_pairs_into(&plain, bytes, &result);
		bench_report_add(report, &result);
		result.reference_name = "bare copy";
		result.bar_kind = BENCH_BAR_NONE;
		bench_pairs_into(&bare, bytes, &result);
		bench_report_add(report, &result);
	}
	bench_pairs_fini(&plain);
	bench_pairs_fini(&bare);
	return status;
}

static kvc_status_t copy_shape(const struct bench_options *options, const struct bench_shape *shape, struct bench_report *report)
{
	uint64_t pool_bytes = options->quick ? UINT64_C(512) << 20 : UINT64_C(1) << 30;
	struct copy_run run = { 0 };
	kvc_status_t status = bench_engine_init(&run.engine, shape, pool_bytes);

	if (status != KVC_OK)
		return status;
	run.flat_blocks = (uint32_t)(pool_bytes / shape->sizes.record_bytes);
	run.leg_blocks = (uint32_t)(((uint64_t)COPY_LEG_MIB << 20) / shape->sizes.block_bytes);
	run.flat = bench_shared_map(run.flat_blocks * shape->sizes.record_bytes);
	status = run.flat == NULL ? KVC_NO_MEMORY : copy_measure(options, &run, shape->name, true, report);
	if (status == KVC_OK)
		status = copy_measure(options, &run, shape->name, false, report);
	bench_shared_unmap(run.flat, run.flat_blocks * shape->sizes.record_bytes);
	bench_engine_fini(&run.engine);
	return status;
}

kvc_status_t bench_copy(const struct bench_options *options, struct bench_report *report)
{
	struct bench_shape large, small;
	kvc_status_t status = KVC_OK;

	bench_shape_large(&large);
	bench_shape_small(&small);
	if (bench_wanted(options, "copy", large.name))
		status = copy_shape(options, &large, report);
	if (status == KVC_OK && bench_wanted(options, "copy", small.name))
		status = copy_shape(options, &small, report);
	return status;
}
