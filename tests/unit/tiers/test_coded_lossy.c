/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs with loss in the coded tier: what comes back is what the codec gives, sealed anew; scores steer it and stay with the record; units span layers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "codec/profile_make.h"
#include "tests/unit/tiers/coded_rig.h"

static const struct kvc_profile *target_profile(void *context, uint64_t profile_id)
{
	return profile_id == target.profile_id ? target.profile : NULL;
}

/* A section was damaged, or rewritten, in memory: a lossy codec must not give it a checksum that vouches for it. */
static void test_coded__damaged_in_memory__not_packed_with_loss(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 6);
	struct record record = record_make(&form, 1, false);
	struct kvc_tier_entry entry = record.entry;
	const char *wrong;

	target.form = form;
	assert_int_equal(kvc_codec_spec_parse("int8", &target.codec, &target.params, &wrong), KVC_OK);
	store_open();
	record.bytes[record.sizes.sections_offset_bytes + 3 * record.sizes.section_stride_bytes + 77] ^= 4;
	assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
	assert_int_equal(entry.flags & KVCI_RECORD_LOSSY, 0);
	assert_int_equal(entry.place.length_4k, entry.raw_length_4k);
	kvci_free(record.bytes);
}

static void test_coded__lossy_codec__flagged_and_sealed_anew(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 6);
	struct record record = record_make(&form, 1, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes), *again = rig_buffer(record.sizes.record_bytes);
	struct kvc_tier_entry entry = record.entry, first;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	const char *wrong;

	target.form = form;
	assert_int_equal(kvc_codec_spec_parse("int8", &target.codec, &target.params, &wrong), KVC_OK);
	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
	assert_true((entry.flags & KVCI_RECORD_LOSSY) != 0);
	assert_int_equal(entry.record_checksum, record.entry.record_checksum);
	assert_true(entry.place.length_4k < entry.raw_length_4k * 2 / 3);
	first = entry;
	for (int round = 0; round < 2; round++) { /* then with the seal of what came out */
		struct kvc_tier_entry answer = entry;

		assert_int_equal(rig_read_entry(&store->rig, round == 0 ? back : again, &answer, 0), KVC_OK);
		assert_int_equal(kvci_record_parse(back, record.sizes.record_bytes, &header, &sections), KVC_OK);
		assert_true(kvci_record_is_image(header, sections, &record.sizes));
		assert_int_equal(kvci_record_verify(back, header, sections, NULL), KVC_OK);
		assert_int_equal(kvci_record_checksum(back), answer.record_checksum);
		assert_int_not_equal(answer.record_checksum, record.entry.record_checksum);
		assert_true((header->flags & KVCI_RECORD_LOSSY) != 0);
		entry.record_checksum = answer.record_checksum;
	}
	assert_memory_equal(back + 256, again + 256, record.sizes.record_bytes - 256);
	/* Who does not say that it may be lossy does not get what another seal names. */
	entry.flags = 0;
	assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_CORRUPT);
	assert_int_equal(kvci_tier_drop(store->rig.tier, &first), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
	assert_int_equal(rig_read(&store->rig, back, &first, 0), KVC_MISS);
	kvci_free(again);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* ---- beside the codec itself: forms with K and V fused, whose parts are whole sections ---- */

static uint8_t *section_of(const struct record *record, uint8_t *bytes, uint32_t layer)
{
	return bytes + record->sizes.sections_offset_bytes + layer * record->sizes.section_stride_bytes;
}

/* Sections of `back` hold what the codec gives for those of the record, unit by unit. Returns how many units there were. */
static uint32_t check_as_codec(const struct record *record, const struct kvc_form *form, uint8_t *back)
{
	const struct kvc_codec_ops *codec = target.codec;
	size_t section = record->sizes.section_bytes, all = section * form->layer_count, coded_bytes;
	struct kvc_codec_part part = {.form = form, .is_k = true, .position_tokens = record->entry.position_tokens, .profile = target.profile,
	                              .scores = target.scores, .params = &target.params};
	uint8_t *raw = kvci_alloc(all), *out = kvci_alloc(all);
	uint32_t units = 0;

	for (uint32_t layer = 0, layers; layer < form->layer_count; layer += layers, units++) {
		size_t bound;
		uint8_t *coded;
		void *scratch;

		part.layer = layer;
		part.layer_count = 0;
		layers = codec->span != NULL ? codec->span(&part) : 1;
		layers = layers < form->layer_count - layer ? layers : form->layer_count - layer;
		part.layer_count = layers;
		for (uint32_t i = 0; i < layers; i++)
			memcpy(raw + i * section, section_of(record, record->bytes, layer + i), section);
		bound = codec->bound_bytes(&part, layers * section);
		coded = kvci_alloc(bound);
		scratch = kvci_alloc_aligned(64, codec->scratch_bytes(&part, layers * section));
		assert_int_equal(codec->encode(&part, raw, layers * section, coded, bound, scratch, &coded_bytes), KVC_OK);
		assert_true(coded_bytes > 0);
		assert_int_equal(codec->decode(&part, coded, coded_bytes, out, layers * section, scratch), KVC_OK);
		for (uint32_t i = 0; i < layers; i++)
			assert_memory_equal(section_of(record, back, layer + i), out + i * section, section);
		kvci_free(scratch);
		kvci_free(coded);
	}
	kvci_free(out);
	kvci_free(raw);
	return units;
}

/* Which rows (of token and head) came back to the bit, in all layers. */
static void count_exact(const struct record *record, const struct kvc_form *form, uint8_t *back, const uint8_t *scores, uint32_t ret_exact[2])
{
	size_t row = 4 * (size_t)form->head_dim_k; /* K and V */

	ret_exact[0] = ret_exact[1] = 0;
	for (uint32_t layer = 0; layer < form->layer_count; layer++)
		for (uint32_t token = 0; token < form->block_tokens; token++)
			for (uint32_t head = 0; head < form->kv_heads; head++) { /* NH: rows follow one another */
				size_t at = ((size_t)token * form->kv_heads + head) * row;

				ret_exact[scores[token * form->kv_heads + head] >= 192] +=
					memcmp(section_of(record, record->bytes, layer) + at, section_of(record, back, layer) + at, row) == 0;
			}
}

static void test_coded__scores__steer_and_stay_with_the_record(void **state)
{
	static const char *const specs[] = {"int8", "kv4:bits=4,group=32", "fp8"};
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 5);
	struct record record = record_make(&form, 3, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes), scores[64 * 3];
	uint32_t exact[2], bytes, high = 0;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	const char *wrong;

	for (size_t i = 0; i < sizeof(scores); i++) {
		scores[i] = i % 16 == 5 ? (uint8_t)(192 + i % 64) : (uint8_t)(i % 192);
		high += scores[i] >= 192;
	}
	target.form = form;
	store_open();
	for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
		struct kvc_tier_entry entry = record.entry;

		assert_int_equal(kvc_codec_spec_parse(specs[i], &target.codec, &target.params, &wrong), KVC_OK);
		for (int with = 0; with < 2; with++) {
			target.scores = with ? scores : NULL;
			entry = record.entry;
			assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
			assert_true(entry.place.length_4k < entry.raw_length_4k);
			assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
			assert_int_equal(check_as_codec(&record, &form, back), 5);
			count_exact(&record, &form, back, scores, exact);
			if (target.codec->id != KVC_CODEC_KV4) /* which keeps them in 8 bits */
				assert_true(with ? exact[1] == 5 * high : exact[1] < 5 * high);
			assert_true(exact[0] < 5 * (sizeof(scores) - high));
			assert_int_equal(rig_read(&store->rig, back, &entry, KVC_TIER_STORED), KVC_OK);
			assert_int_equal(kvci_record_parse(back, (size_t)entry.place.length_4k * 4096, &header, &sections), KVC_OK);
			assert_int_equal(kvci_record_verify(back, header, sections, NULL), KVC_OK);
			assert_int_equal(header->version, with ? 3 : 2);
			if (with) {
				assert_memory_equal(kvci_record_scores(back, header, &bytes), scores, sizeof(scores));
				assert_int_equal(bytes, sizeof(scores));
			} else {
				assert_null(kvci_record_scores(back, header, &bytes));
			}
		}
	}
	/* A lossless codec heeds none, and keeps them for who packs it anew. */
	target.codec = NULL;
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
	assert_int_equal(rig_read(&store->rig, back, &record.entry, 0), KVC_OK);
	assert_true(same_image(&record, back));
	assert_int_equal(rig_read(&store->rig, back, &record.entry, KVC_TIER_STORED), KVC_OK);
	assert_int_equal(kvci_record_parse(back, (size_t)record.entry.place.length_4k * 4096, &header, &sections), KVC_OK);
	assert_memory_equal(kvci_record_scores(back, header, &bytes), scores, sizeof(scores));
	kvci_free(back);
	kvci_free(record.bytes);
}

