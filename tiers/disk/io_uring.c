/* SPDX-License-Identifier: Apache-2.0
 *
 * The io_uring engine: one thread owns the ring, takes tasks from the queue, and hands completions on. Submitting 32 MiB means
 * looking up 8,192 pages, which is why it does not happen on the owner thread. An eventfd read that always stands in the ring
 * wakes the thread for new tasks.
 *
 * Registered memory is cut into regions of at most URING_REGION_BYTES, one kernel slot each. Pinning them takes the kernel tens of
 * milliseconds, so a worker does it; a transfer uses a region only when it lies in it whole and the kernel has taken it. A write
 * comes in two parts, the copy of the header and the rest: where the rest is long and lies in a region, they go as two transfers, since looking up
 * the pages of the rest would cost far more than the small one does. Nothing depends on their order: what a kill leaves of a record does
 * not pass its checks.
 */
#include "tiers/disk/disk_io.h"

#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/workers.h"

enum {
	URING_REGIONS_MAX = 1024,
	URING_REGION_BYTES = 256 << 20,
	URING_PART_BYTES_MAX = 1 << 30, /* a single transfer's length is an int in the kernel */
	URING_HALVES_BYTES_MIN = 512 << 10,
};

/* In a transfer's user data, beside the task: it is the second half. */
#define URING_SECOND UINT64_C(1)

enum uring_region_state { URING_REGION_IDLE, URING_REGION_PINNING, URING_REGION_READY, URING_REGION_DYING };

struct uring_region {
	struct kvci_job job; /* first: the worker's */
	struct io_uring_engine *engine;
	_Atomic uintptr_t base;
	size_t length_bytes;
	_Atomic int state;
};

struct io_uring_engine {
	struct kvci_disk_io io; /* first */
	struct kvci_disk_queue queue;
	struct io_uring ring;
	pthread_t thread;
	int wake_fd;
	uint64_t wake_value;    /* where the ring reads the eventfd to */
	bool wake_armed;        /* the thread's */
	uint32_t in_flight;     /* the thread's; without the wake */
	bool asleep, stopping;  /* under queue.lock */
	bool ring_ready, thread_ready;
	enum kvci_disk_register registering;
	bool refused;           /* the owner's: the kernel takes no buffers */
	struct kvci_workers *workers;
	pthread_mutex_t regions_lock;
	uint32_t region_count;  /* slots ever used */
	struct uring_region *regions;
};

static struct io_uring_engine *uring_of(struct kvci_disk_io *io)
{
	return (struct io_uring_engine *)io;
}

