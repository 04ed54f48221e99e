/* SPDX-License-Identifier: Apache-2.0
 *
 * A table and its rows in one call.
 */
#include "tests/quality/rope_shared.h"

#include <stdlib.h>

#include "codec/rope.h"

int kvcq_rope(uint32_t style, uint32_t first_dim, uint32_t dims, float factor, const float *inv_freq, uint32_t direction,
              uint64_t from, uint64_t to, uint32_t tokens, uint32_t row_dims, float *rows)
{
	struct kvci_rope rope = { .style = style, .first_dim = first_dim, .dims = dims, .factor = factor, .inv_freq = inv_freq };
	kvc_status_t status = kvci_rope_check(&rope, row_dims);
	float *table;

	if (status != KVC_OK)
		return (int)status;
	table = malloc(kvci_rope_table_floats(&rope, tokens) * sizeof(float) + 1);
	if (table == NULL)
		return (int)KVC_NO_MEMORY;
	if (direction == 3)
		kvci_rope_table_move(&rope, from, to, table);
	else
		kvci_rope_table(&rope, direction == 1 ? KVCI_ROPE_FORWARD : KVCI_ROPE_BACK, from, tokens, table);
	kvci_rope_apply(&rope, table, direction == 3 ? 0 : dims, rows, tokens, row_dims);
	free(table);
	return (int)KVC_OK;
}
