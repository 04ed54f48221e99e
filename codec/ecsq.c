/* SPDX-License-Identifier: Apache-2.0
 *
 * ecsq and ecsq+pca: a uniform step, and entropy coding by models that are in the profile and not in the stream.
 *
 * K is turned back to before its position. ecsq: each channel's mean is taken away, and it is divided by step * scale. ecsq+pca: the channels of
 * a group of layers, each without its mean and divided by its scale, are turned to the group's components, and all are divided by the step. What comes
 * of it is rounded to whole numbers, the codes. Components that vary less than a step is wide are not coded at all.
 *
 * Quiet rows (a token's row in one layer, all heads together, that is far shorter than the profile's) are kept, as int8: they are what attention rests
 * on where it looks for nothing, as it does on a sequence's first token. A few in a thousand, wherever in a text, and half of what all errors would do.
 *
 * Stream: (little-endian)
 *   0   u8   version, 2
 *   1   u8   sinks: so many of the part's first tokens are stored as they are
 *   2   u8   1: all components are coded, also those that vary less than a step is wide; else 0
 *   3   u8   0
 *   4   u32  the profile's id, low half
 *   8   f32  step of the first plane
 *   12  f32  step of the second plane; 0 where there is none
 *   16  u32  bytes of escapes
 *   20  u32  kept rows
 *   24       sinks: rows by plane, layer, head, token
 *            kept rows (codec/ecsq_kept.h), whose codes are 0 in what follows
 *            escapes: codes too far from 0 for their class, by piece of 16 tokens, plane, token, place: zigzag, seven bits a byte, low first,
 *            0x80: more follow
 *            states and words of codec/rans.h: symbols by token; of each token those of the first plane, filled up to 16 with symbol 128, then of
 *            the second. Symbol 128 + code, or 0: an escape. The class of a channel or component
 *            follows from its shape and step * scale / sigma
 *
 * Decoding is whole numbers and IEEE operations in a fixed order: the same bits everywhere.
 */
#include "codec/ecsq.h"

#include <math.h>
#include <string.h>

#include "codec/codecs.h"
#include "codec/ecsq_kept.h"

enum {
	ECSQ_VERSION = 2,
	ECSQ_HEAD_BYTES = 24,
	ECSQ_SLACK_BYTES = 512, /* so that a kernel's last round has room */
	ECSQ_ESCAPE_BYTES_MAX = 5,
	ECSQ_ESCAPES_MAX = 224 * 1024, /* bytes of a part */
	ECSQ_RUN = 128, /* tokens that a basis turns at a time, so that its matrix is read once for all of them; a multiple of ECSQ_PIECE */
	ECSQ_BLOCK = 256, /* values of a token that decoding makes of components at a time, in whole rows */
	ECSQ_TURNS = 256, /* tokens whose turns are computed at a time; a multiple of ECSQ_PIECE */
};
#define ECSQ_STEP_LEAST 0.001f
#define ECSQ_STEP_MOST 16.0f
/* What goes into a basis may be so long that no sum leaves 31 bits. */
#define ECSQ_LENGTH_MAX 480.0
/* Of a token, a value, in squares of the step: what the components that are not coded may hold; rounding loses 1/12. */
#define ECSQ_LOST_MAX (8.0 / 12)

/* One plane of a part: which symbols of a row are its own, and what they are made with. */
struct ecsq_segment {
	const struct kvci_layout_plane *plane;
	const struct kvci_profile_basis *basis; /* NULL: channels are coded as they are */
	uint32_t channels; /* of a layer */
	uint32_t values;   /* of a token: channels of all layers */
	uint32_t first, symbols; /* of a row: `symbols` coded ones from `first` on */
	float step;
	const float *mean;  /* of the part's layers, in the profile */
	const float *sigma; /* the same */
	const float *unit;  /* what a step is counted in: the same, or a basis's */
	const uint8_t *shape;
	float *factor, *inverse; /* `values` of them */
	/* Of a run, where there is a basis: what goes into it, and (encode) what comes of it. */
	int16_t *whole;
	int32_t *sums;
	size_t whole_stride, sum_stride;
	float *scale; /* encode: sums to codes */
	float *quiet;            /* a layer's rows below this square are kept */
};

/* A part and how it is coded; what it points to is in the scratch. */
struct ecsq_work {
	const struct kvc_codec_part *part;
	const struct kvc_profile *profile;
	const struct ecsq_kernel *kernel;
	struct kvci_layout layout;
	uint32_t segment_count;
	struct ecsq_segment segments[2];
	uint32_t row, sinks;
	bool all; /* components are coded */
	bool lost; /* encode: those that are not coded hold too much */
	struct ecsq_kept kept;
	struct ecsq_classes classes;
	struct kvci_rans_map map;
	uint16_t *channel_classes; /* of a row */
	uint8_t *limits;           /* the same */
	float *zeros, *ones;       /* as many as a plane has values */
	float *values;             /* of a piece */
	float *turns; /* of `turns_count` tokens from `turns_first` on */
	uint32_t turns_first, turns_count;
	uint8_t *escapes; /* encode */
	uint8_t *symbols; /* encode: all; decode: of a piece */
};

/* ---- scratch ---------------------------------------------------------------------------------------------------------------- */

static uint32_t ecsq_plane_values(const struct kvci_layout *layout, uint32_t plane)
{
	return layout->layers * layout->heads * layout->planes[plane].dims;
}

