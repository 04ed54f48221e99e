/* SPDX-License-Identifier: Apache-2.0
 * A core in this process, memory only unless data_dir is set, and a client end that speaks the protocol by hand. Include after cmocka.h. */
#ifndef KVC_TESTS_DAEMON_CORE_FIXTURE_H
#define KVC_TESTS_DAEMON_CORE_FIXTURE_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/core.h"
#include "daemon/serve.h"
#include "daemon/server.h"
#include "rpc/local/channel.h"

struct fixture_core {
	struct kvci_config config;
	struct kvci_core *core;
};

static inline void fixture_quiet(void *context, enum kvci_log_level level, const char *line)
{
	if (getenv("KVC_TEST_LOG") != NULL)
		fprintf(stderr, "%s\n", line);
}

/* sets: NULL-terminated "key=value". */
static inline void fixture_core_start(struct fixture_core *fixture, const char *const *sets)
{
	char *error = NULL;

	kvci_log_set_sink(fixture_quiet, NULL);
	assert_int_equal(kvci_config_init(&fixture->config), KVC_OK);
	assert_int_equal(kvci_config_set(&fixture->config, "memory.capacity=8MiB", "test", &error), KVC_OK);
	assert_int_equal(kvci_config_set(&fixture->config, "memory.slab=1MiB", "test", &error), KVC_OK);
	for (; sets != NULL && *sets != NULL; sets++)
		if (kvci_config_set(&fixture->config, *sets, "test", &error) != KVC_OK)
			fail_msg("%s", error);
	if (kvci_core_create(&fixture->config, &fixture->core, &error) != KVC_OK)
		fail_msg("core: %s", error != NULL ? error : "?");
}

static inline void fixture_core_stop(struct fixture_core *fixture)
{
	kvci_core_destroy(fixture->core);
	kvci_config_fini(&fixture->config);
	kvci_log_set_sink(NULL, NULL);
}

/* Lets the loop go on until nothing has happened for a moment. */
static inline void fixture_turn(struct fixture_core *fixture)
{
	for (int i = 0; i < 20; i++)
		assert_int_equal(kvci_loop_turn(fixture->core->loop, 200 * 1000), KVC_OK);
}

/* ---- a connection without a socket ---- */

enum { FIXTURE_ANSWERS = 4096 };

struct fixture_conn {
	struct fixture_core *fixture;
	struct kvci_conn *conn;
	struct kvci_message answers[FIXTURE_ANSWERS]; /* not taken yet */
	unsigned answer_count;
	uint32_t next_tag;
	char *window;
	uint64_t window_bytes;
	bool open; /* handle has not ended it */
};

static inline void fixture_send(void *context, const struct kvci_message *message, int fd)
{
	struct fixture_conn *conn = context;

	assert_true(conn->answer_count < FIXTURE_ANSWERS);
	conn->answers[conn->answer_count++] = *message;
}

static inline void fixture_wake(void *context)
{
}

static inline void fixture_conn_open(struct fixture_core *fixture, struct fixture_conn *conn, const char *tenant, uid_t uid)
{
	struct kvci_conn_out out = {.context = conn, .send = fixture_send, .wake = fixture_wake};
	struct kvci_conn_peer peer = {.pid = getpid(), .uid = uid};

	memset(conn, 0, sizeof(*conn));
	conn->fixture = fixture;
	conn->open = true;
	conn->next_tag = 1;
	assert_int_equal(kvci_conn_create(fixture->core, tenant, &peer, &out, &conn->conn), KVC_OK);
}

static inline void fixture_conn_close(struct fixture_conn *conn)
{
	kvci_conn_destroy(conn->conn);
	conn->conn = NULL;
}

/* Gives it a message and works until it is idle. */
static inline void fixture_give(struct fixture_conn *conn, const struct kvci_message *message)
{
	conn->open = kvci_conn_handle(conn->conn, message);
	for (int i = 0; conn->open && i < 100000 && kvci_conn_busy(conn->conn); i++)
		kvci_conn_step(conn->conn);
	assert_false(conn->open && kvci_conn_busy(conn->conn));
	kvci_conn_finish(conn->conn);
}

/* The first answer of this type; false: none has come. */
static inline bool fixture_take(struct fixture_conn *conn, uint16_t type, uint32_t tag, struct kvci_message *ret_answer)
{
	for (unsigned i = 0; i < conn->answer_count; i++) {
		if (conn->answers[i].type != type || conn->answers[i].tag != tag)
			continue;
		*ret_answer = conn->answers[i];
		conn->answer_count--;
		memmove(&conn->answers[i], &conn->answers[i + 1], (conn->answer_count - i) * sizeof(conn->answers[0]));
		return true;
	}
	return false;
}

/* One message, one answer; waits for what workers do. */
static inline struct kvci_message fixture_ask(struct fixture_conn *conn, struct kvci_message *message)
{
	struct kvci_message answer;

	message->tag = conn->next_tag++;
	fixture_give(conn, message);
	for (int i = 0; i < 5000; i++) {
		if (fixture_take(conn, message->type, message->tag, &answer))
			return answer;
		assert_int_equal(kvci_loop_turn(conn->fixture->core->loop, KVCI_MS), KVC_OK);
		kvci_conn_finish(conn->conn);
	}
	fail_msg("no answer to %s", kvci_message_name(message->type));
	memset(&answer, 0, sizeof(answer));
	return answer;
}

static inline kvc_status_t fixture_ask_status(struct fixture_conn *conn, struct kvci_message *message)
{
	return fixture_ask(conn, message).status;
}

