/* SPDX-License-Identifier: Apache-2.0
 *
 * Profiles: signs and exponents, counted a channel, and channels that are alike put into classes (k-means: a channel goes where its values cost the fewest
 * bits).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/profile_make.h"
#include "codec/split.h"

enum {
	EXPONENTS_CLASSES = KVCI_PROFILE_EXPONENT_CLASSES_MAX,
	EXPONENTS_ROUNDS = 12,
	EXPONENTS_RARE = 4096, /* one of so many is not worth two places in a table */
	EXPONENTS_ABOVE = 3,   /* the range goes on above the largest that was seen */
	EXPONENTS_CHANNELS_MAX = 1 << 20,
};

struct exponents_make {
	const struct kvci_profile_order *order;
	uint32_t layer_channels[2];
	size_t plane_channels[2], channels; /* of all layers; of both planes: V's behind K's */
	uint8_t base;
	uint16_t *counts; /* [channel][256] symbols */
	uint8_t *classes; /* of a channel */
	double *keys;
	uint32_t *order_of;
	uint32_t live_count; /* symbols that occur */
	uint8_t live[256];
	float costs[EXPONENTS_CLASSES][256];
	uint64_t sums[EXPONENTS_CLASSES][256];
};

/* The upper 16 bits of an element: sign, exponent, some of the mantissa. */
static uint32_t exponents_upper(const uint8_t *element, uint32_t element_bytes)
{
	return element[element_bytes - 2] | (uint32_t)element[element_bytes - 1] << 8;
}

/* All elements of the samples: the largest exponent, or, with counts, each in its channel. */
static uint32_t exponents_walk(struct exponents_make *make, bool count)
{
	uint32_t element_bytes = make->order->form.dtype == KVC_DTYPE_F32 ? 4 : 2, layers = make->order->form.layer_count, most = 0;

	for (uint32_t at = 0; at < make->order->sample_count; at++)
		for (uint32_t plane = 0; plane < 2; plane++) {
			const struct kvci_profile_sample *sample = &make->order->samples[at];
			const uint8_t *element = plane == 0 ? sample->k : sample->v;
			uint32_t width = make->layer_channels[plane];

			for (size_t row = 0; row < (size_t)layers * sample->tokens; row++)
				for (uint32_t i = 0; i < width; i++, element += element_bytes) {
					uint32_t upper = exponents_upper(element, element_bytes), exponent = upper >> 7 & 0xff;
					uint32_t above = exponent - make->base; /* below: very large */
					uint16_t *counter;

					most = exponent > most ? exponent : most;
					if (!count)
						continue;
					above = above < SPLIT_ESCAPE ? above : SPLIT_ESCAPE;
					counter = make->counts + (plane * make->plane_channels[0] + row / sample->tokens * width + i) * 256 +
					          (above | (upper >> 8 & 0x80));
					*counter += *counter != UINT16_MAX;
				}
		}
	return most;
}

static int exponents_compare(const void *a, const void *b, void *context)
{
	const double *keys = context;
	double first = keys[*(const uint32_t *)a], second = keys[*(const uint32_t *)b];

	return first < second ? -1 : first > second;
}

/* To begin with: by which sign is the usual one, then by the mean exponent, equally many a class. */
static void exponents_begin(struct exponents_make *make)
{
	for (size_t channel = 0; channel < make->channels; channel++) {
		const uint16_t *counts = make->counts + channel * 256;
		double total = 0, sum = 0, negative = 0;

		for (uint32_t symbol = 0; symbol < 256; symbol++) {
			total += counts[symbol];
			sum += (double)counts[symbol] * (symbol & 0x7f);
			negative += symbol >= 0x80 ? counts[symbol] : 0;
		}
		make->order_of[channel] = (uint32_t)channel;
		make->keys[channel] = total == 0 ? 0 : sum / total + 1000 * (negative > 0.35 * total) + 1000 * (negative > 0.65 * total);
	}
	qsort_r(make->order_of, make->channels, sizeof(*make->order_of), exponents_compare, make->keys);
	for (size_t i = 0; i < make->channels; i++)
		make->classes[make->order_of[i]] = (uint8_t)(i * EXPONENTS_CLASSES / make->channels);
}

static void exponents_sum(struct exponents_make *make)
{
	memset(make->sums, 0, sizeof(make->sums));
	for (size_t channel = 0; channel < make->channels; channel++) {
		const uint16_t *counts = make->counts + channel * 256;
		uint64_t *sums = make->sums[make->classes[channel]];

		for (uint32_t symbol = 0; symbol < 256; symbol++)
			sums[symbol] += counts[symbol];
	}
}

static void exponents_round(struct exponents_make *make)
{
	exponents_sum(make);
	for (uint32_t class = 0; class < EXPONENTS_CLASSES; class++) {
		double total = 0;

		for (uint32_t i = 0; i < make->live_count; i++)
			total += (double)make->sums[class][make->live[i]] + 0.5;
		for (uint32_t i = 0; i < make->live_count; i++)
			make->costs[class][i] = (float)log2(total / ((double)make->sums[class][make->live[i]] + 0.5));
	}
	for (size_t channel = 0; channel < make->channels; channel++) {
		float counts[256], best = INFINITY;

		for (uint32_t i = 0; i < make->live_count; i++)
			counts[i] = make->counts[channel * 256 + make->live[i]];
		for (uint32_t class = 0; class < EXPONENTS_CLASSES; class++) {
			float cost = 0;

			for (uint32_t i = 0; i < make->live_count; i++)
				cost += counts[i] * make->costs[class][i];
			if (cost < best) {
				best = cost;
				make->classes[channel] = (uint8_t)class;
			}
		}
	}
}

