/* SPDX-License-Identifier: Apache-2.0
 *
 * Codec: a pure function on buffers that packs a section part (K or V of one layer). No I/O, no threads, no allocation beyond
 * the scratch that the caller gives. Any worker thread may call any slot.
 *
 * "Did not shrink" is a result, not an error: encode answers OK with *ret_bytes = 0 and the caller stores the part raw.
 * A decoder is handed untrusted bytes: it answers CORRUPT, never reads or writes outside its buffers.
 */
#ifndef KVCASK_PLUGIN_CODEC_H
#define KVCASK_PLUGIN_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

enum { KVC_CODEC_ABI = 1 };

/* Numbers are stored in records: they never change meaning. */
enum kvc_codec_id {
	KVC_CODEC_RAW = 0,
	KVC_CODEC_SPLIT = 1, /* lossless, floating-point elements */
	KVC_CODEC_ZSTD = 2,  /* lossless, any bytes */
	KVC_CODEC_LZ4 = 3,   /* the same */
};

/* What a part is made of. */
struct kvc_codec_part {
	const struct kvc_form *form;
	uint32_t layer;
	bool is_k; /* with KVC_KV_FUSED and KVC_KV_LATENT: the whole section, is_k = true */
};

struct kvc_codec_ops {
	uint32_t struct_bytes;
	uint32_t abi_version;
	uint16_t id; /* enum kvc_codec_id */
	const char *name;
	bool lossless;
	size_t (*scratch_bytes)(const struct kvc_codec_part *part, size_t raw_bytes);
	/* Most bytes that encode can write. */
	size_t (*bound_bytes)(const struct kvc_codec_part *part, size_t raw_bytes);
	kvc_status_t (*encode)(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
	                       size_t out_bytes, void *scratch, size_t *ret_bytes);
	kvc_status_t (*decode)(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
	                       size_t raw_bytes, void *scratch);
};

/* NULL: this build has no such codec. */
const struct kvc_codec_ops *kvc_codec_by_id(uint16_t id);
const struct kvc_codec_ops *kvc_codec_by_name(const char *name);
/* The codecs of this build in the order of their ids; NULL behind the last. */
const struct kvc_codec_ops *kvc_codec_at(size_t index);

#endif
