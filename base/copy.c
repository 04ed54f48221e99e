/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming XXH3-64 over copies: what is the same for all kernels. Stripes of 64 bytes go to a kernel (copy_kernel.h) once at least one
 * byte behind them is known, as XXH3 treats its last stripe apart; the up to 64 bytes behind wait in `pending`. Inputs of
 * up to 240 bytes have formulas of their own in XXH3 and are kept whole until the end; those come from xxhash.h.
 */
#include "base/copy.h"

#include <stdatomic.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/copy_kernel.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum {
	COPY_SHORT_BYTES_MAX = 240,        /* above, XXH3 uses its long loop */
	COPY_LAST_SECRET = 192 - 64 - 7,   /* of the last stripe */
	COPY_MERGE_SECRET = 11,
	COPY_STREAM_BYTES_MIN = 1024,      /* shorter runs lose by non-temporal stores */
};

static const struct copy_kernel *const copy_kernels[] = {
#if defined(__x86_64__)
	&kvci_copy_kernel_avx512,
	&kvci_copy_kernel_avx2,
#endif
	&kvci_copy_kernel_scalar,
};

static _Atomic(const struct copy_kernel *) copy_selected;

static const struct copy_kernel *copy_kernel(void)
{
	const struct copy_kernel *kernel = atomic_load_explicit(&copy_selected, memory_order_relaxed);

	if (kernel != NULL)
		return kernel;
	/* Two threads may both come here: they find the same. The last one is usable everywhere. */
	for (size_t i = 0; i < sizeof(copy_kernels) / sizeof(copy_kernels[0]); i++) {
		kernel = copy_kernels[i];
		if (kernel->usable())
			break;
	}
	atomic_store_explicit(&copy_selected, kernel, memory_order_relaxed);
	return kernel;
}

const char *kvci_copy_kernel(void)
{
	return copy_kernel()->name;
}

int kvci_copy_select(const char *name)
{
	for (size_t i = 0; i < sizeof(copy_kernels) / sizeof(copy_kernels[0]); i++) {
		if (strcmp(copy_kernels[i]->name, name) == 0 && copy_kernels[i]->usable()) {
			atomic_store_explicit(&copy_selected, copy_kernels[i], memory_order_relaxed);
			return 1;
		}
	}
	return 0;
}

static void copy_fence(void)
{
#if defined(__x86_64__)
	_mm_sfence();
#endif
}

void kvci_copy_begin(struct kvci_copy_state *state, uint64_t seed)
{
	static const uint64_t start[8] = {
		0x00000000C2B2AE3D, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
		0x85EBCA77C2B2AE63, 0x0000000085EBCA77, 0x27D4EB2F165667C5, 0x000000009E3779B1,
	};

	memcpy(state->acc, start, sizeof(start));
	state->seed = seed;
	state->total_bytes = 0;
	state->pending_bytes = 0;
	state->stripes_in_block = 0;
	state->seeded_secret_ready = 0;
}

/* From here on the input is known to be longer than COPY_SHORT_BYTES_MAX. */
static void copy_need_secret(struct kvci_copy_state *state)
{
	if (!state->seeded_secret_ready) {
		XXH3_generateSecret_fromSeed(state->secret, state->seed);
		state->seeded_secret_ready = 1;
	}
}

/* src into pending, and from there to dst: each source byte is read once. */
static void copy_to_pending(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t bytes)
{
	uint8_t *place = state->pending + state->pending_bytes;

	memcpy(place, src, bytes);
	if (dst != NULL)
		memcpy(dst, place, bytes);
	state->pending_bytes += (uint32_t)bytes;
}

static void copy_stripes(struct kvci_copy_state *state, uint8_t *dst, const uint8_t *src, size_t stripes,
                         enum kvci_copy_hint hint)
{
	const struct copy_kernel *kernel = copy_kernel();

	if (dst == NULL)
		kernel->hash(state, src, stripes);
	else if (hint == KVCI_COPY_STREAM && (uintptr_t)dst % COPY_STRIPE_BYTES == 0 &&
	         stripes * COPY_STRIPE_BYTES >= COPY_STREAM_BYTES_MIN)
		kernel->copy_stream(state, dst, src, stripes);
	else
		kernel->copy(state, dst, src, stripes);
}

