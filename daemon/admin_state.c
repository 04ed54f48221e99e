/* SPDX-License-Identifier: Apache-2.0
 * Questions about the daemon as a whole: help's helpers, stat, spaces, epochs, clients, config, health, fault, flush. */
#include "daemon/admin_internal.h"

#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "codec/profile.h"
#include "daemon/coding.h"
#include "daemon/content.h"
#include "daemon/serve.h"
#include "daemon/server.h"
#include "daemon/wiring.h"

/* ---- JSON ---- */

static bool state_wrong_type(struct kvci_admin_question *question, const char *name, const char *type)
{
	admin_fail(question, KVC_INVALID, "%s: \"%s\" is not %s", question->entry->name, name, type);
	return false;
}

bool admin_get_uint(struct kvci_admin_question *question, const char *name, uint64_t default_, uint64_t max,
                    uint64_t *ret_value)
{
	json_t *value = json_object_get(question->arguments, name);

	*ret_value = default_;
	if (value == NULL)
		return true;
	if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > max)
		return state_wrong_type(question, name, "a number in its range");
	*ret_value = (uint64_t)json_integer_value(value);
	return true;
}

bool admin_get_text(struct kvci_admin_question *question, const char *name, const char *default_, const char **ret_value)
{
	json_t *value = json_object_get(question->arguments, name);

	*ret_value = default_;
	if (value == NULL)
		return true;
	if (!json_is_string(value))
		return state_wrong_type(question, name, "a text");
	*ret_value = json_string_value(value);
	return true;
}

bool admin_get_bool(struct kvci_admin_question *question, const char *name, bool default_, bool *ret_value)
{
	json_t *value = json_object_get(question->arguments, name);

	*ret_value = default_;
	if (value == NULL)
		return true;
	if (!json_is_boolean(value))
		return state_wrong_type(question, name, "true or false");
	*ret_value = json_is_true(value);
	return true;
}

void admin_set_uint(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer(value <= INT64_MAX ? (json_int_t)value : INT64_MAX));
}

void admin_set_text(json_t *object, const char *name, const char *value)
{
	json_t *text = json_string(value);

	/* What is no UTF-8 (a client's name) is not worth failing for. */
	json_object_set_new(object, name, text != NULL ? text : json_string("?"));
}

void admin_set_bool(json_t *object, const char *name, bool value)
{
	json_object_set_new(object, name, json_boolean(value));
}

void admin_set_real(json_t *object, const char *name, double value)
{
	json_t *real = json_real(value); /* NULL for NaN and infinities */

	json_object_set_new(object, name, real != NULL ? real : json_null());
}

void admin_set_hex(json_t *object, const char *name, const void *bytes, size_t length)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * KVCI_HASH_BYTES + 1];
	const uint8_t *from = bytes;

	if (length > KVCI_HASH_BYTES)
		length = KVCI_HASH_BYTES;
	for (size_t i = 0; i < length; i++) {
		text[2 * i] = digits[from[i] >> 4];
		text[2 * i + 1] = digits[from[i] & 15];
	}
	json_object_set_new(object, name, json_stringn(text, 2 * length));
}

bool admin_parse_hex(const char *text, uint8_t out[KVCI_HASH_BYTES], uint32_t *ret_nibbles)
{
	size_t length = strlen(text);

	if (length > 2 * KVCI_HASH_BYTES)
		return false;
	memset(out, 0, KVCI_HASH_BYTES);
	for (size_t i = 0; i < length; i++) {
		char c = text[i];
		int nibble = c >= '0' && c <= '9'   ? c - '0'
		             : c >= 'a' && c <= 'f' ? c - 'a' + 10
		             : c >= 'A' && c <= 'F' ? c - 'A' + 10
		                                    : -1;

		if (nibble < 0)
			return false;
		out[i / 2] |= (uint8_t)(nibble << (i % 2 == 0 ? 4 : 0));
	}
	*ret_nibbles = (uint32_t)length;
	return true;
}

bool admin_sees_space(const struct kvci_admin_question *question, uint32_t space)
{
	struct kvci_space_info info;

	if (question->operator)
		return true;
	if (kvci_cache_space_info(question->core->cache, space, &info) != KVC_OK)
		return false;
	return strcmp(info.fields->tenant != NULL ? info.fields->tenant : "", question->tenant) == 0;
}

/* ---- stat and health ---- */

