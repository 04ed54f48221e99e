/* SPDX-License-Identifier: Apache-2.0
 *
 * Wiring: the only file that names concrete backends. It makes the stack of tiers below the brain from the configuration:
 *
 *   brain -> meter (latencies) -> coded (disk.codec) -> fault (disk.fault) -> disk
 */
#ifndef KVCI_DAEMON_WIRING_H
#define KVCI_DAEMON_WIRING_H

#include "daemon/core.h"

/* Folder of the disk tier in data_dir; kvci_free. NULL: no memory. */
char *kvci_wiring_disk_folder(const char *data_dir);
/* Sets core->disk, core->fault and core->coded. core->sizes and core->coding must be known. */
kvc_status_t kvci_wiring_open_disk(struct kvci_core *core, const char *disk_folder, char **ret_error);
/* Sets or clears ("") what the fault filter does. */
kvc_status_t kvci_wiring_set_fault(struct kvci_core *core, const char *specification, char **ret_error);
const char *kvci_wiring_get_fault(const struct kvci_core *core);
const struct kvc_policy_ops *kvci_wiring_policy(uint32_t choice);

#endif
