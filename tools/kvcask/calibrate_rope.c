/* SPDX-License-Identifier: Apache-2.0
 * kvcask calibrate: how keys were rotated, from options or from the model's configuration as engines write it into their space:
 * {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000, ...}} or, as older configurations have it, rope_theta and rope_scaling apart. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/kvcask/calibrate.h"

#define ROPE_PI 3.14159265358979323846

static int rope_real(const struct tool *tool, const char *name, double otherwise, double *ret_value)
{
	const char *text = tool_value(tool, name);
	char *end;

	*ret_value = otherwise;
	if (text == NULL)
		return TOOL_OK;
	*ret_value = strtod(text, &end);
	if (end == text || *end != '\0' || !isfinite(*ret_value) || *ret_value <= 0)
		return tool_usage_error(tool, "--%s: %s is no number above 0", name, text);
	return TOOL_OK;
}

/* Numbers apart by white space. */
static int rope_read_freq(const struct tool *tool, const char *path, struct calibrate_rope *rope)
{
	FILE *file = fopen(path, "re");
	uint32_t count = 0;
	double value;

	if (file == NULL)
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	while (count < rope->rope.dims / 2 && fscanf(file, "%lf", &value) == 1)
		rope->inv_freq[count++] = (float)value;
	if (count != rope->rope.dims / 2 || fscanf(file, "%lf", &value) != EOF)
		count = UINT32_MAX;
	fclose(file);
	if (count == UINT32_MAX)
		return tool_failed(tool, "%s: not %u numbers (half the rotary dimensions)", path, rope->rope.dims / 2);
	return TOOL_OK;
}

static void rope_plain(struct calibrate_rope *rope, double theta)
{
	for (uint32_t i = 0; i < rope->rope.dims / 2; i++)
		rope->inv_freq[i] = (float)pow(theta, -2.0 * i / rope->rope.dims);
}

/* ---- by the space ---- */

/* A number of the configuration: in the first of two objects that has it. */
static double rope_number(const json_t *first, const json_t *second, const char *name, double otherwise)
{
	const json_t *value = json_object_get(first, name);

	if (!json_is_number(value))
		value = json_object_get(second, name);
	return json_is_number(value) ? json_number_value(value) : otherwise;
}

/* Llama 3.1's: slow turns are slowed down by the factor, those in between by a share of it. */
static bool rope_llama3(struct calibrate_rope *rope, const json_t *scaling)
{
	double factor = rope_number(scaling, NULL, "factor", 0), low = rope_number(scaling, NULL, "low_freq_factor", 0);
	double high = rope_number(scaling, NULL, "high_freq_factor", 0);
	double tokens = rope_number(scaling, NULL, "original_max_position_embeddings", 0);

	if (!(factor > 0) || !(low > 0) || !(high > low) || !(tokens > 0))
		return false;
	for (uint32_t i = 0; i < rope->rope.dims / 2; i++) {
		double turn = (double)rope->inv_freq[i], turns = tokens * turn / (2 * ROPE_PI), share;

		share = fmax(0, fmin(1, (turns - low) / (high - low)));
		rope->inv_freq[i] = (float)((1 - share) * turn / factor + share * turn);
	}
	return true;
}

static bool rope_scale(struct calibrate_rope *rope, const json_t *scaling)
{
	const char *type = json_string_value(json_object_get(scaling, "rope_type"));
	double factor = rope_number(scaling, NULL, "factor", 0);

	if (type == NULL)
		type = json_string_value(json_object_get(scaling, "type"));
	if (type == NULL || strcmp(type, "default") == 0)
		return true;
	if (strcmp(type, "llama3") == 0)
		return rope_llama3(rope, scaling);
	if (strcmp(type, "linear") != 0 || !(factor > 0))
		return false;
	for (uint32_t i = 0; i < rope->rope.dims / 2; i++)
		rope->inv_freq[i] = (float)((double)rope->inv_freq[i] / factor);
	return true;
}

/* Frequencies, and rotary dimensions when no option named them; false: the space says nothing, or something that needs a table. A latent row is
 * rotated in a part that no configuration names in one way. */
static bool rope_by_space(struct calibrate_rope *rope, const struct calibrate_kv *kv)
{
	const char *text = kv->rope;
	json_t *config = text != NULL ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const json_t *parameters = json_object_get(config, "rope_parameters"), *scaling = parameters;
	double theta = rope_number(parameters, config, "rope_theta", 0), part = rope_number(parameters, config, "partial_rotary_factor", 1);
	bool known = theta > 0 && part > 0 && part <= 1 && (rope->rope.dims != 0 || kv->form.arrangement != KVC_KV_LATENT);

	if (scaling == NULL)
		scaling = json_object_get(config, "rope_scaling");
	if (known) {
		if (rope->rope.dims == 0)
			rope->rope.dims = (uint32_t)(part * kv->form.head_dim_k) / 2 * 2;
		rope_plain(rope, theta);
		known = rope_scale(rope, scaling);
	}
	json_decref(config);
	return known;
}

/* ---- the whole ---- */

static int rope_by_options(const struct tool *tool, const struct calibrate_kv *kv, struct calibrate_rope *rope)
{
	const char *path = tool_value(tool, "inv-freq");
	double theta;
	int result = rope_real(tool, "rope-theta", 10000, &theta);

	if (result != TOOL_OK)
		return result;
	if (rope->rope.dims == 0)
		rope->rope.dims = kv->form.head_dim_k;
	rope_plain(rope, theta);
	return path != NULL ? rope_read_freq(tool, path, rope) : TOOL_OK;
}

int calibrate_rope_read(const struct tool *tool, const struct calibrate_kv *kv, struct calibrate_rope *rope)
{
	const char *style = tool_value(tool, "rope-style");
	uint32_t row = kv->form.head_dim_k;
	double factor;
	uint64_t first, dims;
	int result;

	if (style != NULL && strcmp(style, "none") == 0)
		return TOOL_OK;
	if (style != NULL && strcmp(style, "neox") != 0 && strcmp(style, "gptj") != 0)
		return tool_usage_error(tool, "--rope-style: %s is not neox, gptj or none", style);
	if ((result = rope_real(tool, "rope-factor", 1, &factor)) != TOOL_OK ||
	    (result = tool_number(tool, "rotary-dims", 2, row, 0, &dims)) != TOOL_OK ||
	    (result = tool_number(tool, "rotary-first", 0, row, 0, &first)) != TOOL_OK)
		return result;
	rope->inv_freq = kvci_alloc_zero(row / 2 + 1, sizeof(float));
	if (rope->inv_freq == NULL)
		return tool_failed(tool, "no memory");
	rope->rope = (struct kvci_rope){
		.style = style != NULL && strcmp(style, "gptj") == 0 ? KVCI_ROPE_GPTJ : KVCI_ROPE_NEOX,
		.first_dim = (uint32_t)first, .dims = (uint32_t)dims, .factor = (float)factor, .inv_freq = rope->inv_freq,
	};
	rope->rotated = true;
	if (tool_flag(tool, "inv-freq") || tool_flag(tool, "rope-theta"))
		result = rope_by_options(tool, kv, rope);
	else if (!rope_by_space(rope, kv))
		result = tool_usage_error(tool, "%s: give --rope-theta or --inv-freq, or --rope-style none",
		                          kv->rope == NULL ? "how are keys rotated?" : "how keys are rotated does not follow from what the space says");
	if (result == TOOL_OK && kvci_rope_check(&rope->rope, row) != KVC_OK)
		return tool_usage_error(tool, "no rotation of rows of %u elements is like this", row);
	return result;
}
