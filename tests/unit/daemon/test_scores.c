/* SPDX-License-Identifier: Apache-2.0
 * Retention scores and forms that the daemon keeps: found as they came, the oldest gone first, and what is no form passed over. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/forms.h"
#include "daemon/scores.h"

enum { LENGTH = 100, LIMIT = 64 << 10 };

static struct kvci_block_id id_of(uint32_t number)
{
	struct kvci_block_id id = {.group = number % 3, .shard_index = number % 2};

	memset(id.space, (int)(number % 5), sizeof(id.space));
	memcpy(id.hash, &(uint32_t){number % 7}, 4); /* many in a bucket */
	memcpy(id.hash + 8, &number, 4);
	return id;
}

static const uint8_t *find(const struct kvci_scores *scores, const struct kvci_block_id *id, uint32_t length)
{
	struct kvc_tier_entry entry = {.group = id->group, .shard_index = id->shard_index};

	memcpy(entry.space, id->space, sizeof(entry.space));
	memcpy(entry.hash, id->hash, sizeof(entry.hash));
	return kvci_scores_find(scores, &entry, length);
}

static void put(struct kvci_scores *scores, uint32_t number, uint8_t value)
{
	struct kvci_block_id id = id_of(number);
	uint8_t bytes[LENGTH];

	memset(bytes, value, sizeof(bytes));
	assert_int_equal(kvci_scores_put(scores, &id, bytes, LENGTH), KVC_OK);
}

static void test_scores__more_than_the_limit__the_oldest_go(void **state)
{
	struct kvci_scores *scores;
	struct kvci_block_id id;
	uint32_t kept = 0, first = UINT32_MAX;

	assert_int_equal(kvci_scores_create(LIMIT, &scores), KVC_OK);
	for (uint32_t i = 0; i < 2000; i++) {
		put(scores, i, (uint8_t)i);
		assert_true(kvci_scores_bytes(scores) <= LIMIT);
	}
	for (uint32_t i = 0; i < 2000; i++) {
		const uint8_t *bytes;

		id = id_of(i);
		bytes = find(scores, &id, LENGTH);
		kept += bytes != NULL;
		if (bytes != NULL && first == UINT32_MAX)
			first = i;
		assert_true((bytes != NULL) == (i >= first));
		assert_true(bytes == NULL || (bytes[0] == (uint8_t)i && bytes[LENGTH - 1] == (uint8_t)i));
	}
	assert_true(kept >= LIMIT / (LENGTH + 200) && kept <= LIMIT / LENGTH);
	kvci_scores_destroy(scores);
	kvci_scores_destroy(NULL);
}

static void test_scores__said_again__replace_those_before(void **state)
{
	struct kvci_scores *scores;
	struct kvci_block_id id = id_of(7), other;
	uint64_t bytes;

	assert_int_equal(kvci_scores_create(LIMIT, &scores), KVC_OK);
	put(scores, 7, 1);
	bytes = kvci_scores_bytes(scores);
	for (uint8_t value = 2; value < 50; value++) {
		put(scores, 7, value);
		assert_int_equal(kvci_scores_bytes(scores), bytes);
		assert_int_equal(find(scores, &id, LENGTH)[3], value);
	}
	assert_null(find(scores, &id, LENGTH - 1)); /* of another form */
	for (int part = 0; part < 4; part++) {
		other = id;
		other.group += part == 0;
		other.shard_index += part == 1;
		other.space[15] ^= part == 2;
		other.hash[31] ^= part == 3;
		assert_null(find(scores, &other, LENGTH));
	}
	assert_int_equal(kvci_scores_put(scores, &id, NULL, LIMIT), KVC_TOO_BIG);
	assert_int_equal(find(scores, &id, LENGTH)[3], 49);
	kvci_scores_destroy(scores);
}

static struct kvc_form form_of(uint32_t layers)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = layers, .block_tokens = 32, .engine_block_tokens = 16, .kv_heads = 2,
		.head_dim_k = 16, .head_dim_v = 16, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_FUSED, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
}

/* A job at once, or held until it is told. */
static struct kvci_job *forms_held;
static bool forms_hold;

static void forms_run_job(void *context, struct kvci_job *job)
{
	if (forms_hold) {
		assert_null(forms_held); /* one at a time */
		forms_held = job;
		return;
	}
	job->run(job);
	job->done(job);
}

static void test_forms__file_hangs__known_at_once_written_later(void **state)
{
	char folder[] = "/tmp/kvc-forms-XXXXXX", path[64];
	struct kvci_forms *forms;
	struct kvci_job *job;
	struct kvc_form form;
	struct stat file;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/forms", folder);
	assert_int_equal(kvci_forms_open(folder, forms_run_job, NULL, &forms), KVC_OK);
	forms_hold = true;
	for (uint32_t i = 1; i <= 3; i++) {
		form = form_of(i);
		kvci_forms_note(forms, &form);
		assert_non_null(kvci_forms_find(forms, kvc_form_id(&form)));
	}
	assert_int_equal(stat(path, &file), 0);
	assert_int_equal(file.st_size, 0);
	forms_hold = false;
	job = forms_held;
	assert_non_null(job);
	job->run(job);
	job->done(job);
	assert_int_equal(stat(path, &file), 0);
	assert_int_equal(file.st_size, 3 * 72);
	kvci_forms_close(forms);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(folder), 0);
}

static void test_forms__opened_again__those_that_are_whole(void **state)
{
	char folder[] = "/tmp/kvc-forms-XXXXXX", path[64];
	struct kvci_forms *forms;
	struct kvc_form form;
	int fd;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/forms", folder);
	assert_int_equal(kvci_forms_open(folder, forms_run_job, NULL, &forms), KVC_OK);
	for (int round = 0; round < 2; round++) /* the second finds them known */
		for (uint32_t i = 1; i <= 5; i++) {
			form = form_of(i);
			kvci_forms_note(forms, &form);
		}
	kvci_forms_close(forms);
	fd = open(path, O_RDWR | O_APPEND);
	assert_true(fd >= 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), 5 * 72);
	assert_int_equal(write(fd, "torn", 4), 4);
	close(fd);
	fd = open(path, O_RDWR);
	assert_int_equal(pwrite(fd, "\x07", 1, 72 + 12), 1); /* of the second */
	close(fd);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(kvci_forms_open(folder, forms_run_job, NULL, &forms), KVC_OK);
		for (uint32_t i = 1; i <= 6; i++) {
			const struct kvc_form *found;

			form = form_of(i);
			found = kvci_forms_find(forms, kvc_form_id(&form));
			assert_int_equal(found != NULL, i == 6 ? round == 1 : i != 2);
			assert_true(found == NULL || memcmp(found, &form, sizeof(form)) == 0);
		}
		form = form_of(6); /* over the torn end */
		kvci_forms_note(forms, &form);
		kvci_forms_close(forms);
	}
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(folder), 0);
	assert_int_equal(kvci_forms_open("/nowhere/at/all", forms_run_job, NULL, &forms), KVC_OK); /* done without */
	kvci_forms_note(forms, &form);
	assert_non_null(kvci_forms_find(forms, kvc_form_id(&form)));
	kvci_forms_close(forms);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scores__more_than_the_limit__the_oldest_go),
		cmocka_unit_test(test_scores__said_again__replace_those_before),
		cmocka_unit_test(test_forms__file_hangs__known_at_once_written_later),
		cmocka_unit_test(test_forms__opened_again__those_that_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
