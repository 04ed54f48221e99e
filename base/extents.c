/* SPDX-License-Identifier: Apache-2.0
 *
 * Metadata is out of band: nodes in chunks (never moved, so that growing is one small allocation), linked by number in
 * address order (lower, higher) and, when free, in the list of their size class. Lengths are counted in units.
 *
 * Classes: fl 0 holds lengths 1..31, one each; fl i holds [32 << (i-1), 32 << i) in 32 steps.
 */
#include "base/extents.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

enum {
	EXTENTS_SL_SHIFT = 5,
	EXTENTS_SL_COUNT = 1 << EXTENTS_SL_SHIFT,
	EXTENTS_FL_COUNT = 32 - EXTENTS_SL_SHIFT + 1,
	EXTENTS_CHUNK_SHIFT = 8,
	EXTENTS_CHUNK_NODES = 1 << EXTENTS_CHUNK_SHIFT,
	EXTENTS_SCAN_MAX = 256, /* ranges of one class that are looked at before giving up */
};

#define EXTENTS_NONE UINT32_MAX

enum extents_state { EXTENTS_SPARE = 0, EXTENTS_FREE = 1, EXTENTS_USED = 2 };

struct extents_node {
	uint32_t offset;
	uint32_t length;
	uint32_t lower, higher; /* neighbours by address */
	uint32_t prev, next;    /* list of the class (FREE), or of spare nodes (next only) */
	uint32_t state;
};

struct kvci_extents {
	uint64_t unit_bytes;
	uint32_t length;
	uint32_t free_units;
	uint32_t used_count;
	uint32_t node_count; /* in chunks so far */
	uint32_t chunk_count, chunk_max;
	uint32_t spare; /* first spare node */
	uint32_t fl_map;
	uint32_t sl_map[EXTENTS_FL_COUNT];
	uint32_t heads[EXTENTS_FL_COUNT][EXTENTS_SL_COUNT];
	struct extents_node **chunks;
};

struct extents_class {
	uint32_t fl, sl;
};

static struct extents_node *extents_at(const struct kvci_extents *extents, uint32_t node)
{
	return &extents->chunks[node >> EXTENTS_CHUNK_SHIFT][node & (EXTENTS_CHUNK_NODES - 1)];
}

/* The class that a range of this length (at least 1) is listed in. */
static struct extents_class extents_class_of(uint32_t length)
{
	if (length < EXTENTS_SL_COUNT)
		return (struct extents_class){ 0, length };
	uint32_t log = 31 - (uint32_t)__builtin_clz(length);
	return (struct extents_class){ log - EXTENTS_SL_SHIFT + 1,
		                       (length >> (log - EXTENTS_SL_SHIFT)) & (EXTENTS_SL_COUNT - 1) };
}

static void extents_list_add(struct kvci_extents *extents, uint32_t node)
{
	struct extents_node *n = extents_at(extents, node);
	struct extents_class class = extents_class_of(n->length);
	uint32_t *head = &extents->heads[class.fl][class.sl];

	n->state = EXTENTS_FREE;
	n->prev = EXTENTS_NONE;
	n->next = *head;
	if (*head != EXTENTS_NONE)
		extents_at(extents, *head)->prev = node;
	*head = node;
	extents->sl_map[class.fl] |= 1u << class.sl;
	extents->fl_map |= 1u << class.fl;
	extents->free_units += n->length;
}

static void extents_list_remove(struct kvci_extents *extents, uint32_t node)
{
	struct extents_node *n = extents_at(extents, node);
	struct extents_class class = extents_class_of(n->length);

	if (n->next != EXTENTS_NONE)
		extents_at(extents, n->next)->prev = n->prev;
	if (n->prev != EXTENTS_NONE)
		extents_at(extents, n->prev)->next = n->next;
	else
		extents->heads[class.fl][class.sl] = n->next;
	if (extents->heads[class.fl][class.sl] == EXTENTS_NONE) {
		extents->sl_map[class.fl] &= ~(1u << class.sl);
		if (extents->sl_map[class.fl] == 0)
			extents->fl_map &= ~(1u << class.fl);
	}
	extents->free_units -= n->length;
}

