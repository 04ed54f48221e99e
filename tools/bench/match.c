/* SPDX-License-Identifier: Apache-2.0
 *
 * Match through the daemon against a million blocks: 8,192 keys that all hit, the same with a lease and the extents of all blocks, one key. And, as the
 * million is there: what a block costs the daemon, and its longest step while it grew.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/fill.h"

enum {
	MATCH_FAMILY = 2,
	MATCH_CHAINS = 122, /* 999,424 blocks */
	MATCH_CHAINS_SMALL = 30, /* where memory is short: 245,760 */
	MATCH_GROWTHS = 15, /* at most */
	MATCH_STEP_US_MAX = 2000,
};

/* One growth from an empty daemon: its longest step by the clock, its longest in CPU time, and what the host took from all CPUs meanwhile. */
struct match_growth {
	double longest_us, cpu_us, stolen_ms;
};

struct match_run {
	const struct bench_options *options;
	struct bench_world world;
	struct bench_fill fill;
	uint64_t private_before;
	bool realtime;
	struct match_growth growths[MATCH_GROWTHS];
	uint32_t growth_count, chain_count;
	uint8_t keys[BENCH_FILL_CHAIN][KVC_HASH_BYTES];
	uint64_t random;
};

struct match_case {
	const char *name;
	uint32_t keys;
	uint32_t flags;
	double bar_us;
	uint32_t rounds, rounds_quick;
	uint32_t pause_ms; /* before each: the daemon, and the CPUs where nothing else runs, are asleep */
};

static const struct match_case match_cases[] = {
	{ "match_8192", BENCH_FILL_CHAIN, 0, 500, 301, 51, 0 },
	{ "match_8192_lease_extents", BENCH_FILL_CHAIN, KVC_MATCH_LEASE, 1000, 301, 51, 0 },
	{ "match_1", 1, 0, 15, 5001, 1001, 0 },
	{ "match_1_after_5ms", 1, 0, 0, 501, 101, 5 },
};

/* A lease of thousands of blocks is let go in steps: the next match is not to meet the rest of this one. */
static kvc_status_t match_release(struct match_run *run, const struct kvc_request *request)
{
	double leased = 1;
	kvc_status_t status = kvc_release(run->fill.client.client, request);

	while (status == KVC_OK && leased > 0)
		status = bench_daemon_stat(&run->fill.client, "leased_bytes", &leased);
	return status;
}

static kvc_status_t match_once(struct match_run *run, const struct match_case *spec, double *ret_ns, double *client_ns)
{
	const struct kvc_request request = { .id = "bench-match", .id_bytes = 11 };
	struct kvc_match_result match;
	uint32_t chain = (uint32_t)(bench_random(&run->random) % run->fill.chain_count);

	bench_fill_keys(&run->fill, chain, spec->keys, run->keys);
	if (spec->pause_ms > 0)
		nanosleep(&(struct timespec){ .tv_nsec = (long)spec->pause_ms * 1000000 }, NULL);
	double cpu_ns = (double)bench_thread_ns();
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status =
		kvc_match(run->fill.client.space, run->keys, spec->keys, &request, spec->flags, BENCH_TIMEOUT_NS, &match);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	*client_ns += (double)bench_thread_ns() - cpu_ns;
	if (status == KVC_OK && match.matched_blocks != spec->keys) {
		bench_note("%s: %u of %u keys hit (%s)", spec->name, match.matched_blocks, spec->keys, kvc_miss_name(match.miss));
		status = KVC_INTERNAL;
	}
	if (status == KVC_OK && (spec->flags & KVC_MATCH_LEASE) != 0)
		status = match_release(run, &request);
	return status;
}

