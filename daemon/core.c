/* SPDX-License-Identifier: Apache-2.0
 * The core: builds one store from a configuration, runs its loop, takes it apart in the right order. */
#include "daemon/core.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "daemon/coding.h"
#include "daemon/metrics.h"
#include "daemon/recode.h"
#include "daemon/server.h"
#include "daemon/verify.h"
#include "daemon/wiring.h"

enum {
	CORE_DRAIN_JOBS = 16, /* a turn: each may be as long as a step */
	CORE_POLL_COMPLETIONS = 16,
};
#define CORE_GAUGES_EVERY_NS (1 * KVCI_SECOND)
/* More keeps no device busier; at the default deadline of 2 s it is a device of 64 MB/s. */
#define CORE_READ_BYTES_MAX (UINT64_C(128) << 20)

/* ---- what the brain and the ledger ask for ---- */

static uint64_t core_now(void *context)
{
	return kvci_clock_ns();
}

static void core_run_on(struct kvci_core *core, struct kvci_workers *workers, struct kvci_job *job)
{
	job->mailbox = core->mailbox;
	if (!core->stopping) {
		kvci_workers_submit(workers, job);
		return;
	}
	if (job->run != NULL)
		job->run(job);
	kvci_mailbox_post(core->mailbox, job);
}

void kvci_core_run_job(void *context, struct kvci_job *job)
{
	struct kvci_core *core = context;

	core_run_on(core, core->workers, job);
}

void kvci_core_run_file_job(void *context, struct kvci_job *job)
{
	struct kvci_core *core = context;

	core_run_on(core, core->files, job);
}

static kvc_status_t core_slab_create(void *context, uint32_t slab, uint64_t bytes, uint32_t owner, void **ret_base)
{
	struct kvci_core *core = context;
	kvc_status_t status = kvci_memory_slab_create(core->memory, slab, bytes, owner != 0, ret_base);

	if (status != KVC_OK) {
		KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "core", "cannot make a slab of %" PRIu64 " bytes: %s", bytes,
		                 kvc_status_text(status));
		return status;
	}
	/* Registration is a gain, not a need: without it the tier goes the unregistered way. */
	if (core->disk != NULL)
		kvci_tier_register_memory(core->disk, *ret_base, bytes);
	return KVC_OK;
}

static void core_slab_destroy(void *context, uint32_t slab)
{
	struct kvci_core *core = context;
	uint64_t bytes;
	void *base;

	if (kvci_memory_slab_base(core->memory, slab, &base, &bytes) == KVC_OK && core->disk != NULL)
		kvci_tier_unregister_memory(core->disk, base, bytes);
	if (core->server != NULL)
		kvci_server_slab_gone(core->server, slab);
	kvci_memory_slab_destroy(core->memory, slab);
}

static void core_space_save(void *context, uint32_t space, const struct kvci_space *fields, uint64_t epoch)
{
	struct kvci_core *core = context;

	if (core->ledger == NULL) /* memory only: nothing outlives the daemon */
		kvci_cache_space_saved(core->cache, space, epoch, KVC_OK);
	else
		kvci_ledger_save(core->ledger, space, fields, epoch);
}

static void core_space_saved(void *context, uint32_t space, uint64_t epoch, kvc_status_t status)
{
	struct kvci_core *core = context;

	kvci_cache_space_saved(core->cache, space, epoch, status);
	kvci_core_wake(core);
}

static void core_restore(void *context, const struct kvci_space *fields, uint64_t epoch)
{
	struct kvci_core *core = context;
	kvc_status_t status = kvci_cache_space_restore(core->cache, fields, epoch);

	if (status != KVC_OK)
		kvci_log(KVCI_LOG_ERROR, "core", "a space of the ledger cannot be restored (its blocks are misses): %s",
		         kvc_status_text(status));
}

/* ---- turns ---- */

static void core_turn(void *context)
{
	struct kvci_core *core = context;
	uint64_t due_ns;

	kvci_server_turn(core->server);
	due_ns = kvci_cache_tick(core->cache);
	/* The tick may have ended loads. */
	if (kvci_server_turn(core->server))
		due_ns = kvci_loop_now_ns(core->loop);
	if (due_ns != UINT64_MAX && (core->turn_timer.due_ns == 0 || due_ns < core->turn_timer.due_ns))
		kvci_loop_timer_arm(core->loop, &core->turn_timer, due_ns);
}

