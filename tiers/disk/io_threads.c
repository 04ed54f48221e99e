/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine without io_uring: a thread a transfer in flight, at most IO_THREADS_MAX, each in preadv2 or pwritev2; and IO_THREADS_SPARE more, since what was
 * read is checked by the thread that read it, while the device is to have its full depth.
 * A wake-up costs more than all else here. So a thread is woken only when something may start that nobody will take: who has written takes the next
 * one itself, as ending a write is short, and whoever takes one and sees more wakes the next thread. */
#include "tiers/disk/disk_io.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { IO_THREADS_MAX = 16, IO_THREADS_SPARE = 2 };

struct io_threads {
	struct kvci_disk_io io; /* first */
	struct kvci_disk_queue queue;
	pthread_cond_t wake;
	bool stopping; /* under queue.lock */
	uint32_t thread_count;
	pthread_t threads[IO_THREADS_MAX + IO_THREADS_SPARE];
};

static void threads_transfer(struct kvci_disk_task *task)
{
	for (;;) {
		ssize_t moved = task->write ?
			pwritev2(task->fd, task->parts, (int)task->part_count, (off_t)task->offset_bytes, 0) :
			preadv2(task->fd, task->parts, (int)task->part_count, (off_t)task->offset_bytes, 0);

		if (moved < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (moved < 0) {
			task->error = (uint32_t)errno;
			return;
		}
		if (moved == 0) {
			task->error = task->write ? EIO : ENODATA;
			return;
		}
		if (kvci_disk_task_advance(task, (uint64_t)moved))
			return;
	}
}

/* The lock is held. */
static void threads_wake(struct io_threads *io)
{
	if (kvci_disk_queue_ready(&io->queue))
		pthread_cond_signal(&io->wake);
}

static void *threads_main(void *context)
{
	struct io_threads *io = context;
	struct kvci_disk_task *task;

	pthread_mutex_lock(&io->queue.lock);
	for (;;) {
		while ((task = kvci_disk_queue_take(&io->queue)) == NULL && !io->stopping)
			pthread_cond_wait(&io->wake, &io->queue.lock);
		if (task == NULL)
			break;
		threads_wake(io);
		pthread_mutex_unlock(&io->queue.lock);
		threads_transfer(task);
		pthread_mutex_lock(&io->queue.lock);
		kvci_disk_queue_finish(&io->queue, task);
		if (!task->write) /* checking takes a while, and its place in the depth is free */
			threads_wake(io);
		pthread_mutex_unlock(&io->queue.lock);
		task->complete(task);
		pthread_mutex_lock(&io->queue.lock);
	}
	pthread_mutex_unlock(&io->queue.lock);
	return NULL;
}

static void threads_submit(struct kvci_disk_io *base, struct kvci_disk_task *task)
{
	struct io_threads *io = (struct io_threads *)base;

	pthread_mutex_lock(&io->queue.lock);
	kvci_disk_queue_push(&io->queue, task);
	threads_wake(io);
	pthread_mutex_unlock(&io->queue.lock);
}

static kvc_status_t threads_register(struct kvci_disk_io *io, void *base, size_t length_bytes)
{
	return KVC_UNSUPPORTED;
}

static void threads_unregister(struct kvci_disk_io *io, void *base, size_t length_bytes)
{
}

static void threads_destroy(struct kvci_disk_io *base)
{
	struct io_threads *io = (struct io_threads *)base;
	struct kvci_disk_task *task, *next;

	pthread_mutex_lock(&io->queue.lock);
	io->stopping = true;
	task = kvci_disk_queue_cut(&io->queue);
	pthread_cond_broadcast(&io->wake);
	pthread_mutex_unlock(&io->queue.lock);
	for (; task != NULL; task = next) {
		next = task->next;
		task->error = ECANCELED;
		task->complete(task);
	}
	for (uint32_t i = 0; i < io->thread_count; i++)
		pthread_join(io->threads[i], NULL);
	pthread_cond_destroy(&io->wake);
	kvci_disk_queue_fini(&io->queue);
	kvci_free(io);
}

static const struct kvci_disk_io_ops io_threads_ops = {
	.name = "threads",
	.few_threads = false,
	.submit = threads_submit,
	.register_memory = threads_register,
	.unregister_memory = threads_unregister,
	.destroy = threads_destroy,
};

kvc_status_t kvci_disk_io_threads_create(uint32_t depth, struct kvci_disk_io **ret_io)
{
	struct io_threads *io = kvci_alloc_zero(1, sizeof(*io));
	uint32_t count = depth < IO_THREADS_MAX ? depth : IO_THREADS_MAX;
	sigset_t all, before;

	if (io == NULL)
		return KVC_NO_MEMORY;
	io->io.ops = &io_threads_ops;
	kvci_disk_queue_init(&io->queue, count, false);
	count += IO_THREADS_SPARE;
	pthread_cond_init(&io->wake, NULL);
	sigfillset(&all); /* signals are the owner's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (io->thread_count < count &&
	       pthread_create(&io->threads[io->thread_count], NULL, threads_main, io) == 0) {
		char name[16];

		snprintf(name, sizeof(name), "disk-io/%u", io->thread_count);
		pthread_setname_np(io->threads[io->thread_count++], name);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (io->thread_count < count) {
		threads_destroy(&io->io);
		return KVC_NO_MEMORY;
	}
	*ret_io = &io->io;
	return KVC_OK;
}
