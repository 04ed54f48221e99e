/* SPDX-License-Identifier: Apache-2.0
 * The client against a daemon that is silent, dies, or is not sane: no call waits beyond its time, no wrong byte, no crash, and when the daemon
 * is well again, so is the client. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "world.h"

static struct world world;

static void assert_between(uint64_t ns, uint64_t low_ms, uint64_t high_ms)
{
	if (ns < low_ms * FIXTURE_MS || ns > high_ms * FIXTURE_MS)
		fail_msg("took %llu ms", (unsigned long long)(ns / FIXTURE_MS));
}

static kvc_status_t match_all(uint64_t timeout_ns)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_match_result result;

	return kvc_match(fixture->space, fixture->hashes, fixture->count, NULL, 0, timeout_ns, &result);
}

static void sleep_ms(uint64_t ms)
{
	struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&pause, NULL);
}

/* Stores all, and takes a lease on all. */
static void store_and_lease(const char *id)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request(id);
	struct kvc_match_result result;

	assert_int_equal(kvc_store(fixture->space, fixture->keys, fixture->count, fixture->pages, 20 * FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, fixture->count, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
	                           &result),
	                 KVC_OK);
	assert_int_equal(result.matched_blocks, fixture->count);
}

static kvc_status_t load_all(const char *id, uint64_t timeout_ns, kvc_status_t *statuses)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request(id);

	return kvc_load(fixture->space, &request, 0, fixture->count, fixture->pages_back, timeout_ns, statuses);
}

/* Calls work again within the first pause of the circuit. */
static void expect_recovery(void)
{
	uint64_t begin_ns = kvci_clock_ns();
	kvc_status_t status;

	while ((status = match_all(FIXTURE_SECOND)) != KVC_OK && kvci_clock_ns() - begin_ns < 8 * FIXTURE_SECOND) {
		assert_int_equal(kvc_status_class(status), KVC_CLASS_DEGRADE);
		sleep_ms(20);
	}
	assert_int_equal(status, KVC_OK);
}

/* ---- silence ---- */

static bool script_silence(struct fake_server *server, const struct kvci_message *message)
{
	return true;
}

static void test_hostile__silent_daemon__calls_keep_their_time_and_the_circuit_opens(void **state)
{
	struct fixture *fixture = &world.fixture;
	uint64_t begin_ns;
	char *json;

	world_begin(&world, 0, 4);
	assert_int_equal(match_all(FIXTURE_SECOND), KVC_OK);
	fake_set_script(&world.server, script_silence, NULL);
	begin_ns = kvci_clock_ns();
	assert_int_equal(match_all(50 * FIXTURE_MS), KVC_TIMED_OUT);
	assert_between(kvci_clock_ns() - begin_ns, 50, 300);
	/* The next ones do not wait at all. */
	begin_ns = kvci_clock_ns();
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(match_all(FIXTURE_SECOND), KVC_CIRCUIT_OPEN);
	assert_between(kvci_clock_ns() - begin_ns, 0, 100);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 1, fixture->pages, FIXTURE_SECOND, NULL), KVC_CIRCUIT_OPEN);
	assert_int_equal(kvc_health(fixture->client), KVC_CIRCUIT_OPEN);
	assert_int_equal(kvc_client_stats(fixture->client, &json), KVC_OK);
	assert_non_null(strstr(json, "\"circuit\":\"silent\""));
	kvc_free(json);
	world_end(&world);
}

static struct kvci_message held[64];
static _Atomic uint32_t held_count;

static bool script_hold(struct fake_server *server, const struct kvci_message *message)
{
	if (held_count < 64)
		held[held_count++] = *message;
	return true;
}

static void serve_held(void)
{
	pthread_mutex_lock(&world.server.lock);
	world.server.script = NULL;
	for (uint32_t i = 0; i < held_count; i++)
		fake_serve(&world.server, &held[i]);
	held_count = 0;
	pthread_mutex_unlock(&world.server.lock);
}

