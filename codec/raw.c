/* SPDX-License-Identifier: Apache-2.0
 *
 * raw: the bytes as the engine holds them. The worked example of a codec, and what every other one falls back to.
 */
#include <string.h>

#include "codec/codecs.h"

static size_t raw_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return 0;
}

static size_t raw_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes;
}

static kvc_status_t raw_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
                               size_t out_bytes, void *scratch, size_t *ret_bytes)
{
	if (out_bytes < raw_bytes)
		return KVC_INVALID; /* less than bound_bytes */
	memcpy(out, raw, raw_bytes);
	*ret_bytes = raw_bytes;
	return KVC_OK;
}

static kvc_status_t raw_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
                               size_t raw_bytes, void *scratch)
{
	if (coded_bytes != raw_bytes)
		return KVC_CORRUPT;
	memcpy(raw, coded, raw_bytes);
	return KVC_OK;
}

const struct kvc_codec_ops kvc_codec_raw_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_RAW,
	.name = "raw",
	.lossless = true,
	.scratch_bytes = raw_scratch_bytes,
	.bound_bytes = raw_bound_bytes,
	.encode = raw_encode,
	.decode = raw_decode,
};
