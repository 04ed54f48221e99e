/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/bench/bench.h"

struct bench_entry {
	const char *name;
	bench_fn run;
	const char *text;
};

static const struct bench_entry bench_table[] = {
	{ "local", bench_local, "store and load through the daemon against memcpy and the bare copy" },
	{ "match", bench_match, "matches against a million blocks; what a block costs the daemon" },
	{ "disk", bench_disk, "store and load with the disk against fio" },
	{ "sections", bench_sections, "a load's first layer beside the whole, from the disk, of each kind of record" },
	{ "restart", bench_restart, "first and last right match after a restart with a million records" },
	{ "idle", bench_idle, "memory and CPU of a daemon with nothing to do" },
	{ "allocator", bench_allocator, "places in a slab: bytes that are free but of no use, time an operation" },
	{ "arena", bench_arena, "memory wasted when blocks of all sizes are stored, with the brain's eviction" },
	{ "index", bench_index, "8,192 look-ups against a million blocks; its growth, step by step" },
	{ "brain", bench_brain, "matches, leases and stores of the brain by itself" },
	{ "keys", bench_keys, "key chain of 128 K tokens against the bare hashing" },
	{ "codec", bench_codec, "ratio and speed of each codec, beside memcpy" },
	{ "copy", bench_copy, "gather and scatter with checksum against memcpy, without a daemon" },
};

enum { BENCH_TABLE_COUNT = sizeof(bench_table) / sizeof(bench_table[0]) };

static void main_usage(FILE *out)
{
	fprintf(out, "usage: kvcask bench [NAME ...] [--json] [--quick] [--pairs N] [--only TEXT] [--folder DIR]\n"
	             "                    [--daemon FILE] [--progress] [--codec SPEC] [--kv K.npy V.npy] [--profile FILE]\n"
	             "                    [--rope-theta THETA] [--dtype bf16|f32]\n"
	             "Measures kvcask beside a reference, in turns, in one run. NAMEs (none: all):\n");
	for (size_t i = 0; i < BENCH_TABLE_COUNT; i++)
		fprintf(out, "  %-10s %s\n", bench_table[i].name, bench_table[i].text);
	fprintf(out, "  --json         one JSON object a measurement\n"
	             "  --quick        smaller and fewer: a minute in all; bars are still compared\n"
	             "  --pairs N      turns of ours and the reference (at least %d)\n"
	             "  --only TEXT    only the cases with TEXT in \"bench.case\"\n"
	             "  --folder DIR   on a real disk, for what is written (default: the current one)\n"
	             "  --daemon FILE  kvcaskd (default: beside this program)\n"
	             "  --codec SPEC   codec: this one only: NAME or NAME:key=value,...\n"
	             "  --kv K.npy V.npy  codec: bf16 as uint16 [layers, tokens, heads, dims], not what the bench makes up\n"
	             "  --dtype f32    codec: the same as fp32, as an engine holds it that computes so: with random bits below those of bf16\n"
	             "  --profile FILE  codec: what kvcask calibrate made, for the codecs that need it; without: made of the sample's\n"
	             "                  first half, for its second, K being rotated by --rope-theta (default 100000; 0: it is not)\n"
	             "  --progress     say on stderr what runs, also when that is no terminal\n"
	             "Exit status: 0 all bars met, 1 a bar missed, 2 wrong usage, 3 a bench failed.\n",
	        BENCH_PAIRS_MIN);
}

static const struct bench_entry *main_find(const char *name)
{
	for (size_t i = 0; i < BENCH_TABLE_COUNT; i++)
		if (strcmp(bench_table[i].name, name) == 0)
			return &bench_table[i];
	return NULL;
}

static int main_run(const struct bench_entry *entry, const struct bench_options *options, struct bench_report *report)
{
	kvc_status_t status = entry->run(options, report);

	if (status == KVC_OK)
		return 0;
	bench_note("%s failed: %s", entry->name, kvc_status_text(status));
	return 3;
}

