/* SPDX-License-Identifier: Apache-2.0
 *
 * The coded tier over the disk: what is stored comes back to the bit, shorter on the disk; damage is CORRUPT; nothing is waited for
 * that does not come.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/log.h"
#include "tests/unit/sweep.h"
#include "tests/unit/tiers/coded_rig.h"
#include "tiers/coded/internal.h"
#include "tiers/filter/filter.h"

static void check_round_trip(const struct kvc_form *form, uint64_t seed, bool shrinks)
{
	struct record record = record_make(form, seed, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);
	struct kvc_tier_entry entry = record.entry;

	target.form = *form;
	assert_int_equal(rig_write(&store->rig, record.bytes, &entry), KVC_OK);
	assert_int_equal(entry.place.length_4k < entry.raw_length_4k, shrinks);
	assert_int_equal(entry.record_checksum, record.entry.record_checksum);
	assert_int_equal(rig_read(&store->rig, back, &entry, 0), KVC_OK);
	assert_true(same_image(&record, back));
	memset(back, 0xee, record.sizes.record_bytes);
	assert_int_equal(rig_read(&store->rig, back, &entry, KVC_TIER_NO_VERIFY), KVC_OK);
	assert_true(same_image(&record, back));
	/* As it is stored: shorter, and whole. */
	assert_int_equal(rig_read(&store->rig, back, &entry, KVC_TIER_STORED), KVC_OK);
	assert_int_equal(((struct kvci_record_header *)(void *)back)->record_bytes, (uint64_t)entry.place.length_4k * 4096);
	assert_int_equal(kvci_record_checksum(back), record.entry.record_checksum);
	kvci_free(back);
	kvci_free(record.bytes);
}

static void test_coded__every_form_and_codec__comes_back_to_the_bit(void **state)
{
	static const struct {
		uint32_t arrangement, order, dtype;
		bool split; /* shrinks it */
	} forms[] = {
		{KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, true}, {KVC_KV_FUSED, KVC_ORDER_NH, KVC_DTYPE_F16, true},
		{KVC_KV_SPLIT, KVC_ORDER_NH, KVC_DTYPE_BF16, true}, {KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_F32, true},
		{KVC_KV_LATENT, 0, KVC_DTYPE_BF16, true},           {KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_F8_E4M3, true},
		{KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_OPAQUE8, false},
	};
	struct kvci_coded_figures figures;

	for (int mode = KVCI_CODED_RAW; mode <= KVCI_CODED_LZ4; mode++) {
		env.mode = (enum kvci_coded_mode)mode;
		store_open();
		for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
			struct kvc_form form = form_of(forms[i].arrangement, forms[i].order, forms[i].dtype, 5 + (uint32_t)i);

			if (mode == KVCI_CODED_RAW || mode == KVCI_CODED_SPLIT)
				check_round_trip(&form, i + 1, mode == KVCI_CODED_SPLIT && forms[i].split);
			else if (forms[i].dtype == KVC_DTYPE_F8_E4M3 && mode == KVCI_CODED_ZSTD)
				check_round_trip(&form, i + 1, true);
		}
		kvci_coded_figures(store->rig.tier, &figures);
		assert_int_equal(figures.coded_writes != 0, mode == KVCI_CODED_SPLIT || mode == KVCI_CODED_ZSTD);
		if (figures.coded_writes != 0) {
			assert_int_equal(figures.coded_reads, 2 * figures.coded_writes);
			assert_true(figures.coded_write_bytes < figures.coded_write_raw_bytes);
			assert_int_equal(figures.coded_read_bytes, 2 * figures.coded_write_bytes);
		}
		assert_int_equal(figures.buffer_bytes, 0);
		disk_store_close(store);
		disk_store_fini(store);
		disk_store_init(store, "coded", "64MiB", "16MiB");
	}
}

