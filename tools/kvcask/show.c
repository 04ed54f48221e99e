/* SPDX-License-Identifier: Apache-2.0
 * kvcask show: one block. */
#include <stdio.h>
#include <string.h>

#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { SHOW_BAR = 40 };

int tool_check_key(const struct tool *tool, const char *key)
{
	if (key[0] == '\0' || strlen(key) > 64 || key[strspn(key, "0123456789abcdefABCDEF")] != '\0')
		return tool_usage_error(tool, "\"%s\" is no key: 1 to 64 hex digits", key);
	return TOOL_OK;
}

/* Several blocks begin with the digits. */
void tool_print_candidates(FILE *out, const json_t *answer)
{
	json_t *block;
	size_t i;

	json_array_foreach(tool_at(answer, "blocks"), i, block)
		print_line(out, "  %s  space %llu, form %s, tokens from %llu, %s", tool_text(block, "key"),
		           (unsigned long long)tool_u64(block, "space"), tool_text(block, "form"),
		           (unsigned long long)tool_u64(block, "position_tokens"), tool_text(block, "where"));
	if (tool_true(answer, "more"))
		fprintf(out, "  ...\n");
}

static const char *show_parent(const char *hex)
{
	return hex[strspn(hex, "0")] == '\0' ? "none: it begins a prompt" : hex;
}

static void show_block(const json_t *answer, const json_t *block)
{
	uint64_t position = tool_u64(block, "position_tokens");

	printf("%s\n", tool_text(block, "key"));
	if (tool_at(answer, "header") != NULL)
		print_pair("parent", "%s", show_parent(tool_text(answer, "header.parent_hash")));
	print_pair("space", "%llu, epoch %llu, group %llu, shard %llu of %llu", (unsigned long long)tool_u64(block, "space"),
	           (unsigned long long)tool_u64(block, "epoch"), (unsigned long long)tool_u64(block, "group"),
	           (unsigned long long)tool_u64(block, "shard_index"), (unsigned long long)tool_u64(block, "shard_count"));
	print_pair("tokens", "%llu to %llu", (unsigned long long)position,
	           (unsigned long long)(position + tool_u64(block, "token_count")));
	print_pair("size", "%s%s", print_bytes(tool_u64(block, "record_bytes")),
	           tool_true(block, "lossy") ? "; what the disk holds, or gave, lost bits, as its space allows" : "");
	if (tool_at(block, "slab") != NULL)
		print_pair("in memory", "slab %llu at %llu", (unsigned long long)tool_u64(block, "slab"),
		           (unsigned long long)tool_u64(block, "slab_offset_bytes"));
	if (tool_at(block, "segment") != NULL)
		print_pair("on disk", "%s (%.2fx), segment %llu, generation %llu, at %llu", print_bytes(tool_u64(block, "disk_bytes")),
		           (double)tool_u64(block, "record_bytes") / (double)(tool_u64(block, "disk_bytes") + (tool_u64(block, "disk_bytes") == 0)),
		           (unsigned long long)tool_u64(block, "segment"), (unsigned long long)tool_u64(block, "segment_generation"),
		           (unsigned long long)tool_u64(block, "segment_offset_bytes"));
	print_pair("used", "%s times, last %s ago, stored %s ago", print_count(tool_u64(block, "hits")),
	           print_duration((double)tool_u64(block, "idle_ns") / 1e9), print_duration((double)tool_u64(block, "age_ns") / 1e9));
	print_pair("held by", "%s leases%s%s", print_count(tool_u64(block, "holds")),
	           tool_true(block, "writing") ? ", being written to disk" : "", tool_true(block, "loading") ? ", being read from disk" : "");
}

static void show_form(const json_t *form)
{
	if (form == NULL)
		return;
	print_pair("form", "%s: %llu layers, %llu heads of %llu/%llu, %s, %llu tokens an engine block", tool_text(form, "form"),
	           (unsigned long long)tool_u64(form, "layers"), (unsigned long long)tool_u64(form, "kv_heads"),
	           (unsigned long long)tool_u64(form, "head_dim_k"), (unsigned long long)tool_u64(form, "head_dim_v"),
	           tool_text(form, "dtype"), (unsigned long long)tool_u64(form, "engine_block_tokens"));
}

