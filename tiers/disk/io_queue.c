/* SPDX-License-Identifier: Apache-2.0
 * The queue of tasks before the device; see disk_io.h. */
#include "tiers/disk/disk_io.h"

void kvci_disk_queue_init(struct kvci_disk_queue *queue, uint32_t depth, bool grouped)
{
	pthread_mutex_init(&queue->lock, NULL);
	queue->depth = depth;
	queue->write_depth = depth > 1 ? depth - (depth + 3) / 4 : 1;
	queue->write_low = queue->write_depth - (grouped ? (queue->write_depth + 2) / 3 : 1);
	queue->write_full = false;
	for (int kind = 0; kind < 2; kind++) {
		queue->first[kind] = NULL;
		queue->end[kind] = &queue->first[kind];
		queue->active[kind] = 0;
	}
}

void kvci_disk_queue_fini(struct kvci_disk_queue *queue)
{
	pthread_mutex_destroy(&queue->lock);
}

void kvci_disk_queue_push(struct kvci_disk_queue *queue, struct kvci_disk_task *task)
{
	task->next = NULL;
	*queue->end[task->write] = task;
	queue->end[task->write] = &task->next;
}

/* Of which kind the next one is; -1: none may start now. */
static int queue_next(const struct kvci_disk_queue *queue)
{
	if (queue->active[0] + queue->active[1] >= queue->depth)
		return -1;
	if (queue->first[0] != NULL)
		return 0;
	return queue->first[1] != NULL && !queue->write_full ? 1 : -1;
}

bool kvci_disk_queue_ready(const struct kvci_disk_queue *queue)
{
	return queue_next(queue) >= 0;
}

struct kvci_disk_task *kvci_disk_queue_take(struct kvci_disk_queue *queue)
{
	int kind = queue_next(queue);
	struct kvci_disk_task *task;

	if (kind < 0)
		return NULL;
	task = queue->first[kind];
	queue->first[kind] = task->next;
	if (queue->first[kind] == NULL)
		queue->end[kind] = &queue->first[kind];
	queue->active[kind]++;
	queue->write_full |= queue->active[1] >= queue->write_depth;
	return task;
}

void kvci_disk_queue_finish(struct kvci_disk_queue *queue, const struct kvci_disk_task *task)
{
	queue->active[task->write]--;
	queue->write_full &= queue->active[1] > queue->write_low;
}

struct kvci_disk_task *kvci_disk_queue_cut(struct kvci_disk_queue *queue)
{
	struct kvci_disk_task *list = queue->first[0];

	*queue->end[0] = queue->first[1];
	if (list == NULL)
		list = queue->first[1];
	for (int kind = 0; kind < 2; kind++) {
		queue->first[kind] = NULL;
		queue->end[kind] = &queue->first[kind];
	}
	return list;
}

bool kvci_disk_task_advance(struct kvci_disk_task *task, uint64_t bytes)
{
	task->left_bytes -= bytes;
	task->offset_bytes += bytes;
	while (bytes != 0) {
		struct iovec *part = &task->parts[0];
		uint64_t step = bytes < part->iov_len ? bytes : part->iov_len;

		part->iov_base = (char *)part->iov_base + step;
		part->iov_len -= step;
		bytes -= step;
		if (part->iov_len == 0 && task->part_count > 1) {
			task->parts[0] = task->parts[1];
			task->part_count--;
		}
	}
	return task->left_bytes == 0;
}
