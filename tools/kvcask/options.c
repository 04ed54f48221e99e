/* SPDX-License-Identifier: Apache-2.0
 * Options and help of a command, from its table. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tools/kvcask/tool.h"

enum { OPTIONS_JSON, OPTIONS_SOCKET, OPTIONS_TIMEOUT, OPTIONS_HELP };

/* Every command has these. */
static const struct tool_option options_common[] = {
	[OPTIONS_JSON] = { "json", 0, NULL, "print JSON instead of a table" },
	[OPTIONS_SOCKET] = { "socket", 's', "PATH", "the daemon's socket (else $KVCASK_SOCKET, else where daemons put it)" },
	[OPTIONS_TIMEOUT] = { "timeout", 0, "TIME", "give up after this long (default 10s)" },
	[OPTIONS_HELP] = { "help", 'h', NULL, "this text" },
	{ 0 },
};

static void __attribute__((format(printf, 2, 0))) options_say(const struct tool *tool, const char *format, va_list list)
{
	fflush(stdout);
	fprintf(stderr, "kvcask%s%s: ", tool->command->name != NULL ? " " : "", tool->command->name != NULL ? tool->command->name : "");
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
}

int tool_usage_error(const struct tool *tool, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	options_say(tool, format, list);
	va_end(list);
	return TOOL_USAGE;
}

int tool_failed(const struct tool *tool, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	options_say(tool, format, list);
	va_end(list);
	return TOOL_FAILED;
}

/* ---- the nearest name ---- */

enum { OPTIONS_NAME_MAX = 31 };

