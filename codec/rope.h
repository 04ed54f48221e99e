/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary position embedding: rows of K turned back to what they were before it, and forward again, for codec/ and for whoever moves K to
 * another position. Every scaling that is a table of frequencies is that table here (default, linear, NTK, llama3, YaRN, longrope), with the factor
 * that YaRN and longrope put on cos and sin. NOT a table of this kind: dynamic NTK and longrope above their original length change the
 * frequencies with the length of the sequence; their K can be turned only with the table in effect when they were computed.
 *
 * Two steps: a table of cosines and sines of a run of positions (one for all layers and heads of a block), then the rows. Angles are computed
 * in double (exact to a float up to position 10^8; beyond it still the same both ways); the same bits on every kernel and machine, with no libm.
 *
 * Threads: any; no state but which kernel is in use.
 */
#ifndef KVCI_ROPE_H
#define KVCI_ROPE_H

#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

enum kvci_rope_style {
	KVCI_ROPE_NEOX = 1, /* element i with element i + dims / 2 (Llama, Qwen, NeoX, Phi) */
	KVCI_ROPE_GPTJ = 2, /* element 2i with element 2i + 1 (GPT-J, Cohere, DeepSeek's latents) */
};

struct kvci_rope {
	uint32_t style;       /* enum kvci_rope_style */
	uint32_t first_dim;   /* first element of a row that is rotated: 0, or behind the part without position (MLA) */
	uint32_t dims;        /* elements that are rotated, even; the others of the row stay as they are */
	float factor;         /* attention factor that the engine put on cos and sin; 1 for most */
	const float *inv_freq; /* dims / 2 radians a position, of the caller */
};

/* INVALID unless the rotation is one, fits rows of row_dims elements, and all its numbers are finite. */
kvc_status_t kvci_rope_check(const struct kvci_rope *rope, uint32_t row_dims);

enum kvci_rope_direction {
	KVCI_ROPE_FORWARD = 1, /* from before RoPE to what the engine holds: by position, times factor */
	KVCI_ROPE_BACK = 2,    /* the inverse */
};

/* Floats in the table of `tokens` rows: a row has dims / 2 cosines and as many sines. */
static inline size_t kvci_rope_table_floats(const struct kvci_rope *rope, size_t tokens)
{
	return tokens * rope->dims;
}

/* Row t of the table is that of position + t, and follows from that position alone: not from where the table begins. One of many rows costs a
 * fifth of as many of one row. */
void kvci_rope_table(const struct kvci_rope *rope, enum kvci_rope_direction direction, uint64_t position, size_t tokens,
                     float *ret_table);
/* One row that moves K from position `from` to position `to`, whatever the token: rotations compose, and the factor stays. */
void kvci_rope_table_move(const struct kvci_rope *rope, uint64_t from, uint64_t to, float *ret_table);

/* Turns `tokens` rows in place: row t begins at rows + t * row_stride (floats) and takes row t of the table; with table_stride 0 all take its
 * first row (kvci_rope_table_move), otherwise table_stride is rope->dims. */
void kvci_rope_apply(const struct kvci_rope *rope, const float *table, size_t table_stride, float *rows, size_t tokens,
                     size_t row_stride);

/* The kernel in use ("avx2", "scalar"; AVX-512 gains nothing), and for tests and benches: take another. 0: not usable here. */
const char *kvci_rope_kernel(void);
int kvci_rope_select(const char *name);

#endif
