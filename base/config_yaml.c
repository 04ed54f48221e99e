/* SPDX-License-Identifier: Apache-2.0
 * The YAML source of the configuration: a walk over libyaml's events. Nested maps and dotted keys mean the same; a key
 * may come once; anchors, aliases and further documents are refused. Descends into known groups only, so its depth is that
 * of the table. */
#include "base/config_table.h"

#include <stdarg.h>
#include <string.h>
#include <yaml.h>

#include "base/alloc.h"

enum {
	YAML_DEPTH_MAX = 4,
	YAML_KEY_BYTES = 128,
	YAML_WHERE_BYTES = 256,
};

struct yaml_walk {
	yaml_parser_t parser;
	yaml_event_t event; /* the one at hand; wiped by yaml_next */
	struct kvci_config *config;
	const char *source;
	char **ret_error;
	size_t option_line[CONFIG_OPTION_COUNT];                /* where it was set; 0: not yet */
	size_t group_line[CONFIG_OPTION_COUNT][YAML_DEPTH_MAX]; /* by first option of the group and depth */
	size_t sockets_line;
};

static size_t yaml_line(const struct yaml_walk *walk)
{
	return walk->event.start_mark.line + 1;
}

/* "kvcaskd.yaml:3" */
static const char *yaml_where(const struct yaml_walk *walk, char out[YAML_WHERE_BYTES])
{
	snprintf(out, YAML_WHERE_BYTES, "%.200s:%zu", walk->source, yaml_line(walk));
	return out;
}

__attribute__((format(printf, 2, 3))) static kvc_status_t yaml_fail(struct yaml_walk *walk, const char *format, ...)
{
	char where[YAML_WHERE_BYTES], text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return kvci_config_fail(walk->ret_error, KVC_CONFIG, "%s: %s", yaml_where(walk, where), text);
}

static kvc_status_t yaml_next(struct yaml_walk *walk)
{
	yaml_event_delete(&walk->event);
	if (yaml_parser_parse(&walk->parser, &walk->event)) {
		if (walk->event.type == YAML_ALIAS_EVENT)
			return yaml_fail(walk, "aliases (*name) are not supported");
		return KVC_OK;
	}
	memset(&walk->event, 0, sizeof(walk->event));
	if (walk->parser.error == YAML_MEMORY_ERROR)
		return KVC_NO_MEMORY;
	return kvci_config_fail(walk->ret_error, KVC_CONFIG, "%.200s:%zu: not YAML: %s", walk->source,
	                        (walk->parser.error == YAML_READER_ERROR ? walk->parser.mark.line
	                                                                 : walk->parser.problem_mark.line) + 1,
	                        walk->parser.problem != NULL ? walk->parser.problem : "unknown mistake");
}

