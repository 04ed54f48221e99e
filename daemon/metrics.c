/* SPDX-License-Identifier: Apache-2.0
 * Prometheus text out of the statistics table and the histograms, and the small web server. */
#include "daemon/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/core.h"

/* ---- text ---- */

struct metrics_text {
	char *bytes;
	size_t length, room;
	bool failed;
};

static void text_add(struct metrics_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void text_add(struct metrics_text *text, const char *format, ...)
{
	char line[512];
	va_list arguments;
	size_t length;

	va_start(arguments, format);
	length = (size_t)vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (length >= sizeof(line))
		length = sizeof(line) - 1;
	if (text->length + length > text->room) {
		size_t room = 2 * text->room + sizeof(line) * 16;
		char *bytes = text->failed ? NULL : kvci_realloc(text->bytes, room);

		if (bytes == NULL) {
			text->failed = true;
			return;
		}
		text->bytes = bytes;
		text->room = room;
	}
	memcpy(text->bytes + text->length, line, length);
	text->length += length;
}

static bool metrics_is_miss(const char *name)
{
	return strncmp(name, "miss_", 5) == 0;
}

/* The causes are one metric with a label, so that they can be summed where they are looked at. */
static void metrics_misses(const struct kvci_core *core, struct metrics_text *text)
{
	text_add(text, "# HELP kvcask_miss_keys_total keys that missed, by cause; match_keys = match_hit_keys + all of these\n"
	               "# TYPE kvcask_miss_keys_total counter\n");
	for (unsigned i = 0; i < KVCI_STAT_COUNT; i++) {
		const struct kvci_stat_info *info = kvci_stat_info((enum kvci_stat)i);

		if (metrics_is_miss(info->name))
			text_add(text, "kvcask_miss_keys_total{cause=\"%s\"} %" PRIu64 "\n", info->name + 5,
			         kvci_stat_get(&core->stats, (enum kvci_stat)i));
	}
}

static void metrics_histogram(const struct kvci_core *core, enum kvci_latency latency, struct metrics_text *text)
{
	const char *name = kvci_latency_name(latency);
	struct kvci_histogram_figures figures;
	uint64_t below = 0;

	kvci_latency_read(&core->latencies, latency, &figures);
	text_add(text, "# HELP kvcask_%s_seconds %s\n# TYPE kvcask_%s_seconds histogram\n", name, kvci_latency_text(latency), name);
	for (unsigned i = 0; i < KVCI_HISTOGRAM_BUCKETS; i++) {
		below += figures.buckets[i];
		text_add(text, "kvcask_%s_seconds_bucket{le=\"%.9g\"} %" PRIu64 "\n", name,
		         (double)(UINT64_C(1) << (KVCI_HISTOGRAM_FIRST_BITS + i)) / 1e9, below);
	}
	text_add(text, "kvcask_%s_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, figures.count);
	text_add(text, "kvcask_%s_seconds_sum %.9f\nkvcask_%s_seconds_count %" PRIu64 "\n", name, (double)figures.sum_ns / 1e9, name,
	         figures.count);
}

char *kvci_metrics_text(const struct kvci_core *core, size_t *ret_bytes)
{
	struct metrics_text text = {0};

	text_add(&text, "# HELP kvcask_build_info version of the daemon\n# TYPE kvcask_build_info gauge\n"
	                "kvcask_build_info{version=\"%s\"} 1\n", KVCI_DAEMON_VERSION);
	for (unsigned i = 0; i < KVCI_STAT_COUNT; i++) {
		const struct kvci_stat_info *info = kvci_stat_info((enum kvci_stat)i);
		bool counter = info->kind == KVCI_STAT_COUNTER;

		text_add(&text, "# HELP kvcask_%s%s %s\n# TYPE kvcask_%s%s %s\n", info->name, counter ? "_total" : "", info->text,
		         info->name, counter ? "_total" : "", counter ? "counter" : "gauge");
		text_add(&text, "kvcask_%s%s %" PRIu64 "\n", info->name, counter ? "_total" : "",
		         kvci_stat_get(&core->stats, (enum kvci_stat)i));
	}
	metrics_misses(core, &text);
	for (unsigned i = 0; i < KVCI_LATENCY_COUNT; i++)
		metrics_histogram(core, (enum kvci_latency)i, &text);
	if (text.failed) {
		kvci_free(text.bytes);
		return NULL;
	}
	*ret_bytes = text.length;
	return text.bytes;
}

/* ---- the server ---- */

enum { HTTP_CONNECTIONS_MAX = 32, HTTP_TIMEOUT_S = 10 };

struct kvci_http {
	struct kvci_core *core;
	struct MHD_Daemon *daemon;
};

static void http_free(void *bytes)
{
	kvci_free(bytes);
}

static enum MHD_Result http_reply(struct MHD_Connection *connection, unsigned code, const char *type, char *bytes, size_t length)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer_with_free_callback(length, bytes, http_free);
	enum MHD_Result result;

	if (response == NULL) {
		kvci_free(bytes);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type", type);
	result = MHD_queue_response(connection, code, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result http_text(struct MHD_Connection *connection, unsigned code, const char *text)
{
	char *copy = kvci_strdup(text);

	return copy != NULL ? http_reply(connection, code, "text/plain; charset=utf-8", copy, strlen(copy)) : MHD_NO;
}

static enum MHD_Result http_ready(struct kvci_http *http, struct MHD_Connection *connection)
{
	const struct kvci_core_face *face = &http->core->face;
	kvc_status_t disk = atomic_load_explicit(&face->disk_health, memory_order_relaxed);
	char text[160];

	if (atomic_load_explicit(&face->ready, memory_order_relaxed) != 0)
		return http_text(connection, MHD_HTTP_OK, "ready\n");
	if (atomic_load_explicit(&face->index_loading, memory_order_relaxed) != 0)
		snprintf(text, sizeof(text), "not ready: the index is still being loaded\n");
	else
		snprintf(text, sizeof(text), "not ready: disk: %s\n", kvc_status_text(disk));
	return http_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, text);
}

static enum MHD_Result http_answer(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                   const char *version, const char *upload, size_t *upload_bytes, void **request)
{
	struct kvci_http *http = context;
	size_t length;
	char *text;

	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return http_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n");
	if (strcmp(url, "/healthz") == 0)
		return http_text(connection, MHD_HTTP_OK, "ok\n");
	if (strcmp(url, "/readyz") == 0)
		return http_ready(http, connection);
	if (strcmp(url, "/metrics") != 0)
		return http_text(connection, MHD_HTTP_NOT_FOUND, "/metrics, /healthz, /readyz\n");
	text = kvci_metrics_text(http->core, &length);
	if (text == NULL)
		return MHD_NO;
	return http_reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, length);
}

/* "HOST:PORT", "[HOST]:PORT", ":PORT". NULL: it is none of these. */
static struct addrinfo *http_resolve(const char *address, char **ret_error)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	const char *colon = strrchr(address, ':');
	char host[64] = "";
	size_t digits;
	int failure;

	/* getaddrinfo takes 99999 for the port 34463. */
	digits = colon != NULL ? strspn(colon + 1, "0123456789") : 0;
	if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' || strtoul(colon + 1, NULL, 10) > UINT16_MAX ||
	    (size_t)(colon - address) >= sizeof(host)) {
		*ret_error = kvci_asprintf("http.listen: %s is not ADDRESS:PORT", address);
		return NULL;
	}
	memcpy(host, address, (size_t)(colon - address));
	if (host[0] == '[' && strlen(host) > 2) {
		host[strlen(host) - 1] = '\0';
		memmove(host, host + 1, strlen(host));
	}
	failure = getaddrinfo(host[0] != '\0' ? host : NULL, colon + 1, &hints, &found);
	if (failure != 0) {
		*ret_error = kvci_asprintf("http.listen: %s is not ADDRESS:PORT (%s)", address, gai_strerror(failure));
		return NULL;
	}
	return found;
}

