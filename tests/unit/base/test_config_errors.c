/* SPDX-License-Identifier: Apache-2.0
 * What is wrong is refused with a message that helps, and changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/config.h"

static int setup(void **state)
{
	struct kvci_config *config = kvci_alloc(sizeof(*config));
	const char kept[] = "socket: /kept.sock\ndata_dir: /kept\nmemory.capacity: 7MiB\n";
	char *error;

	*state = config;
	if (kvci_config_init(config) != KVC_OK)
		return -1;
	return kvci_config_load_text(config, kept, sizeof(kept) - 1, "kept.yaml", &error) == KVC_OK ? 0 : -1;
}

static void check_kept(const struct kvci_config *config)
{
	assert_int_equal(config->socket_count, 1);
	assert_string_equal(config->sockets[0].path, "/kept.sock");
	assert_string_equal(config->data_dir, "/kept");
	assert_int_equal(config->memory_capacity_bytes, 7 << 20);
}

static int teardown(void **state)
{
	check_kept(*state);
	kvci_config_fini(*state);
	kvci_free(*state);
	return 0;
}

struct mistake {
	const char *text;
	const char *message; /* all of it */
};

/* error by address: the call that sets it is an argument beside it. */
static void check_message(const char *text, kvc_status_t status, char **ret_error, const char *message)
{
	char *error = *ret_error;

	if (status != KVC_CONFIG || error == NULL || strcmp(error, message) != 0)
		fail_msg("%s\n gave   %s: %s\n wanted %s", text, kvc_status_name(status), error != NULL ? error : "-", message);
	kvci_free(error);
}

static void check_yaml(struct kvci_config *config, const struct mistake *mistakes, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char *error = NULL;
		kvc_status_t status = kvci_config_load_text(config, mistakes[i].text, strlen(mistakes[i].text), "f.yaml", &error);

		check_message(mistakes[i].text, status, &error, mistakes[i].message);
		check_kept(config);
	}
}
#define CHECK_YAML(config, mistakes) check_yaml(config, mistakes, sizeof(mistakes) / sizeof(mistakes[0]))

static void test_config__unknown_key__names_line_value_and_the_nearest(void **state)
{
	static const struct mistake mistakes[] = {
		{"data_dir: /x\nmemory:\n  capasity: 4GiB\n",
	         "f.yaml:3: unknown key \"memory.capasity\" (value \"4GiB\"); the nearest key is \"memory.capacity\""},
		{"memry.slab: 4MiB",
	         "f.yaml:1: unknown key \"memry.slab\" (value \"4MiB\"); the nearest key is \"memory.slab\""},
		{"capacity: 4GiB",
	         "f.yaml:1: unknown key \"capacity\" (value \"4GiB\"); the nearest key is \"memory.capacity\""},
		{"Data-Dir: /x", "f.yaml:1: unknown key \"Data-Dir\" (value \"/x\"); the nearest key is \"data_dir\""},
		{"soket: /x", "f.yaml:1: unknown key \"soket\" (value \"/x\"); the nearest key is \"socket\""},
		{"memry: {}", "f.yaml:1: unknown key \"memry\"; the nearest key is \"memory.capacity\""},
		{"memory: {capacity: {max: 1}}", "f.yaml:1: memory.capacity: takes one value, not a map"},
		{"memory: 4GiB", "f.yaml:1: memory: is a group of options (such as memory.capacity), not one"},
		{"memory: [1]", "f.yaml:1: memory: is a group of options (such as memory.capacity), not one"},
		{"memory.capacity: [1GiB]", "f.yaml:1: memory.capacity: takes one value, not a list or a map"},
		{"? [a]\n: b", "f.yaml:1: a key: takes one value, not a list or a map"},
		{"\"\": b", "f.yaml:1: a key is empty"},
	};

	CHECK_YAML(*state, mistakes);
}

