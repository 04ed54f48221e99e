/* SPDX-License-Identifier: Apache-2.0
 * RESERVE, SLAB_MAPPED, SLAB_GET, COMMIT, ABORT: what a writer asks for. */
#include "daemon/serve_internal.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/coding.h"

/* ---- RESERVE ---- */

static void store_put_reserved(struct kvci_wire_reserved *out, const struct kvci_reserve *reserve)
{
	struct kvci_wire_reserved wire = {
		.extent = {
			.status = reserve->status,
			.slab = reserve->extent.slab,
			.generation = reserve->extent.generation,
			.offset_bytes = reserve->extent.offset_bytes,
			.record_bytes = reserve->extent.record_bytes,
			.record_checksum = 0,
		},
		.reservation = reserve->reservation,
	};

	memcpy(out, &wire, sizeof(wire));
}

/* Hands the client the slab that it has to map before anything is placed in it. */
static void store_answer_new_slab(struct kvci_conn *conn, struct kvci_message *answer, uint32_t slab)
{
	uint64_t bytes;
	bool sealed;
	int fd;
	kvc_status_t status = kvci_memory_slab_fd(conn->core->memory, slab, &fd, &bytes, &sealed);

	if (status == KVC_OK)
		status = sealed ? KVC_INTERNAL : serve_slab_note(conn, slab);
	if (status != KVC_OK) {
		serve_answer_full(conn, &conn->work.message, answer, status, -1);
		return;
	}
	answer->a = slab;
	answer->b = bytes;
	answer->c = kvci_memory_huge_pages(conn->core->memory);
	serve_answer_full(conn, &conn->work.message, answer, KVC_PENDING, fd);
}

static bool store_reserve_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	const struct kvci_wire_block *wire = (const struct kvci_wire_block *)work->array + work->done;
	struct kvci_wire_reserved *out = (struct kvci_wire_reserved *)(conn->window + work->message.reply_offset) + work->done;
	struct kvci_reserve blocks[SERVE_RESERVE_STEP];
	uint32_t left = work->message.count - work->done, filled = 0, new_slab = 0;
	uint32_t count = left < SERVE_RESERVE_STEP ? left : SERVE_RESERVE_STEP;
	struct kvci_message answer = {0};
	kvc_status_t status;

	memset(blocks, 0, count * sizeof(blocks[0]));
	for (uint32_t i = 0; i < count; i++) {
		memcpy(blocks[i].hash, wire[i].hash, KVCI_HASH_BYTES);
		memcpy(blocks[i].parent_hash, wire[i].parent_hash, KVCI_HASH_BYTES);
		blocks[i].position_tokens = wire[i].position_tokens;
		blocks[i].token_count = wire[i].token_count;
		blocks[i].status = KVC_PENDING;
	}
	status = kvci_cache_reserve(conn->core->cache, conn->client, work->message.binding, blocks, count, &new_slab);
	if (status == KVC_OK || status == KVC_PENDING)
		for (; filled < count && blocks[filled].status != KVC_PENDING; filled++)
			store_put_reserved(&out[filled], &blocks[filled]);
	work->done += filled;
	answer.count = work->done;
	if (status == KVC_PENDING) {
		store_answer_new_slab(conn, &answer, new_slab);
		return true;
	}
	if (status == KVC_OK && filled < count)
		status = KVC_INTERNAL;
	if (status == KVC_OK && work->done < work->message.count)
		return false;
	serve_answer_full(conn, &work->message, &answer, status, -1);
	return true;
}

bool serve_reserve(struct kvci_conn *conn, const struct kvci_message *message)
{
	void *reply;
	kvc_status_t status = serve_reply_range(conn, message, message->count, sizeof(struct kvci_wire_reserved), &reply);

	if (status == KVC_OK && (message->count == 0 || !serve_bound(conn, message->binding)))
		status = KVC_INVALID;
	if (status == KVC_OK)
		status = serve_copy_array_in_steps(conn, message, (uint64_t)message->count * sizeof(struct kvci_wire_block));
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	serve_work_begin(conn, message, store_reserve_step, NULL);
	return true;
}

/* ---- slabs ---- */

bool serve_slab_mapped(struct kvci_conn *conn, const struct kvci_message *message)
{
	kvc_status_t status = KVC_NOT_FOUND;

	/* Its own only: who else could say that it mapped a slab that nobody else has got? */
	for (uint32_t i = 0; i < conn->slab_count && status != KVC_OK; i++)
		if (conn->slabs[i] == message->a)
			status = KVC_OK;
	if (status == KVC_OK)
		status = kvci_memory_slab_seal(conn->core->memory, (uint32_t)message->a);
	if (status == KVC_OK)
		kvci_cache_slab_ready(conn->core->cache, conn->client, (uint32_t)message->a);
	serve_answer(conn, message, status);
	return true;
}

bool serve_slab_get(struct kvci_conn *conn, const struct kvci_message *message)
{
	struct kvci_message answer = {0};
	uint64_t bytes;
	bool sealed = false;
	int fd;
	kvc_status_t status = KVC_NOT_FOUND;

	if (message->a <= UINT32_MAX &&
	    kvci_cache_slab_visible(conn->core->cache, conn->client, (uint32_t)message->a))
		status = kvci_memory_slab_fd(conn->core->memory, (uint32_t)message->a, &fd, &bytes, &sealed);
	if (status == KVC_OK && !sealed)
		status = KVC_NOT_FOUND;
	if (status == KVC_OK)
		status = serve_slab_note(conn, (uint32_t)message->a);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	answer.a = message->a;
	answer.b = bytes;
	serve_answer_full(conn, message, &answer, KVC_OK, fd);
	return true;
}

