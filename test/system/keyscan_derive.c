/* Everything that a key turns into on its way to the disk, so that it can be looked for: the domain keys, every kernel's expanded
 * state, AES round keys in the forms that other code keeps, powers of the hash key in the byte orders in use.
 * What must hold: the schedule and the field here are written for clarity, from FIPS 197 and SP 800-38D, not shared with the
 * kernels; test_keyscan.c compares them with a kernel's block. */
#include "keyscan.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hal/aead.h"
#include "hal/hash.h"

enum { SALTS_MAX = 256, ROUNDS = 14, POWERS = 16, UUID = 16, PAYLOAD = 48 };

struct input {
	uint8_t payload[PAYLOAD], uuid[UUID];
	uint32_t gen_no;
	uint8_t salts[SALTS_MAX][AEAD_SALT_BYTES];
	size_t salt_count;
	bool have_payload, have_uuid;
};

static bool read_line(struct input *in, const char *line)
{
	if (strncmp(line, "payload ", 8) == 0)
		return in->have_payload = hex_parse(line + 8, in->payload, PAYLOAD);
	if (strncmp(line, "uuid ", 5) == 0)
		return in->have_uuid = hex_parse(line + 5, in->uuid, UUID);
	if (strncmp(line, "gen ", 4) == 0)
		return (in->gen_no = (uint32_t)strtoul(line + 4, NULL, 10)) != 0;
	if (strncmp(line, "salt ", 5) == 0 && in->salt_count < SALTS_MAX)
		return hex_parse(line + 5, in->salts[in->salt_count++], AEAD_SALT_BYTES);
	return false;
}

static void print(FILE *out, const uint8_t *bytes, size_t size, const char *label, const char *part, int number)
{
	for (size_t i = 0; i < size; i++)
		fprintf(out, "%02x", bytes[i]);
	fprintf(out, " %s %s", label, part);
	if (number >= 0)
		fprintf(out, "[%d]", number);
	fputc('\n', out);
}

/* ---- GF(2^8) and the schedule ---- */

static uint8_t times(uint8_t a, uint8_t b)
{
	unsigned r = 0, x = a;

	for (int i = 0; i < 8; i++) {
		if (b >> i & 1)
			r ^= x;
		x = x << 1 ^ (x & 0x80 ? 0x11b : 0);
	}
	return (uint8_t)r;
}

static uint8_t rotate_left(uint8_t v, int by)
{
	return (uint8_t)(v << by | v >> (8 - by));
}

static uint8_t sbox(uint8_t v)
{
	uint8_t inverse = 1;

	/* v^254 is the inverse, and 0 of 0 */
	for (int i = 0; i < 254; i++)
		inverse = times(inverse, v);
	if (v == 0)
		inverse = 0;
	return inverse ^ rotate_left(inverse, 1) ^ rotate_left(inverse, 2) ^ rotate_left(inverse, 3) ^ rotate_left(inverse, 4) ^
	       0x63;
}

static void schedule(uint8_t keys[ROUNDS + 1][16], const uint8_t key[32])
{
	uint8_t *w = keys[0];
	uint8_t constant = 1;

	memcpy(w, key, 32);
	for (int i = 8; i < 4 * (ROUNDS + 1); i++) {
		uint8_t t[4];

		memcpy(t, w + 4 * (i - 1), 4);
		if (i % 8 == 0) {
			uint8_t first = t[0];

			t[0] = sbox(t[1]) ^ constant;
			t[1] = sbox(t[2]);
			t[2] = sbox(t[3]);
			t[3] = sbox(first);
			constant = times(constant, 2);
		} else if (i % 8 == 4) {
			for (int j = 0; j < 4; j++)
				t[j] = sbox(t[j]);
		}
		for (int j = 0; j < 4; j++)
			w[4 * i + j] = w[4 * (i - 8) + j] ^ t[j];
	}
}

