/* SPDX-License-Identifier: Apache-2.0
 * kvcask config: what the daemon runs with, or the commented default file. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

static const char *config_key_at(const void *list, uint32_t index)
{
	return kvci_config_option(index)->key;
}

static json_t *config_table(void)
{
	json_t *options = json_array();

	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const struct kvci_option_info *info = kvci_config_option(i);

		json_array_append_new(options, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "key", info->key, "type", info->type,
		                                         "default", info->default_, "min", info->min, "max", info->max, "choices",
		                                         info->choices, "text", info->text));
	}
	return json_pack("{s:o}", "options", options);
}

static int config_print_default(const struct tool *tool)
{
	json_t *table;

	if (!tool->json) {
		kvci_config_print(stdout, KVCI_CONFIG_YAML);
		return TOOL_OK;
	}
	table = config_table();
	if (table == NULL)
		return tool_failed_status(tool, "--default", KVC_NO_MEMORY);
	tool_print_json(table);
	json_decref(table);
	return TOOL_OK;
}

/* What "auto" became, where the answer says so. */
static uint64_t config_chosen(const json_t *answer, const char *key)
{
	static const struct {
		const char *key, *path;
	} chosen[] = {
		{ "memory.capacity", "sizes.memory_bytes" }, { "memory.slab", "sizes.slab_bytes" },
		{ "disk.capacity", "sizes.disk_bytes" },     { "disk.segment", "sizes.segment_bytes" },
		{ "disk.write_queue", "sizes.write_queue_bytes" },
	};

	for (size_t i = 0; i < sizeof(chosen) / sizeof(chosen[0]); i++)
		if (strcmp(chosen[i].key, key) == 0)
			return tool_u64(answer, chosen[i].path);
	return 0;
}

/* Those two are no options of the table: see kvcaskd --help-config. */
static bool config_is_socket(const char *key)
{
	return strcmp(key, "socket") == 0 || strcmp(key, "sockets") == 0;
}

/* wanted: this option only; NULL: all. */
static void config_print(const json_t *answer, const char *wanted)
{
	static const struct print_column columns[] = {
		{ "option", false, false }, { "value", false, false }, { "chosen", false, false }, { "default", false, false }, { "", false, true },
	};
	struct print_table *table = print_table_begin(columns, 5);
	const char *key;
	json_t *option;
	size_t i;

	json_array_foreach(tool_at(answer, "sockets"), i, option) {
		if (wanted != NULL && !config_is_socket(wanted))
			break;
		print_cell(table, "socket");
		print_cell(table, "%s", tool_text(option, "path"));
		print_cell(table, " ");
		print_cell(table, " ");
		print_cell(table, "mode %s, tenant %s", tool_text(option, "mode"), tool_text(option, "tenant"));
	}
	/* Keys have dots: no paths here. */
	json_object_foreach((json_t *)(uintptr_t)tool_at(answer, "options"), key, option) {
		const char *value = tool_text(option, "value"), *otherwise = tool_text(option, "default");
		uint64_t chosen;

		if (wanted != NULL && config_is_socket(wanted))
			break;
		chosen = strcmp(value, "auto") == 0 ? config_chosen(answer, key) : 0;

		print_cell(table, "%s", key);
		print_cell(table, "%s", value[0] != '\0' ? value : "\"\"");
		print_cell(table, "%s", chosen != 0 ? print_bytes(chosen) : "");
		print_cell(table, "%s", strcmp(value, otherwise) != 0 ? (otherwise[0] != '\0' ? otherwise : "\"\"") : "=");
		print_cell(table, "%s", tool_text(option, "text"));
	}
	print_table_end(table, stdout, "no options");
}

int tool_run_config(struct tool *tool)
{
	const char *key = tool->argument_count == 1 ? tool->arguments[0] : NULL, *nearest;
	bool known = key == NULL || config_is_socket(key);
	json_t *answer;
	int result;

	for (uint32_t i = 0; i < kvci_config_option_count() && !known; i++)
		known = strcmp(kvci_config_option(i)->key, key) == 0;
	if (!known) {
		nearest = tool_nearest(key, kvci_config_option_count(), config_key_at, NULL);
		return tool_usage_error(tool, "no option is called %s%s%s%s", key, nearest != NULL ? "; did you mean " : "",
		                        nearest != NULL ? nearest : "", nearest != NULL ? "?" : "");
	}
	if (tool_flag(tool, "default"))
		return config_print_default(tool);
	result = tool_ask(tool, "config", key != NULL && !config_is_socket(key) ? json_pack("{s:s}", "key", key) : NULL, &answer);
	if (result != TOOL_OK)
		return result;
	if (tool->json)
		tool_print_json(answer);
	else
		config_print(answer, key);
	json_decref(answer);
	return TOOL_OK;
}

int tool_run_fault(struct tool *tool)
{
	json_t *answer, *arguments = NULL;
	const char *text;
	int result;

	if (tool_flag(tool, "clear") && tool->argument_count != 0)
		return tool_usage_error(tool, "--clear and a SPECIFICATION contradict each other");
	if (tool_flag(tool, "clear") || tool->argument_count != 0)
		arguments = json_pack("{s:s}", "set", tool->argument_count != 0 ? tool->arguments[0] : "");
	result = tool_ask(tool, "fault", arguments, &answer);
	if (result != TOOL_OK)
		return result;
	text = tool_text(answer, "fault");
	if (tool->json)
		tool_print_json(answer);
	else
		print_line(stdout, "%s", text[0] != '\0' ? text : "no faults are injected");
	json_decref(answer);
	return TOOL_OK;
}
