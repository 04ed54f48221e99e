/* SPDX-License-Identifier: Apache-2.0
 * The client against a real kvcaskd: bytes, several clients, death, restart, stops of either side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/map.h"
#include "daemon_child.h"
#include "fixture.h"

static struct daemon_child child;
static struct fixture fixture;

static void sleep_ms(uint64_t ms)
{
	struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&pause, NULL);
}

static uint32_t match_count(struct fixture *of, const char *id)
{
	struct kvc_request request = fixture_request(id);
	struct kvc_match_result result;

	assert_int_equal(kvc_match(of->space, (const uint8_t(*)[32])of->hashes, of->count, &request, KVC_MATCH_LEASE,
	                           5 * FIXTURE_SECOND, &result),
	                 KVC_OK);
	return result.matched_blocks;
}

static void store_all(struct fixture *of)
{
	kvc_status_t status = kvc_store(of->space, of->keys, of->count, of->pages, 30 * FIXTURE_SECOND, NULL);

	if (status != KVC_OK)
		fail_msg("store: %s", kvc_last_error());
}

/* Loads into the second half and checks every byte. */
static void load_and_check(struct fixture *of, const char *id)
{
	struct kvc_request request = fixture_request(id);
	uint32_t half = of->engine.blocks / 2;
	kvc_status_t status;

	for (uint32_t layer = 0; layer < of->engine.form.layer_count; layer++)
		memset(of->engine.memory + layer * of->engine.layer_bytes + half * of->engine.sizes.page_bytes, 0xcc,
		       half * of->engine.sizes.page_bytes);
	status = kvc_load(of->space, &request, 0, of->count, of->pages_back, 30 * FIXTURE_SECOND, NULL);
	if (status != KVC_OK)
		fail_msg("load: %s", kvc_last_error());
	for (uint32_t i = 0; i < of->count; i++)
		assert_true(fixture_loaded(of, i));
	assert_int_equal(kvc_release(of->client, &request), KVC_OK);
}