/* Raw by choice, in a hurry, or because it does not shrink: the scores lie behind the sections, where there is room, and the image has none. */
static void test_coded__scores_of_a_raw_record__stay_with_it(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 5);
	struct record record = record_make(&form, 3, true); /* wild: no codec shrinks it */
	uint8_t *back = rig_buffer(record.sizes.record_bytes), scores[64 * 3];
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	struct kvci_coded_figures figures;
	uint32_t bytes = 0;

	for (size_t i = 0; i < sizeof(scores); i++)
		scores[i] = (uint8_t)(i * 7);
	target.form = form;
	target.scores = scores;
	store_open();
	for (int way = 0; way < 3; way++) {
		struct kvc_tier_entry entry = record.entry;

		target.hurry = way == 0;
		target.codec = way == 1 ? kvc_codec_by_id(KVC_CODEC_RAW) : NULL;
		assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
		assert_int_equal(entry.place.length_4k, entry.raw_length_4k);
		assert_int_equal(rig_read(&store->rig, back, &entry, KVC_TIER_STORED), KVC_OK);
		assert_int_equal(kvci_record_parse(back, record.sizes.record_bytes, &header, &sections), KVC_OK);
		assert_int_equal(header->version, KVCI_RECORD_VERSION_SCORES);
		assert_non_null(kvci_record_scores(back, header, &bytes));
		assert_int_equal(bytes, sizeof(scores));
		assert_memory_equal(kvci_record_scores(back, header, &bytes), scores, sizeof(scores));
		assert_int_equal(kvci_record_verify(back, header, sections, NULL), KVC_OK);
		for (int verify = 0; verify < 2; verify++) {
			assert_int_equal(rig_read(&store->rig, back, &entry, verify ? 0 : KVC_TIER_NO_VERIFY), KVC_OK);
			assert_true(same_image(&record, back));
			assert_int_equal(kvci_record_parse(back, record.sizes.record_bytes, &header, &sections), KVC_OK);
			assert_true(kvci_record_is_image(header, sections, &record.sizes));
		}
	}
	kvci_coded_figures(store->rig.tier, &figures);
	assert_int_equal(figures.raw_writes, 3);
	assert_int_equal(figures.coded_writes, 0);
	assert_int_equal(figures.buffer_bytes, 0);
	kvci_free(back);
	kvci_free(record.bytes);
	/* Sections that leave no room behind them: none are kept, and the record is as it was. */
	form.layer_count = 120; /* a head of exactly 4,096 bytes */
	record = record_make(&form, 4, true);
	back = rig_buffer(record.sizes.record_bytes);
	target = (struct kvci_coded_target){.form = form, .scores = scores, .hurry = true};
	assert_int_equal(record.sizes.record_bytes, 4096 + 120 * (size_t)record.sizes.section_bytes);
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
	assert_int_equal(rig_read(&store->rig, back, &record.entry, KVC_TIER_STORED), KVC_OK);
	assert_int_equal(((struct kvci_record_header *)(void *)back)->version, KVCI_RECORD_VERSION);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* K and V of a record whose sections are fused, as [layers][tokens][heads][dims], and a profile of them. */
