/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters: tiers with the ordinary interface that wrap another one and spoil (fault) or hold up (delay) what passes. They are in
 * the product, so that tests and operators can try a running daemon. The text that steers them is described in
 * tiers/filter/README.md:
 *
 *     read:fail=io,every=10;write:delay=2s;read:hang;write:torn,count=1;seed=7
 *
 * Deterministic: the same text and the same order of requests give the same faults.
 * Threads: the owner thread, as every tier.
 */
#ifndef KVCI_TIER_FILTER_H
#define KVCI_TIER_FILTER_H

#include <kvcask/plugin/tier.h>

/* Puts fault, and delay above it, over `below`, which belongs to the new tier from then on (also close). spec: text or NULL for none. On
 * error `below` stays the caller's; *ret_error (kvci_free) says what is wrong with the text. */
kvc_status_t kvci_filter_wrap(struct kvc_tier *below, const char *spec, struct kvc_tier **ret_tier, char **ret_error);

/* Changes the text at run time; counters of rules start again. NULL or "" lifts all faults: what hangs goes on. On error the old
 * text stays. */
kvc_status_t kvci_filter_set(struct kvc_tier *tier, const char *spec, char **ret_error);

/* The text in force; "" for none. Valid until the next set. */
const char *kvci_filter_get(struct kvc_tier *tier);

/* The two filters alone (kvci_filter_wrap stacks them). A filter has no open(): it needs a tier below. */
extern const struct kvc_tier_ops kvc_tier_fault_ops;
extern const struct kvc_tier_ops kvc_tier_delay_ops;
kvc_status_t kvci_fault_wrap(struct kvc_tier *below, struct kvc_tier **ret_tier);
kvc_status_t kvci_delay_wrap(struct kvc_tier *below, struct kvc_tier **ret_tier);

/* For stack.c. kvci_delay_text is what kvci_filter_get answers. */
struct kvci_filter_spec;
/* Frees the filter alone, before anything was submitted; the tier below goes on. */
void kvci_fault_unwrap(struct kvc_tier *tier);
void kvci_fault_set(struct kvc_tier *tier, const struct kvci_filter_spec *spec);
void kvci_delay_set(struct kvc_tier *tier, const struct kvci_filter_spec *spec);
const char *kvci_delay_text(struct kvc_tier *tier);
struct kvc_tier *kvci_delay_below(struct kvc_tier *tier);

#endif
