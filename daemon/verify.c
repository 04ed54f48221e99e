/* SPDX-License-Identifier: Apache-2.0
 * Verify: walk, read, wait, one timer for all of it. */
#include "daemon/verify.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/admin_internal.h"
#include "daemon/disk_read.h"

enum { VERIFY_BATCH = 64, VERIFY_WALK = 512 };

struct kvci_verify {
	struct kvci_core *core;
	struct kvci_verify_figures figures;
	uint64_t rate_bytes_per_s;
	uint64_t cursor;
	bool walked; /* to the end */
	struct kvci_block_info batch[VERIFY_BATCH];
	uint32_t batch_count, batch_next;
	bool reading, stopped;
	struct kvc_tier_request request;
	struct kvci_block_info block; /* being read */
	void *buffer;
	uint64_t buffer_bytes;
	struct kvci_timer timer;
};

static void verify_end(struct kvci_verify *verify, bool complete)
{
	verify->figures.running = false;
	verify->figures.complete = complete;
	verify->figures.end_ns = kvci_clock_ns();
	kvci_loop_timer_disarm(verify->core->loop, &verify->timer);
	kvci_free(verify->buffer);
	verify->buffer = NULL;
	verify->buffer_bytes = 0;
	kvci_log(verify->figures.damaged > 0 ? KVCI_LOG_WARN : KVCI_LOG_INFO, "verify",
	         "%s: %" PRIu64 " blocks read, %" PRIu64 " damaged, %" PRIu64 " unreadable", complete ? "done" : "stopped",
	         verify->figures.blocks_done, verify->figures.damaged, verify->figures.unreadable);
}

static void verify_arm(struct kvci_verify *verify, uint64_t due_ns)
{
	if (kvci_loop_timer_arm(verify->core->loop, &verify->timer, due_ns) != KVC_OK)
		verify_end(verify, false);
}

/* When the rate allows the next read. */
static uint64_t verify_due(const struct kvci_verify *verify)
{
	double ns = (double)verify->figures.bytes_done * 1e9 / (double)verify->rate_bytes_per_s;

	return verify->figures.begin_ns + (uint64_t)ns;
}

static void verify_read_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_verify *verify = request->context;
	struct kvci_verify_figures *figures = &verify->figures;

	verify->reading = false;
	if (verify->stopped || status == KVC_CANCELED) {
		verify_end(verify, false);
		return;
	}
	figures->bytes_done += (uint64_t)verify->block.place.length_4k * KVCI_RECORD_ALIGN_BYTES;
	figures->blocks_done++;
	kvci_stat_add(&verify->core->stats, KVCI_STAT_VERIFY_BLOCKS, 1);
	if (status == KVC_CORRUPT) {
		if (figures->named_count < KVCI_VERIFY_NAMED_MAX)
			memcpy(figures->named[figures->named_count++], verify->block.id.hash, KVCI_HASH_BYTES);
		figures->damaged++;
		kvci_stat_add(&verify->core->stats, KVCI_STAT_VERIFY_DAMAGED, 1);
		kvci_cache_disk_damaged(verify->core->cache, verify->block.binding, verify->block.id.hash, &verify->block.place);
	} else if (status == KVC_MISS) {
		figures->gone++; /* reclaimed between the walk and the read */
	} else if (status != KVC_OK) {
		figures->unreadable++;
	}
	verify_arm(verify, verify_due(verify));
}

static void verify_read(struct kvci_verify *verify)
{
	uint64_t bytes = (uint64_t)verify->block.place.length_4k * KVCI_RECORD_ALIGN_BYTES;
	kvc_status_t status;

	if (verify->buffer_bytes < bytes) {
		kvci_free(verify->buffer);
		verify->buffer = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, bytes);
		verify->buffer_bytes = verify->buffer != NULL ? bytes : 0;
	}
	if (verify->buffer == NULL) {
		verify_end(verify, false);
		return;
	}
	kvci_disk_read_prepare(&verify->block, verify->buffer, &verify->request);
	verify->request.done = verify_read_done;
	verify->request.context = verify;
	verify->reading = true;
	status = kvci_tier_submit(verify->core->disk, &verify->request);
	if (status == KVC_OK)
		return;
	verify->reading = false;
	if (status != KVC_BUSY) {
		verify->figures.unreadable++;
		verify->figures.blocks_done++;
	} else {
		verify->batch_next--; /* again, when engines want less of the disk */
	}
	verify_arm(verify, kvci_clock_ns() + 10 * KVCI_MS);
}

static void verify_visit(void *context, const struct kvci_block_info *info)
{
	struct kvci_verify *verify = context;

	if (info->on_disk && verify->batch_count < VERIFY_BATCH)
		verify->batch[verify->batch_count++] = *info;
}

