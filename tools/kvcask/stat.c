/* SPDX-License-Identifier: Apache-2.0
 * kvcask stat: the daemon at a glance, or a line of rates every so often. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { STAT_HEAD_EVERY = 20 };

static uint64_t stat_of(const json_t *answer, const char *name)
{
	return tool_u64(tool_at(answer, "stats"), name);
}

/* "never_stored" -> "never stored". */
static const char *stat_words(const char *name, char *text, size_t room)
{
	snprintf(text, room, "%s", name);
	for (char *at = text; *at != '\0'; at++)
		if (*at == '_')
			*at = ' ';
	return text;
}

static void stat_print_head(const json_t *answer)
{
	const char *data_dir = tool_text(answer, "data_dir"), *disk = tool_text(answer, "disk");
	double up_s = (double)tool_u64(answer, "uptime_ns") / 1e9;

	print_line(stdout, "kvcask %s, process %llu, up %s: %s", tool_text(answer, "version"),
	           (unsigned long long)tool_u64(answer, "pid"), print_duration(up_s),
	           tool_true(answer, "ready")           ? "ready"
	           : tool_true(answer, "index_loading") ? "the index is being loaded"
	                                                : "not ready");
	if (strcmp(disk, "ok") != 0 && strcmp(disk, "none") != 0)
		print_pair("disk", "%s: %s", disk, tool_text(answer, "disk_text"));
	print_pair("folder", "%s", data_dir[0] != '\0' ? data_dir : "none: memory only");
}

/* What codecs save, how fast they are, what auto chose. */
static void stat_print_coding(const json_t *answer)
{
	const json_t *coding = tool_at(answer, "coding");
	const char *choice = tool_text(coding, "choice"), *profiled = tool_text(coding, "choice_profiled");
	json_t *codec;
	size_t i;

	if (coding == NULL)
		return;
	print_pair("  codec", "%s%s: %s saved on disk (%s as %s, %.2fx)", choice, strcmp(tool_text(coding, "mode"), "auto") == 0 ? ", chosen" : "",
	           print_bytes(tool_u64(coding, "saved_bytes")), print_bytes(tool_u64(coding, "raw_bytes")),
	           print_bytes(tool_u64(coding, "stored_bytes")), tool_real(coding, "ratio"));
	if (profiled[0] != '\0' && strcmp(profiled, choice) != 0)
		print_pair("  with profile", "%s, chosen where the space's model has a profile", profiled);
	if (tool_text(coding, "why")[0] != '\0')
		print_pair("  because", "%s", tool_text(coding, "why"));
	print_pair("  records", "%s packed, %s raw (%s in a hurry)", print_count(stat_of(answer, "coded_writes")),
	           print_count(stat_of(answer, "coded_raw_writes")), print_count(stat_of(answer, "coded_hurried_writes")));
	json_array_foreach((json_t *)(uintptr_t)tool_at(coding, "codecs"), i, codec)
		print_pair("  speed", "%s packs %s, unpacks %s a thread (%llu threads) to %.2f of the bytes%s", tool_text(codec, "codec"),
		           print_rate((double)tool_u64(codec, "encode_bytes_per_s")), print_rate((double)tool_u64(codec, "decode_bytes_per_s")),
		           (unsigned long long)tool_u64(coding, "threads"), tool_real(codec, "stored_share"),
		           tool_true(codec, "used") ? "" : ": too slow for this device");
}

static void stat_print_places(const json_t *answer)
{
	uint64_t memory = stat_of(answer, "memory_capacity_bytes"), disk = tool_u64(answer, "sizes.disk_bytes");
	uint64_t used = stat_of(answer, "memory_used_bytes"), disk_used = stat_of(answer, "device_used_bytes");

	print_pair("memory", "%s of %s (%s), %s blocks", print_bytes(used), print_bytes(memory), print_percent(used, memory),
	           print_count(stat_of(answer, "memory_blocks")));
	print_pair("  held", "%s leased, %s being written by clients, %s quarantined", print_bytes(stat_of(answer, "leased_bytes")),
	           print_bytes(stat_of(answer, "reserved_bytes")), print_bytes(stat_of(answer, "quarantined_bytes")));
	if (disk != 0)
		print_pair("disk", "%s of %s (%s), %s blocks, %s waiting to be written", print_bytes(disk_used), print_bytes(disk),
		           print_percent(disk_used, disk), print_count(stat_of(answer, "disk_blocks")),
		           print_bytes(stat_of(answer, "write_queue_bytes")));
	stat_print_coding(answer);
	print_pair("clients", "%s", print_count(stat_of(answer, "clients")));
}