/* The same for both directions: the larger of what they need. */
static void ecsq_carve_work(struct ecsq_carve *carve, const struct kvci_layout *layout, uint32_t rope_dims, bool pca, struct ecsq_work *work)
{
	size_t row = 0, most = 0, run = ecsq_round(layout->tokens, ECSQ_PIECE);

	run = run < ECSQ_RUN ? run : ECSQ_RUN;
	for (uint32_t i = 0; i < layout->plane_count; i++) {
		size_t values = ecsq_plane_values(layout, i);

		row += ecsq_round(values, KVCI_RANS_GROUP);
		most = values > most ? values : most;
		work->segments[i].factor = ecsq_carve(carve, values * sizeof(float));
		work->segments[i].inverse = ecsq_carve(carve, values * sizeof(float));
		work->segments[i].quiet = ecsq_carve(carve, layout->layers * sizeof(float));
		if (!pca)
			continue;
		work->segments[i].scale = ecsq_carve(carve, values * sizeof(float));
		work->segments[i].whole = ecsq_carve(carve, run * ecsq_round(values, 2) * sizeof(int16_t));
		work->segments[i].sums = ecsq_carve(carve, run * ecsq_round(values, ECSQ_PANEL) * sizeof(int32_t));
	}
	work->channel_classes = ecsq_carve(carve, row * sizeof(uint16_t));
	work->limits = ecsq_carve(carve, row);
	work->kept.rows = ecsq_carve(carve, ecsq_kept_most(layout) * sizeof(uint32_t));
	work->zeros = ecsq_carve(carve, most * sizeof(float));
	work->ones = ecsq_carve(carve, most * sizeof(float));
	work->values = ecsq_carve(carve, ECSQ_PIECE * most * sizeof(float));
	work->turns = ecsq_carve(carve, ECSQ_TURNS * (size_t)rope_dims * sizeof(float));
	work->escapes = ecsq_carve(carve, ECSQ_ESCAPES_MAX);
	work->symbols = ecsq_carve(carve, row * ecsq_round(layout->tokens, ECSQ_PIECE));
}

static size_t ecsq_any_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes, bool pca)
{
	struct ecsq_work work;
	struct ecsq_carve carve = { 0 };
	struct kvci_layout layout;

	if (!kvci_layout_of(part, raw_bytes, &layout))
		return 1;
	ecsq_carve_work(&carve, &layout, part->form->head_dim_k, pca, &work);
	return carve.used + ecsq_round(sizeof(work), ECSQ_ALIGN) + ECSQ_ALIGN;
}

static size_t ecsq_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return ecsq_any_scratch_bytes(part, raw_bytes, false);
}

static size_t ecsq_pca_scratch_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return ecsq_any_scratch_bytes(part, raw_bytes, true);
}

