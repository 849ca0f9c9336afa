/* SHA-256 (FIPS 180-4 examples), HMAC (RFC 4231) and the KDF (answers computed by python3-cryptography's KBKDFHMAC). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "hal/hash.h"

static void assert_hex(const uint8_t out[HASH_BYTES], const char *hex)
{
	char got[2 * HASH_BYTES + 1];

	for (size_t i = 0; i < HASH_BYTES; i++)
		snprintf(got + 2 * i, 3, "%02x", out[i]);
	assert_string_equal(got, hex);
}

static void sha256_of(uint8_t out[HASH_BYTES], const char *text)
{
	hash_sha256(out, &(struct hash_part){ text, strlen(text) }, 1);
}

static void sha256_examples(void **state)
{
	uint8_t out[HASH_BYTES];

	(void)state;
	hash_sha256(out, NULL, 0);
	assert_hex(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256_of(out, "abc");
	assert_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	sha256_of(out, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
	assert_hex(out, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void parts_are_their_concatenation(void **state)
{
	char text[300];
	uint8_t whole[HASH_BYTES], mac[HASH_BYTES], split[HASH_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)(i * 7);
	hash_sha256(whole, &(struct hash_part){ text, sizeof text }, 1);
	hash_hmac(mac, "key", 3, &(struct hash_part){ text, sizeof text }, 1);
	for (size_t cut = 0; cut <= sizeof text; cut++) {
		const struct hash_part parts[] = { { text, cut }, { NULL, 0 }, { text + cut, sizeof text - cut } };

		hash_sha256(split, parts, 3);
		assert_memory_equal(split, whole, HASH_BYTES);
		hash_hmac(split, "key", 3, parts, 3);
		assert_memory_equal(split, mac, HASH_BYTES);
	}
}

static void hmac_of(uint8_t out[HASH_BYTES], const void *key, size_t size, const char *text)
{
	hash_hmac(out, key, size, &(struct hash_part){ text, strlen(text) }, 1);
}

static void hmac_examples(void **state)
{
	uint8_t key[25], out[HASH_BYTES];
	char data[51] = { 0 };

	(void)state;
	memset(key, 0x0b, 20);
	hmac_of(out, key, 20, "Hi There");
	assert_hex(out, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
	hmac_of(out, "Jefe", 4, "what do ya want for nothing?");
	assert_hex(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(key, 0xaa, 20);
	memset(data, 0xdd, 50);
	hmac_of(out, key, 20, data);
	assert_hex(out, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
	for (uint8_t i = 0; i < 25; i++)
		key[i] = (uint8_t)(i + 1);
	memset(data, 0xcd, 50);
	hmac_of(out, key, 25, data);
	assert_hex(out, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
}

static void kdf_answers(void **state)
{
	uint8_t key[HASH_BYTES], context[16], out[HASH_BYTES];

	(void)state;
	for (uint8_t i = 0; i < 32; i++)
		key[i] = i;
	for (uint8_t i = 0; i < 16; i++)
		context[i] = (uint8_t)(0x40 + i);
	hash_kdf(out, key, "FGV1 test", context, sizeof context);
	assert_hex(out, "fe07b7d1f823130a57eeb1a240697856b40987cd5f76ded8ccda3191e6234a5d");
	hash_kdf(out, key, "x", NULL, 0);
	assert_hex(out, "3eb3b0eddf7b90abfabb877dcb523ab3fb03936dd0ee44ff526e60d508fb7640");
}

static void the_output_may_be_the_key(void **state)
{
	uint8_t key[HASH_BYTES] = { 1 }, apart[HASH_BYTES];

	(void)state;
	hash_kdf(apart, key, "label", "c", 1);
	hash_kdf(key, key, "label", "c", 1);
	assert_memory_equal(key, apart, HASH_BYTES);
}

static void a_key_that_is_too_long_ends_the_process(void **state)
{
	uint8_t key[65] = { 0 }, out[HASH_BYTES];
	int status;
	pid_t child = fork();

	(void)state;
	if (child == 0) {
		close(STDERR_FILENO);
		hash_hmac(out, key, 65, NULL, 0);
		_exit(0);
	}
	waitpid(child, &status, 0);
	assert_int_equal(WEXITSTATUS(status), 70);
}

enum { STACK = 65536 };

/* Contexts take no pointers portably: what the KDF works on while it runs on a stack of its own. */
static struct {
	ucontext_t back, run;
	uint8_t key[HASH_BYTES], out[HASH_BYTES];
	uint8_t *stack;
} on;

static void run_kdf(void)
{
	hash_kdf(on.out, on.key, "label", "context", 7);
}

/* Any 8 bytes in a row of the 32, each XORed with pad. */
static bool on_stack(const uint8_t *secret, uint8_t pad)
{
	uint8_t piece[8];

	for (size_t at = 0; at + sizeof piece <= HASH_BYTES; at++) {
		for (size_t i = 0; i < sizeof piece; i++)
			piece[i] = (uint8_t)(secret[at + i] ^ pad);
		if (memmem(on.stack, STACK, piece, sizeof piece) != NULL)
			return true;
	}
	return false;
}

static void no_key_stays_on_the_stack(void **state)
{
	(void)state;
	on.stack = calloc(1, STACK);
	for (uint8_t i = 0; i < HASH_BYTES; i++)
		on.key[i] = (uint8_t)(0x91 + 5 * i);
	getcontext(&on.run);
	on.run.uc_stack.ss_sp = on.stack;
	on.run.uc_stack.ss_size = STACK;
	on.run.uc_link = &on.back;
	makecontext(&on.run, run_kdf, 0);
	assert_int_equal(swapcontext(&on.back, &on.run), 0);
	assert_false(on_stack(on.key, 0));
	assert_false(on_stack(on.key, 0x36));
	assert_false(on_stack(on.key, 0x5c));
	assert_false(on_stack(on.out, 0));
	memcpy(on.stack + 1000, on.key, HASH_BYTES); /* the search does find one */
	assert_true(on_stack(on.key, 0));
	free(on.stack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hmac_examples),
		cmocka_unit_test(sha256_examples),
		cmocka_unit_test(parts_are_their_concatenation),
		cmocka_unit_test(kdf_answers),
		cmocka_unit_test(no_key_stays_on_the_stack),
		cmocka_unit_test(the_output_may_be_the_key),
		cmocka_unit_test(a_key_that_is_too_long_ends_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
