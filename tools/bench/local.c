/* SPDX-License-Identifier: Apache-2.0
 *
 * Store and load through the daemon: reserve or match, one fused copy with checksum, commit or release; all of it timed. Every store
 * evicts (memory was filled before). The reference is memcpy and, beside it, the bare non-temporal copy of the same kind of pages by the same
 * thread, between memory that is populated and not in any cache: every leg takes other blocks.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "tools/bench/bench.h"
#include "tools/bench/world.h"

enum { LOCAL_LEG_MIB = 128, LOCAL_BLOCKS_MAX = 64, LOCAL_FAMILY = 1 };

struct local_run {
	const struct bench_options *options;
	struct bench_world world;
	struct bench_client client;
	struct bench_shape shape;
	struct bench_engine engine;
	uint8_t *flat; /* the reference's side of the store */
	uint32_t flat_blocks;
	uint32_t at;         /* next block of the engine and of flat */
	uint32_t leg_blocks;
	uint64_t stored_legs; /* leg n stored hashes n * leg_blocks ... */
	uint64_t memory_bytes;
	uint64_t evicting_legs; /* so many legs fill the memory */
	uint32_t load_turn;
};

enum local_way { LOCAL_OURS, LOCAL_MEMCPY, LOCAL_BARE, LOCAL_WAYS };

/* The page ids of the next `leg_blocks` blocks, one after the other. */
static void local_pages(struct local_run *run, uint32_t *pages)
{
	uint32_t a_block = run->engine.sizes.pages_per_section;

	for (uint32_t i = 0; i < run->leg_blocks; i++)
		memcpy(pages + (size_t)i * a_block, bench_engine_pages(&run->engine, (run->at + i) % run->engine.block_count),
		       a_block * sizeof(*pages));
}

static kvc_status_t local_store(struct local_run *run, double *ret_ns)
{
	struct kvc_store_block blocks[LOCAL_BLOCKS_MAX];
	kvc_status_t statuses[LOCAL_BLOCKS_MAX];
	uint32_t pages[LOCAL_BLOCKS_MAX * 16];

	bench_chain(LOCAL_FAMILY, run->stored_legs * run->leg_blocks, run->leg_blocks, run->shape.form.block_tokens, blocks);
	local_pages(run, pages);
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status = kvc_store(run->client.space, blocks, run->leg_blocks, pages, BENCH_TIMEOUT_NS, statuses);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	if (status != KVC_OK)
		bench_note("store: %s (%s)", kvc_status_text(status), kvc_last_error());
	run->stored_legs++;
	run->at += run->leg_blocks;
	return status;
}

/* Match with lease, load, release: as an engine does for a prompt. */
static kvc_status_t local_load_leg(struct local_run *run, uint64_t leg, double *ret_ns)
{
	struct kvc_store_block blocks[LOCAL_BLOCKS_MAX];
	uint8_t hashes[LOCAL_BLOCKS_MAX][KVC_HASH_BYTES];
	uint32_t pages[LOCAL_BLOCKS_MAX * 16];
	const struct kvc_request request = { .id = "bench-load", .id_bytes = 10 };
	struct kvc_match_result match;

	bench_chain(LOCAL_FAMILY, leg * run->leg_blocks, run->leg_blocks, run->shape.form.block_tokens, blocks);
	for (uint32_t i = 0; i < run->leg_blocks; i++)
		memcpy(hashes[i], blocks[i].hash, KVC_HASH_BYTES);
	local_pages(run, pages);
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status =
		kvc_match(run->client.space, hashes, run->leg_blocks, &request, KVC_MATCH_LEASE, BENCH_TIMEOUT_NS, &match);
	if (status == KVC_OK && match.in_memory_blocks != run->leg_blocks) {
		bench_note("load: %u of %u blocks are in memory (%s)", match.in_memory_blocks, run->leg_blocks,
		           kvc_miss_name(match.miss));
		status = KVC_INTERNAL;
	}
	if (status == KVC_OK)
		status = kvc_load(run->client.space, &request, 0, run->leg_blocks, pages, BENCH_TIMEOUT_NS, NULL);
	kvc_status_t released = kvc_release(run->client.client, &request);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	run->at += run->leg_blocks;
	return status != KVC_OK ? status : released;
}

