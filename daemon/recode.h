/* SPDX-License-Identifier: Apache-2.0
 *
 * Recode: blocks on the disk are read and written anew with another codec, one at a time; the old record goes when the new one is there. A block
 * that is being loaded meanwhile is left for the next run.
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_RECODE_H
#define KVCI_DAEMON_RECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/coding.h"

struct kvci_recode_figures {
	bool running, complete; /* complete: ended by itself, all seen */
	uint64_t blocks_total;  /* on the disk when it began */
	uint64_t blocks_done;
	uint64_t recoded, already; /* already: in this codec, or no shorter by it */
	uint64_t refused;          /* the space does not allow this loss, or nobody has ever bound its form */
	uint64_t failed, busy;     /* busy: loaded or stored meanwhile */
	uint64_t before_bytes, after_bytes; /* of what was recoded */
	uint64_t begin_ns, end_ns;
};

struct kvci_recode_what {
	uint64_t space; /* UINT64_MAX: any */
	uint8_t prefix[KVCI_HASH_BYTES];
	uint32_t prefix_nibbles; /* 0: any key */
	const struct kvc_codec_ops *codec;
	struct kvc_codec_params params;
	bool again; /* also what this codec coded already, with these parameters: loss upon loss */
};

/* IN_USE: it runs. UNSUPPORTED: there is no disk. */
kvc_status_t kvci_recode_start(struct kvci_core *core, const struct kvci_recode_what *what);
void kvci_recode_stop(struct kvci_core *core);
void kvci_recode_figures(const struct kvci_core *core, struct kvci_recode_figures *ret_figures);
/* After the tier was closed. */
void kvci_recode_free(struct kvci_core *core);

#endif
