/* SPDX-License-Identifier: Apache-2.0
 * The options of the disk tier, from text. The daemon's config has checked them once; tools and tests come straight here. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "tiers/disk/folder.h"

static bool options_bytes(const char *text, uint64_t *ret_bytes)
{
	static const struct { const char *unit; unsigned shift; } units[] = {
		{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40},
	};
	char *end;
	unsigned long long number;

	if (strcmp(text, "auto") == 0) {
		*ret_bytes = 0;
		return true;
	}
	if (*text < '0' || *text > '9')
		return false;
	number = strtoull(text, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		if (number == 0 || number > UINT64_MAX >> units[i].shift)
			return false;
		*ret_bytes = (uint64_t)number << units[i].shift;
		return true;
	}
	return false;
}

static bool options_choice(const char *text, const char *const *choices, int *ret_choice)
{
	for (int i = 0; choices[i] != NULL; i++) {
		if (strcmp(text, choices[i]) == 0) {
			*ret_choice = i;
			return true;
		}
	}
	return false;
}

static bool options_count(const char *text, uint32_t max, uint32_t *ret_count)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0' || number == 0 || number > max)
		return false;
	*ret_count = (uint32_t)number;
	return true;
}

static bool options_one(const struct kvc_tier_option *option, struct kvci_disk_options *options)
{
	static const char *const ios[] = {"auto", "uring", "threads", NULL};
	static const char *const registers[] = {"auto", "on", "off", NULL};
	const char *value = option->value;
	int choice = 0;

	if (strcmp(option->key, "folder") == 0) {
		options->folder = value;
		return *value != '\0';
	}
	if (strcmp(option->key, "capacity") == 0)
		return options_bytes(value, &options->capacity_bytes);
	if (strcmp(option->key, "segment") == 0)
		return options_bytes(value, &options->segment_bytes);
	if (strcmp(option->key, "queue_depth") == 0)
		return options_count(value, 1024, &options->queue_depth);
	if (strcmp(option->key, "check_threads") == 0)
		return strcmp(value, "auto") == 0 || options_count(value, 64, &options->check_threads);
	if (strcmp(option->key, "io") == 0) {
		if (!options_choice(value, ios, &choice))
			return false;
		options->io = (enum kvci_disk_engine_choice)choice;
		return true;
	}
	if (strcmp(option->key, "register") == 0) {
		if (!options_choice(value, registers, &choice))
			return false;
		options->registering = (enum kvci_disk_register)choice;
		return true;
	}
	return false;
}

kvc_status_t kvci_disk_options_parse(const struct kvc_tier_option *options, struct kvci_disk_options *ret_options,
                                     char **ret_error)
{
	unsigned half = kvci_cpu_count() / 2;
	struct kvci_disk_options parsed = {.queue_depth = 16, .check_threads = half < 1 ? 1 : half > 4 ? 4 : half};

	for (; options->key != NULL; options++) {
		if (options->value == NULL || !options_one(options, &parsed)) {
			*ret_error = kvci_asprintf("the disk tier does not understand %s = %s", options->key,
			                           options->value != NULL ? options->value : "(nothing)");
			return KVC_CONFIG;
		}
	}
	if (parsed.folder == NULL) {
		*ret_error = kvci_strdup("the disk tier needs a folder");
		return KVC_CONFIG;
	}
	*ret_options = parsed;
	return KVC_OK;
}
