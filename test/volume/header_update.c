/* New KEK slots while the volume serves: power cut at each write, with each choice of what survived; I/O errors at each call; the
 * old header put back. */
#include <stdlib.h>
#include <string.h>

#include "fakes/block_power.h"
#include "rig.h"
#include "volume/layout.h"

#include "base/error.h"

enum { SECTORS = 300, DATA = 40, RANDOM_CUTS = 6 };

static struct kek_slot slots[2];
static uint8_t old_header[HEADER_BYTES];

static void make_slots(void)
{
	memset(slots, 0, sizeof slots);
	for (unsigned i = 0; i < 2; i++) {
		slots[i].type = KEK_SLOT_AES_KW;
		slots[i].gen_no = 1;
		slots[i].wrapped_size = 56;
		memset(slots[i].wrapped, 0xA0 + (int)i, 56);
		memset(slots[i].fingerprint, 0xB0 + (int)i, sizeof slots[i].fingerprint);
	}
}

/* A formatted volume with some data on a device that can lose power, open. */
static void make(struct rig *g)
{
	uint8_t data[SECTOR_BYTES];
	struct block *power;

	make_slots();
	rig_format(g, SECTORS * (uint64_t)SECTOR_BYTES);
	power = power_copy(g->dev);
	g->dev->ops->close(g->dev);
	g->dev = power;
	g->options.stepped = true;
	rig_must_open(g);
	for (uint64_t lba = 0; lba < DATA; lba++) {
		rig_noise(data, sizeof data, lba);
		assert_int_equal(volume_write(g->volume, data, sizeof data, lba * SECTOR_BYTES, false), 0);
	}
	assert_int_equal(volume_flush(g->volume), 0);
	power_record(g->dev);
	power_peek(g->dev, old_header, sizeof old_header, 0);
}

static bool has_new_slots(struct volume *v)
{
	struct volume_header_info *info = malloc(sizeof *info);
	bool fresh;

	volume_header(v, info);
	fresh = info->slot_count == 2;
	assert_int_equal(info->header_seq, fresh ? 2 : 1);
	if (fresh)
		assert_memory_equal(info->slots[1].wrapped, slots[1].wrapped, 56);
	else
		assert_int_equal(info->slot_count, 1);
	free(info);
	return fresh;
}

/* Opens what a cut left: the data is there, and the header is one of the two. Which one must not change any more. */
static bool opens(struct rig *like, struct block *dev, uint64_t seed)
{
	uint8_t got[SECTOR_BYTES], want[SECTOR_BYTES];
	struct rig g = *like;
	bool fresh = false;

	g.dev = dev;
	g.volume = NULL;
	for (unsigned round = 0; round < 2; round++) {
		rig_must_open(&g);
		if (round == 0)
			fresh = has_new_slots(g.volume);
		assert_int_equal(has_new_slots(g.volume), fresh);
		for (uint64_t lba = 0; lba < DATA; lba += 13) {
			rig_noise(want, sizeof want, lba);
			assert_int_equal(volume_read(g.volume, got, sizeof got, lba * SECTOR_BYTES), 0);
			assert_memory_equal(got, want, sizeof got);
		}
		rig_kill(&g);
		power_cut_here(dev, seed);
	}
	if (fresh) {
		for (unsigned c = 0; c < 2; c++)
			assert_int_equal(dev->ops->write(dev, old_header, HEADER_BYTES, c == 0 ? 0 : dev->size - HEADER_BYTES),
					 0);
		assert_int_equal(rig_open(&g), ERR_CORRUPT);
		rig_kill(&g);
	}
	return fresh;
}

static unsigned cuts_at(struct rig *g, struct block *image, const struct power_cursor *c, uint64_t *dice, bool done)
{
	size_t pending = power_pending(c);
	bool *keep = calloc(pending + 1, sizeof *keep);
	unsigned fresh = 0, cuts = (unsigned)(2 + 2 * pending + RANDOM_CUTS);

	for (unsigned cut = 0; cut < cuts; cut++) {
		for (size_t i = 0; i < pending; i++) {
			if (cut < 2)
				keep[i] = cut == 1; /* none, all */
			else if (cut < 2 + 2 * pending)
				keep[i] = (i == (cut - 2) / 2) == (cut % 2 == 0); /* one alone, all but one */
			else
				keep[i] = rig_random(dice) % 2 == 0;
		}
		power_cut(image, c, keep);
		fresh += opens(g, image, rig_random(dice));
		if (done)
			assert_int_equal(fresh, cut + 1);
	}
	free(keep);
	return fresh;
}

