/* One kernel in constant time: under valgrind, with keys and plaintext marked undefined, memcheck reports every branch and every
 * address that depends on them. What must hold: none in the kernel, and all of the leaks planted here, so that silence means
 * something. Without valgrind the test is skipped. */
#include <errno.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <valgrind/memcheck.h>

#include "hal/aead.h"

#include "aead_kernel_argument.h"

static const struct aead_kernel *kernel;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t master[AEAD_KEY_STATE_MAX];
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t subkey[AEAD_KEY_STATE_MAX];
static uint8_t key[AEAD_KEY_BYTES];

static void secret(void *p, size_t size)
{
	VALGRIND_MAKE_MEM_UNDEFINED(p, size);
}

static void publish(void *p, size_t size)
{
	VALGRIND_MAKE_MEM_DEFINED(p, size);
}

static void expand_keys(void)
{
	static const uint8_t salt[AEAD_SALT_BYTES] = "a salt bytes";

	memset(key, 0x3c, sizeof key);
	secret(key, sizeof key);
	kernel->expand(master, key);
	aead_xaes_subkey(kernel, subkey, master, salt);
}

/* Sizes of every path: nothing, a part, some groups and a part, a sector. */
static void seal_and_open(size_t size, size_t aad_size)
{
	static uint8_t text[4096];
	static uint8_t tag[AEAD_TAG_BYTES];
	static const uint8_t aad[48];
	struct aead_item item = { .out = text, .in = text, .size = size, .tag = tag, .aad = aad, .aad_size = aad_size };

	memset(text, 0x42, sizeof text);
	secret(text, sizeof text);
	kernel->seal_run(subkey, &item, 1);
	publish(text, sizeof text);
	publish(tag, sizeof tag);
	kernel->open_run(subkey, &item, 1);
	publish(&item, sizeof item);
	publish(text, sizeof text);
	assert_true(item.good);
	assert_int_equal(size > 0 ? text[0] : 0x42, 0x42);

	secret(text, sizeof text);
	kernel->seal_run(subkey, &item, 1);
	publish(text, sizeof text);
	publish(tag, sizeof tag);
	tag[3] ^= 1;
	kernel->open_run(subkey, &item, 1);
	publish(&item, sizeof item);
	assert_false(item.good);
}

static void no_branch_and_no_address_from_a_secret(void **unused)
{
	static const size_t sizes[] = { 0, 1, 16, 31, 128, 500, 1024 + 16, 4096 };
	const unsigned before = VALGRIND_COUNT_ERRORS;

	(void)unused;
	expand_keys();
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		seal_and_open(sizes[i], 6 * i);
	assert_int_equal(VALGRIND_COUNT_ERRORS - before, 0);
}

/* Out of line and volatile, so that each is a branch or a load in the program as it is in the source. */
static volatile unsigned counted;

__attribute__((noinline)) static void branch_on(const uint8_t *byte)
{
	if (*byte & 1)
		counted = counted + 1;
}

__attribute__((noinline)) static void look_up(const uint8_t *byte)
{
	static volatile uint8_t table[256];

	counted = table[*byte];
}

/* The verdict excuses one function: secrets that reach it in another way, or the same branch elsewhere, are still found. */
static void planted_leaks_are_found(void **unused)
{
	static alignas(AEAD_KEY_STATE_ALIGN) uint8_t copy[AEAD_KEY_STATE_MAX];
	unsigned before;

	(void)unused;
	expand_keys();
	before = VALGRIND_COUNT_ERRORS;
	branch_on(&key[7]);
	assert_int_equal(VALGRIND_COUNT_ERRORS - before, 1);
	look_up(&key[9]);
	assert_int_equal(VALGRIND_COUNT_ERRORS - before, 2);
	/* what the kernel derived is as secret as what it was given */
	memcpy(copy, subkey, kernel->key_state_size);
	branch_on(&copy[20]);
	assert_int_equal(VALGRIND_COUNT_ERRORS - before, 3);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_branch_and_no_address_from_a_secret),
		cmocka_unit_test(planted_leaks_are_found),
	};

	kernel = kernel_argument(argc, argv);
	if (!RUNNING_ON_VALGRIND) {
		execlp("valgrind", "valgrind", "-q", "--error-limit=no", "--suppressions=" AEAD_SUPPRESSIONS, argv[0], argv[1],
		       (char *)NULL);
		printf("skipped: valgrind does not start (%s): apt-get install valgrind\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
