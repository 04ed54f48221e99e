/* SPDX-License-Identifier: Apache-2.0
 * A space bound by this client: its fields as BIND carries them, the engine's memory, and binding again after a reconnect. */
#include <string.h>

#include "base/alloc.h"
#include "connector/internal.h"

enum { SPACE_FIELD_BYTES_MAX = 4096, SPACE_FIELDS = 10 };

/* ---- fields ---- */

struct space_field {
	const char *name, *value;
	bool required;
};

static void space_list_fields(const struct kvc_space_desc *desc, struct space_field fields[SPACE_FIELDS])
{
	fields[0] = (struct space_field){"model", desc->model, true};
	fields[1] = (struct space_field){"model_name", desc->model_name, false};
	fields[2] = (struct space_field){"kv_dtype", desc->kv_dtype, true};
	fields[3] = (struct space_field){"kv_quant", desc->kv_quant, false};
	fields[4] = (struct space_field){"rope", desc->rope, false};
	fields[5] = (struct space_field){"adapter", desc->adapter, false};
	fields[6] = (struct space_field){"hash_algorithm", desc->hash_algorithm, true};
	fields[7] = (struct space_field){"hash_root", desc->hash_root, false};
	fields[8] = (struct space_field){"extra", desc->extra, false};
	fields[9] = (struct space_field){"codec", desc->codec, false};
}

static kvc_status_t space_check_fields(const struct space_field fields[SPACE_FIELDS])
{
	for (unsigned i = 0; i < SPACE_FIELDS; i++) {
		if (fields[i].required && (fields[i].value == NULL || fields[i].value[0] == '\0'))
			return client_fail(KVC_INVALID, "space field %s is missing", fields[i].name);
		if (fields[i].value != NULL && strlen(fields[i].value) > SPACE_FIELD_BYTES_MAX)
			return client_fail(KVC_TOO_BIG, "space field %s is longer than %d bytes", fields[i].name, SPACE_FIELD_BYTES_MAX);
	}
	return KVC_OK;
}

static uint8_t *space_put(uint8_t *at, const void *bytes, size_t length_bytes)
{
	memcpy(at, bytes, length_bytes);
	return at + length_bytes;
}

/* The form, then the fields as cache/space.h serialises them: count, then name and value each with its length. The tenant is the socket's. */
static kvc_status_t space_serialize(struct kvc_space *space, const struct kvc_space_desc *desc)
{
	struct space_field fields[SPACE_FIELDS];
	size_t bytes = sizeof(space->form) + sizeof(uint32_t);
	uint32_t count = 0;
	uint8_t *at;
	kvc_status_t status;

	space_list_fields(desc, fields);
	status = space_check_fields(fields);
	if (status != KVC_OK)
		return status;
	for (unsigned i = 0; i < SPACE_FIELDS; i++) {
		if (fields[i].value == NULL)
			continue;
		bytes += sizeof(uint16_t) + strlen(fields[i].name) + sizeof(uint32_t) + strlen(fields[i].value);
		count++;
	}
	space->fields = kvci_alloc(bytes);
	if (space->fields == NULL)
		return client_fail(KVC_NO_MEMORY, "space");
	space->fields_bytes = bytes;
	at = space_put(space->fields, &space->form, sizeof(space->form));
	at = space_put(at, &count, sizeof(count));
	for (unsigned i = 0; i < SPACE_FIELDS; i++) {
		uint16_t name_bytes = (uint16_t)strlen(fields[i].name);
		uint32_t value_bytes;

		if (fields[i].value == NULL)
			continue;
		value_bytes = (uint32_t)strlen(fields[i].value);
		at = space_put(at, &name_bytes, sizeof(name_bytes));
		at = space_put(at, fields[i].name, name_bytes);
		at = space_put(at, &value_bytes, sizeof(value_bytes));
		at = space_put(at, fields[i].value, value_bytes);
	}
	return KVC_OK;
}

/* ---- binding ---- */

static void space_bound(struct kvc_client *client, struct call *call, const struct kvci_message *answer, int *fd)
{
	struct kvc_space *space = call->space;
	kvc_status_t status = answer->status;

	if (space == NULL || space->bind_state != SPACE_BINDING)
		return;
	if (status == KVC_OK) {
		/* The fields are the same, so that another fingerprint could only come from a daemon of another mind, or another tenant's socket. */
		space->bind_state = SPACE_BOUND;
		space->binding = answer->binding;
		space->epoch = answer->a;
		memcpy(space->fingerprint, answer->id, sizeof(space->fingerprint));
	} else {
		space->bind_state = SPACE_UNBOUND;
		if (answer->text[0] != '\0')
			client_fail(status, "bind: %s (%s)", kvc_status_text(status), answer->text);
		else
			client_fail(status, "bind: %s", kvc_status_text(status));
	}
	ops_bound(client, space, status);
	client_moved(client);
}

