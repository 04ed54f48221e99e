/* SPDX-License-Identifier: Apache-2.0
 *
 * What the coded tier asks for. A wish is read anew for each record: it is a few words, and a space may be bound by any engine at any time.
 */
#include "daemon/coding.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "codec/kl_table.h"
#include "codec/profile.h"
#include "daemon/forms.h"
#include "daemon/scores.h"

enum { CODING_PROFILE_BYTES_MAX = 1 << 30, CODING_PROFILES_MAX = 1024, CODING_SCORES_BYTES_MAX = 64 << 20 };

struct kvci_coding {
	struct kvci_core *core;
	char *folder; /* NULL: memory only */
	struct kvc_profile **profiles;
	uint32_t profile_count;
	struct kvc_profile **gone; /* removed: somebody may be using them */
	uint32_t gone_count;
	struct kvci_forms *forms;
	struct kvci_scores *scores; /* NULL until some come */
	bool forced;
	struct kvc_tier_entry forced_entry;
	struct kvci_coded_target forced_target;
};

static const char coding_kl_word[] = "max_kl=";

static bool coding_parse_kl(const char *wish, double *ret_kl)
{
	const char *number = wish + sizeof(coding_kl_word) - 1;
	char *end;

	if (strncmp(wish, coding_kl_word, sizeof(coding_kl_word) - 1) != 0 || number[strspn(number, "0123456789.e-")] != '\0')
		return false;
	*ret_kl = strtod(number, &end);
	return end != number && *end == '\0' && *ret_kl >= 0 && *ret_kl <= 100;
}

kvc_status_t kvci_coding_check(const char *wish, char *error, size_t room)
{
	const struct kvc_codec_ops *codec;
	struct kvc_codec_params params;
	const char *wrong = NULL;
	double kl;
	kvc_status_t status;

	if (wish == NULL || wish[0] == '\0' || coding_parse_kl(wish, &kl))
		return KVC_OK;
	if (strncmp(wish, "max_kl", 6) == 0) {
		snprintf(error, room, "codec: \"%.40s\" is not max_kl=NUMBER", wish);
		return KVC_INVALID;
	}
	status = kvc_codec_spec_parse(wish, &codec, &params, &wrong);
	if (status == KVC_NOT_FOUND)
		snprintf(error, room, "codec: there is no codec \"%.*s\" in this build", (int)strcspn(wish, ":"), wish);
	else if (status != KVC_OK)
		snprintf(error, room, "codec: \"%.30s\" in \"%.40s\" is wrong", wrong, wish);
	return status == KVC_NOT_FOUND ? KVC_INVALID : status;
}

const struct kvc_profile *kvci_coding_profile_for(const struct kvci_coding *coding, const struct kvci_space *space,
                                                  const struct kvc_form *form, const struct kvc_profile **ret_refused)
{
	const struct kvc_profile *unbound = NULL, *refused = NULL;

	for (uint32_t i = coding->profile_count; i-- > 0;) { /* the one that came last */
		const struct kvc_profile *profile = coding->profiles[i];

		if (!kvci_profile_fits(profile, form))
			continue;
		if (profile->model[0] != '\0' && strcmp(profile->model, space->model) == 0)
			return profile;
		if (profile->model[0] == '\0' && unbound == NULL)
			unbound = profile;
		else if (profile->model[0] != '\0' && refused == NULL)
			refused = profile;
	}
	if (unbound == NULL && ret_refused != NULL)
		*ret_refused = refused;
	return unbound;
}

/* Has it what the codec reads? */
static bool coding_profile_serves(const struct kvc_profile *profile, const struct kvc_codec_ops *codec)
{
	return codec->id != KVC_CODEC_ECSQ_PCA ||
	       (profile->bases[0].count != 0 && (profile->planes[1].channels == 0 || profile->bases[1].count != 0));
}

