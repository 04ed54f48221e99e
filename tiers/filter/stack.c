/* SPDX-License-Identifier: Apache-2.0
 * Both filters over one tier, and their common text. */
#include "tiers/filter/filter.h"

#include "base/alloc.h"
#include "tiers/filter/spec.h"

kvc_status_t kvci_filter_wrap(struct kvc_tier *below, const char *spec, struct kvc_tier **ret_tier, char **ret_error)
{
	struct kvci_filter_spec parsed;
	struct kvc_tier *fault, *delay;
	char *error = NULL;
	kvc_status_t status;

	/* The text first: once a filter is around it, closing the filter would close `below` too. */
	status = kvci_filter_spec_parse(spec, &parsed, &error);
	if (status != KVC_OK)
		goto fail;
	status = kvci_fault_wrap(below, &fault);
	if (status != KVC_OK)
		goto fail;
	status = kvci_delay_wrap(fault, &delay);
	if (status != KVC_OK) {
		kvci_fault_unwrap(fault);
		goto fail;
	}
	kvci_fault_set(fault, &parsed);
	kvci_delay_set(delay, &parsed);
	*ret_tier = delay;
	return KVC_OK;
fail:
	if (ret_error != NULL)
		*ret_error = error;
	else
		kvci_free(error);
	return status;
}

kvc_status_t kvci_filter_set(struct kvc_tier *tier, const char *spec, char **ret_error)
{
	struct kvci_filter_spec parsed;
	char *error = NULL;
	kvc_status_t status;

	if (tier == NULL || tier->ops != &kvc_tier_delay_ops)
		return KVC_UNSUPPORTED;
	status = kvci_filter_spec_parse(spec, &parsed, &error);
	if (status != KVC_OK) {
		if (ret_error != NULL)
			*ret_error = error;
		else
			kvci_free(error);
		return status;
	}
	/* Below first: what the delay lets go must meet the new rules. */
	kvci_fault_set(kvci_delay_below(tier), &parsed);
	kvci_delay_set(tier, &parsed);
	return KVC_OK;
}

const char *kvci_filter_get(struct kvc_tier *tier)
{
	return tier != NULL && tier->ops == &kvc_tier_delay_ops ? kvci_delay_text(tier) : "";
}
