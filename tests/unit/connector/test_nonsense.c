/* SPDX-License-Identifier: Apache-2.0
 * The client against a daemon whose messages, extents, slabs and lengths are not sane: refused, without a crash or a wrong byte. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "world.h"

static struct world world;

static kvc_status_t match_all(uint64_t timeout_ns)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_match_result result;

	return kvc_match(fixture->space, fixture->hashes, fixture->count, NULL, 0, timeout_ns, &result);
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

/* One extent of a LOAD's reply, spoiled. */
static bool script_spoil_extent(struct fake_server *server, const struct kvci_message *message)
{
	unsigned which = *(unsigned *)server->script_context;
	uint8_t *at = server->window + message->reply_offset;
	struct kvci_wire_extent extent;
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag};
	struct fake_block *block = &server->blocks[0];

	if (message->type != KVCI_MESSAGE_LOAD)
		return false;
	extent = (struct kvci_wire_extent){.slab = server->slab_id, .offset_bytes = block->offset_bytes,
	                                   .record_bytes = block->record_bytes, .record_checksum = block->record_checksum};
	switch (which) {
	case 0:
		extent.slab = 77777;
		break;
	case 1:
		extent.offset_bytes = server->slab_bytes;
		break;
	case 2:
		extent.offset_bytes = UINT64_MAX - 4095;
		break;
	case 3:
		extent.offset_bytes += 8;
		break;
	case 4:
		extent.record_bytes = UINT64_MAX;
		break;
	case 5:
		extent.record_bytes = 4096;
		break;
	case 6:
		extent.record_checksum ^= 1;
		break;
	case 7:
		extent.status = KVC_PENDING; /* and yet the LOAD is answered */
		break;
	case 8:
		extent.status = 12345;
		break;
	default:
		extent.offset_bytes = server->slab_bytes - 4096;
	}
	memcpy(at, &extent, sizeof(extent));
	fake_send(server, &answer, -1);
	return true;
}

static void test_nonsense__spoiled_extents__are_refused(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("n");

	world_begin(&world, 0, 1);
	store_and_lease("n");
	for (unsigned i = 0; i < 10; i++) {
		unsigned which = i; /* the server's thread reads it: handed over under the server's lock */
		kvc_status_t status;

		fake_set_script(&world.server, script_spoil_extent, &which);
		status = kvc_load(fixture->space, &request, 0, 1, fixture->pages_back, FIXTURE_SECOND, NULL);
		fake_set_script(&world.server, NULL, NULL);
		assert_int_not_equal(status, KVC_OK);
		assert_false(fixture_loaded(fixture, 0));
	}
	assert_int_equal(load_all("n", FIXTURE_SECOND, NULL), KVC_OK);
	world_end(&world);
}

/* Answers that break the protocol: the connection ends, and comes back. */
static bool script_nonsense(struct fake_server *server, const struct kvci_message *message)
{
	unsigned which = *(unsigned *)server->script_context;
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag};
	uint8_t raw[300] = {0};

	if (message->type == KVCI_MESSAGE_HELLO || message->type == KVCI_MESSAGE_BIND || message->type == KVCI_MESSAGE_PING)
		return false;
	switch (which) {
	case 0:
		answer.tag ^= 1;
		break;
	case 1:
		answer.type = KVCI_MESSAGE_LOAD;
		break;
	case 2:
		answer.count = UINT32_MAX; /* matched more than asked, reserved more than asked */
		break;
	case 3:
		answer.type = KVCI_MESSAGE_LOAD_PROGRESS;
		answer.first = UINT32_MAX - 1;
		answer.count = UINT32_MAX;
		break;
	case 4:
		send(server->socket_fd, raw, sizeof(raw), MSG_NOSIGNAL);
		return true;
	case 5:
		answer.magic = 1;
		break;
	case 6:
		answer.type = KVCI_MESSAGE_HELLO;
		break;
	case 7:
		memset(answer.text, 'x', sizeof(answer.text));
		break;
	case 8:
		answer.type = 999;
		break;
	case 9:
		answer.status = 12345;
		break;
	case 10:
		answer.status = KVC_PENDING; /* of RESERVE a slab that is none */
		break;
	default:
		send(server->socket_fd, raw, 1, MSG_NOSIGNAL);
		return true;
	}
	fake_send(server, &answer, -1);
	return true;
}

