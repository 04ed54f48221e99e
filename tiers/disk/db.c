/* SPDX-License-Identifier: Apache-2.0
 * RocksDB, wrapped; see db.h. */
#include "tiers/disk/db.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

enum {
	DB_WRITE_BUFFER_BYTES = 4 << 20,
	DB_CACHE_BYTES = 1 << 20,
	DB_BLOCK_BYTES = 16 << 10,
	DB_READAHEAD_BYTES = 1 << 20,
	DB_FILES_MAX = 64,
	DB_LOG_BYTES_MAX = 16 << 20,
};

struct kvci_disk_db {
	rocksdb_t *rocksdb;
	rocksdb_options_t *options;
	rocksdb_block_based_table_options_t *table;
	rocksdb_cache_t *cache;
	rocksdb_readoptions_t *read;
	rocksdb_writeoptions_t *write;
	rocksdb_env_t *env;
	bool write_failed; /* the last one: its log is not to be synced. RocksDB with its assertions, as Debian has it, would end the process */
};

struct kvci_disk_batch {
	rocksdb_writebatch_t *batch;
};

struct kvci_disk_cursor {
	struct kvci_disk_db *db;
	const rocksdb_snapshot_t *snapshot;
	rocksdb_readoptions_t *read;
	rocksdb_iterator_t *iterator;
	uint8_t bound[KVCI_DISK_SEGMENT_KEY_BYTES]; /* the upper one, read by RocksDB while the iterator lives */
};

/* RocksDB hands errors out as malloc'ed text, which is not ours to count. */
static void db_error_free(char *error)
{
	rocksdb_free(error);
}

/* The class that matters to callers is in the words, the C interface has no codes. */
static kvc_status_t db_status(const char *error)
{
	if (strstr(error, "No space left") != NULL || strstr(error, "disk quota") != NULL)
		return KVC_DISK_FULL;
	if (strncmp(error, "Corruption", 10) == 0 || strstr(error, "does not exist") != NULL ||
	    strncmp(error, "Invalid argument", 16) == 0 || strncmp(error, "Not implemented", 15) == 0 ||
	    strstr(error, "No such file") != NULL || strstr(error, "not a directory") != NULL)
		return KVC_CORRUPT;
	return KVC_IO;
}

static kvc_status_t db_failed(const char *doing, char *error)
{
	kvc_status_t status;

	if (error == NULL)
		return KVC_OK;
	status = db_status(error);
	KVCI_LOG_LIMITED(KVCI_LOG_ERROR, "disk", "index: %s: %s", doing, error);
	db_error_free(error);
	return status;
}

static void db_options(struct kvci_disk_db *db)
{
	db->cache = rocksdb_cache_create_lru(DB_CACHE_BYTES);
	db->table = rocksdb_block_based_options_create();
	rocksdb_block_based_options_set_block_cache(db->table, db->cache);
	rocksdb_block_based_options_set_block_size(db->table, DB_BLOCK_BYTES);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(db->table, 1);

	db->env = rocksdb_create_default_env();
	rocksdb_env_set_background_threads(db->env, 1);
	rocksdb_env_set_high_priority_background_threads(db->env, 1);

	db->options = rocksdb_options_create();
	rocksdb_options_set_env(db->options, db->env);
	rocksdb_options_set_create_if_missing(db->options, 1);
	rocksdb_options_set_block_based_table_factory(db->options, db->table);
	rocksdb_options_set_write_buffer_size(db->options, DB_WRITE_BUFFER_BYTES);
	rocksdb_options_set_max_write_buffer_number(db->options, 3);
	rocksdb_options_set_arena_block_size(db->options, 256 << 10);
	rocksdb_options_set_max_open_files(db->options, DB_FILES_MAX);
	rocksdb_options_set_max_file_opening_threads(db->options, 1);
	rocksdb_options_set_max_background_jobs(db->options, 2);
	rocksdb_options_set_max_total_wal_size(db->options, DB_LOG_BYTES_MAX);
	rocksdb_options_set_target_file_size_base(db->options, 16 << 20);
	rocksdb_options_set_max_bytes_for_level_base(db->options, 64 << 20);
	/* Keys are hashes: they do not shrink. */
	rocksdb_options_set_compression(db->options, rocksdb_no_compression);
	rocksdb_options_set_info_log_level(db->options, 4);
	rocksdb_options_set_keep_log_file_num(db->options, 1);
	rocksdb_options_set_stats_dump_period_sec(db->options, 0);
	rocksdb_options_set_stats_persist_period_sec(db->options, 0);
	/* A torn end of the log is what a kill leaves; what it loses is found again in the segments. */
	rocksdb_options_set_wal_recovery_mode(db->options, 2);

	db->read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_fill_cache(db->read, 0);
	db->write = rocksdb_writeoptions_create();
}

