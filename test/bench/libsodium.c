/* libsodium's AES-256-GCM, with the key schedule made before. */
#include <sodium.h>

#include "contender.h"

extern const struct contender contender_libsodium;

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	if (sodium_init() < 0)
		return "sodium_init failed";
	if (!crypto_aead_aes256gcm_is_available())
		return "this processor lacks the instructions";
	crypto_aead_aes256gcm_beforenm(c->self, key);
	return NULL;
}

static void seal(const struct contender *c, const struct job *job)
{
	unsigned long long tag_size;
	uint8_t iv[BENCH_IV];

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		crypto_aead_aes256gcm_encrypt_detached_afternm(job->out + i * BENCH_SECTOR, job->tags + i * BENCH_TAG, &tag_size,
							       job->in + i * BENCH_SECTOR, BENCH_SECTOR, job->aad, BENCH_AAD,
							       NULL, iv, c->self);
	}
}

static size_t open(const struct contender *c, const struct job *job)
{
	uint8_t iv[BENCH_IV];
	size_t bad = 0;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		bad += crypto_aead_aes256gcm_decrypt_detached_afternm(
			       job->out + i * BENCH_SECTOR, NULL, job->in + i * BENCH_SECTOR, BENCH_SECTOR,
			       job->tags + i * BENCH_TAG, job->aad, BENCH_AAD, iv, c->self) != 0;
	}
	return bad;
}

static crypto_aead_aes256gcm_state state;
const struct contender contender_libsodium = {
	.name = "libsodium", .prepare = prepare, .seal = seal, .open = open, .self = &state
};
