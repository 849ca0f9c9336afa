/* AES-256-GCM on VAES and VPCLMULQDQ, 256-bit registers in AVX2 encodings, for cores without AVX-512: 16 counter blocks abreast,
 * and under their rounds the GHASH of 16 blocks of ciphertext (seal: the 16 before, read back from `out`; open: these 16). What
 * must hold: nothing here branches on or indexes by a secret; the powers of H are made once per key; what the inner functions
 * spill is wiped by the run functions before they return; no byte outside a message is read or written. The plan is that of
 * vaes256.c, with half the registers and no masks. */
#include <immintrin.h>
#include <string.h>

#include "kernel.h"
#include "processor_x86_64.h"

enum {
	ROUNDS = 14,
	BLOCK = 16,
	ROW_BLOCKS = 2,
	ROW = ROW_BLOCKS * BLOCK, /* bytes in a register */
	WIDE = 8,                 /* registers abreast: AESENC's latency times two a cycle */
	GROUP = WIDE * ROW,       /* bytes */
	GROUP_BLOCKS = GROUP / BLOCK,
	CHUNK = 16, /* groups in one reduction */
	LEAD = 4,   /* powers before those of a whole chunk: for associated data */
	END = LEAD + CHUNK * GROUP_BLOCKS,
	PAIRS = CHUNK * WIDE / 2,
};

/* powers[i] = H^(END + 1 - i) times x. The last is H itself; the row of zeroes behind lets a row that ends a chunk be read whole.
 * middles: halves of the powers of whole groups xored, for a pair of rows: in each lane the first row's low, the second's high.
 */
struct vaes256_state {
	__m256i round_keys[ROUNDS + 1]; /* each twice */
	__m128i powers[END + LEAD];
	__m256i middles[PAIRS];
	__m256i unused;
};

#define KEY_STATE_SIZE sizeof(struct vaes256_state)
_Static_assert(KEY_STATE_SIZE <= AEAD_KEY_STATE_MAX && KEY_STATE_SIZE % 64 == 0, "the key state fits its promise");

#define INLINE static inline __attribute__((always_inline))
#define APART  __attribute__((noinline))

/* The unreduced sum of a chunk: Karatsuba's three products of each block. A chunk is some text blocks, the last with H^2, so that
 * the lengths can follow with H, and before the text what came earlier: a row of associated data, or the value of the chunk
 * before, which already has a factor H too many. */
struct hash {
	__m256i low, middle, high;
	__m128i value; /* carried */
	size_t at;     /* the power of the next group's first block */
};

INLINE __m256i load(const void *p)
{
	return _mm256_loadu_si256(p);
}

INLINE void store(void *p, __m256i v)
{
	_mm256_storeu_si256(p, v);
}

INLINE __m256i broadcast(__m128i v)
{
	return _mm256_broadcastsi128_si256(v);
}

/* The other lane is zero: a cast alone would leave it undefined. */
INLINE __m256i one_lane(__m128i v)
{
	return _mm256_inserti128_si256(_mm256_setzero_si256(), v, 0);
}

#define SWAPPED 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0
static const _Alignas(32) uint8_t byte_order[ROW] = { SWAPPED, SWAPPED };

INLINE __m256i byte_swap(__m256i v)
{
	return _mm256_shuffle_epi8(v, _mm256_load_si256((const __m256i *)byte_order));
}

