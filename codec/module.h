/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs that are loadable modules, for codec/codec.c only. Each is looked for once, when it is first asked for; what is loaded stays.
 *
 * Threads: any.
 */
#ifndef KVCI_CODEC_MODULE_H
#define KVCI_CODEC_MODULE_H

#include <kvcask/plugin/codec.h>

/* NULL: no module is of this id or name, or it is not there or not of this ABI. */
const struct kvc_codec_ops *kvci_codec_module_by_id(uint16_t id);
const struct kvc_codec_ops *kvci_codec_module_by_name(const char *name);
/* Those that are there, in the order of their ids; NULL behind the last. */
const struct kvc_codec_ops *kvci_codec_module_at(size_t index);

#endif
