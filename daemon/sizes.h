/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes that the configuration leaves open ("auto"): chosen at start from what is free, each with the words that say why.
 * Memory: MemAvailable, and what the cgroups above the process leave (v2 and v1). Disk: what statvfs says is free, plus what the
 * store in the folder has already taken (so that a restart does not halve it).
 * Threads: any; reads /proc, /sys and the folder.
 */
#ifndef KVCI_DAEMON_SIZES_H
#define KVCI_DAEMON_SIZES_H

#include <stdint.h>

#include <kvcask/status.h>

#include "base/config.h"

struct kvci_sizes {
	uint64_t memory_available_bytes; /* found */
	uint64_t disk_free_bytes;        /* found; with what the store has taken; 0: memory only */
	uint64_t memory_bytes;
	uint64_t slab_bytes;
	uint64_t disk_bytes;
	uint64_t segment_bytes;
	uint64_t write_queue_bytes;
	uint64_t workers;
};

/* disk_folder: where the disk tier lies, NULL for memory only. CONFIG with a line for people when the sizes contradict each other. */
kvc_status_t kvci_sizes_resolve(const struct kvci_config *config, const char *disk_folder, struct kvci_sizes *ret_sizes,
                                char **ret_error);
/* Bytes of memory that this process could still take. */
uint64_t kvci_sizes_memory_available(void);

#endif
