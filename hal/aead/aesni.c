/* AES-256-GCM on AES-NI and PCLMULQDQ, 128-bit registers: eight counter blocks abreast, and under their rounds the GHASH of eight
 * blocks of ciphertext (seal: the eight before, read back from `out`; open: these eight).
 * What must hold: nothing here branches on or indexes by a secret; the powers of H are made once per key, so a chunk of up to
 * POWERS blocks costs one reduction; what the inner functions spill is wiped by the run functions before they return. */
#include <immintrin.h>
#include <string.h>

#include "kernel.h"

enum {
	ROUNDS = 14,
	BLOCK = 16,
	WIDE = 8,             /* blocks abreast: hides the latency of AESENC on every core up to 4 cycles at 2 a cycle */
	GROUP = WIDE * BLOCK, /* bytes */
	POWERS = 32,          /* a multiple of WIDE; a whole sector's gain 2 % and make a fresh subkey cost four times as much */
};

/* powers[i] = H^(POWERS - i) times x, middles[i] = its halves xored: a chunk of m blocks starts at i = POWERS - m. */
struct aesni_state {
	__m128i round_keys[ROUNDS + 1];
	__m128i powers[POWERS];
	uint64_t middles[POWERS];
};

#define KEY_STATE_SIZE ((sizeof(struct aesni_state) + 63) / 64 * 64)
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
	__m128i low, middle, high; /* the unreduced sum of the chunk */
	__m128i value;             /* xored into the next block: the last chunk's value, zero inside a chunk */
	size_t at;                 /* the power the next block is multiplied by */
	size_t left;
};

INLINE __m128i load(const void *p)
{
	return _mm_loadu_si128(p);
}

INLINE void store(void *p, __m128i v)
{
	_mm_storeu_si128(p, v);
}

