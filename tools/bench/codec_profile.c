/* SPDX-License-Identifier: Apache-2.0
 *
 * A profile for `kvcask bench codec` where none was given: made of the first half of the sample's tokens, for the second half.
 */
#include <math.h>
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/pq.h"
#include "codec/profile_make.h"
#include "codec/rope.h"
#include "tools/bench/bench.h"
#include "tools/bench/codec_sample.h"

enum { PROFILE_TOKENS_STEP = 256, PROFILE_PCA_LAYERS = 5, PROFILE_SINKS = 4, PROFILE_ROPE_DIMS_MAX = 4096 };

/* The first `tokens` tokens of each layer, layer behind layer. */
static void *profile_head(const struct codec_sample *sample, uint32_t tokens)
{
	size_t token_bytes = (size_t)2 * sample->heads * sample->dims;
	uint8_t *head = kvci_alloc(sample->layers * tokens * token_bytes);

	for (uint32_t layer = 0; head != NULL && layer < sample->layers; layer++)
		memcpy(head + layer * tokens * token_bytes, (const uint8_t *)sample->values + (size_t)layer * sample->tokens * token_bytes,
		       tokens * token_bytes);
	return head;
}

static kvc_status_t profile_make(const struct kvci_profile_order *order, bool codebooks, uint8_t **ret_bytes, size_t *ret_length)
{
	uint8_t *bytes = NULL;
	size_t length;
	kvc_status_t status;

	if (!codebooks)
		return kvci_profile_make(order, ret_bytes, ret_length);
	status = kvci_profile_make(order, &bytes, &length);
	if (status == KVC_OK)
		status = kvci_pq_train(order, 0, bytes, length, ret_bytes, ret_length);
	kvci_free(bytes);
	return status;
}

kvc_status_t codec_profile_make(struct codec_sample samples[2], double rope_theta, uint16_t codec_id, struct kvc_profile **ret_profile)
{
	uint8_t *bytes;
	size_t length;
	kvc_status_t status = codec_profile_bytes(samples, rope_theta, codec_id, &bytes, &length);

	if (status != KVC_OK)
		return status;
	status = kvci_profile_read(bytes, length, ret_profile);
	kvci_free(bytes);
	return status;
}

kvc_status_t codec_profile_bytes(struct codec_sample samples[2], double rope_theta, uint16_t codec_id, uint8_t **ret_bytes, size_t *ret_length)
{
	uint32_t half = samples[0].tokens / 2 / PROFILE_TOKENS_STEP * PROFILE_TOKENS_STEP, dims = samples[0].dims;
	float inv_freq[PROFILE_ROPE_DIMS_MAX / 2];
	struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .dims = dims, .factor = 1, .inv_freq = inv_freq };
	struct kvci_profile_sample head = { .tokens = half };
	struct kvci_profile_order order = {
		.name = "kvcask bench codec", .samples = &head, .sample_count = 1, .sinks = PROFILE_SINKS,
		.form = { .struct_bytes = sizeof(struct kvc_form), .layer_count = samples[0].layers, .kv_heads = samples[0].heads,
		          .head_dim_k = dims, .head_dim_v = samples[1].dims, .dtype = KVC_DTYPE_BF16, .shard_count = 1 },
	};
	kvc_status_t status = KVC_NO_MEMORY;

	if (half == 0 || dims % 2 != 0 || dims > PROFILE_ROPE_DIMS_MAX || samples[1].tokens != samples[0].tokens) {
		bench_note("too few tokens, or odd ones, to make a profile of: give --profile FILE");
		return KVC_INVALID;
	}
	for (uint32_t i = 0; i < dims / 2; i++)
		inv_freq[i] = (float)pow(rope_theta, -2.0 * i / dims);
	if (rope_theta != 0)
		order.rope = &rope;
	if (codec_id == KVC_CODEC_ECSQ_PCA)
		order.pca_layers = samples[0].layers < PROFILE_PCA_LAYERS ? samples[0].layers : PROFILE_PCA_LAYERS;
	bench_note("no --profile: made of the first %u tokens, for those behind them", half);
	head.k = profile_head(&samples[0], half);
	head.v = profile_head(&samples[1], half);
	if (head.k != NULL && head.v != NULL)
		status = profile_make(&order, codec_id == KVC_CODEC_PQ, ret_bytes, ret_length);
	kvci_free((void *)(uintptr_t)head.k);
	kvci_free((void *)(uintptr_t)head.v);
	samples[0].first_token = samples[1].first_token = half;
	return status;
}
