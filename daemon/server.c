/* SPDX-License-Identifier: Apache-2.0
 * Sockets: accept, receive, the queue of what a client does not read yet, and the three ways in which a client goes. */
#include "daemon/server.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/core.h"
#include "daemon/serve.h"
#include "rpc/local/channel.h"

enum {
	SERVER_CLIENTS_MAX = 4096,
	SERVER_CLIENTS_LEAST = 8,
	SERVER_FDS_OTHERS = 192,   /* slabs, segments, the index */
	SERVER_FDS_PER_CLIENT = 4, /* socket, pidfd, window, an answer's */
	SERVER_QUEUE_MAX = 1024,   /* messages a client has not read, beyond what its socket holds */
	SERVER_QUEUE_FDS_MAX = 16, /* fds among them: an answer in one can be long */
	SERVER_RECEIVE_TURN = 16,  /* messages of one client before the others have their turn */
	SERVER_ACCEPT_TURN = 16,
};
#define SERVER_TURN_NS (150 * 1000) /* and no more than this of one client at a time */
#define SERVER_ACCEPT_PAUSE_NS (UINT64_C(100) * 1000 * 1000)

struct server_queued {
	struct server_queued *next;
	struct kvci_message message;
	int fd; /* a duplicate; -1: none */
};

struct server_client {
	struct server_client *next, *prev;
	struct kvci_server *server;
	struct kvci_conn *conn;
	int fd, pidfd;
	struct kvci_watch *watch, *pid_watch;
	uint32_t watched;     /* epoll events asked for */
	bool ending;          /* no more messages are taken: closed when its queue is sent */
	bool cut;             /* its write side is shut: waits for its hang-up or death */
	bool overrun;         /* its queue was full */
	bool awake;           /* in need of step and finish this turn: in server->awake */
	struct server_client *awake_next;
	struct server_queued *queue, **queue_end;
	uint32_t queued, queued_fds;
};

struct server_listener {
	struct server_listener *next;
	struct kvci_server *server;
	struct kvci_watch *watch;
	char *tenant;
	uint32_t mode;
	int fd;
};

struct kvci_server {
	struct kvci_core *core;
	struct server_listener *listeners;
	struct server_client *clients;
	struct server_client *awake;
	struct kvci_timer accept_again; /* armed while no listener is watched */
	uint32_t client_count, clients_max;
	bool quiet;
};

static void server_client_gone(struct server_client *client, const char *why);

static void server_wake(void *context)
{
	struct server_client *client = context;

	if (!client->awake) {
		client->awake = true;
		client->awake_next = client->server->awake;
		client->server->awake = client;
	}
	kvci_core_wake(client->server->core);
}

static void server_forget_awake(struct server_client *client)
{
	struct server_client **place = &client->server->awake;

	while (*place != NULL && *place != client)
		place = &(*place)->awake_next;
	if (*place != NULL)
		*place = client->awake_next;
	client->awake = false;
}

/* ---- what goes out ---- */

static void server_watch(struct server_client *client)
{
	struct kvci_server *server = client->server;
	bool listens = !client->ending && !client->cut && !server->quiet && !kvci_conn_busy(client->conn);
	uint32_t events = (listens ? EPOLLIN : 0) | (client->queue != NULL && !client->cut ? EPOLLOUT : 0);

	if (events == client->watched)
		return;
	client->watched = events;
	kvci_loop_rewatch(server->core->loop, client->watch, events);
}

static void server_queue_drop(struct server_client *client)
{
	struct server_queued *queued = client->queue;

	client->queue = queued->next;
	if (client->queue == NULL)
		client->queue_end = &client->queue;
	client->queued--;
	if (queued->fd >= 0) {
		close(queued->fd);
		client->queued_fds--;
	}
	kvci_free(queued);
}

