/* SPDX-License-Identifier: Apache-2.0
 * kvcask verify: through the daemon, or on a folder whose daemon does not run. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tiers/disk/verify.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { VERIFY_NAMED_MAX = 100, VERIFY_POLL_MS = 200 };

static atomic_bool verify_interrupted;

static void verify_interrupt(int number)
{
	atomic_store(&verify_interrupted, true);
}

static void verify_catch_interrupt(void)
{
	struct sigaction action = { .sa_handler = verify_interrupt, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
}

/* ---- through the daemon ---- */

static int verify_print(const struct tool *tool, const json_t *answer)
{
	uint64_t damaged = tool_u64(answer, "damaged"), unreadable = tool_u64(answer, "unreadable");
	json_t *block;
	size_t i;

	if (tool->json) {
		tool_print_json(answer);
	} else if (tool_u64(answer, "blocks_total") == 0 && tool_u64(answer, "elapsed_ns") == 0) {
		printf("no verification has run\n");
	} else {
		printf("%s: %s blocks, %s in %s; %s damaged, %s unreadable, %s gone meanwhile\n",
		       tool_true(answer, "running")    ? "running"
		       : tool_true(answer, "complete") ? "complete"
		                                       : "stopped",
		       print_count(tool_u64(answer, "blocks_done")), print_bytes(tool_u64(answer, "bytes_done")),
		       print_duration((double)tool_u64(answer, "elapsed_ns") / 1e9), print_count(damaged), print_count(unreadable),
		       print_count(tool_u64(answer, "gone")));
		json_array_foreach(tool_at(answer, "damaged_blocks"), i, block)
			print_line(stdout, "  damaged: %s", tool_text(block, "key"));
	}
	if (damaged != 0)
		return tool_failed(tool, "%s blocks were damaged; they are dropped now", print_count(damaged));
	return unreadable != 0 ? tool_failed(tool, "%s blocks could not be read", print_count(unreadable)) : TOOL_OK;
}

static int verify_online(struct tool *tool, json_t *arguments)
{
	const struct timespec pause = { .tv_nsec = VERIFY_POLL_MS * 1000000L };
	struct print_progress progress;
	json_t *answer;
	bool stopped = false;
	int result = tool_ask(tool, "verify", arguments, &answer);

	if (result != TOOL_OK)
		return result;
	verify_catch_interrupt();
	print_progress_begin(&progress, "verify");
	while (tool_true(answer, "running")) {
		print_progress_show(&progress, tool_u64(answer, "blocks_done"), tool_u64(answer, "blocks_total"), false);
		if (!atomic_load(&verify_interrupted) || stopped)
			nanosleep(&pause, NULL);
		json_decref(answer);
		result = tool_ask(tool, "verify",
		                  json_pack("{s:s}", "action", atomic_load(&verify_interrupted) && !stopped ? "stop" : "status"), &answer);
		stopped = atomic_load(&verify_interrupted);
		if (result != TOOL_OK)
			return result;
	}
	print_progress_end(&progress);
	result = verify_print(tool, answer);
	if (result == TOOL_OK && !tool_true(answer, "complete"))
		result = tool_failed(tool, "stopped before the end");
	json_decref(answer);
	return result;
}

/* ---- on a folder ---- */

struct verify_offline {
	const struct tool *tool;
	struct print_progress progress;
	json_t *damage;
	uint64_t damage_count;
};

static void verify_offline_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct verify_offline *verify = context;

	print_progress_show(&verify->progress, done_bytes, total_bytes, true);
}

