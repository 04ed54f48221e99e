/* SPDX-License-Identifier: Apache-2.0
 *
 * The delay filter: holds requests for a time, or until the rule is lifted (hang), then gives them to the tier below. A held
 * request's buffer is the device's as far as its owner can tell, which is the point: it stands for a disk that does not answer.
 */
#include "tiers/filter/filter.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tiers/filter/spec.h"

enum { DELAY_HELD_MIN = 64 };

struct delay_node {
	struct delay_node *next;
	struct kvc_tier_request *request;
	uint64_t due_ns; /* UINT64_MAX: hangs */
};

struct delay_tier {
	struct kvc_tier tier; /* first */
	struct kvc_tier *below;
	struct kvci_filter_spec spec;
	struct delay_node *first; /* in order of submission */
	uint32_t held, held_max;
	int epoll_fd, timer_fd;
};

static struct delay_tier *delay_of(struct kvc_tier *tier)
{
	return (struct delay_tier *)tier;
}

static enum kvci_filter_op delay_op(const struct kvc_tier_request *request)
{
	return request->op == KVC_TIER_READ ? KVCI_FILTER_READ :
	       request->op == KVC_TIER_WRITE ? KVCI_FILTER_WRITE : KVCI_FILTER_FLUSH;
}

static kvc_status_t delay_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	*ret_error = kvci_strdup("a filter is not opened: it is wrapped around a tier");
	return KVC_UNSUPPORTED;
}

static void delay_free(struct delay_tier *tier)
{
	if (tier->epoll_fd >= 0)
		close(tier->epoll_fd);
	if (tier->timer_fd >= 0)
		close(tier->timer_fd);
	tier->tier.magic = 0;
	kvci_free(tier);
}

kvc_status_t kvci_delay_wrap(struct kvc_tier *below, struct kvc_tier **ret_tier)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct delay_tier *tier = kvci_alloc_zero(1, sizeof(*tier));
	struct kvc_tier_caps caps;
	kvc_status_t status;

	if (tier == NULL)
		return KVC_NO_MEMORY;
	tier->tier.ops = &kvc_tier_delay_ops;
	tier->tier.magic = KVC_TIER_MAGIC;
	tier->below = below;
	kvci_tier_caps(below, &caps);
	tier->held_max = caps.best_queue_depth > DELAY_HELD_MIN / 4 ? 4 * caps.best_queue_depth : DELAY_HELD_MIN;
	tier->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	tier->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (tier->timer_fd < 0 || tier->epoll_fd < 0 ||
	    epoll_ctl(tier->epoll_fd, EPOLL_CTL_ADD, tier->timer_fd, &event) != 0 ||
	    epoll_ctl(tier->epoll_fd, EPOLL_CTL_ADD, kvci_tier_fd(below), &event) != 0) {
		status = kvc_status_from_errno(errno);
		goto fail;
	}
	*ret_tier = &tier->tier;
	return KVC_OK;
fail:
	delay_free(tier);
	return status;
}

struct kvc_tier *kvci_delay_below(struct kvc_tier *tier)
{
	return delay_of(tier)->below;
}

const char *kvci_delay_text(struct kvc_tier *tier)
{
	return delay_of(tier)->spec.text;
}

/* The timer stands at the earliest due time; a time that passed fires at once. */
static void delay_arm(struct delay_tier *tier)
{
	struct itimerspec when = {.it_value = {.tv_sec = 0}};
	uint64_t due_ns = UINT64_MAX;

	for (const struct delay_node *node = tier->first; node != NULL; node = node->next) {
		if (node->due_ns < due_ns)
			due_ns = node->due_ns;
	}
	if (due_ns != UINT64_MAX) {
		when.it_value.tv_sec = (time_t)(due_ns / KVCI_SECOND);
		when.it_value.tv_nsec = (long)(due_ns % KVCI_SECOND) | 1; /* all zeros would disarm it */
	}
	timerfd_settime(tier->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void kvci_delay_set(struct kvc_tier *base, const struct kvci_filter_spec *spec)
{
	struct delay_tier *tier = delay_of(base);
	uint64_t now_ns = kvci_clock_ns();

	tier->spec = *spec;
	for (struct delay_node *node = tier->first; node != NULL; node = node->next) {
		enum kvci_filter_op op = delay_op(node->request);

		/* Lifted: it goes on now. What the new text still hangs or delays stays as it was. */
		if (!kvci_filter_spec_has(spec, op, node->due_ns == UINT64_MAX ? KVCI_FILTER_HANG : KVCI_FILTER_DELAY))
			node->due_ns = now_ns;
	}
	delay_arm(tier);
}

static void delay_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	kvci_tier_caps(delay_of(tier)->below, ret_caps);
}

static kvc_status_t delay_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	return kvci_tier_attach(delay_of(tier)->below, events);
}

