/* SPDX-License-Identifier: Apache-2.0
 *
 * Match: the leading keys that hit, why the first miss missed, and the lease on what hit.
 *
 * The hot path touches a line of slots and one of the block a key (with a lease both of the block), fetched ahead in groups, and allocates
 * nothing a key: block numbers go into one array, which becomes the lease's.
 */
#include "cache/internal.h"

#include "base/alloc.h"

enum {
	MATCH_GROUP = 256,
	MATCH_BLOCKS_MAX = 4 << 20, /* of all shards, in one match */
};

static const enum kvci_stat match_miss_stats[KVCI_MISS_COUNT] = {
#define MATCH_MISS_STAT(name, text) [KVCI_MISS_##name] = KVCI_STAT_MISS_##name,
	KVCI_MISS_TABLE(MATCH_MISS_STAT)
#undef MATCH_MISS_STAT
};

/* One key is about to be called missed for this cause. */
static void match_count_miss(struct kvci_cache *cache, enum kvci_miss miss, uint64_t n)
{
	if (n != 0)
		kvci_cache_count(cache, match_miss_stats[miss], n);
}

enum kvci_miss kvci_match_cause(struct kvci_cache *cache, const struct kvci_binding *binding, const uint8_t *hash)
{
	uint32_t cause = kvci_ghost_get(cache->ghost, binding->number, hash);
	unsigned looked = 0;

	if (cause != 0 && cause < KVCI_MISS_COUNT)
		return (enum kvci_miss)cause;
	for (uint32_t number = binding->space->first_binding; number != KVCI_NONE && looked < 16; looked++) {
		const struct kvci_binding *other = cache->bindings[number];
		bool shard = binding->shards != NULL && other->shards == binding->shards;
		if (other != binding && !shard && other->group == binding->group &&
		    kvci_index_find(cache->index, number, hash) != KVCI_INDEX_NONE)
			return KVCI_MISS_OTHER_FORM;
		number = other->next_of_space;
	}
	return cache->disk.loading ? KVCI_MISS_INDEX_LOADING : KVCI_MISS_NEVER_STORED;
}

/* Whether the block of a key hits; if not, why. Number and what it stands for may be gone after a miss. */
static inline enum kvci_miss match_classify(struct kvci_cache *cache, const struct kvci_binding *binding, uint32_t number,
                                            bool *ret_on_disk)
{
	const struct kvci_block *block = kvci_block_at(cache, number);

	*ret_on_disk = false;
	if (block->epoch != binding->space->epoch || binding->void_) {
		kvci_block_reap(cache, number);
		return KVCI_MISS_EPOCH;
	}
	if ((block->flags & KVCI_BLOCK_MEMORY) != 0)
		return KVCI_MISS_NONE;
	if ((block->flags & KVCI_BLOCK_RESERVED) != 0)
		return KVCI_MISS_IN_FLIGHT;
	if (!kvci_block_on_disk(cache, block)) {
		kvci_block_reap(cache, number);
		return KVCI_MISS_EVICTED;
	}
	*ret_on_disk = true;
	if (cache->disk.read_circuit.state != KVCI_CIRCUIT_CLOSED || (block->flags & KVCI_BLOCK_LATE) != 0)
		return KVCI_MISS_DISK_CIRCUIT;
	return KVCI_MISS_NONE;
}

/* Room for the block numbers of this many keys, in all shards. */
static kvc_status_t match_scratch(struct kvci_cache *cache, const struct kvci_binding *binding, uint32_t keys)
{
	uint64_t count = (uint64_t)keys * binding->shard_count;

	if (count > MATCH_BLOCKS_MAX)
		return KVC_TOO_BIG;
	if (count <= cache->match_room)
		return KVC_OK;
	uint32_t *scratch = kvci_realloc(cache->match_scratch, count * sizeof(*scratch));
	if (scratch == NULL)
		return KVC_NO_MEMORY;
	cache->match_scratch = scratch;
	cache->match_room = (uint32_t)count;
	return KVC_OK;
}

/* ---- blocks of several shards ---- */

