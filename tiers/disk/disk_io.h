/* SPDX-License-Identifier: Apache-2.0
 *
 * How the disk tier drives its device: one interface, two engines. `uring` is one thread that owns an io_uring; `threads` is a
 * pool of threads in preadv2/pwritev2, for kernels and containers that forbid io_uring. Both take tasks from one queue in which
 * reads stand before writes, and writes never hold all of the depth, so that a slow write-behind does not stop the reads.
 * Partial transfers, EINTR and EAGAIN are the engine's to go on with.
 *
 * Threads: submit, register and unregister on the owner thread; complete() runs on a thread of the engine.
 */
#ifndef KVCI_DISK_IO_H
#define KVCI_DISK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <kvcask/status.h>

/* One transfer. Embedded in its owner's object, the engine's until complete(). */
struct kvci_disk_task {
	int fd;
	bool write;
	uint64_t offset_bytes;
	struct iovec parts[2]; /* the engine moves them on as bytes arrive */
	uint32_t part_count;
	uint32_t error;        /* out: errno, 0: all bytes moved. ENODATA: the file ends before */
	uint64_t left_bytes;
	void (*complete)(struct kvci_disk_task *task);
	struct kvci_disk_task *next;
	int32_t region;        /* registered buffer in use, -1: none */
	/* A write whose two parts are under way as two transfers: how many of them, and where the second one goes. */
	uint32_t halves;
	uint64_t second_offset_bytes;
};

struct kvci_disk_io; /* each engine's struct begins with this */

struct kvci_disk_io_ops {
	const char *name;
	/* The engine's threads are few and must not be held up by checking what was read. */
	bool few_threads;
	void (*submit)(struct kvci_disk_io *io, struct kvci_disk_task *task);
	/* Registration goes on in the background; requests in not (yet) registered memory work all the same. */
	kvc_status_t (*register_memory)(struct kvci_disk_io *io, void *base, size_t length_bytes);
	void (*unregister_memory)(struct kvci_disk_io *io, void *base, size_t length_bytes);
	/* Waits for what the device has; what it has not got completes with ECANCELED. */
	void (*destroy)(struct kvci_disk_io *io);
};

struct kvci_disk_io {
	const struct kvci_disk_io_ops *ops;
};

enum kvci_disk_register { KVCI_DISK_REGISTER_AUTO, KVCI_DISK_REGISTER_ON, KVCI_DISK_REGISTER_OFF };

kvc_status_t kvci_disk_io_threads_create(uint32_t depth, struct kvci_disk_io **ret_io);
/* UNSUPPORTED when the kernel has no io_uring, or forbids it. */
kvc_status_t kvci_disk_io_uring_create(uint32_t depth, enum kvci_disk_register registering, struct kvci_disk_io **ret_io);

/* ---- the queue that both share ---- */

#include <pthread.h>

struct kvci_disk_queue {
	pthread_mutex_t lock;
	struct kvci_disk_task *first[2], **end[2]; /* reads, writes */
	uint32_t active[2];                        /* given out, not finished */
	uint32_t depth, write_depth;
	/* Writes start several at a time: once write_depth are active, none until no more than write_low are. */
	uint32_t write_low;
	bool write_full;
};

/* grouped: writes are to start several at a time, which suits an engine whose one thread takes all that may start. */
void kvci_disk_queue_init(struct kvci_disk_queue *queue, uint32_t depth, bool grouped);
void kvci_disk_queue_fini(struct kvci_disk_queue *queue);
/* These want the lock held. take: NULL when nothing may start now. */
void kvci_disk_queue_push(struct kvci_disk_queue *queue, struct kvci_disk_task *task);
struct kvci_disk_task *kvci_disk_queue_take(struct kvci_disk_queue *queue);
/* Would take give something out? */
bool kvci_disk_queue_ready(const struct kvci_disk_queue *queue);
void kvci_disk_queue_finish(struct kvci_disk_queue *queue, const struct kvci_disk_task *task);
/* Takes what was never started, as one list. */
struct kvci_disk_task *kvci_disk_queue_cut(struct kvci_disk_queue *queue);

/* Moves the task's parts on by `bytes`. True: done. */
bool kvci_disk_task_advance(struct kvci_disk_task *task, uint64_t bytes);

#endif
