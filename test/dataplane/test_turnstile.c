/* The turnstile: who is inside is known until he leaves, who waits is let in or turned away, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane/keyslot.h"
#include "dataplane/turnstile.h"

static char place; /* any address stands for a volume here: nobody looks into it */
static struct volume *const volume = (struct volume *)(void *)&place;
static struct turnstile t;

static int begin(void **state)
{
	(void)state;
	turnstile_init(&t, eventfd(0, EFD_NONBLOCK));
	atomic_store(&t.holds, true);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	return close(t.wake_fd);
}

static void who_is_inside_is_known_until_he_leaves(void **state)
{
	uint64_t raised;

	(void)state;
	assert_null(turnstile_try(&t));
	turnstile_open(&t, volume);
	assert_ptr_equal(turnstile_try(&t), volume);
	assert_ptr_equal(turnstile_try(&t), volume);
	turnstile_shut(&t, boot_now_ns() + 1000000000u);
	assert_null(turnstile_try(&t));
	assert_false(turnstile_empty(&t));
	turnstile_leave(&t);
	assert_false(turnstile_empty(&t));
	while (read(t.wake_fd, &raised, sizeof raised) > 0)
		;
	turnstile_leave(&t);
	assert_true(turnstile_empty(&t));
	assert_int_equal(read(t.wake_fd, &raised, sizeof raised), sizeof raised); /* the last one out says so */
}

static void *wait_inside(void *result)
{
	*(int *)result = turnstile_wait(&t, NULL);
	return NULL;
}

static void who_waits_is_let_in_or_turned_away(void **state)
{
	pthread_t waiter;
	int again = -1;

	(void)state;
	turnstile_shut(&t, boot_now_ns() + 30000000);
	assert_false(turnstile_wait(&t, NULL)); /* its time is over by itself */
	turnstile_shut(&t, boot_now_ns() + UINT64_C(60000000000));
	pthread_create(&waiter, NULL, wait_inside, &again);
	usleep(20000);
	turnstile_open(&t, volume);
	pthread_join(waiter, NULL);
	assert_int_equal(again, 1);
	turnstile_shut(&t, boot_now_ns() + UINT64_C(60000000000));
	pthread_create(&waiter, NULL, wait_inside, &again);
	usleep(20000);
	turnstile_give_up(&t);
	pthread_join(waiter, NULL);
	assert_int_equal(again, 0);
	atomic_store(&t.holds, false);
	turnstile_shut(&t, boot_now_ns() + UINT64_C(60000000000));
	assert_false(turnstile_wait(&t, NULL)); /* on_lock = fail */
}

enum { FALLS = 20000, OVER = FALLS + 1 };
#define ENOUGH_NS UINT64_C(1000000000) /* a machine with other things to do gets as far as it gets */

static atomic_uint begun, ended, turned_away;

/* A request that was refused a key inside: a deadline passed, and whoever shuts is on his way. */
static void *be_refused(void *unused)
{
	unsigned n = 0;

	for (;;) {
		while (atomic_load(&begun) == n)
			sched_yield();
		n = atomic_load(&begun);
		if (n == OVER)
			return unused;
		if (!turnstile_wait(&t, NULL))
			atomic_fetch_add(&turned_away, 1);
		atomic_store(&ended, n);
	}
}

/* The time until which requests waited after the fall before is over, and is not this one's. */
static void a_fall_at_that_moment_turns_nobody_away(void **state)
{
	uint64_t enough = boot_now_ns() + ENOUGH_NS;
	pthread_t waiter;

	(void)state;
	pthread_create(&waiter, NULL, be_refused, NULL);
	for (unsigned n = 1; n <= FALLS && boot_now_ns() < enough; n++) {
		turnstile_shut(&t, 1);
		turnstile_open(&t, volume);
		atomic_store(&begun, n);
		for (volatile unsigned spin = n % 1024; spin > 0; spin--)
			;
		turnstile_shut(&t, boot_now_ns() + UINT64_C(60000000000));
		turnstile_open(&t, volume);
		while (atomic_load(&ended) != n)
			sched_yield();
	}
	atomic_store(&begun, OVER);
	pthread_join(waiter, NULL);
	assert_int_equal(atomic_load(&turned_away), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(who_is_inside_is_known_until_he_leaves, begin, finish),
		cmocka_unit_test_setup_teardown(who_waits_is_let_in_or_turned_away, begin, finish),
		cmocka_unit_test_setup_teardown(a_fall_at_that_moment_turns_nobody_away, begin, finish),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
