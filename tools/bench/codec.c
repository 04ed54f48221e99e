/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs on K and V in bf16 (or fp32), units of 256 tokens, on one thread beside memcpy of the same bytes, in turns. The numbers of docs/codecs.md. Time is
 * CPU time: the figures are of a core that is ours.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/profile.h"
#include "codec/rans.h"
#include "tools/bench/bench.h"
#include "tools/bench/codec_sample.h"

enum { CODEC_TOKENS = 256, CODEC_PAGE_TOKENS = 16, CODEC_KERNELS_MAX = 3, CODEC_SPEC_MAX = 96 };

#define CODEC_LONG_NS UINT64_C(20000000000)

static const char *const codec_kernels[CODEC_KERNELS_MAX] = { "avx512", "avx2", "scalar" };

struct codec_speed {
	const char *kernel; /* NULL: this codec has but one */
	double encode_ns, decode_ns, memcpy_ns; /* of all bytes */
	double spread; /* of the decode's times: (third quartile - first) / median */
	uint32_t rounds;
};

struct codec_result {
	const char *codec, *part;
	const struct kvc_codec_ops *ops;
	const struct kvc_codec_params *params;
	bool f32;
	double bytes, stored, limit_bits, error, norm;
	struct codec_speed speeds[CODEC_KERNELS_MAX];
	uint32_t speed_count;
};

static double codec_ratio(const struct codec_result *result)
{
	return result->bytes / result->stored;
}

static double codec_rel_l2(const struct codec_result *result)
{
	return result->norm == 0 ? 0 : sqrt(result->error / result->norm);
}

/* Of an ideal order-0 coder of each part's exponents. */
static double codec_limit_ratio(const struct codec_result *result)
{
	return 8 * result->bytes / result->limit_bits;
}

/* What a codec codes at once: a part of one layer, or of as many as its span. */
struct codec_unit {
	struct kvc_codec_part part;
	size_t offset, bytes;  /* in run->raw and run->back */
	size_t coded_offset, coded_room;
	size_t coded_bytes; /* 0: stored raw */
};

/* One sample and where its coded form goes. */
struct codec_run {
	const struct codec_sample *sample;
	struct kvc_form form;
	const struct kvc_codec_ops *ops;
	const struct kvc_codec_params *params;
	const struct kvc_profile *profile;
	bool is_k;
	uint32_t element_bytes; /* 2: bf16; 4: fp32 */
	uint32_t count; /* units */
	struct codec_unit *units;
	size_t part_bytes, raw_bytes; /* of 256 tokens of a layer; of all */
	size_t coded_room, scratch_bytes;
	uint8_t *raw, *coded, *back, *scratch;
};

static void codec_run_fini(struct codec_run *run)
{
	kvci_free(run->units);
	kvci_free(run->raw);
	kvci_free(run->coded);
	kvci_free(run->back);
	kvci_free(run->scratch);
}

static uint32_t codec_turns(const struct codec_sample *sample)
{
	return (sample->tokens - sample->first_token) / CODEC_TOKENS;
}

/* `count` values of the sample as the form holds them. */
static void codec_convert(const struct codec_run *run, const uint8_t *bf16, size_t count, uint64_t *random, uint8_t *out)
{
	if (run->element_bytes == 2) {
		memcpy(out, bf16, 2 * count);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		uint64_t low = bench_random(random);

		memcpy(out + 4 * i, &low, 2);
		memcpy(out + 4 * i + 2, bf16 + 2 * i, 2);
	}
}

/* Units in the order of tokens, then layers; a rest of tokens at the end is left out. */
static void codec_run_units(struct codec_run *run)
{
	uint32_t layers = run->sample->layers, turns = codec_turns(run->sample), first = run->sample->first_token / CODEC_TOKENS;
	size_t layer_bytes = codec_sample_bytes(run->sample) / layers, at = 0, count = run->part_bytes / run->element_bytes;
	uint64_t random = 88172645463325252u;

	for (uint32_t turn = first; turn < first + turns; turn++)
		for (uint32_t layer = 0; layer < layers;) {
			struct codec_unit *unit = &run->units[run->count++];
			uint32_t span;

			unit->part = (struct kvc_codec_part){ .form = &run->form, .layer = layer, .is_k = run->is_k, .params = run->params,
				                              .position_tokens = (uint64_t)turn * CODEC_TOKENS, .profile = run->profile };
			span = run->ops->span == NULL ? 1 : run->ops->span(&unit->part);
			span = span < layers - layer ? span : layers - layer;
			unit->part.layer_count = span;
			unit->offset = at;
			unit->bytes = span * run->part_bytes;
			for (uint32_t i = 0; i < span; i++, layer++, at += run->part_bytes)
				codec_convert(run, (const uint8_t *)run->sample->values + layer * layer_bytes + turn * 2 * count, count, &random,
				              run->raw + at);
		}
}

