/* SPDX-License-Identifier: Apache-2.0
 *
 * Profiles: statistics of KV, and bases from them.
 *
 * The scale of a channel, in which steps are counted, is the root mean square of all sigmas of its layer: errors are of one size then, which costs
 * fewer bits and hurts less than errors in proportion to each channel's own sigma (docs/codecs.md). With weights it is a power of the channel's: a
 * step twice as wide saves a bit of whatever channel, so it should be wide where errors do little.
 */
#include "codec/profile_make.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/layout.h"
#include "codec/pca.h"

enum {
	MAKE_SHAPES = 4,
	MAKE_FINE = 64,      /* points of an integral between two of a shape */
	MAKE_COMPONENTS_SHAPE = 1,
	MAKE_SIGMA_PARTS = 10000, /* of a layer's scale: less is no sigma */
	MAKE_BLOCK = 64,     /* tokens of a step of a sum */
	MAKE_SCALE_RANGE = 8, /* scales are not farther than so many times from a channel's sigma */
};
/* A weight's power. -0.5 would be best for weights that are exact: these are means over few tokens. */
#define MAKE_WEIGHT_POWER (-0.375)

/* Generalised normal distributions: exp(-|x|^beta). 1 is Laplace's, 2 Gauss's. */
static const double make_betas[MAKE_SHAPES] = { 1.0, 1.4, 1.8, 2.4 };

struct make {
	const struct kvci_profile_order *order;
	struct kvci_profile_writer writer;
	uint32_t channels[2];
	uint32_t tokens; /* of all samples, without sinks */
	float *rows;     /* of a layer or a group: tokens * values */
	float *turns;
	float *mean[2], *sigma[2], *scale[2]; /* [layer][channel] */
	uint8_t *shape[2];
	uint64_t done, total;
};

static void make_progress(struct make *make, uint64_t more)
{
	make->done += more;
	if (make->order->progress != NULL)
		make->order->progress(make->order->context, make->done, make->total);
}

/* ---- shapes ------------------------------------------------------------------------------------------------------------------ */

/* Mean of |x| over sigma. */
static double make_absolute(double beta)
{
	return exp(lgamma(2 / beta) - 0.5 * (lgamma(1 / beta) + lgamma(3 / beta)));
}

static void make_shape(struct kvci_profile_writer *writer, double beta)
{
	double width = exp(0.5 * (lgamma(1 / beta) - lgamma(3 / beta))), sum = 0, whole = 0;

	/* By the middles of small steps; twice, as the whole must be 1. */
	for (int round = 0; round < 2; round++, sum = 0)
		for (int point = 0; point < KVCI_PROFILE_POINTS; point++) {
			for (int fine = 0; point != 0 && fine < MAKE_FINE; fine++) {
				double at = (point - 1 + (fine + 0.5) / MAKE_FINE) / KVCI_PROFILE_GRID;

				sum += exp(-pow(at / width, beta));
			}
			if (round == 0)
				whole = sum;
			else
				kvci_profile_writer_u32(writer, (uint32_t)(sum / whole * KVCI_PROFILE_ONE));
		}
}

static uint8_t make_nearest_shape(double absolute)
{
	uint8_t nearest = 0;

	for (uint8_t i = 1; i < MAKE_SHAPES; i++)
		if (fabs(make_absolute(make_betas[i]) - absolute) < fabs(make_absolute(make_betas[nearest]) - absolute))
			nearest = i;
	return nearest;
}

/* ---- rows --------------------------------------------------------------------------------------------------------------------- */

static uint32_t make_skipped(const struct make *make, const struct kvci_profile_sample *sample)
{
	uint64_t left = sample->position < make->order->sinks ? make->order->sinks - sample->position : 0;

	return left < sample->tokens ? (uint32_t)left : sample->tokens;
}

