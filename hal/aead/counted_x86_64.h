/* Counters, after rows_x86_64.h. The counts of a span of 256 blocks differ in their last byte alone, and after the first round of
 * AES that byte has reached one column: so each message makes that round once for a span, and to get there a counter block costs
 * one xor with what the key has in a table. An AESENC less of fourteen, for 4 KiB read.
 * What must hold: the table is a secret like the key. It is read in order, never indexed by a secret. */
#ifndef HAL_AEAD_COUNTED_X86_64_H
#define HAL_AEAD_COUNTED_X86_64_H

#include "rows_x86_64.h"

/* The first text block of a message has the count 2, so the last two blocks of a span's groups belong to the next 256 counts. */
struct counter {
	__m128i start; /* the IV with a count of zero, xor the first round key */
	row bases[2];  /* after the first round, but for the table: counts that begin like this span's first, and the next 256 */
	uint32_t span; /* which */
	size_t done;   /* blocks of it; a seal goes a group into the next one */
};

/* counted[i] belongs to the blocks of row i. That the second round key is in the table keeps its entries from being the same few
 * for every key: searching memory for them finds this key and nothing else. */
INLINE void make_counted(struct key_state *k)
{
	__m128i *counted = (__m128i *)k->counted;
	const __m128i key = _mm_and_si128(row_first(k->round_keys[0]), _mm_set_epi32((int)0xff000000, 0, 0, 0));
	const __m128i zero = _mm_aesenc_si128(key, _mm_setzero_si128());
	const __m128i second = _mm_xor_si128(zero, row_first(k->round_keys[1]));

	for (int i = 0; i < SPAN; i++) {
		const __m128i count = _mm_set_epi32((int)((uint32_t)(i + 2) << 24), 0, 0, 0);

		_mm_store_si128(&counted[i], _mm_aesenc_si128(_mm_xor_si128(key, count), second));
	}
}

/* The first round of the counts 256 `span` and following, but for the table. */
INLINE row counter_base(__m128i start, uint32_t span)
{
	const __m128i count = _mm_set_epi32((int)__builtin_bswap32(span << 8), 0, 0, 0);
	row base = row_broadcast(_mm_aesenc_si128(_mm_xor_si128(start, count), _mm_setzero_si128()));

	/* one register: clang would store its halves, and a load of the whole wait for both */
	__asm__("" : "+v"(base));
	return base;
}

/* Field by field: gcc zeroes all of a compound literal beforehand, slowly. */
INLINE struct counter counter_start(const struct key_state *k, __m128i iv)
{
	struct counter c;

	c.start = _mm_xor_si128(iv, row_first(k->round_keys[0]));
	c.bases[0] = counter_base(c.start, 0);
	c.bases[1] = counter_base(c.start, 1);
	c.span = 0;
	c.done = 0;
	return c;
}

INLINE void counter_next(struct counter *c)
{
	c->done += GROUP_BLOCKS;
}

INLINE void counter_next_span(struct counter *c)
{
	c->span++;
	c->bases[0] = c->bases[1];
	c->bases[1] = counter_base(c->start, c->span + 1);
	c->done -= SPAN;
}

/* Where a group's rows start, and what has its last two blocks, one row or two: found without a branch, which would be taken once
 * in a span. */
INLINE row counter_these(const struct counter *c)
{
	return c->bases[c->done / SPAN];
}

INLINE row counter_last(const struct counter *c)
{
	return row_tail(counter_these(c), c->bases[(c->done + GROUP_BLOCKS) / SPAN]);
}

INLINE const row *counter_table(const struct key_state *k, const struct counter *c)
{
	return k->counted + c->done % SPAN / ROW_BLOCKS;
}

INLINE row counter_row(const struct counter *c, int first)
{
	__m128i counts[ROW_BLOCKS];

	for (int i = 0; i < ROW_BLOCKS; i++) {
		const uint32_t count = c->span * SPAN + (uint32_t)c->done + (uint32_t)(first + i) + 2;

		counts[i] = _mm_xor_si128(c->start, _mm_set_epi32((int)__builtin_bswap32(count), 0, 0, 0));
	}
	return row_gather(counts);
}

#endif
