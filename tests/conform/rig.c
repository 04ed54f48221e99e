/* SPDX-License-Identifier: Apache-2.0
 * See rig.h. */
#include "tests/conform/rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/record.h"

static void rig_list_add(struct rig_list *list, const struct kvc_tier_entry *entry)
{
	if (list->count == list->room) {
		size_t room = list->room * 2 + 64;

		list->entries = kvci_realloc(list->entries, room * sizeof(*entry));
		assert_non_null(list->entries);
		list->room = room;
	}
	list->entries[list->count++] = *entry;
}

const struct kvc_tier_entry *rig_find(const struct rig_list *list, const struct kvc_tier_entry *like)
{
	for (size_t i = list->count; i-- > 0;) {
		if (memcmp(list->entries[i].hash, like->hash, sizeof(like->hash)) == 0 &&
		    memcmp(list->entries[i].space, like->space, sizeof(like->space)) == 0)
			return &list->entries[i];
	}
	return NULL;
}

static void rig_index(void *context, const struct kvc_tier_entry *entries, size_t count, bool more)
{
	struct rig *rig = context;

	assert_true(rig->in_poll);
	assert_false(rig->index_complete);
	rig->index_calls++;
	rig->index_delivered += count;
	for (size_t i = 0; i < count; i++)
		rig_list_add(&rig->index, &entries[i]);
	if (!more) {
		rig->index_complete = true;
		rig->index_complete_calls++;
	}
}

static void rig_lost(void *context, uint32_t segment, uint32_t generation)
{
	struct rig *rig = context;

	assert_true(rig->in_poll);
	assert_true(rig->lost_count < sizeof(rig->lost) / sizeof(rig->lost[0]));
	rig->lost[rig->lost_count].segment = segment;
	rig->lost[rig->lost_count++].generation = generation;
}

static bool rig_keep(void *context, const struct kvc_tier_entry *entry)
{
	struct rig *rig = context;
	bool keep = entry->hash[5] % 100 < rig->keep_percent;

	assert_true(rig->in_poll);
	rig->keep_asked++;
	rig->keep_yes += keep;
	return keep;
}

static void rig_moved(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place)
{
	struct rig *rig = context;

	assert_true(rig->in_poll);
	assert_int_not_equal(memcmp(&entry->place, old_place, sizeof(*old_place)), 0);
	rig->moved_count++;
	rig_list_add(&rig->moved, entry);
}

static void rig_health(void *context, kvc_status_t status, const char *text)
{
	struct rig *rig = context;

	assert_non_null(text);
	rig->health = status;
	rig->health_calls++;
}

bool rig_was_lost(const struct rig *rig, const struct kvc_place *place)
{
	for (size_t i = 0; i < rig->lost_count; i++) {
		if (rig->lost[i].segment == place->segment && rig->lost[i].generation == place->generation)
			return true;
	}
	return false;
}

void rig_poll(struct rig *rig, int timeout_ms)
{
	struct pollfd waiting = {.fd = kvci_tier_fd(rig->tier), .events = POLLIN};

	poll(&waiting, 1, timeout_ms);
	rig->in_poll = true;
	kvci_tier_poll(rig->tier, 64);
	rig->in_poll = false;
}

void rig_wait(struct rig *rig, const bool *flag)
{
	uint64_t end_ns = kvci_clock_ns() + 60 * KVCI_SECOND;

	while (!*(const volatile bool *)flag) {
		if (kvci_clock_ns() > end_ns)
			fail_msg("nothing came within 60 s");
		rig_poll(rig, 100);
	}
}

void rig_open(struct rig *rig, struct kvc_tier *tier, bool wait)
{
	struct kvc_tier_events events = {
		.context = rig, .index = rig_index, .lost = rig_lost, .keep = rig_keep, .moved = rig_moved, .health = rig_health,
	};

	memset(rig, 0, sizeof(*rig));
	rig->tier = tier;
	kvci_tier_caps(tier, &rig->caps);
	assert_int_equal(kvci_tier_attach(tier, &events), KVC_OK);
	if (wait)
		rig_wait(rig, &rig->index_complete);
}

