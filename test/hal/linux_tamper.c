/* Tamper lines: each kind quiet, active, and gone; and what is not taken for one. A GPIO line needs the kernel's simulator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "hal/tamper.h"

static char dir[64], path[96], source[128], why[160];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/fallgate-tamper-XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof path, "%s/line", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void put(const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void a_file(void **state)
{
	struct tamper *t;

	(void)state;
	snprintf(source, sizeof source, "file:%s", path);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), ERR_NOT_FOUND);
	put("0\n");
	assert_int_equal(tamper_open(&t, source, why, sizeof why), 0);
	assert_int_equal(tamper_fd(t), -1);
	assert_false(tamper_active(t));
	put("1\n");
	assert_true(tamper_active(t));
	put("0");
	assert_false(tamper_active(t));
	put("");
	assert_true(tamper_active(t));
	unlink(path);
	assert_true(tamper_active(t));
	put("0\n"); /* another file in its place */
	assert_false(tamper_active(t));
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(tamper_active(t), geteuid() != 0);
	tamper_close(t);
	assert_int_equal(chmod(path, 0606), 0);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), ERR_DENIED);
}

static bool tells(const struct tamper *t)
{
	struct pollfd p = { .fd = tamper_fd(t), .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void a_fifo(void **state)
{
	struct tamper *t;

	(void)state;
	snprintf(source, sizeof source, "fifo:%s", path);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), ERR_NOT_FOUND);
	put("x");
	assert_int_equal(tamper_open(&t, source, why, sizeof why), ERR_DENIED);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), 0);
	assert_false(tells(t) || tamper_active(t));
	put("anything");
	assert_true(tells(t));
	assert_true(tamper_active(t));
	assert_false(tells(t) || tamper_active(t)); /* the writer's end is not the line's */
	put("again");
	assert_true(tells(t) && tamper_active(t));
	tamper_close(t);
	assert_int_equal(chmod(path, 0602), 0);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), ERR_DENIED);
	assert_non_null(strstr(why, "mkfifo"));
}

static void what_is_no_source(void **state)
{
	static const char *const bad[] = { "",
					   "file:",
					   "file:relative",
					   "fifo:x",
					   "gpio:/dev/gpiochip0",
					   "none",
					   "gpio:/dev/x:",
					   "gpio:/dev/x:1:high",
					   "gpio:/dev/x:99999",
					   "line:/dev/x" };
	struct tamper *t;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_false(tamper_source_good(bad[i]));
		assert_int_equal(tamper_open(&t, bad[i], why, sizeof why), ERR_CONFIG);
	}
	assert_true(tamper_source_good("gpio:/dev/gpiochip3:17:low"));
	assert_int_equal(tamper_open(&t, "gpio:/dev/no-such-chip:1", why, sizeof why), ERR_NOT_FOUND);
	assert_int_not_equal(tamper_open(&t, "gpio:/dev/null:1", why, sizeof why), 0); /* no GPIO chip answers there */
}

/* FALLGATE_GPIO_SIM: a line of gpio-sim as CHIP:LINE, and its "pull" file, made by whoever runs this. */
static void a_gpio_line(void **state)
{
	const char *line = getenv("FALLGATE_GPIO_LINE"), *pull = getenv("FALLGATE_GPIO_PULL");
	struct tamper *t;
	FILE *f;

	(void)state;
	if (line == NULL || pull == NULL) {
		print_message("          not run: no simulated GPIO line is named (FALLGATE_GPIO_LINE, FALLGATE_GPIO_PULL)\n");
		skip();
	}
	snprintf(source, sizeof source, "gpio:%s", line);
	assert_int_equal(tamper_open(&t, source, why, sizeof why), 0);
	assert_false(tamper_active(t));
	for (int i = 0; i < 2; i++) {
		f = fopen(pull, "w");
		assert_non_null(f);
		fputs(i == 0 ? "pull-up" : "pull-down", f);
		fclose(f);
	}
	assert_true(tells(t) && tamper_active(t)); /* it was active for a moment */
	assert_false(tamper_active(t));
	tamper_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_file, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(a_fifo, make_dir, remove_dir),
		cmocka_unit_test(what_is_no_source),
		cmocka_unit_test(a_gpio_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
