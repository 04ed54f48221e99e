/* SPDX-License-Identifier: Apache-2.0
 *
 * The coded tier's owner side. Every request rides in a node:
 *
 *   passes     READ of a record that lies raw, WRITE that stays raw, FLUSH: straight to the tier below, with its own buffer
 *   READ       waits for an I/O buffer -> the tier below reads the coded record -> jobs decode unit by unit into the request's buffer
 *   WRITE      waits for an I/O buffer and a thread -> one job codes it -> the tier below writes what came out, or the raw record
 *
 * At most all threads but one code at a time, so that a load finds one. What the tier below is too busy for is tried again by a timer.
 */
#include "tiers/coded/internal.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"

#define CODED_BUFFER_BYTES (UINT64_C(256) << 20)
#define CODED_RETRY_NS KVCI_MS

static struct coded_tier *coded_of(struct kvc_tier *tier)
{
	return (struct coded_tier *)tier;
}

const char *kvci_coded_mode_name(enum kvci_coded_mode mode)
{
	static const char *const names[] = {"auto", "raw", "split", "zstd", "lz4"};

	return (unsigned)mode < sizeof(names) / sizeof(names[0]) ? names[mode] : "unknown";
}

static void coded_decide(struct coded_tier *tier)
{
	uint16_t id = coded_choice_decide(&tier->choice);
	const struct kvc_codec_ops *codec = id != KVC_CODEC_RAW ? kvc_codec_by_id(id) : NULL;
	char why[sizeof(tier->figures.why)];

	if (codec == NULL || tier->env.chosen == NULL)
		return;
	coded_choice_why(&tier->choice, why, sizeof(why));
	tier->env.chosen(tier->env.context, codec->name, !tier->choice.codecs[id].refused, why);
}

static kvc_status_t coded_submit_below(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;
	bool write = node->request.op == KVC_TIER_WRITE;
	kvc_status_t status = kvci_tier_submit(tier->below, &node->request);

	if (status != KVC_OK || node->request.op == KVC_TIER_FLUSH)
		return status;
	coded_choice_begin(&tier->choice, write, kvci_clock_ns());
	if (node->buffer == NULL)
		coded_region_passed(tier, node->request.buffer, (size_t)kvc_tier_request_pages(&node->request) * KVCI_RECORD_ALIGN_BYTES);
	return KVC_OK;
}

static void coded_retry_later(struct coded_tier *tier)
{
	struct itimerspec due = {.it_value = {.tv_nsec = (long)CODED_RETRY_NS}};

	if (!tier->retry_armed)
		tier->retry_armed = timerfd_settime(tier->timer_fd, 0, &due, NULL) == 0;
}

/* ---- jobs ---- */

static void coded_give_job(struct coded_node *node, unsigned index, void (*run)(struct kvci_job *job), void (*done)(struct kvci_job *job))
{
	struct coded_job *job = &node->jobs[index];

	/* No mailbox: run posts it when it is through, for it may go around once more. */
	job->job = (struct kvci_job){.run = run, .done = done};
	job->node = node;
	node->tier->jobs_out++;
	kvci_workers_submit(node->tier->workers, &job->job);
}

/* ---- write ---- */

static void encode_run(struct kvci_job *job)
{
	struct coded_node *node = ((struct coded_job *)job)->node;
	unsigned scratch = coded_scratch_take(node->tier);
	uint64_t begin_ns;

	if (node->try_pack.codec != NULL)
		coded_try_record(&node->try_pack, node->outer->buffer, node->buffer, &node->tier->scratches[scratch], &node->try_result);
	begin_ns = kvci_clock_ns();
	node->coded_bytes = 0;
	node->status = node->pack.codec == NULL ? KVC_OK : kvci_pack_encode(&node->pack, node->outer->buffer, node->buffer,
	                                                                    &node->tier->scratches[scratch], &node->coded_bytes, &node->lossy);
	node->ns = node->pack.codec != NULL ? kvci_clock_ns() - begin_ns : 0;
	node->scored = node->status == KVC_OK && node->coded_bytes == 0 && node->pack.scores != NULL && kvci_pack_holds_scores(&node->pack) &&
	               kvci_pack_keep_scores(&node->pack, node->outer->buffer, node->buffer) == KVC_OK;
	coded_scratch_give(node->tier, scratch);
	kvci_mailbox_post(node->tier->mailbox, job);
}

