/* SPDX-License-Identifier: Apache-2.0
 * A client from open to close, its lock, and how its threads wait. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "connector/internal.h"

#define CLIENT_STRING_(x) #x
#define CLIENT_STRING(x) CLIENT_STRING_(x)

static _Thread_local char client_error[512];

const char *kvc_version(void)
{
	return CLIENT_STRING(KVC_VERSION_MAJOR) "." CLIENT_STRING(KVC_VERSION_MINOR) "." CLIENT_STRING(KVC_VERSION_PATCH);
}

void kvc_free(void *memory)
{
	kvci_free(memory);
}

const char *kvc_last_error(void)
{
	return client_error;
}

kvc_status_t client_fail(kvc_status_t status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(client_error, sizeof(client_error), format, arguments);
	va_end(arguments);
	if (client_error[0] == '\0')
		snprintf(client_error, sizeof(client_error), "%s", kvc_status_text(status));
	return status;
}

kvc_status_t client_id(const void *bytes, size_t length_bytes, uint8_t ret_id[CLIENT_ID_BYTES])
{
	uint8_t digest[32];
	kvc_status_t status = kvci_sha256(bytes, length_bytes, digest);

	if (status == KVC_OK)
		memcpy(ret_id, digest, CLIENT_ID_BYTES);
	return status;
}

/* ---- lock and waiting ---- */

void client_lock(struct kvc_client *client)
{
	pthread_mutex_lock(&client->lock);
	client->stats.locks++;
}

void client_unlock(struct kvc_client *client)
{
	pthread_mutex_unlock(&client->lock);
}

