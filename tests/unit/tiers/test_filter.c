/* SPDX-License-Identifier: Apache-2.0
 *
 * The fault and delay filters over a real disk tier: what each rule does, and that lifting it ends it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/filter/filter.h"
#include "tiers/filter/spec.h"

static struct disk_store *store;

static int setup(void **state)
{
	struct kvc_tier *disk, *filtered;
	char *error = NULL;

	store = kvci_alloc_zero(1, sizeof(*store));
	disk_store_init(store, "filter", "32MiB", "4MiB");
	assert_int_equal(disk_store_try(store, &disk, &error), KVC_OK);
	assert_int_equal(kvci_filter_wrap(disk, "", &filtered, &error), KVC_OK);
	rig_open(&store->rig, filtered, true);
	return 0;
}

static int teardown(void **state)
{
	disk_store_fini(store);
	kvci_free(store);
	return 0;
}

static void set(const char *text)
{
	char *error = NULL;

	if (kvci_filter_set(store->rig.tier, text, &error) != KVC_OK)
		fail_msg("%s", error);
	assert_string_equal(kvci_filter_get(store->rig.tier), text);
}

static kvc_status_t load(uint64_t seed, const struct kvc_tier_entry *entry)
{
	return rig_load(&store->rig, seed, entry);
}

static void test_fault__fail_every_third__exactly_those(void **state)
{
	struct kvc_tier_entry entry;
	struct kvc_tier_stats stats;

	assert_int_equal(rig_store(&store->rig, 1, 5, &entry), KVC_OK);
	set("read:fail=io,every=3");
	for (int i = 1; i <= 12; i++)
		assert_int_equal(load(1, &entry), i % 3 == 0 ? KVC_IO : KVC_OK);
	kvci_tier_stats(store->rig.tier, &stats);
	assert_int_equal(stats.read_errors, 4);
	set("");
	assert_int_equal(load(1, &entry), KVC_OK);
}

static void test_fault__after_and_count__that_window_only(void **state)
{
	struct kvc_tier_entry entry;

	assert_int_equal(rig_store(&store->rig, 1, 5, &entry), KVC_OK);
	set("read:fail=corrupt,after=2,count=3");
	for (int i = 1; i <= 10; i++)
		assert_int_equal(load(1, &entry), i > 2 && i <= 5 ? KVC_CORRUPT : KVC_OK);
}

static void test_fault__writes_full__said_and_nothing_written(void **state)
{
	struct kvc_tier_entry entry;
	struct kvc_tier_stats before, after;

	kvci_tier_stats(store->rig.tier, &before);
	set("write:full");
	assert_int_equal(rig_store(&store->rig, 1, 5, &entry), KVC_DISK_FULL);
	kvci_tier_stats(store->rig.tier, &after);
	assert_int_equal(after.write_errors - before.write_errors, 1);
	assert_int_equal(after.used_bytes, before.used_bytes);
	set("flush:fail");
	assert_int_equal(rig_store(&store->rig, 1, 5, &entry), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_IO);
}

static void test_fault__torn_write__says_ok_and_reads_as_damage(void **state)
{
	struct kvc_tier_entry entry;

	for (uint64_t seed = 0; seed < 40; seed++) {
		set("write:torn,count=1");
		assert_int_equal(rig_store(&store->rig, seed, (uint32_t)(seed % 20) + 1, &entry), KVC_OK);
		assert_int_equal(load(seed, &entry), KVC_CORRUPT);
	}
}

static void test_fault__flipped_write__reads_as_damage(void **state)
{
	struct kvc_tier_entry entry;
	char text[64];

	for (unsigned seed = 0; seed < 40; seed++) {
		snprintf(text, sizeof(text), "write:flip,count=1;seed=%u", seed);
		set(text);
		assert_int_equal(rig_store(&store->rig, seed, seed % 20 + 1, &entry), KVC_OK);
		assert_int_equal(load(seed, &entry), KVC_CORRUPT);
	}
}

static void test_fault__flipped_read__ok_with_one_bit_wrong_and_the_same_one_again(void **state)
{
	struct kvc_tier_entry entry;
	uint8_t *first = rig_buffer(8 * 4096), *second = rig_buffer(8 * 4096), *right = rig_buffer(8 * 4096);
	unsigned wrong = 0;

	assert_int_equal(rig_store(&store->rig, 3, 8, &entry), KVC_OK);
	assert_int_equal(rig_read(&store->rig, right, &entry, 0), KVC_OK);
	set("read:flip;seed=5");
	assert_int_equal(rig_read(&store->rig, first, &entry, 0), KVC_OK);
	set("read:flip;seed=5");
	assert_int_equal(rig_read(&store->rig, second, &entry, 0), KVC_OK);
	assert_memory_equal(first, second, 8 * 4096);
	for (size_t i = 0; i < 8 * 4096; i++)
		wrong += (unsigned)__builtin_popcount(first[i] ^ right[i]);
	assert_int_equal(wrong, 1);
	kvci_free(first);
	kvci_free(second);
	kvci_free(right);
}

static void test_fault__drop_fails__said(void **state)
{
	struct kvc_tier_entry entry;

	assert_int_equal(rig_store(&store->rig, 3, 8, &entry), KVC_OK);
	set("drop:fail");
	assert_int_equal(kvci_tier_drop(store->rig.tier, &entry), KVC_IO);
	assert_int_equal(load(3, &entry), KVC_OK);
}

struct waited {
	struct kvc_tier_request request;
	kvc_status_t status;
	bool done;
};

static void waited_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct waited *waited = request->context;

	assert_false(waited->done);
	waited->status = status;
	waited->done = true;
}

static void submit_read(struct waited *waited, const struct kvc_tier_entry *entry, void *buffer)
{
	*waited = (struct waited){.request = {.op = KVC_TIER_READ, .entry = *entry, .buffer = buffer, .done = waited_done}};
	waited->request.context = waited;
	assert_int_equal(kvci_tier_submit(store->rig.tier, &waited->request), KVC_OK);
}

static void test_delay__hung_read__goes_on_when_lifted(void **state)
{
	struct kvc_tier_entry entry;
	struct waited waited;
	void *buffer = rig_buffer(8 * 4096);

	assert_int_equal(rig_store(&store->rig, 3, 8, &entry), KVC_OK);
	set("read:hang");
	submit_read(&waited, &entry, buffer);
	for (int i = 0; i < 20; i++)
		rig_poll(&store->rig, 5);
	assert_false(waited.done);
	/* Writes and flushes do not wait behind it. */
	assert_int_equal(rig_store(&store->rig, 4, 8, &entry), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
	assert_false(waited.done);
	set("read:hang;write:delay=1ms"); /* still hangs */
	for (int i = 0; i < 10; i++)
		rig_poll(&store->rig, 2);
	assert_false(waited.done);
	set("");
	rig_wait(&store->rig, &waited.done);
	assert_int_equal(waited.status, KVC_OK);
	assert_true(rig_record_is(buffer, 3, 8));
	kvci_free(buffer);
}

