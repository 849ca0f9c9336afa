/* Log blocks as bytes, the table of what is held, and a log in an attacker's hands: every bit flipped, blocks missing, moved,
 * from before, from another place. Allowed answers: the same content as with the whole log, less of what was not flushed at the
 * end of it, or a refusal that says why. Never other data. */
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#include "base/bytes.h"
#include "base/error.h"
#include "volume/held.h"
#include "volume/log.h"

/* --- bytes ------------------------------------------------------------------------------------------------------------- */

static void make_block(uint8_t *block, struct log_head *h, struct log_entry *entries, uint16_t count)
{
	memset(h, 0, sizeof *h);
	h->seq = 77;
	h->count = count;
	h->gen_no = 1;
	h->ctr_base = 1000;
	h->settled = 900;
	h->prefix_seq = 76;
	h->root_seq = 5;
	memset(h->salt, 0x51, sizeof h->salt);
	memset(h->prev_tag, 0x92, sizeof h->prev_tag);
	for (unsigned i = 0; i < count; i++) {
		entries[i] = (struct log_entry){ .kind = LOG_SEAL, .index = i * UINT64_C(0x1000000000) };
		memset(entries[i].tag, (int)i, sizeof entries[i].tag);
	}
	logblock_encode(block, h, rig_uuid, entries);
	logblock_checksum(block);
}

static void a_block_comes_back_as_it_was(void **state)
{
	struct log_entry in[LOG_ENTRIES], out[LOG_ENTRIES];
	uint8_t block[SECTOR_BYTES];
	struct log_head a, b;
	struct slot slot;

	(void)state;
	make_block(block, &a, in, LOG_ENTRIES);
	in[3] = (struct log_entry){ .kind = LOG_ZERO, .level = 4, .index = 9, .count = 91 };
	in[4] = (struct log_entry){ .kind = LOG_BAD, .index = (UINT64_C(1) << 56) - 1 };
	in[5] = (struct log_entry){ .kind = LOG_NONE };
	logblock_encode(block, &a, rig_uuid, in);
	logblock_checksum(block);
	memset(&b, 0xEE, sizeof b);
	assert_true(logblock_decode_clear(&b, block, rig_uuid));
	assert_int_equal(b.seq, a.seq);
	assert_int_equal(b.settled, a.settled);
	assert_int_equal(b.prefix_seq, a.prefix_seq);
	assert_memory_equal(b.prev_tag, a.prev_tag, sizeof a.prev_tag);
	assert_true(logblock_decode_entries(out, &b, block + LOG_CLEAR_BYTES));
	assert_memory_equal(in, out, sizeof in);
	logblock_slot(&slot, &b, &out[7], 7);
	assert_int_equal(slot.state, SLOT_SEALED);
	assert_int_equal(slot.ctr, 1007);
	assert_memory_equal(slot.salt, a.salt, sizeof a.salt);
	logblock_slot(&slot, &b, &out[3], 3);
	assert_int_equal(slot.state, SLOT_ZERO);
	assert_int_equal(slot.tag[0] | slot.salt[0], 0);
}

static void hostile_blocks_are_no_blocks(void **state)
{
	struct log_entry entries[LOG_ENTRIES];
	uint8_t block[SECTOR_BYTES], other[UUID_BYTES] = { 1 };
	struct log_head h;

	(void)state;
	make_block(block, &h, entries, 3);
	assert_false(logblock_decode_clear(&h, block, other));
	for (unsigned bit = 0x1C * 8; bit < SECTOR_BYTES * 8; bit += 13) {
		block[bit / 8] = (uint8_t)(block[bit / 8] ^ 1u << bit % 8);
		assert_false(logblock_decode_clear(&h, block, rig_uuid));
		block[bit / 8] = (uint8_t)(block[bit / 8] ^ 1u << bit % 8);
	}
	put_le16(block + 0x4A, LOG_ENTRIES + 1);
	logblock_checksum(block);
	assert_false(logblock_decode_clear(&h, block, rig_uuid));
	make_block(block, &h, entries, 3);
	put_le16(block + 0x48, GENERATIONS);
	logblock_checksum(block);
	assert_false(logblock_decode_clear(&h, block, rig_uuid));
	make_block(block, &h, entries, 3);
	put_le64(block + 0x50, UINT64_MAX - 10);
	logblock_checksum(block);
	assert_false(logblock_decode_clear(&h, block, rig_uuid));
	make_block(block, &h, entries, 3);
	assert_true(logblock_decode_clear(&h, block, rig_uuid));
	put_le64(block + LOG_CLEAR_BYTES, UINT64_C(4) << 60);
	assert_false(logblock_decode_entries(entries, &h, block + LOG_CLEAR_BYTES));
	put_le64(block + LOG_CLEAR_BYTES, UINT64_C(1) << 60 | UINT64_C(9) << 56);
	assert_false(logblock_decode_entries(entries, &h, block + LOG_CLEAR_BYTES));
}

