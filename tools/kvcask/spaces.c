/* SPDX-License-Identifier: Apache-2.0
 * kvcask spaces, kvcask clients. */
#include <stdio.h>
#include <string.h>

#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

static const json_t *spaces_list(const json_t *answer, const char *name)
{
	return tool_at(answer, name);
}

static void spaces_table(const json_t *list)
{
	static const struct print_column columns[] = {
		{ "space", true, false },  { "fingerprint", false, false }, { "tenant", false, false }, { "model", false, true },
		{ "KV", false, false },    { "loss", false, false },        { "epoch", true, false },   { "blocks", true, false },
		{ "memory", true, false }, { "on disk", true, false },      { "size", true, false },    { "forms", true, false },
	};
	struct print_table *table = print_table_begin(columns, sizeof(columns) / sizeof(columns[0]));
	json_t *space;
	size_t i;

	json_array_foreach(list, i, space) {
		const char *name = tool_text(space, "model_name");

		print_cell(table, "%llu", (unsigned long long)tool_u64(space, "space"));
		print_cell(table, "%s", print_hex(tool_text(space, "fingerprint"), 12));
		print_cell(table, "%s", tool_text(space, "tenant"));
		print_cell(table, "%s", name[0] != '\0' ? name : tool_text(space, "model"));
		print_cell(table, "%s", tool_text(space, "kv_dtype"));
		print_cell(table, "%s", tool_text(space, "codec")[0] != '\0' ? tool_text(space, "codec") : "none");
		print_cell(table, "%llu", (unsigned long long)tool_u64(space, "epoch"));
		print_cell(table, "%s", print_count(tool_u64(space, "blocks")));
		print_cell(table, "%s", print_count(tool_u64(space, "memory_blocks")));
		print_cell(table, "%s", print_count(tool_u64(space, "disk_blocks")));
		print_cell(table, "%s", print_bytes(tool_u64(space, "bytes")));
		print_cell(table, "%zu", json_array_size(tool_at(space, "forms")));
	}
	print_table_end(table, stdout, "no spaces yet: no engine has connected to this store");
}

static void spaces_form_line(const json_t *form)
{
	char name[64], shard[64] = "", profile[96] = "";

	snprintf(name, sizeof(name), "  form %s", tool_text(form, "form"));
	if (tool_u64(form, "shard_count") > 1)
		snprintf(shard, sizeof(shard), ", shard %llu of %llu", (unsigned long long)tool_u64(form, "shard_index"),
		         (unsigned long long)tool_u64(form, "shard_count"));
	if (tool_text(form, "profile")[0] != '\0')
		snprintf(profile, sizeof(profile), ", profile %s%s", tool_text(form, "profile"),
		         tool_true(form, "profile_of_model") ? "" : " (that does not say of which model)");
	else if (tool_text(form, "profile_refused")[0] != '\0')
		snprintf(profile, sizeof(profile), ", profile %s not used: it is of another model", tool_text(form, "profile_refused"));
	print_pair(name, "%llu tokens a block (%llu an engine block), %llu layers, %llu heads of %llu/%llu %s, %s a block%s%s",
	           (unsigned long long)tool_u64(form, "block_tokens"), (unsigned long long)tool_u64(form, "engine_block_tokens"),
	           (unsigned long long)tool_u64(form, "layers"), (unsigned long long)tool_u64(form, "kv_heads"),
	           (unsigned long long)tool_u64(form, "head_dim_k"), (unsigned long long)tool_u64(form, "head_dim_v"),
	           tool_text(form, "dtype"), print_bytes(tool_u64(form, "record_bytes")), shard, profile);
}

/* All fields of each space. */
static void spaces_long(const json_t *list)
{
	static const char *const fields[] = { "tenant", "model_name",     "model",     "kv_dtype", "kv_quant",
		                              "rope",   "adapter",        "hash_algorithm", "hash_root", "extra",
		                              "codec" };
	json_t *space, *form;
	size_t i, j;

	json_array_foreach(list, i, space) {
		printf("%sspace %llu, epoch %llu\n", i != 0 ? "\n" : "", (unsigned long long)tool_u64(space, "space"),
		       (unsigned long long)tool_u64(space, "epoch"));
		print_pair("fingerprint", "%s", tool_text(space, "fingerprint"));
		for (size_t f = 0; f < sizeof(fields) / sizeof(fields[0]); f++)
			if (tool_text(space, fields[f])[0] != '\0')
				print_pair(fields[f], "%s", tool_text(space, fields[f]));
		print_pair("blocks", "%s: %s in memory, %s on disk, %s", print_count(tool_u64(space, "blocks")),
		           print_count(tool_u64(space, "memory_blocks")), print_count(tool_u64(space, "disk_blocks")),
		           print_bytes(tool_u64(space, "bytes")));
		json_array_foreach(tool_at(space, "forms"), j, form)
			spaces_form_line(form);
	}
	if (json_array_size(list) == 0)
		printf("no spaces yet: no engine has connected to this store\n");
}

int tool_run_spaces(struct tool *tool)
{
	json_t *answer;
	int result = tool_ask(tool, "spaces", NULL, &answer);

	if (result != TOOL_OK)
		return result;
	if (tool->json)
		tool_print_json(answer);
	else if (tool_flag(tool, "long"))
		spaces_long(spaces_list(answer, "spaces"));
	else
		spaces_table(spaces_list(answer, "spaces"));
	json_decref(answer);
	return TOOL_OK;
}

int tool_run_clients(struct tool *tool)
{
	static const struct print_column columns[] = {
		{ "client", true, false },  { "name", false, true },     { "process", true, false },  { "tenant", false, false },
		{ "session", false, false }, { "since", true, false },   { "messages", true, false }, { "slabs", true, false },
		{ "leases", true, false },  { "leased", true, false },   { "writing", true, false },  { "overdue", true, false },
	};
	struct print_table *table;
	json_t *answer, *client;
	size_t i;
	int result = tool_ask(tool, "clients", NULL, &answer);

	if (result != TOOL_OK)
		return result;
	if (tool->json) {
		tool_print_json(answer);
		json_decref(answer);
		return TOOL_OK;
	}
	table = print_table_begin(columns, sizeof(columns) / sizeof(columns[0]));
	json_array_foreach(spaces_list(answer, "clients"), i, client) {
		const char *session = tool_text(client, "session");

		print_cell(table, "%llu", (unsigned long long)tool_u64(client, "client"));
		print_cell(table, "%s", tool_text(client, "name"));
		print_cell(table, "%llu", (unsigned long long)tool_u64(client, "pid"));
		print_cell(table, "%s", tool_text(client, "tenant"));
		print_cell(table, "%s%s", session[0] != '\0' ? print_hex(session, 8) : "-",
		           tool_true(client, "session_owner") ? " owner" : "");
		print_cell(table, "%s", print_duration((double)tool_u64(client, "age_ns") / 1e9));
		print_cell(table, "%s", print_count(tool_u64(client, "messages")));
		print_cell(table, "%s", print_bytes(tool_u64(client, "slab_bytes")));
		print_cell(table, "%s", print_count(tool_u64(client, "leases")));
		print_cell(table, "%s", print_bytes(tool_u64(client, "leased_bytes")));
		print_cell(table, "%s", print_bytes(tool_u64(client, "reserved_bytes")));
		print_cell(table, "%s", print_count(tool_u64(client, "quarantined")));
	}
	print_table_end(table, stdout, "no clients");
	json_decref(answer);
	return TOOL_OK;
}
