/* SPDX-License-Identifier: Apache-2.0
 *
 * A world for tests of the brain: its clock, memory, disk, workers, clients that fill and read extents as real ones do.
 */
#ifndef KVC_TESTS_WORLD_H
#define KVC_TESTS_WORLD_H

#include "cache/cache.h"

#include "tests/unit/cache/ram_tier.h"

enum { WORLD_SLABS = 4096, WORLD_LAYERS = 2 };

struct world_slab {
	uint32_t id;
	uint32_t owner;
	uint64_t bytes;
	uint8_t *base;
};

struct world_options {
	uint64_t memory_bytes, slab_bytes;
	uint32_t lease_share_percent, client_share_percent;
	enum kvci_write_mode write_mode;
	uint64_t write_queue_bytes;
	uint64_t max_blocks;
	uint64_t first_epoch;
	bool disk;
	uint32_t segments, segment_4k; /* of the disk */
	bool save_later;               /* spaces are saved when world_run says, not inside */
	uint64_t seed;
	struct kvc_tier *tier;         /* this disk instead of a new one */
};

struct world {
	struct kvci_cache *cache;
	struct kvci_cache_config config;
	struct kvci_stats stats;
	uint64_t now_ns;
	struct world_slab slabs[WORLD_SLABS];
	uint32_t slab_count;
	uint8_t slab_ids[1 << 17]; /* a bit for each that was ever made */
	kvc_status_t slab_failure; /* not OK: no slab can be made */
	kvc_status_t save_failure;
	bool save_later;
	struct { uint32_t space; uint64_t epoch; } saves[256];
	uint32_t save_count;
	uint64_t saved_epochs; /* how many saves were asked for */
	struct kvci_job *jobs;
	struct kvc_tier *disk;
};

struct world_options world_defaults(void);
kvc_status_t world_init(struct world *world, const struct world_options *options);
/* Ends all; asserts that nothing is left. Keeps the disk's records when ret_disk is not NULL. */
void world_fini(struct world *world, struct kvc_tier **ret_disk);
/* Ticks until nothing is due now, with what the disk and the workers complete. */
void world_run(struct world *world);
void world_advance(struct world *world, uint64_t ns);
/* Fails the test when an invariant is broken. */
void world_check(struct world *world);

/* Forms: 0: record of 4 KiB; 1: 20 KiB; 2: 4 KiB, another form than 0; 3 and 4: the two shards of one, 4 KiB each. Spaces by number: model "m<space>", tenant. */
void world_form(uint32_t form, struct kvc_form *ret_form);
void world_space(const char *tenant, uint32_t space, char (*storage)[32], struct kvci_space *ret_space);
kvc_status_t world_bind(struct world *world, uint32_t client, const char *tenant, uint32_t space, uint32_t form,
                        uint32_t *ret_binding);
void world_hash(uint64_t key, uint8_t ret_hash[KVCI_HASH_BYTES]);

/* The bytes of an extent, as its client maps them; NULL: the slab is gone. */
uint8_t *world_extent(struct world *world, const struct kvci_extent *extent);
/* Gathers: fills the sections with what `tag` stands for, and makes their checksums. */
void world_fill(struct world *world, uint32_t binding, const uint8_t *hash, const struct kvci_extent *extent, uint64_t tag,
                uint64_t checksums[WORLD_LAYERS]);
/* Scatters and checks as a reader does (record checksum, then sections). OK: *ret_tag is what the block holds. */
kvc_status_t world_read(struct world *world, const struct kvci_extent *extent, const uint8_t *hash, uint64_t *ret_tag);
/* Reserves one block, mapping slabs as asked. */
kvc_status_t world_reserve(struct world *world, uint32_t client, uint32_t binding, uint64_t key, struct kvci_reserve *ret_block);
/* reserve, fill, commit: the first status that is not OK. */
kvc_status_t world_store(struct world *world, uint32_t client, uint32_t binding, uint64_t key, uint64_t tag);
/* Matches keys [first, first + count). */
kvc_status_t world_match(struct world *world, uint32_t client, uint32_t binding, uint64_t first, uint32_t count, uint32_t flags,
                         uint64_t request, struct kvci_match *ret_match);
void world_request_id(uint64_t request, uint8_t ret_id[KVCI_REQUEST_ID_BYTES]);
static inline uint64_t world_stat(const struct world *world, enum kvci_stat stat)
{
	return kvci_stat_get(&world->stats, stat);
}
/* match_keys = hits + misses by cause */
void world_check_misses(const struct world *world);

/* May a reservation, or the lease of one more key, be over the cap as things are? An eighth of each share is for one kind alone: what is held of
 * the other cannot be in its way. others: the clients of other sessions (what dead clients left may be of this one's). */
bool world_reserve_over_cap(const struct world *world, const uint32_t *others, uint32_t other_count, uint32_t form);
bool world_lease_over_cap(const struct world *world, uint32_t client, uint32_t form, uint32_t shards);

/* From now on the disk fails in one of several ways, or not. */
void world_faults(struct world *world, uint64_t dice);

/* A load whose answers are kept. */
struct world_load {
	struct kvci_load load;
	uint32_t answered;
	kvc_status_t statuses[256];
	struct kvci_extent extents[256];
};
/* Its ready(). */
void world_load_ready(struct kvci_load *load, uint32_t index, kvc_status_t status, const struct kvci_extent *extent);
kvc_status_t world_load(struct world *world, struct world_load *load, uint32_t client, uint64_t request, uint32_t first,
                        uint32_t count);
/* The same, of the shard that a binding is. */
kvc_status_t world_load_shard(struct world *world, struct world_load *load, uint32_t client, uint32_t binding, uint64_t request,
                              uint32_t first, uint32_t count);

#endif
