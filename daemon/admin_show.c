/* SPDX-License-Identifier: Apache-2.0
 * Question show: one block, its record, and what is in it. The record is copied out of memory in pieces, or read from the disk past
 * the brain; everything else is done on that copy by a worker. */
#include "daemon/admin_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "daemon/coding.h"
#include "daemon/content.h"
#include "daemon/disk_read.h"

enum {
	SHOW_FIND_STEP = 1024,
	SHOW_BLOCKS_MAX = 16,
	SHOW_COPY_BYTES = 256 << 10, /* a step */
};

struct show {
	struct kvci_core *core;
	struct kvci_admin_question *question; /* NULL: nobody waits any more */
	uint8_t prefix[KVCI_HASH_BYTES];
	uint32_t prefix_nibbles;
	uint64_t space, cursor;
	bool content;
	struct kvci_block_info infos[SHOW_BLOCKS_MAX];
	uint32_t count;
	bool more; /* than infos holds */
	/* The record of the one block. */
	struct kvc_form form;
	bool form_known;
	uint8_t *record;
	uint8_t *image; /* a coded one unpacked, for its content */
	uint64_t record_bytes, copied_bytes;
	const char *source;
	bool reading;
	struct kvc_tier_request request;
	struct kvci_timer read_timer;
	kvc_status_t read_status;
};

static void show_release(struct show *show)
{
	kvci_loop_timer_disarm(show->core->loop, &show->read_timer);
	kvci_free(show->record);
	kvci_free(show->image);
	kvci_free(show);
}

static void show_free(void *state)
{
	struct show *show = state;

	show->question = NULL;
	if (!show->reading) /* else the device has its buffer */
		show_release(show);
}

/* ---- on the worker ---- */

static json_t *show_part(const struct kvci_content_part *part, uint32_t dtype)
{
	uint64_t finite = part->count - part->nans - part->infinities;
	json_t *object = json_object(), *bins = json_array();
	int bias = 0;
	bool exponents = kvci_content_has_exponents(dtype, &bias);

	admin_set_uint(object, "elements", part->count);
	admin_set_uint(object, "zeros", part->zeros);
	admin_set_uint(object, "nans", part->nans);
	admin_set_uint(object, "infinities", part->infinities);
	if (finite > 0) {
		admin_set_real(object, "least", part->least);
		admin_set_real(object, "greatest", part->greatest);
		admin_set_real(object, "mean", part->sum / (double)finite);
		admin_set_real(object, "rms", sqrt(part->sum_squares / (double)finite));
	}
	for (int i = 0; i < KVCI_CONTENT_BINS; i++) {
		json_t *bin;

		if (part->bins[i] == 0)
			continue;
		bin = json_object();
		json_object_set_new(bin, exponents ? "exponent" : "value",
		                    json_integer(exponents ? i - bias : dtype == KVC_DTYPE_I8 ? i - 128 : i));
		admin_set_uint(bin, "count", part->bins[i]);
		json_array_append_new(bins, bin);
	}
	json_object_set_new(object, exponents ? "exponents" : "values", bins);
	return object;
}

static json_t *show_header(const struct kvci_record_header *header)
{
	json_t *object = json_object();
	char form[20];

	snprintf(form, sizeof(form), "%016" PRIx64, header->form_id);
	admin_set_uint(object, "version", header->version);
	admin_set_uint(object, "flags", header->flags);
	admin_set_uint(object, "record_bytes", header->record_bytes);
	admin_set_hex(object, "space", header->space, sizeof(header->space));
	admin_set_uint(object, "epoch", header->epoch);
	admin_set_text(object, "form", form);
	admin_set_hex(object, "hash", header->hash, sizeof(header->hash));
	admin_set_hex(object, "parent_hash", header->parent_hash, sizeof(header->parent_hash));
	admin_set_uint(object, "group", header->group);
	admin_set_uint(object, "shard_index", header->shard_index);
	admin_set_uint(object, "shard_count", header->shard_count);
	admin_set_uint(object, "sections", header->section_count);
	admin_set_uint(object, "position_tokens", header->position_tokens);
	admin_set_uint(object, "token_count", header->token_count);
	admin_set_bool(object, "lossy", (header->flags & KVCI_RECORD_LOSSY) != 0);
	if (header->scores_bytes != 0)
		admin_set_uint(object, "scores_bytes", header->scores_bytes);
	if (header->profile_id != 0) {
		char profile[20];

		snprintf(profile, sizeof(profile), "%016" PRIx64, header->profile_id);
		admin_set_text(object, "profile", profile);
	}
	return object;
}

