/* Runs of messages over rows: what comes after rows_x86_64.h and a kernel's own counters and step. It needs of them
 *   struct counter                         the counter blocks of one message
 *   counter_start(k, iv)                   before the first group
 *   counter_row(c, block)                  a row `block` blocks after the groups that are done, the first round key xored
 *   counter_next_span(c)                   after SPAN blocks of text, or a group later
 *   step(k, c, in, out, h, hashed, ahead, hashing)
 *                                          key stream over one group and, unless `hashing` is false, under its rounds the GHASH
 *                                          of the group `hashed`, which may be `in`; `ahead` is as much of the next message
 *   make_counted(k)                        fills what of a key the counters need. */
#ifndef HAL_AEAD_RUNS_X86_64_H
#define HAL_AEAD_RUNS_X86_64_H

#include "rows_x86_64.h"

enum { AHEAD = ROW_BLOCKS * ROW_BLOCKS }; /* items whose masks are made at once: the wider, the more a wait for one row costs */

INLINE __m128i iv_block(const struct aead_item *m)
{
	int last;

	memcpy(&last, m->iv + 8, sizeof last);
	return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)m->iv), _mm_cvtsi32_si128(last));
}

/* The hash of a message's last block, which says how long it is. */
INLINE __m128i hash_lengths(const struct key_state *k, const struct aead_item *m)
{
	struct hash h = { .value = _mm_setzero_si128() };

	hash_clear(&h);
	hash_row(&h, k, row_of(_mm_set_epi64x((long long)m->aad_size * 8, (long long)m->size * 8)), 1);
	hash_reduce(&h);
	return byte_swap_block(h.value);
}

/* What the tags of the next items are xored with: a block of the cipher and the hash of the lengths. The second one waits long
 * for little, and is mostly that of the item before; that of no lengths is zero. */
struct masks {
	__m128i blocks[AHEAD];
	__m128i lengths;
	size_t size, aad_size; /* whose */
};

INLINE void masks_none(struct masks *s)
{
	s->lengths = _mm_setzero_si128();
	s->size = s->aad_size = 0;
}

INLINE void lengths_of(struct masks *s, const struct key_state *k, const struct aead_item *m)
{
	s->lengths = hash_lengths(k, m);
	s->size = m->size;
	s->aad_size = m->aad_size;
}

INLINE void make_masks(struct masks *s, const struct key_state *k, const struct aead_item *items, size_t count)
{
	const row first = row_xor(row_broadcast(_mm_set_epi32(1 << 24, 0, 0, 0)), k->round_keys[0]);

	for (size_t i = 0; i < AHEAD && i < count; i += ROW_BLOCKS) {
		__m128i ivs[ROW_BLOCKS];

		for (size_t j = 0; j < ROW_BLOCKS; j++)
			ivs[j] = iv_block(&items[i + j < count ? i + j : 0]);
		row_store(&s->blocks[i], encrypt_row(k, row_xor(row_gather(ivs), first)));
	}
}

/* That of items[i]; they are asked for in turn. */
INLINE __m128i mask_of(struct masks *s, const struct key_state *k, const struct aead_item *items, size_t i, size_t count)
{
	if (i % AHEAD == 0)
		make_masks(s, k, &items[i], count - i);
	if (items[i].size != s->size || items[i].aad_size != s->aad_size)
		lengths_of(s, k, &items[i]);
	return _mm_xor_si128(s->blocks[i % AHEAD], s->lengths);
}

/* Less than a group: cipher, and GHASH of whichever side is the ciphertext. Returns the tag. */
INLINE __m128i finish(const struct key_state *k, const struct aead_item *m, const struct counter *c, struct hash *h, __m128i mask,
		      const bool sealing)
{
	const size_t done = m->size / GROUP * GROUP;
	const size_t size = m->size - done;

	if (size > 0 && done > 0) {
		hash_reduce(h);
		hash_carry(h, k, blocks_of(size));
	}
	for (size_t i = 0; i < size; i += ROW) {
		row in = row_load_part(m->in + done + i, size - i);
		const row stream = encrypt_row(k, counter_row(c, (int)(i / BLOCK)));

		row_store_part(m->out + done + i, row_xor(in, stream), size - i);
		if (sealing)
			in = row_load_part(m->out + done + i, size - i);
		hash_row(h, k, row_byte_swap(in), blocks_of(size - i) + 1);
	}
	hash_reduce(h);
	return _mm_xor_si128(byte_swap_block(h->value), mask);
}

/* Before the first group, or what there is of text. */
INLINE void start(const struct key_state *k, const struct aead_item *m, struct hash *h)
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

INLINE void seal_finish(const struct key_state *k, struct pending *p)
{
	_mm_storeu_si128((__m128i *)p->item->tag, finish(k, p->item, &p->counter, &p->hash, p->mask, true));
}

INLINE const uint8_t *last_group(const struct aead_item *m)
{
	return m->out + m->size / GROUP * GROUP - GROUP;
}

