/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory tier: the slabs in which blocks lie. A slab is one memfd, mapped read-write by the daemon and handed to clients by fd; where in it
 * a block lies is the brain's business (cache/arena). So this tier has no ops table: it is the ground the others stand on.
 *
 *   store slab   one client's: that client maps it read-write, then kvci_memory_seal adds F_SEAL_FUTURE_WRITE and
 *                F_SEAL_SEAL: from then on nobody else can get a writable mapping, write it, or punch a hole in it
 *   load slab    sealed before any client sees it
 *
 * Every slab is sealed against growing and shrinking from its first moment: no client can make the daemon fault by
 * cutting it short. Pages of load slabs are made in the background, a piece a job (memory.prefault), huge ones where that works and is not
 * dear (memory.huge_pages), as first touch costs half a second a GiB and more; those of a store slab are made by the client that writes it
 * (connector/slabs.c), which does so in the background, too.
 *
 * Threads: the owner's only. The jobs that touch pages run on a worker.
 */
#ifndef KVCI_TIERS_MEMORY_H
#define KVCI_TIERS_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "base/map.h"
#include "base/workers.h"

struct kvci_memory;

struct kvci_memory_config {
	bool prefault;
	enum kvci_map_huge huge_pages; /* with prefault; where the machine can */
	/* Runs job->run on a worker and job->done on the owner's thread. */
	void (*run_job)(void *context, struct kvci_job *job);
	void *context;
};

kvc_status_t kvci_memory_create(const struct kvci_memory_config *config, struct kvci_memory **ret_memory);
/* How pages are made huge: of load slabs here, of a store slab by its client, who is told so. */
enum kvci_map_huge kvci_memory_huge_pages(const struct kvci_memory *memory);
/* Before the end: no pages are touched any more. */
void kvci_memory_quiesce(struct kvci_memory *memory);
/* Unmaps all. No job of it may be under way (the workers are gone and the mailbox is drained). */
void kvci_memory_destroy(struct kvci_memory *memory);

/* Ids are the caller's, never used twice. private_to_client: a store slab, to be sealed later; else it is sealed at once. */
kvc_status_t kvci_memory_slab_create(struct kvci_memory *memory, uint32_t slab, uint64_t bytes, bool private_to_client,
                                     void **ret_base);
/* The slab's bytes are the daemon's no more; memory goes back when the last client has unmapped it. */
void kvci_memory_slab_destroy(struct kvci_memory *memory, uint32_t slab);
/* After the owner has mapped it. DENIED: the client sealed it in a way that does not hold what we promise. */
kvc_status_t kvci_memory_slab_seal(struct kvci_memory *memory, uint32_t slab);
/* The fd (the memory's, not the caller's) and length of a slab; NOT_FOUND. ret_sealed: whether it may go to any client. */
kvc_status_t kvci_memory_slab_fd(const struct kvci_memory *memory, uint32_t slab, int *ret_fd, uint64_t *ret_bytes,
                                 bool *ret_sealed);
/* The daemon's own mapping. */
kvc_status_t kvci_memory_slab_base(const struct kvci_memory *memory, uint32_t slab, void **ret_base, uint64_t *ret_bytes);

/* A memfd of `bytes` that can neither grow nor shrink, and its read-write mapping: windows. *ret_fd is the caller's. */
kvc_status_t kvci_memory_map(const char *name, uint64_t bytes, int *ret_fd, void **ret_base);
/* The end of such a mapping, on a worker; takes the fd. Nothing to do: fd -1 and base NULL. */
void kvci_memory_unmap(struct kvci_memory *memory, int fd, void *base, uint64_t bytes);

#endif
