/* SPDX-License-Identifier: Apache-2.0
 *
 * Meter: a filter with the tier's own interface that takes the time of every read and write from submit to done. It lies on top
 * of the stack, so that what it says is what the brain waits for, injected delays included.
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_METER_H
#define KVCI_DAEMON_METER_H

#include <kvcask/plugin/tier.h>

#include "daemon/histogram.h"

/* `below` belongs to the meter from then on (also close). latencies outlive it. */
kvc_status_t kvci_meter_wrap(struct kvc_tier *below, struct kvci_latencies *latencies, struct kvc_tier **ret_tier);

#endif