static void test_config__bad_value__names_key_value_and_what_is_allowed(void **state)
{
#define SIZES "allowed: a size in B, KiB, MiB, GiB or TiB, 1MiB to 64TiB, or auto"
#define TIMES "allowed: a time in ns, us, ms, s, min or h, 1ms to 10min"
	static const struct mistake mistakes[] = {
		{"memory.capacity: 4GB", "f.yaml:1: memory.capacity: \"4GB\" is wrong; " SIZES},
		{"memory.capacity: 4gib", "f.yaml:1: memory.capacity: \"4gib\" is wrong; " SIZES},
		{"memory.capacity: -1GiB", "f.yaml:1: memory.capacity: \"-1GiB\" is wrong; " SIZES},
		{"memory.capacity: 1.GiB", "f.yaml:1: memory.capacity: \"1.GiB\" is wrong; " SIZES},
		{"memory.capacity: 1.5", "f.yaml:1: memory.capacity: \"1.5\" is wrong; " SIZES},
		{"memory.capacity: GiB", "f.yaml:1: memory.capacity: \"GiB\" is wrong; " SIZES},
		{"memory.capacity:", "f.yaml:1: memory.capacity: \"\" is wrong; " SIZES},
		{"memory.capacity: ~", "f.yaml:1: memory.capacity: \"\" is wrong; " SIZES},
		{"memory.capacity: 1023KiB", "f.yaml:1: memory.capacity: \"1023KiB\" is wrong; " SIZES},
		{"memory.capacity: 65TiB", "f.yaml:1: memory.capacity: \"65TiB\" is wrong; " SIZES},
		{"memory.capacity: 16777216TiB", "f.yaml:1: memory.capacity: \"16777216TiB\" is wrong; " SIZES},
		/* 2^64 + 2^40 bytes, 2^64 + 2^30 bytes: in range when they wrap */
		{"memory.capacity: 16777217TiB", "f.yaml:1: memory.capacity: \"16777217TiB\" is wrong; " SIZES},
		{"memory.capacity: 18446744074783293440", "f.yaml:1: memory.capacity: \"18446744074783293440\" is wrong; " SIZES},
		{"memory.capacity: 18446744073709551615", "f.yaml:1: memory.capacity: \"18446744073709551615\" is wrong; " SIZES},
		{"memory.capacity: 99999999999999999999999999",
	         "f.yaml:1: memory.capacity: \"99999999999999999999999999\" is wrong; " SIZES},
		{"memory.capacity: \"1GiB\\0\"", "f.yaml:1: memory.capacity: a value with a NUL byte"},
		{"disk.read_deadline: 5", "f.yaml:1: disk.read_deadline: \"5\" is wrong; " TIMES},
		{"disk.read_deadline: 5 sec", "f.yaml:1: disk.read_deadline: \"5 sec\" is wrong; " TIMES},
		{"disk.read_deadline: auto", "f.yaml:1: disk.read_deadline: \"auto\" is wrong; " TIMES},
		{"memory.lease_share: 91%",
	         "f.yaml:1: memory.lease_share: \"91%\" is wrong; allowed: a percentage, 1 to 90"},
		{"disk.queue_depth: 0x10",
	         "f.yaml:1: disk.queue_depth: \"0x10\" is wrong; allowed: a whole number, 1 to 1024"},
		{"memory.prefault: maybe", "f.yaml:1: memory.prefault: \"maybe\" is wrong; allowed: true or false"},
		{"disk.io: uringg", "f.yaml:1: disk.io: \"uringg\" is wrong; allowed: one of auto, uring, threads"},
		{"disk.io: \"auto|uring\"",
	         "f.yaml:1: disk.io: \"auto|uring\" is wrong; allowed: one of auto, uring, threads"},
		{"disk.io: \"ur\\ning\"", "f.yaml:1: disk.io: \"ur?ing\" is wrong; allowed: one of auto, uring, threads"},
	};

	CHECK_YAML(*state, mistakes);
}

static void test_config__key_twice__names_both_lines(void **state)
{
	static const struct mistake mistakes[] = {
		{"workers: 1\n\nworkers: 2", "f.yaml:3: workers: is there twice; the first is in line 1"},
		{"memory: {slab: 1MiB}\nmemory.slab: 2MiB", "f.yaml:2: memory.slab: is there twice; the first is in line 1"},
		{"memory:\n  slab: 1MiB\nmemory:\n  capacity: 2MiB",
	         "f.yaml:4: memory: is there twice; the first is in line 2"},
		{"socket: /a\nsockets: [{path: /b}]",
	         "f.yaml:2: sockets (or socket): is there twice; the first is in line 1"},
		{"socket: /a\nsocket: /b", "f.yaml:2: socket (or sockets): is there twice; the first is in line 1"},
	};

	CHECK_YAML(*state, mistakes);
}

