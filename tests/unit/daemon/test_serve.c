/* SPDX-License-Identifier: Apache-2.0
 * The daemon's side of the protocol: every malformed, oversized or out-of-order message is answered to its sender alone, and changes nothing. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "core_fixture.h"

static struct fixture_core fixture;
static struct fixture_conn one, other;

static int setup(void **state)
{
	fixture_core_start(&fixture, NULL);
	fixture_conn_open(&fixture, &one, "default", 0);
	fixture_conn_open(&fixture, &other, "default", 0);
	return 0;
}

static int teardown(void **state)
{
	const char *broken = kvci_cache_check(fixture.core->cache);

	if (broken != NULL)
		fail_msg("%s", broken);
	fixture_conn_close(&one);
	fixture_conn_close(&other);
	fixture_turn(&fixture);
	fixture_core_stop(&fixture);
	return 0;
}

/* ---- HELLO ---- */

static void test_serve__before_hello__any_message_ends_the_connection(void **state)
{
	for (uint16_t type = 0; type < 40; type++) {
		struct kvci_message message, answer;
		struct fixture_conn conn;

		if (type == KVCI_MESSAGE_HELLO)
			continue;
		fixture_conn_open(&fixture, &conn, "default", 0);
		kvci_message_init(&message, type, 7);
		fixture_give(&conn, &message);
		assert_false(conn.open);
		assert_true(fixture_take(&conn, type, 7, &answer));
		assert_int_equal(answer.status, KVC_PROTOCOL);
		fixture_conn_close(&conn);
	}
}

static void test_serve__wrong_hellos__are_refused(void **state)
{
	struct kvci_message message, answer;

	kvci_message_init(&message, KVCI_MESSAGE_HELLO, 1);
	message.a = KVCI_PROTO_VERSION + 1;
	fixture_give(&one, &message);
	assert_true(fixture_take(&one, KVCI_MESSAGE_HELLO, 1, &answer));
	assert_int_equal(answer.status, KVC_VERSION);
	assert_false(one.open);
	message.a = KVCI_PROTO_VERSION;
	message.flags = 1u << 30;
	fixture_give(&other, &message);
	assert_true(fixture_take(&other, KVCI_MESSAGE_HELLO, 1, &answer));
	assert_int_equal(answer.status, KVC_INVALID);
	assert_false(other.open);
}

static void test_serve__second_hello__is_out_of_order_and_harmless(void **state)
{
	struct kvci_message message;

	fixture_hello(&one, 0);
	kvci_message_init(&message, KVCI_MESSAGE_HELLO, 0);
	message.a = KVCI_PROTO_VERSION;
	assert_int_equal(fixture_ask_status(&one, &message), KVC_PROTOCOL);
	kvci_message_init(&message, KVCI_MESSAGE_PING, 0);
	assert_int_equal(fixture_ask_status(&one, &message), KVC_OK);
}

static void test_serve__unknown_type_after_hello__ends_the_connection(void **state)
{
	struct kvci_message message;

	fixture_hello(&one, 0);
	kvci_message_init(&message, 999, 3);
	fixture_give(&one, &message);
	assert_false(one.open);
}

static void test_serve__two_owners_of_one_session__second_is_refused(void **state)
{
	struct kvci_message message;

	fixture_hello(&one, KVCI_HELLO_SESSION_OWNER);
	kvci_message_init(&message, KVCI_MESSAGE_HELLO, 1);
	message.a = KVCI_PROTO_VERSION;
	message.flags = KVCI_HELLO_SESSION_OWNER;
	memcpy(message.id, "session of tests", 16);
	fixture_give(&other, &message);
	assert_false(other.open);
	assert_int_equal(other.answers[0].status, KVC_IN_USE);
}

/* ---- every number in every message ---- */

struct range_case {
	const char *what;
	uint16_t type;
	uint32_t flags, count;
	uint64_t array_offset, array_bytes, reply_offset, reply_bytes;
	kvc_status_t expected;
};

#define W KVCI_WINDOW_BYTES
#define BIG UINT64_MAX

