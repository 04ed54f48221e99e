/* SPDX-License-Identifier: Apache-2.0
 *
 * vLLM's sha256_cbor chains. Per block: the CBOR image is built in one buffer without branches on the tokens
 * (hash_cbor.h), then one init, update, final of a context that keeps its fetched algorithm (the easy calls fetch it again
 * each time, 3 to 4 times as slow).
 */
#include "base/hash.h"

#include <stdbool.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/alloc.h"
#include "base/hash_cbor.h"

enum {
	HASH_BYTES = 32,
	HASH_PREFIX_BYTES = 35,    /* 83: array of 3; 58 20: byte string of 32; the parent */
	HASH_BLOCK_TOKENS_MAX = 65536,
};

struct kvci_hash_chain {
	EVP_MD *algorithm;
	EVP_MD_CTX *context;
	uint32_t block_tokens;
	uint32_t pending_count; /* tokens of a block that is not full */
	uint64_t token_count;
	uint8_t last_hash[HASH_BYTES];
	uint8_t *image;         /* CBOR of one block; what comes before the tokens never changes but for the parent */
	size_t tokens_offset_bytes;
	struct kvci_cbor cbor;
	uint32_t pending[];
};

kvc_status_t kvci_hash_chain_create(uint32_t engine_block_tokens, const uint8_t *root,
                                    struct kvci_hash_chain **ret_chain)
{
	/* SHA-256 of the CBOR text "vllm-none-hash". */
	static const uint8_t vllm_root[HASH_BYTES] = {
		0x9b, 0xd9, 0x6a, 0x48, 0x5a, 0xd8, 0x4e, 0xfd, 0xaf, 0xb7, 0x2e, 0xe4, 0x8a, 0x1d, 0x7a, 0x69,
		0xbc, 0xea, 0xd0, 0xf8, 0xf0, 0x43, 0x31, 0x73, 0x94, 0x1b, 0x27, 0x6b, 0x95, 0x81, 0xee, 0xf0,
	};
	struct kvci_hash_chain *chain;

	if (engine_block_tokens == 0)
		return KVC_INVALID;
	if (engine_block_tokens > HASH_BLOCK_TOKENS_MAX)
		return KVC_TOO_BIG;
	chain = kvci_alloc_aligned(_Alignof(struct kvci_hash_chain),
	                           sizeof(*chain) + engine_block_tokens * sizeof(chain->pending[0]));
	if (chain == NULL)
		return KVC_NO_MEMORY;
	memset(chain, 0, sizeof(*chain));
	chain->block_tokens = engine_block_tokens;
	chain->image = kvci_alloc(HASH_PREFIX_BYTES + KVCI_CBOR_HEAD_BYTES_MAX +
	                          (size_t)engine_block_tokens * KVCI_CBOR_HEAD_BYTES_MAX + KVCI_CBOR_SLACK_BYTES);
	chain->algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	chain->context = EVP_MD_CTX_new();
	if (chain->image == NULL || chain->algorithm == NULL || chain->context == NULL ||
	    EVP_DigestInit_ex2(chain->context, chain->algorithm, NULL) != 1)
		goto fail;
	memcpy(chain->last_hash, root != NULL ? root : vllm_root, HASH_BYTES);
	memcpy(chain->image, "\x83\x58\x20", 3);
	chain->tokens_offset_bytes =
		HASH_PREFIX_BYTES + kvci_cbor_put_array(chain->image + HASH_PREFIX_BYTES, engine_block_tokens);
	kvci_cbor_init(&chain->cbor, KVCI_CBOR_BEST);
	*ret_chain = chain;
	return KVC_OK;
fail:
	kvci_hash_chain_destroy(chain);
	return KVC_NO_MEMORY;
}

void kvci_hash_chain_destroy(struct kvci_hash_chain *chain)
{
	if (chain == NULL)
		return;
	EVP_MD_CTX_free(chain->context);
	EVP_MD_free(chain->algorithm);
	kvci_free(chain->image);
	kvci_free(chain);
}