void rig_close(struct rig *rig)
{
	rig->in_poll = true; /* close completes requests, too */
	kvci_tier_close(rig->tier);
	rig->tier = NULL;
	kvci_free(rig->index.entries);
	kvci_free(rig->moved.entries);
	rig->index = rig->moved = (struct rig_list){0};
}

void *rig_buffer(uint64_t bytes)
{
	void *buffer = kvci_alloc_aligned(4096, bytes);

	assert_non_null(buffer);
	memset(buffer, 0, bytes);
	return buffer;
}

static uint64_t rig_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

struct kvc_form rig_form(uint32_t pages)
{
	/* Two layers fill one page less headers; 32 layers larger records. */
	uint32_t layers = pages < 16 ? 2 : 32;
	uint64_t room = (uint64_t)pages * 4096 - sizeof(struct kvci_record_header) - layers * sizeof(struct kvci_section_entry);

	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = layers, .block_tokens = 16, .engine_block_tokens = 16, .kv_heads = 1,
		.head_dim_k = (uint32_t)(room / layers / 64 * 64 / 16), .dtype = KVC_DTYPE_OPAQUE8, .arrangement = KVC_KV_LATENT,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
}

void rig_record(void *buffer, uint64_t seed, uint32_t pages, struct kvc_tier_entry *ret_entry)
{
	struct kvc_form form = rig_form(pages);
	uint32_t layers = form.layer_count;
	struct kvc_form_sizes sizes;
	struct kvci_record_meta meta = {.epoch = 3, .position_tokens = seed * 16, .token_count = 16, .shard_count = 1};
	uint64_t checksums[32], state = seed ^ UINT64_C(0x5eed), block_seed;

	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	assert_int_equal(sizes.record_bytes, (uint64_t)pages * 4096);
	memset(meta.id.space, (int)(seed % 3), sizeof(meta.id.space));
	for (size_t i = 0; i < sizeof(meta.id.hash); i += 8) {
		uint64_t word = rig_random(&state);

		memcpy(meta.id.hash + i, &word, 8);
	}
	memcpy(meta.parent_hash, meta.id.hash, sizeof(meta.parent_hash));
	meta.parent_hash[0] ^= 0xff;
	block_seed = kvci_block_seed(&meta.id);
	memset(buffer, 0, sizes.sections_offset_bytes);
	for (uint32_t i = 0; i < layers; i++) {
		uint8_t *section = (uint8_t *)buffer + sizes.sections_offset_bytes + i * sizes.section_stride_bytes;

		for (uint64_t at = 0; at < sizes.section_bytes; at += 8) {
			/* One random word a line, a counter besides: cheap, and no two alike. */
			uint64_t word = at % 64 == 0 ? rig_random(&state) : state + at;

			memcpy(section + at, &word, 8);
		}
		checksums[i] = kvci_checksum(section, sizes.section_bytes, kvci_section_seed(block_seed, i));
	}
	*ret_entry = (struct kvc_tier_entry){
		.epoch = meta.epoch, .form_id = kvc_form_id(&form), .position_tokens = meta.position_tokens,
		.token_count = meta.token_count, .shard_count = 1, .raw_length_4k = pages,
		.record_checksum = kvci_record_write_raw(buffer, &meta, &form, &sizes, checksums),
	};
	memcpy(ret_entry->space, meta.id.space, sizeof(meta.id.space));
	memcpy(ret_entry->hash, meta.id.hash, sizeof(meta.id.hash));
	memcpy(ret_entry->parent_hash, meta.parent_hash, sizeof(meta.parent_hash));
}

