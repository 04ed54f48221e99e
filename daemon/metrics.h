/* SPDX-License-Identifier: Apache-2.0
 *
 * Metrics over HTTP: /metrics (Prometheus text), /healthz (the process answers), /readyz (the index is complete and the disk
 * healthy). By libmicrohttpd in its own thread, which reads atomics only: a scrape never meets the owner thread.
 */
#ifndef KVCI_DAEMON_METRICS_H
#define KVCI_DAEMON_METRICS_H

#include <stddef.h>

#include <kvcask/status.h>

struct kvci_core;
struct kvci_http;

/* address: "127.0.0.1:9090", "[::1]:9090", ":9090" (all), port 0: any free one (logged). On failure *ret_error (kvci_free) is a line. */
/* CONFIG with a line for people: no address to listen on. Whether it is free is seen when it starts. */
kvc_status_t kvci_http_check(const char *address, char **ret_error);
kvc_status_t kvci_http_start(struct kvci_core *core, const char *address, struct kvci_http **ret_http, char **ret_error);
void kvci_http_stop(struct kvci_http *http); /* NULL is fine */
/* The text of /metrics; kvci_free. NULL: no memory. Any thread. */
char *kvci_metrics_text(const struct kvci_core *core, size_t *ret_bytes);

#endif
