/* SPDX-License-Identifier: Apache-2.0
 *
 * Event loop of one owner thread: epoll over fds, one ordered set of timers, and the longest step as a figure.
 * Callbacks run on the thread in kvci_loop_run. Every function but kvci_loop_stop is for that thread only.
 */
#ifndef KVCI_LOOP_H
#define KVCI_LOOP_H

#include <stdint.h>

#include <kvcask/status.h>

struct kvci_loop;
struct kvci_watch; /* one watched fd */

typedef void (*kvci_watch_fn)(void *context, uint32_t epoll_events);
typedef void (*kvci_timer_fn)(void *context);

/* Embedded in its owner; zero it before first use. */
struct kvci_timer {
	uint64_t due_ns; /* 0: not armed */
	uint32_t heap_index;
	kvci_timer_fn run;
	void *context;
};

kvc_status_t kvci_loop_create(struct kvci_loop **ret_loop);
void kvci_loop_destroy(struct kvci_loop *loop);
kvc_status_t kvci_loop_watch(struct kvci_loop *loop, int fd, uint32_t epoll_events, kvci_watch_fn run, void *context,
                             struct kvci_watch **ret_watch);
kvc_status_t kvci_loop_rewatch(struct kvci_loop *loop, struct kvci_watch *watch, uint32_t epoll_events);
/* Safe inside callbacks, also of the watch itself; does not close the fd. */
void kvci_loop_unwatch(struct kvci_loop *loop, struct kvci_watch *watch);
kvc_status_t kvci_loop_timer_arm(struct kvci_loop *loop, struct kvci_timer *timer, uint64_t due_ns);
void kvci_loop_timer_disarm(struct kvci_loop *loop, struct kvci_timer *timer);
/* Before a wait that is likely to be short (the last one was), turns look for events for up to so long before they sleep; less and less often
 * when that finds none (base/patience.h). 0, as at first: never. Cheap: whoever
 * learns that sleeping costs more, or less, may call it each time. */
void kvci_loop_set_spin(struct kvci_loop *loop, uint64_t spin_ns);
/* The time at which this turn of the loop began (monotonic). */
uint64_t kvci_loop_now_ns(const struct kvci_loop *loop);
/* Until kvci_loop_stop. */
kvc_status_t kvci_loop_run(struct kvci_loop *loop);
/* One turn: waits at most timeout_ns (UINT64_MAX: for ever), runs what is due. For tests and embedded use. */
kvc_status_t kvci_loop_turn(struct kvci_loop *loop, uint64_t timeout_ns);
void kvci_loop_stop(struct kvci_loop *loop); /* any thread, and async-signal-safe */
/* Longest callback since the last call of this, ns. */
uint64_t kvci_loop_longest_step_ns(struct kvci_loop *loop);
/* The same in CPU time of the thread, without what other processes took meanwhile: at least what the longest of them used, at most that and the
 * short ones (under 50 us) right before it in its turn. */
uint64_t kvci_loop_longest_step_cpu_ns(struct kvci_loop *loop);

#endif
