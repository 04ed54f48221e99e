/* SPDX-License-Identifier: Apache-2.0
 * kvcask calibrate: a profile from KV. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/pq.h"
#include "codec/profile_make.h"
#include "tools/bench/codec_sample.h"
#include "tools/kvcask/print.h"
#include "tools/kvcask/tool.h"

enum { CALIBRATE_PAIRS_MAX = 256, CALIBRATE_FEW_TOKENS = 4096 };

struct calibrate {
	struct codec_sample pairs[CALIBRATE_PAIRS_MAX][2]; /* K, V */
	struct kvci_profile_sample samples[CALIBRATE_PAIRS_MAX];
	struct kvci_profile_order order;
	struct kvci_rope rope;
	float *inv_freq;
	struct print_progress progress;
	uint64_t tokens;
	uint8_t *bytes;
	size_t length;
};

/* ---- the rotation ----------------------------------------------------------------------------------------------------------- */

static int calibrate_real(const struct tool *tool, const char *name, double otherwise, double *ret_value)
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
static int calibrate_read_freq(const struct tool *tool, const char *path, struct calibrate *calibrate)
{
	FILE *file = fopen(path, "re");
	uint32_t count = 0;
	double value;

	if (file == NULL)
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	while (count < calibrate->rope.dims / 2 && fscanf(file, "%lf", &value) == 1)
		calibrate->inv_freq[count++] = (float)value;
	if (count != calibrate->rope.dims / 2 || fscanf(file, "%lf", &value) != EOF)
		count = UINT32_MAX;
	fclose(file);
	if (count == UINT32_MAX)
		return tool_failed(tool, "%s: not %u numbers (half the rotary dimensions)", path, calibrate->rope.dims / 2);
	return TOOL_OK;
}

static int calibrate_rope(const struct tool *tool, struct calibrate *calibrate)
{
	const char *style = tool_value(tool, "rope-style"), *path = tool_value(tool, "inv-freq");
	uint32_t row = calibrate->order.form.head_dim_k;
	double theta, factor;
	uint64_t dims, first;
	int result;

	if (style != NULL && strcmp(style, "none") == 0)
		return TOOL_OK;
	if (style != NULL && strcmp(style, "neox") != 0 && strcmp(style, "gptj") != 0)
		return tool_usage_error(tool, "--rope-style: %s is not neox, gptj or none", style);
	if (path == NULL && tool_value(tool, "rope-theta") == NULL)
		return tool_usage_error(tool, "how are keys rotated? give --rope-theta or --inv-freq, or --rope-style none");
	if ((result = calibrate_real(tool, "rope-theta", 10000, &theta)) != TOOL_OK ||
	    (result = calibrate_real(tool, "rope-factor", 1, &factor)) != TOOL_OK ||
	    (result = tool_number(tool, "rotary-dims", 2, row, row, &dims)) != TOOL_OK ||
	    (result = tool_number(tool, "rotary-first", 0, row, 0, &first)) != TOOL_OK)
		return result;
	calibrate->rope = (struct kvci_rope){
		.style = style != NULL && strcmp(style, "gptj") == 0 ? KVCI_ROPE_GPTJ : KVCI_ROPE_NEOX,
		.first_dim = (uint32_t)first, .dims = (uint32_t)dims, .factor = (float)factor,
	};
	calibrate->inv_freq = kvci_alloc_zero(row / 2 + 1, sizeof(float));
	if (calibrate->inv_freq == NULL)
		return tool_failed(tool, "no memory");
	calibrate->rope.inv_freq = calibrate->inv_freq;
	for (uint32_t i = 0; i < calibrate->rope.dims / 2; i++)
		calibrate->inv_freq[i] = (float)pow(theta, -2.0 * i / calibrate->rope.dims);
	if (path != NULL && (result = calibrate_read_freq(tool, path, calibrate)) != TOOL_OK)
		return result;
	if (kvci_rope_check(&calibrate->rope, row) != KVC_OK)
		return tool_usage_error(tool, "no rotation of rows of %u elements is like this", row);
	calibrate->order.rope = &calibrate->rope;
	return TOOL_OK;
}

/* ---- KV ------------------------------------------------------------------------------------------------------------------------ */

