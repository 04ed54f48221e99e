/* SPDX-License-Identifier: Apache-2.0
 *
 * SIGKILL in the middle of writing, many times over one store: a child writes, flushes, drops and reclaims, and tells its parent by a pipe
 * what it was promised; the parent kills it at a random moment, opens the store itself and looks.
 *
 *   no wrong byte                                  (rig_load)
 *   all that a flush covered is still a hit, unless its segment was reclaimed
 *   all that was dropped before a flush is gone
 *
 *     test_disk_kill [auto|uring|threads [ROUNDS]]     auto and 20 by default
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "tests/unit/tiers/disk_rig.h"

enum { SEEDS_MAX = 400000, PAGES_MAX = 60, CHILD_DEPTH = 6 };

enum message_kind { MESSAGE_STORED = 1, MESSAGE_DROPPED, MESSAGE_FLUSHED, MESSAGE_LOST, MESSAGE_MOVED, MESSAGE_FLUSHING };

struct message {
	uint32_t kind;
	uint64_t seed;
	struct kvc_place place;
};

/* What the parent knows of a seed. */
struct known {
	struct kvc_place place;
	bool stored, flushing, flushed, dropped, drop_flushing, drop_flushed;
	bool drop_open; /* dropped right before a death: it may have happened or not */
};

static struct known *known;
static uint64_t seeds_end;
static unsigned rounds = 20;
static const char *io = "auto";

static uint32_t pages_of(uint64_t seed)
{
	return (uint32_t)(seed * 7 % PAGES_MAX) + 1;
}

static void tell(int fd, enum message_kind kind, uint64_t seed, const struct kvc_place *place)
{
	struct message message = {.kind = kind, .seed = seed};

	if (place != NULL)
		message.place = *place;
	if (write(fd, &message, sizeof(message)) != (ssize_t)sizeof(message))
		_exit(3);
}

/* The child's requests: several under way, so that they end in another order than they began. */
struct child {
	struct disk_store *store;
	int fd;
	struct child_write {
		struct kvc_tier_request request;
		struct child *child;
		uint64_t seed;
		bool busy;
	} writes[CHILD_DEPTH];
	struct kvc_tier_entry last; /* the newest that is stored */
};

static void child_written(struct kvc_tier_request *request, kvc_status_t status)
{
	struct child_write *write = request->context;

	write->busy = false;
	if (status != KVC_OK)
		return;
	tell(write->child->fd, MESSAGE_STORED, write->seed, &request->entry.place);
	write->child->last = request->entry;
}

static bool child_write(struct child *child, struct child_write *write, uint64_t seed)
{
	if (write->request.buffer == NULL)
		write->request.buffer = rig_buffer((uint64_t)PAGES_MAX * 4096);
	write->child = child;
	write->seed = seed;
	write->request.op = KVC_TIER_WRITE;
	write->request.done = child_written;
	write->request.context = write;
	rig_record(write->request.buffer, seed, pages_of(seed), &write->request.entry);
	write->busy = kvci_tier_submit(child->store->rig.tier, &write->request) == KVC_OK;
	return write->busy;
}

/* What the tier told since. */
static void child_events(struct child *child, size_t *lost, size_t *moved)
{
	struct rig *rig = &child->store->rig;

	for (; *lost < rig->lost_count; ++*lost) {
		struct kvc_place place = {rig->lost[*lost].segment, rig->lost[*lost].generation, 0, 0};

		tell(child->fd, MESSAGE_LOST, 0, &place);
	}
	for (; *moved < rig->moved.count; ++*moved)
		tell(child->fd, MESSAGE_MOVED, rig->moved.entries[*moved].position_tokens / 16, &rig->moved.entries[*moved].place);
}

