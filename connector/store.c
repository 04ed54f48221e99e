/* SPDX-License-Identifier: Apache-2.0
 * The course of a store: see store.h. */
#include "connector/store.h"

#include <string.h>

#include "base/alloc.h"

enum {
	STORE_BATCH_BLOCKS = 256,
	STORE_COMMIT_BLOCKS = 64,
	STORE_REPLY_ALIGN = 64,
	STORE_PENDING_ROUNDS = 1024, /* slabs asked for by one store: more is a daemon in a loop */
};
#define STORE_COMMIT_BYTES (UINT64_C(8) << 20) /* gathered before they are committed, while more is to gather */

/* ---- settling ---- */

static bool store_is_good(kvc_status_t status)
{
	return status == KVC_OK || status == KVC_EXISTS; /* stored by us, or before us */
}

static void store_settle(struct store_op *self, uint32_t index, kvc_status_t status)
{
	struct store_block *block = &self->blocks[index];
	struct client_stats *stats = &self->op.client->stats;

	if (block->state == STORE_SETTLED)
		return;
	self->waiting -= block->state == STORE_WAITING || block->state == STORE_ASKED;
	self->past_pages -= block->state == STORE_GATHERED || block->state == STORE_COMMITTING;
	block->state = STORE_SETTLED;
	block->status = status;
	self->settled++;
	stats->store_existing_blocks += status == KVC_EXISTS;
	if (status == KVC_OK) {
		self->op.figures.blocks++;
		stats->store_blocks++;
	}
	if (store_is_good(status))
		return;
	stats->store_refused_blocks++;
	if (self->worst == KVC_OK || index < self->worst_index) {
		self->worst = status;
		self->worst_index = index;
	}
}

/* The reservation is over, one way or another. */
static void store_let_go(struct store_op *self, struct store_block *block)
{
	if (block->slab == NULL)
		return;
	slabs_put(self->op.client, block->slab);
	block->slab = NULL;
	self->free_slots[self->slot_count - self->held] = block->slot;
	self->held--;
}

void store_abort(struct kvc_client *client, uint64_t reservation)
{
	struct kvci_message message;

	kvci_message_init(&message, KVCI_MESSAGE_ABORT, 0);
	message.a = reservation;
	connect_tell(client, &message);
}

static void store_abort_block(struct store_op *self, uint32_t index, kvc_status_t status)
{
	store_abort(self->op.client, self->blocks[index].reservation);
	store_let_go(self, &self->blocks[index]);
	store_settle(self, index, status);
}

static void store_finish(struct store_op *self)
{
	if (self->op.status != KVC_PENDING || self->op.moving > 0)
		return;
	if (self->plain ? self->waiting == 0 : self->settled == self->count)
		op_done(&self->op, self->worst);
}

static bool store_is_stopped(const struct store_op *self)
{
	return self->op.status != KVC_PENDING || atomic_load_explicit(&self->op.stopped, memory_order_relaxed);
}

/* ---- reserving ---- */

static void store_back_to_waiting(struct store_op *self, uint32_t index)
{
	if (self->blocks[index].state != STORE_ASKED)
		return;
	self->blocks[index].state = STORE_WAITING;
	if (index < self->next_waiting)
		self->next_waiting = index;
}

/* No memory: while we hold some ourselves, it comes free with our commits; otherwise that is the answer. */
static void store_refused(struct store_op *self, uint32_t index, kvc_status_t status)
{
	if (self->held > 0 && !self->plain) {
		self->blocked = true;
		store_back_to_waiting(self, index);
	} else {
		store_settle(self, index, status);
	}
}

/* What the daemon gave must be ours to write. */
static bool store_take(struct store_op *self, uint32_t index, const struct kvci_wire_reserved *entry)
{
	struct kvc_client *client = self->op.client;
	struct store_block *block = &self->blocks[index];
	struct slab *slab = slabs_find(client, entry->extent.slab);

	if (slab == NULL || !slab->writable || entry->extent.record_bytes != self->op.space->sizes.record_bytes ||
	    !slabs_holds(slab, entry->extent.offset_bytes, entry->extent.record_bytes)) {
		connect_protest(client, "a reservation outside of this client's memory");
		return false;
	}
	block->slab = slab;
	slab->users++;
	block->reservation = entry->reservation;
	block->offset_bytes = entry->extent.offset_bytes;
	block->slot = self->free_slots[self->slot_count - ++self->held];
	if (block->state != STORE_ASKED) { /* stopped meanwhile */
		store_abort(client, block->reservation);
		store_let_go(self, block);
		return true;
	}
	self->waiting--;
	block->state = STORE_RESERVED;
	self->ready[self->ready_end++] = index;
	return true;
}

