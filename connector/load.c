/* SPDX-License-Identifier: Apache-2.0
 * Load: the daemon says where each block is, as each becomes ready; whoever waits or the mover scatters it, with the lock let go.
 *
 *   WAITING --extent--> (PARKED until its slab is mapped) --> READY --claim--> MOVING --> SETTLED
 *                                                               ^--- PARTIAL <---|          by section
 *
 * By section: an extent may come while its block is still being made, with how many of its sections are there. One section is moved at a time, the blocks
 * take turns, and a block is PARTIAL while all that is there was moved. Each time the daemon gives the seal of what is there, so that the checksums of these
 * sections can be believed though the record's own seal is not known yet (a lossy one's is made at the end). It may take such an extent away again at any
 * time: what was copied counts when its checksum is right, and a block is OK when the daemon has said so of all of it.
 *
 * A deadline or cancel settles all that is not MOVING at once; what is MOVING ends at its next section, and then the op is done. */
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

enum load_state { LOAD_WAITING, LOAD_PARKED, LOAD_READY, LOAD_MOVING, LOAD_PARTIAL, LOAD_SETTLED };

struct load_block {
	struct kvci_wire_extent extent;
	kvc_status_t status; /* PENDING until SETTLED */
	enum load_state state;
	/* by section */
	kvc_status_t last;         /* what the daemon said of the whole block; PENDING: nothing so far */
	uint32_t available, moved; /* sections; those available are what extent.record_checksum is the seal of */
};

struct load_op {
	struct kvc_op op;
	uint8_t id[CLIENT_ID_BYTES];
	uint32_t first, count;
	uint32_t settled;
	uint32_t ready_first, ready_end; /* in `ready`, a ring */
	uint32_t tag;                    /* of the LOAD; 0: not sent or answered */
	kvc_status_t stop_status;
	kvc_status_t worst;              /* status of the first block that is not OK */
	uint32_t worst_index;
	struct load_block *blocks;
	uint32_t *ready;                 /* a block is in it at most once at a time */
	uint32_t *engine_blocks;
	uint32_t *section_blocks;        /* by section: how many blocks' was moved; NULL: not by section */
	uint32_t sections;               /* leading ones that all blocks have */
};

static void load_finish(struct load_op *self)
{
	struct kvci_message message;

	if (self->settled < self->count || self->op.moving > 0 || self->op.status != KVC_PENDING)
		return;
	op_done(&self->op, self->worst);
	if (self->tag == 0)
		return;
	/* The deadline passed before the daemon was through. */
	kvci_message_init(&message, KVCI_MESSAGE_LOAD_CANCEL, 0);
	message.a = self->tag;
	connect_tell(self->op.client, &message);
}

static void load_settle(struct load_op *self, uint32_t index, kvc_status_t status)
{
	struct load_block *block = &self->blocks[index];
	struct client_stats *stats = &self->op.client->stats;

	if (block->state == LOAD_SETTLED)
		return;
	block->state = LOAD_SETTLED;
	block->status = status;
	self->settled++;
	if (status == KVC_OK) {
		uint64_t bytes = self->op.space->sizes.block_bytes;

		self->op.figures.blocks++;
		self->op.figures.bytes += bytes;
		stats->load_blocks++;
		stats->load_bytes += bytes;
		return;
	}
	stats->load_failed_blocks++;
	stats->load_late_blocks += status == KVC_TIMED_OUT;
	if (self->worst == KVC_OK || index < self->worst_index) {
		self->worst = status;
		self->worst_index = index;
	}
}

static void load_settle_all(struct load_op *self, kvc_status_t status)
{
	for (uint32_t i = 0; i < self->count; i++)
		if (self->blocks[i].state != LOAD_MOVING)
			load_settle(self, i, status);
}

static void load_make_ready(struct load_op *self, uint32_t index)
{
	self->blocks[index].state = LOAD_READY;
	self->ready[self->ready_end++ % self->count] = index;
}

/* A block has an extent: ready when its slab is mapped. */
static void load_place(struct load_op *self, uint32_t index)
{
	struct kvc_client *client = self->op.client;
	struct load_block *block = &self->blocks[index];
	struct slab *slab = slabs_find(client, block->extent.slab);
	kvc_status_t status;

	if (slab != NULL && slab->base != NULL) {
		load_make_ready(self, index);
		return;
	}
	status = slabs_ask(client, block->extent.slab);
	if (status == KVC_OK)
		block->state = LOAD_PARKED;
	else /* a load never answers FATAL */
		load_settle(self, index, status == KVC_NO_MEMORY ? KVC_NO_SPACE : status);
}

