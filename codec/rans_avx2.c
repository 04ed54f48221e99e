/* SPDX-License-Identifier: Apache-2.0
 *
 * The rANS kernel for AVX2: 8 states a register. Compiled for CPUs that have it: nothing here may run before usable() said so.
 */
#include "codec/rans_kernel.h"

#include "base/cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { AVX2_LANES = 8, AVX2_GROUPS = KVCI_RANS_STATES / AVX2_LANES };

/* Tables over masks of 8 lanes, a byte a lane, the lowest first. */
#define BIT(mask, i) ((uint64_t)(mask) >> (i) & 1)
#define BELOW(mask, i) \
	((i > 0 ? BIT(mask, 0) : 0) + (i > 1 ? BIT(mask, 1) : 0) + (i > 2 ? BIT(mask, 2) : 0) + (i > 3 ? BIT(mask, 3) : 0) + \
	 (i > 4 ? BIT(mask, 4) : 0) + (i > 5 ? BIT(mask, 5) : 0) + (i > 6 ? BIT(mask, 6) : 0) + (i > 7 ? BIT(mask, 7) : 0))
/* Lane i takes the word whose number is the count of set lanes below it. */
#define SPREAD_LANE(mask, i) (BELOW(mask, i) << 8 * (i))
#define SPREAD(mask) \
	(SPREAD_LANE(mask, 0) | SPREAD_LANE(mask, 1) | SPREAD_LANE(mask, 2) | SPREAD_LANE(mask, 3) | SPREAD_LANE(mask, 4) | \
	 SPREAD_LANE(mask, 5) | SPREAD_LANE(mask, 6) | SPREAD_LANE(mask, 7))
/* The set lanes in order at the upper end. */
#define GATHER_LANE(mask, i) (BIT(mask, i) * ((uint64_t)(i) << 8 * ((8 - BELOW(mask, 8) + BELOW(mask, i)) % 8)))
#define GATHER(mask) \
	(GATHER_LANE(mask, 0) | GATHER_LANE(mask, 1) | GATHER_LANE(mask, 2) | GATHER_LANE(mask, 3) | GATHER_LANE(mask, 4) | \
	 GATHER_LANE(mask, 5) | GATHER_LANE(mask, 6) | GATHER_LANE(mask, 7))
#define FOUR(what, mask) what(mask), what((mask) + 1), what((mask) + 2), what((mask) + 3)
#define SIXTEEN(what, mask) FOUR(what, mask), FOUR(what, (mask) + 4), FOUR(what, (mask) + 8), FOUR(what, (mask) + 12)
#define SIXTY_FOUR(what, mask) \
	SIXTEEN(what, mask), SIXTEEN(what, (mask) + 16), SIXTEEN(what, (mask) + 32), SIXTEEN(what, (mask) + 48)
#define ALL_MASKS(what) SIXTY_FOUR(what, 0), SIXTY_FOUR(what, 64), SIXTY_FOUR(what, 128), SIXTY_FOUR(what, 192)

static const uint64_t avx2_spread[256] = { ALL_MASKS(SPREAD) };
static const uint64_t avx2_gather[256] = { ALL_MASKS(GATHER) };

static inline __attribute__((always_inline)) __m256i avx2_order(const uint64_t *table, unsigned mask)
{
	return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(table + mask)));
}

static inline __attribute__((always_inline)) __m256i avx2_words(const void *words)
{
	return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)words));
}

static inline __attribute__((always_inline)) __m256i avx2_decode_group(const uint32_t *entries, const uint16_t *classes,
                                                                       __m256i state, const uint8_t **words, __m256i *ret_symbols)
{
	__m256i table = _mm256_slli_epi32(avx2_words(classes), KVCI_RANS_BITS - KVCI_RANS_CLASS_SHIFT);
	__m256i slot = _mm256_or_si256(table, _mm256_and_si256(state, _mm256_set1_epi32(KVCI_RANS_TOTAL - 1)));
	__m256i entry = _mm256_i32gather_epi32((const int *)(const void *)entries, slot, 4);
	__m256i frequency = _mm256_and_si256(entry, _mm256_set1_epi32(0xfff));
	__m256i place = _mm256_and_si256(_mm256_srli_epi32(entry, 12), _mm256_set1_epi32(0xfff));
	__m256i renew, taken;
	unsigned mask;

	*ret_symbols = _mm256_srli_epi32(entry, 24);
	state = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(state, KVCI_RANS_BITS)), place);
	renew = _mm256_cmpgt_epi32(_mm256_set1_epi32(KVCI_RANS_STATE_MIN), state);
	mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(renew));
	taken = _mm256_permutevar8x32_epi32(avx2_words(*words), avx2_order(avx2_spread, mask));
	*words += 2 * (unsigned)__builtin_popcount(mask);
	return _mm256_blendv_epi8(state, _mm256_or_si256(_mm256_slli_epi32(state, 16), taken), renew);
}

