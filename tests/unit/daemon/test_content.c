/* SPDX-License-Identifier: Apache-2.0
 * What a block contains, and histograms of latencies: figures against values worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/content.h"
#include "daemon/histogram.h"

static struct kvci_content_part k, v;

static void reset(void)
{
	memset(&k, 0, sizeof(k));
	memset(&v, 0, sizeof(v));
}

/* One page of two tokens and one head; three dims of K, two of V. */
static struct kvc_form form_of(uint32_t dtype, uint32_t arrangement)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form),
		.layer_count = 1,
		.block_tokens = 2,
		.engine_block_tokens = 2,
		.kv_heads = 1,
		.head_dim_k = 3,
		.head_dim_v = arrangement == KVC_KV_LATENT ? 0 : 2,
		.dtype = dtype,
		.arrangement = arrangement,
		.order = arrangement == KVC_KV_LATENT ? 0 : KVC_ORDER_HN,
		.group_rule = KVC_GROUP_FULL,
		.shard_count = 1,
	};
}

static void test_content__fused_floats__are_told_apart(void **state)
{
	const float section[] = {1, 2, -3, /* V */ 10, 20, /* token 1 */ 0, 0.5f, 4, /* V */ -30, INFINITY};
	struct kvc_form form = form_of(KVC_DTYPE_F32, KVC_KV_FUSED);

	reset();
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_int_equal(k.count, 6);
	assert_int_equal(v.count, 4);
	assert_true(k.least == -3 && k.greatest == 4 && k.sum == 4.5 && k.sum_squares == 30.25);
	assert_int_equal(k.zeros, 1);
	assert_int_equal(v.infinities, 1);
	assert_true(v.least == -30 && v.greatest == 20 && v.sum == 0);
	assert_int_equal(k.bins[127], 1); /* 1 */
	assert_int_equal(k.bins[128], 2); /* 2, -3 */
	assert_int_equal(k.bins[0], 1);
	assert_int_equal(v.bins[255], 1);
}

static void test_content__split_floats__are_told_apart(void **state)
{
	const float section[] = {1, 2, -3, 0, 0.5f, 4, /* V */ 10, 20, -30, NAN};
	struct kvc_form form = form_of(KVC_DTYPE_F32, KVC_KV_SPLIT);

	reset();
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_int_equal(k.count, 6);
	assert_int_equal(v.count, 4);
	assert_true(k.sum == 4.5 && v.sum == 0);
	assert_int_equal(v.nans, 1);
}

static void test_content__latent__is_k_alone(void **state)
{
	const uint16_t section[] = {0x3f80, 0x4000, 0xc040, 0x0000, 0x3f00, 0x4080}; /* 1 2 -3 0 0.5 4 */
	struct kvc_form form = form_of(KVC_DTYPE_BF16, KVC_KV_LATENT);

	reset();
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_int_equal(k.count, 6);
	assert_int_equal(v.count, 0);
	assert_true(k.sum == 4.5 && k.least == -3 && k.greatest == 4);
}

/* Every bit pattern of the small floats, against a table worked out another way. */
static void test_content__every_float8__has_its_value(void **state)
{
	for (int e5m2 = 0; e5m2 < 2; e5m2++) {
		struct kvc_form form = form_of(e5m2 ? KVC_DTYPE_F8_E5M2 : KVC_DTYPE_F8_E4M3, KVC_KV_LATENT);
		int mantissa_bits = e5m2 ? 2 : 3, exponent_max = e5m2 ? 31 : 15, bias = e5m2 ? 15 : 7;

		for (unsigned bits = 0; bits < 256; bits++) {
			uint8_t section[6] = {0, 0, 0, 0, 0, (uint8_t)bits};
			int exponent = (int)(bits >> mantissa_bits) & exponent_max, mantissa = (int)bits & ((1 << mantissa_bits) - 1);
			double value = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);

			for (int i = exponent == 0 ? 1 : exponent; i < bias + mantissa_bits; i++)
				value /= 2;
			for (int i = bias + mantissa_bits; i < exponent; i++)
				value *= 2;
			if ((bits & 128) != 0)
				value = -value;
			reset();
			kvci_content_add(&form, section, sizeof(section), &k, &v);
			if (e5m2 && exponent == 31)
				assert_int_equal(mantissa == 0 ? k.infinities : k.nans, 1);
			else if (!e5m2 && (bits & 127) == 127)
				assert_int_equal(k.nans, 1);
			else
				assert_true(k.sum == value);
		}
	}
}