/* "split", or "split+raw" where K and V differ. */
static const char *show_codec(const struct kvci_section_entry *section, char *text, size_t room)
{
	const struct kvc_codec_ops *k = kvc_codec_by_id(section->codec_k), *v = kvc_codec_by_id(section->codec_v);
	char names[2][16];

	snprintf(names[0], sizeof(names[0]), "%u", section->codec_k);
	snprintf(names[1], sizeof(names[1]), "%u", section->codec_v);
	if (section->codec_k == section->codec_v)
		snprintf(text, room, "%s", k != NULL ? k->name : names[0]);
	else
		snprintf(text, room, "%s+%s", k != NULL ? k->name : names[0], v != NULL ? v->name : names[1]);
	return text;
}

static uint32_t show_unit(const struct kvci_record_header *header, const struct kvci_section_entry *sections, uint32_t section)
{
	uint32_t end = section + 1;

	while (end < header->section_count && sections[end].stored_bytes == 0)
		end++;
	return end - section;
}

static json_t *show_sections(const struct kvci_record_header *header, const struct kvci_section_entry *sections)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < header->section_count; i++) {
		json_t *object = json_object();
		char checksum[20], codec[40];

		snprintf(checksum, sizeof(checksum), "%016" PRIx64, sections[i].raw_checksum);
		admin_set_uint(object, "section", i);
		admin_set_uint(object, "offset_bytes", (uint64_t)sections[i].offset_64 * KVCI_SECTION_ALIGN_BYTES);
		admin_set_uint(object, "raw_bytes", sections[i].raw_bytes);
		admin_set_uint(object, "stored_bytes", sections[i].stored_bytes);
		admin_set_uint(object, "codec_k", sections[i].codec_k);
		admin_set_uint(object, "codec_v", sections[i].codec_v);
		admin_set_text(object, "codec", show_codec(&sections[i], codec, sizeof(codec)));
		/* Of a unit over several sections the first has the bytes of all. */
		admin_set_real(object, "ratio", sections[i].stored_bytes != 0
		                                        ? (double)sections[i].raw_bytes * show_unit(header, sections, i) / sections[i].stored_bytes
		                                        : 0);
		admin_set_text(object, "raw_checksum", checksum);
		json_array_append_new(list, object);
	}
	return list;
}

static void show_content(struct show *show, json_t *answer, const struct kvci_record_header *header,
                         const struct kvci_section_entry *sections)
{
	struct kvci_content_part *parts = kvci_alloc_zero(2, sizeof(*parts));
	json_t *object;
	uint32_t section;
	kvc_status_t status = kvci_record_verify(show->record, header, sections, &section);

	admin_set_text(answer, "checked", status == KVC_OK ? "ok" : kvc_status_name(status));
	if (parts == NULL || !show->form_known || status != KVC_OK) {
		kvci_free(parts);
		return;
	}
	if (show->image != NULL)
		status = kvci_record_parse(show->image, show->infos[0].record_bytes, &header, &sections);
	for (uint32_t i = 0; i < header->section_count && status == KVC_OK; i++)
		if (sections[i].codec_k == 0 && sections[i].codec_v == 0)
			kvci_content_add(&show->form, (show->image != NULL ? show->image : show->record) +
			                 (uint64_t)sections[i].offset_64 * KVCI_SECTION_ALIGN_BYTES, sections[i].raw_bytes, &parts[0], &parts[1]);
	object = json_object();
	admin_set_text(object, "dtype", kvci_content_dtype_name(show->form.dtype));
	json_object_set_new(object, "k", show_part(&parts[0], show->form.dtype));
	json_object_set_new(object, "v", show_part(&parts[1], show->form.dtype));
	json_object_set_new(answer, "content", object);
	kvci_free(parts);
}

