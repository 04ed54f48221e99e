/* SPDX-License-Identifier: Apache-2.0
 * Conformance of eviction policies: every policy of the table below passes unchanged. A new policy adds one line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/policy.h>

#include "base/alloc.h"
#include "tests/support/random.h"

static const struct kvc_policy_ops *const policies[] = {
	&kvc_policy_lru_ops,
};

enum { NODES = 300, NODE_ROOM = 32, GUARD = 0xa5 };

/* The brain's side: bytes of each node behind guards, and which nodes the policy has. */
struct bench {
	const struct kvc_policy_ops *ops;
	struct kvc_policy *policy;
	uint8_t node[NODES][NODE_ROOM];
	uint8_t in[NODES];
	uint32_t count;
	uint64_t now_ns;
	uint8_t *chunk[2]; /* for policies that find nodes without a call: 256 in the first, the rest in the second */
	uint8_t **chunks;
};

/* Every check runs twice: with the direct way to the nodes, and without. */
static int direct;

static void *bench_node(void *context, uint32_t node)
{
	struct bench *bench = context;

	assert_true(node < NODES);
	assert_true(bench->in[node]); /* its bytes are asked for only between insert and remove */
	return bench->node[node] + 8;
}

static void bench_begin(struct bench *bench, const struct kvc_policy_ops *ops)
{
	memset(bench, 0, sizeof(*bench));
	memset(bench->node, GUARD, sizeof(bench->node));
	bench->ops = ops;
	bench->now_ns = 1;
	bench->chunk[0] = bench->node[0];
	bench->chunk[1] = bench->node[256];
	bench->chunks = bench->chunk;
	const struct kvc_policy_env env = {
		.context = bench, .node = bench_node, .chunks = direct ? &bench->chunks : NULL,
		.chunk_shift = 8, .stride_bytes = NODE_ROOM, .offset_bytes = 8,
	};
	assert_int_equal(ops->create(&env, &bench->policy), KVC_OK);
	assert_ptr_equal(*(const struct kvc_policy_ops *const *)(const void *)bench->policy, ops);
}

static void bench_insert(struct bench *bench, uint32_t node)
{
	assert_false(bench->in[node]);
	memset(bench->node[node] + 8, 0, bench->ops->node_bytes);
	bench->in[node] = 1;
	bench->count++;
	bench->ops->insert(bench->policy, node, 4096, bench->now_ns++);
}

static void bench_remove(struct bench *bench, uint32_t node)
{
	assert_true(bench->in[node]);
	bench->ops->remove(bench->policy, node);
	bench->in[node] = 0;
	bench->count--;
}

/* The walk over victims meets every node once and no other; nobody wrote beside a node's bytes. */
static void bench_check(struct bench *bench)
{
	uint8_t seen[NODES] = { 0 };
	uint32_t count = 0;

	for (uint32_t node = KVC_POLICY_NO_NODE; (node = bench->ops->victim(bench->policy, node)) != KVC_POLICY_NO_NODE; count++) {
		assert_true(node < NODES && bench->in[node] && !seen[node]);
		seen[node] = 1;
	}
	assert_int_equal(count, bench->count);
	for (uint32_t node = 0; node < NODES; node++)
		for (uint32_t i = 0; i < NODE_ROOM; i++)
			if (i < 8 || i >= 8 + bench->ops->node_bytes)
				assert_int_equal(bench->node[node][i], GUARD);
}

static void bench_end(struct bench *bench)
{
	bench->ops->destroy(bench->policy);
}

static void check_table(const struct kvc_policy_ops *ops)
{
	assert_int_equal(ops->struct_bytes, sizeof(struct kvc_policy_ops));
	assert_int_equal(ops->abi_version, KVC_POLICY_ABI);
	assert_true(ops->name != NULL && ops->name[0] != '\0');
	assert_true(ops->node_bytes <= 16);
	assert_non_null(ops->create);
	assert_non_null(ops->destroy);
	assert_non_null(ops->insert);
	assert_non_null(ops->touch);
	assert_non_null(ops->remove);
	assert_non_null(ops->victim);
	assert_non_null(ops->touch_chain);
	ops->destroy(NULL);
}

static void check_empty_and_one(const struct kvc_policy_ops *ops)
{
	static struct bench bench;

	bench_begin(&bench, ops);
	assert_int_equal(ops->victim(bench.policy, KVC_POLICY_NO_NODE), KVC_POLICY_NO_NODE);
	for (unsigned round = 0; round < 3; round++) {
		bench_insert(&bench, 7);
		ops->touch(bench.policy, 7, bench.now_ns++);
		bench_check(&bench);
		assert_int_equal(ops->victim(bench.policy, KVC_POLICY_NO_NODE), 7);
		bench_remove(&bench, 7);
		bench_check(&bench);
	}
	bench_end(&bench);
}

