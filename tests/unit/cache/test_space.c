/* SPDX-License-Identifier: Apache-2.0
 * Spaces: what counts in the fingerprint, and images from clients checked byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "cache/space.h"
#include "tests/unit/sweep.h"

static struct kvci_space full_space(void)
{
	return (struct kvci_space){
		.tenant = "acme", .model = "0123abcd", .model_name = "SmolLM2", .kv_dtype = "bfloat16", .kv_quant = "none",
		.rope = "theta=100000", .adapter = "lora:77", .hash_algorithm = "sha256_cbor", .hash_root = "9bd9",
		.extra = "x=1\n\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", .codec = "int8",
	};
}

static char **slot(struct kvci_space *space, size_t index)
{
	return &((char **)(void *)space)[index];
}

enum { FIELDS = sizeof(struct kvci_space) / sizeof(char *), MODEL_NAME = 2 };

static void assert_same_fields(const struct kvci_space *a, const struct kvci_space *b)
{
#define SAME(field, text) assert_string_equal(a->field == NULL ? "" : a->field, b->field == NULL ? "" : b->field);
	KVCI_SPACE_FIELDS(SAME)
#undef SAME
}

static void test_space_image__parsed_again__same_fields(void **context)
{
	struct kvci_space space = full_space(), back, copy;
	void *bytes;
	size_t length;

	(void)context;
	for (size_t left_out = 0; left_out <= FIELDS; left_out++) {
		space = full_space();
		if (left_out < FIELDS)
			*slot(&space, left_out) = left_out % 2 == 0 ? NULL : "";
		assert_int_equal(kvci_space_serialize(&space, &bytes, &length), KVC_OK);
		assert_int_equal(kvci_space_parse(bytes, length, &back), KVC_OK);
		assert_same_fields(&space, &back);
		assert_int_equal(kvci_space_copy(&back, &copy), KVC_OK);
		assert_same_fields(&space, &copy);
		for (size_t i = 0; i < FIELDS; i++)
			assert_non_null(*slot(&back, i));
		assert_null(kvci_space_difference(&space, &back));
		kvci_space_fini(&back);
		kvci_space_fini(&copy);
		kvci_free(bytes);
	}
}

static void test_space_fingerprint__each_field_but_the_name__counts(void **context)
{
	static const char *const names[FIELDS] = {
#define NAME(field, text) #field,
		KVCI_SPACE_FIELDS(NAME)
#undef NAME
	};
	struct kvci_space space = full_space();
	uint8_t right[KVCI_SPACE_BYTES], other[KVCI_SPACE_BYTES];

	(void)context;
	assert_string_equal(names[MODEL_NAME], "model_name");
	assert_int_equal(kvci_space_fingerprint(&space, right), KVC_OK);
	for (size_t i = 0; i < FIELDS; i++) {
		struct kvci_space changed = full_space();

		*slot(&changed, i) = "other";
		assert_int_equal(kvci_space_fingerprint(&changed, other), KVC_OK);
		if (i == MODEL_NAME) {
			assert_memory_equal(other, right, sizeof(right));
			assert_null(kvci_space_difference(&space, &changed));
		} else {
			assert_memory_not_equal(other, right, sizeof(right));
			assert_string_equal(kvci_space_difference(&space, &changed), names[i]);
		}
	}
}

static void test_space_fingerprint__text_moved_to_the_next_field__other(void **context)
{
	struct kvci_space a = {.tenant = "t", .model = "ab", .kv_dtype = "c"};
	struct kvci_space b = {.tenant = "t", .model = "a", .kv_dtype = "bc"};
	struct kvci_space c = {.tenant = "t", .model = "ab", .kv_quant = "c"};
	uint8_t prints[3][KVCI_SPACE_BYTES];

	(void)context;
	assert_int_equal(kvci_space_fingerprint(&a, prints[0]), KVC_OK);
	assert_int_equal(kvci_space_fingerprint(&b, prints[1]), KVC_OK);
	assert_int_equal(kvci_space_fingerprint(&c, prints[2]), KVC_OK);
	assert_memory_not_equal(prints[0], prints[1], KVCI_SPACE_BYTES);
	assert_memory_not_equal(prints[0], prints[2], KVCI_SPACE_BYTES);
}

static void test_space_fingerprint__of_a_simple_space__sha256_of_its_image(void **context)
{
	/* count 2; 5 "model" 1 "m"; 8 "kv_dtype" 3 "f16" */
	static const char image[] = "\2\0\0\0" "\5\0model\1\0\0\0m" "\x8\0kv_dtype\3\0\0\0f16";
	struct kvci_space space = {.model = "m", .kv_dtype = "f16", .model_name = "for people"};
	uint8_t digest[32], print[KVCI_SPACE_BYTES];

	(void)context;
	assert_int_equal(kvci_sha256(image, sizeof(image) - 1, digest), KVC_OK);
	assert_int_equal(kvci_space_fingerprint(&space, print), KVC_OK);
	assert_memory_equal(print, digest, KVCI_SPACE_BYTES);
}