/* A layer of one sample to rows; false: not finite, or no such layout. */
static bool make_load_sample(struct make *make, const struct kvci_profile_sample *sample, bool is_k, uint32_t layer, float *rows, size_t stride)
{
	uint32_t dims = is_k ? make->order->form.head_dim_k : make->order->form.head_dim_v, skipped = make_skipped(make, sample);
	struct kvc_form form = make->order->form;
	struct kvc_codec_part part = { .form = &form, .is_k = is_k };
	struct kvci_layout layout;
	const uint8_t *bytes = is_k ? sample->k : sample->v;
	size_t element_bytes = form.dtype == KVC_DTYPE_F32 ? 4 : 2;
	size_t layer_bytes = (size_t)sample->tokens * form.kv_heads * dims * element_bytes;

	form.arrangement = KVC_KV_SPLIT;
	form.order = KVC_ORDER_NH;
	form.page_extra_bytes = 0;
	form.engine_block_tokens = form.block_tokens = sample->tokens;
	if (!kvci_layout_of(&part, layer_bytes, &layout))
		return false;
	for (uint32_t head = 0; head < form.kv_heads; head++) {
		struct kvci_layout_rows what = { .head = head, .token = skipped, .count = sample->tokens - skipped };

		if (!kvci_layout_load(&layout, bytes + layer * layer_bytes, &what, rows + (size_t)head * dims, stride))
			return false;
		if (!is_k || make->order->rope == NULL)
			continue;
		kvci_rope_table(make->order->rope, KVCI_ROPE_BACK, sample->position + skipped, what.count, make->turns);
		kvci_rope_apply(make->order->rope, make->turns, make->order->rope->dims, rows + (size_t)head * dims, what.count, stride);
	}
	return true;
}

/* A layer of all samples: row t at rows + t * stride. */
static bool make_load(struct make *make, bool is_k, uint32_t layer, float *rows, size_t stride)
{
	for (uint32_t i = 0; i < make->order->sample_count; i++) {
		const struct kvci_profile_sample *sample = &make->order->samples[i];
		uint32_t count = sample->tokens - make_skipped(make, sample);

		if (count == 0)
			continue;
		if (!make_load_sample(make, sample, is_k, layer, rows, stride))
			return false;
		rows += count * stride;
	}
	return true;
}

/* ---- statistics ----------------------------------------------------------------------------------------------------------------- */

static void make_channel(const float *rows, uint32_t tokens, size_t stride, double *ret_mean, double *ret_sigma, double *ret_absolute)
{
	double sum = 0, squares = 0, absolute = 0, mean;

	for (uint32_t t = 0; t < tokens; t++)
		sum += (double)rows[t * stride];
	mean = sum / tokens;
	for (uint32_t t = 0; t < tokens; t++) {
		double off = (double)rows[t * stride] - mean;

		squares += off * off;
		absolute += fabs(off);
	}
	*ret_mean = mean;
	*ret_sigma = sqrt(squares / tokens);
	*ret_absolute = absolute / tokens;
}

static bool make_layer(struct make *make, uint32_t plane, uint32_t layer)
{
	uint32_t channels = make->channels[plane];
	size_t first = (size_t)layer * channels;
	double square = 0, scale;

	if (!make_load(make, plane == 0, layer, make->rows, channels))
		return false;
	for (uint32_t i = 0; i < channels; i++) {
		double mean, sigma, absolute;

		make_channel(make->rows + i, make->tokens, channels, &mean, &sigma, &absolute);
		make->mean[plane][first + i] = (float)mean;
		make->sigma[plane][first + i] = (float)sigma;
		make->shape[plane][first + i] = sigma > 0 ? make_nearest_shape(absolute / sigma) : 0;
		square += sigma * sigma;
	}
	scale = sqrt(square / channels);
	if (!(scale > 1e-30) || !(scale < 1e30)) /* nothing varies: then any scale is right */
		scale = 1;
	for (uint32_t i = 0; i < channels; i++) {
		float *sigma = &make->sigma[plane][first + i], least = (float)(scale / MAKE_SIGMA_PARTS);

		*sigma = *sigma > least ? *sigma : least;
		make->scale[plane][first + i] = (float)scale;
	}
	make_progress(make, channels);
	return true;
}

