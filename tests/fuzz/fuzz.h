/* SPDX-License-Identifier: Apache-2.0
 * What a fuzz target is: one function over any bytes. It aborts (FUZZ_CHECK) where a promise is broken. */
#ifndef KVC_TESTS_FUZZ_H
#define KVC_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#define FUZZ_CHECK(condition)                                                                      \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);     \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
