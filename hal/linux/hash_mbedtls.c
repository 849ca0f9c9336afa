/* SHA-256 by mbedTLS, HMAC and the KDF by hand on top, with every intermediate in one struct that is wiped. What must hold: no
 * hash state survives a call, on the heap (there is none) or on the stack below it. */
#include <hal/hash.h>

#include <string.h>

#include <mbedtls/sha256.h>

#include "base/bytes.h"
#include "base/log.h"

enum { SHA256_BLOCK_BYTES = 64, STACK_BYTES = 2048 };

struct hmac_state {
	mbedtls_sha256_context sha;
	uint8_t pad[SHA256_BLOCK_BYTES];
	uint8_t inner[HASH_BYTES];
};

/* mbedTLS clears its message schedule; this clears what its functions spilled. Never inlined: its frame lies where theirs lay. */
static __attribute__((noinline)) void wipe_stack(void)
{
	uint8_t frame[STACK_BYTES];

	explicit_bzero(frame, sizeof frame);
}

/* The software SHA-256 cannot fail: a failure is a broken build. */
static void must(int result)
{
	if (result != 0)
		fatal("hash: SHA-256 of mbedTLS failed with %d: this build is broken", result);
}

static void absorb(mbedtls_sha256_context *sha, const struct hash_part *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (parts[i].size > 0)
			must(mbedtls_sha256_update(sha, parts[i].data, parts[i].size));
}

static void start(mbedtls_sha256_context *sha)
{
	mbedtls_sha256_init(sha);
	must(mbedtls_sha256_starts(sha, 0));
}

void hash_sha256(uint8_t out[HASH_BYTES], const struct hash_part *parts, size_t count)
{
	mbedtls_sha256_context sha;

	start(&sha);
	absorb(&sha, parts, count);
	must(mbedtls_sha256_finish(&sha, out));
	explicit_bzero(&sha, sizeof sha);
	wipe_stack();
}

static void set_pad(struct hmac_state *s, const void *key, size_t size, uint8_t value)
{
	const uint8_t *k = key;

	memset(s->pad, value, sizeof s->pad);
	for (size_t i = 0; i < size; i++)
		s->pad[i] = (uint8_t)(s->pad[i] ^ k[i]);
}

void hash_hmac(uint8_t out[HASH_BYTES], const void *key, size_t key_size, const struct hash_part *parts, size_t count)
{
	struct hmac_state s;

	if (key_size > SHA256_BLOCK_BYTES)
		fatal("hash: an HMAC key of %zu bytes: a defect here, at most %d are allowed", key_size, SHA256_BLOCK_BYTES);
	set_pad(&s, key, key_size, 0x36);
	start(&s.sha);
	must(mbedtls_sha256_update(&s.sha, s.pad, sizeof s.pad));
	absorb(&s.sha, parts, count);
	must(mbedtls_sha256_finish(&s.sha, s.inner));

	set_pad(&s, key, key_size, 0x5c);
	start(&s.sha);
	must(mbedtls_sha256_update(&s.sha, s.pad, sizeof s.pad));
	must(mbedtls_sha256_update(&s.sha, s.inner, sizeof s.inner));
	must(mbedtls_sha256_finish(&s.sha, out));
	explicit_bzero(&s, sizeof s);
	wipe_stack();
}

void hash_kdf(uint8_t out[HASH_BYTES], const uint8_t key[HASH_BYTES], const char *label, const void *context, size_t context_size)
{
	static const uint8_t separator = 0;
	uint8_t counter[4], bits[4];
	const struct hash_part parts[] = {
		{ counter, sizeof counter }, { label, strlen(label) }, { &separator, sizeof separator },
		{ context, context_size },   { bits, sizeof bits },
	};

	put_be32(counter, 1);
	put_be32(bits, HASH_BYTES * 8);
	hash_hmac(out, key, HASH_BYTES, parts, sizeof parts / sizeof parts[0]);
}
