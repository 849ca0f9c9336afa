/* SHA-256, HMAC-SHA-256 and the SP 800-108r1 counter-mode KDF, with state where the caller wants it (secret memory for keys).
 * The one door to mbedTLS's hashes. Nothing is left on the stack of these functions that depends on a key: they wipe. */
#ifndef HAL_HASH_H
#define HAL_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { HASH_BYTES = 32 };

struct hash_part {
	const void *data;
	size_t size;
};

/* SHA-256 over the concatenation of parts. */
void hash_sha256(uint8_t out[HASH_BYTES], const struct hash_part *parts, size_t count);

/* HMAC-SHA-256 (FIPS 198-1). The key is at most 64 bytes. */
void hash_hmac(uint8_t out[HASH_BYTES], const void *key, size_t key_size, const struct hash_part *parts, size_t count);

/* SP 800-108r1 4.1, one block: HMAC(key, be32(1) || label || 0x00 || context || be32(256)). out should be secret memory. */
void hash_kdf(uint8_t out[HASH_BYTES], const uint8_t key[HASH_BYTES], const char *label, const void *context,
	      size_t context_size);

#endif
