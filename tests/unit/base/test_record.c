/* SPDX-License-Identifier: Apache-2.0
 * Records: what was written parses and verifies; what was changed by a bit, cut, or moved does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/record.h"
#include "tests/support/random.h"

struct sample {
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	struct kvci_record_meta meta;
	uint8_t *record;
	uint64_t checksum;
};

/* A record of `layers` sections of 8 * `dim` bytes with random bytes in them. */
static struct sample sample_make(uint32_t layers, uint32_t dim, uint8_t mark)
{
	struct sample sample = {
		.form = {
			.struct_bytes = sizeof(struct kvc_form), .layer_count = layers, .block_tokens = 8,
			.engine_block_tokens = 4, .kv_heads = 1, .head_dim_k = dim, .dtype = KVC_DTYPE_OPAQUE8,
			.arrangement = KVC_KV_LATENT, .group_rule = KVC_GROUP_FULL, .shard_count = 2, .shard_index = 1,
		},
		.meta = {.id = {.group = 0, .shard_index = 1}, .epoch = 3, .position_tokens = 512, .token_count = 8,
		         .shard_count = 2},
	};
	uint64_t *checksums = kvci_alloc_zero(layers, sizeof(uint64_t));
	uint64_t seed;

	memset(sample.meta.id.space, mark, KVCI_SPACE_BYTES);
	memset(sample.meta.id.hash, mark + 1, KVCI_HASH_BYTES);
	memset(sample.meta.parent_hash, mark + 2, KVCI_HASH_BYTES);
	assert_int_equal(kvc_form_sizes(&sample.form, &sample.sizes, NULL), KVC_OK);
	sample.record = kvci_alloc_aligned(4096, sample.sizes.record_bytes);
	assert_non_null(sample.record);
	assert_non_null(checksums);
	for (size_t i = 0; i < sample.sizes.record_bytes; i++)
		sample.record[i] = (uint8_t)random_next();
	seed = kvci_block_seed(&sample.meta.id);
	for (uint32_t i = 0; i < layers; i++)
		checksums[i] = kvci_checksum(sample.record + sample.sizes.sections_offset_bytes +
		                             i * sample.sizes.section_stride_bytes, sample.sizes.section_bytes,
		                             kvci_section_seed(seed, i));
	sample.checksum = kvci_record_write_raw(sample.record, &sample.meta, &sample.form, &sample.sizes, checksums);
	kvci_free(checksums);
	return sample;
}

static kvc_status_t sample_check(const uint8_t *record, size_t bytes)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	kvc_status_t status = kvci_record_parse(record, bytes, &header, &sections);

	if (status == KVC_OK && header->record_bytes > bytes)
		return KVC_CORRUPT;
	return status != KVC_OK ? status : kvci_record_verify(record, header, sections, NULL);
}

static void test_record__verified_as_it_comes__each_section_when_it_is_there(void **context)
{
	struct sample sample = sample_make(30, 77, 0x11);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint32_t section = 0;
	uint8_t *inside;

	(void)context;
	assert_int_equal(kvci_record_parse(sample.record, sample.sizes.record_bytes, &header, &sections), KVC_OK);
	for (uint64_t there = 0; there <= header->record_bytes; there += 64) {
		uint32_t whole = 0;

		while (whole < 30 && (uint64_t)sections[whole].offset_64 * 64 + sections[whole].stored_bytes <= there)
			whole++;
		assert_int_equal(kvci_record_verify_some(sample.record, header, sections, there, &section), KVC_OK);
		assert_int_equal(section, whole);
	}
	assert_int_equal(section, 30);
	inside = sample.record + (uint64_t)sections[17].offset_64 * 64 + 5;
	*inside ^= 4;
	section = 0;
	assert_int_equal(kvci_record_verify_some(sample.record, header, sections, (uint64_t)sections[17].offset_64 * 64, &section), KVC_OK);
	assert_int_equal(kvci_record_verify_some(sample.record, header, sections, header->record_bytes, &section), KVC_CORRUPT);
	assert_int_equal(section, 17);
	kvci_free(sample.record);
}

