/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk for tests of the brain: records in the heap, in segments that are reclaimed in a ring, with whatever a disk may do to its
 * owner: delay, any order, failure, refusal, hang, damage, loss. Deterministic: time is the caller's, choices come from a seed.
 */
#ifndef KVC_TESTS_RAM_TIER_H
#define KVC_TESTS_RAM_TIER_H

#include <kvcask/plugin/tier.h>

struct ram_tier_options {
	uint32_t segments;
	uint32_t segment_4k;
	uint32_t depth;
	uint64_t seed;
	uint64_t (*now_ns)(void *context);
	void *context;
};

/* What the next requests meet; change at will. */
struct ram_tier_faults {
	uint64_t delay_ns;           /* of every request, and as much again at random */
	uint32_t read_fail_percent;  /* IO */
	uint32_t write_fail_percent;
	kvc_status_t write_failure;  /* IO or DISK_FULL */
	uint32_t read_flip_percent;  /* a bit is wrong in what is stored */
	uint32_t busy_percent;       /* submit refuses */
	bool hang_reads;             /* until false again */
	bool hang_writes;
	bool keep_all;               /* reclaim asks, and carries over what is wanted (else it asks no one) */
};

struct kvc_tier *ram_tier_create(const struct ram_tier_options *options);
struct ram_tier_faults *ram_tier_faults(struct kvc_tier *tier);
/* As a device says how it is. */
void ram_tier_say_health(struct kvc_tier *tier, kvc_status_t status);
/* Another tier with the same records, as if it was closed and opened again (the first one is closed by this). */
struct kvc_tier *ram_tier_reopen(struct kvc_tier *tier);
/* Of every read under way that wants it, head and leading sections are in its buffer now, the rest is filled with 0xee. Returns how many were told. */
uint32_t ram_tier_progress(struct kvc_tier *tier, uint32_t sections);
uint32_t ram_tier_under_way(const struct kvc_tier *tier);
uint64_t ram_tier_submits(const struct kvc_tier *tier);
/* How many index entries a poll hands out; 0 holds the index back. */
void ram_tier_index_rate(struct kvc_tier *tier, uint32_t entries);
/* The next poll hands out some. */
bool ram_tier_index_pending(const struct kvc_tier *tier);

#endif
