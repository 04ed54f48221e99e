/* SPDX-License-Identifier: Apache-2.0
 *
 * split: by which table each channel is coded.
 *
 * The exponents of a channel (one dimension of one head of K or V) are alike, those of different channels are not: their mean
 * tells most of it. So the channels are sorted by it into up to four classes of equally many, with a table each: on real K 0.3 bits a value less than
 * one table for all, for two bits a channel and part. More classes gain little, and their decoding tables would leave the fastest cache.
 */
#include <math.h>
#include <string.h>

#include "codec/split.h"

enum {
	MODEL_KEYS = 4096,        /* means in steps of 1/16 */
	MODEL_ROWS = 64,
	MODEL_TWO_FROM = 4096,    /* symbols: below, one class */
	MODEL_FOUR_FROM = 16384,
	MODEL_SAMPLE = 16384,     /* symbols: so many tell the tables; of more only every so many-th token's are counted */
	MODEL_SPARSE_FROM = 8192, /* symbols: of parts from here to twice MODEL_SAMPLE a quarter of each row is counted, in turn */
	MODEL_SPARSE = 4,
	MODEL_APART = 102,        /* of two classes' channels: variance of the means, in steps of 1/16 squared, from which they are apart; chance gives 30 */
	MODEL_HEAD_BYTES = 12,
	MODEL_VERSION = 1,
};

static uint32_t model_channels(const struct split_model *model)
{
	return model->map.row * model->map.heads;
}

static void model_flat(struct split_model *model)
{
	model->map = (struct kvci_rans_map){ .row = KVCI_RANS_GROUP, .repeat = 1, .heads = 1, .classes = model->channels };
}

void split_model_shape(struct split_model *model, const struct kvc_form *form, bool is_k)
{
	struct kvci_rans_map *map = &model->map;
	bool by_token = form->order == KVC_ORDER_NH || form->arrangement == KVC_KV_LATENT;

	model_flat(model);
	map->heads = form->kv_heads;
	map->repeat = by_token ? 1 : form->engine_block_tokens;
	map->row = form->arrangement == KVC_KV_FUSED ? form->head_dim_k + form->head_dim_v :
	           form->arrangement == KVC_KV_LATENT || is_k ? form->head_dim_k : form->head_dim_v;
	if (map->row % KVCI_RANS_GROUP != 0 && by_token && map->row <= SPLIT_CHANNELS_MAX && map->heads <= SPLIT_CHANNELS_MAX) {
		map->row *= map->heads;
		map->heads = 1;
	}
	if ((uint64_t)map->row * map->heads > SPLIT_CHANNELS_MAX) { /* the heads share their channels' classes */
		map->heads = 1;
		map->repeat = 1;
	}
	/* Bytes behind each page shift what follows. */
	if (map->row % KVCI_RANS_GROUP != 0 || map->row == 0 || map->row > SPLIT_CHANNELS_MAX || form->page_extra_bytes != 0)
		model_flat(model);
}

/* The rows of every `step`-th token, one after another. */
struct model_rows {
	const struct kvci_rans_map *map;
	const uint8_t *symbols;
	size_t count, step, token;
	size_t first;  /* the token's first row, of head 0 */
	uint32_t head; /* the next one's */
};

static void model_rows_begin(struct model_rows *rows, const struct split_model *model, const uint8_t *symbols, size_t count, size_t step)
{
	*rows = (struct model_rows){ .map = &model->map, .symbols = symbols, .count = count, .step = step };
}

/* NULL: that was the last one. */
static const uint8_t *model_rows_next(struct model_rows *rows, uint32_t *ret_channel, size_t *ret_length)
{
	const struct kvci_rans_map *map = rows->map;
	size_t at = (rows->first + (size_t)rows->head * map->repeat) * map->row;

	/* Of pages where a head's rows follow one another the last one may be cut: then only the first heads have rows there. */
	if (rows->head == map->heads || at >= rows->count) {
		rows->token += rows->step;
		rows->first = rows->token / map->repeat * map->repeat * map->heads + rows->token % map->repeat;
		rows->head = 0;
		at = rows->first * map->row;
	}
	if (at >= rows->count)
		return NULL;
	*ret_channel = rows->head++ * map->row;
	*ret_length = rows->count - at < map->row ? rows->count - at : map->row;
	return rows->symbols + at;
}

/* Means need no more than about MODEL_ROWS rows of each head. A row that is cut short counts as far as whole groups go. */
static void model_sums(const struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count,
                       uint8_t magnitude)
{
	uint32_t channels = model_channels(model), channel;
	const struct split_kernel *kernel = split_kernel();
	struct model_rows rows;
	const uint8_t *row;
	size_t length;

	memset(counts->sums, 0, channels * sizeof(*counts->sums));
	memset(counts->visits, 0, channels / KVCI_RANS_GROUP * sizeof(*counts->visits));
	model_rows_begin(&rows, model, symbols, count, 1 + count / channels / MODEL_ROWS);
	while ((row = model_rows_next(&rows, &channel, &length)) != NULL) {
		kernel->sums(row, length / KVCI_RANS_GROUP, magnitude, counts->sums + channel);
		for (uint32_t group = 0; group < length / KVCI_RANS_GROUP; group++)
			counts->visits[channel / KVCI_RANS_GROUP + group]++;
	}
}