static const struct range_case range_cases[] = {
	{"array behind the window", KVCI_MESSAGE_MATCH, 0, 1, W, 32, 0, 0, KVC_INVALID},
	{"array over the window's end", KVCI_MESSAGE_MATCH, 0, 1, W - 31, 32, 0, 0, KVC_INVALID},
	{"offset that overflows", KVCI_MESSAGE_MATCH, 0, 1, BIG - 15, 32, 0, 0, KVC_INVALID},
	{"array too short for count", KVCI_MESSAGE_MATCH, 0, 2, 0, 63, 0, 0, KVC_INVALID},
	{"count over the limit", KVCI_MESSAGE_MATCH, 0, KVCI_PROTO_BLOCKS_MAX + 1, 0, BIG, 0, 0, KVC_TOO_BIG},
	{"ten million keys", KVCI_MESSAGE_MATCH, 0, 10000000, 0, 320000000, 0, 0, KVC_TOO_BIG},
	{"greatest count", KVCI_MESSAGE_MATCH, 0, UINT32_MAX, 0, BIG, 0, 0, KVC_TOO_BIG},
	{"unknown flag", KVCI_MESSAGE_MATCH, 1u << 20, 1, 0, 32, 0, 0, KVC_INVALID},
	{"lease and exists", KVCI_MESSAGE_MATCH, KVCI_MATCH_LEASE | KVCI_MATCH_EXISTS, 1, 0, 32, 64, 1, KVC_INVALID},
	{"extents without lease", KVCI_MESSAGE_MATCH, KVCI_MATCH_EXTENTS, 1, 0, 32, 64, 40, KVC_INVALID},
	{"exists without room", KVCI_MESSAGE_MATCH, KVCI_MATCH_EXISTS, 4, 0, 128, 0, 3, KVC_INVALID},
	{"exists behind the window", KVCI_MESSAGE_MATCH, KVCI_MATCH_EXISTS, 1, 0, 32, W, 1, KVC_INVALID},
	{"extents without room", KVCI_MESSAGE_MATCH, KVCI_MATCH_LEASE | KVCI_MATCH_EXTENTS, 2, 0, 64, 64, 79, KVC_INVALID},
	{"extents not aligned", KVCI_MESSAGE_MATCH, KVCI_MATCH_LEASE | KVCI_MATCH_EXTENTS, 1, 0, 32, 68, 80, KVC_INVALID},
	{"load with an unknown flag", KVCI_MESSAGE_LOAD, 2, 1, 0, 0, 0, 40, KVC_INVALID},
	{"load by section without lease", KVCI_MESSAGE_LOAD, KVCI_LOAD_BY_SECTION, 1, 0, 0, 0, 40, KVC_NOT_FOUND},
	{"load of nothing", KVCI_MESSAGE_LOAD, 0, 0, 0, 0, 0, 0, KVC_INVALID},
	{"load without room", KVCI_MESSAGE_LOAD, 0, 2, 0, 0, 0, 79, KVC_INVALID},
	{"load into nowhere", KVCI_MESSAGE_LOAD, 0, 1, 0, 0, BIG - 7, 40, KVC_INVALID},
	{"load of too much", KVCI_MESSAGE_LOAD, 0, KVCI_PROTO_BLOCKS_MAX + 1, 0, 0, 0, BIG, KVC_TOO_BIG},
	{"load without lease", KVCI_MESSAGE_LOAD, 0, 1, 0, 0, 0, 40, KVC_NOT_FOUND},
	{"reserve nothing", KVCI_MESSAGE_RESERVE, 0, 0, 0, 0, 0, 0, KVC_INVALID},
	{"reserve too much", KVCI_MESSAGE_RESERVE, 0, KVCI_PROTO_BLOCKS_MAX + 1, 0, BIG, 0, BIG, KVC_TOO_BIG},
	{"reserve without room", KVCI_MESSAGE_RESERVE, 0, 1, 0, 80, 4096, 47, KVC_INVALID},
	{"reserve from nowhere", KVCI_MESSAGE_RESERVE, 0, 1, W - 79, 80, 4096, 48, KVC_INVALID},
	{"commit nothing", KVCI_MESSAGE_COMMIT, 0, 0, 0, 0, 0, 0, KVC_INVALID},
	{"commit too short", KVCI_MESSAGE_COMMIT, 0, 1, 0, 15, 4096, 4, KVC_INVALID},
	{"commit longer than the window", KVCI_MESSAGE_COMMIT, 0, 1, 0, W + 1, 4096, 4, KVC_INVALID},
	{"commit without room", KVCI_MESSAGE_COMMIT, 0, 2, 0, 64, 4096, 7, KVC_INVALID},
	{"abort of nothing", KVCI_MESSAGE_ABORT, 0, 0, 0, 0, 0, 0, KVC_NOT_FOUND},
	{"cancel of nothing", KVCI_MESSAGE_LOAD_CANCEL, 0, 0, 0, 0, 0, 0, KVC_NOT_FOUND},
	{"slab that is none", KVCI_MESSAGE_SLAB_GET, 0, 0, 0, 0, 0, 0, KVC_NOT_FOUND},
	{"slab never given", KVCI_MESSAGE_SLAB_MAPPED, 0, 0, 0, 0, 0, 0, KVC_NOT_FOUND},
	{"drop from nowhere", KVCI_MESSAGE_DROP, 0, 0, W, 32, 0, 0, KVC_INVALID},
	{"drop of half a hash", KVCI_MESSAGE_DROP, 0, 0, 0, 16, 0, 0, KVC_INVALID},
	{"drop of what is not there", KVCI_MESSAGE_DROP, 0, 0, 0, 32, 0, 0, KVC_NOT_FOUND},
	{"bind without fields", KVCI_MESSAGE_BIND, 0, 0, 0, sizeof(struct kvc_form), 0, 0, KVC_INVALID},
	{"bind of too much", KVCI_MESSAGE_BIND, 0, 0, 0, W, 0, 0, KVC_TOO_BIG},
	{"bind from nowhere", KVCI_MESSAGE_BIND, 0, 0, W - 8, 1000, 0, 0, KVC_INVALID},
	{"admin of too much", KVCI_MESSAGE_ADMIN, 0, 0, 0, W, 0, 0, KVC_TOO_BIG},
	{"admin from nowhere", KVCI_MESSAGE_ADMIN, 0, 0, W - 1, 2, 0, 0, KVC_INVALID},
	{"admin without a question", KVCI_MESSAGE_ADMIN, 0, 0, 0, 0, 0, 0, KVC_NOT_FOUND},
};

