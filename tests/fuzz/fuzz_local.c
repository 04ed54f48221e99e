/* SPDX-License-Identifier: Apache-2.0
 *
 * Local messages into the daemon's connection, with a brain behind it and no socket. The input is a list of commands, each a byte and what follows
 * it; what is missing at the end reads as zero:
 *
 *   'r' 192 bytes             a message as it is (magic, and text that ends: the channel refuses others)
 *   'm' 16 bytes              a message of few bytes: type, flags, count, first, array and reply (offset in 256 bytes, length), a, id
 *   'w' offset length bytes   into the window (offset in 256 bytes, length one byte)
 *   'b' layers                BIND of a form and fields that are right
 *   's' first count           RESERVE of count blocks, from number `first` on
 *   'p'                       SLAB_MAPPED of the slab that was last given
 *   'c' count                 COMMIT of the last reservations
 *   'l' count                 MATCH with lease of blocks 0..., then LOAD
 *   't'                       a turn of the loop
 *   'x'                       the client dies and another one comes
 *
 * Promises: whatever comes, each request has one answer at most, answers are well formed and echo tag and type, all of the brain's invariants
 * hold, and nothing is left of a client that died.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "cache/cache.h"
#include "daemon/core.h"
#include "daemon/serve.h"
#include "rpc/local/channel.h"
#include "tests/fuzz/fuzz.h"

enum { FUZZ_COMMANDS = 64, FUZZ_INPUTS_A_CORE = 256, FUZZ_REMEMBERED = 64, FUZZ_LAYERS_MAX = 4, FUZZ_SCORES_BYTES = 32 /* of the form below */ };

struct fuzz_input {
	const uint8_t *bytes;
	size_t length, at;
};

struct fuzz_world {
	struct kvci_conn *conn;
	struct kvci_message request; /* the last one handled */
	uint32_t binding, slab, layers;
	uint64_t reservations[FUZZ_REMEMBERED];
	uint32_t reservation_count;
	uint32_t tag;
	bool over; /* the connection has been ended */
};

static struct kvci_config fuzz_config;
static struct kvci_core *fuzz_core;
static unsigned fuzz_inputs;

static uint8_t fuzz_u8(struct fuzz_input *input)
{
	return input->at < input->length ? input->bytes[input->at++] : 0;
}

static uint16_t fuzz_u16(struct fuzz_input *input)
{
	uint16_t low = fuzz_u8(input);

	return (uint16_t)(low | fuzz_u8(input) << 8);
}

static void fuzz_take(struct fuzz_input *input, void *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)out)[i] = fuzz_u8(input);
}

static void drop_line(void *context, enum kvci_log_level level, const char *line)
{
}

/* ---- the other end of the connection ---- */

static void fuzz_remember(struct fuzz_world *world, const struct kvci_message *answer)
{
	uint64_t window_bytes;
	const uint8_t *window = kvci_conn_window(world->conn, &window_bytes);

	if (answer->type == KVCI_MESSAGE_BIND && answer->status == KVC_OK)
		world->binding = answer->binding;
	if (answer->type != KVCI_MESSAGE_RESERVE)
		return;
	if (answer->status == KVC_PENDING)
		world->slab = (uint32_t)answer->a;
	for (uint32_t i = 0; i < answer->count && i < FUZZ_REMEMBERED; i++) {
		struct kvci_wire_reserved out;
		uint64_t at = world->request.reply_offset + i * sizeof(out);

		FUZZ_CHECK(at + sizeof(out) <= window_bytes);
		memcpy(&out, window + at, sizeof(out));
		if (out.extent.status == KVC_OK && world->reservation_count < FUZZ_REMEMBERED)
			world->reservations[world->reservation_count++] = out.reservation;
	}
}

static void fuzz_sent(void *context, const struct kvci_message *message, int fd)
{
	struct fuzz_world *world = context;

	FUZZ_CHECK(message->magic == KVCI_PROTO_MAGIC && message->flags_high == 0);
	FUZZ_CHECK(memchr(message->text, '\0', sizeof(message->text)) != NULL);
	FUZZ_CHECK(strcmp(kvc_status_name(message->status), "UNKNOWN") != 0);
	if (message->type == world->request.type && message->tag == world->request.tag)
		fuzz_remember(world, message);
}

