/* SPDX-License-Identifier: Apache-2.0
 * The folder of a store and its files; see folder.h. */
#include "tiers/disk/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

#define FOLDER_CAPACITY_AUTO_MAX ((uint64_t)256 << 30)
#define FOLDER_SEGMENT_MIN ((uint64_t)1 << 20)
#define FOLDER_SEGMENT_MAX ((uint64_t)1 << 30)
#define FOLDER_SEGMENT_AUTO_MIN ((uint64_t)64 << 20)

kvc_status_t kvci_disk_status_of_errno(uint32_t error)
{
	switch (error) {
	case 0:
		return KVC_OK;
	case ENOSPC:
	case EDQUOT:
	case EFBIG: /* a limit on file sizes */
		return KVC_DISK_FULL;
	case ENODATA: /* the file ends before the record does */
		return KVC_CORRUPT;
	case ECANCELED:
		return KVC_CANCELED;
	case ENOMEM:
		return KVC_NO_MEMORY;
	case EACCES:
	case EPERM:
	case EROFS:
		return KVC_DENIED;
	case ENOENT:
		return KVC_NOT_FOUND;
	default:
		return KVC_IO;
	}
}

static void folder_segment_name(uint32_t segment, char ret_name[32])
{
	snprintf(ret_name, 32, "seg-%08x.kvs", segment);
}

/* Says who holds the lock: the text that the holder wrote into it. */
static kvc_status_t folder_in_use(const char *path, int lock_fd, char **ret_error)
{
	char owner[128] = "";
	ssize_t length = pread(lock_fd, owner, sizeof(owner) - 1, 0);

	owner[length > 0 ? length : 0] = '\0';
	owner[strcspn(owner, "\n")] = '\0';
	*ret_error = kvci_asprintf("%s is in use by %s", path, owner[0] != '\0' ? owner : "another process");
	return KVC_IN_USE;
}

static kvc_status_t folder_lock(struct kvci_disk_folder *folder, char **ret_error)
{
	char host[64] = "", owner[128];
	int length;

	folder->lock_fd = openat(folder->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (folder->lock_fd < 0) {
		*ret_error = kvci_asprintf("%s: cannot make the lock file: %s", folder->path, strerror(errno));
		return kvc_status_from_errno(errno);
	}
	if (flock(folder->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno == EWOULDBLOCK)
			return folder_in_use(folder->path, folder->lock_fd, ret_error);
		*ret_error = kvci_asprintf("%s: cannot lock: %s", folder->path, strerror(errno));
		return kvc_status_from_errno(errno);
	}
	gethostname(host, sizeof(host) - 1);
	length = snprintf(owner, sizeof(owner), "process %ld on %s\n", (long)getpid(), host);
	/* Only for people: that it cannot be written (a full disk) stops nobody. */
	if (ftruncate(folder->lock_fd, 0) != 0 || pwrite(folder->lock_fd, owner, (size_t)length, 0) != length)
		kvci_log(KVCI_LOG_WARN, "disk", "%s: the lock file does not say whose it is: %s", folder->path, strerror(errno));
	return KVC_OK;
}

kvc_status_t kvci_disk_folder_open(const char *path, bool make, struct kvci_disk_folder *ret_folder, char **ret_error)
{
	struct kvci_disk_folder folder = {.dir_fd = -1, .lock_fd = -1};
	kvc_status_t status;

	folder.path = kvci_strdup(path);
	if (folder.path == NULL)
		return KVC_NO_MEMORY;
	if (make && mkdir(path, 0700) != 0 && errno != EEXIST) {
		status = errno == ENOENT ? KVC_NOT_FOUND : kvc_status_from_errno(errno);
		*ret_error = kvci_asprintf("%s: cannot make the folder: %s", path, strerror(errno));
		goto fail;
	}
	folder.dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder.dir_fd < 0) {
		status = errno == ENOENT ? KVC_NOT_FOUND : kvc_status_from_errno(errno);
		*ret_error = kvci_asprintf("%s: cannot open the folder: %s", path, strerror(errno));
		goto fail;
	}
	status = folder_lock(&folder, ret_error);
	if (status != KVC_OK)
		goto fail;
	*ret_folder = folder;
	return KVC_OK;
fail:
	kvci_disk_folder_close(&folder);
	return status;
}

void kvci_disk_folder_close(struct kvci_disk_folder *folder)
{
	if (folder->lock_fd >= 0)
		close(folder->lock_fd);
	if (folder->dir_fd >= 0)
		close(folder->dir_fd);
	folder->lock_fd = folder->dir_fd = -1;
	kvci_free(folder->path);
	folder->path = NULL;
}

