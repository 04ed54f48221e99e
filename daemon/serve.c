/* SPDX-License-Identifier: Apache-2.0
 * A connection: HELLO and BIND, the table of messages, and what all handlers share. */
#include "daemon/serve_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/coding.h"
#include "daemon/server.h"
#include "rpc/local/channel.h"

/* ---- for the handlers ---- */

void serve_answer_full(struct kvci_conn *conn, const struct kvci_message *request, struct kvci_message *answer,
                       kvc_status_t status, int fd)
{
	if (conn->muted)
		return;
	answer->magic = KVCI_PROTO_MAGIC;
	answer->type = request->type;
	answer->tag = request->tag;
	answer->status = status;
	conn->out.send(conn->out.context, answer, fd);
}

void serve_answer(struct kvci_conn *conn, const struct kvci_message *request, kvc_status_t status)
{
	struct kvci_message answer = {0};

	serve_answer_full(conn, request, &answer, status, -1);
}

kvc_status_t serve_range(const struct kvci_conn *conn, uint64_t offset, uint64_t bytes, void **ret_at)
{
	if (offset > conn->window_bytes || bytes > conn->window_bytes - offset)
		return KVC_INVALID;
	*ret_at = conn->window + offset;
	return KVC_OK;
}

kvc_status_t serve_reply_range(const struct kvci_conn *conn, const struct kvci_message *message, uint64_t count,
                               uint64_t entry_bytes, void **ret_at)
{
	if (count > KVCI_PROTO_BLOCKS_MAX)
		return KVC_TOO_BIG;
	if (message->reply_offset % 8 != 0 || message->reply_bytes < count * entry_bytes)
		return KVC_INVALID;
	return serve_range(conn, message->reply_offset, count * entry_bytes, ret_at);
}

kvc_status_t serve_copy_array_in_steps(struct kvci_conn *conn, const struct kvci_message *message, uint64_t bytes)
{
	struct serve_work *work = &conn->work;
	kvc_status_t status;
	void *from;

	if (message->array_bytes < bytes)
		return KVC_INVALID;
	status = serve_range(conn, message->array_offset, bytes, &from);
	if (status != KVC_OK)
		return status;
	if (work->array_room_bytes < bytes) {
		char *array = kvci_alloc(bytes);

		if (array == NULL)
			return KVC_NO_MEMORY;
		kvci_free(work->array);
		work->array = array;
		work->array_room_bytes = bytes;
	}
	work->copy_from = from;
	work->copy_at = 0;
	work->copy_bytes = bytes;
	return KVC_OK;
}

static void serve_copy_some(struct serve_work *work)
{
	uint64_t left_bytes = work->copy_bytes - work->copy_at;
	uint64_t bytes = left_bytes < SERVE_COPY_STEP_BYTES ? left_bytes : SERVE_COPY_STEP_BYTES;

	memcpy(work->array + work->copy_at, work->copy_from + work->copy_at, bytes);
	work->copy_at += bytes;
}

kvc_status_t serve_copy_array(struct kvci_conn *conn, const struct kvci_message *message, uint64_t bytes)
{
	kvc_status_t status = serve_copy_array_in_steps(conn, message, bytes);

	while (status == KVC_OK && conn->work.copy_at < bytes)
		serve_copy_some(&conn->work);
	return status;
}

bool serve_bound(const struct kvci_conn *conn, uint32_t binding)
{
	for (uint32_t i = 0; i < conn->binding_count; i++)
		if (conn->bindings[i] == binding)
			return true;
	return false;
}

kvc_status_t serve_slab_note(struct kvci_conn *conn, uint32_t slab)
{
	for (uint32_t i = 0; i < conn->slab_count; i++)
		if (conn->slabs[i] == slab)
			return KVC_OK;
	if (conn->slab_count == conn->slab_room) {
		uint32_t room = conn->slab_room != 0 ? 2 * conn->slab_room : 8;
		uint32_t *slabs = kvci_realloc(conn->slabs, room * sizeof(slabs[0]));

		if (slabs == NULL)
			return KVC_NO_MEMORY;
		conn->slabs = slabs;
		conn->slab_room = room;
	}
	conn->slabs[conn->slab_count++] = slab;
	return KVC_OK;
}

void kvci_conn_slab_gone(struct kvci_conn *conn, uint32_t slab)
{
	struct kvci_message event;

	for (uint32_t i = 0; i < conn->slab_count; i++) {
		if (conn->slabs[i] != slab)
			continue;
		conn->slabs[i] = conn->slabs[--conn->slab_count];
		if (conn->muted)
			return;
		kvci_message_init(&event, KVCI_MESSAGE_SLAB_GONE, 0);
		event.a = slab;
		conn->out.send(conn->out.context, &event, -1);
		return;
	}
}

