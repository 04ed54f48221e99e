/* SPDX-License-Identifier: Apache-2.0
 *
 * A section's parts: with K and V fused, and with latent rows, the section is the part and codecs work in place. With K and V apart the K (or
 * V) bytes of the pages are gathered into the scratch and scattered out of it. Units over several layers go through the scratch as well.
 */
#include "tiers/coded/pack.h"

#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"

enum { PACK_PREFIX_BYTES = 8 }; /* K and V apart: length of the K part, 0 */

static uint64_t pack_align(uint64_t bytes, uint64_t step)
{
	return (bytes + step - 1) / step * step;
}

static bool pack_apart(const struct kvci_pack *pack)
{
	return pack->form.arrangement == KVC_KV_SPLIT;
}

/* Bytes of K (or V) in one page. */
static size_t pack_page_bytes(const struct kvci_pack *pack, bool is_k)
{
	const struct kvc_form *form = &pack->form;
	uint64_t dims = (uint64_t)form->head_dim_k + form->head_dim_v;
	uint64_t bytes = pack->sizes.page_bytes - form->page_extra_bytes;

	if (!pack_apart(pack))
		return pack->sizes.page_bytes;
	return bytes / dims * (is_k ? form->head_dim_k : form->head_dim_v);
}

/* Bytes of one layer's part. */
static size_t pack_part_bytes(const struct kvci_pack *pack, bool is_k)
{
	return pack_page_bytes(pack, is_k) * pack->sizes.pages_per_section;
}

static size_t pack_section_offset(const struct kvci_pack *pack, uint32_t section)
{
	return pack->sizes.sections_offset_bytes + section * pack->sizes.section_stride_bytes;
}

/* The part lies in the image as one piece. */
static bool pack_in_place(const struct kvci_pack *pack, uint32_t layers)
{
	return !pack_apart(pack) && (layers == 1 || pack->sizes.section_stride_bytes == pack->sizes.section_bytes);
}

/* Between the image and a part that is one piece. */
static void pack_move(const struct kvci_pack *pack, uint8_t *image, uint32_t layer, uint32_t layers, bool is_k, uint8_t *part, bool gather)
{
	size_t page_bytes = pack_page_bytes(pack, is_k);
	size_t in_page = pack_apart(pack) && !is_k ? pack_page_bytes(pack, true) : 0;

	for (uint32_t i = 0; i < layers; i++) {
		uint8_t *page = image + pack_section_offset(pack, layer + i) + in_page;

		for (uint32_t p = 0; p < pack->sizes.pages_per_section; p++, page += pack->sizes.page_bytes, part += page_bytes) {
			if (gather)
				memcpy(part, page, page_bytes);
			else
				memcpy(page, part, page_bytes);
		}
	}
}

void kvci_pack_scratch_fini(struct kvci_pack_scratch *scratch)
{
	kvci_free(scratch->bytes);
	kvci_free(scratch->image);
	*scratch = (struct kvci_pack_scratch){0};
}

static bool pack_scratch_get(struct kvci_pack_scratch *scratch, size_t bytes)
{
	if (bytes <= scratch->room)
		return true;
	kvci_free(scratch->bytes);
	scratch->room = 0;
	scratch->bytes = kvci_alloc_aligned(64, pack_align(bytes, 4096));
	if (scratch->bytes != NULL)
		scratch->room = pack_align(bytes, 4096);
	return scratch->bytes != NULL;
}

static struct kvc_codec_part pack_part(const struct kvci_pack *pack, const struct kvci_record_header *header, uint32_t layer,
                                       uint32_t layers, bool is_k)
{
	return (struct kvc_codec_part){
		.form = &pack->form, .layer = layer, .layer_count = layers, .is_k = is_k, .position_tokens = header->position_tokens,
		.profile = pack->profile,
	};
}

/* ---- encode ---- */

static uint32_t pack_scores_bytes(const struct kvci_pack *pack)
{
	return pack->scores != NULL ? pack->form.block_tokens * pack->form.kv_heads : 0;
}

