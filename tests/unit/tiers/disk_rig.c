/* SPDX-License-Identifier: Apache-2.0
 * See disk_rig.h. */
#include "tests/unit/tiers/disk_rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tiers/disk/disk.h"

void disk_store_init(struct disk_store *store, const char *name, const char *capacity, const char *segment)
{
	memset(store, 0, sizeof(*store));
	snprintf(store->folder, sizeof(store->folder), "%s", rig_folder(name));
	store->capacity = capacity;
	store->segment = segment;
	store->io = "auto";
}

kvc_status_t disk_store_try(struct disk_store *store, struct kvc_tier **ret_tier, char **ret_error)
{
	struct kvc_tier_option options[] = {
		{"folder", store->folder}, {"capacity", store->capacity}, {"segment", store->segment}, {"io", store->io},
		{"queue_depth", "8"}, {NULL, NULL},
	};

	return kvci_tier_open(&kvc_tier_disk_ops, options, ret_tier, ret_error);
}

void disk_store_open(struct disk_store *store)
{
	struct kvc_tier *tier;
	char *error = NULL;
	kvc_status_t status = disk_store_try(store, &tier, &error);

	if (status != KVC_OK)
		fail_msg("open: %s: %s", kvc_status_name(status), error);
	rig_open(&store->rig, tier, true);
}

void disk_store_close(struct disk_store *store)
{
	if (store->rig.tier != NULL)
		rig_close(&store->rig);
}

void disk_store_fini(struct disk_store *store)
{
	char saved[600];

	disk_store_close(store);
	rig_folder_remove(store->folder);
	snprintf(saved, sizeof(saved), "%s.saved", store->folder);
	rig_folder_remove(saved);
}

void disk_store_path(const struct disk_store *store, uint32_t segment, char ret_path[600])
{
	snprintf(ret_path, 600, "%s/seg-%08x.kvs", store->folder, segment);
}

static int disk_store_file(const struct disk_store *store, uint32_t segment, int flags)
{
	char path[600];
	int fd;

	disk_store_path(store, segment, path);
	fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void disk_store_peek(const struct disk_store *store, uint32_t segment, uint64_t offset, void *bytes, size_t length)
{
	int fd = disk_store_file(store, segment, O_RDONLY);

	assert_int_equal(pread(fd, bytes, length, (off_t)offset), (ssize_t)length);
	close(fd);
}

void disk_store_poke(const struct disk_store *store, uint32_t segment, uint64_t offset, const void *bytes, size_t length)
{
	int fd = disk_store_file(store, segment, O_WRONLY);

	assert_int_equal(pwrite(fd, bytes, length, (off_t)offset), (ssize_t)length);
	close(fd);
}

void disk_store_flip(const struct disk_store *store, uint32_t segment, uint64_t offset, unsigned bit)
{
	uint8_t byte;

	disk_store_peek(store, segment, offset, &byte, 1);
	byte ^= (uint8_t)(1u << bit);
	disk_store_poke(store, segment, offset, &byte, 1);
}

void disk_store_header(const struct disk_store *store, uint32_t segment, struct kvci_disk_header *ret_header)
{
	uint8_t page[4096];

	disk_store_peek(store, segment, 0, page, sizeof(page));
	assert_true(kvci_disk_header_read(page, ret_header));
}

static void disk_store_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void disk_store_shell(const char *format, ...)
{
	char command[4096];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(command, sizeof(command), format, arguments);
	va_end(arguments);
	assert_int_equal(system(command), 0);
}

void disk_store_save(const struct disk_store *store, const char *what, const char *as)
{
	disk_store_shell("mkdir -p '%s.saved' && rm -rf '%s.saved/%s' && cp -r '%s/%s' '%s.saved/%s'", store->folder,
	                 store->folder, as, store->folder, what, store->folder, as);
}

void disk_store_restore(const struct disk_store *store, const char *what, const char *as)
{
	disk_store_shell("rm -rf '%s/%s' && cp -r '%s.saved/%s' '%s/%s'", store->folder, what, store->folder, as, store->folder,
	                 what);
}

void disk_store_remove(const struct disk_store *store, const char *what)
{
	disk_store_shell("rm -rf '%s/%s'", store->folder, what);
}

void disk_store_check(struct disk_store *store, uint64_t count, uint32_t pages, const bool *skip, uint64_t *ret_hits,
                      uint64_t *ret_missing, uint64_t *ret_refused)
{
	uint64_t hits = 0, missing = 0, refused = 0;
	void *buffer = rig_buffer((uint64_t)pages * 4096);

	for (uint64_t seed = 0; seed < count; seed++) {
		struct kvc_tier_entry like;
		const struct kvc_tier_entry *entry;
		kvc_status_t status;

		if (skip != NULL && skip[seed])
			continue;
		rig_record(buffer, seed, pages, &like);
		entry = rig_find(&store->rig.index, &like);
		if (entry == NULL) {
			missing++;
			continue;
		}
		status = rig_load(&store->rig, seed, entry);
		assert_true(status == KVC_OK || status == KVC_MISS || status == KVC_CORRUPT);
		hits += status == KVC_OK;
		refused += status != KVC_OK;
	}
	kvci_free(buffer);
	*ret_hits = hits;
	*ret_missing = missing;
	*ret_refused = refused;
}
