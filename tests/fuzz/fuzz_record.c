/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a record. The first byte says how the rest is taken:
 *   even  the bytes are the record (its checksum repaired, so that what lies behind it is reached): parsing stays inside them, and what it
 *         accepts lies inside the record
 *   odd   the bytes are changes to a good record, four each (place, place, what to xor, unused): parse and verify pass
 *         only when no covered byte changed
 */
#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/record.h"
#include "tests/fuzz/fuzz.h"

enum { LAYERS = 5, GOOD_BYTES = 4096, SECTION_BYTES = 300 };

static uint8_t *good_record(struct kvc_form_sizes *ret_sizes)
{
	const struct kvc_form form = {
		.struct_bytes = sizeof(struct kvc_form), .layer_count = LAYERS, .block_tokens = 4, .engine_block_tokens = 2,
		.kv_heads = 1, .head_dim_k = SECTION_BYTES / 4, .dtype = KVC_DTYPE_OPAQUE8, .arrangement = KVC_KV_LATENT,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	const struct kvci_record_meta meta = {.id = {.space = {1}, .hash = {2}}, .epoch = 3, .token_count = 4, .shard_count = 1};
	uint8_t *record = kvci_alloc_aligned(64, GOOD_BYTES);
	uint64_t checksums[LAYERS];

	FUZZ_CHECK(record != NULL && kvc_form_sizes(&form, ret_sizes, NULL) == KVC_OK);
	FUZZ_CHECK(ret_sizes->record_bytes == GOOD_BYTES && ret_sizes->section_bytes == SECTION_BYTES);
	memset(record, 0, GOOD_BYTES);
	for (uint32_t i = 0; i < LAYERS; i++) {
		uint8_t *section = record + ret_sizes->sections_offset_bytes + i * ret_sizes->section_stride_bytes;

		for (uint32_t at = 0; at < SECTION_BYTES; at++)
			section[at] = (uint8_t)(at * 7 + i);
		checksums[i] = kvci_checksum(section, SECTION_BYTES, kvci_section_seed(kvci_block_seed(&meta.id), i));
	}
	kvci_record_write_raw(record, &meta, &form, ret_sizes, checksums);
	return record;
}

/* Covered: sealed bytes, header checksum, table, sections. */
static int good_covers(const struct kvc_form_sizes *sizes, size_t at)
{
	size_t table_end = sizeof(struct kvci_record_header) + LAYERS * sizeof(struct kvci_section_entry);
	size_t in_sections = at - sizes->sections_offset_bytes;

	if (at < sizeof(struct kvci_record_header))
		return at < KVCI_RECORD_SEALED_BYTES + sizeof(uint64_t);
	if (at < sizes->sections_offset_bytes)
		return at < table_end;
	return in_sections / sizes->section_stride_bytes < LAYERS && in_sections % sizes->section_stride_bytes < SECTION_BYTES;
}

static void fuzz_changes(const uint8_t *bytes, size_t length)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	struct kvc_form_sizes sizes;
	uint8_t *good = good_record(&sizes), *changed = good_record(&sizes);
	kvc_status_t status;
	int same = 1;

	for (size_t i = 0; i + 4 <= length; i += 4)
		changed[(bytes[i] | (size_t)bytes[i + 1] << 8) % GOOD_BYTES] ^= bytes[i + 2];
	for (size_t at = 0; at < GOOD_BYTES; at++)
		same = same && (changed[at] == good[at] || !good_covers(&sizes, at));
	status = kvci_record_parse(changed, GOOD_BYTES, &header, &sections);
	if (status == KVC_OK && header->record_bytes <= GOOD_BYTES)
		status = kvci_record_verify(changed, header, sections, NULL);
	FUZZ_CHECK((status == KVC_OK) == (same != 0));
	FUZZ_CHECK(status == KVC_OK || status == KVC_CORRUPT);
	kvci_free(good);
	kvci_free(changed);
}

/* With a checksum that fits, where there is room for one. */
static void repair(uint8_t *record, size_t length)
{
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)record;

	if (length < sizeof(*header) || header->section_count > KVC_FORM_LAYERS_MAX ||
	    length < sizeof(*header) + header->section_count * sizeof(struct kvci_section_entry))
		return;
	header->magic = KVCI_RECORD_MAGIC;
	header->version = (header->flags & KVCI_RECORD_SCORES) != 0 ? KVCI_RECORD_VERSION_SCORES : KVCI_RECORD_VERSION;
	header->header_checksum = kvci_record_header_checksum(record);
}

static void fuzz_record(const uint8_t *bytes, size_t length)
{
	uint8_t *record = kvci_alloc_aligned(8, length == 0 ? 1 : length);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint64_t end = 0;
	uint32_t damaged;

	FUZZ_CHECK(record != NULL);
	memcpy(record, bytes, length);
	repair(record, length);
	if (kvci_record_parse(record, length, &header, &sections) == KVC_OK) {
		FUZZ_CHECK(header->section_count >= 1 && header->section_count <= KVC_FORM_LAYERS_MAX);
		FUZZ_CHECK((const uint8_t *)(sections + header->section_count) <= record + length);
		for (uint32_t i = 0; i < header->section_count; i++) {
			FUZZ_CHECK(sections[i].offset_64 * UINT64_C(64) >= end);
			end = sections[i].offset_64 * UINT64_C(64) + sections[i].stored_bytes;
			FUZZ_CHECK(end <= header->record_bytes);
		}
		if ((header->flags & KVCI_RECORD_SCORES) != 0) {
			FUZZ_CHECK(header->scores_offset_64 * UINT64_C(64) >= end);
			FUZZ_CHECK(header->scores_offset_64 * UINT64_C(64) + header->scores_bytes <= header->record_bytes);
		}
		if (header->record_bytes <= length && kvci_record_verify(record, header, sections, &damaged) != KVC_OK)
			FUZZ_CHECK(damaged < header->section_count + ((header->flags & KVCI_RECORD_SCORES) != 0));
	}
	kvci_free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	if (length == 0)
		return 0;
	if (bytes[0] % 2 == 0)
		fuzz_record(bytes + 1, length - 1);
	else
		fuzz_changes(bytes + 1, length - 1);
	return 0;
}
