/* SPDX-License-Identifier: Apache-2.0
 *
 * pq (the MILLION family): product quantisation at a fixed rate, for engines that compute on codes. Rows, K before rotation, are cut into
 * sub-vectors of 2 or 4 dimensions (variant 0 or 1), each the number of the nearest of 256 centroids that the profile has for its layer, head
 * and place. What lies far from its centroid is kept apart.
 *
 * Stream, little-endian:
 *   0   1  version: 1
 *   1   1  dimensions of a sub-vector: 2 or 4
 *   2   2  sinks: how many of the part's tokens
 *   4   4  the profile's id, low half
 *   raw rows of the sinks: [planes][heads][tokens]
 *   for each plane, n tokens that are no sinks: outliers (4); codes [heads][n][dims / dimensions]; then each outlier's place among
 *   [heads][n][dims] (4), rising, and value (bf16), before rotation
 *
 * An outlier is off by more than 8 times the root of the head's mean square error; those beyond 1 in 128 of a head's elements are not kept.
 */
#include "codec/pq.h"

#include <math.h>
#include <string.h>

#include "codec/codecs.h"
#include "codec/layout.h"
#include "codec/pq_kernel.h"
#include "codec/quant.h"
#include "codec/rans.h"

enum {
	PQ_VERSION = 1,
	PQ_HEAD_BYTES = 8,
	PQ_ALIGN_BYTES = 64,
	PQ_OUTLIER_BYTES = 6,
	PQ_OUTLIER_SHARE = 128,
};
#define PQ_OUTLIER_ROOTS 8

/* A part and what it is coded with; what it points to is in the scratch. */
struct pq_work {
	const struct kvc_codec_part *part;
	struct kvci_layout layout;
	uint32_t sub_dims, sinks, tokens; /* tokens that are no sinks */
	const uint8_t *books[2];          /* of the part's layer, by plane */
	const struct kvci_rope *rope;     /* NULL: none */
	float *values;                    /* of a head */
	float *centroids;                 /* the same */
	float *table;                     /* of the rotation */
};

static uint32_t pq_u32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void pq_put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

/* The one that goes with the entropy coder's kernel, so that tests and benches choose both at once. */
static kvci_pq_search_fn pq_search(void)
{
#if defined(__x86_64__)
	const char *name = kvci_rans_kernel();

	if (strcmp(name, "avx512") == 0)
		return kvci_pq_search_avx512;
	if (strcmp(name, "avx2") == 0)
		return kvci_pq_search_avx2;
#endif
	return kvci_pq_search_scalar;
}

void kvci_pq_half_norms(const float *centroids, uint32_t sub_dims, float *ret_half_norms)
{
	for (uint32_t c = 0; c < PQ_CENTROIDS; c++, centroids += sub_dims) {
		float sum = centroids[0] * centroids[0];

		for (uint32_t k = 1; k < sub_dims; k++)
			sum += centroids[k] * centroids[k];
		ret_half_norms[c] = sum / 2;
	}
}

void kvci_pq_nearest(const float vectors[][PQ_BATCH], uint32_t count, uint32_t sub_dims, const float *centroids, const float *half_norms,
                     uint8_t *ret_codes, float *ret_distances)
{
	int32_t codes[PQ_BATCH];

	pq_search()(vectors, sub_dims, centroids, half_norms, codes);
	for (uint32_t i = 0; i < count; i++) {
		const float *centroid = centroids + (size_t)codes[i] * sub_dims;
		float sum = 0;

		for (uint32_t k = 0; k < sub_dims; k++)
			sum += (vectors[k][i] - centroid[k]) * (vectors[k][i] - centroid[k]);
		ret_codes[i] = (uint8_t)codes[i];
		ret_distances[i] = sum;
	}
}

/* ---- plan ----------------------------------------------------------------------------------------------------------- */