static void verify_offline_damage(void *context, const struct kvci_disk_damage *damage)
{
	struct verify_offline *verify = context;
	char hex[65] = "";

	if (verify->damage_count++ >= VERIFY_NAMED_MAX)
		return;
	for (unsigned i = 0; damage->entry != NULL && i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", damage->entry->hash[i]);
	json_array_append_new(verify->damage,
	                      json_pack("{s:I, s:I, s:I, s:s, s:s}", "segment", (json_int_t)damage->segment, "offset_bytes",
	                                (json_int_t)damage->offset_4k * 4096, "length_bytes", (json_int_t)damage->length_4k * 4096, "key", hex,
	                                "text", damage->text));
}

static void verify_offline_print(const struct verify_offline *verify, const struct kvci_disk_verify_summary *summary)
{
	json_t *one;
	size_t i;

	printf("%s records, %s, whole; %s damaged; %s dropped before\n", print_count(summary->records), print_bytes(summary->record_bytes),
	       print_count(summary->damaged), print_count(summary->dropped));
	printf("%" PRIu32 " segments, of these %" PRIu32 " spare, %" PRIu32 " damaged, %" PRIu32 " of another store\n", summary->segments,
	       summary->segments_spare, summary->segments_damaged, summary->segments_foreign);
	if (summary->unknown_bytes != 0)
		printf("%s belong to no record: damaged headers, or writes that never ended\n", print_bytes(summary->unknown_bytes));
	if (summary->unreadable_bytes != 0)
		printf("%s cannot be read: the device reports errors\n", print_bytes(summary->unreadable_bytes));
	json_array_foreach(verify->damage, i, one) {
		const char *key = tool_text(one, "key");

		print_line(stdout, "  segment %llu at %llu, %s: %s%s%s", (unsigned long long)tool_u64(one, "segment"),
		           (unsigned long long)tool_u64(one, "offset_bytes"), print_bytes(tool_u64(one, "length_bytes")), tool_text(one, "text"),
		           key[0] != '\0' ? ": " : "", key);
	}
	if (verify->damage_count > VERIFY_NAMED_MAX)
		printf("  and %s more\n", print_count(verify->damage_count - VERIFY_NAMED_MAX));
}

static json_t *verify_offline_json(const struct verify_offline *verify, const struct kvci_disk_verify_summary *summary)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "records", (json_int_t)summary->records, "record_bytes",
	                 (json_int_t)summary->record_bytes, "damaged", (json_int_t)summary->damaged, "dropped", (json_int_t)summary->dropped,
	                 "segments", (json_int_t)summary->segments, "segments_spare", (json_int_t)summary->segments_spare, "segments_damaged",
	                 (json_int_t)summary->segments_damaged, "segments_foreign", (json_int_t)summary->segments_foreign, "unknown_bytes",
	                 (json_int_t)summary->unknown_bytes, "unreadable_bytes", (json_int_t)summary->unreadable_bytes, "checked_bytes",
	                 (json_int_t)summary->checked_bytes, "damage", verify->damage);
}

static int verify_offline_run(struct tool *tool, const char *folder)
{
	struct verify_offline verify = { .tool = tool, .damage = json_array() };
	const struct kvci_disk_verify_events events = {
		.context = &verify, .progress = verify_offline_progress, .damage = verify_offline_damage,
	};
	struct kvci_disk_verify_summary summary;
	char *error = NULL;
	json_t *json;
	kvc_status_t status;
	int result = TOOL_OK;

	verify_catch_interrupt();
	print_progress_begin(&verify.progress, "verify");
	status = kvci_disk_verify(folder, true, &verify_interrupted, &events, &summary, &error);
	print_progress_end(&verify.progress);
	if (status == KVC_OK && tool->json) {
		json = verify_offline_json(&verify, &summary);
		tool_print_json(json);
		json_decref(json);
	} else if (status == KVC_OK) {
		verify_offline_print(&verify, &summary);
	}
	if (status != KVC_OK)
		result = tool_failed(tool, "%s", error != NULL ? error : kvc_status_text(status));
	else if (summary.segments == 0)
		result = tool_failed(tool, "%s holds no store: not one segment file is in it", folder);
	else if (summary.damaged != 0 || summary.segments_damaged != 0 || summary.unreadable_bytes != 0)
		result = tool_failed(tool, "damage was found; the daemon takes what is damaged as a miss");
	kvci_free(error);
	json_decref(verify.damage);
	return result;
}

int tool_run_verify(struct tool *tool)
{
	const char *folder = tool_value(tool, "dir"), *rate_text = tool_value(tool, "rate");
	json_t *answer;
	uint64_t rate = 0;
	int result;

	if ((folder != NULL) + tool_flag(tool, "status") + tool_flag(tool, "stop") > 1)
		return tool_usage_error(tool, "--dir, --status and --stop exclude each other");
	if (rate_text != NULL && (!tool_parse_bytes(rate_text, &rate) || rate == 0))
		return tool_usage_error(tool, "--rate: \"%s\" is no size (examples: 100MiB, 2GiB)", rate_text);
	if (folder != NULL)
		return verify_offline_run(tool, folder);
	if (!tool_flag(tool, "status") && !tool_flag(tool, "stop"))
		return verify_online(tool, rate != 0 ? json_pack("{s:s, s:I}", "action", "start", "rate", (json_int_t)rate)
		                                     : json_pack("{s:s}", "action", "start"));
	result = tool_ask(tool, "verify", json_pack("{s:s}", "action", tool_flag(tool, "stop") ? "stop" : "status"), &answer);
	if (result != TOOL_OK)
		return result;
	result = verify_print(tool, answer);
	json_decref(answer);
	return result;
}