static json_t *state_totals(const struct kvci_core *core)
{
	struct kvci_cache_totals totals;
	json_t *object = json_object();

	kvci_cache_totals(core->cache, &totals);
	admin_set_uint(object, "blocks", totals.blocks);
	admin_set_uint(object, "memory_blocks", totals.memory_blocks);
	admin_set_uint(object, "disk_blocks", totals.disk_blocks);
	admin_set_uint(object, "memory_used_bytes", totals.memory_used_bytes);
	admin_set_uint(object, "memory_slab_bytes", totals.memory_slab_bytes);
	admin_set_uint(object, "memory_capacity_bytes", totals.memory_capacity_bytes);
	admin_set_uint(object, "leased_bytes", totals.leased_bytes);
	admin_set_uint(object, "reserved_bytes", totals.reserved_bytes);
	admin_set_uint(object, "quarantined_bytes", totals.quarantined_bytes);
	admin_set_uint(object, "write_queue_bytes", totals.write_queue_bytes);
	admin_set_uint(object, "loads_under_way", totals.loads_under_way);
	return object;
}

static json_t *state_sizes(const struct kvci_core *core)
{
	json_t *sizes = json_object();

	admin_set_uint(sizes, "memory_available_bytes", core->sizes.memory_available_bytes);
	admin_set_uint(sizes, "memory_bytes", core->sizes.memory_bytes);
	admin_set_uint(sizes, "slab_bytes", core->sizes.slab_bytes);
	admin_set_uint(sizes, "disk_free_bytes", core->sizes.disk_free_bytes);
	admin_set_uint(sizes, "disk_bytes", core->sizes.disk_bytes);
	admin_set_uint(sizes, "segment_bytes", core->sizes.segment_bytes);
	admin_set_uint(sizes, "write_queue_bytes", core->sizes.write_queue_bytes);
	admin_set_uint(sizes, "workers", core->sizes.workers);
	return sizes;
}

static json_t *state_latencies(const struct kvci_core *core)
{
	json_t *all = json_object();

	for (unsigned i = 0; i < KVCI_LATENCY_COUNT; i++) {
		struct kvci_histogram_figures figures;
		json_t *one = json_object();

		kvci_latency_read(&core->latencies, (enum kvci_latency)i, &figures);
		admin_set_uint(one, "count", figures.count);
		admin_set_real(one, "mean_us", figures.count > 0 ? (double)figures.sum_ns / (double)figures.count / 1e3 : 0);
		admin_set_real(one, "p50_us", (double)kvci_histogram_quantile_ns(&figures, 0.5) / 1e3);
		admin_set_real(one, "p90_us", (double)kvci_histogram_quantile_ns(&figures, 0.9) / 1e3);
		admin_set_real(one, "p99_us", (double)kvci_histogram_quantile_ns(&figures, 0.99) / 1e3);
		json_object_set_new(all, kvci_latency_name((enum kvci_latency)i), one);
	}
	return all;
}

/* What codecs do, and what auto chose and why. */
static json_t *state_coding(const struct kvci_core *core)
{
	struct kvci_coded_figures figures;
	struct kvci_cache_totals totals;
	json_t *object = json_object(), *codecs = json_array();

	kvci_coded_figures(core->coded, &figures);
	kvci_cache_totals(core->cache, &totals);
	admin_set_text(object, "mode", kvci_coded_mode_name(figures.mode));
	admin_set_text(object, "choice", figures.choice);
	admin_set_text(object, "choice_profiled", figures.choice_profiled);
	admin_set_text(object, "why", figures.why);
	admin_set_uint(object, "raw_bytes", totals.disk_raw_bytes);
	admin_set_uint(object, "stored_bytes", totals.disk_stored_bytes);
	admin_set_uint(object, "saved_bytes", totals.disk_raw_bytes - totals.disk_stored_bytes);
	admin_set_real(object, "ratio", totals.disk_stored_bytes != 0 ? (double)totals.disk_raw_bytes / (double)totals.disk_stored_bytes : 1);
	admin_set_uint(object, "encode_bytes_per_s", figures.encode_bytes_per_s);
	admin_set_uint(object, "decode_bytes_per_s", figures.decode_bytes_per_s);
	admin_set_uint(object, "device_bytes_per_s", figures.device_bytes_per_s);
	admin_set_bool(object, "device_measured", figures.device_measured);
	admin_set_uint(object, "threads", figures.thread_count);
	for (uint32_t i = 0; i < figures.codec_count; i++) {
		const struct kvci_coded_codec *codec = &figures.codecs[i];
		json_t *one = json_object();

		admin_set_text(one, "codec", codec->name);
		admin_set_uint(one, "encode_bytes_per_s", codec->encode_bytes_per_s);
		admin_set_uint(one, "decode_bytes_per_s", codec->decode_bytes_per_s);
		admin_set_real(one, "stored_share", codec->stored_share);
		admin_set_real(one, "load_of_raw", codec->relative);
		admin_set_bool(one, "judged", codec->judged);
		admin_set_bool(one, "used", !codec->refused);
		json_array_append_new(codecs, one);
	}
	json_object_set_new(object, "codecs", codecs);
	admin_set_uint(object, "waiting", figures.waiting);
	admin_set_uint(object, "profiles", kvci_coding_profile_count(core->coding));
	return object;
}