static size_t ecsq_bound_bytes(const struct kvc_codec_part *part, size_t raw_bytes)
{
	return raw_bytes + ECSQ_SLACK_BYTES;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------------------- */

static const struct kvci_profile_basis *ecsq_basis(const struct kvc_profile *profile, uint32_t plane, uint32_t layer)
{
	const struct kvci_profile_bases *bases = &profile->bases[plane];

	if (bases->group_layers == 0 || layer >= profile->layers)
		return NULL;
	return &bases->basis[layer / bases->group_layers];
}

static bool ecsq_plan_segment(struct ecsq_work *work, uint32_t index, bool pca)
{
	struct ecsq_segment *segment = &work->segments[index];
	uint32_t plane = work->layout.planes[index].is_k ? 0 : 1, layer = work->part->layer;
	const struct kvci_profile_plane *stats = &work->profile->planes[plane];

	segment->plane = &work->layout.planes[index];
	segment->channels = stats->channels;
	segment->values = ecsq_plane_values(&work->layout, index);
	segment->symbols = segment->values;
	segment->mean = stats->mean + (size_t)layer * stats->channels;
	segment->sigma = stats->sigma + (size_t)layer * stats->channels;
	segment->unit = stats->scale + (size_t)layer * stats->channels;
	segment->shape = stats->shape + (size_t)layer * stats->channels;
	segment->basis = pca ? ecsq_basis(work->profile, plane, layer) : NULL;
	if (!pca)
		return true;
	if (segment->basis == NULL || segment->basis->first_layer != layer || segment->basis->layers != work->layout.layers)
		return false;
	segment->unit = segment->basis->scale;
	return true;
}

/* False: this part cannot be coded by this profile. */
static bool ecsq_plan(const struct kvc_codec_part *part, size_t raw_bytes, bool pca, void *scratch, struct ecsq_work **ret_work)
{
	struct ecsq_carve carve = { (uint8_t *)(((uintptr_t)scratch + ECSQ_ALIGN - 1) & ~(uintptr_t)(ECSQ_ALIGN - 1)), 0 };
	struct ecsq_work *work;
	struct kvci_layout layout;
	uint64_t row = 0;

	if (part->profile == NULL || !kvci_layout_of(part, raw_bytes, &layout) || !kvci_profile_fits(part->profile, part->form) ||
	    layout.layers > part->profile->layers || part->layer > part->profile->layers - layout.layers || (!pca && layout.layers != 1))
		return false;
	for (uint32_t i = 0; i < layout.plane_count; i++)
		row += ecsq_round((uint64_t)layout.layers * layout.heads * layout.planes[i].dims, KVCI_RANS_GROUP);
	if (row == 0 || row > ECSQ_ROW_MAX)
		return false;
	work = ecsq_carve(&carve, sizeof(*work));
	memset(work, 0, sizeof(*work));
	work->part = part;
	work->profile = part->profile;
	work->kernel = kvci_ecsq_kernel();
	work->layout = layout;
	work->segment_count = layout.plane_count;
	ecsq_carve_work(&carve, &layout, part->form->head_dim_k, pca, work);
	for (uint32_t i = 0; i < work->segment_count; i++)
		if (!ecsq_plan_segment(work, i, pca))
			return false;
	*ret_work = work;
	return true;
}

/* Which components are coded, and by which class. */
static void ecsq_fit_components(struct ecsq_work *work, struct ecsq_segment *segment)
{
	const struct kvci_profile_basis *basis = segment->basis;
	uint32_t class = 0, last = ECSQ_RATIOS;

	segment->symbols = 0;
	while (segment->symbols < basis->components &&
	       (work->all || (double)segment->step <= ECSQ_RATIO_DEAD * (double)basis->sigma[segment->symbols])) {
		uint32_t ratio = ecsq_ratio_grid((double)segment->step / (double)basis->sigma[segment->symbols]);

		if (ratio != last)
			class = ecsq_classes_find(&work->classes, basis->shape, ratio);
		last = ratio;
		work->channel_classes[segment->first + segment->symbols++] = (uint16_t)class;
	}
	for (uint32_t i = 0; i < segment->values; i++)
		segment->factor[i] = segment->step * segment->unit[i] / KVCI_PROFILE_BASIS_ONE;
}

static void ecsq_fit_channels(struct ecsq_work *work, struct ecsq_segment *segment)
{
	for (uint32_t i = 0; i < segment->values; i++) {
		uint32_t ratio = ecsq_ratio_grid((double)segment->step * (double)segment->unit[i] / (double)segment->sigma[i]);

		work->channel_classes[segment->first + i] = (uint16_t)ecsq_classes_find(&work->classes, segment->shape[i], ratio);
		segment->factor[i] = segment->step * segment->unit[i];
	}
}

/* All that follows from the steps: what is coded, the classes, the factors. */
static void ecsq_fit(struct ecsq_work *work)
{
	const struct ecsq_tables *tables = work->profile->tables;
	uint32_t at = 0;

	ecsq_classes_begin(&work->classes);
	for (uint32_t i = 0; i < work->segment_count; i++) {
		struct ecsq_segment *segment = &work->segments[i];

		segment->first = at;
		if (segment->basis != NULL)
			ecsq_fit_components(work, segment);
		else
			ecsq_fit_channels(work, segment);
		at += segment->symbols;
		while (at % KVCI_RANS_GROUP != 0)
			work->channel_classes[at++] = (uint16_t)tables->pad;
	}
	/* A row is never empty, whatever the step. */
	while (at < KVCI_RANS_GROUP)
		work->channel_classes[at++] = (uint16_t)tables->pad;
	work->row = at;
	for (uint32_t i = 0; i < at; i++) {
		work->limits[i] = tables->limits[work->channel_classes[i]];
		work->channel_classes[i] = (uint16_t)(work->channel_classes[i] << KVCI_RANS_CLASS_SHIFT);
	}
	work->map = (struct kvci_rans_map){ .row = at, .repeat = 1, .heads = 1, .classes = work->channel_classes };
	for (uint32_t i = 0; i < work->segment_count; i++)
		for (uint32_t value = 0; value < work->segments[i].values; value++) {
			work->zeros[value] = 0;
			work->ones[value] = 1;
		}
}

/* ---- rows --------------------------------------------------------------------------------------------------------------------- */

/* Turns `width` values a token, in whole rows, of K of a piece: `token` is the part's. */
static void ecsq_turn(struct ecsq_work *work, const struct ecsq_segment *segment, enum kvci_rope_direction direction, uint32_t width,
                      uint32_t token, uint32_t count)
{
	const struct kvci_rope *rope = &work->profile->rope;
	const float *turns;

	if (!work->profile->has_rope || !segment->plane->is_k)
		return;
	if (token < work->turns_first || token + count > work->turns_first + work->turns_count) {
		uint32_t left = work->layout.tokens - token;

		work->turns_first = token;
		work->turns_count = left < ECSQ_TURNS ? left : ECSQ_TURNS;
		kvci_rope_table(rope, direction, work->part->position_tokens + token, work->turns_count, work->turns);
	}
	turns = work->turns + (size_t)(token - work->turns_first) * rope->dims;
	for (uint32_t at = 0; at < width; at += segment->plane->dims)
		kvci_rope_apply(rope, turns, rope->dims, work->values + at, count, width);
}

static struct kvci_layout_rows ecsq_rows(const struct ecsq_segment *segment, const struct ecsq_work *work, uint32_t at, uint32_t token,
                                         uint32_t count)
{
	return (struct kvci_layout_rows){
		.plane = (uint32_t)(segment->plane - work->layout.planes),
		.layer = at / segment->channels,
		.head = at % segment->channels / segment->plane->dims,
		.token = token,
		.count = count,
	};
}

/* Sinks to or from the bytes at `out`; returns behind them. */
static uint8_t *ecsq_sinks(const struct ecsq_work *work, uint8_t *raw, uint8_t *stored, bool store)
{
	const struct kvci_layout *layout = &work->layout;

	for (uint32_t plane = 0; plane < layout->plane_count; plane++)
		for (uint32_t layer = 0; layer < layout->layers; layer++)
			for (uint32_t head = 0; head < layout->heads; head++)
				for (uint32_t token = 0; token < work->sinks; token++) {
					size_t bytes = (size_t)layout->planes[plane].dims * layout->element_bytes;
					uint8_t *row = raw + kvci_layout_offset(layout, plane, layer, head, token);

					memcpy(store ? stored : row, store ? row : stored, bytes);
					stored += bytes;
				}
	return stored;
}

static size_t ecsq_sink_bytes(const struct ecsq_work *work)
{
	size_t bytes = 0;

	for (uint32_t plane = 0; plane < work->layout.plane_count; plane++)
		bytes += (size_t)ecsq_plane_values(&work->layout, plane) * work->layout.element_bytes * work->sinks;
	return bytes;
}

/* ---- encode ------------------------------------------------------------------------------------------------------------------ */

struct ecsq_encoder {
	struct ecsq_work *work;
	uint8_t *escapes, *escapes_end; /* where the next goes, and no further */
};

/* The codes of the symbols 0 among a piece's symbols of one segment and token. False: no room, or a code beyond all reason. */
static bool ecsq_escape_row(struct ecsq_encoder *encoder, const uint8_t *symbols, uint32_t count, const float *values, const float *mean,
                            const float *inverse)
{
	const uint8_t *at = symbols;

	while ((at = memchr(at, 0, (size_t)(symbols + count - at))) != NULL) {
		size_t i = (size_t)(at - symbols);
		int32_t code = kvci_ecsq_code(values[i], mean[i], inverse[i]);
		uint32_t zigzag = code < 0 ? (uint32_t)-code * 2 - 1 : (uint32_t)code * 2;

		if (code >= ECSQ_CODE_MAX || code <= -ECSQ_CODE_MAX || encoder->escapes_end - encoder->escapes < ECSQ_ESCAPE_BYTES_MAX)
			return false;
		for (; zigzag >= 0x80; zigzag >>= 7)
			*encoder->escapes++ = (uint8_t)(zigzag | 0x80);
		*encoder->escapes++ = (uint8_t)zigzag;
		at++;
	}
	return true;
}

/* Quiet rows of a piece are noted, and become what has the code 0. */
static void ecsq_keep(struct ecsq_work *work, const struct ecsq_segment *segment, uint32_t token, uint32_t count)
{
	uint32_t plane = (uint32_t)(segment->plane - work->layout.planes);

	for (uint32_t i = 0; i < count; i++)
		for (uint32_t layer = 0; layer < work->layout.layers; layer++) {
			float *row = work->values + (size_t)i * segment->values + (size_t)layer * segment->channels;

			if (work->kernel->square(row, segment->channels) >= segment->quiet[layer])
				continue;
			if (!ecsq_kept_add(&work->kept, &work->layout, plane, layer, token + i))
				return;
			memcpy(row, segment->mean + (size_t)layer * segment->channels, segment->channels * sizeof(*row));
		}
}

/* A piece's values, K without its position. False: they are not all finite. */
static bool ecsq_load(struct ecsq_work *work, const struct ecsq_segment *segment, const uint8_t *raw, uint32_t token, uint32_t count)
{
	bool good = true;

	for (uint32_t at = 0; at < segment->values; at += segment->plane->dims) {
		struct kvci_layout_rows rows = ecsq_rows(segment, work, at, token, count);

		good &= kvci_layout_load(&work->layout, raw, &rows, work->values + at, segment->values);
	}
	if (!good)
		return false;
	ecsq_turn(work, segment, KVCI_ROPE_BACK, segment->values, token, count);
	if (!work->kept.off)
		ecsq_keep(work, segment, token, count);
	return true;
}

/* A run's components, as sums. False: too far off for whole numbers. */
static bool ecsq_to_components(struct ecsq_work *work, struct ecsq_segment *segment, const uint8_t *raw, uint32_t token, uint32_t count)
{
	const double one = (double)ECSQ_WHOLE_ONE * KVCI_PROFILE_BASIS_ONE;
	const struct ecsq_kernel *kernel = work->kernel;
	double lengths[ECSQ_RUN];

	segment->whole_stride = ecsq_round(segment->values, 2);
	segment->sum_stride = ecsq_round(segment->values, ECSQ_PANEL);
	memset(segment->whole, 0, ecsq_round(count, ECSQ_PIECE) * segment->whole_stride * sizeof(*segment->whole));
	for (uint32_t done = 0; done < count; done += ECSQ_PIECE) {
		uint32_t piece = count - done < ECSQ_PIECE ? count - done : ECSQ_PIECE;

		if (!ecsq_load(work, segment, raw, token + done, piece) ||
		    !kernel->whole(work->values, segment->values, segment->mean, segment->inverse, segment->values, piece,
		                   segment->whole + done * segment->whole_stride, segment->whole_stride))
			return false;
	}
	for (uint32_t row = 0; row < count; row++) {
		lengths[row] = (double)kernel->length(segment->whole + row * segment->whole_stride, segment->values) / ECSQ_WHOLE_ONE / ECSQ_WHOLE_ONE;
		if (lengths[row] > ECSQ_LENGTH_MAX * ECSQ_LENGTH_MAX)
			return false;
	}
	kernel->multiply(segment->whole, segment->whole_stride, (uint32_t)ecsq_round(count, ECSQ_TOKENS_STEP), (uint32_t)segment->whole_stride / 2,
	                 segment->basis->to_components, segment->values, segment->symbols, segment->sums, segment->sum_stride);
	/* What is not coded should be no more than what rounding loses anyway; an outlier is. */
	for (uint32_t row = 0; row < count; row++)
		work->lost |= lengths[row] - kernel->length_wide(segment->sums + row * segment->sum_stride, segment->symbols) / one / one >
		              ECSQ_LOST_MAX * segment->values * (double)segment->step * (double)segment->step;
	return true;
}

/* Symbols and escapes of a piece that begins at row `done` of the run. */
static bool ecsq_encode_piece(struct ecsq_encoder *encoder, const uint8_t *raw, uint32_t token, uint32_t done, uint32_t count, uint8_t *symbols)
{
	struct ecsq_work *work = encoder->work;

	for (uint32_t i = 0; i < work->segment_count; i++) {
		const struct ecsq_segment *segment = &work->segments[i];
		const float *mean = segment->basis != NULL ? work->zeros : segment->mean;
		const float *inverse = segment->basis != NULL ? work->ones : segment->inverse;

		if (segment->basis != NULL)
			work->kernel->restore(segment->sums + done * segment->sum_stride, segment->sum_stride, work->zeros, segment->scale,
			                      segment->symbols, count, work->values, segment->values);
		else if (!ecsq_load(work, segment, raw, token + done, count))
			return false;
		work->kernel->quantise(work->values, segment->values, mean, inverse, work->limits + segment->first, segment->symbols, count,
		                       symbols + segment->first, work->row);
		for (uint32_t row = 0; row < count; row++)
			if (!ecsq_escape_row(encoder, symbols + (size_t)row * work->row + segment->first, segment->symbols,
			                     work->values + (size_t)row * segment->values, mean, inverse))
				return false;
	}
	return true;
}

static bool ecsq_encode_run(struct ecsq_encoder *encoder, const uint8_t *raw, uint32_t token, uint32_t count, uint8_t *symbols)
{
	struct ecsq_work *work = encoder->work;

	for (uint32_t i = 0; i < work->segment_count; i++)
		if (work->segments[i].basis != NULL && !ecsq_to_components(work, &work->segments[i], raw, token, count))
			return false;
	if (work->lost && !work->all)
		return true; /* to be done again */
	for (uint32_t done = 0; done < count; done += ECSQ_PIECE)
		if (!ecsq_encode_piece(encoder, raw, token, done, count - done < ECSQ_PIECE ? count - done : ECSQ_PIECE,
		                       symbols + (size_t)done * work->row))
			return false;
	return true;
}

/* Head, sinks, escapes, states and words; 0: no gain. */
static size_t ecsq_write(const struct ecsq_encoder *encoder, const uint8_t *raw, size_t raw_bytes, uint8_t *out, size_t out_bytes)
{
	struct ecsq_work *work = encoder->work;
	size_t escape_bytes = (size_t)(encoder->escapes - work->escapes), count = (size_t)work->row * (work->layout.tokens - work->sinks);
	size_t head = ECSQ_HEAD_BYTES + ecsq_sink_bytes(work) + ecsq_kept_bytes(&work->kept, &work->layout) + escape_bytes;
	uint32_t states[KVCI_RANS_STATES];
	uint8_t *at, *words;

	if (head + KVCI_RANS_STATES_BYTES >= raw_bytes)
		return 0;
	words = kvci_rans_encode_wide(work->profile->tables->encoder, &work->map, work->symbols, count, out + head + KVCI_RANS_STATES_BYTES, out + out_bytes, states);
	if (words == NULL)
		return 0;
	memset(out, 0, ECSQ_HEAD_BYTES);
	out[0] = ECSQ_VERSION;
	out[1] = (uint8_t)work->sinks;
	out[2] = work->all;
	ecsq_put_u32(out + 4, (uint32_t)work->profile->id);
	ecsq_put_f32(out + 8, work->segments[0].step);
	ecsq_put_f32(out + 12, work->segment_count == 2 ? work->segments[1].step : 0);
	ecsq_put_u32(out + 16, (uint32_t)escape_bytes);
	ecsq_put_u32(out + 20, work->kept.count);
	at = ecsq_sinks(work, (uint8_t *)(uintptr_t)raw, out + ECSQ_HEAD_BYTES, true);
	at = ecsq_kept_write(&work->kept, &work->layout, raw, work->values, at);
	memcpy(at, work->escapes, escape_bytes);
	at += escape_bytes;
	kvci_rans_states_write(states, at);
	at += KVCI_RANS_STATES_BYTES;
	memmove(at, words, (size_t)(out + out_bytes - words));
	return (size_t)(at - out) + (size_t)(out + out_bytes - words);
}

static float ecsq_step_of(const struct kvc_codec_params *params, bool is_k)
{
	float step = is_k || params->step_v == 0 ? params->step : params->step_v;

	step = step > ECSQ_STEP_LEAST ? step : ECSQ_STEP_LEAST;
	return step < ECSQ_STEP_MOST ? step : ECSQ_STEP_MOST;
}

/* All symbols and escapes. False: this part is to be stored raw. */
static bool ecsq_encode_all(struct ecsq_encoder *encoder, const uint8_t *raw)
{
	struct ecsq_work *work = encoder->work;

	ecsq_fit(work);
	for (uint32_t i = 0; i < work->segment_count; i++) {
		struct ecsq_segment *segment = &work->segments[i];
		float one = segment->basis != NULL ? (float)ECSQ_WHOLE_ONE : 1.0f / segment->step;

		for (uint32_t at = 0; at < segment->values; at++)
			segment->inverse[at] = one / segment->unit[at];
		for (uint32_t at = 0; segment->basis != NULL && at < segment->values; at++)
			segment->scale[at] = 1.0f / (segment->step * KVCI_PROFILE_BASIS_ONE * ECSQ_WHOLE_ONE);
		for (uint32_t layer = 0; layer < work->layout.layers; layer++)
			segment->quiet[layer] = ecsq_kept_limit(segment->plane->is_k, segment->mean + (size_t)layer * segment->channels,
			                                        segment->sigma + (size_t)layer * segment->channels, segment->channels);
	}
	work->kept.count = 0;
	encoder->escapes = work->escapes;
	encoder->escapes_end = work->escapes + ECSQ_ESCAPES_MAX;
	memset(work->symbols, ECSQ_SYMBOL_ZERO, (size_t)work->row * (work->layout.tokens - work->sinks));
	for (uint32_t token = work->sinks; token < work->layout.tokens; token += ECSQ_RUN) {
		uint32_t left = work->layout.tokens - token, count = left < ECSQ_RUN ? left : ECSQ_RUN;

		if (!ecsq_encode_run(encoder, raw, token, count, work->symbols + (size_t)(token - work->sinks) * work->row))
			return false;
		if (work->kept.full && !work->kept.off) {
			work->kept.off = true;
			return ecsq_encode_all(encoder, raw); /* once */
		}
		if (work->lost && !work->all) {
			work->all = true;
			return ecsq_encode_all(encoder, raw); /* once */
		}
	}
	return true;
}

static kvc_status_t ecsq_encode_any(const struct kvc_codec_part *part, const struct kvc_codec_params *params, bool pca, const uint8_t *raw,
                                    size_t raw_bytes, uint8_t *out, size_t out_bytes, void *scratch, size_t *ret_bytes)
{
	struct ecsq_encoder encoder;
	struct ecsq_work *work;
	size_t coded;

	if (out_bytes < ecsq_bound_bytes(part, raw_bytes))
		return KVC_INVALID;
	*ret_bytes = 0;
	if (!ecsq_plan(part, raw_bytes, pca, scratch, &work))
		return KVC_OK;
	work->sinks = kvci_layout_sinks(&work->layout, part->position_tokens, params->sinks < 255 ? params->sinks : 255);
	for (uint32_t i = 0; i < work->segment_count; i++)
		work->segments[i].step = ecsq_step_of(params, work->segments[i].plane->is_k);
	encoder.work = work;
	if (!ecsq_encode_all(&encoder, raw))
		return KVC_OK;
	coded = ecsq_write(&encoder, raw, raw_bytes, out, out_bytes);
	if (coded != 0 && coded < raw_bytes)
		*ret_bytes = coded;
	return KVC_OK;
}

static kvc_status_t ecsq_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_ecsq_ops.defaults;

	return ecsq_encode_any(part, params, false, raw, raw_bytes, out, out_bytes, scratch, ret_bytes);
}

