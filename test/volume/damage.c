/* An attacker with the medium in his hands: flipped bits, moved, swapped, old and foreign blocks. Allowed answers: repaired,
 * refused, ERR_CORRUPT. Never other data. */
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "volume/layout.h"

#include "base/bytes.h"
#include "base/error.h"

enum { SECTORS = 10201, WRITTEN = 300, FAR = 10100 };

struct place {
	uint64_t data, leaf, upper[2], root[2], header[2];
};

static uint64_t field(struct block *dev, uint64_t at)
{
	uint8_t bytes[8];

	block_memory_peek(dev, bytes, sizeof bytes, at);
	return get_le64(bytes);
}

static struct place find_places(struct block *dev)
{
	return (struct place){
		.data = field(dev, 0x58),
		.leaf = field(dev, 0x90),
		.upper = { field(dev, 0x98), field(dev, 0xD8) },
		.root = { field(dev, 0x70), field(dev, 0x78) },
		.header = { field(dev, 0x80), field(dev, 0x88) },
	};
}

static void fill(uint8_t *out, uint64_t lba, uint32_t version)
{
	rig_noise(out, SECTOR_BYTES, lba * 16 + version);
}

static void write_sector(struct rig *g, uint64_t lba, uint32_t version)
{
	uint8_t data[SECTOR_BYTES];

	fill(data, lba, version);
	assert_int_equal(volume_write(g->volume, data, sizeof data, lba * SECTOR_BYTES, false), 0);
}

/* Three levels: sectors 0 .. WRITTEN-1 and one far away. */
static void make(struct rig *g)
{
	rig_format(g, SECTORS * (uint64_t)SECTOR_BYTES);
	g->options.dirty_nodes_max = 64; /* thousands of opens: small batches */
	rig_must_open(g);
	for (uint64_t lba = 0; lba < WRITTEN; lba++)
		write_sector(g, lba, 1);
	write_sector(g, FAR, 1);
	rig_close(g);
}

static int read_sector(struct rig *g, uint64_t lba, uint32_t version)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES], blank[SECTOR_BYTES] = { 0 };
	int r;

	memset(got, 0xEE, sizeof got);
	r = volume_read(g->volume, got, sizeof got, lba * SECTOR_BYTES);
	fill(expect, lba, version);
	if (r == 0)
		assert_memory_equal(got, expect, sizeof got);
	else
		assert_memory_equal(got, blank, sizeof got);
	return r;
}

static void flip(struct block *dev, uint64_t at, unsigned bit)
{
	uint8_t byte;

	block_memory_peek(dev, &byte, 1, at);
	byte = (uint8_t)(byte ^ 1u << bit);
	block_memory_poke(dev, &byte, 1, at);
}

static void swap(struct block *dev, uint64_t a, uint64_t b)
{
	uint8_t x[SECTOR_BYTES], y[SECTOR_BYTES];

	block_memory_peek(dev, x, sizeof x, a);
	block_memory_peek(dev, y, sizeof y, b);
	block_memory_poke(dev, y, sizeof y, a);
	block_memory_poke(dev, x, sizeof x, b);
}

static uint64_t bad_tags(struct rig *g)
{
	struct volume_stats stats;

	volume_stats(g->volume, &stats);
	return stats.bad_tags;
}

static void any_flipped_bit_of_a_sector_is_found(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	rig_must_open(&g);
	for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit += 61) {
		uint64_t at = p.data + 5 * SECTOR_BYTES + bit / 8;

		flip(g.dev, at, bit % 8);
		assert_int_equal(read_sector(&g, 5, 1), ERR_CORRUPT);
		flip(g.dev, at, bit % 8);
	}
	assert_true(bad_tags(&g) > 500);
	assert_int_equal(read_sector(&g, 5, 1), 0);
	rig_close(&g);
	rig_free(&g);
}

/* A bad sector in the middle of a large read: the whole buffer is wiped, and writing the sector mends it. */
static void one_bad_sector_wipes_the_whole_read(void **state)
{
	uint8_t *got = malloc(200 * SECTOR_BYTES);
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	rig_must_open(&g);
	flip(g.dev, p.data + 150 * SECTOR_BYTES + 17, 3);
	memset(got, 0xEE, 200 * SECTOR_BYTES);
	assert_int_equal(volume_read(g.volume, got, 200 * SECTOR_BYTES, 0), ERR_CORRUPT);
	for (size_t i = 0; i < 200 * SECTOR_BYTES; i++)
		assert_int_equal(got[i], 0);
	/* A write of half of it must not bless the other half. */
	assert_int_equal(volume_write(g.volume, got, 100, 150 * SECTOR_BYTES, false), ERR_CORRUPT);
	write_sector(&g, 150, 2);
	assert_int_equal(read_sector(&g, 150, 2), 0);
	rig_close(&g);
	rig_free(&g);
	free(got);
}

