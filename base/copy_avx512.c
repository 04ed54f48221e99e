/* SPDX-License-Identifier: Apache-2.0
 *
 * The copy kernel for AVX-512: one stripe is one register. Compiled with -mavx512f and used only on CPUs that
 * have it: nothing in this file may run before usable() said so.
 *
 * The loads run ahead of the hash by software prefetch, since the hardware's stops at each page and a run's first page
 * is always new to it.
 */
#include <stdbool.h>

#include "base/copy_kernel.h"
#include "base/cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* How far the prefetch is ahead: one page, of 8 to 64 stripes the best by a little (tests/bench/bench_copy.c). Inside a run only:
 * what lies behind it is not ours, and often not next. */
enum { AVX512_AHEAD_STRIPES = 64 };

static inline __attribute__((always_inline)) __m512i avx512_accumulate(__m512i acc, __m512i value, __m512i secret)
{
	__m512i keyed = _mm512_xor_si512(value, secret);
	__m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));

	/* Neighbouring lanes change places: acc[i ^ 1] += value[i]. */
	return _mm512_add_epi64(_mm512_add_epi64(acc, product), _mm512_shuffle_epi32(value, _MM_PERM_BADC));
}

static inline __attribute__((always_inline)) __m512i avx512_scramble(__m512i acc, const uint8_t *secret)
{
	__m512i prime = _mm512_set1_epi32((int)0x9E3779B1);
	__m512i mixed = _mm512_xor_si512(acc, _mm512_srli_epi64(acc, 47));
	__m512i low, high;

	mixed = _mm512_xor_si512(mixed, _mm512_loadu_si512(secret + COPY_SCRAMBLE_SECRET));
	low = _mm512_mul_epu32(mixed, prime);
	high = _mm512_mul_epu32(_mm512_srli_epi64(mixed, 32), prime);
	return _mm512_add_epi64(low, _mm512_slli_epi64(high, 32));
}

enum avx512_store { AVX512_NONE, AVX512_PLAIN, AVX512_STREAM };

static inline __attribute__((always_inline)) void avx512_put(enum avx512_store store, uint8_t *dst, size_t at, __m512i value)
{
	if (store == AVX512_PLAIN)
		_mm512_storeu_si512(dst + at, value);
	else if (store == AVX512_STREAM)
		_mm512_stream_si512((__m512i *)(void *)(dst + at), value);
}

/* The 16 stripes of a block, without the scramble. */
static inline __attribute__((always_inline)) __m512i avx512_block(__m512i acc, __m512i *last, uint8_t *dst,
                                                                  const uint8_t *src, const uint8_t *secret,
                                                                  enum avx512_store store, bool ahead)
{
#pragma GCC unroll 16
	for (size_t i = 0; i < COPY_BLOCK_STRIPES; i++) {
		if (ahead)
			_mm_prefetch((const char *)src + 64 * (AVX512_AHEAD_STRIPES + i), _MM_HINT_T0);
		*last = _mm512_loadu_si512(src + 64 * i);
		avx512_put(store, dst, 64 * i, *last);
		acc = avx512_accumulate(acc, *last, _mm512_loadu_si512(secret + 8 * i));
	}
	return acc;
}

static inline __attribute__((always_inline)) void avx512_run(struct kvci_copy_state *state, uint8_t *dst,
                                                             const uint8_t *src, size_t stripes,
                                                             enum avx512_store store)
{
	__m512i acc = _mm512_load_si512(state->acc);
	__m512i value = _mm512_setzero_si512();
	const uint8_t *secret = state->secret;
	uint32_t in_block = state->stripes_in_block;

	while (stripes != 0) {
		size_t count = COPY_BLOCK_STRIPES - in_block;

		if (count > stripes)
			count = stripes;
		if (count == COPY_BLOCK_STRIPES && stripes >= COPY_BLOCK_STRIPES + AVX512_AHEAD_STRIPES)
			acc = avx512_block(acc, &value, dst, src, secret, store, true);
		else if (count == COPY_BLOCK_STRIPES)
			acc = avx512_block(acc, &value, dst, src, secret, store, false);
		else
			for (size_t i = 0; i < count; i++) {
				value = _mm512_loadu_si512(src + 64 * i);
				avx512_put(store, dst, 64 * i, value);
				acc = avx512_accumulate(acc, value, _mm512_loadu_si512(secret + 8 * (in_block + i)));
			}
		in_block += (uint32_t)count;
		if (in_block == COPY_BLOCK_STRIPES) {
			acc = avx512_scramble(acc, secret);
			in_block = 0;
		}
		src += 64 * count;
		dst = store == AVX512_NONE ? dst : dst + 64 * count;
		stripes -= count;
	}
	_mm512_store_si512(state->acc, acc);
	_mm512_store_si512(state->last, value);
	state->stripes_in_block = in_block;
}

static void avx512_hash(struct kvci_copy_state *state, const uint8_t *src, size_t stripes)
{
	avx512_run(state, NULL, src, stripes, AVX512_NONE);
}

static void avx512_copy(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes)
{
	avx512_run(state, dst, src, stripes, AVX512_PLAIN);
}

static void avx512_copy_stream(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes)
{
	avx512_run(state, dst, src, stripes, AVX512_STREAM);
}

static void avx512_bare(uint8_t *dst, const uint8_t *src, size_t stripes)
{
	for (; stripes >= 8; stripes -= 8, src += 512, dst += 512) {
#pragma GCC unroll 8
		for (size_t i = 0; i < 8; i++) {
			if (stripes >= 8 + AVX512_AHEAD_STRIPES)
				_mm_prefetch((const char *)src + 64 * (AVX512_AHEAD_STRIPES + i), _MM_HINT_T0);
			_mm512_stream_si512((__m512i *)(void *)(dst + 64 * i), _mm512_loadu_si512(src + 64 * i));
		}
	}
	for (; stripes != 0; stripes--, src += 64, dst += 64)
		_mm512_stream_si512((__m512i *)(void *)dst, _mm512_loadu_si512(src));
}

static int avx512_usable(void)
{
	return (kvci_cpu_features() & KVCI_CPU_AVX512) != 0;
}

const struct copy_kernel kvci_copy_kernel_avx512 = {
	.name = "avx512",
	.usable = avx512_usable,
	.hash = avx512_hash,
	.copy = avx512_copy,
	.copy_stream = avx512_copy_stream,
	.bare = avx512_bare,
};

#endif
