/* SPDX-License-Identifier: Apache-2.0
 *
 * Record: a block (one shard) in its stored form. The same image in memory, on disk, on the wire and in an
 * object store: an extent in memory is the byte image of its record. The byte table for people is
 * docs/format-record.md; tests/golden/ pins it.
 *
 *   offset 0     struct kvci_record_header (256 bytes)
 *   offset 256   struct kvci_section_entry[section_count] (32 bytes each)
 *   then         sections, each at a 64-byte step
 *   then         with KVCI_RECORD_SCORES: retention scores, at a 64-byte step
 *   then         zero or stale bytes up to a multiple of 4 KiB (never read)
 *
 * All integers little-endian. What is bound to what:
 *   - raw_checksum of a section: XXH3-64 of its raw bytes, seeded by kvci_section_seed(key, shard, section), so
 *     that a section of another record never passes.
 *   - stored_checksum: XXH3-64 of its stored bytes with the same seed; equals raw_checksum for the raw codec.
 *   - record_checksum, the content seal: XXH3-64 (seed 0) of what the record holds, however it is packed: the header's first
 *     KVCI_RECORD_SEALED_BYTES bytes with record_bytes, profile_id, KVCI_RECORD_LOSSY and what belongs to scores taken as without them, and of each section raw_checksum and
 *     raw_bytes. A coded record has that of the raw record it was made of. The index that leads to the record (memory or disk) holds a
 *     copy of its own, so that a record which its owner rewrote after commit, or an older record at the same place, is a miss. It does
 *     not cover where sections lie: who takes offsets from a table that others can write checks them against the form
 *     (kvci_record_is_image).
 *   - header_checksum: XXH3-64 (seed 0) of those header bytes as they are and the whole section table.
 *   - place_seal: binds a record to the place it was written to (store uuid, segment, generation, offset), written by the disk
 *     tier right before its write; not covered by the other checksums. See tiers/disk/README.md.
 *
 * Threads: pure functions on buffers.
 */
#ifndef KVCI_RECORD_H
#define KVCI_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

#define KVCI_RECORD_MAGIC UINT32_C(0x4352564b) /* "KVRC" */

enum {
	KVCI_RECORD_VERSION = 2,
	KVCI_RECORD_VERSION_SCORES = 3, /* of records with scores, and of no others */
	KVCI_RECORD_ALIGN_BYTES = 4096,
	KVCI_SECTION_ALIGN_BYTES = 64,
	KVCI_RECORD_SEALED_BYTES = 184, /* header bytes that checksums cover */
	KVCI_HASH_BYTES = 32,
	KVCI_SPACE_BYTES = 16,
	KVCI_RECORD_HEAD_BYTES_MAX = 36864, /* the header and table of any record fit into its first so many bytes */
};
/* No record is longer: KVC_BLOCK_BYTES_MAX, 1,024 sections' alignment, header, table, padding. */
#define KVCI_RECORD_BYTES_MAX (KVC_BLOCK_BYTES_MAX + (1 << 17))

/* Flags of a record. */
enum {
	KVCI_RECORD_LOSSY = 1 << 0,      /* some section's codec loses bits */
	KVCI_RECORD_CHUNK_KEY = 1 << 1,  /* the hash is of the chunk's tokens alone (blending), not chained */
	KVCI_RECORD_TOMBSTONE = 1 << 2,  /* the block was dropped by a user; only the length still counts */
	KVCI_RECORD_SCORES = 1 << 3,     /* has retention scores; version 3. Raw ones: where they fit behind the sections; no image in memory */
};

struct kvci_record_header {
	uint32_t magic;
	uint16_t version;
	uint16_t flags;
	uint64_t record_bytes;                  /* whole record, multiple of 4 KiB */
	uint8_t space[KVCI_SPACE_BYTES];        /* fingerprint */
	uint64_t epoch;
	uint64_t form_id;
	uint8_t hash[KVCI_HASH_BYTES];          /* of the block: that of its last engine block */
	uint8_t parent_hash[KVCI_HASH_BYTES];   /* of the block before; zeros: the root */
	uint32_t group;
	uint32_t shard_index;
	uint32_t shard_count;
	uint32_t section_count;
	uint64_t position_tokens;               /* of the first token in its sequence */
	uint32_t token_count;
	uint32_t reserved0;
	uint64_t profile_id;                    /* model profile that a codec needs; 0: none */
	uint32_t scores_offset_64;              /* retention scores from the record's start, in 64-byte steps; 0: none */
	uint32_t scores_bytes;                  /* a byte a token and head */
	uint64_t scores_checksum;               /* XXH3-64 of them, with the seed that a section behind the last would have */
	uint8_t reserved1[16];
	uint64_t header_checksum;               /* not sealed: offset 184 */
	uint64_t place_seal;
	uint8_t reserved2[56];
};
_Static_assert(sizeof(struct kvci_record_header) == 256, "record header is 256 bytes");
_Static_assert(offsetof(struct kvci_record_header, header_checksum) == KVCI_RECORD_SEALED_BYTES, "sealed part");

