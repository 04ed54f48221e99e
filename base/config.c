/* SPDX-License-Identifier: Apache-2.0
 * Configuration: the table, its sources, and the messages. Every change is made on a clone that takes the place of the
 * configuration when all of it was right, so that a failed load changes nothing. */
#include "base/config_table.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

enum { CONFIG_KEY_BYTES = 64 };

#define CONFIG_TYPE_NAME_TEXT "text"
#define CONFIG_TYPE_NAME_PATH "path"
#define CONFIG_TYPE_NAME_BYTES "size"
#define CONFIG_TYPE_NAME_DURATION "time"
#define CONFIG_TYPE_NAME_COUNT "count"
#define CONFIG_TYPE_NAME_PERCENT "percent"
#define CONFIG_TYPE_NAME_BOOL "bool"
#define CONFIG_TYPE_NAME_CHOICE "choice"

#define KVCI_OPTION(key, member, type, default_, min, max, choices, text)                                    \
	_Static_assert(sizeof(text) > 1, key " has no text");                                                \
	_Static_assert(sizeof(key) <= CONFIG_KEY_BYTES, key " is too long");                                 \
	_Static_assert(sizeof(choices) + 8 <= CONFIG_ALLOWED_BYTES / 2, key " has too many choices");
#include "base/config.def"
#undef KVCI_OPTION

const struct config_option kvci_config_table[CONFIG_OPTION_COUNT] = {
#define KVCI_OPTION(key, member, type, default_, min, max, choices, text)                                    \
	{{key, CONFIG_TYPE_NAME_##type, default_, min, max, choices, text},                                  \
	 CONFIG_##type,                                                                                      \
	 offsetof(struct kvci_config, member)},
#include "base/config.def"
#undef KVCI_OPTION
};

uint32_t kvci_config_option_count(void)
{
	return CONFIG_OPTION_COUNT;
}

const struct kvci_option_info *kvci_config_option(uint32_t index)
{
	return index < CONFIG_OPTION_COUNT ? &kvci_config_table[index].info : NULL;
}

/* ---- messages ---- */

kvc_status_t kvci_config_fail(char **ret_error, kvc_status_t status, const char *format, ...)
{
	char line[1024];
	va_list arguments;

	if (ret_error == NULL)
		return status;
	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	for (char *c = line; *c != '\0'; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	*ret_error = kvci_strdup(line); /* NULL when there is no memory: the status says enough */
	return status;
}

static char config_fold(char c)
{
	return c == '.' || c == '-' ? '_' : (char)tolower((unsigned char)c);
}

/* Levenshtein distance of the folded texts, of which at most CONFIG_KEY_BYTES count. */
static unsigned config_distance(const char *a, const char *b)
{
	unsigned row[CONFIG_KEY_BYTES + 1];
	size_t a_bytes = strnlen(a, CONFIG_KEY_BYTES), b_bytes = strnlen(b, CONFIG_KEY_BYTES);

	for (size_t j = 0; j <= b_bytes; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= a_bytes; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_bytes; j++) {
			unsigned best = diagonal + (config_fold(a[i - 1]) != config_fold(b[j - 1]));

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_bytes];
}

const char *kvci_config_nearest(const char *name)
{
	const char *nearest = "socket";
	unsigned least = config_distance(name, nearest);

	if (config_distance(name, "sockets") < least) {
		nearest = "sockets";
		least = config_distance(name, nearest);
	}
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		const char *key = kvci_config_table[i].info.key, *last = strrchr(key, '.');
		unsigned distance = config_distance(name, key);
		char group[CONFIG_KEY_BYTES];

		if (last != NULL) { /* `capacity` for memory.capacity, `memry` for a group */
			unsigned part = config_distance(name, last + 1) + 1;

			distance = part < distance ? part : distance;
			snprintf(group, sizeof(group), "%.*s", (int)(last - key), key);
			part = config_distance(name, group) + 1;
			distance = part < distance ? part : distance;
		}
		if (distance < least) {
			least = distance;
			nearest = key;
		}
	}
	return nearest;
}

/* ---- life ---- */

int kvci_config_find(const char *key)
{
	for (int i = 0; i < CONFIG_OPTION_COUNT; i++)
		if (strcmp(kvci_config_table[i].info.key, key) == 0)
			return i;
	return -1;
}

static bool config_is_text(const struct config_option *option)
{
	return option->type == CONFIG_TEXT || option->type == CONFIG_PATH;
}

static char **config_text_member(const struct config_option *option, struct kvci_config *config)
{
	return (char **)((char *)config + option->offset);
}

kvc_status_t kvci_config_init(struct kvci_config *config)
{
	memset(config, 0, sizeof(*config));
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		kvc_status_t status = kvci_config_value_parse(&kvci_config_table[i], kvci_config_table[i].info.default_, config);

		if (status != KVC_OK) {
			kvci_config_fini(config);
			return status == KVC_CONFIG ? KVC_INTERNAL : status;
		}
	}
	return KVC_OK;
}

