/* The codec: what must not pass, what must come back as it went, and that nothing makes it read past its input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "mgmt/body.h"

enum { ITEMS = 64 };

struct sample {
	const char *hex;
	const char *fault; /* NULL: good */
};

static size_t unhex(uint8_t *out, const char *hex)
{
	size_t n = 0;

	while (sscanf(hex + 2 * n, "%2hhx", &out[n]) == 1)
		n++;
	return n;
}

/* A copy of exactly that size on the heap, so that a sanitizer sees one byte too far. */
static int decode_exact(struct body *b, struct body_item *items, const uint8_t *in, size_t size, uint8_t **copy)
{
	*copy = malloc(size == 0 ? 1 : size);
	assert_non_null(*copy);
	memcpy(*copy, in, size);
	*b = (struct body){ .items = items, .room = ITEMS };
	return body_decode(b, size == 0 ? *copy + 1 : *copy, size);
}

/* clang-format off */
static const struct sample samples[] = {
	{ "",                     "the body ends too early" },
	{ "a0",                   NULL },
	{ "80",                   NULL },
	{ "17",                   NULL },
	{ "1818",                 NULL },
	{ "1817",                 "a number or length that is not in its shortest form" },
	{ "1900ff",               "a number or length that is not in its shortest form" },
	{ "190100",               NULL },
	{ "1a0000ffff",           "a number or length that is not in its shortest form" },
	{ "1a00010000",           NULL },
	{ "1b00000000ffffffff",   "a number or length that is not in its shortest form" },
	{ "1b0000000100000000",   NULL },
	{ "1bffffffffffffffff",   NULL },
	{ "3bffffffffffffffff",   NULL },
	{ "3800",                 "a number or length that is not in its shortest form" },
	{ "7801" "61",            "a number or length that is not in its shortest form" },
	{ "9801" "00",            "a number or length that is not in its shortest form" },
	{ "b801" "6161" "00",     "a number or length that is not in its shortest form" },
	{ "1c",                   "a reserved initial byte" },
	{ "9f00ff",               "an indefinite length" },
	{ "bfff",                 "an indefinite length" },
	{ "7fff",                 "an indefinite length" },
	{ "5fff",                 "an indefinite length" },
	{ "ff",                   "an indefinite length" },
	{ "a1616100",             NULL },
	{ "a2616100616101",       "the same map key twice" },
	{ "a2616100616201",       NULL },
	{ "a2616180616101",       "the same map key twice" },
	{ "a10000",               "a map key that is not a text" },
	{ "a1410000",             "a map key that is not a text" },
	{ "a1800000",             "a map key that is not a text" },
	{ "bbffffffffffffffff",   "a map longer than the body" },
	{ "9bffffffffffffffff",   "an array longer than the body" },
	{ "7bffffffffffffffff",   "a string longer than the body" },
	{ "5b7fffffffffffffff",   "a string longer than the body" },
	{ "c000",                 "a tag" },
	{ "f90000",               "a float, undefined or an unknown simple value" },
	{ "fa00000000",           "a float, undefined or an unknown simple value" },
	{ "f7",                   "a float, undefined or an unknown simple value" },
	{ "e0",                   "a float, undefined or an unknown simple value" },
	{ "f820",                 "a float, undefined or an unknown simple value" },
	{ "f814",                 "a float, undefined or an unknown simple value" },
	{ "f4",                   NULL },
	{ "f5",                   NULL },
	{ "f6",                   NULL },
	{ "0000",                 "something behind the body" },
	{ "a1",                   "a map longer than the body" },
	{ "a16161",               "the body ends too early" },
	{ "818181818100",         NULL },
	{ "81818181818100",       "too deep" },
	{ "62c3bc",               NULL },          /* u umlaut */
	{ "62c328",               "a text that is not UTF-8" },
	{ "61ff",                 "a text that is not UTF-8" },
	{ "62c0af",               "a text that is not UTF-8" }, /* overlong '/' */
	{ "63e080af",             "a text that is not UTF-8" },
	{ "63eda080",             "a text that is not UTF-8" }, /* a surrogate */
	{ "64f4908080",           "a text that is not UTF-8" }, /* above U+10FFFF */
	{ "64f0908080",           NULL },
	{ "64f0808080",           "a text that is not UTF-8" },
	{ "61c3",                 "a text that is not UTF-8" }, /* ends inside */
	{ "41ff",                 NULL },
};
/* clang-format on */

