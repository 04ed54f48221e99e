/* SPDX-License-Identifier: Apache-2.0
 *
 * The brain by itself: matches, leases and stores as the daemon asks it for them, without socket, copy and process between. What
 * `match` takes beyond these figures is the way through the daemon.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/host.h"
#include "tools/bench/world.h"

enum {
	BRAIN_CHAIN = 8192,
	BRAIN_CHAINS = 122,
	BRAIN_BATCH = 64, /* blocks reserved and committed at a time */
	BRAIN_FAMILY = 5,
};

struct brain_run {
	const struct bench_options *options;
	struct bench_host host;
	struct bench_shape shape;
	uint32_t binding;
	uint64_t random, longest_ns, store_ns;
	struct kvci_reserve blocks[BRAIN_BATCH];
	uint8_t hashes[BRAIN_CHAIN][KVCI_HASH_BYTES];
};

static void brain_hashes(struct brain_run *run, uint32_t chain)
{
	for (uint32_t i = 0; i < BRAIN_CHAIN; i++)
		bench_hash(BRAIN_FAMILY, (uint64_t)chain * BRAIN_CHAIN + i, run->hashes[i]);
}

/* Reserves, commits and ticks one batch; the longest of the three is remembered. */
static kvc_status_t brain_store_batch(struct brain_run *run, uint32_t first)
{
	uint64_t at_ns[4];

	for (uint32_t i = 0; i < BRAIN_BATCH; i++) {
		run->blocks[i] = (struct kvci_reserve){ .token_count = 16 };
		memcpy(run->blocks[i].hash, run->hashes[first + i], KVCI_HASH_BYTES);
	}
	at_ns[0] = bench_thread_ns();
	kvc_status_t status = bench_host_reserve(&run->host, run->binding, run->blocks, BRAIN_BATCH);
	at_ns[1] = bench_thread_ns();
	if (status == KVC_OK)
		status = bench_host_commit(&run->host, run->blocks, BRAIN_BATCH, run->shape.form.layer_count);
	at_ns[2] = bench_thread_ns();
	kvci_cache_tick(run->host.cache);
	at_ns[3] = bench_thread_ns();
	for (unsigned i = 0; i < 3; i++) {
		uint64_t ns = at_ns[i + 1] - at_ns[i];
		run->longest_ns = ns > run->longest_ns ? ns : run->longest_ns;
	}
	run->store_ns += at_ns[3] - at_ns[0];
	bench_host_run_jobs(&run->host);
	return status;
}

static kvc_status_t brain_fill(struct brain_run *run, struct bench_report *report)
{
	uint64_t blocks = (uint64_t)BRAIN_CHAINS * BRAIN_CHAIN;
	kvc_status_t status = KVC_OK;

	for (uint32_t chain = 0; chain < BRAIN_CHAINS && status == KVC_OK; chain++) {
		bench_progress(run->options, "brain, storing chains", chain, BRAIN_CHAINS);
		brain_hashes(run, chain);
		for (uint32_t first = 0; first < BRAIN_CHAIN && status == KVC_OK; first += BRAIN_BATCH)
			status = brain_store_batch(run, first);
	}
	bench_progress(run->options, "", 0, 0);
	if (status != KVC_OK)
		return status;
	struct bench_result store = {
		.bench = "brain", .name = "store_a_block_to_1M", .reference_name = "", .unit = "us",
		.ours = (double)run->store_ns / 1e3 / (double)blocks, .n = blocks,
	};
	struct bench_result step = {
		.bench = "brain", .name = "longest_step_64_blocks", .reference_name = "bar", .unit = "us", .reference = 2000, .bar = 2000,
		.bar_kind = BENCH_BAR_OURS_MAX, .ours = (double)run->longest_ns / 1e3, .n = blocks,
	};
	step.ratio = step.ours / step.bar;
	bench_report_add(report, &store);
	bench_report_add(report, &step);
	return KVC_OK;
}

struct brain_case {
	const char *name;
	uint32_t keys, flags;
	double bar_us; /* 0: none */
};

static const struct brain_case brain_cases[] = {
	{ "match_8192_of_1M", BRAIN_CHAIN, 0, 0 },
	{ "match_8192_of_1M_lease", BRAIN_CHAIN, KVCI_MATCH_LEASE, 0 },
	{ "exists_8192_of_1M", BRAIN_CHAIN, KVCI_MATCH_EXISTS, 0 },
	{ "match_1_of_1M", 1, 0, 0 },
};

static kvc_status_t brain_match(struct brain_run *run, const struct brain_case *spec, double *ret_ns)
{
	struct kvci_match match = {
		.binding = run->binding, .flags = spec->flags, .hashes = run->hashes, .count = spec->keys, .request_id = { 7 },
	};

	brain_hashes(run, (uint32_t)(bench_random(&run->random) % BRAIN_CHAINS));
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status = kvci_cache_match(run->host.cache, BENCH_HOST_CLIENT, &match);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	if (status == KVC_OK && match.matched != spec->keys) {
		bench_note("brain: %u of %u keys hit (%s)", match.matched, spec->keys, kvci_miss_name(match.end));
		status = KVC_INTERNAL;
	}
	if ((spec->flags & KVCI_MATCH_LEASE) != 0) {
		kvci_cache_release(run->host.cache, BENCH_HOST_CLIENT, match.request_id);
		while (kvci_cache_tick(run->host.cache) <= bench_now_ns()) /* the mass release goes by steps */
			continue;
	}
	return status;
}

static kvc_status_t brain_measure(struct brain_run *run, const struct brain_case *spec, struct bench_report *report)
{
	struct bench_samples samples = { 0 };
	struct bench_result result = { .bench = "brain", .reference_name = "", .unit = "us" };
	uint32_t rounds = run->options->quick ? 51 : 301;
	kvc_status_t status = KVC_OK;

	rounds *= spec->keys == 1 ? 20 : 1;
	for (uint32_t i = 0; i < rounds && status == KVC_OK; i++) {
		double ns;
		status = brain_match(run, spec, &ns);
		if (status == KVC_OK)
			status = bench_samples_add(&samples, ns);
	}
	if (status == KVC_OK) {
		snprintf(result.name, sizeof(result.name), "%s", spec->name);
		result.n = rounds;
		result.ours = result.p50_us = bench_samples_at(&samples, 0.5) / 1e3;
		result.p99_us = bench_samples_at(&samples, 0.99) / 1e3;
		result.spread = (bench_samples_at(&samples, 0.75) - bench_samples_at(&samples, 0.25)) / bench_samples_at(&samples, 0.5);
		bench_report_add(report, &result);
	}
	bench_samples_fini(&samples);
	return status;
}

kvc_status_t bench_brain(const struct bench_options *options, struct bench_report *report)
{
	struct brain_run *run = kvci_alloc_zero(1, sizeof(*run));

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->options = options;
	run->random = UINT64_C(0x853c49e6748fea9b);
	bench_shape_tiny(&run->shape);
	kvc_status_t status = bench_host_begin(&run->host, (uint64_t)(BRAIN_CHAINS + 4) * BRAIN_CHAIN * 4096, UINT64_C(64) << 20);
	if (status == KVC_OK)
		status = bench_host_bind(&run->host, &run->shape, &run->binding);
	if (status == KVC_OK)
		status = brain_fill(run, report);
	for (size_t i = 0; i < sizeof(brain_cases) / sizeof(brain_cases[0]) && status == KVC_OK; i++)
		if (bench_wanted(options, "brain", brain_cases[i].name))
			status = brain_measure(run, &brain_cases[i], report);
	bench_host_end(&run->host);
	kvci_free(run);
	return status;
}