static size_t pq_books_bytes(uint32_t heads, uint32_t dims)
{
	return (size_t)heads * dims * PQ_CENTROIDS * 2;
}

/* The codebooks for this length of a sub-vector; NULL: the profile has none. K's, V's lie behind. */
static const uint8_t *pq_find(const struct kvc_profile *profile, uint32_t sub_dims)
{
	size_t set = profile->layers * (pq_books_bytes(profile->kv_heads, profile->head_dim_k) + pq_books_bytes(profile->kv_heads, profile->head_dim_v));
	const uint8_t *at;
	size_t length;

	if (!kvci_profile_section(profile, KVCI_PROFILE_CODEBOOKS, &at, &length) || length < 8 || pq_u32(at) != PQ_VERSION)
		return NULL;
	for (at += 8, length -= 8; length >= 8 + set; at += 8 + set, length -= 8 + set)
		if (pq_u32(at) == sub_dims)
			return at + 8;
	return NULL;
}

static size_t pq_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	size_t dims = part->form->head_dim_k > part->form->head_dim_v ? part->form->head_dim_k : part->form->head_dim_v;
	struct kvci_layout layout;

	if (!kvci_layout_of(part, raw_bytes, &layout))
		return 1;
	return dims * sizeof(float) * (2 * (size_t)layout.tokens + PQ_CENTROIDS) + (size_t)4 * PQ_ALIGN_BYTES;
}

static size_t pq_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + PQ_HEAD_BYTES + PQ_ALIGN_BYTES;
}

static bool pq_plan(const struct kvc_codec_part *part, size_t raw_bytes, uint32_t sub_dims, void *scratch, struct pq_work *ret_work)
{
	const struct kvc_profile *profile = part->profile;
	size_t dims = part->form->head_dim_k > part->form->head_dim_v ? part->form->head_dim_k : part->form->head_dim_v;
	const uint8_t *books;

	*ret_work = (struct pq_work){ .part = part, .sub_dims = sub_dims };
	if (profile == NULL || (sub_dims != 2 && sub_dims != 4) || !kvci_layout_of(part, raw_bytes, &ret_work->layout) ||
	    ret_work->layout.layers != 1 || !kvci_profile_fits(profile, part->form) || part->layer >= profile->layers)
		return false;
	if (profile->head_dim_k % sub_dims != 0 || profile->head_dim_v % sub_dims != 0 || (books = pq_find(profile, sub_dims)) == NULL)
		return false;
	for (uint32_t i = 0; i < ret_work->layout.plane_count; i++) {
		bool is_k = ret_work->layout.planes[i].is_k;
		size_t of_k = pq_books_bytes(profile->kv_heads, profile->head_dim_k), of_v = pq_books_bytes(profile->kv_heads, profile->head_dim_v);

		ret_work->books[i] = books + (is_k ? part->layer * of_k : profile->layers * of_k + part->layer * of_v);
	}
	ret_work->rope = profile->has_rope ? &profile->rope : NULL;
	ret_work->values = (float *)(((uintptr_t)scratch + PQ_ALIGN_BYTES - 1) & ~(uintptr_t)(PQ_ALIGN_BYTES - 1));
	ret_work->table = ret_work->values + dims * ret_work->layout.tokens;
	ret_work->centroids = ret_work->table + dims * ret_work->layout.tokens;
	return true;
}

static void pq_plan_sinks(struct pq_work *work, uint32_t sinks, enum kvci_rope_direction direction)
{
	work->sinks = sinks;
	work->tokens = work->layout.tokens - sinks;
	if (work->rope != NULL)
		kvci_rope_table(work->rope, direction, work->part->position_tokens + sinks, work->tokens, work->table);
}

static void pq_rotate(const struct pq_work *work, uint32_t plane)
{
	if (work->rope != NULL && work->layout.planes[plane].is_k)
		kvci_rope_apply(work->rope, work->table, work->rope->dims, work->values, work->tokens, work->layout.planes[plane].dims);
}