/* The numbers of n keys in all shards, into rows of shard_count. */
static void match_shard_rows(struct kvci_cache *cache, const struct kvci_binding *binding,
                             const uint8_t (*hashes)[KVCI_HASH_BYTES], uint32_t n, uint32_t *rows)
{
	uint32_t column[MATCH_GROUP];

	for (uint32_t shard = 0; shard < binding->shard_count; shard++) {
		kvci_index_find_many(cache->index, binding->shards[shard]->number, hashes, n, column);
		for (uint32_t i = 0; i < n; i++)
			rows[(size_t)i * binding->shard_count + shard] = column[i];
	}
}

/* As match_classify for one key: it hits when all its shards do. The reader's own shard is the first to be asked why not. */
static enum kvci_miss match_classify_row(struct kvci_cache *cache, const struct kvci_binding *binding, const uint8_t *hash,
                                         const uint32_t *row, bool *ret_on_disk)
{
	enum kvci_miss miss;

	*ret_on_disk = false;
	for (uint32_t i = 0; i < binding->shard_count; i++) {
		uint32_t shard = (binding->shard_index + i) % binding->shard_count;
		bool on_disk = false;
		if (row[shard] == KVCI_INDEX_NONE)
			return i == 0 ? kvci_match_cause(cache, binding, hash) : kvci_shard_cause(cache, binding->shards[shard], hash);
		miss = match_classify(cache, binding->shards[shard], row[shard], &on_disk);
		if (miss != KVCI_MISS_NONE)
			return miss;
		*ret_on_disk |= on_disk;
	}
	return KVCI_MISS_NONE;
}

/* Looks a key up in all its shards, into row. */
static enum kvci_miss match_one_row(struct kvci_cache *cache, const struct kvci_binding *binding,
                                    const uint8_t (*hash)[KVCI_HASH_BYTES], uint32_t *row, bool *ret_on_disk)
{
	match_shard_rows(cache, binding, hash, 1, row);
	return match_classify_row(cache, binding, *hash, row, ret_on_disk);
}

/* Counts what a hit is. */
static inline void match_hit(struct kvci_match *match, bool on_disk)
{
	match->matched++;
	match->in_memory += !on_disk;
	match->on_disk += on_disk;
}

static void match_exists(struct kvci_cache *cache, const struct kvci_binding *binding, struct kvci_match *match)
{
	uint32_t numbers[MATCH_GROUP];
	uint32_t row[KVCI_SHARDS_MAX];

	for (uint32_t first = match->first; first < match->until; first += MATCH_GROUP) {
		uint32_t n = match->until - first < MATCH_GROUP ? match->until - first : MATCH_GROUP;
		kvci_index_find_many(cache->index, binding->number, match->hashes + first, n, numbers);
		for (uint32_t i = 0; i < n; i++) {
			bool on_disk = false;
			enum kvci_miss miss;
			/* classifying a miss may free a block that a later key found, if the caller repeats keys: look again */
			if (numbers[i] != KVCI_INDEX_NONE && match->end != KVCI_MISS_NONE)
				numbers[i] = kvci_index_find(cache->index, binding->number, match->hashes[first + i]);
			if (numbers[i] != KVCI_INDEX_NONE && binding->shard_count > 1)
				miss = match_one_row(cache, binding, match->hashes + first + i, row, &on_disk);
			else if (numbers[i] == KVCI_INDEX_NONE)
				miss = kvci_match_cause(cache, binding, match->hashes[first + i]);
			else
				miss = match_classify(cache, binding, numbers[i], &on_disk);
			if (match->exists != NULL)
				match->exists[first + i] = miss == KVCI_MISS_NONE;
			if (miss == KVCI_MISS_NONE) {
				match_hit(match, on_disk);
				continue;
			}
			match_count_miss(cache, miss, 1);
			if (match->end == KVCI_MISS_NONE)
				match->end = miss;
		}
	}
}

