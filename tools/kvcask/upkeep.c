/* SPDX-License-Identifier: Apache-2.0
 * kvcask drop, kvcask flush. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

/* Is it one block? Shards and forms of one key are one to a user. */
static bool upkeep_is_one(const json_t *answer)
{
	const json_t *blocks = tool_at(answer, "blocks"), *first = json_array_get(blocks, 0);
	json_t *block;
	size_t i;

	json_array_foreach(blocks, i, block)
		if (strcmp(tool_text(block, "key"), tool_text(first, "key")) != 0 || tool_u64(block, "space") != tool_u64(first, "space"))
			return false;
	return !tool_true(answer, "more");
}

static int upkeep_look(struct tool *tool, json_t *arguments, json_t **ret_found)
{
	kvc_status_t status;

	if (tool_open(tool) != TOOL_OK) {
		json_decref(arguments);
		return TOOL_FAILED;
	}
	status = tool_try(tool, "show", arguments, ret_found);
	if (status == KVC_NOT_FOUND)
		return tool_failed(tool, "no block's key begins with %s", tool->arguments[0]);
	return status == KVC_OK ? TOOL_OK : tool_failed_status(tool, "show", status);
}

int tool_run_drop(struct tool *tool)
{
	json_t *found = NULL, *arguments, *answer;
	uint64_t space;
	int result = tool_check_key(tool, tool->arguments[0]);

	if (result == TOOL_OK)
		result = tool_number(tool, "space", 0, UINT32_MAX, 0, &space);
	if (result != TOOL_OK)
		return result;
	arguments = json_pack("{s:s}", "key", tool->arguments[0]);
	if (tool_flag(tool, "space"))
		json_object_set_new(arguments, "space", json_integer((json_int_t)space));
	/* Looked at first: people give a few digits, and should see what they would have dropped. */
	result = upkeep_look(tool, json_incref(arguments), &found);
	if (result == TOOL_OK && !upkeep_is_one(found)) {
		result = tool_usage_error(tool, "more than one block begins with %s; give more digits, or --space:", tool->arguments[0]);
		tool_print_candidates(stderr, found);
	}
	if (result == TOOL_OK) {
		result = tool_ask(tool, "drop", json_incref(arguments), &answer);
		if (result == TOOL_OK) {
			if (tool->json)
				tool_print_json(answer);
			else
				print_line(stdout, "dropped %s of space %llu", tool_text(answer, "dropped"),
				           (unsigned long long)tool_u64(answer, "space"));
			json_decref(answer);
		}
	}
	json_decref(found);
	json_decref(arguments);
	return result;
}

int tool_run_flush(struct tool *tool)
{
	uint64_t begin_ns = kvci_clock_ns(), waiting;
	json_t *answer;
	int result = tool_ask(tool, "stat", NULL, &answer);

	if (result != TOOL_OK)
		return result;
	waiting = tool_u64(answer, "stats.write_queue_bytes");
	json_decref(answer);
	if (tool->timeout_is_default)
		tool->timeout_ns = 10 * 60 * KVCI_SECOND;
	result = tool_ask(tool, "flush", NULL, &answer);
	if (result != TOOL_OK)
		return result;
	if (tool->json)
		tool_print_json(answer);
	else
		printf("flushed in %s (%s were waiting)\n", print_duration((double)(kvci_clock_ns() - begin_ns) / 1e9), print_bytes(waiting));
	json_decref(answer);
	return TOOL_OK;
}
