/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages and window bytes of a daemon that is not sane into the client library. The input is a list of commands:
 *
 *   calls of the program:   'M' count  match_begin     'L' count  load_begin     'S' count  store_begin    'P' poll
 *                           'C' index  cancel          'D' index  destroy        'H' health                'R' release
 *   of the daemon:          'a' 8 bytes   an answer to the newest request: status, count, first, a, b, fd (none, a slab, the window)
 *                           'e' 6 bytes   an event: LOAD_PROGRESS of the newest LOAD, or SLAB_GONE
 *                           's' 6 bytes   an event: LOAD_SECTIONS of the newest LOAD
 *                           'r' 192 bytes a message as it is       'w' offset length bytes   into the window
 *                           'g'           the proper answer to a BIND
 *                           'k' 4 bytes   reserved extents, as a reply to the newest RESERVE or LOAD
 *                           'x'           hang-up
 *
 * Promises: no crash, no wait, no page of the engine written that is not in a load, and all can be closed.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "connector/internal.h"
#include "rpc/local/channel.h"
#include "tests/fuzz/fuzz.h"

enum { FUZZ_COMMANDS = 200, FUZZ_OPS = 16, FUZZ_BLOCKS = 8, FUZZ_LAYERS = 2, FUZZ_PAGES = 32, FUZZ_SLAB_BYTES = 1 << 20 };

struct fuzz_input {
	const uint8_t *bytes;
	size_t length, at;
};

struct fuzz_world {
	struct kvc_client *client;
	struct kvc_space *space;
	struct kvc_op *ops[FUZZ_OPS];
	int socket_fd; /* the daemon's end */
	int window_fd, slab_fd;
	uint8_t *window, *slab;
	struct kvci_message newest;            /* request */
	struct kvci_message newest_load, newest_bind;
	struct kvc_form_sizes sizes;
	uint8_t *memory;
};

static uint8_t fuzz_u8(struct fuzz_input *input)
{
	return input->at < input->length ? input->bytes[input->at++] : 0;
}

static void fuzz_take(struct fuzz_input *input, void *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)out)[i] = fuzz_u8(input);
}

static void drop_line(void *context, enum kvci_log_level level, const char *line)
{
}

static uint8_t *fuzz_memfd(uint64_t bytes, int *ret_fd)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *base;

	FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	FUZZ_CHECK(base != MAP_FAILED);
	FUZZ_CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	*ret_fd = fd;
	return base;
}

/* Takes what the client has sent. */
static void fuzz_listen(struct fuzz_world *world)
{
	struct kvci_message message;
	int fd = -1;

	while (world->socket_fd >= 0 && kvci_channel_receive(world->socket_fd, &message, &fd) == KVC_OK) {
		FUZZ_CHECK(fd < 0 && message.status == 0);
		FUZZ_CHECK(message.array_offset + message.array_bytes <= KVCI_WINDOW_BYTES);
		FUZZ_CHECK(message.reply_offset + message.reply_bytes <= KVCI_WINDOW_BYTES);
		world->newest = message;
		if (message.type == KVCI_MESSAGE_LOAD)
			world->newest_load = message;
		if (message.type == KVCI_MESSAGE_BIND)
			world->newest_bind = message;
	}
}

static void fuzz_say(struct fuzz_world *world, const struct kvci_message *message, int fd)
{
	if (world->socket_fd >= 0)
		kvci_channel_send(world->socket_fd, message, fd);
	kvc_poll(world->client);
	fuzz_listen(world);
}

static int fuzz_which_fd(const struct fuzz_world *world, uint8_t which)
{
	return which % 4 == 1 ? world->slab_fd : which % 4 == 2 ? world->window_fd : which % 4 == 3 ? STDERR_FILENO : -1;
}

static void fuzz_answer(struct fuzz_world *world, struct fuzz_input *input)
{
	static const int32_t statuses[] = {KVC_OK, KVC_OK, KVC_OK, KVC_PENDING, KVC_NOT_FOUND, KVC_NO_SPACE, KVC_GONE, -1};
	struct kvci_message message;
	uint8_t status = fuzz_u8(input);

	kvci_message_init(&message, world->newest.type, world->newest.tag);
	message.status = statuses[status % 8];
	if (status & 0x80)
		message.tag ^= 1;
	message.count = fuzz_u8(input);
	message.first = fuzz_u8(input);
	message.a = fuzz_u8(input);
	message.b = (uint64_t)fuzz_u8(input) << 12;
	message.c = fuzz_u8(input);
	message.binding = 1;
	fuzz_say(world, &message, fuzz_which_fd(world, fuzz_u8(input)));
}