/* Gives what is ready to be written to the tier below. */
static void coded_write_below(struct coded_node *node)
{
	kvc_status_t status = coded_submit_below(node);

	if (status == KVC_BUSY) {
		coded_queue_put(&node->tier->coded, node);
		coded_retry_later(node->tier);
	} else if (status != KVC_OK) {
		coded_node_tell(node, status);
	}
}

static void encode_done(struct kvci_job *job)
{
	struct coded_node *node = ((struct coded_job *)job)->node;
	struct coded_tier *tier = node->tier;
	size_t bytes = node->coded_bytes;

	tier->jobs_out--;
	tier->encoding--;
	tier->figures.encode_ns += node->ns;
	if (node->try_pack.codec != NULL) {
		tier->trying = false;
		coded_choice_tried(&tier->choice, node->try_pack.codec->id, &node->try_result);
		node->try_pack.codec = NULL;
		coded_decide(tier);
	}
	if (tier->closing) {
		coded_node_end(node, KVC_CANCELED);
		return;
	}
	if (node->status == KVC_OK && bytes != 0) {
		coded_choice_encoded(&tier->choice, node->pack.codec->id, node->pack.sizes.record_bytes, bytes, node->ns);
		coded_decide(tier);
		node->request.buffer = node->buffer;
		node->request.flags |= KVC_TIER_CODED;
		node->request.entry.place = (struct kvc_place){.length_4k = (uint32_t)(bytes / KVCI_RECORD_ALIGN_BYTES)};
		if (node->lossy)
			node->request.entry.flags |= KVCI_RECORD_LOSSY;
	} else if (node->scored) {
		node->request.buffer = node->buffer;
		tier->figures.raw_writes++;
	} else {
		/* It would not shrink; or it is not the record it should be, which the tier below is the judge of. */
		coded_node_release(node);
		tier->figures.raw_writes++;
	}
	coded_write_below(node);
}

/* Whether, and how, a record is to be packed. */
static bool coded_wants(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;
	const struct kvc_tier_request *request = node->outer;
	struct kvci_pack *pack = &node->pack;
	struct kvci_coded_target target = {0};

	if (tier->env.describe == NULL || (request->flags & KVC_TIER_CODED) != 0)
		return false;
	tier->env.describe(tier->env.context, &request->entry, true, &target);
	if (target.form.struct_bytes == 0 || kvc_form_sizes(&target.form, &pack->sizes, NULL) != KVC_OK ||
	    pack->sizes.record_bytes != (uint64_t)request->entry.raw_length_4k * KVCI_RECORD_ALIGN_BYTES)
		return false;
	pack->form = target.form;
	pack->record_checksum = request->entry.record_checksum;
	coded_pick(node, &target);
	if (target.hurry) {
		tier->figures.hurried_writes += pack->codec != NULL;
		pack->codec = NULL;
	}
	if (target.scores != NULL) {
		size_t bytes = (size_t)target.form.block_tokens * target.form.kv_heads;

		pack->scores = kvci_alloc(bytes); /* none then */
		if (pack->scores != NULL)
			memcpy(pack->scores, target.scores, bytes);
		node->try_pack.scores = pack->scores;
	}
	return pack->codec != NULL || node->try_pack.codec != NULL || (pack->scores != NULL && kvci_pack_holds_scores(pack));
}

static size_t encode_room(const struct coded_node *node)
{
	size_t room = node->pack.codec != NULL ? kvci_pack_room(&node->pack) : 0;
	size_t try_room = node->try_pack.codec != NULL ? kvci_pack_room(&node->try_pack) : 0;

	if (node->pack.scores != NULL && room < node->pack.sizes.record_bytes)
		room = node->pack.sizes.record_bytes;
	return room > try_room ? room : try_room;
}

