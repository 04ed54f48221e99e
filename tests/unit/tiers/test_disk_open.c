/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening the disk tier where it cannot be, options that are wrong, a disk that fills up, allocations that fail: a clear error, or less
 * kept, and never a crash. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/log.h"
#include "tests/unit/sweep.h"
#include "tests/unit/tiers/disk_rig.h"
#include "tiers/disk/disk.h"

static struct disk_store *store;

static int setup(void **state)
{
	store = kvci_alloc_zero(1, sizeof(*store));
	disk_store_init(store, "open", "64MiB", "4MiB");
	return 0;
}

static int teardown(void **state)
{
	disk_store_fini(store);
	kvci_free(store);
	return 0;
}

/* The status of an open that must fail with a text that holds `word`. */
static kvc_status_t refused(struct disk_store *which, const char *word)
{
	struct kvc_tier *tier;
	char *error = NULL;
	kvc_status_t status = disk_store_try(which, &tier, &error);

	assert_int_not_equal(status, KVC_OK);
	if (error == NULL || strstr(error, word) == NULL)
		fail_msg("'%s' does not say '%s'", error != NULL ? error : "(nothing)", word);
	kvci_free(error);
	return status;
}

/* Runs child `name` (see main) as a program of its own: RocksDB's threads do not live through a fork. Its exit status 0 is success,
 * 77 "cannot be tried here". */
static void in_child(const char *name)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		execl("/proc/self/exe", "test_disk_open", "child", name, store->folder, (char *)NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the child ended with %d", status);
}

static void test_open__parent_missing__not_found(void **state)
{
	snprintf(store->folder, sizeof(store->folder), "no-such-folder/disk");
	assert_int_equal(refused(store, "no-such-folder"), KVC_NOT_FOUND);
}

static void test_open__a_file_in_its_place__said(void **state)
{
	FILE *file = fopen(store->folder, "w");

	fclose(file);
	refused(store, store->folder);
	unlink(store->folder);
}

static void test_open__in_use__names_the_owner(void **state)
{
	char word[32];

	disk_store_open(store);
	snprintf(word, sizeof(word), "process %ld", (long)getpid());
	assert_int_equal(refused(store, word), KVC_IN_USE);
	disk_store_close(store);
	disk_store_open(store); /* and free again */
}

static void forbidden_child(void)
{
	struct kvc_tier *tier;
	char *error = NULL;
	kvc_status_t status;

	if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		_exit(77);
	status = disk_store_try(store, &tier, &error);
	_exit(status == KVC_DENIED && error != NULL ? 0 : 1);
}

static void test_open__read_only_folder__denied(void **state)
{
	assert_int_equal(mkdir(store->folder, 0555), 0);
	in_child("forbidden");
}

static void test_open__forbidden_folder__denied(void **state)
{
	assert_int_equal(mkdir(store->folder, 0700), 0);
	if (getuid() != 0)
		assert_int_equal(chmod(store->folder, 0), 0);
	in_child("forbidden");
	chmod(store->folder, 0700);
}

static void test_open__segments_of_someone_else__denied(void **state)
{
	char path[600], command[1400];

	if (getuid() != 0)
		skip();
	disk_store_open(store);
	disk_store_close(store);
	disk_store_path(store, 0, path);
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(chmod(store->folder, 0777), 0);
	snprintf(command, sizeof(command), "chmod -R a+rwX '%s'/index '%s'/lock", store->folder, store->folder);
	assert_int_equal(system(command), 0);
	in_child("forbidden");
}

static void test_open__wrong_options__name_them(void **state)
{
	static const struct { const char *key, *value; } wrong[] = {
		{"capacity", "much"}, {"capacity", "0"}, {"capacity", "5KB"}, {"capacity", "99999999999999TiB"}, {"segment", "-1"},
		{"io", "magic"}, {"register", "perhaps"}, {"queue_depth", "0"}, {"queue_depth", "2000"}, {"folder", ""},
		{"no_such_option", "1"}, {"check_threads", "0"},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct kvc_tier_option options[] = {{"folder", store->folder}, {wrong[i].key, wrong[i].value}, {NULL, NULL}};
		struct kvc_tier *tier;
		char *error = NULL;

		assert_int_equal(kvci_tier_open(&kvc_tier_disk_ops, options, &tier, &error), KVC_CONFIG);
		assert_non_null(strstr(error, wrong[i].key));
		kvci_free(error);
	}
	store->capacity = "8MiB";
	store->segment = "4MiB";
	assert_int_equal(refused(store, "four segments"), KVC_CONFIG);
	store->segment = "2GiB";
	assert_int_equal(refused(store, "1GiB"), KVC_CONFIG);
}

