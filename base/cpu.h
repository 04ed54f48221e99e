/* SPDX-License-Identifier: Apache-2.0
 *
 * What the processor can do, and how much of it is ours.
 * Threads: any.
 */
#ifndef KVCI_CPU_H
#define KVCI_CPU_H

/* Bits of kvci_cpu_features. */
enum {
	KVCI_CPU_AVX2 = 1 << 0,
	KVCI_CPU_AVX512 = 1 << 1, /* F, BW, DQ and VL, usable under this kernel */
};
unsigned kvci_cpu_features(void);

/* Cores this process may use: its affinity mask, cut by the cgroup's quota (rounded up); at least 1. */
unsigned kvci_cpu_count(void);

#endif