#define LONG_PATH                                                                                                    \
	"/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/01234567"

static void test_config__sockets__each_part_is_checked(void **state)
{
	static const struct mistake mistakes[] = {
		{"socket: " LONG_PATH,
	         "f.yaml:1: socket: \"" LONG_PATH "\" is too long: a socket path has at most 107 bytes"},
		{"socket:", "f.yaml:1: socket: the path of the socket is missing"},
		{"socket: [/a]", "f.yaml:1: socket: takes one value, not a list or a map"},
		{"socket: {path: /a}", "f.yaml:1: socket: takes one value, not a map"},
		{"sockets: /a", "f.yaml:1: sockets: must be a list of {path, mode, tenant}; for one socket write `socket: PATH`"},
		{"sockets: [/a]",
	         "f.yaml:1: sockets[0]: must be a map such as {path: /run/kvcask.sock, mode: 0660, tenant: default}"},
		{"sockets:\n- {path: /a}\n- {mode: 0600}", "f.yaml:3: sockets[1]: the path of the socket is missing"},
		{"sockets: [{path: /a, mode: 0888}]",
	         "f.yaml:1: sockets[0].mode: \"0888\" is wrong; allowed: octal permission bits, 0000 to 0777"},
		{"sockets: [{path: /a, mode: 1777}]",
	         "f.yaml:1: sockets[0].mode: \"1777\" is wrong; allowed: octal permission bits, 0000 to 0777"},
		{"sockets: [{path: /a, mode: }]",
	         "f.yaml:1: sockets[0].mode: \"\" is wrong; allowed: octal permission bits, 0000 to 0777"},
		{"sockets: [{path: /a, tenant: a b}]",
	         "f.yaml:1: sockets[0].tenant: \"a b\" is wrong; allowed: 1 to 64 letters, digits, '.', '_', '-'"},
		{"sockets: [{path: /a, path: /b}]", "f.yaml:1: sockets[0].path: is there twice"},
		{"sockets: [{path: /a, user: b}]", "f.yaml:1: sockets[0]: unknown key \"user\"; allowed: path, mode, tenant"},
		{"sockets: [{path: [/a]}]", "f.yaml:1: sockets[0].path: takes one value, not a list or a map"},
		{"sockets: [{path: /a}, {path: /a, tenant: b}]",
	         "f.yaml:1: sockets[1].path: \"/a\" is the path of another socket"},
	};

	CHECK_YAML(*state, mistakes);
}

static void test_config__more_sockets_than_allowed__are_refused(void **state)
{
	char text[4096], *error = NULL;
	size_t used = (size_t)sprintf(text, "sockets:\n");

	for (unsigned i = 0; i < 65; i++)
		used += (size_t)sprintf(text + used, "- {path: /s%u}\n", i);
	check_message("65 sockets", kvci_config_load_text(*state, text, used, "f.yaml", &error), &error,
	              "f.yaml:66: sockets[64]: more than 64 sockets");
}

static void test_config__not_our_yaml__is_refused_with_its_line(void **state)
{
	static const struct mistake mistakes[] = {
		{"- a\n- b", "f.yaml:1: must be a map of options (key: value)"},
		{"just text", "f.yaml:1: must be a map of options (key: value)"},
		{"workers: 1\n---\nworkers: 2", "f.yaml:2: a second document; one is allowed"},
		{"http.listen: &x a\ndata_dir: *x", "f.yaml:2: aliases (*name) are not supported"},
		{"workers: 1\ndata_dir: bad: indent", "f.yaml:2: not YAML: mapping values are not allowed in this context"},
		{"\ndata_dir: \"a", "f.yaml:2: not YAML: found unexpected end of stream"},
		{"data_dir: \"a\x01\"", "f.yaml:1: not YAML: control characters are not allowed"},
	};

	CHECK_YAML(*state, mistakes);
}

