/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/workers.h"

struct count_job {
	struct kvci_job job; /* first: callbacks cast */
	unsigned value;
	unsigned *seen; /* owner's */
	_Atomic unsigned *ran;
};

static void count_run(struct kvci_job *job)
{
	struct count_job *count = (struct count_job *)job;

	count->value *= 2;
	if (count->ran != NULL)
		atomic_fetch_add(count->ran, 1);
}

static void count_done(struct kvci_job *job)
{
	struct count_job *count = (struct count_job *)job;

	*count->seen += count->value;
	kvci_free(count);
}

static struct count_job *count_create(unsigned value, unsigned *seen, struct kvci_mailbox *mailbox)
{
	struct count_job *count = kvci_alloc_zero(1, sizeof(*count));

	assert_non_null(count);
	count->job = (struct kvci_job){.run = count_run, .done = count_done, .mailbox = mailbox};
	count->value = value;
	count->seen = seen;
	return count;
}

static int readable(struct kvci_mailbox *mailbox)
{
	struct pollfd fd = {.fd = kvci_mailbox_fd(mailbox), .events = POLLIN};

	return poll(&fd, 1, 0);
}

static void drain_until(struct kvci_mailbox *mailbox, unsigned *seen, unsigned wanted)
{
	while (*seen != wanted) {
		struct pollfd fd = {.fd = kvci_mailbox_fd(mailbox), .events = POLLIN};

		assert_int_equal(poll(&fd, 1, 10000), 1); /* a lost ring ends here */
		kvci_mailbox_drain(mailbox, 7);
	}
}

static void test_workers__many_jobs__each_done_once_on_the_owners_thread(void **state)
{
	enum { JOBS = 5000 };
	struct kvci_mailbox *mailbox;
	struct kvci_workers *workers;
	unsigned seen = 0, wanted = 0;

	assert_int_equal(kvci_mailbox_create(&mailbox), KVC_OK);
	assert_int_equal(kvci_workers_create("test", 4, &workers), KVC_OK);
	for (unsigned i = 0; i < JOBS; i++) {
		kvci_workers_submit(workers, &count_create(i, &seen, mailbox)->job);
		wanted += 2 * i;
	}
	drain_until(mailbox, &seen, wanted);
	kvci_workers_destroy(workers);
	assert_int_equal(kvci_mailbox_drain(mailbox, 100), 0);
	kvci_mailbox_destroy(mailbox);
}

static void test_workers__destroyed__runs_what_is_queued(void **state)
{
	struct kvci_mailbox *mailbox;
	struct kvci_workers *workers;
	_Atomic unsigned ran = 0;
	unsigned seen = 0;

	assert_int_equal(kvci_mailbox_create(&mailbox), KVC_OK);
	assert_int_equal(kvci_workers_create("a name that is longer than fifteen", 2, &workers), KVC_OK);
	for (unsigned i = 0; i < 300; i++) {
		struct count_job *count = count_create(1, &seen, mailbox);

		count->ran = &ran;
		kvci_workers_submit(workers, &count->job);
	}
	kvci_workers_destroy(workers);
	assert_int_equal(ran, 300);
	assert_int_equal(kvci_mailbox_drain(mailbox, 1000), 300);
	assert_int_equal(seen, 600);
	kvci_mailbox_destroy(mailbox);
}

static void test_workers__job_without_mailbox__runs_and_is_left_alone(void **state)
{
	struct kvci_workers *workers;
	_Atomic unsigned ran = 0;
	struct count_job count = {.job = {.run = count_run}, .ran = &ran};

	assert_int_equal(kvci_workers_create("w", 1, &workers), KVC_OK);
	kvci_workers_submit(workers, &count.job);
	kvci_workers_destroy(workers);
	assert_int_equal(ran, 1);
}

static void test_workers__no_threads_or_absurdly_many__are_refused(void **state)
{
	struct kvci_workers *workers = NULL;

	assert_int_equal(kvci_workers_create("w", 0, &workers), KVC_INVALID);
	assert_int_equal(kvci_workers_create("w", 100000, &workers), KVC_INVALID);
	assert_null(workers);
	kvci_workers_destroy(NULL);
	kvci_mailbox_destroy(NULL);
}

static void mask_run(struct kvci_job *job)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	((struct count_job *)job)->value = (unsigned)sigismember(&mask, SIGTERM);
}

