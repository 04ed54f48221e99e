/* SPDX-License-Identifier: Apache-2.0
 * A tier that keeps nothing; see tiers/null/README.md. */
#ifndef KVCI_TIER_NULL_H
#define KVCI_TIER_NULL_H

#include <kvcask/plugin/tier.h>

extern const struct kvc_tier_ops kvc_tier_null_ops;

#endif