static void check_refused(const void *bytes, size_t length, kvc_status_t status)
{
	struct kvci_space space = {.tenant = "untouched"};
	uint8_t *exact = kvci_alloc(length == 0 ? 1 : length); /* the sanitizer guards its end */

	assert_non_null(exact);
	memcpy(exact, bytes, length);
	assert_int_equal(kvci_space_parse(exact, length, &space), status);
	assert_string_equal(space.tenant, "untouched");
	kvci_free(exact);
}

static void test_space_parse__cut_anywhere__refused(void **context)
{
	struct kvci_space space = full_space();
	uint8_t *bytes;
	void *image;
	size_t length;

	(void)context;
	assert_int_equal(kvci_space_serialize(&space, &image, &length), KVC_OK);
	for (size_t cut = 0; cut < length; cut++)
		check_refused(image, cut, KVC_INVALID);
	bytes = kvci_realloc(image, length + 1);
	assert_non_null(bytes);
	bytes[length] = 0;
	check_refused(bytes, length + 1, KVC_INVALID);
	kvci_free(bytes);
}

#define IMAGE(text, status) {text, sizeof(text) - 1, status}

static void test_space_parse__malformed__refused(void **context)
{
	static const struct {
		const char *bytes;
		size_t length;
		kvc_status_t status;
	} cases[] = {
		IMAGE("\1\0\0\0\5\0modal\1\0\0\0m", KVC_INVALID),                         /* unknown */
		IMAGE("\1\0\0\0\4\0mode\1\0\0\0m", KVC_INVALID),                          /* half a name */
		IMAGE("\1\0\0\0\0\0\1\0\0\0m", KVC_INVALID),                              /* no name */
		IMAGE("\2\0\0\0\5\0model\1\0\0\0m\5\0model\1\0\0\0m", KVC_INVALID),       /* twice */
		IMAGE("\2\0\0\0\5\0model\0\0\0\0\5\0model\1\0\0\0m", KVC_INVALID),        /* twice, first empty */
		IMAGE("\1\0\0\0\5\0model\1\0\0\0\0", KVC_INVALID),                        /* NUL */
		IMAGE("\1\0\0\0\5\0model\2\0\0\0m\x1b", KVC_INVALID),                     /* escape */
		IMAGE("\1\0\0\0\5\0model\2\0\0\0m\x7f", KVC_INVALID),                     /* delete */
		IMAGE("\1\0\0\0\5\0model\1\0\0\0\x80", KVC_INVALID),                      /* no UTF-8 */
		IMAGE("\1\0\0\0\5\0model\1\0\0\0\xc3", KVC_INVALID),                      /* cut UTF-8 */
		IMAGE("\1\0\0\0\5\0model\2\0\0\0\xc3m", KVC_INVALID),
		IMAGE("\1\0\0\0\5\0model\2\0\0\0\xc0\x80", KVC_INVALID),                  /* NUL in two bytes */
		IMAGE("\1\0\0\0\5\0model\3\0\0\0\xe0\x80\xaf", KVC_INVALID),
		IMAGE("\1\0\0\0\5\0model\3\0\0\0\xed\xa0\x80", KVC_INVALID),              /* surrogate */
		IMAGE("\1\0\0\0\5\0model\4\0\0\0\xf0\x80\x80\x80", KVC_INVALID),
		IMAGE("\1\0\0\0\5\0model\4\0\0\0\xf4\x90\x80\x80", KVC_INVALID),          /* above the last */
		IMAGE("\1\0\0\0\5\0model\4\0\0\0\xf8\x88\x80\x80", KVC_INVALID),
		IMAGE("\1\0\0\0\5\0model\1\x10\0\0m", KVC_TOO_BIG),                       /* 4,097 */
		IMAGE("\1\0\0\0\5\0model\xff\xff\xff\xffm", KVC_TOO_BIG),
		IMAGE("\1\0\0\0\xff\xffmodel\1\0\0\0m", KVC_INVALID),
		IMAGE("\xff\xff\xff\xff", KVC_INVALID), IMAGE("\14\0\0\0", KVC_INVALID),  /* more fields than there are */
		IMAGE("\0\0\0\0x", KVC_INVALID), IMAGE("", KVC_INVALID),
	};

	(void)context;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		check_refused(cases[i].bytes, cases[i].length, cases[i].status);
}

