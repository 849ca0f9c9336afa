/* The entries of a kernel's table, the same for all: each calls an inner function that is not inlined, then clears what that one
 * left in registers and on the stack. A kernel includes this last. It needs
 *   KEY_STATE_SIZE   the size of its expanded key
 *   STACK            what of the stack the inner functions use
 *   expand_apart, encrypt_apart, seal_items, open_items
 *                    the inner functions; the last one returns what aead_conclude does. */
#ifndef HAL_AEAD_ENTRIES_H
#define HAL_AEAD_ENTRIES_H

#include "kernel.h"

static void expand(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	expand_apart(state, key);
	aead_clear_registers();
	aead_wipe_stack(STACK);
}

static void encrypt_block(const void *state, uint8_t out[16], const uint8_t in[16])
{
	encrypt_apart(state, out, in);
	aead_clear_registers();
	aead_wipe_stack(STACK);
}

static void seal_run(const void *state, struct aead_item *items, size_t count)
{
	aead_check_lengths(items, count);
	seal_items(state, items, count);
	aead_clear_registers();
	aead_wipe_stack(STACK);
}

static size_t open_run(const void *state, struct aead_item *items, size_t count)
{
	size_t bad;

	aead_check_lengths(items, count);
	bad = open_items(state, items, count);
	aead_clear_registers();
	aead_wipe_stack(STACK);
	return bad;
}

#define AEAD_KERNEL(kernel_name, is_usable)                                                                                      \
	{                                                                                                                        \
		.name = kernel_name, .key_state_size = KEY_STATE_SIZE, .usable = is_usable, .expand = expand,                    \
		.encrypt_block = encrypt_block, .seal_run = seal_run, .open_run = open_run                                       \
	}

#endif
