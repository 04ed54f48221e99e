/* SPDX-License-Identifier: Apache-2.0
 * One message in, one message out. SEQPACKET keeps message borders, so a wrong size is seen at once and costs nobody else. */
#include "rpc/local/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* More fds than one would come with a message only from a peer that is no kvcask: room to see and close them. */
enum { CHANNEL_FDS_MAX = 16 };

static const char *const channel_names[] = {
#define CHANNEL_NAME(name, number, text) [number] = #name,
	KVCI_MESSAGE_TABLE(CHANNEL_NAME)
#undef CHANNEL_NAME
};

const char *kvci_message_name(uint16_t type)
{
	if (type >= sizeof(channel_names) / sizeof(channel_names[0]) || channel_names[type] == NULL)
		return "?";
	return channel_names[type];
}

void kvci_message_init(struct kvci_message *message, uint16_t type, uint32_t tag)
{
	memset(message, 0, sizeof(*message));
	message->magic = KVCI_PROTO_MAGIC;
	message->type = type;
	message->tag = tag;
}

kvc_status_t kvci_channel_send(int socket_fd, const struct kvci_message *message, int pass_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t sent;

	if (pass_fd >= 0) {
		struct cmsghdr *first;

		memset(&control, 0, sizeof(control));
		header.msg_control = control.bytes;
		header.msg_controllen = sizeof(control.bytes);
		first = CMSG_FIRSTHDR(&header);
		first->cmsg_level = SOL_SOCKET;
		first->cmsg_type = SCM_RIGHTS;
		first->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(first), &pass_fd, sizeof(int));
	}
	do {
		sent = pass_fd >= 0 ? sendmsg(socket_fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT)
		                    : send(socket_fd, message, sizeof(*message), MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)sizeof(*message))
		return KVC_OK;
	if (sent >= 0)
		return KVC_PROTOCOL; /* not a SEQPACKET socket */
	switch (errno) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
	case ETOOMANYREFS: /* too many fds on their way: the reader is behind */
		return KVC_BUSY;
	case EPIPE:
	case ECONNRESET:
	case ECONNREFUSED:
	case ENOTCONN:
		return KVC_GONE;
	default:
		return kvc_status_from_errno(errno);
	}
}

/* Takes the first fd that came, closes the rest; returns how many came. */
static unsigned channel_take_fds(struct msghdr *header, int *ret_fd)
{
	unsigned count = 0;

	for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
		size_t fds;

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		fds = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < fds; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
			if (count++ == 0)
				*ret_fd = fd;
			else
				close(fd);
		}
	}
	return count;
}

static int channel_is_sane(const struct kvci_message *message)
{
	return message->magic == KVCI_PROTO_MAGIC && message->flags_high == 0 &&
	       memchr(message->text, '\0', sizeof(message->text)) != NULL;
}

kvc_status_t kvci_channel_receive(int socket_fd, struct kvci_message *ret_message, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
	} control;
	struct kvci_message message;
	struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t received;
	unsigned fds;
	int fd = -1;

	do {
		received = recvmsg(socket_fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (received < 0 && errno == EINTR);
	if (received < 0) {
		if (errno == EAGAIN)
			return KVC_PENDING;
		return errno == ECONNRESET || errno == ENOTCONN ? KVC_GONE : kvc_status_from_errno(errno);
	}
	fds = channel_take_fds(&header, &fd);
	if (received == 0) { /* an empty message reads like a hang-up, and is treated as one */
		if (fd >= 0)
			close(fd);
		return KVC_GONE;
	}
	if (received != (ssize_t)sizeof(message) || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || fds > 1 ||
	    !channel_is_sane(&message)) {
		if (fd >= 0)
			close(fd);
		return KVC_PROTOCOL;
	}
	*ret_message = message;
	*ret_fd = fd;
	return KVC_OK;
}

kvc_status_t kvci_channel_pair(int ret_fds[2])
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
		return kvc_status_from_errno(errno);
	ret_fds[0] = fds[0];
	ret_fds[1] = fds[1];
	return KVC_OK;
}