static bool encode_start(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;
	unsigned most = tier->choice.thread_count > 1 ? tier->choice.thread_count - 1 : 1;

	if (tier->encoding >= most || tier->write_buffers >= CODED_BUFFERS_MAX / 2)
		return false;
	node->buffer = coded_buffer_get(tier, encode_room(node), &node->buffer_bytes);
	if (node->buffer == NULL)
		return false;
	tier->write_buffers++;
	tier->encoding++;
	coded_give_job(node, 0, encode_run, encode_done);
	return true;
}

/* ---- read ---- */

/* Owner: sections that are there, from the first on, are handed out. Each job that posts this posts its own end behind it: the node lives. */
static void decode_progress(struct kvci_job *job)
{
	struct coded_node *node = (struct coded_node *)((char *)job - offsetof(struct coded_node, progress));
	uint32_t leading = node->leading;

	atomic_exchange(&node->progress_posted, false); /* first: what is decoded from here on posts again */
	while (leading < node->header->section_count && __atomic_load_n(&node->decoded[leading], __ATOMIC_ACQUIRE) != 0)
		leading++;
	if (leading == node->leading || node->tier->closing)
		return;
	node->leading = leading;
	node->outer->progress(node->outer, leading);
}

static bool decode_sections_wanted(const struct coded_node *node)
{
	return node->outer->progress != NULL && __atomic_load_n(node->outer->progress_wanted, __ATOMIC_RELAXED) != 0;
}

/* On a worker: a unit is decoded. Its checksums are in the head before anybody hears of it: a lossy codec's are known only now. */
static void decode_tell(struct coded_node *node, uint32_t section, uint32_t layers)
{
	struct kvci_section_entry *table = (struct kvci_section_entry *)((struct kvci_record_header *)node->outer->buffer + 1);

	for (uint32_t i = section; i < section + layers; i++) {
		if ((node->header->flags & KVCI_RECORD_LOSSY) != 0)
			table[i].raw_checksum = table[i].stored_checksum = node->checksums[i];
		__atomic_store_n(&node->decoded[i], 1, __ATOMIC_RELEASE);
	}
	if (decode_sections_wanted(node) && !atomic_exchange(&node->progress_posted, true))
		kvci_mailbox_post(node->tier->mailbox, &node->progress);
}

/* All is decoded. Of the head nothing is written again that may be being read: a lossy record lacks the header's checksum alone. */
static void decode_seal(struct coded_node *node)
{
	struct kvci_record_header *header = node->outer->buffer;

	if ((node->header->flags & KVCI_RECORD_LOSSY) != 0) {
		header->header_checksum = kvci_record_header_checksum(header);
		node->seal = kvci_record_checksum(header);
		return;
	}
	for (uint32_t i = 0; i < node->header->section_count; i++)
		if (node->checksums[i] != node->sections[i].raw_checksum) /* a lossy codec in a record that does not say so */
			node->status = KVC_CORRUPT;
}

/* Units until none is left. While sections are wanted, one: then the job goes behind the others, so that records that are decoded at a time go on abreast,
 * for a layer is of use when all of a request's records have it. */
static void decode_run(struct kvci_job *job)
{
	struct coded_node *node = ((struct coded_job *)job)->node;
	struct coded_tier *tier = node->tier;
	unsigned scratch = coded_scratch_take(tier), section;
	uint64_t begin_ns = kvci_clock_ns();
	bool again = false;

	section = atomic_load(&node->section);
	while (section < node->header->section_count && node->status == KVC_OK && !again) {
		uint32_t layers = kvci_pack_unit(node->header, node->sections, section);
		kvc_status_t status;

		if (!atomic_compare_exchange_strong(&node->section, &section, section + layers))
			continue;
		status = kvci_pack_decode(&node->pack, node->header, node->sections, node->buffer, section, node->outer->buffer, node->checksums,
		                          &tier->scratches[scratch]);
		if (status != KVC_OK)
			node->status = status;
		else
			decode_tell(node, section, layers);
		section = atomic_load(&node->section);
		again = section < node->header->section_count && decode_sections_wanted(node);
	}
	coded_scratch_give(tier, scratch);
	node->ns += kvci_clock_ns() - begin_ns;
	if (again) {
		kvci_workers_submit(tier->workers, job);
		return;
	}
	if (atomic_fetch_sub(&node->running, 1) == 1 && node->status == KVC_OK)
		decode_seal(node);
	kvci_mailbox_post(tier->mailbox, job); /* with the last one the node is the owner's */
}