/* ---- work that is cut up ---- */

void serve_work_begin(struct kvci_conn *conn, const struct kvci_message *message, bool (*step)(struct kvci_conn *conn),
                      struct serve_op *op)
{
	struct serve_work *work = &conn->work;

	work->message = *message;
	work->step = step;
	work->done = 0;
	work->at = 0;
	work->op = op;
	work->begin_ns = kvci_clock_ns();
	kvci_conn_step(conn);
	if (work->step != NULL)
		conn->out.wake(conn->out.context);
}

bool kvci_conn_busy(const struct kvci_conn *conn)
{
	return conn->work.step != NULL;
}

void kvci_conn_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	uint64_t begin_ns = kvci_clock_ns();

	if (work->step == NULL)
		return;
	for (;;) {
		if (work->copy_at < work->copy_bytes)
			serve_copy_some(work);
		else if (work->step(conn))
			break;
		if (kvci_clock_ns() - begin_ns >= SERVE_STEP_NS)
			return;
	}
	work->step = NULL;
	if (work->array_room_bytes > SERVE_KEEP_BYTES) {
		kvci_free(work->array);
		work->array = NULL;
		work->array_room_bytes = 0;
	}
	if (work->numbers_room_bytes > SERVE_KEEP_BYTES) {
		kvci_free(work->numbers);
		work->numbers = NULL;
		work->numbers_room_bytes = 0;
	}
}

/* ---- operations under way ---- */

kvc_status_t serve_op_create(struct kvci_conn *conn, const struct kvci_message *message, size_t bytes,
                             bool (*finish)(struct serve_op *op), void (*cancel)(struct serve_op *op),
                             struct serve_op **ret_op)
{
	struct serve_op *op;

	if (conn->op_count >= SERVE_OPS_MAX)
		return KVC_BUSY;
	op = kvci_alloc_zero(1, bytes);
	if (op == NULL)
		return KVC_NO_MEMORY;
	op->conn = conn;
	op->message = *message;
	op->finish = finish;
	op->cancel = cancel;
	op->next = conn->ops;
	if (conn->ops != NULL)
		conn->ops->prev = op;
	conn->ops = op;
	conn->op_count++;
	*ret_op = op;
	return KVC_OK;
}

void serve_op_wake(struct serve_op *op)
{
	if (op->dirty)
		return;
	op->dirty = true;
	op->conn->out.wake(op->conn->out.context);
}

void serve_op_free(struct serve_op *op)
{
	if (op->prev != NULL)
		op->prev->next = op->next;
	else
		op->conn->ops = op->next;
	if (op->next != NULL)
		op->next->prev = op->prev;
	op->conn->op_count--;
	kvci_free(op);
}

void kvci_conn_finish(struct kvci_conn *conn)
{
	struct serve_op *op = conn->ops;

	while (op != NULL) {
		struct serve_op *next = op->next;

		if (op->dirty) {
			op->dirty = false;
			if (op->finish(op))
				serve_op_free(op);
		}
		op = next;
	}
}

/* ---- HELLO and BIND ---- */

static kvc_status_t serve_make_window(struct kvci_conn *conn)
{
	void *base;
	kvc_status_t status = kvci_memory_map("kvcask-window", KVCI_WINDOW_BYTES, &conn->window_fd, &base);

	if (status != KVC_OK)
		return status;
	conn->window = base;
	conn->window_bytes = KVCI_WINDOW_BYTES;
	return KVC_OK;
}

static bool serve_hello(struct kvci_conn *conn, const struct kvci_message *message)
{
	const uint32_t known = KVCI_HELLO_SESSION_OWNER | KVCI_HELLO_NO_SESSION;
	struct kvci_message answer = {0};
	kvc_status_t status = KVC_OK;
	uint32_t client;

	if (conn->client != 0) {
		serve_answer(conn, message, KVC_PROTOCOL);
		return true;
	}
	if (message->a != KVCI_PROTO_VERSION)
		status = KVC_VERSION;
	else if ((message->flags & ~known) != 0 || message->flags == known)
		status = KVC_INVALID;
	if (status == KVC_OK && conn->window == NULL)
		status = serve_make_window(conn);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return false;
	}
	client = conn->core->next_client++;
	status = kvci_cache_client_open(conn->core->cache, client, conn->tenant);
	if (status == KVC_OK && (message->flags & KVCI_HELLO_NO_SESSION) == 0) {
		status = kvci_cache_session_join(conn->core->cache, client, message->id,
		                                 (message->flags & KVCI_HELLO_SESSION_OWNER) != 0);
		if (status != KVC_OK)
			kvci_cache_client_gone(conn->core->cache, client);
	}
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return false;
	}
	conn->client = client;
	memcpy(conn->name, message->text, sizeof(conn->name));
	conn->name[sizeof(conn->name) - 1] = '\0';
	answer.a = conn->window_bytes;
	answer.b = (uint64_t)getpid();
	answer.c = conn->core->config->spin_ns;
	answer.count = client;
	serve_answer_full(conn, message, &answer, KVC_OK, conn->window_fd);
	kvci_log(KVCI_LOG_DEBUG, "serve", "client %u: %s (process %d)", client, conn->name, (int)conn->peer.pid);
	return true;
}