/* match_prefix for a binding of several shards: numbers are rows. */
static void match_prefix_rows(struct kvci_cache *cache, const struct kvci_binding *binding, struct kvci_match *match,
                              uint32_t first, uint32_t *numbers)
{
	while (first < match->until) {
		uint32_t n = match->until - first < MATCH_GROUP ? match->until - first : MATCH_GROUP;
		uint32_t *rows = numbers + (size_t)first * binding->shard_count;
		match_shard_rows(cache, binding, match->hashes + first, n, rows);
		for (uint32_t i = 0; i < n; i++) {
			bool on_disk = false;
			match->end = match_classify_row(cache, binding, match->hashes[first + i], rows + (size_t)i * binding->shard_count,
			                                &on_disk);
			if (match->end != KVCI_MISS_NONE)
				return;
			match_hit(match, on_disk);
			for (uint32_t shard = 0; match->numbers != NULL && shard < binding->shard_count; shard++)
				kvci_block_hit(cache, rows[(size_t)i * binding->shard_count + shard]);
		}
		first += n;
	}
}

/* The leading hits of keys [first, until), into numbers[first...]; match->matched goes on from first. */
static void match_prefix(struct kvci_cache *cache, const struct kvci_binding *binding, struct kvci_match *match,
                         uint32_t first, uint32_t *numbers)
{
	if (binding->shard_count > 1) {
		match_prefix_rows(cache, binding, match, first, numbers);
		return;
	}
	while (first < match->until) {
		uint32_t n = match->until - first < MATCH_GROUP ? match->until - first : MATCH_GROUP;
		kvci_index_find_many(cache->index, binding->number, match->hashes + first, n, numbers + first);
		for (uint32_t i = first; i < first + n; i++) {
			bool on_disk = false;
			match->end = numbers[i] == KVCI_INDEX_NONE ? kvci_match_cause(cache, binding, match->hashes[i])
			                                           : match_classify(cache, binding, numbers[i], &on_disk);
			if (match->end != KVCI_MISS_NONE)
				return;
			match_hit(match, on_disk);
			if (match->numbers != NULL)
				kvci_block_hit(cache, numbers[i]);
			else
				__builtin_prefetch(kvci_block_at(cache, numbers[i])->policy); /* it is leased or touched next */
		}
		first += n;
	}
}

/* What is not on the disk may be worth writing now. */
static void match_write_touched(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count)
{
	if (!kvci_cache_has_disk(cache) || cache->config.write_mode == KVCI_WRITE_OFF)
		return;
	for (uint32_t i = 0; i < count; i++)
		if (kvci_block_at(cache, numbers[i])->place.generation == 0)
			kvci_write_touched(cache, numbers[i]);
}

/* They were used. hit: each gains one. */
static void match_touch(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count, bool hit)
{
	kvci_block_touch_chain(cache, numbers, count, hit);
	match_write_touched(cache, numbers, count);
}

/* ---- leases ---- */

/* What the lease has of these keys already: up to which one, or KVCI_NONE when the keys are others. */
static uint32_t match_lease_prefix(struct kvci_cache *cache, const struct kvci_lease *lease, struct kvci_match *match)
{
	uint32_t both = lease->count < match->until ? lease->count : match->until;
	uint32_t width = kvci_lease_width(lease);

	if (both < match->first)
		return KVCI_NONE;
	for (uint32_t i = match->first; i < both; i++)
		if (memcmp(kvci_block_at(cache, lease->blocks[(size_t)i * width])->key.hash, match->hashes[i], KVCI_HASH_BYTES) != 0)
			return KVCI_NONE;
	for (uint32_t i = match->first; i < both; i++) {
		bool any_on_disk = false;
		for (uint32_t shard = 0; shard < width && match->end == KVCI_MISS_NONE; shard++) {
			uint32_t number = lease->blocks[(size_t)i * width + shard];
			const struct kvci_block *block = kvci_block_at(cache, number);
			bool on_disk = false;
			if ((block->flags & KVCI_BLOCK_DEAD) != 0)
				match->end = (enum kvci_miss)(block->flags >> KVCI_BLOCK_CAUSE_SHIFT);
			else
				match->end = match_classify(cache, kvci_block_binding(cache, block), number, &on_disk);
			any_on_disk |= on_disk;
		}
		if (match->end != KVCI_MISS_NONE)
			return i;
		match_hit(match, any_on_disk);
	}
	return both;
}

