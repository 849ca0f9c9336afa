/* AES-256-GCM on VAES and VPCLMULQDQ, 512-bit registers: 32 counter blocks abreast, and under their rounds the GHASH of 32 blocks
 * of ciphertext (seal: the 32 before, read back from `out`; open: these 32).
 * What must hold: nothing here branches on or indexes by a secret; the powers of H are made once per key; what the inner
 * functions spill is wiped by the run functions before they return; no byte outside a message is read or written (masked loads).
 *
 * Where the time goes on the cores this was tuned on: 14 AESENC and 3 VPCLMULQDQ a row cost about as much each, because the
 * latter is four or five operations; four vector pipes take both, and every shuffle, xor and broadcast beside them is a quarter
 * of a cycle. Hence the round keys are kept four abreast, the counters come from one xor a row, the products go the way of
 * Karatsuba two rows at a time, and a sector has one reduction. */
#include <immintrin.h>

#include "kernel.h"
#include "processor_x86_64.h"

enum {
	ROUNDS = 14,
	BLOCK = 16,
	ROW_BLOCKS = 4,
	ROW = ROW_BLOCKS * BLOCK, /* bytes in a register */
	WIDE = 8,                 /* registers abreast: AESENC's latency times two a cycle */
	GROUP = WIDE * ROW,       /* bytes */
	GROUP_BLOCKS = GROUP / BLOCK,
	CHUNK = 8,         /* groups in one reduction */
	LEAD = ROW_BLOCKS, /* powers before those of a whole chunk: for a row of associated data */
	END = LEAD + CHUNK * GROUP_BLOCKS,
	PAIRS = CHUNK * WIDE / 2,
};

/* powers[i] = H^(END + 1 - i) times x. The last is H itself; the row of zeroes behind lets a row that ends a chunk be read whole.
 * middles: halves of the powers of whole groups xored, for a pair of rows: in each lane the first row's low, the second's high.
 */
struct vaes512_state {
	__m512i round_keys[ROUNDS + 1]; /* each four times */
	__m128i powers[END + ROW_BLOCKS];
	__m512i middles[PAIRS];
};

#define KEY_STATE_SIZE sizeof(struct vaes512_state)
_Static_assert(KEY_STATE_SIZE <= AEAD_KEY_STATE_MAX && KEY_STATE_SIZE % 64 == 0, "the key state fits its promise");

#define INLINE static inline __attribute__((always_inline))
#define APART  __attribute__((noinline))

/* The unreduced sum of a chunk: Karatsuba's three products of each block. A chunk is some text blocks, the last with H^2, so that
 * the lengths can follow with H, and before the text what came earlier: a row of associated data, or the value of the chunk
 * before, which already has a factor H too many. */
struct hash {
	__m512i low, middle, high;
	__m128i value; /* carried */
	size_t at;     /* the power of the next group's first block */
};

INLINE __m512i load(const void *p)
{
	return _mm512_loadu_si512(p);
}

INLINE __m512i broadcast(__m128i v)
{
	return _mm512_broadcast_i32x4(v);
}

#define SWAPPED(n)                                                                                                               \
	(n) + 15, (n) + 14, (n) + 13, (n) + 12, (n) + 11, (n) + 10, (n) + 9, (n) + 8, (n) + 7, (n) + 6, (n) + 5, (n) + 4,        \
		(n) + 3, (n) + 2, (n) + 1, (n)
static const _Alignas(64) uint8_t byte_order[ROW] = { SWAPPED(0), SWAPPED(16), SWAPPED(32), SWAPPED(48) };

/* VPERMB can take its bytes from memory, VPSHUFB cannot: in the assembly below that saves a load. */
INLINE __m512i byte_swap(__m512i v)
{
	return _mm512_permutexvar_epi8(_mm512_load_si512(byte_order), v);
}

