/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that the owner registers. The tier below pins it, which costs as much as copying it once; and where records are packed it never sees that
 * memory: it reads and writes I/O buffers. So it is told of a region once raw records of twice its length have passed through it: by then its pages have
 * been made by whoever writes them (what is pinned stays as it is: pinned earlier, no page becomes huge), and it is clear that it goes on so. Until then
 * they go the unregistered way.
 */
#include "base/alloc.h"
#include "tiers/coded/internal.h"

enum { REGIONS_FIRST = 8 };

static kvc_status_t region_tell(struct coded_tier *tier, struct coded_region *region)
{
	kvc_status_t status = kvci_tier_register_memory(tier->below, region->base, region->length_bytes);

	region->told = status == KVC_OK;
	return status;
}

kvc_status_t coded_region_add(struct coded_tier *tier, void *base, size_t length_bytes)
{
	struct coded_region *region;

	if (tier->region_count == tier->region_room) {
		uint32_t room = tier->region_room != 0 ? 2 * tier->region_room : REGIONS_FIRST;
		struct coded_region *regions = kvci_realloc(tier->regions, room * sizeof(regions[0]));

		if (regions == NULL)
			return KVC_NO_MEMORY;
		tier->regions = regions;
		tier->region_room = room;
	}
	region = &tier->regions[tier->region_count++];
	*region = (struct coded_region){.base = base, .length_bytes = length_bytes};
	return tier->env.register_always ? region_tell(tier, region) : KVC_OK;
}

void coded_region_remove(struct coded_tier *tier, void *base, size_t length_bytes)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < tier->region_count; i++) {
		struct coded_region *region = &tier->regions[i];

		if ((uintptr_t)region->base - (uintptr_t)base >= length_bytes)
			tier->regions[kept++] = *region;
		else if (region->told)
			kvci_tier_unregister_memory(tier->below, region->base, region->length_bytes);
	}
	tier->region_count = kept;
}

void coded_region_passed(struct coded_tier *tier, const void *buffer, size_t length_bytes)
{
	for (uint32_t i = 0; i < tier->region_count; i++) {
		struct coded_region *region = &tier->regions[i];

		if ((uintptr_t)buffer - (uintptr_t)region->base >= region->length_bytes)
			continue;
		region->passed_bytes += length_bytes;
		if (!region->told && region->passed_bytes / 2 >= region->length_bytes) {
			region->passed_bytes = 0; /* refused: not at every record */
			region_tell(tier, region);
		}
		return;
	}
}
