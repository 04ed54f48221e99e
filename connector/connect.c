/* SPDX-License-Identifier: Apache-2.0
 * The connection: HELLO, calls and their answers, hang-up, and the circuit that opens when the daemon is away or silent. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "connector/internal.h"

enum {
	CONNECT_DRAIN_MESSAGES = 4096, /* in one go: a daemon that floods must not hold a call for ever */
	CONNECT_UNSENT_FIRST = 64,
	CONNECT_REPLY_ALIGN = 64,
};

/* ---- calls ---- */

static void connect_reset_calls(struct kvc_client *client)
{
	client->call_round++;
	for (uint32_t i = 0; i < CLIENT_CALLS; i++) {
		client->calls[i].tag = 0;
		client->calls[i].next_free = i + 1;
	}
	client->free_call = 0;
	client->quick_calls = 0;
}

static bool connect_is_quick(uint16_t type)
{
	switch (type) {
	case KVCI_MESSAGE_LOAD:
	case KVCI_MESSAGE_EPOCH_RAISE:
	case KVCI_MESSAGE_FLUSH:
	case KVCI_MESSAGE_ADMIN:
		return false;
	default:
		return true;
	}
}

kvc_status_t connect_call(struct kvc_client *client, struct kvc_op *op, uint16_t type, uint64_t range_bytes,
                          call_answered answered, struct call **ret_call, struct kvci_message *ret_message)
{
	uint32_t slot = client->free_call;
	struct call *call;
	uint64_t offset;
	kvc_status_t status;

	if (slot >= CLIENT_CALLS) {
		client->starved = true;
		return KVC_BUSY;
	}
	status = kvci_window_take(&client->ranges, range_bytes, &offset);
	if (status != KVC_OK) {
		client->starved |= status == KVC_BUSY;
		return status;
	}
	call = &client->calls[slot];
	client->free_call = call->next_free;
	if (++client->call_round >= UINT32_MAX / CLIENT_CALLS)
		client->call_round = 1;
	call->tag = client->call_round * CLIENT_CALLS + slot;
	call->type = type;
	call->quick = connect_is_quick(type);
	call->op = op;
	call->space = NULL;
	call->answered = answered;
	call->context = 0;
	call->range_offset = offset;
	call->range_bytes = range_bytes;
	if (op != NULL)
		op->calls++;
	if (call->quick) {
		client->quick_calls++;
		if (client->quiet_since_ns == 0)
			client->quiet_since_ns = kvci_clock_ns();
	}
	kvci_message_init(ret_message, type, call->tag);
	*ret_call = call;
	return KVC_OK;
}

struct call *connect_find(struct kvc_client *client, uint32_t tag)
{
	struct call *call = &client->calls[tag % CLIENT_CALLS];

	return tag != 0 && call->tag == tag ? call : NULL;
}

static void connect_release(struct kvc_client *client, struct call *call)
{
	kvci_window_give(&client->ranges, call->range_offset, call->range_bytes);
	client->quick_calls -= call->quick;
	call->tag = 0;
	call->next_free = client->free_call;
	client->free_call = (uint32_t)(call - client->calls);
}

/* ---- sending ---- */

static bool connect_queue(struct kvc_client *client, const struct kvci_message *message)
{
	if (client->unsent_count == client->unsent_room) {
		uint32_t room = client->unsent_room == 0 ? CONNECT_UNSENT_FIRST : client->unsent_room * 2;
		struct kvci_message *grown = kvci_alloc(room * sizeof(*grown));

		if (grown == NULL)
			return false;
		for (uint32_t i = 0; i < client->unsent_count; i++)
			grown[i] = client->unsent[(client->unsent_first + i) % client->unsent_room];
		kvci_free(client->unsent);
		client->unsent = grown;
		client->unsent_room = room;
		client->unsent_first = 0;
		client->stats.allocations++;
	}
	client->unsent[(client->unsent_first + client->unsent_count++) % client->unsent_room] = *message;
	if (client->reader) /* it does not look for room to write yet */
		client_moved(client);
	return true;
}

