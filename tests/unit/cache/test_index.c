/* SPDX-License-Identifier: Apache-2.0
 * The index against a naive model by random operations, with probe chains made on purpose, and with failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cache/index.h"
#include "tests/support/random.h"

static const struct kvci_key_seed test_seed = { { 0x1234567890abcdef, 0xfedcba0987654321, 0x0f1e2d3c4b5a6978, 77 } };

/* The caller's block: key first, then what the test put in. */
struct block {
	struct kvci_index_key key;
	uint32_t tag;
	uint8_t rest[24];
};

static void key_hash(uint32_t key, uint8_t hash[32])
{
	memset(hash, 0, 32);
	memcpy(hash, &key, sizeof(key)); /* nothing random about it: the index must do its own mixing */
}

static void whole(const struct kvci_index *index)
{
	const char *broken = kvci_index_check(index);
	if (broken != NULL)
		fail_msg("%s", broken);
}

enum { MODEL_KEYS = 40000 };

struct model {
	uint32_t number[MODEL_KEYS]; /* KVCI_INDEX_NONE: absent */
	uint32_t count;
};

/* Key k is hash(k / 2) under binding k % 2: equal hashes under different bindings are different keys. */
static uint32_t model_binding(uint32_t key)
{
	return key % 2;
}

static void model_hash(uint32_t key, uint8_t hash[32])
{
	key_hash(key / 2, hash);
}

static void model_toggle(struct kvci_index *index, struct model *model, uint32_t key)
{
	uint8_t hash[32];

	model_hash(key, hash);
	if (model->number[key] == KVCI_INDEX_NONE) {
		assert_int_equal(kvci_index_find(index, model_binding(key), hash), KVCI_INDEX_NONE);
		assert_int_equal(kvci_index_add(index, model_binding(key), hash, &model->number[key]), KVC_OK);
		struct block *block = kvci_index_block(index, model->number[key]);
		assert_int_equal(block->tag, 0); /* zeroed, also when the number was used before */
		block->tag = key + 1;
		model->count++;
	} else {
		uint32_t number = model->number[key];
		const struct block *block = kvci_index_block_used(index, number);
		assert_non_null(block);
		assert_int_equal(block->tag, key + 1);
		kvci_index_free(index, number);
		assert_null(kvci_index_block_used(index, number));
		model->number[key] = KVCI_INDEX_NONE;
		model->count--;
	}
}

static void model_compare(const struct kvci_index *index, const struct model *model, uint32_t binding)
{
	static uint8_t hashes[MODEL_KEYS / 2][32];
	static uint32_t numbers[MODEL_KEYS / 2];

	for (uint32_t i = 0; i < MODEL_KEYS / 2; i++)
		key_hash(i, hashes[i]);
	kvci_index_find_many(index, binding, hashes, MODEL_KEYS / 2, numbers);
	for (uint32_t i = 0; i < MODEL_KEYS / 2; i++)
		assert_int_equal(numbers[i], model->number[2 * i + binding]);
	assert_int_equal(kvci_index_linked(index), model->count);
	assert_int_equal(kvci_index_used(index), model->count);
}

static void test_index__random_operations__as_the_model(void **state)
{
	static struct model model;
	struct kvci_index *index;

	memset(model.number, 0xff, sizeof(model.number));
	model.count = 0;
	assert_int_equal(kvci_index_create(sizeof(struct block), 0, &test_seed, &index), KVC_OK);
	for (unsigned phase = 0; phase < 8; phase++) {
		/* Grow over several splits, shrink to almost nothing, and so on: few or many keys in play. */
		uint32_t keys = phase % 2 == 0 ? MODEL_KEYS : MODEL_KEYS / 8;
		for (unsigned step = 0; step < 60000; step++)
			model_toggle(index, &model, (uint32_t)(random_next() % keys));
		if (phase % 4 == 3)
			for (uint32_t key = 0; key < MODEL_KEYS; key++)
				if (model.number[key] != KVCI_INDEX_NONE && key % 97 != 0)
					model_toggle(index, &model, key);
		whole(index);
		model_compare(index, &model, 0);
		model_compare(index, &model, 1);
	}
	kvci_index_destroy(index);
}

