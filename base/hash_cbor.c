/* SPDX-License-Identifier: Apache-2.0
 *
 * Three encoders without branches on the tokens: one a step in plain C, three a step by a byte shuffle (AVX2), twelve a
 * step by byte compression (AVX-512 VBMI2). Each takes what it can and leaves the rest to the plainer one.
 */
#include "base/hash_cbor.h"

#include <string.h>

#include "base/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
	CBOR_SHUFFLE_TOKENS = 3,   /* 15 bytes at most, in a register of 16 */
	CBOR_COMPRESS_TOKENS = 12, /* 60 bytes at most, in a register of 64 */
};

size_t kvci_cbor_put_array(uint8_t *out, uint32_t count)
{
	uint32_t bytes = count < 24 ? 0 : count < 256 ? 1 : count < 65536 ? 2 : 4;

	out[0] = (uint8_t)(bytes == 0 ? 0x80 | count : bytes == 1 ? 0x98 : bytes == 2 ? 0x99 : 0x9a);
	for (uint32_t i = 0; i < bytes; i++)
		out[1 + i] = (uint8_t)(count >> (8 * (bytes - 1 - i)));
	return 1 + bytes;
}

/* Each is a big-endian number of 1, 2, 3 or 5 bytes whose head stands above the value. One 8-byte store a token; what it writes too
 * much, the next one overwrites. */
static uint8_t *cbor_put_scalar(uint8_t *out, const uint32_t *tokens, size_t count)
{
	static const uint64_t head[4] = {0, 0x1800, 0x190000, UINT64_C(0x1a00000000)};
	static const uint8_t bytes[4] = {1, 2, 3, 5};

	for (size_t i = 0; i < count; i++) {
		uint64_t token = tokens[i];
		unsigned width = (token > 23) + (token > 255) + (token > 65535);
		uint64_t word = __builtin_bswap64((head[width] + token) << (64 - 8 * bytes[width]));

		memcpy(out, &word, sizeof(word));
		out += bytes[width];
	}
	return out;
}

/* For each combination of three widths: which of the 16 bytes {three tokens, heads of widths 1, 2, 3} go where.
 * The combination's bits 0-2 are the low bits of the widths, 3-5 the high ones. */
static void cbor_make_shuffles(struct kvci_cbor *cbor)
{
	for (unsigned combination = 0; combination < KVCI_CBOR_SHUFFLES; combination++) {
		uint8_t *place = cbor->shuffle[combination];
		unsigned at = 0;

		memset(place, 0x80, 16); /* a zero byte */
		for (unsigned token = 0; token < CBOR_SHUFFLE_TOKENS; token++) {
			unsigned width = (combination >> token & 1) | (combination >> (token + 3) & 1) << 1;

			if (width != 0)
				place[at++] = (uint8_t)(11 + width);
			for (unsigned byte = width == 3 ? 4 : width == 2 ? 2 : 1; byte-- > 0;)
				place[at++] = (uint8_t)(4 * token + byte);
		}
		cbor->shuffle_bytes[combination] = (uint8_t)at;
	}
}

/* Where the bytes of {head, b3, b2, b1, b0} of each token are; 64 on: in the register of heads. */
static void cbor_make_layout(struct kvci_cbor *cbor)
{
	memset(cbor->layout, 0, sizeof(cbor->layout));
	for (uint8_t i = 0; i < CBOR_COMPRESS_TOKENS; i++) {
		cbor->layout[5 * i] = (uint8_t)(64 + 4 * i);
		for (uint8_t byte = 0; byte < 4; byte++)
			cbor->layout[5 * i + 1 + byte] = (uint8_t)(4 * i + 3 - byte);
	}
}

#if defined(__x86_64__)