static kvc_status_t ecsq_pca_encode(const struct kvc_codec_part *part, const void *raw, size_t raw_bytes, void *out, size_t out_bytes,
                                    void *scratch, size_t *ret_bytes)
{
	const struct kvc_codec_params *params = part->params != NULL ? part->params : &kvc_codec_ecsq_pca_ops.defaults;

	return ecsq_encode_any(part, params, true, raw, raw_bytes, out, out_bytes, scratch, ret_bytes);
}

/* ---- decode ------------------------------------------------------------------------------------------------------------------- */

/* A stream being read. */
struct ecsq_decoder {
	struct ecsq_work *work;
	struct kvci_rans_reader reader;
	const uint8_t *kept; /* rows, and behind them the escapes */
	const uint8_t *escapes, *escapes_end;
};

/* The next escape. False: there is none, or none that an encoder writes. */
static bool ecsq_escape(struct ecsq_decoder *decoder, int32_t *ret_code)
{
	uint32_t zigzag = 0, shift = 0, byte;

	do {
		if (decoder->escapes == decoder->escapes_end || shift > 21)
			return false;
		byte = *decoder->escapes++;
		zigzag |= (byte & 0x7f) << shift;
		shift += 7;
	} while ((byte & 0x80) != 0);
	if (zigzag >= 2 * ECSQ_CODE_MAX)
		return false;
	*ret_code = (zigzag & 1) != 0 ? -(int32_t)((zigzag + 1) / 2) : (int32_t)(zigzag / 2);
	return true;
}

