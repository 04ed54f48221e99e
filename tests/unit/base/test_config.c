/* SPDX-License-Identifier: Apache-2.0
 * Sources and values of the configuration. What it says about mistakes is test_config_errors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static int setup(void **state)
{
	*state = kvci_alloc(sizeof(struct kvci_config));
	return kvci_config_init(*state) == KVC_OK ? 0 : -1;
}

static int teardown(void **state)
{
	kvci_config_fini(*state);
	kvci_free(*state);
	return 0;
}

static void load(struct kvci_config *config, const char *text)
{
	char *error = NULL;

	if (kvci_config_load_text(config, text, strlen(text), "test.yaml", &error) != KVC_OK)
		fail_msg("%s", error);
	assert_null(error);
}

static void test_config__defaults__are_those_of_the_table(void **state)
{
	const struct kvci_config *config = *state;

	assert_string_equal(config->data_dir, "");
	assert_true(config->memory_capacity_bytes == KVCI_CONFIG_AUTO);
	assert_int_equal(config->memory_lease_share_percent, 50);
	assert_true(config->memory_prefault);
	assert_int_equal(config->memory_reserve_deadline_ns, 10 * KVCI_SECOND);
	assert_int_equal(config->disk_read_deadline_ns, 2 * KVCI_SECOND);
	assert_int_equal(config->log_level, KVCI_LOG_INFO);
	assert_int_equal(config->socket_count, 0);
	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const struct kvci_option_info *info = kvci_config_option(i);
		char *text = kvci_config_get_text(config, info->key);

		assert_string_equal(text, info->default_);
		kvci_free(text);
	}
	assert_null(kvci_config_option(kvci_config_option_count()));
	assert_null(kvci_config_get_text(config, "no.such"));
}

static void test_config__nested_maps_and_dotted_keys__mean_the_same(void **state)
{
	struct kvci_config *config = *state;

	load(config, "data_dir: /var/lib/kvc\n"
	             "memory:\n  capacity: 4GiB\n  prefault: no\n"
	             "memory.slab: 64MiB\n"
	             "disk: {capacity: 1.5TiB, write: on_evict, read_deadline: 1.5s}\n"
	             "log:\n"
	             "http.listen: \"127.0.0.1:9200\"\n"
	             "workers: 3\n");
	assert_string_equal(config->data_dir, "/var/lib/kvc");
	assert_int_equal(config->memory_capacity_bytes, 4 * GIB);
	assert_int_equal(config->memory_slab_bytes, 64 * MIB);
	assert_false(config->memory_prefault);
	assert_int_equal(config->disk_capacity_bytes, 1536 * GIB);
	assert_int_equal(config->disk_write, 2);
	assert_int_equal(config->disk_read_deadline_ns, 1500 * KVCI_MS);
	assert_string_equal(config->http_listen, "127.0.0.1:9200");
	assert_int_equal(config->workers, 3);
}

static void test_config__nothing_in_the_file__changes_nothing(void **state)
{
	static const char *const texts[] = {"", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "{}", "~"};

	for (unsigned i = 0; i + 1 < sizeof(texts) / sizeof(texts[0]); i++)
		load(*state, texts[i]);
	load(*state, "data_dir:\nhttp: {}\n");
	assert_string_equal(((struct kvci_config *)*state)->data_dir, "");
}

static void test_config__values__are_read_in_all_their_units(void **state)
{
	static const struct {
		const char *assignment;
		const char *text;
	} cases[] = {
		{"memory.capacity=1048576", "1MiB"},
		{"memory.capacity=1048577B", "1048577B"},
		{"memory.capacity=2048KiB", "2MiB"},
		{"memory.capacity=1.5MiB", "1536KiB"},
		{"memory.capacity=4 GiB", "4GiB"},
		{"memory.capacity=64TiB", "64TiB"},
		{"memory.capacity=auto", "auto"},
		{"memory.reserve_deadline=10000000ns", "10ms"},
		{"memory.reserve_deadline=10500us", "10500us"},
		{"memory.reserve_deadline=0.5min", "30s"},
		{"memory.reserve_deadline=1h", "1h"},
		{"memory.reserve_deadline=60min", "1h"},
		{"memory.lease_share=90%", "90"},
		{"memory.lease_share=1", "1"},
		{"memory.prefault=off", "false"},
		{"memory.prefault=yes", "true"},
		{"memory.prefault=0", "false"},
		{"memory.prefault=1", "true"},
		{"disk.io=threads", "threads"},
		{"disk.register=on", "on"},
		{"disk.queue_depth=1024", "1024"},
		{"http.listen=a=b", "a=b"},
		{"data_dir=", ""},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *error = NULL, *text, key[64];

		if (kvci_config_set(*state, cases[i].assignment, "--set", &error) != KVC_OK)
			fail_msg("%s", error);
		snprintf(key, sizeof(key), "%.*s", (int)strcspn(cases[i].assignment, "="), cases[i].assignment);
		text = kvci_config_get_text(*state, key);
		assert_string_equal(text, cases[i].text);
		kvci_free(text);
	}
}

static void test_config__every_option__takes_its_limits_and_its_own_text(void **state)
{
	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const struct kvci_option_info *info = kvci_config_option(i);
		const char *values[] = {info->min, info->max, info->default_};

		for (unsigned v = 0; v < 3; v++) {
			char *assignment = kvci_asprintf("%s=%s", info->key, values[v]), *error = NULL, *text;

			if (v < 2 && *values[v] == '\0') { /* no limits */
				kvci_free(assignment);
				continue;
			}
			if (kvci_config_set(*state, assignment, "--set", &error) != KVC_OK)
				fail_msg("%s", error);
			text = kvci_config_get_text(*state, info->key);
			assert_string_equal(text, values[v]); /* the table writes them as we do */
			kvci_free(text);
			kvci_free(assignment);
		}
	}
}

