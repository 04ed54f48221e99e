/* SPDX-License-Identifier: Apache-2.0
 * See verify.h. */
#include "tiers/disk/verify.h"

#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tiers/disk/folder.h"
#include "tiers/disk/scan.h"

struct verify_segment {
	uint32_t number;
	int fd;
	uint64_t file_bytes;
	bool whole;
	struct kvci_disk_header header;
};

struct verify {
	const struct kvci_disk_verify_events *events;
	struct kvci_disk_verify_summary summary;
	struct verify_segment *segments;
	size_t count;
	uint64_t total_bytes, before_bytes; /* before: of the segments that are done */
	const struct verify_segment *at;
};

static void verify_damage(struct verify *verify, uint32_t segment, uint32_t offset_4k, uint32_t length_4k,
                          const struct kvc_tier_entry *entry, const char *text)
{
	struct kvci_disk_damage damage = {segment, offset_4k, length_4k, entry, text};

	if (verify->events->damage != NULL)
		verify->events->damage(verify->events->context, &damage);
}

static bool verify_record(void *context, const struct kvc_tier_entry *entry, kvc_status_t status)
{
	struct verify *verify = context;
	const struct kvc_place *place = &entry->place;

	verify->summary.checked_bytes += (uint64_t)place->length_4k * KVCI_DISK_PAGE_BYTES;
	if (status == KVC_MISS) {
		verify->summary.dropped++;
	} else if (status != KVC_OK) {
		verify->summary.damaged++;
		verify_damage(verify, place->segment, place->offset_4k, place->length_4k, entry, "a section fails its checksum");
	} else {
		verify->summary.records++;
		verify->summary.record_bytes += (uint64_t)place->length_4k * KVCI_DISK_PAGE_BYTES;
		if (verify->events->record != NULL)
			verify->events->record(verify->events->context, entry);
	}
	return true;
}

static void verify_gap(void *context, uint32_t from_4k, uint32_t to_4k, bool io)
{
	struct verify *verify = context;
	const struct verify_segment *segment = verify->at;
	uint64_t bytes = (uint64_t)(to_4k - from_4k) * KVCI_DISK_PAGE_BYTES;

	/* Behind the last record of a segment that is still open there is nothing to miss. */
	if (!io && to_4k == segment->header.length_4k && segment->header.state != KVCI_DISK_CLOSED)
		return;
	verify->summary.checked_bytes += bytes;
	if (io)
		verify->summary.unreadable_bytes += bytes;
	else
		verify->summary.unknown_bytes += bytes;
	verify_damage(verify, segment->number, from_4k, to_4k - from_4k, NULL,
	              io ? "the device cannot read these pages" :
	                   "no whole record header: damaged, or a write that never ended");
}

static void verify_progress(void *context, uint32_t at_4k)
{
	struct verify *verify = context;

	if (verify->events->progress != NULL)
		verify->events->progress(verify->events->context,
		                         verify->before_bytes + (uint64_t)at_4k * KVCI_DISK_PAGE_BYTES, verify->total_bytes);
}

static kvc_status_t verify_find(struct verify *verify, struct kvci_disk_folder *folder, char **ret_error)
{
	uint32_t *numbers = NULL;
	size_t count = 0;
	kvc_status_t status = kvci_disk_folder_list(folder, &numbers, &count);

	if (status == KVC_OK && (verify->segments = kvci_alloc_zero(count + 1, sizeof(verify->segments[0]))) == NULL)
		status = KVC_NO_MEMORY;
	for (size_t i = 0; i < count && status == KVC_OK; i++) {
		struct verify_segment *segment = &verify->segments[i];

		segment->number = numbers[i];
		status = kvci_disk_segment_open(folder, numbers[i], true, &segment->fd, &segment->file_bytes);
		if (status != KVC_OK) {
			*ret_error = kvci_asprintf("%s: segment %08x cannot be opened: %s", folder->path, numbers[i],
			                           kvc_status_text(status));
			break;
		}
		verify->count++;
		verify->total_bytes += segment->file_bytes;
		segment->whole = kvci_disk_header_load(segment->fd, &segment->header) == KVC_OK;
	}
	kvci_free(numbers);
	return status;
}