void kvci_core_wake(struct kvci_core *core)
{
	uint64_t now_ns = kvci_loop_now_ns(core->loop);

	if (core->turn_timer.due_ns == 0 || core->turn_timer.due_ns > now_ns)
		kvci_loop_timer_arm(core->loop, &core->turn_timer, now_ns);
}

static void core_mail(void *context, uint32_t epoll_events)
{
	struct kvci_core *core = context;

	kvci_mailbox_drain(core->mailbox, CORE_DRAIN_JOBS);
	kvci_core_wake(core);
}

static void core_disk_ready(void *context, uint32_t epoll_events)
{
	struct kvci_core *core = context;

	kvci_tier_poll(core->disk, CORE_POLL_COMPLETIONS);
	kvci_core_wake(core);
}

/* ---- figures ---- */

static void core_refresh_coded(struct kvci_core *core)
{
	struct kvci_coded_figures figures;
	struct kvci_stats *out = &core->stats;

	kvci_coded_figures(core->coded, &figures);
	kvci_stat_set(out, KVCI_STAT_CODED_WRITES, figures.coded_writes);
	kvci_stat_set(out, KVCI_STAT_CODED_WRITE_RAW_BYTES, figures.coded_write_raw_bytes);
	kvci_stat_set(out, KVCI_STAT_CODED_WRITE_BYTES, figures.coded_write_bytes);
	kvci_stat_set(out, KVCI_STAT_CODED_LOSSY_WRITES, figures.lossy_writes);
	kvci_stat_set(out, KVCI_STAT_CODED_RAW_WRITES, figures.raw_writes);
	kvci_stat_set(out, KVCI_STAT_CODED_HURRIED_WRITES, figures.hurried_writes);
	kvci_stat_set(out, KVCI_STAT_CODED_READS, figures.coded_reads);
	kvci_stat_set(out, KVCI_STAT_CODED_READ_RAW_BYTES, figures.coded_read_raw_bytes);
	kvci_stat_set(out, KVCI_STAT_CODED_READ_BYTES, figures.coded_read_bytes);
	kvci_stat_set(out, KVCI_STAT_CODED_RAW_READS, figures.raw_reads);
	kvci_stat_set(out, KVCI_STAT_CODED_ENCODE_NS, figures.encode_ns);
	kvci_stat_set(out, KVCI_STAT_CODED_DECODE_NS, figures.decode_ns);
	kvci_stat_set(out, KVCI_STAT_CODED_PROFILE_MISSING, figures.profile_missing);
	kvci_stat_set(out, KVCI_STAT_CODED_BUFFER_BYTES, figures.buffer_bytes);
	kvci_stat_set(out, KVCI_STAT_CODED_SPLIT_CHOSEN, figures.mode == KVCI_CODED_SPLIT || strcmp(figures.choice, "split") == 0);
	kvci_stat_set(out, KVCI_STAT_CODED_PROFILE_CHOSEN, strcmp(figures.choice_profiled, "split+profile") == 0);
	kvci_stat_set(out, KVCI_STAT_CODED_DEVICE_BYTES_PER_S, figures.device_bytes_per_s);
	for (uint32_t i = 0; i < figures.codec_count; i++) {
		uint64_t permille = (uint64_t)(figures.codecs[i].relative * 1000 + 0.5);

		if (strcmp(figures.codecs[i].name, "split") == 0)
			kvci_stat_set(out, KVCI_STAT_CODED_SPLIT_LOAD_PERMILLE, permille);
		else if (strcmp(figures.codecs[i].name, "split+profile") == 0)
			kvci_stat_set(out, KVCI_STAT_CODED_PROFILE_LOAD_PERMILLE, permille);
	}
}

