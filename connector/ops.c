/* SPDX-License-Identifier: Apache-2.0
 * Ops: from begin over waiting, deadline and cancel to the moment when nobody needs them any more; the mover. */
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

uint64_t op_until(uint64_t timeout_ns)
{
	uint64_t now_ns = kvci_clock_ns();

	return timeout_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX : now_ns + timeout_ns;
}

/* ---- life ---- */

kvc_status_t op_create(struct kvc_client *client, struct kvc_space *space, const struct op_kind *kind, size_t bytes,
                       struct kvc_op **ret_op)
{
	size_t allocated = bytes <= CLIENT_OP_SMALL_BYTES ? CLIENT_OP_SMALL_BYTES : bytes;
	struct kvc_op *op;

	if (bytes <= CLIENT_OP_SMALL_BYTES && client->spares != NULL) {
		op = client->spares;
		client->spares = op->next;
		client->spare_count--;
		memset(op, 0, bytes);
	} else {
		op = kvci_alloc_zero(1, allocated);
		client->stats.allocations++;
	}
	if (op == NULL)
		return client_fail(KVC_NO_MEMORY, "%s", kind->name);
	op->magic = CLIENT_OP_MAGIC;
	op->allocated_bytes = allocated > UINT32_MAX ? UINT32_MAX : (uint32_t)allocated;
	op->kind = kind;
	op->client = client;
	op->space = space;
	op->status = KVC_PENDING;
	op->begin_ns = kvci_clock_ns();
	if (space != NULL)
		space->ops++;
	op->prev = client->ops_end;
	if (client->ops_end != NULL)
		client->ops_end->next = op;
	else
		client->ops = op;
	client->ops_end = op;
	*ret_op = op;
	return KVC_OK;
}

static void op_unlink(struct kvc_op *op)
{
	struct kvc_client *client = op->client;

	if (op->prev != NULL)
		op->prev->next = op->next;
	else
		client->ops = op->next;
	if (op->next != NULL)
		op->next->prev = op->prev;
	else
		client->ops_end = op->prev;
}

void op_settle(struct kvc_op *op)
{
	struct kvc_client *client = op->client;
	struct kvc_space *space = op->space;

	if (!op->detached || op->calls > 0 || op->moving > 0 || client->reserver == op)
		return;
	op_unlink(op);
	if (op->kind->fini != NULL)
		op->kind->fini(op);
	op->magic = 0;
	if (op->allocated_bytes == CLIENT_OP_SMALL_BYTES && client->spare_count < CLIENT_OP_SPARES) {
		op->next = client->spares;
		client->spares = op;
		client->spare_count++;
	} else {
		kvci_free(op);
	}
	if (space != NULL && --space->ops == 0 && space->closed)
		space_destroy(space);
}

void op_done(struct kvc_op *op, kvc_status_t status)
{
	if (op->status != KVC_PENDING)
		return;
	op->status = status;
	op->elapsed_ns = kvci_clock_ns() - op->begin_ns;
	if (op->background || op->client->waiters > 0 || op->client->reader)
		client_moved(op->client);
}

void op_stop(struct kvc_op *op, kvc_status_t status)
{
	if (op->status != KVC_PENDING || atomic_load_explicit(&op->stopped, memory_order_relaxed))
		return;
	/* Who cancels at once has changed his mind; who cancels late has waited in vain. */
	if (op->calls > 0 && (status == KVC_TIMED_OUT ||
	                      (status == KVC_CANCELED && kvci_clock_ns() - op->begin_ns >= CLIENT_SILENCE_NS)))
		connect_gave_up(op->client, op);
	if (status == KVC_TIMED_OUT)
		op->client->stats.timed_out++;
	atomic_store_explicit(&op->stopped, true, memory_order_relaxed);
	op->kind->stop(op, status);
}

void op_detach(struct kvc_op *op)
{
	if (op->status == KVC_PENDING)
		op_stop(op, KVC_CANCELED);
	op->detached = true;
	op_settle(op);
}

void op_launch(struct kvc_op *op)
{
	struct kvc_client *client = op->client;

	if (op->kind->moves && client->mover_runs && op->background)
		pthread_cond_signal(&client->mover_wake);
	if (op->deadline_ns != 0 && (client->reader || client->waiters > 0)) /* somebody must wake in time for it */
		client_moved(client);
	if (op->space != NULL && op->space->bind_state != SPACE_BOUND) {
		kvc_status_t status = space_bind(op->space);

		if (status != KVC_OK)
			op_stop(op, status);
		return;
	}
	op->started = true;
	op->kind->start(op);
}

/* ---- all of a client ---- */

void ops_bound(struct kvc_client *client, struct kvc_space *space, kvc_status_t status)
{
	struct kvc_op *next;

	for (struct kvc_op *op = client->ops; op != NULL; op = next) {
		next = op->next;
		if (op->space != space || op->started || op->status != KVC_PENDING)
			continue;
		if (status == KVC_OK) {
			op->started = true;
			op->kind->start(op);
		} else {
			op_stop(op, status);
		}
		op_settle(op);
	}
}

void ops_gone(struct kvc_client *client)
{
	struct kvc_op *next;

	for (struct kvc_op *op = client->ops; op != NULL; op = next) {
		next = op->next;
		op->calls = 0;
		op_stop(op, KVC_GONE);
		op_settle(op);
	}
}

void ops_resume(struct kvc_client *client)
{
	struct kvc_op *next;

	for (struct kvc_op *op = client->ops; op != NULL; op = next) {
		next = op->next;
		if (op->kind != &store_kind)
			continue;
		store_pump(op);
		op_settle(op);
	}
}

