/* SPDX-License-Identifier: Apache-2.0
 * A bitmap with a moving start: requests come and go in order, so that the first try nearly always fits. */
#include "rpc/local/window.h"

#include <stdbool.h>
#include <string.h>

void kvci_window_init(struct kvci_window_ranges *ranges, uint64_t window_bytes)
{
	memset(ranges, 0, sizeof(*ranges));
	if (window_bytes > KVCI_WINDOW_BYTES)
		window_bytes = KVCI_WINDOW_BYTES;
	ranges->unit_count = (uint32_t)(window_bytes / KVCI_WINDOW_UNIT_BYTES);
}

static uint64_t window_units(uint64_t bytes)
{
	return bytes / KVCI_WINDOW_UNIT_BYTES + (bytes % KVCI_WINDOW_UNIT_BYTES != 0);
}

static bool window_is_used(const struct kvci_window_ranges *ranges, uint32_t unit)
{
	return (ranges->used[unit / 64] >> (unit % 64) & 1) != 0;
}

static void window_mark(struct kvci_window_ranges *ranges, uint32_t unit, uint32_t count, bool used)
{
	while (count > 0) {
		uint32_t bit = unit % 64;
		uint32_t n = 64 - bit < count ? 64 - bit : count;
		uint64_t mask = (n == 64 ? ~UINT64_C(0) : ((UINT64_C(1) << n) - 1)) << bit;

		if (used)
			ranges->used[unit / 64] |= mask;
		else
			ranges->used[unit / 64] &= ~mask;
		unit += n;
		count -= n;
	}
}

/* First fit in [from, to); UINT32_MAX when there is none. */
static uint32_t window_search(const struct kvci_window_ranges *ranges, uint32_t from, uint32_t to, uint32_t count)
{
	uint32_t begin = from, unit = from;

	while (unit < to) {
		uint64_t word = ranges->used[unit / 64] >> (unit % 64);

		if (word == 0) {
			unit += 64 - unit % 64;
		} else if (!window_is_used(ranges, unit)) {
			unit += (uint32_t)__builtin_ctzll(word);
		} else {
			uint64_t set = ~word;

			if (unit - begin >= count)
				return begin;
			unit += set == 0 ? 64 - unit % 64 : (uint32_t)__builtin_ctzll(set);
			begin = unit;
			continue;
		}
		if (unit > to)
			unit = to;
		if (unit - begin >= count)
			return begin;
	}
	return unit - begin >= count && begin < to ? begin : UINT32_MAX;
}

kvc_status_t kvci_window_take(struct kvci_window_ranges *ranges, uint64_t bytes, uint64_t *ret_offset)
{
	uint64_t units = window_units(bytes);
	uint32_t unit;

	if (units == 0) {
		*ret_offset = 0;
		return KVC_OK;
	}
	if (units > ranges->unit_count)
		return KVC_TOO_BIG;
	unit = window_search(ranges, ranges->next_unit, ranges->unit_count, (uint32_t)units);
	if (unit == UINT32_MAX && ranges->next_unit != 0)
		unit = window_search(ranges, 0, ranges->unit_count, (uint32_t)units);
	if (unit == UINT32_MAX)
		return KVC_BUSY;
	window_mark(ranges, unit, (uint32_t)units, true);
	ranges->used_units += (uint32_t)units;
	/* Near the last one, so that the same few pages stay warm while little is under way. */
	ranges->next_unit = ranges->used_units == units ? 0 : unit + (uint32_t)units;
	*ret_offset = (uint64_t)unit * KVCI_WINDOW_UNIT_BYTES;
	return KVC_OK;
}

void kvci_window_give(struct kvci_window_ranges *ranges, uint64_t offset, uint64_t bytes)
{
	uint64_t units = window_units(bytes);

	if (units == 0)
		return;
	window_mark(ranges, (uint32_t)(offset / KVCI_WINDOW_UNIT_BYTES), (uint32_t)units, false);
	ranges->used_units -= (uint32_t)units;
	if (ranges->used_units == 0)
		ranges->next_unit = 0;
}
