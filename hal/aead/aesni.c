/* AES-256-GCM on AES-NI and PCLMULQDQ, 128-bit registers: eight counter blocks abreast, and under their rounds the GHASH of eight
 * blocks of ciphertext (seal: the eight before, read back from `out`; open: these eight).
 * What must hold: nothing here branches on or indexes by a secret; the powers of H are made once per key, so a chunk of up to
 * POWERS blocks costs one reduction; what the inner functions spill is wiped by the run functions before they return. */
#include <immintrin.h>
#include <string.h>

#include "kernel.h"
#include "processor_x86_64.h"

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

/* The counter blocks of one message. An IV of 96 bits always starts at 1, and the text at 2, so the counts of a group are known
 * but for a number of groups: all of them are 8 `groups` xor a constant, but the last two, which belong to the next 8. */
struct counter {
	__m128i start;  /* the IV with a count of zero, xor the first round key */
	__m128i groups; /* 8 times those done, in the lowest word: not yet in the order of bytes of a block */
	__m128i these,
		last; /* where the next group starts, but for the constants; made a group ahead, so that it need not wait */
};

/* The start of the group after `groups`, its count in place. */
INLINE __m128i counter_after(const struct counter *c, int groups)
{
	return _mm_xor_si128(c->start, byte_swap(_mm_add_epi32(c->groups, _mm_set_epi32(0, 0, 0, groups * WIDE))));
}

INLINE struct counter counter_start(const struct aesni_state *k, const uint8_t iv[AEAD_IV_BYTES])
{
	uint8_t block[BLOCK] = { 0 };
	struct counter c = { .groups = _mm_setzero_si128() };

	memcpy(block, iv, AEAD_IV_BYTES);
	c.start = _mm_xor_si128(load(block), k->round_keys[0]);
	c.these = c.start;
	c.last = counter_after(&c, 1);
	return c;
}

INLINE void counter_next(struct counter *c)
{
	c->these = c->last;
	c->last = counter_after(c, 2);
	c->groups = _mm_add_epi32(c->groups, _mm_set_epi32(0, 0, 0, WIDE));
}

#define COUNT(n) 0, 0, 0, (uint32_t)((n) % WIDE) << 24
static const _Alignas(16) uint32_t counts[WIDE * BLOCK / 4] = {
	COUNT(2), COUNT(3), COUNT(4), COUNT(5), COUNT(6), COUNT(7), COUNT(8), COUNT(9),
};
static const _Alignas(16) uint8_t byte_order[BLOCK] = { 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 };

/* Blocks are xmm0 to xmm7, two under the hash xmm8 to xmm10, a product xmm11, a round key xmm12; three are left for the sums. */
#define AES4(a, b, c, d)                                                                                                         \
	"aesenc %%xmm12, %%xmm" a "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" b "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" c "\n\t"                                                                                         \
	"aesenc %%xmm12, %%xmm" d "\n\t"
#define KEY(i)               "movdqa 16*" #i "(%[keys]), %%xmm12\n\t"
#define ROUND(i, one, other) KEY(i) AES4("0", "1", "2", "3") one AES4("4", "5", "6", "7") other
#define START(i, from)                                                                                                           \
	"movdqa 16*" #i "(%[counts]), %%xmm" #i "\n\t"                                                                           \
	"pxor %[" from "], %%xmm" #i "\n\t"
#define START_LAST "pxor 16*7(%[counts]), %[last]\n\t"
#define LAST(i, spare)                                                                                                           \
	"movdqu 16*" #i "(%[in]), %%xmm" spare "\n\t"                                                                            \
	"pxor %%xmm12, %%xmm" spare "\n\t"                                                                                       \
	"aesenclast %%xmm" spare ", %%xmm" #i "\n\t"
#define STORE(i) "movdqu %%xmm" #i ", 16*" #i "(%[out])\n\t"

/* The hash of two blocks in six parts of one multiplication each: these are microcode on some cores, and two of them side by side
 * hold up all that could start. */
#define PAIR1(i, value)                                                                                                          \
	"movdqu 32*" #i "(%[hashed]), %%xmm8\n\t"                                                                                \
	"movdqu 32*" #i "+16(%[hashed]), %%xmm9\n\t"                                                                             \
	"pshufb %[order], %%xmm8\n\t"                                                                                            \
	"pshufb %[order], %%xmm9\n\t" value "movdqa 32*" #i "(%[powers]), %%xmm11\n\t"                                           \
	"pclmulqdq $0x00, %%xmm8, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[low]\n\t"
#define PAIR2(i)                                                                                                                 \
	"movdqa 32*" #i "+16(%[powers]), %%xmm11\n\t"                                                                            \
	"pclmulqdq $0x00, %%xmm9, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"movdqa 32*" #i "(%[powers]), %%xmm11\n\t"                                                                               \
	"pclmulqdq $0x11, %%xmm8, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[high]\n\t"                                                                                              \
	"movdqa %%xmm8, %%xmm10\n\t"                                                                                             \
	"punpckhqdq %%xmm9, %%xmm8\n\t"                                                                                          \
	"punpcklqdq %%xmm9, %%xmm10\n\t"