static void what_is_not_strict_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
		struct body_item items[ITEMS];
		uint8_t bytes[64], *copy;
		struct body b;
		size_t size = unhex(bytes, samples[i].hex);
		int r = decode_exact(&b, items, bytes, size, &copy);

		if (samples[i].fault == NULL) {
			if (r != 0)
				print_error("%s: %s\n", samples[i].hex, b.fault);
			assert_int_equal(r, 0);
		} else {
			assert_int_equal(r, ERR_PROTOCOL);
			assert_int_equal(b.count, 0);
			if (strcmp(b.fault, samples[i].fault) != 0)
				print_error("%s\n", samples[i].hex);
			assert_string_equal(b.fault, samples[i].fault);
		}
		free(copy);
	}
}

static void more_items_than_room_is_refused(void **state)
{
	struct body_item items[3];
	struct body b = { .items = items, .room = 3 };
	const uint8_t four[] = { 0x83, 1, 2, 3 };
	const uint8_t three[] = { 0x82, 1, 2 };

	(void)state;
	assert_int_equal(body_decode(&b, four, sizeof four), ERR_PROTOCOL);
	assert_string_equal(b.fault, "more items than this body may have");
	assert_int_equal(body_decode(&b, three, sizeof three), 0);
}

/* Whatever is accepted encodes to the same bytes; whatever is not leaves no items. Bytes are drawn so that heads are likely. */
static void random_bytes_do_no_harm(void **state)
{
	static const uint8_t likely[] = { 0xa0, 0xa1, 0xa2, 0x80, 0x81, 0x82, 0x61, 0x62, 0x41, 0x00, 0x17, 0x18, 0x19,
					  0x1b, 0x20, 0xf4, 0xf5, 0xf6, 'a',  'b',  0xc3, 0xbc, 0xff, 0x9f, 0x7b, 0xbb };
	unsigned accepted = 0;

	(void)state;
	srand(7);
	for (int round = 0; round < 200000; round++) {
		struct body_item items[ITEMS];
		uint8_t bytes[24], again[32], *copy;
		size_t size = (size_t)rand() % (sizeof bytes + 1);
		struct body b;

		for (size_t i = 0; i < size; i++)
			bytes[i] = rand() % 4 == 0 ? (uint8_t)rand() : likely[(size_t)rand() % sizeof likely];
		if (decode_exact(&b, items, bytes, size, &copy) == 0) {
			struct body_out o;

			accepted++;
			body_begin(&o, again, sizeof again);
			body_put_item(&o, &b, items);
			assert_int_equal(body_finish(&o), size);
			assert_memory_equal(again, bytes, size);
		} else {
			assert_int_equal(b.count, 0);
			assert_non_null(b.fault);
		}
		free(copy);
	}
	assert_true(accepted > 1000);
}

static void values_are_found_by_key(void **state)
{
	struct body_item items[ITEMS];
	struct body b = { .items = items, .room = ITEMS };
	uint8_t bytes[64];
	/* {"list": [{"name": "v"}, 7], "force": true, "n": 300} */
	size_t size = unhex(bytes, "a3646c69737482a1646e616d6561760765666f726365f5616e19012c");
	const struct body_item *list, *second;
	uint64_t n = 0;
	bool force = false;
	char text[8];

	(void)state;
	assert_int_equal(body_decode(&b, bytes, size), 0);
	assert_true(body_bool(body_find(&b, items, "force"), &force));
	assert_true(force);
	assert_true(body_uint(body_find(&b, items, "n"), &n));
	assert_int_equal(n, 300);
	list = body_find(&b, items, "list");
	assert_non_null(list);
	assert_true(body_text(body_find(&b, body_first(list), "name"), text, sizeof text));
	assert_string_equal(text, "v");
	second = body_behind(&b, body_first(list));
	assert_true(body_uint(second, &n));
	assert_int_equal(n, 7);
	assert_null(body_find(&b, items, "name"));
	assert_null(body_find(&b, list, "name"));
	assert_null(body_find(&b, NULL, "name"));
}