kvc_status_t kvci_http_check(const char *address, char **ret_error)
{
	struct addrinfo *found = http_resolve(address, ret_error);

	if (found == NULL)
		return KVC_CONFIG;
	freeaddrinfo(found);
	return KVC_OK;
}

/* To a listening socket. */
static int http_listen(const char *address, char **ret_error)
{
	struct addrinfo *found = http_resolve(address, ret_error);
	const int one = 1;
	int fd;

	if (found == NULL)
		return -1;
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 16) != 0) {
		*ret_error = kvci_asprintf("http.listen: cannot listen on %s: %s", address, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

static unsigned http_port(int fd)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
		return 0;
	return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
	                                           : ((struct sockaddr_in *)&address)->sin_port);
}

kvc_status_t kvci_http_start(struct kvci_core *core, const char *address, struct kvci_http **ret_http, char **ret_error)
{
	struct kvci_http *http;
	int fd = http_listen(address, ret_error);

	if (fd < 0)
		return KVC_CONFIG;
	http = kvci_alloc_zero(1, sizeof(*http));
	if (http == NULL) {
		close(fd);
		return KVC_NO_MEMORY;
	}
	http->core = core;
	kvci_log(KVCI_LOG_INFO, "http", "metrics at port %u", http_port(fd));
	http->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL, NULL, http_answer, http,
	                                MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
	                                (unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
	                                (unsigned)HTTP_TIMEOUT_S, MHD_OPTION_END);
	if (http->daemon == NULL) {
		*ret_error = kvci_asprintf("http.listen: the web server does not start");
		close(fd);
		kvci_free(http);
		return KVC_IO;
	}
	*ret_http = http;
	return KVC_OK;
}

void kvci_http_stop(struct kvci_http *http)
{
	if (http == NULL)
		return;
	MHD_stop_daemon(http->daemon);
	kvci_free(http);
}
