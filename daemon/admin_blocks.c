/* SPDX-License-Identifier: Apache-2.0
 * Questions about blocks: ls, match, drop. All walk in steps. (show is admin_show.c.) */
#include "daemon/admin_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

enum {
	BLOCKS_STEP = 512,      /* looked at in one step of ls */
	BLOCKS_ROWS_STEP = 48,  /* and shown */
	BLOCKS_LIMIT_MAX = 1000,
	BLOCKS_MATCH_STEP = 64,
	BLOCKS_MATCH_MAX = 8192,
};

static const char *blocks_where(const struct kvci_block_info *info)
{
	if (info->in_memory)
		return info->on_disk ? "memory+disk" : "memory";
	return info->on_disk ? "disk" : info->reserved ? "reserved" : "nowhere";
}

json_t *admin_block_json(const struct kvci_block_info *info, uint64_t now_ns)
{
	json_t *object = json_object();
	char form[20];

	snprintf(form, sizeof(form), "%016llx", (unsigned long long)info->form_id);
	admin_set_hex(object, "key", info->id.hash, sizeof(info->id.hash));
	admin_set_uint(object, "space", info->space);
	admin_set_uint(object, "group", info->id.group);
	admin_set_uint(object, "shard_index", info->id.shard_index);
	admin_set_uint(object, "shard_count", info->shard_count);
	admin_set_uint(object, "epoch", info->epoch);
	admin_set_text(object, "form", form);
	admin_set_uint(object, "position_tokens", info->position_tokens);
	admin_set_uint(object, "token_count", info->token_count);
	admin_set_uint(object, "record_bytes", info->record_bytes);
	admin_set_uint(object, "disk_bytes", info->on_disk ? (uint64_t)info->place.length_4k * KVCI_RECORD_ALIGN_BYTES : 0);
	admin_set_bool(object, "lossy", info->lossy);
	admin_set_text(object, "where", blocks_where(info));
	admin_set_bool(object, "writing", info->writing);
	admin_set_bool(object, "loading", info->loading);
	admin_set_uint(object, "holds", info->holds);
	admin_set_uint(object, "hits", info->hits);
	admin_set_uint(object, "idle_ns", now_ns > info->last_used_ns ? now_ns - info->last_used_ns : 0);
	admin_set_uint(object, "age_ns", now_ns > info->stored_ns ? now_ns - info->stored_ns : 0);
	return object;
}

/* ---- ls ---- */

struct blocks_ls {
	struct kvci_admin_question *question;
	uint64_t space, min_hits, limit, cursor, scanned;
	const char *where;
	uint8_t prefix[KVCI_HASH_BYTES];
	uint32_t prefix_nibbles;
	json_t *list;
	uint32_t rows; /* of this step */
};

static bool ls_prefix(const uint8_t *hash, const uint8_t *prefix, uint32_t nibbles)
{
	if (memcmp(hash, prefix, nibbles / 2) != 0)
		return false;
	return nibbles % 2 == 0 || hash[nibbles / 2] >> 4 == prefix[nibbles / 2] >> 4;
}

static bool ls_where(const struct kvci_block_info *info, const char *where)
{
	if (strcmp(where, "memory") == 0)
		return info->in_memory;
	if (strcmp(where, "disk") == 0)
		return info->on_disk;
	if (strcmp(where, "memory_only") == 0)
		return info->in_memory && !info->on_disk;
	if (strcmp(where, "disk_only") == 0)
		return info->on_disk && !info->in_memory;
	if (strcmp(where, "held") == 0)
		return info->holds > 0;
	if (strcmp(where, "reserved") == 0)
		return info->reserved;
	return true;
}

static void ls_visit(void *context, const struct kvci_block_info *info)
{
	struct blocks_ls *ls = context;

	if (json_array_size(ls->list) >= ls->limit || !admin_sees_space(ls->question, info->space))
		return;
	if ((ls->space != UINT64_MAX && info->space != ls->space) || info->hits < ls->min_hits ||
	    !ls_prefix(info->id.hash, ls->prefix, ls->prefix_nibbles) || !ls_where(info, ls->where))
		return;
	json_array_append_new(ls->list, admin_block_json(info, kvci_clock_ns()));
	ls->rows++;
}

