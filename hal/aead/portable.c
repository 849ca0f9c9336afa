/* AES-256-GCM in constant-time C for any processor: the definition of correct. The cipher is bitsliced 32 blocks at a time; GHASH
 * multiplies integers with holes. What must hold: no table, index or branch depends on a secret, only on lengths. Assumed: the
 * processor multiplies 64-bit integers in a time that does not depend on their values, as all 64-bit ones the project runs on do.
 *
 * Bitslicing: plane p is the bit p of each of a block's four 32-bit little-endian columns. Its lane c belongs to column c, and
 * the bit b of a lane to block b. So the bit j of the byte in row r is plane 8r + j, ShiftRows moves lanes, and MixColumns adds
 * rows. */
#include <string.h>

#include "base/bytes.h"
#include "kernel.h"

enum {
	ROUNDS = 14,
	BLOCK = 16,
	WIDE = 32, /* blocks in one batch: the bits of a lane */
	KEY_WORDS = 4 * (ROUNDS + 1),
	PLANES = 32,
};

#define APART __attribute__((noinline))

typedef uint32_t plane __attribute__((vector_size(16)));
typedef int32_t signed_plane __attribute__((vector_size(16)));

struct portable_state {
	uint32_t round_keys[KEY_WORDS]; /* little-endian columns, as FIPS 197 numbers them */
	uint64_t hash_high, hash_low;   /* H times x in the reflected field */
};

#define KEY_STATE_SIZE ((sizeof(struct portable_state) + 63) / 64 * 64)

/* The S-box on eight bit planes, b[0] the lowest bit: the circuit of 113 gates of Boyar and Peralta ("A depth-16 circuit for the
 * AES S-box", 2011), with their names. */
static inline __attribute__((always_inline)) void sub_bytes(plane b[static 8])
{
	const plane u0 = b[7], u1 = b[6], u2 = b[5], u3 = b[4], u4 = b[3], u5 = b[2], u6 = b[1], u7 = b[0];
	const plane y14 = u3 ^ u5, y13 = u0 ^ u6, y9 = u0 ^ u3, y8 = u0 ^ u5;
	const plane t0 = u1 ^ u2, y1 = t0 ^ u7, y4 = y1 ^ u3, y12 = y13 ^ y14;
	const plane y2 = y1 ^ u0, y5 = y1 ^ u6, y3 = y5 ^ y8, t1 = u4 ^ y12;
	const plane y15 = t1 ^ u5, y20 = t1 ^ u1, y6 = y15 ^ u7, y10 = y15 ^ t0;
	const plane y11 = y20 ^ y9, y7 = u7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8;
	const plane y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = u0 ^ y16;
	const plane t2 = y12 & y15, t4 = (y3 & y6) ^ t2, t6 = (y4 & u7) ^ t2;
	const plane t7 = y13 & y16, t9 = (y5 & y1) ^ t7, t11 = (y2 & y7) ^ t7;
	const plane t12 = y9 & y11, t14 = (y14 & y17) ^ t12, t16 = (y8 & y10) ^ t12;
	const plane t21 = t4 ^ t14 ^ y20, t22 = t6 ^ t16 ^ y19;
	const plane t23 = t9 ^ t14 ^ y21, t24 = t11 ^ t16 ^ y18;
	const plane t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26;
	const plane t29 = (t25 & t27) ^ t22, t30 = t23 ^ t24, t31 = t22 ^ t26;
	const plane t33 = (t31 & t30) ^ t24, t34 = t23 ^ t33, t35 = t27 ^ t33;
	const plane t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36;
	const plane t40 = t25 ^ (t29 & t38), t41 = t40 ^ t37, t42 = t29 ^ t33;
	const plane t43 = t29 ^ t40, t44 = t33 ^ t37, t45 = t42 ^ t41;
	const plane z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & u7, z3 = t43 & y16;
	const plane z4 = t40 & y1, z5 = t29 & y7, z6 = t42 & y11, z7 = t45 & y17;
	const plane z8 = t41 & y10, z9 = t44 & y12, z10 = t37 & y3, z11 = t33 & y4;
	const plane z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2, z15 = t42 & y9;
	const plane z16 = t45 & y14, z17 = t41 & y8;
	const plane t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10;
	const plane t50 = z2 ^ z12, t51 = z2 ^ z5, t52 = z7 ^ z8, t53 = z0 ^ z3;
	const plane t54 = z6 ^ z7, t55 = z16 ^ z17, t56 = z12 ^ t48, t57 = t50 ^ t53;
	const plane t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57, t61 = z14 ^ t57;
	const plane t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62;
	const plane t66 = z1 ^ t63, t67 = t64 ^ t65, s3 = t53 ^ t66;

	b[7] = t59 ^ t63;
	b[6] = ~(t64 ^ s3);
	b[5] = ~(t55 ^ t67);
	b[4] = s3;
	b[3] = t51 ^ t66;
	b[2] = t47 ^ t65;
	b[1] = ~(t56 ^ t62);
	b[0] = ~(t48 ^ t60);
}

