/* SPDX-License-Identifier: Apache-2.0
 *
 * Damage: a reader says that an extent's bytes are wrong. A worker looks, with the extent pinned; the block is dropped only if it
 * is so, since clients may lie.
 */
#include "cache/internal.h"

#include "base/alloc.h"
#include "base/log.h"

/* A disk-only block under the same key, for a place that may still be good. */
static void damage_keep_place(struct kvci_cache *cache, const struct kvci_block *old)
{
	struct kvci_block copy = *old;
	uint32_t number;

	if (kvci_block_create(cache, copy.key.binding, copy.key.hash, &number) != KVC_OK)
		return;
	struct kvci_block *block = kvci_block_at(cache, number);
	block->record_checksum = copy.record_checksum;
	block->position_tokens = copy.position_tokens;
	block->token_count = copy.token_count;
	block->hits = copy.hits;
	kvci_ghost_forget(cache->ghost, copy.key.binding, copy.key.hash);
	kvci_block_place_set(cache, number, &copy.place);
	block->flags |= copy.flags & KVCI_BLOCK_LOSSY;
}

void kvci_block_damaged(struct kvci_cache *cache, uint32_t number, bool disk)
{
	struct kvci_block *block = kvci_block_at(cache, number);
	struct kvci_block old = *block;
	struct kvc_tier_entry entry;

	if ((block->flags & KVCI_BLOCK_DEAD) != 0)
		return;
	bool on_disk = kvci_block_on_disk(cache, block);
	kvci_cache_count(cache, KVCI_STAT_DAMAGED_BLOCKS, 1);
	KVCI_LOG_LIMITED(KVCI_LOG_WARN, "cache", "block %02x%02x%02x%02x... is damaged %s", block->key.hash[0], block->key.hash[1],
	                 block->key.hash[2], block->key.hash[3], disk ? "on the disk" : "in memory");
	if (disk && on_disk) {
		kvci_read_entry(cache, block, &entry);
		kvci_tier_drop(cache->disk.tier, &entry);
	}
	kvci_block_forget(cache, number, KVCI_MISS_DAMAGED);
	if (!disk && on_disk)
		damage_keep_place(cache, &old);
}

void kvci_cache_disk_damaged(struct kvci_cache *cache, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES],
                             const struct kvc_place *place)
{
	uint32_t number;
	struct kvci_block *block;

	kvci_cache_enter(cache);
	if (kvci_binding_get(cache, binding) == NULL)
		return;
	number = kvci_index_find(cache->index, binding, hash);
	if (number == KVCI_INDEX_NONE)
		return;
	block = kvci_block_at(cache, number);
	if (!kvci_block_on_disk(cache, block) || memcmp(&block->place, place, sizeof(*place)) != 0)
		return;
	if ((block->flags & KVCI_BLOCK_MEMORY) == 0) {
		kvci_block_damaged(cache, number, true);
		return;
	}
	/* What is in memory is whole: only the place goes. */
	struct kvc_tier_entry entry;
	const struct kvc_place none = {0};

	kvci_cache_count(cache, KVCI_STAT_DAMAGED_BLOCKS, 1);
	kvci_read_entry(cache, block, &entry);
	kvci_tier_drop(cache->disk.tier, &entry);
	kvci_block_place_set(cache, number, &none);
}

kvc_status_t kvci_cache_recoded(struct kvci_cache *cache, uint32_t binding, const uint8_t hash[KVCI_HASH_BYTES], const struct kvc_place *old,
                                const struct kvc_tier_entry *entry)
{
	uint32_t number = kvci_binding_get(cache, binding) != NULL ? kvci_index_find(cache->index, binding, hash) : KVCI_INDEX_NONE;
	struct kvci_block *block = number != KVCI_INDEX_NONE ? kvci_block_at(cache, number) : NULL;
	struct kvc_tier_entry gone;
	kvc_status_t status = KVC_OK;

	kvci_cache_enter(cache);
	if (block == NULL || !kvci_block_on_disk(cache, block) || memcmp(&block->place, old, sizeof(*old)) != 0 || block->epoch != entry->epoch ||
	    kvci_segment_know(cache, entry->place.segment) != KVC_OK)
		status = KVC_MISS;
	else if ((block->flags & KVCI_BLOCK_LOADING) != 0)
		status = KVC_IN_USE;
	if (status != KVC_OK) {
		kvci_tier_drop(cache->disk.tier, entry);
		return status;
	}
	kvci_read_entry(cache, block, &gone);
	kvci_block_place_entry(cache, number, entry);
	if ((block->flags & KVCI_BLOCK_MEMORY) == 0)
		block->record_checksum = entry->record_checksum;
	kvci_tier_drop(cache->disk.tier, &gone);
	return KVC_OK;
}