static void store_entry(struct store_op *self, uint32_t index, const struct kvci_wire_reserved *entry)
{
	switch (entry->extent.status) {
	case KVC_OK:
		store_take(self, index, entry);
		break;
	case KVC_NO_SPACE:
	case KVC_OVER_CAP:
	case KVC_BUSY:
		store_refused(self, index, entry->extent.status);
		break;
	case KVC_PENDING:
		store_back_to_waiting(self, index);
		break;
	default:
		store_settle(self, index, connect_is_status(entry->extent.status) ? entry->extent.status : KVC_GONE);
	}
}

static void store_settle_waiting(struct store_op *self, kvc_status_t status)
{
	for (uint32_t i = 0; i < self->count; i++)
		if (self->blocks[i].state == STORE_WAITING || self->blocks[i].state == STORE_ASKED)
			store_settle(self, i, status);
}

/* The next in line may reserve. */
static void store_reserved(struct kvc_client *client)
{
	client->reserver = NULL;
	client->starved = true;
}

static void store_slab_ready(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct store_op *self = (struct store_op *)call->op;
	struct slab *slab = slabs_find(client, (uint32_t)call->context);

	store_reserved(client);
	if (answer->status != KVC_OK) {
		if (slab != NULL)
			slabs_gone(client, slab->id);
		store_settle_waiting(self, kvc_status_class(answer->status) == KVC_CLASS_RETRY ? answer->status : KVC_NO_SPACE);
	}
	store_pump(&self->op);
}

/* The daemon wants a slab of ours to be mapped first. */
static kvc_status_t store_map_slab(struct store_op *self, const struct kvci_message *answer, int fd)
{
	struct kvc_client *client = self->op.client;
	struct slab *slab = slabs_find(client, (uint32_t)answer->a);
	struct kvci_message message;
	struct call *call;
	kvc_status_t status;

	if (++self->pending_rounds > STORE_PENDING_ROUNDS)
		return KVC_NO_SPACE;
	if (slab == NULL) {
		if (fd < 0)
			return KVC_PROTOCOL;
		status = slabs_map(client, (uint32_t)answer->a, answer->b, fd, true, &slab);
		if (status != KVC_OK)
			return status;
		if (answer->c == KVCI_MAP_HUGE_AUTO || answer->c == KVCI_MAP_HUGE_ON)
			slabs_huge(slab, (enum kvci_map_huge)answer->c); /* the pager does not have the lock yet */
	}
	status = connect_call(client, &self->op, KVCI_MESSAGE_SLAB_MAPPED, 0, store_slab_ready, &call, &message);
	if (status != KVC_OK)
		return status;
	call->context = slab->id;
	message.a = slab->id;
	connect_send(client, &message);
	return KVC_OK;
}

static void store_reserve_answered(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct store_op *self = (struct store_op *)call->op;
	const uint8_t *reply = client->window + call->range_offset + call->context;
	uint32_t asked = self->asked_count;
	kvc_status_t status = answer->status;

	self->asked_count = 0;
	if (answer->count > asked) {
		store_reserved(client);
		connect_protest(client, "more reservations than were asked for");
		return;
	}
	for (uint32_t i = 0; i < answer->count && !client->broken; i++) {
		struct kvci_wire_reserved entry; /* a copy: the daemon can still write there */

		memcpy(&entry, reply + i * sizeof(entry), sizeof(entry));
		store_entry(self, self->asked[i], &entry);
	}
	for (uint32_t i = answer->count; i < asked; i++) {
		if (status == KVC_PENDING)
			store_back_to_waiting(self, self->asked[i]);
		else if (status == KVC_OK || status == KVC_NO_SPACE || status == KVC_OVER_CAP || status == KVC_BUSY)
			store_refused(self, self->asked[i], status == KVC_OK ? KVC_NO_SPACE : status);
		else
			store_settle(self, self->asked[i], status);
	}
	if (status == KVC_PENDING && !client->broken) {
		status = store_map_slab(self, answer, *fd);
		if (status == KVC_OK)
			return; /* reserving goes on when the slab is ready */
		if (status == KVC_PROTOCOL) { /* the op ends with the connection */
			connect_protest(client, "a slab that is none");
			return;
		}
		store_settle_waiting(self, status == KVC_NO_MEMORY ? KVC_NO_MEMORY : KVC_NO_SPACE);
	}
	store_reserved(client);
	store_pump(&self->op);
}

