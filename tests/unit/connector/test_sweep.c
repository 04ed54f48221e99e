/* SPDX-License-Identifier: Apache-2.0
 * Every call of the client with its n-th allocation failing, for every n: an error, nothing leaked, and the daemon's side is well afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "../sweep.h"
#include "world.h"

enum { SWEEP_BLOCKS = 12 };

static struct fake_server server;
static char target[128];
static struct engine engine;
static struct kvc_form form;
static struct kvc_store_block keys[SWEEP_BLOCKS];
static uint8_t hashes[SWEEP_BLOCKS][KVC_HASH_BYTES];
static uint32_t pages[SWEEP_BLOCKS * 4];
static uint8_t sweep_scores[SWEEP_BLOCKS * 64 * 2]; /* as the form below */
static uint32_t key_family;

/* A load never answers FATAL, a connection that cannot keep its messages ends: both are what memory looks like from outside. */
static kvc_status_t as_no_memory(kvc_status_t status)
{
	return status == KVC_NO_SPACE || status == KVC_GONE || status == KVC_CIRCUIT_OPEN ? KVC_NO_MEMORY : status;
}

struct opened {
	struct kvc_client *client;
	struct kvc_space *space;
};

static kvc_status_t open_all(struct opened *opened, uint32_t flags)
{
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .flags = flags};
	struct kvc_space_desc desc = fixture_desc();
	kvc_status_t status = kvc_open(target, &options, &opened->client);

	if (status != KVC_OK)
		return status;
	status = kvc_space_open(opened->client, &desc, &form, &opened->space);
	if (status == KVC_OK)
		status = kvc_space_set_memory(opened->space, engine.layers, form.layer_count);
	if (status != KVC_OK)
		kvc_close(opened->client);
	return status;
}

/* New keys, so that a store has something to store. */
static void next_keys(void)
{
	key_family++;
	for (uint32_t i = 0; i < SWEEP_BLOCKS; i++) {
		fixture_key(&keys[i], key_family, i, form.block_tokens);
		memcpy(hashes[i], keys[i].hash, KVC_HASH_BYTES);
	}
	pthread_mutex_lock(&server.lock);
	if (server.block_count > FAKE_BLOCKS / 2) { /* the fake does not evict */
		server.block_count = 0;
		server.slab_used = 0;
	}
	server.lease_count = 0;
	pthread_mutex_unlock(&server.lock);
}

static kvc_status_t sweep_open(void *context)
{
	struct opened opened;
	kvc_status_t status = open_all(&opened, *(uint32_t *)context);

	if (status == KVC_OK)
		kvc_close(opened.client);
	return as_no_memory(status);
}

static kvc_status_t use(struct opened *opened)
{
	struct kvc_request request = fixture_request("sweep");
	struct kvc_match_result match;
	uint8_t exists[SWEEP_BLOCKS];
	kvc_status_t status;

	status = kvc_store(opened->space, keys, SWEEP_BLOCKS, pages, FIXTURE_SECOND * 5, NULL);
	if (status == KVC_OK)
		status = kvc_exists(opened->space, (const uint8_t(*)[32])hashes, SWEEP_BLOCKS, exists, FIXTURE_SECOND);
	if (status == KVC_OK)
		status = kvc_match(opened->space, (const uint8_t(*)[32])hashes, SWEEP_BLOCKS, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
		                   &match);
	if (status == KVC_OK && match.matched_blocks != SWEEP_BLOCKS)
		status = KVC_INTERNAL;
	if (status == KVC_OK)
		status = kvc_load(opened->space, &request, 0, SWEEP_BLOCKS, pages, FIXTURE_SECOND * 5, NULL);
	if (status == KVC_OK)
		status = kvc_release(opened->client, &request);
	return status;
}

static kvc_status_t sweep_store_and_load(void *context)
{
	struct opened opened;
	kvc_status_t status;

	next_keys();
	status = open_all(&opened, *(uint32_t *)context);
	if (status != KVC_OK)
		return as_no_memory(status);
	status = use(&opened);
	kvc_close(opened.client);
	return as_no_memory(status);
}