static void fuzz_event(struct fuzz_world *world, struct fuzz_input *input)
{
	struct kvci_message message;
	uint8_t which = fuzz_u8(input);

	kvci_message_init(&message, which % 2 ? KVCI_MESSAGE_SLAB_GONE : KVCI_MESSAGE_LOAD_PROGRESS, world->newest_load.tag);
	message.first = fuzz_u8(input);
	message.count = fuzz_u8(input);
	message.a = fuzz_u8(input);
	if (which & 0x80)
		message.count = UINT32_MAX - message.count;
	fuzz_say(world, &message, -1);
}

static void fuzz_sections(struct fuzz_world *world, struct fuzz_input *input)
{
	struct kvci_message message;
	uint8_t wrong = fuzz_u8(input);

	kvci_message_init(&message, KVCI_MESSAGE_LOAD_SECTIONS, world->newest_load.tag);
	message.first = fuzz_u8(input);
	message.count = fuzz_u8(input);
	message.c = fuzz_u8(input);
	message.a = (uint64_t)fuzz_u8(input) << 12;
	message.d = world->sizes.record_bytes + (wrong & 1 ? 4096 : 0);
	if (wrong & 2)
		message.a |= UINT64_C(1) << 63;
	if (message.a + sizeof(struct kvci_record_header) <= FUZZ_SLAB_BYTES) {
		const struct kvci_record_header *header = (const void *)(world->slab + message.a);

		if (header->section_count <= FUZZ_LAYERS)
			message.b = kvci_record_checksum_leading(header, message.count <= FUZZ_LAYERS ? message.count : 0);
	}
	fuzz_say(world, &message, -1);
}

/* Entries that look right, of slabs and places that need not be. */
static void fuzz_extents(struct fuzz_world *world, struct fuzz_input *input)
{
	bool is_load = world->newest.type != KVCI_MESSAGE_RESERVE;
	const struct kvci_message *request = is_load ? &world->newest_load : &world->newest;
	uint64_t step = is_load ? sizeof(struct kvci_wire_extent) : sizeof(struct kvci_wire_reserved);
	uint8_t slab = fuzz_u8(input), offset = fuzz_u8(input), wrong = fuzz_u8(input), status = fuzz_u8(input);

	for (uint32_t i = 0; i < request->count && i < FUZZ_BLOCKS; i++) {
		struct kvci_wire_reserved entry = {
			.extent = {
				.status = status % 4 == 3 ? KVC_EXISTS : status % 4 == 2 ? KVC_PENDING : KVC_OK,
				.slab = slab,
				.offset_bytes = ((uint64_t)offset + i) << 12,
				.record_bytes = world->sizes.record_bytes + (wrong & 1 ? 4096 : 0),
			},
			.reservation = 1 + i,
		};

		if (wrong & 2)
			entry.extent.offset_bytes |= UINT64_C(1) << 63;
		if (wrong & 4)
			entry.extent.offset_bytes += 64;
		if (entry.extent.offset_bytes + sizeof(struct kvci_record_header) <= FUZZ_SLAB_BYTES) {
			const struct kvci_record_header *header = (const void *)(world->slab + entry.extent.offset_bytes);

			if (header->section_count <= FUZZ_LAYERS)
				entry.extent.record_checksum = kvci_record_checksum(header);
		}
		memcpy(world->window + request->reply_offset + i * step, &entry, step);
	}
}

/* ---- calls ---- */

static struct kvc_op **fuzz_slot(struct fuzz_world *world)
{
	for (unsigned i = 0; i < FUZZ_OPS; i++)
		if (world->ops[i] == NULL)
			return &world->ops[i];
	return NULL;
}