static void show_run(struct kvci_job *job)
{
	struct kvci_admin_question *question = admin_of_job(job);
	struct show *show = question->state;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	kvc_status_t status = kvci_record_parse(show->record, show->record_bytes, &header, &sections);

	admin_set_text(question->answer, "source", show->source);
	if (status == KVC_OK && !(show->infos[0].lossy && (header->flags & KVCI_RECORD_LOSSY) != 0) &&
	    kvci_record_checksum(show->record) != show->infos[0].record_checksum)
		status = KVC_CORRUPT;
	if (status != KVC_OK) {
		admin_set_text(question->answer, "checked", kvc_status_name(status));
		return;
	}
	json_object_set_new(question->answer, "header", show_header(header));
	json_object_set_new(question->answer, "sections", show_sections(header, sections));
	if (show->content)
		show_content(show, question->answer, header, sections);
}

/* ---- getting at the record ---- */

static void show_read(struct show *show, bool unpacked);

static void show_read_ended(void *context)
{
	struct show *show = context;

	if (show->read_status == KVC_OK && show->content && show->image == NULL && show->record_bytes < show->infos[0].record_bytes) {
		show_read(show, true);
		return;
	}
	if (show->read_status != KVC_OK) {
		admin_set_text(show->question->answer, "checked", kvc_status_name(show->read_status));
		admin_finish(show->question);
		return;
	}
	admin_work(show->question, show_run, admin_finish);
}

static void show_read_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct show *show = request->context;

	show->reading = false;
	show->read_status = status;
	if (show->question == NULL)
		show_release(show);
	else if (kvci_loop_timer_arm(show->core->loop, &show->read_timer, kvci_loop_now_ns(show->core->loop)) != KVC_OK)
		show_read_ended(show); /* out of memory: inside the tier's poll, then */
}

/* As it is stored; a coded one then unpacked as well, when its content is asked for. */
static void show_read(struct show *show, bool unpacked)
{
	uint8_t **buffer = unpacked ? &show->image : &show->record;
	kvc_status_t status;

	show->source = "disk";
	if (!unpacked)
		show->record_bytes = (uint64_t)show->infos[0].place.length_4k * KVCI_RECORD_ALIGN_BYTES;
	kvci_free(*buffer);
	*buffer = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, unpacked ? show->infos[0].record_bytes : show->record_bytes);
	if (*buffer == NULL) {
		admin_fail(show->question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	kvci_disk_read_prepare(&show->infos[0], *buffer, &show->request);
	if (unpacked)
		show->request.flags = 0;
	show->request.done = show_read_done;
	show->request.context = show;
	show->read_timer.run = show_read_ended;
	show->read_timer.context = show;
	show->reading = true;
	status = kvci_tier_submit(show->core->disk, &show->request);
	if (status != KVC_OK) {
		show->reading = false;
		admin_fail(show->question, status, "the block cannot be read: %s", kvc_status_text(status));
	}
}

/* Is the block still where it was when we began? Its extent may be another's by now. */
static bool show_still_there(struct show *show)
{
	const struct kvci_block_info *was = &show->infos[0];
	struct kvci_block_info now;
	enum kvci_miss miss;

	return kvci_cache_explain(show->core->cache, was->binding, was->id.hash, &miss, &now) == KVC_OK &&
	       miss == KVCI_MISS_NONE && now.in_memory && memcmp(&now.extent, &was->extent, sizeof(now.extent)) == 0;
}

static bool show_copy_step(struct kvci_admin_question *question)
{
	struct show *show = question->state;
	uint64_t left = show->record_bytes - show->copied_bytes;
	uint64_t bytes = left < SHOW_COPY_BYTES ? left : SHOW_COPY_BYTES, slab_bytes;
	void *base;

	if (!show_still_there(show) ||
	    kvci_memory_slab_base(show->core->memory, show->infos[0].extent.slab, &base, &slab_bytes) != KVC_OK) {
		if (show->infos[0].on_disk && show->core->disk != NULL)
			show_read(show, false);
		else
			admin_fail(question, KVC_MISS, "the block left the memory while it was looked at");
		return true;
	}
	memcpy(show->record + show->copied_bytes, (char *)base + show->infos[0].extent.offset_bytes + show->copied_bytes, bytes);
	show->copied_bytes += bytes;
	if (show->copied_bytes < show->record_bytes)
		return false;
	admin_work(question, show_run, admin_finish);
	return true;
}

static void show_record(struct show *show)
{
	struct kvci_admin_question *question = show->question;
	const struct kvci_block_info *info = &show->infos[0];
	const struct kvc_form *form = kvci_coding_form(show->core->coding, info->binding);
	bool coded;

	if (form != NULL) {
		show->form = *form;
		show->form_known = true;
		json_object_set_new(question->answer, "form", admin_form_json(form));
	}
	/* What lies packed on a disk that works says more than its image in memory. */
	coded = info->on_disk && show->core->disk != NULL && (uint64_t)info->place.length_4k * KVCI_RECORD_ALIGN_BYTES < info->record_bytes &&
	        atomic_load_explicit(&show->core->face.disk_health, memory_order_relaxed) == KVC_OK;
	if (info->in_memory && !coded) {
		show->source = "memory";
		show->record_bytes = info->record_bytes;
		if (!show->content && show->record_bytes > KVCI_RECORD_HEAD_BYTES_MAX)
			show->record_bytes = KVCI_RECORD_HEAD_BYTES_MAX;
		show->record = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, show->record_bytes);
		if (show->record == NULL)
			admin_fail(question, KVC_NO_MEMORY, "out of memory");
		else
			admin_step(question, show_copy_step);
	} else if (info->on_disk && show->core->disk != NULL) {
		show_read(show, false);
	} else {
		admin_finish(question);
	}
}