/* Somebody who knew the secret could put all keys into one home group: still right, and no trace of them after removal. */
static void test_index__keys_of_one_home_group__found_and_removed_in_any_order(void **state)
{
	enum { CHAIN = 600 };
	static uint8_t hashes[CHAIN][32];
	uint32_t numbers[CHAIN], found[CHAIN], order[CHAIN];
	struct kvci_index *index;
	uint32_t made = 0;

	for (uint32_t key = 0; made < CHAIN; key++) {
		key_hash(key, hashes[made]);
		/* The last home groups of a segment, so that the chain also runs around its end. */
		if (kvci_key_mix(&test_seed, 9, hashes[made]) >> 48 >= 0xff00)
			made++;
	}
	assert_int_equal(kvci_index_create(sizeof(struct block), 0, &test_seed, &index), KVC_OK);
	for (unsigned round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < CHAIN; i++) {
			assert_int_equal(kvci_index_add(index, 9, hashes[i], &numbers[i]), KVC_OK);
			order[i] = i;
		}
		whole(index);
		for (uint32_t left = CHAIN; left > 0; left--) {
			uint32_t pick = (uint32_t)(random_next() % left);
			kvci_index_free(index, numbers[order[pick]]);
			numbers[order[pick]] = KVCI_INDEX_NONE;
			order[pick] = order[left - 1];
			if (left % 50 == 0) {
				whole(index);
				kvci_index_find_many(index, 9, hashes, CHAIN, found);
				assert_memory_equal(found, numbers, sizeof(found));
			}
		}
		assert_int_equal(kvci_index_linked(index), 0);
	}
	kvci_index_destroy(index);
}

static void test_index__unlinked_block__not_found_and_still_there(void **state)
{
	struct kvci_index *index;
	uint8_t hash[32];
	uint32_t held, again;

	key_hash(1, hash);
	assert_int_equal(kvci_index_create(sizeof(struct block), 2, NULL, &index), KVC_OK);
	assert_int_equal(kvci_index_add(index, 3, hash, &held), KVC_OK);
	((struct block *)kvci_index_block(index, held))->tag = 5;
	assert_true(kvci_index_unlink(index, held));
	assert_false(kvci_index_unlink(index, held));
	assert_int_equal(kvci_index_find(index, 3, hash), KVCI_INDEX_NONE);
	assert_int_equal(kvci_index_linked(index), 0);
	assert_int_equal(kvci_index_used(index), 1);
	/* The key is free for a new block while the old one is held; unlinking the old one again leaves the new one alone. */
	assert_int_equal(kvci_index_add(index, 3, hash, &again), KVC_OK);
	assert_false(kvci_index_unlink(index, held));
	assert_int_equal(kvci_index_find(index, 3, hash), again);
	assert_int_equal(((struct block *)kvci_index_block(index, held))->tag, 5);
	whole(index);
	kvci_index_free(index, held);
	assert_int_equal(kvci_index_find(index, 3, hash), again);
	whole(index);
	kvci_index_destroy(index);
}

