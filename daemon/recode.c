/* SPDX-License-Identifier: Apache-2.0
 * Recode: walk, read as stored, look, read unpacked, write, swap; one timer for all of it. */
#include "daemon/recode.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "codec/profile.h"
#include "daemon/admin_internal.h"
#include "daemon/disk_read.h"

enum { RECODE_BATCH = 64, RECODE_WALK = 512 };

struct kvci_recode {
	struct kvci_core *core;
	struct kvci_recode_figures figures;
	struct kvci_recode_what what;
	uint64_t cursor;
	bool walked; /* to the end */
	struct kvci_block_info batch[RECODE_BATCH];
	uint32_t batch_count, batch_next;
	bool working, stopped; /* working: a request is with the tier */
	struct kvc_tier_request request;
	struct kvci_block_info block; /* at work on */
	struct kvci_coded_target target;
	uint8_t *scores; /* of the record, or NULL; target leads here */
	void *buffer;
	uint64_t buffer_bytes;
	struct kvci_timer timer;
};

static void recode_end(struct kvci_recode *recode, bool complete)
{
	recode->figures.running = false;
	recode->figures.complete = complete;
	recode->figures.end_ns = kvci_clock_ns();
	kvci_coding_force(recode->core->coding, NULL, NULL);
	kvci_loop_timer_disarm(recode->core->loop, &recode->timer);
	kvci_free(recode->scores);
	recode->scores = NULL;
	kvci_free(recode->buffer);
	recode->buffer = NULL;
	recode->buffer_bytes = 0;
	kvci_log(KVCI_LOG_INFO, "recode", "%s: %" PRIu64 " blocks recoded, %" PRIu64 " were already, %" PRIu64 " refused, %" PRIu64 " failed",
	         complete ? "done" : "stopped", recode->figures.recoded, recode->figures.already, recode->figures.refused,
	         recode->figures.failed);
}

static void recode_arm(struct kvci_recode *recode, uint64_t due_ns)
{
	if (kvci_loop_timer_arm(recode->core->loop, &recode->timer, due_ns) != KVC_OK)
		recode_end(recode, false);
}

/* This block is dealt with. */
static void recode_next(struct kvci_recode *recode, uint64_t *counter)
{
	recode->working = false;
	++*counter;
	recode->figures.blocks_done++;
	kvci_coding_force(recode->core->coding, NULL, NULL);
	if (recode->stopped)
		recode_end(recode, false);
	else
		recode_arm(recode, kvci_clock_ns());
}

static void recode_failed(struct kvci_recode *recode, kvc_status_t status)
{
	if (status == KVC_CANCELED)
		recode->stopped = true;
	recode_next(recode, status == KVC_MISS || status == KVC_CANCELED ? &recode->figures.busy : &recode->figures.failed);
}

/* What the codec would do to it has been done. */
static bool recode_is_so(const struct kvci_recode *recode, const struct kvci_record_header *header,
                         const struct kvci_section_entry *sections)
{
	uint16_t id = recode->what.codec->id;
	bool any = false;

	if (recode->what.again) /* a stream does not say by which parameters it was made */
		return false;
	for (uint32_t i = 0; i < header->section_count; i++) {
		if ((sections[i].codec_k != id && sections[i].codec_k != 0) || (sections[i].codec_v != id && sections[i].codec_v != 0))
			return false;
		any = any || sections[i].codec_k == id || sections[i].codec_v == id;
	}
	return any;
}

static void recode_submit(struct kvci_recode *recode, void (*done)(struct kvc_tier_request *request, kvc_status_t status))
{
	kvc_status_t status;

	recode->request.done = done;
	recode->request.context = recode;
	recode->working = true;
	status = kvci_tier_submit(recode->core->disk, &recode->request);
	if (status != KVC_OK)
		recode_failed(recode, status);
}

static void recode_written(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_recode *recode = request->context;
	const struct kvc_place *old = &recode->block.place;
	uint32_t new_4k = request->entry.place.length_4k;

	if (status != KVC_OK) {
		recode_failed(recode, status);
		return;
	}
	if (new_4k == request->entry.raw_length_4k && old->length_4k == new_4k) { /* no shorter: what is there stays */
		kvci_tier_drop(recode->core->disk, &request->entry);
		recode_next(recode, &recode->figures.already);
		return;
	}
	status = kvci_cache_recoded(recode->core->cache, recode->block.binding, recode->block.id.hash, old, &request->entry);
	if (status != KVC_OK) {
		recode_next(recode, &recode->figures.busy);
		return;
	}
	recode->figures.before_bytes += (uint64_t)old->length_4k * KVCI_RECORD_ALIGN_BYTES;
	recode->figures.after_bytes += (uint64_t)new_4k * KVCI_RECORD_ALIGN_BYTES;
	recode_next(recode, &recode->figures.recoded);
}

