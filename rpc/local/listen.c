/* SPDX-License-Identifier: Apache-2.0
 * How a channel comes about: listen, accept, connect. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "rpc/local/channel.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

enum {
	LISTEN_BACKLOG = 1024, /* many workers start at once: connecting never waits, and does not fail for that */
	LISTEN_LOCK_TRIES = 50,
	LISTEN_LOCK_PAUSE_NS = 2000000,
};

size_t kvci_channel_path_max(void)
{
	return sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
}

__attribute__((format(printf, 4, 5)))
static kvc_status_t listen_fail(kvc_status_t status, char *error, size_t error_bytes, const char *format, ...)
{
	va_list arguments;

	if (error == NULL || error_bytes == 0)
		return status;
	va_start(arguments, format);
	vsnprintf(error, error_bytes, format, arguments);
	va_end(arguments);
	return status;
}

static kvc_status_t listen_address(const char *path, struct sockaddr_un *ret_address, char *error, size_t error_bytes)
{
	size_t length = strlen(path);

	if (length == 0)
		return listen_fail(KVC_INVALID, error, error_bytes, "the socket path is empty");
	if (length > kvci_channel_path_max())
		return listen_fail(KVC_TOO_BIG, error, error_bytes,
		                   "socket path of %zu bytes: the system takes at most %zu: %s", length,
		                   kvci_channel_path_max(), path);
	memset(ret_address, 0, sizeof(*ret_address));
	ret_address->sun_family = AF_UNIX;
	memcpy(ret_address->sun_path, path, length);
	return KVC_OK;
}

static int listen_socket(void)
{
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

kvc_status_t kvci_channel_connect(const char *path, int *ret_fd, char *error, size_t error_bytes)
{
	struct sockaddr_un address;
	kvc_status_t status = listen_address(path, &address, error, error_bytes);
	int fd, failure;

	if (status != KVC_OK)
		return status;
	fd = listen_socket();
	if (fd < 0)
		return listen_fail(kvc_status_from_errno(errno), error, error_bytes, "socket: %s", strerror(errno));
	do {
		failure = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
	} while (failure == EINTR);
	if (failure == 0) {
		*ret_fd = fd;
		return KVC_OK;
	}
	close(fd);
	switch (failure) {
	case EAGAIN:
		status = KVC_BUSY;
		break;
	case ENOENT:
	case ENOTDIR:
	case ECONNREFUSED:
		status = KVC_GONE;
		break;
	case EPROTOTYPE: /* somebody's stream or datagram socket */
		status = KVC_PROTOCOL;
		break;
	case EACCES:
	case EPERM:
		status = KVC_DENIED;
		break;
	default:
		status = kvc_status_from_errno(failure);
	}
	return listen_fail(status, error, error_bytes, "connect to %s: %s", path, strerror(failure));
}

/* Two daemons that start at once must not take each other's socket for a dead one: the folder is locked from the look to the bind.
 * Whoever else holds that lock for long (a store in the same folder) is not waited for. */
static int listen_lock_folder(const char *path)
{
	char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];
	const char *slash = strrchr(path, '/');
	struct timespec pause = {.tv_nsec = LISTEN_LOCK_PAUSE_NS};
	int fd;

	if (slash == NULL)
		snprintf(folder, sizeof(folder), ".");
	else
		snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	for (int tries = 0; tries < LISTEN_LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) != 0; tries++)
		nanosleep(&pause, NULL);
	return fd;
}

/* OK: nothing is at path (any more). */
static kvc_status_t listen_clear(const char *path, char *error, size_t error_bytes)
{
	struct stat file;
	kvc_status_t status;
	int fd;

	if (lstat(path, &file) != 0) {
		if (errno == ENOENT)
			return KVC_OK;
		return listen_fail(kvc_status_from_errno(errno), error, error_bytes, "%s: %s", path, strerror(errno));
	}
	if (!S_ISSOCK(file.st_mode))
		return listen_fail(KVC_EXISTS, error, error_bytes, "%s exists and is no socket", path);
	status = kvci_channel_connect(path, &fd, NULL, 0);
	if (status == KVC_OK)
		close(fd);
	if (status == KVC_OK || status == KVC_BUSY)
		return listen_fail(KVC_IN_USE, error, error_bytes, "another process listens on %s", path);
	if (status != KVC_GONE)
		return listen_fail(status, error, error_bytes, "%s exists and cannot be tried: %s", path,
		                   kvc_status_text(status));
	if (unlink(path) != 0 && errno != ENOENT)
		return listen_fail(kvc_status_from_errno(errno), error, error_bytes, "remove the old socket %s: %s", path,
		                   strerror(errno));
	return KVC_OK;
}

