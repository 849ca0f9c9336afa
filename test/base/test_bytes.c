/* bytes.h: sums that do not fit say so, byte orders are what they are called, comparisons see every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"

static void sums_and_products_that_do_not_fit_are_refused(void **state)
{
	uint64_t r;

	(void)state;
	assert_true(add_u64(&r, UINT64_MAX - 1, 1));
	assert_true(r == UINT64_MAX);
	assert_false(add_u64(&r, UINT64_MAX, 1));
	assert_false(add_u64(&r, UINT64_MAX, UINT64_MAX));
	assert_true(mul_u64(&r, UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1));
	assert_true(r == (UINT64_MAX << 32));
	assert_false(mul_u64(&r, UINT64_C(1) << 32, UINT64_C(1) << 32));
	assert_true(mul_u64(&r, UINT64_MAX, 0));
	assert_true(r == 0);
}

static void byte_orders_are_as_named_at_any_alignment(void **state)
{
	static const uint8_t up[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	uint8_t at[16];

	(void)state;
	for (size_t i = 0; i < 8; i++) {
		memcpy(at + i, up, 8);
		assert_int_equal(get_le16(at + i), 0x0201);
		assert_int_equal(get_le32(at + i), 0x04030201);
		assert_true(get_le64(at + i) == UINT64_C(0x0807060504030201));
		assert_int_equal(get_be32(at + i), 0x01020304);
		put_le16(at + i, 0x0201);
		assert_memory_equal(at + i, up, 2);
		put_le32(at + i, 0x04030201);
		assert_memory_equal(at + i, up, 4);
		put_le64(at + i, UINT64_C(0x0807060504030201));
		assert_memory_equal(at + i, up, 8);
		put_be32(at + i, 0x01020304);
		assert_memory_equal(at + i, up, 4);
		put_be64(at + i, UINT64_C(0x0102030405060708));
		assert_memory_equal(at + i, up, 8);
	}
}

static void every_bit_of_difference_is_seen(void **state)
{
	uint8_t a[33] = { 0 }, b[33] = { 0 };

	(void)state;
	assert_int_equal(compare_secret(a, b, sizeof a), 0);
	assert_int_equal(compare_secret(a, b, 0), 0);
	for (unsigned bit = 0; bit < 8 * sizeof a; bit++) {
		b[bit / 8] = (uint8_t)(1u << bit % 8);
		assert_int_not_equal(compare_secret(a, b, sizeof a), 0);
		b[bit / 8] = 0;
	}
	a[0] = b[1] = 0x80; /* differences that would cancel in a sum or an XOR of all */
	assert_int_not_equal(compare_secret(a, b, sizeof a), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_and_products_that_do_not_fit_are_refused),
		cmocka_unit_test(byte_orders_are_as_named_at_any_alignment),
		cmocka_unit_test(every_bit_of_difference_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
