/* SPDX-License-Identifier: Apache-2.0
 * Slabs: what their seals forbid, that touching pages changes nothing, and that a slab's end waits for the job that touches it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map.h"
#include "tests/support/resident.h"
#include "tiers/memory/memory.h"

enum { SLAB_BYTES = 8 << 20, PAGE = 4096 };

/* Jobs wait here until the test runs them, as if the workers were slow. */
struct rig {
	struct kvci_memory *memory;
	struct kvci_job *jobs;
};

static void rig_run_job(void *context, struct kvci_job *job)
{
	struct rig *rig = context;

	job->next = rig->jobs;
	rig->jobs = job;
}

static void rig_begin_huge(struct rig *rig, bool prefault, enum kvci_map_huge huge_pages)
{
	const struct kvci_memory_config config = {
		.prefault = prefault, .huge_pages = huge_pages, .run_job = rig_run_job, .context = rig
	};

	*rig = (struct rig){ 0 };
	assert_int_equal(kvci_memory_create(&config, &rig->memory), KVC_OK);
}

static void rig_begin(struct rig *rig, bool prefault)
{
	rig_begin_huge(rig, prefault, KVCI_MAP_HUGE_OFF);
}

static bool rig_work(struct rig *rig)
{
	struct kvci_job *job = rig->jobs;

	if (job == NULL)
		return false;
	rig->jobs = job->next;
	job->run(job);
	job->done(job);
	return true;
}

static void rig_end(struct rig *rig)
{
	kvci_memory_quiesce(rig->memory);
	while (rig_work(rig))
		continue;
	kvci_memory_destroy(rig->memory);
}

static void test_memory__touching_pages_of_a_load_slab__all_resident_and_unchanged(void **state)
{
	struct rig rig;
	void *base;

	rig_begin(&rig, true);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_OK);
	memset((uint8_t *)base + 3 * PAGE, 0xa5, 10 * PAGE); /* a block that was loaded before its pages were touched */
	assert_int_equal(resident_pages(base, SLAB_BYTES), 10);
	unsigned jobs = 0;
	while (rig_work(&rig))
		jobs++;
	assert_int_equal(jobs, 2); /* 4 MiB a job */
	assert_int_equal(resident_pages(base, SLAB_BYTES), SLAB_BYTES / PAGE);
	for (size_t i = 0; i < SLAB_BYTES; i++)
		assert_int_equal(((uint8_t *)base)[i], i >= 3 * PAGE && i < 13 * PAGE ? 0xa5 : 0);
	rig_end(&rig);
}

static void test_memory__store_slab__its_pages_are_the_clients_to_make(void **state)
{
	struct rig rig;
	void *base;

	rig_begin(&rig, true);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, true, &base), KVC_OK);
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 1), KVC_OK);
	assert_false(rig_work(&rig));
	assert_int_equal(resident_pages(base, SLAB_BYTES), 0);
	rig_end(&rig);
}

/* Whether the kernel makes pages huge or not: all are there. Those of a store slab are its client's to make. */
static void test_memory__huge_pages__all_resident_and_unchanged(void **state)
{
	struct rig rig;
	void *base, *client;
	int fd;
	uint64_t bytes;
	bool sealed;

	rig_begin_huge(&rig, true, KVCI_MAP_HUGE_ON);
	assert_int_equal(kvci_memory_huge_pages(rig.memory), kvci_map_huge_works() ? KVCI_MAP_HUGE_ON : KVCI_MAP_HUGE_OFF);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 2, SLAB_BYTES, true, &client), KVC_OK);
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 2), KVC_OK);
	assert_false(rig_work(&rig));
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_OK);
	assert_int_equal((uintptr_t)base % (2 << 20), 0);
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 1, &fd, &bytes, &sealed), KVC_OK);
	assert_int_equal(kvci_map_shared(fd, bytes, PROT_READ, &client), KVC_OK);
	assert_int_equal((uintptr_t)client % (2 << 20), 0);
	memset((uint8_t *)base + 3 * PAGE, 0xa5, 10 * PAGE);
	while (rig_work(&rig))
		continue;
	assert_int_equal(resident_pages(base, SLAB_BYTES), SLAB_BYTES / PAGE);
	memset((uint8_t *)base + 20 * PAGE, 0x5a, PAGE);
	for (size_t i = 0; i < SLAB_BYTES; i++)
		assert_int_equal(((uint8_t *)client)[i], i >= 3 * PAGE && i < 13 * PAGE ? 0xa5 : i / PAGE == 20 ? 0x5a : 0);
	munmap(client, bytes);
	rig_end(&rig);
}

/* Asked for, and no page is made in the background: then nobody makes huge ones, and the client is not told to. */
static void test_memory__huge_pages_without_prefault__off(void **state)
{
	struct rig rig;

	rig_begin_huge(&rig, false, KVCI_MAP_HUGE_ON);
	assert_int_equal(kvci_memory_huge_pages(rig.memory), KVCI_MAP_HUGE_OFF);
	rig_end(&rig);
}

static void test_memory__destroyed_while_touched__freed_after_the_job(void **state)
{
	struct rig rig;
	void *base;
	int fd;
	uint64_t bytes;
	bool sealed;

	rig_begin(&rig, true);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_OK); /* sealed at once */
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 1, &fd, &bytes, &sealed), KVC_OK);
	kvci_memory_slab_destroy(rig.memory, 1);
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 1, &fd, &bytes, &sealed), KVC_NOT_FOUND);
	assert_int_equal(resident_pages(base, SLAB_BYTES), 0); /* still mapped: the job has it */
	assert_true(rig_work(&rig)); /* sees the stop and touches nothing */
	assert_int_equal(resident_pages(base, SLAB_BYTES), 0);
	assert_true(rig_work(&rig)); /* unmaps */
	unsigned char page;
	assert_int_equal(mincore(base, PAGE, &page), -1);
	assert_int_equal(errno, ENOMEM);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_false(rig_work(&rig));
	rig_end(&rig);
}