void load_slab(struct kvc_op *op, uint32_t slab, kvc_status_t status)
{
	struct load_op *self = (struct load_op *)op;

	if (op->status != KVC_PENDING)
		return;
	for (uint32_t i = 0; i < self->count; i++) {
		if (self->blocks[i].state != LOAD_PARKED || self->blocks[i].extent.slab != slab)
			continue;
		if (status == KVC_OK)
			load_make_ready(self, i);
		else
			load_settle(self, i, kvc_status_class(status) == KVC_CLASS_RETRY ? status : KVC_GONE);
	}
	load_finish(self);
	if (op->background || op->client->reader || op->client->waiters > 0)
		client_moved(op->client);
}

/* ---- by section ---- */

/* More of a block is there, or the daemon's word on all of it. */
static void load_go_on(struct load_op *self, uint32_t index)
{
	struct load_block *block = &self->blocks[index];

	if (block->state == LOAD_SETTLED || block->state == LOAD_MOVING)
		return;
	if (block->last != KVC_OK && block->last != KVC_PENDING)
		load_settle(self, index, block->last);
	else if (block->state == LOAD_PARTIAL && block->moved < block->available)
		load_make_ready(self, index);
	else if (block->state == LOAD_PARTIAL && block->last == KVC_OK)
		load_settle(self, index, KVC_OK);
}

static bool load_same_place(const struct kvci_wire_extent *a, const struct kvci_wire_extent *b)
{
	return a->slab == b->slab && a->generation == b->generation && a->offset_bytes == b->offset_bytes &&
	       a->record_bytes == b->record_bytes;
}

/* `sections` of a block are at this place. */
static void load_reach(struct load_op *self, uint32_t index, const struct kvci_wire_extent *extent, uint32_t sections)
{
	struct load_block *block = &self->blocks[index];

	if (block->state == LOAD_WAITING) {
		block->extent = *extent;
		block->available = sections;
		load_place(self, index);
		return;
	}
	if (!load_same_place(&block->extent, extent)) {
		block->last = KVC_GONE;
	} else if (sections > block->available || block->last == KVC_OK) {
		block->extent.record_checksum = extent->record_checksum;
		block->available = sections;
	}
	load_go_on(self, index);
}

/* The daemon's word on a block: status of its reply entry. */
static void load_last(struct load_op *self, uint32_t index, const struct kvci_wire_extent *extent)
{
	struct load_block *block = &self->blocks[index];

	if (block->state == LOAD_SETTLED || block->last != KVC_PENDING || extent->status == KVC_PENDING)
		return;
	block->last = connect_is_status(extent->status) ? extent->status : KVC_GONE;
	if (block->last == KVC_OK)
		load_reach(self, index, extent, self->op.space->form.layer_count);
	else
		load_go_on(self, index);
}

void load_sections(struct kvc_client *client, struct call *call, const struct kvci_message *event)
{
	struct load_op *self = (struct load_op *)call->op;
	struct kvci_wire_extent extent = {
		.slab = (uint32_t)event->c, .generation = event->binding, .offset_bytes = event->a, .record_bytes = event->d,
		.record_checksum = event->b,
	};

	if (self->section_blocks == NULL || event->first >= self->count || event->count > self->op.space->form.layer_count) {
		connect_protest(client, "sections that were not asked for");
		return;
	}
	if (self->op.status != KVC_PENDING || atomic_load_explicit(&self->op.stopped, memory_order_relaxed))
		return;
	if (event->count == 0 || self->blocks[event->first].state == LOAD_SETTLED || self->blocks[event->first].last != KVC_PENDING)
		return;
	load_reach(self, event->first, &extent, event->count);
	load_finish(self);
	if (self->op.background)
		client_moved(client);
}

