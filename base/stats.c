/* SPDX-License-Identifier: Apache-2.0
 * The statistics table as data. */
#include "base/stats.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>

enum { STATS_NAME_BYTES = 48 };

#define COUNTER KVCI_STAT_COUNTER
#define GAUGE KVCI_STAT_GAUGE
#define KVCI_STAT(name, kind, unit, text)                                                          \
	_Static_assert(sizeof(text) > 1 && sizeof(unit) > 1, #name " has no text or unit");         \
	_Static_assert(sizeof(#name) <= STATS_NAME_BYTES, #name " is too long");
#include "base/stats.def"
#undef KVCI_STAT

static struct kvci_stat_info stats_table[KVCI_STAT_COUNT] = {
#define KVCI_STAT(name, kind, unit, text) {#name, kind, unit, text},
#include "base/stats.def"
#undef KVCI_STAT
};
static char stats_names[KVCI_STAT_COUNT][STATS_NAME_BYTES];
static pthread_once_t stats_once = PTHREAD_ONCE_INIT;

static void stats_lower_names(void)
{
	for (unsigned i = 0; i < KVCI_STAT_COUNT; i++) {
		const char *upper = stats_table[i].name;

		for (size_t c = 0; upper[c] != '\0'; c++)
			stats_names[i][c] = upper[c] >= 'A' && upper[c] <= 'Z' ? (char)(upper[c] + 32) : upper[c];
		stats_table[i].name = stats_names[i];
	}
}

const struct kvci_stat_info *kvci_stat_info(enum kvci_stat stat)
{
	pthread_once(&stats_once, stats_lower_names);
	return (unsigned)stat < KVCI_STAT_COUNT ? &stats_table[stat] : NULL;
}
