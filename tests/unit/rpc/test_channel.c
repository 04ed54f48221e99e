/* SPDX-License-Identifier: Apache-2.0
 * The socket: whole messages, one fd, and every way in which a peer or a path can be wrong. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "rpc/local/channel.h"

static int fd_count(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void send_raw(int fd, const void *bytes, size_t length, const int *fds, unsigned fd_total)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(32 * sizeof(int))];
	} control;
	struct iovec part = {.iov_base = (void *)bytes, .iov_len = length};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

	memset(&control, 0, sizeof(control));
	if (fd_total > 0) {
		struct cmsghdr *first;

		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(fd_total * sizeof(int));
		first = CMSG_FIRSTHDR(&header);
		first->cmsg_level = SOL_SOCKET;
		first->cmsg_type = SCM_RIGHTS;
		first->cmsg_len = CMSG_LEN(fd_total * sizeof(int));
		memcpy(CMSG_DATA(first), fds, fd_total * sizeof(int));
	}
	assert_int_equal(sendmsg(fd, &header, MSG_NOSIGNAL), (ssize_t)length);
}

static void test_channel__message_with_fd__arrives_whole(void **state)
{
	struct kvci_message message, got;
	int ends[2], pipe_ends[2], fd = -1;
	char byte = 0;

	assert_int_equal(kvci_channel_pair(ends), KVC_OK);
	assert_int_equal(pipe(pipe_ends), 0);
	kvci_message_init(&message, KVCI_MESSAGE_MATCH, 77);
	message.a = UINT64_MAX - 1;
	strcpy(message.text, "hello");
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PENDING);
	assert_int_equal(kvci_channel_send(ends[0], &message, pipe_ends[1]), KVC_OK);
	assert_int_equal(kvci_channel_send(ends[0], &message, -1), KVC_OK);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_OK);
	assert_memory_equal(&got, &message, sizeof(got));
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
	close(fd);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_OK);
	assert_int_equal(fd, -1);
	close(ends[0]);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_GONE);
	assert_int_equal(kvci_channel_send(ends[1], &message, -1), KVC_GONE);
	close(ends[1]);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

static void test_channel__wrong_messages__are_refused_and_leak_nothing(void **state)
{
	struct kvci_message message, got;
	int ends[2], fd = -1, before, many[20];
	uint8_t bytes[400] = {0};

	assert_int_equal(kvci_channel_pair(ends), KVC_OK);
	before = fd_count();
	kvci_message_init(&message, KVCI_MESSAGE_PING, 1);
	memcpy(bytes, &message, sizeof(message));
	for (unsigned i = 0; i < 20; i++)
		many[i] = ends[0];

	send_raw(ends[0], bytes, sizeof(message) - 1, many, 1); /* short, with an fd */
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	send_raw(ends[0], bytes, sizeof(message) + 1, NULL, 0); /* long */
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	send_raw(ends[0], bytes, sizeof(message), many, 2); /* two fds */
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	send_raw(ends[0], bytes, sizeof(message), many, 20); /* more than there is room for */
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	bytes[0] ^= 1; /* magic */
	send_raw(ends[0], bytes, sizeof(message), many, 1);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	memset(message.text, 'x', sizeof(message.text)); /* text without an end */
	send_raw(ends[0], &message, sizeof(message), NULL, 0);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);
	kvci_message_init(&message, KVCI_MESSAGE_PING, 2);
	message.flags_high = 1;
	send_raw(ends[0], &message, sizeof(message), NULL, 0);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_PROTOCOL);

	kvci_message_init(&message, KVCI_MESSAGE_PING, 3); /* and the next one is fine */
	assert_int_equal(kvci_channel_send(ends[0], &message, -1), KVC_OK);
	assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_OK);
	assert_int_equal(got.tag, 3);
	assert_int_equal(fd_count(), before);
	close(ends[0]);
	close(ends[1]);
}

static void test_channel__reader_stops__send_is_busy_and_recovers(void **state)
{
	struct kvci_message message, got;
	kvc_status_t status = KVC_OK;
	int ends[2], fd;
	unsigned sent = 0;

	assert_int_equal(kvci_channel_pair(ends), KVC_OK);
	kvci_message_init(&message, KVCI_MESSAGE_PING, 0);
	for (; sent < 100000 && status == KVC_OK; sent += status == KVC_OK) {
		message.tag = sent;
		status = kvci_channel_send(ends[0], &message, -1);
	}
	assert_int_equal(status, KVC_BUSY);
	for (unsigned i = 0; i < sent; i++) {
		assert_int_equal(kvci_channel_receive(ends[1], &got, &fd), KVC_OK);
		assert_int_equal(got.tag, i);
	}
	assert_int_equal(kvci_channel_send(ends[0], &message, -1), KVC_OK);
	close(ends[0]);
	close(ends[1]);
}

static char folder[64];

static int folder_setup(void **state)
{
	strcpy(folder, "/tmp/kvc-channel-XXXXXX");
	return mkdtemp(folder) == NULL;
}

static int folder_teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static void test_channel__listen_and_connect__names_the_peer(void **state)
{
	struct kvci_peer peer;
	struct stat file;
	char path[128];
	int listen_fd, client_fd, server_fd;

	snprintf(path, sizeof(path), "%s/s1", folder);
	assert_int_equal(kvci_channel_listen(path, 0600, &listen_fd, NULL, 0), KVC_OK);
	assert_int_equal(stat(path, &file), 0);
	assert_int_equal(file.st_mode & 0777, 0600);
	assert_int_equal(kvci_channel_accept(listen_fd, &server_fd, &peer), KVC_PENDING);
	assert_int_equal(kvci_channel_connect(path, &client_fd, NULL, 0), KVC_OK);
	assert_int_equal(kvci_channel_accept(listen_fd, &server_fd, &peer), KVC_OK);
	assert_int_equal(peer.pid, getpid());
	assert_int_equal(peer.uid, getuid());
	if (peer.pidfd >= 0)
		close(peer.pidfd);
	close(client_fd);
	close(server_fd);
	kvci_channel_unlisten(listen_fd);
	assert_int_equal(stat(path, &file), -1);
}