static void test_hostile__daemon_stops_and_goes_on__late_answers_close_the_circuit(void **state)
{
	uint64_t begin_ns;
	kvc_status_t status;

	world_begin(&world, 0, 4);
	fake_set_script(&world.server, script_hold, NULL);
	assert_int_equal(match_all(50 * FIXTURE_MS), KVC_TIMED_OUT);
	assert_int_equal(match_all(50 * FIXTURE_MS), KVC_CIRCUIT_OPEN);
	serve_held();
	begin_ns = kvci_clock_ns();
	while ((status = match_all(FIXTURE_SECOND)) == KVC_CIRCUIT_OPEN && kvci_clock_ns() - begin_ns < FIXTURE_SECOND)
		sleep_ms(1);
	assert_int_equal(status, KVC_OK);
	world_end(&world);
}

static void test_hostile__slow_answers_within_time__open_nothing(void **state)
{
	world_begin(&world, 0, 4);
	for (unsigned i = 0; i < 5; i++) {
		struct kvc_match_result result;
		struct kvc_op *op;

		fake_set_script(&world.server, script_hold, NULL);
		assert_int_equal(kvc_match_begin(world.fixture.space, world.fixture.hashes, 4, NULL, 0, &op), KVC_OK);
		assert_int_equal(kvc_op_wait(op, 40 * FIXTURE_MS), KVC_PENDING);
		serve_held();
		assert_int_equal(kvc_op_wait(op, FIXTURE_SECOND), KVC_OK);
		assert_int_equal(kvc_op_match_result(op, &result), KVC_OK);
		kvc_op_destroy(op);
		assert_int_equal(match_all(FIXTURE_SECOND), KVC_OK);
	}
	world_end(&world);
}

static void test_hostile__many_matches_without_answer__are_busy_not_blocking(void **state)
{
	static uint8_t hashes[60000][KVC_HASH_BYTES];
	struct kvc_op *ops[20];
	kvc_status_t status = KVC_OK;
	unsigned count = 0;

	world_begin(&world, 0, 4);
	fake_set_script(&world.server, script_hold, NULL);
	while (count < 20 && (status = kvc_match_begin(world.fixture.space, (const uint8_t(*)[32])hashes, 60000, NULL, 0, &ops[count])) == KVC_OK &&
	       (status = kvc_op_status(ops[count])) == KVC_PENDING)
		count++;
	assert_int_equal(status, KVC_BUSY); /* the window is full */
	assert_true(count > 4);
	serve_held();
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(kvc_op_wait(ops[i], 10 * FIXTURE_SECOND), KVC_OK);
	for (unsigned i = 0; i <= count; i++)
		kvc_op_destroy(ops[i]);
	assert_int_equal(match_all(FIXTURE_SECOND), KVC_OK);
	world_end(&world);
}

static void test_hostile__deaf_daemon__a_full_socket_blocks_nobody(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("deaf");
	uint64_t begin_ns;
	struct kvc_op *op;

	world_begin(&world, 0, 4);
	pthread_mutex_lock(&world.server.lock);
	world.server.deaf = true;
	pthread_mutex_unlock(&world.server.lock);
	sleep_ms(50); /* it may still be in poll */
	begin_ns = kvci_clock_ns();
	assert_int_equal(kvc_match_begin(fixture->space, fixture->hashes, 4, NULL, 0, &op), KVC_OK);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(kvc_release(fixture->client, &request), KVC_OK);
	assert_between(kvci_clock_ns() - begin_ns, 0, 2000);
	pthread_mutex_lock(&world.server.lock);
	world.server.deaf = false;
	pthread_mutex_unlock(&world.server.lock);
	assert_int_equal(kvc_op_wait(op, 5 * FIXTURE_SECOND), KVC_OK); /* the queue drains */
	kvc_op_destroy(op);
	assert_int_equal(match_all(5 * FIXTURE_SECOND), KVC_OK);
	assert_int_equal(world.server.seen[KVCI_MESSAGE_RELEASE], 5000);
	world_end(&world);
}

static void test_hostile__open_to_a_silent_daemon__keeps_its_time(void **state)
{
	static struct fake_server server;
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .connect_timeout_ns = 100 * FIXTURE_MS};
	struct kvc_client *client = NULL;
	char target[128];
	uint64_t begin_ns = kvci_clock_ns();

	memset(&server, 0, sizeof(server));
	fake_start(&server);
	fake_set_script(&server, script_silence, NULL);
	snprintf(target, sizeof(target), "unix:%s", server.path);
	assert_int_equal(kvc_open(target, &options, &client), KVC_TIMED_OUT);
	assert_between(kvci_clock_ns() - begin_ns, 100, 400);
	options.flags = KVC_OPEN_LAZY;
	assert_int_equal(kvc_open(target, &options, &client), KVC_OK);
	assert_int_equal(kvc_health(client), KVC_CIRCUIT_OPEN);
	kvc_close(client);
	fake_stop(&server);
}

