/* SPDX-License-Identifier: Apache-2.0
 * The allocator wrapper: the one file that calls malloc. Live bytes are counted by the C library's own size of each
 * piece (malloc_usable_size), so that nothing is added to it and aligned memory is freed like any other. */
#include "base/alloc.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	ALLOC_LAZY_BYTES = 128 << 10, /* less is not worth a mapping */
	ALLOC_HUGE_BYTES = 2 << 20,
};

static int (*alloc_hook)(void *context, size_t bytes);
static void *alloc_hook_context;
static _Atomic uint64_t alloc_live;

void kvci_alloc_set_hook(int (*hook)(void *context, size_t bytes), void *context)
{
	alloc_hook = hook;
	alloc_hook_context = context;
}

void kvci_alloc_settle(void)
{
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
	mallopt(M_TOP_PAD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

uint64_t kvci_alloc_live_bytes(void)
{
	return atomic_load_explicit(&alloc_live, memory_order_relaxed);
}

static int alloc_allowed(size_t bytes)
{
	return alloc_hook == NULL || alloc_hook(alloc_hook_context, bytes);
}

static void *alloc_counted(void *memory)
{
	if (memory != NULL)
		atomic_fetch_add_explicit(&alloc_live, malloc_usable_size(memory), memory_order_relaxed);
	return memory;
}

void *kvci_alloc(size_t bytes)
{
	return alloc_allowed(bytes) ? alloc_counted(malloc(bytes != 0 ? bytes : 1)) : NULL;
}

void *kvci_alloc_zero(size_t count, size_t bytes)
{
	size_t total;

	if (__builtin_mul_overflow(count, bytes, &total) || !alloc_allowed(total))
		return NULL;
	return alloc_counted(calloc(1, total != 0 ? total : 1));
}

void *kvci_alloc_lazy(size_t count, size_t bytes)
{
	size_t total;
	void *memory;

	if (__builtin_mul_overflow(count, bytes, &total))
		return NULL;
	if (total < ALLOC_LAZY_BYTES)
		return kvci_alloc_zero(count, bytes);
	if (!alloc_allowed(total))
		return NULL;
	memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	atomic_fetch_add_explicit(&alloc_live, total, memory_order_relaxed);
	return memory;
}

void kvci_free_lazy(void *memory, size_t count, size_t bytes)
{
	size_t total = count * bytes;

	if (total < ALLOC_LAZY_BYTES) {
		kvci_free(memory);
	} else if (memory != NULL) {
		munmap(memory, total);
		atomic_fetch_sub_explicit(&alloc_live, total, memory_order_relaxed);
	}
}

void *kvci_alloc_huge(size_t bytes)
{
	size_t mapped;
	char *memory, *begin;

	if (bytes == 0 || bytes % ALLOC_HUGE_BYTES != 0 || __builtin_add_overflow(bytes, (size_t)ALLOC_HUGE_BYTES, &mapped) ||
	    !alloc_allowed(bytes))
		return NULL;
	memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	begin = memory + (ALLOC_HUGE_BYTES - (uintptr_t)memory % ALLOC_HUGE_BYTES) % ALLOC_HUGE_BYTES;
	if (begin > memory)
		munmap(memory, (size_t)(begin - memory));
	munmap(begin + bytes, mapped - bytes - (size_t)(begin - memory)); /* at least a page: mapped is aligned to pages */
	(void)madvise(begin, bytes, MADV_HUGEPAGE); /* where the kernel has none, small pages do */
	atomic_fetch_add_explicit(&alloc_live, bytes, memory_order_relaxed);
	return begin;
}

void kvci_free_huge(void *memory, size_t bytes)
{
	if (memory == NULL)
		return;
	munmap(memory, bytes);
	atomic_fetch_sub_explicit(&alloc_live, bytes, memory_order_relaxed);
}

void *kvci_realloc(void *memory, size_t bytes)
{
	size_t before = memory != NULL ? malloc_usable_size(memory) : 0;
	void *grown;

	if (!alloc_allowed(bytes))
		return NULL;
	grown = realloc(memory, bytes != 0 ? bytes : 1);
	if (grown == NULL)
		return NULL;
	atomic_fetch_sub_explicit(&alloc_live, before, memory_order_relaxed);
	return alloc_counted(grown);
}

void *kvci_alloc_aligned(size_t align, size_t bytes)
{
	void *memory = NULL;

	/* posix_memalign refuses it too, but sanitizers end the program over it. */
	if (align < sizeof(void *) || (align & (align - 1)) != 0)
		return NULL;
	if (!alloc_allowed(bytes) || posix_memalign(&memory, align, bytes != 0 ? bytes : 1) != 0)
		return NULL;
	return alloc_counted(memory);
}

char *kvci_strndup(const char *text, size_t bytes)
{
	size_t length = strnlen(text, bytes);
	char *copy = kvci_alloc(length + 1);

	if (copy == NULL)
		return NULL;
	memcpy(copy, text, length);
	copy[length] = '\0';
	return copy;
}

char *kvci_strdup(const char *text)
{
	return kvci_strndup(text, strlen(text));
}

char *kvci_asprintf(const char *format, ...)
{
	va_list arguments;
	int length;
	char *text;

	va_start(arguments, format);
	length = vsnprintf(NULL, 0, format, arguments);
	va_end(arguments);
	if (length < 0)
		return NULL;
	text = kvci_alloc((size_t)length + 1);
	if (text == NULL)
		return NULL;
	va_start(arguments, format);
	vsnprintf(text, (size_t)length + 1, format, arguments);
	va_end(arguments);
	return text;
}

void kvci_free(void *memory)
{
	if (memory == NULL)
		return;
	atomic_fetch_sub_explicit(&alloc_live, malloc_usable_size(memory), memory_order_relaxed);
	free(memory);
}