size_t kvci_pack_room(const struct kvci_pack *pack)
{
	struct kvc_codec_part part = {.form = &pack->form, .layer_count = 1, .is_k = true, .profile = pack->profile};
	size_t section_bytes = pack->sizes.section_bytes, most = 0;
	uint32_t layers = 1;

	for (uint32_t layer = 0; layer < pack->form.layer_count; layer += layers) {
		size_t bound;

		part.layer = layer;
		layers = part.layer_count = pack->codec->span != NULL ? pack->codec->span(&part) : 1;
		if (layers == 0 || layers > pack->form.layer_count - layer)
			layers = part.layer_count = pack->form.layer_count - layer;
		bound = pack->codec->bound_bytes(&part, section_bytes * layers) + section_bytes * layers;
		most = bound > most ? bound : most;
		if (pack->codec->span == NULL)
			break;
	}
	return pack->sizes.record_bytes + most + PACK_PREFIX_BYTES + KVCI_SECTION_ALIGN_BYTES + pack_scores_bytes(pack);
}

struct pack_writer {
	const struct kvci_pack *pack;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *raw_table;
	const uint8_t *image;
	uint8_t *out;
	size_t room;
	uint64_t at;
	uint64_t block_seed;
	struct kvci_section_entry *table; /* in out */
	struct kvci_pack_scratch *scratch;
	bool lossy;
};

/* One part of `layers` layers to out + at. *ret_bytes 0: it did not shrink. */
static kvc_status_t pack_encode_part(struct pack_writer *writer, uint32_t layer, uint32_t layers, bool is_k, uint64_t at, size_t *ret_bytes)
{
	const struct kvci_pack *pack = writer->pack;
	struct kvc_codec_part part = pack_part(pack, writer->header, layer, layers, is_k);
	size_t raw_bytes = pack_part_bytes(pack, is_k) * layers, gathered = pack_in_place(pack, layers) ? 0 : pack_align(raw_bytes, 64);
	const uint8_t *raw = writer->image + pack_section_offset(pack, layer);
	size_t coded_bytes = 0;
	kvc_status_t status;

	part.params = &pack->params;
	part.scores = pack->scores;
	if (!pack_scratch_get(writer->scratch, gathered + pack->codec->scratch_bytes(&part, raw_bytes)))
		return KVC_NO_MEMORY;
	if (gathered != 0) {
		/* The image is only read when gathering. */
		pack_move(pack, (uint8_t *)(uintptr_t)writer->image, layer, layers, is_k, writer->scratch->bytes, true);
		raw = writer->scratch->bytes;
	}
	status = pack->codec->encode(&part, raw, raw_bytes, writer->out + at, writer->room - at,
	                             (uint8_t *)writer->scratch->bytes + gathered, &coded_bytes);
	if (status != KVC_OK)
		coded_bytes = 0; /* raw will do */
	*ret_bytes = coded_bytes < raw_bytes ? coded_bytes : 0;
	return KVC_OK;
}

static void pack_entry(struct pack_writer *writer, uint32_t section, uint64_t stored_bytes, uint16_t codec_k, uint16_t codec_v)
{
	struct kvci_section_entry *entry = &writer->table[section];

	*entry = writer->raw_table[section];
	entry->stored_bytes = (uint32_t)stored_bytes;
	entry->offset_64 = (uint32_t)(writer->at / KVCI_SECTION_ALIGN_BYTES);
	entry->codec_k = codec_k;
	entry->codec_v = codec_v;
	if (codec_k != 0 || codec_v != 0)
		entry->stored_checksum = kvci_checksum(writer->out + writer->at, stored_bytes, kvci_section_seed(writer->block_seed, section));
	writer->at = pack_align(writer->at + stored_bytes, KVCI_SECTION_ALIGN_BYTES);
}

static void pack_write_raw(struct pack_writer *writer, uint32_t layer, uint32_t layers)
{
	for (uint32_t i = layer; i < layer + layers; i++) {
		memcpy(writer->out + writer->at, writer->image + pack_section_offset(writer->pack, i), writer->pack->sizes.section_bytes);
		pack_entry(writer, i, writer->pack->sizes.section_bytes, 0, 0);
	}
}

