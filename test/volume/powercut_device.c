/* The device that the power-cut proofs stand on: what a cut may leave, and what it may not. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "fakes/block_power.h"
#include "volume/layout.h"

enum { PAGES = 16 };

static struct block *dev;

static int make(void **state)
{
	(void)state;
	dev = power_new(PAGES * POWER_PAGE);
	return 0;
}

static int end(void **state)
{
	(void)state;
	dev->ops->close(dev);
	return 0;
}

static void put(uint64_t page, uint8_t value, bool fua)
{
	uint8_t bytes[POWER_PAGE];

	memset(bytes, value, sizeof bytes);
	assert_int_equal((fua ? dev->ops->write_fua : dev->ops->write)(dev, bytes, sizeof bytes, page * POWER_PAGE), 0);
}

static uint8_t get(struct block *b, uint64_t page)
{
	uint8_t bytes[POWER_PAGE];

	assert_int_equal(b->ops->read(b, bytes, sizeof bytes, page * POWER_PAGE), 0);
	assert_memory_equal(bytes, bytes + 1, sizeof bytes - 1);
	return bytes[0];
}

/* A cursor at event i, and what page 3 is on an image with these choices. */
static uint8_t page_after_cut(size_t event, const bool *keep, size_t expect_pending, uint64_t page)
{
	struct power_cursor *c = power_cursor_new(dev);
	struct block *image = power_image_new(dev);
	uint8_t value;

	while (power_cursor_at(c) < event)
		assert_true(power_cursor_next(c));
	assert_int_equal(power_pending(c), expect_pending);
	power_cut(image, c, keep);
	value = get(image, page);
	power_cursor_free(c);
	image->ops->close(image);
	return value;
}

static void a_write_is_lost_or_kept_until_a_flush_is_done(void **state)
{
	(void)state;
	put(3, 1, false);
	power_record(dev);
	put(3, 2, false);
	put(3, 4, false);
	assert_int_equal(dev->ops->flush(dev), 0);
	assert_int_equal(page_after_cut(0, (bool[]){ false }, 1, 3), 1);
	assert_int_equal(page_after_cut(0, (bool[]){ true }, 1, 3), 2);
	assert_int_equal(page_after_cut(1, (bool[]){ true, false }, 2, 3), 2);
	assert_int_equal(page_after_cut(1, (bool[]){ false, true }, 2, 3), 4);
	assert_int_equal(page_after_cut(1, (bool[]){ true, true }, 2, 3), 4);
	assert_int_equal(page_after_cut(2, (bool[]){ false, false }, 2, 3), 1); /* the flush is in flight */
	assert_int_equal(page_after_cut(3, NULL, 0, 3), 4);
}

static void fua_is_for_its_own_pages_alone(void **state)
{
	(void)state;
	power_record(dev);
	put(3, 1, false);
	put(4, 2, false);
	put(3, 3, true);
	assert_int_equal(page_after_cut(2, (bool[]){ true, false, false }, 3, 3), 1);
	assert_int_equal(page_after_cut(3, (bool[]){ false }, 1, 3), 3); /* done: only page 4 is open */
	assert_int_equal(page_after_cut(3, (bool[]){ false }, 1, 4), 0);
}

static void pages_of_one_write_are_lost_one_by_one(void **state)
{
	uint8_t bytes[3 * POWER_PAGE];

	(void)state;
	memset(bytes, 7, sizeof bytes);
	power_record(dev);
	assert_int_equal(dev->ops->write_fua(dev, bytes, sizeof bytes, 2 * POWER_PAGE), 0);
	assert_int_equal(page_after_cut(0, (bool[]){ true, false, true }, 3, 2), 7);
	assert_int_equal(page_after_cut(0, (bool[]){ true, false, true }, 3, 3), 0);
	assert_int_equal(page_after_cut(0, (bool[]){ true, false, true }, 3, 4), 7);
}

static void what_a_failed_flush_left_is_never_durable(void **state)
{
	(void)state;
	power_record(dev);
	put(3, 1, false);
	put(4, 1, false);
	power_fail(dev, (struct power_fault){ .kinds = 1 << POWER_FLUSH, .nth = 1, .error = ERR_IO });
	assert_int_equal(dev->ops->flush(dev), ERR_IO);
	put(4, 2, false);
	assert_int_equal(dev->ops->flush(dev), 0);
	assert_int_equal(page_after_cut(5, (bool[]){ false }, 1, 3), 0);
	assert_int_equal(page_after_cut(5, (bool[]){ false }, 1, 4), 2);
}