static void inverse_mix(uint8_t out[16], const uint8_t in[16])
{
	static const uint8_t row[4] = { 14, 11, 13, 9 };

	for (int column = 0; column < 4; column++)
		for (int r = 0; r < 4; r++) {
			uint8_t sum = 0;

			for (int k = 0; k < 4; k++)
				sum ^= times(in[4 * column + k], row[(k - r + 4) % 4]);
			out[4 * column + r] = sum;
		}
}

static void reverse(uint8_t *out, const uint8_t *in, size_t size, size_t word)
{
	for (size_t i = 0; i < size; i++)
		out[i] = in[i / word * word + word - 1 - i % word];
}

static void print_schedule(FILE *out, const uint8_t key[32], const char *label)
{
	uint8_t keys[ROUNDS + 1][16], other[16];

	schedule(keys, key);
	for (int i = 0; i <= ROUNDS; i++) {
		print(out, keys[i], 16, label, "round key", i);
		reverse(other, keys[i], 16, 4);
		print(out, other, 16, label, "round key, words reversed", i);
		reverse(other, keys[i], 16, 16);
		print(out, other, 16, label, "round key, reversed", i);
		inverse_mix(other, keys[i]);
		if (i > 0 && i < ROUNDS)
			print(out, other, 16, label, "decryption round key", i);
	}
}

/* ---- GF(2^128) in GCM's bit order ---- */

struct field {
	uint64_t high, low; /* big-endian halves: bit 63 of high is the coefficient of x^0 */
};

static struct field times_x(struct field v)
{
	bool carry = v.low & 1;

	v.low = v.low >> 1 | v.high << 63;
	v.high = v.high >> 1 ^ (carry ? 0xe100000000000000u : 0);
	return v;
}

static struct field multiply(struct field a, struct field b)
{
	struct field sum = { 0, 0 };

	for (int i = 0; i < 128; i++) {
		uint64_t half = i < 64 ? a.high : a.low;

		if (half >> (63 - i % 64) & 1) {
			sum.high ^= b.high;
			sum.low ^= b.low;
		}
		b = times_x(b);
	}
	return sum;
}

/* One bit up in the carry-less product's order, with GCM's polynomial folded in: what multipliers keep instead of H. */
static struct field twist(struct field v)
{
	uint64_t carry = v.high >> 63;

	v.high = v.high << 1 | v.low >> 63;
	v.low <<= 1;
	if (carry != 0) {
		v.high ^= 0xc200000000000000u;
		v.low ^= 1;
	}
	return v;
}

static void print_forms(FILE *out, struct field v, const char *label, const char *part, int number)
{
	uint8_t plain[16], other[16];
	char name[96];

	put_be64(plain, v.high);
	put_be64(plain + 8, v.low);
	print(out, plain, 16, label, part, number);
	snprintf(name, sizeof name, "%s, reversed", part);
	reverse(other, plain, 16, 16);
	print(out, other, 16, label, name, number);
	snprintf(name, sizeof name, "%s, words reversed", part);
	reverse(other, plain, 16, 4);
	print(out, other, 16, label, name, number);
}

/* Halves are what is matched, so swapped halves need no form of their own. */
static void print_powers(FILE *out, const uint8_t h[16], const char *label)
{
	struct field base = { get_be64(h), get_be64(h + 8) }, power = base;

	for (int i = 1; i <= POWERS; i++) {
		print_forms(out, power, label, "H^n", i);
		print_forms(out, twist(power), label, "H^n twisted", i);
		power = multiply(power, base);
	}
}

/* ---- keys ---- */

static void print_states(FILE *out, const uint8_t key[32], const char *label)
{
	static _Alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	char part[64];

	for (const struct aead_kernel *const *k = aead_kernels(); *k != NULL; k++) {
		if (!(*k)->usable())
			continue;
		memset(state, 0, sizeof state);
		(*k)->expand(state, key);
		snprintf(part, sizeof part, "%s state", (*k)->name);
		for (size_t at = 0; at + 16 <= (*k)->key_state_size; at += 16)
			print(out, state + at, 16, label, part, (int)(at / 16));
	}
}