static void verify_step(void *context)
{
	struct kvci_verify *verify = context;

	if (verify->batch_next < verify->batch_count) {
		verify->block = verify->batch[verify->batch_next++];
		verify_read(verify);
		return;
	}
	if (verify->walked) {
		verify_end(verify, true);
		return;
	}
	verify->batch_count = verify->batch_next = 0;
	for (unsigned i = 0; i < VERIFY_WALK && !verify->walked && verify->batch_count < VERIFY_BATCH; i++) {
		kvci_cache_walk(verify->core->cache, &verify->cursor, 1, verify_visit, verify);
		verify->walked = verify->cursor == 0;
	}
	verify_arm(verify, kvci_loop_now_ns(verify->core->loop));
}

kvc_status_t kvci_verify_start(struct kvci_core *core, uint64_t rate_bytes_per_s)
{
	struct kvci_verify *verify = core->verify;
	struct kvci_cache_totals totals;

	if (core->disk == NULL)
		return KVC_UNSUPPORTED;
	if (verify != NULL && (verify->figures.running || verify->reading))
		return KVC_IN_USE;
	if (verify == NULL)
		verify = kvci_alloc_zero(1, sizeof(*verify));
	if (verify == NULL)
		return KVC_NO_MEMORY;
	core->verify = verify;
	memset(verify, 0, sizeof(*verify));
	kvci_cache_totals(core->cache, &totals);
	verify->core = core;
	verify->rate_bytes_per_s = rate_bytes_per_s;
	verify->figures.running = true;
	verify->figures.blocks_total = totals.disk_blocks;
	verify->figures.begin_ns = kvci_clock_ns();
	verify->timer.run = verify_step;
	verify->timer.context = verify;
	verify_arm(verify, kvci_loop_now_ns(core->loop));
	return KVC_OK;
}

void kvci_verify_stop(struct kvci_core *core)
{
	struct kvci_verify *verify = core->verify;

	if (verify == NULL || !verify->figures.running || verify->stopped)
		return;
	verify->stopped = true;
	if (!verify->reading)
		verify_end(verify, false);
}

void kvci_verify_free(struct kvci_core *core)
{
	if (core->verify == NULL)
		return;
	kvci_free(core->verify->buffer);
	kvci_free(core->verify);
	core->verify = NULL;
}

void kvci_verify_figures(const struct kvci_core *core, struct kvci_verify_figures *ret_figures)
{
	*ret_figures = (struct kvci_verify_figures){0};
	if (core->verify != NULL)
		*ret_figures = core->verify->figures;
}

/* ---- the question ---- */

static void verify_answer(struct kvci_admin_question *question)
{
	struct kvci_verify_figures figures;
	json_t *answer = question->answer, *named = json_array();

	kvci_verify_figures(question->core, &figures);
	admin_set_bool(answer, "running", figures.running);
	admin_set_bool(answer, "complete", figures.complete);
	admin_set_uint(answer, "blocks_total", figures.blocks_total);
	admin_set_uint(answer, "blocks_done", figures.blocks_done);
	admin_set_uint(answer, "bytes_done", figures.bytes_done);
	admin_set_uint(answer, "damaged", figures.damaged);
	admin_set_uint(answer, "unreadable", figures.unreadable);
	admin_set_uint(answer, "gone", figures.gone);
	admin_set_uint(answer, "elapsed_ns",
	               figures.begin_ns == 0 ? 0 : (figures.running ? kvci_clock_ns() : figures.end_ns) - figures.begin_ns);
	for (uint32_t i = 0; i < figures.named_count; i++) {
		json_t *object = json_object();

		admin_set_hex(object, "key", figures.named[i], KVCI_HASH_BYTES);
		json_array_append_new(named, object);
	}
	json_object_set_new(answer, "damaged_blocks", named);
	admin_finish(question);
}

void admin_verify(struct kvci_admin_question *question)
{
	kvc_status_t status = KVC_OK;
	const char *action;
	uint64_t rate;

	if (!admin_get_text(question, "action", "status", &action) ||
	    !admin_get_uint(question, "rate", UINT64_C(256) << 20, INT64_MAX, &rate))
		return;
	if (strcmp(action, "start") == 0)
		status = rate > 0 ? kvci_verify_start(question->core, rate) : KVC_INVALID;
	else if (strcmp(action, "stop") == 0)
		kvci_verify_stop(question->core);
	else if (strcmp(action, "status") != 0)
		status = KVC_INVALID;
	if (status == KVC_OK)
		verify_answer(question);
	else
		admin_fail(question, status, "verify: %s",
		           status == KVC_IN_USE        ? "it runs already"
		           : status == KVC_UNSUPPORTED ? "there is no disk tier"
		           : status == KVC_INVALID     ? "\"action\" or \"rate\" is not valid"
		                                       : kvc_status_text(status));
}