/* Exchanges the bits of a under mask << shift with those of b under mask. */
static inline void exchange(plane *a, plane *b, int shift, uint32_t mask)
{
	const plane t = ((*a >> shift) ^ *b) & mask;

	*b ^= t;
	*a ^= t << shift;
}

/* The 32 x 32 bit matrix of each lane, transposed: blocks to planes and back. */
static inline void transpose(plane p[static PLANES])
{
	uint32_t mask = 0x0000ffff;

	for (int width = 16; width > 0; width /= 2, mask ^= mask << width) {
		for (int i = 0; i < PLANES; i += 2 * width) {
			for (int j = i; j < i + width; j++)
				exchange(&p[j], &p[j + width], width, mask);
		}
	}
}

static inline __attribute__((always_inline)) void add_round_key(plane p[static PLANES], const uint32_t key[static 4])
{
	const plane words = { key[0], key[1], key[2], key[3] };

	for (int i = 0; i < PLANES; i++)
		p[i] ^= (plane)((signed_plane)(words << (31 - i)) >> 31);
}

/* The byte in column c and row r comes from column c + r. */
static inline __attribute__((always_inline)) void shift_rows(plane p[static PLANES])
{
	for (int j = 0; j < 8; j++) {
		p[8 + j] = __builtin_shufflevector(p[8 + j], p[8 + j], 1, 2, 3, 0);
		p[16 + j] = __builtin_shufflevector(p[16 + j], p[16 + j], 2, 3, 0, 1);
		p[24 + j] = __builtin_shufflevector(p[24 + j], p[24 + j], 3, 0, 1, 2);
	}
}

/* Every row r becomes 2 a[r] + 3 a[r + 1] + a[r + 2] + a[r + 3] = a[r] + (the column's sum) + 2 (a[r] + a[r + 1]). */
static inline __attribute__((always_inline)) void mix_columns(plane p[static PLANES])
{
	plane pair[4][8];

	for (int r = 0; r < 4; r++) {
		for (int j = 0; j < 8; j++)
			pair[r][j] = p[8 * r + j] ^ p[8 * ((r + 1) % 4) + j];
	}
	for (int r = 0; r < 4; r++) {
		const plane top = pair[r][7];

		for (int j = 0; j < 8; j++)
			p[8 * r + j] ^= pair[0][j] ^ pair[2][j];
		p[8 * r] ^= top;
		for (int j = 1; j < 8; j++)
			p[8 * r + j] ^= pair[r][j - 1];
		p[8 * r + 1] ^= top;
		p[8 * r + 3] ^= top;
		p[8 * r + 4] ^= top;
	}
}

/* Encrypts the WIDE blocks in p, one a plane, in place. */
static void encrypt_planes(const struct portable_state *k, plane p[static PLANES])
{
	transpose(p);
	add_round_key(p, k->round_keys);
	for (int round = 1; round <= ROUNDS; round++) {
		for (int r = 0; r < 4; r++)
			sub_bytes(p + 8 * r);
		shift_rows(p);
		if (round < ROUNDS)
			mix_columns(p);
		add_round_key(p, k->round_keys + 4 * round);
	}
	transpose(p);
}

static void encrypt_one(const struct portable_state *k, uint8_t out[static BLOCK], const uint8_t in[static BLOCK])
{
	plane p[PLANES] = { { 0 } };

	for (size_t c = 0; c < 4; c++)
		p[0][c] = get_le32(in + 4 * c);
	encrypt_planes(k, p);
	for (size_t c = 0; c < 4; c++)
		put_le32(out + 4 * c, p[0][c]);
}

/* The key stream of one message, a batch at a time: the first batch begins with the block that masks the tag. */
struct stream {
	plane blocks[WIDE]; /* as planes hold them: columns in the processor's byte order */
	uint32_t iv[3];
	uint32_t counter; /* of the next batch */
	size_t used;      /* blocks of this batch */
};