static void test_space_parse__no_fields__all_empty(void **context)
{
	struct kvci_space space;

	(void)context;
	assert_int_equal(kvci_space_parse("\0\0\0\0", 4, &space), KVC_OK);
	for (size_t i = 0; i < FIELDS; i++)
		assert_string_equal(*slot(&space, i), "");
	kvci_space_fini(&space);
	kvci_space_fini(NULL);
}

static void test_space_serialize__what_parse_would_refuse__refused(void **context)
{
	static char big[KVCI_SPACE_FIELD_BYTES_MAX + 2];
	struct kvci_space space = {.model = big};
	uint8_t print[KVCI_SPACE_BYTES];
	struct kvci_space back;
	void *bytes = NULL;
	size_t length;

	(void)context;
	memset(big, 'm', sizeof(big) - 1);
	assert_int_equal(kvci_space_serialize(&space, &bytes, &length), KVC_TOO_BIG);
	assert_int_equal(kvci_space_fingerprint(&space, print), KVC_TOO_BIG);
	big[KVCI_SPACE_FIELD_BYTES_MAX] = '\0';
	assert_int_equal(kvci_space_serialize(&space, &bytes, &length), KVC_OK);
	assert_int_equal(kvci_space_parse(bytes, length, &back), KVC_OK);
	assert_string_equal(back.model, big);
	kvci_space_fini(&back);
	kvci_free(bytes);
	space.model = "\xff";
	assert_int_equal(kvci_space_fingerprint(&space, print), KVC_INVALID);
}

struct image {
	void *bytes;
	size_t length;
};

static kvc_status_t sweep_parse(void *context)
{
	struct image *image = context;
	struct kvci_space space = {0};
	kvc_status_t status = kvci_space_parse(image->bytes, image->length, &space);

	kvci_space_fini(&space);
	return status;
}

static kvc_status_t sweep_copy(void *context)
{
	struct kvci_space space = full_space(), copy = {0};
	kvc_status_t status = kvci_space_copy(&space, &copy);

	kvci_space_fini(&copy);
	return status;
}

static kvc_status_t sweep_images(void *context)
{
	struct kvci_space space = full_space();
	uint8_t print[KVCI_SPACE_BYTES];
	struct image image = {NULL, 0};
	kvc_status_t status = kvci_space_serialize(&space, &image.bytes, &image.length);

	kvci_free(image.bytes);
	return status == KVC_OK ? kvci_space_fingerprint(&space, print) : status;
}

static void test_space__each_allocation_fails__no_memory(void **context)
{
	struct kvci_space space = full_space();
	struct image image;

	(void)context;
	assert_int_equal(kvci_space_serialize(&space, &image.bytes, &image.length), KVC_OK);
	assert_true(sweep_run("parse", sweep_parse, &image).allocations >= FIELDS);
	assert_true(sweep_run("copy", sweep_copy, NULL).allocations >= FIELDS);
	assert_true(sweep_run("images", sweep_images, NULL).allocations >= 2);
	kvci_free(image.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_space_image__parsed_again__same_fields),
		cmocka_unit_test(test_space_fingerprint__each_field_but_the_name__counts),
		cmocka_unit_test(test_space_fingerprint__text_moved_to_the_next_field__other),
		cmocka_unit_test(test_space_fingerprint__of_a_simple_space__sha256_of_its_image),
		cmocka_unit_test(test_space_parse__cut_anywhere__refused),
		cmocka_unit_test(test_space_parse__malformed__refused),
		cmocka_unit_test(test_space_parse__no_fields__all_empty),
		cmocka_unit_test(test_space_serialize__what_parse_would_refuse__refused),
		cmocka_unit_test(test_space__each_allocation_fails__no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
