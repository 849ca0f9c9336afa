/* Geometry and codecs: golden offsets, hostile bytes. Offsets are written out here once more, from SPEC.md, on purpose. */
#include <string.h>

#include "rig.h"
#include "volume/layout.h"

#include "base/bytes.h"
#include "base/error.h"
#include "hal/hash.h"

static const uint64_t MIB = 1 << 20;

static void crc32c_known_answer(void **state)
{
	uint8_t zeroes[32] = { 0 };

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283);
	assert_int_equal(crc32c(0, zeroes, 32), 0x8A9136AA);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xE3069283);
}

/* --- geometry ---------------------------------------------------------------------------------------------------------- */

static void one_tebibyte_is_as_computed_by_hand(void **state)
{
	uint64_t n = UINT64_C(1) << 28, backing = volume_backing_size(n * SECTOR_BYTES);
	struct geometry g;

	(void)state;
	assert_int_equal(geometry_compute(&g, n, geometry_log_blocks(n), backing), 0);
	assert_int_equal(g.levels, 5);
	assert_int_equal(g.count[1], 2684355);
	assert_int_equal(g.count[2], 26844);
	assert_int_equal(g.count[3], 269);
	assert_int_equal(g.count[4], 3);
	assert_int_equal(g.count[5], 1);
	assert_int_equal(g.log_off, MIB);
	assert_int_equal(g.log_blocks, 65536);
	assert_int_equal(g.node_off[0][2], 257 * MIB);
	assert_int_equal(g.node_off[0][3], 257 * MIB + 26844u * 4096);
	assert_int_equal(g.node_off[0][1], 257 * MIB + (26844u + 269 + 3 + 1) * 4096);
	assert_int_equal(g.node_off[1][1], 0);
	assert_int_equal(g.data_off % MIB, 0);
	assert_true(g.data_off >= g.node_off[0][1] + 2684355u * (uint64_t)4096);
	assert_int_equal(g.node_off[1][2], g.data_off + (UINT64_C(1) << 40));
	assert_int_equal(g.root_off[1], backing - 80 * 1024);
	assert_int_equal(g.header_off[1], backing - 64 * 1024);
	/* 1.05 % more than the data */
	assert_true(backing - (UINT64_C(1) << 40) < (UINT64_C(1) << 40) / 94);
}

/* Regions in order of address, each ending before the next begins, the last before the end. */
static void check_regions(uint64_t n)
{
	uint64_t backing = volume_backing_size(n * SECTOR_BYTES), log = geometry_log_blocks(n), end;
	struct geometry g;

	assert_int_not_equal(backing, 0);
	assert_int_equal(geometry_compute(&g, n, log, backing), 0);
	assert_int_equal(geometry_compute(&g, n, log, backing - SECTOR_BYTES), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, n, log, backing + 12345 * (uint64_t)SECTOR_BYTES), 0);
	assert_int_equal(g.count[g.levels], 1);
	assert_true(g.span[g.levels] >= n);
	end = g.log_off + log * SECTOR_BYTES;
	for (unsigned l = 2; l <= g.levels; l++) {
		assert_int_equal(g.node_off[0][l], end);
		end += g.count[l] * SECTOR_BYTES;
	}
	assert_int_equal(g.node_off[0][1], end);
	assert_true(g.data_off >= end + g.count[1] * SECTOR_BYTES);
	assert_int_equal(g.data_off % MIB, 0);
	end = g.data_off + n * SECTOR_BYTES;
	for (unsigned l = 2; l <= g.levels; l++) {
		assert_true(g.node_off[1][l] >= end);
		end = g.node_off[1][l] + g.count[l] * SECTOR_BYTES;
	}
	assert_true(end <= g.root_off[1]);
}

static void regions_never_overlap(void **state)
{
	static const uint64_t sizes[] = { 1,
					  2,
					  99,
					  100,
					  101,
					  9999,
					  10000,
					  10001,
					  65535,
					  65536,
					  999999,
					  1000001,
					  100000001,
					  UINT64_C(1) << 31,
					  UINT64_C(10000000001),
					  UINT64_C(1) << 50 };

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		check_regions(sizes[i]);
}

