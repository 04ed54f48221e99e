/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/fill.h"

#include <string.h>

#include "base/alloc.h"

void bench_fill_keys(const struct bench_fill *fill, uint32_t chain, uint32_t count, uint8_t (*out)[KVC_HASH_BYTES])
{
	for (uint32_t i = 0; i < count; i++)
		bench_hash(fill->family, (uint64_t)chain * BENCH_FILL_CHAIN + i, out[i]);
}

static kvc_status_t fill_chain(struct bench_fill *fill, uint32_t chain)
{
	bench_chain(fill->family, (uint64_t)chain * BENCH_FILL_CHAIN, BENCH_FILL_CHAIN, fill->shape.form.block_tokens,
	            fill->blocks);
	kvc_status_t status = kvc_store(fill->client.space, fill->blocks, BENCH_FILL_CHAIN, fill->pages, BENCH_TIMEOUT_NS,
	                                fill->statuses);
	if (status == KVC_OK && fill->flush)
		status = kvc_flush(fill->client.client, BENCH_TIMEOUT_NS);
	if (status != KVC_OK)
		bench_note("filling, chain %u: %s (%s)", chain, kvc_status_text(status), kvc_last_error());
	return status;
}

kvc_status_t bench_fill_run(struct bench_fill *fill, const struct bench_world *world)
{
	bench_shape_tiny(&fill->shape);
	kvc_status_t status = bench_engine_init(&fill->engine, &fill->shape, UINT64_C(4) << 20);
	if (status != KVC_OK)
		return status;
	fill->blocks = kvci_alloc(BENCH_FILL_CHAIN * sizeof(*fill->blocks));
	fill->pages = kvci_alloc(BENCH_FILL_CHAIN * sizeof(*fill->pages));
	fill->statuses = kvci_alloc(BENCH_FILL_CHAIN * sizeof(*fill->statuses));
	if (fill->blocks == NULL || fill->pages == NULL || fill->statuses == NULL)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < BENCH_FILL_CHAIN; i++)
		fill->pages[i] = *bench_engine_pages(&fill->engine, i % fill->engine.block_count);
	status = bench_client_open(world, &fill->shape, &fill->engine, &fill->client);
	for (uint32_t chain = 0; chain < fill->chain_count && status == KVC_OK; chain++) {
		bench_progress(fill->options, "filling, chains of 8192 blocks", chain, fill->chain_count);
		status = fill_chain(fill, chain);
	}
	bench_progress(fill->options, "", 0, 0);
	return status;
}

void bench_fill_end(struct bench_fill *fill)
{
	bench_client_close(&fill->client);
	bench_engine_fini(&fill->engine);
	kvci_free(fill->blocks);
	kvci_free(fill->pages);
	kvci_free(fill->statuses);
	*fill = (struct bench_fill){ 0 };
}