static void stat_print_misses(const json_t *answer)
{
	static const struct print_column columns[] = { { "    missed because", false, false }, { "keys", true, false } };
	struct print_table *table = NULL;
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)tool_at(answer, "stats"), name, value) {
		char words[64];

		if (strncmp(name, "miss_", 5) != 0 || json_integer_value(value) == 0)
			continue;
		if (table == NULL)
			table = print_table_begin(columns, 2);
		print_cell(table, "    %s", stat_words(name + 5, words, sizeof(words)));
		print_cell(table, "%s", print_count((uint64_t)json_integer_value(value)));
	}
	print_table_end(table, stdout, NULL);
}

static void stat_print_work(const json_t *answer)
{
	uint64_t keys = stat_of(answer, "match_keys"), hits = stat_of(answer, "match_hit_keys");
	uint64_t dropped = stat_of(answer, "disk_write_dropped"), damaged = stat_of(answer, "damaged_blocks");

	print_pair("matches", "%s, of %s keys %s hit (%s)", print_count(stat_of(answer, "match_calls")), print_count(keys),
	           print_count(hits), print_percent(hits, keys));
	stat_print_misses(answer);
	print_pair("stored", "%s blocks, %s", print_count(stat_of(answer, "commit_blocks")), print_bytes(stat_of(answer, "commit_bytes")));
	print_pair("loaded", "%s blocks; %s could not be", print_count(stat_of(answer, "load_blocks")),
	           print_count(stat_of(answer, "load_failed_blocks")));
	print_pair("evicted", "%s blocks that are still on disk, %s for good", print_count(stat_of(answer, "evict_disk_blocks")),
	           print_count(stat_of(answer, "evict_lost_blocks")));
	if (tool_u64(answer, "sizes.disk_bytes") != 0)
		print_pair("disk", "%s blocks read (%s), %s written (%s)", print_count(stat_of(answer, "disk_read_blocks")),
		           print_bytes(stat_of(answer, "disk_read_bytes")), print_count(stat_of(answer, "disk_write_blocks")),
		           print_bytes(stat_of(answer, "disk_write_bytes")));
	if (dropped != 0)
		print_pair("  not written", "%s blocks: queue full, disk paused, or evicted before", print_count(dropped));
	if (damaged != 0)
		print_pair("damaged", "%s blocks found and dropped", print_count(damaged));
}

static const char *stat_us(double us)
{
	return us > 0 ? print_duration(us / 1e6) : "-";
}

static void stat_print_latencies(const json_t *answer)
{
	static const struct print_column columns[] = {
		{ "  latency", false, false }, { "count", true, false }, { "mean", true, false },
		{ "p50 <=", true, false },     { "p90 <=", true, false }, { "p99 <=", true, false },
	};
	struct print_table *table = print_table_begin(columns, 6);
	const char *name;
	json_t *one;

	json_object_foreach((json_t *)(uintptr_t)tool_at(answer, "latencies"), name, one) {
		char words[64];

		if (tool_u64(one, "count") == 0)
			continue;
		print_cell(table, "  %s", stat_words(name, words, sizeof(words)));
		print_cell(table, "%s", print_count(tool_u64(one, "count")));
		print_cell(table, "%s", stat_us(tool_real(one, "mean_us")));
		print_cell(table, "%s", stat_us(tool_real(one, "p50_us")));
		print_cell(table, "%s", stat_us(tool_real(one, "p90_us")));
		print_cell(table, "%s", stat_us(tool_real(one, "p99_us")));
	}
	print_table_end(table, stdout, "  no latencies yet");
}

/* Every counter and gauge by its name, for who wants all. */
static void stat_print_all(const json_t *answer)
{
	static const struct print_column columns[] = { { "name", false, false }, { "value", true, false } };
	struct print_table *table = print_table_begin(columns, 2);
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)tool_at(answer, "stats"), name, value) {
		size_t length = strlen(name);
		uint64_t number = (uint64_t)json_integer_value(value);
		bool bytes = length > 6 && strcmp(name + length - 6, "_bytes") == 0;
		bool ns = length > 3 && strcmp(name + length - 3, "_ns") == 0;

		print_cell(table, "%s", name);
		print_cell(table, "%s", bytes ? print_bytes(number) : ns ? print_duration((double)number / 1e9) : print_count(number));
	}
	print_table_end(table, stdout, "no figures");
}

/* ---- -w ---- */

