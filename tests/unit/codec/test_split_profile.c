/* SPDX-License-Identifier: Apache-2.0
 *
 * `split+profile`: every bit pattern comes back by every kernel from the same stream, with a profile that fits and without; the ratio on real KV; damaged
 * streams and sections; and tests/golden/split-profile-v1.bin.
 *
 *   test_split_profile            tests
 *   test_split_profile --write    rewrites the golden files: only together with a new format version
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <kvcask/plugin/codec.h>

#include "base/alloc.h"
#include "codec/profile_make.h"
#include "codec/rans.h"
#include "tests/support/random.h"

#define SAMPLE KVC_SOURCE_DIR "/tests/data/kv-"
#define GOLDEN KVC_SOURCE_DIR "/tests/golden/split-profile-v1"

enum { TOKENS = 128, HEADS = 3, DIMS = 64, COUNT = TOKENS * HEADS * DIMS, BYTES = 2 * COUNT, GUARD = 0xa5, GUARD_BYTES = 64 };

static const char *const kernels[] = { "scalar", "avx2", "avx512" };
enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static uint8_t sample[2][BYTES]; /* K, V */
static void read_file(const char *path, uint8_t *bytes, size_t room, size_t *ret_length)
{
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	*ret_length = fread(bytes, 1, room, file);
	fclose(file);
}

static int read_samples(void **context)
{
	size_t length;

	(void)context;
	read_file(SAMPLE "k.bf16", sample[0], BYTES, &length);
	assert_int_equal(length, BYTES);
	read_file(SAMPLE "v.bf16", sample[1], BYTES, &length);
	assert_int_equal(length, BYTES);
	return 0;
}

static struct kvc_form form_of(uint32_t dtype)
{
	return (struct kvc_form){
		.struct_bytes = sizeof(struct kvc_form), .layer_count = 1, .block_tokens = TOKENS, .engine_block_tokens = 16, .kv_heads = HEADS,
		.head_dim_k = DIMS, .head_dim_v = DIMS, .dtype = dtype, .arrangement = KVC_KV_SPLIT, .order = KVC_ORDER_NH,
		.group_rule = KVC_GROUP_FULL, .shard_count = 1,
	};
}

/* Of the first `tokens` tokens of the sample. */
static struct kvc_profile *make_profile(uint32_t tokens, uint8_t **ret_bytes, size_t *ret_length)
{
	struct kvci_profile_sample one = { sample[0], sample[1], tokens, 0 };
	struct kvci_profile_order order = { .name = "test", .form = form_of(KVC_DTYPE_BF16), .samples = &one, .sample_count = 1 };
	struct kvc_profile *profile;

	assert_int_equal(kvci_profile_make(&order, ret_bytes, ret_length), KVC_OK);
	assert_int_equal(kvci_profile_read(*ret_bytes, *ret_length, &profile), KVC_OK);
	assert_non_null(profile->exponents);
	return profile;
}

static struct kvc_profile *usual_profile(void)
{
	uint8_t *bytes;
	size_t length;
	struct kvc_profile *profile = make_profile(TOKENS, &bytes, &length);

	kvci_free(bytes);
	return profile;
}

static uint8_t *guarded(size_t bytes)
{
	uint8_t *memory = kvci_alloc(bytes + GUARD_BYTES);

	assert_non_null(memory);
	memset(memory, GUARD, bytes + GUARD_BYTES);
	return memory;
}

static void assert_guarded(const uint8_t *memory, size_t bytes)
{
	for (size_t i = 0; i < GUARD_BYTES; i++)
		assert_int_equal(memory[bytes + i], GUARD);
}

static kvc_status_t decode(const struct kvc_codec_part *part, const uint8_t *coded, size_t coded_bytes, uint8_t *back, size_t raw_bytes)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_name("split+profile");
	size_t scratch_bytes = ops->scratch_bytes(part, raw_bytes);
	uint8_t *exact = kvci_alloc(coded_bytes == 0 ? 1 : coded_bytes), *scratch = guarded(scratch_bytes), *out = guarded(raw_bytes);
	kvc_status_t status;

	assert_non_null(exact); /* so that a sanitizer sees a byte read past the end */
	memcpy(exact, coded, coded_bytes);
	status = ops->decode(part, exact, coded_bytes, out, raw_bytes, scratch);
	assert_guarded(out, raw_bytes);
	assert_guarded(scratch, scratch_bytes);
	memcpy(back, out, raw_bytes);
	kvci_free(exact);
	kvci_free(scratch);
	kvci_free(out);
	return status;
}

