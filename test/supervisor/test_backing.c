/* Openings of a backing store that are given up: before their thread begins, while it makes the file, after it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/agent.h"
#include "supervisor/backing.h"

enum { FDS_LOOKED_AT = 256 };

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context);
int __wrap_fstat(int fd, struct stat *st);
int __real_fstat(int fd, struct stat *st);

static struct agent agent;
static struct volume_config config;
static char dir[64];

static bool later; /* the thread's body runs when the test says */
static void *(*body)(void *);
static void *its;
static struct opening *give_up; /* when its file is there */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context)
{
	if (!later)
		return __real_pthread_create(thread, attributes, run, context);
	body = run;
	its = context;
	return 0;
}

int __wrap_fstat(int fd, struct stat *st)
{
	struct opening *o = give_up;

	give_up = NULL;
	if (o != NULL)
		opening_abandon(o);
	return __real_fstat(fd, st);
}

static struct {
	unsigned calls;
	int fd;
	bool created;
} got;

static void done(void *context, int fd, bool created, const char *text)
{
	(void)context;
	(void)text;
	got.calls++;
	got.fd = fd;
	got.created = created;
}

static unsigned descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < FDS_LOOKED_AT; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static bool file_there(void)
{
	struct stat st;

	return stat(config.backing, &st) == 0 && st.st_size == 0;
}

static int begin(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/fallgate-backing-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(config.name, sizeof config.name, "demo");
	snprintf(config.backing, sizeof config.backing, "%s/store", dir);
	config.size = 1 << 20;
	memset(&got, 0, sizeof got);
	later = true;
	return loop_init(&agent.loop);
}

static int end(void **state)
{
	(void)state;
	loop_close(&agent.loop);
	unlink(config.backing);
	return rmdir(dir);
}

static struct opening *start(void)
{
	struct opening *o = NULL;

	assert_int_equal(opening_start(&o, &agent, &config, OPENING_CREATE, done, NULL), 0);
	return o;
}

static void given_up_before_it_begins_it_makes_nothing(void **state)
{
	unsigned before = descriptors();

	(void)state;
	opening_abandon(start());
	body(its);
	assert_false(file_there());
	assert_int_equal(descriptors(), before);
	assert_int_equal(got.calls, 0);
}

/* By now another opening may have found the file. */
static void given_up_while_it_makes_the_file_it_leaves_it(void **state)
{
	unsigned before = descriptors();

	(void)state;
	give_up = start();
	body(its);
	assert_true(file_there());
	assert_int_equal(descriptors(), before);
	assert_int_equal(got.calls, 0);
}

static void given_up_afterwards_it_takes_the_file_along(void **state)
{
	unsigned before = descriptors();
	struct opening *o = start();

	(void)state;
	body(its);
	assert_true(file_there());
	opening_abandon(o);
	assert_false(file_there());
	assert_int_equal(descriptors(), before);
	assert_int_equal(got.calls, 0);
}

static void a_file_is_made_once(void **state)
{
	unsigned before = descriptors();

	(void)state;
	later = false;
	for (unsigned n = 1; n <= 2; n++) {
		start();
		while (got.calls < n)
			loop_once(&agent.loop);
		assert_true(got.fd >= 0);
		assert_int_equal(got.created, n == 1);
		close(got.fd);
	}
	assert_true(file_there());
	assert_int_equal(descriptors(), before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(given_up_before_it_begins_it_makes_nothing),
		TEST(given_up_while_it_makes_the_file_it_leaves_it),
		TEST(given_up_afterwards_it_takes_the_file_along),
		TEST(a_file_is_made_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
