/* SPDX-License-Identifier: Apache-2.0
 * A daemon filled with very many tiny blocks, in chains as long as a prompt's. */
#ifndef BENCH_FILL_H
#define BENCH_FILL_H

#include "tools/bench/world.h"

enum { BENCH_FILL_CHAIN = 8192 };

/* Chain c is made of the hashes (family, c * BENCH_FILL_CHAIN ...). */
struct bench_fill {
	const struct bench_options *options;
	struct bench_client client;
	struct bench_shape shape;
	struct bench_engine engine;
	uint64_t family;
	uint32_t chain_count;
	bool flush; /* after each chain: the write queue never overflows, so that every block reaches the disk */
	struct kvc_store_block *blocks;
	uint32_t *pages;
	kvc_status_t *statuses;
};

/* Stores all chains of `fill`, whose options, family, chain_count and flush are set, and stays open. */
kvc_status_t bench_fill_run(struct bench_fill *fill, const struct bench_world *world);
void bench_fill_end(struct bench_fill *fill);
/* The keys of chain c. */
void bench_fill_keys(const struct bench_fill *fill, uint32_t chain, uint32_t count, uint8_t (*out)[KVC_HASH_BYTES]);

#endif