static void uring_wake(struct io_uring_engine *engine)
{
	uint64_t one = 1;

	if (write(engine->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: it will wake anyway */
}

/* The slot of the region that holds the whole part, -1 for none. */
static int32_t uring_region_of(struct io_uring_engine *engine, const struct iovec *part)
{
	uintptr_t start = (uintptr_t)part->iov_base;
	uint32_t count = __atomic_load_n(&engine->region_count, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < count; i++) {
		struct uring_region *region = &engine->regions[i];
		uintptr_t base;

		if (atomic_load_explicit(&region->state, memory_order_acquire) != URING_REGION_READY)
			continue;
		base = atomic_load_explicit(&region->base, memory_order_relaxed);
		if (start >= base && part->iov_len <= region->length_bytes && start - base <= region->length_bytes - part->iov_len)
			return (int32_t)i;
	}
	return -1;
}

static unsigned uring_length(const struct iovec *part)
{
	return (unsigned)(part->iov_len < URING_PART_BYTES_MAX ? part->iov_len : URING_PART_BYTES_MAX);
}

/* Never NULL: the ring is larger than all that can be under way. */
static struct io_uring_sqe *uring_sqe(struct io_uring_engine *engine)
{
	engine->in_flight++;
	return io_uring_get_sqe(&engine->ring);
}

static void uring_prepare_half(struct io_uring_engine *engine, struct kvci_disk_task *task, bool second)
{
	struct io_uring_sqe *sqe = uring_sqe(engine);
	struct iovec *part = &task->parts[second];
	uint64_t offset_bytes = second ? task->second_offset_bytes : task->offset_bytes;

	if (second && task->region >= 0)
		io_uring_prep_write_fixed(sqe, task->fd, part->iov_base, uring_length(part), offset_bytes, task->region);
	else
		io_uring_prep_write(sqe, task->fd, part->iov_base, uring_length(part), offset_bytes);
	sqe->user_data = (uint64_t)(uintptr_t)task | (second ? URING_SECOND : 0);
}

/* A write that gains from it goes in halves. */
static bool uring_halve(struct io_uring_engine *engine, struct kvci_disk_task *task)
{
	if (!task->write || task->part_count != 2 || task->parts[1].iov_len < URING_HALVES_BYTES_MIN)
		return false;
	task->region = uring_region_of(engine, &task->parts[1]);
	if (task->region < 0)
		return false;
	task->second_offset_bytes = task->offset_bytes + task->parts[0].iov_len;
	task->halves = 2;
	uring_prepare_half(engine, task, false);
	uring_prepare_half(engine, task, true);
	return true;
}

static void uring_prepare(struct io_uring_engine *engine, struct kvci_disk_task *task, bool plain)
{
	struct iovec *part = &task->parts[0];
	struct io_uring_sqe *sqe;

	if (uring_halve(engine, task))
		return;
	sqe = uring_sqe(engine);
	task->region = !plain && !task->write && task->part_count == 1 ? uring_region_of(engine, part) : -1;
	if (task->region >= 0)
		io_uring_prep_read_fixed(sqe, task->fd, part->iov_base, uring_length(part), task->offset_bytes, task->region);
	else if (task->part_count == 1 && task->write)
		io_uring_prep_write(sqe, task->fd, part->iov_base, uring_length(part), task->offset_bytes);
	else if (task->part_count == 1)
		io_uring_prep_read(sqe, task->fd, part->iov_base, uring_length(part), task->offset_bytes);
	else if (task->write)
		io_uring_prep_writev(sqe, task->fd, task->parts, task->part_count, task->offset_bytes);
	else
		io_uring_prep_readv(sqe, task->fd, task->parts, task->part_count, task->offset_bytes);
	sqe->user_data = (uint64_t)(uintptr_t)task;
}

static void uring_finish(struct io_uring_engine *engine, struct kvci_disk_task *task)
{
	pthread_mutex_lock(&engine->queue.lock);
	kvci_disk_queue_finish(&engine->queue, task);
	engine->asleep = false; /* before it sleeps it looks into the queue */
	pthread_mutex_unlock(&engine->queue.lock);
	task->complete(task);
}

/* True: the half is over, moved or failed. */
static bool uring_half_moved(struct kvci_disk_task *task, bool second, int result)
{
	struct iovec *part = &task->parts[second];

	if (result == -EINTR || result == -EAGAIN)
		return false;
	if (result == -EFAULT && second && task->region >= 0) {
		task->region = -1; /* the kernel does not know the region: once more without */
		return false;
	}
	if (result <= 0) {
		task->error = result < 0 ? (uint32_t)-result : EIO;
		return true;
	}
	part->iov_base = (char *)part->iov_base + result;
	part->iov_len -= (size_t)result;
	*(second ? &task->second_offset_bytes : &task->offset_bytes) += (uint64_t)result;
	return part->iov_len == 0;
}

static void uring_half_completed(struct io_uring_engine *engine, struct kvci_disk_task *task, bool second, int result)
{
	if (!uring_half_moved(task, second, result))
		uring_prepare_half(engine, task, second);
	else if (--task->halves == 0)
		uring_finish(engine, task);
}

static void uring_completed(struct io_uring_engine *engine, uint64_t user_data, int result)
{
	struct kvci_disk_task *task = (struct kvci_disk_task *)(uintptr_t)(user_data & ~URING_SECOND);

	engine->in_flight--;
	if (task->halves != 0) {
		uring_half_completed(engine, task, (user_data & URING_SECOND) != 0, result);
		return;
	}
	if (result == -EINTR || result == -EAGAIN) {
		uring_prepare(engine, task, false);
	} else if (result == -EFAULT && task->region >= 0) {
		uring_prepare(engine, task, true); /* the kernel does not know the region: once more without */
	} else if (result < 0) {
		task->error = (uint32_t)-result;
		uring_finish(engine, task);
	} else if (result == 0) {
		task->error = task->write ? EIO : ENODATA;
		uring_finish(engine, task);
	} else if (kvci_disk_task_advance(task, (uint64_t)result)) {
		uring_finish(engine, task);
	} else {
		uring_prepare(engine, task, false);
	}
}

/* Fills the ring. False: stopping, and nothing is left. */
static bool uring_fill(struct io_uring_engine *engine)
{
	struct kvci_disk_task *task;
	bool stopping;

	if (!engine->wake_armed) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&engine->ring);

		io_uring_prep_read(sqe, engine->wake_fd, &engine->wake_value, sizeof(engine->wake_value), 0);
		sqe->user_data = 0;
		engine->wake_armed = true;
	}
	pthread_mutex_lock(&engine->queue.lock);
	while ((task = kvci_disk_queue_take(&engine->queue)) != NULL) {
		pthread_mutex_unlock(&engine->queue.lock);
		uring_prepare(engine, task, false);
		pthread_mutex_lock(&engine->queue.lock);
	}
	stopping = engine->stopping;
	engine->asleep = true; /* whoever pushes from here on rings */
	pthread_mutex_unlock(&engine->queue.lock);
	return !stopping || engine->in_flight != 0;
}

