/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/world.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/magic.h>

#include "base/alloc.h"
#include "base/clock.h"

/* ---- processes ---------------------------------------------------------------------------------------------------- */

static void world_sleep_ms(unsigned ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	nanosleep(&time, NULL);
}

/* In the child: dies with its parent, says everything into the log. Only async-signal-safe calls. */
static void world_exec(const char *const *arguments, int out, int log)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execvp(arguments[0], (char *const *)(uintptr_t)arguments);
	_exit(127);
}

static int world_open_log(const char *log)
{
	return open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void world_show_log(const char *log)
{
	char text[2048];
	FILE *file = fopen(log, "re");

	if (file == NULL)
		return;
	fseek(file, -(long)sizeof(text) + 1, SEEK_END);
	if (ferror(file) || ftell(file) < 0)
		rewind(file);
	size_t length = fread(text, 1, sizeof(text) - 1, file);
	text[length] = '\0';
	fclose(file);
	bench_note("the end of %s:\n%s", log, text);
}

/* All of a pipe; NULL: no memory. */
static char *world_read_all(int fd)
{
	size_t length = 0, room = 65536;
	char *text = kvci_alloc(room);

	while (text != NULL) {
		ssize_t got = read(fd, text + length, room - length - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		length += (size_t)got;
		if (length + 1 == room) {
			char *grown = kvci_realloc(text, 2 * room);
			if (grown == NULL)
				kvci_free(text);
			text = grown;
			room *= 2;
		}
	}
	if (text != NULL)
		text[length] = '\0';
	return text;
}

kvc_status_t bench_spawn_read(const char *const *arguments, const char *log, char **ret_text)
{
	int pipes[2], log_fd, state = 0;

	if (pipe2(pipes, O_CLOEXEC) != 0)
		return kvc_status_from_errno(errno);
	log_fd = world_open_log(log);
	pid_t pid = log_fd < 0 ? -1 : fork();
	if (pid == 0)
		world_exec(arguments, pipes[1], log_fd);
	kvc_status_t status = pid < 0 ? kvc_status_from_errno(errno) : KVC_OK;
	close(pipes[1]);
	if (log_fd >= 0)
		close(log_fd);
	char *text = pid > 0 ? world_read_all(pipes[0]) : NULL;
	close(pipes[0]);
	if (pid > 0) {
		while (waitpid(pid, &state, 0) < 0 && errno == EINTR)
			continue;
		if (text == NULL)
			status = KVC_NO_MEMORY;
		else if (WIFEXITED(state) && WEXITSTATUS(state) == 127)
			status = KVC_NOT_FOUND;
		else if (!WIFEXITED(state) || WEXITSTATUS(state) != 0)
			status = KVC_IO;
	}
	if (status != KVC_OK) {
		kvci_free(text);
		return status;
	}
	*ret_text = text;
	return KVC_OK;
}

bool bench_on_disk(const char *folder)
{
	struct statfs info;

	return statfs(folder, &info) == 0 && info.f_type != TMPFS_MAGIC && info.f_type != RAMFS_MAGIC;
}

double bench_huge_share(pid_t pid)
{
	char path[64], line[256];
	unsigned long long huge_kb = 0, slab_kb = 0, kb;
	bool slab = false;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return 0;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "%llx-%llx", &kb, &kb) == 2) /* the next mapping */
			slab = strstr(line, "/memfd:kvcask-slab") != NULL;
		else if (slab && sscanf(line, "Rss: %llu", &kb) == 1)
			slab_kb += kb;
		else if (slab && sscanf(line, "ShmemPmdMapped: %llu", &kb) == 1)
			huge_kb += kb;
	}
	fclose(file);
	return slab_kb > 0 ? (double)huge_kb / (double)slab_kb : 0;
}

