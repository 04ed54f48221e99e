/* SPDX-License-Identifier: Apache-2.0
 * The calls that store: from the engine's pages, and by hand (reserve, commit, abort). */
#include <string.h>

#include "base/alloc.h"
#include "connector/store.h"

static kvc_status_t store_api_check(const struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count)
{
	if (!space_is_valid(space))
		return client_fail(KVC_INVALID, "no space");
	if (count > KVC_BLOCKS_MAX)
		return client_fail(KVC_TOO_BIG, "%u blocks in one call, at most %u", count, (unsigned)KVC_BLOCKS_MAX);
	if (blocks == NULL && count > 0)
		return client_fail(KVC_INVALID, "blocks is NULL");
	return KVC_OK;
}

/* The lock is held when it is OK. */
static kvc_status_t store_api_launch(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                                     const uint32_t *engine_blocks, bool background, struct store_op **ret_self)
{
	kvc_status_t status = client_enter_up(space->client);

	if (status != KVC_OK)
		return status;
	status = store_create(space, blocks, count, engine_blocks, ret_self);
	if (status != KVC_OK) {
		client_leave(space->client);
		return status;
	}
	(*ret_self)->op.background = background;
	op_launch(&(*ret_self)->op);
	return KVC_OK;
}

kvc_status_t kvc_store_begin(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                             const uint32_t *engine_blocks, struct kvc_op **ret_op)
{
	static const uint32_t none[1];
	struct store_op *self;
	kvc_status_t status = store_api_check(space, blocks, count);

	if (status == KVC_OK && ret_op == NULL)
		status = client_fail(KVC_INVALID, "ret_op is NULL");
	if (status == KVC_OK && count > 0)
		status = space_check_blocks(space, engine_blocks, count);
	if (status == KVC_OK)
		status = store_api_launch(space, blocks, count, count > 0 ? engine_blocks : none, true, &self);
	if (status != KVC_OK)
		return status;
	*ret_op = &self->op;
	client_leave(space->client);
	return KVC_OK;
}

kvc_status_t kvc_store(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count,
                       const uint32_t *engine_blocks, uint64_t timeout_ns, kvc_status_t *statuses)
{
	static const uint32_t none[1];
	uint64_t until_ns = op_until(timeout_ns);
	struct store_op *self;
	kvc_status_t status = store_api_check(space, blocks, count);

	if (status == KVC_OK && count > 0)
		status = space_check_blocks(space, engine_blocks, count);
	if (status == KVC_OK)
		status = store_api_launch(space, blocks, count, count > 0 ? engine_blocks : none, false, &self);
	if (status != KVC_OK)
		return status;
	status = op_finish(&self->op, until_ns);
	for (uint32_t i = 0; statuses != NULL && i < count; i++)
		statuses[i] = self->blocks[i].status;
	if (status != KVC_OK)
		client_fail(status, "store: block %u: %s", self->worst_index, kvc_status_text(status));
	op_detach(&self->op);
	client_leave(space->client);
	return status;
}

/* ---- by hand ---- */

static struct client_reservation *store_api_find(struct kvc_client *client, uint64_t id)
{
	struct client_reservation *reservation = client->reservations;

	while (reservation != NULL && reservation->id != id)
		reservation = reservation->next;
	return reservation;
}

/* The lock is held; its memory may be unmapped after this. */
static void store_api_forget(struct kvc_client *client, struct client_reservation *reservation)
{
	struct client_reservation **link = &client->reservations;

	while (*link != reservation)
		link = &(*link)->next;
	*link = reservation->next;
	slabs_put(client, reservation->slab);
	kvci_free(reservation);
}

/* The op's hold of a block becomes the caller's. */
static kvc_status_t store_api_hand_out(struct store_op *self, struct store_block *block, struct kvc_reservation *ret_reservation)
{
	struct kvc_client *client = self->op.client;
	struct client_reservation *reservation = kvci_alloc_zero(1, sizeof(*reservation));

	client->stats.allocations++;
	if (reservation == NULL) {
		store_abort(client, block->reservation);
		return KVC_NO_MEMORY;
	}
	reservation->id = block->reservation;
	reservation->generation = client->generation;
	reservation->slab = block->slab;
	reservation->slab->users++;
	reservation->sections = block->slab->base + block->offset_bytes + self->op.space->sizes.sections_offset_bytes;
	reservation->next = client->reservations;
	client->reservations = reservation;
	ret_reservation->id = reservation->id;
	ret_reservation->sections = reservation->sections;
	return KVC_OK;
}

static void store_api_abort_all(struct store_op *self)
{
	for (uint32_t i = 0; i < self->count; i++)
		if (self->blocks[i].state == STORE_RESERVED)
			store_abort(self->op.client, self->blocks[i].reservation);
}

