/* SPDX-License-Identifier: Apache-2.0
 * "embedded:DIR": the daemon's code in a thread of this process, out of a library of its own, so that clients of a daemon need none of
 * what a store needs. The two talk over a socket pair, as if they were two processes. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

#define EMBEDDED_LIBRARY "libkvcask-embedded.so"

typedef kvc_status_t (*embedded_start_fn)(const char *dir, const char *options, int *ret_fd, void **ret_handle, char **ret_error);
typedef void (*embedded_stop_fn)(void *handle);

struct embedded {
	void *library;
	void *handle;
	embedded_stop_fn stop;
};

/* Beside this library first: a program that finds one by its path must not need another to find the other. */
static void *embedded_open_library(void)
{
	char path[4096];
	const char *slash;
	void *library = NULL;
	Dl_info self;

	if (dladdr((void *)(uintptr_t)embedded_start, &self) != 0 && self.dli_fname != NULL &&
	    (slash = strrchr(self.dli_fname, '/')) != NULL) {
		int folder = (int)(slash - self.dli_fname);

		snprintf(path, sizeof(path), "%.*s/" EMBEDDED_LIBRARY, folder, self.dli_fname);
		library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (library == NULL) { /* a program in bin/ with the library linked in */
			snprintf(path, sizeof(path), "%.*s/../lib/" EMBEDDED_LIBRARY, folder, self.dli_fname);
			library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		}
	}
	return library != NULL ? library : dlopen(EMBEDDED_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

kvc_status_t embedded_start(const char *target, struct embedded **ret_embedded, int *ret_fd)
{
	const char *question = strchr(target, '?');
	struct embedded *embedded = kvci_alloc_zero(1, sizeof(*embedded));
	char *dir = question != NULL ? kvci_strndup(target, (size_t)(question - target)) : kvci_strdup(target);
	char *error = NULL;
	embedded_start_fn start;
	kvc_status_t status;

	if (embedded == NULL || dir == NULL) {
		status = client_fail(KVC_NO_MEMORY, "embedded");
		goto fail;
	}
	embedded->library = embedded_open_library();
	if (embedded->library == NULL) {
		status = client_fail(KVC_UNSUPPORTED, "%s cannot be loaded: %s", EMBEDDED_LIBRARY, dlerror());
		goto fail;
	}
	start = (embedded_start_fn)(uintptr_t)dlsym(embedded->library, "kvci_embedded_start");
	embedded->stop = (embedded_stop_fn)(uintptr_t)dlsym(embedded->library, "kvci_embedded_stop");
	if (start == NULL || embedded->stop == NULL) {
		status = client_fail(KVC_VERSION, "%s is of another version", EMBEDDED_LIBRARY);
		goto fail;
	}
	status = start(dir, question != NULL ? question + 1 : "", ret_fd, &embedded->handle, &error);
	if (status != KVC_OK) {
		embedded->handle = NULL;
		client_fail(status, "embedded store: %s", error != NULL ? error : kvc_status_text(status));
		goto fail;
	}
	kvci_free(dir);
	*ret_embedded = embedded;
	return KVC_OK;
fail:
	kvci_free(error);
	kvci_free(dir);
	embedded_stop(embedded);
	return status;
}

void embedded_stop(struct embedded *embedded)
{
	if (embedded == NULL)
		return;
	if (embedded->handle != NULL)
		embedded->stop(embedded->handle);
	/* The library stays loaded: others of its threads may be on their last instructions. */
	kvci_free(embedded);
}