static void test_coded__heads_of_many_layers_and_odd_sections__come_back(void **state)
{
	struct kvc_form form = form_of(KVC_KV_LATENT, 0, KVC_DTYPE_BF16, 1024);

	form.block_tokens = form.engine_block_tokens = 8;
	form.head_dim_k = 63; /* 1,008 bytes a section, 16 between */
	store_open();
	check_round_trip(&form, 1, true);
	form.layer_count = 1;
	form.block_tokens = 512;
	check_round_trip(&form, 2, true);
	form = form_of(KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_BF16, 7);
	form.head_dim_v = 24;
	check_round_trip(&form, 3, true);
	form.page_extra_bytes = 40; /* of nobody's: it stays raw */
	check_round_trip(&form, 4, false);
}

static void test_coded__bytes_that_do_not_shrink__pass_raw(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 6);
	struct record record = record_make(&form, 1, true);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);

	target.form = form;
	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
	assert_int_equal(record.entry.place.length_4k, record.entry.raw_length_4k);
	assert_int_equal(rig_read(&store->rig, back, &record.entry, 0), KVC_OK);
	assert_true(same_image(&record, back));
	kvci_free(back);
	kvci_free(record.bytes);
}

static void test_coded__unknown_form_or_hurry__raw_and_a_coded_one_misses(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 6);
	struct record record = record_make(&form, 1, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);
	struct kvc_tier_entry raw = record.entry, coded = record.entry;
	struct kvci_coded_figures figures;

	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &raw), KVC_OK);
	assert_int_equal(raw.place.length_4k, raw.raw_length_4k);
	target.form = form;
	target.hurry = true;
	assert_int_equal(rig_write(&store->rig, record.bytes, &raw), KVC_OK);
	assert_int_equal(raw.place.length_4k, raw.raw_length_4k);
	kvci_coded_figures(store->rig.tier, &figures);
	assert_int_equal(figures.hurried_writes, 1);
	assert_int_equal(figures.raw_writes, 2);
	target.hurry = false;
	assert_int_equal(rig_write(&store->rig, record.bytes, &coded), KVC_OK);
	assert_true(coded.place.length_4k < coded.raw_length_4k);
	target.form.struct_bytes = 0;
	assert_int_equal(rig_read(&store->rig, back, &coded, 0), KVC_MISS);
	assert_int_equal(rig_read(&store->rig, back, &raw, 0), KVC_OK);
	assert_true(same_image(&record, back));
	target.form = form;
	assert_int_equal(rig_read(&store->rig, back, &coded, 0), KVC_OK);
	kvci_free(back);
	kvci_free(record.bytes);
}

static void test_coded__damaged_anywhere_on_the_disk__corrupt(void **state)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_NH, KVC_DTYPE_BF16, 4);
	struct record record = record_make(&form, 1, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes), *stored = rig_buffer(record.sizes.record_bytes);
	const struct kvci_section_entry *last;
	uint64_t base, end;

	target.form = form;
	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
	assert_int_equal(rig_read(&store->rig, stored, &record.entry, KVC_TIER_STORED), KVC_OK);
	last = (const struct kvci_section_entry *)(const void *)(stored + 256) + 3;
	base = (uint64_t)record.entry.place.offset_4k * 4096;
	end = (uint64_t)last->offset_64 * 64 + last->stored_bytes;
	for (uint64_t at = 0; at < end; at += 1 + at / 40) {
		bool covered = at < 200 || (at >= 256 && at < 256 + 4 * 32);
		uint64_t in_section = 0;

		for (uint32_t i = 0; i < 4; i++) {
			const struct kvci_section_entry *entry = (const struct kvci_section_entry *)(const void *)(stored + 256) + i;
			in_section = at - (uint64_t)entry->offset_64 * 64;
			covered = covered || in_section < entry->stored_bytes;
		}
		disk_store_flip(store, record.entry.place.segment, base + at, (unsigned)at % 8);
		assert_int_equal(rig_read(&store->rig, back, &record.entry, at % 2 != 0 ? KVC_TIER_NO_VERIFY : 0), covered ? KVC_CORRUPT : KVC_OK);
		disk_store_flip(store, record.entry.place.segment, base + at, (unsigned)at % 8);
	}
	assert_int_equal(rig_read(&store->rig, back, &record.entry, 0), KVC_OK);
	assert_true(same_image(&record, back));
	kvci_free(stored);
	kvci_free(back);
	kvci_free(record.bytes);
}