static unsigned options_least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Edits from one to the other, a swap of neighbours counting as one; only the first OPTIONS_NAME_MAX characters are looked at. */
static unsigned options_distance(const char *a, const char *b)
{
	unsigned rows[3][OPTIONS_NAME_MAX + 1];
	size_t a_length = strnlen(a, OPTIONS_NAME_MAX), b_length = strnlen(b, OPTIONS_NAME_MAX);

	for (size_t j = 0; j <= b_length; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a_length; i++) {
		unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_length; j++) {
			unsigned best = options_least(above[j], row[j - 1]) + 1;

			best = options_least(best, above[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = options_least(best, two_above[j - 2] + 1);
			row[j] = best;
		}
	}
	return rows[a_length % 3][b_length];
}

const char *tool_nearest(const char *name, uint32_t count, const char *(*at)(const void *list, uint32_t index), const void *list)
{
	const char *nearest = NULL;
	unsigned least = 3 + (strlen(name) > 6);
	size_t length = strlen(name);

	for (uint32_t i = 0; i < count; i++) {
		const char *candidate = at(list, i);
		unsigned distance = options_distance(name, candidate);

		if (length >= 2 && strncmp(candidate, name, length) == 0)
			distance = 1; /* the beginning of it */
		if (distance < least && distance < strlen(candidate)) {
			least = distance;
			nearest = candidate;
		}
	}
	return nearest;
}

/* ---- parsing ---- */

static uint32_t options_count(const struct tool_option *table)
{
	uint32_t count = 0;

	while (table != NULL && table[count].name != NULL)
		count++;
	return count;
}

static const char *options_name_at(const void *list, uint32_t index)
{
	const struct tool_command *command = list;
	uint32_t own = options_count(command->options);

	return index < own ? command->options[index].name : options_common[index - own].name;
}

/* Where the value of the option goes, or NULL. */
static const char **options_find(struct tool *tool, const char *name, size_t length, char letter, const struct tool_option **ret_option)
{
	for (int common = 0; common < 2; common++) {
		const struct tool_option *table = common ? options_common : tool->command->options;
		const char **values = common ? tool->common : tool->values;

		for (uint32_t i = 0; i < options_count(table); i++)
			if (name != NULL ? strncmp(table[i].name, name, length) == 0 && table[i].name[length] == '\0'
			                 : letter != 0 && table[i].letter == letter) {
				*ret_option = &table[i];
				return &values[i];
			}
	}
	return NULL;
}

static int options_unknown(const struct tool *tool, const char *given, size_t length)
{
	char name[64];
	uint32_t count = options_count(tool->command->options) + options_count(options_common);
	const char *nearest;

	snprintf(name, sizeof(name), "%.*s", (int)length, given);
	nearest = tool_nearest(name, count, options_name_at, tool->command);
	if (nearest != NULL)
		return tool_usage_error(tool, "no option is called --%s; did you mean --%s?", name, nearest);
	if (tool->command->name == NULL)
		return tool_usage_error(tool, "no option of all commands is called --%s; those of one go behind it: see kvcask --help", name);
	return tool_usage_error(tool, "no option is called --%s; see kvcask %s --help", name, tool->command->name);
}

/* --name, --name=value, --name value; *at is the index of the last argument taken. */
static int options_parse_long(struct tool *tool, int argc, char **argv, int *at)
{
	const char *name = argv[*at] + 2, *equals = strchr(name, '=');
	size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
	const struct tool_option *option;
	const char **value = options_find(tool, name, length, 0, &option);

	if (value == NULL)
		return options_unknown(tool, name, length);
	if (option->value == NULL && equals != NULL)
		return tool_usage_error(tool, "--%s takes no value", option->name);
	if (option->value != NULL && equals == NULL && *at + 1 >= argc)
		return tool_usage_error(tool, "--%s wants a value: --%s %s", option->name, option->name, option->value);
	*value = option->value == NULL ? "" : equals != NULL ? equals + 1 : argv[++*at];
	return TOOL_OK;
}

/* -w, -sPATH, -s PATH. */
static int options_parse_short(struct tool *tool, int argc, char **argv, int *at)
{
	for (const char *letter = argv[*at] + 1; *letter != '\0'; letter++) {
		const struct tool_option *option;
		const char **value = options_find(tool, NULL, 0, *letter, &option);

		if (value == NULL && tool->command->name == NULL)
			return tool_usage_error(tool, "no option of all commands is called -%c; those of one go behind it: see kvcask --help", *letter);
		if (value == NULL)
			return tool_usage_error(tool, "no option is called -%c; see kvcask %s --help", *letter, tool->command->name);
		if (option->value == NULL) {
			*value = "";
			continue;
		}
		if (letter[1] == '\0' && *at + 1 >= argc)
			return tool_usage_error(tool, "-%c wants a value: -%c %s", *letter, *letter, option->value);
		*value = letter[1] != '\0' ? letter + 1 : argv[++*at];
		break;
	}
	return TOOL_OK;
}

int tool_parse_leading(int argc, char **argv, int *ret_taken)
{
	static const struct tool_command any = { .name = NULL };
	struct tool tool = { .command = &any };
	int at = 1, result = TOOL_OK;

	for (; result == TOOL_OK && at < argc && argv[at][0] == '-'; at++)
		result = argv[at][1] == '-' ? options_parse_long(&tool, argc, argv, &at) : options_parse_short(&tool, argc, argv, &at);
	if (result == TOOL_OK && at == argc && tool.common[OPTIONS_HELP] == NULL)
		result = tool_usage_error(&tool, "no command; see kvcask --help");
	if (result == TOOL_OK)
		*ret_taken = at - 1;
	return result;
}

static int options_check(struct tool *tool)
{
	const struct tool_command *command = tool->command;

	tool->json = tool->common[OPTIONS_JSON] != NULL;
	tool->help = tool->common[OPTIONS_HELP] != NULL;
	tool->socket = tool->common[OPTIONS_SOCKET];
	tool->timeout_ns = 10 * KVCI_SECOND;
	tool->timeout_is_default = tool->common[OPTIONS_TIMEOUT] == NULL;
	if (tool->help)
		return TOOL_OK;
	if (tool->common[OPTIONS_TIMEOUT] != NULL && !tool_parse_duration(tool->common[OPTIONS_TIMEOUT], &tool->timeout_ns))
		return tool_usage_error(tool, "--timeout: \"%s\" is no time (examples: 500ms, 2s, 1min)", tool->common[OPTIONS_TIMEOUT]);
	if (tool->socket != NULL && tool->socket[0] == '\0')
		return tool_usage_error(tool, "--socket: the path is empty");
	if (tool->argument_count < command->least_arguments)
		return tool_usage_error(tool, "%s is missing; see kvcask %s --help", command->arguments, command->name);
	if (tool->argument_count > command->most_arguments)
		return tool_usage_error(tool, "\"%s\" is one argument too many; see kvcask %s --help",
		                        tool->arguments[command->most_arguments], command->name);
	return TOOL_OK;
}

int tool_parse(struct tool *tool, const struct tool_command *command, int argc, char **argv)
{
	bool only_arguments = false;

	*tool = (struct tool){ .command = command };
	tool->arguments = kvci_alloc_zero((size_t)argc + 1, sizeof(tool->arguments[0]));
	if (tool->arguments == NULL)
		return tool_failed(tool, "%s", kvc_status_text(KVC_NO_MEMORY));
	for (int i = 1; i < argc; i++) {
		int result = TOOL_OK;

		if (only_arguments || argv[i][0] != '-' || argv[i][1] == '\0')
			tool->arguments[tool->argument_count++] = argv[i];
		else if (strcmp(argv[i], "--") == 0)
			only_arguments = true;
		else if (argv[i][1] == '-')
			result = options_parse_long(tool, argc, argv, &i);
		else
			result = options_parse_short(tool, argc, argv, &i);
		if (result != TOOL_OK)
			return result;
	}
	return options_check(tool);
}

void tool_fini(struct tool *tool)
{
	kvc_close(tool->client);
	kvci_free(tool->arguments);
	*tool = (struct tool){ 0 };
}

/* ---- values ---- */

const char *tool_value(const struct tool *tool, const char *name)
{
	for (uint32_t i = 0; i < options_count(tool->command->options); i++)
		if (strcmp(tool->command->options[i].name, name) == 0)
			return tool->values[i];
	return NULL;
}

bool tool_flag(const struct tool *tool, const char *name)
{
	return tool_value(tool, name) != NULL;
}

int tool_number(const struct tool *tool, const char *name, uint64_t least, uint64_t most, uint64_t otherwise, uint64_t *ret_value)
{
	const char *text = tool_value(tool, name);
	char *end;
	uint64_t value;

	*ret_value = otherwise;
	if (text == NULL)
		return TOOL_OK;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < least || value > most)
		return tool_usage_error(tool, "--%s: \"%s\" is no whole number from %llu to %llu", name, text,
		                        (unsigned long long)least, (unsigned long long)most);
	*ret_value = value;
	return TOOL_OK;
}

