/* Threads that fight over the same bytes: overlapping requests take turns, whole ones never mix, and flushes, zeroings and a tiny
 * cache in between change nothing. FALLGATE_TEST_OPS = how many per thread. */
#include <pthread.h>
#include <string.h>

#include "rig.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_never_mix),
		cmocka_unit_test(concurrent_flushes_share_one_of_the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