static void moved_sectors_do_not_open(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	swap(g.dev, p.data + 7 * SECTOR_BYTES, p.data + 8 * SECTOR_BYTES);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 7, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 8, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 9, 1), 0);
	rig_close(&g);
	rig_free(&g);
}

/* The old sector with the old leaf that vouched for it: the level above does not agree. */
static void an_old_sector_with_its_old_leaf_is_refused(void **state)
{
	uint8_t sector[SECTOR_BYTES], leaf[SECTOR_BYTES];
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	block_memory_peek(g.dev, sector, sizeof sector, p.data + 7 * SECTOR_BYTES);
	block_memory_peek(g.dev, leaf, sizeof leaf, p.leaf);
	rig_must_open(&g);
	write_sector(&g, 7, 2);
	rig_close(&g);
	block_memory_poke(g.dev, sector, sizeof sector, p.data + 7 * SECTOR_BYTES);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 7, 2), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 8, 1), 0);
	rig_close(&g);
	block_memory_poke(g.dev, leaf, sizeof leaf, p.leaf);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 7, 2), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 8, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 107, 1), 0);
	rig_close(&g);
	rig_free(&g);
}

/* Every bit of the clear part, and some of the rest. */
static unsigned next_bit(unsigned bit)
{
	return bit < 0x60 * 8 ? bit + 1 : bit + 509;
}

static void any_flipped_bit_of_a_leaf_loses_that_leaf_only(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit = next_bit(bit)) {
		uint64_t at = p.leaf + SECTOR_BYTES + bit / 8;

		flip(g.dev, at, bit % 8);
		g.options.read_only = true;
		rig_must_open(&g);
		assert_int_equal(read_sector(&g, 150, 1), ERR_CORRUPT);
		assert_int_equal(read_sector(&g, 50, 1), 0);
		rig_close(&g);
		flip(g.dev, at, bit % 8);
	}
	rig_free(&g);
}

static void swapped_leaves_do_not_open(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	swap(g.dev, p.leaf, p.leaf + SECTOR_BYTES);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 150, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, 250, 1), 0);
	rig_close(&g);
	rig_free(&g);
}

static void a_damaged_upper_node_is_read_from_its_second_copy_and_mended(void **state)
{
	uint8_t before[SECTOR_BYTES], after[SECTOR_BYTES];
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	assert_int_not_equal(p.upper[1], 0);
	block_memory_peek(g.dev, before, sizeof before, p.upper[0]);
	for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit = next_bit(bit)) {
		struct block *whole = g.dev;

		g.dev = block_memory_copy(whole);
		flip(g.dev, p.upper[0] + bit / 8, bit % 8);
		rig_must_open(&g);
		assert_int_equal(read_sector(&g, 50, 1), 0);
		assert_int_equal(bad_tags(&g), 1);
		rig_close(&g);
		rig_must_open(&g);
		assert_int_equal(read_sector(&g, 50, 1), 0);
		assert_int_equal(bad_tags(&g), 0);
		rig_close(&g);
		block_memory_peek(g.dev, before, sizeof before, p.upper[0]);
		block_memory_peek(g.dev, after, sizeof after, p.upper[1]);
		assert_memory_equal(before, after, sizeof before);
		g.dev->ops->close(g.dev);
		g.dev = whole;
	}
	rig_free(&g);
}

static void both_copies_damaged_is_corrupt(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	flip(g.dev, p.upper[0] + 900, 1);
	flip(g.dev, p.upper[1] + 900, 1);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 1), ERR_CORRUPT);
	assert_int_equal(read_sector(&g, FAR, 1), 0);
	/* Zeroing the whole subtree puts a new, authentic statement above the damage. */
	assert_int_equal(volume_zero(g.volume, 10000 * (uint64_t)SECTOR_BYTES, 0, false, false), 0);
	write_sector(&g, 50, 3);
	rig_close(&g);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 3), 0);
	rig_close(&g);
	rig_free(&g);
}

/* --- roots ------------------------------------------------------------------------------------------------------------- */

static unsigned newest_root(struct block *dev, uint64_t ring)
{
	uint64_t best = 0;
	unsigned at = 0;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t seq = field(dev, ring + i * SECTOR_BYTES + 0x20);

		if (seq > best) {
			best = seq;
			at = i;
		}
	}
	return at;
}

