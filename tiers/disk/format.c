/* SPDX-License-Identifier: Apache-2.0
 * Encoding and decoding of the disk tier's own structures; see format.h. */
#include "tiers/disk/format.h"

#include <endian.h>
#include <string.h>

#include "base/copy.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers in memory are their images on disk");

void kvci_disk_header_write(struct kvci_disk_header *header, void *page)
{
	header->magic = KVCI_DISK_MAGIC;
	header->version = KVCI_DISK_VERSION;
	header->checksum = kvci_checksum(header, offsetof(struct kvci_disk_header, checksum), 0);
	memset(page, 0, KVCI_DISK_PAGE_BYTES);
	memcpy(page, header, sizeof(*header));
	memcpy((uint8_t *)page + KVCI_DISK_HEADER_COPY_BYTES, header, sizeof(*header));
}

static bool format_header_sane(const struct kvci_disk_header *header)
{
	return header->magic == KVCI_DISK_MAGIC && header->version >= KVCI_DISK_VERSION_OLDEST &&
	       header->version <= KVCI_DISK_VERSION &&
	       header->checksum == kvci_checksum(header, offsetof(struct kvci_disk_header, checksum), 0) &&
	       header->state >= KVCI_DISK_FREE && header->state <= KVCI_DISK_CLOSED && header->generation != 0 &&
	       header->length_4k > KVCI_DISK_HEADER_PAGES && header->end_4k <= header->length_4k;
}

bool kvci_disk_header_read(const void *page, struct kvci_disk_header *ret_header)
{
	bool found = false;

	for (int copy = 0; copy < 2; copy++) {
		struct kvci_disk_header header;

		memcpy(&header, (const uint8_t *)page + copy * KVCI_DISK_HEADER_COPY_BYTES, sizeof(header));
		if (format_header_sane(&header) && (!found || header.writes > ret_header->writes)) {
			*ret_header = header;
			found = true;
		}
	}
	return found;
}

uint64_t kvci_disk_seal(const uint8_t uuid[KVCI_DISK_UUID_BYTES], uint32_t segment, uint32_t generation, uint32_t offset_4k,
                        uint64_t header_checksum)
{
	struct {
		uint8_t uuid[KVCI_DISK_UUID_BYTES];
		uint32_t segment, generation, offset_4k, zero;
		uint64_t header_checksum;
	} sealed = {.segment = segment, .generation = generation, .offset_4k = offset_4k, .header_checksum = header_checksum};

	_Static_assert(sizeof(sealed) == 40, "no padding is sealed");
	memcpy(sealed.uuid, uuid, sizeof(sealed.uuid));
	return kvci_checksum(&sealed, sizeof(sealed), 0);
}

static uint64_t format_align(uint64_t bytes, uint64_t step)
{
	return (bytes + step - 1) / step * step;
}

void kvci_disk_entry_of(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                        const struct kvc_place *place, struct kvc_tier_entry *ret_entry)
{
	uint64_t raw_bytes = format_align(sizeof(*header) + (uint64_t)header->section_count * sizeof(*sections),
	                                  KVCI_SECTION_ALIGN_BYTES);

	for (uint32_t i = 0; i < header->section_count; i++)
		raw_bytes += format_align(sections[i].raw_bytes, KVCI_SECTION_ALIGN_BYTES);
	*ret_entry = (struct kvc_tier_entry){
		.epoch = header->epoch,
		.form_id = header->form_id,
		.record_checksum = kvci_record_checksum(header),
		.position_tokens = header->position_tokens,
		.token_count = header->token_count,
		.group = header->group,
		.shard_index = header->shard_index,
		.shard_count = header->shard_count,
		.flags = header->flags,
		.raw_length_4k = (uint32_t)(format_align(raw_bytes, KVCI_DISK_PAGE_BYTES) / KVCI_DISK_PAGE_BYTES),
		.place = *place,
	};
	memcpy(ret_entry->space, header->space, sizeof(ret_entry->space));
	memcpy(ret_entry->hash, header->hash, sizeof(ret_entry->hash));
	memcpy(ret_entry->parent_hash, header->parent_hash, sizeof(ret_entry->parent_hash));
}

kvc_status_t kvci_disk_entry_check(const struct kvci_record_header *header, const struct kvc_tier_entry *entry)
{
	if (memcmp(header->space, entry->space, sizeof(entry->space)) != 0 ||
	    memcmp(header->hash, entry->hash, sizeof(entry->hash)) != 0 || header->epoch != entry->epoch ||
	    header->form_id != entry->form_id || header->group != entry->group || header->shard_index != entry->shard_index ||
	    header->shard_count != entry->shard_count)
		return KVC_CORRUPT;
	if ((header->flags & KVCI_RECORD_TOMBSTONE) != 0)
		return KVC_MISS;
	/* A block that was read from a lossy record has the seal of what came out; the key and the place's seal stand for the rest. */
	if ((header->flags & entry->flags & KVCI_RECORD_LOSSY) != 0)
		return KVC_OK;
	return kvci_record_checksum(header) == entry->record_checksum ? KVC_OK : KVC_CORRUPT;
}

