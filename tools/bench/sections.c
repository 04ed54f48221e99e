/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads by section from the disk: when the first layer of all blocks is in the engine's pages, beside the whole of an ordinary load of other blocks of the same kind, in
 * turns. Blocks are 256 tokens of KV as `kvcask bench codec` has it, on 30 layers where it is made. What matters is the ratio: how much of a load a reader
 * that goes layer by layer need not wait for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "tools/bench/bench.h"
#include "tools/bench/codec_sample.h"
#include "tools/bench/world.h"

/* Loaded in turn are the legs stored first: memory holds little more than one, and the last two are those that the store's slabs may still hold. */
enum { SECTIONS_LEGS = 4, SECTIONS_LEGS_STORED = 6 };
enum { SECTIONS_FAMILY = 9, SECTIONS_BLOCKS = 16, SECTIONS_LAYERS = 30, SECTIONS_TOKENS = 256, SECTIONS_PAGE_TOKENS = 16 };

struct sections_case {
	const char *name;
	const char *disk_codec; /* of the daemon */
	const char *space_codec; /* NULL: no loss */
	uint16_t profile_of;    /* a codec that needs one, or 0 */
};

struct sections_run {
	const struct bench_options *options;
	const struct sections_case *what;
	struct codec_sample samples[2];
	struct bench_world world;
	struct bench_client client;
	struct bench_shape shape;
	struct bench_engine engine;
	uint32_t turn;
	uint8_t hashes[SECTIONS_BLOCKS][KVC_HASH_BYTES];
	uint32_t pages[SECTIONS_BLOCKS * SECTIONS_TOKENS / SECTIONS_PAGE_TOKENS];
};

/* ---- what is stored ---- */

/* The made sample has fewer layers than a model: they come again. */
static kvc_status_t sections_widen(struct codec_sample *sample)
{
	uint32_t layers = sample->layers;
	size_t count = codec_sample_bytes(sample) / 2 / layers;
	uint16_t *values = kvci_alloc(2 * count * SECTIONS_LAYERS);

	if (values == NULL)
		return KVC_NO_MEMORY;
	for (uint32_t layer = 0; layer < SECTIONS_LAYERS; layer++)
		memcpy(values + layer * count, sample->values + layer % layers * count, 2 * count);
	kvci_free(sample->values);
	sample->values = values;
	sample->layers = SECTIONS_LAYERS;
	return KVC_OK;
}

static kvc_status_t sections_sample(struct sections_run *run)
{
	const struct codec_sample *k = &run->samples[0], *v = &run->samples[1];
	kvc_status_t status = KVC_OK;

	for (int i = 0; i < 2 && status == KVC_OK; i++) {
		if (run->options->kv[i] != NULL)
			status = codec_sample_read(run->options->kv[i], &run->samples[i]);
		else if ((status = codec_sample_make(i == 0, &run->samples[i])) == KVC_OK)
			status = sections_widen(&run->samples[i]);
	}
	if (status != KVC_OK)
		return status;
	if (k->tokens < 2 * SECTIONS_TOKENS || k->layers != v->layers || k->tokens != v->tokens || k->heads != v->heads || k->dims != v->dims) {
		bench_note("K and V of one shape are needed, of %d tokens at least", 2 * SECTIONS_TOKENS);
		return KVC_INVALID;
	}
	snprintf(run->shape.name, sizeof(run->shape.name), "sections");
	run->shape.form = (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = k->layers, .block_tokens = SECTIONS_TOKENS,
		.engine_block_tokens = SECTIONS_PAGE_TOKENS, .kv_heads = k->heads, .head_dim_k = k->dims, .head_dim_v = v->dims,
		.dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_FUSED, .order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	return kvc_form_sizes(&run->shape.form, &run->shape.sizes, NULL);
}

/* Tokens from `token` on into the pages of one block: rows of K, V for each token and head. */
static void sections_fill(struct sections_run *run, const uint32_t *pages, uint32_t token)
{
	size_t dims = run->samples[0].dims, rows = (size_t)SECTIONS_PAGE_TOKENS * run->samples[0].heads;

	for (uint32_t layer = 0; layer < run->engine.layer_count; layer++)
		for (uint32_t page = 0; page < run->engine.sizes.pages_per_section; page++) {
			uint8_t *to = (uint8_t *)run->engine.layers[layer].base + pages[page] * run->engine.sizes.page_bytes;
			size_t from = ((size_t)layer * run->samples[0].tokens + token + page * SECTIONS_PAGE_TOKENS) * run->samples[0].heads * dims;

			for (size_t row = 0; row < rows; row++, from += dims)
				for (int plane = 0; plane < 2; plane++, to += 2 * dims)
					memcpy(to, run->samples[plane].values + from, 2 * dims);
		}
}

/* One at a time, each durable before the next: a long queue would be written raw. */
static kvc_status_t sections_store(struct sections_run *run)
{
	const struct codec_sample *sample = &run->samples[0];
	uint32_t count = SECTIONS_LEGS_STORED * SECTIONS_BLOCKS, places = (sample->tokens - sample->first_token) / SECTIONS_TOKENS;
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < count && status == KVC_OK; i++) {
		const uint32_t *pages = bench_engine_pages(&run->engine, i % SECTIONS_BLOCKS);
		uint32_t token = sample->first_token + i % places * SECTIONS_TOKENS;
		struct kvc_store_block block;

		bench_progress(run->options, "storing", i, count);
		sections_fill(run, pages, token);
		bench_chain(SECTIONS_FAMILY, i, 1, SECTIONS_TOKENS, &block);
		block.position_tokens = token;
		status = kvc_store(run->client.space, &block, 1, pages, BENCH_TIMEOUT_NS, NULL);
		if (status == KVC_OK)
			status = kvc_flush(run->client.client, BENCH_TIMEOUT_NS);
	}
	bench_progress(run->options, "", 0, 0);
	if (status != KVC_OK)
		bench_note("store: %s", kvc_last_error());
	return status;
}

