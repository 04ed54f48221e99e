/* SPDX-License-Identifier: Apache-2.0
 *
 * zstd: any bytes, for what is already quantised or odd. Level 1: higher ones gain next to nothing on KV and take their time. Contexts live
 * in the caller's scratch.
 */
#define ZSTD_STATIC_LINKING_ONLY /* contexts in memory of ours */
#include <zstd.h>

#include "codec/codecs.h"

enum { ZSTD_LEVEL = 1, ZSTD_ALIGN_BYTES = 64 };

static void *zstd_aligned(void *scratch)
{
	return (void *)(((uintptr_t)scratch + ZSTD_ALIGN_BYTES - 1) & ~(uintptr_t)(ZSTD_ALIGN_BYTES - 1));
}

static size_t zstd_context_bytes(void)
{
	size_t encode = ZSTD_estimateCCtxSize(ZSTD_LEVEL), decode = ZSTD_estimateDCtxSize();

	return encode > decode ? encode : decode;
}

static size_t zstd_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return zstd_context_bytes() + ZSTD_ALIGN_BYTES;
}

static size_t zstd_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return ZSTD_compressBound(raw_bytes);
}

static kvc_status_t zstd_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out,
                                size_t out_bytes, void *scratch, size_t *ret_bytes)
{
	ZSTD_CCtx *context = ZSTD_initStaticCCtx(zstd_aligned(scratch), zstd_context_bytes());
	size_t bytes;

	if (context == NULL || out_bytes < zstd_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	bytes = ZSTD_compressCCtx(context, out, out_bytes, raw, raw_bytes, ZSTD_LEVEL);
	*ret_bytes = ZSTD_isError(bytes) || bytes > raw_bytes - raw_bytes / 32 ? 0 : bytes;
	return KVC_OK;
}

static kvc_status_t zstd_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw,
                                size_t raw_bytes, void *scratch)
{
	ZSTD_DCtx *context = ZSTD_initStaticDCtx(zstd_aligned(scratch), zstd_context_bytes());
	size_t bytes;

	if (context == NULL)
		return KVC_INVALID;
	bytes = ZSTD_decompressDCtx(context, raw, raw_bytes, coded, coded_bytes);
	return coded_bytes != 0 && bytes == raw_bytes ? KVC_OK : KVC_CORRUPT;
}

const struct kvc_codec_ops kvc_codec_zstd_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_ZSTD,
	.name = "zstd",
	.lossless = true,
	.scratch_bytes = zstd_scratch_bytes,
	.bound_bytes = zstd_bound_bytes,
	.encode = zstd_encode,
	.decode = zstd_decode,
};
