/* See challenge.h. The randomness is the kernel's, by way of hal/entropy: mbedTLS's generators are not used. */
#include "challenge.h"

#include <string.h>

#include <mbedtls/rsa.h>

#include "base/bytes.h"
#include "base/error.h"
#include "hal/entropy.h"
#include "hal/hash.h"

static int random_bytes(void *context, unsigned char *out, size_t size)
{
	(void)context;
	return entropy_fill(out, size) == 0 ? 0 : MBEDTLS_ERR_RSA_RNG_FAILED;
}

static int import_public(mbedtls_rsa_context *rsa, const struct kek_record *kek)
{
	mbedtls_md_type_t md = kek->hash == OAEP_SHA256 ? MBEDTLS_MD_SHA256 : MBEDTLS_MD_SHA1;

	if (mbedtls_rsa_set_padding(rsa, MBEDTLS_RSA_PKCS_V21, md) != 0 ||
	    mbedtls_rsa_import_raw(rsa, kek->modulus, kek->modulus_size, NULL, 0, NULL, 0, NULL, 0, kek->exponent,
				   kek->exponent_size) != 0 ||
	    mbedtls_rsa_complete(rsa) != 0 || mbedtls_rsa_check_pubkey(rsa) != 0)
		return ERR_UNSUPPORTED;
	return 0;
}

int challenge_make(const struct kek_record *kek, uint8_t challenge[static CHALLENGE_BYTES], uint8_t out[static WRAP_MAX_BYTES],
		   uint16_t *size)
{
	mbedtls_rsa_context rsa;
	int r;

	if (kek->modulus_size > MODULUS_MAX_BYTES || kek->modulus_size < 256)
		return ERR_RANGE;
	mbedtls_rsa_init(&rsa);
	r = entropy_fill(challenge, CHALLENGE_BYTES);
	if (r == 0)
		r = import_public(&rsa, kek);
	if (r == 0 && mbedtls_rsa_rsaes_oaep_encrypt(&rsa, random_bytes, NULL, NULL, 0, CHALLENGE_BYTES, challenge, out) != 0)
		r = ERR_UNSUPPORTED;
	*size = r == 0 ? (uint16_t)mbedtls_rsa_get_len(&rsa) : 0;
	mbedtls_rsa_free(&rsa);
	return r;
}

static void skip_zeroes(const uint8_t **bytes, uint16_t *size)
{
	while (*size > 0 && **bytes == 0) {
		(*bytes)++;
		(*size)--;
	}
}

void fingerprint_rsa(uint8_t out[static FINGERPRINT_BYTES], const uint8_t *modulus, uint16_t modulus_size,
		     const uint8_t *exponent, uint16_t exponent_size)
{
	uint8_t length[4];

	skip_zeroes(&modulus, &modulus_size);
	skip_zeroes(&exponent, &exponent_size);
	put_le32(length, modulus_size);
	hash_sha256(out,
		    (const struct hash_part[]){ { "FGV1 KEK RSA", 12 },
						{ length, sizeof length },
						{ modulus, modulus_size },
						{ exponent, exponent_size } },
		    4);
}

void fingerprint_aes(uint8_t out[static FINGERPRINT_BYTES], const uint8_t canary[static CHALLENGE_BYTES])
{
	hash_sha256(out, (const struct hash_part[]){ { "FGV1 KEK AES", 12 }, { canary, CHALLENGE_BYTES } }, 2);
}
