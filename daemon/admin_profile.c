/* SPDX-License-Identifier: Apache-2.0
 *
 * Model profiles by question: what there is and who uses it, one more, one less. A file is read, checked and copied by a worker; what is in
 * data_dir/profiles/ under its id is there after a restart, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "codec/profile.h"
#include "daemon/admin_internal.h"
#include "daemon/coding.h"
#include "daemon/replace.h"

/* ---- what there is ---- */

static bool profile_is_of(const struct kvc_profile *profile, const struct kvci_space *space)
{
	return profile->model[0] == '\0' || strcmp(profile->model, space->model) == 0;
}

/* Calls back for each form of a space, with blocks or not, that the profile may be used for. */
static void profile_each_use(const struct kvci_core *core, const struct kvc_profile *profile,
                             void (*visit)(void *context, uint32_t space, const struct kvci_space_info *info, const struct kvc_form *form), void *context)
{
	for (uint32_t binding = 0; binding < kvci_cache_binding_count(core->cache); binding++) {
		const struct kvc_form *form = kvci_coding_form(core->coding, binding);
		uint32_t space = kvci_cache_binding_space(core->cache, binding);
		struct kvci_space_info info;

		if (form != NULL && kvci_profile_fits(profile, form) && kvci_cache_space_info(core->cache, space, &info) == KVC_OK &&
		    profile_is_of(profile, info.fields))
			visit(context, space, &info, form);
	}
}

struct profile_uses {
	const struct kvci_core *core;
	const struct kvc_profile *profile;
	json_t *list;
	uint64_t disk_blocks; /* of spaces that may have records that need it */
	uint32_t last_space, first_used;
	bool any;
};

static void profile_note_use(void *context, uint32_t space, const struct kvci_space_info *info, const struct kvc_form *form)
{
	struct profile_uses *uses = context;
	json_t *one = json_object();

	admin_set_uint(one, "space", space);
	admin_set_text(one, "model", info->fields->model);
	admin_set_text(one, "model_name", info->fields->model_name);
	admin_set_text(one, "codec", info->fields->codec);
	admin_set_uint(one, "disk_blocks", info->disk_blocks);
	admin_set_bool(one, "used", kvci_coding_profile_for(uses->core->coding, info->fields, form, NULL) == uses->profile);
	json_array_append_new(uses->list, one);
	if (info->disk_blocks != 0 && !uses->any)
		uses->first_used = space;
	if (info->disk_blocks != 0 && (!uses->any || uses->last_space != space))
		uses->disk_blocks += info->disk_blocks;
	uses->any = uses->any || info->disk_blocks != 0;
	uses->last_space = space;
}

static json_t *profile_json(const struct kvci_core *core, const struct kvc_profile *profile, struct profile_uses *ret_uses)
{
	struct kvci_profile_facts facts;
	json_t *object = json_object();
	char id[20];

	*ret_uses = (struct profile_uses){.core = core, .profile = profile, .list = json_array()};
	kvci_profile_facts(profile, &facts);
	snprintf(id, sizeof(id), "%016" PRIx64, kvci_profile_id(profile));
	admin_set_text(object, "profile", id);
	admin_set_text(object, "name", profile->name);
	admin_set_text(object, "model", profile->model);
	admin_set_uint(object, "bytes", profile->file_bytes);
	admin_set_uint(object, "layers", profile->layers);
	admin_set_uint(object, "kv_heads", profile->kv_heads);
	admin_set_uint(object, "head_dim_k", profile->head_dim_k);
	admin_set_uint(object, "head_dim_v", profile->head_dim_v);
	admin_set_uint(object, "shard_index", profile->shard_index);
	admin_set_uint(object, "shard_count", profile->shard_count);
	admin_set_bool(object, "rotated", facts.rotated);
	admin_set_uint(object, "pca_layers", facts.pca_layers);
	admin_set_bool(object, "exponents", facts.exponents);
	admin_set_bool(object, "codebooks", facts.codebooks);
	admin_set_bool(object, "weights", facts.weights);
	profile_each_use(core, profile, profile_note_use, ret_uses);
	json_object_set_new(object, "spaces", ret_uses->list);
	return object;
}

void admin_profiles(struct kvci_admin_question *question)
{
	const struct kvci_coding *coding = question->core->coding;
	json_t *list = json_array();
	struct profile_uses uses;

	for (uint32_t i = 0; i < kvci_coding_profile_count(coding); i++)
		json_array_append_new(list, profile_json(question->core, kvci_coding_profile_at(coding, i), &uses));
	json_object_set_new(question->answer, "profiles", list);
	admin_set_text(question->answer, "folder", kvci_coding_folder(coding) != NULL ? kvci_coding_folder(coding) : "");
	admin_finish(question);
}

/* No, and why: in the answer, as a failed question has room for a few words only. */
static void __attribute__((format(printf, 2, 3))) profile_refuse(struct kvci_admin_question *question, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	json_decref(question->answer);
	question->answer = json_object();
	admin_set_text(question->answer, "error", text);
	admin_finish(question);
}

/* ---- one more ---- */

