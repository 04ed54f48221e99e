/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "tests/unit/cache/world.h"

#include "base/clock.h"
#include "base/copy.h"

static uint64_t world_now(void *context)
{
	return ((struct world *)context)->now_ns;
}

static kvc_status_t world_slab_create(void *context, uint32_t slab, uint64_t bytes, uint32_t owner, void **ret_base)
{
	struct world *world = context;
	void *base;

	if (world->slab_failure != KVC_OK)
		return world->slab_failure;
	assert_true(world->slab_count < WORLD_SLABS);
	assert_true(slab / 8 < sizeof(world->slab_ids));
	assert_int_equal(world->slab_ids[slab / 8] >> slab % 8 & 1, 0); /* ids are never used again */
	world->slab_ids[slab / 8] |= (uint8_t)(1u << slab % 8);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(base != MAP_FAILED);
	world->slabs[world->slab_count++] =
		(struct world_slab){ .id = slab, .owner = owner, .bytes = bytes, .base = base };
	assert_true(world->slab_count <= world->config.memory_bytes / world->config.slab_bytes);
	*ret_base = base;
	return KVC_OK;
}

static void world_slab_destroy(void *context, uint32_t slab)
{
	struct world *world = context;

	for (uint32_t i = 0; i < world->slab_count; i++) {
		if (world->slabs[i].id == slab) {
			if (world->disk != NULL) /* it knows of no request in there, or it traps */
				kvci_tier_unregister_memory(world->disk, world->slabs[i].base, world->slabs[i].bytes);
			munmap(world->slabs[i].base, world->slabs[i].bytes);
			world->slabs[i] = world->slabs[--world->slab_count];
			return;
		}
	}
	fail_msg("slab %u is destroyed, but there is none", slab);
}

static void world_run_job(void *context, struct kvci_job *job)
{
	struct world *world = context;

	job->next = world->jobs;
	world->jobs = job;
}

static void world_space_save(void *context, uint32_t space, const struct kvci_space *fields, uint64_t epoch)
{
	struct world *world = context;

	world->saved_epochs++;
	assert_non_null(fields->model);
	assert_true(world->save_count < 256);
	world->saves[world->save_count].space = space;
	world->saves[world->save_count++].epoch = epoch;
	if (world->save_later)
		return;
	world->save_count--;
	kvci_cache_space_saved(world->cache, space, epoch, world->save_failure);
}

struct world_options world_defaults(void)
{
	return (struct world_options){ .memory_bytes = 1 << 20,
		                       .slab_bytes = 128 << 10,
		                       .lease_share_percent = 50,
		                       .client_share_percent = 50,
		                       .write_mode = KVCI_WRITE_THROUGH,
		                       .write_queue_bytes = 256 << 10,
		                       .segments = 8,
		                       .segment_4k = 64,
		                       .seed = 1 };
}

kvc_status_t world_init(struct world *world, const struct world_options *options)
{
	memset(world, 0, sizeof(*world));
	world->now_ns = 1000 * KVCI_SECOND;
	world->save_later = options->save_later;
	world->config = (struct kvci_cache_config){ .memory_bytes = options->memory_bytes,
		                                    .slab_bytes = options->slab_bytes,
		                                    .lease_share_percent = options->lease_share_percent,
		                                    .client_share_percent = options->client_share_percent,
		                                    .reserve_deadline_ns = 10 * KVCI_SECOND,
		                                    .write_mode = options->write_mode,
		                                    .write_after_hits = 2,
		                                    .write_queue_bytes = options->write_queue_bytes,
		                                    .read_deadline_ns = 2 * KVCI_SECOND,
		                                    .circuit_open_ns = KVCI_SECOND,
		                                    .circuit_open_max_ns = 30 * KVCI_SECOND,
		                                    .max_blocks = options->max_blocks,
		                                    .first_epoch = options->first_epoch,
		                                    .policy = &kvc_policy_lru_ops };
	world->disk = options->tier;
	if (options->disk && world->disk == NULL) {
		struct ram_tier_options tier = { .segments = options->segments,
			                         .segment_4k = options->segment_4k,
			                         .depth = 4,
			                         .seed = options->seed,
			                         .now_ns = world_now,
			                         .context = world };
		world->disk = ram_tier_create(&tier);
		if (world->disk == NULL)
			return KVC_NO_MEMORY;
	}
	struct kvci_cache_env env = { .context = world,
		                      .now_ns = world_now,
		                      .slab_create = world_slab_create,
		                      .slab_destroy = world_slab_destroy,
		                      .run_job = world_run_job,
		                      .space_save = world_space_save,
		                      .stats = &world->stats,
		                      .disk = world->disk };
	kvc_status_t status = kvci_cache_create(&world->config, &env, &world->cache);
	if (status != KVC_OK && world->disk != NULL)
		kvci_tier_close(world->disk);
	return status;
}

