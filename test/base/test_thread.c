/* Threads: what their signal masks are, and how long one is waited for. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/thread.h"

static void *own_mask(void *context)
{
	pthread_sigmask(SIG_SETMASK, NULL, context);
	return NULL;
}

static void no_signal_is_a_threads_and_the_starter_keeps_its_own(void **state)
{
	sigset_t before, after, inside;
	pthread_t thread;

	(void)state;
	sigemptyset(&before);
	sigaddset(&before, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	assert_int_equal(thread_start(&thread, own_mask, &inside), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int s = 1; s < 32; s++) {
		assert_int_equal(sigismember(&after, s), s == SIGUSR2);
		assert_int_equal(sigismember(&inside, s), s != SIGKILL && s != SIGSTOP);
	}
}

static void *read_to_the_end(void *context)
{
	char byte;

	while (read(*(int *)context, &byte, 1) > 0)
		;
	return NULL;
}

static void one_that_goes_on_is_waited_for_so_long_and_no_longer(void **state)
{
	struct timespec began = thread_deadline(0), ended;
	pthread_t thread;
	int pair[2];

	(void)state;
	assert_int_equal(pipe(pair), 0);
	assert_int_equal(thread_start(&thread, read_to_the_end, &pair[0]), 0);
	assert_false(thread_joined_within(thread, 0));
	assert_false(thread_joined_within(thread, 50));
	ended = thread_deadline(0);
	assert_true((ended.tv_sec - began.tv_sec) * 1000000000 + ended.tv_nsec - began.tv_nsec >= 50000000);
	close(pair[1]);
	assert_true(thread_joined_within(thread, 60000));
	close(pair[0]);
}

static void a_deadline_is_a_time_whatever_is_carried(void **state)
{
	(void)state;
	for (unsigned ms = 0; ms < 3000; ms++) {
		struct timespec from = thread_deadline(0), t = thread_deadline(ms), to = thread_deadline(0);

		assert_in_range(t.tv_nsec, 0, 999999999);
		t.tv_sec -= ms / 1000;
		t.tv_nsec -= (long)(ms % 1000) * 1000000;
		assert_true((t.tv_sec - from.tv_sec) * 1000000000 + t.tv_nsec - from.tv_nsec >= 0);
		assert_true((to.tv_sec - t.tv_sec) * 1000000000 + to.tv_nsec - t.tv_nsec >= 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_signal_is_a_threads_and_the_starter_keeps_its_own),
		cmocka_unit_test(one_that_goes_on_is_waited_for_so_long_and_no_longer),
		cmocka_unit_test(a_deadline_is_a_time_whatever_is_carried),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