static kvc_status_t listen_bind(int fd, const struct sockaddr_un *address, uint32_t mode, char *error, size_t error_bytes)
{
	const char *path = address->sun_path;

	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
		int failure = errno;
		kvc_status_t status = kvc_status_from_errno(failure);

		if (failure == ENOENT || failure == ENOTDIR)
			return listen_fail(KVC_NOT_FOUND, error, error_bytes, "the folder of socket %s does not exist", path);
		if (failure == EADDRINUSE)
			status = KVC_IN_USE;
		return listen_fail(status, error, error_bytes, "bind %s: %s", path, strerror(failure));
	}
	/* Before listen nobody can connect, so that the file's default bits never admit anyone. */
	if (chmod(path, mode & 0777) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
		int failure = errno;

		unlink(path);
		return listen_fail(kvc_status_from_errno(failure), error, error_bytes, "listen on %s: %s", path, strerror(failure));
	}
	return KVC_OK;
}

kvc_status_t kvci_channel_listen(const char *path, uint32_t mode, int *ret_fd, char *error, size_t error_bytes)
{
	struct sockaddr_un address;
	kvc_status_t status = listen_address(path, &address, error, error_bytes);
	int lock_fd, fd;

	if (status != KVC_OK)
		return status;
	fd = listen_socket();
	if (fd < 0)
		return listen_fail(kvc_status_from_errno(errno), error, error_bytes, "socket: %s", strerror(errno));
	lock_fd = listen_lock_folder(path);
	status = listen_clear(path, error, error_bytes);
	if (status == KVC_OK)
		status = listen_bind(fd, &address, mode, error, error_bytes);
	if (lock_fd >= 0)
		close(lock_fd);
	if (status != KVC_OK) {
		close(fd);
		return status;
	}
	*ret_fd = fd;
	return KVC_OK;
}

void kvci_channel_unlisten(int listen_fd)
{
	struct sockaddr_un address;
	socklen_t length = sizeof(address);
	int lock_fd, probe_fd;

	memset(&address, 0, sizeof(address));
	if (getsockname(listen_fd, (struct sockaddr *)&address, &length) != 0 || length <= sizeof(sa_family_t) ||
	    address.sun_path[0] == '\0') {
		close(listen_fd);
		return;
	}
	/* A name says nothing about who is bound to it now: once this socket is closed, one that still answers is another daemon's. */
	lock_fd = listen_lock_folder(address.sun_path);
	close(listen_fd);
	switch (kvci_channel_connect(address.sun_path, &probe_fd, NULL, 0)) {
	case KVC_OK:
		close(probe_fd);
		break;
	case KVC_GONE:
		unlink(address.sun_path);
		break;
	default:
		break;
	}
	if (lock_fd >= 0)
		close(lock_fd);
}

static int listen_pidfd(int fd, pid_t pid)
{
	socklen_t length = sizeof(int);
	int pidfd = -1;

	/* Of the process that connected, even if its id has been given to another since. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0)
		return pidfd;
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

kvc_status_t kvci_channel_accept(int listen_fd, int *ret_fd, struct kvci_peer *ret_peer)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int fd;

	do {
		fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	} while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0) {
		switch (errno) {
		case EAGAIN:
			return KVC_PENDING;
		case EMFILE:
		case ENFILE:
			return KVC_BUSY;
		default:
			return kvc_status_from_errno(errno);
		}
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
		kvc_status_t status = kvc_status_from_errno(errno);

		close(fd);
		return status;
	}
	ret_peer->pid = peer.pid;
	ret_peer->uid = peer.uid;
	ret_peer->gid = peer.gid;
	ret_peer->pidfd = listen_pidfd(fd, peer.pid);
	if (ret_peer->pidfd < 0)
		ret_peer->pidfd = -1;
	*ret_fd = fd;
	return KVC_OK;
}