bool tool_parse_duration(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = { { "", 1e9 }, { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "min", 60e9 }, { "h", 3600e9 } };
	char *end;
	double value;

	if ((text[0] < '0' || text[0] > '9') && text[0] != '.')
		return false;
	value = strtod(text, &end);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].name) == 0 && value * units[i].ns < 1e18) {
			*ret_ns = (uint64_t)(value * units[i].ns);
			return true;
		}
	return false;
}

bool tool_parse_bytes(const char *text, uint64_t *ret_bytes)
{
	static const char *const units[] = { "", "B", "KiB", "MiB", "GiB", "TiB" };
	static const unsigned shifts[] = { 0, 0, 10, 20, 30, 40 };
	char *end;
	double value;

	if (text[0] < '0' || text[0] > '9')
		return false;
	value = strtod(text, &end);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i]) == 0 && value * (double)(UINT64_C(1) << shifts[i]) < 1e18) {
			*ret_bytes = (uint64_t)(value * (double)(UINT64_C(1) << shifts[i]));
			return true;
		}
	return false;
}

int tool_duration(const struct tool *tool, const char *name, uint64_t otherwise, uint64_t *ret_ns)
{
	const char *text = tool_value(tool, name);

	*ret_ns = otherwise;
	if (text == NULL || tool_parse_duration(text, ret_ns))
		return TOOL_OK;
	return tool_usage_error(tool, "--%s: \"%s\" is no time (examples: 500ms, 2s, 1min)", name, text);
}