static void test_open__auto_sizes__fit_the_disk(void **state)
{
	store->capacity = "auto";
	store->segment = "auto";
	disk_store_open(store);
	assert_true(store->rig.caps.capacity_bytes > 0);
	assert_true(store->rig.caps.capacity_bytes <= (uint64_t)256 << 30);
	disk_store_close(store);
	store->capacity = "16MiB"; /* the least that the config takes */
	disk_store_open(store);
}

/* Records of another version of the format are misses, and their segments are written anew. */
static void test_open__segments_of_an_older_format__clean_misses(void **state)
{
	struct kvc_tier_entry entries[40], again;
	struct kvci_disk_header header;

	disk_store_open(store);
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(rig_store(&store->rig, i, 30, &entries[i]), KVC_OK);
	assert_int_equal(rig_flush(&store->rig), KVC_OK);
	disk_store_close(store);
	for (uint32_t segment = 0; segment <= entries[39].place.segment; segment++) {
		disk_store_header(store, segment, &header);
		header.version = 1;
		header.checksum = kvci_checksum(&header, offsetof(struct kvci_disk_header, checksum), 0);
		disk_store_poke(store, segment, 0, &header, sizeof(header));
		disk_store_poke(store, segment, KVCI_DISK_HEADER_COPY_BYTES, &header, sizeof(header));
	}
	disk_store_open(store);
	assert_int_equal(store->rig.index_delivered, 0);
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(rig_load(&store->rig, i, &entries[i]), KVC_MISS);
	assert_int_equal(rig_store(&store->rig, 1, 30, &again), KVC_OK);
	assert_int_equal(rig_load(&store->rig, 1, &again), KVC_OK);
	disk_store_close(store);
	disk_store_open(store);
	assert_int_equal(store->rig.index_delivered, 1);
}

static void test_write__larger_than_a_segment__too_big(void **state)
{
	struct kvc_tier_entry entry;

	disk_store_open(store);
	assert_int_equal(rig_store(&store->rig, 1, 1024, &entry), KVC_TOO_BIG);
	assert_int_equal(rig_store(&store->rig, 1, 1023, &entry), KVC_OK);
	assert_int_equal(rig_load(&store->rig, 1, &entry), KVC_OK);
}

static void test_write__header_that_is_not_the_entrys__refused(void **state)
{
	struct kvc_tier_entry entry, other;
	uint8_t *buffer = rig_buffer(8 * 4096);

	disk_store_open(store);
	rig_record(buffer, 1, 8, &entry);
	other = entry;
	other.space[3] ^= 1; /* what a client would like to be found under */
	assert_int_equal(rig_write(&store->rig, buffer, &other), KVC_CORRUPT);
	other = entry;
	other.record_checksum++;
	assert_int_equal(rig_write(&store->rig, buffer, &other), KVC_CORRUPT);
	buffer[50] ^= 1;
	assert_int_equal(rig_write(&store->rig, buffer, &entry), KVC_CORRUPT);
	memset(buffer, 0xff, 8 * 4096);
	assert_int_equal(rig_write(&store->rig, buffer, &entry), KVC_CORRUPT);
	kvci_free(buffer);
}

/* ---- a disk that is full ---- */

/* A file system of `size` at the store's folder, in a name space of its own. */
static void mount_small(const char *size)
{
	char options[64];

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		_exit(77);
	if (mkdir(store->folder, 0700) != 0)
		_exit(1);
	snprintf(options, sizeof(options), "size=%s", size);
	if (mount("tmpfs", store->folder, "tmpfs", 0, options) != 0)
		_exit(77);
	snprintf(options, sizeof(options), "/d");
	strncat(store->folder, options, sizeof(store->folder) - strlen(store->folder) - 1);
}

#define CHECK(condition)                                                                             \
	do {                                                                                         \
		if (!(condition)) {                                                                  \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);              \
			_exit(1);                                                                    \
		}                                                                                    \
	} while (0)