INLINE __m128i byte_swap_block(__m128i v)
{
	return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE __m512i xor3(__m512i a, __m512i b, __m512i c)
{
	return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

INLINE __m512i swap_halves(__m512i v)
{
	return _mm512_shuffle_epi32(v, 0x4e);
}

/* Four products at once, by Karatsuba's parts, to four values below 2^128. The powers carry a factor x, so the 255-bit product
 * needs no shift; each step multiplies the lowest 64 bits by x^63 + x^62 + x^57, the reflected polynomial without its ends. */
INLINE __m512i reduce(__m512i low, __m512i middle, __m512i high)
{
	const __m512i polynomial = broadcast(_mm_set_epi64x((long long)0xc200000000000000, 1));

	middle = xor3(middle, low, high);
	low = _mm512_xor_si512(low, _mm512_bslli_epi128(middle, 8));
	high = _mm512_xor_si512(high, _mm512_bsrli_epi128(middle, 8));
	low = _mm512_xor_si512(swap_halves(low), _mm512_clmulepi64_epi128(low, polynomial, 0x10));
	return xor3(high, swap_halves(low), _mm512_clmulepi64_epi128(low, polynomial, 0x10));
}

INLINE __m128i fold_lanes(__m512i v)
{
	const __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));

	return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

INLINE __m512i multiply(__m512i a, __m512i b)
{
	return reduce(_mm512_clmulepi64_epi128(a, b, 0x00),
		      _mm512_clmulepi64_epi128(_mm512_xor_si512(a, swap_halves(a)), _mm512_xor_si512(b, swap_halves(b)), 0x00),
		      _mm512_clmulepi64_epi128(a, b, 0x11));
}

INLINE void hash_clear(struct hash *h)
{
	h->low = h->middle = h->high = _mm512_setzero_si512();
}

INLINE void hash_reduce(struct hash *h)
{
	h->value = _mm_xor_si128(h->value, fold_lanes(reduce(h->low, h->middle, h->high)));
	hash_clear(h);
}

/* A row whose first lane has the power `exponent`; lanes without a block are zero. */
INLINE void hash_row(struct hash *h, const struct vaes512_state *k, __m512i row, size_t exponent)
{
	const __m512i powers = load(k->powers + END + 1 - exponent);
	const __m512i middles = _mm512_xor_si512(powers, swap_halves(powers));

	h->low = _mm512_xor_si512(h->low, _mm512_clmulepi64_epi128(row, powers, 0x00));
	h->high = _mm512_xor_si512(h->high, _mm512_clmulepi64_epi128(row, powers, 0x11));
	h->middle = _mm512_xor_si512(h->middle, _mm512_clmulepi64_epi128(_mm512_xor_si512(row, swap_halves(row)), middles, 0x00));
}

/* Before a chunk of `blocks`: none are left, and the value is what it is, or it has one factor H too many already. */
INLINE void hash_carry(struct hash *h, const struct vaes512_state *k, size_t blocks)
{
	if (blocks == 0)
		return;
	hash_row(h, k, _mm512_zextsi128_si512(h->value), blocks);
	h->value = _mm_setzero_si128();
}

INLINE size_t chunk_start(size_t groups)
{
	return groups < CHUNK ? END - groups * GROUP_BLOCKS : LEAD;
}

/* After a group; `left` are the whole groups that follow it. */
INLINE void hash_advance(struct hash *h, const struct vaes512_state *k, size_t left)
{
	h->at += GROUP_BLOCKS;
	if (__builtin_expect(h->at < END || left == 0, true))
		return;
	hash_reduce(h);
	h->at = chunk_start(left);
	hash_carry(h, k, END - h->at);
}

/* Rows 2i and 2i + 1 of a group. */
INLINE void hash_pair(struct hash *h, const uint8_t *bytes, const __m128i *powers, __m512i middles)
{
	const __m512i first = byte_swap(load(bytes));
	const __m512i second = byte_swap(load(bytes + ROW));
	const __m512i sums = _mm512_xor_si512(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));

	h->low = xor3(h->low, _mm512_clmulepi64_epi128(first, load(powers), 0x00),
		      _mm512_clmulepi64_epi128(second, load(powers + ROW_BLOCKS), 0x00));
	h->high = xor3(h->high, _mm512_clmulepi64_epi128(first, load(powers), 0x11),
		       _mm512_clmulepi64_epi128(second, load(powers + ROW_BLOCKS), 0x11));
	h->middle = xor3(h->middle, _mm512_clmulepi64_epi128(sums, middles, 0x00), _mm512_clmulepi64_epi128(sums, middles, 0x11));
}

