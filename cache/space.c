/* SPDX-License-Identifier: Apache-2.0
 *
 * Spaces: their image, fingerprint and difference. One list of fields (KVCI_SPACE_FIELDS) makes all of it.
 *
 * The fingerprint is SHA-256 over the image of the fields that count and are not empty, in the list's order. Empty ones are left
 * out so that a field that is added later leaves the fingerprints of spaces without it as they are.
 */
#include "cache/space.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

struct space_field {
	const char *name;
	size_t offset;
};

static const struct space_field space_fields[] = {
#define SPACE_FIELD(field, text) {#field, offsetof(struct kvci_space, field)},
	KVCI_SPACE_FIELDS(SPACE_FIELD)
#undef SPACE_FIELD
};

enum { SPACE_FIELD_COUNT = sizeof(space_fields) / sizeof(space_fields[0]) };

static char **space_slot(struct kvci_space *space, size_t index)
{
	return (char **)(void *)((char *)space + space_fields[index].offset);
}

/* Never NULL. */
static const char *space_value(const struct kvci_space *space, size_t index)
{
	const char *const *slot = (const char *const *)(const void *)((const char *)space + space_fields[index].offset);

	return *slot == NULL ? "" : *slot;
}

static bool space_counts(size_t index)
{
	return space_fields[index].offset != offsetof(struct kvci_space, model_name);
}

/* Text for people and logs: UTF-8 without control characters other than tab and newline. */
static bool space_text_valid(const uint8_t *text, size_t bytes)
{
	static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
	size_t at = 0;

	while (at < bytes) {
		uint32_t code = text[at++];
		unsigned more = code < 0x80 ? 0 : code >> 5 == 6 ? 1 : code >> 4 == 14 ? 2 : code >> 3 == 30 ? 3 : 4;

		if (more == 4 || more > bytes - at)
			return false;
		if (more == 0 && ((code < 0x20 && code != '\t' && code != '\n') || code == 0x7f))
			return false;
		if (more != 0)
			code &= 0x3fu >> more;
		for (unsigned i = 0; i < more; i++) {
			if ((text[at] & 0xc0) != 0x80)
				return false;
			code = code << 6 | (text[at++] & 0x3f);
		}
		if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
			return false;
	}
	return true;
}

static uint8_t *space_put(uint8_t *out, const void *bytes, size_t count)
{
	memcpy(out, bytes, count);
	return out + count;
}

/* The image of the fields that are not empty; of all, or of those that count. */
static kvc_status_t space_image(const struct kvci_space *space, bool all, uint8_t **ret_bytes, size_t *ret_length)
{
	size_t length = sizeof(uint32_t);
	uint32_t count = 0;
	uint8_t *bytes, *out;

	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		size_t value_bytes = strlen(space_value(space, i));

		if (value_bytes > KVCI_SPACE_FIELD_BYTES_MAX)
			return KVC_TOO_BIG;
		if (!space_text_valid((const uint8_t *)space_value(space, i), value_bytes))
			return KVC_INVALID;
		if (value_bytes == 0 || !(all || space_counts(i)))
			continue;
		count++;
		length += sizeof(uint16_t) + strlen(space_fields[i].name) + sizeof(uint32_t) + value_bytes;
	}
	bytes = kvci_alloc(length);
	if (bytes == NULL)
		return KVC_NO_MEMORY;
	out = space_put(bytes, &count, sizeof(count));
	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		const char *name = space_fields[i].name, *value = space_value(space, i);
		uint16_t name_bytes = (uint16_t)strlen(name);
		uint32_t value_bytes = (uint32_t)strlen(value);

		if (value_bytes == 0 || !(all || space_counts(i)))
			continue;
		out = space_put(out, &name_bytes, sizeof(name_bytes));
		out = space_put(out, name, name_bytes);
		out = space_put(out, &value_bytes, sizeof(value_bytes));
		out = space_put(out, value, value_bytes);
	}
	*ret_bytes = bytes;
	*ret_length = length;
	return KVC_OK;
}

kvc_status_t kvci_space_fingerprint(const struct kvci_space *space, uint8_t ret_fingerprint[KVCI_SPACE_BYTES])
{
	uint8_t digest[32];
	uint8_t *bytes;
	size_t length;
	kvc_status_t status = space_image(space, false, &bytes, &length);

	if (status != KVC_OK)
		return status;
	status = kvci_sha256(bytes, length, digest);
	kvci_free(bytes);
	if (status == KVC_OK)
		memcpy(ret_fingerprint, digest, KVCI_SPACE_BYTES);
	return status;
}