static void test_delay__hung_at_close__canceled_once(void **state)
{
	struct kvc_tier_entry entry;
	struct waited waited[3];
	void *buffer = rig_buffer(8 * 4096);

	assert_int_equal(rig_store(&store->rig, 3, 8, &entry), KVC_OK);
	set("read:hang");
	for (int i = 0; i < 3; i++)
		submit_read(&waited[i], &entry, buffer);
	disk_store_close(store);
	for (int i = 0; i < 3; i++) {
		assert_true(waited[i].done);
		assert_int_equal(waited[i].status, KVC_CANCELED);
	}
	kvci_free(buffer);
}

static void test_delay__many_hang__the_queue_is_bounded(void **state)
{
	struct kvc_tier_entry entry;
	struct waited *waited = kvci_alloc_zero(1000, sizeof(*waited));
	void *buffer = rig_buffer(4096);
	size_t taken = 0;

	assert_int_equal(rig_store(&store->rig, 3, 1, &entry), KVC_OK);
	set("read:hang");
	for (; taken < 1000; taken++) {
		waited[taken] = (struct waited){.request = {.op = KVC_TIER_READ, .entry = entry, .buffer = buffer,
		                                            .done = waited_done, .context = &waited[taken]}};
		if (kvci_tier_submit(store->rig.tier, &waited[taken].request) == KVC_BUSY)
			break;
	}
	assert_in_range(taken, 1, 999);
	set("");
	for (size_t i = 0; i < taken; i++)
		rig_wait(&store->rig, &waited[i].done);
	kvci_free(waited);
	kvci_free(buffer);
}

static void test_delay__delayed_write__takes_so_long(void **state)
{
	struct kvc_tier_entry entry;
	uint64_t start_ns;

	set("write:delay=80ms");
	start_ns = kvci_clock_ns();
	assert_int_equal(rig_store(&store->rig, 2, 8, &entry), KVC_OK);
	assert_true(kvci_clock_ns() - start_ns >= 80 * KVCI_MS);
	assert_int_equal(load(2, &entry), KVC_OK);
}

