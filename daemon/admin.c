/* SPDX-License-Identifier: Apache-2.0
 * The table of admin questions, and the way of a question: parse, start, steps, write, done. */
#include "daemon/admin_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

static const struct admin_entry admin_table[] = {
	{"help", false, admin_help, "", "the questions, with their arguments"},
	{"health", false, admin_health, "", "whether the daemon is ready, and what is wrong when it is not"},
	{"stat", false, admin_stat, "", "all counters and gauges, latencies (count, mean, p50, p90, p99), sizes, version, uptime"},
	{"spaces", false, admin_spaces, "", "the spaces with their fields, epoch, forms (each with the `profile` that codecs use, or `profile_refused`: one of another model), blocks and bytes by tier"},
	{"epochs", false, admin_epochs, "", "fingerprint and epoch of each space, and the state of the ledger"},
	{"clients", false, admin_clients, "", "the connected clients with process, session, slabs, reservations, leases"},
	{"config", false, admin_config, "`key` (text): this option only",
	 "the configuration in effect, and the sizes chosen for `auto`"},
	{"ls", false, admin_ls,
	 "`space` (index), `where` (`any`, `memory`, `disk`, `memory_only`, `disk_only`, `held`, `reserved`; default `any`), `prefix` "
	 "(hex digits), `min_hits`, `limit` (1 to 1000, default 100), `cursor` (from the answer before)",
	 "blocks, in no order; `cursor` of the answer is 0 when there are no more. `scanned` says how many were looked at"},
	{"show", false, admin_show,
	 "`key` (hex digits, the beginning of a hash), `space` (index), `content` (true: also what is in it)",
	 "the blocks whose hash begins so (at most 16). When it is one: its record header and sections; with `content`, checked, and for K "
	 "and V histograms of the exponents, least, greatest, mean, and how many are zero, NaN, infinite"},
	{"match", false, admin_match, "`space` (index), `form` (id in hex; the space's only one), `hashes` (list of hex texts, at most 8192)",
	 "for each hash in order: a hit and where, or why it is a miss; and how many leading ones hit"},
	{"drop", false, admin_drop, "`key` (hex digits that name one block), `space` (index)", "drops the block everywhere"},
	{"flush", false, admin_flush, "", "answers when everything committed so far is on the disk, or counted as dropped"},
	{"verify", true, admin_verify,
	 "`action` (`start`, `status`, `stop`; default `status`), `rate` (bytes a second, default 256 MiB; with `start`)",
	 "reads every block on disk again and checks it, at most at this rate; damaged ones are dropped, counted and named (the first 100). "
	 "`start` answers at once; ask `status` for progress"},
	{"recode", true, admin_recode,
	 "`action` (`start`, `status`, `stop`; default `status`), with `start`: `codec` (a spec), `space` (index), `key` (hex digits, the beginning of "
	 "hashes), `again` (true: also what this codec coded already, by other parameters than the space names, too; never in a space with `max_kl`)",
	 "reads blocks on the disk and writes them anew with another codec, one at a time; with loss only where the space allows just that. `start` "
	 "answers at once; ask `status` for progress"},
	{"profiles", true, admin_profiles, "",
	 "the model profiles: of what they are, what is in them, and `spaces`: those of their model and shape (`used`: codecs take just this one for it)"},
	{"profile_add", true, admin_profile_add,
	 "`path` (a full path, read by the daemon), `space` (index: refused if it is not of this space's model and shape)",
	 "checks the profile, keeps it in data_dir/profiles under its id, and uses it from then on; answers as `profiles`, with `added`. Without `path`: reads those that "
	 "came into the folder since: how many, and how many were none. `error`: why not"},
	{"profile_remove", true, admin_profile_remove, "`profile` (hex digits, the beginning of its id), `force` (true: also one that blocks on the disk may need)",
	 "forgets a profile, and removes its files from data_dir/profiles: records that need it are misses. `error`: why not"},
	{"check", true, admin_check, "",
	 "walks all of the brain's invariants, for tests: `whole`, or the first that is `broken`. Holds up everything while it walks (a second "
	 "for some million blocks)"},
	{"fault", true, admin_fault, "`set` (text; `\"\"` lifts all): see tiers/filter/README.md",
	 "the faults injected below the cache, for tests; with `set`, changes them"},
};

enum { ADMIN_TABLE_COUNT = sizeof(admin_table) / sizeof(admin_table[0]) };