/* Codes of the symbols 0, to values (ecsq) or to `whole` (components). */
static bool ecsq_escapes_row(struct ecsq_decoder *decoder, const struct ecsq_segment *segment, const uint8_t *symbols, float *values,
                             int16_t *whole)
{
	const uint8_t *at = symbols;

	while ((at = memchr(at, 0, (size_t)(symbols + segment->symbols - at))) != NULL) {
		size_t i = (size_t)(at - symbols);
		int32_t code;

		if (!ecsq_escape(decoder, &code))
			return false;
		if (whole == NULL)
			values[i] = segment->mean[i] + (float)code * segment->factor[i];
		else if (code > INT16_MAX || code < -INT16_MAX)
			return false;
		else
			whole[i] = (int16_t)code;
		at++;
	}
	return true;
}

/* Values of a piece, `width` a token from `first` on and in whole rows, to where they belong. */
static void ecsq_store(struct ecsq_work *work, const struct ecsq_segment *segment, uint32_t first, uint32_t width, uint32_t token,
                       uint32_t count, uint8_t *raw)
{
	ecsq_turn(work, segment, KVCI_ROPE_FORWARD, width, token, count);
	for (uint32_t at = 0; at < width; at += segment->plane->dims) {
		struct kvci_layout_rows rows = ecsq_rows(segment, work, first + at, token, count);

		kvci_layout_store(&work->layout, raw, &rows, work->values + at, width);
	}
}

