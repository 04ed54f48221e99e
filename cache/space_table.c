/* SPDX-License-Identifier: Apache-2.0
 *
 * Spaces, the forms bound to them, and their epochs.
 *
 * A new space begins at config.first_epoch, which is above all that any ledger had: when the ledger is lost, what was stored before
 * can never be taken for what is stored now.
 */
#include "cache/internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

enum { SPACE_BUCKETS = 1024 };
#define SPACE_SAVE_RETRY_NS (1 * KVCI_SECOND)

static uint32_t *space_bucket(const struct kvci_cache *cache, const uint8_t *fingerprint)
{
	uint32_t word;

	memcpy(&word, fingerprint, sizeof(word)); /* SHA-256: even */
	return &cache->space_buckets[word % SPACE_BUCKETS];
}

static uint32_t *binding_bucket(const struct kvci_cache *cache, const struct kvci_space_entry *space, uint64_t form_id)
{
	return &cache->binding_buckets[(form_id ^ (uint64_t)space->number * UINT64_C(0x9e3779b97f4a7c15)) % SPACE_BUCKETS];
}

static kvc_status_t space_grow(void *array, uint32_t *room, uint32_t count, size_t element_bytes, uint32_t max)
{
	void **pointer = array;

	if (count < *room)
		return KVC_OK;
	if (count >= max)
		return KVC_OVER_CAP;
	uint32_t wanted = *room == 0 ? 16 : *room * 2;
	void *grown = kvci_realloc(*pointer, wanted * element_bytes);
	if (grown == NULL)
		return KVC_NO_MEMORY;
	*pointer = grown;
	*room = wanted;
	return KVC_OK;
}

kvc_status_t kvci_tenant_get(struct kvci_cache *cache, const char *name, uint32_t *ret_tenant)
{
	struct kvci_tenant *tenant;

	if (name == NULL)
		name = "";
	for (uint32_t i = 0; i < cache->tenant_count; i++) {
		if (strcmp(cache->tenants[i]->name, name) == 0) {
			*ret_tenant = i;
			return KVC_OK;
		}
	}
	kvc_status_t status = space_grow(&cache->tenants, &cache->tenant_room, cache->tenant_count,
	                                 sizeof(struct kvci_tenant *), KVCI_SPACES_MAX);
	if (status != KVC_OK)
		return status;
	tenant = kvci_alloc_zero(1, sizeof(*tenant));
	if (tenant == NULL)
		return KVC_NO_MEMORY;
	tenant->name = kvci_strdup(name);
	if (tenant->name == NULL) {
		kvci_free(tenant);
		return KVC_NO_MEMORY;
	}
	kvci_group_init(cache, &tenant->loads, cache->tenant_count, NULL);
	*ret_tenant = cache->tenant_count;
	cache->tenants[cache->tenant_count++] = tenant;
	return KVC_OK;
}

struct kvci_space_entry *kvci_space_by_fingerprint(const struct kvci_cache *cache, const uint8_t *fingerprint)
{
	uint32_t number = *space_bucket(cache, fingerprint);

	while (number != KVCI_NONE) {
		struct kvci_space_entry *space = cache->spaces[number];
		if (memcmp(space->fingerprint, fingerprint, KVCI_SPACE_BYTES) == 0)
			return space;
		number = space->next;
	}
	return NULL;
}

static kvc_status_t space_add(struct kvci_cache *cache, const struct kvci_space *fields, const uint8_t *fingerprint,
                              uint64_t epoch, struct kvci_space_entry **ret_space)
{
	struct kvci_space_entry *space;
	uint32_t tenant, *bucket = space_bucket(cache, fingerprint);
	kvc_status_t status = kvci_tenant_get(cache, fields->tenant, &tenant);

	if (status == KVC_OK)
		status = space_grow(&cache->spaces, &cache->space_room, cache->space_count, sizeof(space), KVCI_SPACES_MAX);
	if (status != KVC_OK)
		return status;
	space = kvci_alloc_zero(1, sizeof(*space));
	if (space == NULL)
		return KVC_NO_MEMORY;
	status = kvci_space_copy(fields, &space->fields);
	if (status != KVC_OK) {
		kvci_free(space);
		return status;
	}
	memcpy(space->fingerprint, fingerprint, KVCI_SPACE_BYTES);
	space->epoch = epoch;
	space->number = cache->space_count;
	space->tenant = tenant;
	space->first_binding = KVCI_NONE;
	space->next = *bucket;
	*bucket = space->number;
	cache->spaces[cache->space_count++] = space;
	*ret_space = space;
	return KVC_OK;
}

