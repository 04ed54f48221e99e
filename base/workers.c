/* SPDX-License-Identifier: Apache-2.0
 * Worker threads and the mailbox. The queue of jobs is a list under one lock (jobs are large against it); the mailbox is
 * a lock-free stack that the owner takes whole and turns round, so that posting never waits for the owner. */
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"

struct kvci_mailbox {
	_Atomic(struct kvci_job *) posted; /* newest first */
	struct kvci_job *taken;            /* oldest first; the owner's */
	int fd;
};

kvc_status_t kvci_mailbox_create(struct kvci_mailbox **ret_mailbox)
{
	struct kvci_mailbox *mailbox = kvci_alloc_zero(1, sizeof(*mailbox));

	if (mailbox == NULL)
		return KVC_NO_MEMORY;
	mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mailbox->fd < 0) {
		kvci_free(mailbox);
		return kvc_status_from_errno(errno);
	}
	*ret_mailbox = mailbox;
	return KVC_OK;
}

void kvci_mailbox_destroy(struct kvci_mailbox *mailbox)
{
	if (mailbox == NULL)
		return;
	close(mailbox->fd);
	kvci_free(mailbox);
}

int kvci_mailbox_fd(const struct kvci_mailbox *mailbox)
{
	return mailbox->fd;
}

static void mailbox_ring(struct kvci_mailbox *mailbox)
{
	uint64_t one = 1;

	/* Fails only when the count is at its end, and then the fd is readable anyway. */
	if (write(mailbox->fd, &one, sizeof(one)) < 0)
		return;
}

void kvci_mailbox_post(struct kvci_mailbox *mailbox, struct kvci_job *job)
{
	struct kvci_job *head = atomic_load_explicit(&mailbox->posted, memory_order_relaxed);

	do {
		job->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&mailbox->posted, &head, job, memory_order_acq_rel,
	                                                memory_order_relaxed));
	/* The job is the owner's from here on. Whoever found the mailbox empty rings; the rest ride along. */
	if (head == NULL)
		mailbox_ring(mailbox);
}

/* Takes what was posted, oldest first, when all that was taken before has run. */
static void mailbox_take(struct kvci_mailbox *mailbox)
{
	struct kvci_job *job = atomic_exchange_explicit(&mailbox->posted, NULL, memory_order_acquire);

	while (job != NULL) {
		struct kvci_job *next = job->next;

		job->next = mailbox->taken;
		mailbox->taken = job;
		job = next;
	}
}

unsigned kvci_mailbox_drain(struct kvci_mailbox *mailbox, unsigned max_jobs)
{
	uint64_t rings;
	unsigned ran = 0;

	/* Silence first, then take: a post in between rings again, at worst for nothing. */
	if (read(mailbox->fd, &rings, sizeof(rings)) < 0)
		rings = 0;
	if (mailbox->taken == NULL)
		mailbox_take(mailbox);
	while (ran < max_jobs && mailbox->taken != NULL) {
		struct kvci_job *job = mailbox->taken;

		mailbox->taken = job->next;
		job->next = NULL;
		ran++;
		job->done(job);
		if (mailbox->taken == NULL && ran < max_jobs)
			mailbox_take(mailbox);
	}
	if (mailbox->taken != NULL || atomic_load_explicit(&mailbox->posted, memory_order_relaxed) != NULL)
		mailbox_ring(mailbox);
	return ran;
}

struct kvci_workers {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct kvci_job *first, **end; /* under lock */
	bool stopping;                 /* under lock */
	unsigned thread_count;         /* that were started */
	pthread_t threads[];
};

/* Queued work before stopping: destroy runs what is queued. NULL: nothing left. */
static struct kvci_job *workers_next(struct kvci_workers *workers)
{
	struct kvci_job *job;

	pthread_mutex_lock(&workers->lock);
	while (workers->first == NULL && !workers->stopping)
		pthread_cond_wait(&workers->wake, &workers->lock);
	job = workers->first;
	if (job != NULL) {
		workers->first = job->next;
		if (workers->first == NULL)
			workers->end = &workers->first;
		job->next = NULL;
	}
	pthread_mutex_unlock(&workers->lock);
	return job;
}

static void *workers_main(void *context)
{
	struct kvci_workers *workers = context;
	struct kvci_job *job;

	while ((job = workers_next(workers)) != NULL) {
		/* Read before run: a job without a mailbox may be gone after it. */
		struct kvci_mailbox *mailbox = job->mailbox;

		if (job->run != NULL)
			job->run(job);
		if (mailbox != NULL)
			kvci_mailbox_post(mailbox, job);
	}
	return NULL;
}

kvc_status_t kvci_workers_create(const char *name, unsigned thread_count, struct kvci_workers **ret_workers)
{
	struct kvci_workers *workers;
	sigset_t all, before;
	char thread_name[16];

	if (thread_count == 0 || thread_count > 1024)
		return KVC_INVALID;
	workers = kvci_alloc_zero(1, sizeof(*workers) + thread_count * sizeof(workers->threads[0]));
	if (workers == NULL)
		return KVC_NO_MEMORY;
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->wake, NULL);
	workers->end = &workers->first;

	sigfillset(&all); /* signals are the owner's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (workers->thread_count < thread_count) {
		pthread_t *thread = &workers->threads[workers->thread_count];

		if (pthread_create(thread, NULL, workers_main, workers) != 0)
			break;
		snprintf(thread_name, sizeof(thread_name), "%.10s/%u", name, workers->thread_count);
		pthread_setname_np(*thread, thread_name);
		workers->thread_count++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (workers->thread_count < thread_count) {
		kvci_workers_destroy(workers);
		return KVC_NO_MEMORY;
	}
	*ret_workers = workers;
	return KVC_OK;
}

void kvci_workers_destroy(struct kvci_workers *workers)
{
	if (workers == NULL)
		return;
	pthread_mutex_lock(&workers->lock);
	workers->stopping = true;
	pthread_cond_broadcast(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
	for (unsigned i = 0; i < workers->thread_count; i++)
		pthread_join(workers->threads[i], NULL);
	pthread_cond_destroy(&workers->wake);
	pthread_mutex_destroy(&workers->lock);
	kvci_free(workers);
}

void kvci_workers_submit(struct kvci_workers *workers, struct kvci_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&workers->lock);
	*workers->end = job;
	workers->end = &job->next;
	pthread_cond_signal(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
}
