/* SPDX-License-Identifier: Apache-2.0
 * kvc-gen-docs: writes the documents that are made from tables to stdout. `kvc-gen-docs WHAT`.
 * tools/dev/gen-docs puts them into docs/; a test compares. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/stats.h"

static void gen_metrics(FILE *out)
{
	fprintf(out, "<!-- Made from base/stats.def by tools/dev/gen-docs; do not edit. -->\n"
	             "# Metrics\n\n"
	             "`http.listen: ADDRESS:PORT` serves these at `/metrics` in Prometheus' text format; `kvcask stat` shows the same figures by the\n"
	             "names in the second column. Counters only grow while the daemon runs; gauges are the state at the moment.\n"
	             "Misses add up: `match_keys` is `match_hit_keys` and all `miss_*` together.\n\n"
	             "| Prometheus | kvcask stat | kind | unit | what it counts |\n|---|---|---|---|---|\n");
	for (int i = 0; i < KVCI_STAT_COUNT; i++) {
		const struct kvci_stat_info *info = kvci_stat_info((enum kvci_stat)i);
		int counter = info->kind == KVCI_STAT_COUNTER;

		fprintf(out, "| `kvcask_%s%s` | `%s` | %s | %s | %s |\n", info->name, counter ? "_total" : "", info->name,
		        counter ? "counter" : "gauge", info->unit, info->text);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";

	if (strcmp(what, "config") == 0) {
		kvci_config_print(stdout, KVCI_CONFIG_MARKDOWN);
	} else if (strcmp(what, "config-yaml") == 0) {
		kvci_config_print(stdout, KVCI_CONFIG_YAML);
	} else if (strcmp(what, "config-help") == 0) {
		kvci_config_print(stdout, KVCI_CONFIG_HELP);
	} else if (strcmp(what, "metrics") == 0) {
		gen_metrics(stdout);
	} else {
		fprintf(stderr, "usage: kvc-gen-docs config|config-yaml|config-help|metrics\n");
		return 2;
	}
	return fflush(stdout) == 0 ? 0 : 1;
}