/* The uuid of most segments. */
static void verify_vote(struct verify *verify)
{
	size_t lead = 0;

	for (size_t i = 0; i < verify->count; i++) {
		const struct verify_segment *segment = &verify->segments[i];

		if (!segment->whole)
			continue;
		if (lead == 0)
			memcpy(verify->summary.uuid, segment->header.uuid, sizeof(verify->summary.uuid));
		lead = memcmp(verify->summary.uuid, segment->header.uuid, sizeof(verify->summary.uuid)) == 0 ? lead + 1 : lead - 1;
	}
}

static kvc_status_t verify_one(struct verify *verify, const struct verify_segment *segment, bool sections,
                               const atomic_bool *stop)
{
	const struct kvci_disk_header *header = &segment->header;
	uint32_t file_4k = (uint32_t)(segment->file_bytes / KVCI_DISK_PAGE_BYTES), end_4k;
	struct kvci_disk_scan scan = {
		.fd = segment->fd, .uuid = verify->summary.uuid, .segment = segment->number, .generation = header->generation,
		.from_4k = KVCI_DISK_HEADER_PAGES, .verify = sections, .stop = stop, .context = verify, .record = verify_record,
		.gap = verify_gap, .progress = verify_progress,
	};

	verify->at = segment;
	verify->summary.segments++;
	if (!segment->whole) {
		verify->summary.segments_damaged++;
		verify_damage(verify, segment->number, 0, file_4k, NULL,
		              "the segment's header is damaged; without the index its records cannot be told from older ones");
		return KVC_OK;
	}
	if (memcmp(header->uuid, verify->summary.uuid, sizeof(header->uuid)) != 0) {
		verify->summary.segments_foreign++;
		verify_damage(verify, segment->number, 0, file_4k, NULL, "the segment belongs to another store");
		return KVC_OK;
	}
	if (header->segment != segment->number) {
		verify->summary.segments_damaged++;
		verify_damage(verify, segment->number, 0, file_4k, NULL, "the file bears the name of another segment");
		return KVC_OK;
	}
	if (header->state == KVCI_DISK_FREE || header->version < KVCI_DISK_VERSION) { /* an older one is not read, and emptied at the next start */
		verify->summary.segments_spare++;
		return KVC_OK;
	}
	if (file_4k < header->length_4k) {
		verify->summary.segments_damaged++;
		verify_damage(verify, segment->number, file_4k, header->length_4k - file_4k, NULL, "the file ends early");
	}
	scan.to_4k = header->state == KVCI_DISK_CLOSED ? header->end_4k : header->length_4k;
	if (scan.to_4k > file_4k)
		scan.to_4k = file_4k;
	return kvci_disk_scan_run(&scan, &end_4k);
}

kvc_status_t kvci_disk_verify(const char *path, bool sections, const atomic_bool *stop,
                              const struct kvci_disk_verify_events *events,
                              struct kvci_disk_verify_summary *ret_summary, char **ret_error)
{
	struct verify verify = {.events = events};
	struct kvci_disk_folder folder = {.dir_fd = -1, .lock_fd = -1};
	kvc_status_t status = kvci_disk_folder_open(path, false, &folder, ret_error);

	if (status != KVC_OK)
		return status;
	status = verify_find(&verify, &folder, ret_error);
	if (status == KVC_OK)
		verify_vote(&verify);
	for (size_t i = 0; i < verify.count && status == KVC_OK; i++) {
		status = verify_one(&verify, &verify.segments[i], sections, stop);
		verify.before_bytes += verify.segments[i].file_bytes;
	}
	if (status == KVC_OK) {
		verify.at = NULL;
		verify_progress(&verify, 0);
		*ret_summary = verify.summary;
	}
	for (size_t i = 0; i < verify.count; i++)
		close(verify.segments[i].fd);
	kvci_free(verify.segments);
	kvci_disk_folder_close(&folder);
	return status;
}