static void test_record__written__parses_verifies_and_says_who_it_is(void **context)
{
	static const uint32_t layers[] = {1, 2, 30, 119, 120, 121, 1024};

	(void)context;
	for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
		struct sample sample = sample_make(layers[i], 5 + (uint32_t)i * 40, 0x11);
		const struct kvci_record_header *header;
		const struct kvci_section_entry *sections;
		uint32_t section = 77;

		assert_int_equal(kvci_record_parse(sample.record, sample.sizes.record_bytes, &header, &sections), KVC_OK);
		assert_int_equal(kvci_record_verify(sample.record, header, sections, &section), KVC_OK);
		assert_int_equal(section, 77);
		assert_int_equal(header->section_count, layers[i]);
		assert_int_equal(header->form_id, kvc_form_id(&sample.form));
		assert_int_equal(header->record_bytes, sample.sizes.record_bytes);
		assert_int_equal(kvci_record_checksum(sample.record), sample.checksum);
		assert_int_equal(header->header_checksum, kvci_record_header_checksum(sample.record));
		assert_true(kvci_record_is_image(header, sections, &sample.sizes));
		assert_int_equal(kvci_record_is(header, &sample.meta.id, 3), KVC_OK);
		/* The head alone is enough to parse. */
		if (sample.sizes.record_bytes > KVCI_RECORD_HEAD_BYTES_MAX)
			assert_int_equal(kvci_record_parse(sample.record, KVCI_RECORD_HEAD_BYTES_MAX, &header, &sections), KVC_OK);
		kvci_free(sample.record);
	}
}

static void test_record_is__another_key_or_epoch__miss(void **context)
{
	struct sample sample = sample_make(2, 16, 0x11);
	struct kvci_record_header header;

	(void)context;
	memcpy(&header, sample.record, sizeof(header));
	for (size_t at = 0; at < sizeof(struct kvci_block_id); at++) {
		struct kvci_block_id id = sample.meta.id;

		((uint8_t *)&id)[at] ^= 0x40;
		assert_int_equal(kvci_record_is(&header, &id, 3), KVC_MISS);
	}
	assert_int_equal(kvci_record_is(&header, &sample.meta.id, 2), KVC_STALE_EPOCH);
	assert_int_equal(kvci_record_is(&header, &sample.meta.id, 4), KVC_STALE_EPOCH);
	header.flags |= KVCI_RECORD_TOMBSTONE;
	assert_int_equal(kvci_record_is(&header, &sample.meta.id, 3), KVC_MISS);
	kvci_free(sample.record);
}

/* Every bit of header and table, and of the sections. The place seal, the rest of the header and what lies between sections is
 * nobody's: it changes nothing. */
static void test_record__any_bit_flipped__refused_or_not_covered(void **context)
{
	struct sample sample = sample_make(3, 9, 0x11); /* 72 bytes a section, 56 between them */
	uint64_t covered_end = sizeof(struct kvci_record_header) + 3 * sizeof(struct kvci_section_entry);

	(void)context;
	for (size_t at = 0; at < sample.sizes.record_bytes; at++) {
		size_t in_sections = at - sample.sizes.sections_offset_bytes;
		int covered = at < KVCI_RECORD_SEALED_BYTES + sizeof(uint64_t) ||
		              (at >= sizeof(struct kvci_record_header) && at < covered_end) ||
		              (at >= sample.sizes.sections_offset_bytes && in_sections / 128 < 3 && in_sections % 128 < 72);

		for (int bit = 0; bit < 8; bit++) {
			sample.record[at] ^= (uint8_t)(1 << bit);
			assert_int_equal(sample_check(sample.record, sample.sizes.record_bytes), covered ? KVC_CORRUPT : KVC_OK);
			sample.record[at] ^= (uint8_t)(1 << bit);
		}
	}
	kvci_free(sample.record);
}

static void test_record__cut_anywhere__never_read_behind(void **context)
{
	struct sample sample = sample_make(40, 64, 0x11);

	(void)context;
	for (size_t bytes = 0; bytes < 1600; bytes++) {
		uint8_t *cut = kvci_alloc_aligned(64, bytes == 0 ? 1 : bytes); /* the sanitizer guards its end */
		const struct kvci_record_header *header;
		const struct kvci_section_entry *sections;
		kvc_status_t status;

		assert_non_null(cut);
		memcpy(cut, sample.record, bytes);
		status = kvci_record_parse(cut, bytes, &header, &sections);
		assert_int_equal(status, bytes >= 256 + 40 * 32 ? KVC_OK : KVC_CORRUPT);
		kvci_free(cut);
	}
	kvci_free(sample.record);
}

