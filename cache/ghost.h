/* SPDX-License-Identifier: Apache-2.0
 *
 * Ghost: remembers of keys that have gone why they went (evicted, dropped, damaged, epoch), so that a miss can tell its cause. A
 * fixed table of 8-byte entries (48-bit fingerprint, 12-bit age, 4-bit cause) in sets of 8: the oldest of a set is forgotten first. A
 * wrong cause by a colliding fingerprint is possible once in 2^45 look-ups; only the text of a miss depends on it.
 * Memory: 8 bytes an entry, taken at the first put. When that fails, causes are not remembered; nothing else happens.
 * Threads: owner thread only.
 */
#ifndef KVCI_GHOST_H
#define KVCI_GHOST_H

#include <stdint.h>

#include <kvcask/status.h>

#include "cache/index.h"

struct kvci_ghost;

/* entry_count: rounded up to a power of two. seed: NULL: made here. */
kvc_status_t kvci_ghost_create(uint32_t entry_count, const struct kvci_key_seed *seed, struct kvci_ghost **ret_ghost);
void kvci_ghost_destroy(struct kvci_ghost *ghost);
/* cause: 1 to 15 (enum kvci_miss). A later cause of the same key replaces the earlier one. */
void kvci_ghost_put(struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES], uint32_t cause);
/* The cause, 0: not remembered. */
uint32_t kvci_ghost_get(const struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES]);
/* The key is stored again. */
void kvci_ghost_forget(struct kvci_ghost *ghost, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES]);
uint64_t kvci_ghost_memory_bytes(const struct kvci_ghost *ghost);

#endif