uint64_t ops_expire(struct kvc_client *client)
{
	uint64_t now_ns = 0, next_ns = UINT64_MAX;

	for (struct kvc_op *op = client->ops; op != NULL; op = op->next) {
		if (op->deadline_ns == 0 || op->status != KVC_PENDING || atomic_load_explicit(&op->stopped, memory_order_relaxed))
			continue;
		if (now_ns == 0)
			now_ns = kvci_clock_ns();
		if (now_ns >= op->deadline_ns)
			op_stop(op, KVC_TIMED_OUT);
		else if (op->deadline_ns < next_ns)
			next_ns = op->deadline_ns;
	}
	return next_ns;
}

/* Loads before stores: somebody waits for them. */
bool ops_move_any(struct kvc_client *client)
{
	static const struct op_kind *const kinds[] = {&load_kind, &store_kind};

	for (unsigned i = 0; i < 2; i++)
		for (struct kvc_op *op = client->ops; op != NULL; op = op->next)
			if (op->kind == kinds[i] && op->kind->move(op))
				return true; /* the lock was let go: the list may be another */
	return false;
}

static bool ops_any_moves(const struct kvc_client *client)
{
	for (const struct kvc_op *op = client->ops; op != NULL; op = op->next)
		if (op->kind->moves && op->background && op->status == KVC_PENDING)
			return true;
	return false;
}

void *ops_mover(void *context)
{
	struct kvc_client *client = context;

	client_lock(client);
	while (!client->closing) {
		uint64_t next_ns;

		connect_drain(client);
		next_ns = ops_expire(client);
		if (ops_move_any(client))
			continue;
		if (ops_any_moves(client))
			client_wait(client, next_ns);
		else
			pthread_cond_wait(&client->mover_wake, &client->lock);
	}
	client_unlock(client);
	return NULL;
}

/* ---- waiting ---- */

void op_wait(struct kvc_op *op, uint64_t until_ns)
{
	struct kvc_client *client = op->client;

	for (;;) {
		uint64_t next_ns;

		connect_drain(client);
		next_ns = ops_expire(client);
		if (op->status != KVC_PENDING || client->closing)
			return;
		if (kvci_clock_ns() >= until_ns)
			return;
		if (op->kind->moves && op->kind->move(op))
			continue;
		if (op->status == KVC_PENDING)
			op->slept |= client_wait_awake(client, next_ns < until_ns ? next_ns : until_ns, op->spin_ns);
	}
}

kvc_status_t op_finish(struct kvc_op *op, uint64_t until_ns)
{
	op_wait(op, until_ns);
	if (op->status == KVC_PENDING)
		op_stop(op, KVC_TIMED_OUT);
	while (op->status == KVC_PENDING) /* a copy of it ends within a section */
		client_wait(op->client, UINT64_MAX);
	return op->status;
}

kvc_status_t op_enter(struct kvc_op *op)
{
	if (op == NULL || op->magic != CLIENT_OP_MAGIC)
		return client_fail(KVC_INVALID, "no op");
	return client_enter(op->client);
}

kvc_status_t kvc_op_status(struct kvc_op *op)
{
	kvc_status_t status = op_enter(op);

	if (status != KVC_OK)
		return status;
	ops_expire(op->client);
	status = op->status;
	client_leave(op->client);
	return status;
}

kvc_status_t kvc_op_wait(struct kvc_op *op, uint64_t timeout_ns)
{
	kvc_status_t status = op_enter(op);

	if (status != KVC_OK)
		return status;
	op_wait(op, op_until(timeout_ns));
	status = op->status;
	client_leave(op->client);
	return status;
}

void kvc_op_cancel(struct kvc_op *op)
{
	if (op_enter(op) != KVC_OK)
		return;
	op_stop(op, KVC_CANCELED);
	while (op->status == KVC_PENDING)
		client_wait(op->client, UINT64_MAX);
	client_leave(op->client);
}

void kvc_op_destroy(struct kvc_op *op)
{
	struct kvc_client *client;

	if (op == NULL || op_enter(op) != KVC_OK)
		return;
	client = op->client;
	op_stop(op, KVC_CANCELED);
	while (op->status == KVC_PENDING)
		client_wait(client, UINT64_MAX);
	op_detach(op);
	client_leave(client);
}

bool kvc_op_pages_free(struct kvc_op *op)
{
	bool is_free;

	if (op_enter(op) != KVC_OK)
		return false;
	ops_expire(op->client);
	is_free = op->moving == 0 && (op->status != KVC_PENDING || (op->kind->pages_free != NULL && op->kind->pages_free(op)));
	client_leave(op->client);
	return is_free;
}

kvc_status_t kvc_op_block_statuses(struct kvc_op *op, kvc_status_t *statuses, uint32_t room)
{
	kvc_status_t status = op_enter(op);

	if (status != KVC_OK)
		return status;
	ops_expire(op->client);
	if (op->kind->statuses == NULL)
		status = client_fail(KVC_INVALID, "a %s has no blocks", op->kind->name);
	else if (statuses == NULL)
		status = client_fail(KVC_INVALID, "statuses is NULL");
	else
		status = op->kind->statuses(op, statuses, room);
	client_leave(op->client);
	return status;
}

void kvc_op_get_figures(struct kvc_op *op, struct kvc_op_figures *ret_figures)
{
	if (op_enter(op) != KVC_OK)
		return;
	*ret_figures = op->figures;
	ret_figures->elapsed_ns = op->status == KVC_PENDING ? kvci_clock_ns() - op->begin_ns : op->elapsed_ns;
	client_leave(op->client);
}
