/* SPDX-License-Identifier: Apache-2.0
 *
 * The offset allocator as the brain uses it: an arena of four slabs of 1 GiB that is kept full; a request that fits in none of them evicts until it
 * does. What counts is the share of all bytes that are free, but in slabs without a range as long as the largest size; it is looked at
 * after every placement.
 *
 * Sizes are drawn from 4 KiB to 32 MiB, each power of two as likely ("mixed"), or are those of common models' blocks ("models"), or one
 * only, as in the arena of one engine ("form"). It is which block leaves that makes the difference, not how a range is chosen (first fit,
 * best fit, next fit, by address and from two ends were tried: docs/performance.md):
 *   oldest  the order of LRU without hits: blocks placed together leave together
 *   random  the worst case: every hole is alone
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
	ALLOCATOR_SLABS = 4,
};

#define ALLOCATOR_SLAB_BYTES (UINT64_C(1) << 30)

enum allocator_order { ALLOCATOR_OLDEST, ALLOCATOR_RANDOM };

enum allocator_sizes { ALLOCATOR_MIXED, ALLOCATOR_MODELS, ALLOCATOR_FORM };

struct allocator_case {
	const char *name;
	enum allocator_sizes sizes;
	enum allocator_order order;
	double bar_percent; /* 0: none */
};

static const struct allocator_case allocator_cases[] = {
	{ "mixed_oldest", ALLOCATOR_MIXED, ALLOCATOR_OLDEST, 5 },
	{ "mixed_random", ALLOCATOR_MIXED, ALLOCATOR_RANDOM, 0 },
	{ "models_oldest", ALLOCATOR_MODELS, ALLOCATOR_OLDEST, 5 },
	{ "models_random", ALLOCATOR_MODELS, ALLOCATOR_RANDOM, 0 },
	{ "form_random", ALLOCATOR_FORM, ALLOCATOR_RANDOM, 5 },
};

/* Records of blocks in units: 1 MiB, 1.4, 2.8, 4 and 5.6 MiB and their headers. The last is the largest. */
static const uint32_t allocator_models[] = { 257, 361, 717, 1026, 1441 };
enum { ALLOCATOR_MODEL_COUNT = sizeof(allocator_models) / sizeof(allocator_models[0]) };

/* units 0: frees; a slot of ALLOCATOR_SLOTS: an allocation that finds no space. */
struct allocator_step {
	uint32_t slab, slot, units;
};

struct allocator_run {
	const struct allocator_case *spec;
	struct kvci_extents *slabs[ALLOCATOR_SLABS];
	struct allocator_step *steps;
	uint32_t step_count;
	uint32_t *nodes;     /* by slot */
	uint8_t *slab_of;    /* by slot */
	uint32_t *live;  /* ring of slots, oldest first */
	uint32_t first, count;
	uint64_t random;
	double unusable_sum, unusable_max;
	uint32_t looked;
};

static uint32_t allocator_units(struct allocator_run *run)
{
	uint64_t most = ALLOCATOR_LARGEST / ALLOCATOR_UNIT;

	if (run->spec->sizes == ALLOCATOR_FORM)
		return allocator_models[ALLOCATOR_MODEL_COUNT - 1];
	if (run->spec->sizes == ALLOCATOR_MODELS)
		return allocator_models[bench_random(&run->random) % ALLOCATOR_MODEL_COUNT];
	double share = (double)(bench_random(&run->random) >> 11) * 0x1p-53;
	return (uint32_t)ceil(pow((double)most, share));
}

static void allocator_record(struct allocator_run *run, uint32_t slab, uint32_t slot, uint32_t units)
{
	if (run->step_count < ALLOCATOR_OPERATIONS)
		run->steps[run->step_count++] = (struct allocator_step){ slab, slot, units };
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
	uint64_t needed = run->spec->sizes == ALLOCATOR_MIXED ? ALLOCATOR_LARGEST
	                                                      : allocator_models[ALLOCATOR_MODEL_COUNT - 1] * ALLOCATOR_UNIT;
	uint64_t unusable = 0;

	for (unsigned i = 0; i < ALLOCATOR_SLABS; i++)
		if (kvci_extents_largest_free_bytes(run->slabs[i]) < needed)
			unusable += kvci_extents_free_bytes(run->slabs[i]);
	double percent = 100.0 * (double)unusable / (double)(ALLOCATOR_SLABS * ALLOCATOR_SLAB_BYTES);
	run->unusable_sum += percent;
	run->unusable_max = percent > run->unusable_max ? percent : run->unusable_max;
	run->looked++;
}

