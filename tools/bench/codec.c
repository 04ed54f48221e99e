/* SPDX-License-Identifier: Apache-2.0
 *
 * Each codec of this build on K and V in bf16, section parts of 256 tokens, on one thread beside memcpy of the same bytes, in turns. The
 * numbers of docs/codecs.md. Time is the thread's own: the figures are of a core that is ours.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/rans.h"
#include "tools/bench/bench.h"
#include "tools/bench/codec_sample.h"

enum { CODEC_TOKENS = 256, CODEC_PAGE_TOKENS = 16, CODEC_KERNELS_MAX = 3 };

static const char *const codec_kernels[CODEC_KERNELS_MAX] = { "avx512", "avx2", "scalar" };

struct codec_speed {
	const char *kernel; /* NULL: this codec has but one */
	double encode_gbps, decode_gbps, memcpy_gbps;
	double spread; /* of the decode's times: (third quartile - first) / median */
	uint32_t rounds;
};

struct codec_result {
	const char *codec, *part;
	double ratio, limit, rel_l2;
	struct codec_speed speeds[CODEC_KERNELS_MAX];
	uint32_t speed_count;
};

/* One sample and where its coded form goes. */
struct codec_run {
	const struct codec_sample *sample;
	struct kvc_form form;
	const struct kvc_codec_ops *ops;
	uint32_t count; /* parts */
	size_t part_bytes;
	bool is_k;
	size_t stride, scratch_bytes;
	size_t *coded_bytes; /* of each part; part_bytes: stored raw */
	uint8_t *coded, *back, *scratch;
};

/* Parts in the order of the sample; a rest of tokens at a layer's end is left out. */
static const uint8_t *codec_part_raw(const struct codec_run *run, uint32_t index, struct kvc_codec_part *ret_part)
{
	uint32_t parts_a_layer = run->sample->tokens / CODEC_TOKENS, layer = index / parts_a_layer;
	size_t layer_bytes = codec_sample_bytes(run->sample) / run->sample->layers;

	*ret_part = (struct kvc_codec_part){ .form = &run->form, .layer = layer, .is_k = run->is_k };
	return (const uint8_t *)run->sample->values + layer * layer_bytes + index % parts_a_layer * run->part_bytes;
}

static void codec_run_fini(struct codec_run *run)
{
	kvci_free(run->coded_bytes);
	kvci_free(run->coded);
	kvci_free(run->back);
	kvci_free(run->scratch);
}

static kvc_status_t codec_run_init(struct codec_run *run, const struct kvc_codec_ops *ops, const struct codec_sample *sample, bool is_k)
{
	struct kvc_codec_part part = { .form = &run->form, .is_k = is_k };
	struct kvc_form_sizes sizes;
	kvc_status_t status;

	*run = (struct codec_run){ .sample = sample, .ops = ops, .is_k = is_k };
	run->form = (struct kvc_form){
		.struct_bytes = sizeof(run->form), .layer_count = sample->layers, .block_tokens = CODEC_TOKENS,
		.engine_block_tokens = CODEC_PAGE_TOKENS, .kv_heads = sample->heads, .head_dim_k = sample->dims,
		.head_dim_v = sample->dims, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	status = kvc_form_sizes(&run->form, &sizes, NULL);
	if (status != KVC_OK || sample->tokens < CODEC_TOKENS)
		return KVC_INVALID;
	run->part_bytes = sizes.section_bytes / 2;
	run->count = sample->layers * (sample->tokens / CODEC_TOKENS);
	run->stride = ops->bound_bytes(&part, run->part_bytes);
	run->scratch_bytes = ops->scratch_bytes(&part, run->part_bytes);
	run->coded_bytes = kvci_alloc_zero(run->count, sizeof(*run->coded_bytes));
	run->coded = kvci_alloc(run->count * run->stride);
	run->back = kvci_alloc(run->count * run->part_bytes);
	run->scratch = kvci_alloc(run->scratch_bytes + 1);
	if (run->coded_bytes == NULL || run->coded == NULL || run->back == NULL || run->scratch == NULL) {
		codec_run_fini(run);
		return KVC_NO_MEMORY;
	}
	memset(run->back, 0, run->count * run->part_bytes); /* no page is new to the first measurement */
	memset(run->coded, 0, run->count * run->stride);
	return KVC_OK;
}

static kvc_status_t codec_encode_all(struct codec_run *run)
{
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < run->count && status == KVC_OK; i++) {
		struct kvc_codec_part part;
		const uint8_t *raw = codec_part_raw(run, i, &part);
		size_t bytes = 0;

		status = run->ops->encode(&part, raw, run->part_bytes, run->coded + i * run->stride, run->stride, run->scratch, &bytes);
		run->coded_bytes[i] = bytes;
	}
	return status;
}