static void server_queue(struct server_client *client, const struct kvci_message *message, int fd)
{
	struct server_queued *queued = NULL;

	if (client->queued < SERVER_QUEUE_MAX && (fd < 0 || client->queued_fds < SERVER_QUEUE_FDS_MAX))
		queued = kvci_alloc_zero(1, sizeof(*queued));
	if (queued != NULL) {
		queued->message = *message;
		queued->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	}
	if (queued == NULL || (fd >= 0 && queued->fd < 0)) {
		kvci_free(queued);
		client->overrun = true; /* seen in this turn */
		server_wake(client);
		return;
	}
	*client->queue_end = queued;
	client->queue_end = &queued->next;
	client->queued++;
	client->queued_fds += fd >= 0;
	server_watch(client);
}

static void server_send(void *context, const struct kvci_message *message, int fd)
{
	struct server_client *client = context;

	if (client->cut || client->overrun)
		return;
	if (client->queue == NULL) {
		kvc_status_t status = kvci_channel_send(client->fd, message, fd);

		if (status == KVC_OK || status == KVC_GONE)
			return; /* its hang-up comes by the loop */
	}
	server_queue(client, message, fd);
}

static uint32_t server_backlog(void *context)
{
	return ((const struct server_client *)context)->queued;
}

static void server_flush_queue(struct server_client *client)
{
	while (client->queue != NULL) {
		kvc_status_t status = kvci_channel_send(client->fd, &client->queue->message, client->queue->fd);

		if (status == KVC_BUSY)
			break;
		server_queue_drop(client); /* also when it is gone */
	}
	server_watch(client);
}

/* ---- the ways in which a client goes ---- */

/* We end it: it may still be writing into its slab, so its memory stays until it hangs up or dies. */
static void server_cut(struct server_client *client, const char *why, bool half_closed)
{
	if (client->cut)
		return;
	client->cut = true;
	kvci_conn_mute(client->conn);
	while (client->queue != NULL)
		server_queue_drop(client);
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "server", "client %u is cut off: %s", kvci_conn_client(client->conn), why);
	kvci_stat_add(&client->server->core->stats, KVCI_STAT_CLIENTS_CUT_OFF, 1);
	/* With both directions shut the socket would read as hung up while the client lives. */
	if (!half_closed)
		shutdown(client->fd, SHUT_WR);
	server_watch(client);
}

/* Nothing was promised to one that never said HELLO, and nothing is in its hands. */
static void server_end(struct server_client *client)
{
	client->ending = true;
	if (client->queue != NULL) {
		server_watch(client);
		return;
	}
	if (kvci_conn_client(client->conn) == 0)
		server_client_gone(client, "ended");
	else
		server_cut(client, "it does not keep to the protocol", false);
}

static void server_client_gone(struct server_client *client, const char *why)
{
	struct kvci_server *server = client->server;
	uint32_t id = kvci_conn_client(client->conn);
	uint64_t begin_ns = kvci_clock_ns();

	kvci_loop_unwatch(server->core->loop, client->watch);
	kvci_loop_unwatch(server->core->loop, client->pid_watch);
	kvci_conn_destroy(client->conn);
	server_forget_awake(client);
	while (client->queue != NULL)
		server_queue_drop(client);
	close(client->fd);
	if (client->pidfd >= 0)
		close(client->pidfd);
	if (client->prev != NULL)
		client->prev->next = client->next;
	else
		server->clients = client->next;
	if (client->next != NULL)
		client->next->prev = client->prev;
	server->client_count--;
	kvci_free(client);
	if (id != 0)
		kvci_log(KVCI_LOG_DEBUG, "server", "client %u: %s; let go in %" PRIu64 " us", id, why,
		         (kvci_clock_ns() - begin_ns) / 1000);
	kvci_core_wake(server->core);
}

static void server_client_died(void *context, uint32_t epoll_events)
{
	server_client_gone(context, "its process died");
}

/* ---- what comes in ---- */

static int server_poll(const struct server_client *client)
{
	struct pollfd poll_fd = {.fd = client->fd, .events = POLLRDHUP};

	return poll(&poll_fd, 1, 0) == 1 ? poll_fd.revents : 0;
}

