/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"

struct fixture {
	struct kvci_loop *loop;
	unsigned calls;
	uint32_t events;
	struct kvci_watch *watches[3];
	struct kvci_timer timer;
	uint64_t due_ns;
	int fd;
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	*state = fixture;
	return kvci_loop_create(&fixture->loop) == KVC_OK ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	kvci_loop_destroy(fixture->loop);
	free(fixture);
	return 0;
}

static int ready_fd(void)
{
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

static void on_event(void *context, uint32_t events)
{
	struct fixture *fixture = context;

	fixture->calls++;
	fixture->events = events;
}

static void test_loop__fd_is_ready__callback_with_its_events(void **state)
{
	struct fixture *fixture = *state;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(kvci_loop_watch(fixture->loop, fd, EPOLLIN, on_event, fixture, &fixture->watches[0]), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_int_equal(fixture->calls, 0);
	assert_int_equal(kvci_loop_rewatch(fixture->loop, fixture->watches[0], EPOLLIN | EPOLLOUT), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
	assert_int_equal(fixture->calls, 1);
	assert_int_equal(fixture->events, EPOLLOUT);
	kvci_loop_unwatch(fixture->loop, fixture->watches[0]);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_int_equal(fixture->calls, 1);
	close(fd);
}

static void on_event_unwatch_all(void *context, uint32_t events)
{
	struct fixture *fixture = context;

	fixture->calls++;
	for (unsigned i = 0; i < 3; i++)
		kvci_loop_unwatch(fixture->loop, fixture->watches[i]);
}

static void test_loop__unwatched_in_a_callback__others_of_the_turn_are_not_called(void **state)
{
	struct fixture *fixture = *state;
	int fds[3];

	for (unsigned i = 0; i < 3; i++) {
		fds[i] = ready_fd();
		assert_int_equal(kvci_loop_watch(fixture->loop, fds[i], EPOLLIN, on_event_unwatch_all, fixture,
		                                 &fixture->watches[i]), KVC_OK);
	}
	assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
	assert_int_equal(fixture->calls, 1);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_int_equal(fixture->calls, 1);
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
}

static void test_loop__destroyed_with_watches_and_timers__all_is_freed(void **state)
{
	struct fixture *fixture = *state;
	int fd = ready_fd();

	assert_int_equal(kvci_loop_watch(fixture->loop, fd, EPOLLIN, on_event, fixture, &fixture->watches[0]), KVC_OK);
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, UINT64_MAX), KVC_OK);
	kvci_loop_destroy(fixture->loop);
	fixture->loop = NULL;
	assert_int_equal(fixture->timer.due_ns, 0);
	close(fd);
}

static void test_loop__bad_fd__is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct kvci_watch *watch = NULL;

	assert_int_not_equal(kvci_loop_watch(fixture->loop, -1, EPOLLIN, on_event, fixture, &watch), KVC_OK);
	assert_null(watch);
}

/* ---- timers ---- */

enum { TIMERS = 500 };

struct many_timers {
	struct kvci_timer timers[TIMERS];
	uint64_t due_ns[TIMERS]; /* what the model says; 0: not armed */
};

struct one_of_many {
	struct many_timers *many;
	unsigned index;
	uint64_t *last_ns;
	unsigned *fired;
};

static void on_ordered_timer(void *context)
{
	struct one_of_many *one = context;
	uint64_t due_ns = one->many->due_ns[one->index];

	assert_int_not_equal(due_ns, 0);
	assert_true(due_ns >= *one->last_ns);
	*one->last_ns = due_ns;
	one->many->due_ns[one->index] = 0;
	++*one->fired;
}

static void test_loop__timers_armed_moved_and_disarmed_at_random__fire_in_order(void **state)
{
	struct fixture *fixture = *state;
	struct many_timers *many = calloc(1, sizeof(*many));
	struct one_of_many *ones = calloc(TIMERS, sizeof(*ones));
	unsigned fired = 0, armed = 0;
	uint64_t last_ns = 0;

	srand(7);
	for (unsigned i = 0; i < TIMERS; i++) {
		ones[i] = (struct one_of_many){many, i, &last_ns, &fired};
		many->timers[i].run = on_ordered_timer;
		many->timers[i].context = &ones[i];
	}
	for (unsigned step = 0; step < 20000; step++) {
		unsigned i = (unsigned)rand() % TIMERS;

		if (rand() % 3 == 0) {
			kvci_loop_timer_disarm(fixture->loop, &many->timers[i]);
			many->due_ns[i] = 0;
		} else {
			many->due_ns[i] = 1 + (unsigned)rand() % 1000; /* long past, with ties */
			assert_int_equal(kvci_loop_timer_arm(fixture->loop, &many->timers[i], many->due_ns[i]), KVC_OK);
		}
	}
	for (unsigned i = 0; i < TIMERS; i++)
		armed += many->due_ns[i] != 0;
	assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
	assert_int_equal(fired, armed);
	for (unsigned i = 0; i < TIMERS; i++)
		assert_int_equal(many->timers[i].due_ns, 0);
	free(ones);
	free(many);
}