INLINE void hash_group(struct hash *h, const struct vaes512_state *k, const uint8_t *bytes)
{
	const __m512i *middles = k->middles + (h->at - LEAD) / 8;

	for (size_t i = 0; i < WIDE / 2; i++)
		hash_pair(h, bytes + 2 * i * ROW, k->powers + h->at + 8 * i, middles[i]);
}

INLINE size_t blocks_of(size_t size)
{
	return size / BLOCK + (size % BLOCK != 0);
}

INLINE __mmask64 mask_of(size_t size)
{
	return size >= ROW ? ~UINT64_C(0) : (UINT64_C(1) << size) - 1;
}

INLINE __m512i load_part(const uint8_t *bytes, size_t size)
{
	return _mm512_maskz_loadu_epi8(mask_of(size), bytes);
}

/* Associated data longer than a row: chunks of its own. */
INLINE void hash_long(struct hash *h, const struct vaes512_state *k, const uint8_t *bytes, size_t size)
{
	while (size > 0) {
		const size_t part = size < GROUP ? size : GROUP;

		hash_carry(h, k, blocks_of(part));
		for (size_t i = 0; i < part; i += ROW)
			hash_row(h, k, byte_swap(load_part(bytes + i, part - i)), blocks_of(part - i) + 1);
		hash_reduce(h);
		bytes += part;
		size -= part;
	}
}

/* The associated data, before a first chunk of `blocks`. */
INLINE void hash_start(struct hash *h, const struct vaes512_state *k, const struct aead_item *m, size_t blocks)
{
	hash_clear(h);
	h->value = _mm_setzero_si128();
	if (m->aad_size > ROW) {
		hash_long(h, k, m->aad, m->aad_size);
		hash_carry(h, k, blocks);
	} else if (m->aad_size > 0) {
		hash_row(h, k, byte_swap(load_part(m->aad, m->aad_size)), blocks + blocks_of(m->aad_size) + 1);
	}
}

INLINE __m128i encrypt(const struct vaes512_state *k, __m128i s)
{
	s = _mm_xor_si128(s, _mm512_castsi512_si128(k->round_keys[0]));
	for (int r = 1; r < ROUNDS; r++)
		s = _mm_aesenc_si128(s, _mm512_castsi512_si128(k->round_keys[r]));
	return _mm_aesenclast_si128(s, _mm512_castsi512_si128(k->round_keys[ROUNDS]));
}

/* s is xored with the first round key already. */
INLINE __m512i encrypt_row(const struct vaes512_state *k, __m512i s)
{
	for (int r = 1; r < ROUNDS; r++)
		s = _mm512_aesenc_epi128(s, k->round_keys[r]);
	return _mm512_aesenclast_epi128(s, k->round_keys[ROUNDS]);
}

/* The counter blocks of one message. An IV of 96 bits always starts at 1, and the text at 2, so the counts of a group are known
 * but for a number of groups: all of them are 32 `groups` xor a constant, but the last two, which belong to the next 32. */
struct counter {
	__m512i start;  /* the IV four times, with a count of zero, xor the first round key */
	__m512i groups; /* 32 times those done, in the lowest word of each lane: not yet in the order of bytes of a block */
	__m512i next;   /* the start of the group after the next one, its count in place */
	__m512i these,
		last; /* where the next group starts, but for the constants; made a group ahead, so that it need not wait */
};

INLINE __m512i counter_after(const struct counter *c, int groups)
{
	const __m512i count = _mm512_add_epi32(c->groups, broadcast(_mm_set_epi32(0, 0, 0, groups * GROUP_BLOCKS)));

	return _mm512_xor_si512(c->start, byte_swap(count));
}

INLINE struct counter counter_start(const struct vaes512_state *k, __m128i iv)
{
	struct counter c = { .start = _mm512_xor_si512(k->round_keys[0], broadcast(iv)), .groups = _mm512_setzero_si512() };

	c.these = c.start;
	c.next = counter_after(&c, 1);
	c.last = _mm512_mask_mov_epi64(c.these, 0xf0, c.next);
	return c;
}

