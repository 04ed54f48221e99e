/* SPDX-License-Identifier: Apache-2.0
 *
 * lz4: any bytes, for those who want the fastest decode of what repeats itself. Floating-point KV does not.
 */
#include <limits.h>

#include <lz4.h>

#include "codec/codecs.h"

enum { LZ4_ALIGN_BYTES = 64, LZ4_ACCELERATION = 1 };

static size_t lz4_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return (size_t)LZ4_sizeofState() + LZ4_ALIGN_BYTES;
}

static size_t lz4_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + raw_bytes / 255 + 16; /* LZ4_COMPRESSBOUND, whose argument is an int */
}

static kvc_status_t lz4_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
                               size_t out_bytes, void *scratch, size_t *ret_bytes)
{
	void *state = (void *)(((uintptr_t)scratch + LZ4_ALIGN_BYTES - 1) & ~(uintptr_t)(LZ4_ALIGN_BYTES - 1));
	size_t bytes = 0;

	if (out_bytes < lz4_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	if (raw_bytes <= LZ4_MAX_INPUT_SIZE && out_bytes <= INT_MAX)
		bytes = (size_t)LZ4_compress_fast_extState(state, raw, out, (int)raw_bytes, (int)out_bytes, LZ4_ACCELERATION);
	*ret_bytes = bytes > raw_bytes - raw_bytes / 32 ? 0 : bytes;
	return KVC_OK;
}

static kvc_status_t lz4_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
                               size_t raw_bytes, void *scratch)
{
	if (coded_bytes > INT_MAX || raw_bytes > LZ4_MAX_INPUT_SIZE)
		return KVC_CORRUPT;
	return LZ4_decompress_safe(coded, raw, (int)coded_bytes, (int)raw_bytes) == (int)raw_bytes ? KVC_OK : KVC_CORRUPT;
}

const struct kvc_codec_ops kvc_codec_lz4_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_LZ4,
	.name = "lz4",
	.lossless = true,
	.scratch_bytes = lz4_scratch_bytes,
	.bound_bytes = lz4_bound_bytes,
	.encode = lz4_encode,
	.decode = lz4_decode,
};
