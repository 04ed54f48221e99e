/* SPDX-License-Identifier: Apache-2.0
 * kvc-gen-docs: writes the documents that are made from tables to stdout. `kvc-gen-docs WHAT`.
 * tools/dev/gen-docs puts them into docs/; a test compares. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/stats.h"

/* What daemon/metrics.c makes besides the table's figures (base knows nothing of it: tests/unit/daemon/test_metrics.c compares). */
static const char gen_metrics_more[] =
	"\n## Besides the table\n\n"
	"| Prometheus | kind | labels | what it tells |\n|---|---|---|---|\n"
	"| `kvcask_build_info` | gauge, always 1 | `version` | which daemon this is |\n"
	"| `kvcask_miss_keys_total` | counter | `cause`: the name behind `miss_` above | the misses as one metric that can be summed by cause: "
	"`kvcask_match_keys_total` is `kvcask_match_hit_keys_total` and all causes together |\n\n"
	"## Latencies\n\n"
	"Histograms in seconds: `_bucket{le=...}` is how many took at most so long (bounds are powers of two of nanoseconds, 1 us to 34 s), `_sum` and\n"
	"`_count` are of all. `kvcask stat` shows their medians and 99th percentiles, as the bound of the bucket in which they lie. Example: the 99th\n"
	"percentile over five minutes is `histogram_quantile(0.99, rate(kvcask_match_seconds_bucket[5m]))`.\n\n"
	"| Prometheus | what is measured |\n|---|---|\n"
	"| `kvcask_match_seconds` | a match, from its message to its answer |\n"
	"| `kvcask_load_seconds` | a load, from its message until every block has a status |\n"
	"| `kvcask_commit_seconds` | a store's commit, from its message to its answer |\n"
	"| `kvcask_disk_read_seconds` | one read of a record, given to the disk tier until it is checked |\n"
	"| `kvcask_disk_write_seconds` | one write of a record |\n";

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
	fputs(gen_metrics_more, out);
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