static void full_at_open_child(void)
{
	struct kvc_tier *tier;
	char *error = NULL;

	mount_small("3m");
	CHECK(disk_store_try(store, &tier, &error) == KVC_DISK_FULL);
	CHECK(error != NULL);
}

static void test_open__no_room_for_a_segment__disk_full(void **state)
{
	in_child("full_at_open");
}

/* The disk holds less than the capacity: fewer segments, and it goes on by reclaiming. */
static void full_on_the_way_child(void)
{
	enum { COUNT = 400, PAGES = 100 };
	struct kvc_tier_entry *entries = kvci_alloc_zero(COUNT, sizeof(*entries));
	unsigned hits = 0, stored = 0, again = 0;

	mount_small("40m");
	store->io = "threads";
	disk_store_open(store);
	for (uint64_t seed = 0; seed < COUNT; seed++) {
		kvc_status_t status = rig_store(&store->rig, seed, PAGES, &entries[seed]);

		CHECK(status == KVC_OK || status == KVC_DISK_FULL);
		stored += status == KVC_OK;
		if (status != KVC_OK)
			entries[seed].place.generation = 0;
	}
	CHECK(stored > COUNT * 9 / 10);
	CHECK(store->rig.lost_count > 0);
	CHECK(store->rig.health_calls == 0); /* no failure: less room */
	for (uint64_t seed = 0; seed < COUNT; seed++) {
		if (entries[seed].place.generation != 0)
			hits += rig_load(&store->rig, seed, &entries[seed]) == KVC_OK;
	}
	CHECK(hits >= 30);
	disk_store_close(store);
	/* And it comes back. */
	disk_store_open(store);
	for (uint64_t seed = 0; seed < COUNT; seed++) {
		const struct kvc_tier_entry *found = rig_find(&store->rig.index, &entries[seed]);

		again += found != NULL && rig_load(&store->rig, seed, found) == KVC_OK;
	}
	CHECK(again + 30 >= hits);
	disk_store_close(store);
}

static void test_write__disk_smaller_than_the_capacity__fewer_segments(void **state)
{
	in_child("full_on_the_way");
}

/* Someone else fills the disk to its last byte; then it is empty again. */
static void filled_by_others_child(void)
{
	struct kvc_tier_entry entries[50];
	char path[600], command[1400];
	unsigned hits = 0;

	mount_small("60m");
	store->io = "threads";
	disk_store_open(store);
	for (uint64_t seed = 0; seed < 20; seed++)
		CHECK(rig_store(&store->rig, seed, 100, &entries[seed]) == KVC_OK);
	snprintf(path, sizeof(path), "%.500s/../filler", store->folder);
	snprintf(command, sizeof(command), "dd if=/dev/zero of='%s' bs=1M 2>/dev/null; dd if=/dev/zero of='%s' bs=512 oflag=append "
	         "conv=notrunc 2>/dev/null; true", path, path);
	CHECK(system(command) == 0);
	for (uint64_t seed = 20; seed < 50; seed++) {
		kvc_status_t status = rig_store(&store->rig, seed, 100, &entries[seed]);

		CHECK(status == KVC_OK || status == KVC_DISK_FULL || status == KVC_IO);
		if (status != KVC_OK)
			entries[seed].place.generation = 0;
	}
	for (uint64_t seed = 0; seed < 20; seed++)
		hits += rig_load(&store->rig, seed, &entries[seed]) == KVC_OK || rig_was_lost(&store->rig, &entries[seed].place);
	CHECK(hits == 20);
	disk_store_close(store);
	/* Restart on the full disk. */
	disk_store_open(store);
	hits = 0;
	for (uint64_t seed = 0; seed < 50; seed++) {
		const struct kvc_tier_entry *found = rig_find(&store->rig.index, &entries[seed]);

		if (found != NULL)
			hits += rig_load(&store->rig, seed, found) == KVC_OK;
	}
	CHECK(hits > 0);
	disk_store_close(store);
	unlink(path);
	disk_store_open(store);
	CHECK(rig_store(&store->rig, 77, 100, &entries[0]) == KVC_OK);
	CHECK(rig_flush(&store->rig) == KVC_OK);
	CHECK(rig_load(&store->rig, 77, &entries[0]) == KVC_OK);
	disk_store_close(store);
}

static void test_write__disk_filled_by_others__goes_on_and_recovers(void **state)
{
	in_child("filled_by_others");
}

