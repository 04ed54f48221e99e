/* SPDX-License-Identifier: Apache-2.0
 *
 * Order-0 entropy coding of bytes by 64 interleaved rANS states, for codec/ only. Each symbol has one of up to four classes, and
 * each class a table of frequencies that sum up to 2^11; which class a symbol has follows from its place (struct kvci_rans_map).
 *
 * State i codes the symbols i, i + 64, ...: 31 bits, at least 2^15 between symbols, renewed by 16-bit words that all states share in the order of
 * the symbols. docs/format-split.md has the bytes. All kernels (AVX-512, AVX2, scalar; picked at run time) write and read the same stream.
 *
 * Threads: any; no state but which kernel is in use.
 */
#ifndef KVCI_RANS_H
#define KVCI_RANS_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

enum {
	KVCI_RANS_STATES = 64,
	KVCI_RANS_BITS = 11,
	KVCI_RANS_TOTAL = 1 << KVCI_RANS_BITS,
	KVCI_RANS_CLASS_SHIFT = 8, /* of a class in a map: what is below it has room for a symbol */
	KVCI_RANS_CLASSES_MAX = 4,
	KVCI_RANS_GROUP = 16, /* symbols; rows of a map are so many, or a multiple */
	KVCI_RANS_STATE_MIN = 1 << 15,
	KVCI_RANS_STATES_BYTES = 4 * KVCI_RANS_STATES,
	/* Of one class: first and last symbol, and at most two bytes a symbol. */
	KVCI_RANS_TABLE_BYTES_MAX = 2 + 2 * 256,
};

/* The class of the symbol at each place: rows of `row` channels; each row comes `repeat` times before the next head's begins, and
 * after the last head the first one comes again. `classes` has heads * row entries: class << KVCI_RANS_CLASS_SHIFT. */
struct kvci_rans_map {
	uint32_t row; /* a multiple of KVCI_RANS_GROUP */
	uint32_t repeat;
	uint32_t heads;
	const uint16_t *classes;
};

/* What encoding and decoding look up. */
struct kvci_rans_encoder {
	uint32_t entries[KVCI_RANS_CLASSES_MAX * 256]; /* frequency | first slot << 16 */
};
struct kvci_rans_decoder {
	uint32_t entries[KVCI_RANS_CLASSES_MAX * KVCI_RANS_TOTAL]; /* a slot: frequency | place in it << 12 | symbol << 24 */
};

/* Frequencies that sum up to KVCI_RANS_TOTAL, none 0 where the count is not. */
void kvci_rans_normalise(const uint32_t counts[256], uint16_t ret_frequencies[256]);
/* Writes at most KVCI_RANS_TABLE_BYTES_MAX bytes; returns how many. */
size_t kvci_rans_table_write(const uint16_t frequencies[256], uint8_t *out);
/* Reads one table from untrusted bytes; CORRUPT when it is none. Moves *bytes on. */
kvc_status_t kvci_rans_table_read(const uint8_t **bytes, const uint8_t *end, uint16_t ret_frequencies[256]);
void kvci_rans_encoder_set(struct kvci_rans_encoder *encoder, uint32_t class, const uint16_t frequencies[256]);
void kvci_rans_decoder_set(struct kvci_rans_decoder *decoder, uint32_t class, const uint16_t frequencies[256]);

/* The same into entries of the caller's own, for more than KVCI_RANS_CLASSES_MAX classes: 256 and KVCI_RANS_TOTAL of them a class. */
void kvci_rans_encoder_entries(const uint16_t frequencies[256], uint32_t *ret_entries);
void kvci_rans_decoder_entries(const uint16_t frequencies[256], uint32_t *ret_entries);

/* Writes the words backwards from `end`, not below `begin`; returns where they begin, or NULL when there is no room (128 bytes more than are used
 * are always enough). The states go before them when stored (kvci_rans_states_write). Each symbol has a frequency in its class. */
uint8_t *kvci_rans_encode(const struct kvci_rans_encoder *encoder, const struct kvci_rans_map *map, const uint8_t *symbols,
                          size_t count, uint8_t *begin, uint8_t *end, uint32_t ret_states[KVCI_RANS_STATES]);
uint8_t *kvci_rans_encode_wide(const uint32_t *entries, const struct kvci_rans_map *map, const uint8_t *symbols, size_t count, uint8_t *begin,
                               uint8_t *end, uint32_t ret_states[KVCI_RANS_STATES]);
/* KVCI_RANS_STATES_BYTES to `out`. */
void kvci_rans_states_write(const uint32_t states[KVCI_RANS_STATES], uint8_t *out);

/* A stream being decoded, piece by piece, so that what is done with the symbols finds them in the cache. */
struct kvci_rans_reader {
	const uint32_t *entries;
	const struct kvci_rans_map *map;
	const uint8_t *words, *end;
	size_t index; /* of the next symbol */
	uint32_t states[KVCI_RANS_STATES];
};

/* Untrusted states and words, which lie behind one another up to `end`. `decoder`, `map` and the bytes stay until the end. */
kvc_status_t kvci_rans_read_begin(struct kvci_rans_reader *reader, const struct kvci_rans_decoder *decoder,
                                  const struct kvci_rans_map *map, const uint8_t *bytes, const uint8_t *end);
kvc_status_t kvci_rans_read_begin_wide(struct kvci_rans_reader *reader, const uint32_t *entries, const struct kvci_rans_map *map,
                                       const uint8_t *bytes, const uint8_t *end);
/* The next `count` symbols: a multiple of KVCI_RANS_STATES except for the last piece. CORRUPT when the words do not suffice. */
kvc_status_t kvci_rans_read(struct kvci_rans_reader *reader, uint8_t *symbols, size_t count);
/* After the last symbol: CORRUPT unless the stream is exactly what an encoder makes of that many symbols. */
kvc_status_t kvci_rans_read_end(const struct kvci_rans_reader *reader);

/* The kernel in use ("avx512", "avx2", "scalar"), and for tests and benches: take another. 0: not usable here. */
const char *kvci_rans_kernel(void);
int kvci_rans_select(const char *name);

#endif
