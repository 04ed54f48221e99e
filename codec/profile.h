/* SPDX-License-Identifier: Apache-2.0
 *
 * Profile: what is known of a model's KV before any of it is coded: the rotation of its keys, mean and scale of each channel, the shapes of
 * their distributions, and bases over groups of layers. `kvcask calibrate` makes the file (docs/profile.md has its bytes), codecs with
 * needs_profile code by it, and a record names it by its id. It never changes; a newer one is another one.
 *
 * A profile holds what a decoder must reproduce bit for bit, so nothing in it is computed by a math library when it is read: distributions are
 * tables of whole numbers.
 *
 * Threads: a profile that was read may be used by any number of them.
 */
#ifndef KVCI_PROFILE_H
#define KVCI_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/form.h>
#include <kvcask/status.h>

#include "codec/rans.h"
#include "codec/rope.h"

enum {
	KVCI_PROFILE_VERSION = 1,
	KVCI_PROFILE_NAME_BYTES_MAX = 256,
	KVCI_PROFILE_MODEL_BYTES_MAX = 4096,
	KVCI_PROFILE_SHAPES_MAX = 8,
	KVCI_PROFILE_GRID = 32,         /* points of a shape in one standard deviation */
	KVCI_PROFILE_POINTS = 16 * 32 + 1, /* of a shape: 0 to 16 standard deviations */
	KVCI_PROFILE_CHANNELS_MAX = 16384, /* of one layer's K or V */
	KVCI_PROFILE_COMPONENTS_MAX = 8192, /* of a basis */
	KVCI_PROFILE_EXPONENT_CLASSES_MAX = 32,
	KVCI_PROFILE_BASIS_ONE = 1 << 14,  /* what is 1 in a basis */
};
/* What a file begins with. */
#define KVCI_PROFILE_MAGIC "KVCPROF\n"
#define KVCI_PROFILE_MAGIC_BYTES (sizeof(KVCI_PROFILE_MAGIC) - 1)
/* A share of 1 in a shape. */
#define KVCI_PROFILE_ONE (1u << 30)

/* How a value lies around its mean: the share of those not farther off than i / KVCI_PROFILE_GRID standard deviations. */
struct kvci_profile_shape {
	uint32_t within[KVCI_PROFILE_POINTS]; /* of KVCI_PROFILE_ONE, never falling */
};

/* K or V of every layer. Channels are counted [layer][head][dim]; K before its rotation. */
struct kvci_profile_plane {
	uint32_t dims, channels; /* of a head; of a layer: heads * dims */
	float *mean, *sigma;     /* sigma > 0 */
	float *scale;            /* > 0: what a step is counted in; errors should be of this size */
	uint8_t *shape;
};

/* A basis over the channels of neighbouring layers, in values from which the mean was taken and which were divided by `scale`. */
struct kvci_profile_basis {
	uint32_t first_layer, layers;
	uint32_t components; /* as many as there are channels in the group; by falling sigma */
	uint8_t shape;       /* of all components */
	float *scale;        /* of a channel */
	float *sigma;        /* of a component */
	/* Component k of channel c, in KVCI_PROFILE_BASIS_ONE: in pairs of rows as the kernels read them, the odd one filled up with 0
	 * (codec/ecsq_kernel.h). */
	int16_t *to_components;   /* rows are channels */
	int16_t *from_components; /* rows are components */
};

struct kvci_profile_bases {
	uint32_t group_layers; /* 0: there are none */
	uint32_t count;
	struct kvci_profile_basis *basis;
};

/* Signs and exponents, of bf16 and fp32 as the engine holds them (K rotated): classes of channels with a table of frequencies each. A symbol is the sign
 * (bit 7) and how far the exponent is above `base` (bits 0 to 6); 127 of either sign stands for one that is not in its class. */
struct kvci_profile_exponents {
	uint32_t classes; /* 1 to KVCI_PROFILE_EXPONENT_CLASSES_MAX */
	uint8_t base;
	uint8_t first[KVCI_PROFILE_EXPONENT_CLASSES_MAX], last[KVCI_PROFILE_EXPONENT_CLASSES_MAX]; /* what a class has, above base; last < 127 */
	uint8_t *channels[2]; /* K, V: the class of each [layer][head][dim] */
	uint32_t *encoder, *decoder; /* entries of codec/rans.h, class behind class */
};

