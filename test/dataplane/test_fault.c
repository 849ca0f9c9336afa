/* Threads that fail an assertion, alone and at the same moment; each case in a child, for what aborts stands still for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <assert.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dataplane/control.h"
#include "dataplane/fault.h"

enum { THREADS = 16, ROUNDS = 20, PATIENCE_S = 60 };

static atomic_uint stuck, orderly, disorderly, left_lying;
static pthread_barrier_t begin;

/* ---- what the handler tells ---- */

static bool words_lie_there(void)
{
	void *_Atomic *words = dlsym(RTLD_DEFAULT, "__abort_msg");

	return words != NULL && atomic_load(words) != NULL;
}

/* Called after the words were read, and before anything else. */
unsigned control_client_stuck(struct control *c)
{
	(void)c;
	atomic_fetch_add(&left_lying, words_lie_there());
	return atomic_fetch_add(&stuck, 1) + 1;
}

void control_fault(struct control *c, bool in_order)
{
	(void)c;
	atomic_fetch_add(in_order ? &orderly : &disorderly, 1);
}

/* ---- what fails ---- */

/* As assert does it; its words name the function as the compiler of the block server writes it. */
static void fail_in(const char *function)
{
	__assert_fail("sock >= 0", __FILE__, __LINE__, function);
}

static void *lose_a_client(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&begin);
	fail_in("raw_send_socket");
	return NULL;
}

static void *fail_otherwise(void *unused)
{
	(void)unused;
	fail_in("some_other");
	return NULL;
}

static void *abort_without_words(void *unused)
{
	(void)unused;
	abort();
}

/* ---- cases ---- */

static void in_child(int (*run)(void))
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
		alarm(PATIENCE_S);
		fault_watch(NULL);
		_exit(run());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void start(void *(*run)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, NULL) != 0)
		_exit(90);
}

static void await(atomic_uint *what, unsigned n)
{
	while (atomic_load(what) < n)
		usleep(100);
}

/* The next assertion that fails unmaps the words that lie there. */
static int takes_its_words(void)
{
	pthread_barrier_init(&begin, NULL, 1);
	start(lose_a_client);
	await(&stuck, 1);
	return atomic_load(&left_lying) == 0 && atomic_load(&orderly) + atomic_load(&disorderly) == 0 ? 0 : 1;
}

static int all_at_once(void)
{
	pthread_barrier_init(&begin, NULL, THREADS);
	for (unsigned i = 0; i < THREADS; i++)
		start(lose_a_client);
	await(&stuck, THREADS);
	await(&orderly, THREADS - FAULT_PARKED_MAX);
	return atomic_load(&orderly) == THREADS - FAULT_PARKED_MAX && atomic_load(&disorderly) == 0 ? 0 : 1;
}

static int any_other(void)
{
	start(fail_otherwise);
	await(&orderly, 1);
	return atomic_load(&stuck) == 0 && atomic_load(&disorderly) == 0 ? 0 : 1;
}

static int no_words(void)
{
	start(abort_without_words);
	await(&disorderly, 1);
	return atomic_load(&stuck) == 0 && atomic_load(&orderly) == 0 ? 0 : 1;
}

static void who_fails_takes_his_words_away(void **state)
{
	(void)state;
	in_child(takes_its_words);
}

static void many_that_fail_at_once_read_no_others_page(void **state)
{
	(void)state;
	for (int i = 0; i < ROUNDS; i++)
		in_child(all_at_once);
}

static void any_other_failure_is_a_fault(void **state)
{
	(void)state;
	in_child(any_other);
	in_child(no_words);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_fails_takes_his_words_away),
		cmocka_unit_test(many_that_fail_at_once_read_no_others_page),
		cmocka_unit_test(any_other_failure_is_a_fault),
	};

	if (dlsym(RTLD_DEFAULT, "__abort_msg") == NULL) {
		print_message("this libc keeps no last words: skipped\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