/* What did not shrink is stored raw: then a copy is its decode. */
static kvc_status_t codec_decode_all(struct codec_run *run)
{
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < run->count && status == KVC_OK; i++) {
		struct kvc_codec_part part;
		const uint8_t *raw = codec_part_raw(run, i, &part);
		uint8_t *back = run->back + i * run->part_bytes;

		if (run->coded_bytes[i] == 0)
			memcpy(back, raw, run->part_bytes);
		else
			status = run->ops->decode(&part, run->coded + i * run->stride, run->coded_bytes[i], back, run->part_bytes,
			                          run->scratch);
	}
	return status;
}

static void codec_memcpy_all(struct codec_run *run)
{
	for (uint32_t i = 0; i < run->count; i++) {
		struct kvc_codec_part part;
		const uint8_t *raw = codec_part_raw(run, i, &part);

		memcpy(run->back + i * run->part_bytes, raw, run->part_bytes);
	}
}

static kvc_status_t codec_measure(const struct bench_options *options, struct codec_run *run, struct codec_speed *ret_speed)
{
	struct bench_samples encode = { 0 }, decode = { 0 }, copy = { 0 };
	uint32_t pairs = bench_pair_count(options, 21, 9);
	double bytes = (double)run->count * (double)run->part_bytes;
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < pairs && status == KVC_OK; i++) {
		uint64_t begin_ns = bench_thread_ns(), encoded_ns, copied_ns;

		status = codec_encode_all(run);
		encoded_ns = bench_thread_ns();
		codec_memcpy_all(run);
		copied_ns = bench_thread_ns();
		if (status == KVC_OK)
			status = codec_decode_all(run);
		if (status == KVC_OK)
			status = bench_samples_add(&decode, (double)(bench_thread_ns() - copied_ns));
		if (status == KVC_OK)
			status = bench_samples_add(&encode, (double)(encoded_ns - begin_ns));
		if (status == KVC_OK)
			status = bench_samples_add(&copy, (double)(copied_ns - encoded_ns));
	}
	if (status == KVC_OK) {
		ret_speed->encode_gbps = bytes / bench_samples_at(&encode, 0.5);
		ret_speed->decode_gbps = bytes / bench_samples_at(&decode, 0.5);
		ret_speed->memcpy_gbps = bytes / bench_samples_at(&copy, 0.5);
		ret_speed->spread = (bench_samples_at(&decode, 0.75) - bench_samples_at(&decode, 0.25)) / bench_samples_at(&decode, 0.5);
		ret_speed->rounds = pairs;
	}
	bench_samples_fini(&encode);
	bench_samples_fini(&decode);
	bench_samples_fini(&copy);
	return status;
}

