/* SPDX-License-Identifier: Apache-2.0
 * kvcask profile: the model profiles of a daemon, and what is in a file. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "codec/profile.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { PROFILE_BYTES_MAX = 1 << 30 };

/* "pca 5, tables, codebooks, weights". */
static const char *profile_parts(const json_t *profile, char *text, size_t room)
{
	static const char *const parts[] = { "exponents", "codebooks", "weights" };
	size_t at = 0;

	text[0] = '\0';
	if (tool_u64(profile, "pca_layers") != 0)
		at = (size_t)snprintf(text, room, "pca %llu", (unsigned long long)tool_u64(profile, "pca_layers"));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && at < room; i++)
		if (tool_true(profile, parts[i]))
			at += (size_t)snprintf(text + at, room - at, "%s%s", at != 0 ? ", " : "", parts[i]);
	return text;
}

/* "0, 3". */
static const char *profile_users(const json_t *profile, bool used, char *text, size_t room)
{
	size_t at = 0, i;
	json_t *space;

	text[0] = '\0';
	json_array_foreach((json_t *)(uintptr_t)tool_at(profile, "spaces"), i, space)
		if (tool_true(space, "used") == used && at < room)
			at += (size_t)snprintf(text + at, room - at, "%s%llu", at != 0 ? ", " : "", (unsigned long long)tool_u64(space, "space"));
	return text;
}

static void profile_print_one(const json_t *profile, bool file)
{
	char parts[64];
	json_t *space;
	size_t i;

	print_line(stdout, "profile %s", tool_text(profile, "profile"));
	print_pair("name", "%s", tool_text(profile, "name"));
	print_pair("model", "%s", tool_text(profile, "model")[0] != '\0' ? tool_text(profile, "model") : "not said: for spaces that name their codec");
	print_pair("of", "%llu layers, %llu heads of %llu/%llu, shard %llu of %llu%s", (unsigned long long)tool_u64(profile, "layers"),
	           (unsigned long long)tool_u64(profile, "kv_heads"), (unsigned long long)tool_u64(profile, "head_dim_k"),
	           (unsigned long long)tool_u64(profile, "head_dim_v"), (unsigned long long)tool_u64(profile, "shard_index"),
	           (unsigned long long)tool_u64(profile, "shard_count"), tool_true(profile, "rotated") ? ", K rotated" : ", K not rotated");
	print_pair("has", "%s, %s", print_bytes(tool_u64(profile, "bytes")), profile_parts(profile, parts, sizeof(parts)));
	print_pair("weights", "%s", tool_true(profile, "weights") ? "yes: steps follow how much errors matter" : "no: every channel of a layer counts the same");
	if (file)
		return;
	json_array_foreach((json_t *)(uintptr_t)tool_at(profile, "spaces"), i, space) {
		const char *name = tool_text(space, "model_name");

		print_pair(i == 0 ? "used by" : "", "space %llu, %s: %s blocks on disk%s", (unsigned long long)tool_u64(space, "space"),
		           name[0] != '\0' ? name : tool_text(space, "model"), print_count(tool_u64(space, "disk_blocks")),
		           tool_true(space, "used") ? "" : " (those packed before: a later profile is used now)");
	}
	if (i == 0)
		print_pair("used by", "no space yet: none is of this model and shape");
}

static void profile_print_list(const json_t *answer)
{
	static const struct print_column columns[] = {
		{ "profile", false, false }, { "name", false, true },   { "model", false, true },    { "size", true, false },
		{ "layers", true, false },   { "has", false, false },   { "used by space", false, false }, { "before by", false, false },
	};
	struct print_table *table = print_table_begin(columns, sizeof(columns) / sizeof(columns[0]));
	json_t *profile;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)tool_at(answer, "profiles"), i, profile) {
		char text[128];

		print_cell(table, "%s", tool_text(profile, "profile"));
		print_cell(table, "%s", tool_text(profile, "name"));
		print_cell(table, "%s", tool_text(profile, "model"));
		print_cell(table, "%s", print_bytes(tool_u64(profile, "bytes")));
		print_cell(table, "%llu", (unsigned long long)tool_u64(profile, "layers"));
		print_cell(table, "%s", profile_parts(profile, text, sizeof(text)));
		print_cell(table, "%s", profile_users(profile, true, text, sizeof(text)));
		print_cell(table, "%s", profile_users(profile, false, text, sizeof(text)));
	}
	print_table_end(table, stdout, "no profiles: kvcask calibrate makes one, kvcask profile add puts it in");
}

/* ---- a file ---- */

static int profile_read_file(const struct tool *tool, const char *path, struct kvc_profile **ret_profile)
{
	FILE *file = fopen(path, "rbe");
	uint8_t *bytes = NULL;
	long length = -1;
	kvc_status_t status;
	bool good;

	if (file == NULL)
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	if (fseek(file, 0, SEEK_END) == 0)
		length = ftell(file);
	good = length > 0 && length <= PROFILE_BYTES_MAX && fseek(file, 0, SEEK_SET) == 0 && (bytes = kvci_alloc((size_t)length)) != NULL &&
	       fread(bytes, 1, (size_t)length, file) == (size_t)length;
	fclose(file);
	status = good ? kvci_profile_read(bytes, (size_t)length, ret_profile) : KVC_IO;
	kvci_free(bytes);
	if (!good)
		return tool_failed(tool, "%s cannot be read", path);
	if (status == KVC_UNSUPPORTED)
		return tool_failed(tool, "%s is a profile of a later version", path);
	return status == KVC_OK ? TOOL_OK : tool_failed(tool, "%s is no profile, or damaged", path);
}