kvc_status_t bench_private_bytes(pid_t pid, uint64_t *ret_bytes)
{
	char path[64], line[256];
	unsigned long long resident_kb = 0, shared_kb = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return KVC_NOT_FOUND;
	while (fgets(line, sizeof(line), file) != NULL) {
		sscanf(line, "VmRSS: %llu", &resident_kb);
		sscanf(line, "RssShmem: %llu", &shared_kb);
	}
	fclose(file);
	if (resident_kb == 0)
		return KVC_NOT_FOUND;
	*ret_bytes = (resident_kb - shared_kb) * 1024;
	return KVC_OK;
}

static int world_remove(const char *path, const struct stat *info, int type, struct FTW *walk)
{
	(void)info;
	(void)type;
	(void)walk;
	remove(path);
	return 0;
}

/* A child that does nothing but wait for the end of this process, and then removes the folder, also after a kill. */
static kvc_status_t world_janitor(struct bench_world *world)
{
	int pipes[2];
	char byte;

	if (pipe2(pipes, O_CLOEXEC) != 0)
		return kvc_status_from_errno(errno);
	pid_t pid = fork();
	if (pid == 0) {
		setsid(); /* no signal from the terminal */
		close(pipes[1]);
		while (read(pipes[0], &byte, 1) < 0 && errno == EINTR)
			continue;
		world_sleep_ms(200); /* the daemon dies at the same moment */
		nftw(world->folder, world_remove, 16, FTW_DEPTH | FTW_PHYS);
		_exit(0);
	}
	close(pipes[0]);
	if (pid < 0) {
		close(pipes[1]);
		return kvc_status_from_errno(errno);
	}
	world->janitor = pid;
	world->janitor_pipe = pipes[1];
	return KVC_OK;
}

static void world_janitor_end(struct bench_world *world)
{
	if (world->janitor == 0)
		return;
	kill(world->janitor, SIGKILL);
	waitpid(world->janitor, NULL, 0);
	close(world->janitor_pipe);
	world->janitor = 0;
}

/* ---- the daemon --------------------------------------------------------------------------------------------------------- */

static kvc_status_t world_daemon_path(const struct bench_options *options, char path[512])
{
	if (options->daemon != NULL) {
		snprintf(path, 512, "%s", options->daemon);
	} else {
		char self[480];
		ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
		if (length <= 0)
			return kvc_status_from_errno(errno);
		self[length] = '\0';
		char *slash = strrchr(self, '/');
		snprintf(path, 512, "%.*s/kvcaskd", (int)(slash - self), self);
	}
	if (access(path, X_OK) == 0)
		return KVC_OK;
	bench_note("%s cannot be run (%s); --daemon names another", path, strerror(errno));
	return KVC_NOT_FOUND;
}

static kvc_status_t world_write_config(const struct bench_world *world, const char *const *settings, bool with_disk)
{
	char data[640];
	FILE *file = fopen(world->config, "we");

	if (file == NULL)
		return kvc_status_from_errno(errno);
	fprintf(file, "socket: %s\n", world->socket);
	snprintf(data, sizeof(data), "%s/data", world->folder);
	if (with_disk)
		fprintf(file, "data_dir: %s\n", data);
	if (with_disk && mkdir(data, 0700) != 0) {
		fclose(file);
		return kvc_status_from_errno(errno);
	}
	for (; *settings != NULL; settings++)
		fprintf(file, "%s\n", *settings);
	return fclose(file) == 0 ? KVC_OK : KVC_IO;
}

static kvc_status_t world_wait(struct bench_world *world)
{
	char target[128];
	uint64_t until_ns = bench_now_ns() + 20 * KVCI_SECOND;

	snprintf(target, sizeof(target), "unix:%s", world->socket);
	while (bench_now_ns() < until_ns) {
		struct kvc_client *client = NULL;
		int state;
		kvc_status_t status = kvc_open(target, NULL, &client);
		kvc_close(client);
		if (status == KVC_OK)
			return KVC_OK;
		if (waitpid(world->pid, &state, WNOHANG) == world->pid) {
			world->pid = 0;
			return KVC_GONE;
		}
		world_sleep_ms(5);
	}
	return KVC_TIMED_OUT;
}