/* A reader of its own mapping, with a lease. Not OK: nothing is open. */
static kvc_status_t open_leased(struct opened *opened, uint32_t flags, struct kvc_request *request)
{
	struct kvc_match_result match;
	kvc_status_t status = open_all(opened, flags);

	if (status != KVC_OK)
		return status;
	*request = fixture_request("sweep");
	status = kvc_match(opened->space, (const uint8_t(*)[32])hashes, SWEEP_BLOCKS, request, KVC_MATCH_LEASE, FIXTURE_SECOND, &match);
	if (status != KVC_OK)
		kvc_close(opened->client);
	return status;
}

static kvc_status_t sweep_load_elsewhere(void *context)
{
	struct kvc_request request;
	struct opened opened;
	kvc_status_t status = open_leased(&opened, *(uint32_t *)context, &request);

	if (status != KVC_OK)
		return as_no_memory(status);
	status = kvc_load(opened.space, &request, 0, SWEEP_BLOCKS, pages, FIXTURE_SECOND * 5, NULL);
	kvc_close(opened.client);
	return as_no_memory(status);
}

/* By section, of blocks that an earlier run stored. */
static kvc_status_t sweep_load_sections(void *context)
{
	struct kvc_request request;
	struct kvc_op *load = NULL;
	struct opened opened;
	kvc_status_t status = open_leased(&opened, *(uint32_t *)context, &request);

	if (status != KVC_OK)
		return as_no_memory(status);
	status = kvc_load_sections_begin(opened.space, &request, 0, SWEEP_BLOCKS, pages, FIXTURE_SECOND * 5, &load);
	for (uint32_t section = 1; section <= form.layer_count && status == KVC_OK; section++)
		status = kvc_load_wait_sections(load, section, FIXTURE_SECOND * 5);
	if (status == KVC_OK)
		status = kvc_op_wait(load, FIXTURE_SECOND * 5);
	kvc_op_destroy(load);
	kvc_close(opened.client);
	return as_no_memory(status);
}

static kvc_status_t sweep_by_hand(void *context)
{
	struct kvc_reservation out[2];
	struct opened opened;
	kvc_status_t status;

	next_keys();
	status = open_all(&opened, 0);
	if (status != KVC_OK)
		return as_no_memory(status);
	status = kvc_reserve(opened.space, keys, 2, FIXTURE_SECOND, out);
	if (status == KVC_OK && out[0].status != KVC_OK)
		status = out[0].status;
	else if (status == KVC_OK) {
		memset(out[0].sections, 1, engine.sizes.section_bytes);
		status = kvc_commit(opened.space, keys, &out[0], NULL, FIXTURE_SECOND);
	}
	if (status == KVC_OK)
		status = out[1].status != KVC_OK ? out[1].status : kvc_abort(opened.space, &out[1], FIXTURE_SECOND);
	kvc_close(opened.client);
	return as_no_memory(status);
}

static kvc_status_t sweep_background(void *context)
{
	struct kvc_op *match = NULL, *store = NULL;
	struct opened opened;
	kvc_status_t status;

	next_keys();
	status = open_all(&opened, *(uint32_t *)context);
	if (status != KVC_OK)
		return as_no_memory(status);
	if (kvc_fd(opened.client) < 0)
		status = KVC_INTERNAL;
	if (status == KVC_OK)
		status = kvc_store_begin(opened.space, keys, SWEEP_BLOCKS, pages, &store);
	if (status == KVC_OK)
		status = kvc_match_begin(opened.space, (const uint8_t(*)[32])hashes, SWEEP_BLOCKS, NULL, 0, &match);
	if (status == KVC_OK)
		status = kvc_op_wait(store, FIXTURE_SECOND * 5);
	if (status == KVC_OK)
		status = kvc_op_wait(match, FIXTURE_SECOND * 5);
	kvc_op_destroy(store);
	kvc_op_destroy(match);
	kvc_close(opened.client);
	return as_no_memory(status);
}