/* ---- life ---- */

static void admin_free(struct kvci_admin_question *question)
{
	kvci_loop_timer_disarm(question->core->loop, &question->timer);
	if (question->state_free != NULL)
		question->state_free(question->state);
	json_decref(question->arguments);
	json_decref(question->answer);
	if (question->fd >= 0)
		close(question->fd);
	kvci_free(question->text);
	kvci_free(question->tenant);
	kvci_free(question);
}

static void admin_end(struct kvci_admin_question *question)
{
	if (!question->canceled)
		question->done(question->context, question->status, question->fd, question->bytes,
		               question->error[0] != '\0' ? question->error : NULL);
	admin_free(question);
}

void kvci_admin_cancel(struct kvci_admin_question *question)
{
	if (question == NULL)
		return;
	question->canceled = true;
	if (!question->working)
		admin_free(question);
}

static void admin_worked(struct kvci_job *job)
{
	struct kvci_admin_question *question = admin_of_job(job);

	question->working = false;
	if (question->canceled)
		admin_free(question);
	else
		question->worked(question);
}

struct kvci_admin_question *admin_of_job(struct kvci_job *job)
{
	return (struct kvci_admin_question *)((char *)job - offsetof(struct kvci_admin_question, job));
}

void admin_work(struct kvci_admin_question *question, void (*run)(struct kvci_job *job),
                void (*worked)(struct kvci_admin_question *question))
{
	question->working = true;
	question->worked = worked;
	question->job.run = run;
	question->job.done = admin_worked;
	kvci_core_run_job(question->core, &question->job);
}

static void admin_take_step(void *context)
{
	struct kvci_admin_question *question = context;

	if (question->step(question))
		return;
	if (kvci_loop_timer_arm(question->core->loop, &question->timer, kvci_loop_now_ns(question->core->loop)) != KVC_OK)
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
}

void admin_step(struct kvci_admin_question *question, bool (*step)(struct kvci_admin_question *question))
{
	question->step = step;
	question->timer.run = admin_take_step;
	question->timer.context = question;
	if (kvci_loop_timer_arm(question->core->loop, &question->timer, kvci_loop_now_ns(question->core->loop)) != KVC_OK)
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
}

/* ---- the answer ---- */

/* The answer's text on its way to the memfd. */
struct admin_writer {
	struct kvci_admin_question *question;
	size_t filled;
	char buffer[32 << 10];
};

static int admin_write_out(struct admin_writer *writer)
{
	struct kvci_admin_question *question = writer->question;
	size_t at = 0;

	while (at < writer->filled) {
		ssize_t wrote = write(question->fd, writer->buffer + at, writer->filled - at);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return -1;
		at += (size_t)wrote;
	}
	question->bytes += writer->filled;
	writer->filled = 0;
	return 0;
}

static int admin_dump_piece(const char *text, size_t bytes, void *context)
{
	struct admin_writer *writer = context;

	while (bytes > 0) {
		size_t room = sizeof(writer->buffer) - writer->filled, piece = bytes < room ? bytes : room;

		memcpy(writer->buffer + writer->filled, text, piece);
		writer->filled += piece;
		text += piece;
		bytes -= piece;
		if (writer->filled == sizeof(writer->buffer) && admin_write_out(writer) != 0)
			return -1;
	}
	return 0;
}

static void admin_write(struct kvci_job *job)
{
	struct kvci_admin_question *question = admin_of_job(job);
	struct admin_writer writer;

	writer.question = question;
	writer.filled = 0;
	question->fd = memfd_create("kvcask-answer", MFD_CLOEXEC);
	if (question->fd < 0)
		question->status = kvc_status_from_errno(errno);
	else if (json_dump_callback(question->answer, admin_dump_piece, &writer, JSON_COMPACT) != 0 || admin_write_out(&writer) != 0)
		question->status = KVC_NO_MEMORY;
	else if (lseek(question->fd, 0, SEEK_SET) != 0)
		question->status = KVC_IO;
}

void admin_finish(struct kvci_admin_question *question)
{
	admin_work(question, admin_write, admin_end);
}

void admin_fail(struct kvci_admin_question *question, kvc_status_t status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(question->error, sizeof(question->error), format, arguments);
	va_end(arguments);
	question->status = status;
	admin_end(question);
}

/* ---- the question ---- */

