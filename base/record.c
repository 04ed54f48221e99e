/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing and checking records. What comes from a device, a peer or shared memory is checked here and refused; nothing
 * is asserted on it.
 */
#include "base/record.h"

#include <string.h>

#include "base/copy.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a record in memory is its image on disk");
_Static_assert(sizeof(struct kvci_block_id) == 56, "the block seed covers 56 bytes without padding");
_Static_assert(sizeof(struct kvci_record_header) % KVCI_SECTION_ALIGN_BYTES == 0, "the section table follows at once");

/* The format is what it is: docs/format-record.md. */
#define RECORD_AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #field " moved")
RECORD_AT(kvci_record_header, magic, 0);
RECORD_AT(kvci_record_header, version, 4);
RECORD_AT(kvci_record_header, flags, 6);
RECORD_AT(kvci_record_header, record_bytes, 8);
RECORD_AT(kvci_record_header, space, 16);
RECORD_AT(kvci_record_header, epoch, 32);
RECORD_AT(kvci_record_header, form_id, 40);
RECORD_AT(kvci_record_header, hash, 48);
RECORD_AT(kvci_record_header, parent_hash, 80);
RECORD_AT(kvci_record_header, group, 112);
RECORD_AT(kvci_record_header, shard_index, 116);
RECORD_AT(kvci_record_header, shard_count, 120);
RECORD_AT(kvci_record_header, section_count, 124);
RECORD_AT(kvci_record_header, position_tokens, 128);
RECORD_AT(kvci_record_header, token_count, 136);
RECORD_AT(kvci_record_header, reserved0, 140);
RECORD_AT(kvci_record_header, profile_id, 144);
RECORD_AT(kvci_record_header, scores_offset_64, 152);
RECORD_AT(kvci_record_header, scores_bytes, 156);
RECORD_AT(kvci_record_header, scores_checksum, 160);
RECORD_AT(kvci_record_header, reserved1, 168);
RECORD_AT(kvci_record_header, header_checksum, 184);
RECORD_AT(kvci_record_header, place_seal, 192);
RECORD_AT(kvci_record_header, reserved2, 200);
RECORD_AT(kvci_section_entry, raw_checksum, 0);
RECORD_AT(kvci_section_entry, stored_checksum, 8);
RECORD_AT(kvci_section_entry, raw_bytes, 16);
RECORD_AT(kvci_section_entry, stored_bytes, 20);
RECORD_AT(kvci_section_entry, offset_64, 24);
RECORD_AT(kvci_section_entry, codec_k, 28);
RECORD_AT(kvci_section_entry, codec_v, 30);
#undef RECORD_AT

enum {
	RECORD_FLAGS_KNOWN = KVCI_RECORD_LOSSY | KVCI_RECORD_CHUNK_KEY | KVCI_RECORD_TOMBSTONE | KVCI_RECORD_SCORES,
	RECORD_SECTIONS_MAX = KVC_FORM_LAYERS_MAX,
};
_Static_assert(KVCI_RECORD_HEAD_BYTES_MAX >= sizeof(struct kvci_record_header) +
               RECORD_SECTIONS_MAX * sizeof(struct kvci_section_entry), "every header and table fit");

uint64_t kvci_block_seed(const struct kvci_block_id *id)
{
	return kvci_checksum(id, sizeof(*id), 0);
}

static uint32_t record_section_count(const void *record)
{
	uint32_t section_count;

	memcpy(&section_count, (const uint8_t *)record + offsetof(struct kvci_record_header, section_count), sizeof(section_count));
	return section_count;
}

uint64_t kvci_record_header_checksum(const void *record)
{
	const uint8_t *bytes = record;
	struct kvci_copy_state state;

	kvci_copy_begin(&state, 0);
	kvci_copy_run(&state, NULL, bytes, KVCI_RECORD_SEALED_BYTES, KVCI_COPY_CACHED);
	kvci_copy_run(&state, NULL, bytes + sizeof(struct kvci_record_header),
	              (size_t)record_section_count(record) * sizeof(struct kvci_section_entry), KVCI_COPY_CACHED);
	return kvci_copy_end(&state);
}

