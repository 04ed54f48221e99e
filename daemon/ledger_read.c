/* SPDX-License-Identifier: Apache-2.0
 * The ledger's reading side: what either file has, joined; what neither has, found by its serial number. */
#include "daemon/ledger_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

/* What one file said. */
struct ledger_scan {
	bool missing;
	bool header_ok;
	bool damaged;      /* something in it could not be read */
	bool damaged_tail; /* and that was the last of it */
	uint64_t base_serial;
	uint64_t last_serial;
	uint64_t *serials; /* of the readable records */
	uint32_t serial_count, serial_room;
};

static kvc_status_t ledger_load(struct kvci_ledger *ledger, unsigned which, char **ret_bytes, size_t *ret_length,
                                char **ret_error)
{
	struct ledger_file *file = &ledger->files[which];
	struct stat stat;
	size_t at = 0;
	char *bytes = NULL;

	*ret_bytes = NULL;
	*ret_length = 0;
	file->fd = openat(ledger->folder_fd, ledger_names[which], O_RDWR | O_CLOEXEC);
	if (file->fd < 0 && errno == ENOENT)
		return KVC_OK;
	if (file->fd < 0 || fstat(file->fd, &stat) != 0)
		goto fail;
	if (stat.st_size > LEDGER_FILE_BYTES_MAX) {
		errno = EFBIG;
		goto fail;
	}
	bytes = kvci_alloc((size_t)stat.st_size + 8); /* realloc-aligned: records are read in place */
	if (bytes == NULL)
		return KVC_NO_MEMORY;
	while (at < (size_t)stat.st_size) {
		ssize_t got = pread(file->fd, bytes + at, (size_t)stat.st_size - at, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break; /* a bad sector: what was read so far counts, the rest is damage */
		at += (size_t)got;
	}
	file->end = at;
	*ret_bytes = bytes;
	*ret_length = at;
	return KVC_OK;
fail:
	*ret_error = kvci_asprintf("space ledger %s: %s", ledger_names[which], strerror(errno));
	return kvc_status_from_errno(errno);
}

static kvc_status_t scan_note(struct ledger_scan *scan, uint64_t serial)
{
	if (scan->serial_count == scan->serial_room) {
		uint32_t room = scan->serial_room != 0 ? 2 * scan->serial_room : 64;
		uint64_t *serials = kvci_realloc(scan->serials, room * sizeof(serials[0]));

		if (serials == NULL)
			return KVC_NO_MEMORY;
		scan->serials = serials;
		scan->serial_room = room;
	}
	scan->serials[scan->serial_count++] = serial;
	if (serial > scan->last_serial)
		scan->last_serial = serial;
	return KVC_OK;
}

/* The record at `at` when all of it is right, else NULL. */
static const struct ledger_record *scan_record(const char *bytes, size_t length, size_t at)
{
	const struct ledger_record *record = (const struct ledger_record *)(bytes + at);

	if (length - at < sizeof(*record) || record->magic != LEDGER_RECORD_MAGIC)
		return NULL;
	if (record->record_bytes < sizeof(*record) || record->record_bytes % 8 != 0 || record->record_bytes > length - at ||
	    record->fields_bytes > LEDGER_FIELDS_BYTES_MAX || record->fields_bytes > record->record_bytes - sizeof(*record))
		return NULL;
	return ledger_record_checksum(record) == record->checksum ? record : NULL;
}

static kvc_status_t scan_take(struct kvci_ledger *ledger, struct ledger_scan *scan, const struct ledger_record *record)
{
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	struct kvci_space fields = {0};
	kvc_status_t status = kvci_space_parse(record + 1, record->fields_bytes, &fields);

	if (status == KVC_OK)
		status = kvci_space_fingerprint(&fields, fingerprint);
	kvci_space_fini(&fields);
	if (status == KVC_NO_MEMORY)
		return status;
	if (status != KVC_OK) {
		scan->damaged = true;
		return KVC_OK;
	}
	if (record->epoch > ledger->highest_epoch)
		ledger->highest_epoch = record->epoch;
	status = scan_note(scan, record->serial);
	if (status != KVC_OK)
		return status;
	return ledger_entry_put(ledger, fingerprint, record + 1, record->fields_bytes, record->epoch, record->serial);
}

static kvc_status_t scan_file(struct kvci_ledger *ledger, struct ledger_scan *scan, const char *bytes, size_t length,
                              char **ret_error)
{
	const struct ledger_header *header = (const struct ledger_header *)bytes;
	size_t at = sizeof(*header);
	kvc_status_t status;

	if (bytes == NULL) {
		scan->missing = true;
		return KVC_OK;
	}
	if (length >= sizeof(*header) && header->magic == LEDGER_MAGIC && ledger_header_checksum(header) == header->checksum) {
		if (header->version != LEDGER_VERSION) {
			*ret_error = kvci_asprintf("the space ledger is of version %u, this daemon reads version %u",
			                           header->version, LEDGER_VERSION);
			return KVC_VERSION;
		}
		scan->header_ok = true;
		scan->base_serial = header->base_serial;
	} else {
		scan->damaged = true;
		scan->damaged_tail = length < sizeof(*header);
	}
	while (at < length) {
		const struct ledger_record *record = scan_record(bytes, length, at);

		scan->damaged_tail = record == NULL;
		if (record == NULL) {
			scan->damaged = true;
			at += 8; /* on to the next that is whole */
			continue;
		}
		status = scan_take(ledger, scan, record);
		if (status != KVC_OK)
			return status;
		at += record->record_bytes;
	}
	return KVC_OK;
}

static int serial_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The highest serial number in [base, last] that neither file has, 0 when none is missing; *ret_lost: how many are. */
static kvc_status_t scans_highest_missing(const struct ledger_scan *scans, uint64_t *ret_highest, uint64_t *ret_lost)
{
	uint32_t count = scans[0].serial_count + scans[1].serial_count;
	uint64_t base = 1, lost = 0, highest = 0, next;
	uint64_t *all;

	for (unsigned i = 0; i < LEDGER_FILES; i++)
		if (scans[i].header_ok && scans[i].base_serial > base)
			base = scans[i].base_serial;
	*ret_highest = *ret_lost = 0;
	if (count == 0)
		return KVC_OK;
	all = kvci_alloc(count * sizeof(all[0]));
	if (all == NULL)
		return KVC_NO_MEMORY;
	if (scans[0].serial_count > 0)
		memcpy(all, scans[0].serials, scans[0].serial_count * sizeof(all[0]));
	if (scans[1].serial_count > 0)
		memcpy(all + scans[0].serial_count, scans[1].serials, scans[1].serial_count * sizeof(all[0]));
	qsort(all, count, sizeof(all[0]), serial_compare);
	next = base;
	for (uint32_t i = 0; i < count; i++) {
		if (all[i] < next)
			continue;
		if (all[i] > next) {
			lost += all[i] - next;
			highest = all[i] - 1;
		}
		next = all[i] + 1;
	}
	kvci_free(all);
	*ret_highest = highest;
	*ret_lost = lost;
	return KVC_OK;
}

/* Leaves out every space whose newest record is older than a lost one: that may have been its epoch raise. */
static void ledger_forget(struct kvci_ledger *ledger, uint64_t lost_serial)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < ledger->entry_count; i++) {
		if (ledger->entries[i].serial > lost_serial) {
			ledger->entries[kept++] = ledger->entries[i];
			continue;
		}
		kvci_free(ledger->entries[i].fields);
		ledger->figures.unknown_spaces++;
	}
	ledger->entry_count = kept;
}

