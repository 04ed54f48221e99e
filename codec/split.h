/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the codec `split`, for codec/split*.c only. An element is taken apart into one byte that is entropy-coded (the exponent, or
 * what holds it) and the rest, which is stored as it is.
 */
#ifndef KVCI_SPLIT_H
#define KVCI_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>

#include "codec/rans.h"
#include "codec/rans_map.h"

enum split_kind { SPLIT_NONE, SPLIT_BF16, SPLIT_F16, SPLIT_F32, SPLIT_F8 };

struct split_type {
	enum split_kind kind;
	uint32_t element_bytes;
	uint32_t rest_bytes;    /* of an element: element_bytes - 1 */
	uint8_t magnitude;      /* what of a coded byte tells how large a value is, in short: not its sign */
};

/* kind SPLIT_NONE: nothing that is worth taking apart. */
struct split_type split_type_of(uint32_t dtype);

enum { SPLIT_ESCAPE = 0x7f, SPLIT_BLOCK = 512 };

/* Of all coded bytes, without their signs. */
struct split_range {
	bool has_0;
	uint8_t least, most; /* of those that are not 0; least > most: there are none */
};

/* Loops over elements, compiled for each kind of CPU (codec/split_body.h); all give the same. */
struct split_kernel {
	const char *name; /* as of the rANS kernel that goes with it */
	/* `count` elements to their coded bytes and their rests, of fp32 also the lower 16 bits; and back. */
	void (*apart)(enum split_kind kind, const uint8_t *raw, size_t count, uint8_t *symbols, uint8_t *rests, uint8_t *lower);
	void (*join)(enum split_kind kind, const uint8_t *symbols, const uint8_t *rests, const uint8_t *lower, size_t count, uint8_t *raw);
	void (*range)(const uint8_t *symbols, size_t count, uint8_t magnitude, struct split_range *ret_range);
	/* Adds each of `groups` groups of KVCI_RANS_GROUP coded bytes, without their signs, to its place's sum. */
	void (*sums)(const uint8_t *symbols, size_t groups, uint8_t magnitude, uint32_t *sums);
	/* bf16 and fp32 (split_profile.c): exponents to symbols of sign and exponent, within what each place allows (`span` above `first`), and the signs out of
	 * the rests; and back, in place. True: some are SPLIT_ESCAPE, whose exponents stand elsewhere. */
	bool (*fold)(const uint8_t *exponents, uint8_t *rests, const uint8_t *first, const uint8_t *span, size_t count, uint8_t base, uint8_t *symbols);
	bool (*unfold)(uint8_t *symbols, uint8_t *rests, size_t count, uint8_t base);
	/* Elements of 7 bits in seven eighths of their bytes, block by block of SPLIT_BLOCK (the last one has its elements filled up to a multiple of 8): the
	 * bits of a block's last eighth are bit 7 of the others', its bit i in the i-th. `sevens` has room for 7 more. */
	void (*pack)(const uint8_t *sevens, size_t count, uint8_t *packed);
	void (*unpack)(const uint8_t *packed, size_t count, uint8_t *sevens);
};

extern const struct split_kernel kvci_split_kernel_scalar;
#if defined(__x86_64__)
extern const struct split_kernel kvci_split_kernel_avx2;
extern const struct split_kernel kvci_split_kernel_avx512;
#endif
/* The one that goes with kvci_rans_kernel(). */
const struct split_kernel *split_kernel(void);

enum { SPLIT_CHANNELS_MAX = 16384 };

/* What the symbols of a part are coded by: the channels' classes and a table a class. Scratch of encode and decode. */
struct split_model {
	struct kvci_rans_map map; /* map.classes is `channels` below */
	uint32_t classes;
	uint16_t frequencies[KVCI_RANS_CLASSES_MAX][256];
	uint16_t channels[SPLIT_CHANNELS_MAX];
};

/* What making a model needs besides. */
struct split_counts {
	uint32_t sums[SPLIT_CHANNELS_MAX];
	uint32_t visits[SPLIT_CHANNELS_MAX / KVCI_RANS_GROUP]; /* of a group of channels */
	struct kvci_rans_counts found;
};

/* split_model.c: how channels lie in a part of this form, as far as it is of use here; the channels' classes are not set. */
void split_model_shape(struct split_model *model, const struct kvc_form *form, bool is_k);
/* The channels' classes and tables from the symbols themselves; `sample`: some of them may do. Returns whether some did. */
bool split_model_fit(struct split_model *model, struct split_counts *counts, const uint8_t *symbols, size_t count, uint8_t magnitude, bool sample);
/* About how many bytes of words `count` symbols will be. */
size_t split_model_predict(const struct split_model *model, const struct split_counts *counts, size_t count);

/* Most bytes that split_model_write writes. */
size_t split_model_bytes_max(const struct split_model *model);
size_t split_model_write(const struct split_model *model, uint8_t *out);
/* Untrusted bytes; moves *bytes on. */
kvc_status_t split_model_read(struct split_model *model, const uint8_t **bytes, const uint8_t *end);

#endif
