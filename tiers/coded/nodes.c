/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes that requests ride in, the queues in which they wait, I/O buffers, and the scratch of jobs.
 */
#include <string.h>

#include "base/alloc.h"
#include "tiers/coded/internal.h"

#define CODED_BUFFER_STEP ((size_t)64 << 10)

void coded_queue_init(struct coded_queue *queue)
{
	*queue = (struct coded_queue){.last = &queue->first};
}

void coded_queue_put(struct coded_queue *queue, struct coded_node *node)
{
	node->next = NULL;
	*queue->last = node;
	queue->last = &node->next;
	queue->count++;
}

struct coded_node *coded_queue_take(struct coded_queue *queue)
{
	struct coded_node *node = queue->first;

	if (node == NULL)
		return NULL;
	queue->first = node->next;
	if (queue->first == NULL)
		queue->last = &queue->first;
	queue->count--;
	return node;
}

struct coded_node *coded_node_get(struct coded_tier *tier, struct kvc_tier_request *outer)
{
	struct coded_node *node = tier->idle;

	if (node != NULL)
		tier->idle = node->next;
	else
		node = kvci_alloc_zero(1, sizeof(*node));
	if (node == NULL)
		return NULL;
	node->request = *outer;
	node->request.done = tier->below_done;
	node->request.context = node;
	node->request.progress = NULL;
	node->outer = outer;
	node->tier = tier;
	node->buffer = NULL;
	node->try_pack.codec = NULL;
	node->scored = false;
	return node;
}

void *coded_buffer_get(struct coded_tier *tier, size_t bytes, size_t *ret_bytes)
{
	void *memory = NULL;

	bytes = (bytes + CODED_BUFFER_STEP - 1) / CODED_BUFFER_STEP * CODED_BUFFER_STEP;
	if (tier->buffers_used == CODED_BUFFERS_MAX ||
	    (tier->buffers_used != 0 && tier->figures.buffer_bytes + bytes > tier->env.buffer_bytes))
		return NULL;
	for (struct coded_buffer **link = &tier->buffers; *link != NULL && memory == NULL;) {
		struct coded_buffer *buffer = *link;

		if (buffer->bytes < bytes || buffer->bytes > 2 * bytes) {
			link = &buffer->next;
			continue;
		}
		*link = buffer->next;
		tier->buffers_kept--;
		bytes = buffer->bytes;
		memory = buffer;
	}
	if (memory == NULL)
		memory = kvci_alloc_aligned(KVCI_RECORD_ALIGN_BYTES, bytes);
	if (memory == NULL)
		return NULL;
	tier->buffers_used++;
	tier->figures.buffer_bytes += bytes;
	*ret_bytes = bytes;
	return memory;
}

static void buffer_put(struct coded_tier *tier, void *memory, size_t bytes)
{
	struct coded_buffer *buffer = memory;

	tier->buffers_used--;
	tier->figures.buffer_bytes -= bytes;
	if (bytes > CODED_KEEP_BYTES) {
		kvci_free(memory);
		return;
	}
	buffer->bytes = bytes;
	buffer->next = tier->buffers;
	tier->buffers = buffer;
	if (++tier->buffers_kept <= tier->choice.thread_count + 2)
		return;
	/* The one that was not used for longest. */
	for (struct coded_buffer **link = &tier->buffers; *link != NULL; link = &(*link)->next)
		if ((*link)->next == NULL) {
			kvci_free(*link);
			*link = NULL;
			break;
		}
	tier->buffers_kept--;
}

void coded_node_release(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;

	if (node->buffer != NULL) {
		tier->write_buffers -= node->request.op == KVC_TIER_WRITE;
		buffer_put(tier, node->buffer, node->buffer_bytes);
		node->buffer = NULL;
	}
}

void coded_node_put(struct coded_node *node)
{
	coded_node_release(node);
	if (node->try_pack.codec != NULL) /* it never came to that */
		node->tier->trying = false;
	kvci_free(node->pack.scores);
	node->pack.scores = NULL;
	node->next = node->tier->idle;
	node->tier->idle = node;
}

void coded_node_end(struct coded_node *node, kvc_status_t status)
{
	struct kvc_tier_request *outer = node->outer;

	outer->entry = node->request.entry;
	coded_node_put(node);
	outer->done(outer, status);
}

static void node_told(struct kvci_job *job)
{
	struct coded_node *node = (struct coded_node *)((char *)job - offsetof(struct coded_node, tell));

	coded_node_end(node, node->tier->closing ? KVC_CANCELED : node->tell_status);
}

void coded_node_tell(struct coded_node *node, kvc_status_t status)
{
	node->tell = (struct kvci_job){.done = node_told};
	node->tell_status = status;
	kvci_mailbox_post(node->tier->mailbox, &node->tell);
}

/* ---- scratch of a job ---- */

unsigned coded_scratch_take(struct coded_tier *tier)
{
	unsigned i = 0;

	pthread_mutex_lock(&tier->scratch_lock);
	while (tier->scratch_used[i])
		i++; /* as many as there are threads */
	tier->scratch_used[i] = true;
	pthread_mutex_unlock(&tier->scratch_lock);
	return i;
}

void coded_scratch_give(struct coded_tier *tier, unsigned i)
{
	if (tier->scratches[i].room + tier->scratches[i].image_room > CODED_KEEP_BYTES)
		kvci_pack_scratch_fini(&tier->scratches[i]);
	pthread_mutex_lock(&tier->scratch_lock);
	tier->scratch_used[i] = false;
	pthread_mutex_unlock(&tier->scratch_lock);
}

