/* SPDX-License-Identifier: Apache-2.0
 * The option table for people: --help-config, docs/config.md and the commented default file. */
#include "base/config_table.h"

#include <string.h>


/* "memory" of "memory.capacity"; 0 when the key has no group. */
static int config_group_bytes(const char *key)
{
	const char *dot = strchr(key, '.');

	return dot != NULL ? (int)(dot - key) : 0;
}

static bool config_starts_group(unsigned index)
{
	const char *key = kvci_config_table[index].info.key, *before;

	if (index == 0)
		return false;
	before = kvci_config_table[index - 1].info.key;
	return config_group_bytes(key) != config_group_bytes(before) ||
	       strncmp(key, before, (size_t)config_group_bytes(key)) != 0;
}

/* Numbers and words stand bare in YAML; empty text is quoted. */
static const char *config_yaml_default(const struct kvci_option_info *info)
{
	return info->default_[0] != '\0' ? info->default_ : "\"\"";
}

static void config_print_help(FILE *out)
{
	fprintf(out, "socket: PATH\n    where clients connect; or\n"
	             "sockets: [{path: PATH, mode: 0600, tenant: default}, ...]\n    one socket a tenant\n");
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		const struct kvci_option_info *info = &kvci_config_table[i].info;
		char allowed[CONFIG_ALLOWED_BYTES];

		kvci_config_value_allowed(&kvci_config_table[i], allowed);
		fprintf(out, "%s%s: %s\n    %s\n    (%s)\n", config_starts_group(i) ? "\n" : "", info->key,
		        config_yaml_default(info), info->text, allowed);
	}
}

static void config_print_markdown(FILE *out)
{
	fprintf(out,
	        "<!-- Made from base/config.def by tools/dev/gen-docs; do not edit. -->\n"
	        "# Configuration\n\n"
	        "`kvcaskd --config FILE`: YAML. Nested maps and dotted keys mean the same: `memory: {capacity: 4GiB}` is\n"
	        "`memory.capacity: 4GiB`. Later sources win: defaults, file, environment, `--set key=value`. An unknown key, a bad\n"
	        "value or a key that comes twice ends the start with a message that names file, line, key, value and what is allowed.\n\n"
	        "Sizes: a number with `B`, `KiB`, `MiB`, `GiB` or `TiB` (`1.5GiB`; bare: bytes). Times: a number with `ns`, `us`, `ms`, `s`,\n"
	        "`min` or `h`. `auto`: chosen at start; `kvcask config` shows what was chosen. The environment variable of `memory.capacity` is\n"
	        "`KVCASK_MEMORY_CAPACITY`, and so on.\n\n"
	        "| key | default | allowed | what it is |\n|---|---|---|---|\n"
	        "| `socket` | | a path of at most 107 bytes | where clients connect, for the tenant `default`, mode 0600 |\n"
	        "| `sockets` | | a list of `{path, mode, tenant}` | instead of `socket`: one socket a tenant; the path is the "
	        "credential, `mode` its permission bits (octal, 0600), `tenant` 1 to 64 letters, digits, `.`, `_`, `-` |\n");
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		const struct kvci_option_info *info = &kvci_config_table[i].info;
		char allowed[CONFIG_ALLOWED_BYTES];

		kvci_config_value_allowed(&kvci_config_table[i], allowed);
		fprintf(out, "| `%s` | %s%s%s | %s | %s |\n", info->key, info->default_[0] != '\0' ? "`" : "", info->default_,
		        info->default_[0] != '\0' ? "`" : "", allowed, info->text);
	}
}

static void config_print_yaml(FILE *out)
{
	fprintf(out, "# kvcaskd's configuration. Options in comments have their defaults; docs/config.md says more.\n\n"
	             "# Where clients connect. For several tenants instead:\n"
	             "#sockets: [{path: /run/kvcask/a.sock, mode: 0660, tenant: a}]\n"
	             "socket: /run/kvcask/kvcask.sock\n");
	for (unsigned i = 0; i < CONFIG_OPTION_COUNT; i++) {
		const struct kvci_option_info *info = &kvci_config_table[i].info;
		char allowed[CONFIG_ALLOWED_BYTES];

		kvci_config_value_allowed(&kvci_config_table[i], allowed);
		fprintf(out, "\n# %s\n# (%s)\n#%s: %s\n", info->text, allowed, info->key, config_yaml_default(info));
	}
}

void kvci_config_print(FILE *out, enum kvci_config_format format)
{
	switch (format) {
	case KVCI_CONFIG_HELP:
		config_print_help(out);
		break;
	case KVCI_CONFIG_MARKDOWN:
		config_print_markdown(out);
		break;
	case KVCI_CONFIG_YAML:
		config_print_yaml(out);
		break;
	}
}