static int profile_show_file(const struct tool *tool, const char *path)
{
	struct kvc_profile *profile;
	struct kvci_profile_facts facts;
	json_t *answer;
	char id[20];
	int result = profile_read_file(tool, path, &profile);

	if (result != TOOL_OK)
		return result;
	kvci_profile_facts(profile, &facts);
	snprintf(id, sizeof(id), "%016llx", (unsigned long long)kvci_profile_id(profile));
	answer = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:b, s:b, s:b}", "profile", id, "name", profile->name, "model",
	                   profile->model, "bytes", (json_int_t)profile->file_bytes, "layers", (json_int_t)profile->layers, "kv_heads",
	                   (json_int_t)profile->kv_heads, "head_dim_k", (json_int_t)profile->head_dim_k, "head_dim_v", (json_int_t)profile->head_dim_v,
	                   "shard_index", (json_int_t)profile->shard_index, "shard_count", (json_int_t)profile->shard_count, "rotated",
	                   (int)facts.rotated, "pca_layers", (json_int_t)facts.pca_layers, "exponents", (int)facts.exponents, "codebooks",
	                   (int)facts.codebooks, "weights", (int)facts.weights);
	kvci_profile_free(profile);
	if (answer == NULL)
		return tool_failed(tool, "%s: its name or model is no UTF-8", path);
	if (tool->json)
		tool_print_json(answer);
	else
		profile_print_one(answer, true);
	json_decref(answer);
	return TOOL_OK;
}

/* ---- the actions ---- */

static int profile_show(struct tool *tool, const char *which)
{
	json_t *answer, *profile, *found = NULL;
	unsigned count = 0;
	size_t i;
	int result;

	if (strchr(which, '/') != NULL || access(which, F_OK) == 0)
		return profile_show_file(tool, which);
	result = tool_ask(tool, "profiles", NULL, &answer);
	if (result != TOOL_OK)
		return result;
	json_array_foreach(tool_at(answer, "profiles"), i, profile)
		if (strncmp(tool_text(profile, "profile"), which, strlen(which)) == 0) {
			found = profile;
			count++;
		}
	if (count != 1)
		result = tool_failed(tool, count == 0 ? "there is no profile %s, nor such a file" : "more than one profile begins with %s", which);
	else if (tool->json)
		tool_print_json(found);
	else
		profile_print_one(found, false);
	json_decref(answer);
	return result;
}

/* What the daemon says no to. */
static int profile_refused(const struct tool *tool, const json_t *answer, bool *ret_refused)
{
	*ret_refused = tool_text(answer, "error")[0] != '\0';
	return *ret_refused ? tool_failed(tool, "%s", tool_text(answer, "error")) : TOOL_OK;
}

static int profile_add(struct tool *tool, const char *path)
{
	struct kvc_profile *profile;
	json_t *arguments, *answer;
	char full[PATH_MAX];
	uint64_t space;
	bool refused;
	int result = tool_number(tool, "space", 0, UINT32_MAX, 0, &space);

	if (result == TOOL_OK)
		result = profile_read_file(tool, path, &profile);
	if (result != TOOL_OK)
		return result;
	kvci_profile_free(profile);
	if (tool->timeout_is_default)
		tool->timeout_ns = 60 * KVCI_SECOND; /* it is copied and synced */
	if (realpath(path, full) == NULL)
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	arguments = json_pack("{s:s}", "path", full);
	if (arguments != NULL && tool_flag(tool, "space"))
		json_object_set_new(arguments, "space", json_integer((json_int_t)space));
	result = arguments != NULL ? tool_ask(tool, "profile_add", arguments, &answer) : tool_failed(tool, "%s: its path is no UTF-8", path);
	if (result != TOOL_OK)
		return result;
	result = profile_refused(tool, answer, &refused);
	if (tool->json && !refused) {
		tool_print_json(answer);
	} else if (!refused) {
		printf("%s\n", tool_true(answer, "added") ? "added, and there after a restart:" : "it was here already:");
		profile_print_one(answer, false);
	}
	json_decref(answer);
	return result;
}

static int profile_remove(struct tool *tool, const char *which)
{
	json_t *arguments = json_pack("{s:s, s:b}", "profile", which, "force", (int)tool_flag(tool, "force")), *answer;
	int result = tool_ask(tool, "profile_remove", arguments, &answer);
	bool refused;

	if (result != TOOL_OK)
		return result;
	result = profile_refused(tool, answer, &refused);
	if (tool->json && !refused)
		tool_print_json(answer);
	else if (!refused)
		print_line(stdout, "removed %s (%s)", tool_text(answer, "profile"), tool_text(answer, "name"));
	json_decref(answer);
	return result;
}

static int profile_list(struct tool *tool)
{
	json_t *answer;
	int result = tool_ask(tool, "profiles", NULL, &answer);

	if (result != TOOL_OK)
		return result;
	if (tool->json)
		tool_print_json(answer);
	else
		profile_print_list(answer);
	json_decref(answer);
	return TOOL_OK;
}

int tool_run_profile(struct tool *tool)
{
	static const struct {
		const char *name;
		int (*run)(struct tool *tool, const char *what);
	} actions[] = { { "add", profile_add }, { "show", profile_show }, { "rm", profile_remove } };
	const char *action = tool->argument_count > 0 ? tool->arguments[0] : "ls";

	if (strcmp(action, "ls") == 0 && tool->argument_count <= 1)
		return profile_list(tool);
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (strcmp(action, actions[i].name) == 0 && tool->argument_count == 2)
			return actions[i].run(tool, tool->arguments[1]);
	return tool_usage_error(tool, "ls, add FILE, rm ID, show ID, or show FILE");
}
