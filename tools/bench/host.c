/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/host.h"

#include <string.h>

#include "tools/bench/world.h"

static uint64_t host_now(void *context)
{
	(void)context;
	return bench_now_ns();
}

static kvc_status_t host_slab_create(void *context, uint32_t slab, uint64_t bytes, uint32_t owner, void **ret_base)
{
	struct bench_host *host = context;

	(void)slab;
	(void)bytes;
	(void)owner;
	*ret_base = host->slab;
	return KVC_OK;
}

static void host_slab_destroy(void *context, uint32_t slab)
{
	(void)context;
	(void)slab;
}

static void host_run_job(void *context, struct kvci_job *job)
{
	struct bench_host *host = context;

	job->next = host->jobs;
	host->jobs = job;
}

void bench_host_run_jobs(struct bench_host *host)
{
	while (host->jobs != NULL) {
		struct kvci_job *job = host->jobs;

		host->jobs = job->next;
		if (job->run != NULL)
			job->run(job);
		if (job->done != NULL)
			job->done(job);
	}
}

static void host_space_save(void *context, uint32_t space, const struct kvci_space *fields, uint64_t epoch)
{
	struct bench_host *host = context;

	(void)fields;
	kvci_cache_space_saved(host->cache, space, epoch, KVC_OK);
}

kvc_status_t bench_host_begin(struct bench_host *host, uint64_t memory_bytes, uint64_t slab_bytes)
{
	const struct kvci_cache_config config = {
		.memory_bytes = memory_bytes, .slab_bytes = slab_bytes, .lease_share_percent = 50, .client_share_percent = 50,
		.reserve_deadline_ns = BENCH_TIMEOUT_NS, .policy = &kvc_policy_lru_ops,
	};
	const struct kvci_cache_env env = {
		.context = host, .now_ns = host_now, .slab_create = host_slab_create, .slab_destroy = host_slab_destroy,
		.run_job = host_run_job, .space_save = host_space_save, .stats = &host->stats,
	};

	*host = (struct bench_host){ .slab_bytes = slab_bytes };
	host->slab = bench_shared_map(slab_bytes);
	if (host->slab == NULL)
		return KVC_NO_MEMORY;
	kvc_status_t status = kvci_cache_create(&config, &env, &host->cache);
	if (status == KVC_OK)
		status = kvci_cache_client_open(host->cache, BENCH_HOST_CLIENT, "");
	return status;
}

void bench_host_end(struct bench_host *host)
{
	if (host->cache != NULL)
		kvci_cache_client_gone(host->cache, BENCH_HOST_CLIENT);
	bench_host_run_jobs(host);
	kvci_cache_destroy(host->cache);
	bench_shared_unmap(host->slab, host->slab_bytes);
	*host = (struct bench_host){ 0 };
}

kvc_status_t bench_host_bind(struct bench_host *host, const struct bench_shape *shape, uint32_t *ret_binding)
{
	struct kvci_space space = { .tenant = "", .model = (char *)(uintptr_t)shape->name, .kv_dtype = "bfloat16", .hash_algorithm = "bench" };
	uint64_t epoch;

	return kvci_cache_bind(host->cache, BENCH_HOST_CLIENT, &space, &shape->form, ret_binding, &epoch);
}

kvc_status_t bench_host_reserve(struct bench_host *host, uint32_t binding, struct kvci_reserve *blocks, uint32_t count)
{
	uint32_t done = 0, slab;

	for (;;) {
		kvc_status_t status =
			kvci_cache_reserve(host->cache, BENCH_HOST_CLIENT, binding, blocks + done, count - done, &slab);
		if (status != KVC_PENDING)
			return status;
		kvci_cache_slab_ready(host->cache, BENCH_HOST_CLIENT, slab);
		while (done < count && blocks[done].status != KVC_PENDING)
			done++;
	}
}

kvc_status_t bench_host_commit(struct bench_host *host, const struct kvci_reserve *blocks, uint32_t count, uint32_t layers)
{
	static const uint64_t checksums[KVC_FORM_LAYERS_MAX];
	kvc_status_t status = KVC_OK;

	for (uint32_t i = 0; i < count && status == KVC_OK; i++) {
		status = blocks[i].status;
		if (status == KVC_OK)
			status = kvci_cache_commit(host->cache, BENCH_HOST_CLIENT, blocks[i].reservation, checksums, layers);
	}
	return status;
}
