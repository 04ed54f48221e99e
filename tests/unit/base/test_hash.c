/* SPDX-License-Identifier: Apache-2.0
 * Hash chains against digests that vLLM 0.32 itself computed (hash_block_tokens with sha256_cbor). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

enum { TOKENS_MAX = 1024, HASHES_MAX = 256 };

/* The lists of tokens that vLLM hashed were made like this, too. */
static void make_tokens(uint32_t *tokens, size_t count, uint32_t seed, uint32_t limit)
{
	for (size_t i = 0; i < count; i++) {
		seed = seed * 1664525u + 1013904223u;
		tokens[i] = (seed >> 8) % limit;
	}
}

static void assert_hex(const uint8_t hash[32], const char *hex)
{
	char text[65];

	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", hash[i]);
	assert_string_equal(text, hex);
}

static void check_chain(uint32_t block_tokens, const uint32_t *tokens, size_t count, const char *hex)
{
	static uint8_t hashes[HASHES_MAX][32];
	struct kvci_hash_chain *chain;
	size_t got;

	assert_int_equal(kvci_hash_chain_create(block_tokens, NULL, &chain), KVC_OK);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, count, NULL, 0, hashes, HASHES_MAX, &got), KVC_OK);
	assert_int_equal(got, count / block_tokens);
	assert_hex(hashes[got - 1], hex);
	kvci_hash_chain_destroy(chain);
}

static void test_chain__lists_hashed_by_vllm__same_digests(void **context)
{
	static const struct {
		uint32_t block_tokens, count, seed, limit;
		const char *hex;
	} cases[] = {
		{16, 64, 4, 128, "276e7a7d440e415c925382244f2025b728ea21d89257388e73a6d7b3c6fd0b0f"},
		{23, 46, 1, 50000, "50267b7903cbd9bb13fd1bb45cc8fb6ddd93d8abdb3cbbca6da181ed60b70377"},
		{24, 48, 2, 150000, "4d02f583e9405a3e343ceff7e69ad130ebfe982d9c101ccfaba0bff55de2462c"},
		{256, 512, 3, 150000, "5b4951d0daf87f1250cc716007c632d21251a9e8f9a234cf43b504cd7b5914eb"},
		{300, 600, 3, 49152, "819b90fbf74ee96d8c92caa44b12cf41f6f3b30a5f7c0eb0c48fa0669dd5acd6"},
	};
	/* Each length of CBOR's integers, at its edges. */
	static const uint32_t edges[] = {
		0, 23, 24, 255, 256, 65535, 65536, 0xffffffff, 1, 22, 25, 254, 257, 65534, 65537, 100000,
		0, 23, 24, 255, 256, 65535, 65536, 0xffffffff, 1, 22, 25, 254, 257, 65534, 65537, 100000,
	};
	static const uint32_t few[] = {5, 300, 70000};
	uint32_t tokens[TOKENS_MAX];

	(void)context;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		make_tokens(tokens, cases[i].count, cases[i].seed, cases[i].limit);
		check_chain(cases[i].block_tokens, tokens, cases[i].count, cases[i].hex);
	}
	check_chain(16, edges, 32, "9e7cc6307281fe219af9c4d52a6c67b6dac99107a66b1696c70b897e5ad759fc");
	check_chain(1, few, 3, "6a405807b9748f5dc2252c30ae538b6861a1ebdf18045b7e05368b335f0a2c38");
}

static void test_chain__extra_keys__same_digests_as_vllm(void **context)
{
	static const uint8_t lora[] = {0x81, 0x66, 'l', 'o', 'r', 'a', '-', 'a'}; /* ["lora-a"] */
	static const uint8_t image[] = {0x82, 0x82, 0x62, 'm', 'm', 3, 0x64, 's', 'a', 'l', 't'}; /* [["mm", 3], "salt"] */
	struct kvci_hash_chain *chain;
	uint32_t tokens[16];
	uint8_t hash[1][32];
	size_t got;

	(void)context;
	for (uint32_t i = 0; i < 16; i++)
		tokens[i] = i;
	assert_int_equal(kvci_hash_chain_create(16, NULL, &chain), KVC_OK);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, 16, lora, sizeof(lora), hash, 1, &got), KVC_OK);
	assert_hex(hash[0], "0899ca4fbe453486fa65d7afd2c238e62f6dc6c56be7074a6e46825a77e63d98");
	kvci_hash_chain_destroy(chain);
	assert_int_equal(kvci_hash_chain_create(16, NULL, &chain), KVC_OK);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, 16, image, sizeof(image), hash, 1, &got), KVC_OK);
	assert_hex(hash[0], "36f9eb8c31962311136f6a5deed3330f602e5d4610d4a277cc64328a8eea9b8d");
	kvci_hash_chain_destroy(chain);
}

