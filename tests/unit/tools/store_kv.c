/* SPDX-License-Identifier: Apache-2.0
 * Stores made KV in a running daemon, as an engine would, and writes the same KV to files for `kvcask calibrate`. For test_calibrate.py.
 *
 *   store_kv SOCKET K.npy V.npy [key=value...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvcask/kvcask.h>

enum { LAYERS = 3, HEADS = 2, DIM_K = 16, DIM_V = 8, BLOCK_TOKENS = 32, PAGE_TOKENS = 16, TOKENS_MAX = 8192 };

struct store_kv {
	struct kvc_space_desc desc;
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	uint32_t tokens;
	uint64_t seed, keys; /* of values, of hashes */
	uint16_t *plane[2]; /* [layers][tokens][heads][dims], bf16 */
	uint8_t *pages;
};

static int store_failed(const char *what, kvc_status_t status)
{
	fprintf(stderr, "store_kv: %s: %s (%s)\n", what, kvc_status_text(status), kvc_last_error());
	return 1;
}

static uint32_t store_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*state >> 33);
}

/* Channels differ in mean and scale; tokens follow one another loosely, so that there is something for a PCA to find. */
static void store_make(struct store_kv *kv)
{
	uint64_t state = kv->seed * 77 + 1;

	for (int plane = 0; plane < 2; plane++) {
		uint32_t channels = HEADS * (plane == 0 ? DIM_K : DIM_V);
		uint16_t *out = kv->plane[plane];

		for (uint32_t layer = 0; layer < LAYERS; layer++) {
			float mean[HEADS * DIM_K], scale[HEADS * DIM_K];

			for (uint32_t c = 0; c < channels; c++) {
				mean[c] = (float)(int)(store_random(&state) % 9) - 4;
				scale[c] = 0.25f * (float)(1 + store_random(&state) % 8);
			}
			for (uint32_t t = 0; t < kv->tokens; t++) {
				float common = (float)store_random(&state) / 2147483648.0f - 0.5f;

				for (uint32_t c = 0; c < channels; c++) {
					float value = mean[c] + scale[c] * (common + (float)store_random(&state) / 2147483648.0f - 0.5f);
					uint32_t bits;

					memcpy(&bits, &value, sizeof(bits));
					*out++ = (uint16_t)(bits >> 16);
				}
			}
		}
	}
}

static int store_write_npy(const struct store_kv *kv, int plane, const char *path)
{
	FILE *file = fopen(path, "we");
	uint32_t dims = plane == 0 ? DIM_K : DIM_V;
	size_t count = (size_t)LAYERS * kv->tokens * HEADS * dims;
	char head[119];
	int length, good;

	memset(head, ' ', sizeof(head));
	length = snprintf(head, sizeof(head) - 1, "{'descr': '<u2', 'fortran_order': False, 'shape': (%d, %u, %d, %u), }", LAYERS, kv->tokens,
	                  HEADS, dims);
	head[length] = ' ';
	head[117] = '\n';
	if (file == NULL)
		return 1;
	good = fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file) == 10 && fwrite(head, 1, 118, file) == 118 &&
	       fwrite(kv->plane[plane], 2, count, file) == count;
	return fclose(file) != 0 || !good;
}

/* One value of the pages: where the form says that it lies. */
static void store_put(const struct store_kv *kv, int plane, uint32_t layer, uint32_t token, uint32_t head, uint32_t dim, uint16_t value)
{
	const struct kvc_form *form = &kv->form;
	uint32_t dims = plane == 0 ? DIM_K : DIM_V, page_token = token % PAGE_TOKENS, element = form->dtype == KVC_DTYPE_F32 ? 4 : 2;
	size_t row = form->order == KVC_ORDER_HN ? (size_t)head * PAGE_TOKENS + page_token : (size_t)page_token * HEADS + head, at;
	uint32_t wide = (uint32_t)value << 16;
	uint8_t *page = kv->pages + ((size_t)layer * (kv->tokens / PAGE_TOKENS) + token / PAGE_TOKENS) * kv->sizes.page_bytes;

	if (form->arrangement == KVC_KV_FUSED)
		at = row * (DIM_K + DIM_V) + (plane == 0 ? 0 : DIM_K) + dim;
	else
		at = (plane == 0 ? 0 : (size_t)PAGE_TOKENS * HEADS * DIM_K) + row * dims + dim;
	if (element == 4)
		memcpy(page + 4 * at, &wide, 4);
	else
		memcpy(page + 2 * at, &value, 2);
}

static void store_fill_pages(const struct store_kv *kv)
{
	for (int plane = 0; plane < 2; plane++) {
		uint32_t dims = plane == 0 ? DIM_K : DIM_V;
		const uint16_t *from = kv->plane[plane];

		for (uint32_t layer = 0; layer < LAYERS; layer++)
			for (uint32_t t = 0; t < kv->tokens; t++)
				for (uint32_t head = 0; head < HEADS; head++)
					for (uint32_t dim = 0; dim < dims; dim++)
						store_put(kv, plane, layer, t, head, dim, *from++);
	}
}

