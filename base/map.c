/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#define MAP_HUGE_PAGE_BYTES UINT64_C(0x200000)

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