static kvc_status_t match_measure(struct match_run *run, const struct match_case *spec, struct bench_report *report)
{
	struct bench_samples samples = { 0 };
	struct bench_client_figures before;
	struct bench_result result = {
		.bench = "match", .reference_name = spec->bar_us > 0 ? "bar" : "none", .unit = "us", .reference = spec->bar_us,
		.bar = spec->bar_us, .bar_kind = spec->bar_us > 0 ? BENCH_BAR_P50_US_MAX : BENCH_BAR_NONE,
	};
	double client_ns = 0;
	uint32_t rounds = run->options->quick ? spec->rounds_quick : spec->rounds;
	kvc_status_t status = bench_client_figures(&run->fill.client, &before);
	uint64_t daemon_ns = bench_cpu_of_ns(run->world.pid);

	for (uint32_t i = 0; i < rounds && status == KVC_OK; i++) {
		double ns;
		status = match_once(run, spec, &ns, &client_ns);
		if (status == KVC_OK)
			status = bench_samples_add(&samples, ns);
	}
	daemon_ns = bench_cpu_of_ns(run->world.pid) - daemon_ns;
	if (status == KVC_OK) {
		snprintf(result.name, sizeof(result.name), "%s_of_%uK", spec->name, run->fill.chain_count * BENCH_FILL_CHAIN / 1000);
		result.n = rounds;
		result.ours = result.p50_us = bench_samples_at(&samples, 0.5) / 1e3;
		result.p99_us = bench_samples_at(&samples, 0.99) / 1e3;
		result.ratio = result.reference / result.ours;
		result.spread = (bench_samples_at(&samples, 0.75) - bench_samples_at(&samples, 0.25)) / bench_samples_at(&samples, 0.5);
		bench_result_count(&result, "daemon_cpu_us", (double)daemon_ns / rounds / 1e3);
		bench_result_count(&result, "client_cpu_us", client_ns / rounds / 1e3);
		status = bench_client_count(&run->fill.client, &before, rounds, &result);
		bench_report_add(report, &result);
	}
	bench_samples_fini(&samples);
	return status;
}

/* A million blocks of 4 KiB take 4.4 GiB; twice that should be free. */
static bool match_memory_is_short(void)
{
	char line[128];
	unsigned long long available_kb = 0;
	FILE *file = fopen("/proc/meminfo", "re");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		sscanf(line, "MemAvailable: %llu", &available_kb);
	if (file != NULL)
		fclose(file);
	return available_kb < UINT64_C(9) << 20;
}

/* CPU time that the host did not give to this machine, of all its CPUs; 0 where it does not say. */
static double match_stolen_ms(void)
{
	unsigned long long ticks = 0;
	FILE *file = fopen("/proc/stat", "re");

	if (file != NULL) {
		if (fscanf(file, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &ticks) != 1)
			ticks = 0;
		fclose(file);
	}
	return (double)ticks * 1e3 / (double)sysconf(_SC_CLK_TCK);
}

/* What a block costs the daemon, shared memory apart. */
static kvc_status_t match_block_cost(struct match_run *run, struct bench_report *report)
{
	uint32_t blocks = run->fill.chain_count * BENCH_FILL_CHAIN;
	struct bench_result result = {
		.bench = "match", .name = "growth_a_block", .reference_name = "bar", .unit = "bytes", .reference = 160, .bar = 160,
		.bar_kind = run->fill.chain_count == MATCH_CHAINS ? BENCH_BAR_OURS_MAX : BENCH_BAR_NONE, .n = blocks,
	};
	uint64_t now = 0;
	kvc_status_t status = bench_private_bytes(run->world.pid, &now);

	if (status != KVC_OK)
		return status;
	result.ours = ((double)now - (double)run->private_before) / blocks;
	result.ratio = result.ours / result.reference;
	bench_result_count(&result, "private_MiB", (double)now / 1048576);
	bench_report_add(report, &result);
	return KVC_OK;
}

/* The longest turn of its loop while it grew, of the growth in which that was shortest. A step of the daemon's own is in every growth, so that it cannot be
 * longer than this; what only some have is time in which the host let the CPU not run. */
static kvc_status_t match_longest_step(struct match_run *run, struct bench_report *report)
{
	struct bench_result step = {
		.bench = "match", .name = "growth_longest_step", .reference_name = "bar", .unit = "us", .reference = MATCH_STEP_US_MAX,
		.bar = MATCH_STEP_US_MAX, .bar_kind = BENCH_BAR_OURS_MAX, .n = run->growth_count,
	};
	const struct match_growth *best = &run->growths[0];
	struct bench_samples longest = { 0 }; /* us */
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < run->growth_count && status == KVC_OK; i++) {
		status = bench_samples_add(&longest, run->growths[i].longest_us);
		if (run->growths[i].longest_us < best->longest_us)
			best = &run->growths[i];
	}
	if (status == KVC_OK) {
		step.ours = best->longest_us;
		step.ratio = step.ours / step.reference;
		bench_result_count(&step, "realtime", run->realtime);
		bench_result_count(&step, "cpu_us", best->cpu_us);
		bench_result_count(&step, "stolen_ms", best->stolen_ms);
		bench_result_count(&step, "median_us", bench_samples_at(&longest, 0.5));
		bench_result_count(&step, "worst_us", bench_samples_at(&longest, 1));
		bench_report_add(report, &step);
	}
	bench_samples_fini(&longest);
	return status;
}

