/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations; writes, flushes and drops. Reads are in read.c.
 *
 *   WRITE   header and table go from a private copy that was checked against the entry and bears the seal of the place: the buffer may
 *           be a client's, and what is indexed after a loss of the index is what stands in the headers. The sections go
 *           straight from the buffer
 *   FLUSH   by the keeper, behind everything that was ordered before
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

enum { REQUEST_OPS_MIN = 64, REQUEST_ENDED_MAX = 16, REQUEST_ENDED_BYTES_MAX = 4 << 20 };

void kvci_disk_health(struct kvci_disk_tier *tier, bool write, kvc_status_t status, const char *what)
{
	kvc_status_t before = tier->health[1] != KVC_OK ? tier->health[1] : tier->health[0];
	kvc_status_t after;
	char text[192];

	if (status != KVC_OK && status != KVC_DISK_FULL && (status != KVC_DENIED || !write))
		status = KVC_IO;
	tier->health[write] = status;
	after = tier->health[1] != KVC_OK ? tier->health[1] : tier->health[0];
	if (after == before || tier->closing || !tier->attached)
		return;
	if (after == KVC_OK)
		snprintf(text, sizeof(text), "disk %s works again", tier->folder.path);
	else
		snprintf(text, sizeof(text), "disk %s: %s: %s", tier->folder.path, what, kvc_status_text(after));
	kvci_log(after == KVC_OK ? KVCI_LOG_INFO : KVCI_LOG_WARN, "disk", "%s", text);
	tier->events.health(tier->events.context, after, text);
}

/* ---- operations ---- */

kvc_status_t kvci_disk_ops_create(struct kvci_disk_tier *tier)
{
	uint32_t count = 8 * tier->options.queue_depth; /* reads and writes as many as caps say, and the tier's own */

	if (count < REQUEST_OPS_MIN)
		count = REQUEST_OPS_MIN;
	tier->ops = kvci_alloc_zero(count, sizeof(tier->ops[0]));
	if (tier->ops == NULL)
		return KVC_NO_MEMORY;
	tier->op_count = count;
	for (uint32_t i = 0; i < count; i++) {
		tier->ops[i].tier = tier;
		tier->ops[i].next = tier->idle;
		tier->idle = &tier->ops[i];
	}
	tier->op_idle = count;
	return KVC_OK;
}

void kvci_disk_ops_destroy(struct kvci_disk_tier *tier)
{
	for (uint32_t i = 0; i < tier->op_count; i++) {
		kvci_free(tier->ops[i].head);
		kvci_free(tier->ops[i].pieces);
	}
	kvci_free(tier->ops);
	tier->ops = NULL;
	tier->op_count = 0;
}

struct kvci_disk_op *kvci_disk_op_get(struct kvci_disk_tier *tier, struct kvc_tier_request *request, bool internal)
{
	struct kvci_disk_op *op = tier->idle;

	if (op == NULL || tier->closing)
		return NULL;
	tier->idle = op->next;
	tier->op_idle--;
	op->request = request;
	op->internal = internal;
	op->status = KVC_OK;
	op->put = NULL;
	op->job = (struct kvci_job){.mailbox = tier->mailbox};
	return op;
}

void kvci_disk_op_put(struct kvci_disk_op *op)
{
	struct kvci_disk_tier *tier = op->tier;

	op->request = NULL;
	op->next = tier->idle;
	tier->idle = op;
	tier->op_idle++;
}

void kvci_disk_op_begun(struct kvci_disk_ended *ended)
{
	pthread_mutex_lock(&ended->lock);
	ended->active++;
	pthread_mutex_unlock(&ended->lock);
}

/* The owner hears of what ended in groups: waking it up for each costs more than what it then does. What is held back is never all that is
 * under way, and while the owner has more to write the device keeps all it works on. Of reads, for which somebody waits, little is held back, and only as
 * long as the device has more than it works on; of writes as many as have still to end. */
static bool request_ended_enough(const struct kvci_disk_tier *tier, const struct kvci_disk_ended *ended)
{
	if (ended->count >= REQUEST_ENDED_MAX)
		return true;
	if (ended == &tier->ended[1])
		return ended->count >= ended->active;
	return ended->bytes >= REQUEST_ENDED_BYTES_MAX || ended->active <= tier->options.queue_depth;
}

void kvci_disk_op_ended(struct kvci_disk_tier *tier, struct kvci_disk_ended *ended, struct kvci_job *job, uint64_t read_bytes)
{
	struct kvci_job *list = NULL, *next;

	job->next = NULL;
	pthread_mutex_lock(&ended->lock);
	*ended->end = job;
	ended->end = &job->next;
	ended->active--;
	ended->bytes += read_bytes;
	ended->count++;
	if (request_ended_enough(tier, ended)) {
		list = ended->first;
		ended->first = NULL;
		ended->end = &ended->first;
		ended->count = 0;
		ended->bytes = 0;
	}
	pthread_mutex_unlock(&ended->lock);
	for (; list != NULL; list = next) {
		next = list->next;
		kvci_mailbox_post(tier->mailbox, list);
	}
}

