/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as the image of a space: refused, or taken, and then its own image is taken again and names the same space. */
#include <string.h>

#include "base/alloc.h"
#include "cache/space.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct kvci_space space, again;
	uint8_t print[KVCI_SPACE_BYTES], print_again[KVCI_SPACE_BYTES];
	kvc_status_t status = kvci_space_parse(bytes, length, &space);
	size_t image_length;
	void *image;

	if (status != KVC_OK) {
		FUZZ_CHECK(status == KVC_INVALID || status == KVC_TOO_BIG);
		return 0;
	}
	FUZZ_CHECK(kvci_space_fingerprint(&space, print) == KVC_OK);
	FUZZ_CHECK(kvci_space_serialize(&space, &image, &image_length) == KVC_OK);
	FUZZ_CHECK(image_length <= length);
	FUZZ_CHECK(kvci_space_parse(image, image_length, &again) == KVC_OK);
	FUZZ_CHECK(kvci_space_difference(&space, &again) == NULL && strcmp(space.model_name, again.model_name) == 0);
	FUZZ_CHECK(kvci_space_fingerprint(&again, print_again) == KVC_OK);
	FUZZ_CHECK(memcmp(print, print_again, sizeof(print)) == 0);
	kvci_space_fini(&space);
	kvci_space_fini(&again);
	kvci_free(image);
	return 0;
}