static void *uring_main(void *context)
{
	struct io_uring_engine *engine = context;

	while (uring_fill(engine)) {
		struct io_uring_cqe *cqe;
		int result = io_uring_submit_and_wait(&engine->ring, 1);

		if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
			KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "disk", "io_uring: %s", strerror(-result));
		while (io_uring_peek_cqe(&engine->ring, &cqe) == 0) {
			uint64_t user_data = cqe->user_data;
			int moved = cqe->res;

			io_uring_cqe_seen(&engine->ring, cqe);
			if (user_data == 0)
				engine->wake_armed = false;
			else
				uring_completed(engine, user_data, moved);
		}
	}
	return NULL;
}

static void uring_submit(struct kvci_disk_io *io, struct kvci_disk_task *task)
{
	struct io_uring_engine *engine = uring_of(io);
	bool ring;

	pthread_mutex_lock(&engine->queue.lock);
	kvci_disk_queue_push(&engine->queue, task);
	/* What cannot start yet is taken when something ends. */
	ring = engine->asleep && kvci_disk_queue_ready(&engine->queue);
	if (ring)
		engine->asleep = false;
	pthread_mutex_unlock(&engine->queue.lock);
	if (ring)
		uring_wake(engine);
}

/* ---- registered memory ---- */

static int uring_slot_set(struct io_uring_engine *engine, uint32_t slot, void *base, size_t length_bytes)
{
	struct iovec part = {.iov_base = base, .iov_len = length_bytes};
	__u64 tag = 0;
	int result = io_uring_register_buffers_update_tag(&engine->ring, slot, &part, &tag, 1);

	return result < 0 ? result : 0;
}

