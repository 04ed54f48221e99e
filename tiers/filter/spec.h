/* SPDX-License-Identifier: Apache-2.0
 *
 * The text that steers the filters, parsed into rules, and the choice whether a rule fires. Threads: one at a time. */
#ifndef KVCI_FILTER_SPEC_H
#define KVCI_FILTER_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include <kvcask/status.h>

enum { KVCI_FILTER_RULES_MAX = 32, KVCI_FILTER_TEXT_MAX = 1024 };

enum kvci_filter_op {
	KVCI_FILTER_READ = 1 << 0,
	KVCI_FILTER_WRITE = 1 << 1,
	KVCI_FILTER_FLUSH = 1 << 2,
	KVCI_FILTER_DROP = 1 << 3,
};

enum kvci_filter_action {
	KVCI_FILTER_FAIL = 1 << 0,  /* completes with rule->status; BUSY: refused at submit */
	KVCI_FILTER_FLIP = 1 << 1,  /* one bit of the transferred sections is wrong */
	KVCI_FILTER_TORN = 1 << 2,  /* WRITE: only a first part reaches the device, and it says OK */
	KVCI_FILTER_DELAY = 1 << 3, /* goes on after rule->delay_ns */
	KVCI_FILTER_HANG = 1 << 4,  /* goes on when the rule is lifted */
};

struct kvci_filter_rule {
	uint32_t ops;      /* enum kvci_filter_op, or-ed */
	uint32_t action;   /* one enum kvci_filter_action */
	kvc_status_t status;
	uint64_t delay_ns;
	uint64_t every;    /* of the matching requests each n-th; 0: all */
	uint64_t after;    /* the first n pass */
	uint64_t count;    /* fires at most n times; 0: for ever */
	uint32_t percent;  /* of those that match, chosen by the seed; 100: all */
	uint64_t seen, fired;
};

struct kvci_filter_spec {
	struct kvci_filter_rule rules[KVCI_FILTER_RULES_MAX];
	uint32_t rule_count;
	uint64_t random;
	char text[KVCI_FILTER_TEXT_MAX];
};

/* CONFIG and a line for people (kvci_free) when the text is wrong. */
kvc_status_t kvci_filter_spec_parse(const char *text, struct kvci_filter_spec *ret_spec, char **ret_error);

/* The first rule of one of `actions` that fires for this request, or NULL. Counts the request in every rule it matches. */
const struct kvci_filter_rule *kvci_filter_spec_pick(struct kvci_filter_spec *spec, enum kvci_filter_op op, uint32_t actions);

/* Is there such a rule at all? */
bool kvci_filter_spec_has(const struct kvci_filter_spec *spec, enum kvci_filter_op op, uint32_t actions);

/* The next number of the spec's own sequence. */
uint64_t kvci_filter_spec_random(struct kvci_filter_spec *spec);

#endif