/* How many values of a token to make of components at a time: rows and panels must begin there. */
static uint32_t ecsq_block(const struct ecsq_segment *segment)
{
	uint32_t dims = segment->plane->dims, least = dims % ECSQ_PANEL == 0 ? dims : ECSQ_PANEL;

	if (least % dims != 0)
		return segment->values;
	return least > ECSQ_BLOCK ? least : ECSQ_BLOCK / least * least;
}

static void ecsq_from_components(struct ecsq_work *work, const struct ecsq_segment *segment, uint32_t token, uint32_t count, uint8_t *raw)
{
	uint32_t block = ecsq_block(segment);
	size_t stride = ecsq_round(block < segment->values ? block : segment->values, ECSQ_PANEL);

	for (uint32_t at = 0; at < segment->values; at += block) {
		uint32_t width = segment->values - at < block ? segment->values - at : block;

		work->kernel->multiply(segment->whole, segment->whole_stride, (uint32_t)ecsq_round(count, ECSQ_TOKENS_STEP),
		                       (uint32_t)segment->whole_stride / 2,
		                       segment->basis->from_components + kvci_ecsq_matrix_at(segment->values, 0, at), segment->values, width,
		                       segment->sums, stride);
		for (uint32_t done = 0; done < count; done += ECSQ_PIECE) {
			uint32_t piece = count - done < ECSQ_PIECE ? count - done : ECSQ_PIECE;

			work->kernel->restore(segment->sums + done * stride, stride, segment->mean + at, segment->factor + at, width, piece,
			                      work->values, width);
			ecsq_store(work, segment, at, width, token + done, piece, raw);
		}
	}
}

