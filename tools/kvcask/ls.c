/* SPDX-License-Identifier: Apache-2.0
 * kvcask ls: stored blocks. The daemon gives pages in no order; with --sort all are read and the first by that order kept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { LS_PAGE = 1000, LS_DEFAULT = 50 };

typedef int (*ls_compare_fn)(const void *a, const void *b);

struct ls {
	struct tool *tool;
	json_t *found; /* array */
	uint64_t limit; /* 0: none */
	ls_compare_fn compare;
	bool more; /* there are blocks that are not shown */
};

static int ls_by(const void *a, const void *b, const char *name, int sign)
{
	uint64_t x = tool_u64(*(json_t *const *)a, name), y = tool_u64(*(json_t *const *)b, name);

	return sign * ((x > y) - (x < y));
}

static int ls_by_used(const void *a, const void *b)
{
	return ls_by(a, b, "idle_ns", 1);
}

static int ls_by_hits(const void *a, const void *b)
{
	return ls_by(a, b, "hits", -1);
}

static int ls_by_size(const void *a, const void *b)
{
	return ls_by(a, b, "record_bytes", -1);
}

static int ls_by_position(const void *a, const void *b)
{
	return ls_by(a, b, "position_tokens", 1);
}

static const struct {
	const char *name;
	ls_compare_fn compare;
} ls_orders[] = { { "used", ls_by_used }, { "hits", ls_by_hits }, { "size", ls_by_size }, { "position", ls_by_position } };

/* Sorts what was found and forgets what lies beyond the limit. */
static kvc_status_t ls_keep_first(struct ls *ls)
{
	size_t count = json_array_size(ls->found);
	size_t kept = ls->limit != 0 && count > ls->limit ? ls->limit : count;
	json_t **blocks = kvci_alloc_zero(count + 1, sizeof(blocks[0])), *sorted = json_array();
	kvc_status_t status = blocks != NULL && sorted != NULL ? KVC_OK : KVC_NO_MEMORY;

	for (size_t i = 0; status == KVC_OK && i < count; i++)
		blocks[i] = json_array_get(ls->found, i);
	if (status == KVC_OK)
		qsort(blocks, count, sizeof(blocks[0]), ls->compare);
	for (size_t i = 0; status == KVC_OK && i < kept; i++)
		if (json_array_append(sorted, blocks[i]) != 0)
			status = KVC_NO_MEMORY;
	kvci_free(blocks);
	if (status != KVC_OK) {
		json_decref(sorted);
		return status;
	}
	ls->more = ls->more || kept < count;
	json_decref(ls->found);
	ls->found = sorted;
	return KVC_OK;
}

static int ls_page(struct ls *ls, json_t *arguments, uint64_t *cursor)
{
	uint64_t left = ls->limit != 0 && ls->compare == NULL ? ls->limit - json_array_size(ls->found) : LS_PAGE;
	json_t *answer;
	int result;

	json_object_set_new(arguments, "limit", json_integer((json_int_t)(left < LS_PAGE ? left : LS_PAGE)));
	json_object_set_new(arguments, "cursor", json_integer((json_int_t)*cursor));
	result = tool_ask(ls->tool, "ls", json_incref(arguments), &answer);
	if (result != TOOL_OK)
		return result;
	json_array_extend(ls->found, (json_t *)(uintptr_t)tool_at(answer, "blocks"));
	*cursor = tool_u64(answer, "cursor");
	json_decref(answer);
	return TOOL_OK;
}

static int ls_read(struct ls *ls, json_t *arguments)
{
	struct print_progress progress;
	uint64_t cursor = 0, seen = 0;
	int result;

	print_progress_begin(&progress, "blocks");
	do {
		size_t before = json_array_size(ls->found);

		result = ls_page(ls, arguments, &cursor);
		seen += json_array_size(ls->found) - before;
		if (result == TOOL_OK && ls->compare != NULL && ls->limit != 0 && json_array_size(ls->found) > ls->limit + 4 * LS_PAGE &&
		    ls_keep_first(ls) != KVC_OK)
			result = tool_failed_status(ls->tool, "sort", KVC_NO_MEMORY);
		print_progress_show(&progress, seen, cursor != 0 ? seen + LS_PAGE : seen, false);
	} while (result == TOOL_OK && cursor != 0 && (ls->compare != NULL || ls->limit == 0 || json_array_size(ls->found) < ls->limit));
	print_progress_end(&progress);
	ls->more = ls->more || cursor != 0;
	if (result == TOOL_OK && ls->compare != NULL && ls_keep_first(ls) != KVC_OK)
		result = tool_failed_status(ls->tool, "sort", KVC_NO_MEMORY);
	return result;
}

