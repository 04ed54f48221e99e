/* SPDX-License-Identifier: Apache-2.0
 * See scan.h. Reads go through one window; over large records it is small, since only their heads are looked at. */
#include "tiers/disk/scan.h"

#include <string.h>

#include "base/alloc.h"
#include "tiers/disk/folder.h"

enum {
	SCAN_WINDOW_PAGES = 256,   /* 1 MiB */
	SCAN_HOP_PAGES = 64,       /* behind a record longer than this the next window is as small as a head */
};

struct scan_state {
	const struct kvci_disk_scan *scan;
	uint8_t *window;
	uint32_t window_4k, window_pages; /* what it holds */
	bool window_failed;               /* its first page cannot be read */
	uint8_t *whole;                   /* a record for verify */
	uint64_t whole_bytes;
	uint32_t gap_4k;                  /* first page of the gap that is open, 0: none */
	bool gap_io;
	uint32_t end_4k;
};

/* Fills the window from page `at`, `pages` long if the scan's range has them. One page at a time where the device reports errors. */
static void scan_fill(struct scan_state *state, uint32_t at, uint32_t pages)
{
	const struct kvci_disk_scan *scan = state->scan;
	uint32_t left = scan->to_4k - at;
	size_t bytes = 0;

	if (pages > left)
		pages = left;
	state->window_4k = at;
	state->window_failed = false;
	if (kvci_disk_pread(scan->fd, state->window, (size_t)pages * KVCI_DISK_PAGE_BYTES,
	                    (uint64_t)at * KVCI_DISK_PAGE_BYTES, &bytes) != KVC_OK) {
		bytes = 0;
		if (kvci_disk_pread(scan->fd, state->window, KVCI_DISK_PAGE_BYTES, (uint64_t)at * KVCI_DISK_PAGE_BYTES, &bytes) !=
		    KVC_OK) {
			state->window_failed = true;
			bytes = 0;
		}
	}
	state->window_pages = (uint32_t)(bytes / KVCI_DISK_PAGE_BYTES);
	if (scan->progress != NULL)
		scan->progress(scan->context, at);
}

static const uint8_t *scan_page(const struct scan_state *state, uint32_t at)
{
	if (at < state->window_4k || at - state->window_4k >= state->window_pages)
		return NULL;
	return state->window + (size_t)(at - state->window_4k) * KVCI_DISK_PAGE_BYTES;
}

static void scan_gap_open(struct scan_state *state, uint32_t at, bool io)
{
	if (state->gap_4k == 0)
		state->gap_4k = at;
	state->gap_io |= io;
}

static void scan_gap_close(struct scan_state *state, uint32_t at)
{
	if (state->gap_4k != 0 && state->scan->gap != NULL)
		state->scan->gap(state->scan->context, state->gap_4k, at, state->gap_io);
	state->gap_4k = 0;
	state->gap_io = false;
}

/* A header of this place: parsed from the window, which is filled further when the table needs it. */
static bool scan_header(struct scan_state *state, uint32_t at, const struct kvci_record_header **ret_header,
                        const struct kvci_section_entry **ret_sections)
{
	const struct kvci_disk_scan *scan = state->scan;
	const uint8_t *page = scan_page(state, at);
	const struct kvci_record_header *header = (const struct kvci_record_header *)page;
	uint64_t head_bytes;
	size_t available;

	if (header->magic != KVCI_RECORD_MAGIC || header->section_count > KVC_FORM_LAYERS_MAX)
		return false;
	head_bytes = sizeof(*header) + (uint64_t)header->section_count * sizeof(struct kvci_section_entry);
	available = (size_t)(state->window_pages - (at - state->window_4k)) * KVCI_DISK_PAGE_BYTES;
	if (head_bytes > available) {
		scan_fill(state, at, SCAN_WINDOW_PAGES);
		page = scan_page(state, at);
		if (page == NULL)
			return false;
		available = (size_t)state->window_pages * KVCI_DISK_PAGE_BYTES;
	}
	if (kvci_record_parse(page, available, ret_header, ret_sections) != KVC_OK)
		return false;
	header = *ret_header;
	return header->record_bytes / KVCI_DISK_PAGE_BYTES <= scan->to_4k - at &&
	       header->place_seal == kvci_disk_seal(scan->uuid, scan->segment, scan->generation, at, header->header_checksum);
}

