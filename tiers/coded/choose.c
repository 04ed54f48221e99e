/* SPDX-License-Identifier: Apache-2.0
 *
 * What auto chooses: raw or split. Per byte of raw record, on this machine, as measured lately:
 *
 *   raw     read = 1 / device
 *   coded   read = share / device,  decode = 1 / (decode of one thread * threads)
 *           a chain of blocks overlaps the two: the longer one, and of the shorter one what the first and last block cannot hide
 *
 * The device's speed is bytes over the time in which it had any request: with several under way it is what they reach together.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tiers/coded/internal.h"

#define CHOOSE_GUESS_RATE 1e9            /* of a device not measured yet */
#define CHOOSE_SLOWER_MAX 1.10           /* of raw: then raw it is */
#define CHOOSE_BACK 1.03                 /* and split again below this */
#define CHOOSE_CHAIN_BLOCKS 8.0          /* that a load reads in one go */
#define CHOOSE_SAMPLE_BYTES (8.0 * (1 << 20)) /* that count as one full sample */
#define CHOOSE_BUSY_MAX_NS (100 * KVCI_MS)
enum { CHOOSE_TRY_BYTES = 512 << 10, CHOOSE_TRY_ROUNDS = 3 };

void coded_choice_init(struct coded_choice *choice, enum kvci_coded_mode mode, unsigned thread_count)
{
	*choice = (struct coded_choice){.mode = mode, .split = true, .thread_count = thread_count, .stored_share = 0.68};
}

/* A sample of `bytes` in `ns` into an average that forgets. */
static void choose_average(double *average, uint64_t bytes, uint64_t ns)
{
	double rate = ns != 0 ? (double)bytes * 1e9 / (double)ns : 0;
	double weight = (double)bytes / CHOOSE_SAMPLE_BYTES;

	if (ns == 0 || bytes == 0)
		return;
	weight = weight > 1 ? 0.25 : weight * 0.25;
	*average = *average == 0 ? rate : *average + (rate - *average) * weight;
}

void coded_choice_begin(struct coded_choice *choice, bool write, uint64_t now_ns)
{
	if (choice->in_flight[write]++ == 0) {
		choice->busy_since_ns[write] = now_ns;
		choice->busy_bytes[write] = 0;
	}
}

void coded_choice_end(struct coded_choice *choice, bool write, uint64_t bytes, bool worked, uint64_t now_ns)
{
	uint64_t busy_ns = now_ns - choice->busy_since_ns[write];

	choice->busy_bytes[write] += worked ? bytes : 0;
	if (--choice->in_flight[write] != 0 && busy_ns < CHOOSE_BUSY_MAX_NS)
		return;
	choose_average(write ? &choice->write_rate : &choice->read_rate, choice->busy_bytes[write], busy_ns);
	choice->busy_since_ns[write] = now_ns;
	choice->busy_bytes[write] = 0;
}

void coded_choice_encoded(struct coded_choice *choice, uint64_t raw_bytes, uint64_t stored_bytes, uint64_t ns)
{
	choose_average(&choice->encode_rate, raw_bytes, ns);
	choice->stored_share += ((double)stored_bytes / (double)raw_bytes - choice->stored_share) * 0.1;
}

void coded_choice_decoded(struct coded_choice *choice, uint64_t raw_bytes, uint64_t ns)
{
	choose_average(&choice->decode_rate, raw_bytes, ns);
}

double coded_choice_device(const struct coded_choice *choice)
{
	return choice->read_rate != 0 ? choice->read_rate : choice->write_rate != 0 ? choice->write_rate : CHOOSE_GUESS_RATE;
}

/* Time of a load when coded, in that of a raw one. */
static double choose_relative(const struct coded_choice *choice)
{
	double raw = 1 / coded_choice_device(choice), read = choice->stored_share * raw;
	double decode = 1 / (choice->decode_rate * choice->thread_count);
	double coded = read > decode ? read + decode / CHOOSE_CHAIN_BLOCKS : decode + read / CHOOSE_CHAIN_BLOCKS;

	return coded / raw;
}