static void impossible_sizes_are_refused(void **state)
{
	struct geometry g;

	(void)state;
	assert_int_equal(volume_backing_size(0), 0);
	assert_int_equal(volume_backing_size(4095), 0);
	assert_int_equal(volume_backing_size(4097), 0);
	assert_int_equal(volume_backing_size((uint64_t)INT64_MAX + 1), 0);
	assert_int_equal(volume_backing_size(UINT64_MAX - 4095), 0);
	assert_int_not_equal(volume_backing_size(UINT64_C(1) << 62), 0);
	assert_int_equal(geometry_compute(&g, 0, 256, 1 << 30), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, 1, 255, 1 << 30), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, 1, 65537, 1 << 30), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, 1, 256, (1 << 30) + 512), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, UINT64_MAX, 256, INT64_MAX & ~UINT64_C(4095)), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, UINT64_MAX / 4096, 256, UINT64_MAX & ~UINT64_C(4095)), ERR_RANGE);
	assert_int_equal(geometry_compute(&g, 1, 256, 0), ERR_RANGE);
}

static void the_log_is_a_thousandth_within_limits(void **state)
{
	(void)state;
	assert_int_equal(geometry_log_blocks(1), 256);
	assert_int_equal(geometry_log_blocks(65535), 256);
	assert_int_equal(geometry_log_blocks(65536), 4096);
	assert_int_equal(geometry_log_blocks(UINT64_C(16) << 18), 4096);  /* 16 GiB */
	assert_int_equal(geometry_log_blocks(UINT64_C(64) << 18), 16384); /* 64 GiB */
	assert_int_equal(geometry_log_blocks(UINT64_C(1) << 40), 65536);
}

/* --- header ------------------------------------------------------------------------------------------------------------ */

static void sample(struct header *h)
{
	struct kek_slot slot = { .type = KEK_SLOT_RSA_OAEP,
				 .hash = KEK_HASH_SHA256,
				 .label = "L",
				 .token = "T",
				 .id = { 7, 8, 9 },
				 .id_size = 3,
				 .gen_no = 5,
				 .wrapped_size = 512 };

	memset(h, 0, sizeof *h);
	memset(slot.wrapped, 0xBB, slot.wrapped_size);
	memset(slot.fingerprint, 0xAA, sizeof slot.fingerprint);
	memset(h->uuid, 0x11, sizeof h->uuid);
	memcpy(h->label, "name", 4);
	h->seq = 3;
	h->created = 0x1234;
	h->generations[0] = (struct generation){
		.gen_no = 5, .state = GENERATION_ACTIVE, .created = 6, .ctr_start = 7, .kcv = { 0xCC, 0xCD }
	};
	h->slot_count = 1;
	h->slots[0] = slot;
	assert_int_equal(geometry_compute(&h->geometry, 10001, 256, volume_backing_size(10001 * SECTOR_BYTES)), 0);
}

static uint8_t bytes[HEADER_BYTES];

static void encode_sample(void)
{
	uint8_t mac[32];
	struct header h;

	sample(&h);
	memset(mac, 0xEE, sizeof mac);
	header_encode(bytes, &h);
	header_finish(bytes, mac);
}

/* A change behind which the SHA-256 is put right again, as an attacker would. */
static void refinish(void)
{
	uint8_t mac[32];

	memset(bytes + 0xFE0, 0, 32);
	memcpy(mac, bytes + 0xFC0, 32);
	header_finish(bytes, mac);
}

static int decode(struct header *h, char *why)
{
	return header_decode(h, bytes, volume_backing_size(10001 * SECTOR_BYTES), why, 96);
}

