/* SPDX-License-Identifier: Apache-2.0
 * What the client repeats because it may not include the brain's headers is what they say; and what needs no daemon: identity, chains. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "rpc/local/proto.h"
#include "world.h"

_Static_assert((int)KVCI_WIRE_MATCH_LEASE == (int)KVCI_MATCH_LEASE, "the wire's flags are the brain's");
_Static_assert((int)KVCI_WIRE_MATCH_EXISTS == (int)KVCI_MATCH_EXISTS, "the wire's flags are the brain's");
_Static_assert((int)KVC_BLOCKS_MAX == (int)KVCI_PROTO_BLOCKS_MAX, "a call's limit is the protocol's");
_Static_assert((int)KVC_HASH_BYTES == (int)KVCI_HASH_BYTES, "hashes have one length");

static void test_contract__miss_names__are_the_brains(void **state)
{
	for (uint32_t miss = 1; miss < KVCI_MISS_COUNT; miss++)
		assert_string_equal(kvc_miss_name(miss), kvci_miss_name((enum kvci_miss)miss));
	assert_string_equal(kvc_miss_name(KVCI_MISS_COUNT), "unknown");
	assert_string_equal(kvc_miss_name(UINT32_MAX), "unknown");
}

static struct world world;
static struct kvci_space parsed;
static kvc_status_t parse_status;

static bool script_parse_bind(struct fake_server *server, const struct kvci_message *message)
{
	if (message->type == KVCI_MESSAGE_BIND && strcmp(server->script_context, "parse") == 0)
		parse_status = kvci_space_parse(server->window + message->array_offset + sizeof(struct kvc_form),
		                                message->array_bytes - sizeof(struct kvc_form), &parsed);
	return false;
}

static void test_contract__fields_of_a_space__are_read_back_by_the_brain(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = "m", .model_name = "n a m e", .kv_dtype = "bfloat16", .kv_quant = "none",
		.rope = "{\"theta\":10000}", .adapter = "a1", .hash_algorithm = "sha256_cbor", .hash_root = "00ff", .extra = "\xc3\xa4",
		.codec = "int8",
	};
	struct kvc_space *space;

	world_begin(&world, 0, 1);
	fake_set_script(&world.server, script_parse_bind, "parse");
	parse_status = KVC_PENDING;
	assert_int_equal(kvc_space_open(world.fixture.client, &desc, &form, &space), KVC_OK);
	assert_int_equal(parse_status, KVC_OK);
	assert_string_equal(parsed.model, desc.model);
	assert_string_equal(parsed.model_name, desc.model_name);
	assert_string_equal(parsed.kv_dtype, desc.kv_dtype);
	assert_string_equal(parsed.kv_quant, desc.kv_quant);
	assert_string_equal(parsed.rope, desc.rope);
	assert_string_equal(parsed.adapter, desc.adapter);
	assert_string_equal(parsed.hash_algorithm, desc.hash_algorithm);
	assert_string_equal(parsed.hash_root, desc.hash_root);
	assert_string_equal(parsed.extra, desc.extra);
	assert_string_equal(parsed.codec, desc.codec);
	assert_true(parsed.tenant == NULL || parsed.tenant[0] == '\0');
	kvci_space_fini(&parsed);
	kvc_space_close(space);
	world_end(&world);
}

/* ---- chain ---- */

