/* AES-256-GCM on ARMv8's cryptographic extension: eight counter blocks abreast, and under their rounds the GHASH of eight blocks
 * of ciphertext (seal: the eight before, read back from `out`; open: these eight). What must hold: nothing here branches on or
 * indexes by a secret; the powers of H are made once per key, so a chunk of up to POWERS blocks costs one reduction; what the
 * inner functions spill is wiped by the run functions before they return. Little-endian processors only, as all that the project
 * runs on are. */
#include <arm_neon.h>
#include <string.h>
#include <sys/auxv.h>

#include "kernel.h"

enum {
	ROUNDS = 14,
	BLOCK = 16,
	WIDE = 8,             /* blocks abreast: hides the latency of AESE and AESMC, a pair in 2 to 4 cycles */
	GROUP = WIDE * BLOCK, /* bytes */
	POWERS = 32,          /* a multiple of WIDE; more make a fresh subkey dear */
};

/* powers[i] = H^(POWERS - i) times x, middles[i] = its halves xored: a chunk of m blocks starts at i = POWERS - m. */
struct armv8_state {
	uint8x16_t round_keys[ROUNDS + 1];
	uint8x16_t powers[POWERS];
	uint64_t middles[POWERS];
};

#define KEY_STATE_SIZE ((sizeof(struct armv8_state) + 63) / 64 * 64)
_Static_assert(KEY_STATE_SIZE <= AEAD_KEY_STATE_MAX, "the key state fits its promise");

#define INLINE static inline __attribute__((always_inline))
#define APART  __attribute__((noinline))

#define EACH(DO)                                                                                                                 \
	do {                                                                                                                     \
		DO(0);                                                                                                           \
		DO(1);                                                                                                           \
		DO(2);                                                                                                           \
		DO(3);                                                                                                           \
		DO(4);                                                                                                           \
		DO(5);                                                                                                           \
		DO(6);                                                                                                           \
		DO(7);                                                                                                           \
	} while (0)

/* GHASH over one message. `left` counts the blocks not yet hashed, the length block included. */
struct hash {
	uint8x16_t low, middle, high; /* the unreduced sum of the chunk */
	uint8x16_t value;             /* xored into the next block: the last chunk's value, zero inside a chunk */
	size_t at;                    /* the power the next block is multiplied by */
	size_t left;
};

INLINE uint8x16_t load(const void *p)
{
	return vld1q_u8(p);
}

INLINE void store(void *p, uint8x16_t v)
{
	vst1q_u8(p, v);
}

INLINE uint8x16_t zero(void)
{
	return vdupq_n_u8(0);
}

INLINE uint8x16_t of_words(uint64_t high, uint64_t low)
{
	return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
}

INLINE uint8x16_t swap_halves(uint8x16_t v)
{
	return vextq_u8(v, v, 8);
}

INLINE uint8x16_t byte_swap(uint8x16_t v)
{
	return swap_halves(vrev64q_u8(v));
}

/* The count in the last, lowest word of a counter block with its bytes reversed. */
INLINE uint8x16_t add_count(uint8x16_t counter, uint32_t n)
{
	return vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(counter), vreinterpretq_u32_u8(of_words(0, n))));
}

INLINE poly64x2_t poly(uint8x16_t v)
{
	return vreinterpretq_p64_u8(v);
}

INLINE uint8x16_t multiply_low(uint8x16_t a, uint8x16_t b)
{
	return vreinterpretq_u8_p128(vmull_p64(vgetq_lane_p64(poly(a), 0), vgetq_lane_p64(poly(b), 0)));
}

INLINE uint8x16_t multiply_high(uint8x16_t a, uint8x16_t b)
{
	return vreinterpretq_u8_p128(vmull_high_p64(poly(a), poly(b)));
}

/* The product's low, middle (Karatsuba) and high parts to one value. The powers carry a factor x, so the 255-bit product needs no
 * shift; each step multiplies the lowest 64 bits by x^63 + x^62 + x^57, the reflected polynomial without its ends. */
INLINE uint8x16_t reduce(uint8x16_t low, uint8x16_t middle, uint8x16_t high)
{
	const uint8x16_t polynomial = of_words(0, UINT64_C(0xc200000000000000));

	middle = veorq_u8(middle, veorq_u8(low, high));
	low = veorq_u8(low, vextq_u8(zero(), middle, 8));
	high = veorq_u8(high, vextq_u8(middle, zero(), 8));
	low = veorq_u8(swap_halves(low), multiply_low(low, polynomial));
	low = veorq_u8(swap_halves(low), multiply_low(low, polynomial));
	return veorq_u8(high, low);
}

