/* SPDX-License-Identifier: Apache-2.0
 *
 * Ledger of spaces: the fields and the epoch of every space, in DATA_DIR/spaces and its twin DATA_DIR/spaces.copy. Apart from the disk tier's
 * index on purpose: an index may be lost or older than it was; an epoch must never go back, or blocks of old weights would be served.
 *
 * File: a header of 32 bytes, then records at 8-byte steps, each with a serial number and a checksum. A save appends one record to both
 * files and syncs them (fdatasync) on a worker before done(). Loading takes of each space the highest epoch that either file
 * has. What that covers:
 *   - a torn tail: nobody was told that it is there; cut off
 *   - one file damaged, cut short, missing, or replaced by an older copy: its twin has it; both are written anew
 *   - the same records damaged in both: found by their serial numbers; every space whose last record is older than a missing
 *     one is unknown from then on: its blocks are misses. Said once, loudly
 *   - both files gone: all spaces are unknown
 * An unknown space begins at kvci_ledger_first_epoch, which comes from the wall clock and lies above every epoch read.
 *
 * When a file is four times longer than what is in it, it is written anew: a temporary file, fsync, rename, fsync of the folder.
 *
 * Threads: the owner's only; the writing runs as a job on a worker.
 */
#ifndef KVCI_DAEMON_LEDGER_H
#define KVCI_DAEMON_LEDGER_H

#include <stdint.h>

#include <kvcask/status.h>

#include "base/workers.h"
#include "cache/space.h"

struct kvci_ledger;

struct kvci_ledger_env {
	void *context;
	/* Runs job->run on a worker and job->done on the owner's thread. */
	void (*run_job)(void *context, struct kvci_job *job);
	/* A save has ended, later or inside kvci_ledger_save (then with an error). OK: durable in one file at least. */
	void (*saved)(void *context, uint32_t space, uint64_t epoch, kvc_status_t status);
};

/* Creates the files when both are missing. Reads them whole; not for a running loop. On failure *ret_error (kvci_free) is a line for people. */
kvc_status_t kvci_ledger_open(const char *folder, const struct kvci_ledger_env *env, struct kvci_ledger **ret_ledger,
                              char **ret_error);
/* No job of it may be under way. NULL is fine. */
void kvci_ledger_close(struct kvci_ledger *ledger);

/* Each space that is known, with its epoch. */
kvc_status_t kvci_ledger_restore(struct kvci_ledger *ledger,
                                 void (*visit)(void *context, const struct kvci_space *fields, uint64_t epoch),
                                 void *context);
/* Above every epoch that a space which is not in the ledger may have had before. */
uint64_t kvci_ledger_first_epoch(const struct kvci_ledger *ledger);
/* `space` is the caller's number, given back to saved(). */
void kvci_ledger_save(struct kvci_ledger *ledger, uint32_t space, const struct kvci_space *fields, uint64_t epoch);

struct kvci_ledger_figures {
	uint64_t spaces;
	uint64_t lost_records;   /* in neither file */
	uint64_t unknown_spaces; /* left out because of them */
	uint64_t healed_files;   /* read with damage, written anew from the twin */
	uint64_t write_errors;
};
void kvci_ledger_figures(const struct kvci_ledger *ledger, struct kvci_ledger_figures *ret_figures);

#endif
