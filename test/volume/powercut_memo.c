/* Every opening hashes two headers of 64 KiB, twice over, and in a replay they are always the same bytes: more than half of its
 * time. Linked in front of hash_sha256 and hash_hmac, this remembers the answers for long inputs. What must hold: an answer is
 * given from memory only if every byte of the input, and the key, is the same as when it was computed. For programs of one
 * thread. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hal/hash.h"

enum { LONG_BYTES = 32768, REMEMBERED = 16, KEY_MAX = 64 };

void __real_hash_sha256(uint8_t *out, const struct hash_part *parts, size_t count);
void __wrap_hash_sha256(uint8_t *out, const struct hash_part *parts, size_t count);
void __real_hash_hmac(uint8_t *out, const void *key, size_t key_size, const struct hash_part *parts, size_t count);
void __wrap_hash_hmac(uint8_t *out, const void *key, size_t key_size, const struct hash_part *parts, size_t count);

struct answer {
	uint8_t *bytes;
	size_t size, key_size; /* key_size 0: plain SHA-256 */
	uint8_t key[KEY_MAX];
	uint8_t digest[HASH_BYTES];
};

/* File-level: the functions it stands in front of have no context. */
static struct answer answers[REMEMBERED];
static size_t next;

static size_t size_of(const struct hash_part *parts, size_t count)
{
	size_t size = 0;

	for (size_t i = 0; i < count; i++)
		size += parts[i].size;
	return size;
}

static bool same(const struct answer *a, const void *key, size_t key_size, const struct hash_part *parts, size_t count)
{
	const uint8_t *at = a->bytes;

	if (a->size != size_of(parts, count) || a->key_size != key_size || (key_size > 0 && memcmp(a->key, key, key_size) != 0))
		return false;
	for (size_t i = 0; i < count; at += parts[i].size, i++)
		if (memcmp(at, parts[i].data, parts[i].size) != 0)
			return false;
	return true;
}

static const struct answer *find(const void *key, size_t key_size, const struct hash_part *parts, size_t count)
{
	for (size_t i = 0; i < REMEMBERED; i++)
		if (answers[i].bytes != NULL && same(&answers[i], key, key_size, parts, count))
			return &answers[i];
	return NULL;
}

static void remember(const uint8_t *digest, const void *key, size_t key_size, const struct hash_part *parts, size_t count)
{
	struct answer *a = &answers[next++ % REMEMBERED];
	uint8_t *at;

	free(a->bytes);
	a->size = size_of(parts, count);
	at = a->bytes = malloc(a->size);
	if (at == NULL)
		abort();
	for (size_t i = 0; i < count; at += parts[i].size, i++)
		memcpy(at, parts[i].data, parts[i].size);
	a->key_size = key_size;
	if (key_size > 0)
		memcpy(a->key, key, key_size);
	memcpy(a->digest, digest, HASH_BYTES);
}

void __wrap_hash_sha256(uint8_t *out, const struct hash_part *parts, size_t count)
{
	const struct answer *a;

	if (size_of(parts, count) < LONG_BYTES) {
		__real_hash_sha256(out, parts, count);
		return;
	}
	a = find(NULL, 0, parts, count);
	if (a != NULL) {
		memcpy(out, a->digest, HASH_BYTES);
		return;
	}
	__real_hash_sha256(out, parts, count);
	remember(out, NULL, 0, parts, count);
}

void __wrap_hash_hmac(uint8_t *out, const void *key, size_t key_size, const struct hash_part *parts, size_t count)
{
	const struct answer *a;

	if (size_of(parts, count) < LONG_BYTES || key_size == 0 || key_size > KEY_MAX) {
		__real_hash_hmac(out, key, key_size, parts, count);
		return;
	}
	a = find(key, key_size, parts, count);
	if (a != NULL) {
		memcpy(out, a->digest, HASH_BYTES);
		return;
	}
	__real_hash_hmac(out, key, key_size, parts, count);
	remember(out, key, key_size, parts, count);
}
