/* SPDX-License-Identifier: Apache-2.0
 * The ledger's writing side: saves are gathered while a job runs and written as one batch by the next. The reading side is
 * ledger_read.c. */
#include "daemon/ledger_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/log.h"
#include "daemon/replace.h"

enum {
	LEDGER_ROOM_BYTES = 64 << 10, /* taken beforehand, so that an epoch can be raised on a full disk */
	LEDGER_SLACK = 4,             /* a file so many times longer than its content is written anew */
};

const char *const ledger_names[LEDGER_FILES] = {"spaces", "spaces.copy"};

uint64_t ledger_record_checksum(const struct ledger_record *record)
{
	size_t skip = offsetof(struct ledger_record, serial);

	return kvci_checksum((const char *)record + skip, record->record_bytes - skip, LEDGER_SEED);
}

uint64_t ledger_header_checksum(const struct ledger_header *header)
{
	size_t skip = offsetof(struct ledger_header, base_serial);

	return kvci_checksum((const char *)header + skip, sizeof(*header) - skip, LEDGER_SEED + header->version);
}

/* ---- the table ---- */

struct ledger_entry *ledger_entry_find(struct kvci_ledger *ledger, const uint8_t fingerprint[KVCI_SPACE_BYTES])
{
	for (uint32_t i = 0; i < ledger->entry_count; i++)
		if (memcmp(ledger->entries[i].fingerprint, fingerprint, KVCI_SPACE_BYTES) == 0)
			return &ledger->entries[i];
	return NULL;
}

kvc_status_t ledger_entry_put(struct kvci_ledger *ledger, const uint8_t fingerprint[KVCI_SPACE_BYTES],
                              const void *fields, size_t fields_bytes, uint64_t epoch, uint64_t serial)
{
	struct ledger_entry *entry = ledger_entry_find(ledger, fingerprint);

	if (entry == NULL) {
		void *copy;

		if (ledger->entry_count == ledger->entry_room) {
			uint32_t room = ledger->entry_room != 0 ? 2 * ledger->entry_room : 16;
			struct ledger_entry *entries = kvci_realloc(ledger->entries, room * sizeof(entries[0]));

			if (entries == NULL)
				return KVC_NO_MEMORY;
			ledger->entries = entries;
			ledger->entry_room = room;
		}
		copy = kvci_alloc(fields_bytes);
		if (copy == NULL)
			return KVC_NO_MEMORY;
		memcpy(copy, fields, fields_bytes);
		entry = &ledger->entries[ledger->entry_count++];
		*entry = (struct ledger_entry){.fields = copy, .fields_bytes = (uint32_t)fields_bytes};
		memcpy(entry->fingerprint, fingerprint, KVCI_SPACE_BYTES);
	}
	if (epoch > entry->epoch)
		entry->epoch = epoch;
	if (serial > entry->serial)
		entry->serial = serial;
	return KVC_OK;
}

/* ---- writing ---- */

static size_t ledger_record_bytes(size_t fields_bytes)
{
	return (sizeof(struct ledger_record) + fields_bytes + 7) & ~(size_t)7;
}

static size_t ledger_record_put(char *at, const void *fields, uint32_t fields_bytes, uint64_t epoch, uint64_t serial)
{
	struct ledger_record *record = (struct ledger_record *)at;
	size_t bytes = ledger_record_bytes(fields_bytes);

	memset(at, 0, bytes);
	record->magic = LEDGER_RECORD_MAGIC;
	record->record_bytes = (uint32_t)bytes;
	record->serial = serial;
	record->epoch = epoch;
	record->fields_bytes = fields_bytes;
	memcpy(record + 1, fields, fields_bytes);
	record->checksum = ledger_record_checksum(record);
	return bytes;
}

static kvc_status_t ledger_append(struct ledger_file *file, const char *bytes, size_t length_bytes)
{
	kvc_status_t status;

	if (file->broken || file->fd < 0)
		return KVC_IO;
	status = kvci_write_all(file->fd, bytes, length_bytes, file->end);
	if (status == KVC_OK && fdatasync(file->fd) != 0)
		status = kvc_status_from_errno(errno);
	if (status == KVC_OK) {
		file->end += length_bytes;
		return KVC_OK;
	}
	/* A full disk tears both files at the same place; two torn tails look like damage to what was promised. */
	if (ftruncate(file->fd, (off_t)file->end) != 0)
		kvci_log(KVCI_LOG_ERROR, "ledger", "a torn record cannot be cut off: %s", strerror(errno));
	file->broken = true; /* written anew before it is used again */
	return status;
}