INLINE __m128i byte_swap(__m128i v)
{
	return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE __m128i swap_halves(__m128i v)
{
	return _mm_shuffle_epi32(v, 0x4e);
}

/* The product's low, middle (Karatsuba) and high parts to one value. The powers carry a factor x, so the 255-bit product needs no
 * shift; each step multiplies the lowest 64 bits by x^63 + x^62 + x^57, the reflected polynomial without its ends. */
INLINE __m128i reduce(__m128i low, __m128i middle, __m128i high)
{
	const __m128i polynomial = _mm_set_epi64x((long long)0xc200000000000000, 1);

	middle = _mm_xor_si128(middle, _mm_xor_si128(low, high));
	low = _mm_xor_si128(low, _mm_slli_si128(middle, 8));
	high = _mm_xor_si128(high, _mm_srli_si128(middle, 8));
	low = _mm_xor_si128(swap_halves(low), _mm_clmulepi64_si128(low, polynomial, 0x10));
	low = _mm_xor_si128(swap_halves(low), _mm_clmulepi64_si128(low, polynomial, 0x10));
	return _mm_xor_si128(high, low);
}

INLINE __m128i multiply(__m128i a, __m128i b)
{
	const __m128i middle = _mm_clmulepi64_si128(_mm_xor_si128(a, swap_halves(a)), _mm_xor_si128(b, swap_halves(b)), 0x00);

	return reduce(_mm_clmulepi64_si128(a, b, 0x00), middle, _mm_clmulepi64_si128(a, b, 0x11));
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
	h->low = h->middle = h->high = h->value = _mm_setzero_si128();
	h->left = left;
	h->at = chunk_start(left, single);
}

/* After `count` blocks: reduces if they ended the chunk. */
INLINE void hash_advance(struct hash *h, size_t count, size_t single)
{
	h->at += count;
	h->left -= count;
	h->value = _mm_setzero_si128();
	if (h->at < POWERS)
		return;
	h->value = reduce(h->low, h->middle, h->high);
	h->low = h->middle = h->high = _mm_setzero_si128();
	h->at = chunk_start(h->left, single);
}

INLINE void hash_add(struct hash *h, __m128i x, const __m128i *powers, const uint64_t *middles)
{
	const __m128i power = _mm_load_si128(powers);
	const __m128i sum = _mm_xor_si128(x, swap_halves(x));

	h->low = _mm_xor_si128(h->low, _mm_clmulepi64_si128(x, power, 0x00));
	h->high = _mm_xor_si128(h->high, _mm_clmulepi64_si128(x, power, 0x11));
	h->middle = _mm_xor_si128(h->middle, _mm_clmulepi64_si128(sum, _mm_loadl_epi64((const __m128i *)middles), 0x00));
}

/* The block i of a group; the value of the chunk before goes into the first. */
INLINE __m128i group_block(const struct hash *h, const uint8_t *bytes, size_t i)
{
	const __m128i block = byte_swap(load(bytes + i * BLOCK));

	return i == 0 ? _mm_xor_si128(block, h->value) : block;
}

INLINE void hash_group(struct hash *h, const struct aesni_state *k, const uint8_t *bytes)
{
#define ADD(i) hash_add(h, group_block(h, bytes, i), k->powers + h->at + (i), k->middles + h->at + (i))
	EACH(ADD);
#undef ADD
	hash_advance(h, WIDE, 0);
}

INLINE void hash_block(struct hash *h, const struct aesni_state *k, __m128i block, size_t single)
{
	hash_add(h, _mm_xor_si128(byte_swap(block), h->value), &k->powers[h->at], &k->middles[h->at]);
	hash_advance(h, 1, single);
}

/* `size` bytes as blocks, the last one filled up with zeroes; `after` blocks more before the next group. */
INLINE void hash_bytes(struct hash *h, const struct aesni_state *k, const uint8_t *bytes, size_t size, size_t after)
{
	uint8_t last[BLOCK] = { 0 };

	for (; size >= BLOCK; size -= BLOCK, bytes += BLOCK)
		hash_block(h, k, load(bytes), (size - 1) / BLOCK + after);
	if (size == 0)
		return;
	memcpy(last, bytes, size);
	hash_block(h, k, load(last), after);
}

INLINE __m128i encrypt(const struct aesni_state *k, __m128i s)
{
	s = _mm_xor_si128(s, k->round_keys[0]);
	for (int r = 1; r < ROUNDS; r++)
		s = _mm_aesenc_si128(s, k->round_keys[r]);
	return _mm_aesenclast_si128(s, k->round_keys[ROUNDS]);
}

/* Key stream over one group and, unless `hashing` is false, under its rounds the GHASH of the group `hashed`, which may be `in`.
 * PIN holds both compilers to this order: left to themselves, they draw the two apart and lose up to a fifth. */
INLINE void step(const struct aesni_state *k, __m128i *counter, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const bool hashing)
{
	const __m128i *powers = k->powers + h->at;
	const uint64_t *middles = k->middles + h->at;
	__m128i key = k->round_keys[0];
	__m128i s0, s1, s2, s3, s4, s5, s6, s7;

#define START(i)   s##i = _mm_xor_si128(byte_swap(_mm_add_epi32(*counter, _mm_set_epi32(0, 0, 0, i))), key)
#define ENCRYPT(i) s##i = _mm_aesenc_si128(s##i, key)
#define LAST(i)    s##i = _mm_aesenclast_si128(s##i, _mm_xor_si128(key, load(in + (i)*BLOCK)))
#define STORE(i)   store(out + (i)*BLOCK, s##i)
#define PIN                                                                                                                      \
	__asm__ volatile(""                                                                                                      \
			 : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6), "+x"(s7), "+x"(h->low),         \
			   "+x"(h->middle), "+x"(h->high))
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
	*counter = _mm_add_epi32(*counter, _mm_set_epi32(0, 0, 0, WIDE));
	ROUND(1);
	HASH(0);
	ROUND(2);
	HASH(1);
	ROUND(3);
	HASH(2);
	ROUND(4);
	HASH(3);
	ROUND(5);
	HASH(4);
	ROUND(6);
	HASH(5);
	ROUND(7);
	HASH(6);
	ROUND(8);
	HASH(7);
	if (hashing)
		hash_advance(h, WIDE, 0);
	ROUND(9);
	PIN;
	ROUND(10);
	PIN;
	ROUND(11);
	PIN;
	ROUND(12);
	PIN;
	ROUND(13);
	key = k->round_keys[ROUNDS];
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
INLINE void cipher_tail(const struct aesni_state *k, __m128i counter, const uint8_t *in, uint8_t *out, size_t size)
{
	uint8_t last[BLOCK] = { 0 };

	for (; size >= BLOCK; size -= BLOCK, in += BLOCK, out += BLOCK) {
		store(out, _mm_xor_si128(load(in), encrypt(k, byte_swap(counter))));
		counter = _mm_add_epi32(counter, _mm_set_epi32(0, 0, 0, 1));
	}
	if (size == 0)
		return;
	memcpy(last, in, size);
	store(last, _mm_xor_si128(load(last), encrypt(k, byte_swap(counter))));
	memcpy(out, last, size);
}

/* The IV's first counter, J0, with its bytes reversed: the 32-bit count is the lowest lane. */
INLINE __m128i first_counter(const uint8_t iv[AEAD_IV_BYTES])
{
	uint8_t block[BLOCK] = { [BLOCK - 1] = 1 };

	memcpy(block, iv, AEAD_IV_BYTES);
	return byte_swap(load(block));
}

INLINE size_t blocks_of(size_t size)
{
	return size / BLOCK + (size % BLOCK != 0);
}

INLINE void hash_begin(struct hash *h, const struct aesni_state *k, const struct aead_item *m)
{
	const size_t aad_blocks = blocks_of(m->aad_size);

	hash_start(h, aad_blocks + blocks_of(m->size) + 1, aad_blocks);
	hash_bytes(h, k, m->aad, m->aad_size, 0);
}

/* The last `size` bytes, less than a group, then the lengths; returns the tag. */
INLINE __m128i hash_end(struct hash *h, const struct aesni_state *k, const struct aead_item *m, const uint8_t *bytes, size_t size)
{
	const __m128i mask = encrypt(k, byte_swap(first_counter(m->iv)));

	hash_bytes(h, k, bytes, size, 1);
	hash_block(h, k, byte_swap(_mm_set_epi64x((long long)m->aad_size * 8, (long long)m->size * 8)), 0);
	return _mm_xor_si128(byte_swap(h->value), mask);
}

INLINE __m128i seal(const struct aesni_state *k, const struct aead_item *m)
{
	__m128i counter = _mm_add_epi32(first_counter(m->iv), _mm_set_epi32(0, 0, 0, 1));
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

INLINE bool open(const struct aesni_state *k, const struct aead_item *m)
{
	__m128i counter = _mm_add_epi32(first_counter(m->iv), _mm_set_epi32(0, 0, 0, 1));
	const size_t whole = m->size / GROUP * GROUP;
	const uint8_t *in = m->in;
	uint8_t *out = m->out;
	struct hash h;
	__m128i tag;

	hash_begin(&h, k, m);
	for (size_t i = 0; i < whole; i += GROUP)
		step(k, &counter, in + i, out + i, &h, in + i, true);
	tag = hash_end(&h, k, m, in + whole, m->size - whole);
	cipher_tail(k, counter, in + whole, out + whole, m->size - whole);
	return _mm_movemask_epi8(_mm_cmpeq_epi8(tag, load(m->tag))) == 0xffff;
}

APART static void seal_items(const struct aesni_state *k, struct aead_item *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		store(items[i].tag, seal(k, &items[i]));
}

APART static size_t open_items(const struct aesni_state *k, struct aead_item *items, size_t count)
{
	size_t bad = 0;

	for (size_t i = 0; i < count; i++)
		bad += aead_conclude(&items[i], open(k, &items[i]));
	return bad;
}

static void seal_run(const void *state, struct aead_item *items, size_t count)
{
	aead_check_lengths(items, count);
	seal_items(state, items, count);
	aead_clear_registers();
	aead_wipe_stack();
}

static size_t open_run(const void *state, struct aead_item *items, size_t count)
{
	size_t bad;

	aead_check_lengths(items, count);
	bad = open_items(state, items, count);
	aead_clear_registers();
	aead_wipe_stack();
	return bad;
}

/* v ^ v << 32 ^ v << 64 ^ v << 96: the running xor of FIPS 197's key expansion. */
INLINE __m128i running_xor(__m128i v)
{
	v = _mm_xor_si128(v, _mm_slli_si128(v, 4));
	return _mm_xor_si128(v, _mm_slli_si128(v, 8));
}

/* Macros, because AESKEYGENASSIST has its constant in the instruction. */
INLINE void expand_cipher(__m128i *keys, const uint8_t *raw)
{
	keys[0] = load(raw);
	keys[1] = load(raw + BLOCK);
#define WORD(i, constant, lanes) _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[(i)-1], constant), lanes)
#define EVEN(i, constant)        keys[i] = _mm_xor_si128(running_xor(keys[(i)-2]), WORD(i, constant, 0xff))
#define ODD(i)                   keys[i] = _mm_xor_si128(running_xor(keys[(i)-2]), WORD(i, 0, 0xaa))
	EVEN(2, 0x01);
	ODD(3);
	EVEN(4, 0x02);
	ODD(5);
	EVEN(6, 0x04);
	ODD(7);
	EVEN(8, 0x08);
	ODD(9);
	EVEN(10, 0x10);
	ODD(11);
	EVEN(12, 0x20);
	ODD(13);
	EVEN(14, 0x40);
#undef WORD
#undef EVEN
#undef ODD
}

/* H times x in the reflected field, without a branch on its top bit. */
INLINE __m128i times_x(__m128i h)
{
	const __m128i polynomial = _mm_set_epi64x((long long)0xc200000000000000, 1);
	const __m128i top = _mm_srai_epi32(_mm_shuffle_epi32(h, 0xff), 31);
	const __m128i carry = _mm_slli_si128(_mm_srli_epi64(h, 63), 8);

	return _mm_xor_si128(_mm_or_si128(_mm_slli_epi64(h, 1), carry), _mm_and_si128(top, polynomial));
}

/* Doubles what is known each time, so that the products of one round do not wait for one another. */
INLINE void expand_powers(struct aesni_state *k)
{
	k->powers[POWERS - 1] = times_x(byte_swap(encrypt(k, _mm_setzero_si128())));
	for (int known = 1; known < POWERS; known *= 2) {
		for (int i = 1; i <= known && known + i <= POWERS; i++)
			k->powers[POWERS - known - i] = multiply(k->powers[POWERS - i], k->powers[POWERS - known]);
	}
	for (int i = 0; i < POWERS; i++) {
		const __m128i power = k->powers[i];

		k->middles[i] = (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(power, swap_halves(power)));
	}
}

APART static void expand_apart(struct aesni_state *k, const uint8_t *raw)
{
	expand_cipher(k->round_keys, raw);
	expand_powers(k);
}

static void expand(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	expand_apart(state, key);
	aead_clear_registers();
	aead_wipe_stack();
}

APART static void encrypt_apart(const struct aesni_state *k, uint8_t *out, const uint8_t *in)
{
	store(out, encrypt(k, load(in)));
}

static void encrypt_block(const void *state, uint8_t out[16], const uint8_t in[16])
{
	encrypt_apart(state, out, in);
	aead_clear_registers();
	aead_wipe_stack();
}

static bool usable(void)
{
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3");
}

const struct aead_kernel aead_aesni = {
	.name = "aesni",
	.key_state_size = KEY_STATE_SIZE,
	.usable = usable,
	.expand = expand,
	.encrypt_block = encrypt_block,
	.seal_run = seal_run,
	.open_run = open_run,
};