/* The rows are by falling ratio. Those with a profile hold for a profile of that very model: one that says so. */
static void coding_choose_kl(double kl, const struct kvc_profile *profile, struct kvci_coded_target *target)
{
	const struct kvc_profile *own = profile != NULL && profile->model[0] != '\0' ? profile : NULL;
	enum kvci_kl_need have = KVCI_KL_NOTHING;
	struct kvci_profile_facts facts;
	const char *wrong;

	if (own != NULL) {
		kvci_profile_facts(own, &facts);
		have = facts.weights ? KVCI_KL_WEIGHTS : KVCI_KL_PROFILE;
	}
	for (size_t i = 0; i < sizeof(kvci_kl_table) / sizeof(kvci_kl_table[0]) && target->option_count < KVCI_CODED_OPTIONS_MAX; i++) {
		const struct kvci_kl_row *row = &kvci_kl_table[i];
		struct kvci_coded_option *option = &target->options[target->option_count];

		if (row->max_kl <= kl && row->needs <= have && kvc_codec_spec_parse(row->spec, &option->codec, &option->params, &wrong) == KVC_OK &&
		    (row->needs == KVCI_KL_NOTHING || coding_profile_serves(own, option->codec)))
			target->option_count++;
	}
}

void kvci_coding_choose(const struct kvci_coding *coding, const struct kvci_space *space, const struct kvc_form *form,
                        struct kvci_coded_target *ret_target)
{
	const struct kvc_profile *profile, *refused = NULL;
	const char *wish = space->codec, *wrong;
	double kl;

	ret_target->codec = NULL;
	ret_target->option_count = 0;
	profile = kvci_coding_profile_for(coding, space, form, &refused);
	ret_target->profile = profile;
	ret_target->profile_id = profile != NULL ? kvci_profile_id(profile) : 0;
	if (profile != NULL && profile->model[0] != '\0' && profile->exponents != NULL) {
		ret_target->tables = profile;
		ret_target->tables_id = ret_target->profile_id;
	}
	if (wish == NULL || wish[0] == '\0')
		return;
	if (coding_parse_kl(wish, &kl)) {
		coding_choose_kl(kl, space->adapter[0] == '\0' ? profile : NULL, ret_target); /* an adapter's KV is not the model's */
		return;
	}
	if (kvc_codec_spec_parse(wish, &ret_target->codec, &ret_target->params, &wrong) != KVC_OK)
		ret_target->codec = NULL; /* of a build that had more codecs */
	if (ret_target->codec != NULL && profile == NULL && refused != NULL && ret_target->codec->needs_profile)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "coding", "%s needs a profile of model %.64s: %016llx is of another, %.64s, and is not used for it",
		                 ret_target->codec->name, space->model, (unsigned long long)kvci_profile_id(refused), refused->model);
}

bool kvci_coding_allows(const struct kvci_coding *coding, const struct kvci_space *space, const struct kvc_form *form,
                        const struct kvci_coded_target *target, bool again)
{
	struct kvci_coded_target allowed = {0};

	if (target->codec == NULL || target->codec->lossless)
		return true;
	kvci_coding_choose(coding, space, form, &allowed);
	for (uint32_t i = 0; i < allowed.option_count; i++)
		if (allowed.options[i].codec == target->codec && memcmp(&allowed.options[i].params, &target->params, sizeof(target->params)) == 0)
			return true;
	return allowed.codec == target->codec && (again || memcmp(&allowed.params, &target->params, sizeof(allowed.params)) == 0);
}

/* ---- profiles ---- */

uint32_t kvci_coding_profile_count(const struct kvci_coding *coding)
{
	return coding->profile_count;
}

const struct kvc_profile *kvci_coding_profile_at(const struct kvci_coding *coding, uint32_t index)
{
	return coding->profiles[index];
}

const char *kvci_coding_folder(const struct kvci_coding *coding)
{
	return coding->folder;
}

const struct kvc_profile *kvci_coding_profile_by_id(const struct kvci_coding *coding, uint64_t profile_id)
{
	for (uint32_t i = 0; i < coding->profile_count; i++)
		if (kvci_profile_id(coding->profiles[i]) == profile_id)
			return coding->profiles[i];
	return NULL;
}

static const struct kvc_profile *coding_profile(void *context, uint64_t profile_id)
{
	const struct kvci_coding *coding = context;
	const struct kvc_profile *profile = kvci_coding_profile_by_id(coding, profile_id);

	if (profile == NULL)
		KVCI_LOG_LIMITED(KVCI_LOG_WARN, "coding", "a block needs profile %016llx, which is not in %s", (unsigned long long)profile_id,
		                 coding->folder != NULL ? coding->folder : "memory");
	return profile;
}