/* A range of the request's own class that is long enough: classes of 32 units and more hold lengths up to 1/32 apart. */
static uint32_t extents_find_in_class(const struct kvci_extents *extents, struct extents_class class, uint32_t length)
{
	uint32_t node = extents->heads[class.fl][class.sl];

	for (unsigned looked = 0; node != EXTENTS_NONE && looked < EXTENTS_SCAN_MAX; looked++) {
		const struct extents_node *n = extents_at(extents, node);
		if (n->length >= length)
			return node;
		node = n->next;
	}
	return EXTENTS_NONE;
}

/* Any range of a higher class fits: the lowest one that is not empty. */
static uint32_t extents_find_above(const struct kvci_extents *extents, struct extents_class class)
{
	uint32_t sl_above = class.sl + 1 < EXTENTS_SL_COUNT ? extents->sl_map[class.fl] & (~0u << (class.sl + 1)) : 0;

	if (sl_above != 0)
		return extents->heads[class.fl][__builtin_ctz(sl_above)];
	uint32_t fl_above = extents->fl_map & (~0u << (class.fl + 1));
	if (fl_above == 0)
		return EXTENTS_NONE;
	uint32_t fl = (uint32_t)__builtin_ctz(fl_above);
	return extents->heads[fl][__builtin_ctz(extents->sl_map[fl])];
}

static kvc_status_t extents_spare_grow(struct kvci_extents *extents)
{
	if (extents->chunk_count == extents->chunk_max)
		return KVC_INTERNAL; /* a node is at least a unit: there cannot be more nodes than units */
	struct extents_node *chunk = kvci_alloc(sizeof(*chunk) * EXTENTS_CHUNK_NODES);
	if (chunk == NULL)
		return KVC_NO_MEMORY;
	extents->chunks[extents->chunk_count++] = chunk;
	for (unsigned i = EXTENTS_CHUNK_NODES; i-- > 0;) {
		chunk[i].state = EXTENTS_SPARE;
		chunk[i].next = extents->spare;
		extents->spare = extents->node_count + i;
	}
	extents->node_count += EXTENTS_CHUNK_NODES;
	return KVC_OK;
}

static uint32_t extents_spare_take(struct kvci_extents *extents)
{
	uint32_t node = extents->spare;

	extents->spare = extents_at(extents, node)->next;
	return node;
}

static void extents_spare_give(struct kvci_extents *extents, uint32_t node)
{
	struct extents_node *n = extents_at(extents, node);

	n->state = EXTENTS_SPARE;
	n->next = extents->spare;
	extents->spare = node;
}

kvc_status_t kvci_extents_create(uint64_t length_bytes, uint64_t unit_bytes, struct kvci_extents **ret_extents)
{
	if (unit_bytes == 0 || length_bytes < unit_bytes || length_bytes % unit_bytes != 0)
		return KVC_INVALID;
	if (length_bytes / unit_bytes >= EXTENTS_NONE)
		return KVC_TOO_BIG;
	struct kvci_extents *extents = kvci_alloc_zero(1, sizeof(*extents));
	if (extents == NULL)
		return KVC_NO_MEMORY;
	extents->unit_bytes = unit_bytes;
	extents->length = (uint32_t)(length_bytes / unit_bytes);
	extents->spare = EXTENTS_NONE;
	memset(extents->heads, 0xff, sizeof(extents->heads));
	extents->chunk_max = extents->length / EXTENTS_CHUNK_NODES + 1;
	extents->chunks = kvci_alloc_zero(extents->chunk_max, sizeof(*extents->chunks));
	if (extents->chunks == NULL || extents_spare_grow(extents) != KVC_OK) {
		kvci_extents_destroy(extents);
		return KVC_NO_MEMORY;
	}
	uint32_t node = extents_spare_take(extents);
	*extents_at(extents, node) = (struct extents_node){
		.offset = 0, .length = extents->length, .lower = EXTENTS_NONE, .higher = EXTENTS_NONE
	};
	extents_list_add(extents, node);
	*ret_extents = extents;
	return KVC_OK;
}

