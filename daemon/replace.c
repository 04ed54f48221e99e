/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

kvc_status_t kvci_write_all(int fd, const void *bytes, size_t length_bytes, uint64_t offset)
{
	const char *at = bytes;

	while (length_bytes > 0) {
		ssize_t wrote = pwrite(fd, at, length_bytes, (off_t)offset);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return wrote < 0 ? kvc_status_from_errno(errno) : KVC_IO;
		at += wrote;
		offset += (uint64_t)wrote;
		length_bytes -= (size_t)wrote;
	}
	return KVC_OK;
}

kvc_status_t kvci_replace_file(int folder_fd, const char *name, const void *bytes, size_t length_bytes, uint64_t room_bytes, int *ret_fd)
{
	char temporary[64];
	kvc_status_t status;
	int fd, failure;

	snprintf(temporary, sizeof(temporary), "%s.new", name);
	fd = openat(folder_fd, temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return kvc_status_from_errno(errno);
	if (room_bytes != 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(length_bytes + room_bytes)) != 0)
		errno = 0; /* only a convenience */
	status = kvci_write_all(fd, bytes, length_bytes, 0);
	if (status == KVC_OK && fsync(fd) != 0)
		status = kvc_status_from_errno(errno);
	if (status == KVC_OK && renameat(folder_fd, temporary, folder_fd, name) != 0)
		status = kvc_status_from_errno(errno);
	if (status == KVC_OK && fsync(folder_fd) != 0)
		status = kvc_status_from_errno(errno);
	if (status != KVC_OK) {
		failure = errno;
		close(fd);
		unlinkat(folder_fd, temporary, 0);
		errno = failure;
		return status;
	}
	*ret_fd = fd;
	return KVC_OK;
}
