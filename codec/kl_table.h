/* SPDX-License-Identifier: Apache-2.0
 *
 * What each codec costs a model, for a space that says how much loss it allows ("max_kl=0.002"): measured by tests/quality (docs/codecs.md), the KL in
 * nats a token of the worst of five texts, rounded up. A small model with three heads of 64: larger ones lose less at the same bits. By falling
 * ratio: the first row that is allowed packs best. Rows with a profile hold for a profile of the very model, also one
 * without weights; with them (docs/profile.md) it is a fifth, which nothing in a profile promises.
 */
#ifndef KVCI_KL_TABLE_H
#define KVCI_KL_TABLE_H

#include <stdbool.h>

struct kvci_kl_row {
	const char *spec; /* for kvc_codec_spec_parse */
	double max_kl;
	bool needs_profile;
};

static const struct kvci_kl_row kvci_kl_table[] = {
	{ "ecsq+pca:step=0.75", 0.032, true },  /* 11.1 */
	{ "ecsq+pca:step=0.5", 0.012, true },   /* 8.2 */
	{ "ecsq+pca:step=0.25", 0.004, true },  /* 5.5 */
	{ "ecsq:step=0.5", 0.015, true },       /* 5.3 */
	{ "ecsq:step=0.25", 0.005, true },      /* 4.0 */
	{ "kv4:bits=4,group=64", 0.009, false }, /* 3.7 */
	{ "int8", 0.0003, false },              /* 2.2 */
};

#endif
