/* SPDX-License-Identifier: Apache-2.0
 *
 * Load and store with the disk, to and from the engine's pages: a store is timed until everything it wrote is durable, a load from the match on.
 * The reference is fio with the same size and depth on a file that was written before, past the page cache. Disks of virtual machines
 * change their speed from second to second: each pair is fio, ours, fio; when the two fio legs differ by more than 1.5x, the pair is dropped and
 * counted; otherwise the reference is their mean.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/fio.h"
#include "tools/bench/world.h"

enum { DISK_FAMILY = 4, DISK_DEPTH = 16, DISK_LEG_BLOCKS_MAX = 512, DISK_LEGS_IN_MEMORY = 3, DISK_LEGS = 16 };

/* A way to the disk. */
struct disk_way {
	const char *name; /* "auto": the default, not said in a result's name */
	const char *io;
	const char *huge_pages;
	double store_bar, load_bar;
};

static const struct disk_way disk_ways[] = {
	{ "auto", "auto", "auto", 0.85, 0.9 },
	{ "threads", "threads", "auto", 0.8, 0.8 },
	{ "small", "auto", "off", 0.85, 0.9 },
	{ "threads_small", "threads", "off", 0.8, 0.8 },
};

struct disk_run {
	const struct bench_options *options;
	const struct disk_way *way;
	struct bench_world world;
	struct bench_client client;
	struct bench_shape shape;
	struct bench_engine engine;
	struct bench_fio fio;
	uint64_t leg_bytes;
	uint32_t leg_blocks;
	uint64_t memory_bytes, disk_bytes;
	uint64_t stored_legs;
	uint32_t load_turn, engine_turn, fio_turn;
	struct kvc_store_block blocks[DISK_LEG_BLOCKS_MAX];
	uint8_t hashes[DISK_LEG_BLOCKS_MAX][KVC_HASH_BYTES];
	uint32_t pages[DISK_LEG_BLOCKS_MAX * 16];
};

static void disk_pages(struct disk_run *run)
{
	uint32_t a_block = run->engine.sizes.pages_per_section;

	for (uint32_t i = 0; i < run->leg_blocks; i++, run->engine_turn++)
		memcpy(run->pages + (size_t)i * a_block,
		       bench_engine_pages(&run->engine, run->engine_turn % run->engine.block_count), a_block * sizeof(*run->pages));
}

static kvc_status_t disk_store(struct disk_run *run, double *ret_ns)
{
	bench_chain(DISK_FAMILY, run->stored_legs * run->leg_blocks, run->leg_blocks, run->shape.form.block_tokens, run->blocks);
	disk_pages(run);
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status = kvc_store(run->client.space, run->blocks, run->leg_blocks, run->pages, BENCH_TIMEOUT_NS, NULL);
	if (status == KVC_OK)
		status = kvc_flush(run->client.client, BENCH_TIMEOUT_NS);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	if (status != KVC_OK)
		bench_note("store: %s (%s)", kvc_status_text(status), kvc_last_error());
	run->stored_legs++;
	return status;
}

/* The legs that are on the disk and not in memory, in turn: twice as many as memory holds, so that each is gone again when its turn comes, and
 * none of those stored last, which the store's slabs may still hold. */
static kvc_status_t disk_load(struct disk_run *run, double *ret_ns)
{
	const struct kvc_request request = { .id = "bench-disk", .id_bytes = 10 };
	uint64_t in_turn = 2 * DISK_LEGS_IN_MEMORY;
	uint64_t leg = run->stored_legs - DISK_LEGS_IN_MEMORY - 1 - in_turn + run->load_turn++ % in_turn;
	struct kvc_match_result match;

	for (uint32_t i = 0; i < run->leg_blocks; i++)
		bench_hash(DISK_FAMILY, leg * run->leg_blocks + i, run->hashes[i]);
	disk_pages(run);
	uint64_t begin_ns = bench_now_ns();
	kvc_status_t status =
		kvc_match(run->client.space, run->hashes, run->leg_blocks, &request, KVC_MATCH_LEASE, BENCH_TIMEOUT_NS, &match);
	if (status == KVC_OK && match.on_disk_blocks != run->leg_blocks) {
		bench_note("load: %u of %u blocks are on the disk only (%u in memory; %s)", match.on_disk_blocks, run->leg_blocks,
		           match.in_memory_blocks, kvc_miss_name(match.miss));
		status = KVC_INTERNAL;
	}
	if (status == KVC_OK)
		status = kvc_load(run->client.space, &request, 0, run->leg_blocks, run->pages, BENCH_TIMEOUT_NS, NULL);
	kvc_status_t released = kvc_release(run->client.client, &request);
	*ret_ns = (double)(bench_now_ns() - begin_ns);
	if (status != KVC_OK)
		bench_note("load: %s (%s)", kvc_status_text(status), kvc_last_error());
	return status != KVC_OK ? status : released;
}

static kvc_status_t disk_fio(struct disk_run *run, bool write, struct bench_fio_figures *ret_figures)
{
	uint64_t legs = run->fio.file_bytes / run->leg_bytes;
	uint64_t offset = run->fio_turn++ % legs * run->leg_bytes;

	return bench_fio_leg(&run->fio, write, offset, run->leg_bytes, run->shape.sizes.record_bytes, DISK_DEPTH, ret_figures);
}

