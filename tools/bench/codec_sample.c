/* SPDX-License-Identifier: Apache-2.0
 *
 * The made sample follows what was measured on real KV of a small model: within a channel (a dimension of a head in a layer) values are about
 * normal; channels differ in scale by a power of two that is itself about normal (K more than V, and K has channels far off
 * zero); V's tokens differ in scale, too. That gives about the exponents' entropies of real KV: 2.7 bits in a layer, 2.3 (K) and 2.5 (V) in a channel.
 */
#include "tools/bench/codec_sample.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/profile.h"
#include "tools/bench/bench.h"

enum { SAMPLE_LAYERS = 12, SAMPLE_TOKENS = 1024, SAMPLE_HEADS = 3, SAMPLE_DIMS = 64, SAMPLE_HEAD_BYTES_MAX = 4096 };

uint64_t codec_sample_bytes(const struct codec_sample *sample)
{
	return (uint64_t)2 * sample->layers * sample->tokens * sample->heads * sample->dims;
}

void codec_sample_fini(struct codec_sample *sample)
{
	kvci_free(sample->values);
	*sample = (struct codec_sample){ 0 };
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

/* The header is a Python dict in words: {'descr': '<u2', 'fortran_order': False, 'shape': (30, 1024, 3, 64), } */
static bool sample_head(const char *head, struct codec_sample *sample)
{
	const char *shape = strstr(head, "'shape'");

	return strstr(head, "'<u2'") != NULL && strstr(head, "False") != NULL && shape != NULL &&
	       sscanf(shape, "'shape': (%u, %u, %u, %u)", &sample->layers, &sample->tokens, &sample->heads, &sample->dims) == 4 &&
	       sample->layers != 0 && sample->tokens != 0 && sample->heads != 0 && sample->dims != 0 && sample->layers <= 1024 &&
	       sample->tokens <= 1 << 20 && sample->heads <= 1024 && sample->dims <= 4096 && codec_sample_bytes(sample) <= UINT32_MAX;
}

static kvc_status_t sample_read(FILE *file, struct codec_sample *sample)
{
	uint8_t start[10];
	char head[SAMPLE_HEAD_BYTES_MAX + 1];
	size_t head_bytes, count;

	if (fread(start, 1, sizeof(start), file) != sizeof(start) || memcmp(start, "\x93NUMPY\x01", 7) != 0)
		return KVC_INVALID;
	head_bytes = start[8] | (size_t)start[9] << 8;
	if (head_bytes > SAMPLE_HEAD_BYTES_MAX || fread(head, 1, head_bytes, file) != head_bytes)
		return KVC_INVALID;
	head[head_bytes] = '\0';
	if (!sample_head(head, sample))
		return KVC_INVALID;
	count = codec_sample_bytes(sample) / 2;
	sample->values = kvci_alloc(2 * count);
	if (sample->values == NULL)
		return KVC_NO_MEMORY;
	return fread(sample->values, 2, count, file) == count ? KVC_OK : KVC_INVALID;
}

kvc_status_t codec_sample_read(const char *path, struct codec_sample *ret_sample)
{
	struct codec_sample sample = { 0 };
	FILE *file = fopen(path, "re");
	kvc_status_t status;

	if (file == NULL) {
		bench_note("%s: %s", path, strerror(errno));
		return KVC_INVALID;
	}
	status = sample_read(file, &sample);
	fclose(file);
	if (status != KVC_OK) {
		if (status == KVC_INVALID)
			bench_note("%s is no .npy file (format 1) of uint16 [layers, tokens, heads, dims]", path);
		codec_sample_fini(&sample);
		return status;
	}
	*ret_sample = sample;
	return KVC_OK;
}

kvc_status_t codec_profile_read(const char *path, struct kvc_profile **ret_profile)
{
	FILE *file = fopen(path, "re");
	uint8_t *bytes = NULL;
	kvc_status_t status = KVC_INVALID;
	long length = -1;

	if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
		bytes = kvci_alloc((size_t)length + 1);
		if (bytes == NULL)
			status = KVC_NO_MEMORY;
		else if (fread(bytes, 1, (size_t)length, file) == (size_t)length)
			status = kvci_profile_read(bytes, (size_t)length, ret_profile);
	}
	if (file != NULL)
		fclose(file);
	kvci_free(bytes);
	if (status != KVC_OK)
		bench_note("%s: %s", path, length < 0 ? "cannot be read" : kvc_status_text(status));
	return status;
}

/* ---- made ----------------------------------------------------------------------------------------------------------- */

/* Twelve uniform numbers are normal enough, and the same everywhere. */
static float sample_normal(uint64_t *state)
{
	float sum = 0;

	for (int i = 0; i < 3; i++) {
		uint64_t random = bench_random(state);

		for (int part = 0; part < 4; part++, random >>= 16)
			sum += (float)(random & 0xffff) / 65536;
	}
	return sum - 6;
}

static uint16_t sample_bf16(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void sample_layer(int is_k, uint64_t *state, uint16_t *values)
{
	enum { CHANNELS = SAMPLE_HEADS * SAMPLE_DIMS };
	float scale[CHANNELS], offset[CHANNELS];

	for (int channel = 0; channel < CHANNELS; channel++) {
		scale[channel] = exp2f((is_k ? 0.64f : 0.40f) * sample_normal(state));
		offset[channel] = is_k && bench_random(state) % 12 == 0 ? 3 * scale[channel] : 0;
	}
	for (int token = 0; token < SAMPLE_TOKENS; token++) {
		float loud = is_k ? 1 : exp2f(0.40f * sample_normal(state));

		for (int channel = 0; channel < CHANNELS; channel++)
			*values++ = sample_bf16(offset[channel] + loud * scale[channel] * sample_normal(state));
	}
}

kvc_status_t codec_sample_make(int is_k, struct codec_sample *ret_sample)
{
	struct codec_sample sample = { SAMPLE_LAYERS, SAMPLE_TOKENS, SAMPLE_HEADS, SAMPLE_DIMS, NULL, 0 };
	uint64_t state = is_k ? 88172645463325252u : 1181783497276652981u;

	sample.values = kvci_alloc(codec_sample_bytes(&sample));
	if (sample.values == NULL)
		return KVC_NO_MEMORY;
	for (size_t layer = 0; layer < SAMPLE_LAYERS; layer++)
		sample_layer(is_k, &state, sample.values + layer * SAMPLE_TOKENS * SAMPLE_HEADS * SAMPLE_DIMS);
	*ret_sample = sample;
	return KVC_OK;
}