INLINE __m128i byte_swap_block(__m128i v)
{
	return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE __m256i swap_halves(__m256i v)
{
	return _mm256_shuffle_epi32(v, 0x4e);
}

INLINE __m256i xor3(__m256i a, __m256i b, __m256i c)
{
	return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}

/* Two products at once, by Karatsuba's parts, to four values below 2^128. The powers carry a factor x, so the 255-bit product
 * needs no shift; each step multiplies the lowest 64 bits by x^63 + x^62 + x^57, the reflected polynomial without its ends. */
INLINE __m256i reduce(__m256i low, __m256i middle, __m256i high)
{
	const __m256i polynomial = broadcast(_mm_set_epi64x((long long)0xc200000000000000, 1));

	middle = xor3(middle, low, high);
	low = _mm256_xor_si256(low, _mm256_bslli_epi128(middle, 8));
	high = _mm256_xor_si256(high, _mm256_bsrli_epi128(middle, 8));
	low = _mm256_xor_si256(swap_halves(low), _mm256_clmulepi64_epi128(low, polynomial, 0x10));
	return xor3(high, swap_halves(low), _mm256_clmulepi64_epi128(low, polynomial, 0x10));
}

INLINE __m128i fold_lanes(__m256i v)
{
	return _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

INLINE __m256i multiply(__m256i a, __m256i b)
{
	return reduce(_mm256_clmulepi64_epi128(a, b, 0x00),
		      _mm256_clmulepi64_epi128(_mm256_xor_si256(a, swap_halves(a)), _mm256_xor_si256(b, swap_halves(b)), 0x00),
		      _mm256_clmulepi64_epi128(a, b, 0x11));
}

INLINE void hash_clear(struct hash *h)
{
	h->low = h->middle = h->high = _mm256_setzero_si256();
}

INLINE void hash_reduce(struct hash *h)
{
	h->value = _mm_xor_si128(h->value, fold_lanes(reduce(h->low, h->middle, h->high)));
	hash_clear(h);
}

/* A row whose first lane has the power `exponent`; lanes without a block are zero. */
INLINE void hash_row(struct hash *h, const struct vaes256_state *k, __m256i row, size_t exponent)
{
	const __m256i powers = load(k->powers + END + 1 - exponent);
	const __m256i middles = _mm256_xor_si256(powers, swap_halves(powers));

	h->low = _mm256_xor_si256(h->low, _mm256_clmulepi64_epi128(row, powers, 0x00));
	h->high = _mm256_xor_si256(h->high, _mm256_clmulepi64_epi128(row, powers, 0x11));
	h->middle = _mm256_xor_si256(h->middle, _mm256_clmulepi64_epi128(_mm256_xor_si256(row, swap_halves(row)), middles, 0x00));
}

/* Before a chunk of `blocks`: none are left, and the value is what it is, or it has one factor H too many already. */
INLINE void hash_carry(struct hash *h, const struct vaes256_state *k, size_t blocks)
{
	if (blocks == 0)
		return;
	hash_row(h, k, one_lane(h->value), blocks);
	h->value = _mm_setzero_si128();
}

INLINE size_t chunk_start(size_t groups)
{
	return groups < CHUNK ? END - groups * GROUP_BLOCKS : LEAD;
}

/* After a group; `left` are the whole groups that follow it. */
INLINE void hash_advance(struct hash *h, const struct vaes256_state *k, size_t left)
{
	h->at += GROUP_BLOCKS;
	if (__builtin_expect(h->at < END || left == 0, true))
		return;
	hash_reduce(h);
	h->at = chunk_start(left);
	hash_carry(h, k, END - h->at);
}

/* Rows 2i and 2i + 1 of a group. */
INLINE void hash_pair(struct hash *h, const uint8_t *bytes, const __m128i *powers, __m256i middles)
{
	const __m256i first = byte_swap(load(bytes));
	const __m256i second = byte_swap(load(bytes + ROW));
	const __m256i sums = _mm256_xor_si256(_mm256_unpacklo_epi64(first, second), _mm256_unpackhi_epi64(first, second));

	h->low = xor3(h->low, _mm256_clmulepi64_epi128(first, load(powers), 0x00),
		      _mm256_clmulepi64_epi128(second, load(powers + ROW_BLOCKS), 0x00));
	h->high = xor3(h->high, _mm256_clmulepi64_epi128(first, load(powers), 0x11),
		       _mm256_clmulepi64_epi128(second, load(powers + ROW_BLOCKS), 0x11));
	h->middle = xor3(h->middle, _mm256_clmulepi64_epi128(sums, middles, 0x00), _mm256_clmulepi64_epi128(sums, middles, 0x11));
}

INLINE void hash_group(struct hash *h, const struct vaes256_state *k, const uint8_t *bytes)
{
	const __m256i *middles = k->middles + (h->at - LEAD) / 4;

	for (size_t i = 0; i < WIDE / 2; i++)
		hash_pair(h, bytes + 2 * i * ROW, k->powers + h->at + 4 * i, middles[i]);
}

INLINE size_t blocks_of(size_t size)
{
	return size / BLOCK + (size % BLOCK != 0);
}

/* A row of `size` bytes or, if that is less than a row, filled up with zeroes. */
INLINE __m256i load_part(const uint8_t *bytes, size_t size)
{
	uint8_t row[ROW] = { 0 };

	if (size >= ROW)
		return load(bytes);
	memcpy(row, bytes, size);
	return load(row);
}

INLINE void store_part(uint8_t *bytes, __m256i v, size_t size)
{
	uint8_t row[ROW];

	if (size >= ROW) {
		store(bytes, v);
		return;
	}
	store(row, v);
	memcpy(bytes, row, size);
}

/* Bytes that end `after` blocks before the lengths. */
INLINE void hash_rows(struct hash *h, const struct vaes256_state *k, const uint8_t *bytes, size_t size, size_t after)
{
	for (size_t i = 0; i < size; i += ROW)
		hash_row(h, k, byte_swap(load_part(bytes + i, size - i)), blocks_of(size - i) + after + 1);
}

/* Associated data for which there are no powers: chunks of its own. */
INLINE void hash_long(struct hash *h, const struct vaes256_state *k, const uint8_t *bytes, size_t size)
{
	while (size > 0) {
		const size_t part = size < GROUP ? size : GROUP;

		hash_carry(h, k, blocks_of(part));
		hash_rows(h, k, bytes, part, 0);
		hash_reduce(h);
		bytes += part;
		size -= part;
	}
}

/* The associated data, before a first chunk of `blocks`. */
INLINE void hash_start(struct hash *h, const struct vaes256_state *k, const struct aead_item *m, size_t blocks)
{
	hash_clear(h);
	h->value = _mm_setzero_si128();
	if (m->aad_size <= LEAD * BLOCK) {
		hash_rows(h, k, m->aad, m->aad_size, blocks);
		return;
	}
	hash_long(h, k, m->aad, m->aad_size);
	hash_carry(h, k, blocks);
}

INLINE __m128i encrypt(const struct vaes256_state *k, __m128i s)
{
	s = _mm_xor_si128(s, _mm256_castsi256_si128(k->round_keys[0]));
	for (int r = 1; r < ROUNDS; r++)
		s = _mm_aesenc_si128(s, _mm256_castsi256_si128(k->round_keys[r]));
	return _mm_aesenclast_si128(s, _mm256_castsi256_si128(k->round_keys[ROUNDS]));
}

/* s is xored with the first round key already. */
INLINE __m256i encrypt_row(const struct vaes256_state *k, __m256i s)
{
	for (int r = 1; r < ROUNDS; r++)
		s = _mm256_aesenc_epi128(s, k->round_keys[r]);
	return _mm256_aesenclast_epi128(s, k->round_keys[ROUNDS]);
}

/* The counter blocks of one message. An IV of 96 bits always starts at 1, and the text at 2, so the counts of a group are known
 * but for a number of groups: all of them are 16 `groups` xor a constant, but the last row, which belongs to the next 16. */
struct counter {
	__m256i start;  /* the IV twice, with a count of zero, xor the first round key */
	__m256i groups; /* 16 times those done, in the lowest word of each lane: not yet in the order of bytes of a block */
	__m256i these,
		last; /* where the next group starts, but for the constants; made a group ahead, so that it need not wait */
};

/* The start of the group after `groups`, its count in place. */
INLINE __m256i counter_after(const struct counter *c, int groups)
{
	const __m256i count = _mm256_add_epi32(c->groups, broadcast(_mm_set_epi32(0, 0, 0, groups * GROUP_BLOCKS)));

	return _mm256_xor_si256(c->start, byte_swap(count));
}

INLINE struct counter counter_start(const struct vaes256_state *k, __m128i iv)
{
	struct counter c = { .start = _mm256_xor_si256(k->round_keys[0], broadcast(iv)), .groups = _mm256_setzero_si256() };

	c.these = c.start;
	c.last = counter_after(&c, 1);
	return c;
}

INLINE void counter_next(struct counter *c)
{
	c->these = c->last;
	c->last = counter_after(c, 2);
	c->groups = _mm256_add_epi32(c->groups, broadcast(_mm_set_epi32(0, 0, 0, GROUP_BLOCKS)));
}

/* What a group's rows xor to where it starts: the counts 2 to 17 without what is above 15, in their places. */
#define COUNT(n)  0, 0, 0, (uint32_t)((n) % GROUP_BLOCKS) << 24
#define COUNTS(n) COUNT(n), COUNT((n) + 1)
static const _Alignas(32) uint32_t counts[WIDE * ROW / 4] = {
	COUNTS(2), COUNTS(4), COUNTS(6), COUNTS(8), COUNTS(10), COUNTS(12), COUNTS(14), COUNTS(16),
};

/* Rows are ymm0 to ymm7, two rows under the hash ymm8 to ymm10, a product ymm11, a round key ymm12; three are left for the sums.
 */
#define AES4(a, b, c, d)                                                                                                         \
	"vaesenc %%ymm12, %%ymm" a ", %%ymm" a "\n\t"                                                                            \
	"vaesenc %%ymm12, %%ymm" b ", %%ymm" b "\n\t"                                                                            \
	"vaesenc %%ymm12, %%ymm" c ", %%ymm" c "\n\t"                                                                            \
	"vaesenc %%ymm12, %%ymm" d ", %%ymm" d "\n\t"
#define KEY(i)               "vmovdqa 32*" #i "(%[keys]), %%ymm12\n\t"
#define ROUND(i, one, other) KEY(i) AES4("0", "1", "2", "3") one AES4("4", "5", "6", "7") other
#define START(i)             "vpxor 32*" #i "(%[counts]), %[these], %%ymm" #i "\n\t"
#define START_LAST           "vpxor 32*7(%[counts]), %[last], %[last]\n\t"
#define LAST(i, spare)                                                                                                           \
	"vpxor 32*" #i "(%[in]), %%ymm12, %%ymm" spare "\n\t"                                                                    \
	"vaesenclast %%ymm" spare ", %%ymm" #i ", %%ymm" #i "\n\t"
#define STORE(i) "vmovdqu %%ymm" #i ", 32*" #i "(%[out])\n\t"

/* The hash of a pair of rows in six parts of one multiplication each: these are microcode on some cores, and two of them side by
 * side hold up all that could start. */
#define PAIR1(i)                                                                                                                 \
	"vmovdqu 64*" #i "(%[hashed]), %%ymm8\n\t"                                                                               \
	"vmovdqu 64*" #i "+32(%[hashed]), %%ymm9\n\t"                                                                            \
	"vpshufb %[order], %%ymm8, %%ymm8\n\t"                                                                                   \
	"vpshufb %[order], %%ymm9, %%ymm9\n\t"                                                                                   \
	"vpclmulqdq $0x00, 64*" #i "(%[powers]), %%ymm8, %%ymm11\n\t"                                                            \
	"vpxor %%ymm11, %[low], %[low]\n\t"
#define PAIR2(i)                                                                                                                 \
	"vpclmulqdq $0x00, 64*" #i "+32(%[powers]), %%ymm9, %%ymm11\n\t"                                                         \
	"vpxor %%ymm11, %[low], %[low]\n\t"
#define PAIR3(i)                                                                                                                 \
	"vpclmulqdq $0x11, 64*" #i "(%[powers]), %%ymm8, %%ymm11\n\t"                                                            \
	"vpxor %%ymm11, %[high], %[high]\n\t"                                                                                    \
	"vpunpcklqdq %%ymm9, %%ymm8, %%ymm10\n\t"                                                                                \
	"vpunpckhqdq %%ymm9, %%ymm8, %%ymm8\n\t"
#define PAIR4(i)                                                                                                                 \
	"vpclmulqdq $0x11, 64*" #i "+32(%[powers]), %%ymm9, %%ymm11\n\t"                                                         \
	"vpxor %%ymm11, %[high], %[high]\n\t"                                                                                    \
	"vpxor %%ymm8, %%ymm10, %%ymm10\n\t"
#define PAIR5(i)                                                                                                                 \
	"vpclmulqdq $0x00, 32*" #i "(%[middles]), %%ymm10, %%ymm11\n\t"                                                          \
	"vpxor %%ymm11, %[middle], %[middle]\n\t"
#define PAIR6(i)                                                                                                                 \
	"vpclmulqdq $0x11, 32*" #i "(%[middles]), %%ymm10, %%ymm11\n\t"                                                          \
	"vpxor %%ymm11, %[middle], %[middle]\n\t"
#define NONE(i) ""

// clang-format off
/* Assembly, because left to themselves the compilers draw cipher and hash apart, or spill. */
#define STEP(PART1, PART2, PART3, PART4, PART5, PART6) \
	__asm__ volatile(START(0) START(1) START(2) START(3) START(4) START(5) START(6) START_LAST \
	ROUND(1, PART1(0), PART2(0)) ROUND(2, PART3(0), PART4(0)) ROUND(3, PART5(0), PART6(0)) \
	ROUND(4, PART1(1), PART2(1)) ROUND(5, PART3(1), PART4(1)) ROUND(6, PART5(1), PART6(1)) \
	ROUND(7, PART1(2), PART2(2)) ROUND(8, PART3(2), PART4(2)) ROUND(9, PART5(2), PART6(2)) \
	ROUND(10, PART1(3), PART2(3)) ROUND(11, PART3(3), PART4(3)) ROUND(12, PART5(3), PART6(3)) ROUND(13, "", "") \
	KEY(14) LAST(0, "8") LAST(1, "9") LAST(2, "10") LAST(3, "11") LAST(4, "8") LAST(5, "9") LAST(6, "10") LAST(7, "11") \
	STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7) \
	: [low] "+x"(h->low), [middle] "+x"(h->middle), [high] "+x"(h->high), \
	  [these] "+x"(these), [last] "+x"(last) \
	: [order] "m"(byte_order), [in] "r"(in), [out] "r"(out), [hashed] "r"(hashed), \
	  [powers] "r"(k->powers + h->at), [middles] "r"(k->middles + (h->at - LEAD) / 4), [keys] "r"(k->round_keys), \
	  [counts] "r"(counts) \
	: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm8", "xmm9", "xmm10", "xmm11", "memory")
// clang-format on

/* Key stream over one group and, unless `hashing` is false, under its rounds the GHASH of the group `hashed`, which may be `in`.
 */
INLINE void step(const struct vaes256_state *k, struct counter *c, const uint8_t *in, uint8_t *out, struct hash *h,
		 const uint8_t *hashed, const bool hashing)
{
	/* where the assembly has the last row and the round key */
	register __m256i last __asm__("ymm7");
	register __m256i these __asm__("ymm12");

	these = c->these;
	last = c->last;
	counter_next(c);
	if (hashing)
		STEP(PAIR1, PAIR2, PAIR3, PAIR4, PAIR5, PAIR6);
	else
		STEP(NONE, NONE, NONE, NONE, NONE, NONE);
}

INLINE __m128i iv_block(const struct aead_item *m)
{
	uint8_t block[BLOCK] = { 0 };

	memcpy(block, m->iv, AEAD_IV_BYTES);
	return _mm_loadu_si128((const __m128i *)block);
}

/* What masks the tags of the next two items, or of the one that is left. */
INLINE void make_masks(const struct vaes256_state *k, __m128i masks[static ROW_BLOCKS], const struct aead_item *items,
		       size_t count)
{
	const __m256i first = broadcast(_mm_set_epi32(1 << 24, 0, 0, 0));
	__m256i row = one_lane(iv_block(&items[0]));

	if (count > 1)
		row = _mm256_inserti128_si256(row, iv_block(&items[1]), 1);
	store(masks, encrypt_row(k, xor3(row, first, k->round_keys[0])));
}

/* Less than a group: cipher, and GHASH of whichever side is the ciphertext; then the lengths. Returns the tag. */
INLINE __m128i finish(const struct vaes256_state *k, const struct aead_item *m, const struct counter *c, struct hash *h,
		      __m128i mask, const bool sealing)
{
	const __m128i lengths = _mm_set_epi64x((long long)m->aad_size * 8, (long long)m->size * 8);
	const size_t done = m->size / GROUP * GROUP;
	const size_t size = m->size - done;
	__m256i count = _mm256_add_epi32(c->groups, _mm256_set_epi32(0, 0, 0, 3, 0, 0, 0, 2));

	if (size > 0 && done > 0) {
		hash_reduce(h);
		hash_carry(h, k, blocks_of(size));
	}
	for (size_t i = 0; i < size; i += ROW) {
		__m256i in = load_part(m->in + done + i, size - i);
		const __m256i stream = encrypt_row(k, _mm256_xor_si256(c->start, byte_swap(count)));

		store_part(m->out + done + i, _mm256_xor_si256(in, stream), size - i);
		if (sealing)
			in = load_part(m->out + done + i, size - i);
		hash_row(h, k, byte_swap(in), blocks_of(size - i) + 1);
		count = _mm256_add_epi32(count, broadcast(_mm_set_epi32(0, 0, 0, ROW_BLOCKS)));
	}
	hash_row(h, k, one_lane(lengths), 1);
	hash_reduce(h);
	return _mm_xor_si128(byte_swap_block(h->value), mask);
}

/* Before the first group, or what there is of text. */
INLINE void start(const struct vaes256_state *k, const struct aead_item *m, struct hash *h)
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

INLINE void seal_finish(const struct vaes256_state *k, struct pending *p)
{
	_mm_storeu_si128((__m128i *)p->item->tag, finish(k, p->item, &p->counter, &p->hash, p->mask, true));
}

INLINE const uint8_t *last_group(const struct aead_item *m)
{
	return m->out + m->size / GROUP * GROUP - GROUP;
}

/* The hash of the message before ends under the cipher of this one's first group. */
INLINE void seal(const struct vaes256_state *k, const struct aead_item *m, struct pending *p, __m128i mask)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;

	if (p->item != NULL && groups > 0)
		step(k, &c, m->in, m->out, &p->hash, last_group(p->item), true);
	else if (p->item != NULL)
		hash_group(&p->hash, k, last_group(p->item));
	else if (groups > 0)
		step(k, &c, m->in, m->out, &p->hash, NULL, false);
	if (p->item != NULL)
		seal_finish(k, p);
	start(k, m, &p->hash);
	p->item = m;
	p->mask = mask;
	for (size_t i = 1; i < groups; i++) {
		step(k, &c, m->in + i * GROUP, m->out + i * GROUP, &p->hash, m->out + (i - 1) * GROUP, true);
		hash_advance(&p->hash, k, groups - i);
	}
	p->counter = c;
	if (groups > 0)
		return;
	seal_finish(k, p);
	p->item = NULL;
}

INLINE bool open(const struct vaes256_state *k, const struct aead_item *m, __m128i mask)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;
	struct hash h;
	__m128i tag;

	start(k, m, &h);
	for (size_t i = 0; i < groups; i++) {
		step(k, &c, m->in + i * GROUP, m->out + i * GROUP, &h, m->in + i * GROUP, true);
		hash_advance(&h, k, groups - i - 1);
	}
	tag = finish(k, m, &c, &h, mask, false);
	return _mm_movemask_epi8(_mm_cmpeq_epi8(tag, _mm_loadu_si128((const __m128i *)m->tag))) == 0xffff;
}

