/* SPDX-License-Identifier: Apache-2.0
 * Shared by ledger.c (writing) and ledger_read.c (reading). The layout on disk is here. */
#ifndef KVCI_DAEMON_LEDGER_INTERNAL_H
#define KVCI_DAEMON_LEDGER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/ledger.h"

#define LEDGER_MAGIC UINT32_C(0x4c53564b)        /* "KVSL" */
#define LEDGER_RECORD_MAGIC UINT32_C(0x5253564b) /* "KVSR" */
#define LEDGER_SEED UINT64_C(0x6c65646765720001)

enum {
	LEDGER_VERSION = 1,
	LEDGER_FILES = 2,
	LEDGER_FIELDS_BYTES_MAX = 64 << 10,
	LEDGER_FILE_BYTES_MAX = 256 << 20,
};

struct ledger_header {
	uint32_t magic;
	uint32_t version;
	uint64_t checksum;    /* of what follows, seeded with the version */
	uint64_t base_serial; /* the file is whole from this record on */
	uint64_t reserved;
};
_Static_assert(sizeof(struct ledger_header) == 32, "ledger header");

struct ledger_record {
	uint32_t magic;
	uint32_t record_bytes; /* with this and the padding to 8 */
	uint64_t checksum;     /* of what follows */
	uint64_t serial;
	uint64_t epoch;
	uint32_t fields_bytes; /* kvci_space_serialize */
	uint32_t reserved;
};
_Static_assert(sizeof(struct ledger_record) == 40, "ledger record");

struct ledger_entry {
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	uint64_t epoch;
	uint64_t serial; /* of the newest record that names it */
	void *fields;
	uint32_t fields_bytes;
};

struct ledger_file {
	int fd;
	bool broken;
	uint64_t end;
};

struct ledger_save {
	struct ledger_save *next;
	uint32_t space;
	uint8_t fingerprint[KVCI_SPACE_BYTES];
	uint64_t epoch;
	void *fields;
	uint32_t fields_bytes;
};

struct kvci_ledger {
	struct kvci_ledger_env env;
	int folder_fd;
	uint64_t highest_epoch; /* read at open */
	struct kvci_ledger_figures figures;
	/* The owner's. */
	struct ledger_save *pending, **pending_end;
	bool running;
	/* The job's while running. */
	struct kvci_job job;
	struct ledger_save *batch;
	kvc_status_t batch_status;
	struct ledger_file files[LEDGER_FILES];
	struct ledger_entry *entries;
	uint32_t entry_count, entry_room;
	uint64_t next_serial;
};

extern const char *const ledger_names[LEDGER_FILES];

uint64_t ledger_record_checksum(const struct ledger_record *record);
uint64_t ledger_header_checksum(const struct ledger_header *header);
struct ledger_entry *ledger_entry_find(struct kvci_ledger *ledger, const uint8_t fingerprint[KVCI_SPACE_BYTES]);
/* Adds the space or raises its epoch and serial; neither ever goes back. */
kvc_status_t ledger_entry_put(struct kvci_ledger *ledger, const uint8_t fingerprint[KVCI_SPACE_BYTES],
                              const void *fields, size_t fields_bytes, uint64_t epoch, uint64_t serial);
/* Writes both files anew from the table. */
kvc_status_t ledger_rewrite(struct kvci_ledger *ledger);
/* Reads both files into the table, and heals what is damaged. */
kvc_status_t ledger_read(struct kvci_ledger *ledger, char **ret_error);

#endif
