/* mbedTLS 3.6, as this project builds it. */
#include <mbedtls/gcm.h>

#include "contender.h"

extern const struct contender contender_mbedtls;

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	mbedtls_gcm_init(c->self);
	return mbedtls_gcm_setkey(c->self, MBEDTLS_CIPHER_ID_AES, key, 8 * BENCH_KEY) != 0 ? "mbedtls_gcm_setkey failed" : NULL;
}

static void seal(const struct contender *c, const struct job *job)
{
	uint8_t iv[BENCH_IV];

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		mbedtls_gcm_crypt_and_tag(c->self, MBEDTLS_GCM_ENCRYPT, BENCH_SECTOR, iv, BENCH_IV, job->aad, BENCH_AAD,
					  job->in + i * BENCH_SECTOR, job->out + i * BENCH_SECTOR, BENCH_TAG,
					  job->tags + i * BENCH_TAG);
	}
}

static size_t open(const struct contender *c, const struct job *job)
{
	uint8_t iv[BENCH_IV];
	size_t bad = 0;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		bad += mbedtls_gcm_auth_decrypt(c->self, BENCH_SECTOR, iv, BENCH_IV, job->aad, BENCH_AAD,
						job->tags + i * BENCH_TAG, BENCH_TAG, job->in + i * BENCH_SECTOR,
						job->out + i * BENCH_SECTOR) != 0;
	}
	return bad;
}

static mbedtls_gcm_context context;
const struct contender contender_mbedtls = {
	.name = "mbedtls", .prepare = prepare, .seal = seal, .open = open, .self = &context, .slow = true
};