static void decode_done(struct kvci_job *job)
{
	struct coded_node *node = ((struct coded_job *)job)->node;
	struct coded_tier *tier = node->tier;
	struct kvc_tier_entry *entry = &node->request.entry;
	kvc_status_t status = node->status;

	tier->jobs_out--;
	if (--node->jobs_left != 0)
		return;
	tier->decoding--;
	tier->figures.decode_ns += node->ns;
	if (status == KVC_OK) {
		tier->figures.coded_reads++;
		tier->figures.coded_read_raw_bytes += node->pack.sizes.record_bytes;
		tier->figures.coded_read_bytes += (uint64_t)entry->place.length_4k * KVCI_RECORD_ALIGN_BYTES;
		coded_choice_decoded(&tier->choice, node->codec_id, node->pack.sizes.record_bytes, node->ns);
		coded_decide(tier);
		if ((node->header->flags & KVCI_RECORD_LOSSY) != 0) {
			entry->record_checksum = node->seal;
			entry->flags |= KVCI_RECORD_LOSSY;
		}
	}
	coded_node_end(node, status);
}

/* The raw image's head before its sections, so that they can be used as they come. A lossy record's table gets its checksums with them. False: it is
 * not the record asked for. */
static bool decode_head(struct coded_node *node)
{
	for (uint32_t i = 0; i < node->header->section_count; i++)
		node->checksums[i] = node->sections[i].raw_checksum;
	memset(node->decoded, 0, node->header->section_count);
	node->seal = kvci_pack_head(&node->pack, node->header, node->checksums, node->outer->buffer);
	node->leading = 0;
	node->progress_posted = false;
	node->progress = (struct kvci_job){.done = decode_progress, .mailbox = node->tier->mailbox};
	return (node->header->flags & KVCI_RECORD_LOSSY) != 0 || node->seal == node->request.entry.record_checksum;
}

/* The coded record is in the I/O buffer; the tier below checked its head against the entry. */
static kvc_status_t decode_start(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;
	size_t available = (size_t)node->request.entry.place.length_4k * KVCI_RECORD_ALIGN_BYTES;
	uint32_t count = node->pack.form.layer_count, jobs = tier->choice.thread_count;

	if (kvci_record_parse(node->buffer, available, &node->header, &node->sections) != KVC_OK ||
	    node->header->record_bytes != available || !kvci_pack_fits(&node->pack, node->header, node->sections))
		return KVC_CORRUPT;
	if (node->header->profile_id != 0) {
		node->pack.profile = tier->env.profile != NULL ? tier->env.profile(tier->env.context, node->header->profile_id) : NULL;
		if (node->pack.profile == NULL) {
			tier->figures.profile_missing++;
			return KVC_MISS;
		}
	}
	if (node->checksum_room < count) {
		kvci_free(node->checksums);
		node->checksum_room = 0;
		node->checksums = kvci_alloc(count * (sizeof(node->checksums[0]) + sizeof(node->decoded[0])));
		if (node->checksums == NULL)
			return KVC_NO_MEMORY;
		node->checksum_room = count;
		node->decoded = (uint8_t *)(node->checksums + count);
	}
	if (!decode_head(node))
		return KVC_CORRUPT;
	node->codec_id = KVC_CODEC_RAW;
	for (uint32_t i = 0; i < count && node->codec_id == KVC_CODEC_RAW; i++)
		node->codec_id = node->sections[i].codec_k != 0 ? node->sections[i].codec_k : node->sections[i].codec_v;
	/* By turns, with as many records as threads: one job each keeps them abreast. */
	if (tier->decoding >= tier->choice.thread_count && decode_sections_wanted(node))
		jobs = 1;
	jobs = jobs > count ? count : jobs;
	tier->decoding++;
	node->section = 0;
	node->status = KVC_OK;
	node->ns = 0;
	node->running = jobs;
	node->jobs_left = jobs;
	for (uint32_t i = 0; i < jobs; i++)
		coded_give_job(node, i, decode_run, decode_done);
	return KVC_OK;
}