static void test_delay__delayed_write__reads_pass_it_and_lifting_ends_it(void **state)
{
	struct kvc_tier_entry entry;
	struct waited waited = {.request = {.op = KVC_TIER_WRITE, .done = waited_done, .context = &waited}};
	void *buffer = rig_buffer(8 * 4096);

	assert_int_equal(rig_store(&store->rig, 1, 8, &entry), KVC_OK);
	rig_record(buffer, 2, 8, &waited.request.entry);
	waited.request.buffer = buffer;
	set("write:delay=10min");
	assert_int_equal(kvci_tier_submit(store->rig.tier, &waited.request), KVC_OK);
	assert_int_equal(load(1, &entry), KVC_OK);
	assert_false(waited.done);
	set("");
	rig_wait(&store->rig, &waited.done);
	assert_int_equal(waited.status, KVC_OK);
	assert_int_equal(load(2, &waited.request.entry), KVC_OK);
	kvci_free(buffer);
}

static void test_spec__wrong_texts__say_which_word(void **state)
{
	static const char *const wrong[] = {
		"read", "read:", "read:explode", "reed:fail", "read:fail=unknown", "read:delay", "read:delay=5", "read:delay=5parsecs",
		"read:delay=99999999999999999999s", "read:fail,every=0", "read:fail,often=3", "read:fail,percent=101", "read:torn",
		"seed=", "seed=x", "read:fail,count", "read:hang=3", ":fail", "read:delay=18446744073709551615min",
	};
	char long_text[3000];

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	for (size_t i = 0; i <= sizeof(wrong) / sizeof(wrong[0]); i++) {
		const char *text = i < sizeof(wrong) / sizeof(wrong[0]) ? wrong[i] : long_text;
		struct kvci_filter_spec spec;
		char *error = NULL;

		if (kvci_filter_spec_parse(text, &spec, &error) != KVC_CONFIG)
			fail_msg("'%s' was taken", text);
		assert_non_null(error);
		kvci_free(error);
		assert_int_equal(kvci_filter_set(store->rig.tier, text, NULL), KVC_CONFIG);
	}
	assert_string_equal(kvci_filter_get(store->rig.tier), "");
}

static void test_spec__rules__are_what_they_say(void **state)
{
	struct kvci_filter_spec spec;
	char *error = NULL;
	unsigned fired = 0;

	assert_int_equal(kvci_filter_spec_parse("any:delay=2s,percent=30; read:fail=full,every=2;seed=9", &spec, &error), KVC_OK);
	assert_int_equal(spec.rule_count, 2);
	assert_int_equal(spec.rules[0].delay_ns, 2 * KVCI_SECOND);
	assert_int_equal(spec.rules[1].status, KVC_DISK_FULL);
	assert_true(kvci_filter_spec_has(&spec, KVCI_FILTER_DROP, KVCI_FILTER_DELAY));
	assert_false(kvci_filter_spec_has(&spec, KVCI_FILTER_WRITE, KVCI_FILTER_FAIL));
	for (int i = 0; i < 1000; i++)
		fired += kvci_filter_spec_pick(&spec, KVCI_FILTER_WRITE, KVCI_FILTER_DELAY) != NULL;
	assert_in_range(fired, 240, 360);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spec__rules__are_what_they_say),
		CASE(test_spec__wrong_texts__say_which_word),
		CASE(test_fault__fail_every_third__exactly_those),
		CASE(test_fault__after_and_count__that_window_only),
		CASE(test_fault__writes_full__said_and_nothing_written),
		CASE(test_fault__torn_write__says_ok_and_reads_as_damage),
		CASE(test_fault__flipped_write__reads_as_damage),
		CASE(test_fault__flipped_read__ok_with_one_bit_wrong_and_the_same_one_again),
		CASE(test_fault__drop_fails__said),
		CASE(test_delay__hung_read__goes_on_when_lifted),
		CASE(test_delay__hung_at_close__canceled_once),
		CASE(test_delay__many_hang__the_queue_is_bounded),
		CASE(test_delay__delayed_write__takes_so_long),
		CASE(test_delay__delayed_write__reads_pass_it_and_lifting_ends_it),
	};

	return cmocka_run_group_tests_name("filters", tests, NULL, NULL);
}
