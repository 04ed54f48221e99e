/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory registered with the coded tier: the tier below hears of it where records pass raw, and of what it heard it also hears the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/tiers/coded_rig.h"

enum { REGIONS = 20, REGION_BYTES = 1 << 20 };

/* What the tiers below the coded one were told; the wrapped calls go no further. */
static uint32_t told[REGIONS], ended[REGIONS];
static uint8_t *memory;
static bool refuses;

kvc_status_t __real_kvci_tier_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes);
kvc_status_t __wrap_kvci_tier_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes);
void __real_kvci_tier_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes);
void __wrap_kvci_tier_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes);

kvc_status_t __wrap_kvci_tier_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	if (tier == store->rig.tier)
		return __real_kvci_tier_register_memory(tier, base, length_bytes);
	assert_int_equal(length_bytes, REGION_BYTES);
	if (refuses)
		return KVC_UNSUPPORTED;
	told[((uint8_t *)base - memory) / REGION_BYTES]++;
	return KVC_OK;
}

void __wrap_kvci_tier_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	if (tier == store->rig.tier) {
		__real_kvci_tier_unregister_memory(tier, base, length_bytes);
		return;
	}
	assert_int_equal(length_bytes, REGION_BYTES);
	ended[((uint8_t *)base - memory) / REGION_BYTES]++;
}

static void rates(double decode_rate, double read_rate)
{
	struct coded_choice *choice = &((struct coded_tier *)store->rig.tier)->choice;

	choice->read_rate = read_rate;
	choice->codecs[KVC_CODEC_SPLIT].decode_rate = decode_rate;
	choice->codecs[KVC_CODEC_SPLIT].stored_share = 0.7;
	choice->codecs[KVC_CODEC_SPLIT].judged = true;
	choice->codecs[KVC_CODEC_SPLIT].tried = true;
}

static void open_mode(enum kvci_coded_mode mode, bool always)
{
	struct coded_tier *tier;

	env.mode = mode;
	env.register_always = always;
	store_open();
	tier = (struct coded_tier *)store->rig.tier;
	/* Known before the tier has tried: split, as the device is slow and the decoder is not. */
	rates(1e12, 1e8);
	tier->choice.codecs[KVC_CODEC_SPLIT].refused = false;
	memset(told, 0, sizeof(told));
	memset(ended, 0, sizeof(ended));
	refuses = false;
}

static kvc_status_t add(uint32_t i)
{
	return kvci_tier_register_memory(store->rig.tier, memory + (size_t)i * REGION_BYTES, REGION_BYTES);
}

static void take(uint32_t i)
{
	kvci_tier_unregister_memory(store->rig.tier, memory + (size_t)i * REGION_BYTES, REGION_BYTES);
}

/* Writes of a record that lies at a region's start, `bytes` long together or a little less; each makes the tier decide anew. */
static void write_from(uint32_t i, size_t bytes)
{
	struct kvc_form form = form_of(KVC_KV_FUSED, KVC_ORDER_HN, KVC_DTYPE_BF16, 2);
	struct record record = record_make(&form, 1, false);
	size_t record_bytes = (size_t)record.entry.raw_length_4k * KVCI_RECORD_ALIGN_BYTES;

	target.form = form;
	memcpy(memory + (size_t)i * REGION_BYTES, record.bytes, record_bytes);
	for (size_t at = 0; at + record_bytes <= bytes; at += record_bytes)
		assert_int_equal(rig_write(&store->rig, memory + (size_t)i * REGION_BYTES, &record.entry), KVC_OK);
	kvci_free(record.bytes);
}

static void test_regions__records_are_packed__not_told(void **state)
{
	static const enum kvci_coded_mode modes[] = {KVCI_CODED_AUTO, KVCI_CODED_SPLIT, KVCI_CODED_ZSTD, KVCI_CODED_LZ4};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		open_mode(modes[i], false);
		assert_int_equal(add(0), KVC_OK);
		assert_int_equal(add(1), KVC_OK);
		take(0);
		take(1);
		assert_int_equal(told[0] + told[1] + ended[0] + ended[1], 0);
		rig_close(&store->rig);
	}
}

static void test_regions__wanted_always__told_and_ended(void **state)
{
	static const enum kvci_coded_mode modes[] = {KVCI_CODED_RAW, KVCI_CODED_SPLIT};

	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		open_mode(modes[i], true);
		assert_int_equal(add(0), KVC_OK);
		refuses = true;
		assert_int_equal(add(1), KVC_UNSUPPORTED); /* as the tier below says */
		assert_int_equal(told[0], 1);
		take(0);
		take(1);
		assert_int_equal(ended[0], 1);
		assert_int_equal(ended[1], 0); /* it never knew */
		rig_close(&store->rig);
	}
}

static void test_regions__auto__told_once_after_raw_records_of_twice_its_length(void **state)
{
	open_mode(KVCI_CODED_AUTO, false);
	for (uint32_t i = 0; i < REGIONS; i++)
		assert_int_equal(add(i), KVC_OK);
	write_from(0, 3 * REGION_BYTES); /* packed */
	assert_int_equal(told[0], 0);
	rates(1e8, 1e12); /* the next is packed, and then none */
	write_from(1, 2 * REGION_BYTES);
	assert_int_equal(told[1], 0);
	write_from(1, REGION_BYTES);
	assert_int_equal(told[1], 1);
	write_from(REGIONS - 1, 5 * REGION_BYTES);
	for (uint32_t i = 0; i < REGIONS; i++) {
		assert_int_equal(told[i], i == 1 || i == REGIONS - 1);
		take(i);
		assert_int_equal(ended[i], told[i]);
	}
	rig_close(&store->rig);
}

static void test_regions__raw__told_once_after_records_of_twice_its_length(void **state)
{
	open_mode(KVCI_CODED_RAW, false);
	for (uint32_t i = 0; i < REGIONS; i++)
		assert_int_equal(add(i), KVC_OK);
	write_from(1, REGION_BYTES);
	assert_int_equal(told[1], 0); /* its pages may still be on their way */
	write_from(1, 3 * REGION_BYTES);
	for (uint32_t i = 0; i < REGIONS; i++) {
		assert_int_equal(told[i], i == 1);
		take(i);
		assert_int_equal(ended[i], told[i]);
	}
	rig_close(&store->rig);
}

static void test_regions__auto_and_refused__asked_again_as_late(void **state)
{
	open_mode(KVCI_CODED_AUTO, false);
	assert_int_equal(add(0), KVC_OK);
	rates(1e8, 1e12);
	refuses = true;
	write_from(0, 3 * REGION_BYTES);
	refuses = false;
	write_from(0, REGION_BYTES / 2);
	assert_int_equal(told[0], 0);
	write_from(0, 2 * REGION_BYTES);
	assert_int_equal(told[0], 1);
	take(0);
	assert_int_equal(ended[0], 1);
	rig_close(&store->rig);
}

static int memory_setup(void **state)
{
	memory = rig_buffer((size_t)REGIONS * REGION_BYTES);
	return setup(state);
}

static int memory_teardown(void **state)
{
	kvci_free(memory);
	return teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_regions__records_are_packed__not_told, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_regions__wanted_always__told_and_ended, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_regions__auto__told_once_after_raw_records_of_twice_its_length, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_regions__raw__told_once_after_records_of_twice_its_length, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(test_regions__auto_and_refused__asked_again_as_late, memory_setup, memory_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