static int calibrate_read(const struct tool *tool, struct calibrate *calibrate)
{
	const struct codec_sample *first = calibrate->pairs[0];
	uint32_t count = (uint32_t)tool->argument_count / 2;

	if (tool->argument_count % 2 != 0 || count > CALIBRATE_PAIRS_MAX)
		return tool_usage_error(tool, "files come in pairs, K and V; at most %d pairs", CALIBRATE_PAIRS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		for (int j = 0; j < 2; j++) {
			struct codec_sample *sample = &calibrate->pairs[i][j];

			if (codec_sample_read(tool->arguments[2 * i + j], sample) != KVC_OK)
				return TOOL_FAILED; /* said */
			if (sample->layers != first->layers || sample->heads != first->heads || sample->dims != first[j].dims ||
			    sample->tokens != calibrate->pairs[i][0].tokens)
				return tool_failed(tool, "%s has not the shape of the others", tool->arguments[2 * i + j]);
		}
		calibrate->samples[i] = (struct kvci_profile_sample){ calibrate->pairs[i][0].values, calibrate->pairs[i][1].values,
			                                              calibrate->pairs[i][0].tokens, 0 };
		calibrate->tokens += calibrate->pairs[i][0].tokens;
	}
	calibrate->order.samples = calibrate->samples;
	calibrate->order.sample_count = count;
	calibrate->order.form = (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = first->layers, .kv_heads = first->heads, .head_dim_k = first[0].dims,
		.head_dim_v = first[1].dims, .dtype = KVC_DTYPE_BF16, .shard_count = 1,
	};
	return TOOL_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------------------------- */

static void calibrate_progress(void *context, uint64_t done, uint64_t total)
{
	print_progress_show(context, done, total, false);
}

static int calibrate_write(const struct tool *tool, const struct calibrate *calibrate, const char *path)
{
	FILE *file = fopen(path, "we");
	bool good;

	if (file == NULL)
		return tool_failed(tool, "%s: %s", path, strerror(errno));
	good = fwrite(calibrate->bytes, 1, calibrate->length, file) == calibrate->length;
	good = fclose(file) == 0 && good;
	return good ? TOOL_OK : tool_failed(tool, "%s: %s", path, strerror(errno));
}

static void calibrate_report(const struct tool *tool, const struct calibrate *calibrate, const char *path)
{
	const struct kvc_form *form = &calibrate->order.form;
	unsigned long long id = (unsigned long long)kvci_profile_id_of(calibrate->bytes, calibrate->length);

	if (tool->json) {
		json_t *answer = json_pack("{s:s, s:I, s:I, s:i, s:i, s:i, s:i}", "file", path, "bytes", (json_int_t)calibrate->length, "tokens",
		                           (json_int_t)calibrate->tokens, "layers", (int)form->layer_count, "kv_heads", (int)form->kv_heads,
		                           "pca_layers", (int)calibrate->order.pca_layers, "sinks", (int)calibrate->order.sinks);
		char text[17];

		snprintf(text, sizeof(text), "%016llx", id);
		json_object_set_new(answer, "profile", json_string(text));
		tool_print_json(answer);
		json_decref(answer);
		return;
	}
	print_line(stdout, "%s: profile %016llx, %s, of %s tokens: %u layers, %u heads of %u and %u", path, id, print_bytes(calibrate->length),
	           print_count(calibrate->tokens), form->layer_count, form->kv_heads, form->head_dim_k, form->head_dim_v);
	if (calibrate->tokens < CALIBRATE_FEW_TOKENS)
		print_line(stderr, "few tokens: about 10,000 of texts like those to come make a good profile");
}

/* Codebooks for pq behind the profile. */
static kvc_status_t calibrate_codebooks(struct calibrate *calibrate)
{
	uint8_t *plain = calibrate->bytes;
	kvc_status_t status;

	print_progress_begin(&calibrate->progress, "codebooks");
	status = kvci_pq_train(&calibrate->order, 0, plain, calibrate->length, &calibrate->bytes, &calibrate->length);
	print_progress_end(&calibrate->progress);
	if (status == KVC_OK)
		kvci_free(plain);
	return status;
}

static int calibrate_run(struct tool *tool, struct calibrate *calibrate)
{
	const char *path = tool_value(tool, "output"), *name = tool_value(tool, "name");
	uint64_t sinks, layers, index, shards;
	kvc_status_t status;
	int result;

	if (path == NULL)
		return tool_usage_error(tool, "give --output FILE");
	if ((result = tool_number(tool, "sinks", 0, 64, 4, &sinks)) != TOOL_OK ||
	    (result = tool_number(tool, "pca", 0, KVC_FORM_LAYERS_MAX, 0, &layers)) != TOOL_OK ||
	    (result = tool_number(tool, "shards", 1, UINT32_MAX, 1, &shards)) != TOOL_OK ||
	    (result = tool_number(tool, "shard", 0, shards - 1, 0, &index)) != TOOL_OK ||
	    (result = calibrate_read(tool, calibrate)) != TOOL_OK || (result = calibrate_rope(tool, calibrate)) != TOOL_OK)
		return result;
	calibrate->order.name = name != NULL ? name : "";
	calibrate->order.sinks = (uint32_t)sinks;
	calibrate->order.pca_layers = (uint32_t)layers;
	calibrate->order.form.shard_index = (uint32_t)index;
	calibrate->order.form.shard_count = (uint32_t)shards;
	calibrate->order.progress = calibrate_progress;
	calibrate->order.context = &calibrate->progress;
	print_progress_begin(&calibrate->progress, "calibrating");
	status = kvci_profile_make(&calibrate->order, &calibrate->bytes, &calibrate->length);
	print_progress_end(&calibrate->progress);
	if (status == KVC_OK && tool_flag(tool, "codebooks"))
		status = calibrate_codebooks(calibrate);
	if (status == KVC_INVALID)
		return tool_failed(tool, "no profile comes of this: values that are not finite, fewer than two tokens behind the sinks, or too "
		                         "many channels in a group of layers");
	if (status != KVC_OK)
		return tool_failed_status(tool, "making the profile", status);
	result = calibrate_write(tool, calibrate, path);
	if (result == TOOL_OK)
		calibrate_report(tool, calibrate, path);
	return result;
}

int tool_run_calibrate(struct tool *tool)
{
	struct calibrate *calibrate = kvci_alloc_zero(1, sizeof(*calibrate));
	int result;

	if (calibrate == NULL)
		return tool_failed(tool, "no memory");
	result = calibrate_run(tool, calibrate);
	for (int i = 0; i < CALIBRATE_PAIRS_MAX; i++)
		for (int j = 0; j < 2; j++)
			codec_sample_fini(&calibrate->pairs[i][j]);
	kvci_free(calibrate->inv_freq);
	kvci_free(calibrate->bytes);
	kvci_free(calibrate);
	return result;
}
