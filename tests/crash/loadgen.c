/* SPDX-License-Identifier: Apache-2.0
 *
 * loadgen: a client whose loads can be checked to the last byte. Used by the crash and fault tests.
 *
 *   loadgen run    makes requests (match with lease, load and check, store the rest) until --seconds or --requests are over
 *   loadgen check  looks for every block that a log says was stored, loads it and checks it
 *   loadgen epoch  raises the epoch of the space
 *   loadgen ask    puts the admin question --question with --arguments and prints the JSON answer
 *   loadgen hold   reserves or leases, prints "holding" and waits to be killed (--hold reserve|lease|both, --fork)
 *
 * The log (--log) has a line an event, written with one write each, so that a kill tears none: "s CHAIN INDEX" a block was stored (commit
 * answered OK), "f" everything above is flushed. Answers are one JSON object on stdout. Exit code: 0, 1 something failed, 3 WRONG BYTES.
 */
#include "tests/crash/loadgen.h"
#include "tests/support/random.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RUN_BLOCKS_MAX = 64 };

struct options {
	const char *command, *target, *log, *hold, *model, *session, *question, *arguments;
	uint64_t seed, chains, requests, seconds, block_bytes, flush_every, timeout_ms;
	uint32_t blocks;
	bool fork_child, random, list;
};

struct figures {
	uint64_t requests, hits, misses, loaded, load_failed, stored, store_refused, wrong, flushes, flush_failed, match_failed;
	uint64_t expected, expected_flushed, hits_flushed;
};

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int fail(const char *what, kvc_status_t status)
{
	fprintf(stderr, "loadgen: %s: %s (%s)\n", what, kvc_status_text(status), kvc_last_error());
	return 1;
}

static kvc_status_t open_space(const struct options *options, const struct loadgen_shape *shape, struct kvc_client **client,
                               struct kvc_space **space)
{
	struct kvc_open_options open_options = {
		.struct_bytes = sizeof(open_options),
		.name = "loadgen",
		.session = options->session,
	};
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc),
		.model = options->model,
		.model_name = "loadgen",
		.kv_dtype = "bfloat16",
		.hash_algorithm = "loadgen",
	};
	kvc_status_t status = kvc_open(options->target, &open_options, client);

	if (status != KVC_OK)
		return status;
	status = kvc_space_open(*client, &desc, &shape->form, space);
	if (status == KVC_OK)
		status = kvc_space_set_memory(*space, shape->layers, shape->form.layer_count);
	return status;
}

static void log_line(int log, const char *line)
{
	size_t length = strlen(line);

	if (log >= 0 && write(log, line, length) != (ssize_t)length) {
		fprintf(stderr, "loadgen: log: %s\n", strerror(errno));
		exit(1);
	}
}

static void print_figures(const struct figures *f)
{
	printf("{\"requests\": %llu, \"hits\": %llu, \"misses\": %llu, \"loaded\": %llu, \"load_failed\": %llu, \"stored\": %llu, "
	       "\"store_refused\": %llu, \"wrong\": %llu, \"flushes\": %llu, \"flush_failed\": %llu, \"match_failed\": %llu, "
	       "\"expected\": %llu, \"expected_flushed\": %llu, \"hits_flushed\": %llu}\n",
	       (unsigned long long)f->requests, (unsigned long long)f->hits, (unsigned long long)f->misses,
	       (unsigned long long)f->loaded, (unsigned long long)f->load_failed, (unsigned long long)f->stored,
	       (unsigned long long)f->store_refused, (unsigned long long)f->wrong, (unsigned long long)f->flushes,
	       (unsigned long long)f->flush_failed, (unsigned long long)f->match_failed, (unsigned long long)f->expected,
	       (unsigned long long)f->expected_flushed, (unsigned long long)f->hits_flushed);
	fflush(stdout);
}

/* What was loaded must be right to the last byte; what was not loaded is wiped first, so that nothing old passes. */
static void check_loaded(const struct loadgen_shape *shape, uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                         const kvc_status_t *statuses, struct figures *f)
{
	for (uint32_t i = 0; i < count; i++) {
		if (statuses[i] != KVC_OK) {
			f->load_failed++;
			continue;
		}
		f->loaded++;
		int verdict = loadgen_check(shape, i, hashes[i]);
		if (verdict != 0) {
			f->wrong++;
			fprintf(stderr, "loadgen: WRONG BYTES in block %u (%s)\n", i, verdict == 2 ? "all" : "some");
		}
	}
}

static void load_and_check(struct kvc_space *space, const struct loadgen_shape *shape, const struct options *options,
                           const struct kvc_request *request, uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t count,
                           struct figures *f)
{
	uint32_t engine_blocks[RUN_BLOCKS_MAX * 2];
	kvc_status_t statuses[RUN_BLOCKS_MAX];