static void check_random_operations(const struct kvc_policy_ops *ops)
{
	static struct bench bench;

	bench_begin(&bench, ops);
	for (unsigned step = 0; step < 30000; step++) {
		uint32_t node = (uint32_t)(random_next() % NODES);
		if (!bench.in[node])
			bench_insert(&bench, node);
		else if (random_next() % 3 == 0)
			bench_remove(&bench, node);
		else
			ops->touch(bench.policy, node, bench.now_ns++);
		if (step % 100 == 0)
			bench_check(&bench);
	}
	while (bench.count > 0) /* as the brain evicts: the best victim, again and again */
		bench_remove(&bench, ops->victim(bench.policy, KVC_POLICY_NO_NODE));
	bench_check(&bench);
	bench_end(&bench);
}

/* The brain skips pinned blocks: the walk goes on behind them, and evicting in the middle leaves the rest in order. */
static void check_pinned_are_skipped(const struct kvc_policy_ops *ops)
{
	static struct bench bench;
	uint32_t evicted = 0;

	bench_begin(&bench, ops);
	for (uint32_t node = 0; node < 60; node++)
		bench_insert(&bench, node);
	for (uint32_t node = ops->victim(bench.policy, KVC_POLICY_NO_NODE); node != KVC_POLICY_NO_NODE;) {
		uint32_t next = ops->victim(bench.policy, node);
		if (node % 3 != 0) {
			bench_remove(&bench, node);
			evicted++;
		}
		node = next;
	}
	assert_int_equal(evicted, 40);
	bench_check(&bench);
	bench_end(&bench);
}

/* A chain touched from its last block to its first leaves from its last block to its first, among strangers too. */
static void check_suffixes_leave_first(const struct kvc_policy_ops *ops)
{
	static struct bench bench;
	uint32_t expect = 39;

	bench_begin(&bench, ops);
	for (uint32_t node = 0; node < 80; node++)
		bench_insert(&bench, node);
	for (uint32_t node = 40; node-- > 0;)
		ops->touch(bench.policy, node, bench.now_ns++);
	while (bench.count > 0) {
		uint32_t victim = ops->victim(bench.policy, KVC_POLICY_NO_NODE);
		if (victim < 40)
			assert_int_equal(victim, expect--);
		bench_remove(&bench, victim);
	}
	bench_end(&bench);
}

/* A chain touched at once is a chain touched node by node. */
static void check_chain_is_each(const struct kvc_policy_ops *ops)
{
	static struct bench once, each;
	uint32_t chain[64];

	bench_begin(&once, ops);
	bench_begin(&each, ops);
	for (uint32_t node = 0; node < NODES; node++) {
		bench_insert(&once, node);
		bench_insert(&each, node);
	}
	for (unsigned step = 0; step < 3000; step++) {
		uint32_t first = (uint32_t)(random_next() % 40) * 6, count = 1 + (uint32_t)(random_next() % 60);
		for (uint32_t i = 0; i < count; i++) /* the same chains again and again, some with another branch or a node twice */
			chain[i] = random_next() % 50 == 0 ? (uint32_t)(random_next() % NODES) : first + i;
		ops->touch_chain(once.policy, chain, count, step);
		kvc_policy_touch_each(each.policy, chain, count, step);
		if (step % 20 == 0)
			bench_check(&once);
	}
	uint32_t a = KVC_POLICY_NO_NODE, b = KVC_POLICY_NO_NODE;
	do {
		a = ops->victim(once.policy, a);
		b = ops->victim(each.policy, b);
		assert_int_equal(a, b);
	} while (a != KVC_POLICY_NO_NODE);
	ops->touch_chain(once.policy, chain, 0, 0);
	bench_check(&once);
	bench_end(&once);
	bench_end(&each);
}

static int allow_none(void *context, size_t bytes)
{
	return 0;
}

static void check_no_memory(const struct kvc_policy_ops *ops)
{
	static struct bench bench;
	const struct kvc_policy_env env = { .context = &bench, .node = bench_node };
	struct kvc_policy *policy = NULL;

	kvci_alloc_set_hook(allow_none, NULL);
	kvc_status_t status = ops->create(&env, &policy);
	kvci_alloc_set_hook(NULL, NULL);
	assert_int_equal(status, KVC_NO_MEMORY);
	assert_null(policy);
}

#define EVERY_POLICY(check)                                                     \
	static void test_policy__##check(void **state)                          \
	{                                                                       \
		for (direct = 0; direct < 2; direct++)                          \
			for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) \
				check_##check(policies[i]);                     \
	}
EVERY_POLICY(table)
EVERY_POLICY(empty_and_one)
EVERY_POLICY(random_operations)
EVERY_POLICY(pinned_are_skipped)
EVERY_POLICY(suffixes_leave_first)
EVERY_POLICY(chain_is_each)
EVERY_POLICY(no_memory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_policy__table),
		cmocka_unit_test(test_policy__empty_and_one),
		cmocka_unit_test(test_policy__random_operations),
		cmocka_unit_test(test_policy__pinned_are_skipped),
		cmocka_unit_test(test_policy__suffixes_leave_first),
		cmocka_unit_test(test_policy__chain_is_each),
		cmocka_unit_test(test_policy__no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
