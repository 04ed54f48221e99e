/* SPDX-License-Identifier: Apache-2.0
 * What /metrics serves is what docs/metrics.md tells, and adds up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "core_fixture.h"
#include "daemon/metrics.h"

static char *metrics_docs(void)
{
	FILE *file = fopen(KVC_SOURCE_DIR "/docs/metrics.md", "re");
	char *text = calloc(1, 1 << 20);

	assert_non_null(file);
	assert_non_null(text);
	assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
	fclose(file);
	return text;
}

static char *metrics_now(const struct fixture_core *fixture)
{
	size_t bytes;
	char *raw = kvci_metrics_text(fixture->core, &bytes), *text = calloc(1, bytes + 1);

	assert_non_null(raw);
	assert_non_null(text);
	memcpy(text, raw, bytes);
	kvci_free(raw);
	return text;
}

static void test_metrics__every_exported_one__is_documented(void **state)
{
	struct fixture_core fixture;
	unsigned told = 0;

	fixture_core_start(&fixture, NULL);
	char *text = metrics_now(&fixture), *docs = metrics_docs(), *rest = NULL;
	for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		char name[128], wanted[160];
		if (sscanf(line, "# TYPE %127s", name) != 1)
			continue;
		snprintf(wanted, sizeof(wanted), "| `%s` |", name);
		if (strstr(docs, wanted) == NULL)
			fail_msg("docs/metrics.md says nothing of %s (base/gen_docs.c, tools/dev/gen-docs)", name);
		told++;
	}
	assert_true(told > KVCI_STAT_COUNT);
	free(docs);
	free(text);
	fixture_core_stop(&fixture);
}

/* The other way: a metric that is documented is served. */
static void test_metrics__every_documented_one__is_exported(void **state)
{
	struct fixture_core fixture;

	fixture_core_start(&fixture, NULL);
	char *text = metrics_now(&fixture), *docs = metrics_docs(), *rest = NULL;
	for (char *line = strtok_r(docs, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		char name[128], wanted[160];
		if (sscanf(line, "| `%127[a-z0-9_]` |", name) != 1)
			continue;
		snprintf(wanted, sizeof(wanted), "# TYPE %s ", name);
		if (strstr(text, wanted) == NULL)
			fail_msg("docs/metrics.md tells of %s, which is not served", name);
	}
	free(docs);
	free(text);
	fixture_core_stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_metrics__every_exported_one__is_documented),
		cmocka_unit_test(test_metrics__every_documented_one__is_exported),
	};

	return cmocka_run_group_tests_name("daemon/metrics", tests, NULL, NULL);
}
