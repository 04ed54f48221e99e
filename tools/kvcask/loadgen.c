/* SPDX-License-Identifier: Apache-2.0
 * kvcask loadgen: what an engine does, without one. Each request matches, loads what is stored, computes the rest (a wait), checks every
 * byte that was loaded and stores what was computed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tools/kvcask/loadgen.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { LOADGEN_REQUESTS_MAX = 100000 };

struct loadgen_run {
	struct tool *tool;
	struct loadgen_world world;
	struct kvc_space *space; /* NULL: --without */
	uint64_t requests, rounds, round, prefill_tokens_per_s, need_loaded_tokens;
	const char *label;
	bool flush;

	double *first_token_s; /* of each request */
	struct loadgen_figures {
		uint64_t prompt_tokens, loaded_tokens, memory_tokens, disk_tokens, loaded_bytes, wrong_bytes, failed_blocks;
		uint64_t stored_blocks, stored_bytes, load_ns, store_ns, flush_ns;
	} figures; /* of the round */
};

static void loadgen_wait(uint64_t ns)
{
	struct timespec left = { .tv_sec = (time_t)(ns / KVCI_SECOND), .tv_nsec = (long)(ns % KVCI_SECOND) };

	while (nanosleep(&left, &left) != 0 && errno == EINTR) {
	}
}

/* Loads the leading blocks that are stored; *ret_loaded of them are right. */
static kvc_status_t loadgen_load(struct loadgen_run *run, const struct kvc_request *request, uint32_t *ret_loaded)
{
	struct loadgen_world *world = &run->world;
	kvc_status_t *statuses = kvci_alloc_zero(world->prompt_blocks, sizeof(statuses[0]));
	struct kvc_match_result match;
	uint64_t begin_ns;
	uint32_t loaded = 0;
	kvc_status_t status;

	if (statuses == NULL)
		return KVC_NO_MEMORY;
	status = kvc_match(run->space, (const uint8_t(*)[KVC_HASH_BYTES])world->hashes, world->prompt_blocks, request, KVC_MATCH_LEASE,
	                   run->tool->timeout_ns, &match);
	if (status == KVC_OK && match.matched_blocks != 0) {
		begin_ns = kvci_clock_ns();
		status = kvc_load(run->space, request, 0, match.matched_blocks, world->engine_blocks, run->tool->timeout_ns, statuses);
		run->figures.load_ns += kvci_clock_ns() - begin_ns;
		while (loaded < match.matched_blocks && statuses[loaded] == KVC_OK)
			loaded++;
		run->figures.failed_blocks += match.matched_blocks - loaded;
		run->figures.loaded_tokens += (uint64_t)loaded * world->form.block_tokens;
		run->figures.memory_tokens += (uint64_t)(loaded < match.in_memory_blocks ? loaded : match.in_memory_blocks) * world->form.block_tokens;
		run->figures.loaded_bytes += loaded * world->sizes.block_bytes;
		/* A block that did not come is computed, as an engine would. */
		if (kvc_status_class(status) == KVC_CLASS_DEGRADE || kvc_status_class(status) == KVC_CLASS_RETRY ||
		    kvc_status_class(status) == KVC_CLASS_MISS)
			status = KVC_OK;
	}
	if (match.matched_blocks != 0 || status != KVC_OK)
		kvc_release(run->tool->client, request);
	kvci_free(statuses);
	if (status == KVC_OK)
		*ret_loaded = loaded;
	return status;
}

static kvc_status_t loadgen_store(struct loadgen_run *run, uint32_t first)
{
	struct loadgen_world *world = &run->world;
	uint32_t count = world->prompt_blocks - first;
	kvc_status_t *statuses = kvci_alloc_zero(world->prompt_blocks, sizeof(statuses[0])), status;
	uint64_t begin_ns = kvci_clock_ns();

	if (statuses == NULL)
		return KVC_NO_MEMORY;
	status = kvc_store(run->space, world->store_blocks + first, count, world->engine_blocks + (size_t)first * world->sizes.pages_per_section,
	                   run->tool->timeout_ns, statuses);
	run->figures.store_ns += kvci_clock_ns() - begin_ns;
	for (uint32_t i = 0; i < count; i++)
		if (statuses[i] == KVC_OK) {
			run->figures.stored_blocks++;
			run->figures.stored_bytes += world->sizes.block_bytes;
		}
	/* What could not be stored now is no failure of the request: EXISTS, BUSY, NO_SPACE and the like. */
	if (status != KVC_OK && status != KVC_INVALID && kvc_status_class(status) != KVC_CLASS_FATAL)
		status = KVC_OK;
	kvci_free(statuses);
	return status;
}

