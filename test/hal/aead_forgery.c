/* One kernel against an attacker who turns single bits: every bit of a sector, of its tag, IV and AAD. What must hold: each one
 * is refused, the output is all zeroes, the count is right, and the good neighbours in the same run are untouched. */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hal/aead.h"

#include "aead_kernel_argument.h"

enum { SECTOR = 4096, AAD = 48 };

/* A sealed sector as the attacker holds it. */
struct sealed {
	uint8_t text[SECTOR];
	uint8_t tag[AEAD_TAG_BYTES];
	uint8_t iv[AEAD_IV_BYTES];
	uint8_t aad[AAD];
};

static const struct aead_kernel *kernel;
static alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
static uint8_t plain[SECTOR];
static const uint8_t zeroes[SECTOR];
static struct sealed original;

static int seal_original(void **unused)
{
	uint8_t key[AEAD_KEY_BYTES];
	struct aead_item item = {
		.out = original.text, .in = plain, .size = SECTOR, .tag = original.tag, .aad = original.aad, .aad_size = AAD
	};

	(void)unused;
	memset(key, 0x5a, sizeof key);
	for (size_t i = 0; i < SECTOR; i++)
		plain[i] = (uint8_t)(1 + i % 251);
	memset(original.iv, 0x17, sizeof original.iv);
	memset(original.aad, 0x71, sizeof original.aad);
	memcpy(item.iv, original.iv, sizeof item.iv);
	kernel->expand(state, key);
	kernel->seal_run(state, &item, 1);
	return 0;
}

static struct aead_item item_of(struct sealed *s, uint8_t *out)
{
	struct aead_item item = { .out = out, .in = s->text, .size = SECTOR, .tag = s->tag, .aad = s->aad, .aad_size = AAD };

	memcpy(item.iv, s->iv, sizeof item.iv);
	return item;
}

/* Every third in place: what is wiped then is the ciphertext's own buffer. */
static void expect_refusal(struct sealed *s, size_t bit)
{
	static uint8_t elsewhere[SECTOR];
	uint8_t *out = bit % 3 == 0 ? s->text : elsewhere;
	struct aead_item item = item_of(s, out);

	memset(elsewhere, 0xff, sizeof elsewhere);
	item.good = true;
	assert_int_equal(kernel->open_run(state, &item, 1), 1);
	assert_false(item.good);
	assert_memory_equal(out, zeroes, SECTOR);
}

static void turn_every_bit(size_t offset, size_t size)
{
	for (size_t bit = 0; bit < 8 * size; bit++) {
		struct sealed s = original;

		((uint8_t *)&s)[offset + bit / 8] ^= (uint8_t)(1 << bit % 8);
		expect_refusal(&s, bit);
	}
}

static void bits_of_the_text(void **unused)
{
	(void)unused;
	turn_every_bit(offsetof(struct sealed, text), SECTOR);
}

static void bits_of_the_tag(void **unused)
{
	(void)unused;
	turn_every_bit(offsetof(struct sealed, tag), AEAD_TAG_BYTES);
}

static void bits_of_the_iv(void **unused)
{
	(void)unused;
	turn_every_bit(offsetof(struct sealed, iv), AEAD_IV_BYTES);
}

static void bits_of_the_aad(void **unused)
{
	(void)unused;
	turn_every_bit(offsetof(struct sealed, aad), AAD);
}

/* The lengths are part of what is sealed. */
static void another_length(void **unused)
{
	static uint8_t out[SECTOR];

	(void)unused;
	for (size_t cut = 1; cut <= 200; cut++) {
		struct aead_item item = item_of(&original, out);

		item.size -= cut;
		memset(out, 0xff, sizeof out);
		assert_int_equal(kernel->open_run(state, &item, 1), 1);
		assert_memory_equal(out, zeroes, item.size);
		item = item_of(&original, out);
		item.aad_size -= cut % AAD;
		assert_int_equal(kernel->open_run(state, &item, 1), cut % AAD != 0);
	}
}

static void untouched_opens(void **unused)
{
	static uint8_t out[SECTOR];
	struct aead_item item = item_of(&original, out);

	(void)unused;
	assert_int_equal(kernel->open_run(state, &item, 1), 0);
	assert_true(item.good);
	assert_memory_equal(out, plain, SECTOR);
}

/* Item i is bad where i has the bit `turn`: all, none and every mixture of places. */
static void bad_among_good(void **unused)
{
	static struct sealed run[AEAD_RUN_MAX];
	static uint8_t out[AEAD_RUN_MAX][SECTOR];
	struct aead_item items[AEAD_RUN_MAX];

	(void)unused;
	for (size_t turn = 0; turn < 8; turn++) {
		size_t bad = 0;

		for (size_t i = 0; i < AEAD_RUN_MAX; i++) {
			const bool spoil = turn == 7 || (i >> turn & 1);

			run[i] = original;
			run[i].tag[i % AEAD_TAG_BYTES] ^= spoil;
			items[i] = item_of(&run[i], out[i]);
			bad += spoil;
		}
		assert_int_equal(kernel->open_run(state, items, AEAD_RUN_MAX), bad);
		for (size_t i = 0; i < AEAD_RUN_MAX; i++) {
			assert_int_equal(items[i].good, memcmp(run[i].tag, original.tag, AEAD_TAG_BYTES) == 0);
			assert_memory_equal(out[i], items[i].good ? plain : zeroes, SECTOR);
		}
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits_of_the_text), cmocka_unit_test(bits_of_the_tag), cmocka_unit_test(bits_of_the_iv),
		cmocka_unit_test(bits_of_the_aad),  cmocka_unit_test(another_length),  cmocka_unit_test(untouched_opens),
		cmocka_unit_test(bad_among_good),
	};

	kernel = kernel_argument(argc, argv);
	return cmocka_run_group_tests(tests, seal_original, NULL);
}