/* A section was moved, or why not; complete: all of the block was, and may be. */
static void load_moved_section(struct load_op *self, uint32_t index, kvc_status_t status)
{
	struct load_block *block = &self->blocks[index];
	struct kvc_client *client = self->op.client;
	uint32_t layers = self->op.space->form.layer_count, before = self->sections;
	bool complete;

	if (status == KVC_OK) {
		self->section_blocks[block->moved++]++;
		while (self->sections < layers && self->section_blocks[self->sections] == self->count)
			self->sections++;
	}
	complete = block->moved == layers && block->last == KVC_OK;
	if (block->last != KVC_OK && block->last != KVC_PENDING)
		status = block->last;
	else if (status == KVC_OK && !complete && atomic_load_explicit(&self->op.stopped, memory_order_relaxed))
		status = self->stop_status;
	if (status != KVC_OK) {
		load_settle(self, index, status);
	} else {
		block->state = LOAD_PARTIAL;
		load_go_on(self, index);
	}
	if (self->sections != before && (self->op.background || client->reader || client->waiters > 0))
		client_moved(client);
}

/* ---- what the daemon says ---- */

/* Takes what the daemon has written to the reply, once: it may write there again. */
static void load_take(struct load_op *self, const struct call *call, uint32_t index)
{
	const uint8_t *reply = self->op.client->window + call->range_offset;
	struct load_block *block = &self->blocks[index];

	if (self->section_blocks != NULL) {
		struct kvci_wire_extent extent;

		memcpy(&extent, reply + index * sizeof(extent), sizeof(extent));
		load_last(self, index, &extent);
		return;
	}
	if (block->state != LOAD_WAITING)
		return;
	memcpy(&block->extent, reply + index * sizeof(block->extent), sizeof(block->extent));
	if (block->extent.status == KVC_OK)
		load_place(self, index);
	else if (block->extent.status != KVC_PENDING)
		load_settle(self, index, connect_is_status(block->extent.status) ? block->extent.status : KVC_GONE);
}

void load_progress(struct kvc_client *client, struct call *call, const struct kvci_message *event)
{
	struct load_op *self = (struct load_op *)call->op;

	if (event->first > self->count || event->count > self->count - event->first) {
		connect_protest(client, "progress of blocks that were not asked for");
		return;
	}
	if (self->op.status != KVC_PENDING || atomic_load_explicit(&self->op.stopped, memory_order_relaxed))
		return;
	for (uint32_t i = event->first; i < event->first + event->count; i++)
		load_take(self, call, i);
	load_finish(self);
	if (self->op.background)
		client_moved(client);
}

static void load_answered(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct load_op *self = (struct load_op *)call->op;
	kvc_status_t status = answer->status;

	self->tag = 0;
	if (self->op.status != KVC_PENDING || atomic_load_explicit(&self->op.stopped, memory_order_relaxed))
		return;
	for (uint32_t i = 0; i < self->count; i++) {
		if (status == KVC_OK)
			load_take(self, call, i);
		if (self->blocks[i].state == LOAD_WAITING)
			load_settle(self, i, status == KVC_OK ? KVC_GONE : status);
		if (self->section_blocks != NULL && self->blocks[i].last == KVC_PENDING) {
			self->blocks[i].last = status == KVC_OK ? KVC_GONE : status;
			load_go_on(self, i);
		}
	}
	load_finish(self);
	if (self->op.background)
		client_moved(client);
}

static void load_start(struct kvc_op *op)
{
	struct load_op *self = (struct load_op *)op;
	uint64_t bytes = (uint64_t)self->count * sizeof(struct kvci_wire_extent);
	struct kvci_message message;
	struct call *call;
	kvc_status_t status;

	if (self->count == 0) {
		op_done(op, KVC_OK);
		return;
	}
	status = connect_call(op->client, op, KVCI_MESSAGE_LOAD, bytes, load_answered, &call, &message);
	if (status != KVC_OK) {
		op_stop(op, status);
		return;
	}
	for (uint32_t i = 0; i < self->count; i++) {
		struct kvci_wire_extent empty = {.status = KVC_PENDING};

		memcpy(op->client->window + call->range_offset + i * sizeof(empty), &empty, sizeof(empty));
	}
	self->tag = call->tag;
	memcpy(message.id, self->id, sizeof(message.id));
	message.binding = op->space->binding;
	message.first = self->first;
	message.count = self->count;
	message.flags = self->section_blocks != NULL ? KVCI_LOAD_BY_SECTION : 0;
	message.reply_offset = call->range_offset;
	message.reply_bytes = bytes;
	connect_send(op->client, &message);
}

