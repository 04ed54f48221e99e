/* SPDX-License-Identifier: Apache-2.0
 * kvcask calibrate: what its files share. Threads: one. */
#ifndef TOOL_CALIBRATE_H
#define TOOL_CALIBRATE_H

#include "codec/profile_make.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

/* KV to make a profile of. */
struct calibrate_kv {
	struct kvc_form form;                /* layers, heads, dims, dtype, group and shard count */
	struct kvci_profile_sample *samples; /* kvci_free */
	uint32_t sample_count;
	uint64_t tokens;
	uint8_t *k, *v; /* what samples lead into; kvci_free */
	/* Of the space it came from; kvci_free. NULL: from files. */
	char *model, *model_name, *rope;
};

/* How keys were rotated. */
struct calibrate_rope {
	struct kvci_rope rope;
	float *inv_freq; /* kvci_free; rope leads into it */
	bool rotated;
};

/* KV of blocks of the space that --space names, loaded as an engine would. What is wrong is said. */
int calibrate_space_read(struct tool *tool, struct calibrate_kv *kv);
void calibrate_kv_fini(struct calibrate_kv *kv);

/* By the options, else by what the engine said of its model when it opened the space. What is wrong is said. */
int calibrate_rope_read(const struct tool *tool, const struct calibrate_kv *kv, struct calibrate_rope *rope);

#endif