/* --- what is held ------------------------------------------------------------------------------------------------------ */

static void hold(struct held *h, uint64_t lba, size_t count, uint64_t ctr)
{
	struct held_sector *cells[32];

	held_reserve(h, count, cells);
	for (size_t i = 0; i < count; i++) {
		memset(cells[i]->bytes, (int)ctr, SECTOR_BYTES);
		held_add(h, cells[i], lba + i, ctr + i);
	}
}

static void expect_places(const struct held_sector *s, const uint64_t (*expected)[2], size_t count)
{
	for (size_t i = 0; i < count; i++, s = s->after) {
		assert_non_null(s);
		assert_int_equal(s->lba, expected[i][0]);
		assert_int_equal(s->ctr, expected[i][1]);
	}
	assert_null(s);
}

static void the_newest_is_found_and_the_overtaken_is_not_written(void **state)
{
	static const uint64_t newest[][2] = { { 5, 60 },   { 10, 100 }, { 11, 101 }, { 12, 200 }, { 13, 201 },
					      { 14, 104 }, { 15, 105 }, { 16, 106 }, { 17, 107 } };
	static const uint64_t all[][2] = { { 5, 60 },   { 5, 50 },   { 10, 100 }, { 11, 101 }, { 12, 200 }, { 12, 102 },
					   { 13, 201 }, { 13, 103 }, { 14, 104 }, { 15, 105 }, { 16, 106 }, { 17, 107 } };
	struct held_sector *first, *second;
	struct held h;

	(void)state;
	assert_int_equal(held_init(&h, 32), 0);
	hold(&h, 10, 8, 100);
	hold(&h, 5, 1, 50);
	hold(&h, 12, 2, 200);
	hold(&h, 5, 1, 60);
	first = held_take(&h);
	expect_places(held_by_place(&h, first, false), newest, 9);
	expect_places(held_by_place(&h, first, true), all, 12);
	hold(&h, 15, 1, 250);
	assert_null(held_find(&h, 15, 105));
	assert_int_equal(held_find(&h, 15, 250)[0], 250);
	assert_int_equal(held_find(&h, 13, 201)[0], 200);
	assert_null(held_find(&h, 13, 103));
	assert_null(held_find(&h, 18, 108));
	held_release(&h, first);
	assert_int_equal(h.sectors, 1);
	assert_null(held_find(&h, 10, 100));
	assert_non_null(held_find(&h, 15, 250));
	second = held_take(&h);
	assert_null(held_by_place(&h, NULL, true));
	held_release(&h, second);
	assert_int_equal(h.sectors, 0);
	/* All cells came back: as many as at first can be held again. */
	for (unsigned i = 0; i < 32; i++)
		hold(&h, 1000 + i * 64, 1, 1 + i);
	for (unsigned i = 0; i < 32; i++)
		assert_non_null(held_find(&h, 1000 + i * 64, 1 + i));
	held_destroy(&h);
}

/* What is reserved and given back was never there, and is reserved again before anything else. */
static void a_reservation_given_back_leaves_nothing(void **state)
{
	struct held_sector *cells[8], *again[8];
	struct held h;

	(void)state;
	assert_int_equal(held_init(&h, 32), 0);
	held_reserve(&h, 8, cells);
	assert_int_equal(h.sectors, 8);
	held_give_back(&h, 8, cells);
	assert_int_equal(h.sectors, 0);
	assert_null(held_take(&h));
	held_reserve(&h, 8, again);
	assert_memory_equal(cells, again, sizeof cells);
	held_destroy(&h);
}

/* Any order of acceptance comes out in order of place, each sector once. */
static void what_is_held_is_sorted_whatever_came_when(void **state)
{
	enum { MANY = 1000 };
	struct held_sector *s;
	uint64_t x = 7;
	struct held h;

	(void)state;
	assert_int_equal(held_init(&h, MANY), 0);
	for (unsigned i = 0; i < MANY; i++) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
		hold(&h, (x >> 40) % 4000, 1, 1 + i);
	}
	s = held_by_place(&h, held_take(&h), false);
	for (; s->after != NULL; s = s->after)
		assert_true(s->lba < s->after->lba);
	held_destroy(&h);
}

/* --- a log in other hands ---------------------------------------------------------------------------------------------- */

enum { SECTORS = 3000, COMMITS = 6, PER_COMMIT = 200 };

static uint64_t log_at(struct rig *g)
{
	uint8_t bytes[8];

	block_memory_peek(g->dev, bytes, sizeof bytes, 0x60);
	return get_le64(bytes);
}