/* Pins all shards of one key, or none. */
static kvc_status_t match_pin_row(struct kvci_cache *cache, struct kvci_lease *lease, const uint32_t *row)
{
	uint32_t width = kvci_lease_width(lease);

	for (uint32_t i = 0; i < width; i++) {
		kvc_status_t status = kvci_hold_add(cache, lease->session, row[i], lease->binding->record_bytes);
		if (status == KVC_OK) {
			lease->blocks[lease->held + i] = row[i];
			continue;
		}
		while (i-- > 0)
			kvci_hold_remove(cache, lease->session, row[i]);
		return status;
	}
	lease->held += width;
	lease->count++;
	return KVC_OK;
}

static bool match_row_on_disk(const struct kvci_cache *cache, const uint32_t *row, uint32_t width)
{
	bool on_disk = false;

	for (uint32_t i = 0; i < width; i++)
		on_disk |= (kvci_block_at(cache, row[i])->flags & KVCI_BLOCK_MEMORY) == 0;
	return on_disk;
}

/* Pins numbers[first, match->matched) for the lease; over a cap fewer blocks match. */
static kvc_status_t match_pin(struct kvci_cache *cache, struct kvci_lease *lease, struct kvci_match *match, uint32_t first,
                              const uint32_t *numbers)
{
	uint32_t width = kvci_lease_width(lease);

	for (uint32_t i = first; i < match->matched; i++) {
		kvc_status_t status = match_pin_row(cache, lease, numbers + (size_t)i * width);
		if (status == KVC_OK)
			continue;
		for (uint32_t j = i; j < match->matched; j++) {
			bool on_disk = match_row_on_disk(cache, numbers + (size_t)j * width, width);
			match->on_disk -= on_disk;
			match->in_memory -= !on_disk;
		}
		match->matched = i;
		match->end = KVCI_MISS_OVER_CAP;
		return status == KVC_OVER_CAP ? KVC_OK : status;
	}
	return KVC_OK;
}

/* The disk begins to bring what is only there. A read that cannot be started now is tried again by the load. */
static void match_start_reads(struct kvci_cache *cache, const uint32_t *numbers, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if ((kvci_block_at(cache, numbers[i])->flags & (KVCI_BLOCK_MEMORY | KVCI_BLOCK_LOADING)) == 0)
			kvci_read_start(cache, numbers[i], false);
	kvci_read_pump(cache);
}

/* The lease of an earlier match under this id: its blocks, or none when the keys are others and nobody else has it. */
static kvc_status_t match_lease_again(struct kvci_cache *cache, struct kvci_client *client, struct kvci_binding *binding,
                                      struct kvci_match *match, struct kvci_lease **lease, uint32_t *ret_first)
{
	bool same = (*lease)->binding == binding || (binding->shards != NULL && (*lease)->binding->shards == binding->shards);
	uint32_t first = same ? match_lease_prefix(cache, *lease, match) : KVCI_NONE;

	if (first != KVCI_NONE) {
		*ret_first = first;
		return KVC_OK;
	}
	if (match->first != 0)
		return KVC_NOT_FOUND;
	struct kvci_list *only = (*lease)->holders.next;
	if (only->next != &(*lease)->holders || KVCI_LIST_OF(only, struct kvci_holder, in_lease)->client != client ||
	    client->loads != NULL)
		return KVC_IN_USE;
	kvci_holder_drop(cache, KVCI_LIST_OF(only, struct kvci_holder, in_lease), true);
	*lease = NULL;
	*ret_first = 0;
	return KVC_OK;
}