static kvc_status_t ledger_replace(struct kvci_ledger *ledger, unsigned which, const char *image, size_t image_bytes)
{
	struct ledger_file *file = &ledger->files[which];
	int fd;
	kvc_status_t status = kvci_replace_file(ledger->folder_fd, ledger_names[which], image, image_bytes, LEDGER_ROOM_BYTES, &fd);

	if (status != KVC_OK)
		return status;
	if (file->fd >= 0)
		close(file->fd);
	*file = (struct ledger_file){.fd = fd, .end = image_bytes};
	return KVC_OK;
}

kvc_status_t ledger_rewrite(struct kvci_ledger *ledger)
{
	size_t bytes = sizeof(struct ledger_header), at = bytes;
	struct ledger_header *header;
	kvc_status_t status[LEDGER_FILES], result = KVC_OK;
	char *image;

	for (uint32_t i = 0; i < ledger->entry_count; i++)
		bytes += ledger_record_bytes(ledger->entries[i].fields_bytes);
	image = kvci_alloc(bytes);
	if (image == NULL)
		return KVC_NO_MEMORY;
	header = (struct ledger_header *)image;
	*header = (struct ledger_header){.magic = LEDGER_MAGIC, .version = LEDGER_VERSION, .base_serial = ledger->next_serial};
	header->checksum = ledger_header_checksum(header);
	for (uint32_t i = 0; i < ledger->entry_count; i++) {
		struct ledger_entry *entry = &ledger->entries[i];

		entry->serial = ledger->next_serial++;
		at += ledger_record_put(image + at, entry->fields, entry->fields_bytes, entry->epoch, entry->serial);
	}
	/* Both get the same serial numbers: each alone is whole from its base on. */
	for (unsigned i = 0; i < LEDGER_FILES; i++) {
		status[i] = ledger_replace(ledger, i, image, bytes);
		if (status[i] != KVC_OK)
			result = status[i];
	}
	kvci_free(image);
	return result;
}

static bool ledger_wants_rewrite(const struct kvci_ledger *ledger)
{
	uint64_t live_bytes = sizeof(struct ledger_header);

	for (uint32_t i = 0; i < ledger->entry_count; i++)
		live_bytes += ledger_record_bytes(ledger->entries[i].fields_bytes);
	for (unsigned i = 0; i < LEDGER_FILES; i++) {
		const struct ledger_file *file = &ledger->files[i];

		if (file->broken || file->fd < 0 ||
		    (file->end > LEDGER_ROOM_BYTES / 2 && file->end > LEDGER_SLACK * live_bytes))
			return true;
	}
	return false;
}

/* All of the batch, or an error for all of it. */
static kvc_status_t ledger_write_batch(struct kvci_ledger *ledger)
{
	size_t bytes = 0, at = 0;
	kvc_status_t status = KVC_OK, written[LEDGER_FILES];
	char *records;

	for (struct ledger_save *save = ledger->batch; save != NULL; save = save->next) {
		bytes += ledger_record_bytes(save->fields_bytes);
		status = ledger_entry_put(ledger, save->fingerprint, save->fields, save->fields_bytes, save->epoch, 0);
		if (status != KVC_OK)
			return status;
	}
	if (ledger_wants_rewrite(ledger)) {
		status = ledger_rewrite(ledger);
		if (status == KVC_OK)
			return KVC_OK;
	}
	records = kvci_alloc(bytes);
	if (records == NULL)
		return KVC_NO_MEMORY;
	for (struct ledger_save *save = ledger->batch; save != NULL; save = save->next) {
		struct ledger_entry *entry = ledger_entry_find(ledger, save->fingerprint);

		entry->serial = ledger->next_serial++;
		at += ledger_record_put(records + at, save->fields, save->fields_bytes, save->epoch, entry->serial);
	}
	/* One after the other: a crash tears one of them at most. */
	for (unsigned i = 0; i < LEDGER_FILES; i++)
		written[i] = ledger_append(&ledger->files[i], records, bytes);
	kvci_free(records);
	return written[0] == KVC_OK || written[1] == KVC_OK ? KVC_OK : status != KVC_OK ? status : written[0];
}

/* ---- the job ---- */

static void ledger_run(struct kvci_job *job)
{
	struct kvci_ledger *ledger = (struct kvci_ledger *)((char *)job - offsetof(struct kvci_ledger, job));

	ledger->batch_status = ledger_write_batch(ledger);
}

static void ledger_start(struct kvci_ledger *ledger)
{
	if (ledger->running || ledger->pending == NULL)
		return;
	ledger->running = true;
	ledger->batch = ledger->pending;
	ledger->pending = NULL;
	ledger->pending_end = &ledger->pending;
	ledger->env.run_job(ledger->env.context, &ledger->job);
}