static void load_stop(struct kvc_op *op, kvc_status_t status)
{
	struct load_op *self = (struct load_op *)op;

	self->stop_status = status;
	if (op->client->state != CONNECTION_UP)
		self->tag = 0;
	load_settle_all(self, status);
	if (self->count == 0)
		op_done(op, status);
	load_finish(self);
}

/* ---- moving ---- */

static void load_reported(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
}

/* DAMAGE is not answered: a ping behind it says when its range may be used again. */
static void load_report(struct kvc_client *client, const struct kvci_wire_extent *extent)
{
	struct kvci_message message, ping;
	struct call *call;

	if (client->state != CONNECTION_UP ||
	    connect_call(client, NULL, KVCI_MESSAGE_PING, sizeof(*extent), load_reported, &call, &ping) != KVC_OK)
		return;
	memcpy(client->window + call->range_offset, extent, sizeof(*extent));
	kvci_message_init(&message, KVCI_MESSAGE_DAMAGE, 0);
	message.array_offset = call->range_offset;
	message.array_bytes = sizeof(*extent);
	message.count = 1;
	connect_send(client, &message);
	connect_send(client, &ping);
}

/* The slab and place of an extent may be anything the daemon wrote: checked before a byte is read. */
static struct slab *load_check(struct load_op *self, const struct load_block *block)
{
	struct slab *slab = slabs_find(self->op.client, block->extent.slab);

	if (slab == NULL || slab->base == NULL)
		return NULL;
	if (block->extent.record_bytes != self->op.space->sizes.record_bytes ||
	    !slabs_holds(slab, block->extent.offset_bytes, block->extent.record_bytes))
		return NULL;
	return slab;
}

/* Sections [first, end), with the lock let go. */
static kvc_status_t load_copy(struct load_op *self, uint32_t index, struct slab *slab, uint32_t first, uint32_t end)
{
	struct kvc_space *space = self->op.space;
	const struct load_block *block = &self->blocks[index];
	const uint32_t *pages = self->engine_blocks + (uint64_t)index * space->sizes.pages_per_section;
	const struct scatter_record record = { /* as it is told of now: more may be told of meanwhile */
		.bytes = slab->base + block->extent.offset_bytes, .record_bytes = block->extent.record_bytes,
		.checksum = block->extent.record_checksum, .sections = block->available,
		.whole = self->section_blocks == NULL || block->last == KVC_OK,
	};
	struct kvc_client *client = self->op.client;
	uint64_t deadline_ns = self->op.deadline_ns, begin_ns, end_ns;
	kvc_status_t status;

	self->op.moving++;
	slab->users++;
	client_unlock(client);
	begin_ns = kvci_clock_ns();
	status = scatter_block(space, pages, &record, first, end, &self->op.stopped, deadline_ns);
	end_ns = kvci_clock_ns();
	client_lock(client);
	slabs_put(client, slab);
	self->op.moving--;
	self->op.figures.copy_ns += end_ns - begin_ns;
	client->stats.load_ns += end_ns - begin_ns;
	return status;
}

static bool load_move(struct kvc_op *op)
{
	struct load_op *self = (struct load_op *)op;
	struct kvc_client *client = op->client;
	struct load_block *block;
	uint32_t index;
	struct slab *slab;
	kvc_status_t status;

	if (op->status != KVC_PENDING || atomic_load_explicit(&op->stopped, memory_order_relaxed) ||
	    self->ready_first == self->ready_end)
		return false;
	index = self->ready[self->ready_first++ % self->count];
	block = &self->blocks[index];
	if (block->state != LOAD_READY) /* by section: settled since */
		return true;
	slab = load_check(self, block);
	if (slab == NULL) { /* gone since, or nonsense */
		load_settle(self, index, KVC_GONE);
		load_finish(self);
		return true;
	}
	block->state = LOAD_MOVING;
	if (self->section_blocks != NULL)
		status = load_copy(self, index, slab, block->moved, block->moved + 1);
	else
		status = load_copy(self, index, slab, 0, op->space->form.layer_count);
	if (status == KVC_CORRUPT && (self->section_blocks == NULL || block->last == KVC_OK)) {
		client->stats.load_corrupt_blocks++;
		load_report(client, &block->extent);
	}
	if (status == KVC_CANCELED && atomic_load_explicit(&op->stopped, memory_order_relaxed))
		status = self->stop_status;
	if (self->section_blocks != NULL)
		load_moved_section(self, index, status);
	else
		load_settle(self, index, status);
	load_finish(self);
	op_settle(op);
	return true;
}

