/* entropy over the kernel's own generator, from several threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hal/entropy.h"

enum { THREADS = 4, DRAWS = 2000, SIZE = 32 };

static uint8_t drawn[THREADS * DRAWS][SIZE];

static void *draw(void *arg)
{
	size_t first = *(size_t *)arg;

	for (size_t i = first; i < first + DRAWS; i++)
		if (entropy_fill(drawn[i], SIZE) != 0)
			return arg;
	return NULL;
}

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, SIZE);
}

static void threads_draw_different_keys(void **state)
{
	pthread_t threads[THREADS];
	size_t first[THREADS];
	void *failed;

	(void)state;
	for (size_t t = 0; t < THREADS; t++) {
		first[t] = t * DRAWS;
		assert_int_equal(pthread_create(&threads[t], NULL, draw, &first[t]), 0);
	}
	for (size_t t = 0; t < THREADS; t++) {
		assert_int_equal(pthread_join(threads[t], &failed), 0);
		assert_null(failed);
	}
	qsort(drawn, THREADS * DRAWS, SIZE, compare);
	for (size_t i = 1; i < THREADS * DRAWS; i++)
		assert_memory_not_equal(drawn[i], drawn[i - 1], SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(threads_draw_different_keys) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