static void stream_refill(struct stream *s, const struct portable_state *k)
{
	for (uint32_t b = 0; b < WIDE; b++)
		s->blocks[b] = (plane){ s->iv[0], s->iv[1], s->iv[2], __builtin_bswap32(s->counter + b) };
	encrypt_planes(k, s->blocks);
	s->counter += WIDE;
	s->used = 0;
}

/* Leaves the tag's mask in `mask`. */
static void stream_start(struct stream *s, const struct portable_state *k, const uint8_t iv[static AEAD_IV_BYTES],
			 uint8_t mask[static BLOCK])
{
	for (size_t c = 0; c < 3; c++)
		s->iv[c] = get_le32(iv + 4 * c);
	s->counter = 1;
	stream_refill(s, k);
	for (size_t c = 0; c < 4; c++)
		put_le32(mask + 4 * c, s->blocks[0][c]);
	s->used = 1;
}

/* The counter is laid out as a little-endian column: on a big-endian processor get_le32 and bswap32 still agree, because planes
 * hold values, not bytes. */
static void stream_xor(struct stream *s, const struct portable_state *k, uint8_t *out, const uint8_t *in, size_t size)
{
	uint8_t last[BLOCK] = { 0 };

	for (; size > 0; s->used++) {
		const size_t part = size < BLOCK ? size : BLOCK;
		const uint8_t *from = in;
		uint8_t *to = out;

		if (s->used == WIDE)
			stream_refill(s, k);
		if (part < BLOCK) {
			memcpy(last, in, part);
			from = to = last;
		}
		for (size_t c = 0; c < 4; c++)
			put_le32(to + 4 * c, get_le32(from + 4 * c) ^ s->blocks[s->used][c]);
		if (part < BLOCK)
			memcpy(out, last, part);
		in += part;
		out += part;
		size -= part;
	}
}

/* a times b without carries. Each operand is split into four classes of bits, four apart: at most 15 ones meet at a place, so
 * the sum's carries stay in the holes and its lowest bit is the parity that is wanted. With 16 they would not: the top bits of a
 * are added on their own. */
static inline __attribute__((always_inline)) unsigned __int128 carryless(uint64_t a, uint64_t b)
{
	const uint64_t every4 = UINT64_C(0x1111111111111111);
	const unsigned __int128 every4_wide = ((unsigned __int128)every4 << 64) | every4;
	unsigned __int128 x[4];
	unsigned __int128 sum = 0;
	uint64_t y[4];

	for (int i = 0; i < 4; i++) {
		x[i] = a & (every4 << i) & ~(UINT64_C(0xf) << 60);
		y[i] = b & (every4 << i);
	}
	for (int i = 0; i < 4; i++) {
		const unsigned __int128 class =
			(x[0] * y[i]) ^ (x[1] * y[(i + 3) % 4]) ^ (x[2] * y[(i + 2) % 4]) ^ (x[3] * y[(i + 1) % 4]);

		sum |= class & (every4_wide << i);
	}
	for (int i = 60; i < 64; i++)
		sum ^= (unsigned __int128)(b & (0 - (a >> i & 1))) << i;
	return sum;
}

struct hash {
	uint64_t high, low;
};

/* (low + high x^64) times (x^63 + x^62 + x^57), high and low exchanged: half of the reduction. */
static inline void fold(uint64_t *low, uint64_t *high)
{
	const uint64_t l = *low;

	*low = *high ^ (l << 63) ^ (l << 62) ^ (l << 57);
	*high = l ^ (l >> 1) ^ (l >> 2) ^ (l >> 7);
}

/* h times the key's H, which carries a factor x so that the reflected product needs no shift. */
static inline __attribute__((always_inline)) void hash_multiply(struct hash *h, const struct portable_state *k)
{
	const unsigned __int128 low = carryless(k->hash_low, h->low);
	const unsigned __int128 high = carryless(k->hash_high, h->high);
	const unsigned __int128 middle = carryless(k->hash_low ^ k->hash_high, h->low ^ h->high) ^ low ^ high;
	uint64_t r0 = (uint64_t)low;
	uint64_t r1 = (uint64_t)(low >> 64) ^ (uint64_t)middle;

	fold(&r0, &r1);
	fold(&r0, &r1);
	h->low = (uint64_t)high ^ (uint64_t)(middle >> 64) ^ r0;
	h->high = (uint64_t)(high >> 64) ^ r1;
}