/* The space with the tenant of the socket in it, whatever the client wrote there. */
static kvc_status_t serve_parse_space(struct kvci_conn *conn, const char *bytes, size_t length, struct kvci_space *ret_space)
{
	kvc_status_t status = kvci_space_parse(bytes, length, ret_space);
	char *tenant;

	if (status != KVC_OK)
		return status;
	tenant = kvci_strdup(conn->tenant);
	if (tenant == NULL) {
		kvci_space_fini(ret_space);
		return KVC_NO_MEMORY;
	}
	kvci_free(ret_space->tenant);
	ret_space->tenant = tenant;
	return KVC_OK;
}

/* The commonest mistake of a first try: no memory for one block, which is at most a slab and a client's part. */
static void serve_say_too_big(const struct kvci_conn *conn, const struct kvc_form *form, char *text, size_t text_bytes)
{
	const struct kvci_sizes *memory = &conn->core->sizes;
	struct kvc_form_sizes sizes;

	if (kvc_form_sizes(form, &sizes, NULL) != KVC_OK)
		return;
	if (sizes.record_bytes > memory->slab_bytes)
		snprintf(text, text_bytes, "block: %" PRIu32 " KiB; raise memory.slab", (uint32_t)(sizes.record_bytes >> 10));
	else if (sizes.record_bytes > memory->memory_bytes / 100 * conn->core->config->memory_client_share_percent)
		snprintf(text, text_bytes, "block: %" PRIu32 " KiB; raise memory.capacity", (uint32_t)(sizes.record_bytes >> 10));
}

static kvc_status_t serve_bind_parsed(struct kvci_conn *conn, const struct kvci_message *message,
                                      struct kvci_message *answer)
{
	struct kvci_space space = {0};
	struct kvci_space_info info;
	struct kvc_form form;
	uint32_t binding;
	uint64_t epoch;
	kvc_status_t status;

	memcpy(&form, conn->work.array, sizeof(form));
	if (form.struct_bytes != sizeof(form))
		return KVC_VERSION;
	status = serve_parse_space(conn, conn->work.array + sizeof(form), message->array_bytes - sizeof(form), &space);
	if (status != KVC_OK)
		return status;
	status = kvci_coding_check(space.codec, answer->text, sizeof(answer->text));
	if (status != KVC_OK) {
		kvci_space_fini(&space);
		return status;
	}
	status = kvci_cache_bind(conn->core->cache, conn->client, &space, &form, &binding, &epoch);
	kvci_space_fini(&space);
	if (status == KVC_TOO_BIG)
		serve_say_too_big(conn, &form, answer->text, sizeof(answer->text));
	if (status != KVC_OK)
		return status;
	kvci_coding_note_form(conn->core->coding, &form);
	if (!serve_bound(conn, binding)) {
		if (conn->binding_count == SERVE_BINDINGS_MAX)
			return KVC_TOO_BIG;
		conn->bindings[conn->binding_count++] = binding;
	}
	answer->binding = binding;
	answer->a = epoch;
	answer->b = kvci_cache_binding_space(conn->core->cache, binding);
	status = kvci_cache_space_info(conn->core->cache, (uint32_t)answer->b, &info);
	if (status == KVC_OK) /* the client seeds its checksums with it */
		memcpy(answer->id, info.fingerprint, sizeof(answer->id));
	return status;
}

static bool serve_bind(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct kvci_message answer = {0};
	kvc_status_t status = KVC_INVALID;

	/* Ten fields of their greatest length, names and lengths. */
	if (message->array_bytes > sizeof(struct kvc_form) + 16 * KVCI_SPACE_FIELD_BYTES_MAX)
		status = KVC_TOO_BIG;
	else if (message->array_bytes > sizeof(struct kvc_form))
		status = serve_copy_array(conn, message, message->array_bytes);
	if (status == KVC_OK)
		status = serve_bind_parsed(conn, message, &answer);
	serve_answer_full(conn, message, &answer, status, -1);
	return true;
}

static bool serve_ping(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct kvci_message answer = {.a = kvci_clock_ns()};

	serve_answer_full(conn, message, &answer, KVC_OK, -1);
	return true;
}