/* Collects blocks that wait, in order. */
static uint32_t store_collect(struct store_op *self, uint32_t room)
{
	uint32_t count = 0, index = self->next_waiting;

	for (; index < self->count && count < room; index++)
		if (self->blocks[index].state == STORE_WAITING)
			self->asked[count++] = index;
	self->next_waiting = index;
	return count;
}

static void store_reserve(struct store_op *self)
{
	struct kvc_client *client = self->op.client;
	uint32_t room = self->slot_count - self->held, n;
	uint64_t array_bytes, reply_at;
	struct kvci_message message;
	struct call *call;

	/* Small requests would cost a round trip each: wait for room for a batch, or for all that is left. */
	if (self->waiting == 0 || self->asked_count > 0 || self->blocked || client->reserver != NULL || store_is_stopped(self) ||
	    (room < self->batch && room < self->waiting))
		return;
	n = store_collect(self, room < self->batch ? room : self->batch);
	array_bytes = (uint64_t)n * sizeof(struct kvci_wire_block);
	reply_at = (array_bytes + STORE_REPLY_ALIGN - 1) / STORE_REPLY_ALIGN * STORE_REPLY_ALIGN;
	if (connect_call(client, &self->op, KVCI_MESSAGE_RESERVE, reply_at + n * sizeof(struct kvci_wire_reserved),
	                 store_reserve_answered, &call, &message) != KVC_OK) {
		self->next_waiting = 0; /* `starved` is set: ops_resume comes back */
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct kvc_store_block *key = &self->keys[self->asked[i]];
		struct kvci_wire_block block = {
			.position_tokens = key->position_tokens,
			.token_count = self->op.space->form.block_tokens,
		};

		memcpy(block.hash, key->hash, sizeof(block.hash));
		memcpy(block.parent_hash, key->parent_hash, sizeof(block.parent_hash));
		memcpy(client->window + call->range_offset + i * sizeof(block), &block, sizeof(block));
		self->blocks[self->asked[i]].state = STORE_ASKED;
	}
	memset(client->window + call->range_offset + reply_at, 0, n * sizeof(struct kvci_wire_reserved));
	self->asked_count = n;
	client->reserver = &self->op;
	call->context = reply_at;
	message.binding = self->op.space->binding;
	message.count = n;
	message.array_offset = call->range_offset;
	message.array_bytes = array_bytes;
	message.reply_offset = call->range_offset + reply_at;
	message.reply_bytes = n * sizeof(struct kvci_wire_reserved);
	connect_send(client, &message);
}

/* ---- committing ---- */

static void store_committed(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct store_op *self = (struct store_op *)call->op;
	uint32_t index = (uint32_t)call->context;
	uint64_t at = call->context >> 32;

	for (uint32_t i = 0; index != STORE_NONE; i++) {
		struct store_block *block = &self->blocks[index];
		int32_t status = answer->status;
		uint32_t next = block->next;

		if (status == KVC_OK)
			memcpy(&status, client->window + call->range_offset + at + i * sizeof(status), sizeof(status));
		store_let_go(self, block);
		store_settle(self, index, status == KVC_PENDING || !connect_is_status(status) ? KVC_INTERNAL : status);
		index = next;
	}
	self->blocked = false;
	store_pump(&self->op);
}

static bool store_commit_is_due(const struct store_op *self)
{
	if (self->gathered_count == 0)
		return false;
	return self->gathered_count >= STORE_COMMIT_BLOCKS || self->ready_first == self->ready_end ||
	       self->gathered_count * self->op.space->sizes.block_bytes >= STORE_COMMIT_BYTES;
}

