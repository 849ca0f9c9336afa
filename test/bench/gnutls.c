/* GnuTLS, by its cipher calls: those for AEAD want the tag behind the text. */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "contender.h"

extern const struct contender contender_gnutls;

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	uint8_t copy[BENCH_KEY];
	uint8_t iv[BENCH_IV] = { 0 };
	gnutls_datum_t key_datum = { copy, sizeof copy };
	gnutls_datum_t iv_datum = { iv, sizeof iv };

	memcpy(copy, key, sizeof copy);
	return gnutls_cipher_init(c->self, GNUTLS_CIPHER_AES_256_GCM, &key_datum, &iv_datum) < 0 ? "gnutls_cipher_init failed"
												 : NULL;
}

static void begin(gnutls_cipher_hd_t h, const struct job *job, size_t i)
{
	uint8_t iv[BENCH_IV];

	nonce_of(iv, job->first_nonce + i);
	gnutls_cipher_set_iv(h, iv, sizeof iv);
	gnutls_cipher_add_auth(h, job->aad, BENCH_AAD);
}

static void seal(const struct contender *c, const struct job *job)
{
	gnutls_cipher_hd_t h = *(gnutls_cipher_hd_t *)c->self;

	for (size_t i = 0; i < job->sectors; i++) {
		begin(h, job, i);
		gnutls_cipher_encrypt2(h, job->in + i * BENCH_SECTOR, BENCH_SECTOR, job->out + i * BENCH_SECTOR, BENCH_SECTOR);
		gnutls_cipher_tag(h, job->tags + i * BENCH_TAG, BENCH_TAG);
	}
}

static size_t open(const struct contender *c, const struct job *job)
{
	gnutls_cipher_hd_t h = *(gnutls_cipher_hd_t *)c->self;
	uint8_t tag[BENCH_TAG];
	size_t bad = 0;

	for (size_t i = 0; i < job->sectors; i++) {
		begin(h, job, i);
		gnutls_cipher_decrypt2(h, job->in + i * BENCH_SECTOR, BENCH_SECTOR, job->out + i * BENCH_SECTOR, BENCH_SECTOR);
		gnutls_cipher_tag(h, tag, BENCH_TAG);
		bad += gnutls_memcmp(tag, job->tags + i * BENCH_TAG, BENCH_TAG) != 0;
	}
	return bad;
}

static gnutls_cipher_hd_t handle;
const struct contender contender_gnutls = { .name = "gnutls", .prepare = prepare, .seal = seal, .open = open, .self = &handle };