static void test_hostile__lazy_open_without_daemon__finds_it_later(void **state)
{
	static struct fake_server server;
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .flags = KVC_OPEN_LAZY};
	struct kvc_space_desc desc = fixture_desc();
	struct kvc_form form = fixture_form(4, 64);
	uint8_t hash[1][KVC_HASH_BYTES] = {{1}};
	struct kvc_match_result result;
	struct kvc_client *client;
	struct kvc_space *space;
	kvc_status_t status;
	char target[128];
	uint64_t begin_ns;

	memset(&server, 0, sizeof(server));
	fake_start(&server); /* only to learn a path that is free */
	snprintf(target, sizeof(target), "unix:%s", server.path);
	fake_stop(&server);
	assert_int_equal(kvc_open(target, NULL, &client), KVC_GONE);
	assert_int_equal(kvc_open(target, &options, &client), KVC_OK);
	assert_int_equal(kvc_space_open(client, &desc, &form, &space), KVC_OK);
	status = kvc_match(space, (const uint8_t(*)[32])hash, 1, NULL, 0, FIXTURE_SECOND, &result);
	assert_int_equal(kvc_status_class(status), KVC_CLASS_DEGRADE);
	memset(&server, 0, sizeof(server));
	assert_int_equal(kvci_channel_listen(target + 5, 0600, &server.listen_fd, NULL, 0), KVC_OK);
	kvci_channel_unlisten(server.listen_fd);
	memset(&server, 0, sizeof(server));
	fake_start(&server);
	assert_int_equal(rename(server.path, target + 5), 0);
	begin_ns = kvci_clock_ns();
	while ((status = kvc_match(space, (const uint8_t(*)[32])hash, 1, NULL, 0, FIXTURE_SECOND, &result)) != KVC_OK &&
	       kvci_clock_ns() - begin_ns < 8 * FIXTURE_SECOND)
		sleep_ms(10);
	assert_int_equal(status, KVC_OK);
	kvc_space_close(space);
	kvc_close(client);
	unlink(target + 5);
	fake_stop(&server);
}

/* ---- death ---- */

static bool script_hang_up_at(struct fake_server *server, const struct kvci_message *message)
{
	if (message->type != *(uint16_t *)server->script_context)
		return false;
	close(server->socket_fd);
	server->socket_fd = -1;
	server->script = NULL;
	return true;
}

static void test_hostile__daemon_dies_anywhere__ops_end_and_the_client_comes_back(void **state)
{
	struct fixture *fixture = &world.fixture;
	uint16_t types[] = {KVCI_MESSAGE_MATCH, KVCI_MESSAGE_RESERVE, KVCI_MESSAGE_SLAB_MAPPED, KVCI_MESSAGE_COMMIT, KVCI_MESSAGE_LOAD,
	                    KVCI_MESSAGE_BIND};

	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct kvc_request request = fixture_request("x");
		struct kvc_match_result result;
		kvc_status_t worst = KVC_OK, status;
		uint32_t flags = i % 2 ? KVC_OPEN_MOVER : 0;

		world_begin(&world, flags, 30);
		fake_set_script(&world.server, script_hang_up_at, &types[i]);
		if (types[i] == KVCI_MESSAGE_BIND) { /* a second connection binds again */
			fake_hang_up(&world.server, true);
			world.server.script = script_hang_up_at;
		}
		for (unsigned step = 0; step < 3; step++) {
			if (step == 0)
				status = kvc_store(fixture->space, fixture->keys, 30, fixture->pages, 5 * FIXTURE_SECOND, NULL);
			else if (step == 1)
				status = kvc_match(fixture->space, fixture->hashes, 30, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result);
			else
				status = load_all("x", FIXTURE_SECOND, NULL);
			if (status != KVC_OK && worst == KVC_OK)
				worst = status;
			if (worst != KVC_OK)
				break;
		}
		assert_true(worst == KVC_GONE || worst == KVC_CIRCUIT_OPEN);
		assert_int_equal(kvc_status_class(match_all(FIXTURE_SECOND)), KVC_CLASS_DEGRADE);
		fake_hang_up(&world.server, true);
		expect_recovery();
		/* All works again, in the new daemon's memory. */
		store_and_lease("again");
		assert_int_equal(load_all("again", 5 * FIXTURE_SECOND, NULL), KVC_OK);
		for (uint32_t block = 0; block < 30; block++)
			assert_true(fixture_loaded(fixture, block));
		world_end(&world);
	}
}