/* *tokens and *count move on by what was taken. */
__attribute__((target("avx2"))) static uint8_t *cbor_put_avx2(const struct kvci_cbor *cbor, uint8_t *out,
                                                              const uint32_t **tokens, size_t *count)
{
	const __m128i heads = _mm_set1_epi32(0x001a1918);
	const __m128i least1 = _mm_set1_epi32(24), least2 = _mm_set1_epi32(256), least3 = _mm_set1_epi32(65536);

	for (; *count > CBOR_SHUFFLE_TOKENS; *count -= CBOR_SHUFFLE_TOKENS, *tokens += CBOR_SHUFFLE_TOKENS) {
		__m128i four = _mm_loadu_si128((const __m128i *)(const void *)*tokens);
		__m128i width1 = _mm_cmpeq_epi32(_mm_max_epu32(four, least1), four);
		__m128i width2 = _mm_cmpeq_epi32(_mm_max_epu32(four, least2), four);
		__m128i width3 = _mm_cmpeq_epi32(_mm_max_epu32(four, least3), four);
		__m128i low = _mm_xor_si128(_mm_xor_si128(width1, width2), width3);
		unsigned combination = ((unsigned)_mm_movemask_ps(_mm_castsi128_ps(low)) & 7) |
		                       ((unsigned)_mm_movemask_ps(_mm_castsi128_ps(width2)) & 7) << 3;
		__m128i bytes = _mm_shuffle_epi8(_mm_blend_epi32(four, heads, 8),
		                                 _mm_load_si128((const __m128i *)(const void *)cbor->shuffle[combination]));

		_mm_storeu_si128((__m128i *)(void *)out, bytes);
		out += cbor->shuffle_bytes[combination];
	}
	return out;
}

/* Each token is laid out as {head, b3, b2, b1, b0}; the bytes that its width has no use for are squeezed out. */
__attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi2,popcnt"))) static uint8_t *
cbor_put_vbmi2(const struct kvci_cbor *cbor, uint8_t *out, const uint32_t **tokens, size_t *count)
{
	const uint64_t first = UINT64_C(0x0084210842108421); /* bit 5 * i, for 12 tokens */
	const __m512i least1 = _mm512_set1_epi32(24), least2 = _mm512_set1_epi32(256), least3 = _mm512_set1_epi32(65536);
	const __m512i one = _mm512_set1_epi32(1);
	const __m512i layout = _mm512_load_si512(cbor->layout);

	for (; *count >= CBOR_COMPRESS_TOKENS; *count -= CBOR_COMPRESS_TOKENS, *tokens += CBOR_COMPRESS_TOKENS) {
		__m512i some = _mm512_maskz_loadu_epi32(0xfff, *tokens);
		__mmask16 width1 = _mm512_cmpge_epu32_mask(some, least1);
		__mmask16 width2 = _mm512_cmpge_epu32_mask(some, least2);
		__mmask16 width3 = _mm512_cmpge_epu32_mask(some, least3);
		__m512i heads = _mm512_set1_epi32(0x17);
		uint64_t three = _pdep_u64(width3, first);
		uint64_t keep = _pdep_u64(width1, first) | three << 1 | three << 2 | _pdep_u64(width2, first) << 3 | first << 4;

		heads = _mm512_mask_add_epi32(heads, width1, heads, one);
		heads = _mm512_mask_add_epi32(heads, width2, heads, one);
		heads = _mm512_mask_add_epi32(heads, width3, heads, one);
		some = _mm512_permutex2var_epi8(some, layout, heads);
		_mm512_storeu_si512(out, _mm512_maskz_compress_epi8(keep, some));
		out += _mm_popcnt_u64(keep);
	}
	return out;
}

static enum kvci_cbor_way cbor_best(void)
{
	unsigned features = kvci_cpu_features();

	if ((features & KVCI_CPU_AVX512) != 0 && __builtin_cpu_supports("avx512vbmi") &&
	    __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2"))
		return KVCI_CBOR_VBMI2;
	return (features & KVCI_CPU_AVX2) != 0 ? KVCI_CBOR_AVX2 : KVCI_CBOR_SCALAR;
}

#else

static enum kvci_cbor_way cbor_best(void)
{
	return KVCI_CBOR_SCALAR;
}

#endif

bool kvci_cbor_init(struct kvci_cbor *cbor, enum kvci_cbor_way way)
{
	enum kvci_cbor_way best = cbor_best();

	if (way != KVCI_CBOR_BEST && way > best)
		return false;
	cbor->way = way == KVCI_CBOR_BEST ? best : way;
	cbor_make_shuffles(cbor);
	cbor_make_layout(cbor);
	return true;
}

uint8_t *kvci_cbor_put_tokens(const struct kvci_cbor *cbor, uint8_t *out, const uint32_t *tokens, size_t count)
{
#if defined(__x86_64__)
	if (cbor->way >= KVCI_CBOR_VBMI2)
		out = cbor_put_vbmi2(cbor, out, &tokens, &count);
	if (cbor->way >= KVCI_CBOR_AVX2)
		out = cbor_put_avx2(cbor, out, &tokens, &count);
#endif
	return cbor_put_scalar(out, tokens, count);
}
