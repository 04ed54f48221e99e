/* SPDX-License-Identifier: Apache-2.0
 *
 * Formats against the files of tests/golden/, byte for byte, and against the tables of docs/format-record.md.
 *
 *   test_golden            compares
 *   test_golden --write    rewrites the files: only together with a new format version
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/record.h"
#include "cache/space.h"

#define GOLDEN KVC_SOURCE_DIR "/tests/golden/"

enum { TEXT_MAX = 8192, RECORD_SECTIONS = 3 };

static const struct kvc_form golden_forms[] = {
	/* SmolLM2-135M as vLLM holds it on a CPU */
	{64, 30, 256, 32, 3, 64, 64, KVC_DTYPE_BF16, KVC_KV_FUSED, KVC_ORDER_HN, 0, KVC_GROUP_FULL, 0, 0, 1, 0},
	/* Llama-3.1-8B, second of two tensor-parallel ranks */
	{64, 32, 256, 16, 4, 128, 128, KVC_DTYPE_BF16, KVC_KV_SPLIT, KVC_ORDER_NH, 0, KVC_GROUP_FULL, 0, 1, 2, 0},
	/* latent rows with scales */
	{64, 61, 64, 64, 1, 576, 0, KVC_DTYPE_OPAQUE8, KVC_KV_LATENT, 0, 0, KVC_GROUP_FULL, 0, 0, 1, 512},
	/* a window group */
	{64, 24, 128, 16, 8, 256, 256, KVC_DTYPE_F8_E4M3, KVC_KV_FUSED, KVC_ORDER_HN, 1, KVC_GROUP_WINDOW, 1024, 0, 1, 0},
};

static struct kvci_space golden_space(void)
{
	return (struct kvci_space){
		.tenant = "default", .model = "3f0c", .model_name = "SmolLM2-135M-Instruct", .kv_dtype = "bfloat16",
		.kv_quant = "", .rope = "theta=100000", .adapter = NULL, .hash_algorithm = "sha256_cbor",
		.hash_root = "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0", .extra = "",
	};
}

static struct kvci_block_id golden_id(void)
{
	struct kvci_block_id id = {.group = 0, .shard_index = 1};

	for (uint8_t i = 0; i < sizeof(id.space); i++)
		id.space[i] = (uint8_t)(0x10 + i);
	for (uint8_t i = 0; i < sizeof(id.hash); i++)
		id.hash[i] = (uint8_t)(0x80 + i);
	return id;
}

/* Three sections of 200 bytes, in 4 KiB; the rest zeros. */
static uint64_t golden_record(uint8_t record[4096])
{
	struct kvc_form form = {64, RECORD_SECTIONS, 8, 4, 1, 25, 0, KVC_DTYPE_OPAQUE8, KVC_KV_LATENT, 0,
	                        0, KVC_GROUP_FULL, 0, 1, 2, 0};
	struct kvci_record_meta meta = {.id = golden_id(), .epoch = 7, .position_tokens = 4096, .token_count = 8,
	                                .shard_count = 2};
	struct kvc_form_sizes sizes;
	uint64_t checksums[RECORD_SECTIONS], seed = kvci_block_seed(&meta.id);

	memset(meta.parent_hash, 0x5a, sizeof(meta.parent_hash));
	memset(record, 0, 4096);
	if (kvc_form_sizes(&form, &sizes, NULL) != KVC_OK || sizes.record_bytes != 4096)
		abort();
	for (uint32_t i = 0; i < RECORD_SECTIONS; i++) {
		uint8_t *section = record + sizes.sections_offset_bytes + i * sizes.section_stride_bytes;

		for (uint32_t at = 0; at < sizes.section_bytes; at++)
			section[at] = (uint8_t)(i * 71 + at * 13);
		checksums[i] = kvci_checksum(section, sizes.section_bytes, kvci_section_seed(seed, i));
	}
	return kvci_record_write_raw(record, &meta, &form, &sizes, checksums);
}

