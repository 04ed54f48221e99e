/* SPDX-License-Identifier: Apache-2.0
 * Log lines: made on the stack, given out by one write, so that lines of threads and processes never mix and
 * nothing is allocated while something is going wrong. */
#include "base/log.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
	LOG_LINE_BYTES = 2048, /* longer lines end in "..." */
	LOG_LIMIT_LINES = 10,  /* a second, of one call site */
};

static const char *const log_level_names[] = {"error", "warn", "info", "debug"};
static _Atomic int log_level = KVCI_LOG_INFO;

/* The lock keeps the sink alive while it runs: after kvci_log_set_sink returns, the old one is not called. */
static pthread_mutex_t log_sink_lock = PTHREAD_MUTEX_INITIALIZER;
static void (*log_sink)(void *context, enum kvci_log_level level, const char *line);
static void *log_sink_context;
static _Atomic int log_has_sink;
static pthread_mutex_t log_write_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned log_lost; /* lines that stderr did not take */

int kvci_log_level_parse(const char *text)
{
	for (int i = KVCI_LOG_ERROR; i <= KVCI_LOG_DEBUG; i++)
		if (strcmp(text, log_level_names[i]) == 0)
			return i;
	return -1;
}

void kvci_log_set_level(enum kvci_log_level level)
{
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

void kvci_log_set_sink(void (*sink)(void *context, enum kvci_log_level level, const char *line), void *context)
{
	pthread_mutex_lock(&log_sink_lock);
	log_sink = sink;
	log_sink_context = context;
	atomic_store(&log_has_sink, sink != NULL);
	pthread_mutex_unlock(&log_sink_lock);
}

/* What clients and disks bring into a line must not draw a second one or move the cursor. */
static void log_clean(char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

/* A pipe that nobody empties, a terminal that is held: whoever logs does not wait for them. With the lock held, a line of less than a page that
 * has been let through does not block in a pipe. */
static bool log_is_writable(void)
{
	struct pollfd poll_fd = {.fd = STDERR_FILENO, .events = POLLOUT};

	return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLOUT | POLLERR)) != 0;
}

static bool log_put(const char *line, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = log_is_writable() ? write(STDERR_FILENO, line, bytes) : 0;

		if (n <= 0)
			return false; /* nobody to tell */
		line += n;
		bytes -= (size_t)n;
	}
	return true;
}

static void log_write(const char *line, size_t bytes)
{
	struct timespec until;
	unsigned lost;
	char text[64];
	int n;

	/* Held for ever only in a process that was forked off while another thread wrote. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	if (pthread_mutex_timedlock(&log_write_lock, &until) != 0) {
		atomic_fetch_add(&log_lost, 1);
		return;
	}
	lost = atomic_load(&log_lost);
	n = snprintf(text, sizeof(text), "(%u lines were lost: nobody read them)\n", lost);
	if (lost > 0 && log_put(text, (size_t)n)) {
		atomic_fetch_sub(&log_lost, lost);
		lost = 0;
	}
	if (lost > 0 || !log_put(line, bytes))
		atomic_fetch_add(&log_lost, 1);
	pthread_mutex_unlock(&log_write_lock);
}

void kvci_log(enum kvci_log_level level, const char *module, const char *format, ...)
{
	char line[LOG_LINE_BYTES];
	uint64_t now_ns = kvci_clock_wall_ns();
	time_t seconds = (time_t)(now_ns / KVCI_SECOND);
	struct tm utc;
	va_list arguments;
	size_t used;
	int n;

	if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
		return;
	gmtime_r(&seconds, &utc);
	used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
	used += (size_t)snprintf(line + used, sizeof(line) - used, ".%03uZ %-5s %.32s: ",
	                         (unsigned)(now_ns / KVCI_MS % 1000), log_level_names[level], module);
	va_start(arguments, format);
	n = vsnprintf(line + used, sizeof(line) - 1 - used, format, arguments); /* one byte kept for the newline */
	va_end(arguments);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(line) - 1 - used)
		memcpy(line + sizeof(line) - 5, "...", 4);
	log_clean(line + used);
	if (atomic_load(&log_has_sink)) {
		pthread_mutex_lock(&log_sink_lock);
		if (log_sink != NULL)
			log_sink(log_sink_context, level, line);
		pthread_mutex_unlock(&log_sink_lock);
		return;
	}
	used = strlen(line);
	line[used] = '\n';
	log_write(line, used + 1);
}

int kvci_log_limit_pass(struct kvci_log_limit *limit, uint32_t *ret_suppressed)
{
	uint64_t now_ns = kvci_clock_ns();
	uint64_t begin_ns = atomic_load_explicit(&limit->window_ns, memory_order_relaxed);

	if ((begin_ns == 0 || now_ns - begin_ns >= KVCI_SECOND) &&
	    atomic_compare_exchange_strong(&limit->window_ns, &begin_ns, now_ns)) {
		atomic_store(&limit->count, 1);
		*ret_suppressed = atomic_exchange(&limit->suppressed, 0);
		return 1;
	}
	if (atomic_fetch_add(&limit->count, 1) < LOG_LIMIT_LINES) {
		*ret_suppressed = 0;
		return 1;
	}
	atomic_fetch_add(&limit->suppressed, 1);
	return 0;
}
