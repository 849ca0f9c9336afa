/* One kernel against three others (OpenSSL, mbedTLS, portable) on random messages: every size to 300 bytes and a sector, every
 * run length, in place and not, at every alignment. What must hold: all say the same bytes, and a kernel writes nothing outside
 * its output and its tag. The generator is fixed, so that a failure comes again. */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <mbedtls/gcm.h>
#include <openssl/evp.h>

#include "hal/aead.h"

#include "aead_kernel_argument.h"

enum { SIZE_MAX_BYTES = 3 * 4096 + 600, AAD_MAX = 600, SLACK = 32, FENCE = 0xa5 };

/* A message and room around its output, to see what is written beside it. */
struct message {
	uint8_t in[SIZE_MAX_BYTES + SLACK];
	uint8_t out[SIZE_MAX_BYTES + 2 * SLACK];
	uint8_t tag[AEAD_TAG_BYTES + 2 * SLACK];
	uint8_t aad[AAD_MAX + SLACK];
	uint8_t expected[SIZE_MAX_BYTES];
	uint8_t expected_tag[AEAD_TAG_BYTES];
	size_t shift;
};

static const struct aead_kernel *kernel;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t reference_state[AEAD_KEY_STATE_MAX];
static uint8_t key[AEAD_KEY_BYTES];
static struct message messages[AEAD_RUN_MAX];
static struct aead_item items[AEAD_RUN_MAX];
static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t random_word(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static size_t random_below(size_t limit)
{
	return (size_t)(random_word() % limit);
}

static void random_bytes(uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(random_word() >> 24);
}

static void new_key(void)
{
	random_bytes(key, sizeof key);
	kernel->expand(state, key);
}

/* Every buffer at its own odd place; `in_place` puts the plaintext into the output. */
static void prepare(struct aead_item *item, struct message *m, size_t size, size_t aad_size, bool in_place)
{
	m->shift = random_below(SLACK);
	memset(m->out, FENCE, sizeof m->out);
	memset(m->tag, FENCE, sizeof m->tag);
	*item = (struct aead_item){ .size = size, .aad_size = aad_size };
	item->in = m->in + random_below(SLACK);
	item->out = m->out + SLACK + m->shift % SLACK - SLACK / 2;
	item->tag = m->tag + SLACK;
	item->aad = aad_size == 0 ? NULL : m->aad + random_below(SLACK);
	random_bytes(item->iv, sizeof item->iv);
	random_bytes(m->in, sizeof m->in);
	random_bytes(m->aad, sizeof m->aad);
	if (!in_place)
		return;
	memcpy(item->out, item->in, size);
	item->in = item->out;
}

static void seal_openssl(const struct aead_item *item, const uint8_t *in, uint8_t *out, uint8_t *tag)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t none[16];
	int n;

	assert_non_null(c);
	assert_int_equal(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, item->iv), 1);
	if (item->aad_size > 0)
		assert_int_equal(EVP_EncryptUpdate(c, NULL, &n, item->aad, (int)item->aad_size), 1);
	if (item->size > 0)
		assert_int_equal(EVP_EncryptUpdate(c, out, &n, in, (int)item->size), 1);
	assert_int_equal(EVP_EncryptFinal_ex(c, none, &n), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, tag), 1);
	EVP_CIPHER_CTX_free(c);
}

static void seal_mbedtls(const struct aead_item *item, const uint8_t *in, uint8_t *out, uint8_t *tag)
{
	mbedtls_gcm_context c;

	mbedtls_gcm_init(&c);
	assert_int_equal(mbedtls_gcm_setkey(&c, MBEDTLS_CIPHER_ID_AES, key, 256), 0);
	assert_int_equal(mbedtls_gcm_crypt_and_tag(&c, MBEDTLS_GCM_ENCRYPT, item->size, item->iv, AEAD_IV_BYTES, item->aad,
						   item->aad_size, in, out, AEAD_TAG_BYTES, tag),
			 0);
	mbedtls_gcm_free(&c);
}

/* The three references' common answer, before the kernel may change the input in place. */
static void expect(const struct aead_item *item, struct message *m)
{
	const struct aead_kernel *portable = aead_kernel_by_name("portable");
	uint8_t other[SIZE_MAX_BYTES];
	uint8_t other_tag[AEAD_TAG_BYTES];
	struct aead_item copy = *item;

	seal_openssl(item, item->in, m->expected, m->expected_tag);
	seal_mbedtls(item, item->in, other, other_tag);
	assert_memory_equal(other, m->expected, item->size);
	assert_memory_equal(other_tag, m->expected_tag, AEAD_TAG_BYTES);

	copy.out = other;
	copy.tag = other_tag;
	portable->expand(reference_state, key);
	portable->seal_run(reference_state, &copy, 1);
	assert_memory_equal(other, m->expected, item->size);
	assert_memory_equal(other_tag, m->expected_tag, AEAD_TAG_BYTES);
}

static void check_fences(const struct aead_item *item, const struct message *m)
{
	const size_t start = (size_t)(item->out - m->out);

	for (size_t i = 0; i < sizeof m->out; i++) {
		if (i < start || i >= start + item->size)
			assert_int_equal(m->out[i], FENCE);
	}
	for (size_t i = 0; i < sizeof m->tag; i++) {
		if (i < SLACK || i >= SLACK + AEAD_TAG_BYTES)
			assert_int_equal(m->tag[i], FENCE);
	}
}