static struct kvc_profile *profile_of(const struct record *record, const struct kvc_form *form, uint32_t pca_layers)
{
	size_t row = 2 * (size_t)form->head_dim_k, rows = (size_t)form->block_tokens * form->kv_heads;
	uint8_t *planes[2] = {kvci_alloc(form->layer_count * rows * row), kvci_alloc(form->layer_count * rows * row)}, *bytes;
	struct kvci_profile_sample sample = {.k = planes[0], .v = planes[1], .tokens = form->block_tokens, .position = record->entry.position_tokens};
	struct kvci_profile_order order = {.name = "", .form = *form, .samples = &sample, .sample_count = 1, .pca_layers = pca_layers};
	struct kvc_profile *profile;
	size_t length;

	for (uint32_t layer = 0; layer < form->layer_count; layer++)
		for (size_t r = 0; r < rows; r++)
			for (int plane = 0; plane < 2; plane++)
				memcpy(planes[plane] + (layer * rows + r) * row, section_of(record, record->bytes, layer) + (2 * r + (size_t)plane) * row, row);
	assert_int_equal(kvci_profile_make(&order, &bytes, &length), KVC_OK);
	assert_int_equal(kvci_profile_read(bytes, length, &profile), KVC_OK);
	kvci_free(bytes);
	kvci_free(planes[0]);
	kvci_free(planes[1]);
	return profile;
}