/* The hash of the message before ends under the cipher of this one's first group. */
INLINE void seal(const struct key_state *k, const struct aead_item *m, struct pending *p, __m128i mask, const uint8_t *ahead)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;

	if (p->item != NULL && groups > 0)
		step(k, &c, m->in, m->out, &p->hash, last_group(p->item), ahead, true);
	else if (p->item != NULL)
		hash_group(&p->hash, k, last_group(p->item));
	else if (groups > 0)
		step(k, &c, m->in, m->out, &p->hash, NULL, ahead, false);
	if (p->item != NULL)
		seal_finish(k, p);
	start(k, m, &p->hash);
	p->item = m;
	p->mask = mask;
	for (size_t i = 1; i < groups;) {
		const size_t end = i + groups_in_span(groups - i);

		for (; i < end; i++) {
			step(k, &c, m->in + i * GROUP, m->out + i * GROUP, &p->hash, m->out + (i - 1) * GROUP, ahead + i * GROUP,
			     true);
			p->hash.at += GROUP_BLOCKS;
		}
		if (p->hash.at < END)
			break;
		hash_next_span(&p->hash, k, groups - i + 1);
		counter_next_span(&c);
	}
	p->counter = c;
	if (groups > 0)
		return;
	seal_finish(k, p);
	p->item = NULL;
}

INLINE bool open(const struct key_state *k, const struct aead_item *m, __m128i mask, const uint8_t *ahead)
{
	struct counter c = counter_start(k, iv_block(m));
	const size_t groups = m->size / GROUP;
	struct hash h;
	__m128i tag;

	start(k, m, &h);
	for (size_t i = 0; i < groups;) {
		const size_t end = i + groups_in_span(groups - i);

		for (; i < end; i++) {
			step(k, &c, m->in + i * GROUP, m->out + i * GROUP, &h, m->in + i * GROUP, ahead + i * GROUP, true);
			h.at += GROUP_BLOCKS;
		}
		if (i == groups)
			break;
		hash_next_span(&h, k, groups - i);
		counter_next_span(&c);
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

APART static void seal_items(const struct key_state *k, struct aead_item *items, size_t count)
{
	struct pending p = { .item = NULL };
	struct masks masks;

	p.hash.at = LEAD;
	masks_none(&masks);
	for (size_t i = 0; i < count; i++) {
		const __m128i mask = mask_of(&masks, k, items, i, count);

		seal(k, &items[i], &p, mask, ahead_of(items, i, count));
	}
	if (p.item == NULL)
		return;
	hash_group(&p.hash, k, last_group(p.item));
	seal_finish(k, &p);
}

APART static size_t open_items(const struct key_state *k, struct aead_item *items, size_t count)
{
	struct masks masks;

	masks_none(&masks);
	for (size_t i = 0; i < count; i++) {
		const __m128i mask = mask_of(&masks, k, items, i, count);

		items[i].good = open(k, &items[i], mask, ahead_of(items, i, count));
	}
	return aead_conclude(items, count);
}

INLINE void *power(struct key_state *k, int exponent)
{
	return &k->powers[END + 1 - exponent];
}

/* H to H^4 one after the other, then by rows: doubling what is known, so that the products of one round do not wait. */
INLINE void expand_powers(struct key_state *k)
{
	const row h = row_of(aead_times_x(byte_swap_block(encrypt(k, _mm_setzero_si128()))));
	row product = h;

	memset(k->powers + END, 0, 4 * sizeof k->powers[0]);
	_mm_store_si128(power(k, 1), row_first(product));
	for (int i = 2; i <= 4; i++) {
		product = multiply(product, h);
		_mm_store_si128(power(k, i), row_first(product));
	}
	for (int known = 4; known < END; known *= 2) {
		const row top = row_broadcast(_mm_load_si128(power(k, known)));

		for (int i = ROW_BLOCKS; i <= known && known + i <= END; i += ROW_BLOCKS)
			row_store(power(k, known + i), multiply(row_load(power(k, i)), top));
	}
	_mm_store_si128(k->powers, row_first(multiply(row_of(_mm_load_si128(power(k, END))), h)));
	for (size_t i = 0; i < SPAN / ROW_BLOCKS / 2; i++) {
		const row first = row_load(k->powers + LEAD + 2 * ROW_BLOCKS * i);
		const row second = row_load(k->powers + LEAD + 2 * ROW_BLOCKS * i + ROW_BLOCKS);

		k->middles[i] = row_xor(row_unpack_low(first, second), row_unpack_high(first, second));
	}
}

APART static void expand_apart(struct key_state *k, const uint8_t *raw)
{
	__m128i keys[ROUNDS + 1];

	aead_expand_cipher(keys, raw);
	for (int i = 0; i <= ROUNDS; i++)
		k->round_keys[i] = row_broadcast(keys[i]);
	k->round_keys[ROUNDS + 1] = row_zero();
	expand_powers(k);
	make_counted(k);
}

APART static void encrypt_apart(const struct key_state *k, uint8_t *out, const uint8_t *in)
{
	_mm_storeu_si128((__m128i *)out, encrypt(k, _mm_loadu_si128((const __m128i *)in)));
}

enum { STACK = AEAD_STACK_ONE };

#include "entries.h"

#endif
