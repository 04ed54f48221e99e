/* SPDX-License-Identifier: Apache-2.0
 *
 * Restart with a million records of 4 KiB on the disk: from the daemon's exec to the first match that is right (or says "index loading"), and
 * until all chains match. And what an idle daemon takes.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/fill.h"

enum { RESTART_FAMILY = 3, RESTART_CHAINS = 122, RESTART_CHAINS_QUICK = 12 };

struct restart_run {
	const struct bench_options *options;
	struct bench_world world;
	struct bench_fill fill;
	uint8_t keys[BENCH_FILL_CHAIN][KVC_HASH_BYTES];
	double accept_ms, first_ms, complete_ms;
	uint32_t first_matched;
	uint32_t index_loading_answers;
};

/* OK with *ret_whole: the chain matched to its end; a miss must say that the index is loading. */
static kvc_status_t restart_ask(struct restart_run *run, const struct bench_client *client, uint32_t chain, bool *ret_whole)
{
	struct kvc_match_result match;

	bench_fill_keys(&run->fill, chain, BENCH_FILL_CHAIN, run->keys);
	kvc_status_t status = kvc_match(client->space, run->keys, BENCH_FILL_CHAIN, NULL, 0, BENCH_TIMEOUT_NS, &match);
	if (status != KVC_OK)
		return status;
	*ret_whole = match.matched_blocks == BENCH_FILL_CHAIN;
	if (!*ret_whole) {
		if (strcmp(kvc_miss_name(match.miss), "index_loading") != 0) {
			bench_note("chain %u ends at %u: %s", chain, match.matched_blocks, kvc_miss_name(match.miss));
			return KVC_INTERNAL;
		}
		run->index_loading_answers++;
	}
	return KVC_OK;
}

static double restart_since_ms(const struct restart_run *run)
{
	return (double)(bench_now_ns() - run->world.spawned_ns) / 1e6;
}

/* Opens as soon as the daemon listens. */
static kvc_status_t restart_open(struct restart_run *run, struct bench_client *client)
{
	char target[128];
	const struct timespec pause = { .tv_nsec = 1000000 };

	snprintf(target, sizeof(target), "unix:%s", run->world.socket);
	while (restart_since_ms(run) < 60000) {
		struct kvc_client *probe = NULL;
		kvc_status_t status = kvc_open(target, NULL, &probe);
		kvc_close(probe);
		if (status == KVC_OK)
			return bench_client_open(&run->world, &run->fill.shape, NULL, client);
		nanosleep(&pause, NULL);
	}
	return KVC_TIMED_OUT;
}

static kvc_status_t restart_watch(struct restart_run *run)
{
	struct bench_client client = { 0 };
	bool whole = false;
	kvc_status_t status = restart_open(run, &client);

	if (status != KVC_OK)
		return status;
	run->accept_ms = restart_since_ms(run);
	status = restart_ask(run, &client, 0, &whole);
	run->first_ms = restart_since_ms(run);
	run->first_matched = whole;
	/* Chains in turn; one that is not whole is asked again until it is. */
	for (uint32_t chain = 0; chain < run->fill.chain_count && status == KVC_OK; chain += whole) {
		status = restart_ask(run, &client, chain, &whole);
		if (restart_since_ms(run) > 60000)
			status = KVC_TIMED_OUT;
	}
	run->complete_ms = restart_since_ms(run);
	bench_client_close(&client);
	return status;
}

static void restart_report(const struct restart_run *run, struct bench_report *report)
{
	uint32_t records = run->fill.chain_count * BENCH_FILL_CHAIN;
	struct bench_result first = {
		.bench = "restart", .reference_name = "bar", .unit = "ms", .ours = run->first_ms, .reference = 500,
		.ratio = run->first_ms / 500, .bar = 500, .bar_kind = BENCH_BAR_OURS_MAX, .n = records,
	};
	struct bench_result complete = {
		.bench = "restart", .reference_name = "bar", .unit = "ms", .ours = run->complete_ms, .reference = 3000,
		.ratio = run->complete_ms / 3000, .bar = 3000, .bar_kind = BENCH_BAR_OURS_MAX, .n = records,
	};

	snprintf(first.name, sizeof(first.name), "first_match_%uK", records / 1000);
	bench_result_count(&first, "listening_ms", run->accept_ms);
	bench_result_count(&first, "whole", run->first_matched);
	bench_report_add(report, &first);
	snprintf(complete.name, sizeof(complete.name), "all_match_%uK", records / 1000);
	bench_result_count(&complete, "index_loading_answers", run->index_loading_answers);
	bench_report_add(report, &complete);
}

