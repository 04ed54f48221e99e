/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk tier in a folder of its own, and ways to damage what lies in it. Over tests/conform/rig.h. */
#ifndef KVC_TESTS_DISK_RIG_H
#define KVC_TESTS_DISK_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/conform/rig.h"
#include "tiers/disk/format.h"

struct disk_store {
	struct rig rig;
	char folder[512];
	const char *capacity, *segment, *io;
};

/* Opens (again); waits until the index is complete. */
void disk_store_open(struct disk_store *store);
/* The status of an open that may fail; the text goes to *ret_error (kvci_free). */
kvc_status_t disk_store_try(struct disk_store *store, struct kvc_tier **ret_tier, char **ret_error);
void disk_store_close(struct disk_store *store);
/* A fresh folder with `capacity` in segments of `segment`. */
void disk_store_init(struct disk_store *store, const char *name, const char *capacity, const char *segment);
void disk_store_fini(struct disk_store *store);

void disk_store_path(const struct disk_store *store, uint32_t segment, char ret_path[600]);
/* Reads or writes bytes of a segment file. */
void disk_store_peek(const struct disk_store *store, uint32_t segment, uint64_t offset, void *bytes, size_t length);
void disk_store_poke(const struct disk_store *store, uint32_t segment, uint64_t offset, const void *bytes, size_t length);
void disk_store_flip(const struct disk_store *store, uint32_t segment, uint64_t offset, unsigned bit);
void disk_store_header(const struct disk_store *store, uint32_t segment, struct kvci_disk_header *ret_header);
/* cp -r; the old target goes. `what`: "index" or a segment's file name. */
void disk_store_save(const struct disk_store *store, const char *what, const char *as);
void disk_store_restore(const struct disk_store *store, const char *what, const char *as);
void disk_store_remove(const struct disk_store *store, const char *what);

/* Every record of seeds [0, count): what the newest index entry gives. ret_hits, ret_missing (no entry), ret_refused
 * (an entry, and MISS or CORRUPT). Wrong bytes fail the test. pages: of each. Seeds in skip (may be NULL, count bools) are left out. */
void disk_store_check(struct disk_store *store, uint64_t count, uint32_t pages, const bool *skip, uint64_t *ret_hits,
                      uint64_t *ret_missing, uint64_t *ret_refused);

#endif
