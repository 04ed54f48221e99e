/* SPDX-License-Identifier: Apache-2.0
 * A real kvcaskd as a child process, on a socket in a fresh folder. Include after cmocka.h. */
#ifndef KVC_TESTS_DAEMON_CHILD_H
#define KVC_TESTS_DAEMON_CHILD_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rpc/local/channel.h"

struct daemon_child {
	char folder[64];
	char socket[96];
	char target[104];
	pid_t pid;
};

static inline const char *daemon_child_program(void)
{
	const char *program = getenv("KVC_DAEMON");

	return program != NULL ? program : "../bin/kvcaskd";
}

static inline void daemon_child_write_config(const struct daemon_child *child, const char *options)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/kvcaskd.yaml", child->folder);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file, "socket: %s\nlog.level: warn\nworkers: 1\n%s", child->socket, options);
	fclose(file);
}

/* Again in the same folder, after it ended. */
static inline void daemon_child_run(struct daemon_child *child)
{
	char path[128];
	pid_t parent = getpid();

	snprintf(path, sizeof(path), "%s/kvcaskd.yaml", child->folder);
	child->pid = fork();
	assert_true(child->pid >= 0);
	if (child->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left behind by a test that crashed */
		if (getppid() != parent)
			_exit(1);
		execl(daemon_child_program(), "kvcaskd", "--config", path, (char *)NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 3000; i++) {
		struct timespec pause = {.tv_nsec = 10000000};
		int fd, status;

		if (kvci_channel_connect(child->socket, &fd, NULL, 0) == KVC_OK) {
			close(fd);
			return;
		}
		if (waitpid(child->pid, &status, WNOHANG) != 0)
			fail_msg("kvcaskd ended at once (status %#x)", status);
		nanosleep(&pause, NULL);
	}
	fail_msg("kvcaskd does not listen");
}

/* options: lines of its config file ("memory.capacity: 64MiB\n"). */
static inline void daemon_child_start(struct daemon_child *child, const char *options)
{
	memset(child, 0, sizeof(*child));
	strcpy(child->folder, "/tmp/kvc-daemon-XXXXXX");
	assert_non_null(mkdtemp(child->folder));
	snprintf(child->socket, sizeof(child->socket), "%s/s", child->folder);
	snprintf(child->target, sizeof(child->target), "unix:%s", child->socket);
	daemon_child_write_config(child, options);
	daemon_child_run(child);
}

static inline int daemon_child_end(struct daemon_child *child, int signal_number)
{
	int status = 0;

	if (child->pid > 0) {
		kill(child->pid, SIGCONT);
		kill(child->pid, signal_number);
		waitpid(child->pid, &status, 0);
	}
	child->pid = 0;
	return status;
}

static inline void daemon_child_stop(struct daemon_child *child)
{
	char command[128];
	int status = daemon_child_end(child, SIGTERM);

	snprintf(command, sizeof(command), "rm -rf %s", child->folder);
	assert_int_equal(system(command), 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("kvcaskd ended with status %#x", status);
}

#endif