uint64_t kvci_record_checksum_leading(const void *record, uint32_t section_count)
{
	const struct kvci_section_entry *sections = (const struct kvci_section_entry *)((const struct kvci_record_header *)record + 1);
	struct kvci_record_header header;
	uint32_t filled = 0;
	struct kvci_copy_state state;
	struct {
		uint64_t raw_checksum;
		uint32_t raw_bytes, zero;
	} content[64];

	_Static_assert(sizeof(content[0]) == 16, "no padding is sealed");
	memcpy(&header, record, KVCI_RECORD_SEALED_BYTES);
	header.record_bytes = 0;
	header.profile_id = 0;
	header.flags &= (uint16_t)~KVCI_RECORD_LOSSY;
	if (header.version == KVCI_RECORD_VERSION_SCORES && (header.flags & KVCI_RECORD_SCORES) != 0) {
		header.version = KVCI_RECORD_VERSION;
		header.flags &= (uint16_t)~KVCI_RECORD_SCORES;
		header.scores_offset_64 = header.scores_bytes = 0;
		header.scores_checksum = 0;
	}
	kvci_copy_begin(&state, 0);
	kvci_copy_run(&state, NULL, &header, KVCI_RECORD_SEALED_BYTES, KVCI_COPY_CACHED);
	for (uint32_t i = 0; i < section_count; i++) {
		content[filled].raw_checksum = sections[i].raw_checksum;
		content[filled].raw_bytes = sections[i].raw_bytes;
		content[filled++].zero = 0;
		if (filled == sizeof(content) / sizeof(content[0]) || i + 1 == section_count) {
			kvci_copy_run(&state, NULL, content, filled * sizeof(content[0]), KVCI_COPY_CACHED);
			filled = 0;
		}
	}
	return kvci_copy_end(&state);
}

uint64_t kvci_record_checksum(const void *record)
{
	return kvci_record_checksum_leading(record, record_section_count(record));
}

bool kvci_record_is_image_leading(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                                  const struct kvc_form_sizes *sizes, uint32_t section_count)
{
	if (header->record_bytes != sizes->record_bytes || header->version != KVCI_RECORD_VERSION)
		return false;
	for (uint32_t i = 0; i < section_count; i++)
		if (sections[i].codec_k != 0 || sections[i].codec_v != 0 || sections[i].raw_bytes != sizes->section_bytes ||
		    (uint64_t)sections[i].offset_64 * KVCI_SECTION_ALIGN_BYTES !=
		            sizes->sections_offset_bytes + i * sizes->section_stride_bytes)
			return false;
	return true;
}

bool kvci_record_is_image(const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                          const struct kvc_form_sizes *sizes)
{
	return kvci_record_is_image_leading(header, sections, sizes, header->section_count);
}

uint64_t kvci_record_write_raw(void *record, const struct kvci_record_meta *meta, const struct kvc_form *form,
                               const struct kvc_form_sizes *sizes, const uint64_t *checksums)
{
	struct kvci_record_header *header = record;
	struct kvci_section_entry *sections = (struct kvci_section_entry *)(header + 1);
	uint64_t offset_bytes = sizes->sections_offset_bytes;

	memset(record, 0, sizes->sections_offset_bytes);
	header->magic = KVCI_RECORD_MAGIC;
	header->version = KVCI_RECORD_VERSION;
	header->flags = meta->flags;
	header->record_bytes = sizes->record_bytes;
	memcpy(header->space, meta->id.space, sizeof(header->space));
	header->epoch = meta->epoch;
	header->form_id = kvc_form_id(form);
	memcpy(header->hash, meta->id.hash, sizeof(header->hash));
	memcpy(header->parent_hash, meta->parent_hash, sizeof(header->parent_hash));
	header->group = meta->id.group;
	header->shard_index = meta->id.shard_index;
	header->shard_count = meta->shard_count;
	header->section_count = form->layer_count;
	header->position_tokens = meta->position_tokens;
	header->token_count = meta->token_count;
	for (uint32_t i = 0; i < form->layer_count; i++) {
		sections[i] = (struct kvci_section_entry){
			.raw_checksum = checksums[i],
			.stored_checksum = checksums[i],
			.raw_bytes = (uint32_t)sizes->section_bytes,
			.stored_bytes = (uint32_t)sizes->section_bytes,
			.offset_64 = (uint32_t)(offset_bytes / KVCI_SECTION_ALIGN_BYTES),
		};
		offset_bytes += sizes->section_stride_bytes;
	}
	header->header_checksum = kvci_record_header_checksum(record);
	return kvci_record_checksum(record);
}

