/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers that are the same in every run (xorshift64), for what a test makes up. A program that wants others sets random_state, to anything but 0. */
#ifndef KVC_TESTS_RANDOM_H
#define KVC_TESTS_RANDOM_H

#include <stdint.h>

static uint64_t random_state = UINT64_C(88172645463325252);

/* For programs with several streams: a state each. */
static inline uint64_t random_step(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline uint64_t random_next(void)
{
	return random_step(&random_state);
}

#endif
