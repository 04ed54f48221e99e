/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tools/bench/bench.h"

uint64_t bench_now_ns(void)
{
	return kvci_clock_ns();
}

uint64_t bench_thread_ns(void)
{
	return kvci_clock_cpu_ns();
}

uint64_t bench_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t bench_cpu_of_ns(int pid)
{
	clockid_t clock;
	struct timespec now;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &now) != 0)
		return 0;
	return (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec;
}

kvc_status_t bench_samples_add(struct bench_samples *samples, double ns)
{
	if (samples->count == samples->room) {
		uint32_t room = samples->room == 0 ? 64 : 2 * samples->room;
		double *grown = kvci_realloc(samples->ns, room * sizeof(*grown));
		if (grown == NULL)
			return KVC_NO_MEMORY;
		samples->ns = grown;
		samples->room = room;
	}
	samples->ns[samples->count++] = ns;
	return KVC_OK;
}

static int samples_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_samples_at(struct bench_samples *samples, double share)
{
	if (samples->count == 0)
		return 0;
	qsort(samples->ns, samples->count, sizeof(*samples->ns), samples_compare);
	uint32_t at = (uint32_t)(share * (samples->count - 1) + 0.5);
	return samples->ns[at];
}

void bench_samples_clear(struct bench_samples *samples)
{
	samples->count = 0;
}

void bench_samples_fini(struct bench_samples *samples)
{
	kvci_free(samples->ns);
	*samples = (struct bench_samples){ 0 };
}

kvc_status_t bench_pairs_add(struct bench_pairs *pairs, double ours_ns, double reference_ns)
{
	if (bench_samples_add(&pairs->ours, ours_ns) != KVC_OK || bench_samples_add(&pairs->reference, reference_ns) != KVC_OK ||
	    bench_samples_add(&pairs->ratios, reference_ns / ours_ns) != KVC_OK)
		return KVC_NO_MEMORY;
	return KVC_OK;
}

void bench_pairs_fini(struct bench_pairs *pairs)
{
	bench_samples_fini(&pairs->ours);
	bench_samples_fini(&pairs->reference);
	bench_samples_fini(&pairs->ratios);
}

void bench_pairs_into(struct bench_pairs *pairs, uint64_t bytes, struct bench_result *result)
{
	double ours_ns = bench_samples_at(&pairs->ours, 0.5), reference_ns = bench_samples_at(&pairs->reference, 0.5);

	result->n = pairs->ratios.count;
	if (result->n == 0)
		return;
	if (bytes != 0) { /* bytes a nanosecond are GB/s */
		result->unit = "GB/s";
		result->ours = (double)bytes / ours_ns;
		result->reference = (double)bytes / reference_ns;
	} else {
		result->unit = "us";
		result->ours = ours_ns / 1e3;
		result->reference = reference_ns / 1e3;
	}
	result->ratio = bench_samples_at(&pairs->ratios, 0.5);
	result->spread =
		(bench_samples_at(&pairs->ratios, 0.75) - bench_samples_at(&pairs->ratios, 0.25)) / result->ratio;
}

uint32_t bench_pair_count(const struct bench_options *options, uint32_t full, uint32_t quick)
{
	uint32_t pairs = options->pairs != 0 ? options->pairs : options->quick ? quick : full;

	return pairs < BENCH_PAIRS_MIN ? BENCH_PAIRS_MIN : pairs;
}

bool bench_reference_first(uint32_t pair)
{
	return pair % 2 != 0;
}

uint64_t bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

bool bench_wanted(const struct bench_options *options, const char *bench, const char *name)
{
	char full[128];

	if (options->only == NULL)
		return true;
	snprintf(full, sizeof(full), "%s.%s", bench, name);
	return strstr(full, options->only) != NULL;
}
