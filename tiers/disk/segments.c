/* SPDX-License-Identifier: Apache-2.0
 *
 * What open finds in the folder, and how much of it is believed. For each segment its own header (generation H) stands against what
 * the index says (generation M):
 *
 *   H = M           the index is right up to where it says it is; from there on the segment is scanned
 *   H > M, no M     the index is lost or an older copy: its entries go, all of the segment is scanned
 *   H < M           the segment is an older copy, or its reuse never reached the disk: all in it is a miss
 *   no H, M         the header page is damaged: the index's generation counts (each record is checked by it anyway)
 *   no H, no M      nothing is known: the segment is spare
 *
 * A segment of another store is left alone.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

enum { SEGMENTS_GENERATION_GAP = 1024 };

struct found_segment {
	uint32_t number;
	int fd;
	uint64_t file_bytes;
	bool whole; /* the header is */
	struct kvci_disk_header header;
	uint32_t index_generation, indexed_4k;
};

struct found {
	struct kvci_disk_tier *tier;
	struct found_segment *segments;
	size_t count;
	uint64_t bytes;
	struct kvci_disk_batch *batch; /* what has to change in the index */
	bool index_new;
};

static kvc_status_t segments_find(struct found *found, char **ret_error)
{
	struct kvci_disk_tier *tier = found->tier;
	uint32_t *numbers = NULL;
	size_t count = 0;
	kvc_status_t status = kvci_disk_folder_list(&tier->folder, &numbers, &count);

	if (status != KVC_OK) {
		*ret_error = kvci_asprintf("%s: cannot list the folder: %s", tier->folder.path, kvc_status_text(status));
		return status;
	}
	found->segments = kvci_alloc_zero(count + 1, sizeof(found->segments[0]));
	if (found->segments == NULL)
		status = KVC_NO_MEMORY;
	for (size_t i = 0; i < count && status == KVC_OK; i++) {
		struct found_segment *segment = &found->segments[i];

		segment->number = numbers[i];
		status = kvci_disk_segment_open(&tier->folder, numbers[i], false, &segment->fd, &segment->file_bytes);
		if (status != KVC_OK) {
			*ret_error = kvci_asprintf("%s: cannot open segment %08x: %s", tier->folder.path, numbers[i],
			                           strerror(errno));
			break;
		}
		found->count++;
		found->bytes += segment->file_bytes;
		segment->whole = kvci_disk_header_load(segment->fd, &segment->header) == KVC_OK;
	}
	kvci_free(numbers);
	return status;
}

/* The uuid that most segments have (Boyer and Moore's vote). False: there is none. */
static bool segments_vote(const struct found *found, uint8_t ret_uuid[KVCI_DISK_UUID_BYTES])
{
	const uint8_t *leader = NULL;
	size_t lead = 0;

	for (size_t i = 0; i < found->count; i++) {
		const struct found_segment *segment = &found->segments[i];

		if (!segment->whole)
			continue;
		if (lead == 0)
			leader = segment->header.uuid;
		lead = memcmp(leader, segment->header.uuid, KVCI_DISK_UUID_BYTES) == 0 ? lead + 1 : lead - 1;
	}
	if (leader == NULL)
		return false;
	memcpy(ret_uuid, leader, KVCI_DISK_UUID_BYTES);
	return true;
}

/* A disk without room for the index: the least valuable segment makes some. */
static bool segments_make_room(struct found *found)
{
	struct found_segment *victim = NULL;

	for (size_t i = 0; i < found->count; i++) {
		struct found_segment *segment = &found->segments[i];

		if (!segment->whole)
			continue;
		if (victim == NULL || (segment->header.state == KVCI_DISK_FREE && victim->header.state != KVCI_DISK_FREE) ||
		    ((segment->header.state == KVCI_DISK_FREE) == (victim->header.state == KVCI_DISK_FREE) &&
		     segment->header.generation < victim->header.generation))
			victim = segment;
	}
	if (victim == NULL || found->count < 2)
		return false;
	kvci_log(KVCI_LOG_WARN, "disk", "the disk is full: segment %08x is taken away to make room for the index", victim->number);
	kvci_disk_segment_remove(&found->tier->folder, victim->number);
	close(victim->fd);
	found->bytes -= victim->file_bytes;
	memmove(victim, victim + 1, (size_t)(found->segments + found->count - (victim + 1)) * sizeof(*victim));
	found->count--;
	return true;
}