static kvc_status_t loadgen_request(struct loadgen_run *run, uint32_t number)
{
	struct loadgen_world *world = &run->world;
	char id[64];
	struct kvc_request request = { .id = id };
	uint64_t begin_ns;
	uint32_t loaded = 0, left;
	kvc_status_t status = loadgen_prompt(world, number);

	if (status != KVC_OK)
		return status;
	request.id_bytes = (size_t)snprintf(id, sizeof(id), "loadgen-%u", number);
	loadgen_forget(world, 0, world->prompt_blocks);
	begin_ns = kvci_clock_ns();
	if (run->space != NULL)
		status = loadgen_load(run, &request, &loaded);
	if (status != KVC_OK)
		return status;
	left = world->prompt_tokens - loaded * world->form.block_tokens;
	if (run->prefill_tokens_per_s != 0)
		loadgen_wait(left * KVCI_SECOND / run->prefill_tokens_per_s);
	run->first_token_s[number] = (double)(kvci_clock_ns() - begin_ns) / 1e9;
	run->figures.prompt_tokens += world->prompt_tokens;

	for (uint32_t b = 0; b < loaded; b++)
		run->figures.wrong_bytes += loadgen_wrong_bytes(world, b);
	loadgen_compute(world, loaded, world->prompt_blocks - loaded);
	if (run->space != NULL && loaded < world->prompt_blocks)
		status = loadgen_store(run, loaded);
	return status;
}

/* ---- the line ---- */

static int loadgen_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double loadgen_per_s(uint64_t bytes, uint64_t ns)
{
	return ns != 0 ? (double)bytes / ((double)ns / 1e9) : 0;
}

static json_t *loadgen_json(const struct loadgen_run *run)
{
	const double *first = run->first_token_s;

	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:f, s:I, s:I, s:f, s:I, s:I, s:f}", "label", run->label, "round", (json_int_t)run->round, "requests",
	                 (json_int_t)run->requests, "prompt_tokens", (json_int_t)run->figures.prompt_tokens, "loaded_tokens",
	                 (json_int_t)run->figures.loaded_tokens, "memory_tokens", (json_int_t)run->figures.memory_tokens, "disk_tokens",
	                 (json_int_t)run->figures.disk_tokens, "first_token_min_s", first[0], "first_token_p50_s", first[run->requests / 2],
	                 "first_token_max_s", first[run->requests - 1], "loaded_bytes", (json_int_t)run->figures.loaded_bytes, "load_bytes_per_s",
	                 loadgen_per_s(run->figures.loaded_bytes, run->figures.load_ns), "stored_blocks", (json_int_t)run->figures.stored_blocks, "stored_bytes",
	                 (json_int_t)run->figures.stored_bytes, "store_bytes_per_s", loadgen_per_s(run->figures.stored_bytes, run->figures.store_ns), "wrong_bytes",
	                 (json_int_t)run->figures.wrong_bytes, "failed_blocks", (json_int_t)run->figures.failed_blocks, "flush_s",
	                 (double)run->figures.flush_ns / 1e9);
}

static void loadgen_table(const struct loadgen_run *run)
{
	static const struct print_column columns[] = {
		{ "case", false, true },         { "requests", true, false },    { "tokens", true, false },
		{ "loaded", true, false },       { "from memory", true, false }, { "from disk", true, false },
		{ "first token p50", true, false }, { "max", true, false },      { "load", true, false },
		{ "stored", true, false },       { "wrong bytes", true, false },
	};
	struct print_table *table = print_table_begin(columns, sizeof(columns) / sizeof(columns[0]));

	print_cell(table, "%s", run->label);
	print_cell(table, "%s", print_count(run->requests));
	print_cell(table, "%s", print_count(run->figures.prompt_tokens));
	print_cell(table, "%s", print_count(run->figures.loaded_tokens));
	print_cell(table, "%s", print_count(run->figures.memory_tokens));
	print_cell(table, "%s", print_count(run->figures.disk_tokens));
	print_cell(table, "%s", print_duration(run->first_token_s[run->requests / 2]));
	print_cell(table, "%s", print_duration(run->first_token_s[run->requests - 1]));
	print_cell(table, "%s", run->figures.load_ns != 0 ? print_rate(loadgen_per_s(run->figures.loaded_bytes, run->figures.load_ns)) : "-");
	print_cell(table, "%s", print_bytes(run->figures.stored_bytes));
	print_cell(table, "%s", print_count(run->figures.wrong_bytes));
	print_table_end(table, stdout, NULL);
	if (run->figures.failed_blocks != 0)
		printf("%s blocks were matched, could not be loaded, and were computed\n", print_count(run->figures.failed_blocks));
}

