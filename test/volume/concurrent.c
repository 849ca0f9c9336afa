/* Threads that fight over the same bytes: overlapping requests take turns, whole ones never mix, and flushes, zeroings and a tiny
 * cache in between change nothing. FALLGATE_TEST_OPS = how many per thread. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rig.h"
#include "volume/engine.h"

enum { THREADS = 6, BLOCKS = 12, BLOCK = 5 * SECTOR_BYTES + 700, SPREAD = 130 * SECTOR_BYTES + 333 };

struct fighter {
	pthread_t thread;
	struct volume *volume;
	unsigned long operations;
	uint64_t random;
	uint8_t buffer[BLOCK];
	unsigned long torn, failed;
};

static int count_extent(void *context, uint64_t at, uint64_t size, bool zero)
{
	uint64_t *sum = context;

	(void)at;
	(void)zero;
	*sum += size;
	return 0;
}

static void act(struct fighter *f)
{
	uint64_t what = rig_random(&f->random) % 100;
	uint64_t at = rig_random(&f->random) % BLOCKS * SPREAD, sum = 0;
	int r = 0;

	if (what < 45) {
		memset(f->buffer, (int)(1 + rig_random(&f->random) % 255), BLOCK);
		r = volume_write(f->volume, f->buffer, BLOCK, at, what == 0);
	} else if (what < 50) {
		r = volume_zero(f->volume, BLOCK, at, true, false);
	} else if (what < 94) {
		r = volume_read(f->volume, f->buffer, BLOCK, at);
		f->torn += r == 0 && memcmp(f->buffer, f->buffer + 1, BLOCK - 1) != 0;
	} else if (what < 97) {
		r = volume_extents(f->volume, volume_size(f->volume), 0, count_extent, &sum);
		f->torn += r == 0 && sum != volume_size(f->volume);
	} else {
		r = volume_flush(f->volume);
	}
	f->failed += r != 0;
}

static void *fight(void *argument)
{
	struct fighter *f = argument;

	for (unsigned long i = 0; i < f->operations; i++)
		act(f);
	return NULL;
}

static void requests_never_mix(void **state)
{
	static struct fighter fighters[THREADS];
	struct volume_stats stats;
	struct rig g;

	(void)state;
	rig_format(&g, 20000 * (uint64_t)SECTOR_BYTES);
	g.options.cache_nodes = 64;
	g.options.dirty_nodes_max = 64;
	rig_must_open(&g);
	for (unsigned i = 0; i < THREADS; i++) {
		fighters[i].volume = g.volume;
		fighters[i].operations = rig_count("FALLGATE_TEST_OPS", 1500);
		fighters[i].random = 31 + i;
		pthread_create(&fighters[i].thread, NULL, fight, &fighters[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(fighters[i].thread, NULL);
		assert_int_equal(fighters[i].torn, 0);
		assert_int_equal(fighters[i].failed, 0);
	}
	volume_stats(g.volume, &stats);
	assert_int_equal(stats.bad_tags, 0);
	rig_close(&g);
	rig_must_open(&g);
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint8_t got[BLOCK];

		assert_int_equal(volume_read(g.volume, got, BLOCK, i * (uint64_t)SPREAD), 0);
		assert_memory_equal(got, got + 1, BLOCK - 1);
	}
	rig_close(&g);
	rig_free(&g);
}

/* Flushes from many threads at once are one commit and one flush, not one each after the last write. */
static void *only_flush(void *argument)
{
	struct fighter *f = argument;

	f->failed += volume_flush(f->volume) != 0;
	return NULL;
}

