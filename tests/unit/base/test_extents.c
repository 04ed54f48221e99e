/* SPDX-License-Identifier: Apache-2.0
 * The offset allocator against a naive model (one byte a unit), by random operations, and with failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/extents.h"
#include "tests/support/random.h"

#define UNIT UINT64_C(4096)

/* ---- the model: taken[unit] ---- */

enum { MODEL_UNITS = 4096 };

struct model {
	uint8_t taken[MODEL_UNITS];
};

static uint32_t model_free_units(const struct model *model)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < MODEL_UNITS; i++)
		count += !model->taken[i];
	return count;
}

static uint32_t model_largest_run(const struct model *model)
{
	uint32_t largest = 0, run = 0;
	for (uint32_t i = 0; i < MODEL_UNITS; i++) {
		run = model->taken[i] ? 0 : run + 1;
		largest = run > largest ? run : largest;
	}
	return largest;
}

static void model_set(struct model *model, uint64_t offset_bytes, uint64_t bytes, uint8_t value)
{
	assert_int_equal(offset_bytes % UNIT, 0);
	uint64_t first = offset_bytes / UNIT, count = (bytes + UNIT - 1) / UNIT;
	assert_true(first + count <= MODEL_UNITS);
	for (uint64_t i = first; i < first + count; i++) {
		assert_int_equal(model->taken[i], !value); /* never given twice, never freed twice */
		model->taken[i] = value;
	}
}

struct held {
	uint64_t offset_bytes, bytes;
	uint32_t node;
};

static uint64_t random_bytes(void)
{
	uint64_t limit = UINT64_C(1) << (random_next() % 22); /* 1 B to 2 MiB, each power of two as likely */
	return 1 + random_next() % (limit + UNIT * (random_next() % 3));
}

static void compare(const struct kvci_extents *extents, const struct model *model, uint32_t held_count)
{
	const char *broken = kvci_extents_check(extents);
	if (broken != NULL)
		fail_msg("%s", broken);
	assert_int_equal(kvci_extents_free_bytes(extents), model_free_units(model) * UNIT);
	assert_int_equal(kvci_extents_largest_free_bytes(extents), model_largest_run(model) * UNIT);
	assert_int_equal(kvci_extents_used_count(extents), held_count);
}

static void test_extents__random_operations__as_the_model(void **state)
{
	static struct held held[MODEL_UNITS];
	static struct model model;
	struct kvci_extents *extents;
	uint32_t held_count = 0, refused = 0;

	memset(&model, 0, sizeof(model));
	assert_int_equal(kvci_extents_create(MODEL_UNITS * UNIT, UNIT, &extents), KVC_OK);
	assert_int_equal(kvci_extents_length_bytes(extents), MODEL_UNITS * UNIT);
	for (unsigned step = 0; step < 60000; step++) {
		/* Phases that mostly fill and phases that mostly empty. */
		unsigned fill_of_8 = (step / 3000) % 2 == 0 ? 6 : 3;
		if (random_next() % 8 < fill_of_8) {
			struct held h = { .bytes = random_bytes() };
			kvc_status_t status = kvci_extents_alloc(extents, h.bytes, &h.offset_bytes, &h.node);
			if (status == KVC_OK) {
				model_set(&model, h.offset_bytes, h.bytes, 1);
				held[held_count++] = h;
			} else {
				assert_int_equal(status, KVC_NO_SPACE);
				assert_true(model_largest_run(&model) * UNIT < h.bytes);
				refused++;
			}
		} else if (held_count > 0) {
			uint32_t i = (uint32_t)(random_next() % held_count);
			model_set(&model, held[i].offset_bytes, held[i].bytes, 0);
			kvci_extents_free(extents, held[i].node);
			held[i] = held[--held_count];
		}
		if (step % 64 == 0)
			compare(extents, &model, held_count);
	}
	assert_true(refused > 1000); /* the full slab was really visited */
	while (held_count > 0)
		kvci_extents_free(extents, held[--held_count].node);
	assert_null(kvci_extents_check(extents));
	assert_int_equal(kvci_extents_largest_free_bytes(extents), MODEL_UNITS * UNIT);
	kvci_extents_destroy(extents);
}

static void test_extents__equal_sizes__fill_to_the_last_unit(void **state)
{
	struct kvci_extents *extents;
	uint32_t nodes[32];
	uint64_t offset;

	assert_int_equal(kvci_extents_create(UINT64_C(1) << 30, UNIT, &extents), KVC_OK);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(kvci_extents_alloc(extents, UINT64_C(32) << 20, &offset, &nodes[i]), KVC_OK);
	assert_int_equal(kvci_extents_free_bytes(extents), 0);
	assert_int_equal(kvci_extents_largest_free_bytes(extents), 0);
	assert_int_equal(kvci_extents_alloc(extents, 1, &offset, &nodes[0]), KVC_NO_SPACE);
	for (unsigned i = 0; i < 32; i += 2)
		kvci_extents_free(extents, nodes[i]);
	assert_int_equal(kvci_extents_largest_free_bytes(extents), UINT64_C(32) << 20);
	for (unsigned i = 1; i < 32; i += 2)
		kvci_extents_free(extents, nodes[i]);
	assert_int_equal(kvci_extents_largest_free_bytes(extents), UINT64_C(1) << 30);
	kvci_extents_destroy(extents);
}