kvc_status_t kvc_reserve(struct kvc_space *space, const struct kvc_store_block *blocks, uint32_t count, uint64_t timeout_ns,
                         struct kvc_reservation *ret_reservations)
{
	uint64_t until_ns = op_until(timeout_ns);
	struct store_op *self;
	kvc_status_t status = store_api_check(space, blocks, count);

	if (status == KVC_OK && ret_reservations == NULL && count > 0)
		status = client_fail(KVC_INVALID, "ret_reservations is NULL");
	if (status != KVC_OK || count == 0)
		return status;
	status = store_api_launch(space, blocks, count, NULL, false, &self);
	if (status != KVC_OK)
		return status;
	op_finish(&self->op, until_ns);
	status = atomic_load_explicit(&self->op.stopped, memory_order_relaxed) ? self->stop_status : KVC_OK;
	if (status == KVC_OK) {
		for (uint32_t i = 0; i < count; i++) {
			struct kvc_reservation out = {.status = self->blocks[i].status};

			if (self->blocks[i].state == STORE_RESERVED)
				out.status = store_api_hand_out(self, &self->blocks[i], &out);
			ret_reservations[i] = out;
		}
	} else {
		store_api_abort_all(self);
		client_fail(status, "reserve: %s", kvc_status_text(status));
	}
	op_detach(&self->op);
	client_leave(space->client);
	return status;
}

/* The caller's reservation, kept mapped until store_api_end. */
static kvc_status_t store_api_begin(struct kvc_space *space, const struct kvc_reservation *reservation,
                                    struct client_reservation **ret_kept)
{
	struct client_reservation *kept;
	kvc_status_t status;

	if (!space_is_valid(space) || reservation == NULL)
		return client_fail(KVC_INVALID, "no space or no reservation");
	status = client_enter(space->client);
	if (status != KVC_OK)
		return status;
	kept = store_api_find(space->client, reservation->id);
	if (kept == NULL)
		status = client_fail(KVC_NOT_FOUND, "no such reservation");
	else if (kept->generation != space->client->generation || space->client->state != CONNECTION_UP) {
		store_api_forget(space->client, kept);
		status = client_fail(KVC_GONE, "the daemon that gave the reservation has gone");
	}
	client_leave(space->client);
	*ret_kept = kept;
	return status;
}

kvc_status_t kvc_commit(struct kvc_space *space, const struct kvc_store_block *block, const struct kvc_reservation *reservation,
                        const uint64_t *checksums, uint64_t timeout_ns)
{
	struct client_reservation *kept;
	uint64_t made[KVC_FORM_LAYERS_MAX];
	struct kvci_wire_commit entry = {0};
	int32_t committed = KVC_INTERNAL;
	struct ask ask = {.type = KVCI_MESSAGE_COMMIT, .count = 1, .reply = &committed, .reply_bytes = sizeof(committed)};
	kvc_status_t status;

	if (block == NULL)
		return client_fail(KVC_INVALID, "block is NULL");
	status = store_api_begin(space, reservation, &kept);
	if (status != KVC_OK)
		return status;
	if (checksums == NULL) {
		struct kvci_block_id id = {.group = space->form.group, .shard_index = space->form.shard_index};
		uint64_t seed;

		memcpy(id.space, space->fingerprint, sizeof(id.space));
		memcpy(id.hash, block->hash, sizeof(id.hash));
		seed = kvci_block_seed(&id);
		for (uint32_t i = 0; i < space->form.layer_count; i++)
			made[i] = kvci_checksum((const uint8_t *)kept->sections + i * space->sizes.section_stride_bytes,
			                        space->sizes.section_bytes, kvci_section_seed(seed, i));
		checksums = made;
	}
	entry.reservation = kept->id;
	entry.checksum_count = space->form.layer_count;
	ask.arrays[0] = &entry;
	ask.array_bytes[0] = sizeof(entry);
	ask.arrays[1] = checksums;
	ask.array_bytes[1] = space->form.layer_count * sizeof(*checksums);
	status = ask_and_wait(space->client, space, &ask, timeout_ns, NULL, NULL);
	/* Whatever the answer is, the reservation is over; after a time-out nobody knows which way. */
	client_lock(space->client);
	store_api_forget(space->client, kept);
	client_unlock(space->client);
	if (status == KVC_OK && committed != KVC_OK)
		status = client_fail(committed, "commit: %s", kvc_status_text(committed));
	return status;
}

kvc_status_t kvc_abort(struct kvc_space *space, const struct kvc_reservation *reservation, uint64_t timeout_ns)
{
	struct ask ask = {.type = KVCI_MESSAGE_ABORT};
	struct client_reservation *kept;
	kvc_status_t status = store_api_begin(space, reservation, &kept);

	if (status != KVC_OK)
		return status;
	ask.a = kept->id;
	client_lock(space->client);
	store_api_forget(space->client, kept);
	client_unlock(space->client);
	return ask_and_wait(space->client, NULL, &ask, timeout_ns, NULL, NULL);
}