kvc_status_t bench_restart(const struct bench_options *options, struct bench_report *report)
{
	struct restart_run *run = kvci_alloc_zero(1, sizeof(*run));
	char capacity[64];
	const char *settings[] = { "memory.capacity: 256MiB", "memory.slab: 64MiB", capacity, NULL };

	if (run == NULL)
		return KVC_NO_MEMORY;
	if (!bench_on_disk(options->folder)) {
		bench_note("%s is not on a disk; --folder names one", options->folder);
		kvci_free(run);
		return KVC_INVALID;
	}
	run->options = options;
	run->fill = (struct bench_fill){ .options = options, .family = RESTART_FAMILY, .flush = true };
	run->fill.chain_count = options->quick ? RESTART_CHAINS_QUICK : RESTART_CHAINS;
	/* Twice what is stored: nothing is reclaimed. */
	snprintf(capacity, sizeof(capacity), "disk.capacity: %uMiB", run->fill.chain_count * (BENCH_FILL_CHAIN / 256) * 2 + 1024);
	kvc_status_t status = bench_world_begin(&run->world, options, settings, true);
	if (status == KVC_OK)
		status = bench_fill_run(&run->fill, &run->world);
	bench_client_close(&run->fill.client);
	if (status == KVC_OK)
		status = bench_world_stop(&run->world);
	if (status == KVC_OK)
		status = bench_world_start(&run->world, false);
	if (status == KVC_OK)
		status = restart_watch(run);
	if (status == KVC_OK)
		restart_report(run, report);
	bench_fill_end(&run->fill);
	bench_world_end(&run->world);
	kvci_free(run);
	return status;
}

/* ---- idle ------------------------------------------------------------------------------------------------------------ */

kvc_status_t bench_idle(const struct bench_options *options, struct bench_report *report)
{
	const char *settings[] = { "memory.capacity: 1GiB", "disk.capacity: 2GiB", NULL };
	struct bench_world world;
	struct bench_client client = { 0 };
	struct bench_shape shape;
	struct bench_result memory = {
		.bench = "idle", .name = "private_memory", .reference_name = "bar", .unit = "MiB", .reference = 30, .bar = 30,
		.bar_kind = BENCH_BAR_OURS_MAX, .n = 1,
	};
	unsigned seconds = options->quick ? 5 : 60;
	struct bench_result cpu = {
		.bench = "idle", .reference_name = "bar", .unit = "percent", .reference = 0.5, .bar = 0.5, .bar_kind = BENCH_BAR_OURS_MAX, .n = seconds,
	};
	uint64_t bytes = 0;
	kvc_status_t status;

	snprintf(cpu.name, sizeof(cpu.name), "cpu_of_a_core_%us", seconds);
	if (!bench_wanted(options, cpu.bench, cpu.name) && !bench_wanted(options, memory.bench, memory.name))
		return KVC_OK;
	if (!bench_wanted(options, cpu.bench, cpu.name))
		seconds = 1;
	status = bench_world_begin(&world, options, settings, bench_on_disk(options->folder));
	bench_shape_small(&shape);
	if (status == KVC_OK)
		status = bench_client_open(&world, &shape, NULL, &client);
	uint64_t cpu_ns = status == KVC_OK ? bench_cpu_of_ns(world.pid) : 0;
	for (unsigned second = 0; second < seconds && status == KVC_OK; second++) {
		const struct timespec pause = { .tv_sec = 1 };
		bench_progress(options, "idle, seconds", second, seconds);
		nanosleep(&pause, NULL);
	}
	bench_progress(options, "", 0, 0);
	if (status == KVC_OK) {
		cpu_ns = bench_cpu_of_ns(world.pid) - cpu_ns;
		status = bench_private_bytes(world.pid, &bytes);
	}
	if (status == KVC_OK) {
		memory.ours = (double)bytes / 1048576;
		cpu.ours = (double)cpu_ns / seconds / 1e7;
		memory.ratio = memory.ours / memory.bar;
		cpu.ratio = cpu.ours / cpu.bar;
		if (bench_wanted(options, memory.bench, memory.name))
			bench_report_add(report, &memory);
		if (bench_wanted(options, cpu.bench, cpu.name))
			bench_report_add(report, &cpu);
	}
	bench_client_close(&client);
	bench_world_end(&world);
	return status;
}
