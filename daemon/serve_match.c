/* SPDX-License-Identifier: Apache-2.0
 * MATCH, LOAD, RELEASE, DAMAGE: what a reader asks for. */
#include "daemon/serve_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

enum { MATCH_NUMBERS_BYTES_MAX = 4 << 20 };

/* ---- extents on the wire ---- */

/* The status goes in last, and as one store: the client polls it while we write. */
static void match_put_extent(struct kvci_wire_extent *out, kvc_status_t status, const struct kvci_extent *extent)
{
	if (extent != NULL) {
		out->slab = extent->slab;
		out->generation = extent->generation;
		out->reserved = 0;
		out->offset_bytes = extent->offset_bytes;
		out->record_bytes = extent->record_bytes;
		out->record_checksum = extent->record_checksum;
	}
	__atomic_store_n(&out->status, status, __ATOMIC_RELEASE);
}

static void match_clear_extents(struct kvci_wire_extent *out, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		__atomic_store_n(&out[i].status, KVC_PENDING, __ATOMIC_RELAXED);
}

/* ---- MATCH ---- */

static kvc_status_t match_check(struct kvci_conn *conn, const struct kvci_message *message, void **ret_reply)
{
	const uint32_t known = KVCI_MATCH_LEASE | KVCI_MATCH_EXISTS | KVCI_MATCH_EXTENTS;

	*ret_reply = NULL;
	if (message->count > KVCI_PROTO_BLOCKS_MAX)
		return KVC_TOO_BIG;
	if ((message->flags & ~known) != 0 || !serve_bound(conn, message->binding))
		return KVC_INVALID;
	if ((message->flags & KVCI_MATCH_LEASE) != 0 && (message->flags & KVCI_MATCH_EXISTS) != 0)
		return KVC_INVALID;
	if ((message->flags & KVCI_MATCH_EXTENTS) != 0) {
		if ((message->flags & KVCI_MATCH_LEASE) == 0)
			return KVC_INVALID;
		return serve_reply_range(conn, message, message->count, sizeof(struct kvci_wire_extent), ret_reply);
	}
	if ((message->flags & KVCI_MATCH_EXISTS) != 0) {
		if (message->reply_bytes < message->count)
			return KVC_INVALID;
		return serve_range(conn, message->reply_offset, message->count, ret_reply);
	}
	return KVC_OK;
}

/* A load whose late blocks nobody waits for: the client asks for them by LOAD. */
struct match_extents {
	struct kvci_load load;
	struct kvci_wire_extent *reply;
};

static void match_extent_ready(struct kvci_load *load, uint32_t index, kvc_status_t status,
                               const struct kvci_extent *extent)
{
	struct match_extents *extents = load->context;

	match_put_extent(&extents->reply[load->first + index], status, extent);
}

/* Last, nobody waits for it any more: they were used, from the last to the first, so that the end of a chain leaves memory before its
 * beginning. */
static bool match_touch_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	uint32_t count = work->touch < SERVE_MATCH_STEP ? work->touch : SERVE_MATCH_STEP;

	work->touch -= count;
	if (work->match.numbers != NULL)
		kvci_cache_match_touch_blocks(conn->core->cache, &work->match, work->touch, count);
	else
		kvci_cache_match_touch(conn->core->cache, conn->client, work->message.id, work->touch, count);
	return work->touch == 0;
}

/* Third. The connection's next message waits until the blocks are touched. */
static bool match_answer(struct kvci_conn *conn, kvc_status_t status)
{
	struct serve_work *work = &conn->work;

	if (status != KVC_OK)
		work->answer = (struct kvci_message){0};
	work->answer.d = kvci_clock_ns() - work->begin_ns;
	serve_answer_full(conn, &work->message, &work->answer, status, -1);
	kvci_latency_add(&conn->core->latencies, KVCI_LATENCY_MATCH, work->answer.d);
	if (status != KVC_OK || work->touch == 0)
		return true;
	work->step = match_touch_step;
	return false;
}