static void a_cut_leaves_the_old_header_or_the_new_one(void **state)
{
	struct power_cursor *c;
	struct block *image;
	unsigned fresh = 0, points = 0;
	uint64_t dice = 4711;
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(volume_set_slots(g.volume, slots, 2), 0);
	assert_true(has_new_slots(g.volume));
	rig_kill(&g);
	c = power_cursor_new(g.dev);
	image = power_image_new(g.dev);
	do {
		bool done = power_cursor_at(c) == power_events(g.dev);
		unsigned now = cuts_at(&g, image, c, &dice, done);

		fresh += now;
		points++;
		if (power_cursor_at(c) == 0)
			assert_int_equal(now, 0);
	} while (power_cursor_next(c));
	print_message("%u points, %u openings with the new header\n", points, fresh);
	assert_true(points > 8 && fresh > 20);
	power_cursor_free(c);
	image->ops->close(image);
	rig_free(&g);
}

static void an_error_leaves_one_of_them_too(void **state)
{
	static const unsigned kinds[] = { 1u << POWER_WRITE | 1u << POWER_FUA, 1u << POWER_FLUSH, 1u << POWER_READ };

	(void)state;
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
		for (unsigned long nth = 1;; nth++) {
			struct rig g;
			int r;

			make(&g);
			power_fail(g.dev,
				   (struct power_fault){ .kinds = kinds[k], .nth = nth, .error = ERR_IO, .pages_done = 5 });
			r = volume_set_slots(g.volume, slots, 2);
			if (power_failed(g.dev) == 0) {
				assert_int_equal(r, 0);
				rig_free(&g);
				assert_true(nth > 2);
				break;
			}
			power_fail(g.dev, (struct power_fault){ 0 });
			if (r != 0 && kinds[k] != 1u << POWER_READ)
				assert_int_equal(volume_set_slots(g.volume, slots, 2), ERR_FAILSTOP);
			rig_kill(&g);
			(void)opens(&g, g.dev, nth);
			rig_free(&g);
		}
}

static void the_old_header_opens_nothing_any_more(void **state)
{
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(volume_set_slots(g.volume, slots, 2), 0);
	rig_close(&g);
	rig_must_open(&g);
	assert_true(has_new_slots(g.volume));
	rig_close(&g);
	assert_int_equal(g.dev->ops->write(g.dev, old_header, HEADER_BYTES, 0), 0);
	assert_int_equal(g.dev->ops->write(g.dev, old_header, HEADER_BYTES, g.dev->size - HEADER_BYTES), 0);
	assert_int_equal(rig_open(&g), ERR_CORRUPT);
	rig_free(&g);
}

/* Copy A is written first: a B that has gone bad meanwhile is mended before. */
static void a_bad_copy_is_mended_first(void **state)
{
	uint8_t blank[SECTOR_BYTES] = { 0 };
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(g.dev->ops->write(g.dev, blank, sizeof blank, g.dev->size - HEADER_BYTES), 0);
	power_fail(g.dev, (struct power_fault){ .kinds = 1u << POWER_WRITE, .nth = 2, .error = ERR_IO, .pages_done = 3 });
	assert_int_not_equal(volume_set_slots(g.volume, slots, 2), 0);
	assert_int_equal(power_failed(g.dev), 1);
	power_fail(g.dev, (struct power_fault){ 0 });
	rig_kill(&g);
	assert_false(opens(&g, g.dev, 1));
	rig_free(&g);
	make(&g);
	for (unsigned c = 0; c < 2; c++)
		assert_int_equal(g.dev->ops->write(g.dev, blank, sizeof blank, c == 0 ? 0 : g.dev->size - HEADER_BYTES), 0);
	assert_int_equal(volume_set_slots(g.volume, slots, 2), ERR_CORRUPT);
	rig_free(&g);
}

static void impossible_slots_and_moments_are_refused(void **state)
{
	struct kek_slot bad;
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(volume_set_slots(g.volume, slots, 0), ERR_RANGE);
	assert_int_equal(volume_set_slots(g.volume, slots, KEK_SLOTS + 1), ERR_RANGE);
	bad = slots[0];
	bad.wrapped_size = WRAPPED_MAX + 1;
	assert_int_equal(volume_set_slots(g.volume, &bad, 1), ERR_RANGE);
	bad = slots[0];
	bad.gen_no = 2;
	assert_int_equal(volume_set_slots(g.volume, &bad, 1), ERR_RANGE);
	rig_close(&g);
	g.options.read_only = true;
	rig_must_open(&g);
	assert_int_equal(volume_set_slots(g.volume, slots, 2), ERR_DENIED);
	rig_close(&g);
	g.options.read_only = false;
	rig_must_open(&g);
	keyring_wipe(g.keys);
	assert_int_equal(volume_set_slots(g.volume, slots, 2), ERR_REVOKED);
	rig_kill(&g);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cut_leaves_the_old_header_or_the_new_one), cmocka_unit_test(an_error_leaves_one_of_them_too),
		cmocka_unit_test(the_old_header_opens_nothing_any_more),      cmocka_unit_test(a_bad_copy_is_mended_first),
		cmocka_unit_test(impossible_slots_and_moments_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