INLINE uint8x16_t multiply(uint8x16_t a, uint8x16_t b)
{
	const uint8x16_t middle = multiply_low(veorq_u8(a, swap_halves(a)), veorq_u8(b, swap_halves(b)));

	return reduce(multiply_low(a, b), middle, multiply_high(a, b));
}

/* Where a chunk starts in the table. While more than POWERS blocks are left, chunks end where a group of WIDE ends: `single` is
 * how many blocks come before the next group. */
INLINE size_t chunk_start(size_t left, size_t single)
{
	if (left <= POWERS)
		return POWERS - left;
	if (single >= POWERS)
		return 0;
	return (POWERS - single) % WIDE;
}

INLINE void hash_start(struct hash *h, size_t left, size_t single)
{
	h->low = h->middle = h->high = h->value = zero();
	h->left = left;
	h->at = chunk_start(left, single);
}

/* After `count` blocks: reduces if they ended the chunk. */
INLINE void hash_advance(struct hash *h, size_t count, size_t single)
{
	h->at += count;
	h->left -= count;
	h->value = zero();
	if (h->at < POWERS)
		return;
	h->value = reduce(h->low, h->middle, h->high);
	h->low = h->middle = h->high = zero();
	h->at = chunk_start(h->left, single);
}

INLINE void hash_add(struct hash *h, uint8x16_t x, const uint8x16_t *powers, const uint64_t *middles)
{
	const uint8x16_t power = load(powers);
	const uint8x16_t sum = veorq_u8(x, swap_halves(x));
	const uint8x16_t middle = vreinterpretq_u8_u64(vcombine_u64(vld1_u64(middles), vdup_n_u64(0)));

	h->low = veorq_u8(h->low, multiply_low(x, power));
	h->high = veorq_u8(h->high, multiply_high(x, power));
	h->middle = veorq_u8(h->middle, multiply_low(sum, middle));
}

/* The block i of a group; the value of the chunk before goes into the first. */
INLINE uint8x16_t group_block(const struct hash *h, const uint8_t *bytes, size_t i)
{
	const uint8x16_t block = byte_swap(load(bytes + i * BLOCK));

	return i == 0 ? veorq_u8(block, h->value) : block;
}

INLINE void hash_group(struct hash *h, const struct armv8_state *k, const uint8_t *bytes)
{
#define ADD(i) hash_add(h, group_block(h, bytes, i), k->powers + h->at + (i), k->middles + h->at + (i))
	EACH(ADD);
#undef ADD
	hash_advance(h, WIDE, 0);
}

INLINE void hash_block(struct hash *h, const struct armv8_state *k, uint8x16_t block, size_t single)
{
	hash_add(h, veorq_u8(byte_swap(block), h->value), &k->powers[h->at], &k->middles[h->at]);
	hash_advance(h, 1, single);
}

/* `size` bytes as blocks, the last one filled up with zeroes; `after` blocks more before the next group. */
INLINE void hash_bytes(struct hash *h, const struct armv8_state *k, const uint8_t *bytes, size_t size, size_t after)
{
	uint8_t last[BLOCK] = { 0 };

	for (; size >= BLOCK; size -= BLOCK, bytes += BLOCK)
		hash_block(h, k, load(bytes), (size - 1) / BLOCK + after);
	if (size == 0)
		return;
	memcpy(last, bytes, size);
	hash_block(h, k, load(last), after);
}

/* AESE adds the key before its round, so the last two keys come at the end. */
INLINE uint8x16_t encrypt(const struct armv8_state *k, uint8x16_t s)
{
	for (int r = 0; r < ROUNDS - 1; r++)
		s = vaesmcq_u8(vaeseq_u8(s, k->round_keys[r]));
	return veorq_u8(vaeseq_u8(s, k->round_keys[ROUNDS - 1]), k->round_keys[ROUNDS]);
}

/* Key stream over one group and, unless `hashing` is false, under its rounds the GHASH of the group `hashed`, which may be `in`.
 * PIN holds both compilers to this order: left to themselves, they draw the two apart and lose up to a fifth. */