static int delay_fd(struct kvc_tier *tier)
{
	return delay_of(tier)->epoll_fd;
}

/* Takes the first node that is due out of the list. */
static struct delay_node *delay_take(struct delay_tier *tier, uint64_t now_ns)
{
	for (struct delay_node **link = &tier->first; *link != NULL; link = &(*link)->next) {
		struct delay_node *node = *link;

		if (node->due_ns <= now_ns) {
			*link = node->next;
			tier->held--;
			return node;
		}
	}
	return NULL;
}

static void delay_hold(struct delay_tier *tier, struct delay_node *node)
{
	struct delay_node **link = &tier->first;

	while (*link != NULL)
		link = &(*link)->next;
	node->next = NULL;
	*link = node;
	tier->held++;
}

static void delay_poll(struct kvc_tier *base, unsigned max_completions)
{
	struct delay_tier *tier = delay_of(base);
	uint64_t now_ns = kvci_clock_ns();
	uint64_t rings;
	struct delay_node *node;
	unsigned ran = 0;
	bool changed = read(tier->timer_fd, &rings, sizeof(rings)) > 0;

	while (ran < max_completions && (node = delay_take(tier, now_ns)) != NULL) {
		struct kvc_tier_request *request = node->request;
		kvc_status_t status = kvci_tier_submit(tier->below, request);

		changed = true;
		if (status == KVC_BUSY) {
			node->due_ns = now_ns + KVCI_MS;
			delay_hold(tier, node);
			continue;
		}
		kvci_free(node);
		if (status != KVC_OK) {
			ran++;
			request->done(request, status);
		}
	}
	if (changed)
		delay_arm(tier);
	if (ran < max_completions)
		kvci_tier_poll(tier->below, max_completions - ran);
}

static kvc_status_t delay_submit(struct kvc_tier *base, struct kvc_tier_request *request)
{
	struct delay_tier *tier = delay_of(base);
	const struct kvci_filter_rule *rule = kvci_filter_spec_pick(&tier->spec, delay_op(request),
	                                                            KVCI_FILTER_DELAY | KVCI_FILTER_HANG);
	struct delay_node *node;

	if (rule == NULL)
		return kvci_tier_submit(tier->below, request);
	if (tier->held >= tier->held_max)
		return KVC_BUSY;
	node = kvci_alloc_zero(1, sizeof(*node));
	if (node == NULL)
		return KVC_NO_MEMORY;
	node->request = request;
	node->due_ns = rule->action == KVCI_FILTER_HANG ? UINT64_MAX : kvci_clock_ns() + rule->delay_ns;
	delay_hold(tier, node);
	delay_arm(tier);
	return KVC_OK;
}

static kvc_status_t delay_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	return kvci_tier_drop(delay_of(tier)->below, entry);
}

static kvc_status_t delay_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return kvci_tier_register_memory(delay_of(tier)->below, base, length_bytes);
}

static void delay_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	kvci_tier_unregister_memory(delay_of(tier)->below, base, length_bytes);
}

static void delay_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	kvci_tier_stats(delay_of(tier)->below, ret_stats);
}

static void delay_close(struct kvc_tier *base)
{
	struct delay_tier *tier = delay_of(base);

	while (tier->first != NULL) {
		struct delay_node *node = tier->first;
		struct kvc_tier_request *request = node->request;

		tier->first = node->next;
		kvci_free(node);
		request->done(request, KVC_CANCELED);
	}
	kvci_tier_close(tier->below);
	delay_free(tier);
}

const struct kvc_tier_ops kvc_tier_delay_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "delay",
	.open = delay_open,
	.caps = delay_caps,
	.attach = delay_attach,
	.fd = delay_fd,
	.poll = delay_poll,
	.submit = delay_submit,
	.drop = delay_drop,
	.register_memory = delay_register_memory,
	.unregister_memory = delay_unregister_memory,
	.stats = delay_stats,
	.close = delay_close,
};
