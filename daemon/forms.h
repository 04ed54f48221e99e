/* SPDX-License-Identifier: Apache-2.0
 *
 * Forms: those that engines have bound in this store, by id, so that what lies packed on the disk can be laid out again before an engine has come. In DATA_DIR/forms:
 * entries of 72 bytes, an id (8) and the form that has it (struct kvc_form). An entry whose form has not that id is passed over; nothing but
 * convenience is lost with the file.
 * Threads: the owner's; the file is written by a job.
 */
#ifndef KVCI_DAEMON_FORMS_H
#define KVCI_DAEMON_FORMS_H

#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

#include "base/workers.h"

struct kvci_forms;

/* folder NULL: nothing is kept beyond this process. A file that cannot be read or written is logged, and done without. run_job: one at a time. */
kvc_status_t kvci_forms_open(const char *folder, void (*run_job)(void *context, struct kvci_job *job), void *context,
                             struct kvci_forms **ret_forms);
/* No job is under way any more. */
void kvci_forms_close(struct kvci_forms *forms);
/* Has a form that is new written, once in the life of a store: 72 bytes, not synced. */
void kvci_forms_note(struct kvci_forms *forms, const struct kvc_form *form);
/* NULL: nobody has bound it. Valid until the next note. */
const struct kvc_form *kvci_forms_find(const struct kvci_forms *forms, uint64_t form_id);

#endif