INLINE void counter_next(struct counter *c)
{
	c->these = c->next;
	c->next = counter_after(c, 2);
	c->last = _mm512_mask_mov_epi64(c->these, 0xf0, c->next);
	c->groups = _mm512_add_epi32(c->groups, broadcast(_mm_set_epi32(0, 0, 0, GROUP_BLOCKS)));
}

/* What a group's rows xor to where it starts: the counts 2 to 33 without what is above 31, in their places. */
#define COUNT(n)  0, 0, 0, (uint32_t)((n) % GROUP_BLOCKS) << 24
#define COUNTS(n) COUNT(n), COUNT((n) + 1), COUNT((n) + 2), COUNT((n) + 3)
static const _Alignas(64) uint32_t counts[WIDE * ROW / 4] = {
	COUNTS(2), COUNTS(6), COUNTS(10), COUNTS(14), COUNTS(18), COUNTS(22), COUNTS(26), COUNTS(30),
};

/* What stays in registers from group to group. */
struct kept {
	__m512i key1, key2, key3, key4, key5, key6, key7, key8;
	__m512i order;
};

INLINE struct kept keep(const struct vaes512_state *k)
{
	return (struct kept){
		k->round_keys[1], k->round_keys[2], k->round_keys[3],
		k->round_keys[4], k->round_keys[5], k->round_keys[6],
		k->round_keys[7], k->round_keys[8], _mm512_loadu_si512(byte_order),
	};
}

/* Rows are zmm0 to zmm7, two rows under the hash zmm8 to zmm10, products zmm11 and zmm12, a round key zmm13. */
#define AES4(key, a, b, c, d)                                                                                                    \
	"vaesenc " key ", %%zmm" a ", %%zmm" a "\n\t"                                                                            \
	"vaesenc " key ", %%zmm" b ", %%zmm" b "\n\t"                                                                            \
	"vaesenc " key ", %%zmm" c ", %%zmm" c "\n\t"                                                                            \
	"vaesenc " key ", %%zmm" d ", %%zmm" d "\n\t"
#define ROUND(key, one, other) AES4(key, "0", "1", "2", "3") one AES4(key, "4", "5", "6", "7") other
#define KEY(i)                 "vmovdqa64 64*" #i "(%[keys]), %%zmm13\n\t"
#define START(i, from)                                                                                                           \
	"vpxorq 64*" #i "(%[counts]), %[" from "], %%zmm" #i "\n\t"                                                              \
	"prefetcht0 64*" #i "(%[ahead])\n\t"
#define LAST(i, spare)                                                                                                           \
	"vpxorq 64*" #i "(%[in]), %%zmm13, %%zmm" spare "\n\t"                                                                   \
	"vaesenclast %%zmm" spare ", %%zmm" #i ", %%zmm" #i "\n\t"
#define STORE(i) "vmovdqu64 %%zmm" #i ", 64*" #i "(%[out])\n\t"

/* The hash of a pair of rows in six parts of one multiplication each: these are microcode on some cores, and two of them side by
 * side hold up all that could start. */
#define PAIR1(i)                                                                                                                 \
	"vpermb 128*" #i "(%[hashed]), %[order], %%zmm8\n\t"                                                                     \
	"vpermb 128*" #i "+64(%[hashed]), %[order], %%zmm9\n\t"                                                                  \
	"vpclmulqdq $0x00, 128*" #i "(%[powers]), %%zmm8, %%zmm11\n\t"
#define PAIR2(i)                                                                                                                 \
	"vpclmulqdq $0x00, 128*" #i "+64(%[powers]), %%zmm9, %%zmm12\n\t"                                                        \
	"vpternlogq $0x96, %%zmm11, %%zmm12, %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"vpclmulqdq $0x11, 128*" #i "(%[powers]), %%zmm8, %%zmm11\n\t"                                                           \
	"vpunpcklqdq %%zmm9, %%zmm8, %%zmm10\n\t"                                                                                \
	"vpunpckhqdq %%zmm9, %%zmm8, %%zmm8\n\t"
#define PAIR4(i)                                                                                                                 \
	"vpclmulqdq $0x11, 128*" #i "+64(%[powers]), %%zmm9, %%zmm12\n\t"                                                        \
	"vpxorq %%zmm8, %%zmm10, %%zmm10\n\t"                                                                                    \
	"vpternlogq $0x96, %%zmm11, %%zmm12, %[high]\n\t"