static inline void fixture_hello(struct fixture_conn *conn, uint32_t flags)
{
	struct kvci_message message, answer;

	kvci_message_init(&message, KVCI_MESSAGE_HELLO, 0);
	message.a = KVCI_PROTO_VERSION;
	message.flags = flags;
	memcpy(message.id, "session of tests", 16);
	strcpy(message.text, "fixture");
	answer = fixture_ask(conn, &message);
	assert_int_equal(answer.status, KVC_OK);
	conn->window = kvci_conn_window(conn->conn, &conn->window_bytes);
	assert_int_equal(answer.a, conn->window_bytes);
}

static const struct kvc_form fixture_form = {
	.struct_bytes = sizeof(struct kvc_form),
	.layer_count = 2,
	.block_tokens = 16,
	.engine_block_tokens = 16,
	.kv_heads = 1,
	.head_dim_k = 64,
	.head_dim_v = 64,
	.dtype = KVC_DTYPE_BF16,
	.arrangement = KVC_KV_SPLIT,
	.order = KVC_ORDER_HN,
	.group_rule = KVC_GROUP_FULL,
	.shard_count = 1,
};

/* BIND of this form in the space of `model`, written at the window's start. */
static inline struct kvci_message fixture_bind(struct fixture_conn *conn, const struct kvc_form *form, const char *model,
                                               const char *tenant)
{
	struct kvci_space space = {.tenant = (char *)tenant,
	                           .model = (char *)model,
	                           .kv_dtype = (char *)"bfloat16",
	                           .hash_algorithm = (char *)"test"};
	struct kvci_message message;
	size_t length;
	void *bytes;

	assert_int_equal(kvci_space_serialize(&space, &bytes, &length), KVC_OK);
	memcpy(conn->window, form, sizeof(*form));
	memcpy(conn->window + sizeof(*form), bytes, length);
	kvci_free(bytes);
	kvci_message_init(&message, KVCI_MESSAGE_BIND, 0);
	message.array_bytes = sizeof(*form) + length;
	return fixture_ask(conn, &message);
}

static inline uint32_t fixture_bind_ok(struct fixture_conn *conn, const char *model)
{
	struct kvci_message answer = fixture_bind(conn, &fixture_form, model, NULL);

	assert_int_equal(answer.status, KVC_OK);
	return answer.binding;
}

/* RESERVE of one block; the slab is mapped on the way when one is new. */
static inline struct kvci_wire_reserved fixture_reserve(struct fixture_conn *conn, uint32_t binding, uint8_t hash_byte)
{
	struct kvci_wire_block *block = (void *)conn->window;
	struct kvci_wire_reserved *reserved = (void *)(conn->window + 4096);
	struct kvci_message message, answer;

	for (int i = 0; i < 2; i++) {
		memset(block, 0, sizeof(*block));
		memset(block->hash, hash_byte, sizeof(block->hash));
		block->token_count = 16;
		kvci_message_init(&message, KVCI_MESSAGE_RESERVE, 0);
		message.binding = binding;
		message.count = 1;
		message.array_bytes = sizeof(*block);
		message.reply_offset = 4096;
		message.reply_bytes = sizeof(*reserved);
		answer = fixture_ask(conn, &message);
		if (answer.status != KVC_PENDING)
			break;
		kvci_message_init(&message, KVCI_MESSAGE_SLAB_MAPPED, 0);
		message.a = answer.a;
		assert_int_equal(fixture_ask_status(conn, &message), KVC_OK);
	}
	assert_int_equal(answer.status, KVC_OK);
	return *reserved;
}

static inline kvc_status_t fixture_commit(struct fixture_conn *conn, uint64_t reservation)
{
	struct kvci_wire_commit *commit = (void *)conn->window;
	struct kvci_message message;

	memset(conn->window, 0, 64);
	commit->reservation = reservation;
	commit->checksum_count = fixture_form.layer_count;
	kvci_message_init(&message, KVCI_MESSAGE_COMMIT, 0);
	message.count = 1;
	message.array_bytes = sizeof(*commit) + fixture_form.layer_count * sizeof(uint64_t);
	message.reply_offset = 4096;
	message.reply_bytes = sizeof(int32_t);
	assert_int_equal(fixture_ask_status(conn, &message), KVC_OK);
	return *(int32_t *)(void *)(conn->window + 4096);
}

static inline struct kvci_message fixture_match(struct fixture_conn *conn, uint32_t binding, uint8_t hash_byte, uint32_t flags)
{
	struct kvci_message message;

	memset(conn->window, hash_byte, KVCI_HASH_BYTES);
	kvci_message_init(&message, KVCI_MESSAGE_MATCH, 0);
	message.binding = binding;
	message.count = 1;
	message.flags = flags;
	message.array_bytes = KVCI_HASH_BYTES;
	message.reply_offset = 4096;
	message.reply_bytes = sizeof(struct kvci_wire_extent);
	memcpy(message.id, "request 00000001", 16);
	return fixture_ask(conn, &message);
}

static inline struct kvci_message fixture_admin(struct fixture_conn *conn, const char *question, const char *arguments)
{
	struct kvci_message message;

	kvci_message_init(&message, KVCI_MESSAGE_ADMIN, 0);
	snprintf(message.text, sizeof(message.text), "%s", question);
	message.array_bytes = strlen(arguments);
	memcpy(conn->window, arguments, message.array_bytes);
	return fixture_ask(conn, &message);
}

#endif
