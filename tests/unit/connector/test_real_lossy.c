/* SPDX-License-Identifier: Apache-2.0
 * A lossy space through the client library and a real kvcaskd that was restarted in between: what is loaded from the disk is what the codec itself gives, with
 * scores, a profile, and units over several layers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/stat.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/profile_make.h"
#include "daemon_child.h"
#include "fixture.h"

enum { LAYERS = 7, HEADS = 2, DIMS = 32, TOKENS = 64, BLOCKS = 6, ROW = 2 * 2 * DIMS /* K and V */, SECTION = TOKENS * HEADS * ROW };

static struct daemon_child child;
static struct fixture fixture;
static uint8_t values[BLOCKS][LAYERS][SECTION]; /* what is stored: [tokens][heads][K | V], bf16 */
static uint8_t scores[BLOCKS][TOKENS * HEADS];

static struct kvc_form lossy_form(void)
{
	struct kvc_form form = fixture_form(LAYERS, TOKENS);

	form.arrangement = KVC_KV_FUSED;
	return form;
}

static void lossy_make(void)
{
	uint64_t state = 7;

	for (uint32_t block = 0; block < BLOCKS; block++) {
		for (uint32_t i = 0; i < LAYERS * SECTION / 2; i++) {
			float value = 0;
			uint32_t bits;

			for (int part = 0; part < 4; part++) {
				state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
				value += (float)(int8_t)(state >> 56);
			}
			value *= 0.01f * (float)(1 + i % DIMS);
			memcpy(&bits, &value, sizeof(bits));
			bits >>= 16;
			memcpy(&values[block][0][0] + 2 * (size_t)i, &bits, 2);
		}
		for (uint32_t i = 0; i < TOKENS * HEADS; i++)
			scores[block][i] = (i + block) % 16 == 5 ? 250 : (uint8_t)(i % 192);
	}
}

/* From or to the engine's pages. */
static void lossy_copy_pages(const uint32_t *pages, uint8_t (*sections)[SECTION], bool to_engine)
{
	size_t page_bytes = fixture.engine.sizes.page_bytes;

	for (uint32_t layer = 0; layer < LAYERS; layer++)
		for (uint32_t i = 0; i < fixture.engine.sizes.pages_per_section; i++) {
			uint8_t *page = fixture.engine.memory + layer * fixture.engine.layer_bytes + pages[i] * page_bytes;

			memcpy(to_engine ? page : sections[layer] + i * page_bytes, to_engine ? sections[layer] + i * page_bytes : page, page_bytes);
		}
}

/* The values as [layers][tokens][heads][dims], and a profile of them, at `path`. */
static struct kvc_profile *lossy_profile(const struct kvc_form *form, const char *path)
{
	static uint8_t planes[2][LAYERS][BLOCKS * TOKENS * HEADS][ROW / 2];
	struct kvci_profile_sample sample = {.k = planes[0], .v = planes[1], .tokens = BLOCKS * TOKENS};
	struct kvci_profile_order order = {.name = "", .form = *form, .samples = &sample, .sample_count = 1, .pca_layers = 3};
	struct kvc_profile *profile;
	uint8_t *bytes;
	size_t length;
	FILE *file;

	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint32_t layer = 0; layer < LAYERS; layer++)
			for (uint32_t row = 0; row < TOKENS * HEADS; row++)
				for (int plane = 0; plane < 2; plane++)
					memcpy(planes[plane][layer][block * TOKENS * HEADS + row], &values[block][layer][row * ROW + plane * ROW / 2], ROW / 2);
	assert_int_equal(kvci_profile_make(&order, &bytes, &length), KVC_OK);
	assert_int_equal(kvci_profile_read(bytes, length, &profile), KVC_OK);
	file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, length, file), length);
	fclose(file);
	kvci_free(bytes);
	return profile;
}

/* The same way as the daemon: unit by unit. */
static void lossy_by_codec(const char *spec, const struct kvc_form *form, const struct kvc_profile *profile, uint32_t block, bool scored,
                           uint8_t (*out)[SECTION])
{
	struct kvc_codec_params params;
	const struct kvc_codec_ops *codec;
	struct kvc_codec_part part = {.form = form, .is_k = true, .position_tokens = block * TOKENS, .profile = profile, .params = &params};
	const char *wrong;

	part.scores = scored ? scores[block] : NULL;
	assert_int_equal(kvc_codec_spec_parse(spec, &codec, &params, &wrong), KVC_OK);
	for (uint32_t layer = 0, layers; layer < LAYERS; layer += layers) {
		size_t bound, coded_bytes, raw_bytes;
		uint8_t *coded, *scratch;

		part.layer = layer;
		part.layer_count = 0;
		layers = codec->span != NULL ? codec->span(&part) : 1;
		part.layer_count = layers = layers < LAYERS - layer ? layers : LAYERS - layer;
		raw_bytes = (size_t)layers * SECTION;
		bound = codec->bound_bytes(&part, raw_bytes);
		coded = kvci_alloc(bound);
		scratch = kvci_alloc_aligned(64, codec->scratch_bytes(&part, raw_bytes));
		assert_int_equal(codec->encode(&part, values[block][layer], raw_bytes, coded, bound, scratch, &coded_bytes), KVC_OK);
		assert_true(coded_bytes > 0);
		assert_int_equal(codec->decode(&part, coded, coded_bytes, out[layer], raw_bytes, scratch), KVC_OK);
		kvci_free(coded);
		kvci_free(scratch);
	}
}