void connect_send(struct kvc_client *client, const struct kvci_message *message)
{
	kvc_status_t status = KVC_BUSY;

	if (client->state == CONNECTION_CLOSED || client->broken)
		return;
	client->stats.messages_sent++;
	if (client->unsent_count == 0) {
		status = kvci_channel_send(client->socket_fd, message, -1);
		client->stats.syscalls++;
	}
	/* Without memory to keep it, the connection ends: what was promised to the daemon would otherwise be lost silently. */
	if (status == KVC_BUSY && !connect_queue(client, message))
		client->broken = true;
	if (status != KVC_OK && status != KVC_BUSY)
		client->broken = true;
}

static void connect_flush(struct kvc_client *client)
{
	while (client->unsent_count > 0) {
		kvc_status_t status = kvci_channel_send(client->socket_fd, &client->unsent[client->unsent_first], -1);

		client->stats.syscalls++;
		if (status == KVC_BUSY)
			return;
		if (status != KVC_OK) {
			client->broken = true;
			return;
		}
		client->unsent_first = (client->unsent_first + 1) % client->unsent_room;
		client->unsent_count--;
	}
}

void connect_tell(struct kvc_client *client, const struct kvci_message *message)
{
	if (client->state == CONNECTION_UP)
		connect_send(client, message);
}

static void connect_ponged(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	client->ping_sent = false;
}

void connect_ping(struct kvc_client *client)
{
	struct kvci_message message;
	struct call *call;

	if (client->state != CONNECTION_UP || client->ping_sent ||
	    connect_call(client, NULL, KVCI_MESSAGE_PING, 0, connect_ponged, &call, &message) != KVC_OK)
		return;
	client->ping_sent = true;
	connect_send(client, &message);
}

void connect_gave_up(struct kvc_client *client, const struct kvc_op *op)
{
	if (!op->kind->quick)
		connect_ping(client);
	client->gave_up = true;
}

/* ---- coming up ---- */

static void connect_later(struct kvc_client *client, bool was_up)
{
	if (was_up || client->backoff_ns == 0)
		client->backoff_ns = CLIENT_BACKOFF_FIRST_NS;
	else if (client->backoff_ns < CLIENT_BACKOFF_MAX_NS)
		client->backoff_ns = client->backoff_ns * 2 < CLIENT_BACKOFF_MAX_NS ? client->backoff_ns * 2 : CLIENT_BACKOFF_MAX_NS;
	client->retry_ns = kvci_clock_ns() + client->backoff_ns;
	client->stats.circuit_opened++;
}

/* A window that could shrink under us would kill the process at the next access. */
static kvc_status_t connect_map_window(struct kvc_client *client, uint64_t bytes, int fd)
{
	const int needed = F_SEAL_SHRINK;
	struct stat file;
	void *base;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & needed) != needed || fstat(fd, &file) != 0 || bytes < KVCI_WINDOW_UNIT_BYTES ||
	    bytes > (uint64_t)file.st_size || bytes > (UINT64_C(1) << 30))
		return KVC_PROTOCOL;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return kvc_status_from_errno(errno);
	madvise(base, bytes, MADV_DONTFORK);
	client->window = base;
	client->window_bytes = bytes;
	kvci_window_init(&client->ranges, bytes);
	return KVC_OK;
}

static void connect_greeted(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	kvc_status_t status = answer->status;

	if (client->state != CONNECTION_HELLO) {
		connect_protest(client, "a second HELLO");
		return;
	}
	if (status == KVC_OK)
		status = *fd < 0 ? KVC_PROTOCOL : connect_map_window(client, answer->a, *fd);
	client->hello_status = status;
	if (status != KVC_OK) {
		client->broken = true;
		return;
	}
	client->state = CONNECTION_UP;
	client->spin_ns = answer->c < CLIENT_SPIN_NS_MAX ? answer->c : CLIENT_SPIN_NS_MAX;
	client->backoff_ns = 0;
	client->stats.connects++;
}

