/* SPDX-License-Identifier: Apache-2.0
 *
 * Codec specs: "NAME:key=value,...".
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/codecs.h"

enum { SPEC_NAME_MAX = 32 };

/* One key: which params it sets, where, and what it may be. */
struct spec_key {
	const char *name;
	uint32_t param;
	size_t offset;
	bool is_float;
	double min, max;
};

#define SPEC_WHOLE(name, PARAM, min, max) { #name, KVC_CODEC_PARAM_##PARAM, offsetof(struct kvc_codec_params, name), false, min, max }
#define SPEC_FLOAT(name, PARAM, min, max) { #name, KVC_CODEC_PARAM_##PARAM, offsetof(struct kvc_codec_params, name), true, min, max }

static const struct spec_key spec_keys[] = {
	SPEC_WHOLE(bits_k, BITS_K, 2, 8),   SPEC_WHOLE(bits_v, BITS_V, 2, 8),     SPEC_WHOLE(group, GROUP, 1, 4096),
	SPEC_WHOLE(sinks, SINKS, 0, 64),    SPEC_WHOLE(entropy, ENTROPY, 0, 1),   SPEC_WHOLE(variant, VARIANT, 0, 255),
	SPEC_FLOAT(step, STEP, 0.01, 4),    SPEC_FLOAT(step_v, STEP_V, 0.01, 4),  SPEC_WHOLE(qp, QP, 0, 51),
};

enum { SPEC_KEYS = sizeof(spec_keys) / sizeof(spec_keys[0]) };

static bool spec_set(const struct spec_key *key, const char *value, size_t length, struct kvc_codec_params *params)
{
	char text[SPEC_NAME_MAX], *end;
	double number;

	if (length == 0 || length >= sizeof(text))
		return false;
	memcpy(text, value, length);
	text[length] = '\0';
	number = strtod(text, &end);
	if (*end != '\0' || !(number >= key->min && number <= key->max) || (!key->is_float && number != floor(number)))
		return false;
	if (key->is_float)
		*(float *)((char *)params + key->offset) = (float)number;
	else
		*(uint32_t *)((char *)params + key->offset) = (uint32_t)number;
	return true;
}

/* One "key=value"; `bits` sets both. */
static bool spec_pair(const struct kvc_codec_ops *ops, const char *pair, size_t length, struct kvc_codec_params *params)
{
	const char *equals = memchr(pair, '=', length);
	bool known = false;

	if (equals == NULL)
		return false;
	for (unsigned i = 0; i < SPEC_KEYS; i++) {
		const struct spec_key *key = &spec_keys[i];
		size_t name_bytes = (size_t)(equals - pair);
		bool both = name_bytes == 4 && memcmp(pair, "bits", 4) == 0 && strncmp(key->name, "bits_", 5) == 0;

		if ((ops->params & key->param) == 0 ||
		    (!both && (strlen(key->name) != name_bytes || memcmp(key->name, pair, name_bytes) != 0)))
			continue;
		known = true;
		if (!spec_set(key, equals + 1, length - name_bytes - 1, params))
			return false;
	}
	return known;
}

kvc_status_t kvc_codec_spec_parse(const char *text, const struct kvc_codec_ops **ret_ops, struct kvc_codec_params *ret_params,
                                  const char **ret_wrong)
{
	size_t length = strcspn(text, ":");
	const struct kvc_codec_ops *ops;
	char name[SPEC_NAME_MAX];

	*ret_wrong = text;
	if (length == 0 || length >= sizeof(name))
		return KVC_INVALID;
	memcpy(name, text, length);
	name[length] = '\0';
	ops = kvc_codec_by_name(name);
	if (ops == NULL)
		return KVC_NOT_FOUND;
	*ret_ops = ops;
	*ret_params = ops->defaults;
	for (const char *at = text + length; *at != '\0';) {
		*ret_wrong = ++at;
		length = strcspn(at, ",");
		if (!spec_pair(ops, at, length, ret_params))
			return KVC_INVALID;
		at += length;
	}
	*ret_wrong = NULL;
	return KVC_OK;
}