static void fuzz_call(struct fuzz_world *world, uint8_t call, uint8_t argument)
{
	struct kvc_request request = {.id = "r", .id_bytes = 1};
	struct kvc_store_block blocks[FUZZ_BLOCKS];
	uint8_t hashes[FUZZ_BLOCKS][KVC_HASH_BYTES];
	uint32_t pages[FUZZ_BLOCKS * 2], count = argument % (FUZZ_BLOCKS + 1);
	struct kvc_op **slot = fuzz_slot(world);

	if (slot == NULL)
		return;
	memset(blocks, 0, sizeof(blocks));
	memset(hashes, 0, sizeof(hashes));
	for (uint32_t i = 0; i < FUZZ_BLOCKS; i++) {
		blocks[i].hash[0] = hashes[i][0] = (uint8_t)i;
		pages[2 * i] = (call == 'L' ? FUZZ_PAGES / 2 : 0) + 2 * i;
		pages[2 * i + 1] = pages[2 * i] + 1;
	}
	if (call == 'M')
		kvc_match_begin(world->space, (const uint8_t(*)[KVC_HASH_BYTES])hashes, count, &request, argument & 0x80 ? KVC_MATCH_LEASE : 0, slot);
	else if (call == 'L' && (argument & 0x40) != 0)
		kvc_load_sections_begin(world->space, &request, 0, count, pages, argument & 0x80 ? 1 : 0, slot);
	else if (call == 'L')
		kvc_load_begin(world->space, &request, 0, count, pages, argument & 0x80 ? 1 : 0, slot);
	else
		kvc_store_begin(world->space, blocks, count, pages, slot);
	fuzz_listen(world);
}

static void fuzz_op(struct fuzz_world *world, uint8_t call, uint8_t index)
{
	struct kvc_op **slot = &world->ops[index % FUZZ_OPS];
	kvc_status_t statuses[FUZZ_BLOCKS];

	if (*slot == NULL)
		return;
	kvc_op_block_statuses(*slot, statuses, FUZZ_BLOCKS);
	kvc_op_pages_free(*slot);
	kvc_load_wait_sections(*slot, index, 0);
	if (call == 'C') {
		kvc_op_cancel(*slot);
		FUZZ_CHECK(kvc_op_status(*slot) != KVC_PENDING && kvc_op_pages_free(*slot));
	} else {
		kvc_op_destroy(*slot);
		*slot = NULL;
	}
	fuzz_listen(world);
}

static void fuzz_command(struct fuzz_world *world, struct fuzz_input *input)
{
	struct kvc_request request = {.id = "r", .id_bytes = 1};
	struct kvci_message message;
	uint8_t command = fuzz_u8(input), bytes[256];
	uint64_t offset;
	uint8_t length;

	switch (command) {
	case 'M':
	case 'L':
	case 'S':
		fuzz_call(world, command, fuzz_u8(input));
		break;
	case 'C':
	case 'D':
		fuzz_op(world, command, fuzz_u8(input));
		break;
	case 'P':
		kvc_poll(world->client);
		break;
	case 'H':
		kvc_health(world->client);
		fuzz_listen(world);
		break;
	case 'R':
		kvc_release(world->client, &request);
		fuzz_listen(world);
		break;
	case 'a':
		fuzz_answer(world, input);
		break;
	case 'e':
		fuzz_event(world, input);
		break;
	case 's':
		fuzz_sections(world, input);
		break;
	case 'r':
		fuzz_take(input, &message, sizeof(message));
		message.magic = KVCI_PROTO_MAGIC;
		fuzz_say(world, &message, -1);
		break;
	case 'w':
		offset = (uint64_t)fuzz_u8(input) << 10;
		length = fuzz_u8(input);
		fuzz_take(input, bytes, length);
		memcpy(world->window + offset, bytes, length);
		break;
	case 'g':
		kvci_message_init(&message, KVCI_MESSAGE_BIND, world->newest_bind.tag);
		message.binding = 1;
		fuzz_say(world, &message, -1);
		break;
	case 'k':
		fuzz_extents(world, input);
		break;
	case 'x':
		if (world->socket_fd >= 0)
			close(world->socket_fd);
		world->socket_fd = -1;
		kvc_poll(world->client);
		break;
	default:
		break;
	}
}

/* ---- one input ---- */