#define PAIR5(i) "vpclmulqdq $0x00, 64*" #i "(%[middles]), %%zmm10, %%zmm11\n\t"
#define PAIR6(i)                                                                                                                 \
	"vpclmulqdq $0x11, 64*" #i "(%[middles]), %%zmm10, %%zmm12\n\t"                                                          \
	"vpternlogq $0x96, %%zmm11, %%zmm12, %[middle]\n\t"
#define NONE(i) ""

// clang-format off
/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill what is kept. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile(START(0, "these") START(1, "these") START(2, "these") START(3, "these") \
	START(4, "these") START(5, "these") START(6, "these") START(7, "last") \
	ROUND("%[key1]", PART1(0), PART2(0)) ROUND("%[key2]", PART3(0), PART4(0)) ROUND("%[key3]", PART5(0), PART6(0)) \
	ROUND("%[key4]", PART1(1), PART2(1)) ROUND("%[key5]", PART3(1), PART4(1)) ROUND("%[key6]", PART5(1), PART6(1)) \
	ROUND("%[key7]", PART1(2), PART2(2)) ROUND("%[key8]", PART3(2), PART4(2)) KEY(9) ROUND("%%zmm13", PART5(2), PART6(2)) \
	KEY(10) ROUND("%%zmm13", PART1(3), PART2(3)) KEY(11) ROUND("%%zmm13", PART3(3), PART4(3)) \
	KEY(12) ROUND("%%zmm13", PART5(3), PART6(3)) KEY(13) ROUND("%%zmm13", "", "") \
	KEY(14) LAST(0, "8") LAST(1, "9") LAST(2, "10") LAST(3, "11") LAST(4, "8") LAST(5, "9") LAST(6, "10") LAST(7, "11") \
	STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7) \
	: [low] "+v"(h->low), [middle] "+v"(h->middle), [high] "+v"(h->high) \
	: [these] "v"(these), [last] "v"(last), [order] "v"(kept->order), [key1] "v"(kept->key1), [key2] "v"(kept->key2), \
	  [key3] "v"(kept->key3), [key4] "v"(kept->key4), [key5] "v"(kept->key5), [key6] "v"(kept->key6), \
	  [key7] "v"(kept->key7), [key8] "v"(kept->key8), [in] "r"(in), [out] "r"(out), [hashed] "r"(hashed), \
	  [powers] "r"(k->powers + h->at), [middles] "r"(k->middles + (h->at - LEAD) / 8), [keys] "r"(k->round_keys), \
	  [counts] "r"(counts), [ahead] "r"(ahead) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
	  "memory")
// clang-format on

/* Key stream over one group and, unless `hashing` is false, under its rounds the GHASH of the group `hashed`, which may be `in`.
 * `ahead` is as much of the next message: processors fetch ahead by themselves only to the end of a page, which a sector is. */
INLINE void step(const struct vaes512_state *k, const struct kept *kept, struct counter *c, const uint8_t *in, uint8_t *out,
		 struct hash *h, const uint8_t *hashed, const uint8_t *ahead, const bool hashing)
{
	const __m512i these = c->these;
	const __m512i last = c->last;

	counter_next(c);
	if (hashing)
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
	else
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
}

INLINE __m128i iv_block(const struct aead_item *m)
{
	return _mm_maskz_loadu_epi8((1 << AEAD_IV_BYTES) - 1, m->iv);
}

/* What masks the tags of the next four items, or of those that are left. */
INLINE void make_masks(const struct vaes512_state *k, __m128i masks[static ROW_BLOCKS], const struct aead_item *items,
		       size_t count)
{
	const __m512i first = _mm512_maskz_set1_epi32(0x8888, 1 << 24);
	__m512i row = _mm512_zextsi128_si512(iv_block(&items[0]));

	if (count > 1)
		row = _mm512_inserti32x4(row, iv_block(&items[1]), 1);
	if (count > 2)
		row = _mm512_inserti32x4(row, iv_block(&items[2]), 2);
	if (count > 3)
		row = _mm512_inserti32x4(row, iv_block(&items[3]), 3);
	_mm512_storeu_si512(masks, encrypt_row(k, xor3(row, first, k->round_keys[0])));
}

