/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots are kept so that every look-up ends soon:
 *   - the used slots of a group come first, so its last slot tells whether keys overflowed into the next group;
 *   - a key lies in its home group or in one behind it, with only full groups between (removal restores this).
 * Which bits of a fingerprint do what: the low ones choose the segment, the upper sixteen the home group; all 32 are compared
 * before the block is.
 */
#include "cache/index.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/alloc.h"
#include "cache/supply.h"

enum {
	INDEX_GROUP_SLOTS = 8,
	INDEX_GROUPS = 320, /* a segment: 20 KiB of slots; it is split in one step */
	INDEX_SLOTS = INDEX_GROUPS * INDEX_GROUP_SLOTS,
	INDEX_SPLIT_AT = INDEX_SLOTS / 8 * 7,
	INDEX_DEPTH_MAX = 22, /* above, the bits of segment and home group would meet */
	INDEX_CHUNK_BLOCKS = 1 << KVCI_INDEX_CHUNK_SHIFT,
	INDEX_LINE_BYTES = 64,
	INDEX_BATCH = 32, /* keys whose lines are fetched together */
	INDEX_PROBE_ON = -1,
};

struct index_segment {
	_Alignas(INDEX_LINE_BYTES) uint64_t slots[INDEX_GROUPS][INDEX_GROUP_SLOTS];
	uint32_t used;
	uint32_t depth; /* low bits of the fingerprint that all keys in it share */
};

struct index {
	struct kvci_index public; /* first */
	struct kvci_key_seed seed;
	uint32_t max_blocks;
	uint32_t chunk_count, chunk_room;
	uint32_t high;      /* numbers ever given */
	uint32_t free_list; /* through the hash bytes of blocks not in use */
	uint32_t used, linked;
	uint32_t depth; /* of the directory */
	struct index_segment **directory;
	struct index_segment *scratch; /* a split builds one half in it */
	struct kvci_supply supply; /* of all segments and chunks */
	struct kvci_supply_cut segment_cut, chunk_cut;
};

/* ---- fingerprints ------------------------------------------------------------------------------------------------- */

void kvci_key_seed_make(struct kvci_key_seed *ret_seed)
{
	if (getrandom(ret_seed, sizeof(*ret_seed), GRND_NONBLOCK) == (ssize_t)sizeof(*ret_seed))
		return;
	/* Early boot or a filtered system call: weaker, and still unknown to a client. */
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (unsigned i = 0; i < 4; i++)
		ret_seed->word[i] = ((uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)&now) *
		                    (UINT64_C(0x9e3779b97f4a7c15) + 2 * i);
}

static inline uint64_t index_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t index_mix(const struct kvci_key_seed *seed, uint32_t binding, const uint8_t *hash)
{
	uint64_t word[4];

	memcpy(word, hash, sizeof(word));
	uint64_t low = index_fold(word[0] ^ seed->word[0], word[1] ^ seed->word[1]);
	uint64_t high = index_fold(word[2] ^ seed->word[2], word[3] ^ seed->word[3]);
	return index_fold(low ^ seed->word[2] ^ ((uint64_t)binding << 32), high + (seed->word[1] | 1));
}

uint64_t kvci_key_mix(const struct kvci_key_seed *seed, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES])
{
	return index_mix(seed, binding, hash);
}

static inline uint32_t index_fingerprint(const struct index *index, uint32_t binding, const uint8_t *hash)
{
	return (uint32_t)(index_mix(&index->seed, binding, hash) >> 32);
}

static inline uint32_t index_home(uint32_t fingerprint)
{
	return ((fingerprint >> 16) * INDEX_GROUPS) >> 16;
}

static inline uint32_t index_next(uint32_t group)
{
	return group + 1 == INDEX_GROUPS ? 0 : group + 1;
}

static inline struct index_segment *index_segment_of(const struct index *index, uint32_t fingerprint)
{
	return index->directory[fingerprint & ((1u << index->depth) - 1)];
}

static inline uint64_t index_slot(uint32_t fingerprint, uint32_t number)
{
	return (uint64_t)fingerprint << 32 | (number + 1);
}

