/* SPDX-License-Identifier: Apache-2.0
 *
 * The copy kernel for AVX2: one stripe is two registers. Compiled with -mavx2 and used only on CPUs that have it: nothing in this
 * file may run before usable() said so.
 */
#include <stdbool.h>

#include "base/copy_kernel.h"
#include "base/cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* As in copy_avx512.c. */
enum { AVX2_AHEAD_STRIPES = 64 };

static inline __attribute__((always_inline)) __m256i avx2_load(const uint8_t *bytes)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

static inline __attribute__((always_inline)) __m256i avx2_accumulate(__m256i acc, __m256i value, __m256i secret)
{
	__m256i keyed = _mm256_xor_si256(value, secret);
	__m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));

	/* Neighbouring lanes change places: acc[i ^ 1] += value[i]. */
	return _mm256_add_epi64(_mm256_add_epi64(acc, product), _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2)));
}

static inline __attribute__((always_inline)) __m256i avx2_scramble(__m256i acc, __m256i secret)
{
	__m256i prime = _mm256_set1_epi32((int)0x9E3779B1);
	__m256i mixed = _mm256_xor_si256(_mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47)), secret);
	__m256i low = _mm256_mul_epu32(mixed, prime);
	__m256i high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);

	return _mm256_add_epi64(low, _mm256_slli_epi64(high, 32));
}

enum avx2_store { AVX2_NONE, AVX2_PLAIN, AVX2_STREAM };

static inline __attribute__((always_inline)) void avx2_put(enum avx2_store store, uint8_t *dst, size_t at,
                                                           __m256i low, __m256i high)
{
	__m256i *to;

	if (store == AVX2_NONE)
		return;
	to = (__m256i *)(void *)(dst + at);
	if (store == AVX2_PLAIN) {
		_mm256_storeu_si256(to, low);
		_mm256_storeu_si256(to + 1, high);
	} else {
		_mm256_stream_si256(to, low);
		_mm256_stream_si256(to + 1, high);
	}
}

/* `count` stripes, the first of them number `in_block` of its block; no scramble. */
static inline __attribute__((always_inline)) void avx2_stripes(__m256i acc[2], __m256i last[2], uint8_t *dst,
                                                               const uint8_t *src, const uint8_t *secret,
                                                               size_t count, enum avx2_store store, bool ahead)
{
#pragma GCC unroll 4
	for (size_t i = 0; i < count; i++) {
		__m256i low, high;

		if (ahead)
			_mm_prefetch((const char *)src + 64 * (AVX2_AHEAD_STRIPES + i), _MM_HINT_T0);
		low = avx2_load(src + 64 * i);
		high = avx2_load(src + 64 * i + 32);
		avx2_put(store, dst, 64 * i, low, high);
		acc[0] = avx2_accumulate(acc[0], low, avx2_load(secret + 8 * i));
		acc[1] = avx2_accumulate(acc[1], high, avx2_load(secret + 8 * i + 32));
		last[0] = low;
		last[1] = high;
	}
}

static inline __attribute__((always_inline)) void avx2_run(struct kvci_copy_state *state, uint8_t *dst,
                                                           const uint8_t *src, size_t stripes, enum avx2_store store)
{
	__m256i *acc_memory = (__m256i *)(void *)state->acc;
	__m256i *last_memory = (__m256i *)(void *)state->last;
	__m256i acc[2] = {_mm256_load_si256(acc_memory), _mm256_load_si256(acc_memory + 1)};
	__m256i last[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
	const uint8_t *secret = state->secret;
	uint32_t in_block = state->stripes_in_block;

	while (stripes != 0) {
		size_t count = COPY_BLOCK_STRIPES - in_block;

		if (count > stripes)
			count = stripes;
		if (count == COPY_BLOCK_STRIPES && stripes >= COPY_BLOCK_STRIPES + AVX2_AHEAD_STRIPES)
			avx2_stripes(acc, last, dst, src, secret, COPY_BLOCK_STRIPES, store, true);
		else
			avx2_stripes(acc, last, dst, src, secret + 8 * in_block, count, store, false);
		in_block += (uint32_t)count;
		if (in_block == COPY_BLOCK_STRIPES) {
			acc[0] = avx2_scramble(acc[0], avx2_load(secret + COPY_SCRAMBLE_SECRET));
			acc[1] = avx2_scramble(acc[1], avx2_load(secret + COPY_SCRAMBLE_SECRET + 32));
			in_block = 0;
		}
		src += 64 * count;
		dst = store == AVX2_NONE ? dst : dst + 64 * count;
		stripes -= count;
	}
	_mm256_store_si256(acc_memory, acc[0]);
	_mm256_store_si256(acc_memory + 1, acc[1]);
	_mm256_store_si256(last_memory, last[0]);
	_mm256_store_si256(last_memory + 1, last[1]);
	state->stripes_in_block = in_block;
}

static void avx2_hash(struct kvci_copy_state *state, const uint8_t *src, size_t stripes)
{
	avx2_run(state, NULL, src, stripes, AVX2_NONE);
}

static void avx2_copy(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes)
{
	avx2_run(state, dst, src, stripes, AVX2_PLAIN);
}

static void avx2_copy_stream(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes)
{
	avx2_run(state, dst, src, stripes, AVX2_STREAM);
}

static void avx2_bare(uint8_t *dst, const uint8_t *src, size_t stripes)
{
	for (; stripes != 0; stripes--, src += 64, dst += 64) {
		if (stripes > AVX2_AHEAD_STRIPES)
			_mm_prefetch((const char *)src + 64 * AVX2_AHEAD_STRIPES, _MM_HINT_T0);
		avx2_put(AVX2_STREAM, dst, 0, avx2_load(src), avx2_load(src + 32));
	}
}

static int avx2_usable(void)
{
	return (kvci_cpu_features() & KVCI_CPU_AVX2) != 0;
}

const struct copy_kernel kvci_copy_kernel_avx2 = {
	.name = "avx2",
	.usable = avx2_usable,
	.hash = avx2_hash,
	.copy = avx2_copy,
	.copy_stream = avx2_copy_stream,
	.bare = avx2_bare,
};

#endif