/* New blocks beyond what the lease has can join it only when it has all before. */
static kvc_status_t match_lease(struct kvci_cache *cache, struct kvci_client *client, struct kvci_binding *binding,
                                struct kvci_match *match)
{
	struct kvci_lease *lease = kvci_lease_find(cache, client->session, match->request_id);
	bool made = false;
	uint32_t first = 0;
	kvc_status_t status = lease != NULL || match->first == 0 ? KVC_OK : KVC_NOT_FOUND;

	if (lease != NULL)
		status = match_lease_again(cache, client, binding, match, &lease, &first);
	if (status != KVC_OK)
		return status;
	if (match->end == KVCI_MISS_NONE && first < match->until)
		match_prefix(cache, binding, match, first, cache->match_scratch);
	if (match->matched == match->first)
		return KVC_OK;
	if (lease == NULL) {
		status = kvci_lease_create(cache, client->session, binding, match->request_id, &lease);
		made = status == KVC_OK;
		if (status == KVC_OVER_CAP) {
			match->matched = match->in_memory = match->on_disk = 0; /* a first piece */
			match->end = KVCI_MISS_OVER_CAP;
			return KVC_OK;
		}
	}
	if (status == KVC_OK && match->matched > lease->count)
		status = kvci_lease_room(lease, match->matched);
	if (status == KVC_OK)
		status = kvci_lease_attach(cache, lease, client);
	if (status == KVC_OK && match->matched > first && lease->count == first)
		status = match_pin(cache, lease, match, first, cache->match_scratch);
	if (lease != NULL && made && (status != KVC_OK || lease->count == 0)) {
		kvci_lease_end(cache, lease, true);
		return status;
	}
	if (status != KVC_OK)
		return status;
	uint32_t width = kvci_lease_width(lease), count = (match->matched - match->first) * width;
	uint32_t *piece = lease->blocks + (size_t)match->first * width;
	if ((match->flags & KVCI_MATCH_NO_TOUCH) == 0)
		match_touch(cache, piece, count, true);
	if (match->on_disk != 0)
		match_start_reads(cache, piece, count);
	return KVC_OK;
}

void kvci_cache_match_touch(struct kvci_cache *cache, uint32_t client_id, const uint8_t request_id[KVCI_REQUEST_ID_BYTES],
                            uint32_t first, uint32_t count)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvci_lease *lease = client != NULL ? kvci_lease_find(cache, client->session, request_id) : NULL;

	kvci_cache_enter(cache);
	if (lease == NULL || first > lease->count || count > lease->count - first)
		return;
	uint32_t width = kvci_lease_width(lease);
	match_touch(cache, lease->blocks + (size_t)first * width, count * width, true);
}

/* A block that a match found a moment ago and that may have died since, by another's hand: its number may be another's by now. */
static inline bool match_is_still(const struct kvci_block *block, const uint8_t *hash)
{
	return block->key.binding != KVCI_INDEX_NONE && (block->flags & (KVCI_BLOCK_DEAD | KVCI_BLOCK_RESERVED)) == 0 &&
	       memcmp(block->key.hash, hash, KVCI_HASH_BYTES) == 0;
}

void kvci_cache_match_touch_blocks(struct kvci_cache *cache, const struct kvci_match *match, uint32_t first, uint32_t count)
{
	const struct kvci_binding *binding = kvci_binding_get(cache, match->binding);
	uint32_t alive[MATCH_GROUP], at = MATCH_GROUP; /* filled from its end */

	kvci_cache_enter(cache);
	if (binding == NULL)
		return;
	uint32_t width = binding->shard_count;
	size_t begin = (size_t)first * width;
	if (match->as_of == cache->leaves) { /* all were in memory, and none has left since */
		kvci_block_touch_memory(cache, match->numbers + begin, count * width);
		match_write_touched(cache, match->numbers + begin, count * width);
		return;
	}
	for (size_t i = begin + (size_t)count * width; i-- > begin;) {
		if (!match_is_still(kvci_block_at(cache, match->numbers[i]), match->hashes[i / width]))
			continue;
		alive[--at] = match->numbers[i];
		if (at > 0)
			continue;
		match_touch(cache, alive, MATCH_GROUP, false);
		at = MATCH_GROUP;
	}
	match_touch(cache, alive + at, MATCH_GROUP - at, false);
}

