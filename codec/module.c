/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs that are loadable modules.
 */
#include "codec/module.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MODULE_PATH_MAX = 4096 };

struct module {
	uint16_t id;
	const char *name;
	bool asked;                      /* looked for */
	const struct kvc_codec_ops *ops; /* NULL: it is not there */
};

/* In the order of their ids. A record may name any id: nothing but these is ever looked for. */
static struct module module_table[] = {
	{ .id = KVC_CODEC_HEVC, .name = "hevc" },
};

enum { MODULE_COUNT = sizeof(module_table) / sizeof(module_table[0]) };

static pthread_mutex_t module_lock = PTHREAD_MUTEX_INITIALIZER;

static bool module_right(const struct module *module, const struct kvc_codec_ops *ops)
{
	return ops != NULL && ops->struct_bytes == sizeof(*ops) && ops->abi_version == KVC_CODEC_ABI && ops->id == module->id &&
	       strcmp(ops->name, module->name) == 0 && ops->scratch_bytes != NULL && ops->bound_bytes != NULL && ops->encode != NULL &&
	       ops->decode != NULL;
}

static const struct kvc_codec_ops *module_load(const struct module *module, const char *folder)
{
	const struct kvc_codec_ops *(*entry)(void);
	const struct kvc_codec_ops *ops;
	char path[MODULE_PATH_MAX];
	void *handle, *symbol;

	if (snprintf(path, sizeof(path), "%s/kvcask-codec-%s.so", folder, module->name) >= (int)sizeof(path))
		return NULL;
	handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL)
		return NULL;
	symbol = dlsym(handle, "kvc_codec_module");
	memcpy(&entry, &symbol, sizeof(entry)); /* ISO C has no cast for it */
	ops = symbol == NULL ? NULL : entry();
	if (module_right(module, ops))
		return ops;
	dlclose(handle);
	return NULL;
}

/* From ../lib/kvcask beside this file. */
static const struct kvc_codec_ops *module_load_beside(const struct module *module, const char *file)
{
	const char *slash = strrchr(file, '/');
	char folder[MODULE_PATH_MAX];

	if (file[0] != '/' || snprintf(folder, sizeof(folder), "%.*s/../lib/kvcask", (int)(slash - file), file) >= (int)sizeof(folder))
		return NULL;
	return module_load(module, folder);
}

static const struct kvc_codec_ops *module_find(const struct module *module)
{
	const char *given = getenv("KVCASK_MODULES");
	const struct kvc_codec_ops *ops = NULL;
	char program[MODULE_PATH_MAX];
	Dl_info library;
	ssize_t length;

	if (given != NULL && given[0] == '/')
		ops = module_load(module, given);
	/* The library that this is part of, then the program: its own name need not be a path. */
	if (ops == NULL && dladdr(module, &library) != 0 && library.dli_fname != NULL)
		ops = module_load_beside(module, library.dli_fname);
	if (ops == NULL) {
		length = readlink("/proc/self/exe", program, sizeof(program) - 1);
		program[length < 0 ? 0 : length] = '\0';
		ops = module_load_beside(module, program);
	}
	return ops != NULL ? ops : module_load(module, KVC_MODULE_FOLDER);
}

static const struct kvc_codec_ops *module_get(struct module *module)
{
	const struct kvc_codec_ops *ops;

	pthread_mutex_lock(&module_lock);
	if (!module->asked)
		module->ops = module_find(module);
	module->asked = true;
	ops = module->ops;
	pthread_mutex_unlock(&module_lock);
	return ops;
}

const struct kvc_codec_ops *kvci_codec_module_by_id(uint16_t id)
{
	for (size_t i = 0; i < MODULE_COUNT; i++)
		if (module_table[i].id == id)
			return module_get(&module_table[i]);
	return NULL;
}

const struct kvc_codec_ops *kvci_codec_module_by_name(const char *name)
{
	for (size_t i = 0; i < MODULE_COUNT; i++)
		if (strcmp(module_table[i].name, name) == 0)
			return module_get(&module_table[i]);
	return NULL;
}

const struct kvc_codec_ops *kvci_codec_module_at(size_t index)
{
	for (size_t i = 0; i < MODULE_COUNT; i++) {
		const struct kvc_codec_ops *ops = module_get(&module_table[i]);

		if (ops != NULL && index-- == 0)
			return ops;
	}
	return NULL;
}