/* The child: works until it is killed. */
static void work(struct disk_store *store, int fd, uint64_t seed)
{
	static struct child child;
	struct kvc_tier *tier;
	char *error = NULL;
	size_t lost = 0, moved = 0;

	if (disk_store_try(store, &tier, &error) != KVC_OK) {
		fprintf(stderr, "child: %s\n", error);
		_exit(2);
	}
	rig_open(&store->rig, tier, true);
	store->rig.keep_percent = 30;
	child.store = store;
	child.fd = fd;
	for (unsigned step = 0;; step++) {
		for (int i = 0; i < CHILD_DEPTH; i++) {
			if (!child.writes[i].busy && seed < SEEDS_MAX && child_write(&child, &child.writes[i], seed))
				seed++;
		}
		rig_poll(&store->rig, 10);
		child_events(&child, &lost, &moved);
		if (step % 11 == 10 && child.last.place.generation != 0) {
			/* Told first: a death in between leaves it open whether it was done. */
			tell(fd, MESSAGE_DROPPED, child.last.position_tokens / 16, &child.last.place);
			kvci_tier_drop(tier, &child.last);
			child.last.place.generation = 0;
		}
		if (step % 16 == 15) {
			tell(fd, MESSAGE_FLUSHING, 0, NULL);
			if (rig_flush(&store->rig) == KVC_OK)
				tell(fd, MESSAGE_FLUSHED, 0, NULL);
			child_events(&child, &lost, &moved);
		}
	}
}

static void learn(const struct message *message)
{
	switch (message->kind) {
	case MESSAGE_STORED:
	case MESSAGE_MOVED:
		known[message->seed].place = message->place;
		known[message->seed].stored = true;
		known[message->seed].flushing = known[message->seed].flushed = false;
		if (message->kind == MESSAGE_STORED && message->seed >= seeds_end)
			seeds_end = message->seed + 1;
		break;
	case MESSAGE_DROPPED:
		known[message->seed].dropped = true;
		break;
	case MESSAGE_FLUSHING: /* what was done by now is what the flush covers */
		for (uint64_t seed = 0; seed < seeds_end; seed++) {
			known[seed].flushing = known[seed].stored;
			known[seed].drop_flushing = known[seed].dropped && !known[seed].drop_open;
		}
		break;
	case MESSAGE_FLUSHED:
		for (uint64_t seed = 0; seed < seeds_end; seed++) {
			known[seed].flushed |= known[seed].flushing;
			known[seed].drop_flushed |= known[seed].drop_flushing;
		}
		break;
	case MESSAGE_LOST:
		for (uint64_t seed = 0; seed < seeds_end; seed++) {
			if (known[seed].place.segment == message->place.segment &&
			    known[seed].place.generation == message->place.generation)
				known[seed].stored = known[seed].flushing = known[seed].flushed = false;
		}
		break;
	}
}

/* A new process with a new program: RocksDB's threads do not live through a fork. */
static void become_child(const struct disk_store *store, int fd)
{
	char seed[32], number[16];

	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)seeds_end + 1);
	snprintf(number, sizeof(number), "%d", fd);
	execl("/proc/self/exe", "test_disk_kill", "child", io, store->folder, seed, number, (char *)NULL);
	_exit(4);
}

static int child_main(char **argv)
{
	struct disk_store *store = kvci_alloc_zero(1, sizeof(*store));

	kvci_log_set_level(KVCI_LOG_ERROR);
	store->capacity = "96MiB";
	store->segment = "4MiB";
	store->io = argv[2];
	snprintf(store->folder, sizeof(store->folder), "%s", argv[3]);
	work(store, atoi(argv[5]), strtoull(argv[4], NULL, 10));
	return 5;
}

/* One life of the child. */
static void live_and_die(struct disk_store *store, unsigned delay_us)
{
	struct message message;
	int ends[2];
	int status;
	pid_t child;

	assert_int_equal(pipe(ends), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		close(ends[0]);
		become_child(store, ends[1]);
	}
	close(ends[1]);
	/* It has to have begun: the first word, then the random time. */
	if (read(ends[0], &message, sizeof(message)) == (ssize_t)sizeof(message)) {
		learn(&message);
		usleep(delay_us);
	}
	kill(child, SIGKILL);
	while (read(ends[0], &message, sizeof(message)) == (ssize_t)sizeof(message))
		learn(&message);
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	for (uint64_t seed = 0; seed < seeds_end; seed++) {
		known[seed].flushing = known[seed].drop_flushing = false;
		known[seed].drop_open |= known[seed].dropped && !known[seed].drop_flushed;
	}
	/* What it was storing when it died is anybody's guess: those seeds are not used again. */
	seeds_end += CHILD_DEPTH;
}

struct tally {
	uint64_t promised, missing, completed, forgotten, indexed, torn;
};