static void test_serve__wrong_numbers__are_refused_and_change_nothing(void **state)
{
	struct kvci_cache_totals before, after;
	uint32_t binding;

	fixture_hello(&one, 0);
	binding = fixture_bind_ok(&one, "model");
	memset(one.window, 0, 65536);
	kvci_cache_totals(fixture.core->cache, &before);
	for (size_t i = 0; i < sizeof(range_cases) / sizeof(range_cases[0]); i++) {
		const struct range_case *c = &range_cases[i];
		struct kvci_message message;
		kvc_status_t status;

		kvci_message_init(&message, c->type, 0);
		message.flags = c->flags;
		message.count = c->count;
		message.binding = binding;
		message.array_offset = c->array_offset;
		message.array_bytes = c->array_bytes;
		message.reply_offset = c->reply_offset;
		message.reply_bytes = c->reply_bytes;
		status = fixture_ask_status(&one, &message);
		if (status != c->expected)
			fail_msg("%s: %s, expected %s", c->what, kvc_status_name(status), kvc_status_name(c->expected));
		assert_true(one.open);
	}
	kvci_cache_totals(fixture.core->cache, &after);
	assert_int_equal(before.blocks, after.blocks);
	assert_int_equal(after.reserved_bytes, 0);
	assert_int_equal(after.leased_bytes, 0);
}

static void test_serve__binding_not_ones_own__is_refused(void **state)
{
	struct kvci_message message;
	uint32_t binding;

	fixture_hello(&one, 0);
	fixture_hello(&other, KVCI_HELLO_NO_SESSION);
	binding = fixture_bind_ok(&one, "model");
	assert_int_equal(fixture_match(&other, binding, 1, 0).status, KVC_INVALID);
	kvci_message_init(&message, KVCI_MESSAGE_EPOCH_RAISE, 0);
	message.binding = binding;
	assert_int_equal(fixture_ask_status(&other, &message), KVC_INVALID);
	kvci_message_init(&message, KVCI_MESSAGE_DROP, 0);
	message.binding = binding;
	message.array_bytes = 32;
	assert_int_equal(fixture_ask_status(&other, &message), KVC_INVALID);
}

static void test_serve__wrong_forms__are_refused(void **state)
{
	struct kvc_form form = fixture_form;

	fixture_hello(&one, 0);
	form.struct_bytes = 4;
	assert_int_equal(fixture_bind(&one, &form, "m", NULL).status, KVC_VERSION);
	form = fixture_form;
	form.layer_count = 0;
	assert_int_equal(kvc_status_class(fixture_bind(&one, &form, "m", NULL).status), KVC_CLASS_CALLER);
	form = fixture_form;
	form.kv_heads = UINT32_MAX;
	assert_int_equal(kvc_status_class(fixture_bind(&one, &form, "m", NULL).status), KVC_CLASS_CALLER);
	/* 4 MiB a block, 1 MiB a slab. */
	form = fixture_form;
	form.layer_count = 1024;
	assert_int_equal(fixture_bind(&one, &form, "m", NULL).status, KVC_TOO_BIG);
	/* Another dtype than the space's. */
	form = fixture_form;
	form.dtype = KVC_DTYPE_F32;
	assert_int_equal(fixture_bind(&one, &form, "m", NULL).status, KVC_FORM_MISMATCH);
}

/* ---- the way of a block ---- */