struct kvci_section_entry {
	uint64_t raw_checksum;
	uint64_t stored_checksum;
	uint32_t raw_bytes;
	uint32_t stored_bytes;
	uint32_t offset_64;    /* from the record's start, in 64-byte steps */
	uint16_t codec_k;      /* enum kvci_codec_id; 0 = raw */
	uint16_t codec_v;
};
_Static_assert(sizeof(struct kvci_section_entry) == 32, "section entry is 32 bytes");

/* What names one stored block: the key and which part of it. */
struct kvci_block_id {
	uint8_t space[KVCI_SPACE_BYTES];
	uint8_t hash[KVCI_HASH_BYTES];
	uint32_t group;
	uint32_t shard_index;
};

/* The seed of all sections of a block; the seed of section i is kvci_section_seed(block_seed, i). */
uint64_t kvci_block_seed(const struct kvci_block_id *id);
static inline uint64_t kvci_section_seed(uint64_t block_seed, uint32_t section)
{
	return block_seed + (uint64_t)(section + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* What a writer knows of a block besides its sections. */
struct kvci_record_meta {
	struct kvci_block_id id;
	uint8_t parent_hash[KVCI_HASH_BYTES];
	uint64_t epoch;
	uint64_t position_tokens;
	uint32_t token_count;
	uint32_t shard_count;
	uint16_t flags;
};

/* Writes header and table of a raw record (all sections codec raw, of sizes->section_bytes) at `record`, which has
 * room for sizes->sections_offset_bytes bytes. `checksums` has form->layer_count raw checksums.
 * Returns the record_checksum. *record holds the header_checksum. */
uint64_t kvci_record_write_raw(void *record, const struct kvci_record_meta *meta, const struct kvc_form *form,
                               const struct kvc_form_sizes *sizes, const uint64_t *checksums);

/* Of the header and table at `record`; section_count is read from it and must have been checked. */
uint64_t kvci_record_checksum(const void *record); /* the content seal */
/* The same over the table's first section_count entries alone: the seal of what is there of a record in memory that is still being made. It is on no disk. Reads
 * the header's first KVCI_RECORD_SEALED_BYTES bytes and these entries, nothing else. */
uint64_t kvci_record_checksum_leading(const void *record, uint32_t section_count);
uint64_t kvci_record_header_checksum(const void *record);

/* Whether a parsed record is the raw image that its form says: all sections raw, each where kvci_record_write_raw puts it; or its first section_count. */
bool kvci_record_is_image(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                          const struct kvc_form_sizes *sizes);
bool kvci_record_is_image_leading(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                                  const struct kvc_form_sizes *sizes, uint32_t section_count);

/* Reads a header and table from untrusted bytes: magic, version, header_checksum, every length and offset against
 * record_bytes and `available_bytes` (what can be read at `record`: all of it, or its first
 * KVCI_RECORD_HEAD_BYTES_MAX bytes, or less when the table is known to fit; aligned to 8 bytes). CORRUPT when anything is off; the
 * returned pointers lead into `record`. The sections themselves are not read. The caller must own the bytes (a private copy when a client can write them). */
kvc_status_t kvci_record_parse(const void *record, size_t available_bytes, const struct kvci_record_header **ret_header,
                               const struct kvci_section_entry **ret_sections);

/* The retention scores of a whole parsed record; NULL: it has none, or they are damaged. */
const uint8_t *kvci_record_scores(const void *record, const struct kvci_record_header *header, uint32_t *ret_bytes);
/* Puts scores behind the sections of a coded record that ends at *end_bytes, moves that, and says so in the header, whose checksum is then to be made
 * anew. The record has room. */
void kvci_record_put_scores(void *record, const uint8_t *scores, uint32_t scores_bytes, uint64_t *end_bytes);
/* A parsed record without them, in place: the image of its form, if it is raw. */
void kvci_record_drop_scores(void *record);

/* OK when the parsed record is the one named by id and epoch, MISS (also for a tombstone) or STALE_EPOCH otherwise. */
kvc_status_t kvci_record_is(const struct kvci_record_header *header, const struct kvci_block_id *id, uint64_t epoch);

/* Checks all stored_checksums of a whole parsed record (record_bytes of it can be read). CORRUPT at the first that fails; *ret_section (may be NULL)
 * is its index (section_count: the scores). */
kvc_status_t kvci_record_verify(const void *record, const struct kvci_record_header *header,
                                const struct kvci_section_entry *sections, uint32_t *ret_section);

/* The same for a record of which only the first available_bytes are there yet: checks the sections from *section on that lie in them, in order, and moves
 * *section on. With all record_bytes there, the scores too. CORRUPT: section *section fails. */
kvc_status_t kvci_record_verify_some(const void *record, const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                                     uint64_t available_bytes, uint32_t *section);

#endif
