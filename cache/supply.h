/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for what grows piece by piece and is only given back as a whole: the segments and blocks of the index. Pieces are cut from regions of
 * 2 MiB that a worker makes ahead of need, each one huge page where the kernel has one: a look-up among a million keys finds their lines without
 * walking page tables, and the owner thread never waits for a new page (on a virtual machine whose host must find the memory first: 0.1 ms a page, and
 * several for a huge one). Where no region is ready, because the index is still small, there is no worker, or the worker is late, a piece comes
 * from the heap: slower, and as right.
 *
 * Threads: owner thread only; the job's run is the one part that is not.
 */
#ifndef KVCI_SUPPLY_H
#define KVCI_SUPPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/workers.h"

enum {
	KVCI_SUPPLY_REGION_BYTES = 2 << 20,
	KVCI_SUPPLY_FROM_BYTES = 512 << 10, /* of pieces, before the first region is asked for: an idle daemon has none */
};

struct kvci_supply_memory;

/* The region that pieces of one size are cut from. Zero it before first use. */
struct kvci_supply_cut {
	uint8_t *at;
	size_t left_bytes;
};

/* Zeroed: never asks for regions. Set context and run_job (as of struct kvci_cache_env) for them. */
struct kvci_supply {
	void *context;
	void (*run_job)(void *context, struct kvci_job *job);
	struct kvci_job job;
	bool making;    /* the job is under way */
	uint8_t *made;  /* by the job */
	uint8_t *spare; /* a region nothing is cut from yet */
	struct kvci_supply_memory *memory; /* all that fini gives back */
	uint32_t memory_count, memory_room;
	uint64_t bytes; /* of all of it */
};

/* A piece; its bytes are whatever they are. `bytes`: a multiple of 64, and the same for each piece of a cut; more than a region holds is from the
 * heap. Aligned to 64, and to 128 where `bytes` is a multiple of that. NULL: no memory. */
void *kvci_supply_take(struct kvci_supply *supply, struct kvci_supply_cut *cut, size_t bytes);
/* All pieces are gone after it. No job is under way. */
void kvci_supply_fini(struct kvci_supply *supply);

#endif