static void look(struct disk_store *store, struct tally *tally)
{
	struct rig *rig = &store->rig;
	bool *found = kvci_alloc_zero(SEEDS_MAX, sizeof(found[0]));

	disk_store_open(store);
	/* New records must not come to lie on what the kill left unindexed. */
	for (int i = 0; i < 3; i++, seeds_end++) {
		struct message message = {.kind = MESSAGE_STORED, .seed = seeds_end};
		struct kvc_tier_entry entry;

		assert_int_equal(rig_store(rig, message.seed, pages_of(message.seed), &entry), KVC_OK);
		message.place = entry.place;
		learn(&message);
		assert_int_equal(rig_load(rig, message.seed, &entry), KVC_OK);
		found[message.seed] = true;
	}
	for (size_t i = 0; i < rig->index.count; i++) {
		const struct kvc_tier_entry *entry = &rig->index.entries[i];
		uint64_t seed = entry->position_tokens / 16;
		kvc_status_t status = rig_load(rig, seed, entry);

		tally->indexed++;
		/* Reclaim begins at once where segments are short. */
		if (status != KVC_OK && !rig_was_lost(rig, &entry->place)) {
			if (known[seed].stored && !known[seed].dropped && memcmp(&known[seed].place, &entry->place, sizeof(entry->place)) == 0)
				fail_msg("seed %llu was stored and is %s", (unsigned long long)seed, kvc_status_name(status));
			tally->torn += !known[seed].dropped;
		}
		if (known[seed].drop_flushed)
			fail_msg("seed %llu was dropped, flushed, and is back", (unsigned long long)seed);
		found[seed] = true;
	}
	for (uint64_t seed = 0; seed < seeds_end; seed++) {
		struct kvci_disk_header header;

		if (!known[seed].stored || known[seed].dropped)
			continue;
		/* More than is promised: a kill alone loses nothing that completed. */
		tally->completed++;
		tally->promised += known[seed].flushed;
		if (found[seed])
			continue;
		/* The last word of a reclaim may have died with the child. */
		disk_store_header(store, known[seed].place.segment, &header);
		if (header.generation != known[seed].place.generation)
			known[seed].stored = known[seed].flushing = known[seed].flushed = false;
		else if (known[seed].flushed)
			tally->missing++;
		else
			tally->forgotten++;
	}
	/* What this opening itself reclaimed. */
	for (size_t i = 0; i < rig->lost_count; i++) {
		struct message message = {.kind = MESSAGE_LOST, .place = {rig->lost[i].segment, rig->lost[i].generation, 0, 0}};

		learn(&message);
	}
	disk_store_close(store);
	kvci_free(found);
}

static void test_disk__killed_at_random__flushed_is_there_and_nothing_is_wrong(void **state)
{
	struct disk_store *store = kvci_alloc_zero(1, sizeof(*store));
	struct tally tally = {0};

	known = kvci_alloc_zero(SEEDS_MAX, sizeof(*known));
	seeds_end = 0;
	disk_store_init(store, io, "96MiB", "4MiB");
	store->io = io;
	srand(4711);
	for (unsigned round = 0; round < rounds; round++) {
		live_and_die(store, (unsigned)rand() % (round % 4 == 0 ? 5000 : 250000));
		look(store, &tally);
	}
	printf("%s: %u kills, %llu seeds, %llu times looked at what was flushed: %llu missing (of %llu completed: %llu); "
	       "%llu of %llu indexed did not load\n", io, rounds, (unsigned long long)seeds_end,
	       (unsigned long long)tally.promised, (unsigned long long)tally.missing, (unsigned long long)tally.completed,
	       (unsigned long long)tally.forgotten, (unsigned long long)tally.torn, (unsigned long long)tally.indexed);
	assert_true(tally.promised > rounds);
	assert_int_equal(tally.missing, 0);
	assert_int_equal(tally.forgotten, 0);
	disk_store_fini(store);
	kvci_free(store);
	kvci_free(known);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk__killed_at_random__flushed_is_there_and_nothing_is_wrong),
	};

	if (argc == 6 && strcmp(argv[1], "child") == 0)
		return child_main(argv);
	if (argc > 1)
		io = argv[1];
	if (argc > 2)
		rounds = (unsigned)atoi(argv[2]);
	kvci_log_set_level(KVCI_LOG_WARN);
	return cmocka_run_group_tests_name("disk kill", tests, NULL, NULL);
}