/* ---- sections while others are being decoded ---- */

struct by_section {
	struct kvc_tier_request request; /* first */
	const struct record *record;
	const struct kvc_form *form;
	const uint8_t *expected; /* the whole that is known to come */
	uint32_t wanted, sections, unit_layers;
	bool done;
	kvc_status_t status;
};

static void by_section_progress(struct kvc_tier_request *request, uint32_t sections)
{
	struct by_section *read = (struct by_section *)request;
	uint8_t *got = request->buffer;
	size_t at = read->record->sizes.sections_offset_bytes, stride = read->record->sizes.section_stride_bytes;

	assert_false(read->done);
	assert_true(sections > read->sections && sections <= read->form->layer_count);
	assert_true(sections % read->unit_layers == 0 || sections == read->form->layer_count); /* a unit's come together */
	assert_int_equal(kvci_record_checksum_leading(got, sections), kvci_record_checksum_leading(read->expected, sections));
	for (uint32_t i = 0; i < sections; i++)
		assert_memory_equal(got + at + i * stride, read->expected + at + i * stride, read->record->sizes.section_bytes);
	read->sections = sections;
}

static void by_section_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct by_section *read = (struct by_section *)request;

	read->done = true;
	read->status = status;
}

static void check_by_section(const struct record *record, const struct kvc_form *form, const struct kvc_tier_entry *entry,
                             const uint8_t *expected, uint32_t unit_layers)
{
	struct by_section read = {
		.request = {.op = KVC_TIER_READ, .entry = *entry, .done = by_section_done, .progress = by_section_progress},
		.record = record, .form = form, .expected = expected, .wanted = 1, .unit_layers = unit_layers,
	};

	read.request.buffer = rig_buffer(record->sizes.record_bytes);
	read.request.progress_wanted = &read.wanted;
	memset(read.request.buffer, 0xee, record->sizes.record_bytes);
	assert_int_equal(kvci_tier_submit(store->rig.tier, &read.request), KVC_OK);
	rig_wait(&store->rig, &read.done);
	assert_int_equal(read.status, KVC_OK);
	assert_int_equal(read.sections, form->layer_count);
	assert_int_equal(kvci_record_checksum(read.request.buffer), read.request.entry.record_checksum);
	kvci_free(read.request.buffer);
}