/* `size` bytes as blocks, the last one filled up with zeroes. */
static void hash_bytes(struct hash *h, const struct portable_state *k, const uint8_t *bytes, size_t size)
{
	uint8_t last[BLOCK] = { 0 };

	while (size > 0) {
		const uint8_t *block = bytes;
		const size_t part = size < BLOCK ? size : BLOCK;

		if (part < BLOCK)
			block = memcpy(last, bytes, part);
		h->high ^= get_be64(block);
		h->low ^= get_be64(block + 8);
		hash_multiply(h, k);
		bytes += part;
		size -= part;
	}
}

/* mask holds the tag's mask, and then the tag. */
static void compute_tag(const struct portable_state *k, const struct aead_item *m, const uint8_t *text,
			uint8_t mask[static BLOCK])
{
	struct hash h = { 0, 0 };

	hash_bytes(&h, k, m->aad, m->aad_size);
	hash_bytes(&h, k, text, m->size);
	h.high ^= (uint64_t)m->aad_size * 8;
	h.low ^= (uint64_t)m->size * 8;
	hash_multiply(&h, k);
	put_be64(mask, h.high ^ get_be64(mask));
	put_be64(mask + 8, h.low ^ get_be64(mask + 8));
}

APART static void seal_items(const struct portable_state *k, struct aead_item *items, size_t count)
{
	for (struct aead_item *m = items; m < items + count; m++) {
		struct stream s;

		stream_start(&s, k, m->iv, m->tag);
		stream_xor(&s, k, m->out, m->in, m->size);
		compute_tag(k, m, m->out, m->tag);
	}
}

/* The tag is checked before the first byte of plaintext is made. */
APART static size_t open_items(const struct portable_state *k, struct aead_item *items, size_t count)
{
	size_t bad = 0;

	for (struct aead_item *m = items; m < items + count; m++) {
		struct stream s;
		uint8_t tag[AEAD_TAG_BYTES];

		stream_start(&s, k, m->iv, tag);
		compute_tag(k, m, m->in, tag);
		m->good = compare_secret(tag, m->tag, sizeof tag) == 0;
		bad += aead_conclude(m, 1);
		if (m->good)
			stream_xor(&s, k, m->out, m->in, m->size);
	}
	return bad;
}

/* SubWord: each of the four bytes keeps its place in the word, a bit of each in every plane, and only lane 0 counts. */
static uint32_t sub_word(uint32_t x)
{
	const uint32_t every8 = 0x01010101;
	plane b[8];

	for (int j = 0; j < 8; j++)
		b[j] = (plane){ x >> j & every8 };
	sub_bytes(b);
	x = 0;
	for (int j = 0; j < 8; j++)
		x |= (b[j][0] & every8) << j;
	return x;
}

static void expand_cipher(uint32_t w[static KEY_WORDS], const uint8_t key[static AEAD_KEY_BYTES])
{
	uint32_t round_constant = 1;

	for (size_t i = 0; i < 8; i++)
		w[i] = get_le32(key + 4 * i);
	for (size_t i = 8; i < KEY_WORDS; i++) {
		uint32_t t = w[i - 1];

		if (i % 8 == 0) {
			t = sub_word(t >> 8 | t << 24) ^ round_constant;
			round_constant <<= 1;
		} else if (i % 8 == 4) {
			t = sub_word(t);
		}
		w[i] = w[i - 8] ^ t;
	}
}

APART static void expand_apart(struct portable_state *k, const uint8_t *key)
{
	uint8_t block[BLOCK] = { 0 };
	uint64_t high, low, top;

	expand_cipher(k->round_keys, key);
	encrypt_one(k, block, block);
	high = get_be64(block);
	low = get_be64(block + 8);
	top = 0 - (high >> 63);
	k->hash_high = (high << 1 | low >> 63) ^ (top & UINT64_C(0xc200000000000000));
	k->hash_low = (low << 1) ^ (top & 1);
}

APART static void encrypt_apart(const struct portable_state *k, uint8_t *out, const uint8_t *in)
{
	encrypt_one(k, out, in);
}

static bool usable(void)
{
	return true;
}

enum { STACK = AEAD_STACK_MAX };

#include "entries.h"

const struct aead_kernel aead_portable = AEAD_KERNEL("portable", usable);