static void test_contract__chain_in_pieces__is_the_chain_at_once(void **state)
{
	uint32_t tokens[100];
	uint8_t whole[6][32], pieces[6][32];
	struct kvc_chain *chain;
	size_t count, total = 0;

	for (uint32_t i = 0; i < 100; i++)
		tokens[i] = i * 977;
	assert_int_equal(kvc_chain_create(16, NULL, &chain), KVC_OK);
	assert_int_equal(kvc_chain_append(chain, tokens, 100, whole, 6, &count), KVC_OK);
	assert_int_equal(count, 6);
	kvc_chain_destroy(chain);
	assert_int_equal(kvc_chain_create(16, NULL, &chain), KVC_OK);
	for (uint32_t at = 0; at < 100; at += 7) {
		size_t n = at + 7 <= 100 ? 7 : 100 - at;

		assert_int_equal(kvc_chain_append(chain, tokens + at, n, pieces + total, 6 - total, &count), KVC_OK);
		total += count;
	}
	assert_int_equal(total, 6);
	assert_memory_equal(whole, pieces, sizeof(whole));
	assert_int_equal(kvc_chain_append(chain, tokens, 100, pieces, 1, &count), KVC_TOO_BIG);
	kvc_chain_destroy(chain);
	assert_int_equal(kvc_chain_create(0, NULL, &chain), KVC_INVALID);
	assert_int_equal(kvc_chain_append(NULL, tokens, 1, pieces, 1, &count), KVC_INVALID);
	kvc_chain_destroy(NULL);
}

/* ---- identity ---- */

static char folder[64];

static void put_file(const char *name, const void *bytes, size_t length)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, length, file), length);
	fclose(file);
}

/* A file of `bytes` (sparse), whose header names two tensors as safetensors does. */
static void put_tensors(const char *name, uint64_t bytes, uint64_t *ret_data)
{
	char path[256], header[512];
	uint64_t header_bytes;
	uint64_t half;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	half = (bytes - 8 - 256) / 2;
	memset(header, ' ', sizeof(header));
	header_bytes = (uint64_t)snprintf(header, sizeof(header),
	                                  "{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,%llu]},"
	                                  "\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\": [ %llu , %llu ]}}",
	                                  (unsigned long long)half, (unsigned long long)half, (unsigned long long)half * 2);
	header[header_bytes] = ' ';
	header_bytes = 256;
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(pwrite(fd, &header_bytes, 8, 0), 8);
	assert_int_equal(pwrite(fd, header, 256, 8), 256);
	close(fd);
	*ret_data = 8 + 256;
}

