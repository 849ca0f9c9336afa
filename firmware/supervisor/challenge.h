/* What only the KEK can answer: a random challenge encrypted to a pinned RSA public key. The one door to mbedTLS's RSA. */
#ifndef FALLGATE_SUPERVISOR_CHALLENGE_H
#define FALLGATE_SUPERVISOR_CHALLENGE_H

#include <stdint.h>

#include "records.h"

/* Fills challenge with random bytes and out with their RSA-OAEP encryption (hash as pinned, MGF1 with the same, no label).
 * *size: bytes of out. 0, ERR_UNSUPPORTED (a key that mbedTLS cannot use), ERR_RANGE. */
int challenge_make(const struct kek_record *kek, uint8_t challenge[static CHALLENGE_BYTES], uint8_t out[static WRAP_MAX_BYTES],
		   uint16_t *size);

/* The KEK's name on disk: RSA: SHA-256("FGV1 KEK RSA" || le32 |n| || n || e), without leading zeroes. AES: SHA-256("FGV1 KEK AES"
 * || the canary's plaintext). */
void fingerprint_rsa(uint8_t out[static FINGERPRINT_BYTES], const uint8_t *modulus, uint16_t modulus_size,
		     const uint8_t *exponent, uint16_t exponent_size);
void fingerprint_aes(uint8_t out[static FINGERPRINT_BYTES], const uint8_t canary[static CHALLENGE_BYTES]);

#endif
