/* Known answers, run on every kernel before it may be used. The answers come from an independent library (pyca/cryptography, that
 * is OpenSSL) on the patterns below, and for XAES from its specification. What must hold: every path of a kernel (no block, one,
 * a part of one, several groups, a whole sector) is walked in both directions, and a bad tag is refused with nothing left in the
 * output. */
#include <stdalign.h>
#include <string.h>

#include "base/error.h"
#include "kernel.h"

enum { TEXT_MAX = 4096, AAD_MAX = 65 };

struct gcm_answer {
	size_t size;
	size_t aad_size;
	uint8_t fold[16]; /* the exclusive-or of the ciphertext's 16-byte blocks */
	uint8_t tag[AEAD_TAG_BYTES];
};

struct xaes_answer {
	uint8_t key_byte;
	const char *aad;
	uint8_t sealed[28]; /* 12 bytes of ciphertext, then the tag */
};

// clang-format off
static const struct gcm_answer gcm_answers[] = {
	{ 0, 0,
	  { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 },
	  { 0x38, 0x75, 0x9d, 0xd5, 0xf2, 0x71, 0x98, 0xc3, 0x14, 0x41, 0x89, 0x91, 0xcc, 0x2e, 0x8c, 0x70 } },
	{ 0, 16,
	  { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 },
	  { 0x01, 0x45, 0x87, 0x32, 0x3b, 0x4a, 0xc2, 0xf8, 0x22, 0xd0, 0xb6, 0x7c, 0x84, 0x71, 0x09, 0x4e } },
	{ 16, 0,
	  { 0xe4, 0x42, 0x2f, 0x68, 0xf4, 0x60, 0x76, 0x8d, 0x6d, 0x50, 0xe7, 0x10, 0xad, 0x06, 0xc9, 0x05 },
	  { 0xbb, 0x32, 0x2d, 0xcf, 0x61, 0x48, 0x2c, 0x87, 0xa1, 0x8d, 0xbd, 0xfe, 0xcb, 0x86, 0x66, 0xb1 } },
	{ 60, 20,
	  { 0x8e, 0x8f, 0x74, 0x85, 0xc5, 0x88, 0xca, 0x64, 0x43, 0x89, 0x2a, 0x42, 0x69, 0xa4, 0xeb, 0x36 },
	  { 0x0e, 0x47, 0x7f, 0xe3, 0xec, 0x14, 0x9d, 0xb1, 0xdb, 0xa9, 0x53, 0x41, 0x5c, 0x30, 0x99, 0x38 } },
	{ 333, 65,
	  { 0x29, 0x42, 0x9f, 0x81, 0xce, 0xbd, 0xf4, 0xf5, 0xb8, 0xbf, 0x8e, 0x77, 0x77, 0x0f, 0xc8, 0xd6 },
	  { 0xf0, 0x4c, 0x45, 0x7f, 0x29, 0x1e, 0x89, 0xdc, 0x4e, 0x2f, 0x39, 0x96, 0xa6, 0xb4, 0xa7, 0x68 } },
	{ 4096, 48,
	  { 0x82, 0x1e, 0x28, 0x24, 0xea, 0x4e, 0x15, 0x4b, 0x68, 0xb9, 0x48, 0xa3, 0x1e, 0x38, 0x98, 0xad },
	  { 0x7d, 0x77, 0xad, 0x21, 0x20, 0xde, 0x46, 0x2d, 0xa8, 0x8d, 0x96, 0x00, 0x44, 0x16, 0xaf, 0xd3 } },
};

static const struct xaes_answer xaes_answers[] = {
	{ 0x01, "",
	  { 0xce, 0x54, 0x6e, 0xf6, 0x3c, 0x9c, 0xc6, 0x07, 0x65, 0x92, 0x36, 0x09, 0xb3, 0x3a,
	    0x9a, 0x19, 0x74, 0xe9, 0x6e, 0x52, 0xda, 0xf2, 0xfc, 0xf7, 0x07, 0x5e, 0x22, 0x71 } },
	{ 0x03, "c2sp.org/XAES-256-GCM",
	  { 0x98, 0x6e, 0xc1, 0x83, 0x25, 0x93, 0xdf, 0x54, 0x43, 0xa1, 0x79, 0x43, 0x7f, 0xd0,
	    0x83, 0xbf, 0x3f, 0xdb, 0x41, 0xab, 0xd7, 0x40, 0xa2, 0x1f, 0x71, 0xeb, 0x76, 0x9d } },
};
// clang-format on

/* What one test needs, on the stack of the caller: the keys are public, nothing here is a secret. */
struct bench {
	alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	uint8_t text[TEXT_MAX];
	uint8_t sealed[TEXT_MAX];
	uint8_t aad[AAD_MAX];
	uint8_t tag[AEAD_TAG_BYTES];
};

