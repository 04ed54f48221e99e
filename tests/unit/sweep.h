/* SPDX-License-Identifier: Apache-2.0
 *
 * Fail the n-th allocation, for every n. An operation is run again and again, each time with a later allocation
 * failing, until none is left to fail. After each run nothing may be left allocated, and the operation answers NO_MEMORY,
 * or OK where it can do without (counted as benign).
 *
 *   static kvc_status_t sweep_open(void *context) { ...create, use, destroy; return the first status that is not OK... }
 *   struct sweep_result result = sweep_run("open", sweep_open, NULL);
 *   assert_true(result.allocations > 0);
 *
 * Include after cmocka.h. Allocations of libraries (libyaml, OpenSSL) are not ours and do not fail.
 */
#ifndef KVC_TESTS_SWEEP_H
#define KVC_TESTS_SWEEP_H

#include <stdatomic.h>
#include <stdbool.h>

#include <kvcask/status.h>

#include "base/alloc.h"

struct sweep_result {
	unsigned allocations; /* in a run in which none failed */
	unsigned benign;      /* failed ones that did no harm */
};

struct sweep_state {
	_Atomic unsigned seen;
	unsigned fail_at; /* 1: the first */
	bool fail_rest;   /* and all that follow */
};

static inline int sweep_hook(void *context, size_t bytes)
{
	struct sweep_state *state = context;
	unsigned n = atomic_fetch_add(&state->seen, 1) + 1;

	return !(n == state->fail_at || (state->fail_rest && n > state->fail_at));
}

static inline struct sweep_result sweep_run(const char *name, kvc_status_t (*operation)(void *context), void *context)
{
	struct sweep_result result = {0, 0};

	for (int rest = 0; rest < 2; rest++) {
		result.allocations = 0;
		for (unsigned n = 1;; n++) {
			struct sweep_state state = {0, n, rest};
			uint64_t before_bytes = kvci_alloc_live_bytes();
			kvc_status_t status;

			kvci_alloc_set_hook(sweep_hook, &state);
			status = operation(context);
			kvci_alloc_set_hook(NULL, NULL);
			if (kvci_alloc_live_bytes() != before_bytes)
				fail_msg("%s: allocation %u failed: %lld bytes are left allocated", name, n,
				         (long long)(kvci_alloc_live_bytes() - before_bytes));
			if (state.seen < n) { /* nothing failed */
				if (status != KVC_OK)
					fail_msg("%s: without a failure: %s", name, kvc_status_name(status));
				result.allocations = state.seen;
				break;
			}
			if (status == KVC_OK)
				result.benign++;
			else if (status != KVC_NO_MEMORY)
				fail_msg("%s: allocation %u failed: %s instead of NO_MEMORY", name, n, kvc_status_name(status));
		}
	}
	return result;
}

#endif
