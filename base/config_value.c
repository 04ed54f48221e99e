/* SPDX-License-Identifier: Apache-2.0
 * Values of options: text to member and back. Defaults, limits and what users write all come through here. */
#include "base/config_table.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

struct config_unit {
	const char *name;
	uint64_t scale;
};

/* From the smallest up; the first that has scale 1 is what a figure without fraction is counted in. */
static const struct config_unit config_sizes[] = {
	{"B", 1},
	{"KiB", UINT64_C(1) << 10},
	{"MiB", UINT64_C(1) << 20},
	{"GiB", UINT64_C(1) << 30},
	{"TiB", UINT64_C(1) << 40},
	{NULL, 0},
};
static const struct config_unit config_times[] = {
	{"ns", 1},
	{"us", 1000},
	{"ms", 1000000},
	{"s", 1000000000},
	{"min", UINT64_C(60000000000)},
	{"h", UINT64_C(3600000000000)},
	{NULL, 0},
};
static const struct config_unit config_counts[] = {{"", 1}, {NULL, 0}};
static const struct config_unit config_percents[] = {{"", 1}, {"%", 1}, {NULL, 0}};

static const struct config_unit *config_units(enum config_type type)
{
	switch (type) {
	case CONFIG_BYTES:
		return config_sizes;
	case CONFIG_DURATION:
		return config_times;
	case CONFIG_COUNT:
		return config_counts;
	default:
		return config_percents;
	}
}

static bool config_is_number(enum config_type type)
{
	return type == CONFIG_BYTES || type == CONFIG_DURATION || type == CONFIG_COUNT || type == CONFIG_PERCENT;
}

static const struct config_unit *config_unit_named(const struct config_unit *units, const char *name)
{
	/* A bare number of bytes is a size; a bare number is no time. */
	if (units == config_sizes && *name == '\0')
		return &units[0];
	for (; units->name != NULL; units++)
		if (strcmp(units->name, name) == 0)
			return units;
	return NULL;
}

/* DIGITS[.DIGITS] [UNIT]. What overflows becomes UINT64_MAX - 1, which is over every limit. */
static bool config_parse_number(const char *text, const struct config_unit *units, uint64_t *ret_number)
{
	const uint64_t huge = UINT64_MAX - 1;
	uint64_t whole = 0, fraction = 0, divisor = 1, number;
	const struct config_unit *unit;
	bool over = false;

	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++)
		over |= __builtin_mul_overflow(whole, 10, &whole) ||
		        __builtin_add_overflow(whole, (uint64_t)(*text - '0'), &whole);
	if (*text == '.') {
		text++;
		if (*text < '0' || *text > '9')
			return false;
		for (; *text >= '0' && *text <= '9'; text++) {
			if (divisor >= 1000000) /* more digits than anyone needs */
				return false;
			fraction = fraction * 10 + (uint64_t)(*text - '0');
			divisor *= 10;
		}
	}
	while (*text == ' ')
		text++;
	unit = config_unit_named(units, text);
	if (unit == NULL || (divisor != 1 && unit->scale == 1))
		return false;
	over |= __builtin_mul_overflow(whole, unit->scale, &number);
	if (divisor != 1) /* below scale, so far from overflow: scale * 10^6 fits */
		over |= __builtin_add_overflow(number, unit->scale / divisor * fraction +
		                                               unit->scale % divisor * fraction / divisor, &number);
	*ret_number = over || number > huge ? huge : number;
	return true;
}

static bool config_parse_limited(const struct config_option *option, const char *text, uint64_t *ret_number)
{
	const struct config_unit *units = config_units(option->type);
	uint64_t number, min, max;

	if (strcmp(text, "auto") == 0 && strcmp(option->info.default_, "auto") == 0) {
		*ret_number = KVCI_CONFIG_AUTO;
		return true;
	}
	if (!config_parse_number(text, units, &number) || !config_parse_number(option->info.min, units, &min) ||
	    !config_parse_number(option->info.max, units, &max) || number < min || number > max)
		return false;
	*ret_number = number;
	return true;
}