kvc_status_t space_bind(struct kvc_space *space)
{
	struct kvc_client *client = space->client;
	struct kvci_message message;
	struct call *call;
	kvc_status_t status;

	if (space->bind_state != SPACE_UNBOUND)
		return KVC_OK;
	status = connect_call(client, NULL, KVCI_MESSAGE_BIND, space->fields_bytes, space_bound, &call, &message);
	if (status != KVC_OK)
		return status;
	space->bind_state = SPACE_BINDING;
	call->space = space;
	memcpy(client->window + call->range_offset, space->fields, space->fields_bytes);
	message.array_offset = call->range_offset;
	message.array_bytes = space->fields_bytes;
	connect_send(client, &message);
	return KVC_OK;
}

/* ---- an op that only waits for the binding ---- */

static void space_bind_start(struct kvc_op *op)
{
	op_done(op, KVC_OK);
}

static void space_bind_stop(struct kvc_op *op, kvc_status_t status)
{
	op_done(op, status);
}

static const struct op_kind space_bind_kind = {
	.name = "bind",
	.quick = true,
	.start = space_bind_start,
	.stop = space_bind_stop,
};

/* The lock is held. */
static kvc_status_t space_bind_now(struct kvc_space *space)
{
	struct kvc_client *client = space->client;
	kvc_status_t status = connect_ready(client);
	struct kvc_op *op = NULL;

	if (status == KVC_OK)
		status = op_create(client, space, &space_bind_kind, sizeof(*op), &op);
	if (status != KVC_OK)
		return status;
	op_launch(op);
	status = op_finish(op, op_until(client->connect_timeout_ns));
	if (status == KVC_TIMED_OUT)
		client_fail(status, "the daemon does not answer");
	op_detach(op);
	return status;
}

/* ---- public ---- */

bool space_is_valid(const struct kvc_space *space)
{
	return space != NULL && space->magic == CLIENT_SPACE_MAGIC && !space->closed;
}

static void space_free(struct kvc_space *space)
{
	if (space == NULL)
		return;
	space->magic = 0;
	kvci_free(space->fields);
	kvci_free(space->layers);
	kvci_free(space);
}

/* The lock is held. */
void space_destroy(struct kvc_space *space)
{
	struct kvc_client *client = space->client;
	struct kvc_space **link = &client->spaces;

	while (*link != space)
		link = &(*link)->next;
	*link = space->next;
	for (uint32_t i = 0; i < CLIENT_CALLS; i++)
		if (client->calls[i].tag != 0 && client->calls[i].space == space)
			client->calls[i].space = NULL;
	space_free(space);
}

static kvc_status_t space_create(struct kvc_client *client, const struct kvc_space_desc *desc, const struct kvc_form *form,
                                 struct kvc_space **ret_space)
{
	struct kvc_space *space = kvci_alloc_zero(1, sizeof(*space));
	const char *field = "";
	kvc_status_t status;

	if (space == NULL)
		return client_fail(KVC_NO_MEMORY, "space");
	space->magic = CLIENT_SPACE_MAGIC;
	space->client = client;
	space->form = *form;
	status = kvc_form_sizes(form, &space->sizes, &field);
	if (status != KVC_OK)
		client_fail(status, "form: %s of %s", kvc_status_text(status), field);
	else
		status = space_serialize(space, desc);
	if (status != KVC_OK) {
		space_free(space);
		return status;
	}
	space->form_id = kvc_form_id(form);
	*ret_space = space;
	return KVC_OK;
}

kvc_status_t kvc_space_open(struct kvc_client *client, const struct kvc_space_desc *desc, const struct kvc_form *form,
                            struct kvc_space **ret_space)
{
	struct kvc_space *space = NULL;
	kvc_status_t status;

