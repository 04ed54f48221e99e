/* SPDX-License-Identifier: Apache-2.0
 *
 * LRU: one list from the oldest use to the newest, linked by node numbers through the nodes' own 8 bytes.
 */
#include <kvcask/plugin/policy.h>

#include "base/alloc.h"

struct lru_node {
	uint32_t older, newer; /* KVC_POLICY_NO_NODE at the ends */
};

struct lru {
	const struct kvc_policy_ops *ops; /* first, as every policy's */
	struct kvc_policy_env env;
	uint32_t oldest, newest;
};

static struct lru_node *lru_at(const struct lru *lru, uint32_t node)
{
	return kvc_policy_node(&lru->env, node);
}

static kvc_status_t lru_create(const struct kvc_policy_env *env, struct kvc_policy **ret_policy)
{
	struct lru *lru = kvci_alloc_zero(1, sizeof(*lru));

	if (lru == NULL)
		return KVC_NO_MEMORY;
	lru->ops = &kvc_policy_lru_ops;
	lru->env = *env;
	lru->oldest = lru->newest = KVC_POLICY_NO_NODE;
	*ret_policy = (struct kvc_policy *)lru;
	return KVC_OK;
}

static void lru_destroy(struct kvc_policy *policy)
{
	kvci_free(policy);
}

static void lru_insert(struct kvc_policy *policy, uint32_t node, uint64_t bytes, uint64_t now_ns)
{
	struct lru *lru = (struct lru *)policy;
	struct lru_node *n = lru_at(lru, node);

	(void)bytes;
	(void)now_ns;
	n->older = lru->newest;
	n->newer = KVC_POLICY_NO_NODE;
	if (lru->newest != KVC_POLICY_NO_NODE)
		lru_at(lru, lru->newest)->newer = node;
	else
		lru->oldest = node;
	lru->newest = node;
}

static void lru_remove(struct kvc_policy *policy, uint32_t node)
{
	struct lru *lru = (struct lru *)policy;
	const struct lru_node *n = lru_at(lru, node);

	if (n->older != KVC_POLICY_NO_NODE)
		lru_at(lru, n->older)->newer = n->newer;
	else
		lru->oldest = n->newer;
	if (n->newer != KVC_POLICY_NO_NODE)
		lru_at(lru, n->newer)->older = n->older;
	else
		lru->newest = n->older;
}

static void lru_touch(struct kvc_policy *policy, uint32_t node, uint64_t now_ns)
{
	if (((struct lru *)policy)->newest == node)
		return;
	lru_remove(policy, node);
	lru_insert(policy, node, 0, now_ns);
}

/* A chain that was touched as one lies in the list as one: whole runs of it are moved, and most of its nodes only read. */
static void lru_touch_chain(struct kvc_policy *policy, const uint32_t *nodes, uint32_t count, uint64_t now_ns)
{
	struct lru *lru = (struct lru *)policy;

	(void)now_ns;
	while (count > 0) {
		uint32_t first = nodes[--count]; /* the oldest of the run */
		struct lru_node *oldest = lru_at(lru, first), *newest = oldest;
		uint32_t last = first;
		while (count > 0 && newest->newer == nodes[count - 1]) {
			last = nodes[--count];
			newest = lru_at(lru, last);
		}
		if (lru->newest == last)
			continue;
		lru_at(lru, newest->newer)->older = oldest->older;
		if (oldest->older != KVC_POLICY_NO_NODE)
			lru_at(lru, oldest->older)->newer = newest->newer;
		else
			lru->oldest = newest->newer;
		lru_at(lru, lru->newest)->newer = first;
		oldest->older = lru->newest;
		newest->newer = KVC_POLICY_NO_NODE;
		lru->newest = last;
	}
}

static uint32_t lru_victim(struct kvc_policy *policy, uint32_t after)
{
	const struct lru *lru = (const struct lru *)policy;

	return after == KVC_POLICY_NO_NODE ? lru->oldest : lru_at(lru, after)->newer;
}

const struct kvc_policy_ops kvc_policy_lru_ops = {
	.struct_bytes = sizeof(struct kvc_policy_ops),
	.abi_version = KVC_POLICY_ABI,
	.name = "lru",
	.node_bytes = sizeof(struct lru_node),
	.create = lru_create,
	.destroy = lru_destroy,
	.insert = lru_insert,
	.touch = lru_touch,
	.remove = lru_remove,
	.victim = lru_victim,
	.touch_chain = lru_touch_chain,
};