static inline bool index_key_is(const struct kvci_index_key *key, uint32_t binding, const uint8_t *hash)
{
	return memcmp(key->hash, hash, KVCI_HASH_BYTES) == 0 && key->binding == binding;
}

/* ---- slots of a segment ------------------------------------------------------------------------------------------- */

/* There is room: segments split before they are full. */
static void segment_insert(struct index_segment *segment, uint64_t slot)
{
	uint32_t group = index_home((uint32_t)(slot >> 32));

	while (segment->slots[group][INDEX_GROUP_SLOTS - 1] != 0)
		group = index_next(group);
	unsigned i = 0;
	while (segment->slots[group][i] != 0)
		i++;
	segment->slots[group][i] = slot;
	segment->used++;
}

/* Takes slot i of a group out and closes the gap inside the group. True: the group was full, keys may have overflowed. */
static bool segment_take(struct index_segment *segment, uint32_t group, unsigned i)
{
	uint64_t *slots = segment->slots[group];
	unsigned last = INDEX_GROUP_SLOTS - 1;
	bool was_full = slots[last] != 0;

	while (slots[last] == 0)
		last--;
	slots[i] = slots[last];
	slots[last] = 0;
	return was_full;
}

/* A slot of `group` whose key may lie in the earlier group `hole` as well: its home is at or before the hole. */
static int segment_movable(const struct index_segment *segment, uint32_t hole, uint32_t group)
{
	uint32_t from_hole = (group + INDEX_GROUPS - hole) % INDEX_GROUPS;

	for (int i = 0; i < INDEX_GROUP_SLOTS && segment->slots[group][i] != 0; i++) {
		uint32_t home = index_home((uint32_t)(segment->slots[group][i] >> 32));
		if ((group + INDEX_GROUPS - home) % INDEX_GROUPS >= from_hole)
			return i;
	}
	return -1;
}

static void segment_remove(struct index_segment *segment, uint32_t group, unsigned i)
{
	segment->used--;
	while (segment_take(segment, group, i)) {
		uint32_t hole = group;
		int movable;
		do {
			group = index_next(group);
			movable = segment_movable(segment, hole, group);
			if (movable < 0 && segment->slots[group][INDEX_GROUP_SLOTS - 1] == 0)
				return; /* nothing overflowed past this group */
		} while (movable < 0);
		segment->slots[hole][INDEX_GROUP_SLOTS - 1] = segment->slots[group][movable];
		i = (unsigned)movable;
	}
}

/* ---- growth --------------------------------------------------------------------------------------------------------- */

static struct index_segment *index_segment_make(struct index *index)
{
	struct index_segment *segment = kvci_supply_take(&index->supply, &index->segment_cut, sizeof(*segment));

	if (segment != NULL)
		memset(segment, 0, sizeof(*segment));
	return segment;
}

static kvc_status_t index_directory_double(struct index *index)
{
	size_t count = (size_t)1 << index->depth;
	struct index_segment **directory = kvci_realloc(index->directory, 2 * count * sizeof(*directory));

	if (directory == NULL)
		return KVC_NO_MEMORY;
	memcpy(directory + count, directory, count * sizeof(*directory));
	index->directory = directory;
	index->depth++;
	return KVC_OK;
}

/* Deals the keys of the full segment that `fingerprint` leads to out to two: the scratch segment takes those with a 0 in the next bit, a
 * new one those with a 1; the old one is the next scratch. */
static kvc_status_t index_split(struct index *index, uint32_t fingerprint)
{
	struct index_segment *full = index_segment_of(index, fingerprint);
	uint32_t depth = full->depth;

	if (depth == INDEX_DEPTH_MAX)
		return KVC_NO_MEMORY;
	if (depth == index->depth && index_directory_double(index) != KVC_OK)
		return KVC_NO_MEMORY;
	struct index_segment *half[2] = { index->scratch, index_segment_make(index) };
	if (half[1] == NULL)
		return KVC_NO_MEMORY;
	half[0]->depth = half[1]->depth = depth + 1;
	for (uint32_t group = 0; group < INDEX_GROUPS; group++)
		for (unsigned i = 0; i < INDEX_GROUP_SLOTS && full->slots[group][i] != 0; i++)
			segment_insert(half[full->slots[group][i] >> (32 + depth) & 1], full->slots[group][i]);
	for (size_t i = fingerprint & ((1u << depth) - 1); i < (size_t)1 << index->depth; i += (size_t)1 << depth)
		index->directory[i] = half[i >> depth & 1];
	memset(full, 0, sizeof(*full));
	index->scratch = full;
	return KVC_OK;
}

