/* SPDX-License-Identifier: Apache-2.0
 * The disk tier's table, and its opening and closing. */
#include "tiers/disk/disk.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/internal.h"

static void disk_close(struct kvc_tier *base);

static kvc_status_t disk_open_io(struct kvci_disk_tier *tier, char **ret_error)
{
	const struct kvci_disk_options *options = &tier->options;
	kvc_status_t status = KVC_UNSUPPORTED;

	if (options->io != KVCI_DISK_IO_THREADS) {
		status = kvci_disk_io_uring_create(options->queue_depth, options->registering, &tier->io);
		if (status == KVC_UNSUPPORTED && options->io == KVCI_DISK_IO_URING) {
			*ret_error = kvci_strdup("io_uring is not available here: the kernel lacks or forbids it (disk.io = auto takes "
			                         "threads instead)");
			return status;
		}
		if (status == KVC_UNSUPPORTED)
			kvci_log(KVCI_LOG_INFO, "disk", "io_uring is not available; threads do the I/O");
	}
	if (status == KVC_UNSUPPORTED)
		status = kvci_disk_io_threads_create(options->queue_depth, &tier->io);
	if (status == KVC_OK && tier->io->ops->few_threads)
		status = kvci_workers_create("disk-check", options->check_threads, &tier->check);
	return status;
}

static kvc_status_t disk_open_parts(struct kvci_disk_tier *tier, char **ret_error)
{
	kvc_status_t status = kvci_mailbox_create(&tier->mailbox);

	if (status == KVC_OK)
		status = kvci_disk_folder_open(tier->options.folder, true, &tier->folder, ret_error);
	if (status != KVC_OK)
		return status;
	tier->options.folder = tier->folder.path;
	tier->db_path = kvci_asprintf("%s/index", tier->folder.path);
	if (tier->db_path == NULL)
		return KVC_NO_MEMORY;
	status = kvci_disk_segments_load(tier, ret_error);
	if (status == KVC_OK)
		status = kvci_disk_ops_create(tier);
	if (status == KVC_OK)
		status = disk_open_io(tier, ret_error);
	if (status == KVC_OK)
		status = kvci_keeper_start(tier);
	return status;
}

static kvc_status_t disk_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	struct kvci_disk_tier *tier = kvci_alloc_zero(1, sizeof(*tier));
	pthread_condattr_t monotonic;
	kvc_status_t status;

	if (tier == NULL)
		return KVC_NO_MEMORY;
	tier->tier.ops = &kvc_tier_disk_ops;
	tier->tier.magic = KVC_TIER_MAGIC;
	tier->folder.dir_fd = tier->folder.lock_fd = -1;
	tier->head = tier->ready = -1;
	tier->keeper.end = &tier->keeper.first;
	for (int kind = 0; kind < 2; kind++) {
		tier->ended[kind].end = &tier->ended[kind].first;
		pthread_mutex_init(&tier->ended[kind].lock, NULL);
	}
	pthread_mutex_init(&tier->keeper.lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&tier->keeper.wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&tier->db_lock, NULL);
	status = kvci_disk_options_parse(options, &tier->options, ret_error);
	if (status == KVC_OK)
		status = disk_open_parts(tier, ret_error);
	if (status != KVC_OK)
		goto fail;
	*ret_tier = &tier->tier;
	return KVC_OK;
fail:
	disk_close(&tier->tier);
	return status;
}

static void disk_caps(struct kvc_tier *base, struct kvc_tier_caps *ret_caps)
{
	struct kvci_disk_tier *tier = kvci_disk_of(base);

	*ret_caps = (struct kvc_tier_caps){
		.align_bytes = KVCI_DISK_PAGE_BYTES,
		/* Twice what the device gets: while some are checked and handed on, it has others. */
		.best_queue_depth = 2 * tier->options.queue_depth,
		.best_io_bytes = 1 << 20,
		.capacity_bytes = tier->options.capacity_bytes,
		.durable = true,
		.drops_places = false,
	};
}

static kvc_status_t disk_attach(struct kvc_tier *base, const struct kvc_tier_events *events)
{
	struct kvci_disk_tier *tier = kvci_disk_of(base);
	kvc_status_t status;

	if (tier->attached)
		return KVC_INVALID;
	tier->events = *events;
	tier->attached = true;
	status = kvci_loader_start(tier);
	if (status != KVC_OK) {
		tier->attached = false;
		return status;
	}
	if (tier->head >= 0)
		kvci_disk_prepare_kick(tier);
	return KVC_OK;
}

static int disk_fd(struct kvc_tier *tier)
{
	return kvci_mailbox_fd(kvci_disk_of(tier)->mailbox);
}

static void disk_poll(struct kvc_tier *tier, unsigned max_completions)
{
	kvci_mailbox_drain(kvci_disk_of(tier)->mailbox, max_completions);
}