/* The raw image is in the buffer. */
static void recode_unpacked(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_recode *recode = request->context;
	const struct kvci_record_header *header = recode->buffer;
	struct kvc_tier_entry *entry = &request->entry;

	if (status != KVC_OK) {
		recode_failed(recode, status);
		return;
	}
	memcpy(entry->parent_hash, header->parent_hash, sizeof(entry->parent_hash));
	entry->position_tokens = header->position_tokens;
	entry->token_count = header->token_count;
	entry->flags = header->flags;
	entry->place = (struct kvc_place){0};
	request->op = KVC_TIER_WRITE;
	request->flags = 0;
	kvci_coding_force(recode->core->coding, entry, &recode->target);
	recode_submit(recode, recode_written);
}

/* The record's scores go on with it. None, should they be damaged or of another length. */
static void recode_take_scores(struct kvci_recode *recode, const struct kvci_record_header *header)
{
	const struct kvc_form *form = kvci_coding_form(recode->core->coding, recode->block.binding);
	uint32_t bytes = 0;
	const uint8_t *scores = kvci_record_scores(recode->buffer, header, &bytes);

	kvci_free(recode->scores);
	recode->scores = NULL;
	if (scores == NULL || form == NULL || bytes != form->block_tokens * form->kv_heads)
		return;
	recode->scores = kvci_alloc(bytes);
	if (recode->scores != NULL)
		memcpy(recode->scores, scores, bytes);
	recode->target.scores = recode->scores;
}

/* The record as it is stored is in the buffer. */
static void recode_looked(struct kvc_tier_request *request, kvc_status_t status)
{
	struct kvci_recode *recode = request->context;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;

	if (status == KVC_OK)
		status = kvci_record_parse(recode->buffer, (size_t)recode->block.place.length_4k * KVCI_RECORD_ALIGN_BYTES, &header, &sections);
	if (status != KVC_OK) {
		recode_failed(recode, status);
	} else if (recode_is_so(recode, header, sections)) {
		recode_next(recode, &recode->figures.already);
	} else if (recode->block.place.length_4k == recode->request.entry.raw_length_4k) {
		recode_take_scores(recode, header);
		if ((header->flags & KVCI_RECORD_SCORES) != 0)
			kvci_record_drop_scores(recode->buffer);
		recode_unpacked(request, KVC_OK); /* raw: that is it */
	} else {
		recode_take_scores(recode, header);
		recode->request.flags = 0;
		recode_submit(recode, recode_unpacked);
	}
}

/* What a block is to become; false: its space does not allow that, or a profile is missing. */
static bool recode_aim(struct kvci_recode *recode, const struct kvci_space_info *space, const struct kvc_form *form)
{
	const struct kvci_coding *coding = recode->core->coding;
	const struct kvc_profile *profile = kvci_coding_profile_for(coding, space->fields, form, NULL);

	recode->target = (struct kvci_coded_target){
		.codec = recode->what.codec, .params = recode->what.params, .profile = profile,
		.profile_id = profile != NULL ? kvci_profile_id(profile) : 0,
	};
	return kvci_coding_allows(coding, space->fields, form, &recode->target, recode->what.again) && (!recode->what.codec->needs_profile || profile != NULL);
}

static void recode_block(struct kvci_recode *recode)
{
	const struct kvci_block_info *block = &recode->block;
	const struct kvc_form *form = kvci_coding_form(recode->core->coding, block->binding);
	struct kvci_space_info space;

	if (form == NULL || kvci_cache_space_info(recode->core->cache, block->space, &space) != KVC_OK || !recode_aim(recode, &space, form)) {
		recode_next(recode, &recode->figures.refused);
		return;
	}
	if (recode->buffer_bytes < block->record_bytes) {
		kvci_free(recode->buffer);
		recode->buffer = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, block->record_bytes);
		recode->buffer_bytes = recode->buffer != NULL ? block->record_bytes : 0;
	}
	if (recode->buffer == NULL) {
		recode_next(recode, &recode->figures.failed);
		return;
	}
	kvci_disk_read_prepare(block, recode->buffer, &recode->request);
	recode_submit(recode, recode_looked);
}

static void recode_visit(void *context, const struct kvci_block_info *info)
{
	struct kvci_recode *recode = context;

	if (!info->on_disk)
		return;
	for (uint32_t i = 0; i < recode->what.prefix_nibbles; i++) {
		unsigned shift = i % 2 == 0 ? 4 : 0;

		if ((info->id.hash[i / 2] >> shift & 15) != (recode->what.prefix[i / 2] >> shift & 15))
			return;
	}
	if ((recode->what.space == UINT64_MAX || recode->what.space == info->space) && recode->batch_count < RECODE_BATCH)
		recode->batch[recode->batch_count++] = *info;
}

static void recode_step(void *context)
{
	struct kvci_recode *recode = context;
	bool to_raw = recode->what.codec->id == KVC_CODEC_RAW;

	if (recode->batch_next < recode->batch_count) {
		recode->block = recode->batch[recode->batch_next++];
		if (to_raw && (uint64_t)recode->block.place.length_4k * KVCI_RECORD_ALIGN_BYTES == recode->block.record_bytes)
			recode_next(recode, &recode->figures.already);
		else
			recode_block(recode);
		return;
	}
	if (recode->walked) {
		recode_end(recode, true);
		return;
	}
	recode->batch_count = recode->batch_next = 0;
	for (unsigned i = 0; i < RECODE_WALK && !recode->walked && recode->batch_count < RECODE_BATCH; i++) {
		kvci_cache_walk(recode->core->cache, &recode->cursor, 1, recode_visit, recode);
		recode->walked = recode->cursor == 0;
	}
	recode_arm(recode, kvci_loop_now_ns(recode->core->loop));
}