static void fill(uint8_t *out, uint64_t lba, uint32_t version)
{
	rig_noise(out, SECTOR_BYTES, lba * 16 + version);
}

/* Sectors 0..PER_COMMIT-1 written and flushed COMMITS times, two log blocks each, then a death: blocks 1 .. 2*COMMITS. */
static void make_log(struct rig *g)
{
	uint8_t *data = malloc(PER_COMMIT * SECTOR_BYTES);

	rig_format(g, SECTORS * (uint64_t)SECTOR_BYTES);
	g->options.stepped = true;
	rig_must_open(g);
	for (uint32_t version = 1; version <= COMMITS; version++) {
		for (size_t i = 0; i < PER_COMMIT; i++)
			fill(data + i * SECTOR_BYTES, i, version);
		assert_int_equal(volume_write(g->volume, data, PER_COMMIT * SECTOR_BYTES, 0, false), 0);
		assert_int_equal(volume_flush(g->volume), 0);
	}
	rig_kill(g);
	free(data);
}

static void expect_version(struct rig *g, uint32_t version)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];

	for (uint64_t lba = 0; lba < PER_COMMIT; lba++) {
		assert_int_equal(volume_read(g->volume, got, sizeof got, lba * SECTOR_BYTES), 0);
		fill(expect, lba, version);
		assert_memory_equal(got, expect, sizeof got);
	}
}

static void the_log_is_replayed(void **state)
{
	struct volume_stats stats;
	struct rig g;

	(void)state;
	make_log(&g);
	block_memory_cut(g.dev, 0);
	g.options.read_only = true; /* once without writing anything, once in earnest */
	rig_must_open(&g);
	expect_version(&g, COMMITS);
	rig_close(&g);
	g.options.read_only = false;
	rig_must_open(&g);
	volume_stats(g.volume, &stats);
	assert_int_equal(stats.recovered, COMMITS * PER_COMMIT);
	assert_int_equal(stats.lost + stats.fallen_back, 0);
	expect_version(&g, COMMITS);
	rig_close(&g);
	rig_must_open(&g);
	volume_stats(g.volume, &stats);
	assert_int_equal(stats.recovered, 0);
	expect_version(&g, COMMITS);
	rig_close(&g);
	rig_free(&g);
}

/* Any bit of a block in the middle: later blocks prove that it was whole, and the volume is not opened on half a history. */
static void a_hole_in_the_log_is_damage_and_no_power_cut(void **state)
{
	struct rig g;
	uint64_t at;

	(void)state;
	make_log(&g);
	at = log_at(&g) + 5 * SECTOR_BYTES;
	g.options.read_only = true;
	for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit += bit < 0x80 * 8 ? 1 : 997) {
		uint8_t byte;

		block_memory_peek(g.dev, &byte, 1, at + bit / 8);
		byte = (uint8_t)(byte ^ 1u << bit % 8);
		block_memory_poke(g.dev, &byte, 1, at + bit / 8);
		assert_int_equal(rig_open(&g), ERR_CORRUPT);
		assert_non_null(strstr(g.why, "damaged"));
		rig_kill(&g);
		byte = (uint8_t)(byte ^ 1u << bit % 8);
		block_memory_poke(g.dev, &byte, 1, at + bit / 8);
	}
	rig_must_open(&g);
	expect_version(&g, COMMITS);
	rig_free(&g);
}

static void swapped_blocks_are_damage(void **state)
{
	uint8_t a[SECTOR_BYTES], b[SECTOR_BYTES];
	struct rig g;

	(void)state;
	make_log(&g);
	block_memory_peek(g.dev, a, sizeof a, log_at(&g) + 5 * SECTOR_BYTES);
	block_memory_peek(g.dev, b, sizeof b, log_at(&g) + 7 * SECTOR_BYTES);
	block_memory_poke(g.dev, b, sizeof b, log_at(&g) + 5 * SECTOR_BYTES);
	block_memory_poke(g.dev, a, sizeof a, log_at(&g) + 7 * SECTOR_BYTES);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	rig_free(&g);
}

/* The end cut off, which nothing inside the medium can tell from a power cut: the sectors it named are an error, for the versions
 * before are not there any more. Never an old version that was put back. */