kvc_status_t kvci_cache_space_restore(struct kvci_cache *cache, const struct kvci_space *fields, uint64_t epoch)
{
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	struct kvci_space_entry *space;
	kvc_status_t status;

	kvci_cache_enter(cache);
	status = kvci_space_fingerprint(fields, fingerprint);
	if (status != KVC_OK)
		return status;
	space = kvci_space_by_fingerprint(cache, fingerprint);
	if (space != NULL) { /* the ledger may tell of one space several times: epochs only rise */
		space->epoch = epoch > space->epoch ? epoch : space->epoch;
		space->saved_epoch = space->epoch;
		kvci_sweep_start(cache);
		return KVC_OK;
	}
	status = space_add(cache, fields, fingerprint, epoch, &space);
	if (status == KVC_OK)
		space->saved_epoch = epoch;
	return status;
}

static void space_save(struct kvci_cache *cache, struct kvci_space_entry *space)
{
	space->resave_ns = 0;
	cache->env.space_save(cache->env.context, space->number, &space->fields, space->epoch);
}

/* ---- bindings ---- */

/* Names of dtypes that a space may give, and what the form must say then. Other names bind with any dtype. */
static const struct {
	const char *name;
	uint32_t dtype;
} space_dtypes[] = {
	{ "float32", KVC_DTYPE_F32 },      { "fp32", KVC_DTYPE_F32 },          { "f32", KVC_DTYPE_F32 },
	{ "bfloat16", KVC_DTYPE_BF16 },    { "bf16", KVC_DTYPE_BF16 },         { "float16", KVC_DTYPE_F16 },
	{ "fp16", KVC_DTYPE_F16 },         { "f16", KVC_DTYPE_F16 },           { "half", KVC_DTYPE_F16 },
	{ "fp8_e4m3", KVC_DTYPE_F8_E4M3 }, { "float8_e4m3fn", KVC_DTYPE_F8_E4M3 },
	{ "fp8_e5m2", KVC_DTYPE_F8_E5M2 }, { "float8_e5m2", KVC_DTYPE_F8_E5M2 },
	{ "int8", KVC_DTYPE_I8 },
};

static bool space_dtype_agrees(const struct kvci_space *fields, const struct kvc_form *form)
{
	const char *name = fields->kv_dtype != NULL ? fields->kv_dtype : "";

	if (strncmp(name, "torch.", 6) == 0)
		name += 6;
	if (form->dtype == KVC_DTYPE_OPAQUE8)
		return true;
	for (size_t i = 0; i < sizeof(space_dtypes) / sizeof(space_dtypes[0]); i++)
		if (strcmp(space_dtypes[i].name, name) == 0)
			return space_dtypes[i].dtype == form->dtype;
	return true;
}

/* A group has one rule of reuse in all forms of a space. */
static bool space_group_agrees(const struct kvci_cache *cache, const struct kvci_space_entry *space,
                               const struct kvc_form *form)
{
	for (uint32_t number = space->first_binding; number != KVCI_NONE;) {
		const struct kvci_binding *other = cache->bindings[number];
		if (other->form_known && other->group == form->group &&
		    (other->form.group_rule != form->group_rule || other->form.window_tokens != form->window_tokens))
			return false;
		number = other->next_of_space;
	}
	return true;
}

struct kvci_binding *kvci_binding_get(const struct kvci_cache *cache, uint32_t binding)
{
	return binding < cache->binding_count ? cache->bindings[binding] : NULL;
}

