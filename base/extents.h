/* SPDX-License-Identifier: Apache-2.0
 *
 * O(1) offset allocator over one range of bytes that it never touches (a slab): two-level segregated fit (Masmano et
 * al., TLSF, ECRTS 2004) with out-of-band metadata. Sizes and offsets are multiples of the unit (4 KiB).
 * The second level has 32 classes a power of two: at most 1/32 of a request is lost to rounding, and nothing is lost inside:
 * the extent is exactly as long as asked for (rounded to the unit).
 * Threads: one at a time.
 */
#ifndef KVCI_EXTENTS_H
#define KVCI_EXTENTS_H

#include <stdint.h>

#include <kvcask/status.h>

struct kvci_extents;

kvc_status_t kvci_extents_create(uint64_t length_bytes, uint64_t unit_bytes, struct kvci_extents **ret_extents);
void kvci_extents_destroy(struct kvci_extents *extents);

/* NO_SPACE when no free range is long enough (or when only one of the request's own class is, behind 256 shorter ones of that class).
 * *ret_node is what free wants. Takes no memory. */
kvc_status_t kvci_extents_alloc(struct kvci_extents *extents, uint64_t bytes, uint64_t *ret_offset_bytes, uint32_t *ret_node);
/* Merges with free neighbours. */
void kvci_extents_free(struct kvci_extents *extents, uint32_t node);

uint64_t kvci_extents_free_bytes(const struct kvci_extents *extents);
uint64_t kvci_extents_largest_free_bytes(const struct kvci_extents *extents);
uint64_t kvci_extents_length_bytes(const struct kvci_extents *extents);
uint32_t kvci_extents_used_count(const struct kvci_extents *extents);
/* Walks all invariants; a line for people when one is broken, NULL when all hold (tests, debug builds). */
const char *kvci_extents_check(const struct kvci_extents *extents);

#endif
