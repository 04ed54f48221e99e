/* SPDX-License-Identifier: Apache-2.0
 *
 * Gather and scatter with checksum against memcpy and the bare non-temporal copy, on the same pages, alternating, cold and populated, one
 * thread: the floor under `kvcask bench local`. Not a test: run it by hand.
 *
 *   bench_copy [rounds] [kernel]
 *
 * One block is 32 MiB in runs; the engine's side is anonymous memory with its runs in random order, the store's side a memfd. Each
 * measurement takes another place of the two pools, so that neither side is in a cache.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/copy.h"

enum {
	BLOCK_BYTES = 32 << 20,
	POOL_BLOCKS = 32, /* 1 GiB a side: well above what this thread can have in a cache */
	WAYS = 6,
	ROUNDS_MAX = 1000,
};

static const char *const way_names[WAYS] = {"memcpy", "bare", "fused", "fused-cached", "hash-only", "memcpy+xxh3"};

struct pools {
	uint8_t *engine, *store;
	uint32_t *order; /* of the runs in the engine's block */
	uint64_t sink;
};

static uint8_t *pool_map(int shared)
{
	size_t bytes = (size_t)POOL_BLOCKS * BLOCK_BYTES;
	int fd = -1;
	uint8_t *pool;

	if (shared) {
		fd = memfd_create("bench", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
			exit(1);
	}
	pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	            (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_POPULATE, fd, 0);
	if (pool == MAP_FAILED)
		exit(1);
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t value = i * UINT64_C(0x9e3779b97f4a7c15);

		memcpy(pool + i, &value, 8);
	}
	return pool;
}

static double run_way(struct pools *pools, int way, uint32_t block, uint32_t run_bytes, int gather)
{
	uint8_t *engine = pools->engine + (size_t)block * BLOCK_BYTES, *store = pools->store + (size_t)block * BLOCK_BYTES;
	uint32_t runs = BLOCK_BYTES / run_bytes, section_runs = runs / 32 == 0 ? 1 : runs / 32;
	struct kvci_copy_state state;
	uint64_t start = kvci_clock_ns();

	for (uint32_t i = 0; i < runs; i++) {
		uint8_t *outside = engine + (size_t)pools->order[i] * run_bytes, *inside = store + (size_t)i * run_bytes;
		uint8_t *dst = gather ? inside : outside, *src = gather ? outside : inside;

		if (i % section_runs == 0)
			kvci_copy_begin(&state, i);
		if (way == 0 || way == 5)
			memcpy(dst, src, run_bytes);
		else if (way == 1)
			kvci_copy_bare(dst, src, run_bytes);
		else
			kvci_copy_run(&state, way == 4 ? NULL : dst, src, run_bytes,
			              way == 3 ? KVCI_COPY_CACHED : KVCI_COPY_STREAM);
		if (way >= 2 && way <= 4 && i % section_runs == section_runs - 1)
			pools->sink += kvci_copy_end(&state);
		if (way == 5)
			pools->sink += XXH3_64bits_withSeed(dst, run_bytes, i);
	}
	return (double)BLOCK_BYTES / (double)(kvci_clock_ns() - start);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, uint32_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

static void run_case(struct pools *pools, uint32_t run_bytes, int gather, uint32_t rounds)
{
	static double speed[WAYS][ROUNDS_MAX], ratio[ROUNDS_MAX];
	uint32_t runs = BLOCK_BYTES / run_bytes, block = 0;

	for (uint32_t i = 0; i < runs; i++)
		pools->order[i] = i;
	for (uint32_t i = runs - 1; i > 0; i--) {
		uint32_t j = (uint32_t)random() % (i + 1), kept = pools->order[i];

		pools->order[i] = pools->order[j];
		pools->order[j] = kept;
	}
	for (uint32_t round = 0; round < rounds; round++) {
		for (int way = 0; way < WAYS; way++)
			speed[(way + round) % WAYS][round] =
				run_way(pools, (int)((way + round) % WAYS), block++ % POOL_BLOCKS, run_bytes, gather);
	}
	printf("%6u KiB %-7s", run_bytes >> 10, gather ? "gather" : "scatter");
	for (int way = 0; way < WAYS; way++) {
		for (uint32_t i = 0; i < rounds; i++)
			ratio[i] = speed[way][i] / speed[0][i];
		printf("  %s %.2f", way_names[way], median(ratio, rounds));
	}
	for (uint32_t i = 0; i < rounds; i++)
		ratio[i] = speed[2][i] / (speed[0][i] > speed[1][i] ? speed[0][i] : speed[1][i]);
	printf("  fused/best %.2f", median(ratio, rounds));
	for (uint32_t i = 0; i < rounds; i++)
		ratio[i] = speed[0][i];
	printf("  (memcpy %.2f GB/s)\n", median(ratio, rounds));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const uint32_t run_kib[] = {1, 2, 4, 12, 16, 24, 32, 64, 192};
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 31;
	struct pools pools = {pool_map(0), pool_map(1), kvci_alloc_zero(BLOCK_BYTES >> 10, sizeof(uint32_t)), 0};

	if (pools.order == NULL || rounds == 0 || rounds > ROUNDS_MAX)
		return 1;
	if (argc > 2 && !kvci_copy_select(argv[2])) {
		fprintf(stderr, "no kernel %s on this CPU\n", argv[2]);
		return 1;
	}
	printf("kernel %s, medians of %u ratios to memcpy of the same pages in the same round\n", kvci_copy_kernel(), rounds);
	for (size_t i = 0; i < sizeof(run_kib) / sizeof(run_kib[0]); i++) {
		run_case(&pools, run_kib[i] << 10, 1, rounds);
		run_case(&pools, run_kib[i] << 10, 0, rounds);
	}
	kvci_free(pools.order);
	return pools.sink == 1;
}