static void connect_hello(struct kvc_client *client)
{
	struct kvci_message message;
	struct call *call;

	if (connect_call(client, NULL, KVCI_MESSAGE_HELLO, 0, connect_greeted, &call, &message) != KVC_OK) {
		client->broken = true; /* cannot be: all slots are free */
		return;
	}
	message.a = KVCI_PROTO_VERSION;
	message.flags = (client->flags & KVC_OPEN_SESSION_OWNER) != 0 ? KVCI_HELLO_SESSION_OWNER : 0;
	memcpy(message.id, client->session, sizeof(message.id));
	memcpy(message.text, client->name, sizeof(message.text));
	connect_send(client, &message);
}

static void connect_watch_user(struct kvc_client *client, bool add)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (client->user_fd < 0)
		return;
	epoll_ctl(client->user_fd, add ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, client->socket_fd, &event);
	client->stats.syscalls++;
}

kvc_status_t connect_begin(struct kvc_client *client)
{
	char error[256] = "";
	kvc_status_t status;

	if (client->embedded != NULL && client->generation > 0)
		return client_fail(KVC_GONE, "the embedded store has ended");
	if (client->embedded == NULL) {
		status = kvci_channel_connect(client->path, &client->socket_fd, error, sizeof(error));
		client->stats.syscalls += 2;
		if (status != KVC_OK) {
			client->socket_fd = -1;
			connect_later(client, false);
			return client_fail(status, "%s", error);
		}
	}
	client->generation++;
	client->state = CONNECTION_HELLO;
	client->broken = false;
	client->hello_status = KVC_PENDING;
	client->hello_ns = kvci_clock_ns() + client->connect_timeout_ns;
	kvci_window_init(&client->ranges, 0);
	connect_reset_calls(client);
	connect_watch_user(client, true);
	connect_hello(client);
	return KVC_OK;
}

/* ---- going down ---- */

void connect_close(struct kvc_client *client)
{
	bool was_up = client->state == CONNECTION_UP;

	if (client->state == CONNECTION_CLOSED)
		return;
	connect_watch_user(client, false);
	close(client->socket_fd);
	client->socket_fd = -1;
	client->state = CONNECTION_CLOSED;
	client->broken = false;
	if (client->hello_status == KVC_PENDING)
		client->hello_status = KVC_GONE;
	if (client->window != NULL)
		munmap(client->window, client->window_bytes);
	client->window = NULL;
	client->unsent_count = 0;
	client->quiet_since_ns = 0;
	client->gave_up = client->silent = client->ping_sent = client->starved = false;
	connect_reset_calls(client);
	client->reserver = NULL;
	for (struct kvc_space *space = client->spaces; space != NULL; space = space->next)
		space->bind_state = SPACE_UNBOUND;
	client->stats.disconnects++;
	connect_later(client, was_up);
	slabs_kill_all(client);
	ops_gone(client);
	client_moved(client);
}

void connect_protest(struct kvc_client *client, const char *what)
{
	client->stats.protocol_errors++;
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "client", "the daemon broke the protocol (%s): disconnecting", what);
	client->broken = true;
}

/* ---- what comes in ---- */

static void connect_heard(struct kvc_client *client)
{
	client->heard_ns = kvci_clock_ns();
	client->quiet_since_ns = client->quick_calls > 0 ? client->heard_ns : 0;
	client->gave_up = false;
	client->silent = false;
}

bool connect_is_status(int32_t status)
{
	switch (status) {
#define CONNECT_CASE(name, number, class_, text) case number:
		KVC_STATUS_TABLE(CONNECT_CASE)
#undef CONNECT_CASE
		return true;
	default:
		return false;
	}
}

static void connect_answer(struct kvc_client *client, const struct kvci_message *answer, int *fd)
{
	struct call *call = connect_find(client, answer->tag);
	struct kvc_op *op;

	if (call == NULL || call->type != answer->type) {
		connect_protest(client, "an answer to no question");
		return;
	}
	if (client->state == CONNECTION_HELLO && answer->type != KVCI_MESSAGE_HELLO) {
		connect_protest(client, "an answer before HELLO's");
		return;
	}
	/* Only RESERVE may say "not yet"; for all others an op would wait for ever. */
	if (!connect_is_status(answer->status) || (answer->status == KVC_PENDING && answer->type != KVCI_MESSAGE_RESERVE)) {
		connect_protest(client, "an answer without a status");
		return;
	}
	client->stats.round_trips++;
	/* Slot, range and op stay until the callback has read the reply. */
	op = call->op;
	call->answered(client, call, answer, fd);
	connect_release(client, call);
	if (op != NULL) {
		op->calls--;
		op_settle(op);
	}
}