static void test_channel__pidfd_of_peer__is_readable_when_it_died(void **state)
{
	struct kvci_peer peer = {.pidfd = -1};
	char path[128];
	int listen_fd, server_fd, status;
	struct pollfd wait;
	pid_t child;

	snprintf(path, sizeof(path), "%s/s2", folder);
	assert_int_equal(kvci_channel_listen(path, 0600, &listen_fd, NULL, 0), KVC_OK);
	child = fork();
	if (child == 0) {
		int fd;

		if (kvci_channel_connect(path, &fd, NULL, 0) != KVC_OK)
			_exit(1);
		pause();
		_exit(0);
	}
	wait = (struct pollfd){.fd = listen_fd, .events = POLLIN};
	assert_int_equal(poll(&wait, 1, 5000), 1);
	assert_int_equal(kvci_channel_accept(listen_fd, &server_fd, &peer), KVC_OK);
	assert_int_equal(peer.pid, child);
	if (peer.pidfd >= 0) {
		wait = (struct pollfd){.fd = peer.pidfd, .events = POLLIN};
		assert_int_equal(poll(&wait, 1, 0), 0);
		kill(child, SIGKILL);
		assert_int_equal(poll(&wait, 1, 5000), 1);
		close(peer.pidfd);
	}
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(server_fd);
	kvci_channel_unlisten(listen_fd);
}

static void test_channel__stale_socket__is_replaced_a_living_one_is_in_use(void **state)
{
	char path[128], error[256] = "";
	int first, second, third;
	struct stat file;

	snprintf(path, sizeof(path), "%s/s3", folder);
	assert_int_equal(kvci_channel_listen(path, 0600, &first, NULL, 0), KVC_OK);
	assert_int_equal(kvci_channel_listen(path, 0600, &second, error, sizeof(error)), KVC_IN_USE);
	assert_non_null(strstr(error, path));
	close(first); /* died: the file stays */
	assert_int_equal(stat(path, &file), 0);
	assert_int_equal(kvci_channel_connect(path, &third, error, sizeof(error)), KVC_GONE);
	assert_int_equal(kvci_channel_listen(path, 0660, &second, NULL, 0), KVC_OK);
	assert_int_equal(kvci_channel_connect(path, &third, NULL, 0), KVC_OK);
	close(third);
	kvci_channel_unlisten(second);
}

static void test_channel__unlisten__leaves_the_socket_of_a_successor(void **state)
{
	char path[128];
	int first, second, fd;

	snprintf(path, sizeof(path), "%s/s4", folder);
	assert_int_equal(kvci_channel_listen(path, 0600, &first, NULL, 0), KVC_OK);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(kvci_channel_listen(path, 0600, &second, NULL, 0), KVC_OK);
	kvci_channel_unlisten(first);
	assert_int_equal(kvci_channel_connect(path, &fd, NULL, 0), KVC_OK);
	close(fd);
	kvci_channel_unlisten(second);
}

static void test_channel__wrong_paths__are_named(void **state)
{
	char path[512], error[512] = "", limit[32];
	int fd, stream;
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(path, 'a', sizeof(path));
	path[0] = '/';
	path[200] = '\0';
	assert_int_equal(kvci_channel_listen(path, 0600, &fd, error, sizeof(error)), KVC_TOO_BIG);
	snprintf(limit, sizeof(limit), "%zu", kvci_channel_path_max());
	assert_non_null(strstr(error, limit));
	assert_int_equal(kvci_channel_connect(path, &fd, error, sizeof(error)), KVC_TOO_BIG);
	assert_int_equal(kvci_channel_connect("", &fd, error, sizeof(error)), KVC_INVALID);
	snprintf(path, sizeof(path), "%s/nowhere/s", folder);
	assert_int_equal(kvci_channel_listen(path, 0600, &fd, error, sizeof(error)), KVC_NOT_FOUND);
	assert_int_equal(kvci_channel_connect(path, &fd, error, sizeof(error)), KVC_GONE);
	snprintf(path, sizeof(path), "%s/file", folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(kvci_channel_listen(path, 0600, &fd, error, sizeof(error)), KVC_EXISTS);
	/* Another program's stream socket is not ours to remove. */
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/stream", folder);
	stream = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(stream, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(stream, 1), 0);
	assert_int_not_equal(kvci_channel_listen(address.sun_path, 0600, &fd, error, sizeof(error)), KVC_OK);
	assert_int_equal(access(address.sun_path, F_OK), 0);
	close(stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_channel__message_with_fd__arrives_whole),
		cmocka_unit_test(test_channel__wrong_messages__are_refused_and_leak_nothing),
		cmocka_unit_test(test_channel__reader_stops__send_is_busy_and_recovers),
		cmocka_unit_test(test_channel__listen_and_connect__names_the_peer),
		cmocka_unit_test(test_channel__pidfd_of_peer__is_readable_when_it_died),
		cmocka_unit_test(test_channel__stale_socket__is_replaced_a_living_one_is_in_use),
		cmocka_unit_test(test_channel__unlisten__leaves_the_socket_of_a_successor),
		cmocka_unit_test(test_channel__wrong_paths__are_named),
	};

	return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
