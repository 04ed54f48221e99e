/* SPDX-License-Identifier: Apache-2.0
 * The bench as a client of its daemon, and the keys it uses. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "tools/bench/world.h"

void bench_hash(uint64_t family, uint64_t number, uint8_t out[KVC_HASH_BYTES])
{
	for (unsigned i = 0; i < 4; i++) { /* splitmix64 */
		uint64_t word = (family << 40) + number * 4 + i + 1;
		word *= UINT64_C(0x9e3779b97f4a7c15);
		word = (word ^ (word >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		word = (word ^ (word >> 27)) * UINT64_C(0x94d049bb133111eb);
		word ^= word >> 31;
		memcpy(out + 8 * i, &word, sizeof(word));
	}
}

void bench_chain(uint64_t family, uint64_t first, uint32_t count, uint32_t block_tokens, struct kvc_store_block *out)
{
	for (uint32_t i = 0; i < count; i++) {
		bench_hash(family, first + i, out[i].hash);
		if (i == 0)
			memset(out[i].parent_hash, 0, KVC_HASH_BYTES);
		else
			memcpy(out[i].parent_hash, out[i - 1].hash, KVC_HASH_BYTES);
		out[i].position_tokens = (uint64_t)i * block_tokens;
	}
}

kvc_status_t bench_client_open(const struct bench_world *world, const struct bench_shape *shape,
                               const struct bench_engine *engine, struct bench_client *ret_client)
{
	const struct kvc_open_options options = {
		.struct_bytes = sizeof(options), .flags = KVC_OPEN_SESSION_OWNER, .name = "kvcask bench",
	};
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = shape->name, .model_name = "bench", .kv_dtype = "bfloat16",
		.hash_algorithm = "bench",
	};
	struct bench_client client = { 0 };
	char target[128];

	snprintf(target, sizeof(target), "unix:%s", world->socket);
	kvc_status_t status = kvc_open(target, &options, &client.client);
	if (status == KVC_OK)
		status = kvc_space_open(client.client, &desc, &shape->form, &client.space);
	if (status == KVC_OK && engine != NULL)
		status = kvc_space_set_memory(client.space, engine->layers, engine->layer_count);
	if (status != KVC_OK) {
		bench_note("client: %s", kvc_last_error());
		bench_client_close(&client);
		return status;
	}
	*ret_client = client;
	return KVC_OK;
}

void bench_client_close(struct bench_client *client)
{
	if (client->space != NULL)
		kvc_space_close(client->space);
	kvc_close(client->client);
	*client = (struct bench_client){ 0 };
}

/* A number by its key, anywhere in the tree. */
static const json_t *client_json_find(const json_t *node, const char *name)
{
	const char *key;
	json_t *value;
	const json_t *found = NULL;
	size_t index;

	if (json_is_object(node)) {
		const json_t *own = json_object_get(node, name);
		if (json_is_number(own))
			return own;
		json_object_foreach((json_t *)(uintptr_t)node, key, value)
			if (found == NULL)
				found = client_json_find(value, name);
	} else if (json_is_array(node)) {
		json_array_foreach(node, index, value) {
			/* A row {"name": ..., "value": ...} */
			const json_t *label = json_object_get(value, "name");
			if (json_is_string(label) && strcmp(json_string_value(label), name) == 0)
				return json_object_get(value, "value");
			if (found == NULL)
				found = client_json_find(value, name);
		}
	}
	return found;
}

static kvc_status_t client_json_number(const char *text, const char *name, double *ret_value)
{
	json_t *root = json_loads(text, 0, NULL);
	const json_t *found = client_json_find(root, name);
	kvc_status_t status = json_is_number(found) ? KVC_OK : KVC_NOT_FOUND;

	if (status == KVC_OK)
		*ret_value = json_number_value(found);
	json_decref(root);
	return status;
}

kvc_status_t bench_client_figures(const struct bench_client *client, struct bench_client_figures *ret_figures)
{
	struct bench_client_figures figures = { 0 };
	const struct {
		const char *name;
		double *value;
	} wanted[] = {
		{ "round_trips", &figures.round_trips }, { "syscalls", &figures.syscalls }, { "locks", &figures.locks },
		{ "allocations", &figures.allocations }, { "messages_sent", &figures.messages_sent },
	};
	char *text;
	kvc_status_t status = kvc_client_stats(client->client, &text);

	if (status != KVC_OK)
		return status;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]) && status == KVC_OK; i++) {
		status = client_json_number(text, wanted[i].name, wanted[i].value);
		if (status != KVC_OK)
			bench_note("the client's figures have no %s", wanted[i].name);
	}
	kvc_free(text);
	if (status == KVC_OK)
		*ret_figures = figures;
	return status;
}

kvc_status_t bench_client_count(const struct bench_client *client, const struct bench_client_figures *before, double blocks,
                                struct bench_result *result)
{
	struct bench_client_figures now;
	kvc_status_t status = bench_client_figures(client, &now);

	if (status != KVC_OK)
		return status;
	bench_result_count(result, "round_trips", (now.round_trips - before->round_trips) / blocks);
	bench_result_count(result, "syscalls", (now.syscalls - before->syscalls) / blocks);
	bench_result_count(result, "locks", (now.locks - before->locks) / blocks);
	bench_result_count(result, "allocations", (now.allocations - before->allocations) / blocks);
	return KVC_OK;
}

kvc_status_t bench_daemon_stat(const struct bench_client *client, const char *name, double *ret_value)
{
	char *text;
	kvc_status_t status = kvc_admin(client->client, "stat", NULL, BENCH_TIMEOUT_NS, &text);

	if (status != KVC_OK)
		return status;
	status = client_json_number(text, name, ret_value);
	kvc_free(text);
	return status;
}
