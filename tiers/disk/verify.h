/* SPDX-License-Identifier: Apache-2.0
 *
 * The offline check of a store: reads every segment without the index, checks every record, says what is damaged. Changes nothing;
 * repairing is what open does. Takes the store's lock, so the daemon must not run.
 *
 * Threads: the caller's; the callbacks run inside the call.
 */
#ifndef KVCI_DISK_VERIFY_H
#define KVCI_DISK_VERIFY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

/* One piece of damage. */
struct kvci_disk_damage {
	uint32_t segment;
	uint32_t offset_4k, length_4k;      /* pages; offset 0: the segment as a whole */
	const struct kvc_tier_entry *entry; /* of the record, where its header is whole; else NULL */
	const char *text;                   /* one line for people */
};

struct kvci_disk_verify_events {
	void *context;
	void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
	void (*damage)(void *context, const struct kvci_disk_damage *damage);       /* may be NULL */
	/* Every whole record that is not dropped. May be NULL. */
	void (*record)(void *context, const struct kvc_tier_entry *entry);
};

struct kvci_disk_verify_summary {
	uint8_t uuid[16];
	uint32_t segments, segments_spare, segments_damaged, segments_foreign;
	uint64_t records, record_bytes;
	uint64_t dropped;          /* records that were dropped */
	uint64_t damaged;          /* records with a whole header and wrong sections */
	uint64_t unknown_bytes;    /* between records, that belong to none: damage, or a write that never ended */
	uint64_t unreadable_bytes; /* the device reports errors */
	uint64_t checked_bytes;
};

/* sections: also read and check what lies behind the headers. stop: may be NULL; set it and the call ends with CANCELED.
 * OK: the check ran to its end, whatever it found (see the summary). IN_USE, NOT_FOUND, DENIED, ...: it could not; *ret_error
 * (kvci_free) says why. */
kvc_status_t kvci_disk_verify(const char *folder, bool sections, const atomic_bool *stop,
                              const struct kvci_disk_verify_events *events,
                              struct kvci_disk_verify_summary *ret_summary, char **ret_error);

#endif
