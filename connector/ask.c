/* SPDX-License-Identifier: Apache-2.0
 * A question whose caller waits: one request with an array each way at most, one answer; and the calls that are no more than that. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "connector/internal.h"

enum { ASK_REPLY_ALIGN = 64, ASK_JSON_BYTES_MAX = 1 << 30, ASK_SCORES_BYTES = 1 << 20 };

struct ask_op {
	struct kvc_op op;
	const struct ask *ask; /* the caller's, valid while it waits */
	struct kvci_message answer;
	int fd;
};

static void ask_answered(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct ask_op *self = (struct ask_op *)call->op;
	uint64_t reply_offset = call->range_offset + call->context;

	if (self->op.status != KVC_PENDING)
		return; /* the caller has gone */
	self->answer = *answer;
	self->fd = *fd;
	*fd = -1;
	if (answer->status == KVC_OK && self->ask->reply != NULL)
		memcpy(self->ask->reply, client->window + reply_offset, self->ask->reply_bytes);
	op_done(&self->op, answer->status);
}

static void ask_start(struct kvc_op *op)
{
	struct kvc_client *client = op->client;
	const struct ask *ask = ((struct ask_op *)op)->ask;
	uint64_t array_bytes = ask->array_bytes[0] + ask->array_bytes[1];
	uint64_t reply_at = (array_bytes + ASK_REPLY_ALIGN - 1) / ASK_REPLY_ALIGN * ASK_REPLY_ALIGN;
	struct kvci_message message;
	struct call *call;
	uint8_t *array;
	kvc_status_t status;

	status = connect_call(client, op, ask->type, reply_at + ask->reply_bytes, ask_answered, &call, &message);
	if (status != KVC_OK) {
		op_done(op, status);
		return;
	}
	array = client->window + call->range_offset;
	if (ask->array_bytes[0] > 0)
		memcpy(array, ask->arrays[0], ask->array_bytes[0]);
	if (ask->array_bytes[1] > 0)
		memcpy(array + ask->array_bytes[0], ask->arrays[1], ask->array_bytes[1]);
	if (ask->reply_bytes > 0)
		memset(array + reply_at, 0, ask->reply_bytes);
	call->context = reply_at;
	message.flags = ask->flags;
	message.binding = op->space != NULL ? op->space->binding : 0;
	message.count = ask->count;
	message.a = ask->a;
	message.array_offset = array_bytes > 0 ? call->range_offset : 0;
	message.array_bytes = array_bytes;
	message.reply_offset = ask->reply_bytes > 0 ? call->range_offset + reply_at : 0;
	message.reply_bytes = ask->reply_bytes;
	if (ask->id != NULL)
		memcpy(message.id, ask->id, sizeof(message.id));
	if (ask->text != NULL)
		snprintf(message.text, sizeof(message.text), "%s", ask->text);
	connect_send(client, &message);
}

static void ask_stop(struct kvc_op *op, kvc_status_t status)
{
	op_done(op, status);
}

static const struct op_kind ask_kind = {.name = "request", .quick = true, .start = ask_start, .stop = ask_stop};
static const struct op_kind ask_slow_kind = {.name = "request", .quick = false, .start = ask_start, .stop = ask_stop};

kvc_status_t ask_and_wait(struct kvc_client *client, struct kvc_space *space, const struct ask *ask, uint64_t timeout_ns,
                          struct kvci_message *ret_answer, int *ret_fd)
{
	uint64_t until_ns = op_until(timeout_ns);
	struct ask_op *self;
	struct kvc_op *op;
	kvc_status_t status = client_enter_up(client);

