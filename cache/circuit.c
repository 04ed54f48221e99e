/* SPDX-License-Identifier: Apache-2.0
 *
 * Circuits: a disk that failed or did not answer in time is left alone, for a pause that doubles. Reads and writes have one each (a
 * full disk reads well). When the pause of reads is over, one block is read in the background; only when that comes in time are
 * blocks on the disk hits again: no request is the probe.
 */
#include "cache/internal.h"

#include "base/clock.h"
#include "base/log.h"

enum { CIRCUIT_SCAN_STEP = 4096 };
#define CIRCUIT_RETRY_NS (100 * KVCI_MS)

void kvci_circuit_init(struct kvci_cache *cache, struct kvci_circuit *circuit)
{
	*circuit = (struct kvci_circuit){ .state = KVCI_CIRCUIT_CLOSED, .pause_ns = cache->config.circuit_open_ns };
}

void kvci_circuit_open(struct kvci_cache *cache, struct kvci_circuit *circuit, const char *what, kvc_status_t why)
{
	if (circuit->state == KVCI_CIRCUIT_OPEN)
		return;
	circuit->state = KVCI_CIRCUIT_OPEN;
	circuit->why = why;
	circuit->until_ns = cache->now_ns + circuit->pause_ns;
	kvci_cache_count(cache, KVCI_STAT_DISK_CIRCUIT_OPENS, 1);
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "cache", "disk %s: %s; left alone for %llu ms", what, kvc_status_text(why),
	                 (unsigned long long)(circuit->pause_ns / KVCI_MS));
	circuit->pause_ns *= 2;
	if (circuit->pause_ns > cache->config.circuit_open_max_ns)
		circuit->pause_ns = cache->config.circuit_open_max_ns;
}

void kvci_circuit_close(struct kvci_cache *cache, struct kvci_circuit *circuit, const char *what)
{
	if (circuit->state == KVCI_CIRCUIT_CLOSED)
		return;
	kvci_circuit_init(cache, circuit);
	KVCI_LOG_LIMITED(KVCI_LOG_INFO, "cache", "disk %s: works again", what);
}

/* A block that can be read to see whether the disk answers. */
static uint32_t circuit_probe_block(struct kvci_cache *cache)
{
	struct kvci_disk *disk = &cache->disk;
	uint32_t high = kvci_index_high(cache->index);

	if (disk->probe_left == 0)
		disk->probe_left = high;
	for (uint32_t step = 0; step < CIRCUIT_SCAN_STEP && disk->probe_left > 0; step++) {
		disk->probe_left--;
		if (disk->probe_cursor >= high)
			disk->probe_cursor = 0;
		uint32_t number = disk->probe_cursor++;
		const struct kvci_block *block = kvci_index_block_used(cache->index, number);
		if (block == NULL || (block->flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_DEAD | KVCI_BLOCK_BUSY)) != 0 ||
		    !kvci_block_on_disk(cache, block) || kvci_block_stale(cache, block))
			continue;
		const struct kvci_binding *binding = kvci_block_binding(cache, block);
		if (!binding->form_known && (uint64_t)block->place.length_4k << KVCI_PAGE_SHIFT != binding->record_bytes)
			continue; /* coded, and nobody has said how to lay it out */
		disk->probe_left = 0;
		return number;
	}
	return KVCI_NONE;
}

static uint64_t circuit_tick_read(struct kvci_cache *cache, struct kvci_circuit *circuit)
{
	struct kvci_disk *disk = &cache->disk;

	if (circuit->state != KVCI_CIRCUIT_OPEN)
		return UINT64_MAX;
	if (circuit->until_ns > cache->now_ns)
		return circuit->until_ns;
	if (disk->read_late_count > disk->depth / 2) { /* it still owes us those: each probe would cost another extent */
		circuit->until_ns = cache->now_ns + circuit->pause_ns;
		return circuit->until_ns;
	}
	uint32_t number = circuit_probe_block(cache);
	if (number == KVCI_NONE && disk->probe_left != 0)
		return cache->now_ns; /* the search goes on */
	if (number == KVCI_NONE) { /* nothing is on the disk alone: the next such read will tell */
		circuit->state = KVCI_CIRCUIT_CLOSED;
		return UINT64_MAX;
	}
	circuit->state = KVCI_CIRCUIT_PROBING;
	if (kvci_read_start(cache, number, true) != KVC_OK) {
		circuit->state = KVCI_CIRCUIT_OPEN;
		circuit->until_ns = cache->now_ns + CIRCUIT_RETRY_NS;
		return circuit->until_ns;
	}
	kvci_cache_count(cache, KVCI_STAT_DISK_PROBES, 1);
	kvci_read_pump(cache);
	return circuit->state == KVCI_CIRCUIT_OPEN ? circuit->until_ns : UINT64_MAX;
}

uint64_t kvci_circuit_tick(struct kvci_cache *cache)
{
	struct kvci_circuit *writes = &cache->disk.write_circuit;
	uint64_t due_ns = circuit_tick_read(cache, &cache->disk.read_circuit);

	if (writes->state == KVCI_CIRCUIT_OPEN && writes->until_ns <= cache->now_ns)
		writes->state = KVCI_CIRCUIT_PROBING; /* the next block to be written is the probe: nobody waits for it */
	if (writes->state == KVCI_CIRCUIT_OPEN && writes->until_ns < due_ns)
		due_ns = writes->until_ns;
	return due_ns;
}
