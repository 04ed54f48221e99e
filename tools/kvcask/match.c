/* SPDX-License-Identifier: Apache-2.0
 * kvcask match: hashes or tokens to hits and the reasons of misses. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { MATCH_PAGE = 8192, MATCH_TEXT_MAX = 256 << 20, MATCH_TOKENS_MAX = 16 << 20 };

struct match {
	struct tool *tool;
	json_t *hashes; /* array of hex texts */
	json_t *keys;   /* the daemon's answers, in the same order */
	uint64_t space;
	const json_t *space_info, *form; /* of `spaces` */
	json_t *spaces;
	uint64_t matched;
	bool unbroken; /* all so far hit */
};

/* ---- reading ---- */

/* The whole of a file; kvci_free. */
static int match_read_file(const struct tool *tool, const char *path, char **ret_text)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
	size_t length = 0, room = 1 << 16, got;
	char *text = kvci_alloc(room + 1), *more;
	int result = TOOL_OK;

	if (file == NULL) {
		kvci_free(text);
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	}
	while (text != NULL && (got = fread(text + length, 1, room - length, file)) > 0) {
		length += got;
		if (length < room)
			continue;
		room *= 2;
		more = room > MATCH_TEXT_MAX ? NULL : kvci_realloc(text, room + 1);
		if (more == NULL) {
			kvci_free(text);
			text = NULL;
		} else {
			text = more;
		}
	}
	if (text == NULL)
		result = tool_failed(tool, "%s: too big", path);
	else if (ferror(file))
		result = tool_failed(tool, "%s: %s", path, strerror(errno));
	if (file != stdin)
		fclose(file);
	if (result != TOOL_OK) {
		kvci_free(text);
		return result;
	}
	text[length] = '\0';
	*ret_text = text;
	return TOOL_OK;
}

static int match_add_hash(struct match *match, const char *text, size_t length, const char *where)
{
	if (length != 64 || strspn(text, "0123456789abcdefABCDEF") < 64)
		return tool_usage_error(match->tool, "%s: \"%.*s%s\" is no hash: 64 hex digits", where, (int)(length < 70 ? length : 70), text,
		                        length < 70 ? "" : "...");
	json_array_append_new(match->hashes, json_stringn(text, length));
	return TOOL_OK;
}

static int match_read_hashes(struct match *match, const char *path)
{
	static const char blanks[] = " \t\r\n,";
	char *text;
	int result = match_read_file(match->tool, path, &text);

	if (result != TOOL_OK)
		return result;
	for (const char *at = text + strspn(text, blanks); *at != '\0' && result == TOOL_OK; at += strspn(at, blanks)) {
		size_t length = strcspn(at, blanks);

		result = match_add_hash(match, at, length, path);
		at += length;
	}
	kvci_free(text);
	return result;
}

static int match_parse_tokens(const struct tool *tool, const char *text, uint32_t **ret_tokens, size_t *ret_count)
{
	static const char blanks[] = " \t\r\n,[]";
	size_t count = 0, room = 1024;
	uint32_t *tokens = kvci_alloc(room * sizeof(tokens[0])), *more;

	for (const char *at = text + strspn(text, blanks); tokens != NULL && *at != '\0'; at += strspn(at, blanks)) {
		char *end;
		unsigned long long token;

		errno = 0;
		token = strtoull(at, &end, 10);
		if (at[0] < '0' || at[0] > '9' || errno != 0 || token > UINT32_MAX || (*end != '\0' && strchr(blanks, *end) == NULL)) {
			kvci_free(tokens);
			return tool_usage_error(tool, "\"%.20s\" is no token id", at);
		}
		if (count == room) {
			room *= 2;
			more = room > MATCH_TOKENS_MAX ? NULL : kvci_realloc(tokens, room * sizeof(tokens[0]));
			if (more == NULL)
				kvci_free(tokens);
			tokens = more;
			if (tokens == NULL)
				break;
		}
		tokens[count++] = (uint32_t)token;
		at = end;
	}
	if (tokens == NULL)
		return tool_failed(tool, "too many tokens");
	*ret_tokens = tokens;
	*ret_count = count;
	return TOOL_OK;
}

/* ---- where ---- */

