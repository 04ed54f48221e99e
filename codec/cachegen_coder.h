/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic coding of one symbol at a time, for codec/cachegen*.c only: a range coder of 64 bits with carries, shares of 2^16, most significant
 * byte first. A stream ends where only zeros would follow: the decoder takes what is behind its end as zeros.
 *
 * Threads: any; no state.
 */
#ifndef KVCI_CACHEGEN_CODER_H
#define KVCI_CACHEGEN_CODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CACHEGEN_SHARE_BITS = 16, CACHEGEN_SYMBOLS = 256 };

struct cachegen_encoder {
	uint64_t low, range;
	uint8_t *begin, *at, *end;
	bool full; /* the bytes did not suffice */
};

void kvci_cachegen_encode_begin(struct cachegen_encoder *encoder, uint8_t *begin, uint8_t *end);
/* The share [start, start + width) of 2^16; width > 0. */
void kvci_cachegen_encode(struct cachegen_encoder *encoder, uint32_t start, uint32_t width);
/* Returns the bytes of the stream; 0 with encoder->full. */
size_t kvci_cachegen_encode_end(struct cachegen_encoder *encoder);

struct cachegen_decoder {
	uint64_t code, range;
	const uint8_t *at, *end;
};

void kvci_cachegen_decode_begin(struct cachegen_decoder *decoder, const uint8_t *begin, const uint8_t *end);
/* Where in 2^16 the next symbol's share lies; then that share is taken. */
uint32_t kvci_cachegen_decode_at(const struct cachegen_decoder *decoder);
void kvci_cachegen_decode_take(struct cachegen_decoder *decoder, uint32_t start, uint32_t width);

/* A model that learns: begins with `frequencies` (those that are 0 can never be coded) and counts what was coded. */
struct cachegen_model {
	uint32_t total;
	uint16_t weights[CACHEGEN_SYMBOLS];
};

void kvci_cachegen_model_set(struct cachegen_model *model, const uint16_t frequencies[CACHEGEN_SYMBOLS]);
void kvci_cachegen_model_encode(struct cachegen_model *model, struct cachegen_encoder *encoder, uint8_t symbol);
uint8_t kvci_cachegen_model_decode(struct cachegen_model *model, struct cachegen_decoder *decoder);

#endif
