/* SPDX-License-Identifier: Apache-2.0
 * Mappings of the daemon's slabs. A slab id is never used twice by a daemon, so that a mapping can only be too old, never another's. A mapping stays until
 * the last copy out of it has ended, also when the slab or the daemon is gone.
 *
 * First touches of a mapping cost as much as copying it: a thread of low priority populates page tables behind the engine's back, and
 * unmaps what is dead (a gigabyte takes milliseconds). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map.h"
#include "connector/internal.h"

enum {
	SLABS_STEP_BYTES = 1 << 20, /* the address space's lock is held for so long: the engine maps memory, too */
	SLABS_PIECE_BYTES = KVCI_MAP_HUGE_BYTES, /* while one is made huge it is not held */
	SLABS_PIECE_LOOK_NS = 50000,             /* one that the pager is at is looked at so often */
	SLABS_PIECE_LOOKS = 20,                  /* and so many times: it may have lost the CPU */
	SLABS_PAGER_NICE = 10,
};

struct slab *slabs_find(struct kvc_client *client, uint32_t id)
{
	for (struct slab *slab = client->slabs; slab != NULL; slab = slab->next)
		if (slab->id == id && !slab->dead)
			return slab;
	return NULL;
}

static void slabs_free(struct slab *slab)
{
	kvci_free((void *)slab->pieces);
	kvci_free(slab);
}

bool slabs_holds(const struct slab *slab, uint64_t offset_bytes, uint64_t length_bytes)
{
	return offset_bytes % KVCI_RECORD_ALIGN_BYTES == 0 && offset_bytes <= slab->bytes &&
	       length_bytes <= slab->bytes - offset_bytes;
}

/* ---- huge pages ---- */

void slabs_huge(struct slab *slab, enum kvci_map_huge how)
{
	uint64_t count = slab->bytes / SLABS_PIECE_BYTES;

	if (count > 0)
		slab->pieces = kvci_alloc_zero(count, sizeof(slab->pieces[0])); /* no memory: small ones, then */
	kvci_map_budget_init(&slab->budget, how);
}

/* What is written before its piece is made makes small pages, and what is written meanwhile keeps the kernel from making it. */
static void slabs_make_piece(struct slab *slab, uint64_t piece, bool wait)
{
	const struct timespec pause = { .tv_nsec = SLABS_PIECE_LOOK_NS };
	uint8_t state = SLAB_PIECE_NEW;

	if (atomic_compare_exchange_strong(&slab->pieces[piece], &state, SLAB_PIECE_MAKING)) {
		kvci_map_make_huge(&slab->budget, slab->base + piece * SLABS_PIECE_BYTES, SLABS_PIECE_BYTES);
		atomic_store(&slab->pieces[piece], SLAB_PIECE_MADE);
		return;
	}
	for (unsigned i = 0; i < SLABS_PIECE_LOOKS && wait && atomic_load(&slab->pieces[piece]) == SLAB_PIECE_MAKING; i++)
		nanosleep(&pause, NULL);
}

void slabs_make(struct slab *slab, uint64_t offset_bytes, uint64_t length_bytes)
{
	uint64_t count = slab->pieces != NULL ? slab->bytes / SLABS_PIECE_BYTES : 0;

	for (uint64_t piece = offset_bytes / SLABS_PIECE_BYTES; piece < count && piece * SLABS_PIECE_BYTES < offset_bytes + length_bytes; piece++)
		if (atomic_load_explicit(&slab->pieces[piece], memory_order_relaxed) != SLAB_PIECE_MADE)
			slabs_make_piece(slab, piece, true);
}

/* ---- the pager ---- */

static struct slab *slabs_next_job(struct kvc_client *client)
{
	for (struct slab *slab = client->slabs; slab != NULL; slab = slab->next) {
		if (slab->dead && slab->users == 0)
			return slab;
		if (!slab->dead && slab->base != NULL && !slab->populated)
			return slab;
	}
	return NULL;
}