/* ---- write ---- */

/* I/O thread. */
static void request_write_moved(struct kvci_disk_task *task)
{
	struct kvci_disk_op *op = (struct kvci_disk_op *)((char *)task - offsetof(struct kvci_disk_op, task));

	op->status = kvci_disk_status_of_errno(task->error);
	if (op->status == KVC_CORRUPT)
		op->status = KVC_IO;
	kvci_disk_op_ended(op->tier, &op->tier->ended[1], &op->job, 0);
}

static void request_write_done(struct kvci_job *job)
{
	struct kvci_disk_op *op = (struct kvci_disk_op *)job;
	struct kvci_disk_tier *tier = op->tier;
	struct kvc_tier_request *request = op->request;
	struct kvci_keeper_op *put = op->put;
	struct kvc_place place = op->place;
	kvc_status_t status = op->status;
	uint64_t bytes = (uint64_t)place.length_4k * KVCI_DISK_PAGE_BYTES;

	tier->op_bytes -= bytes;
	op->put = NULL; /* settled from here on */
	if (status == KVC_OK) {
		request->entry.place = place;
		tier->segments[place.segment].records++;
		put->entry = request->entry;
		put->indexed_4k = kvci_disk_place_settled(tier, place.segment);
		kvci_keeper_order(tier, put);
	} else {
		/* The place stays unused: nothing leads to it. */
		kvci_keeper_op_destroy(put);
	}
	if (!op->internal) {
		tier->stats.writes++;
		tier->stats.write_bytes += status == KVC_OK ? bytes : 0;
		tier->stats.write_errors += status != KVC_OK && status != KVC_CANCELED;
	} else if (status == KVC_OK) {
		tier->stats.reappended_bytes += bytes;
	}
	if (status != KVC_CANCELED)
		kvci_disk_health(tier, true, status, "a record cannot be written");
	kvci_disk_op_put(op);
	kvci_disk_place_written(tier, place.segment);
	request->done(request, status);
}

/* Copies the record's head into the operation and holds it against the entry: what it names is what will be found there. */
static kvc_status_t request_head(struct kvci_disk_op *op, const struct kvc_tier_request *request, uint32_t length_4k,
                                 uint32_t *ret_pages)
{
	uint32_t section_count = ((const volatile struct kvci_record_header *)request->buffer)->section_count;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint64_t head_bytes;
	uint32_t pages;
	kvc_status_t status;

	if (section_count > KVC_FORM_LAYERS_MAX)
		return KVC_CORRUPT;
	head_bytes = sizeof(*header) + (uint64_t)section_count * sizeof(*sections);
	pages = (uint32_t)((head_bytes + KVCI_DISK_PAGE_BYTES - 1) / KVCI_DISK_PAGE_BYTES);
	if (pages > length_4k)
		return KVC_CORRUPT;
	if (pages > op->head_pages) {
		kvci_free(op->head);
		op->head_pages = 0;
		op->head = kvci_alloc_aligned(KVCI_DISK_PAGE_BYTES, (size_t)pages * KVCI_DISK_PAGE_BYTES);
		if (op->head == NULL)
			return KVC_NO_MEMORY;
		op->head_pages = pages;
	}
	memcpy(op->head, request->buffer, (size_t)pages * KVCI_DISK_PAGE_BYTES);
	status = kvci_record_parse(op->head, (size_t)pages * KVCI_DISK_PAGE_BYTES, &header, &sections);
	if (status != KVC_OK)
		return status;
	if (header->record_bytes != (uint64_t)length_4k * KVCI_DISK_PAGE_BYTES ||
	    kvci_disk_entry_check(header, &request->entry) != KVC_OK)
		return KVC_CORRUPT;
	*ret_pages = pages;
	return KVC_OK;
}