static void header_bytes_are_where_the_format_says(void **state)
{
	static const uint8_t magic[8] = { 0x46, 0x47, 0x56, 0x4F, 0x4C, 0x0D, 0x0A, 0x1A };
	uint8_t hash[32], copy[HEADER_BYTES];
	const uint8_t *slot = bytes + 4096, *gen = bytes + 0x200;
	struct hash_part part = { copy, HEADER_BYTES };

	(void)state;
	encode_sample();
	assert_memory_equal(bytes, magic, 8);
	assert_int_equal(get_le16(bytes + 0x08), 1);
	assert_int_equal(get_le16(bytes + 0x0A), 0);
	assert_int_equal(get_le32(bytes + 0x0C), 65536);
	assert_int_equal(bytes[0x10], 0x11);
	assert_int_equal(get_le64(bytes + 0x20), 3);
	assert_int_equal(get_le64(bytes + 0x38), 0);
	assert_int_equal(get_le32(bytes + 0x40), 1);
	assert_int_equal(get_le32(bytes + 0x44), 12);
	assert_int_equal(get_le16(bytes + 0x48), 100);
	assert_int_equal(get_le16(bytes + 0x4A), 40);
	assert_int_equal(bytes[0x4C], 3);
	assert_int_equal(bytes[0x4D], 2);
	assert_int_equal(bytes[0x4E], 1);
	assert_int_equal(bytes[0x4F], 12);
	assert_int_equal(get_le64(bytes + 0x50), 10001);
	assert_int_equal(get_le64(bytes + 0x58), 3 * MIB);
	assert_int_equal(get_le64(bytes + 0x60), MIB);
	assert_int_equal(get_le64(bytes + 0x68), 256);
	assert_int_equal(get_le64(bytes + 0x70), 65536);
	assert_int_equal(get_le64(bytes + 0x80), 0);
	assert_int_equal(get_le64(bytes + 0x88), get_le64(bytes + 0x110) - 65536);
	assert_int_equal(get_le64(bytes + 0x90), 2 * MIB + 3 * 4096);
	assert_int_equal(get_le64(bytes + 0x98), 2 * MIB);
	assert_int_equal(get_le64(bytes + 0xD0), 0);
	assert_int_equal(get_le64(bytes + 0xD8), 43 * MIB);
	assert_int_equal(get_le64(bytes + 0x110), 43 * MIB + 3 * 4096 + 80 * 1024);
	assert_int_equal(get_le64(bytes + 0x118), 0x1234);
	assert_string_equal((char *)bytes + 0x120, "name");
	assert_int_equal(get_le32(gen), 5);
	assert_int_equal(gen[4], 1);
	assert_int_equal(get_le64(gen + 0x08), 6);
	assert_int_equal(get_le64(gen + 0x10), 7);
	assert_int_equal(gen[0x18], 0xCC);
	assert_int_equal(get_le32(slot), 1);
	assert_int_equal(get_le32(slot + 4), 2);
	assert_int_equal(get_le32(slot + 0x1C), 1);
	assert_int_equal(slot[0x20], 0xAA);
	assert_string_equal((const char *)slot + 0x40, "L");
	assert_int_equal(get_le16(slot + 0x80), 3);
	assert_int_equal(slot[0x82], 7);
	assert_string_equal((const char *)slot + 0xC0, "T");
	assert_int_equal(get_le16(slot + 0x200), 512);
	assert_int_equal(get_le32(slot + 0x204), 5);
	assert_int_equal(slot[0x208 + 511], 0xBB);
	assert_int_equal(slot[0x208 + 512], 0);
	assert_int_equal(bytes[0xFC0], 0xEE);
	memcpy(copy, bytes, sizeof copy);
	memset(copy + 0xFE0, 0, 32);
	hash_sha256(hash, &part, 1);
	assert_memory_equal(hash, bytes + 0xFE0, 32);
}

static void a_header_comes_back_as_it_was(void **state)
{
	struct header in, out;
	char why[96];

	(void)state;
	sample(&in);
	encode_sample();
	assert_int_equal(decode(&out, why), 0);
	assert_memory_equal(&in.geometry, &out.geometry, sizeof in.geometry);
	assert_memory_equal(in.generations, out.generations, sizeof in.generations);
	assert_memory_equal(in.uuid, out.uuid, sizeof in.uuid);
	assert_string_equal(in.label, out.label);
	assert_int_equal(out.slot_count, 1);
	assert_memory_equal(&in.slots[0].wrapped, &out.slots[0].wrapped, WRAPPED_MAX);
	assert_int_equal(out.slots[0].id_size, 3);
	assert_int_equal(out.seq, 3);
}

struct lie {
	unsigned at, size;
	uint64_t value;
	int result;
};