static bool load_pages_free(const struct kvc_op *op)
{
	return ((const struct load_op *)op)->settled == ((const struct load_op *)op)->count;
}

static kvc_status_t load_statuses(const struct kvc_op *op, kvc_status_t *statuses, uint32_t room)
{
	const struct load_op *self = (const struct load_op *)op;

	if (room < self->count)
		return client_fail(KVC_TOO_BIG, "%u blocks, room for %u", self->count, room);
	for (uint32_t i = 0; i < self->count; i++)
		statuses[i] = self->blocks[i].status;
	return KVC_OK;
}

const struct op_kind load_kind = {
	.name = "load",
	.quick = false,
	.moves = true,
	.start = load_start,
	.move = load_move,
	.stop = load_stop,
	.pages_free = load_pages_free,
	.statuses = load_statuses,
};

/* ---- public ---- */

static kvc_status_t load_check_arguments(const struct kvc_space *space, const struct kvc_request *request, uint32_t first,
                                         uint32_t count, const uint32_t *engine_blocks)
{
	if (!space_is_valid(space))
		return client_fail(KVC_INVALID, "no space");
	if (request == NULL || (request->id == NULL && request->id_bytes > 0))
		return client_fail(KVC_INVALID, "request is NULL");
	if (count > KVC_BLOCKS_MAX || first > KVC_BLOCKS_MAX)
		return client_fail(KVC_TOO_BIG, "blocks [%u, +%u), at most %u", first, count, (unsigned)KVC_BLOCKS_MAX);
	return count == 0 ? KVC_OK : space_check_blocks(space, engine_blocks, count);
}

static kvc_status_t load_create(struct kvc_space *space, uint32_t first, uint32_t count, const uint32_t *engine_blocks,
                                bool by_section, struct load_op **ret_self)
{
	uint64_t pages = (uint64_t)count * space->sizes.pages_per_section;
	uint32_t sections = by_section ? space->form.layer_count : 0;
	size_t bytes = sizeof(struct load_op) + count * sizeof(struct load_block) + (count + pages + sections) * sizeof(uint32_t);
	struct load_op *self;
	struct kvc_op *op;
	kvc_status_t status = op_create(space->client, space, &load_kind, bytes, &op);

	if (status != KVC_OK)
		return status;
	self = (struct load_op *)op;
	self->first = first;
	self->count = count;
	self->blocks = (struct load_block *)(self + 1);
	self->ready = (uint32_t *)(self->blocks + count);
	self->engine_blocks = self->ready + count;
	if (pages > 0)
		memcpy(self->engine_blocks, engine_blocks, pages * sizeof(uint32_t));
	if (by_section)
		self->section_blocks = self->engine_blocks + pages;
	for (uint32_t i = 0; i < count; i++)
		self->blocks[i].status = self->blocks[i].last = KVC_PENDING;
	*ret_self = self;
	return KVC_OK;
}

/* The lock is held when it is OK. */
static kvc_status_t load_launch(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                                const uint32_t *engine_blocks, uint64_t deadline_ns, bool background, bool by_section,
                                struct load_op **ret_self)
{
	struct load_op *self;
	uint8_t id[CLIENT_ID_BYTES];
	kvc_status_t status = load_check_arguments(space, request, first, count, engine_blocks);

	if (status == KVC_OK)
		status = client_id(request->id, request->id_bytes, id);
	if (status == KVC_OK)
		status = client_enter_up(space->client);
	if (status != KVC_OK)
		return status;
	status = load_create(space, first, count, engine_blocks, by_section, &self);
	if (status != KVC_OK) {
		client_leave(space->client);
		return status;
	}
	memcpy(self->id, id, sizeof(id));
	self->op.deadline_ns = deadline_ns == UINT64_MAX ? 0 : deadline_ns;
	self->op.background = background;
	op_launch(&self->op);
	*ret_self = self;
	return KVC_OK;
}