static struct kvci_binding *binding_find(const struct kvci_cache *cache, const struct kvci_space_entry *space,
                                         uint64_t form_id)
{
	uint32_t number = *binding_bucket(cache, space, form_id);

	while (number != KVCI_NONE) {
		struct kvci_binding *binding = cache->bindings[number];
		if (binding->space == space && binding->form_id == form_id && !binding->void_)
			return binding;
		number = binding->next;
	}
	return NULL;
}

const struct kvc_form *kvci_cache_form_of(const struct kvci_cache *cache, const uint8_t fingerprint[KVCI_SPACE_BYTES], uint64_t form_id,
                                          const struct kvci_space **ret_fields)
{
	const struct kvci_space_entry *space = kvci_space_by_fingerprint(cache, fingerprint);
	const struct kvci_binding *binding = space != NULL ? binding_find(cache, space, form_id) : NULL;

	if (binding == NULL || !binding->form_known)
		return NULL;
	*ret_fields = &space->fields;
	return &binding->form;
}

static kvc_status_t binding_add(struct kvci_cache *cache, struct kvci_space_entry *space, uint64_t form_id,
                                struct kvci_binding **ret_binding)
{
	struct kvci_binding *binding;
	uint32_t *bucket = binding_bucket(cache, space, form_id);
	kvc_status_t status = space_grow(&cache->bindings, &cache->binding_room, cache->binding_count, sizeof(binding),
	                                 KVCI_BINDINGS_MAX);

	if (status != KVC_OK)
		return status;
	binding = kvci_alloc_zero(1, sizeof(*binding));
	if (binding == NULL)
		return KVC_NO_MEMORY;
	binding->space = space;
	binding->form_id = form_id;
	binding->number = cache->binding_count;
	binding->next = *bucket;
	*bucket = binding->number;
	binding->next_of_space = space->first_binding;
	space->first_binding = binding->number;
	cache->bindings[cache->binding_count++] = binding;
	*ret_binding = binding;
	return KVC_OK;
}

static void binding_set_form(struct kvci_binding *binding, const struct kvc_form *form, const struct kvc_form_sizes *sizes)
{
	binding->form = *form;
	binding->form.struct_bytes = sizeof(binding->form);
	binding->sizes = *sizes;
	binding->record_bytes = sizes->record_bytes;
	binding->group = form->group;
	binding->shard_index = form->shard_index;
	binding->shard_count = form->shard_count;
	binding->form_known = true;
}

/* The space of these fields, made when it is new. */
static kvc_status_t space_open(struct kvci_cache *cache, const struct kvci_space *fields, struct kvci_space_entry **ret_space)
{
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	struct kvci_space_entry *space;
	kvc_status_t status = kvci_space_fingerprint(fields, fingerprint);

	if (status != KVC_OK)
		return status;
	space = kvci_space_by_fingerprint(cache, fingerprint);
	if (space == NULL) {
		uint64_t first_epoch = cache->config.first_epoch != 0 ? cache->config.first_epoch : 1;
		status = space_add(cache, fields, fingerprint, first_epoch, &space);
		if (status != KVC_OK)
			return status;
		space_save(cache, space);
	}
	*ret_space = space;
	return KVC_OK;
}

/* The binding of a form, made when it is new; its form is known then. */
static kvc_status_t binding_open(struct kvci_cache *cache, struct kvci_space_entry *space, const struct kvc_form *form,
                                 const struct kvc_form_sizes *sizes, struct kvci_binding **ret_binding)
{
	uint64_t form_id = kvc_form_id(form);
	struct kvci_binding *binding = binding_find(cache, space, form_id);

	if (binding != NULL && !binding->form_known &&
	    (binding->record_bytes != sizes->record_bytes || binding->group != form->group ||
	     binding->shard_index != form->shard_index || binding->shard_count != form->shard_count)) {
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "cache", "what the disk says of a form is wrong: its blocks are dropped");
		binding->void_ = true;
		kvci_sweep_start(cache);
		binding = NULL;
	}
	if (binding == NULL) {
		kvc_status_t status = binding_add(cache, space, form_id, &binding);
		if (status != KVC_OK)
			return status;
	}
	if (!binding->form_known)
		binding_set_form(binding, form, sizes);
	*ret_binding = binding;
	return KVC_OK;
}

