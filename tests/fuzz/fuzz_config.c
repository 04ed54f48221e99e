/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a configuration file, as key=value and as an environment variable: refused with a message that is one clean line, or
 * taken, and then what it gives back as text is taken again and means the same. */
#include <string.h>

#include "base/alloc.h"
#include "base/config.h"
#include "base/log.h"
#include "tests/fuzz/fuzz.h"

static void check_error(kvc_status_t status, char *error)
{
	FUZZ_CHECK((status == KVC_CONFIG) == (error != NULL));
	FUZZ_CHECK(status == KVC_OK || status == KVC_CONFIG);
	for (const char *c = error; c != NULL && *c != '\0'; c++)
		FUZZ_CHECK((unsigned char)*c >= 0x20 && *c != 0x7f);
	kvci_free(error);
}

/* Each option's text, set again, is the same text. */
static void check_round_trip(struct kvci_config *config)
{
	for (uint32_t i = 0; i < kvci_config_option_count(); i++) {
		const char *key = kvci_config_option(i)->key;
		char *text = kvci_config_get_text(config, key), *assignment = kvci_asprintf("%s=%s", key, text), *again, *error;

		FUZZ_CHECK(kvci_config_set(config, assignment, "again", &error) == KVC_OK);
		again = kvci_config_get_text(config, key);
		FUZZ_CHECK(strcmp(text, again) == 0);
		kvci_free(again);
		kvci_free(assignment);
		kvci_free(text);
	}
	for (uint32_t i = 0; i < config->socket_count; i++) {
		FUZZ_CHECK(strlen(config->sockets[i].path) < 108 && config->sockets[i].path[0] != '\0');
		FUZZ_CHECK(config->sockets[i].mode <= 0777);
		FUZZ_CHECK(config->sockets[i].tenant[0] != '\0');
	}
}

static void drop_line(void *context, enum kvci_log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct kvci_config config;
	char *error, *text = kvci_strndup((const char *)bytes, length);
	char *variable = kvci_asprintf("KVCASK_%s", text), *environment[] = {variable, NULL};
	kvc_status_t status;

	kvci_log_set_sink(drop_line, NULL);
	FUZZ_CHECK(kvci_config_init(&config) == KVC_OK);
	status = kvci_config_load_text(&config, (const char *)bytes, length, "fuzz", &error);
	check_error(status, error);
	if (status == KVC_OK)
		check_round_trip(&config);
	status = kvci_config_set(&config, text, "fuzz", &error);
	check_error(status, error);
	status = kvci_config_load_environment(&config, environment, &error);
	check_error(status, error);
	kvci_config_fini(&config);
	kvci_free(variable);
	kvci_free(text);
	return 0;
}