INLINE void step(const struct armv8_state *k, uint8x16_t *counter, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const bool hashing)
{
	const uint8x16_t *powers = k->powers + h->at;
	const uint64_t *middles = k->middles + h->at;
	uint8x16_t key;
	uint8x16_t s0, s1, s2, s3, s4, s5, s6, s7;

#define START(i)   s##i = byte_swap(add_count(*counter, i))
#define ENCRYPT(i) s##i = vaesmcq_u8(vaeseq_u8(s##i, key))
#define LAST(i)    s##i = veorq_u8(vaeseq_u8(s##i, key), veorq_u8(k->round_keys[ROUNDS], load(in + (i)*BLOCK)))
#define STORE(i)   store(out + (i)*BLOCK, s##i)
#define PIN                                                                                                                      \
	__asm__ volatile(""                                                                                                      \
			 : "+w"(s0), "+w"(s1), "+w"(s2), "+w"(s3), "+w"(s4), "+w"(s5), "+w"(s6), "+w"(s7), "+w"(h->low),         \
			   "+w"(h->middle), "+w"(h->high))
#define ROUND(r)                                                                                                                 \
	do {                                                                                                                     \
		key = k->round_keys[r];                                                                                          \
		EACH(ENCRYPT);                                                                                                   \
	} while (0)
#define HASH(i)                                                                                                                  \
	do {                                                                                                                     \
		if (hashing)                                                                                                     \
			hash_add(h, group_block(h, hashed, i), powers + (i), middles + (i));                                     \
		PIN;                                                                                                             \
	} while (0)
	EACH(START);
	*counter = add_count(*counter, WIDE);
	ROUND(0);
	HASH(0);
	ROUND(1);
	HASH(1);
	ROUND(2);
	HASH(2);
	ROUND(3);
	HASH(3);
	ROUND(4);
	HASH(4);
	ROUND(5);
	HASH(5);
	ROUND(6);
	HASH(6);
	ROUND(7);
	HASH(7);
	if (hashing)
		hash_advance(h, WIDE, 0);
	ROUND(8);
	PIN;
	ROUND(9);
	PIN;
	ROUND(10);
	PIN;
	ROUND(11);
	PIN;
	ROUND(12);
	key = k->round_keys[ROUNDS - 1];
	EACH(LAST);
	EACH(STORE);
#undef START
#undef ENCRYPT
#undef LAST
#undef STORE
#undef PIN
#undef ROUND
#undef HASH
}

/* Less than a group of key stream over in, to out. */
INLINE void cipher_tail(const struct armv8_state *k, uint8x16_t counter, const uint8_t *in, uint8_t *out, size_t size)
{
	uint8_t last[BLOCK] = { 0 };

	for (; size >= BLOCK; size -= BLOCK, in += BLOCK, out += BLOCK) {
		store(out, veorq_u8(load(in), encrypt(k, byte_swap(counter))));
		counter = add_count(counter, 1);
	}
	if (size == 0)
		return;
	memcpy(last, in, size);
	store(last, veorq_u8(load(last), encrypt(k, byte_swap(counter))));
	memcpy(out, last, size);
}

/* The IV's first counter, J0, with its bytes reversed: the 32-bit count is the lowest lane. */
INLINE uint8x16_t first_counter(const uint8_t iv[AEAD_IV_BYTES])
{
	uint8_t block[BLOCK] = { [BLOCK - 1] = 1 };

	memcpy(block, iv, AEAD_IV_BYTES);
	return byte_swap(load(block));
}

INLINE size_t blocks_of(size_t size)
{
	return size / BLOCK + (size % BLOCK != 0);
}

INLINE void hash_begin(struct hash *h, const struct armv8_state *k, const struct aead_item *m)
{
	const size_t aad_blocks = blocks_of(m->aad_size);

	hash_start(h, aad_blocks + blocks_of(m->size) + 1, aad_blocks);
	hash_bytes(h, k, m->aad, m->aad_size, 0);
}

/* The last `size` bytes, less than a group, then the lengths; returns the tag. */
INLINE uint8x16_t hash_end(struct hash *h, const struct armv8_state *k, const struct aead_item *m, const uint8_t *bytes,
			   size_t size)
{
	const uint8x16_t mask = encrypt(k, byte_swap(first_counter(m->iv)));

	hash_bytes(h, k, bytes, size, 1);
	hash_block(h, k, byte_swap(of_words((uint64_t)m->aad_size * 8, (uint64_t)m->size * 8)), 0);
	return veorq_u8(byte_swap(h->value), mask);
}