static void client_ring(int fd)
{
	uint64_t one = 1;

	/* Fails only when the count is at its end, and then the fd is readable anyway. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static void client_hush(int fd)
{
	uint64_t rings;

	if (read(fd, &rings, sizeof(rings)) < 0)
		return;
}

void client_moved(struct kvc_client *client)
{
	if (client->waiters > 0)
		pthread_cond_broadcast(&client->moved);
	if (client->reader) {
		client_ring(client->wake_fd);
		client->stats.syscalls++;
	}
	if (client->user_fd >= 0 && !client->user_woken) {
		client->user_woken = true;
		client_ring(client->user_wake_fd);
		client->stats.syscalls++;
	}
}

static struct timespec client_timespec(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / KVCI_SECOND), .tv_nsec = (long)(ns % KVCI_SECOND)};
}

/* Whether something came within spin_ns. */
static bool client_spin(struct pollfd *fds, nfds_t count, uint64_t spin_ns, uint64_t until_ns)
{
	uint64_t end_ns = kvci_clock_ns() + spin_ns;

	do {
		if (poll(fds, count, 0) > 0)
			return true;
	} while (kvci_clock_ns() < (end_ns < until_ns ? end_ns : until_ns));
	return false;
}

/* The lock is not held. *ret_came: while it looked, before it slept. */
static bool client_poll_fds(struct kvc_client *client, int socket_fd, bool unsent, uint64_t until_ns, uint64_t spin_ns,
                            bool *ret_came)
{
	struct pollfd fds[2] = {
		{.fd = client->wake_fd, .events = POLLIN},
		{.fd = socket_fd, .events = (short)(unsent ? POLLIN | POLLOUT : POLLIN)},
	};
	nfds_t count = socket_fd >= 0 ? 2 : 1;

	*ret_came = spin_ns > 0 && client_spin(fds, count, spin_ns, until_ns);
	if (!*ret_came) {
		uint64_t now_ns = kvci_clock_ns();
		struct timespec timeout = client_timespec(until_ns > now_ns ? until_ns - now_ns : 0);

		ppoll(fds, count, until_ns == UINT64_MAX ? NULL : &timeout, NULL);
	}
	return fds[0].revents != 0;
}

void client_wait(struct kvc_client *client, uint64_t until_ns)
{
	client_wait_awake(client, until_ns, 0);
}

/* Whether to look this time. */
static bool client_spins(struct kvc_client *client)
{
	return kvci_lateness_matters(&client->lateness) && ++client->spin_turn % CLIENT_SPIN_TURNS != 0 &&
	       kvci_patience_try(&client->patience);
}

bool client_wait_awake(struct kvc_client *client, uint64_t until_ns, uint64_t spin_ns)
{
	if (client->reader) {
		struct timespec until = client_timespec(until_ns);

		client->waiters++;
		if (until_ns == UINT64_MAX)
			pthread_cond_wait(&client->moved, &client->lock);
		else
			pthread_cond_timedwait(&client->moved, &client->lock, &until);
		client->waiters--;
	} else {
		int socket_fd = client->socket_fd;
		bool unsent = client->unsent_count > 0, woken, came;

		if (spin_ns > 0 && !client_spins(client))
			spin_ns = 0;
		client->reader = true;
		client_unlock(client);
		woken = client_poll_fds(client, socket_fd, unsent, until_ns, spin_ns, &came);
		client_lock(client);
		client->reader = false;
		if (spin_ns > 0) {
			kvci_patience_learn(&client->patience, came);
			client->stats.spins++;
			client->stats.spins_answered += came;
		}
		client->stats.syscalls += woken ? 2 : 1;
		if (woken)
			client_hush(client->wake_fd);
		/* Whoever waits must look for a new reader: this thread may be done. */
		if (client->waiters > 0)
			pthread_cond_broadcast(&client->moved);
		return !came;
	}
	return true;
}

/* ---- public calls ---- */

static kvc_status_t client_check(const struct kvc_client *client)
{
	if (client == NULL || client->magic != CLIENT_MAGIC)
		return client_fail(KVC_INVALID, "no client");
	if (client->pid != getpid())
		return client_fail(KVC_INVALID, "a forked child must not use a client of its parent");
	return KVC_OK;
}

kvc_status_t client_enter(struct kvc_client *client)
{
	kvc_status_t status;

	client_error[0] = '\0';
	status = client_check(client);
	if (status != KVC_OK)
		return status;
	client_lock(client);
	client->stats.calls++;
	connect_drain(client);
	return KVC_OK;
}

kvc_status_t client_enter_up(struct kvc_client *client)
{
	kvc_status_t status = client_enter(client);

	if (status != KVC_OK)
		return status;
	status = connect_ready(client);
	if (status != KVC_OK) {
		client->stats.circuit_refused++;
		client_leave(client);
	}
	return status;
}

/* kvc_fd is readable when the next deadline comes. */
static void client_arm_user_timer(struct kvc_client *client)
{
	uint64_t next_ns = ops_expire(client);
	struct itimerspec timer = {.it_value = client_timespec(next_ns == UINT64_MAX ? 0 : next_ns)};

	if (next_ns == client->user_timer_ns)
		return;
	client->user_timer_ns = next_ns;
	timerfd_settime(client->user_timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
	client->stats.syscalls++;
}

void client_leave(struct kvc_client *client)
{
	if (client->user_fd >= 0)
		client_arm_user_timer(client);
	client_unlock(client);
}

kvc_status_t kvc_poll(struct kvc_client *client)
{
	kvc_status_t status = client_enter(client);

	if (status != KVC_OK)
		return status;
	status = connect_ready(client);
	ops_expire(client);
	while (ops_move_any(client))
		connect_drain(client);
	if (client->user_woken) {
		client->user_woken = false;
		client_hush(client->user_wake_fd);
	}
	if (client->user_fd >= 0)
		client_hush(client->user_timer_fd);
	client_leave(client);
	return status;
}

kvc_status_t kvc_health(struct kvc_client *client)
{
	kvc_status_t status = client_enter(client);

	if (status != KVC_OK)
		return status;
	status = connect_ready(client);
	if (status == KVC_OK) {
		/* One ping at a time; when the last one is overdue, the daemon does not answer. */
		if (client->ping_sent)
			client->gave_up = true;
		connect_ping(client);
		status = connect_ready(client);
	}
	client_leave(client);
	return status;
}

static kvc_status_t client_make_user_fd(struct kvc_client *client)
{
	struct epoll_event event = {.events = EPOLLIN};
	int fd = epoll_create1(EPOLL_CLOEXEC);
	int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd < 0 || wake_fd < 0 || timer_fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, wake_fd, &event) != 0 ||
	    epoll_ctl(fd, EPOLL_CTL_ADD, timer_fd, &event) != 0 ||
	    (client->socket_fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, client->socket_fd, &event) != 0)) {
		kvc_status_t status = kvc_status_from_errno(errno);

		if (fd >= 0)
			close(fd);
		if (wake_fd >= 0)
			close(wake_fd);
		if (timer_fd >= 0)
			close(timer_fd);
		return client_fail(status, "kvc_fd: %s", strerror(errno));
	}
	client->user_fd = fd;
	client->user_wake_fd = wake_fd;
	client->user_timer_fd = timer_fd;
	client->user_woken = true; /* of what came before nobody was told */
	client_ring(wake_fd);
	return KVC_OK;
}

