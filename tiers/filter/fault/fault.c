/* SPDX-License-Identifier: Apache-2.0
 *
 * The fault filter: fails requests, spoils bytes, tears writes.
 *
 *   fail     the tier below never sees the request; it completes in the next poll
 *   flip     READ: one bit of the sections is turned after the tier below checked them (a bad bus); WRITE: the tier below
 *            gets a copy with one bit wrong (a bad disk)
 *   torn     the tier below gets a copy whose end is missing
 *
 * A request that passes goes through with its own done(), at no cost.
 */
#include "tiers/filter/filter.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/record.h"
#include "base/workers.h"
#include "tiers/filter/spec.h"

struct fault_tier {
	struct kvc_tier tier; /* first */
	struct kvc_tier *below;
	struct kvci_mailbox *mailbox; /* requests that fail here */
	struct kvci_filter_spec spec;
	struct kvc_tier_stats stats;  /* what failed here, on top of the tier below */
	int epoll_fd;
	bool closing;
};

/* A request in the filter's hands: one that fails, or one whose bytes are spoiled. */
struct fault_node {
	struct kvci_job job; /* first */
	struct fault_tier *tier;
	struct kvc_tier_request *request;
	kvc_status_t status;
	uint32_t action;
	void *copy; /* what the tier below writes instead of the buffer */
	void *buffer;
	void (*done)(struct kvc_tier_request *request, kvc_status_t status);
	void *context;
	void (*progress)(struct kvc_tier_request *request, uint32_t sections);
};

static struct fault_tier *fault_of(struct kvc_tier *tier)
{
	return (struct fault_tier *)tier;
}

static kvc_status_t fault_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	*ret_error = kvci_strdup("a filter is not opened: it is wrapped around a tier");
	return KVC_UNSUPPORTED;
}

void kvci_fault_unwrap(struct kvc_tier *base)
{
	struct fault_tier *tier = fault_of(base);

	kvci_mailbox_destroy(tier->mailbox);
	if (tier->epoll_fd >= 0)
		close(tier->epoll_fd);
	tier->tier.magic = 0;
	kvci_free(tier);
}

static kvc_status_t fault_watch(struct fault_tier *tier, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(tier->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? KVC_OK : kvc_status_from_errno(errno);
}

kvc_status_t kvci_fault_wrap(struct kvc_tier *below, struct kvc_tier **ret_tier)
{
	struct fault_tier *tier = kvci_alloc_zero(1, sizeof(*tier));
	kvc_status_t status;

	if (tier == NULL)
		return KVC_NO_MEMORY;
	tier->tier.ops = &kvc_tier_fault_ops;
	tier->tier.magic = KVC_TIER_MAGIC;
	tier->below = below;
	tier->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	status = tier->epoll_fd >= 0 ? kvci_mailbox_create(&tier->mailbox) : kvc_status_from_errno(errno);
	if (status == KVC_OK)
		status = fault_watch(tier, kvci_mailbox_fd(tier->mailbox));
	if (status == KVC_OK)
		status = fault_watch(tier, kvci_tier_fd(below));
	if (status != KVC_OK)
		goto fail;
	*ret_tier = &tier->tier;
	return KVC_OK;
fail:
	kvci_fault_unwrap(&tier->tier);
	return status;
}

void kvci_fault_set(struct kvc_tier *tier, const struct kvci_filter_spec *spec)
{
	fault_of(tier)->spec = *spec;
}

static void fault_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	kvci_tier_caps(fault_of(tier)->below, ret_caps);
}

static kvc_status_t fault_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	return kvci_tier_attach(fault_of(tier)->below, events);
}

static int fault_fd(struct kvc_tier *tier)
{
	return fault_of(tier)->epoll_fd;
}

static void fault_poll(struct kvc_tier *base, unsigned max_completions)
{
	struct fault_tier *tier = fault_of(base);
	unsigned ran = kvci_mailbox_drain(tier->mailbox, max_completions);

	if (ran < max_completions)
		kvci_tier_poll(tier->below, max_completions - ran);
}

