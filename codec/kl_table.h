/* SPDX-License-Identifier: Apache-2.0
 *
 * What each codec costs a model, for a space that says how much loss it allows ("max_kl=0.002"): measured by tests/quality (docs/codecs.md). Twice the
 * KL, in nats a token, of the worst of five texts, as texts that were tried later were up to 1.9 times as far off as that (int8 and kv4; 1.4 the others). A
 * small model with three heads of 64: larger ones lose less at the same bits. By falling ratio: the first row that is allowed packs best. Rows with
 * a profile hold for a profile of the very model, also one without weights (measured at 5.3x and 7.5x; other steps by their square); those with weights
 * for one that was made with the gradients of the very model (docs/profile.md).
 */
#ifndef KVCI_KL_TABLE_H
#define KVCI_KL_TABLE_H

enum kvci_kl_need { KVCI_KL_NOTHING, KVCI_KL_PROFILE, KVCI_KL_WEIGHTS };

struct kvci_kl_row {
	const char *spec; /* for kvc_codec_spec_parse */
	double max_kl;
	enum kvci_kl_need needs;
};

static const struct kvci_kl_row kvci_kl_table[] = {
	{ "ecsq+pca:step=1", 0.017, KVCI_KL_WEIGHTS },         /* 13.0 */
	{ "ecsq+pca:step=0.75", 0.036, KVCI_KL_PROFILE },      /* 11.1 */
	{ "ecsq+pca:step=0.6907", 0.007, KVCI_KL_WEIGHTS },    /* 9.9 */
	{ "ecsq+pca:step=0.5", 0.016, KVCI_KL_PROFILE },       /* 8.2 */
	{ "ecsq+pca:step=0.4542", 0.003, KVCI_KL_WEIGHTS },    /* 7.5 */
	{ "ecsq+pca:step=0.25", 0.004, KVCI_KL_PROFILE },      /* 5.5 */
	{ "ecsq:step=0.5", 0.005, KVCI_KL_WEIGHTS },           /* 5.3 */
	{ "ecsq:step=0.5", 0.029, KVCI_KL_PROFILE },
	{ "ecsq+pca:step=0.2294", 0.0007, KVCI_KL_WEIGHTS },   /* 5.2 */
	{ "ecsq:step=0.25", 0.001, KVCI_KL_WEIGHTS },          /* 4.0 */
	{ "ecsq:step=0.25", 0.008, KVCI_KL_PROFILE },
	{ "kv4:bits=4,group=64", 0.018, KVCI_KL_NOTHING },     /* 3.7 */
	{ "int8", 0.0003, KVCI_KL_NOTHING },                   /* 2.2 */
};

#endif