static double stat_per_s(const json_t *now, const json_t *before, const char *name, double seconds)
{
	uint64_t a = stat_of(before, name), b = stat_of(now, name);

	return b > a && seconds > 0 ? (double)(b - a) / seconds : 0; /* a daemon that was restarted counts from zero */
}

static void stat_watch_line(const json_t *now, const json_t *before, double seconds, bool head)
{
	uint64_t keys = stat_of(now, "match_keys") - stat_of(before, "match_keys");
	uint64_t hits = stat_of(now, "match_hit_keys") - stat_of(before, "match_hit_keys");
	uint64_t memory = stat_of(now, "memory_capacity_bytes"), disk = tool_u64(now, "sizes.disk_bytes");
	char clock[16];
	time_t wall = time(NULL);
	struct tm local;

	if (stat_of(now, "match_keys") < stat_of(before, "match_keys"))
		keys = hits = 0;
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&wall, &local));
	if (head)
		printf("%-8s %10s %8s %12s %10s %12s %12s %8s %8s %10s %8s\n", "time", "matches/s", "hits", "stored", "loads/s",
		       "disk read", "disk write", "memory", "disk", "queue", "clients");
	printf("%-8s %10s %8s %12s %10s %12s %12s %8s %8s %10s %8s\n", clock,
	       print_count((uint64_t)(stat_per_s(now, before, "match_calls", seconds) + 0.5)), print_percent(hits, keys),
	       print_rate(stat_per_s(now, before, "commit_bytes", seconds)),
	       print_count((uint64_t)(stat_per_s(now, before, "load_blocks", seconds) + 0.5)),
	       print_rate(stat_per_s(now, before, "disk_read_bytes", seconds)),
	       print_rate(stat_per_s(now, before, "disk_write_bytes", seconds)), print_percent(stat_of(now, "memory_used_bytes"), memory),
	       print_percent(stat_of(now, "device_used_bytes"), disk), print_bytes(stat_of(now, "write_queue_bytes")),
	       print_count(stat_of(now, "clients")));
}

static void stat_sleep(uint64_t ns)
{
	struct timespec left = { .tv_sec = (time_t)(ns / KVCI_SECOND), .tv_nsec = (long)(ns % KVCI_SECOND) };

	while (nanosleep(&left, &left) != 0) {
	}
}

/* A daemon that is away for a while (a restart) does not end the watch. */
static int stat_watch(struct tool *tool, uint64_t every_ns, uint64_t count)
{
	json_t *before = NULL, *now;
	uint64_t before_ns = 0;
	int result = TOOL_OK;

	for (uint64_t i = 0, lines = 0; count == 0 || i < count; i++) {
		uint64_t now_ns;
		kvc_status_t status;

		if (i != 0)
			stat_sleep(every_ns);
		status = tool_try(tool, "stat", NULL, &now);
		now_ns = kvci_clock_ns();
		result = status == KVC_OK ? TOOL_OK : tool_failed_status(tool, "no answer", status);
		if (status != KVC_OK)
			continue;
		if (tool->json) {
			json_dumpf(now, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
			putchar('\n');
		} else {
			const json_t *since = before != NULL ? before : now;

			stat_watch_line(now, since, (double)(now_ns - before_ns) / 1e9, lines++ % STAT_HEAD_EVERY == 0);
		}
		json_decref(before);
		before = now;
		before_ns = now_ns;
		if (fflush(stdout) != 0)
			break;
	}
	json_decref(before);
	return result;
}

int tool_run_stat(struct tool *tool)
{
	uint64_t every_ns, count;
	json_t *answer;
	int result = tool_duration(tool, "every", KVCI_SECOND, &every_ns);

	if (result == TOOL_OK)
		result = tool_number(tool, "count", 1, UINT32_MAX, 0, &count);
	if (result != TOOL_OK)
		return result;
	if (every_ns < 10 * KVCI_MS)
		return tool_usage_error(tool, "--every: at least 10ms");
	if (tool_flag(tool, "watch")) {
		result = tool_open(tool);
		return result == TOOL_OK ? stat_watch(tool, every_ns, count) : result;
	}
	result = tool_ask(tool, "stat", NULL, &answer);
	if (result != TOOL_OK)
		return result;
	if (tool->json) {
		tool_print_json(answer);
	} else if (tool_flag(tool, "all")) {
		stat_print_all(answer);
	} else {
		stat_print_head(answer);
		stat_print_places(answer);
		stat_print_work(answer);
		stat_print_latencies(answer);
	}
	json_decref(answer);
	return TOOL_OK;
}
