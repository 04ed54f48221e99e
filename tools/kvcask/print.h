/* SPDX-License-Identifier: Apache-2.0
 * Output for people: numbers with units, tables, progress bars.
 * Text of others (model names, client names) never reaches a terminal with control characters in it. Threads: one. */
#ifndef TOOL_PRINT_H
#define TOOL_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- numbers: each writes into one of a few static buffers and returns it; good for at least 16 calls ---- */

const char *print_bytes(uint64_t bytes);     /* "0 B", "4.0 KiB", "1.5 GiB" */
const char *print_rate(double bytes_per_s);  /* "1.5 GiB/s" */
const char *print_count(uint64_t count);     /* "12,345", "12.3 M" from ten million on */
const char *print_duration(double seconds);  /* "12 us", "3.4 ms", "2.0 s", "3 min 20 s", "5 h 3 min", "12 d 4 h" */
const char *print_percent(uint64_t part, uint64_t whole); /* "97 %", "99.7 %"; "-" of nothing */
const char *print_hex(const char *hex, unsigned digits);  /* the first digits of it */

/* ---- tables ---- */

struct print_column {
	const char *title;
	bool right;    /* numbers */
	bool flexible; /* cut, with "...", when the terminal is too narrow; at most one column */
};

struct print_table; /* rows are kept until printed: widths are known then */

struct print_table *print_table_begin(const struct print_column *columns, uint32_t count); /* NULL: no memory; then the rest does nothing */
void print_cell(struct print_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints, frees. title: printed only above tables that are not empty; empty: the line for those that are. */
void print_table_end(struct print_table *table, FILE *out, const char *empty);

/* "  name   value" lines, aligned. */
void print_pair(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A text, control characters as '?', with a newline. */
void print_line(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Columns of the terminal at stdout; 0: it is none (then nothing is cut). */
unsigned print_terminal_columns(void);

/* ---- progress: on stderr, only when that is a terminal, and only for what has taken over a second ---- */

struct print_progress {
	const char *what;
	uint64_t begin_ns, shown_ns;
	bool shown;
};
void print_progress_begin(struct print_progress *progress, const char *what);
/* done of total, in bytes or pieces. */
void print_progress_show(struct print_progress *progress, uint64_t done, uint64_t total, bool bytes);
void print_progress_end(struct print_progress *progress);

#endif
