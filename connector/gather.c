/* SPDX-License-Identifier: Apache-2.0
 * Gather and scatter: between the engine's pages of a layer and a section of a record, in one pass that also makes or checks the
 * section's checksum. No lock is held; what a block needs is on the stack. */
#include <string.h>

#include "connector/internal.h"

/* ---- plan ---- */

/* Bytes from a page's first to behind its last; false when that does not fit in memory. */
static bool gather_page_span(const struct kvc_layer_memory *memory, uint64_t *ret_span)
{
	uint64_t outer, inner, span;

	return !__builtin_mul_overflow((uint64_t)(memory->run_count[0] - 1), memory->run_stride_bytes[0], &outer) &&
	       !__builtin_mul_overflow((uint64_t)(memory->run_count[1] - 1), memory->run_stride_bytes[1], &inner) &&
	       !__builtin_add_overflow(outer, inner, &span) && !__builtin_add_overflow(span, memory->run_bytes, ret_span);
}

static kvc_status_t gather_check(const struct kvc_layer_memory *memory, const struct kvc_form_sizes *sizes)
{
	uint64_t bytes, span, last, end;

	if (memory->base == NULL || memory->block_count == 0)
		return client_fail(KVC_INVALID, "layer memory without base or blocks");
	if (memory->run_count[0] == 0 || memory->run_count[1] == 0 || memory->run_bytes == 0)
		return client_fail(KVC_INVALID, "layer memory with an empty run");
	if (__builtin_mul_overflow((uint64_t)memory->run_count[0] * memory->run_count[1], memory->run_bytes, &bytes) ||
	    bytes != sizes->page_bytes)
		return client_fail(KVC_INVALID, "runs of %u * %u * %llu bytes are not a page of %llu", memory->run_count[0],
		                   memory->run_count[1], (unsigned long long)memory->run_bytes,
		                   (unsigned long long)sizes->page_bytes);
	if (!gather_page_span(memory, &span) ||
	    __builtin_mul_overflow(memory->block_count - 1, memory->block_stride_bytes, &last) ||
	    __builtin_add_overflow(last, span, &end) || __builtin_add_overflow(end, (uint64_t)(uintptr_t)memory->base, &last))
		return client_fail(KVC_INVALID, "strides lead out of the address space");
	return KVC_OK;
}

kvc_status_t gather_plan(const struct kvc_layer_memory *memory, const struct kvc_form_sizes *sizes, struct layer_plan *ret_plan)
{
	struct layer_plan plan;
	kvc_status_t status = gather_check(memory, sizes);

	if (status != KVC_OK)
		return status;
	plan = (struct layer_plan){
		.base = memory->base,
		.block_stride_bytes = memory->block_stride_bytes,
		.block_count = memory->block_count,
		.run_count = {memory->run_count[0], memory->run_count[1]},
		.run_stride_bytes = {memory->run_stride_bytes[0], memory->run_stride_bytes[1]},
		.run_bytes = memory->run_bytes,
	};
	/* Runs that touch become one: long runs are what the copy is good at. */
	if (plan.run_count[1] == 1 || plan.run_stride_bytes[1] == plan.run_bytes) {
		plan.run_bytes *= plan.run_count[1];
		plan.run_count[1] = plan.run_count[0];
		plan.run_stride_bytes[1] = plan.run_stride_bytes[0];
		plan.run_count[0] = 1;
		plan.run_stride_bytes[0] = 0;
	}
	if (plan.run_count[1] > 1 && plan.run_stride_bytes[1] == plan.run_bytes && plan.run_count[0] == 1) {
		plan.run_bytes *= plan.run_count[1];
		plan.run_count[1] = 1;
	}
	*ret_plan = plan;
	return KVC_OK;
}

/* ---- copy ---- */

enum gather_direction { GATHER, SCATTER };

static inline void gather_run(struct kvci_copy_state *state, enum gather_direction direction, uint8_t *page, uint8_t *section,
                              uint64_t bytes)
{
	if (direction == GATHER)
		kvci_copy_run(state, section, page, bytes, KVCI_COPY_STREAM);
	else
		kvci_copy_run(state, page, section, bytes, KVCI_COPY_STREAM);
}

/* One section: all its pages in token order. */
static uint64_t gather_section(const struct layer_plan *plan, enum gather_direction direction, const uint32_t *engine_blocks,
                               uint32_t page_count, uint8_t *section, uint64_t seed)
{
	bool is_whole = plan->run_count[0] == 1 && plan->run_count[1] == 1;
	bool joins = is_whole && plan->block_stride_bytes == plan->run_bytes;
	struct kvci_copy_state state;

	kvci_copy_begin(&state, seed);
	for (uint32_t i = 0; i < page_count;) {
		uint8_t *page = plan->base + (uint64_t)engine_blocks[i] * plan->block_stride_bytes;
		uint32_t pages = 1;

		if (is_whole) {
			while (joins && i + pages < page_count && engine_blocks[i + pages] == engine_blocks[i] + pages)
				pages++;
			gather_run(&state, direction, page, section, plan->run_bytes * pages);
			section += plan->run_bytes * pages;
		} else {
			for (uint32_t outer = 0; outer < plan->run_count[0]; outer++)
				for (uint32_t inner = 0; inner < plan->run_count[1]; inner++) {
					gather_run(&state, direction,
					           page + outer * plan->run_stride_bytes[0] + inner * plan->run_stride_bytes[1],
					           section, plan->run_bytes);
					section += plan->run_bytes;
				}
		}
		i += pages;
	}
	return kvci_copy_end(&state);
}

