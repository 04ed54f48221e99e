/* SPDX-License-Identifier: Apache-2.0
 *
 * Patience: whether looking for a message again and again, instead of sleeping until it comes, has paid off lately. A sleeping thread is woken in 5 us
 * where its CPU is busy with others, in 50 to 100 where it has to be woken first (an idle CPU of a virtual machine); looking costs CPU that
 * others might have had.
 *
 * A look that found nothing lets the next 1, 3, 7, ... up to 1,023 occasions pass; one that found something starts afresh. So what is looked
 * for in vain, for t at a time, costs t once in a thousand occasions.
 * Threads: one at a time.
 */
#ifndef KVCI_PATIENCE_H
#define KVCI_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

enum { KVCI_PATIENCE_FAILS_MAX = 10 };

struct kvci_patience {
	uint32_t fails; /* in a row, at most KVCI_PATIENCE_FAILS_MAX */
	uint32_t skip;  /* occasions to let pass */
};

/* Whether to look this time; if so, kvci_patience_learn follows. */
static inline bool kvci_patience_try(struct kvci_patience *patience)
{
	if (patience->skip == 0)
		return true;
	patience->skip--;
	return false;
}

static inline void kvci_patience_learn(struct kvci_patience *patience, bool found)
{
	if (found)
		patience->fails = 0;
	else if (patience->fails < KVCI_PATIENCE_FAILS_MAX)
		patience->fails++;
	patience->skip = (UINT32_C(1) << patience->fails) - 1;
}

/* What sleeping costs: how much later than it could be an answer is had by who slept until it came. Fast down and slow up: where the CPUs are
 * busy with others some answers come very late, but not for want of an awake CPU, and most come at once. */
enum { KVCI_PATIENCE_LATE_NS = 25 * 1000, KVCI_PATIENCE_LATE_NS_MAX = 200 * 1000 };

struct kvci_lateness {
	uint64_t late_ns;
};

static inline void kvci_lateness_learn(struct kvci_lateness *lateness, uint64_t late_ns)
{
	if (late_ns > KVCI_PATIENCE_LATE_NS_MAX)
		late_ns = KVCI_PATIENCE_LATE_NS_MAX;
	if (late_ns <= lateness->late_ns)
		lateness->late_ns = late_ns;
	else
		lateness->late_ns += (late_ns - lateness->late_ns) / 8;
}

/* Whether sleeping costs more than looking does. */
static inline bool kvci_lateness_matters(const struct kvci_lateness *lateness)
{
	return lateness->late_ns > KVCI_PATIENCE_LATE_NS;
}

#endif
