/* SPDX-License-Identifier: Apache-2.0
 *
 * All metadata is one word ("tag") a unit, of which only those at the two ends of a range count, so that a neighbour finds the range next to
 * it; a free range of four units or more keeps its list links in its second and third tag. Shorter ones have no room for links: for each of
 * these lengths a bitmap tells where they start. Nothing is allocated after create, and what is not used of the tags is never touched.
 *
 *   used   [USED|n] ................. [USED|n]          free   [FREE|n] [prev] [next] ... [FREE|n]
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
	EXTENTS_FL_COUNT = 30 - EXTENTS_SL_SHIFT + 1,
	EXTENTS_LISTED_MIN = 4,  /* shorter ranges are in bitmaps */
	EXTENTS_LEVELS = 5,      /* of a bitmap: 64^5 is 2^30 units */
	EXTENTS_SCAN_MAX = 256,  /* ranges of one class that are looked at before giving up */
};

#define EXTENTS_NONE UINT32_MAX
#define EXTENTS_FREE UINT32_C(0x80000000)
#define EXTENTS_USED UINT32_C(0x40000000)
#define EXTENTS_LENGTH UINT32_C(0x3fffffff)

/* Bit i of level k + 1 says whether word i of level k is not 0. The last level is one word. */
struct extents_bitmap {
	uint64_t *level[EXTENTS_LEVELS];
};

struct kvci_extents {
	uint64_t unit_bytes;
	uint32_t length;
	uint32_t free_units;
	uint32_t used_count;
	uint32_t level_count;
	uint32_t *tags;
	uint64_t *bits; /* of all bitmaps */
	size_t bits_words;
	struct extents_bitmap bitmap[EXTENTS_LISTED_MIN]; /* by length; 0 is not used */
	uint32_t fl_map;
	uint32_t sl_map[EXTENTS_FL_COUNT];
	uint32_t heads[EXTENTS_FL_COUNT][EXTENTS_SL_COUNT];
};

struct extents_class {
	uint32_t fl, sl;
};

/* The class that a range of this length (at least 1) is listed in. */
static struct extents_class extents_class_of(uint32_t length)
{
	if (length < EXTENTS_SL_COUNT)
		return (struct extents_class){ 0, length };
	uint32_t log = 31 - (uint32_t)__builtin_clz(length);
	return (struct extents_class){ log - EXTENTS_SL_SHIFT + 1,
		                       (length >> (log - EXTENTS_SL_SHIFT)) & (EXTENTS_SL_COUNT - 1) };
}

static bool extents_in_bitmap(struct extents_class class)
{
	return class.fl == 0 && class.sl < EXTENTS_LISTED_MIN;
}

/* ---- bitmaps ------------------------------------------------------------------------------------------------------ */

static void bitmap_set(const struct kvci_extents *extents, const struct extents_bitmap *bitmap, uint32_t at)
{
	for (uint32_t level = 0; level < extents->level_count; level++, at /= 64) {
		uint64_t *word = &bitmap->level[level][at / 64];
		bool was_empty = *word == 0;
		*word |= UINT64_C(1) << (at % 64);
		if (!was_empty)
			return;
	}
}

static void bitmap_clear(const struct kvci_extents *extents, const struct extents_bitmap *bitmap, uint32_t at)
{
	for (uint32_t level = 0; level < extents->level_count; level++, at /= 64) {
		uint64_t *word = &bitmap->level[level][at / 64];
		*word &= ~(UINT64_C(1) << (at % 64));
		if (*word != 0)
			return;
	}
}

static bool bitmap_empty(const struct kvci_extents *extents, const struct extents_bitmap *bitmap)
{
	return bitmap->level[extents->level_count - 1][0] == 0;
}

/* The lowest one; the bitmap is not empty. */
static uint32_t bitmap_first(const struct kvci_extents *extents, const struct extents_bitmap *bitmap)
{
	uint32_t at = 0;

	for (uint32_t level = extents->level_count; level-- > 0;)
		at = at * 64 + (uint32_t)__builtin_ctzll(bitmap->level[level][at]);
	return at;
}

