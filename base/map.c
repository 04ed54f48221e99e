/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAP_HUGE_PAGE_BYTES ((uint64_t)KVCI_MAP_HUGE_BYTES)
#define MAP_PAGE_BYTES UINT64_C(4096) /* the least there is */

/* Takes addresses for more than is needed, and gives back what lies before and behind the aligned part. NULL: not to be had. */
static void *map_place(uint64_t bytes)
{
	uint64_t room = bytes + MAP_HUGE_PAGE_BYTES;
	char *begin = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (begin == MAP_FAILED)
		return NULL;
	uint64_t skip = -(uintptr_t)begin % MAP_HUGE_PAGE_BYTES;
	if (skip != 0)
		munmap(begin, skip);
	if (skip != MAP_HUGE_PAGE_BYTES)
		munmap(begin + skip + bytes, MAP_HUGE_PAGE_BYTES - skip);
	return begin + skip;
}

kvc_status_t kvci_map_shared(int fd, uint64_t bytes, int prot, void **ret_base)
{
	void *place = bytes >= MAP_HUGE_PAGE_BYTES && bytes < INT64_MAX / 2 ? map_place(bytes) : NULL;
	void *base = mmap(place, bytes, prot, MAP_SHARED | (place != NULL ? MAP_FIXED : 0), fd, 0);

	if (base == MAP_FAILED) {
		kvc_status_t status = kvc_status_from_errno(errno);
		if (place != NULL)
			munmap(place, bytes);
		return status;
	}
	*ret_base = base;
	return KVC_OK;
}

bool kvci_map_make_huge(void *base, uint64_t bytes)
{
	uint64_t whole_bytes = bytes - bytes % MAP_HUGE_PAGE_BYTES;

	/* Collapsing nothing at all is an error (Linux 6.18). Populating says when there is no memory, where touching is a SIGBUS. */
	for (uint64_t at = 0; at < whole_bytes; at += MAP_HUGE_PAGE_BYTES)
		if (madvise((char *)base + at, MAP_PAGE_BYTES, MADV_POPULATE_WRITE) != 0)
			return false;
	return whole_bytes == 0 || madvise(base, whole_bytes, MADV_COLLAPSE) == 0 || errno == EAGAIN;
}

bool kvci_map_huge_works(void)
{
	unsigned char resident = 0;
	void *base = NULL;
	int fd = memfd_create("kvcask-probe", MFD_CLOEXEC);

	if (fd < 0)
		return false;
	if (ftruncate(fd, KVCI_MAP_HUGE_BYTES) == 0 &&
	    kvci_map_shared(fd, MAP_HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE, &base) == KVC_OK) {
		/* Where huge pages are larger than that, nothing is done and nothing said. */
		if (!kvci_map_make_huge(base, MAP_HUGE_PAGE_BYTES) ||
		    mincore((char *)base + MAP_HUGE_PAGE_BYTES - MAP_PAGE_BYTES, MAP_PAGE_BYTES, &resident) != 0)
			resident = 0;
		munmap(base, MAP_HUGE_PAGE_BYTES);
	}
	close(fd);
	return (resident & 1) != 0;
}
