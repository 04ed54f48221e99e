/* SPDX-License-Identifier: Apache-2.0
 * kvcask calibrate --space: KV out of a running store, one block at a time, as an engine would load it. Any block will do: its position says how its
 * keys were rotated. Which blocks: hashes are as good as random, so the first by their hash are a fair sample of all that is stored. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "codec/layout.h"
#include "tools/kvcask/calibrate.h"

enum {
	SPACE_PAGE = 1000,          /* blocks in an answer */
	SPACE_LIST_MAX = 200000,    /* blocks to choose from */
	SPACE_TOKENS = 10000,
	SPACE_LEAST_TOKENS = 64,    /* fewer say nothing about a channel */
};

struct space_block {
	uint8_t hash[KVC_HASH_BYTES];
	uint64_t position;
	bool lossy;
};

struct space_read {
	struct tool *tool;
	json_t *spaces;
	const json_t *info, *form_info;
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	struct space_block *blocks;
	size_t count;
	struct kvc_space *space;
	uint8_t *pages; /* of one block: layers of sections */
	uint32_t *page_numbers;
	uint32_t lossy, missed;
};

/* ---- which space, which form ------------------------------------------------------------------------------------------------------ */

/* Its number, a name of its model, or the beginning of its fingerprint. */
static bool space_is(const json_t *space, const char *name)
{
	const char *end = name + strspn(name, "0123456789");
	size_t length = strlen(name);

	if (*end == '\0' && length < 10)
		return tool_u64(space, "space") == strtoull(name, NULL, 10);
	return strcmp(tool_text(space, "model_name"), name) == 0 || (length >= 4 && strncmp(tool_text(space, "fingerprint"), name, length) == 0);
}

static uint32_t space_dtype(const char *name)
{
	static const struct {
		const char *name;
		uint32_t dtype;
	} types[] = { { "float32", KVC_DTYPE_F32 }, { "bfloat16", KVC_DTYPE_BF16 }, { "float16", KVC_DTYPE_F16 } };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(types[i].name, name) == 0)
			return types[i].dtype;
	return 0;
}

static struct kvc_form space_form_of(const json_t *json)
{
	const char *arrangement = tool_text(json, "arrangement"), *order = tool_text(json, "order");

	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form),
		.layer_count = (uint32_t)tool_u64(json, "layers"),
		.block_tokens = (uint32_t)tool_u64(json, "block_tokens"),
		.engine_block_tokens = (uint32_t)tool_u64(json, "engine_block_tokens"),
		.kv_heads = (uint32_t)tool_u64(json, "kv_heads"),
		.head_dim_k = (uint32_t)tool_u64(json, "head_dim_k"),
		.head_dim_v = (uint32_t)tool_u64(json, "head_dim_v"),
		.dtype = space_dtype(tool_text(json, "dtype")),
		.arrangement = strcmp(arrangement, "fused") == 0 ? KVC_KV_FUSED : strcmp(arrangement, "split") == 0 ? KVC_KV_SPLIT : KVC_KV_LATENT,
		.order = strcmp(order, "hn") == 0 ? KVC_ORDER_HN : strcmp(order, "nh") == 0 ? KVC_ORDER_NH : 0,
		.group = (uint32_t)tool_u64(json, "group"),
		.group_rule = (uint32_t)tool_u64(json, "group_rule"),
		.window_tokens = (uint32_t)tool_u64(json, "window_tokens"),
		.shard_index = (uint32_t)tool_u64(json, "shard_index"),
		.shard_count = (uint32_t)tool_u64(json, "shard_count"),
		.page_extra_bytes = (uint32_t)tool_u64(json, "page_extra_bytes"),
	};
}

static int space_choose(struct space_read *read)
{
	const char *name = tool_value(read->tool, "space");
	size_t i, found = 0;
	json_t *space;
	int result = tool_ask(read->tool, "spaces", NULL, &read->spaces);

	if (result != TOOL_OK)
		return result;
	json_array_foreach(tool_at(read->spaces, "spaces"), i, space)
		if (space_is(space, name)) {
			read->info = space;
			found++;
		}
	if (found == 0)
		return tool_failed(read->tool, "no space is called %s: give its number, its model's name or its fingerprint (see kvcask spaces)", name);
	if (found > 1)
		return tool_failed(read->tool, "%zu spaces are called %s: give its number (see kvcask spaces)", found, name);
	return TOOL_OK;
}

