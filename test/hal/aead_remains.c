/* What one kernel leaves behind: after each of its functions every vector register is zero, and the stack below holds nothing of
 * the key. What must hold: the test sees the registers and the stack as the kernel left them, and finds what is planted there. */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hal/aead.h"

#include "aead_kernel_argument.h"
#include "aead_registers.h"

enum { SECTOR = 4096, SECTORS = 3, STACK = 8192 };

static const struct aead_kernel *kernel;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t derived[AEAD_KEY_STATE_MAX];
static uint8_t key[AEAD_KEY_BYTES], text[SECTORS][SECTOR], tags[SECTORS][AEAD_TAG_BYTES];
static struct aead_item items[SECTORS];
static struct registers registers;
static uint64_t stack[STACK / 8];

/* IVs of zero: an IV under the first round key is that key. */
static void prepare(void)
{
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(0xc5 * i + 0x3b);
	memset(text, 0x6d, sizeof text);
	memset(state, 0, sizeof state);
	for (size_t i = 0; i < SECTORS; i++)
		items[i] = (struct aead_item){ .in = text[i], .out = text[i], .tag = tags[i], .size = i == 1 ? 333 : SECTOR };
}

/* What lies below the caller's frame, copied without a call that would write there. */
static inline __attribute__((always_inline)) void read_stack(void)
{
	const volatile uint64_t *below = (const volatile uint64_t *)((uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)7);

	for (size_t i = 0; i < STACK / 8 && !AEAD_SANITIZED; i++)
		stack[i] = *--below;
}

/* Each noinline, so that all have one frame's distance to the kernel. */
__attribute__((noinline)) static void do_expand(void)
{
	clear_kept_registers();
	kernel->expand(state, key);
	read_registers(&registers);
	read_stack();
}

__attribute__((noinline)) static void do_encrypt_block(void)
{
	uint8_t out[16];

	clear_kept_registers();
	kernel->encrypt_block(state, out, text[0]);
	read_registers(&registers);
	read_stack();
}

__attribute__((noinline)) static void do_seal(void)
{
	clear_kept_registers();
	kernel->seal_run(state, items, SECTORS);
	read_registers(&registers);
	read_stack();
}

__attribute__((noinline)) static void do_open(void)
{
	clear_kept_registers();
	kernel->open_run(state, items, SECTORS);
	read_registers(&registers);
	read_stack();
}

__attribute__((noinline)) static void do_xaes(void)
{
	clear_kept_registers();
	aead_xaes_subkey(kernel, derived, state, (const uint8_t *)"a salt bytes");
	read_registers(&registers);
	read_stack();
}

/* Whether a word of the stack is one of `bytes`; 0 and what is as simple says nothing. */
static bool on_the_stack(const void *bytes, size_t size)
{
	for (size_t at = 0; at + 8 <= size; at += 8) {
		uint64_t word;

		memcpy(&word, (const uint8_t *)bytes + at, 8);
		if (word >> 32 == 0 || (uint32_t)word == 0)
			continue;
		for (size_t i = 0; i < STACK / 8; i++) {
			if (stack[i] == word)
				return true;
		}
	}
	return false;
}

static void check(const char *what)
{
	if (!all_zero(&registers))
		fail_msg("%s: %s leaves something in a vector register", kernel->name, what);
	if (on_the_stack(key, sizeof key) || on_the_stack(state, kernel->key_state_size) || on_the_stack(derived, sizeof derived))
		fail_msg("%s: %s leaves something of the key on the stack", kernel->name, what);
}

static void nothing_remains(void **unused)
{
	(void)unused;
	prepare();
	do_expand();
	check("expand");
	do_encrypt_block();
	check("encrypt_block");
	do_seal();
	check("seal_run");
	do_open();
	check("open_run");
	tags[1][2] ^= 1;
	do_seal();
	tags[1][2] ^= 1;
	do_open();
	check("open_run of a bad tag");
	do_xaes();
	check("aead_xaes_subkey");
}

__attribute__((noinline)) static void leave_in_a_register(void)
{
	float one = 1;

	/* one register that every processor has, not the first */
#if defined(__x86_64__)
	__asm__ volatile("movss %0, %%xmm13" ::"m"(one) : "xmm13");
#else
	__asm__ volatile("ldr s13, %0" ::"m"(one) : "v13");
#endif
	read_registers(&registers);
}

__attribute__((noinline)) static void leave_on_the_stack(void)
{
	volatile uint8_t copy[1024];

	for (size_t i = 0; i < sizeof copy; i++)
		copy[i] = state[i % kernel->key_state_size];
}

__attribute__((noinline)) static void after_leaving_on_the_stack(void)
{
	leave_on_the_stack();
	read_stack();
}

static void what_is_planted_is_found(void **unused)
{
	(void)unused;
	prepare();
	kernel->expand(state, key);
	leave_in_a_register();
	assert_false(all_zero(&registers));
	after_leaving_on_the_stack();
	assert_int_equal(on_the_stack(state, kernel->key_state_size), !AEAD_SANITIZED);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_remains),
		cmocka_unit_test(what_is_planted_is_found),
	};

	kernel = kernel_argument(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