static void test_hostile__circuit__doubles_its_pauses(void **state)
{
	struct kvc_client *client = world.fixture.client;
	uint32_t before;
	uint64_t begin_ns;

	world_begin(&world, 0, 1);
	client = world.fixture.client;
	fake_set_script(&world.server, script_silence, NULL);
	fake_hang_up(&world.server, false);
	while (kvc_health(client) == KVC_OK)
		sleep_ms(1);
	before = world.server.connections;
	/* 1 s, then HELLO unanswered for 1 s, then 2 s: one try in the first 1.9 s. */
	begin_ns = kvci_clock_ns();
	while (kvci_clock_ns() - begin_ns < 1900 * FIXTURE_MS) {
		assert_true(kvc_status_class(kvc_health(client)) == KVC_CLASS_DEGRADE);
		sleep_ms(10);
	}
	assert_int_equal(world.server.connections - before, 1);
	begin_ns = kvci_clock_ns();
	while (kvci_clock_ns() - begin_ns < 1800 * FIXTURE_MS) {
		kvc_health(client);
		sleep_ms(10);
	}
	assert_int_equal(world.server.connections - before, 1); /* 2 s from 2.0 on */
	fake_set_script(&world.server, NULL, NULL);
	expect_recovery();
	assert_int_equal(world.server.connections - before, 2);
	world_end(&world);
}

static void test_hostile__reservation_by_hand_over_a_death__is_gone_and_its_memory_stays_mapped(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_reservation reservation;

	world_begin(&world, 0, 2);
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys, 1, FIXTURE_SECOND, &reservation), KVC_OK);
	assert_int_equal(reservation.status, KVC_OK);
	fake_hang_up(&world.server, true);
	while (kvc_health(fixture->client) == KVC_OK)
		sleep_ms(1);
	sleep_ms(20);
	memset(reservation.sections, 1, fixture->engine.sizes.section_bytes);
	assert_int_equal(kvc_commit(fixture->space, fixture->keys, &reservation, NULL, FIXTURE_SECOND), KVC_GONE);
	assert_int_equal(kvc_commit(fixture->space, fixture->keys, &reservation, NULL, FIXTURE_SECOND), KVC_NOT_FOUND);
	expect_recovery();
	world_end(&world);
}

/* ---- deadlines ---- */

static bool script_hold_loads(struct fake_server *server, const struct kvci_message *message)
{
	if (message->type != KVCI_MESSAGE_LOAD)
		return false;
	held[held_count++] = *message;
	return true;
}

static void check_deadline(uint32_t flags)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("late");
	uint8_t *before;
	kvc_status_t statuses[8];
	uint64_t begin_ns;
	struct kvc_op *op;

	world_begin(&world, flags, 8);
	store_and_lease("late");
	fake_set_script(&world.server, script_hold_loads, NULL);
	begin_ns = kvci_clock_ns();
	assert_int_equal(kvc_load_begin(fixture->space, &request, 0, 8, fixture->pages_back, 100 * FIXTURE_MS, &op), KVC_OK);
	assert_int_equal(kvc_op_wait(op, 10 * FIXTURE_SECOND), KVC_TIMED_OUT);
	assert_between(kvci_clock_ns() - begin_ns, 100, 300);
	assert_int_equal(kvc_op_block_statuses(op, statuses, 8), KVC_OK);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(statuses[i], KVC_TIMED_OUT);
	assert_true(kvc_op_pages_free(op));
	/* The daemon comes to itself: too late for these pages. */
	before = malloc(fixture->engine.memory_bytes);
	memcpy(before, fixture->engine.memory, fixture->engine.memory_bytes);
	serve_held();
	for (unsigned i = 0; i < 50; i++) {
		kvc_poll(fixture->client);
		sleep_ms(1);
	}
	assert_memory_equal(before, fixture->engine.memory, fixture->engine.memory_bytes);
	free(before);
	kvc_op_destroy(op);
	assert_int_equal(world.server.seen[KVCI_MESSAGE_LOAD_CANCEL], 1);
	assert_int_equal(load_all("late", FIXTURE_SECOND, NULL), KVC_OK);
	world_end(&world);
}

