/* SPDX-License-Identifier: Apache-2.0
 * A tier entry out of what the brain tells of a block. */
#include "daemon/disk_read.h"

#include <string.h>

void kvci_disk_read_prepare(const struct kvci_block_info *info, void *buffer, struct kvc_tier_request *ret_request)
{
	struct kvc_tier_entry *entry = &ret_request->entry;

	memset(ret_request, 0, sizeof(*ret_request));
	ret_request->op = KVC_TIER_READ;
	ret_request->flags = KVC_TIER_STORED;
	ret_request->buffer = buffer;
	memcpy(entry->space, info->id.space, sizeof(entry->space));
	memcpy(entry->hash, info->id.hash, sizeof(entry->hash));
	entry->epoch = info->epoch;
	entry->form_id = info->form_id;
	entry->record_checksum = info->record_checksum;
	entry->position_tokens = info->position_tokens;
	entry->token_count = info->token_count;
	entry->group = info->id.group;
	entry->shard_index = info->id.shard_index;
	entry->shard_count = info->shard_count;
	entry->raw_length_4k = (uint32_t)(info->record_bytes / KVCI_RECORD_ALIGN_BYTES);
	entry->flags = info->lossy ? KVCI_RECORD_LOSSY : 0;
	entry->place = info->place;
}
