/* SPDX-License-Identifier: Apache-2.0
 *
 * The folder of a store: its lock, its segment files, their first pages; and the options that say where and how large.
 * Threads: pure system calls; a folder's functions may be called from any thread, each file by one at a time.
 */
#ifndef KVCI_DISK_FOLDER_H
#define KVCI_DISK_FOLDER_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/plugin/tier.h>

#include "tiers/disk/disk_io.h"
#include "tiers/disk/format.h"

enum { KVCI_DISK_SEGMENTS_MAX = 1 << 20 };

enum kvci_disk_engine_choice { KVCI_DISK_IO_AUTO, KVCI_DISK_IO_URING, KVCI_DISK_IO_THREADS };

struct kvci_disk_options {
	const char *folder;      /* borrowed from the caller of open */
	uint64_t capacity_bytes; /* 0: auto */
	uint64_t segment_bytes;  /* 0: auto */
	enum kvci_disk_engine_choice io;
	enum kvci_disk_register registering;
	uint32_t queue_depth;
	uint32_t check_threads;
};

/* CONFIG, with the option and what is wrong with it in *ret_error (kvci_free). */
kvc_status_t kvci_disk_options_parse(const struct kvc_tier_option *options, struct kvci_disk_options *ret_options,
                                     char **ret_error);

struct kvci_disk_folder {
	char *path;
	int dir_fd, lock_fd;
	bool buffered; /* the file system refuses O_DIRECT */
};

/* Opens (making it, when `make`) and locks. IN_USE names the owner; DENIED, NOT_FOUND, ... */
kvc_status_t kvci_disk_folder_open(const char *path, bool make, struct kvci_disk_folder *ret_folder, char **ret_error);
void kvci_disk_folder_close(struct kvci_disk_folder *folder);
/* Fills in what is auto, against what is free and what `used_bytes` of segments are there already. */
kvc_status_t kvci_disk_folder_sizes(const struct kvci_disk_folder *folder, uint64_t used_bytes,
                                    struct kvci_disk_options *options, char **ret_error);
/* Numbers of the segment files, ascending; kvci_free. */
kvc_status_t kvci_disk_folder_list(const struct kvci_disk_folder *folder, uint32_t **ret_numbers, size_t *ret_count);

/* Opens an existing segment file. */
kvc_status_t kvci_disk_segment_open(struct kvci_disk_folder *folder, uint32_t segment, bool read_only, int *ret_fd,
                                    uint64_t *ret_file_bytes);
/* Makes a file with all its bytes allocated. DISK_FULL also when less than reserve_bytes would be left free: a disk without a
 * free byte leaves the index no room. On failure there is no file. */
kvc_status_t kvci_disk_segment_make(struct kvci_disk_folder *folder, uint32_t segment, uint64_t length_bytes,
                                    uint64_t reserve_bytes, int *ret_fd);
/* Makes an existing file whole again. */
kvc_status_t kvci_disk_segment_allocate(int fd, uint64_t length_bytes);
void kvci_disk_segment_remove(const struct kvci_disk_folder *folder, uint32_t segment);

/* What an errno of a file operation means to us. */
kvc_status_t kvci_disk_status_of_errno(uint32_t error);

/* Whole transfers at an aligned place with an aligned buffer. pread: *ret_bytes is less at the end of the file. */
kvc_status_t kvci_disk_pread(int fd, void *buffer, size_t bytes, uint64_t offset_bytes, size_t *ret_bytes);
kvc_status_t kvci_disk_pwrite(int fd, const void *buffer, size_t bytes, uint64_t offset_bytes);

/* The header page of a segment. load: CORRUPT when there is none that is whole. */
kvc_status_t kvci_disk_header_load(int fd, struct kvci_disk_header *ret_header);
kvc_status_t kvci_disk_header_store(int fd, struct kvci_disk_header *header);

#endif