/* Seals the first `count` items, compares, then opens them in place and compares again. */
static void seal_and_open(size_t count)
{
	static uint8_t plain[AEAD_RUN_MAX][SIZE_MAX_BYTES];

	for (size_t i = 0; i < count; i++) {
		memcpy(plain[i], items[i].in, items[i].size);
		expect(&items[i], &messages[i]);
	}
	kernel->seal_run(state, items, count);
	for (size_t i = 0; i < count; i++) {
		assert_memory_equal(items[i].out, messages[i].expected, items[i].size);
		assert_memory_equal(items[i].tag, messages[i].expected_tag, AEAD_TAG_BYTES);
		items[i].in = messages[i].expected;
		if (i % 2 == 0)
			items[i].in = items[i].out;
		else
			memset(items[i].out, 0, items[i].size);
	}
	assert_int_equal(kernel->open_run(state, items, count), 0);
	for (size_t i = 0; i < count; i++) {
		assert_true(items[i].good);
		assert_memory_equal(items[i].out, plain[i], items[i].size);
		check_fences(&items[i], &messages[i]);
	}
}

static void sizes(void **unused)
{
	(void)unused;
	for (size_t size = 0; size <= 300; size++) {
		if (size % 16 == 0)
			new_key();
		for (size_t i = 0; i < 4; i++)
			prepare(&items[i], &messages[i], size, i == 0 ? 0 : random_below(AAD_MAX), i >= 2);
		seal_and_open(4);
	}
}

/* The chunks of GHASH end elsewhere for each length of the AAD. */
static void associated_data(void **unused)
{
	(void)unused;
	new_key();
	for (size_t aad_size = 0; aad_size <= AAD_MAX; aad_size += 1 + aad_size / 100) {
		prepare(&items[0], &messages[0], random_below(1200), aad_size, false);
		prepare(&items[1], &messages[1], 512, aad_size, true);
		seal_and_open(2);
	}
}

static void run_lengths(void **unused)
{
	(void)unused;
	for (size_t count = 0; count <= AEAD_RUN_MAX; count++) {
		new_key();
		for (size_t i = 0; i < count; i++)
			prepare(&items[i], &messages[i], i % 5 == 4 ? random_below(300) : 4096, i % 7 == 6 ? 0 : 48,
				random_below(2));
		seal_and_open(count);
	}
}

static void long_messages(void **unused)
{
	(void)unused;
	new_key();
	for (size_t size = 4096 - 130; size <= 4096 + 128; size += 3) {
		prepare(&items[0], &messages[0], size, 48, size % 2 == 0);
		seal_and_open(1);
	}
}

/* Longer than any kernel's table of powers: what is carried from chunk to chunk, after associated data of each kind. */
static void several_chunks(void **unused)
{
	static const size_t aad_sizes[] = { 0, 16, 48, 64, 65, 600 };

	(void)unused;
	new_key();
	for (size_t size = 4096 + 256; size <= SIZE_MAX_BYTES; size += 61) {
		for (size_t i = 0; i < 6; i++)
			prepare(&items[i], &messages[i], size - size % (1 + 31 * (i % 3)), aad_sizes[i], i % 2 == 0);
		seal_and_open(6);
	}
}

/* The count of blocks goes through its second and third byte. */
static void a_long_message(void **unused)
{
	enum { SIZE = (65536 + 300) * 16 + 5 };
	static uint8_t text[SIZE], sealed[SIZE], expected[SIZE];
	uint8_t tag[AEAD_TAG_BYTES], expected_tag[AEAD_TAG_BYTES];
	struct aead_item item = { .in = text, .out = sealed, .tag = tag, .size = SIZE };

	(void)unused;
	new_key();
	random_bytes(text, sizeof text);
	seal_openssl(&item, text, expected, expected_tag);
	kernel->seal_run(state, &item, 1);
	assert_memory_equal(sealed, expected, SIZE);
	assert_memory_equal(tag, expected_tag, sizeof tag);
	item.in = item.out = sealed;
	assert_int_equal(kernel->open_run(state, &item, 1), 0);
	assert_memory_equal(sealed, text, SIZE);
}

static void xaes_subkeys(void **unused)
{
	const struct aead_kernel *portable = aead_kernel_by_name("portable");
	static alignas(AEAD_KEY_STATE_ALIGN) uint8_t subkey[AEAD_KEY_STATE_MAX];
	static alignas(AEAD_KEY_STATE_ALIGN) uint8_t reference_subkey[AEAD_KEY_STATE_MAX];
	uint8_t salt[AEAD_SALT_BYTES];
	uint8_t block[16];
	uint8_t expected[16];

	(void)unused;
	for (int i = 0; i < 100; i++) {
		new_key();
		random_bytes(salt, sizeof salt);
		random_bytes(block, sizeof block);
		portable->expand(reference_state, key);
		aead_xaes_subkey(portable, reference_subkey, reference_state, salt);
		aead_xaes_subkey(kernel, subkey, state, salt);
		portable->encrypt_block(reference_subkey, expected, block);
		kernel->encrypt_block(subkey, block, block);
		assert_memory_equal(block, expected, sizeof block);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run_lengths),   cmocka_unit_test(sizes),          cmocka_unit_test(associated_data),
		cmocka_unit_test(long_messages), cmocka_unit_test(several_chunks), cmocka_unit_test(a_long_message),
		cmocka_unit_test(xaes_subkeys),
	};

	kernel = kernel_argument(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
