/* SPDX-License-Identifier: Apache-2.0
 * The n-th allocation failing, for every n: a core that starts, serves a client through every kind of message, and ends. Nothing is
 * left, no answer is wrong, and what cannot be done is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "core_fixture.h"
#include "tests/unit/sweep.h"

struct client {
	struct kvci_core *core;
	struct kvci_conn *conn;
	struct kvci_message answer; /* the last */
	bool answered, open;
	char *window;
};

static void note_answer(void *context, const struct kvci_message *message, int fd)
{
	struct client *client = context;

	if (message->type == KVCI_MESSAGE_LOAD_PROGRESS || message->type == KVCI_MESSAGE_SLAB_GONE)
		return;
	client->answer = *message;
	client->answered = true;
}

/* Its status; what came is in client->answer. A connection that ended is one that got no answer. */
static kvc_status_t give(struct client *client, struct kvci_message *message)
{
	client->answered = false;
	if (!client->open)
		return KVC_GONE;
	client->open = kvci_conn_handle(client->conn, message);
	for (int i = 0; i < 2000 && client->open; i++) {
		kvci_conn_step(client->conn);
		kvci_conn_finish(client->conn);
		if (client->answered || message->type == KVCI_MESSAGE_RELEASE)
			break;
		kvci_loop_turn(client->core->loop, KVCI_MS);
	}
	return client->answered ? client->answer.status : message->type == KVCI_MESSAGE_RELEASE ? KVC_OK : KVC_TIMED_OUT;
}

static kvc_status_t client_bind(struct client *client, uint32_t *ret_binding)
{
	/* Field count, then tenant, model, kv_dtype, hash_algorithm with lengths: made by hand, so that nothing of it can fail here. */
	static const char fields[] = "\2\0\0\0" "\5\0model\1\0\0\0m" "\10\0kv_dtype\10\0\0\0bfloat16";
	struct kvci_message message;
	kvc_status_t status;

	memcpy(client->window, &fixture_form, sizeof(fixture_form));
	memcpy(client->window + sizeof(fixture_form), fields, sizeof(fields) - 1);
	kvci_message_init(&message, KVCI_MESSAGE_BIND, 1);
	message.array_bytes = sizeof(fixture_form) + sizeof(fields) - 1;
	status = give(client, &message);
	*ret_binding = client->answer.binding;
	return status;
}

static kvc_status_t client_reserve(struct client *client, uint32_t binding, uint64_t *ret_reservation)
{
	struct kvci_wire_block *block = (void *)client->window;
	struct kvci_wire_reserved *reserved = (void *)(client->window + 4096);
	struct kvci_message message;
	kvc_status_t status = KVC_OK;

	for (int i = 0; i < 2; i++) {
		memset(block, 0, sizeof(*block));
		block->hash[0] = 7;
		block->token_count = 16;
		kvci_message_init(&message, KVCI_MESSAGE_RESERVE, 2);
		message.binding = binding;
		message.count = 1;
		message.array_bytes = sizeof(*block);
		message.reply_offset = 4096;
		message.reply_bytes = sizeof(*reserved);
		status = give(client, &message);
		if (status != KVC_PENDING)
			break;
		kvci_message_init(&message, KVCI_MESSAGE_SLAB_MAPPED, 3);
		message.a = client->answer.a;
		status = give(client, &message);
		if (status != KVC_OK)
			return status;
	}
	if (status == KVC_OK)
		status = reserved->extent.status;
	*ret_reservation = reserved->reservation;
	return status;
}

static kvc_status_t client_store(struct client *client, uint32_t binding)
{
	struct kvci_wire_commit *commit = (void *)client->window;
	struct kvci_message message;
	uint64_t reservation;
	kvc_status_t status = client_reserve(client, binding, &reservation);

	if (status != KVC_OK)
		return status;
	memset(client->window, 0, 64);
	commit->reservation = reservation;
	commit->checksum_count = fixture_form.layer_count;
	kvci_message_init(&message, KVCI_MESSAGE_COMMIT, 4);
	message.count = 1;
	message.array_bytes = sizeof(*commit) + 16;
	message.reply_offset = 4096;
	message.reply_bytes = 4;
	status = give(client, &message);
	return status != KVC_OK ? status : *(int32_t *)(void *)(client->window + 4096);
}