static void check_nonsense(unsigned which, uint16_t call)
{
	struct fixture *fixture = &world.fixture;
	kvc_status_t status = KVC_OK;
	char *json;

	world_begin(&world, 0, 4);
	store_and_lease("n");
	fake_set_script(&world.server, script_nonsense, &which);
	if (call == KVCI_MESSAGE_MATCH)
		status = match_all(FIXTURE_SECOND);
	else if (call == KVCI_MESSAGE_LOAD)
		status = load_all("n", FIXTURE_SECOND, NULL);
	else if (call == KVCI_MESSAGE_RESERVE) {
		fixture_key(&fixture->keys[0], 99, 0, 64);
		status = kvc_store(fixture->space, fixture->keys, 1, fixture->pages, FIXTURE_SECOND, NULL);
		if (status == KVC_OK)
			status = KVC_INTERNAL;
	}
	if (!(which == 1 && call == KVCI_MESSAGE_LOAD)) { /* that is a proper answer, of all blocks pending */
		assert_int_equal(status, KVC_GONE);
		assert_int_equal(kvc_client_stats(fixture->client, &json), KVC_OK);
		assert_null(strstr(json, "\"protocol_errors\":0"));
		kvc_free(json);
	}
	fake_set_script(&world.server, NULL, NULL);
	world_end(&world);
}

static void test_nonsense__message__ends_the_connection(void **state)
{
	for (unsigned which = 0; which < 12; which++) {
		check_nonsense(which, KVCI_MESSAGE_MATCH);
		if (which != 2)
			check_nonsense(which, KVCI_MESSAGE_LOAD);
		check_nonsense(which, KVCI_MESSAGE_RESERVE);
	}
}

static bool script_bad_reserve(struct fake_server *server, const struct kvci_message *message)
{
	unsigned which = *(unsigned *)server->script_context;
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .count = 1};
	struct kvci_wire_reserved out = {.reservation = 5};

	if (message->type != KVCI_MESSAGE_RESERVE || !server->slab_ready)
		return false;
	out.extent.slab = server->slab_id;
	out.extent.record_bytes = server->sizes.record_bytes;
	if (which == 0)
		out.extent.slab = 4242;
	else if (which == 1)
		out.extent.offset_bytes = server->slab_bytes - 4096;
	else if (which == 2)
		out.extent.record_bytes = 4096;
	else if (which == 3)
		out.extent.offset_bytes = 13;
	else
		out.extent.offset_bytes = UINT64_MAX & ~UINT64_C(4095);
	memcpy(server->window + message->reply_offset, &out, sizeof(out));
	fake_send(server, &answer, -1);
	return true;
}

static void test_nonsense__reservation_outside_of_the_slab__is_refused(void **state)
{
	for (unsigned which = 0; which < 5; which++) {
		world_begin(&world, 0, 1);
		fake_set_script(&world.server, script_bad_reserve, &which);
		assert_int_equal(kvc_store(world.fixture.space, world.fixture.keys, 1, world.fixture.pages, FIXTURE_SECOND, NULL),
		                 KVC_GONE);
		world_end(&world);
	}
}

/* A slab whose fd is not what the message says. */
static bool script_bad_slab(struct fake_server *server, const struct kvci_message *message)
{
	unsigned which = *(unsigned *)server->script_context;
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .a = 9};
	int fd = memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (message->type != KVCI_MESSAGE_RESERVE) {
		close(fd);
		return false;
	}
	answer.status = KVC_PENDING;
	answer.b = 1 << 20;
	if (which == 0)
		answer.b = UINT64_MAX; /* longer than the file */
	else if (which == 1)
		answer.b = 0;
	else if (which == 2)
		answer.b = 4097;
	fake_send(server, &answer, which == 3 ? -1 : fd);
	close(fd);
	return true;
}

static void test_nonsense__bad_slabs__are_not_mapped(void **state)
{
	for (unsigned which = 0; which < 5; which++) {
		kvc_status_t status;

		world_begin(&world, 0, 1);
		fake_set_script(&world.server, script_bad_slab, &which);
		status = kvc_store(world.fixture.space, world.fixture.keys, 1, world.fixture.pages, FIXTURE_SECOND, NULL);
		assert_int_equal(status, KVC_GONE);
		world_end(&world);
	}
}

static void test_nonsense__reservation_in_a_slab_of_others__is_refused(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_request request = fixture_request("o");
	struct kvc_match_result result;
	struct fixture reader;

	world_begin(&world, 0, 4);
	store_and_lease("o");
	fixture_open(&reader, world.target, 0, &form, 4);
	assert_int_equal(kvc_match(reader.space, (const uint8_t(*)[32])reader.hashes, 4, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result),
	                 KVC_OK);
	assert_int_equal(kvc_load(reader.space, &request, 0, 4, reader.pages_back, FIXTURE_SECOND, NULL), KVC_OK);
	/* Now it is mapped, to be read only. */
	pthread_mutex_lock(&world.server.lock);
	world.server.slab_ready = true;
	pthread_mutex_unlock(&world.server.lock);
	fixture_key(&reader.keys[0], 55, 0, 64);
	assert_int_equal(kvc_store(reader.space, reader.keys, 1, reader.pages, FIXTURE_SECOND, NULL), KVC_GONE);
	fixture_close(&reader);
	world_end(&world);
}