static void world_run_jobs(struct world *world)
{
	while (world->jobs != NULL) {
		struct kvci_job *job = world->jobs;
		world->jobs = job->next;
		job->run(job);
		job->done(job);
	}
}

void world_fini(struct world *world, struct kvc_tier **ret_disk)
{
	world_run_jobs(world);
	if (ret_disk != NULL)
		*ret_disk = ram_tier_reopen(world->disk);
	else if (world->disk != NULL)
		kvci_tier_close(world->disk);
	world->disk = NULL;
	kvci_cache_destroy(world->cache);
	assert_int_equal(world->slab_count, 0);
}

void world_run(struct world *world)
{
	for (unsigned turn = 0; turn < 100000; turn++) {
		uint64_t due_ns = kvci_cache_tick(world->cache);
		uint32_t before = world->disk != NULL ? ram_tier_under_way(world->disk) : 0;
		bool jobs = world->jobs != NULL;

		world_run_jobs(world);
		if (world->disk != NULL)
			kvci_tier_poll(world->disk, 64);
		while (world->save_count > 0) {
			world->save_count--;
			kvci_cache_space_saved(world->cache, world->saves[world->save_count].space,
			                       world->saves[world->save_count].epoch, world->save_failure);
		}
		if (due_ns > world->now_ns && !jobs &&
		    (world->disk == NULL || (ram_tier_under_way(world->disk) == before && !ram_tier_index_pending(world->disk))))
			return;
	}
	fail_msg("the brain does not come to rest: due %llu, now %llu", (unsigned long long)kvci_cache_tick(world->cache), (unsigned long long)world->now_ns);
}

void world_advance(struct world *world, uint64_t ns)
{
	world->now_ns += ns;
	world_run(world);
}

void world_check(struct world *world)
{
	const char *broken = kvci_cache_check(world->cache);

	if (broken != NULL)
		fail_msg("invariant: %s", broken);
}

void world_form(uint32_t form, struct kvc_form *ret_form)
{
	*ret_form = (struct kvc_form){ .struct_bytes = sizeof(*ret_form),
		                       .layer_count = WORLD_LAYERS,
		                       .block_tokens = 16,
		                       .engine_block_tokens = 16,
		                       .kv_heads = 1,
		                       .head_dim_k = form == 1 ? 64 : 8,
		                       .head_dim_v = form == 1 ? 64 : 8,
		                       .dtype = KVC_DTYPE_F32,
		                       .arrangement = KVC_KV_SPLIT,
		                       .order = form == 2 ? KVC_ORDER_NH : KVC_ORDER_HN,
		                       .group_rule = KVC_GROUP_FULL,
		                       .shard_index = form == 4,
		                       .shard_count = form < 3 ? 1 : 2 };
}

void world_space(const char *tenant, uint32_t space, char (*storage)[32], struct kvci_space *ret_space)
{
	static char dtype[] = "float32", algorithm[] = "sha256_cbor";

	memset(ret_space, 0, sizeof(*ret_space));
	snprintf(*storage, sizeof(*storage), "m%u", space);
	ret_space->model = *storage;
	ret_space->tenant = (char *)tenant;
	ret_space->kv_dtype = dtype;
	ret_space->hash_algorithm = algorithm;
}

kvc_status_t world_bind(struct world *world, uint32_t client, const char *tenant, uint32_t space, uint32_t form,
                        uint32_t *ret_binding)
{
	struct kvci_space fields;
	struct kvc_form f;
	char storage[32];
	uint64_t epoch;

	world_space(tenant, space, &storage, &fields);
	world_form(form, &f);
	return kvci_cache_bind(world->cache, client, &fields, &f, ret_binding, &epoch);
}

void world_hash(uint64_t key, uint8_t ret_hash[KVCI_HASH_BYTES])
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t word = (key + 1) * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xbf58476d1ce4e5b9);
		word = (word ^ word >> 29) * UINT64_C(0x94d049bb133111eb);
		memcpy(ret_hash + i * 8, &word, 8);
	}
}

uint8_t *world_extent(struct world *world, const struct kvci_extent *extent)
{
	for (uint32_t i = 0; i < world->slab_count; i++)
		if (world->slabs[i].id == extent->slab && extent->offset_bytes + extent->record_bytes <= world->slabs[i].bytes)
			return world->slabs[i].base + extent->offset_bytes;
	return NULL;
}