/* OK: under way. NO_SPACE: there is no buffer now. BUSY, or what else the tier below says. */
static kvc_status_t read_start(struct coded_node *node)
{
	size_t bytes = (size_t)node->request.entry.place.length_4k * KVCI_RECORD_ALIGN_BYTES;
	kvc_status_t status;

	node->buffer = coded_buffer_get(node->tier, bytes, &node->buffer_bytes);
	if (node->buffer == NULL)
		return KVC_NO_SPACE;
	node->request.buffer = node->buffer;
	node->request.flags |= KVC_TIER_NO_VERIFY; /* decoding does */
	status = coded_submit_below(node);
	if (status != KVC_OK)
		coded_node_release(node);
	return status;
}

/* ---- what comes back from below ---- */

static void coded_count(struct coded_node *node)
{
	struct kvci_coded_figures *figures = &node->tier->figures;

	if (node->request.op == KVC_TIER_READ) {
		figures->raw_reads += node->buffer == NULL && (node->request.flags & KVC_TIER_STORED) == 0;
	} else if (node->request.op == KVC_TIER_WRITE && node->buffer != NULL && !node->scored) {
		figures->coded_writes++;
		figures->coded_write_raw_bytes += node->pack.sizes.record_bytes;
		figures->coded_write_bytes += node->coded_bytes;
		figures->lossy_writes += node->lossy;
	}
}

/* A record that lay raw with its scores: the image has none. */
static void coded_drop_scores(struct coded_node *node)
{
	const struct kvc_tier_request *outer = node->outer;
	const struct kvci_record_header *header = outer->buffer;
	const struct kvci_section_entry *sections;

	if (outer->op == KVC_TIER_READ && (outer->flags & KVC_TIER_STORED) == 0 && (header->flags & KVCI_RECORD_SCORES) != 0 &&
	    kvci_record_parse(outer->buffer, (size_t)outer->entry.raw_length_4k * KVCI_RECORD_ALIGN_BYTES, &header, &sections) == KVC_OK)
		kvci_record_drop_scores(outer->buffer);
}

static void coded_below_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct coded_node *node = request->context;
	struct coded_tier *tier = node->tier;
	bool write = request->op == KVC_TIER_WRITE;

	if (request->op != KVC_TIER_FLUSH) {
		coded_choice_end(&tier->choice, write, (uint64_t)kvc_tier_request_pages(request) * KVCI_RECORD_ALIGN_BYTES, status == KVC_OK,
		                 kvci_clock_ns());
		coded_decide(tier);
	}
	if (status == KVC_OK && node->buffer != NULL && !write) {
		if (tier->closing) {
			coded_node_end(node, KVC_CANCELED);
			return;
		}
		status = decode_start(node);
		if (status == KVC_OK)
			return;
	} else if (status == KVC_OK) {
		coded_drop_scores(node);
		coded_count(node);
	}
	coded_node_end(node, status);
}

/* ---- queues ---- */

static void coded_pump(struct coded_tier *tier)
{
	struct coded_node *node;
	kvc_status_t status;

	if (tier->closing)
		return;
	for (uint32_t left = tier->coded.count; left > 0; left--)
		coded_write_below(coded_queue_take(&tier->coded)); /* what is still refused goes behind the others */
	while ((node = tier->reads.first) != NULL) {
		status = read_start(node);
		if (status == KVC_NO_SPACE && tier->buffers_used != 0)
			break; /* one that is given back pumps again */
		if (status == KVC_BUSY) {
			coded_retry_later(tier);
			break;
		}
		coded_queue_take(&tier->reads);
		if (status == KVC_NO_SPACE)
			status = KVC_NO_MEMORY;
		if (status != KVC_OK)
			coded_node_tell(node, status);
	}
	while ((node = tier->writes.first) != NULL) {
		bool started = encode_start(node);

		if (!started && (tier->buffers_used != 0 || tier->encoding != 0))
			break;
		coded_queue_take(&tier->writes);
		if (!started) { /* no memory for a buffer: raw, then */
			tier->figures.raw_writes++;
			coded_write_below(node);
		}
	}
}