static uint64_t folder_clamp(uint64_t value, uint64_t low, uint64_t high)
{
	return value < low ? low : value > high ? high : value;
}

kvc_status_t kvci_disk_folder_sizes(const struct kvci_disk_folder *folder, uint64_t used_bytes,
                                    struct kvci_disk_options *options, char **ret_error)
{
	struct statvfs space;
	uint64_t capacity = options->capacity_bytes, segment = options->segment_bytes;

	if (capacity == 0) {
		if (fstatvfs(folder->dir_fd, &space) != 0) {
			*ret_error = kvci_asprintf("%s: cannot see how much is free: %s", folder->path, strerror(errno));
			return kvc_status_from_errno(errno);
		}
		capacity = ((uint64_t)space.f_bavail * space.f_frsize + used_bytes) / 2;
		if (capacity > FOLDER_CAPACITY_AUTO_MAX)
			capacity = FOLDER_CAPACITY_AUTO_MAX;
	}
	if (segment == 0) {
		segment = folder_clamp(capacity / 64, FOLDER_SEGMENT_AUTO_MIN, FOLDER_SEGMENT_MAX);
		/* Two segments are kept free: with few of them that would be much of the capacity. */
		if (segment > capacity / 8)
			segment = capacity / 8;
	}
	segment = segment / KVCI_DISK_PAGE_BYTES * KVCI_DISK_PAGE_BYTES;
	if (segment < FOLDER_SEGMENT_MIN || segment > FOLDER_SEGMENT_MAX) {
		*ret_error = kvci_asprintf("%s: a segment of %llu bytes: must be 1MiB to 1GiB (capacity %llu bytes)", folder->path,
		                           (unsigned long long)segment, (unsigned long long)capacity);
		return KVC_CONFIG;
	}
	if (capacity / segment < 4) {
		*ret_error = kvci_asprintf("%s: a capacity of %llu bytes is less than four segments of %llu bytes", folder->path,
		                           (unsigned long long)capacity, (unsigned long long)segment);
		return KVC_CONFIG;
	}
	if (capacity / segment > KVCI_DISK_SEGMENTS_MAX) {
		*ret_error = kvci_asprintf("%s: more than %d segments: make disk.segment larger", folder->path,
		                           KVCI_DISK_SEGMENTS_MAX);
		return KVC_CONFIG;
	}
	options->capacity_bytes = capacity;
	options->segment_bytes = segment;
	return KVC_OK;
}