static void test_memory__destroyed_after_quiesce__freed_at_once(void **state)
{
	struct rig rig;
	void *base;
	unsigned char page;

	rig_begin(&rig, false);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_OK);
	kvci_memory_quiesce(rig.memory);
	kvci_memory_slab_destroy(rig.memory, 1);
	assert_null(rig.jobs);
	assert_int_equal(mincore(base, PAGE, &page), -1);
	rig_end(&rig);
}

/* 16 MiB of pages, some milliseconds, at each end of a client: not on the owner thread while there is a worker. */
static void test_memory__window_unmapped__by_a_job_or_at_once_in_the_end(void **state)
{
	struct rig rig;
	unsigned char page;

	rig_begin(&rig, false);
	for (unsigned quiet = 0; quiet < 2; quiet++) {
		void *base;
		int fd;

		assert_int_equal(kvci_memory_map("window", SLAB_BYTES, &fd, &base), KVC_OK);
		memset(base, 1, SLAB_BYTES);
		if (quiet)
			kvci_memory_quiesce(rig.memory);
		kvci_memory_unmap(rig.memory, fd, base, SLAB_BYTES);
		assert_int_equal(mincore(base, PAGE, &page), quiet ? -1 : 0);
		assert_int_equal(rig_work(&rig), !quiet);
		assert_int_equal(mincore(base, PAGE, &page), -1);
		assert_int_equal(fcntl(fd, F_GETFD), -1);
	}
	kvci_memory_unmap(rig.memory, -1, NULL, 0);
	rig_end(&rig);
}

/* What a client that got the fd may do, before and after the seal. */
static void test_memory__sealed_slab__nobody_can_write_or_resize_it_any_more(void **state)
{
	struct rig rig;
	void *base, *client;
	int fd;
	uint64_t bytes;
	bool sealed;

	rig_begin(&rig, false);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 7, SLAB_BYTES, true, &base), KVC_OK);
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 7, &fd, &bytes, &sealed), KVC_OK);
	assert_int_equal(bytes, SLAB_BYTES);
	assert_false(sealed);
	assert_int_equal(ftruncate(fd, PAGE), -1); /* never, not even before */
	client = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(client != MAP_FAILED);
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 7), KVC_OK);
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 7), KVC_EXISTS);
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 7, &fd, &bytes, &sealed), KVC_OK);
	assert_true(sealed);
	memcpy(client, "block", 6); /* its own mapping goes on */
	assert_string_equal((char *)base, "block");
	assert_true(mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), -1);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 8), KVC_NOT_FOUND);
	munmap(client, SLAB_BYTES);
	rig_end(&rig);
}

static void test_memory__a_client_sealed_it_otherwise__denied(void **state)
{
	struct rig rig;
	void *base;
	int fd;
	uint64_t bytes;
	bool sealed;

	rig_begin(&rig, false);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, true, &base), KVC_OK);
	assert_int_equal(kvci_memory_slab_fd(rig.memory, 1, &fd, &bytes, &sealed), KVC_OK);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL), 0); /* so that ours cannot be added */
	assert_int_equal(kvci_memory_slab_seal(rig.memory, 1), KVC_DENIED);
	rig_end(&rig);
}

static int allow_countdown(void *context, size_t bytes)
{
	unsigned *left = context;
	if (*left == 0)
		return 0;
	(*left)--;
	return 1;
}

static void test_memory__limits_and_failures__refused_and_whole(void **state)
{
	struct rig rig;
	void *base;

	rig_begin(&rig, false);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, 0, false, &base), KVC_INVALID);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, UINT64_MAX, false, &base), KVC_INVALID);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_OK);
	assert_int_equal(kvci_memory_slab_create(rig.memory, 1, SLAB_BYTES, false, &base), KVC_EXISTS);
	kvci_memory_slab_destroy(rig.memory, 99);
	kvc_status_t status = KVC_NO_MEMORY;
	for (unsigned n = 0, id = 2; status != KVC_OK; n++) {
		unsigned left = n;
		assert_true(n < 50);
		kvci_alloc_set_hook(allow_countdown, &left);
		for (status = KVC_OK; id < 40 && status == KVC_OK; id += status == KVC_OK)
			status = kvci_memory_slab_create(rig.memory, id, PAGE, false, &base);
		kvci_alloc_set_hook(NULL, NULL);
		assert_true(status == KVC_OK || status == KVC_NO_MEMORY);
	}
	rig_end(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory__limits_and_failures__refused_and_whole),
		cmocka_unit_test(test_memory__sealed_slab__nobody_can_write_or_resize_it_any_more),
		cmocka_unit_test(test_memory__a_client_sealed_it_otherwise__denied),
		cmocka_unit_test(test_memory__touching_pages_of_a_load_slab__all_resident_and_unchanged),
		cmocka_unit_test(test_memory__store_slab__its_pages_are_the_clients_to_make),
		cmocka_unit_test(test_memory__huge_pages__all_resident_and_unchanged),
		cmocka_unit_test(test_memory__huge_pages_without_prefault__off),
		cmocka_unit_test(test_memory__destroyed_while_touched__freed_after_the_job),
		cmocka_unit_test(test_memory__destroyed_after_quiesce__freed_at_once),
		cmocka_unit_test(test_memory__window_unmapped__by_a_job_or_at_once_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