static kvc_status_t coded_pass(struct coded_node *node)
{
	kvc_status_t status = coded_submit_below(node);

	if (status != KVC_OK)
		coded_node_put(node);
	return status;
}

/* A record that lies coded: is it known how to lay it out? */
static kvc_status_t coded_read(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;
	const struct kvc_tier_entry *entry = &node->request.entry;
	struct kvci_coded_target target = {0};
	kvc_status_t status;

	if (tier->env.describe != NULL)
		tier->env.describe(tier->env.context, entry, false, &target);
	if (target.form.struct_bytes == 0 || kvc_form_sizes(&target.form, &node->pack.sizes, NULL) != KVC_OK ||
	    node->pack.sizes.record_bytes != (uint64_t)entry->raw_length_4k * KVCI_RECORD_ALIGN_BYTES) {
		coded_node_tell(node, KVC_MISS);
		return KVC_OK;
	}
	node->pack.form = target.form;
	node->pack.profile = NULL;
	status = tier->reads.first == NULL ? read_start(node) : KVC_NO_SPACE;
	if (status == KVC_NO_SPACE && tier->buffers_used != 0 && tier->reads.count < CODED_WAIT_MAX) {
		coded_queue_put(&tier->reads, node);
		return KVC_OK;
	}
	if (status != KVC_OK)
		coded_node_put(node);
	return status == KVC_NO_SPACE ? KVC_BUSY : status;
}

static kvc_status_t coded_write(struct coded_node *node)
{
	struct coded_tier *tier = node->tier;

	if (!coded_wants(node)) {
		kvc_status_t status = coded_pass(node);

		tier->figures.raw_writes += status == KVC_OK;
		return status;
	}
	if (tier->writes.count >= CODED_WAIT_MAX) {
		coded_node_put(node);
		return KVC_BUSY;
	}
	coded_queue_put(&tier->writes, node);
	coded_pump(tier);
	return KVC_OK;
}

static kvc_status_t coded_submit(struct kvc_tier *base, struct kvc_tier_request *request)
{
	struct coded_tier *tier = coded_of(base);
	struct coded_node *node;

	if (tier->closing)
		return KVC_BUSY;
	node = coded_node_get(tier, request);
	if (node == NULL)
		return KVC_NO_MEMORY;
	if (request->op == KVC_TIER_WRITE)
		return coded_write(node);
	if (request->op == KVC_TIER_READ && (request->flags & KVC_TIER_STORED) == 0 &&
	    request->entry.place.length_4k < request->entry.raw_length_4k)
		return coded_read(node);
	return coded_pass(node);
}

/* ---- life ---- */

static void coded_tried(struct kvci_job *job)
{
	struct coded_tier *tier = (struct coded_tier *)((char *)job - offsetof(struct coded_tier, try_job));

	tier->jobs_out--;
	coded_choice_tried(&tier->choice, KVC_CODEC_SPLIT, &tier->try_result);
	coded_decide(tier);
}

static void coded_try_run(struct kvci_job *job)
{
	struct coded_tier *tier = (struct coded_tier *)((char *)job - offsetof(struct coded_tier, try_job));

	coded_try_made(&tier->try_result);
}

static kvc_status_t coded_open(const struct kvc_tier_option *options, struct kvc_tier **ret_tier, char **ret_error)
{
	*ret_error = kvci_strdup("a filter is not opened: it is wrapped around a tier");
	return KVC_UNSUPPORTED;
}

/* Frees the filter alone. */
static void coded_unwrap(struct coded_tier *tier)
{
	kvci_workers_destroy(tier->workers);
	if (tier->mailbox != NULL)
		while (kvci_mailbox_drain(tier->mailbox, 64) != 0)
			;
	kvci_mailbox_destroy(tier->mailbox);
	if (tier->timer_fd >= 0)
		close(tier->timer_fd);
	if (tier->epoll_fd >= 0)
		close(tier->epoll_fd);
	while (tier->buffers != NULL) {
		struct coded_buffer *buffer = tier->buffers;

		tier->buffers = buffer->next;
		kvci_free(buffer);
	}
	while (tier->idle != NULL) {
		struct coded_node *node = tier->idle;

		tier->idle = node->next;
		kvci_free(node->checksums);
		kvci_free(node);
	}
	for (unsigned i = 0; i < CODED_THREADS_MAX; i++)
		kvci_pack_scratch_fini(&tier->scratches[i]);
	pthread_mutex_destroy(&tier->scratch_lock);
	kvci_free(tier->regions);
	tier->tier.magic = 0;
	kvci_free(tier);
}