int kvc_fd(struct kvc_client *client)
{
	int fd;

	if (client_enter(client) != KVC_OK)
		return -1;
	if (client->user_fd < 0)
		client_make_user_fd(client);
	fd = client->user_fd;
	client_leave(client);
	return fd;
}

/* ---- open and close ---- */

static kvc_status_t client_set_options(struct kvc_client *client, const struct kvc_open_options *options)
{
	const char *name = options->name != NULL ? options->name : program_invocation_short_name;

	client->flags = options->flags;
	client->connect_timeout_ns = options->connect_timeout_ns != 0 ? options->connect_timeout_ns : CLIENT_CONNECT_NS;
	snprintf(client->name, sizeof(client->name), "%s", name);
	if (options->session != NULL)
		return client_id(options->session, strlen(options->session), client->session);
	client->flags |= KVC_OPEN_SESSION_OWNER; /* a session of one's own */
	return getrandom(client->session, sizeof(client->session), 0) == (ssize_t)sizeof(client->session)
	           ? KVC_OK
	           : kvc_status_from_errno(errno);
}

static kvc_status_t client_set_target(struct kvc_client *client, const char *target)
{
	if (strncmp(target, "unix:", 5) == 0) {
		client->path = kvci_strdup(target + 5);
		return client->path != NULL ? KVC_OK : client_fail(KVC_NO_MEMORY, "open");
	}
	if (strncmp(target, "embedded:", 9) == 0)
		return embedded_start(target + 9, &client->embedded, &client->socket_fd);
	return client_fail(KVC_INVALID, "target is neither unix:PATH nor embedded:DIR: %s", target);
}

static void client_init_conds(struct kvc_client *client)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&client->moved, &attributes);
	pthread_cond_init(&client->mover_wake, &attributes);
	pthread_cond_init(&client->pager_wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

/* Threads of the library take no signals of the program. */
static kvc_status_t client_start_mover(struct kvc_client *client)
{
	sigset_t all, before;
	int failure;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failure = pthread_create(&client->mover, NULL, ops_mover, client);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failure != 0)
		return client_fail(kvc_status_from_errno(failure), "mover thread: %s", strerror(failure));
	client->mover_runs = true;
	pthread_setname_np(client->mover, "kvc-mover");
	return KVC_OK;
}

/* Until HELLO is answered. The lock is held. */
static kvc_status_t client_greet(struct kvc_client *client)
{
	uint64_t until_ns = kvci_clock_ns() + client->connect_timeout_ns;
	kvc_status_t status;

	while ((status = connect_begin(client)) == KVC_BUSY && kvci_clock_ns() < until_ns) {
		client->backoff_ns = 0;
		client_wait(client, kvci_clock_ns() + KVCI_MS);
	}
	if (status != KVC_OK)
		return status == KVC_BUSY ? client_fail(KVC_TIMED_OUT, "the daemon does not accept connections") : status;
	while (client->state == CONNECTION_HELLO && kvci_clock_ns() < until_ns) {
		client_wait(client, until_ns);
		connect_drain(client);
	}
	if (client->state == CONNECTION_UP)
		return KVC_OK;
	if (client->state == CONNECTION_HELLO) {
		connect_close(client);
		return client_fail(KVC_TIMED_OUT, "the daemon does not answer");
	}
	return client_fail(client->hello_status, "the daemon refused the connection: %s", kvc_status_text(client->hello_status));
}

static bool client_may_come_later(kvc_status_t status)
{
	return status == KVC_GONE || status == KVC_TIMED_OUT || kvc_status_class(status) == KVC_CLASS_RETRY;
}