static void a_dead_program_leaves_the_cache(void **state)
{
	struct power_cursor *c, *later;
	struct block *image = power_image_new(dev), *second = power_image_new(dev);

	(void)state;
	power_record(dev);
	put(3, 1, false);
	put(4, 1, false);
	c = power_cursor_new(dev);
	while (power_cursor_next(c))
		;
	power_kill(image, c, (bool[]){ true, true });
	assert_int_equal(get(image, 3), 1);
	later = power_cursor_new(image);
	assert_int_equal(power_pending(later), 2);
	power_cut(second, later, (bool[]){ false, true });
	assert_int_equal(get(second, 3), 0);
	assert_int_equal(get(second, 4), 1);
	power_cursor_free(c);
	power_cursor_free(later);
	image->ops->close(image);
	second->ops->close(second);
}

static void an_image_does_not_touch_what_it_came_from(void **state)
{
	struct power_cursor *c;
	struct block *image = power_image_new(dev), *was = dev;

	(void)state;
	put(3, 1, false);
	power_record(dev);
	put(3, 2, false);
	c = power_cursor_new(dev);
	power_cut(image, c, (bool[]){ true });
	dev = image;
	put(3, 9, false);
	dev = was;
	assert_int_equal(get(dev, 3), 2);
	power_cut(image, c, (bool[]){ false });
	assert_int_equal(get(image, 3), 1);
	power_cursor_free(c);
	image->ops->close(image);
}

static void discards_leave_old_or_zeroes(void **state)
{
	(void)state;
	put(3, 5, false);
	power_discards(dev, 1);
	power_record(dev);
	assert_int_equal(dev->ops->discard(dev, POWER_PAGE, 3 * POWER_PAGE), 0);
	assert_int_equal(get(dev, 3), 0);
	assert_int_equal(page_after_cut(0, (bool[]){ false }, 1, 3), 5);
	assert_int_equal(page_after_cut(0, (bool[]){ true }, 1, 3), 0);
	power_discards(dev, 0);
	assert_int_equal(page_after_cut(0, (bool[]){ true }, 1, 3), 5);
}

static void a_cut_here_keeps_what_was_flushed(void **state)
{
	unsigned kept = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 200; seed++) {
		put(3, 1, false);
		assert_int_equal(dev->ops->flush(dev), 0);
		power_record(dev);
		put(3, 2, false);
		put(4, 3, true);
		power_cut_here(dev, seed * 977);
		assert_int_equal(get(dev, 4), 3);
		kept += get(dev, 3) == 2;
	}
	assert_in_range(kept, 50, 150);
}

/* The power-cut programs may link a quicker one than the engine's. */
static void crc32c_is_what_it_is_by_definition(void **state)
{
	uint8_t bytes[100];

	(void)state;
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(i * 37 + 11);
	for (size_t from = 0; from < 9; from++)
		for (size_t size = 0; size + from <= sizeof bytes; size++) {
			uint32_t crc = 0xFFFFFFFF;

			for (size_t bit = 0; bit < size * 8; bit++) {
				crc ^= bit % 8 == 0 ? bytes[from + bit / 8] : 0u;
				crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78 : 0);
			}
			assert_int_equal(crc32c(0, bytes + from, size), (uint32_t)~crc);
		}
	assert_int_equal(crc32c(crc32c(0, bytes, 13), bytes + 13, 80), crc32c(0, bytes, 93));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_write_is_lost_or_kept_until_a_flush_is_done, make, end),
		cmocka_unit_test_setup_teardown(fua_is_for_its_own_pages_alone, make, end),
		cmocka_unit_test_setup_teardown(pages_of_one_write_are_lost_one_by_one, make, end),
		cmocka_unit_test_setup_teardown(what_a_failed_flush_left_is_never_durable, make, end),
		cmocka_unit_test_setup_teardown(a_dead_program_leaves_the_cache, make, end),
		cmocka_unit_test_setup_teardown(an_image_does_not_touch_what_it_came_from, make, end),
		cmocka_unit_test_setup_teardown(discards_leave_old_or_zeroes, make, end),
		cmocka_unit_test(crc32c_is_what_it_is_by_definition),
		cmocka_unit_test_setup_teardown(a_cut_here_keeps_what_was_flushed, make, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