/* The bindings of all shards of the form that a binding has: they lead to each other. */
static kvc_status_t binding_join_shards(struct kvci_cache *cache, struct kvci_binding *binding)
{
	uint32_t count = binding->shard_count;
	struct kvc_form form = binding->form;
	struct kvci_binding **shards = kvci_alloc_zero(count, sizeof(*shards));
	kvc_status_t status = shards != NULL ? KVC_OK : KVC_NO_MEMORY;

	for (form.shard_index = 0; form.shard_index < count && status == KVC_OK; form.shard_index++)
		status = binding_open(cache, binding->space, &form, &binding->sizes, &shards[form.shard_index]);
	if (status != KVC_OK) {
		kvci_free(shards);
		return status;
	}
	for (uint32_t i = 0; i < count; i++)
		shards[i]->shards = shards;
	return KVC_OK;
}

kvc_status_t kvci_cache_bind(struct kvci_cache *cache, uint32_t client_id, const struct kvci_space *fields,
                             const struct kvc_form *form, uint32_t *ret_binding, uint64_t *ret_epoch)
{
	struct kvci_client *client = kvci_client_get(cache, client_id);
	struct kvc_form_sizes sizes;
	struct kvci_space_entry *space;
	struct kvci_binding *binding;
	kvc_status_t status;

	kvci_cache_enter(cache);
	if (client == NULL)
		return KVC_NOT_FOUND;
	if (strcmp(fields->tenant != NULL ? fields->tenant : "", cache->tenants[client->tenant]->name) != 0)
		return KVC_DENIED;
	status = kvc_form_sizes(form, &sizes, NULL);
	if (status != KVC_OK)
		return status;
	if (sizes.record_bytes > cache->config.slab_bytes || sizes.record_bytes > cache->client_cap_bytes ||
	    form->shard_count > KVCI_SHARDS_MAX)
		return KVC_TOO_BIG;
	if (!space_dtype_agrees(fields, form))
		return KVC_FORM_MISMATCH;
	status = space_open(cache, fields, &space);
	if (status != KVC_OK)
		return status;
	if (!space_group_agrees(cache, space, form))
		return KVC_FORM_MISMATCH;
	status = binding_open(cache, space, form, &sizes, &binding);
	if (status == KVC_OK && binding->shard_count > 1 && binding->shards == NULL)
		status = binding_join_shards(cache, binding);
	if (status != KVC_OK)
		return status;
	*ret_binding = binding->number;
	*ret_epoch = space->epoch;
	return KVC_OK;
}

kvc_status_t kvci_binding_of_entry(struct kvci_cache *cache, const struct kvc_tier_entry *entry,
                                   struct kvci_binding **ret_binding)
{
	struct kvci_space_entry *space = kvci_space_by_fingerprint(cache, entry->space);
	struct kvci_binding *binding;
	uint64_t record_bytes = (uint64_t)entry->raw_length_4k << KVCI_PAGE_SHIFT;

	if (space == NULL)
		return KVC_NOT_FOUND;
	if (entry->epoch != space->epoch)
		return KVC_STALE_EPOCH;
	if (record_bytes == 0 || record_bytes > cache->config.slab_bytes || entry->place.length_4k == 0 ||
	    entry->place.length_4k > entry->raw_length_4k)
		return KVC_CORRUPT;
	binding = binding_find(cache, space, entry->form_id);
	if (binding == NULL) {
		kvc_status_t status = binding_add(cache, space, entry->form_id, &binding);
		if (status != KVC_OK)
			return status;
		binding->record_bytes = record_bytes;
		binding->group = entry->group;
		binding->shard_index = entry->shard_index;
		binding->shard_count = entry->shard_count;
	}
	if (binding->record_bytes != record_bytes || binding->group != entry->group ||
	    binding->shard_index != entry->shard_index || binding->shard_count != entry->shard_count)
		return KVC_CORRUPT;
	*ret_binding = binding;
	return KVC_OK;
}