/* Checks what does not depend on keys. */
static kvc_status_t match_check(const struct kvci_client *client, const struct kvci_binding *binding,
                                const struct kvci_match *match)
{
	if (client == NULL || binding == NULL || !binding->form_known)
		return KVC_NOT_FOUND;
	if (client->tenant != binding->space->tenant)
		return KVC_DENIED;
	if (binding->shard_count > 1 && binding->shards == NULL)
		return KVC_NOT_FOUND; /* memory was short when it was bound: bind again */
	if ((match->flags & KVCI_MATCH_EXISTS) != 0 && (match->flags & KVCI_MATCH_LEASE) != 0)
		return KVC_INVALID;
	if (match->count > KVCI_MATCH_KEYS_MAX)
		return KVC_TOO_BIG;
	return match->first <= match->until && match->until <= match->count ? KVC_OK : KVC_INVALID;
}

/* The leading hits of the piece, leased or not; match->matched counts from key 0 on. */
static kvc_status_t match_leading(struct kvci_cache *cache, struct kvci_client *client, struct kvci_binding *binding,
                                  struct kvci_match *match)
{
	kvc_status_t status = match->numbers != NULL ? KVC_OK : match_scratch(cache, binding, match->until);

	match->matched = match->first;
	if (status == KVC_OK && (match->flags & KVCI_MATCH_LEASE) != 0) {
		status = match_lease(cache, client, binding, match);
	} else if (status == KVC_OK) {
		uint32_t width = binding->shard_count;
		uint32_t *numbers = match->numbers != NULL ? match->numbers : cache->match_scratch;
		if (match->first == 0)
			match->as_of = cache->leaves;
		match_prefix(cache, binding, match, match->first, numbers);
		if (match->on_disk != 0)
			match->as_of = 0;
		if (match->numbers == NULL)
			match_touch(cache, numbers + (size_t)match->first * width, (match->matched - match->first) * width, true);
	}
	if (status != KVC_OK) {
		match->matched = match->in_memory = match->on_disk = 0;
		match->end = KVCI_MISS_NONE;
		return status;
	}
	if (match->end != KVCI_MISS_NONE) {
		match_count_miss(cache, match->end, 1);
		match_count_miss(cache, KVCI_MISS_AFTER_MISS, match->count - match->matched - 1);
	}
	match->matched -= match->first;
	return KVC_OK;
}

static kvc_status_t match_piece(struct kvci_cache *cache, struct kvci_client *client, struct kvci_match *match)
{
	struct kvci_binding *binding = kvci_binding_get(cache, match->binding);
	bool each = (match->flags & KVCI_MATCH_EXISTS) != 0;
	kvc_status_t status = match_check(client, binding, match);

	if (status != KVC_OK)
		return status;
	if (each)
		match_exists(cache, binding, match);
	else
		status = match_leading(cache, client, binding, match);
	if (status != KVC_OK)
		return status;
	match->load_bytes = match->matched * binding->record_bytes;
	kvci_cache_count(cache, KVCI_STAT_MATCH_CALLS, match->first == 0);
	/* After a miss the keys of later pieces are looked at no more: they are counted now. */
	kvci_cache_count(cache, KVCI_STAT_MATCH_KEYS,
	                 (each || match->end == KVCI_MISS_NONE ? match->until : match->count) - match->first);
	kvci_cache_count(cache, KVCI_STAT_MATCH_HIT_KEYS, match->matched);
	return KVC_OK;
}

kvc_status_t kvci_cache_match(struct kvci_cache *cache, uint32_t client, struct kvci_match *match)
{
	uint32_t until = match->until;
	kvc_status_t status;

	kvci_cache_enter(cache);
	match->matched = match->in_memory = match->on_disk = 0;
	match->load_bytes = 0;
	match->end = KVCI_MISS_NONE;
	if (until == 0)
		match->until = match->count;
	status = match_piece(cache, kvci_client_get(cache, client), match);
	match->until = until;
	return status;
}