static kvc_status_t coded_watch(struct coded_tier *tier, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(tier->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? KVC_OK : kvc_status_from_errno(errno);
}

static unsigned coded_threads(const struct kvci_coded_env *env)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned count = env->thread_count != 0 ? env->thread_count : cores > 0 ? (unsigned)cores : 1;

	return count > CODED_THREADS_MAX ? CODED_THREADS_MAX : count;
}

kvc_status_t kvci_coded_wrap(struct kvc_tier *below, const struct kvci_coded_env *env, struct kvc_tier **ret_tier)
{
	struct coded_tier *tier = kvci_alloc_zero(1, sizeof(*tier));
	kvc_status_t status;

	if (tier == NULL)
		return KVC_NO_MEMORY;
	tier->tier.ops = &kvc_tier_coded_ops;
	tier->tier.magic = KVC_TIER_MAGIC;
	tier->below = below;
	tier->env = *env;
	if (tier->env.buffer_bytes == 0)
		tier->env.buffer_bytes = CODED_BUFFER_BYTES;
	pthread_mutex_init(&tier->scratch_lock, NULL);
	coded_queue_init(&tier->reads);
	coded_queue_init(&tier->writes);
	coded_queue_init(&tier->coded);
	tier->below_done = coded_below_done;
	coded_choice_init(&tier->choice, env->mode, coded_threads(env));
	tier->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	tier->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	status = tier->epoll_fd >= 0 && tier->timer_fd >= 0 ? kvci_mailbox_create(&tier->mailbox) : kvc_status_from_errno(errno);
	if (status == KVC_OK)
		status = kvci_workers_create("coded", tier->choice.thread_count, &tier->workers);
	if (status == KVC_OK)
		status = coded_watch(tier, kvci_mailbox_fd(tier->mailbox));
	if (status == KVC_OK)
		status = coded_watch(tier, tier->timer_fd);
	if (status == KVC_OK)
		status = coded_watch(tier, kvci_tier_fd(below));
	if (status != KVC_OK)
		goto fail;
	if (env->mode == KVCI_CODED_AUTO) {
		tier->try_job = (struct kvci_job){.run = coded_try_run, .done = coded_tried, .mailbox = tier->mailbox};
		tier->jobs_out++;
		kvci_workers_submit(tier->workers, &tier->try_job);
	}
	*ret_tier = &tier->tier;
	return KVC_OK;
fail:
	coded_unwrap(tier);
	return status;
}

static void coded_close(struct kvc_tier *base)
{
	struct coded_tier *tier = coded_of(base);
	struct coded_queue *const queues[] = {&tier->reads, &tier->writes, &tier->coded};
	struct coded_node *node;

	tier->closing = true;
	for (unsigned i = 0; i < sizeof(queues) / sizeof(queues[0]); i++)
		while ((node = coded_queue_take(queues[i])) != NULL)
			coded_node_end(node, KVC_CANCELED);
	while (tier->jobs_out != 0 || kvci_mailbox_drain(tier->mailbox, 64) != 0) {
		struct pollfd waiting = {.fd = kvci_mailbox_fd(tier->mailbox), .events = POLLIN};

		if (kvci_mailbox_drain(tier->mailbox, 64) == 0 && tier->jobs_out != 0)
			poll(&waiting, 1, -1);
	}
	kvci_tier_close(tier->below); /* what is under way there ends here */
	coded_unwrap(tier);
}

static void coded_poll(struct kvc_tier *base, unsigned max_completions)
{
	struct coded_tier *tier = coded_of(base);
	unsigned ran = kvci_mailbox_drain(tier->mailbox, max_completions);
	uint64_t expirations;

	if (tier->retry_armed && read(tier->timer_fd, &expirations, sizeof(expirations)) > 0)
		tier->retry_armed = false;
	if (ran < max_completions)
		kvci_tier_poll(tier->below, max_completions - ran);
	coded_pump(tier);
}

