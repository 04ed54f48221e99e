/* SPDX-License-Identifier: Apache-2.0
 *
 * Codebooks for pq: Lloyd's k-means over an even choice of the samples' rows, the same for the same samples.
 */
#include <string.h>

#include "base/alloc.h"
#include "codec/layout.h"
#include "codec/pq.h"
#include "codec/quant.h"

enum {
	PQ_VERSION = 1,
	PQ_ROUNDS = 8,
	PQ_ROWS_MAX = 6144, /* MILLION takes 256 times 2^bits values; more rows gain little */
	PQ_DIMS_MAX = 4096,
};

/* What one head is trained on. */
struct pq_train {
	const struct kvci_profile_order *order;
	struct kvci_profile_writer *writer;
	uint64_t rows, every; /* all rows of the samples; one in so many is taken */
	uint32_t count;       /* rows taken */
	uint64_t done, total; /* heads */
	float *values;        /* of a head [count][dims] */
	float *table;         /* one row of a rotation */
	uint8_t *codes;
	float *vectors; /* [batches][sub_dims][PQ_BATCH] */
};

static uint32_t pq_train_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 33);
}

/* The rows of one head, K before rotation. False: a value is not finite. */
static bool pq_train_load(struct pq_train *train, bool is_k, uint32_t layer, uint32_t head)
{
	const struct kvci_profile_order *order = train->order;
	const struct kvc_form *form = &order->form;
	uint32_t dims = is_k ? form->head_dim_k : form->head_dim_v, element = form->dtype == KVC_DTYPE_F32 ? 4 : 2;
	uint64_t row = 0;
	uint32_t taken = 0;
	bool finite = true;

	for (uint32_t i = 0; i < order->sample_count; i++) {
		const struct kvci_profile_sample *sample = &order->samples[i];

		for (uint32_t token = 0; token < sample->tokens; token++) {
			const uint8_t *at = is_k ? sample->k : sample->v;

			if (sample->position + token < order->sinks || row++ % train->every != 0 || taken == train->count)
				continue;
			at += (((size_t)layer * sample->tokens + token) * form->kv_heads + head) * dims * element;
			finite &= kvci_quant_kernel()->load(form->dtype, at, (size_t)dims * element, 1, dims, train->values + (size_t)taken * dims, dims);
			if (is_k && order->rope != NULL) {
				kvci_rope_table(order->rope, KVCI_ROPE_BACK, sample->position + token, 1, train->table);
				kvci_rope_apply(order->rope, train->table, 0, train->values + (size_t)taken * dims, 1, dims);
			}
			taken++;
		}
	}
	return finite;
}

/* One codebook: `vectors` in batches. */
static void pq_train_book(struct pq_train *train, uint32_t sub, uint64_t seed, float *centroids)
{
	float (*vectors)[PQ_BATCH] = (float(*)[PQ_BATCH])train->vectors;
	float distances[PQ_BATCH], half_norms[PQ_CENTROIDS];
	double sums[PQ_CENTROIDS][5];

	for (uint32_t c = 0; c < PQ_CENTROIDS; c++) {
		uint32_t i = train->count >= 2 * PQ_CENTROIDS ? (uint32_t)((uint64_t)c * train->count / PQ_CENTROIDS) : c % train->count;

		for (uint32_t k = 0; k < sub; k++)
			centroids[c * sub + k] = vectors[i / PQ_BATCH * sub + k][i % PQ_BATCH];
	}
	for (int round = 0; round < PQ_ROUNDS; round++) {
		memset(sums, 0, sizeof(sums));
		kvci_pq_half_norms(centroids, sub, half_norms);
		for (uint32_t i = 0; i < train->count; i += PQ_BATCH) {
			uint32_t count = train->count - i < PQ_BATCH ? train->count - i : PQ_BATCH;
			float (*batch)[PQ_BATCH] = vectors + (size_t)i / PQ_BATCH * sub;

			kvci_pq_nearest((const float(*)[PQ_BATCH])batch, count, sub, centroids, half_norms, train->codes, distances);
			for (uint32_t j = 0; j < count; j++) {
				double *sum = sums[train->codes[j]];

				for (uint32_t k = 0; k < sub; k++)
					sum[k] += (double)batch[k][j];
				sum[4]++;
			}
		}
		for (uint32_t c = 0; c < PQ_CENTROIDS; c++) {
			uint32_t other = pq_train_random(&seed) % train->count; /* for a centroid that nothing is next to */

			for (uint32_t k = 0; k < sub; k++)
				centroids[c * sub + k] = sums[c][4] > 0 ? (float)(sums[c][k] / sums[c][4]) : vectors[other / PQ_BATCH * sub + k][other % PQ_BATCH];
		}
	}
}

