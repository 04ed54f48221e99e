/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk tier alone against fio: same record size, same depth, O_DIRECT, on a file that was written before; the tier's segments are
 * written over as well, so that both meet allocated and written blocks. fio, ours, fio; pairs whose fio legs differ by more than 1.5
 * are dropped. Prints medians of ratios and CPU seconds a GB (all threads of this process).
 *
 *     bench_disk_tier FOLDER uring|threads|auto MIB_A_RECORD DEPTH PAIRS [LEG_MIB] [noverify] [register]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "tests/conform/rig.h"
#include "tiers/disk/disk.h"

struct flight {
	struct kvc_tier_request request;
	struct bench *bench;
	bool busy;
};

struct bench {
	struct rig rig;
	const char *folder;
	uint32_t pages, depth, leg_records;
	struct flight flights[64];
	uint8_t *memory;
	struct kvc_tier_entry *entries; /* ring of what was written */
	uint64_t written, ring;
	uint32_t flags;
	uint64_t completed, failed;
};

static double cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void bench_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct flight *flight = request->context;
	struct bench *bench = flight->bench;

	flight->busy = false;
	bench->completed++;
	bench->failed += status != KVC_OK;
	if (status == KVC_OK && request->op == KVC_TIER_WRITE)
		bench->entries[bench->written++ % bench->ring] = request->entry;
}

/* MB/s of one leg; *ret_cpu: seconds a GB. */
static double bench_leg(struct bench *bench, uint32_t op, double *ret_cpu)
{
	uint64_t start_ns = kvci_clock_ns(), submitted = 0;
	double start_cpu = cpu_s();
	double bytes = (double)bench->leg_records * bench->pages * 4096;

	bench->completed = 0;
	while (bench->completed < bench->leg_records) {
		for (uint32_t i = 0; i < bench->depth && submitted < bench->leg_records; i++) {
			struct flight *flight = &bench->flights[i];

			if (flight->busy)
				continue;
			flight->request.op = op;
			flight->request.flags = bench->flags;
			if (op == KVC_TIER_READ)
				flight->request.entry = bench->entries[(bench->written - bench->leg_records + submitted) % bench->ring];
			if (kvci_tier_submit(bench->rig.tier, &flight->request) != KVC_OK)
				break;
			flight->busy = true;
			submitted++;
		}
		rig_poll(&bench->rig, 100);
	}
	*ret_cpu = (cpu_s() - start_cpu) / (bytes / 1e9);
	return bytes / 1e6 / ((double)(kvci_clock_ns() - start_ns) / 1e9);
}

static double fio_leg(const struct bench *bench, const char *rw, uint64_t leg_mib)
{
	char command[1024];
	double rate = 0;
	FILE *out;

	snprintf(command, sizeof(command),
	         "fio --name=x --filename='%s/fio.dat' --rw=%s --bs=%u --iodepth=%u --direct=1 --ioengine=io_uring --size=%lluM "
	         "--overwrite=1 --randrepeat=0 --output-format=terse --terse-version=3 2>/dev/null",
	         bench->folder, rw, bench->pages * 4096, bench->depth, (unsigned long long)leg_mib);
	out = popen(command, "r");
	if (out == NULL)
		return 0;
	/* Terse v3: field 7 is the read bandwidth in KiB/s, field 48 that of writes. */
	char line[8192] = "";
	while (fgets(line, sizeof(line), out) != NULL) {
		int field = 1;

		for (char *at = strtok(line, ";"); at != NULL; at = strtok(NULL, ";"), field++) {
			if (field == (strcmp(rw, "read") == 0 ? 7 : 48))
				rate = atof(at) * 1024 / 1e6;
		}
	}
	pclose(out);
	return rate;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return left < right ? -1 : left > right;
}