static void test_serve__store_match_load_release__work(void **state)
{
	struct kvci_wire_extent *extent;
	struct kvci_wire_reserved reserved;
	struct kvci_message message, answer;
	uint32_t binding;

	fixture_hello(&one, 0);
	binding = fixture_bind_ok(&one, "model");
	reserved = fixture_reserve(&one, binding, 1);
	assert_int_equal(reserved.extent.status, KVC_OK);
	assert_int_equal(fixture_match(&one, binding, 1, 0).count, 0);
	assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_OK);
	answer = fixture_match(&one, binding, 1, KVCI_MATCH_LEASE | KVCI_MATCH_EXTENTS);
	assert_int_equal(answer.count, 1);
	assert_int_equal(answer.first, 1);
	extent = (void *)(one.window + 4096);
	assert_int_equal(extent->status, KVC_OK);
	assert_int_equal(extent->slab, reserved.extent.slab);
	assert_int_equal(extent->offset_bytes, reserved.extent.offset_bytes);

	memset(one.window + 8192, 0xff, sizeof(*extent));
	kvci_message_init(&message, KVCI_MESSAGE_LOAD, 0);
	message.count = 1;
	message.reply_offset = 8192;
	message.reply_bytes = sizeof(*extent);
	memcpy(message.id, "request 00000001", 16);
	assert_int_equal(fixture_ask_status(&one, &message), KVC_OK);
	assert_memory_equal(one.window + 8192, extent, sizeof(*extent));
	message.first = 1; /* behind the lease */
	assert_int_not_equal(fixture_ask_status(&one, &message), KVC_OK);

	kvci_message_init(&message, KVCI_MESSAGE_RELEASE, 0);
	memcpy(message.id, "request 00000001", 16);
	fixture_give(&one, &message);
	assert_int_equal(one.answer_count, 0); /* not answered */
	fixture_turn(&fixture);
	kvci_message_init(&message, KVCI_MESSAGE_LOAD, 0);
	message.count = 1;
	message.reply_bytes = sizeof(*extent);
	memcpy(message.id, "request 00000001", 16);
	assert_int_equal(fixture_ask_status(&one, &message), KVC_NOT_FOUND);
}

/* ---- LOAD by section: the brain's part is the test's (kvci_cache_load is wrapped by the linker) ---- */

static bool sections_captured;
static struct kvci_load *sections_load;
static uint32_t sections_backlog;

kvc_status_t __real_kvci_cache_load(struct kvci_cache *cache, struct kvci_load *load, const uint8_t request_id[KVCI_REQUEST_ID_BYTES]);
kvc_status_t __wrap_kvci_cache_load(struct kvci_cache *cache, struct kvci_load *load, const uint8_t request_id[KVCI_REQUEST_ID_BYTES]);

kvc_status_t __wrap_kvci_cache_load(struct kvci_cache *cache, struct kvci_load *load, const uint8_t request_id[KVCI_REQUEST_ID_BYTES])
{
	if (!sections_captured)
		return __real_kvci_cache_load(cache, load, request_id);
	sections_load = load;
	load->waiting = load->count;
	return KVC_OK;
}

static uint32_t backlog(void *context)
{
	return sections_backlog;
}

static void test_serve__load_by_section__tells_of_each_unless_the_client_does_not_read(void **state)
{
	struct kvci_extent extent = {.slab = 3, .generation = 4, .offset_bytes = 8192, .record_bytes = 4096, .record_checksum = 77};
	struct kvci_conn_out out = {.context = &other, .send = fixture_send, .backlog = backlog, .wake = fixture_wake};
	struct kvci_conn_peer peer = {.pid = getpid()};
	struct kvci_message message, event;

	fixture_conn_close(&other);
	memset(&other, 0, sizeof(other));
	other.fixture = &fixture;
	other.next_tag = 1;
	assert_int_equal(kvci_conn_create(fixture.core, "default", &peer, &out, &other.conn), KVC_OK);
	fixture_hello(&other, 0);
	sections_captured = true;
	for (unsigned by_section = 0; by_section < 2; by_section++) {
		kvci_message_init(&message, KVCI_MESSAGE_LOAD, 90 + by_section);
		message.flags = by_section ? KVCI_LOAD_BY_SECTION : 0;
		message.first = 10;
		message.count = 5;
		message.reply_bytes = 5 * sizeof(struct kvci_wire_extent);
		fixture_give(&other, &message);
		assert_int_equal(sections_load->sections != NULL, by_section);
	}
	sections_captured = false;
	sections_load->sections(sections_load, 2, 7, &extent);
	assert_true(fixture_take(&other, KVCI_MESSAGE_LOAD_SECTIONS, 91, &event));
	assert_int_equal(event.first, 2);
	assert_int_equal(event.count, 7);
	assert_int_equal(event.a, 8192);
	assert_int_equal(event.b, 77);
	assert_int_equal(event.c, 3);
	assert_int_equal(event.d, 4096);
	assert_int_equal(event.binding, 4);
	sections_backlog = 1;
	sections_load->sections(sections_load, 2, 8, &extent);
	assert_int_equal(other.answer_count, 0);
	sections_backlog = 0;
	sections_load->sections(sections_load, 2, 9, &extent);
	assert_true(fixture_take(&other, KVCI_MESSAGE_LOAD_SECTIONS, 91, &event));
	kvci_conn_mute(other.conn);
}

static void test_serve__commit_and_abort_of_anothers_reservation__are_not_found(void **state)
{
	struct kvci_wire_reserved reserved;
	struct kvci_message message;
	uint32_t binding;

	fixture_hello(&one, 0);
	fixture_hello(&other, 0);
	binding = fixture_bind_ok(&one, "model");
	reserved = fixture_reserve(&one, binding, 1);
	fixture_bind_ok(&other, "model");
	assert_int_equal(fixture_commit(&other, reserved.reservation), KVC_NOT_FOUND);
	kvci_message_init(&message, KVCI_MESSAGE_ABORT, 0);
	message.a = reserved.reservation;
	assert_int_equal(fixture_ask_status(&other, &message), KVC_NOT_FOUND);
	/* Single flight. */
	assert_int_equal(fixture_reserve(&other, binding, 1).extent.status, KVC_IN_FLIGHT);
	assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_OK);
	assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_NOT_FOUND);
	assert_int_equal(fixture_reserve(&other, binding, 1).extent.status, KVC_EXISTS);
}