/* ---- finding it ---- */

static bool show_find_step(struct kvci_admin_question *question)
{
	struct show *show = question->state;
	struct kvci_block_info found[SHOW_BLOCKS_MAX];
	uint32_t count = 0;
	json_t *list;
	kvc_status_t status = kvci_cache_find(question->core->cache, show->prefix, show->prefix_nibbles, &show->cursor,
	                                      SHOW_FIND_STEP, found, SHOW_BLOCKS_MAX, &count);

	if (status != KVC_OK) {
		admin_fail(question, status, "%s", kvc_status_text(status));
		return true;
	}
	for (uint32_t i = 0; i < count; i++) {
		if ((show->space != UINT64_MAX && found[i].space != show->space) || !admin_sees_space(question, found[i].space))
			continue;
		show->more = show->count == SHOW_BLOCKS_MAX;
		if (!show->more)
			show->infos[show->count++] = found[i];
	}
	if (show->cursor != 0 && !show->more)
		return false;
	list = json_array();
	for (uint32_t i = 0; i < show->count; i++) {
		json_t *block = admin_block_json(&show->infos[i], kvci_clock_ns());

		if (show->infos[i].in_memory) {
			admin_set_uint(block, "slab", show->infos[i].extent.slab);
			admin_set_uint(block, "slab_offset_bytes", show->infos[i].extent.offset_bytes);
		}
		if (show->infos[i].on_disk) {
			admin_set_uint(block, "segment", show->infos[i].place.segment);
			admin_set_uint(block, "segment_generation", show->infos[i].place.generation);
			admin_set_uint(block, "segment_offset_bytes", (uint64_t)show->infos[i].place.offset_4k * KVCI_RECORD_ALIGN_BYTES);
		}
		json_array_append_new(list, block);
	}
	json_object_set_new(question->answer, "blocks", list);
	admin_set_bool(question->answer, "more", show->more);
	if (show->count == 1)
		show_record(show);
	else if (show->count == 0)
		admin_fail(question, KVC_NOT_FOUND, "no block's hash begins so");
	else
		admin_finish(question);
	return true;
}

void admin_show(struct kvci_admin_question *question)
{
	struct show *show = kvci_alloc_zero(1, sizeof(*show));
	const char *key;

	if (show == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	show->core = question->core;
	show->question = question;
	question->state = show;
	question->state_free = show_free;
	if (!admin_get_uint(question, "space", UINT64_MAX, UINT32_MAX, &show->space) ||
	    !admin_get_bool(question, "content", false, &show->content) || !admin_get_text(question, "key", "", &key))
		return;
	if (key[0] == '\0' || !admin_parse_hex(key, show->prefix, &show->prefix_nibbles)) {
		admin_fail(question, KVC_INVALID, "show: \"key\" is not a text of hex digits");
		return;
	}
	admin_step(question, show_find_step);
}
