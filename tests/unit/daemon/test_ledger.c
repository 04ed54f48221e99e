/* SPDX-License-Identifier: Apache-2.0
 * The ledger: what was saved is there after a restart, whatever happens to one of its files; an epoch never goes back. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/ledger_internal.h"

enum { SPACES = 8 };

struct world {
	char folder[64];
	struct kvci_ledger *ledger;
	kvc_status_t saved_status;
	unsigned saved_count;
	/* What open restored. */
	unsigned restored;
	uint64_t epochs[SPACES];
};

static void quiet(void *context, enum kvci_log_level level, const char *line)
{
}

static void run_now(void *context, struct kvci_job *job)
{
	job->run(job);
	job->done(job);
}

static void note_saved(void *context, uint32_t space, uint64_t epoch, kvc_status_t status)
{
	struct world *world = context;

	world->saved_status = status;
	world->saved_count++;
}

static void note_restored(void *context, const struct kvci_space *fields, uint64_t epoch)
{
	struct world *world = context;
	int number;

	world->restored++;
	assert_int_equal(sscanf(fields->model, "model-%d", &number), 1);
	world->epochs[number] = epoch;
}

static kvc_status_t open_status(struct world *world, char **ret_error)
{
	struct kvci_ledger_env env = {.context = world, .run_job = run_now, .saved = note_saved};
	kvc_status_t status = kvci_ledger_open(world->folder, &env, &world->ledger, ret_error);

	world->restored = 0;
	memset(world->epochs, 0, sizeof(world->epochs));
	if (status == KVC_OK)
		assert_int_equal(kvci_ledger_restore(world->ledger, note_restored, world), KVC_OK);
	return status;
}

static void open_ledger(struct world *world)
{
	char *error = NULL;
	kvc_status_t status = open_status(world, &error);

	if (status != KVC_OK)
		fail_msg("open: %s", error);
}

static void close_ledger(struct world *world)
{
	kvci_ledger_close(world->ledger);
	world->ledger = NULL;
}

static void reopen(struct world *world)
{
	close_ledger(world);
	open_ledger(world);
}

static void save(struct world *world, int number, uint64_t epoch)
{
	char model[32];
	struct kvci_space fields = {.tenant = (char *)"t", .model = model, .kv_dtype = (char *)"bfloat16"};

	snprintf(model, sizeof(model), "model-%d", number);
	world->saved_count = 0;
	kvci_ledger_save(world->ledger, (uint32_t)number, &fields, epoch);
	assert_int_equal(world->saved_count, 1);
}

static void save_ok(struct world *world, int number, uint64_t epoch)
{
	save(world, number, epoch);
	assert_int_equal(world->saved_status, KVC_OK);
}

static void path_of(const struct world *world, unsigned which, char path[128])
{
	snprintf(path, 128, "%s/%s", world->folder, ledger_names[which]);
}

static size_t read_file(const struct world *world, unsigned which, char *bytes, size_t room)
{
	char path[128];
	FILE *file;
	size_t length;

	path_of(world, which, path);
	file = fopen(path, "rb");
	assert_non_null(file);
	length = fread(bytes, 1, room, file);
	fclose(file);
	return length;
}

static void write_file(const struct world *world, unsigned which, const char *bytes, size_t length)
{
	char path[128];
	FILE *file;

	path_of(world, which, path);
	file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, length, file), length);
	fclose(file);
}

static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));

	strcpy(world->folder, "ledger-XXXXXX");
	assert_non_null(mkdtemp(world->folder));
	open_ledger(world);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;
	char command[128];

	close_ledger(world);
	snprintf(command, sizeof(command), "rm -rf %s", world->folder);
	assert_int_equal(system(command), 0);
	free(world);
	return 0;
}

/* ---- cases ---- */

static void test_ledger__saved_spaces__are_there_after_a_restart(void **state)
{
	struct world *world = *state;

	save_ok(world, 0, 5);
	save_ok(world, 1, 1);
	save_ok(world, 0, 6);
	reopen(world);
	assert_int_equal(world->restored, 2);
	assert_int_equal(world->epochs[0], 6);
	assert_int_equal(world->epochs[1], 1);
}

static void test_ledger__lower_epoch_saved__never_goes_back(void **state)
{
	struct world *world = *state;

	save_ok(world, 0, 9);
	save_ok(world, 0, 3);
	reopen(world);
	assert_int_equal(world->epochs[0], 9);
}