/* Sections of two records of one form, or of one record, in each other's place: right bytes, right sums, wrong record. */
static void test_record__sections_swapped__refused(void **context)
{
	struct sample a = sample_make(4, 64, 0x11), b = sample_make(4, 64, 0x21);
	struct kvci_section_entry *table_a = (struct kvci_section_entry *)(void *)(a.record + 256);
	struct kvci_section_entry *table_b = (struct kvci_section_entry *)(void *)(b.record + 256);
	uint8_t *section_a = a.record + a.sizes.sections_offset_bytes;
	uint8_t *section_b = b.record + b.sizes.sections_offset_bytes;
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)a.record;
	struct kvci_section_entry entry = table_a[0];

	(void)context;
	/* The bytes with their entry, from the other record; the head sealed anew as an attacker could. */
	memcpy(section_a, section_b, a.sizes.section_bytes);
	table_a[0] = table_b[0];
	header->header_checksum = kvci_record_header_checksum(a.record);
	assert_int_equal(sample_check(a.record, a.sizes.record_bytes), KVC_CORRUPT);
	/* Two sections of one record. */
	table_b[0].raw_checksum = table_b[0].stored_checksum = table_b[1].raw_checksum;
	memcpy(section_b, section_b + b.sizes.section_stride_bytes, b.sizes.section_bytes);
	header = (struct kvci_record_header *)(void *)b.record;
	header->header_checksum = kvci_record_header_checksum(b.record);
	assert_int_equal(sample_check(b.record, b.sizes.record_bytes), KVC_CORRUPT);
	assert_int_equal(entry.offset_64, table_a[0].offset_64);
	kvci_free(a.record);
	kvci_free(b.record);
}

static void test_record_verify__damaged_section__named(void **context)
{
	struct sample sample = sample_make(7, 64, 0x11);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint32_t section = 77;

	(void)context;
	sample.record[sample.sizes.sections_offset_bytes + 5 * sample.sizes.section_stride_bytes + 9] ^= 1;
	assert_int_equal(kvci_record_parse(sample.record, sample.sizes.record_bytes, &header, &sections), KVC_OK);
	assert_int_equal(kvci_record_verify(sample.record, header, sections, &section), KVC_CORRUPT);
	assert_int_equal(section, 5);
	kvci_free(sample.record);
}

/* Fields that lie, under a checksum that fits: what a broken or hostile writer could leave. */
static void test_record_parse__lies_under_a_right_checksum__refused(void **context)
{
#define HEADER(field, value) {#field, offsetof(struct kvci_record_header, field), \
		sizeof(((struct kvci_record_header *)0)->field), value}