static void flip(const char *name, uint64_t at, uint64_t length)
{
	char path[256];
	uint8_t bytes[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	while (length > 0) {
		size_t n = length < sizeof(bytes) ? (size_t)length : sizeof(bytes);

		assert_int_equal(pread(fd, bytes, n, (off_t)at), (ssize_t)n);
		for (size_t i = 0; i < n; i++)
			bytes[i] ^= 1;
		assert_int_equal(pwrite(fd, bytes, n, (off_t)at), (ssize_t)n);
		at += n;
		length -= n;
	}
	close(fd);
}

static char *identity(void)
{
	char *text = NULL;

	assert_int_equal(kvc_model_identity(folder, NULL, &text), KVC_OK);
	assert_int_equal(strlen(text), 64);
	return text;
}

static void assert_changed(char **before, const char *what)
{
	char *now = identity();

	if (strcmp(now, *before) == 0)
		fail_msg("the identity did not change: %s", what);
	kvc_free(*before);
	*before = now;
}

static int identity_setup(void **state)
{
	strcpy(folder, "/tmp/kvc-identity-XXXXXX");
	return mkdtemp(folder) == NULL;
}

static int identity_teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static void test_contract__identity__changes_with_what_the_values_depend_on(void **state)
{
	const uint64_t big = 64 << 20;
	char *text, *same;
	char path[256];
	uint64_t data;

	assert_int_equal(kvc_model_identity("/nowhere", NULL, &text), KVC_NOT_FOUND);
	assert_int_equal(kvc_model_identity(folder, NULL, &text), KVC_NOT_FOUND); /* empty */
	put_file("config.json", "{\"a\":1}", 7);
	put_file("small.bin", "weights", 7);
	put_tensors("model.safetensors", big, &data);
	text = identity();
	same = identity();
	assert_string_equal(text, same);
	kvc_free(same);
	put_file("README.md", "words", 5); /* nothing depends on it */
	same = identity();
	assert_string_equal(text, same);
	kvc_free(same);
	put_file("config.json", "{\"a\":2}", 7);
	assert_changed(&text, "config");
	put_file("small.bin", "Weights", 7);
	assert_changed(&text, "a small file");
	put_file("quantize_config.json", "{}", 2);
	assert_changed(&text, "quantisation");
	flip("model.safetensors", 8 + 30, 1);
	assert_changed(&text, "the header");
	flip("model.safetensors", data, (big - 8 - 256) / 2);
	assert_changed(&text, "one tensor retrained");
	flip("model.safetensors", data + (big - 8 - 256) / 2, 100);
	assert_changed(&text, "the first elements of a tensor");
	put_file("extra.gguf", "x", 1);
	assert_changed(&text, "one more file");
	snprintf(path, sizeof(path), "%s/model.safetensors", folder);
	assert_int_equal(truncate(path, (off_t)big + 4096), 0);
	assert_changed(&text, "the size");
	kvc_free(text);
}

static void test_contract__identity_cache__answers_and_notices_changes(void **state)
{
	char cache[128], path[256], *first, *second;
	uint64_t data;
	FILE *file;
	char line[1024];
	unsigned lines = 0;

	put_file("config.json", "{}", 2);
	put_tensors("model.safetensors", 32 << 20, &data);
	snprintf(cache, sizeof(cache), "%s.cache", folder);
	assert_int_equal(kvc_model_identity(folder, cache, &first), KVC_OK);
	file = fopen(cache, "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file) != NULL)
		lines++;
	fclose(file);
	assert_true(lines >= 2);
	assert_int_equal(kvc_model_identity(folder, cache, &second), KVC_OK);
	assert_string_equal(first, second);
	kvc_free(second);
	/* What is in the cache is what answers: a line of our own shows. */
	file = fopen(cache, "r+");
	assert_non_null(file);
	assert_int_equal(fputc('0', file), '0');
	assert_int_equal(fputc('0', file), '0');
	assert_int_equal(fputc('0', file), '0');
	fclose(file);
	assert_int_equal(kvc_model_identity(folder, cache, &second), KVC_OK);
	assert_string_not_equal(first, second);
	kvc_free(second);
	/* A changed file is read again; a cache of rubbish is none. */
	flip("model.safetensors", data, 64);
	file = fopen(cache, "w");
	fputs("rubbish\n\n   \n", file);
	fclose(file);
	assert_int_equal(kvc_model_identity(folder, cache, &second), KVC_OK);
	assert_string_not_equal(first, second);
	kvc_free(second);
	assert_int_equal(kvc_model_identity(folder, "/nowhere/cache", &second), KVC_OK);
	kvc_free(second);
	kvc_free(first);
	unlink(cache);
	/* A lone file, and a folder as content. */
	snprintf(path, sizeof(path), "%s/config.json", folder);
	assert_int_equal(kvc_content_identity(path, &first), KVC_OK);
	assert_int_equal(kvc_content_identity(folder, &second), KVC_OK);
	assert_string_not_equal(first, second);
	kvc_free(first);
	put_file("adapter_notes.txt", "any file counts here", 20);
	assert_int_equal(kvc_content_identity(folder, &first), KVC_OK);
	assert_string_not_equal(first, second);
	kvc_free(first);
	kvc_free(second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contract__miss_names__are_the_brains),
		cmocka_unit_test(test_contract__fields_of_a_space__are_read_back_by_the_brain),
		cmocka_unit_test(test_contract__chain_in_pieces__is_the_chain_at_once),
		cmocka_unit_test_setup_teardown(test_contract__identity__changes_with_what_the_values_depend_on, identity_setup,
		                                identity_teardown),
		cmocka_unit_test_setup_teardown(test_contract__identity_cache__answers_and_notices_changes, identity_setup,
		                                identity_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
