/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing: a raw record to a coded one and back, part by part. Pure functions on buffers, for worker threads; the bytes of a coded section
 * are described in docs/format-record.md. Only tiers/coded/ includes this.
 */
#ifndef KVCI_CODED_PACK_H
#define KVCI_CODED_PACK_H

#include <kvcask/form.h>
#include <kvcask/plugin/codec.h>

#include "base/record.h"

/* Scratch of one thread: grows as needed, freed by kvci_pack_scratch_fini. */
struct kvci_pack_scratch {
	void *bytes;
	size_t room;
	uint8_t *image; /* the sections of a unit, for lossy encoders */
	size_t image_room;
};
void kvci_pack_scratch_fini(struct kvci_pack_scratch *scratch);

struct kvci_pack {
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	const struct kvc_codec_ops *codec; /* encode */
	struct kvc_codec_params params;    /* encode */
	const struct kvc_profile *profile;
	uint64_t profile_id;
	uint64_t record_checksum; /* encode: the content seal that the record must have */
	uint8_t *scores;          /* encode: retention scores, [tokens][kv_heads], or NULL; the caller's */
};

/* Room that encode needs for its output. */
size_t kvci_pack_room(const struct kvci_pack *pack);

/* Codes the raw record (sizes.record_bytes, which others may be writing: its head is copied first and checked). *ret_bytes: record_bytes of the
 * coded one in `out`, shorter than the raw one; 0: it would not be. CORRUPT: the record is not the one it should be; or, for a lossy codec, whose output
 * nothing can be checked against later, a section is not what its checksum says. */
kvc_status_t kvci_pack_encode(const struct kvci_pack *pack, const void *record, void *out, struct kvci_pack_scratch *scratch,
                              size_t *ret_bytes, bool *ret_lossy);

/* Does a raw record of this form have room for scores behind its sections? */
bool kvci_pack_holds_scores(const struct kvci_pack *pack);
/* A copy of the raw record, with the scores behind its sections. CORRUPT: the record is not the one it should be. */
kvc_status_t kvci_pack_keep_scores(const struct kvci_pack *pack, const void *record, void *out);

/* The table of a coded record fits the form: raw lengths are those of its sections. */
bool kvci_pack_fits(const struct kvci_pack *pack, const struct kvci_record_header *header, const struct kvci_section_entry *sections);

/* How many sections the unit that begins at `section` has: 1 for raw ones. */
uint32_t kvci_pack_unit(const struct kvci_record_header *header, const struct kvci_section_entry *sections, uint32_t section);

/* Decodes one unit of a parsed record that fits into its place in the raw image. checksums[i] becomes the raw checksum of section i: that of the table,
 * or of what came out of a lossy codec. CORRUPT: stored bytes are damaged, or what a codec cannot read. */
kvc_status_t kvci_pack_decode(const struct kvci_pack *pack, const struct kvci_record_header *header,
                              const struct kvci_section_entry *sections, const void *coded, uint32_t section, void *image,
                              uint64_t *checksums, struct kvci_pack_scratch *scratch);

/* Header and table of the raw image; returns its content seal. */
uint64_t kvci_pack_head(const struct kvci_pack *pack, const struct kvci_record_header *header, const uint64_t *checksums, void *image);

#endif