static void lossy_open(const struct kvc_form *form, const char *spec)
{
	struct kvc_space_desc desc = fixture_desc();

	desc.codec = spec;
	fixture_open(&fixture, child.target, 0, form, BLOCKS);
	kvc_space_close(fixture.space);
	assert_int_equal(kvc_space_open(fixture.client, &desc, form, &fixture.space), KVC_OK);
	assert_int_equal(kvc_space_set_memory(fixture.space, fixture.engine.layers, LAYERS), KVC_OK);
}

static void lossy_match_all(const struct kvc_request *request)
{
	struct kvc_match_result result = {0};

	for (int i = 0; i < 2000 && result.matched_blocks < BLOCKS; i++) { /* its index may be loading still */
		struct timespec pause = {.tv_nsec = 10000000};

		if (i > 0)
			nanosleep(&pause, NULL);
		assert_int_equal(kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, BLOCKS, request, KVC_MATCH_LEASE, 10 * FIXTURE_SECOND,
		                           &result), KVC_OK);
	}
	assert_int_equal(result.matched_blocks, BLOCKS);
}

/* What a question is answered, as text. */
static char *lossy_ask(const char *question, const char *arguments)
{
	char *json;

	if (kvc_admin(fixture.client, question, arguments, 10 * FIXTURE_SECOND, &json) != KVC_OK)
		fail_msg("%s: %s", question, kvc_last_error());
	return json;
}

static void lossy_expect_in_record(const char *text)
{
	char arguments[64], *json;

	snprintf(arguments, sizeof(arguments), "{\"key\":\"0100000000000000%02x\"}", 1); /* fixture_key: name 1, block 1 */
	json = lossy_ask("show", arguments);
	if (strstr(json, text) == NULL)
		fail_msg("%s is not in %s", text, json);
	kvc_free(json);
}

static void lossy_restart(const struct kvc_form *form, const char *spec)
{
	fixture_close(&fixture);
	assert_int_equal(daemon_child_end(&child, SIGTERM), 0);
	daemon_child_run(&child);
	lossy_open(form, spec);
}

static uint8_t expected[BLOCKS][LAYERS][SECTION];

/* The first `layers` layers of all blocks are in the engine's pages. */
static void lossy_compare(uint32_t layers)
{
	static uint8_t got[LAYERS][SECTION];

	for (uint32_t block = 0; block < BLOCKS; block++) {
		lossy_copy_pages(fixture.pages_back + block * fixture.engine.sizes.pages_per_section, got, false);
		assert_memory_equal(got, expected[block], layers * sizeof(got[0]));
	}
}

/* With the daemon's memory empty, so that all comes from the disk; by section: a layer that was waited for is right at once. */
static void lossy_load_and_compare(const char *spec, const struct kvc_form *form, const struct kvc_profile *profile, bool scored, bool by_section)
{
	struct kvc_request request = fixture_request("lossy");
	struct kvc_op *op;

	for (uint32_t block = 0; block < BLOCKS; block++) {
		lossy_by_codec(spec, form, profile, block, scored, expected[block]);
		assert_memory_not_equal(expected[block], values[block], sizeof(values[block]));
	}
	lossy_match_all(&request);
	if (by_section) {
		assert_int_equal(kvc_load_sections_begin(fixture.space, &request, 0, BLOCKS, fixture.pages_back, 0, &op), KVC_OK);
		for (uint32_t layer = 1; layer <= LAYERS; layer++) {
			assert_int_equal(kvc_load_wait_sections(op, layer, 60 * FIXTURE_SECOND), KVC_OK);
			lossy_compare(layer);
		}
		assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_OK);
		kvc_op_destroy(op);
	} else if (kvc_load(fixture.space, &request, 0, BLOCKS, fixture.pages_back, 30 * FIXTURE_SECOND, NULL) != KVC_OK) {
		fail_msg("load: %s", kvc_last_error());
	}
	lossy_compare(LAYERS);
	assert_int_equal(kvc_release(fixture.client, &request), KVC_OK);
}