INLINE uint8x16_t seal(const struct armv8_state *k, const struct aead_item *m)
{
	uint8x16_t counter = add_count(first_counter(m->iv), 1);
	const size_t whole = m->size / GROUP * GROUP;
	const uint8_t *in = m->in;
	uint8_t *out = m->out;
	struct hash h;

	hash_begin(&h, k, m);
	if (whole > 0)
		step(k, &counter, in, out, &h, NULL, false);
	for (size_t i = GROUP; i < whole; i += GROUP)
		step(k, &counter, in + i, out + i, &h, out + i - GROUP, true);
	cipher_tail(k, counter, in + whole, out + whole, m->size - whole);
	if (whole > 0)
		hash_group(&h, k, out + whole - GROUP);
	return hash_end(&h, k, m, out + whole, m->size - whole);
}

INLINE bool open(const struct armv8_state *k, const struct aead_item *m)
{
	uint8x16_t counter = add_count(first_counter(m->iv), 1);
	const size_t whole = m->size / GROUP * GROUP;
	const uint8_t *in = m->in;
	uint8_t *out = m->out;
	struct hash h;
	uint8x16_t tag;

	hash_begin(&h, k, m);
	for (size_t i = 0; i < whole; i += GROUP)
		step(k, &counter, in + i, out + i, &h, in + i, true);
	tag = hash_end(&h, k, m, in + whole, m->size - whole);
	cipher_tail(k, counter, in + whole, out + whole, m->size - whole);
	return vmaxvq_u8(veorq_u8(tag, load(m->tag))) == 0;
}

APART static void seal_items(const struct armv8_state *k, struct aead_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		store(items[i].tag, seal(k, &items[i]));
}

APART static size_t open_items(const struct armv8_state *k, struct aead_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		items[i].good = open(k, &items[i]);
	return aead_conclude(items, count);
}

/* SubWord: a word in all four columns is not changed by the shift of rows that AESE does too. */
INLINE uint32_t sub_word(uint32_t w)
{
	return vgetq_lane_u32(vreinterpretq_u32_u8(vaeseq_u8(vreinterpretq_u8_u32(vdupq_n_u32(w)), zero())), 0);
}

/* FIPS 197's key expansion, words with their first byte lowest. */
INLINE void expand_cipher(uint8x16_t *keys, const uint8_t *raw)
{
	uint32_t w[4 * (ROUNDS + 1)];
	uint32_t round_constant = 1;

	memcpy(w, raw, AEAD_KEY_BYTES);
	for (size_t i = 8; i < 4 * (ROUNDS + 1); i++) {
		uint32_t t = w[i - 1];

		if (i % 8 == 0) {
			t = sub_word(t >> 8 | t << 24) ^ round_constant;
			round_constant <<= 1;
		} else if (i % 8 == 4) {
			t = sub_word(t);
		}
		w[i] = w[i - 8] ^ t;
	}
	memcpy(keys, w, sizeof w);
}

/* H times x in the reflected field, without a branch on its top bit. */
INLINE uint8x16_t times_x(uint8x16_t h)
{
	const uint64x2_t v = vreinterpretq_u64_u8(h);
	const uint64_t low = vgetq_lane_u64(v, 0);
	const uint64_t high = vgetq_lane_u64(v, 1);
	const uint64_t top = 0 - (high >> 63);

	return of_words((high << 1 | low >> 63) ^ (top & UINT64_C(0xc200000000000000)), (low << 1) ^ (top & 1));
}

/* Doubles what is known each time, so that the products of one round do not wait for one another. */
INLINE void expand_powers(struct armv8_state *k)
{
	k->powers[POWERS - 1] = times_x(byte_swap(encrypt(k, zero())));
	for (int known = 1; known < POWERS; known *= 2) {
		for (int i = 1; i <= known && known + i <= POWERS; i++)
			k->powers[POWERS - known - i] = multiply(k->powers[POWERS - i], k->powers[POWERS - known]);
	}
	for (int i = 0; i < POWERS; i++) {
		const uint8x16_t power = k->powers[i];

		k->middles[i] = vgetq_lane_u64(vreinterpretq_u64_u8(veorq_u8(power, swap_halves(power))), 0);
	}
}

APART static void expand_apart(struct armv8_state *k, const uint8_t *raw)
{
	expand_cipher(k->round_keys, raw);
	expand_powers(k);
}

APART static void encrypt_apart(const struct armv8_state *k, uint8_t *out, const uint8_t *in)
{
	store(out, encrypt(k, load(in)));
}

static bool usable(void)
{
	const unsigned long wanted = HWCAP_AES | HWCAP_PMULL;

	return (getauxval(AT_HWCAP) & wanted) == wanted;
}

enum { STACK = AEAD_STACK_ONE };

#include "entries.h"

const struct aead_kernel aead_armv8 = AEAD_KERNEL("armv8", usable);