/* Where each unit's coded form goes, and the most scratch that one needs. */
static void codec_run_rooms(struct codec_run *run)
{
	for (uint32_t i = 0; i < run->count; i++) {
		struct codec_unit *unit = &run->units[i];
		size_t scratch = run->ops->scratch_bytes(&unit->part, unit->bytes);

		unit->coded_offset = run->coded_room;
		unit->coded_room = run->ops->bound_bytes(&unit->part, unit->bytes);
		run->coded_room += (unit->coded_room + 63) / 64 * 64;
		run->scratch_bytes = scratch > run->scratch_bytes ? scratch : run->scratch_bytes;
	}
}

static kvc_status_t codec_run_init(struct codec_run *run, const struct codec_result *result, const struct codec_sample *sample, bool is_k,
                                   bool f32, const struct kvc_profile *profile)
{
	struct kvc_form_sizes sizes;
	kvc_status_t status;

	*run = (struct codec_run){ .sample = sample, .ops = result->ops, .params = result->params, .profile = profile, .is_k = is_k,
		                   .element_bytes = f32 ? 4 : 2 };
	run->form = (struct kvc_form){
		.struct_bytes = sizeof(run->form), .layer_count = sample->layers, .block_tokens = CODEC_TOKENS,
		.engine_block_tokens = CODEC_PAGE_TOKENS, .kv_heads = sample->heads, .head_dim_k = sample->dims,
		.head_dim_v = sample->dims, .dtype = f32 ? KVC_DTYPE_F32 : KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	status = kvc_form_sizes(&run->form, &sizes, NULL);
	if (status != KVC_OK || codec_turns(sample) == 0)
		return KVC_INVALID;
	run->part_bytes = sizes.section_bytes / 2;
	run->raw_bytes = run->part_bytes * sample->layers * codec_turns(sample);
	run->units = kvci_alloc_zero((size_t)sample->layers * codec_turns(sample), sizeof(*run->units));
	run->raw = kvci_alloc(run->raw_bytes);
	run->back = kvci_alloc(run->raw_bytes);
	if (run->units == NULL || run->raw == NULL || run->back == NULL)
		goto fail;
	codec_run_units(run);
	codec_run_rooms(run);
	run->coded = kvci_alloc(run->coded_room);
	run->scratch = kvci_alloc(run->scratch_bytes + 1);
	if (run->coded == NULL || run->scratch == NULL)
		goto fail;
	memset(run->back, 0, run->raw_bytes); /* no page is new to the first measurement */
	memset(run->coded, 0, run->coded_room);
	return KVC_OK;
fail:
	codec_run_fini(run);
	return KVC_NO_MEMORY;
}

static kvc_status_t codec_encode_all(struct codec_run *run)
{
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < run->count && status == KVC_OK; i++) {
		struct codec_unit *unit = &run->units[i];

		status = run->ops->encode(&unit->part, run->raw + unit->offset, unit->bytes, run->coded + unit->coded_offset, unit->coded_room,
		                          run->scratch, &unit->coded_bytes);
	}
	return status;
}

/* What did not shrink is stored raw: then a copy is its decode. */
static kvc_status_t codec_decode_all(struct codec_run *run)
{
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < run->count && status == KVC_OK; i++) {
		const struct codec_unit *unit = &run->units[i];
		uint8_t *back = run->back + unit->offset;

		if (unit->coded_bytes == 0)
			memcpy(back, run->raw + unit->offset, unit->bytes);
		else
			status = run->ops->decode(&unit->part, run->coded + unit->coded_offset, unit->coded_bytes, back, unit->bytes,
			                          run->scratch);
	}
	return status;
}

