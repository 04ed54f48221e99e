/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand for tiers: opens one, records its events, makes records and waits for requests. Used by the conformance suite, the disk
 * tier's own tests and its benchmark. One thread, like a real owner.
 */
#ifndef KVC_TESTS_RIG_H
#define KVC_TESTS_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/plugin/tier.h>

/* A growing list of entries. */
struct rig_list {
	struct kvc_tier_entry *entries;
	size_t count, room;
};

struct rig {
	struct kvc_tier *tier;
	struct kvc_tier_caps caps;
	struct rig_list index;   /* delivered at start, one a key: the newest place */
	size_t index_calls, index_delivered;
	bool index_complete;
	size_t index_complete_calls;
	struct { uint32_t segment, generation; } lost[4096];
	size_t lost_count, keep_asked, keep_yes, moved_count;
	unsigned keep_percent;   /* of what is asked about; chosen by the key */
	struct rig_list moved;   /* new entries */
	kvc_status_t health;
	size_t health_calls;
	bool in_poll;
	size_t pending;          /* of rig_* requests */
	size_t done_outside_poll;
};

/* Takes over the tier (closes it in rig_close), attaches and, when wait is true, waits until the index is complete. */
void rig_open(struct rig *rig, struct kvc_tier *tier, bool wait);
void rig_close(struct rig *rig);
/* Polls until *flag, or fails the test after 60 s. */
void rig_wait(struct rig *rig, const bool *flag);
void rig_poll(struct rig *rig, int timeout_ms);
bool rig_was_lost(const struct rig *rig, const struct kvc_place *place);
const struct kvc_tier_entry *rig_find(const struct rig_list *list, const struct kvc_tier_entry *like);

/* An aligned buffer; kvci_free. */
void *rig_buffer(uint64_t bytes);
/* The form of a record of so many pages. */
struct kvc_form rig_form(uint32_t pages);
/* Fills `buffer` with the record number `seed` of exactly `pages` pages (at least 1) and describes it. Equal arguments: equal bytes. */
void rig_record(void *buffer, uint64_t seed, uint32_t pages, struct kvc_tier_entry *ret_entry);
/* Is `buffer` that record? (The seal, and what lies behind the sections, do not count.) */
bool rig_record_is(const void *buffer, uint64_t seed, uint32_t pages);

/* One request, waited for; BUSY is tried again. entry->place is set by write. */
kvc_status_t rig_write(struct rig *rig, void *buffer, struct kvc_tier_entry *entry);
kvc_status_t rig_read(struct rig *rig, void *buffer, const struct kvc_tier_entry *entry, uint32_t flags);
/* The same; the entry is what came with the answer. */
kvc_status_t rig_read_entry(struct rig *rig, void *buffer, struct kvc_tier_entry *entry, uint32_t flags);
kvc_status_t rig_flush(struct rig *rig);
/* Writes record `seed`; its entry is returned. */
kvc_status_t rig_store(struct rig *rig, uint64_t seed, uint32_t pages, struct kvc_tier_entry *ret_entry);
/* Reads it back: the status, and CORRUPT is turned into a failure of the test when OK came with wrong bytes. */
kvc_status_t rig_load(struct rig *rig, uint64_t seed, const struct kvc_tier_entry *entry);

/* A folder of this process under the working folder, emptied; removed by rig_folder_remove. */
const char *rig_folder(const char *name);
void rig_folder_remove(const char *path);

#endif
