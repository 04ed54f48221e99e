/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared mappings that huge pages fit into.
 * Threads: any.
 */
#ifndef KVCI_MAP_H
#define KVCI_MAP_H

#include <stdint.h>

#include <kvcask/status.h>

/* mmap of all of a file, shared; at an address that is a multiple of 2 MiB when it is as long. prot as for mmap. NO_MEMORY and the like. */
kvc_status_t kvci_map_shared(int fd, uint64_t bytes, int prot, void **ret_base);

#endif
