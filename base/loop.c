/* SPDX-License-Identifier: Apache-2.0
 * The event loop: level-triggered epoll, a binary heap of timers that its owners embed, and a clock reading between
 * callbacks that finds the longest step. */
#include "base/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/patience.h"

enum {
	LOOP_EVENTS = 64, /* taken from the kernel a turn */
	LOOP_HEAP_FIRST = 16,
	LOOP_SHORT_NS = 50 * 1000, /* steps shorter are not looked at closer */
	LOOP_SOON = 4, /* times spin_ns: a wait that ended so soon, waking up included, may be spun next time */
};

struct kvci_watch {
	kvci_watch_fn run;
	void *context;
	int fd;
	bool dead;               /* unwatched; freed after the turn, as its events may still be at hand */
	struct kvci_watch *prev; /* in loop->watches */
	struct kvci_watch *next; /* in loop->watches, or in loop->dead */
};

struct kvci_loop {
	int epoll_fd;
	int stop_fd;
	atomic_bool stopping;
	bool no_pwait2; /* an old kernel, or a seccomp filter that does not know it */
	bool in_turn;
	bool soon;        /* the last wait was short */
	uint64_t spin_ns; /* 0: never spins */
	struct kvci_patience patience;
	uint64_t now_ns;
	uint64_t longest_step_ns;
	uint64_t longest_step_cpu_ns;
	uint64_t step_cpu_ns; /* of the thread when this turn began, or its last long step ended */
	struct kvci_watch *watches;
	struct kvci_watch *dead;
	struct kvci_timer **heap; /* least due_ns first; heap_index of each timer is its place here */
	uint32_t heap_count;
	uint32_t heap_room;
};

kvc_status_t kvci_loop_create(struct kvci_loop **ret_loop)
{
	struct kvci_loop *loop = kvci_alloc_zero(1, sizeof(*loop));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}; /* NULL: the stop fd */
	kvc_status_t status = KVC_OK;

	if (loop == NULL)
		return KVC_NO_MEMORY;
	loop->now_ns = kvci_clock_ns();
	loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->stop_fd < 0 || loop->epoll_fd < 0 ||
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->stop_fd, &event) != 0) {
		status = kvc_status_from_errno(errno);
		goto fail;
	}
	*ret_loop = loop;
	return KVC_OK;
fail:
	kvci_loop_destroy(loop);
	return status;
}

static void loop_free_dead(struct kvci_loop *loop)
{
	while (loop->dead != NULL) {
		struct kvci_watch *watch = loop->dead;

		loop->dead = watch->next;
		kvci_free(watch);
	}
}

void kvci_loop_destroy(struct kvci_loop *loop)
{
	if (loop == NULL)
		return;
	while (loop->watches != NULL)
		kvci_loop_unwatch(loop, loop->watches);
	loop_free_dead(loop);
	for (uint32_t i = 0; i < loop->heap_count; i++)
		loop->heap[i]->due_ns = 0;
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->stop_fd >= 0)
		close(loop->stop_fd);
	kvci_free(loop->heap);
	kvci_free(loop);
}

kvc_status_t kvci_loop_watch(struct kvci_loop *loop, int fd, uint32_t epoll_events, kvci_watch_fn run, void *context,
                             struct kvci_watch **ret_watch)
{
	struct kvci_watch *watch = kvci_alloc_zero(1, sizeof(*watch));
	struct epoll_event event = {.events = epoll_events, .data.ptr = watch};

	if (watch == NULL)
		return KVC_NO_MEMORY;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
		kvc_status_t status = kvc_status_from_errno(errno);

		kvci_free(watch);
		return status;
	}
	watch->run = run;
	watch->context = context;
	watch->fd = fd;
	watch->next = loop->watches;
	if (loop->watches != NULL)
		loop->watches->prev = watch;
	loop->watches = watch;
	*ret_watch = watch;
	return KVC_OK;
}

kvc_status_t kvci_loop_rewatch(struct kvci_loop *loop, struct kvci_watch *watch, uint32_t epoll_events)
{
	struct epoll_event event = {.events = epoll_events, .data.ptr = watch};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) != 0)
		return kvc_status_from_errno(errno);
	return KVC_OK;
}

void kvci_loop_unwatch(struct kvci_loop *loop, struct kvci_watch *watch)
{
	if (watch == NULL)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	if (watch->prev != NULL)
		watch->prev->next = watch->next;
	else
		loop->watches = watch->next;
	if (watch->next != NULL)
		watch->next->prev = watch->prev;
	watch->dead = true;
	watch->next = loop->dead;
	loop->dead = watch;
	if (!loop->in_turn)
		loop_free_dead(loop);
}