/* Streams that lie under right checksums: refused, or decoded to something, and never a byte outside the section. */
static void test_pack_decode__lies_under_right_checksums__stays_inside(void **state)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_BF16, 2);
	struct record record = record_make(&form, 1, false);
	struct kvci_pack pack = {.form = form, .sizes = record.sizes, .codec = kvc_codec_by_id(KVC_CODEC_SPLIT),
	                         .record_checksum = record.entry.record_checksum};
	struct kvci_pack_scratch scratch = {0};
	uint8_t *coded = rig_buffer(kvci_pack_room(&pack)), *image = rig_buffer(record.sizes.record_bytes);
	const struct kvci_record_header *header = (const struct kvci_record_header *)(const void *)coded;
	struct kvci_section_entry *table = (struct kvci_section_entry *)(void *)(coded + 256);
	struct kvci_block_id id = {{0}, {0}, 0, 0};
	uint64_t checksums[2], refused = 0;
	size_t bytes;
	bool lossy;

	memcpy(id.hash, record.entry.hash, sizeof(id.hash));
	assert_int_equal(kvci_pack_encode(&pack, record.bytes, coded, &scratch, &bytes, &lossy), KVC_OK);
	assert_true(bytes != 0 && bytes < record.sizes.record_bytes && !lossy);
	for (int round = 0; round < 3000; round++) {
		uint8_t *stored = coded + (uint64_t)table[0].offset_64 * 64;
		size_t at = round < 16 ? (size_t)round : random_next() % table[0].stored_bytes;
		uint32_t length = table[0].stored_bytes;
		uint8_t old = stored[at];

		stored[at] ^= (uint8_t)(random_next() % 255 + 1);
		if (round % 3 == 2)
			table[0].stored_bytes = (uint32_t)(random_next() % length);
		table[0].stored_checksum = kvci_checksum(stored, table[0].stored_bytes, kvci_section_seed(kvci_block_seed(&id), 0));
		memset(image, 0x5a, record.sizes.record_bytes);
		refused += kvci_pack_decode(&pack, header, table, coded, 0, image, checksums, &scratch) == KVC_CORRUPT;
		for (size_t i = 0; i < record.sizes.record_bytes; i++)
			if (i < record.sizes.sections_offset_bytes || i >= record.sizes.sections_offset_bytes + record.sizes.section_bytes)
				assert_int_equal(image[i], 0x5a);
		stored[at] = old;
		table[0].stored_bytes = length;
	}
	assert_true(refused > 1000); /* at least those that are cut */
	kvci_pack_scratch_fini(&scratch);
	kvci_free(coded);
	kvci_free(image);
	kvci_free(record.bytes);
}

/* The owner of a slab rewrote the record after it was sealed. */
static void test_coded__record_that_is_not_the_entrys__refused(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 6);
	struct record record = record_make(&form, 1, false), other = record_make(&form, 2, false);
	struct kvci_section_entry *table = (struct kvci_section_entry *)(void *)(record.bytes + 256);
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)record.bytes;

	target.form = form;
	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &other.entry), KVC_CORRUPT);
	table[1].raw_checksum++;
	table[1].stored_checksum++;
	header->header_checksum = kvci_record_header_checksum(record.bytes);
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_CORRUPT);
	memset(record.bytes, 0xff, record.sizes.record_bytes);
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_CORRUPT);
	kvci_free(record.bytes);
	kvci_free(other.bytes);
}

struct many {
	struct kvc_tier_request request;
	unsigned *left;
	kvc_status_t status;
	unsigned calls;
};

static void many_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct many *one = request->context;

	one->calls++;
	one->status = status;
	--*one->left;
}

enum { MANY = 120 };