struct disk_figures {
	struct bench_pairs pairs;
	uint32_t dropped;
	double daemon_cpu_ns, client_cpu_ns, fio_cpu_ns; /* of all pairs tried; fio: of both its legs */
};

/* fio, ours, fio. */
static kvc_status_t disk_pair(struct disk_run *run, bool write, struct disk_figures *figures, bool *ret_kept)
{
	struct bench_fio_figures before = { 0 }, after = { 0 };
	double ours_ns = 0;
	kvc_status_t status = disk_fio(run, write, &before);
	uint64_t daemon_ns = bench_cpu_of_ns(run->world.pid), client_ns = bench_cpu_ns();

	if (status == KVC_OK)
		status = write ? disk_store(run, &ours_ns) : disk_load(run, &ours_ns);
	figures->daemon_cpu_ns += (double)(bench_cpu_of_ns(run->world.pid) - daemon_ns);
	figures->client_cpu_ns += (double)(bench_cpu_ns() - client_ns);
	if (status == KVC_OK)
		status = disk_fio(run, write, &after);
	if (status != KVC_OK)
		return status;
	figures->fio_cpu_ns += before.cpu_ns + after.cpu_ns;
	*ret_kept = before.ns <= 1.5 * after.ns && after.ns <= 1.5 * before.ns;
	return *ret_kept ? bench_pairs_add(&figures->pairs, ours_ns, (before.ns + after.ns) / 2) : KVC_OK;
}

static void disk_report(struct disk_run *run, bool write, uint32_t tried, struct disk_figures *figures, struct bench_report *report)
{
	const char *op = write ? "store" : "load", *way = run->way == &disk_ways[0] ? "" : run->way->name;
	const char *dash = *way != 0 ? "_" : "";
	double gigabytes = (double)(run->leg_blocks * run->shape.sizes.block_bytes) * tried / 1e9;
	struct bench_result result = {
		.bench = "disk", .reference_name = run->fio.engine, .bar_kind = BENCH_BAR_RATIO_MIN,
		.bar = write ? run->way->store_bar : run->way->load_bar,
	};
	struct bench_result cpu = {
		.bench = "disk", .reference_name = run->fio.engine, .unit = "CPU s/GB", .bar_kind = BENCH_BAR_OURS_MAX, .n = tried,
		.bar = write ? 0.05 : 0.2, /* a load is checked by the daemon, a store is not */
	};

	snprintf(result.name, sizeof(result.name), "%s_%s%s%s", op, run->shape.name, dash, way);
	bench_pairs_into(&figures->pairs, run->leg_blocks * run->shape.sizes.block_bytes, &result);
	result.p50_us = bench_samples_at(&figures->pairs.ours, 0.5) / 1e3;
	result.p99_us = bench_samples_at(&figures->pairs.ours, 0.99) / 1e3;
	bench_result_count(&result, "dropped_pairs", figures->dropped);
	bench_result_count(&result, "depth", DISK_DEPTH);
	bench_result_count(&result, "huge_percent", 100 * bench_huge_share(run->world.pid));
	bench_report_add(report, &result);
	snprintf(cpu.name, sizeof(cpu.name), "daemon_cpu_%s_%s%s%s", op, run->shape.name, dash, way);
	cpu.ours = figures->daemon_cpu_ns / 1e9 / gigabytes;
	cpu.reference = figures->fio_cpu_ns / 2 / 1e9 / gigabytes;
	cpu.ratio = cpu.reference / cpu.ours;
	bench_result_count(&cpu, "client_cpu_s_a_GB", figures->client_cpu_ns / 1e9 / gigabytes);
	bench_report_add(report, &cpu);
}

static kvc_status_t disk_measure(struct disk_run *run, bool write, struct bench_report *report)
{
	struct disk_figures figures = { 0 };
	uint32_t wanted = bench_pair_count(run->options, 15, 9), tried = 0;
	kvc_status_t status = KVC_OK;

	/* A disk that never holds still ends this after three times the pairs. */
	while (figures.pairs.ratios.count < wanted && tried < 3 * wanted && status == KVC_OK) {
		bool kept = false;
		bench_progress(run->options, write ? "disk store" : "disk load", figures.pairs.ratios.count, wanted);
		status = disk_pair(run, write, &figures, &kept);
		tried++;
		figures.dropped += !kept;
	}
	bench_progress(run->options, "", 0, 0);
	if (status == KVC_OK)
		disk_report(run, write, tried, &figures, report);
	bench_pairs_fini(&figures.pairs);
	return status;
}

/* The host of a virtual machine gives memory when it is touched first, and may take back what lies free (free page reporting): that takes ten times as
 * long as all else, and a daemon that is not told to pay it makes small pages then (the `small` ways). Here it is paid just before. */
static void disk_warm_memory(uint64_t bytes)
{
	bench_shared_unmap(bench_shared_map(bytes), bytes);
}