/* The legs that are certainly in memory, in turn: three fifths of it, so that each was last touched long ago. */
static kvc_status_t local_load(struct local_run *run, double *ret_ns)
{
	uint64_t resident = run->evicting_legs * 3 / 5;

	resident = resident == 0 ? 1 : resident;
	return local_load_leg(run, run->stored_legs - 1 - run->load_turn++ % resident, ret_ns);
}

static double local_reference(struct local_run *run, bool store, enum local_way way)
{
	bench_copy_fn copy = way == LOCAL_MEMCPY ? bench_copy_memcpy : kvci_copy_bare;
	uint64_t begin_ns = bench_now_ns();

	for (uint32_t i = 0; i < run->leg_blocks; i++, run->at++) {
		uint32_t block = run->at % run->engine.block_count;
		uint8_t *flat = run->flat + (run->at % run->flat_blocks) * run->shape.sizes.record_bytes;
		if (store)
			bench_engine_gather(&run->engine, block, flat, copy);
		else
			bench_engine_scatter(&run->engine, block, flat, copy);
	}
	return (double)(bench_now_ns() - begin_ns);
}

/* One figure for each reference. */
static void local_report(struct local_run *run, bool store, const struct bench_result *base, struct bench_pairs *plain,
                         struct bench_pairs *bare, struct bench_report *report)
{
	uint64_t bytes = run->leg_blocks * run->shape.sizes.block_bytes;
	bool bare_is_better = bench_samples_at(&bare->reference, 0.5) < bench_samples_at(&plain->reference, 0.5);
	struct bench_result result = *base;

	snprintf(result.name, sizeof(result.name), "%s_%s", store ? "store" : "load", run->shape.name);
	result.p50_us = bench_samples_at(&plain->ours, 0.5) / 1e3;
	result.p99_us = bench_samples_at(&plain->ours, 0.99) / 1e3;
	result.bar_kind = BENCH_BAR_RATIO_MIN;
	result.reference_name = "memcpy";
	result.bar = 0.9;
	bench_pairs_into(plain, bytes, &result);
	bench_report_add(report, &result);
	result.reference_name = bare_is_better ? "bare copy" : "memcpy (better)";
	result.bar = 0.8;
	bench_pairs_into(bare_is_better ? bare : plain, bytes, &result);
	result.count_count = 0;
	bench_report_add(report, &result);
}

static kvc_status_t local_measure(struct local_run *run, bool store, struct bench_report *report)
{
	struct bench_pairs plain = { 0 }, bare = { 0 };
	struct bench_result result = { .bench = "local" };
	struct bench_client_figures before;
	uint32_t pairs = bench_pair_count(run->options, 21, 9);
	double evicted_before = 0, evicted = 0;
	kvc_status_t status = bench_client_figures(&run->client, &before);

	if (status == KVC_OK)
		status = bench_daemon_stat(&run->client, "evict_lost_blocks", &evicted_before);
	for (uint32_t pair = 0; pair < pairs && status == KVC_OK; pair++) {
		double ns[LOCAL_WAYS] = { 0 };
		bench_progress(run->options, store ? "local store" : "local load", pair, pairs);
		for (uint32_t leg = 0; leg < LOCAL_WAYS && status == KVC_OK; leg++) { /* each way is first, second, last in turn */
			enum local_way way = (enum local_way)((leg + pair) % LOCAL_WAYS);
			if (way == LOCAL_OURS)
				status = store ? local_store(run, &ns[way]) : local_load(run, &ns[way]);
			else
				ns[way] = local_reference(run, store, way);
		}
		if (status == KVC_OK)
			status = bench_pairs_add(&plain, ns[LOCAL_OURS], ns[LOCAL_MEMCPY]);
		if (status == KVC_OK)
			status = bench_pairs_add(&bare, ns[LOCAL_OURS], ns[LOCAL_BARE]);
	}
	bench_progress(run->options, "", 0, 0);
	if (status == KVC_OK)
		status = bench_client_count(&run->client, &before, (double)pairs * run->leg_blocks, &result);
	if (status == KVC_OK)
		status = bench_daemon_stat(&run->client, "evict_lost_blocks", &evicted);
	if (status == KVC_OK) {
		bench_result_count(&result, "copies", 1);
		bench_result_count(&result, "evictions", (evicted - evicted_before) / ((double)pairs * run->leg_blocks));
		local_report(run, store, &result, &plain, &bare, report);
	}
	bench_pairs_fini(&plain);
	bench_pairs_fini(&bare);
	return status;
}