/* K and V apart. What does not shrink stays raw, gathered. */
static kvc_status_t pack_write_apart(struct pack_writer *writer, uint32_t layer, uint32_t layers)
{
	const struct kvci_pack *pack = writer->pack;
	uint32_t prefix[2] = {0, 0};
	uint64_t at = writer->at + PACK_PREFIX_BYTES;
	uint16_t ids[2];

	for (int v = 0; v < 2; v++) {
		size_t raw_bytes = pack_part_bytes(pack, v == 0) * layers, bytes;
		kvc_status_t status = pack_encode_part(writer, layer, layers, v == 0, at, &bytes);

		if (status != KVC_OK)
			return status;
		ids[v] = bytes != 0 ? pack->codec->id : KVC_CODEC_RAW;
		if (bytes == 0) {
			bytes = raw_bytes;
			pack_move(pack, (uint8_t *)(uintptr_t)writer->image, layer, layers, v == 0, writer->out + at, true);
		}
		if (v == 0)
			prefix[0] = (uint32_t)bytes;
		at += bytes;
	}
	if ((ids[0] | ids[1]) == 0 || at - writer->at >= pack->sizes.section_bytes * layers) {
		pack_write_raw(writer, layer, layers);
		return KVC_OK;
	}
	memcpy(writer->out + writer->at, prefix, sizeof(prefix));
	writer->lossy = writer->lossy || !pack->codec->lossless;
	pack_entry(writer, layer, at - writer->at, ids[0], ids[1]);
	for (uint32_t i = layer + 1; i < layer + layers; i++)
		pack_entry(writer, i, 0, ids[0], ids[1]);
	return KVC_OK;
}

/* A copy of the unit's sections that nobody else writes, checked: what a lossy codec gives gets checksums of its own, which would vouch for damage. The
 * writer's image is moved so that the unit's sections are found in the copy. */
static kvc_status_t pack_check_unit(struct pack_writer *writer, const uint8_t *record, uint32_t layer, uint32_t layers)
{
	const struct kvci_pack *pack = writer->pack;
	struct kvci_pack_scratch *scratch = writer->scratch;
	size_t bytes = (layers - 1) * pack->sizes.section_stride_bytes + pack->sizes.section_bytes;

	if (bytes > scratch->image_room) {
		kvci_free(scratch->image);
		scratch->image = kvci_alloc_aligned(64, pack_align(bytes, 4096));
		scratch->image_room = scratch->image != NULL ? pack_align(bytes, 4096) : 0;
	}
	if (scratch->image == NULL)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < layers; i++) {
		struct kvci_copy_state state;

		kvci_copy_begin(&state, kvci_section_seed(writer->block_seed, layer + i));
		kvci_copy_run(&state, scratch->image + i * pack->sizes.section_stride_bytes, record + pack_section_offset(pack, layer + i),
		              pack->sizes.section_bytes, KVCI_COPY_CACHED);
		if (kvci_copy_end(&state) != writer->raw_table[layer + i].raw_checksum)
			return KVC_CORRUPT;
	}
	writer->image = (const uint8_t *)((uintptr_t)scratch->image - pack_section_offset(pack, layer));
	return KVC_OK;
}

static kvc_status_t pack_write_unit(struct pack_writer *writer, uint32_t layer, uint32_t layers)
{
	const struct kvci_pack *pack = writer->pack;
	size_t bytes;
	kvc_status_t status;

	if (pack_apart(pack))
		return pack_write_apart(writer, layer, layers);
	status = pack_encode_part(writer, layer, layers, true, writer->at, &bytes);
	if (status != KVC_OK)
		return status;
	if (bytes == 0) {
		pack_write_raw(writer, layer, layers);
		return KVC_OK;
	}
	writer->lossy = writer->lossy || !pack->codec->lossless;
	pack_entry(writer, layer, bytes, pack->codec->id, pack->codec->id);
	for (uint32_t i = layer + 1; i < layer + layers; i++)
		pack_entry(writer, i, 0, pack->codec->id, pack->codec->id);
	return KVC_OK;
}

