/* SPDX-License-Identifier: Apache-2.0
 *
 * The offset allocator as the brain uses it: a slab is kept full, a request that does not fit evicts until it does. What counts is the share of
 * the slab that is free but not in a range as long as the largest size; it is looked at after every placement.
 *
 * Sizes are drawn from 4 KiB to 32 MiB, each power of two as likely. It is which block leaves that makes the difference, not how a range is
 * chosen (first fit, best fit, next fit, by address and from two ends were tried: docs/performance.md):
 *   oldest  the order of LRU without hits: blocks placed together leave together
 *   random  the worst case: every hole is alone
 *   form    one size only, as in the slabs of one engine
 *
 * The operations are recorded in a first run and timed in a second one that does nothing else.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/extents.h"
#include "tools/bench/bench.h"

#define ALLOCATOR_UNIT UINT64_C(4096)
#define ALLOCATOR_LARGEST (UINT64_C(32) << 20)

enum {
	ALLOCATOR_OPERATIONS = 1000000,
	ALLOCATOR_SLOTS = 1 << 20, /* live blocks at most: as many as operations */
};

enum allocator_order { ALLOCATOR_OLDEST, ALLOCATOR_RANDOM };

struct allocator_case {
	const char *name;
	uint64_t slab_bytes;
	enum allocator_order order;
	uint64_t fixed_bytes; /* 0: mixed */
	double bar_percent;   /* 0: none */
};

static const struct allocator_case allocator_cases[] = {
	{ "mixed_oldest_4GiB", UINT64_C(4) << 30, ALLOCATOR_OLDEST, 0, 5 },
	{ "mixed_oldest_1GiB", UINT64_C(1) << 30, ALLOCATOR_OLDEST, 0, 0 },
	{ "mixed_random_4GiB", UINT64_C(4) << 30, ALLOCATOR_RANDOM, 0, 0 },
	{ "form_random_1GiB", UINT64_C(1) << 30, ALLOCATOR_RANDOM, UINT64_C(5902336), 5 }, /* SmolLM2, 256 tokens */
};

/* units 0: free slot; a slot of ALLOCATOR_SLOTS: an allocation that finds no space. */
struct allocator_step {
	uint32_t slot, units;
};

struct allocator_run {
	const struct allocator_case *spec;
	struct kvci_extents *extents;
	struct allocator_step *steps;
	uint32_t step_count;
	uint32_t *nodes; /* by slot */
	uint32_t *live;  /* ring of slots, oldest first */
	uint32_t first, count;
	uint64_t random;
	double unusable_sum, unusable_max;
	uint32_t looked;
};

static uint32_t allocator_units(struct allocator_run *run)
{
	uint64_t most = ALLOCATOR_LARGEST / ALLOCATOR_UNIT;

	if (run->spec->fixed_bytes != 0)
		return (uint32_t)(run->spec->fixed_bytes / ALLOCATOR_UNIT);
	double share = (double)(bench_random(&run->random) >> 11) * 0x1p-53;
	return (uint32_t)ceil(pow((double)most, share));
}

static void allocator_record(struct allocator_run *run, uint32_t slot, uint32_t units)
{
	if (run->step_count < ALLOCATOR_OPERATIONS)
		run->steps[run->step_count++] = (struct allocator_step){ slot, units };
}

/* Takes the next victim out of the ring; its slot. */
static uint32_t allocator_evict(struct allocator_run *run)
{
	uint32_t *oldest = &run->live[run->first % ALLOCATOR_SLOTS];

	if (run->spec->order == ALLOCATOR_RANDOM) {
		uint32_t *pick = &run->live[(run->first + bench_random(&run->random) % run->count) % ALLOCATOR_SLOTS];
		uint32_t slot = *pick;
		*pick = *oldest;
		*oldest = slot;
	}
	run->first++;
	run->count--;
	return *oldest;
}

static void allocator_look(struct allocator_run *run)
{
	uint64_t largest = kvci_extents_largest_free_bytes(run->extents);
	uint64_t needed = run->spec->fixed_bytes != 0 ? run->spec->fixed_bytes : ALLOCATOR_LARGEST;
	uint64_t unusable = largest >= needed ? 0 : kvci_extents_free_bytes(run->extents);
	double percent = 100.0 * (double)unusable / (double)run->spec->slab_bytes;

	run->unusable_sum += percent;
	run->unusable_max = percent > run->unusable_max ? percent : run->unusable_max;
	run->looked++;
}

/* Places one block, evicting as long as it finds no space. `slot` is the number of the placement. */
static kvc_status_t allocator_place(struct allocator_run *run, uint32_t slot)
{
	uint32_t units = allocator_units(run);
	uint64_t offset;
	kvc_status_t status;

	while ((status = kvci_extents_alloc(run->extents, units * ALLOCATOR_UNIT, &offset, &run->nodes[slot])) == KVC_NO_SPACE) {
		if (run->count == 0)
			return KVC_INTERNAL;
		allocator_record(run, ALLOCATOR_SLOTS, units);
		uint32_t victim = allocator_evict(run);
		kvci_extents_free(run->extents, run->nodes[victim]);
		allocator_record(run, victim, 0);
	}
	if (status != KVC_OK)
		return status;
	allocator_record(run, slot, units);
	run->live[(run->first + run->count++) % ALLOCATOR_SLOTS] = slot;
	return KVC_OK;
}