/* Second: where the blocks are. */
static bool match_extents_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	struct match_extents extents = {.reply = (struct kvci_wire_extent *)(conn->window + work->message.reply_offset)};

	extents.load.client = conn->client;
	extents.load.binding = work->message.binding;
	extents.load.first = work->answer.count - work->left;
	extents.load.count = work->left < SERVE_LOAD_STEP ? work->left : SERVE_LOAD_STEP;
	extents.load.ready = match_extent_ready;
	extents.load.context = &extents;
	match_clear_extents(extents.reply, extents.load.first, extents.load.count);
	if (kvci_cache_load(conn->core->cache, &extents.load, work->message.id) == KVC_OK && extents.load.waiting > 0)
		kvci_cache_load_cancel(conn->core->cache, &extents.load);
	work->left -= extents.load.count;
	return work->left == 0 && match_answer(conn, KVC_OK);
}

static bool match_matched(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;

	if ((work->message.flags & KVCI_MATCH_EXTENTS) == 0 || work->answer.count == 0)
		return match_answer(conn, KVC_OK);
	work->left = work->answer.count;
	work->step = match_extents_step;
	return match_extents_step(conn);
}

/* First: the keys, a piece a step. */
static bool match_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	struct kvci_match *match = &work->match;
	kvc_status_t status = kvci_cache_match(conn->core->cache, conn->client, match);

	if (status == KVC_NOT_FOUND && match->first > 0) {
		/* The lease has changed between two pieces, or was one of other keys: all at once, rare as it is. */
		work->answer = (struct kvci_message){0};
		match->flags &= ~(uint32_t)KVCI_MATCH_NO_TOUCH;
		match->first = match->until = 0;
		status = kvci_cache_match(conn->core->cache, conn->client, match);
	}
	if (status != KVC_OK)
		return match_answer(conn, status);
	work->answer.count += match->matched;
	work->answer.first += match->in_memory;
	work->answer.a += match->on_disk;
	work->answer.b += match->load_bytes;
	if (work->answer.c == KVCI_MISS_NONE)
		work->answer.c = match->end;
	if (match->until != 0 && match->until < match->count &&
	    ((match->flags & KVCI_MATCH_EXISTS) != 0 || match->end == KVCI_MISS_NONE)) {
		match->first = match->until;
		match->until = match->count - match->first < SERVE_MATCH_STEP ? match->count : match->first + SERVE_MATCH_STEP;
		return false;
	}
	if ((match->flags & KVCI_MATCH_NO_TOUCH) != 0 || match->numbers != NULL)
		work->touch = work->answer.count;
	return match_matched(conn);
}

/* Room for the numbers of what a long match without a lease finds: it is touched from its end, when all of it is known. Where memory is
 * short, each piece is touched by itself. */
static uint32_t *match_numbers(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct serve_work *work = &conn->work;
	uint64_t bytes = (uint64_t)message->count * kvci_cache_binding_shards(conn->core->cache, message->binding) * sizeof(uint32_t);

	if (bytes > MATCH_NUMBERS_BYTES_MAX)
		return NULL;
	if (work->numbers_room_bytes < bytes) {
		uint32_t *numbers = kvci_alloc(bytes);

		if (numbers == NULL)
			return NULL;
		kvci_free(work->numbers);
		work->numbers = numbers;
		work->numbers_room_bytes = bytes;
	}
	return work->numbers;
}

bool serve_match(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct serve_work *work = &conn->work;
	void *reply;
	kvc_status_t status = match_check(conn, message, &reply);

	if (status == KVC_OK)
		status = serve_copy_array_in_steps(conn, message, (uint64_t)message->count * KVCI_HASH_BYTES);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	/* A client that finds CPUs asleep finds this one awake next time, if that is soon. */
	if ((message->flags & KVCI_MATCH_EXISTS) == 0)
		kvci_loop_set_spin(conn->core->loop, message->b != 0 ? conn->core->config->spin_ns : 0);
	work->answer = (struct kvci_message){0};
	work->touch = 0;
	work->match = (struct kvci_match){
		.binding = message->binding,
		.flags = message->flags & (KVCI_MATCH_LEASE | KVCI_MATCH_EXISTS),
		.count = message->count,
		.hashes = (const uint8_t(*)[KVCI_HASH_BYTES])work->array,
		/* Only written there, never read back. */
		.exists = (message->flags & KVCI_MATCH_EXISTS) != 0 ? reply : NULL,
	};
	memcpy(work->match.request_id, message->id, sizeof(message->id));
	if (message->count > SERVE_MATCH_STEP) {
		work->match.until = SERVE_MATCH_STEP;
		if ((message->flags & KVCI_MATCH_LEASE) != 0)
			work->match.flags |= KVCI_MATCH_NO_TOUCH;
		else if ((message->flags & KVCI_MATCH_EXISTS) == 0)
			work->match.numbers = match_numbers(conn, message);
	}
	serve_work_begin(conn, message, match_step, NULL);
	return true;
}

