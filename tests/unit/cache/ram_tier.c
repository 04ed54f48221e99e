/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/random.h"
#include "tests/unit/cache/ram_tier.h"

#include <string.h>

#include "base/alloc.h"
#include "base/record.h"

enum { RAM_RECORDS = 65536, RAM_UNDER_WAY = 4096 };

struct ram_record {
	struct kvc_tier_entry entry;
	uint8_t *bytes;
	bool dropped;
};

struct ram_request {
	struct kvc_tier_request *request;
	uint64_t due_ns;
};

struct ram_tier {
	struct kvc_tier base;
	struct ram_tier_options options;
	struct ram_tier_faults faults;
	struct kvc_tier_events events;
	uint64_t random;
	struct ram_record *records;
	uint32_t record_count;
	uint32_t *generations; /* of the segments */
	uint32_t next_generation;
	uint32_t segment, offset_4k;
	struct ram_request under_way[RAM_UNDER_WAY];
	uint32_t under_way_count;
	uint32_t index_next, index_count, index_rate;
	bool index_done, attached;
	uint64_t submits;
};

static struct ram_tier *ram_of(struct kvc_tier *tier)
{
	return (struct ram_tier *)(void *)tier;
}

static bool ram_chance(struct ram_tier *ram, uint32_t percent)
{
	return percent != 0 && random_step(&ram->random) % 100 < percent;
}

static void ram_record_remove(struct ram_tier *ram, uint32_t at)
{
	kvci_free(ram->records[at].bytes);
	memmove(&ram->records[at], &ram->records[at + 1], (ram->record_count - at - 1) * sizeof(ram->records[0]));
	ram->record_count--;
	if (at < ram->index_next)
		ram->index_next--;
	if (at < ram->index_count)
		ram->index_count--;
}

static struct ram_record *ram_find(struct ram_tier *ram, const struct kvc_place *place)
{
	for (uint32_t i = 0; i < ram->record_count; i++) {
		const struct kvc_place *p = &ram->records[i].entry.place;
		if (p->segment == place->segment && p->generation == place->generation && p->offset_4k == place->offset_4k)
			return &ram->records[i];
	}
	return NULL;
}

static kvc_status_t ram_append(struct ram_tier *ram, struct kvc_tier_entry *entry, const void *bytes);

/* The head goes to the next segment; what is there is lost, or carried over when the owner wants it. */
static void ram_next_segment(struct ram_tier *ram)
{
	uint32_t next = (ram->segment + 1) % ram->options.segments, old = ram->generations[next], carried = 0;
	struct { struct kvc_tier_entry entry; uint8_t *bytes; } carry[4];

	for (uint32_t i = 0; i < ram->record_count && ram->faults.keep_all && carried < 4; i++) {
		struct ram_record *record = &ram->records[i];
		if (record->entry.place.segment != next || record->entry.place.generation != old || record->dropped ||
		    !ram->events.keep(ram->events.context, &record->entry))
			continue;
		carry[carried].entry = record->entry;
		carry[carried++].bytes = record->bytes;
		record->bytes = NULL;
	}
	for (uint32_t i = ram->record_count; i-- > 0;)
		if (ram->records[i].entry.place.segment == next && ram->records[i].entry.place.generation == old)
			ram_record_remove(ram, i);
	ram->segment = next;
	ram->offset_4k = 0;
	ram->generations[next] = ++ram->next_generation;
	for (uint32_t i = 0; i < carried; i++) {
		struct kvc_place old_place = carry[i].entry.place;
		if (ram->offset_4k + carry[i].entry.raw_length_4k <= ram->options.segment_4k &&
		    ram_append(ram, &carry[i].entry, carry[i].bytes) == KVC_OK)
			ram->events.moved(ram->events.context, &carry[i].entry, &old_place);
		kvci_free(carry[i].bytes);
	}
	if (old != 0)
		ram->events.lost(ram->events.context, next, old);
}

static kvc_status_t ram_append(struct ram_tier *ram, struct kvc_tier_entry *entry, const void *bytes)
{
	size_t length = (size_t)entry->raw_length_4k << 12;
	struct ram_record *record;

	if (ram->record_count == RAM_RECORDS || entry->raw_length_4k > ram->options.segment_4k)
		return KVC_DISK_FULL;
	if (ram->offset_4k + entry->raw_length_4k > ram->options.segment_4k)
		ram_next_segment(ram);
	entry->place = (struct kvc_place){ .segment = ram->segment,
		                           .generation = ram->generations[ram->segment],
		                           .offset_4k = ram->offset_4k,
		                           .length_4k = entry->raw_length_4k };
	record = &ram->records[ram->record_count];
	*record = (struct ram_record){ .entry = *entry, .bytes = kvci_alloc(length) };
	if (record->bytes == NULL)
		return KVC_IO;
	ram->record_count++;
	memcpy(record->bytes, bytes, length);
	ram->offset_4k += entry->raw_length_4k;
	return KVC_OK;
}