static void on_timer_rearm_past(void *context)
{
	struct fixture *fixture = context;

	fixture->calls++;
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, 0), KVC_OK);
}

static void test_loop__timer_that_arms_itself_for_the_past__runs_once_a_turn(void **state)
{
	struct fixture *fixture = *state;

	fixture->timer.run = on_timer_rearm_past;
	fixture->timer.context = fixture;
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, 1), KVC_OK);
	for (unsigned turn = 1; turn <= 5; turn++) {
		assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
		assert_int_equal(fixture->calls, turn);
	}
}

static void on_timer(void *context)
{
	struct fixture *fixture = context;

	fixture->calls++;
	assert_true(kvci_loop_now_ns(fixture->loop) >= fixture->due_ns);
}

static void test_loop__timer_ahead__turn_waits_for_it_and_not_less(void **state)
{
	struct fixture *fixture = *state;

	fixture->timer.run = on_timer;
	fixture->timer.context = fixture;
	fixture->due_ns = kvci_clock_ns() + 3 * KVCI_MS;
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, fixture->due_ns), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_int_equal(fixture->calls, 0);
	while (fixture->calls == 0)
		assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
	assert_true(kvci_clock_ns() >= fixture->due_ns);
}

static void test_loop__turn_with_a_limit__ends_at_it(void **state)
{
	struct fixture *fixture = *state;
	uint64_t begin_ns = kvci_clock_ns();

	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, UINT64_MAX), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 2 * KVCI_MS), KVC_OK);
	assert_true(kvci_clock_ns() - begin_ns >= 2 * KVCI_MS);
}

static void on_ring(void *context, uint32_t epoll_events)
{
	struct fixture *fixture = context;
	uint64_t rings;

	fixture->calls++;
	assert_int_equal(read(fixture->fd, &rings, sizeof(rings)), sizeof(rings));
}

/* Looking before sleeping changes nothing of what comes, and no turn ends before its time: not when it looks for longer than it may wait,
 * nor for less. */
static void test_loop__spins__the_same_events_and_no_turn_is_shorter(void **state)
{
	struct fixture *fixture = *state;
	struct kvci_watch *watch;
	uint64_t one = 1;

	fixture->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(kvci_loop_watch(fixture->loop, fixture->fd, EPOLLIN, on_ring, fixture, &watch), KVC_OK);
	kvci_loop_set_spin(fixture->loop, 200 * 1000);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t limit_ns = (i % 8) * 50 * 1000, begin_ns;

		for (unsigned ring = 0; ring < 2; ring++) { /* at once: a short wait */
			assert_int_equal(write(fixture->fd, &one, sizeof(one)), sizeof(one));
			assert_int_equal(kvci_loop_turn(fixture->loop, UINT64_MAX), KVC_OK);
			assert_int_equal(fixture->calls, 2 * i + ring + 1);
		}
		begin_ns = kvci_clock_ns();
		assert_int_equal(kvci_loop_turn(fixture->loop, limit_ns), KVC_OK);
		assert_true(kvci_clock_ns() - begin_ns >= limit_ns);
	}
	assert_int_equal(fixture->calls, 80);
	kvci_loop_unwatch(fixture->loop, watch);
	close(fixture->fd);
}

/* In a child whose kernel does not know epoll_pwait2: 0 when a timer 3.5 ms ahead came in few turns, and not early. */
static int old_kernel_child(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
	struct fixture fixture = {0};
	unsigned turns = 0;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		return 77;
	if (kvci_loop_create(&fixture.loop) != KVC_OK)
		return 1;
	fixture.timer.run = on_timer;
	fixture.timer.context = &fixture;
	fixture.due_ns = kvci_clock_ns() + 7 * KVCI_MS / 2;
	if (kvci_loop_timer_arm(fixture.loop, &fixture.timer, fixture.due_ns) != KVC_OK)
		return 1;
	for (; fixture.calls == 0; turns++)
		if (kvci_loop_turn(fixture.loop, UINT64_MAX) != KVC_OK)
			return 2;
	kvci_loop_destroy(fixture.loop);
	return turns <= 3 && kvci_clock_ns() >= fixture.due_ns ? 0 : 3;
}

static void test_loop__kernel_without_fine_waits__timers_come_without_spinning(void **state)
{
	pid_t child = fork();
	int result;

	if (child == 0)
		_exit(old_kernel_child());
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_true(WIFEXITED(result));
	if (WEXITSTATUS(result) == 77)
		skip(); /* seccomp filters are forbidden here */
	assert_int_equal(WEXITSTATUS(result), 0);
}

static void on_slow_timer(void *context)
{
	usleep(3000);
}

static void test_loop__slow_callback__is_the_longest_step_until_asked(void **state)
{
	struct fixture *fixture = *state;

	fixture->timer.run = on_slow_timer;
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, 1), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_true(kvci_loop_longest_step_ns(fixture->loop) >= 3 * KVCI_MS);
	assert_int_equal(kvci_loop_longest_step_ns(fixture->loop), 0);
	/* It slept: that cost no CPU. */
	assert_true(kvci_loop_longest_step_cpu_ns(fixture->loop) < 2 * KVCI_MS);
}

