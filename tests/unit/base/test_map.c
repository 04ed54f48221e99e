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

static struct kvci_map_budget unlimited(void)
{
	struct kvci_map_budget budget;

	kvci_map_budget_init(&budget, KVCI_MAP_HUGE_ON);
	return budget;
}

/* Whether the kernel makes pages huge or not: the same bytes, in both mappings; and where it does, all of the whole ones are there. */
static void test_map__make_huge__bytes_stay(void **state)
{
	struct kvci_map_budget budget = unlimited();
	int fd = file();
	uint8_t *base = map(fd, PROT_READ | PROT_WRITE), *other = map(fd, PROT_READ);
	bool works = kvci_map_huge_works();

	memset(base + 3 * PAGE, 0xa5, 10 * PAGE);
	base[2 * HUGE] = 0x5a;
	assert_int_equal(resident_pages(base, BYTES), 11);
	kvci_map_make_huge(&budget, base, BYTES);
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
	struct kvci_map_budget budget = unlimited();
	int fd = file();
	uint8_t *base = map(fd, PROT_READ | PROT_WRITE);

	kvci_map_make_huge(&budget, base, 0);
	kvci_map_make_huge(&budget, base, HUGE - PAGE);
	assert_int_equal(resident_pages(base, BYTES), 0);
	munmap(base, BYTES);
	close(fd);
}

static void test_map__make_huge_impossible__no_more_tried(void **state)
{
	struct kvci_map_budget budget = unlimited();
	int fd = file();
	uint8_t *base = map(fd, PROT_READ);

	kvci_map_make_huge(&budget, base, BYTES); /* cannot be written */
	assert_false(kvci_map_budget_next(&budget));
	munmap(base, BYTES);
	budget = unlimited();
	kvci_map_make_huge(&budget, base, BYTES); /* is not there */
	assert_false(kvci_map_budget_next(&budget));
	close(fd);
}

/* Of the next 1000 pages, how many are made huge if each takes so long. */
static unsigned pages_of(struct kvci_map_budget *budget, int64_t cpu_ns)
{
	unsigned made = 0;

	for (unsigned i = 0; i < 1000; i++)
		if (kvci_map_budget_next(budget)) {
			kvci_map_budget_spend(budget, cpu_ns);
			made++;
		}
	return made;
}

static unsigned first_pages_of(enum kvci_map_huge how, int64_t cpu_ns)
{
	struct kvci_map_budget budget;

	kvci_map_budget_init(&budget, how);
	return pages_of(&budget, cpu_ns);
}

/* Of small pages 2 MiB take a millisecond: what is dearer may take a tenth more in all, and 4 ms at first. */
static void test_map__budget__dear_pages_are_rare(void **state)
{
	assert_int_equal(first_pages_of(KVCI_MAP_HUGE_AUTO, 300000), 1000);
	assert_int_equal(first_pages_of(KVCI_MAP_HUGE_AUTO, 1000000), 1000);
	assert_in_range(first_pages_of(KVCI_MAP_HUGE_AUTO, 5000000), 20, 30);
	assert_in_range(first_pages_of(KVCI_MAP_HUGE_AUTO, 9000000), 10, 15);
	assert_int_equal(first_pages_of(KVCI_MAP_HUGE_ON, 9000000), 1000);
	assert_int_equal(first_pages_of(KVCI_MAP_HUGE_OFF, 0), 0);
}

/* Cheap ones are not saved up: what is dear now is dear for a while. And after dear ones cheap ones are found again. */
static void test_map__budget__cheap_then_dear_then_cheap(void **state)
{
	struct kvci_map_budget budget;

	kvci_map_budget_init(&budget, KVCI_MAP_HUGE_AUTO);
	assert_int_equal(pages_of(&budget, 100000), 1000);
	assert_in_range(pages_of(&budget, 9000000), 10, 15);
	assert_in_range(pages_of(&budget, 100000), 900, 1000);
}

static void test_map__make_huge_with_nothing_left__nothing_made(void **state)
{
	struct kvci_map_budget budget;
	int fd = file();
	uint8_t *base = map(fd, PROT_READ | PROT_WRITE);

	kvci_map_budget_init(&budget, KVCI_MAP_HUGE_OFF);
	kvci_map_make_huge(&budget, base, BYTES);
	assert_int_equal(resident_pages(base, BYTES), 0);
	munmap(base, BYTES);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map__make_huge__bytes_stay),
		cmocka_unit_test(test_map__make_huge_nothing_whole__nothing_made),
		cmocka_unit_test(test_map__make_huge_impossible__no_more_tried),
		cmocka_unit_test(test_map__make_huge_with_nothing_left__nothing_made),
		cmocka_unit_test(test_map__budget__dear_pages_are_rare),
		cmocka_unit_test(test_map__budget__cheap_then_dear_then_cheap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
