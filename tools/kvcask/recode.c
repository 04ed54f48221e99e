/* SPDX-License-Identifier: Apache-2.0
 * kvcask recode: another codec for blocks on the disk. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { RECODE_POLL_MS = 100 };

static atomic_bool recode_interrupted;

static void recode_interrupt(int number)
{
	atomic_store(&recode_interrupted, true);
}

static int recode_print(const struct tool *tool, const json_t *answer)
{
	uint64_t before = tool_u64(answer, "before_bytes"), after = tool_u64(answer, "after_bytes"), refused = tool_u64(answer, "refused");

	if (tool->json) {
		tool_print_json(answer);
	} else if (tool_u64(answer, "recoded") == 0 && refused + tool_u64(answer, "busy") + tool_u64(answer, "failed") == 0) {
		printf("%s: nothing to do: %s blocks are so already\n", tool_true(answer, "complete") ? "complete" : "stopped",
		       print_count(tool_u64(answer, "already")));
	} else {
		printf("%s: %s blocks recoded in %s, %s became %s; %s were so already, %s busy, %s failed\n",
		       tool_true(answer, "complete") ? "complete" : "stopped", print_count(tool_u64(answer, "recoded")),
		       print_duration((double)tool_u64(answer, "elapsed_ns") / 1e9), print_bytes(before), print_bytes(after),
		       print_count(tool_u64(answer, "already")), print_count(tool_u64(answer, "busy")), print_count(tool_u64(answer, "failed")));
		if (refused != 0)
			printf("  %s left as they are: their space does not allow this loss, or their form is not known\n",
			       print_count(refused));
	}
	if (tool_u64(answer, "failed") != 0)
		return tool_failed(tool, "%s blocks could not be recoded", print_count(tool_u64(answer, "failed")));
	return tool_true(answer, "complete") ? TOOL_OK : tool_failed(tool, "stopped before the end");
}

int tool_run_recode(struct tool *tool)
{
	const struct timespec pause = { .tv_nsec = RECODE_POLL_MS * 1000000L };
	const char *codec = tool_value(tool, "codec"), *key = tool_value(tool, "key");
	struct sigaction action = { .sa_handler = recode_interrupt, .sa_flags = (int)SA_RESETHAND };
	struct print_progress progress;
	json_t *arguments, *answer;
	uint64_t space;
	bool stopped = false;
	int result = tool_number(tool, "space", 0, UINT32_MAX, 0, &space);

	if (result != TOOL_OK)
		return result;
	if (codec == NULL)
		return tool_usage_error(tool, "--codec SPEC is missing (raw, split, zstd, lz4, or what a space allows)");
	if (tool_flag(tool, "space") + tool_flag(tool, "key") + tool_flag(tool, "all") != 1)
		return tool_usage_error(tool, "one of --space N, --key HEX and --all");
	arguments = json_pack("{s:s, s:s}", "action", "start", "codec", codec);
	if (key != NULL)
		json_object_set_new(arguments, "key", json_string(key));
	if (tool_flag(tool, "again"))
		json_object_set_new(arguments, "again", json_true());
	if (tool_flag(tool, "space"))
		json_object_set_new(arguments, "space", json_integer((json_int_t)space));
	result = tool_ask(tool, "recode", arguments, &answer);
	if (result != TOOL_OK)
		return result;
	sigaction(SIGINT, &action, NULL);
	print_progress_begin(&progress, "recode");
	while (tool_true(answer, "running")) {
		print_progress_show(&progress, tool_u64(answer, "blocks_done"), tool_u64(answer, "blocks_total"), false);
		if (!atomic_load(&recode_interrupted) || stopped)
			nanosleep(&pause, NULL);
		json_decref(answer);
		result = tool_ask(tool, "recode",
		                  json_pack("{s:s}", "action", atomic_load(&recode_interrupted) && !stopped ? "stop" : "status"), &answer);
		stopped = atomic_load(&recode_interrupted);
		if (result != TOOL_OK)
			return result;
	}
	print_progress_end(&progress);
	result = recode_print(tool, answer);
	json_decref(answer);
	return result;
}
