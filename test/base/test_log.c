/* Log lines: text from outside cannot forge one, and one that is too long is cut, not split and not overrun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

static char seen[8192];

/* What a child that runs this writes to standard error; its exit code is returned. */
static int capture(void (*run)(void))
{
	size_t used = 0;
	int ends[2], status;
	ssize_t n;
	pid_t child;

	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		run();
		_exit(0);
	}
	close(ends[1]);
	while ((n = read(ends[0], seen + used, sizeof seen - 1 - used)) > 0)
		used += (size_t)n;
	seen[used] = '\0';
	close(ends[0]);
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

static unsigned lines(void)
{
	unsigned n = 0;

	for (const char *c = seen; *c != '\0'; c++)
		n += *c == '\n';
	return n;
}

static void hostile(void)
{
	char out[64];

	unsetenv("JOURNAL_STREAM");
	log_open("test", LOG_LEVEL_INFO);
	log_info("token '%s'", log_printable(out, sizeof out, "a\nfallgated[1]: gate opened\r\x1b[2J\x80\xff"));
}

static void text_from_outside_cannot_forge_a_line(void **state)
{
	(void)state;
	assert_int_equal(capture(hostile), 0);
	assert_int_equal(lines(), 1);
	assert_non_null(strstr(seen, "token 'a?fallgated[1]: gate opened\?\?[2J\?\?'\n"));
	assert_int_equal(strncmp(seen, "test[", 5), 0);
}

static void printable_text_is_cut_to_its_room(void **state)
{
	char out[8];

	(void)state;
	memset(out, 'x', sizeof out);
	assert_string_equal(log_printable(out, 4, "abcdef"), "abc");
	assert_int_equal(out[4], 'x');
	assert_string_equal(log_printable(out, 1, "abc"), "");
	out[0] = 'x';
	log_printable(out, 0, "abc");
	assert_int_equal(out[0], 'x');
	assert_string_equal(log_printable(out, sizeof out, " ~\x7f\t"), " ~\?\?");
}

static void long_lines(void)
{
	static char text[3000];

	log_open("test", LOG_LEVEL_INFO);
	for (size_t n = 900; n < 1100; n++) {
		memset(text, 'a', n);
		text[n] = '\0';
		log_info("%s", text);
	}
	memset(text, 'b', sizeof text - 1);
	log_open(text, LOG_LEVEL_INFO);
	log_info("end");
}

static void a_long_line_is_cut_and_still_one_line(void **state)
{
	static char all[1 << 20];
	FILE *f;
	int status;
	pid_t child;
	unsigned n = 0;

	(void)state;
	f = tmpfile();
	assert_non_null(f);
	child = fork();
	if (child == 0) {
		dup2(fileno(f), STDERR_FILENO);
		long_lines();
		_exit(0);
	}
	waitpid(child, &status, 0);
	rewind(f);
	while (fgets(all, sizeof all, f) != NULL) {
		assert_true(strlen(all) <= 1024);
		assert_true(all[strlen(all) - 1] == '\n');
		n++;
	}
	fclose(f);
	assert_int_equal(n, 201);
}

static void quiet(void)
{
	setenv("JOURNAL_STREAM", "8:1", 1);
	log_open("test", LOG_LEVEL_WARNING);
	log_notice("not this");
	log_warning("this");
	log_error("and this");
}

static void levels_filter_and_the_journal_gets_its_prefix(void **state)
{
	(void)state;
	assert_int_equal(capture(quiet), 0);
	assert_int_equal(lines(), 2);
	assert_int_equal(strncmp(seen, "<4>test[", 8), 0);
	assert_non_null(strstr(seen, "\n<3>test["));
	assert_null(strstr(seen, "not this"));
}

static void broken_promise(void)
{
	fatal("the promise %d is broken", 7);
}

static void fatal_says_why_and_ends_with_70(void **state)
{
	(void)state;
	assert_int_equal(capture(broken_promise), 70);
	assert_non_null(strstr(seen, "the promise 7 is broken\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_from_outside_cannot_forge_a_line),
		cmocka_unit_test(printable_text_is_cut_to_its_room),
		cmocka_unit_test(a_long_line_is_cut_and_still_one_line),
		cmocka_unit_test(levels_filter_and_the_journal_gets_its_prefix),
		cmocka_unit_test(fatal_says_why_and_ends_with_70),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