static void codec_memcpy_all(struct codec_run *run)
{
	for (uint32_t i = 0; i < run->count; i++)
		memcpy(run->back + run->units[i].offset, run->raw + run->units[i].offset, run->units[i].bytes);
}

/* CPU time of the process: this thread's, and that of the one that x265 starts. */
static uint64_t codec_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static kvc_status_t codec_measure(const struct bench_options *options, struct codec_run *run, struct codec_speed *ret_speed)
{
	struct bench_samples encode = { 0 }, decode = { 0 }, copy = { 0 };
	uint32_t pairs = bench_pair_count(options, 21, 9), done = 0;
	uint64_t first_ns = codec_now_ns();
	kvc_status_t status = KVC_OK;

	/* A codec that is a thousand times slower than memcpy is known well enough after three rounds. */
	for (; done < pairs && (done < 3 || codec_now_ns() - first_ns < CODEC_LONG_NS) && status == KVC_OK; done++) {
		uint64_t begin_ns = codec_now_ns(), encoded_ns, copied_ns;

		status = codec_encode_all(run);
		encoded_ns = codec_now_ns();
		codec_memcpy_all(run);
		copied_ns = codec_now_ns();
		if (status == KVC_OK)
			status = codec_decode_all(run);
		if (status == KVC_OK)
			status = bench_samples_add(&decode, (double)(codec_now_ns() - copied_ns));
		if (status == KVC_OK)
			status = bench_samples_add(&encode, (double)(encoded_ns - begin_ns));
		if (status == KVC_OK)
			status = bench_samples_add(&copy, (double)(copied_ns - encoded_ns));
	}
	if (status == KVC_OK) {
		ret_speed->encode_ns = bench_samples_at(&encode, 0.5);
		ret_speed->decode_ns = bench_samples_at(&decode, 0.5);
		ret_speed->memcpy_ns = bench_samples_at(&copy, 0.5);
		ret_speed->spread = (bench_samples_at(&decode, 0.75) - bench_samples_at(&decode, 0.25)) / ret_speed->decode_ns;
		ret_speed->rounds = done;
	}
	bench_samples_fini(&encode);
	bench_samples_fini(&decode);
	bench_samples_fini(&copy);
	return status;
}