/* 16 symbols of 32 bits to bytes. */
static inline __attribute__((always_inline)) void avx2_store(uint8_t *symbols, __m256i low, __m256i high)
{
	__m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);

	_mm_storeu_si128((__m128i *)(void *)symbols,
	                 _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static size_t avx2_decode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t **words,
                          const uint8_t *end, uint8_t *symbols, size_t rounds)
{
	struct rans_walk here = *walk;
	const uint8_t *at = *words;
	__m256i state[AVX2_GROUPS], low, high;
	size_t done;

	for (int i = 0; i < AVX2_GROUPS; i++)
		state[i] = _mm256_loadu_si256((const __m256i *)(const void *)(states + i * AVX2_LANES));
	for (done = 0; done < rounds && end - at >= RANS_ROUND_BYTES; done++) {
#pragma GCC unroll 4
		for (int i = 0; i < AVX2_GROUPS; i += 2) {
			const uint16_t *classes = rans_walk_next(&here);

			state[i] = avx2_decode_group(entries, classes, state[i], &at, &low);
			state[i + 1] = avx2_decode_group(entries, classes + AVX2_LANES, state[i + 1], &at, &high);
			avx2_store(symbols + i * AVX2_LANES, low, high);
		}
		symbols += KVCI_RANS_STATES;
	}
	for (int i = 0; i < AVX2_GROUPS; i++)
		_mm256_storeu_si256((__m256i *)(void *)(states + i * AVX2_LANES), state[i]);
	*words = at;
	return done;
}

static inline __attribute__((always_inline)) __m256i avx2_encode_group(const uint32_t *entries, const uint16_t *classes,
                                                                       __m256i state, const uint8_t *symbols, uint8_t **words)
{
	__m256i symbol = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)symbols));
	__m256i at = _mm256_or_si256(avx2_words(classes), symbol);
	__m256i entry = _mm256_i32gather_epi32((const int *)(const void *)entries, at, 4);
	__m256i frequency = _mm256_and_si256(entry, _mm256_set1_epi32(0xffff));
	__m256i full = _mm256_cmpgt_epi32(_mm256_srli_epi32(state, 31 - KVCI_RANS_BITS),
	                                  _mm256_sub_epi32(frequency, _mm256_set1_epi32(1)));
	unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(full));
	__m256i given = _mm256_permutevar8x32_epi32(_mm256_and_si256(state, _mm256_set1_epi32(0xffff)), avx2_order(avx2_gather, mask));
	__m256i quotient, rest, sum, turn = _mm256_sub_epi32(_mm256_set1_epi32(KVCI_RANS_TOTAL), frequency);

	/* 16 bytes that end at the words: those below are written over by what comes. A round has room for 8 groups of them. */
	_mm_storeu_si128((__m128i *)(void *)(*words - 16),
	                 _mm_packus_epi32(_mm256_castsi256_si128(given), _mm256_extracti128_si256(given, 1)));
	*words -= 2 * (unsigned)__builtin_popcount(mask);
	state = _mm256_blendv_epi8(state, _mm256_srli_epi32(state, 16), full);
	/* The quotient is below 2^20, its float off by less than 1/8: at most one too many or too few. */
	quotient = _mm256_cvttps_epi32(_mm256_div_ps(_mm256_cvtepi32_ps(state), _mm256_cvtepi32_ps(frequency)));
	rest = _mm256_sub_epi32(state, _mm256_mullo_epi32(quotient, frequency));
	sum = _mm256_add_epi32(_mm256_slli_epi32(quotient, KVCI_RANS_BITS), rest);
	sum = _mm256_sub_epi32(sum, _mm256_and_si256(_mm256_srai_epi32(rest, 31), turn));
	sum = _mm256_add_epi32(sum, _mm256_andnot_si256(_mm256_cmpgt_epi32(frequency, rest), turn));
	return _mm256_add_epi32(sum, _mm256_srli_epi32(entry, 16));
}

static uint8_t *avx2_encode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t *symbols,
                            size_t rounds, uint8_t *begin, uint8_t *words)
{
	struct rans_walk here = *walk;
	__m256i state[AVX2_GROUPS];

	for (int i = 0; i < AVX2_GROUPS; i++)
		state[i] = _mm256_loadu_si256((const __m256i *)(const void *)(states + i * AVX2_LANES));
	symbols += rounds * KVCI_RANS_STATES;
	for (; rounds != 0; rounds--) {
		if (words - begin < RANS_ROUND_BYTES)
			return NULL;
		symbols -= KVCI_RANS_STATES;
#pragma GCC unroll 4
		for (int i = AVX2_GROUPS - 2; i >= 0; i -= 2) {
			const uint16_t *classes = rans_walk_back(&here);
			const uint8_t *here_symbols = symbols + i * AVX2_LANES;

			state[i + 1] = avx2_encode_group(entries, classes + AVX2_LANES, state[i + 1], here_symbols + AVX2_LANES, &words);
			state[i] = avx2_encode_group(entries, classes, state[i], here_symbols, &words);
		}
	}
	for (int i = 0; i < AVX2_GROUPS; i++)
		_mm256_storeu_si256((__m256i *)(void *)(states + i * AVX2_LANES), state[i]);
	return words;
}

static int avx2_usable(void)
{
	return (kvci_cpu_features() & KVCI_CPU_AVX2) != 0;
}

const struct rans_kernel kvci_rans_kernel_avx2 = {
	.name = "avx2",
	.usable = avx2_usable,
	.decode = avx2_decode,
	.encode = avx2_encode,
};

#endif