static void show_sections(const json_t *answer, bool all)
{
	static const struct print_column columns[] = {
		{ "  section", true, false }, { "offset", true, false }, { "raw", true, false }, { "stored", true, false },
		{ "codec", false, false },    { "ratio", true, false },  { "checksum", false, false },
	};
	const json_t *sections = tool_at(answer, "sections");
	uint64_t raw = 0, stored = 0;
	struct print_table *table;
	json_t *section;
	size_t i;

	if (sections == NULL)
		return;
	json_array_foreach(sections, i, section) {
		raw += tool_u64(section, "raw_bytes");
		stored += tool_u64(section, "stored_bytes");
	}
	print_pair("sections", "%zu of together %s, stored as %s (%s, %.2fx)%s%s", json_array_size(sections), print_bytes(raw), print_bytes(stored),
	           tool_text(json_array_get(sections, 0), "codec"), stored != 0 ? (double)raw / (double)stored : 1.0,
	           tool_true(answer, "header.lossy") ? ", lossy" : "", tool_at(answer, "header.profile") != NULL ? ", by a profile" : "");
	if (tool_at(answer, "header.scores_bytes") != NULL)
		print_pair("scores", "%s, of its tokens' worth", print_bytes(tool_u64(answer, "header.scores_bytes")));
	if (tool_at(answer, "header.profile") != NULL)
		print_pair("profile", "%s", tool_text(answer, "header.profile"));
	if (!all)
		return;
	table = print_table_begin(columns, 7);
	json_array_foreach(sections, i, section) {
		print_cell(table, "%llu", (unsigned long long)tool_u64(section, "section"));
		print_cell(table, "%llu", (unsigned long long)tool_u64(section, "offset_bytes"));
		print_cell(table, "%s", print_bytes(tool_u64(section, "raw_bytes")));
		print_cell(table, "%s", print_bytes(tool_u64(section, "stored_bytes")));
		print_cell(table, "%s", tool_text(section, "codec"));
		if (tool_u64(section, "stored_bytes") != 0)
			print_cell(table, "%.2f", tool_real(section, "ratio"));
		else
			print_cell(table, "%s", "above"); /* in its unit's first section */
		print_cell(table, "%s", tool_text(section, "raw_checksum"));
	}
	print_table_end(table, stdout, NULL);
}

/* One line a bin, of those that hold at least a thousandth. */
static void show_histogram(const char *name, const json_t *part)
{
	const json_t *bins = tool_at(part, "exponents");
	bool exponents = bins != NULL;
	uint64_t elements = tool_u64(part, "elements"), most = 1;
	json_t *bin;
	size_t i;

	if (!exponents)
		bins = tool_at(part, "values");
	printf("\n%s: %s elements from %.4g to %.4g, mean %.4g, root mean square %.4g; %s zero, %s NaN, %s infinite\n", name,
	       print_count(elements), tool_real(part, "least"), tool_real(part, "greatest"), tool_real(part, "mean"), tool_real(part, "rms"),
	       print_count(tool_u64(part, "zeros")), print_count(tool_u64(part, "nans")), print_count(tool_u64(part, "infinities")));
	json_array_foreach(bins, i, bin)
		if (tool_u64(bin, "count") > most)
			most = tool_u64(bin, "count");
	json_array_foreach(bins, i, bin) {
		uint64_t count = tool_u64(bin, "count");
		int length = (int)((double)count / (double)most * SHOW_BAR + 0.5);

		if (count * 1000 < elements)
			continue;
		printf("  %s%-5lld %8s %.*s\n", exponents ? "2^" : "", (long long)json_integer_value(tool_at(bin, exponents ? "exponent" : "value")),
		       print_percent(count, elements), length > 0 ? length : 1, "########################################");
	}
}

static int show_answer(const struct tool *tool, const json_t *answer)
{
	const json_t *blocks = tool_at(answer, "blocks");
	const char *checked = tool_text(answer, "checked");

	if (json_array_size(blocks) != 1) {
		printf("%zu%s blocks begin with %s:\n", json_array_size(blocks), tool_true(answer, "more") ? " or more" : "", tool->arguments[0]);
		tool_print_candidates(stdout, answer);
		return TOOL_OK;
	}
	show_block(answer, json_array_get(blocks, 0));
	show_form(tool_at(answer, "form"));
	show_sections(answer, tool_flag(tool, "sections"));
	if (checked[0] != '\0')
		print_pair("checked", "%s, as read from %s", checked, tool_text(answer, "source"));
	if (tool_at(answer, "content") != NULL) {
		show_histogram("K", tool_at(answer, "content.k"));
		show_histogram("V", tool_at(answer, "content.v"));
	}
	if (checked[0] != '\0' && strcmp(checked, "ok") != 0)
		return tool_failed(tool, "the record is damaged or cannot be read: %s", checked);
	return TOOL_OK;
}

int tool_run_show(struct tool *tool)
{
	json_t *answer, *arguments;
	uint64_t space;
	int result = tool_check_key(tool, tool->arguments[0]);

	if (result == TOOL_OK)
		result = tool_number(tool, "space", 0, UINT32_MAX, 0, &space);
	if (result != TOOL_OK)
		return result;
	arguments = json_pack("{s:s, s:b}", "key", tool->arguments[0], "content", tool_flag(tool, "content"));
	if (tool_flag(tool, "space"))
		json_object_set_new(arguments, "space", json_integer((json_int_t)space));
	result = tool_ask(tool, "show", arguments, &answer);
	if (result != TOOL_OK)
		return result;
	if (tool->json)
		tool_print_json(answer);
	else
		result = show_answer(tool, answer);
	json_decref(answer);
	return result;
}