static void a_log_cut_short_gives_errors_and_not_old_data(void **state)
{
	uint8_t blank[2 * SECTOR_BYTES] = { 0 }, got[SECTOR_BYTES];
	struct volume_stats stats;
	struct rig g;

	(void)state;
	make_log(&g);
	block_memory_poke(g.dev, blank, sizeof blank, log_at(&g) + (2 * COMMITS - 1) * SECTOR_BYTES);
	rig_must_open(&g);
	volume_stats(g.volume, &stats);
	assert_int_equal(stats.lost, PER_COMMIT);
	assert_int_equal(volume_read(g.volume, got, sizeof got, 0), ERR_CORRUPT);
	assert_int_equal(volume_read(g.volume, got, sizeof got, PER_COMMIT * SECTOR_BYTES), 0);
	assert_int_equal(volume_zero(g.volume, SECTOR_BYTES, 0, false, true), 0);
	assert_int_equal(volume_read(g.volume, got, sizeof got, 0), 0);
	rig_close(&g);
	rig_free(&g);
}

/* A flushed sector put back to the version before: the settled mark says that only the newest is right. */
static void a_settled_sector_put_back_is_refused(void **state)
{
	uint8_t old[SECTOR_BYTES], data[SECTOR_BYTES], got[SECTOR_BYTES], where[8];
	struct rig g;
	uint64_t at;

	(void)state;
	rig_format(&g, SECTORS * (uint64_t)SECTOR_BYTES);
	g.options.stepped = true;
	rig_must_open(&g);
	block_memory_peek(g.dev, where, sizeof where, 0x58);
	at = get_le64(where);
	for (uint32_t version = 1; version <= 3; version++) {
		fill(data, 0, version);
		/* The third is only there to carry the mark: the second is settled, and the log says so. */
		assert_int_equal(volume_write(g.volume, data, sizeof data, version == 3 ? SECTOR_BYTES : 0, true), 0);
		if (version == 1)
			block_memory_peek(g.dev, old, sizeof old, at);
	}
	rig_kill(&g);
	block_memory_poke(g.dev, old, sizeof old, at);
	rig_must_open(&g);
	assert_int_equal(volume_read(g.volume, got, sizeof got, 0), ERR_CORRUPT);
	rig_close(&g);
	rig_free(&g);
}

/* The log goes round many times, in a region of few blocks. */
static void the_log_wraps(void **state)
{
	uint8_t data[SECTOR_BYTES];
	struct volume_stats stats;
	uint64_t blocks = 0;
	struct rig g;

	(void)state;
	rig_format(&g, SECTORS * (uint64_t)SECTOR_BYTES);
	g.options.stepped = true;
	rig_must_open(&g);
	for (uint32_t i = 0; i < 2000; i++) {
		fill(data, i % 50, i);
		assert_int_equal(volume_write(g.volume, data, sizeof data, i % 50 * SECTOR_BYTES, true), 0);
		if (i % 333 == 0) {
			volume_stats(g.volume, &stats);
			assert_true(i == 0 || stats.checkpoints > 2);
			blocks += stats.log_blocks;
			rig_kill(&g);
			block_memory_cut(g.dev, 0);
			rig_must_open(&g);
		}
	}
	assert_true(blocks > 4 * LOG_BLOCKS_MIN);
	rig_kill(&g);
	rig_must_open(&g);
	for (uint32_t i = 1950; i < 2000; i++) {
		uint8_t got[SECTOR_BYTES];

		fill(data, i % 50, i);
		assert_int_equal(volume_read(g.volume, got, sizeof got, i % 50 * SECTOR_BYTES), 0);
		assert_memory_equal(got, data, sizeof got);
	}
	rig_close(&g);
	rig_free(&g);
}

static void a_device_that_tears_4k_is_refused_with_a_reason(void **state)
{
	struct rig g;

	(void)state;
	rig_format(&g, SECTORS * (uint64_t)SECTOR_BYTES);
	g.dev->is_device = true;
	g.dev->atomic_bytes = 512;
	assert_int_equal(rig_open(&g), ERR_UNSUPPORTED);
	assert_non_null(strstr(g.why, "512"));
	rig_kill(&g);
	g.options.assume_4k = true;
	rig_must_open(&g);
	rig_close(&g);
	g.options.assume_4k = false;
	g.options.read_only = true;
	rig_must_open(&g);
	rig_close(&g);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_settled_sector_put_back_is_refused),
		cmocka_unit_test(a_hole_in_the_log_is_damage_and_no_power_cut),
		cmocka_unit_test(a_log_cut_short_gives_errors_and_not_old_data),
		cmocka_unit_test(swapped_blocks_are_damage),
		cmocka_unit_test(the_log_is_replayed),
		cmocka_unit_test(the_log_wraps),
		cmocka_unit_test(the_newest_is_found_and_the_overtaken_is_not_written),
		cmocka_unit_test(a_reservation_given_back_leaves_nothing),
		cmocka_unit_test(what_is_held_is_sorted_whatever_came_when),
		cmocka_unit_test(a_block_comes_back_as_it_was),
		cmocka_unit_test(hostile_blocks_are_no_blocks),
		cmocka_unit_test(a_device_that_tears_4k_is_refused_with_a_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
