/* SPDX-License-Identifier: Apache-2.0
 *
 * Space: what makes KV values interchangeable. Values are never matched across spaces. The fields are text as the
 * engine's connector gives it; the fingerprint is the first 16 bytes of SHA-256 over the serialised form (below) of those that count and
 * are not empty, each with its name and length, so that no two different field lists collide by concatenation. The epoch is not in the fingerprint: it is the space's counter.
 * Threads: pure.
 */
#ifndef KVCI_SPACE_H
#define KVCI_SPACE_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

#include "base/record.h"

/* X(field, text for people). All are strings; empty: not applicable. */
#define KVCI_SPACE_FIELDS(X)                                                                                             \
	X(tenant, "who owns the blocks; set by the socket, never by the client")                                        \
	X(model, "model identity: digest of config, quantisation config and weights")                                   \
	X(model_name, "name for people; does not count")                                                                \
	X(kv_dtype, "dtype of K and V as the engine holds them")                                                        \
	X(kv_quant, "the engine's own quantisation of the cache")                                                       \
	X(rope, "RoPE parameters in effect")                                                                            \
	X(adapter, "adapter identity, by content")                                                                      \
	X(hash_algorithm, "how block hashes are made")                                                                  \
	X(hash_root, "root of the chains")                                                                              \
	X(extra, "whatever else the values depend on")                                                                  \
	X(codec, "what loss the space allows below memory: a codec spec, or max_kl=NUMBER; empty: none")

enum { KVCI_SPACE_FIELD_BYTES_MAX = 4096 };

struct kvci_space {
#define KVCI_SPACE_MEMBER(field, text) char *field;
	KVCI_SPACE_FIELDS(KVCI_SPACE_MEMBER)
#undef KVCI_SPACE_MEMBER
};

/* model_name does not count. NULL counts as "". INVALID or TOO_BIG: a value that parse would refuse. */
kvc_status_t kvci_space_fingerprint(const struct kvci_space *space, uint8_t ret_fingerprint[KVCI_SPACE_BYTES]);
kvc_status_t kvci_space_copy(const struct kvci_space *from, struct kvci_space *ret_to);
void kvci_space_fini(struct kvci_space *space);
/* Serialised form (little-endian, for the wire and the ledger): field count u32, then for each: name length u16, name, value length u32, value. Unknown names
 * are refused (INVALID), also repeated ones, values that are not UTF-8 or have control characters other than tab and newline (they go to
 * logs and terminals), lengths that overrun, and bytes behind the last field; values over KVCI_SPACE_FIELD_BYTES_MAX are TOO_BIG. Serialising
 * leaves empty fields out, in KVCI_SPACE_FIELDS' order; after parse and copy no field is NULL. */
kvc_status_t kvci_space_parse(const void *bytes, size_t length_bytes, struct kvci_space *ret_space);
/* *ret_bytes: kvci_free it. */
kvc_status_t kvci_space_serialize(const struct kvci_space *space, void **ret_bytes, size_t *ret_length_bytes);
/* The first field in which two spaces differ (static storage), NULL when none counts. */
const char *kvci_space_difference(const struct kvci_space *a, const struct kvci_space *b);

#endif
