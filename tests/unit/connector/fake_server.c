/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_server.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/record.h"

/* A test that cannot go on: cmocka's asserts are for the test's own thread. */
#define FAKE_MUST(condition)                                                                     \
	do {                                                                                     \
		if (!(condition)) {                                                              \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);          \
			abort();                                                                 \
		}                                                                                \
	} while (0)

void fake_send(struct fake_server *server, const struct kvci_message *message, int fd)
{
	kvc_status_t status;

	while ((status = kvci_channel_send(server->socket_fd, message, fd)) == KVC_BUSY) {
		struct pollfd wait = {.fd = server->socket_fd, .events = POLLOUT};

		poll(&wait, 1, 1000);
	}
}

static void fake_reply(struct fake_server *server, const struct kvci_message *request, struct kvci_message *answer,
                       kvc_status_t status, int fd)
{
	answer->magic = KVCI_PROTO_MAGIC;
	answer->type = request->type;
	answer->tag = request->tag;
	answer->status = status;
	fake_send(server, answer, fd);
}

void fake_answer(struct fake_server *server, const struct kvci_message *request, kvc_status_t status)
{
	struct kvci_message answer = {0};

	fake_reply(server, request, &answer, status, -1);
}

static void *fake_map(uint64_t bytes, int seals, int *ret_fd)
{
	int fd = memfd_create("kvc-fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *base;

	FAKE_MUST(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	FAKE_MUST(base != MAP_FAILED);
	FAKE_MUST(fcntl(fd, F_ADD_SEALS, seals) == 0);
	*ret_fd = fd;
	return base;
}

static void fake_hello(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {0};
	int seals = server->window_seals < 0 ? F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL : server->window_seals;
	int fd;

	if (server->window != NULL)
		munmap(server->window, server->window_bytes);
	server->window_bytes = KVCI_WINDOW_BYTES;
	server->window = fake_map(server->window_bytes, seals, &fd);
	answer.a = server->window_bytes;
	answer.b = (uint64_t)getpid();
	answer.c = 100 * 1000;
	answer.count = 1;
	server->slab_ready = server->bound = false;
	fake_reply(server, message, &answer, KVC_OK, fd);
	close(fd);
}

static void fake_bind(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {.binding = 7, .a = server->epoch};

	memcpy(&server->form, server->window + message->array_offset, sizeof(server->form));
	FAKE_MUST(kvc_form_sizes(&server->form, &server->sizes, NULL) == KVC_OK);
	memcpy(answer.id, server->fingerprint, sizeof(answer.id));
	server->bound = true;
	fake_reply(server, message, &answer, KVC_OK, -1);
}

static struct fake_block *fake_find(struct fake_server *server, const uint8_t *hash)
{
	for (uint32_t i = 0; i < server->block_count; i++)
		if (memcmp(server->blocks[i].hash, hash, 32) == 0)
			return &server->blocks[i];
	return NULL;
}

static struct fake_lease *fake_lease(struct fake_server *server, const uint8_t *id)
{
	for (uint32_t i = 0; i < server->lease_count; i++)
		if (memcmp(server->leases[i].id, id, 16) == 0)
			return &server->leases[i];
	return NULL;
}

static void fake_match(struct fake_server *server, const struct kvci_message *message)
{
	const uint8_t *hashes = server->window + message->array_offset;
	struct kvci_message answer = {0};
	struct fake_lease *lease = NULL;

	if (message->flags == KVCI_WIRE_MATCH_LEASE) {
		lease = fake_lease(server, message->id);
		if (lease == NULL) {
			FAKE_MUST(server->lease_count < FAKE_LEASES);
			lease = &server->leases[server->lease_count++];
			memcpy(lease->id, message->id, 16);
		}
		lease->count = 0;
	}
	for (uint32_t i = 0; i < message->count; i++) {
		struct fake_block *block = fake_find(server, hashes + i * 32);
		bool hit = block != NULL && block->committed;

		if (message->flags == KVCI_WIRE_MATCH_EXISTS) {
			server->window[message->reply_offset + i] = hit;
			answer.count += hit;
			continue;
		}
		if (!hit)
			break;
		if (lease != NULL)
			lease->blocks[lease->count++] = (uint32_t)(block - server->blocks);
		answer.count++;
		answer.b += block->record_bytes;
	}
	answer.first = answer.count;
	answer.c = answer.count < message->count ? 1 : 0;
	fake_reply(server, message, &answer, KVC_OK, -1);
}

static void fake_load(struct fake_server *server, const struct kvci_message *message)
{
	struct fake_lease *lease = fake_lease(server, message->id);
	struct kvci_message event = {.count = 0};

	if (lease == NULL || message->first + message->count > lease->count) {
		fake_answer(server, message, KVC_NOT_FOUND);
		return;
	}
	for (uint32_t i = 0; i < message->count; i++) {
		const struct fake_block *block = &server->blocks[lease->blocks[message->first + i]];
		struct kvci_wire_extent extent = {
			.status = KVC_OK,
			.slab = server->slab_id,
			.generation = block->generation,
			.offset_bytes = block->offset_bytes,
			.record_bytes = block->record_bytes,
			.record_checksum = block->record_checksum,
		};

		memcpy(server->window + message->reply_offset + i * sizeof(extent), &extent, sizeof(extent));
	}
	event.magic = KVCI_PROTO_MAGIC;
	event.type = KVCI_MESSAGE_LOAD_PROGRESS;
	event.tag = message->tag;
	event.count = message->count / 2;
	if (event.count > 0)
		fake_send(server, &event, -1);
	fake_answer(server, message, KVC_OK);
}

static void fake_reserve_one(struct fake_server *server, const struct kvci_wire_block *wire, struct kvci_wire_reserved *out)
{
	struct fake_block *block = fake_find(server, wire->hash);

	if (block != NULL) {
		out->extent.status = block->committed ? KVC_EXISTS : KVC_IN_FLIGHT;
		return;
	}
	if ((server->reserve_room != 0 && server->open_reservations >= server->reserve_room) ||
	    server->slab_used + server->sizes.record_bytes > server->slab_bytes || server->block_count == FAKE_BLOCKS) {
		out->extent.status = KVC_OVER_CAP;
		return;
	}
	block = &server->blocks[server->block_count++];
	memset(block, 0, sizeof(*block));
	memcpy(block->hash, wire->hash, 32);
	memcpy(block->parent_hash, wire->parent_hash, 32);
	block->position_tokens = wire->position_tokens;
	block->offset_bytes = server->slab_used;
	block->record_bytes = server->sizes.record_bytes;
	block->generation = 1;
	block->reservation = ++server->next_reservation;
	server->slab_used += block->record_bytes;
	server->open_reservations++;
	out->extent.status = KVC_OK;
	out->extent.slab = server->slab_id;
	out->extent.generation = block->generation;
	out->extent.offset_bytes = block->offset_bytes;
	out->extent.record_bytes = block->record_bytes;
	out->reservation = block->reservation;
}

static void fake_reserve(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {0};

	if (!server->slab_ready) {
		if (server->slab == NULL) {
			server->slab = fake_map(server->slab_bytes, 0, &server->slab_fd);
			server->slab_id++;
		}
		answer.a = server->slab_id;
		answer.b = server->slab_bytes;
		fake_reply(server, message, &answer, KVC_PENDING, server->slab_fd);
		return;
	}
	for (; answer.count < message->count; answer.count++) {
		struct kvci_wire_block wire;
		struct kvci_wire_reserved out = {.reservation = 0};

		memcpy(&wire, server->window + message->array_offset + answer.count * sizeof(wire), sizeof(wire));
		fake_reserve_one(server, &wire, &out);
		memcpy(server->window + message->reply_offset + answer.count * sizeof(out), &out, sizeof(out));
	}
	fake_reply(server, message, &answer, KVC_OK, -1);
}

static struct fake_block *fake_reservation(struct fake_server *server, uint64_t reservation)
{
	for (uint32_t i = 0; i < server->block_count; i++)
		if (server->blocks[i].reservation == reservation && reservation != 0)
			return &server->blocks[i];
	return NULL;
}

static void fake_commit(struct fake_server *server, const struct kvci_message *message)
{
	const uint8_t *at = server->window + message->array_offset;
	struct kvci_message answer = {.count = message->count};

	for (uint32_t i = 0; i < message->count; i++) {
		struct kvci_wire_commit entry;
		struct fake_block *block;
		int32_t status = KVC_NOT_FOUND;

		memcpy(&entry, at, sizeof(entry));
		block = fake_reservation(server, entry.reservation);
		if (block != NULL) {
			struct kvci_record_meta meta = {
				.id = {.group = server->form.group, .shard_index = server->form.shard_index},
				.epoch = server->epoch,
				.position_tokens = block->position_tokens,
				.token_count = server->form.block_tokens,
				.shard_count = server->form.shard_count,
			};
			uint64_t checksums[KVC_FORM_LAYERS_MAX];

			FAKE_MUST(entry.checksum_count == server->form.layer_count);
			memcpy(checksums, at + sizeof(entry), entry.checksum_count * sizeof(uint64_t));
			memcpy(meta.id.space, server->fingerprint, 16);
			memcpy(meta.id.hash, block->hash, 32);
			memcpy(meta.parent_hash, block->parent_hash, 32);
			block->record_checksum = kvci_record_write_raw(server->slab + block->offset_bytes, &meta, &server->form,
			                                               &server->sizes, checksums);
			block->committed = true;
			block->reservation = 0;
			server->open_reservations--;
			status = KVC_OK;
		}
		at += sizeof(entry) + entry.checksum_count * sizeof(uint64_t);
		memcpy(server->window + message->reply_offset + i * sizeof(status), &status, sizeof(status));
	}
	fake_reply(server, message, &answer, KVC_OK, -1);
}

static void fake_abort(struct fake_server *server, const struct kvci_message *message)
{
	struct fake_block *block = fake_reservation(server, message->a);

	if (block != NULL) {
		memset(block->hash, 0xee, 32);
		block->reservation = 0;
		server->open_reservations--;
	}
	server->aborts++;
	fake_answer(server, message, block != NULL ? KVC_OK : KVC_NOT_FOUND);
}

static void fake_slab_get(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {.a = message->a, .b = server->slab_bytes};

	if (server->slab == NULL || message->a != server->slab_id)
		fake_answer(server, message, KVC_NOT_FOUND);
	else
		fake_reply(server, message, &answer, KVC_OK, server->slab_fd);
}

static void fake_slab_mapped(struct fake_server *server, const struct kvci_message *message)
{
	/* Without FUTURE_WRITE: the next connection writes to the same slab. */
	fcntl(server->slab_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	server->slab_ready = true;
	fake_answer(server, message, KVC_OK);
}

static void fake_admin(struct fake_server *server, const struct kvci_message *message)
{
	static const char json[] = "{\"fake\":true}";
	struct kvci_message answer = {.a = sizeof(json) - 1};
	int fd;
	void *base = fake_map(4096, 0, &fd);

	memcpy(base, json, sizeof(json));
	munmap(base, 4096);
	fake_reply(server, message, &answer, KVC_OK, fd);
	close(fd);
}

void fake_serve(struct fake_server *server, const struct kvci_message *message)
{
	struct kvci_message answer = {0};

	if ((message->type == KVCI_MESSAGE_MATCH || message->type == KVCI_MESSAGE_RESERVE) &&
	    (!server->bound || message->binding != 7)) {
		fake_answer(server, message, KVC_INVALID);
		return;
	}
	switch (message->type) {
	case KVCI_MESSAGE_HELLO:
		fake_hello(server, message);
		break;
	case KVCI_MESSAGE_BIND:
		fake_bind(server, message);
		break;
	case KVCI_MESSAGE_MATCH:
		fake_match(server, message);
		break;
	case KVCI_MESSAGE_LOAD:
		fake_load(server, message);
		break;
	case KVCI_MESSAGE_RESERVE:
		fake_reserve(server, message);
		break;
	case KVCI_MESSAGE_COMMIT:
		fake_commit(server, message);
		break;
	case KVCI_MESSAGE_ABORT:
		fake_abort(server, message);
		break;
	case KVCI_MESSAGE_SLAB_GET:
		fake_slab_get(server, message);
		break;
	case KVCI_MESSAGE_SLAB_MAPPED:
		fake_slab_mapped(server, message);
		break;
	case KVCI_MESSAGE_ADMIN:
		fake_admin(server, message);
		break;
	case KVCI_MESSAGE_RELEASE:
		break;
	case KVCI_MESSAGE_DAMAGE:
		server->damages++;
		break;
	case KVCI_MESSAGE_EPOCH_RAISE:
		answer.a = ++server->epoch;
		fake_reply(server, message, &answer, KVC_OK, -1);
		break;
	default:
		fake_answer(server, message, KVC_OK);
	}
}

static void fake_receive(struct fake_server *server)
{
	struct kvci_message message;
	int fd = -1;
	kvc_status_t status = kvci_channel_receive(server->socket_fd, &message, &fd);

	if (fd >= 0)
		close(fd);
	if (status == KVC_OK) {
		if (message.type < 32)
			server->seen[message.type]++;
		if (server->script == NULL || !server->script(server, &message))
			fake_serve(server, &message);
	} else if (status != KVC_PENDING) {
		close(server->socket_fd);
		server->socket_fd = -1;
	}
}

static void fake_accept(struct fake_server *server)
{
	struct kvci_peer peer = {.pidfd = -1};
	int fd;

	if (kvci_channel_accept(server->listen_fd, &fd, &peer) != KVC_OK)
		return;
	if (peer.pidfd >= 0)
		close(peer.pidfd);
	if (server->socket_fd >= 0)
		close(server->socket_fd);
	server->socket_fd = fd;
	server->connections++;
}

static void *fake_main(void *context)
{
	struct fake_server *server = context;

	for (;;) {
		struct pollfd fds[3] = {{.fd = server->stop_fd, .events = POLLIN}, {.fd = server->listen_fd, .events = POLLIN}};

		pthread_mutex_lock(&server->lock);
		fds[2] = (struct pollfd){.fd = server->deaf ? -1 : server->socket_fd, .events = POLLIN};
		pthread_mutex_unlock(&server->lock);
		poll(fds, 3, 20);
		if (fds[0].revents != 0)
			return NULL;
		pthread_mutex_lock(&server->lock);
		if (fds[1].revents != 0)
			fake_accept(server);
		else if (fds[2].revents != 0 && server->socket_fd == fds[2].fd)
			fake_receive(server);
		pthread_mutex_unlock(&server->lock);
	}
}

void fake_start(struct fake_server *server)
{
	static _Atomic unsigned number;

	snprintf(server->path, sizeof(server->path), "/tmp/kvc-fake-%d-%u", (int)getpid(), number++);
	FAKE_MUST(kvci_channel_listen(server->path, 0600, &server->listen_fd, NULL, 0) == KVC_OK);
	server->socket_fd = -1;
	server->slab_fd = -1;
	server->window_seals = -1;
	server->epoch = 1;
	memset(server->fingerprint, 0x5a, sizeof(server->fingerprint));
	if (server->slab_bytes == 0)
		server->slab_bytes = 64 << 20;
	server->stop_fd = eventfd(0, EFD_CLOEXEC);
	FAKE_MUST(server->stop_fd >= 0);
	pthread_mutex_init(&server->lock, NULL);
	FAKE_MUST(pthread_create(&server->thread, NULL, fake_main, server) == 0);
}

static void fake_forget(struct fake_server *server)
{
	if (server->slab != NULL)
		munmap(server->slab, server->slab_bytes);
	if (server->slab_fd >= 0)
		close(server->slab_fd);
	server->slab = NULL;
	server->slab_fd = -1;
	server->slab_used = 0;
	server->block_count = 0;
	server->lease_count = 0;
	server->open_reservations = 0;
}

void fake_stop(struct fake_server *server)
{
	uint64_t one = 1;

	FAKE_MUST(write(server->stop_fd, &one, sizeof(one)) == sizeof(one));
	pthread_join(server->thread, NULL);
	kvci_channel_unlisten(server->listen_fd);
	if (server->socket_fd >= 0)
		close(server->socket_fd);
	if (server->window != NULL)
		munmap(server->window, server->window_bytes);
	fake_forget(server);
	close(server->stop_fd);
	pthread_mutex_destroy(&server->lock);
}

void fake_hang_up(struct fake_server *server, bool forget)
{
	pthread_mutex_lock(&server->lock);
	if (server->socket_fd >= 0)
		close(server->socket_fd);
	server->socket_fd = -1;
	if (forget)
		fake_forget(server);
	pthread_mutex_unlock(&server->lock);
}

void fake_set_script(struct fake_server *server, fake_script script, void *context)
{
	pthread_mutex_lock(&server->lock);
	server->script = script;
	server->script_context = context;
	pthread_mutex_unlock(&server->lock);
}
