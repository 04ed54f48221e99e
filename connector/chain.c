/* SPDX-License-Identifier: Apache-2.0
 * Key chains for callers without hashes of their own: base/hash.h behind the public names. */
#include "base/alloc.h"
#include "base/hash.h"
#include "connector/internal.h"

struct kvc_chain {
	struct kvci_hash_chain *chain;
};

kvc_status_t kvc_chain_create(uint32_t engine_block_tokens, const uint8_t *root, struct kvc_chain **ret_chain)
{
	struct kvc_chain *chain;
	kvc_status_t status;

	if (engine_block_tokens == 0 || engine_block_tokens > KVC_FORM_BLOCK_TOKENS_MAX || ret_chain == NULL)
		return client_fail(KVC_INVALID, "an engine block has 1 to %u tokens", (unsigned)KVC_FORM_BLOCK_TOKENS_MAX);
	chain = kvci_alloc_zero(1, sizeof(*chain));
	if (chain == NULL)
		return client_fail(KVC_NO_MEMORY, "chain");
	status = kvci_hash_chain_create(engine_block_tokens, root, &chain->chain);
	if (status != KVC_OK) {
		kvci_free(chain);
		return client_fail(status, "chain: %s", kvc_status_text(status));
	}
	*ret_chain = chain;
	return KVC_OK;
}

kvc_status_t kvc_chain_append(struct kvc_chain *chain, const uint32_t *tokens, size_t token_count, uint8_t (*out)[32],
                              size_t room, size_t *ret_count)
{
	if (chain == NULL || ret_count == NULL || (tokens == NULL && token_count > 0) || (out == NULL && room > 0))
		return client_fail(KVC_INVALID, "an argument is NULL");
	return kvci_hash_chain_append(chain->chain, tokens, token_count, NULL, 0, out, room, ret_count);
}

void kvc_chain_destroy(struct kvc_chain *chain)
{
	if (chain == NULL)
		return;
	kvci_hash_chain_destroy(chain->chain);
	kvci_free(chain);
}