void kvci_extents_destroy(struct kvci_extents *extents)
{
	if (extents == NULL)
		return;
	for (uint32_t i = 0; i < extents->chunk_count; i++)
		kvci_free(extents->chunks[i]);
	kvci_free(extents->chunks);
	kvci_free(extents);
}

/* Cuts what `node` (not listed) has beyond `length` off its upper end, as a free range of its own. */
static void extents_cut(struct kvci_extents *extents, uint32_t node, uint32_t length)
{
	struct extents_node *n = extents_at(extents, node);
	uint32_t rest = extents_spare_take(extents);
	struct extents_node *r = extents_at(extents, rest);

	*r = (struct extents_node){
		.offset = n->offset + length, .length = n->length - length, .lower = node, .higher = n->higher
	};
	if (n->higher != EXTENTS_NONE)
		extents_at(extents, n->higher)->lower = rest;
	n->higher = rest;
	n->length = length;
	extents_list_add(extents, rest);
}

kvc_status_t kvci_extents_alloc(struct kvci_extents *extents, uint64_t bytes, uint64_t *ret_offset_bytes, uint32_t *ret_node)
{
	uint64_t units = bytes / extents->unit_bytes + (bytes % extents->unit_bytes != 0);

	if (units == 0)
		return KVC_INVALID;
	if (units > extents->free_units)
		return KVC_NO_SPACE;
	uint32_t length = (uint32_t)units;
	struct extents_class class = extents_class_of(length);
	uint32_t node = extents_find_in_class(extents, class, length);
	if (node == EXTENTS_NONE)
		node = extents_find_above(extents, class);
	if (node == EXTENTS_NONE)
		return KVC_NO_SPACE;
	struct extents_node *n = extents_at(extents, node);
	if (n->length > length && extents->spare == EXTENTS_NONE) {
		kvc_status_t status = extents_spare_grow(extents);
		if (status != KVC_OK)
			return status;
	}
	extents_list_remove(extents, node);
	n->state = EXTENTS_USED;
	if (n->length > length)
		extents_cut(extents, node, length);
	extents->used_count++;
	*ret_offset_bytes = n->offset * extents->unit_bytes;
	*ret_node = node;
	return KVC_OK;
}

/* Joins `node` with its higher neighbour, which is free and listed. */
static void extents_join(struct kvci_extents *extents, uint32_t node)
{
	struct extents_node *n = extents_at(extents, node);
	uint32_t higher = n->higher;
	struct extents_node *h = extents_at(extents, higher);

	n->length += h->length;
	n->higher = h->higher;
	if (n->higher != EXTENTS_NONE)
		extents_at(extents, n->higher)->lower = node;
	extents_spare_give(extents, higher);
}

void kvci_extents_free(struct kvci_extents *extents, uint32_t node)
{
	struct extents_node *n = extents_at(extents, node);

	if (n->state != EXTENTS_USED)
		__builtin_trap(); /* freed twice: the caller would hand one place to two owners */
	extents->used_count--;
	if (n->higher != EXTENTS_NONE && extents_at(extents, n->higher)->state == EXTENTS_FREE) {
		extents_list_remove(extents, n->higher);
		extents_join(extents, node);
	}
	if (n->lower != EXTENTS_NONE && extents_at(extents, n->lower)->state == EXTENTS_FREE) {
		node = n->lower;
		extents_list_remove(extents, node);
		extents_join(extents, node);
	}
	extents_list_add(extents, node);
}

uint64_t kvci_extents_free_bytes(const struct kvci_extents *extents)
{
	return extents->free_units * extents->unit_bytes;
}

