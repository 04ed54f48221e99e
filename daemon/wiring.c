/* SPDX-License-Identifier: Apache-2.0
 * Which backends there are. */
#include "daemon/wiring.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/coding.h"
#include "daemon/meter.h"
#include "tiers/coded/coded.h"
#include "tiers/disk/disk.h"
#include "tiers/filter/filter.h"

char *kvci_wiring_disk_folder(const char *data_dir)
{
	return kvci_strdup(data_dir); /* beside the ledger: seg-*, index/ */
}

/* The config's choices are the tier's own words. */
static kvc_status_t wiring_open(struct kvci_core *core, const char *disk_folder, struct kvc_tier **ret_tier,
                                char **ret_error)
{
	char capacity[24], segment[24], depth[24];
	char *io = kvci_config_get_text(core->config, "disk.io");
	char *registering = kvci_config_get_text(core->config, "disk.register");
	struct kvc_tier_option options[] = {
		{"folder", disk_folder}, {"capacity", capacity},    {"segment", segment}, {"io", io},
		{"register", registering}, {"queue_depth", depth}, {NULL, NULL},
	};
	kvc_status_t status = KVC_NO_MEMORY;

	snprintf(capacity, sizeof(capacity), "%" PRIu64, core->sizes.disk_bytes);
	snprintf(segment, sizeof(segment), "%" PRIu64, core->sizes.segment_bytes);
	snprintf(depth, sizeof(depth), "%" PRIu64, core->config->disk_queue_depth);
	if (io != NULL && registering != NULL)
		status = kvci_tier_open(&kvc_tier_disk_ops, options, ret_tier, ret_error);
	kvci_free(io);
	kvci_free(registering);
	return status;
}

kvc_status_t kvci_wiring_open_disk(struct kvci_core *core, const char *disk_folder, char **ret_error)
{
	struct kvc_tier *disk = NULL, *filtered = NULL, *coded = NULL;
	struct kvci_coded_env env;
	kvc_status_t status = wiring_open(core, disk_folder, &disk, ret_error);

	if (status != KVC_OK)
		return status;
	kvci_log(KVCI_LOG_INFO, "disk", "driven by %s", kvci_disk_engine(disk));
	status = kvci_filter_wrap(disk, core->config->disk_fault, &filtered, ret_error);
	if (status != KVC_OK) {
		kvci_tier_close(disk);
		return status;
	}
	kvci_coding_env(core->coding, &env);
	status = kvci_coded_wrap(filtered, &env, &coded);
	if (status != KVC_OK) {
		kvci_tier_close(filtered);
		return status;
	}
	status = kvci_meter_wrap(coded, &core->latencies, &core->disk);
	if (status != KVC_OK) {
		kvci_tier_close(coded);
		return status;
	}
	core->fault = filtered;
	core->coded = coded;
	return KVC_OK;
}

kvc_status_t kvci_wiring_set_fault(struct kvci_core *core, const char *specification, char **ret_error)
{
	kvc_status_t status;

	if (core->fault == NULL) {
		*ret_error = kvci_strdup("there is no disk tier");
		return KVC_UNSUPPORTED;
	}
	status = kvci_filter_set(core->fault, specification, ret_error);
	if (status == KVC_OK)
		kvci_log(KVCI_LOG_WARN, "disk", "injected faults: %s", specification[0] != '\0' ? specification : "none");
	return status;
}

const char *kvci_wiring_get_fault(const struct kvci_core *core)
{
	return core->fault != NULL ? kvci_filter_get(core->fault) : "";
}

const struct kvc_policy_ops *kvci_wiring_policy(uint32_t choice)
{
	static const struct kvc_policy_ops *const policies[] = {&kvc_policy_lru_ops};

	return choice < sizeof(policies) / sizeof(policies[0]) ? policies[choice] : &kvc_policy_lru_ops;
}