static void test_ledger__many_saves__file_stays_small(void **state)
{
	struct world *world = *state;
	struct stat stat_now;
	char path[128];

	for (uint64_t epoch = 1; epoch <= 5000; epoch++)
		save_ok(world, (int)(epoch % 3), epoch);
	for (unsigned i = 0; i < LEDGER_FILES; i++) {
		path_of(world, i, path);
		assert_int_equal(stat(path, &stat_now), 0);
		assert_true(stat_now.st_size < 80 << 10);
	}
	reopen(world);
	assert_int_equal(world->restored, 3);
	assert_int_equal(world->epochs[0], 4998);
	assert_int_equal(world->epochs[2], 5000);
}

/* Whatever one file says, cut at any length: the other has all. */
static void test_ledger__one_file_cut_anywhere__nothing_is_lost(void **state)
{
	struct world *world = *state;
	char bytes[8192];
	size_t length;

	for (int i = 0; i < 4; i++)
		save_ok(world, i, 10 + (uint64_t)i);
	for (unsigned which = 0; which < LEDGER_FILES; which++) {
		length = read_file(world, which, bytes, sizeof(bytes));
		for (size_t cut = 0; cut < length; cut += 7) {
			struct kvci_ledger_figures figures;

			close_ledger(world);
			write_file(world, which, bytes, cut);
			open_ledger(world);
			assert_int_equal(world->restored, 4);
			for (int i = 0; i < 4; i++)
				assert_int_equal(world->epochs[i], 10 + i);
			kvci_ledger_figures(world->ledger, &figures);
			assert_int_equal(figures.lost_records, 0);
			assert_int_equal(figures.healed_files, 1);
			/* Healed: both are whole again. */
			reopen(world);
			kvci_ledger_figures(world->ledger, &figures);
			assert_int_equal(figures.healed_files, 0);
		}
	}
}

static void test_ledger__one_file_with_any_bit_flipped__nothing_is_lost(void **state)
{
	struct world *world = *state;
	char bytes[8192];

	for (int i = 0; i < 3; i++)
		save_ok(world, i, 20 + (uint64_t)i);
	for (size_t at = 0;; at += 5) {
		size_t length = read_file(world, at % 2, bytes, sizeof(bytes));
		struct kvci_ledger_figures figures;

		if (at >= length)
			break;
		bytes[at] ^= (char)(1 << (at % 8));
		close_ledger(world);
		write_file(world, at % 2, bytes, length);
		open_ledger(world);
		kvci_ledger_figures(world->ledger, &figures);
		assert_int_equal(figures.lost_records, 0);
		assert_int_equal(world->restored, 3);
		for (int i = 0; i < 3; i++)
			assert_int_equal(world->epochs[i], 20 + i);
	}
}

static void test_ledger__one_file_deleted_or_older__the_twin_counts(void **state)
{
	struct world *world = *state;
	char bytes[8192], path[128];
	size_t length;

	save_ok(world, 0, 1);
	length = read_file(world, 0, bytes, sizeof(bytes));
	save_ok(world, 0, 2);
	close_ledger(world);
	write_file(world, 0, bytes, length); /* older, and whole */
	open_ledger(world);
	assert_int_equal(world->epochs[0], 2);
	save_ok(world, 0, 3);
	close_ledger(world);
	path_of(world, 1, path);
	assert_int_equal(unlink(path), 0);
	open_ledger(world);
	assert_int_equal(world->epochs[0], 3);
}

/* Both files lose the same record: it may have raised any space that has no later record. */
static void test_ledger__same_record_damaged_in_both__older_spaces_are_unknown(void **state)
{
	struct world *world = *state;
	struct kvci_ledger_figures figures;
	char bytes[8192];

	save_ok(world, 0, 2);
	save_ok(world, 1, 1);
	save_ok(world, 0, 7);
	save_ok(world, 3, 1);
	for (unsigned which = 0; which < LEDGER_FILES; which++) {
		size_t length = read_file(world, which, bytes, sizeof(bytes)), at = sizeof(struct ledger_header);
		struct ledger_record *record = NULL;

		while (at < length) {
			record = (struct ledger_record *)(void *)(bytes + at);
			if (record->epoch == 7)
				break;
			at += record->record_bytes;
		}
		assert_non_null(record);
		record->epoch ^= 2;
		write_file(world, which, bytes, length);
	}
	reopen(world);
	kvci_ledger_figures(world->ledger, &figures);
	assert_int_equal(figures.lost_records, 1);
	assert_int_equal(world->epochs[0], 0); /* unknown, not 2 */
	assert_int_equal(world->epochs[1], 0);
	assert_int_equal(world->epochs[3], 1); /* its record is newer than the lost one */
	assert_int_equal(world->restored, 1);
	assert_true(kvci_ledger_first_epoch(world->ledger) > 7);
}

