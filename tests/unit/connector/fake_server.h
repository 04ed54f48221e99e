/* SPDX-License-Identifier: Apache-2.0
 *
 * A daemon of a few hundred lines in a thread, for tests of the client: it speaks the protocol, keeps committed blocks in one slab, and
 * a script may answer any message otherwise, or not at all. It trusts its client; the client must not trust it.
 *
 * Threads: the script runs on the server's thread, under the server's lock. Everything else here is for the test's thread.
 */
#ifndef KVC_TESTS_FAKE_SERVER_H
#define KVC_TESTS_FAKE_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kvcask/kvcask.h>

#include "rpc/local/channel.h"

enum { FAKE_BLOCKS = 4096, FAKE_LEASES = 64 };

struct fake_block {
	uint8_t hash[32], parent_hash[32];
	uint64_t position_tokens;
	uint64_t offset_bytes, record_bytes, record_checksum, reservation;
	uint32_t generation;
	bool committed;
};

struct fake_lease {
	uint8_t id[16];
	uint32_t count;
	uint32_t blocks[FAKE_BLOCKS];
};

struct fake_server;
/* True: the message is dealt with (or is to be ignored). */
typedef bool (*fake_script)(struct fake_server *server, const struct kvci_message *message);

struct fake_server {
	char path[108];
	pthread_t thread;
	pthread_mutex_t lock;
	int listen_fd, socket_fd, stop_fd;
	fake_script script;      /* set under lock */
	void *script_context;
	uint64_t slab_bytes;     /* set before start */
	uint32_t reserve_room;   /* reservations at a time; 0: as the slab lasts */
	int window_seals;        /* -1: the right ones */
	bool deaf;               /* reads nothing */
	_Atomic uint64_t seen[32]; /* messages by type */
	_Atomic uint32_t open_reservations, aborts, damages, connections;
	/* the store */
	uint8_t *window;
	uint64_t window_bytes;
	int slab_fd;
	uint32_t slab_id;
	bool slab_ready, bound; /* by this connection */
	uint8_t *slab;
	uint64_t slab_used;
	struct kvc_form form;
	struct kvc_form_sizes sizes;
	uint8_t fingerprint[16];
	uint64_t epoch;
	struct fake_block blocks[FAKE_BLOCKS];
	_Atomic uint32_t block_count;
	uint64_t next_reservation;
	struct fake_lease leases[FAKE_LEASES];
	uint32_t lease_count;
};

/* Listens and runs. */
void fake_start(struct fake_server *server);
void fake_stop(struct fake_server *server);
/* Hangs up on the client, as a daemon that died; forgets what it stored when `forget`. */
void fake_hang_up(struct fake_server *server, bool forget);
void fake_set_script(struct fake_server *server, fake_script script, void *context);

/* For scripts. */
void fake_send(struct fake_server *server, const struct kvci_message *message, int fd);
void fake_answer(struct fake_server *server, const struct kvci_message *request, kvc_status_t status);
/* What it would do without a script. */
void fake_serve(struct fake_server *server, const struct kvci_message *message);

#endif
