/* SPDX-License-Identifier: Apache-2.0
 *
 * rANS: tables, the choice of a kernel, and the ends of a stream.
 */
#include "codec/rans.h"

#include <stdatomic.h>
#include <string.h>

#include "codec/rans_kernel.h"

enum { RANS_ENTRIES = 8 };

static const struct rans_kernel *const rans_kernels[] = {
#if defined(__x86_64__)
	&kvci_rans_kernel_avx512,
	&kvci_rans_kernel_avx2,
#endif
	&kvci_rans_kernel_scalar,
};

static _Atomic(const struct rans_kernel *) rans_selected;

static const struct rans_kernel *rans_kernel(void)
{
	const struct rans_kernel *kernel = atomic_load_explicit(&rans_selected, memory_order_relaxed);

	if (kernel != NULL)
		return kernel;
	/* Two threads may both come here: they find the same. The last one is usable everywhere. */
	for (size_t i = 0; i < sizeof(rans_kernels) / sizeof(rans_kernels[0]); i++) {
		kernel = rans_kernels[i];
		if (kernel->usable())
			break;
	}
	atomic_store_explicit(&rans_selected, kernel, memory_order_relaxed);
	return kernel;
}

const char *kvci_rans_kernel(void)
{
	return rans_kernel()->name;
}

int kvci_rans_select(const char *name)
{
	for (size_t i = 0; i < sizeof(rans_kernels) / sizeof(rans_kernels[0]); i++) {
		if (strcmp(rans_kernels[i]->name, name) == 0 && rans_kernels[i]->usable()) {
			atomic_store_explicit(&rans_selected, rans_kernels[i], memory_order_relaxed);
			return 1;
		}
	}
	return 0;
}

/* ---- tables --------------------------------------------------------------------------------------------------------- */

/* Takes from or gives to the most frequent symbols what the rounding left over: there it costs least. */
static void rans_settle(uint16_t frequencies[256], uint32_t first, uint32_t last, int32_t left)
{
	while (left != 0) {
		uint32_t most = first;
		int32_t step;

		for (uint32_t symbol = first + 1; symbol <= last; symbol++)
			if (frequencies[symbol] > frequencies[most])
				most = symbol;
		step = frequencies[most] / 8 + 1;
		if (left > 0) {
			step = left < step ? left : step;
		} else {
			step = -left < step ? left : -step;
			if (frequencies[most] + step < 1)
				step = 1 - frequencies[most];
		}
		frequencies[most] = (uint16_t)(frequencies[most] + step);
		left -= step;
	}
}

void kvci_rans_normalise(const uint32_t counts[256], uint16_t ret_frequencies[256])
{
	uint32_t first = 0, last = 255;
	int32_t left = KVCI_RANS_TOTAL;
	uint64_t total = 0;

	for (uint32_t symbol = 0; symbol < 256; symbol++)
		total += counts[symbol];
	memset(ret_frequencies, 0, 256 * sizeof(*ret_frequencies));
	if (total == 0) { /* nothing is ever coded by it, and it is a table all the same */
		ret_frequencies[0] = KVCI_RANS_TOTAL;
		return;
	}
	while (counts[first] == 0)
		first++;
	while (counts[last] == 0)
		last--;
	for (uint32_t symbol = first; symbol <= last; symbol++) {
		uint64_t share = counts[symbol] == 0 ? 0 : (counts[symbol] * (uint64_t)KVCI_RANS_TOTAL + total / 2) / total;

		ret_frequencies[symbol] = counts[symbol] != 0 && share == 0 ? 1 : (uint16_t)share;
		left -= ret_frequencies[symbol];
	}
	rans_settle(ret_frequencies, first, last, left);
}

size_t kvci_rans_table_write(const uint16_t frequencies[256], uint8_t *out)
{
	uint32_t first = 0, last = 255;
	uint8_t *at = out;

	while (first < 255 && frequencies[first] == 0)
		first++;
	while (last > first && frequencies[last] == 0)
		last--;
	*at++ = (uint8_t)first;
	*at++ = (uint8_t)last;
	for (uint32_t symbol = first; symbol <= last; symbol++) {
		uint32_t frequency = frequencies[symbol], zeros = 0;

		if (frequency >= 128) {
			*at++ = (uint8_t)(0x80 | frequency >> 8);
			*at++ = (uint8_t)frequency;
			continue;
		}
		*at++ = (uint8_t)frequency;
		if (frequency == 0) { /* a run: how many more follow */
			while (frequencies[symbol + 1] == 0) { /* ends: the last one's is not 0 */
				symbol++;
				zeros++;
			}
			*at++ = (uint8_t)zeros;
		}
	}
	return (size_t)(at - out);
}