static kvc_status_t disk_submit(struct kvc_tier *base, struct kvc_tier_request *request)
{
	struct kvci_disk_tier *tier = kvci_disk_of(base);

	switch (request->op) {
	case KVC_TIER_READ:
		return kvci_disk_read(tier, request, false);
	case KVC_TIER_WRITE:
		return kvci_disk_write(tier, request, kvc_tier_request_pages(request), false);
	default:
		return kvci_disk_flush(tier, request);
	}
}

static kvc_status_t disk_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	return kvci_disk_drop(kvci_disk_of(tier), entry);
}

static kvc_status_t disk_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	struct kvci_disk_io *io = kvci_disk_of(tier)->io;

	return io->ops->register_memory(io, base, length_bytes);
}

static void disk_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	struct kvci_disk_io *io = kvci_disk_of(tier)->io;

	io->ops->unregister_memory(io, base, length_bytes);
}

static void disk_stats(struct kvc_tier *base, struct kvc_tier_stats *ret_stats)
{
	struct kvci_disk_tier *tier = kvci_disk_of(base);

	*ret_stats = tier->stats;
	ret_stats->queue_bytes = tier->op_bytes;
	for (uint32_t i = 0; i < tier->segment_count; i++) {
		const struct kvci_disk_segment *segment = &tier->segments[i];

		if (segment->use < KVCI_DISK_HEAD || segment->use == KVCI_DISK_FOREIGN)
			continue;
		ret_stats->used_bytes += (uint64_t)segment->next_4k * KVCI_DISK_PAGE_BYTES;
		ret_stats->records += segment->records;
	}
}

/* A header that spares the next start from looking through the segment. */
static void disk_close_segment(struct kvci_disk_tier *tier, int32_t number, enum kvci_disk_state state)
{
	struct kvci_keeper_op *op = number >= 0 ? kvci_keeper_op_create(tier, KVCI_KEEPER_HEADER) : NULL;

	if (op != NULL)
		kvci_disk_header_order(tier, op, (uint32_t)number, state);
}

static void disk_close_segments(struct kvci_disk_tier *tier)
{
	struct kvci_keeper_op *flush;

	disk_close_segment(tier, tier->head, KVCI_DISK_CLOSED);
	disk_close_segment(tier, tier->ready, KVCI_DISK_FREE);
	flush = kvci_keeper_op_create(tier, KVCI_KEEPER_FLUSH);
	if (flush == NULL)
		return;
	flush->fds = kvci_alloc(((size_t)tier->segment_count + 1) * sizeof(flush->fds[0]));
	for (uint32_t i = 0; i < tier->segment_count && flush->fds != NULL; i++) {
		if (tier->segments[i].dirty || (int32_t)i == tier->head)
			flush->fds[flush->fd_count++] = tier->segments[i].fd;
	}
	kvci_keeper_order(tier, flush);
}

static void disk_close(struct kvc_tier *base)
{
	struct kvci_disk_tier *tier = kvci_disk_of(base);
	bool whole = tier->keeper.started;

	tier->closing = true;
	kvci_loader_stop(tier);
	if (tier->io != NULL)
		tier->io->ops->destroy(tier->io);
	kvci_workers_destroy(tier->check);
	/* Transfers are over: their completions, then the orders that these made, then the completions of those. */
	while (tier->mailbox != NULL && kvci_mailbox_drain(tier->mailbox, 64) != 0)
		;
	if (whole)
		disk_close_segments(tier);
	kvci_keeper_stop(tier);
	while (tier->mailbox != NULL && kvci_mailbox_drain(tier->mailbox, 64) != 0)
		;
	kvci_loader_free(tier);
	kvci_reclaim_fini(tier);
	kvci_disk_db_close(tier->db);
	kvci_disk_ops_destroy(tier);
	kvci_disk_segments_close(tier);
	kvci_mailbox_destroy(tier->mailbox);
	kvci_disk_folder_close(&tier->folder);
	pthread_mutex_destroy(&tier->db_lock);
	pthread_mutex_destroy(&tier->ended[0].lock);
	pthread_mutex_destroy(&tier->ended[1].lock);
	pthread_mutex_destroy(&tier->keeper.lock);
	pthread_cond_destroy(&tier->keeper.wake);
	kvci_free(tier->db_path);
	tier->tier.magic = 0;
	kvci_free(tier);
}

const char *kvci_disk_engine(struct kvc_tier *tier)
{
	return kvci_disk_of(tier)->io->ops->name;
}

const struct kvc_tier_ops kvc_tier_disk_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "disk",
	.open = disk_open,
	.caps = disk_caps,
	.attach = disk_attach,
	.fd = disk_fd,
	.poll = disk_poll,
	.submit = disk_submit,
	.drop = disk_drop,
	.register_memory = disk_register_memory,
	.unregister_memory = disk_unregister_memory,
	.stats = disk_stats,
	.close = disk_close,
};