static void test_config__one_socket__has_default_mode_and_tenant(void **state)
{
	struct kvci_config *config = *state;
	char *text;

	load(config, "socket: /run/a.sock\n");
	assert_int_equal(config->socket_count, 1);
	assert_string_equal(config->sockets[0].path, "/run/a.sock");
	assert_string_equal(config->sockets[0].tenant, "default");
	assert_int_equal(config->sockets[0].mode, 0600);
	text = kvci_config_get_text(config, "socket");
	assert_string_equal(text, "/run/a.sock");
	kvci_free(text);
}

static void test_config__list_of_sockets__is_read_and_written_back(void **state)
{
	struct kvci_config *config = *state;
	char *text, *again, *error = NULL;

	load(config, "sockets:\n  - {path: /run/a.sock, mode: 0660, tenant: team-a}\n"
	             "  - path: /run/b.sock\n    mode: 0o600\n  - {path: /run/c.sock, tenant: c}\n");
	assert_int_equal(config->socket_count, 3);
	assert_int_equal(config->sockets[0].mode, 0660);
	assert_string_equal(config->sockets[0].tenant, "team-a");
	assert_string_equal(config->sockets[1].path, "/run/b.sock");
	assert_string_equal(config->sockets[1].tenant, "default");
	assert_int_equal(config->sockets[1].mode, 0600);

	text = kvci_config_get_text(config, "sockets");
	again = kvci_asprintf("sockets=%s", text);
	assert_int_equal(kvci_config_set(config, "socket=/run/other.sock", "--set", &error), KVC_OK);
	assert_int_equal(config->socket_count, 1);
	assert_int_equal(kvci_config_set(config, again, "--set", &error), KVC_OK);
	kvci_free(again);
	again = kvci_config_get_text(config, "sockets");
	assert_string_equal(again, text);
	assert_int_equal(config->socket_count, 3);
	kvci_free(again);
	kvci_free(text);
}

static void test_config__later_sources__win(void **state)
{
	struct kvci_config *config = *state;
	char *environment[] = {"PATH=/bin", "KVCASK_MEMORY_CAPACITY=2GiB", "KVCASK_DISK_WRITE_QUEUE=32MiB",
	                       "KVCASK_SOCKET=/run/env.sock", "KVCASK", "KVCASKX=1", NULL};
	char *error = NULL;

	load(config, "socket: /run/file.sock\nmemory.capacity: 1GiB\ndisk.write_queue: 16MiB\nworkers: 2\n");
	assert_int_equal(kvci_config_load_environment(config, environment, &error), KVC_OK);
	assert_int_equal(kvci_config_set(config, "memory.capacity=3GiB", "--set", &error), KVC_OK);
	assert_int_equal(config->memory_capacity_bytes, 3 * GIB);
	assert_int_equal(config->disk_write_queue_bytes, 32 * MIB);
	assert_int_equal(config->workers, 2);
	assert_int_equal(config->socket_count, 1);
	assert_string_equal(config->sockets[0].path, "/run/env.sock");
}