/* On the worker: pins, or lets go, or both when unregister came in between. */
static void uring_region_run(struct kvci_job *job)
{
	struct uring_region *region = (struct uring_region *)job;
	struct io_uring_engine *engine = region->engine;
	uint32_t slot = (uint32_t)(region - engine->regions);
	int pinning = URING_REGION_PINNING;
	int result = 0;

	if (atomic_load(&region->state) == URING_REGION_PINNING) {
		result = uring_slot_set(engine, slot, (void *)atomic_load(&region->base), region->length_bytes);
		if (result == 0 && atomic_compare_exchange_strong(&region->state, &pinning, URING_REGION_READY))
			return;
		if (result != 0)
			KVCI_LOG_LIMITED(engine->registering == KVCI_DISK_REGISTER_ON ? KVCI_LOG_WARN : KVCI_LOG_INFO, "disk",
			                 "memory is not registered with io_uring (%s); reads go on without", strerror(-result));
	}
	if (result == 0)
		uring_slot_set(engine, slot, NULL, 0);
	pthread_mutex_lock(&engine->regions_lock);
	atomic_store(&region->base, 0);
	atomic_store(&region->state, URING_REGION_IDLE);
	pthread_mutex_unlock(&engine->regions_lock);
}

static struct uring_region *uring_region_idle(struct io_uring_engine *engine)
{
	uint32_t count = engine->region_count;

	for (uint32_t i = 0; i < count; i++) {
		if (atomic_load(&engine->regions[i].state) == URING_REGION_IDLE)
			return &engine->regions[i];
	}
	if (count == URING_REGIONS_MAX)
		return NULL;
	__atomic_store_n(&engine->region_count, count + 1, __ATOMIC_RELEASE);
	return &engine->regions[count];
}

/* On first use: the table, its kernel twin, the worker. */
static kvc_status_t uring_regions_start(struct io_uring_engine *engine)
{
	if (engine->regions != NULL)
		return KVC_OK;
	if (engine->refused || engine->registering == KVCI_DISK_REGISTER_OFF)
		return KVC_UNSUPPORTED;
	if (io_uring_register_buffers_sparse(&engine->ring, URING_REGIONS_MAX) != 0) {
		engine->refused = true;
		return KVC_UNSUPPORTED;
	}
	if (kvci_workers_create("disk-pin", 1, &engine->workers) != KVC_OK)
		return KVC_NO_MEMORY;
	engine->regions = kvci_alloc_zero(URING_REGIONS_MAX, sizeof(engine->regions[0]));
	if (engine->regions == NULL) {
		kvci_workers_destroy(engine->workers);
		engine->workers = NULL;
		return KVC_NO_MEMORY;
	}
	return KVC_OK;
}

static kvc_status_t uring_register(struct kvci_disk_io *io, void *base, size_t length_bytes)
{
	struct io_uring_engine *engine = uring_of(io);
	kvc_status_t status = uring_regions_start(engine);

	for (size_t at = 0; status == KVC_OK && at < length_bytes; at += URING_REGION_BYTES) {
		struct uring_region *region;

		pthread_mutex_lock(&engine->regions_lock);
		region = uring_region_idle(engine);
		if (region != NULL) {
			region->engine = engine;
			region->length_bytes = length_bytes - at < URING_REGION_BYTES ? length_bytes - at : URING_REGION_BYTES;
			region->job = (struct kvci_job){.run = uring_region_run};
			atomic_store(&region->base, (uintptr_t)base + at);
			atomic_store(&region->state, URING_REGION_PINNING);
		}
		pthread_mutex_unlock(&engine->regions_lock);
		if (region == NULL)
			status = KVC_NO_SPACE;
		else
			kvci_workers_submit(engine->workers, &region->job);
	}
	return status;
}

static void uring_unregister(struct kvci_disk_io *io, void *base, size_t length_bytes)
{
	struct io_uring_engine *engine = uring_of(io);
	uintptr_t start = (uintptr_t)base;

	for (uint32_t i = 0; i < engine->region_count && engine->regions != NULL; i++) {
		struct uring_region *region = &engine->regions[i];
		uintptr_t at = atomic_load(&region->base);
		int was;

		if (at < start || at - start >= length_bytes)
			continue;
		was = atomic_exchange(&region->state, URING_REGION_DYING);
		/* While it was pinning, the worker sees the change itself. */
		if (was == URING_REGION_READY)
			kvci_workers_submit(engine->workers, &region->job);
		else if (was == URING_REGION_IDLE)
			atomic_store(&region->state, URING_REGION_IDLE);
	}
}

