/* SPDX-License-Identifier: Apache-2.0
 * kvcask calibrate: a profile from KV. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "codec/pq.h"
#include "tools/bench/codec_sample.h"
#include "tools/kvcask/calibrate.h"

enum { CALIBRATE_PAIRS_MAX = 256, CALIBRATE_FEW_TOKENS = 4096 };

struct calibrate {
	struct codec_sample pairs[CALIBRATE_PAIRS_MAX][2]; /* K, V, of files */
	struct calibrate_kv kv;
	struct calibrate_rope rope;
	struct kvci_profile_order order;
	float *weights[2]; /* K, V; NULL: not given */
	struct print_progress progress;
	uint8_t *bytes;
	size_t length;
};

/* ---- KV of files ----------------------------------------------------------------------------------------------------------------- */

static int calibrate_shards(const struct tool *tool, struct kvc_form *form)
{
	uint64_t index, shards;
	int result = tool_number(tool, "shards", 1, UINT32_MAX, 1, &shards);

	if (result == TOOL_OK)
		result = tool_number(tool, "shard", 0, shards - 1, 0, &index);
	if (result != TOOL_OK)
		return result;
	form->shard_index = (uint32_t)index;
	form->shard_count = (uint32_t)shards;
	return TOOL_OK;
}

static int calibrate_read_files(const struct tool *tool, struct calibrate *calibrate)
{
	const struct codec_sample *first = calibrate->pairs[0];
	uint32_t count = (uint32_t)tool->argument_count / 2;
	struct calibrate_kv *kv = &calibrate->kv;

	if (tool->argument_count == 0)
		return tool_usage_error(tool, "give files, K.npy V.npy..., or --space");
	if (tool->argument_count % 2 != 0 || count > CALIBRATE_PAIRS_MAX)
		return tool_usage_error(tool, "files come in pairs, K and V; at most %d pairs", CALIBRATE_PAIRS_MAX);
	if (tool_flag(tool, "form") || tool_flag(tool, "tokens"))
		return tool_usage_error(tool, "--form and --tokens go with --space");
	kv->samples = kvci_alloc_zero(count, sizeof(kv->samples[0]));
	if (kv->samples == NULL)
		return tool_failed(tool, "no memory");
	for (uint32_t i = 0; i < count; i++) {
		for (int j = 0; j < 2; j++) {
			struct codec_sample *sample = &calibrate->pairs[i][j];

			if (codec_sample_read(tool->arguments[2 * i + j], sample) != KVC_OK)
				return TOOL_FAILED; /* said */
			if (sample->layers != first->layers || sample->heads != first->heads || sample->dims != first[j].dims ||
			    sample->tokens != calibrate->pairs[i][0].tokens)
				return tool_failed(tool, "%s has not the shape of the others", tool->arguments[2 * i + j]);
		}
		kv->samples[i] = (struct kvci_profile_sample){ calibrate->pairs[i][0].values, calibrate->pairs[i][1].values,
			                                       calibrate->pairs[i][0].tokens, 0 };
		kv->tokens += calibrate->pairs[i][0].tokens;
	}
	kv->sample_count = count;
	kv->form = (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = first->layers, .kv_heads = first->heads, .head_dim_k = first[0].dims,
		.head_dim_v = first[1].dims, .dtype = KVC_DTYPE_BF16, .shard_count = 1,
	};
	return calibrate_shards(tool, &kv->form);
}

static int calibrate_read(struct tool *tool, struct calibrate *calibrate)
{
	if (!tool_flag(tool, "space"))
		return calibrate_read_files(tool, calibrate);
	if (tool->argument_count != 0)
		return tool_usage_error(tool, "give either files or --space");
	if (tool_flag(tool, "shards"))
		return tool_usage_error(tool, "--shards: the space knows how many it has");
	return calibrate_space_read(tool, &calibrate->kv);
}

/* ---- weights --------------------------------------------------------------------------------------------------------------------- */