static kvc_status_t bitmap_make_all(struct kvci_extents *extents)
{
	size_t words[EXTENTS_LEVELS], total = 0;

	for (size_t left = extents->length; extents->level_count == 0 || left > 1; extents->level_count++) {
		left = (left + 63) / 64;
		words[extents->level_count] = left;
		total += left;
	}
	extents->bits_words = (EXTENTS_LISTED_MIN - 1) * total;
	extents->bits = kvci_alloc_lazy(extents->bits_words, sizeof(*extents->bits));
	if (extents->bits == NULL)
		return KVC_NO_MEMORY;
	uint64_t *at = extents->bits;
	for (unsigned length = 1; length < EXTENTS_LISTED_MIN; length++)
		for (uint32_t level = 0; level < extents->level_count; at += words[level], level++)
			extents->bitmap[length].level[level] = at;
	return KVC_OK;
}

/* ---- free ranges --------------------------------------------------------------------------------------------------- */

static void extents_tag(struct kvci_extents *extents, uint32_t start, uint32_t length, uint32_t state)
{
	extents->tags[start] = extents->tags[start + length - 1] = state | length;
}

static uint32_t *extents_prev(const struct kvci_extents *extents, uint32_t start)
{
	return &extents->tags[start + 1];
}

static uint32_t *extents_next(const struct kvci_extents *extents, uint32_t start)
{
	return &extents->tags[start + 2];
}

static void extents_free_add(struct kvci_extents *extents, uint32_t start, uint32_t length)
{
	struct extents_class class = extents_class_of(length);
	uint32_t *head = &extents->heads[class.fl][class.sl];

	extents_tag(extents, start, length, EXTENTS_FREE);
	if (extents_in_bitmap(class)) {
		bitmap_set(extents, &extents->bitmap[length], start);
	} else {
		*extents_prev(extents, start) = EXTENTS_NONE;
		*extents_next(extents, start) = *head;
		if (*head != EXTENTS_NONE)
			*extents_prev(extents, *head) = start;
		*head = start;
	}
	extents->sl_map[class.fl] |= 1u << class.sl;
	extents->fl_map |= 1u << class.fl;
	extents->free_units += length;
}

/* True: the class has no range any more. */
static bool extents_unlink(struct kvci_extents *extents, uint32_t start, uint32_t length, struct extents_class class)
{
	if (extents_in_bitmap(class)) {
		bitmap_clear(extents, &extents->bitmap[length], start);
		return bitmap_empty(extents, &extents->bitmap[length]);
	}
	uint32_t prev = *extents_prev(extents, start), next = *extents_next(extents, start);
	if (next != EXTENTS_NONE)
		*extents_prev(extents, next) = prev;
	if (prev != EXTENTS_NONE)
		*extents_next(extents, prev) = next;
	else
		extents->heads[class.fl][class.sl] = next;
	return extents->heads[class.fl][class.sl] == EXTENTS_NONE;
}

static void extents_free_remove(struct kvci_extents *extents, uint32_t start, uint32_t length)
{
	struct extents_class class = extents_class_of(length);

	if (extents_unlink(extents, start, length, class)) {
		extents->sl_map[class.fl] &= ~(1u << class.sl);
		if (extents->sl_map[class.fl] == 0)
			extents->fl_map &= ~(1u << class.fl);
	}
	extents->free_units -= length;
}

/* Some range of a class, which is not empty. */
static uint32_t extents_any(const struct kvci_extents *extents, struct extents_class class)
{
	return extents_in_bitmap(class) ? bitmap_first(extents, &extents->bitmap[class.sl]) : extents->heads[class.fl][class.sl];
}

/* A range of the request's own class that is long enough: classes of 32 units and more hold lengths up to 1/32 apart. */
static uint32_t extents_find_in_class(const struct kvci_extents *extents, struct extents_class class, uint32_t length)
{
	if ((extents->sl_map[class.fl] >> class.sl & 1) == 0)
		return EXTENTS_NONE;
	if (class.fl == 0)
		return extents_any(extents, class);
	uint32_t start = extents->heads[class.fl][class.sl];
	for (unsigned looked = 0; start != EXTENTS_NONE && looked < EXTENTS_SCAN_MAX; looked++) {
		if ((extents->tags[start] & EXTENTS_LENGTH) >= length)
			return start;
		start = *extents_next(extents, start);
	}
	return EXTENTS_NONE;
}

