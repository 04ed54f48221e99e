/* SPDX-License-Identifier: Apache-2.0
 *
 * Statistics: one table (base/stats.def) makes the enum, the names, `kvcask stat`, Prometheus text and docs/metrics.md.
 * A line without text does not build. Counters only grow; gauges are set by whoever knows.
 * Threads: adds are relaxed atomics, from any thread.
 */
#ifndef KVCI_STATS_H
#define KVCI_STATS_H

#include <stdint.h>

enum kvci_stat {
#define KVCI_STAT(name, kind, unit, text) KVCI_STAT_##name,
#include "base/stats.def"
#undef KVCI_STAT
	KVCI_STAT_COUNT
};

enum kvci_stat_kind { KVCI_STAT_COUNTER, KVCI_STAT_GAUGE };

struct kvci_stats {
	_Atomic uint64_t values[KVCI_STAT_COUNT];
};

struct kvci_stat_info {
	const char *name; /* lower case: "match_keys" */
	enum kvci_stat_kind kind;
	const char *unit; /* "blocks", "bytes", "ns", ... */
	const char *text;
};
const struct kvci_stat_info *kvci_stat_info(enum kvci_stat stat);

static inline void kvci_stat_add(struct kvci_stats *stats, enum kvci_stat stat, uint64_t n)
{
	__atomic_fetch_add((uint64_t *)&stats->values[stat], n, __ATOMIC_RELAXED);
}
static inline void kvci_stat_set(struct kvci_stats *stats, enum kvci_stat stat, uint64_t n)
{
	__atomic_store_n((uint64_t *)&stats->values[stat], n, __ATOMIC_RELAXED);
}
static inline uint64_t kvci_stat_get(const struct kvci_stats *stats, enum kvci_stat stat)
{
	return __atomic_load_n((const uint64_t *)&stats->values[stat], __ATOMIC_RELAXED);
}

#endif
