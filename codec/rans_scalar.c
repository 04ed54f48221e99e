/* SPDX-License-Identifier: Apache-2.0
 *
 * The rANS kernel for every CPU, and the definition of what the others must do.
 */
#include <string.h>

#include "codec/rans_kernel.h"

static size_t scalar_decode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t **words,
                            const uint8_t *end, uint8_t *symbols, size_t rounds)
{
	const uint8_t *at = *words;
	uint32_t mine[KVCI_RANS_STATES]; /* no byte that is written can be part of them */
	size_t done;

	memcpy(mine, states, sizeof(mine));
	for (done = 0; done < rounds && end - at >= RANS_ROUND_BYTES; done++) {
		for (uint32_t group = 0; group < KVCI_RANS_STATES; group += KVCI_RANS_GROUP) {
			const uint16_t *classes = rans_walk_next(walk);

			for (uint32_t i = 0; i < KVCI_RANS_GROUP; i++) {
				uint32_t state = mine[group + i];
				uint32_t entry = entries[rans_slot(classes[i], state)];
				uint32_t taken;

				*symbols++ = (uint8_t)(entry >> 24);
				state = rans_step(entry, state);
				/* No branch: whether a word is taken cannot be predicted. */
				taken = state < KVCI_RANS_STATE_MIN;
				mine[group + i] = state << 16 * taken | (rans_word_get(at) & -taken);
				at += 2 * taken;
			}
		}
	}
	memcpy(states, mine, sizeof(mine));
	*words = at;
	return done;
}

static uint8_t *scalar_encode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t *symbols,
                              size_t rounds, uint8_t *begin, uint8_t *words)
{
	uint32_t mine[KVCI_RANS_STATES];

	memcpy(mine, states, sizeof(mine));
	symbols += rounds * KVCI_RANS_STATES;
	for (; rounds != 0; rounds--) {
		if (words - begin < RANS_ROUND_BYTES)
			return NULL;
		for (uint32_t group = KVCI_RANS_STATES; group != 0; group -= KVCI_RANS_GROUP) {
			const uint16_t *classes = rans_walk_back(walk);

			symbols -= KVCI_RANS_GROUP;
			for (uint32_t i = KVCI_RANS_GROUP; i-- != 0;) {
				uint32_t state = mine[group - KVCI_RANS_GROUP + i];
				uint32_t entry = entries[classes[i] | symbols[i]];
				uint32_t full = (uint32_t)rans_is_full(state, entry & 0xffff);

				rans_word_put(words - 2, state & 0xffff);
				words -= 2 * full;
				mine[group - KVCI_RANS_GROUP + i] = rans_step_back(entry, state >> 16 * full);
			}
		}
	}
	memcpy(states, mine, sizeof(mine));
	return words;
}

static int scalar_usable(void)
{
	return 1;
}

const struct rans_kernel kvci_rans_kernel_scalar = {
	.name = "scalar",
	.usable = scalar_usable,
	.decode = scalar_decode,
	.encode = scalar_encode,
};
