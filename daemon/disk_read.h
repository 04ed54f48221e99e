/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads of records past the brain, for those who look (show, verify): into memory of their own, so that nothing that engines use is
 * moved out. Threads: the owner's.
 */
#ifndef KVCI_DAEMON_DISK_READ_H
#define KVCI_DAEMON_DISK_READ_H

#include "cache/cache.h"

/* A read of what the brain says is on the disk; buffer: info->place.length_4k pages, aligned to them. request is zeroed and filled but for
 * done and context. */
void kvci_disk_read_prepare(const struct kvci_block_info *info, void *buffer, struct kvc_tier_request *ret_request);

#endif