	for (uint32_t i = 0; i < count; i++)
		loadgen_wipe(shape, i);
	loadgen_engine_blocks(shape, 0, count, engine_blocks);
	(void)kvc_load(space, request, 0, count, engine_blocks, options->timeout_ms * 1000000u, statuses);
	check_loaded(shape, hashes, count, statuses, f);
}

static void store_rest(struct kvc_space *space, const struct loadgen_shape *shape, const struct options *options, uint64_t chain,
                       uint8_t (*hashes)[KVC_HASH_BYTES], uint32_t from, uint32_t count, int log, struct figures *f)
{
	struct kvc_store_block blocks[RUN_BLOCKS_MAX] = { 0 };
	uint32_t engine_blocks[RUN_BLOCKS_MAX * 2];
	kvc_status_t statuses[RUN_BLOCKS_MAX];
	char line[64];

	for (uint32_t i = from; i < count; i++) {
		loadgen_fill(shape, i, hashes[i]);
		memcpy(blocks[i - from].hash, hashes[i], KVC_HASH_BYTES);
		if (i > 0)
			memcpy(blocks[i - from].parent_hash, hashes[i - 1], KVC_HASH_BYTES);
		blocks[i - from].position_tokens = (uint64_t)i * shape->form.block_tokens;
	}
	loadgen_engine_blocks(shape, from, count - from, engine_blocks);
	(void)kvc_store(space, blocks, count - from, engine_blocks, options->timeout_ms * 1000000u, statuses);
	for (uint32_t i = from; i < count; i++) {
		if (statuses[i - from] == KVC_OK) {
			f->stored++;
			snprintf(line, sizeof(line), "s %llu %u\n", (unsigned long long)chain, i);
			log_line(log, line);
		} else {
			f->store_refused++;
		}
	}
}

static void one_request(struct kvc_client *client, struct kvc_space *space, const struct loadgen_shape *shape,
                        const struct options *options, uint64_t chain, int log, struct figures *f)
{
	uint8_t hashes[RUN_BLOCKS_MAX][KVC_HASH_BYTES];
	struct kvc_match_result match = { 0 };
	struct { uint64_t pid, number; } id = { (uint64_t)getpid(), f->requests };
	struct kvc_request request = { &id, sizeof(id) };

	f->requests++;
	for (uint32_t i = 0; i < options->blocks; i++)
		loadgen_hash(options->seed, chain, i, hashes[i]);
	kvc_status_t status = kvc_match(space, hashes, options->blocks, &request, KVC_MATCH_LEASE,
	                                options->timeout_ms * 1000000u, &match);
	if (status != KVC_OK) {
		f->match_failed++;
		match.matched_blocks = 0;
	}
	f->hits += match.matched_blocks;
	f->misses += options->blocks - match.matched_blocks;
	if (match.matched_blocks != 0)
		load_and_check(space, shape, options, &request, hashes, match.matched_blocks, f);
	(void)kvc_release(client, &request);
	if (match.matched_blocks < options->blocks)
		store_rest(space, shape, options, chain, hashes, match.matched_blocks, options->blocks, log, f);
}

static int command_run(const struct options *options, struct kvc_client *client, struct kvc_space *space,
                       const struct loadgen_shape *shape)
{
	struct figures f = { 0 };
	uint64_t random = options->seed * 2 + 1 + (options->random ? (uint64_t)getpid() << 20 : 0);
	uint64_t end_ns = now_ns() + options->seconds * 1000000000u;
	int log = -1;

	if (options->log != NULL && (log = open(options->log, O_WRONLY | O_CREAT | O_APPEND, 0600)) < 0) {
		fprintf(stderr, "loadgen: %s: %s\n", options->log, strerror(errno));
		return 1;
	}
	printf("running\n");
	fflush(stdout);
	while ((options->requests == 0 || f.requests < options->requests) && (options->seconds == 0 || now_ns() < end_ns)) {
		one_request(client, space, shape, options, random_step(&random) % options->chains, log, &f);
		if (options->flush_every != 0 && f.requests % options->flush_every == 0) {
			if (kvc_flush(client, options->timeout_ms * 1000000u) == KVC_OK) {
				f.flushes++;
				log_line(log, "f\n");
			} else {
				f.flush_failed++;
			}
		}
	}
	if (log >= 0)
		close(log);
	print_figures(&f);
	return f.wrong != 0 ? 3 : 0;
}

struct logged {
	uint64_t chain;
	uint32_t index;
	bool flushed;
};

/* The log's blocks, each marked whether a flush came after it. */
static struct logged *read_log(const char *path, size_t *ret_count)
{
	FILE *file = fopen(path, "r");
	struct logged *blocks = NULL;
	size_t count = 0, room = 0, flushed = 0;
	char line[128];

