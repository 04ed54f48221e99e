/* SPDX-License-Identifier: Apache-2.0
 * What a client has done, as JSON; the daemon is not asked. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

struct stats_text {
	char text[4096];
	size_t used;
};

__attribute__((format(printf, 2, 3)))
static void stats_put(struct stats_text *out, const char *format, ...)
{
	va_list arguments;
	int n;

	va_start(arguments, format);
	n = vsnprintf(out->text + out->used, sizeof(out->text) - out->used, format, arguments);
	va_end(arguments);
	if (n > 0)
		out->used = out->used + (size_t)n < sizeof(out->text) ? out->used + (size_t)n : sizeof(out->text) - 1;
}

static const char *stats_circuit(const struct kvc_client *client)
{
	if (client->state == CONNECTION_UP)
		return client->silent ? "silent" : "closed";
	return client->state == CONNECTION_HELLO ? "greeting" : "open";
}

static void stats_misses(const struct kvc_client *client, struct stats_text *out)
{
	const char *comma = "";

	stats_put(out, ",\"misses\":{");
	for (uint32_t i = 1; i < CLIENT_MISSES; i++) {
		if (strcmp(kvc_miss_name(i), "unknown") == 0 && client->stats.misses[i] == 0)
			continue;
		stats_put(out, "%s\"%s\":%llu", comma, kvc_miss_name(i), (unsigned long long)client->stats.misses[i]);
		comma = ",";
	}
	stats_put(out, "}");
}

static void stats_make(const struct kvc_client *client, struct stats_text *out)
{
	const struct client_stats *stats = &client->stats;

	stats_put(out, "{\"circuit\":\"%s\"", stats_circuit(client));
#define STATS_FIELD(name) stats_put(out, ",\"" #name "\":%llu", (unsigned long long)stats->name)
	STATS_FIELD(calls);
	STATS_FIELD(round_trips);
	STATS_FIELD(messages_sent);
	STATS_FIELD(messages_received);
	STATS_FIELD(syscalls);
	STATS_FIELD(locks);
	STATS_FIELD(allocations);
	STATS_FIELD(match_calls);
	STATS_FIELD(match_keys);
	STATS_FIELD(match_hit_keys);
	STATS_FIELD(load_blocks);
	STATS_FIELD(load_bytes);
	STATS_FIELD(load_ns);
	STATS_FIELD(load_failed_blocks);
	STATS_FIELD(load_corrupt_blocks);
	STATS_FIELD(load_late_blocks);
	STATS_FIELD(store_blocks);
	STATS_FIELD(store_bytes);
	STATS_FIELD(store_ns);
	STATS_FIELD(store_existing_blocks);
	STATS_FIELD(store_refused_blocks);
	STATS_FIELD(connects);
	STATS_FIELD(disconnects);
	STATS_FIELD(circuit_opened);
	STATS_FIELD(circuit_refused);
	STATS_FIELD(protocol_errors);
	STATS_FIELD(timed_out);
	STATS_FIELD(spins);
	STATS_FIELD(spins_answered);
#undef STATS_FIELD
	stats_misses(client, out);
	stats_put(out, "}");
}

kvc_status_t kvc_client_stats(struct kvc_client *client, char **ret_json)
{
	struct stats_text out = {.used = 0};
	char *json;
	kvc_status_t status;

	if (ret_json == NULL)
		return client_fail(KVC_INVALID, "ret_json is NULL");
	status = client_enter(client);
	if (status != KVC_OK)
		return status;
	stats_make(client, &out);
	client_leave(client);
	json = kvci_strdup(out.text);
	if (json == NULL)
		return client_fail(KVC_NO_MEMORY, "stats");
	*ret_json = json;
	return KVC_OK;
}
