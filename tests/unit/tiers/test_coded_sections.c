/* SPDX-License-Identifier: Apache-2.0
 *
 * The coded tier hands out sections while later ones are still being decoded. Each unit's decoding waits at a gate that the test opens
 * (kvci_pack_decode is wrapped by the linker): nothing depends on time.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "tests/support/random.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/coded/internal.h"

enum { LAYERS = 6 };

static struct disk_store store_memory, *store = &store_memory;
static struct kvc_form form;
static struct kvc_form_sizes sizes;
static const struct kvc_codec_ops *codec;

/* ---- the gate ---- */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static uint32_t gate_open; /* a bit each section that may be decoded */
static uint32_t gate_done; /* and that was */

kvc_status_t __real_kvci_pack_decode(const struct kvci_pack *pack, const struct kvci_record_header *header,
                                     const struct kvci_section_entry *sections, const void *coded, uint32_t section, void *image,
                                     uint64_t *checksums, struct kvci_pack_scratch *scratch);
kvc_status_t __wrap_kvci_pack_decode(const struct kvci_pack *pack, const struct kvci_record_header *header,
                                     const struct kvci_section_entry *sections, const void *coded, uint32_t section, void *image,
                                     uint64_t *checksums, struct kvci_pack_scratch *scratch);

kvc_status_t __wrap_kvci_pack_decode(const struct kvci_pack *pack, const struct kvci_record_header *header,
                                     const struct kvci_section_entry *sections, const void *coded, uint32_t section, void *image,
                                     uint64_t *checksums, struct kvci_pack_scratch *scratch)
{
	kvc_status_t status;

	pthread_mutex_lock(&gate_lock);
	while ((gate_open >> section & 1) == 0)
		pthread_cond_wait(&gate_moved, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
	status = __real_kvci_pack_decode(pack, header, sections, coded, section, image, checksums, scratch);
	pthread_mutex_lock(&gate_lock);
	gate_done |= 1u << section;
	pthread_mutex_unlock(&gate_lock);
	return status;
}

static void gate_set(uint32_t open)
{
	pthread_mutex_lock(&gate_lock);
	gate_open = open;
	pthread_cond_broadcast(&gate_moved);
	pthread_mutex_unlock(&gate_lock);
}

static uint32_t gate_decoded(void)
{
	uint32_t done;

	pthread_mutex_lock(&gate_lock);
	done = gate_done;
	pthread_mutex_unlock(&gate_lock);
	return done;
}

/* ---- records and reads ---- */

static void describe(void *context, const struct kvc_tier_entry *entry, bool write, struct kvci_coded_target *ret_target)
{
	*ret_target = (struct kvci_coded_target){.form = form, .codec = codec};
	if (codec != NULL)
		ret_target->params = codec->defaults;
}

static uint8_t *record_make(struct kvc_tier_entry *ret_entry)
{
	struct kvci_record_meta meta = {.epoch = 3, .token_count = 64, .shard_count = 1, .id.hash = {7}};
	uint8_t *bytes = rig_buffer(sizes.record_bytes);
	uint64_t checksums[LAYERS], random = 88172645463325252ull;

	for (uint32_t i = 0; i < LAYERS; i++) {
		uint8_t *section = bytes + sizes.sections_offset_bytes + i * sizes.section_stride_bytes;

		for (uint64_t at = 0; at < sizes.section_bytes; at += 2) {
			random_step(&random);
			section[at] = (uint8_t)random;
			section[at + 1] = (uint8_t)(0x3f - (random >> 40) % 3);
		}
		checksums[i] = kvci_checksum(section, sizes.section_bytes, kvci_section_seed(kvci_block_seed(&meta.id), i));
	}
	*ret_entry = (struct kvc_tier_entry){
		.epoch = 3, .form_id = kvc_form_id(&form), .token_count = 64, .shard_count = 1, .raw_length_4k = (uint32_t)(sizes.record_bytes / 4096),
		.record_checksum = kvci_record_write_raw(bytes, &meta, &form, &sizes, checksums),
	};
	memcpy(ret_entry->hash, meta.id.hash, sizeof(meta.id.hash));
	return bytes;
}

struct read {
	struct kvc_tier_request request; /* first */
	uint32_t wanted, calls, sections;
	bool advanced; /* since it was last looked at */
	bool done;
	kvc_status_t status;
	uint8_t *buffer, *record;
};

static void read_progress(struct kvc_tier_request *request, uint32_t sections)
{
	struct read *read = (struct read *)request;

	assert_true(store->rig.in_poll);
	assert_false(read->done);
	assert_true(sections > read->sections && sections <= LAYERS);
	read->sections = sections;
	read->calls++;
	read->advanced = true;
}

static void read_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct read *read = (struct read *)request;

	read->done = true;
	read->status = status;
}

