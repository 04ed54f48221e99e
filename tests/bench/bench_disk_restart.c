/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk tier alone, restarted with many records: how long until the first batch of the index, until all of it; cleanly closed, and
 * with the index deleted. Memory of the process, too.
 *
 *     bench_disk_restart FOLDER RECORDS [PAGES]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/conform/rig.h"
#include "tiers/disk/disk.h"

enum { DEPTH = 32 };

struct flight {
	struct kvc_tier_request request;
	bool busy;
	uint64_t *completed;
};

static long rss_kib(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long kib = 0;

	while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		sscanf(line, "VmRSS: %ld", &kib);
	if (status != NULL)
		fclose(status);
	return kib;
}

static void done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct flight *flight = request->context;

	assert_int_equal(status, KVC_OK);
	flight->busy = false;
	++*flight->completed;
}

static struct kvc_tier *open_store(const char *folder)
{
	struct kvc_tier_option options[] = {{"folder", folder}, {"capacity", "16GiB"}, {NULL, NULL}};
	struct kvc_tier *tier;
	char *error = NULL;

	if (kvci_tier_open(&kvc_tier_disk_ops, options, &tier, &error) != KVC_OK) {
		fprintf(stderr, "%s\n", error);
		exit(1);
	}
	return tier;
}

/* Only counts: what the brain does with an entry is not ours. */
struct counts {
	uint64_t entries;
	uint64_t first_ns, longest_ns;
	bool complete;
};

static void count_index(void *context, const struct kvc_tier_entry *entries, size_t count, bool more)
{
	struct counts *counts = context;

	if (counts->entries == 0 && count != 0)
		counts->first_ns = kvci_clock_ns();
	counts->entries += count;
	counts->complete |= !more;
}
static void count_lost(void *context, uint32_t segment, uint32_t generation) {}
static bool count_keep(void *context, const struct kvc_tier_entry *entry) { return false; }
static void count_moved(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place) {}
static void count_health(void *context, kvc_status_t status, const char *text) {}

static void restart(const char *folder, const char *name)
{
	struct counts counts = {0};
	struct kvc_tier_events events = {&counts, count_index, count_lost, count_keep, count_moved, count_health};
	long before_kib = rss_kib();
	uint64_t start_ns = kvci_clock_ns(), opened_ns, complete_ns;
	struct kvc_tier *tier = open_store(folder);

	opened_ns = kvci_clock_ns();
	assert_int_equal(kvci_tier_attach(tier, &events), KVC_OK);
	while (!counts.complete) {
		uint64_t step_ns;

		usleep(100);
		step_ns = kvci_clock_ns();
		kvci_tier_poll(tier, 64);
		step_ns = kvci_clock_ns() - step_ns;
		if (step_ns > counts.longest_ns)
			counts.longest_ns = step_ns;
	}
	complete_ns = kvci_clock_ns();
	printf("%s: open %.3f s, first batch %.3f s, all %llu records %.3f s, longest poll %.0f us, memory +%ld KiB\n", name,
	       (double)(opened_ns - start_ns) / 1e9, (double)(counts.first_ns - start_ns) / 1e9,
	       (unsigned long long)counts.entries, (double)(complete_ns - start_ns) / 1e9, (double)counts.longest_ns / 1e3,
	       rss_kib() - before_kib);
	fflush(stdout);
	kvci_tier_close(tier);
}

int main(int argc, char **argv)
{
	static struct rig rig;
	static struct flight flights[DEPTH];
	uint64_t records, submitted = 0, completed = 0, start_ns;
	uint32_t pages = argc > 3 ? (uint32_t)atoi(argv[3]) : 1;
	uint8_t *buffers = rig_buffer((uint64_t)DEPTH * pages * 4096);
	char command[1024];

	if (argc < 3) {
		fprintf(stderr, "usage: %s FOLDER RECORDS [PAGES]\n", argv[0]);
		return 2;
	}
	kvci_log_set_level(KVCI_LOG_WARN);
	records = strtoull(argv[2], NULL, 10);
	restart(argv[1], "empty");
	rig_open(&rig, open_store(argv[1]), true);
	start_ns = kvci_clock_ns();
	while (completed < records) {
		for (int i = 0; i < DEPTH && submitted < records; i++) {
			struct flight *flight = &flights[i];

			if (flight->busy)
				continue;
			flight->completed = &completed;
			flight->request = (struct kvc_tier_request){
				.op = KVC_TIER_WRITE, .buffer = buffers + (uint64_t)i * pages * 4096, .done = done, .context = flight,
			};
			rig_record(flight->request.buffer, submitted, pages, &flight->request.entry);
			if (kvci_tier_submit(rig.tier, &flight->request) != KVC_OK)
				break;
			flight->busy = true;
			submitted++;
		}
		rig_poll(&rig, 100);
	}
	printf("stored %llu records in %.1f s\n", (unsigned long long)records, (double)(kvci_clock_ns() - start_ns) / 1e9);
	rig_close(&rig);
	for (int i = 0; i < 3; i++)
		restart(argv[1], "restart");
	snprintf(command, sizeof(command), "rm -rf '%s/index'", argv[1]);
	if (system(command) == 0)
		restart(argv[1], "index deleted");
	restart(argv[1], "restart after it");
	return 0;
}