kvc_status_t kvci_coding_read_file(const char *path, uint8_t **ret_bytes, size_t *ret_length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat stat_now;
	size_t filled = 0;
	ssize_t got = 1;
	uint8_t *bytes = NULL;

	if (fd < 0)
		return KVC_NOT_FOUND;
	if (fstat(fd, &stat_now) == 0 && S_ISREG(stat_now.st_mode) && stat_now.st_size > 0 && stat_now.st_size <= CODING_PROFILE_BYTES_MAX)
		bytes = kvci_alloc((size_t)stat_now.st_size);
	while (bytes != NULL && filled < (size_t)stat_now.st_size && got > 0) {
		got = read(fd, bytes + filled, (size_t)stat_now.st_size - filled);
		filled += got > 0 ? (size_t)got : 0;
	}
	close(fd);
	if (bytes == NULL || filled != (size_t)stat_now.st_size) {
		kvci_free(bytes);
		return KVC_IO;
	}
	*ret_bytes = bytes;
	*ret_length = filled;
	return KVC_OK;
}

kvc_status_t kvci_coding_take_profile(struct kvci_coding *coding, struct kvc_profile *profile)
{
	struct kvc_profile **room;

	if (kvci_coding_profile_by_id(coding, kvci_profile_id(profile)) != NULL)
		return KVC_EXISTS;
	if (coding->profile_count >= CODING_PROFILES_MAX)
		return KVC_NO_SPACE;
	room = kvci_realloc(coding->profiles, (coding->profile_count + 1) * sizeof(room[0]));
	if (room == NULL)
		return KVC_NO_MEMORY;
	coding->profiles = room;
	coding->profiles[coding->profile_count++] = profile;
	for (uint32_t i = 0; i < coding->gone_count; i++) { /* it was here before: that one is as good */
		if (kvci_profile_id(coding->gone[i]) != kvci_profile_id(profile))
			continue;
		coding->profiles[coding->profile_count - 1] = coding->gone[i];
		coding->gone[i] = coding->gone[--coding->gone_count];
		kvci_profile_free(profile);
		profile = coding->profiles[coding->profile_count - 1];
	}
	kvci_log(KVCI_LOG_INFO, "coding", "profile %016llx (%s), of model %.64s", (unsigned long long)kvci_profile_id(profile), profile->name,
	         profile->model[0] != '\0' ? profile->model : "(not said)");
	return KVC_OK;
}

void kvci_coding_remove_profile(struct kvci_coding *coding, uint64_t profile_id)
{
	struct kvc_profile **room = kvci_realloc(coding->gone, (coding->gone_count + 1) * sizeof(room[0]));
	uint32_t at = 0;

	coding->gone = room != NULL ? room : coding->gone;
	while (at < coding->profile_count && kvci_profile_id(coding->profiles[at]) != profile_id)
		at++;
	if (room == NULL || at == coding->profile_count)
		return; /* out of memory: until the daemon ends, then */
	coding->gone[coding->gone_count++] = coding->profiles[at];
	coding->profile_count--;
	memmove(&coding->profiles[at], &coding->profiles[at + 1], (coding->profile_count - at) * sizeof(coding->profiles[0]));
}

/* EXISTS: it is here already. */
static kvc_status_t coding_add_profile(struct kvci_coding *coding, const char *path)
{
	struct kvc_profile *profile = NULL;
	uint8_t *bytes;
	size_t length;
	kvc_status_t status = kvci_coding_read_file(path, &bytes, &length);

	if (status != KVC_OK)
		return status;
	if (kvci_coding_profile_by_id(coding, kvci_profile_id_of(bytes, length)) != NULL)
		status = KVC_EXISTS;
	if (status == KVC_OK)
		status = kvci_profile_read(bytes, length, &profile);
	kvci_free(bytes);
	if (status == KVC_OK)
		status = kvci_coding_take_profile(coding, profile);
	else
		profile = NULL;
	if (status != KVC_OK)
		kvci_profile_free(profile);
	return status;
}

