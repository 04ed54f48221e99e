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

/* Zeroed arrays that are long and filled little by little: from 128 KiB on each comes from the kernel by itself, is zero without being
 * written, and a page of it costs something when it is touched (on a virtual machine whose host must find the memory first: 0.1 ms and
 * more; an array of a MiB cleared in one go was 2 to 30 ms). Freed by kvci_free_lazy with the same numbers; NULL is fine. */
void *kvci_alloc_lazy(size_t count, size_t bytes); /* overflow-checked */
void kvci_free_lazy(void *memory, size_t count, size_t bytes);

/* Zeroed memory at an address that is a multiple of 2 MiB, which the kernel may make huge pages of when it is touched (not before). bytes: a
 * multiple of 2 MiB. Freed by kvci_free_huge with the same number; NULL is fine. Three system calls that take the address space's lock. */
void *kvci_alloc_huge(size_t bytes);
void kvci_free_huge(void *memory, size_t bytes);

/* For a program that is kvcask's alone. Pieces of 128 KiB and more that do not fit into the heap as it is come from the kernel and go back
 * when freed; the C library would raise that bound whenever such a piece is freed. And the heap grows by 32 MiB of addresses at a time, not by
 * 132 KiB: each growth needs the address space's lock, which another thread may hold, and lose the CPU with it. Before threads start. */
void kvci_alloc_settle(void);

/* Bytes held at present, as the C library counts them (malloc_usable_size). */
uint64_t kvci_alloc_live_bytes(void);

/* Hook asked before each allocation; false makes it fail. NULL removes it. */
void kvci_alloc_set_hook(int (*hook)(void *context, size_t bytes), void *context);

#endif