/* Index of the word in "a|b|c", or -1. */
static int config_choice(const char *choices, const char *word)
{
	size_t length = strlen(word);

	for (int index = 0;; index++) {
		size_t choice = strcspn(choices, "|");

		if (choice == length && memcmp(choices, word, length) == 0)
			return index;
		if (choices[choice] == '\0')
			return -1;
		choices += choice + 1;
	}
}

static int config_parse_bool(const char *text)
{
	int index = config_choice("false|true|no|yes|off|on|0|1", text);

	return index < 0 ? -1 : index & 1;
}

kvc_status_t kvci_config_value_parse(const struct config_option *option, const char *text, struct kvci_config *config)
{
	void *member = (char *)config + option->offset;
	int index;

	switch (option->type) {
	case CONFIG_TEXT:
	case CONFIG_PATH: {
		char *copy = kvci_strdup(text);

		if (copy == NULL)
			return KVC_NO_MEMORY;
		kvci_free(*(char **)member);
		*(char **)member = copy;
		return KVC_OK;
	}
	case CONFIG_BOOL:
		index = config_parse_bool(text);
		if (index < 0)
			return KVC_CONFIG;
		*(bool *)member = index == 1;
		return KVC_OK;
	case CONFIG_CHOICE:
		index = config_choice(option->info.choices, text);
		if (index < 0)
			return KVC_CONFIG;
		*(uint32_t *)member = (uint32_t)index;
		return KVC_OK;
	default:
		return config_parse_limited(option, text, member) ? KVC_OK : KVC_CONFIG;
	}
}

void kvci_config_value_allowed(const struct config_option *option, char out[CONFIG_ALLOWED_BYTES])
{
	static const char *const kinds[] = {
		[CONFIG_TEXT] = "text",
		[CONFIG_PATH] = "a path",
		[CONFIG_BYTES] = "a size in B, KiB, MiB, GiB or TiB",
		[CONFIG_DURATION] = "a time in ns, us, ms, s, min or h",
		[CONFIG_COUNT] = "a whole number",
		[CONFIG_PERCENT] = "a percentage",
		[CONFIG_BOOL] = "true or false",
		[CONFIG_CHOICE] = "one of ",
	};
	size_t used = (size_t)snprintf(out, CONFIG_ALLOWED_BYTES, "%s", kinds[option->type]);

	if (config_is_number(option->type))
		snprintf(out + used, CONFIG_ALLOWED_BYTES - used, ", %s to %s%s", option->info.min, option->info.max,
		         strcmp(option->info.default_, "auto") == 0 ? ", or auto" : "");
	if (option->type != CONFIG_CHOICE)
		return;
	for (const char *choice = option->info.choices; *choice != '\0' && used < CONFIG_ALLOWED_BYTES - 3; choice++) {
		if (*choice == '|')
			out[used++] = ',';
		out[used++] = *choice == '|' ? ' ' : *choice;
	}
	out[used] = '\0';
}

void kvci_config_value_format(const struct config_option *option, const struct kvci_config *config,
                              char out[CONFIG_FORMAT_BYTES])
{
	const void *member = (const char *)config + option->offset;

	if (option->type == CONFIG_BOOL) {
		snprintf(out, CONFIG_FORMAT_BYTES, "%s", *(const bool *)member ? "true" : "false");
	} else if (option->type == CONFIG_CHOICE) {
		const char *choices = option->info.choices;

		for (uint32_t i = *(const uint32_t *)member; i > 0 && strchr(choices, '|') != NULL; i--)
			choices = strchr(choices, '|') + 1;
		snprintf(out, CONFIG_FORMAT_BYTES, "%.*s", (int)strcspn(choices, "|"), choices);
	} else if (config_is_number(option->type)) {
		const struct config_unit *units = config_units(option->type), *best = &units[0];
		uint64_t number = *(const uint64_t *)member;

		if (number == KVCI_CONFIG_AUTO) {
			snprintf(out, CONFIG_FORMAT_BYTES, "auto");
			return;
		}
		for (const struct config_unit *unit = units; unit->name != NULL; unit++)
			if (unit->scale > best->scale && number != 0 && number % unit->scale == 0)
				best = unit;
		snprintf(out, CONFIG_FORMAT_BYTES, "%llu%s", (unsigned long long)(number / best->scale), best->name);
	} else {
		out[0] = '\0';
	}
}