static bool server_receive_one(struct server_client *client)
{
	struct kvci_message message;
	int fd = -1, hung_up;
	kvc_status_t status = kvci_channel_receive(client->fd, &message, &fd);

	if (fd >= 0) { /* no message of a client brings one */
		close(fd);
		status = status == KVC_OK ? KVC_PROTOCOL : status;
	}
	switch (status) {
	case KVC_OK:
		if (!kvci_conn_handle(client->conn, &message)) {
			server_end(client);
			return false;
		}
		return true;
	case KVC_PENDING:
		return false;
	case KVC_GONE:
		/* Or it has shut one direction only, or sent an empty message, and lives on. */
		hung_up = server_poll(client);
		if ((hung_up & (POLLHUP | POLLERR)) != 0)
			server_client_gone(client, "hung up");
		else
			server_cut(client, "it sends no more messages", (hung_up & POLLRDHUP) != 0);
		return false;
	default: {
		struct kvci_message answer;

		kvci_message_init(&answer, 0, 0);
		answer.status = KVC_PROTOCOL;
		kvci_stat_add(&client->server->core->stats, KVCI_STAT_PROTOCOL_ERRORS, 1);
		server_send(client, &answer, -1);
		server_end(client);
		return false;
	}
	}
}

static void server_client_ready(void *context, uint32_t epoll_events)
{
	struct server_client *client = context;
	uint64_t begin_ns = kvci_clock_ns();

	/* A hang-up comes with what was sent before it: unread, it changes nothing, as nobody waits for it. */
	if ((epoll_events & (EPOLLHUP | EPOLLERR)) != 0) {
		server_client_gone(client, "hung up");
		return;
	}
	kvci_core_wake(client->server->core);
	if ((epoll_events & EPOLLOUT) != 0) {
		server_flush_queue(client);
		if (client->ending && client->queue == NULL) {
			server_end(client);
			return;
		}
	}
	if ((epoll_events & EPOLLIN) == 0 || client->ending || client->cut)
		return;
	for (unsigned i = 0; i < SERVER_RECEIVE_TURN; i++) {
		if (!server_receive_one(client))
			return; /* it may be gone */
		if (kvci_conn_busy(client->conn))
			break;
		if (kvci_clock_ns() - begin_ns > SERVER_TURN_NS)
			break;
	}
	server_watch(client);
}

bool kvci_server_turn(struct kvci_server *server)
{
	struct server_client *client = server->awake;
	struct server_client *busy = NULL;

	server->awake = NULL;
	while (client != NULL) {
		struct server_client *next = client->awake_next;

		if (client->overrun && !client->cut)
			server_cut(client, "it does not read its answers", false);
		kvci_conn_step(client->conn);
		client->awake = false;
		kvci_conn_finish(client->conn);
		if (kvci_conn_busy(client->conn) && !client->awake) {
			client->awake = true;
			client->awake_next = busy;
			busy = client;
		}
		server_watch(client);
		client = next;
	}
	/* For the next turn, in front of those that woke up meanwhile. */
	while (busy != NULL) {
		struct server_client *next = busy->awake_next;

		busy->awake_next = server->awake;
		server->awake = busy;
		busy = next;
	}
	return server->awake != NULL;
}

/* ---- new clients ---- */

