/* SPDX-License-Identifier: Apache-2.0
 * Sizes for "auto". */
#include "daemon/sizes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"

#define SIZES_MIB (UINT64_C(1) << 20)
#define SIZES_GIB (UINT64_C(1) << 30)
#define SIZES_MEMORY_UNKNOWN SIZES_GIB /* no /proc */

/* The number in a one-line file; UINT64_MAX for "max", an absent file, or nonsense. */
static uint64_t sizes_read_number(const char *path)
{
	char text[64];
	uint64_t number = UINT64_MAX;
	FILE *file = fopen(path, "re");

	if (file == NULL)
		return UINT64_MAX;
	if (fgets(text, sizeof(text), file) != NULL && text[0] >= '0' && text[0] <= '9')
		number = strtoull(text, NULL, 10);
	fclose(file);
	return number;
}

static uint64_t sizes_mem_available(void)
{
	char line[256];
	unsigned long long kib;
	uint64_t bytes = UINT64_MAX;
	FILE *file = fopen("/proc/meminfo", "re");

	if (file == NULL)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
			bytes = (uint64_t)kib * 1024;
			break;
		}
	}
	fclose(file);
	return bytes;
}

/* What one cgroup leaves; UINT64_MAX: no limit. */
static uint64_t sizes_cgroup_left(const char *folder, const char *limit_name, const char *used_name)
{
	char path[4300];
	uint64_t limit, used;

	snprintf(path, sizeof(path), "%s/%s", folder, limit_name);
	limit = sizes_read_number(path);
	if (limit == UINT64_MAX || limit > (UINT64_C(1) << 60)) /* v1 says "no limit" by a huge number */
		return UINT64_MAX;
	snprintf(path, sizeof(path), "%s/%s", folder, used_name);
	used = sizes_read_number(path);
	if (used == UINT64_MAX)
		return limit;
	return limit > used ? limit - used : 0;
}

/* The least that this cgroup and those above it leave. */
static uint64_t sizes_cgroup_chain(const char *root, char *name, const char *limit_name, const char *used_name)
{
	uint64_t least = UINT64_MAX;
	char folder[4200];

	for (;;) {
		uint64_t left;
		char *slash;

		snprintf(folder, sizeof(folder), "%s%s", root, name);
		left = sizes_cgroup_left(folder, limit_name, used_name);
		least = left < least ? left : least;
		slash = strrchr(name, '/');
		if (slash == NULL)
			return least;
		*slash = '\0';
	}
}

static uint64_t sizes_cgroups_left(void)
{
	char line[4096];
	uint64_t least = UINT64_MAX, left;
	FILE *file = fopen("/proc/self/cgroup", "re");

	if (file == NULL)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), file) != NULL) {
		char *controllers = strchr(line, ':');
		char *name = controllers != NULL ? strchr(controllers + 1, ':') : NULL;

		if (name == NULL)
			continue;
		*name++ = '\0';
		name[strcspn(name, "\n")] = '\0';
		if (controllers[1] == '\0')
			left = sizes_cgroup_chain("/sys/fs/cgroup", name, "memory.max", "memory.current");
		else if (strstr(controllers + 1, "memory") != NULL)
			left = sizes_cgroup_chain("/sys/fs/cgroup/memory", name, "memory.limit_in_bytes", "memory.usage_in_bytes");
		else
			continue;
		least = left < least ? left : least;
	}
	fclose(file);
	return least;
}

uint64_t kvci_sizes_memory_available(void)
{
	uint64_t machine = sizes_mem_available(), cgroups = sizes_cgroups_left();
	uint64_t least = machine < cgroups ? machine : cgroups;

	return least != UINT64_MAX ? least : SIZES_MEMORY_UNKNOWN;
}