static int folder_compare(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

kvc_status_t kvci_disk_folder_list(const struct kvci_disk_folder *folder, uint32_t **ret_numbers, size_t *ret_count)
{
	int fd = openat(folder->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	uint32_t *numbers = NULL;
	size_t count = 0, room = 0;
	struct dirent *file;

	if (dir == NULL) {
		if (fd >= 0)
			close(fd);
		return kvc_status_from_errno(errno);
	}
	while ((file = readdir(dir)) != NULL) {
		unsigned number;
		char name[32];

		if (sscanf(file->d_name, "seg-%8x.kvs", &number) != 1 || number >= KVCI_DISK_SEGMENTS_MAX)
			continue;
		folder_segment_name(number, name);
		if (strcmp(name, file->d_name) != 0)
			continue;
		if (count == room) {
			uint32_t *grown = kvci_realloc(numbers, (room * 2 + 64) * sizeof(*numbers));

			if (grown == NULL) {
				closedir(dir);
				kvci_free(numbers);
				return KVC_NO_MEMORY;
			}
			numbers = grown;
			room = room * 2 + 64;
		}
		numbers[count++] = number;
	}
	closedir(dir);
	if (count != 0)
		qsort(numbers, count, sizeof(*numbers), folder_compare);
	*ret_numbers = numbers;
	*ret_count = count;
	return KVC_OK;
}

static int folder_open_file(struct kvci_disk_folder *folder, const char *name, int flags)
{
	int fd = openat(folder->dir_fd, name, flags | O_CLOEXEC | (folder->buffered ? 0 : O_DIRECT), 0600);

	if (fd < 0 && errno == EINVAL && !folder->buffered) {
		kvci_log(KVCI_LOG_WARN, "disk", "%s: the file system refuses O_DIRECT; the page cache is used", folder->path);
		folder->buffered = true;
		fd = openat(folder->dir_fd, name, flags | O_CLOEXEC, 0600);
	}
	return fd;
}

kvc_status_t kvci_disk_segment_open(struct kvci_disk_folder *folder, uint32_t segment, bool read_only, int *ret_fd,
                                    uint64_t *ret_file_bytes)
{
	char name[32];
	struct stat file;
	int fd;

	folder_segment_name(segment, name);
	fd = folder_open_file(folder, name, read_only ? O_RDONLY : O_RDWR);
	if (fd < 0)
		return kvc_status_from_errno(errno);
	if (fstat(fd, &file) != 0) {
		int error = errno;

		close(fd);
		return kvc_status_from_errno(error);
	}
	*ret_fd = fd;
	*ret_file_bytes = (uint64_t)file.st_size;
	return KVC_OK;
}

kvc_status_t kvci_disk_segment_allocate(int fd, uint64_t length_bytes)
{
	int result;

	do {
		result = fallocate(fd, 0, 0, (off_t)length_bytes);
	} while (result != 0 && errno == EINTR);
	if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
		struct stat file;

		/* No reservation on this file system: the disk may turn out full at a write. */
		result = fstat(fd, &file);
		if (result == 0 && (uint64_t)file.st_size < length_bytes)
			result = ftruncate(fd, (off_t)length_bytes);
	}
	return result == 0 ? KVC_OK : kvci_disk_status_of_errno((uint32_t)errno);
}

kvc_status_t kvci_disk_segment_make(struct kvci_disk_folder *folder, uint32_t segment, uint64_t length_bytes,
                                    uint64_t reserve_bytes, int *ret_fd)
{
	struct statvfs space;
	kvc_status_t status;
	char name[32];
	int fd;

	if (fstatvfs(folder->dir_fd, &space) == 0 &&
	    (uint64_t)space.f_bavail * space.f_frsize < length_bytes + reserve_bytes)
		return KVC_DISK_FULL;
	folder_segment_name(segment, name);
	fd = folder_open_file(folder, name, O_RDWR | O_CREAT);
	if (fd < 0)
		return kvci_disk_status_of_errno((uint32_t)errno);
	status = kvci_disk_segment_allocate(fd, length_bytes);
	if (status != KVC_OK) {
		close(fd);
		kvci_disk_segment_remove(folder, segment);
		return status;
	}
	*ret_fd = fd;
	return KVC_OK;
}

void kvci_disk_segment_remove(const struct kvci_disk_folder *folder, uint32_t segment)
{
	char name[32];

	folder_segment_name(segment, name);
	if (unlinkat(folder->dir_fd, name, 0) != 0 && errno != ENOENT)
		kvci_log(KVCI_LOG_WARN, "disk", "%s/%s: cannot be removed: %s", folder->path, name, strerror(errno));
}

kvc_status_t kvci_disk_pread(int fd, void *buffer, size_t bytes, uint64_t offset_bytes, size_t *ret_bytes)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t moved = pread(fd, (char *)buffer + done, bytes - done, (off_t)(offset_bytes + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return kvci_disk_status_of_errno((uint32_t)errno);
		if (moved == 0)
			break;
		done += (size_t)moved;
		/* A file that does not end on a page: direct reads cannot go on from here. */
		if (moved % KVCI_DISK_PAGE_BYTES != 0)
			break;
	}
	*ret_bytes = done;
	return KVC_OK;
}

kvc_status_t kvci_disk_pwrite(int fd, const void *buffer, size_t bytes, uint64_t offset_bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t moved = pwrite(fd, (const char *)buffer + done, bytes - done, (off_t)(offset_bytes + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved < 0 ? kvci_disk_status_of_errno((uint32_t)errno) : KVC_IO;
		done += (size_t)moved;
	}
	return KVC_OK;
}

kvc_status_t kvci_disk_header_load(int fd, struct kvci_disk_header *ret_header)
{
	_Alignas(KVCI_DISK_PAGE_BYTES) uint8_t page[KVCI_DISK_PAGE_BYTES];
	size_t bytes = 0;
	kvc_status_t status = kvci_disk_pread(fd, page, sizeof(page), 0, &bytes);

	if (status != KVC_OK)
		return status;
	return bytes == sizeof(page) && kvci_disk_header_read(page, ret_header) ? KVC_OK : KVC_CORRUPT;
}

kvc_status_t kvci_disk_header_store(int fd, struct kvci_disk_header *header)
{
	_Alignas(KVCI_DISK_PAGE_BYTES) uint8_t page[KVCI_DISK_PAGE_BYTES];

	kvci_disk_header_write(header, page);
	return kvci_disk_pwrite(fd, page, sizeof(page), 0);
}