/* The channels in the order of their means, cut into classes of equally many. Equal means share a class. Two classes are one where the means are hardly
 * apart: pages that are packed across tokens and channels, of a layout that the form does not tell, have none. */
static void model_classes(struct split_model *model, const struct split_counts *counts)
{
	uint32_t channels = model_channels(model), below = 0, least = MODEL_KEYS - 1, most = 0;
	uint64_t sum = 0, squares = 0;
	uint16_t keys[MODEL_KEYS] = { 0 }; /* first how many channels, then their class */

	for (uint32_t channel = 0; channel < channels; channel++) {
		uint32_t visits = counts->visits[channel / KVCI_RANS_GROUP];
		uint32_t key = visits == 0 ? 0 : counts->sums[channel] * 16 / visits; /* of about MODEL_ROWS bytes: far below 2^28 */

		model->channels[channel] = (uint16_t)key;
		keys[key]++;
		least = key < least ? key : least;
		most = key > most ? key : most;
		sum += key;
		squares += (uint64_t)key * key;
	}
	if (model->classes == 2 && squares * channels - sum * sum < (uint64_t)MODEL_APART * channels * channels) {
		model->classes = 1;
		memset(model->channels, 0, channels * sizeof(model->channels[0]));
		return;
	}
	for (uint32_t key = least; key <= most; key++) {
		uint32_t here = keys[key], class;

		if (here == 0)
			continue;
		class = (below + here / 2) * model->classes / channels;
		keys[key] = (uint16_t)((class < model->classes ? class : model->classes - 1) << KVCI_RANS_CLASS_SHIFT);
		below += here;
	}
	for (uint32_t channel = 0; channel < channels; channel++)
		model->channels[channel] = keys[model->channels[channel]];
}

/* One row, or of every `sparse` times four symbols four, from the `first` four on. Two counters in turn: one increment need not wait for the one
 * before it when the symbol is the same. Four at once, from two loads. */
static void model_count_row(struct split_counts *counts, const uint16_t *restrict classes, const uint8_t *restrict from, size_t length,
                            size_t sparse, size_t first)
{
	uint32_t *restrict even = counts->symbols[0], *restrict odd = counts->symbols[1];
	size_t i;

	for (i = 4 * first; i + 4 <= length; i += 4 * sparse) {
		uint32_t four;
		uint64_t four_classes;

		memcpy(&four, from + i, sizeof(four));
		memcpy(&four_classes, classes + i, sizeof(four_classes));
		even[(four_classes & 0xffff) | (four & 0xff)]++;
		odd[(four_classes >> 16 & 0xffff) | (four >> 8 & 0xff)]++;
		even[(four_classes >> 32 & 0xffff) | (four >> 16 & 0xff)]++;
		odd[four_classes >> 48 | four >> 24]++;
	}
	for (; sparse == 1 && i < length; i++)
		even[classes[i] | from[i]]++;
}

/* How often each class has each symbol, by the rows of every `step`-th token, of these one of `sparse` symbols. */
static void model_histogram(const struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count, size_t step,
                            size_t sparse)
{
	size_t length, first = 0;
	struct model_rows rows;
	const uint8_t *row;
	uint32_t channel;

	for (int i = 0; i < 2; i++)
		memset(counts->symbols[i], 0, (size_t)model->classes * 256 * sizeof(counts->symbols[i][0]));
	model_rows_begin(&rows, model, symbols, count, step);
	while ((row = model_rows_next(&rows, &channel, &length)) != NULL)
		model_count_row(counts, model->channels + channel, row, length, sparse, first++ % sparse);
	for (uint32_t i = 0; i < model->classes * 256; i++)
		counts->symbols[0][i] += counts->symbols[1][i];
}

/* What was not counted may have any symbol in the range of all. */
static void model_allow(const struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count, uint8_t magnitude)
{
	struct split_range range;

	split_kernel()->range(symbols, count, magnitude, &range);
	for (uint32_t i = 0; i < model->classes * 256; i++) {
		uint8_t symbol = i & magnitude;

		if ((symbol >= range.least && symbol <= range.most) || (symbol == 0 && range.has_0))
			counts->symbols[0][i] += counts->symbols[0][i] == 0;
	}
}

