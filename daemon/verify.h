/* SPDX-License-Identifier: Apache-2.0
 *
 * Verify: reads every block on the disk again, one at a time and at most at a given rate, into memory of its own, and has it checked by the
 * tier. What is damaged goes off the disk, is counted, and named.
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_VERIFY_H
#define KVCI_DAEMON_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "base/record.h"

struct kvci_core;

enum { KVCI_VERIFY_NAMED_MAX = 100 };

struct kvci_verify_figures {
	bool running, complete; /* complete: ended by itself, all seen */
	uint64_t blocks_total;  /* on the disk when it began */
	uint64_t blocks_done, bytes_done, damaged, unreadable, gone;
	uint64_t begin_ns, end_ns;
	uint32_t named_count;
	uint8_t named[KVCI_VERIFY_NAMED_MAX][KVCI_HASH_BYTES]; /* the first damaged ones */
};

/* IN_USE: it runs. UNSUPPORTED: there is no disk. */
kvc_status_t kvci_verify_start(struct kvci_core *core, uint64_t rate_bytes_per_s);
void kvci_verify_stop(struct kvci_core *core);
void kvci_verify_figures(const struct kvci_core *core, struct kvci_verify_figures *ret_figures);
/* After the tier was closed. */
void kvci_verify_free(struct kvci_core *core);

#endif