static void state_health(const struct kvci_core *core, json_t *object)
{
	kvc_status_t disk = atomic_load_explicit(&core->face.disk_health, memory_order_relaxed);

	admin_set_bool(object, "ready", atomic_load_explicit(&core->face.ready, memory_order_relaxed));
	admin_set_bool(object, "index_loading", atomic_load_explicit(&core->face.index_loading, memory_order_relaxed));
	admin_set_text(object, "disk", core->disk == NULL ? "none" : disk == KVC_OK ? "ok" : kvc_status_name(disk));
	if (disk != KVC_OK)
		admin_set_text(object, "disk_text", kvc_status_text(disk));
}

void admin_health(struct kvci_admin_question *question)
{
	kvci_core_refresh(question->core);
	state_health(question->core, question->answer);
	admin_finish(question);
}

void admin_stat(struct kvci_admin_question *question)
{
	struct kvci_core *core = question->core;
	json_t *stats = json_object();

	kvci_core_refresh(core);
	for (unsigned i = 0; i < KVCI_STAT_COUNT; i++)
		admin_set_uint(stats, kvci_stat_info((enum kvci_stat)i)->name, kvci_stat_get(&core->stats, (enum kvci_stat)i));
	admin_set_text(question->answer, "version", KVCI_DAEMON_VERSION);
	admin_set_uint(question->answer, "pid", (uint64_t)getpid());
	admin_set_uint(question->answer, "uptime_ns", kvci_clock_ns() - core->started_ns);
	admin_set_text(question->answer, "data_dir", core->config->data_dir != NULL ? core->config->data_dir : "");
	state_health(core, question->answer);
	json_object_set_new(question->answer, "sizes", state_sizes(core));
	json_object_set_new(question->answer, "totals", state_totals(core));
	if (core->coded != NULL)
		json_object_set_new(question->answer, "coding", state_coding(core));
	json_object_set_new(question->answer, "latencies", state_latencies(core));
	json_object_set_new(question->answer, "stats", stats);
	admin_finish(question);
}

/* ---- spaces and epochs ---- */

json_t *admin_form_json(const struct kvc_form *form)
{
	static const char *const arrangements[4] = {[KVC_KV_FUSED] = "fused", [KVC_KV_SPLIT] = "split", [KVC_KV_LATENT] = "latent"};
	static const char *const orders[4] = {[0] = "", [KVC_ORDER_HN] = "hn", [KVC_ORDER_NH] = "nh"};
	json_t *object = json_object();
	struct kvc_form_sizes sizes;
	char id[20];

	snprintf(id, sizeof(id), "%016llx", (unsigned long long)kvc_form_id(form));
	admin_set_text(object, "form", id);
	admin_set_uint(object, "layers", form->layer_count);
	admin_set_uint(object, "block_tokens", form->block_tokens);
	admin_set_uint(object, "engine_block_tokens", form->engine_block_tokens);
	admin_set_uint(object, "kv_heads", form->kv_heads);
	admin_set_uint(object, "head_dim_k", form->head_dim_k);
	admin_set_uint(object, "head_dim_v", form->head_dim_v);
	admin_set_text(object, "dtype", kvci_content_dtype_name(form->dtype));
	admin_set_text(object, "arrangement", arrangements[form->arrangement % 4]);
	admin_set_text(object, "order", orders[form->order % 4]);
	admin_set_uint(object, "page_extra_bytes", form->page_extra_bytes);
	admin_set_uint(object, "group", form->group);
	admin_set_uint(object, "group_rule", form->group_rule);
	admin_set_uint(object, "window_tokens", form->window_tokens);
	admin_set_uint(object, "shard_index", form->shard_index);
	admin_set_uint(object, "shard_count", form->shard_count);
	if (kvc_form_sizes(form, &sizes, NULL) == KVC_OK) {
		admin_set_uint(object, "section_bytes", sizes.section_bytes);
		admin_set_uint(object, "record_bytes", sizes.record_bytes);
	}
	return object;
}