static void test_content__int8_and_opaque__are_counted_by_value(void **state)
{
	const uint8_t section[] = {0xff, 0x80, 0x7f, 0, 1, 2};
	struct kvc_form form = form_of(KVC_DTYPE_I8, KVC_KV_LATENT);
	int bias;

	reset();
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_true(k.least == -128 && k.greatest == 127 && k.sum == 1);
	assert_int_equal(k.bins[127], 1); /* -1 */
	assert_int_equal(k.bins[0], 1);   /* -128 */
	assert_false(kvci_content_has_exponents(KVC_DTYPE_I8, &bias));
	form = form_of(KVC_DTYPE_OPAQUE8, KVC_KV_LATENT);
	reset();
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_int_equal(k.bins[255], 1);
	assert_true(k.greatest == 255);
}

static void test_content__section_of_another_length__is_left_alone(void **state)
{
	const float section[10] = {0};
	struct kvc_form form = form_of(KVC_DTYPE_F32, KVC_KV_FUSED);

	reset();
	kvci_content_add(&form, section, sizeof(section) - 4, &k, &v);
	form.dtype = 99;
	kvci_content_add(&form, section, sizeof(section), &k, &v);
	assert_int_equal(k.count + v.count, 0);
}

static void test_histogram__times__are_in_the_bucket_that_ends_above_them(void **state)
{
	static const struct {
		uint64_t ns;
		unsigned bucket;
	} cases[] = {
		{0, 0}, {1, 0}, {1024, 0}, {1025, 1}, {2048, 1}, {2049, 2}, {UINT64_C(1) << 35, 25}, {(UINT64_C(1) << 35) + 1, 26}, {UINT64_MAX, 26},
	};
	struct kvci_latencies *latencies = calloc(1, sizeof(*latencies));
	struct kvci_histogram_figures figures;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(latencies, 0, sizeof(*latencies));
		kvci_latency_add(latencies, KVCI_LATENCY_LOAD, cases[i].ns);
		kvci_latency_read(latencies, KVCI_LATENCY_LOAD, &figures);
		assert_int_equal(figures.count, 1);
		assert_int_equal(figures.sum_ns, cases[i].ns);
		assert_int_equal(figures.buckets[cases[i].bucket], 1);
	}
	memset(latencies, 0, sizeof(*latencies));
	for (int i = 0; i < 98; i++)
		kvci_latency_add(latencies, KVCI_LATENCY_LOAD, 1500);
	kvci_latency_add(latencies, KVCI_LATENCY_LOAD, 1000000);
	kvci_latency_add(latencies, KVCI_LATENCY_LOAD, 1000000);
	kvci_latency_read(latencies, KVCI_LATENCY_LOAD, &figures);
	assert_int_equal(kvci_histogram_quantile_ns(&figures, 0.5), 2048);
	assert_int_equal(kvci_histogram_quantile_ns(&figures, 0.99), 1 << 20);
	kvci_latency_read(latencies, KVCI_LATENCY_MATCH, &figures);
	assert_int_equal(kvci_histogram_quantile_ns(&figures, 0.5), 0);
	free(latencies);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_content__fused_floats__are_told_apart),
		cmocka_unit_test(test_content__split_floats__are_told_apart),
		cmocka_unit_test(test_content__latent__is_k_alone),
		cmocka_unit_test(test_content__every_float8__has_its_value),
		cmocka_unit_test(test_content__int8_and_opaque__are_counted_by_value),
		cmocka_unit_test(test_content__section_of_another_length__is_left_alone),
		cmocka_unit_test(test_histogram__times__are_in_the_bucket_that_ends_above_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