static kvc_status_t sweep_questions(void *context)
{
	struct opened opened;
	char *json = NULL, *stats = NULL;
	kvc_status_t status = open_all(&opened, 0);

	if (status != KVC_OK)
		return as_no_memory(status);
	status = kvc_admin(opened.client, "stat", "{}", FIXTURE_SECOND, &json);
	if (status == KVC_OK)
		status = kvc_client_stats(opened.client, &stats);
	if (status == KVC_OK)
		status = kvc_flush(opened.client, FIXTURE_SECOND);
	if (status == KVC_OK)
		status = kvc_space_raise_epoch(opened.space, FIXTURE_SECOND);
	if (status == KVC_OK)
		status = kvc_set_scores(opened.space, (const uint8_t(*)[32])hashes, SWEEP_BLOCKS, sweep_scores, FIXTURE_SECOND);
	if (status == KVC_OK)
		status = kvc_drop(opened.space, hashes[0], FIXTURE_SECOND);
	kvc_free(json);
	kvc_free(stats);
	kvc_close(opened.client);
	return as_no_memory(status);
}

static kvc_status_t sweep_chain(void *context)
{
	uint32_t tokens[64] = {1, 2, 3};
	uint8_t out[4][32];
	struct kvc_chain *chain;
	size_t count;
	kvc_status_t status = kvc_chain_create(16, NULL, &chain);

	if (status != KVC_OK)
		return status;
	status = kvc_chain_append(chain, tokens, 64, out, 4, &count);
	kvc_chain_destroy(chain);
	return status;
}

static kvc_status_t sweep_identity(void *context)
{
	const char *folder = context;
	char cache[128], *text = NULL;
	kvc_status_t status;

	snprintf(cache, sizeof(cache), "%s/.cache", folder);
	status = kvc_model_identity(folder, cache, &text);
	kvc_free(text);
	text = NULL;
	if (status == KVC_OK)
		status = kvc_content_identity(folder, &text);
	kvc_free(text);
	unlink(cache);
	return status;
}

/* Allocations of one run; and after it all works. */
static unsigned swept(const char *name, kvc_status_t (*operation)(void *), void *context)
{
	struct sweep_result result = sweep_run(name, operation, context);

	assert_true(result.allocations > 0);
	assert_int_equal(operation(context), KVC_OK);
	return result.allocations;
}

static void test_sweep__open__fails_cleanly(void **state)
{
	uint32_t flags[] = {0, KVC_OPEN_MOVER};

	swept("open", sweep_open, &flags[0]);
	swept("open with mover", sweep_open, &flags[1]);
}

static void test_sweep__store_and_load__fail_cleanly(void **state)
{
	uint32_t flags[] = {0, KVC_OPEN_MOVER};

	for (unsigned i = 0; i < 2; i++) {
		swept("store and load", sweep_store_and_load, &flags[i]);
		swept("load elsewhere", sweep_load_elsewhere, &flags[i]);
		swept("load by section", sweep_load_sections, &flags[i]);
		swept("in the background", sweep_background, &flags[i]);
	}
	swept("by hand", sweep_by_hand, NULL);
}

static void test_sweep__questions__fail_cleanly(void **state)
{
	swept("questions", sweep_questions, NULL);
	swept("chain", sweep_chain, NULL);
}

static void test_sweep__identity__fails_cleanly(void **state)
{
	char folder[] = "/tmp/kvc-sweep-XXXXXX", command[128];
	FILE *file;

	assert_non_null(mkdtemp(folder));
	snprintf(command, sizeof(command), "%s/config.json", folder);
	file = fopen(command, "w");
	fputs("{}", file);
	fclose(file);
	swept("identity", sweep_identity, folder);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
}

static int setup(void **state)
{
	form = fixture_form(4, 64);
	engine_init(&engine, &form, SWEEP_BLOCKS * 4);
	for (uint32_t i = 0; i < SWEEP_BLOCKS * 4; i++)
		pages[i] = i;
	fake_start(&server);
	snprintf(target, sizeof(target), "unix:%s", server.path);
	return 0;
}

static int teardown(void **state)
{
	fake_stop(&server);
	engine_fini(&engine);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sweep__open__fails_cleanly),
		cmocka_unit_test(test_sweep__store_and_load__fail_cleanly),
		cmocka_unit_test(test_sweep__questions__fail_cleanly),
		cmocka_unit_test(test_sweep__identity__fails_cleanly),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