static void test_serve__commit_with_lengths_that_overrun__is_refused(void **state)
{
	struct kvci_wire_commit *commit;
	struct kvci_wire_reserved reserved;
	struct kvci_message message;

	fixture_hello(&one, 0);
	reserved = fixture_reserve(&one, fixture_bind_ok(&one, "model"), 1);
	commit = (void *)one.window;
	for (int i = 0; i < 4; i++) {
		static const uint32_t counts[] = {3, 1000, UINT32_MAX / 8, UINT32_MAX};

		memset(one.window, 0, 64);
		commit->reservation = reserved.reservation;
		commit->checksum_count = counts[i];
		kvci_message_init(&message, KVCI_MESSAGE_COMMIT, 0);
		message.count = 1;
		message.array_bytes = sizeof(*commit) + 16;
		message.reply_offset = 4096;
		message.reply_bytes = 4;
		assert_int_equal(fixture_ask_status(&one, &message), KVC_INVALID);
	}
	assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_OK);
}

static void test_serve__long_arrays__are_cut_into_steps_and_answered_once(void **state)
{
	enum { COUNT = 30000 };
	struct kvci_wire_reserved *reply;
	struct kvci_wire_block *blocks;
	struct kvci_message message;
	uint32_t binding, steps = 0;

	fixture_hello(&one, 0);
	binding = fixture_bind_ok(&one, "model");
	assert_int_equal(fixture_commit(&one, fixture_reserve(&one, binding, 1).reservation), KVC_OK);
	blocks = (void *)one.window;
	memset(blocks, 0, COUNT * sizeof(*blocks));
	for (uint32_t i = 0; i < COUNT; i++) {
		memset(blocks[i].hash, 1, sizeof(blocks[i].hash));
		blocks[i].token_count = 16;
	}
	kvci_message_init(&message, KVCI_MESSAGE_RESERVE, 77);
	message.binding = binding;
	message.count = COUNT;
	message.array_bytes = COUNT * sizeof(*blocks);
	message.reply_offset = 4 << 20;
	message.reply_bytes = COUNT * sizeof(struct kvci_wire_reserved);
	reply = (void *)(one.window + message.reply_offset);
	reply[0].extent.status = KVC_PENDING;
	assert_true(kvci_conn_handle(one.conn, &message));
	for (; kvci_conn_busy(one.conn); steps++) {
		assert_int_equal(one.answer_count, 0);
		/* What the client does to its window once the first block is worked on does not matter: a copy is looked at. */
		if (reply[0].extent.status != KVC_PENDING)
			memset(blocks, 0xee, COUNT * sizeof(*blocks));
		kvci_conn_step(one.conn);
	}
	assert_true(steps > 5);
	assert_int_equal(one.answer_count, 1);
	assert_int_equal(one.answers[0].status, KVC_OK);
	assert_int_equal(one.answers[0].count, COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(reply[i].extent.status, KVC_EXISTS);
}

/* The array is copied in steps: changed half-way, each block is the old one or the new one, and nothing else happens. */
static void test_serve__array_changed_while_it_is_copied__each_entry_is_checked(void **state)
{
	enum { COUNT = 30000 };
	struct kvci_wire_reserved *reply;
	struct kvci_wire_block *blocks;
	struct kvci_message message;
	uint32_t refused = 0;

	fixture_hello(&one, 0);
	uint32_t binding = fixture_bind_ok(&one, "model");
	assert_int_equal(fixture_commit(&one, fixture_reserve(&one, binding, 1).reservation), KVC_OK);
	blocks = (void *)one.window;
	reply = (void *)(one.window + (4 << 20));
	memset(blocks, 0, COUNT * sizeof(*blocks));
	for (uint32_t i = 0; i < COUNT; i++) {
		memset(blocks[i].hash, 1, sizeof(blocks[i].hash));
		blocks[i].token_count = 16;
	}
	kvci_message_init(&message, KVCI_MESSAGE_RESERVE, 78);
	message.binding = binding;
	message.count = COUNT;
	message.array_bytes = COUNT * sizeof(*blocks);
	message.reply_offset = 4 << 20;
	message.reply_bytes = COUNT * sizeof(struct kvci_wire_reserved);
	assert_true(kvci_conn_handle(one.conn, &message));
	assert_true(kvci_conn_busy(one.conn));
	memset(blocks, 0xee, COUNT * sizeof(*blocks)); /* more tokens than a block has */
	while (kvci_conn_busy(one.conn))
		kvci_conn_step(one.conn);
	assert_int_equal(one.answer_count, 1);
	assert_int_equal(one.answers[0].status, KVC_OK);
	for (uint32_t i = 0; i < COUNT; i++) {
		kvc_status_t status = reply[i].extent.status;
		assert_true(status == KVC_EXISTS || status == KVC_INVALID);
		refused += status == KVC_INVALID;
	}
	assert_int_equal(reply[0].extent.status, KVC_EXISTS); /* the first piece is copied before anything else */
	printf("%u of %u were changed before they were copied\n", refused, (uint32_t)COUNT);
}

/* A long match is made in pieces: the same figures, extents for all, also when the lease has other keys half-way. */
static void test_serve__long_matches__are_cut_and_add_up(void **state)
{
	enum { COUNT = 5000, STORED = 40 };
	struct kvci_wire_extent *extents;
	struct kvci_message message, answer;
	uint32_t binding;

	fixture_hello(&one, 0);
	binding = fixture_bind_ok(&one, "model");
	for (uint8_t hash = 0; hash < STORED; hash++)
		assert_int_equal(fixture_commit(&one, fixture_reserve(&one, binding, hash).reservation), KVC_OK);
	for (unsigned round = 0; round < 6; round++) {
		/* Rounds 0 to 2: a long chain that ends early, without and with a lease; then every key many times over. */
		uint32_t flags = round % 3 == 0 ? 0 : KVCI_MATCH_LEASE | KVCI_MATCH_EXTENTS;
		uint32_t expected = round < 3 ? STORED : COUNT;

		for (uint32_t i = 0; i < COUNT; i++)
			memset(one.window + i * KVCI_HASH_BYTES, round < 3 ? (int)(i < 200 ? i : 200) : (int)((i + round / 5) % STORED),
			       KVCI_HASH_BYTES);
		kvci_message_init(&message, KVCI_MESSAGE_MATCH, 0);
		message.binding = binding;
		message.count = COUNT;
		message.flags = flags;
		message.array_bytes = COUNT * KVCI_HASH_BYTES;
		message.reply_offset = 4 << 20;
		message.reply_bytes = COUNT * sizeof(struct kvci_wire_extent);
		snprintf((char *)message.id, sizeof(message.id), "long %u", round == 5 ? 4 : round);
		extents = (void *)(one.window + message.reply_offset);
		answer = fixture_ask(&one, &message);
		assert_int_equal(answer.status, KVC_OK);
		if (flags != 0 && answer.c == KVCI_MISS_OVER_CAP)
			expected = answer.count;
		assert_int_equal(answer.count, expected);
		assert_int_equal(answer.first, expected);
		assert_true(expected >= STORED);
		for (uint32_t i = 0; flags != 0 && i < expected; i++)
			assert_int_equal(extents[i].status, KVC_OK);
	}
	/* Each key by itself. */
	message.flags = KVCI_MATCH_EXISTS;
	for (uint32_t i = 0; i < COUNT; i++)
		memset(one.window + i * KVCI_HASH_BYTES, (int)(i % 100), KVCI_HASH_BYTES);
	message.reply_bytes = COUNT;
	answer = fixture_ask(&one, &message);
	assert_int_equal(answer.count, COUNT / 100 * STORED);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(one.window[message.reply_offset + i], i % 100 < STORED);
}

static void test_serve__client_gone_with_work_half_done__frees_all(void **state)
{
	struct kvci_cache_totals totals;
	struct fixture_conn conn;
	uint32_t binding;

	for (int i = 0; i < 10; i++) {
		struct kvci_message message;

		fixture_conn_open(&fixture, &conn, "default", 0);
		fixture_hello(&conn, KVCI_HELLO_NO_SESSION);
		binding = fixture_bind_ok(&conn, "model");
		for (uint8_t hash = 0; hash < 20; hash++)
			fixture_reserve(&conn, binding, hash);
		kvci_message_init(&message, KVCI_MESSAGE_FLUSH, 5);
		kvci_conn_handle(conn.conn, &message);
		fixture_give(&conn, &message);
		kvci_message_init(&message, KVCI_MESSAGE_ADMIN, 6);
		strcpy(message.text, "stat");
		fixture_give(&conn, &message);
		fixture_conn_close(&conn);
		fixture_turn(&fixture);
		kvci_cache_totals(fixture.core->cache, &totals);
		assert_int_equal(totals.reserved_bytes, 0);
		assert_int_equal(totals.quarantined_bytes, 0);
	}
}

/* ---- tenants ---- */

static void test_serve__two_tenants__share_nothing(void **state)
{
	struct kvci_wire_reserved reserved;
	struct fixture_conn theirs;
	struct kvci_message message, answer;
	uint32_t ours, binding;

	fixture_conn_open(&fixture, &theirs, "theirs", 12345);
	fixture_hello(&one, 0);
	fixture_hello(&theirs, 0); /* the same session id */
	ours = fixture_bind_ok(&one, "model");
	/* Whatever tenant it writes into its fields, it gets the one of its socket. */
	answer = fixture_bind(&theirs, &fixture_form, "model", "default");
	assert_int_equal(answer.status, KVC_OK);
	binding = answer.binding;
	assert_int_not_equal(binding, ours);
	reserved = fixture_reserve(&one, ours, 1);
	assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_OK);
	assert_int_equal(fixture_match(&one, ours, 1, KVCI_MATCH_LEASE).count, 1);
	assert_int_equal(fixture_match(&theirs, binding, 1, 0).count, 0);
	/* The lease of the other session under the same id. */
	kvci_message_init(&message, KVCI_MESSAGE_LOAD, 0);
	message.count = 1;
	message.reply_offset = 8192;
	message.reply_bytes = sizeof(struct kvci_wire_extent);
	memcpy(message.id, "request 00000001", 16);
	assert_int_equal(fixture_ask_status(&theirs, &message), KVC_NOT_FOUND);
	kvci_message_init(&message, KVCI_MESSAGE_SLAB_GET, 0);
	message.a = reserved.extent.slab;
	assert_int_equal(fixture_ask_status(&theirs, &message), KVC_NOT_FOUND);
	assert_int_equal(fixture_ask_status(&one, &message), KVC_OK);
	/* Questions. */
	assert_int_equal(fixture_admin(&theirs, "fault", "{}").status, KVC_DENIED);
	assert_int_equal(fixture_admin(&theirs, "verify", "{}").status, KVC_DENIED);
	assert_int_equal(fixture_admin(&theirs, "show", "{\"key\":\"01\"}").status, KVC_NOT_FOUND);
	assert_int_equal(fixture_admin(&theirs, "drop", "{\"key\":\"01\"}").status, KVC_NOT_FOUND);
	assert_int_equal(fixture_admin(&one, "show", "{\"key\":\"01\"}").status, KVC_OK);
	fixture_conn_close(&theirs);
}