static int loadgen_report(struct loadgen_run *run)
{
	json_t *json;

	run->figures.disk_tokens = run->figures.loaded_tokens - run->figures.memory_tokens;
	qsort(run->first_token_s, run->requests, sizeof(run->first_token_s[0]), loadgen_compare);
	if (run->tool->json) {
		json = loadgen_json(run);
		if (json == NULL)
			return tool_failed(run->tool, "%s", kvc_status_text(KVC_NO_MEMORY));
		json_dumpf(json, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(json);
	} else {
		loadgen_table(run);
	}
	if (run->figures.wrong_bytes != 0)
		return tool_failed(run->tool, "%s loaded bytes were wrong", print_count(run->figures.wrong_bytes));
	if (run->figures.loaded_tokens < run->need_loaded_tokens)
		return tool_failed(run->tool, "%s tokens were loaded, not the %s that were asked for", print_count(run->figures.loaded_tokens),
		                   print_count(run->need_loaded_tokens));
	return TOOL_OK;
}

/* ---- the run ---- */

static int loadgen_options(struct loadgen_run *run)
{
	struct tool *tool = run->tool;
	const char *shape = tool_value(tool, "form"), *dtype = tool_value(tool, "dtype"), *wrong;
	uint64_t tokens, shared, seed;
	kvc_status_t status;
	int result = tool_number(tool, "requests", 1, LOADGEN_REQUESTS_MAX, 8, &run->requests);

	if (result == TOOL_OK)
		result = tool_number(tool, "rounds", 1, LOADGEN_REQUESTS_MAX, 1, &run->rounds);
	if (result == TOOL_OK)
		result = tool_number(tool, "tokens", 64, 131072, 1800, &tokens);
	if (result == TOOL_OK)
		result = tool_number(tool, "shared", 0, tokens, tokens < 1800 ? tokens / 2 : 896, &shared);
	if (result == TOOL_OK)
		result = tool_number(tool, "seed", 0, UINT32_MAX, 1, &seed);
	if (result == TOOL_OK)
		result = tool_number(tool, "prefill", 0, 1000000000, 1650, &run->prefill_tokens_per_s);
	if (result == TOOL_OK)
		result = tool_number(tool, "need-loaded", 0, INT64_MAX, 0, &run->need_loaded_tokens);
	if (result != TOOL_OK)
		return result;
	run->label = tool_value(tool, "label") != NULL ? tool_value(tool, "label") : tool_flag(tool, "without") ? "without kvcask" : "with kvcask";
	run->flush = tool_flag(tool, "flush");
	status = loadgen_world_init(&run->world, shape != NULL ? shape : "small", dtype != NULL ? dtype : "bfloat16", (uint32_t)tokens,
	                            (uint32_t)shared, seed, &wrong);
	if (status == KVC_INVALID)
		return tool_usage_error(tool, "\"%s\" is neither a form (small, large) nor a dtype (float32, bfloat16)", wrong);
	run->first_token_s = kvci_alloc_zero(run->requests, sizeof(run->first_token_s[0]));
	if (status != KVC_OK || run->first_token_s == NULL)
		return tool_failed(tool, "%s", kvc_status_text(status != KVC_OK ? status : KVC_NO_MEMORY));
	return TOOL_OK;
}

static int loadgen_round(struct loadgen_run *run)
{
	struct tool *tool = run->tool;
	struct print_progress progress;
	kvc_status_t status = KVC_OK;
	uint64_t begin_ns;

	run->figures = (struct loadgen_figures){ 0 };
	print_progress_begin(&progress, run->label);
	for (uint32_t i = 0; i < run->requests && status == KVC_OK; i++) {
		status = loadgen_request(run, i);
		print_progress_show(&progress, i + 1, run->requests, false);
	}
	print_progress_end(&progress);
	if (status != KVC_OK)
		return tool_failed_status(tool, "request", status);
	if (run->flush && run->space != NULL) {
		begin_ns = kvci_clock_ns();
		status = kvc_flush(tool->client, 60 * KVCI_SECOND);
		run->figures.flush_ns = kvci_clock_ns() - begin_ns;
		if (status != KVC_OK)
			return tool_failed_status(tool, "flush", status);
	}
	return loadgen_report(run);
}

static int loadgen_go(struct loadgen_run *run)
{
	struct tool *tool = run->tool;
	kvc_status_t status;
	int result = TOOL_OK;

	if (!tool_flag(tool, "without")) {
		if (tool_open(tool) != TOOL_OK)
			return TOOL_FAILED;
		status = loadgen_world_open(&run->world, tool->client, &run->space);
		if (status != KVC_OK)
			return tool_failed_status(tool, "space", status);
	}
	for (run->round = 1; run->round <= run->rounds && result == TOOL_OK; run->round++)
		result = loadgen_round(run);
	return result;
}

int tool_run_loadgen(struct tool *tool)
{
	struct loadgen_run run = { .tool = tool };
	int result = loadgen_options(&run);

	if (result == TOOL_OK)
		result = loadgen_go(&run);
	kvc_space_close(run.space);
	kvci_free(run.first_token_s);
	loadgen_world_fini(&run.world);
	return result;
}