static void admin_parse(struct kvci_job *job)
{
	struct kvci_admin_question *question = admin_of_job(job);
	json_error_t error;

	if (question->text_bytes == 0) {
		question->arguments = json_object();
		return;
	}
	question->arguments = json_loadb(question->text, question->text_bytes, JSON_REJECT_DUPLICATES, &error);
	if (question->arguments == NULL)
		snprintf(question->error, sizeof(question->error), "the arguments are not JSON: %s", error.text);
}

static void admin_parsed(struct kvci_admin_question *question)
{
	if (question->arguments == NULL || !json_is_object(question->arguments)) {
		if (question->error[0] == '\0')
			snprintf(question->error, sizeof(question->error), "the arguments are not a JSON object");
		question->status = KVC_INVALID;
		admin_end(question);
		return;
	}
	question->answer = json_object();
	if (question->answer == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	question->entry->start(question);
}

static const struct admin_entry *admin_find(const char *name)
{
	for (unsigned i = 0; i < ADMIN_TABLE_COUNT; i++)
		if (strcmp(admin_table[i].name, name) == 0)
			return &admin_table[i];
	return NULL;
}

void kvci_admin_ask(struct kvci_core *core, const struct kvci_admin_asker *asker, const char *name, const void *arguments,
                    size_t arguments_bytes, kvci_admin_done_fn done, void *context,
                    struct kvci_admin_question **ret_question)
{
	const struct admin_entry *entry = admin_find(name);
	struct kvci_admin_question *question;

	*ret_question = NULL;
	if (entry == NULL) {
		done(context, KVC_NOT_FOUND, -1, 0, "no such question; ask \"help\"");
		return;
	}
	if (entry->operator && !asker->operator) {
		done(context, KVC_DENIED, -1, 0, "for root and the daemon's user only");
		return;
	}
	question = kvci_alloc_zero(1, sizeof(*question));
	if (question == NULL) {
		done(context, KVC_NO_MEMORY, -1, 0, "out of memory");
		return;
	}
	question->core = core;
	question->entry = entry;
	question->operator = asker->operator;
	question->fd = -1;
	question->done = done;
	question->context = context;
	question->tenant = kvci_strdup(asker->tenant);
	question->text = kvci_alloc(arguments_bytes + 1);
	if (question->tenant == NULL || question->text == NULL) {
		question->canceled = true;
		admin_free(question);
		done(context, KVC_NO_MEMORY, -1, 0, "out of memory");
		return;
	}
	memcpy(question->text, arguments_bytes > 0 ? arguments : "", arguments_bytes);
	question->text_bytes = arguments_bytes;
	*ret_question = question;
	admin_work(question, admin_parse, admin_parsed);
}

/* ---- the table for people ---- */

void admin_help(struct kvci_admin_question *question)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < ADMIN_TABLE_COUNT; i++) {
		json_t *entry = json_object();

		admin_set_text(entry, "question", admin_table[i].name);
		admin_set_bool(entry, "operator", admin_table[i].operator);
		admin_set_text(entry, "arguments", admin_table[i].arguments);
		admin_set_text(entry, "text", admin_table[i].text);
		json_array_append_new(list, entry);
	}
	json_object_set_new(question->answer, "questions", list);
	admin_finish(question);
}

void kvci_admin_print(FILE *out)
{
	fprintf(out,
	        "<!-- Made from the table in daemon/admin.c by `kvcaskd --help-admin`; do not edit. -->\n"
	        "# Admin questions\n\n"
	        "What `kvcask` asks a running daemon, and what any client can ask by `kvc_admin(client, question, arguments, ...)`: a name with a JSON\n"
	        "object as arguments; the answer is a JSON object. Sizes are bytes, times are as the member's name ends (`_ns`, `_us`, `_s`), hashes\n"
	        "and fingerprints are hex digits. A client sees the blocks of its own tenant; an *operator* (root, or the user the daemon runs as) sees\n"
	        "all, and alone may ask what is marked. A question never holds up other clients: long ones are cut into steps.\n\n"
	        "| question | arguments | answer | operator |\n|---|---|---|---|\n");
	for (unsigned i = 0; i < ADMIN_TABLE_COUNT; i++)
		fprintf(out, "| `%s` | %s | %s | %s |\n", admin_table[i].name, admin_table[i].arguments, admin_table[i].text,
		        admin_table[i].operator ? "only" : "");
}
