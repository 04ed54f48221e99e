/* SPDX-License-Identifier: Apache-2.0
 *
 * The codec table: what is built in, then modules.
 */
#include <kvcask/plugin/codec.h>

#include <string.h>

#include "codec/codecs.h"
#include "codec/module.h"

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
	return kvci_codec_module_by_id(id);
}

const struct kvc_codec_ops *kvc_codec_by_name(const char *name)
{
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		if (strcmp(codec_table[i]->name, name) == 0)
			return codec_table[i];
	}
	return kvci_codec_module_by_name(name);
}

const struct kvc_codec_ops *kvc_codec_at(size_t index)
{
	return index < CODEC_COUNT ? codec_table[index] : kvci_codec_module_at(index - CODEC_COUNT);
}
