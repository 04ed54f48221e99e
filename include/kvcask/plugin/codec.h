/* SPDX-License-Identifier: Apache-2.0
 *
 * Codec: a pure function on buffers that packs a section part (K or V of one layer, or of a few neighbouring ones). No I/O, no
 * threads, no allocation beyond the scratch that the caller gives. Any worker thread may call any slot.
 *
 * "Did not shrink" is a result, not an error: encode answers OK with *ret_bytes = 0 and the caller stores the part raw.
 * A decoder is handed untrusted bytes: it answers CORRUPT, never reads or writes outside its buffers.
 *
 * A stream describes itself: what it was made with (step, bits, groups) stands in it; params are for encode only. What a stream needs
 * besides is the form, the position and, where ops->needs_profile says so, the profile that the record names.
 */
#ifndef KVCASK_PLUGIN_CODEC_H
#define KVCASK_PLUGIN_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

enum { KVC_CODEC_ABI = 3 };

/* Numbers are stored in records: they never change meaning. */
enum kvc_codec_id {
	KVC_CODEC_RAW = 0,
	KVC_CODEC_SPLIT = 1,     /* lossless, floating-point elements */
	KVC_CODEC_ZSTD = 2,      /* lossless, any bytes */
	KVC_CODEC_LZ4 = 3,       /* the same */
	KVC_CODEC_INT8 = 4,      /* symmetric, a scale per token and head */
	KVC_CODEC_FP8 = 5,       /* e4m3 or e5m2 with scales */
	KVC_CODEC_KV4 = 6,       /* 2 to 4 bits in groups: K per channel, V per token */
	KVC_CODEC_ECSQ = 7,      /* uniform step, static models, entropy-coded; needs a profile */
	KVC_CODEC_ECSQ_PCA = 8,  /* the same behind a PCA over a group of layers */
	KVC_CODEC_PQ = 9,        /* product quantisation; needs a profile */
	KVC_CODEC_CACHEGEN = 10, /* as published, for comparison */
	KVC_CODEC_XQUANT = 11,   /* layer inputs instead of K and V */
	KVC_CODEC_HEVC = 12,     /* tensors as video frames; an optional module */
	KVC_CODEC_SPLIT_PROFILE = 13, /* lossless, bf16 and fp32: split with tables from a profile */
};

/* What a lossy codec is asked for. Made by kvc_codec_spec_parse; a codec ignores what its ops->params do not name. */
struct kvc_codec_params {
	uint32_t bits_k, bits_v; /* of a code */
	uint32_t group;          /* elements that share a scale */
	uint32_t sinks;          /* tokens at the sequence's start (position 0 on) that stay raw */
	uint32_t entropy;        /* 1: codes are entropy-coded; 0: fixed rate, random access */
	uint32_t variant;        /* the codec's own choice, see its file: fp8 0 = e4m3, 1 = e5m2, ... */
	float step;              /* of a uniform quantiser, in standard deviations */
	float step_v;            /* of V, where it differs; 0: step */
	uint32_t qp;             /* of a video codec: 6 more double the step */
};

/* Which of them a codec takes, by name in a spec: ops->params. */
enum {
	KVC_CODEC_PARAM_BITS_K = 1 << 0,
	KVC_CODEC_PARAM_BITS_V = 1 << 1,
	KVC_CODEC_PARAM_GROUP = 1 << 2,
	KVC_CODEC_PARAM_SINKS = 1 << 3,
	KVC_CODEC_PARAM_ENTROPY = 1 << 4,
	KVC_CODEC_PARAM_VARIANT = 1 << 5,
	KVC_CODEC_PARAM_STEP = 1 << 6,
	KVC_CODEC_PARAM_STEP_V = 1 << 7,
	KVC_CODEC_PARAM_QP = 1 << 8,
};

struct kvc_profile; /* codec/profile.h: what is known of a model's KV */

/* What is coded: the raw bytes are those of `layer_count` parts one behind another, each the K part (is_k) or V part of its
 * section: the pages' K (or V) bytes in token order. With KVC_KV_FUSED and KVC_KV_LATENT the part is the whole section, and is_k = true. */
struct kvc_codec_part {
	const struct kvc_form *form;
	uint32_t layer;
	uint32_t layer_count; /* 0 counts as 1; more only for codecs whose span() says so */
	bool is_k;
	uint64_t position_tokens;               /* of the first token in its sequence */
	const struct kvc_profile *profile;      /* NULL: none */
	const uint8_t *scores;                  /* retention scores, [tokens][kv_heads], 255 the most worth; NULL: none. For encode */
	const struct kvc_codec_params *params;  /* for encode; NULL: ops->defaults */
};

struct kvc_codec_ops {
	uint32_t struct_bytes;
	uint32_t abi_version;
	uint16_t id; /* enum kvc_codec_id */
	const char *name;
	bool lossless;
	bool needs_profile;
	uint32_t params; /* KVC_CODEC_PARAM_* */
	struct kvc_codec_params defaults;
	/* How many neighbouring layers one unit takes, at least 1; part->layer is the first, part->layer_count is not read.
	 * NULL: 1. */
	uint32_t (*span)(const struct kvc_codec_part *part);
	size_t (*scratch_bytes)(const struct kvc_codec_part *part, size_t raw_bytes);
	/* Most bytes that encode can write. */
	size_t (*bound_bytes)(const struct kvc_codec_part *part, size_t raw_bytes);
	kvc_status_t (*encode)(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
	                       size_t out_bytes, void *scratch, size_t *ret_bytes);
	kvc_status_t (*decode)(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
	                       size_t raw_bytes, void *scratch);
};

/* A codec with dependencies that not everyone wants is a module: kvcask-codec-NAME.so, which exports kvc_codec_module() and is loaded when its
 * codec is first asked for, from the folder (a full path) that the environment's KVCASK_MODULES names, ../lib/kvcask beside the library or program,
 * or where it was installed to; once and for ever. Which names are asked for stands in codec/module.c. */
#define KVC_CODEC_MODULE(ops) \
	__attribute__((visibility("default"))) const struct kvc_codec_ops *kvc_codec_module(void); \
	const struct kvc_codec_ops *kvc_codec_module(void) \
	{ \
		return &ops; \
	}

/* NULL: this build has no such codec, and there is no module of it. */
const struct kvc_codec_ops *kvc_codec_by_id(uint16_t id);
const struct kvc_codec_ops *kvc_codec_by_name(const char *name);
/* The codecs that are built in, in the order of their ids, then the modules that are there in that of theirs; NULL behind the last. */
const struct kvc_codec_ops *kvc_codec_at(size_t index);

/* Parses "NAME" or "NAME:key=value,key=value" (keys: bits_k, bits_v, bits (both), group, sinks, entropy, variant, step, step_v, qp).
 * What is not named has the codec's default. INVALID: *ret_wrong (static storage or into `text`) is the word that is wrong; NOT_FOUND:
 * no such codec in this build. */
kvc_status_t kvc_codec_spec_parse(const char *text, const struct kvc_codec_ops **ret_ops, struct kvc_codec_params *ret_params,
                                  const char **ret_wrong);

#endif