struct profile_work {
	char *path, *folder;
	struct kvc_profile *profile;
	uint64_t id; /* remove */
	uint32_t removed;
	char error[400];
	kvc_status_t status;
};

static void profile_work_free(void *state)
{
	struct profile_work *work = state;

	kvci_free(work->path);
	kvci_free(work->folder);
	kvci_profile_free(work->profile);
	kvci_free(work);
}

static struct profile_work *profile_work_make(struct kvci_admin_question *question, const char *path)
{
	const char *folder = kvci_coding_folder(question->core->coding);
	struct profile_work *work;

	if (folder == NULL) {
		profile_refuse(question, "this daemon has no data_dir to keep profiles in");
		return NULL;
	}
	work = kvci_alloc_zero(1, sizeof(*work));
	if (work != NULL) {
		work->folder = kvci_strdup(folder);
		work->path = kvci_strdup(path);
	}
	if (work == NULL || work->folder == NULL || work->path == NULL) {
		if (work != NULL)
			profile_work_free(work);
		admin_fail(question, KVC_NO_MEMORY, "out of memory");
		return NULL;
	}
	question->state = work;
	question->state_free = profile_work_free;
	return work;
}

static void profile_read_job(struct kvci_job *job)
{
	struct profile_work *work = admin_of_job(job)->state;
	uint8_t *bytes = NULL;
	size_t length = 0;

	work->status = kvci_coding_read_file(work->path, &bytes, &length);
	if (work->status == KVC_NOT_FOUND)
		snprintf(work->error, sizeof(work->error), "the daemon cannot open %.300s: %s", work->path, strerror(errno));
	else if (work->status != KVC_OK)
		snprintf(work->error, sizeof(work->error), "the daemon cannot read %.300s: empty, too large, or no file", work->path);
	if (work->status != KVC_OK)
		return;
	work->status = kvci_profile_read(bytes, length, &work->profile);
	if (work->status == KVC_UNSUPPORTED)
		snprintf(work->error, sizeof(work->error), "%.300s is a profile of a later version", work->path);
	else if (work->status == KVC_CORRUPT && (length < KVCI_PROFILE_MAGIC_BYTES || memcmp(bytes, KVCI_PROFILE_MAGIC, KVCI_PROFILE_MAGIC_BYTES) != 0))
		snprintf(work->error, sizeof(work->error), "%.300s is no profile: it does not begin as one", work->path);
	else if (work->status != KVC_OK)
		snprintf(work->error, sizeof(work->error), "%.300s is damaged: %s", work->path, kvc_status_text(work->status));
	kvci_free(bytes);
}

