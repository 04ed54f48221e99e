/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define MAP_HUGE_PAGE_BYTES ((uint64_t)KVCI_MAP_HUGE_BYTES)
#define MAP_PAGE_BYTES UINT64_C(4096) /* the least there is */
#define MAP_BUDGET_PAGE_NS INT64_C(1000000) /* 2 MiB of small pages take so long, here */
#define MAP_BUDGET_WAIT_NS (MAP_BUDGET_PAGE_NS / 10)
#define MAP_BUDGET_NS (4 * MAP_BUDGET_PAGE_NS)
#define MAP_BUDGET_NONE_NS (INT64_MIN / 2)

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

void kvci_map_budget_init(struct kvci_map_budget *budget, enum kvci_map_huge how)
{
	budget->limit_ns = how == KVCI_MAP_HUGE_ON ? INT64_MAX / 2 : how == KVCI_MAP_HUGE_AUTO ? MAP_BUDGET_NS : MAP_BUDGET_NONE_NS;
	atomic_init(&budget->left_ns, budget->limit_ns);
}

bool kvci_map_budget_next(struct kvci_map_budget *budget)
{
	if (atomic_load(&budget->left_ns) >= 0)
		return true;
	atomic_fetch_add(&budget->left_ns, MAP_BUDGET_WAIT_NS);
	return false;
}

void kvci_map_budget_spend(struct kvci_map_budget *budget, int64_t cpu_ns)
{
	int64_t more_ns = MAP_BUDGET_PAGE_NS - cpu_ns;

	if (atomic_fetch_add(&budget->left_ns, more_ns) + more_ns > budget->limit_ns) /* no saving up: what is dear now is dear for a while */
		atomic_store(&budget->left_ns, budget->limit_ns);
}

void kvci_map_make_huge(struct kvci_map_budget *budget, void *base, uint64_t bytes)
{
	for (uint64_t at = 0; bytes - at >= MAP_HUGE_PAGE_BYTES; at += MAP_HUGE_PAGE_BYTES) {
		char *page = (char *)base + at;
		uint64_t begin_ns;

		if (!kvci_map_budget_next(budget))
			continue;
		begin_ns = kvci_clock_cpu_ns();
		/* Collapsing nothing at all is an error (Linux 6.18). Populating says when there is no memory, where touching is a SIGBUS. */
		if (madvise(page, MAP_PAGE_BYTES, MADV_POPULATE_WRITE) == 0 &&
		    (madvise(page, MAP_HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0 || errno == EAGAIN))
			kvci_map_budget_spend(budget, (int64_t)(kvci_clock_cpu_ns() - begin_ns));
		else
			atomic_store(&budget->left_ns, MAP_BUDGET_NONE_NS);
	}
}

bool kvci_map_huge_works(void)
{
	struct kvci_map_budget budget;
	unsigned char resident = 0;
	void *base = NULL;
	int fd = memfd_create("kvcask-probe", MFD_CLOEXEC);

	if (fd < 0)
		return false;
	kvci_map_budget_init(&budget, KVCI_MAP_HUGE_ON);
	if (ftruncate(fd, KVCI_MAP_HUGE_BYTES) == 0 &&
	    kvci_map_shared(fd, MAP_HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE, &base) == KVC_OK) {
		/* Where huge pages are larger than that, nothing is done and nothing said. */
		kvci_map_make_huge(&budget, base, MAP_HUGE_PAGE_BYTES);
		if (mincore((char *)base + MAP_HUGE_PAGE_BYTES - MAP_PAGE_BYTES, MAP_PAGE_BYTES, &resident) != 0)
			resident = 0;
		munmap(base, MAP_HUGE_PAGE_BYTES);
	}
	close(fd);
	return (resident & 1) != 0;
}
