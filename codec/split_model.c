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

/* Means need no more than about MODEL_ROWS rows of each head. A row that is cut short counts as far as whole groups go. */
static void model_sums(const struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count,
                       uint8_t magnitude)
{
	uint32_t channels = model_channels(model), channel;
	const struct split_kernel *kernel = split_kernel();
	struct kvci_rans_rows rows;
	const uint8_t *row;
	size_t length;

	memset(counts->sums, 0, channels * sizeof(*counts->sums));
	memset(counts->visits, 0, channels / KVCI_RANS_GROUP * sizeof(*counts->visits));
	rows = kvci_rans_rows(&model->map, symbols, count, 1 + count / channels / MODEL_ROWS);
	while ((row = kvci_rans_rows_next(&rows, &channel, &length)) != NULL) {
		kernel->sums(row, length / KVCI_RANS_GROUP, magnitude, counts->sums + channel);
		for (uint32_t group = 0; group < length / KVCI_RANS_GROUP; group++)
			counts->visits[channel / KVCI_RANS_GROUP + group]++;
	}
}

/* The channels' classes by their means. Two classes are one where the means are hardly apart: pages that are packed across tokens and channels, of a layout that
 * the form does not tell, have none. */
static void model_classes(struct split_model *model, const struct split_counts *counts)
{
	uint32_t channels = model_channels(model);
	uint64_t sum = 0, squares = 0;

	for (uint32_t channel = 0; channel < channels; channel++) {
		uint32_t visits = counts->visits[channel / KVCI_RANS_GROUP];
		uint32_t key = visits == 0 ? 0 : counts->sums[channel] * 16 / visits; /* of about MODEL_ROWS bytes: far below 2^28 */

		model->channels[channel] = (uint16_t)key;
		sum += key;
		squares += (uint64_t)key * key;
	}
	if (model->classes == 2 && squares * channels - sum * sum < (uint64_t)MODEL_APART * channels * channels) {
		model->classes = 1;
		memset(model->channels, 0, channels * sizeof(model->channels[0]));
		return;
	}
	kvci_rans_map_sort(model->channels, channels, model->classes);
}

/* What was not counted may have any symbol in the range of all. Of symbols that are magnitudes. */
static void model_allow(const struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count)
{
	struct split_range range;

	split_kernel()->range(symbols, count, 0xff, &range);
	for (uint32_t class = 0; class < model->classes; class++) {
		uint32_t *here = counts->found.symbols[0] + (size_t)class * 256;

		here[0] += range.has_0 && here[0] == 0;
		for (uint32_t symbol = range.least; symbol <= range.most; symbol++)
			here[symbol] += here[symbol] == 0;
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
	kvci_rans_map_count(&model->map, model->classes, symbols, count, step, sparse, &counts->found);
	if (step != 1 || sparse != 1)
		model_allow(model, counts, symbols, count);
	for (uint32_t class = 0; class < model->classes; class++)
		kvci_rans_normalise(counts->found.symbols[0] + (size_t)class * 256, model->frequencies[class]);
	return step != 1 || sparse != 1;
}

size_t split_model_predict(const struct split_model *model, const struct split_counts *counts, size_t count)
{
	double bits = 0;
	uint64_t counted = 0;

	for (uint32_t class = 0; class < model->classes; class++)
		for (uint32_t symbol = 0; symbol < 256; symbol++) {
			uint32_t here = counts->found.symbols[0][class * 256 + symbol];

			counted += here;
			if (here != 0)
				bits += here * (double)(KVCI_RANS_BITS - log2f(model->frequencies[class][symbol]));
		}
	return counted == 0 ? 0 : (size_t)(bits / 8 * (double)count / (double)counted);
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

	out[0] = MODEL_VERSION;
	out[1] = (uint8_t)model->classes;
	model_put16(out + 2, model->map.row / KVCI_RANS_GROUP);
	model_put16(out + 4, model->map.heads);
	model_put16(out + 6, 0);
	model_put16(out + 8, model->map.repeat);
	model_put16(out + 10, model->map.repeat >> 16);
	if (model->classes > 1)
		at = kvci_rans_map_write(model->channels, model_channels(model), at);
	for (uint32_t class = 0; class < model->classes; class++)
		at += kvci_rans_table_write(model->frequencies[class], at);
	return (size_t)(at - out);
}

kvc_status_t split_model_read(struct split_model *model, const uint8_t **bytes, const uint8_t *end)
{
	const uint8_t *at = *bytes;
	kvc_status_t status = KVC_OK;

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
	if (model->classes > 1)
		status = kvci_rans_map_read(&at, end, model->classes, model_channels(model), model->channels);
	else
		memset(model->channels, 0, model_channels(model) * sizeof(*model->channels));
	for (uint32_t class = 0; status == KVC_OK && class < model->classes; class++)
		status = kvci_rans_table_read(&at, end, model->frequencies[class]);
	*bytes = at;
	return status;
}
