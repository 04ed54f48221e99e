/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a profile: it is refused, or what was read holds together, and a part is coded by it and comes back.
 */
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/profile.h"
#include "tests/fuzz/fuzz.h"

enum { TOKENS = 16, VALUES_MAX = 1 << 16 };

static void fuzz_code(const struct kvc_codec_ops *ops, const struct kvc_profile *profile, bool is_k)
{
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = profile->layers, .block_tokens = TOKENS, .engine_block_tokens = TOKENS,
		.kv_heads = profile->kv_heads, .head_dim_k = profile->head_dim_k, .head_dim_v = profile->head_dim_v, .dtype = KVC_DTYPE_F32,
		.arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL, .group = profile->group,
		.shard_index = profile->shard_index, .shard_count = profile->shard_count,
	};
	struct kvc_codec_part part = { .form = &form, .is_k = is_k, .profile = profile };
	uint32_t layers = ops->span != NULL ? ops->span(&part) : 1;
	size_t values = (size_t)layers * TOKENS * profile->planes[is_k ? 0 : 1].channels, bytes = 0;
	uint8_t *coded, *scratch;
	float *raw, *back;

	if (values == 0 || values > VALUES_MAX)
		return;
	part.layer_count = layers;
	raw = kvci_alloc(values * sizeof(*raw));
	back = kvci_alloc(values * sizeof(*back));
	coded = kvci_alloc(ops->bound_bytes(&part, values * sizeof(*raw)));
	scratch = kvci_alloc(ops->scratch_bytes(&part, values * sizeof(*raw)));
	FUZZ_CHECK(raw != NULL && back != NULL && coded != NULL && scratch != NULL);
	for (size_t i = 0; i < values; i++)
		raw[i] = (float)(int)(i * 2654435761u % 65536 - 32768) / 16384;
	FUZZ_CHECK(ops->encode(&part, raw, values * sizeof(*raw), coded, ops->bound_bytes(&part, values * sizeof(*raw)), scratch, &bytes) == KVC_OK);
	if (bytes != 0)
		FUZZ_CHECK(ops->decode(&part, coded, bytes, back, values * sizeof(*raw), scratch) == KVC_OK);
	kvci_free(raw);
	kvci_free(back);
	kvci_free(coded);
	kvci_free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct kvc_profile *profile = NULL;
	kvc_status_t status = kvci_profile_read(bytes, length, &profile);
	const uint8_t *section;
	size_t section_bytes;

	FUZZ_CHECK(status == KVC_OK || status == KVC_CORRUPT || status == KVC_UNSUPPORTED);
	if (status != KVC_OK)
		return 0;
	FUZZ_CHECK(kvci_profile_section(profile, KVCI_PROFILE_FORM, &section, &section_bytes) && section_bytes == 28);
	for (int i = 0; i < 4; i++)
		fuzz_code(kvc_codec_by_id(i < 2 ? KVC_CODEC_ECSQ : KVC_CODEC_ECSQ_PCA), profile, i % 2 == 0);
	kvci_profile_free(profile);
	return 0;
}