/* The fields that must hold before a length of this header is believed. */
static bool record_header_sane(const struct kvci_record_header *header, size_t available_bytes)
{
	static const uint8_t zeros[sizeof(header->reserved1)];
	uint64_t table_end_bytes;

	if (header->magic != KVCI_RECORD_MAGIC || (header->flags & ~RECORD_FLAGS_KNOWN) != 0 ||
	    header->version != ((header->flags & KVCI_RECORD_SCORES) != 0 ? KVCI_RECORD_VERSION_SCORES : KVCI_RECORD_VERSION))
		return false;
	if (header->section_count == 0 || header->section_count > RECORD_SECTIONS_MAX)
		return false;
	if (header->record_bytes == 0 || header->record_bytes % KVCI_RECORD_ALIGN_BYTES != 0 ||
	    header->record_bytes > KVCI_RECORD_BYTES_MAX)
		return false;
	table_end_bytes = sizeof(*header) + (uint64_t)header->section_count * sizeof(struct kvci_section_entry);
	if (table_end_bytes > available_bytes)
		return false;
	if (header->shard_count == 0 || header->shard_index >= header->shard_count || header->token_count == 0)
		return false;
	return header->reserved0 == 0 && memcmp(header->reserved1, zeros, sizeof(zeros)) == 0;
}

/* None; or some, between the sections' end and the record's. */
static bool record_scores_sane(const struct kvci_record_header *header, uint64_t end_bytes)
{
	uint64_t start_bytes = (uint64_t)header->scores_offset_64 * KVCI_SECTION_ALIGN_BYTES;

	if ((header->flags & KVCI_RECORD_SCORES) == 0)
		return header->scores_offset_64 == 0 && header->scores_bytes == 0 && header->scores_checksum == 0;
	return header->scores_bytes != 0 && start_bytes >= end_bytes && start_bytes + header->scores_bytes <= header->record_bytes;
}

/* Sections lie in order, apart, behind the table and inside the record, scores behind them; raw ones are as long as they say. */
static bool record_sections_sane(const struct kvci_record_header *header, const struct kvci_section_entry *sections)
{
	uint64_t raw_bytes = 0;
	uint64_t end_bytes = sizeof(*header) + (uint64_t)header->section_count * sizeof(*sections);

	for (uint32_t i = 0; i < header->section_count; i++) {
		const struct kvci_section_entry *section = &sections[i];
		uint64_t start_bytes = (uint64_t)section->offset_64 * KVCI_SECTION_ALIGN_BYTES;
		bool raw = section->codec_k == 0 && section->codec_v == 0;

		if (section->raw_bytes == 0 || start_bytes < end_bytes)
			return false;
		if (raw && (section->stored_bytes != section->raw_bytes ||
		            section->stored_checksum != section->raw_checksum))
			return false;
		raw_bytes += section->raw_bytes;
		end_bytes = start_bytes + section->stored_bytes;
		if (end_bytes > header->record_bytes)
			return false;
	}
	return raw_bytes <= KVC_BLOCK_BYTES_MAX && record_scores_sane(header, end_bytes);
}

kvc_status_t kvci_record_parse(const void *record, size_t available_bytes, const struct kvci_record_header **ret_header,
                               const struct kvci_section_entry **ret_sections)
{
	const struct kvci_record_header *header = record;
	const struct kvci_section_entry *sections = (const struct kvci_section_entry *)(header + 1);

	if (available_bytes < sizeof(*header) || !record_header_sane(header, available_bytes) ||
	    header->header_checksum != kvci_record_header_checksum(record) || !record_sections_sane(header, sections))
		return KVC_CORRUPT;
	*ret_header = header;
	*ret_sections = sections;
	return KVC_OK;
}

