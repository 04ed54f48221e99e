/* SPDX-License-Identifier: Apache-2.0
 *
 * Codes of a quantiser: packed, or entropy-coded with channels in classes.
 */
#include "codec/codes.h"

#include <string.h>

#include "codec/quant.h"

enum {
	CODES_MEAN_STEPS = KVCI_RANS_MAP_KEYS / 256, /* a channel's mean counts in so many steps of one */
	CODES_SAMPLE = 16384, /* codes that are few to choose from: so many tell the tables */
	CODES_SAMPLE_BITS = 4,
	CODES_SUMS = 4, /* in turn: one need not wait for the one before it */
};

static bool codes_has_channels(const struct kvci_codes_shape *shape)
{
	return shape->dims % KVCI_RANS_GROUP == 0 && (uint64_t)shape->dims * shape->heads <= KVCI_CODES_CHANNELS_MAX;
}

static size_t codes_packed_bytes(const struct kvci_codes_shape *shape)
{
	return (kvci_codes_count(shape) + 7) / 8 * shape->bits;
}

size_t kvci_codes_bound(const struct kvci_codes_shape *shape)
{
	/* The entropy-coded form is only kept where it is shorter; it is tried with room for its model and a round of words to spare. */
	return KVCI_CODES_HEAD_BYTES + codes_packed_bytes(shape) + KVCI_CODES_CHANNELS_MAX / 4 * 5 +
	       KVCI_RANS_CLASSES_MAX * KVCI_RANS_TABLE_BYTES_MAX + (size_t)2 * KVCI_RANS_STATES_BYTES;
}

/* ---- models ------------------------------------------------------------------------------------------------------------- */

static void codes_model_shape(struct kvci_codes_model *model, const struct kvci_codes_shape *shape, uint32_t classes, bool centred)
{
	model->classes = classes;
	model->centred = centred;
	model->map = (struct kvci_rans_map){ .row = KVCI_RANS_GROUP, .repeat = 1, .heads = 1, .classes = model->channels };
	if (classes > 1) {
		model->map.row = shape->dims;
		model->map.repeat = shape->rows;
		model->map.heads = shape->heads;
	} else {
		memset(model->channels, 0, KVCI_RANS_GROUP * sizeof(*model->channels));
	}
}

/* Each channel's sum of what of its codes counts. */
static void codes_sums(const struct kvci_codes_shape *shape, const uint8_t *codes, uint8_t magnitude, bool fold, uint32_t *ret_sums)
{
	memset(ret_sums, 0, (size_t)shape->heads * shape->dims * sizeof(*ret_sums));
	for (uint32_t layer = 0; layer < shape->layers; layer++)
		for (uint32_t head = 0; head < shape->heads; head++, codes += (size_t)shape->rows * shape->dims)
			kvci_quant_kernel()->sums(codes, shape->rows, shape->dims, magnitude, fold,
			                            ret_sums + (size_t)head * shape->dims);
}

/* Takes each channel's mean off; 128 is the new middle. */
static void codes_centre(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, uint8_t *codes)
{
	uint32_t channels = shape->heads * shape->dims, visits = shape->layers * shape->rows;

	codes_sums(shape, codes, 0xff, false, writer->sums);
	for (uint32_t channel = 0; channel < channels; channel++)
		writer->model.offsets[channel] = (uint8_t)((writer->sums[channel] + visits / 2) / visits - 128);
	for (uint32_t layer = 0; layer < shape->layers; layer++)
		for (uint32_t head = 0; head < shape->heads; head++, codes += (size_t)shape->rows * shape->dims)
			kvci_quant_kernel()->take_off(codes, shape->rows, shape->dims, writer->model.offsets + (size_t)head * shape->dims);
}

/* The channels' classes by the means of what counts of their codes. */
static void codes_sort(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape)
{
	uint32_t channels = shape->heads * shape->dims, visits = shape->layers * shape->rows;
	struct kvci_codes_model *model = &writer->model;

	for (uint32_t channel = 0; channel < channels; channel++)
		model->channels[channel] = (uint16_t)(writer->sums[channel] * (uint64_t)CODES_MEAN_STEPS / visits);
	kvci_rans_map_sort(model->channels, channels, model->classes);
}