/* All ids and seeds as text. */
static size_t golden_text(char text[TEXT_MAX])
{
	struct kvci_block_id id = golden_id();
	struct kvci_space space = golden_space();
	uint8_t record[4096], print[KVCI_SPACE_BYTES];
	size_t used = 0;

	for (size_t i = 0; i < sizeof(golden_forms) / sizeof(golden_forms[0]); i++) {
		struct kvc_form_sizes sizes;

		if (kvc_form_sizes(&golden_forms[i], &sizes, NULL) != KVC_OK)
			abort();
		used += (size_t)snprintf(text + used, TEXT_MAX - used, "form %zu: id %016llx, section %llu, record %llu bytes\n", i,
		                         (unsigned long long)kvc_form_id(&golden_forms[i]),
		                         (unsigned long long)sizes.section_bytes, (unsigned long long)sizes.record_bytes);
	}
	used += (size_t)snprintf(text + used, TEXT_MAX - used, "block seed: %016llx\nsection seeds:",
	                         (unsigned long long)kvci_block_seed(&id));
	for (uint32_t i = 0; i < RECORD_SECTIONS; i++)
		used += (size_t)snprintf(text + used, TEXT_MAX - used, " %016llx",
		                         (unsigned long long)kvci_section_seed(kvci_block_seed(&id), i));
	used += (size_t)snprintf(text + used, TEXT_MAX - used, "\nrecord checksum: %016llx\nspace fingerprint: ",
	                         (unsigned long long)golden_record(record));
	if (kvci_space_fingerprint(&space, print) != KVC_OK)
		abort();
	for (size_t i = 0; i < sizeof(print); i++)
		used += (size_t)snprintf(text + used, TEXT_MAX - used, "%02x", print[i]);
	used += (size_t)snprintf(text + used, TEXT_MAX - used, "\n");
	return used;
}

static size_t read_file(const char *path, void *bytes, size_t room)
{
	FILE *file = fopen(path, "rb");
	size_t count;

	if (file == NULL) {
		print_error("%s: %s\n", path, strerror(errno));
		return 0;
	}
	count = fread(bytes, 1, room, file);
	fclose(file);
	return count;
}

/* The same with scores of 24 tokens and heads: version 3. */
static void golden_scores(uint8_t record[4096])
{
	uint64_t end = 4096 - 64 * 4;
	uint8_t scores[24];

	golden_record(record);
	for (uint8_t i = 0; i < sizeof(scores); i++)
		scores[i] = (uint8_t)(i * 11);
	kvci_record_put_scores(record, scores, sizeof(scores), &end);
	((struct kvci_record_header *)(void *)record)->header_checksum = kvci_record_header_checksum(record);
}

static void test_golden_record__written_today__same_bytes(void **context)
{
	_Alignas(64) uint8_t ours[4096], golden[4097];

	(void)context;
	golden_record(ours);
	assert_int_equal(read_file(GOLDEN "record-v2.bin", golden, sizeof(golden)), 4096);
	assert_memory_equal(ours, golden, 4096);
	golden_scores(ours);
	assert_int_equal(read_file(GOLDEN "record-v3.bin", golden, sizeof(golden)), 4096);
	assert_memory_equal(ours, golden, 4096);
}

static void test_golden_record__read_today__parses_and_verifies(void **context)
{
	_Alignas(64) uint8_t golden[4096];
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	struct kvci_block_id id = golden_id();

	(void)context;
	assert_int_equal(read_file(GOLDEN "record-v2.bin", golden, sizeof(golden)), 4096);
	assert_int_equal(kvci_record_parse(golden, sizeof(golden), &header, &sections), KVC_OK);
	assert_int_equal(kvci_record_verify(golden, header, sections, NULL), KVC_OK);
	assert_int_equal(kvci_record_is(header, &id, 7), KVC_OK);
	assert_int_equal(header->position_tokens, 4096);
	assert_int_equal(header->token_count, 8);
	assert_int_equal(sections[2].raw_bytes, 200);
	assert_int_equal(read_file(GOLDEN "record-v3.bin", golden, sizeof(golden)), 4096);
	assert_int_equal(kvci_record_parse(golden, sizeof(golden), &header, &sections), KVC_OK);
	assert_int_equal(kvci_record_verify(golden, header, sections, NULL), KVC_OK);
	assert_int_equal(header->scores_bytes, 24);
}

static void test_golden_record__of_version_1__refused(void **context)
{
	_Alignas(64) uint8_t golden[4096];
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;

	(void)context;
	assert_int_equal(read_file(GOLDEN "record-v1.bin", golden, sizeof(golden)), 4096);
	assert_int_equal(kvci_record_parse(golden, sizeof(golden), &header, &sections), KVC_CORRUPT);
}

static void test_golden_ids__computed_today__same_text(void **context)
{
	static char ours[TEXT_MAX], golden[TEXT_MAX];
	size_t used = golden_text(ours), got = read_file(GOLDEN "ids-v2.txt", golden, TEXT_MAX - 1);

	(void)context;
	assert_true(got > 0);
	golden[got] = '\0';
	assert_string_equal(ours, golden);
	assert_int_equal(used, got);
}