static uint64_t pack_seed(const struct kvci_record_header *header)
{
	struct kvci_block_id id = {.group = header->group, .shard_index = header->shard_index};

	memcpy(id.space, header->space, sizeof(id.space));
	memcpy(id.hash, header->hash, sizeof(id.hash));
	return kvci_block_seed(&id);
}

static kvc_status_t pack_sections(struct pack_writer *writer)
{
	const struct kvci_pack *pack = writer->pack;
	const uint8_t *record = writer->image;
	uint32_t layers, count = pack->form.layer_count;

	for (uint32_t layer = 0; layer < count; layer += layers) {
		struct kvc_codec_part part = pack_part(pack, writer->header, layer, 1, true);
		kvc_status_t status = KVC_OK;

		layers = pack->codec->span != NULL ? pack->codec->span(&part) : 1;
		if (layers == 0 || layers > count - layer)
			layers = count - layer;
		if (!pack->codec->lossless)
			status = pack_check_unit(writer, record, layer, layers);
		if (status == KVC_OK)
			status = pack_write_unit(writer, layer, layers);
		if (status != KVC_OK)
			return status;
		/* Each unit may take as much as it had raw, and the room has one more on top. */
		if (writer->at > pack->sizes.record_bytes)
			return KVC_TOO_BIG;
	}
	return KVC_OK;
}

kvc_status_t kvci_pack_encode(const struct kvci_pack *pack, const void *record, void *out, struct kvci_pack_scratch *scratch,
                              size_t *ret_bytes, bool *ret_lossy)
{
	_Alignas(64) uint8_t head[KVCI_RECORD_HEAD_BYTES_MAX];
	size_t head_bytes = sizeof(struct kvci_record_header) + pack->form.layer_count * sizeof(struct kvci_section_entry);
	struct kvci_record_header *made = out;
	struct pack_writer writer = {
		.pack = pack, .image = record, .out = out, .room = kvci_pack_room(pack), .at = pack->sizes.sections_offset_bytes,
		.table = (struct kvci_section_entry *)(made + 1), .scratch = scratch,
	};
	uint64_t record_bytes;
	kvc_status_t status;

	*ret_bytes = 0;
	*ret_lossy = false;
	if (pack_apart(pack) && pack->form.page_extra_bytes != 0)
		return KVC_OK;
	memcpy(head, record, head_bytes);
	if (((const struct kvci_record_header *)head)->section_count != pack->form.layer_count ||
	    kvci_record_parse(head, head_bytes, &writer.header, &writer.raw_table) != KVC_OK ||
	    kvci_record_checksum(head) != pack->record_checksum || !kvci_record_is_image(writer.header, writer.raw_table, &pack->sizes))
		return KVC_CORRUPT;
	memset(out, 0, pack->sizes.sections_offset_bytes);
	writer.block_seed = pack_seed(writer.header);
	status = pack_sections(&writer);
	if (status == KVC_TOO_BIG)
		return KVC_OK;
	if (status != KVC_OK)
		return status;
	if (pack_align(writer.at, KVCI_RECORD_ALIGN_BYTES) >= pack->sizes.record_bytes)
		return KVC_OK;
	memcpy(made, writer.header, sizeof(*made));
	/* Scores never are what a record is stored raw for. */
	record_bytes = pack_align(writer.at + pack_scores_bytes(pack), KVCI_RECORD_ALIGN_BYTES);
	if (pack->scores != NULL && record_bytes < pack->sizes.record_bytes)
		kvci_record_put_scores(made, pack->scores, pack_scores_bytes(pack), &writer.at);
	record_bytes = pack_align(writer.at, KVCI_RECORD_ALIGN_BYTES);
	memset((uint8_t *)out + writer.at, 0, record_bytes - writer.at);
	made->record_bytes = record_bytes;
	made->place_seal = 0;
	if (writer.lossy)
		made->flags |= KVCI_RECORD_LOSSY;
	made->profile_id = pack->codec->needs_profile ? pack->profile_id : 0;
	made->header_checksum = kvci_record_header_checksum(made);
	*ret_lossy = (made->flags & KVCI_RECORD_LOSSY) != 0;
	*ret_bytes = record_bytes;
	return KVC_OK;
}

