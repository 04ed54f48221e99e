/* SPDX-License-Identifier: Apache-2.0
 * Match: which leading blocks are stored, and with a lease, held. */
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

/* As cache/cache.h counts them (a test compares): clients do not see that header. */
static const char *const match_miss_names[] = {
	"none",   "never_stored",  "evicted",      "dropped",  "epoch",      "in_flight",
	"other_form", "damaged", "index_loading", "disk_circuit", "over_cap", "after_miss", "other_shard",
};
enum { MATCH_MISSES = sizeof(match_miss_names) / sizeof(match_miss_names[0]) };
_Static_assert((int)MATCH_MISSES <= (int)CLIENT_MISSES, "every miss has a counter");

struct match_op {
	struct kvc_op op;
	const uint8_t *hashes; /* the caller's, until the request is sent; then NULL */
	uint8_t *kept;         /* a copy, when it was not sent at once */
	uint32_t count, flags;
	uint8_t id[CLIENT_ID_BYTES];
	struct kvc_match_result result;
};

const char *kvc_miss_name(uint32_t miss)
{
	return miss < MATCH_MISSES ? match_miss_names[miss] : "unknown";
}

/* An answer that this thread slept for: how much later it was than the daemon took. */
static void match_learn(struct kvc_client *client, const struct kvc_op *op, uint64_t took_ns)
{
	uint64_t waited_ns = kvci_clock_ns() - op->sent_ns;

	if (op->spin_ns > 0 && op->slept)
		kvci_lateness_learn(&client->lateness, waited_ns > took_ns ? waited_ns - took_ns : 0);
}

static void match_answered(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct match_op *self = (struct match_op *)call->op;

	if (self->op.status != KVC_PENDING)
		return;
	if (answer->status == KVC_OK &&
	    (answer->count > self->count || answer->first > self->count || answer->a > self->count)) {
		connect_protest(client, "a match of more than was asked");
		op_done(&self->op, KVC_GONE);
		return;
	}
	if (answer->status == KVC_OK) {
		self->result = (struct kvc_match_result){
			.matched_blocks = answer->count,
			.in_memory_blocks = answer->first,
			.on_disk_blocks = (uint32_t)answer->a,
			.load_bytes = answer->b,
			.miss = answer->c < MATCH_MISSES ? (uint32_t)answer->c : CLIENT_MISSES - 1,
		};
		match_learn(client, &self->op, answer->d);
		client->stats.match_hit_keys += answer->count;
		if (answer->count < self->count)
			client->stats.misses[self->result.miss] += self->count - answer->count;
	}
	op_done(&self->op, answer->status);
}

static void match_start(struct kvc_op *op)
{
	struct match_op *self = (struct match_op *)op;
	uint64_t bytes = (uint64_t)self->count * KVC_HASH_BYTES;
	struct kvci_message message;
	struct call *call;
	kvc_status_t status;

	status = connect_call(op->client, op, KVCI_MESSAGE_MATCH, bytes, match_answered, &call, &message);
	if (status != KVC_OK) {
		op_done(op, status);
		return;
	}
	memcpy(op->client->window + call->range_offset, self->hashes, bytes);
	self->hashes = NULL;
	message.binding = op->space->binding;
	message.count = self->count;
	message.flags = self->flags;
	message.array_offset = call->range_offset;
	message.array_bytes = bytes;
	memcpy(message.id, self->id, sizeof(message.id));
	message.b = kvci_lateness_matters(&op->client->lateness) ? op->client->lateness.late_ns : 0;
	op->sent_ns = kvci_clock_ns();
	connect_send(op->client, &message);
}

static void match_stop(struct kvc_op *op, kvc_status_t status)
{
	op_done(op, status);
}

static void match_fini(struct kvc_op *op)
{
	kvci_free(((struct match_op *)op)->kept);
}

static const struct op_kind match_kind = {
	.name = "match",
	.quick = true,
	.start = match_start,
	.stop = match_stop,
	.fini = match_fini,
};

/* The binding is still on its way: the caller's keys are copied. */
static kvc_status_t match_keep_hashes(struct match_op *self)
{
	if (self->hashes == NULL || self->op.status != KVC_PENDING)
		return KVC_OK;
	self->kept = kvci_alloc((size_t)self->count * KVC_HASH_BYTES);
	if (self->kept == NULL)
		return client_fail(KVC_NO_MEMORY, "match");
	memcpy(self->kept, self->hashes, (size_t)self->count * KVC_HASH_BYTES);
	self->hashes = self->kept;
	return KVC_OK;
}