	if (file == NULL)
		return NULL;
	while (fgets(line, sizeof(line), file) != NULL) {
		unsigned long long chain;
		unsigned index;
		if (line[0] == 'f') {
			for (; flushed < count; flushed++)
				blocks[flushed].flushed = true;
		} else if (sscanf(line, "s %llu %u", &chain, &index) == 2) {
			if (count == room) {
				room = room == 0 ? 1024 : room * 2;
				struct logged *more = realloc(blocks, room * sizeof(*blocks));
				if (more == NULL)
					break;
				blocks = more;
			}
			blocks[count++] = (struct logged){ chain, index, false };
		}
	}
	fclose(file);
	*ret_count = count;
	return blocks != NULL ? blocks : calloc(1, sizeof(*blocks));
}

/* --list: a line a block, "b HASH loaded|failed|missed". */
static void list_block(const uint8_t hash[KVC_HASH_BYTES], const char *verdict)
{
	printf("b ");
	for (unsigned i = 0; i < KVC_HASH_BYTES; i++)
		printf("%02x", hash[i]);
	printf(" %s\n", verdict);
}

static int command_check(const struct options *options, struct kvc_client *client, struct kvc_space *space,
                         const struct loadgen_shape *shape)
{
	struct figures f = { 0 };
	size_t count = 0;
	struct logged *blocks = options->log != NULL ? read_log(options->log, &count) : NULL;

	if (blocks == NULL) {
		fprintf(stderr, "loadgen: no log\n");
		return 1;
	}
	for (size_t i = 0; i < count; i++) {
		uint8_t hash[1][KVC_HASH_BYTES];
		struct kvc_match_result match = { 0 };
		struct { uint64_t pid, number; } id = { (uint64_t)getpid(), i };
		struct kvc_request request = { &id, sizeof(id) };
		uint64_t loaded_before = f.loaded;

		f.expected++;
		f.expected_flushed += blocks[i].flushed;
		loadgen_hash(options->seed, blocks[i].chain, blocks[i].index, hash[0]);
		if (kvc_match(space, hash, 1, &request, KVC_MATCH_LEASE, options->timeout_ms * 1000000u, &match) != KVC_OK)
			f.match_failed++;
		else if (match.matched_blocks == 1) {
			f.hits++;
			load_and_check(space, shape, options, &request, hash, 1, &f);
		} else {
			f.misses++;
		}
		f.hits_flushed += blocks[i].flushed && f.loaded > loaded_before;
		(void)kvc_release(client, &request);
		if (options->list)
			list_block(hash[0], f.loaded > loaded_before ? "loaded" : match.matched_blocks == 1 ? "failed" : "missed");
	}
	free(blocks);
	print_figures(&f);
	return f.wrong != 0 ? 3 : 0;
}

static int command_hold(const struct options *options, struct kvc_space *space)
{
	uint8_t hashes[RUN_BLOCKS_MAX][KVC_HASH_BYTES];
	struct kvc_store_block blocks[RUN_BLOCKS_MAX] = { 0 };
	struct kvc_reservation reservations[RUN_BLOCKS_MAX];
	struct kvc_request request = { "hold", 4 };
	struct kvc_match_result match = { 0 };

	if (strcmp(options->hold, "reserve") != 0) {
		for (uint32_t i = 0; i < options->blocks; i++)
			loadgen_hash(options->seed, 0, i, hashes[i]);
		kvc_status_t status = kvc_match(space, hashes, options->blocks, &request, KVC_MATCH_LEASE,
		                                options->timeout_ms * 1000000u, &match);
		if (status != KVC_OK)
			return fail("match", status);
	}
	if (strcmp(options->hold, "lease") != 0) {
		for (uint32_t i = 0; i < options->blocks; i++) /* a chain of this process alone */
			loadgen_hash(options->seed, UINT64_C(1) << 40 | (uint64_t)getpid(), i, blocks[i].hash);
		kvc_status_t status = kvc_reserve(space, blocks, options->blocks, options->timeout_ms * 1000000u, reservations);
		if (status != KVC_OK)
			return fail("reserve", status);
	}
	pid_t child = options->fork_child ? fork() : 0;
	while (options->fork_child && child == 0)
		pause(); /* keeps the socket open: the daemon must notice the parent's death by its pidfd */
	printf("holding %u %d\n", match.matched_blocks, (int)child);
	fflush(stdout);
	for (;;)
		pause();
}