static void fault_failed(struct kvci_job *job)
{
	struct fault_node *node = (struct fault_node *)job;
	struct kvc_tier_request *request = node->request;
	kvc_status_t status = node->tier->closing ? KVC_CANCELED : node->status;

	kvci_free(node);
	request->done(request, status);
}

static void fault_count(struct fault_tier *tier, uint32_t op)
{
	if (op == KVC_TIER_READ) {
		tier->stats.reads++;
		tier->stats.read_errors++;
	} else if (op == KVC_TIER_WRITE) {
		tier->stats.writes++;
		tier->stats.write_errors++;
	}
}

static uint64_t fault_length_bytes(const struct kvc_tier_request *request)
{
	return (uint64_t)kvc_tier_request_pages(request) * KVCI_RECORD_ALIGN_BYTES;
}

/* First byte behind the section table of the record in `buffer`, which may be damaged already. */
static uint64_t fault_sections_bytes(const void *buffer, uint64_t length_bytes)
{
	const struct kvci_record_header *header = buffer;
	uint64_t start = sizeof(*header) + (uint64_t)header->section_count * sizeof(struct kvci_section_entry);

	return start < length_bytes ? start : sizeof(*header);
}

/* A byte that some section's checksum covers: padding would not matter to anyone. */
static uint64_t fault_pick_byte(struct fault_tier *tier, const void *buffer, uint64_t length_bytes)
{
	const struct kvci_record_header *header = buffer;
	const struct kvci_section_entry *table = (const struct kvci_section_entry *)(header + 1);
	uint64_t random = kvci_filter_spec_random(&tier->spec);
	uint64_t start = fault_sections_bytes(buffer, length_bytes);
	const struct kvci_section_entry *section;
	uint64_t at;

	if (start == sizeof(*header) || header->section_count == 0)
		return random % length_bytes;
	section = &table[random % header->section_count];
	at = (uint64_t)section->offset_64 * KVCI_SECTION_ALIGN_BYTES +
	     (section->stored_bytes != 0 ? (random >> 16) % section->stored_bytes : 0);
	return at < length_bytes ? at : random % length_bytes;
}

static void fault_flip(struct fault_tier *tier, void *buffer, uint64_t length_bytes)
{
	((uint8_t *)buffer)[fault_pick_byte(tier, buffer, length_bytes)] ^=
		(uint8_t)(1u << (kvci_filter_spec_random(&tier->spec) % 8));
}

/* What the device has where the write did not reach: other bytes, in whole sectors as far as the record has them. */
static void fault_tear(struct fault_tier *tier, void *buffer, uint64_t length_bytes)
{
	uint64_t at = fault_pick_byte(tier, buffer, length_bytes);

	if (at / 512 * 512 >= fault_sections_bytes(buffer, length_bytes))
		at = at / 512 * 512;
	for (uint64_t i = at; i < length_bytes; i++)
		((uint8_t *)buffer)[i] ^= 0xa5;
}

static void fault_spoiled(struct kvc_tier_request *request, kvc_status_t status)
{
	struct fault_node *node = request->context;

	request->done = node->done;
	request->context = node->context;
	request->progress = node->progress;
	request->buffer = node->buffer;
	if (status == KVC_OK && request->op == KVC_TIER_READ)
		fault_flip(node->tier, request->buffer, fault_length_bytes(request));
	kvci_free(node->copy);
	kvci_free(node);
	request->done(request, status);
}