static void test_hostile__load_deadline__gives_statuses_and_writes_nothing_later(void **state)
{
	check_deadline(0);
	check_deadline(KVC_OPEN_MOVER);
}

static void test_hostile__nobody_waits_for_a_deadline__status_still_says_it(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("late");
	struct kvc_op *op;

	world_begin(&world, 0, 8);
	store_and_lease("late");
	fake_set_script(&world.server, script_hold_loads, NULL);
	assert_int_equal(kvc_load_begin(fixture->space, &request, 0, 8, fixture->pages_back, 30 * FIXTURE_MS, &op), KVC_OK);
	assert_int_equal(kvc_op_status(op), KVC_PENDING);
	sleep_ms(40);
	serve_held(); /* it all arrives, after the deadline */
	sleep_ms(20);
	assert_int_equal(kvc_op_status(op), KVC_TIMED_OUT);
	for (uint32_t i = 0; i < 8; i++)
		assert_false(fixture_loaded(fixture, i));
	kvc_op_destroy(op);
	world_end(&world);
}

static void test_hostile__cancel_with_mover__no_page_is_touched_afterwards(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("c");
	uint8_t *before;

	world_begin(&world, KVC_OPEN_MOVER, 200);
	store_and_lease("c");
	before = malloc(fixture->engine.memory_bytes);
	for (unsigned round = 0; round < 40; round++) {
		struct kvc_op *op;

		assert_int_equal(kvc_load_begin(fixture->space, &request, 0, 200, fixture->pages_back, 0, &op), KVC_OK);
		for (volatile unsigned spin = 0; spin < round * 2000; spin++)
			;
		kvc_op_cancel(op);
		memcpy(before, fixture->engine.memory, fixture->engine.memory_bytes);
		sched_yield();
		sleep_ms(1);
		assert_memory_equal(before, fixture->engine.memory, fixture->engine.memory_bytes);
		assert_true(kvc_op_status(op) == KVC_CANCELED || kvc_op_status(op) == KVC_OK);
		kvc_op_destroy(op);
	}
	free(before);
	world_end(&world);
}

static void test_hostile__cancelled_stores__leave_no_reservation(void **state)
{
	struct fixture *fixture = &world.fixture;

	world_begin(&world, KVC_OPEN_MOVER, 200);
	for (unsigned round = 0; round < 40; round++) {
		kvc_status_t status = KVC_CIRCUIT_OPEN;
		struct kvc_op *op;

		for (uint32_t i = 0; i < 200; i++)
			fixture_key(&fixture->keys[i], round + 2, i, 64);
		/* On a busy machine the server may have been silent for long enough to be given up for a while. */
		for (unsigned i = 0; i < 10000 && status == KVC_CIRCUIT_OPEN; i++) {
			if (i != 0)
				sleep_ms(1);
			kvc_poll(fixture->client);
			status = kvc_store_begin(fixture->space, fixture->keys, 200, fixture->pages, &op);
		}
		assert_int_equal(status, KVC_OK);
		for (volatile unsigned spin = 0; spin < round * 3000; spin++)
			;
		kvc_op_destroy(op);
		if (world.server.block_count > FAKE_BLOCKS - 400)
			break;
	}
	for (unsigned i = 0; i < 2000 && world.server.open_reservations > 0; i++) {
		kvc_poll(fixture->client);
		sleep_ms(1);
	}
	assert_int_equal(world.server.open_reservations, 0);
	world_end(&world);
}

static void test_hostile__store_times_out__reservations_are_aborted_and_pages_free(void **state)
{
	struct fixture *fixture = &world.fixture;
	kvc_status_t statuses[4];

	world_begin(&world, 0, 4);
	held_count = 0;
	fake_set_script(&world.server, script_hold, NULL);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 4, fixture->pages, 50 * FIXTURE_MS, statuses), KVC_TIMED_OUT);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(statuses[i], KVC_TIMED_OUT);
	serve_held();
	for (unsigned i = 0; i < 1000 && (world.server.aborts < 4 || world.server.open_reservations > 0); i++) {
		kvc_poll(fixture->client);
		sleep_ms(1);
		if (i > 50 && world.server.aborts == 0 && world.server.open_reservations == 0)
			break; /* it was told to map a slab only */
	}
	assert_int_equal(world.server.open_reservations, 0);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 4, fixture->pages, FIXTURE_SECOND, statuses), KVC_OK);
	world_end(&world);
}