/* -1: go on; else the exit status. */
static int main_options(int argc, char **argv, struct bench_options *options)
{
	static const struct option table[] = {
		{ "json", no_argument, NULL, 'j' },           { "quick", no_argument, NULL, 'q' },
		{ "pairs", required_argument, NULL, 'n' },    { "only", required_argument, NULL, 'o' },
		{ "folder", required_argument, NULL, 'f' },   { "daemon", required_argument, NULL, 'd' },
		{ "progress", no_argument, NULL, 'p' },       { "help", no_argument, NULL, 'h' },
		{ "codec", required_argument, NULL, 'c' },    { "kv", required_argument, NULL, 'k' },
		{ "profile", required_argument, NULL, 'P' },  { "rope-theta", required_argument, NULL, 't' },
		{ "dtype", required_argument, NULL, 'T' },    { NULL, 0, NULL, 0 },
	};
	char *end;
	int found;

	optind = 1;
	while ((found = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (found) {
		case 'j':
			options->json = true;
			break;
		case 'q':
			options->quick = true;
			break;
		case 'n':
			options->pairs = (uint32_t)strtoul(optarg, &end, 10);
			if (*end != '\0' || options->pairs == 0 || options->pairs > 1000000) {
				fprintf(stderr, "kvcask bench: --pairs: %s is no number of pairs\n", optarg);
				return 2;
			}
			break;
		case 'o':
			options->only = optarg;
			break;
		case 'f':
			options->folder = optarg;
			break;
		case 'd':
			options->daemon = optarg;
			break;
		case 'c':
			options->codec = optarg;
			break;
		case 'k': /* two names: the second is the next argument */
			if (optind >= argc) {
				main_usage(stderr);
				return 2;
			}
			options->kv[0] = optarg;
			options->kv[1] = argv[optind++];
			break;
		case 'T':
			options->f32 = strcmp(optarg, "f32") == 0;
			if (!options->f32 && strcmp(optarg, "bf16") != 0) {
				fprintf(stderr, "kvcask bench: --dtype: %s is neither bf16 nor f32\n", optarg);
				return 2;
			}
			break;
		case 'P':
			options->profile = optarg;
			break;
		case 't':
			options->rope_theta = strtod(optarg, &end);
			if (*end != '\0' || !(options->rope_theta == 0 || options->rope_theta > 1)) {
				fprintf(stderr, "kvcask bench: --rope-theta: %s is no theta\n", optarg);
				return 2;
			}
			break;
		case 'p':
			options->progress = true;
			break;
		case 'h':
			main_usage(stdout);
			return 0;
		default:
			main_usage(stderr);
			return 2;
		}
	}
	return -1;
}

/* The environment is over a daemon's file: what the user's own daemon and tools are told is not meant for those that are measured. */
static void main_forget_environment(void)
{
	char name[128];

	for (char **at = environ; at != NULL && *at != NULL;) {
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(*at, "="), *at);
		if (strncmp(name, "KVCASK_", 7) != 0 || strcmp(name, "KVCASK_MODULES") == 0 || unsetenv(name) != 0)
			at++; /* else the next one is here now */
	}
}

int kvci_bench_main(int argc, char **argv)
{
	struct bench_options options = { .folder = ".", .rope_theta = 100000 };
	struct bench_report report = { .options = &options };
	int failed = main_options(argc, argv, &options);

	if (failed >= 0)
		return failed;
	main_forget_environment();
	failed = 0;
	for (int i = optind; i < argc; i++)
		if (main_find(argv[i]) == NULL) {
			fprintf(stderr, "kvcask bench: no bench is called %s\n", argv[i]);
			main_usage(stderr);
			return 2;
		}
	if (optind == argc)
		for (size_t i = 0; i < BENCH_TABLE_COUNT; i++)
			failed |= main_run(&bench_table[i], &options, &report);
	for (int i = optind; i < argc; i++)
		failed |= main_run(main_find(argv[i]), &options, &report);
	return failed != 0 ? failed : report.missed != 0;
}