static void core_refresh_disk(struct kvci_core *core)
{
	struct kvci_ledger_figures ledger;
	struct kvc_tier_stats stats;
	struct kvci_stats *out = &core->stats;

	if (core->disk == NULL)
		return;
	kvci_ledger_figures(core->ledger, &ledger);
	kvci_stat_set(out, KVCI_STAT_LEDGER_WRITE_ERRORS, ledger.write_errors);
	kvci_stat_set(out, KVCI_STAT_LEDGER_LOST_RECORDS, ledger.lost_records);
	kvci_tier_stats(core->disk, &stats);
	kvci_stat_set(out, KVCI_STAT_DEVICE_READS, stats.reads);
	kvci_stat_set(out, KVCI_STAT_DEVICE_READ_BYTES, stats.read_bytes);
	kvci_stat_set(out, KVCI_STAT_DEVICE_READ_ERRORS, stats.read_errors);
	kvci_stat_set(out, KVCI_STAT_DEVICE_READ_CORRUPT, stats.read_corrupt);
	kvci_stat_set(out, KVCI_STAT_DEVICE_WRITES, stats.writes);
	kvci_stat_set(out, KVCI_STAT_DEVICE_WRITE_BYTES, stats.write_bytes);
	kvci_stat_set(out, KVCI_STAT_DEVICE_WRITE_ERRORS, stats.write_errors);
	kvci_stat_set(out, KVCI_STAT_DEVICE_USED_BYTES, stats.used_bytes);
	kvci_stat_set(out, KVCI_STAT_DEVICE_RECORDS, stats.records);
	kvci_stat_set(out, KVCI_STAT_DEVICE_RECLAIMED_SEGMENTS, stats.reclaimed_segments);
	kvci_stat_set(out, KVCI_STAT_DEVICE_REAPPENDED_BYTES, stats.reappended_bytes);
	kvci_stat_set(out, KVCI_STAT_DEVICE_FLUSHES, stats.flushes);
	core_refresh_coded(core);
}

void kvci_core_refresh(struct kvci_core *core)
{
	struct kvci_cache_totals totals;
	struct kvci_stats *out = &core->stats;
	uint64_t step_ns = kvci_loop_longest_step_ns(core->loop);
	uint64_t step_cpu_ns = kvci_loop_longest_step_cpu_ns(core->loop);
	bool ready;

	kvci_cache_totals(core->cache, &totals);
	kvci_stat_set(out, KVCI_STAT_BLOCKS, totals.blocks);
	kvci_stat_set(out, KVCI_STAT_MEMORY_BLOCKS, totals.memory_blocks);
	kvci_stat_set(out, KVCI_STAT_DISK_BLOCKS, totals.disk_blocks);
	kvci_stat_set(out, KVCI_STAT_DISK_BLOCKS_RAW_BYTES, totals.disk_raw_bytes);
	kvci_stat_set(out, KVCI_STAT_DISK_BLOCKS_STORED_BYTES, totals.disk_stored_bytes);
	kvci_stat_set(out, KVCI_STAT_MEMORY_USED_BYTES, totals.memory_used_bytes);
	kvci_stat_set(out, KVCI_STAT_MEMORY_SLAB_BYTES, totals.memory_slab_bytes);
	kvci_stat_set(out, KVCI_STAT_MEMORY_CAPACITY_BYTES, totals.memory_capacity_bytes);
	kvci_stat_set(out, KVCI_STAT_LEASED_BYTES, totals.leased_bytes);
	kvci_stat_set(out, KVCI_STAT_RESERVED_BYTES, totals.reserved_bytes);
	kvci_stat_set(out, KVCI_STAT_QUARANTINED_BYTES, totals.quarantined_bytes);
	kvci_stat_set(out, KVCI_STAT_WRITE_QUEUE_BYTES, totals.write_queue_bytes);
	kvci_stat_set(out, KVCI_STAT_LOADS_UNDER_WAY, totals.loads_under_way);
	kvci_stat_set(out, KVCI_STAT_INDEX_LOADING, totals.index_loading);
	kvci_stat_set(out, KVCI_STAT_DISK_HEALTHY, totals.disk_health == KVC_OK);
	kvci_stat_set(out, KVCI_STAT_CLIENTS, kvci_server_client_count(core->server));
	kvci_stat_set(out, KVCI_STAT_UPTIME_SECONDS, (kvci_clock_ns() - core->started_ns) / KVCI_SECOND);
	kvci_stat_set(out, KVCI_STAT_HEAP_BYTES, kvci_alloc_live_bytes());
	if (step_ns > kvci_stat_get(out, KVCI_STAT_LOOP_LONGEST_STEP_NS))
		kvci_stat_set(out, KVCI_STAT_LOOP_LONGEST_STEP_NS, step_ns);
	if (step_cpu_ns > kvci_stat_get(out, KVCI_STAT_LOOP_LONGEST_STEP_CPU_NS))
		kvci_stat_set(out, KVCI_STAT_LOOP_LONGEST_STEP_CPU_NS, step_cpu_ns);
	kvci_stat_set(out, KVCI_STAT_LOOP_RECENT_STEP_NS, step_ns);
	core_refresh_disk(core);

	ready = !totals.index_loading && totals.disk_health == KVC_OK;
	atomic_store_explicit(&core->face.index_loading, totals.index_loading, memory_order_relaxed);
	atomic_store_explicit(&core->face.disk_health, totals.disk_health, memory_order_relaxed);
	atomic_store_explicit(&core->face.ready, ready, memory_order_relaxed);
}