/* ---- help ---- */

static void options_help_table(const struct tool_option *table)
{
	for (uint32_t i = 0; i < options_count(table); i++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s%s%s", table[i].name, table[i].value != NULL ? " " : "",
		         table[i].value != NULL ? table[i].value : "");
		if (table[i].letter != 0)
			printf("  -%c, %-20s %s\n", table[i].letter, left, table[i].text);
		else
			printf("      %-20s %s\n", left, table[i].text);
	}
}

void tool_help(const struct tool_command *command)
{
	printf("usage: kvcask %s%s%s [OPTION]...\n\n%c%s.\n", command->name, command->arguments != NULL ? " " : "",
	       command->arguments != NULL ? command->arguments : "", command->text[0] - ('a' - 'A'), command->text + 1);
	if (command->detail != NULL)
		printf("%s\n", command->detail);
	printf("\nOptions\n");
	options_help_table(command->options);
	options_help_table(options_common);
}

/* ---- the manual page ---- */

/* Text for roff: a hyphen is a minus there, a leading dot or quote a request, a backslash an escape. */
static void options_roff(const char *text)
{
	bool begins = true;

	for (; *text != '\0'; text++) {
		if (begins && (*text == '.' || *text == '\''))
			fputs("\\&", stdout);
		if (*text == '-')
			fputs("\\-", stdout);
		else if (*text == '\\')
			fputs("\\e", stdout);
		else
			putchar(*text);
		begins = *text == '\n';
	}
}

static void options_man_table(const struct tool_option *table)
{
	for (uint32_t i = 0; i < options_count(table); i++) {
		fputs(".TP\n.B ", stdout);
		if (table[i].letter != 0)
			printf("\\-%c, ", table[i].letter);
		fputs("\\-\\-", stdout);
		options_roff(table[i].name);
		if (table[i].value != NULL)
			printf(" %s", table[i].value);
		putchar('\n');
		options_roff(table[i].text);
		putchar('\n');
	}
}

void tool_man(const struct tool_command *commands, uint32_t count)
{
	printf(".\\\" Made by `kvcask --man`.\n.TH KVCASK 1 \"\" \"kvcask %s\" \"User Commands\"\n"
	       ".SH NAME\nkvcask \\- look into a running kvcaskd, and steer it\n"
	       ".SH SYNOPSIS\n.B kvcask\n.I COMMAND\n[OPTION]...\n"
	       ".SH DESCRIPTION\nAnswers go to standard output: tables for people, or JSON. The daemon is found by\n.BR \\-\\-socket ,\n"
	       "else $KVCASK_SOCKET, else where daemons put their socket.\n.SH OPTIONS OF ALL COMMANDS\nThey go before the command or behind it.\n",
	       kvc_version());
	options_man_table(options_common);
	puts(".SH COMMANDS");
	for (uint32_t i = 0; i < count; i++) {
		const struct tool_command *command = &commands[i];

		printf(".SS kvcask %s %s\n", command->name, command->arguments != NULL ? command->arguments : "");
		printf("%c", command->text[0] - ('a' - 'A'));
		options_roff(command->text + 1);
		puts(".");
		if (command->detail != NULL)
			options_roff(command->detail);
		if (command->detail != NULL)
			putchar('\n');
		options_man_table(command->options);
	}
	puts(".SH EXIT STATUS\n0 well, 1 failed, 2 wrong usage.\n.SH SEE ALSO\n.BR kvcaskd (8)");
}