/* By weights, as large in the geometric mean as without them: a step means about the same. */
static bool make_weigh(struct make *make)
{
	double usual = 0, weighed = 0;
	size_t total = 0;

	for (int plane = 0; plane < 2; plane++) {
		size_t count = (size_t)make->channels[plane] * make->order->form.layer_count;
		const float *weights = make->order->weights[plane];

		for (size_t i = 0; i < count; i++) {
			if (!isfinite(weights[i]) || weights[i] < 0)
				return false;
			usual += log((double)make->scale[plane][i]);
			weighed += MAKE_WEIGHT_POWER * log(fmax((double)weights[i], 1e-30));
		}
		total += count;
	}
	for (int plane = 0; plane < 2; plane++) {
		size_t count = (size_t)make->channels[plane] * make->order->form.layer_count;

		for (size_t i = 0; i < count; i++) {
			double scale = pow(fmax((double)make->order->weights[plane][i], 1e-30), MAKE_WEIGHT_POWER) * exp((usual - weighed) / (double)total);
			double sigma = (double)make->sigma[plane][i];

			make->scale[plane][i] = (float)fmax(sigma / MAKE_SCALE_RANGE, fmin(sigma * MAKE_SCALE_RANGE, scale));
		}
	}
	return true;
}

/* ---- bases ---------------------------------------------------------------------------------------------------------------------- */

static void make_covariance(const float *rows, uint32_t tokens, uint32_t count, double *matrix)
{
	float sums[MAKE_BLOCK];

	memset(matrix, 0, (size_t)count * count * sizeof(*matrix));
	for (uint32_t token = 0; token < tokens; token += MAKE_BLOCK) {
		uint32_t block = tokens - token < MAKE_BLOCK ? tokens - token : MAKE_BLOCK;
		const float *from = rows + (size_t)token * count;

		for (uint32_t i = 0; i < count; i++)
			for (uint32_t j = 0; j <= i; j += MAKE_BLOCK) {
				uint32_t width = count - j < MAKE_BLOCK ? count - j : MAKE_BLOCK;

				memset(sums, 0, sizeof(sums));
				for (uint32_t t = 0; t < block; t++) {
					float value = from[(size_t)t * count + i];
					const float *others = from + (size_t)t * count + j;

					for (uint32_t k = 0; k < width; k++)
						sums[k] += value * others[k];
				}
				for (uint32_t k = 0; k < width; k++)
					matrix[(size_t)i * count + j + k] += (double)sums[k];
			}
	}
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t j = 0; j <= i; j++) {
			matrix[(size_t)i * count + j] /= tokens;
			matrix[(size_t)j * count + i] = matrix[(size_t)i * count + j];
		}
}

static void make_write_basis(struct kvci_profile_writer *writer, const float *scale, const double *matrix, const double *values, uint32_t count)
{
	kvci_profile_writer_u32(writer, MAKE_COMPONENTS_SHAPE);
	for (uint32_t i = 0; i < count; i++)
		kvci_profile_writer_f32(writer, scale[i]);
	for (uint32_t i = 0; i < count; i++)
		kvci_profile_writer_f32(writer, (float)sqrt(values[i] > 1e-8 ? values[i] : 1e-8));
	for (size_t i = 0; i < (size_t)count * count; i++) {
		double value = nearbyint(fmax(-1, fmin(1, matrix[i])) * KVCI_PROFILE_BASIS_ONE);
		int32_t whole = (int32_t)value;
		uint8_t bytes[2] = { (uint8_t)(uint32_t)whole, (uint8_t)((uint32_t)whole >> 8) };

		kvci_profile_writer_put(writer, bytes, 2);
	}
}

static kvc_status_t make_basis(struct make *make, uint32_t plane, uint32_t first, uint32_t layers)
{
	uint32_t channels = make->channels[plane], count = layers * channels;
	const float *mean = make->mean[plane] + (size_t)first * channels, *scale = make->scale[plane] + (size_t)first * channels;
	double *matrix = kvci_alloc((size_t)count * count * sizeof(*matrix)), *values = kvci_alloc(2 * (size_t)count * sizeof(*values));
	kvc_status_t status = KVC_NO_MEMORY;

	if (matrix == NULL || values == NULL)
		goto out;
	status = KVC_INVALID;
	for (uint32_t i = 0; i < layers; i++)
		if (!make_load(make, plane == 0, first + i, make->rows + (size_t)i * channels, count))
			goto out;
	for (uint32_t t = 0; t < make->tokens; t++)
		for (uint32_t i = 0; i < count; i++) {
			float *value = make->rows + (size_t)t * count + i;

			*value = (*value - mean[i]) / scale[i];
		}
	make_covariance(make->rows, make->tokens, count, matrix);
	make_progress(make, (uint64_t)count * 8);
	if (!kvci_pca_eigen(matrix, count, values, values + count))
		goto out;
	make_write_basis(&make->writer, scale, matrix, values, count);
	make_progress(make, (uint64_t)count * 8);
	status = KVC_OK;
out:
	kvci_free(matrix);
	kvci_free(values);
	return status;
}