static void concurrent_flushes_share_one_of_the_device(void **state)
{
	static struct fighter fighters[THREADS];
	uint8_t data[SECTOR_BYTES] = { 1 };
	unsigned long before, after;
	struct rig g;

	(void)state;
	rig_format(&g, 1000 * (uint64_t)SECTOR_BYTES);
	g.options.stepped = true;
	rig_must_open(&g);
	assert_int_equal(volume_write(g.volume, data, sizeof data, 0, false), 0);
	before = block_memory_calls(g.dev, MEMORY_FLUSH);
	for (unsigned i = 0; i < THREADS; i++) {
		fighters[i] = (struct fighter){ .volume = g.volume };
		pthread_create(&fighters[i].thread, NULL, only_flush, &fighters[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(fighters[i].thread, NULL);
		assert_int_equal(fighters[i].failed, 0);
	}
	after = block_memory_calls(g.dev, MEMORY_FLUSH);
	assert_int_equal(after - before, 2); /* the log block, where the device has no write that is durable at once; the data */
	rig_close(&g);
	rig_free(&g);
}

/* --- cuts under threads ------------------------------------------------------------------------------------------------ */

enum { REGION = 400, LONGEST = 60 };

/* A thread that writes its own sectors in ever newer versions. What is flushed is known before it is said, what is tried after.
 */
struct scribe {
	pthread_t thread;
	struct volume *volume;
	uint64_t first, random;
	_Atomic uint32_t tried[REGION], flushed[REGION];
	uint32_t accepted[REGION], version;
	atomic_bool *stop;
	uint8_t buffer[LONGEST * SECTOR_BYTES];
	unsigned long failed;
};

static void scribble(struct scribe *s)
{
	unsigned count = 1 + (unsigned)(rig_random(&s->random) % LONGEST);
	unsigned from = (unsigned)(rig_random(&s->random) % (REGION - count + 1));

	s->version++;
	for (unsigned i = 0; i < count; i++) {
		rig_noise(s->buffer + i * (size_t)SECTOR_BYTES, SECTOR_BYTES, (s->first + from + i) << 32 ^ s->version);
		atomic_store(&s->tried[from + i], s->version);
	}
	s->failed +=
		volume_write(s->volume, s->buffer, count * (size_t)SECTOR_BYTES, (s->first + from) * SECTOR_BYTES, false) != 0;
	for (unsigned i = 0; i < count; i++)
		s->accepted[from + i] = s->version;
}

static void *scribe_run(void *argument)
{
	struct scribe *s = argument;

	while (!atomic_load(s->stop)) {
		scribble(s);
		if (rig_random(&s->random) % 12 != 0)
			continue;
		s->failed += volume_flush(s->volume) != 0;
		for (unsigned i = 0; i < REGION; i++)
			atomic_store(&s->flushed[i], s->accepted[i]);
	}
	return NULL;
}

/* Sector i is some version from `least` on that was tried. */
static void check_sector(struct rig *g, struct scribe *s, unsigned i, uint32_t least, uint32_t most)
{
	uint8_t got[SECTOR_BYTES], expect[SECTOR_BYTES];
	bool found = false;

	assert_int_equal(volume_read(g->volume, got, sizeof got, (s->first + i) * SECTOR_BYTES), 0);
	for (uint32_t v = least; v <= most && !found; v++) {
		if (v == 0)
			memset(expect, 0, sizeof expect);
		else
			rig_noise(expect, sizeof expect, (s->first + i) << 32 ^ v);
		found = memcmp(got, expect, sizeof got) == 0;
	}
	assert_true(found);
}

static void one_cut(struct rig *g, struct scribe *scribes, uint64_t seed)
{
	static uint32_t flushed[THREADS][REGION], tried[THREADS][REGION];
	struct rig after = *g;
	struct volume_stats stats;

	for (unsigned t = 0; t < THREADS; t++)
		for (unsigned i = 0; i < REGION; i++)
			flushed[t][i] = atomic_load(&scribes[t].flushed[i]);
	after.dev = block_memory_copy_cut(g->dev, seed);
	for (unsigned t = 0; t < THREADS; t++)
		for (unsigned i = 0; i < REGION; i++)
			tried[t][i] = atomic_load(&scribes[t].tried[i]);
	rig_must_open(&after);
	volume_stats(after.volume, &stats);
	assert_int_equal(stats.lost, 0);
	for (unsigned t = 0; t < THREADS; t++)
		for (unsigned i = 0; i < REGION; i++)
			check_sector(&after, &scribes[t], i, flushed[t][i], tried[t][i]);
	rig_close(&after);
	rig_free(&after);
}

static void a_cut_at_any_moment_costs_nothing_that_was_flushed(void **state)
{
	struct scribe *scribes = calloc(THREADS, sizeof *scribes);
	unsigned long cuts = rig_count("FALLGATE_TEST_CUTS", 40);
	atomic_bool stop = false;
	uint64_t random = 4711;
	struct rig g;

	(void)state;
	rig_format(&g, THREADS * REGION * (uint64_t)SECTOR_BYTES);
	g.options.held_max = 512 * SECTOR_BYTES;
	g.options.pending_max = 3000;
	rig_must_open(&g);
	for (unsigned i = 0; i < THREADS; i++) {
		scribes[i].volume = g.volume;
		scribes[i].first = i * REGION;
		scribes[i].random = 99 + i;
		scribes[i].stop = &stop;
		pthread_create(&scribes[i].thread, NULL, scribe_run, &scribes[i]);
	}
	for (unsigned long i = 0; i < cuts; i++)
		one_cut(&g, scribes, i % 5 == 0 ? 0 : rig_random(&random) | 1);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(scribes[i].thread, NULL);
		assert_int_equal(scribes[i].failed, 0);
	}
	rig_close(&g);
	rig_free(&g);
	free(scribes);
}

/* --- reads without a lock ---------------------------------------------------------------------------------------------- */

enum { WIDE = 20000, STAMPED = 40 };

/* Neighbouring versions of all sectors of a leaf are written while others read there, and leaves leave the cache and come back.
 */
static void *read_and_rewrite(void *argument)
{
	struct fighter *f = argument;
	uint64_t words[3 * SECTOR_BYTES / 8];

	for (unsigned long i = 0; i < f->operations; i++) {
		uint64_t draw = rig_random(&f->random), leaf = draw % 4 == 0 ? draw / 8 % (WIDE / 100) : draw / 8 % 4;
		uint64_t lba = leaf * 100 + (draw >> 40) % 98;
		bool write = draw % 3 == 0;

		for (size_t k = 0; write && k < sizeof words / 8; k++)
			words[k] = lba + k / (SECTOR_BYTES / 8);
		f->failed += (write ? volume_write(f->volume, words, sizeof words, lba * SECTOR_BYTES, false)
				    : volume_read(f->volume, words, sizeof words, lba * SECTOR_BYTES)) != 0;
		for (size_t k = 0; !write && k < sizeof words / 8; k++)
			f->torn += words[k] != 0 && words[k] != lba + k / (SECTOR_BYTES / 8);
	}
	return NULL;
}

static void slots_are_whole_whoever_changes_them(void **state)
{
	static struct fighter fighters[THREADS];
	struct volume_stats stats;
	struct rig g;

	(void)state;
	rig_format(&g, WIDE * (uint64_t)SECTOR_BYTES);
	g.options.cache_nodes = 64;
	g.options.dirty_nodes_max = 64;
	g.options.held_max = 512 * SECTOR_BYTES;
	rig_must_open(&g);
	for (unsigned i = 0; i < THREADS; i++) {
		fighters[i] = (struct fighter){ .volume = g.volume,
						.operations = rig_count("FALLGATE_TEST_OPS", 6000),
						.random = 5 + i };
		pthread_create(&fighters[i].thread, NULL, read_and_rewrite, &fighters[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(fighters[i].thread, NULL);
		assert_int_equal(fighters[i].failed, 0);
		assert_int_equal(fighters[i].torn, 0);
	}
	volume_stats(g.volume, &stats);
	assert_int_equal(stats.bad_tags, 0);
	rig_close(&g);
	rig_free(&g);
}

/* Directly, with nothing that keeps slot and reader apart: what a peek says is one of the slots that were put there. */
struct peeker {
	struct tree *tree;
	atomic_bool stop;
	atomic_ulong seen;
	unsigned long torn;
};

static void pattern(struct slot *s, uint64_t n)
{
	memset(s, (int)(1 + n % 250), sizeof *s);
	s->state = SLOT_SEALED;
}

static void *peek(void *argument)
{
	struct peeker *p = argument;
	struct slot got, expected;

	while (!atomic_load(&p->stop)) {
		if (!tree_peek(p->tree, 1, 7, 1, &got))
			continue;
		p->seen++;
		pattern(&expected, got.tag[0] - 1u);
		p->torn += !slot_same(&got, &expected);
	}
	return NULL;
}

static void a_peek_is_whole_or_says_nothing(void **state)
{
	struct peeker p = { .seen = 0 };
	struct slot kept, s;
	pthread_t thread;
	struct node *leaf;
	unsigned unused;
	struct rig g;

	(void)state;
	rig_make(&g, 300 * (uint64_t)SECTOR_BYTES);
	p.tree = &g.volume->tree;
	pthread_mutex_lock(&p.tree->lock);
	assert_int_equal(tree_pin(p.tree, 1, 1, true, &leaf, &unused), 0);
	tree_get(leaf, 7, &kept);
	pattern(&s, 0);
	tree_put(leaf, 7, &s);
	pthread_create(&thread, NULL, peek, &p);
	for (uint64_t n = 0; n < 2000000 || p.seen < 1000000; n++) {
		pattern(&s, n);
		tree_put(leaf, 7, &s);
	}
	atomic_store(&p.stop, true);
	pthread_join(thread, NULL);
	tree_put(leaf, 7, &kept);
	tree_unpin(p.tree, leaf);
	pthread_mutex_unlock(&p.tree->lock);
	assert_int_equal(p.torn, 0);
	rig_close(&g);
	rig_free(&g);
}

/* Readers share, a writer is alone: over one range, by all threads at once. */
static struct {
	struct range_lock lock;
	atomic_int readers, writers;
	atomic_ulong wrong;
} guarded;

static void *enter_and_leave(void *argument)
{
	struct fighter *f = argument;

	for (unsigned long i = 0; i < f->operations; i++) {
		bool alone = rig_random(&f->random) % 8 == 0;
		atomic_int *mine = alone ? &guarded.writers : &guarded.readers;
		struct range r;

		f->failed += range_enter(&guarded.lock, &r, 5 + i % 3, 4, alone) != 0;
		atomic_fetch_add(mine, 1);
		guarded.wrong += alone ? guarded.readers != 0 || guarded.writers != 1 : guarded.writers != 0;
		atomic_fetch_sub(mine, 1);
		range_leave(&guarded.lock, &r);
	}
	return NULL;
}

static void readers_share_a_range_and_a_writer_is_alone(void **state)
{
	static struct fighter fighters[THREADS];

	(void)state;
	range_init(&guarded.lock);
	for (unsigned i = 0; i < THREADS; i++) {
		fighters[i] = (struct fighter){ .operations = rig_count("FALLGATE_TEST_OPS", 100000), .random = 11 + i };
		pthread_create(&fighters[i].thread, NULL, enter_and_leave, &fighters[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(fighters[i].thread, NULL);
		assert_int_equal(fighters[i].failed, 0);
	}
	assert_int_equal(guarded.wrong, 0);
	range_destroy(&guarded.lock);
}

struct reader {
	struct volume *volume;
	uint8_t data[STAMPED * SECTOR_BYTES];
	int result;
};

static void *read_once(void *argument)
{
	struct reader *r = argument;

	r->result = volume_read(r->volume, r->data, sizeof r->data, 80 * SECTOR_BYTES);
	return NULL;
}

/* Sectors of two cached leaves, nothing held: read while somebody else has both of the volume's locks, for ever. */
static void a_read_of_what_is_cached_waits_for_no_lock(void **state)
{
	struct reader *r = calloc(1, sizeof *r);
	struct timespec until;
	pthread_t thread;
	struct rig g;
	int late;

	(void)state;
	rig_make(&g, 300 * (uint64_t)SECTOR_BYTES);
	r->volume = g.volume;
	rig_noise(r->data, sizeof r->data, 3);
	assert_int_equal(volume_write(g.volume, r->data, sizeof r->data, 80 * SECTOR_BYTES, true), 0);
	pthread_mutex_lock(&g.volume->tree.lock);
	pthread_mutex_lock(&g.volume->ranges.lock);
	pthread_create(&thread, NULL, read_once, r);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	late = pthread_timedjoin_np(thread, NULL, &until);
	pthread_mutex_unlock(&g.volume->ranges.lock);
	pthread_mutex_unlock(&g.volume->tree.lock);
	assert_int_equal(late, 0);
	assert_int_equal(r->result, 0);
	rig_close(&g);
	rig_free(&g);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_never_mix),
		cmocka_unit_test(concurrent_flushes_share_one_of_the_device),
		cmocka_unit_test(a_cut_at_any_moment_costs_nothing_that_was_flushed),
		cmocka_unit_test(slots_are_whole_whoever_changes_them),
		cmocka_unit_test(a_peek_is_whole_or_says_nothing),
		cmocka_unit_test(readers_share_a_range_and_a_writer_is_alone),
		cmocka_unit_test(a_read_of_what_is_cached_waits_for_no_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
