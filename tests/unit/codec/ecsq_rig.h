/* SPDX-License-Identifier: Apache-2.0
 * What the tests of ecsq share: the real sample, a profile of it, and parts that are coded. For tests/unit/codec/test_ecsq*.c only. */
#ifndef ECSQ_RIG_H
#define ECSQ_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "codec/ecsq_kernel.h"
#include "codec/layout.h"
#include "codec/pca.h"
#include "codec/profile_make.h"
#include "codec/rans.h"
#include "tests/support/random.h"

enum { LAYERS = 2, TOKENS = 64, HEADS = 3, DIMS = 64, LAYER_VALUES = TOKENS * HEADS * DIMS, GUARD = 0xa5, GUARD_BYTES = 64 };

static inline uint16_t to_bf16(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_bf16(uint16_t element)
{
	uint32_t bits = (uint32_t)element << 16;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* ---- the real sample: 128 tokens of a layer, taken for two layers of 64 ---- */

static uint16_t sample[2][LAYERS * LAYER_VALUES];
static float inv_freq[DIMS / 2];
static struct kvci_rope rope = { .style = KVCI_ROPE_NEOX, .dims = DIMS, .factor = 1, .inv_freq = inv_freq };
static struct kvc_profile *profile;

static inline struct kvc_form form_of(uint32_t arrangement, uint32_t order)
{
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = LAYERS, .block_tokens = TOKENS, .engine_block_tokens = 16, .kv_heads = HEADS,
		.head_dim_k = DIMS, .head_dim_v = DIMS, .dtype = KVC_DTYPE_BF16, .arrangement = arrangement, .order = order,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};

	return form;
}

static inline struct kvc_profile *make_profile(const struct kvci_profile_order *order)
{
	struct kvc_profile *made;
	uint8_t *bytes;
	size_t length;

	assert_int_equal(kvci_profile_make(order, &bytes, &length), KVC_OK);
	assert_int_equal(kvci_profile_read(bytes, length, &made), KVC_OK);
	assert_true(kvci_profile_id(made) == kvci_profile_id_of(bytes, length));
	kvci_free(bytes);
	return made;
}

static inline int setup(void **context)
{
	static const char *const names[2] = { "kv-k.bf16", "kv-v.bf16" };
	struct kvci_profile_sample one = { sample[0], sample[1], TOKENS, 0 };
	struct kvci_profile_order order = { .name = "two layers", .form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH), .rope = &rope, .samples = &one,
		                            .sample_count = 1, .sinks = 4, .pca_layers = 2 };

	(void)context;
	for (int i = 0; i < 2; i++) {
		char path[512];
		FILE *file;

		snprintf(path, sizeof(path), "%s/tests/data/%s", KVC_SOURCE_DIR, names[i]);
		file = fopen(path, "re");
		assert_non_null(file);
		assert_int_equal(fread(sample[i], 2, LAYERS * LAYER_VALUES, file), LAYERS * LAYER_VALUES);
		fclose(file);
	}
	for (int i = 0; i < DIMS / 2; i++)
		inv_freq[i] = powf(1e5f, (float)-i / (DIMS / 2));
	profile = make_profile(&order);
	return 0;
}

static inline int teardown(void **context)
{
	(void)context;
	kvci_profile_free(profile);
	return 0;
}

/* ---- parts ---- */

struct coded {
	struct kvc_form form;
	struct kvc_codec_params params;
	struct kvc_codec_part part;
	const struct kvc_codec_ops *ops;
	size_t raw_bytes, bound, bytes, scratch_bytes;
	uint8_t *raw, *stream, *back, *scratch;
};

static inline void coded_init(struct coded *coded, const char *spec, const struct kvc_form *form, bool is_k)
{
	const char *wrong;
	uint32_t dims = form->arrangement == KVC_KV_SPLIT ? DIMS : 2 * DIMS;

	memset(coded, 0, sizeof(*coded));
	coded->form = *form;
	assert_int_equal(kvc_codec_spec_parse(spec, &coded->ops, &coded->params, &wrong), KVC_OK);
	coded->part = (struct kvc_codec_part){ .form = &coded->form, .layer_count = 1, .is_k = is_k, .profile = profile, .params = &coded->params };
	if (coded->ops->span != NULL)
		coded->part.layer_count = coded->ops->span(&coded->part);
	coded->raw_bytes = (size_t)coded->part.layer_count * form->block_tokens * HEADS * dims * (form->dtype == KVC_DTYPE_F32 ? 4 : 2);
	coded->bound = coded->ops->bound_bytes(&coded->part, coded->raw_bytes);
	coded->scratch_bytes = coded->ops->scratch_bytes(&coded->part, coded->raw_bytes);
	coded->raw = kvci_alloc(coded->raw_bytes);
	coded->back = kvci_alloc(coded->raw_bytes + GUARD_BYTES);
	coded->stream = kvci_alloc(coded->bound + GUARD_BYTES);
	coded->scratch = kvci_alloc(coded->scratch_bytes + GUARD_BYTES);
	assert_true(coded->raw != NULL && coded->back != NULL && coded->stream != NULL && coded->scratch != NULL);
	memset(coded->stream + coded->bound, GUARD, GUARD_BYTES);
	memset(coded->back + coded->raw_bytes, GUARD, GUARD_BYTES);
	memset(coded->scratch + coded->scratch_bytes, GUARD, GUARD_BYTES);
}

static inline void assert_guard(const uint8_t *bytes)
{
	for (int i = 0; i < GUARD_BYTES; i++)
		assert_int_equal(bytes[i], GUARD);
}

static inline void coded_fini(struct coded *coded)
{
	assert_guard(coded->stream + coded->bound);
	assert_guard(coded->back + coded->raw_bytes);
	assert_guard(coded->scratch + coded->scratch_bytes);
	kvci_free(coded->raw);
	kvci_free(coded->back);
	kvci_free(coded->stream);
	kvci_free(coded->scratch);
}

static inline void coded_encode(struct coded *coded)
{
	coded->bytes = SIZE_MAX;
	memset(coded->scratch, 0x5a, coded->scratch_bytes);
	assert_int_equal(coded->ops->encode(&coded->part, coded->raw, coded->raw_bytes, coded->stream, coded->bound, coded->scratch, &coded->bytes),
	                 KVC_OK);
	assert_true(coded->bytes <= coded->bound);
}

static inline kvc_status_t coded_decode(struct coded *coded)
{
	memset(coded->scratch, 0xc3, coded->scratch_bytes);
	return coded->ops->decode(&coded->part, coded->stream, coded->bytes, coded->back, coded->raw_bytes, coded->scratch);
}

/* The sample's part in SPLIT, NH. */
static inline void coded_fill(struct coded *coded)
{
	memcpy(coded->raw, sample[coded->part.is_k ? 0 : 1], coded->raw_bytes);
}

static inline float scale_of(bool is_k, uint32_t layer)
{
	return profile->planes[is_k ? 0 : 1].scale[(size_t)layer * HEADS * DIMS];
}

#endif