/* ---- LOAD ---- */

/* One LOAD message: pieces that are started one a step, all under one answer. */
struct match_load {
	struct serve_op op;
	struct kvci_wire_extent *reply;
	uint32_t waiting;                /* blocks without a status, of pieces not started too */
	uint32_t ready_first, ready_end; /* a run of blocks that the client has not been told of */
	uint64_t begin_ns;
	uint32_t piece_count;
	struct kvci_load pieces[];
};

static void load_tell(struct match_load *load)
{
	struct kvci_conn *conn = load->op.conn;
	struct kvci_message event = {0};

	if (load->ready_first == load->ready_end || conn->muted)
		return;
	event.magic = KVCI_PROTO_MAGIC;
	event.type = KVCI_MESSAGE_LOAD_PROGRESS;
	event.tag = load->op.message.tag;
	event.first = load->ready_first;
	event.count = load->ready_end - load->ready_first;
	load->ready_first = load->ready_end;
	conn->out.send(conn->out.context, &event, -1);
}

static void load_ready(struct kvci_load *piece, uint32_t index, kvc_status_t status, const struct kvci_extent *extent)
{
	struct match_load *load = piece->context;
	uint32_t entry = piece->first - load->op.message.first + index;

	match_put_extent(&load->reply[entry], status, extent);
	load->waiting--;
	/* Told in runs: a run ends where the next block is not its neighbour. */
	if (entry == load->ready_end) {
		load->ready_end++;
	} else {
		load_tell(load);
		load->ready_first = entry;
		load->ready_end = entry + 1;
	}
	serve_op_wake(&load->op);
}

/* A hint, and the next one says more: a client that does not read is not flooded with them. */
static void load_sections(struct kvci_load *piece, uint32_t index, uint32_t sections, const struct kvci_extent *extent)
{
	struct match_load *load = piece->context;
	struct kvci_conn *conn = load->op.conn;
	struct kvci_message event = {0};

	if (conn->muted || (conn->out.backlog != NULL && conn->out.backlog(conn->out.context) != 0))
		return;
	event.magic = KVCI_PROTO_MAGIC;
	event.type = KVCI_MESSAGE_LOAD_SECTIONS;
	event.tag = load->op.message.tag;
	event.first = piece->first - load->op.message.first + index;
	event.count = sections;
	event.a = extent->offset_bytes;
	event.b = extent->record_checksum;
	event.c = extent->slab;
	event.d = extent->record_bytes;
	event.binding = extent->generation;
	conn->out.send(conn->out.context, &event, -1);
}

static bool load_finish(struct serve_op *op)
{
	struct match_load *load = (struct match_load *)op;
	struct kvci_message answer = {.count = op->message.count};

	if (op->conn->work.op == op)
		return false; /* still being started */
	if (load->waiting > 0) {
		load_tell(load);
		return false;
	}
	serve_answer_full(op->conn, &op->message, &answer, KVC_OK, -1);
	kvci_latency_add(&op->conn->core->latencies, KVCI_LATENCY_LOAD, kvci_clock_ns() - load->begin_ns);
	return true;
}

static void load_stop(struct match_load *load)
{
	for (uint32_t i = 0; i < load->piece_count; i++)
		if (load->pieces[i].waiting > 0)
			kvci_cache_load_cancel(load->op.conn->core->cache, &load->pieces[i]);
}