/* Submits writes, or reads of them, as fast as they are taken; `limit` bytes of I/O buffers at most at any time. */
static void many_run(struct many *all, struct record *records, uint8_t *buffers, uint32_t op, uint64_t limit)
{
	unsigned left = MANY, next = 0;
	struct kvci_coded_figures figures;

	while (left != 0) {
		while (next < MANY) {
			struct many *one = &all[next];
			kvc_status_t status;

			*one = (struct many){.left = &left};
			one->request = (struct kvc_tier_request){
				.op = op, .entry = records[next].entry, .done = many_done, .context = one,
				.buffer = op == KVC_TIER_WRITE ? records[next].bytes : buffers + next * records[next].sizes.record_bytes,
			};
			status = kvci_tier_submit(store->rig.tier, &one->request);
			if (status == KVC_BUSY)
				break;
			assert_int_equal(status, KVC_OK);
			next++;
		}
		rig_poll(&store->rig, 100);
		kvci_coded_figures(store->rig.tier, &figures);
		assert_true(figures.buffer_bytes <= limit);
	}
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(all[i].calls, 1);
		assert_int_equal(all[i].status, KVC_OK);
		records[i].entry = all[i].request.entry;
	}
}

static void test_coded__more_than_there_are_buffers__all_complete_within_bounds(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 4);
	struct record *records = kvci_alloc_zero(MANY, sizeof(*records));
	struct many *all = kvci_alloc_zero(MANY, sizeof(*all));
	uint8_t *buffers;

	for (unsigned i = 0; i < MANY; i++)
		records[i] = record_make(&form, i + 1, false);
	buffers = rig_buffer(MANY * records[0].sizes.record_bytes);
	target.form = form;
	env.buffer_bytes = 5 * 256 << 10; /* a few at a time */
	store_open();
	many_run(all, records, buffers, KVC_TIER_WRITE, env.buffer_bytes);
	many_run(all, records, buffers, KVC_TIER_READ, env.buffer_bytes);
	for (unsigned i = 0; i < MANY; i++)
		assert_true(same_image(&records[i], buffers + i * records[i].sizes.record_bytes));
	/* And closed with all of them under way: each completes once. */
	unsigned left = 0, taken = 0;
	for (; taken < MANY; taken++) {
		all[taken] = (struct many){.left = &left};
		all[taken].request = (struct kvc_tier_request){
			.op = taken % 2 == 0 ? KVC_TIER_READ : KVC_TIER_WRITE, .entry = records[taken].entry, .done = many_done, .context = &all[taken],
			.buffer = taken % 2 == 0 ? buffers + taken * records[0].sizes.record_bytes : records[taken].bytes,
		};
		if (kvci_tier_submit(store->rig.tier, &all[taken].request) != KVC_OK)
			break;
	}
	left = taken;
	disk_store_close(store);
	assert_int_equal(left, 0);
	for (unsigned i = 0; i < taken; i++) {
		assert_int_equal(all[i].calls, 1);
		assert_true(all[i].status == KVC_OK || all[i].status == KVC_CANCELED);
	}
	for (unsigned i = 0; i < MANY; i++)
		kvci_free(records[i].bytes);
	kvci_free(buffers);
	kvci_free(records);
	kvci_free(all);
}

static void test_coded__reopened__index_leads_to_coded_records(void **state)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_BF16, 8);
	struct record record = record_make(&form, 1, false);
	uint8_t *back = rig_buffer(record.sizes.record_bytes);

	target.form = form;
	store_open();
	assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
	for (int lost = 0; lost < 2; lost++) { /* then from the headers alone */
		disk_store_close(store);
		if (lost)
			disk_store_remove(store, "index");
		store_open();
		assert_int_equal(store->rig.index_delivered, 1);
		assert_memory_equal(&store->rig.index.entries[0], &record.entry, sizeof(record.entry));
		memset(back, 0, record.sizes.record_bytes);
		assert_int_equal(rig_read(&store->rig, back, &store->rig.index.entries[0], 0), KVC_OK);
		assert_true(same_image(&record, back));
	}
	kvci_free(back);
	kvci_free(record.bytes);
}

/* ---- auto ---- */