static int command_ask(const struct options *options)
{
	struct kvc_open_options open_options = { .struct_bytes = sizeof(open_options), .name = "loadgen-ask" };
	struct kvc_client *client = NULL;
	char *json = NULL;
	kvc_status_t status = kvc_open(options->target, &open_options, &client);

	if (status == KVC_OK)
		status = kvc_admin(client, options->question, options->arguments, options->timeout_ms * 1000000u, &json);
	int rc = status == KVC_OK ? 0 : fail(options->question, status);
	if (rc == 0)
		printf("%s\n", json);
	kvc_free(json);
	kvc_close(client);
	return rc;
}

static const struct option long_options[] = {
	{ "target", required_argument, NULL, 't' },      { "log", required_argument, NULL, 'l' },
	{ "seed", required_argument, NULL, 's' },        { "chains", required_argument, NULL, 'c' },
	{ "blocks", required_argument, NULL, 'b' },      { "requests", required_argument, NULL, 'n' },
	{ "seconds", required_argument, NULL, 'S' },     { "block-bytes", required_argument, NULL, 'B' },
	{ "flush-every", required_argument, NULL, 'f' }, { "timeout-ms", required_argument, NULL, 'T' },
	{ "hold", required_argument, NULL, 'H' },        { "fork", no_argument, NULL, 'F' },
	{ "random", no_argument, NULL, 'r' },            { "model", required_argument, NULL, 'm' },
	{ "session", required_argument, NULL, 'e' },     { "list", no_argument, NULL, 'L' },
	{ "question", required_argument, NULL, 'q' },    { "arguments", required_argument, NULL, 'a' },
	{ NULL, 0, NULL, 0 },
};

static int parse(int argc, char **argv, struct options *o)
{
	int c;

	*o = (struct options){ .hold = "both", .model = "loadgen", .seed = 1, .chains = 64, .blocks = 16, .block_bytes = 65536, .timeout_ms = 5000 };
	if (argc < 2)
		return 0;
	o->command = argv[1];
	for (optind = 2; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
		switch (c) {
		case 't': o->target = optarg; break;
		case 'l': o->log = optarg; break;
		case 's': o->seed = strtoull(optarg, NULL, 10); break;
		case 'c': o->chains = strtoull(optarg, NULL, 10); break;
		case 'b': o->blocks = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'n': o->requests = strtoull(optarg, NULL, 10); break;
		case 'S': o->seconds = strtoull(optarg, NULL, 10); break;
		case 'B': o->block_bytes = strtoull(optarg, NULL, 10); break;
		case 'f': o->flush_every = strtoull(optarg, NULL, 10); break;
		case 'T': o->timeout_ms = strtoull(optarg, NULL, 10); break;
		case 'H': o->hold = optarg; break;
		case 'F': o->fork_child = true; break;
		case 'r': o->random = true; break;
		case 'm': o->model = optarg; break;
		case 'e': o->session = optarg; break;
		case 'L': o->list = true; break;
		case 'q': o->question = optarg; break;
		case 'a': o->arguments = optarg; break;
		default: return 0;
		}
	}
	return o->target != NULL && o->chains != 0 && o->blocks != 0 && o->blocks <= RUN_BLOCKS_MAX;
}

int main(int argc, char **argv)
{
	struct options options;
	struct loadgen_shape shape;
	struct kvc_client *client = NULL;
	struct kvc_space *space = NULL;
	int rc = 2;

	if (!parse(argc, argv, &options)) {
		fprintf(stderr, "usage: loadgen run|check|epoch|hold|ask --target unix:PATH [--log FILE] [--seed N] [--chains N] [--blocks N] [--requests N] "
		                "[--seconds N] [--block-bytes N] [--flush-every N] [--timeout-ms N] [--hold reserve|lease|both] [--fork] [--random] "
		                "[--model TEXT] [--session TEXT] [--list] [--question TEXT] [--arguments JSON]\n");
		return 2;
	}
	if (strcmp(options.command, "ask") == 0)
		return command_ask(&options);
	if (!loadgen_shape_init(&shape, options.block_bytes, options.blocks)) {
		fprintf(stderr, "loadgen: no memory\n");
		return 1;
	}
	kvc_status_t status = open_space(&options, &shape, &client, &space);
	if (status != KVC_OK)
		rc = fail("open", status);
	else if (strcmp(options.command, "run") == 0)
		rc = command_run(&options, client, space, &shape);
	else if (strcmp(options.command, "check") == 0)
		rc = command_check(&options, client, space, &shape);
	else if (strcmp(options.command, "hold") == 0)
		rc = command_hold(&options, space);
	else if (strcmp(options.command, "epoch") == 0) {
		status = kvc_space_raise_epoch(space, options.timeout_ms * 1000000u);
		rc = status == KVC_OK ? 0 : fail("epoch", status);
	} else
		fprintf(stderr, "loadgen: unknown command '%s'\n", options.command);
	kvc_space_close(space);
	kvc_close(client);
	loadgen_shape_fini(&shape);
	return rc;
}
