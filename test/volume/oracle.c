/* Random reads, writes, zeroings, flushes, extents, closes and kills at rest, against an array. FALLGATE_TEST_OPS = how many per
 * geometry. Tiny caches, so that eviction and checkpoints for room run all the time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

struct oracle {
	struct rig rig;
	uint8_t *bytes; /* what a read must return */
	uint8_t *buffer;
	uint64_t size;
	uint64_t random;
};

static uint64_t below(struct oracle *o, uint64_t limit)
{
	return rig_random(&o->random) % limit;
}

/* Mostly small and ragged; now and then large or aligned. */
static void pick(struct oracle *o, uint64_t *size, uint64_t *at)
{
	uint64_t most = below(o, 8) == 0 ? 4u << 20 : below(o, 2) == 0 ? 40000 : 5000;

	*at = below(o, o->size + 1);
	*size = below(o, most);
	if (below(o, 3) == 0) {
		*at -= *at % 4096;
		*size -= *size % 4096;
	}
	if (*size > o->size - *at)
		*size = o->size - *at;
}

static void do_write(struct oracle *o)
{
	uint64_t size, at;

	pick(o, &size, &at);
	rig_noise(o->buffer, size, rig_random(&o->random));
	assert_int_equal(volume_write(o->rig.volume, o->buffer, size, at, below(o, 20) == 0), 0);
	memcpy(o->bytes + at, o->buffer, size);
}

static void do_zero(struct oracle *o)
{
	uint64_t size, at;

	pick(o, &size, &at);
	if (below(o, 6) == 0) {
		size = below(o, o->size + 1);
		at = below(o, o->size - size + 1);
	}
	if (below(o, 100) == 0)
		at = 0, size = o->size;
	assert_int_equal(volume_zero(o->rig.volume, size, at, below(o, 2), below(o, 20) == 0), 0);
	memset(o->bytes + at, 0, size);
}

static void do_read(struct oracle *o)
{
	uint64_t size, at;

	pick(o, &size, &at);
	memset(o->buffer, 0xEE, size);
	assert_int_equal(volume_read(o->rig.volume, o->buffer, size, at), 0);
	assert_memory_equal(o->buffer, o->bytes + at, size);
}

struct cover {
	struct oracle *o;
	uint64_t next;
	bool last, first;
};

static int check_extent(void *context, uint64_t at, uint64_t size, bool zero)
{
	struct cover *c = context;

	assert_int_equal(at, c->next);
	assert_true(size > 0);
	assert_true(c->first || zero != c->last);
	for (uint64_t i = at; zero && i < at + size; i++)
		assert_int_equal(c->o->bytes[i], 0);
	c->next = at + size;
	c->last = zero;
	c->first = false;
	return 0;
}

static void do_extents(struct oracle *o)
{
	struct cover c = { .o = o, .first = true };
	uint64_t size, at;

	pick(o, &size, &at);
	c.next = at;
	assert_int_equal(volume_extents(o->rig.volume, size, at, check_extent, &c), 0);
	assert_int_equal(c.next, at + size);
}

static void do_reopen(struct oracle *o)
{
	if (below(o, 2) == 0) {
		rig_close(&o->rig);
	} else {
		assert_int_equal(volume_flush(o->rig.volume), 0);
		assert_int_equal(block_memory_unflushed(o->rig.dev), 0);
		rig_kill(&o->rig);
	}
	if (below(o, 2) == 0)
		block_memory_cut(o->rig.dev, 0);
	rig_must_open(&o->rig);
}

static void do_one(struct oracle *o)
{
	uint64_t what = below(o, 100);

	if (what < 40)
		do_write(o);
	else if (what < 80)
		do_read(o);
	else if (what < 88)
		do_zero(o);
	else if (what < 96)
		do_extents(o);
	else if (what < 98)
		assert_int_equal(volume_flush(o->rig.volume), 0);
	else if (below(o, 4) == 0)
		do_reopen(o);
}

static void run(uint64_t sectors, unsigned long operations, uint64_t seed)
{
	struct oracle o = { .size = sectors * SECTOR_BYTES, .random = seed };
	struct volume_stats stats;

	o.bytes = calloc(1, o.size);
	o.buffer = malloc(o.size);
	assert_non_null(o.bytes);
	assert_non_null(o.buffer);
	rig_format(&o.rig, o.size);
	o.rig.options.cache_nodes = 64;
	o.rig.options.dirty_nodes_max = 64;
	rig_must_open(&o.rig);
	for (unsigned long i = 0; i < operations; i++)
		do_one(&o);
	for (uint64_t at = 0; at < o.size; at += 1 << 20) {
		uint64_t n = o.size - at < 1 << 20 ? o.size - at : 1 << 20;

		assert_int_equal(volume_read(o.rig.volume, o.buffer, n, at), 0);
		assert_memory_equal(o.buffer, o.bytes + at, n);
	}
	volume_stats(o.rig.volume, &stats);
	assert_int_equal(stats.bad_tags, 0);
	rig_close(&o.rig);
	rig_free(&o.rig);
	free(o.bytes);
	free(o.buffer);
}

static void one_geometry(void **state)
{
	uint64_t sectors = *(const uint64_t *)*state;

	run(sectors, rig_count("FALLGATE_TEST_OPS", 3000), 0x1234567 + sectors + rig_count("FALLGATE_TEST_SEED", 0));
}

int main(void)
{
	static uint64_t sectors[] = { 1, 99, 100, 101, 2500, 10001, 25000 };
	const struct CMUnitTest tests[] = {
		{ "one sector", one_geometry, NULL, NULL, &sectors[0] },
		{ "one short of a leaf", one_geometry, NULL, NULL, &sectors[1] },
		{ "exactly a leaf", one_geometry, NULL, NULL, &sectors[2] },
		{ "one past a leaf", one_geometry, NULL, NULL, &sectors[3] },
		{ "some leaves", one_geometry, NULL, NULL, &sectors[4] },
		{ "one past two levels", one_geometry, NULL, NULL, &sectors[5] },
		{ "more leaves than cache", one_geometry, NULL, NULL, &sectors[6] },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