kvc_status_t bench_world_start(struct bench_world *world, bool wait)
{
	char path[512], log[640];
	kvc_status_t status = world_daemon_path(world->options, path);

	if (status != KVC_OK)
		return status;
	snprintf(log, sizeof(log), "%s/kvcaskd.log", world->folder);
	int log_fd = world_open_log(log);
	if (log_fd < 0)
		return kvc_status_from_errno(errno);
	const char *arguments[] = { path, "--config", world->config, NULL };
	world->spawned_ns = bench_now_ns();
	pid_t pid = fork();
	if (pid == 0)
		world_exec(arguments, log_fd, log_fd);
	close(log_fd);
	if (pid < 0)
		return kvc_status_from_errno(errno);
	world->pid = pid;
	status = wait ? world_wait(world) : KVC_OK;
	if (status != KVC_OK) {
		bench_note("kvcaskd does not answer: %s", kvc_status_text(status));
		world_show_log(log);
	}
	return status;
}

kvc_status_t bench_world_begin(struct bench_world *world, const struct bench_options *options, const char *const *settings,
                               bool with_disk)
{
	*world = (struct bench_world){ .options = options };
	char *full = realpath(options->folder, NULL);
	if (full == NULL) {
		bench_note("%s: %s", options->folder, strerror(errno));
		return KVC_NOT_FOUND;
	}
	snprintf(world->folder, sizeof(world->folder), "%.400s/kvcask-bench.XXXXXX", full);
	free(full); /* libc's memory */
	if (mkdtemp(world->folder) == NULL) {
		bench_note("%s: %s", world->folder, strerror(errno));
		world->folder[0] = '\0';
		return KVC_DENIED;
	}
	/* A socket's path is short: it has a folder of its own when ours is deep. */
	snprintf(world->config, sizeof(world->config), "%s/kvcaskd.yaml", world->folder);
	if (strlen(world->folder) + sizeof("/socket") <= sizeof(world->socket))
		snprintf(world->socket, sizeof(world->socket), "%.99s/socket", world->folder);
	else
		snprintf(world->socket, sizeof(world->socket), "/tmp/kvcask-bench.%d.socket", (int)getpid());
	kvc_status_t status = world_janitor(world);
	if (status == KVC_OK)
		status = world_write_config(world, settings, with_disk);
	if (status == KVC_OK)
		status = bench_world_start(world, true);
	if (status != KVC_OK)
		bench_world_end(world);
	return status;
}

kvc_status_t bench_world_stop(struct bench_world *world)
{
	int state = 0;

	if (world->pid == 0)
		return KVC_OK;
	kill(world->pid, SIGTERM);
	for (unsigned waited_ms = 0; waited_ms < 60000; waited_ms += 10) {
		if (waitpid(world->pid, &state, WNOHANG) == world->pid) {
			world->pid = 0;
			return WIFEXITED(state) && WEXITSTATUS(state) == 0 ? KVC_OK : KVC_INTERNAL;
		}
		world_sleep_ms(10);
	}
	kill(world->pid, SIGKILL);
	waitpid(world->pid, &state, 0);
	world->pid = 0;
	return KVC_TIMED_OUT;
}

void bench_world_end(struct bench_world *world)
{
	kvc_status_t status = bench_world_stop(world);
	if (status != KVC_OK) {
		char log[640];
		snprintf(log, sizeof(log), "%s/kvcaskd.log", world->folder);
		bench_note("kvcaskd did not end as it should: %s", kvc_status_text(status));
		world_show_log(log);
	}
	if (world->folder[0] != '\0') {
		unlink(world->socket);
		nftw(world->folder, world_remove, 16, FTW_DEPTH | FTW_PHYS);
	}
	world_janitor_end(world);
	*world = (struct bench_world){ 0 };
}