void kvci_disk_db_close(struct kvci_disk_db *db)
{
	if (db == NULL)
		return;
	if (db->rocksdb != NULL)
		rocksdb_close(db->rocksdb);
	rocksdb_writeoptions_destroy(db->write);
	rocksdb_readoptions_destroy(db->read);
	rocksdb_options_destroy(db->options);
	rocksdb_block_based_options_destroy(db->table);
	rocksdb_cache_destroy(db->cache);
	rocksdb_env_destroy(db->env);
	kvci_free(db);
}

kvc_status_t kvci_disk_db_open(const char *folder, struct kvci_disk_db **ret_db, char **ret_error)
{
	struct kvci_disk_db *db = kvci_alloc_zero(1, sizeof(*db));
	char *error = NULL;
	kvc_status_t status;

	if (db == NULL)
		return KVC_NO_MEMORY;
	db_options(db);
	db->rocksdb = rocksdb_open(db->options, folder, &error);
	if (error == NULL) {
		*ret_db = db;
		return KVC_OK;
	}
	status = db_status(error);
	*ret_error = kvci_asprintf("index %s: %s", folder, error);
	db_error_free(error);
	db->rocksdb = NULL;
	kvci_disk_db_close(db);
	return status;
}

kvc_status_t kvci_disk_db_remove(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *file;
	kvc_status_t status = KVC_OK;

	if (dir == NULL && errno == ENOTDIR && unlink(folder) == 0)
		return KVC_OK;
	if (dir == NULL)
		return errno == ENOENT ? KVC_OK : kvc_status_from_errno(errno);
	while ((file = readdir(dir)) != NULL) {
		if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), file->d_name, 0) != 0 && unlinkat(dirfd(dir), file->d_name, AT_REMOVEDIR) != 0)
			status = kvc_status_from_errno(errno);
	}
	closedir(dir);
	if (status == KVC_OK && rmdir(folder) != 0)
		status = kvc_status_from_errno(errno);
	return status;
}

bool kvci_disk_db_uuid(struct kvci_disk_db *db, uint8_t ret_uuid[KVCI_DISK_UUID_BYTES])
{
	char *error = NULL;
	size_t length = 0;
	char *value = rocksdb_get(db->rocksdb, db->read, "U", 1, &length, &error);
	bool found = value != NULL && length == KVCI_DISK_UUID_BYTES;

	if (found)
		memcpy(ret_uuid, value, KVCI_DISK_UUID_BYTES);
	rocksdb_free(value);
	db_failed("read", error);
	return found;
}

static bool db_segment_unpack(const char *value, size_t length, uint32_t *ret_generation, uint32_t *ret_indexed_4k)
{
	if (value == NULL || length != KVCI_DISK_SEGMENT_VALUE_BYTES)
		return false;
	memcpy(ret_generation, value, 4);
	memcpy(ret_indexed_4k, value + 4, 4);
	return *ret_generation != 0;
}

kvc_status_t kvci_disk_db_segment(struct kvci_disk_db *db, uint32_t segment, uint32_t *ret_generation,
                                  uint32_t *ret_indexed_4k)
{
	uint8_t key[KVCI_DISK_SEGMENT_KEY_BYTES];
	char *error = NULL;
	size_t length = 0;
	char *value;
	bool found;

	kvci_disk_segment_key(segment, key);
	value = rocksdb_get(db->rocksdb, db->read, (const char *)key, sizeof(key), &length, &error);
	found = db_segment_unpack(value, length, ret_generation, ret_indexed_4k);
	rocksdb_free(value);
	if (error != NULL)
		return db_failed("read", error);
	return found ? KVC_OK : KVC_MISS;
}