static kvc_status_t load_begin(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                               const uint32_t *engine_blocks, uint64_t deadline_ns, bool by_section, struct kvc_op **ret_op)
{
	struct load_op *self;
	kvc_status_t status;

	if (ret_op == NULL)
		return client_fail(KVC_INVALID, "ret_op is NULL");
	status = load_launch(space, request, first, count, engine_blocks, deadline_ns == 0 ? UINT64_MAX : op_until(deadline_ns),
	                     true, by_section, &self);
	if (status != KVC_OK)
		return status;
	*ret_op = &self->op;
	client_leave(space->client);
	return KVC_OK;
}

kvc_status_t kvc_load_begin(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                            const uint32_t *engine_blocks, uint64_t deadline_ns, struct kvc_op **ret_op)
{
	return load_begin(space, request, first, count, engine_blocks, deadline_ns, false, ret_op);
}

kvc_status_t kvc_load_sections_begin(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                                     const uint32_t *engine_blocks, uint64_t deadline_ns, struct kvc_op **ret_op)
{
	return load_begin(space, request, first, count, engine_blocks, deadline_ns, true, ret_op);
}

static kvc_status_t load_enter(struct kvc_op *op)
{
	kvc_status_t status = op_enter(op);

	if (status != KVC_OK || op->kind == &load_kind)
		return status;
	status = client_fail(KVC_INVALID, "a %s has no sections", op->kind->name);
	client_leave(op->client);
	return status;
}

/* PENDING: neither so far. */
static kvc_status_t load_sections_status(const struct load_op *self, uint32_t sections)
{
	if (self->op.status != KVC_PENDING)
		return self->op.status == KVC_OK || self->sections >= sections ? KVC_OK : self->op.status;
	if (self->section_blocks == NULL)
		return self->worst != KVC_OK ? self->worst : KVC_PENDING;
	if (self->sections >= sections)
		return KVC_OK;
	return self->worst != KVC_OK ? self->worst : KVC_PENDING;
}

kvc_status_t kvc_load_wait_sections(struct kvc_op *op, uint32_t sections, uint64_t timeout_ns)
{
	uint64_t until_ns = op_until(timeout_ns), next_ns;
	struct load_op *self = (struct load_op *)op;
	kvc_status_t status = load_enter(op);
	struct kvc_client *client;

	if (status != KVC_OK)
		return status;
	client = op->client;
	if (sections > op->space->form.layer_count)
		sections = op->space->form.layer_count;
	for (;;) {
		connect_drain(client);
		next_ns = ops_expire(client);
		status = load_sections_status(self, sections);
		if (status != KVC_PENDING || client->closing || kvci_clock_ns() >= until_ns)
			break;
		if (!load_move(op) && op->status == KVC_PENDING)
			client_wait(client, next_ns < until_ns ? next_ns : until_ns);
	}
	client_leave(client);
	return status;
}

kvc_status_t kvc_load_block_sections(struct kvc_op *op, uint32_t *ret_sections, uint32_t room)
{
	const struct load_op *self = (const struct load_op *)op;
	kvc_status_t status = load_enter(op);

	if (status != KVC_OK)
		return status;
	if (ret_sections == NULL || room < self->count)
		status = client_fail(ret_sections == NULL ? KVC_INVALID : KVC_TOO_BIG, "%u blocks, room for %u", self->count, room);
	for (uint32_t i = 0; status == KVC_OK && i < self->count; i++)
		ret_sections[i] = self->blocks[i].status == KVC_OK ? op->space->form.layer_count : self->blocks[i].moved;
	client_leave(op->client);
	return status;
}

kvc_status_t kvc_load(struct kvc_space *space, const struct kvc_request *request, uint32_t first, uint32_t count,
                      const uint32_t *engine_blocks, uint64_t timeout_ns, kvc_status_t *statuses)
{
	uint64_t until_ns = op_until(timeout_ns);
	struct load_op *self;
	kvc_status_t status = load_launch(space, request, first, count, engine_blocks, until_ns, false, false, &self);

	if (status != KVC_OK)
		return status;
	status = op_finish(&self->op, until_ns);
	if (statuses != NULL)
		load_statuses(&self->op, statuses, count);
	if (status != KVC_OK)
		client_fail(status, "load: block %u: %s", self->worst_index, kvc_status_text(status));
	op_detach(&self->op);
	client_leave(space->client);
	return status;
}