static kvc_status_t store_send(const struct store_kv *kv, struct kvc_client *client)
{
	struct kvc_layer_memory layers[LAYERS];
	struct kvc_store_block blocks[TOKENS_MAX / BLOCK_TOKENS] = { 0 };
	uint32_t numbers[TOKENS_MAX / PAGE_TOKENS], pages = kv->tokens / PAGE_TOKENS, count = kv->tokens / BLOCK_TOKENS;
	struct kvc_space *space;
	kvc_status_t status = kvc_space_open(client, &kv->desc, &kv->form, &space);

	if (status != KVC_OK)
		return status;
	for (uint32_t i = 0; i < LAYERS; i++)
		layers[i] = (struct kvc_layer_memory){ .base = kv->pages + (size_t)i * pages * kv->sizes.page_bytes,
			                               .block_stride_bytes = kv->sizes.page_bytes, .block_count = pages,
			                               .run_count = { 1, 1 }, .run_bytes = kv->sizes.page_bytes };
	for (uint32_t i = 0; i < count; i++) {
		uint64_t state = kv->keys * 1000 + i;

		for (int b = 0; b < KVC_HASH_BYTES; b++)
			blocks[i].hash[b] = (uint8_t)store_random(&state);
		if (i != 0)
			memcpy(blocks[i].parent_hash, blocks[i - 1].hash, KVC_HASH_BYTES);
		blocks[i].position_tokens = (uint64_t)i * BLOCK_TOKENS;
	}
	for (uint32_t i = 0; i < pages; i++)
		numbers[i] = i;
	status = kvc_space_set_memory(space, layers, LAYERS);
	if (status == KVC_OK)
		status = kvc_store(space, blocks, count, numbers, UINT64_C(60000000000), NULL);
	if (status == KVC_OK)
		status = kvc_flush(client, UINT64_C(60000000000));
	return status;
}

static int store_option(struct store_kv *kv, const char *text)
{
	const char *value = strchr(text, '=');
	size_t name = value != NULL ? (size_t)(value++ - text) : 0;

	if (name == 4 && memcmp(text, "seed", 4) == 0)
		kv->seed = strtoull(value, NULL, 10);
	else if (name == 4 && memcmp(text, "keys", 4) == 0)
		kv->keys = strtoull(value, NULL, 10);
	else if (name == 6 && memcmp(text, "tokens", 6) == 0)
		kv->tokens = (uint32_t)strtoul(value, NULL, 10);
	else if (name == 4 && memcmp(text, "rope", 4) == 0)
		kv->desc.rope = value;
	else if (name == 5 && memcmp(text, "model", 5) == 0)
		kv->desc.model = value;
	else if (name == 5 && memcmp(text, "codec", 5) == 0)
		kv->desc.codec = value;
	else if (name == 5 && memcmp(text, "extra", 5) == 0)
		kv->desc.extra = value;
	else if (name == 5 && memcmp(text, "shard", 5) == 0)
		kv->form.shard_index = (uint32_t)strtoul(value, NULL, 10);
	else if (name == 6 && memcmp(text, "shards", 6) == 0)
		kv->form.shard_count = (uint32_t)strtoul(value, NULL, 10);
	else if (strcmp(text, "form=fused-hn") == 0)
		kv->form.arrangement = KVC_KV_FUSED, kv->form.order = KVC_ORDER_HN;
	else if (strcmp(text, "form=fused-nh") == 0)
		kv->form.arrangement = KVC_KV_FUSED, kv->form.order = KVC_ORDER_NH;
	else if (strcmp(text, "form=split-hn") == 0)
		kv->form.arrangement = KVC_KV_SPLIT, kv->form.order = KVC_ORDER_HN;
	else if (strcmp(text, "form=split-nh") == 0)
		kv->form.arrangement = KVC_KV_SPLIT, kv->form.order = KVC_ORDER_NH;
	else if (strcmp(text, "dtype=float32") == 0)
		kv->form.dtype = KVC_DTYPE_F32, kv->desc.kv_dtype = "float32";
	else
		return 1;
	return kv->tokens > TOKENS_MAX || kv->tokens % BLOCK_TOKENS != 0;
}

int main(int argc, char **argv)
{
	struct store_kv kv = {
		.desc = { .struct_bytes = sizeof(kv.desc), .model = "made", .kv_dtype = "bfloat16", .hash_algorithm = "sha256_cbor" },
		.form = { .struct_bytes = sizeof(kv.form), .layer_count = LAYERS, .block_tokens = BLOCK_TOKENS, .engine_block_tokens = PAGE_TOKENS,
		          .kv_heads = HEADS, .head_dim_k = DIM_K, .head_dim_v = DIM_V, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT,
		          .order = KVC_ORDER_NH, .group_rule = KVC_GROUP_FULL, .shard_count = 1 },
		.tokens = 192, .seed = 1, .keys = 1,
	};
	struct kvc_client *client = NULL;
	char target[256];
	kvc_status_t status;

	for (int i = 4; i < argc; i++)
		if (store_option(&kv, argv[i]) != 0) {
			fprintf(stderr, "store_kv: %s?\n", argv[i]);
			return 2;
		}
	if (argc < 4 || kvc_form_sizes(&kv.form, &kv.sizes, NULL) != KVC_OK)
		return 2;
	kv.plane[0] = calloc((size_t)LAYERS * kv.tokens * HEADS * DIM_K, 2);
	kv.plane[1] = calloc((size_t)LAYERS * kv.tokens * HEADS * DIM_V, 2);
	kv.pages = calloc((size_t)LAYERS * kv.tokens / PAGE_TOKENS, kv.sizes.page_bytes);
	if (kv.plane[0] == NULL || kv.plane[1] == NULL || kv.pages == NULL)
		return store_failed("memory", KVC_NO_MEMORY);
	store_make(&kv);
	store_fill_pages(&kv);
	if (store_write_npy(&kv, 0, argv[2]) != 0 || store_write_npy(&kv, 1, argv[3]) != 0)
		return store_failed("files", KVC_IO);
	snprintf(target, sizeof(target), "unix:%s", argv[1]);
	status = kvc_open(target, NULL, &client);
	if (status == KVC_OK)
		status = store_send(&kv, client);
	if (status != KVC_OK)
		return store_failed("store", status);
	kvc_close(client);
	free(kv.plane[0]);
	free(kv.plane[1]);
	free(kv.pages);
	return 0;
}