static void test_ledger__last_record_damaged_in_both__all_spaces_are_unknown(void **state)
{
	struct world *world = *state;
	struct kvci_ledger_figures figures;
	char bytes[8192];

	save_ok(world, 0, 1);
	save_ok(world, 1, 1);
	save_ok(world, 0, 2);
	for (unsigned which = 0; which < LEDGER_FILES; which++) {
		size_t length = read_file(world, which, bytes, sizeof(bytes));

		bytes[length - 20] ^= 1;
		write_file(world, which, bytes, length);
	}
	reopen(world);
	kvci_ledger_figures(world->ledger, &figures);
	assert_int_equal(figures.lost_records, 1);
	assert_int_equal(figures.unknown_spaces, 2);
	assert_int_equal(world->restored, 0);
}

static void test_ledger__both_deleted__starts_above_every_old_epoch(void **state)
{
	struct world *world = *state;
	uint64_t first = kvci_ledger_first_epoch(world->ledger);
	char path[128];

	save_ok(world, 0, first);
	for (uint64_t raise = 1; raise <= 5; raise++)
		save_ok(world, 0, first + raise);
	usleep(1000);
	close_ledger(world);
	for (unsigned i = 0; i < LEDGER_FILES; i++) {
		path_of(world, i, path);
		assert_int_equal(unlink(path), 0);
	}
	open_ledger(world);
	assert_int_equal(world->restored, 0);
	assert_true(kvci_ledger_first_epoch(world->ledger) > first + 5);
}

static void test_ledger__other_version__is_refused_and_left_alone(void **state)
{
	struct world *world = *state;
	char before[8192], after[8192], *error = NULL;
	struct ledger_header *header = (struct ledger_header *)(void *)before;
	size_t length;

	save_ok(world, 0, 1);
	close_ledger(world);
	length = read_file(world, 0, before, sizeof(before));
	header->version = LEDGER_VERSION + 1;
	header->checksum = ledger_header_checksum(header);
	write_file(world, 0, before, length);
	assert_int_equal(open_status(world, &error), KVC_VERSION);
	assert_non_null(strstr(error, "version"));
	kvci_free(error);
	assert_int_equal(read_file(world, 0, after, sizeof(after)), length);
	assert_memory_equal(before, after, length);
	header->version = LEDGER_VERSION;
	header->checksum = ledger_header_checksum(header);
	write_file(world, 0, before, length);
	open_ledger(world);
	assert_int_equal(world->epochs[0], 1);
}

/* The file system takes nothing more: the save says so, and what was durable stays so. */
static void test_ledger__writes_fail__save_says_so_and_later_saves_heal(void **state)
{
	struct world *world = *state;
	struct rlimit limit, none = {.rlim_cur = 0};
	struct stat stat_now;
	char path[128];

	save_ok(world, 0, 1);
	path_of(world, 0, path);
	assert_int_equal(stat(path, &stat_now), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	none.rlim_max = limit.rlim_max;
	none.rlim_cur = (rlim_t)stat_now.st_size + 10; /* a torn write, then an error */
	setrlimit(RLIMIT_FSIZE, &none);
	save(world, 0, 2);
	setrlimit(RLIMIT_FSIZE, &limit);
	assert_int_not_equal(world->saved_status, KVC_OK);
	reopen(world);
	assert_true(world->epochs[0] == 1 || world->epochs[0] == 2);
	save_ok(world, 0, 3);
	reopen(world);
	assert_int_equal(world->epochs[0], 3);
	signal(SIGXFSZ, SIG_DFL);
}

static void test_ledger__folder_missing__says_which(void **state)
{
	struct world other = {.folder = "no-such-folder"};
	char *error = NULL;

	assert_int_not_equal(open_status(&other, &error), KVC_OK);
	assert_non_null(strstr(error, "no-such-folder"));
	kvci_free(error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		CASE(test_ledger__saved_spaces__are_there_after_a_restart),
		CASE(test_ledger__lower_epoch_saved__never_goes_back),
		CASE(test_ledger__many_saves__file_stays_small),
		CASE(test_ledger__one_file_cut_anywhere__nothing_is_lost),
		CASE(test_ledger__one_file_with_any_bit_flipped__nothing_is_lost),
		CASE(test_ledger__one_file_deleted_or_older__the_twin_counts),
		CASE(test_ledger__same_record_damaged_in_both__older_spaces_are_unknown),
		CASE(test_ledger__last_record_damaged_in_both__all_spaces_are_unknown),
		CASE(test_ledger__both_deleted__starts_above_every_old_epoch),
		CASE(test_ledger__other_version__is_refused_and_left_alone),
		CASE(test_ledger__writes_fail__save_says_so_and_later_saves_heal),
		cmocka_unit_test(test_ledger__folder_missing__says_which),
	};

	kvci_log_set_sink(quiet, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
