/* AES-256-GCM over rows, which are registers of one, two or four blocks: all that the x86-64 kernels have in common. A kernel
 * says what a row is and how many go abreast, WIDE; then come this file, its counters and its step, and runs_x86_64.h. Included,
 * not linked, so that all of it is compiled with that kernel's flags: no SSE encodings between AVX ones. What must hold: nothing
 * here branches on or indexes by a secret; the powers of H are made once per key; what the inner functions spill is wiped by the
 * run functions before they return; no byte outside a message is read or written.
 *
 * A message is groups of WIDE rows, then less than a group. One step ciphers a group and, under its rounds, hashes another: of a
 * seal the one before, read back from `out`, of an open the very same. The powers are enough for SPAN blocks, a whole sector: one
 * reduction. */
#ifndef HAL_AEAD_ROWS_X86_64_H
#define HAL_AEAD_ROWS_X86_64_H

#include <immintrin.h>
#include <string.h>

#include "kernel.h"
#include "processor_x86_64.h"

#define INLINE static inline __attribute__((always_inline))
#define APART  __attribute__((noinline))

enum {
	ROUNDS = 14,
	BLOCK = 16,
	ROW = sizeof(row),
	ROW_BLOCKS = ROW / BLOCK,
	GROUP = WIDE * ROW, /* bytes */
	GROUP_BLOCKS = WIDE * ROW_BLOCKS,
	SPAN = 256, /* blocks in one reduction, and blocks whose counts differ in one byte */
	LEAD = 4,   /* powers before those of a whole span: for associated data */
	END = LEAD + SPAN,
};

_Static_assert(SPAN % GROUP_BLOCKS == 0 && WIDE % 2 == 0 && LEAD % ROW_BLOCKS == 0,
	       "groups end where a span ends, pairs where a group ends");

/* powers[i] = H^(END + 1 - i) times x. The last is H itself; the row of zeroes behind lets a row that ends a chunk be read whole.
 * middles: halves of the powers of whole groups xored, for a pair of rows: in each lane the first row's low, the second's high.
 */
struct key_state {
	row round_keys[ROUNDS + 2]; /* in each lane the same; the last only aligns what follows */
	__m128i powers[END + 4];
	row middles[SPAN / ROW_BLOCKS / 2];
	row counted[COUNTED_ROWS]; /* what the counters may need */
};

#define KEY_STATE_SIZE ((sizeof(struct key_state) + 63) / 64 * 64)
_Static_assert(KEY_STATE_SIZE <= AEAD_KEY_STATE_MAX, "the key state fits its promise");
_Static_assert(offsetof(struct key_state, powers) % 64 == 0, "rows of powers are aligned");

/* The unreduced sum of a chunk: Karatsuba's three products of each block. A chunk is some text blocks, the last with H^2, so that
 * the lengths can follow with H, and before the text what came earlier: associated data, or the value of the chunk before, which
 * already has a factor H too many. */
struct hash {
	row low, middle, high;
	__m128i value; /* carried */
	size_t at;     /* the power of the next group's first block */
};

/* In each lane the product's low, middle (Karatsuba) and high parts to one value below 2^128. The powers carry a factor x, so the
 * 255-bit product needs no shift; each step multiplies the lowest 64 bits by x^63 + x^62 + x^57, the reflected polynomial without
 * its ends. */
INLINE row reduce(row low, row middle, row high)
{
	const row polynomial = row_broadcast(_mm_set_epi64x((long long)0xc200000000000000, 1));

	middle = row_xor3(middle, low, high);
	low = row_xor(low, row_shift_up(middle));
	high = row_xor(high, row_shift_down(middle));
	low = row_xor(row_swap_halves(low), row_clmul(low, polynomial, 0x10));
	return row_xor3(high, row_swap_halves(low), row_clmul(low, polynomial, 0x10));
}

INLINE row multiply(row a, row b)
{
	return reduce(row_clmul(a, b, 0x00), row_clmul(row_xor(a, row_swap_halves(a)), row_xor(b, row_swap_halves(b)), 0x00),
		      row_clmul(a, b, 0x11));
}