void kvci_copy_run(struct kvci_copy_state *state, void *dst, const void *src, size_t bytes, enum kvci_copy_hint hint)
{
	const uint8_t *from = src;
	uint8_t *to = dst;
	/* Once stripes are taken, more than one in `pending` is never kept back. */
	size_t room = state->seeded_secret_ready ? COPY_STRIPE_BYTES : sizeof(state->pending);
	size_t fill, stripes;

	if (bytes == 0)
		return;
	state->total_bytes += bytes;
	if (bytes <= room - state->pending_bytes) {
		copy_to_pending(state, to, from, bytes);
		return;
	}
	copy_need_secret(state);
	if (state->pending_bytes != 0) {
		fill = -state->pending_bytes % COPY_STRIPE_BYTES; /* less than bytes, or the room would have been enough */
		copy_to_pending(state, to, from, fill);
		copy_kernel()->hash(state, state->pending, state->pending_bytes / COPY_STRIPE_BYTES);
		state->pending_bytes = 0;
		from += fill;
		to = to == NULL ? NULL : to + fill;
		bytes -= fill;
	}
	stripes = (bytes - 1) / COPY_STRIPE_BYTES;
	if (stripes != 0) {
		copy_stripes(state, to, from, stripes, hint);
		from += stripes * COPY_STRIPE_BYTES;
		to = to == NULL ? NULL : to + stripes * COPY_STRIPE_BYTES;
		bytes -= stripes * COPY_STRIPE_BYTES;
	}
	copy_to_pending(state, to, from, bytes);
}

static uint64_t copy_read64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint64_t copy_merge(const struct kvci_copy_state *state)
{
	const uint8_t *secret = state->secret + COPY_MERGE_SECRET;
	uint64_t result = state->total_bytes * UINT64_C(0x9E3779B185EBCA87);

	for (int pair = 0; pair < 4; pair++) {
		unsigned __int128 product = (unsigned __int128)(state->acc[2 * pair] ^ copy_read64(secret + 16 * pair)) *
		                            (state->acc[2 * pair + 1] ^ copy_read64(secret + 16 * pair + 8));

		result += (uint64_t)product ^ (uint64_t)(product >> 64);
	}
	result ^= result >> 37;
	result *= UINT64_C(0x165667919E3779F9);
	return result ^ (result >> 32);
}

/* XXH3's last stripe: the last 64 bytes of the input, wherever stripes end, under a secret of its own. */
static void copy_last_stripe(struct kvci_copy_state *state)
{
	uint8_t stripe[COPY_STRIPE_BYTES];
	uint32_t have = state->pending_bytes;

	if (have >= COPY_STRIPE_BYTES) {
		memcpy(stripe, state->pending + have - COPY_STRIPE_BYTES, COPY_STRIPE_BYTES);
	} else {
		memcpy(stripe, state->last + have, COPY_STRIPE_BYTES - have);
		memcpy(stripe + COPY_STRIPE_BYTES - have, state->pending, have);
	}
	for (int lane = 0; lane < 8; lane++) {
		uint64_t value = copy_read64(stripe + 8 * lane);
		uint64_t keyed = value ^ copy_read64(state->secret + COPY_LAST_SECRET + 8 * lane);

		state->acc[lane ^ 1] += value;
		state->acc[lane] += (keyed & UINT32_MAX) * (keyed >> 32);
	}
}

uint64_t kvci_copy_end(struct kvci_copy_state *state)
{
	copy_fence();
	if (state->total_bytes <= COPY_SHORT_BYTES_MAX)
		return XXH3_64bits_withSeed(state->pending, (size_t)state->total_bytes, state->seed);
	copy_need_secret(state);
	if (state->pending_bytes > COPY_STRIPE_BYTES) /* 241 to 256 bytes in all */
		copy_kernel()->hash(state, state->pending, (state->pending_bytes - 1) / COPY_STRIPE_BYTES);
	copy_last_stripe(state);
	return copy_merge(state);
}

uint64_t kvci_checksum(const void *bytes, size_t length_bytes, uint64_t seed)
{
	struct kvci_copy_state state;

	if (length_bytes <= COPY_SHORT_BYTES_MAX)
		return XXH3_64bits_withSeed(bytes, length_bytes, seed);
	kvci_copy_begin(&state, seed);
	kvci_copy_run(&state, NULL, bytes, length_bytes, KVCI_COPY_CACHED);
	return kvci_copy_end(&state);
}

void kvci_copy_bare(void *dst, const void *src, size_t bytes)
{
	uint8_t *to = dst;
	const uint8_t *from = src;
	size_t head = -(uintptr_t)to % COPY_STRIPE_BYTES;
	size_t stripes;

	if (bytes < COPY_STREAM_BYTES_MIN) {
		memcpy(dst, src, bytes);
		return;
	}
	memcpy(to, from, head);
	stripes = (bytes - head) / COPY_STRIPE_BYTES;
	copy_kernel()->bare(to + head, from + head, stripes);
	head += stripes * COPY_STRIPE_BYTES;
	memcpy(to + head, from + head, bytes - head);
	copy_fence();
}
