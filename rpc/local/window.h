/* SPDX-License-Identifier: Apache-2.0
 *
 * Window ranges: which parts of a client's window are in use. The client alone decides; the daemon only ever sees offsets. A range stays in use until the
 * request that names it is answered, also when nobody waits for the answer any more.
 * First fit over a bitmap of 1 KiB units, behind the last range given out; nothing is allocated.
 * Threads: one at a time.
 */
#ifndef KVCI_RPC_LOCAL_WINDOW_H
#define KVCI_RPC_LOCAL_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "rpc/local/proto.h"

enum {
	KVCI_WINDOW_UNIT_BYTES = 1024,
	KVCI_WINDOW_UNITS = KVCI_WINDOW_BYTES / KVCI_WINDOW_UNIT_BYTES,
};

struct kvci_window_ranges {
	uint64_t used[KVCI_WINDOW_UNITS / 64];
	uint32_t unit_count; /* of this window, at most KVCI_WINDOW_UNITS */
	uint32_t next_unit;  /* where the search begins */
	uint32_t used_units;
};

/* window_bytes beyond KVCI_WINDOW_BYTES are not used. */
void kvci_window_init(struct kvci_window_ranges *ranges, uint64_t window_bytes);
/* BUSY: no free range is long enough at present. TOO_BIG: longer than the window. A range of 0 bytes is none: offset 0. */
kvc_status_t kvci_window_take(struct kvci_window_ranges *ranges, uint64_t bytes, uint64_t *ret_offset);
void kvci_window_give(struct kvci_window_ranges *ranges, uint64_t offset, uint64_t bytes);

#endif