INLINE __m128i byte_swap_block(__m128i v)
{
	return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE void hash_clear(struct hash *h)
{
	h->low = h->middle = h->high = row_zero();
}

INLINE void hash_reduce(struct hash *h)
{
	h->value = _mm_xor_si128(h->value, row_fold(reduce(h->low, h->middle, h->high)));
	hash_clear(h);
}

/* A row whose first lane has the power `exponent`; lanes without a block are zero. */
INLINE void hash_row(struct hash *h, const struct key_state *k, row v, size_t exponent)
{
	const row powers = row_load(k->powers + END + 1 - exponent);
	const row middles = row_xor(powers, row_swap_halves(powers));

	h->low = row_xor(h->low, row_clmul(v, powers, 0x00));
	h->high = row_xor(h->high, row_clmul(v, powers, 0x11));
	h->middle = row_xor(h->middle, row_clmul(row_xor(v, row_swap_halves(v)), middles, 0x00));
}

/* Before a chunk of `blocks`: none are left, and the value is what it is, or it has one factor H too many already. */
INLINE void hash_carry(struct hash *h, const struct key_state *k, size_t blocks)
{
	if (blocks == 0)
		return;
	hash_row(h, k, row_of(h->value), blocks);
	h->value = _mm_setzero_si128();
}

INLINE size_t groups_in_span(size_t groups)
{
	return groups < SPAN / GROUP_BLOCKS ? groups : SPAN / GROUP_BLOCKS;
}

INLINE size_t chunk_start(size_t groups)
{
	return END - groups_in_span(groups) * GROUP_BLOCKS;
}

/* After a whole span; `left` are the whole groups that follow it. */
INLINE void hash_next_span(struct hash *h, const struct key_state *k, size_t left)
{
	hash_reduce(h);
	h->at = chunk_start(left);
	hash_carry(h, k, END - h->at);
}

INLINE const row *middles_at(const struct key_state *k, size_t at)
{
	return k->middles + (at - LEAD) / (2 * ROW_BLOCKS);
}

/* Rows 2i and 2i + 1 of a group. */
INLINE void hash_pair(struct hash *h, const uint8_t *bytes, const __m128i *powers, const row *middles)
{
	const row first = row_byte_swap(row_load(bytes));
	const row second = row_byte_swap(row_load(bytes + ROW));
	const row sums = row_xor(row_unpack_low(first, second), row_unpack_high(first, second));

	h->low = row_xor3(h->low, row_clmul(first, row_load(powers), 0x00),
			  row_clmul(second, row_load(powers + ROW_BLOCKS), 0x00));
	h->high = row_xor3(h->high, row_clmul(first, row_load(powers), 0x11),
			   row_clmul(second, row_load(powers + ROW_BLOCKS), 0x11));
	h->middle = row_xor3(h->middle, row_clmul(sums, *middles, 0x00), row_clmul(sums, *middles, 0x11));
}

INLINE void hash_group(struct hash *h, const struct key_state *k, const uint8_t *bytes)
{
	for (size_t i = 0; i < WIDE / 2; i++)
		hash_pair(h, bytes + 2 * i * ROW, k->powers + h->at + 2 * i * ROW_BLOCKS, middles_at(k, h->at) + i);
}

INLINE size_t blocks_of(size_t size)
{
	return (size + BLOCK - 1) / BLOCK;
}

/* Bytes that end `after` blocks before the lengths. */
INLINE void hash_rows(struct hash *h, const struct key_state *k, const uint8_t *bytes, size_t size, size_t after)
{
	for (size_t i = 0; i < size; i += ROW)
		hash_row(h, k, row_byte_swap(row_load_part(bytes + i, size - i)), blocks_of(size - i) + after + 1);
}

/* Associated data for which there are no powers: chunks of its own. */
INLINE void hash_long(struct hash *h, const struct key_state *k, const uint8_t *bytes, size_t size)
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
INLINE void hash_start(struct hash *h, const struct key_state *k, const struct aead_item *m, size_t blocks)
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

INLINE __m128i encrypt(const struct key_state *k, __m128i s)
{
	s = _mm_xor_si128(s, row_first(k->round_keys[0]));
	for (int r = 1; r < ROUNDS; r++)
		s = _mm_aesenc_si128(s, row_first(k->round_keys[r]));
	return _mm_aesenclast_si128(s, row_first(k->round_keys[ROUNDS]));
}

/* s is xored with the first round key already. */
INLINE row encrypt_row(const struct key_state *k, row s)
{
	for (int r = 1; r < ROUNDS; r++)
		s = row_aesenc(s, k->round_keys[r]);
	return row_aesenclast(s, k->round_keys[ROUNDS]);
}

#endif