#define SECTION(index, field, value) {#field, 256 + (index) * 32 + offsetof(struct kvci_section_entry, field), \
		sizeof(((struct kvci_section_entry *)0)->field), value}
	static const struct {
		const char *name;
		size_t offset, bytes;
		uint64_t value;
	} lies[] = {
		HEADER(magic, 0), HEADER(version, 0), HEADER(version, 1), HEADER(version, 3), HEADER(flags, 8), HEADER(flags, 0x8000),
		HEADER(record_bytes, 0), HEADER(record_bytes, 20865), HEADER(record_bytes, 20480),
		HEADER(record_bytes, UINT64_MAX - 4095), HEADER(record_bytes, UINT64_C(1) << 40),
		HEADER(shard_count, 0), HEADER(shard_count, 1), HEADER(shard_index, 2),
		HEADER(token_count, 0), HEADER(reserved0, 1),
		SECTION(0, raw_bytes, 0), SECTION(0, raw_bytes, 5119), SECTION(0, stored_bytes, 5119),
		SECTION(0, stored_bytes, UINT32_MAX), SECTION(2, raw_bytes, UINT32_MAX),
		SECTION(0, offset_64, 0), SECTION(0, offset_64, 5), SECTION(0, offset_64, UINT32_MAX),
		SECTION(1, offset_64, 6), SECTION(1, offset_64, 85), SECTION(2, offset_64, UINT32_MAX), SECTION(3, offset_64, 305),
		SECTION(3, raw_checksum, 1),
	};
	struct sample sample = sample_make(4, 640, 0x11);
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)sample.record;
	const struct kvci_record_header *ret_header;
	const struct kvci_section_entry *sections;
	size_t bytes = sample.sizes.record_bytes;
	uint8_t saved[4096];

	(void)context;
	assert_int_equal(sample.sizes.sections_offset_bytes, 384);
	assert_int_equal(sample.sizes.record_bytes, 24576);
	memcpy(saved, sample.record, 4096);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		memcpy(sample.record + lies[i].offset, &lies[i].value, lies[i].bytes);
		header->header_checksum = kvci_record_header_checksum(sample.record);
		if (kvci_record_parse(sample.record, bytes, &ret_header, &sections) != KVC_CORRUPT)
			fail_msg("%s = %llu passed", lies[i].name, (unsigned long long)lies[i].value);
		memcpy(sample.record, saved, 4096);
	}
	for (uint64_t count = 0; count < 3; count++) { /* the count decides how far the checksum reads */
		static const uint32_t counts[] = {0, 1025, UINT32_MAX};

		header->section_count = counts[count];
		assert_int_equal(kvci_record_parse(sample.record, bytes, &ret_header, &sections), KVC_CORRUPT);
	}
	memcpy(sample.record, saved, 4096);
	header->reserved1[15] = 1;
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_int_equal(kvci_record_parse(sample.record, bytes, &ret_header, &sections), KVC_CORRUPT);
	memcpy(sample.record, saved, 4096);
	for (uint32_t i = 0; i < 4; i++) { /* coded sections that would unpack to 2^30 bytes in all, then to one more */
		struct kvci_section_entry *entry = (struct kvci_section_entry *)(void *)(sample.record + 256) + i;

		entry->codec_k = entry->codec_v = 1;
		entry->raw_bytes = 1 << 28;
	}
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_int_equal(kvci_record_parse(sample.record, bytes, &ret_header, &sections), KVC_OK);
	((struct kvci_section_entry *)(void *)(sample.record + 256))->raw_bytes++;
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_int_equal(kvci_record_parse(sample.record, bytes, &ret_header, &sections), KVC_CORRUPT);
	memcpy(sample.record, saved, 4096);
	assert_int_equal(sample_check(sample.record, sample.sizes.record_bytes), KVC_OK);
	kvci_free(sample.record);
}

/* A coded unit over several sections: the first holds the bytes, the others hold none. The format has room for it. */
static void test_record_parse__coded_sections__accepted(void **context)
{
	struct sample sample = sample_make(4, 64, 0x11);
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)sample.record;
	struct kvci_section_entry *table = (struct kvci_section_entry *)(void *)(sample.record + 256);
	const struct kvci_block_id *id = &sample.meta.id;

	(void)context;
	for (uint32_t i = 0; i < 4; i++) {
		table[i].codec_k = table[i].codec_v = 9;
		table[i].stored_bytes = i == 0 ? 100 : 0;
		table[i].offset_64 = i == 0 ? 6 : 8;
		table[i].stored_checksum = kvci_checksum(sample.record + 64 * (uint64_t)table[i].offset_64,
		                                         table[i].stored_bytes,
		                                         kvci_section_seed(kvci_block_seed(id), i));
	}
	header->record_bytes = 4096;
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_int_equal(sample_check(sample.record, 4096), KVC_OK);
	sample.record[6 * 64 + 99] ^= 1;
	assert_int_equal(sample_check(sample.record, 4096), KVC_CORRUPT);
	kvci_free(sample.record);
}