static void lossy_run(const char *spec, bool scored, bool profiled)
{
	struct kvc_form form = lossy_form();
	struct kvc_profile *profile = NULL;
	char path[160], options[256], name[32];

	lossy_make();
	daemon_child_start(&child, "memory.capacity: 64MiB\n");
	assert_int_equal(daemon_child_end(&child, SIGTERM), 0);
	snprintf(path, sizeof(path), "%s/data", child.folder);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(options, sizeof(options), "data_dir: %s\nmemory.capacity: 64MiB\nmemory.slab: 8MiB\ndisk.capacity: 256MiB\n", path);
	daemon_child_write_config(&child, options);
	snprintf(path, sizeof(path), "%s/data/profiles", child.folder);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/data/profiles/made.kvcp", child.folder);
	if (profiled)
		profile = lossy_profile(&form, path);
	daemon_child_run(&child);
	lossy_open(&form, spec);
	for (uint32_t block = 0; block < BLOCKS; block++)
		lossy_copy_pages(fixture.pages + block * fixture.engine.sizes.pages_per_section, values[block], true);
	if (scored)
		assert_int_equal(kvc_set_scores(fixture.space, (const uint8_t(*)[32])fixture.hashes, BLOCKS, scores[0], FIXTURE_SECOND * 10), KVC_OK);
	assert_int_equal(kvc_store(fixture.space, fixture.keys, BLOCKS, fixture.pages, 30 * FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_flush(fixture.client, 30 * FIXTURE_SECOND), KVC_OK);
	lossy_restart(&form, spec);
	lossy_load_and_compare(spec, &form, profile, scored, !scored);
	snprintf(name, sizeof(name), "\"codec\":\"%.*s\"", (int)strcspn(spec, ":"), spec);
	lossy_expect_in_record(name);
	if (scored) {
		char *json = lossy_ask("recode", "{\"action\":\"start\",\"codec\":\"split\"}");

		lossy_expect_in_record("\"scores_bytes\":128");
		while (strstr(json, "\"running\":true") != NULL) {
			struct timespec pause = {.tv_nsec = 1000000};

			kvc_free(json);
			nanosleep(&pause, NULL);
			json = lossy_ask("recode", "{\"action\":\"status\"}");
		}
		if (strstr(json, "\"recoded\":6") == NULL)
			fail_msg("%s", json);
		kvc_free(json);
		lossy_expect_in_record("\"codec\":\"split\"");
		lossy_expect_in_record("\"scores_bytes\":128");
	}
	fixture_close(&fixture);
	kvci_profile_free(profile);
	daemon_child_stop(&child);
}

static void test_lossy__int8__loads_what_the_codec_gives(void **state)
{
	lossy_run("int8", false, false);
}

static void test_lossy__int8_with_scores__heeds_and_keeps_them(void **state)
{
	lossy_run("int8", true, false);
}

static void test_lossy__units_over_layers__loads_what_the_codec_gives(void **state)
{
	lossy_run("ecsq+pca:step=0.5", false, true);
}

static void test_lossy__wrong_scores__refused(void **state)
{
	struct kvc_form form = lossy_form();

	daemon_child_start(&child, "memory.capacity: 64MiB\nmemory.slab: 8MiB\n");
	lossy_open(&form, "int8");
	assert_int_equal(kvc_set_scores(fixture.space, (const uint8_t(*)[32])fixture.hashes, BLOCKS, NULL, FIXTURE_SECOND), KVC_INVALID);
	assert_int_equal(kvc_set_scores(fixture.space, NULL, BLOCKS, scores[0], FIXTURE_SECOND), KVC_INVALID);
	assert_int_equal(kvc_set_scores(NULL, (const uint8_t(*)[32])fixture.hashes, BLOCKS, scores[0], FIXTURE_SECOND), KVC_INVALID);
	assert_int_equal(kvc_set_scores(fixture.space, (const uint8_t(*)[32])fixture.hashes, KVC_BLOCKS_MAX + 1, scores[0], FIXTURE_SECOND),
	                 KVC_TOO_BIG);
	assert_int_equal(kvc_set_scores(fixture.space, (const uint8_t(*)[32])fixture.hashes, 0, scores[0], FIXTURE_SECOND), KVC_OK);
	for (int round = 0; round < 3; round++) /* in place of those before */
		assert_int_equal(kvc_set_scores(fixture.space, (const uint8_t(*)[32])fixture.hashes, BLOCKS, scores[0], FIXTURE_SECOND * 10), KVC_OK);
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lossy__int8__loads_what_the_codec_gives),
		cmocka_unit_test(test_lossy__int8_with_scores__heeds_and_keeps_them),
		cmocka_unit_test(test_lossy__units_over_layers__loads_what_the_codec_gives),
		cmocka_unit_test(test_lossy__wrong_scores__refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