static void store_commit(struct store_op *self)
{
	struct kvc_client *client = self->op.client;
	uint32_t layers = self->op.space->form.layer_count;
	uint64_t entry_bytes = sizeof(struct kvci_wire_commit) + layers * sizeof(uint64_t);
	uint64_t array_bytes = self->gathered_count * entry_bytes;
	uint64_t reply_at = (array_bytes + STORE_REPLY_ALIGN - 1) / STORE_REPLY_ALIGN * STORE_REPLY_ALIGN;
	struct kvci_message message;
	struct call *call;

	if (!store_commit_is_due(self) || store_is_stopped(self) ||
	    connect_call(client, &self->op, KVCI_MESSAGE_COMMIT, reply_at + self->gathered_count * sizeof(int32_t), store_committed,
	                 &call, &message) != KVC_OK)
		return;
	for (uint32_t i = 0; i < self->gathered_count; i++) {
		struct store_block *block = &self->blocks[self->gathered[i]];
		struct kvci_wire_commit entry = {.reservation = block->reservation, .checksum_count = layers};
		uint8_t *at = client->window + call->range_offset + i * entry_bytes;

		memcpy(at, &entry, sizeof(entry));
		memcpy(at + sizeof(entry), self->checksums + (uint64_t)block->slot * layers, layers * sizeof(uint64_t));
		block->state = STORE_COMMITTING;
		block->next = i + 1 < self->gathered_count ? self->gathered[i + 1] : STORE_NONE;
	}
	memset(client->window + call->range_offset + reply_at, 0xff, self->gathered_count * sizeof(int32_t));
	call->context = self->gathered[0] | reply_at << 32;
	message.binding = self->op.space->binding;
	message.count = self->gathered_count;
	message.array_offset = call->range_offset;
	message.array_bytes = array_bytes;
	message.reply_offset = call->range_offset + reply_at;
	message.reply_bytes = self->gathered_count * sizeof(int32_t);
	self->gathered_count = 0;
	connect_send(client, &message);
}

void store_pump(struct kvc_op *op)
{
	struct store_op *self = (struct store_op *)op;

	if (!op->started || op->client->state != CONNECTION_UP)
		return;
	store_commit(self);
	store_reserve(self);
	store_finish(self);
	/* Blocks to gather: whoever waits must look, and so must the mover. */
	if (op->background && self->ready_first < self->ready_end)
		client_moved(op->client);
}

/* ---- gathering ---- */

static bool store_move(struct kvc_op *op)
{
	struct store_op *self = (struct store_op *)op;
	struct kvc_client *client = op->client;
	struct kvc_space *space = op->space;
	struct kvci_block_id id = {.group = space->form.group, .shard_index = space->form.shard_index};
	struct store_block *block;
	uint64_t begin_ns, end_ns;
	uint32_t index;
	bool whole;

	if (store_is_stopped(self) || self->plain || self->ready_first == self->ready_end)
		return false;
	index = self->ready[self->ready_first++];
	block = &self->blocks[index];
	block->state = STORE_MOVING;
	op->moving++;
	memcpy(id.space, space->fingerprint, sizeof(id.space));
	memcpy(id.hash, self->keys[index].hash, sizeof(id.hash));
	client_unlock(client);
	begin_ns = kvci_clock_ns();
	slabs_make(block->slab, block->offset_bytes, space->sizes.record_bytes);
	whole = gather_block(space, self->engine_blocks + (uint64_t)index * space->sizes.pages_per_section,
	                     block->slab->base + block->offset_bytes + space->sizes.sections_offset_bytes, kvci_block_seed(&id),
	                     self->checksums + (uint64_t)block->slot * space->form.layer_count, &op->stopped);
	end_ns = kvci_clock_ns();
	client_lock(client);
	op->moving--;
	op->figures.copy_ns += end_ns - begin_ns;
	client->stats.store_ns += end_ns - begin_ns;
	if (!whole || store_is_stopped(self)) {
		store_abort_block(self, index, self->stop_status);
	} else {
		op->figures.bytes += space->sizes.block_bytes;
		client->stats.store_bytes += space->sizes.block_bytes;
		block->state = STORE_GATHERED;
		self->past_pages++;
		self->gathered[self->gathered_count++] = index;
	}
	store_pump(op);
	store_finish(self);
	op_settle(op);
	return true;
}

/* ---- life ---- */