static void core_gauges(void *context)
{
	struct kvci_core *core = context;

	kvci_core_refresh(core);
	kvci_loop_timer_arm(core->loop, &core->gauge_timer, kvci_loop_now_ns(core->loop) + CORE_GAUGES_EVERY_NS);
}

/* ---- create ---- */

/* One owner a folder. The file stays: removing it would let two owners hold two files of one name. */
static kvc_status_t core_lock_folder(struct kvci_core *core, const char *folder, char **ret_error)
{
	char owner[32] = "";
	struct stat stat_now;
	int folder_fd = -1;
	ssize_t got;
	int error = stat(folder, &stat_now) != 0 ? errno : !S_ISDIR(stat_now.st_mode) ? ENOTDIR : 0;

	if (error != 0) {
		if (error == ENOENT)
			*ret_error = kvci_asprintf("data_dir %s does not exist; make it: mkdir -p %s", folder, folder);
		else
			*ret_error = kvci_asprintf("data_dir %s: %s", folder, strerror(error));
		return kvc_status_from_errno(error);
	}
	folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder_fd >= 0)
		core->lock_fd = openat(folder_fd, "kvcaskd.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (core->lock_fd < 0) {
		error = errno;
		*ret_error = kvci_asprintf("data_dir %s cannot be written: %s", folder, strerror(error));
		if (folder_fd >= 0)
			close(folder_fd);
		return kvc_status_from_errno(error);
	}
	close(folder_fd);
	if (flock(core->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		got = pread(core->lock_fd, owner, sizeof(owner) - 1, 0);
		owner[got > 0 ? strcspn(owner, "\n") : 0] = '\0';
		*ret_error = kvci_asprintf("data_dir %s is in use by another kvcask (process %s)", folder,
		                           owner[0] != '\0' ? owner : "unknown");
		return KVC_IN_USE;
	}
	snprintf(owner, sizeof(owner), "%d\n", (int)getpid());
	if (ftruncate(core->lock_fd, 0) != 0 || pwrite(core->lock_fd, owner, strlen(owner), 0) < 0)
		errno = 0; /* for people only */
	return KVC_OK;
}

static kvc_status_t core_create_loop(struct kvci_core *core)
{
	kvc_status_t status = kvci_loop_create(&core->loop);

	if (status == KVC_OK)
		status = kvci_mailbox_create(&core->mailbox);
	if (status == KVC_OK)
		status = kvci_loop_watch(core->loop, kvci_mailbox_fd(core->mailbox), EPOLLIN, core_mail, core,
		                         &core->mailbox_watch);
	if (status == KVC_OK)
		status = kvci_workers_create("kvcask", (unsigned)core->sizes.workers, &core->workers);
	return status;
}

static kvc_status_t core_create_memory(struct kvci_core *core)
{
	const struct kvci_config *options = core->config;
	struct kvci_memory_config config = {
		.prefault = options->memory_prefault,
		/* What is registered when it is new gets small pages at that moment. */
		.huge_pages = options->disk_register == KVCI_REGISTER_ON ? KVCI_MAP_HUGE_OFF : (enum kvci_map_huge)options->memory_huge_pages,
		.run_job = kvci_core_run_job,
		.context = core,
	};

	return kvci_memory_create(&config, &core->memory);
}

static kvc_status_t core_create_cache(struct kvci_core *core)
{
	const struct kvci_config *config = core->config;
	struct kvci_cache_config cache_config = {
		.memory_bytes = core->sizes.memory_bytes,
		.slab_bytes = core->sizes.slab_bytes,
		.lease_share_percent = (uint32_t)config->memory_lease_share_percent,
		.client_share_percent = (uint32_t)config->memory_client_share_percent,
		.reserve_deadline_ns = config->memory_reserve_deadline_ns,
		.write_mode = (enum kvci_write_mode)config->disk_write,
		.write_after_hits = (uint32_t)config->disk_write_after_hits,
		.write_queue_bytes = core->sizes.write_queue_bytes,
		.read_deadline_ns = config->disk_read_deadline_ns,
		.read_active_bytes_max = CORE_READ_BYTES_MAX,
		.circuit_open_ns = config->disk_circuit_open_ns,
		.circuit_open_max_ns = config->disk_circuit_open_max_ns,
		.first_epoch = core->ledger != NULL ? kvci_ledger_first_epoch(core->ledger) : 0,
		.policy = kvci_wiring_policy(config->memory_policy),
	};
	struct kvci_cache_env env = {
		.context = core,
		.now_ns = core_now,
		.slab_create = core_slab_create,
		.slab_destroy = core_slab_destroy,
		.run_job = kvci_core_run_job,
		.space_save = core_space_save,
		.stats = &core->stats,
		.disk = core->disk,
	};

	return kvci_cache_create(&cache_config, &env, &core->cache);
}

