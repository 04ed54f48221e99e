/* SPDX-License-Identifier: Apache-2.0
 * Forms that engines have bound: a short list and its file. */
#include "daemon/forms.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

enum { FORMS_MAX = 4096 };

struct forms_entry {
	uint64_t id;
	struct kvc_form form;
};
_Static_assert(sizeof(struct forms_entry) == 72, "entries of the file");

struct kvci_forms {
	int fd; /* -1: memory only */
	uint64_t end_bytes; /* of whole entries in the file; the job's while it runs */
	struct forms_entry *entries;
	uint32_t count;
	uint32_t written; /* entries that are in the file, or were tried */
	void (*run_job)(void *context, struct kvci_job *job);
	void *context;
	struct kvci_job job;
	bool writing;
	struct forms_entry entry; /* the job's */
	int failure;
};

const struct kvc_form *kvci_forms_find(const struct kvci_forms *forms, uint64_t form_id)
{
	for (uint32_t i = 0; i < forms->count; i++)
		if (forms->entries[i].id == form_id)
			return &forms->entries[i].form;
	return NULL;
}

static bool forms_add(struct kvci_forms *forms, const struct forms_entry *entry)
{
	struct forms_entry *more;

	if (forms->count == FORMS_MAX || kvci_forms_find(forms, entry->id) != NULL)
		return false;
	more = kvci_realloc(forms->entries, (forms->count + 1) * sizeof(more[0]));
	if (more == NULL)
		return false;
	forms->entries = more;
	forms->entries[forms->count++] = *entry;
	return true;
}

static void forms_read(struct kvci_forms *forms)
{
	struct forms_entry entry;
	struct kvc_form_sizes sizes;

	/* The file may be anything: no more of it is read than could be true. */
	while (forms->end_bytes < (uint64_t)4 * FORMS_MAX * sizeof(entry) &&
	       pread(forms->fd, &entry, sizeof(entry), (off_t)forms->end_bytes) == (ssize_t)sizeof(entry)) {
		forms->end_bytes += sizeof(entry);
		if (kvc_form_sizes(&entry.form, &sizes, NULL) == KVC_OK && kvc_form_id(&entry.form) == entry.id)
			forms_add(forms, &entry);
	}
}

/* ---- writing: a file system that hangs must not hold up the owner ---- */

static void forms_run(struct kvci_job *job)
{
	struct kvci_forms *forms = (struct kvci_forms *)((char *)job - offsetof(struct kvci_forms, job));

	forms->failure = 0;
	errno = 0;
	if (pwrite(forms->fd, &forms->entry, sizeof(forms->entry), (off_t)forms->end_bytes) == (ssize_t)sizeof(forms->entry))
		forms->end_bytes += sizeof(forms->entry); /* else the next one is written over what came of it */
	else
		forms->failure = errno != 0 ? errno : ENOSPC;
}

static void forms_write_next(struct kvci_forms *forms)
{
	if (forms->writing || forms->fd < 0 || forms->written == forms->count)
		return;
	forms->writing = true;
	forms->entry = forms->entries[forms->written++];
	forms->run_job(forms->context, &forms->job);
}

static void forms_done(struct kvci_job *job)
{
	struct kvci_forms *forms = (struct kvci_forms *)((char *)job - offsetof(struct kvci_forms, job));

	if (forms->failure != 0)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "forms", "a form could not be written: %s", strerror(forms->failure));
	forms->writing = false;
	forms_write_next(forms);
}

/* ---- open and close ---- */

kvc_status_t kvci_forms_open(const char *folder, void (*run_job)(void *context, struct kvci_job *job), void *context,
                             struct kvci_forms **ret_forms)
{
	struct kvci_forms *forms = kvci_alloc_zero(1, sizeof(*forms));
	char *path;

	if (forms == NULL)
		return KVC_NO_MEMORY;
	forms->fd = -1;
	forms->run_job = run_job;
	forms->context = context;
	forms->job = (struct kvci_job){.run = forms_run, .done = forms_done};
	if (folder != NULL) {
		path = kvci_asprintf("%s/forms", folder);
		if (path == NULL) {
			kvci_forms_close(forms);
			return KVC_NO_MEMORY;
		}
		forms->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (forms->fd < 0)
			kvci_log(KVCI_LOG_WARN, "forms", "%s: %s: after a restart packed blocks wait for their engine", path, strerror(errno));
		else
			forms_read(forms);
		forms->written = forms->count;
		kvci_free(path);
	}
	*ret_forms = forms;
	return KVC_OK;
}

void kvci_forms_close(struct kvci_forms *forms)
{
	if (forms == NULL)
		return;
	if (forms->fd >= 0)
		close(forms->fd);
	kvci_free(forms->entries);
	kvci_free(forms);
}

void kvci_forms_note(struct kvci_forms *forms, const struct kvc_form *form)
{
	struct forms_entry entry = {.id = kvc_form_id(form), .form = *form};

	if (forms_add(forms, &entry))
		forms_write_next(forms);
}
