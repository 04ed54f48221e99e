/* SPDX-License-Identifier: Apache-2.0
 *
 * What a rANS kernel is, for codec/rans*.c only. Kernels do whole rounds of 64 symbols; the ends of a stream, where words must be
 * counted one by one, are done in rans.c.
 */
#ifndef KVCI_RANS_KERNEL_H
#define KVCI_RANS_KERNEL_H

#include "codec/rans.h"

/* A round takes or gives at most so many bytes of words. */
enum { RANS_ROUND_BYTES = 2 * KVCI_RANS_STATES };

/* A walk over the classes, a group of 16 symbols a step. */
struct rans_walk {
	const uint16_t *first; /* of the map */
	const uint16_t *at;    /* next group; backwards: behind it */
	const uint16_t *row;   /* the row that `at` is in */
	uint32_t row_length, repeat, heads;
	uint32_t turn, head;
};

static inline void rans_walk_row_next(struct rans_walk *walk)
{
	if (++walk->turn == walk->repeat) {
		walk->turn = 0;
		walk->row += walk->row_length;
		if (++walk->head == walk->heads) {
			walk->head = 0;
			walk->row = walk->first;
		}
	}
	walk->at = walk->row;
}

static inline const uint16_t *rans_walk_next(struct rans_walk *walk)
{
	const uint16_t *at = walk->at;

	walk->at += KVCI_RANS_GROUP;
	if (walk->at == walk->row + walk->row_length)
		rans_walk_row_next(walk);
	return at;
}

static inline void rans_walk_row_back(struct rans_walk *walk)
{
	if (walk->turn-- == 0) {
		walk->turn = walk->repeat - 1;
		if (walk->head-- == 0)
			walk->head = walk->heads - 1;
		walk->row = walk->first + (size_t)walk->head * walk->row_length;
	}
	walk->at = walk->row + walk->row_length;
}

static inline const uint16_t *rans_walk_back(struct rans_walk *walk)
{
	if (walk->at == walk->row)
		rans_walk_row_back(walk);
	walk->at -= KVCI_RANS_GROUP;
	return walk->at;
}

struct rans_kernel {
	const char *name;
	int (*usable)(void); /* on this CPU */
	/* Forwards, up to `rounds`, while RANS_ROUND_BYTES of words are left; returns how many rounds it did and moves *words
	 * on. The walk is used up. */
	size_t (*decode)(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t **words,
	                 const uint8_t *end, uint8_t *symbols, size_t rounds);
	/* Backwards, from the last of `rounds`; `symbols` is the first of them. Returns where the words begin, NULL when a round had not
	 * RANS_ROUND_BYTES of room between `begin` and them. */
	uint8_t *(*encode)(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t *symbols,
	                   size_t rounds, uint8_t *begin, uint8_t *words);
};

extern const struct rans_kernel kvci_rans_kernel_scalar;
#if defined(__x86_64__)
extern const struct rans_kernel kvci_rans_kernel_avx2;
extern const struct rans_kernel kvci_rans_kernel_avx512;
#endif

/* Words are little-endian at any address. */
static inline uint32_t rans_word_get(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static inline void rans_word_put(uint8_t *bytes, uint32_t word)
{
	bytes[0] = (uint8_t)word;
	bytes[1] = (uint8_t)(word >> 8);
}

/* Where the entry of a state's slot is, in the tables of the map's class. */
static inline uint32_t rans_slot(uint32_t class, uint32_t state)
{
	return class << (KVCI_RANS_BITS - KVCI_RANS_CLASS_SHIFT) | (state & (KVCI_RANS_TOTAL - 1));
}

/* One symbol forwards, without its renewal. */
static inline uint32_t rans_step(uint32_t entry, uint32_t state)
{
	return (entry & 0xfff) * (state >> KVCI_RANS_BITS) + (entry >> 12 & 0xfff);
}

/* Must a word leave the state before a symbol of this frequency? A state is below 2^31 after each symbol. */
static inline int rans_is_full(uint32_t state, uint32_t frequency)
{
	return state >> (31 - KVCI_RANS_BITS) >= frequency;
}

static inline uint32_t rans_step_back(uint32_t entry, uint32_t state)
{
	uint32_t frequency = entry & 0xffff;

	return (state / frequency << KVCI_RANS_BITS) + state % frequency + (entry >> 16);
}

#endif