/* Every byte of one stored block comes back, before anything is timed. */
static kvc_status_t local_verify(struct local_run *run)
{
	uint32_t block = (run->at - run->leg_blocks) % run->engine.block_count; /* of the last store */
	uint8_t *before = run->flat, *after = run->flat + run->shape.sizes.record_bytes;
	double ns;

	bench_engine_gather(&run->engine, block, before, bench_copy_memcpy);
	uint32_t into = run->at % run->engine.block_count;
	kvc_status_t status = local_load_leg(run, run->stored_legs - 1, &ns);
	if (status != KVC_OK)
		return status;
	bench_engine_gather(&run->engine, into, after, bench_copy_memcpy);
	for (uint32_t layer = 0; layer < run->engine.layer_count; layer++)
		if (memcmp(before + layer * run->shape.sizes.section_stride_bytes,
		           after + layer * run->shape.sizes.section_stride_bytes, run->shape.sizes.section_bytes) != 0) {
			bench_note("layer %u of a loaded block is not what was stored", layer);
			return KVC_CORRUPT;
		}
	return KVC_OK;
}

static kvc_status_t local_prepare(struct local_run *run)
{
	char capacity[64];
	/* The reference's memory is of huge pages, too, whatever that takes. */
	const char *settings[] = { capacity, "memory.slab: 512MiB", "memory.huge_pages: on", NULL };
	double ns;

	snprintf(capacity, sizeof(capacity), "memory.capacity: %lluMiB", (unsigned long long)(run->memory_bytes >> 20));
	kvc_status_t status = bench_engine_init(&run->engine, &run->shape, run->memory_bytes / 2);
	if (status != KVC_OK)
		return status;
	run->flat_blocks = (uint32_t)(run->memory_bytes / 2 / run->shape.sizes.record_bytes);
	run->flat = bench_shared_map(run->flat_blocks * run->shape.sizes.record_bytes);
	if (run->flat == NULL)
		return KVC_NO_MEMORY;
	status = bench_world_begin(&run->world, run->options, settings, false);
	if (status == KVC_OK)
		status = bench_client_open(&run->world, &run->shape, &run->engine, &run->client);
	run->leg_blocks = (uint32_t)(((uint64_t)LOCAL_LEG_MIB << 20) / run->shape.sizes.block_bytes);
	run->evicting_legs = run->memory_bytes / (run->leg_blocks * run->shape.sizes.record_bytes) + 1;
	/* Until stores evict, and the slabs have been populated by use. */
	for (uint64_t leg = 0; leg < run->evicting_legs && status == KVC_OK; leg++) {
		bench_progress(run->options, "filling the memory", leg, run->evicting_legs);
		status = local_store(run, &ns);
	}
	bench_progress(run->options, "", 0, 0);
	return status == KVC_OK ? local_verify(run) : status;
}

static kvc_status_t local_shape(const struct bench_options *options, const struct bench_shape *shape, struct bench_report *report)
{
	struct local_run *run = kvci_alloc_zero(1, sizeof(*run));

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->options = options;
	run->shape = *shape;
	run->memory_bytes = options->quick ? UINT64_C(1) << 30 : UINT64_C(2) << 30;
	kvc_status_t status = local_prepare(run);
	if (status == KVC_OK)
		status = local_measure(run, true, report);
	if (status == KVC_OK)
		status = local_measure(run, false, report);
	bench_client_close(&run->client);
	bench_world_end(&run->world);
	bench_shared_unmap(run->flat, run->flat_blocks * run->shape.sizes.record_bytes);
	bench_engine_fini(&run->engine);
	kvci_free(run);
	return status;
}

kvc_status_t bench_local(const struct bench_options *options, struct bench_report *report)
{
	struct bench_shape large, small;
	kvc_status_t status = KVC_OK;

	bench_shape_large(&large);
	bench_shape_small(&small);
	if (bench_wanted(options, "local", large.name))
		status = local_shape(options, &large, report);
	if (status == KVC_OK && bench_wanted(options, "local", small.name))
		status = local_shape(options, &small, report);
	return status;
}
