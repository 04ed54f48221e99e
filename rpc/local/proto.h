/* SPDX-License-Identifier: Apache-2.0
 *
 * Local protocol, version 1: between a client process and the daemon on one machine.
 *
 * A unix SOCK_SEQPACKET socket carries fixed-size messages (struct kvci_message), at most one fd each by SCM_RIGHTS. Arrays (keys, extents,
 * checksums, text) lie in the client's *window*: a memfd the daemon makes at HELLO, sealed against resizing, mapped read-write by both. The
 * client alone decides which ranges of its window are in use; a message names them by offset and length. The daemon copies an array
 * out before it checks it, and checks every offset, length, count and number: a bad one is answered with PROTOCOL, INVALID or TOO_BIG to
 * that client alone; a message of wrong size or unknown type, or anything before HELLO, ends the connection after an answer.
 *
 * Every request has a tag of the client's choice; its answer carries the same tag and type. Answers may come in any order. Types marked
 * [event] come unasked.
 *
 * Who may use a socket: its permission bits, and SO_PEERCRED (root, the daemon's user, or whom the mode admits). A socket belongs to one tenant.
 * Death of a client: hang-up of the socket, or of its pidfd (a forked child keeps a socket open).
 *
 * Shared memory of blocks:
 *   - a store slab is handed to its client by RESERVE's answer (PENDING with an fd): the client maps it read-write with MADV_DONTFORK, says
 *     SLAB_MAPPED; the daemon then adds F_SEAL_FUTURE_WRITE | SHRINK | GROW | SEAL and only from then on places blocks in it;
 *   - any other slab is fetched by SLAB_GET when an extent names it, sealed, mapped read-only;
 *   - slab ids are never reused by a daemon; SLAB_GONE tells clients to unmap.
 */
#ifndef KVCI_RPC_LOCAL_PROTO_H
#define KVCI_RPC_LOCAL_PROTO_H

#include <stdint.h>

#include "base/record.h"

#define KVCI_PROTO_MAGIC UINT32_C(0x4c435651) /* "QVCL" */

enum {
	KVCI_PROTO_VERSION = 1,
	KVCI_MESSAGE_BYTES = 192,
	KVCI_MESSAGE_TEXT_BYTES = 48,
	KVCI_PROTO_BLOCKS_MAX = 65536, /* entries in one array */
	KVCI_WINDOW_BYTES = 16 << 20,
};

/* X(NAME, number, what the fields mean) */
#define KVCI_MESSAGE_TABLE(X)                                                                                                       \
	X(HELLO, 1, "-> a: version, flags: KVCI_HELLO_*, id: session id, text: client name <- fd: window, a: its bytes, b: daemon pid, c: how long to look for a short answer before sleeping, ns, count: client id") \
	X(BIND, 2, "-> array: struct kvc_form, then serialised space fields (cache/space.h) <- binding, a: epoch, b: space index, id: the space's fingerprint (checksums are seeded with it)") \
	X(MATCH, 3, "-> binding, count, array: hashes, id: request, flags: KVCI_MATCH_* or KVCI_MATCH_EXTENTS, reply: room for bytes (EXISTS) or extents (EXTENTS), b: how late answers are for this client's CPU having slept, ns, or 0 <- count: matched, first: in memory, a: on disk, b: load bytes, c: miss cause, d: time it took, ns") \
	X(LOAD, 4, "-> id: request, first, count, reply: room for count struct kvci_wire_extent, flags: KVCI_LOAD_BY_SECTION or 0 <- LOAD_PROGRESS (and LOAD_SECTIONS) events, then this when all have a status") \
	X(LOAD_PROGRESS, 5, "[event] tag of the LOAD; entries [first, first + count) of its reply array have got a status other than PENDING") \
	X(LOAD_CANCEL, 6, "-> a: tag of the LOAD. Answered; the LOAD itself is answered CANCELED before")                                   \
	X(RELEASE, 7, "-> id: request. Not answered")                                                                                      \
	X(RESERVE, 8, "-> binding, count, array: struct kvci_wire_block, reply: count struct kvci_wire_reserved <- count: entries filled; PENDING: fd and a: slab, b: its bytes to map first, c: enum kvci_map_huge, how its pages are to be made") \
	X(SLAB_MAPPED, 9, "-> a: slab <- OK: sealed, usable")                                                                              \
	X(SLAB_GET, 10, "-> a: slab <- fd, b: bytes")                                                                                      \
	X(COMMIT, 11, "-> count, array: struct kvci_wire_commit each followed by its checksums, reply: count int32 statuses <- when all are in") \
	X(ABORT, 12, "-> a: reservation")                                                                                                  \
	X(DAMAGE, 13, "-> array: one struct kvci_wire_extent whose bytes a reader found wrong. Not answered")                              \
	X(EPOCH_RAISE, 14, "-> binding <- a: epoch, when durable")                                                                         \
	X(DROP, 15, "-> binding, array: one hash")                                                                                         \
	X(FLUSH, 16, "<- when all committed before is durable or counted as dropped")                                                      \
	X(ADMIN, 17, "-> text: question, array: JSON arguments or none <- fd: memfd with JSON, a: its bytes")                              \
	X(SLAB_GONE, 18, "[event] a: slab")                                                                                                \
	X(PING, 19, "<- a: daemon's monotonic ns")                                                                                         \
	X(SCORES, 20, "-> binding, count, a: bytes of scores a block, array: count hashes, then scores as many times. For blocks stored later or not yet on the disk") \
	X(LOAD_SECTIONS, 21, "[event] tag of a LOAD by section; of its entry `first`, not whole yet, the head and `count` sections can be read, with the table's entries of these and no others: a: offset, b: kvci_record_checksum_leading of them, c: slab, d: record bytes, binding: generation. Left out when the client does not read")