/* Scores lie behind the sections, are checked, and change nothing of what the record is. */
static void test_record__scores__kept_checked_and_not_sealed(void **context)
{
	struct sample sample = sample_make(4, 64, 0x11);
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)sample.record, saved;
	uint64_t end = sample.sizes.sections_offset_bytes + 3 * sample.sizes.section_stride_bytes + sample.sizes.section_bytes, before = end;
	const struct kvci_record_header *parsed;
	const struct kvci_section_entry *sections;
	uint32_t bytes = 0, section = 77;
	uint8_t scores[24];

	(void)context;
	for (size_t i = 0; i < sizeof(scores); i++)
		scores[i] = (uint8_t)random_next();
	assert_int_equal(kvci_record_parse(sample.record, 4096, &parsed, &sections), KVC_OK);
	assert_null(kvci_record_scores(sample.record, parsed, &bytes));
	assert_true(sample.sizes.record_bytes == 4096 && end + 64 + sizeof(scores) <= 4096);
	kvci_record_put_scores(sample.record, scores, sizeof(scores), &end);
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_true(end >= before + sizeof(scores) && end <= before + 63 + sizeof(scores));
	assert_int_equal(sample_check(sample.record, 4096), KVC_OK);
	assert_int_equal(kvci_record_checksum(sample.record), sample.checksum);
	assert_int_equal(kvci_record_parse(sample.record, 4096, &parsed, &sections), KVC_OK);
	assert_false(kvci_record_is_image(parsed, sections, &sample.sizes)); /* in memory there are none */
	assert_memory_equal(kvci_record_scores(sample.record, parsed, &bytes), scores, sizeof(scores));
	assert_int_equal(bytes, sizeof(scores));
	for (size_t i = 0; i < sizeof(scores); i++) {
		sample.record[end - 1 - i] ^= 4;
		assert_null(kvci_record_scores(sample.record, parsed, &bytes));
		assert_int_equal(kvci_record_verify(sample.record, parsed, sections, &section), KVC_CORRUPT);
		assert_int_equal(section, 4);
		sample.record[end - 1 - i] ^= 4;
	}
	memcpy(&saved, header, sizeof(saved));
	for (int lie = 0; lie < 8; lie++) {
		memcpy(header, &saved, sizeof(saved));
		if (lie == 0)
			header->version = 2;
		else if (lie == 1)
			header->flags = 0;
		else if (lie == 2)
			header->scores_bytes = 0;
		else if (lie == 3)
			header->scores_bytes = UINT32_MAX;
		else if (lie == 4)
			header->scores_offset_64 = UINT32_MAX;
		else if (lie == 5)
			header->scores_offset_64--; /* in the last section */
		else if (lie == 6)
			header->scores_offset_64 = 64; /* behind the record */
		else
			header->version = 2, header->flags = 0; /* without what says that they are there */
		header->header_checksum = kvci_record_header_checksum(sample.record);
		assert_int_equal(kvci_record_parse(sample.record, 4096, &parsed, &sections), KVC_CORRUPT);
	}
	kvci_free(sample.record);
}

/* The content seal names what is held: it does not change with the packing, and changes with all else that is sealed. */
static void test_record_checksum__packed_otherwise__same_seal(void **context)
{
	struct sample sample = sample_make(70, 64, 0x11);
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)sample.record;
	struct kvci_section_entry *table = (struct kvci_section_entry *)(void *)(sample.record + 256);
	size_t head_bytes = 256 + 70 * sizeof(*table);
	uint64_t own = header->header_checksum;

	(void)context;
	assert_int_not_equal(own, sample.checksum);
	for (size_t at = 0; at < head_bytes; at++) {
		size_t in_entry = (at - 256) % 32;
		bool flag = at == offsetof(struct kvci_record_header, flags);
		bool packing = at < 256 ? (at >= 8 && at < 16) || (at >= 144 && at < 152) || at >= KVCI_RECORD_SEALED_BYTES
		                        : (in_entry >= 8 && in_entry < 16) || in_entry >= 20;

		for (int bit = 0; bit < 8; bit++) {
			if (at >= 124 && at < 128)
				continue; /* section_count says how far it reads */
			sample.record[at] ^= (uint8_t)(1 << bit);
			assert_int_equal(kvci_record_checksum(sample.record) == sample.checksum,
			                 packing || (flag && 1 << bit == KVCI_RECORD_LOSSY));
			assert_int_equal(kvci_record_header_checksum(sample.record) == own,
			                 at < 256 && at >= KVCI_RECORD_SEALED_BYTES);
			sample.record[at] ^= (uint8_t)(1 << bit);
		}
	}
	kvci_free(sample.record);
}