bool gather_block(const struct kvc_space *space, const uint32_t *engine_blocks, void *sections, uint64_t seed,
                  uint64_t *ret_checksums, const _Atomic bool *stop)
{
	for (uint32_t i = 0; i < space->form.layer_count; i++) {
		if (atomic_load_explicit(stop, memory_order_relaxed))
			return false;
		ret_checksums[i] = gather_section(&space->layers[i], GATHER, engine_blocks, space->sizes.pages_per_section,
		                                  (uint8_t *)sections + i * space->sizes.section_stride_bytes,
		                                  kvci_section_seed(seed, i));
	}
	return true;
}

/* The head is read once, into `head`: what its owner writes afterwards has no effect. It must be the very head that the daemon told of, and that of a
 * record of this space and form. Of a record that is still being made nothing is read but what its seal covers: the rest is being written. */
static kvc_status_t scatter_head(const struct kvc_space *space, const struct scatter_record *record, void *head,
                                 const struct kvci_record_header **ret_header, const struct kvci_section_entry **ret_entries)
{
	const struct kvci_record_header *header = head;
	const struct kvci_section_entry *entries = (const struct kvci_section_entry *)(header + 1);
	uint32_t layers = space->form.layer_count, count = record->whole ? layers : record->sections;
	size_t table_bytes = count * sizeof(*entries);

	memcpy(head, record->bytes, record->whole ? sizeof(*header) : (size_t)KVCI_RECORD_SEALED_BYTES);
	memcpy((uint8_t *)head + sizeof(*header), record->bytes + sizeof(*header), table_bytes);
	if (header->section_count != layers || kvci_record_checksum_leading(head, count) != record->checksum)
		return KVC_CORRUPT;
	if (record->whole && kvci_record_parse(head, sizeof(*header) + table_bytes, &header, &entries) != KVC_OK)
		return KVC_CORRUPT;
	if (header->magic != KVCI_RECORD_MAGIC || header->record_bytes != record->record_bytes || header->form_id != space->form_id ||
	    header->group != space->form.group || header->shard_index != space->form.shard_index ||
	    (header->flags & KVCI_RECORD_TOMBSTONE) != 0 || memcmp(header->space, space->fingerprint, sizeof(header->space)) != 0)
		return KVC_CORRUPT;
	if (header->epoch < space->epoch)
		return KVC_STALE_EPOCH;
	if (!kvci_record_is_image_leading(header, entries, &space->sizes, count)) /* the seal does not say where sections lie */
		return KVC_CORRUPT;
	*ret_header = header;
	*ret_entries = entries;
	return KVC_OK;
}

kvc_status_t scatter_block(const struct kvc_space *space, const uint32_t *engine_blocks, const struct scatter_record *record,
                           uint32_t first, uint32_t end, const _Atomic bool *stop, uint64_t deadline_ns)
{
	_Alignas(64) uint8_t head[KVCI_RECORD_HEAD_BYTES_MAX];
	const struct kvci_record_header *header;
	const struct kvci_section_entry *entries;
	struct kvci_block_id id;
	kvc_status_t status = scatter_head(space, record, head, &header, &entries);
	uint64_t seed;

	if (status != KVC_OK)
		return status;
	memcpy(id.space, header->space, sizeof(id.space));
	memcpy(id.hash, header->hash, sizeof(id.hash));
	id.group = header->group;
	id.shard_index = header->shard_index;
	seed = kvci_block_seed(&id);
	for (uint32_t i = first; i < end; i++) {
		/* The section is read only; SCATTER writes the pages. */
		uint8_t *section = (uint8_t *)record->bytes + (uint64_t)entries[i].offset_64 * KVCI_SECTION_ALIGN_BYTES;

		if (atomic_load_explicit(stop, memory_order_relaxed))
			return KVC_CANCELED;
		if (deadline_ns != 0 && kvci_clock_ns() >= deadline_ns)
			return KVC_TIMED_OUT;
		if (gather_section(&space->layers[i], SCATTER, engine_blocks, space->sizes.pages_per_section, section,
		                   kvci_section_seed(seed, i)) != entries[i].raw_checksum)
			return KVC_CORRUPT;
	}
	return KVC_OK;
}