static kvc_status_t client_read(struct client *client, uint32_t binding)
{
	struct kvci_message message;
	kvc_status_t status;

	memset(client->window, 0, KVCI_HASH_BYTES);
	client->window[0] = 7;
	kvci_message_init(&message, KVCI_MESSAGE_MATCH, 5);
	message.binding = binding;
	message.count = 1;
	message.flags = KVCI_MATCH_LEASE | KVCI_MATCH_EXTENTS;
	message.array_bytes = KVCI_HASH_BYTES;
	message.reply_offset = 4096;
	message.reply_bytes = sizeof(struct kvci_wire_extent);
	status = give(client, &message);
	if (status != KVC_OK)
		return status;
	assert_int_equal(client->answer.count, 1); /* what was committed is there */
	kvci_message_init(&message, KVCI_MESSAGE_LOAD, 6);
	message.count = 1;
	message.reply_offset = 4096;
	message.reply_bytes = sizeof(struct kvci_wire_extent);
	status = give(client, &message);
	kvci_message_init(&message, KVCI_MESSAGE_RELEASE, 7);
	give(client, &message);
	return status;
}

static kvc_status_t client_rest(struct client *client, uint32_t binding)
{
	static const char *const questions[] = {"stat", "spaces", "clients", "ls", "flush"};
	struct kvci_message message;
	kvc_status_t status = KVC_OK;

	kvci_message_init(&message, KVCI_MESSAGE_FLUSH, 8);
	status = give(client, &message);
	for (unsigned i = 0; i < 5 && status == KVC_OK; i++) {
		kvci_message_init(&message, KVCI_MESSAGE_ADMIN, 9);
		strcpy(message.text, questions[i]);
		status = give(client, &message);
	}
	if (status != KVC_OK)
		return status;
	kvci_message_init(&message, KVCI_MESSAGE_EPOCH_RAISE, 10);
	message.binding = binding;
	return give(client, &message);
}

static kvc_status_t serve_all(struct client *client)
{
	struct kvci_conn_out out = {.context = client, .send = note_answer, .wake = fixture_wake};
	struct kvci_conn_peer peer = {.pid = getpid()};
	struct kvci_message message;
	uint64_t bytes;
	uint32_t binding = 0;
	kvc_status_t status = kvci_conn_create(client->core, "default", &peer, &out, &client->conn);

	if (status != KVC_OK)
		return status;
	client->open = true;
	kvci_message_init(&message, KVCI_MESSAGE_HELLO, 1);
	message.a = KVCI_PROTO_VERSION;
	status = give(client, &message);
	client->window = kvci_conn_window(client->conn, &bytes);
	if (status == KVC_OK)
		status = client_bind(client, &binding);
	if (status == KVC_OK)
		status = client_store(client, binding);
	if (status == KVC_OK)
		status = client_read(client, binding);
	if (status == KVC_OK)
		status = client_rest(client, binding);
	kvci_conn_destroy(client->conn);
	return status;
}

static kvc_status_t core_life(void *context)
{
	struct client client = {0};
	struct kvci_config config;
	char *error = NULL;
	kvc_status_t status = kvci_config_init(&config);

	if (status != KVC_OK)
		return status;
	status = kvci_config_set(&config, "memory.capacity=4MiB", "test", NULL);
	if (status == KVC_OK)
		status = kvci_config_set(&config, "memory.slab=1MiB", "test", NULL);
	if (status == KVC_OK)
		status = kvci_config_set(&config, "workers=1", "test", NULL);
	if (status == KVC_OK)
		status = kvci_core_create(&config, &client.core, &error);
	kvci_free(error);
	if (status == KVC_OK) {
		const char *broken;

		status = serve_all(&client);
		broken = kvci_cache_check(client.core->cache);
		if (broken != NULL && strstr(broken, "out of memory") == NULL) /* the check itself allocates */
			fail_msg("%s", broken);
		kvci_core_destroy(client.core);
	}
	kvci_config_fini(&config);
	/* A client is told NO_MEMORY, or BUSY where it may ask again. */
	return status == KVC_BUSY || status == KVC_NO_SPACE ? KVC_NO_MEMORY : status;
}

static void test_core__each_allocation_fails__is_refused_and_leaves_nothing(void **state)
{
	struct sweep_result result = sweep_run("a core's life", core_life, NULL);

	assert_true(result.allocations > 50);
	print_message("%u allocations, %u of them benign\n", result.allocations, result.benign);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_core__each_allocation_fails__is_refused_and_leaves_nothing),
	};

	kvci_log_set_sink(fixture_quiet, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
