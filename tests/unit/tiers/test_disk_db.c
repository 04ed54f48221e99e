/* SPDX-License-Identifier: Apache-2.0
 * The index in RocksDB, where its files cannot be written. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tiers/disk/db.h"

enum { ENTRIES = 4096 };

static kvc_status_t write_entries(struct kvci_disk_db *db, struct kvci_disk_batch *batch, uint32_t segment)
{
	struct kvc_tier_entry entry = { .form_id = 1, .token_count = 16, .shard_count = 1, .raw_length_4k = 1,
		                        .place = { .segment = segment, .generation = 1, .length_4k = 1 } };

	for (uint32_t i = 0; i < ENTRIES; i++) {
		entry.place.offset_4k = i + 1;
		memcpy(entry.hash, &i, sizeof(i));
		kvci_disk_batch_put(batch, &entry);
	}
	kvci_disk_batch_segment(batch, segment, 1, ENTRIES);
	return kvci_disk_db_write(db, batch);
}

/* A file system that takes no more writes (read-only after an error, a limit, a quota): the same error of RocksDB, its log keeps it. */
static void test_db__log_cannot_be_written__errors_and_a_clean_close(void **state)
{
	struct rlimit kept, none;
	struct kvci_disk_batch *batch = kvci_disk_batch_create();
	struct kvci_disk_db *db;
	uint32_t generation, indexed_4k;
	char folder[] = "./kvc-db-XXXXXX", command[64], *error = NULL;

	assert_non_null(batch);
	assert_non_null(mkdtemp(folder));
	assert_int_equal(kvci_disk_db_open(folder, &db, &error), KVC_OK);
	assert_int_equal(write_entries(db, batch, 1), KVC_OK);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
	none = (struct rlimit){ 4096, kept.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_int_equal(write_entries(db, batch, 2), KVC_IO);
	assert_int_equal(kvci_disk_db_sync(db), KVC_IO);
	assert_int_equal(write_entries(db, batch, 3), KVC_IO);
	assert_int_equal(kvci_disk_db_sync(db), KVC_IO);
	kvci_disk_db_close(db);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &kept), 0);
	/* What was there before is there again, and nothing of what failed. */
	assert_int_equal(kvci_disk_db_open(folder, &db, &error), KVC_OK);
	assert_int_equal(kvci_disk_db_segment(db, 1, &generation, &indexed_4k), KVC_OK);
	assert_int_equal(indexed_4k, ENTRIES);
	assert_int_equal(kvci_disk_db_segment(db, 2, &generation, &indexed_4k), KVC_MISS);
	assert_int_equal(write_entries(db, batch, 4), KVC_OK);
	assert_int_equal(kvci_disk_db_sync(db), KVC_OK);
	kvci_disk_db_close(db);
	kvci_disk_batch_destroy(batch);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_db__log_cannot_be_written__errors_and_a_clean_close),
	};

	kvci_log_set_level(-1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