kvc_status_t kvci_rans_table_read(const uint8_t **bytes, const uint8_t *end, uint16_t ret_frequencies[256])
{
	const uint8_t *at = *bytes;
	uint32_t symbol, last, total = 0;

	if (end - at < 2 || at[0] > at[1])
		return KVC_CORRUPT;
	memset(ret_frequencies, 0, 256 * sizeof(*ret_frequencies));
	symbol = *at++;
	last = *at++;
	for (; symbol <= last; symbol++) {
		uint32_t frequency;

		if (end - at < 2) /* a table never ends a stream: two bytes are always there */
			return KVC_CORRUPT;
		frequency = *at++;
		if (frequency == 0)
			symbol += *at++;
		else if (frequency >= 128)
			frequency = (frequency & 0x7f) << 8 | *at++;
		if (symbol <= last)
			ret_frequencies[symbol] = (uint16_t)frequency;
		total += frequency;
		if (frequency > KVCI_RANS_TOTAL || symbol > last)
			return KVC_CORRUPT;
	}
	*bytes = at;
	return total == KVCI_RANS_TOTAL ? KVC_OK : KVC_CORRUPT;
}

void kvci_rans_encoder_entries(const uint16_t frequencies[256], uint32_t *ret_entries)
{
	uint32_t first = 0;

	for (uint32_t symbol = 0; symbol < 256; symbol++) {
		ret_entries[symbol] = frequencies[symbol] | first << 16;
		first += frequencies[symbol];
	}
}

void kvci_rans_encoder_set(struct kvci_rans_encoder *encoder, uint32_t class, const uint16_t frequencies[256])
{
	kvci_rans_encoder_entries(frequencies, encoder->entries + (size_t)class * 256);
}

void kvci_rans_decoder_entries(const uint16_t frequencies[256], uint32_t *ret_entries)
{
	uint32_t *restrict entries = ret_entries;
	uint32_t left = KVCI_RANS_TOTAL;

	for (uint32_t symbol = 0; symbol < 256; symbol++) {
		uint32_t frequency = frequencies[symbol], first = frequency | symbol << 24;

		/* Most frequencies are small: whole vectors, and what is too much is written over by the next symbol's. */
		if (frequency + RANS_ENTRIES <= left)
			for (uint32_t place = 0; place < frequency; place += RANS_ENTRIES)
				for (uint32_t i = 0; i < RANS_ENTRIES; i++)
					entries[place + i] = first + ((place + i) << 12);
		else
			for (uint32_t place = 0; place < frequency; place++)
				entries[place] = first + (place << 12);
		entries += frequency;
		left -= frequency;
	}
}

void kvci_rans_decoder_set(struct kvci_rans_decoder *decoder, uint32_t class, const uint16_t frequencies[256])
{
	kvci_rans_decoder_entries(frequencies, decoder->entries + (size_t)class * KVCI_RANS_TOTAL);
}

/* ---- streams -------------------------------------------------------------------------------------------------------- */

static uint16_t rans_class_at(const struct kvci_rans_map *map, size_t index)
{
	size_t row = index / map->row;

	return map->classes[row / map->repeat % map->heads * map->row + index % map->row];
}

/* To the group of symbol `index`, or behind the group before it (backwards). */
static void rans_walk_to(struct rans_walk *walk, const struct kvci_rans_map *map, size_t index)
{
	size_t row = index / map->row;

	walk->first = map->classes;
	walk->row_length = map->row;
	walk->repeat = map->repeat;
	walk->heads = map->heads;
	walk->turn = (uint32_t)(row % map->repeat);
	walk->head = (uint32_t)(row / map->repeat % map->heads);
	walk->row = map->classes + (size_t)walk->head * map->row;
	walk->at = walk->row + index % map->row;
}

uint8_t *kvci_rans_encode(const struct kvci_rans_encoder *encoder, const struct kvci_rans_map *map, const uint8_t *symbols,
                          size_t count, uint8_t *begin, uint8_t *end, uint32_t ret_states[KVCI_RANS_STATES])
{
	return kvci_rans_encode_wide(encoder->entries, map, symbols, count, begin, end, ret_states);
}

uint8_t *kvci_rans_encode_wide(const uint32_t *entries, const struct kvci_rans_map *map, const uint8_t *symbols, size_t count, uint8_t *begin,
                               uint8_t *end, uint32_t ret_states[KVCI_RANS_STATES])
{
	size_t rounds = count / KVCI_RANS_STATES;
	struct rans_walk walk;

	for (uint32_t i = 0; i < KVCI_RANS_STATES; i++)
		ret_states[i] = KVCI_RANS_STATE_MIN;
	if (end - begin < RANS_ROUND_BYTES)
		return NULL;
	for (size_t index = count; index > rounds * KVCI_RANS_STATES; index--) {
		uint32_t entry = entries[rans_class_at(map, index - 1) | symbols[index - 1]];
		uint32_t *state = ret_states + (index - 1) % KVCI_RANS_STATES;

		if (rans_is_full(*state, entry & 0xffff)) {
			end -= 2;
			rans_word_put(end, *state & 0xffff);
			*state >>= 16;
		}
		*state = rans_step_back(entry, *state);
	}
	rans_walk_to(&walk, map, rounds * KVCI_RANS_STATES);
	return rans_kernel()->encode(entries, &walk, ret_states, symbols, rounds, begin, end);
}