/* ---- COMMIT and ABORT ---- */

/* Whether the next entries, a step's worth of them, lie in the array. */
static bool store_commit_fits(struct serve_work *work)
{
	uint64_t bytes = work->message.array_bytes;
	uint32_t until = work->done + SERVE_CHECK_STEP;

	for (; work->done < work->message.count && work->done < until; work->done++) {
		struct kvci_wire_commit entry;

		if (bytes - work->at < sizeof(entry))
			return false;
		memcpy(&entry, work->array + work->at, sizeof(entry));
		work->at += sizeof(entry);
		if (entry.checksum_count > (bytes - work->at) / sizeof(uint64_t))
			return false;
		work->at += entry.checksum_count * sizeof(uint64_t);
	}
	return true;
}

static bool store_commit_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	int32_t *out = (int32_t *)(void *)(conn->window + work->message.reply_offset);
	uint32_t until = work->done + SERVE_COMMIT_STEP;
	struct kvci_message answer = {0};

	for (; work->done < work->message.count && work->done < until; work->done++) {
		/* The copy is 16-byte aligned, and every entry is a multiple of 8 bytes long. */
		const struct kvci_wire_commit *entry = (const void *)(work->array + work->at);
		const uint64_t *checksums = (const uint64_t *)(entry + 1);

		out[work->done] = kvci_cache_commit(conn->core->cache, conn->client, entry->reservation, checksums,
		                                    entry->checksum_count);
		work->at += sizeof(*entry) + entry->checksum_count * sizeof(uint64_t);
	}
	if (work->done < work->message.count)
		return false;
	answer.count = work->done;
	serve_answer_full(conn, &work->message, &answer, KVC_OK, -1);
	kvci_latency_add(&conn->core->latencies, KVCI_LATENCY_COMMIT, kvci_clock_ns() - work->begin_ns);
	return true;
}

/* All of the array is looked at before any of it is committed. */
static bool store_commit_check_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;

	if (!store_commit_fits(work)) {
		serve_answer(conn, &work->message, KVC_INVALID);
		return true;
	}
	if (work->done == work->message.count) {
		work->done = 0;
		work->at = 0;
		work->step = store_commit_step;
	}
	return false;
}

bool serve_commit(struct kvci_conn *conn, const struct kvci_message *message)
{
	void *reply;
	kvc_status_t status = serve_reply_range(conn, message, message->count, sizeof(int32_t), &reply);

	if (status == KVC_OK && message->count == 0)
		status = KVC_INVALID;
	if (status == KVC_OK && message->array_bytes > KVCI_WINDOW_BYTES)
		status = KVC_INVALID;
	if (status == KVC_OK)
		status = serve_copy_array_in_steps(conn, message, message->array_bytes);
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	serve_work_begin(conn, message, store_commit_check_step, NULL);
	return true;
}

bool serve_abort(struct kvci_conn *conn, const struct kvci_message *message)
{
	serve_answer(conn, message, kvci_cache_abort(conn->core->cache, conn->client, message->a));
	return true;
}

/* ---- SCORES ---- */

static bool store_scores_step(struct kvci_conn *conn)
{
	struct serve_work *work = &conn->work;
	const struct kvci_core *core = conn->core;
	const struct kvc_form *form = kvci_cache_binding_form(core->cache, work->message.binding);
	uint32_t until = work->done + SERVE_SCORES_STEP;
	uint64_t scores_at = (uint64_t)work->message.count * KVCI_HASH_BYTES, bytes = work->message.a;
	struct kvci_space_info info;
	kvc_status_t status = form == NULL ? KVC_INVALID
	                                   : kvci_cache_space_info(core->cache, kvci_cache_binding_space(core->cache, work->message.binding), &info);

	for (; status == KVC_OK && work->done < work->message.count && work->done < until; work->done++) {
		struct kvci_block_id id = {.group = form->group, .shard_index = form->shard_index};

		memcpy(id.space, info.fingerprint, sizeof(id.space));
		memcpy(id.hash, work->array + (uint64_t)work->done * KVCI_HASH_BYTES, sizeof(id.hash));
		status = kvci_coding_put_scores(core->coding, &id, form, work->array + scores_at + work->done * bytes, bytes);
	}
	if (status == KVC_OK && work->done < work->message.count)
		return false;
	serve_answer(conn, &work->message, status);
	return true;
}

bool serve_scores(struct kvci_conn *conn, const struct kvci_message *message)
{
	kvc_status_t status = KVC_OK;

	if (message->count == 0 || message->count > KVCI_PROTO_BLOCKS_MAX || message->a == 0 || message->a > KVCI_WINDOW_BYTES ||
	    !serve_bound(conn, message->binding))
		status = KVC_INVALID;
	if (status == KVC_OK)
		status = serve_copy_array_in_steps(conn, message, message->count * (KVCI_HASH_BYTES + message->a));
	if (status != KVC_OK) {
		serve_answer(conn, message, status);
		return true;
	}
	serve_work_begin(conn, message, store_scores_step, NULL);
	return true;
}
