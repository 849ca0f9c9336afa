/* What is believed of a wall clock that is set by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "supervisor/wallclock.h"

#define MINUTE (60 * SEC_NS)
#define YEAR   (365 * 24 * 60 * MINUTE)

static const uint64_t then = 50 * YEAR;

static void steady_and_jumps(void **state)
{
	struct wallclock w = { .last_seen_ns = then, .offset_ns = (int64_t)(then - SEC_NS) };

	(void)state;
	assert_int_equal(wallclock_judge(&w, then, SEC_NS), WALL_STEADY);
	assert_int_equal(wallclock_judge(&w, then + MINUTE, SEC_NS + MINUTE), WALL_STEADY);
	assert_int_equal(wallclock_judge(&w, then + MINUTE + 4 * SEC_NS, SEC_NS + MINUTE), WALL_STEADY); /* it drifts */
	assert_int_equal(wallclock_judge(&w, then + YEAR, SEC_NS + MINUTE), WALL_JUMPED);
	assert_int_equal(w.last_seen_ns, then + YEAR);
	assert_int_equal(wallclock_judge(&w, then + YEAR, SEC_NS + MINUTE), WALL_STEADY);
	assert_int_equal(wallclock_judge(&w, then + YEAR - 4 * MINUTE, SEC_NS + MINUTE), WALL_JUMPED);
	assert_int_equal(w.last_seen_ns, then + YEAR); /* what was seen once is not unseen */
}

static void set_back(void **state)
{
	struct wallclock w = { .last_seen_ns = then, .offset_ns = (int64_t)then };

	(void)state;
	assert_int_equal(wallclock_judge(&w, then - YEAR, 0), WALL_UNTRUSTED);
	assert_int_equal(wallclock_judge(&w, then - 6 * MINUTE, 0), WALL_UNTRUSTED);
	/* by steps that each would do: the last time that was believed counts */
	for (int i = 1; i <= 5; i++)
		assert_int_not_equal(wallclock_judge(&w, then - (uint64_t)i * MINUTE, 0), WALL_UNTRUSTED);
	assert_int_equal(wallclock_judge(&w, then - 5 * MINUTE - 1, 0), WALL_UNTRUSTED);
	assert_int_not_equal(wallclock_judge(&w, then, 0), WALL_UNTRUSTED);
	assert_int_equal(wallclock_judge(&w, 0, 0), WALL_UNTRUSTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(steady_and_jumps), cmocka_unit_test(set_back) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