static void load_cancel(struct serve_op *op)
{
	load_stop((struct match_load *)op);
	serve_op_free(op);
}

static bool load_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	struct match_load *load = (struct match_load *)work->op;
	uint32_t done = work->done, left = work->message.count - done;
	struct kvci_load *piece = &load->pieces[done / SERVE_LOAD_STEP];
	kvc_status_t status;

	piece->client = conn->client;
	piece->binding = work->message.binding;
	piece->first = work->message.first + done;
	piece->count = left < SERVE_LOAD_STEP ? left : SERVE_LOAD_STEP;
	piece->ready = load_ready;
	piece->sections = (work->message.flags & KVCI_LOAD_BY_SECTION) != 0 ? load_sections : NULL;
	piece->context = load;
	status = kvci_cache_load(conn->core->cache, piece, work->message.id);
	if (status != KVC_OK) {
		work->op = NULL;
		load_stop(load);
		serve_answer(conn, &work->message, status);
		serve_op_free(&load->op);
		return true;
	}
	work->done += piece->count;
	if (work->done < work->message.count)
		return false;
	work->op = NULL;
	if (load_finish(&load->op))
		serve_op_free(&load->op);
	return true;
}

bool serve_load(struct kvci_conn *conn, const struct kvci_message *message)
{
	uint32_t pieces = message->count / SERVE_LOAD_STEP + (message->count % SERVE_LOAD_STEP != 0);
	struct match_load *load;
	struct serve_op *op;
	void *reply;
	kvc_status_t status = serve_reply_range(conn, message, message->count, sizeof(struct kvci_wire_extent), &reply);

	if (status == KVC_OK && (message->count == 0 || message->first > UINT32_MAX - message->count ||
	                         (message->flags & ~(uint32_t)KVCI_LOAD_BY_SECTION) != 0))
		status = KVC_INVALID;
	if (status == KVC_OK)
		status = serve_op_create(conn, message, sizeof(*load) + pieces * sizeof(load->pieces[0]), load_finish,
		                         load_cancel, &op);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	load = (struct match_load *)op;
	load->reply = reply;
	load->waiting = message->count;
	load->piece_count = pieces;
	load->begin_ns = kvci_clock_ns();
	match_clear_extents(reply, 0, message->count);
	serve_work_begin(conn, message, load_step, op);
	return true;
}

bool serve_load_cancel(struct kvci_conn *conn, const struct kvci_message *message)
{
	for (struct serve_op *op = conn->ops; op != NULL; op = op->next) {
		if (op->message.type != KVCI_MESSAGE_LOAD || op->message.tag != message->a)
			continue;
		serve_answer(conn, &op->message, KVC_CANCELED);
		op->cancel(op);
		serve_answer(conn, message, KVC_OK);
		return true;
	}
	serve_answer(conn, message, KVC_NOT_FOUND);
	return true;
}

/* ---- RELEASE and DAMAGE ---- */

bool serve_release(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct serve_op *op = conn->ops;

	/* Loads of this lease end first: nothing is written into their arrays any more. */
	while (op != NULL) {
		struct serve_op *next = op->next;

		if (op->message.type == KVCI_MESSAGE_LOAD && memcmp(op->message.id, message->id, sizeof(message->id)) == 0) {
			serve_answer(conn, &op->message, KVC_CANCELED);
			op->cancel(op);
		}
		op = next;
	}
	kvci_cache_release(conn->core->cache, conn->client, message->id);
	return true;
}

bool serve_damage(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct kvci_wire_extent wire;
	struct kvci_extent extent;

	if (serve_copy_array(conn, message, sizeof(wire)) != KVC_OK)
		return true;
	memcpy(&wire, conn->work.array, sizeof(wire));
	extent = (struct kvci_extent){
		.slab = wire.slab,
		.generation = wire.generation,
		.offset_bytes = wire.offset_bytes,
		.record_bytes = wire.record_bytes,
		.record_checksum = wire.record_checksum,
	};
	kvci_cache_report_damage(conn->core->cache, conn->client, &extent);
	return true;
}
