/* SPDX-License-Identifier: Apache-2.0
 *
 * One unit at a time: encode, what it takes stored, decode of a copy of exactly that size, so that a decoder that reads behind its stream
 * is seen by a sanitizer.
 */
#include "tests/quality/codec_shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvcask/plugin/codec.h>

#include "codec/profile.h"

struct shared_run {
	const struct kvcq_array *array;
	const struct kvc_codec_ops *ops;
	struct kvc_codec_params params;
	struct kvc_form form;
	size_t part_bytes, layer_bytes; /* a block's part of one layer; all tokens of one layer */
	uint8_t *raw, *coded, *scratch;
	size_t raw_room, coded_room, scratch_room;
};

static uint64_t shared_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static kvc_status_t shared_room(uint8_t **buffer, size_t *room, size_t bytes)
{
	if (bytes <= *room)
		return KVC_OK;
	free(*buffer);
	*buffer = malloc(bytes);
	*room = *buffer == NULL ? 0 : bytes;
	return *buffer == NULL ? KVC_NO_MEMORY : KVC_OK;
}

static kvc_status_t shared_run_init(struct shared_run *run, const char *spec, const struct kvcq_array *array)
{
	uint32_t dims = array->is_k ? array->dims_k : array->dims_v;
	struct kvc_form_sizes sizes;
	const char *wrong;
	kvc_status_t status;

	*run = (struct shared_run){ .array = array };
	status = kvc_codec_spec_parse(spec, &run->ops, &run->params, &wrong);
	if (status != KVC_OK)
		return status;
	run->form = (struct kvc_form){
		.struct_bytes = sizeof(run->form), .layer_count = array->layers, .block_tokens = array->block_tokens,
		.engine_block_tokens = array->page_tokens, .kv_heads = array->heads, .head_dim_k = array->dims_k,
		.head_dim_v = array->arrangement == KVC_KV_LATENT ? 0 : array->dims_v, .dtype = array->dtype,
		.arrangement = array->arrangement, .order = array->arrangement == KVC_KV_LATENT ? 0 : KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	status = kvc_form_sizes(&run->form, &sizes, NULL);
	if (status != KVC_OK)
		return status;
	run->part_bytes = array->arrangement == KVC_KV_LATENT
		? sizes.section_bytes : sizes.section_bytes / (array->dims_k + array->dims_v) * dims;
	run->layer_bytes = run->part_bytes / array->block_tokens * array->tokens;
	return KVC_OK;
}

static void shared_run_fini(struct shared_run *run)
{
	free(run->raw);
	free(run->coded);
	free(run->scratch);
}

/* Layers part->layer on, part->layer_count of them, of the block whose first token is `token`. */
static kvc_status_t shared_unit(struct shared_run *run, const struct kvc_codec_part *part, uint32_t token, struct kvcq_result *result)
{
	const struct kvc_codec_ops *ops = run->ops;
	size_t at = part->layer * run->layer_bytes + token * (run->layer_bytes / run->array->tokens);
	size_t raw_bytes = run->part_bytes * part->layer_count, coded_bytes = 0, bound = ops->bound_bytes(part, raw_bytes);
	uint8_t *exact;
	uint64_t begin_ns;
	kvc_status_t status;

	status = shared_room(&run->raw, &run->raw_room, raw_bytes);
	if (status == KVC_OK)
		status = shared_room(&run->coded, &run->coded_room, bound + 1);
	if (status == KVC_OK)
		status = shared_room(&run->scratch, &run->scratch_room, ops->scratch_bytes(part, raw_bytes) + 1);
	if (status != KVC_OK)
		return status;
	for (uint32_t i = 0; i < part->layer_count; i++)
		memcpy(run->raw + i * run->part_bytes, (const uint8_t *)run->array->values + at + i * run->layer_bytes, run->part_bytes);
	begin_ns = shared_now_ns();
	status = ops->encode(part, run->raw, raw_bytes, run->coded, bound, run->scratch, &coded_bytes);
	result->encode_ns += shared_now_ns() - begin_ns;
	if (status != KVC_OK)
		return status;
	result->units++;
	result->raw_bytes += raw_bytes;
	result->stored_bytes += coded_bytes == 0 ? raw_bytes : coded_bytes;
	if (coded_bytes == 0) {
		result->raw_units++;
	} else {
		exact = malloc(coded_bytes);
		if (exact == NULL)
			return KVC_NO_MEMORY;
		memcpy(exact, run->coded, coded_bytes);
		memset(run->raw, 0xa5, raw_bytes);
		begin_ns = shared_now_ns();
		status = ops->decode(part, exact, coded_bytes, run->raw, raw_bytes, run->scratch);
		result->decode_ns += shared_now_ns() - begin_ns;
		free(exact);
	}
	for (uint32_t i = 0; i < part->layer_count && status == KVC_OK; i++)
		memcpy((uint8_t *)run->array->back + at + i * run->layer_bytes, run->raw + i * run->part_bytes, run->part_bytes);
	return status;
}

/* Unit after unit of the block at `token`; a unit never goes past the last layer. */
static kvc_status_t shared_block(struct shared_run *run, uint32_t token, struct kvcq_result *result)
{
	const struct kvcq_array *array = run->array;
	kvc_status_t status = KVC_OK;

	for (uint32_t layer = 0; layer < array->layers && status == KVC_OK;) {
		struct kvc_codec_part part = {
			.form = &run->form, .layer = layer, .layer_count = 1, .is_k = array->is_k != 0,
			.position_tokens = array->position_tokens + token, .profile = array->profile, .params = &run->params,
			.scores = array->scores == NULL ? NULL : array->scores + (size_t)token * array->heads,
		};
		uint32_t span = run->ops->span == NULL ? 1 : run->ops->span(&part);

		part.layer_count = span < array->layers - layer ? span : array->layers - layer;
		if (part.layer_count == 0)
			return KVC_INVALID;
		result->span = part.layer_count > result->span ? part.layer_count : result->span;
		status = shared_unit(run, &part, token, result);
		result->failed_layer = layer;
		result->failed_token = token;
		layer += part.layer_count;
	}
	return status;
}

int kvcq_codec_at(uint32_t index, const char **ret_name, uint32_t *ret_lossless, uint32_t *ret_needs_profile)
{
	const struct kvc_codec_ops *ops = kvc_codec_at(index);

	if (ops == NULL)
		return -1;
	*ret_name = ops->name;
	*ret_lossless = ops->lossless;
	*ret_needs_profile = ops->needs_profile;
	return KVC_OK;
}

int kvcq_spec_check(const char *spec, uint32_t *ret_lossless, uint32_t *ret_needs_profile, const char **ret_wrong)
{
	const struct kvc_codec_ops *ops;
	struct kvc_codec_params params;
	kvc_status_t status;

	*ret_wrong = NULL;
	status = kvc_codec_spec_parse(spec, &ops, &params, ret_wrong);
	if (status == KVC_OK) {
		*ret_lossless = ops->lossless;
		*ret_needs_profile = ops->needs_profile;
	}
	return status;
}

int kvcq_round_trip(const char *spec, const struct kvcq_array *array, struct kvcq_result *ret_result)
{
	struct kvcq_result result = { 0 };
	struct shared_run run;
	kvc_status_t status = shared_run_init(&run, spec, array);

	if (status == KVC_OK && array->back != array->values)
		memcpy(array->back, array->values, run.layer_bytes * array->layers);
	for (uint32_t token = 0; status == KVC_OK && token + array->block_tokens <= array->tokens; token += array->block_tokens)
		status = shared_block(&run, token, &result);
	shared_run_fini(&run);
	*ret_result = result;
	return status;
}

const void *kvcq_profile_open(const char *path)
{
	struct kvc_profile *profile = NULL;
	FILE *file = fopen(path, "rbe");
	uint8_t *bytes = NULL;
	long length = -1;

	if (file == NULL)
		return NULL;
	if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0)
		bytes = malloc((size_t)length);
	if (bytes != NULL && fread(bytes, 1, (size_t)length, file) == (size_t)length &&
	    kvci_profile_read(bytes, (size_t)length, &profile) != KVC_OK)
		profile = NULL;
	free(bytes);
	fclose(file);
	return profile;
}

const char *kvcq_status_name(int status)
{
	return kvc_status_name((kvc_status_t)status);
}
