/* entropy.c over a source that this file plays: one repetition, and nothing comes out any more. Each case runs in a child,
 * because a failure is for the whole life of a process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "entropy_health.h"
#include "entropy_source.h"
#include "hal/entropy.h"

enum mode { GOOD, STANDS_STILL, STARTS_OVER, REPEATS_ONE_BLOCK, ALL_ZERO, SIX_IN_A_ROW, LEANS, GONE };

static enum mode mode;
static uint64_t counter;
static unsigned draws;
static atomic_uint unseeded; /* milliseconds */

/* Steele, Lea and Flood's SplitMix64: what looks random, and can be asked for again. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void next_block(uint8_t *out)
{
	uint64_t words[2] = { mix(~counter), mix(counter) };

	memcpy(out, words, sizeof words);
	if (mode == SIX_IN_A_ROW && counter % 8 == 5)
		memset(out + 3, 0x77, 6);
	for (size_t i = 0; mode == LEANS && i < 16; i += 2) /* every other byte the same, no block and no row */
		out[i] = 0x42;
	if (mode != STANDS_STILL)
		counter++;
}

bool entropy_source(void *out, size_t size)
{
	while (unseeded > 0) {
		usleep(1000);
		unseeded--;
	}
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
	/* A generator that starts over is seen at its second first block; one that leans, within two windows. */
	for (int tries = bad == LEANS ? 6 : bad == STARTS_OVER ? 2 : 1; entropy_fill(out, sizeof out) == 0;)
		if (--tries == 0)
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
	assert_int_equal(in_child(fails_for_good, SIX_IN_A_ROW), 0);
	assert_int_equal(in_child(fails_for_good, LEANS), 0);
	assert_int_equal(in_child(fails_for_good, GONE), 0);
}

/* A source that is bad from the first byte gives none, whatever the call. */
static int never_starts(enum mode bad)
{
	uint8_t out[16] = { 1 };

	mode = bad;
	if (entropy_start(60000) != ERR_UNSUPPORTED)
		return 1;
	mode = GOOD;
	return entropy_fill(out, sizeof out) == ERR_UNSUPPORTED && out[0] == 0 ? 0 : 2;
}

static void a_start_up_test_comes_first(void **state)
{
	(void)state;
	for (int m = STANDS_STILL; m <= GONE; m++)
		if (m != STARTS_OVER) /* a good start, told only by the second */
			assert_int_equal(in_child(never_starts, (enum mode)m), 0);
}

static int draws_before_the_first_byte(enum mode m)
{
	uint8_t out[16];

	mode = m;
	if (entropy_fill(out, sizeof out) != 0)
		return 1;
	return counter >= 1024 / 16 + 2 ? 0 : 2;
}

static int waits_for_the_seed(enum mode m)
{
	mode = m;
	unseeded = 2500; /* longer than it is silent about it */
	return entropy_start(60000) == 0 && unseeded == 0 ? 0 : 1;
}

static int gives_up_without_a_seed(enum mode m)
{
	mode = m;
	unseeded = UINT_MAX;
	return entropy_start(50) == ERR_TIMEOUT && draws == 0 ? 0 : 1;
}

static void the_seed_is_waited_for_and_not_for_ever(void **state)
{
	(void)state;
	assert_int_equal(in_child(draws_before_the_first_byte, GOOD), 0);
	assert_int_equal(in_child(waits_for_the_seed, GOOD), 0);
	assert_int_equal(in_child(gives_up_without_a_seed, GOOD), 0);
}

/* 1 + the smallest k with P(X <= k) >= 1 - 2^-40, X binomial(512, 2^-bits). */
static unsigned cut_off(int bits)
{
	long double p = 1.0L / (1 << bits), one = 1, all = 0, least = 1 - 1.0L / (1ll << 40);

	for (int i = 0; i < ENTROPY_WINDOW; i++)
		one *= 1 - p;
	for (unsigned k = 0; k <= ENTROPY_WINDOW; k++) {
		all += one;
		if (all >= least)
			return 1 + k;
		one *= p / (1 - p) * (ENTROPY_WINDOW - k) / (k + 1);
	}
	return 0;
}

static void the_cut_offs_are_those_of_the_standard(void **state)
{
	(void)state;
	assert_int_equal(entropy_eight_bits.repeats, 1 + 40 / 8);
	assert_int_equal(entropy_one_bit.repeats, 1 + 40);
	assert_int_equal(entropy_eight_bits.proportion, cut_off(8));
	assert_int_equal(entropy_one_bit.proportion, cut_off(1));
}

static bool judged(const struct entropy_claim *claim, const uint8_t *bytes, size_t size, size_t piece)
{
	struct entropy_health h = { .claim = claim };
	bool good = true;

	for (size_t at = 0; at < size; at += piece)
		good = entropy_health(&h, bytes + at, size - at < piece ? size - at : piece);
	return good;
}

/* The second window's first byte so many times in it, never many in a row. */
static void proportion(uint8_t *bytes, unsigned count)
{
	for (size_t i = 0; i < 2 * ENTROPY_WINDOW; i++) {
		bool one = i >= ENTROPY_WINDOW && (i - ENTROPY_WINDOW) % 3 != 2 && count > 0;

		bytes[i] = one ? 1 : (uint8_t)(i % 199 + 10);
		count -= one;
	}
}

/* Exactly at the cut-off, in pieces of any size, across windows. */
static void each_test_fails_at_its_cut_off_and_not_before(void **state)
{
	static uint8_t bytes[ENTROPY_WINDOW * 2];

	(void)state;
	for (size_t piece = 1; piece < 70; piece++) {
		for (size_t i = 0; i < sizeof bytes; i++)
			bytes[i] = (uint8_t)(i % 251);
		memset(bytes + 500, 7, 40);
		bytes[540] = 8;
		assert_true(judged(&entropy_one_bit, bytes, sizeof bytes, piece));
		bytes[540] = 7;
		assert_false(judged(&entropy_one_bit, bytes, sizeof bytes, piece));
		proportion(bytes, 335);
		assert_true(judged(&entropy_one_bit, bytes, sizeof bytes, piece));
		proportion(bytes, 336);
		assert_false(judged(&entropy_one_bit, bytes, sizeof bytes, piece));
	}
}

/* Every size gives exactly that many bytes; blocks follow each other; the witness is not among them. */
static void any_size_is_filled_and_no_further(void **state)
{
	uint8_t out[1100];

	(void)state;
	assert_int_equal(entropy_fill(out, 1), 0);
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
			assert_int_equal(word, mix(witness + 1 + at / 16));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_source_that_repeats_itself_is_out_for_good),
		cmocka_unit_test(a_start_up_test_comes_first),
		cmocka_unit_test(the_seed_is_waited_for_and_not_for_ever),
		cmocka_unit_test(the_cut_offs_are_those_of_the_standard),
		cmocka_unit_test(each_test_fails_at_its_cut_off_and_not_before),
		cmocka_unit_test(any_size_is_filled_and_no_further),
	};

	log_open("test", (enum log_level)0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