static void state_space_head(json_t *object, uint32_t index, const struct kvci_space_info *info)
{
	admin_set_uint(object, "space", index);
	admin_set_hex(object, "fingerprint", info->fingerprint, sizeof(info->fingerprint));
	admin_set_uint(object, "epoch", info->epoch);
}

/* The profile that codecs use for blocks of this form, or the one that they do not, because it is of another model. */
static void state_form_profile(json_t *object, const struct kvci_core *core, const struct kvci_space *fields, const struct kvc_form *form)
{
	const struct kvc_profile *refused = NULL, *profile = kvci_coding_profile_for(core->coding, fields, form, &refused);
	char id[20];

	if (profile == NULL && refused == NULL)
		return;
	snprintf(id, sizeof(id), "%016llx", (unsigned long long)kvci_profile_id(profile != NULL ? profile : refused));
	admin_set_text(object, profile != NULL ? "profile" : "profile_refused", id);
	if (profile != NULL)
		admin_set_bool(object, "profile_of_model", profile->model[0] != '\0');
}

/* The forms of the space that are known, by a walk over the bindings. */
static json_t *state_space_forms(const struct kvci_core *core, uint32_t space, const struct kvci_space *fields)
{
	json_t *forms = json_array();

	for (uint32_t binding = 0; binding < kvci_cache_binding_count(core->cache); binding++) {
		const struct kvc_form *form = kvci_coding_form(core->coding, binding);

		if (form != NULL && kvci_cache_binding_space(core->cache, binding) == space) {
			json_t *object = admin_form_json(form);

			state_form_profile(object, core, fields, form);
			json_array_append_new(forms, object);
		}
	}
	return forms;
}

struct state_walk {
	uint32_t space;
	json_t *list;
};

static bool state_spaces_step(struct kvci_admin_question *question)
{
	struct state_walk *walk = question->state;
	struct kvci_space_info info;
	json_t *object;

	if (walk->space >= kvci_cache_space_count(question->core->cache)) {
		json_object_set(question->answer, "spaces", walk->list);
		admin_finish(question);
		return true;
	}
	if (kvci_cache_space_info(question->core->cache, walk->space, &info) == KVC_OK &&
	    admin_sees_space(question, walk->space)) {
		object = json_object();
		state_space_head(object, walk->space, &info);
#define STATE_FIELD(field, text) admin_set_text(object, #field, info.fields->field != NULL ? info.fields->field : "");
		KVCI_SPACE_FIELDS(STATE_FIELD)
#undef STATE_FIELD
		admin_set_uint(object, "blocks", info.blocks);
		admin_set_uint(object, "memory_blocks", info.memory_blocks);
		admin_set_uint(object, "disk_blocks", info.disk_blocks);
		admin_set_uint(object, "bytes", info.bytes);
		json_object_set_new(object, "forms", state_space_forms(question->core, walk->space, info.fields));
		json_array_append_new(walk->list, object);
	}
	walk->space++;
	return false;
}

static void state_walk_free(void *state)
{
	struct state_walk *walk = state;

	json_decref(walk->list);
	kvci_free(walk);
}