/* The hash of the image that ends at `end`, with `extra` behind it. */
static bool hash_finish(struct kvci_hash_chain *chain, uint8_t *end, const void *extra, size_t extra_bytes,
                        uint8_t out[HASH_BYTES])
{
	if (extra == NULL)
		*end++ = 0xf6; /* null */
	/* NULL for the type: the context keeps its algorithm and only starts anew. */
	return EVP_DigestInit_ex2(chain->context, NULL, NULL) == 1 &&
	       EVP_DigestUpdate(chain->context, chain->image, (size_t)(end - chain->image)) == 1 &&
	       (extra == NULL || EVP_DigestUpdate(chain->context, extra, extra_bytes) == 1) &&
	       EVP_DigestFinal_ex(chain->context, out, NULL) == 1;
}

kvc_status_t kvci_hash_chain_append(struct kvci_hash_chain *chain, const uint32_t *tokens, size_t token_count,
                                    const void *extra, size_t extra_bytes, uint8_t (*out_hashes)[32],
                                    size_t max_hashes, size_t *ret_hashes)
{
	uint32_t have = chain->pending_count; /* tokens of the first block that came earlier */
	const uint8_t *parent = chain->last_hash;
	size_t blocks, taken = 0;

	if (token_count > SIZE_MAX / sizeof(*tokens) - have)
		return KVC_TOO_BIG;
	blocks = (have + token_count) / chain->block_tokens;
	if (blocks > max_hashes)
		return KVC_TOO_BIG;
	for (size_t block = 0; block < blocks; block++) {
		uint8_t *end = chain->image + chain->tokens_offset_bytes;
		uint32_t fresh = chain->block_tokens - have;

		memcpy(chain->image + 3, parent, HASH_BYTES);
		end = kvci_cbor_put_tokens(&chain->cbor, end, chain->pending, have);
		end = kvci_cbor_put_tokens(&chain->cbor, end, tokens + taken, fresh);
		if (!hash_finish(chain, end, extra, extra_bytes, out_hashes[block]))
			return KVC_INTERNAL; /* the chain is as it was */
		parent = out_hashes[block];
		taken += fresh;
		have = 0;
	}
	if (blocks != 0)
		memcpy(chain->last_hash, parent, HASH_BYTES);
	if (token_count != taken)
		memcpy(chain->pending + have, tokens + taken, (token_count - taken) * sizeof(*tokens));
	chain->pending_count = have + (uint32_t)(token_count - taken);
	chain->token_count += token_count;
	*ret_hashes = blocks;
	return KVC_OK;
}

uint64_t kvci_hash_chain_tokens(const struct kvci_hash_chain *chain)
{
	return chain->token_count;
}

kvc_status_t kvci_sha256_many(const void *bytes, size_t stride_bytes, const uint32_t *lengths_bytes, size_t count,
                              uint8_t (*out)[32])
{
	EVP_MD *algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool good = algorithm != NULL && context != NULL && EVP_DigestInit_ex2(context, algorithm, NULL) == 1;

	for (size_t i = 0; good && i < count; i++)
		good = EVP_DigestInit_ex2(context, NULL, NULL) == 1 &&
		       EVP_DigestUpdate(context, (const uint8_t *)bytes + i * stride_bytes, lengths_bytes[i]) == 1 &&
		       EVP_DigestFinal_ex(context, out[i], NULL) == 1;
	EVP_MD_CTX_free(context);
	EVP_MD_free(algorithm);
	return good ? KVC_OK : KVC_NO_MEMORY;
}

kvc_status_t kvci_sha256(const void *bytes, size_t length_bytes, uint8_t out[32])
{
	return EVP_Digest(bytes, length_bytes, out, NULL, EVP_sha256(), NULL) == 1 ? KVC_OK : KVC_INTERNAL;
}
