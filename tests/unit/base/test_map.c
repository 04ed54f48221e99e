/* SPDX-License-Identifier: Apache-2.0
 * Shared mappings: where they lie, and making their pages huge. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/map.h"
#include "tests/support/resident.h"

enum { PAGE = 4096, HUGE = KVCI_MAP_HUGE_BYTES, BYTES = 3 * HUGE + 5 * PAGE };

static uint8_t *map(int fd, int prot)
{
	void *base;

	assert_int_equal(kvci_map_shared(fd, BYTES, prot, &base), KVC_OK);
	assert_int_equal((uintptr_t)base % HUGE, 0);
	return base;
}

static int file(void)
{
	int fd = memfd_create("test-map", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	return fd;
}

/* Whether the kernel makes pages huge or not: the same bytes, in both mappings; and where it does, all of the whole ones are there. */
static void test_map__make_huge__bytes_stay(void **state)
{
	int fd = file();
	uint8_t *base = map(fd, PROT_READ | PROT_WRITE), *other = map(fd, PROT_READ);
	bool works = kvci_map_huge_works();

	memset(base + 3 * PAGE, 0xa5, 10 * PAGE);
	base[2 * HUGE] = 0x5a;
	assert_int_equal(resident_pages(base, BYTES), 11);
	assert_int_equal(kvci_map_make_huge(base, BYTES), works);
	assert_true(!works || resident_pages(base, BYTES) == 3 * HUGE / PAGE);
	for (size_t i = 0; i < BYTES; i++) {
		uint8_t expected = i >= 3 * PAGE && i < 13 * PAGE ? 0xa5 : i == 2 * HUGE ? 0x5a : 0;

		if (base[i] != expected || other[i] != expected)
			fail_msg("byte %zu is %#x, %#x", i, base[i], other[i]);
	}
	munmap(other, BYTES);
	munmap(base, BYTES);
	close(fd);
}

static void test_map__make_huge_nothing_whole__nothing_made(void **state)
{
	int fd = file();
	uint8_t *base = map(fd, PROT_READ | PROT_WRITE);

	assert_true(kvci_map_make_huge(base, 0));
	assert_true(kvci_map_make_huge(base, HUGE - PAGE));
	assert_int_equal(resident_pages(base, BYTES), 0);
	munmap(base, BYTES);
	close(fd);
}

static void test_map__make_huge_impossible__false(void **state)
{
	int fd = file();
	uint8_t *base = map(fd, PROT_READ);

	assert_false(kvci_map_make_huge(base, BYTES)); /* cannot be written */
	munmap(base, BYTES);
	assert_false(kvci_map_make_huge(base, BYTES)); /* is not there */
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map__make_huge__bytes_stay),
		cmocka_unit_test(test_map__make_huge_nothing_whole__nothing_made),
		cmocka_unit_test(test_map__make_huge_impossible__false),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
