/* SPDX-License-Identifier: Apache-2.0
 * EPOCH_RAISE, DROP, FLUSH, ADMIN. */
#include "daemon/serve_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/admin.h"

/* ---- EPOCH_RAISE ---- */

struct upkeep_epoch {
	struct serve_op op;
	struct kvci_epoch_wait wait;
	bool done;
	kvc_status_t status;
	uint64_t epoch;
};

static void upkeep_epoch_done(struct kvci_epoch_wait *wait, kvc_status_t status, uint64_t epoch)
{
	struct upkeep_epoch *raise = wait->context;

	raise->done = true;
	raise->status = status;
	raise->epoch = epoch;
	serve_op_wake(&raise->op);
}

static bool upkeep_epoch_finish(struct serve_op *op)
{
	struct upkeep_epoch *raise = (struct upkeep_epoch *)op;
	struct kvci_message answer = {.a = raise->epoch};

	if (!raise->done)
		return false;
	serve_answer_full(op->conn, &op->message, &answer, raise->status, -1);
	return true;
}

static void upkeep_epoch_cancel(struct serve_op *op)
{
	struct upkeep_epoch *raise = (struct upkeep_epoch *)op;

	if (!raise->done)
		kvci_cache_epoch_cancel(op->conn->core->cache, &raise->wait);
	serve_op_free(op);
}

bool serve_epoch_raise(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct upkeep_epoch *raise;
	struct serve_op *op = NULL;
	kvc_status_t status = serve_bound(conn, message->binding) ? KVC_OK : KVC_INVALID;

	if (status == KVC_OK)
		status = serve_op_create(conn, message, sizeof(*raise), upkeep_epoch_finish, upkeep_epoch_cancel, &op);
	if (status == KVC_OK) {
		raise = (struct upkeep_epoch *)op;
		raise->wait.done = upkeep_epoch_done;
		raise->wait.context = raise;
		status = kvci_cache_epoch_raise(conn->core->cache,
		                                kvci_cache_binding_space(conn->core->cache, message->binding),
		                                &raise->wait);
		if (status != KVC_OK)
			serve_op_free(op);
	}
	if (status != KVC_OK)
		serve_answer(conn, message, status);
	return true;
}

/* ---- DROP ---- */

bool serve_drop(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct kvci_cache *cache = conn->core->cache;
	const struct kvc_form *form;
	kvc_status_t status = serve_bound(conn, message->binding) ? KVC_OK : KVC_INVALID;

	if (status == KVC_OK)
		status = serve_copy_array(conn, message, KVCI_HASH_BYTES);
	if (status == KVC_OK) {
		form = kvci_cache_binding_form(cache, message->binding);
		status = form == NULL ? KVC_NOT_FOUND
		                      : kvci_cache_drop(cache, kvci_cache_binding_space(cache, message->binding), form->group,
		                                        (const uint8_t *)conn->work.array);
	}
	serve_answer(conn, message, status);
	return true;
}

/* ---- FLUSH ---- */

struct upkeep_flush {
	struct serve_op op;
	struct kvci_flush_wait wait;
	bool done;
	kvc_status_t status;
};

static void upkeep_flush_done(struct kvci_flush_wait *wait, kvc_status_t status)
{
	struct upkeep_flush *flush = wait->context;

	flush->done = true;
	flush->status = status;
	serve_op_wake(&flush->op);
}

static bool upkeep_flush_finish(struct serve_op *op)
{
	struct upkeep_flush *flush = (struct upkeep_flush *)op;

	if (!flush->done)
		return false;
	serve_answer(op->conn, &op->message, flush->status);
	return true;
}

static void upkeep_flush_cancel(struct serve_op *op)
{
	struct upkeep_flush *flush = (struct upkeep_flush *)op;

	if (!flush->done)
		kvci_cache_flush_cancel(op->conn->core->cache, &flush->wait);
	serve_op_free(op);
}

bool serve_flush(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct upkeep_flush *flush;
	struct serve_op *op;
	kvc_status_t status =
		serve_op_create(conn, message, sizeof(*flush), upkeep_flush_finish, upkeep_flush_cancel, &op);

	if (status == KVC_OK) {
		flush = (struct upkeep_flush *)op;
		flush->wait.done = upkeep_flush_done;
		flush->wait.context = flush;
		status = kvci_cache_flush(conn->core->cache, &flush->wait);
		if (status != KVC_OK)
			serve_op_free(op);
	}
	if (status != KVC_OK)
		serve_answer(conn, message, status);
	return true;
}

/* ---- ADMIN ---- */

struct upkeep_admin {
	struct serve_op op;
	struct kvci_admin_question *question; /* NULL when answered */
	kvc_status_t status;
	int fd;
	uint64_t bytes;
	char error[KVCI_MESSAGE_TEXT_BYTES];
};

static void upkeep_admin_done(void *context, kvc_status_t status, int fd, uint64_t bytes, const char *error)
{
	struct upkeep_admin *admin = context;

	admin->question = NULL;
	admin->status = status;
	admin->bytes = bytes;
	if (status == KVC_OK) {
		admin->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (admin->fd < 0)
			admin->status = KVC_NO_MEMORY;
	}
	snprintf(admin->error, sizeof(admin->error), "%s", error != NULL ? error : "");
	serve_op_wake(&admin->op);
}

static void upkeep_admin_close(struct upkeep_admin *admin)
{
	if (admin->fd >= 0)
		close(admin->fd);
	admin->op.conn->admin_count--;
}

static bool upkeep_admin_finish(struct serve_op *op)
{
	struct upkeep_admin *admin = (struct upkeep_admin *)op;
	struct kvci_message answer = {.a = admin->bytes};

	if (admin->question != NULL)
		return false;
	memcpy(answer.text, admin->error, sizeof(answer.text));
	serve_answer_full(op->conn, &op->message, &answer, admin->status, admin->status == KVC_OK ? admin->fd : -1);
	upkeep_admin_close(admin);
	return true;
}

static void upkeep_admin_cancel(struct serve_op *op)
{
	struct upkeep_admin *admin = (struct upkeep_admin *)op;

	kvci_admin_cancel(admin->question);
	upkeep_admin_close(admin);
	serve_op_free(op);
}

bool serve_admin(struct kvci_conn *conn, const struct kvci_message *message)
{
	/* Whoever may kill the daemon may see and steer all of it; others see their tenant. */
	struct kvci_admin_asker asker = {
		.tenant = conn->tenant,
		.operator = conn->peer.uid == 0 || conn->peer.uid == geteuid(),
	};
	struct upkeep_admin *admin;
	struct serve_op *op;
	kvc_status_t status = conn->admin_count < SERVE_ADMIN_MAX ? KVC_OK : KVC_BUSY;

	if (status == KVC_OK && message->array_bytes > KVCI_WINDOW_BYTES / 4)
		status = KVC_TOO_BIG;
	if (status == KVC_OK)
		status = serve_copy_array(conn, message, message->array_bytes);
	if (status == KVC_OK)
		status = serve_op_create(conn, message, sizeof(*admin), upkeep_admin_finish, upkeep_admin_cancel, &op);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	conn->admin_count++;
	admin = (struct upkeep_admin *)op;
	admin->fd = -1;
	/* Its answer comes by done(), maybe inside. */
	kvci_admin_ask(conn->core, &asker, message->text, conn->work.array, message->array_bytes, upkeep_admin_done, admin,
	               &admin->question);
	return true;
}