static kvc_status_t fault_spoil(struct fault_tier *tier, struct kvc_tier_request *request, struct fault_node *node)
{
	uint64_t length_bytes = fault_length_bytes(request);
	kvc_status_t status;

	if (request->op == KVC_TIER_WRITE) {
		node->copy = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, length_bytes);
		if (node->copy == NULL) {
			kvci_free(node);
			return KVC_NO_MEMORY;
		}
		memcpy(node->copy, request->buffer, length_bytes);
		if (node->action == KVCI_FILTER_TORN)
			fault_tear(tier, node->copy, length_bytes);
		else
			fault_flip(tier, node->copy, length_bytes);
	}
	node->buffer = request->buffer;
	node->done = request->done;
	node->context = request->context;
	node->progress = request->progress;
	request->done = fault_spoiled;
	request->context = node;
	request->progress = NULL; /* what is to be spoiled comes whole */
	if (node->copy != NULL)
		request->buffer = node->copy;
	status = kvci_tier_submit(tier->below, request);
	if (status != KVC_OK) {
		request->done = node->done;
		request->context = node->context;
		request->progress = node->progress;
		request->buffer = node->buffer;
		kvci_free(node->copy);
		kvci_free(node);
	}
	return status;
}

static kvc_status_t fault_submit(struct kvc_tier *base, struct kvc_tier_request *request)
{
	static const enum kvci_filter_op ops[] = {
		[KVC_TIER_READ] = KVCI_FILTER_READ, [KVC_TIER_WRITE] = KVCI_FILTER_WRITE, [KVC_TIER_FLUSH] = KVCI_FILTER_FLUSH,
	};
	struct fault_tier *tier = fault_of(base);
	const struct kvci_filter_rule *rule = kvci_filter_spec_pick(&tier->spec, ops[request->op],
	                                                            KVCI_FILTER_FAIL | KVCI_FILTER_FLIP | KVCI_FILTER_TORN);
	struct fault_node *node;

	if (rule == NULL || (request->op == KVC_TIER_FLUSH && rule->action != KVCI_FILTER_FAIL))
		return kvci_tier_submit(tier->below, request);
	if (rule->action == KVCI_FILTER_FAIL && rule->status == KVC_BUSY)
		return KVC_BUSY;
	node = kvci_alloc_zero(1, sizeof(*node));
	if (node == NULL)
		return KVC_NO_MEMORY;
	node->tier = tier;
	node->request = request;
	node->action = rule->action;
	node->status = rule->status;
	if (rule->action != KVCI_FILTER_FAIL)
		return fault_spoil(tier, request, node);
	fault_count(tier, request->op);
	node->job.done = fault_failed;
	kvci_mailbox_post(tier->mailbox, &node->job);
	return KVC_OK;
}

static kvc_status_t fault_drop(struct kvc_tier *base, const struct kvc_tier_entry *entry)
{
	struct fault_tier *tier = fault_of(base);
	const struct kvci_filter_rule *rule = kvci_filter_spec_pick(&tier->spec, KVCI_FILTER_DROP, KVCI_FILTER_FAIL);

	return rule != NULL ? rule->status : kvci_tier_drop(tier->below, entry);
}

static kvc_status_t fault_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return kvci_tier_register_memory(fault_of(tier)->below, base, length_bytes);
}

static void fault_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	kvci_tier_unregister_memory(fault_of(tier)->below, base, length_bytes);
}

static void fault_stats(struct kvc_tier *base, struct kvc_tier_stats *ret_stats)
{
	struct fault_tier *tier = fault_of(base);

	kvci_tier_stats(tier->below, ret_stats);
	ret_stats->reads += tier->stats.reads;
	ret_stats->read_errors += tier->stats.read_errors;
	ret_stats->writes += tier->stats.writes;
	ret_stats->write_errors += tier->stats.write_errors;
}

static void fault_close(struct kvc_tier *base)
{
	struct fault_tier *tier = fault_of(base);

	tier->closing = true;
	while (kvci_mailbox_drain(tier->mailbox, 64) != 0)
		;
	kvci_tier_close(tier->below);
	kvci_fault_unwrap(base);
}

const struct kvc_tier_ops kvc_tier_fault_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "fault",
	.open = fault_open,
	.caps = fault_caps,
	.attach = fault_attach,
	.fd = fault_fd,
	.poll = fault_poll,
	.submit = fault_submit,
	.drop = fault_drop,
	.register_memory = fault_register_memory,
	.unregister_memory = fault_unregister_memory,
	.stats = fault_stats,
	.close = fault_close,
};