kvc_status_t kvci_disk_db_segments(struct kvci_disk_db *db, void (*visit)(void *context, uint32_t segment,
                                   uint32_t generation, uint32_t indexed_4k), void *context)
{
	rocksdb_iterator_t *iterator = rocksdb_create_iterator(db->rocksdb, db->read);
	char *error = NULL;

	for (rocksdb_iter_seek(iterator, "S", 1); rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
		size_t key_length, length;
		const char *key = rocksdb_iter_key(iterator, &key_length);
		const char *value = rocksdb_iter_value(iterator, &length);
		uint32_t generation, indexed_4k;

		if (key_length == 0 || key[0] != 'S')
			break;
		if (key_length == KVCI_DISK_SEGMENT_KEY_BYTES && db_segment_unpack(value, length, &generation, &indexed_4k)) {
			const uint8_t *digits = (const uint8_t *)key + 1;

			visit(context, (uint32_t)digits[0] << 24 | (uint32_t)digits[1] << 16 | (uint32_t)digits[2] << 8 | digits[3],
			      generation, indexed_4k);
		}
	}
	rocksdb_iter_get_error(iterator, &error);
	rocksdb_iter_destroy(iterator);
	return db_failed("read", error);
}

struct kvci_disk_batch *kvci_disk_batch_create(void)
{
	struct kvci_disk_batch *batch = kvci_alloc_zero(1, sizeof(*batch));

	if (batch != NULL)
		batch->batch = rocksdb_writebatch_create();
	return batch;
}

void kvci_disk_batch_destroy(struct kvci_disk_batch *batch)
{
	if (batch == NULL)
		return;
	rocksdb_writebatch_destroy(batch->batch);
	kvci_free(batch);
}

void kvci_disk_batch_put(struct kvci_disk_batch *batch, const struct kvc_tier_entry *entry)
{
	uint8_t key[KVCI_DISK_ENTRY_KEY_BYTES], value[KVCI_DISK_ENTRY_VALUE_BYTES];

	kvci_disk_entry_key(entry->place.segment, entry->place.offset_4k, key);
	kvci_disk_entry_pack(entry, value);
	rocksdb_writebatch_put(batch->batch, (const char *)key, sizeof(key), (const char *)value, sizeof(value));
}

void kvci_disk_batch_delete(struct kvci_disk_batch *batch, uint32_t segment, uint32_t offset_4k)
{
	uint8_t key[KVCI_DISK_ENTRY_KEY_BYTES];

	kvci_disk_entry_key(segment, offset_4k, key);
	rocksdb_writebatch_delete(batch->batch, (const char *)key, sizeof(key));
}

void kvci_disk_batch_delete_segment(struct kvci_disk_batch *batch, uint32_t segment)
{
	uint8_t first[KVCI_DISK_ENTRY_KEY_BYTES], last[KVCI_DISK_ENTRY_KEY_BYTES + 1] = {0};

	kvci_disk_entry_key(segment, 0, first);
	kvci_disk_entry_key(segment, UINT32_MAX, last); /* one byte longer: behind the greatest key */
	rocksdb_writebatch_delete_range(batch->batch, (const char *)first, sizeof(first), (const char *)last, sizeof(last));
}

void kvci_disk_batch_segment(struct kvci_disk_batch *batch, uint32_t segment, uint32_t generation, uint32_t indexed_4k)
{
	uint8_t key[KVCI_DISK_SEGMENT_KEY_BYTES], value[KVCI_DISK_SEGMENT_VALUE_BYTES];

	kvci_disk_segment_key(segment, key);
	memcpy(value, &generation, 4);
	memcpy(value + 4, &indexed_4k, 4);
	if (generation == 0)
		rocksdb_writebatch_delete(batch->batch, (const char *)key, sizeof(key));
	else
		rocksdb_writebatch_put(batch->batch, (const char *)key, sizeof(key), (const char *)value, sizeof(value));
}