static void fuzz_wake(void *context)
{
}

static void fuzz_handle(struct fuzz_world *world, struct kvci_message *message)
{
	if (world->over)
		return;
	message->magic = KVCI_PROTO_MAGIC;
	message->flags_high = 0;
	message->text[sizeof(message->text) - 1] = '\0';
	world->request = *message;
	world->over = !kvci_conn_handle(world->conn, message);
	for (unsigned i = 0; kvci_conn_busy(world->conn); i++) {
		FUZZ_CHECK(i < 100000);
		kvci_conn_step(world->conn);
	}
	kvci_conn_finish(world->conn);
}

static void fuzz_connect(struct fuzz_world *world)
{
	const struct kvci_conn_out out = {.context = world, .send = fuzz_sent, .wake = fuzz_wake};
	const struct kvci_conn_peer peer = {.pid = 1};
	struct kvci_message hello;

	memset(world, 0, sizeof(*world));
	FUZZ_CHECK(kvci_conn_create(fuzz_core, "default", &peer, &out, &world->conn) == KVC_OK);
	kvci_message_init(&hello, KVCI_MESSAGE_HELLO, ++world->tag);
	hello.a = KVCI_PROTO_VERSION;
	fuzz_handle(world, &hello);
}

/* ---- prepared messages, so that the fuzzer gets behind the first check ---- */

static uint8_t *fuzz_window(struct fuzz_world *world, uint64_t offset, uint64_t bytes)
{
	uint64_t window_bytes;
	uint8_t *window = kvci_conn_window(world->conn, &window_bytes);

	return window != NULL && offset + bytes <= window_bytes ? window + offset : NULL;
}

static void fuzz_bind(struct fuzz_world *world, uint32_t layers)
{
	static const char *const fields[3][2] = {{"model", "m"}, {"kv_dtype", "bfloat16"}, {"hash_algorithm", "sha256_cbor"}};
	struct kvc_form form = {
		.struct_bytes = sizeof(form), .layer_count = layers, .block_tokens = 32, .engine_block_tokens = 16, .kv_heads = 1,
		.head_dim_k = 16, .head_dim_v = 16, .dtype = KVC_DTYPE_BF16, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
	uint8_t *at = fuzz_window(world, 4096, 4096), *begin = at;
	struct kvci_message message;
	uint32_t count = 3;

	if (at == NULL)
		return;
	memcpy(at, &form, sizeof(form));
	memcpy(at += sizeof(form), &count, sizeof(count));
	at += sizeof(count);
	for (unsigned i = 0; i < 3; i++) {
		uint16_t name = (uint16_t)strlen(fields[i][0]);
		uint32_t value = (uint32_t)strlen(fields[i][1]);

		memcpy(at, &name, sizeof(name));
		memcpy(at + sizeof(name), fields[i][0], name);
		at += sizeof(name) + name;
		memcpy(at, &value, sizeof(value));
		memcpy(at + sizeof(value), fields[i][1], value);
		at += sizeof(value) + value;
	}
	kvci_message_init(&message, KVCI_MESSAGE_BIND, ++world->tag);
	message.array_offset = 4096;
	message.array_bytes = (uint64_t)(at - begin);
	world->layers = layers;
	fuzz_handle(world, &message);
}

static void fuzz_hash(uint8_t hash[32], uint32_t number)
{
	memset(hash, 0, 32);
	memcpy(hash, &number, sizeof(number));
	hash[31] = 1;
}

static void fuzz_reserve(struct fuzz_world *world, uint32_t first, uint32_t count)
{
	struct kvci_message message;

	for (uint32_t i = 0; i < count; i++) {
		struct kvci_wire_block block = {.position_tokens = (uint64_t)(first + i) * 32, .token_count = 32};
		uint8_t *at = fuzz_window(world, 8192 + i * sizeof(block), sizeof(block));

		if (at == NULL)
			return;
		fuzz_hash(block.hash, first + i);
		if (first + i > 0)
			fuzz_hash(block.parent_hash, first + i - 1);
		memcpy(at, &block, sizeof(block));
	}
	kvci_message_init(&message, KVCI_MESSAGE_RESERVE, ++world->tag);
	message.binding = world->binding;
	message.count = count;
	message.array_offset = 8192;
	message.array_bytes = count * sizeof(struct kvci_wire_block);
	message.reply_offset = 65536;
	message.reply_bytes = count * sizeof(struct kvci_wire_reserved);
	fuzz_handle(world, &message);
}

static void fuzz_commit(struct fuzz_world *world, uint32_t count)
{
	struct kvci_message message;
	uint64_t at = 131072;

	if (count > world->reservation_count)
		count = world->reservation_count;
	for (uint32_t i = 0; i < count; i++) {
		struct kvci_wire_commit entry = {.reservation = world->reservations[--world->reservation_count],
		                                 .checksum_count = world->layers};
		uint8_t *out = fuzz_window(world, at, sizeof(entry) + world->layers * 8);

		if (out == NULL)
			return;
		memcpy(out, &entry, sizeof(entry));
		memset(out + sizeof(entry), (int)i, world->layers * 8);
		at += sizeof(entry) + world->layers * 8;
	}
	kvci_message_init(&message, KVCI_MESSAGE_COMMIT, ++world->tag);
	message.binding = world->binding;
	message.count = count;
	message.array_offset = 131072;
	message.array_bytes = at - 131072;
	message.reply_offset = 1 << 20;
	message.reply_bytes = count * sizeof(int32_t);
	fuzz_handle(world, &message);
}

static void fuzz_scores(struct fuzz_world *world, uint32_t first, uint32_t count, uint64_t bytes)
{
	struct kvci_message message;

	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = fuzz_window(world, 8192 + i * 32, 32);

		if (at == NULL)
			return;
		fuzz_hash(at, first + i);
	}
	kvci_message_init(&message, KVCI_MESSAGE_SCORES, ++world->tag);
	message.binding = world->binding;
	message.count = count;
	message.a = bytes;
	message.array_offset = 8192;
	message.array_bytes = count * (32 + bytes);
	fuzz_handle(world, &message);
}

