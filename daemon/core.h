/* SPDX-License-Identifier: Apache-2.0
 *
 * Core: one store. Loop, brain, tiers, workers, ledger and connections, made from a configuration. kvcaskd has one in its main thread, the embedded
 * library one in a thread of its own.
 *
 * Threads: create, run and destroy on one thread, the owner; stop from any (also from a signal handler).
 */
#ifndef KVCI_DAEMON_CORE_H
#define KVCI_DAEMON_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvcask/kvcask.h>
#include <kvcask/plugin/tier.h>
#include <kvcask/status.h>

#include "base/config.h"
#include "base/loop.h"
#include "base/stats.h"
#include "base/workers.h"
#include "cache/cache.h"
#include "daemon/histogram.h"
#include "daemon/ledger.h"
#include "daemon/sizes.h"
#include "tiers/memory/memory.h"

enum { KVCI_REGISTER_AUTO, KVCI_REGISTER_ON, KVCI_REGISTER_OFF }; /* disk.register */

#define KVCI_DAEMON_TEXT_OF(x) #x
#define KVCI_DAEMON_TEXT(x) KVCI_DAEMON_TEXT_OF(x)
#define KVCI_DAEMON_VERSION                                                                                                \
	KVCI_DAEMON_TEXT(KVC_VERSION_MAJOR) "." KVCI_DAEMON_TEXT(KVC_VERSION_MINOR) "." KVCI_DAEMON_TEXT(KVC_VERSION_PATCH)

struct kvci_server;
struct kvci_http;
struct kvci_verify;
struct kvci_coding;
struct kvci_recode;

/* What other threads may read: refreshed by the owner. */
struct kvci_core_face {
	_Atomic uint32_t ready;       /* the index is complete and the disk healthy (or there is none) */
	_Atomic uint32_t index_loading;
	_Atomic int32_t disk_health;  /* kvc_status_t */
};

struct kvci_core {
	const struct kvci_config *config; /* the caller's, for the life of the core */
	struct kvci_sizes sizes;
	struct kvci_stats stats;
	struct kvci_latencies latencies;
	struct kvci_core_face face;
	uint64_t started_ns;

	struct kvci_loop *loop;
	struct kvci_workers *workers;
	struct kvci_workers *files; /* one thread, for what is written to data_dir: a file system that hangs must not take the workers; NULL: no data_dir */
	struct kvci_mailbox *mailbox;
	struct kvci_watch *mailbox_watch;
	struct kvci_memory *memory;
	int lock_fd; /* of data_dir */
	struct kvci_ledger *ledger;
	struct kvc_tier *disk;  /* the top of the stack of tiers, NULL: memory only */
	struct kvc_tier *fault; /* the fault filter in it */
	struct kvc_tier *coded; /* the coded tier in it */
	struct kvci_coding *coding;
	struct kvci_watch *disk_watch;
	struct kvci_cache *cache;
	uint32_t next_client; /* ids of clients: never 0, never given twice */
	struct kvci_server *server;
	struct kvci_http *http;
	struct kvci_verify *verify;
	struct kvci_recode *recode;

	struct kvci_timer turn_timer;  /* once a turn in which anything happened, and when the brain wants it */
	struct kvci_timer gauge_timer; /* figures that nobody counts */
	bool stopping;                 /* the workers are gone: jobs run where they are given */
	struct kvci_flush_wait last_flush;
	bool flushing;
};

/* Everything but connections: opens data_dir, reads the ledger, starts loading the index. On failure *ret_error (kvci_free) is one line for people. */
kvc_status_t kvci_core_create(const struct kvci_config *config, struct kvci_core **ret_core, char **ret_error);
/* Closes connections, tiers and threads; what was committed and not flushed may be lost. NULL and half-built are fine. */
void kvci_core_destroy(struct kvci_core *core);

/* The configured sockets, and the HTTP port. */
kvc_status_t kvci_core_listen(struct kvci_core *core, char **ret_error);
/* Until kvci_core_finish has flushed, or kvci_loop_stop(core->loop). */
kvc_status_t kvci_core_run(struct kvci_core *core);
/* Owner: no new connections or requests, flush, then the loop stops. Called again: the loop stops at once. */
void kvci_core_finish(struct kvci_core *core);

/* Something happened in this turn: the brain gets its tick, and finished work its answers, before the next wait. */
void kvci_core_wake(struct kvci_core *core);
void kvci_core_run_job(void *core, struct kvci_job *job);
/* The same for what writes to data_dir: on a thread of its own, one after another. */
void kvci_core_run_file_job(void *core, struct kvci_job *job);
/* Refreshes the gauges and the face at once. */
void kvci_core_refresh(struct kvci_core *core);

#endif