/* ---- loads ---- */

/* The next leg, which is on the disk and no longer in memory. by_section: *ret_first_ns until the first layer of all its blocks is there. */
static kvc_status_t sections_load(struct sections_run *run, bool by_section, double *ret_first_ns, double *ret_whole_ns)
{
	const struct kvc_request request = { .id = "bench-sections", .id_bytes = 14 };
	uint32_t leg = run->turn++ % SECTIONS_LEGS;
	struct kvc_match_result match;
	struct kvc_op *op = NULL;
	uint64_t begin_ns;

	for (uint32_t i = 0; i < SECTIONS_BLOCKS; i++)
		bench_hash(SECTIONS_FAMILY, leg * SECTIONS_BLOCKS + i, run->hashes[i]);
	begin_ns = bench_now_ns();
	kvc_status_t status = kvc_match(run->client.space, run->hashes, SECTIONS_BLOCKS, &request, KVC_MATCH_LEASE, BENCH_TIMEOUT_NS, &match);
	if (status == KVC_OK && match.on_disk_blocks != SECTIONS_BLOCKS) {
		bench_note("load: %u of %d blocks are on the disk only (%s)", match.on_disk_blocks, SECTIONS_BLOCKS, kvc_miss_name(match.miss));
		status = KVC_INTERNAL;
	}
	if (status == KVC_OK && by_section)
		status = kvc_load_sections_begin(run->client.space, &request, 0, SECTIONS_BLOCKS, run->pages, 0, &op);
	else if (status == KVC_OK)
		status = kvc_load(run->client.space, &request, 0, SECTIONS_BLOCKS, run->pages, BENCH_TIMEOUT_NS, NULL);
	if (op != NULL) {
		status = kvc_load_wait_sections(op, 1, BENCH_TIMEOUT_NS);
		*ret_first_ns = (double)(bench_now_ns() - begin_ns);
		if (status == KVC_OK)
			status = kvc_op_wait(op, BENCH_TIMEOUT_NS);
		kvc_op_destroy(op);
	}
	*ret_whole_ns = (double)(bench_now_ns() - begin_ns);
	kvc_status_t released = kvc_release(run->client.client, &request);
	if (status != KVC_OK)
		bench_note("load: %s (%s)", kvc_status_text(status), kvc_last_error());
	return status != KVC_OK ? status : released;
}

static kvc_status_t sections_measure(struct sections_run *run, struct bench_report *report)
{
	struct bench_result result = { .bench = "sections", .reference_name = "whole", .unit = "us" };
	struct bench_pairs pairs = { 0 };
	struct bench_samples wholes = { 0 };
	uint32_t count = bench_pair_count(run->options, 15, 9);
	double coded = 0, first_ns = 0, whole_ns = 0, plain_ns = 0;
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < 2 && status == KVC_OK; i++) /* makes the memory that loads use */
		status = sections_load(run, false, &first_ns, &whole_ns);
	for (uint32_t i = 0; i < count && status == KVC_OK; i++) {
		bool plain_first = bench_reference_first(i);

		bench_progress(run->options, run->what->name, i, count);
		for (int leg = 0; leg < 2 && status == KVC_OK; leg++)
			status = (leg == 0) == plain_first ? sections_load(run, false, &first_ns, &plain_ns)
			                                   : sections_load(run, true, &first_ns, &whole_ns);
		if (status == KVC_OK)
			status = bench_pairs_add(&pairs, first_ns, plain_ns);
		if (status == KVC_OK)
			status = bench_samples_add(&wholes, whole_ns);
	}
	bench_progress(run->options, "", 0, 0);
	if (status == KVC_OK)
		status = bench_daemon_stat(&run->client, "coded_reads", &coded);
	if (status == KVC_OK) {
		snprintf(result.name, sizeof(result.name), "first_layer_%s", run->what->name);
		bench_pairs_into(&pairs, 0, &result);
		bench_result_count(&result, "whole_by_section_us", bench_samples_at(&wholes, 0.5) / 1e3);
		bench_result_count(&result, "blocks", SECTIONS_BLOCKS);
		bench_result_count(&result, "layers", run->shape.form.layer_count);
		bench_result_count(&result, "load_MB", (double)(SECTIONS_BLOCKS * run->shape.sizes.block_bytes) / 1e6);
		bench_result_count(&result, "packed_reads", coded);
		bench_report_add(report, &result);
	}
	bench_pairs_fini(&pairs);
	bench_samples_fini(&wholes);
	return status;
}

