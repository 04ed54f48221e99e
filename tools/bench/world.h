/* SPDX-License-Identifier: Apache-2.0
 * A kvcaskd of the bench's own: a child process with a fresh folder, a socket in it and the settings of the case. It dies with the bench. */
#ifndef BENCH_WORLD_H
#define BENCH_WORLD_H

#include <sys/types.h>

#include <kvcask/kvcask.h>

#include "tools/bench/bench.h"
#include "tools/bench/shapes.h"

#define BENCH_TIMEOUT_NS (60 * UINT64_C(1000000000))

struct bench_world {
	const struct bench_options *options;
	char folder[512];  /* what the bench made, on options->folder: log and data */
	char socket[108];
	char config[640];
	pid_t pid;         /* 0: not running */
	pid_t janitor;     /* removes the folder when the bench is killed */
	int janitor_pipe;
	uint64_t spawned_ns;
};

/* settings: lines of the config file ("memory.capacity: 1GiB"), NULL ends. with_disk: data_dir in the folder. Returns when it answers. On
 * failure the end of its log is shown, and there is nothing to clean up. */
kvc_status_t bench_world_begin(struct bench_world *world, const struct bench_options *options, const char *const *settings,
                               bool with_disk);
/* SIGTERM, and waits for its clean end. */
kvc_status_t bench_world_stop(struct bench_world *world);
/* Starts it again on the same folder. wait: until it answers. */
kvc_status_t bench_world_start(struct bench_world *world, bool wait);
/* Stops it and removes the folder. Safe on a zeroed or half-made one. */
void bench_world_end(struct bench_world *world);

/* A client and a space of `shape` over `engine` (NULL: no memory is set). */
struct bench_client {
	struct kvc_client *client;
	struct kvc_space *space;
};
kvc_status_t bench_client_open(const struct bench_world *world, const struct bench_shape *shape,
                               const struct bench_engine *engine, struct bench_client *ret_client);
void bench_client_close(struct bench_client *client);

/* Figures of the client itself; see kvc_client_stats. */
struct bench_client_figures {
	double round_trips, syscalls, locks, allocations, messages_sent;
};
kvc_status_t bench_client_figures(const struct bench_client *client, struct bench_client_figures *ret_figures);
/* Adds what happened since `before`, per block, to the result. */
kvc_status_t bench_client_count(const struct bench_client *client, const struct bench_client_figures *before, double blocks,
                                struct bench_result *result);
/* A number out of the daemon's "stat" answer, by its name anywhere in it. NOT_FOUND. */
kvc_status_t bench_daemon_stat(const struct bench_client *client, const char *name, double *ret_value);
/* VmRSS less RssShmem of a process. */
kvc_status_t bench_private_bytes(pid_t pid, uint64_t *ret_bytes);
/* Of the slabs that a process has mapped and touched: the share that it has in huge pages. */
double bench_huge_share(pid_t pid);

/* Hash number `number` of the family `family`: all different, the same in every run. */
void bench_hash(uint64_t family, uint64_t number, uint8_t out[KVC_HASH_BYTES]);
/* `count` blocks of one chain: numbers first, first + 1, ... */
void bench_chain(uint64_t family, uint64_t first, uint32_t count, uint32_t block_tokens, struct kvc_store_block *out);

/* Runs a program, its standard output as text (kvci_free); what it says on stderr goes into `log`. NOT_FOUND: there is no such program;
 * IO: it failed. */
kvc_status_t bench_spawn_read(const char *const *arguments, const char *log, char **ret_text);
/* On a disk, not in memory. */
bool bench_on_disk(const char *folder);

#endif
