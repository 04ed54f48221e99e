/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk tier: append-only segment files with a durable index by place. What it promises, how it comes back after a kill,
 * and its threads: tiers/disk/README.md. What it writes: docs/format-disk.md.
 *
 * Options (text; sizes as in the config, "4GiB"):
 *   folder       where it lives; made when it is missing (its parent must exist)
 *   capacity     hard limit of the segment files: a size or "auto" (half of what is free, at most 256GiB)
 *   segment      size of one segment file: a size or "auto" (capacity/64, 64MiB to 1GiB; less when the capacity is small)
 *   io           "auto", "uring" or "threads"
 *   register     "auto", "on" or "off": register memory with io_uring
 *   queue_depth  requests given to the device at a time
 *   check_threads  threads that check what was read; "auto": half of the cores, 1 to 4
 */
#ifndef KVCI_TIER_DISK_H
#define KVCI_TIER_DISK_H

#include <kvcask/plugin/tier.h>

extern const struct kvc_tier_ops kvc_tier_disk_ops;

/* What the engine is that open() chose: "uring" or "threads". */
const char *kvci_disk_engine(struct kvc_tier *tier);

#endif
