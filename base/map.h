/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared mappings that huge pages fit into.
 * Threads: any.
 */
#ifndef KVCI_MAP_H
#define KVCI_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <sys/mman.h>

#include <kvcask/status.h>

/* Linux 5.14 and 6.1; older C libraries do not name them. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { KVCI_MAP_HUGE_BYTES = 2 << 20 };

/* mmap of all of a file, shared; at an address that is a multiple of 2 MiB when it is as long. prot as for mmap. NO_MEMORY and the like. */
kvc_status_t kvci_map_shared(int fd, uint64_t bytes, int prot, void **ret_base);

/* What making huge pages may take, of CPU time: with AUTO, a tenth more than small pages would. Most take half of those. But ten times as much goes into
 * one whose memory the kernel must move others out of, or that the host of a virtual machine gives it only now: then the next ones stay small until that
 * is made up for. Threads: any, at the same time. */
enum kvci_map_huge { KVCI_MAP_HUGE_OFF, KVCI_MAP_HUGE_AUTO, KVCI_MAP_HUGE_ON }; /* as memory.huge_pages and the wire have them */
struct kvci_map_budget {
	int64_t limit_ns;
	atomic_llong left_ns;
};
void kvci_map_budget_init(struct kvci_map_budget *budget, enum kvci_map_huge how);
/* Whether the next page is to be made huge; if not, it stays small. */
bool kvci_map_budget_next(struct kvci_map_budget *budget);
/* It was, and took so long. */
void kvci_map_budget_spend(struct kvci_map_budget *budget, int64_t cpu_ns);
/* Makes the pages of a part of such a mapping, which is writable and begins at a multiple of 2 MiB there, as huge ones: a page of each, then
 * MADV_COLLAPSE, which needs no setting of the machine and clears what is not there yet instead of copying it. A disk transfer from there takes a quarter
 * of the CPU. What others write there meanwhile stays. What cannot be made huge (a page that the device has at the moment, a rest of less than
 * 2 MiB), or is not to be, is left as it is. Where the kernel does not make any (no memory in one piece, an older kernel), the budget is spent for good. */
void kvci_map_make_huge(struct kvci_map_budget *budget, void *base, uint64_t bytes);
/* Whether this machine can: tried with one page, a millisecond. */
bool kvci_map_huge_works(void);

#endif