static bool ls_step(struct kvci_admin_question *question)
{
	struct blocks_ls *ls = question->state;
	uint64_t until = ls->scanned + BLOCKS_STEP;

	/* One at a time, so that the cursor stands right behind the last row that was shown. */
	ls->rows = 0;
	do {
		kvci_cache_walk(question->core->cache, &ls->cursor, 1, ls_visit, ls);
		ls->scanned++;
	} while (ls->cursor != 0 && ls->rows < BLOCKS_ROWS_STEP && ls->scanned < until &&
	         json_array_size(ls->list) < ls->limit);
	if (ls->cursor != 0 && json_array_size(ls->list) < ls->limit)
		return false;
	json_object_set(question->answer, "blocks", ls->list);
	admin_set_uint(question->answer, "cursor", ls->cursor);
	admin_set_uint(question->answer, "scanned", ls->scanned);
	admin_finish(question);
	return true;
}

static void ls_free(void *state)
{
	struct blocks_ls *ls = state;

	json_decref(ls->list);
	kvci_free(ls);
}

static bool ls_known_where(const char *where)
{
	static const char *const known[] = {"any", "memory", "disk", "memory_only", "disk_only", "held", "reserved"};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i], where) == 0)
			return true;
	return false;
}

void admin_ls(struct kvci_admin_question *question)
{
	struct blocks_ls *ls = kvci_alloc_zero(1, sizeof(*ls));
	const char *prefix;

	if (ls == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	ls->question = question;
	ls->list = json_array();
	question->state = ls;
	question->state_free = ls_free;
	if (!admin_get_uint(question, "space", UINT64_MAX, UINT32_MAX, &ls->space) ||
	    !admin_get_uint(question, "min_hits", 0, UINT32_MAX, &ls->min_hits) ||
	    !admin_get_uint(question, "limit", 100, BLOCKS_LIMIT_MAX, &ls->limit) ||
	    !admin_get_uint(question, "cursor", 0, INT64_MAX, &ls->cursor) ||
	    !admin_get_text(question, "where", "any", &ls->where) || !admin_get_text(question, "prefix", "", &prefix))
		return;
	if (ls->limit == 0 || !ls_known_where(ls->where) || !admin_parse_hex(prefix, ls->prefix, &ls->prefix_nibbles)) {
		admin_fail(question, KVC_INVALID, "ls: \"limit\", \"where\" or \"prefix\" is not valid");
		return;
	}
	admin_step(question, ls_step);
}

/* ---- match ---- */

struct blocks_match {
	uint32_t binding;
	json_t *hashes; /* borrowed of the arguments */
	json_t *list;
	uint64_t hits, leading;
	size_t done;
};

static bool match_one(struct kvci_admin_question *question, struct blocks_match *match)
{
	const char *text = json_string_value(json_array_get(match->hashes, match->done));
	struct kvci_block_info info;
	uint8_t hash[KVCI_HASH_BYTES];
	uint32_t nibbles;
	enum kvci_miss miss;
	json_t *object;

	if (text == NULL || !admin_parse_hex(text, hash, &nibbles) || nibbles != 2 * KVCI_HASH_BYTES) {
		admin_fail(question, KVC_INVALID, "match: hash %zu is not %d hex digits", match->done, 2 * KVCI_HASH_BYTES);
		return false;
	}
	if (kvci_cache_explain(question->core->cache, match->binding, hash, &miss, &info) != KVC_OK) {
		admin_fail(question, KVC_NOT_FOUND, "match: the space's form is not known any more");
		return false;
	}
	object = json_object();
	admin_set_bool(object, "hit", miss == KVCI_MISS_NONE);
	if (miss == KVCI_MISS_NONE) {
		admin_set_text(object, "where", blocks_where(&info));
		if (match->leading == match->done)
			match->leading++;
		match->hits++;
	} else {
		admin_set_text(object, "miss", kvci_miss_name(miss));
		admin_set_text(object, "text", kvci_miss_text(miss));
	}
	json_array_append_new(match->list, object);
	match->done++;
	return true;
}

static bool match_step(struct kvci_admin_question *question)
{
	struct blocks_match *match = question->state;
	size_t count = json_array_size(match->hashes);

	for (unsigned i = 0; i < BLOCKS_MATCH_STEP && match->done < count; i++)
		if (!match_one(question, match))
			return true;
	if (match->done < count)
		return false;
	admin_set_uint(question->answer, "matched", match->leading);
	admin_set_uint(question->answer, "hits", match->hits);
	json_object_set(question->answer, "keys", match->list);
	admin_finish(question);
	return true;
}

static void match_free(void *state)
{
	struct blocks_match *match = state;

	json_decref(match->list);
	kvci_free(match);
}

/* The binding of a space and a form id ("": the only one); UINT32_MAX with *ret_count != 1. */
static uint32_t match_binding(struct kvci_admin_question *question, uint64_t space, const char *form_id, uint32_t *ret_count)
{
	struct kvci_cache *cache = question->core->cache;
	uint32_t found = UINT32_MAX;

	*ret_count = 0;
	for (uint32_t i = 0; i < kvci_cache_binding_count(cache); i++) {
		const struct kvc_form *form = kvci_cache_binding_form(cache, i);
		char id[20];

		if (form == NULL || kvci_cache_binding_space(cache, i) != space || !admin_sees_space(question, (uint32_t)space))
			continue;
		snprintf(id, sizeof(id), "%016llx", (unsigned long long)kvc_form_id(form));
		if (form_id[0] != '\0' && strcmp(form_id, id) != 0)
			continue;
		found = i;
		++*ret_count;
	}
	return found;
}

void admin_match(struct kvci_admin_question *question)
{
	struct blocks_match *match = kvci_alloc_zero(1, sizeof(*match));
	const char *form;
	uint64_t space;
	uint32_t count;

	if (match == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	match->list = json_array();
	question->state = match;
	question->state_free = match_free;
	if (!admin_get_uint(question, "space", 0, UINT32_MAX, &space) || !admin_get_text(question, "form", "", &form))
		return;
	match->hashes = json_object_get(question->arguments, "hashes");
	if (!json_is_array(match->hashes) || json_array_size(match->hashes) > BLOCKS_MATCH_MAX) {
		admin_fail(question, KVC_INVALID, "match: \"hashes\" is not a list of at most %d", BLOCKS_MATCH_MAX);
		return;
	}
	match->binding = match_binding(question, space, form, &count);
	if (count != 1) {
		admin_fail(question, KVC_NOT_FOUND, count == 0 ? "match: no engine has bound this space and form since the start"
		                                               : "match: the space has several forms: name one");
		return;
	}
	admin_step(question, match_step);
}

/* ---- drop ---- */

struct blocks_drop {
	uint64_t space, cursor;
	uint8_t prefix[KVCI_HASH_BYTES];
	uint32_t prefix_nibbles, found;
	struct kvci_block_info first;
	bool ambiguous;
};

/* Shards and forms of one key are one block to a user. */
static void drop_consider(struct kvci_admin_question *question, struct blocks_drop *drop, const struct kvci_block_info *info)
{
	if ((drop->space != UINT64_MAX && info->space != drop->space) || !admin_sees_space(question, info->space))
		return;
	if (drop->found++ == 0)
		drop->first = *info;
	else if (info->space != drop->first.space || info->id.group != drop->first.id.group ||
	         memcmp(info->id.hash, drop->first.id.hash, KVCI_HASH_BYTES) != 0)
		drop->ambiguous = true;
}

static bool drop_step(struct kvci_admin_question *question)
{
	struct blocks_drop *drop = question->state;
	struct kvci_block_info infos[8];
	uint32_t count;
	kvc_status_t status = kvci_cache_find(question->core->cache, drop->prefix, drop->prefix_nibbles, &drop->cursor,
	                                      BLOCKS_STEP, infos, 8, &count);

	for (uint32_t i = 0; status == KVC_OK && i < count; i++)
		drop_consider(question, drop, &infos[i]);
	if (status == KVC_OK && drop->cursor != 0 && !drop->ambiguous)
		return false;
	if (status == KVC_OK && drop->ambiguous) {
		admin_fail(question, KVC_INVALID, "drop: more than one block begins so: give more digits, or the space");
		return true;
	}
	if (status == KVC_OK)
		status = drop->found == 0 ? KVC_NOT_FOUND
		                          : kvci_cache_drop(question->core->cache, drop->first.space, drop->first.id.group,
		                                            drop->first.id.hash);
	if (status != KVC_OK) {
		admin_fail(question, status, "drop: %s", status == KVC_NOT_FOUND ? "no such block" : kvc_status_text(status));
		return true;
	}
	admin_set_hex(question->answer, "dropped", drop->first.id.hash, KVCI_HASH_BYTES);
	admin_set_uint(question->answer, "space", drop->first.space);
	kvci_core_wake(question->core);
	admin_finish(question);
	return true;
}

void admin_drop(struct kvci_admin_question *question)
{
	struct blocks_drop *drop = kvci_alloc_zero(1, sizeof(*drop));
	const char *key;

	if (drop == NULL) {
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return;
	}
	question->state = drop;
	question->state_free = kvci_free;
	if (!admin_get_uint(question, "space", UINT64_MAX, UINT32_MAX, &drop->space) ||
	    !admin_get_text(question, "key", "", &key))
		return;
	if (key[0] == '\0' || !admin_parse_hex(key, drop->prefix, &drop->prefix_nibbles)) {
		admin_fail(question, KVC_INVALID, "drop: \"key\" is not a text of hex digits");
		return;
	}
	admin_step(question, drop_step);
}
