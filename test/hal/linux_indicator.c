/* Indicators: a LED in a folder made to look like sysfs, a console that is a pseudo terminal, and one that nobody reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "indicator_kind.h"

static char dir[64], why[200];

static void put(const char *name, const char *text)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static const char *got(const char *name)
{
	static char text[64];
	char path[160];
	FILE *f;
	size_t n;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = '\0';
	return text;
}

static int begin(void **state)
{
	struct statfs fs;
	char path[160];

	(void)state;
	strcpy(dir, "/tmp/fallgate-leds-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(statfs(dir, &fs), 0);
	indicator_leds = (struct indicator_led_place){ dir, fs.f_type };
	snprintf(path, sizeof path, "%s/green:status", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	put("green:status/max_brightness", "255\n");
	return 0;
}

static int end(void **state)
{
	char command[160];

	(void)state;
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	return system(command);
}

/* sysfs files are whole with each write; those of a folder are not cut by one that writes less. */
static void clear(void)
{
	put("green:status/trigger", "");
	put("green:status/brightness", "");
}

static void after(enum indicator_state state)
{
	struct indicator *i;

	clear();
	assert_int_equal(indicator_open(&i, "led:green:status", why, sizeof why), 0);
	indicator_show(i, state, "ignored");
	indicator_close(i);
}

static void a_led(void **state)
{
	(void)state;
	put("green:status/delay_on", "");
	put("green:status/delay_off", "");
	after(INDICATOR_AVAILABLE);
	assert_string_equal(got("green:status/trigger"), "none");
	assert_string_equal(got("green:status/brightness"), "255\n");
	after(INDICATOR_STOPPED);
	assert_string_equal(got("green:status/brightness"), "0");
	after(INDICATOR_ALARM);
	assert_string_equal(got("green:status/trigger"), "timer");
	assert_string_equal(got("green:status/delay_on"), "100");
	assert_string_equal(got("green:status/delay_off"), "100");
	put("green:status/delay_on", "");
	put("green:status/delay_off", "");
	after(INDICATOR_LOCKED);
	assert_string_equal(got("green:status/delay_off"), "1900");
}

static void a_led_that_cannot_blink(void **state)
{
	(void)state;
	after(INDICATOR_LOCKED);
	assert_string_equal(got("green:status/brightness"), "0");
	after(INDICATOR_OUTAGE);
	assert_string_equal(got("green:status/brightness"), "255\n");
}

static void refused(const char *where, int error)
{
	struct indicator *i;

	assert_int_equal(indicator_open(&i, where, why, sizeof why), error);
	assert_null(i);
}

static void what_is_no_led(void **state)
{
	static const char *const bad[] = {
		"",       "led:",       "led:..",          "led:../x",     "led:/etc",
		"led:.x", "led:a/../b", "led:a b",         "console:tty0", "console:/dev/../etc/passwd",
		"tty:x",  "none",       "console:/tmp/xx", "console:/dev/"
	};
	char path[160], target[160];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_false(indicator_where_good(bad[i]));
		refused(bad[i], ERR_CONFIG);
	}
	refused("led:nosuch", ERR_NOT_FOUND);
	refused("led:green:status", ERR_UNSUPPORTED); /* no brightness yet */
	snprintf(path, sizeof path, "%s/green:status/brightness", dir);
	snprintf(target, sizeof target, "%s/victim", dir);
	put("victim", "untouched");
	assert_int_equal(symlink(target, path), 0);
	refused("led:green:status", ERR_UNSUPPORTED);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused("led:green:status", ERR_UNSUPPORTED);
	unlink(path);
	clear();
	/* a link inside the LED that leads away is not written through either */
	snprintf(path, sizeof path, "%s/green:status/trigger", dir);
	unlink(path);
	assert_int_equal(symlink(target, path), 0);
	{
		struct indicator *i;

		assert_int_equal(indicator_open(&i, "led:green:status", why, sizeof why), 0);
		indicator_show(i, INDICATOR_ALARM, "");
		indicator_close(i);
	}
	assert_string_equal(got("victim"), "untouched");
	/* nor one to another file system */
	snprintf(path, sizeof path, "%s/away", dir);
	assert_int_equal(symlink("/proc/self", path), 0);
	refused("led:away", ERR_UNSUPPORTED);
	clear();
	indicator_leds.magic++;
	refused("led:green:status", ERR_UNSUPPORTED);
}

static int terminal(char *name, size_t size)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;

	assert_true(fd >= 0 && grantpt(fd) == 0 && unlockpt(fd) == 0);
	snprintf(name, size, "console:%s", ptsname(fd));
	assert_int_equal(tcgetattr(fd, &t), 0);
	cfmakeraw(&t);
	assert_int_equal(tcsetattr(fd, TCSANOW, &t), 0);
	return fd;
}

static void a_console(void **state)
{
	char where[80], text[256];
	struct indicator *i;
	int fd = terminal(where, sizeof where);
	ssize_t n;

	(void)state;
	assert_int_equal(indicator_open(&i, where, why, sizeof why), 0);
	indicator_show(i, INDICATOR_LOCKED, "0 of 1 volumes open\033[2J\n");
	indicator_close(i);
	n = read(fd, text, sizeof text - 1);
	assert_true(n > 0);
	text[n] = '\0';
	assert_string_equal(text, "\r\nfallgate: LOCKED: 0 of 1 volumes open?[2J?\r\n");
	close(fd);
	refused("console:/dev/no-such-console", ERR_NOT_FOUND);
	refused("console:/dev/shm", ERR_IO); /* a folder */
}