static void format_be32(uint8_t *bytes, uint32_t value)
{
	uint32_t big = htobe32(value);

	memcpy(bytes, &big, sizeof(big));
}

static uint32_t format_from_be32(const uint8_t *bytes)
{
	uint32_t big;

	memcpy(&big, bytes, sizeof(big));
	return be32toh(big);
}

void kvci_disk_entry_key(uint32_t segment, uint32_t offset_4k, uint8_t ret_key[KVCI_DISK_ENTRY_KEY_BYTES])
{
	ret_key[0] = 'E';
	format_be32(ret_key + 1, segment);
	format_be32(ret_key + 5, offset_4k);
}

void kvci_disk_segment_key(uint32_t segment, uint8_t ret_key[KVCI_DISK_SEGMENT_KEY_BYTES])
{
	ret_key[0] = 'S';
	format_be32(ret_key + 1, segment);
}

/* The value: the entry's fields without its place's segment and offset, which are the key. */
struct format_value {
	uint8_t space[16];
	uint8_t hash[32];
	uint8_t parent_hash[32];
	uint64_t epoch;
	uint64_t form_id;
	uint64_t record_checksum;
	uint64_t position_tokens;
	uint32_t token_count;
	uint32_t group;
	uint32_t shard_index;
	uint32_t shard_count;
	uint32_t flags;
	uint32_t raw_length_4k;
	uint32_t generation;
	uint32_t length_4k;
	uint64_t checksum; /* of all before, seeded by the place: an entry under another key never passes */
};
_Static_assert(sizeof(struct format_value) == KVCI_DISK_ENTRY_VALUE_BYTES, "packed entry");

static uint64_t format_value_checksum(const struct format_value *value, uint32_t segment, uint32_t offset_4k)
{
	return kvci_checksum(value, offsetof(struct format_value, checksum), (uint64_t)segment << 32 | offset_4k);
}

void kvci_disk_entry_pack(const struct kvc_tier_entry *entry, uint8_t ret_value[KVCI_DISK_ENTRY_VALUE_BYTES])
{
	struct format_value value = {
		.epoch = entry->epoch,
		.form_id = entry->form_id,
		.record_checksum = entry->record_checksum,
		.position_tokens = entry->position_tokens,
		.token_count = entry->token_count,
		.group = entry->group,
		.shard_index = entry->shard_index,
		.shard_count = entry->shard_count,
		.flags = entry->flags,
		.raw_length_4k = entry->raw_length_4k,
		.generation = entry->place.generation,
		.length_4k = entry->place.length_4k,
	};

	memcpy(value.space, entry->space, sizeof(value.space));
	memcpy(value.hash, entry->hash, sizeof(value.hash));
	memcpy(value.parent_hash, entry->parent_hash, sizeof(value.parent_hash));
	value.checksum = format_value_checksum(&value, entry->place.segment, entry->place.offset_4k);
	memcpy(ret_value, &value, sizeof(value));
}

bool kvci_disk_entry_unpack(const void *key, size_t key_bytes, const void *value_bytes, size_t value_length,
                            struct kvc_tier_entry *ret_entry)
{
	const uint8_t *place = key;
	struct format_value value;
	struct kvc_tier_entry entry;

	if (key_bytes != KVCI_DISK_ENTRY_KEY_BYTES || place[0] != 'E' || value_length != sizeof(value))
		return false;
	memcpy(&value, value_bytes, sizeof(value));
	entry = (struct kvc_tier_entry){
		.epoch = value.epoch,
		.form_id = value.form_id,
		.record_checksum = value.record_checksum,
		.position_tokens = value.position_tokens,
		.token_count = value.token_count,
		.group = value.group,
		.shard_index = value.shard_index,
		.shard_count = value.shard_count,
		.flags = value.flags,
		.raw_length_4k = value.raw_length_4k,
		.place = {
			.segment = format_from_be32(place + 1),
			.generation = value.generation,
			.offset_4k = format_from_be32(place + 5),
			.length_4k = value.length_4k,
		},
	};
	memcpy(entry.space, value.space, sizeof(entry.space));
	memcpy(entry.hash, value.hash, sizeof(entry.hash));
	memcpy(entry.parent_hash, value.parent_hash, sizeof(entry.parent_hash));
	if (value.checksum != format_value_checksum(&value, entry.place.segment, entry.place.offset_4k) ||
	    value.length_4k == 0 || value.generation == 0)
		return false;
	*ret_entry = entry;
	return true;
}