static void slabs_unlink(struct kvc_client *client, struct slab *slab)
{
	struct slab **link = &client->slabs;

	while (*link != slab)
		link = &(*link)->next;
	*link = slab->next;
}

/* The lock is held, and let go while the kernel works. */
static void slabs_populate(struct kvc_client *client, struct slab *slab)
{
	int advice = slab->writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	slab->populated = true;
	slab->users++;
	for (uint64_t at = 0; at < slab->bytes && !client->closing && !slab->dead; at += SLABS_STEP_BYTES) {
		uint64_t left = slab->bytes - at, step = left < SLABS_STEP_BYTES ? left : SLABS_STEP_BYTES;
		int failure;

		client_unlock(client);
		if (slab->pieces != NULL && at % SLABS_PIECE_BYTES == 0 && left >= SLABS_PIECE_BYTES)
			slabs_make_piece(slab, at / SLABS_PIECE_BYTES, false);
		failure = madvise(slab->base + at, step, advice) == 0 ? 0 : errno;
		client_lock(client);
		if (failure != 0) /* an old kernel, or no memory: pages come when they are touched */
			break;
	}
	slab->users--;
}

static void slabs_unmap(struct kvc_client *client, struct slab *slab)
{
	slabs_unlink(client, slab);
	client_unlock(client);
	/* In steps first: one long munmap would hold that lock all the while. */
	for (uint64_t at = 0; slab->base != NULL && at < slab->bytes; at += SLABS_STEP_BYTES)
		madvise(slab->base + at, slab->bytes - at < SLABS_STEP_BYTES ? slab->bytes - at : SLABS_STEP_BYTES, MADV_DONTNEED);
	if (slab->base != NULL)
		munmap(slab->base, slab->bytes);
	slabs_free(slab);
	client_lock(client);
}

static void *slabs_pager(void *context)
{
	struct kvc_client *client = context;

	/* On Linux this is the thread's priority alone. */
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), SLABS_PAGER_NICE);
	client_lock(client);
	while (!client->closing) {
		struct slab *slab = slabs_next_job(client);

		if (slab == NULL)
			pthread_cond_wait(&client->pager_wake, &client->lock);
		else if (slab->dead)
			slabs_unmap(client, slab);
		else
			slabs_populate(client, slab);
	}
	client_unlock(client);
	return NULL;
}

/* Without it everything works, slower. */
static void slabs_start_pager(struct kvc_client *client)
{
	sigset_t all, before;

	if (client->pager_runs || client->closing)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	client->pager_runs = pthread_create(&client->pager, NULL, slabs_pager, client) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (client->pager_runs)
		pthread_setname_np(client->pager, "kvc-pager");
}

void slabs_stop(struct kvc_client *client)
{
	if (!client->pager_runs)
		return;
	pthread_cond_signal(&client->pager_wake);
	client_unlock(client);
	pthread_join(client->pager, NULL);
	client_lock(client);
	client->pager_runs = false;
}

/* ---- mappings ---- */

/* A slab that could shrink under us would kill the process at the next access. A store slab gets its seals after it is mapped. */
static kvc_status_t slabs_check_fd(int fd, uint64_t bytes, bool writable)
{
	struct stat file;
	int seals = fcntl(fd, F_GET_SEALS);

	if (bytes == 0 || bytes % KVCI_RECORD_ALIGN_BYTES != 0 || fstat(fd, &file) != 0 || (uint64_t)file.st_size < bytes)
		return KVC_PROTOCOL;
	if (!writable && (seals < 0 || (seals & F_SEAL_SHRINK) == 0))
		return KVC_PROTOCOL;
	return KVC_OK;
}

static struct slab *slabs_add(struct kvc_client *client, uint32_t id)
{
	struct slab *slab = kvci_alloc_zero(1, sizeof(*slab));

	client->stats.allocations++;
	if (slab == NULL)
		return NULL;
	slab->id = id;
	slab->next = client->slabs;
	client->slabs = slab;
	return slab;
}