void kvci_config_drop_sockets(struct kvci_config *config)
{
	for (uint32_t i = 0; i < config->socket_count; i++) {
		kvci_free(config->sockets[i].path);
		kvci_free(config->sockets[i].tenant);
	}
	kvci_free(config->sockets);
	config->sockets = NULL;
	config->socket_count = 0;
}

void kvci_config_fini(struct kvci_config *config)
{
	kvci_config_drop_sockets(config);
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++)
		if (config_is_text(&kvci_config_table[i]))
			kvci_free(*config_text_member(&kvci_config_table[i], config));
	memset(config, 0, sizeof(*config));
}

/* Appends a socket whose parts are right. */
static kvc_status_t config_push_socket(struct kvci_config *config, const char *path, uint32_t mode, const char *tenant)
{
	struct kvci_socket *sockets, socket = {kvci_strdup(path), mode, kvci_strdup(tenant)};

	sockets = kvci_realloc(config->sockets, (config->socket_count + 1) * sizeof(sockets[0]));
	if (sockets != NULL)
		config->sockets = sockets;
	if (sockets == NULL || socket.path == NULL || socket.tenant == NULL) {
		kvci_free(socket.path);
		kvci_free(socket.tenant);
		return KVC_NO_MEMORY;
	}
	sockets[config->socket_count++] = socket;
	return KVC_OK;
}

kvc_status_t kvci_config_clone(const struct kvci_config *config, struct kvci_config *ret_clone)
{
	struct kvci_config clone = *config;

	clone.sockets = NULL;
	clone.socket_count = 0;
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++)
		if (config_is_text(&kvci_config_table[i]))
			*config_text_member(&kvci_config_table[i], &clone) = NULL;
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		const struct config_option *option = &kvci_config_table[i];

		if (config_is_text(option) &&
		    kvci_config_value_parse(option, *config_text_member(option, (struct kvci_config *)config), &clone) != KVC_OK)
			goto fail;
	}
	for (uint32_t i = 0; i < config->socket_count; i++) {
		const struct kvci_socket *socket = &config->sockets[i];

		if (config_push_socket(&clone, socket->path, socket->mode, socket->tenant) != KVC_OK)
			goto fail;
	}
	*ret_clone = clone;
	return KVC_OK;
fail:
	kvci_config_fini(&clone);
	return KVC_NO_MEMORY;
}

/* The clone becomes the configuration when all was right, else it goes. */
static kvc_status_t config_settle(struct kvci_config *config, struct kvci_config *clone, kvc_status_t status)
{
	kvci_config_fini(status == KVC_OK ? config : clone);
	if (status == KVC_OK)
		*config = *clone;
	return status;
}

/* ---- assignments ---- */

/* Octal permission bits: 660, 0660 or 0o660. */
static bool config_parse_mode(const char *text, uint32_t *ret_mode)
{
	uint32_t mode = 0;

	if (strncmp(text, "0o", 2) == 0)
		text += 2;
	if (*text == '\0' || strlen(text) > 4)
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '7')
			return false;
		mode = mode * 8 + (uint32_t)(*text - '0');
	}
	*ret_mode = mode;
	return mode <= 0777;
}

static bool config_tenant_ok(const char *tenant)
{
	size_t bytes = strlen(tenant);

	if (bytes == 0 || bytes > 64)
		return false;
	for (; *tenant != '\0'; tenant++)
		if (!isascii((unsigned char)*tenant) || (!isalnum((unsigned char)*tenant) && strchr("._-", *tenant) == NULL))
			return false;
	return true;
}

kvc_status_t kvci_config_add_socket(struct kvci_config *config, const char *path, const char *mode, const char *tenant,
                                    const char *where, const char *name, char **ret_error)
{
	const size_t path_max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	uint32_t bits = 0600;

	if (path == NULL || *path == '\0')
		return kvci_config_fail(ret_error, KVC_CONFIG, "%s: %s: the path of the socket is missing", where, name);
	if (strlen(path) > path_max)
		return kvci_config_fail(ret_error, KVC_CONFIG,
		                        "%s: %s: \"%.200s\" is too long: a socket path has at most %zu bytes", where, name,
		                        path, path_max);
	if (mode != NULL && !config_parse_mode(mode, &bits))
		return kvci_config_fail(ret_error, KVC_CONFIG,
		                        "%s: %s.mode: \"%.100s\" is wrong; allowed: octal permission bits, 0000 to 0777",
		                        where, name, mode);
	if (tenant != NULL && !config_tenant_ok(tenant))
		return kvci_config_fail(ret_error, KVC_CONFIG,
		                        "%s: %s.tenant: \"%.100s\" is wrong; allowed: 1 to 64 letters, digits, '.', '_', '-'",
		                        where, name, tenant);
	for (uint32_t i = 0; i < config->socket_count; i++)
		if (strcmp(config->sockets[i].path, path) == 0)
			return kvci_config_fail(ret_error, KVC_CONFIG, "%s: %s.path: \"%s\" is the path of another socket",
			                        where, name, path);
	if (config->socket_count == CONFIG_SOCKETS_MAX)
		return kvci_config_fail(ret_error, KVC_CONFIG, "%s: %s: more than %d sockets", where, name,
		                        CONFIG_SOCKETS_MAX);
	return config_push_socket(config, path, bits, tenant != NULL ? tenant : "default");
}