static void pq_load_centroids(const struct pq_work *work, uint32_t plane, uint32_t head)
{
	uint32_t dims = work->layout.planes[plane].dims;

	kvci_quant_kernel()->load(KVC_DTYPE_F16, work->books[plane] + head * pq_books_bytes(1, dims), (size_t)2 * dims, PQ_CENTROIDS, dims,
	                          work->centroids, dims);
}

static struct kvci_layout_rows pq_rows(const struct pq_work *work, uint32_t plane, uint32_t head)
{
	return (struct kvci_layout_rows){ .plane = plane, .head = head, .token = work->sinks, .count = work->tokens };
}

/* Sinks from the part to the stream or back; returns their bytes. */
static size_t pq_sinks(const struct pq_work *work, uint8_t *raw, uint8_t *stream, bool to_stream)
{
	const struct kvci_layout *layout = &work->layout;
	size_t at = 0;

	for (uint32_t plane = 0; plane < layout->plane_count; plane++)
		for (uint32_t head = 0; head < layout->heads; head++)
			for (uint32_t token = 0; token < work->sinks; token++) {
				uint8_t *row = raw + kvci_layout_offset(layout, plane, 0, head, token);
				size_t bytes = (size_t)layout->planes[plane].dims * layout->element_bytes;

				memcpy(to_stream ? stream + at : row, to_stream ? row : stream + at, bytes);
				at += bytes;
			}
	return at;
}

static size_t pq_sinks_bytes(const struct pq_work *work)
{
	size_t bytes = 0;

	for (uint32_t i = 0; i < work->layout.plane_count; i++)
		bytes += (size_t)work->layout.heads * work->sinks * work->layout.planes[i].dims * work->layout.element_bytes;
	return bytes;
}

/* ---- encode --------------------------------------------------------------------------------------------------------- */

/* Codes of a head, and what is left of the values when their centroids are taken off; returns the sum of its squares. */
static double pq_encode_codes(const struct pq_work *work, uint32_t dims, uint8_t *codes)
{
	uint32_t sub = work->sub_dims, subs = dims / sub;
	float vectors[4][PQ_BATCH] = { { 0 } }, distances[PQ_BATCH], half_norms[PQ_CENTROIDS];
	uint8_t batch[PQ_BATCH];
	double sum = 0;

	for (uint32_t s = 0; s < subs; s++) {
		const float *book = work->centroids + (size_t)s * PQ_CENTROIDS * sub;

		kvci_pq_half_norms(book, sub, half_norms);
		for (uint32_t token = 0; token < work->tokens; token += PQ_BATCH) {
			uint32_t count = work->tokens - token < PQ_BATCH ? work->tokens - token : PQ_BATCH;

			for (uint32_t i = 0; i < count; i++)
				for (uint32_t k = 0; k < sub; k++)
					vectors[k][i] = work->values[(size_t)(token + i) * dims + s * sub + k];
			kvci_pq_nearest((const float(*)[PQ_BATCH])vectors, count, sub, book, half_norms, batch, distances);
			for (uint32_t i = 0; i < count; i++) {
				codes[(size_t)(token + i) * subs + s] = batch[i];
				sum += (double)distances[i];
			}
		}
	}
	return sum;
}

