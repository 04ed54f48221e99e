/* SPDX-License-Identifier: Apache-2.0
 * The table of commands, and finding one. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/kvcask/tool.h"

static const struct tool_option main_options_stat[] = {
	{ "watch", 'w', NULL, "a line of rates every so often, until interrupted" },
	{ "every", 'n', "TIME", "with -w: time between lines (default 1s)" },
	{ "count", 'c', "N", "with -w: end after N lines" },
	{ "all", 'a', NULL, "every counter and gauge by name" },
	{ 0 },
};

static const struct tool_option main_options_spaces[] = {
	{ "long", 'l', NULL, "all fields of each space, and its forms" },
	{ 0 },
};

static const struct tool_option main_options_ls[] = {
	{ "space", 'S', "N", "of this space only (its number in kvcask spaces)" },
	{ "where", 0, "PLACE", "any, memory, disk, memory_only, disk_only, held or reserved" },
	{ "prefix", 0, "HEX", "hashes that begin so" },
	{ "min-hits", 0, "N", "used at least N times" },
	{ "sort", 0, "BY", "used (newest first), hits, size or position" },
	{ "limit", 'L', "N", "at most N blocks (default 50; 0: all)" },
	{ "full", 0, NULL, "whole hashes" },
	{ 0 },
};

static const struct tool_option main_options_show[] = {
	{ "space", 'S', "N", "in this space only" },
	{ "content", 'c', NULL, "also read and check it: histograms of K and V" },
	{ "sections", 0, NULL, "a line for each section" },
	{ 0 },
};

static const struct tool_option main_options_match[] = {
	{ "space", 'S', "N", "in this space (needed when there are several)" },
	{ "form", 0, "ID", "in this form (needed when the space has several)" },
	{ "tokens", 't', "LIST", "token ids, 1,2,3: hashed as vLLM does with sha256_cbor" },
	{ "tokens-file", 'T', "FILE", "token ids in a file (- for stdin), apart by spaces, commas or newlines" },
	{ "engine-block-tokens", 0, "N", "tokens in the engine's own block (default: the form's)" },
	{ "all", 'a', NULL, "a line for each key, also for those that hit" },
	{ 0 },
};

static const struct tool_option main_options_drop[] = {
	{ "space", 'S', "N", "in this space only" },
	{ 0 },
};

static const struct tool_option main_options_verify[] = {
	{ "rate", 0, "SIZE", "read at most so much a second (default 256MiB)" },
	{ "dir", 'd', "DIR", "check a data_dir whose daemon does not run, without changing it" },
	{ "status", 0, NULL, "only say how far the daemon's verification is" },
	{ "stop", 0, NULL, "end the daemon's verification" },
	{ 0 },
};

static const struct tool_option main_options_recode[] = {
	{ "codec", 0, "SPEC", "raw, split, split+profile, zstd, lz4; one with loss where the space asks for just that" },
	{ "space", 'S', "N", "blocks of this space (its number in kvcask spaces)" },
	{ "key", 'k', "HEX", "blocks whose hash begins so" },
	{ "all", 'a', NULL, "all blocks on the disk" },
	{ "again", 0, NULL, "also blocks that this codec coded already, with the parameters of SPEC (kv4:bits=2): loss upon loss, each time" },
	{ 0 },
};

static const struct tool_option main_options_calibrate[] = {
	{ "output", 'o', "FILE", "where the profile goes" },
	{ "space", 'S', "NAME", "KV of blocks of this space: its number in kvcask spaces, its model's name, or its fingerprint's beginning" },
	{ "tokens", 't', "N", "with --space: of about so many tokens (default 10000)" },
	{ "form", 0, "ID", "with --space: blocks of this form (needed when the space has several)" },
	{ "name", 0, "TEXT", "model and space, for people" },
	{ "model-id", 0, "TEXT", "identity of the model, as kvcask spaces --long has it: the profile is used for no other (with --space: default the space's)" },
	{ "rope-theta", 0, "THETA", "keys are rotated by theta^(-2i/dims) a position (with --space: default what the engine said of its model)" },
	{ "inv-freq", 0, "FILE", "instead: half as many numbers as rotary dimensions, radians a position" },
	{ "rope-style", 0, "STYLE", "neox (halves, default), gptj (neighbours) or none" },
	{ "rope-factor", 0, "X", "the attention factor that the engine put on cos and sin (default 1)" },
	{ "rotary-dims", 0, "N", "elements of a row that are rotated (default: all)" },
	{ "rotary-first", 0, "N", "the first of them (default 0)" },
	{ "pca", 0, "N", "also bases over groups of N layers, for ecsq+pca (5 is good; minutes)" },
	{ "weights-k", 0, "FILE", "how much errors of K matter: bf16 as uint16 [layers, 1, heads, dims], K before rotation (docs/profile.md); with --weights-v" },
	{ "weights-v", 0, "FILE", "the same of V" },
	{ "codebooks", 0, NULL, "also codebooks, for pq (minutes, megabytes)" },
	{ "sinks", 0, "N", "leave out the first N positions (default 4)" },
	{ "shards", 0, "N", "the KV is one shard's of N (default 1)" },
	{ "shard", 0, "N", "which (default 0)" },
	{ 0 },
};

static const struct tool_option main_options_profile[] = {
	{ "space", 'S', "N", "with add: refuse a profile that is not of this space's model and shape" },
	{ "force", 0, NULL, "with rm: also one that blocks on the disk may need: they would be misses" },
	{ 0 },
};

static const struct tool_option main_options_config[] = {
	{ "default", 0, NULL, "the default configuration file with comments, without a daemon" },
	{ 0 },
};

static const struct tool_option main_options_fault[] = {
	{ "clear", 0, NULL, "inject none any more" },
	{ 0 },
};

static const struct tool_option main_options_loadgen[] = {
	{ "requests", 'r', "N", "requests (default 8)" },
	{ "rounds", 0, "N", "the same requests N times, a line each (default 1)" },
	{ "tokens", 't', "N", "tokens in a prompt (default 1800)" },
	{ "shared", 0, "N", "of them the same in every other request (default 896, or half)" },
	{ "form", 0, "SHAPE", "block shape: small (SmolLM2-135M, default) or large (8B)" },
	{ "dtype", 0, "TYPE", "of KV: bfloat16 (default) or float32" },
	{ "prefill", 0, "N", "tokens computed a second, modelled by waiting (default 1650; 0: no waiting)" },
	{ "seed", 0, "N", "which prompts (default 1)" },
	{ "without", 0, NULL, "do not use kvcask: the same requests, computed" },
	{ "label", 0, "TEXT", "first column of the line (default: what the numbers say)" },
	{ "flush", 0, NULL, "end when all is on the disk" },
	{ "need-loaded", 0, "N", "fail unless at least N tokens were loaded" },
	{ 0 },
};

static const struct tool_command main_commands[] = {
	{ "stat", NULL, 0, 0, main_options_stat, tool_run_stat, NULL, "how the daemon is doing",
	  "Memory, disk, hits and misses by cause, latencies." },
	{ "spaces", NULL, 0, 0, main_options_spaces, tool_run_spaces, NULL, "the spaces: whose KV values are stored", NULL },
	{ "ls", NULL, 0, 0, main_options_ls, tool_run_ls, NULL, "stored blocks", NULL },
	{ "show", "KEY", 1, 1, main_options_show, tool_run_show, NULL, "one block: header, sections, places, holds, contents",
	  "KEY is a hash, or as many of its first hex digits as make it the only one." },
	{ "clients", NULL, 0, 0, NULL, tool_run_clients, NULL, "connected clients, and what each holds", NULL },
	{ "match", "[FILE|HASH...]", 0, TOOL_ARGUMENTS_MAX, main_options_match, tool_run_match, NULL, "what of a prompt is stored, and why not",
	  "Give hashes (hex; as arguments, or in a FILE, one a line, - for stdin) or tokens." },
	{ "drop", "KEY", 1, 1, main_options_drop, tool_run_drop, NULL, "drop a block everywhere", NULL },
	{ "flush", NULL, 0, 0, NULL, tool_run_flush, NULL, "wait until everything stored so far is on the disk", NULL },
	{ "recode", NULL, 0, 0, main_options_recode, tool_run_recode, NULL, "write blocks on the disk anew with another codec",
	  "One block at a time, while the daemon works; a second run finds nothing to do. Loss only in a space that asks for just that." },
	{ "verify", NULL, 0, 0, main_options_verify, tool_run_verify, NULL, "read every block on disk again and check it",
	  "Through the daemon, while it works; or with --dir, without one. Exit status 1 when damage was found." },
	{ "bench", NULL, 0, 0, NULL, NULL, kvci_bench_main, "measure kvcask beside references", NULL },
	{ "calibrate", "[K.npy V.npy...]", 0, TOOL_ARGUMENTS_MAX, main_options_calibrate, tool_run_calibrate, NULL, "make a model's profile from its KV",
	  "The files: bf16 as uint16 [layers, tokens, heads, dims], K as the engine holds it (rotated), position 0 on; several pairs are several texts.\n"
	  "Or --space: blocks of a running store, loaded one at a time as an engine would.\n"
	  "About 10,000 tokens of texts like those to come make a good profile. Codecs that need one: ecsq, ecsq+pca, pq, split+profile. See docs/profile.md." },
	{ "profile", "[ls|add FILE|rm ID|show ID|show FILE]", 0, 2, main_options_profile, tool_run_profile, NULL, "the model profiles of the daemon: list, add, remove, look into",
	  "add checks the file and copies it into data_dir/profiles, where the daemon finds it again after a restart. ID: its first hex digits.\n"
	  "rm refuses one that blocks on the disk may need. show FILE needs no daemon." },
	{ "config", "[KEY]", 0, 1, main_options_config, tool_run_config, NULL, "the configuration in effect", NULL },
	{ "fault", "[SPECIFICATION]", 0, 1, main_options_fault, tool_run_fault, NULL, "show or set the faults injected below the cache, for tests",
	  "The words of a SPECIFICATION are those of the option disk.fault: see tiers/filter/README.md." },
	{ "loadgen", NULL, 0, 0, main_options_loadgen, tool_run_loadgen, NULL, "act as an engine: requests with shared prefixes, every byte checked",
	  "The prompts and the KV of a token follow from --seed alone, so that a second process knows what it must get.\n"
	  "Computing KV is modelled by waiting; matching, loading, checking and storing are real." },
};
enum { MAIN_COMMAND_COUNT = sizeof(main_commands) / sizeof(main_commands[0]) };

static void main_help(FILE *out)
{
	fprintf(out, "usage: kvcask COMMAND [OPTION]... ; kvcask COMMAND --help\n\n"
	             "Looks into a running kvcaskd, and steers it.\n\nCommands\n");
	for (uint32_t i = 0; i < MAIN_COMMAND_COUNT; i++)
		fprintf(out, "  %-9s %s\n", main_commands[i].name, main_commands[i].text);
	fprintf(out, "\nThe daemon is found by --socket PATH, else $KVCASK_SOCKET, else where daemons put their socket.\n"
	             "--json, --socket, --timeout and --help go before the command or behind it. Exit status: 0 well, 1 failed, 2 wrong usage.\n");
}

static const char *main_name_at(const void *list, uint32_t index)
{
	return main_commands[index].name;
}

static const struct tool_command *main_find(const char *name)
{
	for (uint32_t i = 0; i < MAIN_COMMAND_COUNT; i++)
		if (strcmp(main_commands[i].name, name) == 0)
			return &main_commands[i];
	return NULL;
}

static int main_unknown(const char *name)
{
	const char *nearest = tool_nearest(name, MAIN_COMMAND_COUNT, main_name_at, NULL);

	if (nearest != NULL)
		fprintf(stderr, "kvcask: no command is called %s; did you mean kvcask %s?\n", name, nearest);
	else
		fprintf(stderr, "kvcask: no command is called %s; see kvcask --help\n", name);
	return TOOL_USAGE;
}

static int main_run(const struct tool_command *command, int argc, char **argv)
{
	struct tool tool;
	int result;

	if (command->run_raw != NULL)
		return command->run_raw(argc, argv);
	result = tool_parse(&tool, command, argc, argv);
	if (result == TOOL_OK && tool.help)
		tool_help(command);
	else if (result == TOOL_OK)
		result = command->run(&tool);
	tool_fini(&tool);
	return result;
}

/* Options before the command are moved behind it; `kvcask help` is an option by another name. */
static int main_dispatch(int argc, char **argv)
{
	const struct tool_command *command;
	char **moved;
	int leading, result;

	if (strcmp(argv[1], "help") == 0)
		argv[1] = "--help";
	result = tool_parse_leading(argc, argv, &leading);
	if (result != TOOL_OK)
		return result;
	if (leading + 1 == argc) {
		main_help(stdout);
		return TOOL_OK;
	}
	command = main_find(argv[leading + 1]);
	if (command == NULL)
		return main_unknown(argv[leading + 1]);
	moved = kvci_alloc_zero((size_t)argc, sizeof(moved[0]));
	if (moved == NULL) {
		fprintf(stderr, "kvcask: %s\n", kvc_status_text(KVC_NO_MEMORY));
		return TOOL_FAILED;
	}
	moved[0] = argv[leading + 1];
	memcpy(&moved[1], &argv[1], (size_t)leading * sizeof(moved[0]));
	memcpy(&moved[1 + leading], &argv[leading + 2], (size_t)(argc - leading - 2) * sizeof(moved[0]));
	result = main_run(command, argc - 1, moved);
	kvci_free(moved);
	return result;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	int result = TOOL_OK;

	signal(SIGPIPE, SIG_DFL); /* `kvcask ls | head` ends quietly */
	if (name == NULL) {
		main_help(stderr);
		return TOOL_USAGE;
	}
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
		printf("kvcask %s\n", kvc_version());
	else if (strcmp(name, "--man") == 0)
		tool_man(main_commands, MAIN_COMMAND_COUNT);
	else
		result = main_dispatch(argc, argv);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("kvcask: stdout");
		return result != TOOL_OK ? result : TOOL_FAILED;
	}
	return result;
}