/* The scalar at hand as text: what YAML calls null is empty. NULL after a message: no scalar, or a NUL in it. */
static const char *yaml_scalar(struct yaml_walk *walk, const char *key)
{
	const char *text = (const char *)walk->event.data.scalar.value;

	if (walk->event.type != YAML_SCALAR_EVENT) {
		yaml_fail(walk, "%.100s: takes one value, not a list or a map", key);
		return NULL;
	}
	if (strlen(text) != walk->event.data.scalar.length) {
		yaml_fail(walk, "%.100s: a value with a NUL byte", key);
		return NULL;
	}
	if (walk->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
		return "";
	return text;
}

/* The first option of the group `prefix`, or -1. */
static int yaml_group(const char *prefix)
{
	size_t bytes = strlen(prefix);

	for (int i = 0; i < CONFIG_OPTION_COUNT; i++)
		if (strncmp(kvci_config_table[i].info.key, prefix, bytes) == 0 && kvci_config_table[i].info.key[bytes] == '.')
			return i;
	return -1;
}

/* ---- sockets ---- */

struct yaml_socket {
	char *values[3]; /* path, mode, tenant */
};
static const char *const yaml_socket_keys[] = {"path", "mode", "tenant"};

static kvc_status_t yaml_socket_pair(struct yaml_walk *walk, const char *name, struct yaml_socket *socket)
{
	char key[YAML_KEY_BYTES];
	const char *text = yaml_scalar(walk, name);
	kvc_status_t status;
	unsigned i = 0;

	if (text == NULL)
		return KVC_CONFIG;
	while (i < 3 && strcmp(yaml_socket_keys[i], text) != 0)
		i++;
	if (i == 3)
		return yaml_fail(walk, "%s: unknown key \"%.100s\"; allowed: path, mode, tenant", name, text);
	if (socket->values[i] != NULL)
		return yaml_fail(walk, "%s.%s: is there twice", name, yaml_socket_keys[i]);
	snprintf(key, sizeof(key), "%s.%s", name, yaml_socket_keys[i]);
	status = yaml_next(walk);
	if (status != KVC_OK)
		return status;
	text = yaml_scalar(walk, key);
	if (text == NULL)
		return KVC_CONFIG;
	socket->values[i] = kvci_strdup(text);
	return socket->values[i] != NULL ? KVC_OK : KVC_NO_MEMORY;
}

/* The map at hand is a socket. */
static kvc_status_t yaml_one_socket(struct yaml_walk *walk)
{
	struct yaml_socket socket = {{NULL}};
	char name[32], where[YAML_WHERE_BYTES];
	kvc_status_t status = KVC_OK;

	snprintf(name, sizeof(name), "sockets[%u]", walk->config->socket_count);
	if (walk->event.type != YAML_MAPPING_START_EVENT)
		return yaml_fail(walk, "%s: must be a map such as {path: /run/kvcask.sock, mode: 0660, tenant: default}", name);
	yaml_where(walk, where);
	while ((status = yaml_next(walk)) == KVC_OK && walk->event.type != YAML_MAPPING_END_EVENT) {
		status = yaml_socket_pair(walk, name, &socket);
		if (status != KVC_OK)
			break;
	}
	if (status == KVC_OK)
		status = kvci_config_add_socket(walk->config, socket.values[0], socket.values[1], socket.values[2], where, name,
		                                walk->ret_error);
	for (unsigned i = 0; i < 3; i++)
		kvci_free(socket.values[i]);
	return status;
}

/* The value of `sockets` is at hand. */
static kvc_status_t yaml_sockets(struct yaml_walk *walk)
{
	kvc_status_t status;

	if (walk->event.type != YAML_SEQUENCE_START_EVENT)
		return yaml_fail(walk, "sockets: must be a list of {path, mode, tenant}; for one socket write `socket: PATH`");
	kvci_config_drop_sockets(walk->config);
	while ((status = yaml_next(walk)) == KVC_OK && walk->event.type != YAML_SEQUENCE_END_EVENT) {
		status = yaml_one_socket(walk);
		if (status != KVC_OK)
			break;
	}
	return status;
}

/* ---- options ---- */

static kvc_status_t yaml_map(struct yaml_walk *walk, const char *prefix, unsigned depth);

/* A key once only: notes the line at `seen`. */
static kvc_status_t yaml_once(struct yaml_walk *walk, const char *key, size_t *seen)
{
	if (*seen != 0)
		return yaml_fail(walk, "%s: is there twice; the first is in line %zu", key, *seen);
	*seen = yaml_line(walk);
	return KVC_OK;
}

/* A map stands where `key` has its value. */
static kvc_status_t yaml_enter(struct yaml_walk *walk, const char *key, unsigned depth)
{
	int first = yaml_group(key);
	kvc_status_t status;

	if (first < 0 || depth >= YAML_DEPTH_MAX) {
		if (kvci_config_find(key) >= 0 || strcmp(key, "socket") == 0)
			return yaml_fail(walk, "%.100s: takes one value, not a map", key);
		return yaml_fail(walk, "unknown key \"%.100s\"; the nearest key is \"%s\"", key, kvci_config_nearest(key));
	}
	status = yaml_once(walk, key, &walk->group_line[first][depth]);
	return status == KVC_OK ? yaml_map(walk, key, depth) : status;
}

/* The value of `key` is at hand. */
static kvc_status_t yaml_value(struct yaml_walk *walk, const char *key, unsigned depth)
{
	char where[YAML_WHERE_BYTES];
	bool is_socket = strcmp(key, "socket") == 0, is_list = strcmp(key, "sockets") == 0;
	int index = kvci_config_find(key);
	kvc_status_t status = KVC_OK;
	const char *text;

	if (is_socket || is_list)
		status = yaml_once(walk, is_list ? "sockets (or socket)" : "socket (or sockets)", &walk->sockets_line);
	else if (index >= 0)
		status = yaml_once(walk, key, &walk->option_line[index]);
	if (status != KVC_OK)
		return status;
	if (is_list)
		return yaml_sockets(walk);
	if (walk->event.type == YAML_MAPPING_START_EVENT)
		return yaml_enter(walk, key, depth);
	if (index < 0 && !is_socket && yaml_group(key) >= 0) {
		if (walk->event.type == YAML_SCALAR_EVENT && walk->event.data.scalar.length == 0)
			return KVC_OK; /* `memory:` with everything under it commented out */
		return yaml_fail(walk, "%s: is a group of options (such as %s), not one", key,
		                 kvci_config_table[yaml_group(key)].info.key);
	}
	text = yaml_scalar(walk, key);
	if (text == NULL)
		return KVC_CONFIG;
	return kvci_config_assign(walk->config, key, text, yaml_where(walk, where), walk->ret_error);
}

/* The start of a map is at hand; ends with its end at hand. */
static kvc_status_t yaml_map(struct yaml_walk *walk, const char *prefix, unsigned depth)
{
	char key[YAML_KEY_BYTES];
	kvc_status_t status;

	while ((status = yaml_next(walk)) == KVC_OK && walk->event.type != YAML_MAPPING_END_EVENT) {
		const char *text = yaml_scalar(walk, *prefix != '\0' ? prefix : "a key");
		int bytes;

		if (text == NULL)
			return KVC_CONFIG;
		bytes = snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix != '\0' ? "." : "", text);
		if (*text == '\0')
			return yaml_fail(walk, "a key is empty");
		if (bytes >= (int)sizeof(key))
			return yaml_fail(walk, "unknown key \"%.100s\"; the nearest key is \"%s\"", key, kvci_config_nearest(key));
		status = yaml_next(walk);
		if (status == KVC_OK)
			status = yaml_value(walk, key, depth + 1);
		if (status != KVC_OK)
			return status;
	}
	return status;
}