static void bench_pairs(struct bench *bench, uint32_t op, int pairs, uint64_t leg_mib)
{
	const char *rw = op == KVC_TIER_READ ? "read" : "write";
	double ratios[100], cpus[100], ours[100];
	int kept = 0, dropped = 0;

	for (int tries = 0; kept < pairs && tries < 3 * pairs; tries++) {
		double cpu, before = fio_leg(bench, rw, leg_mib), us = bench_leg(bench, op, &cpu), after = fio_leg(bench, rw, leg_mib);

		if (before > 1.5 * after || after > 1.5 * before) {
			dropped++;
			continue;
		}
		ours[kept] = us;
		cpus[kept] = cpu;
		ratios[kept++] = us / ((before + after) / 2);
	}
	qsort(ratios, (size_t)kept, sizeof(double), compare);
	qsort(cpus, (size_t)kept, sizeof(double), compare);
	qsort(ours, (size_t)kept, sizeof(double), compare);
	if (kept != 0)
		printf("%-5s %8.2f MiB depth %2u %s: ratio %.3f (%.3f-%.3f), %.0f MB/s, cpu %.3f s/GB, pairs %d, dropped %d, failed %llu\n",
		       rw, bench->pages / 256.0, bench->depth, kvci_disk_engine(bench->rig.tier), ratios[kept / 2], ratios[0],
		       ratios[kept - 1], ours[kept / 2], cpus[kept / 2], kept, dropped, (unsigned long long)bench->failed);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct bench bench;
	struct kvc_tier *tier;
	char *error = NULL, capacity[32], store[512];
	uint64_t leg_mib, record_bytes;
	double unused;
	int pairs;

	if (argc < 6) {
		fprintf(stderr, "usage: %s FOLDER uring|threads|auto MIB DEPTH PAIRS [LEG_MIB] [noverify] [register]\n", argv[0]);
		return 2;
	}
	kvci_log_set_level(KVCI_LOG_WARN);
	bench.folder = argv[1];
	record_bytes = (uint64_t)(atof(argv[3]) * (1 << 20));
	bench.pages = (uint32_t)(record_bytes / 4096);
	bench.depth = (uint32_t)atoi(argv[4]);
	pairs = atoi(argv[5]);
	leg_mib = argc > 6 ? (uint64_t)atoi(argv[6]) : 512;
	bench.leg_records = (uint32_t)(leg_mib * 256 / bench.pages);
	bench.ring = bench.leg_records;
	bench.entries = kvci_alloc_zero(bench.ring, sizeof(bench.entries[0]));
	bench.memory = rig_buffer(bench.depth * record_bytes);
	snprintf(capacity, sizeof(capacity), "%lluMiB", (unsigned long long)leg_mib * 3);
	snprintf(store, sizeof(store), "%s/store", bench.folder);
	struct kvc_tier_option options[] = {{"folder", store}, {"capacity", capacity}, {"segment", leg_mib >= 512 ? "128MiB" : "auto"}, {"io", argv[2]},
	                                    {"queue_depth", argv[4]}, {NULL, NULL}};
	if (kvci_tier_open(&kvc_tier_disk_ops, options, &tier, &error) != KVC_OK) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	rig_open(&bench.rig, tier, true);
	for (uint32_t i = 0; i < bench.depth; i++) {
		struct flight *flight = &bench.flights[i];

		flight->bench = &bench;
		flight->request.buffer = bench.memory + i * record_bytes;
		flight->request.done = bench_done;
		flight->request.context = flight;
		rig_record(flight->request.buffer, i, bench.pages, &flight->request.entry);
	}
	for (int i = 7; i < argc; i++) {
		if (strcmp(argv[i], "noverify") == 0)
			bench.flags = KVC_TIER_NO_VERIFY;
		if (strcmp(argv[i], "register") == 0 &&
		    kvci_tier_register_memory(tier, bench.memory, bench.depth * record_bytes) != KVC_OK)
			printf("not registered\n");
	}
	/* Every segment written once. */
	for (int i = 0; i < 4; i++)
		bench_leg(&bench, KVC_TIER_WRITE, &unused);
	fio_leg(&bench, "write", leg_mib);
	bench_pairs(&bench, KVC_TIER_WRITE, pairs, leg_mib);
	/* Reads overwrite the buffers with the records they hold anyway; entries go with them. */
	bench_pairs(&bench, KVC_TIER_READ, pairs, leg_mib);
	rig_close(&bench.rig);
	return 0;
}
