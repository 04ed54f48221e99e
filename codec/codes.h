/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of a quantiser, packed or entropy-coded, for codec/ only. Codes are bytes below 2^bits in the order [layers][heads][rows][dims]; a
 * *channel* is a dimension of a head, the same in all layers.
 *
 * A stream of codes:
 *   byte 0       0: packed; 1 to 4: entropy-coded in so many classes of channels
 *   byte 1       bits of a code
 *   byte 2       1: centred: each channel's offset was taken off its codes (modulo 256); else 0
 *   byte 3       0
 *   packed       eight codes in `bits` bytes, the first in the lowest bits; the last eight are filled up with 0
 *   entropy      offsets, when centred: a byte a channel; with more than one class, classes: 2 bits a channel, the first lowest; a
 *                table a class, 64 states, words (codec/rans.h, docs/format-split.md). State i mod 64 codes code i.
 *
 * Threads: any; no state.
 */
#ifndef KVCI_CODES_H
#define KVCI_CODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "codec/rans.h"
#include "codec/rans_map.h"

enum {
	KVCI_CODES_CHANNELS_MAX = 16384, /* more, or rows that are no multiple of KVCI_RANS_GROUP: one class, not centred */
	KVCI_CODES_PIECE = 8192,         /* most codes of one read */
	KVCI_CODES_HEAD_BYTES = 4,
};

struct kvci_codes_shape {
	uint32_t layers, heads, rows, dims; /* none 0, but rows */
	uint32_t bits;                      /* 2 to 8 */
};

static inline size_t kvci_codes_count(const struct kvci_codes_shape *shape)
{
	return (size_t)shape->layers * shape->heads * shape->rows * shape->dims;
}

/* How codes are to be entropy-coded. */
struct kvci_codes_choice {
	bool entropy;
	bool centre;      /* take off each channel's mean first */
	uint32_t classes; /* at most: 1, 2 or 4; channels are sorted by the mean of their codes ... */
	bool fold;         /* ... as distances from 128 ... */
	uint8_t magnitude; /* ... of which these bits count */
};

struct kvci_codes_model {
	struct kvci_rans_map map;
	uint32_t classes;
	bool centred;
	uint16_t frequencies[KVCI_RANS_CLASSES_MAX][256];
	uint16_t channels[KVCI_CODES_CHANNELS_MAX];
	uint8_t offsets[KVCI_CODES_CHANNELS_MAX];
};

/* Scratch of encoding, of any size of part; 8-byte aligned. */
struct kvci_codes_writer {
	struct kvci_codes_model model;
	struct kvci_rans_encoder encoder;
	uint32_t sums[KVCI_CODES_CHANNELS_MAX];
	struct kvci_rans_counts counts;
	uint32_t merged[2][KVCI_RANS_CLASSES_MAX / 2 * 256]; /* of two classes each, of four */
};

/* Most bytes of a stream. */
size_t kvci_codes_bound(const struct kvci_codes_shape *shape);
/* Writes the shorter of both forms to `out`, which has room for kvci_codes_bound; returns its bytes. `codes` (with room for 8 more) may be changed. */
size_t kvci_codes_write(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, const struct kvci_codes_choice *choice,
                        uint8_t *codes, uint8_t *out);

/* Scratch of decoding, 8-byte aligned. */
struct kvci_codes_reader {
	struct kvci_codes_shape shape;
	struct kvci_codes_model model;
	struct kvci_rans_decoder decoder;
	struct kvci_rans_reader rans;
	const uint8_t *packed; /* NULL: entropy-coded */
	size_t left;           /* codes not yet read from the stream */
	size_t begin, end;     /* of those in the buffer */
	uint8_t buffer[KVCI_CODES_PIECE + 2 * KVCI_RANS_STATES];
};

/* An untrusted stream of exactly `bytes` bytes. CORRUPT: it is none of this shape. */
kvc_status_t kvci_codes_read_begin(struct kvci_codes_reader *reader, const struct kvci_codes_shape *shape, const uint8_t *stream, size_t bytes);
/* The codes of the next `rows` rows, all of `head`, at most KVCI_CODES_PIECE; they stay until the next call. NULL: corrupt. */
const uint8_t *kvci_codes_read(struct kvci_codes_reader *reader, uint32_t head, uint32_t rows);
/* After the last one: CORRUPT unless the stream ends there. */
kvc_status_t kvci_codes_read_end(const struct kvci_codes_reader *reader);

#endif