static kvc_status_t match_check(const struct kvc_space *space, const void *hashes, uint32_t count,
                                const struct kvc_request *request, uint32_t flags)
{
	if (!space_is_valid(space))
		return client_fail(KVC_INVALID, "no space");
	if (count > KVC_BLOCKS_MAX)
		return client_fail(KVC_TOO_BIG, "%u keys in one call, at most %u", count, (unsigned)KVC_BLOCKS_MAX);
	if (hashes == NULL && count > 0)
		return client_fail(KVC_INVALID, "hashes is NULL");
	if ((flags & ~(uint32_t)KVC_MATCH_LEASE) != 0)
		return client_fail(KVC_INVALID, "flags: unknown bit in %#x", flags);
	if ((flags & KVC_MATCH_LEASE) != 0 && (request == NULL || (request->id == NULL && request->id_bytes > 0)))
		return client_fail(KVC_INVALID, "a lease needs a request id");
	return KVC_OK;
}

/* Long enough for an answer that comes at once, were the daemon awake. */
static uint64_t match_spin_ns(const struct kvc_client *client, uint32_t count)
{
	uint64_t spin_ns = client->spin_ns + (uint64_t)count * CLIENT_SPIN_KEY_NS;

	return spin_ns < CLIENT_SPIN_NS_MAX ? spin_ns : CLIENT_SPIN_NS_MAX;
}

/* The lock is held when it is OK. */
static kvc_status_t match_launch(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                                 const struct kvc_request *request, uint32_t flags, bool background, struct match_op **ret_self)
{
	struct kvc_client *client;
	struct match_op *self;
	struct kvc_op *op;
	uint8_t id[CLIENT_ID_BYTES] = {0};
	kvc_status_t status = match_check(space, hashes, count, request, flags);

	if (status == KVC_OK && (flags & KVC_MATCH_LEASE) != 0)
		status = client_id(request->id, request->id_bytes, id);
	if (status != KVC_OK)
		return status;
	client = space->client;
	status = client_enter_up(client);
	if (status != KVC_OK)
		return status;
	status = op_create(client, space, &match_kind, sizeof(*self), &op);
	if (status != KVC_OK) {
		client_leave(client);
		return status;
	}
	self = (struct match_op *)op;
	self->hashes = (const uint8_t *)hashes;
	self->count = count;
	self->flags = (flags & KVC_MATCH_LEASE) != 0 ? KVCI_WIRE_MATCH_LEASE : 0;
	memcpy(self->id, id, sizeof(id));
	op->background = background;
	if (client->spin_ns > 0 && !background)
		op->spin_ns = match_spin_ns(client, count);
	client->stats.match_calls++;
	client->stats.match_keys += count;
	if (count == 0)
		op_done(op, KVC_OK);
	else
		op_launch(op);
	*ret_self = self;
	return KVC_OK;
}

kvc_status_t kvc_match_begin(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                             const struct kvc_request *request, uint32_t flags, struct kvc_op **ret_op)
{
	struct match_op *self;
	kvc_status_t status;

	if (ret_op == NULL)
		return client_fail(KVC_INVALID, "ret_op is NULL");
	status = match_launch(space, hashes, count, request, flags, true, &self);
	if (status != KVC_OK)
		return status;
	status = match_keep_hashes(self);
	if (status == KVC_OK)
		*ret_op = &self->op;
	else
		op_detach(&self->op);
	client_leave(space->client);
	return status;
}

kvc_status_t kvc_op_match_result(struct kvc_op *op, struct kvc_match_result *ret_result)
{
	kvc_status_t status;

	if (op == NULL || op->magic != CLIENT_OP_MAGIC || op->kind != &match_kind || ret_result == NULL)
		return client_fail(KVC_INVALID, "no match");
	status = client_enter(op->client);
	if (status != KVC_OK)
		return status;
	status = op->status;
	if (status == KVC_OK)
		*ret_result = ((struct match_op *)op)->result;
	client_leave(op->client);
	return status;
}

kvc_status_t kvc_match(struct kvc_space *space, const uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                       const struct kvc_request *request, uint32_t flags, uint64_t timeout_ns,
                       struct kvc_match_result *ret_result)
{
	uint64_t until_ns = op_until(timeout_ns);
	struct match_op *self;
	kvc_status_t status;

	if (ret_result == NULL)
		return client_fail(KVC_INVALID, "ret_result is NULL");
	status = match_launch(space, hashes, count, request, flags, false, &self);
	if (status != KVC_OK)
		return status;
	status = op_finish(&self->op, until_ns);
	if (status == KVC_OK)
		*ret_result = self->result;
	else
		client_fail(status, "match: %s", kvc_status_text(status));
	op_detach(&self->op);
	client_leave(space->client);
	return status;
}