/* ---- what goes through ---- */

static void coded_caps(struct kvc_tier *tier, struct kvc_tier_caps *ret_caps)
{
	kvci_tier_caps(coded_of(tier)->below, ret_caps);
}

static kvc_status_t coded_attach(struct kvc_tier *tier, const struct kvc_tier_events *events)
{
	return kvci_tier_attach(coded_of(tier)->below, events);
}

static int coded_fd(struct kvc_tier *tier)
{
	return coded_of(tier)->epoll_fd;
}

static kvc_status_t coded_drop(struct kvc_tier *tier, const struct kvc_tier_entry *entry)
{
	return kvci_tier_drop(coded_of(tier)->below, entry);
}

static kvc_status_t coded_register_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	return coded_region_add(coded_of(tier), base, length_bytes);
}

static void coded_unregister_memory(struct kvc_tier *tier, void *base, size_t length_bytes)
{
	coded_region_remove(coded_of(tier), base, length_bytes);
}

static void coded_stats(struct kvc_tier *tier, struct kvc_tier_stats *ret_stats)
{
	kvci_tier_stats(coded_of(tier)->below, ret_stats);
}

void kvci_coded_figures(const struct kvc_tier *base, struct kvci_coded_figures *ret_figures)
{
	const struct coded_tier *tier = (const struct coded_tier *)base;
	const struct coded_choice *choice = &tier->choice;

	*ret_figures = tier->figures;
	ret_figures->waiting = tier->reads.count + tier->writes.count + tier->coded.count;
	ret_figures->encode_bytes_per_s = (uint64_t)choice->codecs[KVC_CODEC_SPLIT].encode_rate;
	ret_figures->decode_bytes_per_s = (uint64_t)choice->codecs[KVC_CODEC_SPLIT].decode_rate;
	ret_figures->device_bytes_per_s = (uint64_t)coded_choice_device(choice);
	ret_figures->device_measured = choice->read_rate != 0;
	ret_figures->thread_count = choice->thread_count;
	ret_figures->mode = tier->env.mode;
	ret_figures->choice = tier->env.mode != KVCI_CODED_AUTO               ? kvci_coded_mode_name(tier->env.mode)
	                      : choice->codecs[KVC_CODEC_SPLIT].refused ? "raw"
	                                                                : "split";
	ret_figures->choice_profiled = !choice->codecs[KVC_CODEC_SPLIT_PROFILE].judged   ? ""
	                               : choice->codecs[KVC_CODEC_SPLIT_PROFILE].refused ? ret_figures->choice
	                                                                                 : "split+profile";
	if (tier->env.mode == KVCI_CODED_AUTO || coded_choice_judges(choice))
		coded_choice_why(choice, ret_figures->why, sizeof(ret_figures->why));
	ret_figures->codec_count = 0;
	for (uint16_t id = 1; id < CODED_CODECS; id++) {
		const struct coded_rates *rates = &choice->codecs[id];
		const struct kvc_codec_ops *codec = rates->encode_rate != 0 || rates->decode_rate != 0 || rates->judged ? kvc_codec_by_id(id) : NULL;

		if (codec != NULL)
			ret_figures->codecs[ret_figures->codec_count++] = (struct kvci_coded_codec){
				.name = codec->name, .encode_bytes_per_s = (uint64_t)rates->encode_rate, .decode_bytes_per_s = (uint64_t)rates->decode_rate,
				.stored_share = rates->stored_share, .relative = coded_choice_relative(choice, id), .judged = rates->judged,
				.refused = rates->refused,
			};
	}
}

const struct kvc_tier_ops kvc_tier_coded_ops = {
	.struct_bytes = sizeof(struct kvc_tier_ops),
	.abi_version = KVC_TIER_ABI,
	.name = "coded",
	.open = coded_open,
	.caps = coded_caps,
	.attach = coded_attach,
	.fd = coded_fd,
	.poll = coded_poll,
	.submit = coded_submit,
	.drop = coded_drop,
	.register_memory = coded_register_memory,
	.unregister_memory = coded_unregister_memory,
	.stats = coded_stats,
	.close = coded_close,
};