struct kvc_profile {
	uint64_t id; /* XXH3-64 of the file's bytes; never 0 */
	char *name;  /* for people: model and space; may be "" */
	char *model; /* the identity of the model that it is of, as a space's field `model` has it; "": not said */
	/* What it is of: these fields of a form must be the same. */
	uint32_t layers, kv_heads, head_dim_k, head_dim_v, group, shard_index, shard_count;
	bool has_rope;
	struct kvci_rope rope;
	struct kvci_profile_plane planes[2]; /* K, V */
	uint32_t shape_count;
	struct kvci_profile_shape *shapes;
	struct ecsq_tables *tables; /* codec/ecsq.h */
	struct kvci_profile_bases bases[2]; /* K, V */
	struct kvci_profile_exponents *exponents; /* NULL: there are none */
	bool scales_differ; /* within a layer */
	/* The file as it was read. */
	uint8_t *file;
	size_t file_bytes;
};

#define KVCI_PROFILE_TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
/* The sections that this build knows; others are skipped. */
#define KVCI_PROFILE_NAME KVCI_PROFILE_TAG('N', 'A', 'M', 'E') /* text */
#define KVCI_PROFILE_MODEL KVCI_PROFILE_TAG('M', 'O', 'D', 'L') /* text */
#define KVCI_PROFILE_FORM KVCI_PROFILE_TAG('F', 'O', 'R', 'M')
#define KVCI_PROFILE_ROPE KVCI_PROFILE_TAG('R', 'O', 'P', 'E')
#define KVCI_PROFILE_SHAPES KVCI_PROFILE_TAG('S', 'H', 'A', 'P')
#define KVCI_PROFILE_STATS KVCI_PROFILE_TAG('S', 'T', 'A', 'T')
#define KVCI_PROFILE_BASES_K KVCI_PROFILE_TAG('P', 'C', 'A', 'K')
#define KVCI_PROFILE_BASES_V KVCI_PROFILE_TAG('P', 'C', 'A', 'V')
#define KVCI_PROFILE_CODEBOOKS KVCI_PROFILE_TAG('P', 'Q', 'C', 'B') /* of the codec pq */
#define KVCI_PROFILE_EXPONENTS KVCI_PROFILE_TAG('E', 'X', 'P', 'O')
#define KVCI_PROFILE_WEIGHTS KVCI_PROFILE_TAG('W', 'G', 'H', 'T')   /* f32: the weights' power in the scales */
#define KVCI_PROFILE_DEFAULTS KVCI_PROFILE_TAG('D', 'E', 'F', 'S')  /* text: lines "tier=codec spec" */

/* Reads a profile from untrusted bytes, which are copied. CORRUPT: they are none; UNSUPPORTED: of a later version. */
kvc_status_t kvci_profile_read(const void *bytes, size_t length, struct kvc_profile **ret_profile);
void kvci_profile_free(struct kvc_profile *profile);
uint64_t kvci_profile_id(const struct kvc_profile *profile);
/* The id of a file's bytes, whatever they are; never 0. */
uint64_t kvci_profile_id_of(const void *bytes, size_t length);
/* What is in it, for people and for who chooses codecs. */
struct kvci_profile_facts {
	uint32_t pca_layers; /* of a group; 0: no bases */
	bool rotated, exponents, codebooks;
	bool weights; /* scales follow how much errors matter: said so, or (files of before that was said) they differ within a layer */
};
void kvci_profile_facts(const struct kvc_profile *profile, struct kvci_profile_facts *ret_facts);
/* Is it of this form's layers, heads and shard? */
bool kvci_profile_fits(const struct kvc_profile *profile, const struct kvc_form *form);
/* The payload of the first section with this tag; false: there is none. It is checked only for the tags that kvci_profile_read knows. */
bool kvci_profile_section(const struct kvc_profile *profile, uint32_t tag, const uint8_t **ret_bytes, size_t *ret_length);

/* profile_exponents.c: the section of this name. CORRUPT: it is none of this profile's form, which was read. */
kvc_status_t kvci_profile_exponents_read(struct kvc_profile *profile, const uint8_t *bytes, size_t length);
void kvci_profile_exponents_free(struct kvci_profile_exponents *exponents);

/* Writes a file, section by section. What runs out of memory is said by kvci_profile_writer_end. */
struct kvci_profile_writer {
	uint8_t *bytes;
	size_t length, room;
	size_t section; /* where the open one's length stands */
	bool failed;
};
void kvci_profile_writer_begin(struct kvci_profile_writer *writer);
void kvci_profile_writer_section(struct kvci_profile_writer *writer, uint32_t tag);
void kvci_profile_writer_put(struct kvci_profile_writer *writer, const void *bytes, size_t length);
void kvci_profile_writer_u32(struct kvci_profile_writer *writer, uint32_t value);
void kvci_profile_writer_f32(struct kvci_profile_writer *writer, float value);
/* Closes the last section; kvci_free the bytes. On failure nothing is to be freed. */
kvc_status_t kvci_profile_writer_end(struct kvci_profile_writer *writer, uint8_t **ret_bytes, size_t *ret_length);
/* Gives a writer up instead of ending it. */
void kvci_profile_writer_cancel(struct kvci_profile_writer *writer);

#endif