/* The record's sections, read whole. */
static kvc_status_t scan_verify(struct scan_state *state, uint32_t at, uint64_t record_bytes)
{
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	size_t bytes = 0;
	kvc_status_t status;

	if (record_bytes > state->whole_bytes) {
		kvci_free(state->whole);
		state->whole_bytes = 0;
		state->whole = kvci_alloc_aligned(KVCI_DISK_PAGE_BYTES, record_bytes);
		if (state->whole == NULL)
			return KVC_NO_MEMORY;
		state->whole_bytes = record_bytes;
	}
	status = kvci_disk_pread(state->scan->fd, state->whole, record_bytes, (uint64_t)at * KVCI_DISK_PAGE_BYTES, &bytes);
	if (status != KVC_OK || bytes != record_bytes)
		return KVC_CORRUPT;
	status = kvci_record_parse(state->whole, record_bytes, &header, &sections);
	if (status == KVC_OK)
		status = kvci_record_verify(state->whole, header, sections, NULL);
	return status;
}

/* The record at `at`, if there is one: *ret_pages is its length, 0 for none. */
static kvc_status_t scan_record(struct scan_state *state, uint32_t at, uint32_t *ret_pages)
{
	const struct kvci_disk_scan *scan = state->scan;
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;
	struct kvc_place place = {.segment = scan->segment, .generation = scan->generation, .offset_4k = at};
	struct kvc_tier_entry entry;
	kvc_status_t status = KVC_OK;

	*ret_pages = 0;
	if (!scan_header(state, at, &header, &sections))
		return KVC_OK;
	place.length_4k = (uint32_t)(header->record_bytes / KVCI_DISK_PAGE_BYTES);
	kvci_disk_entry_of(header, sections, &place, &entry);
	if ((header->flags & KVCI_RECORD_TOMBSTONE) != 0)
		status = KVC_MISS;
	else if (scan->verify)
		status = scan_verify(state, at, header->record_bytes);
	if (status == KVC_NO_MEMORY)
		return status;
	scan_gap_close(state, at);
	*ret_pages = place.length_4k;
	return scan->record(scan->context, &entry, status) ? KVC_OK : KVC_CANCELED;
}

static kvc_status_t scan_walk(struct scan_state *state)
{
	const struct kvci_disk_scan *scan = state->scan;
	uint32_t next_fill = SCAN_WINDOW_PAGES;
	uint32_t at = scan->from_4k;

	while (at < scan->to_4k) {
		uint32_t pages;
		kvc_status_t status;

		if (scan_page(state, at) == NULL) {
			if (scan->stop != NULL && atomic_load_explicit(scan->stop, memory_order_relaxed))
				return KVC_CANCELED;
			scan_fill(state, at, next_fill);
			next_fill = SCAN_WINDOW_PAGES;
			if (state->window_pages == 0) {
				scan_gap_open(state, at, state->window_failed);
				if (!state->window_failed)
					break; /* the file ends here */
				at++;
				continue;
			}
		}
		status = scan_record(state, at, &pages);
		if (status != KVC_OK)
			return status;
		if (pages == 0) {
			scan_gap_open(state, at, false);
			at++;
			continue;
		}
		at += pages;
		state->end_4k = at;
		if (pages > SCAN_HOP_PAGES)
			next_fill = KVCI_DISK_HEAD_PAGES_MAX;
	}
	scan_gap_close(state, scan->to_4k);
	return KVC_OK;
}

kvc_status_t kvci_disk_scan_run(const struct kvci_disk_scan *scan, uint32_t *ret_end_4k)
{
	struct scan_state state = {.scan = scan, .end_4k = scan->from_4k};
	kvc_status_t status;

	state.window = kvci_alloc_aligned(KVCI_DISK_PAGE_BYTES, (size_t)SCAN_WINDOW_PAGES * KVCI_DISK_PAGE_BYTES);
	if (state.window == NULL)
		return KVC_NO_MEMORY;
	status = scan_walk(&state);
	kvci_free(state.window);
	kvci_free(state.whole);
	*ret_end_4k = state.end_4k;
	return status;
}
