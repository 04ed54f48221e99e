/* SPDX-License-Identifier: Apache-2.0
 *
 * Sweep: after an epoch was raised or a segment lost, frees what went stale, a bounded number of blocks a step. Nothing waits
 * for it: stale blocks are told by comparison wherever they are met.
 */
#include "cache/internal.h"

enum { SWEEP_STEP = 1024 };

void kvci_sweep_start(struct kvci_cache *cache)
{
	cache->sweep_left = kvci_index_high(cache->index);
}

bool kvci_sweep_step(struct kvci_cache *cache)
{
	uint32_t high = kvci_index_high(cache->index);

	for (uint32_t step = 0; step < SWEEP_STEP && cache->sweep_left > 0; step++) {
		cache->sweep_left--;
		if (cache->sweep_cursor >= high)
			cache->sweep_cursor = 0;
		uint32_t number = cache->sweep_cursor++;
		if (kvci_index_block_used(cache->index, number) != NULL)
			kvci_block_reap(cache, number);
	}
	return cache->sweep_left > 0;
}
