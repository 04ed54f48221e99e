/* SPDX-License-Identifier: Apache-2.0
 *
 * The rANS kernel for AVX-512: 16 states a register, four registers in flight. Compiled for CPUs that have it: nothing here may run
 * before usable() said so.
 */
#include "codec/rans_kernel.h"

#include "base/cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { AVX512_GROUPS = KVCI_RANS_STATES / KVCI_RANS_GROUP };

static inline __attribute__((always_inline)) __m512i avx512_classes(struct rans_walk *walk)
{
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)rans_walk_next(walk)));
}

static inline __attribute__((always_inline)) __m512i avx512_decode_group(const uint32_t *entries, __m512i classes, __m512i state,
                                                                         const uint8_t **words, uint8_t *symbols)
{
	__m512i table = _mm512_slli_epi32(classes, KVCI_RANS_BITS - KVCI_RANS_CLASS_SHIFT);
	__m512i slot = _mm512_or_si512(table, _mm512_and_si512(state, _mm512_set1_epi32(KVCI_RANS_TOTAL - 1)));
	__m512i entry = _mm512_i32gather_epi32(slot, entries, 4);
	__m512i frequency = _mm512_and_si512(entry, _mm512_set1_epi32(0xfff));
	__m512i place = _mm512_and_si512(_mm512_srli_epi32(entry, 12), _mm512_set1_epi32(0xfff));
	__m512i taken;
	__mmask16 renew;

	_mm_storeu_si128((__m128i *)(void *)symbols, _mm512_cvtepi32_epi8(_mm512_srli_epi32(entry, 24)));
	state = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(state, KVCI_RANS_BITS)), place);
	renew = _mm512_cmplt_epi32_mask(state, _mm512_set1_epi32(KVCI_RANS_STATE_MIN));
	/* The next words in turn to the lanes that need one. */
	taken = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)*words));
	taken = _mm512_maskz_expand_epi32(renew, taken);
	*words += 2 * (unsigned)__builtin_popcount(renew);
	return _mm512_mask_or_epi32(state, renew, _mm512_slli_epi32(state, 16), taken);
}

static size_t avx512_decode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t **words,
                            const uint8_t *end, uint8_t *symbols, size_t rounds)
{
	struct rans_walk here = *walk;
	const uint8_t *at = *words;
	__m512i state[AVX512_GROUPS];
	size_t done;

	for (int i = 0; i < AVX512_GROUPS; i++)
		state[i] = _mm512_loadu_si512(states + i * KVCI_RANS_GROUP);
	for (done = 0; done < rounds && end - at >= RANS_ROUND_BYTES; done++) {
#pragma GCC unroll 4
		for (int i = 0; i < AVX512_GROUPS; i++)
			state[i] = avx512_decode_group(entries, avx512_classes(&here), state[i], &at, symbols + i * KVCI_RANS_GROUP);
		symbols += KVCI_RANS_STATES;
	}
	for (int i = 0; i < AVX512_GROUPS; i++)
		_mm512_storeu_si512(states + i * KVCI_RANS_GROUP, state[i]);
	*words = at;
	return done;
}

enum { AVX512_DOWN = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC };

static inline __attribute__((always_inline)) __m512i avx512_encode_group(const uint32_t *entries, const uint16_t *classes,
                                                                         __m512i state, const uint8_t *symbols, uint8_t **words)
{
	__m512i class = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)classes));
	__m512i symbol = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)symbols));
	__m512i at = _mm512_or_si512(class, symbol);
	__m512i entry = _mm512_i32gather_epi32(at, entries, 4);
	__m512i frequency = _mm512_and_si512(entry, _mm512_set1_epi32(0xffff)), turn = _mm512_set1_epi32(KVCI_RANS_TOTAL);
	__mmask16 full = _mm512_cmpge_epi32_mask(_mm512_srli_epi32(state, 31 - KVCI_RANS_BITS), frequency);
	unsigned count = (unsigned)__builtin_popcount(full);
	__m512i given = _mm512_maskz_compress_epi32(full, state), quotient, rest, sum;

	*words -= 2 * count;
	_mm512_mask_cvtepi32_storeu_epi16(*words, (__mmask16)((1u << count) - 1), given);
	state = _mm512_mask_srli_epi32(state, full, state, 16);
	/* The quotient is below 2^20, its float rounded down twice, by less than 1/4 in all: right or one too few. */
	quotient = _mm512_cvttps_epi32(_mm512_div_round_ps(_mm512_cvt_roundepi32_ps(state, AVX512_DOWN), _mm512_cvtepi32_ps(frequency),
	                                                   AVX512_DOWN));
	rest = _mm512_sub_epi32(state, _mm512_mullo_epi32(quotient, frequency));
	sum = _mm512_add_epi32(_mm512_slli_epi32(quotient, KVCI_RANS_BITS), rest);
	sum = _mm512_mask_add_epi32(sum, _mm512_cmpge_epi32_mask(rest, frequency), sum, _mm512_sub_epi32(turn, frequency));
	return _mm512_add_epi32(sum, _mm512_srli_epi32(entry, 16));
}

static uint8_t *avx512_encode(const uint32_t *entries, struct rans_walk *walk, uint32_t *states, const uint8_t *symbols,
                              size_t rounds, uint8_t *begin, uint8_t *words)
{
	struct rans_walk here = *walk;
	__m512i state[AVX512_GROUPS];

	for (int i = 0; i < AVX512_GROUPS; i++)
		state[i] = _mm512_loadu_si512(states + i * KVCI_RANS_GROUP);
	symbols += rounds * KVCI_RANS_STATES;
	for (; rounds != 0; rounds--) {
		if (words - begin < RANS_ROUND_BYTES)
			return NULL;
		symbols -= KVCI_RANS_STATES;
#pragma GCC unroll 4
		for (int i = AVX512_GROUPS - 1; i >= 0; i--)
			state[i] = avx512_encode_group(entries, rans_walk_back(&here), state[i], symbols + i * KVCI_RANS_GROUP, &words);
	}
	for (int i = 0; i < AVX512_GROUPS; i++)
		_mm512_storeu_si512(states + i * KVCI_RANS_GROUP, state[i]);
	return words;
}

static int avx512_usable(void)
{
	return (kvci_cpu_features() & KVCI_CPU_AVX512) != 0;
}

const struct rans_kernel kvci_rans_kernel_avx512 = {
	.name = "avx512",
	.usable = avx512_usable,
	.decode = avx512_decode,
	.encode = avx512_encode,
};

#endif
