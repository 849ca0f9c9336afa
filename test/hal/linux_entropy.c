/* entropy.c over a source that this file plays: one repetition, and nothing comes out any more. Each case runs in a child,
 * because a failure is for the whole life of a process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "entropy_source.h"
#include "hal/entropy.h"

enum mode { GOOD, STANDS_STILL, STARTS_OVER, REPEATS_ONE_BLOCK, ALL_ZERO, GONE };

static enum mode mode;
static uint64_t counter;
static unsigned draws;

static void next_block(uint8_t *out)
{
	uint64_t words[2] = { (counter + 1) * 0x9e3779b97f4a7c15u, counter };

	memcpy(out, words, sizeof words);
	if (mode != STANDS_STILL)
		counter++;
}

bool entropy_source(void *out, size_t size)
{
	draws++;
	if (mode == GONE)
		return false;
	if (mode == STARTS_OVER && size == 16) /* once a call: within it every block is another */
		counter = 0;
	for (size_t at = 0; at < size; at += 16)
		next_block((uint8_t *)out + at);
	if (mode == REPEATS_ONE_BLOCK && size >= 64)
		memcpy((uint8_t *)out + 48, (uint8_t *)out + 32, 16);
	if (mode == ALL_ZERO)
		memset(out, 0, size);
	return true;
}

/* 0 if entropy fails in this mode, gives nothing, and stays failed after the source has become good. */
static int fails_for_good(enum mode bad)
{
	uint8_t out[256];
	unsigned before;

	if (entropy_fill(out, sizeof out) != 0)
		return 1;
	mode = bad;
	memset(out, 0xaa, sizeof out);
	/* A generator that starts over is seen at its second first block. */
	if (entropy_fill(out, sizeof out) == 0 && (bad != STARTS_OVER || entropy_fill(out, sizeof out) == 0))
		return 2;
	for (size_t i = 0; i < sizeof out; i++)
		if (out[i] != 0)
			return 3;
	mode = GOOD;
	before = draws;
	return entropy_fill(out, sizeof out) == ERR_UNSUPPORTED && draws == before ? 0 : 4;
}

static int in_child(int (*run)(enum mode), enum mode m)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		exit(run(m));
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void a_source_that_repeats_itself_is_out_for_good(void **state)
{
	(void)state;
	assert_int_equal(in_child(fails_for_good, STANDS_STILL), 0);
	assert_int_equal(in_child(fails_for_good, STARTS_OVER), 0);
	assert_int_equal(in_child(fails_for_good, REPEATS_ONE_BLOCK), 0);
	assert_int_equal(in_child(fails_for_good, ALL_ZERO), 0);
	assert_int_equal(in_child(fails_for_good, GONE), 0);
}

/* Every size gives exactly that many bytes; blocks follow each other; the witness is not among them. */
static void any_size_is_filled_and_no_further(void **state)
{
	uint8_t out[1100];

	(void)state;
	for (size_t size = 0; size <= 1024; size++) {
		uint64_t witness = counter, word;

		memset(out, 0x5a, sizeof out);
		assert_int_equal(entropy_fill(out + 8, size), 0);
		for (size_t i = 0; i < 8; i++)
			assert_int_equal(out[i], 0x5a);
		for (size_t i = 8 + size; i < sizeof out; i++)
			assert_int_equal(out[i], 0x5a);
		for (size_t at = 0; at + 16 <= size; at += 16) {
			memcpy(&word, out + 8 + at + 8, sizeof word);
			assert_int_equal(word, witness + 1 + at / 16);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_source_that_repeats_itself_is_out_for_good),
		cmocka_unit_test(any_size_is_filled_and_no_further),
	};

	log_open("test", (enum log_level)0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