/* Stores a record and begins to read it; all gates are shut. */
static void read_begin(struct read *read, uint32_t threads, uint32_t wanted)
{
	struct kvci_coded_env env = {.describe = describe, .mode = KVCI_CODED_SPLIT, .thread_count = threads};
	struct kvc_tier *disk, *coded;
	struct kvc_tier_entry entry;
	char *error = NULL;

	form = (struct kvc_form){
		.struct_bytes = sizeof(form), .layer_count = LAYERS, .block_tokens = 64, .engine_block_tokens = 16, .kv_heads = 3, .head_dim_k = 64,
		.head_dim_v = 64, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_HN, .group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
	assert_int_equal(kvc_form_sizes(&form, &sizes, NULL), KVC_OK);
	disk_store_init(store, "coded_sections", "64MiB", "16MiB");
	assert_int_equal(disk_store_try(store, &disk, &error), KVC_OK);
	assert_int_equal(kvci_coded_wrap(disk, &env, &coded), KVC_OK);
	rig_open(&store->rig, coded, true);
	gate_set(UINT32_MAX);
	*read = (struct read){.record = record_make(&entry), .buffer = rig_buffer(sizes.record_bytes), .wanted = wanted};
	assert_int_equal(rig_write(&store->rig, read->record, &entry), KVC_OK);
	assert_true(entry.place.length_4k < entry.raw_length_4k);
	if (codec != NULL) { /* what comes out is the codec's: taken from a load of the whole */
		assert_int_equal(rig_read(&store->rig, read->record, &entry, 0), KVC_OK);
		assert_true((entry.flags & KVCI_RECORD_LOSSY) != 0);
	}
	gate_open = gate_done = 0;
	memset(read->buffer, 0xee, sizes.record_bytes);
	read->request = (struct kvc_tier_request){
		.op = KVC_TIER_READ, .entry = entry, .buffer = read->buffer, .done = read_done, .progress = read_progress,
		.progress_wanted = &read->wanted,
	};
}

static void read_submit(struct read *read)
{
	assert_int_equal(kvci_tier_submit(store->rig.tier, &read->request), KVC_OK);
}

static void read_wait(struct read *read, uint32_t sections)
{
	while (read->sections < sections) {
		read->advanced = false;
		rig_wait(&store->rig, &read->advanced);
	}
}

/* Until these sections are decoded: it has to be read from the disk before. */
static void read_poll_until(uint32_t decoded)
{
	while ((gate_decoded() & decoded) != decoded)
		rig_poll(&store->rig, 1);
}

/* These sections, and of the head as much as says what they are. */
static void read_check(const struct read *read, uint32_t sections)
{
	assert_int_equal(kvci_record_checksum_leading(read->buffer, sections), kvci_record_checksum_leading(read->record, sections));
	assert_memory_equal(read->buffer, read->record, KVCI_RECORD_SEALED_BYTES);
	assert_memory_equal(read->buffer + 256, read->record + 256, sections * sizeof(struct kvci_section_entry));
	for (uint32_t i = 0; i < sections; i++) {
		size_t at = sizes.sections_offset_bytes + i * sizes.section_stride_bytes;
		assert_memory_equal(read->buffer + at, read->record + at, sizes.section_bytes);
	}
}

/* All is there: the whole head, too. */
static void read_check_whole(const struct read *read)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;

	assert_int_equal(read->status, KVC_OK);
	assert_int_equal(kvci_record_parse(read->buffer, sizes.record_bytes, &header, &sections), KVC_OK);
	assert_int_equal(kvci_record_verify(read->buffer, header, sections, NULL), KVC_OK);
	assert_int_equal(kvci_record_checksum(read->buffer), read->request.entry.record_checksum);
	assert_int_equal((header->flags & KVCI_RECORD_LOSSY) != 0, codec != NULL);
	read_check(read, LAYERS);
}

static void read_end(struct read *read)
{
	disk_store_close(store);
	disk_store_fini(store);
	kvci_free(read->buffer);
	kvci_free(read->record);
	codec = NULL;
}

/* ---- tests ---- */

static void check_first_given(void)
{
	struct read read;

	read_begin(&read, 1, 1);
	read_submit(&read);
	for (uint32_t sections = 1; sections < LAYERS; sections++) {
		gate_set((1u << sections) - 1);
		read_wait(&read, sections);
		assert_int_equal(read.sections, sections);
		assert_false(read.done);
		assert_int_equal(gate_decoded() >> sections, 0);
		read_check(&read, sections);
	}
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	read_check_whole(&read);
	read_end(&read);
}

static void test_coded__first_section_is_given__while_the_last_is_not_decoded(void **state)
{
	check_first_given();
}

/* What a lossy codec gives has checksums of its own: they come with the sections, and the record's with the last. */
static void test_coded__lossy__first_section_is_given__while_the_last_is_not_decoded(void **state)
{
	codec = kvc_codec_by_id(KVC_CODEC_INT8);
	assert_non_null(codec);
	check_first_given();
}