static kvc_status_t server_add(struct kvci_server *server, int fd, const char *tenant, const struct kvci_peer *peer)
{
	struct kvci_conn_peer who = {.pid = peer->pid, .uid = peer->uid, .gid = peer->gid};
	struct server_client *client = kvci_alloc_zero(1, sizeof(*client));
	struct kvci_conn_out out = {.context = client, .send = server_send, .backlog = server_backlog, .wake = server_wake};
	kvc_status_t status;

	if (client == NULL)
		return KVC_NO_MEMORY;
	client->server = server;
	client->fd = fd;
	client->pidfd = peer->pidfd;
	client->queue_end = &client->queue;
	client->watched = EPOLLIN;
	status = kvci_conn_create(server->core, tenant, &who, &out, &client->conn);
	if (status == KVC_OK)
		status = kvci_loop_watch(server->core->loop, fd, EPOLLIN, server_client_ready, client, &client->watch);
	if (status == KVC_OK && client->pidfd >= 0)
		status = kvci_loop_watch(server->core->loop, client->pidfd, EPOLLIN, server_client_died, client,
		                         &client->pid_watch);
	if (status != KVC_OK) {
		kvci_loop_unwatch(server->core->loop, client->watch);
		kvci_conn_destroy(client->conn);
		kvci_free(client);
		return status;
	}
	client->next = server->clients;
	if (client->next != NULL)
		client->next->prev = client;
	server->clients = client;
	server->client_count++;
	kvci_stat_add(&server->core->stats, KVCI_STAT_CLIENTS_ACCEPTED, 1);
	return KVC_OK;
}

/* The socket file's permissions let it in; a socket for the owner alone takes no one else, whatever the folder's file system thinks. */
static bool server_admits(const struct server_listener *listener, const struct kvci_peer *peer)
{
	return peer->uid == 0 || peer->uid == geteuid() || (listener->mode & 0066) != 0;
}

static void server_watch_listeners(struct kvci_server *server, uint32_t epoll_events)
{
	for (struct server_listener *listener = server->listeners; listener != NULL; listener = listener->next)
		kvci_loop_rewatch(server->core->loop, listener->watch, epoll_events);
}

static void server_accept_again(void *context)
{
	server_watch_listeners(context, EPOLLIN);
}

/* Who waits to be accepted keeps the socket ready: without a pause the loop would turn for nothing else. */
static void server_accept_failed(struct kvci_server *server, kvc_status_t status)
{
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "server", "cannot accept a client: %s",
	                 status == KVC_BUSY ? "no file descriptor is free (ulimit -n)" : kvc_status_text(status));
	if (kvci_loop_timer_arm(server->core->loop, &server->accept_again, kvci_clock_ns() + SERVER_ACCEPT_PAUSE_NS) == KVC_OK)
		server_watch_listeners(server, 0);
}

static void server_accept(void *context, uint32_t epoll_events)
{
	struct server_listener *listener = context;
	struct kvci_server *server = listener->server;

	for (unsigned i = 0; i < SERVER_ACCEPT_TURN; i++) {
		struct kvci_peer peer;
		kvc_status_t status;
		int fd;

		status = kvci_channel_accept(listener->fd, &fd, &peer);
		if (status == KVC_PENDING)
			return;
		if (status != KVC_OK) {
			server_accept_failed(server, status);
			return;
		}
		if (!server_admits(listener, &peer))
			status = KVC_DENIED;
		else if (server->client_count >= server->clients_max)
			status = KVC_BUSY;
		else
			status = server_add(server, fd, listener->tenant, &peer);
		if (status == KVC_OK)
			continue;
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "server", "client of process %d (uid %u) refused: %s", (int)peer.pid,
		                 (unsigned)peer.uid, status == KVC_BUSY ? "too many clients" : kvc_status_text(status));
		close(fd);
		if (peer.pidfd >= 0)
			close(peer.pidfd);
	}
}

kvc_status_t kvci_server_adopt(struct kvci_server *server, int fd, const char *tenant)
{
	struct kvci_peer peer = {.pid = getpid(), .uid = geteuid(), .gid = getegid(), .pidfd = -1};
	kvc_status_t status = server_add(server, fd, tenant, &peer);

	if (status != KVC_OK)
		close(fd);
	return status;
}

/* ---- life ---- */

