/* SPDX-License-Identifier: Apache-2.0
 * The client against a daemon that behaves: what is stored is what is loaded, in every way of waiting; and arguments that are wrong. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "world.h"

static struct world world;

static void check_store_and_load(struct fixture *fixture)
{
	struct kvc_request request = fixture_request("request-1");
	kvc_status_t *statuses = calloc(fixture->count, sizeof(*statuses));
	struct kvc_match_result result;

	assert_int_equal(kvc_match(fixture->space, fixture->hashes, fixture->count, NULL, 0, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 0);
	assert_string_equal(kvc_miss_name(result.miss), "never_stored");
	assert_int_equal(kvc_store(fixture->space, fixture->keys, fixture->count, fixture->pages, 20 * FIXTURE_SECOND, statuses),
	                 KVC_OK);
	for (uint32_t i = 0; i < fixture->count; i++)
		assert_int_equal(statuses[i], KVC_OK);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, fixture->count, fixture->pages, 20 * FIXTURE_SECOND, statuses),
	                 KVC_OK);
	for (uint32_t i = 0; i < fixture->count; i++)
		assert_int_equal(statuses[i], KVC_EXISTS);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, fixture->count, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
	                           &result),
	                 KVC_OK);
	assert_int_equal(result.matched_blocks, fixture->count);
	assert_int_equal(kvc_load(fixture->space, &request, 0, fixture->count, fixture->pages_back, 20 * FIXTURE_SECOND, statuses),
	                 KVC_OK);
	for (uint32_t i = 0; i < fixture->count; i++) {
		assert_int_equal(statuses[i], KVC_OK);
		assert_true(fixture_loaded(fixture, i));
	}
	assert_int_equal(kvc_release(fixture->client, &request), KVC_OK);
	free(statuses);
}

static void test_client__store_then_load__gives_the_same_bytes(void **state)
{
	world_begin(&world, 0, 600); /* several batches */
	check_store_and_load(&world.fixture);
	world_end(&world);
}

static void test_client__mover__gives_the_same_bytes(void **state)
{
	world_begin(&world, KVC_OPEN_MOVER, 600);
	check_store_and_load(&world.fixture);
	world_end(&world);
}

static void test_client__cap_on_reservations__stores_in_pieces(void **state)
{
	world_begin(&world, 0, 100);
	world.server.reserve_room = 3;
	check_store_and_load(&world.fixture);
	assert_int_equal(world.server.open_reservations, 0);
	world_end(&world);
}

static void test_client__other_client__loads_through_a_mapping_of_its_own(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_request request = fixture_request("r");
	struct kvc_match_result result;
	struct fixture second;

	world_begin(&world, 0, 20);
	check_store_and_load(&world.fixture);
	fixture_open(&second, world.target, 0, &form, 20); /* the fake serves one client at a time */
	memset(second.engine.memory, 0, second.engine.memory_bytes);
	assert_int_equal(kvc_match(second.space, second.hashes, 20, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 20);
	assert_int_equal(kvc_load(second.space, &request, 5, 10, second.pages_back, FIXTURE_SECOND, NULL), KVC_OK);
	for (uint32_t i = 0; i < 10; i++)
		assert_true(engine_holds(&second.engine, fixture_back(&second, i), 1000 + 5 + i));
	assert_true(world.server.seen[KVCI_MESSAGE_SLAB_GET] > 0);
	fixture_close(&second);
	world_end(&world);
}

static void wait_by_fd(struct kvc_client *client, struct kvc_op *op)
{
	int fd = kvc_fd(client);

	assert_true(fd >= 0);
	assert_int_equal(kvc_fd(client), fd);
	while (kvc_op_status(op) == KVC_PENDING) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};

		assert_int_equal(poll(&wait, 1, 10000), 1);
		assert_int_equal(kvc_poll(client), KVC_OK);
	}
}

