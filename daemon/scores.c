/* SPDX-License-Identifier: Apache-2.0
 * Retention scores: a table by block and a queue by age. */
#include "daemon/scores.h"

#include <string.h>

#include "base/alloc.h"

enum { SCORES_BUCKETS = 16384 };

struct scores_entry {
	struct scores_entry *chain;          /* of a bucket */
	struct scores_entry *older, *newer;
	struct kvci_block_id id;
	uint32_t length;
	uint8_t bytes[];
};

struct kvci_scores {
	uint64_t limit_bytes, used_bytes;
	struct scores_entry *oldest, *newest;
	struct scores_entry *buckets[SCORES_BUCKETS];
};

static uint32_t scores_bucket(const uint8_t *hash)
{
	uint32_t word;

	memcpy(&word, hash, sizeof(word)); /* SHA-256: even */
	return word % SCORES_BUCKETS;
}

static struct scores_entry **scores_link(struct kvci_scores *scores, const struct kvci_block_id *id)
{
	struct scores_entry **link = &scores->buckets[scores_bucket(id->hash)];

	while (*link != NULL && memcmp(&(*link)->id, id, sizeof(*id)) != 0)
		link = &(*link)->chain;
	return link;
}

static void scores_drop(struct kvci_scores *scores, struct scores_entry *entry)
{
	*scores_link(scores, &entry->id) = entry->chain;
	if (entry->older != NULL)
		entry->older->newer = entry->newer;
	else
		scores->oldest = entry->newer;
	if (entry->newer != NULL)
		entry->newer->older = entry->older;
	else
		scores->newest = entry->older;
	scores->used_bytes -= sizeof(*entry) + entry->length;
	kvci_free(entry);
}

kvc_status_t kvci_scores_create(uint64_t limit_bytes, struct kvci_scores **ret_scores)
{
	struct kvci_scores *scores = kvci_alloc_zero(1, sizeof(*scores));

	if (scores == NULL)
		return KVC_NO_MEMORY;
	scores->limit_bytes = limit_bytes;
	*ret_scores = scores;
	return KVC_OK;
}

void kvci_scores_destroy(struct kvci_scores *scores)
{
	if (scores == NULL)
		return;
	while (scores->oldest != NULL)
		scores_drop(scores, scores->oldest);
	kvci_free(scores);
}

kvc_status_t kvci_scores_put(struct kvci_scores *scores, const struct kvci_block_id *id, const void *bytes, uint32_t length)
{
	struct scores_entry *entry = *scores_link(scores, id);
	size_t room = sizeof(*entry) + length;

	if (room > scores->limit_bytes)
		return KVC_TOO_BIG;
	if (entry != NULL)
		scores_drop(scores, entry);
	while (scores->used_bytes + room > scores->limit_bytes)
		scores_drop(scores, scores->oldest);
	entry = kvci_alloc(room);
	if (entry == NULL)
		return KVC_NO_MEMORY;
	*entry = (struct scores_entry){.id = *id, .length = length, .older = scores->newest};
	memcpy(entry->bytes, bytes, length);
	*scores_link(scores, id) = entry; /* the end of its bucket's chain */
	if (scores->newest != NULL)
		scores->newest->newer = entry;
	else
		scores->oldest = entry;
	scores->newest = entry;
	scores->used_bytes += room;
	return KVC_OK;
}

const uint8_t *kvci_scores_find(const struct kvci_scores *scores, const struct kvc_tier_entry *entry, uint32_t length)
{
	const struct scores_entry *at = scores->buckets[scores_bucket(entry->hash)];

	for (; at != NULL; at = at->chain)
		if (at->length == length && at->id.group == entry->group && at->id.shard_index == entry->shard_index &&
		    memcmp(at->id.hash, entry->hash, sizeof(at->id.hash)) == 0 && memcmp(at->id.space, entry->space, sizeof(at->id.space)) == 0)
			return at->bytes;
	return NULL;
}

uint64_t kvci_scores_bytes(const struct kvci_scores *scores)
{
	return scores->used_bytes;
}