/* By each kernel: the same stream, and all decode it. kvci_free *ret_coded; 0: it did not shrink. */
static size_t check(const struct kvc_codec_part *part, const uint8_t *raw, size_t raw_bytes, uint8_t **ret_coded)
{
	const struct kvc_codec_ops *ops = kvc_codec_by_name("split+profile");
	size_t bound = ops->bound_bytes(part, raw_bytes), scratch_bytes = ops->scratch_bytes(part, raw_bytes), first_bytes = 0;
	uint8_t *first = NULL, *back = guarded(raw_bytes);

	for (int i = 0; i < KERNELS; i++) {
		uint8_t *coded, *scratch;
		size_t bytes;

		if (!kvci_rans_select(kernels[i]))
			continue;
		coded = guarded(bound);
		scratch = guarded(scratch_bytes);
		assert_int_equal(ops->encode(part, raw, raw_bytes, coded, bound, scratch, &bytes), KVC_OK);
		assert_guarded(coded, bound);
		assert_guarded(scratch, scratch_bytes);
		kvci_free(scratch);
		if (first == NULL) {
			first = coded;
			first_bytes = bytes;
		} else {
			assert_int_equal(bytes, first_bytes);
			assert_memory_equal(coded, first, bytes);
			kvci_free(coded);
		}
		if (first_bytes != 0) {
			assert_int_equal(decode(part, first, first_bytes, back, raw_bytes), KVC_OK);
			assert_memory_equal(back, raw, raw_bytes);
		}
	}
	kvci_free(back);
	*ret_coded = first;
	return first_bytes;
}

/* ---- round trips ------------------------------------------------------------------------------------------------------- */

static void test_split_profile__real_kv__smaller_than_split(void **context)
{
	const struct kvc_codec_ops *split = kvc_codec_by_id(KVC_CODEC_SPLIT);
	struct kvc_profile *profile = usual_profile();
	struct kvc_form form = form_of(KVC_DTYPE_BF16);

	(void)context;
	for (int i = 0; i < 2; i++) {
		struct kvc_codec_part part = { .form = &form, .is_k = i == 0, .profile = profile };
		uint8_t *coded, *plain = guarded(split->bound_bytes(&part, BYTES)), *scratch = guarded(split->scratch_bytes(&part, BYTES));
		size_t bytes = check(&part, sample[i], BYTES, &coded), plain_bytes;

		assert_int_equal(split->encode(&part, sample[i], BYTES, plain, split->bound_bytes(&part, BYTES), scratch, &plain_bytes), KVC_OK);
		assert_int_equal(coded[1], 1);
		assert_true(bytes != 0 && (double)bytes < 0.99 * (double)plain_bytes);
		kvci_free(coded);
		kvci_free(plain);
		kvci_free(scratch);
	}
	kvci_profile_free(profile);
}

/* Real values with some that are in no table: every `rare`-th element has any bits. */
static void fill(uint8_t *raw, size_t bytes, uint32_t element_bytes, int plane, uint32_t rare)
{
	for (size_t i = 0; i < bytes; i++)
		raw[i] = (uint8_t)(random_next() >> 32);
	for (size_t i = 0; (i + 1) * element_bytes <= bytes; i++)
		if (rare == 0 || random_next() % rare != 0)
			memcpy(raw + (i + 1) * element_bytes - 2, sample[plane] + i % COUNT * 2, 2);
}