/* Holes of one, two and three units have no list, but bitmaps: over all their levels. */
static void test_extents__many_tiny_holes__all_found_again(void **state)
{
	enum { UNITS = 300001 };
	struct kvci_extents *extents;
	static uint32_t nodes[UNITS];
	uint64_t offset;
	uint32_t node;

	assert_int_equal(kvci_extents_create(UNITS * UNIT, UNIT, &extents), KVC_OK);
	for (uint32_t i = 0; i < UNITS; i++)
		assert_int_equal(kvci_extents_alloc(extents, UNIT, &offset, &nodes[i]), KVC_OK);
	assert_int_equal(kvci_extents_alloc(extents, UNIT, &offset, &node), KVC_NO_SPACE);
	/* Holes of 1, 2, 3 units, a used one behind each. */
	uint32_t holes[4] = { 0 };
	for (uint32_t i = 0, hole = 1; i + hole < UNITS; i += hole + 1, hole = hole % 3 + 1) {
		for (uint32_t j = 0; j < hole; j++)
			kvci_extents_free(extents, nodes[i + j]);
		holes[hole]++;
	}
	assert_null(kvci_extents_check(extents));
	assert_int_equal(kvci_extents_largest_free_bytes(extents), 3 * UNIT);
	assert_int_equal(kvci_extents_alloc(extents, 4 * UNIT, &offset, &node), KVC_NO_SPACE);
	for (uint32_t units = 3; units > 0; units--)
		for (uint32_t i = 0; i < holes[units]; i++)
			assert_int_equal(kvci_extents_alloc(extents, units * UNIT, &offset, &node), KVC_OK);
	assert_null(kvci_extents_check(extents));
	assert_int_equal(kvci_extents_free_bytes(extents), 0);
	kvci_extents_destroy(extents);
}

static void test_extents__odd_arguments__refused(void **state)
{
	struct kvci_extents *extents = NULL;
	uint64_t offset = 7;
	uint32_t node = 7;

	assert_int_equal(kvci_extents_create(0, UNIT, &extents), KVC_INVALID);
	assert_int_equal(kvci_extents_create(UNIT, 0, &extents), KVC_INVALID);
	assert_int_equal(kvci_extents_create(UNIT + 1, UNIT, &extents), KVC_INVALID);
	assert_int_equal(kvci_extents_create(UINT64_C(1) << 62, UNIT, &extents), KVC_TOO_BIG);
	assert_null(extents);
	kvci_extents_destroy(NULL);

	assert_int_equal(kvci_extents_create(UNIT, UNIT, &extents), KVC_OK);
	assert_int_equal(kvci_extents_alloc(extents, 0, &offset, &node), KVC_INVALID);
	assert_int_equal(kvci_extents_alloc(extents, UNIT + 1, &offset, &node), KVC_NO_SPACE);
	assert_int_equal(kvci_extents_alloc(extents, UINT64_MAX, &offset, &node), KVC_NO_SPACE);
	assert_int_equal(offset, 7); /* outputs only on success */
	assert_int_equal(node, 7);
	assert_int_equal(kvci_extents_alloc(extents, UNIT, &offset, &node), KVC_OK);
	assert_int_equal(offset, 0);
	kvci_extents_free(extents, node);
	kvci_extents_destroy(extents);
}

static int allow_countdown(void *context, size_t bytes)
{
	unsigned *left = context;
	if (*left == 0)
		return 0;
	(*left)--;
	return 1;
}

/* Fill a slab unit by unit with n allocations allowed, for every n: NO_MEMORY from create, and never after it. */
static void test_extents__nth_allocation_fails__no_memory_and_whole(void **state)
{
	kvc_status_t status = KVC_NO_MEMORY;

	for (unsigned n = 0; status != KVC_OK; n++) {
		struct kvci_extents *extents = NULL;
		unsigned left = n;
		uint64_t offset;
		uint32_t node;
		assert_true(n < 100);
		kvci_alloc_set_hook(allow_countdown, &left);
		status = kvci_extents_create(2048 * UNIT, UNIT, &extents);
		for (unsigned i = 0; i < 2048 && extents != NULL; i++)
			assert_int_equal(kvci_extents_alloc(extents, UNIT, &offset, &node), KVC_OK);
		kvci_alloc_set_hook(NULL, NULL);
		assert_true(status == KVC_OK || status == KVC_NO_MEMORY);
		if (extents != NULL)
			assert_null(kvci_extents_check(extents));
		kvci_extents_destroy(extents);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extents__odd_arguments__refused),
		cmocka_unit_test(test_extents__equal_sizes__fill_to_the_last_unit),
		cmocka_unit_test(test_extents__many_tiny_holes__all_found_again),
		cmocka_unit_test(test_extents__random_operations__as_the_model),
		cmocka_unit_test(test_extents__nth_allocation_fails__no_memory_and_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
