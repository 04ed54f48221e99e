/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes end in groups where many are under way: each completes, once, the last ones too, with nothing else going on that would wake the owner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/tiers/disk_rig.h"

enum { COUNT = 61, PAGES = 33, PAGE = 4096 };

struct writing {
	struct kvc_tier_request request;
	unsigned completions;
	kvc_status_t status;
};

static struct writing writings[COUNT];
static size_t left;
static bool all_over;

static void writing_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct writing *writing = request->context;

	writing->status = status;
	writing->completions++;
	all_over = --left == 0;
}

static void write_many(struct disk_store *store, size_t count)
{
	left = count;
	all_over = false;
	for (size_t i = 0; i < count; i++) {
		struct kvc_tier_request *request = &writings[i].request;
		void *buffer = rig_buffer((uint64_t)PAGES * PAGE);

		writings[i] = (struct writing){ .request = { .op = KVC_TIER_WRITE, .buffer = buffer, .done = writing_done, .context = &writings[i] } };
		rig_record(buffer, i, PAGES, &request->entry);
		while (kvci_tier_submit(store->rig.tier, request) == KVC_BUSY)
			rig_poll(&store->rig, 10);
	}
	rig_wait(&store->rig, &all_over);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(writings[i].completions, 1);
		assert_int_equal(writings[i].status, KVC_OK);
		assert_int_equal(rig_load(&store->rig, i, &writings[i].request.entry), KVC_OK);
		kvci_free(writings[i].request.buffer);
	}
}

static void many_at_once(const char *engine)
{
	static const size_t counts[] = { 1, 2, 8, 17, 31, COUNT };
	struct disk_store *store = kvci_alloc_zero(1, sizeof(*store));

	disk_store_init(store, "write", "64MiB", "16MiB");
	store->io = engine;
	disk_store_open(store);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		write_many(store, counts[i]);
	disk_store_close(store);
	disk_store_fini(store);
	kvci_free(store);
}

static void test_disk_write__many_at_once_threads__each_completes_once(void **state)
{
	many_at_once("threads");
}

static void test_disk_write__many_at_once__each_completes_once(void **state)
{
	many_at_once("auto");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_write__many_at_once_threads__each_completes_once),
		cmocka_unit_test(test_disk_write__many_at_once__each_completes_once),
	};

	(void)argc;
	(void)argv;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
