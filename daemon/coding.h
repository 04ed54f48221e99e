/* SPDX-License-Identifier: Apache-2.0
 *
 * Coding: what the coded tier asks the daemon for. What a space allows, the profiles in data_dir/profiles/, what recode is at.
 * Threads: the owner's.
 */
#ifndef KVCI_DAEMON_CODING_H
#define KVCI_DAEMON_CODING_H

#include "daemon/core.h"
#include "tiers/coded/coded.h"

struct kvci_coding;

/* Reads the profiles of data_dir. */
kvc_status_t kvci_coding_create(struct kvci_core *core, struct kvci_coding **ret_coding);
void kvci_coding_destroy(struct kvci_coding *coding);
/* For kvci_coded_wrap; mode as configured. */
void kvci_coding_env(struct kvci_coding *coding, struct kvci_coded_env *ret_env);

/* Reads profiles that came into the folder since. *ret_added, *ret_refused: how many files. */
kvc_status_t kvci_coding_load_profiles(struct kvci_coding *coding, uint32_t *ret_added, uint32_t *ret_refused);
/* One more; it is the daemon's then. EXISTS: it is here already, and the caller's. */
kvc_status_t kvci_coding_take_profile(struct kvci_coding *coding, struct kvc_profile *profile);
/* From now on it is not here; who uses it at the moment may go on. */
void kvci_coding_remove_profile(struct kvci_coding *coding, uint64_t profile_id);
const struct kvc_profile *kvci_coding_profile_by_id(const struct kvci_coding *coding, uint64_t profile_id);
/* Where profiles are kept; NULL: nowhere. */
const char *kvci_coding_folder(const struct kvci_coding *coding);
/* For workers: a whole file (NOT_FOUND: errno says why); removes the files of this profile from a folder, and says how many there were. */
kvc_status_t kvci_coding_read_file(const char *path, uint8_t **ret_bytes, size_t *ret_length);
uint32_t kvci_coding_remove_files(const char *folder, uint64_t profile_id);
uint32_t kvci_coding_profile_count(const struct kvci_coding *coding);
const struct kvc_profile *kvci_coding_profile_at(const struct kvci_coding *coding, uint32_t index);

/* A space's field `codec`: "" (lossless), a codec spec, or max_kl=NUMBER. INVALID or NOT_FOUND: `error` says what is wrong with it. */
kvc_status_t kvci_coding_check(const char *wish, char *error, size_t room);
/* What the space allows its blocks of a form: sets codec and params where it names one, else options where it bounds the loss; profile and tables. */
void kvci_coding_choose(const struct kvci_coding *coding, const struct kvci_space *space, const struct kvc_form *form,
                        struct kvci_coded_target *ret_target);
/* The profile for blocks of the space and form: the model's own, else one that does not say of which model it is; NULL: there is none. Then *ret_refused (may
 * be NULL; untouched otherwise) is one that would fit, but is of another model, or NULL. */
const struct kvc_profile *kvci_coding_profile_for(const struct kvci_coding *coding, const struct kvci_space *space,
                                                  const struct kvc_form *form, const struct kvc_profile **ret_refused);
/* Whether the space may hold records of this codec and parameters. again: also of other parameters than those that it names; never beyond a bound on
 * the loss (max_kl). */
bool kvci_coding_allows(const struct kvci_coding *coding, const struct kvci_space *space, const struct kvc_form *form,
                        const struct kvci_coded_target *target, bool again);

/* An engine has bound this form. */
void kvci_coding_note_form(struct kvci_coding *coding, const struct kvc_form *form);
/* The form of a binding: as it is bound, or as it was before the daemon was restarted; NULL: not known. */
const struct kvc_form *kvci_coding_form(const struct kvci_coding *coding, uint32_t binding);

/* Retention scores of a block that is stored, or about to be: records of it are packed by them. INVALID: not a byte for each token and head of the form. */
kvc_status_t kvci_coding_put_scores(struct kvci_coding *coding, const struct kvci_block_id *id, const struct kvc_form *form,
                                    const void *scores, uint64_t scores_bytes);

/* Records of this key are written with `target` until it is lifted (NULL). */
void kvci_coding_force(struct kvci_coding *coding, const struct kvc_tier_entry *entry, const struct kvci_coded_target *target);

#endif
