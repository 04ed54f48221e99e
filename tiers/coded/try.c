/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs tried: at the start with what is made up, and with records, so that a codec is judged by what it does with this very KV.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tiers/coded/internal.h"

enum {
	TRY_BYTES = 512 << 10,
	TRY_ROUNDS = 3,
	TRY_DECODE_BYTES = 2 << 20, /* of a record, at least a unit */
};

/* Values spread as KV is, cheaply: sums of random bytes, of several sizes. */
static void try_fill(uint16_t *values, size_t count)
{
	uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

	for (size_t i = 0; i < count; i++) {
		float value = 0;
		uint32_t bits;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		for (int byte = 0; byte < 8; byte++)
			value += (float)(int8_t)(state >> (8 * byte));
		value *= 0.002f * (float)(1 + i % 64 % 7);
		memcpy(&bits, &value, sizeof(bits));
		values[i] = (uint16_t)(bits >> 16);
	}
}

void coded_try_made(struct coded_try *ret_result)
{
	static const struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = 1, .block_tokens = 1024, .engine_block_tokens = 16, .kv_heads = 1, .head_dim_k = 256,
		.head_dim_v = 0, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_LATENT, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	const struct kvc_codec_ops *codec = kvc_codec_by_id(KVC_CODEC_SPLIT);
	struct kvc_codec_part part = {.form = &form, .layer_count = 1, .is_k = true};
	size_t bound = codec->bound_bytes(&part, TRY_BYTES), coded_bytes = 0;
	uint8_t *raw = kvci_alloc_aligned(64, TRY_BYTES), *coded = kvci_alloc_aligned(64, bound);
	void *scratch = kvci_alloc_aligned(64, codec->scratch_bytes(&part, TRY_BYTES));
	uint64_t begin_ns, encoded_ns, decoded_ns;

	*ret_result = (struct coded_try){0};
	if (raw != NULL && coded != NULL && scratch != NULL) {
		try_fill((uint16_t *)(void *)raw, TRY_BYTES / 2);
		for (int i = 0; i < TRY_ROUNDS; i++) { /* the best: the first meets fresh pages */
			begin_ns = kvci_clock_ns();
			if (codec->encode(&part, raw, TRY_BYTES, coded, bound, scratch, &coded_bytes) != KVC_OK || coded_bytes == 0)
				break;
			encoded_ns = kvci_clock_ns();
			if (codec->decode(&part, coded, coded_bytes, raw, TRY_BYTES, scratch) != KVC_OK)
				break;
			decoded_ns = kvci_clock_ns();
			if (i == 0 || encoded_ns - begin_ns < ret_result->encode_ns)
				ret_result->encode_ns = encoded_ns - begin_ns;
			if (i == 0 || decoded_ns - encoded_ns < ret_result->decode_ns)
				ret_result->decode_ns = decoded_ns - encoded_ns;
			ret_result->encode_raw_bytes = ret_result->decode_raw_bytes = TRY_BYTES;
			ret_result->stored_bytes = coded_bytes;
		}
	}
	kvci_free(raw);
	kvci_free(coded);
	kvci_free(scratch);
}

/* Its first units, up to TRY_DECODE_BYTES, to a place of their own. */
static void try_decode(const struct kvci_pack *pack, const struct kvci_record_header *header, const struct kvci_section_entry *sections,
                       const void *coded, struct kvci_pack_scratch *scratch, struct coded_try *result)
{
	uint32_t section = 0, end = 0, most = TRY_DECODE_BYTES / pack->sizes.section_bytes;
	uint64_t *checksums = kvci_alloc_zero(header->section_count, sizeof(checksums[0])), begin_ns;
	size_t image_bytes;
	uint8_t *image;

	while (end < header->section_count && end <= most)
		end += kvci_pack_unit(header, sections, end);
	image_bytes = pack->sizes.sections_offset_bytes + (size_t)end * pack->sizes.section_stride_bytes;
	image = kvci_alloc_aligned(64, image_bytes);
	if (image != NULL && checksums != NULL) {
		memset(image, 0, image_bytes); /* a load's pages are there */
		begin_ns = kvci_clock_ns();
		while (section < end &&
		       kvci_pack_decode(pack, header, sections, coded, section, image, checksums, scratch) == KVC_OK)
			section += kvci_pack_unit(header, sections, section);
		if (section == end) {
			result->decode_ns = kvci_clock_ns() - begin_ns;
			result->decode_raw_bytes = (uint64_t)end * pack->sizes.section_bytes;
		}
	}
	kvci_free(image);
	kvci_free(checksums);
}

void coded_try_record(const struct kvci_pack *pack, const void *record, void *room, struct kvci_pack_scratch *scratch,
                      struct coded_try *ret_result)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	uint64_t begin_ns = kvci_clock_ns();
	size_t bytes;
	bool lossy;

	*ret_result = (struct coded_try){0};
	if (kvci_pack_encode(pack, record, room, scratch, &bytes, &lossy) != KVC_OK || bytes == 0)
		return;
	ret_result->encode_ns = kvci_clock_ns() - begin_ns;
	ret_result->encode_raw_bytes = pack->sizes.record_bytes;
	ret_result->stored_bytes = bytes;
	if (kvci_record_parse(room, bytes, &header, &sections) == KVC_OK)
		try_decode(pack, header, sections, room, scratch, ret_result);
}