static void connect_dispatch(struct kvc_client *client, const struct kvci_message *message, int *fd)
{
	struct call *call;

	switch (message->type) {
	case KVCI_MESSAGE_SLAB_GONE:
		slabs_gone(client, (uint32_t)message->a);
		break;
	case KVCI_MESSAGE_LOAD_PROGRESS:
	case KVCI_MESSAGE_LOAD_SECTIONS:
		call = connect_find(client, message->tag);
		if (call == NULL || call->type != KVCI_MESSAGE_LOAD || call->op == NULL)
			connect_protest(client, "progress of no load");
		else if (message->type == KVCI_MESSAGE_LOAD_PROGRESS)
			load_progress(client, call, message);
		else
			load_sections(client, call, message);
		break;
	default:
		if (message->tag != 0) /* 0: of what nobody waits for */
			connect_answer(client, message, fd);
	}
}

static void connect_receive(struct kvc_client *client)
{
	unsigned count = 0;

	while (count < CONNECT_DRAIN_MESSAGES && !client->broken) {
		struct kvci_message message;
		int fd = -1;
		kvc_status_t status = kvci_channel_receive(client->socket_fd, &message, &fd);

		client->stats.syscalls++;
		if (status == KVC_PENDING)
			break;
		if (status == KVC_PROTOCOL)
			connect_protest(client, "a message that is none");
		if (status != KVC_OK) {
			client->broken = true;
			break;
		}
		count++;
		client->stats.messages_received++;
		connect_dispatch(client, &message, &fd);
		if (fd >= 0)
			close(fd);
	}
	if (count == 0)
		return;
	connect_heard(client);
	if (client->waiters > 0 || client->reader)
		client_moved(client);
}

void connect_drain(struct kvc_client *client)
{
	if (client->state != CONNECTION_CLOSED && !client->broken) {
		connect_flush(client);
		connect_receive(client);
		if (client->starved && !client->broken) {
			client->starved = false;
			ops_resume(client);
		}
	}
	if (client->broken)
		connect_close(client);
}

kvc_status_t connect_ready(struct kvc_client *client)
{
	uint64_t now_ns = kvci_clock_ns();
	kvc_status_t status;

	switch (client->state) {
	case CONNECTION_CLOSED:
		if (now_ns < client->retry_ns)
			return client_fail(KVC_CIRCUIT_OPEN, "the daemon is away: next try in %llu ms",
			                   (unsigned long long)((client->retry_ns - now_ns) / KVCI_MS));
		status = connect_begin(client);
		if (status != KVC_OK)
			return kvc_status_class(status) == KVC_CLASS_CALLER ? KVC_GONE : status == KVC_BUSY ? KVC_CIRCUIT_OPEN : status;
		return client_fail(KVC_CIRCUIT_OPEN, "the daemon is being greeted");
	case CONNECTION_HELLO:
		if (now_ns < client->hello_ns)
			return client_fail(KVC_CIRCUIT_OPEN, "the daemon is being greeted");
		connect_close(client);
		return client_fail(KVC_CIRCUIT_OPEN, "the daemon does not answer");
	case CONNECTION_UP:
		break;
	}
	if (!client->silent && client->gave_up && client->quiet_since_ns != 0 &&
	    now_ns - client->quiet_since_ns >= CLIENT_SILENCE_NS) {
		client->silent = true;
		client->stats.circuit_opened++;
	}
	if (client->silent)
		return client_fail(KVC_CIRCUIT_OPEN, "the daemon has not answered for %llu ms",
		                   (unsigned long long)((now_ns - client->quiet_since_ns) / KVCI_MS));
	return KVC_OK;
}
