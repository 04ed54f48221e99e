/* SPDX-License-Identifier: Apache-2.0
 *
 * Hash chains that name prefixes, as vLLM computes them with prefix_caching_hash_algo=sha256_cbor:
 *
 *   root     = SHA-256(CBOR text "vllm-none-hash")          (or of $PYTHONHASHSEED, given by the caller)
 *   block[i] = SHA-256(CBOR [block[i-1] or root, [token, ...], extra])   extra = null (f6) or CBOR the caller encoded
 *
 * so that a tool, a router or an engine without hashes of its own finds what a vLLM stored. SHA-256 by OpenSSL with
 * one fetched EVP_MD and a reused context. A kvcask block of n engine blocks has the hash of its last engine block.
 *
 * A chain keeps its last hash: extending a conversation hashes only what is new.
 * Threads: a chain belongs to one thread at a time.
 */
#ifndef KVCI_HASH_H
#define KVCI_HASH_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

struct kvci_hash_chain;

/* root: 32 bytes, or NULL for vLLM's default root. */
kvc_status_t kvci_hash_chain_create(uint32_t engine_block_tokens, const uint8_t *root, struct kvci_hash_chain **ret_chain);
void kvci_hash_chain_destroy(struct kvci_hash_chain *chain);

/* Appends tokens. For every engine block that became full, its 32-byte hash is written to out_hashes (room for
 * max_hashes; TOO_BIG and nothing is taken when they do not fit); *ret_hashes is how many. extra/extra_bytes: CBOR
 * of the block's extra keys for the blocks completed by this call, NULL for none. */
kvc_status_t kvci_hash_chain_append(struct kvci_hash_chain *chain, const uint32_t *tokens, size_t token_count,
                                    const void *extra, size_t extra_bytes, uint8_t (*out_hashes)[32],
                                    size_t max_hashes, size_t *ret_hashes);
/* Tokens taken so far, full blocks and the rest. */
uint64_t kvci_hash_chain_tokens(const struct kvci_hash_chain *chain);

/* SHA-256 of `count` buffers that start stride_bytes apart, each of its length, with one context: the bare hashing that a chain stands
 * on, for comparison (kvcask bench keys). */
kvc_status_t kvci_sha256_many(const void *bytes, size_t stride_bytes, const uint32_t *lengths_bytes, size_t count,
                              uint8_t (*out)[32]);
/* SHA-256 of a buffer. */
kvc_status_t kvci_sha256(const void *bytes, size_t length_bytes, uint8_t out[32]);

#endif