static void on_busy_timer(void *context)
{
	struct timespec now;

	do {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	} while ((uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec < *(uint64_t *)context);
}

static void test_loop__busy_callback__is_the_longest_step_in_cpu_time(void **state)
{
	struct fixture *fixture = *state;
	struct timespec now;
	uint64_t until_ns;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	until_ns = (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec + 4 * KVCI_MS;
	fixture->timer.run = on_busy_timer;
	fixture->timer.context = &until_ns;
	assert_int_equal(kvci_loop_timer_arm(fixture->loop, &fixture->timer, 1), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	assert_true(kvci_loop_longest_step_cpu_ns(fixture->loop) >= 3 * KVCI_MS);
	assert_int_equal(kvci_loop_longest_step_cpu_ns(fixture->loop), 0);
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * KVCI_SECOND + (uint64_t)now.tv_nsec;
}

static void on_measured_timer(void *context)
{
	uint64_t begin_ns = thread_cpu_ns(), until_ns = begin_ns + 20 * KVCI_MS, used_ns;

	on_busy_timer(&until_ns);
	used_ns = thread_cpu_ns() - begin_ns;
	if (used_ns > *(uint64_t *)context)
		*(uint64_t *)context = used_ns;
}

static void on_sleeping_timer(void *context)
{
	usleep(60000);
}

/* The longest by the clock comes last in its turn and sleeps: what the others used before it is not its. */
static void test_loop__idle_callback_after_busy_ones__does_not_inherit_their_cpu_time(void **state)
{
	struct fixture *fixture = *state;
	uint64_t most_ns = 0, longest_ns;
	struct kvci_timer timers[3] = {
		{.run = on_measured_timer, .context = &most_ns},
		{.run = on_measured_timer, .context = &most_ns},
		{.run = on_sleeping_timer},
	};

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(kvci_loop_timer_arm(fixture->loop, &timers[i], i + 1), KVC_OK);
	assert_int_equal(kvci_loop_turn(fixture->loop, 0), KVC_OK);
	longest_ns = kvci_loop_longest_step_cpu_ns(fixture->loop);
	assert_in_range(longest_ns, 19 * KVCI_MS, most_ns + 10 * KVCI_MS);
}

/* ---- stop ---- */

static void *stop_from_outside(void *context)
{
	usleep(5000);
	kvci_loop_stop(context);
	return NULL;
}

static void test_loop__stopped_from_a_thread__run_returns(void **state)
{
	struct fixture *fixture = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, stop_from_outside, fixture->loop), 0);
	assert_int_equal(kvci_loop_run(fixture->loop), KVC_OK);
	pthread_join(thread, NULL);
}

static void test_loop__stopped_before_run__returns_at_once_and_can_run_again(void **state)
{
	struct fixture *fixture = *state;

	kvci_loop_stop(fixture->loop);
	assert_int_equal(kvci_loop_run(fixture->loop), KVC_OK);
	test_loop__stopped_from_a_thread__run_returns(state);
}

static struct kvci_loop *signal_loop;

static void on_signal(int number)
{
	kvci_loop_stop(signal_loop);
}

static void test_loop__stopped_by_a_signal_handler__run_returns(void **state)
{
	struct fixture *fixture = *state;
	struct sigaction action = {.sa_handler = on_signal}, before;

	signal_loop = fixture->loop;
	sigaction(SIGALRM, &action, &before);
	ualarm(5000, 0);
	assert_int_equal(kvci_loop_run(fixture->loop), KVC_OK);
	sigaction(SIGALRM, &before, NULL);
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_loop__fd_is_ready__callback_with_its_events),
		LOOP_TEST(test_loop__unwatched_in_a_callback__others_of_the_turn_are_not_called),
		LOOP_TEST(test_loop__destroyed_with_watches_and_timers__all_is_freed),
		LOOP_TEST(test_loop__bad_fd__is_refused),
		LOOP_TEST(test_loop__timers_armed_moved_and_disarmed_at_random__fire_in_order),
		LOOP_TEST(test_loop__timer_that_arms_itself_for_the_past__runs_once_a_turn),
		LOOP_TEST(test_loop__timer_ahead__turn_waits_for_it_and_not_less),
		LOOP_TEST(test_loop__turn_with_a_limit__ends_at_it),
		LOOP_TEST(test_loop__spins__the_same_events_and_no_turn_is_shorter),
		LOOP_TEST(test_loop__kernel_without_fine_waits__timers_come_without_spinning),
		LOOP_TEST(test_loop__slow_callback__is_the_longest_step_until_asked),
		LOOP_TEST(test_loop__busy_callback__is_the_longest_step_in_cpu_time),
		LOOP_TEST(test_loop__idle_callback_after_busy_ones__does_not_inherit_their_cpu_time),
		LOOP_TEST(test_loop__stopped_from_a_thread__run_returns),
		LOOP_TEST(test_loop__stopped_before_run__returns_at_once_and_can_run_again),
		LOOP_TEST(test_loop__stopped_by_a_signal_handler__run_returns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