static void test_golden_space__serialized_today__same_bytes(void **context)
{
	struct kvci_space space = golden_space(), back;
	uint8_t golden[1024];
	size_t got = read_file(GOLDEN "space-v1.bin", golden, sizeof(golden)), length;
	void *bytes;

	(void)context;
	assert_int_equal(kvci_space_serialize(&space, &bytes, &length), KVC_OK);
	assert_int_equal(got, length);
	assert_memory_equal(bytes, golden, length);
	assert_int_equal(kvci_space_parse(golden, got, &back), KVC_OK);
	assert_string_equal(back.model_name, space.model_name);
	kvci_space_fini(&back);
	kvci_free(bytes);
}

/* The doc's rows "| offset | bytes | field |" in the order of the code. */
static void test_format_doc__tables__say_what_the_code_does(void **context)
{
#define ROW(type, field) {#field, offsetof(struct type, field), sizeof(((struct type *)0)->field)}
#define HEADER(field) ROW(kvci_record_header, field)
#define SECTION(field) ROW(kvci_section_entry, field)
	static const struct {
		const char *name;
		size_t offset, bytes;
	} rows[] = {
		HEADER(magic), HEADER(version), HEADER(flags), HEADER(record_bytes), HEADER(space), HEADER(epoch),
		HEADER(form_id), HEADER(hash), HEADER(parent_hash), HEADER(group), HEADER(shard_index), HEADER(shard_count),
		HEADER(section_count), HEADER(position_tokens), HEADER(token_count), HEADER(reserved0), HEADER(profile_id),
		HEADER(scores_offset_64), HEADER(scores_bytes), HEADER(scores_checksum), HEADER(reserved1), HEADER(header_checksum), HEADER(place_seal), HEADER(reserved2),
		SECTION(raw_checksum), SECTION(stored_checksum), SECTION(raw_bytes), SECTION(stored_bytes),
		SECTION(offset_64), SECTION(codec_k), SECTION(codec_v),
	};
	static char doc[32768];
	size_t got = read_file(KVC_SOURCE_DIR "/docs/format-record.md", doc, sizeof(doc) - 1), row = 0;
	char *line, *rest = doc;

	(void)context;
	assert_true(got > 0 && got < sizeof(doc) - 1);
	doc[got] = '\0';
	while ((line = strsep(&rest, "\n")) != NULL) {
		size_t offset, bytes;
		char name[64];

		if (sscanf(line, "| %zu | %zu | %63s |", &offset, &bytes, name) != 3)
			continue;
		assert_true(row < sizeof(rows) / sizeof(rows[0]));
		assert_string_equal(name, rows[row].name);
		assert_int_equal(offset, rows[row].offset);
		assert_int_equal(bytes, rows[row].bytes);
		row++;
	}
	assert_int_equal(row, sizeof(rows) / sizeof(rows[0]));
}

static int write_file(const char *path, const void *bytes, size_t count)
{
	FILE *file = fopen(path, "wb");
	int bad = file == NULL || fwrite(bytes, 1, count, file) != count;

	if (file != NULL && fclose(file) != 0)
		bad = 1;
	if (bad)
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return bad;
}

static int write_all(void)
{
	static char text[TEXT_MAX];
	struct kvci_space space = golden_space();
	_Alignas(64) uint8_t record[4096];
	void *image;
	size_t length;
	int bad;

	golden_record(record);
	if (kvci_space_serialize(&space, &image, &length) != KVC_OK)
		return 1;
	bad = write_file(GOLDEN "record-v2.bin", record, sizeof(record));
	golden_scores(record);
	bad = bad || write_file(GOLDEN "record-v3.bin", record, sizeof(record)) ||
	      write_file(GOLDEN "ids-v2.txt", text, golden_text(text)) || write_file(GOLDEN "space-v1.bin", image, length);
	kvci_free(image);
	return bad;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_record__written_today__same_bytes),
		cmocka_unit_test(test_golden_record__read_today__parses_and_verifies),
		cmocka_unit_test(test_golden_record__of_version_1__refused),
		cmocka_unit_test(test_golden_ids__computed_today__same_text),
		cmocka_unit_test(test_golden_space__serialized_today__same_bytes),
		cmocka_unit_test(test_format_doc__tables__say_what_the_code_does),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_all();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