static void ls_print(const struct ls *ls, unsigned digits)
{
	static const struct print_column columns[] = {
		{ "key", false, false },  { "space", true, false },  { "tokens", false, false }, { "size", true, false },
		{ "where", false, false }, { "hits", true, false },  { "used", true, false },    { "stored", true, false },
		{ "held", true, false },  { "", false, false },
	};
	struct print_table *table = print_table_begin(columns, sizeof(columns) / sizeof(columns[0]));
	json_t *block;
	size_t i;

	json_array_foreach(ls->found, i, block) {
		uint64_t position = tool_u64(block, "position_tokens");

		print_cell(table, "%s", print_hex(tool_text(block, "key"), digits));
		print_cell(table, "%llu", (unsigned long long)tool_u64(block, "space"));
		print_cell(table, "%llu-%llu", (unsigned long long)position, (unsigned long long)(position + tool_u64(block, "token_count")));
		print_cell(table, "%s", print_bytes(tool_u64(block, "record_bytes")));
		print_cell(table, "%s", tool_text(block, "where"));
		print_cell(table, "%s", print_count(tool_u64(block, "hits")));
		print_cell(table, "%s", print_duration((double)tool_u64(block, "idle_ns") / 1e9));
		print_cell(table, "%s", print_duration((double)tool_u64(block, "age_ns") / 1e9));
		print_cell(table, "%s", print_count(tool_u64(block, "holds")));
		print_cell(table, "%s", tool_true(block, "writing") ? "writing" : tool_true(block, "loading") ? "loading" : "");
	}
	print_table_end(table, stdout, "no such blocks");
	if (ls->more)
		printf("(there are more: see --limit)\n");
}

/* The filters that the daemon knows. */
static int ls_arguments(struct tool *tool, json_t *arguments)
{
	static const char *const places[] = { "any", "memory", "disk", "memory_only", "disk_only", "held", "reserved" };
	const char *where = tool_value(tool, "where"), *prefix = tool_value(tool, "prefix");
	uint64_t space, hits;
	bool known = where == NULL;
	int result = tool_number(tool, "space", 0, UINT32_MAX, 0, &space);

	if (result == TOOL_OK)
		result = tool_number(tool, "min-hits", 0, UINT32_MAX, 0, &hits);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]) && !known; i++)
		known = strcmp(places[i], where) == 0;
	if (result == TOOL_OK && !known)
		return tool_usage_error(tool, "--where: \"%s\" is none of any, memory, disk, memory_only, disk_only, held, reserved", where);
	if (result == TOOL_OK && prefix != NULL && (strlen(prefix) > 64 || prefix[strspn(prefix, "0123456789abcdefABCDEF")] != '\0'))
		return tool_usage_error(tool, "--prefix: \"%s\" is not at most 64 hex digits", prefix);
	if (result != TOOL_OK)
		return result;
	if (tool_flag(tool, "space"))
		json_object_set_new(arguments, "space", json_integer((json_int_t)space));
	if (where != NULL)
		json_object_set_new(arguments, "where", json_string(where));
	if (prefix != NULL)
		json_object_set_new(arguments, "prefix", json_string(prefix));
	if (hits != 0)
		json_object_set_new(arguments, "min_hits", json_integer((json_int_t)hits));
	return TOOL_OK;
}

int tool_run_ls(struct tool *tool)
{
	struct ls ls = { .tool = tool, .found = json_array() };
	json_t *arguments = json_object(), *out;
	const char *sort = tool_value(tool, "sort");
	int result = tool_number(tool, "limit", 0, UINT32_MAX, LS_DEFAULT, &ls.limit);

	for (size_t i = 0; sort != NULL && i < sizeof(ls_orders) / sizeof(ls_orders[0]); i++)
		if (strcmp(ls_orders[i].name, sort) == 0)
			ls.compare = ls_orders[i].compare;
	if (result == TOOL_OK && sort != NULL && ls.compare == NULL)
		result = tool_usage_error(tool, "--sort: \"%s\" is none of used, hits, size, position", sort);
	if (result == TOOL_OK)
		result = ls_arguments(tool, arguments);
	if (result == TOOL_OK)
		result = ls_read(&ls, arguments);
	if (result == TOOL_OK && tool->json) {
		out = json_pack("{s:O, s:b}", "blocks", ls.found, "more", ls.more);
		tool_print_json(out);
		json_decref(out);
	} else if (result == TOOL_OK) {
		ls_print(&ls, tool_flag(tool, "full") ? 64 : 16);
	}
	json_decref(ls.found);
	json_decref(arguments);
	return result;
}
