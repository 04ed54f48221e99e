/* SPDX-License-Identifier: Apache-2.0
 *
 * A store under way: reserve, gather, commit, in batches that overlap. The next batch is reserved while this one is gathered, and
 * at most two batches are held, so that a small share of memory does for any number of blocks.
 *
 *   WAITING --> ASKED --OK--> RESERVED --claim--> MOVING --> GATHERED --> COMMITTING --> SETTLED
 *      ^          |  no memory while we hold some     |
 *      +----------+                                   +--stopped: abort--> SETTLED
 *
 * A plain reservation (kvc_reserve) is a store that stops at RESERVED.
 */
#ifndef KVCI_CONNECTOR_STORE_H
#define KVCI_CONNECTOR_STORE_H

#include "connector/internal.h"

enum store_state {
	STORE_WAITING,
	STORE_ASKED,
	STORE_RESERVED,
	STORE_MOVING,
	STORE_GATHERED,
	STORE_COMMITTING,
	STORE_SETTLED,
};

enum { STORE_NONE = UINT32_MAX };

struct store_block {
	enum store_state state;
	kvc_status_t status;  /* PENDING until SETTLED */
	struct slab *slab;    /* while a reservation is held */
	uint64_t reservation;
	uint64_t offset_bytes;
	uint32_t slot;        /* of its checksums */
	uint32_t next;        /* in the same commit */
};

struct store_op {
	struct kvc_op op;
	bool plain;           /* kvc_reserve */
	bool blocked;         /* no memory: wait until one of ours is committed */
	uint32_t count, settled;
	uint32_t waiting;     /* WAITING or ASKED */
	uint32_t past_pages;  /* GATHERED or COMMITTING */
	uint32_t next_waiting; /* no block before it is WAITING */
	uint32_t held;        /* with a slot */
	uint32_t batch, slot_count;
	uint32_t asked_count, gathered_count;
	uint32_t ready_first, ready_end;
	uint32_t pending_rounds;
	kvc_status_t stop_status;
	kvc_status_t worst;
	uint32_t worst_index;
	const struct kvc_store_block *keys;
	struct store_block *blocks;
	uint64_t *checksums;
	uint32_t *asked, *gathered, *free_slots, *ready, *engine_blocks;
};

/* engine_blocks: NULL for a plain reservation. The lock is held. */
kvc_status_t store_create(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                          const uint32_t *engine_blocks, struct store_op **ret_self);
/* Gives the reservation back to the daemon. */
void store_abort(struct kvc_client *client, uint64_t reservation);

#endif