static kvc_status_t ram_read(struct ram_tier *ram, struct kvc_tier_request *request)
{
	struct ram_record *record = ram_find(ram, &request->entry.place);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	size_t length = (size_t)request->entry.place.length_4k << 12;

	if (ram_chance(ram, ram->faults.read_fail_percent))
		return KVC_IO;
	if (record == NULL || record->dropped)
		return KVC_MISS;
	if (ram_chance(ram, ram->faults.read_flip_percent)) { /* in the sections, which is harder to see */
		size_t at = 256 + 32 * 2 + random_step(&ram->random) % 512;
		record->bytes[at] ^= 1;
	}
	memcpy(request->buffer, record->bytes, length);
	if (kvci_record_parse(request->buffer, length, &header, &sections) != KVC_OK ||
	    kvci_record_checksum(header) != request->entry.record_checksum ||
	    memcmp(header->hash, request->entry.hash, 32) != 0 || header->epoch != request->entry.epoch)
		return KVC_CORRUPT;
	return kvci_record_verify(request->buffer, header, sections, NULL);
}

static kvc_status_t ram_execute(struct ram_tier *ram, struct kvc_tier_request *request)
{
	switch (request->op) {
	case KVC_TIER_READ:
		return ram_read(ram, request);
	case KVC_TIER_WRITE:
		if (ram_chance(ram, ram->faults.write_fail_percent))
			return ram->faults.write_failure;
		return ram_append(ram, &request->entry, request->buffer);
	default:
		return KVC_OK;
	}
}

static void ram_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	*ret_caps = (struct kvc_tier_caps){ .align_bytes = 4096,
		                            .best_queue_depth = ram_of(tier)->options.depth,
		                            .best_io_bytes = 1 << 20,
		                            .capacity_bytes = (uint64_t)ram_of(tier)->options.segments *
		                                              ram_of(tier)->options.segment_4k * 4096,
		                            .durable = true,
		                            .drops_places = false };
}

static kvc_status_t ram_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	struct ram_tier *ram = ram_of(tier);

	ram->events = *events;
	ram->attached = true;
	ram->index_next = 0;
	ram->index_count = ram->record_count;
	return KVC_OK;
}

static int ram_fd(struct kvc_tier *tier)
{
	return -1;
}

static void ram_poll_index(struct ram_tier *ram)
{
	uint32_t count;

	if (ram->index_done || ram->index_rate == 0)
		return;
	count = ram->index_count - ram->index_next;
	count = count < ram->index_rate ? count : ram->index_rate;
	for (uint32_t i = 0; i < count; i++) {
		struct ram_record *record = &ram->records[ram->index_next + i];
		if (!record->dropped)
			ram->events.index(ram->events.context, &record->entry, 1, true);
	}
	ram->index_next += count;
	if (ram->index_next < ram->index_count)
		return;
	ram->index_done = true;
	ram->events.index(ram->events.context, NULL, 0, false);
}

static bool ram_held_back(const struct ram_tier *ram, const struct ram_request *r, uint64_t now_ns)
{
	return r->due_ns > now_ns || (ram->faults.hang_reads && r->request->op == KVC_TIER_READ) ||
	       (ram->faults.hang_writes && r->request->op != KVC_TIER_READ);
}

static void ram_poll(struct kvc_tier *tier, unsigned max_completions)
{
	struct ram_tier *ram = ram_of(tier);
	uint64_t now_ns = ram->options.now_ns(ram->options.context);

	ram_poll_index(ram);
	while (max_completions-- > 0 && ram->under_way_count > 0) {
		uint32_t start = (uint32_t)(random_step(&ram->random) % ram->under_way_count), at = UINT32_MAX;
		for (uint32_t i = 0; i < ram->under_way_count && at == UINT32_MAX; i++)
			if (!ram_held_back(ram, &ram->under_way[(start + i) % ram->under_way_count], now_ns))
				at = (start + i) % ram->under_way_count;
		if (at == UINT32_MAX)
			return;
		struct kvc_tier_request *request = ram->under_way[at].request;
		ram->under_way[at] = ram->under_way[--ram->under_way_count];
		request->done(request, ram_execute(ram, request));
	}
}

static kvc_status_t ram_submit(struct kvc_tier *tier, struct kvc_tier_request *request)
{
	struct ram_tier *ram = ram_of(tier);
	uint64_t delay_ns = ram->faults.delay_ns;

	if (ram->under_way_count == RAM_UNDER_WAY || ram_chance(ram, ram->faults.busy_percent))
		return KVC_BUSY;
	if (delay_ns != 0)
		delay_ns += random_step(&ram->random) % delay_ns;
	ram->submits++;
	ram->under_way[ram->under_way_count++] = (struct ram_request){
		.request = request, .due_ns = ram->options.now_ns(ram->options.context) + delay_ns
	};
	return KVC_OK;
}

static kvc_status_t ram_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	struct ram_record *record = ram_find(ram_of(tier), &entry->place);

	if (record != NULL)
		record->dropped = true;
	return KVC_OK;
}

static kvc_status_t ram_register(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return KVC_OK;
}