/* The seal of what is there of a record that is still being made: nothing else is read, and all that is there counts. */
static void test_record_checksum_leading__of_some_sections__reads_these_alone(void **context)
{
	struct sample sample = sample_make(70, 64, 0x11);
	size_t head_bytes = 256 + 70 * 32;

	(void)context;
	assert_int_equal(kvci_record_checksum_leading(sample.record, 70), sample.checksum);
	for (uint32_t count = 0; count < 70; count += 23) {
		uint64_t seal = kvci_record_checksum_leading(sample.record, count);

		assert_int_not_equal(seal, kvci_record_checksum_leading(sample.record, count + 1));
		for (size_t at = 0; at < head_bytes; at++) {
			bool counts = at < 256 ? at >= 16 && (at < 144 || at >= 152) && at < KVCI_RECORD_SEALED_BYTES
			                       : (at - 256) / 32 < count && ((at - 256) % 32 < 8 || ((at - 256) % 32 >= 16 && (at - 256) % 32 < 20));

			if (at < 8)
				continue; /* flags and version: as with the whole seal */
			sample.record[at] ^= 0x10;
			assert_int_equal(kvci_record_checksum_leading(sample.record, count) != seal, counts);
			sample.record[at] ^= 0x10;
		}
	}
	kvci_free(sample.record);
}

/* A table that is whole and sealed, and leads elsewhere: what the owner of a slab could write. */
static void test_record_is_image__table_that_leads_elsewhere__refused(void **context)
{
	struct sample sample = sample_make(4, 64, 0x11); /* 512 bytes a section */
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)sample.record;
	struct kvci_section_entry *table = (struct kvci_section_entry *)(void *)(sample.record + 256);
	const struct kvci_record_header *parsed;
	const struct kvci_section_entry *sections;
	struct kvc_form_sizes other = sample.sizes;

	(void)context;
	assert_int_equal(kvci_record_parse(sample.record, sample.sizes.record_bytes, &parsed, &sections), KVC_OK);
	assert_true(kvci_record_is_image(parsed, sections, &sample.sizes));
	other.record_bytes += 4096;
	assert_false(kvci_record_is_image(parsed, sections, &other));
	table[3].offset_64++;
	header->header_checksum = kvci_record_header_checksum(sample.record);
	assert_int_equal(kvci_record_parse(sample.record, sample.sizes.record_bytes, &parsed, &sections), KVC_OK);
	assert_int_equal(kvci_record_checksum(sample.record), sample.checksum);
	assert_false(kvci_record_is_image(parsed, sections, &sample.sizes));
	table[3].offset_64--;
	table[2].codec_v = 1;
	assert_false(kvci_record_is_image(parsed, sections, &sample.sizes));
	table[2].codec_v = 0;
	assert_true(kvci_record_is_image(parsed, sections, &sample.sizes));
	kvci_free(sample.record);
}

static void test_block_seed__each_part_of_the_id__counts(void **context)
{
	struct kvci_block_id id = {{0}, {0}, 0, 0};
	uint64_t seed = kvci_block_seed(&id);

	(void)context;
	for (size_t at = 0; at < sizeof(id); at++) {
		struct kvci_block_id other = id;

		((uint8_t *)&other)[at] ^= 1;
		assert_int_not_equal(kvci_block_seed(&other), seed);
	}
	assert_int_not_equal(kvci_section_seed(seed, 0), seed);
	assert_int_not_equal(kvci_section_seed(seed, 0), kvci_section_seed(seed, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record__written__parses_verifies_and_says_who_it_is),
		cmocka_unit_test(test_record__verified_as_it_comes__each_section_when_it_is_there),
		cmocka_unit_test(test_record_is__another_key_or_epoch__miss),
		cmocka_unit_test(test_record__any_bit_flipped__refused_or_not_covered),
		cmocka_unit_test(test_record__cut_anywhere__never_read_behind),
		cmocka_unit_test(test_record__sections_swapped__refused),
		cmocka_unit_test(test_record_verify__damaged_section__named),
		cmocka_unit_test(test_record_parse__lies_under_a_right_checksum__refused),
		cmocka_unit_test(test_record_parse__coded_sections__accepted),
		cmocka_unit_test(test_record__scores__kept_checked_and_not_sealed),
		cmocka_unit_test(test_record_checksum__packed_otherwise__same_seal),
		cmocka_unit_test(test_record_checksum_leading__of_some_sections__reads_these_alone),
		cmocka_unit_test(test_record_is_image__table_that_leads_elsewhere__refused),
		cmocka_unit_test(test_block_seed__each_part_of_the_id__counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