kvc_status_t kvci_disk_write(struct kvci_disk_tier *tier, struct kvc_tier_request *request, uint32_t length_4k, bool internal)
{
	struct kvci_disk_op *op;
	kvc_status_t status;
	uint32_t pages = 0;
	size_t head_bytes;

	if (atomic_load_explicit(&tier->keeper.backlog, memory_order_relaxed) >= KVCI_KEEPER_BACKLOG_MAX)
		return KVC_BUSY;
	op = kvci_disk_op_get(tier, request, internal);
	if (op == NULL)
		return KVC_BUSY;
	status = request_head(op, request, length_4k, &pages);
	if (status != KVC_OK)
		goto fail;
	status = KVC_NO_MEMORY;
	op->put = kvci_keeper_op_create(tier, KVCI_KEEPER_PUT);
	if (op->put == NULL)
		goto fail;
	op->place = (struct kvc_place){.segment = UINT32_MAX};
	status = kvci_disk_place_take(tier, length_4k, &op->place);
	if (status != KVC_OK)
		goto fail;
	((struct kvci_record_header *)op->head)->place_seal =
		kvci_disk_seal(tier->uuid, op->place.segment, op->place.generation, op->place.offset_4k,
		               ((const struct kvci_record_header *)op->head)->header_checksum);
	op->job.done = request_write_done;
	op->task = (struct kvci_disk_task){
		.fd = tier->segments[op->place.segment].fd,
		.write = true,
		.offset_bytes = (uint64_t)op->place.offset_4k * KVCI_DISK_PAGE_BYTES,
		.left_bytes = (uint64_t)op->place.length_4k * KVCI_DISK_PAGE_BYTES,
		.complete = request_write_moved,
		.region = -1,
	};
	tier->op_bytes += op->task.left_bytes;
	head_bytes = (size_t)pages * KVCI_DISK_PAGE_BYTES;
	op->task.parts[0] = (struct iovec){op->head, head_bytes};
	op->task.parts[1] = (struct iovec){(uint8_t *)request->buffer + head_bytes, op->task.left_bytes - head_bytes};
	op->task.part_count = op->task.parts[1].iov_len != 0 ? 2 : 1;
	kvci_disk_op_begun(&tier->ended[1]);
	tier->io->ops->submit(tier->io, &op->task);
	return KVC_OK;
fail:
	kvci_keeper_op_destroy(op->put);
	op->put = NULL;
	kvci_disk_op_put(op);
	if (status != KVC_BUSY && !internal)
		tier->stats.write_dropped++;
	return status;
}

/* ---- flush and drop ---- */

static void request_flush_done(struct kvci_job *job)
{
	struct kvci_keeper_op *op = (struct kvci_keeper_op *)job;
	struct kvci_disk_tier *tier = op->tier;
	struct kvc_tier_request *request = op->request;
	kvc_status_t status = op->status;

	tier->stats.flushes++;
	for (uint32_t i = 0; i < op->fd_count && status != KVC_OK; i++)
		tier->segments[op->fd_segments[i]].dirty = true;
	kvci_keeper_op_destroy(op);
	request->done(request, status);
}

kvc_status_t kvci_disk_flush(struct kvci_disk_tier *tier, struct kvc_tier_request *request)
{
	struct kvci_keeper_op *op;
	uint32_t dirty = 0;

	if (tier->closing)
		return KVC_BUSY;
	for (uint32_t i = 0; i < tier->segment_count; i++)
		dirty += tier->segments[i].dirty;
	op = kvci_keeper_op_create(tier, KVCI_KEEPER_FLUSH);
	if (op == NULL)
		return KVC_NO_MEMORY;
	op->fds = kvci_alloc(((size_t)dirty + 1) * (sizeof(op->fds[0]) + sizeof(op->fd_segments[0])));
	if (op->fds == NULL) {
		kvci_keeper_op_destroy(op);
		return KVC_NO_MEMORY;
	}
	op->fd_segments = (uint32_t *)(op->fds + dirty + 1);
	for (uint32_t i = 0; i < tier->segment_count; i++) {
		if (!tier->segments[i].dirty)
			continue;
		/* With writes under way it is dirty again at once. */
		tier->segments[i].dirty = tier->segments[i].in_flight != 0;
		op->fds[op->fd_count] = tier->segments[i].fd;
		op->fd_segments[op->fd_count++] = i;
	}
	op->request = request;
	op->job.done = request_flush_done;
	kvci_keeper_order(tier, op);
	return KVC_OK;
}

static void request_drop_done(struct kvci_job *job)
{
	struct kvci_keeper_op *op = (struct kvci_keeper_op *)job;
	struct kvci_disk_segment *segment = kvci_disk_place_segment(op->tier, &op->entry.place);

	/* MISS: it was dropped before. */
	if (op->status != KVC_MISS && segment != NULL && segment->records != 0)
		segment->records--;
	kvci_keeper_op_destroy(op);
}

kvc_status_t kvci_disk_drop(struct kvci_disk_tier *tier, const struct kvc_tier_entry *entry)
{
	struct kvci_disk_segment *segment = kvci_disk_place_segment(tier, &entry->place);
	struct kvci_keeper_op *op;

	if (segment == NULL || tier->closing)
		return segment == NULL ? KVC_OK : KVC_BUSY; /* stale: gone already */
	if (atomic_load_explicit(&tier->keeper.backlog, memory_order_relaxed) >= 16 * KVCI_KEEPER_BACKLOG_MAX)
		return KVC_BUSY;
	op = kvci_keeper_op_create(tier, KVCI_KEEPER_DROP);
	if (op == NULL)
		return KVC_NO_MEMORY;
	op->entry = *entry;
	op->fd = segment->fd;
	op->job.done = request_drop_done;
	segment->dirty = true;
	kvci_reclaim_dropped(tier, &entry->place);
	kvci_keeper_order(tier, op);
	return KVC_OK;
}