bool split_model_fit(struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count, uint8_t magnitude, bool sample)
{
	size_t step = 1, sparse = 1;

	model->classes = count < MODEL_TWO_FROM ? 1 : count < MODEL_FOUR_FROM ? 2 : KVCI_RANS_CLASSES_MAX;
	if (model_channels(model) <= KVCI_RANS_GROUP)
		model->classes = 1;
	if (model->classes == 1) {
		model_flat(model);
		memset(model->channels, 0, KVCI_RANS_GROUP * sizeof(*model->channels));
	} else {
		model_sums(model, counts, symbols, count, magnitude);
		model_classes(model, counts);
		/* Coded bytes with bits of a mantissa are too many to allow all that are in their range. */
		if (sample && magnitude == 0xff && count >= 2 * MODEL_SAMPLE)
			step = count / MODEL_SAMPLE;
		else if (sample && magnitude == 0xff && count >= MODEL_SPARSE_FROM)
			sparse = MODEL_SPARSE;
	}
	model_histogram(model, counts, symbols, count, step, sparse);
	if (step != 1 || sparse != 1)
		model_allow(model, counts, symbols, count, magnitude);
	for (uint32_t class = 0; class < model->classes; class++)
		kvci_rans_normalise(counts->symbols[0] + (size_t)class * 256, model->frequencies[class]);
	return step != 1 || sparse != 1;
}

size_t split_model_predict(const struct split_model *model, const struct split_counts *counts, size_t count)
{
	double bits = 0, counted = 0;

	for (uint32_t class = 0; class < model->classes; class++)
		for (uint32_t symbol = 0; symbol < 256; symbol++) {
			uint32_t here = counts->symbols[0][class * 256 + symbol];

			counted += here;
			if (here != 0)
				bits += here * (double)(KVCI_RANS_BITS - log2f(model->frequencies[class][symbol]));
		}
	return counted == 0 ? 0 : (size_t)(bits / 8 * (double)count / counted);
}

size_t split_model_bytes_max(const struct split_model *model)
{
	return MODEL_HEAD_BYTES + model_channels(model) / 4 + (size_t)model->classes * KVCI_RANS_TABLE_BYTES_MAX;
}

static void model_put16(uint8_t *out, uint32_t value)
{
	out[0] = (uint8_t)value;
	out[1] = (uint8_t)(value >> 8);
}

static uint32_t model_get16(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8;
}

size_t split_model_write(const struct split_model *model, uint8_t *out)
{
	uint8_t *at = out + MODEL_HEAD_BYTES;
	uint32_t channels = model_channels(model);

	out[0] = MODEL_VERSION;
	out[1] = (uint8_t)model->classes;
	model_put16(out + 2, model->map.row / KVCI_RANS_GROUP);
	model_put16(out + 4, model->map.heads);
	model_put16(out + 6, 0);
	model_put16(out + 8, model->map.repeat);
	model_put16(out + 10, model->map.repeat >> 16);
	if (model->classes > 1)
		for (uint32_t channel = 0; channel < channels; channel += 4) {
			uint32_t packed = 0;

			for (uint32_t i = 0; i < 4; i++)
				packed |= (uint32_t)(model->channels[channel + i] >> KVCI_RANS_CLASS_SHIFT) << 2 * i;
			*at++ = (uint8_t)packed;
		}
	for (uint32_t class = 0; class < model->classes; class++)
		at += kvci_rans_table_write(model->frequencies[class], at);
	return (size_t)(at - out);
}

static kvc_status_t model_read_channels(struct split_model *model, const uint8_t **bytes, const uint8_t *end)
{
	uint32_t channels = model_channels(model), worst = 0;
	const uint8_t *at = *bytes;

	if (model->classes == 1) {
		memset(model->channels, 0, channels * sizeof(*model->channels));
		return KVC_OK;
	}
	if ((size_t)(end - at) < channels / 4)
		return KVC_CORRUPT;
	for (uint32_t channel = 0; channel < channels; channel++) {
		uint32_t class = at[channel / 4] >> 2 * (channel % 4) & 3;

		model->channels[channel] = (uint16_t)(class << KVCI_RANS_CLASS_SHIFT);
		worst = class > worst ? class : worst;
	}
	*bytes = at + channels / 4;
	return worst < model->classes ? KVC_OK : KVC_CORRUPT;
}

kvc_status_t split_model_read(struct split_model *model, const uint8_t **bytes, const uint8_t *end)
{
	const uint8_t *at = *bytes;
	kvc_status_t status;

	if (end - at < MODEL_HEAD_BYTES || at[0] != MODEL_VERSION || model_get16(at + 6) != 0)
		return KVC_CORRUPT;
	model->classes = at[1];
	model->map = (struct kvci_rans_map){
		.row = model_get16(at + 2) * KVCI_RANS_GROUP, .heads = model_get16(at + 4),
		.repeat = model_get16(at + 8) | model_get16(at + 10) << 16, .classes = model->channels,
	};
	if (model->classes == 0 || model->classes > KVCI_RANS_CLASSES_MAX || model->map.row == 0 || model->map.heads == 0 ||
	    model->map.repeat == 0 || (uint64_t)model->map.row * model->map.heads > SPLIT_CHANNELS_MAX)
		return KVC_CORRUPT;
	at += MODEL_HEAD_BYTES;
	status = model_read_channels(model, &at, end);
	for (uint32_t class = 0; status == KVC_OK && class < model->classes; class++)
		status = kvci_rans_table_read(&at, end, model->frequencies[class]);
	*bytes = at;
	return status;
}