static void test_coded__units_over_layers__as_the_codec_gives_them(void **state)
{
	static const struct {
		const char *spec;
		uint32_t units;
	} cases[] = {{"ecsq+pca:step=0.5", 3}, {"ecsq:step=0.5", 7}};
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 7);
	struct record record;
	struct kvc_profile *profile;
	uint8_t *back;
	const char *wrong;

	form.kv_heads = 1;
	form.head_dim_k = form.head_dim_v = 32;
	record = record_make(&form, 4, false);
	back = rig_buffer(record.sizes.record_bytes);
	profile = profile_of(&record, &form, 3);
	env.profile = target_profile;
	target.form = form;
	target.profile = profile;
	target.profile_id = kvci_profile_id(profile);
	store_open();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvc_tier_entry entry = record.entry;

		assert_int_equal(kvc_codec_spec_parse(cases[i].spec, &target.codec, &target.params, &wrong), KVC_OK);
		assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
		assert_true(entry.place.length_4k * 2 < entry.raw_length_4k);
		assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
		assert_int_equal(check_as_codec(&record, &form, back), cases[i].units);
		check_by_section(&record, &form, &entry, back, cases[i].units == 3 ? 3 : 1);
		target.profile_id++; /* another one than the record names */
		assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_MISS);
		target.profile_id--;
	}
	kvci_profile_free(profile);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* ---- auto, with rates that are set: nothing here depends on how fast this machine is ---- */

static struct coded_choice *auto_choice(void)
{
	return &((struct coded_tier *)store->rig.tier)->choice;
}

static void auto_open(void)
{
	struct kvci_coded_figures figures;

	env.mode = KVCI_CODED_AUTO;
	env.profile = target_profile;
	store_open();
	do { /* what it tries at the start is over */
		rig_poll(&store->rig, 100);
		kvci_coded_figures(store->rig.tier, &figures);
	} while (figures.decode_bytes_per_s == 0);
}

static void auto_set(uint16_t codec, double decode_rate)
{
	struct coded_rates *rates = &auto_choice()->codecs[codec];

	*rates = (struct coded_rates){.decode_rate = decode_rate, .encode_rate = 1e9, .stored_share = 0.66, .judged = true, .tried = true, .refused = rates->refused};
}

static uint16_t auto_write(const struct record *record, uint8_t *back, struct kvc_tier_entry *ret_entry)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;

	*ret_entry = record->entry;
	while (coded_choice_decide(auto_choice()) != KVC_CODEC_RAW)
		;
	assert_int_equal(rig_write(&store->rig, record->bytes, ret_entry), KVC_OK);
	assert_int_equal(rig_read(&store->rig, back, ret_entry, KVC_TIER_STORED), KVC_OK);
	assert_int_equal(kvci_record_parse(back, (size_t)ret_entry->place.length_4k * 4096, &header, &sections), KVC_OK);
	return sections[0].codec_k;
}