static void print_aes_key(FILE *out, const uint8_t key[32], const char *label)
{
	static _Alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	const struct aead_kernel *portable = aead_kernel_by_name("portable");
	const uint8_t zero[16] = { 0 };
	uint8_t h[16];

	print(out, key, 32, label, "key", -1);
	print_schedule(out, key, label);
	print_states(out, key, label);
	portable->expand(state, key);
	portable->encrypt_block(state, h, zero);
	print_powers(out, h, label);
}

/* XAES-256-GCM's derivation (C2SP): two blocks under the master key, CMAC's doubling in front. */
static void xaes_key(uint8_t out[32], const uint8_t master[32], const uint8_t salt[AEAD_SALT_BYTES])
{
	static _Alignas(AEAD_KEY_STATE_ALIGN) uint8_t state[AEAD_KEY_STATE_MAX];
	const struct aead_kernel *portable = aead_kernel_by_name("portable");
	uint8_t l[16] = { 0 }, block[16];
	uint8_t carry;

	portable->expand(state, master);
	portable->encrypt_block(state, l, l);
	carry = l[0] >> 7;
	for (int i = 0; i < 15; i++)
		l[i] = (uint8_t)(l[i] << 1 | l[i + 1] >> 7);
	l[15] = (uint8_t)(l[15] << 1 ^ (carry ? 0x87 : 0));
	for (uint8_t half = 0; half < 2; half++) {
		memset(block, 0, sizeof block);
		block[1] = (uint8_t)(half + 1);
		block[2] = 0x58;
		memcpy(block + 4, salt, AEAD_SALT_BYTES);
		for (int i = 0; i < 16; i++)
			block[i] ^= l[i];
		portable->encrypt_block(state, out + 16 * half, block);
	}
}

static void print_domain(FILE *out, const struct input *in, const uint8_t *context, size_t size, const char *label)
{
	uint8_t key[32], sub[32];
	char name[64];

	hash_kdf(key, in->payload, label, context, size);
	print_aes_key(out, key, label);
	for (size_t i = 0; i < in->salt_count; i++) {
		xaes_key(sub, key, in->salts[i]);
		snprintf(name, sizeof name, "%s salt %zu", label, i);
		print_aes_key(out, sub, name);
	}
}

static void print_hex_text(FILE *out, const uint8_t dek[32])
{
	char text[65];

	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", dek[i]);
	print(out, (const uint8_t *)text, 64, "DEK", "as hex", -1);
}

int keyscan_derive(FILE *file, FILE *out)
{
	static const char *const domains[] = { "FGV1 data", "FGV1 node", "FGV1 log", "FGV1 root" };
	static const char *const others[] = { "FGV1 hdr", "FGV1 kcv" };
	struct input in = { .gen_no = 1 };
	uint8_t context[UUID + 4], key[32];
	char line[256];

	while (fgets(line, sizeof line, file) != NULL)
		if (!read_line(&in, line)) {
			fputs("keyscan: a line is not one of payload HEX96, uuid HEX32, gen N, salt HEX24 (at most 256)\n",
			      stderr);
			return -1;
		}
	if (!in.have_payload || !in.have_uuid) {
		fputs("keyscan: --derive needs a payload and a uuid\n", stderr);
		return -1;
	}
	memcpy(context, in.uuid, UUID);
	put_le32(context + UUID, in.gen_no);
	print_aes_key(out, in.payload, "DEK");
	print_hex_text(out, in.payload);
	for (size_t i = 0; i < sizeof domains / sizeof domains[0]; i++)
		print_domain(out, &in, context, sizeof context, domains[i]);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		hash_kdf(key, in.payload, others[i], context, sizeof context);
		print(out, key, sizeof key, others[i], "key", -1);
	}
	explicit_bzero(&in, sizeof in);
	return fflush(out) == 0 ? 0 : -1;
}