/* The codes of a piece that begins at row `done` of the run. */
static bool ecsq_decode_codes(struct ecsq_decoder *decoder, struct ecsq_segment *segment, uint32_t done, uint32_t count)
{
	struct ecsq_work *work = decoder->work;
	const uint8_t *symbols = work->symbols + segment->first;

	segment->whole_stride = ecsq_round(segment->symbols, 2);
	memset(segment->whole + done * segment->whole_stride, 0, ECSQ_PIECE * segment->whole_stride * sizeof(*segment->whole));
	work->kernel->codes(symbols, work->row, segment->symbols, count, segment->whole + done * segment->whole_stride, segment->whole_stride);
	for (uint32_t row = 0; row < count; row++)
		if (!ecsq_escapes_row(decoder, segment, symbols + (size_t)row * work->row, NULL,
		                      segment->whole + (done + row) * segment->whole_stride))
			return false;
	return true;
}

static bool ecsq_decode_channels(struct ecsq_decoder *decoder, const struct ecsq_segment *segment, uint32_t token, uint32_t count, uint8_t *raw)
{
	struct ecsq_work *work = decoder->work;
	const uint8_t *symbols = work->symbols + segment->first;

	work->kernel->dequantise(symbols, work->row, segment->mean, segment->factor, segment->symbols, count, work->values, segment->values);
	for (uint32_t row = 0; row < count; row++)
		if (!ecsq_escapes_row(decoder, segment, symbols + (size_t)row * work->row, work->values + (size_t)row * segment->values, NULL))
			return false;
	ecsq_store(work, segment, 0, segment->values, token, count, raw);
	return true;
}

static kvc_status_t ecsq_decode_run(struct ecsq_decoder *decoder, uint32_t token, uint32_t count, uint8_t *raw)
{
	struct ecsq_work *work = decoder->work;

	for (uint32_t done = 0; done < count; done += ECSQ_PIECE) {
		uint32_t piece = count - done < ECSQ_PIECE ? count - done : ECSQ_PIECE;
		kvc_status_t status = kvci_rans_read(&decoder->reader, work->symbols, (size_t)piece * work->row);

		if (status != KVC_OK)
			return status;
		for (uint32_t i = 0; i < work->segment_count; i++) {
			struct ecsq_segment *segment = &work->segments[i];

			if (segment->basis != NULL ? !ecsq_decode_codes(decoder, segment, done, piece) :
			                             !ecsq_decode_channels(decoder, segment, token + done, piece, raw))
				return KVC_CORRUPT;
		}
	}
	for (uint32_t i = 0; i < work->segment_count; i++)
		if (work->segments[i].basis != NULL)
			ecsq_from_components(work, &work->segments[i], token, count, raw);
	return KVC_OK;
}

static bool ecsq_step_good(float step)
{
	return step >= ECSQ_STEP_LEAST && step <= ECSQ_STEP_MOST; /* not NaN */
}