/* The first slab that has room. Each try is an operation. */
static kvc_status_t allocator_try(struct allocator_run *run, uint32_t slot, uint32_t units)
{
	uint64_t offset;

	for (uint8_t i = 0; i < ALLOCATOR_SLABS; i++) {
		kvc_status_t status = kvci_extents_alloc(run->slabs[i], units * ALLOCATOR_UNIT, &offset, &run->nodes[slot]);
		allocator_record(run, i, status == KVC_OK ? slot : ALLOCATOR_SLOTS, units);
		if (status == KVC_OK)
			run->slab_of[slot] = i;
		if (status != KVC_NO_SPACE)
			return status;
	}
	return KVC_NO_SPACE;
}

/* Places one block, evicting as long as it finds no space. `slot` is the number of the placement. */
static kvc_status_t allocator_place(struct allocator_run *run, uint32_t slot)
{
	uint32_t units = allocator_units(run);
	kvc_status_t status;

	while ((status = allocator_try(run, slot, units)) == KVC_NO_SPACE) {
		if (run->count == 0)
			return KVC_INTERNAL;
		uint32_t victim = allocator_evict(run);
		kvci_extents_free(run->slabs[run->slab_of[victim]], run->nodes[victim]);
		allocator_record(run, run->slab_of[victim], victim, 0);
	}
	if (status == KVC_OK)
		run->live[(run->first + run->count++) % ALLOCATOR_SLOTS] = slot;
	return status;
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

static kvc_status_t allocator_slabs_make(struct kvci_extents **slabs)
{
	kvc_status_t status = KVC_OK;

	for (unsigned i = 0; i < ALLOCATOR_SLABS && status == KVC_OK; i++)
		status = kvci_extents_create(ALLOCATOR_SLAB_BYTES, ALLOCATOR_UNIT, &slabs[i]);
	return status;
}

static void allocator_slabs_destroy(struct kvci_extents **slabs)
{
	for (unsigned i = 0; i < ALLOCATOR_SLABS; i++)
		kvci_extents_destroy(slabs[i]);
}

/* The same operations on fresh slabs, timed as a whole. */
static kvc_status_t allocator_replay(struct allocator_run *run, double *ret_ns_an_operation)
{
	struct kvci_extents *slabs[ALLOCATOR_SLABS] = { 0 };
	uint64_t offset;
	uint32_t node;
	kvc_status_t status = allocator_slabs_make(slabs);

	uint64_t begin_ns = bench_now_ns();
	for (uint32_t i = 0; i < run->step_count && status == KVC_OK; i++) {
		const struct allocator_step *step = &run->steps[i];
		if (step->units == 0)
			kvci_extents_free(slabs[step->slab], run->nodes[step->slot]);
		else if (kvci_extents_alloc(slabs[step->slab], step->units * ALLOCATOR_UNIT, &offset, &node) == KVC_OK)
			run->nodes[step->slot] = node;
	}
	*ret_ns_an_operation = (double)(bench_now_ns() - begin_ns) / run->step_count;
	allocator_slabs_destroy(slabs);
	return status;
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
	run.slab_of = kvci_alloc_zero(ALLOCATOR_SLOTS, sizeof(*run.slab_of));
	if (run.steps == NULL || run.nodes == NULL || run.live == NULL || run.slab_of == NULL)
		goto out;
	status = allocator_slabs_make(run.slabs);
	if (status == KVC_OK)
		status = allocator_simulate(&run);
	if (status == KVC_OK)
		status = allocator_replay(&run, &ns);
	if (status == KVC_OK)
		allocator_report(&run, ns, report);
out:
	allocator_slabs_destroy(run.slabs);
	kvci_free(run.steps);
	kvci_free(run.nodes);
	kvci_free(run.slab_of);
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