kvc_status_t kvci_config_assign(struct kvci_config *config, const char *key, const char *value, const char *where,
                                char **ret_error)
{
	char allowed[CONFIG_ALLOWED_BYTES];
	kvc_status_t status;
	int index;

	if (strcmp(key, "socket") == 0) {
		kvci_config_drop_sockets(config);
		return kvci_config_add_socket(config, value, NULL, NULL, where, "socket", ret_error);
	}
	index = kvci_config_find(key);
	if (index < 0)
		return kvci_config_fail(ret_error, KVC_CONFIG,
		                        "%s: unknown key \"%.100s\" (value \"%.100s\"); the nearest key is \"%s\"", where, key,
		                        value, kvci_config_nearest(key));
	status = kvci_config_value_parse(&kvci_config_table[index], value, config);
	if (status != KVC_CONFIG)
		return status;
	kvci_config_value_allowed(&kvci_config_table[index], allowed);
	return kvci_config_fail(ret_error, status, "%s: %s: \"%.100s\" is wrong; allowed: %s", where, key, value, allowed);
}

/* An assignment from the environment or the command line: all of YAML for the list of sockets, else plain text. */
static kvc_status_t config_assign_outside(struct kvci_config *config, const char *key, const char *value,
                                          const char *where, char **ret_error)
{
	kvc_status_t status;
	char *yaml;

	if (strcmp(key, "sockets") != 0)
		return kvci_config_assign(config, key, value, where, ret_error);
	yaml = kvci_asprintf("sockets: %s", value);
	if (yaml == NULL)
		return KVC_NO_MEMORY;
	status = kvci_config_yaml(config, yaml, strlen(yaml), where, ret_error);
	kvci_free(yaml);
	return status;
}

kvc_status_t kvci_config_set(struct kvci_config *config, const char *assignment, const char *source, char **ret_error)
{
	const char *equals = strchr(assignment, '=');
	char key[CONFIG_KEY_BYTES];
	struct kvci_config clone;
	kvc_status_t status;

	if (ret_error != NULL)
		*ret_error = NULL;
	if (equals == NULL || equals == assignment)
		return kvci_config_fail(ret_error, KVC_CONFIG, "%s: \"%.100s\" is not of the form key=value", source,
		                        assignment);
	/* A key that does not fit is unknown, and its beginning names it as well. */
	snprintf(key, sizeof(key), "%.*s", (int)(equals - assignment < CONFIG_KEY_BYTES ? equals - assignment : CONFIG_KEY_BYTES),
	         assignment);
	status = kvci_config_clone(config, &clone);
	if (status != KVC_OK)
		return status;
	status = config_assign_outside(&clone, key, equals + 1, source, ret_error);
	return config_settle(config, &clone, status);
}

/* The key that KVCASK_<name> stands for, or NULL. */
static const char *config_key_of_variable(const char *name, size_t name_bytes)
{
	static const char *const apart[] = {"socket", "sockets"};

	for (unsigned i = 0; i < CONFIG_OPTION_COUNT + 2; i++) {
		const char *key = i < CONFIG_OPTION_COUNT ? kvci_config_table[i].info.key : apart[i - CONFIG_OPTION_COUNT];
		size_t c = 0;

		if (strlen(key) != name_bytes)
			continue;
		while (c < name_bytes && toupper((unsigned char)config_fold(key[c])) == name[c])
			c++;
		if (c == name_bytes)
			return key;
	}
	return NULL;
}

static void config_warn_variable(const char *name)
{
	/* Of the Python package. */
	static const char *const others[] = {"LIBRARY", "DAEMON", "BUILD_DIR"};
	char nearest[CONFIG_KEY_BYTES];
	size_t c = 0;

	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (strcmp(name, others[i]) == 0)
			return;
	for (const char *key = kvci_config_nearest(name); *key != '\0'; key++)
		nearest[c++] = (char)toupper((unsigned char)config_fold(*key));
	nearest[c] = '\0';
	kvci_log(KVCI_LOG_WARN, "config", "environment variable KVCASK_%.100s is none of ours and is left aside; the nearest is KVCASK_%s",
	         name, nearest);
}

