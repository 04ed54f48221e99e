/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcask bench: measures what docs/performance.md promises. One measurement is one struct bench_result, printed as
 * one JSON object (--json) or one line of a table.
 *
 * Method: ours and the reference take turns in one run, the order inside a pair alternating; each pair gives a ratio, the result is the
 * median of the ratios. Absolute figures are medians as well; they depend on the machine, the ratio much less.
 *
 * Threads: one; what a bench starts besides (daemon, fio) are processes that it ends again.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

enum { BENCH_COUNTS_MAX = 20, BENCH_PAIRS_MIN = 9 };

struct bench_options {
	bool json;
	bool quick;          /* fewer pairs, smaller data: minutes become seconds; the bars are still compared */
	bool progress;       /* lines on stderr; on by itself when stderr is a terminal */
	uint32_t pairs;      /* 0: each bench's own number */
	const char *folder;  /* on a real disk: everything written goes into a fresh folder in it */
	const char *daemon;  /* path of kvcaskd */
	const char *only;    /* NULL, or a part of the case names to run */
	const char *codec;   /* NULL: all codecs */
	const char *profile; /* NULL, or a file that kvcask calibrate made */
	double rope_theta;   /* of K in kv[0], where a profile is made of it; 0: not rotated */
	const char *kv[2];   /* .npy files of K and V; NULLs: made ones */
	bool f32;            /* codecs: the sample as fp32, with random bits below those of bf16 */
};

/* How a bar is read: the value named must be at least or at most `bar`. */
enum bench_bar_kind {
	BENCH_BAR_NONE = 0,
	BENCH_BAR_RATIO_MIN,
	BENCH_BAR_OURS_MAX,
	BENCH_BAR_P50_US_MAX,
};

/* A number that belongs to the measurement: copies, system calls, allocations, dropped pairs. */
struct bench_count {
	const char *name;
	double value;
};

struct bench_result {
	const char *bench;          /* "local" */
	char name[64];              /* the case: "store_32MiB" */
	const char *reference_name; /* "memcpy"; "" when there is none */
	const char *unit;           /* of ours and reference: "GB/s", "us", "percent", "bytes" */
	double ours, reference;
	double ratio;  /* speed of ours over the reference's; for bars on costs: ours / bar. 0: none */
	double spread; /* of the ratios: (third quartile - first quartile) / median */
	double p50_us, p99_us; /* of single operations; 0: not taken */
	uint64_t n;            /* pairs, or operations where there are no pairs */
	enum bench_bar_kind bar_kind;
	double bar;
	uint32_t count_count;
	struct bench_count counts[BENCH_COUNTS_MAX];
};

void bench_result_count(struct bench_result *result, const char *name, double value);
/* NONE: met. */
bool bench_result_met(const struct bench_result *result);

/* ---- the report --------------------------------------------------------------------------------------------------- */

struct bench_report {
	const struct bench_options *options;
	uint32_t printed, missed;
};
/* Prints a finished result at once. */
void bench_report_add(struct bench_report *report, const struct bench_result *result);
/* A line on stderr, for people; always printed. */
void bench_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Where a long bench stands: `done` of `total` steps of `what`; overwrites itself. total 0 ends the line. */
void bench_progress(const struct bench_options *options, const char *what, uint64_t done, uint64_t total);

/* ---- measuring ------------------------------------------------------------------------------------------------------ */

uint64_t bench_now_ns(void);
/* CPU time of this thread: for single steps, whose wall time would tell of other processes on the same core. */
uint64_t bench_thread_ns(void);
/* CPU time of this process, and of another (0 when it is gone). */
uint64_t bench_cpu_ns(void);
uint64_t bench_cpu_of_ns(int pid);

/* Times of single operations. Zero it before first use. */
struct bench_samples {
	double *ns;
	uint32_t count, room;
};
kvc_status_t bench_samples_add(struct bench_samples *samples, double ns);
double bench_samples_at(struct bench_samples *samples, double share); /* 0.5: median; sorts */
void bench_samples_clear(struct bench_samples *samples);              /* keeps the memory */
void bench_samples_fini(struct bench_samples *samples);

/* Times of ours and the reference, each for the same work. Zero it before first use. */
struct bench_pairs {
	struct bench_samples ours, reference, ratios;
};
kvc_status_t bench_pairs_add(struct bench_pairs *pairs, double ours_ns, double reference_ns);
void bench_pairs_fini(struct bench_pairs *pairs);
/* Fills ours, reference (GB/s of `bytes`, or us when bytes is 0), ratio, spread and n. */
void bench_pairs_into(struct bench_pairs *pairs, uint64_t bytes, struct bench_result *result);
uint32_t bench_pair_count(const struct bench_options *options, uint32_t full, uint32_t quick);
/* True: the reference goes first in this pair. */
bool bench_reference_first(uint32_t pair);

/* xorshift; the state is never 0. */
uint64_t bench_random(uint64_t *state);
/* Name filter: `only` is NULL or a part of "bench.case". */
bool bench_wanted(const struct bench_options *options, const char *bench, const char *name);

/* ---- the benches: each adds its results; a status other than OK ends it (said on stderr) --------------------------------- */

typedef kvc_status_t (*bench_fn)(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_allocator(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_arena(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_index(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_brain(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_keys(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_copy(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_local(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_match(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_disk(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_restart(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_codec(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_sections(const struct bench_options *options, struct bench_report *report);
kvc_status_t bench_idle(const struct bench_options *options, struct bench_report *report);

/* `kvcask bench ...`: argv[0] is "bench". Returns the exit status: 0 all bars met, 1 some bar missed, 2 wrong usage, 3 a bench failed. */
int kvci_bench_main(int argc, char **argv);

#endif