static kvc_status_t client_begin(struct kvc_client *client, const char *target, const struct kvc_open_options *options)
{
	kvc_status_t status = client_set_options(client, options);

	if (status == KVC_OK)
		status = client_set_target(client, target);
	if (status != KVC_OK)
		return status;
	client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (client->wake_fd < 0)
		return client_fail(kvc_status_from_errno(errno), "eventfd: %s", strerror(errno));
	if ((client->flags & KVC_OPEN_MOVER) != 0)
		status = client_start_mover(client);
	if (status != KVC_OK)
		return status;
	client_lock(client);
	status = client_greet(client);
	client_unlock(client);
	if ((client->flags & KVC_OPEN_LAZY) != 0 && client->embedded == NULL && client_may_come_later(status))
		status = KVC_OK;
	return status;
}

kvc_status_t kvc_open(const char *target, const struct kvc_open_options *options, struct kvc_client **ret_client)
{
	static const struct kvc_open_options defaults = {.struct_bytes = sizeof(defaults)};
	struct kvc_client *client;
	kvc_status_t status;

	client_error[0] = '\0';
	if (target == NULL || ret_client == NULL)
		return client_fail(KVC_INVALID, "target or ret_client is NULL");
	if (options == NULL)
		options = &defaults;
	if (options->struct_bytes != sizeof(*options))
		return client_fail(KVC_INVALID, "options.struct_bytes is %u, not %zu", options->struct_bytes, sizeof(*options));
	if ((options->flags & ~(uint32_t)(KVC_OPEN_MOVER | KVC_OPEN_SESSION_OWNER | KVC_OPEN_LAZY)) != 0)
		return client_fail(KVC_INVALID, "options.flags: unknown bit in %#x", options->flags);
	client = kvci_alloc_zero(1, sizeof(*client));
	if (client == NULL)
		return client_fail(KVC_NO_MEMORY, "open");
	client->magic = CLIENT_MAGIC;
	client->pid = getpid();
	client->socket_fd = client->wake_fd = client->user_fd = client->user_wake_fd = client->user_timer_fd = -1;
	client->user_timer_ns = UINT64_MAX;
	pthread_mutex_init(&client->lock, NULL);
	client_init_conds(client);
	status = client_begin(client, target, options);
	if (status != KVC_OK) {
		char error[sizeof(client_error)];

		memcpy(error, client_error, sizeof(error));
		kvc_close(client);
		memcpy(client_error, error, sizeof(error));
		return status;
	}
	*ret_client = client;
	return KVC_OK;
}

/* The lock is held: ends all ops and waits for their copies, for the mover and for the pager. */
static void client_stop(struct kvc_client *client)
{
	client->closing = true;
	for (struct kvc_op *op = client->ops; op != NULL; op = op->next)
		op_stop(op, KVC_CANCELED);
	client_moved(client);
	pthread_cond_broadcast(&client->mover_wake);
	client_unlock(client);
	if (client->mover_runs)
		pthread_join(client->mover, NULL);
	client_lock(client);
	slabs_stop(client);
}

static void client_free_all(struct kvc_client *client)
{
	while (client->ops != NULL) {
		client->ops->calls = 0;
		op_detach(client->ops);
	}
	while (client->spares != NULL) {
		struct kvc_op *op = client->spares;

		client->spares = op->next;
		kvci_free(op);
	}
	while (client->reservations != NULL) {
		struct client_reservation *reservation = client->reservations;

		client->reservations = reservation->next;
		slabs_put(client, reservation->slab);
		kvci_free(reservation);
	}
	while (client->spaces != NULL)
		space_destroy(client->spaces);
}

static void client_close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void kvc_close(struct kvc_client *client)
{
	if (client == NULL || client->magic != CLIENT_MAGIC || client->pid != getpid())
		return;
	client_lock(client);
	client_stop(client);
	client->flags |= KVC_OPEN_LAZY;
	connect_close(client);
	client_free_all(client);
	slabs_kill_all(client);
	client_unlock(client);
	/* A store whose thread ended before HELLO left the socket here. */
	client_close_fd(client->socket_fd);
	client_close_fd(client->user_fd);
	client_close_fd(client->user_wake_fd);
	client_close_fd(client->user_timer_fd);
	client_close_fd(client->wake_fd);
	embedded_stop(client->embedded);
	pthread_cond_destroy(&client->moved);
	pthread_cond_destroy(&client->mover_wake);
	pthread_cond_destroy(&client->pager_wake);
	pthread_mutex_destroy(&client->lock);
	kvci_free(client->unsent);
	kvci_free(client->path);
	client->magic = 0;
	kvci_free(client);
}