/* The form of the shard and group that the options name; the only one, when there is but one. */
static int space_choose_form(struct space_read *read)
{
	const char *wanted = tool_value(read->tool, "form");
	const json_t *list = tool_at(read->info, "forms");
	size_t i, found = 0, others = 0;
	uint64_t shard;
	json_t *form;
	int result = tool_number(read->tool, "shard", 0, UINT32_MAX, 0, &shard);

	if (result != TOOL_OK)
		return result;
	json_array_foreach(list, i, form) {
		bool same = wanted != NULL ? strcmp(wanted, tool_text(form, "form")) == 0 : tool_u64(form, "shard_index") == shard;

		if (same)
			read->form_info = form;
		found += same;
		others += !same;
	}
	if (found > 1)
		return tool_failed(read->tool, "the space has %zu forms of this shard: name one by --form (see kvcask spaces --long)", found);
	if (found == 0 && others == 0)
		return tool_failed(read->tool, "no engine has opened this space, or the form of its blocks is not known");
	if (found == 0)
		return tool_failed(read->tool, wanted != NULL ? "the space has no such form (see kvcask spaces --long)"
		                                              : "the space has no blocks of that shard: name it by --shard (see kvcask spaces --long)");
	return TOOL_OK;
}

/* Can rows of tokens be read out of its pages? */
static int space_check_form(struct space_read *read)
{
	const char *packed = strstr(tool_text(read->info, "extra"), "CPU_ATTN"); /* however deep: vLLM's connector names the backend there */
	char id[20];
	int result = TOOL_OK;

	read->form = space_form_of(read->form_info);
	snprintf(id, sizeof(id), "%016llx", (unsigned long long)kvc_form_id(&read->form));
	if (read->form.dtype == 0)
		result = tool_failed(read->tool, "its KV is %s: profiles are made of bfloat16, float16 and float32", tool_text(read->form_info, "dtype"));
	else if (read->form.page_extra_bytes != 0)
		result = tool_failed(read->tool, "its pages hold bytes of the engine's own beside K and V");
	else if (packed != NULL)
		result = tool_failed(read->tool, "its engine packs keys in an order of its own (%.*s): which value is of which token is not known",
		                     (int)strcspn(packed, "\"\\"), packed);
	else if (strcmp(id, tool_text(read->form_info, "form")) != 0 || kvc_form_sizes(&read->form, &read->sizes, NULL) != KVC_OK)
		result = tool_failed(read->tool, "the daemon is of another version: it names a form that is not known here");
	return result;
}

/* A space belongs to the tenant of a socket: by another one the same fields are another space. */
static int space_check_tenant(struct space_read *read)
{
	json_t *answer, *client;
	const char *tenant = NULL;
	size_t i;
	int result = tool_ask(read->tool, "clients", NULL, &answer);

	if (result != TOOL_OK)
		return result;
	json_array_foreach(tool_at(answer, "clients"), i, client)
		if (tool_u64(client, "pid") == (uint64_t)getpid())
			tenant = tool_text(client, "tenant");
	if (tenant != NULL && strcmp(tenant, tool_text(read->info, "tenant")) != 0)
		result = tool_failed(read->tool, "the space is of tenant %s, this socket of tenant %s: name the tenant's own by --socket",
		                     tool_text(read->info, "tenant"), tenant);
	json_decref(answer);
	return result;
}

/* ---- which blocks ------------------------------------------------------------------------------------------------------------------ */

