/* SPDX-License-Identifier: Apache-2.0
 *
 * CBOR (RFC 8949) as far as hash chains need it: array heads, and runs of unsigned 32-bit integers in their shortest form (1, 2, 3
 * or 5 bytes each), fast: encoding must be small beside SHA-256 of what was encoded.
 *
 * Threads: an encoder is read only after init.
 */
#ifndef KVCI_HASH_CBOR_H
#define KVCI_HASH_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	KVCI_CBOR_HEAD_BYTES_MAX = 5,
	KVCI_CBOR_SLACK_BYTES = 64, /* encoders store whole registers: so much more room behind what they return */
	KVCI_CBOR_SHUFFLES = 64,
};

/* From the plainest to the fastest. */
enum kvci_cbor_way { KVCI_CBOR_SCALAR, KVCI_CBOR_AVX2, KVCI_CBOR_VBMI2, KVCI_CBOR_BEST };

struct kvci_cbor {
	enum kvci_cbor_way way;
	uint8_t shuffle_bytes[KVCI_CBOR_SHUFFLES];
	_Alignas(64) uint8_t layout[64];
	_Alignas(64) uint8_t shuffle[KVCI_CBOR_SHUFFLES][16];
};

/* BEST takes what this CPU has; another way is for tests, false when this CPU lacks it. */
bool kvci_cbor_init(struct kvci_cbor *cbor, enum kvci_cbor_way way);
/* Bytes written. */
size_t kvci_cbor_put_array(uint8_t *out, uint32_t count);
/* Where the next byte goes. */
uint8_t *kvci_cbor_put_tokens(const struct kvci_cbor *cbor, uint8_t *out, const uint32_t *tokens, size_t count);

#endif
