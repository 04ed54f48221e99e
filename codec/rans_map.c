/* SPDX-License-Identifier: Apache-2.0
 *
 * rANS: classes of channels.
 */
#include "codec/rans_map.h"

#include <string.h>

enum { MAP_INDEXES = 128 };

struct kvci_rans_rows kvci_rans_rows(const struct kvci_rans_map *map, const uint8_t *symbols, size_t count, size_t step)
{
	return (struct kvci_rans_rows){ .map = map, .symbols = symbols, .count = count, .step = step };
}

const uint8_t *kvci_rans_rows_next(struct kvci_rans_rows *rows, uint32_t *ret_channel, size_t *ret_length)
{
	const struct kvci_rans_map *map = rows->map;
	size_t at = (rows->page + rows->turn + (size_t)rows->head * map->repeat) * map->row;

	/* Where the last page is cut only the first heads have rows. */
	if (rows->head == map->heads || at >= rows->count) {
		rows->turn += rows->step;
		if (rows->turn >= map->repeat) {
			rows->page += rows->turn / map->repeat * map->repeat * map->heads;
			rows->turn %= map->repeat;
		}
		rows->head = 0;
		at = (rows->page + rows->turn) * map->row;
	}
	if (at >= rows->count)
		return NULL;
	*ret_channel = rows->head++ * map->row;
	*ret_length = rows->count - at < map->row ? rows->count - at : map->row;
	return rows->symbols + at;
}

void kvci_rans_map_sort(uint16_t *channels, uint32_t count, uint32_t classes)
{
	uint32_t below = 0, least = KVCI_RANS_MAP_KEYS - 1, most = 0;
	uint16_t keys[KVCI_RANS_MAP_KEYS] = { 0 }; /* first how many channels, then their class */

	for (uint32_t channel = 0; channel < count; channel++) {
		uint32_t key = channels[channel];

		keys[key]++;
		least = key < least ? key : least;
		most = key > most ? key : most;
	}
	for (uint32_t key = least; key <= most; key++) {
		uint32_t here = keys[key];

		if (here == 0)
			continue;
		keys[key] = (uint16_t)((below + here / 2) * classes / count << KVCI_RANS_CLASS_SHIFT);
		below += here;
	}
	for (uint32_t channel = 0; channel < count; channel++)
		channels[channel] = keys[channels[channel]];
}

uint8_t *kvci_rans_map_write(const uint16_t *channels, uint32_t count, uint8_t *out)
{
	for (uint32_t channel = 0; channel < count; channel += 4) {
		uint32_t packed = 0;

		for (uint32_t i = 0; i < 4; i++)
			packed |= (uint32_t)(channels[channel + i] >> KVCI_RANS_CLASS_SHIFT) << 2 * i;
		*out++ = (uint8_t)packed;
	}
	return out;
}

kvc_status_t kvci_rans_map_read(const uint8_t **bytes, const uint8_t *end, uint32_t classes, uint32_t count, uint16_t *ret_channels)
{
	const uint8_t *at = *bytes;
	uint32_t worst = 0;

	if ((size_t)(end - at) < count / 4)
		return KVC_CORRUPT;
	for (uint32_t channel = 0; channel < count; channel++) {
		uint32_t class = at[channel / 4] >> 2 * (channel % 4) & 3;

		ret_channels[channel] = (uint16_t)(class << KVCI_RANS_CLASS_SHIFT);
		worst = class > worst ? class : worst;
	}
	*bytes = at + count / 4;
	return worst < classes ? KVC_OK : KVC_CORRUPT;
}

/* At most MAP_INDEXES symbols. Where to count is found by vectors; four counters in turn: an increment need not wait for one before it when the symbol is the same. */
static void map_count_all(struct kvci_rans_counts *restrict counts, const uint16_t *restrict classes, const uint8_t *restrict from, size_t length)
{
	uint16_t indexes[MAP_INDEXES];
	size_t i;

	for (i = 0; i < length; i++)
		indexes[i] = (uint16_t)(classes[i] | from[i]);
	for (i = 0; i + 4 <= length; i += 4) {
		counts->symbols[0][indexes[i]]++;
		counts->symbols[1][indexes[i + 1]]++;
		counts->symbols[2][indexes[i + 2]]++;
		counts->symbols[3][indexes[i + 3]]++;
	}
	for (; i < length; i++)
		counts->symbols[0][indexes[i]]++;
}

/* Of every `sparse` times four symbols four, from the `first` four on: so few that two loads of four find where to count as fast. */
static void map_count_some(struct kvci_rans_counts *restrict counts, const uint16_t *restrict classes, const uint8_t *restrict from, size_t length,
                           size_t sparse, size_t first)
{
	for (size_t i = 4 * first; i + 4 <= length; i += 4 * sparse) {
		uint32_t four;
		uint64_t four_classes;

		memcpy(&four, from + i, sizeof(four));
		memcpy(&four_classes, classes + i, sizeof(four_classes));
		counts->symbols[0][(four_classes & 0xffff) | (four & 0xff)]++;
		counts->symbols[1][(four_classes >> 16 & 0xffff) | (four >> 8 & 0xff)]++;
		counts->symbols[0][(four_classes >> 32 & 0xffff) | (four >> 16 & 0xff)]++;
		counts->symbols[1][four_classes >> 48 | four >> 24]++;
	}
}

void kvci_rans_map_count(const struct kvci_rans_map *map, uint32_t classes, const uint8_t *symbols, size_t count, size_t step, size_t sparse,
                         struct kvci_rans_counts *ret_counts)
{
	struct kvci_rans_rows rows = kvci_rans_rows(map, symbols, count, step);
	uint32_t channel, counters = sparse == 1 ? KVCI_RANS_COUNTERS : 2;
	size_t length, first = 0;
	const uint8_t *row;

	for (uint32_t i = 0; i < counters; i++)
		memset(ret_counts->symbols[i], 0, (size_t)classes * 256 * sizeof(ret_counts->symbols[i][0]));
	while ((row = kvci_rans_rows_next(&rows, &channel, &length)) != NULL) {
		const uint16_t *here = map->classes + channel;

		if (sparse != 1)
			map_count_some(ret_counts, here, row, length, sparse, first++ % sparse);
		for (size_t done = 0; sparse == 1 && done < length; done += MAP_INDEXES)
			map_count_all(ret_counts, here + done, row + done, length - done < MAP_INDEXES ? length - done : MAP_INDEXES);
	}
	for (uint32_t counter = 1; counter < counters; counter++)
		for (uint32_t i = 0; i < classes * 256; i++)
			ret_counts->symbols[0][i] += ret_counts->symbols[counter][i];
}