kvc_status_t kvci_recode_start(struct kvci_core *core, const struct kvci_recode_what *what)
{
	struct kvci_recode *recode = core->recode;
	struct kvci_cache_totals totals;

	if (core->disk == NULL)
		return KVC_UNSUPPORTED;
	if (recode != NULL && (recode->figures.running || recode->working))
		return KVC_IN_USE;
	if (recode == NULL)
		recode = kvci_alloc_zero(1, sizeof(*recode));
	if (recode == NULL)
		return KVC_NO_MEMORY;
	core->recode = recode;
	memset(recode, 0, sizeof(*recode));
	kvci_cache_totals(core->cache, &totals);
	recode->core = core;
	recode->what = *what;
	recode->figures.running = true;
	recode->figures.blocks_total = totals.disk_blocks;
	recode->figures.begin_ns = kvci_clock_ns();
	recode->timer.run = recode_step;
	recode->timer.context = recode;
	recode_arm(recode, kvci_loop_now_ns(core->loop));
	return KVC_OK;
}

void kvci_recode_stop(struct kvci_core *core)
{
	struct kvci_recode *recode = core->recode;

	if (recode == NULL || !recode->figures.running || recode->stopped)
		return;
	recode->stopped = true;
	if (!recode->working)
		recode_end(recode, false);
}

void kvci_recode_free(struct kvci_core *core)
{
	if (core->recode == NULL)
		return;
	kvci_free(core->recode->scores);
	kvci_free(core->recode->buffer);
	kvci_free(core->recode);
	core->recode = NULL;
}

void kvci_recode_figures(const struct kvci_core *core, struct kvci_recode_figures *ret_figures)
{
	*ret_figures = (struct kvci_recode_figures){0};
	if (core->recode != NULL)
		*ret_figures = core->recode->figures;
}

/* ---- the questions ---- */

static void recode_answer(struct kvci_admin_question *question)
{
	struct kvci_recode_figures figures;
	json_t *answer = question->answer;

	kvci_recode_figures(question->core, &figures);
	admin_set_bool(answer, "running", figures.running);
	admin_set_bool(answer, "complete", figures.complete);
	admin_set_uint(answer, "blocks_total", figures.blocks_total);
	admin_set_uint(answer, "blocks_done", figures.blocks_done);
	admin_set_uint(answer, "recoded", figures.recoded);
	admin_set_uint(answer, "already", figures.already);
	admin_set_uint(answer, "refused", figures.refused);
	admin_set_uint(answer, "busy", figures.busy);
	admin_set_uint(answer, "failed", figures.failed);
	admin_set_uint(answer, "before_bytes", figures.before_bytes);
	admin_set_uint(answer, "after_bytes", figures.after_bytes);
	admin_set_uint(answer, "elapsed_ns",
	               figures.begin_ns == 0 ? 0 : (figures.running ? kvci_clock_ns() : figures.end_ns) - figures.begin_ns);
	admin_finish(question);
}

static void recode_start_question(struct kvci_admin_question *question)
{
	struct kvci_recode_what what = {0};
	const char *codec, *key, *wrong = NULL;
	kvc_status_t status;

	if (!admin_get_text(question, "codec", "", &codec) || !admin_get_text(question, "key", "", &key) ||
	    !admin_get_uint(question, "space", UINT64_MAX, UINT32_MAX, &what.space) || !admin_get_bool(question, "again", false, &what.again))
		return;
	status = kvc_codec_spec_parse(codec, &what.codec, &what.params, &wrong);
	if (status != KVC_OK) {
		admin_fail(question, KVC_INVALID, "recode: %s: \"%.60s\"",
		           status == KVC_NOT_FOUND ? "this build has no such codec" : "this is no codec", codec);
		return;
	}
	if (!admin_parse_hex(key, what.prefix, &what.prefix_nibbles)) {
		admin_fail(question, KVC_INVALID, "recode: \"key\" is not a text of hex digits");
		return;
	}
	status = kvci_recode_start(question->core, &what);
	if (status == KVC_OK)
		recode_answer(question);
	else
		admin_fail(question, status, "recode: %s",
		           status == KVC_IN_USE        ? "it runs already"
		           : status == KVC_UNSUPPORTED ? "there is no disk tier"
		                                       : kvc_status_text(status));
}

void admin_recode(struct kvci_admin_question *question)
{
	const char *action;

	if (!admin_get_text(question, "action", "status", &action))
		return;
	if (strcmp(action, "start") == 0) {
		recode_start_question(question);
		return;
	}
	if (strcmp(action, "stop") == 0)
		kvci_recode_stop(question->core);
	else if (strcmp(action, "status") != 0) {
		admin_fail(question, KVC_INVALID, "recode: \"action\" is not start, status or stop");
		return;
	}
	recode_answer(question);
}
