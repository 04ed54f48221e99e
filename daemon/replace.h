/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole files in the place of old ones: after a crash there is the one or the other.
 * Threads: any.
 */
#ifndef KVCI_DAEMON_REPLACE_H
#define KVCI_DAEMON_REPLACE_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

/* All of the bytes at an offset. */
kvc_status_t kvci_write_all(int fd, const void *bytes, size_t length_bytes, uint64_t offset);
/* Writes NAME.new in the folder, with room for so many bytes more where the file system has it, and renames it to NAME; durable when it is OK.
 * *ret_fd: the file, read-write, the caller's. On failure errno says why. */
kvc_status_t kvci_replace_file(int folder_fd, const char *name, const void *bytes, size_t length_bytes, uint64_t room_bytes, int *ret_fd);

#endif