static void any_flipped_bit_of_one_root_copy_is_harmless(void **state)
{
	struct rig g;
	struct place p;
	unsigned newest;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	newest = newest_root(g.dev, p.root[0]);
	g.options.read_only = true;
	for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit = next_bit(bit)) {
		uint64_t at = p.root[0] + newest * SECTOR_BYTES + bit / 8;

		flip(g.dev, at, bit % 8);
		rig_must_open(&g);
		assert_int_equal(read_sector(&g, 50, 1), 0);
		rig_close(&g);
		flip(g.dev, at, bit % 8);
	}
	rig_free(&g);
}

static void lose_newest_root(struct rig *g, const struct place *p)
{
	unsigned newest = newest_root(g->dev, p->root[0]);

	for (unsigned c = 0; c < 2; c++)
		flip(g->dev, p->root[c] + newest * SECTOR_BYTES + 500, 0);
}

/* Both copies of the newest gone: the log is kept so long that the one before finds its way, also through a whole checkpoint. */
static void the_root_before_finds_everything(void **state)
{
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	rig_must_open(&g);
	write_sector(&g, 50, 2);
	assert_int_equal(volume_flush(g.volume), 0);
	rig_kill(&g);
	lose_newest_root(&g, &p);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 2), 0);
	assert_int_equal(read_sector(&g, FAR, 1), 0);
	write_sector(&g, 50, 3);
	rig_close(&g);
	lose_newest_root(&g, &p);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 3), 0);
	assert_int_equal(read_sector(&g, 51, 1), 0);
	assert_int_equal(read_sector(&g, FAR, 1), 0);
	rig_free(&g);
}

static void no_root_is_refused(void **state)
{
	uint8_t zeroes[4 * SECTOR_BYTES] = { 0 };
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	for (unsigned c = 0; c < 2; c++)
		block_memory_poke(g.dev, zeroes, sizeof zeroes, p.root[c]);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	assert_non_null(strstr(g.why, "root"));
	rig_free(&g);
}

/* --- headers ----------------------------------------------------------------------------------------------------------- */

static void any_flipped_bit_of_a_header_is_mended_from_the_other(void **state)
{
	uint8_t *whole = malloc(65536), *now = malloc(65536);
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	block_memory_peek(g.dev, whole, 65536, 0);
	for (unsigned copy = 0; copy < 2; copy++)
		for (unsigned bit = 0; bit < 65536 * 8; bit += bit < 0x340 * 8 ? 37 : 9973) {
			flip(g.dev, p.header[copy] + bit / 8, bit % 8);
			rig_must_open(&g);
			assert_int_equal(read_sector(&g, 50, 1), 0);
			rig_close(&g);
			block_memory_peek(g.dev, now, 65536, p.header[copy]);
			assert_memory_equal(now, whole, 65536);
		}
	rig_free(&g);
	free(whole);
	free(now);
}

static void both_headers_damaged_is_refused(void **state)
{
	struct volume_header_info info;
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	flip(g.dev, p.header[0] + 0x125, 0);
	flip(g.dev, p.header[1] + 0x125, 0);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), ERR_CORRUPT);
	rig_free(&g);
}

/* Takes header A, changes its label and sequence number, and puts it in both places: with a MAC of its key, or the old one. */
static void forge_headers(struct rig *g, bool with_key)
{
	uint8_t *bytes = malloc(65536), mac[32], kcv[KCV_BYTES];
	struct place p = find_places(g->dev);
	struct keyring *k = rig_ring(g->payload, g->uuid, 1, kcv);

	block_memory_peek(g->dev, bytes, 65536, 0);
	memcpy(mac, bytes + 0xFC0, sizeof mac);
	bytes[0x20]++;
	bytes[0x120] = 'X';
	memset(bytes + 0xFC0, 0, 64);
	if (with_key)
		assert_int_equal(keyring_header_mac(k, mac, 1, bytes, 65536), 0);
	header_finish(bytes, mac);
	block_memory_poke(g->dev, bytes, 65536, p.header[0]);
	if (!with_key)
		block_memory_poke(g->dev, bytes, 65536, p.header[1]);
	keyring_destroy(k);
	free(bytes);
}

static void a_header_altered_with_its_checksum_put_right_is_refused(void **state)
{
	struct volume_header_info info;
	struct rig g;

	(void)state;
	make(&g);
	forge_headers(&g, false);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), 0);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	assert_non_null(strstr(g.why, "MAC"));
	rig_free(&g);
}

