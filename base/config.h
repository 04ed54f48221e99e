/* SPDX-License-Identifier: Apache-2.0
 *
 * Configuration: one table (base/config.def) makes struct kvci_config, the YAML parser, --help-config, the commented default file and
 * docs/config.md. Sources, later ones win: defaults, file, environment (KVCASK_MEMORY_CAPACITY for memory.capacity), command line (--set memory.capacity=4GiB).
 * Defaults are text and go through the same parser as user input. An unknown key or bad value names source, line, key, value, what is
 * allowed and the nearest valid key.
 * Threads: load once, then read-only.
 */
#ifndef KVCI_CONFIG_H
#define KVCI_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <kvcask/status.h>

/* A socket and who may use it. */
struct kvci_socket {
	char *path;
	uint32_t mode;  /* permission bits, 0600 by default */
	char *tenant;   /* "default" */
};

#define KVCI_CONFIG_AUTO UINT64_MAX /* of a BYTES, COUNT or DURATION option: chosen at start */

struct kvci_config {
	struct kvci_socket *sockets;
	uint32_t socket_count;
	/* Members by type: TEXT char *, PATH char *, BYTES uint64_t, DURATION uint64_t (ns), COUNT uint64_t, PERCENT uint64_t, BOOL bool,
	 * CHOICE uint32_t (index into the choices). */
#define KVCI_OPTION_TEXT(member) char *member;
#define KVCI_OPTION_PATH(member) char *member;
#define KVCI_OPTION_BYTES(member) uint64_t member;
#define KVCI_OPTION_DURATION(member) uint64_t member;
#define KVCI_OPTION_COUNT(member) uint64_t member;
#define KVCI_OPTION_PERCENT(member) uint64_t member;
#define KVCI_OPTION_BOOL(member) bool member;
#define KVCI_OPTION_CHOICE(member) uint32_t member;
#define KVCI_OPTION(key, member, type, default_, min, max, choices, text) KVCI_OPTION_##type(member)
#include "base/config.def"
#undef KVCI_OPTION
};

/* Defaults only. */
kvc_status_t kvci_config_init(struct kvci_config *config);
void kvci_config_fini(struct kvci_config *config);
/* On failure *ret_error (kvci_free; NULL after NO_MEMORY; ret_error may be NULL) is one line for people; config keeps what it had. source: for messages ("kvcaskd.yaml"). */
kvc_status_t kvci_config_load_file(struct kvci_config *config, const char *path, char **ret_error);
kvc_status_t kvci_config_load_text(struct kvci_config *config, const char *text, size_t length_bytes, const char *source, char **ret_error);
kvc_status_t kvci_config_load_environment(struct kvci_config *config, char **environment, char **ret_error);
/* One "key=value". */
kvc_status_t kvci_config_set(struct kvci_config *config, const char *assignment, const char *source, char **ret_error);

/* Value of an option as text that the parser would take ("4GiB", "auto", "2s"); kvci_free. NULL: no such key or no memory. */
char *kvci_config_get_text(const struct kvci_config *config, const char *key);
/* Iterates the table. */
struct kvci_option_info {
	const char *key, *type, *default_, *min, *max, *choices, *text;
};
uint32_t kvci_config_option_count(void);
const struct kvci_option_info *kvci_config_option(uint32_t index);
/* --help-config: a table for people; markdown: docs/config.md; yaml: the commented default file. */
enum kvci_config_format { KVCI_CONFIG_HELP, KVCI_CONFIG_MARKDOWN, KVCI_CONFIG_YAML };
void kvci_config_print(FILE *out, enum kvci_config_format format);

#endif
