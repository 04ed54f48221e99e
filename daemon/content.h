/* SPDX-License-Identifier: Apache-2.0
 *
 * Content: what the bytes of a block are, for people who look at it. Pure functions on a private copy of a record.
 */
#ifndef KVCI_DAEMON_CONTENT_H
#define KVCI_DAEMON_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/form.h>

enum { KVCI_CONTENT_BINS = 256 };

/* Of all K or all V elements of a block. */
struct kvci_content_part {
	uint64_t count, zeros, nans, infinities;
	double least, greatest, sum, sum_squares; /* of the finite ones */
	/* Floats: by biased exponent, as it is stored. Others: by value + 128 (i8) or by byte. */
	uint64_t bins[KVCI_CONTENT_BINS];
};

/* Adds the elements of one section's raw bytes. */
void kvci_content_add(const struct kvc_form *form, const void *section, uint64_t section_bytes,
                      struct kvci_content_part *k, struct kvci_content_part *v);
/* "bfloat16"; "?" for an unknown number. */
const char *kvci_content_dtype_name(uint32_t dtype);
/* Whether the bins are exponents, and how to read bin i then: elements in [2^(i - bias), 2^(i - bias + 1)); bin 0: zeros and subnormals. */
bool kvci_content_has_exponents(uint32_t dtype, int *ret_bias);

#endif
