/* SPDX-License-Identifier: Apache-2.0
 * Time in nanoseconds. cache/ never calls it: it gets the time from outside. Threads: any. */
#ifndef KVCI_CLOCK_H
#define KVCI_CLOCK_H
#include <stdint.h>
#define KVCI_MS UINT64_C(1000000)
#define KVCI_SECOND UINT64_C(1000000000)
uint64_t kvci_clock_ns(void);      /* CLOCK_MONOTONIC */
uint64_t kvci_clock_wall_ns(void); /* CLOCK_REALTIME */
uint64_t kvci_clock_cpu_ns(void);  /* of the calling thread: CLOCK_THREAD_CPUTIME_ID */
#endif