/* Outliers of one head, whose codes stand and whose values are those before rotation; returns how many. */
static uint32_t pq_encode_outliers(const struct pq_work *work, uint32_t head, uint32_t dims, const uint8_t *codes, double squares,
                                   uint8_t *out, size_t room)
{
	uint32_t sub = work->sub_dims, subs = dims / sub, found = 0;
	size_t count = (size_t)work->tokens * dims, most = count / PQ_OUTLIER_SHARE < room ? count / PQ_OUTLIER_SHARE : room;
	double bound = PQ_OUTLIER_ROOTS * sqrt(squares / (double)count);

	for (size_t row = 0; row < work->tokens; row++)
		for (uint32_t s = 0; s < subs; s++) {
			const float *values = work->values + row * dims + (size_t)s * sub;
			const float *centroid = work->centroids + ((size_t)s * PQ_CENTROIDS + codes[row * subs + s]) * sub;

			for (uint32_t k = 0; k < sub; k++) {
				if (fabs((double)values[k] - (double)centroid[k]) <= bound)
					continue;
				if (found == most)
					return found;
				pq_put_u32(out, (uint32_t)(head * count + row * dims + s * sub + k));
				kvci_quant_kernel()->store(KVC_DTYPE_BF16, out + 4, 2, 1, 1, values + k, 1);
				out += PQ_OUTLIER_BYTES;
				found++;
			}
		}
	return found;
}

/* One plane to `out`; 0: it cannot be coded, or has no room. */
static size_t pq_encode_plane(const struct pq_work *work, uint32_t plane, const uint8_t *raw, uint8_t *out, size_t room)
{
	uint32_t dims = work->layout.planes[plane].dims, heads = work->layout.heads, outliers = 0;
	size_t head_codes = (size_t)work->tokens * (dims / work->sub_dims), begin = 4 + heads * head_codes;

	if (room < begin || (uint64_t)heads * work->tokens * dims > UINT32_MAX)
		return 0;
	for (uint32_t head = 0; head < heads; head++) {
		struct kvci_layout_rows rows = pq_rows(work, plane, head);
		uint8_t *codes = out + 4 + head * head_codes;
		double squares;

		if (!kvci_layout_load(&work->layout, raw, &rows, work->values, dims))
			return 0;
		pq_rotate(work, plane);
		pq_load_centroids(work, plane, head);
		squares = pq_encode_codes(work, dims, codes);
		if (!isfinite(squares))
			return 0;
		outliers += pq_encode_outliers(work, head, dims, codes, squares, out + begin + (size_t)outliers * PQ_OUTLIER_BYTES,
		                               (room - begin) / PQ_OUTLIER_BYTES - outliers);
	}
	pq_put_u32(out, outliers);
	return begin + (size_t)outliers * PQ_OUTLIER_BYTES;
}

static kvc_status_t pq_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes, void *scratch,
                              size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_pq_ops.defaults;
	uint8_t *bytes = out;
	struct pq_work work;
	uint32_t sinks;
	size_t at;

	if (out_bytes < pq_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (params->variant > 1 || !pq_plan(part, raw_bytes, params->variant == 0 ? 2 : 4, scratch, &work))
		return KVC_OK;
	sinks = kvci_layout_sinks(&work.layout, part->position_tokens, params->sinks);
	if (sinks == work.layout.tokens)
		return KVC_OK;
	pq_plan_sinks(&work, sinks, KVCI_ROPE_BACK);
	bytes[0] = PQ_VERSION;
	bytes[1] = (uint8_t)work.sub_dims;
	bytes[2] = (uint8_t)sinks;
	bytes[3] = (uint8_t)(sinks >> 8);
	pq_put_u32(bytes + 4, (uint32_t)kvci_profile_id(part->profile));
	at = PQ_HEAD_BYTES + pq_sinks(&work, (uint8_t *)(uintptr_t)raw, bytes + PQ_HEAD_BYTES, true);
	for (uint32_t i = 0; i < work.layout.plane_count; i++) {
		size_t coded = pq_encode_plane(&work, i, raw, bytes + at, out_bytes - at);

		if (coded == 0)
			return KVC_OK;
		at += coded;
	}
	if (at <= raw_bytes - raw_bytes / 32)
		*ret_bytes = at;
	return KVC_OK;
}

/* ---- decode --------------------------------------------------------------------------------------------------------- */