/* Less than a group: cipher, and GHASH of whichever side is the ciphertext; then the lengths. Returns the tag. */
INLINE __m128i finish(const struct vaes512_state *k, const struct aead_item *m, const struct counter *c, struct hash *h,
		      __m128i mask, const bool sealing)
{
	const __m128i lengths = _mm_set_epi64x((long long)m->aad_size * 8, (long long)m->size * 8);
	const size_t done = m->size / GROUP * GROUP;
	const size_t size = m->size - done;
	__m512i count = _mm512_add_epi32(c->groups, _mm512_set_epi32(0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2));

	if (size > 0 && done > 0) {
		hash_reduce(h);
		hash_carry(h, k, blocks_of(size));
	}
	for (size_t i = 0; i < size; i += ROW) {
		const __m512i in = load_part(m->in + done + i, size - i);
		const __m512i stream = encrypt_row(k, _mm512_xor_si512(c->start, byte_swap(count)));
		const __m512i out = _mm512_maskz_mov_epi8(mask_of(size - i), _mm512_xor_si512(in, stream));

		hash_row(h, k, byte_swap(sealing ? out : in), blocks_of(size - i) + 1);
		_mm512_mask_storeu_epi8(m->out + done + i, mask_of(size - i), out);
		count = _mm512_add_epi32(count, broadcast(_mm_set_epi32(0, 0, 0, ROW_BLOCKS)));
	}
	hash_row(h, k, _mm512_zextsi128_si512(lengths), 1);
	hash_reduce(h);
	return _mm_xor_si128(byte_swap_block(h->value), mask);
}

/* Before the first group, or what there is of text. */
INLINE void start(const struct vaes512_state *k, const struct aead_item *m, struct hash *h)
{
	const size_t groups = m->size / GROUP;

	h->at = chunk_start(groups);
	hash_start(h, k, m, groups > 0 ? END - h->at : blocks_of(m->size));
}

/* A message whose cipher is done but for less than a group, and whose hash is a group behind. */
struct pending {
	const struct aead_item *item;
	struct counter counter;
	struct hash hash;
	__m128i mask;
};

INLINE void seal_finish(const struct vaes512_state *k, struct pending *p)
{
	_mm_storeu_si128((__m128i *)p->item->tag, finish(k, p->item, &p->counter, &p->hash, p->mask, true));
}

INLINE const uint8_t *last_group(const struct aead_item *m)
{
	return m->out + m->size / GROUP * GROUP - GROUP;
}

/* The hash of the message before ends under the cipher of this one's first group. */
INLINE void seal(const struct vaes512_state *k, const struct kept *kept, const struct aead_item *m, struct pending *p,
		 __m128i mask, const uint8_t *ahead)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;

	if (p->item != NULL && groups > 0)
		step(k, kept, &c, m->in, m->out, &p->hash, last_group(p->item), ahead, true);
	else if (p->item != NULL)
		hash_group(&p->hash, k, last_group(p->item));
	else if (groups > 0)
		step(k, kept, &c, m->in, m->out, &p->hash, NULL, ahead, false);
	if (p->item != NULL)
		seal_finish(k, p);
	start(k, m, &p->hash);
	p->item = m;
	p->mask = mask;
	for (size_t i = 1; i < groups; i++) {
		step(k, kept, &c, m->in + i * GROUP, m->out + i * GROUP, &p->hash, m->out + (i - 1) * GROUP, ahead + i * GROUP,
		     true);
		hash_advance(&p->hash, k, groups - i);
	}
	p->counter = c;
	if (groups > 0)
		return;
	seal_finish(k, p);
	p->item = NULL;
}

INLINE bool open(const struct vaes512_state *k, const struct kept *kept, const struct aead_item *m, __m128i mask,
		 const uint8_t *ahead)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;
	struct hash h;
	__m128i tag;

	start(k, m, &h);
	for (size_t i = 0; i < groups; i++) {
		step(k, kept, &c, m->in + i * GROUP, m->out + i * GROUP, &h, m->in + i * GROUP, ahead + i * GROUP, true);
		hash_advance(&h, k, groups - i - 1);
	}
	tag = finish(k, m, &c, &h, mask, false);
	return _mm_movemask_epi8(_mm_cmpeq_epi8(tag, _mm_loadu_si128((const __m128i *)m->tag))) == 0xffff;
}