static void a_text_is_copied_whole_or_not_at_all(void **state)
{
	struct body_item items[ITEMS];
	struct body b = { .items = items, .room = ITEMS };
	const uint8_t abc[] = { 0x63, 'a', 'b', 'c' };
	const uint8_t with_nul[] = { 0x63, 'a', 0, 'c' };
	char four[4], three[3];

	(void)state;
	assert_int_equal(body_decode(&b, abc, sizeof abc), 0);
	assert_true(body_text(items, four, sizeof four));
	assert_string_equal(four, "abc");
	assert_false(body_text(items, three, sizeof three));
	assert_int_equal(body_decode(&b, with_nul, sizeof with_nul), 0);
	assert_false(body_text(items, four, sizeof four));
}

static void a_full_buffer_is_said(void **state)
{
	uint8_t buffer[64];

	(void)state;
	for (size_t size = 0; size < 14; size++) {
		struct body_out o;

		memset(buffer, 0xee, sizeof buffer);
		body_begin(&o, buffer, size);
		body_map_open(&o);
		body_pair_text(&o, "name", "v");
		body_pair_uint(&o, "seq", 7);
		body_map_close(&o);
		assert_int_equal(body_finish(&o), size < 13 ? ERR_NOSPACE : 13);
		for (size_t i = size; i < sizeof buffer; i++)
			assert_int_equal(buffer[i], 0xee);
	}
}

static void what_does_not_close_is_said(void **state)
{
	uint8_t buffer[256];
	struct body_out o;

	(void)state;
	body_begin(&o, buffer, sizeof buffer);
	body_map_open(&o);
	assert_int_equal(body_finish(&o), ERR_NOSPACE);
	body_begin(&o, buffer, sizeof buffer);
	body_map_open(&o);
	for (int i = 0; i < 24; i++) {
		char key[3] = { 'k', (char)('a' + i), '\0' };

		body_pair_uint(&o, key, 0);
	}
	body_map_close(&o);
	assert_int_equal(body_finish(&o), ERR_NOSPACE);
	body_begin(&o, buffer, sizeof buffer);
	body_key(&o, "no map");
	assert_int_equal(body_finish(&o), ERR_NOSPACE);
}

static void bad_utf8_goes_out_as_question_marks(void **state)
{
	struct body_item items[ITEMS];
	struct body b = { .items = items, .room = ITEMS };
	uint8_t buffer[32];
	struct body_out o;
	char text[16];

	(void)state;
	body_begin(&o, buffer, sizeof buffer);
	body_put_text(&o, "a\xff\xc3\xbc\xc3");
	assert_int_equal(body_decode(&b, buffer, (size_t)body_finish(&o)), 0);
	assert_true(body_text(items, text, sizeof text));
	assert_string_equal(text, "a?\xc3\xbc?");
}

static void negative_numbers_come_back(void **state)
{
	static const int64_t numbers[] = { 0, -1, -24, -25, -256, -257, INT64_MIN, INT64_MAX };

	(void)state;
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		struct body_item items[ITEMS];
		struct body b = { .items = items, .room = ITEMS };
		uint8_t buffer[16];
		struct body_out o;

		body_begin(&o, buffer, sizeof buffer);
		body_put_int(&o, numbers[i]);
		assert_int_equal(body_decode(&b, buffer, (size_t)body_finish(&o)), 0);
		assert_int_equal(items[0].type, numbers[i] < 0 ? BODY_NEGATIVE : BODY_UINT);
		assert_true((numbers[i] < 0 ? -1 - (int64_t)items[0].number : (int64_t)items[0].number) == numbers[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_strict_is_refused),
		cmocka_unit_test(more_items_than_room_is_refused),
		cmocka_unit_test(random_bytes_do_no_harm),
		cmocka_unit_test(values_are_found_by_key),
		cmocka_unit_test(a_text_is_copied_whole_or_not_at_all),
		cmocka_unit_test(a_full_buffer_is_said),
		cmocka_unit_test(what_does_not_close_is_said),
		cmocka_unit_test(bad_utf8_goes_out_as_question_marks),
		cmocka_unit_test(negative_numbers_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