/* Head and sinks; leaves the decoder at the escapes. */
static kvc_status_t ecsq_read_head(struct ecsq_decoder *decoder, const uint8_t *coded, size_t coded_bytes, uint8_t *raw)
{
	struct ecsq_work *work = decoder->work;
	const uint8_t *at = coded + ECSQ_HEAD_BYTES, *end = coded + coded_bytes;
	uint32_t escape_bytes;

	if (coded_bytes < ECSQ_HEAD_BYTES || coded[0] != ECSQ_VERSION || coded[2] > 1 || coded[3] != 0 ||
	    ecsq_get_u32(coded + 4) != (uint32_t)work->profile->id)
		return KVC_CORRUPT;
	work->sinks = coded[1];
	work->all = coded[2] != 0;
	escape_bytes = ecsq_get_u32(coded + 16);
	for (uint32_t i = 0; i < 2; i++) {
		float step = ecsq_get_f32(coded + 8 + (size_t)4 * i);

		if (i < work->segment_count ? !ecsq_step_good(step) : ecsq_get_u32(coded + 8 + (size_t)4 * i) != 0)
			return KVC_CORRUPT;
		work->segments[i].step = step;
	}
	if (work->sinks > work->layout.tokens || (size_t)(end - at) < ecsq_sink_bytes(work))
		return KVC_CORRUPT;
	at = ecsq_sinks(work, raw, (uint8_t *)(uintptr_t)at, false);
	work->kept.count = ecsq_get_u32(coded + 20);
	if (work->kept.count > ecsq_kept_most(&work->layout) || (size_t)(end - at) < ecsq_kept_bytes(&work->kept, &work->layout))
		return KVC_CORRUPT;
	decoder->kept = at;
	at += ecsq_kept_bytes(&work->kept, &work->layout);
	if ((size_t)(end - at) < escape_bytes)
		return KVC_CORRUPT;
	decoder->escapes = at;
	decoder->escapes_end = at + escape_bytes;
	return KVC_OK;
}

static kvc_status_t ecsq_decode_any(const struct kvc_codec_part *part, bool pca, const uint8_t *coded, size_t coded_bytes, uint8_t *raw,
                                    size_t raw_bytes, void *scratch)
{
	struct ecsq_decoder decoder = { 0 };
	struct ecsq_work *work;
	kvc_status_t status;

	if (!ecsq_plan(part, raw_bytes, pca, scratch, &work))
		return KVC_CORRUPT;
	decoder.work = work;
	status = ecsq_read_head(&decoder, coded, coded_bytes, raw);
	if (status != KVC_OK)
		return status;
	ecsq_fit(work);
	status = kvci_rans_read_begin_wide(&decoder.reader, work->profile->tables->decoder, &work->map, decoder.escapes_end, coded + coded_bytes);
	for (uint32_t token = work->sinks; token < work->layout.tokens && status == KVC_OK; token += ECSQ_RUN) {
		uint32_t left = work->layout.tokens - token;

		status = ecsq_decode_run(&decoder, token, left < ECSQ_RUN ? left : ECSQ_RUN, raw);
	}
	if (status == KVC_OK)
		status = kvci_rans_read_end(&decoder.reader);
	if (status == KVC_OK && !ecsq_kept_read(&work->kept, &work->layout, decoder.kept, work->values, raw))
		status = KVC_CORRUPT;
	return status == KVC_OK && decoder.escapes != decoder.escapes_end ? KVC_CORRUPT : status;
}

static kvc_status_t ecsq_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                void *scratch)
{
	return ecsq_decode_any(part, false, coded, coded_bytes, raw, raw_bytes, scratch);
}

static kvc_status_t ecsq_pca_decode(const struct kvc_codec_part *part, const void *coded, size_t coded_bytes, void *raw, size_t raw_bytes,
                                    void *scratch)
{
	return ecsq_decode_any(part, true, coded, coded_bytes, raw, raw_bytes, scratch);
}

/* ---- the codecs ----------------------------------------------------------------------------------------------------------------- */

/* The layers of the basis that begins with the part's; both planes of a fused part must have the same. */
static uint32_t ecsq_pca_span(const struct kvc_codec_part *part)
{
	const struct kvc_form *form = part->form;
	const struct kvci_profile_basis *basis;

	if (part->profile == NULL || !kvci_profile_fits(part->profile, form))
		return 1;
	basis = ecsq_basis(part->profile, part->is_k || form->arrangement != KVC_KV_SPLIT ? 0 : 1, part->layer);
	return basis == NULL || basis->first_layer != part->layer ? 1 : basis->layers;
}

const struct kvc_codec_ops kvc_codec_ecsq_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_ECSQ,
	.name = "ecsq",
	.needs_profile = true,
	.params = KVC_CODEC_PARAM_STEP | KVC_CODEC_PARAM_STEP_V | KVC_CODEC_PARAM_SINKS,
	.defaults = { .step = 0.26f, .sinks = 4 },
	.scratch_bytes = ecsq_scratch_bytes,
	.bound_bytes = ecsq_bound_bytes,
	.encode = ecsq_encode,
	.decode = ecsq_decode,
};

const struct kvc_codec_ops kvc_codec_ecsq_pca_ops = {
	.struct_bytes = sizeof(struct kvc_codec_ops),
	.abi_version = KVC_CODEC_ABI,
	.id = KVC_CODEC_ECSQ_PCA,
	.name = "ecsq+pca",
	.needs_profile = true,
	.params = KVC_CODEC_PARAM_STEP | KVC_CODEC_PARAM_STEP_V | KVC_CODEC_PARAM_SINKS,
	.defaults = { .step = 0.5f, .sinks = 4 },
	.span = ecsq_pca_span,
	.scratch_bytes = ecsq_pca_scratch_bytes,
	.bound_bytes = ecsq_bound_bytes,
	.encode = ecsq_pca_encode,
	.decode = ecsq_pca_decode,
};