/* ---- questions ---- */

static void test_serve__wrong_questions__are_refused(void **state)
{
	static const struct {
		const char *question, *arguments;
		kvc_status_t expected;
	} cases[] = {
		{"nonsense", "", KVC_NOT_FOUND},
		{"ls", "{", KVC_INVALID},
		{"ls", "[]", KVC_INVALID},
		{"ls", "{\"limit\": 0}", KVC_INVALID},
		{"ls", "{\"limit\": 1001}", KVC_INVALID},
		{"ls", "{\"limit\": -1}", KVC_INVALID},
		{"ls", "{\"limit\": \"10\"}", KVC_INVALID},
		{"ls", "{\"where\": \"moon\"}", KVC_INVALID},
		{"ls", "{\"prefix\": \"xyz\"}", KVC_INVALID},
		{"ls", "{\"prefix\": 7}", KVC_INVALID},
		{"ls", "{\"cursor\": 99999999}", KVC_OK},
		{"ls", "{\"space\": 99}", KVC_OK},
		{"show", "{}", KVC_INVALID},
		{"show", "{\"key\": \"00\"}", KVC_NOT_FOUND},
		{"show", "{\"key\": \"00\", \"content\": 1}", KVC_INVALID},
		{"drop", "{\"key\": \"\"}", KVC_INVALID},
		{"match", "{}", KVC_INVALID},
		{"match", "{\"hashes\": []}", KVC_NOT_FOUND},
		{"config", "{\"key\": \"no.such\"}", KVC_NOT_FOUND},
		{"config", "{\"key\": \"memory.slab\"}", KVC_OK},
		{"verify", "{\"action\": \"start\"}", KVC_UNSUPPORTED},
		{"verify", "{\"action\": \"dance\"}", KVC_INVALID},
		{"fault", "{\"set\": \"read:fail\"}", KVC_UNSUPPORTED},
		{"help", "", KVC_OK},
		{"health", "", KVC_OK},
		{"stat", "", KVC_OK},
		{"spaces", "", KVC_OK},
		{"epochs", "", KVC_OK},
		{"clients", "", KVC_OK},
		{"flush", "", KVC_OK},
	};

	fixture_hello(&one, KVCI_HELLO_NO_SESSION);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		kvc_status_t status = fixture_admin(&one, cases[i].question, cases[i].arguments).status;

		if (status != cases[i].expected)
			fail_msg("%s %s: %s, expected %s", cases[i].question, cases[i].arguments, kvc_status_name(status),
			         kvc_status_name(cases[i].expected));
	}
}