static bool space_parse_hash(const char *hex, uint8_t *hash)
{
	if (strlen(hex) != 2 * KVC_HASH_BYTES || strspn(hex, "0123456789abcdef") != 2 * KVC_HASH_BYTES)
		return false;
	for (unsigned i = 0; i < KVC_HASH_BYTES; i++) {
		const char digits[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		hash[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return true;
}

/* Whole blocks of this form, in memory or on the disk. */
static bool space_wants(const struct space_read *read, const json_t *block)
{
	const char *where = tool_text(block, "where");

	return strcmp(tool_text(block, "form"), tool_text(read->form_info, "form")) == 0 &&
	       tool_u64(block, "epoch") == tool_u64(read->info, "epoch") && tool_u64(block, "token_count") == read->form.block_tokens &&
	       strcmp(where, "nowhere") != 0 && strcmp(where, "reserved") != 0;
}

static int space_add(struct space_read *read, const json_t *list)
{
	struct space_block *more = kvci_realloc(read->blocks, (read->count + json_array_size(list) + 1) * sizeof(more[0]));
	json_t *block;
	size_t i;

	if (more == NULL)
		return tool_failed(read->tool, "no memory");
	read->blocks = more;
	json_array_foreach(list, i, block) {
		struct space_block *to = &read->blocks[read->count];

		if (!space_wants(read, block) || !space_parse_hash(tool_text(block, "key"), to->hash))
			continue;
		to->position = tool_u64(block, "position_tokens");
		to->lossy = tool_true(block, "lossy");
		read->count++;
	}
	return TOOL_OK;
}

static int space_list(struct space_read *read)
{
	struct print_progress progress;
	uint64_t cursor = 0;
	int result;

	print_progress_begin(&progress, "blocks");
	do {
		json_t *answer;

		result = tool_ask(read->tool, "ls",
		                  json_pack("{s:I, s:i, s:I}", "space", (json_int_t)tool_u64(read->info, "space"), "limit", SPACE_PAGE, "cursor",
		                            (json_int_t)cursor),
		                  &answer);
		if (result != TOOL_OK)
			break;
		cursor = tool_u64(answer, "cursor");
		result = space_add(read, tool_at(answer, "blocks"));
		json_decref(answer);
		print_progress_show(&progress, read->count, tool_u64(read->info, "blocks"), false);
	} while (result == TOOL_OK && cursor != 0 && read->count < SPACE_LIST_MAX);
	print_progress_end(&progress);
	return result;
}

/* Those that lost no bits first, then by hash. */
static int space_by_hash(const void *a, const void *b)
{
	const struct space_block *x = a, *y = b;

	return x->lossy != y->lossy ? x->lossy - y->lossy : memcmp(x->hash, y->hash, sizeof(x->hash));
}

/* As tokens follow one another, so that a text's blocks give what its file would. */
static int space_by_position(const void *a, const void *b)
{
	const struct space_block *x = a, *y = b;

	return x->position != y->position ? (x->position > y->position) - (x->position < y->position) : memcmp(x->hash, y->hash, sizeof(x->hash));
}

static int space_choose_blocks(struct space_read *read)
{
	uint64_t wanted, least = (SPACE_LEAST_TOKENS + read->form.block_tokens - 1) / read->form.block_tokens;
	int result = tool_number(read->tool, "tokens", SPACE_LEAST_TOKENS, 1 << 20, SPACE_TOKENS, &wanted);

	if (result == TOOL_OK)
		result = space_list(read);
	if (result != TOOL_OK)
		return result;
	wanted = (wanted + read->form.block_tokens - 1) / read->form.block_tokens;
	if (read->count < least)
		return tool_failed(read->tool, "%zu whole blocks of %u tokens are stored in this space and form: too few to make a profile of", read->count,
		                   read->form.block_tokens);
	qsort(read->blocks, read->count, sizeof(read->blocks[0]), space_by_hash);
	read->count = read->count < wanted ? read->count : wanted;
	qsort(read->blocks, read->count, sizeof(read->blocks[0]), space_by_position);
	return TOOL_OK;
}

/* ---- loading ------------------------------------------------------------------------------------------------------------------------ */

static const char *space_text(const struct space_read *read, const char *name)
{
	const char *text = tool_text(read->info, name);

	return text[0] != '\0' ? text : NULL;
}

static int space_bind(struct space_read *read)
{
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = space_text(read, "model"), .model_name = space_text(read, "model_name"),
		.kv_dtype = space_text(read, "kv_dtype"), .kv_quant = space_text(read, "kv_quant"), .rope = space_text(read, "rope"),
		.adapter = space_text(read, "adapter"), .hash_algorithm = space_text(read, "hash_algorithm"),
		.hash_root = space_text(read, "hash_root"), .extra = space_text(read, "extra"), .codec = space_text(read, "codec"),
	};
	struct kvc_layer_memory *layers = kvci_alloc_zero(read->form.layer_count, sizeof(layers[0]));
	uint32_t pages = read->sizes.pages_per_section;
	kvc_status_t status = KVC_NO_MEMORY;

	read->pages = kvci_alloc_aligned(64, read->sizes.block_bytes);
	read->page_numbers = kvci_alloc_zero(pages, sizeof(read->page_numbers[0]));
	if (layers == NULL || read->pages == NULL || read->page_numbers == NULL)
		goto out;
	for (uint32_t i = 0; i < pages; i++)
		read->page_numbers[i] = i;
	for (uint32_t i = 0; i < read->form.layer_count; i++)
		layers[i] = (struct kvc_layer_memory){
			.base = read->pages + i * read->sizes.section_bytes, .block_stride_bytes = read->sizes.page_bytes, .block_count = pages,
			.run_count = { 1, 1 }, .run_bytes = read->sizes.page_bytes,
		};
	status = kvc_space_open(read->tool->client, &desc, &read->form, &read->space);
	if (status == KVC_OK)
		status = kvc_space_set_memory(read->space, layers, read->form.layer_count);
out:
	kvci_free(layers);
	return status == KVC_OK ? TOOL_OK : tool_failed_status(read->tool, "opening the space", status);
}

/* MISS: it is gone, or cannot be had. */
static kvc_status_t space_load(struct space_read *read, const struct space_block *block)
{
	const struct kvc_request request = { "calibrate", 9 };
	struct kvc_match_result found = { 0 };
	kvc_status_t status = kvc_match(read->space, &block->hash, 1, &request, KVC_MATCH_LEASE, read->tool->timeout_ns, &found);

	if (status == KVC_OK && found.matched_blocks == 0)
		status = KVC_MISS;
	else if (status == KVC_OK)
		status = kvc_load(read->space, &request, 0, 1, read->page_numbers, read->tool->timeout_ns, NULL);
	kvc_release(read->tool->client, &request);
	return status;
}

/* Rows of one page to [layers][tokens][heads][dims]. */
static bool space_copy_page(const struct space_read *read, const uint8_t *page, uint32_t plane, uint32_t token, uint8_t *out)
{
	bool split = read->form.arrangement == KVC_KV_SPLIT;
	struct kvc_codec_part part = { .form = &read->form, .is_k = plane == 0 || !split };
	uint32_t dims = plane == 0 ? read->form.head_dim_k : read->form.head_dim_v, heads = read->form.kv_heads, at = split ? 0 : plane;
	size_t row, bytes = read->sizes.page_bytes;
	struct kvci_layout layout;

	row = (size_t)dims * (read->form.dtype == KVC_DTYPE_F32 ? 4 : 2);
	if (split) {
		size_t part_bytes = row * heads * read->form.engine_block_tokens;

		page += plane == 0 ? 0 : bytes - part_bytes;
		bytes = part_bytes;
	}
	if (!kvci_layout_of(&part, bytes, &layout))
		return false;
	for (uint32_t t = 0; t < read->form.engine_block_tokens; t++)
		for (uint32_t head = 0; head < heads; head++)
			memcpy(out + ((size_t)(token + t) * heads + head) * row, page + kvci_layout_offset(&layout, at, 0, head, t), row);
	return true;
}

static bool space_copy(const struct space_read *read, uint32_t plane, uint8_t *out, size_t layer_bytes)
{
	for (uint32_t layer = 0; layer < read->form.layer_count; layer++)
		for (uint32_t page = 0; page < read->sizes.pages_per_section; page++)
			if (!space_copy_page(read, read->pages + layer * read->sizes.section_bytes + page * read->sizes.page_bytes, plane,
			                     page * read->form.engine_block_tokens, out + layer * layer_bytes))
				return false;
	return true;
}

static bool space_stops(kvc_status_t status)
{
	return status == KVC_GONE || status == KVC_CIRCUIT_OPEN || status == KVC_PROTOCOL || status == KVC_NO_MEMORY;
}

static int space_load_all(struct space_read *read, struct calibrate_kv *kv)
{
	size_t token_bytes = (size_t)read->form.kv_heads * (read->form.dtype == KVC_DTYPE_F32 ? 4 : 2);
	size_t layer_k = read->form.block_tokens * token_bytes * read->form.head_dim_k, block_k = layer_k * read->form.layer_count;
	size_t layer_v = read->form.block_tokens * token_bytes * read->form.head_dim_v, block_v = layer_v * read->form.layer_count;
	struct print_progress progress;
	kvc_status_t status = KVC_OK;

	kv->samples = kvci_alloc_zero(read->count, sizeof(kv->samples[0]));
	kv->k = kvci_alloc(read->count * block_k + 1);
	kv->v = kvci_alloc(read->count * block_v + 1);
	if (kv->samples == NULL || kv->k == NULL || kv->v == NULL)
		return tool_failed(read->tool, "no memory for the KV of %zu blocks", read->count);
	print_progress_begin(&progress, "loading");
	for (size_t i = 0; i < read->count && !space_stops(status); i++) {
		uint8_t *k = kv->k + kv->sample_count * block_k, *v = kv->v + kv->sample_count * block_v;

		print_progress_show(&progress, i, read->count, false);
		status = space_load(read, &read->blocks[i]);
		read->missed += status != KVC_OK;
		if (status != KVC_OK || !space_copy(read, 0, k, layer_k) || (block_v != 0 && !space_copy(read, 1, v, layer_v)))
			continue;
		kv->samples[kv->sample_count++] = (struct kvci_profile_sample){ k, v, read->form.block_tokens, read->blocks[i].position };
		read->lossy += read->blocks[i].lossy;
	}
	print_progress_end(&progress);
	kv->tokens = (uint64_t)kv->sample_count * read->form.block_tokens;
	if (space_stops(status))
		return tool_failed_status(read->tool, "loading", status);
	if (kv->tokens < SPACE_LEAST_TOKENS)
		return tool_failed(read->tool, "%u of %zu blocks could not be loaded (%s): too few are left", read->missed, read->count,
		                   kvc_status_text(status));
	if (read->missed != 0)
		print_line(stderr, "%u of %zu blocks could not be loaded, and are left out", read->missed, read->count);
	if (read->lossy != 0)
		print_line(stderr, "%u of %u blocks may have lost bits already: the profile is of what is left", read->lossy, kv->sample_count);
	return TOOL_OK;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------------------ */

static int space_keep(const struct space_read *read, struct calibrate_kv *kv)
{
	kv->form = read->form;
	kv->model = kvci_strdup(tool_text(read->info, "model"));
	kv->model_name = kvci_strdup(tool_text(read->info, "model_name"));
	kv->rope = kvci_strdup(tool_text(read->info, "rope"));
	return kv->model != NULL && kv->model_name != NULL && kv->rope != NULL ? TOOL_OK : tool_failed(read->tool, "no memory");
}

int calibrate_space_read(struct tool *tool, struct calibrate_kv *kv)
{
	struct space_read read = { .tool = tool };
	int result = space_choose(&read);

	if (result == TOOL_OK)
		result = space_choose_form(&read);
	if (result == TOOL_OK)
		result = space_check_form(&read);
	if (result == TOOL_OK)
		result = space_check_tenant(&read);
	if (result == TOOL_OK)
		result = space_choose_blocks(&read);
	if (result == TOOL_OK)
		result = space_bind(&read);
	if (result == TOOL_OK)
		result = space_load_all(&read, kv);
	if (result == TOOL_OK)
		result = space_keep(&read, kv);
	kvc_space_close(read.space);
	kvci_free(read.pages);
	kvci_free(read.page_numbers);
	kvci_free(read.blocks);
	json_decref(read.spaces);
	return result;
}

void calibrate_kv_fini(struct calibrate_kv *kv)
{
	kvci_free(kv->samples);
	kvci_free(kv->k);
	kvci_free(kv->v);
	kvci_free(kv->model);
	kvci_free(kv->model_name);
	kvci_free(kv->rope);
	*kv = (struct calibrate_kv){ 0 };
}
