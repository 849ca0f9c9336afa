/* The count that a volume's roots name, and a counter that nobody sets back: what each policy takes and refuses; and that no
 * power cut, at any write, with any choice of what survived, makes a volume that does not open, as long as the counter follows
 * what is durable. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "fakes/block_power.h"
#include "rig.h"

enum { SECTORS = 300, DATA = 20, RANDOM_CUTS = 4 };

static void make(struct rig *g)
{
	struct block *power;

	rig_format(g, SECTORS * (uint64_t)SECTOR_BYTES);
	power = power_copy(g->dev);
	g->dev->ops->close(g->dev);
	g->dev = power;
	g->options.stepped = true;
}

static int open_with(struct rig *g, enum volume_anchor policy, uint64_t count)
{
	g->options.anchor = policy;
	g->options.anchor_count = count;
	return rig_open(g);
}

/* Opened and closed; what its root names then. */
static uint64_t through(struct rig *g, enum volume_anchor policy, uint64_t count)
{
	uint64_t named;

	assert_int_equal(open_with(g, policy, count), 0);
	named = volume_anchor(g->volume);
	rig_close(g);
	return named;
}

static void refused(struct rig *g, enum volume_anchor policy, uint64_t count, const char *why)
{
	assert_int_equal(open_with(g, policy, count), ERR_CORRUPT);
	if (strstr(g->why, why) == NULL)
		fail_msg("'%s' does not say '%s'", g->why, why);
	rig_kill(g);
}

static void each_policy_takes_and_refuses(void **state)
{
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(through(&g, ANCHOR_NONE, 0), 0);
	assert_int_equal(through(&g, ANCHOR_IGNORE, 99), 0);
	refused(&g, ANCHOR_CHECK, 10, "rolled back"); /* a state from before it was bound */
	assert_int_equal(through(&g, ANCHOR_BIND, 10), 11);
	assert_int_equal(through(&g, ANCHOR_BIND, 10), 11); /* cut before the counter was stepped */
	refused(&g, ANCHOR_BIND, 20, "another counter");
	refused(&g, ANCHOR_NONE, 0, "anti_rollback");
	assert_int_equal(through(&g, ANCHOR_CHECK, 10), 11);
	assert_int_equal(through(&g, ANCHOR_CHECK, 11), 12);
	refused(&g, ANCHOR_CHECK, 13, "rolled back");
	refused(&g, ANCHOR_CHECK, 10, "ahead");
	assert_int_equal(through(&g, ANCHOR_IGNORE, 0), 12); /* and the count is kept */
	assert_int_equal(through(&g, ANCHOR_CHECK, 12), 13);
	assert_int_equal(through(&g, ANCHOR_ACCEPT, 40), 41);
	assert_int_equal(through(&g, ANCHOR_CHECK, 41), 42);
	rig_free(&g);
}

static void a_reader_changes_nothing(void **state)
{
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(through(&g, ANCHOR_BIND, 5), 6);
	g.options.read_only = true;
	assert_int_equal(through(&g, ANCHOR_CHECK, 6), 6);
	refused(&g, ANCHOR_CHECK, 7, "rolled back");
	rig_free(&g);
}

static void it_is_named_when_it_is_durable(void **state)
{
	struct rig g;

	(void)state;
	make(&g);
	assert_int_equal(open_with(&g, ANCHOR_BIND, 5), 0);
	volume_raise_anchor(g.volume, 7);
	assert_int_equal(volume_anchor(g.volume), 6);
	volume_raise_anchor(g.volume, 3); /* never down */
	rig_close(&g);
	assert_int_equal(open_with(&g, ANCHOR_CHECK, 7), 0);
	assert_int_equal(volume_anchor(g.volume), 8);
	rig_free(&g);
	/* by the volume's own thread */
	make(&g);
	g.options.stepped = false;
	assert_int_equal(open_with(&g, ANCHOR_BIND, 5), 0);
	volume_raise_anchor(g.volume, 7);
	for (int i = 0; i < 3000 && volume_anchor(g.volume) != 7; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	assert_int_equal(volume_anchor(g.volume), 7);
	rig_kill(&g);
	assert_int_equal(through(&g, ANCHOR_CHECK, 7), 8);
	rig_free(&g);
}

/* The counter follows: stepped when the volume says that it is named, marked in the record when it was. */
static void live(struct rig *g)
{
	uint8_t data[SECTOR_BYTES];

	power_record(g->dev);
	power_mark(g->dev, 5);
	assert_int_equal(open_with(g, ANCHOR_BIND, 5), 0);
	power_mark(g->dev, volume_anchor(g->volume));
	for (uint64_t lba = 0; lba < DATA; lba++) {
		rig_noise(data, sizeof data, lba);
		assert_int_equal(volume_write(g->volume, data, sizeof data, lba * SECTOR_BYTES, lba % 3 == 0), 0);
		if (lba % 5 == 4) {
			volume_raise_anchor(g->volume, volume_anchor(g->volume) + 1);
			assert_int_equal(volume_flush(g->volume), 0);
			assert_int_equal(volume_step(g->volume), 0);
			power_mark(g->dev, volume_anchor(g->volume));
		}
	}
	rig_close(g);
	power_mark(g->dev, 0);
}

static void no_cut_keeps_it_shut(void **state)
{
	struct power_cursor *c;
	struct block *image;
	uint64_t dice = 77, counter = 5;
	unsigned points = 0, ahead = 0;
	struct rig g, cut;
	bool *keep;

	(void)state;
	make(&g);
	live(&g);
	c = power_cursor_new(g.dev);
	image = power_image_new(g.dev);
	keep = calloc(100000, sizeof *keep);
	do {
		size_t pending = power_pending(c), at = power_cursor_at(c);

		if (at > 0 && power_event(g.dev, at - 1)->kind == POWER_MARK && power_event(g.dev, at - 1)->mark != 0)
			counter = power_event(g.dev, at - 1)->mark;
		for (unsigned i = 0; i < 2 + RANDOM_CUTS; i++) {
			for (size_t k = 0; k < pending; k++)
				keep[k] = i < 2 ? i == 1 : rig_random(&dice) % 2 == 0;
			power_cut(image, c, keep);
			cut = g;
			cut.dev = image;
			cut.volume = NULL;
			if (open_with(&cut, counter == 5 ? ANCHOR_BIND : ANCHOR_CHECK, counter) != 0)
				fail_msg("cut at %zu, counter %llu: %s", at, (unsigned long long)counter, cut.why);
			assert_int_equal(volume_anchor(cut.volume), counter + 1);
			rig_kill(&cut);
			/* once more, the counter not stepped: the cut came in the opening */
			assert_int_equal(open_with(&cut, counter == 5 ? ANCHOR_BIND : ANCHOR_CHECK, counter), 0);
			rig_kill(&cut);
			/* and once the counter is two further, this is the past */
			refused(&cut, ANCHOR_CHECK, counter + 2, "rolled back");
			points++;
			ahead += counter > 5;
		}
	} while (power_cursor_next(c));
	print_message("%u cuts, %u of them after the first step\n", points, ahead);
	assert_true(points > 100 && ahead > 50 && counter > 8);
	free(keep);
	power_cursor_free(c);
	image->ops->close(image);
	rig_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_policy_takes_and_refuses),
		cmocka_unit_test(a_reader_changes_nothing),
		cmocka_unit_test(it_is_named_when_it_is_durable),
		cmocka_unit_test(no_cut_keeps_it_shut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