static void fuzz_load(struct fuzz_world *world, uint32_t count)
{
	struct kvci_message message;

	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = fuzz_window(world, 2 << 20, (count + 1) * 32);

		if (at == NULL)
			return;
		fuzz_hash(at + i * 32, i);
	}
	kvci_message_init(&message, KVCI_MESSAGE_MATCH, ++world->tag);
	message.binding = world->binding;
	message.count = count;
	message.flags = KVCI_WIRE_MATCH_LEASE;
	message.array_offset = 2 << 20;
	message.array_bytes = count * 32;
	message.id[0] = 7;
	fuzz_handle(world, &message);
	kvci_message_init(&message, KVCI_MESSAGE_LOAD, ++world->tag);
	message.count = count;
	message.reply_offset = 3 << 20;
	message.reply_bytes = count * sizeof(struct kvci_wire_extent);
	message.id[0] = 7;
	fuzz_handle(world, &message);
}

static void fuzz_small(struct fuzz_world *world, struct fuzz_input *input)
{
	struct kvci_message message;
	uint8_t flags;

	kvci_message_init(&message, fuzz_u8(input), ++world->tag);
	flags = fuzz_u8(input);
	message.flags = (uint32_t)(flags & 0x7f) | (flags & 0x80 ? KVCI_MATCH_EXTENTS : 0);
	message.binding = world->binding + (flags >> 6 == 3);
	message.count = fuzz_u16(input);
	message.first = fuzz_u8(input);
	message.array_offset = (uint64_t)fuzz_u8(input) << 8;
	message.array_bytes = fuzz_u16(input);
	message.reply_offset = (uint64_t)fuzz_u8(input) << 8;
	message.reply_bytes = fuzz_u16(input);
	message.a = fuzz_u16(input);
	message.id[0] = fuzz_u8(input);
	fuzz_take(input, message.text, 8);
	fuzz_handle(world, &message);
}

