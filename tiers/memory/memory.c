/* SPDX-License-Identifier: Apache-2.0
 * Slabs: memfds, their seals, and the background touching of their pages. */
#include "tiers/memory/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

enum {
	MEMORY_SLABS_FIRST = 16,
	MEMORY_SEALS_SIZE = F_SEAL_SHRINK | F_SEAL_GROW,
	MEMORY_SEALS_ALL = MEMORY_SEALS_SIZE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL,
};
/* A worker is away from other jobs for about so long as touching this takes (a few ms). */
#define MEMORY_PREFAULT_BYTES UINT64_C(0x400000)
#define MEMORY_STEP_BYTES UINT64_C(0x40000)
#define MEMORY_PAGE_BYTES UINT64_C(4096) /* the least there is */

struct memory_slab {
	struct kvci_memory *memory;
	uint32_t id;
	int fd;
	bool sealed;
	bool clients; /* a store slab: its pages are made by the client, who writes them first */
	bool dying; /* destroyed while a job touches it: the job's done() ends it */
	bool touching;
	struct kvci_map_budget budget; /* for huge pages */
	atomic_bool stop; /* seen by the job */
	uint64_t bytes;
	uint64_t touched_bytes;
	void *base;
	struct kvci_job job;
};

struct kvci_memory {
	struct kvci_memory_config config;
	struct memory_slab **slabs;
	uint32_t count, room;
	bool quiet; /* no new jobs */
};

kvc_status_t kvci_memory_create(const struct kvci_memory_config *config, struct kvci_memory **ret_memory)
{
	struct kvci_memory *memory = kvci_alloc_zero(1, sizeof(*memory));

	if (memory == NULL)
		return KVC_NO_MEMORY;
	memory->config = *config;
	if (!config->prefault || (config->huge_pages != KVCI_MAP_HUGE_OFF && !kvci_map_huge_works()))
		memory->config.huge_pages = KVCI_MAP_HUGE_OFF;
	*ret_memory = memory;
	return KVC_OK;
}

enum kvci_map_huge kvci_memory_huge_pages(const struct kvci_memory *memory)
{
	return memory->config.huge_pages;
}

kvc_status_t kvci_memory_map(const char *name, uint64_t bytes, int *ret_fd, void **ret_base)
{
	kvc_status_t status = KVC_OK;
	void *base;
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return kvc_status_from_errno(errno);
	if (bytes == 0 || bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) != 0 ||
	    fcntl(fd, F_ADD_SEALS, MEMORY_SEALS_SIZE) != 0) {
		status = bytes == 0 || bytes > INT64_MAX ? KVC_INVALID : kvc_status_from_errno(errno);
		goto fail;
	}
	status = kvci_map_shared(fd, bytes, PROT_READ | PROT_WRITE, &base);
	if (status != KVC_OK)
		goto fail;
	/* A child of the daemon has no use for it, a core file no room. */
	madvise(base, bytes, MADV_DONTFORK);
	madvise(base, bytes, MADV_DONTDUMP);
	*ret_fd = fd;
	*ret_base = base;
	return KVC_OK;
fail:
	close(fd);
	return status;
}

/* Where the slab is, or would be, in the array. */
static struct memory_slab **memory_find(const struct kvci_memory *memory, uint32_t id)
{
	for (uint32_t i = 0; i < memory->count; i++)
		if (memory->slabs[i]->id == id)
			return &memory->slabs[i];
	return NULL;
}

static void memory_slab_free(struct memory_slab *slab)
{
	if (slab->base != NULL)
		munmap(slab->base, slab->bytes);
	if (slab->fd >= 0)
		close(slab->fd);
	kvci_free(slab);
}

/* ---- the end of a slab, or a window ---- */

static void memory_unmap_run(struct kvci_job *job)
{
	struct memory_slab *slab = (struct memory_slab *)((char *)job - offsetof(struct memory_slab, job));

	/* Piece by piece first: one long munmap would hold the address space's lock all the while. */
	for (uint64_t at = 0; at < slab->bytes; at += MEMORY_STEP_BYTES) {
		uint64_t left_bytes = slab->bytes - at;

		madvise((char *)slab->base + at, left_bytes < MEMORY_STEP_BYTES ? left_bytes : MEMORY_STEP_BYTES,
		        MADV_DONTNEED);
	}
	munmap(slab->base, slab->bytes);
	close(slab->fd);
	slab->base = NULL;
	slab->fd = -1;
}