static void fuzz_open_space(struct fuzz_world *world)
{
	struct kvc_space_desc desc = {
		.struct_bytes = sizeof(desc), .model = "m", .kv_dtype = "bfloat16", .hash_algorithm = "sha256_cbor",
	};
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = FUZZ_LAYERS, .block_tokens = 32, .engine_block_tokens = 16, .kv_heads = 1,
		.head_dim_k = 16, .head_dim_v = 16, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	struct kvc_layer_memory layers[FUZZ_LAYERS];

	FUZZ_CHECK(kvc_form_sizes(&form, &world->sizes, NULL) == KVC_OK);
	world->memory = kvci_alloc_zero(FUZZ_LAYERS * FUZZ_PAGES, world->sizes.page_bytes);
	FUZZ_CHECK(world->memory != NULL);
	for (unsigned i = 0; i < FUZZ_LAYERS; i++)
		layers[i] = (struct kvc_layer_memory){
			.base = world->memory + i * FUZZ_PAGES * world->sizes.page_bytes,
			.block_stride_bytes = world->sizes.page_bytes,
			.block_count = FUZZ_PAGES,
			.run_count = {1, 1},
			.run_bytes = world->sizes.page_bytes,
		};
	/* Lazy: nobody answers yet. */
	FUZZ_CHECK(kvc_space_open(world->client, &desc, &form, &world->space) == KVC_OK);
	FUZZ_CHECK(kvc_space_set_memory(world->space, layers, FUZZ_LAYERS) == KVC_OK);
}

static void fuzz_connect(struct fuzz_world *world)
{
	struct kvc_open_options options = {.struct_bytes = sizeof(options), .flags = KVC_OPEN_LAZY};
	struct kvci_message hello;
	int ends[2];

	memset(world, 0, sizeof(*world));
	FUZZ_CHECK(kvc_open("unix:/nowhere/at/all", &options, &world->client) == KVC_OK);
	fuzz_open_space(world);
	world->window = fuzz_memfd(KVCI_WINDOW_BYTES, &world->window_fd);
	world->slab = fuzz_memfd(FUZZ_SLAB_BYTES, &world->slab_fd);
	FUZZ_CHECK(kvci_channel_pair(ends) == KVC_OK);
	/* As an embedded store comes: by a socket that is there. */
	client_lock(world->client);
	world->client->embedded = (struct embedded *)world;
	world->client->socket_fd = ends[0];
	FUZZ_CHECK(connect_begin(world->client) == KVC_OK);
	client_unlock(world->client);
	world->socket_fd = ends[1];
	fuzz_listen(world);
	FUZZ_CHECK(world->newest.type == KVCI_MESSAGE_HELLO);
	kvci_message_init(&hello, KVCI_MESSAGE_HELLO, world->newest.tag);
	hello.a = KVCI_WINDOW_BYTES;
	fuzz_say(world, &hello, world->window_fd);
	FUZZ_CHECK(world->client->state == CONNECTION_UP);
}

static void fuzz_end(struct fuzz_world *world)
{
	for (unsigned i = 0; i < FUZZ_OPS; i++)
		kvc_op_destroy(world->ops[i]);
	/* Loads go to the second half of the pages; the first half is only read. */
	for (unsigned layer = 0; layer < FUZZ_LAYERS; layer++)
		for (uint64_t i = 0; i < FUZZ_PAGES / 2 * world->sizes.page_bytes; i++)
			FUZZ_CHECK(world->memory[layer * FUZZ_PAGES * world->sizes.page_bytes + i] == 0);
	world->client->embedded = NULL;
	kvc_close(world->client);
	if (world->socket_fd >= 0)
		close(world->socket_fd);
	munmap(world->window, KVCI_WINDOW_BYTES);
	munmap(world->slab, FUZZ_SLAB_BYTES);
	close(world->window_fd);
	close(world->slab_fd);
	kvci_free(world->memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct fuzz_input input = {.bytes = bytes, .length = length};
	uint64_t before_bytes = kvci_alloc_live_bytes();
	struct fuzz_world world;

	kvci_log_set_sink(drop_line, NULL);
	fuzz_connect(&world);
	for (unsigned i = 0; i < FUZZ_COMMANDS && input.at < length; i++)
		fuzz_command(&world, &input);
	fuzz_end(&world);
	FUZZ_CHECK(kvci_alloc_live_bytes() == before_bytes);
	return 0;
}