static uint64_t pack_sections_end(const struct kvci_pack *pack)
{
	return pack_section_offset(pack, pack->form.layer_count - 1) + pack->sizes.section_bytes;
}

bool kvci_pack_holds_scores(const struct kvci_pack *pack)
{
	return pack_align(pack_sections_end(pack), KVCI_SECTION_ALIGN_BYTES) + (uint64_t)pack->form.block_tokens * pack->form.kv_heads <=
	       pack->sizes.record_bytes;
}

kvc_status_t kvci_pack_keep_scores(const struct kvci_pack *pack, const void *record, void *out)
{
	size_t head_bytes = sizeof(struct kvci_record_header) + pack->form.layer_count * sizeof(struct kvci_section_entry);
	struct kvci_record_header *made = out;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *table;
	uint64_t end = pack_sections_end(pack);

	memcpy(out, record, pack->sizes.record_bytes); /* the owner of its memory may be writing: what counts is the copy */
	if (made->section_count != pack->form.layer_count || kvci_record_parse(out, head_bytes, &header, &table) != KVC_OK ||
	    kvci_record_checksum(out) != pack->record_checksum || !kvci_record_is_image(header, table, &pack->sizes))
		return KVC_CORRUPT;
	kvci_record_put_scores(made, pack->scores, pack_scores_bytes(pack), &end);
	memset((uint8_t *)out + end, 0, pack->sizes.record_bytes - end);
	made->place_seal = 0;
	made->header_checksum = kvci_record_header_checksum(made);
	return KVC_OK;
}

/* ---- decode ---- */

bool kvci_pack_fits(const struct kvci_pack *pack, const struct kvci_record_header *header, const struct kvci_section_entry *sections)
{
	if (header->section_count != pack->form.layer_count || (pack_apart(pack) && pack->form.page_extra_bytes != 0))
		return false;
	for (uint32_t i = 0; i < header->section_count; i++)
		if (sections[i].raw_bytes != pack->sizes.section_bytes)
			return false;
	return true;
}

uint32_t kvci_pack_unit(const struct kvci_record_header *header, const struct kvci_section_entry *sections, uint32_t section)
{
	const struct kvci_section_entry *first = &sections[section];
	uint32_t end = section + 1;

	if (first->codec_k == 0 && first->codec_v == 0)
		return 1;
	while (end < header->section_count && sections[end].stored_bytes == 0 && sections[end].codec_k == first->codec_k &&
	       sections[end].codec_v == first->codec_v)
		end++;
	return end - section;
}

static kvc_status_t pack_decode_part(const struct kvci_pack *pack, const struct kvc_codec_part *part, uint16_t id, const uint8_t *coded,
                                     size_t coded_bytes, uint8_t *image, struct kvci_pack_scratch *scratch, bool *lossy)
{
	const struct kvc_codec_ops *codec = kvc_codec_by_id(id);
	uint32_t layers = part->layer_count;
	size_t raw_bytes = pack_part_bytes(pack, part->is_k) * layers, gathered = pack_in_place(pack, layers) ? 0 : pack_align(raw_bytes, 64);
	uint8_t *raw = image + pack_section_offset(pack, part->layer);
	kvc_status_t status;

	if (codec == NULL || (codec->needs_profile && part->profile == NULL))
		return KVC_CORRUPT; /* of a build that had more codecs */
	*lossy = *lossy || !codec->lossless;
	if (id == KVC_CODEC_RAW && coded_bytes != raw_bytes)
		return KVC_CORRUPT;
	if (id == KVC_CODEC_RAW && gathered != 0) {
		pack_move(pack, image, part->layer, layers, part->is_k, (uint8_t *)(uintptr_t)coded, false);
		return KVC_OK;
	}
	if (!pack_scratch_get(scratch, gathered + codec->scratch_bytes(part, raw_bytes)))
		return KVC_NO_MEMORY;
	if (gathered != 0)
		raw = scratch->bytes;
	status = codec->decode(part, coded, coded_bytes, raw, raw_bytes, (uint8_t *)scratch->bytes + gathered);
	if (status == KVC_OK && gathered != 0)
		pack_move(pack, image, part->layer, layers, part->is_k, raw, false);
	return status == KVC_OK || status == KVC_NO_MEMORY ? status : KVC_CORRUPT;
}

