/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads. A record comes in pieces of KVCI_DISK_PIECE_BYTES, which the engine takes in order: so the records that are under way end one after the
 * other, not all at once, and what has come is checked while the rest is read. Header, key and seal are checked against the entry that was asked for,
 * then section by section; and on the owner thread, whether the place went stale meanwhile.
 *
 * Pieces arrive on threads of the engine, in any order. `arrivals` counts them; whoever brings enough to be worth a look, and the last one, become the
 * checker when nobody is (READ_CHECKING), or hand that over to a check thread. The checker goes on for as long as more arrive. When all have, the
 * operation is its alone, and goes to the owner. Nobody else touches an operation after having counted its piece.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

#define READ_CHECKING UINT32_C(0x80000000)

enum { READ_LOOK_PIECES = 2 };

/* ---- checking ---- */

/* Is what lies in the first available_bytes of the buffer a part of the record that was asked for? */
static kvc_status_t read_check(struct kvci_disk_op *op, uint64_t available_bytes)
{
	_Alignas(64) uint8_t head[KVCI_RECORD_HEAD_BYTES_MAX];
	const struct kvci_disk_tier *tier = op->tier;
	const struct kvc_tier_request *request = op->request;
	const struct kvc_tier_entry *entry = &request->entry;
	uint64_t length_bytes = (uint64_t)entry->place.length_4k * KVCI_DISK_PAGE_BYTES;
	const struct kvci_record_header *header = (const struct kvci_record_header *)head;
	const struct kvci_section_entry *sections;
	size_t head_bytes = sizeof(*header);
	kvc_status_t status;

	/* A private copy, made anew at each look: the buffer may be mapped by others. */
	memcpy(head, request->buffer, sizeof(*header));
	if (header->section_count > KVC_FORM_LAYERS_MAX)
		return KVC_CORRUPT;
	head_bytes += (size_t)header->section_count * sizeof(*sections);
	if (head_bytes > length_bytes)
		return KVC_CORRUPT;
	memcpy(head, request->buffer, head_bytes);
	status = kvci_record_parse(head, head_bytes, &header, &sections);
	if (status != KVC_OK)
		return status;
	if (header->record_bytes != length_bytes ||
	    header->place_seal != kvci_disk_seal(tier->uuid, entry->place.segment, entry->place.generation,
	                                         entry->place.offset_4k, header->header_checksum))
		return KVC_CORRUPT;
	status = kvci_disk_entry_check(header, entry);
	if (status == KVC_OK && (request->flags & KVC_TIER_NO_VERIFY) == 0)
		status = kvci_record_verify_some(request->buffer, header, sections, available_bytes, &op->sections_seen);
	return status;
}

/* Looks at what has come. Only the checker. */
static void read_look(struct kvci_disk_op *op)
{
	uint64_t length_bytes = (uint64_t)op->request->entry.place.length_4k * KVCI_DISK_PAGE_BYTES;
	uint64_t available_bytes = length_bytes;
	uint32_t before = op->pieces_seen;

	while (op->pieces_seen < op->piece_count &&
	       atomic_load_explicit(&op->pieces[op->pieces_seen].arrived, memory_order_acquire))
		op->pieces_seen++;
	if (op->status == KVC_OK)
		op->status = kvci_disk_status_of_errno(atomic_load_explicit(&op->error, memory_order_relaxed));
	if (op->status != KVC_OK || op->pieces_seen == before)
		return;
	if (op->pieces_seen < op->piece_count)
		available_bytes = (uint64_t)op->pieces_seen * KVCI_DISK_PIECE_BYTES;
	op->status = read_check(op, available_bytes);
}

static void read_checker(struct kvci_job *job)
{
	struct kvci_disk_op *op = (struct kvci_disk_op *)job;
	uint32_t seen = atomic_load_explicit(&op->arrivals, memory_order_acquire);

	for (;;) {
		read_look(op);
		if ((seen & ~READ_CHECKING) == op->piece_count)
			break;
		if (atomic_compare_exchange_strong_explicit(&op->arrivals, &seen, seen & ~READ_CHECKING, memory_order_acq_rel,
		                                            memory_order_acquire))
			return;
	}
	kvci_disk_op_ended(op->tier, &op->tier->ended[0], &op->job, (uint64_t)op->request->entry.place.length_4k * KVCI_DISK_PAGE_BYTES);
}

/* I/O thread: the piece's bytes are there, or will not come. */
static void read_arrived(struct kvci_disk_task *task)
{
	struct kvci_disk_piece *piece = (struct kvci_disk_piece *)task;
	struct kvci_disk_op *op = piece->op;
	struct kvci_workers *check = (op->request->flags & KVC_TIER_NO_VERIFY) == 0 ? op->tier->check : NULL;
	uint32_t pieces = op->piece_count, none = 0, before, after;

	if (task->error != 0)
		atomic_compare_exchange_strong_explicit(&op->error, &none, task->error, memory_order_relaxed, memory_order_relaxed);
	atomic_store_explicit(&piece->arrived, true, memory_order_release);
	before = atomic_load_explicit(&op->arrivals, memory_order_relaxed);
	do {
		after = before + 1;
		if ((before & READ_CHECKING) == 0 && (after == pieces || after % READ_LOOK_PIECES == 0))
			after |= READ_CHECKING;
	} while (!atomic_compare_exchange_weak_explicit(&op->arrivals, &before, after, memory_order_acq_rel, memory_order_relaxed));
	if ((before & READ_CHECKING) != 0 || (after & READ_CHECKING) == 0)
		return; /* not ours any more */
	if (check != NULL)
		kvci_workers_submit(check, &op->job);
	else
		read_checker(&op->job);
}