void kvci_disk_batch_uuid(struct kvci_disk_batch *batch, const uint8_t uuid[KVCI_DISK_UUID_BYTES])
{
	rocksdb_writebatch_put(batch->batch, "U", 1, (const char *)uuid, KVCI_DISK_UUID_BYTES);
}

kvc_status_t kvci_disk_db_write(struct kvci_disk_db *db, struct kvci_disk_batch *batch)
{
	char *error = NULL;

	if (db == NULL) {
		rocksdb_writebatch_clear(batch->batch);
		return KVC_IO;
	}
	rocksdb_write(db->rocksdb, db->write, batch->batch, &error);
	rocksdb_writebatch_clear(batch->batch);
	db->write_failed = error != NULL;
	return db_failed("write", error);
}

kvc_status_t kvci_disk_db_sync(struct kvci_disk_db *db)
{
	char *error = NULL;

	if (db == NULL || db->write_failed)
		return KVC_IO;
	rocksdb_flush_wal(db->rocksdb, 1, &error);
	return db_failed("sync", error);
}

kvc_status_t kvci_disk_cursor_create(struct kvci_disk_db *db, struct kvci_disk_cursor **ret_cursor)
{
	struct kvci_disk_cursor *cursor;

	if (db == NULL)
		return KVC_IO;
	cursor = kvci_alloc_zero(1, sizeof(*cursor));
	if (cursor == NULL)
		return KVC_NO_MEMORY;
	cursor->db = db;
	cursor->snapshot = rocksdb_create_snapshot(db->rocksdb);
	cursor->read = rocksdb_readoptions_create();
	rocksdb_readoptions_set_snapshot(cursor->read, cursor->snapshot);
	rocksdb_readoptions_set_fill_cache(cursor->read, 0);
	rocksdb_readoptions_set_readahead_size(cursor->read, DB_READAHEAD_BYTES);
	*ret_cursor = cursor;
	return KVC_OK;
}

void kvci_disk_cursor_destroy(struct kvci_disk_cursor *cursor)
{
	if (cursor == NULL)
		return;
	if (cursor->iterator != NULL)
		rocksdb_iter_destroy(cursor->iterator);
	rocksdb_readoptions_destroy(cursor->read);
	rocksdb_release_snapshot(cursor->db->rocksdb, cursor->snapshot);
	kvci_free(cursor);
}

void kvci_disk_cursor_seek(struct kvci_disk_cursor *cursor, uint32_t segment, uint32_t from_4k)
{
	uint8_t key[KVCI_DISK_ENTRY_KEY_BYTES];

	if (cursor->iterator != NULL)
		rocksdb_iter_destroy(cursor->iterator);
	/* The bound keeps the iterator from walking through the range tombstones of the segments behind. */
	kvci_disk_segment_key(segment + 1, cursor->bound);
	cursor->bound[0] = segment == UINT32_MAX ? 'F' : 'E';
	rocksdb_readoptions_set_iterate_upper_bound(cursor->read, (const char *)cursor->bound, sizeof(cursor->bound));
	cursor->iterator = rocksdb_create_iterator(cursor->db->rocksdb, cursor->read);
	kvci_disk_entry_key(segment, from_4k, key);
	rocksdb_iter_seek(cursor->iterator, (const char *)key, sizeof(key));
}

bool kvci_disk_cursor_next(struct kvci_disk_cursor *cursor, struct kvc_tier_entry *ret_entry, uint64_t *skipped)
{
	while (cursor->iterator != NULL && rocksdb_iter_valid(cursor->iterator)) {
		size_t key_length, value_length;
		const char *key = rocksdb_iter_key(cursor->iterator, &key_length);
		const char *value = rocksdb_iter_value(cursor->iterator, &value_length);
		bool sane = kvci_disk_entry_unpack(key, key_length, value, value_length, ret_entry);

		rocksdb_iter_next(cursor->iterator);
		if (sane)
			return true;
		if (skipped != NULL)
			++*skipped;
	}
	return false;
}

kvc_status_t kvci_disk_cursor_status(struct kvci_disk_cursor *cursor)
{
	char *error = NULL;

	if (cursor->iterator != NULL)
		rocksdb_iter_get_error(cursor->iterator, &error);
	return db_failed("read", error);
}