static int match_choose(struct match *match)
{
	struct tool *tool = match->tool;
	const char *wanted = tool_value(tool, "form");
	const json_t *list;
	json_t *space, *form;
	size_t i, count;
	int result = tool_number(tool, "space", 0, UINT32_MAX, 0, &match->space);

	if (result == TOOL_OK)
		result = tool_ask(tool, "spaces", NULL, &match->spaces);
	if (result != TOOL_OK)
		return result;
	list = tool_at(match->spaces, "spaces");
	if (!tool_flag(tool, "space") && json_array_size(list) > 1)
		return tool_usage_error(tool, "there are %zu spaces: name one by --space (see kvcask spaces)", json_array_size(list));
	json_array_foreach(list, i, space)
		if (!tool_flag(tool, "space") || tool_u64(space, "space") == match->space)
			match->space_info = space;
	if (match->space_info == NULL)
		return tool_failed(tool, tool_flag(tool, "space") ? "no such space; see kvcask spaces" : "nothing is stored yet");
	match->space = tool_u64(match->space_info, "space");
	list = tool_at(match->space_info, "forms");
	count = 0;
	json_array_foreach(list, i, form)
		if (wanted == NULL || strcmp(wanted, tool_text(form, "form")) == 0) {
			match->form = form;
			count++;
		}
	if (count > 1)
		return tool_usage_error(tool, "the space has %zu forms: name one by --form (see kvcask spaces --long)", count);
	if (count == 0)
		return tool_failed(tool, "no engine has used %s since the daemon started", wanted != NULL ? "this form" : "this space");
	return TOOL_OK;
}

