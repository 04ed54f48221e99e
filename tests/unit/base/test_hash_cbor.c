/* SPDX-License-Identifier: Apache-2.0
 * CBOR of token lists: each encoder of this CPU against the plain rules of RFC 8949. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash_cbor.h"
#include "tests/support/random.h"

enum { TOKENS_MAX = 300, GUARD = 0xa5 };

static uint8_t *plain_put(uint8_t *out, unsigned major, uint32_t value)
{
	static const uint32_t least[4] = {0, 24, 256, 65536};
	static const int bytes[4] = {0, 1, 2, 4};
	int width = 3;

	while (value < least[width])
		width--;
	*out++ = (uint8_t)(major << 5 | (width == 0 ? value : 23 + (uint32_t)width));
	for (int i = bytes[width]; i-- > 0;)
		*out++ = (uint8_t)(value >> (8 * i));
	return out;
}

static void check_tokens(const struct kvci_cbor *cbor, const uint32_t *tokens, size_t count)
{
	static uint8_t ours[TOKENS_MAX * 5 + KVCI_CBOR_SLACK_BYTES + 1], plain[TOKENS_MAX * 5];
	uint8_t *end = plain, *our_end;
	uint32_t *exact = kvci_alloc((count + !count) * sizeof(*tokens)); /* the sanitizer guards its end */

	assert_non_null(exact);
	memcpy(exact, tokens, count * sizeof(*tokens));
	for (size_t i = 0; i < count; i++)
		end = plain_put(end, 0, tokens[i]);
	memset(ours, GUARD, sizeof(ours));
	our_end = kvci_cbor_put_tokens(cbor, ours, exact, count);
	kvci_free(exact);
	assert_int_equal(our_end - ours, end - plain);
	assert_memory_equal(ours, plain, (size_t)(end - plain));
	assert_int_equal(our_end[KVCI_CBOR_SLACK_BYTES], GUARD);
}

static void check_way(const struct kvci_cbor *cbor)
{
	static const uint32_t edges[] = {0, 23, 24, 255, 256, 65535, 65536, 0x7fffffff, 0x80000000, UINT32_MAX};
	static const uint32_t limits[] = {24, 256, 65536, 1 << 18, UINT32_MAX};
	uint32_t tokens[TOKENS_MAX];

	/* Each edge at each place of a step, all else each other edge. */
	for (size_t a = 0; a < sizeof(edges) / sizeof(edges[0]); a++) {
		for (size_t b = 0; b < sizeof(edges) / sizeof(edges[0]); b++) {
			for (size_t at = 0; at < 28; at++) {
				for (size_t i = 0; i < 28; i++)
					tokens[i] = i == at ? edges[a] : edges[b];
				check_tokens(cbor, tokens, 28);
			}
		}
	}
	for (int round = 0; round < 5000; round++) { /* widths mixed at random, any count */
		size_t count = random_next() % (round % 10 == 0 ? TOKENS_MAX + 1 : 40);

		for (size_t i = 0; i < count; i++)
			tokens[i] = (uint32_t)(random_next() % limits[random_next() % 5]);
		check_tokens(cbor, tokens, count);
	}
}

static void test_cbor_tokens__each_encoder__shortest_form(void **context)
{
	struct kvci_cbor cbor;
	int ways = 0;

	(void)context;
	for (int way = KVCI_CBOR_SCALAR; way <= KVCI_CBOR_BEST; way++) {
		if (!kvci_cbor_init(&cbor, (enum kvci_cbor_way)way))
			continue;
		check_way(&cbor);
		ways++;
	}
	assert_true(ways >= 2); /* the plain one and the best */
}

static void test_cbor_array__any_count__shortest_form(void **context)
{
	static const uint32_t counts[] = {0, 1, 23, 24, 255, 256, 65535, 65536, UINT32_MAX};

	(void)context;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		uint8_t ours[8] = {0}, plain[8] = {0};
		uint8_t *end = plain_put(plain, 4, counts[i]);

		assert_int_equal(kvci_cbor_put_array(ours, counts[i]), end - plain);
		assert_memory_equal(ours, plain, sizeof(ours));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cbor_tokens__each_encoder__shortest_form),
		cmocka_unit_test(test_cbor_array__any_count__shortest_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
