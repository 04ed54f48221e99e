/* SPDX-License-Identifier: Apache-2.0
 *
 * What of the memory is of no use when one client stores blocks of very different sizes: the allocator together with the brain's
 * eviction, which takes the neighbours of a victim until the range is long enough. Seven forms from 4 KiB to 32 MiB share four slabs of 1
 * GiB. After each store all bytes that no block has are counted as wasted, also those that the next store will use: an upper limit of what
 * is free but unusable for the largest size.
 *
 *   oldest  no block is used again
 *   hits    before every store one of the last 600 blocks, picked at random, is used: about as many as there are
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/host.h"
#include "tools/bench/world.h"

enum { ARENA_FORMS = 7, ARENA_SLABS = 4, ARENA_FAMILY = 6, ARENA_RECENT = 600 };

#define ARENA_SLAB_BYTES (UINT64_C(1) << 30)

struct arena_run {
	struct bench_host host;
	struct bench_shape shapes[ARENA_FORMS];
	uint32_t bindings[ARENA_FORMS];
	uint64_t random, stored, reached_full;
	double wasted_sum, wasted_max;
	uint64_t looked, spent_ns;
	bool hits;
};

static kvc_status_t arena_begin(struct arena_run *run)
{
	kvc_status_t status = bench_host_begin(&run->host, ARENA_SLABS * ARENA_SLAB_BYTES, ARENA_SLAB_BYTES);

	bench_shape_tiny(&run->shapes[0]);
	bench_shape_kib(64, &run->shapes[1]);
	bench_shape_kib(256, &run->shapes[2]);
	bench_shape_mib(1, &run->shapes[3]);
	bench_shape_mib(4, &run->shapes[4]);
	bench_shape_small(&run->shapes[5]);
	bench_shape_mib(32, &run->shapes[6]);
	for (unsigned i = 0; i < ARENA_FORMS && status == KVC_OK; i++)
		status = bench_host_bind(&run->host, &run->shapes[i], &run->bindings[i]);
	return status;
}

/* The form of block n is a function of n, so that a block can be named again. */
static unsigned arena_form(uint64_t number)
{
	uint64_t state = number * UINT64_C(0x9e3779b97f4a7c15) + 1;

	return (unsigned)(bench_random(&state) % ARENA_FORMS);
}

static kvc_status_t arena_hit(struct arena_run *run)
{
	uint64_t back = 1 + bench_random(&run->random) % ARENA_RECENT;
	uint64_t number = run->stored > back ? run->stored - back : 0;
	uint8_t hash[1][KVCI_HASH_BYTES];
	struct kvci_match match = { .binding = run->bindings[arena_form(number)], .hashes = hash, .count = 1 };

	bench_hash(ARENA_FAMILY, number, hash[0]);
	return kvci_cache_match(run->host.cache, BENCH_HOST_CLIENT, &match);
}

static kvc_status_t arena_store(struct arena_run *run)
{
	unsigned form = arena_form(run->stored);
	struct kvci_reserve block = { .token_count = run->shapes[form].form.block_tokens };

	bench_hash(ARENA_FAMILY, run->stored++, block.hash);
	uint64_t begin_ns = bench_thread_ns();
	kvc_status_t status = bench_host_reserve(&run->host, run->bindings[form], &block, 1);
	if (status == KVC_OK)
		status = bench_host_commit(&run->host, &block, 1, run->shapes[form].form.layer_count);
	kvci_cache_tick(run->host.cache);
	run->spent_ns += bench_thread_ns() - begin_ns;
	return status;
}

/* From the first eviction on. */
static void arena_look(struct arena_run *run)
{
	struct kvci_cache_totals totals;

	if (run->reached_full == 0 && kvci_stat_get(&run->host.stats, KVCI_STAT_EVICT_LOST_BLOCKS) > 100)
		run->reached_full = run->stored;
	if (run->reached_full == 0)
		return;
	kvci_cache_totals(run->host.cache, &totals);
	double percent = 100.0 * (1.0 - (double)totals.memory_used_bytes / (double)(ARENA_SLABS * ARENA_SLAB_BYTES));
	run->wasted_sum += percent;
	run->wasted_max = percent > run->wasted_max ? percent : run->wasted_max;
	run->looked++;
}

static kvc_status_t arena_case(const struct bench_options *options, bool hits, struct bench_report *report)
{
	struct arena_run *run = kvci_alloc_zero(1, sizeof(*run));
	struct bench_result result = {
		.bench = "arena", .reference_name = "bar", .unit = "percent", .reference = 5, .bar = 5, .bar_kind = BENCH_BAR_OURS_MAX,
	};
	uint64_t stores = options->quick ? 100000 : 500000;

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->hits = hits;
	run->random = UINT64_C(88172645463325252);
	kvc_status_t status = arena_begin(run);
	while (run->stored < stores && status == KVC_OK) {
		if (run->stored % 1024 == 0)
			bench_progress(options, "arena, stores", run->stored, stores);
		if (hits)
			status = arena_hit(run);
		if (status == KVC_OK)
			status = arena_store(run);
		arena_look(run);
	}
	bench_progress(options, "", 0, 0);
	if (status == KVC_OK) {
		snprintf(result.name, sizeof(result.name), "wasted_7_forms_%s", hits ? "hits" : "oldest");
		result.n = run->looked;
		result.ours = run->wasted_sum / (double)run->looked;
		result.ratio = result.ours / result.bar;
		bench_result_count(&result, "max_percent", run->wasted_max);
		bench_result_count(&result, "us_a_store", (double)run->spent_ns / 1e3 / (double)run->stored);
		bench_report_add(report, &result);
	}
	bench_host_end(&run->host);
	kvci_free(run);
	return status;
}

kvc_status_t bench_arena(const struct bench_options *options, struct bench_report *report)
{
	kvc_status_t status = KVC_OK;

	if (bench_wanted(options, "arena", "oldest"))
		status = arena_case(options, false, report);
	if (status == KVC_OK && bench_wanted(options, "arena", "hits"))
		status = arena_case(options, true, report);
	return status;
}