/* ---- blocks ----------------------------------------------------------------------------------------------------------- */

static kvc_status_t index_chunk_add(struct index *index)
{
	if (index->chunk_count == index->chunk_room) {
		uint32_t room = index->chunk_room == 0 ? 64 : 2 * index->chunk_room;
		uint8_t **chunks = kvci_realloc(index->public.chunks, room * sizeof(*chunks));
		if (chunks == NULL)
			return KVC_NO_MEMORY;
		index->public.chunks = chunks;
		index->chunk_room = room;
	}
	/* Not cleared here: a chunk is touched block by block, so that no step pays for all of it. */
	uint8_t *chunk = kvci_supply_take(&index->supply, &index->chunk_cut, INDEX_CHUNK_BLOCKS * index->public.block_bytes);
	if (chunk == NULL)
		return KVC_NO_MEMORY;
	index->public.chunks[index->chunk_count++] = chunk;
	return KVC_OK;
}

static kvc_status_t index_number_take(struct index *index, uint32_t *ret_number)
{
	if (index->free_list != KVCI_INDEX_NONE) {
		*ret_number = index->free_list;
		const struct kvci_index_key *key = kvci_index_block(&index->public, *ret_number);
		memcpy(&index->free_list, key->hash, sizeof(index->free_list));
	} else {
		if (index->high == index->max_blocks)
			return KVC_NO_SPACE;
		if (index->high == index->chunk_count * (uint32_t)INDEX_CHUNK_BLOCKS && index_chunk_add(index) != KVC_OK)
			return KVC_NO_MEMORY;
		*ret_number = index->high++;
	}
	index->used++;
	return KVC_OK;
}

static void index_number_give(struct index *index, uint32_t number)
{
	struct kvci_index_key *key = kvci_index_block(&index->public, number);

	memcpy(key->hash, &index->free_list, sizeof(index->free_list));
	key->binding = KVCI_INDEX_NONE;
	index->free_list = number;
	index->used--;
}

/* ---- the interface ------------------------------------------------------------------------------------------------------ */

kvc_status_t kvci_index_create(size_t block_bytes, uint32_t max_blocks, const struct kvci_key_seed *seed,
                               struct kvci_index **ret_index)
{
	if (block_bytes % 8 != 0 || block_bytes < sizeof(struct kvci_index_key) || block_bytes > 65536)
		return KVC_INVALID;
	struct index *index = kvci_alloc_zero(1, sizeof(*index));
	if (index == NULL)
		return KVC_NO_MEMORY;
	index->public.block_bytes = block_bytes;
	/* Numbers stop one chunk short of 2^32, so that no count of chunks and no slot overflows. */
	uint32_t most = KVCI_INDEX_NONE - INDEX_CHUNK_BLOCKS;
	index->max_blocks = max_blocks == 0 || max_blocks > most ? most : max_blocks;
	index->free_list = KVCI_INDEX_NONE;
	if (seed != NULL)
		index->seed = *seed;
	else
		kvci_key_seed_make(&index->seed);
	index->directory = kvci_alloc_zero(1, sizeof(*index->directory));
	index->scratch = index_segment_make(index);
	if (index->directory == NULL || index->scratch == NULL)
		goto fail;
	index->directory[0] = index_segment_make(index);
	if (index->directory[0] == NULL)
		goto fail;
	*ret_index = &index->public;
	return KVC_OK;
fail:
	kvci_index_destroy(&index->public);
	return KVC_NO_MEMORY;
}