static void test_split_profile__any_form_size_and_pattern__comes_back(void **context)
{
	static const uint32_t dtypes[] = { KVC_DTYPE_BF16, KVC_DTYPE_F32, KVC_DTYPE_F16, KVC_DTYPE_F8_E4M3, KVC_DTYPE_I8 }, rares[] = { 0, 200, 2 };
	static const size_t counts[] = { 0, 1, 63, 1023, 1024, 1025, 4096, 5000, 24576, 24999 };
	struct kvc_profile *profile = usual_profile();
	uint32_t by_profile = 0, by_split = 0;

	(void)context;
	for (uint32_t way = 0; way < 8; way++)
		for (size_t type = 0; type < sizeof(dtypes) / sizeof(dtypes[0]); type++)
			for (size_t at = 0; at < sizeof(counts) / sizeof(counts[0]); at++) {
				struct kvc_form form = form_of(dtypes[type]);
				struct kvc_codec_part part = { .form = &form, .is_k = way % 2 == 0, .profile = way == 7 ? NULL : profile };
				uint32_t element_bytes = dtypes[type] == KVC_DTYPE_F32 ? 4 : 2;
				size_t raw_bytes = counts[at] * element_bytes + at % element_bytes, coded_bytes;
				uint8_t *raw = guarded(raw_bytes), *coded;

				form.order = way & 1 ? KVC_ORDER_HN : KVC_ORDER_NH;
				form.arrangement = way & 2 ? KVC_KV_FUSED : KVC_KV_SPLIT;
				form.page_extra_bytes = way == 5 ? 16 : 0;
				part.is_k |= form.arrangement == KVC_KV_FUSED;
				fill(raw, raw_bytes, element_bytes, part.is_k ? 0 : 1, rares[(at + way) % 3]);
				coded_bytes = check(&part, raw, raw_bytes, &coded);
				by_profile += coded_bytes != 0 && coded[1] == 1;
				by_split += coded_bytes != 0 && coded[1] == 0;
				kvci_free(coded);
				kvci_free(raw);
			}
	assert_true(by_profile > 20 && by_split > 20);
	kvci_profile_free(profile);
}

/* All 65,536 patterns, among values that the profile knows. */
static void test_split_profile__all_patterns__come_back(void **context)
{
	enum { EACH = 80, PATTERNS_BYTES = 2 * 65536 * EACH / 16 };
	struct kvc_profile *profile = usual_profile();
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct kvc_codec_part part = { .form = &form, .is_k = true, .profile = profile };
	uint8_t *raw = guarded(PATTERNS_BYTES), *coded;

	(void)context;
	for (uint32_t quarter = 0; quarter < 16; quarter++) {
		for (size_t i = 0; i < PATTERNS_BYTES / 2; i++) {
			uint16_t pattern = (uint16_t)(quarter * 4096 + i / EACH);

			memcpy(raw + 2 * i, i % EACH == 7 ? (uint8_t *)&pattern : sample[0] + i % COUNT * 2, 2);
		}
		assert_true(check(&part, raw, PATTERNS_BYTES, &coded) != 0);
		assert_int_equal(coded[1], 1);
		kvci_free(coded);
	}
	kvci_free(raw);
	kvci_profile_free(profile);
}

/* ---- damage -------------------------------------------------------------------------------------------------------------- */

static void test_split_profile__another_profile_or_none__corrupt(void **context)
{
	struct kvc_profile *profile = usual_profile(), *other;
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct kvc_codec_part part = { .form = &form, .is_k = true, .profile = profile };
	uint8_t *coded, *bytes, back[BYTES];
	size_t length, coded_bytes = check(&part, sample[0], BYTES, &coded);

	(void)context;
	other = make_profile(64, &bytes, &length);
	part.profile = other;
	assert_int_equal(decode(&part, coded, coded_bytes, back, BYTES), KVC_CORRUPT);
	part.profile = NULL;
	assert_int_equal(decode(&part, coded, coded_bytes, back, BYTES), KVC_CORRUPT);
	kvci_profile_free(profile);
	kvci_profile_free(other);
	kvci_free(bytes);
	kvci_free(coded);
}

static void test_split_profile__damaged_stream__inside_the_buffers(void **context)
{
	struct kvc_profile *profile = usual_profile();
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct kvc_codec_part part = { .form = &form, .is_k = true, .profile = profile };
	uint8_t raw[8192], back[8192], *coded;
	size_t bytes, plain = 12 + 4096 / 8 * 7;
	uint32_t unseen = 0, tried = 0;

	(void)context;
	fill(raw, sizeof(raw), 2, 0, 200);
	bytes = check(&part, raw, sizeof(raw), &coded);
	assert_true(bytes != 0 && coded[1] == 1);
	for (int i = 0; i < KERNELS; i++) {
		if (!kvci_rans_select(kernels[i]))
			continue;
		for (size_t at = 0; at < bytes; at += at < 12 || (at >= plain && at < plain + 300) ? 1 : 53) {
			uint8_t bit = (uint8_t)(1u << (random_next() >> 20) % 8);
			kvc_status_t status;

			coded[at] ^= bit;
			status = decode(&part, coded, bytes, back, sizeof(back));
			assert_true(status == KVC_OK || status == KVC_CORRUPT);
			unseen += at > plain && status == KVC_OK && memcmp(back, raw, sizeof(raw)) != 0;
			tried += at > plain;
			coded[at] ^= bit;
		}
		for (size_t cut = 0; cut < bytes; cut += 1 + random_next() % 61)
			assert_int_equal(decode(&part, coded, cut, back, sizeof(back)), KVC_CORRUPT);
	}
	assert_true(tried > 300 && unseen * 4 < tried); /* an escape's exponent may be any: the record's checksum is what finds damage */
	kvci_free(coded);
	kvci_profile_free(profile);
}