#define PAIR4(i)                                                                                                                 \
	"movdqa 32*" #i "+16(%[powers]), %%xmm11\n\t"                                                                            \
	"pclmulqdq $0x11, %%xmm9, %%xmm11\n\t"                                                                                   \
	"pxor %%xmm11, %[high]\n\t"                                                                                              \
	"pxor %%xmm8, %%xmm10\n\t"
#define PAIR5(i)                                                                                                                 \
	"movdqu 16*" #i "(%[middles]), %%xmm11\n\t"                                                                              \
	"pclmulqdq $0x00, %%xmm10, %%xmm11\n\t"                                                                                  \
	"pxor %%xmm11, %[middle]\n\t"
#define PAIR6(i)                                                                                                                 \
	"movdqu 16*" #i "(%[middles]), %%xmm11\n\t"                                                                              \
	"pclmulqdq $0x11, %%xmm10, %%xmm11\n\t"                                                                                  \
	"pxor %%xmm11, %[middle]\n\t"
#define VALUE     "pxor %[value], %%xmm8\n\t"
#define NONE(...) ""

// clang-format off
/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile(START(0, "these") START(1, "these") START(2, "these") START(3, "these") START(4, "these") \
	START(5, "these") START(6, "last") START_LAST \
	ROUND(1, PART1(0, VALUE), PART2(0)) ROUND(2, PART3(0), PART4(0)) ROUND(3, PART5(0), PART6(0)) \
	ROUND(4, PART1(1, ""), PART2(1)) ROUND(5, PART3(1), PART4(1)) ROUND(6, PART5(1), PART6(1)) \
	ROUND(7, PART1(2, ""), PART2(2)) ROUND(8, PART3(2), PART4(2)) ROUND(9, PART5(2), PART6(2)) \
	ROUND(10, PART1(3, ""), PART2(3)) ROUND(11, PART3(3), PART4(3)) ROUND(12, PART5(3), PART6(3)) ROUND(13, "", "") \
	KEY(14) LAST(0, "8") LAST(1, "9") LAST(2, "10") LAST(3, "11") LAST(4, "8") LAST(5, "9") LAST(6, "10") LAST(7, "11") \
	STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7) \
	: [low] "+x"(h->low), [middle] "+x"(h->middle), [high] "+x"(h->high), \
	  [these] "+x"(these), [last] "+x"(last) \
	: [order] "m"(byte_order), [value] "m"(h->value), [in] "r"(in), [out] "r"(out), \
	  [hashed] "r"(hashed), [powers] "r"(k->powers + h->at), [middles] "r"(k->middles + h->at), [keys] "r"(k->round_keys), \
	  [counts] "r"(counts) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm8", "xmm9", "xmm10", "xmm11", "memory")
// clang-format on

/* Key stream over one group and, unless `hashing` is false, under its rounds the GHASH of the group `hashed`, which may be `in`.
 */
INLINE void step(const struct aesni_state *k, struct counter *c, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const bool hashing)
{
	/* where the assembly has the last block and the round key */
	register __m128i last __asm__("xmm7");
	register __m128i these __asm__("xmm12");

	these = c->these;
	last = c->last;
	counter_next(c);
	if (hashing) {
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
		hash_advance(h, WIDE, 0);
	} else {
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
	}
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

/* The counter block after the groups that are done, with its bytes reversed. */
INLINE __m128i counter_block(const struct counter *c, const struct aead_item *m)
{
	return _mm_add_epi32(first_counter(m->iv), _mm_add_epi32(c->groups, _mm_set_epi32(0, 0, 0, 1)));
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
	struct counter c = counter_start(k, m->iv);
	const size_t whole = m->size / GROUP * GROUP;
	const uint8_t *in = m->in;
	uint8_t *out = m->out;
	struct hash h;

	hash_begin(&h, k, m);
	if (whole > 0)
		step(k, &c, in, out, &h, NULL, false);
	for (size_t i = GROUP; i < whole; i += GROUP)
		step(k, &c, in + i, out + i, &h, out + i - GROUP, true);
	cipher_tail(k, counter_block(&c, m), in + whole, out + whole, m->size - whole);
	if (whole > 0)
		hash_group(&h, k, out + whole - GROUP);
	return hash_end(&h, k, m, out + whole, m->size - whole);
}

INLINE bool open(const struct aesni_state *k, const struct aead_item *m)
{
	struct counter c = counter_start(k, m->iv);
	const size_t whole = m->size / GROUP * GROUP;
	const uint8_t *in = m->in;
	uint8_t *out = m->out;
	struct hash h;
	__m128i tag;

	hash_begin(&h, k, m);
	for (size_t i = 0; i < whole; i += GROUP)
		step(k, &c, in + i, out + i, &h, in + i, true);
	tag = hash_end(&h, k, m, in + whole, m->size - whole);
	cipher_tail(k, counter_block(&c, m), in + whole, out + whole, m->size - whole);
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

/* Doubles what is known each time, so that the products of one round do not wait for one another. */
INLINE void expand_powers(struct aesni_state *k)
{
	k->powers[POWERS - 1] = aead_times_x(byte_swap(encrypt(k, _mm_setzero_si128())));
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
	aead_expand_cipher(k->round_keys, raw);
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