static kvc_status_t segments_open_index(struct found *found, char **ret_error)
{
	struct kvci_disk_tier *tier = found->tier;
	kvc_status_t status = kvci_disk_db_open(tier->db_path, &tier->db, ret_error);

	if (status == KVC_DISK_FULL && segments_make_room(found)) {
		kvci_free(*ret_error);
		*ret_error = NULL;
		status = kvci_disk_db_open(tier->db_path, &tier->db, ret_error);
	}
	return status;
}

/* Whose store is it? The segments decide; an index of another one is no index of ours. */
static kvc_status_t segments_identify(struct found *found, char **ret_error)
{
	struct kvci_disk_tier *tier = found->tier;
	uint8_t index_uuid[KVCI_DISK_UUID_BYTES];
	bool have = segments_vote(found, tier->uuid);
	bool index_has = kvci_disk_db_uuid(tier->db, index_uuid);

	if (index_has && have && memcmp(index_uuid, tier->uuid, sizeof(index_uuid)) != 0) {
		*ret_error = kvci_asprintf("%s belongs to another store", tier->db_path);
		return KVC_CORRUPT;
	}
	if (!have && index_has)
		memcpy(tier->uuid, index_uuid, sizeof(index_uuid));
	else if (!have && getrandom(tier->uuid, sizeof(tier->uuid), 0) != (ssize_t)sizeof(tier->uuid))
		return KVC_IO;
	found->index_new = !index_has;
	kvci_disk_batch_uuid(found->batch, tier->uuid);
	return KVC_OK;
}

