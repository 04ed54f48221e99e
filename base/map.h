/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared mappings that huge pages fit into.
 * Threads: any.
 */
#ifndef KVCI_MAP_H
#define KVCI_MAP_H

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
/* Makes the pages of a part of such a mapping, which is writable and begins at a multiple of 2 MiB there, as huge ones: a page of each, then
 * MADV_COLLAPSE, which needs no setting of the machine and clears what is not there yet instead of copying it. That takes half of what small pages take
 * where memory lies free in one piece, and up to six times as much where the kernel must make room; a disk transfer from there takes a quarter. What others
 * write there meanwhile stays. What cannot be made huge (a page that the device has at the moment, a rest of less than 2 MiB) is left as it is.
 * False: more of it is not worth trying (no memory in one piece, an older kernel). */
bool kvci_map_make_huge(void *base, uint64_t bytes);
/* Whether this machine can: tried with one page, a millisecond. */
bool kvci_map_huge_works(void);

#endif