/* The root of the space's chains, NULL for vLLM's default. */
static const uint8_t *match_root(const struct match *match, uint8_t root[32])
{
	const char *hex = tool_text(match->space_info, "hash_root");

	if (strlen(hex) != 64)
		return NULL;
	for (unsigned i = 0; i < 32; i++) {
		const char digits[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		root[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return root;
}

/* Tokens to the hashes of the space's blocks: the last of each so many engine blocks. */
static int match_hash_tokens(struct match *match, const uint32_t *tokens, size_t count)
{
	struct tool *tool = match->tool;
	uint64_t engine_tokens, block_tokens = tool_u64(match->form, "block_tokens");
	uint8_t root[32], (*out)[32] = NULL;
	struct kvc_chain *chain = NULL;
	size_t got = 0;
	kvc_status_t status;
	int result = tool_number(tool, "engine-block-tokens", 1, 65536, tool_u64(match->form, "engine_block_tokens"), &engine_tokens);

	if (result != TOOL_OK)
		return result;
	if (strcmp(tool_text(match->space_info, "hash_algorithm"), "sha256_cbor") != 0)
		return tool_failed(tool, "the space's hashes are made by %s: only those of sha256_cbor can be made from tokens",
		                   tool_text(match->space_info, "hash_algorithm"));
	if (engine_tokens == 0 || block_tokens == 0 || block_tokens % engine_tokens != 0)
		return tool_usage_error(tool, "--engine-block-tokens: the space's blocks have %llu tokens", (unsigned long long)block_tokens);
	out = kvci_alloc_zero(count / engine_tokens + 1, sizeof(out[0]));
	status = out != NULL ? kvc_chain_create((uint32_t)engine_tokens, match_root(match, root), &chain) : KVC_NO_MEMORY;
	if (status == KVC_OK)
		status = kvc_chain_append(chain, tokens, count, out, count / engine_tokens + 1, &got);
	for (size_t i = block_tokens / engine_tokens; status == KVC_OK && i <= got; i += block_tokens / engine_tokens) {
		char hex[65];

		for (unsigned b = 0; b < 32; b++)
			snprintf(hex + 2 * b, 3, "%02x", out[i - 1][b]);
		json_array_append_new(match->hashes, json_string(hex));
	}
	kvc_chain_destroy(chain);
	kvci_free(out);
	if (status != KVC_OK)
		return tool_failed(tool, "chain: %s", kvc_status_text(status));
	if (json_array_size(match->hashes) == 0)
		return tool_failed(tool, "%zu tokens fill no block: one has %llu", count, (unsigned long long)block_tokens);
	return TOOL_OK;
}

static int match_take_tokens(struct match *match, const char *list, const char *path)
{
	char *text = NULL;
	uint32_t *tokens = NULL;
	size_t count = 0;
	int result = path != NULL ? match_read_file(match->tool, path, &text) : TOOL_OK;

	if (result == TOOL_OK)
		result = match_parse_tokens(match->tool, path != NULL ? text : list, &tokens, &count);
	if (result == TOOL_OK)
		result = match_choose(match);
	if (result == TOOL_OK)
		result = match_hash_tokens(match, tokens, count);
	kvci_free(text);
	kvci_free(tokens);
	return result;
}

static int match_take_hashes(struct match *match)
{
	int result = TOOL_OK;

	for (int i = 0; i < match->tool->argument_count && result == TOOL_OK; i++) {
		const char *argument = match->tool->arguments[i];
		size_t length = strlen(argument);

		if (length == 64 && strspn(argument, "0123456789abcdefABCDEF") == 64)
			result = match_add_hash(match, argument, length, "argument");
		else
			result = match_read_hashes(match, argument);
	}
	return result == TOOL_OK ? match_choose(match) : result;
}

/* ---- asking and printing ---- */

static int match_ask(struct match *match)
{
	size_t total = json_array_size(match->hashes);
	json_t *answer;
	int result;

	match->unbroken = true;
	for (size_t first = 0; first < total; first += MATCH_PAGE) {
		json_t *page = json_array();

		for (size_t i = first; i < total && i < first + MATCH_PAGE; i++)
			json_array_append(page, json_array_get(match->hashes, i));
		result = tool_ask(match->tool, "match",
		                  json_pack("{s:I, s:s, s:o}", "space", (json_int_t)match->space, "form", tool_text(match->form, "form"), "hashes", page),
		                  &answer);
		if (result != TOOL_OK)
			return result;
		if (match->unbroken)
			match->matched += tool_u64(answer, "matched");
		match->unbroken = match->unbroken && tool_u64(answer, "matched") == json_array_size(tool_at(answer, "keys"));
		json_array_extend(match->keys, (json_t *)(uintptr_t)tool_at(answer, "keys"));
		json_decref(answer);
	}
	return TOOL_OK;
}

static void match_print(const struct match *match)
{
	static const struct print_column columns[] = {
		{ "block", true, false }, { "tokens", false, false }, { "key", false, false }, { "what became of it", false, false },
	};
	uint64_t block_tokens = tool_u64(match->form, "block_tokens");
	size_t total = json_array_size(match->keys), i, shown = 0, hits = 0;
	struct print_table *table = print_table_begin(columns, 4);
	json_t *key;

	json_array_foreach(match->keys, i, key) {
		bool hit = tool_true(key, "hit");

		hits += hit;
		/* Leading hits, and what lies behind the first ten misses, say nothing new. */
		if (!tool_flag(match->tool, "all") && (hit || shown == 10))
			continue;
		shown++;
		print_cell(table, "%zu", i);
		print_cell(table, "%llu-%llu", (unsigned long long)(i * block_tokens), (unsigned long long)((i + 1) * block_tokens));
		print_cell(table, "%s", print_hex(json_string_value(json_array_get(match->hashes, i)), 16));
		if (hit)
			print_cell(table, "hit, in %s", tool_text(key, "where"));
		else
			print_cell(table, "%s", tool_text(key, "text"));
	}
	printf("%s of %s blocks match (%s of %s tokens)\n", print_count(match->matched), print_count(total),
	       print_count(match->matched * block_tokens), print_count(total * block_tokens));
	if (hits > match->matched)
		printf("%s more are stored behind the first miss\n", print_count(hits - match->matched));
	print_table_end(table, stdout, NULL);
}

int tool_run_match(struct tool *tool)
{
	struct match match = { .tool = tool, .hashes = json_array(), .keys = json_array() };
	const char *tokens = tool_value(tool, "tokens"), *path = tool_value(tool, "tokens-file");
	int given = (tokens != NULL) + (path != NULL) + (tool->argument_count != 0);
	json_t *out;
	int result;

	if (given != 1)
		result = tool_usage_error(tool, given == 0 ? "give hashes, a FILE of them, --tokens or --tokens-file"
		                                           : "give either hashes, --tokens or --tokens-file");
	else if (tool->argument_count != 0)
		result = match_take_hashes(&match);
	else
		result = match_take_tokens(&match, tokens, path);
	if (result == TOOL_OK)
		result = match_ask(&match);
	if (result == TOOL_OK && tool->json) {
		out = json_pack("{s:I, s:s, s:I, s:I, s:O, s:O}", "space", (json_int_t)match.space, "form", tool_text(match.form, "form"),
		                "block_tokens", (json_int_t)tool_u64(match.form, "block_tokens"), "matched", (json_int_t)match.matched, "hashes",
		                match.hashes, "keys", match.keys);
		tool_print_json(out);
		json_decref(out);
	} else if (result == TOOL_OK) {
		match_print(&match);
	}
	json_decref(match.hashes);
	json_decref(match.keys);
	json_decref(match.spaces);
	return result;
}