kvc_status_t kvci_space_serialize(const struct kvci_space *space, void **ret_bytes, size_t *ret_length_bytes)
{
	uint8_t *bytes;
	kvc_status_t status = space_image(space, true, &bytes, ret_length_bytes);

	if (status == KVC_OK)
		*ret_bytes = bytes;
	return status;
}

kvc_status_t kvci_space_copy(const struct kvci_space *from, struct kvci_space *ret_to)
{
	struct kvci_space to = {0};

	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		char *value = kvci_strdup(space_value(from, i));

		if (value == NULL) {
			kvci_space_fini(&to);
			return KVC_NO_MEMORY;
		}
		*space_slot(&to, i) = value;
	}
	*ret_to = to;
	return KVC_OK;
}

void kvci_space_fini(struct kvci_space *space)
{
	if (space == NULL)
		return;
	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		kvci_free(*space_slot(space, i));
		*space_slot(space, i) = NULL;
	}
}

/* What is left to parse. */
struct space_input {
	const uint8_t *at;
	size_t left;
};

static bool space_take(struct space_input *input, void *out, size_t bytes)
{
	if (bytes > input->left)
		return false;
	memcpy(out, input->at, bytes);
	input->at += bytes;
	input->left -= bytes;
	return true;
}

/* The next `bytes` bytes, in place. */
static bool space_skip(struct space_input *input, size_t bytes, const uint8_t **ret_start)
{
	if (bytes > input->left)
		return false;
	*ret_start = input->at;
	input->at += bytes;
	input->left -= bytes;
	return true;
}

static size_t space_find(const uint8_t *name, size_t name_bytes)
{
	size_t i = 0;

	while (i < SPACE_FIELD_COUNT && (strlen(space_fields[i].name) != name_bytes ||
	                                 memcmp(space_fields[i].name, name, name_bytes) != 0))
		i++;
	return i;
}

static kvc_status_t space_parse_field(struct space_input *input, struct kvci_space *space)
{
	const uint8_t *name, *value;
	uint16_t name_bytes;
	uint32_t value_bytes;
	size_t index;
	char **slot;

	if (!space_take(input, &name_bytes, sizeof(name_bytes)) || !space_skip(input, name_bytes, &name))
		return KVC_INVALID;
	index = space_find(name, name_bytes);
	if (index == SPACE_FIELD_COUNT)
		return KVC_INVALID;
	slot = space_slot(space, index);
	if (*slot != NULL || !space_take(input, &value_bytes, sizeof(value_bytes)))
		return KVC_INVALID;
	if (value_bytes > KVCI_SPACE_FIELD_BYTES_MAX)
		return KVC_TOO_BIG;
	if (!space_skip(input, value_bytes, &value) || !space_text_valid(value, value_bytes))
		return KVC_INVALID;
	*slot = kvci_strndup((const char *)value, value_bytes);
	return *slot == NULL ? KVC_NO_MEMORY : KVC_OK;
}

kvc_status_t kvci_space_parse(const void *bytes, size_t length_bytes, struct kvci_space *ret_space)
{
	struct space_input input = {bytes, length_bytes};
	struct kvci_space space = {0};
	uint32_t count;
	kvc_status_t status = KVC_INVALID;

	if (!space_take(&input, &count, sizeof(count)) || count > SPACE_FIELD_COUNT)
		goto fail;
	for (uint32_t i = 0; i < count; i++) {
		status = space_parse_field(&input, &space);
		if (status != KVC_OK)
			goto fail;
	}
	status = KVC_INVALID;
	if (input.left != 0)
		goto fail;
	/* What was not named is empty, so that readers need not ask for NULL. */
	status = KVC_NO_MEMORY;
	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		char **slot = space_slot(&space, i);

		if (*slot == NULL && (*slot = kvci_strdup("")) == NULL)
			goto fail;
	}
	*ret_space = space;
	return KVC_OK;
fail:
	kvci_space_fini(&space);
	return status;
}

const char *kvci_space_difference(const struct kvci_space *a, const struct kvci_space *b)
{
	for (size_t i = 0; i < SPACE_FIELD_COUNT; i++) {
		if (space_counts(i) && strcmp(space_value(a, i), space_value(b, i)) != 0)
			return space_fields[i].name;
	}
	return NULL;
}
