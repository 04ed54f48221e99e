/* SPDX-License-Identifier: Apache-2.0
 *
 * The durable index in RocksDB: entries by place, and for each segment its generation and how far it is indexed. The only file
 * that knows RocksDB is db.c. Small on purpose: buffers of a few MiB, two threads, no log of its own.
 *
 * Threads: any; a batch and a cursor belong to one thread at a time.
 */
#ifndef KVCI_DISK_DB_H
#define KVCI_DISK_DB_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

#include "tiers/disk/format.h"

struct kvci_disk_db;
struct kvci_disk_batch;
struct kvci_disk_cursor;

/* Opens or makes the index in `folder`. CORRUPT: there is one, and it cannot be opened. *ret_error: kvci_free. */
kvc_status_t kvci_disk_db_open(const char *folder, struct kvci_disk_db **ret_db, char **ret_error);
void kvci_disk_db_close(struct kvci_disk_db *db);
/* Removes the files of an index that is not open. */
kvc_status_t kvci_disk_db_remove(const char *folder);

/* The store the index belongs to. False: it says none. */
bool kvci_disk_db_uuid(struct kvci_disk_db *db, uint8_t ret_uuid[KVCI_DISK_UUID_BYTES]);
/* What the index says of a segment; MISS when nothing. */
kvc_status_t kvci_disk_db_segment(struct kvci_disk_db *db, uint32_t segment, uint32_t *ret_generation,
                                  uint32_t *ret_indexed_4k);
/* Calls visit for each segment that the index knows. */
kvc_status_t kvci_disk_db_segments(struct kvci_disk_db *db, void (*visit)(void *context, uint32_t segment,
                                   uint32_t generation, uint32_t indexed_4k), void *context);

struct kvci_disk_batch *kvci_disk_batch_create(void); /* NULL: no memory */
void kvci_disk_batch_destroy(struct kvci_disk_batch *batch);
void kvci_disk_batch_put(struct kvci_disk_batch *batch, const struct kvc_tier_entry *entry);
void kvci_disk_batch_delete(struct kvci_disk_batch *batch, uint32_t segment, uint32_t offset_4k);
void kvci_disk_batch_delete_segment(struct kvci_disk_batch *batch, uint32_t segment); /* its entries */
/* generation 0: the segment is gone. */
void kvci_disk_batch_segment(struct kvci_disk_batch *batch, uint32_t segment, uint32_t generation, uint32_t indexed_4k);
void kvci_disk_batch_uuid(struct kvci_disk_batch *batch, const uint8_t uuid[KVCI_DISK_UUID_BYTES]);
/* Write, sync and cursor take NULL for a db, and answer IO: an index that could not be made again.
 * Writes what the batch holds (into the log, without sync) and empties it, also on error. */
kvc_status_t kvci_disk_db_write(struct kvci_disk_db *db, struct kvci_disk_batch *batch);
/* Makes durable what was written. */
kvc_status_t kvci_disk_db_sync(struct kvci_disk_db *db);

/* Entries of one segment in order of offset, from from_4k on. The cursor sees the index as it was at create. */
kvc_status_t kvci_disk_cursor_create(struct kvci_disk_db *db, struct kvci_disk_cursor **ret_cursor);
void kvci_disk_cursor_destroy(struct kvci_disk_cursor *cursor);
void kvci_disk_cursor_seek(struct kvci_disk_cursor *cursor, uint32_t segment, uint32_t from_4k);
/* True: one more. False: the end of the segment, or an error (see status). Values that cannot be entries are skipped and counted
 * in *skipped (may be NULL). */
bool kvci_disk_cursor_next(struct kvci_disk_cursor *cursor, struct kvc_tier_entry *ret_entry, uint64_t *skipped);
kvc_status_t kvci_disk_cursor_status(struct kvci_disk_cursor *cursor);

#endif