static void fuzz_write_window(struct fuzz_world *world, struct fuzz_input *input)
{
	uint64_t offset = (uint64_t)fuzz_u16(input) << 8;
	uint8_t length = fuzz_u8(input), *at = fuzz_window(world, offset, length), unused[256];

	fuzz_take(input, at != NULL ? at : unused, length);
}

/* ---- one input ---- */

static void fuzz_leave(struct fuzz_world *world)
{
	struct kvci_cache_totals totals;

	kvci_conn_destroy(world->conn);
	for (unsigned i = 0; i < 64; i++)
		kvci_cache_tick(fuzz_core->cache);
	kvci_cache_totals(fuzz_core->cache, &totals);
	FUZZ_CHECK(totals.reserved_bytes == 0 && totals.quarantined_bytes == 0 && totals.leased_bytes == 0);
}

static void fuzz_command(struct fuzz_world *world, struct fuzz_input *input)
{
	struct kvci_message message;

	switch (fuzz_u8(input)) {
	case 'r':
		fuzz_take(input, &message, sizeof(message));
		fuzz_handle(world, &message);
		break;
	case 'm':
		fuzz_small(world, input);
		break;
	case 'w':
		fuzz_write_window(world, input);
		break;
	case 'b':
		fuzz_bind(world, 1 + fuzz_u8(input) % FUZZ_LAYERS_MAX);
		break;
	case 's': {
		uint8_t first = fuzz_u8(input);

		fuzz_reserve(world, first, fuzz_u8(input));
		break;
	}
	case 'p':
		kvci_message_init(&message, KVCI_MESSAGE_SLAB_MAPPED, ++world->tag);
		message.a = world->slab;
		fuzz_handle(world, &message);
		break;
	case 'c':
		fuzz_commit(world, fuzz_u8(input));
		break;
	case 'k': {
		uint8_t first = fuzz_u8(input), count = fuzz_u8(input), bytes = fuzz_u8(input);

		fuzz_scores(world, first, count, bytes % 2 != 0 ? bytes : FUZZ_SCORES_BYTES);
		break;
	}
	case 'l':
		fuzz_load(world, fuzz_u8(input));
		break;
	case 't':
		kvci_loop_turn(fuzz_core->loop, 0);
		kvci_conn_finish(world->conn);
		break;
	case 'x':
		fuzz_leave(world);
		fuzz_connect(world);
		break;
	default:
		break;
	}
}

/* Spaces and blocks live on in a core: a fresh one now and then, so that an input that fails fails alone too. */
static void fuzz_begin(void)
{
	char *error = NULL;

	kvci_log_set_sink(drop_line, NULL);
	if (fuzz_core != NULL && fuzz_inputs++ % FUZZ_INPUTS_A_CORE != 0)
		return;
	kvci_core_destroy(fuzz_core);
	kvci_config_fini(&fuzz_config);
	FUZZ_CHECK(kvci_config_init(&fuzz_config) == KVC_OK);
	FUZZ_CHECK(kvci_config_set(&fuzz_config, "memory.capacity=4MiB", "fuzz", &error) == KVC_OK);
	FUZZ_CHECK(kvci_config_set(&fuzz_config, "memory.slab=1MiB", "fuzz", &error) == KVC_OK);
	FUZZ_CHECK(kvci_config_set(&fuzz_config, "workers=1", "fuzz", &error) == KVC_OK);
	FUZZ_CHECK(kvci_core_create(&fuzz_config, &fuzz_core, &error) == KVC_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct fuzz_input input = {.bytes = bytes, .length = length};
	struct fuzz_world world;
	const char *broken;

	fuzz_begin();
	fuzz_connect(&world);
	for (unsigned i = 0; i < FUZZ_COMMANDS && input.at < length && !world.over; i++)
		fuzz_command(&world, &input);
	broken = kvci_cache_check(fuzz_core->cache);
	if (broken != NULL)
		fprintf(stderr, "%s\n", broken);
	FUZZ_CHECK(broken == NULL);
	fuzz_leave(&world);
	kvci_loop_turn(fuzz_core->loop, 0);
	return 0;
}