static void uring_destroy(struct kvci_disk_io *io)
{
	struct io_uring_engine *engine = uring_of(io);
	struct kvci_disk_task *task, *next;

	pthread_mutex_lock(&engine->queue.lock);
	engine->stopping = true;
	task = kvci_disk_queue_cut(&engine->queue);
	pthread_mutex_unlock(&engine->queue.lock);
	for (; task != NULL; task = next) {
		next = task->next;
		task->error = ECANCELED;
		task->complete(task);
	}
	if (engine->thread_ready) {
		uring_wake(engine);
		pthread_join(engine->thread, NULL);
	}
	kvci_workers_destroy(engine->workers);
	if (engine->ring_ready)
		io_uring_queue_exit(&engine->ring);
	if (engine->wake_fd >= 0)
		close(engine->wake_fd);
	pthread_mutex_destroy(&engine->regions_lock);
	kvci_disk_queue_fini(&engine->queue);
	kvci_free(engine->regions);
	kvci_free(engine);
}

static const struct kvci_disk_io_ops io_uring_ops = {
	.name = "uring",
	.few_threads = true,
	.submit = uring_submit,
	.register_memory = uring_register,
	.unregister_memory = uring_unregister,
	.destroy = uring_destroy,
};

/* The kernel may know io_uring and still not these operations. */
static bool uring_probe(struct io_uring *ring)
{
	static const int wanted[] = {IORING_OP_READ,   IORING_OP_WRITE,      IORING_OP_READV,
	                             IORING_OP_WRITEV, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED};
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool whole = probe != NULL;

	for (size_t i = 0; whole && i < sizeof(wanted) / sizeof(wanted[0]); i++)
		whole = io_uring_opcode_supported(probe, wanted[i]) != 0;
	io_uring_free_probe(probe);
	return whole;
}

/* The thread sleeps in the ring or is on its way there: no need to interrupt it for each thing that ended, where the kernel can do without (5.19). */
static int uring_queue_init(unsigned entries, struct io_uring *ring)
{
	int result = io_uring_queue_init(entries, ring, IORING_SETUP_COOP_TASKRUN);

	return result == -EINVAL ? io_uring_queue_init(entries, ring, 0) : result;
}

static kvc_status_t uring_start(struct io_uring_engine *engine)
{
	sigset_t all, before;
	int result;

	engine->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (engine->wake_fd < 0)
		return kvc_status_from_errno(errno);
	/* Room for all of the depth, in halves, and the wake, also when each comes back to be prepared again. */
	result = uring_queue_init(2 * (2 * engine->queue.depth + 1), &engine->ring);
	if (result < 0)
		return KVC_UNSUPPORTED;
	engine->ring_ready = true;
	if (!uring_probe(&engine->ring))
		return KVC_UNSUPPORTED;
	sigfillset(&all); /* signals are the owner's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	engine->thread_ready = pthread_create(&engine->thread, NULL, uring_main, engine) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!engine->thread_ready)
		return KVC_NO_MEMORY;
	pthread_setname_np(engine->thread, "disk-uring");
	return KVC_OK;
}

kvc_status_t kvci_disk_io_uring_create(uint32_t depth, enum kvci_disk_register registering, struct kvci_disk_io **ret_io)
{
	struct io_uring_engine *engine = kvci_alloc_zero(1, sizeof(*engine));
	kvc_status_t status;

	if (engine == NULL)
		return KVC_NO_MEMORY;
	engine->io.ops = &io_uring_ops;
	engine->registering = registering;
	engine->wake_fd = -1;
	pthread_mutex_init(&engine->regions_lock, NULL);
	kvci_disk_queue_init(&engine->queue, depth, true);
	status = uring_start(engine);
	if (status != KVC_OK) {
		uring_destroy(&engine->io);
		return status;
	}
	*ret_io = &engine->io;
	return KVC_OK;
}