/* Misses by cause add up, whatever was asked. */
static void test_serve__after_all_kinds_of_matches__misses_add_up(void **state)
{
	const struct kvci_stats *stats = &fixture.core->stats;
	uint64_t misses = 0;
	uint32_t binding;

	fixture_hello(&one, 0);
	binding = fixture_bind_ok(&one, "model");
	for (uint8_t hash = 0; hash < 40; hash++) {
		struct kvci_wire_reserved reserved = fixture_reserve(&one, binding, hash);

		if (reserved.extent.status == KVC_OK && hash % 3 != 0)
			assert_int_equal(fixture_commit(&one, reserved.reservation), KVC_OK);
		fixture_match(&one, binding, hash, KVCI_MATCH_EXISTS);
		fixture_match(&one, binding, (uint8_t)(hash / 2), 0);
		fixture_match(&one, binding, (uint8_t)(hash * 2), KVCI_MATCH_LEASE);
	}
	for (unsigned i = 0; i < KVCI_STAT_COUNT; i++)
		if (strncmp(kvci_stat_info((enum kvci_stat)i)->name, "miss_", 5) == 0)
			misses += kvci_stat_get(stats, (enum kvci_stat)i);
	assert_true(misses > 0 && kvci_stat_get(stats, KVCI_STAT_MATCH_HIT_KEYS) > 0);
	assert_int_equal(kvci_stat_get(stats, KVCI_STAT_MATCH_KEYS), kvci_stat_get(stats, KVCI_STAT_MATCH_HIT_KEYS) + misses);
}

