/* SPDX-License-Identifier: Apache-2.0
 * The meter: each request rides in a node of its own, from a list of free ones. */
#include "daemon/meter.h"

#include <stddef.h>

#include "base/alloc.h"
#include "base/clock.h"

struct meter_node {
	struct kvc_tier_request request; /* what the tier below sees */
	struct kvc_tier_request *outer;
	struct meter *meter;
	uint64_t begin_ns;
	struct meter_node *next; /* in meter->nodes_free */
};

struct meter {
	struct kvc_tier tier;
	struct kvc_tier *below;
	struct kvci_latencies *latencies;
	struct meter_node *nodes_free;
};

static struct meter *meter_of(struct kvc_tier *tier)
{
	return (struct meter *)tier;
}

static void meter_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct meter_node *node = (struct meter_node *)((char *)request - offsetof(struct meter_node, request));
	struct kvc_tier_request *outer = node->outer;
	uint64_t taken_ns = kvci_clock_ns() - node->begin_ns;

	if (status != KVC_CANCELED && request->op != KVC_TIER_FLUSH)
		kvci_latency_add(node->meter->latencies,
		                 request->op == KVC_TIER_READ ? KVCI_LATENCY_DISK_READ : KVCI_LATENCY_DISK_WRITE, taken_ns);
	outer->entry = request->entry;
	node->next = node->meter->nodes_free;
	node->meter->nodes_free = node;
	outer->done(outer, status);
}

static void meter_progress(struct kvc_tier_request *request, uint32_t sections)
{
	struct meter_node *node = (struct meter_node *)((char *)request - offsetof(struct meter_node, request));

	node->outer->progress(node->outer, sections);
}

static kvc_status_t meter_submit(struct kvc_tier *tier, struct kvc_tier_request *request)
{
	struct meter *meter = meter_of(tier);
	struct meter_node *node = meter->nodes_free;
	kvc_status_t status;

	if (node != NULL)
		meter->nodes_free = node->next;
	else
		node = kvci_alloc_zero(1, sizeof(*node));
	if (node == NULL)
		return KVC_NO_MEMORY;
	node->request = *request;
	node->request.done = meter_done;
	node->request.progress = request->progress != NULL ? meter_progress : NULL;
	node->request.context = node;
	node->outer = request;
	node->meter = meter;
	node->begin_ns = kvci_clock_ns();
	status = kvci_tier_submit(meter->below, &node->request);
	if (status != KVC_OK) {
		node->next = meter->nodes_free;
		meter->nodes_free = node;
	}
	return status;
}

static kvc_status_t meter_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	return KVC_UNSUPPORTED; /* it needs a tier below: kvci_meter_wrap */
}

static void meter_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	kvci_tier_caps(meter_of(tier)->below, ret_caps);
}

static kvc_status_t meter_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	return kvci_tier_attach(meter_of(tier)->below, events);
}

static int meter_fd(struct kvc_tier *tier)
{
	return kvci_tier_fd(meter_of(tier)->below);
}

static void meter_poll(struct kvc_tier *tier, unsigned max_completions)
{
	kvci_tier_poll(meter_of(tier)->below, max_completions);
}

static kvc_status_t meter_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	return kvci_tier_drop(meter_of(tier)->below, entry);
}

static kvc_status_t meter_register(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return kvci_tier_register_memory(meter_of(tier)->below, base, length_bytes);
}

static void meter_unregister(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	kvci_tier_unregister_memory(meter_of(tier)->below, base, length_bytes);
}

static void meter_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	kvci_tier_stats(meter_of(tier)->below, ret_stats);
}

static void meter_close(struct kvc_tier *tier)
{
	struct meter *meter = meter_of(tier);

	kvci_tier_close(meter->below);
	while (meter->nodes_free != NULL) {
		struct meter_node *node = meter->nodes_free;

		meter->nodes_free = node->next;
		kvci_free(node);
	}
	meter->tier.magic = 0;
	kvci_free(meter);
}

static const struct kvc_tier_ops meter_ops = {
	.struct_bytes = sizeof(meter_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "meter",
	.open = meter_open,
	.caps = meter_caps,
	.attach = meter_attach,
	.fd = meter_fd,
	.poll = meter_poll,
	.submit = meter_submit,
	.drop = meter_drop,
	.register_memory = meter_register,
	.unregister_memory = meter_unregister,
	.stats = meter_stats,
	.close = meter_close,
};

kvc_status_t kvci_meter_wrap(struct kvc_tier *below, struct kvci_latencies *latencies, struct kvc_tier **ret_tier)
{
	struct meter *meter = kvci_alloc_zero(1, sizeof(*meter));

	if (meter == NULL)
		return KVC_NO_MEMORY;
	meter->tier.ops = &meter_ops;
	meter->tier.magic = KVC_TIER_MAGIC;
	meter->below = below;
	meter->latencies = latencies;
	*ret_tier = &meter->tier;
	return KVC_OK;
}