/* Any range of a higher class fits: the lowest one that is not empty. */
static uint32_t extents_find_above(const struct kvci_extents *extents, struct extents_class class)
{
	uint32_t sl_above = class.sl + 1 < EXTENTS_SL_COUNT ? extents->sl_map[class.fl] & (~0u << (class.sl + 1)) : 0;

	if (sl_above == 0) {
		uint32_t fl_above = extents->fl_map & (~0u << (class.fl + 1));
		if (fl_above == 0)
			return EXTENTS_NONE;
		class.fl = (uint32_t)__builtin_ctz(fl_above);
		sl_above = extents->sl_map[class.fl];
	}
	class.sl = (uint32_t)__builtin_ctz(sl_above);
	return extents_any(extents, class);
}

/* ---- the interface -------------------------------------------------------------------------------------------------- */

kvc_status_t kvci_extents_create(uint64_t length_bytes, uint64_t unit_bytes, struct kvci_extents **ret_extents)
{
	if (unit_bytes == 0 || length_bytes < unit_bytes || length_bytes % unit_bytes != 0)
		return KVC_INVALID;
	if (length_bytes / unit_bytes > EXTENTS_LENGTH)
		return KVC_TOO_BIG;
	struct kvci_extents *extents = kvci_alloc_zero(1, sizeof(*extents));
	if (extents == NULL)
		return KVC_NO_MEMORY;
	extents->unit_bytes = unit_bytes;
	extents->length = (uint32_t)(length_bytes / unit_bytes);
	memset(extents->heads, 0xff, sizeof(extents->heads));
	extents->tags = kvci_alloc_lazy(extents->length, sizeof(*extents->tags));
	if (extents->tags == NULL || bitmap_make_all(extents) != KVC_OK) {
		kvci_extents_destroy(extents);
		return KVC_NO_MEMORY;
	}
	extents_free_add(extents, 0, extents->length);
	*ret_extents = extents;
	return KVC_OK;
}

void kvci_extents_destroy(struct kvci_extents *extents)
{
	if (extents == NULL)
		return;
	kvci_free_lazy(extents->bits, extents->bits_words, sizeof(*extents->bits));
	kvci_free_lazy(extents->tags, extents->length, sizeof(*extents->tags));
	kvci_free(extents);
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
	uint32_t start = extents_find_in_class(extents, class, length);
	if (start == EXTENTS_NONE)
		start = extents_find_above(extents, class);
	if (start == EXTENTS_NONE)
		return KVC_NO_SPACE;
	uint32_t whole = extents->tags[start] & EXTENTS_LENGTH;
	extents_free_remove(extents, start, whole);
	extents_tag(extents, start, length, EXTENTS_USED);
	if (whole > length)
		extents_free_add(extents, start + length, whole - length);
	extents->used_count++;
	*ret_offset_bytes = start * extents->unit_bytes;
	*ret_node = start;
	return KVC_OK;
}

