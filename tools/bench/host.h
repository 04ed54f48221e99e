/* SPDX-License-Identifier: Apache-2.0
 * A brain in this process, with one client and nothing behind it: no disk, no threads. All slabs are one and the same piece of memory:
 * nobody looks at block bytes here, and a million blocks need no gigabytes.
 */
#ifndef BENCH_HOST_H
#define BENCH_HOST_H

#include "cache/cache.h"
#include "tools/bench/bench.h"
#include "tools/bench/shapes.h"

enum { BENCH_HOST_CLIENT = 1 };

struct bench_host {
	struct kvci_cache *cache;
	struct kvci_stats stats;
	uint8_t *slab;
	uint64_t slab_bytes;
	struct kvci_job *jobs; /* waiting: run between what is timed, as by a worker that is never late */
};

kvc_status_t bench_host_begin(struct bench_host *host, uint64_t memory_bytes, uint64_t slab_bytes);
void bench_host_run_jobs(struct bench_host *host);
void bench_host_end(struct bench_host *host);
kvc_status_t bench_host_bind(struct bench_host *host, const struct bench_shape *shape, uint32_t *ret_binding);
/* Reserves all of `blocks`, mapping slabs as it is told. */
kvc_status_t bench_host_reserve(struct bench_host *host, uint32_t binding, struct kvci_reserve *blocks, uint32_t count);
/* The first status that is not OK, of a reservation or a commit. */
kvc_status_t bench_host_commit(struct bench_host *host, const struct kvci_reserve *blocks, uint32_t count, uint32_t layers);

#endif