/* One plane's, from a file like those of KV with one token. */
static int calibrate_weights_of(const struct tool *tool, struct calibrate *calibrate, int plane)
{
	const struct kvc_form *form = &calibrate->kv.form;
	const char *path = tool_value(tool, plane == 0 ? "weights-k" : "weights-v");
	uint32_t dims = plane == 0 ? form->head_dim_k : form->head_dim_v;
	size_t count = (size_t)form->layer_count * form->kv_heads * dims;
	struct codec_sample sample = { 0 };
	int result = TOOL_OK;

	if (codec_sample_read(path, &sample) != KVC_OK)
		return TOOL_FAILED; /* said */
	calibrate->weights[plane] = kvci_alloc_zero(count + 1, sizeof(float));
	if (sample.layers != form->layer_count || sample.tokens != 1 || sample.heads != form->kv_heads || sample.dims != dims)
		result = tool_failed(tool, "%s is not [%u, 1, %u, %u], a weight for each element of a token", path, form->layer_count, form->kv_heads, dims);
	else if (calibrate->weights[plane] == NULL)
		result = tool_failed(tool, "no memory");
	for (size_t i = 0; i < count && result == TOOL_OK; i++) {
		uint32_t bits = (uint32_t)sample.values[i] << 16;

		memcpy(&calibrate->weights[plane][i], &bits, sizeof(bits));
	}
	codec_sample_fini(&sample);
	return result;
}

static int calibrate_weights(const struct tool *tool, struct calibrate *calibrate)
{
	int result;

	if (tool_value(tool, "weights-k") == NULL && tool_value(tool, "weights-v") == NULL)
		return TOOL_OK;
	if (tool_value(tool, "weights-k") == NULL || tool_value(tool, "weights-v") == NULL)
		return tool_usage_error(tool, "--weights-k and --weights-v go together");
	result = calibrate_weights_of(tool, calibrate, 0);
	return result == TOOL_OK ? calibrate_weights_of(tool, calibrate, 1) : result;
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
		                           (json_int_t)calibrate->kv.tokens, "layers", (int)form->layer_count, "kv_heads", (int)form->kv_heads,
		                           "pca_layers", (int)calibrate->order.pca_layers, "sinks", (int)calibrate->order.sinks);
		char text[17];

		snprintf(text, sizeof(text), "%016llx", id);
		json_object_set_new(answer, "profile", json_string(text));
		json_object_set_new(answer, "weights", json_boolean(calibrate->weights[0] != NULL));
		tool_print_json(answer);
		json_decref(answer);
		return;
	}
	print_line(stdout, "%s: profile %016llx, %s, of %s tokens: %u layers, %u heads of %u and %u, %s weights", path, id, print_bytes(calibrate->length),
	           print_count(calibrate->kv.tokens), form->layer_count, form->kv_heads, form->head_dim_k, form->head_dim_v,
	           calibrate->weights[0] != NULL ? "with" : "without");
	if (calibrate->kv.tokens < CALIBRATE_FEW_TOKENS)
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
	const char *path = tool_value(tool, "output"), *name = tool_value(tool, "name"), *model = tool_value(tool, "model-id");
	const struct calibrate_kv *kv = &calibrate->kv;
	uint64_t sinks, layers;
	kvc_status_t status;
	int result;

	if (path == NULL)
		return tool_usage_error(tool, "give --output FILE");
	if (name != NULL && strlen(name) > KVCI_PROFILE_NAME_BYTES_MAX)
		return tool_usage_error(tool, "--name: longer than %d bytes", KVCI_PROFILE_NAME_BYTES_MAX);
	if (model != NULL && strlen(model) > KVCI_PROFILE_MODEL_BYTES_MAX)
		return tool_usage_error(tool, "--model-id: longer than %d bytes", KVCI_PROFILE_MODEL_BYTES_MAX);
	if ((result = tool_number(tool, "sinks", 0, 64, 4, &sinks)) != TOOL_OK ||
	    (result = tool_number(tool, "pca", 0, KVC_FORM_LAYERS_MAX, 0, &layers)) != TOOL_OK ||
	    (result = calibrate_read(tool, calibrate)) != TOOL_OK || (result = calibrate_rope_read(tool, kv, &calibrate->rope)) != TOOL_OK ||
	    (result = calibrate_weights(tool, calibrate)) != TOOL_OK)
		return result;
	calibrate->order = (struct kvci_profile_order){
		.name = name != NULL ? name : kv->model_name != NULL && strlen(kv->model_name) <= KVCI_PROFILE_NAME_BYTES_MAX ? kv->model_name : "",
		.model = model != NULL ? model : kv->model, .form = kv->form, .rope = calibrate->rope.rotated ? &calibrate->rope.rope : NULL, .samples = kv->samples,
		.sample_count = kv->sample_count, .sinks = (uint32_t)sinks, .pca_layers = (uint32_t)layers,
		.weights = { calibrate->weights[0], calibrate->weights[1] },
	};
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
	calibrate_kv_fini(&calibrate->kv);
	kvci_free(calibrate->weights[0]);
	kvci_free(calibrate->weights[1]);
	kvci_free(calibrate->rope.inv_freq);
	kvci_free(calibrate->bytes);
	kvci_free(calibrate);
	return result;
}
