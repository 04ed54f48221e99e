/* SPDX-License-Identifier: Apache-2.0
 *
 * What int8, kv4 and fp8 share, for codec/ only: sinks, kept rows, and a stream around a quantiser of rows.
 *
 * A *sink* is one of the first tokens of its sequence: its rows are stored raw. A *kept* row is one whose retention score is in the highest class:
 * 192 or more, and of those the highest as long as they are no more than an eighth of all; it is stored raw or as int8, as
 * the codec says. Its codes are the middle one. Rows lie in the order [layers][heads][tokens], without the sinks where not said otherwise.
 *
 * Stream, little-endian:
 *   0   1  version: 1
 *   1   1  1: there are kept rows, else 0
 *   2   1  bits of a code of the first plane (K, or the only one)
 *   3   1  the same of the second plane; 0: there is none
 *   4   4  group
 *   8   2  sinks: how many of the part's tokens
 *   10  1  variant
 *   11  5  0
 *   with kept rows: a bit each [tokens of the part][heads], the lowest first: kept; up to a whole byte (bits of sinks are 0)
 *   raw rows of the sinks: [planes][layers][heads][tokens]
 *   kept rows: [planes][layers][heads][tokens], each raw, or a scale (bf16) and a byte an element
 *   for each plane: bytes of its codes (4), what the quantiser needs besides, codes (codec/codes.h)
 *
 * A part is not coded (0 bytes: "did not shrink") when its elements are no floats, a value that is no sink's is not finite, the engine has
 * bytes of its own in it, or the stream would be longer than 31/32 of it.
 *
 * Threads: any; no state.
 */
#ifndef KVCI_ROWS_H
#define KVCI_ROWS_H

#include "codec/codes.h"
#include "codec/layout.h"
#include "codec/quant.h"

/* One plane of a part. */
struct kvci_rows {
	const struct kvci_layout *layout;
	const struct quant_kernel *kernel;
	uint32_t plane;
	uint32_t first; /* token: those before are sinks */
	uint32_t bits, group, variant;
};

struct kvci_rows_quantiser {
	/* Can rows be coded so? Asked of encode's params and of streams. */
	bool (*right)(const struct kvci_rows *rows);
	/* What it needs besides the codes. */
	size_t (*meta_bytes)(const struct kvci_rows *rows);
	/* All rows from rows->first on. False: they cannot be coded. */
	bool (*encode)(const struct kvci_rows *rows, const uint8_t *raw, uint8_t *meta, uint8_t *codes);
	kvc_status_t (*decode)(const struct kvci_rows *rows, const uint8_t *meta, struct kvci_codes_reader *codes, uint8_t *raw);
	struct kvci_codes_choice choice; /* but for `entropy` */
	bool keeps_raw;
};

/* The rows from `token` on that may be done at once: in one page, at most `limit`, and no more codes than one read gives. */
struct kvci_rows_run {
	struct quant_rows rows;
	size_t offset_bytes; /* in the part */
};
struct kvci_rows_run kvci_rows_run(const struct kvci_rows *rows, uint32_t layer, uint32_t head, uint32_t token, uint32_t limit);

/* All rows but the sinks', run by run, in the order of the stream. Begins with zeros. False: there are no more. */
struct kvci_rows_walk {
	struct kvci_rows_run run;
	uint32_t layer, head, token; /* of the run's first row */
	bool begun;
};
bool kvci_rows_next(const struct kvci_rows *rows, struct kvci_rows_walk *walk);

/* The slots of a codec. */
size_t kvci_rows_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes);
size_t kvci_rows_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes);
kvc_status_t kvci_rows_encode(const struct kvci_rows_quantiser *quantiser, const struct kvc_codec_part *part,
                              const struct kvc_codec_params *params, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                              void *scratch, size_t *ret_bytes);
kvc_status_t kvci_rows_decode(const struct kvci_rows_quantiser *quantiser, const struct kvc_codec_part *part, const void *coded,
                              size_t coded_bytes, void *raw, size_t raw_bytes, void *scratch);

#endif