/* On a worker. Header and table are a copy: the owner of the slab may write there at any time, and the disk's seal is written there. */
static void damage_run(struct kvci_job *job)
{
	struct kvci_verify *verify = (struct kvci_verify *)(void *)job;
	struct kvci_record_header *header = (struct kvci_record_header *)(void *)verify->head;
	const struct kvci_section_entry *sections;
	const struct kvci_record_header *parsed;

	verify->status = KVC_CORRUPT;
	if (header->section_count != verify->section_count || kvci_record_checksum(header) != verify->record_checksum ||
	    kvci_record_parse(header, verify->head_bytes, &parsed, &sections) != KVC_OK ||
	    !kvci_record_is_image(parsed, sections, &verify->sizes))
		return;
	verify->status = kvci_record_verify(verify->record, parsed, sections, NULL);
}

static void damage_done(struct kvci_job *job)
{
	struct kvci_verify *verify = (struct kvci_verify *)(void *)job;
	struct kvci_cache *cache = verify->cache;
	uint32_t number = verify->block;

	kvci_cache_enter(cache);
	verify->block = KVCI_NONE;
	if (verify->status != KVC_OK)
		kvci_block_damaged(cache, number, false);
	else
		kvci_cache_count(cache, KVCI_STAT_DAMAGE_REPORTS_FALSE, 1);
	kvci_block_busy_end(cache, number, KVCI_BLOCK_VERIFYING);
}

/* The block in memory that an extent names, or KVCI_NONE: it is another's by now, or was never. */
static uint32_t damage_block(const struct kvci_cache *cache, const struct kvci_extent *extent)
{
	const struct kvci_slab *slab = kvci_slab_by_id(cache, extent->slab);

	if (slab == NULL || extent->offset_bytes >= cache->config.slab_bytes)
		return KVCI_NONE;
	uint32_t owner = slab->owners[extent->offset_bytes >> KVCI_PAGE_SHIFT];
	if (owner == KVCI_OWNER_NONE || owner == KVCI_OWNER_OTHER)
		return KVCI_NONE;
	const struct kvci_block *block = kvci_block_at(cache, owner - 1);
	if ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT != extent->offset_bytes ||
	    block->spot.generation != extent->generation || (block->flags & KVCI_BLOCK_MEMORY) == 0 ||
	    (block->flags & (KVCI_BLOCK_DEAD | KVCI_BLOCK_VERIFYING)) != 0)
		return KVCI_NONE;
	return owner - 1;
}

void kvci_cache_report_damage(struct kvci_cache *cache, uint32_t client_id, const struct kvci_extent *extent)
{
	struct kvci_verify *verify = NULL;

	kvci_cache_enter(cache);
	kvci_cache_count(cache, KVCI_STAT_DAMAGE_REPORTS, 1);
	if (!kvci_cache_slab_visible(cache, client_id, extent->slab))
		return;
	uint32_t number = damage_block(cache, extent);
	for (uint32_t i = 0; i < KVCI_VERIFY_MAX && verify == NULL; i++)
		if (cache->verifies[i].block == KVCI_NONE)
			verify = &cache->verifies[i];
	if (number == KVCI_NONE || verify == NULL) /* or as many checks as we give to reports are under way */
		return;
	struct kvci_block *block = kvci_block_at(cache, number);
	const struct kvci_binding *binding = kvci_block_binding(cache, block);
	if (verify->head == NULL)
		verify->head = kvci_alloc_aligned(64, KVCI_RECORD_HEAD_BYTES_MAX);
	if (verify->head == NULL || !binding->form_known)
		return;
	verify->job.run = damage_run;
	verify->job.done = damage_done;
	verify->cache = cache;
	verify->block = number;
	verify->record = cache->slabs[block->spot.slot]->base + ((uint64_t)block->spot.offset_4k << KVCI_PAGE_SHIFT);
	verify->section_count = binding->form.layer_count;
	verify->head_bytes = sizeof(struct kvci_record_header) + verify->section_count * sizeof(struct kvci_section_entry);
	verify->sizes = binding->sizes;
	verify->record_checksum = block->record_checksum;
	memcpy(verify->head, verify->record, verify->head_bytes);
	kvci_block_busy_begin(cache, number, KVCI_BLOCK_VERIFYING);
	cache->env.run_job(cache->env.context, &verify->job);
}

void kvci_damage_destroy(struct kvci_cache *cache)
{
	for (uint32_t i = 0; i < KVCI_VERIFY_MAX; i++)
		kvci_free(cache->verifies[i].head);
}