static void memory_unmap_done(struct kvci_job *job)
{
	memory_slab_free((struct memory_slab *)((char *)job - offsetof(struct memory_slab, job)));
}

/* On a worker: giving a GiB of pages back takes many milliseconds. */
static void memory_slab_end(struct memory_slab *slab)
{
	struct kvci_memory *memory = slab->memory;

	if (memory->quiet) {
		memory_slab_free(slab);
		return;
	}
	slab->job = (struct kvci_job){ .run = memory_unmap_run, .done = memory_unmap_done };
	memory->config.run_job(memory->config.context, &slab->job);
}

void kvci_memory_unmap(struct kvci_memory *memory, int fd, void *base, uint64_t bytes)
{
	struct memory_slab *window;

	if (fd < 0 && base == NULL)
		return;
	window = memory->quiet ? NULL : kvci_alloc_zero(1, sizeof(*window));
	if (window == NULL) { /* here and now, then */
		if (base != NULL)
			munmap(base, bytes);
		if (fd >= 0)
			close(fd);
		return;
	}
	window->memory = memory;
	window->fd = fd;
	window->base = base;
	window->bytes = bytes;
	memory_slab_end(window);
}

/* ---- touching pages ---- */

/* Pages first, many at a time, so that a lack of memory is an error here; then a fault a page. Populating them (MADV_POPULATE_WRITE) would take a
 * tenth less, but under the address space's lock; a fault takes its mapping's only (Linux 6.6). The owner thread needs that lock for every slab
 * and when its heap grows: it waited 10 ms for a worker that had lost the CPU, and 16 ms while the host found memory for the 64 pages of a step.
 * The exchange of 0 for 0 is a write to the page that changes nothing, whoever writes there meanwhile; no sanitizer is to mind. */
