/* The vessel of failed checks, against a count that keeps every failure's time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "supervisor/integrity.h"

#define SECOND UINT64_C(1000000000)

static void a_limit_at_once_is_an_alarm(void **state)
{
	(void)state;
	for (uint32_t limit = 1; limit < 3000; limit += 7) {
		struct integrity i = { 0 };

		if (limit > 1)
			assert_false(integrity_count(&i, limit, 60 * SECOND, SECOND, limit - 1));
		assert_true(integrity_count(&i, limit, 60 * SECOND, SECOND, 1));
	}
}

static void off_is_off_and_nothing_overflows(void **state)
{
	struct integrity i = { 0 };

	(void)state;
	assert_false(integrity_count(&i, 0, SECOND, SECOND, UINT64_MAX));
	for (int k = 0; k < 100; k++)
		assert_true(integrity_count(&i, 1000000, 86400 * SECOND, SECOND, UINT64_MAX));
	assert_false(integrity_count(&i, 1000000, 86400 * SECOND, 86401 * SECOND, 1)); /* a day later it is empty */
	assert_false(integrity_count(&i, 10, SECOND, SECOND, 0)); /* a clock that went back empties nothing */
}

/* Failures at random times: fewer than the limit in every window is no alarm, and twice the limit in one is. */
static void every_window_counts(void **state)
{
	enum { EVENTS = 400, LIMIT = 20 };
	static uint64_t at[EVENTS];
	unsigned seed = 7, alarms = 0, quiet = 0;

	(void)state;
	for (int round = 0; round < 400; round++) {
		struct integrity i = { 0 };
		uint64_t now = SECOND;
		unsigned most = 0;
		int alarm = 0;

		for (int k = 0; k < EVENTS; k++) {
			now += (uint64_t)rand_r(&seed) % (SECOND / 2 + (uint64_t)round * SECOND / 50);
			at[k] = now;
			alarm |= integrity_count(&i, LIMIT, 10 * SECOND, now, 1);
		}
		for (int k = 0, first = 0; k < EVENTS; k++) {
			while (at[k] - at[first] > 10 * SECOND)
				first++;
			most = (unsigned)(k - first + 1) > most ? (unsigned)(k - first + 1) : most;
		}
		if (most < LIMIT)
			assert_false(alarm);
		if (most >= 2 * LIMIT)
			assert_true(alarm);
		alarms += alarm != 0;
		quiet += alarm == 0;
	}
	assert_true(alarms > 20 && quiet > 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_limit_at_once_is_an_alarm),
		cmocka_unit_test(off_is_off_and_nothing_overflows),
		cmocka_unit_test(every_window_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