/* Fills the disk tier once over, so that what is measured overwrites what was written, as fio's legs do. */
static kvc_status_t disk_prepare(struct disk_run *run)
{
	char memory[64], disk[64], queue[64], io[64], pages[64];
	const char *settings[] = { memory, "memory.slab: 256MiB", "memory.lease_share: 90", "memory.client_share: 90", disk,
	                           queue, io, pages, "disk.queue_depth: 16", "disk.codec: raw", NULL };
	double ns;

	snprintf(memory, sizeof(memory), "memory.capacity: %lluMiB", (unsigned long long)(run->memory_bytes >> 20));
	snprintf(disk, sizeof(disk), "disk.capacity: %lluMiB", (unsigned long long)(run->disk_bytes >> 20));
	snprintf(queue, sizeof(queue), "disk.write_queue: %lluMiB", (unsigned long long)(run->memory_bytes >> 20));
	snprintf(io, sizeof(io), "disk.io: %s", run->way->io);
	snprintf(pages, sizeof(pages), "memory.huge_pages: %s", run->way->huge_pages);
	kvc_status_t status = bench_engine_init(&run->engine, &run->shape, 2 * run->leg_bytes);
	if (status == KVC_OK && strcmp(run->way->huge_pages, "off") != 0)
		disk_warm_memory(2 * run->memory_bytes); /* fio and others take some of it */
	if (status == KVC_OK)
		status = bench_world_begin(&run->world, run->options, settings, true);
	if (status == KVC_OK)
		status = bench_fio_begin(&run->fio, run->world.folder, 4 * run->leg_bytes);
	if (status == KVC_OK)
		status = bench_client_open(&run->world, &run->shape, &run->engine, &run->client);
	uint64_t legs = run->disk_bytes / run->leg_bytes + 1;
	for (uint64_t leg = 0; leg < legs && status == KVC_OK; leg++) {
		bench_progress(run->options, "filling the disk tier", leg, legs);
		status = disk_store(run, &ns);
	}
	bench_progress(run->options, "", 0, 0);
	return status;
}

/* Loads until the memory that blocks are read into was made: the stores' slabs become the loads', which is done once. */
static kvc_status_t disk_warm_loads(struct disk_run *run)
{
	kvc_status_t status = KVC_OK;
	double ns;

	for (uint32_t leg = 0; leg <= DISK_LEGS_IN_MEMORY && status == KVC_OK; leg++) {
		bench_progress(run->options, "making the loads' memory", leg, DISK_LEGS_IN_MEMORY + 1);
		status = disk_load(run, &ns);
	}
	bench_progress(run->options, "", 0, 0);
	return status;
}

/* By the names of results, with _auto where they have nothing behind the size. */
static bool disk_wanted(const struct bench_options *options, bool write, const struct bench_shape *shape,
                        const struct disk_way *way)
{
	char name[96];

	snprintf(name, sizeof(name), "%s_%s_%s", write ? "store" : "load", shape->name, way->name);
	return bench_wanted(options, "disk", name);
}

static kvc_status_t disk_case(const struct bench_options *options, const struct bench_shape *shape, const struct disk_way *way,
                              struct bench_report *report)
{
	struct disk_run *run = kvci_alloc_zero(1, sizeof(*run));

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->options = options;
	run->way = way;
	run->shape = *shape;
	run->leg_bytes = options->quick ? UINT64_C(128) << 20 : UINT64_C(512) << 20;
	run->leg_blocks = (uint32_t)(run->leg_bytes / shape->sizes.block_bytes);
	run->memory_bytes = DISK_LEGS_IN_MEMORY * run->leg_bytes;
	run->disk_bytes = DISK_LEGS * run->leg_bytes;
	kvc_status_t status = disk_prepare(run);
	if (status == KVC_OK && disk_wanted(options, true, shape, way))
		status = disk_measure(run, true, report);
	if (status == KVC_OK && disk_wanted(options, false, shape, way)) {
		status = disk_warm_loads(run);
		if (status == KVC_OK)
			status = disk_measure(run, false, report);
	}
	bench_client_close(&run->client);
	bench_fio_end(&run->fio);
	bench_world_end(&run->world);
	bench_engine_fini(&run->engine);
	kvci_free(run);
	return status;
}

kvc_status_t bench_disk(const struct bench_options *options, struct bench_report *report)
{
	static const uint32_t mibs[] = { 1, 4, 32 };
	kvc_status_t status = KVC_OK;

	if (!bench_on_disk(options->folder)) {
		bench_note("%s is not on a disk; --folder names one", options->folder);
		return KVC_INVALID;
	}
	for (size_t way = 0; way < sizeof(disk_ways) / sizeof(disk_ways[0]); way++)
		for (size_t i = 0; i < sizeof(mibs) / sizeof(mibs[0]) && status == KVC_OK; i++) {
			struct bench_shape shape;
			bench_shape_mib(mibs[i], &shape);
			if (mibs[i] != 4 && options->quick && options->only == NULL)
				continue;
			if (disk_wanted(options, true, &shape, &disk_ways[way]) || disk_wanted(options, false, &shape, &disk_ways[way]))
				status = disk_case(options, &shape, &disk_ways[way], report);
		}
	return status;
}
