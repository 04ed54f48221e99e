/* SPDX-License-Identifier: Apache-2.0
 *
 * What auto chooses: the codec that packs best of those that make no load much slower than raw. Per byte of raw record, on this machine, as measured
 * lately, each codec by its own speed:
 *
 *   raw     read = 1 / device
 *   coded   read = share / device,  decode = 1 / (decode of one thread * threads)
 *           a chain of blocks overlaps the two: the longer one, and of the shorter one what the first and last block cannot hide
 *
 * A codec that is refused is tried again now and then: the machine may have been busy when it was measured.
 * The device's speed is bytes over the time in which it had any request: with several under way it is what they reach together.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "tiers/coded/internal.h"

#define CHOOSE_GUESS_RATE 1e9            /* of a device not measured yet */
#define CHOOSE_SLOWER_MAX 1.10           /* of raw: then raw it is */
#define CHOOSE_BACK 1.03                 /* and the codec again below this */
#define CHOOSE_CHAIN_BLOCKS 8.0          /* that a load reads in one go */
#define CHOOSE_SAMPLE_BYTES (8.0 * (1 << 20)) /* that count as one full sample */
#define CHOOSE_BUSY_MAX_NS (100 * KVCI_MS)
#define CHOOSE_SPLIT_SHARE 0.68          /* of bf16, until it is measured */
enum { CHOOSE_TRY_EVERY = 64 };          /* records that a refused codec did not code */

void coded_choice_init(struct coded_choice *choice, enum kvci_coded_mode mode, unsigned thread_count)
{
	*choice = (struct coded_choice){.mode = mode, .thread_count = thread_count};
	choice->codecs[KVC_CODEC_SPLIT].stored_share = CHOOSE_SPLIT_SHARE;
	choice->codecs[KVC_CODEC_SPLIT].judged = mode == KVCI_CODED_AUTO;
}

/* A sample of `bytes` in `ns` into an average that forgets; of at least this weight. */
static void choose_average(double *average, uint64_t bytes, uint64_t ns, double least_weight)
{
	double rate = ns != 0 ? (double)bytes * 1e9 / (double)ns : 0;
	double weight = (double)bytes / CHOOSE_SAMPLE_BYTES;

	if (ns == 0 || bytes == 0)
		return;
	weight = weight > 1 ? 0.25 : weight * 0.25;
	weight = weight < least_weight ? least_weight : weight;
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
	choose_average(write ? &choice->write_rate : &choice->read_rate, choice->busy_bytes[write], busy_ns, 0);
	choice->busy_since_ns[write] = now_ns;
	choice->busy_bytes[write] = 0;
}

static void choose_share(struct coded_rates *rates, uint64_t raw_bytes, uint64_t stored_bytes)
{
	double share = (double)stored_bytes / (double)raw_bytes;

	rates->stored_share = rates->stored_share == 0 ? share : rates->stored_share + (share - rates->stored_share) * 0.1;
}

void coded_choice_encoded(struct coded_choice *choice, uint16_t codec, uint64_t raw_bytes, uint64_t stored_bytes, uint64_t ns)
{
	if (codec >= CODED_CODECS)
		return;
	choose_average(&choice->codecs[codec].encode_rate, raw_bytes, ns, 0);
	choose_share(&choice->codecs[codec], raw_bytes, stored_bytes);
}

void coded_choice_decoded(struct coded_choice *choice, uint16_t codec, uint64_t raw_bytes, uint64_t ns)
{
	if (codec < CODED_CODECS)
		choose_average(&choice->codecs[codec].decode_rate, raw_bytes, ns, 0);
}

void coded_choice_tried(struct coded_choice *choice, uint16_t codec, const struct coded_try *result)
{
	struct coded_rates *rates = codec < CODED_CODECS ? &choice->codecs[codec] : NULL;

	if (rates == NULL || result->decode_raw_bytes == 0)
		return;
	choose_average(&rates->encode_rate, result->encode_raw_bytes, result->encode_ns, 0.25);
	choose_average(&rates->decode_rate, result->decode_raw_bytes, result->decode_ns, 0.25);
	choose_share(rates, result->encode_raw_bytes, result->stored_bytes);
}

bool coded_choice_offer(struct coded_choice *choice, uint16_t codec, bool *ret_try)
{
	struct coded_rates *rates = codec < CODED_CODECS ? &choice->codecs[codec] : NULL;

	if (ret_try != NULL)
		*ret_try = false;
	if (rates == NULL)
		return true;
	rates->judged = true;
	if (rates->decode_rate != 0 && !rates->refused)
		return true;
	if (ret_try != NULL && (!rates->tried || ++rates->passed_over >= CHOOSE_TRY_EVERY)) {
		*ret_try = rates->tried = true;
		rates->passed_over = 0;
	}
	return !rates->refused;
}

double coded_choice_device(const struct coded_choice *choice)
{
	return choice->read_rate != 0 ? choice->read_rate : choice->write_rate != 0 ? choice->write_rate : CHOOSE_GUESS_RATE;
}

double coded_choice_relative(const struct coded_choice *choice, uint16_t codec)
{
	const struct coded_rates *rates = &choice->codecs[codec];
	double raw = 1 / coded_choice_device(choice), read, decode, coded;

	if (rates->decode_rate == 0 || rates->stored_share == 0)
		return 0;
	read = rates->stored_share * raw;
	decode = 1 / (rates->decode_rate * choice->thread_count);
	coded = read > decode ? read + decode / CHOOSE_CHAIN_BLOCKS : decode + read / CHOOSE_CHAIN_BLOCKS;
	return coded / raw;
}

static const char *choose_name(uint16_t codec)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_id(codec);

	return ops != NULL ? ops->name : "unknown";
}

void coded_choice_why(const struct coded_choice *choice, char *text, size_t room)
{
	size_t at = (size_t)snprintf(text, room, "device %.3g GB/s%s, %u threads", coded_choice_device(choice) / 1e9,
	                             choice->read_rate != 0 ? "" : choice->write_rate != 0 ? " (of writes)" : " (a guess)", choice->thread_count);
	bool any = false;

	for (uint16_t id = 0; id < CODED_CODECS && at < room; id++) {
		const struct coded_rates *rates = &choice->codecs[id];
		double relative = coded_choice_relative(choice, id);

		if (!rates->judged || relative == 0)
			continue;
		at += (size_t)snprintf(text + at, room - at, "%s %s %.2f%s (decodes %.3g GB/s, %.2f of the bytes)",
		                       any ? "," : "; a load takes, of raw:", choose_name(id), relative, rates->refused ? ", too long" : "",
		                       rates->decode_rate / 1e9, rates->stored_share);
		any = true;
	}
	if (!any)
		snprintf(text, room, "nothing measured yet");
}

bool coded_choice_judges(const struct coded_choice *choice)
{
	for (uint16_t id = 0; id < CODED_CODECS; id++)
		if (choice->codecs[id].judged)
			return true;
	return false;
}

uint16_t coded_choice_decide(struct coded_choice *choice)
{
	uint16_t changed = KVC_CODEC_RAW;

	for (uint16_t id = 0; id < CODED_CODECS; id++) {
		struct coded_rates *rates = &choice->codecs[id];
		bool before = rates->refused;
		double relative = rates->judged ? coded_choice_relative(choice, id) : 0;

		if (relative > CHOOSE_SLOWER_MAX)
			rates->refused = true;
		else if (relative != 0 && relative < CHOOSE_BACK)
			rates->refused = false;
		if (rates->refused != before)
			changed = id;
	}
	return changed;
}