static void check_bytes(uint32_t flags, uint32_t count)
{
	struct kvc_form form = fixture_form(8, 64);

	daemon_child_start(&child, "memory.capacity: 256MiB\nmemory.slab: 32MiB\n");
	fixture_open(&fixture, child.target, flags, &form, count);
	assert_int_equal(match_count(&fixture, "r0"), 0);
	store_all(&fixture);
	assert_int_equal(match_count(&fixture, "r"), count);
	load_and_check(&fixture, "r");
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__store_and_load__same_bytes(void **state)
{
	check_bytes(0, 400);
}

static void test_real__with_mover__same_bytes(void **state)
{
	check_bytes(KVC_OPEN_MOVER, 400);
}

/* KiB of the mappings of slabs in this process that are huge pages. */
static unsigned long huge_slabs_kib(void)
{
	char line[512];
	unsigned long kib, sum = 0;
	bool slab = false;
	FILE *file = fopen("/proc/self/smaps", "re");

	assert_non_null(file);
	while (fgets(line, sizeof(line), file) != NULL) {
		if (strstr(line, "memfd:kvcask-slab") != NULL)
			slab = true;
		else if (slab && sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1) {
			sum += kib;
			slab = false;
		}
	}
	fclose(file);
	return sum;
}

/* The client makes the pages of the slab that it stores into: huge ones if the daemon says so (but for a piece that is written at that moment), small
 * ones if not. */
static void store_pages(const char *options, bool huge)
{
	enum { SLAB_KIB = 32 << 10 };
	struct kvc_form form = fixture_form(8, 64);

	daemon_child_start(&child, options);
	fixture_open(&fixture, child.target, 0, &form, 10);
	store_all(&fixture);
	for (unsigned i = 0; i < 3000 && huge && huge_slabs_kib() < SLAB_KIB / 2; i++)
		usleep(10000);
	assert_true(huge ? huge_slabs_kib() >= SLAB_KIB / 2 : huge_slabs_kib() == 0);
	assert_int_equal(match_count(&fixture, "r"), 10);
	load_and_check(&fixture, "r");
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__pages_of_a_store_slab__as_the_daemon_says(void **state)
{
	store_pages("memory.capacity: 256MiB\nmemory.slab: 32MiB\nmemory.huge_pages: on\n", kvci_map_huge_works());
	store_pages("memory.capacity: 256MiB\nmemory.slab: 32MiB\nmemory.huge_pages: off\n", false);
}

static void test_real__memory_smaller_than_what_is_stored__right_or_missing(void **state)
{
	struct kvc_form form = fixture_form(8, 64); /* 128 KiB and a page a block */
	uint32_t matched;

	daemon_child_start(&child, "memory.capacity: 32MiB\nmemory.slab: 8MiB\n");
	fixture_open(&fixture, child.target, 0, &form, 600);
	for (unsigned round = 0; round < 3; round++) {
		kvc_status_t status = kvc_store(fixture.space, fixture.keys, 600, fixture.pages, 30 * FIXTURE_SECOND, NULL);

		assert_int_equal(status, KVC_OK);
		matched = match_count(&fixture, "m");
		if (matched > 0) {
			struct kvc_request request = fixture_request("m");

			assert_int_equal(kvc_load(fixture.space, &request, 0, matched, fixture.pages_back, 5 * FIXTURE_SECOND, NULL),
			                 KVC_OK);
			for (uint32_t i = 0; i < matched; i++)
				assert_true(fixture_loaded(&fixture, i));
			kvc_release(fixture.client, &request);
		}
	}
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__second_client__loads_what_the_first_stored(void **state)
{
	struct kvc_form form = fixture_form(8, 64), other_form;
	struct fixture second;

	daemon_child_start(&child, "memory.capacity: 128MiB\nmemory.slab: 16MiB\n");
	fixture_open(&fixture, child.target, 0, &form, 200);
	store_all(&fixture);
	fixture_open(&second, child.target, KVC_OPEN_MOVER, &form, 200);
	assert_int_equal(match_count(&second, "second"), 200);
	load_and_check(&second, "second");
	fixture_close(&second);
	/* After the writer's death its memory serves on. */
	fixture_close(&fixture);
	fixture_open(&second, child.target, 0, &form, 200);
	assert_int_equal(match_count(&second, "third"), 200);
	load_and_check(&second, "third");
	fixture_close(&second);
	/* Another form of the same space hits nothing. */
	other_form = fixture_form(8, 128);
	fixture_open(&second, child.target, 0, &other_form, 100);
	assert_int_equal(match_count(&second, "other"), 0);
	fixture_close(&second);
	daemon_child_stop(&child);
}

static void test_real__two_processes_of_a_session__share_a_lease(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .session = "engine 7", .name = "scheduler",
	                                   .flags = KVC_OPEN_SESSION_OWNER};
	struct kvc_space_desc desc = fixture_desc();
	struct kvc_request request = fixture_request("shared");
	struct kvc_match_result result;
	struct kvc_client *scheduler, *worker;
	struct kvc_space *match_space, *load_space;

	daemon_child_start(&child, "memory.capacity: 128MiB\nmemory.slab: 16MiB\n");
	fixture_open(&fixture, child.target, 0, &form, 50);
	store_all(&fixture);
	assert_int_equal(kvc_open(child.target, &options, &scheduler), KVC_OK);
	options.flags = 0;
	options.name = "worker";
	assert_int_equal(kvc_open(child.target, &options, &worker), KVC_OK);
	assert_int_equal(kvc_space_open(scheduler, &desc, &form, &match_space), KVC_OK);
	assert_int_equal(kvc_space_open(worker, &desc, &form, &load_space), KVC_OK);
	assert_int_equal(kvc_space_set_memory(load_space, fixture.engine.layers, 4), KVC_OK);
	assert_int_equal(kvc_match(match_space, (const uint8_t(*)[32])fixture.hashes, 50, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
	                           &result),
	                 KVC_OK);
	assert_int_equal(result.matched_blocks, 50);
	assert_int_equal(kvc_load(load_space, &request, 10, 40, fixture.pages_back, FIXTURE_SECOND, NULL), KVC_OK);
	for (uint32_t i = 0; i < 40; i++)
		assert_true(engine_holds(&fixture.engine, fixture_back(&fixture, i), 1000 + 10 + i));
	/* Another session does not see it. */
	assert_int_equal(kvc_load(fixture.space, &request, 0, 1, fixture.pages_back, FIXTURE_SECOND, NULL), KVC_NOT_FOUND);
	kvc_release(worker, &request);
	kvc_release(scheduler, &request);
	/* A release is not answered, and the two have a socket each: an answer on the scheduler's says that it was heard. */
	assert_int_equal(kvc_flush(scheduler, FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_load(load_space, &request, 0, 1, fixture.pages_back, FIXTURE_SECOND, NULL), KVC_NOT_FOUND);
	kvc_close(worker);
	kvc_close(scheduler);
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__killed_and_restarted__the_client_goes_on(void **state)
{
	struct kvc_form form = fixture_form(4, 64);
	struct kvc_match_result result;
	uint64_t begin_ns;
	kvc_status_t status;

	daemon_child_start(&child, "memory.capacity: 128MiB\nmemory.slab: 16MiB\n");
	fixture_open(&fixture, child.target, KVC_OPEN_MOVER, &form, 100);
	store_all(&fixture);
	daemon_child_end(&child, SIGKILL);
	begin_ns = kvci_clock_ns();
	status = kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 100, NULL, 0, 5 * FIXTURE_SECOND, &result);
	assert_int_equal(kvc_status_class(status), KVC_CLASS_DEGRADE);
	assert_true(kvci_clock_ns() - begin_ns < 2 * FIXTURE_SECOND); /* not at the deadline */
	daemon_child_run(&child);
	begin_ns = kvci_clock_ns();
	while ((status = kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 100, NULL, 0, FIXTURE_SECOND, &result)) != KVC_OK) {
		assert_int_equal(kvc_status_class(status), KVC_CLASS_DEGRADE);
		assert_true(kvci_clock_ns() - begin_ns < 5 * FIXTURE_SECOND);
		sleep_ms(5);
	}
	assert_int_equal(result.matched_blocks, 0); /* memory only */
	store_all(&fixture);
	assert_int_equal(match_count(&fixture, "again"), 100);
	load_and_check(&fixture, "again");
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__disk__survives_a_restart(void **state)
{
	struct kvc_form form = fixture_form(8, 64);
	char options[256];
	uint32_t matched = 0;

	daemon_child_start(&child, "");
	snprintf(options, sizeof(options),
	         "memory.capacity: 64MiB\nmemory.slab: 16MiB\ndata_dir: %s\ndisk.capacity: 512MiB\n", child.folder);
	daemon_child_end(&child, SIGTERM);
	daemon_child_write_config(&child, options);
	daemon_child_run(&child);
	fixture_open(&fixture, child.target, 0, &form, 100);
	store_all(&fixture);
	assert_int_equal(kvc_flush(fixture.client, 20 * FIXTURE_SECOND), KVC_OK);
	daemon_child_end(&child, SIGKILL);
	daemon_child_run(&child);
	for (unsigned i = 0; i < 500 && matched != 100; i++) { /* reconnect, index loading */
		struct kvc_match_result result;
		struct kvc_request request = fixture_request("disk");

		if (kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 100, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
		              &result) == KVC_OK)
			matched = result.matched_blocks;
		sleep_ms(10);
	}
	assert_int_equal(matched, 100);
	load_and_check(&fixture, "disk");
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

/* Values of a kind that the lossless codec packs. */
static void fill_packable(struct fixture *of)
{
	for (uint64_t at = 1; at < of->engine.memory_bytes; at += 2)
		of->engine.memory[at] = (uint8_t)(0x3e + of->engine.memory[at] % 3);
}

/* Pages of the first `layers` layers of all blocks are those that were stored. */
static bool packed_loaded(const struct fixture *of, uint32_t layers)
{
	const struct engine *engine = &of->engine;
	uint64_t bytes = engine->sizes.page_bytes;
	bool same = true;

	for (uint32_t layer = 0; layer < layers; layer++)
		for (uint32_t i = 0; i < of->count * engine->sizes.pages_per_section; i++)
			same &= memcmp(engine->memory + layer * engine->layer_bytes + of->pages[i] * bytes,
			               engine->memory + layer * engine->layer_bytes + of->pages_back[i] * bytes, bytes) == 0;
	return same;
}

/* Blocks that lie packed on the disk come section by section; a layer that was waited for is right at once. */
static void test_real__packed_on_disk__loaded_by_section(void **state)
{
	struct kvc_form form = fixture_form(16, 64);
	struct kvc_request request = fixture_request("sections");
	char options[320];
	struct kvc_op *op;
	char *json;

	daemon_child_start(&child, "");
	snprintf(options, sizeof(options),
	         "memory.capacity: 64MiB\nmemory.slab: 16MiB\ndata_dir: %s\ndisk.capacity: 512MiB\ndisk.codec: split\n"
	         "disk.read_deadline: 10min\n", child.folder);
	daemon_child_end(&child, SIGTERM);
	daemon_child_write_config(&child, options);
	daemon_child_run(&child);
	fixture_open(&fixture, child.target, 0, &form, 12);
	fill_packable(&fixture);
	for (uint32_t i = 0; i < 12; i++) { /* one at a time: a long queue is written raw */
		assert_int_equal(kvc_store(fixture.space, fixture.keys + i, 1, fixture.pages + i * fixture.engine.sizes.pages_per_section,
		                           20 * FIXTURE_SECOND, NULL),
		                 KVC_OK);
		assert_int_equal(kvc_flush(fixture.client, 20 * FIXTURE_SECOND), KVC_OK);
	}
	daemon_child_end(&child, SIGTERM);
	daemon_child_run(&child);
	for (unsigned i = 0; i < 500; i++) { /* reconnect, index loading */
		struct kvc_match_result result = {0};

		if (kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 12, &request, KVC_MATCH_LEASE, FIXTURE_SECOND, &result) ==
		            KVC_OK &&
		    result.matched_blocks == 12)
			break;
		sleep_ms(10);
	}
	assert_int_equal(kvc_load_sections_begin(fixture.space, &request, 0, 12, fixture.pages_back, 0, &op), KVC_OK);
	for (uint32_t layer = 1; layer <= 16; layer++) {
		assert_int_equal(kvc_load_wait_sections(op, layer, 60 * FIXTURE_SECOND), KVC_OK);
		assert_true(packed_loaded(&fixture, layer));
	}
	assert_int_equal(kvc_op_wait(op, 60 * FIXTURE_SECOND), KVC_OK);
	kvc_op_destroy(op);
	assert_int_equal(kvc_admin(fixture.client, "stat", NULL, 20 * FIXTURE_SECOND, &json), KVC_OK);
	const char *reads = strstr(json, "\"coded_reads\":");
	assert_non_null(reads);
	assert_int_equal(strtoul(reads + strlen("\"coded_reads\":"), NULL, 10), 12);
	kvc_free(json);
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

static void test_real__stopped_daemon__deadlines_hold(void **state)
{
	struct kvc_form form = fixture_form(8, 64);
	struct kvc_request request = fixture_request("s");
	struct kvc_match_result result;
	kvc_status_t status;
	uint64_t begin_ns, took_ns;

	daemon_child_start(&child, "memory.capacity: 128MiB\nmemory.slab: 16MiB\n");
	fixture_open(&fixture, child.target, 0, &form, 200);
	store_all(&fixture);
	assert_int_equal(match_count(&fixture, "s"), 200);
	kill(child.pid, SIGSTOP);
	/* Between match and load. */
	begin_ns = kvci_clock_ns();
	assert_int_equal(kvc_load(fixture.space, &request, 0, 200, fixture.pages_back, 100 * FIXTURE_MS, NULL), KVC_TIMED_OUT);
	took_ns = kvci_clock_ns() - begin_ns;
	assert_true(took_ns >= 100 * FIXTURE_MS && took_ns < 2 * FIXTURE_SECOND);
	sleep_ms(30);
	/* After it: at once. */
	begin_ns = kvci_clock_ns();
	for (unsigned i = 0; i < 50; i++) {
		status = kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 200, NULL, 0, FIXTURE_SECOND, &result);
		assert_int_equal(status, KVC_CIRCUIT_OPEN);
	}
	assert_true(kvci_clock_ns() - begin_ns < FIXTURE_SECOND); /* one that waited would take as long */
	kill(child.pid, SIGCONT);
	for (unsigned i = 0; i < 1000 && status != KVC_OK; i++) {
		status = kvc_match(fixture.space, (const uint8_t(*)[32])fixture.hashes, 200, &request, KVC_MATCH_LEASE, FIXTURE_SECOND,
		                   &result);
		sleep_ms(2);
	}
	assert_int_equal(status, KVC_OK);
	assert_int_equal(result.matched_blocks, 200);
	load_and_check(&fixture, "s");
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

/* A writer that is stopped in the middle of its store while others go on, and continued. */
static void test_real__stopped_client__no_wrong_byte(void **state)
{
	struct kvc_form form = fixture_form(8, 64);
	int status;
	pid_t writer;

	daemon_child_start(&child, "memory.capacity: 32MiB\nmemory.slab: 8MiB\nmemory.reserve_deadline: 100ms\n");
	for (unsigned round = 0; round < 5; round++) {
		writer = fork();
		assert_true(writer >= 0);
		if (writer == 0) {
			fixture_open(&fixture, child.target, 0, &form, 300);
			for (;;)
				kvc_store(fixture.space, fixture.keys, fixture.count, fixture.pages, 30 * FIXTURE_SECOND, NULL);
		}
		fixture_open(&fixture, child.target, 0, &form, 300);
		sleep_ms(20 + round * 7);
		kill(writer, SIGSTOP);
		for (unsigned i = 0; i < 20; i++) {
			struct kvc_request request = fixture_request("w");
			uint32_t matched = match_count(&fixture, "w");

			if (matched > 0) {
				assert_int_equal(kvc_load(fixture.space, &request, 0, matched, fixture.pages_back, 5 * FIXTURE_SECOND, NULL),
				                 KVC_OK);
				for (uint32_t block = 0; block < matched; block++)
					assert_true(fixture_loaded(&fixture, block));
			}
			kvc_release(fixture.client, &request);
			kvc_store(fixture.space, fixture.keys, 100, fixture.pages, FIXTURE_SECOND, NULL);
			if (i == 10)
				kill(writer, SIGCONT);
			sleep_ms(20);
		}
		kill(writer, SIGKILL);
		assert_int_equal(waitpid(writer, &status, 0), writer);
		fixture_close(&fixture);
	}
	daemon_child_stop(&child);
}

static void test_real__limits__are_clear_errors(void **state)
{
	struct kvc_form form = fixture_form(8, 64), huge;
	struct kvc_space_desc desc = fixture_desc();
	struct kvc_space *space;
	uint8_t *hashes;
	struct kvc_match_result result;
	char *json;

	daemon_child_start(&child, "memory.capacity: 32MiB\nmemory.slab: 8MiB\n");
	fixture_open(&fixture, child.target, 0, &form, 4);
	/* A block that no slab can hold. */
	huge = fixture_form(64, 4096);
	assert_int_equal(kvc_space_open(fixture.client, &desc, &huge, &space), KVC_TOO_BIG);
	/* The form contradicts the space. */
	desc.kv_dtype = "float32";
	assert_int_equal(kvc_space_open(fixture.client, &desc, &form, &space), KVC_FORM_MISMATCH);
	/* As many keys as one call takes. */
	hashes = calloc(KVC_BLOCKS_MAX, 32);
	for (uint32_t i = 0; i < KVC_BLOCKS_MAX; i++)
		memcpy(hashes + i * 32, &i, 4);
	assert_int_equal(kvc_match(fixture.space, (const uint8_t(*)[32])hashes, KVC_BLOCKS_MAX, NULL, 0, 5 * FIXTURE_SECOND, &result), KVC_OK);
	assert_int_equal(result.matched_blocks, 0);
	free(hashes);
	assert_int_equal(kvc_admin(fixture.client, "stat", NULL, 5 * FIXTURE_SECOND, &json), KVC_OK);
	assert_int_equal(json[0], '{');
	kvc_free(json);
	assert_int_equal(kvc_admin(fixture.client, "no such question", NULL, 5 * FIXTURE_SECOND, &json), KVC_NOT_FOUND);
	store_all(&fixture);
	assert_int_equal(kvc_drop(fixture.space, fixture.hashes[0], FIXTURE_SECOND), KVC_OK);
	assert_int_equal(kvc_drop(fixture.space, fixture.hashes[0], FIXTURE_SECOND), KVC_NOT_FOUND);
	assert_int_equal(match_count(&fixture, "l"), 0);
	store_all(&fixture);
	assert_int_equal(match_count(&fixture, "l"), 4);
	assert_int_equal(kvc_space_raise_epoch(fixture.space, 5 * FIXTURE_SECOND), KVC_OK);
	assert_int_equal(match_count(&fixture, "l2"), 0);
	fixture_close(&fixture);
	daemon_child_stop(&child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_real__store_and_load__same_bytes),
		cmocka_unit_test(test_real__with_mover__same_bytes),
		cmocka_unit_test(test_real__pages_of_a_store_slab__as_the_daemon_says),
		cmocka_unit_test(test_real__memory_smaller_than_what_is_stored__right_or_missing),
		cmocka_unit_test(test_real__second_client__loads_what_the_first_stored),
		cmocka_unit_test(test_real__two_processes_of_a_session__share_a_lease),
		cmocka_unit_test(test_real__killed_and_restarted__the_client_goes_on),
		cmocka_unit_test(test_real__disk__survives_a_restart),
		cmocka_unit_test(test_real__packed_on_disk__loaded_by_section),
		cmocka_unit_test(test_real__stopped_daemon__deadlines_hold),
		cmocka_unit_test(test_real__stopped_client__no_wrong_byte),
		cmocka_unit_test(test_real__limits__are_clear_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