static void catch_line(void *context, enum kvci_log_level level, const char *line)
{
	char *caught = context;

	assert_int_equal(level, KVCI_LOG_WARN);
	snprintf(caught, 1024, "%s", line);
}

static void test_config__unknown_variable__is_warned_of_with_the_nearest(void **state)
{
	/* The last is the Python package's. */
	char *environment[] = {"KVCASK_MEMORY_CAPASITY=2GiB", "KVCASK_LIBRARY=/x.so", NULL}, *error = NULL, caught[1024] = "";

	kvci_log_set_sink(catch_line, caught);
	assert_int_equal(kvci_config_load_environment(*state, environment, &error), KVC_OK);
	kvci_log_set_sink(NULL, NULL);
	assert_null(error);
	assert_non_null(strstr(caught, "KVCASK_MEMORY_CAPASITY is none of ours"));
	assert_non_null(strstr(caught, "the nearest is KVCASK_MEMORY_CAPACITY"));
}

static void test_config__file__is_read(void **state)
{
	char path[] = "/tmp/kvc_test_config_XXXXXX", *error = NULL;
	const char text[] = "data_dir: /data\n";
	int fd = mkstemp(path);

	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	assert_int_equal(kvci_config_load_file(*state, path, &error), KVC_OK);
	assert_string_equal(((struct kvci_config *)*state)->data_dir, "/data");
	unlink(path);
}

/* What the program prints as its default file is a file that it reads, and all that is in comments is the default. */
static void test_config__default_file__is_valid_with_and_without_its_comments(void **state)
{
	struct kvci_config *config = *state, fresh;
	size_t length, used = 0;
	char *text, *bare, *error = NULL;
	FILE *out = open_memstream(&text, &length);

	kvci_config_print(out, KVCI_CONFIG_YAML);
	fclose(out);
	load(config, text);
	assert_int_equal(config->socket_count, 1);
	bare = calloc(1, length + 1);
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		if (line[0] == '#' && (line[1] == ' ' || strncmp(line, "#sockets", 8) == 0))
			continue;
		used += (size_t)sprintf(bare + used, "%s\n", line[0] == '#' ? line + 1 : line);
	}
	assert_int_equal(kvci_config_init(&fresh), KVC_OK);
	if (kvci_config_load_text(&fresh, bare, used, "default.yaml", &error) != KVC_OK)
		fail_msg("%s", error);
	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const char *key = kvci_config_option(i)->key;
		char *value = kvci_config_get_text(&fresh, key);

		assert_non_null(strstr(bare, key));
		assert_string_equal(value, kvci_config_option(i)->default_);
		kvci_free(value);
	}
	kvci_config_fini(&fresh);
	free(bare);
	free(text);
}

static void test_config__help_and_markdown__name_every_option(void **state)
{
	for (int format = KVCI_CONFIG_HELP; format <= KVCI_CONFIG_MARKDOWN; format++) {
		size_t length;
		char *text;
		FILE *out = open_memstream(&text, &length);

		kvci_config_print(out, (enum kvci_config_format)format);
		fclose(out);
		for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
			assert_non_null(strstr(text, kvci_config_option(i)->key));
			assert_non_null(strstr(text, kvci_config_option(i)->text));
		}
		assert_non_null(strstr(text, "sockets"));
		free(text);
	}
}

#define CONFIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CONFIG_TEST(test_config__defaults__are_those_of_the_table),
		CONFIG_TEST(test_config__nested_maps_and_dotted_keys__mean_the_same),
		CONFIG_TEST(test_config__nothing_in_the_file__changes_nothing),
		CONFIG_TEST(test_config__values__are_read_in_all_their_units),
		CONFIG_TEST(test_config__every_option__takes_its_limits_and_its_own_text),
		CONFIG_TEST(test_config__one_socket__has_default_mode_and_tenant),
		CONFIG_TEST(test_config__list_of_sockets__is_read_and_written_back),
		CONFIG_TEST(test_config__later_sources__win),
		CONFIG_TEST(test_config__unknown_variable__is_warned_of_with_the_nearest),
		CONFIG_TEST(test_config__file__is_read),
		CONFIG_TEST(test_config__default_file__is_valid_with_and_without_its_comments),
		CONFIG_TEST(test_config__help_and_markdown__name_every_option),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