/* A flood of clients must not take the descriptors that blocks need. */
static uint32_t server_clients_max(void)
{
	struct rlimit limit;
	uint64_t most;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return SERVER_CLIENTS_MAX;
	most = limit.rlim_cur > SERVER_FDS_OTHERS ? (limit.rlim_cur - SERVER_FDS_OTHERS) / SERVER_FDS_PER_CLIENT : 0;
	if (most < SERVER_CLIENTS_LEAST)
		return SERVER_CLIENTS_LEAST;
	return most < SERVER_CLIENTS_MAX ? (uint32_t)most : SERVER_CLIENTS_MAX;
}

kvc_status_t kvci_server_create(struct kvci_core *core, struct kvci_server **ret_server)
{
	struct kvci_server *server = kvci_alloc_zero(1, sizeof(*server));

	if (server == NULL)
		return KVC_NO_MEMORY;
	server->core = core;
	server->clients_max = server_clients_max();
	server->accept_again = (struct kvci_timer){.run = server_accept_again, .context = server};
	*ret_server = server;
	return KVC_OK;
}

kvc_status_t kvci_server_listen(struct kvci_server *server, const struct kvci_socket *socket, char **ret_error)
{
	struct server_listener *listener = kvci_alloc_zero(1, sizeof(*listener));
	char error[512] = "";
	kvc_status_t status = KVC_NO_MEMORY;

	if (listener == NULL)
		return KVC_NO_MEMORY;
	listener->fd = -1;
	listener->server = server;
	listener->mode = socket->mode;
	listener->tenant = kvci_strdup(socket->tenant != NULL ? socket->tenant : "default");
	if (listener->tenant == NULL)
		goto fail;
	status = kvci_channel_listen(socket->path, socket->mode, &listener->fd, error, sizeof(error));
	if (status != KVC_OK) {
		*ret_error = kvci_strdup(error[0] != '\0' ? error : kvc_status_text(status));
		goto fail;
	}
	status = kvci_loop_watch(server->core->loop, listener->fd, EPOLLIN, server_accept, listener, &listener->watch);
	if (status != KVC_OK)
		goto fail;
	listener->next = server->listeners;
	server->listeners = listener;
	return KVC_OK;
fail:
	if (listener->fd >= 0)
		kvci_channel_unlisten(listener->fd);
	kvci_free(listener->tenant);
	kvci_free(listener);
	return status;
}

static void server_unlisten(struct kvci_server *server)
{
	kvci_loop_timer_disarm(server->core->loop, &server->accept_again);
	while (server->listeners != NULL) {
		struct server_listener *listener = server->listeners;

		server->listeners = listener->next;
		kvci_loop_unwatch(server->core->loop, listener->watch);
		kvci_channel_unlisten(listener->fd);
		kvci_free(listener->tenant);
		kvci_free(listener);
	}
}

void kvci_server_quiesce(struct kvci_server *server)
{
	server->quiet = true;
	server_unlisten(server);
	for (struct server_client *client = server->clients; client != NULL; client = client->next)
		server_watch(client);
}

void kvci_server_destroy(struct kvci_server *server)
{
	if (server == NULL)
		return;
	server_unlisten(server);
	while (server->clients != NULL)
		server_client_gone(server->clients, "the daemon ends");
	kvci_free(server);
}

void kvci_server_slab_gone(struct kvci_server *server, uint32_t slab)
{
	for (struct server_client *client = server->clients; client != NULL; client = client->next)
		kvci_conn_slab_gone(client->conn, slab);
}

uint32_t kvci_server_client_count(const struct kvci_server *server)
{
	return server->client_count;
}

const struct kvci_conn *kvci_server_conn(const struct kvci_server *server, uint32_t client_id)
{
	for (struct server_client *client = server->clients; client != NULL; client = client->next)
		if (kvci_conn_client(client->conn) == client_id)
			return client->conn;
	return NULL;
}

void kvci_server_each(struct kvci_server *server, void (*visit)(void *context, const struct kvci_conn *conn), void *context)
{
	for (struct server_client *client = server->clients; client != NULL; client = client->next)
		if (kvci_conn_client(client->conn) != 0)
			visit(context, client->conn);
}
