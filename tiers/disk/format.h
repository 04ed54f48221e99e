/* SPDX-License-Identifier: Apache-2.0
 *
 * What the disk tier writes besides records: the header of a segment file, the seal that binds a record to its place, and the keys
 * and values of the durable index. docs/format-disk.md is the same for people. All integers little-endian, except in keys.
 * Threads: pure functions.
 */
#ifndef KVCI_DISK_FORMAT_H
#define KVCI_DISK_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

#include "base/record.h"

enum {
	KVCI_DISK_PAGE_BYTES = 4096,
	KVCI_DISK_VERSION = 2,
	KVCI_DISK_VERSION_OLDEST = 1, /* whose headers are read; what lies in such a segment is not */
	KVCI_DISK_HEADER_PAGES = 1,       /* records begin at page 1 */
	KVCI_DISK_HEADER_COPY_BYTES = 2048, /* the second copy's offset in the header page */
	KVCI_DISK_UUID_BYTES = 16,
	KVCI_DISK_HEAD_PAGES_MAX = KVCI_RECORD_HEAD_BYTES_MAX / KVCI_DISK_PAGE_BYTES,
};
#define KVCI_DISK_MAGIC UINT64_C(0x544e4d474553564b) /* "KVSEGMNT" */

enum kvci_disk_state {
	KVCI_DISK_FREE = 1,   /* holds nothing; generation is the one it will be written with */
	KVCI_DISK_OPEN = 2,   /* may hold records anywhere */
	KVCI_DISK_CLOSED = 3, /* holds no record at or behind end_4k */
};

/* First page of a segment file, twice: at 0 and at 2048, so that one torn sector or flipped bit loses nothing. */
struct kvci_disk_header {
	uint64_t magic;
	uint32_t version;
	uint32_t segment;
	uint8_t uuid[KVCI_DISK_UUID_BYTES]; /* of the store */
	uint32_t generation;                /* greater than of any segment opened before; raised before reuse */
	uint32_t length_4k;                 /* of the file */
	uint32_t state;                     /* enum kvci_disk_state */
	uint32_t end_4k;                    /* CLOSED: behind the last record */
	uint64_t writes;                    /* of this header so far: of two valid copies the greater counts */
	uint8_t reserved[64];
	uint64_t checksum;                  /* XXH3-64 of all before, seed 0 */
};
_Static_assert(sizeof(struct kvci_disk_header) == 128, "segment header is 128 bytes");

/* Fills the page (4 KiB) from the header, whose magic, version and checksum it sets. */
void kvci_disk_header_write(struct kvci_disk_header *header, void *page);
/* False when neither copy is whole. */
bool kvci_disk_header_read(const void *page, struct kvci_disk_header *ret_header);

/* Seal of the record with this header_checksum at this place of this store. */
uint64_t kvci_disk_seal(const uint8_t uuid[KVCI_DISK_UUID_BYTES], uint32_t segment, uint32_t generation, uint32_t offset_4k,
                        uint64_t header_checksum);

/* The entry that a parsed record stands for; place as given. */
void kvci_disk_entry_of(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                        const struct kvc_place *place, struct kvc_tier_entry *ret_entry);
/* Do header and entry name the same bytes? OK, MISS (a tombstone), CORRUPT. The header is parsed already. */
kvc_status_t kvci_disk_entry_check(const struct kvci_record_header *header, const struct kvc_tier_entry *entry);

/* ---- the index ---- */

enum {
	KVCI_DISK_ENTRY_KEY_BYTES = 9,    /* 'E', segment, offset_4k; big-endian, so that order is that of places */
	KVCI_DISK_SEGMENT_KEY_BYTES = 5,  /* 'S', segment */
	KVCI_DISK_ENTRY_VALUE_BYTES = 152,
	KVCI_DISK_SEGMENT_VALUE_BYTES = 8,
};
void kvci_disk_entry_key(uint32_t segment, uint32_t offset_4k, uint8_t ret_key[KVCI_DISK_ENTRY_KEY_BYTES]);
void kvci_disk_segment_key(uint32_t segment, uint8_t ret_key[KVCI_DISK_SEGMENT_KEY_BYTES]);
void kvci_disk_entry_pack(const struct kvc_tier_entry *entry, uint8_t ret_value[KVCI_DISK_ENTRY_VALUE_BYTES]);
/* False when key or value cannot be an entry (wrong length, wrong checksum, a place out of reason). */
bool kvci_disk_entry_unpack(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                            struct kvc_tier_entry *ret_entry);

#endif