static void test_profile_exponents__damaged__refused_or_a_profile(void **context)
{
	struct kvc_profile *profile, *damaged;
	const uint8_t *section;
	size_t length, section_length, begin;
	uint32_t refused = 0, tried = 0;
	uint8_t *bytes;

	(void)context;
	profile = make_profile(TOKENS, &bytes, &length);
	assert_true(kvci_profile_section(profile, KVCI_PROFILE_EXPONENTS, &section, &section_length));
	begin = (size_t)(section - profile->file);
	for (size_t at = begin; at < begin + section_length; at += at < begin + 64 ? 1 : 7) {
		kvc_status_t status;
		uint8_t bit = (uint8_t)(1u << (random_next() >> 20) % 8);

		bytes[at] ^= bit;
		status = kvci_profile_read(bytes, length, &damaged);
		assert_true(status == KVC_OK || status == KVC_CORRUPT);
		if (status == KVC_OK)
			kvci_profile_free(damaged);
		refused += status == KVC_CORRUPT;
		tried++;
		bytes[at] ^= bit;
	}
	assert_true(refused * 2 > tried); /* a channel may be of any class; the sums of frequencies do not bear a change */
	kvci_profile_free(profile);
	kvci_free(bytes);
}

/* ---- golden --------------------------------------------------------------------------------------------------------------- */

/* Both directions: the tables are in the profile, so an encoder has nothing to choose. */
static void test_split_profile__golden_stream__as_it_was(void **context)
{
	static uint8_t file[1 << 17], stream[1 << 17];
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct kvc_codec_part part = { .form = &form, .is_k = true };
	struct kvc_profile *profile;
	size_t length, stream_length;
	uint8_t *coded;

	(void)context;
	read_file(GOLDEN ".kvp", file, sizeof(file), &length);
	assert_int_equal(kvci_profile_read(file, length, &profile), KVC_OK);
	read_file(GOLDEN ".bin", stream, sizeof(stream), &stream_length);
	part.profile = profile;
	assert_int_equal(check(&part, sample[0], BYTES / 2, &coded), stream_length);
	assert_memory_equal(coded, stream, stream_length);
	assert_int_equal(coded[1], 1);
	kvci_free(coded);
	kvci_profile_free(profile);
}

static int write_file(const char *path, const uint8_t *bytes, size_t length)
{
	FILE *file = fopen(path, "wb");
	int failed = file == NULL || fwrite(bytes, 1, length, file) != length;

	return (file != NULL && fclose(file) != 0) || failed;
}

static int write_golden(void)
{
	struct kvc_form form = form_of(KVC_DTYPE_BF16);
	struct kvc_codec_part part = { .form = &form, .is_k = true };
	uint8_t *bytes, *coded;
	struct kvc_profile *profile;
	size_t length, coded_bytes;
	int failed;

	read_samples(NULL);
	part.profile = profile = make_profile(TOKENS, &bytes, &length);
	coded_bytes = check(&part, sample[0], BYTES / 2, &coded);
	failed = write_file(GOLDEN ".kvp", bytes, length) || write_file(GOLDEN ".bin", coded, coded_bytes);
	kvci_free(bytes);
	kvci_free(coded);
	kvci_profile_free(profile);
	return failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_profile__real_kv__smaller_than_split),
		cmocka_unit_test(test_split_profile__any_form_size_and_pattern__comes_back),
		cmocka_unit_test(test_split_profile__all_patterns__come_back),
		cmocka_unit_test(test_split_profile__another_profile_or_none__corrupt),
		cmocka_unit_test(test_split_profile__damaged_stream__inside_the_buffers),
		cmocka_unit_test(test_profile_exponents__damaged__refused_or_a_profile),
		cmocka_unit_test(test_split_profile__golden_stream__as_it_was),
	};

	if (argc == 2 && strcmp(argv[1], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, read_samples, NULL);
}
