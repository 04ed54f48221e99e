/* SPDX-License-Identifier: Apache-2.0
 * Histograms and moments of K and V. */
#include "daemon/content.h"

#include <math.h>
#include <string.h>

struct content_dtype {
	const char *name;
	uint32_t bytes;
	uint32_t exponent_bits, mantissa_bits; /* 0: no float */
	bool infinities; /* the greatest exponent means infinity or NaN (IEEE); else only all ones is NaN (E4M3) */
};

static const struct content_dtype content_dtypes[] = {
	[KVC_DTYPE_F32] = {"float32", 4, 8, 23, true},
	[KVC_DTYPE_BF16] = {"bfloat16", 2, 8, 7, true},
	[KVC_DTYPE_F16] = {"float16", 2, 5, 10, true},
	[KVC_DTYPE_F8_E4M3] = {"float8_e4m3", 1, 4, 3, false},
	[KVC_DTYPE_F8_E5M2] = {"float8_e5m2", 1, 5, 2, true},
	[KVC_DTYPE_I8] = {"int8", 1, 0, 0, false},
	[KVC_DTYPE_OPAQUE8] = {"opaque8", 1, 0, 0, false},
};

static const struct content_dtype *content_dtype(uint32_t dtype)
{
	if (dtype == 0 || dtype >= sizeof(content_dtypes) / sizeof(content_dtypes[0]))
		return NULL;
	return &content_dtypes[dtype];
}

const char *kvci_content_dtype_name(uint32_t dtype)
{
	const struct content_dtype *type = content_dtype(dtype);

	return type != NULL ? type->name : "?";
}

bool kvci_content_has_exponents(uint32_t dtype, int *ret_bias)
{
	const struct content_dtype *type = content_dtype(dtype);

	if (type == NULL || type->exponent_bits == 0)
		return false;
	*ret_bias = (1 << (type->exponent_bits - 1)) - 1;
	return true;
}

static void content_value(struct kvci_content_part *part, double value)
{
	if (part->count - part->nans - part->infinities == 1 || value < part->least)
		part->least = value;
	if (part->count - part->nans - part->infinities == 1 || value > part->greatest)
		part->greatest = value;
	part->sum += value;
	part->sum_squares += value * value;
	part->zeros += value == 0;
}

static void content_float(const struct content_dtype *type, uint32_t bits, struct kvci_content_part *part)
{
	uint32_t mantissa_mask = (1u << type->mantissa_bits) - 1, exponent_mask = (1u << type->exponent_bits) - 1;
	uint32_t mantissa = bits & mantissa_mask, exponent = bits >> type->mantissa_bits & exponent_mask;
	bool negative = (bits >> (type->mantissa_bits + type->exponent_bits) & 1) != 0;
	int bias = (1 << (type->exponent_bits - 1)) - 1;
	double value;

	part->count++;
	part->bins[exponent]++;
	if (exponent == exponent_mask && type->infinities) {
		part->nans += mantissa != 0;
		part->infinities += mantissa == 0;
		return;
	}
	if (exponent == exponent_mask && mantissa == mantissa_mask && !type->infinities) {
		part->nans++;
		return;
	}
	value = exponent == 0 ? ldexp(mantissa, 1 - bias - (int)type->mantissa_bits)
	                      : ldexp(mantissa + mantissa_mask + 1.0, (int)exponent - bias - (int)type->mantissa_bits);
	content_value(part, negative ? -value : value);
}

static void content_run(const struct content_dtype *type, uint32_t dtype, const uint8_t *at, uint64_t elements,
                        struct kvci_content_part *part)
{
	for (uint64_t i = 0; i < elements; i++, at += type->bytes) {
		uint32_t bits = 0;

		memcpy(&bits, at, type->bytes); /* little-endian, as records are */
		if (type->exponent_bits != 0) {
			content_float(type, bits, part);
			continue;
		}
		part->count++;
		part->bins[dtype == KVC_DTYPE_I8 ? (bits + 128) & 255 : bits]++;
		content_value(part, dtype == KVC_DTYPE_I8 ? (int8_t)bits : (double)bits);
	}
}

void kvci_content_add(const struct kvc_form *form, const void *section, uint64_t section_bytes,
                      struct kvci_content_part *k, struct kvci_content_part *v)
{
	const struct content_dtype *type = content_dtype(form->dtype);
	uint64_t rows = (uint64_t)form->kv_heads * form->engine_block_tokens;
	struct kvc_form_sizes sizes;
	const uint8_t *page = section;

	if (type == NULL || kvc_form_sizes(form, &sizes, NULL) != KVC_OK || section_bytes != sizes.section_bytes)
		return;
	for (uint32_t p = 0; p < sizes.pages_per_section; p++, page += sizes.page_bytes) {
		const uint8_t *at = page;

		if (form->arrangement == KVC_KV_SPLIT) {
			content_run(type, form->dtype, at, rows * form->head_dim_k, k);
			content_run(type, form->dtype, at + rows * form->head_dim_k * type->bytes, rows * form->head_dim_v, v);
			continue;
		}
		for (uint64_t row = 0; row < rows; row++) {
			content_run(type, form->dtype, at, form->head_dim_k, k);
			at += (uint64_t)form->head_dim_k * type->bytes;
			content_run(type, form->dtype, at, form->head_dim_v, v);
			at += (uint64_t)form->head_dim_v * type->bytes;
		}
	}
}
