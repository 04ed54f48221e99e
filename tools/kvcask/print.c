/* SPDX-License-Identifier: Apache-2.0
 * Numbers with units, and tables. */
#include "tools/kvcask/print.h"

#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"

enum { PRINT_BUFFERS = 32, PRINT_BUFFER_BYTES = 96, PRINT_PAIR_COLUMNS = 22, PRINT_NARROWEST = 12, PRINT_GAP = 2 };

static char *print_buffer(void)
{
	static char buffers[PRINT_BUFFERS][PRINT_BUFFER_BYTES];
	static unsigned next;

	return buffers[next++ % PRINT_BUFFERS];
}

/* ---- numbers ---- */

const char *print_bytes(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	char *text = print_buffer();
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(text, PRINT_BUFFER_BYTES, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return text;
}

const char *print_rate(double bytes_per_s)
{
	char *text = print_buffer();

	snprintf(text, PRINT_BUFFER_BYTES, "%s/s", print_bytes(bytes_per_s > 0 ? (uint64_t)bytes_per_s : 0));
	return text;
}

const char *print_count(uint64_t count)
{
	static const char *const units[] = { "M", "G", "T" };
	char *text = print_buffer(), digits[32];
	double value = (double)count / 1e6;
	unsigned unit = 0;
	size_t length, to = 0;

	if (count >= 10000000) {
		while (value >= 999.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
			value /= 1000;
			unit++;
		}
		snprintf(text, PRINT_BUFFER_BYTES, "%.1f %s", value, units[unit]);
		return text;
	}
	length = (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);
	for (size_t i = 0; i < length; i++) {
		if (i != 0 && (length - i) % 3 == 0)
			text[to++] = ',';
		text[to++] = digits[i];
	}
	text[to] = '\0';
	return text;
}

const char *print_duration(double seconds)
{
	char *text = print_buffer();
	unsigned long long whole = seconds > 0 && seconds < 1e15 ? (unsigned long long)(seconds + 0.5) : 0;

	if (seconds <= 0)
		snprintf(text, PRINT_BUFFER_BYTES, "0 s");
	else if (seconds < 999.5e-9)
		snprintf(text, PRINT_BUFFER_BYTES, "%.0f ns", seconds * 1e9);
	else if (seconds < 999.5e-6)
		snprintf(text, PRINT_BUFFER_BYTES, seconds < 9.95e-6 ? "%.1f us" : "%.0f us", seconds * 1e6);
	else if (seconds < 0.9995)
		snprintf(text, PRINT_BUFFER_BYTES, seconds < 9.95e-3 ? "%.1f ms" : "%.0f ms", seconds * 1e3);
	else if (seconds < 59.95)
		snprintf(text, PRINT_BUFFER_BYTES, "%.1f s", seconds);
	else if (whole < 3600)
		snprintf(text, PRINT_BUFFER_BYTES, "%llu min %llu s", whole / 60, whole % 60);
	else if (whole < 86400)
		snprintf(text, PRINT_BUFFER_BYTES, "%llu h %llu min", whole / 3600, whole / 60 % 60);
	else
		snprintf(text, PRINT_BUFFER_BYTES, "%llu d %llu h", whole / 86400, whole / 3600 % 24);
	return text;
}

const char *print_percent(uint64_t part, uint64_t whole)
{
	char *text = print_buffer();
	double percent = whole != 0 ? 100.0 * (double)part / (double)whole : 0;

	if (whole == 0)
		return "-";
	/* Nothing but all is 100 %, nothing but none is 0 %. */
	if (percent > 99.9 && part < whole)
		percent = 99.9;
	if (percent < 0.1 && part > 0)
		percent = 0.1;
	snprintf(text, PRINT_BUFFER_BYTES, percent == (double)(unsigned)percent ? "%.0f %%" : "%.1f %%", percent);
	return text;
}

const char *print_hex(const char *hex, unsigned digits)
{
	char *text = print_buffer();

	snprintf(text, PRINT_BUFFER_BYTES, "%.*s", (int)digits, hex);
	return text;
}

/* ---- lines ---- */

unsigned print_terminal_columns(void)
{
	struct winsize size;

	if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
		return 0;
	return size.ws_col;
}

/* Control characters, also those that UTF-8 hides in two bytes (C1), would steer the terminal. */
static void print_clean(char *text)
{
	unsigned char *at = (unsigned char *)text;

	for (; *at != '\0'; at++) {
		if (*at < 0x20 || *at == 0x7f)
			*at = '?';
		else if (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)
			at[0] = at[1] = '?';
	}
}

static char *__attribute__((format(printf, 1, 0))) print_clean_format(const char *format, va_list list)
{
	char short_text[512], *text;
	va_list again;
	int length;

	va_copy(again, list);
	length = vsnprintf(short_text, sizeof(short_text), format, list);
	text = length < 0 ? NULL : kvci_alloc((size_t)length + 1);
	if (text != NULL) {
		vsnprintf(text, (size_t)length + 1, format, again);
		print_clean(text);
	}
	va_end(again);
	return text;
}

void print_line(FILE *out, const char *format, ...)
{
	va_list list;
	char *text;

	va_start(list, format);
	text = print_clean_format(format, list);
	va_end(list);
	fprintf(out, "%s\n", text != NULL ? text : "");
	kvci_free(text);
}

void print_pair(const char *name, const char *format, ...)
{
	va_list list;
	char *text;

	va_start(list, format);
	text = print_clean_format(format, list);
	va_end(list);
	printf("  %-*s %s\n", PRINT_PAIR_COLUMNS, name, text != NULL ? text : "");
	kvci_free(text);
}

/* ---- tables ---- */

struct print_table {
	struct print_column *columns;
	uint32_t column_count;
	char **cells;
	uint32_t count, room;
	bool failed;
};

/* Characters, not bytes; wide ones count once. */
static uint32_t print_width(const char *text)
{
	uint32_t width = 0;

	for (; *text != '\0'; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

struct print_table *print_table_begin(const struct print_column *columns, uint32_t count)
{
	struct print_table *table = kvci_alloc_zero(1, sizeof(*table));

	if (table == NULL)
		return NULL;
	table->columns = kvci_alloc_zero(count, sizeof(columns[0]));
	if (table->columns == NULL) {
		kvci_free(table);
		return NULL;
	}
	memcpy(table->columns, columns, count * sizeof(columns[0]));
	table->column_count = count;
	return table;
}

void print_cell(struct print_table *table, const char *format, ...)
{
	va_list list;

	if (table == NULL || table->failed)
		return;
	if (table->count == table->room) {
		uint32_t room = table->room != 0 ? 2 * table->room : 64;
		char **cells = kvci_realloc(table->cells, room * sizeof(cells[0]));

		table->failed = cells == NULL;
		if (table->failed)
			return;
		table->cells = cells;
		table->room = room;
	}
	va_start(list, format);
	table->cells[table->count] = print_clean_format(format, list);
	va_end(list);
	table->failed = table->cells[table->count] == NULL;
	table->count += !table->failed;
}

/* The flexible column gives way when the terminal is too narrow for all. */
static void print_fit(const struct print_table *table, uint32_t *widths)
{
	uint32_t columns = print_terminal_columns(), sum = 0;

	for (uint32_t c = 0; c < table->column_count; c++)
		sum += widths[c] + (c != 0 ? PRINT_GAP : 0);
	if (columns == 0 || sum <= columns)
		return;
	for (uint32_t c = 0; c < table->column_count; c++)
		if (table->columns[c].flexible && widths[c] > PRINT_NARROWEST) {
			uint32_t over = sum - columns;

			widths[c] = widths[c] - PRINT_NARROWEST > over ? widths[c] - over : PRINT_NARROWEST;
		}
}

/* *spaces: blanks that are owed before the next text, so that no line ends with them. */
static void print_one_cell(FILE *out, const char *text, uint32_t width, bool right, uint32_t *spaces)
{
	uint32_t own = print_width(text), shown = own > width ? width : own;

	if (right)
		*spaces += width - shown;
	if (shown != 0)
		fprintf(out, "%*s", (int)*spaces, "");
	if (own > width) { /* cut at a character */
		uint32_t kept = 0;

		for (; *text != '\0' && kept + 3 < width; text++) {
			fputc(*text, out);
			kept += ((unsigned char)text[1] & 0xc0) != 0x80;
		}
		fputs("...", out);
	} else {
		fputs(text, out);
	}
	*spaces = (shown != 0 ? 0 : *spaces) + (right ? 0 : width - shown) + PRINT_GAP;
}

static void print_table_free(struct print_table *table)
{
	for (uint32_t i = 0; i < table->count; i++)
		kvci_free(table->cells[i]);
	kvci_free(table->cells);
	kvci_free(table->columns);
	kvci_free(table);
}

void print_table_end(struct print_table *table, FILE *out, const char *empty)
{
	uint32_t columns, *widths, spaces = 0;

	if (table == NULL)
		return;
	columns = table->column_count;
	widths = kvci_alloc_zero(columns, sizeof(widths[0]));
	if (table->count == 0 && !table->failed && empty != NULL) {
		fprintf(out, "%s\n", empty);
	} else if (widths != NULL && !table->failed) {
		for (uint32_t c = 0; c < columns; c++)
			widths[c] = print_width(table->columns[c].title);
		for (uint32_t i = 0; i < table->count; i++)
			if (print_width(table->cells[i]) > widths[i % columns])
				widths[i % columns] = print_width(table->cells[i]);
		print_fit(table, widths);
		for (uint32_t i = 0; i < columns + table->count; i++) {
			uint32_t c = i % columns;

			if (c == 0)
				spaces = 0;
			print_one_cell(out, i < columns ? table->columns[c].title : table->cells[i - columns], widths[c],
			               table->columns[c].right, &spaces);
			if (c + 1 == columns)
				fputc('\n', out);
		}
	} else {
		fprintf(stderr, "kvcask: out of memory\n");
	}
	kvci_free(widths);
	print_table_free(table);
}