static void pq_decode_codes(const struct pq_work *work, uint32_t dims, const uint8_t *codes)
{
	uint32_t sub = work->sub_dims, subs = dims / sub;

	for (uint32_t token = 0; token < work->tokens; token++, codes += subs) {
		float *row = work->values + (size_t)token * dims;

		if (sub == 2)
			for (uint32_t s = 0; s < subs; s++)
				memcpy(row + s * 2, work->centroids + ((size_t)s * PQ_CENTROIDS + codes[s]) * 2, 2 * sizeof(float));
		else
			for (uint32_t s = 0; s < subs; s++)
				memcpy(row + s * 4, work->centroids + ((size_t)s * PQ_CENTROIDS + codes[s]) * 4, 4 * sizeof(float));
	}
}

/* Untrusted: false when an outlier's place or value is none. */
static bool pq_decode_plane(const struct pq_work *work, uint32_t plane, uint8_t *raw, const uint8_t **at, const uint8_t *end)
{
	uint32_t dims = work->layout.planes[plane].dims, heads = work->layout.heads, outliers, done = 0;
	size_t head_codes = (size_t)work->tokens * (dims / work->sub_dims), count = (size_t)work->tokens * dims;
	const uint8_t *codes = *at + 4, *outlier;

	if ((size_t)(end - *at) < 4 + heads * head_codes)
		return false;
	outliers = pq_u32(*at);
	outlier = codes + heads * head_codes;
	if ((size_t)(end - outlier) / PQ_OUTLIER_BYTES < outliers)
		return false;
	for (uint32_t head = 0; head < heads; head++, codes += head_codes) {
		struct kvci_layout_rows rows = pq_rows(work, plane, head);
		uint32_t last = UINT32_MAX;

		pq_load_centroids(work, plane, head);
		pq_decode_codes(work, dims, codes);
		for (; done < outliers && pq_u32(outlier) < (head + 1) * count; done++, outlier += PQ_OUTLIER_BYTES) {
			uint32_t place = pq_u32(outlier);

			if (place < head * count || (last != UINT32_MAX && place <= last) ||
			    !kvci_quant_kernel()->load(KVC_DTYPE_BF16, outlier + 4, 2, 1, 1, work->values + (place - head * count), 1))
				return false;
			last = place;
		}
		pq_rotate(work, plane);
		kvci_layout_store(&work->layout, raw, &rows, work->values, dims);
	}
	*at = outlier;
	return done == outliers;
}

static kvc_status_t pq_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                              void *scratch)
{
	const uint8_t *at = coded, *end = at + coded_bytes;
	struct pq_work work;
	uint32_t sinks;

	if (coded_bytes < PQ_HEAD_BYTES || at[0] != PQ_VERSION || !pq_plan(part, raw_bytes, at[1], scratch, &work))
		return KVC_CORRUPT;
	sinks = at[2] | (uint32_t)at[3] << 8;
	if (sinks >= work.layout.tokens || pq_u32(at + 4) != (uint32_t)kvci_profile_id(part->profile))
		return KVC_CORRUPT;
	pq_plan_sinks(&work, sinks, KVCI_ROPE_FORWARD);
	at += PQ_HEAD_BYTES;
	if ((size_t)(end - at) < pq_sinks_bytes(&work))
		return KVC_CORRUPT;
	at += pq_sinks(&work, raw, (uint8_t *)(uintptr_t)at, false);
	for (uint32_t i = 0; i < work.layout.plane_count; i++)
		if (!pq_decode_plane(&work, i, raw, &at, end))
			return KVC_CORRUPT;
	return at == end ? KVC_OK : KVC_CORRUPT;
}

const struct kvc_codec_ops kvc_codec_pq_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_PQ,
	.name = "pq",
	.needs_profile = true,
	.params = KVC_CODEC_PARAM_SINKS | KVC_CODEC_PARAM_VARIANT,
	.defaults = { .sinks = 4 },
	.scratch_bytes = pq_scratch_bytes,
	.bound_bytes = pq_bound_bytes,
	.encode = pq_encode,
	.decode = pq_decode,
};
