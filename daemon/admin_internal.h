/* SPDX-License-Identifier: Apache-2.0
 * Shared by admin.c (table, life of a question) and the files of questions: admin_state.c, admin_blocks.c, admin_content.c, verify.c. */
#ifndef KVCI_DAEMON_ADMIN_INTERNAL_H
#define KVCI_DAEMON_ADMIN_INTERNAL_H

#include <jansson.h>

#include "cache/cache.h"
#include "daemon/admin.h"
#include "daemon/core.h"

struct admin_entry {
	const char *name;
	bool operator;         /* for operators only */
	/* Answers (admin_finish, maybe later) or fails (admin_fail). */
	void (*start)(struct kvci_admin_question *question);
	const char *arguments; /* for people; "" for none */
	const char *text;
};

struct kvci_admin_question {
	struct kvci_core *core;
	const struct admin_entry *entry;
	char *tenant;
	bool operator;
	kvci_admin_done_fn done;
	void *context;
	bool canceled;
	bool working; /* a job has it: canceling waits for that */

	char *text; /* arguments, unparsed */
	size_t text_bytes;
	json_t *arguments; /* an object, maybe empty */
	json_t *answer;    /* an object */
	kvc_status_t status;
	char error[240];
	int fd;
	uint64_t bytes;

	struct kvci_job job;
	struct kvci_timer timer;
	bool (*step)(struct kvci_admin_question *question); /* true: it has finished or failed */
	void (*worked)(struct kvci_admin_question *question); /* after a job of the question's own */
	void *state;                                          /* the question's own */
	void (*state_free)(void *state);
};

/* One step a turn until it says that it is done. */
void admin_step(struct kvci_admin_question *question, bool (*step)(struct kvci_admin_question *question));
/* run() on a worker, then worked() on the owner. */
void admin_work(struct kvci_admin_question *question, void (*run)(struct kvci_job *job),
                void (*worked)(struct kvci_admin_question *question));
struct kvci_admin_question *admin_of_job(struct kvci_job *job);
/* The answer is complete. */
void admin_finish(struct kvci_admin_question *question);
void admin_fail(struct kvci_admin_question *question, kvc_status_t status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* May this question see blocks of this space? */
bool admin_sees_space(const struct kvci_admin_question *question, uint32_t space);

/* ---- JSON: absent members give the default; a wrong type fails the question (false) ---- */
bool admin_get_uint(struct kvci_admin_question *question, const char *name, uint64_t default_, uint64_t max,
                    uint64_t *ret_value);
bool admin_get_text(struct kvci_admin_question *question, const char *name, const char *default_, const char **ret_value);
bool admin_get_bool(struct kvci_admin_question *question, const char *name, bool default_, bool *ret_value);
void admin_set_uint(json_t *object, const char *name, uint64_t value);
void admin_set_text(json_t *object, const char *name, const char *value);
void admin_set_bool(json_t *object, const char *name, bool value);
void admin_set_real(json_t *object, const char *name, double value);
void admin_set_hex(json_t *object, const char *name, const void *bytes, size_t length);
/* A hash or the beginning of one, in hex digits. */
bool admin_parse_hex(const char *text, uint8_t out[KVCI_HASH_BYTES], uint32_t *ret_nibbles);
json_t *admin_block_json(const struct kvci_block_info *info, uint64_t now_ns);
json_t *admin_form_json(const struct kvc_form *form);

/* ---- the questions ---- */
void admin_help(struct kvci_admin_question *question);
void admin_stat(struct kvci_admin_question *question);
void admin_spaces(struct kvci_admin_question *question);
void admin_clients(struct kvci_admin_question *question);
void admin_config(struct kvci_admin_question *question);
void admin_epochs(struct kvci_admin_question *question);
void admin_health(struct kvci_admin_question *question);
void admin_check(struct kvci_admin_question *question);
void admin_fault(struct kvci_admin_question *question);
void admin_flush(struct kvci_admin_question *question);
void admin_ls(struct kvci_admin_question *question);
void admin_show(struct kvci_admin_question *question);
void admin_match(struct kvci_admin_question *question);
void admin_drop(struct kvci_admin_question *question);
void admin_verify(struct kvci_admin_question *question);
void admin_recode(struct kvci_admin_question *question);
void admin_profiles(struct kvci_admin_question *question);
void admin_profile_add(struct kvci_admin_question *question);
void admin_profile_remove(struct kvci_admin_question *question);

#endif