APART static void seal_items(const struct vaes256_state *k, struct aead_item *items, size_t count)
{
	struct pending p = { .item = NULL };
	__m128i masks[ROW_BLOCKS];

	p.hash.at = LEAD;
	for (size_t i = 0; i < count; i++) {
		if (i % ROW_BLOCKS == 0)
			make_masks(k, masks, &items[i], count - i);
		seal(k, &items[i], &p, masks[i % ROW_BLOCKS]);
	}
	if (p.item == NULL)
		return;
	hash_group(&p.hash, k, last_group(p.item));
	seal_finish(k, &p);
}

APART static size_t open_items(const struct vaes256_state *k, struct aead_item *items, size_t count)
{
	__m128i masks[ROW_BLOCKS];
	size_t bad = 0;

	for (size_t i = 0; i < count; i++) {
		if (i % ROW_BLOCKS == 0)
			make_masks(k, masks, &items[i], count - i);
		bad += aead_conclude(&items[i], open(k, &items[i], masks[i % ROW_BLOCKS]));
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

INLINE void *power(struct vaes256_state *k, int exponent)
{
	return &k->powers[END + 1 - exponent];
}

/* H and H^2, then two at a time: doubling what is known, so that the products of one round do not wait. */
INLINE void expand_powers(struct vaes256_state *k)
{
	const __m128i h = aead_times_x(byte_swap_block(encrypt(k, _mm_setzero_si128())));

	memset(k->powers + END, 0, LEAD * sizeof k->powers[0]);
	_mm_store_si128(power(k, 1), h);
	_mm_store_si128(power(k, 2), _mm256_castsi256_si128(multiply(one_lane(h), one_lane(h))));
	for (int known = 2; known < END; known *= 2) {
		const __m256i top = broadcast(_mm_load_si128(power(k, known)));

		for (int i = 2; i <= known && known + i <= END; i += 2)
			store(power(k, known + i), multiply(load(power(k, i)), top));
	}
	_mm_store_si128(k->powers, _mm256_castsi256_si128(multiply(one_lane(_mm_load_si128(power(k, END))), one_lane(h))));
	for (int i = 0; i < PAIRS; i++) {
		const __m256i first = load(k->powers + LEAD + 4 * i);
		const __m256i second = load(k->powers + LEAD + 4 * i + 2);

		k->middles[i] = _mm256_xor_si256(_mm256_unpacklo_epi64(first, second), _mm256_unpackhi_epi64(first, second));
	}
}

APART static void expand_apart(struct vaes256_state *k, const uint8_t *raw)
{
	__m128i keys[ROUNDS + 1];

	aead_expand_cipher(keys, raw);
	for (int i = 0; i <= ROUNDS; i++)
		k->round_keys[i] = broadcast(keys[i]);
	k->unused = _mm256_setzero_si256();
	expand_powers(k);
}

static void expand(void *state, const uint8_t key[AEAD_KEY_BYTES])
{
	expand_apart(state, key);
	aead_clear_registers();
	aead_wipe_stack();
}

APART static void encrypt_apart(const struct vaes256_state *k, uint8_t *out, const uint8_t *in)
{
	_mm_storeu_si128((__m128i *)out, encrypt(k, _mm_loadu_si128((const __m128i *)in)));
}

static void encrypt_block(const void *state, uint8_t out[16], const uint8_t in[16])
{
	encrypt_apart(state, out, in);
	aead_clear_registers();
	aead_wipe_stack();
}

const struct aead_kernel aead_vaes256 = {
	.name = "vaes256",
	.key_state_size = KEY_STATE_SIZE,
	.usable = aead_has_vaes256,
	.expand = expand,
	.encrypt_block = encrypt_block,
	.seal_run = seal_run,
	.open_run = open_run,
};