/* ---- damage ---- */

static void test_hostile__flipped_byte_anywhere__is_corrupt_and_reported(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_form_sizes *sizes;
	uint64_t offsets[8];

	world_begin(&world, 0, 3);
	sizes = &fixture->engine.sizes;
	store_and_lease("d");
	offsets[0] = 0;                                      /* magic */
	offsets[1] = 20;                                     /* space */
	offsets[2] = 60;                                     /* hash or so */
	offsets[3] = 256 + 3;                                /* a raw checksum */
	offsets[4] = 256 + 24;                               /* an offset */
	offsets[5] = sizes->sections_offset_bytes;           /* first byte of data */
	offsets[6] = sizes->sections_offset_bytes + sizes->section_stride_bytes * 3 + sizes->section_bytes - 1; /* last byte */
	offsets[7] = sizes->sections_offset_bytes + sizes->section_bytes / 2;
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *at = world.server.slab + world.server.blocks[1].offset_bytes + offsets[i];
		kvc_status_t statuses[3];

		*at ^= 0x10;
		assert_int_equal(load_all("d", FIXTURE_SECOND, statuses), KVC_CORRUPT);
		assert_int_equal(statuses[0], KVC_OK);
		assert_int_equal(statuses[1], KVC_CORRUPT);
		assert_int_equal(statuses[2], KVC_OK);
		*at ^= 0x10;
		assert_int_equal(load_all("d", FIXTURE_SECOND, statuses), KVC_OK);
		assert_true(fixture_loaded(fixture, 1));
	}
	assert_int_equal(world.server.damages, 8);
	world_end(&world);
}

static bool script_swap(struct fake_server *server, const struct kvci_message *message)
{
	struct fake_block block;

	if (message->type != KVCI_MESSAGE_LOAD)
		return false;
	/* The index says one record, the place holds another. */
	block = server->blocks[0];
	server->blocks[0].offset_bytes = server->blocks[1].offset_bytes;
	fake_serve(server, message);
	server->blocks[0] = block;
	return true;
}

static void test_hostile__swapped_records__are_corrupt(void **state)
{
	kvc_status_t statuses[3];

	world_begin(&world, 0, 3);
	store_and_lease("d");
	fake_set_script(&world.server, script_swap, NULL);
	assert_int_equal(load_all("d", FIXTURE_SECOND, statuses), KVC_CORRUPT);
	assert_int_equal(statuses[0], KVC_CORRUPT);
	assert_int_equal(statuses[1], KVC_OK);
	world_end(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile__silent_daemon__calls_keep_their_time_and_the_circuit_opens),
		cmocka_unit_test(test_hostile__daemon_stops_and_goes_on__late_answers_close_the_circuit),
		cmocka_unit_test(test_hostile__slow_answers_within_time__open_nothing),
		cmocka_unit_test(test_hostile__many_matches_without_answer__are_busy_not_blocking),
		cmocka_unit_test(test_hostile__deaf_daemon__a_full_socket_blocks_nobody),
		cmocka_unit_test(test_hostile__open_to_a_silent_daemon__keeps_its_time),
		cmocka_unit_test(test_hostile__lazy_open_without_daemon__finds_it_later),
		cmocka_unit_test(test_hostile__daemon_dies_anywhere__ops_end_and_the_client_comes_back),
		cmocka_unit_test(test_hostile__circuit__doubles_its_pauses),
		cmocka_unit_test(test_hostile__reservation_by_hand_over_a_death__is_gone_and_its_memory_stays_mapped),
		cmocka_unit_test(test_hostile__load_deadline__gives_statuses_and_writes_nothing_later),
		cmocka_unit_test(test_hostile__nobody_waits_for_a_deadline__status_still_says_it),
		cmocka_unit_test(test_hostile__cancel_with_mover__no_page_is_touched_afterwards),
		cmocka_unit_test(test_hostile__cancelled_stores__leave_no_reservation),
		cmocka_unit_test(test_hostile__store_times_out__reservations_are_aborted_and_pages_free),
		cmocka_unit_test(test_hostile__flipped_byte_anywhere__is_corrupt_and_reported),
		cmocka_unit_test(test_hostile__swapped_records__are_corrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