static float codec_float(const uint8_t *bf16)
{
	uint32_t bits = (uint32_t)bf16[0] << 16 | (uint32_t)bf16[1] << 24;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* The ratio, and the error of what was decoded last over the norm of what was coded. */
static void codec_compare(const struct codec_run *run, struct codec_result *result)
{
	double error = 0, norm = 0, stored = 0;

	for (uint32_t i = 0; i < run->count; i++) {
		struct kvc_codec_part part;
		const uint8_t *raw = codec_part_raw(run, i, &part), *back = run->back + i * run->part_bytes;

		stored += (double)(run->coded_bytes[i] == 0 ? run->part_bytes : run->coded_bytes[i]);
		if (memcmp(raw, back, run->part_bytes) == 0 && run->ops->lossless)
			continue;
		for (size_t at = 0; at < run->part_bytes; at += 2) {
			double is = codec_float(raw + at), difference = codec_float(back + at) - is;

			norm += is * is;
			error += difference * difference;
		}
	}
	result->ratio = (double)run->count * (double)run->part_bytes / stored;
	result->rel_l2 = norm == 0 ? 0 : sqrt(error / norm);
}

/* The ratio of an ideal order-0 coder of each part's exponents, which knows them: 8 bits of sign and mantissa besides. */
static double codec_limit(const struct codec_run *run)
{
	double bits = 0, elements = (double)run->part_bytes / 2;

	for (uint32_t i = 0; i < run->count; i++) {
		struct kvc_codec_part part;
		const uint8_t *raw = codec_part_raw(run, i, &part);
		uint32_t counts[256] = { 0 };

		for (size_t at = 0; at < run->part_bytes; at += 2)
			counts[(raw[at] >> 7 | raw[at + 1] << 1) & 0xff]++;
		bits += 8 * elements;
		for (int exponent = 0; exponent < 256; exponent++)
			if (counts[exponent] != 0)
				bits += counts[exponent] * log2(elements / counts[exponent]);
	}
	return 16 * elements * run->count / bits;
}

/* ---- the report ------------------------------------------------------------------------------------------------------- */

/* The bars of split (docs/codecs.md). */
static bool codec_met(const struct codec_result *result)
{
	bool met = result->ratio >= (result->part[0] == 'K' ? 1.48 : 1.49) && result->ratio >= 0.99 * result->limit;

	for (uint32_t i = 0; i < result->speed_count; i++) {
		const struct codec_speed *speed = &result->speeds[i];
		double decode = strcmp(speed->kernel, "avx512") == 0 ? 2 : strcmp(speed->kernel, "avx2") == 0 ? 1.2 : 0.4;

		met = met && speed->decode_gbps >= decode && (i != 0 || speed->encode_gbps >= 0.6);
	}
	return met;
}

static void codec_print(const struct bench_options *options, const struct codec_result *result, struct bench_report *report)
{
	const struct codec_speed *best = &result->speeds[0];
	bool has_bar = best->kernel != NULL, met = !has_bar || codec_met(result);

	report->missed += !met;
	if (!options->json) {
		if (report->printed++ == 0)
			printf("%-10s %-4s %-7s %8s %9s %9s %9s %9s %9s\n", "codec", "part", "kernel", "ratio", "order-0", "encode",
			       "decode", "memcpy", "rel_l2");
		for (uint32_t i = 0; i < result->speed_count; i++)
			printf("%-10s %-4s %-7s %8.3f %9.3f %9.2f %9.2f %9.2f %9.2g%s\n", result->codec, result->part,
			       best[i].kernel == NULL ? "-" : best[i].kernel, result->ratio, result->limit, best[i].encode_gbps,
			       best[i].decode_gbps, best[i].memcpy_gbps, result->rel_l2, met ? "" : "  MISSED");
		fflush(stdout);
		return;
	}
	report->printed++;
	printf("{\"bench\":\"codec\",\"case\":\"%s_%s\",\"codec\":\"%s\",\"part\":\"%s\",\"compression_ratio\":%.4f,\"order0_ratio\":%.4f,"
	       "\"encode_gbps\":%.4g,\"decode_gbps\":%.4g,\"memcpy_gbps\":%.4g,\"rel_l2\":%.4g",
	       result->codec, result->part, result->codec, result->part, result->ratio, result->limit, best->encode_gbps,
	       best->decode_gbps, best->memcpy_gbps, result->rel_l2);
	/* What every bench says: of these, the decode's. */
	printf(",\"ours\":%.4g,\"reference\":%.4g,\"reference_name\":\"memcpy\",\"unit\":\"GB/s\",\"ratio\":%.4g,\"spread\":%.4g,"
	       "\"p50_us\":0,\"p99_us\":0,\"n\":%u",
	       best->decode_gbps, best->memcpy_gbps, best->decode_gbps / best->memcpy_gbps, best->spread, best->rounds);
	if (has_bar) {
		printf(",\"kernel\":\"%s\",\"kernels\":{", best->kernel);
		for (uint32_t i = 0; i < result->speed_count; i++)
			printf("%s\"%s\":{\"encode_gbps\":%.4g,\"decode_gbps\":%.4g,\"memcpy_gbps\":%.4g}", i == 0 ? "" : ",", best[i].kernel,
			       best[i].encode_gbps, best[i].decode_gbps, best[i].memcpy_gbps);
		printf("},\"met\":%s", met ? "true" : "false");
	}
	printf("}\n");
	fflush(stdout);
}

/* The entropy coder's kernels one after another, the one that is picked by itself first. */
static kvc_status_t codec_measure_kernels(const struct bench_options *options, struct codec_run *run, struct codec_result *result)
{
	const char *usual = kvci_rans_kernel();
	kvc_status_t status = KVC_OK;

	for (int i = 0; i < CODEC_KERNELS_MAX && status == KVC_OK; i++)
		if (kvci_rans_select(codec_kernels[i])) {
			struct codec_speed *speed = &result->speeds[result->speed_count++];

			speed->kernel = codec_kernels[i];
			status = codec_measure(options, run, speed);
		}
	kvci_rans_select(usual);
	return status;
}

static kvc_status_t codec_one(const struct bench_options *options, const struct kvc_codec_ops *ops, const struct codec_sample *sample,
                              bool is_k, struct bench_report *report)
{
	struct codec_result result = { .codec = ops->name, .part = is_k ? "K" : "V" };
	struct codec_run run;
	kvc_status_t status = codec_run_init(&run, ops, sample, is_k);

	if (status != KVC_OK)
		return status;
	if (ops->id == KVC_CODEC_SPLIT) {
		status = codec_measure_kernels(options, &run, &result);
	} else {
		result.speed_count = 1;
		status = codec_measure(options, &run, &result.speeds[0]);
	}
	if (status == KVC_OK) {
		result.limit = codec_limit(&run);
		codec_compare(&run, &result);
		if (ops->lossless && result.rel_l2 != 0) {
			bench_note("%s: lossless, and not what was coded came back", ops->name);
			status = KVC_CORRUPT;
		}
		codec_print(options, &result, report);
	}
	codec_run_fini(&run);
	return status;
}

kvc_status_t bench_codec(const struct bench_options *options, struct bench_report *report)
{
	struct codec_sample samples[2] = { 0 };
	const struct kvc_codec_ops *ops;
	kvc_status_t status = KVC_OK;
	char name[64];

	if (options->codec != NULL && kvc_codec_by_name(options->codec) == NULL) {
		bench_note("no codec is called %s", options->codec);
		return KVC_INVALID;
	}
	for (int i = 0; i < 2 && status == KVC_OK; i++)
		status = options->kv[0] == NULL ? codec_sample_make(i == 0, &samples[i]) : codec_sample_read(options->kv[i], &samples[i]);
	for (size_t at = 0; status == KVC_OK && (ops = kvc_codec_at(at)) != NULL; at++)
		for (int i = 0; i < 2 && status == KVC_OK; i++) {
			snprintf(name, sizeof(name), "%s_%s", ops->name, i == 0 ? "K" : "V");
			if ((options->codec == NULL || strcmp(options->codec, ops->name) == 0) && bench_wanted(options, "codec", name))
				status = codec_one(options, ops, &samples[i], i == 0, report);
		}
	codec_sample_fini(&samples[0]);
	codec_sample_fini(&samples[1]);
	return status;
}