static bool coding_is_profile(const char *name)
{
	size_t length = strlen(name);

	return length > 5 && strcmp(name + length - 5, ".kvcp") == 0;
}

uint32_t kvci_coding_remove_files(const char *folder, uint64_t profile_id)
{
	DIR *dir = opendir(folder);
	struct dirent *file;
	uint32_t removed = 0;

	while (dir != NULL && (file = readdir(dir)) != NULL) {
		char *path = coding_is_profile(file->d_name) ? kvci_asprintf("%s/%s", folder, file->d_name) : NULL;
		uint8_t *bytes;
		size_t length;

		if (path != NULL && kvci_coding_read_file(path, &bytes, &length) == KVC_OK) {
			removed += kvci_profile_id_of(bytes, length) == profile_id && unlink(path) == 0;
			kvci_free(bytes);
		}
		kvci_free(path);
	}
	if (dir != NULL)
		closedir(dir);
	return removed;
}

kvc_status_t kvci_coding_load_profiles(struct kvci_coding *coding, uint32_t *ret_added, uint32_t *ret_refused)
{
	DIR *dir = coding->folder != NULL ? opendir(coding->folder) : NULL;
	struct dirent *file;
	kvc_status_t status = KVC_OK;

	*ret_added = *ret_refused = 0;
	while (dir != NULL && status != KVC_NO_MEMORY && (file = readdir(dir)) != NULL && coding->profile_count < CODING_PROFILES_MAX) {
		char *path;

		if (!coding_is_profile(file->d_name))
			continue;
		path = kvci_asprintf("%s/%s", coding->folder, file->d_name);
		status = path != NULL ? coding_add_profile(coding, path) : KVC_NO_MEMORY;
		*ret_added += status == KVC_OK;
		if (status != KVC_OK && status != KVC_EXISTS) {
			++*ret_refused;
			kvci_log(KVCI_LOG_WARN, "coding", "%s: no profile: %s", path != NULL ? path : file->d_name, kvc_status_text(status));
		}
		kvci_free(path);
	}
	if (dir != NULL)
		closedir(dir);
	return status == KVC_NO_MEMORY ? status : KVC_OK;
}

/* ---- forms ---- */

void kvci_coding_note_form(struct kvci_coding *coding, const struct kvc_form *form)
{
	kvci_forms_note(coding->forms, form);
}

const struct kvc_form *kvci_coding_form(const struct kvci_coding *coding, uint32_t binding)
{
	const struct kvc_form *form = kvci_cache_binding_form(coding->core->cache, binding);

	return form != NULL ? form : kvci_forms_find(coding->forms, kvci_cache_binding_form_id(coding->core->cache, binding));
}

/* The same of a record; *ret_fields: of its space. */
static const struct kvc_form *coding_form_of(const struct kvci_coding *coding, const struct kvc_tier_entry *entry,
                                             const struct kvci_space **ret_fields)
{
	const struct kvci_cache *cache = coding->core->cache;
	const struct kvc_form *form = kvci_cache_form_of(cache, entry->space, entry->form_id, ret_fields);
	struct kvci_space_info info;

	for (uint32_t i = 0; form == NULL && i < kvci_cache_space_count(cache); i++) {
		if (kvci_cache_space_info(cache, i, &info) != KVC_OK || memcmp(info.fingerprint, entry->space, sizeof(entry->space)) != 0)
			continue;
		*ret_fields = info.fields;
		return kvci_forms_find(coding->forms, entry->form_id);
	}
	return form;
}

/* ---- scores ---- */

kvc_status_t kvci_coding_put_scores(struct kvci_coding *coding, const struct kvci_block_id *id, const struct kvc_form *form,
                                    const void *scores, uint64_t scores_bytes)
{
	kvc_status_t status = KVC_OK;

	if (scores_bytes != (uint64_t)form->block_tokens * form->kv_heads)
		return KVC_INVALID;
	if (coding->scores == NULL)
		status = kvci_scores_create(CODING_SCORES_BYTES_MAX, &coding->scores);
	return status == KVC_OK ? kvci_scores_put(coding->scores, id, scores, (uint32_t)scores_bytes) : status;
}