static kvc_status_t ledger_judge(struct kvci_ledger *ledger, const struct ledger_scan *scans, bool *ret_rewrite)
{
	uint64_t lost_serial, lost;
	kvc_status_t status = scans_highest_missing(scans, &lost_serial, &lost);
	uint64_t last = scans[0].last_serial > scans[1].last_serial ? scans[0].last_serial : scans[1].last_serial;

	if (status != KVC_OK)
		return status;
	ledger->next_serial = last + 1;
	for (unsigned i = 0; i < LEDGER_FILES; i++)
		if (scans[i].header_ok && scans[i].base_serial > ledger->next_serial)
			ledger->next_serial = scans[i].base_serial;
	*ret_rewrite = false;
	for (unsigned i = 0; i < LEDGER_FILES; i++) {
		if (!scans[i].damaged && !scans[i].missing && scans[i].last_serial == last)
			continue;
		*ret_rewrite = true;
		if (scans[0].missing && scans[1].missing)
			continue; /* a fresh folder */
		ledger->figures.healed_files++;
		kvci_log(KVCI_LOG_WARN, "ledger", "%s is %s; taken from its twin where that has it", ledger_names[i],
		         scans[i].missing ? "missing" : scans[i].damaged ? "damaged or torn" : "behind its twin");
	}
	/* Written one after the other, a crash tears one tail at most. Two bad tails are damage to what was promised. */
	if (scans[0].damaged_tail && scans[1].damaged_tail) {
		lost++;
		lost_serial = ledger->next_serial++;
	} else if ((scans[0].missing || scans[1].missing) && last == 0 &&
	           (scans[0].damaged || scans[1].damaged)) {
		lost++; /* one gone, nothing readable in the other */
	}
	if (lost == 0)
		return KVC_OK;
	ledger->figures.lost_records = lost;
	ledger_forget(ledger, lost_serial);
	kvci_log(KVCI_LOG_ERROR, "ledger",
	         "DAMAGED: %" PRIu64 " records of the space ledger are in neither %s nor %s; %" PRIu64
	         " spaces are unknown from now on, and every block of them on the disk is a miss",
	         lost, ledger_names[0], ledger_names[1], ledger->figures.unknown_spaces);
	return KVC_OK;
}

kvc_status_t ledger_read(struct kvci_ledger *ledger, char **ret_error)
{
	struct ledger_scan scans[LEDGER_FILES] = {{0}};
	bool rewrite = false;
	kvc_status_t status = KVC_OK;

	for (unsigned i = 0; i < LEDGER_FILES && status == KVC_OK; i++) {
		char *bytes;
		size_t length;

		status = ledger_load(ledger, i, &bytes, &length, ret_error);
		if (status == KVC_OK)
			status = scan_file(ledger, &scans[i], bytes, length, ret_error);
		kvci_free(bytes);
	}
	if (status == KVC_OK)
		status = ledger_judge(ledger, scans, &rewrite);
	for (unsigned i = 0; i < LEDGER_FILES; i++)
		kvci_free(scans[i].serials);
	if (status == KVC_OK && rewrite) {
		status = ledger_rewrite(ledger);
		if (status != KVC_OK)
			*ret_error = kvci_asprintf("cannot write the space ledger in data_dir: %s", kvc_status_text(status));
	}
	return status;
}

kvc_status_t kvci_ledger_restore(struct kvci_ledger *ledger,
                                 void (*visit)(void *context, const struct kvci_space *fields, uint64_t epoch),
                                 void *context)
{
	for (uint32_t i = 0; i < ledger->entry_count; i++) {
		struct kvci_space fields = {0};
		kvc_status_t status = kvci_space_parse(ledger->entries[i].fields, ledger->entries[i].fields_bytes, &fields);

		if (status == KVC_OK)
			visit(context, &fields, ledger->entries[i].epoch);
		kvci_space_fini(&fields);
		if (status != KVC_OK)
			return status;
	}
	return KVC_OK;
}
