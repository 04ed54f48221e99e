/* SPDX-License-Identifier: Apache-2.0
 *
 * Server: the sockets. It listens, accepts, reads messages and hands them to their connection (serve.h), sends what the connection
 * answers, and sees when a client dies: by the hang-up of its socket, or by its pidfd when a forked child keeps the socket open.
 *
 * What goes to a client waits in a bounded queue of its own while it does not read; when the queue is full the client is cut off. A
 * client that is cut off may still be writing into its slab: all it held stays held until it hangs up itself, or dies.
 *
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_SERVER_H
#define KVCI_DAEMON_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/status.h>

#include "base/config.h"

struct kvci_core;
struct kvci_conn;
struct kvci_server;

kvc_status_t kvci_server_create(struct kvci_core *core, struct kvci_server **ret_server);
/* Ends all connections. NULL is fine. */
void kvci_server_destroy(struct kvci_server *server);
kvc_status_t kvci_server_listen(struct kvci_server *server, const struct kvci_socket *socket, char **ret_error);
/* A connected socket (embedded store); it is the server's from then on, also on failure. */
kvc_status_t kvci_server_adopt(struct kvci_server *server, int socket_fd, const char *tenant);
/* No new connections, and no more requests are read. */
void kvci_server_quiesce(struct kvci_server *server);

/* Once a turn in which anything happened: a step of each piece of work that was cut up, answers to what ended. True: more work waits. */
bool kvci_server_turn(struct kvci_server *server);
/* Tells those clients that know the slab. */
void kvci_server_slab_gone(struct kvci_server *server, uint32_t slab);
uint32_t kvci_server_client_count(const struct kvci_server *server);
/* NULL: it has gone. */
const struct kvci_conn *kvci_server_conn(const struct kvci_server *server, uint32_t client_id);
/* Each connection that said HELLO. */
void kvci_server_each(struct kvci_server *server, void (*visit)(void *context, const struct kvci_conn *conn), void *context);

#endif
