/* Sources of noise that are bad, slow, silent, gone, or become so; each in a child: a verdict is for the life of a process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "hal/noise.h"
#include "noise_pace.h"

static char path[64], why[200];

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int begin(void **state)
{
	(void)state;
	snprintf(path, sizeof path, "/tmp/fallgate-noise-%d", (int)getpid());
	unlink(path);
	return 0;
}

static int end(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static void in_child(int (*run)(void))
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		alarm(60);
		exit(run());
	}
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* `length` bytes by fn. */
static void put(uint8_t (*fn)(size_t at, uint8_t random), size_t length)
{
	static uint8_t bytes[65536];
	FILE *f = fopen(path, "w");

	if (f == NULL || length > sizeof bytes || getrandom(bytes, length, 0) != (ssize_t)length)
		exit(90);
	for (size_t i = 0; i < length; i++)
		bytes[i] = fn(i, bytes[i]);
	if (fwrite(bytes, 1, length, f) != length || fclose(f) != 0)
		exit(91);
}

static uint8_t good_byte(size_t at, uint8_t random)
{
	(void)at;
	return random;
}

static uint8_t zero_byte(size_t at, uint8_t random)
{
	(void)at;
	(void)random;
	return 0;
}

static uint8_t stuck_later(size_t at, uint8_t random)
{
	return at >= 900 ? 0xa5 : random;
}

static uint8_t leaning(size_t at, uint8_t random)
{
	return at % 4 != 3 ? 0x31 : random;
}

static int a_good_one(void)
{
	put(good_byte, 4096);
	if (noise_start(path, 3000, why, sizeof why) != NOISE_GOOD || why[0] != '\0')
		return 1;
	return noise_now() == NOISE_GOOD ? 0 : 2;
}

static int bad(uint8_t (*fn)(size_t at, uint8_t random))
{
	put(fn, 4096);
	if (noise_start(path, 3000, why, sizeof why) != NOISE_BAD || strstr(why, "failed its health test") == NULL)
		return 1;
	put(good_byte, 4096);
	usleep(100000);
	return noise_now() == NOISE_BAD ? 0 : 2;
}

static int all_zero(void)
{
	return bad(zero_byte);
}

static int one_that_sticks(void)
{
	return bad(stuck_later);
}

static int one_that_leans(void)
{
	return bad(leaning);
}

static int none(void)
{
	if (noise_start(path, 3000, why, sizeof why) != NOISE_NONE || strstr(why, "No such file") == NULL)
		return 1;
	return noise_now() == NOISE_NONE ? 0 : 2;
}

static int too_little(void)
{
	put(good_byte, 100);
	return noise_start(path, 3000, why, sizeof why) == NOISE_SILENT && strstr(why, "gave 100 of 1024 bytes") != NULL ? 0 : 1;
}

/* Its open hangs: a FIFO that nobody writes to. */
static int hangs_in_open(void)
{
	uint64_t began = now_ms();

	if (mkfifo(path, 0600) != 0 || noise_start(path, 300, why, sizeof why) != NOISE_SILENT)
		return 1;
	return now_ms() - began < 5000 && noise_now() == NOISE_SILENT && strstr(why, "gave 0 of 1024") != NULL ? 0 : 2;
}

/* Its read hangs, under way; then it speaks, and breaks. */
static int hangs_speaks_breaks(void)
{
	uint8_t bytes[1024];
	uint64_t began = now_ms();
	int fd;

	noise_pace.look_ms = 20;
	noise_pace.silent_ms = 400;
	if (mkfifo(path, 0600) != 0)
		return 90;
	fd = open(path, O_RDWR);
	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes || write(fd, bytes, 512) != 512)
		return 91;
	if (noise_start(path, 300, why, sizeof why) != NOISE_SILENT || now_ms() - began > 5000)
		return 1;
	if (write(fd, bytes + 512, 512) != 512)
		return 92;
	for (began = now_ms(); noise_now() != NOISE_GOOD;)
		if (now_ms() - began > 5000)
			return 2;
	for (began = now_ms(); noise_now() != NOISE_SILENT;) /* nothing more for a while */
		if (now_ms() - began > 5000)
			return 3;
	if (getrandom(bytes, 64, 0) != 64 || write(fd, bytes, 64) != 64)
		return 93;
	for (began = now_ms(); noise_now() != NOISE_GOOD;)
		if (now_ms() - began > 5000)
			return 4;
	memset(bytes, 0xff, sizeof bytes);
	if (write(fd, bytes, 512) != 512)
		return 94;
	for (began = now_ms(); noise_now() != NOISE_BAD;)
		if (now_ms() - began > 5000)
			return 5;
	return 0;
}

#define CASE(name)                                                                                                               \
	static void case_##name(void **state)                                                                                    \
	{                                                                                                                        \
		(void)state;                                                                                                     \
		in_child(name);                                                                                                  \
	}

CASE(a_good_one)
CASE(all_zero)
CASE(one_that_sticks)
CASE(one_that_leans)
CASE(none)
CASE(too_little)
CASE(hangs_in_open)
CASE(hangs_speaks_breaks)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(case_a_good_one, begin, end),
		cmocka_unit_test_setup_teardown(case_all_zero, begin, end),
		cmocka_unit_test_setup_teardown(case_one_that_sticks, begin, end),
		cmocka_unit_test_setup_teardown(case_one_that_leans, begin, end),
		cmocka_unit_test_setup_teardown(case_none, begin, end),
		cmocka_unit_test_setup_teardown(case_too_little, begin, end),
		cmocka_unit_test_setup_teardown(case_hangs_in_open, begin, end),
		cmocka_unit_test_setup_teardown(case_hangs_speaks_breaks, begin, end),
	};

	log_open("test", (enum log_level)0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