static void file_limit_child(void)
{
	struct rlimit limit = {2 << 20, 2 << 20};
	struct kvc_tier *tier;
	char *error = NULL;

	signal(SIGXFSZ, SIG_IGN);
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK(disk_store_try(store, &tier, &error) == KVC_DISK_FULL);
	CHECK(error != NULL);
}

static void test_open__limit_on_file_sizes__disk_full(void **state)
{
	in_child("file_limit");
}

/* ---- kernels and containers that allow less ---- */

static void memlock_child(void)
{
	struct rlimit limit = {64 << 10, 64 << 10};
	uint8_t *slab = rig_buffer(8 << 20);
	struct kvc_tier_entry entry;

	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		_exit(77);
	store->io = "uring";
	{
		struct kvc_tier *tier;
		char *error = NULL;

		if (disk_store_try(store, &tier, &error) == KVC_UNSUPPORTED)
			_exit(77);
		rig_open(&store->rig, tier, true);
	}
	kvci_tier_register_memory(store->rig.tier, slab, 8 << 20);
	for (uint64_t seed = 0; seed < 200; seed++) {
		uint8_t *at = slab + seed % 8 * (1 << 20);

		rig_record(at, seed, 100, &entry);
		CHECK(rig_write(&store->rig, at, &entry) == KVC_OK);
		memset(at, 0, 100 * 4096);
		CHECK(rig_read(&store->rig, at, &entry, 0) == KVC_OK);
		CHECK(rig_record_is(at, seed, 100));
	}
	kvci_tier_unregister_memory(store->rig.tier, slab, 8 << 20);
	disk_store_close(store);
	kvci_free(slab);
}

static void test_register__little_memlock__works_without(void **state)
{
	assert_int_equal(mkdir(store->folder, 0777), 0);
	assert_int_equal(chmod(store->folder, 0777), 0);
	in_child("memlock");
}

/* As the default profiles of Docker and containerd do. */
static void no_uring_child(void)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(steps) / sizeof(steps[0]), steps};
	struct kvc_tier *tier;
	struct kvc_tier_entry entry;
	char *error = NULL;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		_exit(77);
	store->io = "uring";
	CHECK(disk_store_try(store, &tier, &error) == KVC_UNSUPPORTED);
	CHECK(error != NULL && strstr(error, "io_uring") != NULL);
	store->io = "auto";
	disk_store_open(store);
	CHECK(strcmp(kvci_disk_engine(store->rig.tier), "threads") == 0);
	CHECK(rig_store(&store->rig, 1, 8, &entry) == KVC_OK);
	CHECK(rig_load(&store->rig, 1, &entry) == KVC_OK);
	disk_store_close(store);
}

static void test_open__io_uring_forbidden__threads_take_over(void **state)
{
	in_child("no_uring");
}

/* ---- allocations that fail ---- */

static void sweep_log(void *context, enum kvci_log_level level, const char *line)
{
}

static void sweep_index(void *context, const struct kvc_tier_entry *entries, size_t count, bool more)
{
	if (!more)
		*(bool *)context = true;
}
static void sweep_lost(void *context, uint32_t segment, uint32_t generation) {}
static bool sweep_keep(void *context, const struct kvc_tier_entry *entry) { return true; }
static void sweep_moved(void *context, const struct kvc_tier_entry *entry, const struct kvc_place *old_place) {}
static void sweep_health(void *context, kvc_status_t status, const char *text) {}

struct sweep_call {
	struct kvc_tier_request request;
	kvc_status_t status;
	bool done;
};

static void sweep_done(struct kvc_tier_request *request, kvc_status_t status)
{
	struct sweep_call *call = request->context;

	call->status = status;
	call->done = true;
}

static _Alignas(4096) uint8_t sweep_bytes[8 * 4096];
static struct kvc_tier_entry sweep_entry;

static kvc_status_t sweep_call(struct kvc_tier *tier, uint32_t op, struct kvc_tier_entry *entry)
{
	struct sweep_call call = {.request = {.op = op, .entry = *entry, .buffer = sweep_bytes, .done = sweep_done}};
	kvc_status_t status;

	call.request.context = &call;
	for (int tries = 0; (status = kvci_tier_submit(tier, &call.request)) == KVC_BUSY && tries < 200; tries++) {
		usleep(1000);
		kvci_tier_poll(tier, 16);
	}
	if (status != KVC_OK)
		return status == KVC_BUSY ? KVC_NO_MEMORY : status; /* what it waits for was never ordered */
	while (!call.done) {
		usleep(200);
		kvci_tier_poll(tier, 16);
	}
	*entry = call.request.entry;
	return call.status;
}