static void ledger_save_free(struct ledger_save *save)
{
	if (save != NULL)
		kvci_free(save->fields);
	kvci_free(save);
}

static void ledger_done(struct kvci_job *job)
{
	struct kvci_ledger *ledger = (struct kvci_ledger *)((char *)job - offsetof(struct kvci_ledger, job));
	struct ledger_save *save = ledger->batch;
	kvc_status_t status = ledger->batch_status;

	if (status != KVC_OK) {
		ledger->figures.write_errors++;
		KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "ledger", "cannot write the space ledger: %s", kvc_status_text(status));
	}
	ledger->batch = NULL;
	ledger->running = false;
	ledger->figures.spaces = ledger->entry_count;
	while (save != NULL) {
		struct ledger_save *next = save->next;

		ledger->env.saved(ledger->env.context, save->space, save->epoch, status);
		ledger_save_free(save);
		save = next;
	}
	ledger_start(ledger);
}

void kvci_ledger_save(struct kvci_ledger *ledger, uint32_t space, const struct kvci_space *fields, uint64_t epoch)
{
	struct ledger_save *save = kvci_alloc_zero(1, sizeof(*save));
	size_t fields_bytes = 0;
	kvc_status_t status = KVC_NO_MEMORY;

	if (save == NULL)
		goto fail;
	save->space = space;
	save->epoch = epoch;
	status = kvci_space_fingerprint(fields, save->fingerprint);
	if (status == KVC_OK)
		status = kvci_space_serialize(fields, &save->fields, &fields_bytes);
	if (status == KVC_OK && fields_bytes > LEDGER_FIELDS_BYTES_MAX)
		status = KVC_TOO_BIG;
	if (status != KVC_OK)
		goto fail;
	save->fields_bytes = (uint32_t)fields_bytes;
	*ledger->pending_end = save;
	ledger->pending_end = &save->next;
	ledger_start(ledger);
	return;
fail:
	ledger_save_free(save);
	ledger->env.saved(ledger->env.context, space, epoch, status);
}

/* ---- open and close ---- */

kvc_status_t kvci_ledger_open(const char *folder, const struct kvci_ledger_env *env, struct kvci_ledger **ret_ledger,
                              char **ret_error)
{
	struct kvci_ledger *ledger = kvci_alloc_zero(1, sizeof(*ledger));
	kvc_status_t status = KVC_NO_MEMORY;
	char *error = NULL;

	if (ledger == NULL)
		return KVC_NO_MEMORY;
	ledger->env = *env;
	ledger->job.run = ledger_run;
	ledger->job.done = ledger_done;
	ledger->pending_end = &ledger->pending;
	ledger->next_serial = 1;
	for (unsigned i = 0; i < LEDGER_FILES; i++)
		ledger->files[i].fd = -1;
	ledger->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ledger->folder_fd < 0) {
		status = kvc_status_from_errno(errno);
		error = kvci_asprintf("data_dir %s: %s", folder, strerror(errno));
		goto fail;
	}
	status = ledger_read(ledger, &error);
	if (status != KVC_OK)
		goto fail;
	ledger->figures.spaces = ledger->entry_count;
	*ret_ledger = ledger;
	return KVC_OK;
fail:
	kvci_ledger_close(ledger);
	if (ret_error != NULL)
		*ret_error = error;
	else
		kvci_free(error);
	return status;
}

void kvci_ledger_close(struct kvci_ledger *ledger)
{
	if (ledger == NULL)
		return;
	for (unsigned i = 0; i < LEDGER_FILES; i++)
		if (ledger->files[i].fd >= 0)
			close(ledger->files[i].fd);
	if (ledger->folder_fd >= 0)
		close(ledger->folder_fd);
	for (uint32_t i = 0; i < ledger->entry_count; i++)
		kvci_free(ledger->entries[i].fields);
	while (ledger->pending != NULL) {
		struct ledger_save *save = ledger->pending;

		ledger->pending = save->next;
		ledger_save_free(save);
	}
	kvci_free(ledger->entries);
	kvci_free(ledger);
}

uint64_t kvci_ledger_first_epoch(const struct kvci_ledger *ledger)
{
	uint64_t wall_us = kvci_clock_wall_ns() / 1000;

	return wall_us > ledger->highest_epoch ? wall_us : ledger->highest_epoch + 1;
}

void kvci_ledger_figures(const struct kvci_ledger *ledger, struct kvci_ledger_figures *ret_figures)
{
	*ret_figures = ledger->figures;
}