static bool script_unsealed_slab(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .a = message->a};
	int fd;

	if (message->type != KVCI_MESSAGE_SLAB_GET)
		return false;
	fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (ftruncate(fd, (off_t)server->slab_bytes) != 0)
		abort();
	answer.b = server->slab_bytes;
	fake_send(server, &answer, fd);
	close(fd);
	return true;
}

static void test_nonsense__slab_that_could_shrink__is_not_mapped(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_request request = fixture_request("u");
	struct kvc_match_result result;
	struct fixture reader;

	world_begin(&world, 0, 4);
	store_and_lease("u");
	fixture_open(&reader, world.target, 0, &form, 4);
	assert_int_equal(kvc_match(reader.space, (const uint8_t(*)[32])reader.hashes, 4, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result),
	                 KVC_OK);
	assert_int_equal(result.matched_blocks, 4);
	fake_set_script(&world.server, script_unsealed_slab, NULL);
	assert_int_equal(kvc_load(reader.space, &request, 0, 4, reader.pages_back, FIXTURE_SECOND, NULL), KVC_GONE);
	fake_set_script(&world.server, NULL, NULL);
	fixture_close(&reader);
	world_end(&world);
}

static bool script_hello(struct fake_server *server, const struct kvci_message *message)
{
	unsigned which = *(unsigned *)server->script_context;
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .a = KVCI_WINDOW_BYTES};
	int fd = memfd_create("window", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, KVCI_WINDOW_BYTES) != 0)
		abort();
	if (which != 0) /* 0: unsealed, it could shrink under the client */
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
	if (which == 1)
		answer.a = KVCI_WINDOW_BYTES + 1;
	if (which == 2)
		answer.a = 10;
	if (which == 3)
		answer.status = KVC_VERSION;
	fake_send(server, &answer, which == 4 ? -1 : fd);
	close(fd);
	return true;
}

static void test_nonsense__bad_hello__is_refused(void **state)
{
	static struct fake_server server;
	unsigned which;

	for (which = 0; which < 5; which++) {
		struct kvc_client *client = NULL;
		kvc_status_t status;
		char target[128];

		memset(&server, 0, sizeof(server));
		fake_start(&server);
		fake_set_script(&server, script_hello, &which);
		snprintf(target, sizeof(target), "unix:%s", server.path);
		status = kvc_open(target, NULL, &client);
		assert_int_equal(status, which == 3 ? KVC_VERSION : KVC_PROTOCOL);
		fake_stop(&server);
	}
}

static bool script_bad_json(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .a = UINT64_MAX};
	int fd;

	if (message->type != KVCI_MESSAGE_ADMIN)
		return false;
	fd = memfd_create("json", MFD_CLOEXEC);
	fake_send(server, &answer, fd);
	close(fd);
	return true;
}

static void test_nonsense__admin_answer_of_no_length__is_refused(void **state)
{
	char *json = NULL;

	world_begin(&world, 0, 1);
	fake_set_script(&world.server, script_bad_json, NULL);
	assert_int_equal(kvc_admin(world.fixture.client, "stat", "{}", FIXTURE_SECOND, &json), KVC_PROTOCOL);
	assert_null(json);
	world_end(&world);
}

static bool script_slab_gone(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message event = {.magic = KVCI_PROTO_MAGIC, .type = KVCI_MESSAGE_SLAB_GONE, .a = server->slab_id};

	if (message->type != KVCI_MESSAGE_LOAD)
		return false;
	fake_serve(server, message);
	fake_send(server, &event, -1);
	return true;
}

static void test_nonsense__slab_goes_while_it_is_loaded_from__gives_bytes_or_gone(void **state)
{
	struct fixture *fixture = &world.fixture;
	kvc_status_t statuses[100];

	for (unsigned round = 0; round < 10; round++) {
		world_begin(&world, round % 2 ? KVC_OPEN_MOVER : 0, 100);
		store_and_lease("g");
		fake_set_script(&world.server, script_slab_gone, NULL);
		load_all("g", FIXTURE_SECOND, statuses);
		for (uint32_t i = 0; i < 100; i++) {
			assert_true(statuses[i] == KVC_OK || statuses[i] == KVC_GONE);
			if (statuses[i] == KVC_OK)
				assert_true(fixture_loaded(fixture, i));
		}
		world_end(&world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nonsense__spoiled_extents__are_refused),
		cmocka_unit_test(test_nonsense__message__ends_the_connection),
		cmocka_unit_test(test_nonsense__reservation_outside_of_the_slab__is_refused),
		cmocka_unit_test(test_nonsense__bad_slabs__are_not_mapped),
		cmocka_unit_test(test_nonsense__reservation_in_a_slab_of_others__is_refused),
		cmocka_unit_test(test_nonsense__slab_that_could_shrink__is_not_mapped),
		cmocka_unit_test(test_nonsense__bad_hello__is_refused),
		cmocka_unit_test(test_nonsense__admin_answer_of_no_length__is_refused),
		cmocka_unit_test(test_nonsense__slab_goes_while_it_is_loaded_from__gives_bytes_or_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