static void test_workers__signals__are_the_owners(void **state)
{
	struct kvci_workers *workers;
	struct count_job count = {.job = {.run = mask_run}};
	sigset_t mask;

	assert_int_equal(kvci_workers_create("w", 1, &workers), KVC_OK);
	kvci_workers_submit(workers, &count.job);
	kvci_workers_destroy(workers);
	assert_int_equal(count.value, 1);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

/* ---- mailbox ---- */

struct order_job {
	struct kvci_job job;
	unsigned value;
	unsigned *next; /* what must come now */
};

static void order_done(struct kvci_job *job)
{
	struct order_job *order = (struct order_job *)job;

	assert_int_equal(order->value, *order->next);
	++*order->next;
}

static void test_mailbox__bounded_drain__keeps_order_and_stays_readable(void **state)
{
	struct kvci_mailbox *mailbox;
	struct order_job jobs[20];
	unsigned next = 0;

	assert_int_equal(kvci_mailbox_create(&mailbox), KVC_OK);
	assert_int_equal(readable(mailbox), 0);
	for (unsigned i = 0; i < 10; i++) {
		jobs[i] = (struct order_job){.job = {.done = order_done}, .value = i, .next = &next};
		kvci_mailbox_post(mailbox, &jobs[i].job);
	}
	assert_int_equal(readable(mailbox), 1);
	assert_int_equal(kvci_mailbox_drain(mailbox, 4), 4);
	assert_int_equal(readable(mailbox), 1);
	for (unsigned i = 10; i < 20; i++) { /* behind what is left */
		jobs[i] = (struct order_job){.job = {.done = order_done}, .value = i, .next = &next};
		kvci_mailbox_post(mailbox, &jobs[i].job);
	}
	assert_int_equal(kvci_mailbox_drain(mailbox, 8), 8);
	assert_int_equal(readable(mailbox), 1);
	assert_int_equal(kvci_mailbox_drain(mailbox, 100), 8);
	assert_int_equal(next, 20);
	assert_int_equal(readable(mailbox), 0);
	kvci_mailbox_destroy(mailbox);
}

struct again_job {
	struct kvci_job job;
	struct kvci_mailbox *mailbox;
	unsigned left;
};

static void again_done(struct kvci_job *job)
{
	struct again_job *again = (struct again_job *)job;

	if (again->left-- > 0)
		kvci_mailbox_post(again->mailbox, job);
}

static void test_mailbox__done_posts_again__drain_ends_at_its_bound(void **state)
{
	struct again_job again = {.job = {.done = again_done}, .left = 1000};

	assert_int_equal(kvci_mailbox_create(&again.mailbox), KVC_OK);
	kvci_mailbox_post(again.mailbox, &again.job);
	assert_int_equal(kvci_mailbox_drain(again.mailbox, 10), 10);
	assert_int_equal(readable(again.mailbox), 1);
	assert_int_equal(kvci_mailbox_drain(again.mailbox, 10000), 991);
	assert_int_equal(kvci_mailbox_drain(again.mailbox, 10000), 0); /* a ring for what the drain itself took up */
	assert_int_equal(readable(again.mailbox), 0);
	kvci_mailbox_destroy(again.mailbox);
}

struct poster {
	struct kvci_mailbox *mailbox;
	unsigned *seen;
};

static void *post_many(void *context)
{
	struct poster *poster = context;

	for (unsigned i = 0; i < 3000; i++)
		kvci_mailbox_post(poster->mailbox, &count_create(1, poster->seen, NULL)->job);
	return NULL;
}

static void test_mailbox__many_posters__no_job_and_no_ring_is_lost(void **state)
{
	unsigned seen = 0;
	struct poster poster = {.seen = &seen};
	pthread_t threads[4];

	assert_int_equal(kvci_mailbox_create(&poster.mailbox), KVC_OK);
	for (unsigned t = 0; t < 4; t++)
		assert_int_equal(pthread_create(&threads[t], NULL, post_many, &poster), 0);
	drain_until(poster.mailbox, &seen, 12000);
	for (unsigned t = 0; t < 4; t++)
		pthread_join(threads[t], NULL);
	kvci_mailbox_destroy(poster.mailbox);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mailbox__bounded_drain__keeps_order_and_stays_readable),
		cmocka_unit_test(test_mailbox__done_posts_again__drain_ends_at_its_bound),
		cmocka_unit_test(test_mailbox__many_posters__no_job_and_no_ring_is_lost),
		cmocka_unit_test(test_workers__many_jobs__each_done_once_on_the_owners_thread),
		cmocka_unit_test(test_workers__destroyed__runs_what_is_queued),
		cmocka_unit_test(test_workers__job_without_mailbox__runs_and_is_left_alone),
		cmocka_unit_test(test_workers__no_threads_or_absurdly_many__are_refused),
		cmocka_unit_test(test_workers__signals__are_the_owners),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