bool rig_record_is(const void *buffer, uint64_t seed, uint32_t pages)
{
	void *expected = rig_buffer((uint64_t)pages * 4096);
	struct kvci_record_header *header = expected;
	const struct kvci_record_header *parsed;
	const struct kvci_section_entry *sections;
	struct kvc_tier_entry entry;
	bool same;

	rig_record(expected, seed, pages, &entry);
	header->place_seal = ((const struct kvci_record_header *)buffer)->place_seal;
	assert_int_equal(kvci_record_parse(expected, (size_t)pages * 4096, &parsed, &sections), KVC_OK);
	same = memcmp(buffer, expected, (uint64_t)sections[parsed->section_count - 1].offset_64 * 64 +
	              sections[parsed->section_count - 1].stored_bytes) == 0;
	kvci_free(expected);
	return same;
}

struct rig_call {
	struct kvc_tier_request request;
	struct rig *rig;
	kvc_status_t status;
	bool done;
};

static void rig_call_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct rig_call *call = request->context;

	assert_true(call->rig->in_poll);
	assert_false(call->done);
	call->status = status;
	call->done = true;
}

static kvc_status_t rig_call(struct rig *rig, struct rig_call *call)
{
	uint64_t end_ns = kvci_clock_ns() + 60 * KVCI_SECOND;
	kvc_status_t status;

	call->rig = rig;
	call->request.done = rig_call_done;
	call->request.context = call;
	while ((status = kvci_tier_submit(rig->tier, &call->request)) == KVC_BUSY) {
		if (kvci_clock_ns() > end_ns)
			fail_msg("still BUSY after 60 s");
		rig_poll(rig, 2);
	}
	if (status != KVC_OK)
		return status;
	rig_wait(rig, &call->done);
	return call->status;
}

kvc_status_t rig_write(struct rig *rig, void *buffer, struct kvc_tier_entry *entry)
{
	struct rig_call call = {.request = {.op = KVC_TIER_WRITE, .entry = *entry, .buffer = buffer}};
	kvc_status_t status = rig_call(rig, &call);

	if (status == KVC_OK)
		*entry = call.request.entry;
	return status;
}

kvc_status_t rig_read(struct rig *rig, void *buffer, const struct kvc_tier_entry *entry, uint32_t flags)
{
	struct rig_call call = {.request = {.op = KVC_TIER_READ, .flags = flags, .entry = *entry, .buffer = buffer}};

	return rig_call(rig, &call);
}

kvc_status_t rig_read_entry(struct rig *rig, void *buffer, struct kvc_tier_entry *entry, uint32_t flags)
{
	struct rig_call call = {.request = {.op = KVC_TIER_READ, .flags = flags, .entry = *entry, .buffer = buffer}};
	kvc_status_t status = rig_call(rig, &call);

	*entry = call.request.entry;
	return status;
}

kvc_status_t rig_flush(struct rig *rig)
{
	struct rig_call call = {.request = {.op = KVC_TIER_FLUSH}};

	return rig_call(rig, &call);
}

kvc_status_t rig_store(struct rig *rig, uint64_t seed, uint32_t pages, struct kvc_tier_entry *ret_entry)
{
	void *buffer = rig_buffer((uint64_t)pages * 4096);
	kvc_status_t status;

	rig_record(buffer, seed, pages, ret_entry);
	status = rig_write(rig, buffer, ret_entry);
	kvci_free(buffer);
	return status;
}

kvc_status_t rig_load(struct rig *rig, uint64_t seed, const struct kvc_tier_entry *entry)
{
	uint32_t pages = entry->place.length_4k;
	void *buffer = rig_buffer((uint64_t)pages * 4096);
	kvc_status_t status = rig_read(rig, buffer, entry, 0);

	if (status == KVC_OK && !rig_record_is(buffer, seed, pages))
		fail_msg("record %llu was read with wrong bytes", (unsigned long long)seed);
	kvci_free(buffer);
	return status;
}

void rig_folder_remove(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *file;

	if (dir == NULL)
		return;
	while ((file = readdir(dir)) != NULL) {
		char child[4096];

		if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0)
			continue;
		snprintf(child, sizeof(child), "%s/%s", path, file->d_name);
		if (unlink(child) != 0)
			rig_folder_remove(child);
	}
	closedir(dir);
	rmdir(path);
}

const char *rig_folder(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "rig-%s-%ld", name, (long)getpid());
	rig_folder_remove(path);
	return path;
}