	if (status != KVC_OK)
		return status;
	status = op_create(client, space, ask->slow ? &ask_slow_kind : &ask_kind, sizeof(*self), &op);
	if (status == KVC_OK) {
		self = (struct ask_op *)op;
		self->ask = ask;
		self->fd = -1;
		op->spin_ns = ask->slow ? 0 : client->spin_ns;
		op_launch(op);
		status = op_finish(op, until_ns);
		if (status == KVC_OK && ret_answer != NULL)
			*ret_answer = self->answer;
		if (status == KVC_OK && ret_fd != NULL)
			*ret_fd = self->fd;
		else if (self->fd >= 0)
			close(self->fd);
		if (status != KVC_OK && self->answer.text[0] != '\0')
			client_fail(status, "%s: %s", kvc_status_text(status), self->answer.text);
		else if (status != KVC_OK)
			client_fail(status, "%s: %s", kvci_message_name(ask->type), kvc_status_text(status));
		op_detach(op);
	}
	client_leave(client);
	return status;
}

/* ---- calls that are one question ---- */

static kvc_status_t ask_check_hashes(const struct kvc_space *space, const void *hashes, uint32_t count)
{
	if (!space_is_valid(space))
		return client_fail(KVC_INVALID, "no space");
	if (count > KVC_BLOCKS_MAX)
		return client_fail(KVC_TOO_BIG, "%u keys in one call, at most %u", count, (unsigned)KVC_BLOCKS_MAX);
	if (hashes == NULL && count > 0)
		return client_fail(KVC_INVALID, "hashes is NULL");
	return KVC_OK;
}

kvc_status_t kvc_exists(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count, uint8_t *out,
                        uint64_t timeout_ns)
{
	struct ask ask = {
		.type = KVCI_MESSAGE_MATCH,
		.flags = KVCI_WIRE_MATCH_EXISTS,
		.count = count,
		.arrays = {hashes},
		.array_bytes = {(size_t)count * KVC_HASH_BYTES},
		.reply = out,
		.reply_bytes = count,
	};
	kvc_status_t status = ask_check_hashes(space, hashes, count);

	if (status != KVC_OK || count == 0)
		return status;
	if (out == NULL)
		return client_fail(KVC_INVALID, "out is NULL");
	status = ask_and_wait(space->client, space, &ask, timeout_ns, NULL, NULL);
	for (uint32_t i = 0; status == KVC_OK && i < count; i++)
		out[i] = out[i] != 0;
	return status;
}

kvc_status_t kvc_set_scores(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count, const uint8_t *scores,
                            uint64_t timeout_ns)
{
	uint64_t until_ns = op_until(timeout_ns);
	kvc_status_t status = ask_check_hashes(space, hashes, count);
	size_t bytes;
	uint32_t most;

	if (status != KVC_OK || count == 0)
		return status;
	if (scores == NULL)
		return client_fail(KVC_INVALID, "scores is NULL");
	bytes = (size_t)space->form.block_tokens * space->form.kv_heads;
	most = (uint32_t)(ASK_SCORES_BYTES / (KVC_HASH_BYTES + bytes)) + 1;
	if (KVC_HASH_BYTES + bytes > KVCI_WINDOW_BYTES / 4)
		return client_fail(KVC_TOO_BIG, "scores of %zu bytes a block", bytes);
	for (uint32_t done = 0, some; done < count && status == KVC_OK; done += some) {
		uint64_t now_ns = kvci_clock_ns();
		struct ask ask = {.type = KVCI_MESSAGE_SCORES, .a = bytes, .arrays = {hashes + done, scores + done * bytes}};

		some = count - done < most ? count - done : most;
		ask.count = some;
		ask.array_bytes[0] = (size_t)some * KVC_HASH_BYTES;
		ask.array_bytes[1] = some * bytes;
		status = ask_and_wait(space->client, space, &ask, until_ns > now_ns ? until_ns - now_ns : 0, NULL, NULL);
	}
	return status;
}

kvc_status_t kvc_drop(struct kvc_space *space, const uint8_t hash[KVC_HASH_BYTES], uint64_t timeout_ns)
{
	struct ask ask = {.type = KVCI_MESSAGE_DROP, .count = 1, .arrays = {hash}, .array_bytes = {KVC_HASH_BYTES}};
	kvc_status_t status = ask_check_hashes(space, hash, 1);

	return status != KVC_OK ? status : ask_and_wait(space->client, space, &ask, timeout_ns, NULL, NULL);
}

