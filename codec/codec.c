/* SPDX-License-Identifier: Apache-2.0
 *
 * The codec table.
 */
#include <kvcask/plugin/codec.h>

#include <string.h>

#include "codec/codecs.h"

static const struct kvc_codec_ops *const codec_table[] = {
#define CODEC_ENTRY(ops) &ops,
	KVCI_CODECS(CODEC_ENTRY)
#undef CODEC_ENTRY
};

enum { CODEC_COUNT = sizeof(codec_table) / sizeof(codec_table[0]) };

const struct kvc_codec_ops *kvc_codec_by_id(uint16_t id)
{
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		if (codec_table[i]->id == id)
			return codec_table[i];
	}
	return NULL;
}

const struct kvc_codec_ops *kvc_codec_by_name(const char *name)
{
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		if (strcmp(codec_table[i]->name, name) == 0)
			return codec_table[i];
	}
	return NULL;
}

const struct kvc_codec_ops *kvc_codec_at(size_t index)
{
	return index < CODEC_COUNT ? codec_table[index] : NULL;
}