void kvci_index_destroy(struct kvci_index *public)
{
	struct index *index = (struct index *)public;

	if (index == NULL)
		return;
	kvci_free(index->public.chunks);
	kvci_free(index->directory);
	kvci_supply_fini(&index->supply);
	kvci_free(index);
}

void kvci_index_set_worker(struct kvci_index *public, void (*run_job)(void *context, struct kvci_job *job), void *context)
{
	struct index *index = (struct index *)public;

	index->supply.context = context;
	index->supply.run_job = run_job;
}

kvc_status_t kvci_index_add(struct kvci_index *public, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES],
                            uint32_t *ret_number)
{
	struct index *index = (struct index *)public;
	uint32_t fingerprint = index_fingerprint(index, binding, hash);
	uint32_t number;

	if (binding == KVCI_INDEX_NONE)
		return KVC_INVALID;
	while (index_segment_of(index, fingerprint)->used >= INDEX_SPLIT_AT) {
		kvc_status_t split = index_split(index, fingerprint);
		if (split != KVC_OK)
			return split;
	}
	kvc_status_t status = index_number_take(index, &number);
	if (status != KVC_OK)
		return status;
	struct kvci_index_key *key = kvci_index_block(public, number);
	memset(key, 0, public->block_bytes);
	memcpy(key->hash, hash, KVCI_HASH_BYTES);
	key->binding = binding;
	segment_insert(index_segment_of(index, fingerprint), index_slot(fingerprint, number));
	index->linked++;
	*ret_number = number;
	return KVC_OK;
}

uint32_t kvci_index_find(const struct kvci_index *public, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES])
{
	const struct index *index = (const struct index *)public;
	uint32_t fingerprint = index_fingerprint(index, binding, hash);
	const struct index_segment *segment = index_segment_of(index, fingerprint);

	for (uint32_t group = index_home(fingerprint);; group = index_next(group)) {
		const uint64_t *slots = segment->slots[group];
		for (unsigned i = 0; i < INDEX_GROUP_SLOTS; i++)
			if (slots[i] >> 32 == fingerprint && slots[i] != 0) {
				uint32_t number = (uint32_t)slots[i] - 1;
				if (index_key_is(kvci_index_block(public, number), binding, hash))
					return number;
			}
		if (slots[INDEX_GROUP_SLOTS - 1] == 0)
			return KVCI_INDEX_NONE;
	}
}

/* One key on its way: to its slots, then to its block. */
struct index_probe {
	const uint64_t *slots; /* of the group to be looked at next */
	uint32_t fingerprint;
	uint32_t at; /* which key */
};
struct index_candidate {
	uint32_t number;
	uint32_t at;
};

/* A bit for each slot of a group that has this fingerprint. */
static inline uint32_t index_slots_like(const uint64_t *slots, uint32_t fingerprint)
{
#ifdef __SSE2__
	const __m128 *pair = (const __m128 *)(const void *)slots; /* two slots each; a slot's upper half is its fingerprint */
	__m128i wanted = _mm_set1_epi32((int)fingerprint);
	__m128i low = _mm_castps_si128(_mm_shuffle_ps(pair[0], pair[1], _MM_SHUFFLE(3, 1, 3, 1)));
	__m128i high = _mm_castps_si128(_mm_shuffle_ps(pair[2], pair[3], _MM_SHUFFLE(3, 1, 3, 1)));
	return (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(low, wanted))) |
	       (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(high, wanted))) << 4;
#else
	uint32_t hits = 0;

	for (unsigned i = 0; i < INDEX_GROUP_SLOTS; i++)
		hits |= (uint32_t)(slots[i] >> 32 == fingerprint) << i;
	return hits;
#endif
}

/* The block number of the first slot of the group with this fingerprint; KVCI_INDEX_NONE: no such key; INDEX_PROBE_ON: the next group decides.
 * Fingerprint 0 looks like an empty slot. */