void world_fill(struct world *world, uint32_t binding, const uint8_t *hash, const struct kvci_extent *extent, uint64_t tag,
                uint64_t checksums[WORLD_LAYERS])
{
	const struct kvc_form *form = kvci_cache_binding_form(world->cache, binding);
	uint8_t *record = world_extent(world, extent);
	struct kvc_form_sizes sizes;
	struct kvci_block_id id;
	struct kvci_space_info space;

	assert_non_null(record);
	assert_int_equal(kvc_form_sizes(form, &sizes, NULL), KVC_OK);
	assert_int_equal(sizes.record_bytes, extent->record_bytes);
	assert_int_equal(kvci_cache_space_info(world->cache, kvci_cache_binding_space(world->cache, binding), &space), KVC_OK);
	memset(&id, 0, sizeof(id));
	memcpy(id.space, space.fingerprint, sizeof(id.space));
	memcpy(id.hash, hash, sizeof(id.hash));
	id.shard_index = form->shard_index;
	for (uint32_t layer = 0; layer < WORLD_LAYERS; layer++) {
		uint64_t *words = (uint64_t *)(void *)(record + sizes.sections_offset_bytes + layer * sizes.section_stride_bytes);
		for (uint64_t i = 0; i < sizes.section_bytes / 8; i++)
			words[i] = tag;
		checksums[layer] =
			kvci_checksum(words, sizes.section_bytes, kvci_section_seed(kvci_block_seed(&id), layer));
	}
}

kvc_status_t world_read(struct world *world, const struct kvci_extent *extent, const uint8_t *hash, uint64_t *ret_tag)
{
	const uint8_t *record = world_extent(world, extent);
	const struct kvci_record_header *header;
	const struct kvci_section_entry *sections;

	if (record == NULL || kvci_record_checksum(record) != extent->record_checksum ||
	    kvci_record_parse(record, extent->record_bytes, &header, &sections) != KVC_OK ||
	    memcmp(header->hash, hash, KVCI_HASH_BYTES) != 0 || kvci_record_verify(record, header, sections, NULL) != KVC_OK)
		return KVC_CORRUPT;
	memcpy(ret_tag, record + (uint64_t)sections[0].offset_64 * 64, sizeof(*ret_tag));
	return KVC_OK;
}

kvc_status_t world_reserve(struct world *world, uint32_t client, uint32_t binding, uint64_t key, struct kvci_reserve *ret_block)
{
	uint32_t slab;
	kvc_status_t status;

	memset(ret_block, 0, sizeof(*ret_block));
	world_hash(key, ret_block->hash);
	if (key % 1000 != 0)
		world_hash(key - 1, ret_block->parent_hash);
	ret_block->position_tokens = key % 1000 * 16;
	ret_block->token_count = 16;
	do {
		status = kvci_cache_reserve(world->cache, client, binding, ret_block, 1, &slab);
		if (status == KVC_PENDING) {
			assert_int_equal(ret_block->status, KVC_PENDING);
			kvci_cache_slab_ready(world->cache, client, slab);
		}
	} while (status == KVC_PENDING);
	return status != KVC_OK ? status : ret_block->status;
}

kvc_status_t world_store(struct world *world, uint32_t client, uint32_t binding, uint64_t key, uint64_t tag)
{
	uint64_t checksums[WORLD_LAYERS];
	struct kvci_reserve block;
	kvc_status_t status = world_reserve(world, client, binding, key, &block);

	if (status != KVC_OK)
		return status;
	world_fill(world, binding, block.hash, &block.extent, tag, checksums);
	return kvci_cache_commit(world->cache, client, block.reservation, checksums, WORLD_LAYERS);
}

void world_request_id(uint64_t request, uint8_t ret_id[KVCI_REQUEST_ID_BYTES])
{
	memset(ret_id, 0, KVCI_REQUEST_ID_BYTES);
	memcpy(ret_id, &request, sizeof(request));
}

kvc_status_t world_match(struct world *world, uint32_t client, uint32_t binding, uint64_t first, uint32_t count, uint32_t flags,
                         uint64_t request, struct kvci_match *ret_match)
{
	uint8_t hashes[256][KVCI_HASH_BYTES];

	assert_true(count <= 256);
	for (uint32_t i = 0; i < count; i++)
		world_hash(first + i, hashes[i]);
	uint8_t *exists = ret_match->exists;
	uint32_t *numbers = ret_match->numbers;
	*ret_match = (struct kvci_match){
		.binding = binding, .flags = flags, .hashes = (const uint8_t(*)[KVCI_HASH_BYTES])hashes, .count = count, .exists = exists,
		.numbers = numbers,
	};
	world_request_id(request, ret_match->request_id);
	return kvci_cache_match(world->cache, client, ret_match);
}