static void every_lie_with_a_right_checksum_is_refused(void **state)
{
	/* clang-format off */
	static const struct lie lies[] = {
		{ 0x00, 1, 0x47, ERR_FOREIGN }, { 0x08, 2, 2, ERR_FOREIGN }, { 0x38, 8, 1, ERR_FOREIGN },
		{ 0x0C, 4, 4096, ERR_CORRUPT }, { 0x40, 4, 2, ERR_CORRUPT }, { 0x44, 4, 9, ERR_CORRUPT },
		{ 0x48, 2, 4, ERR_CORRUPT }, { 0x4A, 2, 48, ERR_CORRUPT }, { 0x4C, 1, 4, ERR_CORRUPT }, { 0x4C, 1, 255, ERR_CORRUPT },
		{ 0x4D, 1, 1, ERR_CORRUPT }, { 0x4E, 1, 2, ERR_CORRUPT }, { 0x4F, 1, 9, ERR_CORRUPT },
		{ 0x50, 8, 0, ERR_CORRUPT }, { 0x50, 8, UINT64_MAX, ERR_CORRUPT }, { 0x50, 8, UINT64_C(1) << 51, ERR_CORRUPT },
		{ 0x50, 8, 20002, ERR_CORRUPT }, { 0x58, 8, 0, ERR_CORRUPT }, { 0x58, 8, UINT64_MAX - 4095, ERR_CORRUPT },
		{ 0x60, 8, 0, ERR_CORRUPT }, { 0x68, 8, UINT64_MAX, ERR_CORRUPT }, { 0x68, 8, 0, ERR_CORRUPT },
		{ 0x68, 8, 257, ERR_CORRUPT },
		{ 0x70, 8, 0, ERR_CORRUPT }, { 0x78, 8, UINT64_MAX - 4095, ERR_CORRUPT }, { 0x80, 8, 4096, ERR_CORRUPT },
		{ 0x88, 8, 0, ERR_CORRUPT }, { 0x90, 8, 0, ERR_CORRUPT }, { 0xC8, 8, 4096, ERR_CORRUPT }, { 0xD0, 8, 4096, ERR_CORRUPT },
		{ 0x110, 8, 0, ERR_CORRUPT }, { 0x110, 8, UINT64_MAX, ERR_CORRUPT }, { 0x110, 8, 4096, ERR_CORRUPT },
		{ 0x200, 4, 0, ERR_CORRUPT }, { 0x204, 1, 0, ERR_CORRUPT }, { 0x204, 1, 2, ERR_CORRUPT }, { 0x204, 1, 4, ERR_CORRUPT },
		{ 0x244, 1, 1, ERR_CORRUPT },
		{ 0x1004, 4, 3, ERR_CORRUPT }, { 0x101C, 4, 3, ERR_CORRUPT }, { 0x1080, 2, 63, ERR_CORRUPT }, { 0x1080, 2, 65535, ERR_CORRUPT },
		{ 0x1200, 2, 0, ERR_CORRUPT }, { 0x1200, 2, 633, ERR_CORRUPT }, { 0x1200, 2, 65535, ERR_CORRUPT },
		{ 0x1204, 4, 6, ERR_CORRUPT },
		{ 0x2000, 4, 1, ERR_CORRUPT },
	};
	/* clang-format on */
	struct hash_part slot = { bytes + 0x1000, 0xFE0 };
	struct header h;
	char why[96];

	(void)state;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		uint8_t value[8];

		encode_sample();
		put_le64(value, lies[i].value);
		memcpy(bytes + lies[i].at, value, lies[i].size);
		if (lies[i].at >= 0x1000 && lies[i].at < 0x2000)
			hash_sha256(bytes + 0x1FE0, &slot, 1);
		refinish();
		why[0] = '\0';
		if (decode(&h, why) != lies[i].result)
			print_error("lie %zu at 0x%x\n", i, lies[i].at);
		assert_int_equal(decode(&h, why), lies[i].result);
		assert_true(strlen(why) > 5);
	}
}

/* Random bytes anywhere, checksum right: no crash, and what is accepted lies inside the backing store. */
static void random_headers_do_no_harm(void **state)
{
	uint64_t random = 99;
	struct header h;
	char why[96];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		encode_sample();
		for (uint64_t n = 1 + rig_random(&random) % 4; n > 0; n--) {
			uint64_t at =
				rig_random(&random) % 4 == 0 ? 0x1000 + rig_random(&random) % 0x400 : rig_random(&random) % 0x340;

			bytes[at] = (uint8_t)rig_random(&random);
		}
		refinish();
		if (decode(&h, why) == 0) {
			assert_true(h.slot_count <= KEK_SLOTS);
			assert_true(h.active < GENERATIONS);
			assert_true(h.geometry.data_off + h.geometry.n_sectors * SECTOR_BYTES <= h.geometry.root_off[1]);
		}
	}
}

static void a_short_backing_is_named_to_the_byte(void **state)
{
	struct header h;
	char why[96];

	(void)state;
	encode_sample();
	assert_int_equal(header_decode(&h, bytes, volume_backing_size(10001 * SECTOR_BYTES) - 4096, why, sizeof why), ERR_RANGE);
	assert_string_equal(why, "backing is 4096 bytes smaller than the header says");
}

/* --- slots, nodes, roots ----------------------------------------------------------------------------------------------- */

static void slot_bytes_are_where_the_format_says(void **state)
{
	struct slot in = { .tag = { 1 }, .salt = { 2 }, .gen_ix = 3, .state = SLOT_ZERO, .ctr = UINT64_C(0x0102030405060708) },
		    out;
	uint8_t at[SLOT_BYTES];

	(void)state;
	slot_encode(at, &in);
	assert_int_equal(at[0x00], 1);
	assert_int_equal(at[0x10], 2);
	assert_int_equal(at[0x1C], 3);
	assert_int_equal(at[0x1E], 2);
	assert_int_equal(at[0x20], 8);
	assert_int_equal(at[0x27], 1);
	slot_decode(&out, at);
	assert_true(slot_same(&in, &out));
	out.tag[15] ^= 1;
	assert_false(slot_same(&in, &out));
}