static void test_index__limits_and_odd_arguments__refused(void **state)
{
	struct kvci_index *index = NULL;
	uint8_t hash[32];
	uint32_t number = 7, first;

	key_hash(1, hash);
	assert_int_equal(kvci_index_create(8, 0, NULL, &index), KVC_INVALID);
	assert_int_equal(kvci_index_create(sizeof(struct block) + 1, 0, NULL, &index), KVC_INVALID);
	assert_null(index);
	kvci_index_destroy(NULL);
	assert_int_equal(kvci_index_create(sizeof(struct block), 2, NULL, &index), KVC_OK);
	kvci_index_find_many(index, 0, (const uint8_t(*)[32])hash, 0, &number);
	assert_int_equal(kvci_index_add(index, KVCI_INDEX_NONE, hash, &number), KVC_INVALID);
	assert_int_equal(number, 7);
	assert_int_equal(kvci_index_add(index, 0, hash, &first), KVC_OK);
	assert_int_equal(kvci_index_add(index, 1, hash, &number), KVC_OK);
	assert_int_equal(kvci_index_add(index, 2, hash, &number), KVC_NO_SPACE);
	assert_int_equal(kvci_index_find(index, 2, hash), KVCI_INDEX_NONE);
	kvci_index_free(index, first);
	assert_int_equal(kvci_index_add(index, 2, hash, &number), KVC_OK);
	assert_null(kvci_index_block_used(index, kvci_index_high(index)));
	whole(index);
	kvci_index_destroy(index);
}

static int allow_countdown(void *context, size_t bytes)
{
	unsigned *left = context;
	if (*left == 0)
		return 0;
	(*left)--;
	return 1;
}

static void job_at_once(void *context, struct kvci_job *job)
{
	job->run(job);
	job->done(job);
}

static void test_index__nth_allocation_fails__no_memory_and_whole(void **state)
{
	enum { KEYS = 12000 }; /* over the first splits, two dozen chunks, and into a region made ahead */
	kvc_status_t status = KVC_NO_MEMORY;
	uint8_t hash[32];

	for (unsigned n = 0; status != KVC_OK; n++) {
		struct kvci_index *index = NULL;
		unsigned left = n;
		uint32_t number, added = 0;
		assert_true(n < 100);
		kvci_alloc_set_hook(allow_countdown, &left);
		status = kvci_index_create(sizeof(struct block), 0, &test_seed, &index);
		if (index != NULL)
			kvci_index_set_worker(index, job_at_once, NULL);
		for (; added < KEYS && status == KVC_OK; added += status == KVC_OK) {
			key_hash(added, hash);
			status = kvci_index_add(index, 0, hash, &number);
		}
		kvci_alloc_set_hook(NULL, NULL);
		assert_true(status == KVC_OK || status == KVC_NO_MEMORY);
		if (index != NULL) {
			whole(index);
			assert_int_equal(kvci_index_linked(index), added);
			if (status == KVC_NO_MEMORY) /* with memory again, it goes on */
				assert_int_equal(kvci_index_add(index, 0, hash, &number), KVC_OK);
		}
		kvci_index_destroy(index);
	}
}

/* 9 to 18 bytes of slots a key (fewer keys: one segment and the scratch). */
static void test_index__memory_of_a_million_keys__within_the_promise(void **state)
{
	enum { KEYS = 1000000 };
	struct kvci_index *index;
	uint8_t hash[32];
	uint32_t number;

	assert_int_equal(kvci_index_create(sizeof(struct block), 0, &test_seed, &index), KVC_OK);
	for (uint32_t key = 0; key < KEYS; key++) {
		key_hash(key, hash);
		assert_int_equal(kvci_index_add(index, 0, hash, &number), KVC_OK);
		uint64_t slots = kvci_index_memory_bytes(index) - ((uint64_t)key / 512 + 1) * 512 * sizeof(struct block);
		if (key >= 20000)
			assert_true(slots <= (uint64_t)(key + 1) * 21);
		if (key + 1 == KEYS)
			assert_true(slots <= (uint64_t)KEYS * 16);
	}
	kvci_index_destroy(index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_index__limits_and_odd_arguments__refused),
		cmocka_unit_test(test_index__unlinked_block__not_found_and_still_there),
		cmocka_unit_test(test_index__keys_of_one_home_group__found_and_removed_in_any_order),
		cmocka_unit_test(test_index__random_operations__as_the_model),
		cmocka_unit_test(test_index__nth_allocation_fails__no_memory_and_whole),
		cmocka_unit_test(test_index__memory_of_a_million_keys__within_the_promise),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
