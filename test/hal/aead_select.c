/* The choice of a kernel, on a table of this test's own: each kind of broken kernel stands before the good one, and must never be
 * chosen, not by force either. What must hold: only a kernel that gives every known answer is handed out. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "hal/aead.h"
#include "kernel.h"

static bool yes(void)
{
	return true;
}

static bool no(void)
{
	return false;
}

static void expand(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	aead_portable.expand(state, key);
}

static void encrypt_block(const void *state, uint8_t out[16], const uint8_t in[16])
{
	aead_portable.encrypt_block(state, out, in);
}

static void seal_run(const void *state, struct aead_item *items, size_t count)
{
	aead_portable.seal_run(state, items, count);
}

static size_t open_run(const void *state, struct aead_item *items, size_t count)
{
	return aead_portable.open_run(state, items, count);
}

static void expand_wrong_for_one_key(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	uint8_t other[AEAD_KEY_BYTES];

	/* only the second XAES answer has this key */
	memcpy(other, key, sizeof other);
	if (key[0] == 3 && key[31] == 3)
		other[31] ^= 1;
	aead_portable.expand(state, other);
}

static void encrypt_block_wrong(const void *state, uint8_t out[16], const uint8_t in[16])
{
	aead_portable.encrypt_block(state, out, in);
	out[15] ^= 0x80;
}

static void seal_wrong_tag(const void *state, struct aead_item *items, size_t count)
{
	aead_portable.seal_run(state, items, count);
	for (size_t i = 0; i < count; i++)
		items[i].tag[15] ^= 1;
}

static void seal_wrong_last_byte_of_a_sector(const void *state, struct aead_item *items, size_t count)
{
	aead_portable.seal_run(state, items, count);
	for (size_t i = 0; i < count; i++) {
		if (items[i].size == 4096)
			items[i].out[4095] ^= 1;
	}
}

static size_t open_everything(const void *state, struct aead_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint8_t tag[AEAD_TAG_BYTES];
		struct aead_item item = items[i];

		item.tag = tag;
		aead_portable.seal_run(state, &item, 1);
		items[i].good = true;
	}
	return 0;
}

static size_t open_wrong_byte(const void *state, struct aead_item *items, size_t count)
{
	const size_t bad = aead_portable.open_run(state, items, count);

	for (size_t i = 0; i < count; i++) {
		if (items[i].good && items[i].size > 300)
			items[i].out[300] ^= 4;
	}
	return bad;
}

static size_t open_leaves_bytes(const void *state, struct aead_item *items, size_t count)
{
	const size_t bad = aead_portable.open_run(state, items, count);

	for (size_t i = 0; i < count; i++) {
		if (!items[i].good && items[i].size > 0)
			items[i].out[items[i].size - 1] = 'p';
	}
	return bad;
}

static size_t open_miscounts(const void *state, struct aead_item *items, size_t count)
{
	aead_portable.open_run(state, items, count);
	return 0;
}

static size_t never_called(const void *state, struct aead_item *items, size_t count)
{
	(void)state;
	(void)items;
	(void)count;
	abort();
}

/* Each like `portable` but for what is named. */
#define KERNEL(kernel_name, ...)                                                                                                 \
	{                                                                                                                        \
		.name = kernel_name, .usable = yes, .key_state_size = 1024, .expand = expand, .encrypt_block = encrypt_block,    \
		.seal_run = seal_run, .open_run = open_run, __VA_ARGS__                                                          \
	}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
// clang-format off
static const struct aead_kernel broken[] = {
	KERNEL("wrong-key", .expand = expand_wrong_for_one_key),
	KERNEL("wrong-block", .encrypt_block = encrypt_block_wrong),
	KERNEL("wrong-tag", .seal_run = seal_wrong_tag),
	KERNEL("wrong-last-byte", .seal_run = seal_wrong_last_byte_of_a_sector),
	KERNEL("opens-everything", .open_run = open_everything),
	KERNEL("wrong-plaintext", .open_run = open_wrong_byte),
	KERNEL("leaves-bytes", .open_run = open_leaves_bytes),
	KERNEL("miscounts", .open_run = open_miscounts),
};
static const struct aead_kernel absent = KERNEL("absent", .usable = no, .open_run = never_called);
static const struct aead_kernel copy = KERNEL("copy", .usable = yes);
// clang-format on
#pragma GCC diagnostic pop

enum { BROKEN = sizeof broken / sizeof broken[0] };

static const struct aead_kernel *const table[] = {
	&broken[0], &broken[1], &broken[2], &broken[3], &broken[4],     &broken[5],
	&broken[6], &broken[7], &absent,    &copy,      &aead_portable, NULL,
};
_Static_assert(BROKEN == 8, "every broken kernel is in the table");

/* In place of the library's table. */
const struct aead_kernel *const *aead_kernels(void)
{
	return table;
}

static void *select_in_a_thread(void *unused)
{
	(void)unused;
	return (void *)aead_select(NULL);
}

static void the_first_good_one_is_chosen(void **unused)
{
	pthread_t threads[8];

	(void)unused;
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, select_in_a_thread, NULL), 0);
	for (size_t i = 0; i < 8; i++) {
		void *chosen;

		assert_int_equal(pthread_join(threads[i], &chosen), 0);
		assert_ptr_equal(chosen, &copy);
	}
}

static void broken_ones_fail_their_answers(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < BROKEN; i++) {
		if (aead_self_test(&broken[i]) != ERR_CORRUPT)
			fail_msg("%s gave the known answers", broken[i].name);
	}
	assert_int_equal(aead_self_test(&copy), 0);
	assert_int_equal(aead_self_test(&aead_portable), 0);
}

static void force_does_not_help(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < BROKEN; i++)
		assert_null(aead_select(broken[i].name));
	assert_null(aead_select("absent"));
	assert_null(aead_select("no such kernel"));
	assert_ptr_equal(aead_select("portable"), &aead_portable);
}

static void names(void **unused)
{
	(void)unused;
	assert_ptr_equal(aead_kernel_by_name("miscounts"), &broken[7]);
	assert_ptr_equal(aead_kernel_by_name("portable"), &aead_portable);
	assert_null(aead_kernel_by_name(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_good_one_is_chosen),
		cmocka_unit_test(broken_ones_fail_their_answers),
		cmocka_unit_test(force_does_not_help),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
