/* SPDX-License-Identifier: Apache-2.0
 *
 * All heap memory of kvcask goes through these, so that tests can fail the n-th allocation for every n
 * (kvci_alloc_set_hook) and the daemon can count what it holds. Never plain malloc/calloc/strdup elsewhere
 * (tools/dev/check-includes looks). Every function may return NULL.
 * Threads: any; set the hook before threads start.
 */
#ifndef KVCI_ALLOC_H
#define KVCI_ALLOC_H

#include <stddef.h>
#include <stdint.h>

void *kvci_alloc(size_t bytes);
void *kvci_alloc_zero(size_t count, size_t bytes); /* overflow-checked */
void *kvci_realloc(void *memory, size_t bytes);
void *kvci_alloc_aligned(size_t align, size_t bytes); /* align: a power of two, 8 or more */
char *kvci_strdup(const char *text);
char *kvci_strndup(const char *text, size_t bytes);
char *kvci_asprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void kvci_free(void *memory); /* NULL is fine; also for aligned memory */

/* For a program that is kvcask's alone. Pieces of 128 KiB and more always come from the kernel: they are zero without being written, cost
 * nothing until they are touched and go back when freed; the C library would soon serve them from its heap (it raises that bound when such
 * a piece is freed) and clear them in one go. And the heap grows by 32 MiB of addresses at a time, not by 132 KiB: each growth needs the
 * address space's lock, which a worker that populates a slab may hold, and lose the CPU with it. Before threads start. */
void kvci_alloc_settle(void);

/* Bytes held at present, as the C library counts them (malloc_usable_size). */
uint64_t kvci_alloc_live_bytes(void);

/* Hook asked before each allocation; false makes it fail. NULL removes it. */
void kvci_alloc_set_hook(int (*hook)(void *context, size_t bytes), void *context);

#endif
