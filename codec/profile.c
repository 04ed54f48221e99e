/* SPDX-License-Identifier: Apache-2.0
 *
 * Profiles: reading them from untrusted bytes. docs/profile.md has the format.
 */
#include "codec/profile.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "codec/ecsq.h"

enum {
	PROFILE_HEAD_BYTES = 16,
	PROFILE_SECTION_BYTES = 16,
	PROFILE_ALIGN = 8,
	PROFILE_LAYERS_MAX = KVC_FORM_LAYERS_MAX,
};

/* ---- untrusted bytes ---------------------------------------------------------------------------------------------------- */

struct profile_cursor {
	const uint8_t *at, *end;
	bool failed; /* more was asked for than there is */
};

static const uint8_t *profile_take(struct profile_cursor *cursor, size_t length)
{
	const uint8_t *at = cursor->at;

	if (cursor->failed || (size_t)(cursor->end - at) < length) {
		cursor->failed = true;
		return NULL;
	}
	cursor->at += length;
	return at;
}

static uint32_t profile_u32(struct profile_cursor *cursor)
{
	const uint8_t *at = profile_take(cursor, 4);

	return at == NULL ? 0 : (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t profile_u64(struct profile_cursor *cursor)
{
	uint64_t low = profile_u32(cursor);

	return low | (uint64_t)profile_u32(cursor) << 32;
}

/* `count` finite numbers in memory of their own; NULL: too few, not finite, not above `least`, or no memory. */
static float *profile_floats(struct profile_cursor *cursor, size_t count, float least)
{
	float *floats;

	if (cursor->failed || (size_t)(cursor->end - cursor->at) / 4 < count) {
		cursor->failed = true;
		return NULL;
	}
	floats = kvci_alloc(count * sizeof(*floats) + 1);
	for (size_t i = 0; floats != NULL && i < count; i++) {
		uint32_t bits = profile_u32(cursor);

		memcpy(&floats[i], &bits, sizeof(bits));
		cursor->failed |= !isfinite(floats[i]) || !(floats[i] > least);
	}
	return floats;
}

/* What comes of a section: NO_MEMORY where the bytes were right and something is missing all the same. */
static kvc_status_t profile_result(const struct profile_cursor *cursor, bool complete)
{
	if (!cursor->failed && !complete)
		return KVC_NO_MEMORY;
	return cursor->failed || cursor->at != cursor->end ? KVC_CORRUPT : KVC_OK;
}

/* ---- sections ------------------------------------------------------------------------------------------------------------- */

static kvc_status_t profile_read_text(char **text, size_t most, struct profile_cursor *cursor)
{
	size_t length = (size_t)(cursor->end - cursor->at);
	const uint8_t *bytes = profile_take(cursor, length);

	if (length > most || memchr(bytes, '\0', length) != NULL)
		return KVC_CORRUPT;
	*text = kvci_strndup((const char *)bytes, length);
	return profile_result(cursor, *text != NULL);
}

static kvc_status_t profile_read_form(struct kvc_profile *profile, struct profile_cursor *cursor)
{
	uint64_t channels_k, channels_v;

	profile->layers = profile_u32(cursor);
	profile->kv_heads = profile_u32(cursor);
	profile->head_dim_k = profile_u32(cursor);
	profile->head_dim_v = profile_u32(cursor);
	profile->group = profile_u32(cursor);
	profile->shard_index = profile_u32(cursor);
	profile->shard_count = profile_u32(cursor);
	channels_k = (uint64_t)profile->kv_heads * profile->head_dim_k;
	channels_v = (uint64_t)profile->kv_heads * profile->head_dim_v;
	if (profile->layers == 0 || profile->layers > PROFILE_LAYERS_MAX || channels_k == 0 || channels_k > KVCI_PROFILE_CHANNELS_MAX ||
	    channels_v > KVCI_PROFILE_CHANNELS_MAX)
		return KVC_CORRUPT;
	profile->planes[0].dims = profile->head_dim_k;
	profile->planes[1].dims = profile->head_dim_v;
	profile->planes[0].channels = (uint32_t)channels_k;
	profile->planes[1].channels = (uint32_t)channels_v;
	return profile_result(cursor, true);
}

static kvc_status_t profile_read_rope(struct kvc_profile *profile, struct profile_cursor *cursor)
{
	uint32_t bits;

	profile->rope.style = profile_u32(cursor);
	profile->rope.first_dim = profile_u32(cursor);
	profile->rope.dims = profile_u32(cursor);
	bits = profile_u32(cursor);
	memcpy(&profile->rope.factor, &bits, sizeof(bits));
	profile->rope.inv_freq = profile_floats(cursor, profile->rope.dims / 2, -INFINITY);
	profile->has_rope = true;
	if (!cursor->failed && profile->rope.inv_freq != NULL && kvci_rope_check(&profile->rope, profile->head_dim_k) != KVC_OK)
		return KVC_CORRUPT;
	return profile_result(cursor, profile->rope.inv_freq != NULL);
}

static kvc_status_t profile_read_shapes(struct kvc_profile *profile, struct profile_cursor *cursor)
{
	uint32_t count = profile_u32(cursor), points = profile_u32(cursor);

	if (count == 0 || count > KVCI_PROFILE_SHAPES_MAX || points != KVCI_PROFILE_POINTS)
		return KVC_CORRUPT;
	profile->shapes = kvci_alloc_zero(count, sizeof(*profile->shapes));
	profile->shape_count = count;
	for (uint32_t i = 0; profile->shapes != NULL && i < count; i++) {
		uint32_t *within = profile->shapes[i].within;

		for (uint32_t point = 0; point < KVCI_PROFILE_POINTS; point++) {
			within[point] = profile_u32(cursor);
			if (within[point] > KVCI_PROFILE_ONE || (point != 0 && within[point] < within[point - 1]))
				return KVC_CORRUPT;
		}
		if (within[0] != 0)
			return KVC_CORRUPT;
	}
	return profile_result(cursor, profile->shapes != NULL);
}

static kvc_status_t profile_read_plane(struct kvc_profile *profile, struct kvci_profile_plane *plane, struct profile_cursor *cursor)
{
	size_t count = (size_t)plane->channels * profile->layers;
	const uint8_t *shapes;

	if ((plane->mean = profile_floats(cursor, count, -INFINITY)) == NULL || (plane->sigma = profile_floats(cursor, count, 0)) == NULL ||
	    (plane->scale = profile_floats(cursor, count, 0)) == NULL || (plane->shape = kvci_alloc(count + 1)) == NULL)
		return cursor->failed ? KVC_CORRUPT : KVC_NO_MEMORY;
	shapes = profile_take(cursor, count);
	for (size_t at = 0; shapes != NULL && at < count; at++) {
		plane->shape[at] = shapes[at];
		cursor->failed |= shapes[at] >= profile->shape_count;
	}
	return cursor->failed ? KVC_CORRUPT : KVC_OK;
}

static kvc_status_t profile_read_stats(struct kvc_profile *profile, struct profile_cursor *cursor)
{
	kvc_status_t status = profile_read_plane(profile, &profile->planes[0], cursor);

	if (status == KVC_OK)
		status = profile_read_plane(profile, &profile->planes[1], cursor);
	return status == KVC_OK ? profile_result(cursor, true) : status;
}

/* ---- bases ---------------------------------------------------------------------------------------------------------------- */

static bool profile_read_matrices(struct kvci_profile_basis *basis, struct profile_cursor *cursor)
{
	uint32_t count = basis->components;
	const uint8_t *from = profile_take(cursor, (size_t)count * count * 2);

	if (from == NULL)
		return false;
	basis->to_components = kvci_alloc_zero(1, kvci_ecsq_matrix_bytes(count, count));
	basis->from_components = kvci_alloc_zero(1, kvci_ecsq_matrix_bytes(count, count));
	if (basis->to_components == NULL || basis->from_components == NULL)
		return false;
	for (uint32_t component = 0; component < count; component++) {
		for (uint32_t channel = 0; channel < count; channel++, from += 2) {
			int16_t value = (int16_t)(from[0] | from[1] << 8);

			if (value > KVCI_PROFILE_BASIS_ONE || value < -KVCI_PROFILE_BASIS_ONE)
				cursor->failed = true;
			basis->to_components[kvci_ecsq_matrix_at(count, channel, component)] = value;
			basis->from_components[kvci_ecsq_matrix_at(count, component, channel)] = value;
		}
	}
	return true;
}

static bool profile_read_basis(struct kvc_profile *profile, struct kvci_profile_basis *basis, uint32_t channels, struct profile_cursor *cursor)
{
	uint32_t shape;

	basis->components = basis->layers * channels;
	shape = profile_u32(cursor);
	basis->shape = (uint8_t)shape;
	if ((basis->scale = profile_floats(cursor, basis->components, 0)) == NULL ||
	    (basis->sigma = profile_floats(cursor, basis->components, 0)) == NULL || shape >= profile->shape_count) {
		cursor->failed |= shape >= profile->shape_count;
		return false;
	}
	for (uint32_t i = 1; i < basis->components; i++)
		cursor->failed |= basis->sigma[i] > basis->sigma[i - 1];
	return profile_read_matrices(basis, cursor);
}

static kvc_status_t profile_read_bases(struct kvc_profile *profile, uint32_t plane, struct profile_cursor *cursor)
{
	struct kvci_profile_bases *bases = &profile->bases[plane];
	uint32_t channels = profile->planes[plane].channels, layers = profile_u32(cursor);
	bool complete = true;

	if (layers == 0 || layers > profile->layers || channels == 0 || (uint64_t)layers * channels > KVCI_PROFILE_COMPONENTS_MAX)
		return KVC_CORRUPT;
	bases->count = (profile->layers + layers - 1) / layers;
	bases->basis = kvci_alloc_zero(bases->count, sizeof(*bases->basis));
	if (bases->basis == NULL)
		return KVC_NO_MEMORY;
	bases->group_layers = layers;
	for (uint32_t i = 0; i < bases->count && !cursor->failed && complete; i++) {
		struct kvci_profile_basis *basis = &bases->basis[i];

		basis->first_layer = i * layers;
		basis->layers = profile->layers - basis->first_layer < layers ? profile->layers - basis->first_layer : layers;
		complete = profile_read_basis(profile, basis, channels, cursor);
	}
	if (!complete && !cursor->failed)
		return KVC_NO_MEMORY;
	return profile_result(cursor, complete);
}

/* ---- the whole -------------------------------------------------------------------------------------------------------------- */

/* In the order in which they must come: each needs those before it. */
static const struct {
	uint32_t tag;
	bool required;
} profile_order[] = {
	{ KVCI_PROFILE_FORM, true },     { KVCI_PROFILE_SHAPES, true },   { KVCI_PROFILE_STATS, true },
	{ KVCI_PROFILE_NAME, false },    { KVCI_PROFILE_MODEL, false },   { KVCI_PROFILE_ROPE, false },
	{ KVCI_PROFILE_BASES_K, false }, { KVCI_PROFILE_BASES_V, false },
	{ KVCI_PROFILE_EXPONENTS, false },
};

static kvc_status_t profile_read_section(struct kvc_profile *profile, uint32_t tag, const uint8_t *bytes, size_t length)
{
	struct profile_cursor cursor = { bytes, bytes + length, false };

	switch (tag) {
	case KVCI_PROFILE_FORM: return profile_read_form(profile, &cursor);
	case KVCI_PROFILE_SHAPES: return profile_read_shapes(profile, &cursor);
	case KVCI_PROFILE_STATS: return profile_read_stats(profile, &cursor);
	case KVCI_PROFILE_NAME: return profile_read_text(&profile->name, KVCI_PROFILE_NAME_BYTES_MAX, &cursor);
	case KVCI_PROFILE_MODEL: return profile_read_text(&profile->model, KVCI_PROFILE_MODEL_BYTES_MAX, &cursor);
	case KVCI_PROFILE_ROPE: return profile_read_rope(profile, &cursor);
	case KVCI_PROFILE_BASES_K: return profile_read_bases(profile, 0, &cursor);
	case KVCI_PROFILE_BASES_V: return profile_read_bases(profile, 1, &cursor);
	case KVCI_PROFILE_EXPONENTS: return kvci_profile_exponents_read(profile, bytes, length);
	default: return KVC_OK;
	}
}

/* Steps over one section; false: the file ends in it. */
static bool profile_next(struct profile_cursor *cursor, uint32_t *ret_tag, const uint8_t **ret_bytes, size_t *ret_length)
{
	uint64_t length;

	*ret_tag = profile_u32(cursor);
	profile_u32(cursor);
	length = profile_u64(cursor);
	if (cursor->failed || length > (size_t)(cursor->end - cursor->at))
		return false;
	*ret_length = (size_t)length;
	*ret_bytes = profile_take(cursor, *ret_length);
	return profile_take(cursor, -*ret_length % PROFILE_ALIGN) != NULL;
}

bool kvci_profile_section(const struct kvc_profile *profile, uint32_t tag, const uint8_t **ret_bytes, size_t *ret_length)
{
	struct profile_cursor cursor = { profile->file + PROFILE_HEAD_BYTES, profile->file + profile->file_bytes, false };
	const uint8_t *bytes;
	uint32_t found;
	size_t length;

	while (cursor.at != cursor.end && profile_next(&cursor, &found, &bytes, &length)) {
		if (found == tag) {
			*ret_bytes = bytes;
			*ret_length = length;
			return true;
		}
	}
	return false;
}

static kvc_status_t profile_check_frame(const struct kvc_profile *profile)
{
	struct profile_cursor cursor = { profile->file, profile->file + profile->file_bytes, false };
	const uint8_t *magic = profile_take(&cursor, KVCI_PROFILE_MAGIC_BYTES), *bytes;
	uint32_t version = profile_u32(&cursor), tag;
	size_t length;

	profile_u32(&cursor);
	if (cursor.failed || memcmp(magic, KVCI_PROFILE_MAGIC, KVCI_PROFILE_MAGIC_BYTES) != 0)
		return KVC_CORRUPT;
	if (version != KVCI_PROFILE_VERSION)
		return KVC_UNSUPPORTED;
	while (cursor.at != cursor.end)
		if (!profile_next(&cursor, &tag, &bytes, &length))
			return KVC_CORRUPT;
	return KVC_OK;
}

static bool profile_scales_differ(const struct kvc_profile *profile)
{
	for (int i = 0; i < 2; i++)
		for (size_t at = 1; at < (size_t)profile->layers * profile->planes[i].channels; at++)
			if (at % profile->planes[i].channels != 0 && profile->planes[i].scale[at] != profile->planes[i].scale[at - 1])
				return true;
	return false;
}

static kvc_status_t profile_read_all(struct kvc_profile *profile)
{
	kvc_status_t status = profile_check_frame(profile);

	for (size_t i = 0; i < sizeof(profile_order) / sizeof(profile_order[0]) && status == KVC_OK; i++) {
		const uint8_t *bytes;
		size_t length;

		if (kvci_profile_section(profile, profile_order[i].tag, &bytes, &length))
			status = profile_read_section(profile, profile_order[i].tag, bytes, length);
		else if (profile_order[i].required)
			status = KVC_CORRUPT;
	}
	if (status == KVC_OK && (profile->tables = ecsq_tables_make(profile->shapes, profile->shape_count)) == NULL)
		status = KVC_NO_MEMORY;
	profile->scales_differ = status == KVC_OK && profile_scales_differ(profile);
	if (status == KVC_OK && profile->name == NULL && (profile->name = kvci_strdup("")) == NULL)
		status = KVC_NO_MEMORY;
	if (status == KVC_OK && profile->model == NULL && (profile->model = kvci_strdup("")) == NULL)
		status = KVC_NO_MEMORY;
	return status;
}

uint64_t kvci_profile_id_of(const void *bytes, size_t length)
{
	uint64_t id = kvci_checksum(bytes, length, 0);

	return id == 0 ? 1 : id;
}

kvc_status_t kvci_profile_read(const void *bytes, size_t length, struct kvc_profile **ret_profile)
{
	struct kvc_profile *profile = kvci_alloc_zero(1, sizeof(*profile));
	kvc_status_t status = KVC_NO_MEMORY;

	if (profile == NULL || (profile->file = kvci_alloc(length + 1)) == NULL)
		goto fail;
	memcpy(profile->file, bytes, length);
	profile->file_bytes = length;
	profile->id = kvci_profile_id_of(bytes, length);
	status = profile_read_all(profile);
	if (status != KVC_OK)
		goto fail;
	*ret_profile = profile;
	return KVC_OK;
fail:
	kvci_profile_free(profile);
	return status;
}

void kvci_profile_free(struct kvc_profile *profile)
{
	if (profile == NULL)
		return;
	for (int i = 0; i < 2; i++) {
		for (uint32_t at = 0; profile->bases[i].basis != NULL && at < profile->bases[i].count; at++) {
			struct kvci_profile_basis *basis = &profile->bases[i].basis[at];

			kvci_free(basis->scale);
			kvci_free(basis->sigma);
			kvci_free(basis->to_components);
			kvci_free(basis->from_components);
		}
		kvci_free(profile->bases[i].basis);
		kvci_free(profile->planes[i].mean);
		kvci_free(profile->planes[i].sigma);
		kvci_free(profile->planes[i].scale);
		kvci_free(profile->planes[i].shape);
	}
	kvci_profile_exponents_free(profile->exponents);
	kvci_free((void *)(uintptr_t)profile->rope.inv_freq);
	kvci_free(profile->tables);
	kvci_free(profile->shapes);
	kvci_free(profile->name);
	kvci_free(profile->model);
	kvci_free(profile->file);
	kvci_free(profile);
}

uint64_t kvci_profile_id(const struct kvc_profile *profile)
{
	return profile->id;
}

void kvci_profile_facts(const struct kvc_profile *profile, struct kvci_profile_facts *ret_facts)
{
	const uint8_t *bytes;
	size_t length;

	*ret_facts = (struct kvci_profile_facts){
		.pca_layers = profile->bases[0].group_layers, .rotated = profile->has_rope, .exponents = profile->exponents != NULL,
		.codebooks = kvci_profile_section(profile, KVCI_PROFILE_CODEBOOKS, &bytes, &length),
		.weights = kvci_profile_section(profile, KVCI_PROFILE_WEIGHTS, &bytes, &length) || profile->scales_differ,
	};
}

bool kvci_profile_fits(const struct kvc_profile *profile, const struct kvc_form *form)
{
	return profile->layers == form->layer_count && profile->kv_heads == form->kv_heads && profile->head_dim_k == form->head_dim_k &&
	       profile->head_dim_v == form->head_dim_v && profile->group == form->group && profile->shard_index == form->shard_index &&
	       profile->shard_count == form->shard_count;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------- */

void kvci_profile_writer_put(struct kvci_profile_writer *writer, const void *bytes, size_t length)
{
	if (!writer->failed && writer->room - writer->length < length) {
		size_t room = 2 * (writer->length + length) + 4096;
		uint8_t *more = kvci_realloc(writer->bytes, room);

		writer->failed = more == NULL;
		if (more != NULL) {
			writer->bytes = more;
			writer->room = room;
		}
	}
	if (writer->failed || length == 0)
		return;
	memcpy(writer->bytes + writer->length, bytes, length);
	writer->length += length;
}

void kvci_profile_writer_u32(struct kvci_profile_writer *writer, uint32_t value)
{
	uint8_t bytes[4] = { (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24) };

	kvci_profile_writer_put(writer, bytes, sizeof(bytes));
}

void kvci_profile_writer_f32(struct kvci_profile_writer *writer, float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	kvci_profile_writer_u32(writer, bits);
}

void kvci_profile_writer_begin(struct kvci_profile_writer *writer)
{
	*writer = (struct kvci_profile_writer){ 0 };
	kvci_profile_writer_put(writer, KVCI_PROFILE_MAGIC, KVCI_PROFILE_MAGIC_BYTES);
	kvci_profile_writer_u32(writer, KVCI_PROFILE_VERSION);
	kvci_profile_writer_u32(writer, 0);
}

/* The open section's length to its place, and zeros up to the next one's. */
static void profile_writer_close(struct kvci_profile_writer *writer)
{
	static const uint8_t zeros[PROFILE_ALIGN];
	uint64_t length = writer->length - writer->section - 8;

	if (writer->section == 0 || writer->failed)
		return;
	for (int i = 0; i < 8; i++)
		writer->bytes[writer->section + i] = (uint8_t)(length >> 8 * i);
	kvci_profile_writer_put(writer, zeros, -length % PROFILE_ALIGN);
}

void kvci_profile_writer_section(struct kvci_profile_writer *writer, uint32_t tag)
{
	profile_writer_close(writer);
	kvci_profile_writer_u32(writer, tag);
	kvci_profile_writer_u32(writer, 0);
	writer->section = writer->length;
	kvci_profile_writer_u32(writer, 0);
	kvci_profile_writer_u32(writer, 0);
}

kvc_status_t kvci_profile_writer_end(struct kvci_profile_writer *writer, uint8_t **ret_bytes, size_t *ret_length)
{
	profile_writer_close(writer);
	if (writer->failed) {
		kvci_profile_writer_cancel(writer);
		return KVC_NO_MEMORY;
	}
	*ret_bytes = writer->bytes;
	*ret_length = writer->length;
	writer->bytes = NULL;
	return KVC_OK;
}

void kvci_profile_writer_cancel(struct kvci_profile_writer *writer)
{
	kvci_free(writer->bytes);
	writer->bytes = NULL;
	writer->failed = true;
}