void kvci_extents_free(struct kvci_extents *extents, uint32_t node)
{
	if (node >= extents->length || (extents->tags[node] & EXTENTS_USED) == 0)
		__builtin_trap(); /* freed twice: the caller would hand one place to two owners */
	uint32_t start = node, length = extents->tags[node] & EXTENTS_LENGTH;
	extents->used_count--;
	extents_tag(extents, start, length, EXTENTS_FREE); /* inside a larger range it still tells that it is no use */
	if (start + length < extents->length && (extents->tags[start + length] & EXTENTS_FREE) != 0) {
		uint32_t higher = extents->tags[start + length] & EXTENTS_LENGTH;
		extents_free_remove(extents, start + length, higher);
		length += higher;
	}
	if (start > 0 && (extents->tags[start - 1] & EXTENTS_FREE) != 0) {
		uint32_t lower = extents->tags[start - 1] & EXTENTS_LENGTH;
		start -= lower;
		extents_free_remove(extents, start, lower);
		length += lower;
	}
	extents_free_add(extents, start, length);
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
	struct extents_class class = { .fl = 31 - (uint32_t)__builtin_clz(extents->fl_map) };
	class.sl = 31 - (uint32_t)__builtin_clz(extents->sl_map[class.fl]);
	if (class.fl == 0)
		return class.sl * extents->unit_bytes;
	for (uint32_t start = extents->heads[class.fl][class.sl]; start != EXTENTS_NONE; start = *extents_next(extents, start)) {
		uint32_t length = extents->tags[start] & EXTENTS_LENGTH;
		largest = length > largest ? length : largest;
	}
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

/* ---- invariants ------------------------------------------------------------------------------------------------------- */

/* Every list holds free ranges of its class, linked both ways; counts them. */
static const char *extents_check_list(const struct kvci_extents *extents, struct extents_class class, uint32_t *count)
{
	uint32_t prev = EXTENTS_NONE;

	for (uint32_t start = extents->heads[class.fl][class.sl]; start != EXTENTS_NONE; start = *extents_next(extents, start)) {
		if (start >= extents->length || (extents->tags[start] & EXTENTS_FREE) == 0 || *extents_prev(extents, start) != prev)
			return "extents: a list leads to a range that is not free or not linked back";
		struct extents_class own = extents_class_of(extents->tags[start] & EXTENTS_LENGTH);
		if (own.fl != class.fl || own.sl != class.sl)
			return "extents: a free range is in the list of another class";
		if (++*count > extents->length)
			return "extents: a list has a loop";
		prev = start;
	}
	return NULL;
}

/* Each bit is the start of a free range of this length; each upper bit tells of a word below; counts the lowest. */
static const char *extents_check_bitmap(const struct kvci_extents *extents, uint32_t length, uint32_t *count)
{
	size_t bits = extents->length;

	for (uint32_t level = 0; level < extents->level_count; level++, bits = (bits + 63) / 64)
		for (size_t at = 0; at < bits; at++) {
			bool set = (extents->bitmap[length].level[level][at / 64] >> (at % 64) & 1) != 0;
			if (level > 0 && set != (extents->bitmap[length].level[level - 1][at] != 0))
				return "extents: a bitmap contradicts its summary";
			if (level == 0 && set && extents->tags[at] != (EXTENTS_FREE | length))
				return "extents: a bitmap leads to a range that is not free or has another length";
			*count += level == 0 && set;
		}
	return NULL;
}

static const char *extents_check_classes(const struct kvci_extents *extents, uint32_t *ret_count)
{
	uint32_t count = 0;

	for (uint32_t fl = 0; fl < EXTENTS_FL_COUNT; fl++) {
		if (((extents->fl_map >> fl) & 1) != (extents->sl_map[fl] != 0))
			return "extents: first-level bit differs from its second level";
		for (uint32_t sl = fl == 0; sl < EXTENTS_SL_COUNT; sl++) {
			struct extents_class class = { fl, sl };
			uint32_t before = count;
			const char *broken = extents_in_bitmap(class) ? extents_check_bitmap(extents, sl, &count)
			                                              : extents_check_list(extents, class, &count);
			if (broken != NULL)
				return broken;
			if (((extents->sl_map[fl] >> sl) & 1) != (count != before))
				return "extents: second-level bit differs from its ranges";
		}
	}
	*ret_count = count;
	return NULL;
}

const char *kvci_extents_check(const struct kvci_extents *extents)
{
	uint32_t listed = 0, free_count = 0, used_count = 0, free_units = 0, at = 0, length;
	bool lower_free = false;
	const char *broken = extents_check_classes(extents, &listed);

	if (broken != NULL)
		return broken;
	for (; at < extents->length; at += length) {
		uint32_t tag = extents->tags[at];
		bool is_free = (tag & EXTENTS_FREE) != 0;
		length = tag & EXTENTS_LENGTH;
		if (is_free == ((tag & EXTENTS_USED) != 0) || length == 0 || length > extents->length - at)
			return "extents: a range has no state, or runs over the end";
		if (extents->tags[at + length - 1] != tag)
			return "extents: the two ends of a range differ";
		if (is_free && lower_free)
			return "extents: two free neighbours were not joined";
		free_count += is_free;
		used_count += !is_free;
		free_units += is_free ? length : 0;
		lower_free = is_free;
	}
	if (free_count != listed || free_units != extents->free_units || used_count != extents->used_count)
		return "extents: the counters differ from the ranges";
	return NULL;
}