static kvc_status_t sweep_life(void *context)
{
	struct kvc_tier_option options[] = {{"folder", store->folder}, {"capacity", "64MiB"}, {"segment", "4MiB"},
	                                    {"io", "threads"}, {"queue_depth", "1"}, {NULL, NULL}};
	struct kvc_tier_entry entry = sweep_entry;
	bool complete = false;
	struct kvc_tier_events events = {&complete, sweep_index, sweep_lost, sweep_keep, sweep_moved, sweep_health};
	struct kvc_tier *tier;
	char *error = NULL;
	kvc_status_t status = kvci_tier_open(&kvc_tier_disk_ops, options, &tier, &error);

	kvci_free(error);
	if (status != KVC_OK)
		return status;
	status = kvci_tier_attach(tier, &events);
	while (status == KVC_OK && !complete) {
		usleep(500);
		kvci_tier_poll(tier, 16);
	}
	if (status == KVC_OK)
		status = sweep_call(tier, KVC_TIER_WRITE, &entry);
	if (status == KVC_OK)
		status = sweep_call(tier, KVC_TIER_READ, &entry);
	if (status == KVC_OK)
		status = sweep_call(tier, KVC_TIER_FLUSH, &entry);
	if (status == KVC_OK)
		status = kvci_tier_drop(tier, &entry);
	kvci_tier_close(tier);
	return status;
}

static void test_sweep__any_allocation_fails__no_memory_or_done_without(void **state)
{
	struct sweep_result result;

	kvci_log_set_sink(sweep_log, NULL);
	rig_record(sweep_bytes, 1, 8, &sweep_entry);
	assert_int_equal(sweep_life(NULL), KVC_OK); /* the folder is made */
	result = sweep_run("disk tier", sweep_life, NULL);
	kvci_log_set_sink(NULL, NULL);
	assert_true(result.allocations > 10);
	/* And nothing of it harmed the store. */
	disk_store_open(store);
	assert_int_equal(rig_store(&store->rig, 9, 8, &sweep_entry), KVC_OK);
}

static int child_main(const char *name, const char *folder)
{
	static const struct { const char *name; void (*run)(void); } children[] = {
		{"forbidden", forbidden_child}, {"full_at_open", full_at_open_child}, {"full_on_the_way", full_on_the_way_child},
		{"filled_by_others", filled_by_others_child}, {"file_limit", file_limit_child}, {"memlock", memlock_child},
		{"no_uring", no_uring_child},
	};

	store = kvci_alloc_zero(1, sizeof(*store));
	store->capacity = "64MiB";
	store->segment = "4MiB";
	store->io = "auto";
	snprintf(store->folder, sizeof(store->folder), "%s", folder);
	for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
		if (strcmp(children[i].name, name) == 0) {
			children[i].run();
			_exit(0);
		}
	}
	return 2;
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_open__parent_missing__not_found),
		CASE(test_open__a_file_in_its_place__said),
		CASE(test_open__in_use__names_the_owner),
		CASE(test_open__read_only_folder__denied),
		CASE(test_open__forbidden_folder__denied),
		CASE(test_open__segments_of_someone_else__denied),
		CASE(test_open__wrong_options__name_them),
		CASE(test_open__auto_sizes__fit_the_disk),
		CASE(test_open__no_room_for_a_segment__disk_full),
		CASE(test_open__limit_on_file_sizes__disk_full),
		CASE(test_open__segments_of_an_older_format__clean_misses),
		CASE(test_write__larger_than_a_segment__too_big),
		CASE(test_write__header_that_is_not_the_entrys__refused),
		CASE(test_write__disk_smaller_than_the_capacity__fewer_segments),
		CASE(test_write__disk_filled_by_others__goes_on_and_recovers),
		CASE(test_register__little_memlock__works_without),
		CASE(test_open__io_uring_forbidden__threads_take_over),
		CASE(test_sweep__any_allocation_fails__no_memory_or_done_without),
	};

	if (argc == 4 && strcmp(argv[1], "child") == 0)
		return child_main(argv[2], argv[3]);
	return cmocka_run_group_tests_name("disk open", tests, NULL, NULL);
}