static void check_by_fd(uint32_t flags)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("by fd");
	struct kvc_match_result result;
	struct kvc_op_figures figures;
	kvc_status_t statuses[50];
	struct kvc_op *op;

	world_begin(&world, flags, 50);
	assert_int_equal(kvc_store_begin(fixture->space, fixture->keys, 50, fixture->pages, &op), KVC_OK);
	wait_by_fd(fixture->client, op);
	assert_int_equal(kvc_op_status(op), KVC_OK);
	assert_true(kvc_op_pages_free(op));
	kvc_op_destroy(op);
	assert_int_equal(kvc_match_begin(fixture->space, fixture->hashes, 50, &request, KVC_MATCH_LEASE, &op), KVC_OK);
	wait_by_fd(fixture->client, op);
	assert_int_equal(kvc_op_match_result(op, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 50);
	kvc_op_destroy(op);
	assert_int_equal(kvc_load_begin(fixture->space, &request, 0, 50, fixture->pages_back, 10 * FIXTURE_SECOND, &op), KVC_OK);
	wait_by_fd(fixture->client, op);
	assert_int_equal(kvc_op_block_statuses(op, statuses, 49), KVC_TOO_BIG);
	assert_int_equal(kvc_op_block_statuses(op, statuses, 50), KVC_OK);
	for (uint32_t i = 0; i < 50; i++) {
		assert_int_equal(statuses[i], KVC_OK);
		assert_true(fixture_loaded(fixture, i));
	}
	kvc_op_get_figures(op, &figures);
	assert_int_equal(figures.blocks, 50);
	assert_int_equal(figures.bytes, 50 * fixture->engine.sizes.block_bytes);
	assert_true(figures.elapsed_ns > 0 && figures.copy_ns > 0);
	kvc_op_destroy(op);
	world_end(&world);
}

static void test_client__waiting_by_fd__makes_progress(void **state)
{
	check_by_fd(0);
}

static void test_client__waiting_by_fd_with_mover__makes_progress(void **state)
{
	check_by_fd(KVC_OPEN_MOVER);
}

static void test_client__op_wait__moves_data(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_op *op;

	world_begin(&world, 0, 50);
	assert_int_equal(kvc_store_begin(fixture->space, fixture->keys, 50, fixture->pages, &op), KVC_OK);
	assert_false(kvc_op_pages_free(op));
	assert_int_equal(kvc_op_wait(op, 10 * FIXTURE_SECOND), KVC_OK);
	kvc_op_destroy(op);
	world_end(&world);
}

static void test_client__strided_pages__survive(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_layer_memory layers[4];
	uint8_t *memory;
	uint64_t page = 0, span;
	struct kvc_request request = fixture_request("s");
	struct kvc_match_result result;
	uint32_t pages[8];

	world_begin(&world, 0, 2);
	page = fixture->engine.sizes.page_bytes;
	/* As with K and V of all blocks apart, heads apart inside: [K|V][block][head][tokens * dims], with holes. */
	span = page / 2 + 64;
	memory = malloc(4 * 2 * 20 * span);
	for (uint64_t i = 0; i < 4 * 2 * 20 * span; i++)
		memory[i] = (uint8_t)(i * 131 >> 3);
	for (uint32_t i = 0; i < 4; i++)
		layers[i] = (struct kvc_layer_memory){
			.base = memory + i * 2 * 20 * span,
			.block_stride_bytes = span,
			.block_count = 20,
			.run_count = {2, 2},
			.run_stride_bytes = {20 * span, page / 4 + 8},
			.run_bytes = page / 4,
		};
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_OK);
	for (uint32_t i = 0; i < 8; i++)
		pages[i] = i * 2 + 1;
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 2, pages, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 2, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 2);
	/* Back into plain pages: K heads, then V heads. */
	assert_int_equal(kvc_space_set_memory(fixture->space, fixture->engine.layers, form.layer_count), KVC_OK);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 2, fixture->pages_back, FIXTURE_SECOND, NULL), KVC_OK);
	for (uint32_t layer = 0; layer < 4; layer++)
		for (uint32_t i = 0; i < 8; i++)
			for (uint32_t run = 0; run < 4; run++) {
				const uint8_t *from = (uint8_t *)layers[layer].base + pages[i] * span + (run / 2) * 20 * span +
				                      (run % 2) * (page / 4 + 8);
				const uint8_t *to = fixture->engine.memory + layer * fixture->engine.layer_bytes +
				                    fixture->pages_back[i] * page + run * (page / 4);

				assert_memory_equal(from, to, page / 4);
			}
	/* And out of plain pages into the strided ones: what was there before comes back. */
	memset(memory, 0, 4 * 2 * 20 * span);
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_OK);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 2, pages, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(memory[span + 5], (uint8_t)((span + 5) * 131 >> 3));
	free(memory);
	world_end(&world);
}