static void state_walk_begin(struct kvci_admin_question *question, bool (*step)(struct kvci_admin_question *question))
{
	struct state_walk *walk = kvci_alloc_zero(1, sizeof(*walk));

	if (walk == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	walk->list = json_array();
	question->state = walk;
	question->state_free = state_walk_free;
	admin_step(question, step);
}

void admin_spaces(struct kvci_admin_question *question)
{
	state_walk_begin(question, state_spaces_step);
}

static bool state_epochs_step(struct kvci_admin_question *question)
{
	struct state_walk *walk = question->state;
	struct kvci_ledger_figures figures = {0};
	struct kvci_space_info info;
	json_t *object;

	for (unsigned i = 0; i < 32 && walk->space < kvci_cache_space_count(question->core->cache); i++, walk->space++) {
		if (!admin_sees_space(question, walk->space) ||
		    kvci_cache_space_info(question->core->cache, walk->space, &info) != KVC_OK)
			continue;
		object = json_object();
		state_space_head(object, walk->space, &info);
		json_array_append_new(walk->list, object);
	}
	if (walk->space < kvci_cache_space_count(question->core->cache))
		return false;
	json_object_set(question->answer, "spaces", walk->list);
	if (question->core->ledger != NULL)
		kvci_ledger_figures(question->core->ledger, &figures);
	object = json_object();
	admin_set_bool(object, "durable", question->core->ledger != NULL);
	admin_set_uint(object, "spaces", figures.spaces);
	admin_set_uint(object, "lost_records", figures.lost_records);
	admin_set_uint(object, "unknown_spaces", figures.unknown_spaces);
	admin_set_uint(object, "healed_files", figures.healed_files);
	admin_set_uint(object, "write_errors", figures.write_errors);
	json_object_set_new(question->answer, "ledger", object);
	admin_finish(question);
	return true;
}

void admin_epochs(struct kvci_admin_question *question)
{
	state_walk_begin(question, state_epochs_step);
}

/* ---- clients ---- */

enum { STATE_CLIENTS_STEP = 16 };

/* Their numbers first, all at once; each is looked up again when its turn comes. */
struct state_clients {
	uint32_t *ids;
	uint32_t count, room, next;
	json_t *list;
};

static void state_client(struct kvci_admin_question *question, const struct kvci_conn *conn, json_t *list)
{
	struct kvci_core *core = question->core;
	struct kvci_conn_info info;
	struct kvci_client_info held = {0};
	json_t *object;

	kvci_conn_info(conn, &info);
	if (!question->operator && strcmp(info.tenant, question->tenant) != 0)
		return;
	object = json_object();
	admin_set_uint(object, "client", info.client);
	admin_set_text(object, "name", info.name);
	admin_set_text(object, "tenant", info.tenant);
	admin_set_uint(object, "pid", (uint64_t)info.peer.pid);
	admin_set_uint(object, "uid", info.peer.uid);
	admin_set_uint(object, "age_ns", kvci_clock_ns() - info.since_ns);
	admin_set_uint(object, "messages", info.messages);
	admin_set_uint(object, "operations", info.operations);
	admin_set_uint(object, "bindings", info.bindings);
	if (kvci_cache_client_info(core->cache, info.client, &held) == KVC_OK) {
		admin_set_uint(object, "slab_bytes", held.slab_bytes);
		admin_set_uint(object, "reservations", held.reservations);
		admin_set_uint(object, "reserved_bytes", held.reserved_bytes);
		admin_set_uint(object, "quarantined", held.quarantined);
		admin_set_uint(object, "leases", held.leases);
		admin_set_uint(object, "leased_bytes", held.leased_bytes);
		admin_set_bool(object, "session_owner", held.session_owner);
		if (held.has_session)
			admin_set_hex(object, "session", held.session_id, sizeof(held.session_id));
	}
	json_array_append_new(list, object);
}

static bool state_clients_step(struct kvci_admin_question *question)
{
	struct state_clients *clients = question->state;

	for (unsigned i = 0; i < STATE_CLIENTS_STEP && clients->next < clients->count; i++) {
		const struct kvci_conn *conn = kvci_server_conn(question->core->server, clients->ids[clients->next++]);

		if (conn != NULL)
			state_client(question, conn, clients->list);
	}
	if (clients->next < clients->count)
		return false;
	json_object_set(question->answer, "clients", clients->list);
	admin_finish(question);
	return true;
}

static void state_client_number(void *context, const struct kvci_conn *conn)
{
	struct state_clients *clients = context;

	if (clients->count < clients->room)
		clients->ids[clients->count++] = kvci_conn_client(conn);
}

static void state_clients_free(void *state)
{
	struct state_clients *clients = state;

	json_decref(clients->list);
	kvci_free(clients->ids);
	kvci_free(clients);
}

void admin_clients(struct kvci_admin_question *question)
{
	struct state_clients *clients = kvci_alloc_zero(1, sizeof(*clients));

	if (clients == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	question->state = clients;
	question->state_free = state_clients_free;
	clients->list = json_array();
	clients->room = kvci_server_client_count(question->core->server);
	clients->ids = kvci_alloc_zero(clients->room + 1, sizeof(clients->ids[0]));
	if (clients->ids == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	kvci_server_each(question->core->server, state_client_number, clients);
	admin_step(question, state_clients_step);
}

/* ---- config ---- */

static void state_option(struct kvci_admin_question *question, json_t *options, const struct kvci_option_info *info)
{
	char *value = kvci_config_get_text(question->core->config, info->key);
	json_t *object = json_object();

	admin_set_text(object, "value", value != NULL ? value : "");
	admin_set_text(object, "default", info->default_);
	admin_set_text(object, "type", info->type);
	admin_set_text(object, "text", info->text);
	json_object_set_new(options, info->key, object);
	kvci_free(value);
}

void admin_config(struct kvci_admin_question *question)
{
	const struct kvci_config *config = question->core->config;
	json_t *options = json_object(), *sockets = json_array();
	const char *key;
	bool found = false;

	if (!admin_get_text(question, "key", NULL, &key)) {
		json_decref(options);
		json_decref(sockets);
		return;
	}
	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const struct kvci_option_info *info = kvci_config_option(i);

		if (key != NULL && strcmp(key, info->key) != 0)
			continue;
		found = true;
		state_option(question, options, info);
	}
	for (uint32_t i = 0; i < config->socket_count; i++) {
		json_t *socket = json_object();
		char mode[8];

		snprintf(mode, sizeof(mode), "%04o", config->sockets[i].mode & 07777);
		admin_set_text(socket, "path", config->sockets[i].path);
		admin_set_text(socket, "mode", mode);
		admin_set_text(socket, "tenant", config->sockets[i].tenant != NULL ? config->sockets[i].tenant : "default");
		json_array_append_new(sockets, socket);
	}
	json_object_set_new(question->answer, "options", options);
	json_object_set_new(question->answer, "sockets", sockets);
	json_object_set_new(question->answer, "sizes", state_sizes(question->core));
	if (found)
		admin_finish(question);
	else
		admin_fail(question, KVC_NOT_FOUND, "no such option");
}

/* ---- check, fault and flush ---- */

void admin_check(struct kvci_admin_question *question)
{
	const char *broken = kvci_cache_check(question->core->cache);

	admin_set_bool(question->answer, "whole", broken == NULL);
	if (broken != NULL)
		admin_set_text(question->answer, "broken", broken);
	admin_finish(question);
}

void admin_fault(struct kvci_admin_question *question)
{
	const char *set;
	char *error = NULL;
	kvc_status_t status = KVC_OK;

	if (!admin_get_text(question, "set", NULL, &set))
		return;
	if (set != NULL)
		status = kvci_wiring_set_fault(question->core, set, &error);
	if (status != KVC_OK) {
		admin_fail(question, status, "%s", error != NULL ? error : kvc_status_text(status));
		kvci_free(error);
		return;
	}
	admin_set_text(question->answer, "fault", kvci_wiring_get_fault(question->core));
	admin_finish(question);
}

struct state_flush {
	struct kvci_flush_wait wait;
	struct kvci_core *core;
	struct kvci_timer timer; /* answers outside the brain's call */
	struct kvci_admin_question *question;
	bool waiting;
	kvc_status_t status;
};

static void state_flush_answer(void *context)
{
	struct state_flush *flush = context;
	struct kvci_admin_question *question = flush->question;

	if (flush->status != KVC_OK) {
		admin_fail(question, flush->status, "%s", kvc_status_text(flush->status));
		return;
	}
	admin_set_bool(question->answer, "flushed", true);
	admin_finish(question);
}

static void state_flushed(struct kvci_flush_wait *wait, kvc_status_t status)
{
	struct state_flush *flush = wait->context;

	flush->waiting = false;
	flush->status = status;
	if (kvci_loop_timer_arm(flush->core->loop, &flush->timer, kvci_loop_now_ns(flush->core->loop)) != KVC_OK)
		state_flush_answer(flush); /* out of memory: now, then */
}

static void state_flush_free(void *state)
{
	struct state_flush *flush = state;

	if (flush->waiting)
		kvci_cache_flush_cancel(flush->core->cache, &flush->wait);
	kvci_loop_timer_disarm(flush->core->loop, &flush->timer);
	kvci_free(flush);
}

void admin_flush(struct kvci_admin_question *question)
{
	struct state_flush *flush = kvci_alloc_zero(1, sizeof(*flush));
	struct kvci_core *core = question->core;
	kvc_status_t status;

	if (flush == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	flush->core = core;
	flush->question = question;
	flush->waiting = true;
	flush->wait.done = state_flushed;
	flush->wait.context = flush;
	flush->timer.run = state_flush_answer;
	flush->timer.context = flush;
	question->state = flush;
	question->state_free = state_flush_free;
	status = kvci_cache_flush(core->cache, &flush->wait);
	if (status != KVC_OK) {
		flush->waiting = false;
		admin_fail(question, status, "%s", kvc_status_text(status));
	}
	kvci_core_wake(core); /* the question may be over */
}
