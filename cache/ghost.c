/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/ghost.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/alloc.h"

enum {
	GHOST_SET_ENTRIES = 8, /* one cache line */
	GHOST_CAUSE_BITS = 4,
	GHOST_AGE_BITS = 12,
	GHOST_SHIFT = GHOST_CAUSE_BITS + GHOST_AGE_BITS, /* fingerprint above */
};

/* entry = fingerprint << 16 | age << 4 | cause; 0: empty (a cause is never 0). */
struct kvci_ghost {
	struct kvci_key_seed seed;
	void *memory;
	uint64_t *entries; /* in memory, at a cache line; NULL until the first put */
	uint32_t set_mask;
	uint32_t puts; /* ages are this, coarsely: what one age holds fills 1/1024 of the table */
	uint32_t puts_an_age;
};

/* A set more than there are: the first lies at a cache line. */
static size_t ghost_entries(const struct kvci_ghost *ghost)
{
	return ((size_t)ghost->set_mask + 2) * GHOST_SET_ENTRIES;
}

kvc_status_t kvci_ghost_create(uint32_t entry_count, const struct kvci_key_seed *seed, struct kvci_ghost **ret_ghost)
{
	uint32_t entries = GHOST_SET_ENTRIES;

	if (entry_count > UINT32_C(1) << 30)
		return KVC_TOO_BIG;
	while (entries < entry_count)
		entries *= 2;
	struct kvci_ghost *ghost = kvci_alloc_zero(1, sizeof(*ghost));
	if (ghost == NULL)
		return KVC_NO_MEMORY;
	ghost->set_mask = entries / GHOST_SET_ENTRIES - 1;
	ghost->puts_an_age = entries / 1024 + 1;
	if (seed != NULL)
		ghost->seed = *seed;
	else
		kvci_key_seed_make(&ghost->seed);
	*ret_ghost = ghost;
	return KVC_OK;
}

void kvci_ghost_destroy(struct kvci_ghost *ghost)
{
	if (ghost == NULL)
		return;
	kvci_free_lazy(ghost->memory, ghost_entries(ghost), sizeof(*ghost->entries));
	kvci_free(ghost);
}

/* The set of a key, and its fingerprint in an entry's place. */
static uint64_t *ghost_set(const struct kvci_ghost *ghost, uint32_t binding, const uint8_t *hash, uint64_t *ret_fingerprint)
{
	uint64_t mix = kvci_key_mix(&ghost->seed, binding, hash);

	*ret_fingerprint = mix >> GHOST_SHIFT << GHOST_SHIFT;
	/* Sets by the high half of a product, so that all bits of the mix count for both. */
	uint32_t set = (uint32_t)(mix * UINT64_C(0x9e3779b97f4a7c15) >> 32) & ghost->set_mask;
	return ghost->entries + (size_t)set * GHOST_SET_ENTRIES;
}

static uint64_t *ghost_find(const struct kvci_ghost *ghost, uint32_t binding, const uint8_t *hash)
{
	uint64_t fingerprint;
	uint64_t *set = ghost_set(ghost, binding, hash, &fingerprint);

	for (unsigned i = 0; i < GHOST_SET_ENTRIES; i++)
		if (set[i] != 0 && set[i] >> GHOST_SHIFT == fingerprint >> GHOST_SHIFT)
			return &set[i];
	return NULL;
}

static uint32_t ghost_age_now(const struct kvci_ghost *ghost)
{
	return ghost->puts / ghost->puts_an_age & ((1u << GHOST_AGE_BITS) - 1);
}

/* Empty, or the one put longest ago. Ages wrap after four times the table: what is older than that may stay a little longer. */
static uint64_t *ghost_victim(const struct kvci_ghost *ghost, uint64_t *set)
{
	uint32_t now = ghost_age_now(ghost), oldest = 0;
	uint64_t *victim = &set[0];

	for (unsigned i = 0; i < GHOST_SET_ENTRIES; i++) {
		if (set[i] == 0)
			return &set[i];
		uint32_t age = (now - (uint32_t)(set[i] >> GHOST_CAUSE_BITS)) & ((1u << GHOST_AGE_BITS) - 1);
		if (age > oldest) {
			oldest = age;
			victim = &set[i];
		}
	}
	return victim;
}

/* Zeroed by the kernel page by page as sets are used: no step pays for all of it. */
static bool ghost_take_memory(struct kvci_ghost *ghost)
{
	ghost->memory = kvci_alloc_lazy(ghost_entries(ghost), sizeof(*ghost->entries));
	if (ghost->memory == NULL)
		return false;
	ghost->entries = (uint64_t *)(((uintptr_t)ghost->memory + 63) & ~(uintptr_t)63);
	return true;
}

void kvci_ghost_put(struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES], uint32_t cause)
{
	uint64_t fingerprint;

	if (ghost->entries == NULL && !ghost_take_memory(ghost))
		return;
	uint64_t *set = ghost_set(ghost, binding, hash, &fingerprint);
	uint64_t *entry = ghost_find(ghost, binding, hash);
	if (entry == NULL)
		entry = ghost_victim(ghost, set);
	*entry = fingerprint | (uint64_t)ghost_age_now(ghost) << GHOST_CAUSE_BITS | (cause & ((1u << GHOST_CAUSE_BITS) - 1));
	ghost->puts++;
}

uint32_t kvci_ghost_get(const struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES])
{
	if (ghost->entries == NULL)
		return 0;
	const uint64_t *entry = ghost_find(ghost, binding, hash);
	return entry == NULL ? 0 : (uint32_t)*entry & ((1u << GHOST_CAUSE_BITS) - 1);
}

void kvci_ghost_forget(struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES])
{
	if (ghost->entries == NULL)
		return;
	uint64_t *entry = ghost_find(ghost, binding, hash);
	if (entry != NULL)
		*entry = 0;
}

uint64_t kvci_ghost_memory_bytes(const struct kvci_ghost *ghost)
{
	return sizeof(*ghost) +
	       (ghost->entries == NULL ? 0 : ((uint64_t)ghost->set_mask + 1) * GHOST_SET_ENTRIES * sizeof(*ghost->entries));
}
