/* SPDX-License-Identifier: Apache-2.0
 *
 * The codecs of FUZZ_CODECS (a bit for each number; the last for all from it on). Any bytes as a part: the first six say which codec, which elements, how they lie, what the codec is asked for and how long the part is; the
 * fourth byte is
 *   even  the rest is a coded stream: every decoder answers inside its buffers, and every kernel the same
 *   odd   it is the part: it is coded, by every kernel to the same bytes, and comes back (a lossy codec's in the right length)
 */
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/profile_make.h"
#include "codec/rans.h"
#include "tests/fuzz/fuzz.h"

enum { HEAD_BYTES = 6, GUARD = 0xa5, GUARD_BYTES = 32 };

static const char *const kernels[] = { "scalar", "avx2", "avx512" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static uint8_t *guarded(size_t bytes)
{
	uint8_t *memory = kvci_alloc(bytes + GUARD_BYTES);

	FUZZ_CHECK(memory != NULL);
	memset(memory, GUARD, bytes + GUARD_BYTES);
	return memory;
}

static void check_guard(const uint8_t *memory, size_t bytes)
{
	for (size_t i = 0; i < GUARD_BYTES; i++)
		FUZZ_CHECK(memory[bytes + i] == GUARD);
}

static void fuzz_stream(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *bytes, size_t length,
                        size_t raw_bytes)
{
	size_t scratch_bytes = ops->scratch_bytes(part, raw_bytes);
	uint8_t *raw = guarded(raw_bytes), *first = guarded(raw_bytes), *scratch = guarded(scratch_bytes);
	kvc_status_t first_status = KVC_OK;

	for (int i = 0; i < KERNELS; i++) {
		kvc_status_t status;

		if (!kvci_rans_select(kernels[i]))
			continue;
		status = ops->decode(part, bytes, length, raw, raw_bytes, scratch);
		FUZZ_CHECK(status == KVC_OK || status == KVC_CORRUPT);
		check_guard(raw, raw_bytes);
		check_guard(scratch, scratch_bytes);
		if (i == 0) {
			first_status = status;
			memcpy(first, raw, raw_bytes);
		}
		FUZZ_CHECK(status == first_status && (status != KVC_OK || memcmp(first, raw, raw_bytes) == 0));
	}
	kvci_free(raw);
	kvci_free(first);
	kvci_free(scratch);
}

static void fuzz_part(const struct kvc_codec_ops *ops, const struct kvc_codec_part *part, const uint8_t *raw, size_t raw_bytes)
{
	size_t bound = ops->bound_bytes(part, raw_bytes), scratch_bytes = ops->scratch_bytes(part, raw_bytes), first_bytes = 0;
	uint8_t *coded = guarded(bound), *first = guarded(bound), *back = guarded(raw_bytes), *scratch = guarded(scratch_bytes);

	for (int i = 0; i < KERNELS; i++) {
		size_t bytes = 0;

		if (!kvci_rans_select(kernels[i]))
			continue;
		FUZZ_CHECK(ops->encode(part, raw, raw_bytes, coded, bound, scratch, &bytes) == KVC_OK && bytes <= bound);
		check_guard(coded, bound);
		check_guard(scratch, scratch_bytes);
		if (i == 0) {
			first_bytes = bytes;
			memcpy(first, coded, bytes);
		}
		FUZZ_CHECK(bytes == first_bytes && memcmp(first, coded, bytes) == 0);
		if (bytes == 0)
			continue;
		FUZZ_CHECK(ops->decode(part, coded, bytes, back, raw_bytes, scratch) == KVC_OK);
		check_guard(back, raw_bytes);
		FUZZ_CHECK(!ops->lossless || memcmp(raw, back, raw_bytes) == 0);
	}
	kvci_free(coded);
	kvci_free(first);
	kvci_free(back);
	kvci_free(scratch);
}

/* What a lossy codec is asked for: its defaults where the bits are 0. */
static struct kvc_codec_params params_of(const struct kvc_codec_ops *ops, uint8_t bits)
{
	struct kvc_codec_params params = ops->defaults;

	if ((bits & 0x10) != 0)
		params.entropy = 0;
	if ((bits & 0x20) != 0 && (ops->params & KVC_CODEC_PARAM_VARIANT) != 0)
		params.variant = bits >> 6;
	else if ((bits & 0x20) != 0 && (ops->params & KVC_CODEC_PARAM_GROUP) != 0)
		params.group = 8u << (bits >> 6);
	if ((bits & 0x40) != 0 && (ops->params & KVC_CODEC_PARAM_BITS_K) != 0)
		params.bits_k = params.bits_v = 2 + (bits >> 7);
	return params;
}

/* Of the form below: values that differ from channel to channel and have something in common. */
static const struct kvc_profile *profile_of(const struct kvc_form *form)
{
	enum { LAYERS = 2, ROWS = 64, ROW = 32 };
	static struct kvc_profile *profile;
	static float values[LAYERS * ROWS * ROW], inv_freq[4] = { 1, 0.25f, 0.0625f, 0.01f };
	const struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .first_dim = 4, .dims = 8, .factor = 1, .inv_freq = inv_freq };
	const struct kvci_profile_sample sample = { values, values, ROWS, 0 };
	struct kvci_profile_order order = { .name = "", .form = *form, .rope = &rope, .samples = &sample, .sample_count = 1, .pca_layers = 2 };
	uint8_t *bytes;
	size_t length;

	if (profile != NULL)
		return profile;
	for (uint32_t i = 0; i < LAYERS * ROWS * ROW; i++)
		values[i] = (float)(i * 2654435761u >> 16 & 0xff) / (float)(1 + i % ROW) + (float)(i / ROW % ROWS % 7);
	order.form.dtype = KVC_DTYPE_F32;
	FUZZ_CHECK(kvci_profile_make(&order, &bytes, &length) == KVC_OK && kvci_profile_read(bytes, length, &profile) == KVC_OK);
	kvci_free(bytes);
	return profile;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	const struct kvc_codec_ops *ops;
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = 2, .block_tokens = 64, .engine_block_tokens = 16, .kv_heads = 2,
		.head_dim_k = 16, .head_dim_v = 16, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	struct kvc_codec_part part = { .form = &form };
	struct kvc_codec_params params;
	size_t raw_bytes;

	if (length < HEAD_BYTES || (FUZZ_CODECS >> (bytes[0] < 31 ? bytes[0] : 31) & 1) == 0 || (ops = kvc_codec_by_id(bytes[0])) == NULL)
		return 0;
	part.profile = profile_of(&form);
	form.dtype = 1 + bytes[1] % 7;
	form.arrangement = 1 + bytes[2] % 2;
	form.order = 1 + bytes[2] / 2 % 2;
	if ((bytes[2] & 8) != 0) {
		form.arrangement = KVC_KV_LATENT;
		form.order = form.head_dim_v = 0;
		form.kv_heads = 1;
	}
	part.position_tokens = bytes[2] >> 5;
	part.is_k = bytes[2] / 4 % 2 != 0 || form.arrangement != KVC_KV_SPLIT;
	part.layer_count = ops->span != NULL && (bytes[2] & 0x10) != 0 ? ops->span(&part) : 0;
	params = params_of(ops, bytes[3]);
	part.params = &params;
	raw_bytes = bytes[4] | (size_t)bytes[5] << 8;
	if (bytes[3] % 2 == 0) {
		fuzz_stream(ops, &part, bytes + HEAD_BYTES, length - HEAD_BYTES, raw_bytes);
	} else {
		part.scores = (bytes[3] & 8) != 0 ? bytes + HEAD_BYTES : NULL; /* fewer rows than bytes */
		fuzz_part(ops, &part, bytes + HEAD_BYTES, length - HEAD_BYTES);
	}
	return 0;
}
