/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcask, the command line tool: what its commands share. A command is a line in the table of main.c: name, arguments, options, text, function.
 * The parser, `kvcask --help`, `kvcask COMMAND --help` and the manual page come from that table.
 *
 * Output goes to stdout, for people by default and as JSON with --json; what went wrong goes to stderr as one line "kvcask COMMAND: ...".
 * Threads: one.
 */
#ifndef TOOL_H
#define TOOL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include <kvcask/kvcask.h>

/* Exit status of the program and result of a command. */
enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

struct tool_option {
	const char *name;  /* "limit"; NULL ends a table */
	char letter;       /* 0: none */
	const char *value; /* what help calls its value ("N"); NULL: a flag */
	const char *text;
};

struct tool;

struct tool_command {
	const char *name; /* NULL: none is known yet */
	const char *arguments; /* for help: "KEY" */
	int least_arguments, most_arguments;
	const struct tool_option *options;
	int (*run)(struct tool *tool);
	/* Instead of options and run: the command has a parser of its own; argv[0] is its name. */
	int (*run_raw)(int argc, char **argv);
	const char *text;   /* one line */
	const char *detail; /* more lines for its own help, or NULL */
};

enum { TOOL_OPTIONS_MAX = 24, TOOL_ARGUMENTS_MAX = 4096 };

/* One run of one command. */
struct tool {
	const struct tool_command *command;
	const char *values[TOOL_OPTIONS_MAX]; /* as the options; a flag that was given is "" */
	const char *common[8];
	const char **arguments;
	int argument_count;
	bool json;
	bool help;
	const char *socket; /* NULL: looked for */
	uint64_t timeout_ns;
	bool timeout_is_default;
	struct kvc_client *client; /* opened by the first question */
};

/* ---- options.c ---- */

/* The options of all commands that are before the command, which `--help` alone may do without: how many arguments they take. TOOL_USAGE: said on stderr. */
int tool_parse_leading(int argc, char **argv, int *ret_taken);
/* argv[0] is the command's name. TOOL_USAGE: said on stderr. */
int tool_parse(struct tool *tool, const struct tool_command *command, int argc, char **argv);
void tool_help(const struct tool_command *command);
/* The manual page of all of them, for man. */
void tool_man(const struct tool_command *commands, uint32_t count);
void tool_fini(struct tool *tool);
/* The option's value: NULL when it was not given, "" for a flag. `name` must be in the command's table. */
const char *tool_value(const struct tool *tool, const char *name);
bool tool_flag(const struct tool *tool, const char *name);
/* A whole number from least to most; `otherwise` when it was not given. TOOL_USAGE: said. */
int tool_number(const struct tool *tool, const char *name, uint64_t least, uint64_t most, uint64_t otherwise, uint64_t *ret_value);
/* "500ms", "2s", "1min"; a bare number is seconds. */
int tool_duration(const struct tool *tool, const char *name, uint64_t otherwise, uint64_t *ret_ns);
bool tool_parse_duration(const char *text, uint64_t *ret_ns);
/* "4096", "64KiB", "1.5GiB". */
bool tool_parse_bytes(const char *text, uint64_t *ret_bytes);
/* "kvcask COMMAND: ..." on stderr; returns its first argument's exit status. */
int tool_usage_error(const struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tool_failed(const struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The nearest name in a list of `count`, NULL when none is near. at: of name i. */
const char *tool_nearest(const char *name, uint32_t count, const char *(*at)(const void *list, uint32_t index), const void *list);

/* ---- ask.c ---- */

/* Connects; on failure said. */
int tool_open(struct tool *tool);
/* Asks the daemon. arguments: stolen, may be NULL. On failure said, and *ret_answer is untouched; json_decref the answer. */
int tool_ask(struct tool *tool, const char *question, json_t *arguments, json_t **ret_answer);
/* The same, with a status for callers that go on; nothing is said. */
kvc_status_t tool_try(struct tool *tool, const char *question, json_t *arguments, json_t **ret_answer);
int tool_failed_status(const struct tool *tool, const char *what, kvc_status_t status);
/* Prints an answer as it came (--json). */
void tool_print_json(const json_t *answer);
/* Members by path ("memory.used_bytes"); 0, "" or false when missing or of another type. */
const json_t *tool_at(const json_t *object, const char *path);
uint64_t tool_u64(const json_t *object, const char *path);
double tool_real(const json_t *object, const char *path);
const char *tool_text(const json_t *object, const char *path);
bool tool_true(const json_t *object, const char *path);

/* ---- show.c ---- */

/* TOOL_USAGE: it is no key or beginning of one. */
int tool_check_key(const struct tool *tool, const char *key);
/* The blocks in an answer to "show", a line each. */
void tool_print_candidates(FILE *out, const json_t *answer);

/* ---- one each ---- */

int tool_run_stat(struct tool *tool);
int tool_run_spaces(struct tool *tool);
int tool_run_clients(struct tool *tool);
int tool_run_ls(struct tool *tool);
int tool_run_show(struct tool *tool);
int tool_run_match(struct tool *tool);
int tool_run_drop(struct tool *tool);
int tool_run_flush(struct tool *tool);
int tool_run_verify(struct tool *tool);
int tool_run_recode(struct tool *tool);
int tool_run_config(struct tool *tool);
int tool_run_fault(struct tool *tool);
int tool_run_loadgen(struct tool *tool);
int tool_run_calibrate(struct tool *tool);
int tool_run_profile(struct tool *tool);

#endif