static kvc_status_t make_bases(struct make *make, uint32_t plane)
{
	uint32_t layers = make->order->form.layer_count, group = make->order->pca_layers;
	kvc_status_t status = KVC_OK;

	if (group > layers)
		group = layers;
	if (group == 0 || make->channels[plane] == 0)
		return KVC_OK;
	kvci_profile_writer_section(&make->writer, plane == 0 ? KVCI_PROFILE_BASES_K : KVCI_PROFILE_BASES_V);
	kvci_profile_writer_u32(&make->writer, group);
	for (uint32_t first = 0; first < layers && status == KVC_OK; first += group)
		status = make_basis(make, plane, first, layers - first < group ? layers - first : group);
	return status;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------------------- */

static void make_write_head(struct make *make)
{
	const struct kvci_profile_order *order = make->order;
	const uint32_t form[] = { order->form.layer_count, order->form.kv_heads, order->form.head_dim_k, order->form.head_dim_v,
		                  order->form.group, order->form.shard_index, order->form.shard_count };

	kvci_profile_writer_begin(&make->writer);
	kvci_profile_writer_section(&make->writer, KVCI_PROFILE_NAME);
	kvci_profile_writer_put(&make->writer, order->name, strlen(order->name));
	if (order->model != NULL && order->model[0] != '\0') {
		kvci_profile_writer_section(&make->writer, KVCI_PROFILE_MODEL);
		kvci_profile_writer_put(&make->writer, order->model, strlen(order->model));
	}
	kvci_profile_writer_section(&make->writer, KVCI_PROFILE_FORM);
	for (size_t i = 0; i < sizeof(form) / sizeof(form[0]); i++)
		kvci_profile_writer_u32(&make->writer, form[i]);
	if (order->rope != NULL) {
		kvci_profile_writer_section(&make->writer, KVCI_PROFILE_ROPE);
		kvci_profile_writer_u32(&make->writer, order->rope->style);
		kvci_profile_writer_u32(&make->writer, order->rope->first_dim);
		kvci_profile_writer_u32(&make->writer, order->rope->dims);
		kvci_profile_writer_f32(&make->writer, order->rope->factor);
		for (uint32_t i = 0; i < order->rope->dims / 2; i++)
			kvci_profile_writer_f32(&make->writer, order->rope->inv_freq[i]);
	}
	kvci_profile_writer_section(&make->writer, KVCI_PROFILE_SHAPES);
	kvci_profile_writer_u32(&make->writer, MAKE_SHAPES);
	kvci_profile_writer_u32(&make->writer, KVCI_PROFILE_POINTS);
	for (int i = 0; i < MAKE_SHAPES; i++)
		make_shape(&make->writer, make_betas[i]);
}

static void make_write_stats(struct make *make)
{
	kvci_profile_writer_section(&make->writer, KVCI_PROFILE_STATS);
	for (int plane = 0; plane < 2; plane++) {
		size_t count = (size_t)make->channels[plane] * make->order->form.layer_count;

		for (size_t i = 0; i < count; i++)
			kvci_profile_writer_f32(&make->writer, make->mean[plane][i]);
		for (size_t i = 0; i < count; i++)
			kvci_profile_writer_f32(&make->writer, make->sigma[plane][i]);
		for (size_t i = 0; i < count; i++)
			kvci_profile_writer_f32(&make->writer, make->scale[plane][i]);
		kvci_profile_writer_put(&make->writer, make->shape[plane], count);
	}
	if (make->order->weights[0] != NULL && make->order->weights[1] != NULL) {
		kvci_profile_writer_section(&make->writer, KVCI_PROFILE_WEIGHTS);
		kvci_profile_writer_f32(&make->writer, (float)MAKE_WEIGHT_POWER);
	}
}

static bool make_check(const struct kvci_profile_order *order)
{
	const struct kvc_form *form = &order->form;
	uint64_t k = (uint64_t)form->kv_heads * form->head_dim_k, v = (uint64_t)form->kv_heads * form->head_dim_v;

	return form->layer_count != 0 && form->layer_count <= KVC_FORM_LAYERS_MAX && k != 0 && k <= KVCI_PROFILE_CHANNELS_MAX &&
	       v <= KVCI_PROFILE_CHANNELS_MAX && strlen(order->name) <= KVCI_PROFILE_NAME_BYTES_MAX &&
	       (order->model == NULL || strlen(order->model) <= KVCI_PROFILE_MODEL_BYTES_MAX) &&
	       (k > v ? k : v) * (order->pca_layers > form->layer_count ? form->layer_count : order->pca_layers) <= KVCI_PROFILE_COMPONENTS_MAX &&
	       (form->dtype == KVC_DTYPE_BF16 || form->dtype == KVC_DTYPE_F16 || form->dtype == KVC_DTYPE_F32) &&
	       (order->rope == NULL || kvci_rope_check(order->rope, form->head_dim_k) == KVC_OK);
}

static kvc_status_t make_start(struct make *make)
{
	const struct kvc_form *form = &make->order->form;
	uint32_t group = make->order->pca_layers > form->layer_count ? form->layer_count : make->order->pca_layers, most = 0;
	bool complete = true;

	for (uint32_t i = 0; i < make->order->sample_count; i++) {
		const struct kvci_profile_sample *sample = &make->order->samples[i];

		make->tokens += sample->tokens - make_skipped(make, sample);
		most = sample->tokens > most ? sample->tokens : most;
	}
	if (make->tokens < 2)
		return KVC_INVALID;
	for (int plane = 0; plane < 2; plane++) {
		uint32_t channels = form->kv_heads * (plane == 0 ? form->head_dim_k : form->head_dim_v);
		size_t count = (size_t)channels * form->layer_count + 1;

		make->channels[plane] = channels;
		make->mean[plane] = kvci_alloc_zero(count, sizeof(float));
		make->sigma[plane] = kvci_alloc_zero(count, sizeof(float));
		make->scale[plane] = kvci_alloc_zero(count, sizeof(float));
		make->shape[plane] = kvci_alloc_zero(count, 1);
		complete = complete && make->mean[plane] != NULL && make->sigma[plane] != NULL && make->scale[plane] != NULL &&
		           make->shape[plane] != NULL;
		make->total += (uint64_t)channels * form->layer_count * (group == 0 ? 1 : 17);
	}
	make->rows = kvci_alloc_zero((size_t)make->tokens * (group == 0 ? 1 : group),
	                             sizeof(float) * (make->channels[0] > make->channels[1] ? make->channels[0] : make->channels[1]));
	make->turns = kvci_alloc_zero(most, sizeof(float) * form->head_dim_k);
	return complete && make->rows != NULL && make->turns != NULL ? KVC_OK : KVC_NO_MEMORY;
}

static void make_fini(struct make *make)
{
	for (int plane = 0; plane < 2; plane++) {
		kvci_free(make->mean[plane]);
		kvci_free(make->sigma[plane]);
		kvci_free(make->scale[plane]);
		kvci_free(make->shape[plane]);
	}
	kvci_free(make->rows);
	kvci_free(make->turns);
	kvci_profile_writer_cancel(&make->writer);
}

kvc_status_t kvci_profile_make(const struct kvci_profile_order *order, uint8_t **ret_bytes, size_t *ret_length)
{
	struct make make = { .order = order };
	kvc_status_t status = make_check(order) ? make_start(&make) : KVC_INVALID;

	for (uint32_t plane = 0; plane < 2; plane++)
		for (uint32_t layer = 0; layer < order->form.layer_count && make.channels[plane] != 0 && status == KVC_OK; layer++)
			if (!make_layer(&make, plane, layer))
				status = KVC_INVALID;
	if (status == KVC_OK && order->weights[0] != NULL && order->weights[1] != NULL && !make_weigh(&make))
		status = KVC_INVALID;
	if (status == KVC_OK) {
		make_write_head(&make);
		make_write_stats(&make);
		status = make_bases(&make, 0);
	}
	if (status == KVC_OK)
		status = make_bases(&make, 1);
	if (status == KVC_OK && !kvci_profile_exponents_write(order, &make.writer))
		status = KVC_NO_MEMORY;
	if (status == KVC_OK)
		status = kvci_profile_writer_end(&make.writer, ret_bytes, ret_length);
	make_fini(&make);
	return status;
}
