/* SPDX-License-Identifier: Apache-2.0
 *
 * The index by itself: 8,192 look-ups against a million blocks (a chain as a prompt stored it, and keys at random), against the same
 * look-ups one by one; and its growth from nothing to a million, each step timed.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "cache/index.h"
#include "tools/bench/bench.h"

enum {
	INDEX_BLOCKS = 1000000,
	INDEX_LOOKUPS = 8192,
	INDEX_BLOCK_BYTES = 128, /* as the brain's, at most */
};

struct index_run {
	struct kvci_index *index;
	uint8_t (*hashes)[32];
	uint8_t asked[INDEX_LOOKUPS][32];
	uint32_t numbers[INDEX_LOOKUPS], one_by_one[INDEX_LOOKUPS];
	uint64_t random;
	struct kvci_job *job; /* waiting, or NULL */
};

/* Jobs run between the steps, as on a worker that is never late. */
static void index_run_job(void *context, struct kvci_job *job)
{
	((struct index_run *)context)->job = job;
}

static kvc_status_t index_grow(struct index_run *run, struct bench_report *report)
{
	struct bench_result result = {
		.bench = "index", .name = "growth_to_1M", .reference_name = "bar", .unit = "bytes/key", .reference = 160,
		.bar_kind = BENCH_BAR_OURS_MAX, .bar = 160, .n = INDEX_BLOCKS,
	};
	uint64_t longest_ns = 0, all_ns = 0;
	uint32_t number;

	for (uint32_t i = 0; i < INDEX_BLOCKS; i++) {
		uint64_t *words = (uint64_t *)(void *)run->hashes[i];
		for (unsigned w = 0; w < 4; w++)
			words[w] = bench_random(&run->random);
		uint64_t begin_ns = bench_thread_ns();
		kvc_status_t status = kvci_index_add(run->index, 1, run->hashes[i], &number);
		uint64_t ns = bench_thread_ns() - begin_ns;
		if (status != KVC_OK)
			return status;
		if (run->job != NULL) {
			struct kvci_job *job = run->job;
			run->job = NULL;
			job->run(job);
			job->done(job);
		}
		all_ns += ns;
		longest_ns = ns > longest_ns ? ns : longest_ns;
	}
	result.ours = (double)kvci_index_memory_bytes(run->index) / INDEX_BLOCKS;
	result.ratio = result.ours / result.reference;
	bench_result_count(&result, "slot_bytes_a_key", result.ours - INDEX_BLOCK_BYTES);
	bench_result_count(&result, "mean_ns", (double)all_ns / INDEX_BLOCKS);
	bench_report_add(report, &result);
	struct bench_result step = {
		.bench = "index", .name = "longest_step_to_1M", .reference_name = "bar", .unit = "us", .ours = (double)longest_ns / 1e3,
		.reference = 2000, .ratio = (double)longest_ns / 2e6, .bar_kind = BENCH_BAR_OURS_MAX, .bar = 2000, .n = INDEX_BLOCKS,
	};
	bench_report_add(report, &step);
	return KVC_OK;
}

static void index_ask(struct index_run *run, bool chain)
{
	uint32_t first = (uint32_t)(bench_random(&run->random) % (INDEX_BLOCKS - INDEX_LOOKUPS));

	for (uint32_t i = 0; i < INDEX_LOOKUPS; i++) {
		uint32_t from = chain ? first + i : (uint32_t)(bench_random(&run->random) % INDEX_BLOCKS);
		memcpy(run->asked[i], run->hashes[from], 32);
	}
}

static double index_leg(struct index_run *run, bool many)
{
	uint64_t begin_ns = bench_now_ns();

	if (many)
		kvci_index_find_many(run->index, 1, run->asked, INDEX_LOOKUPS, run->numbers);
	else
		for (uint32_t i = 0; i < INDEX_LOOKUPS; i++)
			run->one_by_one[i] = kvci_index_find(run->index, 1, run->asked[i]);
	return (double)(bench_now_ns() - begin_ns);
}

static kvc_status_t index_lookups(const struct bench_options *options, struct index_run *run, bool chain, struct bench_report *report)
{
	struct bench_pairs pairs = { 0 };
	struct bench_result result = {
		.bench = "index", .reference_name = "one by one",
		.bar_kind = chain ? BENCH_BAR_P50_US_MAX : BENCH_BAR_NONE, .bar = 270,
	};
	uint32_t count = bench_pair_count(options, 101, 31);
	kvc_status_t status = KVC_OK;

	for (uint32_t pair = 0; pair < count && status == KVC_OK; pair++) {
		double ns[2];
		for (unsigned leg = 0; leg < 2; leg++) {
			bool many = (leg == 0) != bench_reference_first(pair);
			index_ask(run, chain); /* others for each leg: what the first looked up would be hot for the second */
			ns[many] = index_leg(run, many);
			for (uint32_t i = 0; i < INDEX_LOOKUPS && status == KVC_OK; i++)
				if ((many ? run->numbers[i] : run->one_by_one[i]) == KVCI_INDEX_NONE)
					status = KVC_INTERNAL;
		}
		if (status == KVC_OK)
			status = bench_pairs_add(&pairs, ns[1], ns[0]);
	}
	if (status == KVC_OK) {
		bench_pairs_into(&pairs, 0, &result);
		result.p50_us = bench_samples_at(&pairs.ours, 0.5) / 1e3;
		result.p99_us = bench_samples_at(&pairs.ours, 0.99) / 1e3;
		snprintf(result.name, sizeof(result.name), "lookup_8192_of_1M_%s", chain ? "chain" : "random");
		bench_report_add(report, &result);
	}
	bench_pairs_fini(&pairs);
	return status;
}

kvc_status_t bench_index(const struct bench_options *options, struct bench_report *report)
{
	struct index_run *run = kvci_alloc_zero(1, sizeof(*run));
	kvc_status_t status = KVC_NO_MEMORY;

	if (run == NULL)
		return status;
	run->random = UINT64_C(0x2545f4914f6cdd1d);
	run->hashes = kvci_alloc(INDEX_BLOCKS * sizeof(*run->hashes));
	if (run->hashes == NULL)
		goto out;
	memset(run->hashes, 1, INDEX_BLOCKS * sizeof(*run->hashes)); /* populated: the growth is not to pay for it */
	status = kvci_index_create(INDEX_BLOCK_BYTES, 0, NULL, &run->index);
	if (status == KVC_OK) {
		kvci_index_set_worker(run->index, index_run_job, run);
		status = index_grow(run, report);
	}
	if (status == KVC_OK)
		status = index_lookups(options, run, true, report);
	if (status == KVC_OK)
		status = index_lookups(options, run, false, report);
out:
	kvci_index_destroy(run->index);
	kvci_free(run->hashes);
	kvci_free(run);
	return status;
}