static void test_choice__device_against_decoder__never_much_slower_than_raw(void **state)
{
	struct coded_choice choice;

	for (double device = 1e8; device < 1e11; device *= 1.3)
		for (double decode = 1e8; decode < 1e11; decode *= 1.7) {
			double raw = 1 / device, read = 0.67 / device, unpack = 1 / (2 * decode), coded;

			coded_choice_init(&choice, KVCI_CODED_AUTO, 2);
			choice.read_rate = device;
			choice.codecs[KVC_CODEC_SPLIT].decode_rate = decode;
			choice.codecs[KVC_CODEC_SPLIT].stored_share = 0.67;
			coded_choice_decide(&choice);
			coded = (read > unpack ? read : unpack) + (read > unpack ? unpack : read) / 8;
			if (coded > 1.1 * raw)
				assert_true(choice.codecs[KVC_CODEC_SPLIT].refused);
			if (coded < raw)
				assert_false(choice.codecs[KVC_CODEC_SPLIT].refused);
		}
}

static void test_choice__measured__by_bytes_over_busy_time(void **state)
{
	struct coded_choice choice;

	coded_choice_init(&choice, KVCI_CODED_AUTO, 2);
	assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, NULL));
	assert_int_equal(coded_choice_decide(&choice), KVC_CODEC_RAW); /* nothing is known */
	coded_choice_decoded(&choice, KVC_CODEC_SPLIT, 1 << 20, 1000000); /* 1 GB/s a thread */
	for (int round = 0; round < 100; round++) { /* two at a time, 32 MiB in 2 ms: 16 GB/s */
		uint64_t now = 1 + (uint64_t)round * 10 * KVCI_MS;

		coded_choice_begin(&choice, false, now);
		coded_choice_begin(&choice, false, now);
		coded_choice_end(&choice, false, 16 << 20, true, now + KVCI_MS);
		coded_choice_end(&choice, false, 16 << 20, true, now + 2 * KVCI_MS);
	}
	assert_true(choice.read_rate > 16e9 && choice.read_rate < 17e9);
	assert_int_equal(coded_choice_decide(&choice), KVC_CODEC_SPLIT);
	assert_false(coded_choice_offer(&choice, KVC_CODEC_SPLIT, NULL));
	for (int round = 0; round < 100; round++) { /* it became slow: 160 MB/s */
		coded_choice_begin(&choice, false, 1);
		coded_choice_end(&choice, false, 16 << 20, true, 1 + 100 * KVCI_MS);
	}
	assert_int_equal(coded_choice_decide(&choice), KVC_CODEC_SPLIT);
	assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, NULL));
}

/* A slow codec of one space says nothing of those of the others. */
static void test_choice__each_codec__by_its_own_rate(void **state)
{
	struct coded_choice choice;
	char why[512];

	coded_choice_init(&choice, KVCI_CODED_AUTO, 2);
	choice.read_rate = 1e9;
	coded_choice_decoded(&choice, KVC_CODEC_SPLIT, 8 << 20, (uint64_t)(8 << 20) / 2); /* 2 GB/s */
	for (int i = 0; i < 100; i++) {
		assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, NULL));
		coded_choice_offer(&choice, KVC_CODEC_ECSQ_PCA, NULL);
		coded_choice_encoded(&choice, KVC_CODEC_ECSQ_PCA, 8 << 20, 1 << 20, 8 * KVCI_MS);
		coded_choice_decoded(&choice, KVC_CODEC_ECSQ_PCA, 8 << 20, 80 * KVCI_MS); /* 0.1 GB/s */
		coded_choice_encoded(&choice, KVC_CODEC_KV4, 8 << 20, 2 << 20, 8 * KVCI_MS); /* by name: nobody judges it */
		coded_choice_decoded(&choice, KVC_CODEC_KV4, 8 << 20, 80 * KVCI_MS);
		coded_choice_decide(&choice);
	}
	assert_true(choice.codecs[KVC_CODEC_SPLIT].decode_rate == 2e9);
	assert_true(choice.codecs[KVC_CODEC_SPLIT].stored_share > 0.6);
	assert_false(coded_choice_offer(&choice, KVC_CODEC_ECSQ_PCA, NULL));
	assert_false(choice.codecs[KVC_CODEC_KV4].refused);
	coded_choice_why(&choice, why, sizeof(why));
	assert_non_null(strstr(why, "split 0.7"));
	assert_non_null(strstr(why, "ecsq+pca 4.7"));
	assert_non_null(strstr(why, "too long"));
	assert_null(strstr(why, "kv4"));
}

