/* watchdog_linux.c over a device that this file plays: armed by the open, and by every way out but success disarmed again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/watchdog.h>
#include <string.h>

#include "base/error.h"
#include "hal/watchdog.h"
#include "watchdog_device.h"

static struct {
	int open_error, support_error, set_error, feed_error, timeout, boot_status;
	unsigned options;
	bool nowayout;
	/* what became of it */
	bool open, running, magic;
	unsigned feeds;
} device;

static void fresh(void)
{
	memset(&device, 0, sizeof device);
	device.options = WDIOF_SETTIMEOUT | WDIOF_KEEPALIVEPING | WDIOF_MAGICCLOSE;
}

static int says(int error)
{
	errno = error;
	return -1;
}

int watchdog_device_open(const char *path)
{
	assert_string_equal(path, "/dev/watchdog7");
	if (device.open_error != 0)
		return says(device.open_error);
	assert_false(device.open);
	device.open = device.running = true;
	return 7;
}

static int support(struct watchdog_info *info)
{
	if (device.support_error != 0)
		return says(device.support_error);
	info->options = device.options;
	memset(info->identity, 'x', sizeof info->identity); /* not ended, as a driver may leave it */
	memcpy(info->identity, "dog\033[2J", 7);
	return 0;
}

int watchdog_device_ioctl(int fd, unsigned long request, void *argument)
{
	assert_true(fd == 7 && device.open);
	switch (request) {
	case WDIOC_GETSUPPORT:
		return support(argument);
	case WDIOC_GETBOOTSTATUS:
		*(int *)argument = device.boot_status;
		return 0;
	case WDIOC_SETTIMEOUT:
		if (device.set_error != 0)
			return says(device.set_error);
		if (device.timeout != 0)
			*(int *)argument = device.timeout;
		return 0;
	case WDIOC_GETTIMEOUT:
		*(int *)argument = device.timeout;
		return 0;
	case WDIOC_KEEPALIVE:
		device.feeds++;
		device.magic = false;
		return device.feed_error != 0 ? says(device.feed_error) : 0;
	default:
		return says(ENOTTY);
	}
}

int watchdog_device_write(int fd, char byte)
{
	assert_true(fd == 7 && device.open);
	device.magic = byte == 'V';
	return 0;
}

void watchdog_device_close(int fd)
{
	assert_true(fd == 7 && device.open);
	device.open = false;
	if (device.magic && !device.nowayout)
		device.running = false;
}

bool watchdog_device_nowayout(int fd)
{
	assert_true(fd == 7 && device.open);
	return device.nowayout;
}

static char why[200];

static int open_it(struct watchdog **w)
{
	return watchdog_open(w, "/dev/watchdog7", 10, why, sizeof why);
}

static void fed_and_stopped(void **state)
{
	struct watchdog *w;

	(void)state;
	fresh();
	device.boot_status = WDIOF_CARDRESET;
	assert_int_equal(open_it(&w), 0);
	assert_int_equal(watchdog_facts(w)->timeout_s, 10);
	assert_true(watchdog_facts(w)->caused_start && watchdog_facts(w)->outlives && !watchdog_facts(w)->nowayout);
	assert_true(strncmp(watchdog_facts(w)->identity, "dog?[2J", 7) == 0);
	assert_int_equal(device.feeds, 1);
	assert_int_equal(watchdog_feed(w), 0);
	assert_true(device.running && !device.magic);
	device.feed_error = EIO;
	assert_int_equal(watchdog_feed(w), ERR_IO);
	assert_true(watchdog_stop(w));
	assert_false(device.running || device.open);
}

static void what_nothing_stops_is_said_to_run_on(void **state)
{
	struct watchdog *w;

	(void)state;
	fresh();
	device.nowayout = true;
	assert_int_equal(open_it(&w), 0);
	assert_true(watchdog_facts(w)->nowayout && !watchdog_facts(w)->caused_start);
	assert_false(watchdog_stop(w));
	assert_true(device.running);
	fresh();
	device.options = 0;
	assert_int_equal(open_it(&w), 0);
	assert_false(watchdog_facts(w)->outlives || watchdog_facts(w)->caused_start);
	watchdog_stop(w);
}

static void a_time_of_its_own(void **state)
{
	struct watchdog *w;

	(void)state;
	fresh();
	device.timeout = 16; /* rounded up */
	assert_int_equal(open_it(&w), 0);
	assert_int_equal(watchdog_facts(w)->timeout_s, 16);
	watchdog_stop(w);
	device.set_error = EOPNOTSUPP;
	device.timeout = 30;
	assert_int_equal(open_it(&w), 0);
	assert_int_equal(watchdog_facts(w)->timeout_s, 30);
	watchdog_stop(w);
}

static void refused(int error, const char *words)
{
	struct watchdog *w;

	assert_int_equal(open_it(&w), error);
	assert_null(w);
	assert_non_null(strstr(why, words));
	assert_false(device.open || device.running);
}

static void what_cannot_do_it_is_refused_and_disarmed(void **state)
{
	(void)state;
	fresh();
	device.open_error = ENOENT;
	refused(ERR_NOT_FOUND, "load its driver");
	device.open_error = EBUSY;
	refused(ERR_BUSY, "RuntimeWatchdogSec");
	device.open_error = ENOTTY;
	refused(ERR_UNSUPPORTED, "no watchdog");
	device.open_error = EACCES;
	refused(ERR_DENIED, "/dev/watchdog7");
	fresh();
	device.support_error = ENOTTY;
	refused(ERR_UNSUPPORTED, "no watchdog");
	fresh();
	device.set_error = EINVAL;
	device.timeout = 30; /* its own time counts only if it knows no other */
	refused(ERR_UNSUPPORTED, "10 s");
	fresh();
	device.timeout = 1;
	refused(ERR_UNSUPPORTED, "10 s");
	device.timeout = -5;
	refused(ERR_UNSUPPORTED, "10 s");
	fresh();
	device.feed_error = EIO;
	refused(ERR_IO, "cannot be fed");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fed_and_stopped),
		cmocka_unit_test(what_nothing_stops_is_said_to_run_on),
		cmocka_unit_test(a_time_of_its_own),
		cmocka_unit_test(what_cannot_do_it_is_refused_and_disarmed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