static float codec_float(const struct codec_run *run, const uint8_t *bytes)
{
	uint32_t bits = 0;
	float value;

	memcpy((uint8_t *)&bits + 4 - run->element_bytes, bytes, run->element_bytes);
	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* The bytes, and the error of what was decoded last over the norm of what was coded. */
static void codec_compare(const struct codec_run *run, struct codec_result *result)
{
	for (uint32_t i = 0; i < run->count; i++) {
		const struct codec_unit *unit = &run->units[i];

		result->stored += (double)(unit->coded_bytes == 0 ? unit->bytes : unit->coded_bytes);
	}
	result->bytes = (double)run->raw_bytes;
	if (memcmp(run->raw, run->back, run->raw_bytes) == 0 && run->ops->lossless)
		return;
	for (size_t at = 0; at < run->raw_bytes; at += run->element_bytes) {
		double is = codec_float(run, run->raw + at), difference = codec_float(run, run->back + at) - is;

		result->norm += is * is;
		result->error += difference * difference;
	}
}

/* Bits of an ideal order-0 coder of each part's exponents, which knows them: all others, signs and mantissas, besides. */
static double codec_limit_bits(const struct codec_run *run)
{
	uint32_t element_bytes = run->element_bytes;
	double bits = 0, elements = (double)run->part_bytes / element_bytes;

	for (size_t part = 0; part < run->raw_bytes; part += run->part_bytes) {
		const uint8_t *raw = run->raw + part;
		uint32_t counts[256] = { 0 };

		for (size_t at = element_bytes - 2; at < run->part_bytes; at += element_bytes)
			counts[(raw[at] >> 7 | raw[at + 1] << 1) & 0xff]++;
		bits += (8 * element_bytes - 8) * elements;
		for (int exponent = 0; exponent < 256; exponent++)
			if (counts[exponent] != 0)
				bits += counts[exponent] * log2(elements / counts[exponent]);
	}
	return bits;
}

/* ---- the report ------------------------------------------------------------------------------------------------------- */

/* The bars of docs/codecs.md: of K and V together where not said otherwise; 0: none. Ratios are of the codec's own defaults; speeds of the fixed rate,
 * where there is one, by the kernel that is picked. */
struct codec_bar {
	uint16_t id;
	double ratio, encode_gbps, decode_gbps;
	bool fixed_rate;
};

static const struct codec_bar codec_bars[] = {
	{ KVC_CODEC_INT8, 2.2, 5, 5, true },
	{ KVC_CODEC_FP8, 2.41, 0, 0, false },
	{ KVC_CODEC_KV4, 3.7, 2, 4, true },
};

static double codec_gbps(const struct codec_result *result, double ns)
{
	return result->bytes / ns;
}

static bool codec_met_split(const struct codec_result *result)
{
	double ratio = codec_ratio(result);
	bool met = ratio >= 0.99 * codec_limit_ratio(result) && ratio >= (result->part[0] == 'K' ? 1.48 : 1.49);

	if (strcmp(result->part, "KV") == 0)
		return true;
	for (uint32_t i = 0; i < result->speed_count; i++) {
		const struct codec_speed *speed = &result->speeds[i];
		double decode = strcmp(speed->kernel, "avx512") == 0 ? 2 : strcmp(speed->kernel, "avx2") == 0 ? 1.2 : 0.4;

		met = met && codec_gbps(result, speed->decode_ns) >= decode && (i != 0 || codec_gbps(result, speed->encode_ns) >= 0.6);
	}
	return met;
}

/* Has it a bar, and is that met? */
static bool codec_met(const struct codec_result *result, bool *ret_has_bar)
{
	const struct kvc_codec_params *params = result->params, *usual = &result->ops->defaults;
	const struct codec_speed *speed = &result->speeds[0];

	*ret_has_bar = !result->f32 && result->ops->id == KVC_CODEC_SPLIT && strcmp(result->part, "KV") != 0;
	if (result->f32) /* bars are of bf16 */
		return true;
	if (result->ops->id == KVC_CODEC_SPLIT)
		return codec_met_split(result);
	for (size_t i = 0; i < sizeof(codec_bars) / sizeof(codec_bars[0]); i++) {
		const struct codec_bar *bar = &codec_bars[i];
		bool asked = params->bits_k == usual->bits_k && params->bits_v == usual->bits_v && params->group == usual->group &&
		             params->variant == usual->variant && params->sinks == usual->sinks && params->step == usual->step;

		if (bar->id != result->ops->id || !asked || strcmp(result->part, "KV") != 0)
			continue;
		*ret_has_bar = true;
		return (params->entropy == 0 || codec_ratio(result) >= bar->ratio) &&
		       ((params->entropy != 0) == bar->fixed_rate || (codec_gbps(result, speed->encode_ns) >= bar->encode_gbps &&
		                                                      codec_gbps(result, speed->decode_ns) >= bar->decode_gbps));
	}
	return true;
}

static void codec_print_text(const struct codec_result *result, bool met, struct bench_report *report)
{
	if (report->printed++ == 0)
		printf("%-24s %-4s %-7s %8s %9s %9s %9s %9s %9s\n", "codec", "part", "kernel", "ratio", "order-0", "encode", "decode",
		       "memcpy", "rel_l2");
	for (uint32_t i = 0; i < result->speed_count; i++) {
		const struct codec_speed *speed = &result->speeds[i];

		printf("%-24s %-4s %-7s %8.3f %9.3f %9.2f %9.2f %9.2f %9.2g%s\n", result->codec, result->part,
		       speed->kernel == NULL ? "-" : speed->kernel, codec_ratio(result), codec_limit_ratio(result),
		       codec_gbps(result, speed->encode_ns), codec_gbps(result, speed->decode_ns), codec_gbps(result, speed->memcpy_ns),
		       codec_rel_l2(result), met ? "" : "  MISSED");
	}
	fflush(stdout);
}

static void codec_print(const struct bench_options *options, const struct codec_result *result, struct bench_report *report)
{
	const struct codec_speed *best = &result->speeds[0];
	double encode = codec_gbps(result, best->encode_ns), decode = codec_gbps(result, best->decode_ns);
	double copy = codec_gbps(result, best->memcpy_ns);
	bool has_bar, met = codec_met(result, &has_bar);

	report->missed += !met;
	if (!options->json) {
		codec_print_text(result, met, report);
		return;
	}
	report->printed++;
	printf("{\"bench\":\"codec\",\"case\":\"%s_%s\",\"codec\":\"%s\",\"part\":\"%s\",\"compression_ratio\":%.4f,\"order0_ratio\":%.4f,"
	       "\"encode_gbps\":%.4g,\"decode_gbps\":%.4g,\"memcpy_gbps\":%.4g,\"rel_l2\":%.4g",
	       result->codec, result->part, result->codec, result->part, codec_ratio(result), codec_limit_ratio(result), encode, decode, copy,
	       codec_rel_l2(result));
	/* What every bench says: of these, the decode's. */
	printf(",\"ours\":%.4g,\"reference\":%.4g,\"reference_name\":\"memcpy\",\"unit\":\"GB/s\",\"ratio\":%.4g,\"spread\":%.4g,"
	       "\"p50_us\":0,\"p99_us\":0,\"n\":%u",
	       decode, copy, decode / copy, best->spread, best->rounds);
	if (best->kernel != NULL) {
		printf(",\"kernel\":\"%s\",\"kernels\":{", best->kernel);
		for (uint32_t i = 0; i < result->speed_count; i++)
			printf("%s\"%s\":{\"encode_gbps\":%.4g,\"decode_gbps\":%.4g,\"memcpy_gbps\":%.4g}", i == 0 ? "" : ",", best[i].kernel,
			       codec_gbps(result, best[i].encode_ns), codec_gbps(result, best[i].decode_ns),
			       codec_gbps(result, best[i].memcpy_ns));
		printf("}");
	}
	if (has_bar)
		printf(",\"met\":%s", met ? "true" : "false");
	printf("}\n");
	fflush(stdout);
}

/* The kernels one after another, the one that is picked by itself first. */
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

/* Those whose own loops are there for several kinds of CPU. */
static bool codec_has_kernels(const struct kvc_codec_ops *ops)
{
	return ops->id != KVC_CODEC_RAW && ops->id != KVC_CODEC_ZSTD && ops->id != KVC_CODEC_LZ4 && ops->id != KVC_CODEC_HEVC;
}

static kvc_status_t codec_one(const struct bench_options *options, const struct codec_sample *sample, bool is_k,
                              const struct kvc_profile *profile, struct codec_result *result)
{
	struct codec_run run;
	kvc_status_t status = codec_run_init(&run, result, sample, is_k, options->f32, profile);

	if (status != KVC_OK)
		return status;
	result->part = is_k ? "K" : "V";
	if (codec_has_kernels(result->ops)) {
		status = codec_measure_kernels(options, &run, result);
	} else {
		result->speed_count = 1;
		status = codec_measure(options, &run, &result->speeds[0]);
	}
	if (status == KVC_OK) {
		result->limit_bits = codec_limit_bits(&run);
		codec_compare(&run, result);
		if (result->ops->lossless && codec_rel_l2(result) != 0) {
			bench_note("%s: lossless, and not what was coded came back", result->codec);
			status = KVC_CORRUPT;
		}
	}
	codec_run_fini(&run);
	return status;
}

/* K and V together. */
static void codec_add(struct codec_result *both, const struct codec_result *one)
{
	both->bytes += one->bytes;
	both->stored += one->stored;
	both->limit_bits += one->limit_bits;
	both->error += one->error;
	both->norm += one->norm;
	both->speed_count = one->speed_count;
	for (uint32_t i = 0; i < one->speed_count; i++) {
		struct codec_speed *to = &both->speeds[i];
		const struct codec_speed *from = &one->speeds[i];

		to->kernel = from->kernel;
		to->rounds = from->rounds;
		to->spread = from->spread > to->spread ? from->spread : to->spread;
		to->encode_ns += from->encode_ns;
		to->decode_ns += from->decode_ns;
		to->memcpy_ns += from->memcpy_ns;
	}
}

/* Says what is wrong with a spec. */
static void codec_refuse(const char *spec, kvc_status_t status, const char *wrong)
{
	const struct kvc_codec_ops *ops;
	char names[256] = "";

	for (size_t at = 0; (ops = kvc_codec_at(at)) != NULL; at++) {
		size_t used = strlen(names);

		snprintf(names + used, sizeof(names) - used, "%s%s", at == 0 ? "" : ", ", ops->name);
	}
	if (status == KVC_NOT_FOUND)
		bench_note("no codec is called \"%s\"; there are: %s", spec, names);
	else
		bench_note("%s: wrong at \"%s\"", spec, wrong);
}

/* One spec: an object for K, for V, and for both. */
static kvc_status_t codec_spec(const struct bench_options *options, const char *spec, const struct codec_sample samples[2],
                               const struct kvc_profile *profile, struct bench_report *report)
{
	const struct kvc_codec_ops *ops;
	struct kvc_codec_params params;
	const char *wrong;
	struct codec_result both = { .codec = spec, .part = "KV" };
	kvc_status_t status = kvc_codec_spec_parse(spec, &ops, &params, &wrong);
	char name[CODEC_SPEC_MAX];

	if (status != KVC_OK) {
		codec_refuse(spec, status, wrong);
		return KVC_INVALID;
	}
	if (ops->needs_profile && profile == NULL) {
		bench_note("%s needs --profile FILE", ops->name);
		return options->codec == NULL ? KVC_OK : KVC_INVALID;
	}
	both.ops = ops;
	both.f32 = options->f32;
	both.params = &params;
	for (int i = 0; i < 2 && status == KVC_OK; i++) {
		struct codec_result one = { .codec = spec, .ops = ops, .params = &params, .f32 = options->f32 };

		snprintf(name, sizeof(name), "%s_%s", spec, i == 0 ? "K" : "V");
		if (!bench_wanted(options, "codec", name))
			continue;
		status = codec_one(options, &samples[i], i == 0, profile, &one);
		if (status == KVC_OK)
			codec_print(options, &one, report);
		codec_add(&both, &one);
	}
	snprintf(name, sizeof(name), "%s_KV", spec);
	if (status == KVC_OK && both.bytes != 0 && bench_wanted(options, "codec", name))
		codec_print(options, &both, report);
	return status;
}

/* The codec that is asked for needs a profile, and none was given. */
static kvc_status_t codec_profile_wanted(const struct bench_options *options, struct codec_sample samples[2], struct kvc_profile **ret_profile)
{
	const struct kvc_codec_ops *ops;
	struct kvc_codec_params params;
	const char *wrong;

	if (kvc_codec_spec_parse(options->codec, &ops, &params, &wrong) != KVC_OK || !ops->needs_profile)
		return KVC_OK; /* what is wrong is said later */
	return codec_profile_make(samples, options->kv[0] != NULL ? options->rope_theta : 0, ops->id, ret_profile);
}

kvc_status_t bench_codec(const struct bench_options *options, struct bench_report *report)
{
	struct codec_sample samples[2] = { 0 };
	const struct kvc_codec_ops *ops;
	struct kvc_profile *profile = NULL;
	kvc_status_t status = options->profile == NULL ? KVC_OK : codec_profile_read(options->profile, &profile);
	char spec[CODEC_SPEC_MAX];

	for (int i = 0; i < 2 && status == KVC_OK; i++)
		status = options->kv[0] == NULL ? codec_sample_make(i == 0, &samples[i]) : codec_sample_read(options->kv[i], &samples[i]);
	if (status == KVC_OK && options->codec != NULL && profile == NULL)
		status = codec_profile_wanted(options, samples, &profile);
	if (status == KVC_OK && options->codec != NULL)
		status = codec_spec(options, options->codec, samples, profile, report);
	for (size_t at = 0; options->codec == NULL && status == KVC_OK && (ops = kvc_codec_at(at)) != NULL; at++) {
		status = codec_spec(options, ops->name, samples, profile, report);
		snprintf(spec, sizeof(spec), "%s:entropy=0", ops->name);
		if (status == KVC_OK && (ops->params & KVC_CODEC_PARAM_ENTROPY) != 0 && !ops->needs_profile)
			status = codec_spec(options, spec, samples, profile, report);
	}
	codec_sample_fini(&samples[0]);
	codec_sample_fini(&samples[1]);
	kvci_profile_free(profile);
	return status;
}
