/* SPDX-License-Identifier: Apache-2.0
 *
 * Profiles: the section of exponents, read from untrusted bytes.
 */
#include <string.h>

#include "base/alloc.h"
#include "codec/profile.h"
#include "codec/split.h"

struct exponents_cursor {
	const uint8_t *at, *end;
};

static const uint8_t *exponents_take(struct exponents_cursor *cursor, size_t length)
{
	const uint8_t *at = cursor->at;

	if ((size_t)(cursor->end - at) < length)
		return NULL;
	cursor->at += length;
	return at;
}

/* One class: first and last exponent, then the frequencies of both signs, each with its escape. */
static bool exponents_read_class(struct kvci_profile_exponents *exponents, uint32_t class, struct exponents_cursor *cursor)
{
	const uint8_t *head = exponents_take(cursor, 4), *from;
	uint16_t frequencies[256] = { 0 };
	uint32_t total = 0, count;

	if (head == NULL || head[0] > head[1] || head[1] >= SPLIT_ESCAPE || head[2] != 0 || head[3] != 0)
		return false;
	exponents->first[class] = head[0];
	exponents->last[class] = head[1];
	count = (uint32_t)head[1] - head[0] + 2;
	from = exponents_take(cursor, (size_t)4 * count);
	if (from == NULL)
		return false;
	for (uint32_t i = 0; i < 2 * count; i++, from += 2) {
		uint32_t sign = i < count ? 0 : 0x80, place = i % count, frequency = from[0] | (uint32_t)from[1] << 8;

		if (frequency == 0 || frequency > KVCI_RANS_TOTAL)
			return false;
		frequencies[sign | (place == count - 1 ? (uint32_t)SPLIT_ESCAPE : head[0] + place)] = (uint16_t)frequency;
		total += frequency;
	}
	if (total != KVCI_RANS_TOTAL)
		return false;
	kvci_rans_encoder_entries(frequencies, exponents->encoder + (size_t)class * 256);
	kvci_rans_decoder_entries(frequencies, exponents->decoder + (size_t)class * KVCI_RANS_TOTAL);
	return true;
}

static kvc_status_t exponents_read_channels(struct kvc_profile *profile, uint32_t plane, struct exponents_cursor *cursor)
{
	struct kvci_profile_exponents *exponents = profile->exponents;
	size_t count = (size_t)profile->planes[plane].channels * profile->layers;
	const uint8_t *from = exponents_take(cursor, count);

	if (from == NULL)
		return KVC_CORRUPT;
	for (size_t i = 0; i < count; i++)
		if (from[i] >= exponents->classes)
			return KVC_CORRUPT;
	exponents->channels[plane] = kvci_alloc(count + 1);
	if (exponents->channels[plane] == NULL)
		return KVC_NO_MEMORY;
	memcpy(exponents->channels[plane], from, count);
	return KVC_OK;
}

kvc_status_t kvci_profile_exponents_read(struct kvc_profile *profile, const uint8_t *bytes, size_t length)
{
	struct exponents_cursor cursor = { bytes, bytes + length };
	const uint8_t *head = exponents_take(&cursor, 4);
	struct kvci_profile_exponents *exponents;
	kvc_status_t status = KVC_OK;

	if (head == NULL || head[0] == 0 || head[0] > KVCI_PROFILE_EXPONENT_CLASSES_MAX || head[1] > 128 || head[2] != 0 || head[3] != 0)
		return KVC_CORRUPT;
	exponents = profile->exponents = kvci_alloc_zero(1, sizeof(*exponents));
	if (exponents == NULL)
		return KVC_NO_MEMORY;
	exponents->classes = head[0];
	exponents->base = head[1];
	exponents->encoder = kvci_alloc_zero(exponents->classes, 256 * sizeof(*exponents->encoder));
	exponents->decoder = kvci_alloc_zero(exponents->classes, KVCI_RANS_TOTAL * sizeof(*exponents->decoder));
	if (exponents->encoder == NULL || exponents->decoder == NULL)
		return KVC_NO_MEMORY;
	for (uint32_t class = 0; class < exponents->classes; class++)
		if (!exponents_read_class(exponents, class, &cursor))
			return KVC_CORRUPT;
	for (uint32_t plane = 0; plane < 2 && status == KVC_OK; plane++)
		status = exponents_read_channels(profile, plane, &cursor);
	return status == KVC_OK && cursor.at != cursor.end ? KVC_CORRUPT : status;
}

void kvci_profile_exponents_free(struct kvci_profile_exponents *exponents)
{
	if (exponents == NULL)
		return;
	kvci_free(exponents->channels[0]);
	kvci_free(exponents->channels[1]);
	kvci_free(exponents->encoder);
	kvci_free(exponents->decoder);
	kvci_free(exponents);
}
