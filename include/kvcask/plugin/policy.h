/* SPDX-License-Identifier: Apache-2.0
 *
 * Eviction policy: the order in which blocks leave the memory of one arena (the slabs of one owner). The policy sees
 * node numbers only; it allocates nothing per call: the brain gives it `node_bytes` zeroed bytes for each node.
 *
 * Threads: owner thread only. All slots O(1) amortised.
 * The conformance suite tests/conform/ must pass unchanged for every policy.
 */
#ifndef KVCASK_PLUGIN_POLICY_H
#define KVCASK_PLUGIN_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

enum { KVC_POLICY_ABI = 1 };

#define KVC_POLICY_NO_NODE UINT32_MAX

struct kvc_policy;

/* What the brain offers a policy. */
struct kvc_policy_env {
	void *context;
	/* The policy's bytes of a node; stays valid until remove(). */
	void *(*node)(void *context, uint32_t node);
	/* The same without a call (a match touches thousands of nodes): node n's bytes are at
	 * (*chunks)[n >> chunk_shift] + (n & (2^chunk_shift - 1)) * stride_bytes + offset_bytes. chunks NULL: only node() is there. */
	uint8_t **const *chunks;
	uint32_t chunk_shift, stride_bytes, offset_bytes;
};

static inline void *kvc_policy_node(const struct kvc_policy_env *env, uint32_t node)
{
	if (env->chunks == NULL)
		return env->node(env->context, node);
	return (*env->chunks)[node >> env->chunk_shift] +
	       (size_t)(node & ((UINT32_C(1) << env->chunk_shift) - 1)) * env->stride_bytes + env->offset_bytes;
}

struct kvc_policy_ops {
	uint32_t struct_bytes;
	uint32_t abi_version;
	const char *name;
	uint32_t node_bytes; /* at most 16 */
	kvc_status_t (*create)(const struct kvc_policy_env *env, struct kvc_policy **ret_policy);
	void (*destroy)(struct kvc_policy *policy);
	void (*insert)(struct kvc_policy *policy, uint32_t node, uint64_t bytes, uint64_t now_ns);
	/* Used by a match or a load. Callers touch a chain from its last block to its first, so that suffixes leave first. */
	void (*touch)(struct kvc_policy *policy, uint32_t node, uint64_t now_ns);
	void (*remove)(struct kvc_policy *policy, uint32_t node);
	/* The best victim after `after` (KVC_POLICY_NO_NODE: the very best), without removing it: the brain skips pinned ones. */
	uint32_t (*victim)(struct kvc_policy *policy, uint32_t after);
	/* The same as touch() of nodes[count - 1], then of the one before it, and nodes[0] last: a match touches thousands at a time. A policy
	 * that cannot do better takes kvc_policy_touch_each. */
	void (*touch_chain)(struct kvc_policy *policy, const uint32_t *nodes, uint32_t count, uint64_t now_ns);
};

/* Each policy's struct begins with this. */
struct kvc_policy {
	const struct kvc_policy_ops *ops;
};

static inline void kvc_policy_touch_each(struct kvc_policy *policy, const uint32_t *nodes, uint32_t count, uint64_t now_ns)
{
	for (uint32_t i = count; i-- > 0;)
		policy->ops->touch(policy, nodes[i], now_ns);
}

extern const struct kvc_policy_ops kvc_policy_lru_ops;

#endif
