/* SPDX-License-Identifier: Apache-2.0
 * The world of kvcask loadgen: what finds wrong bytes must itself be right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/kvcask/loadgen.h"

static void world_make(struct loadgen_world *world, const char *dtype, uint64_t seed)
{
	const char *wrong;

	assert_int_equal(loadgen_world_init(world, "small", dtype, 300, 128, seed, &wrong), KVC_OK);
	assert_int_equal(loadgen_prompt(world, 0), KVC_OK);
}

static void test_wrong_bytes__computed__none_and_one_for_each_changed(void **state)
{
	struct loadgen_world world;

	world_make(&world, "bfloat16", 1);
	assert_int_equal(world.prompt_blocks, 4);
	loadgen_compute(&world, 0, world.prompt_blocks);
	for (uint32_t b = 0; b < world.prompt_blocks; b++)
		assert_int_equal(loadgen_wrong_bytes(&world, b), 0);
	world.pages[0] ^= 1;
	world.pages[world.pages_bytes - 1] ^= 0x80;
	uint64_t wrong = 0;
	for (uint32_t b = 0; b < world.prompt_blocks; b++)
		wrong += loadgen_wrong_bytes(&world, b);
	assert_int_equal(wrong, 2);
	loadgen_world_fini(&world);
}

static void test_wrong_bytes__forgotten_block__nearly_all_and_no_other(void **state)
{
	struct loadgen_world world;

	world_make(&world, "float32", 1);
	loadgen_compute(&world, 0, world.prompt_blocks);
	loadgen_forget(&world, 1, 1);
	assert_int_equal(loadgen_wrong_bytes(&world, 0), 0);
	assert_in_range(loadgen_wrong_bytes(&world, 1), world.sizes.block_bytes * 9 / 10, world.sizes.block_bytes);
	assert_int_equal(loadgen_wrong_bytes(&world, 2), 0);
	loadgen_world_fini(&world);
}

static void test_compute__another_blocks_bytes__are_wrong(void **state)
{
	struct loadgen_world a, b;

	world_make(&a, "bfloat16", 1);
	world_make(&b, "bfloat16", 2); /* other prompts */
	loadgen_compute(&a, 0, a.prompt_blocks);
	memcpy(b.pages, a.pages, a.pages_bytes);
	for (uint32_t i = 0; i < b.prompt_blocks; i++)
		assert_in_range(loadgen_wrong_bytes(&b, i), b.sizes.block_bytes / 2, b.sizes.block_bytes);
	loadgen_world_fini(&a);
	loadgen_world_fini(&b);
}

static void test_prompt__requests__share_their_beginning_with_every_other_one(void **state)
{
	struct loadgen_world world;
	uint8_t first[4][KVC_HASH_BYTES];

	world_make(&world, "bfloat16", 1);
	memcpy(first, world.hashes, sizeof(first));
	assert_int_equal(loadgen_prompt(&world, 2), KVC_OK);
	assert_memory_equal(world.hashes[0], first[0], KVC_HASH_BYTES);
	assert_memory_equal(world.hashes[1], first[1], KVC_HASH_BYTES);
	assert_memory_not_equal(world.hashes[2], first[2], KVC_HASH_BYTES); /* 128 tokens are 2 blocks */
	assert_memory_equal(world.store_blocks[2].parent_hash, first[1], KVC_HASH_BYTES);
	assert_int_equal(world.store_blocks[2].position_tokens, 128);
	assert_int_equal(loadgen_prompt(&world, 1), KVC_OK);
	assert_memory_not_equal(world.hashes[0], first[0], KVC_HASH_BYTES);
	assert_int_equal(loadgen_prompt(&world, 0), KVC_OK);
	assert_memory_equal(world.hashes, first, sizeof(first));
	loadgen_world_fini(&world);
}

static void test_pages__engine_blocks__each_once(void **state)
{
	struct loadgen_world world;
	uint32_t pages;
	uint8_t seen[64] = { 0 };

	world_make(&world, "bfloat16", 1);
	pages = world.prompt_blocks * world.sizes.pages_per_section;
	assert_in_range(pages, 2, sizeof(seen));
	for (uint32_t i = 0; i < pages; i++) {
		assert_in_range(world.engine_blocks[i], 0, pages - 1);
		assert_int_equal(seen[world.engine_blocks[i]]++, 0);
	}
	loadgen_world_fini(&world);
}

static void test_init__words_that_are_none__are_named(void **state)
{
	struct loadgen_world world;
	const char *wrong;

	assert_int_equal(loadgen_world_init(&world, "tiny", "bfloat16", 300, 0, 1, &wrong), KVC_INVALID);
	assert_string_equal(wrong, "tiny");
	assert_int_equal(loadgen_world_init(&world, "large", "int3", 300, 0, 1, &wrong), KVC_INVALID);
	assert_string_equal(wrong, "int3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong_bytes__computed__none_and_one_for_each_changed),
		cmocka_unit_test(test_wrong_bytes__forgotten_block__nearly_all_and_no_other),
		cmocka_unit_test(test_compute__another_blocks_bytes__are_wrong),
		cmocka_unit_test(test_prompt__requests__share_their_beginning_with_every_other_one),
		cmocka_unit_test(test_pages__engine_blocks__each_once),
		cmocka_unit_test(test_init__words_that_are_none__are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