uint64_t kvci_extents_largest_free_bytes(const struct kvci_extents *extents)
{
	uint32_t largest = 0;

	if (extents->fl_map == 0)
		return 0;
	uint32_t fl = 31 - (uint32_t)__builtin_clz(extents->fl_map);
	uint32_t sl = 31 - (uint32_t)__builtin_clz(extents->sl_map[fl]);
	for (uint32_t node = extents->heads[fl][sl]; node != EXTENTS_NONE; node = extents_at(extents, node)->next)
		if (extents_at(extents, node)->length > largest)
			largest = extents_at(extents, node)->length;
	return largest * extents->unit_bytes;
}

uint64_t kvci_extents_length_bytes(const struct kvci_extents *extents)
{
	return extents->length * extents->unit_bytes;
}

uint32_t kvci_extents_used_count(const struct kvci_extents *extents)
{
	return extents->used_count;
}

/* Every list holds free nodes of its class, linked both ways; *ret_count: how many there are in all. */
static const char *extents_check_lists(const struct kvci_extents *extents, uint32_t *ret_count)
{
	uint32_t count = 0;

	for (uint32_t fl = 0; fl < EXTENTS_FL_COUNT; fl++) {
		if (((extents->fl_map >> fl) & 1) != (extents->sl_map[fl] != 0))
			return "extents: first-level bit differs from its second level";
		for (uint32_t sl = 0; sl < EXTENTS_SL_COUNT; sl++) {
			uint32_t prev = EXTENTS_NONE;
			uint32_t node = extents->heads[fl][sl];
			if (((extents->sl_map[fl] >> sl) & 1) != (node != EXTENTS_NONE))
				return "extents: second-level bit differs from its list";
			for (; node != EXTENTS_NONE; prev = node, node = extents_at(extents, node)->next) {
				const struct extents_node *n = extents_at(extents, node);
				struct extents_class class = extents_class_of(n->length);
				if (n->state != EXTENTS_FREE || n->prev != prev)
					return "extents: a list leads to a node that is not free or not linked back";
				if (class.fl != fl || class.sl != sl)
					return "extents: a free range is in the list of another class";
				if (++count > extents->node_count)
					return "extents: a list has a loop";
			}
		}
	}
	*ret_count = count;
	return NULL;
}

/* The node at offset 0: the one without a lower neighbour. */
static uint32_t extents_lowest(const struct kvci_extents *extents)
{
	for (uint32_t node = 0; node < extents->node_count; node++) {
		const struct extents_node *n = extents_at(extents, node);
		if (n->state != EXTENTS_SPARE && n->lower == EXTENTS_NONE)
			return node;
	}
	return EXTENTS_NONE;
}

const char *kvci_extents_check(const struct kvci_extents *extents)
{
	uint32_t listed = 0, free_count = 0, used_count = 0, free_units = 0, at = 0, lower = EXTENTS_NONE;
	bool lower_free = false;
	const char *broken = extents_check_lists(extents, &listed);

	if (broken != NULL)
		return broken;
	for (uint32_t node = extents_lowest(extents); node != EXTENTS_NONE; node = extents_at(extents, node)->higher) {
		const struct extents_node *n = extents_at(extents, node);
		bool is_free = n->state == EXTENTS_FREE;
		if (n->state == EXTENTS_SPARE || n->lower != lower)
			return "extents: neighbours are not linked both ways";
		if (n->length == 0 || n->offset != at || n->length > extents->length - at)
			return "extents: ranges overlap, leave a gap or run over the end";
		if (is_free && lower_free)
			return "extents: two free neighbours were not joined";
		at += n->length;
		free_count += is_free;
		used_count += !is_free;
		free_units += is_free ? n->length : 0;
		lower = node;
		lower_free = is_free;
	}
	if (at != extents->length)
		return "extents: the ranges do not cover the whole";
	if (free_count != listed || free_units != extents->free_units || used_count != extents->used_count)
		return "extents: the counters differ from the ranges";
	return NULL;
}
