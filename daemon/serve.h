/* SPDX-License-Identifier: Apache-2.0
 *
 * Serve: the daemon's side of the local protocol (rpc/local/proto.h), apart from sockets. A connection takes messages one by one, checks
 * every number in them, turns them into calls of the brain, and sends answers through `out`. So tests and the fuzzer can drive it
 * with nothing but memory.
 *
 *   messages -> kvci_conn_handle -> (work cut up into steps: kvci_conn_step) -> out->send
 *                                -> (operations under way: loads, flushes, ...) -> kvci_conn_finish -> out->send
 *
 * A message that is cut up is finished before the next of the same client is taken; operations under way do not hold up anything.
 * Arrays are copied out of the window before they are checked: the client may change the window at any time.
 *
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_SERVE_H
#define KVCI_DAEMON_SERVE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <kvcask/status.h>

#include "rpc/local/proto.h"

struct kvci_core;
struct kvci_conn;

struct kvci_conn_out {
	void *context;
	/* Sends or queues; fd (-1: none) stays the caller's. Never fails: a client that cannot take it is cut off, later. */
	void (*send)(void *context, const struct kvci_message *message, int fd);
	/* How many messages wait because the client does not read. NULL: never any. */
	uint32_t (*backlog)(void *context);
	/* The connection has work or ended operations: step and finish it in this turn. */
	void (*wake)(void *context);
};

/* Who is at the other end, for `kvcask clients`. */
struct kvci_conn_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

kvc_status_t kvci_conn_create(struct kvci_core *core, const char *tenant, const struct kvci_conn_peer *peer,
                              const struct kvci_conn_out *out, struct kvci_conn **ret_conn);
/* The client is dead, or was never more than a socket: the brain frees what it held. NULL is fine. */
void kvci_conn_destroy(struct kvci_conn *conn);
/* Takes one message that kvci_channel_receive found well formed. False: the connection is over (its answer has been sent). */
bool kvci_conn_handle(struct kvci_conn *conn, const struct kvci_message *message);
/* A message is still being worked on: no other may be given before it is done. */
bool kvci_conn_busy(const struct kvci_conn *conn);
/* One step of it. */
void kvci_conn_step(struct kvci_conn *conn);
/* Answers to operations that have ended or come further. */
void kvci_conn_finish(struct kvci_conn *conn);
/* Cancels what is under way; sends nothing any more. What the client holds stays held (until destroy). */
void kvci_conn_mute(struct kvci_conn *conn);
/* SLAB_GONE, if the client ever got it. */
void kvci_conn_slab_gone(struct kvci_conn *conn, uint32_t slab);
/* 0 before HELLO. */
uint32_t kvci_conn_client(const struct kvci_conn *conn);
/* The client's window as the daemon maps it; NULL before HELLO. */
void *kvci_conn_window(const struct kvci_conn *conn, uint64_t *ret_bytes);

struct kvci_conn_info {
	uint32_t client;
	const char *name, *tenant;
	struct kvci_conn_peer peer;
	uint64_t since_ns; /* monotonic */
	uint64_t messages, operations;
	uint32_t bindings;
};
void kvci_conn_info(const struct kvci_conn *conn, struct kvci_conn_info *ret_info);

#endif
