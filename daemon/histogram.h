/* SPDX-License-Identifier: Apache-2.0
 *
 * Latencies as histograms: buckets at powers of two of nanoseconds, for Prometheus and `kvcask stat`. The table is here.
 * Threads: adds and reads are relaxed atomics, from any thread.
 */
#ifndef KVCI_DAEMON_HISTOGRAM_H
#define KVCI_DAEMON_HISTOGRAM_H

#include <stdint.h>

/* X(NAME, name, text) */
#define KVCI_LATENCY_TABLE(X)                                                                                              \
	X(MATCH, match, "a match, from its message to its answer")                                                               \
	X(LOAD, load, "a load, from its message until every block has a status")                                                \
	X(COMMIT, commit, "a store's commit, from its message to its answer")                                                     \
	X(DISK_READ, disk_read, "one read of a record, given to the disk tier until it is checked")                                  \
	X(DISK_WRITE, disk_write, "one write of a record")

enum kvci_latency {
#define KVCI_LATENCY_ENUM(NAME, name, text) KVCI_LATENCY_##NAME,
	KVCI_LATENCY_TABLE(KVCI_LATENCY_ENUM)
#undef KVCI_LATENCY_ENUM
	KVCI_LATENCY_COUNT
};

enum {
	KVCI_HISTOGRAM_FIRST_BITS = 10, /* the first bucket ends at 1,024 ns */
	KVCI_HISTOGRAM_BUCKETS = 26,    /* the last bounded one at 2^35 ns, 34 s; then one for the rest */
};

struct kvci_histogram {
	_Atomic uint64_t buckets[KVCI_HISTOGRAM_BUCKETS + 1];
	_Atomic uint64_t sum_ns;
};

struct kvci_latencies {
	struct kvci_histogram of[KVCI_LATENCY_COUNT];
};

const char *kvci_latency_name(enum kvci_latency latency); /* "disk_read" */
const char *kvci_latency_text(enum kvci_latency latency);
void kvci_latency_add(struct kvci_latencies *latencies, enum kvci_latency latency, uint64_t ns);

struct kvci_histogram_figures {
	uint64_t buckets[KVCI_HISTOGRAM_BUCKETS + 1]; /* not cumulative */
	uint64_t count, sum_ns;
};
void kvci_latency_read(const struct kvci_latencies *latencies, enum kvci_latency latency,
                       struct kvci_histogram_figures *ret_figures);
/* Upper bound of the bucket in which the share (0 to 1) lies, ns; 0 when nothing was counted. */
uint64_t kvci_histogram_quantile_ns(const struct kvci_histogram_figures *figures, double share);

#endif