/* Runs the case and leaves the recorded steps. The first fifth fills the slab and is not looked at. */
static kvc_status_t allocator_simulate(struct allocator_run *run)
{
	for (uint32_t slot = 0; run->step_count < ALLOCATOR_OPERATIONS; slot++) {
		kvc_status_t status = allocator_place(run, slot);
		if (status != KVC_OK)
			return status;
		if (run->step_count > ALLOCATOR_OPERATIONS / 5)
			allocator_look(run);
	}
	return KVC_OK;
}

/* The same operations on a fresh slab, timed as a whole. */
static kvc_status_t allocator_replay(struct allocator_run *run, double *ret_ns_an_operation)
{
	struct kvci_extents *extents;
	uint64_t offset;
	uint32_t node;
	kvc_status_t status = kvci_extents_create(run->spec->slab_bytes, ALLOCATOR_UNIT, &extents);

	if (status != KVC_OK)
		return status;
	uint64_t begin_ns = bench_now_ns();
	for (uint32_t i = 0; i < run->step_count; i++) {
		const struct allocator_step *step = &run->steps[i];
		if (step->units == 0)
			kvci_extents_free(extents, run->nodes[step->slot]);
		else if (kvci_extents_alloc(extents, step->units * ALLOCATOR_UNIT, &offset, &node) == KVC_OK)
			run->nodes[step->slot] = node;
	}
	*ret_ns_an_operation = (double)(bench_now_ns() - begin_ns) / run->step_count;
	kvci_extents_destroy(extents);
	return KVC_OK;
}

static void allocator_report(const struct allocator_run *run, double ns, struct bench_report *report)
{
	struct bench_result space = {
		.bench = "allocator", .reference_name = run->spec->bar_percent > 0 ? "bar" : "", .unit = "percent",
		.ours = run->unusable_sum / run->looked, .reference = run->spec->bar_percent, .n = run->looked,
		.bar_kind = run->spec->bar_percent > 0 ? BENCH_BAR_OURS_MAX : BENCH_BAR_NONE, .bar = run->spec->bar_percent,
	};
	struct bench_result time = {
		.bench = "allocator", .reference_name = "bar", .unit = "ns", .ours = ns, .reference = 1000, .ratio = 1000 / ns,
		.n = run->step_count, .bar_kind = BENCH_BAR_OURS_MAX, .bar = 1000,
	};

	snprintf(space.name, sizeof(space.name), "unusable_%s", run->spec->name);
	bench_result_count(&space, "max_percent", run->unusable_max);
	bench_report_add(report, &space);
	snprintf(time.name, sizeof(time.name), "time_%s", run->spec->name);
	bench_report_add(report, &time);
}

static kvc_status_t allocator_run_case(const struct allocator_case *spec, struct bench_report *report)
{
	struct allocator_run run = { .spec = spec, .random = UINT64_C(88172645463325252) };
	double ns = 0;
	kvc_status_t status = KVC_NO_MEMORY;

	run.steps = kvci_alloc_zero(ALLOCATOR_OPERATIONS, sizeof(*run.steps));
	run.nodes = kvci_alloc_zero(ALLOCATOR_SLOTS + 1, sizeof(*run.nodes));
	run.live = kvci_alloc_zero(ALLOCATOR_SLOTS, sizeof(*run.live));
	if (run.steps == NULL || run.nodes == NULL || run.live == NULL)
		goto out;
	status = kvci_extents_create(spec->slab_bytes, ALLOCATOR_UNIT, &run.extents);
	if (status == KVC_OK)
		status = allocator_simulate(&run);
	if (status == KVC_OK)
		status = allocator_replay(&run, &ns);
	if (status == KVC_OK)
		allocator_report(&run, ns, report);
out:
	kvci_extents_destroy(run.extents);
	kvci_free(run.steps);
	kvci_free(run.nodes);
	kvci_free(run.live);
	return status;
}

kvc_status_t bench_allocator(const struct bench_options *options, struct bench_report *report)
{
	for (size_t i = 0; i < sizeof(allocator_cases) / sizeof(allocator_cases[0]); i++) {
		if (!bench_wanted(options, "allocator", allocator_cases[i].name))
			continue;
		bench_progress(options, "allocator", i, sizeof(allocator_cases) / sizeof(allocator_cases[0]));
		kvc_status_t status = allocator_run_case(&allocator_cases[i], report);
		bench_progress(options, "allocator", 0, 0);
		if (status != KVC_OK)
			return status;
	}
	return KVC_OK;
}