static void ram_unregister(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	struct ram_tier *ram = ram_of(tier);

	for (uint32_t i = 0; i < ram->under_way_count; i++) {
		const uint8_t *buffer = ram->under_way[i].request->buffer;
		if (buffer >= (uint8_t *)base && buffer < (uint8_t *)base + length_bytes)
			__builtin_trap(); /* memory is taken away under a request */
	}
}

static void ram_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof(*ret_stats));
}

static void ram_cancel_all(struct ram_tier *ram)
{
	while (ram->under_way_count > 0) {
		struct kvc_tier_request *request = ram->under_way[--ram->under_way_count].request;
		request->done(request, KVC_CANCELED);
	}
}

static void ram_close(struct kvc_tier *tier)
{
	struct ram_tier *ram = ram_of(tier);

	ram_cancel_all(ram);
	for (uint32_t i = 0; i < ram->record_count; i++)
		kvci_free(ram->records[i].bytes);
	kvci_free(ram->records);
	kvci_free(ram->generations);
	ram->base.magic = 0;
	kvci_free(ram);
}

static const struct kvc_tier_ops ram_tier_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "ram",
	.caps = ram_caps,
	.attach = ram_attach,
	.fd = ram_fd,
	.poll = ram_poll,
	.submit = ram_submit,
	.drop = ram_drop,
	.register_memory = ram_register,
	.unregister_memory = ram_unregister,
	.stats = ram_stats,
	.close = ram_close,
};

struct kvc_tier *ram_tier_create(const struct ram_tier_options *options)
{
	struct ram_tier *ram = kvci_alloc_zero(1, sizeof(*ram));

	if (ram == NULL)
		return NULL;
	ram->base.ops = &ram_tier_ops;
	ram->base.magic = KVC_TIER_MAGIC;
	ram->options = *options;
	ram->random = options->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	ram->records = kvci_alloc_zero(RAM_RECORDS, sizeof(*ram->records));
	ram->generations = kvci_alloc_zero(options->segments, sizeof(*ram->generations));
	ram->faults.write_failure = KVC_IO;
	ram->index_rate = 64;
	if (ram->records == NULL || ram->generations == NULL) {
		ram_close(&ram->base);
		return NULL;
	}
	ram->generations[0] = ++ram->next_generation;
	return &ram->base;
}

struct ram_tier_faults *ram_tier_faults(struct kvc_tier *tier)
{
	return &ram_of(tier)->faults;
}

void ram_tier_say_health(struct kvc_tier *tier, kvc_status_t status)
{
	struct ram_tier *ram = ram_of(tier);

	ram->events.health(ram->events.context, status, "the test says so");
}

struct kvc_tier *ram_tier_reopen(struct kvc_tier *tier)
{
	struct ram_tier *ram = ram_of(tier);

	ram_cancel_all(ram);
	struct ram_tier *next = kvci_alloc(sizeof(*next));
	if (next == NULL)
		return NULL;
	*next = *ram;
	next->index_done = false;
	next->attached = false;
	memset(&next->faults, 0, sizeof(next->faults));
	next->faults.write_failure = KVC_IO;
	ram->base.magic = 0;
	kvci_free(ram);
	return &next->base;
}

uint32_t ram_tier_progress(struct kvc_tier *tier, uint32_t sections)
{
	struct ram_tier *ram = ram_of(tier);
	uint32_t told = 0;

	for (uint32_t i = 0; i < ram->under_way_count; i++) {
		struct kvc_tier_request *request = ram->under_way[i].request;
		struct ram_record *record = ram_find(ram, &request->entry.place);
		const struct kvci_record_header *header;
		const struct kvci_section_entry *entries;
		size_t length = (size_t)request->entry.place.length_4k << 12, end;

		if (request->op != KVC_TIER_READ || record == NULL || request->progress == NULL ||
		    __atomic_load_n(request->progress_wanted, __ATOMIC_RELAXED) == 0 ||
		    kvci_record_parse(record->bytes, length, &header, &entries) != KVC_OK || sections > header->section_count)
			continue;
		end = (size_t)entries[sections - 1].offset_64 * 64 + entries[sections - 1].stored_bytes;
		memcpy(request->buffer, record->bytes, end);
		memset((uint8_t *)request->buffer + end, 0xee, length - end);
		told++;
		request->progress(request, sections);
	}
	return told;
}

uint32_t ram_tier_under_way(const struct kvc_tier *tier)
{
	return ram_of((struct kvc_tier *)tier)->under_way_count;
}

uint64_t ram_tier_submits(const struct kvc_tier *tier)
{
	return ram_of((struct kvc_tier *)tier)->submits;
}

void ram_tier_index_rate(struct kvc_tier *tier, uint32_t entries)
{
	ram_of(tier)->index_rate = entries;
}

bool ram_tier_index_pending(const struct kvc_tier *tier)
{
	const struct ram_tier *ram = ram_of((struct kvc_tier *)tier);

	return !ram->index_done && ram->index_rate != 0;
}