/* ---- what the tier asks ---- */

/* Unless they came with the record itself. */
static void coding_find_scores(const struct kvci_coding *coding, const struct kvc_tier_entry *entry, struct kvci_coded_target *target)
{
	if (target->scores == NULL && coding->scores != NULL)
		target->scores = kvci_scores_find(coding->scores, entry, target->form.block_tokens * target->form.kv_heads);
}

static void coding_describe(void *context, const struct kvc_tier_entry *entry, bool write, struct kvci_coded_target *ret_target)
{
	struct kvci_coding *coding = context;
	const struct kvci_core *core = coding->core;
	const struct kvci_space *fields;
	struct kvci_cache_totals totals;
	const struct kvc_form *form;

	if (core->cache == NULL)
		return;
	form = coding_form_of(coding, entry, &fields);
	if (form == NULL)
		return;
	if (coding->forced && memcmp(coding->forced_entry.hash, entry->hash, sizeof(entry->hash)) == 0 &&
	    memcmp(coding->forced_entry.space, entry->space, sizeof(entry->space)) == 0) {
		*ret_target = coding->forced_target;
		ret_target->form = *form;
		coding_find_scores(coding, entry, ret_target);
		return;
	}
	ret_target->form = *form;
	if (!write)
		return;
	coding_find_scores(coding, entry, ret_target);
	kvci_coding_choose(coding, fields, form, ret_target);
	kvci_cache_totals(core->cache, &totals);
	ret_target->hurry = totals.write_queue_bytes > core->sizes.write_queue_bytes / 2;
}

static void coding_chosen(void *context, const char *codec, bool used, const char *text)
{
	kvci_log(KVCI_LOG_INFO, "coding", "%s is %s from now on: %s", codec, used ? "used" : "not used", text);
}

void kvci_coding_env(struct kvci_coding *coding, struct kvci_coded_env *ret_env)
{
	*ret_env = (struct kvci_coded_env){
		.context = coding, .describe = coding_describe, .profile = coding_profile, .chosen = coding_chosen,
		.mode = (enum kvci_coded_mode)coding->core->config->disk_codec,
		.register_always = coding->core->config->disk_register == KVCI_REGISTER_ON,
	};
}

void kvci_coding_force(struct kvci_coding *coding, const struct kvc_tier_entry *entry, const struct kvci_coded_target *target)
{
	coding->forced = target != NULL;
	if (target == NULL)
		return;
	coding->forced_entry = *entry;
	coding->forced_target = *target;
}

/* ---- life ---- */

kvc_status_t kvci_coding_create(struct kvci_core *core, struct kvci_coding **ret_coding)
{
	struct kvci_coding *coding = kvci_alloc_zero(1, sizeof(*coding));
	const char *data_dir = core->config->data_dir;
	uint32_t added, refused;
	kvc_status_t status = KVC_OK;

	if (coding == NULL)
		return KVC_NO_MEMORY;
	coding->core = core;
	status = kvci_forms_open(data_dir != NULL && data_dir[0] != '\0' ? data_dir : NULL, kvci_core_run_file_job, core, &coding->forms);
	if (status == KVC_OK && data_dir != NULL && data_dir[0] != '\0') {
		coding->folder = kvci_asprintf("%s/profiles", data_dir);
		status = coding->folder != NULL ? kvci_coding_load_profiles(coding, &added, &refused) : KVC_NO_MEMORY;
	}
	if (status != KVC_OK) {
		kvci_coding_destroy(coding);
		return status;
	}
	*ret_coding = coding;
	return KVC_OK;
}

void kvci_coding_destroy(struct kvci_coding *coding)
{
	if (coding == NULL)
		return;
	for (uint32_t i = 0; i < coding->profile_count; i++)
		kvci_profile_free(coding->profiles[i]);
	for (uint32_t i = 0; i < coding->gone_count; i++)
		kvci_profile_free(coding->gone[i]);
	kvci_free(coding->gone);
	kvci_scores_destroy(coding->scores);
	kvci_forms_close(coding->forms);
	kvci_free(coding->profiles);
	kvci_free(coding->folder);
	kvci_free(coding);
}
