/* SPDX-License-Identifier: Apache-2.0
 *
 * Parser of fault texts. It is called with what an operator typed or a config file holds: every word is checked and named
 * when it is wrong.
 */
#include "tiers/filter/spec.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

struct spec_word {
	const char *name;
	int64_t value;
};

static const struct spec_word spec_ops[] = {
	{"read", KVCI_FILTER_READ}, {"write", KVCI_FILTER_WRITE}, {"flush", KVCI_FILTER_FLUSH}, {"drop", KVCI_FILTER_DROP},
	{"any", KVCI_FILTER_READ | KVCI_FILTER_WRITE | KVCI_FILTER_FLUSH | KVCI_FILTER_DROP}, {NULL, 0},
};

static const struct spec_word spec_statuses[] = {
	{"io", KVC_IO}, {"full", KVC_DISK_FULL}, {"corrupt", KVC_CORRUPT}, {"miss", KVC_MISS}, {"busy", KVC_BUSY},
	{"gone", KVC_GONE}, {"timed_out", KVC_TIMED_OUT}, {NULL, 0},
};

static const struct spec_word spec_units[] = {
	{"ns", 1}, {"us", 1000}, {"ms", KVCI_MS}, {"s", KVCI_SECOND}, {"min", 60 * KVCI_SECOND}, {NULL, 0},
};

static bool spec_look_up(const struct spec_word *words, const char *name, int64_t *ret_value)
{
	for (; words->name != NULL; words++) {
		if (strcmp(words->name, name) == 0) {
			*ret_value = words->value;
			return true;
		}
	}
	return false;
}

/* Digits, then a unit when units are given; nothing else. */
static bool spec_number(const char *text, const struct spec_word *units, uint64_t *ret_number)
{
	char *end;
	unsigned long long number;
	int64_t unit = 1;

	if (text == NULL || *text < '0' || *text > '9')
		return false;
	number = strtoull(text, &end, 10);
	if (units != NULL ? !spec_look_up(units, end, &unit) : *end != '\0')
		return false;
	return !__builtin_mul_overflow((uint64_t)number, (uint64_t)unit, ret_number);
}

/* What the rule does. NULL when the word names no action. */
static bool spec_action(struct kvci_filter_rule *rule, const char *name, const char *value)
{
	int64_t status = KVC_IO;

	if (strcmp(name, "fail") == 0 && (value == NULL || spec_look_up(spec_statuses, value, &status))) {
		rule->action = KVCI_FILTER_FAIL;
		rule->status = (kvc_status_t)status;
	} else if (strcmp(name, "full") == 0 && value == NULL) {
		rule->action = KVCI_FILTER_FAIL;
		rule->status = KVC_DISK_FULL;
	} else if (strcmp(name, "flip") == 0 && value == NULL) {
		rule->action = KVCI_FILTER_FLIP;
	} else if (strcmp(name, "torn") == 0 && value == NULL && rule->ops == KVCI_FILTER_WRITE) {
		rule->action = KVCI_FILTER_TORN;
	} else if (strcmp(name, "hang") == 0 && value == NULL) {
		rule->action = KVCI_FILTER_HANG;
	} else if (strcmp(name, "delay") == 0 && spec_number(value, spec_units, &rule->delay_ns)) {
		rule->action = KVCI_FILTER_DELAY;
	} else {
		return false;
	}
	return true;
}

/* When it does it. */
static bool spec_condition(struct kvci_filter_rule *rule, const char *name, const char *value)
{
	uint64_t number;

	if (!spec_number(value, NULL, &number))
		return false;
	if (strcmp(name, "every") == 0 && number != 0)
		rule->every = number;
	else if (strcmp(name, "after") == 0)
		rule->after = number;
	else if (strcmp(name, "count") == 0 && number != 0)
		rule->count = number;
	else if (strcmp(name, "percent") == 0 && number <= 100)
		rule->percent = (uint32_t)number;
	else
		return false;
	return true;
}