/* Byte i is i * step + start + i / 256. */
static void fill(uint8_t *out, size_t size, unsigned step, unsigned start)
{
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(i * step + start + (i >> 8));
}

static bool folds_to(const uint8_t *bytes, size_t size, const uint8_t fold[static 16])
{
	uint8_t sum[16] = { 0 };

	for (size_t i = 0; i < size; i++)
		sum[i % 16] ^= bytes[i];
	return memcmp(sum, fold, sizeof sum) == 0;
}

static bool is_pattern(const uint8_t *bytes, size_t size, unsigned step, unsigned start)
{
	uint8_t wrong = 0;

	for (size_t i = 0; i < size; i++)
		wrong |= (uint8_t)(bytes[i] ^ (uint8_t)(i * step + start + (i >> 8)));
	return wrong == 0;
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
	uint8_t any = 0;

	for (size_t i = 0; i < size; i++)
		any |= bytes[i];
	return any == 0;
}

/* With one bit of the tag's byte `byte` turned, the item must come out as zeroes; the tag is put right again. */
static bool refuses(const struct aead_kernel *kernel, struct bench *b, struct aead_item *item, size_t byte)
{
	bool refused;

	memset(b->text, 0xff, sizeof b->text);
	b->tag[byte] ^= (uint8_t)(1 << byte % 8);
	refused = kernel->open_run(b->state, item, 1) == 1 && !item->good && all_zero(b->text, item->size);
	b->tag[byte] ^= (uint8_t)(1 << byte % 8);
	return refused;
}

/* b->sealed must be refused with a wrong tag, then open to the pattern, in place at last. */
static bool opens(const struct aead_kernel *kernel, struct bench *b, struct aead_item *item)
{
	item->in = b->sealed;
	item->out = b->text;
	for (size_t byte = 0; byte < AEAD_TAG_BYTES; byte++) {
		if (!refuses(kernel, b, item, byte))
			return false;
	}
	if (kernel->open_run(b->state, item, 1) != 0 || !item->good || !is_pattern(b->text, item->size, 7, 3))
		return false;
	item->out = b->sealed;
	return kernel->open_run(b->state, item, 1) == 0 && item->good && is_pattern(b->sealed, item->size, 7, 3);
}

static bool gives_gcm(const struct aead_kernel *kernel, struct bench *b, const struct gcm_answer *answer)
{
	uint8_t key[AEAD_KEY_BYTES];
	struct aead_item item = {
		.out = b->sealed, .in = b->text, .tag = b->tag, .aad = b->aad, .size = answer->size, .aad_size = answer->aad_size
	};

	fill(key, sizeof key, 3, 1);
	fill(item.iv, sizeof item.iv, 5, 2);
	fill(b->text, answer->size, 7, 3);
	fill(b->aad, answer->aad_size, 11, 4);
	kernel->expand(b->state, key);
	kernel->seal_run(b->state, &item, 1);
	if (memcmp(b->tag, answer->tag, sizeof b->tag) != 0 || !folds_to(b->sealed, answer->size, answer->fold))
		return false;
	return opens(kernel, b, &item);
}

static bool gives_xaes(const struct aead_kernel *kernel, struct bench *b, const struct xaes_answer *answer)
{
	static const char nonce[] = "ABCDEFGHIJKLMNOPQRSTUVWX";
	alignas(AEAD_KEY_STATE_ALIGN) uint8_t subkey[AEAD_KEY_STATE_MAX];
	uint8_t key[AEAD_KEY_BYTES];
	struct aead_item item = { .out = b->sealed,
				  .in = (const uint8_t *)"XAES-256-GCM",
				  .tag = b->tag,
				  .size = 12,
				  .aad = (const uint8_t *)answer->aad,
				  .aad_size = strlen(answer->aad) };

	memset(key, answer->key_byte, sizeof key);
	memcpy(item.iv, nonce + AEAD_SALT_BYTES, AEAD_IV_BYTES);
	kernel->expand(b->state, key);
	aead_xaes_subkey(kernel, subkey, b->state, (const uint8_t *)nonce);
	kernel->seal_run(subkey, &item, 1);
	return memcmp(b->sealed, answer->sealed, 12) == 0 && memcmp(b->tag, answer->sealed + 12, AEAD_TAG_BYTES) == 0;
}

int aead_self_test(const struct aead_kernel *kernel)
{
	struct bench b;

	for (size_t i = 0; i < sizeof gcm_answers / sizeof gcm_answers[0]; i++) {
		if (!gives_gcm(kernel, &b, &gcm_answers[i]))
			return ERR_CORRUPT;
	}
	for (size_t i = 0; i < sizeof xaes_answers / sizeof xaes_answers[0]; i++) {
		if (!gives_xaes(kernel, &b, &xaes_answers[i]))
			return ERR_CORRUPT;
	}
	return 0;
}