void kvci_rans_states_write(const uint32_t states[KVCI_RANS_STATES], uint8_t *out)
{
	for (uint32_t i = 0; i < KVCI_RANS_STATES; i++, out += 4) {
		rans_word_put(out, states[i]);
		rans_word_put(out + 2, states[i] >> 16);
	}
}

kvc_status_t kvci_rans_read_begin(struct kvci_rans_reader *reader, const struct kvci_rans_decoder *decoder,
                                  const struct kvci_rans_map *map, const uint8_t *bytes, const uint8_t *end)
{
	return kvci_rans_read_begin_wide(reader, decoder->entries, map, bytes, end);
}

kvc_status_t kvci_rans_read_begin_wide(struct kvci_rans_reader *reader, const uint32_t *entries, const struct kvci_rans_map *map,
                                       const uint8_t *bytes, const uint8_t *end)
{
	if (end - bytes < KVCI_RANS_STATES_BYTES)
		return KVC_CORRUPT;
	for (uint32_t i = 0; i < KVCI_RANS_STATES; i++, bytes += 4) {
		reader->states[i] = rans_word_get(bytes) | rans_word_get(bytes + 2) << 16;
		if (reader->states[i] < KVCI_RANS_STATE_MIN || reader->states[i] >> 31 != 0)
			return KVC_CORRUPT;
	}
	reader->entries = entries;
	reader->map = map;
	reader->words = bytes;
	reader->end = end;
	reader->index = 0;
	return KVC_OK;
}

/* Whole rounds with less than a round's words left: on a copy of them with room behind it. */
static kvc_status_t rans_read_last(struct kvci_rans_reader *reader, uint8_t *symbols, size_t rounds)
{
	struct rans_walk walk;
	uint8_t copy[2 * RANS_ROUND_BYTES] = { 0 };
	const uint8_t *at = copy;
	size_t left = (size_t)(reader->end - reader->words), done;

	memcpy(copy, reader->words, left); /* less than RANS_ROUND_BYTES */
	rans_walk_to(&walk, reader->map, reader->index);
	done = rans_kernel()->decode(reader->entries, &walk, reader->states, &at, copy + left + RANS_ROUND_BYTES, symbols, rounds);
	if (done != rounds || at > copy + left)
		return KVC_CORRUPT;
	reader->words += at - copy;
	return KVC_OK;
}

/* The symbols of a round that is none. */
static kvc_status_t rans_read_rest(struct kvci_rans_reader *reader, uint8_t *symbols, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t *state = reader->states + i;
		uint32_t class = rans_class_at(reader->map, reader->index + i);
		uint32_t entry = reader->entries[rans_slot(class, *state)];

		symbols[i] = (uint8_t)(entry >> 24);
		*state = rans_step(entry, *state);
		if (*state < KVCI_RANS_STATE_MIN) {
			if (reader->end - reader->words < 2)
				return KVC_CORRUPT;
			*state = *state << 16 | rans_word_get(reader->words);
			reader->words += 2;
		}
	}
	return KVC_OK;
}

kvc_status_t kvci_rans_read(struct kvci_rans_reader *reader, uint8_t *symbols, size_t count)
{
	size_t rounds = count / KVCI_RANS_STATES, done;
	kvc_status_t status = KVC_OK;
	struct rans_walk walk;

	rans_walk_to(&walk, reader->map, reader->index);
	done = rans_kernel()->decode(reader->entries, &walk, reader->states, &reader->words, reader->end, symbols, rounds);
	reader->index += done * KVCI_RANS_STATES;
	if (done < rounds)
		status = rans_read_last(reader, symbols + done * KVCI_RANS_STATES, rounds - done);
	reader->index += (rounds - done) * KVCI_RANS_STATES;
	if (status == KVC_OK)
		status = rans_read_rest(reader, symbols + rounds * KVCI_RANS_STATES, count % KVCI_RANS_STATES);
	reader->index += count % KVCI_RANS_STATES;
	return status;
}

kvc_status_t kvci_rans_read_end(const struct kvci_rans_reader *reader)
{
	/* All words taken, and every state where the encoder began. */
	for (uint32_t i = 0; i < KVCI_RANS_STATES; i++)
		if (reader->states[i] != KVCI_RANS_STATE_MIN)
			return KVC_CORRUPT;
	return reader->words == reader->end ? KVC_OK : KVC_CORRUPT;
}