static kvc_status_t pack_decode_unit(const struct kvci_pack *pack, const struct kvci_record_header *header,
                                     const struct kvci_section_entry *entry, const uint8_t *coded, uint32_t section, uint32_t layers,
                                     uint8_t *image, struct kvci_pack_scratch *scratch, bool *lossy)
{
	struct kvc_codec_part part = pack_part(pack, header, section, layers, true);
	uint32_t k_bytes;
	kvc_status_t status;

	if (entry->codec_k == 0 && entry->codec_v == 0) {
		memcpy(image + pack_section_offset(pack, section), coded, pack->sizes.section_bytes);
		return KVC_OK;
	}
	if (!pack_apart(pack)) {
		if (entry->codec_k != entry->codec_v)
			return KVC_CORRUPT;
		return pack_decode_part(pack, &part, entry->codec_k, coded, entry->stored_bytes, image, scratch, lossy);
	}
	if (entry->stored_bytes < PACK_PREFIX_BYTES)
		return KVC_CORRUPT;
	memcpy(&k_bytes, coded, sizeof(k_bytes));
	if (k_bytes > entry->stored_bytes - PACK_PREFIX_BYTES)
		return KVC_CORRUPT;
	status = pack_decode_part(pack, &part, entry->codec_k, coded + PACK_PREFIX_BYTES, k_bytes, image, scratch, lossy);
	if (status != KVC_OK)
		return status;
	part.is_k = false;
	return pack_decode_part(pack, &part, entry->codec_v, coded + PACK_PREFIX_BYTES + k_bytes,
	                        entry->stored_bytes - PACK_PREFIX_BYTES - k_bytes, image, scratch, lossy);
}

kvc_status_t kvci_pack_decode(const struct kvci_pack *pack, const struct kvci_record_header *header,
                              const struct kvci_section_entry *sections, const void *coded, uint32_t section, void *image,
                              uint64_t *checksums, struct kvci_pack_scratch *scratch)
{
	const struct kvci_section_entry *entry = &sections[section];
	const uint8_t *stored = (const uint8_t *)coded + (uint64_t)entry->offset_64 * KVCI_SECTION_ALIGN_BYTES;
	uint32_t layers = kvci_pack_unit(header, sections, section);
	uint64_t seed = pack_seed(header);
	bool lossy = false;
	kvc_status_t status;

	if (kvci_checksum(stored, entry->stored_bytes, kvci_section_seed(seed, section)) != entry->stored_checksum)
		return KVC_CORRUPT;
	for (uint32_t i = section + 1; i < section + layers; i++)
		if (kvci_checksum(stored, 0, kvci_section_seed(seed, i)) != sections[i].stored_checksum)
			return KVC_CORRUPT;
	status = pack_decode_unit(pack, header, entry, stored, section, layers, image, scratch, &lossy);
	if (status != KVC_OK)
		return status;
	for (uint32_t i = section; i < section + layers; i++)
		checksums[i] = !lossy ? sections[i].raw_checksum
		                      : kvci_checksum((uint8_t *)image + pack_section_offset(pack, i), pack->sizes.section_bytes,
		                                      kvci_section_seed(seed, i));
	return KVC_OK;
}

uint64_t kvci_pack_head(const struct kvci_pack *pack, const struct kvci_record_header *header, const uint64_t *checksums, void *image)
{
	struct kvci_record_meta meta = {
		.id = {.group = header->group, .shard_index = header->shard_index}, .epoch = header->epoch,
		.position_tokens = header->position_tokens, .token_count = header->token_count, .shard_count = header->shard_count,
		.flags = (uint16_t)(header->flags & ~KVCI_RECORD_SCORES),
	};

	memcpy(meta.id.space, header->space, sizeof(meta.id.space));
	memcpy(meta.id.hash, header->hash, sizeof(meta.id.hash));
	memcpy(meta.parent_hash, header->parent_hash, sizeof(meta.parent_hash));
	return kvci_record_write_raw(image, &meta, &pack->form, &pack->sizes, checksums);
}
