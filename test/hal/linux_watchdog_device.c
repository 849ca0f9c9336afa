/* The device's own calls on what is no watchdog: refused, never waited for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/watchdog.h"

static void no_watchdog(void **state)
{
	char dir[] = "/tmp/fallgate-watchdog-XXXXXX", path[64], why[200];
	struct watchdog *w;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/fifo", dir);
	assert_int_equal(watchdog_open(&w, path, 10, why, sizeof why), ERR_NOT_FOUND);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_not_equal(watchdog_open(&w, path, 10, why, sizeof why), 0); /* nobody reads it: an open could wait */
	unlink(path);
	fclose(fopen(path, "w"));
	assert_int_equal(watchdog_open(&w, path, 10, why, sizeof why), ERR_UNSUPPORTED);
	assert_int_equal(watchdog_open(&w, "/dev/null", 10, why, sizeof why), ERR_UNSUPPORTED);
	assert_non_null(strstr(why, "no watchdog"));
	assert_int_not_equal(watchdog_open(&w, dir, 10, why, sizeof why), 0);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(no_watchdog) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