	if (desc == NULL || form == NULL || ret_space == NULL)
		return client_fail(KVC_INVALID, "desc, form or ret_space is NULL");
	if (desc->struct_bytes != sizeof(*desc))
		return client_fail(KVC_INVALID, "desc.struct_bytes is %u, not %zu", desc->struct_bytes, sizeof(*desc));
	if (form->struct_bytes != sizeof(*form))
		return client_fail(KVC_INVALID, "form.struct_bytes is %u, not %zu", form->struct_bytes, sizeof(*form));
	status = client_enter(client);
	if (status != KVC_OK)
		return status;
	status = space_create(client, desc, form, &space);
	if (status == KVC_OK) {
		space->next = client->spaces;
		client->spaces = space;
		status = space_bind_now(space);
		/* Bound by the first op that finds a daemon. */
		if ((client->flags & KVC_OPEN_LAZY) != 0 && kvc_status_class(status) == KVC_CLASS_DEGRADE)
			status = KVC_OK;
		if (status == KVC_OK)
			*ret_space = space;
		else
			space_destroy(space);
	}
	client_leave(client);
	return status;
}

void kvc_space_close(struct kvc_space *space)
{
	struct kvc_client *client;
	struct kvc_op *next;

	if (!space_is_valid(space) || client_enter(space->client) != KVC_OK)
		return;
	client = space->client;
	space->closed = true;
	for (struct kvc_op *op = client->ops; op != NULL; op = next) {
		next = op->next;
		if (op->space == space)
			op_stop(op, KVC_CANCELED);
	}
	if (space->ops == 0)
		space_destroy(space);
	client_leave(client);
}

/* Plans of all layers, and the least of their block counts. */
static kvc_status_t space_plan(const struct kvc_space *space, const struct kvc_layer_memory *layers,
                               struct layer_plan **ret_plans, uint64_t *ret_block_count)
{
	struct layer_plan *plans = kvci_alloc_zero(space->form.layer_count, sizeof(*plans));
	uint64_t block_count = UINT64_MAX;

	if (plans == NULL)
		return client_fail(KVC_NO_MEMORY, "set_memory");
	for (uint32_t i = 0; i < space->form.layer_count; i++) {
		kvc_status_t status = gather_plan(&layers[i], &space->sizes, &plans[i]);

		if (status != KVC_OK) {
			kvci_free(plans);
			return status;
		}
		if (plans[i].block_count < block_count)
			block_count = plans[i].block_count;
	}
	*ret_plans = plans;
	*ret_block_count = block_count;
	return KVC_OK;
}

static bool space_is_busy(const struct kvc_space *space)
{
	for (const struct kvc_op *op = space->client->ops; op != NULL; op = op->next)
		if (op->space == space && (op->status == KVC_PENDING || op->moving > 0))
			return true;
	return false;
}

kvc_status_t kvc_space_set_memory(struct kvc_space *space, const struct kvc_layer_memory *layers, uint32_t layer_count)
{
	struct layer_plan *plans = NULL;
	uint64_t block_count = 0;
	kvc_status_t status;

	if (!space_is_valid(space) || layers == NULL)
		return client_fail(KVC_INVALID, "no space, or layers is NULL");
	if (layer_count != space->form.layer_count)
		return client_fail(KVC_INVALID, "%u layers, the form has %u", layer_count, space->form.layer_count);
	status = space_plan(space, layers, &plans, &block_count);
	if (status != KVC_OK)
		return status;
	status = client_enter(space->client);
	if (status != KVC_OK) {
		kvci_free(plans);
		return status;
	}
	if (space_is_busy(space)) {
		status = client_fail(KVC_IN_USE, "ops of this space are under way");
		kvci_free(plans);
	} else {
		kvci_free(space->layers);
		space->layers = plans;
		space->block_count = block_count;
	}
	client_leave(space->client);
	return status;
}

void kvc_space_sizes(const struct kvc_space *space, struct kvc_form_sizes *ret_sizes)
{
	if (space_is_valid(space))
		*ret_sizes = space->sizes;
}

kvc_status_t space_check_blocks(const struct kvc_space *space, const uint32_t *engine_blocks, uint32_t count)
{
	uint64_t total = (uint64_t)count * space->sizes.pages_per_section;

	if (space->layers == NULL)
		return client_fail(KVC_INVALID, "kvc_space_set_memory comes first");
	if (engine_blocks == NULL)
		return client_fail(KVC_INVALID, "engine_blocks is NULL");
	for (uint64_t i = 0; i < total; i++)
		if (engine_blocks[i] >= space->block_count)
			return client_fail(KVC_INVALID, "engine block %u: the memory has %llu", engine_blocks[i],
			                   (unsigned long long)space->block_count);
	return KVC_OK;
}