static inline int64_t index_probe_group(const struct index_probe *probe)
{
	uint32_t hits = index_slots_like(probe->slots, probe->fingerprint);

	if (hits != 0 && probe->slots[__builtin_ctz(hits)] != 0)
		return (uint32_t)probe->slots[__builtin_ctz(hits)] - 1;
	return probe->slots[INDEX_GROUP_SLOTS - 1] == 0 ? (int64_t)KVCI_INDEX_NONE : INDEX_PROBE_ON;
}

static inline void index_probe_start(const struct index *index, uint32_t binding, const uint8_t (*hashes)[KVCI_HASH_BYTES], uint32_t at,
                                     struct index_probe *ret_probe)
{
	uint32_t fingerprint = index_fingerprint(index, binding, hashes[at]);

	ret_probe->slots = index_segment_of(index, fingerprint)->slots[index_home(fingerprint)];
	ret_probe->fingerprint = fingerprint;
	ret_probe->at = at;
	__builtin_prefetch(ret_probe->slots);
}

static void index_probe_on(const struct index *index, const struct index_probe *probe, struct index_probe *ret_probe)
{
	const struct index_segment *segment = index_segment_of(index, probe->fingerprint);

	*ret_probe = *probe;
	ret_probe->slots = probe->slots == segment->slots[INDEX_GROUPS - 1] ? segment->slots[0] : probe->slots + INDEX_GROUP_SLOTS;
	__builtin_prefetch(ret_probe->slots);
}

/* Batches: while the lines of one batch's blocks are on their way, the next one is started. A key that its group does not decide (one in
 * twenty at a usual load) goes into the next batch with the group after. */
void kvci_index_find_many(const struct kvci_index *public, uint32_t binding, const uint8_t (*hashes)[KVCI_HASH_BYTES],
                          uint32_t count, uint32_t *numbers)
{
	const struct index *index = (const struct index *)public;
	struct index_probe probes[2][INDEX_BATCH];
	struct index_candidate candidates[INDEX_BATCH];
	uint32_t next = 0, now = 0;

	while (now < INDEX_BATCH && next < count)
		index_probe_start(index, binding, hashes, next++, &probes[0][now++]);
	for (unsigned turn = 0; now != 0; turn ^= 1) {
		uint32_t candidate_count = 0, after = 0;
		for (uint32_t i = 0; i < now; i++) {
			const struct index_probe *probe = &probes[turn][i];
			int64_t found = index_probe_group(probe);
			if (found >= 0 && found != KVCI_INDEX_NONE) {
				__builtin_prefetch(kvci_index_block(public, (uint32_t)found));
				candidates[candidate_count++] = (struct index_candidate){ .number = (uint32_t)found, .at = probe->at };
			} else if (found == INDEX_PROBE_ON) {
				index_probe_on(index, probe, &probes[turn ^ 1][after++]);
			} else {
				numbers[probe->at] = KVCI_INDEX_NONE;
			}
		}
		while (after < INDEX_BATCH && next < count)
			index_probe_start(index, binding, hashes, next++, &probes[turn ^ 1][after++]);
		for (uint32_t i = 0; i < candidate_count; i++) {
			const uint8_t *hash = hashes[candidates[i].at];
			bool same = index_key_is(kvci_index_block(public, candidates[i].number), binding, hash);
			numbers[candidates[i].at] = same ? candidates[i].number : kvci_index_find(public, binding, hash);
		}
		now = after;
	}
}

bool kvci_index_unlink(struct kvci_index *public, uint32_t number)
{
	struct index *index = (struct index *)public;
	const struct kvci_index_key *key = kvci_index_block(public, number);
	uint32_t fingerprint = index_fingerprint(index, key->binding, key->hash);
	struct index_segment *segment = index_segment_of(index, fingerprint);
	uint64_t slot = index_slot(fingerprint, number);

	for (uint32_t group = index_home(fingerprint);; group = index_next(group)) {
		for (unsigned i = 0; i < INDEX_GROUP_SLOTS; i++)
			if (segment->slots[group][i] == slot) {
				segment_remove(segment, group, i);
				index->linked--;
				return true;
			}
		if (segment->slots[group][INDEX_GROUP_SLOTS - 1] == 0)
			return false;
	}
}