/* Speeds that swing by a tenth, at every mean: what was chosen stays. */
static void test_choice__rates_swing__does_not_flap(void **state)
{
	for (double decode = 0.2e9; decode < 2e9; decode *= 1.01) {
		struct coded_choice choice;
		unsigned changes = 0;

		coded_choice_init(&choice, KVCI_CODED_AUTO, 2);
		choice.read_rate = 1e9;
		for (int i = 0; i < 400; i++) {
			double rate = decode * (i % 2 != 0 ? 1.1 : 0.9);

			coded_choice_decoded(&choice, KVC_CODEC_SPLIT, 8 << 20, (uint64_t)((8 << 20) * 1e9 / rate));
			changes += coded_choice_decide(&choice) != KVC_CODEC_RAW && i > 40; /* by then the average is one */
		}
		assert_int_equal(changes, 0);
	}
}

static void test_choice__refused__tried_again_and_taken_back(void **state)
{
	struct coded_try result = {.encode_raw_bytes = 1 << 20, .stored_bytes = 700 << 10, .encode_ns = KVCI_MS, .decode_raw_bytes = 1 << 20};
	struct coded_choice choice;
	unsigned tries = 0;
	bool try_it;

	coded_choice_init(&choice, KVCI_CODED_AUTO, 2);
	choice.read_rate = 1e9;
	assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, &try_it));
	assert_true(try_it); /* nothing is known of it */
	assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, &try_it));
	assert_false(try_it);
	result.decode_ns = 100 * KVCI_MS; /* in a bad moment */
	coded_choice_tried(&choice, KVC_CODEC_SPLIT, &result);
	assert_int_equal(coded_choice_decide(&choice), KVC_CODEC_SPLIT);
	result.decode_ns = KVCI_MS / 2;
	for (int i = 0; i < 640 && !coded_choice_offer(&choice, KVC_CODEC_SPLIT, &try_it); i++) {
		if (!try_it)
			continue;
		tries++;
		coded_choice_tried(&choice, KVC_CODEC_SPLIT, &result);
		coded_choice_decide(&choice);
	}
	assert_true(coded_choice_offer(&choice, KVC_CODEC_SPLIT, &try_it));
	assert_false(try_it);
	assert_in_range(tries, 1, 9); /* one of 64 records */
}

static void test_coded__auto__tries_the_decoder_and_says_why(void **state)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 8);
	struct kvci_coded_figures figures;

	env.mode = KVCI_CODED_AUTO;
	store_open();
	do {
		rig_poll(&store->rig, 100);
		kvci_coded_figures(store->rig.tier, &figures);
	} while (figures.decode_bytes_per_s == 0);
	assert_true(figures.encode_bytes_per_s > 0);
	assert_true(strcmp(figures.choice, "split") == 0 || strcmp(figures.choice, "raw") == 0);
	assert_non_null(strstr(figures.why, "GB/s"));
	target.form = form;
	{
		struct record record = record_make(&form, 1, false);
		assert_int_equal(rig_write(&store->rig, record.bytes, &record.entry), KVC_OK);
		assert_int_equal(rig_read(&store->rig, record.bytes, &record.entry, 0), KVC_OK);
		kvci_free(record.bytes);
	}
}

/* ---- allocations ---- */

struct sweep_call {
	struct kvc_tier_request request;
	kvc_status_t status;
	bool done;
};

static void sweep_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct sweep_call *call = request->context;

	call->status = status;
	call->done = true;
}

static void sweep_index(void *context, const struct kvc_tier_entry *entries, size_t count, bool more)
{
	*(bool *)context = !more;
}

static void sweep_lost(void *context, uint32_t segment, uint32_t generation)
{
}

static bool sweep_keep(void *context, const struct kvc_tier_entry *entry)
{
	return false;
}

static void sweep_moved(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place)
{
}