static void node_bytes_are_where_the_format_says(void **state)
{
	struct node_clear n = { .salt = { 9 }, .ctr = 10, .index = 11, .level = 2, .gen_ix = 1, .gen_no = 12 };
	uint8_t block[SECTOR_BYTES] = { 0 };

	(void)state;
	node_encode_clear(block, &n, rig_uuid);
	assert_int_equal(block[0x10], 9);
	assert_memory_equal(block + 0x1C, "FGN1", 4);
	assert_int_equal(get_le64(block + 0x20), 10);
	assert_int_equal(get_le64(block + 0x28), 11);
	assert_int_equal(block[0x30], 2);
	assert_int_equal(block[0x31], 1);
	assert_int_equal(get_le16(block + 0x32), 1);
	assert_int_equal(get_le32(block + 0x34), 12);
	assert_memory_equal(block + 0x38, rig_uuid, 16);
	block[0x5C] = 0xFF;
	block_checksum(block);
	assert_true(block_checksum_good(block));
	memset(block + 0x100, 1, 1);
	assert_false(block_checksum_good(block));
}

static void root_bytes_are_where_the_format_says(void **state)
{
	struct root in = { .seq = 1,
			   .gen_no = 2,
			   .salt = { 3 },
			   .clean = true,
			   .session = { 4 },
			   .ctr_next = 5,
			   .settled = 6,
			   .tail_seq = 7,
			   .prev_tag = { 8 },
			   .top = { .tag = { 9 }, .ctr = 10 },
			   .header_hash = { { 11 }, { 12 } },
			   .rekey_from = 13,
			   .rekey_to = 14,
			   .rekey_state = 15,
			   .rekey_cursor = 16,
			   .anchor = 17,
			   .opens = 18,
			   .unwraps = 19 };
	uint8_t block[SECTOR_BYTES] = { 0 }, *s = block + 0x60;
	struct root out;

	(void)state;
	root_encode_clear(block, &in, rig_uuid);
	root_encode_sealed(s, &in);
	assert_int_equal(block[0x10], 3);
	assert_memory_equal(block + 0x1C, "FGR1", 4);
	assert_int_equal(get_le64(block + 0x20), 1);
	assert_memory_equal(block + 0x28, rig_uuid, 16);
	assert_int_equal(get_le32(block + 0x38), 2);
	assert_int_equal(s[0x00], 1);
	assert_int_equal(s[0x08], 4);
	assert_int_equal(get_le64(s + 0x18), 5);
	assert_int_equal(get_le64(s + 0x20), 6);
	assert_int_equal(get_le64(s + 0x28), 7);
	assert_int_equal(s[0x30], 8);
	assert_int_equal(s[0x40], 9);
	assert_int_equal(s[0x60], 10);
	assert_int_equal(s[0x68], 11);
	assert_int_equal(s[0x88], 12);
	assert_int_equal(get_le32(s + 0xA8), 13);
	assert_int_equal(get_le32(s + 0xAC), 14);
	assert_int_equal(get_le64(s + 0xB0), 16);
	assert_int_equal(get_le32(s + 0xB8), 15);
	assert_int_equal(get_le64(s + 0xC0), 17);
	assert_int_equal(get_le64(s + 0xC8), 18);
	assert_int_equal(get_le64(s + 0xD0), 19);
	assert_false(root_decode_clear(&out, block, rig_uuid));
	block_checksum(block);
	assert_true(root_decode_clear(&out, block, rig_uuid));
	root_decode_sealed(&out, s);
	assert_memory_equal(&in, &out, sizeof in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_lie_with_a_right_checksum_is_refused),
		cmocka_unit_test(random_headers_do_no_harm),
		cmocka_unit_test(regions_never_overlap),
		cmocka_unit_test(one_tebibyte_is_as_computed_by_hand),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(the_log_is_a_thousandth_within_limits),
		cmocka_unit_test(header_bytes_are_where_the_format_says),
		cmocka_unit_test(a_header_comes_back_as_it_was),
		cmocka_unit_test(a_short_backing_is_named_to_the_byte),
		cmocka_unit_test(slot_bytes_are_where_the_format_says),
		cmocka_unit_test(node_bytes_are_where_the_format_says),
		cmocka_unit_test(root_bytes_are_where_the_format_says),
		cmocka_unit_test(crc32c_known_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