/* While it grows, the owner thread is not to be put aside for other processes: the longest step would be theirs. Where that is not
 * allowed, the figure says so (realtime 0). */
static void match_realtime(struct match_run *run, bool on)
{
	const struct sched_param param = { .sched_priority = on ? 1 : 0 };

	run->realtime = sched_setscheduler(run->world.pid, on ? SCHED_FIFO : SCHED_OTHER, &param) == 0;
}

static void match_end(struct match_run *run)
{
	bench_fill_end(&run->fill);
	bench_world_end(&run->world);
}

/* A daemon grows from nothing to all blocks, and stays. */
static kvc_status_t match_grow(struct match_run *run)
{
	struct match_growth *growth = &run->growths[run->growth_count];
	double longest_ns = 0, cpu_ns = 0, stolen_before_ms;
	char capacity[64];
	const char *settings[] = { capacity, "memory.slab: 256MiB", NULL };

	run->fill = (struct bench_fill){ .options = run->options, .family = MATCH_FAMILY };
	run->fill.chain_count = run->chain_count;
	/* Room for all, and a slab to spare. */
	snprintf(capacity, sizeof(capacity), "memory.capacity: %uMiB", run->chain_count * (BENCH_FILL_CHAIN / 256) + 512);
	kvc_status_t status = bench_world_begin(&run->world, run->options, settings, false);
	if (status == KVC_OK)
		status = bench_private_bytes(run->world.pid, &run->private_before);
	if (status != KVC_OK)
		return status;
	stolen_before_ms = match_stolen_ms();
	match_realtime(run, true);
	status = bench_fill_run(&run->fill, &run->world);
	growth->stolen_ms = match_stolen_ms() - stolen_before_ms;
	if (status == KVC_OK)
		status = bench_daemon_stat(&run->fill.client, "loop_longest_step_ns", &longest_ns);
	if (status == KVC_OK)
		status = bench_daemon_stat(&run->fill.client, "loop_longest_step_cpu_ns", &cpu_ns);
	growth->longest_us = longest_ns / 1e3;
	growth->cpu_us = cpu_ns / 1e3;
	run->growth_count++;
	return status;
}

/* Until none of its steps is over the bar, or often enough to say that it misses it. Once where nobody asked for the longest step. */
static kvc_status_t match_growths(struct match_run *run, struct bench_report *report)
{
	uint32_t growths = run->options->quick || !bench_wanted(run->options, "match", "growth_longest_step") ? 1 : MATCH_GROWTHS;
	kvc_status_t status = match_grow(run);

	while (status == KVC_OK && run->growth_count < growths && run->growths[run->growth_count - 1].longest_us > MATCH_STEP_US_MAX) {
		match_end(run);
		status = match_grow(run);
	}
	if (status == KVC_OK)
		status = match_block_cost(run, report);
	if (status == KVC_OK)
		status = match_longest_step(run, report);
	if (status == KVC_OK)
		match_realtime(run, false);
	return status;
}

kvc_status_t bench_match(const struct bench_options *options, struct bench_report *report)
{
	struct match_run *run = kvci_alloc_zero(1, sizeof(*run));

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->options = options;
	run->random = UINT64_C(0x853c49e6748fea9b);
	run->chain_count = match_memory_is_short() ? MATCH_CHAINS_SMALL : MATCH_CHAINS;
	kvc_status_t status = match_growths(run, report);
	for (size_t i = 0; i < sizeof(match_cases) / sizeof(match_cases[0]) && status == KVC_OK; i++)
		if (bench_wanted(options, "match", match_cases[i].name))
			status = match_measure(run, &match_cases[i], report);
	match_end(run);
	kvci_free(run);
	return status;
}