/* Bytes that the files of a folder (not of folders in it) take. */
static uint64_t sizes_folder_bytes(const char *folder)
{
	uint64_t bytes = 0;
	struct dirent *entry;
	DIR *dir = opendir(folder);

	if (dir == NULL)
		return 0;
	while ((entry = readdir(dir)) != NULL) {
		struct stat stat;

		if (fstatat(dirfd(dir), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(stat.st_mode))
			bytes += (uint64_t)stat.st_blocks * 512;
	}
	closedir(dir);
	return bytes;
}

static uint64_t sizes_disk_free(const char *folder)
{
	struct statvfs stat;

	if (statvfs(folder, &stat) != 0)
		return 0;
	return (uint64_t)stat.f_bavail * stat.f_frsize + sizes_folder_bytes(folder);
}

static uint64_t sizes_clamp(uint64_t value, uint64_t least, uint64_t most)
{
	return value < least ? least : value > most ? most : value;
}

static uint64_t sizes_workers(void)
{
	cpu_set_t set;
	int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;

	return sizes_clamp((uint64_t)cores / 2, 1, 8);
}

static uint64_t sizes_chosen(uint64_t configured, uint64_t automatic)
{
	return configured != KVCI_CONFIG_AUTO ? configured : automatic;
}

static void sizes_choose_memory(const struct kvci_config *config, struct kvci_sizes *sizes)
{
	uint64_t slab;

	sizes->memory_bytes = sizes_chosen(config->memory_capacity_bytes,
	                                   sizes_clamp(sizes->memory_available_bytes / 4, 16 * SIZES_MIB, 64 * SIZES_GIB));
	sizes->memory_bytes -= sizes->memory_bytes % SIZES_MIB;
	slab = sizes_clamp(sizes->memory_bytes / 8, 64 * SIZES_MIB, SIZES_GIB);
	/* A small memory still wants several slabs: one a client that stores, and one for loads. */
	if (slab > sizes->memory_bytes / 4)
		slab = sizes->memory_bytes / 4;
	slab = sizes_clamp(slab - slab % SIZES_MIB, SIZES_MIB, SIZES_GIB);
	sizes->slab_bytes = sizes_chosen(config->memory_slab_bytes, slab);
	sizes->slab_bytes -= sizes->slab_bytes % 4096;
}

static void sizes_choose_disk(const struct kvci_config *config, struct kvci_sizes *sizes)
{
	uint64_t segment;

	sizes->disk_bytes = sizes_chosen(config->disk_capacity_bytes,
	                                 sizes_clamp(sizes->disk_free_bytes / 2, 64 * SIZES_MIB, 256 * SIZES_GIB));
	sizes->disk_bytes -= sizes->disk_bytes % 4096;
	segment = sizes_clamp(sizes->disk_bytes / 64, 64 * SIZES_MIB, SIZES_GIB);
	/* Two segments are kept free for reclaim: a small store wants small ones. */
	if (segment > sizes->disk_bytes / 8)
		segment = sizes_clamp(sizes->disk_bytes / 8, 4 * SIZES_MIB, SIZES_GIB);
	sizes->segment_bytes = sizes_chosen(config->disk_segment_bytes, segment - segment % 4096);
	sizes->segment_bytes -= sizes->segment_bytes % 4096;
}

kvc_status_t kvci_sizes_resolve(const struct kvci_config *config, const char *disk_folder, struct kvci_sizes *ret_sizes,
                                char **ret_error)
{
	struct kvci_sizes sizes = {0};

	sizes.memory_available_bytes = kvci_sizes_memory_available();
	sizes_choose_memory(config, &sizes);
	sizes.write_queue_bytes = sizes_chosen(config->disk_write_queue_bytes, sizes.memory_bytes / 4);
	sizes.workers = sizes_chosen(config->workers, sizes_workers());
	if (disk_folder != NULL) {
		sizes.disk_free_bytes = sizes_disk_free(disk_folder);
		sizes_choose_disk(config, &sizes);
	}
	if (sizes.slab_bytes > sizes.memory_bytes) {
		*ret_error = kvci_asprintf("memory.slab (%" PRIu64 " bytes) is larger than memory.capacity (%" PRIu64 " bytes)",
		                           sizes.slab_bytes, sizes.memory_bytes);
		return KVC_CONFIG;
	}
	if (disk_folder != NULL && sizes.segment_bytes > sizes.disk_bytes / 4) {
		*ret_error = kvci_asprintf("disk.segment (%" PRIu64 " bytes) is larger than a quarter of disk.capacity (%" PRIu64
		                           " bytes): two segments are kept free for reclaim",
		                           sizes.segment_bytes, sizes.disk_bytes);
		return KVC_CONFIG;
	}
	*ret_sizes = sizes;
	return KVC_OK;
}
