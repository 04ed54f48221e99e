/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool of threads for work that must not run on the owner thread (checksums, codecs, RocksDB, prefault), and the
 * mailbox by which results come back: jobs run on any worker, their `done` runs on the thread that calls
 * kvci_mailbox_drain (the owner). Jobs are embedded in their owner's object: nothing is allocated.
 * Queue bound: the submitter's (each submitter bounds what it has in flight).
 */
#ifndef KVCI_WORKERS_H
#define KVCI_WORKERS_H

#include <kvcask/status.h>

struct kvci_mailbox;
struct kvci_workers;

struct kvci_job {
	void (*run)(struct kvci_job *job);  /* on a worker; NULL: only posted */
	void (*done)(struct kvci_job *job); /* on the owner's thread; the job may be freed or reused in it */
	struct kvci_job *next;
	struct kvci_mailbox *mailbox;
};

/* Mailbox: multi-producer, one consumer; its fd (eventfd) is readable while something waits. */
kvc_status_t kvci_mailbox_create(struct kvci_mailbox **ret_mailbox);
/* After every poster has returned (workers destroyed, threads joined) and what waits was drained. */
void kvci_mailbox_destroy(struct kvci_mailbox *mailbox);
int kvci_mailbox_fd(const struct kvci_mailbox *mailbox);
void kvci_mailbox_post(struct kvci_mailbox *mailbox, struct kvci_job *job); /* any thread */
/* Owner: runs `done` of what waits, at most max_jobs; returns how many ran. The fd stays readable when more waits; it
 * may ring once for nothing. */
unsigned kvci_mailbox_drain(struct kvci_mailbox *mailbox, unsigned max_jobs);

kvc_status_t kvci_workers_create(const char *name, unsigned thread_count, struct kvci_workers **ret_workers);
/* Runs what is queued, then joins. */
void kvci_workers_destroy(struct kvci_workers *workers);
/* After run() on a worker the job goes to job->mailbox. Any thread. */
void kvci_workers_submit(struct kvci_workers *workers, struct kvci_job *job);

#endif