static void profile_keep_job(struct kvci_job *job)
{
	struct profile_work *work = admin_of_job(job)->state;
	char name[32];
	int folder = -1, file = -1;

	snprintf(name, sizeof(name), "%016" PRIx64 ".kvcp", kvci_profile_id(work->profile));
	if (mkdir(work->folder, 0700) == 0 || errno == EEXIST)
		folder = open(work->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	work->status = folder < 0 ? kvc_status_from_errno(errno)
	                          : kvci_replace_file(folder, name, work->profile->file, work->profile->file_bytes, 0, &file);
	if (work->status != KVC_OK)
		snprintf(work->error, sizeof(work->error), "%.300s: %s", work->folder, strerror(errno));
	if (file >= 0)
		close(file);
	if (folder >= 0)
		close(folder);
}

static void profile_answer(struct kvci_admin_question *question, const struct kvc_profile *profile, bool added)
{
	struct profile_uses uses;

	json_decref(question->answer);
	question->answer = profile_json(question->core, profile, &uses);
	admin_set_bool(question->answer, "added", added);
	admin_finish(question);
}

static void profile_kept(struct kvci_admin_question *question)
{
	struct profile_work *work = question->state;
	uint64_t id = kvci_profile_id(work->profile);
	kvc_status_t status = work->status;

	if (status == KVC_OK)
		status = kvci_coding_take_profile(question->core->coding, work->profile);
	if (status == KVC_OK)
		work->profile = NULL; /* it is the daemon's */
	if (status == KVC_OK || status == KVC_EXISTS) /* another was faster */
		profile_answer(question, kvci_coding_profile_by_id(question->core->coding, id), status == KVC_OK);
	else
		profile_refuse(question, "%s", work->error[0] != '\0' ? work->error : kvc_status_text(status));
}

/* Is it one for this space? What is not as it should be is said. */
static bool profile_check_space(struct kvci_admin_question *question, const struct kvc_profile *profile, uint32_t space)
{
	const struct kvci_core *core = question->core;
	const struct kvc_form *other = NULL;
	struct kvci_space_info info;

	if (kvci_cache_space_info(core->cache, space, &info) != KVC_OK) {
		profile_refuse(question, "there is no space %u", space);
		return false;
	}
	if (!profile_is_of(profile, info.fields)) {
		profile_refuse(question, "it is of model \"%.80s\", space %u of \"%.80s\"", profile->model, space, info.fields->model);
		return false;
	}
	for (uint32_t binding = 0; binding < kvci_cache_binding_count(core->cache); binding++) {
		const struct kvc_form *form = kvci_cache_binding_space(core->cache, binding) == space ? kvci_coding_form(core->coding, binding) : NULL;

		if (form != NULL && kvci_profile_fits(profile, form))
			return true;
		other = form != NULL ? form : other;
	}
	if (other == NULL)
		return true; /* nobody has bound one yet */
	profile_refuse(question, "it is of %u layers of %u heads of %u/%u, shard %u of %u; space %u has %u of %u of %u/%u, shard %u of %u",
	               profile->layers, profile->kv_heads, profile->head_dim_k, profile->head_dim_v, profile->shard_index, profile->shard_count, space,
	               other->layer_count, other->kv_heads, other->head_dim_k, other->head_dim_v, other->shard_index, other->shard_count);
	return false;
}

static void profile_was_read(struct kvci_admin_question *question)
{
	struct profile_work *work = question->state;
	const struct kvc_profile *here;
	uint64_t space;

	if (work->status != KVC_OK) {
		profile_refuse(question, "%s", work->error);
		return;
	}
	if (!admin_get_uint(question, "space", UINT64_MAX, UINT32_MAX, &space) ||
	    (space != UINT64_MAX && !profile_check_space(question, work->profile, (uint32_t)space)))
		return;
	here = kvci_coding_profile_by_id(question->core->coding, kvci_profile_id(work->profile));
	if (here != NULL)
		profile_answer(question, here, false);
	else
		admin_work(question, profile_keep_job, profile_kept);
}

/* Without a path: what came into the folder. */
static void profile_scan(struct kvci_admin_question *question)
{
	uint32_t added = 0, refused = 0;
	kvc_status_t status = kvci_coding_load_profiles(question->core->coding, &added, &refused);

	if (status != KVC_OK) {
		admin_fail(question, status, "%s", kvc_status_text(status));
		return;
	}
	admin_set_uint(question->answer, "added", added);
	admin_set_uint(question->answer, "refused", refused);
	admin_set_uint(question->answer, "profiles", kvci_coding_profile_count(question->core->coding));
	admin_finish(question);
}

void admin_profile_add(struct kvci_admin_question *question)
{
	const char *path;

	if (!admin_get_text(question, "path", NULL, &path))
		return;
	if (path == NULL)
		profile_scan(question);
	else if (path[0] != '/')
		profile_refuse(question, "\"path\" is not a full path");
	else if (profile_work_make(question, path) != NULL)
		admin_work(question, profile_read_job, profile_was_read);
}

/* ---- one less ---- */

static void profile_remove_job(struct kvci_job *job)
{
	struct profile_work *work = admin_of_job(job)->state;

	work->removed = kvci_coding_remove_files(work->folder, work->id);
}

static void profile_was_removed(struct kvci_admin_question *question)
{
	const struct profile_work *work = question->state;

	admin_set_uint(question->answer, "files", work->removed);
	admin_finish(question);
}

/* The only one whose id begins so; NULL: said. */
static const struct kvc_profile *profile_find(struct kvci_admin_question *question)
{
	const struct kvci_coding *coding = question->core->coding;
	const struct kvc_profile *found = NULL;
	const char *id;

	if (!admin_get_text(question, "profile", "", &id))
		return NULL;
	for (uint32_t i = 0; i < kvci_coding_profile_count(coding); i++) {
		const struct kvc_profile *profile = kvci_coding_profile_at(coding, i);
		char text[20];

		snprintf(text, sizeof(text), "%016" PRIx64, kvci_profile_id(profile));
		if (strncasecmp(text, id, strlen(id)) != 0)
			continue;
		if (found != NULL || id[0] == '\0') {
			profile_refuse(question, "more than one profile begins with \"%.20s\"", id);
			return NULL;
		}
		found = profile;
	}
	if (found == NULL)
		profile_refuse(question, "there is no profile \"%.40s\"", id);
	return found;
}

void admin_profile_remove(struct kvci_admin_question *question)
{
	const struct kvc_profile *profile = profile_find(question);
	struct profile_work *work;
	struct profile_uses uses;
	bool force;

	if (profile == NULL || !admin_get_bool(question, "force", false, &force))
		return;
	json_decref(question->answer);
	question->answer = profile_json(question->core, profile, &uses);
	if (uses.disk_blocks != 0 && !force) {
		profile_refuse(question,
		               "space %u%s may need %016" PRIx64 ": what is packed by it of their %" PRIu64 " blocks on the disk would be misses; recode them first, or force it",
		               uses.first_used, json_array_size(uses.list) > 1 ? " and others" : "", kvci_profile_id(profile), uses.disk_blocks);
		return;
	}
	work = profile_work_make(question, "");
	if (work == NULL)
		return;
	work->id = kvci_profile_id(profile);
	kvci_log(KVCI_LOG_INFO, "coding", "profile %016" PRIx64 " is removed: records that need it are misses from now on", work->id);
	kvci_coding_remove_profile(question->core->coding, work->id);
	admin_work(question, profile_remove_job, profile_was_removed);
}