static void a_file_is_no_console(void **state)
{
	char path[] = "/dev/shm/fallgate-console-XXXXXX", where[80];
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	snprintf(where, sizeof where, "console:%s", path);
	refused(where, ERR_UNSUPPORTED);
	unlink(path);
	close(fd);
}

/* Full when the line comes, read from then on: the line comes whole. */
static void another_writers_moment_is_waited_for(void **state)
{
	char where[80], text[8192 + 1];
	static const char end[] = "fallgate: ALARM: whole\r\n", filling[512];
	struct indicator *i;
	int fd = terminal(where, sizeof where),
	    tty = open(where + strlen("console:"), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	size_t size = 0;

	(void)state;
	assert_true(tty >= 0);
	for (unsigned full = 0; full < 5; usleep(10000)) /* the kernel makes room once more when it has moved what it took */
		full = write(tty, filling, sizeof filling) > 0 ? 0 : full + 1;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(indicator_open(&i, where, why, sizeof why), 0);
	indicator_show(i, INDICATOR_ALARM, "whole");
	usleep(50000);
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n = poll(&p, 1, 5000) == 1 ? read(fd, text + size, 4096) : -1;

		if (n <= 0)
			fail_msg("the line never came");
		size += (size_t)n;
		if (size >= strlen(end) && memcmp(text + size - strlen(end), end, strlen(end)) == 0)
			break;
		if (size > 4096) { /* only its end is of interest */
			memmove(text, text + size - 64, 64);
			size = 64;
		}
	}
	indicator_close(i);
	close(tty);
	close(fd);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void one_that_nobody_reads_is_not_waited_for(void **state)
{
	char where[80];
	struct indicator *i;
	int fd = terminal(where, sizeof where);
	uint64_t began = now_ms();

	(void)state;
	assert_int_equal(indicator_open(&i, where, why, sizeof why), 0);
	for (int k = 0; k < 20000; k++)
		indicator_show(i, k % 2 == 0 ? INDICATOR_ALARM : INDICATOR_LOCKED,
			       "nobody reads this line, which is long enough to fill it");
	indicator_close(i);
	assert_true(now_ms() - began < 5000);
	close(fd);
}

/* A driver that hangs: the one who shows goes on, and so does the end. */
static void hang(int fd, enum indicator_state state, const char *text)
{
	(void)fd;
	(void)state;
	(void)text;
	for (;;)
		pause();
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context);

static const struct indicator_kind *instead;

/* The first field of a struct indicator is its kind: a hook where there is no other. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context)
{
	if (instead != NULL)
		*(const struct indicator_kind **)context = instead;
	return __real_pthread_create(thread, attributes, run, context);
}

static void open_with(struct indicator **i, const char *where, struct indicator_kind *kind,
		      void (*show)(int fd, enum indicator_state state, const char *text))
{
	*kind = indicator_console;
	kind->show = show;
	instead = kind;
	assert_int_equal(indicator_open(i, where, why, sizeof why), 0);
	instead = NULL;
}

static void one_that_hangs_is_left_behind(void **state)
{
	static struct indicator_kind hanging;
	char where[80];
	struct indicator *i;
	int fd = terminal(where, sizeof where);
	uint64_t began = now_ms();

	(void)state;
	open_with(&i, where, &hanging, hang);
	for (int k = 0; k < 1000; k++)
		indicator_show(i, INDICATOR_ALARM, "");
	assert_true(now_ms() - began < 2000); /* not one of the thousand waits */
	indicator_close(i);
	assert_true(now_ms() - began < 5000);
	close(fd);
}

static sem_t entered, released;
static int shown_on;

static void hang_for_a_while(int fd, enum indicator_state state, const char *text)
{
	(void)state;
	(void)text;
	shown_on = fd;
	sem_post(&entered);
	sem_wait(&released);
}

/* Left behind in its driver, back when its owner is gone: it takes nothing along and leaves nothing. */
static void one_that_comes_back_cleans_up(void **state)
{
	static struct indicator_kind slow;
	char where[80];
	struct indicator *i;
	int fd = terminal(where, sizeof where);
	uint64_t began;

	(void)state;
	sem_init(&entered, 0, 0);
	sem_init(&released, 0, 0);
	open_with(&i, where, &slow, hang_for_a_while);
	indicator_show(i, INDICATOR_ALARM, "");
	sem_wait(&entered);
	indicator_close(i);
	assert_true(fcntl(shown_on, F_GETFD) >= 0);
	sem_post(&released);
	for (began = now_ms(); fcntl(shown_on, F_GETFD) >= 0; usleep(1000))
		assert_true(now_ms() - began < 10000);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_led, begin, end),
		cmocka_unit_test_setup_teardown(a_led_that_cannot_blink, begin, end),
		cmocka_unit_test_setup_teardown(what_is_no_led, begin, end),
		cmocka_unit_test(a_console),
		cmocka_unit_test(a_file_is_no_console),
		cmocka_unit_test(another_writers_moment_is_waited_for),
		cmocka_unit_test(one_that_nobody_reads_is_not_waited_for),
		cmocka_unit_test(one_that_hangs_is_left_behind),
		cmocka_unit_test(one_that_comes_back_cleans_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
