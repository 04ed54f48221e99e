/* SPDX-License-Identifier: Apache-2.0
 * The disk tier's engines by themselves: writes in two parts, from memory that the kernel has registered and from memory that it has not; short ones
 * and failing ones complete once. And the queue before them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/support/random.h"
#include "tiers/disk/disk_io.h"

enum { DEPTH = 4, HEAD_BYTES = 4096, BODY_BYTES = 1 << 20, BODIES = 4, OFFSET_BYTES = 8192 };

struct transfer {
	struct kvci_disk_task task; /* first */
	sem_t over;
	unsigned completions;
};

struct rig {
	struct kvci_disk_io *io;
	uint8_t *head, *bodies;
	int fd;
};

static bool uring_wanted;

static int setup(void **state)
{
	struct rig *rig = test_calloc(1, sizeof(*rig));
	kvc_status_t status = uring_wanted ? kvci_disk_io_uring_create(DEPTH, KVCI_DISK_REGISTER_AUTO, &rig->io)
	                                   : kvci_disk_io_threads_create(DEPTH, &rig->io);

	assert_int_equal(status, KVC_OK);
	rig->head = kvci_alloc_aligned(4096, HEAD_BYTES);
	rig->bodies = mmap(NULL, BODIES * BODY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_non_null(rig->head);
	assert_ptr_not_equal(rig->bodies, MAP_FAILED);
	rig->fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(rig->fd >= 0);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	rig->io->ops->destroy(rig->io);
	munmap(rig->bodies, BODIES * BODY_BYTES);
	kvci_free(rig->head);
	close(rig->fd);
	test_free(rig);
	return 0;
}

static void transfer_over(struct kvci_disk_task *task)
{
	struct transfer *transfer = (struct transfer *)task;

	transfer->completions++;
	sem_post(&transfer->over);
}

static void transfer_begin(struct rig *rig, struct transfer *transfer, int fd, unsigned body, uint8_t value)
{
	memset(rig->head, value, HEAD_BYTES);
	memset(rig->bodies + body * BODY_BYTES, value + 1, BODY_BYTES);
	*transfer = (struct transfer){
		.task = {
			.fd = fd, .write = true, .offset_bytes = OFFSET_BYTES, .left_bytes = HEAD_BYTES + BODY_BYTES, .part_count = 2,
			.parts = { { rig->head, HEAD_BYTES }, { rig->bodies + body * BODY_BYTES, BODY_BYTES } },
			.complete = transfer_over, .region = -1,
		},
	};
	assert_int_equal(sem_init(&transfer->over, 0, 0), 0);
	rig->io->ops->submit(rig->io, &transfer->task);
}

static void transfer_end(struct transfer *transfer)
{
	while (sem_wait(&transfer->over) != 0)
		assert_int_equal(errno, EINTR);
	sem_destroy(&transfer->over);
}

static void rig_check_file(const struct rig *rig, uint8_t value)
{
	uint8_t *file = mmap(NULL, OFFSET_BYTES + HEAD_BYTES + BODY_BYTES, PROT_READ, MAP_SHARED, rig->fd, 0);

	assert_ptr_not_equal(file, MAP_FAILED);
	for (size_t i = 0; i < HEAD_BYTES + BODY_BYTES; i++)
		if (file[OFFSET_BYTES + i] != (uint8_t)(i < HEAD_BYTES ? value : value + 1))
			fail_msg("byte %zu is %u", i, file[OFFSET_BYTES + i]);
	munmap(file, OFFSET_BYTES + HEAD_BYTES + BODY_BYTES);
}

/* Registers the bodies and writes until the kernel has taken them. False: this engine or this kernel takes none. */
static bool rig_registered(struct rig *rig)
{
	struct transfer transfer;
	kvc_status_t status = rig->io->ops->register_memory(rig->io, rig->bodies, BODIES * BODY_BYTES);

	if (status == KVC_UNSUPPORTED)
		return false;
	assert_int_equal(status, KVC_OK);
	for (unsigned i = 0; i < 2000; i++) {
		transfer_begin(rig, &transfer, rig->fd, i % BODIES, (uint8_t)i);
		transfer_end(&transfer);
		assert_int_equal(transfer.task.error, 0);
		rig_check_file(rig, (uint8_t)i);
		if (transfer.task.region >= 0)
			return true;
		usleep(1000);
	}
	print_message("memory was not registered here\n");
	return false;
}

static void test_disk_io__written_in_two_parts__all_bytes_there(void **state)
{
	struct rig *rig = *state;
	struct transfer transfer;

	transfer_begin(rig, &transfer, rig->fd, 0, 7);
	transfer_end(&transfer);
	assert_int_equal(transfer.task.error, 0);
	rig_check_file(rig, 7);
	rig_registered(rig);
	for (unsigned i = 0; i < 20; i++) {
		transfer_begin(rig, &transfer, rig->fd, i % BODIES, (uint8_t)(100 + i));
		transfer_end(&transfer);
		assert_int_equal(transfer.task.error, 0);
		assert_int_equal(transfer.completions, 1);
		rig_check_file(rig, (uint8_t)(100 + i));
	}
	rig->io->ops->unregister_memory(rig->io, rig->bodies, BODIES * BODY_BYTES);
	transfer_begin(rig, &transfer, rig->fd, 1, 50);
	transfer_end(&transfer);
	assert_int_equal(transfer.task.error, 0);
	rig_check_file(rig, 50);
}

static void test_disk_io__file_not_writable__one_error(void **state)
{
	struct rig *rig = *state;
	struct transfer transfer;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", rig->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	rig_registered(rig);
	transfer_begin(rig, &transfer, fd, 0, 1);
	transfer_end(&transfer);
	assert_int_equal(transfer.task.error, EBADF);
	rig->io->ops->destroy(rig->io); /* nothing is left that could complete again */
	assert_int_equal(transfer.completions, 1);
	assert_int_equal(kvci_disk_io_threads_create(DEPTH, &rig->io), KVC_OK); /* for teardown */
	close(fd);
}

static void test_disk_io__no_room_for_all__error_after_what_fits(void **state)
{
	enum { LIMIT_BYTES = OFFSET_BYTES + HEAD_BYTES + BODY_BYTES / 2 };
	struct rig *rig = *state;
	struct transfer transfer;
	struct rlimit before, limit;
	uint8_t byte = 0;

	rig_registered(rig);
	assert_int_equal(ftruncate(rig->fd, 0), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = (struct rlimit){ LIMIT_BYTES, before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	transfer_begin(rig, &transfer, rig->fd, 2, 30);
	transfer_end(&transfer);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(transfer.task.error, EFBIG);
	assert_int_equal(transfer.completions, 1);
	assert_int_equal(lseek(rig->fd, 0, SEEK_END), LIMIT_BYTES);
	assert_int_equal(pread(rig->fd, &byte, 1, LIMIT_BYTES - 1), 1);
	assert_int_equal(byte, 31);
}

static void test_disk_io__destroyed_with_writes_under_way__each_completes_once(void **state)
{
	enum { COUNT = 3 * DEPTH };
	struct rig *rig = *state;
	struct transfer transfers[COUNT];

	rig_registered(rig);
	for (unsigned i = 0; i < COUNT; i++)
		transfer_begin(rig, &transfers[i], rig->fd, i % BODIES, 9);
	rig->io->ops->destroy(rig->io);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(transfers[i].completions, 1);
		assert_true(transfers[i].task.error == 0 || transfers[i].task.error == ECANCELED);
		sem_destroy(&transfers[i].over);
	}
	assert_int_equal(kvci_disk_io_threads_create(DEPTH, &rig->io), KVC_OK); /* for teardown */
}

/* Bursts of reads and writes, small ones: none is forgotten, whoever was asleep. */
static void test_disk_io__bursts__all_complete(void **state)
{
	enum { ROUNDS = 300, BURST_MAX = 5 * DEPTH };
	struct rig *rig = *state;
	struct transfer transfers[BURST_MAX];

	assert_int_equal(ftruncate(rig->fd, BURST_MAX * HEAD_BYTES), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned count = 1 + (unsigned)(random_next() % BURST_MAX);

		for (unsigned i = 0; i < count; i++) {
			transfers[i] = (struct transfer){
				.task = {
					.fd = rig->fd, .write = random_next() % 3 != 0, .offset_bytes = i * HEAD_BYTES, .left_bytes = HEAD_BYTES,
					.part_count = 1, .parts = { { rig->bodies + i * HEAD_BYTES, HEAD_BYTES } }, .complete = transfer_over, .region = -1,
				},
			};
			assert_int_equal(sem_init(&transfers[i].over, 0, 0), 0);
			rig->io->ops->submit(rig->io, &transfers[i].task);
		}
		for (unsigned i = 0; i < count; i++) {
			transfer_end(&transfers[i]);
			assert_int_equal(transfers[i].task.error, 0);
			assert_int_equal(transfers[i].completions, 1);
		}
	}
}

struct held_read {
	struct transfer transfer; /* first */
	sem_t *arrived, *gate;
};

static void held_read_over(struct kvci_disk_task *task)
{
	struct held_read *read = (struct held_read *)task;

	sem_post(read->arrived);
	while (sem_wait(read->gate) != 0)
		continue;
	transfer_over(task);
}

/* Threads check what they read: meanwhile others take what waits, as many as there are to spare. */
static void test_disk_io__reads_end_slowly__the_next_ones_start(void **state)
{
	enum { HELD = DEPTH + 2 };
	struct rig *rig = *state;
	struct held_read reads[HELD];
	sem_t arrived, gate;

	if (uring_wanted)
		skip(); /* its one thread must not be held up */
	assert_int_equal(ftruncate(rig->fd, HELD * HEAD_BYTES), 0);
	sem_init(&arrived, 0, 0);
	sem_init(&gate, 0, 0);
	for (unsigned i = 0; i < HELD; i++) {
		reads[i] = (struct held_read){
			.transfer.task = {
				.fd = rig->fd, .offset_bytes = i * HEAD_BYTES, .left_bytes = HEAD_BYTES, .part_count = 1,
				.parts = { { rig->bodies + i * HEAD_BYTES, HEAD_BYTES } }, .complete = held_read_over, .region = -1,
			},
			.arrived = &arrived, .gate = &gate,
		};
		assert_int_equal(sem_init(&reads[i].transfer.over, 0, 0), 0);
		rig->io->ops->submit(rig->io, &reads[i].transfer.task);
	}
	for (unsigned i = 0; i < HELD; i++) /* all of them have been read */
		while (sem_wait(&arrived) != 0)
			continue;
	for (unsigned i = 0; i < HELD; i++)
		sem_post(&gate);
	for (unsigned i = 0; i < HELD; i++) {
		transfer_end(&reads[i].transfer);
		assert_int_equal(reads[i].transfer.task.error, 0);
	}
	sem_destroy(&arrived);
	sem_destroy(&gate);
}

/* ---- the queue ---- */

enum { QUEUE_DEPTH = 16, QUEUE_WRITES = 12, QUEUE_GROUP = 4 }; /* of 16, 12 may be writes; a third of them starts together */

static unsigned queue_take_all(struct kvci_disk_queue *queue)
{
	unsigned count = 0;

	while (kvci_disk_queue_ready(queue)) {
		assert_non_null(kvci_disk_queue_take(queue));
		count++;
	}
	assert_null(kvci_disk_queue_take(queue));
	return count;
}

static void queue_of_writes(struct kvci_disk_queue *queue, uint32_t depth, bool grouped, struct kvci_disk_task *writes, unsigned count)
{
	kvci_disk_queue_init(queue, depth, grouped);
	for (unsigned i = 0; i < count; i++) {
		writes[i].write = true;
		kvci_disk_queue_push(queue, &writes[i]);
	}
}

static void test_disk_queue__writes_end_one_by_one__start_in_groups(void **state)
{
	struct kvci_disk_task writes[32] = {0}, reads[2] = {0};
	struct kvci_disk_queue queue;

	queue_of_writes(&queue, QUEUE_DEPTH, true, writes, 32);
	assert_int_equal(queue_take_all(&queue), QUEUE_WRITES);
	for (unsigned i = 1; i < QUEUE_GROUP; i++) {
		kvci_disk_queue_finish(&queue, &writes[0]);
		assert_int_equal(queue_take_all(&queue), 0);
	}
	kvci_disk_queue_push(&queue, &reads[0]); /* reads wait for nothing */
	assert_ptr_equal(kvci_disk_queue_take(&queue), &reads[0]);
	kvci_disk_queue_finish(&queue, &writes[0]);
	assert_int_equal(queue_take_all(&queue), QUEUE_GROUP);
	kvci_disk_queue_fini(&queue);
}

static void test_disk_queue__not_grouped__each_end_starts_one(void **state)
{
	struct kvci_disk_task writes[32] = {0};
	struct kvci_disk_queue queue;

	queue_of_writes(&queue, QUEUE_DEPTH, false, writes, 32);
	assert_int_equal(queue_take_all(&queue), QUEUE_WRITES);
	for (unsigned i = 0; i < 4; i++) {
		kvci_disk_queue_finish(&queue, &writes[0]);
		assert_int_equal(queue_take_all(&queue), 1);
	}
	kvci_disk_queue_fini(&queue);
}

/* With any depth something may start again before all has ended, or right when it has. */
static void test_disk_queue__any_depth__never_stands_still(void **state)
{
	for (uint32_t depth = 1; depth <= 64; depth++) {
		struct kvci_disk_task writes[256] = {0};
		struct kvci_disk_queue queue;
		unsigned active, taken;

		queue_of_writes(&queue, depth, true, writes, 256);
		for (active = taken = queue_take_all(&queue); active != 0; active--) {
			unsigned more;

			kvci_disk_queue_finish(&queue, &writes[0]);
			more = queue_take_all(&queue);
			active += more;
			taken += more;
		}
		assert_int_equal(taken, 256);
		kvci_disk_queue_fini(&queue);
	}
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_disk_io__written_in_two_parts__all_bytes_there),
		CASE(test_disk_io__file_not_writable__one_error),
		CASE(test_disk_io__no_room_for_all__error_after_what_fits),
		CASE(test_disk_io__destroyed_with_writes_under_way__each_completes_once),
		CASE(test_disk_io__bursts__all_complete),
		CASE(test_disk_io__reads_end_slowly__the_next_ones_start),
	};
	const struct CMUnitTest queue_tests[] = {
		cmocka_unit_test(test_disk_queue__writes_end_one_by_one__start_in_groups),
		cmocka_unit_test(test_disk_queue__not_grouped__each_end_starts_one),
		cmocka_unit_test(test_disk_queue__any_depth__never_stands_still),
	};
	struct kvci_disk_io *io;
	int failed;

	(void)argc;
	(void)argv;
	signal(SIGXFSZ, SIG_IGN);
	failed = cmocka_run_group_tests_name("queue", queue_tests, NULL, NULL);
	failed += cmocka_run_group_tests_name("threads", tests, NULL, NULL);
	if (kvci_disk_io_uring_create(DEPTH, KVCI_DISK_REGISTER_AUTO, &io) != KVC_OK) {
		print_message("no io_uring here\n");
		return failed;
	}
	io->ops->destroy(io);
	uring_wanted = true;
	return failed + cmocka_run_group_tests_name("uring", tests, NULL, NULL);
}