enum {
#define KVCI_MESSAGE_ENUM(name, number, text) KVCI_MESSAGE_##name = number,
	KVCI_MESSAGE_TABLE(KVCI_MESSAGE_ENUM)
#undef KVCI_MESSAGE_ENUM
};

enum {
	KVCI_HELLO_SESSION_OWNER = 1 << 0,
	KVCI_HELLO_NO_SESSION = 1 << 1, /* tools */
	KVCI_WIRE_MATCH_LEASE = 1 << 0,  /* = KVCI_MATCH_LEASE of cache/cache.h, which clients do not see */
	KVCI_WIRE_MATCH_EXISTS = 1 << 1, /* = KVCI_MATCH_EXISTS */
	KVCI_LOAD_BY_SECTION = 1 << 0,  /* a LOAD that takes sections before their block is whole */
	KVCI_MATCH_EXTENTS = 1 << 8,    /* with LEASE: attach at once, and give the extents of what is in memory */
};

struct kvci_message {
	uint32_t magic;
	uint16_t type;
	uint16_t flags_high; /* 0 */
	uint32_t tag;
	int32_t status;      /* answers: kvc_status_t; requests: 0 */
	uint32_t flags;
	uint32_t binding;
	uint32_t count;
	uint32_t first;
	uint64_t array_offset; /* in the window */
	uint64_t array_bytes;
	uint64_t reply_offset;
	uint64_t reply_bytes;
	uint64_t a, b, c, d;
	uint8_t id[16];
	char text[KVCI_MESSAGE_TEXT_BYTES]; /* NUL-terminated */
	uint8_t reserved[32];
};
_Static_assert(sizeof(struct kvci_message) == KVCI_MESSAGE_BYTES, "messages have one size");

struct kvci_wire_extent {
	int32_t status; /* PENDING until the daemon fills it */
	uint32_t slab;
	uint32_t generation;
	uint32_t reserved;
	uint64_t offset_bytes;
	uint64_t record_bytes;
	uint64_t record_checksum;
};
_Static_assert(sizeof(struct kvci_wire_extent) == 40, "wire extent");

struct kvci_wire_block {
	uint8_t hash[KVCI_HASH_BYTES];
	uint8_t parent_hash[KVCI_HASH_BYTES];
	uint64_t position_tokens;
	uint32_t token_count;
	uint32_t reserved;
};

struct kvci_wire_reserved {
	struct kvci_wire_extent extent; /* extent.status: see struct kvci_reserve */
	uint64_t reservation;
};

struct kvci_wire_commit {
	uint64_t reservation;
	uint32_t checksum_count;
	uint32_t reserved;
	/* uint64_t checksums[checksum_count] follow */
};

#endif
