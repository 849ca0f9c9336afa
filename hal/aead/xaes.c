/* XAES-256-GCM subkeys (C2SP): SP 800-108r1 in counter mode with CMAC-AES-256 as its function, two blocks, label 'X', the salt as
 * context. What must hold: K1, the two inputs and the raw subkey exist only here and are wiped here. */
#include <string.h>

#include "kernel.h"

enum { BLOCK = 16 };

/* CMAC's K1: the encrypted zero block doubled in GF(2^128), without a branch on its top bit. */
static void cmac_subkey(const struct aead_kernel *kernel, uint8_t k1[static BLOCK], const void *master_state)
{
	uint8_t carry = 0;
	uint8_t top;

	memset(k1, 0, BLOCK);
	kernel->encrypt_block(master_state, k1, k1);
	top = k1[0] >> 7;
	for (int i = BLOCK - 1; i >= 0; i--) {
		const uint8_t next = k1[i] >> 7;

		k1[i] = (uint8_t)(k1[i] << 1 | carry);
		carry = next;
	}
	k1[BLOCK - 1] ^= (uint8_t)(0x87 & (0 - top));
}

void aead_xaes_subkey(const struct aead_kernel *kernel, void *subkey_state, const void *master_state,
		      const uint8_t salt[AEAD_SALT_BYTES])
{
	uint8_t k1[BLOCK];
	uint8_t input[BLOCK];
	uint8_t subkey[AEAD_KEY_BYTES];

	cmac_subkey(kernel, k1, master_state);
	for (uint8_t half = 0; half < 2; half++) {
		const uint8_t head[BLOCK - AEAD_SALT_BYTES] = { 0, (uint8_t)(half + 1), 'X', 0 };

		memcpy(input, head, sizeof head);
		memcpy(input + sizeof head, salt, AEAD_SALT_BYTES);
		for (size_t i = 0; i < BLOCK; i++)
			input[i] ^= k1[i];
		kernel->encrypt_block(master_state, subkey + half * BLOCK, input);
	}
	kernel->expand(subkey_state, subkey);
	explicit_bzero(k1, sizeof k1);
	explicit_bzero(input, sizeof input);
	explicit_bzero(subkey, sizeof subkey);
	aead_clear_registers();
}
