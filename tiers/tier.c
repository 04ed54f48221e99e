/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands between a tier and its owner: checks that every tier would otherwise repeat, and the slots for what a tier
 * cannot do. Nothing here keeps state.
 */
#include <kvcask/plugin/tier.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/record.h"

kvc_status_t kvc_tier_unsupported_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	return KVC_UNSUPPORTED;
}

kvc_status_t kvc_tier_unsupported_register(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return KVC_UNSUPPORTED;
}

void kvc_tier_unsupported_unregister(struct kvc_tier *tier, void *base, size_t length_bytes)
{
}

/* A slot that a plug-in left out would crash far from its cause: looked at once, here. */
static bool tier_ops_whole(const struct kvc_tier_ops *ops)
{
	return ops != NULL && ops->struct_bytes >= sizeof(*ops) && ops->abi_version == KVC_TIER_ABI && ops->name != NULL &&
	       ops->open != NULL && ops->caps != NULL && ops->attach != NULL && ops->fd != NULL && ops->poll != NULL &&
	       ops->submit != NULL && ops->drop != NULL && ops->register_memory != NULL &&
	       ops->unregister_memory != NULL && ops->stats != NULL && ops->close != NULL;
}

static bool tier_alive(const struct kvc_tier *tier, const char *call)
{
	if (tier != NULL && tier->magic == KVC_TIER_MAGIC)
		return true;
	KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "tier", "%s on what is no open tier", call);
	return false;
}

kvc_status_t kvci_tier_open(const struct kvc_tier_ops *ops, const struct kvc_tier_option *options,
                            struct kvc_tier **ret_tier, char **ret_error)
{
	static const struct kvc_tier_option none[] = {{NULL, NULL}};
	char *error = NULL;
	kvc_status_t status;

	if (!tier_ops_whole(ops)) {
		if (ret_error != NULL)
			*ret_error = kvci_strdup("the tier's table is not whole or of another ABI version");
		return KVC_VERSION;
	}
	status = ops->open(options != NULL ? options : none, ret_tier, &error);
	if (status != KVC_OK && ret_error != NULL)
		*ret_error = error;
	else
		kvci_free(error);
	return status;
}

void kvci_tier_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	*ret_caps = (struct kvc_tier_caps){.align_bytes = KVCI_RECORD_ALIGN_BYTES};
	if (tier_alive(tier, "caps"))
		tier->ops->caps(tier, ret_caps);
}

kvc_status_t kvci_tier_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	if (!tier_alive(tier, "attach") || events == NULL || events->index == NULL || events->lost == NULL ||
	    events->keep == NULL || events->moved == NULL || events->health == NULL)
		return KVC_INVALID;
	return tier->ops->attach(tier, events);
}

int kvci_tier_fd(struct kvc_tier *tier)
{
	return tier_alive(tier, "fd") ? tier->ops->fd(tier) : -1;
}

void kvci_tier_poll(struct kvc_tier *tier, unsigned max_completions)
{
	if (tier_alive(tier, "poll") && max_completions != 0)
		tier->ops->poll(tier, max_completions);
}

/* Any tier's buffers are whole pages: the alignment of records is that of all devices we know. */
static bool tier_transfer_sane(const struct kvc_tier_request *request, uint32_t length_4k)
{
	return request->buffer != NULL && (uintptr_t)request->buffer % KVCI_RECORD_ALIGN_BYTES == 0 && length_4k != 0 &&
	       length_4k <= KVCI_RECORD_BYTES_MAX / KVCI_RECORD_ALIGN_BYTES;
}

kvc_status_t kvci_tier_submit(struct kvc_tier *tier, struct kvc_tier_request *request)
{
	if (!tier_alive(tier, "submit") || request == NULL || request->done == NULL)
		return KVC_INVALID;
	switch (request->op) {
	case KVC_TIER_READ:
		if (!tier_transfer_sane(request, request->entry.place.length_4k))
			return KVC_INVALID;
		break;
	case KVC_TIER_WRITE:
		if (!tier_transfer_sane(request, request->entry.raw_length_4k) ||
		    !tier_transfer_sane(request, kvc_tier_request_pages(request)))
			return KVC_INVALID;
		break;
	case KVC_TIER_FLUSH:
		break;
	default:
		return KVC_INVALID;
	}
	return tier->ops->submit(tier, request);
}

kvc_status_t kvci_tier_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	if (!tier_alive(tier, "drop") || entry == NULL)
		return KVC_INVALID;
	return tier->ops->drop(tier, entry);
}

static bool tier_memory_sane(const void *base, size_t length_bytes)
{
	return base != NULL && length_bytes != 0 && (uintptr_t)base % KVCI_RECORD_ALIGN_BYTES == 0 &&
	       length_bytes % KVCI_RECORD_ALIGN_BYTES == 0;
}

kvc_status_t kvci_tier_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	if (!tier_alive(tier, "register_memory") || !tier_memory_sane(base, length_bytes))
		return KVC_INVALID;
	return tier->ops->register_memory(tier, base, length_bytes);
}

void kvci_tier_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	if (tier_alive(tier, "unregister_memory") && tier_memory_sane(base, length_bytes))
		tier->ops->unregister_memory(tier, base, length_bytes);
}

void kvci_tier_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	*ret_stats = (struct kvc_tier_stats){0};
	if (tier_alive(tier, "stats"))
		tier->ops->stats(tier, ret_stats);
}

void kvci_tier_close(struct kvc_tier *tier)
{
	if (tier != NULL && tier_alive(tier, "close"))
		tier->ops->close(tier);
}
