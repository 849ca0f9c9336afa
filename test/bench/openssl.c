/* OpenSSL by EVP: GCM, and XTS, which has no tags and no associated data. The key is set once for each direction. */
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "contender.h"

struct contexts {
	EVP_CIPHER_CTX *seal, *open;
};

extern const struct contender contender_openssl, contender_openssl_xts;

static const char *init(struct contexts *s, const EVP_CIPHER *cipher, const uint8_t *key)
{
	s->seal = EVP_CIPHER_CTX_new();
	s->open = EVP_CIPHER_CTX_new();
	if (s->seal == NULL || s->open == NULL || EVP_EncryptInit_ex(s->seal, cipher, NULL, key, NULL) != 1 ||
	    EVP_DecryptInit_ex(s->open, cipher, NULL, key, NULL) != 1)
		return "EVP_CIPHER_CTX cannot be initialised";
	return NULL;
}

static const char *prepare(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	return init(c->self, EVP_aes_256_gcm(), key);
}

static void seal(const struct contender *c, const struct job *job)
{
	EVP_CIPHER_CTX *e = ((struct contexts *)c->self)->seal;
	uint8_t iv[BENCH_IV];
	uint8_t none[16];
	int n;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		EVP_EncryptInit_ex(e, NULL, NULL, NULL, iv);
		EVP_EncryptUpdate(e, NULL, &n, job->aad, BENCH_AAD);
		EVP_EncryptUpdate(e, job->out + i * BENCH_SECTOR, &n, job->in + i * BENCH_SECTOR, BENCH_SECTOR);
		EVP_EncryptFinal_ex(e, none, &n);
		EVP_CIPHER_CTX_ctrl(e, EVP_CTRL_AEAD_GET_TAG, BENCH_TAG, job->tags + i * BENCH_TAG);
	}
}

static size_t open(const struct contender *c, const struct job *job)
{
	EVP_CIPHER_CTX *e = ((struct contexts *)c->self)->open;
	uint8_t iv[BENCH_IV];
	uint8_t none[16];
	size_t bad = 0;
	int n;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(iv, job->first_nonce + i);
		EVP_DecryptInit_ex(e, NULL, NULL, NULL, iv);
		EVP_DecryptUpdate(e, NULL, &n, job->aad, BENCH_AAD);
		EVP_DecryptUpdate(e, job->out + i * BENCH_SECTOR, &n, job->in + i * BENCH_SECTOR, BENCH_SECTOR);
		EVP_CIPHER_CTX_ctrl(e, EVP_CTRL_AEAD_SET_TAG, BENCH_TAG, job->tags + i * BENCH_TAG);
		bad += EVP_DecryptFinal_ex(e, none, &n) != 1;
	}
	return bad;
}

/* Two keys, which must differ. */
static const char *prepare_xts(const struct contender *c, const uint8_t key[BENCH_KEY])
{
	uint8_t both[2 * BENCH_KEY];

	for (size_t i = 0; i < BENCH_KEY; i++) {
		both[i] = key[i];
		both[BENCH_KEY + i] = (uint8_t)~key[i];
	}
	return init(c->self, EVP_aes_256_xts(), both);
}

static void xts(EVP_CIPHER_CTX *e, const struct job *job)
{
	uint8_t tweak[16] = { 0 };
	int n;

	for (size_t i = 0; i < job->sectors; i++) {
		nonce_of(tweak, job->first_nonce + i);
		EVP_CipherInit_ex(e, NULL, NULL, NULL, tweak, -1);
		EVP_CipherUpdate(e, job->out + i * BENCH_SECTOR, &n, job->in + i * BENCH_SECTOR, BENCH_SECTOR);
	}
}

static void seal_xts(const struct contender *c, const struct job *job)
{
	xts(((struct contexts *)c->self)->seal, job);
}

static size_t open_xts(const struct contender *c, const struct job *job)
{
	xts(((struct contexts *)c->self)->open, job);
	return 0;
}

static struct contexts gcm_contexts, xts_contexts;
const struct contender contender_openssl = {
	.name = "openssl", .prepare = prepare, .seal = seal, .open = open, .self = &gcm_contexts
};
const struct contender contender_openssl_xts = {
	.name = "openssl-xts", .prepare = prepare_xts, .seal = seal_xts, .open = open_xts, .self = &xts_contexts
};