/* What comes after an item, if there is as much of it: else the item itself. */
INLINE const uint8_t *ahead_of(const struct aead_item *items, size_t i, size_t count)
{
	const struct aead_item *next = &items[i + (i + 1 < count)];

	return next->size >= items[i].size ? next->in : items[i].in;
}

APART static void seal_items(const struct vaes512_state *k, struct aead_item *items, size_t count)
{
	const struct kept kept = keep(k);
	struct pending p = { .item = NULL };
	__m128i masks[ROW_BLOCKS];

	p.hash.at = LEAD;
	for (size_t i = 0; i < count; i++) {
		if (i % ROW_BLOCKS == 0)
			make_masks(k, masks, &items[i], count - i);
		seal(k, &kept, &items[i], &p, masks[i % ROW_BLOCKS], ahead_of(items, i, count));
	}
	if (p.item == NULL)
		return;
	hash_group(&p.hash, k, last_group(p.item));
	seal_finish(k, &p);
}

APART static size_t open_items(const struct vaes512_state *k, struct aead_item *items, size_t count)
{
	const struct kept kept = keep(k);
	__m128i masks[ROW_BLOCKS];
	size_t bad = 0;

	for (size_t i = 0; i < count; i++) {
		if (i % ROW_BLOCKS == 0)
			make_masks(k, masks, &items[i], count - i);
		bad += aead_conclude(&items[i], open(k, &kept, &items[i], masks[i % ROW_BLOCKS], ahead_of(items, i, count)));
	}
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

INLINE void *power(struct vaes512_state *k, int exponent)
{
	return &k->powers[END + 1 - exponent];
}

/* H to H^4 one after the other, then four at a time: doubling what is known, so that the products of one round do not wait. */
INLINE void expand_powers(struct vaes512_state *k)
{
	const __m128i h = aead_times_x(byte_swap_block(encrypt(k, _mm_setzero_si128())));
	__m512i product = _mm512_zextsi128_si512(h);

	_mm512_storeu_si512(power(k, 1), product);
	for (int i = 2; i <= 4; i++) {
		product = multiply(product, _mm512_zextsi128_si512(h));
		_mm_store_si128(power(k, i), _mm512_castsi512_si128(product));
	}
	for (int known = 4; known < END; known *= 2) {
		const __m512i top = broadcast(_mm_load_si128(power(k, known)));

		for (int i = 4; i <= known && known + i <= END; i += 4)
			_mm512_storeu_si512(power(k, known + i), multiply(load(power(k, i)), top));
	}
	product = multiply(load(power(k, 4)), broadcast(_mm_load_si128(power(k, END - 3))));
	_mm512_storeu_si512(k->powers, product);
	for (int i = 0; i < PAIRS; i++) {
		const __m512i first = load(k->powers + LEAD + 8 * i);
		const __m512i second = load(k->powers + LEAD + 8 * i + 4);

		k->middles[i] = _mm512_xor_si512(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
	}
}

APART static void expand_apart(struct vaes512_state *k, const uint8_t *raw)
{
	__m128i keys[ROUNDS + 1];

	aead_expand_cipher(keys, raw);
	for (int i = 0; i <= ROUNDS; i++)
		k->round_keys[i] = broadcast(keys[i]);
	expand_powers(k);
}

static void expand(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	expand_apart(state, key);
	aead_clear_registers();
	aead_wipe_stack();
}

APART static void encrypt_apart(const struct vaes512_state *k, uint8_t *out, const uint8_t *in)
{
	_mm_storeu_si128((__m128i *)out, encrypt(k, _mm_loadu_si128((const __m128i *)in)));
}

static void encrypt_block(const void *state, uint8_t out[16], const uint8_t in[16])
{
	encrypt_apart(state, out, in);
	aead_clear_registers();
	aead_wipe_stack();
}

const struct aead_kernel aead_vaes512 = {
	.name = "vaes512",
	.key_state_size = KEY_STATE_SIZE,
	.usable = aead_has_vaes512,
	.expand = expand,
	.encrypt_block = encrypt_block,
	.seal_run = seal_run,
	.open_run = open_run,
};
