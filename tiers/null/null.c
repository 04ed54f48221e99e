/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest tier that keeps the contract: writes complete (and are gone), reads miss, flushes complete. Read it beside
 * include/kvcask/plugin/tier.h before you write one.
 */
#include "tiers/null/null.h"

#include "base/alloc.h"
#include "base/workers.h"

enum { NULL_QUEUE_MAX = 64 };

/* The answer of one request, on its way to poll(). */
struct null_answer {
	struct kvci_job job; /* first: the job is the answer */
	struct null_tier *tier;
	struct kvc_tier_request *request;
	kvc_status_t status;
};

struct null_tier {
	struct kvc_tier tier; /* first */
	struct kvc_tier_events events;
	struct kvci_mailbox *mailbox;
	struct kvc_tier_stats stats;
	struct kvci_job index_job;
	struct null_answer answers[NULL_QUEUE_MAX];
	struct null_answer *idle[NULL_QUEUE_MAX];
	unsigned idle_count;
	bool attached, closing;
};

static struct null_tier *null_of(struct kvc_tier *tier)
{
	return (struct null_tier *)tier;
}

static void null_close(struct kvc_tier *base)
{
	struct null_tier *tier = null_of(base);

	tier->closing = true;
	/* What waits for a poll completes here: nothing is under way elsewhere. */
	while (tier->mailbox != NULL && kvci_mailbox_drain(tier->mailbox, NULL_QUEUE_MAX) != 0)
		;
	kvci_mailbox_destroy(tier->mailbox);
	tier->tier.magic = 0;
	kvci_free(tier);
}

static void null_answer_done(struct kvci_job *job)
{
	struct null_answer *answer = (struct null_answer *)job;
	struct null_tier *tier = answer->tier;
	struct kvc_tier_request *request = answer->request;
	kvc_status_t status = answer->status;

	/* Given back first: done() may submit again. */
	tier->idle[tier->idle_count++] = answer;
	request->done(request, status);
}

static kvc_status_t null_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	struct null_tier *tier = kvci_alloc_zero(1, sizeof(*tier));
	kvc_status_t status;

	if (tier == NULL)
		return KVC_NO_MEMORY;
	tier->tier.ops = &kvc_tier_null_ops;
	tier->tier.magic = KVC_TIER_MAGIC;
	status = kvci_mailbox_create(&tier->mailbox);
	if (status != KVC_OK)
		goto fail;
	for (unsigned i = 0; i < NULL_QUEUE_MAX; i++) {
		tier->answers[i].job.done = null_answer_done;
		tier->answers[i].tier = tier;
		tier->idle[tier->idle_count++] = &tier->answers[i];
	}
	*ret_tier = &tier->tier;
	return KVC_OK;
fail:
	null_close(&tier->tier);
	return status;
}

static void null_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	*ret_caps = (struct kvc_tier_caps){.align_bytes = 4096, .best_queue_depth = 1, .best_io_bytes = 4096};
}

static void null_index_done(struct kvci_job *job)
{
	struct null_tier *tier = (struct null_tier *)((char *)job - offsetof(struct null_tier, index_job));

	if (!tier->closing)
		tier->events.index(tier->events.context, NULL, 0, false);
}

static kvc_status_t null_attach(struct kvc_tier *base, const struct kvc_tier_events *events)
{
	struct null_tier *tier = null_of(base);

	if (tier->attached)
		return KVC_INVALID;
	tier->attached = true;
	tier->events = *events;
	tier->index_job.done = null_index_done;
	kvci_mailbox_post(tier->mailbox, &tier->index_job);
	return KVC_OK;
}

static int null_fd(struct kvc_tier *tier)
{
	return kvci_mailbox_fd(null_of(tier)->mailbox);
}

static void null_poll(struct kvc_tier *tier, unsigned max_completions)
{
	kvci_mailbox_drain(null_of(tier)->mailbox, max_completions);
}

static kvc_status_t null_submit(struct kvc_tier *base, struct kvc_tier_request *request)
{
	struct null_tier *tier = null_of(base);
	struct null_answer *answer;

	if (tier->closing || tier->idle_count == 0)
		return KVC_BUSY;
	answer = tier->idle[--tier->idle_count];
	answer->request = request;
	answer->status = KVC_OK;
	if (request->op == KVC_TIER_READ) {
		tier->stats.reads++;
		answer->status = KVC_MISS;
	} else if (request->op == KVC_TIER_WRITE) {
		tier->stats.writes++;
		tier->stats.write_bytes += (uint64_t)kvc_tier_request_pages(request) * 4096;
		/* A generation that no read will find: the place is stale from the start. */
		request->entry.place = (struct kvc_place){.generation = 1, .length_4k = kvc_tier_request_pages(request)};
	} else {
		tier->stats.flushes++;
	}
	kvci_mailbox_post(tier->mailbox, &answer->job);
	return KVC_OK;
}

static void null_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	*ret_stats = null_of(tier)->stats;
}

const struct kvc_tier_ops kvc_tier_null_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "null",
	.open = null_open,
	.caps = null_caps,
	.attach = null_attach,
	.fd = null_fd,
	.poll = null_poll,
	.submit = null_submit,
	.drop = kvc_tier_unsupported_drop,
	.register_memory = kvc_tier_unsupported_register,
	.unregister_memory = kvc_tier_unsupported_unregister,
	.stats = null_stats,
	.close = null_close,
};
