/* SPDX-License-Identifier: Apache-2.0
 *
 * Admin questions: what `kvcask` asks a running daemon. A question is a name with JSON arguments, its answer one JSON object. The
 * table of questions (admin.c) makes docs/admin.md (`kvcaskd --help-admin`) and the answer to "help".
 *
 *   ask -> arguments parsed on a worker -> start on the owner -> steps, one a turn, each well under 200 us
 *       -> the answer written to a memfd on a worker -> done
 *
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_ADMIN_H
#define KVCI_DAEMON_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <kvcask/status.h>

struct kvci_core;
struct kvci_admin_question;

struct kvci_admin_asker {
	const char *tenant; /* whose blocks it may see; copied */
	bool operator;      /* sees all tenants, and may steer the daemon */
};

/* OK: fd is a memfd with `bytes` of JSON; it is closed after the call. Otherwise error is a line for people. */
typedef void (*kvci_admin_done_fn)(void *context, kvc_status_t status, int fd, uint64_t bytes, const char *error);

/* *ret_question is set before done() can be called, and NULL when it was called inside. arguments are copied; 0 bytes: none. */
void kvci_admin_ask(struct kvci_core *core, const struct kvci_admin_asker *asker, const char *question,
                    const void *arguments, size_t arguments_bytes, kvci_admin_done_fn done, void *context,
                    struct kvci_admin_question **ret_question);
/* done() will not be called. NULL is fine. */
void kvci_admin_cancel(struct kvci_admin_question *question);

/* docs/admin.md. */
void kvci_admin_print(FILE *out);

#endif
