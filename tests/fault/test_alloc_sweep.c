/* SPDX-License-Identifier: Apache-2.0
 * The n-th allocation fails, for every n: a function and a line in main for each operation that allocates. See tests/unit/sweep.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/config.h"
#include "base/extents.h"
#include "base/hash.h"
#include "base/loop.h"
#include "base/workers.h"
#include "tests/unit/sweep.h"

/* ---- configuration ---- */

static kvc_status_t config_all_sources(struct kvci_config *config)
{
	static const char text[] = "sockets: [{path: /a, mode: 0660, tenant: t}, {path: /b}]\n"
	                           "data_dir: /data\nmemory: {capacity: 1GiB}\nhttp.listen: 127.0.0.1:1\n";
	char *environment[] = {"KVCASK_DATA_DIR=/other", "KVCASK_WORKERS=3", NULL}, *error, *value;
	kvc_status_t status = kvci_config_load_text(config, text, sizeof(text) - 1, "sweep", &error);

	if (status == KVC_OK)
		status = kvci_config_load_environment(config, environment, &error);
	if (status == KVC_OK)
		status = kvci_config_set(config, "sockets=[{path: /c}]", "--set", &error);
	if (status != KVC_OK) {
		assert_null(error);
		return status;
	}
	value = kvci_config_get_text(config, "sockets");
	if (value == NULL)
		return KVC_NO_MEMORY;
	assert_string_equal(value, "[{path: \"/c\", mode: 0600, tenant: default}]");
	kvci_free(value);
	return KVC_OK;
}

static kvc_status_t sweep_config(void *context)
{
	struct kvci_config config;
	kvc_status_t status = kvci_config_init(&config);

	if (status != KVC_OK)
		return status;
	status = config_all_sources(&config);
	kvci_config_fini(&config);
	return status;
}

/* A mistake is told as a mistake, with its text or, without memory for it, without. */
static kvc_status_t sweep_config_mistake(void *context)
{
	struct kvci_config config;
	char *error;
	kvc_status_t status = kvci_config_init(&config);

	if (status != KVC_OK)
		return status;
	status = kvci_config_load_text(&config, "data_dir: /x\nworker: 3", 23, "sweep", &error);
	assert_int_not_equal(status, KVC_OK);
	if (status == KVC_CONFIG && error == NULL)
		status = KVC_NO_MEMORY;
	kvci_free(error);
	assert_string_equal(config.data_dir, "");
	kvci_config_fini(&config);
	return status == KVC_CONFIG ? KVC_OK : status;
}

static kvc_status_t sweep_config_file(void *context)
{
	struct kvci_config config;
	char *error;
	kvc_status_t status = kvci_config_init(&config);

	if (status != KVC_OK)
		return status;
	status = kvci_config_load_file(&config, "/dev/null", &error);
	kvci_config_fini(&config);
	return status;
}

/* ---- loop, workers ---- */

static void never_timer(void *context)
{
}

static void never_event(void *context, uint32_t events)
{
}

static kvc_status_t sweep_loop(void *context)
{
	struct kvci_timer timers[100] = {{0}};
	struct kvci_watch *watch;
	struct kvci_loop *loop;
	int fd = eventfd(0, EFD_CLOEXEC);
	kvc_status_t status = kvci_loop_create(&loop);

	if (status == KVC_OK) {
		status = kvci_loop_watch(loop, fd, EPOLLIN, never_event, NULL, &watch);
		for (unsigned i = 0; status == KVC_OK && i < 100; i++) {
			timers[i].run = never_timer;
			status = kvci_loop_timer_arm(loop, &timers[i], UINT64_MAX - i);
		}
		kvci_loop_destroy(loop);
	}
	close(fd);
	return status;
}

static kvc_status_t sweep_workers(void *context)
{
	struct kvci_mailbox *mailbox = NULL;
	struct kvci_workers *workers = NULL;
	kvc_status_t status = kvci_mailbox_create(&mailbox);

	if (status == KVC_OK)
		status = kvci_workers_create("sweep", 2, &workers);
	kvci_workers_destroy(workers);
	kvci_mailbox_destroy(mailbox);
	return status;
}

/* ---- hash, extents ---- */

static kvc_status_t sweep_hash_chain(void *context)
{
	struct kvci_hash_chain *chain = NULL;
	uint32_t tokens[64] = {1, 2, 3};
	uint8_t hashes[4][32];
	size_t count;
	kvc_status_t status = kvci_hash_chain_create(16, NULL, &chain);

	if (status == KVC_OK)
		status = kvci_hash_chain_append(chain, tokens, 64, NULL, 0, hashes, 4, &count);
	kvci_hash_chain_destroy(chain);
	return status;
}

static kvc_status_t sweep_extents(void *context)
{
	struct kvci_extents *extents = NULL;
	uint64_t offset_bytes;
	uint32_t node;
	kvc_status_t status = kvci_extents_create(64 << 20, 4096, &extents);

	/* Enough for metadata to grow. */
	for (unsigned i = 0; status == KVC_OK && i < 3000; i++) {
		status = kvci_extents_alloc(extents, 4096, &offset_bytes, &node);
		assert_null(i % 1000 == 0 ? kvci_extents_check(extents) : NULL);
	}
	kvci_extents_destroy(extents);
	return status;
}

struct sweep_line {
	const char *name;
	kvc_status_t (*operation)(void *context);
};

static const struct sweep_line sweep_lines[] = {
	{"config: all sources", sweep_config},
	{"config: a mistake", sweep_config_mistake},
	{"config: a file", sweep_config_file},
	{"loop: watch and timers", sweep_loop},
	{"workers and mailbox", sweep_workers},
	{"hash chain", sweep_hash_chain},
	{"extents", sweep_extents},
};

static void test_sweep__nth_allocation_fails__no_memory_and_nothing_is_left(void **state)
{
	for (unsigned i = 0; i < sizeof(sweep_lines) / sizeof(sweep_lines[0]); i++) {
		struct sweep_result result = sweep_run(sweep_lines[i].name, sweep_lines[i].operation, NULL);

		assert_true(result.allocations > 0);
		print_message("%s: %u allocations, %u failures without harm\n", sweep_lines[i].name, result.allocations,
		              result.benign);
	}
}

static kvc_status_t leaks(void *context)
{
	void *first = kvci_alloc(10), *second = kvci_alloc(20);

	if (first == NULL || second == NULL) {
		*(void **)context = first;
		return KVC_NO_MEMORY; /* and `first` stays */
	}
	kvci_free(first);
	kvci_free(second);
	return KVC_OK;
}

/* The sweep itself sees what it is there to see. */
static void test_sweep__operation_that_leaks__would_be_found(void **state)
{
	struct sweep_state fail_second = {0, 2, false};
	uint64_t before_bytes = kvci_alloc_live_bytes();
	void *left = NULL;

	kvci_alloc_set_hook(sweep_hook, &fail_second);
	assert_int_equal(leaks(&left), KVC_NO_MEMORY);
	kvci_alloc_set_hook(NULL, NULL);
	assert_true(kvci_alloc_live_bytes() > before_bytes);
	kvci_free(left);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sweep__nth_allocation_fails__no_memory_and_nothing_is_left),
		cmocka_unit_test(test_sweep__operation_that_leaks__would_be_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