/* Binary logarithm, off by less than 0.001; of 0 some number. */
static float codes_log2(float value)
{
	uint32_t bits;
	float part;

	memcpy(&bits, &value, sizeof(bits));
	part = (float)((bits & 0x7fffff) | 0x800000) * 0x1p-23f;
	return (float)(int32_t)(bits >> 23) - 128.7417939f + (2.8212026f + (-1.4699568f + (0.44717955f - 0.056570851f * part) * part) * part) * part;
}

/* About how many bytes the words of one class are, of which these are a `share`, and its table. Of no symbol from `symbols` on, a multiple of 4, there are any. */
static size_t codes_predict(const uint32_t *counts, uint32_t symbols, float share)
{
	float bits[CODES_SUMS] = { 0 }, all = 0;
	uint32_t total = 0, used = 0;

	for (uint32_t symbol = 0; symbol < symbols; symbol += CODES_SUMS)
		for (uint32_t i = 0; i < CODES_SUMS; i++) {
			bits[i] += (float)counts[symbol + i] * codes_log2((float)counts[symbol + i]);
			total += counts[symbol + i];
			used += counts[symbol + i] != 0;
		}
	for (uint32_t i = 0; i < CODES_SUMS; i++)
		all += bits[i];
	return (size_t)(((float)total * codes_log2((float)total) - all) / 8 / share) + used + used / 16 + 2;
}

/* The classes' counts are there. Neighbours may share a table: sets how many classes are cheapest; their counts are returned. */
static const uint32_t *codes_merge(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, float share, size_t *ret_bytes)
{
	uint32_t channels = shape->heads * shape->dims, symbols = writer->model.centred ? 256 : 1u << shape->bits, best = 0, shift = 0;
	struct kvci_codes_model *model = &writer->model;
	const uint32_t *here = writer->counts.symbols[0], *counts = here;

	*ret_bytes = SIZE_MAX;
	for (uint32_t classes = model->classes, level = 0; classes >= 1; classes /= 2, level++) {
		size_t bytes = classes > 1 ? channels / 4 : 0;

		for (uint32_t i = 0; level != 0 && i < classes * 256; i++)
			writer->merged[level - 1][i] = here[i / 256 * 512 + i % 256] + here[i / 256 * 512 + 256 + i % 256];
		here = level != 0 ? writer->merged[level - 1] : here;
		for (uint32_t class = 0; class < classes; class++)
			bytes += codes_predict(here + (size_t)class * 256, symbols, share);
		if (bytes < *ret_bytes) {
			*ret_bytes = bytes;
			counts = here;
			best = classes;
			shift = level;
		}
	}
	for (uint32_t channel = 0; shift != 0 && best > 1 && channel < channels; channel++)
		model->channels[channel] = (uint16_t)(model->channels[channel] >> (KVCI_RANS_CLASS_SHIFT + shift) << KVCI_RANS_CLASS_SHIFT);
	if (best == 1)
		codes_model_shape(model, shape, 1, model->centred);
	model->classes = best;
	return counts;
}