static void test_client__reserve_by_hand__commits_and_aborts(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_reservation out[3];
	struct kvc_match_result result;
	struct kvc_request request = fixture_request("hand");

	world_begin(&world, 0, 4);
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys, 3, FIXTURE_SECOND, out), KVC_OK);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(out[i].status, KVC_OK);
		for (uint32_t layer = 0; layer < 4; layer++)
			for (uint32_t page = 0; page < fixture->engine.sizes.pages_per_section; page++)
				memcpy((uint8_t *)out[i].sections + layer * fixture->engine.sizes.section_stride_bytes +
				               page * fixture->engine.sizes.page_bytes,
				       fixture->engine.memory + layer * fixture->engine.layer_bytes +
				               fixture->pages[i * fixture->engine.sizes.pages_per_section + page] *
				                       fixture->engine.sizes.page_bytes,
				       fixture->engine.sizes.page_bytes);
	}
	assert_int_equal(kvc_commit(fixture->space, &fixture->keys[0], &out[0], NULL, FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_commit(fixture->space, &fixture->keys[1], &out[1], NULL, FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_commit(fixture->space, &fixture->keys[1], &out[1], NULL, FIXTURE_SECOND), KVC_NOT_FOUND);
	assert_int_equal(kvc_abort(fixture->space, &out[2], FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_abort(fixture->space, &out[2], FIXTURE_SECOND), KVC_NOT_FOUND);
	assert_int_equal(world.server.open_reservations, 0);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 3, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 2);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 2, fixture->pages_back, FIXTURE_SECOND, NULL), KVC_OK);
	assert_true(fixture_loaded(fixture, 0) && fixture_loaded(fixture, 1));
	/* What is reserved already and what is stored already are told apart. */
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys + 3, 1, FIXTURE_SECOND, out), KVC_OK);
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys + 3, 1, FIXTURE_SECOND, out + 1), KVC_OK);
	assert_int_equal(out[1].status, KVC_IN_FLIGHT);
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys, 1, FIXTURE_SECOND, out + 1), KVC_OK);
	assert_int_equal(out[1].status, KVC_EXISTS);
	world_end(&world);
}

static void test_client__exists_admin_flush__answer(void **state)
{
	struct fixture *fixture = &world.fixture;
	uint8_t out[6];
	char *json;

	world_begin(&world, 0, 6);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 3, fixture->pages, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_exists(fixture->space, fixture->hashes, 6, out, FIXTURE_SECOND), KVC_OK);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(out[i], i < 3);
	assert_int_equal(kvc_flush(fixture->client, FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_drop(fixture->space, fixture->hashes[0], FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_space_raise_epoch(fixture->space, FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_admin(fixture->client, "stat", NULL, FIXTURE_SECOND, &json), KVC_OK);
	assert_string_equal(json, "{\"fake\":true}");
	kvc_free(json);
	assert_int_equal(kvc_client_stats(fixture->client, &json), KVC_OK);
	assert_non_null(strstr(json, "\"circuit\":\"closed\""));
	assert_non_null(strstr(json, "\"store_blocks\":3"));
	kvc_free(json);
	world_end(&world);
}

static _Atomic uint64_t late_told, late_took;

/* Each match is answered after a millisecond, and says that it took late_took. */
static bool script_late(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {.magic = KVCI_PROTO_MAGIC, .type = message->type, .tag = message->tag, .c = 1};

	if (message->type != KVCI_MESSAGE_MATCH)
		return false;
	atomic_store(&late_told, message->b);
	usleep(1000);
	answer.d = atomic_load(&late_took);
	fake_send(server, &answer, -1);
	return true;
}

static void late_until(struct fixture *fixture, bool told)
{
	struct kvc_match_result result;

	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(kvc_match(fixture->space, fixture->hashes, 1, NULL, 0, FIXTURE_SECOND, &result), KVC_OK);
		if ((atomic_load(&late_told) != 0) == told)
			return;
	}
	fail();
}

/* Answers later than the daemon's work explains: the client looks for them before it sleeps, and asks the daemon to stay awake. When they are no more,
 * neither. */
static void test_client__answers_are_late__looks_for_them_while_that_is_so(void **state)
{
	struct fixture *fixture = &world.fixture;
	char *json;

	world_begin(&world, 0, 1);
	assert_int_equal(kvc_client_stats(fixture->client, &json), KVC_OK);
	assert_non_null(strstr(json, "\"spins\":0,"));
	kvc_free(json);
	fake_set_script(&world.server, script_late, NULL);
	atomic_store(&late_took, 0);
	late_until(fixture, true);
	assert_int_equal(kvc_client_stats(fixture->client, &json), KVC_OK);
	assert_null(strstr(json, "\"spins\":0,"));
	kvc_free(json);
	atomic_store(&late_took, UINT64_MAX);
	late_until(fixture, false);
	fake_set_script(&world.server, NULL, NULL);
	world_end(&world);
}

static void test_client__old_epoch__is_not_loaded(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("old");
	struct kvc_match_result result;
	kvc_status_t status;

	world_begin(&world, 0, 1);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 1, fixture->pages, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_space_raise_epoch(fixture->space, FIXTURE_SECOND), KVC_OK);
	/* The fake forgets to look at the epoch; the client does not. */
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 1, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 1);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 1, fixture->pages_back, FIXTURE_SECOND, &status), KVC_STALE_EPOCH);
	assert_int_equal(status, KVC_STALE_EPOCH);
	world_end(&world);
}

