/* SPDX-License-Identifier: Apache-2.0
 *
 * libkvcask-embedded.so: a whole store in a thread of the caller's process, for single-process engines. The client library loads it
 * for "embedded:DIR" and talks to it over a socket pair, as if it were the daemon. It exports the two functions below, and nothing else.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/core.h"
#include "daemon/server.h"
#include "rpc/local/channel.h"

#define EMBEDDED_API __attribute__((visibility("default")))

EMBEDDED_API kvc_status_t kvci_embedded_start(const char *dir, const char *options, int *ret_fd, void **ret_handle,
                                              char **ret_error);
EMBEDDED_API void kvci_embedded_stop(void *handle);

struct embedded {
	struct kvci_config config;
	struct kvci_core *core;
	pthread_t thread;
	int server_fd;
	/* What the thread says when it has started. */
	pthread_mutex_t lock;
	pthread_cond_t started;
	bool told;
	kvc_status_t status;
	char *error;
};

/* dir and "key=value&key=value" into the configuration. */
static kvc_status_t embedded_configure(struct embedded *embedded, const char *dir, const char *options, char **ret_error)
{
	char *assignment = kvci_asprintf("data_dir=%s", dir != NULL ? dir : "");
	kvc_status_t status = KVC_NO_MEMORY;

	if (assignment != NULL)
		status = kvci_config_set(&embedded->config, assignment, "embedded", ret_error);
	kvci_free(assignment);
	/* The host's stderr is the host's: what a daemon would tell is not told there unless it is asked for. */
	if (status == KVC_OK)
		status = kvci_config_set(&embedded->config, "log.level=warn", "embedded", ret_error);
	while (status == KVC_OK && options != NULL && *options != '\0') {
		size_t length = strcspn(options, "&");

		assignment = kvci_strndup(options, length);
		status = assignment != NULL ? kvci_config_set(&embedded->config, assignment, "embedded", ret_error) : KVC_NO_MEMORY;
		kvci_free(assignment);
		options += length;
		options += *options == '&';
	}
	if (status == KVC_OK)
		kvci_log_set_level((enum kvci_log_level)embedded->config.log_level);
	return status;
}

static void embedded_tell(struct embedded *embedded, kvc_status_t status)
{
	pthread_mutex_lock(&embedded->lock);
	embedded->status = status;
	embedded->told = true;
	pthread_cond_signal(&embedded->started);
	pthread_mutex_unlock(&embedded->lock);
}

/* The owner thread: makes the core, runs it until stop, flushes, and takes it apart. */
static void *embedded_main(void *context)
{
	struct embedded *embedded = context;
	kvc_status_t status = kvci_core_create(&embedded->config, &embedded->core, &embedded->error);

	if (status == KVC_OK)
		status = kvci_server_adopt(embedded->core->server, embedded->server_fd, "default");
	else
		close(embedded->server_fd);
	if (status != KVC_OK) {
		kvci_core_destroy(embedded->core);
		embedded_tell(embedded, status);
		return NULL;
	}
	embedded_tell(embedded, KVC_OK);
	kvci_core_run(embedded->core);
	kvci_core_finish(embedded->core);
	kvci_core_run(embedded->core);
	kvci_core_destroy(embedded->core);
	return NULL;
}

static void embedded_free(struct embedded *embedded)
{
	pthread_cond_destroy(&embedded->started);
	pthread_mutex_destroy(&embedded->lock);
	kvci_config_fini(&embedded->config);
	kvci_free(embedded->error);
	kvci_free(embedded);
}

/* Signals are the host program's. */
static kvc_status_t embedded_start_thread(struct embedded *embedded)
{
	sigset_t all, before;
	int failure;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failure = pthread_create(&embedded->thread, NULL, embedded_main, embedded);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failure != 0)
		return KVC_NO_MEMORY;
	pthread_setname_np(embedded->thread, "kvcask-store");
	pthread_mutex_lock(&embedded->lock);
	while (!embedded->told)
		pthread_cond_wait(&embedded->started, &embedded->lock);
	pthread_mutex_unlock(&embedded->lock);
	if (embedded->status != KVC_OK)
		pthread_join(embedded->thread, NULL);
	return embedded->status;
}

kvc_status_t kvci_embedded_start(const char *dir, const char *options, int *ret_fd, void **ret_handle, char **ret_error)
{
	struct embedded *embedded = kvci_alloc_zero(1, sizeof(*embedded));
	int fds[2] = {-1, -1};
	char *error = NULL;
	kvc_status_t status;

	*ret_error = NULL;
	if (embedded == NULL)
		return KVC_NO_MEMORY;
	pthread_mutex_init(&embedded->lock, NULL);
	pthread_cond_init(&embedded->started, NULL);
	status = kvci_config_init(&embedded->config);
	if (status == KVC_OK)
		status = embedded_configure(embedded, dir, options, &error);
	if (status == KVC_OK)
		status = kvci_channel_pair(fds);
	if (status == KVC_OK) {
		embedded->server_fd = fds[1];
		status = embedded_start_thread(embedded); /* the thread has fds[1] from here on */
	}
	if (status != KVC_OK) {
		if (fds[0] >= 0)
			close(fds[0]);
		*ret_error = error != NULL ? error : embedded->error;
		embedded->error = NULL;
		embedded_free(embedded);
		return status;
	}
	*ret_fd = fds[0];
	*ret_handle = embedded;
	return KVC_OK;
}

void kvci_embedded_stop(void *handle)
{
	struct embedded *embedded = handle;

	if (embedded == NULL)
		return;
	kvci_loop_stop(embedded->core->loop);
	pthread_join(embedded->thread, NULL);
	embedded_free(embedded);
}