static void segments_indexed(void *context, uint32_t number, uint32_t generation, uint32_t indexed_4k)
{
	struct found *found = context;

	if (generation > found->tier->generation_last)
		found->tier->generation_last = generation;
	for (size_t low = 0, high = found->count; low < high;) {
		size_t middle = low + (high - low) / 2;
		struct found_segment *segment = &found->segments[middle];

		if (segment->number == number) {
			segment->index_generation = generation;
			segment->indexed_4k = indexed_4k;
			return;
		}
		if (segment->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	kvci_log(KVCI_LOG_WARN, "disk", "segment %08x is gone; what it held is lost", number);
	kvci_disk_batch_delete_segment(found->batch, number);
	kvci_disk_batch_segment(found->batch, number, 0, 0);
}

/* Nothing in it is believed: it gets a generation that no place ever had, in its header before anything else. */
static void segments_make_spare(struct found *found, uint32_t number)
{
	struct kvci_disk_tier *tier = found->tier;
	struct kvci_disk_segment *segment = &tier->segments[number];
	struct kvci_disk_header header;

	segment->use = KVCI_DISK_SPARE;
	segment->generation = ++tier->generation_last;
	segment->next_4k = KVCI_DISK_HEADER_PAGES;
	kvci_disk_segment_header(tier, number, KVCI_DISK_FREE, &header);
	if (kvci_disk_header_store(segment->fd, &header) != KVC_OK)
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x: its header cannot be written", number);
	kvci_disk_batch_delete_segment(found->batch, number);
	kvci_disk_batch_segment(found->batch, number, segment->generation, KVCI_DISK_HEADER_PAGES);
}

/* A segment whose records count: what has to be looked at again? */
static void segments_make_full(struct found *found, const struct found_segment *from, uint32_t generation,
                               uint32_t indexed_4k)
{
	struct kvci_disk_segment *segment = &found->tier->segments[from->number];
	bool closed = from->whole && from->header.state == KVCI_DISK_CLOSED;
	uint32_t file_4k = (uint32_t)(from->file_bytes / KVCI_DISK_PAGE_BYTES);
	uint32_t end_4k = closed ? from->header.end_4k : segment->length_4k;

	segment->use = KVCI_DISK_FULL;
	segment->generation = generation;
	segment->scan_verify = from->index_generation == generation;
	segment->scan_from_4k = indexed_4k > KVCI_DISK_HEADER_PAGES ? indexed_4k : KVCI_DISK_HEADER_PAGES;
	segment->scan_to_4k = end_4k < file_4k ? end_4k : file_4k;
	/* Places that the index knows are not given out again, whatever the file says. */
	segment->next_4k = closed && end_4k > segment->scan_from_4k ? end_4k : segment->scan_from_4k;
	segment->close_owed = !closed;
	if (file_4k < segment->length_4k)
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x ends early: %u of %u pages", from->number, file_4k, segment->length_4k);
	if (from->index_generation != 0 && generation != from->index_generation)
		kvci_disk_batch_delete_segment(found->batch, from->number);
}

static void segments_judge(struct found *found, const struct found_segment *from)
{
	struct kvci_disk_tier *tier = found->tier;
	struct kvci_disk_segment *segment = &tier->segments[from->number];
	uint32_t header_generation = from->whole ? from->header.generation : 0;
	struct kvci_disk_header header;

	segment->fd = from->fd;
	segment->length_4k = from->whole ? from->header.length_4k : (uint32_t)(from->file_bytes / KVCI_DISK_PAGE_BYTES);
	segment->header_writes = from->whole ? from->header.writes : UINT32_MAX; /* above what a damaged one may have had */
	if (from->whole && memcmp(from->header.uuid, tier->uuid, sizeof(tier->uuid)) != 0) {
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x belongs to another store; it is left alone", from->number);
		segment->use = KVCI_DISK_FOREIGN;
		return;
	}
	if (!from->whole || from->header.segment != from->number)
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x: its header is damaged or another segment's", from->number);
	if (segment->length_4k <= KVCI_DISK_HEADER_PAGES)
		segment->length_4k = (uint32_t)(tier->options.segment_bytes / KVCI_DISK_PAGE_BYTES);
	if (from->whole && from->header.version < KVCI_DISK_VERSION) {
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x is of an older format: what it held is gone", from->number);
		segments_make_spare(found, from->number);
		return;
	}
	if ((from->whole && from->header.segment != from->number) || header_generation + from->index_generation == 0 ||
	    (from->whole && header_generation < from->index_generation)) {
		kvci_log(KVCI_LOG_WARN, "disk", "segment %08x (generation %u, index %u): nothing in it can be believed",
		         from->number, header_generation, from->index_generation);
		segments_make_spare(found, from->number);
	} else if (!from->whole) {
		segments_make_full(found, from, from->index_generation, from->indexed_4k);
		kvci_disk_segment_header(tier, from->number, KVCI_DISK_OPEN, &header);
		kvci_disk_header_store(segment->fd, &header);
	} else if (header_generation > from->index_generation) {
		segments_make_full(found, from, header_generation, 0);
	} else {
		segments_make_full(found, from, header_generation, from->indexed_4k);
	}
	if (from->whole && from->header.state == KVCI_DISK_FREE && segment->use == KVCI_DISK_FULL &&
	    segment->scan_from_4k == KVCI_DISK_HEADER_PAGES) {
		segment->use = KVCI_DISK_SPARE;
		segment->next_4k = KVCI_DISK_HEADER_PAGES;
		segment->close_owed = false;
	}
}

static kvc_status_t segments_table(struct found *found)
{
	struct kvci_disk_tier *tier = found->tier;
	uint64_t count = tier->options.capacity_bytes / tier->options.segment_bytes;

	if (found->count != 0 && found->segments[found->count - 1].number >= count)
		count = (uint64_t)found->segments[found->count - 1].number + 1;
	tier->segments = kvci_alloc_zero(count, sizeof(tier->segments[0]));
	if (tier->segments == NULL)
		return KVC_NO_MEMORY;
	tier->segment_count = (uint32_t)count;
	for (uint32_t i = 0; i < tier->segment_count; i++)
		tier->segments[i].fd = -1;
	for (size_t i = 0; i < found->count; i++) {
		const struct found_segment *segment = &found->segments[i];

		if (segment->whole && segment->header.generation > tier->generation_last &&
		    memcmp(segment->header.uuid, tier->uuid, sizeof(tier->uuid)) == 0)
			tier->generation_last = segment->header.generation;
	}
	/* A lost index may have known greater generations than the headers do now: none of them comes again. */
	if (found->index_new && found->count != 0)
		tier->generation_last += SEGMENTS_GENERATION_GAP;
	for (size_t i = 0; i < found->count; i++) {
		struct found_segment *segment = &found->segments[i];

		segments_judge(found, segment);
		segment->fd = -1; /* the table's now */
		tier->files_bytes += (uint64_t)tier->segments[segment->number].length_4k * KVCI_DISK_PAGE_BYTES;
	}
	return KVC_OK;
}

/* The capacity was lowered: spare segments go first, then the oldest. */
static void segments_shrink(struct found *found)
{
	struct kvci_disk_tier *tier = found->tier;

	while (tier->files_bytes > tier->options.capacity_bytes) {
		struct kvci_disk_segment *victim = NULL;

		for (uint32_t i = 0; i < tier->segment_count; i++) {
			struct kvci_disk_segment *segment = &tier->segments[i];

			if (segment->use != KVCI_DISK_SPARE && segment->use != KVCI_DISK_FULL)
				continue;
			if (victim == NULL || (segment->use == KVCI_DISK_SPARE && victim->use != KVCI_DISK_SPARE) ||
			    (segment->use == victim->use && segment->generation < victim->generation))
				victim = segment;
		}
		if (victim == NULL)
			return;
		kvci_disk_segment_remove(&tier->folder, (uint32_t)(victim - tier->segments));
		kvci_disk_batch_delete_segment(found->batch, (uint32_t)(victim - tier->segments));
		kvci_disk_batch_segment(found->batch, (uint32_t)(victim - tier->segments), 0, 0);
		close(victim->fd);
		tier->files_bytes -= (uint64_t)victim->length_4k * KVCI_DISK_PAGE_BYTES;
		*victim = (struct kvci_disk_segment){.fd = -1};
	}
}

/* A store in which nothing was written begins with its first segment, so that a disk that takes none says so at open. */
static kvc_status_t segments_first(struct kvci_disk_tier *tier, char **ret_error)
{
	struct kvci_disk_segment *segment = NULL;
	struct kvci_disk_header header;
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < tier->segment_count; i++) {
		struct kvci_disk_segment *one = &tier->segments[i];

		if (one->use == KVCI_DISK_FULL)
			return KVC_OK;
		if (one->use == KVCI_DISK_SPARE && (segment == NULL || segment->use == KVCI_DISK_ABSENT ||
		                                    one->generation < segment->generation))
			segment = one;
		if (one->use == KVCI_DISK_ABSENT && segment == NULL)
			segment = one;
	}
	if (segment == NULL) {
		*ret_error = kvci_asprintf("%s: no segment can be made: the capacity is used up by what is not ours",
		                           tier->folder.path);
		return KVC_DISK_FULL;
	}
	if (segment->use == KVCI_DISK_ABSENT) {
		status = kvci_disk_segment_make(&tier->folder, (uint32_t)(segment - tier->segments), tier->options.segment_bytes,
		                                kvci_disk_reserve_bytes(tier), &segment->fd);
		segment->length_4k = (uint32_t)(tier->options.segment_bytes / KVCI_DISK_PAGE_BYTES);
		segment->generation = ++tier->generation_last;
		if (status == KVC_OK)
			tier->files_bytes += tier->options.segment_bytes;
	} else {
		status = kvci_disk_segment_allocate(segment->fd, (uint64_t)segment->length_4k * KVCI_DISK_PAGE_BYTES);
	}
	if (status == KVC_OK) {
		kvci_disk_segment_header(tier, (uint32_t)(segment - tier->segments), KVCI_DISK_OPEN, &header);
		status = kvci_disk_header_store(segment->fd, &header);
	}
	if (status != KVC_OK) {
		*ret_error = kvci_asprintf("%s: cannot make a segment of %llu bytes: %s", tier->folder.path,
		                           (unsigned long long)tier->options.segment_bytes, kvc_status_text(status));
		return status;
	}
	segment->use = KVCI_DISK_HEAD;
	segment->next_4k = KVCI_DISK_HEADER_PAGES;
	tier->head = (int32_t)(segment - tier->segments);
	return KVC_OK;
}

static kvc_status_t segments_try(struct kvci_disk_tier *tier, char **ret_error)
{
	struct found found = {.tier = tier};
	kvc_status_t status = segments_find(&found, ret_error);

	if (status == KVC_OK)
		status = kvci_disk_folder_sizes(&tier->folder, found.bytes, &tier->options, ret_error);
	if (status == KVC_OK && (found.batch = kvci_disk_batch_create()) == NULL)
		status = KVC_NO_MEMORY;
	if (status == KVC_OK)
		status = segments_open_index(&found, ret_error);
	if (status == KVC_OK)
		status = segments_identify(&found, ret_error);
	if (status == KVC_OK)
		status = kvci_disk_db_segments(tier->db, segments_indexed, &found);
	if (status == KVC_OK)
		status = segments_table(&found);
	if (status == KVC_OK) {
		segments_shrink(&found);
		status = segments_first(tier, ret_error);
	}
	if (status == KVC_OK)
		status = kvci_disk_db_write(tier->db, found.batch);
	for (size_t i = 0; i < found.count; i++) {
		if (found.segments[i].fd >= 0)
			close(found.segments[i].fd);
	}
	kvci_disk_batch_destroy(found.batch);
	kvci_free(found.segments);
	return status;
}

kvc_status_t kvci_disk_segments_load(struct kvci_disk_tier *tier, char **ret_error)
{
	kvc_status_t status = segments_try(tier, ret_error);

	/* An index that is broken is thrown away: the segments hold all that it knew. */
	if (status == KVC_CORRUPT) {
		kvci_log(KVCI_LOG_WARN, "disk", "%s; it is made anew from the segments",
		         *ret_error != NULL ? *ret_error : tier->db_path);
		kvci_free(*ret_error);
		*ret_error = NULL;
		kvci_disk_db_close(tier->db);
		tier->db = NULL;
		kvci_disk_segments_close(tier);
		tier->head = -1;
		tier->files_bytes = 0;
		tier->generation_last = 0;
		status = kvci_disk_db_remove(tier->db_path);
		if (status == KVC_OK)
			status = segments_try(tier, ret_error);
	}
	if (status != KVC_OK && *ret_error == NULL)
		*ret_error = kvci_asprintf("%s: %s", tier->folder.path, kvc_status_text(status));
	return status;
}

void kvci_disk_segments_close(struct kvci_disk_tier *tier)
{
	for (uint32_t i = 0; i < tier->segment_count; i++) {
		if (tier->segments[i].fd >= 0)
			close(tier->segments[i].fd);
	}
	kvci_free(tier->segments);
	tier->segments = NULL;
	tier->segment_count = 0;
}