/* ---- timers ---- */

static void loop_heap_put(struct kvci_loop *loop, uint32_t index, struct kvci_timer *timer)
{
	loop->heap[index] = timer;
	timer->heap_index = index;
}

/* Finds the place of `timer`, starting from the hole at `index`. */
static void loop_heap_settle(struct kvci_loop *loop, uint32_t index, struct kvci_timer *timer)
{
	while (index > 0 && loop->heap[(index - 1) / 2]->due_ns > timer->due_ns) {
		loop_heap_put(loop, index, loop->heap[(index - 1) / 2]);
		index = (index - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * index + 1;

		if (child + 1 < loop->heap_count && loop->heap[child + 1]->due_ns < loop->heap[child]->due_ns)
			child++;
		if (child >= loop->heap_count || loop->heap[child]->due_ns >= timer->due_ns)
			break;
		loop_heap_put(loop, index, loop->heap[child]);
		index = child;
	}
	loop_heap_put(loop, index, timer);
}

kvc_status_t kvci_loop_timer_arm(struct kvci_loop *loop, struct kvci_timer *timer, uint64_t due_ns)
{
	uint32_t index;

	if (timer->due_ns != 0) {
		index = timer->heap_index;
	} else {
		if (loop->heap_count == loop->heap_room) {
			uint32_t room = loop->heap_room != 0 ? 2 * loop->heap_room : LOOP_HEAP_FIRST;
			struct kvci_timer **heap = kvci_realloc(loop->heap, room * sizeof(heap[0]));

			if (heap == NULL)
				return KVC_NO_MEMORY;
			loop->heap = heap;
			loop->heap_room = room;
		}
		index = loop->heap_count++;
	}
	timer->due_ns = due_ns != 0 ? due_ns : 1;
	loop_heap_settle(loop, index, timer);
	return KVC_OK;
}

void kvci_loop_timer_disarm(struct kvci_loop *loop, struct kvci_timer *timer)
{
	struct kvci_timer *last;

	if (timer->due_ns == 0)
		return;
	timer->due_ns = 0;
	last = loop->heap[--loop->heap_count];
	if (last != timer)
		loop_heap_settle(loop, timer->heap_index, last);
}

/* ---- turns ---- */

uint64_t kvci_loop_now_ns(const struct kvci_loop *loop)
{
	return loop->now_ns;
}

static int loop_wait(struct kvci_loop *loop, struct epoll_event *events, uint64_t wait_ns)
{
	uint64_t wait_ms;

	if (!loop->no_pwait2) {
		struct timespec wait = {(time_t)(wait_ns / KVCI_SECOND), (long)(wait_ns % KVCI_SECOND)};
		int count = epoll_pwait2(loop->epoll_fd, events, LOOP_EVENTS, wait_ns != UINT64_MAX ? &wait : NULL, NULL);

		if (count >= 0 || (errno != ENOSYS && errno != EPERM))
			return count;
		loop->no_pwait2 = true;
	}
	wait_ms = wait_ns / KVCI_MS + (wait_ns % KVCI_MS != 0);
	return epoll_wait(loop->epoll_fd, events, LOOP_EVENTS,
	                  wait_ns == UINT64_MAX ? -1 : wait_ms < 86400000 ? (int)wait_ms : 86400000);
}

/* Looks until something is there, but not beyond wait_ns. */
static int loop_spin(struct kvci_loop *loop, struct epoll_event *events, uint64_t wait_ns)
{
	uint64_t until_ns = kvci_clock_ns() + (wait_ns < loop->spin_ns ? wait_ns : loop->spin_ns);
	int count;

	do {
		count = loop_wait(loop, events, 0);
	} while (count == 0 && kvci_clock_ns() < until_ns);
	kvci_patience_learn(&loop->patience, count > 0);
	return count;
}

/* Waits as loop_wait does; requests of a client that come close to each other find the thread awake. */
static int loop_wait_awake(struct kvci_loop *loop, struct epoll_event *events, uint64_t begin_ns, uint64_t wait_ns)
{
	uint64_t spun_ns = 0;
	int count;

	if (loop->spin_ns == 0 || wait_ns == 0)
		return loop_wait(loop, events, wait_ns);
	if (loop->soon && kvci_patience_try(&loop->patience)) {
		count = loop_spin(loop, events, wait_ns);
		if (count != 0)
			return count;
		spun_ns = kvci_clock_ns() - begin_ns;
	}
	if (wait_ns != UINT64_MAX)
		wait_ns = wait_ns > spun_ns ? wait_ns - spun_ns : 0;
	count = loop_wait(loop, events, wait_ns);
	loop->soon = count > 0 && kvci_clock_ns() - begin_ns <= LOOP_SOON * loop->spin_ns;
	return count;
}

/* Takes the time since *begin_ns as a step and starts the next. */
static void loop_step_end(struct kvci_loop *loop, uint64_t *begin_ns)
{
	uint64_t end_ns = kvci_clock_ns(), cpu_ns;

	if (end_ns - *begin_ns > loop->longest_step_ns)
		loop->longest_step_ns = end_ns - *begin_ns;
	/* Reading the CPU clock is a system call: a short step is taken as all CPU time, and a long one with the short ones before it. */
	if (end_ns - *begin_ns < LOOP_SHORT_NS) {
		cpu_ns = end_ns - *begin_ns;
	} else {
		uint64_t now_cpu_ns = kvci_clock_cpu_ns();

		cpu_ns = now_cpu_ns - loop->step_cpu_ns;
		if (cpu_ns > end_ns - *begin_ns)
			cpu_ns = end_ns - *begin_ns;
		loop->step_cpu_ns = now_cpu_ns;
	}
	if (cpu_ns > loop->longest_step_cpu_ns)
		loop->longest_step_cpu_ns = cpu_ns;
	*begin_ns = end_ns;
}

kvc_status_t kvci_loop_turn(struct kvci_loop *loop, uint64_t timeout_ns)
{
	struct epoll_event events[LOOP_EVENTS];
	uint64_t now_ns = kvci_clock_ns(), step_ns;
	uint32_t timers;
	int count;

	if (loop->heap_count > 0) {
		uint64_t due_ns = loop->heap[0]->due_ns;
		uint64_t until_ns = due_ns > now_ns ? due_ns - now_ns : 0;

		timeout_ns = until_ns < timeout_ns ? until_ns : timeout_ns;
	}
	count = loop_wait_awake(loop, events, now_ns, timeout_ns);
	if (count < 0 && errno != EINTR)
		return kvc_status_from_errno(errno);

	loop->step_cpu_ns = kvci_clock_cpu_ns();
	loop->now_ns = step_ns = kvci_clock_ns();
	loop->in_turn = true;
	for (int i = 0; i < count; i++) {
		struct kvci_watch *watch = events[i].data.ptr;

		if (watch == NULL || watch->dead)
			continue;
		watch->run(watch->context, events[i].events);
		loop_step_end(loop, &step_ns);
	}
	/* No more than are armed now: one that arms itself for the past must not hold up the fds. */
	for (timers = loop->heap_count; timers > 0 && loop->heap_count > 0; timers--) {
		struct kvci_timer *timer = loop->heap[0];

		if (timer->due_ns > loop->now_ns)
			break;
		kvci_loop_timer_disarm(loop, timer);
		timer->run(timer->context);
		loop_step_end(loop, &step_ns);
	}
	loop->in_turn = false;
	loop_free_dead(loop);
	return KVC_OK;
}

void kvci_loop_set_spin(struct kvci_loop *loop, uint64_t spin_ns)
{
	loop->spin_ns = spin_ns;
}

kvc_status_t kvci_loop_run(struct kvci_loop *loop)
{
	kvc_status_t status = KVC_OK;
	uint64_t rings;

	while (status == KVC_OK && !atomic_load(&loop->stopping))
		status = kvci_loop_turn(loop, UINT64_MAX);
	/* A later run starts afresh; a stop before this run has ended it at once. */
	if (read(loop->stop_fd, &rings, sizeof(rings)) < 0)
		rings = 0;
	atomic_store(&loop->stopping, false);
	return status;
}

void kvci_loop_stop(struct kvci_loop *loop)
{
	int before = errno;
	uint64_t one = 1;

	atomic_store(&loop->stopping, true);
	if (write(loop->stop_fd, &one, sizeof(one)) < 0)
		errno = before;
	errno = before;
}

uint64_t kvci_loop_longest_step_cpu_ns(struct kvci_loop *loop)
{
	uint64_t longest_ns = loop->longest_step_cpu_ns;

	loop->longest_step_cpu_ns = 0;
	return longest_ns;
}

uint64_t kvci_loop_longest_step_ns(struct kvci_loop *loop)
{
	uint64_t longest_ns = loop->longest_step_ns;

	loop->longest_step_ns = 0;
	return longest_ns;
}