/* ---- the case ---- */

/* Where the daemon looks at its start. */
static kvc_status_t sections_profile(struct sections_run *run)
{
	double theta = run->options->kv[0] != NULL ? run->options->rope_theta : 0;
	char path[600];
	uint8_t *bytes;
	size_t length;
	kvc_status_t status = codec_profile_bytes(run->samples, theta, run->what->profile_of, &bytes, &length);

	if (status != KVC_OK)
		return status;
	snprintf(path, sizeof(path), "%s/data/profiles", run->world.folder);
	FILE *file = NULL;
	if (mkdir(path, 0700) == 0 || errno == EEXIST) {
		strcat(path, "/bench.kvcp");
		file = fopen(path, "wbe");
	}
	bool written = file != NULL && fwrite(bytes, 1, length, file) == length;
	if (file != NULL && fclose(file) != 0)
		written = false;
	kvci_free(bytes);
	if (!written)
		return kvc_status_from_errno(errno);
	status = bench_world_stop(&run->world);
	return status == KVC_OK ? bench_world_start(&run->world, true) : status;
}

static kvc_status_t sections_space(struct sections_run *run)
{
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = run->shape.name, .model_name = "bench", .kv_dtype = "bfloat16", .hash_algorithm = "bench",
		.codec = run->what->space_codec,
	};
	kvc_status_t status = bench_client_open(&run->world, &run->shape, &run->engine, &run->client);

	if (status != KVC_OK || desc.codec == NULL)
		return status;
	kvc_space_close(run->client.space);
	run->client.space = NULL;
	status = kvc_space_open(run->client.client, &desc, &run->shape.form, &run->client.space);
	if (status == KVC_OK)
		status = kvc_space_set_memory(run->client.space, run->engine.layers, run->engine.layer_count);
	if (status != KVC_OK)
		bench_note("space: %s", kvc_last_error());
	return status;
}

static kvc_status_t sections_prepare(struct sections_run *run)
{
	uint64_t leg_mib = (SECTIONS_BLOCKS * run->shape.sizes.record_bytes >> 20) + 1;
	char memory[64], codec[64];
	const char *settings[] = { memory, "memory.slab: 16MiB", "memory.lease_share: 90", "memory.client_share: 90", "disk.capacity: 4GiB",
	                           "disk.read_deadline: 10min", codec, NULL };

	snprintf(memory, sizeof(memory), "memory.capacity: %lluMiB", (unsigned long long)((leg_mib * 5 / 4 + 31) / 16 * 16));
	snprintf(codec, sizeof(codec), "disk.codec: %s", run->what->disk_codec);
	kvc_status_t status = bench_engine_init(&run->engine, &run->shape, SECTIONS_BLOCKS * run->shape.sizes.block_bytes);
	if (status == KVC_OK)
		status = bench_world_begin(&run->world, run->options, settings, true);
	if (status == KVC_OK && run->what->profile_of != 0)
		status = sections_profile(run);
	if (status == KVC_OK)
		status = sections_space(run);
	if (status != KVC_OK)
		return status;
	for (uint32_t i = 0; i < SECTIONS_BLOCKS; i++)
		memcpy(run->pages + (size_t)i * run->engine.sizes.pages_per_section, bench_engine_pages(&run->engine, i),
		       run->engine.sizes.pages_per_section * sizeof(run->pages[0]));
	return sections_store(run);
}

static kvc_status_t sections_case(const struct bench_options *options, const struct sections_case *what, struct bench_report *report)
{
	struct sections_run *run = kvci_alloc_zero(1, sizeof(*run));

	if (run == NULL)
		return KVC_NO_MEMORY;
	run->options = options;
	run->what = what;
	kvc_status_t status = sections_sample(run);
	if (status == KVC_OK)
		status = sections_prepare(run);
	if (status == KVC_OK)
		status = sections_measure(run, report);
	bench_client_close(&run->client);
	bench_world_end(&run->world);
	bench_engine_fini(&run->engine);
	for (int i = 0; i < 2; i++)
		codec_sample_fini(&run->samples[i]);
	kvci_free(run);
	return status;
}

kvc_status_t bench_sections(const struct bench_options *options, struct bench_report *report)
{
	static const struct sections_case cases[] = {
		{ "raw", "raw", NULL, 0 },
		{ "split", "split", NULL, 0 },
		{ "ecsq", "split", "ecsq:step=0.5", KVC_CODEC_ECSQ },
		{ "ecsq+pca", "split", "ecsq+pca:step=0.5", KVC_CODEC_ECSQ_PCA },
	};
	kvc_status_t status = KVC_OK;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) && status == KVC_OK; i++) {
		char name[64];

		snprintf(name, sizeof(name), "first_layer_%s", cases[i].name);
		if (bench_wanted(options, "sections", name))
			status = sections_case(options, &cases[i], report);
	}
	return status;
}