static void test_coded__auto_with_a_profile__packs_by_it_while_it_is_fast_enough(void **state)
{
	static const struct {
		double device, profiled, split;
		uint16_t codec;
	} cases[] = {
		{0.1e9, 1e9, 1e9, KVC_CODEC_SPLIT_PROFILE}, {1e9, 0.2e9, 1e9, KVC_CODEC_SPLIT}, {1e9, 0.1e9, 0.1e9, KVC_CODEC_RAW},
		{20e9, 1e9, 1e9, KVC_CODEC_RAW}, {0.1e9, 0.1e9, 0.1e9, KVC_CODEC_SPLIT_PROFILE},
	};
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 5);
	struct record record = record_make(&form, 5, false);
	struct kvc_profile *profile = profile_of(&record, &form, 0);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);
	struct kvci_coded_figures figures;
	struct kvc_tier_entry entry;

	target.form = form;
	target.tables = target.profile = profile;
	target.tables_id = target.profile_id = kvci_profile_id(profile);
	auto_open();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_set(KVC_CODEC_SPLIT_PROFILE, cases[i].profiled);
		auto_set(KVC_CODEC_SPLIT, cases[i].split);
		auto_choice()->read_rate = cases[i].device;
		assert_int_equal(auto_write(&record, back, &entry), cases[i].codec);
		kvci_coded_figures(store->rig.tier, &figures);
		assert_string_equal(figures.choice_profiled, kvc_codec_by_id(cases[i].codec)->name);
		assert_non_null(strstr(figures.why, "split+profile"));
		assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
		assert_true(same_image(&record, back));
	}
	target.profile = NULL; /* it was lost */
	assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_MISS);
	kvci_coded_figures(store->rig.tier, &figures);
	assert_int_equal(figures.profile_missing, 1);
	target.profile = profile;
	assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
	kvci_profile_free(profile);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* What a space allows, with a bound on the loss: the best of it that is fast enough, else without loss. */
static void test_coded__auto_with_a_bound__best_option_that_is_fast_enough(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 5);
	struct record record = record_make(&form, 5, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);
	struct kvc_tier_entry entry;
	const char *wrong;

	target.form = form;
	assert_int_equal(kvc_codec_spec_parse("kv4", &target.options[0].codec, &target.options[0].params, &wrong), KVC_OK);
	assert_int_equal(kvc_codec_spec_parse("int8", &target.options[1].codec, &target.options[1].params, &wrong), KVC_OK);
	target.option_count = 2;
	auto_open();
	auto_choice()->read_rate = 1e9;
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_KV4); /* not known yet: it is tried */
	assert_true(auto_choice()->codecs[KVC_CODEC_KV4].decode_rate != 0);
	auto_set(KVC_CODEC_SPLIT, 1e9);
	auto_set(KVC_CODEC_INT8, 1e9);
	auto_set(KVC_CODEC_KV4, 0.1e9);
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_INT8);
	auto_set(KVC_CODEC_INT8, 0.1e9);
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_SPLIT);
	auto_set(KVC_CODEC_KV4, 1e9);
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_KV4);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* Behind a delay the device cannot be faster than its bytes in that time. */
static void test_coded__auto_on_a_slow_device__measures_it_and_packs(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_BF16, 5);
	struct record record = record_make(&form, 5, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);
	struct kvc_tier_entry entry;
	unsigned calls;
	char *error = NULL;

	target.form = form;
	auto_open();
	auto_set(KVC_CODEC_SPLIT, 20e6); /* of each of three threads */
	auto_choice()->read_rate = 1e9;
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_RAW);
	assert_int_equal(kvci_filter_set(((struct coded_tier *)store->rig.tier)->below, "read:delay=20ms", &error), KVC_OK);
	calls = chosen_calls;
	auto_choice()->read_rate = 0;
	for (int i = 0; i < 3; i++) /* 246 KiB in 20 ms or more: 12 MB/s */
		assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
	assert_true(auto_choice()->read_rate > 0 && auto_choice()->read_rate < 13e6);
	assert_int_equal(chosen_calls, calls + 1);
	assert_int_equal(auto_write(&record, back, &entry), KVC_CODEC_SPLIT);
	kvci_free(back);
	kvci_free(record.bytes);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_coded__damaged_in_memory__not_packed_with_loss),
		CASE(test_coded__lossy_codec__flagged_and_sealed_anew),
		CASE(test_coded__scores__steer_and_stay_with_the_record),
		CASE(test_coded__scores_of_a_raw_record__stay_with_it),
		CASE(test_coded__units_over_layers__as_the_codec_gives_them),
		CASE(test_coded__auto_with_a_profile__packs_by_it_while_it_is_fast_enough),
		CASE(test_coded__auto_with_a_bound__best_option_that_is_fast_enough),
		CASE(test_coded__auto_on_a_slow_device__measures_it_and_packs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