static bool pq_train_head(struct pq_train *train, uint32_t sub, bool is_k, uint32_t layer, uint32_t head)
{
	uint32_t dims = is_k ? train->order->form.head_dim_k : train->order->form.head_dim_v;
	float centroids[PQ_CENTROIDS * 4];
	uint8_t halves[PQ_CENTROIDS * 4 * 2];

	if (!pq_train_load(train, is_k, layer, head))
		return false;
	for (uint32_t s = 0; s < dims / sub; s++) {
		for (uint32_t i = 0; i < train->count; i++)
			for (uint32_t k = 0; k < sub; k++)
				train->vectors[((size_t)i / PQ_BATCH * sub + k) * PQ_BATCH + i % PQ_BATCH] = train->values[(size_t)i * dims + s * sub + k];
		pq_train_book(train, sub, ((uint64_t)layer << 32 | head << 16 | s) * 2 + is_k, centroids);
		kvci_quant_kernel()->store(KVC_DTYPE_F16, halves, (size_t)2 * sub, PQ_CENTROIDS, sub, centroids, sub);
		kvci_profile_writer_put(train->writer, halves, (size_t)PQ_CENTROIDS * sub * 2);
	}
	train->done++;
	if (train->order->progress != NULL)
		train->order->progress(train->order->context, train->done, train->total);
	return true;
}

static bool pq_train_set(struct pq_train *train, uint32_t sub)
{
	const struct kvc_form *form = &train->order->form;

	kvci_profile_writer_u32(train->writer, sub);
	kvci_profile_writer_u32(train->writer, 0);
	for (int plane = 0; plane < 2; plane++)
		for (uint32_t layer = 0; layer < form->layer_count; layer++)
			for (uint32_t head = 0; head < form->kv_heads && (plane == 0 || form->head_dim_v != 0); head++)
				if (!pq_train_head(train, sub, plane == 0, layer, head))
					return false;
	return true;
}

static kvc_status_t pq_train_run(struct pq_train *train, uint32_t sub_dims)
{
	const struct kvc_form *form = &train->order->form;
	uint32_t dims = form->head_dim_k > form->head_dim_v ? form->head_dim_k : form->head_dim_v;
	size_t batches = (train->count + PQ_BATCH - 1) / PQ_BATCH;
	kvc_status_t status = KVC_NO_MEMORY;

	train->values = kvci_alloc((size_t)train->count * dims * sizeof(float));
	train->table = kvci_alloc(((size_t)dims + 1) * sizeof(float));
	train->codes = kvci_alloc(PQ_BATCH);
	train->vectors = kvci_alloc_zero(batches * 4 * PQ_BATCH, sizeof(float));
	if (train->values != NULL && train->table != NULL && train->codes != NULL && train->vectors != NULL) {
		bool right = (sub_dims == 4 || pq_train_set(train, 2)) && (sub_dims == 2 || pq_train_set(train, 4));

		status = right ? KVC_OK : KVC_INVALID;
	}
	kvci_free(train->values);
	kvci_free(train->table);
	kvci_free(train->codes);
	kvci_free(train->vectors);
	return status;
}

kvc_status_t kvci_pq_train(const struct kvci_profile_order *order, uint32_t sub_dims, const uint8_t *profile, size_t profile_bytes,
                           uint8_t **ret_bytes, size_t *ret_length)
{
	const struct kvc_form *form = &order->form;
	struct kvci_profile_writer writer = { 0 };
	struct pq_train train = { .order = order, .writer = &writer };
	uint32_t most = sub_dims == 2 ? 2 : 4;
	kvc_status_t status;

	if ((sub_dims != 0 && sub_dims != 2 && sub_dims != 4) || form->head_dim_k % most != 0 || form->head_dim_v % most != 0 ||
	    form->head_dim_k == 0 || form->head_dim_k > PQ_DIMS_MAX || form->head_dim_v > PQ_DIMS_MAX ||
	    (form->dtype != KVC_DTYPE_F32 && form->dtype != KVC_DTYPE_BF16 && form->dtype != KVC_DTYPE_F16) ||
	    (order->rope != NULL && kvci_rope_check(order->rope, form->head_dim_k) != KVC_OK))
		return KVC_INVALID;
	for (uint32_t i = 0; i < order->sample_count; i++)
		for (uint32_t token = 0; token < order->samples[i].tokens; token++)
			train.rows += order->samples[i].position + token >= order->sinks;
	if (train.rows == 0)
		return KVC_INVALID;
	train.every = (train.rows + PQ_ROWS_MAX - 1) / PQ_ROWS_MAX;
	train.count = (uint32_t)((train.rows + train.every - 1) / train.every);
	train.total = (uint64_t)form->layer_count * form->kv_heads * (form->head_dim_v != 0 ? 2 : 1) * (sub_dims == 0 ? 2 : 1);
	kvci_profile_writer_put(&writer, profile, profile_bytes);
	kvci_profile_writer_section(&writer, KVCI_PROFILE_CODEBOOKS);
	kvci_profile_writer_u32(&writer, PQ_VERSION);
	kvci_profile_writer_u32(&writer, sub_dims == 0 ? 2 : 1);
	status = pq_train_run(&train, sub_dims);
	if (status == KVC_OK)
		return kvci_profile_writer_end(&writer, ret_bytes, ret_length);
	kvci_profile_writer_cancel(&writer);
	return status;
}
