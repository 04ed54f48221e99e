/* SPDX-License-Identifier: Apache-2.0
 * Questions to the daemon, and reading their answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

/* Where daemons put their socket when nobody says: kvcask.vllm's autostart, then the systemd unit. */
static void ask_default_path(char *path, size_t room, char *tried, size_t tried_room)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	static const char system_path[] = "/run/kvcask/kvcask.sock";

	if (runtime != NULL && runtime[0] == '/')
		snprintf(path, room, "%s/kvcask/kvcask.sock", runtime);
	else
		snprintf(path, room, "/tmp/kvcask-%u/kvcask.sock", (unsigned)getuid());
	snprintf(tried, tried_room, "%s, %s", path, system_path);
	if (access(path, F_OK) != 0 && access(system_path, F_OK) == 0)
		snprintf(path, room, "%s", system_path);
}

int tool_open(struct tool *tool)
{
	const struct kvc_open_options options = {
		.struct_bytes = sizeof(options),
		.name = "kvcask",
		.connect_timeout_ns = tool->timeout_ns,
	};
	char path[256], tried[600], *target;
	const char *given = tool->socket != NULL ? tool->socket : getenv("KVCASK_SOCKET");
	bool found = given == NULL || given[0] == '\0';
	kvc_status_t status;

	if (tool->client != NULL)
		return TOOL_OK;
	if (found) {
		ask_default_path(path, sizeof(path), tried, sizeof(tried));
		given = path;
	}
	if (found && access(given, F_OK) != 0)
		return tool_failed(tool, "no daemon found (looked for %s); name its socket by --socket or KVCASK_SOCKET", tried);
	if (strncmp(given, "unix:", 5) == 0)
		given += 5;
	target = kvci_asprintf("unix:%s", given);
	if (target == NULL)
		return tool_failed_status(tool, "open", KVC_NO_MEMORY);
	status = kvc_open(target, &options, &tool->client);
	kvci_free(target);
	if (status == KVC_OK)
		return TOOL_OK;
	tool->client = NULL;
	return tool_failed_status(tool, "no daemon answers", status);
}

int tool_failed_status(const struct tool *tool, const char *what, kvc_status_t status)
{
	const char *more = kvc_last_error()[0] != '\0' ? kvc_last_error() : kvc_status_text(status);

	if (status == KVC_TIMED_OUT && tool->client != NULL)
		return tool_failed(tool, "no answer within %s; --timeout gives more", print_duration((double)tool->timeout_ns / 1e9));
	/* The command has the question's name most of the time. */
	if (strcmp(what, tool->command->name) == 0)
		return tool_failed(tool, "%s", more);
	return tool_failed(tool, "%s: %s", what, more);
}

kvc_status_t tool_try(struct tool *tool, const char *question, json_t *arguments, json_t **ret_answer)
{
	char *sent = NULL, *text = NULL;
	json_t *answer;
	kvc_status_t status;

	if (arguments != NULL) {
		sent = json_dumps(arguments, JSON_COMPACT);
		json_decref(arguments);
		if (sent == NULL)
			return KVC_NO_MEMORY;
	}
	status = kvc_admin(tool->client, question, sent, tool->timeout_ns, &text);
	free(sent); /* libc's memory: jansson's */
	if (status != KVC_OK)
		return status;
	answer = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	kvc_free(text);
	if (!json_is_object(answer)) {
		json_decref(answer);
		return KVC_PROTOCOL;
	}
	*ret_answer = answer;
	return KVC_OK;
}

int tool_ask(struct tool *tool, const char *question, json_t *arguments, json_t **ret_answer)
{
	kvc_status_t status;

	if (tool_open(tool) != TOOL_OK) {
		json_decref(arguments);
		return TOOL_FAILED;
	}
	status = tool_try(tool, question, arguments, ret_answer);
	return status == KVC_OK ? TOOL_OK : tool_failed_status(tool, question, status);
}

void tool_print_json(const json_t *answer)
{
	json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
}

/* ---- members ---- */

const json_t *tool_at(const json_t *object, const char *path)
{
	while (object != NULL && *path != '\0') {
		size_t length = strcspn(path, ".");

		object = json_object_getn(object, path, length);
		path += length + (path[length] == '.');
	}
	return object;
}

uint64_t tool_u64(const json_t *object, const char *path)
{
	const json_t *found = tool_at(object, path);
	json_int_t value;

	if (json_is_real(found))
		return json_real_value(found) > 0 ? (uint64_t)json_real_value(found) : 0;
	value = json_integer_value(found);
	return value > 0 ? (uint64_t)value : 0;
}

double tool_real(const json_t *object, const char *path)
{
	return json_number_value(tool_at(object, path));
}

const char *tool_text(const json_t *object, const char *path)
{
	const char *text = json_string_value(tool_at(object, path));

	return text != NULL ? text : "";
}

bool tool_true(const json_t *object, const char *path)
{
	return json_is_true(tool_at(object, path));
}