static void test_client__wrong_arguments__are_refused(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_request request = fixture_request("w");
	struct kvc_match_result result;
	struct kvc_layer_memory layers[4];
	uint32_t pages[8] = {0, 1, 2, 3, 4, 5, 6, UINT32_MAX};
	struct kvc_open_options options = {.struct_bytes = 3};
	struct kvc_space_desc desc = fixture_desc();
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_client *client = NULL;
	struct kvc_space *space = NULL;
	struct kvc_op *op = NULL;
	char path[300], *json = NULL;

	world_begin(&world, 0, 2);
	/* keys: none, 10 million, NULL */
	assert_int_equal(kvc_match(fixture->space, NULL, 0, NULL, 0, FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 0);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 10000000, NULL, 0, FIXTURE_SECOND, &result), KVC_TOO_BIG);
	assert_non_null(strstr(kvc_last_error(), "65536"));
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, UINT32_MAX, NULL, 0, FIXTURE_SECOND, &result), KVC_TOO_BIG);
	assert_int_equal(kvc_match(fixture->space, NULL, 1, NULL, 0, FIXTURE_SECOND, &result), KVC_INVALID);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 1, NULL, KVC_MATCH_LEASE, FIXTURE_SECOND, &result), KVC_INVALID);
	assert_int_equal(kvc_match(fixture->space, fixture->hashes, 1, NULL, 1u << 20, FIXTURE_SECOND, &result), KVC_INVALID);
	assert_int_equal(kvc_match(NULL, fixture->hashes, 1, NULL, 0, FIXTURE_SECOND, &result), KVC_INVALID);
	assert_int_equal(kvc_exists(fixture->space, fixture->hashes, 10000000, (uint8_t *)path, FIXTURE_SECOND), KVC_TOO_BIG);
	assert_int_equal(kvc_exists(fixture->space, NULL, 0, NULL, FIXTURE_SECOND), KVC_OK);
	/* loads and stores */
	assert_int_equal(kvc_load(fixture->space, &request, 0, 10000000, pages, FIXTURE_SECOND, NULL), KVC_TOO_BIG);
	assert_int_equal(kvc_load(fixture->space, &request, UINT32_MAX, 2, pages, FIXTURE_SECOND, NULL), KVC_TOO_BIG);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 2, pages, FIXTURE_SECOND, NULL), KVC_INVALID);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 2, NULL, FIXTURE_SECOND, NULL), KVC_INVALID);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 0, NULL, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_load(fixture->space, NULL, 0, 0, NULL, FIXTURE_SECOND, NULL), KVC_INVALID);
	assert_int_equal(kvc_load(fixture->space, &request, 0, 1, pages, FIXTURE_SECOND, NULL), KVC_NOT_FOUND); /* no lease */
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 10000000, pages, FIXTURE_SECOND, NULL), KVC_TOO_BIG);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 2, pages, FIXTURE_SECOND, NULL), KVC_INVALID);
	assert_int_equal(kvc_store(fixture->space, NULL, 1, pages, FIXTURE_SECOND, NULL), KVC_INVALID);
	assert_int_equal(kvc_store(fixture->space, fixture->keys, 0, pages, FIXTURE_SECOND, NULL), KVC_OK);
	assert_int_equal(kvc_store_begin(fixture->space, fixture->keys, 0, NULL, &op), KVC_OK);
	assert_int_equal(kvc_op_status(op), KVC_OK);
	assert_true(kvc_op_pages_free(op));
	kvc_op_destroy(op);
	assert_int_equal(kvc_reserve(fixture->space, fixture->keys, 10000000, FIXTURE_SECOND, NULL), KVC_TOO_BIG);
	assert_int_equal(kvc_op_status(NULL), KVC_INVALID);
	kvc_op_cancel(NULL);
	kvc_op_destroy(NULL);
	/* memory */
	memcpy(layers, fixture->engine.layers, sizeof(layers));
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 3), KVC_INVALID);
	layers[3].run_bytes -= 8;
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_INVALID);
	layers[3] = layers[2];
	layers[3].block_stride_bytes = UINT64_MAX / 2;
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_INVALID);
	layers[3] = layers[2];
	layers[3].run_count[0] = UINT32_MAX;
	layers[3].run_count[1] = UINT32_MAX;
	layers[3].run_bytes = UINT64_MAX;
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_INVALID);
	layers[3] = layers[2];
	layers[3].base = NULL;
	assert_int_equal(kvc_space_set_memory(fixture->space, layers, 4), KVC_INVALID);
	/* spaces */
	desc.model = NULL;
	assert_int_equal(kvc_space_open(fixture->client, &desc, &form, &space), KVC_INVALID);
	assert_non_null(strstr(kvc_last_error(), "model"));
	desc = fixture_desc();
	form.head_dim_k = 0;
	assert_int_equal(kvc_space_open(fixture->client, &desc, &form, &space), KVC_INVALID);
	assert_non_null(strstr(kvc_last_error(), "head_dim_k"));
	form = fixture_form(4, 64);
	form.head_dim_k = UINT32_MAX;
	form.kv_heads = UINT32_MAX;
	assert_int_not_equal(kvc_space_open(fixture->client, &desc, &form, &space), KVC_OK);
	/* open */
	assert_int_equal(kvc_open("tcp:1.2.3.4", NULL, &client), KVC_INVALID);
	assert_int_equal(kvc_open(world.target, &options, &client), KVC_INVALID);
	assert_int_equal(kvc_open("unix:/nowhere/at/all", NULL, &client), KVC_GONE);
	memset(path, 'x', sizeof(path));
	memcpy(path, "unix:/", 6);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(kvc_open(path, NULL, &client), KVC_TOO_BIG);
	assert_non_null(strstr(kvc_last_error(), "107"));
	assert_int_equal(kvc_poll(NULL), KVC_INVALID);
	assert_int_equal(kvc_admin(fixture->client, "a question that is longer than any message can hold", NULL, 0, &json), KVC_TOO_BIG);
	kvc_close(NULL);
	assert_null(client);
	assert_null(space);
	world_end(&world);
}