static kvc_status_t core_open_data(struct kvci_core *core, char **ret_disk_folder, char **ret_error)
{
	const char *data_dir = core->config->data_dir;
	struct kvci_ledger_env ledger_env = {.context = core, .run_job = kvci_core_run_file_job, .saved = core_space_saved};
	kvc_status_t status;

	*ret_disk_folder = NULL;
	if (data_dir == NULL || data_dir[0] == '\0')
		return KVC_OK;
	status = core_lock_folder(core, data_dir, ret_error);
	if (status == KVC_OK)
		status = kvci_workers_create("kvcask-files", 1, &core->files);
	if (status == KVC_OK)
		status = kvci_ledger_open(data_dir, &ledger_env, &core->ledger, ret_error);
	if (status == KVC_OK) {
		*ret_disk_folder = kvci_wiring_disk_folder(data_dir);
		status = *ret_disk_folder != NULL ? KVC_OK : KVC_NO_MEMORY;
	}
	return status;
}

static void core_log_sizes(const struct kvci_core *core)
{
	const struct kvci_sizes *sizes = &core->sizes;
	const uint64_t mib = 1 << 20;
	static const char *const huge[] = { [KVCI_MAP_HUGE_OFF] = "off", [KVCI_MAP_HUGE_AUTO] = "where cheap", [KVCI_MAP_HUGE_ON] = "on" };

	kvci_log(KVCI_LOG_INFO, "core", "memory: %" PRIu64 " MiB in slabs of %" PRIu64 " MiB, huge pages %s (available: %" PRIu64 " MiB%s)",
	         sizes->memory_bytes / mib, sizes->slab_bytes / mib, huge[kvci_memory_huge_pages(core->memory)],
	         sizes->memory_available_bytes / mib,
	         core->config->memory_capacity_bytes == KVCI_CONFIG_AUTO ? "; chosen: a quarter" : "");
	if (core->disk != NULL)
		kvci_log(KVCI_LOG_INFO, "core",
		         "disk: %" PRIu64 " MiB in segments of %" PRIu64 " MiB at %s (free: %" PRIu64 " MiB%s)",
		         sizes->disk_bytes / mib, sizes->segment_bytes / mib, core->config->data_dir,
		         sizes->disk_free_bytes / mib,
		         core->config->disk_capacity_bytes == KVCI_CONFIG_AUTO ? "; chosen: half" : "");
	else
		kvci_log(KVCI_LOG_INFO, "core", "disk: none (no data_dir)");
	if (sizes->memory_bytes > sizes->memory_available_bytes)
		kvci_log(KVCI_LOG_WARN, "core", "memory.capacity is more than is available at present");
}

static kvc_status_t core_build(struct kvci_core *core, char **ret_disk_folder, char **ret_error)
{
	kvc_status_t status = core_open_data(core, ret_disk_folder, ret_error);

	if (status == KVC_OK)
		status = kvci_sizes_resolve(core->config, *ret_disk_folder, &core->sizes, ret_error);
	if (status == KVC_OK)
		status = core_create_loop(core);
	if (status == KVC_OK)
		status = core_create_memory(core);
	if (status == KVC_OK)
		status = kvci_coding_create(core, &core->coding);
	if (status == KVC_OK && *ret_disk_folder != NULL)
		status = kvci_wiring_open_disk(core, *ret_disk_folder, ret_error);
	if (status == KVC_OK)
		core_log_sizes(core);
	if (status == KVC_OK)
		status = core_create_cache(core);
	if (status == KVC_OK && core->ledger != NULL)
		status = kvci_ledger_restore(core->ledger, core_restore, core);
	if (status == KVC_OK)
		status = kvci_server_create(core, &core->server);
	if (status == KVC_OK && core->disk != NULL)
		status = kvci_loop_watch(core->loop, kvci_tier_fd(core->disk), EPOLLIN, core_disk_ready, core,
		                         &core->disk_watch);
	return status;
}