static kvc_status_t slabs_map_fd(struct kvc_client *client, struct slab *slab, uint64_t bytes, int fd, bool writable)
{
	kvc_status_t status = slabs_check_fd(fd, bytes, writable);
	void *base;

	if (status != KVC_OK)
		return status;
	status = kvci_map_shared(fd, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, &base);
	client->stats.syscalls += 7;
	if (status != KVC_OK)
		return KVC_NO_SPACE;
	/* A child would keep the daemon's memory alive, and could write it. */
	if (madvise(base, bytes, MADV_DONTFORK) != 0) {
		munmap(base, bytes);
		return KVC_NO_SPACE;
	}
	slab->base = base;
	slab->bytes = bytes;
	slab->writable = writable;
	slabs_start_pager(client);
	if (client->pager_runs)
		pthread_cond_signal(&client->pager_wake);
	return KVC_OK;
}

kvc_status_t slabs_map(struct kvc_client *client, uint32_t id, uint64_t bytes, int fd, bool writable, struct slab **ret_slab)
{
	struct slab *slab = slabs_add(client, id);
	kvc_status_t status;

	if (slab == NULL)
		return KVC_NO_MEMORY;
	status = slabs_map_fd(client, slab, bytes, fd, writable);
	if (status != KVC_OK) {
		slabs_unlink(client, slab);
		slabs_free(slab);
		return status;
	}
	*ret_slab = slab;
	return KVC_OK;
}

static void slabs_drop(struct kvc_client *client, struct slab *slab)
{
	slab->dead = true;
	if (slab->users > 0)
		return;
	if (client->pager_runs && !client->closing) {
		pthread_cond_signal(&client->pager_wake);
		return;
	}
	slabs_unlink(client, slab);
	if (slab->base != NULL)
		munmap(slab->base, slab->bytes);
	slabs_free(slab);
}

void slabs_put(struct kvc_client *client, struct slab *slab)
{
	slab->users--;
	if (slab->dead)
		slabs_drop(client, slab);
}

void slabs_gone(struct kvc_client *client, uint32_t id)
{
	struct slab *slab = slabs_find(client, id);

	if (slab != NULL && !slab->asked)
		slabs_drop(client, slab);
}

void slabs_kill_all(struct kvc_client *client)
{
	struct slab *next;

	for (struct slab *slab = client->slabs; slab != NULL; slab = next) {
		next = slab->next;
		slab->asked = false;
		if (!slab->dead || client->closing)
			slabs_drop(client, slab);
	}
}

static void slabs_got(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	uint32_t id = (uint32_t)call->context;
	struct slab *slab = slabs_find(client, id);
	kvc_status_t status = answer->status;
	struct kvc_op *next;

	if (slab == NULL || !slab->asked)
		return;
	slab->asked = false;
	if (status == KVC_OK)
		status = *fd < 0 ? KVC_PROTOCOL : slabs_map_fd(client, slab, answer->b, *fd, false);
	if (status == KVC_PROTOCOL)
		connect_protest(client, "a slab that is none");
	if (status != KVC_OK)
		slabs_drop(client, slab);
	for (struct kvc_op *op = client->ops; op != NULL; op = next) {
		next = op->next;
		if (op->kind == &load_kind)
			load_slab(op, id, status);
		op_settle(op);
	}
}

kvc_status_t slabs_ask(struct kvc_client *client, uint32_t id)
{
	struct slab *slab = slabs_find(client, id);
	struct kvci_message message;
	struct call *call;
	kvc_status_t status;

	if (slab != NULL)
		return KVC_OK;
	slab = slabs_add(client, id);
	if (slab == NULL)
		return KVC_NO_MEMORY;
	status = connect_call(client, NULL, KVCI_MESSAGE_SLAB_GET, 0, slabs_got, &call, &message);
	if (status != KVC_OK) {
		slabs_drop(client, slab);
		return status;
	}
	slab->asked = true;
	call->context = id;
	message.a = id;
	connect_send(client, &message);
	return KVC_OK;
}
