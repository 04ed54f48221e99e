/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks the records of one segment without the index: from header to header where they are whole, page by page where they are
 * not. A record counts only when its seal is that of this place in this generation, so that whatever was written there before
 * (an older generation, another store, a record moved by hand) is passed over.
 *
 * Threads: one a scan.
 */
#ifndef KVCI_DISK_SCAN_H
#define KVCI_DISK_SCAN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

#include "tiers/disk/format.h"

struct kvci_disk_scan {
	int fd;
	const uint8_t *uuid;
	uint32_t segment, generation;
	uint32_t from_4k, to_4k; /* pages looked at */
	bool verify;             /* read and check the sections too */
	const atomic_bool *stop; /* looked at now and then; may be NULL */
	void *context;
	/* A record, whole as far as was looked: OK, MISS (a tombstone), CORRUPT (verify found a section wrong). False ends the scan. */
	bool (*record)(void *context, const struct kvc_tier_entry *entry, kvc_status_t status);
	/* Pages [from_4k, to_4k) between records hold none; `io`: they could not be read. May be NULL. */
	void (*gap)(void *context, uint32_t from_4k, uint32_t to_4k, bool io);
	/* Now and then, for who shows progress. May be NULL. */
	void (*progress)(void *context, uint32_t at_4k);
};

/* *ret_end_4k: behind the last record that was found (from_4k when none). CANCELED when stopped. */
kvc_status_t kvci_disk_scan_run(const struct kvci_disk_scan *scan, uint32_t *ret_end_4k);

#endif
