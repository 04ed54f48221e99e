/* SPDX-License-Identifier: Apache-2.0
 * Histograms: one bucket a bit of the time. */
#include "daemon/histogram.h"

#include <stdatomic.h>

static const struct {
	const char *name, *text;
} histogram_table[KVCI_LATENCY_COUNT] = {
#define HISTOGRAM_ROW(NAME, name, text) {#name, text},
	KVCI_LATENCY_TABLE(HISTOGRAM_ROW)
#undef HISTOGRAM_ROW
};

const char *kvci_latency_name(enum kvci_latency latency)
{
	return (unsigned)latency < KVCI_LATENCY_COUNT ? histogram_table[latency].name : "?";
}

const char *kvci_latency_text(enum kvci_latency latency)
{
	return (unsigned)latency < KVCI_LATENCY_COUNT ? histogram_table[latency].text : "?";
}

void kvci_latency_add(struct kvci_latencies *latencies, enum kvci_latency latency, uint64_t ns)
{
	struct kvci_histogram *histogram = &latencies->of[latency];
	unsigned bits = ns > 1 ? 64 - (unsigned)__builtin_clzll(ns - 1) : 0; /* the least with ns <= 2^bits */
	unsigned bucket = bits <= KVCI_HISTOGRAM_FIRST_BITS ? 0 : bits - KVCI_HISTOGRAM_FIRST_BITS;

	if (bucket > KVCI_HISTOGRAM_BUCKETS)
		bucket = KVCI_HISTOGRAM_BUCKETS;
	atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
}

void kvci_latency_read(const struct kvci_latencies *latencies, enum kvci_latency latency,
                       struct kvci_histogram_figures *ret_figures)
{
	const struct kvci_histogram *histogram = &latencies->of[latency];

	ret_figures->count = 0;
	for (unsigned i = 0; i <= KVCI_HISTOGRAM_BUCKETS; i++) {
		ret_figures->buckets[i] = atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
		ret_figures->count += ret_figures->buckets[i];
	}
	ret_figures->sum_ns = atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
}

uint64_t kvci_histogram_quantile_ns(const struct kvci_histogram_figures *figures, double share)
{
	uint64_t below = 0, wanted = (uint64_t)(share * (double)figures->count);

	for (unsigned i = 0; i <= KVCI_HISTOGRAM_BUCKETS && figures->count > 0; i++) {
		below += figures->buckets[i];
		if (below > wanted || below == figures->count)
			return UINT64_C(1) << (KVCI_HISTOGRAM_FIRST_BITS + i);
	}
	return 0;
}