/* Authentic, newer by its number, and not the one that the root names: as one that was made and never put into force. */
static void an_authentic_header_that_the_root_does_not_name_gives_way(void **state)
{
	struct volume_header_info info;
	struct rig g;

	(void)state;
	make(&g);
	forge_headers(&g, true);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), 0);
	assert_string_equal(info.label, "Xig");
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 50, 1), 0);
	rig_close(&g);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), 0);
	assert_string_equal(info.label, "rig");
	assert_string_equal(g.why, "both headers good");
	rig_free(&g);
}

/* A volume of another key put in this one's place, uuid and all. */
static void another_keys_volume_is_foreign(void **state)
{
	struct rig g;

	(void)state;
	make(&g);
	rig_payload(g.payload, 0x77, g.uuid, 1);
	assert_int_equal(rig_open(&g), ERR_FOREIGN);
	rig_kill(&g);
	g.kcv[0] ^= 1;
	rig_payload(g.payload, 0x11, g.uuid, 1);
	assert_int_equal(rig_open(&g), ERR_FOREIGN);
	assert_non_null(strstr(g.why, "pinned"));
	rig_free(&g);
}

static void nothing_readable_is_on_the_medium(void **state)
{
	uint8_t text[SECTOR_BYTES];
	struct rig g;

	(void)state;
	make(&g);
	rig_must_open(&g);
	memset(text, 'A', sizeof text);
	assert_int_equal(volume_write(g.volume, text, sizeof text, 100, false), 0);
	rig_close(&g);
	assert_false(block_memory_contains(g.dev, text, 16));
	assert_false(block_memory_contains(g.dev, g.payload, 16));
	assert_true(block_memory_contains(g.dev, g.uuid, sizeof g.uuid));
	rig_free(&g);
}

/* Whoever may try without end forges a tag one day. What was accepted before is not his to take away. */
static void after_too_many_bad_tags_nothing_is_opened(void **state)
{
	uint8_t got[SECTOR_BYTES];
	struct volume_stats stats;
	struct rig g;
	struct place p;

	(void)state;
	make(&g);
	p = find_places(g.dev);
	g.options.bad_tags_max = 5;
	rig_must_open(&g);
	write_sector(&g, 9, 2);
	flip(g.dev, p.data + 5 * SECTOR_BYTES, 1);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(read_sector(&g, 6, 1), 0);
		assert_int_equal(read_sector(&g, 5, 1), ERR_CORRUPT);
	}
	assert_int_equal(read_sector(&g, 6, 1), ERR_FAILSTOP);
	assert_int_equal(volume_write(g.volume, got, sizeof got, 0, false), ERR_FAILSTOP);
	assert_int_equal(volume_zero(g.volume, SECTOR_BYTES, 0, false, false), ERR_FAILSTOP);
	assert_int_equal(volume_extents(g.volume, SECTOR_BYTES, 0, NULL, NULL), ERR_FAILSTOP);
	volume_stats(g.volume, &stats);
	assert_true(stats.alarm && stats.failstop);
	assert_int_equal(volume_flush(g.volume), 0);
	rig_close(&g);
	rig_must_open(&g);
	assert_int_equal(read_sector(&g, 9, 2), 0);
	assert_int_equal(read_sector(&g, 6, 1), 0);
	rig_close(&g);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_old_sector_with_its_old_leaf_is_refused),
		cmocka_unit_test(any_flipped_bit_of_a_sector_is_found),
		cmocka_unit_test(one_bad_sector_wipes_the_whole_read),
		cmocka_unit_test(moved_sectors_do_not_open),
		cmocka_unit_test(any_flipped_bit_of_a_leaf_loses_that_leaf_only),
		cmocka_unit_test(swapped_leaves_do_not_open),
		cmocka_unit_test(a_damaged_upper_node_is_read_from_its_second_copy_and_mended),
		cmocka_unit_test(both_copies_damaged_is_corrupt),
		cmocka_unit_test(any_flipped_bit_of_one_root_copy_is_harmless),
		cmocka_unit_test(the_root_before_finds_everything),
		cmocka_unit_test(no_root_is_refused),
		cmocka_unit_test(any_flipped_bit_of_a_header_is_mended_from_the_other),
		cmocka_unit_test(both_headers_damaged_is_refused),
		cmocka_unit_test(a_header_altered_with_its_checksum_put_right_is_refused),
		cmocka_unit_test(an_authentic_header_that_the_root_does_not_name_gives_way),
		cmocka_unit_test(another_keys_volume_is_foreign),
		cmocka_unit_test(nothing_readable_is_on_the_medium),
		cmocka_unit_test(after_too_many_bad_tags_nothing_is_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