/* The stream: at most one document, which is a map or nothing. */
static kvc_status_t yaml_stream(struct yaml_walk *walk)
{
	kvc_status_t status = yaml_next(walk); /* stream start */

	if (status == KVC_OK)
		status = yaml_next(walk);
	if (status != KVC_OK || walk->event.type == YAML_STREAM_END_EVENT)
		return status;
	status = yaml_next(walk); /* past the document start */
	if (status != KVC_OK)
		return status;
	if (walk->event.type == YAML_MAPPING_START_EVENT)
		status = yaml_map(walk, "", 0);
	else if (walk->event.type != YAML_SCALAR_EVENT || walk->event.data.scalar.length != 0)
		status = yaml_fail(walk, "must be a map of options (key: value)");
	if (status == KVC_OK)
		status = yaml_next(walk); /* document end */
	if (status == KVC_OK)
		status = yaml_next(walk);
	if (status == KVC_OK && walk->event.type != YAML_STREAM_END_EVENT)
		status = yaml_fail(walk, "a second document; one is allowed");
	return status;
}

kvc_status_t kvci_config_yaml(struct kvci_config *config, const char *text, size_t length_bytes, const char *source,
                              char **ret_error)
{
	struct yaml_walk *walk = kvci_alloc_zero(1, sizeof(*walk));
	kvc_status_t status;

	if (walk == NULL)
		return KVC_NO_MEMORY;
	walk->config = config;
	walk->source = source;
	walk->ret_error = ret_error;
	if (!yaml_parser_initialize(&walk->parser)) {
		kvci_free(walk);
		return KVC_NO_MEMORY;
	}
	yaml_parser_set_input_string(&walk->parser, (const unsigned char *)text, length_bytes);
	status = yaml_stream(walk);
	yaml_event_delete(&walk->event);
	yaml_parser_delete(&walk->parser);
	kvci_free(walk);
	return status;
}
