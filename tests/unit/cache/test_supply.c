/* SPDX-License-Identifier: Apache-2.0
 * Memory made ahead: by a worker that is in time, late, absent, immediate or without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cache/supply.h"

enum { PIECE = 64 << 10, REGION_PIECES = KVCI_SUPPLY_REGION_BYTES / PIECE, HEAP_PIECES = KVCI_SUPPLY_FROM_BYTES / PIECE };

struct rig {
	struct kvci_supply supply;
	struct kvci_supply_cut cut;
	struct kvci_job *job; /* waiting */
	unsigned asked;
	bool at_once; /* run it inside run_job */
};

static void rig_work(struct rig *rig)
{
	struct kvci_job *job = rig->job;

	rig->job = NULL;
	assert_non_null(job);
	job->run(job);
	job->done(job);
}

static void rig_run_job(void *context, struct kvci_job *job)
{
	struct rig *rig = context;

	assert_null(rig->job); /* one at a time */
	rig->job = job;
	rig->asked++;
	if (rig->at_once)
		rig_work(rig);
}

static uint8_t *rig_take(struct rig *rig)
{
	uint8_t *piece = kvci_supply_take(&rig->supply, &rig->cut, PIECE);

	assert_non_null(piece);
	memset(piece, 0xa5, PIECE);
	return piece;
}

static struct rig rig_make(void)
{
	return (struct rig){ .supply = { .run_job = rig_run_job } };
}

static void test_supply__worker_in_time__regions_after_a_few_pieces(void **state)
{
	uint64_t live = kvci_alloc_live_bytes();
	struct rig rig = rig_make();

	rig.supply.context = &rig;
	for (unsigned i = 0; i < HEAP_PIECES; i++) {
		assert_int_equal(rig.asked, 0); /* an index that stays small never asks */
		rig_take(&rig);
	}
	for (unsigned region = 1; region <= 3; region++) {
		assert_int_equal(rig.asked, region);
		rig_work(&rig);
		uint8_t *first = rig_take(&rig);
		assert_int_equal((uintptr_t)first % KVCI_SUPPLY_REGION_BYTES, 0);
		for (unsigned i = 1; i < REGION_PIECES; i++)
			assert_ptr_equal(rig_take(&rig), first + (size_t)i * PIECE);
	}
	assert_int_equal(rig.supply.bytes, KVCI_SUPPLY_FROM_BYTES + 3 * KVCI_SUPPLY_REGION_BYTES);
	rig_work(&rig); /* a spare that nothing is cut from */
	kvci_supply_fini(&rig.supply);
	assert_int_equal(kvci_alloc_live_bytes(), live);
}

static void test_supply__worker_late__pieces_from_the_heap_meanwhile(void **state)
{
	uint64_t live = kvci_alloc_live_bytes();
	struct rig rig = rig_make();

	rig.supply.context = &rig;
	for (unsigned i = 0; i < HEAP_PIECES + 100; i++)
		rig_take(&rig);
	assert_int_equal(rig.asked, 1);
	assert_int_equal(rig.supply.bytes, (HEAP_PIECES + 100) * (uint64_t)PIECE);
	rig_work(&rig);
	assert_int_equal((uintptr_t)rig_take(&rig) % KVCI_SUPPLY_REGION_BYTES, 0);
	assert_int_equal(rig.asked, 2); /* the next one, at once */
	rig_work(&rig);
	kvci_supply_fini(&rig.supply);
	assert_int_equal(kvci_alloc_live_bytes(), live);
}

static void test_supply__job_ends_inside_the_call__next_piece_is_of_its_region(void **state)
{
	uint64_t live = kvci_alloc_live_bytes();
	struct rig rig = rig_make();

	rig.supply.context = &rig;
	rig.at_once = true;
	for (unsigned i = 0; i < HEAP_PIECES; i++)
		rig_take(&rig);
	assert_int_equal((uintptr_t)rig_take(&rig) % KVCI_SUPPLY_REGION_BYTES, 0);
	kvci_supply_fini(&rig.supply);
	assert_int_equal(kvci_alloc_live_bytes(), live);
}

/* Pieces of another size come from a region of their own; what is larger than a region, from the heap. */
static void test_supply__two_sizes__each_has_its_region(void **state)
{
	uint64_t live = kvci_alloc_live_bytes();
	struct kvci_supply_cut other = { 0 }, large = { 0 };
	struct rig rig = rig_make();

	rig.supply.context = &rig;
	rig.at_once = true;
	for (unsigned i = 0; i < HEAP_PIECES; i++)
		rig_take(&rig);
	uint8_t *first = rig_take(&rig);
	uint8_t *small = kvci_supply_take(&rig.supply, &other, 20544);
	assert_int_equal((uintptr_t)small % KVCI_SUPPLY_REGION_BYTES, 0);
	assert_ptr_not_equal(small, first);
	assert_ptr_equal(kvci_supply_take(&rig.supply, &other, 20544), small + 20544);
	assert_ptr_equal(rig_take(&rig), first + PIECE);
	uint64_t bytes = rig.supply.bytes;
	assert_non_null(kvci_supply_take(&rig.supply, &large, 2 * KVCI_SUPPLY_REGION_BYTES));
	assert_int_equal(rig.supply.bytes, bytes + 2 * KVCI_SUPPLY_REGION_BYTES);
	kvci_supply_fini(&rig.supply);
	assert_int_equal(kvci_alloc_live_bytes(), live);
}

static int allow_none(void *context, size_t bytes)
{
	return 0;
}

static void test_supply__no_memory__null_and_asked_for_again(void **state)
{
	uint64_t live = kvci_alloc_live_bytes();
	struct rig rig = rig_make();

	rig.supply.context = &rig;
	for (unsigned i = 0; i < HEAP_PIECES; i++)
		rig_take(&rig);
	kvci_alloc_set_hook(allow_none, NULL);
	assert_null(kvci_supply_take(&rig.supply, &rig.cut, PIECE));
	rig_work(&rig); /* finds none either */
	assert_null(kvci_supply_take(&rig.supply, &rig.cut, PIECE));
	kvci_alloc_set_hook(NULL, NULL);
	assert_int_equal(rig.asked, 1);
	rig_take(&rig);
	assert_int_equal(rig.asked, 2);
	rig_work(&rig);
	assert_int_equal((uintptr_t)rig_take(&rig) % KVCI_SUPPLY_REGION_BYTES, 0);
	rig_work(&rig);
	kvci_supply_fini(&rig.supply);
	assert_int_equal(kvci_alloc_live_bytes(), live);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_supply__worker_in_time__regions_after_a_few_pieces),
		cmocka_unit_test(test_supply__worker_late__pieces_from_the_heap_meanwhile),
		cmocka_unit_test(test_supply__job_ends_inside_the_call__next_piece_is_of_its_region),
		cmocka_unit_test(test_supply__two_sizes__each_has_its_region),
		cmocka_unit_test(test_supply__no_memory__null_and_asked_for_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
