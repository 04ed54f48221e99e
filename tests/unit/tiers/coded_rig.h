/* SPDX-License-Identifier: Apache-2.0
 *
 * The coded tier over the disk, for its tests: a store, records with values of a normal kind, and what describe answers. Include after cmocka.h.
 */
#ifndef KVC_TESTS_CODED_RIG_H
#define KVC_TESTS_CODED_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "tests/support/random.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/coded/internal.h"
#include "tiers/filter/filter.h"

static struct disk_store store_memory, *store = &store_memory;
static struct kvci_coded_env env;
static struct kvci_coded_target target; /* what describe answers */
static unsigned chosen_calls;

static inline void describe(void *context, const struct kvc_tier_entry *entry, bool write, struct kvci_coded_target *ret_target)
{
	if (target.form.struct_bytes != 0 && kvc_form_id(&target.form) == entry->form_id)
		*ret_target = target;
}

static inline const struct kvc_profile *no_profile(void *context, uint64_t profile_id)
{
	return NULL;
}

static inline void chosen(void *context, const char *codec, bool used, const char *text)
{
	assert_true(text[0] != '\0');
	chosen_calls++;
}

static inline struct kvc_form form_of(uint32_t arrangement, uint32_t order, uint32_t dtype, uint32_t layers)
{
	bool latent = arrangement == KVC_KV_LATENT;

	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = layers, .block_tokens = 64, .engine_block_tokens = 16,
		.kv_heads = latent ? 1 : 3, .head_dim_k = latent ? 128 : 64, .head_dim_v = latent ? 0 : 64, .dtype = dtype,
		.arrangement = arrangement, .order = latent ? 0 : order, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
}

/* Values of a normal kind, in the form's type; all bit patterns when wild. */
static inline void fill(const struct kvc_form *form, uint8_t *bytes, size_t count, bool wild)
{
	for (size_t at = 0; at < count; at += 2) {
		float value = 0;
		uint32_t bits;

		for (int i = 0; i < 4; i++)
			value += (float)(int8_t)(random_next() >> 17);
		value *= 0.01f;
		memcpy(&bits, &value, sizeof(bits));
		if (wild)
			bits = (uint32_t)random_next();
		if (form->dtype == KVC_DTYPE_F32 && at % 4 == 0 && at + 4 <= count) {
			memcpy(bytes + at, &bits, 4);
			at += 2;
		} else if (form->dtype == KVC_DTYPE_F8_E4M3) { /* small exponents mostly */
			bytes[at] = (uint8_t)(0x30 + random_next() % 16);
			bytes[at + 1] = (uint8_t)(0x30 + random_next() % 16);
		} else {
			bits >>= 16;
			memcpy(bytes + at, &bits, 2);
		}
	}
}

struct record {
	struct kvc_form_sizes sizes;
	struct kvc_tier_entry entry;
	uint8_t *bytes;
};

static inline struct record record_make(const struct kvc_form *form, uint64_t seed, bool wild)
{
	struct kvci_record_meta meta = {.epoch = 3, .position_tokens = seed * 64, .token_count = 64, .shard_count = 1};
	struct record record;
	uint64_t *checksums = kvci_alloc(form->layer_count * sizeof(uint64_t)), block_seed;

	random_state = seed * 2 + 1;
	for (int i = 0; i < 20; i++)
		random_next();
	assert_int_equal(kvc_form_sizes(form, &record.sizes, NULL), KVC_OK);
	for (size_t i = 0; i < sizeof(meta.id.hash); i++)
		meta.id.hash[i] = (uint8_t)random_next();
	record.bytes = rig_buffer(record.sizes.record_bytes);
	block_seed = kvci_block_seed(&meta.id);
	for (uint32_t i = 0; i < form->layer_count; i++) {
		uint8_t *section = record.bytes + record.sizes.sections_offset_bytes + i * record.sizes.section_stride_bytes;

		fill(form, section, record.sizes.section_bytes, wild);
		checksums[i] = kvci_checksum(section, record.sizes.section_bytes, kvci_section_seed(block_seed, i));
	}
	record.entry = (struct kvc_tier_entry){
		.epoch = 3, .form_id = kvc_form_id(form), .position_tokens = meta.position_tokens, .token_count = 64, .shard_count = 1,
		.raw_length_4k = (uint32_t)(record.sizes.record_bytes / 4096),
		.record_checksum = kvci_record_write_raw(record.bytes, &meta, form, &record.sizes, checksums),
	};
	memcpy(record.entry.hash, meta.id.hash, sizeof(meta.id.hash));
	kvci_free(checksums);
	return record;
}

static inline void store_open(void)
{
	struct kvc_tier *disk, *filter, *coded;
	char *error = NULL;

	assert_int_equal(disk_store_try(store, &disk, &error), KVC_OK);
	assert_int_equal(kvci_filter_wrap(disk, "", &filter, &error), KVC_OK);
	assert_int_equal(kvci_coded_wrap(filter, &env, &coded), KVC_OK);
	rig_open(&store->rig, coded, true);
}

static inline int setup(void **state)
{
	disk_store_init(store, "coded", "64MiB", "16MiB");
	memset(&target, 0, sizeof(target));
	env = (struct kvci_coded_env){
		.describe = describe, .profile = no_profile, .chosen = chosen, .mode = KVCI_CODED_SPLIT, .thread_count = 3,
	};
	return 0;
}

static inline int teardown(void **state)
{
	disk_store_fini(store);
	return 0;
}

/* Head (but for the seal of the place) and sections are those of the record. */
static inline bool same_image(const struct record *record, const uint8_t *bytes)
{
	struct kvci_record_header a, b;
	size_t head = sizeof(a);

	memcpy(&a, record->bytes, head);
	memcpy(&b, bytes, head);
	a.place_seal = b.place_seal = 0;
	if (memcmp(&a, &b, head) != 0 || memcmp(record->bytes + head, bytes + head, record->sizes.sections_offset_bytes - head) != 0)
		return false;
	for (uint32_t i = 0; i < a.section_count; i++) {
		size_t at = record->sizes.sections_offset_bytes + i * record->sizes.section_stride_bytes;

		if (memcmp(record->bytes + at, bytes + at, record->sizes.section_bytes) != 0)
			return false;
	}
	return true;
}

#endif
