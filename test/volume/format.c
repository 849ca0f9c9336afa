/* Making and opening: refusals with their reasons, cuts at every write of a format, large geometries, sessions, read-only. */
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "volume/layout.h"

#include "base/bytes.h"
#include "base/error.h"

static struct volume_format sample(uint64_t size)
{
	struct volume_format f = { .size = size,
				   .label = "rig",
				   .now = 5,
				   .slot = { .type = KEK_SLOT_AES_KW, .gen_no = 1, .wrapped_size = 56, .label = "kek" } };

	memcpy(f.uuid, rig_uuid, UUID_BYTES);
	return f;
}

static struct keyring *ring(void)
{
	uint8_t payload[DEK_PAYLOAD_BYTES], kcv[KCV_BYTES];

	rig_payload(payload, 0x11, rig_uuid, 1);
	return rig_ring(payload, rig_uuid, 1, kcv);
}

static void the_header_can_be_read_without_a_key(void **state)
{
	struct volume_header_info info;
	struct rig g;

	(void)state;
	rig_format(&g, 777 * SECTOR_BYTES);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), 0);
	assert_memory_equal(info.uuid, rig_uuid, UUID_BYTES);
	assert_int_equal(info.size, 777 * SECTOR_BYTES);
	assert_string_equal(info.label, "rig");
	assert_int_equal(info.created, 1700000000);
	assert_int_equal(info.active_gen, 1);
	assert_int_equal(info.slot_count, 1);
	assert_int_equal(info.slots[0].wrapped_size, 56);
	assert_int_equal(info.slots[0].id_size, 2);
	assert_string_equal(info.slots[0].token, "token");
	rig_free(&g);
}

static void what_is_not_a_volume_is_named(void **state)
{
	struct volume_header_info info;
	uint8_t zeroes[SECTOR_BYTES] = { 0 };
	struct block *small;
	struct rig g;

	(void)state;
	rig_format(&g, 777 * SECTOR_BYTES);
	block_memory_poke(g.dev, zeroes, sizeof zeroes, 0);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), 0);
	assert_string_equal(g.why, "header B only (header A: no FGV1 magic)");
	block_memory_poke(g.dev, zeroes, sizeof zeroes, g.dev->size - 65536);
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), ERR_FOREIGN);
	assert_string_equal(g.why, "no FGV1 magic");
	rig_free(&g);

	rig_format(&g, 777 * SECTOR_BYTES);
	g.dev->size -= 4096;
	assert_int_equal(volume_read_header(g.dev, &info, g.why, sizeof g.why), ERR_RANGE);
	assert_string_equal(g.why, "backing is 4096 bytes smaller than the header says");
	assert_int_equal(rig_open(&g), ERR_RANGE);
	g.dev->size += 8192;
	rig_kill(&g);
	rig_must_open(&g);
	rig_close(&g);
	rig_free(&g);

	small = block_memory_new(8192);
	assert_int_equal(volume_read_header(small, &info, g.why, sizeof g.why), ERR_FOREIGN);
	small->ops->close(small);
}

static void a_short_why_is_terminated(void **state)
{
	struct volume_header_info info;
	struct block *dev = block_memory_new(1 << 20);
	char why[5] = "xxxx";

	(void)state;
	assert_int_equal(volume_read_header(dev, &info, why, sizeof why), ERR_FOREIGN);
	assert_string_equal(why, "no F");
	dev->ops->close(dev);
}

static void a_backing_too_small_is_refused_before_anything_is_written(void **state)
{
	struct volume_format f = sample(1000 * SECTOR_BYTES);
	struct block *dev = block_memory_new(volume_backing_size(f.size) - 4096);
	struct keyring *k = ring();

	(void)state;
	assert_int_equal(volume_format(dev, k, &f), ERR_RANGE);
	f.size = 4095;
	assert_int_equal(volume_format(dev, k, &f), ERR_RANGE);
	f.size = 0;
	f.slot.wrapped_size = WRAPPED_MAX + 1;
	assert_int_equal(volume_format(dev, k, &f), ERR_RANGE);
	assert_int_equal(block_memory_calls(dev, MEMORY_WRITE), 0);
	f.slot.wrapped_size = 56;
	f.slot.gen_no = 2;
	assert_int_equal(volume_format(dev, k, &f), ERR_NOT_FOUND);
	keyring_destroy(k);
	dev->ops->close(dev);
}

/* Size 0: one sector more would not fit. */
static void as_much_as_fits(void **state)
{
	static const uint64_t sizes[] = { 5 << 20, 100 << 20, (300 << 20) + 4096 * 7, UINT64_C(3) << 40 };
	struct keyring *k = ring();

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct block *dev = block_memory_new(sizes[i]);
		struct volume_format f = sample(0);
		struct volume_header_info info;
		char why[96];

		assert_int_equal(volume_format(dev, k, &f), 0);
		assert_int_equal(volume_read_header(dev, &info, why, sizeof why), 0);
		assert_true(volume_backing_size(info.size) <= dev->size);
		assert_true(volume_backing_size(info.size + 4096) > dev->size);
		dev->ops->close(dev);
	}
	keyring_destroy(k);
}