/* One rule, "op:action[=value][,condition=value]...", already apart from the others. Returns the word that is wrong, or NULL. */
static const char *spec_rule(struct kvci_filter_spec *spec, char *text)
{
	struct kvci_filter_rule rule = {.percent = 100};
	char *rest = strchr(text, ':');
	int64_t ops;

	if (rest == NULL) {
		uint64_t seed;

		if (strncmp(text, "seed=", 5) != 0 || !spec_number(text + 5, NULL, &seed))
			return text;
		spec->random = seed;
		return NULL;
	}
	*rest++ = '\0';
	if (!spec_look_up(spec_ops, text, &ops))
		return text;
	rule.ops = (uint32_t)ops;
	for (char *save = NULL, *word = strtok_r(rest, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
		char *value = strchr(word, '=');

		if (value != NULL)
			*value++ = '\0';
		if (rule.action == 0 ? !spec_action(&rule, word, value) : !spec_condition(&rule, word, value))
			return word;
	}
	if (rule.action == 0 || spec->rule_count == KVCI_FILTER_RULES_MAX)
		return text;
	spec->rules[spec->rule_count++] = rule;
	return NULL;
}

kvc_status_t kvci_filter_spec_parse(const char *text, struct kvci_filter_spec *ret_spec, char **ret_error)
{
	struct kvci_filter_spec spec = {.random = 1};
	char work[KVCI_FILTER_TEXT_MAX];

	if (text == NULL)
		text = "";
	if (strlen(text) >= sizeof(work)) {
		*ret_error = kvci_asprintf("the fault text is longer than %zu characters", sizeof(work) - 1);
		return KVC_CONFIG;
	}
	strcpy(spec.text, text);
	strcpy(work, text);
	for (char *save = NULL, *rule = strtok_r(work, "; \n", &save); rule != NULL; rule = strtok_r(NULL, "; \n", &save)) {
		const char *wrong = spec_rule(&spec, rule);

		if (wrong != NULL) {
			*ret_error = kvci_asprintf("fault text: '%s' is not understood; a rule is "
			                           "read|write|flush|drop|any : fail[=io|full|corrupt|miss|busy|gone|timed_out]|full|flip|"
			                           "torn (write only)|hang|delay=TIME [,every=N][,after=N][,count=N][,percent=N]; "
			                           "rules are parted by ';'", wrong);
			return KVC_CONFIG;
		}
	}
	*ret_spec = spec;
	return KVC_OK;
}

uint64_t kvci_filter_spec_random(struct kvci_filter_spec *spec)
{
	uint64_t z = (spec->random += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static bool spec_fires(struct kvci_filter_spec *spec, struct kvci_filter_rule *rule)
{
	uint64_t turn;

	if (rule->seen++ < rule->after)
		return false;
	turn = rule->seen - rule->after;
	if (rule->every != 0 && turn % rule->every != 0)
		return false;
	if (rule->count != 0 && rule->fired == rule->count)
		return false;
	if (rule->percent < 100 && kvci_filter_spec_random(spec) % 100 >= rule->percent)
		return false;
	rule->fired++;
	return true;
}

const struct kvci_filter_rule *kvci_filter_spec_pick(struct kvci_filter_spec *spec, enum kvci_filter_op op, uint32_t actions)
{
	const struct kvci_filter_rule *picked = NULL;

	for (uint32_t i = 0; i < spec->rule_count; i++) {
		struct kvci_filter_rule *rule = &spec->rules[i];

		if ((rule->ops & op) != 0 && (rule->action & actions) != 0 && spec_fires(spec, rule) && picked == NULL)
			picked = rule;
	}
	return picked;
}

bool kvci_filter_spec_has(const struct kvci_filter_spec *spec, enum kvci_filter_op op, uint32_t actions)
{
	for (uint32_t i = 0; i < spec->rule_count; i++) {
		if ((spec->rules[i].ops & op) != 0 && (spec->rules[i].action & actions) != 0)
			return true;
	}
	return false;
}
