/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores: what engines said of their tokens' worth, kept from the call until the block is written to the disk, where the record has them from then on. Bounded:
 * the oldest go first, and a block without scores is coded as if all its tokens were worth the same.
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_SCORES_H
#define KVCI_DAEMON_SCORES_H

#include <stdint.h>

#include <kvcask/plugin/tier.h>
#include <kvcask/status.h>

#include "base/record.h"

struct kvci_scores;

/* limit_bytes: of all scores together, with what it takes to find them. */
kvc_status_t kvci_scores_create(uint64_t limit_bytes, struct kvci_scores **ret_scores);
void kvci_scores_destroy(struct kvci_scores *scores);
/* Copies; in place of what was said of this block before. TOO_BIG: more than the limit. */
kvc_status_t kvci_scores_put(struct kvci_scores *scores, const struct kvci_block_id *id, const void *bytes, uint32_t length);
/* Valid until the next put; NULL: none of this length. */
const uint8_t *kvci_scores_find(const struct kvci_scores *scores, const struct kvc_tier_entry *entry, uint32_t length);
uint64_t kvci_scores_bytes(const struct kvci_scores *scores);

#endif