kvc_status_t kvci_record_is(const struct kvci_record_header *header, const struct kvci_block_id *id, uint64_t epoch)
{
	if (memcmp(header->space, id->space, sizeof(id->space)) != 0 ||
	    memcmp(header->hash, id->hash, sizeof(id->hash)) != 0 || header->group != id->group ||
	    header->shard_index != id->shard_index || (header->flags & KVCI_RECORD_TOMBSTONE) != 0)
		return KVC_MISS;
	return header->epoch == epoch ? KVC_OK : KVC_STALE_EPOCH;
}

static uint64_t record_seed(const struct kvci_record_header *header)
{
	struct kvci_block_id id = {.group = header->group, .shard_index = header->shard_index};

	memcpy(id.space, header->space, sizeof(id.space));
	memcpy(id.hash, header->hash, sizeof(id.hash));
	return kvci_block_seed(&id);
}

const uint8_t *kvci_record_scores(const void *record, const struct kvci_record_header *header, uint32_t *ret_bytes)
{
	const uint8_t *scores = (const uint8_t *)record + (uint64_t)header->scores_offset_64 * KVCI_SECTION_ALIGN_BYTES;

	if ((header->flags & KVCI_RECORD_SCORES) == 0 ||
	    kvci_checksum(scores, header->scores_bytes, kvci_section_seed(record_seed(header), header->section_count)) != header->scores_checksum)
		return NULL;
	*ret_bytes = header->scores_bytes;
	return scores;
}

void kvci_record_put_scores(void *record, const uint8_t *scores, uint32_t scores_bytes, uint64_t *end_bytes)
{
	struct kvci_record_header *header = record;
	uint64_t at = (*end_bytes + KVCI_SECTION_ALIGN_BYTES - 1) / KVCI_SECTION_ALIGN_BYTES * KVCI_SECTION_ALIGN_BYTES;

	memset((uint8_t *)record + *end_bytes, 0, at - *end_bytes);
	memcpy((uint8_t *)record + at, scores, scores_bytes);
	header->version = KVCI_RECORD_VERSION_SCORES;
	header->flags |= KVCI_RECORD_SCORES;
	header->scores_offset_64 = (uint32_t)(at / KVCI_SECTION_ALIGN_BYTES);
	header->scores_bytes = scores_bytes;
	header->scores_checksum = kvci_checksum(scores, scores_bytes, kvci_section_seed(record_seed(header), header->section_count));
	*end_bytes = at + scores_bytes;
}

kvc_status_t kvci_record_verify_some(const void *record, const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                                     uint64_t available_bytes, uint32_t *section)
{
	uint64_t seed = record_seed(header);
	uint32_t scores_bytes;

	for (; *section < header->section_count; ++*section) {
		const struct kvci_section_entry *entry = &sections[*section];
		uint64_t offset_bytes = (uint64_t)entry->offset_64 * KVCI_SECTION_ALIGN_BYTES;

		if (offset_bytes + entry->stored_bytes > available_bytes)
			return KVC_OK;
		if (kvci_checksum((const uint8_t *)record + offset_bytes, entry->stored_bytes, kvci_section_seed(seed, *section)) !=
		    entry->stored_checksum)
			return KVC_CORRUPT;
	}
	if (available_bytes >= header->record_bytes && (header->flags & KVCI_RECORD_SCORES) != 0 &&
	    kvci_record_scores(record, header, &scores_bytes) == NULL)
		return KVC_CORRUPT;
	return KVC_OK;
}

void kvci_record_drop_scores(void *record)
{
	struct kvci_record_header *header = record;

	header->version = KVCI_RECORD_VERSION;
	header->flags &= (uint16_t)~KVCI_RECORD_SCORES;
	header->scores_offset_64 = header->scores_bytes = 0;
	header->scores_checksum = 0;
	header->header_checksum = kvci_record_header_checksum(record);
}

kvc_status_t kvci_record_verify(const void *record, const struct kvci_record_header *header,
                                const struct kvci_section_entry *sections, uint32_t *ret_section)
{
	uint32_t section = 0;
	kvc_status_t status = kvci_record_verify_some(record, header, sections, header->record_bytes, &section);

	if (status != KVC_OK && ret_section != NULL)
		*ret_section = section;
	return status;
}