void kvci_index_free(struct kvci_index *public, uint32_t number)
{
	if (kvci_index_block_used(public, number) == NULL)
		__builtin_trap(); /* freed twice: one number would name two blocks */
	kvci_index_unlink(public, number);
	index_number_give((struct index *)public, number);
}

void *kvci_index_block_used(const struct kvci_index *public, uint32_t number)
{
	const struct index *index = (const struct index *)public;

	if (number >= index->high)
		return NULL;
	struct kvci_index_key *key = kvci_index_block(public, number);
	return key->binding == KVCI_INDEX_NONE ? NULL : key;
}

uint32_t kvci_index_linked(const struct kvci_index *index)
{
	return ((const struct index *)index)->linked;
}

uint32_t kvci_index_used(const struct kvci_index *index)
{
	return ((const struct index *)index)->used;
}

uint32_t kvci_index_high(const struct kvci_index *index)
{
	return ((const struct index *)index)->high;
}

uint64_t kvci_index_memory_bytes(const struct kvci_index *public)
{
	const struct index *index = (const struct index *)public;

	return sizeof(*index) + ((uint64_t)sizeof(*index->directory) << index->depth) + index->chunk_room * sizeof(uint8_t *) +
	       index->supply.bytes;
}

/* ---- invariants ------------------------------------------------------------------------------------------------------------ */

static const char *index_check_slot(const struct index *index, const struct index_segment *segment, uint32_t group, uint64_t slot)
{
	uint32_t fingerprint = (uint32_t)(slot >> 32), number = (uint32_t)slot - 1;
	const struct kvci_index_key *key = kvci_index_block_used(&index->public, number);

	if (key == NULL)
		return "index: a slot leads to a block that is not in use";
	if (fingerprint != index_fingerprint(index, key->binding, key->hash))
		return "index: a slot has another fingerprint than its block";
	if (index_segment_of(index, fingerprint) != segment)
		return "index: a slot is in a segment that its fingerprint does not lead to";
	for (uint32_t g = index_home(fingerprint); g != group; g = index_next(g))
		if (segment->slots[g][INDEX_GROUP_SLOTS - 1] == 0)
			return "index: a gap lies between a slot and its home group";
	if (kvci_index_find(&index->public, key->binding, key->hash) != number)
		return "index: two blocks have one key";
	return NULL;
}

static const char *index_check_segment(const struct index *index, const struct index_segment *segment, uint32_t *linked)
{
	uint32_t used = 0;

	for (uint32_t group = 0; group < INDEX_GROUPS; group++)
		for (unsigned i = 0; i < INDEX_GROUP_SLOTS; i++) {
			uint64_t slot = segment->slots[group][i];
			if (slot == 0)
				continue;
			if (i > 0 && segment->slots[group][i - 1] == 0)
				return "index: a group has a gap";
			const char *broken = index_check_slot(index, segment, group, slot);
			if (broken != NULL)
				return broken;
			used++;
		}
	*linked += used;
	return used == segment->used ? NULL : "index: a segment's counter is wrong";
}

const char *kvci_index_check(const struct kvci_index *public)
{
	const struct index *index = (const struct index *)public;
	uint32_t linked = 0, used = 0, spare = 0;

	for (size_t i = 0; i < (size_t)1 << index->depth; i++) {
		const struct index_segment *segment = index->directory[i];
		size_t first = i & (((size_t)1 << segment->depth) - 1);
		if (segment->depth > index->depth || index->directory[first] != segment)
			return "index: the directory does not fit the depth of a segment";
		if (i != first)
			continue;
		const char *broken = index_check_segment(index, segment, &linked);
		if (broken != NULL)
			return broken;
	}
	for (uint32_t number = 0; number < index->high; number++)
		used += kvci_index_block_used(public, number) != NULL;
	for (uint32_t n = index->free_list; n != KVCI_INDEX_NONE && spare <= index->high; spare++)
		memcpy(&n, kvci_index_block(public, n), sizeof(n));
	if (linked != index->linked || used != index->used || used + spare != index->high)
		return "index: the counters differ from the blocks";
	return NULL;
}
