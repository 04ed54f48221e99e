/* SPDX-License-Identifier: Apache-2.0
 * CPU features by the compiler's own probe (it asks the OS for the register state, too); cores by affinity and quota. */
#include "base/cpu.h"

#include <sched.h>
#include <stdio.h>

unsigned kvci_cpu_features(void)
{
	unsigned features = 0;

#if defined(__x86_64__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2"))
		features |= KVCI_CPU_AVX2;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		features |= KVCI_CPU_AVX512;
#endif
	return features;
}

/* The cgroup's quota in cores, rounded up; 0: none. In a container its own cgroup is the root of what it sees. */
static unsigned cpu_quota(void)
{
	long long quota = 0, period = 0;
	unsigned cores = 0;
	FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
		cores = (unsigned)((quota + period - 1) / period);
	fclose(file);
	return cores;
}

unsigned kvci_cpu_count(void)
{
	cpu_set_t set;
	unsigned cores = 1, quota = cpu_quota();

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
		cores = (unsigned)CPU_COUNT(&set);
	return quota != 0 && quota < cores ? quota : cores;
}