void world_check_misses(const struct world *world)
{
	uint64_t sum = world_stat(world, KVCI_STAT_MATCH_HIT_KEYS);

#define WORLD_MISS(name, text) sum += world_stat(world, KVCI_STAT_MISS_##name);
	KVCI_MISS_TABLE(WORLD_MISS)
#undef WORLD_MISS
	assert_int_equal(sum, world_stat(world, KVCI_STAT_MATCH_KEYS));
}

void world_load_ready(struct kvci_load *load, uint32_t index, kvc_status_t status, const struct kvci_extent *extent)
{
	struct world_load *wl = (struct world_load *)(void *)load;

	assert_true(index < 256);
	assert_int_equal(wl->statuses[index], KVC_PENDING); /* once each */
	assert_int_equal(extent != NULL, status == KVC_OK);
	wl->statuses[index] = status;
	if (extent != NULL)
		wl->extents[index] = *extent;
	wl->answered++;
	assert_int_equal(wl->answered + load->waiting, load->count);
}

kvc_status_t world_load(struct world *world, struct world_load *load, uint32_t client, uint64_t request, uint32_t first,
                        uint32_t count)
{
	return world_load_shard(world, load, client, 0, request, first, count);
}

kvc_status_t world_load_shard(struct world *world, struct world_load *load, uint32_t client, uint32_t binding, uint64_t request,
                              uint32_t first, uint32_t count)
{
	uint8_t id[KVCI_REQUEST_ID_BYTES];

	assert_true(count <= 256);
	memset(load, 0, sizeof(*load));
	for (uint32_t i = 0; i < 256; i++)
		load->statuses[i] = KVC_PENDING;
	load->load.client = client;
	load->load.binding = binding;
	load->load.first = first;
	load->load.count = count;
	load->load.ready = world_load_ready;
	world_request_id(request, id);
	return kvci_cache_load(world->cache, &load->load, id);
}

void world_faults(struct world *world, uint64_t dice)
{
	struct ram_tier_faults *faults = ram_tier_faults(world->disk);
	bool keep_all = faults->keep_all;

	memset(faults, 0, sizeof(*faults));
	faults->write_failure = (dice & 8) != 0 ? KVC_IO : KVC_DISK_FULL;
	faults->keep_all = keep_all ^ ((dice & 48) == 0);
	switch (dice % 8) {
	case 0:
		faults->read_fail_percent = 30;
		break;
	case 1:
		faults->write_fail_percent = 50;
		break;
	case 2:
		faults->read_flip_percent = 20;
		break;
	case 3:
		faults->hang_reads = true;
		break;
	case 4:
		faults->hang_writes = true;
		break;
	case 5:
		faults->delay_ns = (dice & 64) != 0 ? 50 * KVCI_MS : 1500 * KVCI_MS;
		break;
	case 6:
		faults->busy_percent = 50;
		break;
	default:
		break;
	}
}

/* own: of the session; total: of all sessions. */
static bool world_beyond_eighth(const struct world *world, uint64_t own_bytes, uint64_t total_bytes, uint64_t bytes)
{
	const struct kvci_cache_config *config = &world->config;

	return own_bytes + bytes > config->memory_bytes * config->client_share_percent / 100 / 8 ||
	       total_bytes + bytes > config->memory_bytes * config->lease_share_percent / 100 / 8;
}

static uint64_t world_record_bytes(uint32_t form)
{
	return form == 1 ? 20 << 10 : 4 << 10;
}

bool world_reserve_over_cap(const struct world *world, const uint32_t *others, uint32_t other_count, uint32_t form)
{
	struct kvci_cache_totals totals;
	struct kvci_client_info info;

	kvci_cache_totals(world->cache, &totals);
	uint64_t own_bytes = totals.reserved_bytes;
	for (uint32_t i = 0; i < other_count; i++) {
		assert_int_equal(kvci_cache_client_info(world->cache, others[i], &info), KVC_OK);
		own_bytes -= info.reserved_bytes;
	}
	return world_beyond_eighth(world, own_bytes, totals.reserved_bytes, world_record_bytes(form));
}

bool world_lease_over_cap(const struct world *world, uint32_t client, uint32_t form, uint32_t shards)
{
	struct kvci_cache_totals totals;
	struct kvci_client_info info;

	kvci_cache_totals(world->cache, &totals);
	assert_int_equal(kvci_cache_client_info(world->cache, client, &info), KVC_OK);
	return world_beyond_eighth(world, info.leased_bytes, totals.leased_bytes, shards * world_record_bytes(form));
}