static void test_config__command_line_and_environment__say_where(void **state)
{
	char *error = NULL, *environment[] = {"KVCASK_WORKERS=many", NULL}, long_key[300];

	check_message("no =", kvci_config_set(*state, "workers", "--set", &error), &error,
	              "--set: \"workers\" is not of the form key=value");
	check_message("no key", kvci_config_set(*state, "=3", "--set", &error), &error,
	              "--set: \"=3\" is not of the form key=value");
	check_message("unknown", kvci_config_set(*state, "worker=3", "--set", &error), &error,
	              "--set: unknown key \"worker\" (value \"3\"); the nearest key is \"workers\"");
	check_message("sockets", kvci_config_set(*state, "sockets=[{path: ''}]", "--set", &error), &error,
	              "--set:1: sockets[0]: the path of the socket is missing");
	check_message("variable", kvci_config_load_environment(*state, environment, &error), &error,
	              "environment variable KVCASK_WORKERS: workers: \"many\" is wrong; allowed: a whole number, 1 to 256, or auto");
	memset(long_key, 'w', sizeof(long_key));
	memcpy(long_key + sizeof(long_key) - 3, "=1", 3);
	assert_int_equal(kvci_config_set(*state, long_key, "--set", &error), KVC_CONFIG);
	kvci_free(error);
	assert_int_equal(kvci_config_set(*state, "worker=3", "--set", NULL), KVC_CONFIG);
}

static void test_config__files_that_cannot_be__say_why(void **state)
{
	char folder[] = "/tmp/kvc_test_config_XXXXXX", path[64], *error = NULL, *blanks = calloc(1, (1 << 20) + 2);
	FILE *file;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/none.yaml", folder);
	assert_int_equal(kvci_config_load_file(*state, path, &error), KVC_NOT_FOUND);
	assert_non_null(strstr(error, "none.yaml: cannot be read: No such file"));
	kvci_free(error);
	assert_int_equal(kvci_config_load_file(*state, folder, &error), KVC_INVALID);
	assert_non_null(strstr(error, "cannot be read: Is a directory"));
	kvci_free(error);

	snprintf(path, sizeof(path), "%s/huge.yaml", folder);
	file = fopen(path, "w");
	memset(blanks, '\n', (1 << 20) + 1);
	assert_int_equal(fwrite(blanks, 1, (1 << 20) + 1, file), (1 << 20) + 1);
	fclose(file);
	assert_int_equal(kvci_config_load_file(*state, path, &error), KVC_CONFIG);
	assert_non_null(strstr(error, "larger than 1048576 bytes"));
	kvci_free(error);
	unlink(path);
	rmdir(folder);
	free(blanks);
}

static void test_config__deeply_nested__ends_early(void **state)
{
	char *text = calloc(1, 400001), *error = NULL;

	for (unsigned i = 0; i < 100000; i++)
		memcpy(text + 3 * i, "{a:", 3);
	assert_int_equal(kvci_config_load_text(*state, text, 300000, "f.yaml", &error), KVC_CONFIG);
	assert_non_null(error);
	kvci_free(error);
	memset(text, '[', 300000);
	assert_int_equal(kvci_config_load_text(*state, text, 300000, "f.yaml", &error), KVC_CONFIG);
	kvci_free(error);
	free(text);
}

#define CONFIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CONFIG_TEST(test_config__unknown_key__names_line_value_and_the_nearest),
		CONFIG_TEST(test_config__bad_value__names_key_value_and_what_is_allowed),
		CONFIG_TEST(test_config__key_twice__names_both_lines),
		CONFIG_TEST(test_config__sockets__each_part_is_checked),
		CONFIG_TEST(test_config__more_sockets_than_allowed__are_refused),
		CONFIG_TEST(test_config__not_our_yaml__is_refused_with_its_line),
		CONFIG_TEST(test_config__command_line_and_environment__say_where),
		CONFIG_TEST(test_config__files_that_cannot_be__say_why),
		CONFIG_TEST(test_config__deeply_nested__ends_early),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