kvc_status_t kvci_config_load_environment(struct kvci_config *config, char **environment, char **ret_error)
{
	static const char prefix[] = "KVCASK_";
	struct kvci_config clone;
	kvc_status_t status;

	if (ret_error != NULL)
		*ret_error = NULL;
	status = kvci_config_clone(config, &clone);
	if (status != KVC_OK)
		return status;
	for (; status == KVC_OK && *environment != NULL; environment++) {
		const char *variable = *environment, *equals = strchr(variable, '='), *key;
		char where[128], name[CONFIG_KEY_BYTES];

		if (equals == NULL || strncmp(variable, prefix, sizeof(prefix) - 1) != 0)
			continue;
		variable += sizeof(prefix) - 1;
		snprintf(name, sizeof(name), "%.*s", (int)(equals - variable < CONFIG_KEY_BYTES ? equals - variable : CONFIG_KEY_BYTES),
		         variable);
		key = config_key_of_variable(variable, (size_t)(equals - variable));
		if (key == NULL) {
			config_warn_variable(name);
			continue;
		}
		snprintf(where, sizeof(where), "environment variable KVCASK_%s", name);
		status = config_assign_outside(&clone, key, equals + 1, where, ret_error);
	}
	return config_settle(config, &clone, status);
}

/* ---- files ---- */

kvc_status_t kvci_config_load_text(struct kvci_config *config, const char *text, size_t length_bytes, const char *source,
                                   char **ret_error)
{
	struct kvci_config clone;
	kvc_status_t status;

	if (ret_error != NULL)
		*ret_error = NULL;
	if (length_bytes > CONFIG_TEXT_BYTES_MAX)
		return kvci_config_fail(ret_error, KVC_CONFIG, "%s: larger than %d bytes: not a configuration", source,
		                        CONFIG_TEXT_BYTES_MAX);
	status = kvci_config_clone(config, &clone);
	if (status != KVC_OK)
		return status;
	status = kvci_config_yaml(&clone, text, length_bytes, source, ret_error);
	return config_settle(config, &clone, status);
}

kvc_status_t kvci_config_load_file(struct kvci_config *config, const char *path, char **ret_error)
{
	size_t used = 0, room = CONFIG_TEXT_BYTES_MAX + 1;
	kvc_status_t status;
	ssize_t n = -1;
	char *text;
	int fd;

	if (ret_error != NULL)
		*ret_error = NULL;
	text = kvci_alloc(room);
	if (text == NULL)
		return KVC_NO_MEMORY;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		while (used < room && ((n = read(fd, text + used, room - used)) > 0 || (n < 0 && errno == EINTR)))
			used += n > 0 ? (size_t)n : 0;
	if (n < 0) {
		int error = errno;

		status = kvci_config_fail(ret_error, kvc_status_from_errno(error), "%s: cannot be read: %s", path,
		                          strerrordesc_np(error));
	} else {
		status = kvci_config_load_text(config, text, used, path, ret_error);
	}
	if (fd >= 0)
		close(fd);
	kvci_free(text);
	return status;
}

/* ---- asking ---- */

/* The list of sockets as a YAML flow sequence; grown by asprintf: it is short and asked for rarely. */
static char *config_sockets_text(const struct kvci_config *config)
{
	char *text = kvci_strdup("[");

	for (uint32_t i = 0; text != NULL && i < config->socket_count; i++) {
		const struct kvci_socket *socket = &config->sockets[i];
		char *longer = kvci_asprintf("%s%s{path: \"%s\", mode: 0%o, tenant: %s}", text, i != 0 ? ", " : "", socket->path,
		                             (unsigned)socket->mode, socket->tenant);

		kvci_free(text);
		text = longer;
	}
	if (text != NULL) {
		char *closed = kvci_asprintf("%s]", text);

		kvci_free(text);
		text = closed;
	}
	return text;
}

char *kvci_config_get_text(const struct kvci_config *config, const char *key)
{
	char text[CONFIG_FORMAT_BYTES];
	const struct config_option *option;
	int index;

	if (strcmp(key, "sockets") == 0)
		return config_sockets_text(config);
	if (strcmp(key, "socket") == 0)
		return kvci_strdup(config->socket_count != 0 ? config->sockets[0].path : "");
	index = kvci_config_find(key);
	if (index < 0)
		return NULL;
	option = &kvci_config_table[index];
	if (config_is_text(option))
		return kvci_strdup(*config_text_member(option, (struct kvci_config *)config));
	kvci_config_value_format(option, config, text);
	return kvci_strdup(text);
}
