/* SPDX-License-Identifier: Apache-2.0
 *
 * The codecs of this build, for codec/ only. Everyone else asks kvc_codec_by_id or kvc_codec_by_name.
 */
#ifndef KVCI_CODECS_H
#define KVCI_CODECS_H

#include <kvcask/plugin/codec.h>

/* X(ops): one line a codec, in the order of their ids. */
#define KVCI_CODECS(X) \
	X(kvc_codec_raw_ops) \
	X(kvc_codec_split_ops) \
	X(kvc_codec_zstd_ops) \
	X(kvc_codec_lz4_ops) \
	X(kvc_codec_int8_ops) \
	X(kvc_codec_fp8_ops) \
	X(kvc_codec_kv4_ops) \
	X(kvc_codec_ecsq_ops) \
	X(kvc_codec_ecsq_pca_ops) \
	X(kvc_codec_pq_ops) \
	X(kvc_codec_cachegen_ops) \
	X(kvc_codec_xquant_ops) \
	X(kvc_codec_split_profile_ops)

#define KVCI_CODEC_DECLARE(ops) extern const struct kvc_codec_ops ops;
KVCI_CODECS(KVCI_CODEC_DECLARE)
#undef KVCI_CODEC_DECLARE

#endif
