/* SPDX-License-Identifier: Apache-2.0
 * The clocks. */
#include "base/clock.h"

#include <time.h>

static uint64_t clock_read(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t kvci_clock_ns(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

uint64_t kvci_clock_wall_ns(void)
{
	return clock_read(CLOCK_REALTIME);
}

uint64_t kvci_clock_cpu_ns(void)
{
	return clock_read(CLOCK_THREAD_CPUTIME_ID);
}