__attribute__((no_sanitize("thread"))) static void memory_touch_pages(int fd, uint8_t *base, uint64_t from, uint64_t bytes)
{
	if (fallocate(fd, 0, (off_t)from, (off_t)bytes) != 0)
		return; /* what fails here comes when it is touched */
	for (uint64_t at = from; at < from + bytes; at += MEMORY_PAGE_BYTES) {
		uint8_t nothing = 0;

		__atomic_compare_exchange_n(&base[at], &nothing, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	}
}

static void memory_touch_run(struct kvci_job *job)
{
	struct memory_slab *slab = (struct memory_slab *)((char *)job - offsetof(struct memory_slab, job));
	uint64_t left_bytes = slab->bytes - slab->touched_bytes;
	uint64_t bytes = left_bytes < MEMORY_PREFAULT_BYTES ? left_bytes : MEMORY_PREFAULT_BYTES;

	if (atomic_load_explicit(&slab->stop, memory_order_relaxed))
		return;
	kvci_map_make_huge(&slab->budget, (char *)slab->base + slab->touched_bytes, bytes);
	for (uint64_t at = 0; at < bytes; at += MEMORY_STEP_BYTES) /* what is huge is there: this takes a tenth of the time then */
		memory_touch_pages(slab->fd, slab->base, slab->touched_bytes + at,
		                   bytes - at < MEMORY_STEP_BYTES ? bytes - at : MEMORY_STEP_BYTES);
	slab->touched_bytes += bytes;
}

static void memory_touch_done(struct kvci_job *job);

/* Once it is sealed: the seal waits for the file's lock, and the owner thread with it, while its pages are made. A client populates its store slab as
 * it maps it; doing so here, too, would look up and map each page once more, where reading maps 16 a fault. */
static void memory_touch_start(struct memory_slab *slab)
{
	struct kvci_memory *memory = slab->memory;

	if (!memory->config.prefault || memory->quiet || slab->clients)
		return;
	slab->job.run = memory_touch_run;
	slab->job.done = memory_touch_done;
	slab->touching = true;
	memory->config.run_job(memory->config.context, &slab->job);
}

static void memory_touch_done(struct kvci_job *job)
{
	struct memory_slab *slab = (struct memory_slab *)((char *)job - offsetof(struct memory_slab, job));
	struct kvci_memory *memory = slab->memory;

	slab->touching = false;
	if (slab->dying) {
		memory_slab_end(slab);
		return;
	}
	if (slab->touched_bytes < slab->bytes && !memory->quiet) {
		slab->touching = true;
		memory->config.run_job(memory->config.context, job);
	}
}

/* ---- slabs ---- */

static kvc_status_t memory_grow(struct kvci_memory *memory)
{
	uint32_t room = memory->room != 0 ? 2 * memory->room : MEMORY_SLABS_FIRST;
	struct memory_slab **slabs;

	if (memory->count < memory->room)
		return KVC_OK;
	slabs = kvci_realloc(memory->slabs, room * sizeof(slabs[0]));
	if (slabs == NULL)
		return KVC_NO_MEMORY;
	memory->slabs = slabs;
	memory->room = room;
	return KVC_OK;
}

kvc_status_t kvci_memory_slab_create(struct kvci_memory *memory, uint32_t id, uint64_t bytes, bool private_to_client,
                                     void **ret_base)
{
	struct memory_slab *slab;
	kvc_status_t status = memory_grow(memory);

	if (status != KVC_OK)
		return status;
	if (memory_find(memory, id) != NULL)
		return KVC_EXISTS;
	slab = kvci_alloc_zero(1, sizeof(*slab));
	if (slab == NULL)
		return KVC_NO_MEMORY;
	slab->memory = memory;
	slab->id = id;
	slab->clients = private_to_client;
	slab->fd = -1;
	status = kvci_memory_map("kvcask-slab", bytes, &slab->fd, &slab->base);
	if (status != KVC_OK)
		goto fail;
	slab->bytes = bytes;
	kvci_map_budget_init(&slab->budget, memory->config.huge_pages);
	memory->slabs[memory->count++] = slab;
	if (!private_to_client) {
		status = kvci_memory_slab_seal(memory, id);
		if (status != KVC_OK) {
			memory->count--;
			goto fail;
		}
	}
	*ret_base = slab->base;
	return KVC_OK;
fail:
	memory_slab_free(slab);
	return status;
}

void kvci_memory_slab_destroy(struct kvci_memory *memory, uint32_t id)
{
	struct memory_slab **place = memory_find(memory, id);
	struct memory_slab *slab;

	if (place == NULL)
		return;
	slab = *place;
	*place = memory->slabs[--memory->count];
	if (slab->touching) {
		atomic_store_explicit(&slab->stop, true, memory_order_relaxed);
		slab->dying = true;
		return;
	}
	memory_slab_end(slab);
}

kvc_status_t kvci_memory_slab_seal(struct kvci_memory *memory, uint32_t id)
{
	struct memory_slab **place = memory_find(memory, id);
	int seals;

	if (place == NULL)
		return KVC_NOT_FOUND;
	if ((*place)->sealed)
		return KVC_EXISTS;
	fcntl((*place)->fd, F_ADD_SEALS, MEMORY_SEALS_ALL);
	/* What counts is what is there: the client may have sealed it before us. */
	seals = fcntl((*place)->fd, F_GET_SEALS);
	if (seals < 0 || (seals & MEMORY_SEALS_ALL) != MEMORY_SEALS_ALL) {
		kvci_log(KVCI_LOG_WARN, "memory", "slab %u: seals %#x instead of %#x: not used", id, seals, MEMORY_SEALS_ALL);
		return KVC_DENIED;
	}
	(*place)->sealed = true;
	memory_touch_start(*place);
	return KVC_OK;
}

kvc_status_t kvci_memory_slab_fd(const struct kvci_memory *memory, uint32_t id, int *ret_fd, uint64_t *ret_bytes,
                                 bool *ret_sealed)
{
	struct memory_slab **place = memory_find(memory, id);

	if (place == NULL)
		return KVC_NOT_FOUND;
	*ret_fd = (*place)->fd;
	*ret_bytes = (*place)->bytes;
	*ret_sealed = (*place)->sealed;
	return KVC_OK;
}

kvc_status_t kvci_memory_slab_base(const struct kvci_memory *memory, uint32_t id, void **ret_base, uint64_t *ret_bytes)
{
	struct memory_slab **place = memory_find(memory, id);

	if (place == NULL)
		return KVC_NOT_FOUND;
	*ret_base = (*place)->base;
	*ret_bytes = (*place)->bytes;
	return KVC_OK;
}

void kvci_memory_quiesce(struct kvci_memory *memory)
{
	memory->quiet = true;
	for (uint32_t i = 0; i < memory->count; i++)
		atomic_store_explicit(&memory->slabs[i]->stop, true, memory_order_relaxed);
}

void kvci_memory_destroy(struct kvci_memory *memory)
{
	if (memory == NULL)
		return;
	while (memory->count > 0)
		memory_slab_free(memory->slabs[--memory->count]);
	kvci_free(memory->slabs);
	kvci_free(memory);
}