kvc_status_t kvci_core_create(const struct kvci_config *config, struct kvci_core **ret_core, char **ret_error)
{
	struct kvci_core *core = kvci_alloc_zero(1, sizeof(*core));
	char *disk_folder = NULL;
	kvc_status_t status;

	*ret_error = NULL;
	if (core == NULL)
		return KVC_NO_MEMORY;
	core->config = config;
	core->lock_fd = -1;
	core->next_client = 1;
	core->started_ns = kvci_clock_ns();
	/* The hash library sets itself up at its first use, a millisecond: no client's step is to pay for it. */
	(void)kvci_sha256("", 0, (uint8_t[32]){0});
	core->turn_timer = (struct kvci_timer){.run = core_turn, .context = core};
	core->gauge_timer = (struct kvci_timer){.run = core_gauges, .context = core};
	status = core_build(core, &disk_folder, ret_error);
	if (status != KVC_OK)
		goto fail;
	kvci_free(disk_folder);
	kvci_core_wake(core);
	core_gauges(core);
	*ret_core = core;
	return KVC_OK;
fail:
	kvci_free(disk_folder);
	kvci_core_destroy(core);
	return status;
}

kvc_status_t kvci_core_listen(struct kvci_core *core, char **ret_error)
{
	kvc_status_t status = KVC_OK;

	*ret_error = NULL;
	for (uint32_t i = 0; i < core->config->socket_count && status == KVC_OK; i++)
		status = kvci_server_listen(core->server, &core->config->sockets[i], ret_error);
	if (status == KVC_OK && core->config->http_listen != NULL && core->config->http_listen[0] != '\0')
		status = kvci_http_start(core, core->config->http_listen, &core->http, ret_error);
	return status;
}

kvc_status_t kvci_core_run(struct kvci_core *core)
{
	return kvci_loop_run(core->loop);
}

/* ---- the end ---- */

static void core_flushed(struct kvci_flush_wait *wait, kvc_status_t status)
{
	struct kvci_core *core = wait->context;

	core->flushing = false;
	if (status != KVC_OK)
		kvci_log(KVCI_LOG_WARN, "core", "the last flush failed: %s", kvc_status_text(status));
	else
		kvci_log(KVCI_LOG_INFO, "core", "flushed");
	kvci_loop_stop(core->loop);
}

void kvci_core_finish(struct kvci_core *core)
{
	if (core->flushing) {
		kvci_loop_stop(core->loop);
		return;
	}
	kvci_server_quiesce(core->server);
	core->flushing = true;
	core->last_flush = (struct kvci_flush_wait){.done = core_flushed, .context = core};
	if (kvci_cache_flush(core->cache, &core->last_flush) != KVC_OK)
		kvci_loop_stop(core->loop);
	kvci_core_wake(core);
}

static void core_drain(struct kvci_core *core)
{
	if (core->workers == NULL && core->files == NULL)
		return;
	core->stopping = true;
	kvci_workers_destroy(core->workers);
	kvci_workers_destroy(core->files);
	core->workers = core->files = NULL;
	while (kvci_mailbox_drain(core->mailbox, CORE_DRAIN_JOBS) > 0)
		continue;
}

void kvci_core_destroy(struct kvci_core *core)
{
	if (core == NULL)
		return;
	kvci_http_stop(core->http);
	if (core->flushing)
		kvci_cache_flush_cancel(core->cache, &core->last_flush);
	kvci_verify_stop(core);
	kvci_recode_stop(core);
	kvci_server_destroy(core->server);
	core->server = NULL;
	if (core->memory != NULL)
		kvci_memory_quiesce(core->memory);
	core_drain(core);
	kvci_loop_unwatch(core->loop, core->disk_watch);
	kvci_tier_close(core->disk); /* its last completions go to the brain */
	core->disk = core->coded = NULL;
	core->stopping = true;
	while (core->mailbox != NULL && kvci_mailbox_drain(core->mailbox, CORE_DRAIN_JOBS) > 0)
		continue;
	kvci_cache_destroy(core->cache);
	kvci_verify_free(core);
	kvci_recode_free(core);
	kvci_coding_destroy(core->coding);
	kvci_memory_destroy(core->memory);
	kvci_ledger_close(core->ledger);
	if (core->loop != NULL)
		kvci_loop_unwatch(core->loop, core->mailbox_watch);
	kvci_mailbox_destroy(core->mailbox);
	kvci_loop_destroy(core->loop);
	if (core->lock_fd >= 0)
		close(core->lock_fd);
	kvci_free(core);
}