static uint8_t *codes_model_write(const struct kvci_codes_model *model, const struct kvci_codes_shape *shape, uint8_t *at)
{
	uint32_t channels = shape->heads * shape->dims;

	if (model->centred) {
		memcpy(at, model->offsets, channels);
		at += channels;
	}
	if (model->classes > 1)
		at = kvci_rans_map_write(model->channels, channels, at);
	for (uint32_t class = 0; class < model->classes; class++)
		at += kvci_rans_table_write(model->frequencies[class], at);
	return at;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------- */

/* The channels' classes, and the counts of each. Of many codes of few bits a sample will do: every code is then allowed. Returns the counts and *ret_bytes, about how
 * many bytes model and words will be. */
static const uint32_t *codes_fit(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, const struct kvci_codes_choice *choice,
                                 const uint8_t *codes, bool sample, size_t *ret_bytes)
{
	struct kvci_codes_model *model = &writer->model;
	size_t count = kvci_codes_count(shape);
	size_t step = sample ? count / CODES_SAMPLE : 1;
	bool channels = codes_has_channels(shape);

	codes_model_shape(model, shape, channels ? choice->classes : 1, channels && choice->centre);
	if (model->classes > 1) {
		codes_sums(shape, codes, choice->magnitude, choice->fold, writer->sums);
		codes_sort(writer, shape);
	}
	kvci_rans_map_count(&model->map, model->classes, codes, count, step, 1, &writer->counts);
	for (uint32_t i = 0; sample && i < model->classes * 256; i++)
		writer->counts.symbols[0][i] += i % 256 >> shape->bits == 0;
	return codes_merge(writer, shape, 1 / (float)step, ret_bytes);
}

/* Model, states and words to out, which ends at `end`; 0: they are not shorter than `most`. */
static size_t codes_code(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, const uint32_t *counts, const uint8_t *codes,
                         uint8_t *out, uint8_t *end, size_t most)
{
	struct kvci_codes_model *model = &writer->model;
	uint32_t states[KVCI_RANS_STATES];
	uint8_t *at, *words;

	for (uint32_t class = 0; class < model->classes; class++)
		kvci_rans_normalise(counts + (size_t)class * 256, model->frequencies[class]);
	at = codes_model_write(model, shape, out);
	for (uint32_t class = 0; class < model->classes; class++)
		kvci_rans_encoder_set(&writer->encoder, class, model->frequencies[class]);
	words = kvci_rans_encode(&writer->encoder, &model->map, codes, kvci_codes_count(shape), at + KVCI_RANS_STATES_BYTES, end, states);
	if (words == NULL || (size_t)(at - out) + KVCI_RANS_STATES_BYTES + (size_t)(end - words) >= most)
		return 0;
	kvci_rans_states_write(states, at);
	at += KVCI_RANS_STATES_BYTES;
	memmove(at, words, (size_t)(end - words));
	return (size_t)(at - out) + (size_t)(end - words);
}

/* The entropy-coded form to out, which ends at `end`; 0: it is not shorter than the packed one. Where a sample was not like the rest, all is counted. */
static size_t codes_entropy(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, const struct kvci_codes_choice *choice,
                            uint8_t *codes, uint8_t *out, uint8_t *end)
{
	bool sample = shape->bits <= CODES_SAMPLE_BITS && kvci_codes_count(shape) >= 2 * CODES_SAMPLE;
	size_t packed = codes_packed_bytes(shape);

	writer->model.centred = codes_has_channels(shape) && choice->centre;
	if (writer->model.centred) {
		codes_centre(writer, shape, codes);
		sample = false;
	}
	for (;; sample = false) {
		size_t predicted, bytes;
		const uint32_t *counts = codes_fit(writer, shape, choice, codes, sample, &predicted);

		if (predicted + KVCI_RANS_STATES_BYTES >= packed + packed / 64) /* what is about as long is tried */
			bytes = 0;
		else
			bytes = codes_code(writer, shape, counts, codes, out + KVCI_CODES_HEAD_BYTES, end, packed);
		if (!sample || (bytes != 0 && bytes <= predicted + predicted / 64 + KVCI_RANS_STATES_BYTES))
			return bytes == 0 ? 0 : KVCI_CODES_HEAD_BYTES + bytes;
	}
}

size_t kvci_codes_write(struct kvci_codes_writer *writer, const struct kvci_codes_shape *shape, const struct kvci_codes_choice *choice,
                        uint8_t *codes, uint8_t *out)
{
	size_t count = kvci_codes_count(shape), bytes = 0;

	if (choice->entropy && count != 0)
		bytes = codes_entropy(writer, shape, choice, codes, out, out + kvci_codes_bound(shape));
	out[0] = bytes == 0 ? 0 : (uint8_t)writer->model.classes;
	out[1] = (uint8_t)shape->bits;
	out[2] = bytes != 0 && writer->model.centred;
	out[3] = 0;
	if (bytes != 0)
		return bytes;
	if (choice->entropy && count != 0 && writer->model.centred) { /* as they were */
		for (uint32_t channel = 0; channel < shape->heads * shape->dims; channel++)
			writer->model.offsets[channel] = (uint8_t)-writer->model.offsets[channel];
		for (size_t done = 0, head_codes = (size_t)shape->rows * shape->dims; done < count; done += head_codes)
			kvci_quant_kernel()->take_off(codes + done, shape->rows, shape->dims,
			                              writer->model.offsets + done / head_codes % shape->heads * shape->dims);
	}
	memset(codes + count, 0, 8);
	kvci_quant_kernel()->pack(shape->bits, codes, (count + 7) / 8, out + KVCI_CODES_HEAD_BYTES);
	return KVCI_CODES_HEAD_BYTES + codes_packed_bytes(shape);
}

/* ---- reading -------------------------------------------------------------------------------------------------------------- */

static kvc_status_t codes_model_read(struct kvci_codes_model *model, const struct kvci_codes_shape *shape, const uint8_t **bytes,
                                     const uint8_t *end)
{
	uint32_t channels = shape->heads * shape->dims;
	const uint8_t *at = *bytes;
	kvc_status_t status = KVC_OK;

	if ((model->centred || model->classes > 1) && !codes_has_channels(shape))
		return KVC_CORRUPT;
	if (model->centred) {
		if ((size_t)(end - at) < channels)
			return KVC_CORRUPT;
		memcpy(model->offsets, at, channels);
		at += channels;
	}
	if (model->classes > 1)
		status = kvci_rans_map_read(&at, end, model->classes, channels, model->channels);
	for (uint32_t class = 0; status == KVC_OK && class < model->classes; class++)
		status = kvci_rans_table_read(&at, end, model->frequencies[class]);
	*bytes = at;
	return status;
}

kvc_status_t kvci_codes_read_begin(struct kvci_codes_reader *reader, const struct kvci_codes_shape *shape, const uint8_t *stream, size_t bytes)
{
	const uint8_t *at = stream + KVCI_CODES_HEAD_BYTES, *end = stream + bytes;
	kvc_status_t status;

	if (bytes < KVCI_CODES_HEAD_BYTES || stream[0] > KVCI_RANS_CLASSES_MAX || stream[1] != shape->bits || stream[2] > 1 || stream[3] != 0)
		return KVC_CORRUPT;
	reader->shape = *shape;
	reader->left = kvci_codes_count(shape);
	reader->begin = reader->end = 0;
	reader->packed = NULL;
	reader->model.centred = stream[2] != 0;
	if (stream[0] == 0) {
		reader->packed = at;
		return stream[2] == 0 && (size_t)(end - at) == codes_packed_bytes(shape) ? KVC_OK : KVC_CORRUPT;
	}
	if (reader->left == 0)
		return KVC_CORRUPT;
	codes_model_shape(&reader->model, shape, stream[0], reader->model.centred);
	status = codes_model_read(&reader->model, shape, &at, end);
	if (status != KVC_OK)
		return status;
	for (uint32_t class = 0; class < reader->model.classes; class++)
		kvci_rans_decoder_set(&reader->decoder, class, reader->model.frequencies[class]);
	return kvci_rans_read_begin(&reader->rans, &reader->decoder, &reader->model.map, at, end);
}

/* Codes behind those in the buffer, in whole rounds until the last: at least `count` then lie there. */
static kvc_status_t codes_fill(struct kvci_codes_reader *reader, size_t count)
{
	size_t here = reader->end - reader->begin, want;
	kvc_status_t status = KVC_OK;

	memmove(reader->buffer, reader->buffer + reader->begin, here);
	want = (count - here + KVCI_RANS_STATES - 1) / KVCI_RANS_STATES * KVCI_RANS_STATES;
	want = want < reader->left ? want : reader->left;
	if (reader->packed == NULL) {
		status = kvci_rans_read(&reader->rans, reader->buffer + here, want);
	} else {
		kvci_quant_kernel()->unpack(reader->shape.bits, reader->packed, (want + 7) / 8, reader->buffer + here);
		reader->packed += want / 8 * reader->shape.bits;
	}
	reader->begin = 0;
	reader->end = here + want;
	reader->left -= want;
	return status;
}

const uint8_t *kvci_codes_read(struct kvci_codes_reader *reader, uint32_t head, uint32_t rows)
{
	size_t count = (size_t)rows * reader->shape.dims;
	uint8_t *codes;

	if (reader->packed != NULL && reader->shape.bits == 8) { /* as they lie */
		reader->packed += count;
		return reader->packed - count;
	}
	if (reader->end - reader->begin < count && codes_fill(reader, count) != KVC_OK)
		return NULL;
	codes = reader->buffer + reader->begin;
	reader->begin += count;
	if (reader->model.centred)
		kvci_quant_kernel()->put_on(codes, rows, reader->shape.dims, reader->model.offsets + (size_t)head * reader->shape.dims);
	return codes;
}

kvc_status_t kvci_codes_read_end(const struct kvci_codes_reader *reader)
{
	return reader->packed != NULL ? KVC_OK : kvci_rans_read_end(&reader->rans);
}