void kvci_binding_id(const struct kvci_binding *binding, const uint8_t *hash, struct kvci_block_id *ret_id)
{
	memset(ret_id, 0, sizeof(*ret_id));
	memcpy(ret_id->space, binding->space->fingerprint, KVCI_SPACE_BYTES);
	memcpy(ret_id->hash, hash, KVCI_HASH_BYTES);
	ret_id->group = binding->group;
	ret_id->shard_index = binding->shard_index;
}

/* ---- epochs ---- */

kvc_status_t kvci_cache_epoch_raise(struct kvci_cache *cache, uint32_t space_number, struct kvci_epoch_wait *wait)
{
	struct kvci_space_entry *space;

	kvci_cache_enter(cache);
	if (space_number >= cache->space_count)
		return KVC_NOT_FOUND;
	space = cache->spaces[space_number];
	space->epoch++;
	wait->epoch = space->epoch;
	wait->next = space->waits;
	space->waits = wait;
	kvci_sweep_start(cache); /* blocks are compared with the epoch whenever they are met: the sweep only frees their room */
	space_save(cache, space);
	return KVC_OK;
}

void kvci_cache_epoch_cancel(struct kvci_cache *cache, struct kvci_epoch_wait *wait)
{
	for (uint32_t i = 0; i < cache->space_count; i++) {
		for (struct kvci_epoch_wait **w = &cache->spaces[i]->waits; *w != NULL; w = &(*w)->next) {
			if (*w == wait) {
				*w = wait->next;
				return;
			}
		}
	}
}

void kvci_cache_space_saved(struct kvci_cache *cache, uint32_t space_number, uint64_t epoch, kvc_status_t status)
{
	struct kvci_space_entry *space;

	if (space_number >= cache->space_count)
		return;
	kvci_cache_enter(cache);
	space = cache->spaces[space_number];
	if (status == KVC_OK && epoch > space->saved_epoch)
		space->saved_epoch = epoch;
	if (status != KVC_OK && space->saved_epoch < space->epoch) {
		KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "cache", "the epoch of a space could not be made durable: %s", kvc_status_text(status));
		space->resave_ns = cache->now_ns + SPACE_SAVE_RETRY_NS;
		cache->resave_ns = space->resave_ns;
	}
	for (struct kvci_epoch_wait **w = &space->waits; *w != NULL;) {
		struct kvci_epoch_wait *wait = *w;
		if (wait->epoch > epoch) {
			w = &wait->next;
			continue;
		}
		*w = wait->next;
		wait->done(wait, status, wait->epoch);
	}
}

uint64_t kvci_space_tick(struct kvci_cache *cache)
{
	if (cache->resave_ns == 0 || cache->resave_ns > cache->now_ns)
		return cache->resave_ns == 0 ? UINT64_MAX : cache->resave_ns;
	cache->resave_ns = 0;
	for (uint32_t i = 0; i < cache->space_count; i++) /* rare: a save failed */
		if (cache->spaces[i]->resave_ns != 0)
			space_save(cache, cache->spaces[i]);
	return cache->resave_ns == 0 ? UINT64_MAX : cache->resave_ns;
}

void kvci_space_table_destroy(struct kvci_cache *cache)
{
	for (uint32_t i = 0; i < cache->binding_count; i++)
		if (cache->bindings[i]->shards != NULL && cache->bindings[i]->shard_index == 0)
			kvci_free(cache->bindings[i]->shards);
	for (uint32_t i = 0; i < cache->binding_count; i++)
		kvci_free(cache->bindings[i]);
	for (uint32_t i = 0; i < cache->space_count; i++) {
		kvci_space_fini(&cache->spaces[i]->fields);
		kvci_free(cache->spaces[i]);
	}
	for (uint32_t i = 0; i < cache->tenant_count; i++) {
		kvci_free(cache->tenants[i]->name);
		kvci_free(cache->tenants[i]);
	}
	kvci_free(cache->bindings);
	kvci_free(cache->spaces);
	kvci_free(cache->tenants);
	kvci_free(cache->binding_buckets);
	kvci_free(cache->space_buckets);
}
