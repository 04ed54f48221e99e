/* SPDX-License-Identifier: Apache-2.0
 *
 * The key chain of 128 K tokens against the bare SHA-256 of the same bytes with the same cuts (fetched algorithm, one context): how
 * much of the time is hashing. Not a test: run it by hand.
 *
 *   bench_hash [rounds]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"

enum { TOKENS = 128 << 10, ROUNDS_MAX = 1001, IMAGE_ROOM = TOKENS * 5 + TOKENS * 40 };

static uint32_t tokens[TOKENS];
static uint8_t hashes[TOKENS][32];
static uint8_t images[IMAGE_ROOM];
static uint32_t image_bytes[TOKENS];

static uint8_t *put_head(uint8_t *out, unsigned major, uint32_t value)
{
	if (value < 24) {
		*out++ = (uint8_t)(major | value);
	} else if (value < 256) {
		*out++ = (uint8_t)(major | 24);
		*out++ = (uint8_t)value;
	} else if (value < 65536) {
		*out++ = (uint8_t)(major | 25);
		*out++ = (uint8_t)(value >> 8);
		*out++ = (uint8_t)value;
	} else {
		*out++ = (uint8_t)(major | 26);
		for (int shift = 24; shift >= 0; shift -= 8)
			*out++ = (uint8_t)(value >> shift);
	}
	return out;
}

/* The plain way: also checks that the chain hashed these very bytes. */
static void make_images(uint32_t block_tokens, const uint8_t root[32])
{
	uint8_t *out = images;

	for (uint32_t block = 0; block < TOKENS / block_tokens; block++) {
		uint8_t *start = out, digest[32];

		memcpy(out, "\x83\x58\x20", 3);
		memcpy(out + 3, block == 0 ? root : hashes[block - 1], 32);
		out = put_head(out + 35, 0x80, block_tokens);
		for (uint32_t i = 0; i < block_tokens; i++)
			out = put_head(out, 0, tokens[block * block_tokens + i]);
		*out++ = 0xf6;
		image_bytes[block] = (uint32_t)(out - start);
		if (kvci_sha256(start, image_bytes[block], digest) != KVC_OK || memcmp(digest, hashes[block], 32) != 0) {
			fprintf(stderr, "block %u: not the same bytes\n", block);
			exit(1);
		}
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double time_chain(uint32_t block_tokens, const uint8_t root[32])
{
	struct kvci_hash_chain *chain;
	uint64_t start;
	size_t count;

	if (kvci_hash_chain_create(block_tokens, root, &chain) != KVC_OK)
		exit(1);
	start = kvci_clock_ns();
	if (kvci_hash_chain_append(chain, tokens, TOKENS, NULL, 0, hashes, TOKENS, &count) != KVC_OK)
		exit(1);
	start = kvci_clock_ns() - start;
	kvci_hash_chain_destroy(chain);
	return (double)start / 1000;
}

static double time_bare(EVP_MD_CTX *context, uint32_t block_tokens)
{
	const uint8_t *image = images;
	uint8_t digest[32];
	uint64_t start = kvci_clock_ns();

	for (uint32_t block = 0; block < TOKENS / block_tokens; block++) {
		if (EVP_DigestInit_ex2(context, NULL, NULL) != 1 || EVP_DigestUpdate(context, image, image_bytes[block]) != 1 ||
		    EVP_DigestFinal_ex(context, digest, NULL) != 1)
			exit(1);
		image += image_bytes[block];
	}
	return (double)(kvci_clock_ns() - start) / 1000;
}

int main(int argc, char **argv)
{
	static const uint32_t block_tokens[] = {16, 32, 64, 256};
	static const uint32_t vocabularies[] = {49152, 151936};
	static const uint8_t root[32] = {1};
	uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 51;
	EVP_MD *algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	static double ours[ROUNDS_MAX], bare[ROUNDS_MAX], ratio[ROUNDS_MAX];

	if (rounds == 0 || rounds > ROUNDS_MAX || EVP_DigestInit_ex2(context, algorithm, NULL) != 1)
		return 1;
	for (size_t v = 0; v < sizeof(vocabularies) / sizeof(vocabularies[0]); v++) {
		for (uint32_t i = 0; i < TOKENS; i++)
			tokens[i] = (uint32_t)random() % vocabularies[v];
		for (size_t b = 0; b < sizeof(block_tokens) / sizeof(block_tokens[0]); b++) {
			time_chain(block_tokens[b], root);
			make_images(block_tokens[b], root);
			for (uint32_t i = 0; i < rounds; i++) {
				ours[i] = time_chain(block_tokens[b], root);
				bare[i] = time_bare(context, block_tokens[b]);
				ratio[i] = bare[i] / ours[i];
			}
			qsort(ours, rounds, sizeof(double), compare);
			qsort(bare, rounds, sizeof(double), compare);
			qsort(ratio, rounds, sizeof(double), compare);
			printf("vocabulary %6u, %3u-token blocks: chain %6.0f us, bare %6.0f us, ratio %.2f (%.2f to %.2f)\n",
			       vocabularies[v], block_tokens[b], ours[rounds / 2], bare[rounds / 2], ratio[rounds / 2],
			       ratio[rounds / 10], ratio[rounds - 1 - rounds / 10]);
		}
	}
	EVP_MD_CTX_free(context);
	EVP_MD_free(algorithm);
	return 0;
}