/* ---- the table of messages ---- */

typedef bool (*serve_handler_fn)(struct kvci_conn *conn, const struct kvci_message *message);

static const serve_handler_fn serve_handlers[] = {
	[KVCI_MESSAGE_HELLO] = serve_hello,
	[KVCI_MESSAGE_BIND] = serve_bind,
	[KVCI_MESSAGE_MATCH] = serve_match,
	[KVCI_MESSAGE_LOAD] = serve_load,
	[KVCI_MESSAGE_LOAD_CANCEL] = serve_load_cancel,
	[KVCI_MESSAGE_RELEASE] = serve_release,
	[KVCI_MESSAGE_RESERVE] = serve_reserve,
	[KVCI_MESSAGE_SLAB_MAPPED] = serve_slab_mapped,
	[KVCI_MESSAGE_SLAB_GET] = serve_slab_get,
	[KVCI_MESSAGE_COMMIT] = serve_commit,
	[KVCI_MESSAGE_ABORT] = serve_abort,
	[KVCI_MESSAGE_DAMAGE] = serve_damage,
	[KVCI_MESSAGE_EPOCH_RAISE] = serve_epoch_raise,
	[KVCI_MESSAGE_DROP] = serve_drop,
	[KVCI_MESSAGE_FLUSH] = serve_flush,
	[KVCI_MESSAGE_ADMIN] = serve_admin,
	[KVCI_MESSAGE_PING] = serve_ping,
	[KVCI_MESSAGE_SCORES] = serve_scores,
};

bool kvci_conn_handle(struct kvci_conn *conn, const struct kvci_message *message)
{
	const size_t known = sizeof(serve_handlers) / sizeof(serve_handlers[0]);
	serve_handler_fn handler = message->type < known ? serve_handlers[message->type] : NULL;

	if (conn->muted || kvci_conn_busy(conn))
		return !conn->muted;
	conn->messages++;
	if (handler == NULL || (conn->client == 0 && message->type != KVCI_MESSAGE_HELLO)) {
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "serve", "client %u (process %d) sent %s, type %u: connection ended",
		                 conn->client, (int)conn->peer.pid,
		                 handler == NULL ? "an unknown message" : "a message before HELLO", message->type);
		kvci_stat_add(&conn->core->stats, KVCI_STAT_PROTOCOL_ERRORS, 1);
		serve_answer(conn, message, KVC_PROTOCOL);
		return false;
	}
	return handler(conn, message);
}

/* ---- life ---- */

kvc_status_t kvci_conn_create(struct kvci_core *core, const char *tenant, const struct kvci_conn_peer *peer,
                              const struct kvci_conn_out *out, struct kvci_conn **ret_conn)
{
	struct kvci_conn *conn = kvci_alloc_zero(1, sizeof(*conn));

	if (conn == NULL)
		return KVC_NO_MEMORY;
	conn->core = core;
	conn->out = *out;
	conn->peer = *peer;
	conn->window_fd = -1;
	conn->since_ns = kvci_clock_ns();
	conn->tenant = kvci_strdup(tenant);
	if (conn->tenant == NULL) {
		kvci_conn_destroy(conn);
		return KVC_NO_MEMORY;
	}
	*ret_conn = conn;
	return KVC_OK;
}

void kvci_conn_mute(struct kvci_conn *conn)
{
	conn->muted = true;
	conn->work.step = NULL;
	while (conn->ops != NULL)
		conn->ops->cancel(conn->ops);
}

void kvci_conn_destroy(struct kvci_conn *conn)
{
	if (conn == NULL)
		return;
	kvci_conn_mute(conn);
	if (conn->client != 0)
		kvci_cache_client_gone(conn->core->cache, conn->client);
	kvci_memory_unmap(conn->core->memory, conn->window_fd, conn->window, conn->window_bytes);
	kvci_free(conn->work.array);
	kvci_free(conn->work.numbers);
	kvci_free(conn->slabs);
	kvci_free(conn->tenant);
	kvci_free(conn);
}

uint32_t kvci_conn_client(const struct kvci_conn *conn)
{
	return conn->client;
}

void *kvci_conn_window(const struct kvci_conn *conn, uint64_t *ret_bytes)
{
	*ret_bytes = conn->window_bytes;
	return conn->window;
}

void kvci_conn_info(const struct kvci_conn *conn, struct kvci_conn_info *ret_info)
{
	*ret_info = (struct kvci_conn_info){
		.client = conn->client,
		.name = conn->name,
		.tenant = conn->tenant,
		.peer = conn->peer,
		.since_ns = conn->since_ns,
		.messages = conn->messages,
		.operations = conn->op_count,
		.bindings = conn->binding_count,
	};
}