static void check_out_of_order(void)
{
	struct read read;

	read_begin(&read, 3, 1);
	read_submit(&read);
	gate_set(6);
	read_poll_until(6); /* it was read, and 1 and 2 are decoded */
	rig_poll(&store->rig, 0);
	assert_int_equal(read.calls, 0); /* the first is missing */
	gate_set(7);
	read_wait(&read, 3);
	assert_int_equal(read.sections, 3);
	read_check(&read, 3);
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	read_check_whole(&read);
	read_end(&read);
}

static void test_coded__decoded_out_of_order__given_in_order(void **state)
{
	check_out_of_order();
	codec = kvc_codec_by_id(KVC_CODEC_INT8);
	check_out_of_order();
}

static void check_late_damage(void)
{
	struct read read;
	uint8_t *stored;

	read_begin(&read, 1, 1);
	stored = rig_buffer(sizes.record_bytes);
	assert_int_equal(rig_read(&store->rig, stored, &read.request.entry, KVC_TIER_STORED), KVC_OK);
	const struct kvci_section_entry *last = (const struct kvci_section_entry *)(const void *)(stored + 256) + LAYERS - 1;
	disk_store_flip(store, read.request.entry.place.segment,
	                (uint64_t)read.request.entry.place.offset_4k * 4096 + (uint64_t)last->offset_64 * 64 + last->stored_bytes / 2, 3);
	kvci_free(stored);
	read_submit(&read);
	gate_set((1u << (LAYERS - 1)) - 1);
	read_wait(&read, LAYERS - 1);
	read_check(&read, LAYERS - 1);
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	assert_int_equal(read.status, KVC_CORRUPT);
	assert_int_equal(read.sections, LAYERS - 1);
	read_check(&read, LAYERS - 1);
	read_end(&read);
}

static void test_coded__late_section_is_damaged__earlier_ones_given_then_corrupt(void **state)
{
	check_late_damage();
	codec = kvc_codec_by_id(KVC_CODEC_INT8);
	check_late_damage();
}

static void test_coded__not_wanted_or_wanted_late__none_or_the_rest(void **state)
{
	struct read read;

	read_begin(&read, 2, 0);
	read_submit(&read);
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	assert_int_equal(read.status, KVC_OK);
	assert_int_equal(read.calls, 0);
	read_end(&read);

	read_begin(&read, 1, 0);
	read_submit(&read);
	gate_set(1);
	read_poll_until(1);
	__atomic_store_n(&read.wanted, 1, __ATOMIC_RELAXED);
	gate_set(3);
	read_wait(&read, 2);
	read_check(&read, 2);
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	assert_int_equal(read.status, KVC_OK);
	read_end(&read);
}

/* Records that are decoded at a time go on abreast: with one thread, the second one's first section comes before the first one's second. */
static void test_coded__two_records__go_on_abreast(void **state)
{
	struct read read, other = {.wanted = 1};
	struct coded_tier *tier;

	read_begin(&read, 1, 1);
	other.record = read.record;
	other.buffer = rig_buffer(sizes.record_bytes);
	other.request = read.request;
	other.request.buffer = other.buffer;
	other.request.progress_wanted = &other.wanted;
	tier = (struct coded_tier *)store->rig.tier;
	read_submit(&read);
	read_submit(&other);
	while (tier->jobs_out < 2) /* both were read: the first waits at its gate, the second for the thread */
		rig_poll(&store->rig, 1);
	for (uint32_t sections = 1; sections < LAYERS; sections++) {
		gate_set((1u << sections) - 1);
		read_wait(&read, sections);
		read_wait(&other, sections);
		assert_int_equal(read.sections, sections);
		assert_int_equal(other.sections, sections);
		read_check(&read, sections);
		read_check(&other, sections);
	}
	gate_set(UINT32_MAX);
	rig_wait(&store->rig, &read.done);
	rig_wait(&store->rig, &other.done);
	read_check_whole(&read);
	read_check_whole(&other);
	kvci_free(other.buffer);
	read_end(&read);
}

/* Closed while sections are given: the read ends once, nothing is told behind it. */
static void test_coded__closed_in_between__ends_once(void **state)
{
	struct read read;

	read_begin(&read, 2, 1);
	read_submit(&read);
	gate_set(3);
	read_wait(&read, 2);
	gate_set(UINT32_MAX);
	disk_store_close(store);
	assert_true(read.done);
	assert_true(read.status == KVC_OK || read.status == KVC_CANCELED);
	disk_store_fini(store);
	kvci_free(read.buffer);
	kvci_free(read.record);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_coded__first_section_is_given__while_the_last_is_not_decoded),
		cmocka_unit_test(test_coded__lossy__first_section_is_given__while_the_last_is_not_decoded),
		cmocka_unit_test(test_coded__decoded_out_of_order__given_in_order),
		cmocka_unit_test(test_coded__late_section_is_damaged__earlier_ones_given_then_corrupt),
		cmocka_unit_test(test_coded__not_wanted_or_wanted_late__none_or_the_rest),
		cmocka_unit_test(test_coded__two_records__go_on_abreast),
		cmocka_unit_test(test_coded__closed_in_between__ends_once),
	};

	return cmocka_run_group_tests_name("tiers/coded_sections", tests, NULL, NULL);
}
