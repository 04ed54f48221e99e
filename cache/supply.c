/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/supply.h"

#include "base/alloc.h"

enum { SUPPLY_ALIGN_BYTES = 128, SUPPLY_PAGE_BYTES = 4096 };

struct kvci_supply_memory {
	void *at;
	bool region; /* else from the heap */
};

/* On a worker. A page that is huge is there with its first byte; where it is not, each of its small ones is touched. */
static void supply_run(struct kvci_job *job)
{
	struct kvci_supply *supply = (struct kvci_supply *)(void *)((char *)job - offsetof(struct kvci_supply, job));
	volatile uint8_t *region = kvci_alloc_huge(KVCI_SUPPLY_REGION_BYTES);

	for (size_t at = 0; region != NULL && at < KVCI_SUPPLY_REGION_BYTES; at += SUPPLY_PAGE_BYTES)
		region[at] = 0;
	supply->made = (uint8_t *)region;
}

static void supply_done(struct kvci_job *job)
{
	struct kvci_supply *supply = (struct kvci_supply *)(void *)((char *)job - offsetof(struct kvci_supply, job));

	supply->making = false;
	supply->spare = supply->made;
	if (supply->spare != NULL)
		supply->bytes += KVCI_SUPPLY_REGION_BYTES;
}

static void supply_make(struct kvci_supply *supply)
{
	if (supply->run_job == NULL || supply->making || supply->spare != NULL || supply->bytes < KVCI_SUPPLY_FROM_BYTES)
		return;
	supply->making = true;
	supply->job.run = supply_run;
	supply->job.done = supply_done;
	supply->run_job(supply->context, &supply->job);
}

/* Room in the list of what is given back, before there is something to put in. */
static bool supply_list_room(struct kvci_supply *supply)
{
	uint32_t room = supply->memory_room != 0 ? 2 * supply->memory_room : 64;
	struct kvci_supply_memory *memory;

	if (supply->memory_count < supply->memory_room)
		return true;
	memory = kvci_realloc(supply->memory, room * sizeof(*memory));
	if (memory == NULL)
		return false;
	supply->memory = memory;
	supply->memory_room = room;
	return true;
}

static void *supply_take_plain(struct kvci_supply *supply, size_t bytes)
{
	void *piece = kvci_alloc_aligned(SUPPLY_ALIGN_BYTES, bytes);

	if (piece == NULL)
		return NULL;
	supply->memory[supply->memory_count++] = (struct kvci_supply_memory){ .at = piece };
	supply->bytes += bytes;
	supply_make(supply);
	return piece;
}

void *kvci_supply_take(struct kvci_supply *supply, struct kvci_supply_cut *cut, size_t bytes)
{
	void *piece;

	if (cut->left_bytes < bytes) {
		if (!supply_list_room(supply))
			return NULL;
		if (supply->spare == NULL || bytes > KVCI_SUPPLY_REGION_BYTES)
			return supply_take_plain(supply, bytes);
		cut->at = supply->spare;
		cut->left_bytes = KVCI_SUPPLY_REGION_BYTES;
		supply->memory[supply->memory_count++] = (struct kvci_supply_memory){ .at = supply->spare, .region = true };
		supply->spare = NULL;
		supply_make(supply);
	}
	piece = cut->at;
	cut->at += bytes;
	cut->left_bytes -= bytes;
	return piece;
}

void kvci_supply_fini(struct kvci_supply *supply)
{
	for (uint32_t i = 0; i < supply->memory_count; i++)
		if (supply->memory[i].region)
			kvci_free_huge(supply->memory[i].at, KVCI_SUPPLY_REGION_BYTES);
		else
			kvci_free(supply->memory[i].at);
	kvci_free_huge(supply->spare, KVCI_SUPPLY_REGION_BYTES);
	kvci_free(supply->memory);
}
