/* SPDX-License-Identifier: Apache-2.0
 *
 * Channel: the unix SOCK_SEQPACKET socket between a client and the daemon. One call sends or receives one struct kvci_message
 * with at most one fd, and never blocks: sockets made here are non-blocking and close-on-exec.
 *
 * What comes in is checked as far as a message can be without its meaning: size, magic, zero where zero is due, text that ends, one fd at most.
 * Whatever fails that is PROTOCOL and has been taken off the socket; fds that came with it are closed.
 *
 * Threads: any; two threads must not receive from one socket at a time.
 */
#ifndef KVCI_RPC_LOCAL_CHANNEL_H
#define KVCI_RPC_LOCAL_CHANNEL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <kvcask/status.h>

#include "rpc/local/proto.h"

/* Zeroes a message and sets magic, type and tag. */
void kvci_message_init(struct kvci_message *message, uint16_t type, uint32_t tag);
/* "MATCH", or "?" for an unknown type. Static storage. */
const char *kvci_message_name(uint16_t type);

/* OK: sent whole. BUSY: the other side does not read at present, nothing was sent (wait for POLLOUT). GONE: it hung up. pass_fd: -1 for
 * none; it stays the caller's. */
kvc_status_t kvci_channel_send(int socket_fd, const struct kvci_message *message, int pass_fd);
/* OK: *ret_fd is the caller's, -1 when none came. PENDING: nothing is there. GONE: the other side hung up. PROTOCOL: a message that is none. */
kvc_status_t kvci_channel_receive(int socket_fd, struct kvci_message *ret_message, int *ret_fd);

/* Binds and listens. A socket file that nobody listens on is replaced; the file's permission bits are `mode` before anyone can connect.
 * TOO_BIG: the path is longer than a socket address; IN_USE: a living process listens there; EXISTS: the path is no socket;
 * NOT_FOUND: its folder is missing; DENIED. On failure `error` (error_bytes of room; may be NULL) gets a line for people. */
kvc_status_t kvci_channel_listen(const char *path, uint32_t mode, int *ret_fd, char *error, size_t error_bytes);
/* Removes the socket file when it is still the one that listen_fd is bound to, and closes listen_fd. */
void kvci_channel_unlisten(int listen_fd);

/* Who connected. */
struct kvci_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	int pidfd; /* readable when the process is dead; the caller's; -1: the kernel has none */
};
/* OK; PENDING: nobody waits; otherwise an error of accept (NO_MEMORY, BUSY: out of fds). */
kvc_status_t kvci_channel_accept(int listen_fd, int *ret_fd, struct kvci_peer *ret_peer);
/* Connects at once or not at all. GONE: nobody listens or no such file; BUSY: the backlog is full; PROTOCOL: a socket of another kind;
 * DENIED; TOO_BIG. */
kvc_status_t kvci_channel_connect(const char *path, int *ret_fd, char *error, size_t error_bytes);
/* Two connected ends (embedded store, tests). */
kvc_status_t kvci_channel_pair(int ret_fds[2]);

/* Longest path of a socket, without its NUL. */
size_t kvci_channel_path_max(void);

#endif