/* After each write of the format: no volume at all, or a whole one. Also over an older volume. */
static void a_format_that_is_cut_leaves_no_volume(void **state)
{
	struct volume_format f = sample(1000 * SECTOR_BYTES);
	unsigned long none = 0, whole = 0;
	struct keyring *k = ring();

	(void)state;
	for (int older = 0; older < 2; older++)
		for (unsigned long n = 1;; n++) {
			struct block *dev = block_memory_new(volume_backing_size(f.size));
			struct volume_header_info info;
			struct volume *v;
			char why[128];
			int r;

			if (older)
				assert_int_equal(volume_format(dev, k, &f), 0);
			block_memory_fail(
				dev, (struct memory_fault){ .call = MEMORY_WRITE, .nth = n, .times = 1000, .error = ERR_IO });
			r = volume_format(dev, k, &f);
			block_memory_cut(dev, n);
			if (r == 0) {
				dev->ops->close(dev);
				break;
			}
			assert_int_equal(r, ERR_IO);
			block_memory_fail(dev, (struct memory_fault){ 0 });
			r = volume_read_header(dev, &info, why, sizeof why);
			if (r == 0 && volume_open(&v, dev, k, NULL, why, sizeof why) == 0) {
				whole++;
				assert_int_equal(volume_close(v), 0);
			} else {
				assert_true(r == ERR_FOREIGN || (older && n <= 4));
				none++;
			}
			dev->ops->close(dev);
		}
	assert_true(none > 5 && whole > 0);
	keyring_destroy(k);
}

/* --- very large -------------------------------------------------------------------------------------------------------- */

struct sum {
	uint64_t zero, data, calls;
};

static int add_up(void *context, uint64_t at, uint64_t size, bool zero)
{
	struct sum *s = context;

	(void)at;
	s->calls++;
	*(zero ? &s->zero : &s->data) += size;
	return 0;
}

static void eight_tebibytes_format_write_and_trim_at_once(void **state)
{
	uint64_t size = UINT64_C(8) << 40, began = rig_now_ns(), places[] = { 0, size / 2 - 5000, size / 3, size - 9000 };
	uint8_t data[9000], got[9000], blank[9000] = { 0 };
	struct sum sum = { 0 };
	struct rig g;

	(void)state;
	rig_make(&g, size);
	assert_int_equal(volume_size(g.volume), size);
	for (size_t i = 0; i < 4; i++) {
		rig_noise(data, sizeof data, i);
		assert_int_equal(volume_write(g.volume, data, sizeof data, places[i], false), 0);
	}
	rig_close(&g);
	rig_must_open(&g);
	for (size_t i = 0; i < 4; i++) {
		rig_noise(data, sizeof data, i);
		assert_int_equal(volume_read(g.volume, got, sizeof got, places[i]), 0);
		assert_memory_equal(got, data, sizeof got);
	}
	assert_int_equal(volume_extents(g.volume, size, 0, add_up, &sum), 0);
	assert_int_equal(sum.zero + sum.data, size);
	assert_int_equal(sum.data, 12 * SECTOR_BYTES);
	/* A ragged tebibyte, which covers the third place but not the others. */
	assert_int_equal(volume_zero(g.volume, UINT64_C(1) << 40, size / 3 - 12345, true, false), 0);
	assert_int_equal(volume_read(g.volume, got, sizeof got, places[2]), 0);
	assert_memory_equal(got, blank, sizeof got);
	assert_int_equal(volume_read(g.volume, got, sizeof got, places[1]), 0);
	rig_noise(data, sizeof data, 1);
	assert_memory_equal(got, data, sizeof got);
	assert_int_equal(volume_zero(g.volume, size, 0, true, true), 0);
	rig_close(&g);
	rig_must_open(&g);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(volume_read(g.volume, got, sizeof got, places[i]), 0);
		assert_memory_equal(got, blank, sizeof got);
	}
	sum = (struct sum){ 0 };
	assert_int_equal(volume_extents(g.volume, size, 0, add_up, &sum), 0);
	assert_int_equal(sum.zero, size);
	assert_int_equal(sum.calls, 1);
	rig_close(&g);
	rig_free(&g);
	assert_true(rig_now_ns() - began < UINT64_C(5000000000));
}

static void ranges_past_the_end_are_refused(void **state)
{
	uint64_t size = 1000 * SECTOR_BYTES;
	uint8_t data[10] = { 0 };
	struct sum sum = { 0 };
	struct rig g;

	(void)state;
	rig_make(&g, size);
	assert_int_equal(volume_read(g.volume, data, 10, size - 9), ERR_RANGE);
	assert_int_equal(volume_write(g.volume, data, 10, size - 9, false), ERR_RANGE);
	assert_int_equal(volume_write(g.volume, data, 10, UINT64_MAX - 4, false), ERR_RANGE);
	assert_int_equal(volume_zero(g.volume, UINT64_MAX, 1, false, false), ERR_RANGE);
	assert_int_equal(volume_zero(g.volume, size, 1, false, false), ERR_RANGE);
	assert_int_equal(volume_extents(g.volume, UINT64_MAX, 4096, add_up, &sum), ERR_RANGE);
	assert_int_equal(volume_read(g.volume, data, 0, size), 0);
	assert_int_equal(volume_write(g.volume, data, 10, size - 10, false), 0);
	rig_close(&g);
	rig_free(&g);
}