static void sweep_health(void *context, kvc_status_t status, const char *text)
{
}

static void sweep_log(void *context, enum kvci_log_level level, const char *line)
{
}

static kvc_status_t sweep_call(struct kvc_tier *tier, uint32_t op, struct kvc_tier_entry *entry, void *buffer)
{
	struct sweep_call call = {.request = {.op = op, .entry = *entry, .buffer = buffer, .done = sweep_done}};
	kvc_status_t status;

	call.request.context = &call;
	for (int tries = 0; (status = kvci_tier_submit(tier, &call.request)) == KVC_BUSY && tries < 50; tries++) {
		usleep(1000);
		kvci_tier_poll(tier, 16);
	}
	if (status != KVC_OK)
		return status == KVC_BUSY ? KVC_NO_MEMORY : status;
	while (!call.done) {
		usleep(200);
		kvci_tier_poll(tier, 16);
	}
	*entry = call.request.entry;
	return call.status;
}

static _Alignas(4096) uint8_t sweep_back[1 << 20];

static kvc_status_t sweep_once(void *context)
{
	struct record *record = context;
	struct kvc_tier_entry entry = record->entry;
	bool complete = false;
	struct kvc_tier_events events = {&complete, sweep_index, sweep_lost, sweep_keep, sweep_moved, sweep_health};
	struct kvc_tier *disk, *coded;
	char *error = NULL;
	kvc_status_t status = disk_store_try(store, &disk, &error);

	kvci_free(error);
	if (status != KVC_OK)
		return status;
	status = kvci_coded_wrap(disk, &env, &coded);
	if (status != KVC_OK) {
		kvci_tier_close(disk);
		return status;
	}
	status = kvci_tier_attach(coded, &events);
	while (status == KVC_OK && !complete) {
		usleep(500);
		kvci_tier_poll(coded, 16);
	}
	if (status == KVC_OK)
		status = sweep_call(coded, KVC_TIER_WRITE, &entry, record->bytes);
	if (status == KVC_OK)
		status = sweep_call(coded, KVC_TIER_READ, &entry, sweep_back);
	if (status == KVC_OK)
		assert_true(same_image(record, sweep_back));
	kvci_tier_close(coded);
	return status;
}

static void test_coded__any_allocation_fails__no_memory_or_done_without(void **state)
{
	struct kvc_form form = form_of(KVC_KV_SPLIT, KVC_ORDER_HN, KVC_DTYPE_BF16, 3);
	struct record record = record_make(&form, 1, false);

	target.form = form;
	env.thread_count = 2;
	store->io = "threads";
	assert_true(record.sizes.record_bytes <= sizeof(sweep_back));
	kvci_log_set_sink(sweep_log, NULL);
	assert_true(sweep_run("coded", sweep_once, &record).allocations > 5);
	kvci_log_set_sink(NULL, NULL);
	kvci_free(record.bytes);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_choice__device_against_decoder__never_much_slower_than_raw),
		CASE(test_choice__measured__by_bytes_over_busy_time),
		CASE(test_choice__each_codec__by_its_own_rate),
		CASE(test_choice__rates_swing__does_not_flap),
		CASE(test_choice__refused__tried_again_and_taken_back),
		CASE(test_pack_decode__lies_under_right_checksums__stays_inside),
		CASE(test_coded__every_form_and_codec__comes_back_to_the_bit),
		CASE(test_coded__heads_of_many_layers_and_odd_sections__come_back),
		CASE(test_coded__bytes_that_do_not_shrink__pass_raw),
		CASE(test_coded__unknown_form_or_hurry__raw_and_a_coded_one_misses),
		CASE(test_coded__damaged_anywhere_on_the_disk__corrupt),
		CASE(test_coded__record_that_is_not_the_entrys__refused),
		CASE(test_coded__more_than_there_are_buffers__all_complete_within_bounds),
		CASE(test_coded__reopened__index_leads_to_coded_records),
		CASE(test_coded__auto__tries_the_decoder_and_says_why),
		CASE(test_coded__any_allocation_fails__no_memory_or_done_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