static void exponents_find_live(struct exponents_make *make)
{
	bool seen[256] = { false };

	for (size_t i = 0; i < make->channels * 256; i++)
		seen[i % 256] |= make->counts[i] != 0;
	for (uint32_t symbol = 0; symbol < 256; symbol++)
		if (seen[symbol])
			make->live[make->live_count++] = (uint8_t)symbol;
}

static void exponents_write_class(const uint64_t sums[256], struct kvci_profile_writer *writer)
{
	uint32_t counts[256] = { 0 }, first = 0, last = SPLIT_ESCAPE - 1;
	uint64_t total = 0;
	uint16_t frequencies[256];
	int shift = 0;

	for (uint32_t symbol = 0; symbol < 256; symbol++)
		total += sums[symbol];
	while (total >> shift > UINT32_MAX)
		shift++;
	while (first < last && (sums[first] + sums[first | 0x80]) * EXPONENTS_RARE <= total)
		first++;
	while (last > first && (sums[last] + sums[last | 0x80]) * EXPONENTS_RARE <= total)
		last--;
	for (uint32_t symbol = 0; symbol < 256; symbol++) {
		uint32_t above = symbol & 0x7f, to = above >= first && above <= last ? symbol : symbol | SPLIT_ESCAPE;

		counts[to] += (uint32_t)(sums[symbol] >> shift);
	}
	for (uint32_t above = first; above <= last; above++)
		for (uint32_t sign = 0; sign <= 0x80; sign += 0x80)
			counts[above | sign] += counts[above | sign] == 0;
	counts[SPLIT_ESCAPE] += counts[SPLIT_ESCAPE] == 0;
	counts[SPLIT_ESCAPE | 0x80] += counts[SPLIT_ESCAPE | 0x80] == 0;
	kvci_rans_normalise(counts, frequencies);
	kvci_profile_writer_u32(writer, first | last << 8);
	for (uint32_t sign = 0; sign <= 0x80; sign += 0x80)
		for (uint32_t above = first; above <= last + 1; above++) {
			uint16_t frequency = frequencies[sign | (above <= last ? above : (uint32_t)SPLIT_ESCAPE)];
			uint8_t bytes[2] = { (uint8_t)frequency, (uint8_t)(frequency >> 8) };

			kvci_profile_writer_put(writer, bytes, sizeof(bytes));
		}
}

static void exponents_write_all(struct exponents_make *make, struct kvci_profile_writer *writer)
{
	exponents_sum(make);
	kvci_profile_writer_section(writer, KVCI_PROFILE_EXPONENTS);
	kvci_profile_writer_u32(writer, EXPONENTS_CLASSES | (uint32_t)make->base << 8);
	for (uint32_t class = 0; class < EXPONENTS_CLASSES; class++)
		exponents_write_class(make->sums[class], writer);
	kvci_profile_writer_put(writer, make->classes, make->channels);
}

bool kvci_profile_exponents_write(const struct kvci_profile_order *order, struct kvci_profile_writer *writer)
{
	struct exponents_make *make = kvci_alloc_zero(1, sizeof(*make));
	bool complete = false;
	uint32_t most;

	if (make == NULL)
		return false;
	make->order = order;
	for (uint32_t plane = 0; plane < 2; plane++) {
		make->layer_channels[plane] = order->form.kv_heads * (plane == 0 ? order->form.head_dim_k : order->form.head_dim_v);
		make->plane_channels[plane] = (size_t)make->layer_channels[plane] * order->form.layer_count;
		make->channels += make->plane_channels[plane];
	}
	complete = (order->form.dtype != KVC_DTYPE_BF16 && order->form.dtype != KVC_DTYPE_F32) || make->channels > EXPONENTS_CHANNELS_MAX;
	if (complete)
		goto fail;
	make->counts = kvci_alloc_zero(make->channels, 256 * sizeof(*make->counts));
	make->classes = kvci_alloc_zero(make->channels, 1);
	make->keys = kvci_alloc_zero(make->channels, sizeof(*make->keys));
	make->order_of = kvci_alloc_zero(make->channels, sizeof(*make->order_of));
	if (make->counts == NULL || make->classes == NULL || make->keys == NULL || make->order_of == NULL)
		goto fail;
	most = exponents_walk(make, false) + EXPONENTS_ABOVE;
	make->base = (uint8_t)(most < SPLIT_ESCAPE ? 0 : most > 254 ? 254 - (SPLIT_ESCAPE - 1) : most - (SPLIT_ESCAPE - 1));
	exponents_walk(make, true);
	exponents_find_live(make);
	exponents_begin(make);
	for (int round = 0; round < EXPONENTS_ROUNDS; round++)
		exponents_round(make);
	exponents_write_all(make, writer);
	complete = true;
fail:
	kvci_free(make->counts);
	kvci_free(make->classes);
	kvci_free(make->keys);
	kvci_free(make->order_of);
	kvci_free(make);
	return complete;
}
