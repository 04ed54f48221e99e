/* SPDX-License-Identifier: Apache-2.0
 *
 * By which codec a record is packed: what the space names; of what its bound on the loss allows, and without a wish, what auto finds fast enough.
 */
#include "tiers/coded/internal.h"

static struct kvci_pack pick_pack(const struct coded_node *node, const struct kvci_coded_option *option, const struct kvc_profile *profile,
                                      uint64_t profile_id)
{
	struct kvci_pack pack = node->pack;

	pack.codec = option->codec->id == KVC_CODEC_RAW ? NULL : option->codec;
	pack.params = option->params;
	pack.profile = profile;
	pack.profile_id = profile_id;
	return pack;
}

/* auto: asks for this codec, unless it would make loads slow. True: it is asked for. */
static bool pick_offer(struct coded_node *node, const struct kvci_coded_target *target, const struct kvci_pack *pack)
{
	struct coded_tier *tier = node->tier;
	bool may_try = !target->hurry && !tier->trying, try_it = false;
	bool usable = coded_choice_offer(&tier->choice, pack->codec->id, may_try ? &try_it : NULL);

	if (try_it) {
		node->try_pack = *pack;
		tier->trying = true;
	}
	if (usable)
		node->pack = *pack;
	return usable;
}

/* Has it exponents to be coded apart? */
static bool pick_splits(const struct kvc_form *form)
{
	return form->dtype != KVC_DTYPE_I8 && form->dtype != KVC_DTYPE_OPAQUE8;
}

/* auto without a wish of the space's, or when nothing of what it allows is fast enough. */
static void pick_lossless(struct coded_node *node, const struct kvci_coded_target *target)
{
	struct kvci_coded_option option = {.codec = kvc_codec_by_id(KVC_CODEC_SPLIT_PROFILE)};
	uint32_t dtype = target->form.dtype;
	struct kvci_pack pack;

	option.params = option.codec->defaults;
	pack = pick_pack(node, &option, target->tables, target->tables_id);
	if (target->tables != NULL && (dtype == KVC_DTYPE_BF16 || dtype == KVC_DTYPE_F32) && pick_offer(node, target, &pack))
		return;
	option.codec = kvc_codec_by_id(KVC_CODEC_SPLIT);
	option.params = option.codec->defaults;
	pack = pick_pack(node, &option, NULL, 0);
	if (pick_splits(&target->form))
		pick_offer(node, target, &pack);
}

void coded_pick(struct coded_node *node, const struct kvci_coded_target *target)
{
	static const uint16_t ids[] = {
		[KVCI_CODED_RAW] = KVC_CODEC_RAW, [KVCI_CODED_SPLIT] = KVC_CODEC_SPLIT, [KVCI_CODED_ZSTD] = KVC_CODEC_ZSTD,
		[KVCI_CODED_LZ4] = KVC_CODEC_LZ4,
	};
	struct kvci_coded_option option = {.codec = target->codec, .params = target->params};
	enum kvci_coded_mode mode = node->tier->env.mode;

	node->pack.codec = node->try_pack.codec = NULL;
	if (target->codec != NULL && (!target->codec->needs_profile || target->profile != NULL)) {
		node->pack = pick_pack(node, &option, target->profile, target->profile_id);
		return;
	}
	for (uint32_t i = 0; i < target->option_count; i++) {
		struct kvci_pack pack = pick_pack(node, &target->options[i], target->profile, target->profile_id);

		if (mode != KVCI_CODED_AUTO)
			node->pack = pack;
		if (mode != KVCI_CODED_AUTO || pick_offer(node, target, &pack))
			return;
	}
	if (mode == KVCI_CODED_AUTO) {
		pick_lossless(node, target);
		return;
	}
	option.codec = kvc_codec_by_id(ids[mode]);
	option.params = option.codec->defaults;
	if (mode != KVCI_CODED_SPLIT || pick_splits(&target->form))
		node->pack = pick_pack(node, &option, NULL, 0);
}
