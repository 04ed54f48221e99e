/* SPDX-License-Identifier: Apache-2.0
 *
 * Classes of channels, for codec/ only: channels are sorted by a key (a mean) into classes of equally many; a stream has two bits for each. And what a table of
 * each class is made of: how often it has each symbol.
 *
 * Threads: any; no state.
 */
#ifndef KVCI_RANS_MAP_H
#define KVCI_RANS_MAP_H

#include "codec/rans.h"

enum { KVCI_RANS_MAP_KEYS = 4096, KVCI_RANS_COUNTERS = 4 };

/* How often each class has each symbol, in [0] once it is counted; the others are scratch. */
struct kvci_rans_counts {
	uint32_t symbols[KVCI_RANS_COUNTERS][KVCI_RANS_CLASSES_MAX * 256];
};

/* The rows of every `step`-th token, one after another: of pages where a head's rows follow one another the last one may be cut. */
struct kvci_rans_rows {
	const struct kvci_rans_map *map;
	const uint8_t *symbols;
	size_t count, step;
	size_t page, turn; /* the token is the turn-th of those whose first row is `page` */
	uint32_t head; /* the next one's */
};

struct kvci_rans_rows kvci_rans_rows(const struct kvci_rans_map *map, const uint8_t *symbols, size_t count, size_t step);
/* NULL: that was the last one. */
const uint8_t *kvci_rans_rows_next(struct kvci_rans_rows *rows, uint32_t *ret_channel, size_t *ret_length);

/* `count` channels, each with a key below KVCI_RANS_MAP_KEYS, become entries of a map, in place: in the order of their keys cut into classes of equally many.
 * Equal keys share a class. */
void kvci_rans_map_sort(uint16_t *channels, uint32_t count, uint32_t classes);
/* Writes count / 4 bytes, of `count` entries of a map (a multiple of 4): the first in the lowest bits. Returns what is behind them. */
uint8_t *kvci_rans_map_write(const uint16_t *channels, uint32_t count, uint8_t *out);
/* Reads that many from untrusted bytes; moves *bytes on. CORRUPT: they end before, or name a class that there is not. */
kvc_status_t kvci_rans_map_read(const uint8_t **bytes, const uint8_t *end, uint32_t classes, uint32_t count, uint16_t *ret_channels);
/* Counts the rows of every `step`-th token, and of these one of `sparse` symbols. */
void kvci_rans_map_count(const struct kvci_rans_map *map, uint32_t classes, const uint8_t *symbols, size_t count, size_t step, size_t sparse,
                         struct kvci_rans_counts *ret_counts);

#endif
