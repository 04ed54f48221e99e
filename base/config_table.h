/* SPDX-License-Identifier: Apache-2.0
 * The option table as data and what base/config*.c share. For those files only; everyone else takes base/config.h. */
#ifndef KVCI_CONFIG_TABLE_H
#define KVCI_CONFIG_TABLE_H

#include <stddef.h>

#include "base/config.h"

enum config_type {
	CONFIG_TEXT,
	CONFIG_PATH,
	CONFIG_BYTES,
	CONFIG_DURATION,
	CONFIG_COUNT,
	CONFIG_PERCENT,
	CONFIG_BOOL,
	CONFIG_CHOICE,
};

enum config_index {
#define KVCI_OPTION(key, member, type, default_, min, max, choices, text) CONFIG_INDEX_##member,
#include "base/config.def"
#undef KVCI_OPTION
	CONFIG_OPTION_COUNT
};

struct config_option {
	struct kvci_option_info info;
	enum config_type type;
	size_t offset; /* of the member in struct kvci_config */
};
extern const struct config_option kvci_config_table[CONFIG_OPTION_COUNT];

enum {
	CONFIG_TEXT_BYTES_MAX = 1 << 20, /* of a file */
	CONFIG_SOCKETS_MAX = 64,
	CONFIG_ALLOWED_BYTES = 192,
	CONFIG_FORMAT_BYTES = 32,
};

/* ---- config_value.c ---- */

/* Parses text into the option's member. CONFIG: not a value of it; NO_MEMORY. */
kvc_status_t kvci_config_value_parse(const struct config_option *option, const char *text, struct kvci_config *config);
/* "1MiB to 64TiB, or auto": what a value of the option looks like. */
void kvci_config_value_allowed(const struct config_option *option, char out[CONFIG_ALLOWED_BYTES]);
/* "4GiB" of a member that is no text. */
void kvci_config_value_format(const struct config_option *option, const struct kvci_config *config,
                              char out[CONFIG_FORMAT_BYTES]);

/* ---- config.c ---- */

/* Sets *ret_error (when ret_error is not NULL) to a cleaned message and returns `status`. */
kvc_status_t kvci_config_fail(char **ret_error, kvc_status_t status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Index of a key, or -1. */
int kvci_config_find(const char *key);
/* The key most like `name`, in which '_', '-' and '.' are the same. */
const char *kvci_config_nearest(const char *name);
/* One option from text; `where` begins the message ("kvcaskd.yaml:3"). */
kvc_status_t kvci_config_assign(struct kvci_config *config, const char *key, const char *value, const char *where,
                                char **ret_error);
/* Appends a socket; mode and tenant as text, NULL: the default. `name` begins the key in messages ("sockets[0]"). */
kvc_status_t kvci_config_add_socket(struct kvci_config *config, const char *path, const char *mode, const char *tenant,
                                    const char *where, const char *name, char **ret_error);
void kvci_config_drop_sockets(struct kvci_config *config);
kvc_status_t kvci_config_clone(const struct kvci_config *config, struct kvci_config *ret_clone);

/* ---- config_yaml.c ---- */

/* Parses YAML into config, which is in an unknown state after a failure (the caller works on a clone). */
kvc_status_t kvci_config_yaml(struct kvci_config *config, const char *text, size_t length_bytes, const char *source,
                              char **ret_error);

#endif