/* --- sessions ---------------------------------------------------------------------------------------------------------- */

static void a_pinned_size_that_differs_is_foreign(void **state)
{
	struct rig g;

	(void)state;
	rig_format(&g, 1000 * SECTOR_BYTES);
	g.options.expect_size = 1001 * SECTOR_BYTES;
	assert_int_equal(rig_open(&g), ERR_FOREIGN);
	rig_kill(&g);
	g.options.expect_size = 1000 * SECTOR_BYTES;
	rig_must_open(&g);
	rig_close(&g);
	rig_free(&g);
}

static void read_only_writes_nothing(void **state)
{
	uint8_t data[SECTOR_BYTES] = { 1 };
	unsigned long before;
	struct rig g;

	(void)state;
	rig_make(&g, 1000 * SECTOR_BYTES);
	assert_int_equal(volume_write(g.volume, data, sizeof data, 4096, false), 0);
	rig_close(&g);
	g.options.read_only = true;
	before = block_memory_calls(g.dev, MEMORY_WRITE);
	rig_must_open(&g);
	assert_int_equal(volume_write(g.volume, data, sizeof data, 0, false), ERR_DENIED);
	assert_int_equal(volume_zero(g.volume, sizeof data, 0, false, false), ERR_DENIED);
	assert_int_equal(volume_flush(g.volume), 0);
	assert_int_equal(volume_read(g.volume, data, sizeof data, 4096), 0);
	assert_int_equal(data[0], 1);
	rig_close(&g);
	assert_int_equal(block_memory_calls(g.dev, MEMORY_WRITE), before);
	rig_free(&g);
}

/* Newest root in ring A: sequence number and salt, both in the clear. */
static uint64_t newest(struct rig *g, uint8_t *salt)
{
	uint8_t block[SECTOR_BYTES];
	uint64_t best = 0;

	for (unsigned i = 0; i < 4; i++) {
		block_memory_peek(g->dev, block, sizeof block, 65536 + i * SECTOR_BYTES);
		if (get_le64(block + 0x20) > best) {
			best = get_le64(block + 0x20);
			memcpy(salt, block + 0x10, 12);
		}
	}
	return best;
}

static void every_open_has_its_own_salt_and_says_so_before_the_first_write(void **state)
{
	uint8_t salts[3][12];
	uint64_t seq[3];
	struct rig g;

	(void)state;
	rig_format(&g, 1000 * SECTOR_BYTES);
	for (unsigned i = 0; i < 3; i++) {
		rig_must_open(&g);
		seq[i] = newest(&g, salts[i]);
		assert_int_equal(block_memory_unflushed(g.dev), 0);
		rig_kill(&g);
	}
	assert_true(seq[0] < seq[1] && seq[1] < seq[2]);
	assert_memory_not_equal(salts[0], salts[1], 12);
	assert_memory_not_equal(salts[1], salts[2], 12);
	rig_free(&g);
}

static void a_flush_with_nothing_new_costs_nothing(void **state)
{
	uint8_t data[SECTOR_BYTES] = { 1 };
	unsigned long before;
	struct rig g;

	(void)state;
	rig_make(&g, 1000 * SECTOR_BYTES);
	assert_int_equal(volume_write(g.volume, data, sizeof data, 4096, true), 0);
	before = block_memory_calls(g.dev, MEMORY_FLUSH) + block_memory_calls(g.dev, MEMORY_WRITE);
	assert_int_equal(volume_flush(g.volume), 0);
	assert_int_equal(volume_zero(g.volume, 4096, 8192, false, true), 0);
	assert_int_equal(block_memory_calls(g.dev, MEMORY_FLUSH) + block_memory_calls(g.dev, MEMORY_WRITE), before);
	rig_close(&g);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_format_that_is_cut_leaves_no_volume),
		cmocka_unit_test(the_header_can_be_read_without_a_key),
		cmocka_unit_test(what_is_not_a_volume_is_named),
		cmocka_unit_test(a_short_why_is_terminated),
		cmocka_unit_test(a_backing_too_small_is_refused_before_anything_is_written),
		cmocka_unit_test(as_much_as_fits),
		cmocka_unit_test(eight_tebibytes_format_write_and_trim_at_once),
		cmocka_unit_test(ranges_past_the_end_are_refused),
		cmocka_unit_test(a_pinned_size_that_differs_is_foreign),
		cmocka_unit_test(read_only_writes_nothing),
		cmocka_unit_test(every_open_has_its_own_salt_and_says_so_before_the_first_write),
		cmocka_unit_test(a_flush_with_nothing_new_costs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