static void store_start(struct kvc_op *op)
{
	if (((struct store_op *)op)->count == 0)
		op_done(op, KVC_OK);
	else
		store_pump(op);
}

/* What is being committed may become stored all the same; nobody hears of it. */
static void store_stop(struct kvc_op *op, kvc_status_t status)
{
	struct store_op *self = (struct store_op *)op;

	self->stop_status = status;
	for (uint32_t i = 0; i < self->count; i++) {
		switch (self->blocks[i].state) {
		case STORE_RESERVED:
		case STORE_GATHERED:
			store_abort_block(self, i, status);
			break;
		case STORE_MOVING:
			break;
		default:
			store_settle(self, i, status);
		}
	}
	self->gathered_count = 0;
	if (self->count == 0)
		op_done(op, status);
	store_finish(self);
}

static void store_fini(struct kvc_op *op)
{
	struct store_op *self = (struct store_op *)op;

	/* Reservations of a connection that ended. */
	for (uint32_t i = 0; i < self->count; i++)
		store_let_go(self, &self->blocks[i]);
}

static bool store_pages_free(const struct kvc_op *op)
{
	const struct store_op *self = (const struct store_op *)op;

	return self->settled + self->past_pages == self->count;
}

static kvc_status_t store_statuses(const struct kvc_op *op, kvc_status_t *statuses, uint32_t room)
{
	const struct store_op *self = (const struct store_op *)op;

	if (room < self->count)
		return client_fail(KVC_TOO_BIG, "%u blocks, room for %u", self->count, room);
	for (uint32_t i = 0; i < self->count; i++)
		statuses[i] = self->blocks[i].status;
	return KVC_OK;
}

const struct op_kind store_kind = {
	.name = "store",
	.quick = true,
	.moves = true,
	.start = store_start,
	.move = store_move,
	.stop = store_stop,
	.pages_free = store_pages_free,
	.statuses = store_statuses,
	.fini = store_fini,
};

/* One piece of memory for all: no allocation afterwards. */
kvc_status_t store_create(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                          const uint32_t *engine_blocks, struct store_op **ret_self)
{
	uint64_t by_bytes = CLIENT_BATCH_BYTES / space->sizes.record_bytes;
	uint32_t batch = by_bytes == 0 ? 1 : by_bytes > STORE_BATCH_BLOCKS ? STORE_BATCH_BLOCKS : (uint32_t)by_bytes;
	uint32_t slots = engine_blocks == NULL || count < 2 * batch ? count : 2 * batch;
	uint64_t pages = engine_blocks == NULL ? 0 : (uint64_t)count * space->sizes.pages_per_section;
	uint64_t sums = engine_blocks == NULL ? 0 : (uint64_t)slots * space->form.layer_count;
	size_t bytes = sizeof(struct store_op) + count * (sizeof(struct store_block) + sizeof(struct kvc_store_block)) +
	               sums * sizeof(uint64_t) + (batch + 2 * (uint64_t)slots + count + pages) * sizeof(uint32_t);
	struct store_op *self;
	struct kvc_op *op;
	kvc_status_t status = op_create(space->client, space, &store_kind, bytes, &op);

	if (status != KVC_OK)
		return status;
	self = (struct store_op *)op;
	self->plain = engine_blocks == NULL;
	self->count = self->waiting = count;
	self->batch = batch;
	self->slot_count = slots;
	self->blocks = (struct store_block *)(self + 1);
	self->checksums = (uint64_t *)(self->blocks + count);
	self->keys = (const struct kvc_store_block *)(self->checksums + sums);
	self->asked = (uint32_t *)(self->keys + count);
	self->gathered = self->asked + batch;
	self->free_slots = self->gathered + slots;
	self->ready = self->free_slots + slots;
	self->engine_blocks = self->ready + count;
	if (count > 0)
		memcpy((void *)self->keys, blocks, count * sizeof(*blocks));
	if (pages > 0)
		memcpy(self->engine_blocks, engine_blocks, pages * sizeof(uint32_t));
	for (uint32_t i = 0; i < slots; i++)
		self->free_slots[i] = i;
	for (uint32_t i = 0; i < count; i++)
		self->blocks[i].status = KVC_PENDING;
	*ret_self = self;
	return KVC_OK;
}