void coded_choice_why(const struct coded_choice *choice, char *text, size_t room)
{
	if (choice->decode_rate == 0) {
		snprintf(text, room, "nothing measured yet");
		return;
	}
	snprintf(text, room, "a load coded takes %.2f of raw: device %.2f GB/s%s, decode %.2f GB/s on each of %u threads, %.2f of the bytes",
	         choose_relative(choice), coded_choice_device(choice) / 1e9,
	         choice->read_rate != 0 ? "" : choice->write_rate != 0 ? " (of writes)" : " (a guess)", choice->decode_rate / 1e9,
	         choice->thread_count, choice->stored_share);
}

bool coded_choice_decide(struct coded_choice *choice)
{
	bool before = choice->split;
	double relative;

	if (choice->mode != KVCI_CODED_AUTO || choice->decode_rate == 0)
		return false;
	relative = choose_relative(choice);
	if (relative > CHOOSE_SLOWER_MAX)
		choice->split = false;
	else if (relative < CHOOSE_BACK)
		choice->split = true;
	return choice->split != before;
}

/* Values spread as KV is, cheaply: sums of random bytes, of several sizes. */
static void choose_fill(uint16_t *values, size_t count)
{
	uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

	for (size_t i = 0; i < count; i++) {
		float value = 0;
		uint32_t bits;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		for (int byte = 0; byte < 8; byte++)
			value += (float)(int8_t)(state >> (8 * byte));
		value *= 0.002f * (float)(1 + i % 64 % 7);
		memcpy(&bits, &value, sizeof(bits));
		values[i] = (uint16_t)(bits >> 16);
	}
}

void coded_choice_try(uint64_t *ret_raw_bytes, uint64_t *ret_encode_ns, uint64_t *ret_decode_ns)
{
	static const struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = 1, .block_tokens = 1024, .engine_block_tokens = 16, .kv_heads = 1, .head_dim_k = 256,
		.head_dim_v = 0, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_LATENT, .group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	const struct kvc_codec_ops *codec = kvc_codec_by_id(KVC_CODEC_SPLIT);
	struct kvc_codec_part part = {.form = &form, .layer_count = 1, .is_k = true};
	size_t bound = codec->bound_bytes(&part, CHOOSE_TRY_BYTES), coded_bytes = 0;
	uint8_t *raw = kvci_alloc_aligned(64, CHOOSE_TRY_BYTES), *coded = kvci_alloc_aligned(64, bound);
	void *scratch = kvci_alloc_aligned(64, codec->scratch_bytes(&part, CHOOSE_TRY_BYTES));
	uint64_t begin_ns, encoded_ns, decoded_ns;

	*ret_raw_bytes = *ret_encode_ns = *ret_decode_ns = 0;
	if (raw != NULL && coded != NULL && scratch != NULL) {
		choose_fill((uint16_t *)(void *)raw, CHOOSE_TRY_BYTES / 2);
		for (int i = 0; i < CHOOSE_TRY_ROUNDS; i++) { /* the best: the first meets fresh pages */
			begin_ns = kvci_clock_ns();
			if (codec->encode(&part, raw, CHOOSE_TRY_BYTES, coded, bound, scratch, &coded_bytes) != KVC_OK || coded_bytes == 0)
				break;
			encoded_ns = kvci_clock_ns();
			if (codec->decode(&part, coded, coded_bytes, raw, CHOOSE_TRY_BYTES, scratch) != KVC_OK)
				break;
			decoded_ns = kvci_clock_ns();
			*ret_raw_bytes = CHOOSE_TRY_BYTES;
			if (i == 0 || encoded_ns - begin_ns < *ret_encode_ns)
				*ret_encode_ns = encoded_ns - begin_ns;
			if (i == 0 || decoded_ns - encoded_ns < *ret_decode_ns)
				*ret_decode_ns = decoded_ns - encoded_ns;
		}
	}
	kvci_free(raw);
	kvci_free(coded);
	kvci_free(scratch);
}
