/* SPDX-License-Identifier: Apache-2.0
 *
 * Fused copy and checksum: XXH3-64 (seeded, bit-equal to XXH3_64bits_withSeed of the xxHash library, whose
 * specification is its source) computed on the very bytes that are moved, in one pass.
 *
 *   read each byte once -> into the hash -> stored (non-temporally where the run is long enough to gain by it)
 *
 * so that a gather proves what it wrote, and a scatter what it delivered, at the cost of the copy. The kernel (AVX-512,
 * AVX2, SSE2/scalar) is picked at run time by kvci_cpu. The digest does not depend on the kernel or on how the bytes were cut into runs.
 *
 * Threads: a state belongs to one thread at a time.
 */
#ifndef KVCI_COPY_H
#define KVCI_COPY_H

#include <stddef.h>
#include <stdint.h>

/* Streaming state: init, any number of kvci_copy_run, digest. About 512 bytes; keep it on the stack. */
struct kvci_copy_state {
	_Alignas(64) uint64_t acc[8];
	_Alignas(64) uint8_t secret[192];
	_Alignas(64) uint8_t pending[256]; /* bytes that do not fill a stripe yet; also all of a short input */
	_Alignas(64) uint8_t last[64];     /* the last 64 bytes consumed */
	uint64_t seed;
	uint64_t total_bytes;
	uint32_t pending_bytes;
	uint32_t stripes_in_block; /* of 16, since the last scramble */
	uint32_t seeded_secret_ready;
};

enum kvci_copy_hint {
	KVCI_COPY_STREAM = 0, /* the destination will not be read soon: non-temporal stores where they help */
	KVCI_COPY_CACHED = 1, /* plain stores */
};

void kvci_copy_begin(struct kvci_copy_state *state, uint64_t seed);
/* Copies `bytes` from src to dst (no overlap) and takes them into the checksum. dst may be NULL: hash only. */
void kvci_copy_run(struct kvci_copy_state *state, void *dst, const void *src, size_t bytes, enum kvci_copy_hint hint);
/* Ends the stores (sfence) and returns the checksum. */
uint64_t kvci_copy_end(struct kvci_copy_state *state);

/* XXH3-64 of a buffer. */
uint64_t kvci_checksum(const void *bytes, size_t length_bytes, uint64_t seed);

/* The bare non-temporal copy of this CPU without any hash: the reference of `kvcask bench local`. */
void kvci_copy_bare(void *dst, const void *src, size_t bytes);

/* "avx512", "avx2" or "scalar"; kvci_copy_select(name) forces one (tests, bench); false: not on this CPU. */
const char *kvci_copy_kernel(void);
int kvci_copy_select(const char *name);

#endif