static void test_chain__grown_in_any_steps__same_hashes_as_at_once(void **context)
{
	static uint8_t whole[HASHES_MAX][32], grown[HASHES_MAX][32];
	struct kvci_hash_chain *chain;
	uint32_t tokens[TOKENS_MAX];
	size_t got, total, at;

	(void)context;
	make_tokens(tokens, TOKENS_MAX, 9, 150000);
	assert_int_equal(kvci_hash_chain_create(16, NULL, &chain), KVC_OK);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, TOKENS_MAX, NULL, 0, whole, HASHES_MAX, &got), KVC_OK);
	assert_int_equal(got, TOKENS_MAX / 16);
	kvci_hash_chain_destroy(chain);
	for (size_t step = 0; step <= 50; step++) {
		assert_int_equal(kvci_hash_chain_create(16, NULL, &chain), KVC_OK);
		for (at = 0, total = 0; at < TOKENS_MAX;) {
			size_t now = step == 0 ? at % 37 : step; /* also steps of none */

			now = now > TOKENS_MAX - at ? TOKENS_MAX - at : now;
			assert_int_equal(kvci_hash_chain_append(chain, tokens + at, now, NULL, 0, grown + total,
			                                        HASHES_MAX - total, &got), KVC_OK);
			at += now;
			total += got;
			assert_int_equal(kvci_hash_chain_tokens(chain), at);
			if (now == 0) {
				assert_int_equal(got, 0);
				at++;
				assert_int_equal(kvci_hash_chain_append(chain, tokens + at - 1, 1, NULL, 0, grown + total,
				                                        HASHES_MAX - total, &got), KVC_OK);
				total += got;
			}
		}
		assert_int_equal(total, TOKENS_MAX / 16);
		assert_memory_equal(grown, whole, total * 32);
		kvci_hash_chain_destroy(chain);
	}
}

static void test_chain__own_root__other_hashes(void **context)
{
	static const uint8_t vllm_root[32] = {
		0x9b, 0xd9, 0x6a, 0x48, 0x5a, 0xd8, 0x4e, 0xfd, 0xaf, 0xb7, 0x2e, 0xe4, 0x8a, 0x1d, 0x7a, 0x69,
		0xbc, 0xea, 0xd0, 0xf8, 0xf0, 0x43, 0x31, 0x73, 0x94, 0x1b, 0x27, 0x6b, 0x95, 0x81, 0xee, 0xf0,
	};
	static const uint8_t zeros[32];
	const uint8_t *roots[3] = {NULL, vllm_root, zeros};
	uint8_t hashes[3][1][32], root[32];
	uint32_t tokens[4] = {1, 2, 3, 4};
	size_t got;

	(void)context;
	assert_int_equal(kvci_sha256("\x6evllm-none-hash", 15, root), KVC_OK);
	assert_memory_equal(root, vllm_root, 32);
	for (int i = 0; i < 3; i++) {
		struct kvci_hash_chain *chain;

		assert_int_equal(kvci_hash_chain_create(4, roots[i], &chain), KVC_OK);
		assert_int_equal(kvci_hash_chain_append(chain, tokens, 4, NULL, 0, hashes[i], 1, &got), KVC_OK);
		kvci_hash_chain_destroy(chain);
	}
	assert_memory_equal(hashes[0], hashes[1], 32);
	assert_memory_not_equal(hashes[0], hashes[2], 32);
}

static void test_chain__room_too_small__nothing_taken(void **context)
{
	struct kvci_hash_chain *chain;
	uint32_t tokens[33] = {0};
	uint8_t hashes[2][32];
	size_t got = 77;

	(void)context;
	assert_int_equal(kvci_hash_chain_create(16, NULL, &chain), KVC_OK);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, 32, NULL, 0, hashes, 1, &got), KVC_TOO_BIG);
	assert_int_equal(got, 77);
	assert_int_equal(kvci_hash_chain_tokens(chain), 0);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, SIZE_MAX, NULL, 0, hashes, 1, &got), KVC_TOO_BIG);
	assert_int_equal(kvci_hash_chain_append(chain, tokens, 33, NULL, 0, hashes, 2, &got), KVC_OK);
	assert_int_equal(got, 2);
	assert_int_equal(kvci_hash_chain_tokens(chain), 33);
	kvci_hash_chain_destroy(chain);
}

static void test_chain__impossible_block_sizes__refused(void **context)
{
	struct kvci_hash_chain *chain = NULL;

	(void)context;
	assert_int_equal(kvci_hash_chain_create(0, NULL, &chain), KVC_INVALID);
	assert_int_equal(kvci_hash_chain_create(65537, NULL, &chain), KVC_TOO_BIG);
	assert_null(chain);
	kvci_hash_chain_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain__lists_hashed_by_vllm__same_digests),
		cmocka_unit_test(test_chain__extra_keys__same_digests_as_vllm),
		cmocka_unit_test(test_chain__grown_in_any_steps__same_hashes_as_at_once),
		cmocka_unit_test(test_chain__own_root__other_hashes),
		cmocka_unit_test(test_chain__room_too_small__nothing_taken),
		cmocka_unit_test(test_chain__impossible_block_sizes__refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