/* ---- a file system that hangs ---- */

static sem_t hang_over;

static void hang_run(struct kvci_job *job)
{
	while (sem_wait(&hang_over) != 0)
		continue;
}

static void hang_done(struct kvci_job *job)
{
}

/* What is written to data_dir waits; nobody else does. */
static void test_serve__data_dir_hangs__others_are_answered(void **state)
{
	char folder[] = "/tmp/kvc-hang-XXXXXX", data_dir[64], command[64];
	const char *const sets[] = {data_dir, "workers=1", "disk.capacity=64MiB", "disk.segment=4MiB", "disk.io=threads", NULL};
	struct kvci_job job = {.run = hang_run, .done = hang_done};
	struct fixture_core stuck;
	struct fixture_conn conn;
	struct kvci_message raise;
	struct kvc_form form = fixture_form;

	assert_non_null(mkdtemp(folder));
	snprintf(data_dir, sizeof(data_dir), "data_dir=%s", folder);
	assert_int_equal(sem_init(&hang_over, 0, 0), 0);
	fixture_core_start(&stuck, sets);
	fixture_conn_open(&stuck, &conn, "default", 0);
	fixture_hello(&conn, 0);
	kvci_core_run_file_job(stuck.core, &job);
	for (uint32_t layers = 1; layers <= 3; layers++) { /* new spaces, of new forms */
		char model[] = {'m', (char)('0' + layers), '\0'};

		form.layer_count = layers;
		assert_int_equal(fixture_bind(&conn, &form, model, NULL).status, KVC_OK);
	}
	assert_int_equal(fixture_admin(&conn, "stat", "{}").status, KVC_OK);
	kvci_message_init(&raise, KVCI_MESSAGE_EPOCH_RAISE, 0);
	raise.binding = fixture_bind_ok(&conn, "model");
	raise.tag = 4711;
	fixture_give(&conn, &raise);
	assert_int_equal(fixture_admin(&conn, "spaces", "{}").status, KVC_OK);
	assert_false(fixture_take(&conn, KVCI_MESSAGE_EPOCH_RAISE, 4711, &raise)); /* not before it is durable */
	sem_post(&hang_over);
	for (int i = 0; i < 5000 && !fixture_take(&conn, KVCI_MESSAGE_EPOCH_RAISE, 4711, &raise); i++) {
		assert_int_equal(kvci_loop_turn(stuck.core->loop, KVCI_MS), KVC_OK);
		kvci_conn_finish(conn.conn);
	}
	assert_int_equal(raise.type, KVCI_MESSAGE_EPOCH_RAISE);
	assert_int_equal(raise.status, KVC_OK);
	assert_true(raise.a > 0);
	fixture_conn_close(&conn);
	fixture_core_stop(&stuck);
	sem_destroy(&hang_over);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		CASE(test_serve__before_hello__any_message_ends_the_connection),
		CASE(test_serve__wrong_hellos__are_refused),
		CASE(test_serve__second_hello__is_out_of_order_and_harmless),
		CASE(test_serve__unknown_type_after_hello__ends_the_connection),
		CASE(test_serve__two_owners_of_one_session__second_is_refused),
		CASE(test_serve__wrong_numbers__are_refused_and_change_nothing),
		CASE(test_serve__binding_not_ones_own__is_refused),
		CASE(test_serve__wrong_forms__are_refused),
		CASE(test_serve__store_match_load_release__work),
		CASE(test_serve__load_by_section__tells_of_each_unless_the_client_does_not_read),
		CASE(test_serve__commit_and_abort_of_anothers_reservation__are_not_found),
		CASE(test_serve__commit_with_lengths_that_overrun__is_refused),
		CASE(test_serve__long_arrays__are_cut_into_steps_and_answered_once),
		CASE(test_serve__array_changed_while_it_is_copied__each_entry_is_checked),
		CASE(test_serve__long_matches__are_cut_and_add_up),
		CASE(test_serve__client_gone_with_work_half_done__frees_all),
		CASE(test_serve__two_tenants__share_nothing),
		CASE(test_serve__wrong_questions__are_refused),
		CASE(test_serve__after_all_kinds_of_matches__misses_add_up),
		CASE(test_serve__data_dir_hangs__others_are_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