/* ---- begin and end ---- */

static void read_count(struct kvci_disk_tier *tier, const struct kvc_tier_request *request, kvc_status_t status)
{
	const struct kvc_place *place = &request->entry.place;

	tier->stats.reads++;
	if (status == KVC_OK)
		tier->stats.read_bytes += (uint64_t)place->length_4k * KVCI_DISK_PAGE_BYTES;
	else if (status == KVC_CORRUPT)
		tier->stats.read_corrupt++;
	else if (status != KVC_MISS && status != KVC_CANCELED)
		tier->stats.read_errors++;
	if (status == KVC_CORRUPT)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "disk", "segment %08x: the record at page %u (%u pages) is damaged", place->segment,
		                 place->offset_4k, place->length_4k);
	else if (status == KVC_IO)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "disk", "segment %08x: the record at page %u cannot be read", place->segment,
		                 place->offset_4k);
}

static void read_done(struct kvci_job *job)
{
	struct kvci_disk_op *op = (struct kvci_disk_op *)job;
	struct kvci_disk_tier *tier = op->tier;
	struct kvc_tier_request *request = op->request;
	kvc_status_t status = op->status;

	/* Reclaimed while it was read: whatever it looks like, it was not there any more. */
	if (status != KVC_CANCELED && kvci_disk_place_segment(tier, &request->entry.place) == NULL)
		status = KVC_MISS;
	if (op->piece_count != 0)
		tier->op_bytes -= (uint64_t)request->entry.place.length_4k * KVCI_DISK_PAGE_BYTES;
	if (!op->internal)
		read_count(tier, request, status);
	if (status == KVC_OK || status == KVC_IO)
		kvci_disk_health(tier, false, status, "a record cannot be read");
	kvci_disk_op_put(op);
	request->done(request, status);
}

static bool read_pieces_room(struct kvci_disk_op *op, uint32_t count)
{
	if (count <= op->piece_room)
		return true;
	kvci_free(op->pieces);
	op->piece_room = 0;
	op->pieces = kvci_alloc_zero(count, sizeof(op->pieces[0]));
	if (op->pieces == NULL)
		return false;
	op->piece_room = count;
	return true;
}

static void read_submit(struct kvci_disk_op *op, int fd, uint64_t length_bytes)
{
	struct kvci_disk_io *io = op->tier->io;
	uint64_t offset_bytes = (uint64_t)op->request->entry.place.offset_4k * KVCI_DISK_PAGE_BYTES;
	uint32_t count = op->piece_count;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t at = (uint64_t)i * KVCI_DISK_PIECE_BYTES;
		uint64_t bytes = i + 1 < count ? KVCI_DISK_PIECE_BYTES : length_bytes - at;

		op->pieces[i].op = op;
		atomic_store_explicit(&op->pieces[i].arrived, false, memory_order_relaxed);
		op->pieces[i].task = (struct kvci_disk_task){
			.fd = fd,
			.offset_bytes = offset_bytes + at,
			.left_bytes = bytes,
			.parts = { { (uint8_t *)op->request->buffer + at, bytes } },
			.part_count = 1,
			.complete = read_arrived,
			.region = -1,
		};
	}
	for (uint32_t i = 0; i < count; i++) /* with the last one the operation may be over */
		io->ops->submit(io, &op->pieces[i].task);
}

kvc_status_t kvci_disk_read(struct kvci_disk_tier *tier, struct kvc_tier_request *request, bool internal)
{
	const struct kvc_place *place = &request->entry.place;
	uint64_t length_bytes = (uint64_t)place->length_4k * KVCI_DISK_PAGE_BYTES;
	uint32_t count = length_bytes < KVCI_DISK_PIECE_BYTES ? 1 : (uint32_t)(length_bytes / KVCI_DISK_PIECE_BYTES);
	struct kvci_disk_segment *segment = kvci_disk_place_segment(tier, place);
	struct kvci_disk_op *op = kvci_disk_op_get(tier, request, internal);

	if (op == NULL)
		return KVC_BUSY;
	op->job.done = read_done;
	op->piece_count = 0;
	if (segment == NULL) {
		op->status = KVC_MISS;
		kvci_mailbox_post(tier->mailbox, &op->job);
		return KVC_OK;
	}
	if (!read_pieces_room(op, count)) {
		kvci_disk_op_put(op);
		return KVC_BUSY;
	}
	/* No mailbox: it is posted when all of it was checked, not after each look. */
	op->job.mailbox = NULL;
	op->job.run = read_checker;
	op->piece_count = count;
	op->pieces_seen = op->sections_seen = 0;
	atomic_store_explicit(&op->error, 0, memory_order_relaxed);
	atomic_store_explicit(&op->arrivals, 0, memory_order_relaxed);
	tier->op_bytes += length_bytes;
	kvci_disk_op_begun(&tier->ended[0]);
	read_submit(op, segment->fd, length_bytes);
	return KVC_OK;
}
