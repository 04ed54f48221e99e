/* SPDX-License-Identifier: Apache-2.0
 *
 * How many pages of a mapping are there. Include it after cmocka.h. */
#ifndef KVC_TESTS_RESIDENT_H
#define KVC_TESTS_RESIDENT_H

#include <stddef.h>
#include <stdlib.h>

#include <sys/mman.h>

enum { RESIDENT_PAGE_BYTES = 4096 };

/* bytes: a multiple of a page. */
static inline size_t resident_pages(void *base, size_t bytes)
{
	size_t pages = bytes / RESIDENT_PAGE_BYTES, count = 0;
	unsigned char *resident = malloc(pages);

	assert_non_null(resident);
	assert_int_equal(mincore(base, bytes, resident), 0);
	for (size_t i = 0; i < pages; i++)
		count += resident[i] & 1;
	free(resident);
	return count;
}

#endif