static void test_client__forked_child__is_refused(void **state)
{
	struct fixture *fixture = &world.fixture;
	struct kvc_match_result result;
	int status;
	pid_t child;

	world_begin(&world, KVC_OPEN_MOVER, 2);
	child = fork();
	if (child == 0) {
		int wrong = kvc_match(fixture->space, fixture->hashes, 1, NULL, 0, FIXTURE_SECOND, &result) != KVC_INVALID ||
		            kvc_poll(fixture->client) != KVC_INVALID || kvc_health(fixture->client) != KVC_INVALID;

		kvc_close(fixture->client);
		_exit(wrong);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	check_store_and_load(fixture);
	world_end(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_client__store_then_load__gives_the_same_bytes),
		cmocka_unit_test(test_client__mover__gives_the_same_bytes),
		cmocka_unit_test(test_client__cap_on_reservations__stores_in_pieces),
		cmocka_unit_test(test_client__other_client__loads_through_a_mapping_of_its_own),
		cmocka_unit_test(test_client__waiting_by_fd__makes_progress),
		cmocka_unit_test(test_client__waiting_by_fd_with_mover__makes_progress),
		cmocka_unit_test(test_client__op_wait__moves_data),
		cmocka_unit_test(test_client__strided_pages__survive),
		cmocka_unit_test(test_client__reserve_by_hand__commits_and_aborts),
		cmocka_unit_test(test_client__exists_admin_flush__answer),
		cmocka_unit_test(test_client__answers_are_late__looks_for_them_while_that_is_so),
		cmocka_unit_test(test_client__old_epoch__is_not_loaded),
		cmocka_unit_test(test_client__wrong_arguments__are_refused),
		cmocka_unit_test(test_client__forked_child__is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