kvc_status_t kvc_space_raise_epoch(struct kvc_space *space, uint64_t timeout_ns)
{
	struct ask ask = {.type = KVCI_MESSAGE_EPOCH_RAISE, .slow = true};
	struct kvci_message answer;
	kvc_status_t status = ask_check_hashes(space, NULL, 0);

	if (status == KVC_OK)
		status = ask_and_wait(space->client, space, &ask, timeout_ns, &answer, NULL);
	if (status != KVC_OK)
		return status;
	client_lock(space->client);
	if (answer.a > space->epoch)
		space->epoch = answer.a;
	client_unlock(space->client);
	return KVC_OK;
}

kvc_status_t kvc_flush(struct kvc_client *client, uint64_t timeout_ns)
{
	struct ask ask = {.type = KVCI_MESSAGE_FLUSH, .slow = true};

	return ask_and_wait(client, NULL, &ask, timeout_ns, NULL, NULL);
}

/* JSON out of a memfd that may still change: copied, never mapped. */
static kvc_status_t ask_read_json(int fd, uint64_t bytes, char **ret_json)
{
	struct stat file;
	uint64_t done = 0;
	char *json;

	if (bytes > ASK_JSON_BYTES_MAX || fstat(fd, &file) != 0 || (uint64_t)file.st_size < bytes)
		return client_fail(KVC_PROTOCOL, "the answer's length is wrong");
	json = kvci_alloc(bytes + 1);
	if (json == NULL)
		return client_fail(KVC_NO_MEMORY, "admin");
	while (done < bytes) {
		ssize_t n = pread(fd, json + done, bytes - done, (off_t)done);

		if (n <= 0) {
			kvci_free(json);
			return client_fail(KVC_PROTOCOL, "the answer cannot be read");
		}
		done += (uint64_t)n;
	}
	json[bytes] = '\0';
	*ret_json = json;
	return KVC_OK;
}

kvc_status_t kvc_admin(struct kvc_client *client, const char *question, const char *arguments_json, uint64_t timeout_ns,
                       char **ret_json)
{
	struct ask ask = {.type = KVCI_MESSAGE_ADMIN, .text = question, .slow = true};
	struct kvci_message answer;
	kvc_status_t status;
	int fd = -1;

	if (question == NULL || ret_json == NULL)
		return client_fail(KVC_INVALID, "question or ret_json is NULL");
	if (strlen(question) >= KVCI_MESSAGE_TEXT_BYTES)
		return client_fail(KVC_TOO_BIG, "a question has at most %d bytes", KVCI_MESSAGE_TEXT_BYTES - 1);
	if (arguments_json != NULL) {
		ask.arrays[0] = arguments_json;
		ask.array_bytes[0] = strlen(arguments_json);
		if (ask.array_bytes[0] > KVCI_WINDOW_BYTES / 4)
			return client_fail(KVC_TOO_BIG, "arguments of %zu bytes", ask.array_bytes[0]);
	}
	status = ask_and_wait(client, NULL, &ask, timeout_ns, &answer, &fd);
	if (status != KVC_OK)
		return status;
	if (fd < 0)
		return client_fail(KVC_PROTOCOL, "an answer without text");
	status = ask_read_json(fd, answer.a, ret_json);
	close(fd);
	return status;
}

kvc_status_t kvc_release(struct kvc_client *client, const struct kvc_request *request)
{
	struct kvci_message message;
	kvc_status_t status;

	if (request == NULL || (request->id == NULL && request->id_bytes > 0))
		return client_fail(KVC_INVALID, "request is NULL");
	kvci_message_init(&message, KVCI_MESSAGE_RELEASE, 0);
	status = client_id(request->id, request->id_bytes, message.id);
	if (status == KVC_OK)
		status = client_enter(client);
	if (status != KVC_OK)
		return status;
	/* While the daemon is away there is nothing to let go of: its leases ended with the connection. */
	connect_tell(client, &message);
	client_leave(client);
	return KVC_OK;
}
